"""A multilayer perceptron's forward and backward pass, written out by hand.

The network is z_l = W_l a_{l-1} + b_l with a_l = φ(z_l) and a_0 the input; its output is z_L, the
last pre-activation. δ_l is the gradient of the loss with respect to z_l. Examples are rows, as in
torch: ``z = a @ W.T + b``.

Weights may carry leading batch dimensions (one network a seed, say); everything here then works on
all those networks at once. The chapter *Backpropagation* derives each formula.

Chapter: https://YOUR_ACCOUNT.github.io/gradients-at-depth/backprop.html
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from companion import activations
from companion._lib import random
from companion._lib.arguments import floating, non_negative, positive_integer
from companion.activations import Activation
from companion.initialization import Distribution, Mode, variance_scaling_


@dataclass(frozen=True)
class MLP:
    """Weights and biases of a multilayer perceptron, or of several of them at once.

    Attributes:
        weights: L tensors of shape (*networks, n_l, n_{l-1}).
        biases: L tensors of shape (*networks, n_l), or None for a network without biases.
        activation: φ, applied to every layer but the last.

    Raises:
        TypeError: if a weight or bias is not a floating-point tensor, or the activation is only a
            name.
        ValueError: if there is no layer, or if the shapes do not fit together.

    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...] | None
    activation: Activation

    def __post_init__(self) -> None:
        """Check that each layer takes what the one before it gives."""
        if not isinstance(self.activation, Activation):
            raise TypeError(
                "activation must be an Activation, as activations.get(name) returns, "
                f"got {self.activation!r}"
            )
        if not self.weights:
            raise ValueError("an MLP needs at least one weight, got none")
        for index, weight in enumerate(self.weights):
            if floating(f"weights[{index}]", weight).dim() < 2:
                raise ValueError(
                    f"weights[{index}] needs shape (..., out, in), got {tuple(weight.shape)}"
                )
            if index and weight.shape[-1] != self.weights[index - 1].shape[-2]:
                raise ValueError(
                    f"weights[{index}] takes {weight.shape[-1]} inputs, "
                    f"but weights[{index - 1}] gives {self.weights[index - 1].shape[-2]}"
                )
            if weight.shape[:-2] != self.weights[0].shape[:-2]:
                raise ValueError(
                    f"weights[{index}] is of networks {tuple(weight.shape[:-2])}, "
                    f"but weights[0] of {tuple(self.weights[0].shape[:-2])}"
                )
        if self.biases is None:
            return
        if len(self.biases) != len(self.weights):
            raise ValueError(f"{len(self.weights)} weights, but {len(self.biases)} biases")
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if floating(f"biases[{index}]", bias).shape != weight.shape[:-1]:
                raise ValueError(
                    f"biases[{index}] needs shape {tuple(weight.shape[:-1])}, "
                    f"got {tuple(bias.shape)}"
                )

    def bias(self, layer: int) -> Tensor | float:
        """Return the bias to add to a batch of examples at a layer (0 is the first).

        Returns:
            Tensor of shape (*networks, 1, n_l), or 0.0 in a network without biases.

        """
        return 0.0 if self.biases is None else self.biases[layer].unsqueeze(-2)

    def map(self, function: Callable[[Tensor], Tensor]) -> "MLP":
        """Return the network with each weight, then each bias, as the function returns it.

        Example:
            >>> network = random_mlp([3, 2], "tanh", bias=True).map(torch.Tensor.float)
            >>> network.weights[0].dtype, network.biases[0].dtype
            (torch.float32, torch.float32)

        """
        weights = tuple(function(weight) for weight in self.weights)
        biases = None if self.biases is None else tuple(function(bias) for bias in self.biases)
        return MLP(weights, biases, self.activation)


