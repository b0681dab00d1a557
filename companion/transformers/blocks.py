"""Transformer blocks with the layer norm before or after the sum, and attention by itself.

Post-LN is x ← N(x + F(x)), as transformers were first built; pre-LN is x ← x + F(N(x)), with one
more norm at the end. F is attention and then a feed-forward network (FFN), by turns.

Sources: Vaswani et al. (2017), arXiv 1706.03762; Xiong et al. (2020), arXiv 2002.04745; Radford et
al. (2019), GPT-2; Dong et al. (2021), arXiv 2103.03404.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import skip_init

from companion import activations
from companion._lib import random
from companion._lib.arguments import non_negative, one_of, positive_integer
from companion._lib.stacking import norms, of_part, stack
from companion.activations import Activation
from companion.meanfield import Gradient, State

#: Where the layer norm stands: after the sum, before the branch, or nowhere.
Place = Literal["post", "pre", "none"]
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
        layers: L, each of attention and an FFN: 2L branches.
        width: units of each token's stream.
        heads: of the attention; they share the width.
        hidden: units of the FFN; None for four times the width.
        activation: of the FFN.
        scheme: one of :data:`WEIGHT_SCHEMES`; biases start at 0.
        attention_scale: factor on the first query weights. At 0 each token attends to all alike.
        residual_scale: factor on the first weights that end a branch, a number; None for GPT-2's
            1/√(2L).

    Raises:
        ValueError: if a value is out of range, or the heads do not share the width evenly.
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
        if self.residual_scale is not None:
            non_negative("residual_scale", self.residual_scale)

    @property
    def ending(self) -> float:
        """The factor on the first weights that end a branch."""
        return (2 * self.layers) ** -0.5 if self.residual_scale is None else self.residual_scale

    @property
    def ffn_units(self) -> int:
        """Units of the FFN."""
        return self.hidden or 4 * self.width

    def std(self, into: int, out: int, *, below_activation: bool = False) -> float:
        """Return the standard deviation of a weight, but for ``residual_scale``.

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


# ---------------------------------------------------------------- the modules


class Attention(nn.Module):
    """Softmax attention of every token to all; (…, tokens, width) to the same shape.

    Args:
        design: of the transformer that it is part of.
        generator: source of the weights' randomness.

    """

    def __init__(self, design: Design, generator: torch.Generator) -> None:
        super().__init__()
        self.heads, width = design.heads, design.width
        std = design.std(width, width)
        self.query = _linear(width, width, std * design.attention_scale, generator)
        self.key = _linear(width, width, std, generator)
        self.value = _linear(width, width, std, generator)
        self.end = _linear(width, width, std * design.ending, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return what each token gathers from all, of x's shape (…, tokens, width)."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for part in (self.query, self.key, self.value)
        )
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        return self.end((weights @ v).transpose(-2, -3).flatten(-2))


class FFN(nn.Module):
    """W₂ φ(W₁ x), for each token by itself.

    Args:
        design: of the transformer that it is part of.
        generator: source of the weights' randomness.

    """

    def __init__(self, design: Design, generator: torch.Generator) -> None:
        super().__init__()
        width, hidden = design.width, design.ffn_units
        std = design.std(width, hidden, below_activation=True)
        self.begin = _linear(width, hidden, std, generator)
        self.activation = activations.get(design.activation).module()
        self.end = _linear(hidden, width, design.std(hidden, width) * design.ending, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return W₂ φ(W₁ x), of x's shape (…, width)."""
        return self.end(self.activation(self.begin(x)))


def _linear(into: int, out: int, std: float, generator: torch.Generator) -> nn.Linear:
    linear = skip_init(nn.Linear, into, out, dtype=torch.float64)
    # Drawn at every scale, 0 too, so that the other weights do not depend on it.
    nn.init.normal_(linear.weight, generator=generator).detach().mul_(std)
    nn.init.zeros_(linear.bias)
    return linear


class Sublayer(nn.Module):
    """A branch with its skip and its norm: the place of the norm is the whole difference.

    Args:
        branch: F, from a tensor to a tensor of the same shape.
        design: of the transformer that it is part of.

    """

    def __init__(self, branch: nn.Module, design: Design) -> None:
        super().__init__()
        self.place = design.place
        self.branch = branch
        self.norm = _norm(design.width) if design.place != "none" else nn.Identity()

    def extra_repr(self) -> str:
        """Name what the modules do not show."""
        return f"place={self.place}"

    def forward(self, x: Tensor) -> Tensor:
        """Return x + F(N(x)) for pre-LN, N(x + F(x)) for post-LN, of shape (…, tokens, width)."""
        if self.place == "pre":
            return x + self.branch(self.norm(x))
        return self.norm(x + self.branch(x))


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, dtype=torch.float64)


