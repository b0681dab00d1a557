"""Sums and exponentials in a format: terms that a sum no longer sees, and maxima that overflow.

Every operation is done in float64 and its result rounded, which is what a machine with the format
does. A sum over many terms at once (of a softmax, of squares) is taken in float64 and rounded once.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from companion.precision import formats
from companion.precision.formats import Format, FormatName, rounded
from companion.precision.rounding import stochastically_rounded


def running_sum(
    values: Tensor,
    number_format: FormatName | Format,
    *,
    start: float = 0.0,
    generator: Generator | Sequence[Generator] | None = None,
) -> Tensor:
    """Return start + x₁, that + x₂, and so on, each of these sums rounded to the format.

    To nearest it stops growing where a term is less than half a gap at the sum.

    Args:
        values: (..., n) the terms, in float32 or float64; they are not rounded themselves.
        number_format: its name, or a :class:`Format`.
        start: what the terms are added to; it is rounded.
        generator: to round stochastically, as for :func:`stochastically_rounded`; None to nearest.

    Returns:
        (..., n) of the values' type: the sum after each term.

    Raises:
        TypeError: if ``values`` is not a tensor in float32 or float64.
        ValueError: if no format has that name, or there is not one generator for each entry of the
            first dimension.

    Source: Gupta et al. (2015), arXiv 1502.02551.

    Example:
        >>> ones = torch.ones(4096)
        >>> running_sum(ones, "float16")[-1].item(), running_sum(ones, "bfloat16")[-1].item()
        (2048.0, 256.0)

    """
    kind, terms = formats.get(number_format), formats.wide(values)
    total = rounded(torch.full(terms.shape[:-1], start, dtype=torch.float64), kind)
    sums = torch.empty_like(terms)
    for i, term in enumerate(terms.unbind(-1)):
        total = total + term
        if generator is None:
            total = rounded(total, kind)
        else:
            total = stochastically_rounded(total, kind, generator=generator)
        sums[..., i] = total
    return sums.to(values.dtype)


def pairwise_sum(values: Tensor, number_format: FormatName | Format) -> Tensor:
    """Return the sum over the last dimension, of pairs, pairs of pairs and so on, each rounded.

    What is added is always of about one size, so that log₂ n roundings are in it and not n.

    Args:
        values: (..., n) the terms, in float32 or float64; they are not rounded themselves.
        number_format: its name, or a :class:`Format`.

    Returns:
        (...) of the values' type.

    Raises:
        TypeError: if ``values`` is not a tensor in float32 or float64.
        ValueError: if no format has that name.

    Example:
        >>> pairwise_sum(torch.ones(4096), "float16").item()
        4096.0

    """
    kind, sums = formats.get(number_format), formats.wide(values)
    while sums.shape[-1] > 1:
        padded = torch.nn.functional.pad(sums, (0, sums.shape[-1] % 2))
        sums = rounded(padded[..., ::2] + padded[..., 1::2], kind)
    return rounded(sums.sum(-1), kind).to(values.dtype)


def softmax(
    logits: Tensor, number_format: FormatName | Format, *, subtract_max: bool = True
) -> Tensor:
    """Return exp(z_i) over the sum of all exp(z_j), every result on the way rounded to the format.

    Args:
        logits: z, (..., n) in float32 or float64.
        number_format: its name, or a :class:`Format`.
        subtract_max: whether the largest z is subtracted first, which changes nothing in exact
            numbers, and leaves none above 0. Without it exp(z) overflows in float16 from z = 11.1.

    Returns:
        (..., n) of the logits' type.

    Raises:
        TypeError: if ``logits`` is not a tensor in float32 or float64.
        ValueError: if no format has that name.

    Example:
        >>> z = torch.tensor([12.0, 12.0])
        >>> softmax(z, "float16").tolist(), softmax(z, "float16", subtract_max=False).tolist()
        ([0.5, 0.5], [nan, nan])

    """
    kind, z = formats.get(number_format), _shifted(logits, number_format, subtract_max=subtract_max)
    powers = rounded(z.exp(), kind)
    total = rounded(powers.sum(-1, keepdim=True), kind)
    return rounded(powers / total, kind).to(logits.dtype)


def logsumexp(
    logits: Tensor, number_format: FormatName | Format, *, subtract_max: bool = True
) -> Tensor:
    """Return log Σ exp(z_i), every result on the way rounded to the format.

    Args:
        logits: z, (..., n) in float32 or float64.
        number_format: its name, or a :class:`Format`.
        subtract_max: whether the largest z is subtracted first, and added again at the end.

    Returns:
        (...) of the logits' type.

    Raises:
        TypeError: if ``logits`` is not a tensor in float32 or float64.
        ValueError: if no format has that name.

    Example:
        >>> z = torch.tensor([12.0, 0.0])
        >>> logsumexp(z, "float16").item(), logsumexp(z, "float16", subtract_max=False).item()
        (12.0, inf)

    """
    kind, z = formats.get(number_format), _shifted(logits, number_format, subtract_max=subtract_max)
    found = rounded(rounded(rounded(z.exp(), kind).sum(-1), kind).log(), kind)
    if subtract_max:
        found = rounded(found + rounded(logits.double().amax(-1), kind), kind)
    return found.to(logits.dtype)


def norm(
    values: Tensor, number_format: FormatName | Format, *, divide_by_max: bool = True
) -> Tensor:
    """Return √Σx², every result on the way rounded to the format.

    Args:
        values: (..., n) in float32 or float64.
        number_format: its name, or a :class:`Format`.
        divide_by_max: whether all are divided by the largest size first, and the result multiplied
            by it. Without it x² overflows in float16 from |x| = 256 on and is 0 up to 2⁻¹²·⁵.

    Returns:
        (...) of the values' type.

    Raises:
        TypeError: if ``values`` is not a tensor in float32 or float64.
        ValueError: if no format has that name.

    Example:
        >>> x = torch.tensor([300.0, 400.0])
        >>> norm(x, "float16").item(), norm(x, "float16", divide_by_max=False).item()
        (500.0, inf)

    """
    kind = formats.get(number_format)
    x = rounded(values, kind).double()
    largest = x.abs().amax(-1, keepdim=True)
    factor = torch.where(largest > 0, largest, 1.0) if divide_by_max else torch.ones_like(largest)
    squares = rounded(rounded(x / factor, kind).square(), kind)
    root = rounded(rounded(squares.sum(-1), kind).sqrt(), kind)
    return rounded(root * factor[..., 0], kind).to(values.dtype)


def _shifted(logits: Tensor, number_format: FormatName | Format, *, subtract_max: bool) -> Tensor:
    """Return the rounded logits in float64, less the largest of each row."""
    z = rounded(logits, number_format).double()
    return rounded(z - z.amax(-1, keepdim=True), number_format) if subtract_max else z
