"""Rounding by chance against its own probabilities; sums and exponentials against torch's types."""

import math

import pytest
import torch
from helpers import normal
from torch import Generator, Tensor
from torch.nn import functional

from companion import precision
from companion.precision import FORMATS, FormatName, rounded, spacing, stochastically_rounded, sums

F64 = torch.float64
DRAWS = 20_000


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def between(name: FormatName) -> tuple[Tensor, Tensor, Tensor]:
    """Values of both signs, normal and subnormal, with the numbers below and above them."""
    kind = FORMATS[name]
    low = torch.tensor(
        [1.0, 2 - kind.eps, 1.5, kind.smallest_normal, 0.0, 3 * kind.smallest], dtype=F64
    )
    gap = (
        torch.tensor([1, 1, 1, kind.smallest_normal, kind.smallest_normal, kind.smallest_normal])
        * kind.eps
    )
    share = torch.tensor([0.5, 0.25, 0.1, 0.9, 0.03, 0.7], dtype=F64)
    values = low + share * gap
    return (
        torch.cat([values, -values]),
        torch.cat([low, -low - gap]),
        torch.cat([low + gap, -low]),
    )


@pytest.mark.breaks("companion/precision/rounding.py", "steps - below", "0.5")
@pytest.mark.breaks("companion/precision/rounding.py", "< steps - below", "> steps - below")
@pytest.mark.breaks("companion/precision/rounding.py", "steps.floor()", "steps.trunc()")
@pytest.mark.breaks("companion/precision/rounding.py", "steps.floor()", "steps.round()")
@pytest.mark.parametrize("name", precision.FORMAT_NAMES)
def test_it_goes_up_with_the_probability_of_the_position(name: FormatName) -> None:
    values, low, high = between(name)
    found = stochastically_rounded(values.expand(DRAWS, -1), name, generator=generator())
    assert ((found == low) | (found == high)).all()
    position = (found - low) / (high - low)
    expected = (values - low) / (high - low)
    errors = (expected * (1 - expected) / DRAWS).sqrt()
    assert ((position.mean(0) - expected).abs() <= 4 * errors).all()
    assert (4 * errors).max() < 0.015
    assert torch.equal(rounded(found, name), found)


@pytest.mark.breaks(
    "companion/precision/rounding.py",
    "_uniform(values.shape, generator) <",
    "_uniform(values.shape, generator) <=",
)
def test_what_the_format_holds_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in precision.FORMAT_NAMES:
        kind = FORMATS[name]
        held = rounded(normal(50), name)
        ends = torch.tensor([0.0, kind.largest, -kind.largest, kind.smallest], dtype=F64)
        values = torch.cat([held, ends]).expand(200, -1)
        assert torch.equal(stochastically_rounded(values, name, generator=generator()), values)
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))  # it may draw a 0
    assert stochastically_rounded(torch.ones(1), "bfloat16", generator=generator()).item() == 1


def test_beyond_the_format_it_overflows() -> None:
    values = torch.tensor([1e5, -1e5, math.inf, math.nan], dtype=F64)
    found = stochastically_rounded(values, "float16", generator=generator())
    assert found[:3].tolist() == [math.inf, -math.inf, math.inf]
    assert found[3].isnan()
    found = stochastically_rounded(values, "E4M3", generator=generator())
    assert found[:3].tolist() == [448, -448, 448]
    # A quarter of the way to what would be the next.
    edge = torch.full((DRAWS,), 65504 + 8.0, dtype=F64)
    share = stochastically_rounded(edge, "float16", generator=generator()).isinf().double().mean()
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / DRAWS) ** 0.5 < 0.02


@pytest.mark.breaks(
    "companion/precision/rounding.py",
    "own.uniform_(generator=source)",
    "own.uniform_(generator=generator[0])",
)
def test_one_row_more_leaves_the_others() -> None:
    values = normal(3, 100)
    three = stochastically_rounded(values, "E4M3", generator=[generator(i) for i in range(3)])
    two = stochastically_rounded(values[1:], "E4M3", generator=[generator(i) for i in (1, 2)])
    assert torch.equal(three[1:], two)
    same = stochastically_rounded(
        values[:1].expand(3, -1), "E4M3", generator=[generator(i) for i in range(3)]
    )
    assert not torch.equal(same[0], same[1])


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="one for each of 3 entries"):
        stochastically_rounded(torch.ones(3, 2), "E4M3", generator=[generator()])
    with pytest.raises(ValueError, match="number_format must be one of"):
        stochastically_rounded(torch.ones(3), "half", generator=generator())
    with pytest.raises(TypeError, match=r"float32 or float64, got torch\.float16"):
        stochastically_rounded(torch.ones(3).half(), "E4M3", generator=generator())
    assert (
        stochastically_rounded(torch.ones(3), "E4M3", generator=generator()).dtype == torch.float32
    )


