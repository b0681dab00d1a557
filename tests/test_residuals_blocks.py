"""Blocks against their formulas written out, first weights, and the degradation experiment."""

import math

import pytest
import torch
from helpers import four_errors, normal, reproducible, same
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from companion import training
from companion.data import digits
from companion.residuals import KINDS, ORDERS, Block, Design, degradation, networks

DESIGNS = [
    (kind, order, norm)
    for kind in KINDS
    for order in ORDERS
    for norm in ("none", "batch", "layer")
    if norm == "none" or kind not in ("fixup", "highway")
]


def shaken(model: nn.Module) -> nn.Module:
    """Numbers of order one everywhere, so that nothing is 0 or 1 by its first value."""
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            size = parameter.shape[-1] if parameter.dim() > 1 else 1
            parameter.copy_(normal(*parameter.shape, seed=100 + index) / math.sqrt(size))
    return model


def by_hand(block: Block, x: Tensor) -> Tensor:
    """The block's formula, written out for each order with its own loop."""
    design, phi = block.design, torch.tanh
    weights = [m.weight for m in block.branch if isinstance(m, nn.Linear)]
    norms = iter([m for m in block.branch if isinstance(m, nn.BatchNorm1d | nn.LayerNorm)])
    shifts = iter([m.bias for m in block.branch if not list(m.children()) and _is_shift(m)])

    def norm(a: Tensor) -> Tensor:
        if design.norm == "none":
            return a
        layer, dim = next(norms), 0 if design.norm == "batch" else -1
        centred = a - a.mean(dim, keepdim=True)
        a = centred / (centred.square().mean(dim, keepdim=True) + 1e-5).sqrt()
        return layer.weight * a + layer.bias

    def shift() -> Tensor | float:
        return next(shifts, 0.0)

    f = x
    if design.kind == "highway":
        for weight in weights:
            f = phi(f @ weight.T)
        gate = 1 / (1 + torch.exp(-(x @ block.gate.weight.T + block.gate.bias)))
        return f * gate + x * (1 - gate)
    if design.order == "pre_activation":
        for weight in weights:
            f = (phi(norm(f) + shift()) + shift()) @ weight.T
    elif design.order == "weight_first":
        f = (norm(f) + shift()) @ weights[0].T
        for weight in weights[1:]:
            f = (phi(f + shift()) + shift()) @ weight.T
    else:
        f = norm((f + shift()) @ weights[0].T)
        for weight in weights[1:]:
            f = norm((phi(f + shift()) + shift()) @ weight.T)
    if design.kind == "fixup":
        f = block.multiplier * f + block.shift.bias
    elif design.kind in ("rezero", "skipinit"):
        f = block.multiplier * f
    y = f if design.kind == "plain" else x + design.scale * f if design.scale else x + f
    return phi(y) if design.order == "post_activation" else y


def _is_shift(module: nn.Module) -> bool:
    return [name for name, _ in module.named_parameters()] == ["bias"]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("kind", "order", "norm"), DESIGNS)
def test_blocks_are_their_formulas(kind: str, order: str, norm: str, layers: int) -> None:
    scale = 0.3 if kind == "residual" else 1.0
    design = Design(
        kind, 2, width=5, branch_layers=layers, hidden=7, activation="tanh", norm=norm,
        order=order, branch_scale=scale,
    )  # fmt: skip
    (model,) = networks(design)
    (block, _), x = shaken(model).blocks, 2 * normal(6, 5) + 1
    same(block(x).detach(), by_hand(block, x).detach())
    assert [m.weight.shape for m in block.branch if isinstance(m, nn.Linear)] == (
        [(5, 5)] if layers == 1 else [(7, 5), *[(7, 7)] * (layers - 2), (5, 7)]
    )


@pytest.mark.parametrize(("kind", "order", "norm"), DESIGNS)
def test_stacks_train_with_a_first_and_a_last_layer(kind: str, order: str, norm: str) -> None:
    design = Design(kind, 2, width=16, norm=norm, order=order)
    models = networks(design, inputs=64, outputs=10, seeds=1)
    record = training.train(
        models, digits(), optimizer=training.adam(0.01), steps=20, record_every=20, progress=False
    )
    assert (record.loss[-1] < 0.8 * record.loss[0]).all()
    (first, *_), last = models[0].blocks, models[0].last
    assert sum(isinstance(m, nn.Linear) for m in models[0].modules()) == (
        6 + (2 if kind == "highway" else 0)
    )
    # What a branch would have first stands before the last layer too.
    ahead = [type(m) for m in last[:-1]]
    if order == "post_activation" or kind == "highway":
        assert ahead == []
    else:
        expected = [type(m) for m in first.branch if not _is_shift(m)]
        assert ahead == expected[: expected.index(nn.Linear)]


