"""Attention by itself, layer after layer: all tokens become one.

Source: Dong et al. (2021), arXiv 2103.03404.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from companion._lib import random
from companion._lib.arguments import non_negative, positive_integer


def token_spread(x: Tensor) -> Tensor:
    """Return how far tokens are from all being one: ‖X − mean token‖/‖X‖, from 0 to 1.

    Args:
        x: (…, tokens, width).

    Returns:
        Tensor of shape (…); nan where all tokens are 0.

    Source: Dong et al. (2021), arXiv 2103.03404, who take other norms.

    Example:
        >>> token_spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item()
        1.0

    """
    apart = x - x.mean(-2, keepdim=True)
    return apart.flatten(-2).norm(dim=-1) / x.flatten(-2).norm(dim=-1)


def rank_collapse(
    *,
    skip: bool,
    layers: int = 12,
    tokens: int = 16,
    width: int = 32,
    weight_variance: float = 1.0,
    seeds: int | Sequence[int] = 8,
) -> Tensor:
    """Measure how soon attention without norms and FFNs makes all tokens alike.

    A layer is X ← softmax(X W_q W_kᵀ Xᵀ/√width) X W_v, with X added to it or not. Where tokens
    differ by little, the softmax is nearly even and their differences are multiplied by little
    more than their own size: they vanish doubly exponentially.

    Args:
        skip: whether X is added.
        layers: how many.
        tokens: of the sequence.
        width: of each token.
        weight_variance: σ_w², width times the variance of each weight.
        seeds: the seeds to draw, or how many, counting from 0.

    Returns:
        (seeds, layers + 1) the :func:`token_spread` of the inputs and after each layer.

    Raises:
        TypeError: if a count is not a whole number, or the variance is not a number.
        ValueError: if a count is below 1, there is no seed, or the variance is negative or not
            finite.

    Source: Dong et al. (2021), arXiv 2103.03404.

    Example:
        >>> bool((rank_collapse(skip=False, layers=5)[:, -1] < 1e-6).all())
        True

    """
    width = positive_integer("width", width)
    std = math.sqrt(non_negative("weight_variance", weight_variance) / width)
    draw = partial(random.normal, random.generators(random.seed_list(seeds)))
    x = draw(positive_integer("tokens", tokens), width)
    found = [token_spread(x)]
    for _ in range(positive_integer("layers", layers)):
        q, k, v = (x @ (std * draw(width, width)) for _ in range(3))
        out = (q @ k.mT / math.sqrt(width)).softmax(-1) @ v
        x = x + out if skip else out
        found.append(token_spread(x))
    return torch.stack(found, dim=-1)
