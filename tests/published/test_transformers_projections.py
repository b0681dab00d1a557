"""Published results on the gradients of queries and keys, P41: they die before those of values."""

import math

import pytest
import torch
from helpers import four_errors, within
from torch import Tensor, nn

from companion._lib import random
from companion.transformers import Design, networks, projection_flow

# P41. Noci et al. (2022), arXiv 2206.03126.

SEEDS, TOKENS, WIDTH = range(32), 16, 64


def queries_over_values(design: Design) -> tuple[Tensor, Tensor]:
    """‖∂W_Q‖/‖∂W_V‖ in the last layer, and the mean cosine of two tokens' outputs, of each seed.

    Tokens are normal, and the loss is a normal linear function of all outputs.
    """
    ratios, cosines = [], []
    draws = random.normal(random.generators(SEEDS, "inputs"), 2, TOKENS, design.width)
    for model, (x, weights) in zip(networks(design, seeds=SEEDS), draws, strict=True):
        *before, last = model.sublayers
        with torch.no_grad():
            for sublayer in before:
                x = sublayer(x)
        out = last(x)
        (out * weights).sum().backward()
        queries, _, values, _ = projection_flow(model)[-1]
        ratios.append(queries / values)
        unit = nn.functional.normalize(out.detach(), dim=-1)
        cosines.append(((unit @ unit.mT).sum() - TOKENS) / (TOKENS * (TOKENS - 1)))
    return torch.stack(ratios), torch.stack(cosines)


def attention_alone(place: str, layers: int, *, skip: bool) -> Design:
    return Design(place, layers, width=WIDTH, ffn=False, skip=skip)


@pytest.mark.breaks(
    "companion/transformers/projections.py", ".reshape(-1, 4)\n", ".reshape(4, -1).mT\n",
    case="True-8-0.052",
)  # fmt: skip
@pytest.mark.parametrize(
    ("skip", "layers", "recorded"),
    [
        *((False, 1, 0.84), (False, 2, 0.28), (False, 4, 5e-5)),
        *((True, 4, 0.42), (True, 8, 0.052), (True, 16, 4e-4)),
    ],
    ids=lambda value: str(value),
)
def test_p41_behind_norms_the_ratio_falls_with_depth(
    skip: bool, layers: int, recorded: float
) -> None:
    """Of what differs by decades between networks, the mean of the logarithms."""
    ratios, _ = queries_over_values(attention_alone("post", layers, skip=skip))
    assert within(ratios.log10(), math.log10(recorded))
    assert four_errors(ratios.log10()) < 1  # a decade tells the depths apart


def test_p41_tokens_become_alike_meanwhile() -> None:
    """Cosines are recorded as .48, .96, 1, 1; here .42, .91 (four errors .05), 1, 1."""
    found = [
        queries_over_values(attention_alone("post", layers, skip=False)) for layers in (1, 2, 4, 8)
    ]
    one, two, *deeper = (cosine for _, cosine in found)
    assert within(one, 0.48)
    assert one.mean() + four_errors(one) < 0.85 < two.mean() - four_errors(two)
    assert min(cosine.min().item() for cosine in deeper) > 0.995
    # At depth 8 float64 tells no token from another: what is left of the ratio is rounding.
    assert found[-1][0].max() < torch.finfo(torch.float64).eps


@pytest.mark.parametrize(("layers", "behind_norms"), [(2, 0.28), (4, 5e-5)])
def test_p41_without_norms_it_falls_sooner(layers: int, behind_norms: float) -> None:
    ratios, _ = queries_over_values(attention_alone("none", layers, skip=False))
    logs = ratios.log10()
    assert logs.mean() + four_errors(logs) < math.log10(behind_norms)


def nearly_alike(spread: float) -> Tensor:
    """(seeds, 4) norms for tokens that are one but for a share of this size, in one layer."""
    found = []
    draws = random.normal(random.generators(SEEDS, "inputs"), 2 * TOKENS + 1, WIDTH)
    design = attention_alone("none", 1, skip=False)
    for model, draw in zip(networks(design, seeds=SEEDS), draws, strict=True):
        common, apart, weights = draw.split([1, TOKENS, TOKENS])
        (model(common + spread * apart) * weights).sum().backward()
        found.append(projection_flow(model)[0])
    return torch.stack(found)


@pytest.mark.breaks(
    "companion/transformers/projections.py",
    '("query", "key", "value")',
    '("value", "key", "query")',
)
def test_p41_of_tokens_that_are_one_queries_and_keys_get_nothing() -> None:
    norms = nearly_alike(0.0)
    values = norms[:, 2:3]
    rounding = TOKENS * torch.finfo(torch.float64).eps  # of a sum over the tokens that is 0
    assert (norms[:, :2] <= rounding * values).all()
    assert (norms[:, 3:] > 0.1 * values).all()


def test_p41_the_ratio_falls_as_the_square_of_what_tells_tokens_apart() -> None:
    """Logits get a gradient by what values differ in, and pass it on by what keys differ in."""

    def past_four(spread: float) -> float:
        """By how much half the spread makes the ratios more than four times smaller, or less."""
        whole, half = nearly_alike(spread), nearly_alike(spread / 2)
        falls = (whole[:, :2] / whole[:, 2:3]) / (half[:, :2] / half[:, 2:3])
        return (falls - 4).abs().max().item()

    # What is left is of first order in the spread.
    assert past_four(1e-2) < 0.1
    assert past_four(1e-3) == pytest.approx(past_four(1e-2) / 10, rel=0.1)