# ---------------------------------------------------------------- first weights


@pytest.mark.breaks(
    "companion/residuals/blocks.py",
    "scale=variance, generator=generator)",
    'scale=variance, mode="fan_out", generator=generator)',
)
def test_weights_have_variance_over_fan_in() -> None:
    design = Design("residual", 3, width=50, hidden=200, branch_layers=3, weight_variance=1.7)
    models = networks(design, inputs=20, outputs=8, seeds=10)
    for index, fan_in in enumerate((50, 200, 200)):
        draws = torch.cat(
            [
                [m for m in block.branch if isinstance(m, nn.Linear)][index].weight.flatten()
                for model in models
                for block in model.blocks
            ]
        ).detach()
        squares = fan_in * draws.square()
        assert abs(squares.mean().item() - 1.7) < four_errors(squares) < 0.06
    for layer, fan_in in ((lambda m: m.first, 20), (lambda m: m.last[-1], 50)):
        squares = fan_in * torch.cat([layer(m).weight.flatten() for m in models]).square()
        assert abs(squares.mean().item() - 1) < four_errors(squares) < 0.15


def test_a_seed_gives_the_same_stack_whatever_else_is_drawn() -> None:
    design = Design("highway", 2, width=6)
    (alone,), both = networks(design, seeds=[7]), networks(design, seeds=[3, 7])
    for one, other in zip(alone.parameters(), both[1].parameters(), strict=True):
        assert torch.equal(one, other)
    state = torch.random.get_rng_state()
    networks(design, inputs=3, outputs=4)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.breaks(
    "companion/residuals/blocks.py",
    "design.depth ** (-1 / (2 * design.branch_layers - 2))",
    "design.depth ** (-1 / (2 * design.branch_layers))",
)
@pytest.mark.parametrize("layers", [2, 3])
def test_fixup_scales_its_first_weights_and_ends_in_zeros(layers: int) -> None:
    plain, fixup = (
        networks(Design(kind, 16, width=6, branch_layers=layers))[0].blocks[0].branch
        for kind in ("residual", "fixup")
    )
    weights = [[m.weight for m in b if isinstance(m, nn.Linear)] for b in (plain, fixup)]
    # Zhang, Dauphin & Ma: L to the power −1/(2m − 2): a quarter for m = 2 and L = 16.
    factor = {2: 1 / 4, 3: 1 / 2}[layers]
    for ordinary, scaled in zip(weights[0][:-1], weights[1][:-1], strict=True):
        same(scaled.detach(), factor * ordinary.detach())
    assert (weights[1][-1] == 0).all()
    model = networks(Design("fixup", 3, width=6), outputs=4)[0]
    assert (model.last[-1].weight == 0).all()


@pytest.mark.breaks(
    "companion/residuals/blocks.py", 'learned = {"rezero": 0.0,', 'learned = {"rezero": 1.0,'
)
@pytest.mark.parametrize("kind", ["rezero", "skipinit", "fixup"])
def test_stacks_that_start_as_the_identity_can_leave_it(kind: str) -> None:
    (model,), x = networks(Design(kind, 4, width=6)), normal(5, 6)
    assert torch.equal(model(x), x)
    model(x).pow(3).sum().backward()
    moving = [name for name, p in model.named_parameters() if p.grad.abs().max() > 0]
    # One step moves every block's multiplier, or its last weight: the others follow.
    ends = "branch.5.weight" if kind == "fixup" else "multiplier"
    if kind == "fixup":
        ends = [n for n, _ in model.blocks[0].named_parameters() if "weight" in n][-1]
    assert {f"blocks.{i}.{ends}" for i in range(4)} <= set(moving)


def test_fixups_stream_is_identity_plus_its_learned_shift() -> None:
    (model,), x = networks(Design("fixup", 1, width=4)), normal(3, 4)
    with torch.no_grad():
        model.blocks[0].shift.bias.fill_(0.5)
    same(model(x).detach(), x + 0.5)


def test_the_scales_that_have_names() -> None:
    for name, expected in (("1/sqrt(depth)", 0.25), ("1/depth", 1 / 16), (0.3, 0.3), (-1, -1.0)):
        assert Design("residual", 16, branch_scale=name).scale == pytest.approx(expected)
    assert Design("rezero", 16).scale == 0
    assert Design("plain", 16).scale == 1


