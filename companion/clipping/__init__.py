"""Clipping by value, by norm, by group and adaptive; and the cliffs that it is for.

Chapter: https://YOUR_ACCOUNT.github.io/gradients-at-depth/clipping.html
"""

from companion.clipping import cliffs
from companion.clipping.clips import (
    NONFINITE,
    Clip,
    NonFiniteGradientError,
    Parameters,
    Summary,
    clip_adaptive_,
    clip_group_norms_,
    clip_norm_,
    clip_value_,
    propose_threshold,
    summary,
)

__all__ = [
    "NONFINITE",
    "Clip",
    "NonFiniteGradientError",
    "Parameters",
    "Summary",
    "cliffs",
    "clip_adaptive_",
    "clip_group_norms_",
    "clip_norm_",
    "clip_value_",
    "propose_threshold",
    "summary",
]
