"""Rounding up or down by chance, so that on average nothing is lost."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from companion.precision import formats
from companion.precision.formats import Format, FormatName


def stochastically_rounded(
    values: Tensor,
    number_format: FormatName | Format,
    *,
    generator: Generator | Sequence[Generator],
) -> Tensor:
    """Round each value to one of the two numbers of the format next to it, right on average.

    Of the numbers a ≤ x ≤ b it is b with the probability (x − a)/(b − a): its mean is x. To nearest
    a sum loses every term below half a gap; so it keeps it, on average.

    Args:
        values: (...) in float32 or float64.
        number_format: its name, or a :class:`Format`.
        generator: of the draws; or one for each entry of the first dimension, whose draws then do
            not depend on how many others there are.

    Returns:
        (...) of the values' type; what the format holds stays. Between the largest number and
        2^(e_max + 1) chance decides too, and beyond that everything overflows as in
        :func:`rounded`.

    Raises:
        TypeError: if ``values`` is not a tensor in float32 or float64.
        ValueError: if no format has that name, or there is not one generator for each entry.

    Source: Gupta et al. (2015), arXiv 1502.02551.

    Example:
        >>> x = torch.full((10_000,), 1 + 2.0**-9)  # a quarter of the gap above 1
        >>> found = stochastically_rounded(x, "bfloat16", generator=torch.Generator())
        >>> found.unique().tolist(), round((found > 1).double().mean().item(), 1)
        ([1.0, 1.0078125], 0.2)

    """
    kind = formats.get(number_format)
    gaps = formats.spacing(values, kind).double()
    steps = values.double() / gaps
    below = steps.floor()
    up = _uniform(values.shape, generator) < steps - below
    return kind.held((below + up) * gaps).to(values.dtype)


def _uniform(shape: torch.Size, generator: Generator | Sequence[Generator]) -> Tensor:
    """Draw numbers from 0 to 1 in float64."""
    if isinstance(generator, Generator):
        return torch.rand(shape, generator=generator, dtype=torch.float64)
    if len(generator) != (len(shape) and shape[0]):
        raise ValueError(
            f"generator must be one or one for each of {len(shape) and shape[0]} entries of the "
            f"first dimension, got {len(generator)}"
        )
    drawn = torch.empty(shape, dtype=torch.float64)
    for own, source in zip(drawn, generator, strict=True):
        own.uniform_(generator=source)
    return drawn
