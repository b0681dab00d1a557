"""Shattered gradients: how soon the gradients at two inputs have nothing to do with each other.

The network is x_{l+1} = W_l φ(x_l), from orthogonal inputs x_0. It may normalize x_l over a batch
before φ, and it may add x_l again (a residual block, normalized before its activation). All
gradients start from the same random direction at the output.

Source: Balduzzi et al. (2017), arXiv 1702.08591.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from companion import activations
from companion._lib import random
from companion._lib.arguments import non_negative, positive_integer
from companion.activations import Activation
from companion.meanfield import Gradient, State


def gradient_correlation(
    depths: Sequence[int],
    *,
    activation: str | Activation = "relu",
    weight_variance: float = 2.0,
    batch_norm: bool = False,
    residual: bool = False,
    width: int = 128,
    examples: int = 64,
    compared: int = 8,
    seeds: int | Sequence[int] = 16,
) -> Tensor:
    """Measure the correlation of the gradients at two orthogonal inputs of random networks.

    It is the cosine between ∂f(x)/∂x at two inputs x, averaged over all pairs of those compared.
    Batch statistics are taken over all examples and count as constants in the gradient, as the
    gradient of one example's output with respect to that example has them, to 1 over the examples.

    Args:
        depths: numbers of blocks at which to measure.
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w², 2 for He.
        batch_norm: whether to normalize before the activation.
        residual: whether to add each block's input to its output.
        width: units in every layer, and number of inputs.
        examples: orthogonal inputs, at most ``width``.
        compared: of how many of them gradients are taken.
        seeds: the seeds to draw, or how many, counting from 0.

    Returns:
        float64 tensor of shape (seeds, len(depths)); NaN where a gradient is zero.

    Raises:
        ValueError: if there is no depth or no seed, a depth is below 1, there are more examples
            than dimensions, or more compared than there are, or fewer than 2; or if
            ``weight_variance`` is negative or not finite.
        TypeError: if a count is not a whole number, or ``weight_variance`` is not a number.

    Example:
        >>> found = gradient_correlation([1, 2], batch_norm=True, seeds=8).mean(0)
        >>> [round(value, 1) for value in found.tolist()]
        [0.5, 0.2]

    """
    phi = activations.get(activation)
    depths = [positive_integer("each of depths", depth) for depth in depths]
    if not depths:
        raise ValueError("depths needs at least one depth, got none")
    if not 2 <= positive_integer("compared", compared) <= examples <= width:
        raise ValueError(
            "compared, examples and width must be in this order, and 2 or more; got "
            f"{compared}, {examples} and {width}"
        )
    draw = partial(random.normal, random.generators(random.seed_list(seeds)))
    std = math.sqrt(non_negative("weight_variance", weight_variance) / width)
    x = torch.linalg.qr(draw(width, width)).Q[:, :examples] * math.sqrt(width)
    weights, factors = [], []
    for _ in range(max(depths)):
        weights.append(draw(width, width) * std)
        mean, scale = 0.0, torch.ones(())
        if batch_norm:
            mean, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True, correction=0)
        z = (x - mean) / scale
        factors.append(phi.slope(z[:, :compared]) / scale)
        x = residual * x + phi.function(z) @ weights[-1].mT
    found = []
    for depth in depths:
        gradient = draw(1, width).expand(-1, compared, -1)
        for weight, factor in zip(weights[depth - 1 :: -1], factors[depth - 1 :: -1], strict=True):
            gradient = residual * gradient + (gradient @ weight) * factor
        found.append(_mean_cosine(gradient))
    return torch.stack(found, dim=-1)


def _mean_cosine(vectors: Tensor) -> Tensor:
    """Return the mean cosine between two of the vectors in the rows of (..., vectors, n)."""
    unit = vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    count = vectors.shape[-2]
    return (unit.sum(-2).square().sum(-1) - count) / (count * (count - 1))


def predicted_correlation(
    depth: int,
    *,
    activation: str | Activation = "relu",
    weight_variance: float = 2.0,
    batch_norm: bool = False,
    residual: bool = False,
    examples: int | None = None,
) -> Tensor:
    """Return what mean-field theory says of :func:`gradient_correlation`, at depths 1 to ``depth``.

    At each block the product of the two gradients is multiplied by χ(c) and their squares by χ(1),
    plus 1 each in a residual block, where c is the correlation of the two inputs there. Batch norm
    divides χ by the variance over the batch, brings the length to 1, and c to -1/(B - 1) for a
    batch of B: less their mean, numbers lean away from each other.

    Args:
        depth: largest number of blocks.
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w².
        batch_norm: whether to normalize before the activation.
        residual: whether to add each block's input to its output.
        examples: B, as far as batch norm is concerned; None for infinitely many.

    Returns:
        float64 tensor of shape (depth,).

    Raises:
        TypeError: if ``depth`` or ``examples`` is not a whole number, or ``weight_variance`` is not
            a number.
        ValueError: if ``depth`` is below 1 or ``examples`` below 2, ``weight_variance`` is
            negative, not finite, or 0 without a residual, or φ has kinks elsewhere than at 0.

    Source: Balduzzi et al. (2017), arXiv 1702.08591; correlations by Poole et al. (2016), arXiv
    1606.05340, instead of their assumption that c is 0.

    Example:
        >>> [round(x, 3) for x in predicted_correlation(3, batch_norm=True).tolist()]
        [0.5, 0.25, 0.125]

    """
    phi = activations.get(activation)
    if examples is not None and positive_integer("examples", examples) < 2:
        raise ValueError(f"examples must be at least 2, got {examples}")
    if not (non_negative("weight_variance", weight_variance) or residual):
        raise ValueError("weight_variance must be above 0, got 0: no gradient comes back")
    stream = State(1.0, 1.0)
    correlation, found = 1.0, []
    for _ in range(positive_integer("depth", depth)):
        x = stream.start()
        normalized = x.norm("batch", examples) if batch_norm else x
        branch = normalized.activation(phi).weights(weight_variance)
        stream = x.plus(branch) if residual else branch
        gradient = stream.back(Gradient(1.0, 1.0))
        correlation *= gradient.overlap / gradient.square
        found.append(correlation)
    return torch.tensor(found, dtype=torch.float64)
