"""Batch, layer, RMS and group norm, and what cannot pass them.

Chapter: https://YOUR_ACCOUNT.github.io/gradients-at-depth/normalization.html
"""

from companion.normalization import explosion, landscape
from companion.normalization.norms import (
    NORMS,
    BatchNoise,
    InputResiduals,
    batch_noise,
    batch_norm,
    group_norm,
    input_residuals,
    layer_norm,
    norm_module,
    predicted_batch_noise,
    rms_norm,
    standardize,
    weight_residuals,
)

__all__ = [
    "NORMS",
    "BatchNoise",
    "InputResiduals",
    "batch_noise",
    "batch_norm",
    "explosion",
    "group_norm",
    "input_residuals",
    "landscape",
    "layer_norm",
    "norm_module",
    "predicted_batch_noise",
    "rms_norm",
    "standardize",
    "weight_residuals",
]
