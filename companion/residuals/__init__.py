"""Stacks of blocks with and without a plus sign: what they do to signal and gradient.

Chapter: https://YOUR_ACCOUNT.github.io/gradients-at-depth/residuals.html
"""

from companion.residuals import paths
from companion.residuals.blocks import (
    KINDS,
    ORDERS,
    Block,
    Degradation,
    Design,
    Shift,
    Stack,
    degradation,
    networks,
)
from companion.residuals.flows import (
    Flow,
    Growth,
    block_growth,
    flow,
    flow_of,
    predicted_flow,
)

__all__ = [
    "KINDS",
    "ORDERS",
    "Block",
    "Degradation",
    "Design",
    "Flow",
    "Growth",
    "Shift",
    "Stack",
    "block_growth",
    "degradation",
    "flow",
    "flow_of",
    "networks",
    "paths",
    "predicted_flow",
]
