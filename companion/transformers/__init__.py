"""Blocks of transformers: where the norm stands, what each part does, and attention alone."""

from companion.transformers.attention import (
    JacobianParts,
    LeastEntropy,
    PredictedSlopes,
    SoftmaxSlopes,
    attention_weights,
    entropy,
    jacobian_parts,
    least_entropy,
    predicted_slopes,
    softmax_slopes,
)
from companion.transformers.blocks import FFN, Attention, Sublayer, Transformer, networks
from companion.transformers.changes import amplification, first_step, predicted_amplification
from companion.transformers.collapse import rank_collapse, token_spread
from companion.transformers.designs import PLACES, WEIGHT_SCHEMES, Design
from companion.transformers.flows import Flow, distance_flow, flow, predicted_flow
from companion.transformers.projections import Projections, find_projections, projection_flow
from companion.transformers.widths import (
    Coordinates,
    coordinate_check,
    mup_groups,
    mup_rates,
    mup_start_,
)

__all__ = [
    "FFN",
    "PLACES",
    "WEIGHT_SCHEMES",
    "Attention",
    "Coordinates",
    "Design",
    "Flow",
    "JacobianParts",
    "LeastEntropy",
    "PredictedSlopes",
    "Projections",
    "SoftmaxSlopes",
    "Sublayer",
    "Transformer",
    "amplification",
    "attention_weights",
    "coordinate_check",
    "distance_flow",
    "entropy",
    "find_projections",
    "first_step",
    "flow",
    "jacobian_parts",
    "least_entropy",
    "mup_groups",
    "mup_rates",
    "mup_start_",
    "networks",
    "predicted_amplification",
    "predicted_flow",
    "predicted_slopes",
    "projection_flow",
    "rank_collapse",
    "softmax_slopes",
    "token_spread",
]
