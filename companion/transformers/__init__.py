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
from companion.transformers.collapse import rank_collapse, token_spread
from companion.transformers.designs import PLACES, WEIGHT_SCHEMES, Design
from companion.transformers.flows import Flow, distance_flow, flow, predicted_flow
from companion.transformers.projections import Projections, find_projections, projection_flow

__all__ = [
    "FFN",
    "PLACES",
    "WEIGHT_SCHEMES",
    "Attention",
    "Design",
    "Flow",
    "JacobianParts",
    "LeastEntropy",
    "PredictedSlopes",
    "Projections",
    "SoftmaxSlopes",
    "Sublayer",
    "Transformer",
    "attention_weights",
    "distance_flow",
    "entropy",
    "find_projections",
    "flow",
    "jacobian_parts",
    "least_entropy",
    "networks",
    "predicted_flow",
    "predicted_slopes",
    "projection_flow",
    "rank_collapse",
    "softmax_slopes",
    "token_spread",
]
