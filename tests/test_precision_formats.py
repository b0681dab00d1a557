"""Formats against their every number, rounding against torch's casts, shares against counting."""

import math

import pytest
import torch
from helpers import normal, reproducible
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from companion import precision
from companion.precision import FORMATS, Format, FormatName, flushed, rounded, scaled_to, spacing

NAMES = precision.FORMAT_NAMES
F64 = torch.float64


def numbers(name: FormatName) -> Tensor:
    """Every finite number of a format from 0 up: of float32, those of a few binades."""
    kind = FORMATS[name]
    if name == "float32":
        starts = torch.tensor([0, 1 << 23, 127 << 23, 254 << 23, 255 << 23], dtype=torch.int32)[
            :, None
        ]
        bits = (starts + torch.arange(-1000, 1000, dtype=torch.int32)).flatten()
        found = bits[(bits >= 0) & (bits < 255 << 23)].unique().view(torch.float32)
    else:
        size = 2**7 if kind.dtype.itemsize == 1 else 2**15
        integers = torch.arange(size, dtype=torch.int32)
        found = integers.to(torch.int8 if size == 2**7 else torch.int16).view(kind.dtype)
    found = found.to(F64)
    return found[found.isfinite()]


def steps(name: FormatName) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of neighbours, and which has a 0 for its last bit: they alternate, from 0 on."""
    found = numbers(name)
    low, high = found[:-1], found[1:]
    adjacent = torch.ones_like(low, dtype=torch.bool)
    even = torch.arange(len(low)) % 2 == 0
    if name == "float32":
        bits = low.float().view(torch.int32)
        adjacent, even = high.float().view(torch.int32) == bits + 1, bits % 2 == 0
    return low[adjacent], high[adjacent], even[adjacent]


@pytest.mark.breaks(
    "companion/precision/formats.py", "unused = 1 if self.infinity else 2", "unused = 1"
)
@pytest.mark.breaks(
    "companion/precision/formats.py",
    "self.smallest_normal * self.eps",
    "self.smallest_normal * self.eps / 2",
)
@pytest.mark.parametrize("name", NAMES)
def test_a_format_knows_its_numbers(name: FormatName) -> None:
    kind, found = FORMATS[name], numbers(name)
    info = torch.finfo(kind.dtype)
    assert kind.name == name
    assert (kind.largest, kind.eps, kind.smallest_normal) == (info.max, info.eps, info.tiny)
    assert (found[1].item(), found[-1].item()) == (kind.smallest, kind.largest)
    assert kind.flush_threshold == kind.smallest / 2
    assert torch.tensor(math.inf).to(kind.dtype).to(F64).isinf().item() == kind.infinity


@pytest.mark.breaks("companion/precision/formats.py", "1.5 * 2.0**52", "1.5 * 2.0**51")
@pytest.mark.breaks(
    "companion/precision/formats.py",
    "kind.held((exact + shift).sub_(shift)).to(values.dtype)",
    "exact.to(kind.dtype).to(values.dtype)",
)
@pytest.mark.breaks(
    "companion/precision/formats.py",
    "(exact + shift).sub_(shift)",
    "(exact * (1 + 2.0**-50) + shift).sub_(shift)",
)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", NAMES)
def test_rounding_is_to_nearest_once_with_ties_to_even(name: FormatName, sign: int) -> None:
    low, high, even = steps(name)
    middle = (low + high) / 2
    below, above = (middle.nextafter(torch.tensor(end, dtype=F64)) for end in (-math.inf, math.inf))
    ties = torch.where(even, low, high)
    for values, expected in ((low, low), (below, low), (middle, ties), (above, high), (high, high)):
        assert torch.equal(rounded(sign * values, name), sign * expected + 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_rounded_as_torch_casts_it(name: FormatName) -> None:
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(-(2**31), 2**31, (50_000,), generator=generator)
    values = bits.to(torch.int32).view(torch.float32)  # of all sizes; 1 in 128 is nan
    kind = FORMATS[name]
    if not kind.infinity:  # torch makes 448 or nan of it, by its version
        values = values[~kind.overflows(values)]
    found, cast = rounded(values, name), values.to(kind.dtype).to(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, cast, rtol=0, atol=0, equal_nan=True)


def test_torchs_own_casts_from_float64_round_twice() -> None:
    value = torch.tensor(1 + 2.0**-8 + 2.0**-40, dtype=F64)  # above the tie of 1 and 1 + 2^-7
    assert value.to(torch.bfloat16).item() == 1
    assert rounded(value, "bfloat16").item() == 1 + 2.0**-7


@pytest.mark.breaks(
    "companion/precision/formats.py",
    "held if self.infinity else held |",
    "held if not self.infinity else held |",
)
@pytest.mark.breaks(
    "companion/precision/formats.py",
    "2.0 ** (1023 - self.max_exponent)",
    "2.0 ** (1022 - self.max_exponent)",
)
@pytest.mark.breaks(
    "companion/precision/formats.py", "values.clamp(-self.largest, self.largest)", "values"
)
@pytest.mark.breaks(
    "companion/precision/formats.py",
    "clamp(kind.smallest_normal, 2.0**kind.max_exponent)",
    "clamp(kind.smallest_normal)",
    case="bfloat16",
)
@pytest.mark.parametrize("name", NAMES)
def test_overflow(name: FormatName) -> None:
    kind = FORMATS[name]
    tie, infinity = torch.tensor(kind.overflow_threshold, dtype=F64), torch.tensor(math.inf)
    values = torch.stack([tie.nextafter(-infinity.to(F64)), tie, tie.nextafter(infinity.to(F64))])
    values = torch.cat([values, torch.tensor([1e300, 1.7e308, math.inf], dtype=F64)])
    if kind.infinity:
        expected = [kind.largest] + [math.inf] * 5
        assert kind.overflows(values).tolist() == [False] + [True] * 5
    else:
        expected = [448.0] * 6
        assert kind.overflows(values).tolist() == [False, False] + [True] * 4
    assert rounded(values, name).tolist() == expected
    assert rounded(-values, name).tolist() == [-each for each in expected]
    assert rounded(torch.tensor(math.nan), name).isnan()


def test_published_limits() -> None:
    limits = {
        n: (FORMATS[n].largest, FORMATS[n].smallest, FORMATS[n].overflow_threshold) for n in NAMES
    }
    assert limits["E4M3"] == (448, 2.0**-9, 464)
    assert limits["E5M2"] == (57344, 2.0**-16, 61440)
    assert limits["float16"] == (65504, 2.0**-24, 65520)


@pytest.mark.breaks(
    "companion/precision/formats.py", "clamp(kind.smallest_normal,", "clamp(kind.smallest,"
)
@pytest.mark.breaks(
    "companion/precision/formats.py",
    "return _gaps(wide(values), kind)",
    "return 2 * _gaps(wide(values), kind)",
)
@pytest.mark.parametrize("name", NAMES)
def test_spacing_is_the_distance_of_the_neighbours(name: FormatName) -> None:
    low, high, _ = steps(name)
    for values in (low, (low + high) / 2, -low):
        assert torch.equal(spacing(values, name), high - low)
    ends = spacing(torch.tensor([math.inf, -math.inf, math.nan, 1e300], dtype=F64), name)
    assert torch.equal(ends, (high - low)[-1].expand(4))
    assert spacing(torch.ones(2, 3), name).shape == (2, 3)


def test_rounding_works_side_by_side() -> None:
    x = normal(3, 5)
    assert torch.equal(torch.vmap(lambda v: rounded(v, "float16"))(x), rounded(x, "float16"))


@pytest.mark.parametrize(
    "values", [1.0, torch.arange(3), torch.ones(3, dtype=torch.float16), [1.0]], ids=str
)
def test_what_is_rounded_is_a_wide_tensor(values: object) -> None:
    for function in (rounded, spacing, flushed, scaled_to):
        with pytest.raises(TypeError, match="values must be"):
            function(values, "float16")


@reproducible
@given(st.one_of(st.text(), st.integers(), st.none()).filter(lambda word: word not in NAMES))
def test_there_is_no_other_format(word: object) -> None:
    for function in (rounded, spacing, flushed, scaled_to):
        with pytest.raises(ValueError, match="number_format must be one of"):
            function(torch.ones(2), word)


@pytest.mark.parametrize(
    ("bits", "low", "high"), [(1, -5, 5), (25, -5, 5), (8, -127, 5), (8, 5, 5)]
)
def test_a_format_is_within_float32(bits: int, low: int, high: int) -> None:
    with pytest.raises(ValueError, match="within float32"):
        Format("x", torch.float32, significand_bits=bits, min_exponent=low, max_exponent=high)


# ---------------------------------------------------------------- shares that are lost


@pytest.mark.breaks("companion/precision/flushed.py", "values * scale", "values / scale")
@pytest.mark.breaks(
    "companion/precision/flushed.py",
    "counts = nonzero.double()",
    "counts = torch.ones_like(nonzero).double()",
)
@pytest.mark.breaks("companion/precision/flushed.py", "nonzero & each", "each")
@pytest.mark.breaks(
    "companion/precision/flushed.py", "kind.overflows(scaled)]", "scaled.abs() > kind.largest]"
)
def test_shares_are_counted_among_what_is_not_zero() -> None:
    tiny = 2.0**-25  # a tie with zero in float16
    values = [0.0, 0.0, tiny, -tiny, 3 * tiny, 1.0, 65519.0, -65520.0]
    found = flushed(torch.tensor(values, dtype=F64), "float16", scale=[1.0, 0.5, 2.0])
    assert found.to_zero.tolist() == pytest.approx([2 / 6, 2 / 6, 0])
    assert found.overflowing.tolist() == pytest.approx([1 / 6, 0, 2 / 6])
    broken = flushed(torch.tensor([math.inf, math.nan, 1.0, 0.0]), "bfloat16")
    assert (broken.to_zero.item(), broken.overflowing.item()) == pytest.approx((0, 2 / 3))
    nothing = flushed(torch.zeros(4), "float16")
    assert (nothing.to_zero.item(), nothing.overflowing.item()) == (0, 0)


def test_scales_come_before_the_dimensions_that_are_left() -> None:
    values = 2.0**-25 * normal(3, 40, 2).abs()
    scales = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    found = flushed(values, "float16", scale=scales, dim=1).to_zero
    assert found.shape == (2, 2, 3, 2)
    for i, j, k, m in ((0, 0, 0, 0), (1, 0, 2, 1), (0, 1, 1, 0)):
        share = (rounded(values[k, :, m] * scales[i, j], "float16") == 0).double().mean()
        assert found[i, j, k, m] == share
    assert flushed(values, "float16", dim=(0, -1)).to_zero.shape == (40,)
    assert flushed(torch.tensor(2.0**-30), "float16").to_zero.item() == 1


@pytest.mark.breaks(
    "companion/precision/flushed.py", "kind.flush_threshold, kind", "kind.smallest, kind"
)
@pytest.mark.breaks("companion/precision/flushed.py", "-high / spread", "high / spread")
@pytest.mark.breaks("companion/precision/flushed.py", "- centre - _scales", "+ centre - _scales")
@pytest.mark.breaks(
    "companion/precision/flushed.py", "centre + spread * drawn", "centre + 1.1 * spread * drawn"
)
@pytest.mark.parametrize("name", NAMES)
def test_the_normal_distribution_function_predicts_the_shares(name: FormatName) -> None:
    count, size = 50_000, {"log2_median": -8.0, "octaves": 6.0}
    values = precision.log_normal(count, **size, seed=3)
    kind = FORMATS[name]
    # Scales that lose a good part: at the lower end, in the middle, at the upper end.
    low, high = math.log2(kind.flush_threshold) + 8, math.log2(kind.largest) + 8
    scales = [2.0**low, 2.0 ** (low + 5.7), 2.0 ** (high - 4.3), 2.0**high]
    found = flushed(values, name, scale=scales)
    expected = precision.log_normal_flushed(name, **size, scale=scales)
    for share, p in zip(found, expected, strict=True):
        errors = (p * (1 - p) / count).sqrt()
        assert ((share - p).abs() <= 4 * errors + 1e-12).all()
        assert (4 * errors).max() < 0.01
    assert found.to_zero[0] > 0.4
    assert found.overflowing[3] > 0.4


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan, [1.0, 0.0]], ids=str)
def test_a_scale_is_positive(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        flushed(torch.ones(2), "float16", scale=scale)
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        precision.log_normal_flushed("float16", log2_median=0, octaves=1, scale=scale)


def test_what_is_refused_of_log_normal_numbers() -> None:
    with pytest.raises(ValueError, match="octaves must be positive, got 0"):
        precision.log_normal_flushed("float16", log2_median=0, octaves=0)
    with pytest.raises(ValueError, match="octaves must be finite"):
        precision.log_normal(3, log2_median=0, octaves=-1, seed=0)
    with pytest.raises(TypeError, match="log2_median must be a number"):
        precision.log_normal(3, log2_median="0", octaves=1, seed=0)
    with pytest.raises(ValueError, match=r"kept must have the values' shape \(2,\), got \(3,\)"):
        precision.lost(torch.ones(2), torch.ones(3))


@pytest.mark.breaks("companion/precision/flushed.py", "(kept == 0)", "(kept != values)")
def test_lost_counts_zeros_that_were_none() -> None:
    values, kept = torch.tensor([0.0, 1, 2, 3, -4]), torch.tensor([0.0, 0.9, 0, 3, 0])
    assert precision.lost(values, kept).item() == 0.5
    assert precision.lost(torch.zeros(3), torch.zeros(3)).item() == 0


# ---------------------------------------------------------------- a scale a tensor or a block


def by_search(values: Tensor, name: FormatName) -> Tensor:
    """A tensor scaled by the largest power of two that lets none overflow, found by trying."""
    largest = FORMATS[name].largest
    power = max(k for k in range(-100, 200) if values.abs().max() * 2.0**k <= largest)
    return rounded(values * 2.0**power, name) / 2.0**power


@pytest.mark.breaks("companion/precision/blocks.py", " - (mantissas > end.mantissa).int()", "")
@pytest.mark.breaks(
    "companion/precision/blocks.py", "mantissas > end.mantissa", "mantissas >= end.mantissa"
)
@pytest.mark.breaks("companion/precision/blocks.py", "(0, -length % size)", "(-length % size, 0)")
@pytest.mark.breaks("companion/precision/blocks.py", "kind) / scales", "kind)")
@pytest.mark.parametrize("name", ["float16", "E5M2", "E4M3"])
def test_the_scale_is_the_largest_that_fits(name: FormatName) -> None:
    values = precision.log_normal(6, 10, log2_median=-20, octaves=9, seed=1)
    values = values * normal(6, 10).sign()
    values[0, 0] = FORMATS[name].largest * 2.0**20  # which fits exactly
    values[1, 1] = 1.99 * 2.0**30
    assert torch.equal(scaled_to(values, name), by_search(values, name))
    found = scaled_to(values, name, block=4)
    for row in range(6):
        for part in (slice(0, 4), slice(4, 8), slice(8, 10)):
            assert torch.equal(found[row, part], by_search(values[row, part], name))


@pytest.mark.parametrize("block", [None, 3])
def test_the_unit_of_the_values_does_not_matter(block: int | None) -> None:
    values = precision.log_normal(7, 9, log2_median=0, octaves=6, seed=2)
    found = scaled_to(values, "E4M3", block)
    for power in (-60, 7, 60):
        assert torch.equal(scaled_to(values * 2.0**power, "E4M3", block), found * 2.0**power)
    assert scaled_to(values.float(), "E4M3", block).dtype == torch.float32


def test_smaller_blocks_lose_less() -> None:
    values = precision.log_normal(200, 64, log2_median=-20, octaves=4, seed=0)
    kept = [scaled_to(values, "E4M3", block) for block in (None, 64, 8, 1)]
    shares = [precision.lost(values, each).item() for each in kept]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.1
    assert shares[-1] == 0
    assert ((kept[-1] / values - 1).abs() <= FORMATS["E4M3"].eps / 2).all()


@pytest.mark.breaks(
    "companion/precision/blocks.py", "mantissas > 0, shifts, 0", "mantissas > 1, shifts, 0"
)
def test_zeros_stay_and_what_is_very_small_or_empty_is_no_trouble() -> None:
    values = torch.tensor([[0.0, 0.0, 2.0**-900, 2.0**-901], [0.0, 0.0, 1e300, 1.0]], dtype=F64)
    found = scaled_to(values, "E5M2", 2)
    assert (found[:, :2] == 0).all()
    assert found[1, 2].item() == pytest.approx(1e300, rel=0.125)
    assert torch.equal(found[0], values[0])
    assert scaled_to(torch.zeros(0), "E5M2").shape == (0,)
    assert scaled_to(torch.zeros(2, 0), "E5M2", 4).shape == (2, 0)
    assert scaled_to(torch.tensor(1e-20), "E4M3").item() == pytest.approx(1e-20, rel=0.0625)


@reproducible
@given(st.one_of(st.integers(max_value=0), st.floats(), st.booleans(), st.text()))
def test_a_block_is_a_number_of_entries(block: object) -> None:
    with pytest.raises((TypeError, ValueError), match="block must be"):
        scaled_to(torch.ones(4), "E4M3", block)


def test_what_cannot_be_scaled() -> None:
    for bad in (math.inf, math.nan):
        with pytest.raises(ValueError, match="values must be finite"):
            scaled_to(torch.tensor([1.0, bad]), "E4M3")
    with pytest.raises(ValueError, match="must have a dimension"):
        scaled_to(torch.tensor(1.0), "E4M3", 2)
