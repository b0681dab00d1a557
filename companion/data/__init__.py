"""Real data, split once and for all."""

from companion.data.sets import (
    Split,
    digits,
)

__all__ = [
    "Split",
    "digits",
]
