"""Activation functions and their slopes in closed form, and the units that no longer respond.

Chapter: https://YOUR_ACCOUNT.github.io/gradients-at-depth/activations.html
"""

from companion.activations.functions import (
    ACTIVATIONS,
    SELU_ALPHA,
    SELU_SCALE,
    SOFTPLUS_THRESHOLD,
    Activation,
    GaussianMoments,
    elu,
    gaussian_moments,
    get,
    leaky_relu,
    positively_homogeneous,
    prelu,
    shifted,
)
from companion.activations.units import (
    Units,
    born_dead,
    born_dead_probability,
    dead,
    dead_units,
    saturated,
    saturated_units,
    saturation_bounds,
)

__all__ = [
    "ACTIVATIONS",
    "SELU_ALPHA",
    "SELU_SCALE",
    "SOFTPLUS_THRESHOLD",
    "Activation",
    "GaussianMoments",
    "Units",
    "born_dead",
    "born_dead_probability",
    "dead",
    "dead_units",
    "elu",
    "gaussian_moments",
    "get",
    "leaky_relu",
    "positively_homogeneous",
    "prelu",
    "saturated",
    "saturated_units",
    "saturation_bounds",
    "shifted",
]
