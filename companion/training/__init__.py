"""A training loop that keeps a record of every layer."""

from companion.training.hessian import curvature
from companion.training.loop import (
    Record,
    Snapshot,
    Stop,
    train,
)
from companion.training.optimizers import (
    adam,
    adam_with_warmup,
    sgd,
)

__all__ = [
    "Record",
    "Snapshot",
    "Stop",
    "adam",
    "adam_with_warmup",
    "curvature",
    "sgd",
    "train",
]
