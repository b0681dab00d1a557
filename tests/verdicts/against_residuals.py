"""The verdicts of `residuals` at settings that the chapter does not show."""

import pytest
import torch
from adversaries import SEEDS, Tell, numbers
from torch import Tensor

from companion.data import digits, generator
from companion.residuals import Block, Design, degradation, flow, networks
from companion.training import sgd, train

pytestmark = pytest.mark.files("book/residuals.ipynb")


@pytest.mark.claim("R3")
@pytest.mark.parametrize(("width", "rate", "steps"), [(24, 0.007, 20), (32, 0.06, 12)])
def test_plain_networks_train_worse_the_deeper_they_are(
    width: int, rate: float, steps: int, tried: Tell
) -> None:
    options = {"width": width, "learning_rate": rate, "steps": steps, "seeds": SEEDS[:4]}
    plain = degradation([4, 14, 38], ["plain"], progress=False, **options)
    residual = degradation([38], ["residual"], progress=False, **options).loss[0, 0]
    shallow, middle, deep = plain.loss[0]
    powers = plain.gradient_ratio[0, -1].log10()
    tried(
        f"losses of plain ones of 4 {numbers(shallow)}, of 14 {numbers(middle)}, of 38"
        f" {numbers(deep)}; of residual ones of 38 {numbers(residual)}; the plain gradient"
        f" explodes by {numbers(powers, 1)} powers of ten",
        width=width,
        rate=rate,
        steps=steps,
    )
    assert (shallow.max() < middle).all()
    assert deep.min() > residual.max() + 0.3
    assert deep.median() > middle.median()
    assert (powers > 1.0).all()


@pytest.mark.claim("R3")
@pytest.mark.parametrize(
    ("norm", "activation", "explodes"),
    [
        ("batch", "relu", True),
        ("batch", "tanh", True),
        ("layer", "relu", False),  # without batch norm it does not explode
        ("none", "relu", False),
    ],
)
def test_the_plain_gradient_explodes_with_batch_norm(
    norm: str, activation: str, explodes: bool, tried: Tell
) -> None:
    design = Design(
        "plain",
        24,
        width=48,
        branch_layers=2,
        norm=norm,
        activation=activation,
        order="post_activation",
    )
    powers = flow(design, seeds=SEEDS, examples=48).log_norms[:, 0]
    tried(f"powers of ten {numbers(powers, 1)}", norm=norm, activation=activation)
    assert (powers.median() > 1.0) == explodes


@pytest.mark.claim("R3")
def test_residual_networks_of_more_than_a_hundred_layers_begin_to_learn(tried: Tell) -> None:
    found = degradation(
        [122],
        ["residual"],
        width=16,
        order="pre_activation",
        learning_rate=0.03,
        steps=15,
        seeds=SEEDS[:2],
        progress=False,
    ).loss
    tried(f"losses {numbers(found)}", layers=122, rate=0.03, steps=15)
    assert (found < 2.2).all()


@pytest.mark.claim("R1")
@pytest.mark.parametrize(
    ("width", "activation", "norm", "dtype", "bound"),
    [
        (48, "tanh", "none", torch.float64, 1e-13),
        (16, "relu", "layer", torch.float64, 1e-13),
        (48, "sigmoid", "none", torch.float32, 1e-5),
    ],
)
def test_the_jacobian_is_the_branchs_plus_the_identity(
    width: int, activation: str, norm: str, dtype: torch.dtype, bound: float, tried: Tell
) -> None:
    design = Design(
        "residual",
        1,
        width=width,
        branch_layers=2,
        activation=activation,
        norm=norm,
        order="pre_activation",
    )
    block = networks(design, seeds=[100])[0].to(dtype)
    only = next(each for each in block.modules() if isinstance(each, Block))
    x = torch.randn(width, generator=generator(100), dtype=torch.float64).to(dtype)
    whole = torch.autograd.functional.jacobian(lambda x: block(x[None])[0], x)
    small = 1e-5 if dtype == torch.float64 else 1e-2
    shifts = small * torch.eye(width, dtype=dtype)
    numeric = (block(x + shifts) - block(x - shifts)).T.detach() / (2 * small)
    branch = torch.autograd.functional.jacobian(lambda x: only.residual(x[None])[0], x)
    exact = (whole - branch - torch.eye(width, dtype=dtype)).abs().max().item()
    off = ((whole - numeric).norm() / whole.norm()).item()
    tried(
        f"off by {exact:.0e}, from differences by {off:.0e}",
        width=width,
        activation=activation,
        norm=norm,
        dtype=dtype,
    )
    assert exact < bound
    assert off < (1e-8 if dtype == torch.float64 else 1e-2)


