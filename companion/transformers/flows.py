"""What a transformer does to its stream and its gradients before training, measured and predicted.

Sources: Xiong et al. (2020), arXiv 2002.04745; Radford et al. (2019), GPT-2.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from companion._lib import random
from companion._lib.arguments import positive_integer
from companion._lib.stacking import norms, of_part, stack
from companion.meanfield import Gradient, State
from companion.transformers.blocks import networks
from companion.transformers.designs import Design


class Flow(NamedTuple):
    """What a transformer does at initialization.

    Attributes:
        mean_squares: (..., B + 1) of the stream's entries, before the first of B branches and after
            each.
        gradients: (..., B + 1) root mean square of the gradient with respect to the stream there,
            for an output gradient of variance 1.
        ffn_gradients: (..., L) norm of the gradient with respect to the last weight of each FFN,
            over the root of the number of tokens; nothing without FFNs.

    """

    mean_squares: Tensor
    gradients: Tensor
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
        A :class:`Flow` of float64 tensors, seeds first.

    Raises:
        TypeError: if ``tokens``, ``sequences`` or the number of seeds is not a whole number.
        ValueError: if one of them is below 1, or there is no seed.

    Example:
        >>> found = flow(Design("pre", layers=3, width=16), seeds=2)
        >>> [tuple(each.shape) for each in found]
        [(2, 7), (2, 7), (2, 3)]

    """
    seeds = random.seed_list(seeds)
    count = (positive_integer("sequences", sequences), positive_integer("tokens", tokens))
    draws = random.normal(random.generators(seeds, "inputs"), 2, *count, design.width)
    inputs, output_gradients = draws.unbind(1)
    skeleton, parameters = stack(networks(design, seeds=seeds))
    streams, count_all = design.branches + 1, math.prod(count)

    def run(state: dict[str, Tensor], x: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        x, squares = x + added[0], [x.square().mean()]
        for index, sublayer in enumerate(skeleton.sublayers):
            x = functional_call(sublayer, of_part(state, f"sublayers.{index}."), (x,))
            x = x + added[index + 1]
            squares.append(x.square().mean())
        return skeleton.final(x), torch.stack(squares)

    added = inputs.new_zeros(len(seeds), streams, *inputs.shape[1:], requires_grad=True)
    outputs, squares = vmap(run)(parameters, inputs, added)
    ends = [f"sublayers.{index}.branch.end.weight" for index in _ffns(design)]
    wanted = [added, *(parameters[end] for end in ends)]
    gradients, *of_ends = torch.autograd.grad(outputs, wanted, output_gradients)
    return Flow(
        squares.detach(),
        gradients.flatten(2).square().mean(-1).sqrt(),
        norms(of_ends) / math.sqrt(count_all) if ends else squares.new_zeros(len(seeds), 0),
    )


def _ffns(design: Design) -> list[int]:
    """Return which sublayers are FFNs."""
    return list(range(1, design.branches, 2)) if design.ffn else []


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
        A :class:`Flow` of float64 tensors (B + 1,), (B + 1,) and (L,).

    Raises:
        TypeError: if ``tokens`` is not a whole number.
        ValueError: if it is below 1, a norm has nothing left to divide by, or attention is causal.

    Source: Xiong et al. (2020), arXiv 2002.04745, who bound these gradients.

    Example:
        >>> unscaled = Design("pre", layers=3, scheme="unit")
        >>> [round(q, 6) for q in predicted_flow(unscaled, tokens=1).mean_squares.tolist()]
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]

    """
    tokens = positive_integer("tokens", tokens)
    if design.causal:
        raise ValueError("causal must be False for a prediction, got True")
    stream, squares, steps = State(1.0, 1.0), [1.0], []
    for index in range(design.branches):
        x = stream.start()
        hidden, end = _branch(design, x, tokens, ffn=index in _ffns(design))
        branch = _after(design, end)
        total = x.scaled(design.stream_scale).plus(branch) if design.skip else branch
        normed = design.place in ("post", "deepnorm")
        stream = total.start().norm("layer") if normed else total.start()
        steps.append((hidden, end, total, stream))
        squares.append(stream.square)
    final = stream.start().norm("layer") if design.norms_input else stream.start()
    gradient, of_ends = final.back(Gradient(1.0)), []
    gradients = [gradient.square]
    for index, (hidden, end, total, stream) in reversed(list(enumerate(steps))):
        gradient = stream.back(gradient)
        if index in _ffns(design):
            at_end = _after(design, end.start()).back(gradient)
            both = hidden.square * at_end.square
            both += (tokens - 1) * hidden.overlap * at_end.overlap
            of_ends.append(math.sqrt(design.width * design.ffn_units * both))
        gradient = total.back(gradient)
        gradients.append(gradient.square)
    found = (squares, [math.sqrt(square) for square in gradients[::-1]], of_ends[::-1])
    return Flow(*(torch.tensor(each, dtype=torch.float64) for each in found))


def _branch(design: Design, x: State, tokens: int, *, ffn: bool) -> tuple[State, State]:
    """Return what the last weights of a branch take, and what they give."""
    x = x.norm("layer") if design.norms_input else x
    width, hidden = design.width, design.ffn_units
    gain, ending = design.gain**2, design.ending**2
    if not ffn:
        each = width * design.std(width, width) ** 2
        gathered = x.weights(each * gain).average(tokens)
        return gathered, gathered.weights(each * ending)
    begin = design.std(width, hidden, below_activation=True) ** 2 * gain
    end = design.std(hidden, width) ** 2 * ending
    a = x.weights(width * begin, backward=hidden * begin).activation(design.activation)
    return a, a.weights(hidden * end, backward=width * end)


def _after(design: Design, end: State) -> State:
    """Return what the norm and the factors of a branch make of what its last weights give."""
    normed = end.norm("layer") if design.place == "peri" else end
    return normed.scaled(design.branch_scale * (1.0 if design.gate is None else design.gate))


def distance_flow(
    design: Design, *, tokens: int = 64, sequences: int = 4, seeds: int | Sequence[int] = 8
) -> Tensor:
    """Measure how much of the last token's gradient arrives at each token of random transformers.

    The gradient at the last token's output is normal, and so are the inputs.

    Args:
        design: of the transformers.
        tokens: T, of each sequence.
        sequences: for each transformer.
        seeds: the seeds to draw, or how many, counting from 0; inputs have seeds of their own.

    Returns:
        (seeds, T) in float64: root mean square of the gradient with respect to the input at a
        distance of 0, 1, ..., T − 1 tokens from the last one.

    Raises:
        TypeError: if ``tokens``, ``sequences`` or the number of seeds is not a whole number.
        ValueError: if one of them is below 1, or there is no seed.

    Example:
        >>> far = distance_flow(Design("pre", layers=1, width=16, causal=True), tokens=50)
        >>> bool((far[:, 1:].median(1).values < far[:, 0] / 10).all())
        True

    """
    seeds = random.seed_list(seeds)
    count = (positive_integer("sequences", sequences), positive_integer("tokens", tokens))
    draws = random.normal(random.generators(seeds, "inputs"), 2, *count, design.width)
    inputs, output_gradients = draws.unbind(1)
    skeleton, parameters = stack(networks(design, seeds=seeds))

    def last(state: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(skeleton, state, (x,))[:, -1]

    inputs.requires_grad_()
    outputs = vmap(last)(parameters, inputs)
    (gradients,) = torch.autograd.grad(outputs, inputs, output_gradients[:, :, -1])
    return gradients.square().mean((1, 3)).sqrt().flip(1)
