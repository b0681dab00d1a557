"""The numbers that a format has, and rounding to them exactly.

Rounding is done in float64 by powers of two, of which every step is exact. torch's own casts from
float64 go by way of float32 and so round twice: of 1 + 2⁻⁸ + 2⁻⁴⁰, which is nearer to 1 + 2⁻⁷ than
to 1, ``.to(torch.bfloat16)`` makes 1.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from companion._lib.arguments import floating, one_of

FormatName = Literal["float32", "bfloat16", "float16", "E5M2", "E4M3"]
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)
EXPONENT_BITS = 0x7FF0_0000_0000_0000  # of a float64


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: ±m·2^e with a significand m of so many bits.

    Attributes:
        name: how it is called.
        dtype: the torch type that stores it.
        significand_bits: p, those of m with the leading one, which is not stored.
        min_exponent: e of the smallest normal number; below it m loses bits instead.
        max_exponent: e of the largest numbers.
        infinity: whether there is one. Where there is none, the largest m at the largest e means
            nan, and what is too large becomes the largest number.

    Raises:
        ValueError: if the format is not within float32.

    """

    name: str
    dtype: torch.dtype
    _: KW_ONLY
    significand_bits: int
    min_exponent: int
    max_exponent: int
    infinity: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.significand_bits <= 24 or not (
            -126 <= self.min_exponent < self.max_exponent <= 127
        ):
            raise ValueError(
                "a format must be within float32: significand_bits from 2 to 24, exponents from "
                f"-126 to 127, got {self.significand_bits}, {self.min_exponent} and "
                f"{self.max_exponent}"
            )

    @property
    def eps(self) -> float:
        """The gap between 1 and the next larger number."""
        return 2.0 ** (1 - self.significand_bits)

    @property
    def largest(self) -> float:
        """The largest number."""
        unused = 1 if self.infinity else 2
        return (2 - unused * self.eps) * 2.0**self.max_exponent

    @property
    def smallest_normal(self) -> float:
        """The smallest positive number with all its bits: below it the gaps shrink no more."""
        return 2.0**self.min_exponent

    @property
    def smallest(self) -> float:
        """The smallest positive number, which has one bit."""
        return self.smallest_normal * self.eps

    @property
    def flush_threshold(self) -> float:
        """The largest number that rounds to zero: a tie between 0 and the smallest."""
        return self.smallest / 2

    @property
    def overflow_threshold(self) -> float:
        """The tie between the largest number and what would be the next: see ``overflows``."""
        return self.largest + 2.0**self.max_exponent * self.eps / 2

    def overflows(self, values: Tensor) -> Tensor:
        """Return where numbers are too large to be rounded to one of the format, or not finite.

        Args:
            values: (...) in float32 or float64.

        Returns:
            (...) of booleans. The tie itself overflows, except in E4M3, whose largest number ends
            in a 0.

        """
        size = values.abs()
        held = size < self.overflow_threshold
        return ~(held if self.infinity else held | (size == self.overflow_threshold))

    def held(self, values: Tensor) -> Tensor:
        """Return what becomes of numbers with enough bits removed that may be too large.

        Args:
            values: (...) multiples of the gap where they are, in float64.

        Returns:
            (...) where |x| is above the largest number, ±∞; ± that number if there is no ∞. nan
            stays nan.

        """
        if not self.infinity:
            return values.clamp(-self.largest, self.largest)
        # What is too large is at least 2^(e_max + 1), and so the only one to overflow here.
        return values.mul(2.0 ** (1023 - self.max_exponent)).mul_(2.0 ** (self.max_exponent - 1023))


