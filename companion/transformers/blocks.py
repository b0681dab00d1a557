"""The modules of a transformer, from one builder: attention, FFN, and what stands around them.

:class:`~companion.transformers.designs.Design` says how they are put together and names the papers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from companion import activations
from companion._lib import random
from companion._lib.arguments import positive_integer
from companion.transformers.designs import Design


class Attention(nn.Module):
    """Softmax attention of every token to all; (…, tokens, width) to the same shape.

    Args:
        design: of the transformer that it is part of.
        generator: source of the weights' randomness.

    """

    def __init__(self, design: Design, generator: torch.Generator) -> None:
        super().__init__()
        self.heads, width = design.heads, design.width
        self.scale, self.causal = design.attention_logit_scale, design.causal
        self.slope = design.distance_slope
        std = design.std(width, width)
        self.query = _linear(width, width, std * design.attention_scale, generator)
        self.key = _linear(width, width, std, generator)
        self.value = _linear(width, width, std * design.gain, generator)
        self.end = _linear(width, width, std * design.ending, generator)
        self.query_norm, self.key_norm = (
            nn.LayerNorm(design.head_width, bias=False, dtype=torch.float64)
            if design.qk_norm
            else nn.Identity()
            for _ in range(2)
        )

    def extra_repr(self) -> str:
        """Name what the modules do not show."""
        return f"heads={self.heads}, scale={self.scale:.3g}, causal={self.causal}"

    def logits(self, x: Tensor) -> Tensor:
        """Return what the softmax is taken of, (…, heads, queries, keys), for (…, tokens, width).

        What a token may not see is −∞.
        """
        q = self.query_norm(self._by_heads(self.query(x)))
        k = self.key_norm(self._by_heads(self.key(x)))
        logits = q @ k.mT * self.scale
        place = torch.arange(logits.shape[-1], device=x.device)
        ahead = place - place[:, None]  # of the key, from the query
        if self.slope:
            logits = logits - self.slope * ahead.abs().to(logits.dtype)
        return logits.masked_fill(ahead > 0, -torch.inf) if self.causal else logits

    def forward(self, x: Tensor) -> Tensor:
        """Return what each token gathers from all, of x's shape (…, tokens, width)."""
        gathered = self.logits(x).softmax(-1) @ self._by_heads(self.value(x))
        return self.end(gathered.transpose(-2, -3).flatten(-2))

    def _by_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class FFN(nn.Module):
    """W₂ φ(W₁ x), for each token by itself.

    Args:
        design: of the transformer that it is part of.
        generator: source of the weights' randomness.

    """

    def __init__(self, design: Design, generator: torch.Generator) -> None:
        super().__init__()
        width, hidden = design.width, design.ffn_units
        std = design.std(width, hidden, below_activation=True) * design.gain
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


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, dtype=torch.float64)


class Sublayer(nn.Module):
    """A branch with its skip, its norms and its factors.

    Args:
        branch: F, from a tensor to a tensor of the same shape.
        design: of the transformer that it is part of.

    """

    def __init__(self, branch: nn.Module, design: Design) -> None:
        super().__init__()
        self.design = design
        self.branch = branch
        self.norm = _norm(design.width) if design.place != "none" else nn.Identity()
        self.branch_norm = _norm(design.width) if design.place == "peri" else nn.Identity()
        if design.gate is not None:
            start = torch.full((design.width,), float(design.gate), dtype=torch.float64)
            self.gate = nn.Parameter(start)

    def extra_repr(self) -> str:
        """Name what the modules do not show."""
        design = self.design
        return f"place={design.place}, skip={design.skip}, branch_scale={design.branch_scale:g}"

    def residual(self, x: Tensor) -> Tensor:
        """Return what is added to the stream x: F with its norms and factors, of x's shape."""
        out = self.branch_norm(self.branch(self.norm(x) if self.design.norms_input else x))
        out = out * self.gate if self.design.gate is not None else out
        return out * self.design.branch_scale if self.design.branch_scale != 1 else out

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream after the branch, of shape (…, tokens, width)."""
        out = self.residual(x)
        if self.design.skip:
            out = x + out if self.design.stream_scale == 1 else self.design.stream_scale * x + out
        return out if self.design.norms_input else self.norm(out)


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
        branches = ((Attention, FFN) if design.ffn else (Attention,)) * design.layers
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
        self.final = _norm(design.width) if design.norms_input else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, tokens, width) for that, or class scores for (…, tokens · features)."""
        return self.read_out(self.final(self.sublayers(self.stream(x))))

    def stream(self, x: Tensor) -> Tensor:
        """Return what enters the first sublayer, (…, tokens, width), for an input."""
        if self.tokens is None:
            return x
        return self.embed(x.unflatten(-1, (self.tokens, -1))) + self.positions

    def read_out(self, x: Tensor) -> Tensor:
        """Return the output for what the last norm returns, (…, tokens, width)."""
        return x if self.tokens is None else self.read(x.mean(-2))


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
