"""Phase diagrams: which networks can be trained, over the variance of their weights and depth.

Everything is measured over several seeds; the networks of all variances and seeds run side by side.
A seed draws the same numbers whatever the variance, so that differences are not those of luck.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from companion import backprop
from companion._lib import random
from companion._lib.arguments import floating, non_negative, positive_integer
from companion._lib.progress import bar
from companion.activations import Activation
from companion.backprop import MLP
from companion.data import Split, digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VARIANCES = (1.0, 1.3, 1.76, 2.5, 4.0)
DEPTHS = (5, 10, 20, 30, 40, 50)


class Diagram(NamedTuple):
    """Something measured for V weight variances, D depths and S seeds.

    Attributes:
        weight_variances: (V,) σ_w², which is fan_in times the variance of one weight.
        depths: (D,) number of layers, as int64.
        values: (V, D, S) what was measured, float64.

    """

    weight_variances: Tensor
    depths: Tensor
    values: Tensor


def _axes(weight_variances: Sequence[float], depths: Sequence[int]) -> tuple[Tensor, list[int]]:
    if not len(weight_variances) or not len(depths):
        raise ValueError(
            "weight_variances and depths need at least one number each, "
            f"got {list(weight_variances)} and {list(depths)}"
        )
    variances = [non_negative("each of weight_variances", value) for value in weight_variances]
    depths = [positive_integer("each of depths", depth) for depth in depths]
    return torch.tensor(variances, dtype=torch.float64).sqrt(), depths


def trainability(
    activation: str | Activation = "tanh",
    weight_variances: Sequence[float] = VARIANCES,
    depths: Sequence[int] = DEPTHS,
    *,
    bias_variance: float = 0.05,
    width: int = 64,
    seeds: int | Sequence[int] = 2,
    steps: int = 150,
    learning_rate: float = 0.02,
    batch_size: int = 16,
    data: Split | None = None,
    dtype: torch.dtype = torch.float64,
    progress: bool = True,
) -> Diagram:
    """Measure the test accuracy that plain gradient descent reaches within a budget of steps.

    Where gradients explode, training is chaotic: a change in the last bit of the weights shows in
    the accuracy after tens of steps. Single values there hold for one machine only; the depth at
    which the accuracy is lost holds within a few layers.

    Args:
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variances: σ_w², any number of them, of all layers.
        depths: number of layers, of which the last gives the classes.
        bias_variance: σ_b² at the start.
        width: units in every hidden layer.
        seeds: the seeds to draw, or how many, counting from 0. A seed draws
            weights, biases and batches.
        steps: updates of the weights.
        learning_rate: of these updates; the loss is the cross-entropy.
        batch_size: examples a step, drawn with replacement.
        data: what to train on and to test with; the handwritten digits if None.
        dtype: to compute in. float32 takes half the time, and is chaotic from fewer steps on.
        progress: whether to show a bar.

    Returns:
        A :class:`Diagram` of accuracies from 0 to 1. An output that is not finite counts as wrong.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: if a number is out of range, or there is no variance or no depth.

    Source: after Schoenholz et al. (2017), arXiv 1611.01232.

    Example:
        >>> diagram = trainability("tanh", [0.1, 1.5], [3, 12], steps=60, seeds=1, progress=False)
        >>> (diagram.values[..., 0] > 0.5).tolist()
        [[False, False], [True, True]]

    """
    std, depths = _axes(weight_variances, depths)
    data = digits() if data is None else data
    data = data._replace(
        train_inputs=data.train_inputs.to(dtype), test_inputs=data.test_inputs.to(dtype)
    )
    width, seeds = positive_integer("width", width), random.seed_list(seeds)
    bias_variance = non_negative("bias_variance", bias_variance)
    steps, size = positive_integer("steps", steps), positive_integer("batch_size", batch_size)
    rate = non_negative("learning_rate", learning_rate)
    features, classes = data.train_inputs.shape[-1], int(data.train_targets.max()) + 1
    accuracies = []
    for depth in bar(depths, "depths", show=progress):
        hidden = [width] * (depth - 1)
        network = _stack([features, *hidden, classes], activation, std, seeds)
        _draw_biases(network, bias_variance, seeds)
        network = network.map(lambda part: part.to(dtype))
        _learn(network, data, seeds, steps=steps, batch_size=size, rate=rate)
        accuracies.append(_accuracy(network, data).reshape(len(std), len(seeds)))
    return Diagram(std.square(), torch.tensor(depths), torch.stack(accuracies, dim=1))


def _stack(sizes: list[int], activation: str | Activation, std: Tensor, seeds: list[int]) -> MLP:
    """Draw the networks of all variances and seeds, one after the other along one dimension."""
    unit = backprop.random_mlp(sizes, activation, seeds=seeds, bias=True)
    scale = std.reshape(-1, 1, 1, 1)
    weights = tuple((scale * weight).flatten(0, 1) for weight in unit.weights)
    biases = tuple(weight.new_zeros(weight.shape[:-1]) for weight in weights)
    return MLP(weights, biases, unit.activation)


def _draw_biases(network: MLP, variance: float, seeds: list[int]) -> None:
    generators = random.generators(seeds, "inputs")
    assert network.biases is not None  # _stack draws them
    for bias in network.biases:
        draws = random.normal(generators, bias.shape[-1])
        bias.copy_(math.sqrt(variance) * draws.repeat(len(bias) // len(seeds), 1))


def _learn(
    network: MLP, data: Split, seeds: list[int], *, steps: int, batch_size: int, rate: float
) -> None:
    """Train the networks in place; those of one seed see the same batches.

    ``training.train`` takes 1.7 to 2.3 times as long (20 networks of 40 and of 5 layers), and its
    rounding changes 9 of 20 accuracies at 40 layers, where training is chaotic.
    """
    generators = random.generators(seeds, "batches")
    variances = len(network.weights[0]) // len(seeds)
    for _ in range(steps):
        rows = random.rows(generators, len(data.train_inputs), batch_size)
        batch = rows.repeat(variances, 1)
        _descend(network, data.train_inputs[batch], data.train_targets[batch], rate)


def _descend(network: MLP, inputs: Tensor, targets: Tensor, learning_rate: float) -> None:
    """Update all the networks in place by one step on the cross-entropy.

    It is :func:`companion.backprop.backward` with an update of each layer as the gradient passes,
    and with examples in columns: batched products of small matrices take half as long that way.
    """
    assert network.biases is not None  # _stack draws them
    phi, a = network.activation, [inputs.mT.contiguous()]
    z: list[Tensor] = []
    for weight, bias in zip(network.weights, network.biases, strict=True):
        if z:
            a.append(phi.function(z[-1]))
        z.append(torch.bmm(weight, a[-1]).add_(bias.unsqueeze(-1)))
    examples = inputs.shape[-2]
    delta = z[-1].softmax(-2)
    delta.scatter_add_(-2, targets.unsqueeze(-2), -torch.ones_like(delta[:, :1]))
    delta /= examples
    ones = delta.new_ones(len(delta), examples)  # a product with them is faster than sum(-1)
    for layer in range(len(z) - 1, -1, -1):
        weight, bias = network.weights[layer], network.biases[layer]
        below = delta  # of the first layer it is not needed
        if layer:
            below = torch.bmm(weight.mT, delta)
            if phi.slope_from_output is None:
                below *= phi.slope(z[layer - 1])
            else:
                below *= phi.slope_from_output(a[layer])
        weight.baddbmm_(delta, a[layer].mT, alpha=-learning_rate)
        bias.unsqueeze(-1).baddbmm_(delta, ones.unsqueeze(-1), alpha=-learning_rate)
        delta = below


def _accuracy(network: MLP, data: Split) -> Tensor:
    outputs = backprop.forward(network, data.test_inputs).output
    right = (outputs.argmax(-1) == data.test_targets) & outputs.isfinite().all(-1)
    return right.double().mean(-1)


def depth_reached(diagram: Diagram, level: float = 0.5) -> Tensor:
    """Return for each variance and seed the depth at which the values fall below ``level``.

    Between two depths the values are taken to run straight; the depth returned is that of the
    first crossing.

    Args:
        diagram: of accuracies, or of something else that falls with depth; its depths rising.
        level: where to cut.

    Returns:
        float64 tensor (V, S): inf where even the deepest network is above, nan where even the
        shallowest is below.

    Raises:
        ValueError: if the depths do not rise.
        TypeError: if the diagram's values are not a floating-point tensor.

    Example:
        >>> values = torch.tensor([0.9, 0.8, 0.2], dtype=torch.float64).reshape(1, 3, 1)
        >>> diagram = Diagram(torch.ones(1), torch.tensor([10, 20, 40]), values)
        >>> round(depth_reached(diagram).item(), 6)
        30.0

    """
    depths, values = _rising(diagram), floating("values", diagram.values)
    below = values < level
    after = below.to(torch.int64).argmax(1, keepdim=True)  # the first depth below
    before = (after - 1).clamp_min(0)
    high, low = values.gather(1, before), values.gather(1, after)
    share = (high - level) / (high - low)
    reached = (depths[before] + share * (depths[after] - depths[before])).squeeze(1)
    reached = reached.masked_fill(~below.any(1), math.inf)
    return reached.masked_fill(below[:, 0], math.nan)


def picture(
    ax: "Axes",
    diagram: Diagram,
    *,
    line: Tensor | None = None,
    limits: tuple[float, float] | None = None,
    label: str = "test accuracy",
) -> "Axes":
    """Draw the median over seeds as a field of colours, with weight variance across and depth up.

    Cells are of one size, whatever the distance between variances or depths.

    Args:
        ax: where to draw.
        diagram: what to draw.
        line: (V,) depths to draw over it, such as a prediction, at the depths between which they
            lie; where they are nan or outside the field there is none.
        limits: values of the lightest and the darkest colour; those of the data if None.
        label: of the colours.

    Returns:
        The same Axes.

    Raises:
        ValueError: if the depths do not rise, or the line has not a depth for each variance.

    """
    depths = _rising(diagram)
    variances = diagram.weight_variances.tolist()
    low, high = limits or (None, None)
    field = diagram.values.quantile(0.5, dim=-1).T
    mesh = ax.pcolormesh(field.numpy(), cmap="viridis", vmin=low, vmax=high)
    if line is not None:
        if line.shape != diagram.weight_variances.shape:
            raise ValueError(f"line needs shape ({len(variances)},), got {tuple(line.shape)}")
        centers = [index + 0.5 for index in range(len(depths))]
        heights = np.interp(line, depths, centers, left=np.nan, right=np.nan)
        ax.plot([v + 0.5 for v in range(len(variances))], heights, "o--", color="white")
    ax.set_xticks([v + 0.5 for v in range(len(variances))], [f"{v:.3g}" for v in variances])
    ax.set_yticks([d + 0.5 for d in range(len(depths))], [f"{d:g}" for d in depths.tolist()])
    ax.set(xlabel="weight variance σ_w²", ylabel="depth")
    ax.grid(visible=False)
    ax.figure.colorbar(mesh, ax=ax, label=label)
    return ax


def _rising(diagram: Diagram) -> Tensor:
    depths = diagram.depths.double()
    if not (depths.diff() > 0).all():
        raise ValueError(f"depths must rise, got {diagram.depths.tolist()}")
    return depths