FORMATS: dict[FormatName, Format] = {
    "float32": Format(
        "float32", torch.float32, significand_bits=24, min_exponent=-126, max_exponent=127
    ),
    "bfloat16": Format(
        "bfloat16", torch.bfloat16, significand_bits=8, min_exponent=-126, max_exponent=127
    ),
    "float16": Format(
        "float16", torch.float16, significand_bits=11, min_exponent=-14, max_exponent=15
    ),
    "E5M2": Format(
        "E5M2", torch.float8_e5m2, significand_bits=3, min_exponent=-14, max_exponent=15
    ),
    "E4M3": Format(
        "E4M3",
        torch.float8_e4m3fn,
        significand_bits=4,
        min_exponent=-6,
        max_exponent=8,
        infinity=False,
    ),
}


def get(number_format: FormatName | Format) -> Format:
    """Return the format of that name; a :class:`Format` passes through.

    Raises:
        ValueError: if no format has that name; the message lists those that do.

    Example:
        >>> get("float16").largest, get("bfloat16").eps, get("E4M3").largest
        (65504.0, 0.0078125, 448.0)

    """
    if isinstance(number_format, Format):
        return number_format
    return FORMATS[one_of("number_format", number_format, FORMAT_NAMES)]


def wide(values: object) -> Tensor:
    """Return numbers in float64, in which all that is done with them here is exact.

    Args:
        values: (...) in float32 or float64; narrower types could not hold each other's numbers.

    Returns:
        (...) the same numbers.

    Raises:
        TypeError: if it is not a tensor in float32 or float64.

    """
    found = floating("values", values)
    if found.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"values must be in float32 or float64, got {found.dtype}")
    return found.to(torch.float64)


def spacing(values: Tensor, number_format: FormatName | Format) -> Tensor:
    """Return the gap between the two numbers of the format next to each value, or above it.

    It is 2^(e + 1 − p) for |x| in [2^e, 2^(e+1)), and no smaller than the smallest number.

    Args:
        values: (...) in float32 or float64. Those beyond the format, inf and nan have the gap of
            the largest numbers.
        number_format: its name, or a :class:`Format`.

    Returns:
        (...) of the values' type.

    Raises:
        TypeError: if ``values`` is not a tensor in float32 or float64.
        ValueError: if no format has that name.

    Example:
        >>> spacing(torch.tensor([0.0, 1.0, 1.9, 2.0]), "bfloat16").tolist()[1:]
        [0.0078125, 0.0078125, 0.015625]

    """
    kind = get(number_format)
    return _gaps(wide(values), kind).to(values.dtype)


def rounded(values: Tensor, number_format: FormatName | Format) -> Tensor:
    """Round each value to the nearest number of the format, a tie to the one whose last bit is 0.

    Args:
        values: (...) in float32 or float64.
        number_format: its name, or a :class:`Format`.

    Returns:
        (...) of the values' type; zero is +0. What is nearer to 2^(e_max + 1) than to the largest
        number, or in the middle, becomes ±∞ in the formats that have it. E4M3 has none: there all
        that is too large becomes ±448, ∞ as well, as in torch 2.13 (others were not tried).

    Raises:
        TypeError: if ``values`` is not a tensor in float32 or float64.
        ValueError: if no format has that name.

    Source: IEEE 754; Micikevicius et al. (2022), arXiv 2209.05433, for E5M2 and E4M3.

    Example:
        >>> rounded(torch.tensor([65519.0, 65520.0, 2.0**-25, 1.01 * 2.0**-25]), "float16").tolist()
        [65504.0, inf, 0.0, 5.960464477539063e-08]

    """
    kind, exact = get(number_format), wide(values)
    # From 2^52 gaps on, float64's own gap is this one: the addition rounds, a tie to even.
    shift = _gaps(exact, kind).mul_(1.5 * 2.0**52)
    return kind.held((exact + shift).sub_(shift)).to(values.dtype)


def _gaps(exact: Tensor, kind: Format) -> Tensor:
    """Return the gaps around numbers in float64, of which the bits of the exponent are 2^e."""
    powers = (exact.view(torch.int64) & EXPONENT_BITS).view(torch.float64)
    return powers.clamp(kind.smallest_normal, 2.0**kind.max_exponent).mul_(kind.eps)
