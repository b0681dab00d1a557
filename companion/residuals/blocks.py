"""Stacks of blocks from one builder: plain, residual in its variants, and highway.

A block has a branch F of m weight layers, and the kind of the stack says what becomes of x and F(x)
(:data:`KINDS`). :class:`Design` describes a stack, :func:`networks` builds it, and
:func:`degradation` trains plain and residual ones. What every block does to the signal and to the
gradient is in :mod:`companion.residuals.flows`, the paths that the gradient takes in
:mod:`companion.residuals.paths`.

Sources: He et al. (2016), arXiv 1512.03385 and 1603.05027; Srivastava et al. (2015), arXiv
1505.00387; Zhang, Dauphin & Ma (2019), arXiv 1901.09321 (Fixup); De & Smith (2020), arXiv
2002.10444 (SkipInit); Bachlechner et al. (2020), arXiv 2003.04887 (ReZero).
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import takewhile
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from companion import activations, training
from companion._lib import random
from companion._lib.arguments import finite, non_negative, one_of, positive_integer
from companion.activations import Activation
from companion.data import Split, digits
from companion.initialization import variance_scaling_
from companion.normalization.norms import NORMS, Norm, norm_module

#: What becomes of x and its branch F(x): F(x); x + s·F(x) with s fixed; x + α·F(x) with α learned
#: from 0 (ReZero, and SkipInit where a norm was taken out); x + F(x) with F's last weight 0
#: (Fixup); g⊙F(x) + (1−g)⊙x with a learned gate g (highway).
Kind = Literal["plain", "residual", "rezero", "skipinit", "fixup", "highway"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: Where activations φ and norms N stand, of two weight layers: "pre_activation" has
#: F = W₂ φ(N(W₁ φ(N(x)))); "weight_first" F = W₂ φ(W₁ N(x)); "post_activation"
#: F = N(W₂ φ(N(W₁ x))), and φ once more after F has been added to x.
Order = Literal["pre_activation", "weight_first", "post_activation"]
ORDERS: tuple[Order, ...] = get_args(Order)

BranchScale = Literal["1/sqrt(depth)", "1/depth"]
_SCALES: dict[BranchScale, float] = {"1/sqrt(depth)": 0.5, "1/depth": 1.0}


@dataclass(frozen=True)
class Design:
    """How a stack is built.

    Attributes:
        kind: one of :data:`KINDS`.
        depth: L, the number of blocks.
        width: units in the stream x that runs through the blocks.
        branch_layers: m, the weight layers of each branch.
        hidden: units between the weight layers of a branch; None for ``width``.
        activation: its name, or an :class:`~companion.activations.Activation`.
        norm: "none", "batch" or "layer".
        order: one of :data:`ORDERS`. A highway branch has its own, φ(W₂ φ(W₁ x)).
        weight_variance: σ_w², fan_in times the variance of a weight: 2 for He.
        branch_scale: s, of a residual branch: a number, "1/sqrt(depth)" or "1/depth".
        gate_bias: of a highway's gate g = σ(W x + b), which lets F(x) through where it is 1: a
            negative bias lets x pass.

    Raises:
        ValueError: if a value is out of range, or two do not go together.
        TypeError: if a value is not of its type.

    """

    kind: Kind
    depth: int
    _: KW_ONLY
    width: int = 64
    branch_layers: int = 2
    hidden: int | None = None
    activation: str | Activation = "relu"
    norm: Norm = "none"
    order: Order = "pre_activation"
    weight_variance: float = 2.0
    branch_scale: float | BranchScale = 1.0
    gate_bias: float = -2.0

    def __post_init__(self) -> None:
        """Check the values, and that they go together."""
        one_of("kind", self.kind, KINDS)
        one_of("norm", self.norm, NORMS)
        one_of("order", self.order, ORDERS)
        for name in ("depth", "width", "branch_layers"):
            positive_integer(name, getattr(self, name))
        if self.hidden is not None:
            positive_integer("hidden", self.hidden)
        activations.get(self.activation)
        non_negative("weight_variance", self.weight_variance)
        if isinstance(self.branch_scale, str):
            one_of("branch_scale", self.branch_scale, _SCALES)
        else:
            finite("branch_scale", self.branch_scale)
        finite("gate_bias", self.gate_bias)
        if self.branch_scale != 1 and self.kind != "residual":
            raise ValueError(
                f"branch_scale is for a residual stack, got {self.branch_scale!r} for a {self.kind}"
            )
        if self.norm != "none" and self.kind in ("fixup", "highway"):
            raise ValueError(f"a {self.kind} stack has no norm, got {self.norm!r}")

    @property
    def scale(self) -> float:
        """The number s that multiplies each branch before training."""
        if self.kind in ("rezero", "skipinit", "fixup"):
            return 0.0
        if isinstance(self.branch_scale, str):
            return self.depth ** -_SCALES[self.branch_scale]
        return float(self.branch_scale)


# ---------------------------------------------------------------- the builder


class Shift(nn.Module):
    """Fixup's bias: one number, added to everything."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return x + b, for x of any shape."""
        return x + self.bias


