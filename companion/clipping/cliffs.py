"""Two losses whose gradient changes by orders of magnitude, and descent on them with a clip.

The *cliff* is the loss of a recurrent unit after fifty steps, as a function of its two parameters:
almost flat on both sides of a wall. On x⁴ the gradient has no wall but no bound either, and the
largest safe step far out is far too small further in.

Sources: Pascanu, Mikolov & Bengio (2013), arXiv 1211.5063; Zhang et al. (2020), arXiv 1905.11881.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from companion._lib import random
from companion._lib.arguments import non_negative, positive_integer

START = 0.5


def cliff(points: Tensor, *, steps: int = 50, target: float = 0.7) -> Tensor:
    """Return the loss (σ(h_T) − target)² of a unit h_t = w·σ(h_{t−1}) + b that starts at 0.5.

    Args:
        points: (..., 2), each a pair of w and b.
        steps: T, how often the unit feeds on its own output.
        target: what σ(h_T) should be.

    Returns:
        (...) the losses, which can be differentiated once.

    Raises:
        TypeError: if ``steps`` is not a whole number.
        ValueError: if ``steps`` is below 1, or the points are not pairs.

    Source: Pascanu, Mikolov & Bengio (2013), arXiv 1211.5063.

    Example:
        >>> round(cliff(torch.tensor([0.0, 0.0])).item(), 6)  # h_T is b = 0, and σ(0) is 0.5
        0.04

    """
    if points.dim() == 0 or points.shape[-1] != 2:
        raise ValueError(f"points must have the shape (..., 2), got {tuple(points.shape)}")
    w, b = points.unbind(-1)
    last = _Unrolled.apply(w, b, positive_integer("steps", steps))
    return (last.sigmoid() - target) ** 2


class _Unrolled(Function):
    """h_T of the unit h_t = w·σ(h_{t−1}) + b, with its way back written out.

    With δ_T the gradient at h_T, δ_{t−1} = σ′(h_{t−1})·w·δ_t; ∂L/∂w = Σ δ_t·σ(h_{t−1}), and
    ∂L/∂b = Σ δ_t. A graph of fifty steps, which is made and used once, takes three times as long.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, b: Tensor, steps: int) -> Tensor:  # noqa: ANN401
        h, outputs = torch.full_like(w, START), []
        for _ in range(steps):
            outputs.append(h.sigmoid())
            h = w * outputs[-1] + b
        ctx.save_for_backward(w, *outputs)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        w, *outputs, last = ctx.saved_tensors
        to_w, to_b = delta * last, delta
        for output in reversed(outputs):
            delta = torch.ops.aten.sigmoid_backward(delta * w, last)
            to_w, to_b, last = to_w + delta * output, to_b + delta, output
        return to_w, to_b, None


def on_the_edge(w: Tensor) -> Tensor:
    """Return the points (w, b) from which the unit never moves: the edge of the cliff.

    There 0.5 is a fixed point, b = 0.5 − w·σ(0.5). Where λ = w·σ′(0.5) > 1 it repels: a unit that
    starts a little above runs away upwards, one that starts below downwards.

    Args:
        w: (...) the weights.

    Returns:
        (..., 2) the points.

    """
    start = torch.tensor(START, dtype=w.dtype)
    return torch.stack([w, start - w * start.sigmoid()], dim=-1)


def edge_gradient(w: Tensor, *, steps: int = 50, target: float = 0.7) -> Tensor:
    """Return the norm of the gradient of :func:`cliff` on its edge, in closed form.

    Every step has the slope λ = w·σ′(0.5), so ∂h_T/∂b = 1 + λ + … + λ^(T−1) = (λ^T − 1)/(λ − 1),
    and ∂h_T/∂w is σ(0.5) times that: where λ > 1 it grows with T as λ^T.

    Args:
        w: (...) the weights.
        steps: T.
        target: as for :func:`cliff`.

    Returns:
        (...) the norms.

    Raises:
        TypeError: if ``steps`` is not a whole number.
        ValueError: if it is below 1.

    Example:
        >>> w = torch.tensor(5.0, dtype=torch.float64)
        >>> point = on_the_edge(w).requires_grad_()
        >>> (gradient,) = torch.autograd.grad(cliff(point), point)
        >>> round(gradient.norm().item(), 3), round(edge_gradient(w).item(), 3)
        (779.398, 779.398)

    """
    output = torch.tensor(START, dtype=w.dtype).sigmoid()
    slope = output * (1 - output)
    powers = torch.arange(positive_integer("steps", steps), dtype=w.dtype)
    total = (w[..., None] * slope).pow(powers).sum(-1)
    return (2 * (output - target) * slope * total).abs() * torch.sqrt(1 + output**2)


def quartic(points: Tensor) -> Tensor:
    """Return Σx⁴ over the last dimension: the gradient is 4x³, the curvature 12x² has no bound.

    Args:
        points: (..., D).

    Returns:
        (...) the sums.

    """
    return points.pow(4).sum(-1)