def kept(blocks: int, size: float, push: str, width: int = 24) -> Tensor:
    """Return what tanh branches of that slope leave of a gradient, for each of six networks."""
    left = []
    for seed in SEEDS:
        draw = generator(seed)
        x = torch.zeros(width, dtype=torch.float64, requires_grad=True)
        y = x
        for _ in range(blocks):
            W = torch.randn(width, width, generator=draw, dtype=torch.float64)
            sign = {"against": -1.0, "along": 1.0}.get(push)
            W = (
                W / torch.linalg.matrix_norm(W, 2)
                if sign is None
                else sign * torch.eye(width).double()
            )
            y = y + size * (W @ y).tanh()
        g = torch.randn(width, generator=draw, dtype=torch.float64)
        left.append((torch.autograd.grad(y, x, g)[0].norm() / g.norm()).item())
    return torch.tensor(left)


@pytest.mark.claim("R2")
@pytest.mark.parametrize(("blocks", "size"), [(50, 0.004), (10, 0.02), (200, 0.001)])
def test_small_branches_leave_the_gradient(blocks: int, size: float, tried: Tell) -> None:
    left = torch.stack([kept(blocks, size, push) for push in ("against", "along", "at random")])
    tried(f"{left.min():.3f} to {left.max():.3f} is left", blocks=blocks, size=size)
    assert (left > 0.8).all()
    assert left.max() < 1.25


@pytest.mark.claim("R2")
@pytest.mark.parametrize(("blocks", "size"), [(12, 0.9), (40, 0.5)])
def test_large_branches_make_it_vanish_or_explode(blocks: int, size: float, tried: Tell) -> None:
    against, along = kept(blocks, size, "against"), kept(blocks, size, "along")
    tried(f"{against.max():.0e} and {along.min():.0e} is left", blocks=blocks, size=size)
    assert (against < 1e-10).all()
    assert (along > 1e3).all()


def highway(depth: int, width: int, bias: float) -> Design:
    return Design(
        "highway",
        depth,
        width=width,
        branch_layers=1,
        activation="tanh",
        weight_variance=1.0,
        gate_bias=bias,
    )


@pytest.mark.claim("R4")
@pytest.mark.parametrize(
    ("depth", "width", "rate", "steps"), [(14, 24, 0.03, 60), (10, 16, 0.3, 30)]
)
def test_highways_learn_if_the_gate_starts_nearly_shut(
    depth: int, width: int, rate: float, steps: int, tried: Tell
) -> None:
    share, lost = [], []
    for bias in (-3.0, 0.0, 3.0):
        design = highway(depth, width, bias)
        run = train(
            networks(design, inputs=64, outputs=10, seeds=SEEDS),
            digits(),
            optimizer=sgd(rate, momentum=0.9),
            steps=steps,
            batch_size=64,
            record_every=steps,
            progress=False,
        )
        share.append(run.test_accuracy[-1])
        lost.append(-flow(design, seeds=SEEDS).log_norms[:, 0].median())
    tried(
        "; ".join(
            f"at {bias} {numbers(each)} named, {powers:.1f} powers of ten lost"
            for bias, each, powers in zip((-3, 0, 3), share, lost, strict=True)
        ),
        depth=depth,
        width=width,
        rate=rate,
        steps=steps,
    )
    assert (share[0] > 0.5).all()
    assert share[0].min() > max(share[1].max(), share[2].max())
    if rate > 0.1:  # at three times the rate +3 comes no better off than 0
        assert share[2].median() < share[1].median() + 0.1
    else:  # at a third of it most networks with +3 read more than half of the digits
        assert (share[2] > 0.5).sum() > 3
        assert (share[1] < 0.3).all()
    assert lost[0] < lost[2] < lost[1]
