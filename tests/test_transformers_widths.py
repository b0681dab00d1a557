"""μP's rates and first weights against its table, and how far steps move layers at each width."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import normal, reproducible, same
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from companion import backprop
from companion.data import Split, digits
from companion.transformers import (
    Design,
    coordinate_check,
    mup_groups,
    mup_rates,
    mup_start_,
    networks,
)


def mlp(width: int) -> nn.Sequential:
    """Of as many inputs as a narrow one has units: the shapes of one do not tell which is which."""
    return nn.Sequential(
        nn.Linear(64, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 4 * width),
        nn.ReLU(), nn.Linear(4 * width, width, bias=False), nn.Linear(width, 10),
    )  # fmt: skip


def transformer(width: int, seeds: int | list[int] = 1) -> list[nn.Module]:
    design = Design("pre", 1, width=width, hidden=2 * width, gate=1.0, scheme="unit")
    return networks(design, tokens=8, features=8, outputs=10, seeds=seeds)


# ---------------------------------------------------------------- the table


@pytest.mark.breaks(
    "companion/transformers/widths.py",
    "rate * base.in_features / layer.in_features",
    "rate * base.out_features / layer.out_features",
)
@pytest.mark.breaks(
    "companion/transformers/widths.py",
    "rate * base.in_features / layer.in_features",
    "rate * layer.in_features / base.in_features",
)
@pytest.mark.breaks(
    "companion/transformers/widths.py",
    "rate * base.in_features / layer.in_features",
    "rate * math.sqrt(base.in_features / layer.in_features)",
)
@pytest.mark.breaks(
    "companion/transformers/widths.py",
    "rate * base.in_features / layer.in_features",
    "rate / layer.in_features",
)
def test_rates_are_those_of_the_table() -> None:
    rates = mup_rates(mlp(256), mlp(64), learning_rate=0.02)
    assert list(rates) == [name for name, _ in mlp(256).named_parameters()]
    hidden = {"3.weight", "5.weight", "6.weight"}
    assert rates == {name: 0.005 if name in hidden else 0.02 for name in rates}
    # What is narrower than the base has larger ones.
    assert mup_rates(mlp(32), mlp(64), learning_rate=0.02)["3.weight"] == 0.04


@pytest.mark.breaks("companion/transformers/widths.py", '.removeprefix(".")] = rate', "] = rate")
def test_a_transformer_and_a_single_layer() -> None:
    added = ("positions", "gate")
    rates = mup_rates(transformer(48)[0], transformer(16)[0], learning_rate=0.3, added=added)
    slow = {name for name, rate in rates.items() if rate == pytest.approx(0.1)}
    parts = ["0.branch.query", "0.branch.key", "0.branch.value", "0.branch.end"]
    parts += ["1.branch.begin", "1.branch.end"]
    assert slow == {f"sublayers.{part}.weight" for part in parts} | {"read.weight"}
    assert all(rate == 0.3 for name, rate in rates.items() if name not in slow)
    found = mup_rates(nn.Linear(8, 3), nn.Linear(4, 3), learning_rate=0.2)
    assert found == {"weight": 0.1, "bias": 0.2}


@pytest.mark.breaks("companion/transformers/widths.py", "if own == rate]", "if own <= rate]")
def test_groups_hold_each_parameter_once_with_its_rate() -> None:
    model, narrow = mlp(128), mlp(64)
    update = torch.optim.Adam(mup_groups(model, narrow, learning_rate=0.02))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    update.step()
    for name, rate in mup_rates(model, narrow, learning_rate=0.02).items():
        moved = start[name] - dict(model.named_parameters())[name].detach()
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-3, atol=1e-6)


@pytest.mark.breaks(
    "companion/transformers/widths.py",
    "if layer.out_features == base.out_features",
    "if layer.in_features != base.in_features",
)
@pytest.mark.breaks(
    "companion/transformers/widths.py",
    "mul_(math.sqrt(base.in_features / layer.in_features))",
    "mul_(base.in_features / layer.in_features)",
)
@pytest.mark.breaks(
    "companion/transformers/widths.py",
    "mul_(math.sqrt(base.in_features / layer.in_features))",
    "mul_(math.sqrt(layer.in_features / base.in_features))",
)
def test_only_the_last_weights_start_smaller() -> None:
    model = mlp(256)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    mup_start_(model, mlp(64))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name] / 2 if name == "6.weight" else before[name])


@reproducible
@given(width=st.integers(1, 40), base=st.integers(1, 40), rate=st.floats(0, 10))
def test_a_step_of_a_hidden_layer_moves_alike_at_each_width(
    width: int, base: int, rate: float
) -> None:
    """Rates times fan_in is what Adam can move a unit by, with inputs of 1."""
    rates = mup_rates(mlp(width), mlp(base), learning_rate=rate)
    assert rates["3.weight"] * width == pytest.approx(rate * base)
    assert rates["5.weight"] * 4 * width == pytest.approx(rate * 4 * base)
    assert rates["0.weight"] == rate


# ---------------------------------------------------------------- measured


def make(width: int, seeds: list[int]) -> list[nn.Sequential]:
    return backprop.classifiers("relu", 2.0, 4, width=width, seeds=seeds)


@pytest.mark.breaks(
    "companion/transformers/widths.py", "_rated_adam(rates), ", "_rated_adam([rate] * len(rates)), "
)
@pytest.mark.breaks(
    "companion/transformers/widths.py", "mup_start_(model, narrow[0], added=added)", "pass"
)
@pytest.mark.breaks("companion/transformers/widths.py", "after[name] - before[name]", "after[name]")
@pytest.mark.breaks(
    "companion/transformers/widths.py",
    "each.square().mean(1).sqrt()",
    "each.square().sum(1).sqrt()",
)
def test_the_changes_are_those_of_models_trained_alone() -> None:
    data = digits()
    options = {"widths": [8, 16], "learning_rate": 1e-3, "base_width": 8, "batch_size": 6}
    found = coordinate_check(make, data, steps=2, seeds=[3, 5], **options)
    assert found.layers == ("0", "2", "4", "6")
    for at, seed in enumerate((3, 5)):
        (model,), (narrow,) = make(16, [seed]), make(8, [seed])
        mup_start_(model, narrow)
        update = torch.optim.Adam(mup_groups(model, narrow, learning_rate=1e-3))
        before = model[:5](data.train_inputs[:6]).detach()
        ends = model(data.train_inputs[:6]).detach()
        generator = torch.Generator().manual_seed(seed)
        for _ in range(2):
            rows = torch.randint(1437, (6,), generator=generator)
            loss = nn.functional.cross_entropy(
                model(data.train_inputs[rows]), data.train_targets[rows]
            )
            update.zero_grad()
            loss.backward()
            update.step()
        moved = model[:5](data.train_inputs[:6]).detach() - before
        same(found.changes[at, 1, 2], moved.square().mean().sqrt())
        moved = model(data.train_inputs[:6]).detach() - ends
        same(found.changes[at, 1, 3], moved.square().mean().sqrt())


@pytest.mark.breaks("companion/transformers/widths.py", "x = x - x.mean()", "x = x - x[0]")
@pytest.mark.breaks(
    "companion/transformers/widths.py", "dtype=changes.dtype).log()", "dtype=changes.dtype)"
)
def test_exponents_are_slopes() -> None:
    found = coordinate_check(make, digits(), widths=[8, 16, 64], learning_rate=1e-3, seeds=2)
    x = torch.tensor([8.0, 16.0, 64.0], dtype=torch.float64).log()
    design = torch.stack([x, torch.ones_like(x)], 1)
    y = found.changes.log().permute(1, 0, 2).flatten(1)
    same(found.exponents.flatten(), torch.linalg.lstsq(design, y).solution[0])


def test_a_transformers_layers_come_as_they_run() -> None:
    data, added = digits(), ("positions", "gate")
    options = {"widths": [8, 16], "learning_rate": 1e-3, "base_width": 8, "seeds": 2, "steps": 1}
    found = coordinate_check(transformer, data, added=added, **options)
    assert found.layers[0] == "embed"
    assert found.layers[-1] == "read"
    assert found.changes.shape == (2, 2, 8)


# ---------------------------------------------------------------- what is refused


class Odd(nn.Module):
    """A reader's own layer, of which nobody knows what it does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(width, width))


