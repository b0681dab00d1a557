"""Phase diagrams against single networks with autograd, and the depth read off them."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from helpers import normal, reproducible
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from companion import activations, backprop, phase
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
    if sizes[-1] == WIDTH:  # after the inputs and the gradient at the output
        torch.randn(2, EXAMPLES, WIDTH, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for layer in model[::2]:
            draw = torch.randn(layer.out_features, generator=generator, dtype=torch.float64)
            layer.bias.copy_(math.sqrt(bias) * draw)
    return model


def ratio_by_autograd(
    activation: str, variance: float, depth: int, seed: int, bias: float, mean_square: float
) -> float:
    model = single([WIDTH] * (depth + 1), activation, variance, seed, bias)
    generator = torch.Generator().manual_seed(seed + 2**31)
    a, delta = torch.randn(2, EXAMPLES, WIDTH, generator=generator, dtype=torch.float64)
    a = math.sqrt(mean_square) * a
    z = []
    for layer in model:
        a = layer(a)
        if isinstance(layer, nn.Linear):
            z.append(a)
    (first,) = torch.autograd.grad(z[-1], z[0], delta)
    return math.log10(first.norm() / delta.norm())


@pytest.mark.breaks(
    "companion/phase.py",
    "return torch.tensor(variances, dtype=torch.float64).sqrt(), depths",
    "return torch.tensor(variances, dtype=torch.float64), depths",
)
@pytest.mark.breaks(
    "companion/phase.py",
    'shift = shift * math.sqrt(non_negative("bias_variance", bias_variance))',
    'shift = shift * non_negative("bias_variance", bias_variance)',
)
@pytest.mark.breaks(
    "companion/phase.py",
    "here = [start] * depths.count(layer)",
    "here = [start] * depths.count(layer + 1)",
)
@pytest.mark.breaks(
    "companion/phase.py",
    "slope = activation.slope(z[layer - 1])",
    "slope = activation.slope(z[layer])",
    case="tanh",
)
@pytest.mark.breaks(
    "companion/phase.py", "ratios[:, joining] = torch.log10(", "ratios[:] = torch.log10("
)
@pytest.mark.breaks(
    "companion/phase.py",
    "examples)), dim=(-2, -1))",
    "examples)), dim=-1).log().mean(-1).exp() * math.sqrt(examples)",
)
@pytest.mark.parametrize("activation", activations.ACTIVATIONS)
def test_gradients_are_those_of_single_networks(activation: str) -> None:
    """In any order of the depths, with one of them asked for twice."""
    variances, depths, bias, mean_square = [0.5, 1.7, 3.0], [4, 1, 9, 4, 2], 0.3, 2.0
    diagram = phase.gradient_diagram(
        activation,
        variances,
        depths,
        bias_variance=bias,
        width=WIDTH,
        seeds=2,
        examples=EXAMPLES,
        input_mean_square=mean_square,
    )
    expected = torch.tensor(
        [
            [
                [ratio_by_autograd(activation, v, d, seed, bias, mean_square) for seed in (0, 1)]
                for d in depths
            ]
            for v in variances
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(diagram.values, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(diagram.weight_variances, torch.tensor(variances).double())
    assert diagram.depths.tolist() == depths
    assert not diagram.values[:, 1].any(), "one layer's gradient has nowhere to go"


def test_gradients_of_linear_networks_scale_by_the_standard_deviation() -> None:
    """Without weights nothing comes back; a linear network scales by σ_w a layer."""
    diagram = phase.gradient_diagram("identity", [0.0, 1.0, 4.0], [3, 6], width=WIDTH, seeds=2)
    assert (diagram.values[0] == -math.inf).all()
    steps = torch.tensor([[2.0, 2.0], [5.0, 5.0]], dtype=torch.float64)
    torch.testing.assert_close(diagram.values[2] - diagram.values[1], steps * math.log10(2))


def trained_by_torch(
    name: str, data: Split, variance: float, depth: int, seed: int, bias: float, steps: int
) -> float:
    model = single([5, *[7] * (depth - 1), 3], name, variance, seed, bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(seed + 2**32)
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
@pytest.mark.parametrize("measure", [phase.gradient_diagram, phase.trainability])
def test_bad_input_is_refused_with_its_name(
    measure: object, change: dict, error: type[Exception], message: str
) -> None:
    given = {"activation": "tanh", "weight_variances": [1.0], "depths": [2]} | change
    with pytest.raises(error, match=message):
        measure(**given)


@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_training_needs_steps_and_batches(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        phase.trainability(depths=[2], data=blobs(), **{name: 0})


@reproducible
@given(
    variances=st.lists(st.floats(0.1, 5), min_size=1, max_size=3),
    depths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    width=st.integers(1, 5),
    seeds=st.integers(1, 3),
)
def test_a_diagram_holds_what_its_parts_hold(
    variances: list[float], depths: list[int], width: int, seeds: int
) -> None:
    def one(v: float, d: int, count: int) -> Tensor:
        return phase.gradient_diagram("tanh", [v], [d], width=width, seeds=count).values[0, 0]

    diagram = phase.gradient_diagram("tanh", variances, depths, width=width, seeds=seeds)
    assert diagram.values.shape == (len(variances), len(depths), seeds)
    for i, v in enumerate(variances):
        for j, d in enumerate(depths):
            torch.testing.assert_close(diagram.values[i, j], one(v, d, seeds), equal_nan=True)
