"""Real data, split once and for all, and synthetic data that a seed decides."""

from companion.data.draws import generator, manual_seed, normal
from companion.data.scaling import condition_number, scaled
from companion.data.sets import (
    Split,
    digits,
)

__all__ = [
    "Split",
    "condition_number",
    "digits",
    "generator",
    "manual_seed",
    "normal",
    "scaled",
]
