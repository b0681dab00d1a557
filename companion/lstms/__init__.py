"""Recurrent cells, and the gradient on its way back through time.

Chapter: https://YOUR_ACCOUNT.github.io/gradients-at-depth/lstms.html
"""

from companion.lstms import driven, tasks
from companion.lstms.cells import (
    GATED,
    GATES,
    NONLINEARITIES,
    RECURRENT,
    STEPS,
    Cell,
    State,
    Trajectory,
    cell,
    chrono_,
    default_,
    drive,
    forget_bias_,
    identity_,
    orthogonal_,
    run,
    stack,
    start,
    step,
)
from companion.lstms.jacobians import (
    MATRIX_NORMS,
    PARTS,
    direct_path,
    through_time,
    to_inputs,
)

__all__ = [
    "GATED",
    "GATES",
    "MATRIX_NORMS",
    "NONLINEARITIES",
    "PARTS",
    "RECURRENT",
    "STEPS",
    "Cell",
    "State",
    "Trajectory",
    "cell",
    "chrono_",
    "default_",
    "direct_path",
    "drive",
    "driven",
    "forget_bias_",
    "identity_",
    "orthogonal_",
    "run",
    "stack",
    "start",
    "step",
    "tasks",
    "through_time",
    "to_inputs",
]
