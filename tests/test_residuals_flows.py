"""The stream through a stack: against autograd, and theory against measurement and closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import four_errors, normal, reproducible, same, within
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from companion import meanfield
from companion.normalization import explosion
from companion.residuals import KINDS, Design, block_growth, flow, flow_of, networks, predicted_flow

# ---------------------------------------------------------------- measured


@pytest.mark.breaks(
    "companion/residuals/flows.py", "gradient / gradient[:, -1:]", "gradient / gradient[:, :1]"
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_flow_is_autograds(kind: str) -> None:
    models = networks(Design(kind, 3, width=6, activation="tanh"), seeds=2)
    inputs, output_gradients = normal(2, 4, 6, seed=1), normal(2, 4, 6, seed=2)
    found = flow_of(models, inputs, output_gradients)
    for index, model in enumerate(models):
        x = inputs[index].clone().requires_grad_()
        stream = [x]
        for block in model.blocks:
            stream.append(block(stream[-1]))
        gradients = torch.autograd.grad(stream[-1], stream, output_gradients[index])
        squares = torch.stack([(g**2).sum() for g in gradients])
        same(found.squared_gradients[index], squares / squares[-1])
        same(found.mean_squares[index], torch.stack([(a**2).mean() for a in stream]).detach())
        same(found.log_norms[index], (squares / squares[-1]).sqrt().log10())


def test_the_same_seed_draws_the_same_flow_and_leaves_inputs_to_their_own() -> None:
    design = Design("residual", 2, width=8)
    both, alone = flow(design, seeds=[3, 9], examples=5), flow(design, seeds=[9], examples=5)
    for one, other in zip(both, alone, strict=True):
        same(one[1:], other)
    louder = flow(design, seeds=[9], examples=5, input_mean_square=4.0)
    same(louder.mean_squares, 4 * alone.mean_squares)  # ReLU keeps a scale
    assert not torch.allclose(both.mean_squares[0], both.mean_squares[1])


def test_inputs_of_another_shape_are_refused() -> None:
    models = networks(Design("residual", 1, width=4), seeds=2)
    with pytest.raises(ValueError, match=r"inputs needs shape \(2, examples, width\), got \(3, 4"):
        flow_of(models, normal(3, 4), normal(2, 3, 4))
    with pytest.raises(ValueError, match="output_gradients needs shape"):
        flow_of(models, normal(2, 3, 4), normal(1, 3, 4))
    with pytest.raises(TypeError, match="inputs must be a floating-point tensor"):
        flow_of(models, torch.ones(2, 3, 4, dtype=torch.int64), normal(2, 3, 4))
    with pytest.raises(ValueError, match="examples must be at least 1, got 0"):
        flow(Design("residual", 1), examples=0)


# ---------------------------------------------------------------- predicted, in closed form


def test_the_closed_forms_that_are_known() -> None:
    for depth in (1, 5, 20):
        ends = {
            2.0**depth: Design("residual", depth, branch_layers=1),
            3.0**depth: Design("residual", depth, order="weight_first"),
            (1 + 1 / depth) ** depth: Design("residual", depth, branch_scale="1/sqrt(depth)"),
            (1 + 1 / depth**2) ** depth: Design("residual", depth, branch_scale="1/depth"),
            1.0: Design("rezero", depth),
        }
        for expected, design in ends.items():
            found = predicted_flow(design)
            assert found.mean_squares[-1].item() == pytest.approx(expected, rel=1e-9)
            assert found.squared_gradients[0].item() == pytest.approx(expected, rel=1e-9)
        for norm, each in (("layer", 1.0), ("batch", 1 - 1 / math.pi)):
            found = predicted_flow(Design("residual", depth, branch_layers=1, norm=norm))
            squares = 1 + each * torch.arange(depth + 1, dtype=torch.float64)
            # Of the gradient only what the norm has not divided by the stream's growing root.
            gain = math.prod(1 + 1 / q for q in squares[:-1].tolist())
            assert found.squared_gradients[0].item() == pytest.approx(gain, rel=1e-9)
            shared = 1 + torch.arange(depth + 1, dtype=torch.float64)
            same(found.mean_squares, shared)  # the branches' means over the batch are signal too
    assert predicted_flow(Design("fixup", 3)).squared_gradients.tolist() == [1.0] * 4


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_plain_stacks_are_what_other_modules_predict(activation: str) -> None:
    variance, depth = 1.6, 6
    design = Design(
        "plain", depth, branch_layers=1, activation=activation, weight_variance=variance
    )
    found = predicted_flow(design, input_mean_square=0.7)
    q, expected = 0.7, [0.7]
    for _ in range(depth):
        q = meanfield.length_map(q, activation, variance)
        expected.append(q)
    assert found.mean_squares.tolist() == pytest.approx(expected, rel=1e-9)
    factors = [meanfield.chi(q, activation, variance) for q in expected[:-1]]
    assert found.squared_gradients[0].item() == pytest.approx(math.prod(factors), rel=1e-9)
    for norm in ("batch", "layer"):
        deep = predicted_flow(replace(design, norm=norm, depth=9)).squared_gradients
        rate = explosion.explosion_rate(activation, norm=norm)
        assert (deep[2] / deep[3]).item() == pytest.approx(rate, rel=1e-9)


@pytest.mark.breaks(
    "companion/meanfield/steps.py",
    "back=lambda g: self.back(g.scaled(by**2))",
    "back=lambda g: self.back(g.scaled(abs(by)))",
)
@given(
    st.sampled_from(["relu", "tanh", "identity", "leaky_relu"]),
    st.integers(1, 3),
    st.floats(0.1, 3),
    st.floats(-2, 2),
    st.sampled_from(["pre_activation", "weight_first"]),
)
@reproducible
def test_a_residual_block_adds_its_branch(
    activation: str, layers: int, variance: float, scale: float, order: str
) -> None:
    branch = Design(
        "plain", 1, branch_layers=layers, activation=activation, weight_variance=variance,
        order=order,
    )  # fmt: skip
    alone = predicted_flow(branch)
    found = predicted_flow(replace(branch, kind="residual", branch_scale=scale))
    for with_skip, without in zip(found, alone, strict=True):
        part = without[1] if without is alone.mean_squares else without[0]
        total = with_skip[1] if without is alone.mean_squares else with_skip[0]
        assert total.item() == pytest.approx(1 + scale**2 * part.item(), rel=1e-9)


@pytest.mark.parametrize("bias", [-30.0, 30.0])
def test_a_highway_is_its_branch_or_nothing(bias: float) -> None:
    found = predicted_flow(Design("highway", 4, activation="tanh", gate_bias=bias))
    if bias < 0:
        same(torch.stack(found), torch.ones(2, 5, dtype=torch.float64))
    else:
        # tanh after every weight layer: eight of them, from a stream of variance 1.
        q = 1.0
        for _ in range(8):
            q = meanfield.gaussian_mean(lambda z: torch.tanh(z) ** 2, 2.0 * q)
        assert found.mean_squares[-1].item() == pytest.approx(q, rel=1e-9)


def test_what_has_no_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="not normal: no prediction"):
        predicted_flow(Design("residual", 2, order="post_activation"))
    with pytest.raises(ValueError, match="constant: it has no prediction"):
        predicted_flow(Design("plain", 2, norm="batch", weight_variance=0.0))
    with pytest.raises(ValueError, match="input_mean_square must be finite and at least 0"):
        predicted_flow(Design("residual", 2), input_mean_square=-1.0)


# ---------------------------------------------------------------- predicted against measured

WIDTH, EXAMPLES = 160, 96


def near(sample: Tensor, expected: float, design: Design) -> bool:
    """To four standard errors, and what width and batch are short of infinity, block by block."""
    short = design.depth * (2 / design.width + (4 / EXAMPLES if design.norm == "batch" else 0))
    return abs(sample.mean().item() - expected) <= four_errors(sample) + short * expected


PREDICTED = [
    Design("residual", 4, width=WIDTH, branch_layers=1),
    Design("residual", 4, width=WIDTH, branch_layers=2, hidden=60, order="weight_first"),
    Design(
        "residual",
        4,
        width=WIDTH,
        branch_layers=3,
        activation="tanh",
        weight_variance=1.5,
        branch_scale=0.7,
    ),
    Design("residual", 6, width=WIDTH, branch_layers=1, norm="layer", branch_scale=1.3),
    Design(
        "residual",
        6,
        width=WIDTH,
        branch_layers=2,
        norm="layer",
        order="weight_first",
        activation="tanh",
    ),
    Design("residual", 5, width=WIDTH, branch_layers=1, norm="batch"),
    Design(
        "residual", 5, width=WIDTH, branch_layers=2, hidden=90, norm="batch", order="weight_first"
    ),
    Design("residual", 8, width=WIDTH, branch_layers=2, branch_scale="1/sqrt(depth)"),
    Design("plain", 5, width=WIDTH, branch_layers=1, norm="batch", order="post_activation"),
    Design("plain", 4, width=WIDTH, branch_layers=2, hidden=90, norm="layer"),
    Design("highway", 6, width=WIDTH, branch_layers=1, activation="tanh", gate_bias=-2.0),
    Design("highway", 6, width=WIDTH, branch_layers=1, activation="tanh", gate_bias=1.0),
    Design(
        "highway", 6, width=WIDTH, branch_layers=2, hidden=90, activation="relu", gate_bias=-1.0
    ),
]


@pytest.mark.breaks(
    "companion/residuals/blocks.py",
    "generator, bias=design.gate_bias)",
    "generator, bias=-design.gate_bias)",
    case="highway-pre_activation-none0",
)
@pytest.mark.breaks(
    "companion/residuals/flows.py",
    "beside = kept + of_gate(lambda g: (g * (1 - g)) ** 2) * apart",
    "beside = kept",
    case="highway-pre_activation-none1",
)
@pytest.mark.parametrize("design", PREDICTED, ids=lambda d: f"{d.kind}-{d.order}-{d.norm}")
def test_stacks_do_what_is_predicted(design: Design) -> None:
    found = flow(design, seeds=12, examples=EXAMPLES, input_mean_square=1.2)
    expected = predicted_flow(design, input_mean_square=1.2)
    for place in (-1, design.depth // 2):
        assert near(found.mean_squares[:, place], expected.mean_squares[place].item(), design)
    for place in (0, design.depth // 2):
        gradient = found.squared_gradients[:, place]
        assert near(gradient, expected.squared_gradients[place].item(), design)
    # Errors small enough to tell a factor of 1.5 from 1.
    assert four_errors(found.squared_gradients[:, 0].log()) < 0.4


# ---------------------------------------------------------------- exact at any width


@pytest.mark.breaks(
    "companion/residuals/flows.py",
    "whole = 1 + (2 * width + 4) * mean",
    "whole = 1 + 2 * width * mean",
)
@pytest.mark.parametrize(
    "design",
    [
        Design("residual", 1, width=12, order="weight_first"),
        Design(
            "residual",
            1,
            width=12,
            branch_layers=3,
            hidden=7,
            order="weight_first",
            branch_scale=0.6,
        ),
        Design("residual", 1, width=9, branch_layers=1, order="weight_first", weight_variance=0.8),
        Design(
            "residual", 1, width=10, branch_layers=2, order="weight_first", activation="identity"
        ),
    ],
    ids=lambda d: f"{d.branch_layers}-{d.activation}",
)
def test_growth_of_a_block_is_exact_in_narrow_stacks(design: Design) -> None:
    found = flow(design, seeds=700, examples=1).mean_squares
    factor = found[:, 1] / found[:, 0]
    growth = block_growth(design)
    assert within(factor, growth.mean)
    assert within((factor - growth.mean) ** 2, growth.variance)
    assert four_errors(factor) < 0.3 * growth.mean
    wide = predicted_flow(design).mean_squares[-1].item()
    assert growth.mean == pytest.approx(wide, rel=1e-9)


def test_factors_of_several_blocks_are_independent() -> None:
    design = Design("residual", 3, width=12, order="weight_first")
    found = flow(design, seeds=500, examples=1).mean_squares
    factors = found[:, 1:] / found[:, :-1]
    growth = block_growth(design)
    assert within(factors[:, 0] * factors[:, 1] * factors[:, 2], growth.mean**3)
    centred = factors - growth.mean
    assert within(centred[:, 0] * centred[:, 1], 0.0)
    assert within(centred[:, 2] ** 2, growth.variance)


@pytest.mark.breaks(
    "companion/activations/functions.py", "3 * phi.function(z), rtol", "phi.function(3 * z), rtol"
)
def test_growth_is_of_scale_free_branches_alone() -> None:
    for change in ({"kind": "plain"}, {"order": "pre_activation"}, {"norm": "layer"}):
        design = Design(**({"kind": "residual", "depth": 1, "order": "weight_first"} | change))
        with pytest.raises(ValueError, match="must be residual, weight_first and without a norm"):
            block_growth(design)
    with pytest.raises(ValueError, match=r"activation must have φ\(cz\) = cφ\(z\).*got tanh"):
        block_growth(Design("residual", 1, order="weight_first", activation="tanh"))