class Transformer(nn.Module):
    """Sublayers one after the other, and a reader of sequences around them if sizes are given.

    Args:
        design: of the sublayers.
        reader: numbers of tokens, of features of each, and of classes; None for none: sequences of
            width features come in and go out.
        generator: source of the weights' randomness.

    """

    def __init__(
        self, design: Design, reader: "tuple[int, int, int] | None", generator: torch.Generator
    ) -> None:
        super().__init__()
        branches = (Attention, FFN) * design.layers
        self.tokens: int | None = None
        self.embed: nn.Module = nn.Identity()
        self.read: nn.Module = nn.Identity()
        if reader is not None:
            self.tokens, features, classes = reader
            self.embed = _linear(features, design.width, features**-0.5, generator)
            shape = (self.tokens, design.width)
            start = torch.randn(shape, generator=generator, dtype=torch.float64)
            self.positions = nn.Parameter(start)
            self.read = _linear(design.width, classes, design.width**-0.5, generator)
        self.sublayers = nn.Sequential(
            *(Sublayer(branch(design, generator), design) for branch in branches)
        )
        self.final = _norm(design.width) if design.place == "pre" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, tokens, width) for that, or class scores for (…, tokens · features)."""
        if self.tokens is None:
            return self.final(self.sublayers(x))
        x = self.embed(x.unflatten(-1, (self.tokens, -1))) + self.positions
        return self.read(self.final(self.sublayers(x)).mean(-2))


def networks(
    design: Design,
    *,
    tokens: int | None = None,
    features: int | None = None,
    outputs: int | None = None,
    seeds: int | Sequence[int] = 1,
) -> list[Transformer]:
    """Build transformers of one design, one for each seed, as ``training.train`` takes them.

    Args:
        design: of each.
        tokens: with ``features`` and ``outputs``, makes classifiers of sequences that come as one
            row, tokens · features long: embedding, learned positions, mean over the tokens at the
            end. Without all three, transformers take and return (…, tokens, width).
        features: numbers a token.
        outputs: number of classes.
        seeds: the seeds to draw, or how many, counting from 0.

    Raises:
        ValueError: if only some of the three are given, one is below 1, or there is no seed.
        TypeError: if one of the three, or the number of seeds, is not a whole number.

    Example:
        >>> (model,) = networks(Design("pre", layers=1), tokens=8, features=8, outputs=10)
        >>> tuple(model(torch.ones(3, 64, dtype=torch.float64)).shape)
        (3, 10)

    """
    if [tokens, features, outputs].count(None) not in (0, 3):
        raise ValueError(
            f"tokens, features and outputs come together or not at all, got {tokens}, {features} "
            f"and {outputs}"
        )
    reader = None
    if tokens is not None:
        reader = (
            positive_integer("tokens", tokens),
            positive_integer("features", features),
            positive_integer("outputs", outputs),
        )
    generators = random.generators(random.seed_list(seeds))
    return [Transformer(design, reader, generator) for generator in generators]


# ---------------------------------------------------------------- measured and predicted


class Flow(NamedTuple):
    """What a transformer does at initialization.

    Attributes:
        mean_squares: (..., 2L + 1) of the stream's entries, before the first branch and after each.
        ffn_gradients: (..., L) norm of the gradient with respect to the last weight of each FFN,
            for an output gradient of variance 1, over the root of the number of tokens.

    """

    mean_squares: Tensor
    ffn_gradients: Tensor


def flow(
    design: Design, *, tokens: int = 8, sequences: int = 4, seeds: int | Sequence[int] = 8
) -> Flow:
    """Measure the stream and the FFNs' gradients in random transformers, for normal inputs.

    The gradient is normal at the output: past the last norm, where there is one.

    Args:
        design: of the transformers.
        tokens: of each sequence.
        sequences: for each transformer.
        seeds: the seeds to draw, or how many, counting from 0; inputs have seeds of their own.

    Returns:
        A :class:`Flow` of float64 tensors (seeds, 2L + 1) and (seeds, L).

    Raises:
        TypeError: if ``tokens``, ``sequences`` or the number of seeds is not a whole number.
        ValueError: if one of them is below 1, or there is no seed.

    Example:
        >>> found = flow(Design("pre", layers=3, width=16), seeds=2)
        >>> tuple(found.mean_squares.shape), tuple(found.ffn_gradients.shape)
        ((2, 7), (2, 3))

    """
    seeds = random.seed_list(seeds)
    count = (positive_integer("sequences", sequences), positive_integer("tokens", tokens))
    draws = random.normal(random.generators(seeds, "inputs"), 2, *count, design.width)
    inputs, output_gradients = draws.unbind(1)
    skeleton, parameters = stack(networks(design, seeds=seeds))

    def run(state: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        squares = [x.square().mean()]
        for index, sublayer in enumerate(skeleton.sublayers):
            x = functional_call(sublayer, of_part(state, f"sublayers.{index}."), (x,))
            squares.append(x.square().mean())
        return skeleton.final(x), torch.stack(squares)

    outputs, squares = vmap(run)(parameters, inputs)
    ends = [f"sublayers.{2 * layer + 1}.branch.end.weight" for layer in range(design.layers)]
    gradients = torch.autograd.grad(outputs, [parameters[end] for end in ends], output_gradients)
    return Flow(squares.detach(), norms(gradients) / math.sqrt(math.prod(count)))


def predicted_flow(design: Design, *, tokens: int = 8) -> Flow:
    """Predict what :func:`flow` measures in wide transformers that attend to all tokens alike.

    How alike the tokens are is followed forward and, for their gradients, back: the mean over the
    tokens keeps only what they have in common. A branch whose input has been divided by the root of
    the stream's mean square q multiplies the squared gradient by f/q.

    Args:
        design: with an ``attention_scale`` of 0 (it is taken to be 0, and compares well with others
            while the softmax is not sharp).
        tokens: of each sequence.

    Returns:
        A :class:`Flow` of float64 tensors (2L + 1,) and (L,).

    Raises:
        TypeError: if ``tokens`` is not a whole number.
        ValueError: if it is below 1, or a norm has nothing left to divide by.

    Source: Xiong et al. (2020), arXiv 2002.04745, who bound these gradients.

    Example:
        >>> unscaled = Design("pre", layers=3, scheme="unit")
        >>> [round(q, 6) for q in predicted_flow(unscaled, tokens=1).mean_squares.tolist()]
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]

    """
    tokens = positive_integer("tokens", tokens)
    stream, squares, steps = State(1.0, 1.0), [1.0], []
    for index in range(2 * design.layers):
        x = stream.start()
        hidden, branch = _branch(design, x, tokens, ffn=index % 2 == 1)
        total = x.plus(branch)
        stream = total.start().norm("layer") if design.place == "post" else total.start()
        steps.append((hidden, total, stream))
        squares.append(stream.square)
    final = stream.start().norm("layer") if design.place == "pre" else stream.start()
    gradient, found = final.back(Gradient(1.0)), []
    for index, (hidden, total, stream) in reversed(list(enumerate(steps))):
        gradient = stream.back(gradient)
        if index % 2:
            both = hidden.square * gradient.square
            both += (tokens - 1) * hidden.overlap * gradient.overlap
            found.append(math.sqrt(design.width * design.ffn_units * both))
        gradient = total.back(gradient)
    return Flow(
        torch.tensor(squares, dtype=torch.float64), torch.tensor(found[::-1], dtype=torch.float64)
    )


def _branch(design: Design, x: State, tokens: int, *, ffn: bool) -> tuple[State, State]:
    """Return what the last weights of a branch take, and what they give."""
    x = x.norm("layer") if design.place == "pre" else x
    width, hidden, ending = design.width, design.ffn_units, design.ending**2
    if not ffn:
        each = width * design.std(width, width) ** 2
        gathered = x.weights(each).average(tokens)
        return gathered, gathered.weights(each * ending)
    begin = design.std(width, hidden, below_activation=True) ** 2
    end = design.std(hidden, width) ** 2 * ending
    a = x.weights(width * begin, backward=hidden * begin).activation(design.activation)
    return a, a.weights(hidden * end, backward=width * end)


# ---------------------------------------------------------------- attention alone


def token_spread(x: Tensor) -> Tensor:
    """Return how far tokens are from all being one: ‖X − mean token‖/‖X‖, from 0 to 1.

    Args:
        x: (…, tokens, width).

    Returns:
        Tensor of shape (…); nan where all tokens are 0.

    Source: Dong et al. (2021), arXiv 2103.03404, who take other norms.

    Example:
        >>> token_spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item()
        1.0

    """
    apart = x - x.mean(-2, keepdim=True)
    return apart.flatten(-2).norm(dim=-1) / x.flatten(-2).norm(dim=-1)


def rank_collapse(
    *,
    skip: bool,
    layers: int = 12,
    tokens: int = 16,
    width: int = 32,
    weight_variance: float = 1.0,
    seeds: int | Sequence[int] = 8,
) -> Tensor:
    """Measure how soon attention without norms and FFNs makes all tokens alike.

    A layer is X ← softmax(X W_q W_kᵀ Xᵀ/√width) X W_v, with X added to it or not. Where tokens
    differ by little, the softmax is nearly even and their differences are multiplied by little
    more than their own size: they vanish doubly exponentially.

    Args:
        skip: whether X is added.
        layers: how many.
        tokens: of the sequence.
        width: of each token.
        weight_variance: σ_w², width times the variance of each weight.
        seeds: the seeds to draw, or how many, counting from 0.

    Returns:
        (seeds, layers + 1) the :func:`token_spread` of the inputs and after each layer.

    Raises:
        TypeError: if a count is not a whole number, or the variance is not a number.
        ValueError: if a count is below 1, there is no seed, or the variance is negative or not
            finite.

    Source: Dong et al. (2021), arXiv 2103.03404.

    Example:
        >>> bool((rank_collapse(skip=False, layers=5)[:, -1] < 1e-6).all())
        True

    """
    width = positive_integer("width", width)
    std = math.sqrt(non_negative("weight_variance", weight_variance) / width)
    draw = partial(random.normal, random.generators(random.seed_list(seeds)))
    x = draw(positive_integer("tokens", tokens), width)
    found = [token_spread(x)]
    for _ in range(positive_integer("layers", layers)):
        q, k, v = (x @ (std * draw(width, width)) for _ in range(3))
        out = (q @ k.mT / math.sqrt(width)).softmax(-1) @ v
        x = x + out if skip else out
        found.append(token_spread(x))
    return torch.stack(found, dim=-1)


# ---------------------------------------------------------------- warmup
