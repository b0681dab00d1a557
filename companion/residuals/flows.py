"""What the blocks of a stack do to the signal and to the gradient: measured, and predicted.

The signal is the mean square of the stream x between blocks, the gradient that of the loss with
respect to x. A residual block adds the branch's variance to the signal's, and multiplies the
squared gradient by 1 + (what the branch alone would multiply it by).

Sources: He et al. (2016), arXiv 1512.03385; Srivastava et al. (2015), arXiv 1505.00387; Yang &
Schoenholz (2017), arXiv 1712.08969, on the mean-field theory of residual networks.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from companion import activations
from companion._lib import random
from companion._lib.arguments import floating, non_negative, one_of, positive_integer
from companion._lib.probing import probed
from companion._lib.stacking import of_part, stack
from companion.meanfield import Gradient, State, gaussian_mean
from companion.meanfield.steps import NORM_KINDS
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

    Raises:
        TypeError: if ``examples`` or the number of seeds is not a whole number, or
            ``input_mean_square`` is not a number.
        ValueError: if a count is below 1, there is no seed, or ``input_mean_square`` is negative or
            not finite.

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
        ValueError: if there is no model, the models are not built alike or have buffers, or a shape
            does not fit.
        TypeError: if the inputs or the gradients are not a floating-point tensor.

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


def _through(words: Sequence[str], state: State, design: Design) -> State:
    """Follow a wide branch operation by operation."""
    for word in words:
        if word == "weight":
            state = state.weights(design.weight_variance)
        elif word == "norm":
            state = state.norm(one_of("norm", design.norm, NORM_KINDS))
        else:
            state = state.activation(design.activation)
    return state


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
        ValueError: if ``input_mean_square`` is negative or not finite; or if units are not normal
            where an activation acts on them, so that the mean-field theory here does not apply:
            residual stacks with "post_activation".
        TypeError: if ``input_mean_square`` is not a number.

    Example:
        >>> doubling = predicted_flow(Design("residual", depth=3, branch_layers=1))
        >>> [round(value, 6) for value in doubling.mean_squares.tolist()]
        [1.0, 2.0, 4.0, 8.0]

    """
    square = non_negative("input_mean_square", input_mean_square)
    # Of other inputs a network knows only by the statistics of a batch.
    state = State(square, square if design.norm == "batch" else 0.0)
    squares, factors = [square], []
    for _ in range(design.depth):
        block = _highway if design.kind == "highway" else _block
        state = block(state.start(), design)
        squares.append(state.square)
        factors.append(state.back(Gradient(1.0)).square)
    gains = torch.tensor([*factors, 1.0], dtype=torch.float64).flip(0).cumprod(0).flip(0)
    return Flow(torch.tensor(squares, dtype=torch.float64), gains)


def _block(x: State, design: Design) -> State:
    after = ["activation"] if design.order == "post_activation" else []
    if design.kind == "plain":
        return _through([*branch_words(design), *after], x, design)
    if design.scale == 0:
        return _through(after, x, design)
    branch = _through(branch_words(design), x, design)
    return _through(after, x.plus(branch.scaled(design.scale)), design)


def _highway(x: State, design: Design) -> State:
    """Mix x and its branch: not their sum, since one gate multiplies both."""
    branch = _through(branch_words(design), x, design)
    sigmoid = activations.get("sigmoid")

    def of_gate(function: Callable[[Tensor], Tensor]) -> float:
        return gaussian_mean(lambda z: function(sigmoid.function(z)), x.square, design.gate_bias)

    share, square = of_gate(lambda g: g), of_gate(torch.square)
    kept = of_gate(lambda g: (1 - g) ** 2)
    both = 2 * branch.mean * x.mean
    apart = branch.square + x.square - both
    # Past F, and through the gate, whose weights have variance 1/width.
    beside = kept + of_gate(lambda g: (g * (1 - g)) ** 2) * apart
    return State(
        square=square * branch.square + kept * x.square + (share - square) * both,
        mean=share * branch.mean + (1 - share) * x.mean,
        normal=False,
        back=lambda g: branch.back(g.scaled(square)).plus(g.scaled(beside)),
    )


class Growth(NamedTuple):
    """Mean and variance of the factor by which a random block multiplies ‖x‖².

    Attributes:
        mean: of the factor.
        variance: of the factor, over the block's weights.

    """

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
    if not activations.positively_homogeneous(phi):
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
