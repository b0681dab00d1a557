"""What happens in your own network while it trains, nearly free.

Chapter: https://YOUR_ACCOUNT.github.io/gradients-at-depth/diagnosis.html
"""

from companion.monitor.gradient_monitor import (
    GradientMonitor,
)
from companion.monitor.log import (
    FORMAT,
    Layer,
    Log,
)

__all__ = [
    "FORMAT",
    "GradientMonitor",
    "Layer",
    "Log",
]