def descend(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    learning_rate: float | Tensor,
    steps: int,
    max_norm: float | Tensor = math.inf,
) -> Tensor:
    """Return the path of gradient descent from each start, each gradient clipped by its norm.

    Args:
        loss: of points (..., D), returning (...).
        start: (..., D) where the paths begin.
        learning_rate: a number, or one a path: of a shape that broadcasts with (...).
        steps: number of updates.
        max_norm: largest norm a gradient is left with; inf does not clip. Of such a shape as well.

    Returns:
        (steps + 1, ..., D) the points passed, the start first. A path that has left the numbers
        goes on as nan.

    Raises:
        TypeError: if ``steps`` is not a whole number.
        ValueError: if it is below 1.

    Example:
        >>> descend(quartic, torch.tensor([2.0]), learning_rate=0.1, steps=2, max_norm=5.0).tolist()
        [[2.0], [1.5], [1.0]]

    """
    rate = torch.as_tensor(learning_rate, dtype=start.dtype)[..., None]
    bound = torch.as_tensor(max_norm, dtype=start.dtype)[..., None]
    # Not training.train: here are points instead of networks with layers, and a path that has left
    # the numbers goes on as nan, where a network there stops.
    path = [start.detach()]
    for _ in range(positive_integer("steps", steps)):
        point = path[-1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(point).sum(), point)
        norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
        factor = torch.where(norm > bound, bound / norm, 1.0)
        path.append(path[-1] - rate * factor * gradient)
    return torch.stack(path)


class Fastest(NamedTuple):
    """The best choice of a search, and what it needs.

    Attributes:
        steps: updates until the slowest start has arrived.
        learning_rate: η of each of them.
        max_norm: the norm to which gradients were clipped; inf without clipping.

    """

    steps: int
    learning_rate: float
    max_norm: float


LEARNING_RATES = tuple(2.0 ** (-k / 8) for k in range(-8, 121))
MAX_NORMS = tuple(2.0**k for k in range(-6, 12))


def _shares(starts: int, seed: int) -> Tensor:
    """Draw numbers between ½ and 1, but for the last, which is 1."""
    count, source = positive_integer("starts", starts), random.generator(seed, "data")
    drawn = torch.rand(count, generator=source, dtype=torch.float64)
    drawn[-1] = 1.0
    return (1 + drawn) / 2


def fastest(
    size: float,
    *,
    clip: bool,
    learning_rates: Sequence[float] = LEARNING_RATES,
    max_norms: Sequence[float] = MAX_NORMS,
    tolerance: float = 0.01,
    starts: int = 200,
    seed: int = 0,
    limit: int = 10_000,
) -> Fastest:
    """Search the learning rate (and threshold) that brings descent on x⁴ home from everywhere near.

    A choice is judged by its slowest start. From a single one some learning rate happens to jump to
    the minimum at once, which proves nothing; and from evenly spaced ones rates and thresholds that
    are powers of 2 find their own grid again.

    Args:
        size: the starts are drawn between size/2 and size; the last of them is size itself.
        clip: whether to search a threshold too; plain gradient descent otherwise.
        learning_rates: those that are tried.
        max_norms: those that are tried with each learning rate, if clipping.
        tolerance: done when the gradient of every start is at most that.
        starts: how many.
        seed: of the draw.
        limit: the steps after which a choice is given up.

    Raises:
        ValueError: if ``size`` or ``tolerance`` is not positive and finite, ``starts`` is below 1,
            or no choice arrives in time.
        TypeError: if one of the first two is not a number, or ``starts`` is no whole one.

    Source: the comparison is that of Zhang et al. (2020), arXiv 1905.11881.

    Example:
        >>> fastest(1.0, clip=False).steps > fastest(1.0, clip=True).steps
        True

    """
    if not (non_negative("size", size) > 0 and non_negative("tolerance", tolerance) > 0):
        raise ValueError(f"size and tolerance must be positive, got {size} and {tolerance}")
    rates = torch.tensor(list(learning_rates), dtype=torch.float64)
    norms = torch.tensor(list(max_norms) if clip else [math.inf], dtype=torch.float64)
    pairs = torch.cartesian_prod(rates, norms)
    x = size * _shares(starts, seed).expand(len(pairs), -1)
    for step in range(limit + 1):
        gradient = (x**3).mul_(4)  # in place, as below: new memory would take most of the time
        arrived = (gradient.abs() <= tolerance).all(1)
        if arrived.any():
            rate, norm = pairs[arrived.nonzero()[0, 0]].tolist()
            return Fastest(steps=step, learning_rate=rate, max_norm=norm)
        x -= gradient.clamp_(-pairs[:, 1:], pairs[:, 1:]).mul_(pairs[:, :1])
        # Twice as far out as it began, or no number, no start is on its way home.
        going = (x.abs() <= 2 * size).all(1)
        if not going.any():
            break
        if not going.all():
            pairs, x = pairs[going], x[going]
    raise ValueError(f"none of the choices brought every start home within {limit} steps")
