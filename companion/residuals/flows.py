"""What the blocks of a stack do to the signal and to the gradient: measured, and predicted.

The signal is the mean square of the stream x between blocks, the gradient that of the loss with
respect to x. A residual block adds the branch's variance to the signal's, and multiplies the
squared gradient by 1 + (what the branch alone would multiply it by).

Sources: He et al. (2016), arXiv 1512.03385; Srivastava et al. (2015), arXiv 1505.00387; Yang &
Schoenholz (2017), arXiv 1712.08969, on the mean-field theory of residual networks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from companion import activations
from companion._lib import random
from companion._lib.arguments import floating, non_negative, positive_integer
from companion._lib.probing import probed
from companion._lib.stacking import of_part, stack
from companion.meanfield import gaussian_mean, half_distance
from companion.residuals.blocks import Design, Stack, branch_words, networks


class Flow(NamedTuple):
    """Signal and gradient before the first block, between blocks, and after the last.

    Attributes:
        mean_squares: (..., L + 1) of x, over units and examples.
        squared_gradients: (..., L + 1) of the gradient with respect to x, over the same, relative
            to the last: what is before block l + 1 stands at place l.

    """

    mean_squares: Tensor
    squared_gradients: Tensor

    @property
    def log_norms(self) -> Tensor:
        """(..., L + 1) log₁₀ of the gradient's norm, relative to the last, as plots take it."""
        return self.squared_gradients.log10() / 2


def flow(
    design: Design,
    *,
    seeds: int | Sequence[int] = 8,
    examples: int = 64,
    input_mean_square: float = 1.0,
) -> Flow:
    """Measure signal and gradient at every block of random stacks, for normal inputs and gradients.

    Args:
        design: of the stacks.
        seeds: the seeds to draw, or how many, counting from 0; inputs have seeds of their own.
        examples: inputs for each stack, one batch.
        input_mean_square: of the inputs.

    Returns:
        A :class:`Flow` of float64 tensors (seeds, L + 1).

    Example:
        >>> found = flow(Design("residual", depth=5, branch_scale=0.0), seeds=2)
        >>> [round(value, 9) for value in found.squared_gradients[0].tolist()]
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]

    """
    seeds = random.seed_list(seeds)
    shape = (2, positive_integer("examples", examples), design.width)
    draws = random.normal(random.generators(seeds, "inputs"), *shape)
    inputs, output_gradients = draws.unbind(1)
    inputs = inputs * math.sqrt(non_negative("input_mean_square", input_mean_square))
    return flow_of(networks(design, seeds=seeds), inputs, output_gradients)


def flow_of(models: Sequence[Stack], inputs: Tensor, output_gradients: Tensor) -> Flow:
    """Measure signal and gradient at every block of given stacks, trained ones for instance.

    Args:
        models: S stacks of one design; first and last layers are not run.
        inputs: (S, examples, width) of the blocks.
        output_gradients: (S, examples, width), at the output of the last block.

    Returns:
        A :class:`Flow` of tensors (S, L + 1).

    Raises:
        ValueError: if the models are not built alike, or a shape does not fit.

    Example:
        >>> x = torch.ones(1, 4, 8, dtype=torch.float64)
        >>> found = flow_of(networks(Design("rezero", depth=2, width=8)), x, x)
        >>> found.mean_squares.tolist()
        [[1.0, 1.0, 1.0]]

    """
    skeleton, parameters = stack(list(models))
    for name, value in (("inputs", inputs), ("output_gradients", output_gradients)):
        if floating(name, value).dim() != 3 or len(value) != len(models):
            raise ValueError(
                f"{name} needs shape ({len(models)}, examples, width), got {tuple(value.shape)}"
            )
    start, blocks = inputs.detach().requires_grad_(), skeleton.blocks
    with probed(blocks, inputs[0], blocks.named_children()) as probing:

        def run(state: dict[str, Tensor], x: Tensor, zeros: dict[str, Tensor]) -> list[Tensor]:
            with probing.added(zeros) as outputs:
                functional_call(blocks, state, (x,))
            return list(outputs.values())

        probes = probing.zeros(inputs)
        signals = [start, *vmap(run)(of_part(parameters, "blocks."), start, probes)]
    gradients = torch.autograd.grad(signals[-1], [start, *probes.values()], output_gradients)
    signal, gradient = (
        torch.stack([x.detach().square().mean((1, 2)) for x in each], dim=-1)
        for each in (signals, gradients)
    )
    return Flow(signal, gradient / gradient[:, -1:])


