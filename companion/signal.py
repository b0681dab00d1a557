"""Mean-field theory: what a wide random network does to lengths and gradients, layer by layer.

A wide layer with weights of variance σ_w²/n and biases of variance σ_b² turns pre-activations of
variance q into pre-activations of variance σ_w² E[φ(√q g)²] + σ_b², with g standard normal, and on
the way back multiplies the squared gradient by χ = σ_w² E[φ′(√q g)²].

Sources: Poole et al. (2016), arXiv 1606.05340; Schoenholz et al. (2017), arXiv 1611.01232.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from companion import activations
from companion._checks import non_negative, positive_integer
from companion.activations import Activation


@cache
def _half_line(points: int = 200, end: float = 12.0) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes on (0, end) and weights that include the normal density."""
    x, w = np.polynomial.legendre.leggauss(points)
    node = torch.from_numpy((x + 1) * end / 2)
    density = torch.exp(-(node**2) / 2) / math.sqrt(2 * math.pi)
    return node, torch.from_numpy(w * end / 2) * density


def gaussian_mean(function: Callable[[Tensor], Tensor], variance: float) -> float:
    """Return E[f(z)] for z normal with mean 0 and the given variance.

    The two half-lines are integrated apart, so that a kink at 0, such as ReLU's, costs no accuracy.

    Example:
        >>> round(gaussian_mean(torch.square, 4.0), 10)
        4.0

    """
    node, weight = _half_line()
    root = math.sqrt(non_negative("variance", variance))
    return float(weight @ (function(root * node) + function(-root * node)))


def length_map(
    q: float, activation: str | Activation, weight_variance: float, bias_variance: float = 0.0
) -> float:
    """Return the variance of the next layer's pre-activations, given this layer's variance ``q``.

    Args:
        q: variance of this layer's pre-activations.
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w², which is fan_in times the variance of one weight.
        bias_variance: σ_b², the variance of one bias.

    Example:
        >>> round(length_map(1.0, "relu", weight_variance=2.0), 10)
        1.0

    """
    phi = activations.get(activation).function
    mean_square = gaussian_mean(lambda z: phi(z) ** 2, q)
    return non_negative("weight_variance", weight_variance) * mean_square + non_negative(
        "bias_variance", bias_variance
    )


def chi(q: float, activation: str | Activation, weight_variance: float) -> float:
    """Return χ, the factor on the squared gradient in one layer whose length is ``q``.

    Example:
        >>> round(chi(1.0, "relu", weight_variance=2.0), 10)
        1.0

    """
    slope = activations.get(activation).slope
    mean_square = gaussian_mean(lambda z: slope(z) ** 2, q)
    return non_negative("weight_variance", weight_variance) * mean_square


def gradient_flow(
    activation: str | Activation,
    weight_variance: float,
    bias_variance: float = 0.0,
    *,
    depth: int,
    input_mean_square: float = 1.0,
) -> Tensor:
    """Predict log₁₀ of the norm of δ at layers 1 to ``depth``, relative to the last one.

    The length of the signal is followed forward from the input, and the gradient back through the
    lengths it met, so the line holds at finite depth and not only at a fixed point.

    Args:
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w² of every layer.
        bias_variance: σ_b² of every layer.
        depth: number of layers, at least 1.
        input_mean_square: mean of the squared inputs.

    Returns:
        float64 tensor of shape (depth,), whose last entry is 0.

    Source: Schoenholz et al. (2017), arXiv 1611.01232.

    Example:
        >>> flow = gradient_flow("relu", 1.0, depth=3)
        >>> [round(value, 4) for value in flow.tolist()]
        [-0.301, -0.1505, 0.0]

    """
    depth = positive_integer("depth", depth)
    q = weight_variance * non_negative("input_mean_square", input_mean_square) + bias_variance
    factors = []
    for _ in range(depth - 1):
        factors.append(chi(q, activation, weight_variance))
        q = length_map(q, activation, weight_variance, bias_variance)
    steps = torch.tensor([*factors, 1.0], dtype=torch.float64).log10() / 2
    return steps.flip(0).cumsum(0).flip(0)


def fixed_point(
    activation: str | Activation,
    weight_variance: float,
    bias_variance: float = 0.0,
    *,
    start: float = 1.0,
    tolerance: float = 1e-12,
    max_iterations: int = 10_000,
) -> float:
    """Return q*, the length that the length map leaves as it is.

    Raises:
        ValueError: if the iteration from ``start`` settles nowhere: the length grows without bound,
            or approaches its limit more slowly than any exponential (as tanh does at σ_w² = 1).

    Example:
        >>> round(fixed_point("tanh", 1.3, 0.05), 4)
        0.3153

    """
    q = start
    for _ in range(max_iterations):
        following = length_map(q, activation, weight_variance, bias_variance)
        if abs(following - q) <= tolerance * max(1.0, q):
            return following
        if not following < 1e100:
            break
        q = following
    raise ValueError(
        f"no fixed point reached for weight_variance={weight_variance} and "
        f"bias_variance={bias_variance}: from {start:g} the length came to {q:.3g}"
    )