def tied(width: int) -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, width), nn.Linear(width, 5, bias=False))
    model[1].weight = model[0].weight
    return model


@pytest.mark.breaks(
    "companion/transformers/widths.py",
    "if len(ours) > len(list(model.parameters())):",
    "if False:",
    case="tied",
)
@pytest.mark.breaks(
    "companion/transformers/widths.py", "if unknown:", "if False:", case="attention"
)
@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(Odd, r"\['matrix'\] of Odd is not recognized", id="odd"),
        pytest.param(lambda n: nn.Sequential(Odd(n)), r"\['0.matrix'\] of Odd", id="within"),
        pytest.param(lambda n: nn.MultiheadAttention(n, 1), "in_proj_weight", id="attention"),
        pytest.param(lambda n: nn.Conv1d(n, n, 3), "of Conv1d is not recognized", id="conv"),
        pytest.param(lambda n: nn.GRU(n, n), "of GRU is not recognized", id="gru"),
        pytest.param(lambda n: transformer(n)[0], r"positions'\] of Transformer", id="positions"),
        pytest.param(tied, "each parameter in one place", id="tied"),
        pytest.param(
            lambda n: nn.Sequential(*[nn.Linear(n, n)] * (n // 4)), "by name", id="deeper"
        ),
        pytest.param(lambda n: nn.Linear(n, 2, bias=n > 4), r"by name; got \['bias'\]", id="bias"),
    ],
)
def test_what_is_not_recognized_is_refused(build: Callable, message: str) -> None:
    for call in (
        lambda: mup_rates(build(8), build(4), learning_rate=0.1),
        lambda: mup_groups(build(8), build(4), learning_rate=0.1),
        lambda: mup_start_(build(8), build(4)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_other_bad_arguments_are_refused() -> None:
    data = Split(normal(4, 64), torch.arange(4), normal(0, 64), torch.arange(0))
    options = {"widths": [8, 16], "learning_rate": 0.1}
    with pytest.raises(ValueError, match=r"widths needs at least two that differ, got \[8, 8\]"):
        coordinate_check(make, data, **(options | {"widths": [8, 8]}))
    with pytest.raises(TypeError, match="widths must be a whole number"):
        coordinate_check(make, data, **(options | {"widths": [8, 1.5]}))
    with pytest.raises(ValueError, match="learning_rate must be finite"):
        coordinate_check(make, data, **(options | {"learning_rate": math.inf}))
    with pytest.raises(ValueError, match="base_width must be at least 1, got 0"):
        coordinate_check(make, data, base_width=0, **options)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        coordinate_check(make, data, steps=0, **options)
    with pytest.raises(TypeError, match="added must be a collection of names, got 'gate'"):
        mup_rates(mlp(8), mlp(4), learning_rate=0.1, added="gate")
    with pytest.raises(ValueError, match="narrow must have a Linear '0', got LayerNorm"):
        mup_rates(nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.LayerNorm(4)), learning_rate=0.1)
    with pytest.raises(ValueError, match="learning_rate must be finite and at least 0"):
        mup_rates(mlp(8), mlp(4), learning_rate=-0.1)