def branch_words(design: Design) -> list[str]:
    """Return what a branch does, in its order: "weight", "norm", "activation"."""
    more = design.branch_layers - 1
    if design.kind == "highway":
        return ["weight", "activation"] * design.branch_layers
    if design.order == "pre_activation":
        words = ["norm", "activation", "weight"] * design.branch_layers
    elif design.order == "weight_first":
        words = ["norm", "weight", *["activation", "weight"] * more]
    else:
        words = ["weight", "norm", *["activation", "weight", "norm"] * more]
    return words if design.norm != "none" else [word for word in words if word != "norm"]


class Block(nn.Module):
    """One block of a stack; ``branch`` is F, which can be called by itself.

    Args:
        design: of the stack that it is part of.
        generator: source of the weights' randomness.

    """

    def __init__(self, design: Design, generator: torch.Generator) -> None:
        super().__init__()
        self.design = design
        self.branch = _branch(design, generator)
        learned = {"rezero": 0.0, "skipinit": 0.0, "fixup": 1.0}
        if design.kind in learned:
            start = torch.tensor([learned[design.kind]], dtype=torch.float64)
            self.multiplier = nn.Parameter(start)
        if design.kind == "highway":
            self.gate = _linear(design.width, design.width, 1.0, generator, bias=design.gate_bias)
        if design.kind == "fixup":
            self.shift = Shift()
        if design.order == "post_activation" and design.kind != "highway":
            self.after = activations.get(design.activation).module()

    def extra_repr(self) -> str:
        """Name what the modules do not show."""
        return f"{self.design.kind}, scale={self.design.scale:g}"

    def residual(self, x: Tensor) -> Tensor:
        """Return what a residual block adds to x: F(x) with all its factors.

        x and what is returned have shape (..., width).
        """
        out = self.branch(x)
        if self.design.kind == "fixup":
            return self.multiplier * out + self.shift.bias
        if self.design.kind in ("rezero", "skipinit"):
            return self.multiplier * out
        return self.design.scale * out

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the shape of its input (..., width)."""
        if self.design.kind == "highway":
            g = torch.sigmoid(self.gate(x))
            return g * self.branch(x) + (1 - g) * x
        y = self.branch(x) if self.design.kind == "plain" else x + self.residual(x)
        return self.after(y) if self.design.order == "post_activation" else y


def _branch(design: Design, generator: torch.Generator) -> nn.Sequential:
    hidden = design.hidden or design.width
    sizes = [design.width, *[hidden] * (design.branch_layers - 1), design.width]
    fixup, layer = design.kind == "fixup", 0
    modules: list[nn.Module] = []
    for word in branch_words(design):
        if fixup:
            modules.append(Shift())
        if word == "activation":
            modules.append(activations.get(design.activation).module())
        elif word == "norm":
            modules.append(norm_module(design.norm, sizes[layer]))
        else:
            linear = _linear(sizes[layer], sizes[layer + 1], design.weight_variance, generator)
            layer += 1
            if fixup:
                factor = _fixup_factor(design) if layer < design.branch_layers else 0.0
                linear.weight.detach().mul_(factor)
            modules.append(linear)
    return nn.Sequential(*modules)


def _fixup_factor(design: Design) -> float:
    """Return L^(−1/(2m−2)), by which all weights of a branch but the last are scaled."""
    return design.depth ** (-1 / (2 * design.branch_layers - 2))


def _linear(
    into: int, out: int, variance: float, generator: torch.Generator, *, bias: float | None = None
) -> nn.Linear:
    linear = skip_init(nn.Linear, into, out, bias=bias is not None, dtype=torch.float64)
    variance_scaling_(linear.weight.detach(), scale=variance, generator=generator)
    if bias is not None:
        nn.init.constant_(linear.bias, bias)
    return linear


class Stack(nn.Module):
    """Blocks one after the other, between a first and a last layer if their sizes are given.

    Args:
        design: of the blocks.
        inputs: number of inputs of a first linear layer; None for none: the blocks take x.
        outputs: number of outputs of a last linear layer; None for none.
        generator: source of the weights' randomness.

    Raises:
        TypeError: if ``inputs`` or ``outputs`` is neither a whole number nor None.
        ValueError: if one of them is below 1.

    """

    def __init__(
        self,
        design: Design,
        *,
        inputs: int | None = None,
        outputs: int | None = None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.first: nn.Module = nn.Identity()
        if inputs is not None:
            self.first = _linear(positive_integer("inputs", inputs), design.width, 1.0, generator)
        self.blocks = nn.Sequential(*(Block(design, generator) for _ in range(design.depth)))
        self.last: nn.Module = nn.Identity()
        if outputs is not None:
            count = positive_integer("outputs", outputs)
            linear = _linear(design.width, count, 1.0, generator)
            if design.kind == "fixup":
                nn.init.zeros_(linear.weight)
            # Where nothing stands after the sum, the last layer sees what a branch would see.
            open_end = design.order != "post_activation" and design.kind != "highway"
            ahead = takewhile(
                lambda word: word != "weight", branch_words(design) if open_end else []
            )
            made = {
                "norm": lambda: norm_module(design.norm, design.width),
                "activation": activations.get(design.activation).module,
            }
            self.last = nn.Sequential(*(made[word]() for word in ahead), linear)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for inputs of shape (examples, inputs or width)."""
        return self.last(self.blocks(self.first(x)))


