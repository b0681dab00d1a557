"""How a transformer is built: where its norms stand, and what each of its parts can be without.

Post-LN is x ← N(x + F(x)), as transformers were first built; pre-LN is x ← x + F(N(x)); peri-LN is
x ← x + N(F(N(x))). DeepNorm is post-LN with more of x and smaller first weights: x ← N(αx + F(x)).
F is attention and then a feed-forward network (FFN), by turns.

Sources: Vaswani et al. (2017), arXiv 1706.03762; Xiong et al. (2020), arXiv 2002.04745; Radford et
al. (2019), GPT-2; Wang et al. (2022), arXiv 2203.00555 (DeepNorm); Kim et al. (2025), arXiv
2502.02732 (Peri-LN); Henry et al. (2020), arXiv 2010.04245, and Dehghani et al. (2023), arXiv
2302.05442 (norms of queries and keys); Touvron et al. (2021), arXiv 2103.17239 (LayerScale);
Press et al. (2022), arXiv 2108.12409 (ALiBi).
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

from companion import activations
from companion._lib.arguments import finite, non_negative, one_of, positive_integer
from companion.activations import Activation

#: Where the layer norm stands: after the sum; before the branch; before and after it; after a sum
#: with α of the stream; or nowhere.
Place = Literal["post", "pre", "peri", "deepnorm", "none"]
PLACES: tuple[Place, ...] = get_args(Place)

#: Weights of variance 2/(fan_in + fan_out); 1/fan_in, and 2/fan_in below an FFN's activation, so
#: that a ReLU branch has variance 1; 0.02².
WeightScheme = Literal["glorot", "unit", "gpt2"]
WEIGHT_SCHEMES: tuple[WeightScheme, ...] = get_args(WeightScheme)


@dataclass(frozen=True)
class Design:
    """How a transformer is built.

    Attributes:
        place: one of :data:`PLACES`.
        layers: L, each of attention and an FFN.
        width: units of each token's stream.
        heads: of the attention; they share the width.
        hidden: units of the FFN; None for four times the width.
        activation: of the FFN.
        scheme: one of :data:`WEIGHT_SCHEMES`; biases start at 0.
        attention_scale: factor on the first query weights. At 0 each token attends to all alike.
        residual_scale: factor on the first weights that end a branch, a number; None for GPT-2's
            one over the root of the number of branches.
        branch_scale: s, which multiplies each branch for good, a number.
        logit_scale: what multiplies the product of a query and a key, a number; None for one over
            the root of a head's width.
        skip: whether x is added to F(x).
        ffn: whether there are FFNs, or attention alone.
        qk_norm: whether each head's queries and keys are layer-normed, with a gain and no bias.
        causal: whether a token attends to itself and those before it, or to all.
        distance_slope: what is taken off a logit for each token between query and key (ALiBi, with
            one slope for all heads).
        gate: first value of a learned factor for each unit of each branch (LayerScale); None for
            no such factor.

    Raises:
        ValueError: if a value is out of range, two do not go together, or the heads do not share
            the width evenly.
        TypeError: if a value is not of its type.

    """

    place: Place
    layers: int
    _: KW_ONLY
    width: int = 64
    heads: int = 1
    hidden: int | None = None
    activation: str | Activation = "relu"
    scheme: WeightScheme = "glorot"
    attention_scale: float = 1.0
    residual_scale: float | None = 1.0
    branch_scale: float = 1.0
    logit_scale: float | None = None
    skip: bool = True
    ffn: bool = True
    qk_norm: bool = False
    causal: bool = False
    distance_slope: float = 0.0
    gate: float | None = None

    def __post_init__(self) -> None:
        """Check the values, and that they go together."""
        one_of("place", self.place, PLACES)
        one_of("scheme", self.scheme, WEIGHT_SCHEMES)
        for name in ("layers", "width", "heads"):
            positive_integer(name, getattr(self, name))
        if self.hidden is not None:
            positive_integer("hidden", self.hidden)
        if self.width % self.heads:
            raise ValueError(f"heads must divide the width {self.width}, got {self.heads}")
        activations.get(self.activation)
        non_negative("attention_scale", self.attention_scale)
        non_negative("distance_slope", self.distance_slope)
        if self.residual_scale is not None:
            non_negative("residual_scale", self.residual_scale)
        for name in ("branch_scale", "logit_scale", "gate"):
            if getattr(self, name) is not None:
                finite(name, getattr(self, name))
        if self.place == "deepnorm" and not self.skip:
            raise ValueError("skip must be True for deepnorm, which is about the stream; got False")

    @property
    def branches(self) -> int:
        """How many branches there are: two a layer, or one without FFNs."""
        return self.layers * (2 if self.ffn else 1)

    @property
    def norms_input(self) -> bool:
        """Whether a branch gets a normed stream, and the stream goes on as it is."""
        return self.place in ("pre", "peri")

    @property
    def stream_scale(self) -> float:
        """The factor α on the stream x in its sum with a branch: DeepNorm's (2L)^¼, or 1."""
        return (2 * self.layers) ** 0.25 if self.place == "deepnorm" else 1.0

    @property
    def gain(self) -> float:
        """The factor on the first weights of values and FFNs: DeepNorm's (8L)^−¼, or 1."""
        return (8 * self.layers) ** -0.25 if self.place == "deepnorm" else 1.0

    @property
    def ending(self) -> float:
        """The factor on the first weights that end a branch."""
        scale = self.branches**-0.5 if self.residual_scale is None else self.residual_scale
        return scale * self.gain

    @property
    def ffn_units(self) -> int:
        """Units of the FFN."""
        return self.hidden or 4 * self.width

    @property
    def head_width(self) -> int:
        """Units of each head's queries, keys and values."""
        return self.width // self.heads

    @property
    def attention_logit_scale(self) -> float:
        """What multiplies the product of a query and a key."""
        return self.head_width**-0.5 if self.logit_scale is None else self.logit_scale

    def std(self, into: int, out: int, *, below_activation: bool = False) -> float:
        """Return the standard deviation of a weight, but for the factors above.

        Args:
            into: fan_in of the weight.
            out: fan_out of the weight.
            below_activation: whether an activation follows, as in an FFN.

        """
        if self.scheme == "gpt2":
            return 0.02
        if self.scheme == "glorot":
            return math.sqrt(2 / (into + out))
        return math.sqrt((2 if below_activation else 1) / into)