# ---------------------------------------------------------------- predicted


@dataclass
class _State:
    """What mean-field theory knows about a wide stream x.

    Attributes:
        square: mean of x².
        overlap: mean over units of x at one example times x at another.
        mean: of x over the units.
        normal: whether the units are normal, so that means of φ can be taken.
        gain: factor on the squared gradient, from here to where the state began.

    """

    square: float
    overlap: float = 0.0
    mean: float = 0.0
    normal: bool = True
    gain: float = 1.0


def _through(words: Sequence[str], state: _State, design: Design) -> _State:
    """Follow a wide branch operation by operation."""
    for word in words:
        step = {"weight": _weighted, "norm": _normalized, "activation": _activated}[word]
        state = step(state, design)
    return state


def _weighted(state: _State, design: Design) -> _State:
    variance = design.weight_variance
    return _State(
        square=variance * state.square,
        overlap=variance * state.overlap,
        mean=0.0,
        normal=True,
        gain=variance * state.gain,
    )


def _normalized(state: _State, design: Design) -> _State:
    # What is subtracted: over a large batch what all examples share, over the units their mean.
    common = state.overlap if design.norm == "batch" else state.mean**2
    variance = state.square - common
    if variance <= 0:
        raise ValueError("design has a norm whose input is constant: it has no prediction")
    overlap = (state.overlap - common) / variance
    return replace(state, square=1.0, overlap=overlap, mean=0.0, gain=state.gain / variance)


def _activated(state: _State, design: Design) -> _State:
    if not state.normal:
        raise ValueError("design takes activations of a stream that is not normal: no prediction")
    phi = activations.get(design.activation)
    found = activations.gaussian_moments(phi, state.square)
    overlap = found.mean**2
    if design.norm == "batch" and state.overlap != 0:
        c = max(-1.0, min(1.0, state.overlap / state.square))
        overlap = found.mean_square - half_distance(c, state.square, phi)
    gain = state.gain * found.slope_mean_square
    return _State(
        square=found.mean_square, overlap=overlap, mean=found.mean, normal=False, gain=gain
    )


def predicted_flow(design: Design, *, input_mean_square: float = 1.0) -> Flow:
    """Predict what :func:`flow` measures in wide stacks, averaged over their weights.

    A residual block adds the branch's variance to the stream's, and multiplies the squared gradient
    by 1 + s² times what the branch alone would: one added to it, not a bound on it, since the two
    ways are uncorrelated. Batches are taken to be large.

    Args:
        design: of the stacks.
        input_mean_square: of the normal inputs.

    Returns:
        A :class:`Flow` of float64 tensors (L + 1,).

    Raises:
        ValueError: if units are not normal where an activation acts on them, so that the mean-field
            theory here does not apply: residual stacks with "post_activation".

    Example:
        >>> doubling = predicted_flow(Design("residual", depth=3, branch_layers=1))
        >>> [round(value, 6) for value in doubling.mean_squares.tolist()]
        [1.0, 2.0, 4.0, 8.0]

    """
    state = _State(non_negative("input_mean_square", input_mean_square))
    squares, factors = [state.square], []
    for _ in range(design.depth):
        state = _highway(state, design) if design.kind == "highway" else _block(state, design)
        squares.append(state.square)
        factors.append(state.gain)
    gains = torch.tensor([*factors, 1.0], dtype=torch.float64).flip(0).cumprod(0).flip(0)
    return Flow(torch.tensor(squares, dtype=torch.float64), gains)


