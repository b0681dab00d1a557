"""A scale for each tensor or each block of it: what lets formats of 8 bits hold gradients."""

import torch
from torch import Tensor

from companion._lib.arguments import positive_integer
from companion.precision import formats
from companion.precision.formats import Format, FormatName


def scaled_to(
    values: Tensor, number_format: FormatName | Format, block: int | None = None
) -> Tensor:
    """Scale a tensor or each block of it to the format's range, round to nearest, and scale back.

    The scale is the largest power of two by which the largest magnitude stays within the format: it
    ends in (largest/2, largest], and nothing overflows. (The MX formats bring it to between 2^e_max
    and 2^(e_max + 1) instead, and cut off what is beyond the largest number.)

    Args:
        values: (...) in float32 or float64, finite.
        number_format: its name, or a :class:`Format`.
        block: how many consecutive entries of the last dimension share a scale, the last block
            having what is left; None for one scale for the whole tensor.

    Returns:
        (...) of the values' type.

    Raises:
        TypeError: if ``values`` is not a tensor in float32 or float64, or ``block`` not a whole
            number.
        ValueError: if no format has that name, ``block`` is below 1, a value is not finite, or
            there is no last dimension to cut into blocks.

    Source: Rouhani et al. (2023), arXiv 2310.10537, for blocks; Micikevicius et al. (2022), arXiv
        2209.05433, for one scale a tensor.

    Example:
        >>> x = torch.tensor([2.0**-30, 2.0**-20, 0.75, 1.0])
        >>> [round(found, 9) for found in scaled_to(x, "E4M3").tolist()]
        [0.0, 0.0, 0.75, 1.0]
        >>> bool((scaled_to(x, "E4M3", block=2) == x).all())
        True

    """
    kind, exact = formats.get(number_format), formats.wide(values)
    if not exact.isfinite().all():
        raise ValueError("values must be finite, got inf or nan")
    if block is None:
        return _rounded(exact.reshape(1, -1), kind).view_as(values).to(values.dtype)
    size = positive_integer("block", block)
    if values.dim() == 0:
        raise ValueError("values must have a dimension to cut into blocks, got a scalar")
    length = values.shape[-1]
    padded = torch.nn.functional.pad(exact, (0, -length % size))
    found = _rounded(padded.unflatten(-1, (-1, size)), kind).flatten(-2)
    return found[..., :length].to(values.dtype)


def _rounded(blocks: Tensor, kind: Format) -> Tensor:
    """Round each last dimension with a scale of its own."""
    if blocks.numel() == 0:
        return blocks
    mantissas, exponents = torch.frexp(blocks.abs().amax(-1, keepdim=True))
    end = torch.frexp(torch.tensor(kind.largest, dtype=torch.float64))
    # The largest is m·2^e with m in [1/2, 1): it is brought to e of the format's, or one below.
    shifts = end.exponent - exponents - (mantissas > end.mantissa).int()
    scales = _power(torch.where(mantissas > 0, shifts, 0).clamp(-1022, 1022))
    return formats.rounded(blocks * scales, kind) / scales


def _power(exponents: Tensor) -> Tensor:
    """Return 2^e in float64, made of its bits; ``torch.ldexp`` takes the power in float32."""
    return ((exponents.long() + 1023) << 52).view(torch.float64)
