"""Counts of what chaos decides, in words that one case more or less does not change.

Which single run gets through a steep loss may depend on the last digit of a product, and so on the
machine. How many of them do hardly depends on it; a range and a tenth say as much of that as holds.
"""

from companion._checks import positive_integer


def band(hits: int, cases: int) -> str:
    """Return the range in which a count of a few cases lies: up to a quarter, or from three on.

    Args:
        hits: how many of the cases.
        cases: how many there are.

    Raises:
        ValueError: unless ``hits`` is from 0 to ``cases``.

    Example:
        >>> band(1, 8), band(5, 8), band(8, 8)
        ('0 to 2 of 8', '3 to 5 of 8', '6 to 8 of 8')

    """
    hits, cases = _checked(hits, cases)
    few = cases // 4
    for low, high in ((0, few), (few + 1, cases - few - 1), (cases - few, cases)):
        if low <= hits <= high:
            break
    return f"{low} to {high} of {cases}"


def share(hits: int, cases: int) -> str:
    """Return the share of many cases in tenths, with words for all, none, and nearly so.

    Args:
        hits: how many of the cases.
        cases: how many there are.

    Raises:
        ValueError: unless ``hits`` is from 0 to ``cases``.

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
    if not 0 <= int(hits) <= cases:
        raise ValueError(f"hits must be from 0 to {cases}, got {hits}")
    return int(hits), cases