# ---------------------------------------------------------------- sums


@pytest.mark.breaks(
    "companion/precision/sums.py",
    "            total = rounded(total, kind)\n        else",
    "            pass\n        else",
)
@pytest.mark.breaks(
    "companion/precision/sums.py",
    "torch.full(terms.shape[:-1], start",
    "torch.full(terms.shape[:-1], 0.0",
)
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_running_sum_is_what_torchs_own_type_adds_up(name: FormatName) -> None:
    dtype = FORMATS[name].dtype
    # Of two that differ by less than 2^13 torch's float32 holds the sum, so that it rounds once.
    terms = (normal(4, 300).abs() + 0.1).to(dtype)
    total, expected = torch.full((4,), 0.25, dtype=dtype), []
    for term in terms.unbind(-1):
        total = total + term
        expected.append(total)
    found = sums.running_sum(terms.double(), name, start=0.25)
    assert torch.equal(found, torch.stack(expected, -1).double())


@pytest.mark.parametrize(("name", "end"), [("bfloat16", 2**8), ("float16", 2**11), ("E4M3", 2**4)])
def test_a_sum_of_ones_stops_where_a_one_is_half_a_gap(name: FormatName, end: int) -> None:
    ones = torch.ones(5000)
    found = sums.running_sum(ones, name)
    assert found[-1] == found.max() == end
    assert spacing(torch.tensor(float(end)), name).item() == 2
    assert sums.running_sum(ones, "float32")[-1] == 5000
    if name != "E4M3":
        assert sums.pairwise_sum(ones, name) == rounded(torch.tensor(5000.0), name)


@pytest.mark.breaks(
    "companion/precision/sums.py",
    "stochastically_rounded(total, kind, generator=generator)",
    "rounded(total, kind)",
)
def test_by_chance_a_sum_goes_on_growing() -> None:
    found = sums.running_sum(torch.ones(400, 600), "bfloat16", generator=generator())[:, -1]
    error = 4 * found.std() / 20
    assert abs(found.mean() - 600) <= error < 10


@pytest.mark.breaks(
    "companion/precision/sums.py",
    "padded[..., ::2] + padded[..., 1::2], kind",
    "padded[..., ::2] + padded[..., 1::2], 'float32'",
)
@pytest.mark.breaks(
    "companion/precision/sums.py",
    "padded[..., ::2] + padded[..., 1::2]",
    "sums[..., : (sums.shape[-1] + 1) // 2] + padded[..., (sums.shape[-1] + 1) // 2 :]",
)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 64])
def test_a_pairwise_sum_is_a_tree(count: int) -> None:
    def tree(terms: list[float]) -> float:
        if len(terms) < 2:
            return terms[0] if terms else 0.0
        pairs = [terms[i : i + 2] for i in range(0, len(terms), 2)]
        return tree([rounded(torch.tensor(sum(p), dtype=F64), "E5M2").item() for p in pairs])

    terms = rounded(normal(3, count), "E5M2")
    assert sums.pairwise_sum(terms, "E5M2").tolist() == [tree(row) for row in terms.tolist()]


def test_a_pairwise_sum_rounds_less_often() -> None:
    terms = rounded(normal(200, 1000).abs(), "bfloat16")
    exact = terms.sum(-1)
    worse = (sums.running_sum(terms, "bfloat16")[:, -1] / exact - 1).abs()
    better = (sums.pairwise_sum(terms, "bfloat16") / exact - 1).abs()
    accumulated = (rounded(sums.running_sum(terms, "float32")[:, -1], "bfloat16") / exact - 1).abs()
    assert better.max() < 0.02 < 0.2 < worse.min()
    assert accumulated.max() <= 2.0**-8


# ---------------------------------------------------------------- exponentials and norms


