"""The one progress bar."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def bar(iterable: Iterable[Item], description: str, *, show: bool = True) -> Iterable[Item]:
    """Iterate with a progress bar, unless ``show`` is false or ``TQDM_DISABLE=1`` is set."""
    # An explicit disable=False would win over the environment variable.
    return tqdm(iterable, desc=description, leave=False) if show else iterable