def _block(state: _State, design: Design) -> _State:
    state = replace(state, gain=1.0)
    after = ["activation"] if design.order == "post_activation" else []
    if design.kind == "plain":
        return _through([*branch_words(design), *after], state, design)
    strength = design.scale**2
    if strength == 0:
        return _through(after, state, design)
    branch = _through(branch_words(design), state, design)
    # The branch ends in weights of its own, so that it is uncorrelated with x.
    total = _State(
        state.square + strength * branch.square,
        state.overlap + strength * branch.overlap,
        state.mean,
        state.normal,
        1 + strength * branch.gain,
    )
    return _through(after, total, design)


def _highway(state: _State, design: Design) -> _State:
    state = replace(state, gain=1.0)
    branch = _through(branch_words(design), state, design)
    sigmoid = activations.get("sigmoid")

    def of_gate(function: Callable[[Tensor], Tensor]) -> float:
        return gaussian_mean(
            lambda z: function(sigmoid.function(z)), state.square, design.gate_bias
        )

    share, square = of_gate(lambda g: g), of_gate(torch.square)
    kept = of_gate(lambda g: (1 - g) ** 2)
    both = 2 * branch.mean * state.mean
    apart = branch.square + state.square - both
    return _State(
        square=square * branch.square + kept * state.square + (share - square) * both,
        mean=share * branch.mean + (1 - share) * state.mean,
        normal=False,
        # Through F, past it, and through the gate, whose weights have variance 1/width.
        gain=square * branch.gain + kept + of_gate(lambda g: (g * (1 - g)) ** 2) * apart,
    )


class Growth(NamedTuple):
    """Mean and variance of the factor by which a random block multiplies ‖x‖²."""

    mean: float
    variance: float


def block_growth(design: Design) -> Growth:
    """Return exact moments, at any width, of the factor on ‖x‖² in one block of "weight_first".

    For an activation with φ(cz) = cφ(z) for c > 0 the factor does not depend on x, so that those of
    L blocks are independent draws: means and second moments multiply. With n units, h hidden ones
    and moments e₂ = E[φ²], e₄ = E[φ⁴] of a standard normal, ‖φ(Wx)‖²/‖x‖² has mean σ_w²e₂h/n and a
    relative variance of (e₄/e₂² − 1)/h, and given a = s²σ_w²‖u‖²/(h‖x‖²) for what enters the last
    weight, the factor is 1 + 2√a z + aχ²_n, with z a normal number and χ²_n holding z².

    Args:
        design: residual, of order "weight_first", without a norm.

    Raises:
        ValueError: if the design is another one, or its activation bends elsewhere than at 0.

    Example:
        >>> growth = block_growth(Design("residual", 1, width=100, order="weight_first"))
        >>> round(growth.mean, 9), round(growth.variance, 9)
        (3.0, 0.364)

    """
    if (design.kind, design.order, design.norm) != ("residual", "weight_first", "none"):
        raise ValueError(
            "design must be residual, weight_first and without a norm, got "
            f"{design.kind}, {design.order}, norm {design.norm}"
        )
    phi = activations.get(design.activation)
    z = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)
    if not torch.allclose(phi.function(2 * z), 2 * phi.function(z), rtol=1e-12, atol=0):
        raise ValueError(f"activation must have φ(cz) = cφ(z) for c > 0, got {phi.name}")

    def moment(k: int) -> float:
        return gaussian_mean(lambda z: phi.function(z) ** k, 1.0)

    second, fourth = moment(2), moment(4)
    width, hidden = design.width, design.hidden or design.width
    into, mean, square = width, 1.0, 1.0
    for _ in range(design.branch_layers - 1):
        mean *= design.weight_variance * second * hidden / into
        size = (hidden * second) ** 2 + hidden * (fourth - second**2)
        square *= (design.weight_variance / into) ** 2 * size
        into = hidden
    last = design.scale**2 * design.weight_variance / into
    mean, square = last * mean, last**2 * square
    expected = 1 + width * mean
    whole = 1 + (2 * width + 4) * mean + (width**2 + 2 * width) * square
    return Growth(expected, whole - expected**2)