@pytest.mark.breaks(
    "companion/precision/sums.py", "rounded(powers / total, kind)", "powers / total"
)
@pytest.mark.breaks(
    "companion/precision/sums.py",
    "rounded(powers.sum(-1, keepdim=True), kind)",
    "powers.sum(-1, keepdim=True).float()",
)
@pytest.mark.parametrize("subtract_max", [True, False])
def test_softmax_is_that_of_exact_numbers_but_for_four_roundings(subtract_max: bool) -> None:
    z = rounded(3 * normal(20, 8), "float16")
    found = sums.softmax(z, "float16", subtract_max=subtract_max)
    eps = FORMATS["float16"].eps
    torch.testing.assert_close(found, z.softmax(-1), rtol=12 * eps, atol=2.0**-24)
    assert torch.equal(rounded(found, "float16"), found)
    powers = rounded((z - (z.amax(-1, keepdim=True) if subtract_max else 0)).exp(), "float16")
    if not subtract_max:
        total = rounded(powers.sum(-1, keepdim=True), "float16")
        assert torch.equal(found, rounded(powers / total, "float16"))
    assert not torch.equal(found, rounded(z.softmax(-1), "float16"))


@pytest.mark.breaks(
    "companion/precision/sums.py", "if subtract_max else z", "if not subtract_max else z"
)
def test_exponentials_overflow_unless_the_maximum_is_subtracted() -> None:
    under, over = (rounded(torch.tensor([[11.0625, 0.0]]) + d, "float16") for d in (0, 0.0625))
    assert under[0, 0].exp() < 65520 < over[0, 0].exp()
    assert sums.softmax(under, "float16", subtract_max=False).isfinite().all()
    assert sums.softmax(over, "float16", subtract_max=False)[0, 0].isnan()
    assert sums.logsumexp(over, "float16", subtract_max=False).isinf().all()
    large = torch.tensor([[60.0, 59.0, 0.0], [-80.0, -81.0, -90.0]])
    for name in ("float16", "bfloat16"):
        near = 16 * FORMATS[name].eps
        torch.testing.assert_close(sums.softmax(large, name), large.softmax(-1), rtol=0, atol=near)
        exact = torch.logsumexp(large, -1)
        torch.testing.assert_close(sums.logsumexp(large, name), exact, rtol=near, atol=0)
    # All exponentials are zero, and their sum divides them.
    assert sums.softmax(large[1:], "float16", subtract_max=False).isnan().all()
    # bfloat16 has float32's exponents.
    assert sums.softmax(large[:1], "bfloat16", subtract_max=False).isfinite().all()


@pytest.mark.breaks(
    "companion/precision/sums.py", "rounded(logits.double().amax(-1), kind), kind)", "0, kind)"
)
@pytest.mark.parametrize("subtract_max", [True, False])
def test_logsumexp_is_torchs_but_for_rounding(subtract_max: bool) -> None:
    z = rounded(normal(20, 8) + 3, "float16")
    found = sums.logsumexp(z, "float16", subtract_max=subtract_max)
    torch.testing.assert_close(found, z.logsumexp(-1), rtol=4 * FORMATS["float16"].eps, atol=0)
    assert torch.equal(rounded(found, "float16"), found)


@pytest.mark.breaks(
    "companion/precision/sums.py",
    "rounded(x / factor, kind).square()",
    "rounded(x / factor, kind).abs()",
)
@pytest.mark.breaks("companion/precision/sums.py", "root * factor[..., 0]", "root")
@pytest.mark.breaks(
    "companion/precision/sums.py", "if divide_by_max else", "if not divide_by_max else"
)
def test_a_norm_overflows_and_vanishes_unless_divided_by_the_largest() -> None:
    x = functional.normalize(normal(10, 6), dim=-1)
    near = {"rtol": 8 * FORMATS["float16"].eps, "atol": 0.0}
    for size in (1.0, 3e4):
        torch.testing.assert_close(sums.norm(size * x, "float16"), (size * x).norm(dim=-1), **near)
    plain = sums.norm(x, "float16", divide_by_max=False)
    torch.testing.assert_close(plain, x.norm(dim=-1), **near)
    last = torch.tensor([[255.75], [256.0], [2.0**-12.5], [2.0**-12.4]], dtype=F64)
    found = sums.norm(last, "float16", divide_by_max=False)
    assert found[0].isfinite()
    assert found[1].isinf()
    assert found[2] == 0 < found[3]
    assert (sums.norm(last, "float16") > 0).all()
    assert sums.norm(torch.zeros(2, 3), "float16").tolist() == [0, 0]
