"""What of a set of numbers a format cannot hold: the shares that become zero, and that overflow."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from companion._lib import random
from companion._lib.arguments import finite, non_negative, positive_integer
from companion.precision import formats
from companion.precision.formats import Format, FormatName


class Flushed(NamedTuple):
    """Shares of the numbers that are not zero.

    Attributes:
        to_zero: (...) of those that become zero.
        overflowing: (...) of those that are too large, inf and nan among them.

    """

    to_zero: Tensor
    overflowing: Tensor


def flushed(
    values: Tensor,
    number_format: FormatName | Format,
    *,
    scale: float | Sequence[float] | Tensor = 1.0,
    dim: int | tuple[int, ...] | None = None,
) -> Flushed:
    """Return what shares of the numbers are lost when they are scaled and rounded to nearest.

    Args:
        values: (...) in float32 or float64.
        number_format: its name, or a :class:`Format`.
        scale: what they are multiplied by first; one number or K of them, (K,).
        dim: the dimensions over which the shares are taken; all if None.

    Returns:
        Two tensors in float64, of the shape of the scales followed by that of the dimensions that
        are left. Shares of no numbers at all are 0.

    Raises:
        TypeError: if ``values`` is not a tensor in float32 or float64.
        ValueError: if no format has that name, or a scale is not positive and finite.

    Source: Micikevicius et al. (2018), arXiv 1710.03740.

    Example:
        >>> gradients = torch.tensor([0.0, 2.0**-26, 2.0**-25, 2.0**-20, 2.0])
        >>> lost = flushed(gradients, "float16", scale=[1.0, 2.0, 2.0**15])
        >>> lost.to_zero.tolist(), lost.overflowing.tolist()
        ([0.5, 0.25, 0.0], [0.0, 0.0, 0.25])

    """
    kind, scales = formats.get(number_format), _scales(scale)
    values = formats.wide(values)
    dims = tuple(range(values.dim())) if dim is None else dim
    found = torch.stack([_shares(values, kind, one, dims) for one in scales.flatten().tolist()], 1)
    to_zero, overflowing = found.reshape(2, *scales.shape, *found.shape[2:])
    return Flushed(to_zero, overflowing)


def lost(values: Tensor, kept: Tensor) -> Tensor:
    """Return the share of the nonzero numbers of which zero is left, a scalar in float64.

    Args:
        values: (...) the numbers.
        kept: (...) what is left of them.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> lost(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 0.0, 2.0])).item()
        0.5

    """
    if values.shape != kept.shape:
        raise ValueError(
            f"kept must have the values' shape {tuple(values.shape)}, got {tuple(kept.shape)}"
        )
    nonzero = values != 0
    return (nonzero & (kept == 0)).sum().double() / nonzero.sum().clamp(min=1)


def log_normal(*shape: int, log2_median: float, octaves: float, seed: int) -> Tensor:
    """Draw numbers whose log₂ is normal: gradients spread about like that, over many octaves.

    Args:
        shape: sizes of the dimensions.
        log2_median: log₂ of their median.
        octaves: the standard deviation of log₂.
        seed: of the draw.

    Returns:
        Positive numbers of that shape, in float64.

    Raises:
        TypeError: if a size is not a whole number, or one of the others not a number.
        ValueError: if a size is below 1, ``octaves`` is negative, or one is not finite.

    Example:
        >>> round(log_normal(10_001, log2_median=-20, octaves=4, seed=0).log2().median().item())
        -20

    """
    sizes = [positive_integer("shape", size) for size in shape]
    centre, spread = finite("log2_median", log2_median), non_negative("octaves", octaves)
    (drawn,) = random.normal([random.generator(seed, "data")], *sizes)
    return torch.exp2(centre + spread * drawn)


def log_normal_flushed(
    number_format: FormatName | Format,
    *,
    log2_median: float,
    octaves: float,
    scale: float | Sequence[float] | Tensor = 1.0,
) -> Flushed:
    """Predict :func:`flushed` for numbers whose log₂ is normal with mean μ and deviation σ.

    With Φ the normal distribution function, Φ((log₂ t − μ − log₂ s)/σ) of them are at most t when
    they are multiplied by s: t is half the smallest number for those that become zero, and where
    overflow begins for those that do not overflow.

    Args:
        number_format: its name, or a :class:`Format`.
        log2_median: μ.
        octaves: σ.
        scale: s, one number or several, (K,).

    Returns:
        Two tensors in float64, of the shape of the scales.

    Raises:
        TypeError: if μ or σ is not a number.
        ValueError: if σ is not positive, one of the numbers not finite, a scale not positive, or no
            format has that name.

    Example:
        >>> lost = log_normal_flushed("float16", log2_median=-20, octaves=4)
        >>> round(lost.to_zero.item(), 4)  # Φ(−5/4)
        0.1056

    """
    kind, centre = formats.get(number_format), finite("log2_median", log2_median)
    spread = non_negative("octaves", octaves)
    if spread == 0:
        raise ValueError("octaves must be positive, got 0")
    ends = torch.tensor([kind.flush_threshold, kind.overflow_threshold], dtype=torch.float64)
    low, high = (end.log2() - centre - _scales(scale).log2() for end in ends)
    # The upper tail as a lower one, which keeps it where it is small.
    return Flushed(torch.special.ndtr(low / spread), torch.special.ndtr(-high / spread))


def _scales(scale: float | Sequence[float] | Tensor) -> Tensor:
    found = torch.as_tensor(scale, dtype=torch.float64)
    if not (found.isfinite() & (found > 0)).all():
        raise ValueError(f"scale must be positive and finite, got {scale!r}")
    return found


def _shares(values: Tensor, kind: Format, scale: float, dims: int | tuple[int, ...]) -> Tensor:
    """Return the two shares, one above the other."""
    nonzero, scaled = values != 0, values * scale
    gone = [formats.rounded(scaled, kind) == 0, kind.overflows(scaled)]
    counts = nonzero.double().sum(dims)
    return torch.stack([(nonzero & each).double().sum(dims) / counts.clamp(min=1) for each in gone])
