"""Published results on changes of weights in transformers: P29, P42, P44."""

import math
from functools import cache, partial
from itertools import pairwise

import pytest
from helpers import four_errors
from torch import Tensor

from companion import backprop
from companion.data import digits
from companion.transformers import (
    Coordinates,
    Design,
    amplification,
    coordinate_check,
    first_step,
    networks,
    predicted_amplification,
)

# P42. Liu et al. (2020), arXiv 2004.08249.

DEPTHS = (3, 6, 12, 24, 48)


@pytest.mark.parametrize(
    ("place", "first", "last"),
    [("post", 4.4, 127), ("pre", 2.9, 7.4), ("peri", 4, 10), ("deepnorm", 0.12, 0.03)],
)
def test_p42_amplification_from_3_to_48_layers(place: str, first: float, last: float) -> None:
    designs = [Design(place, layers, scheme="unit") for layers in DEPTHS]
    expected = [predicted_amplification(design) for design in designs]
    # Not predicted are queries and keys. Where the logits' variance is 1, each adds no more than
    # values do: 4 + 2 matrices a layer where 2 + 2 are predicted. And a few draws of width 64 are
    # off by a quarter at most depths.
    for reported, wanted in ((first, expected[0]), (last, expected[-1])):
        assert 0.75 * wanted < reported < 1.5 * wanted
    found = [amplification(design, sequences=2, seeds=6) for design in designs[:3]]
    for sample, wanted in zip(found, expected, strict=False):
        assert wanted - four_errors(sample) < sample.mean() < 1.5 * wanted + four_errors(sample)
    if place == "post":  # in proportion, and a little more while tokens are not yet alike
        assert all(2 < more / less < 2.25 for less, more in pairwise(expected))
    elif place == "deepnorm":  # as one over the root
        shrinks = [more / less for less, more in pairwise(expected)]
        assert shrinks == pytest.approx([0.5**0.5] * 4, rel=0.01)
    else:  # twice the depth adds the same: 2 log 2, of tokens that are alike
        gains = [more - less for less, more in pairwise(expected)]
        assert gains == pytest.approx([2 * math.log(2)] * 4, abs=0.2)


# P44. Yang et al. (2023), arXiv 2310.02244; Bordelon et al. (2023), arXiv 2309.16620; Dey et al.
# (2025), arXiv 2505.01618.


def moved(layers: int, power: float) -> Tensor:
    """The rate, which is not reported, is one at which branches × 1/L give what is."""
    design = Design("pre", layers, width=32, scheme="unit", branch_scale=layers**power)
    return first_step(design, digits(), learning_rate=4e-4, batch_size=8, seeds=3)[:, -1]


@pytest.mark.parametrize(
    ("power", "reported"),
    [(0.0, (0.061, 0.213, 0.457)), (-0.5, (0.040, 0.097, 0.186)), (-1.0, (0.022, 0.022, 0.021))],
)
def test_p44_the_first_step_of_stacks_of_4_16_and_64_layers(power: float, reported: tuple) -> None:
    found = [moved(layers, power) for layers in (4, 16, 64)]
    for less, more in pairwise(found):
        # Four times the depth: as far, twice as far, or further yet.
        wanted = {-1.0: 1, -0.5: 2, 0.0: 2}[power]
        error = math.hypot(wanted * four_errors(less), four_errors(more))
        more_than = more.mean() - wanted * less.mean()
        assert more_than >= -error
        assert power == 0 or more_than <= error
    assert power == 0 or found[2].mean() < 6 * found[0].mean()
    # Neither width nor data are reported: to a factor of two.
    for sample, one in zip(found, reported, strict=True):
        assert one / 2 < sample.mean() < 2 * one


# P29. Yang et al. (2022), arXiv 2203.03466.

MLP_WIDTHS, TRANSFORMER_WIDTHS = (64, 128, 256, 512), (32, 64, 128)


def mlps(width: int, seeds: list[int]) -> list:
    return backprop.classifiers("relu", 2.0, 4, width=width, seeds=seeds)


def transformers(width: int, seeds: list[int], *, mup: bool) -> list:
    scale = 32**0.5 / width if mup else None
    design = Design("pre", 2, width=width, hidden=width, scheme="unit", logit_scale=scale)
    return networks(design, tokens=8, features=8, outputs=10, seeds=seeds)


@cache
def checked(kind: str, *, mup: bool) -> Coordinates:
    check = partial(coordinate_check, data=digits(), learning_rate=1e-4, steps=3)
    if kind == "mlp":
        return check(mlps, widths=MLP_WIDTHS, base_width=64 if mup else None, seeds=6)
    make, base = partial(transformers, mup=mup), 32 if mup else None
    return check(make, widths=TRANSFORMER_WIDTHS, base_width=base, added=("positions",), seeds=3)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_p29_changes_grow_with_the_width_and_under_mup_they_do_not(kind: str) -> None:
    standard, mup = (checked(kind, mup=which).exponents for which in (False, True))
    # "1.0 ± .14", in the mean over all layers but that of the inputs, which do not become more.
    # "0.00 ± .03" takes wider networks: here it is to the same .14.
    for found, others in ((standard, 1), (mup, 0)):
        assert found[:, 0].mean().item() == pytest.approx(0, abs=0.14)
        assert found[:, 1:].mean().item() == pytest.approx(others, abs=0.14)
        assert ((found[:, 1:].mean(0) - others).abs() < 0.5).all()
