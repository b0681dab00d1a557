"""Blocks of transformers, with the norm before or after the sum, and attention alone."""

from companion.transformers.blocks import (
    FFN,
    PLACES,
    WEIGHT_SCHEMES,
    Attention,
    Design,
    Flow,
    Sublayer,
    Transformer,
    flow,
    networks,
    predicted_flow,
    rank_collapse,
    token_spread,
)

__all__ = [
    "FFN",
    "PLACES",
    "WEIGHT_SCHEMES",
    "Attention",
    "Design",
    "Flow",
    "Sublayer",
    "Transformer",
    "flow",
    "networks",
    "predicted_flow",
    "rank_collapse",
    "token_spread",
]
