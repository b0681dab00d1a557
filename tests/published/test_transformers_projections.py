"""Published results on the gradients of queries and values: P41."""

import math
from functools import cache

import pytest
import torch
from helpers import normal
from torch import Tensor, nn

from companion._lib import random
from companion.transformers import Design, networks, projection_flow

WIDTH, TOKENS, SEEDS = 64, 16, 16


@cache
def last_layer(design: Design) -> tuple[Tensor, Tensor]:
    """log₁₀ ‖∂W_Q‖/‖∂W_V‖ in the last layer, and the mean cosine of two tokens of the output.

    The loss is a random linear functional of the outputs for one sequence of normal tokens;
    weights have variance 1/n. Both are (SEEDS,).
    """
    models = nn.ModuleList(networks(design, seeds=SEEDS))
    draws = random.normal(random.generators(range(SEEDS), "inputs"), 2, TOKENS, WIDTH)
    outputs = torch.stack([model(x) for model, x in zip(models, draws[:, 0], strict=True)])
    (outputs * draws[:, 1]).sum().backward()
    query, _, value, _ = projection_flow(models).view(SEEDS, -1, 4)[:, -1].unbind(-1)
    tokens = nn.functional.normalize(outputs.detach(), dim=-1)
    pairs = TOKENS * (TOKENS - 1)
    cosines = ((tokens @ tokens.mT).sum((-2, -1)) - TOKENS) / pairs
    return (query / value).log10(), cosines


def alone(place: str, layers: int, **options: bool) -> Design:
    return Design(place, layers, width=WIDTH, ffn=False, scheme="unit", **options)


def falls(one: Tensor, other: Tensor) -> bool:
    """Whether the mean of the other is lower, by four standard errors of the difference."""
    error = ((one.var() + other.var()) / SEEDS).sqrt()
    return bool(one.mean() - other.mean() > 4 * error)


# P41. Noci et al. (2022), arXiv 2206.03126. "Without skips" has a norm after each layer.


@pytest.mark.breaks(
    "companion/transformers/projections.py", "for k in range(3))", "for k in (2, 1, 0))"
)
def test_p41_queries_and_keys_die_with_the_square_of_what_tokens_differ_by() -> None:
    found = []
    for size in (1e-3, 1e-4):
        packed = nn.MultiheadAttention(8, 2, dtype=torch.float64)
        with torch.no_grad():
            for index, parameter in enumerate(packed.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=index))
        tokens = normal(8) + size * normal(TOKENS, 8, seed=9)
        out = packed(tokens, tokens, tokens)[0]
        (out * normal(TOKENS, 8, seed=10)).sum().backward()
        found.append(projection_flow(packed)[0])
    query, key, value, end = (found[0] / found[1]).tolist()
    # What comes next is of the order of the size itself, a thousandth, times numbers of order one.
    assert [query, key] == pytest.approx([100, 100], rel=0.05)
    assert [value, end] == pytest.approx([1, 1], rel=0.05)


@pytest.mark.parametrize(
    ("skip", "published"),
    [(False, {1: 0.84, 2: 0.28, 4: 5e-5}), (True, {4: 0.42, 8: 0.052, 16: 4e-4})],
)
def test_p41_the_share_of_the_queries_falls_with_depth(
    skip: bool, published: dict[int, float]
) -> None:
    shares = [last_layer(alone("post", layers, skip=skip))[0] for layers in published]
    for share, figure in zip(shares, published.values(), strict=True):
        # One network or a few gave the figure: it lies among those of 16.
        assert share.min() <= math.log10(figure) <= share.max()
    assert falls(shares[0], shares[1])
    assert falls(shares[1], shares[2])


def test_p41_at_depth_8_without_skips_rounding_is_left() -> None:
    share, _ = last_layer(alone("post", 8, skip=False))
    assert (share < math.log10(torch.finfo(torch.float64).eps)).all()


@pytest.mark.parametrize(("layers", "figure"), [(1, 0.48), (2, 0.96)])
def test_p41_tokens_become_alike(layers: int, figure: float) -> None:
    _, cosine = last_layer(alone("post", layers, skip=False))
    assert cosine.min() <= figure <= cosine.max()
    for deeper in (4, 8):
        assert (last_layer(alone("post", deeper, skip=False))[1] > 0.995).all()  # "1"


def test_p41_without_norms_they_die_sooner_and_with_pre_ln_later() -> None:
    for layers in (2, 4):
        bare, normed = (
            last_layer(alone(place, layers, skip=False))[0] for place in ("none", "post")
        )
        assert falls(normed, bare)
    assert (bare < -8).all()  # where the published figure is 5e-5
    for layers in (8, 16):
        pre, post = (last_layer(alone(place, layers))[0] for place in ("pre", "post"))
        assert falls(pre, post)