def random_mlp(
    sizes: Sequence[int],
    activation: str | Activation,
    *,
    weight_variance: float = 1.0,
    mode: Mode = "fan_in",
    distribution: Distribution = "normal",
    bias: bool = False,
    seeds: int | Sequence[int] = 1,
    dtype: torch.dtype = torch.float64,
) -> MLP:
    """Draw networks of layer sizes ``sizes``, one for each seed, stacked along a first dimension.

    Args:
        sizes: n_0, n_1, …, n_L: the number of inputs, then of units in each layer.
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w², of a weight times the fan.
        mode: which fan; see :func:`~companion.initialization.variance_scaling_`.
        distribution: as there.
        bias: whether to have biases; they start at zero.
        seeds: the seeds to draw, or how many, counting from 0. A seed gives the same network
            whatever other seeds are drawn with it.
        dtype: of the weights.

    Raises:
        TypeError: if a size or the number of seeds is not a whole number, the variance is not a
            number, or ``dtype`` is not a floating-point type.
        ValueError: if there are fewer than two sizes or no seed, a number is out of range, or a
            word is not one of those above.

    Example:
        >>> network = random_mlp([3, 5, 2], "tanh", seeds=4)
        >>> [tuple(weight.shape) for weight in network.weights]
        [(4, 5, 3), (4, 2, 5)]

    """
    if len(sizes) < 2:
        raise ValueError(f"sizes needs an input and at least one layer, got {list(sizes)}")
    sizes = [positive_integer("each of sizes", size) for size in sizes]
    scale = non_negative("weight_variance", weight_variance)
    generators = random.generators(random.seed_list(seeds))
    weights = [torch.empty(len(generators), *shape, dtype=dtype) for shape in weight_shapes(sizes)]
    for weight in weights:
        for one, generator in zip(weight, generators, strict=True):
            variance_scaling_(
                one, scale=scale, mode=mode, distribution=distribution, generator=generator
            )
    biases = tuple(weight.new_zeros(weight.shape[:-1]) for weight in weights) if bias else None
    return MLP(tuple(weights), biases, activations.get(activation))


