"""Number formats and what they cannot hold: flushed gradients, loss scales, lost updates.

Chapter: https://YOUR_ACCOUNT.github.io/gradients-at-depth/precision.html
"""

from companion.precision import sums
from companion.precision.blocks import scaled_to
from companion.precision.flushed import Flushed, flushed, log_normal, log_normal_flushed, lost
from companion.precision.formats import (
    FORMAT_NAMES,
    FORMATS,
    Format,
    FormatName,
    get,
    rounded,
    spacing,
)
from companion.precision.networks import (
    HOW,
    How,
    RoundedLinear,
    low_precision,
    passed,
    rounding_weights,
    scaled,
    unscaled,
)
from companion.precision.rounding import stochastically_rounded
from companion.precision.scaling import LossScaler, ScaledStep

__all__ = [
    "FORMATS",
    "FORMAT_NAMES",
    "HOW",
    "Flushed",
    "Format",
    "FormatName",
    "How",
    "LossScaler",
    "RoundedLinear",
    "ScaledStep",
    "flushed",
    "get",
    "log_normal",
    "log_normal_flushed",
    "lost",
    "low_precision",
    "passed",
    "rounded",
    "rounding_weights",
    "scaled",
    "scaled_to",
    "spacing",
    "stochastically_rounded",
    "sums",
    "unscaled",
]
