"""A training loop that keeps a record of every layer, and what an optimizer can do about a rate.

Chapter: https://YOUR_ACCOUNT.github.io/gradients-at-depth/training.html
"""

from companion.training.edges import (
    Catapult,
    Descent,
    catapult,
    descend_quadratic,
    edge,
)
from companion.training.finder import RangeTest, range_test
from companion.training.hessian import curvature, sharpness
from companion.training.loop import (
    Record,
    Snapshot,
    Stop,
    train,
)
from companion.training.optimizers import (
    adam,
    adam_with_warmup,
    rated,
    rmsprop,
    sgd,
)
from companion.training.ratios import update_ratios
from companion.training.schedules import (
    cosine,
    scheduled,
    step_decay,
    warmup,
)
from companion.training.sweep import Sweep, rate_sweep

__all__ = [
    "Catapult",
    "Descent",
    "RangeTest",
    "Record",
    "Snapshot",
    "Stop",
    "Sweep",
    "adam",
    "adam_with_warmup",
    "catapult",
    "cosine",
    "curvature",
    "descend_quadratic",
    "edge",
    "range_test",
    "rate_sweep",
    "rated",
    "rmsprop",
    "scheduled",
    "sgd",
    "sharpness",
    "step_decay",
    "train",
    "update_ratios",
    "warmup",
]
