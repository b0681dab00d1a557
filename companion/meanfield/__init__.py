"""Mean-field theory: what a wide random network does to lengths and gradients, layer by layer.

Sources: Poole et al. (2016), arXiv 1606.05340; Schoenholz et al. (2017), arXiv 1611.01232.
"""

from companion.meanfield.maps import (
    CRITICAL_TOLERANCE,
    DepthScales,
    Moments,
    correlation_fixed_point,
    correlation_map,
    critical_weight_variance,
    depth_scale,
    depth_scales,
    fixed_point,
    gradient_flow,
    length_map,
    length_slope,
    measured_moments,
    moment_jacobian,
    moment_map,
)
from companion.meanfield.steps import Gradient, State, chi, gaussian_mean, half_distance

__all__ = [
    "CRITICAL_TOLERANCE",
    "DepthScales",
    "Gradient",
    "Moments",
    "State",
    "chi",
    "correlation_fixed_point",
    "correlation_map",
    "critical_weight_variance",
    "depth_scale",
    "depth_scales",
    "fixed_point",
    "gaussian_mean",
    "gradient_flow",
    "half_distance",
    "length_map",
    "length_slope",
    "measured_moments",
    "moment_jacobian",
    "moment_map",
]
