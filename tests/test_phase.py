"""Phase diagrams against single networks with autograd, and the depth read off them."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from helpers import normal
from torch import nn

from companion import backprop, phase
from companion.data import Split
from companion.phase import Diagram

EXAMPLES, WIDTH = 3, 6


def single(
    sizes: list[int], activation: str, variance: float, seed: int, bias: float
) -> nn.Sequential:
    """One network of torch's own layers, whose biases are drawn in the order of its layers."""
    stacked = backprop.random_mlp(
        sizes, activation, weight_variance=variance, seeds=[seed], bias=True
    )
    (model,) = backprop.to_modules(stacked)
    generator = torch.Generator().manual_seed(seed + 2**31)
    with torch.no_grad():
        for layer in model[::2]:
            draw = torch.randn(layer.out_features, generator=generator, dtype=torch.float64)
            layer.bias.copy_(math.sqrt(bias) * draw)
    return model


def trained_by_torch(
    name: str, data: Split, variance: float, depth: int, seed: int, bias: float, steps: int
) -> float:
    model = single([5, *[7] * (depth - 1), 3], name, variance, seed, bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(seed + 3 * 2**30)
    for _ in range(steps):
        rows = torch.randint(len(data.train_inputs), (8,), generator=generator)
        optimizer.zero_grad()
        outputs = model(data.train_inputs[rows])
        nn.functional.cross_entropy(outputs, data.train_targets[rows]).backward()
        optimizer.step()
    return (model(data.test_inputs).argmax(-1) == data.test_targets).double().mean().item()


def blobs(test: int = 400) -> Split:
    """Three classes that overlap, so that accuracies are neither 0 nor 1."""
    labels = torch.arange(60 + test) % 3
    inputs = normal(60 + test, 5, seed=1) + normal(3, 5, seed=2)[labels]
    return Split(inputs[:60], labels[:60], inputs[60:], labels[60:])


@pytest.mark.breaks(
    "companion/phase.py",
    "hidden = [width] * (depth - 1)",
    "hidden = [width] * depth",
)
@pytest.mark.breaks("companion/phase.py", "    delta /= examples\n", "")
@pytest.mark.breaks(
    "companion/phase.py", "bias.copy_(math.sqrt(variance) * draws", "bias.copy_(variance * draws"
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["tanh", "relu"])  # slopes from the output, and from the input
def test_training_is_torchs(name: str, dtype: torch.dtype) -> None:
    data, variances, depths, bias, steps = blobs(), [0.5, 2.0], [1, 4, 2], 0.3, 12
    diagram = phase.trainability(
        name,
        variances,
        depths,
        bias_variance=bias,
        width=7,
        seeds=3,
        steps=steps,
        learning_rate=0.1,
        batch_size=8,
        data=data,
        dtype=dtype,
        progress=False,
    )
    expected = [
        [[trained_by_torch(name, data, v, d, s, bias, steps) for s in range(3)] for d in depths]
        for v in variances
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    # In float32 an example at the border may be counted on the other side: one of 400.
    within = 1e-12 if dtype == torch.float64 else 1.01 / 400
    torch.testing.assert_close(diagram.values, expected, rtol=0, atol=within)
    assert len(expected.unique()) > 12, "few of these networks do equally well"


@pytest.mark.breaks("companion/phase.py", "& outputs.isfinite().all(-1)", "& True")
def test_a_network_that_blew_up_is_right_about_nothing() -> None:
    data = blobs()
    diagram = phase.trainability(
        "identity", [4.0], [8], learning_rate=1e3, steps=40, data=data, seeds=1, progress=False
    )
    assert diagram.values.item() == 0


def test_digits_are_learned_in_the_middle_and_not_where_the_gradient_vanishes() -> None:
    diagram = phase.trainability("tanh", [0.1, 1.5], [10], steps=60, seeds=2, progress=False)
    # A single class out of ten has at most 37 of the 360 test digits.
    assert (diagram.values[0] <= 0.2).all()
    assert (diagram.values[1] > 0.5).all()


def of_rows(rows: list[list[float]], depths: list[int]) -> Diagram:
    values = torch.tensor(rows, dtype=torch.float64).unsqueeze(-1)
    return Diagram(torch.ones(len(rows)), torch.tensor(depths), values)


@pytest.mark.breaks(
    "companion/phase.py",
    "after = below.to(torch.int64).argmax(1, keepdim=True)",
    "after = (below.shape[1] - below.sum(1, keepdim=True))",
)
def test_depth_reached_is_where_the_line_first_crosses() -> None:
    rows = [
        [0.9, 0.7, 0.3, 0.1],  # half way between 20 and 40
        [0.9, 0.5, 0.1, 0.1],  # at 20, which is not below
        [0.9, 0.2, 0.9, 0.1],  # the first of two crossings
        [0.9, 0.8, 0.7, 0.6],  # never
        [0.4, 0.9, 0.9, 0.1],  # already below
    ]
    reached = phase.depth_reached(of_rows(rows, [10, 20, 40, 80]))
    assert reached.shape == (5, 1)
    expected = [30, 20, 10 + 10 * 4 / 7, math.inf, math.nan]
    torch.testing.assert_close(
        reached[:, 0], torch.tensor(expected, dtype=torch.float64), equal_nan=True
    )
    assert phase.depth_reached(of_rows(rows[:1], [10, 20, 40, 80]), 0.8).item() == pytest.approx(15)
    with pytest.raises(ValueError, match=r"depths must rise, got \[10, 40, 20, 80\]"):
        phase.depth_reached(of_rows(rows, [10, 40, 20, 80]))


def test_seeds_are_read_each_by_itself() -> None:
    values = torch.tensor([[[0.9, 0.9], [0.1, 0.7], [0.0, 0.3]]], dtype=torch.float64)
    reached = phase.depth_reached(Diagram(torch.ones(1), torch.tensor([1, 2, 3]), values))
    torch.testing.assert_close(reached, torch.tensor([[1.5, 2.5]], dtype=torch.float64))


@pytest.mark.breaks(
    "companion/phase.py",
    "field = diagram.values.quantile(0.5, dim=-1).T",
    "field = diagram.values.mean(-1).T",
)
def test_picture_shows_the_median_with_depth_up() -> None:
    values = torch.tensor([[[0.0, 0.1, 1.0], [0.2, 0.2, 0.9]]] * 3, dtype=torch.float64)
    values[2] += 0.05
    diagram = Diagram(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([10, 30]), values)
    _, ax = plt.subplots()
    line = torch.tensor([20.0, math.nan, 40.0])
    assert phase.picture(ax, diagram, line=line, limits=(0, 1), label="right") is ax
    mesh = ax.collections[0]
    assert mesh.get_array().tolist() == [[0.1, 0.1, 0.1 + 0.05], [0.2, 0.2, 0.25]]
    assert mesh.get_clim() == (0, 1)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "4"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["10", "30"]
    # Depth 20 lies half way between the middles of the two rows; 40 lies outside.
    heights = ax.lines[0].get_ydata().tolist()
    assert heights[0] == 1.0
    assert math.isnan(heights[1])
    assert math.isnan(heights[2])
    with pytest.raises(ValueError, match=r"line needs shape \(3,\), got \(2,\)"):
        phase.picture(ax, diagram, line=line[:2])
    plt.close("all")


BAD = [
    ({"weight_variances": []}, ValueError, "weight_variances and depths need at least one"),
    ({"depths": []}, ValueError, "weight_variances and depths need at least one"),
    ({"depths": [3, 0]}, ValueError, "each of depths must be at least 1, got 0"),
    ({"depths": [2.5]}, TypeError, "each of depths must be a whole number"),
    ({"weight_variances": [-1.0]}, ValueError, "each of weight_variances must be finite"),
    ({"weight_variances": [math.nan]}, ValueError, "each of weight_variances must be finite"),
    ({"bias_variance": -1.0}, ValueError, "bias_variance must be finite"),
    ({"width": 0}, ValueError, "width must be at least 1"),
    ({"seeds": 0}, ValueError, "seeds must be at least 1"),
    ({"activation": "swish"}, ValueError, "activation must be one of"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_is_refused_with_its_name(
    change: dict, error: type[Exception], message: str
) -> None:
    given = {"activation": "tanh", "weight_variances": [1.0], "depths": [2]} | change
    with pytest.raises(error, match=message):
        phase.trainability(**given)


@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_training_needs_steps_and_batches(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        phase.trainability(depths=[2], data=blobs(), **{name: 0})