def networks(
    design: Design,
    *,
    inputs: int | None = None,
    outputs: int | None = None,
    seeds: int | Sequence[int] = 1,
) -> list[Stack]:
    """Build stacks of one design, one for each seed, as ``training.train`` takes them.

    They are float64, with normal weights and no biases but the gate's and Fixup's. Batch norm keeps
    no running statistics.

    Args:
        design: of every stack.
        inputs: number of inputs of a first linear layer; None for none: the blocks take x.
        outputs: number of outputs of a last linear layer; None for none.
        seeds: the seeds to draw, or how many, counting from 0.

    Raises:
        TypeError: if ``inputs``, ``outputs`` or the number of seeds is not a whole number.
        ValueError: if one of them is below 1, or there is no seed.

    Example:
        >>> (model,) = networks(Design("residual", depth=3, width=8), outputs=2)
        >>> tuple(model(torch.ones(5, 8, dtype=torch.float64)).shape)
        (5, 2)

    """
    generators = random.generators(random.seed_list(seeds))
    return [Stack(design, inputs=inputs, outputs=outputs, generator=g) for g in generators]


# ---------------------------------------------------------------- the degradation experiment


class Degradation(NamedTuple):
    """Stacks of K kinds at D depths, S seeds of each, before and after training.

    Attributes:
        kinds: K names.
        layers: D numbers of weight layers.
        loss: (K, D, S) cross-entropy on the whole training set after training; inf or nan where a
            stack stopped.
        gradient_ratio: (K, D, S) norm of δ at the first layer over that at the last, before.

    """

    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    loss: Tensor
    gradient_ratio: Tensor


def degradation(
    layers: Sequence[int] = (4, 20, 50),
    kinds: Sequence[Kind] = ("plain", "residual"),
    *,
    width: int = 32,
    branch_layers: int = 2,
    norm: Norm = "batch",
    order: Order = "post_activation",
    data: Split | None = None,
    learning_rate: float = 0.02,
    momentum: float = 0.9,
    steps: int = 50,
    batch_size: int | None = 96,
    seeds: int | Sequence[int] = 6,
    progress: bool = True,
) -> Degradation:
    """Train stacks of several kinds and depths alike, and compare their *training* losses.

    A deeper stack contains the shallower ones, so that a larger training loss is no overfitting: it
    is the degradation that He et al. (2016) found in plain stacks.

    Args:
        layers: weight layers of each stack: a first and a last one, and whole blocks between.
        kinds: some of :data:`KINDS`.
        width: units in every layer.
        branch_layers: weight layers a block.
        norm: as :class:`Design` takes it.
        order: as :class:`Design` takes it.
        data: what to train on; :func:`companion.data.digits` if None.
        learning_rate: of gradient descent.
        momentum: of gradient descent.
        steps: number of updates.
        batch_size: examples a step; None for all.
        seeds: the seeds to draw, or how many, counting from 0.
        progress: whether to show bars.

    Raises:
        ValueError: if the blocks do not come out even, a word is unknown, a count is below 1, or
            there is no seed.
        TypeError: if a count is not a whole number.

    Source: He et al. (2016), arXiv 1512.03385, where it was shown on images.

    Example:
        >>> found = degradation([4, 6], width=8, steps=3, seeds=2)
        >>> tuple(found.loss.shape)
        (2, 2, 2)

    """
    data = digits() if data is None else data
    # The whole training set is what is scored.
    data = data._replace(test_inputs=data.train_inputs, test_targets=data.train_targets)
    classes = int(data.train_targets.max()) + 1
    seeds = random.seed_list(seeds)
    found: list[tuple[Tensor, Tensor]] = []
    for kind in kinds:
        for count in layers:
            blocks, over = divmod(positive_integer("each of layers", count) - 2, branch_layers)
            if over or blocks < 1:
                raise ValueError(
                    f"each of layers must be 2 more than a multiple of {branch_layers}, got {count}"
                )
            design = Design(
                kind, blocks, width=width, branch_layers=branch_layers, norm=norm, order=order
            )
            size = data.train_inputs.shape[1]
            record = training.train(
                networks(design, inputs=size, outputs=classes, seeds=seeds),
                data,
                optimizer=training.sgd(learning_rate, momentum),
                steps=steps,
                batch_size=batch_size,
                record_every=steps,
                seed=[2**31 + seed for seed in seeds],
                progress=progress,
            )
            deltas = record.delta_norms[0]
            assert record.test_loss is not None  # there is a test part
            found.append((record.test_loss[-1], deltas[:, 0] / deltas[:, -1]))
    shape = (len(kinds), len(layers), len(seeds))
    loss, ratio = (torch.stack(column).reshape(shape) for column in zip(*found, strict=True))
    return Degradation(tuple(kinds), tuple(layers), loss, ratio)
