"""From what a monitor wrote down to a named fault, and what to try.

Chapter: https://YOUR_ACCOUNT.github.io/gradients-at-depth/diagnosis.html
"""

from companion.diagnosis import features, zoo
from companion.diagnosis.rules import (
    ADVICE,
    BY_EXCLUSION,
    CONFIDENCE,
    ENOUGH,
    FAULTS,
    LINKS,
    RULES,
    THRESHOLDS,
    WIDTH,
    Condition,
    Diagnosis,
    Finding,
    Monitor,
    Rule,
    confidence,
    diagnose,
    margin,
    popular_rule,
)

__all__ = [
    "ADVICE",
    "BY_EXCLUSION",
    "CONFIDENCE",
    "ENOUGH",
    "FAULTS",
    "LINKS",
    "RULES",
    "THRESHOLDS",
    "WIDTH",
    "Condition",
    "Diagnosis",
    "Finding",
    "Monitor",
    "Rule",
    "confidence",
    "diagnose",
    "features",
    "margin",
    "popular_rule",
    "zoo",
]