@pytest.mark.breaks(
    "companion/residuals/blocks.py",
    "return g * self.branch(x) + (1 - g) * x",
    "return (1 - g) * self.branch(x) + g * x",
)
@given(st.floats(-1, 1))
@reproducible
def test_a_gate_of_a_large_bias_is_open_or_shut(nudge: float) -> None:
    x = normal(4, 6)
    shut, open_ = (
        networks(Design("highway", 1, width=6, activation="tanh", gate_bias=sign * 40 + nudge))[0]
        for sign in (-1, 1)
    )
    # A negative bias lets x pass: the gate lets F through where it is 1.
    assert (shut(x) - x).abs().max() < 1e-12
    assert (open_(x) - open_.blocks[0].branch(x)).abs().max() < 1e-12
    assert (open_(x) - x).abs().max() > 0.1


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kind": "dense"}, ValueError, "kind must be one of .*'plain'.*got 'dense'"),
        ({"depth": 0}, ValueError, "depth must be at least 1, got 0"),
        ({"depth": 2.5}, TypeError, "depth must be a whole number"),
        ({"width": 0}, ValueError, "width must be at least 1, got 0"),
        ({"branch_layers": 0}, ValueError, "branch_layers must be at least 1"),
        ({"hidden": 0}, ValueError, "hidden must be at least 1, got 0"),
        ({"norm": "group"}, ValueError, "norm must be one of"),
        ({"order": "after"}, ValueError, "order must be one of"),
        ({"activation": "step"}, ValueError, "activation"),
        ({"weight_variance": -1.0}, ValueError, "weight_variance must be finite and at least 0"),
        ({"branch_scale": math.nan}, ValueError, "branch_scale must be finite, got nan"),
        ({"branch_scale": "depth"}, ValueError, "branch_scale must be one of"),
        ({"branch_scale": None}, TypeError, "branch_scale must be a number, got None"),
        ({"gate_bias": math.inf}, ValueError, "gate_bias must be finite, got inf"),
        ({"gate_bias": "low"}, TypeError, "gate_bias must be a number, got 'low'"),
        ({"kind": "plain", "branch_scale": 0.5}, ValueError, "is for a residual stack, got 0.5"),
        ({"kind": "highway", "norm": "batch"}, ValueError, "a highway stack has no norm"),
        ({"kind": "fixup", "norm": "layer"}, ValueError, "a fixup stack has no norm"),
    ],
)
def test_bad_designs_are_refused(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Design(**({"kind": "residual", "depth": 2} | change))


def test_bad_sizes_and_seeds_are_refused() -> None:
    design = Design("residual", 1)
    with pytest.raises(ValueError, match="inputs must be at least 1, got 0"):
        networks(design, inputs=0)
    with pytest.raises(ValueError, match="outputs must be at least 1, got -2"):
        networks(design, outputs=-2)
    with pytest.raises(ValueError, match="seeds"):
        networks(design, seeds=[])


# ---------------------------------------------------------------- degradation


@pytest.mark.breaks(
    "companion/residuals/blocks.py",
    "data = data._replace(test_inputs=data.train_inputs, test_targets=data.train_targets)",
    "data = data._replace(test_targets=data.test_targets)",
)
def test_degradation_trains_and_scores_as_it_says() -> None:
    data = digits()
    small = data._replace(train_inputs=data.train_inputs[:60], train_targets=torch.arange(60) % 10)
    found = degradation(
        [4, 6], ("residual", "plain"), width=8, norm="layer", order="pre_activation", data=small,
        learning_rate=0.1, momentum=0.5, steps=3, batch_size=None, seeds=[5, 6], progress=False,
    )  # fmt: skip
    assert found.kinds == ("residual", "plain")
    assert found.layers == (4, 6)
    x, y = small.train_inputs, small.train_targets
    for row, kind in enumerate(found.kinds):
        for column, blocks in enumerate((1, 2)):
            design = Design(kind, blocks, width=8, norm="layer")
            model = networks(design, inputs=64, outputs=10, seeds=[6])[0]
            deltas = []
            for layer in (model.first, model.last[-1]):
                layer.register_forward_hook(
                    lambda _m, _i, out, deltas=deltas: (
                        out.register_hook(lambda g: deltas.append(g.norm().item())) and None
                    )
                )
            update = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
            for _ in range(3):
                update.zero_grad()
                functional.cross_entropy(model(x), y).backward()
                update.step()
            last, first = deltas[:2]
            ratio = found.gradient_ratio[row, column, 1].item()
            assert ratio == pytest.approx(first / last, rel=1e-9)
            loss = functional.cross_entropy(model(x), y).item()
            assert found.loss[row, column, 1].item() == pytest.approx(loss, rel=1e-9)


def test_degradation_wants_whole_blocks() -> None:
    for layers in ([5], [2], [4, 7]):
        with pytest.raises(ValueError, match=f"2 more than a multiple of 2, got {layers[-1]}"):
            degradation(layers, ("plain",), width=4, steps=1, seeds=1, progress=False)
