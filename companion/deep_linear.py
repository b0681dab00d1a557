"""Deep linear networks: no activation at all, and yet learning that depth can stop.

The network is the product W_L ⋯ W_1, trained by gradient descent on ½‖T - W_L ⋯ W_1‖²: squared
error on whitened inputs, with T the correlation of targets and inputs.

Source: Saxe, McClelland & Ganguli (2013).
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from companion._lib import random
from companion._lib.arguments import one_of, positive_integer
from companion._lib.progress import bar
from companion.products import gaussian_factors, rotations

Start = Literal["orthogonal", "gaussian"]
STARTS: tuple[Start, ...] = get_args(Start)


def mode_strength(time: Tensor, singular_value: float, start: float) -> Tensor:
    """Return the exact strength at each time of one mode of a balanced two-layer linear network.

    Args:
        time: learning rate times number of steps, any shape.
        singular_value: s, the strength that the mode has in the target.
        start: a₀, its strength at time 0, between 0 and s.

    Returns:
        Tensor of ``time``'s shape.

    Raises:
        ValueError: if ``start`` does not lie between 0 and s.

    Source: Saxe et al. (2013), arXiv 1312.6120: the exact solution for two layers.

    Example:
        >>> round(mode_strength(torch.tensor(0.0), 2.0, start=0.1).item(), 6)
        0.1

    """
    if not 0 < start < singular_value:
        raise ValueError(f"start must lie between 0 and {singular_value}, got {start}")
    decay = torch.exp(-2 * singular_value * time)
    return singular_value / (1 + (singular_value / start - 1) * decay)


def half_time(singular_value: float, start: float) -> float:
    """Return when a mode reaches half its final strength: ln(s/a₀ - 1) / 2s.

    Args:
        singular_value: s, the strength that the mode has in the target.
        start: a₀, its strength at time 0, between 0 and s.

    Returns:
        Learning rate times number of steps; negative if the mode starts above half of s.

    Raises:
        ValueError: if ``start`` does not lie between 0 and s.

    Example:
        >>> round(half_time(2.0, start=0.02), 4)
        1.1488

    """
    if not 0 < start < singular_value:
        raise ValueError(f"start must lie between 0 and {singular_value}, got {start}")
    return math.log(singular_value / start - 1) / (2 * singular_value)


def chain(weights: Sequence[Tensor]) -> Tensor:
    """Return W_L ⋯ W_1 of weights given in the order in which they are applied.

    Args:
        weights: L tensors of shape (*networks, n_l, n_{l-1}), at least one.

    Returns:
        Tensor of shape (*networks, n_L, n_0).

    """
    product = weights[0]
    for weight in weights[1:]:
        product = weight @ product
    return product


def weight_gradients(weights: Sequence[Tensor], target: Tensor) -> list[Tensor]:
    """Return the gradient of ½‖T - W_L ⋯ W_1‖² with respect to each weight.

    It is -(W_L ⋯ W_{l+1})ᵀ (T - W_L ⋯ W_1) (W_{l-1} ⋯ W_1)ᵀ, by one pass up and one down.

    Args:
        weights: L tensors of shape (*networks, n_l, n_{l-1}).
        target: T, of shape (*networks or nothing, n_L, n_0).

    Returns:
        L tensors of the weights' shapes.

    """
    below: list[Tensor] = [torch.eye(weights[0].shape[-1], dtype=weights[0].dtype)]
    for weight in weights:
        below.append(weight @ below[-1])
    delta = below.pop() - target
    gradients = []
    for weight, under in zip(reversed(weights), reversed(below), strict=True):
        gradients.append(delta @ under.mT)
        delta = weight.mT @ delta
    return gradients[::-1]


def learn(
    weights: Sequence[Tensor],
    target: Tensor,
    *,
    learning_rate: float | Tensor,
    steps: int,
    progress: bool = True,
) -> Tensor:
    """Train by gradient descent and return W_L ⋯ W_1 before the first step and after each.

    Args:
        weights: L tensors of shape (*networks, n_l, n_{l-1}); they are not changed.
        target: T, of shape (*networks or nothing, n_L, n_0).
        learning_rate: a number, or a tensor of a shape that broadcasts with (*networks, 1, 1).
        steps: how many.
        progress: whether to show a bar.

    Returns:
        Tensor of shape (steps + 1, *networks, n_L, n_0).

    Raises:
        TypeError: if ``steps`` is not a whole number.
        ValueError: if it is below 1.

    """
    weights = [weight.clone() for weight in weights]
    # Not training.train: each network has a target of its own, which is no data set, and the
    # gradient is in closed form.
    products = [chain(weights)]
    steps = positive_integer("steps", steps)
    for _ in bar(range(steps), "deep linear", show=progress):
        gradients = weight_gradients(weights, target)
        weights = [w - learning_rate * g for w, g in zip(weights, gradients, strict=True)]
        products.append(chain(weights))
    return torch.stack(products)


def steps_to_learn(
    start: Start,
    depth: int,
    *,
    n: int = 16,
    learning_rates: Sequence[float],
    fraction: float = 0.05,
    steps: int = 250,
    seeds: int | Sequence[int] = 1,
    progress: bool = True,
) -> Tensor:
    """Return how many steps it takes to bring the loss to ``fraction`` of where it began.

    The target has normal entries of variance 1/n. Every learning rate is tried at once, and a
    reader picks the best for each depth, as the paper does.

    Args:
        start: ``"orthogonal"`` (a random rotation in each layer) or ``"gaussian"`` (entries of
            variance 1/n).
        depth: number of layers.
        n: units in every layer.
        learning_rates: R learning rates, each divided by ``depth`` before use.
        fraction: of the first loss.
        steps: the budget.
        seeds: the seeds to draw, or how many, counting from 0; each with a target of its own.
        progress: whether to show a bar.

    Returns:
        float64 tensor of shape (R, seeds): the first step below ``fraction``, or inf.

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if ``start`` is another word, a count is below 1, or there is no seed.

    Source: Saxe et al. (2013), arXiv 1312.6120; the protocol there is MNIST.

    """
    draw = {"orthogonal": rotations, "gaussian": gaussian_factors}[one_of("start", start, STARTS)]
    seeds = random.seed_list(seeds)
    factors = draw(n, depth, seeds=seeds).unsqueeze(0)
    rates = torch.tensor(list(learning_rates), dtype=torch.float64) / depth
    weights = [factors[:, :, layer].expand(len(rates), -1, -1, -1) for layer in range(depth)]
    target = random.normal(random.generators(seeds, "inputs"), n, n) / math.sqrt(n)
    products = learn(
        weights, target, learning_rate=rates.view(-1, 1, 1, 1), steps=steps, progress=progress
    )
    loss = (products - target).square().sum((-2, -1))
    step = torch.arange(steps + 1, dtype=torch.float64).view(-1, 1, 1)
    reached = torch.where(loss <= fraction * loss[0], step, math.inf)
    return reached.amin(0)