def weight_shapes(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the shape (out, in) of each weight of a network of layer sizes ``sizes``.

    Example:
        >>> weight_shapes([3, 5, 2])
        [(5, 3), (2, 5)]

    """
    return [(out, into) for into, out in pairwise(sizes)]


def to_modules(network: MLP) -> list[nn.Sequential]:
    """Return one ``nn.Sequential`` for each of the stacked networks, with copies of its weights.

    Example:
        >>> models = to_modules(random_mlp([3, 5, 2], "relu", seeds=2))
        >>> [type(layer).__name__ for layer in models[0]]
        ['Linear', 'ReLU', 'Linear']

    """
    weights = [weight.reshape(-1, *weight.shape[-2:]) for weight in network.weights]
    models = []
    for index in range(len(weights[0])):
        layers: list[nn.Module] = []
        for level, weight in enumerate(weights):
            n_out, n_in = weight.shape[1:]
            linear = nn.Linear(n_in, n_out, bias=network.biases is not None, dtype=weight.dtype)
            with torch.no_grad():
                linear.weight.copy_(weight[index])
                if network.biases is not None:
                    linear.bias.copy_(network.biases[level].reshape(-1, n_out)[index])
            layers += [linear, network.activation.module()]
        models.append(nn.Sequential(*layers[:-1]))
    return models


def of_modules(models: Sequence[nn.Sequential], activation: str | Activation) -> MLP:
    """Return networks as :func:`to_modules` makes them, stacked, with copies of their weights.

    Args:
        models: S networks of the same sizes, in which linear layers and activations alternate.
        activation: theirs: its name, or an :class:`Activation`.

    Returns:
        Weights of shape (S, n_l, n_{l-1}), and biases (S, n_l) if the layers have them.

    Raises:
        ValueError: if there is no network, they are not built alike, or hold something else than
            linear layers with this activation between them; or it is an unknown word.

    Example:
        >>> network = random_mlp([3, 5, 2], "relu", seeds=2)
        >>> torch.equal(of_modules(to_modules(network), "relu").weights[1], network.weights[1])
        True

    """
    if not models:
        raise ValueError("models needs at least one network, got none")
    between = type(activations.get(activation).module())
    for index, model in enumerate(models):
        kinds = [type(part) for part in model]
        expected = [nn.Linear if at % 2 == 0 else between for at in range(len(kinds))]
        if kinds != expected or len(kinds) % 2 == 0 or repr(model) != repr(models[0]):
            raise ValueError(
                f"models[{index}] is not of linear layers with {between.__name__} between them, "
                f"or not built as models[0] is: {model}"
            )
    linear = [[part for part in model if isinstance(part, nn.Linear)] for model in models]
    levels = list(zip(*linear, strict=True))
    weights = tuple(torch.stack([layer.weight.detach() for layer in level]) for level in levels)
    biases = [layer.bias.detach() for level in levels for layer in level if layer.bias is not None]
    stacked = None
    if biases:
        count = len(models)
        stacked = tuple(torch.stack(biases[at : at + count]) for at in range(0, len(biases), count))
    return MLP(weights, stacked, activations.get(activation))


def classifiers(
    activation: str | Activation,
    weight_variance: float,
    depth: int,
    *,
    width: int = 32,
    inputs: int = 64,
    outputs: int = 10,
    seeds: int | Sequence[int] = 6,
) -> list[nn.Sequential]:
    """Draw networks with equal hidden layers as ``training.train`` takes them, for the digits.

    Weights are normal and biases start at zero.

    Args:
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w², which is fan_in times the variance of one weight.
        depth: weight layers, the last one included.
        width: units in each hidden layer.
        inputs: number of inputs.
        outputs: number of outputs.
        seeds: the seeds to draw, or how many, counting from 0.

    Returns:
        A module for each seed, float64.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: if a number is out of range, or a name is unknown.

    Example:
        >>> model = classifiers("relu", 2.0, depth=3)[0]
        >>> [layer.out_features for layer in model if isinstance(layer, nn.Linear)]
        [32, 32, 10]

    """
    hidden = [positive_integer("width", width)] * (positive_integer("depth", depth) - 1)
    sizes = [inputs, *hidden, outputs]
    drawn = random_mlp(sizes, activation, weight_variance=weight_variance, bias=True, seeds=seeds)
    return to_modules(drawn)


class Cache(NamedTuple):
    """What the forward pass keeps for the backward pass.

    Attributes:
        z: pre-activations of layers 1 to L, each (*networks, examples, n_l).
        a: activations of layers 0 to L-1, each (*networks, examples, n_l); a[0] is the input.

    """

    z: list[Tensor]
    a: list[Tensor]

    @property
    def output(self) -> Tensor:
        """The network's output z_L, of shape (*networks, examples, n_L)."""
        return self.z[-1]


class Gradients(NamedTuple):
    """Gradients of the loss.

    Attributes:
        deltas: δ of layers 1 to L, each (*networks, examples, n_l): one gradient an example.
        weights: with respect to each weight, summed over the examples: (*networks, n_l, n_{l-1}).
        biases: with respect to each bias, summed over the examples: (*networks, n_l).
        inputs: with respect to the inputs, (*networks, examples, n_0): one gradient an example.

    """

    deltas: list[Tensor]
    weights: list[Tensor]
    biases: list[Tensor]
    inputs: Tensor


def forward(network: MLP, inputs: Tensor) -> Cache:
    """Run the network on inputs and keep z and a.

    Args:
        network: the network, or several of them.
        inputs: (*networks, examples, n_0), or (examples, n_0) for all networks alike.

    Raises:
        ValueError: if the inputs have fewer than two dimensions, or not n_0 features.
        TypeError: if the inputs are not a floating-point tensor.

    Example:
        >>> network = random_mlp([3, 5, 2], "relu")
        >>> tuple(forward(network, torch.ones(7, 3, dtype=torch.float64)).output.shape)
        (1, 7, 2)

    """
    features = network.weights[0].shape[-1]
    if floating("inputs", inputs).dim() < 2 or inputs.shape[-1] != features:
        raise ValueError(
            f"inputs need shape (..., examples, {features}), got {tuple(inputs.shape)}"
        )
    z: list[Tensor] = []
    a = [inputs]
    for layer, weight in enumerate(network.weights):
        if z:
            a.append(network.activation.function(z[-1]))
        z.append(a[-1] @ weight.mT + network.bias(layer))
    return Cache(z, a)


def backward(network: MLP, cache: Cache, output_delta: Tensor) -> Gradients:
    """Carry δ from the output back to the input: δ_l = (W_{l+1}ᵀ δ_{l+1}) ⊙ φ′(z_l).

    Args:
        network: the network.
        cache: what :func:`forward` returned for it.
        output_delta: δ_L, the gradient of the loss with respect to the output, of its shape.

    Raises:
        ValueError: if ``output_delta`` has not the output's shape.

    Source: Rumelhart, Hinton & Williams (1986); the chapter *Backpropagation*, equations 2 to 4.

    """
    if output_delta.shape != cache.output.shape:
        raise ValueError(
            f"output_delta needs the output's shape {tuple(cache.output.shape)}, "
            f"got {tuple(output_delta.shape)}"
        )
    deltas = [output_delta]
    for weight, z in zip(network.weights[:0:-1], cache.z[-2::-1], strict=True):
        deltas.append((deltas[-1] @ weight) * network.activation.slope(z))
    deltas.reverse()
    return Gradients(
        deltas=deltas,
        weights=[delta.mT @ a for delta, a in zip(deltas, cache.a, strict=True)],
        biases=[delta.sum(-2) for delta in deltas],
        inputs=deltas[0] @ network.weights[0],
    )


def layer_jacobian(network: MLP, cache: Cache, layer: int) -> Tensor:
    """Return ∂z_{l+1}/∂z_l = W_{l+1} D_l of each example, with D_l = diag φ′(z_l).

    Args:
        network: the network.
        cache: what :func:`forward` returned for it.
        layer: l, from 1 to L-1.

    Returns:
        Tensor of shape (*networks, examples, n_{l+1}, n_l).

    Raises:
        ValueError: if there is no layer above ``layer``.

    """
    last = len(network.weights)
    if not 1 <= layer < last:
        raise ValueError(f"layer must be from 1 to {last - 1} in a network of {last}, got {layer}")
    slope = network.activation.slope(cache.z[layer - 1])
    return network.weights[layer].unsqueeze(-3) * slope.unsqueeze(-2)


def path_products(network: MLP, cache: Cache) -> Tensor:
    """Return the product of weights and slopes along every path from an input to an output.

    Only for tiny networks: the number of paths is the product of all layer sizes.

    Args:
        network: the network.
        cache: what :func:`forward` returned for it.

    Returns:
        Tensor of shape (*networks, examples, n_0, n_1, …, n_L). Summed over the hidden dimensions
        it is the transposed Jacobian of the output with respect to the input.

    Raises:
        ValueError: if there are more than ten million paths.

    """
    first = network.weights[0]
    count = math.prod([first.shape[-1], *(weight.shape[-2] for weight in network.weights)])
    if count > 10**7:
        raise ValueError(f"{count:,} paths are too many to list: at most 10,000,000")
    paths = first.mT.unsqueeze(-3).expand(*cache.z[0].shape[:-1], *first.mT.shape[-2:])
    for layer in range(1, len(network.weights)):
        step = layer_jacobian(network, cache, layer).mT
        between = (1,) * layer
        paths = paths.unsqueeze(-1) * step.reshape(*step.shape[:-2], *between, *step.shape[-2:])
    return paths


def finite_difference(
    function: Callable[[Tensor], Tensor], point: Tensor, *, step: float = 1e-6
) -> Tensor:
    """Return the gradient of a scalar function by central differences, one entry at a time.

    The error is of order step² from the curve and of order eps/step from rounding: in float64 a
    step of 1e-6 leaves about 1e-10 of the gradient's scale.

    Args:
        function: from a tensor of ``point``'s shape to a tensor with one element.
        point: float64 tensor of any shape at which to differentiate.
        step: h in (f(x+h) - f(x-h)) / 2h.

    Returns:
        Tensor of ``point``'s shape.

    Raises:
        TypeError: if ``point`` is not float64, in which nothing would be left of the difference.

    Example:
        >>> point = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> [round(g, 6) for g in finite_difference(lambda x: (x**3).sum(), point).tolist()]
        [3.0, 12.0]

    """
    if point.dtype != torch.float64:
        raise TypeError(f"point must be float64 for differences to be accurate, got {point.dtype}")
    gradient = torch.empty(point.shape, dtype=point.dtype)
    for index in range(point.numel()):
        shift = torch.zeros(point.shape, dtype=point.dtype)
        shift.view(-1)[index] = step
        difference = function(point + shift) - function(point - shift)
        gradient.view(-1)[index] = difference.item() / (2 * step)
    return gradient


def gradient_check(
    function: Callable[[Tensor], Tensor], point: Tensor, gradient: Tensor, *, step: float = 1e-6
) -> float:
    """Return the largest error of a gradient against central differences, relative to its size.

    Args:
        function: from a tensor of ``point``'s shape to a tensor with one element.
        point: float64 tensor of any shape at which to differentiate.
        gradient: what is to be checked, of ``point``'s shape.
        step: h of the differences; see :func:`finite_difference`.

    Returns:
        The largest difference of an entry over the largest entry of the differences. A right
        gradient gives about 1e-9, a wrong one about 1.

    Raises:
        ValueError: if the gradient has not the point's shape, or all differences are zero.
        TypeError: if the gradient is not a floating-point tensor, or ``point`` is not float64.

    Example:
        >>> point = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> gradient_check(lambda x: (x**3).sum(), point, 3 * point**2) < 1e-8
        True

    """
    if floating("gradient", gradient).shape != point.shape:
        raise ValueError(
            f"gradient needs the point's shape {tuple(point.shape)}, got {tuple(gradient.shape)}"
        )
    differences = finite_difference(function, point, step=step)
    size = differences.abs().max().item()
    if size == 0:
        raise ValueError("the function does not change near the point, so nothing can be compared")
    return (gradient - differences).abs().max().item() / size


@dataclass(frozen=True)
class Setting:
    """An activation and the variance of the weights under it.

    Attributes:
        activation: name of the activation.
        weight_variance: σ_w², of a weight times its fan.
        label: what a reader calls it.

    """

    activation: str
    weight_variance: float
    label: str


def gradient_flow(
    settings: Sequence[Setting],
    *,
    width: int = 300,
    depth: int = 30,
    seeds: int | Sequence[int] = 8,
    examples: int = 16,
    input_mean_square: float = 1.0,
) -> Tensor:
    """Measure log₁₀ of the norm of δ at every layer of random networks without biases.

    Inputs and the gradient at the output are normal. All settings see the same draws, scaled, so
    that differences between them are not differences of luck.

    Args:
        settings: what to compare. Layers are square, so fan_in, fan_out and fan_avg agree.
        width: units in every layer.
        depth: number of layers.
        seeds: the seeds to draw, or how many, counting from 0.
        examples: inputs for each network; the norm is taken over all of them.
        input_mean_square: mean of the squared inputs.

    Returns:
        float64 tensor of shape (settings, seeds, depth), each row relative to its last layer.

    Raises:
        TypeError: if a count is not a whole number, or a scale or ``input_mean_square`` is not a
            number.
        ValueError: if there is no setting or no seed, a count is below 1, or a scale or
            ``input_mean_square`` is negative or not finite.

    Example:
        >>> he = Setting("relu", 2.0, "ReLU, He")
        >>> flow = gradient_flow([he], width=200, depth=10, seeds=20)
        >>> abs(slope_per_layer(flow).mean().item()) < 0.01
        True

    """
    if not settings:
        raise ValueError("settings needs at least one setting, got none")
    seeds = random.seed_list(seeds)
    sizes = [positive_integer("width", width)] * (positive_integer("depth", depth) + 1)
    unit = random_mlp(sizes, "identity", seeds=seeds)
    shape = (2, positive_integer("examples", examples), width)
    draws = random.normal(random.generators(seeds, "inputs"), *shape)
    inputs, output_delta = draws.unbind(1)
    inputs = inputs * math.sqrt(non_negative("input_mean_square", input_mean_square))
    flows = []
    for setting in settings:
        std = math.sqrt(non_negative("weight_variance", setting.weight_variance))
        weights = tuple(weight * std for weight in unit.weights)
        network = MLP(weights, None, activations.get(setting.activation))
        deltas = backward(network, forward(network, inputs), output_delta).deltas
        norms = torch.stack([torch.linalg.vector_norm(d, dim=(-2, -1)) for d in deltas], dim=-1)
        flows.append(torch.log10(norms / norms[:, -1:]))
    return torch.stack(flows)


def slope_per_layer(log_norms: Tensor) -> Tensor:
    """Return the least-squares slope of log₁₀ norms along their last dimension, per layer *back*.

    Negative means that the gradient shrinks on its way from the output to the input.

    Args:
        log_norms: (…, L), from the first layer to the last.

    Returns:
        Tensor of shape (…), in log₁₀ per layer; a scalar for one network.

    Raises:
        ValueError: if there are fewer than two layers.
        TypeError: if ``log_norms`` is not a floating-point tensor.

    Example:
        >>> round(slope_per_layer(torch.tensor([-2.0, -1.0, 0.0])).item(), 6)
        -1.0

    """
    if floating("log_norms", log_norms).dim() < 1 or log_norms.shape[-1] < 2:
        raise ValueError(f"log_norms needs shape (..., 2 or more), got {tuple(log_norms.shape)}")
    layer = torch.arange(log_norms.shape[-1], dtype=log_norms.dtype)
    layer = layer - layer.mean()
    return -(log_norms @ layer) / (layer @ layer)
