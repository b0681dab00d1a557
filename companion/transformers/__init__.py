"""Blocks of transformers: where the norm stands, what each part does, and attention alone."""

from companion.transformers.blocks import FFN, Attention, Sublayer, Transformer, networks
from companion.transformers.collapse import rank_collapse, token_spread
from companion.transformers.designs import PLACES, WEIGHT_SCHEMES, Design
from companion.transformers.flows import Flow, distance_flow, flow, predicted_flow

__all__ = [
    "FFN",
    "PLACES",
    "WEIGHT_SCHEMES",
    "Attention",
    "Design",
    "Flow",
    "Sublayer",
    "Transformer",
    "distance_flow",
    "flow",
    "networks",
    "predicted_flow",
    "rank_collapse",
    "token_spread",
]
