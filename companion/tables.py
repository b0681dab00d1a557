"""Numbers as chapters print them: several networks in a word or two, as every machine says it.

Which single run gets through a steep loss may depend on the last digit of a product, and so on the
machine. How many of them do hardly depends on it; a range and a tenth say as much of that as holds.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from numbers import Integral

from torch import Tensor

from companion._lib.arguments import positive_integer

QUARTERS = (0.25, 0.75)
ENDS = ("lower", "higher")
DIGITS = 6  # to which a number is rounded first: what is a tie but for rounding errors is one


def rounded(value: float | Tensor, places: int = 2) -> str:
    """Return a number to so many decimal places; a zero has no sign.

    Args:
        value: a number, or a tensor of any shape with one entry.
        places: decimal places, 0 to 6.

    Raises:
        ValueError: if there are more places than that, or the tensor has not one entry.
        TypeError: if ``places`` is not a whole number.

    Example:
        >>> rounded(0.125 - 1e-12), rounded(0.125 + 1e-12), rounded(-0.001)
        ('0.12', '0.12', '0.00')

    """
    places = _places(places)
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"value must be one number, got a tensor of shape {tuple(value.shape)}")
    return f"{round(round(float(value), DIGITS), places) + 0.0:.{places}f}"


def median(values: Tensor) -> float:
    """Return the median over all values; of an even number, halfway between the middle two.

    ``Tensor.median`` takes the lower one of these.

    Args:
        values: at least one, of any shape.

    Raises:
        ValueError: if there is none.

    Example:
        >>> import torch
        >>> median(torch.tensor([1.0, 2.0, 4.0, 9.0]))
        3.0

    """
    low, high = (_at_least(1, values).double().quantile(0.5, interpolation=i).item() for i in ENDS)
    return round(low if low == high else (low + high) / 2, DIGITS)


def spread(values: Tensor, places: int = 2) -> str:
    """Return the median over networks, with the smallest and the largest.

    Args:
        values: one for each network, of any shape.
        places: decimal places of each number, 0 to 6.

    Raises:
        ValueError: if there is no value, or there are more places than that.
        TypeError: if ``places`` is not a whole number.

    Example:
        >>> import torch
        >>> spread(torch.tensor([1.0, 2.0, 4.0, 9.0]), 1)
        '3.0 (1.0 to 9.0)'

    """
    middle, low, high = (
        rounded(each, places) for each in (median(values), values.min(), values.max())
    )
    return f"{middle} ({low} to {high})"


def deviation(values: Tensor, places: int = 2) -> str:
    """Return the mean over networks and their standard deviation, to compare with a prediction.

    Args:
        values: one for each network, of any shape; two at least, for a deviation.
        places: decimal places of each number, 0 to 6.

    Raises:
        ValueError: if there are fewer than two values, or more places than that.
        TypeError: if ``places`` is not a whole number.

    Example:
        >>> import torch
        >>> deviation(torch.tensor([1.0, 2.0, 3.0]))
        '2.00 ± 1.00'

    """
    values = _at_least(2, values).double()
    return f"{rounded(values.mean(), places)} ± {rounded(values.std(), places)}"


def band(hits: int, cases: int, cuts: Sequence[float] = QUARTERS) -> str:
    """Return the range in which a count lies: at first up to a quarter, or from three on.

    Args:
        hits: how many of the cases.
        cases: how many there are.
        cuts: shares that part the ranges, rising; a count on a cut belongs to what is nearer to
            none or to all of them.

    Raises:
        ValueError: unless ``hits`` is a whole number from 0 to ``cases``, and the cuts rise from
            above 0 to below 1.
        TypeError: if ``cases`` is not a whole number.

    Example:
        >>> band(1, 8), band(5, 8), band(8, 8)
        ('0 to 2 of 8', '3 to 5 of 8', '6 to 8 of 8')
        >>> band(19, 56, cuts=(0.25, 0.5, 0.9))
        '15 to 28 of 56'

    """
    hits, cases = _checked(hits, cases)
    if not cuts or any(low >= high for low, high in pairwise((0, *cuts, 1))):
        raise ValueError(f"cuts must rise from above 0 to below 1, got {cuts!r}")
    low = 0
    for cut in cuts:
        edge = Fraction(str(cut)) * cases  # 0.29 of a hundred is 29
        high = math.floor(edge) if cut <= 0.5 else math.ceil(edge) - 1
        if hits <= high:
            return f"{low} to {high} of {cases}"
        low = high + 1
    return f"{low} to {cases} of {cases}"


def share(hits: int, cases: int) -> str:
    """Return the share of many cases in tenths, with words for all, none, and nearly so.

    Args:
        hits: how many of the cases.
        cases: how many there are.

    Raises:
        ValueError: unless ``hits`` is a whole number from 0 to ``cases``.
        TypeError: if ``cases`` is not a whole number.

    Example:
        >>> share(400, 400), share(384, 400), share(237, 400), share(3, 400)
        ('all', 'nearly all', 'about 6 in 10', 'hardly any')

    """
    hits, cases = _checked(hits, cases)
    if hits in (0, cases):
        return "all" if hits else "none"
    tenths = round(10 * hits / cases)
    return {0: "hardly any", 10: "nearly all"}.get(tenths, f"about {tenths} in 10")


def _checked(hits: int, cases: int) -> tuple[int, int]:
    cases = positive_integer("cases", cases)
    if not 0 <= hits <= cases or hits != int(hits):
        raise ValueError(f"hits must be a whole number from 0 to {cases}, got {hits}")
    return int(hits), cases


def _places(places: int) -> int:
    if isinstance(places, bool) or not isinstance(places, Integral):
        raise TypeError(f"places must be a whole number from 0 to {DIGITS}, got {places!r}")
    if not 0 <= places <= DIGITS:
        raise ValueError(f"places must be from 0 to {DIGITS}, got {places}")
    return int(places)


def _at_least(count: int, values: Tensor) -> Tensor:
    if values.numel() < count:
        raise ValueError(f"values must be at least {count}, got {values.numel()}")
    return values
