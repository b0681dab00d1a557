"""How much a transformer's output changes with its weights, and its stream at Adam's first step.

Norms keep a stream's size, but not what a change of the weights does to it. A branch goes through
two matrices, one after the other. If both change by the relative amount ε, and the branch is the
share β² of the stream's mean square after its sum, then the stream changes by 2β²ε² of its mean
square. Later branches pass that on, and the output changes by 2ε² Σ β². In a post-LN stack each
share is the same, and the sum grows in proportion to depth. In a pre-LN stack the b-th branch is
one of b + 1 equal parts, and the sum grows like a logarithm.

Sources: Liu et al. (2020), arXiv 2004.08249 (Admin); Wang et al. (2022), arXiv 2203.00555
(DeepNorm); Yang et al. (2023), arXiv 2310.02244 (Depth-μP); Bordelon et al. (2023), arXiv
2309.16620; Dey et al. (2025), arXiv 2505.01618 (CompleteP).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.functional import jvp
from torch.func import functional_call, vmap

from companion._lib import random
from companion._lib.arguments import non_negative, positive_integer
from companion._lib.probing import hooked
from companion._lib.stacking import stack
from companion.activations import Activation
from companion.data import Split
from companion.meanfield import State, chi
from companion.training import adam
from companion.training.loop import batches
from companion.transformers.blocks import Transformer, networks
from companion.transformers.designs import Design

# ---------------------------------------------------------------- all weights a little


def amplification(
    design: Design, *, tokens: int = 8, sequences: int = 4, seeds: int | Sequence[int] = 8
) -> Tensor:
    """Measure how much random transformers' outputs change if every weight matrix does, a little.

    Each matrix changes by normal numbers of its own, ε times as large (root mean square) as its
    entries. What is returned is the mean square of the change of the output, over ε² times that of
    the output, in the limit of small ε: a derivative, no difference. Inputs are normal; the output
    is that past the last norm, where there is one. Biases and norms stay.

    Args:
        design: of the transformers.
        tokens: of each sequence.
        sequences: for each transformer.
        seeds: the seeds to draw, or how many, counting from 0; inputs and changes have a stream of
            their own.

    Returns:
        (seeds,) in float64.

    Raises:
        TypeError: if ``tokens``, ``sequences`` or the number of seeds is not a whole number.
        ValueError: if one of them is below 1, or there is no seed.

    Source: Liu et al. (2020), arXiv 2004.08249.

    Example:
        >>> small, large = (
        ...     amplification(Design("post", layers=layers, width=16), seeds=4).mean()
        ...     for layers in (2, 8)
        ... )
        >>> bool(large > 2.5 * small)
        True

    """
    seeds = random.seed_list(seeds)
    count = (positive_integer("sequences", sequences), positive_integer("tokens", tokens))
    drawn = random.generators(seeds, "inputs")
    inputs = random.normal(drawn, *count, design.width)
    skeleton, stacked = stack(networks(design, seeds=seeds))
    parameters = {name: value.detach() for name, value in stacked.items()}
    weights = {name: value for name, value in parameters.items() if value.dim() == 3}
    changes = tuple(_as_large(value, drawn) for value in weights.values())
    through_all = vmap(lambda state, x: functional_call(skeleton, state, (x,)))

    def run(*changed: Tensor) -> Tensor:
        return through_all({**parameters, **dict(zip(weights, changed, strict=True))}, inputs)

    # By two passes backward, as this function of torch has it: as quick as forward mode here.
    out, change = jvp(run, tuple(weights.values()), changes)
    return change.square().mean((1, 2, 3)) / out.square().mean((1, 2, 3))


def _as_large(weights: Tensor, drawn: Sequence[torch.Generator]) -> Tensor:
    """Draw changes (S, n, m) of the root mean square that each network's weight has."""
    size = weights.square().mean((1, 2), keepdim=True).sqrt()
    return size * random.normal(drawn, *weights.shape[1:])


def predicted_amplification(design: Design, *, tokens: int = 8) -> float:
    """Predict what :func:`amplification` measures in wide transformers that attend to all alike.

    The stream and its change are followed forward together, each with what the tokens have in
    common. Weights W make of a signal x that changes by dx the change W dx + dW x, of which the
    second is as large as W x; a norm divides both by the same. With one token, an FFN of ReLU and
    branches as large as the stream (``scheme="unit"``) that is 2L for post-LN, and for pre-LN and
    peri-LN 2(1/2 + … + 1/(2L + 1)).

    Args:
        design: with an ``attention_scale`` of 0 (it is taken to be 0: queries and keys add to what
            is measured otherwise).
        tokens: of each sequence.

    Raises:
        TypeError: if ``tokens`` is not a whole number.
        ValueError: if it is below 1, a norm or nothing is left to divide by, or attention is
            causal.

    Source: Liu et al. (2020), arXiv 2004.08249, whose argument is that of the shares.

    Example:
        >>> post, pre = (Design(place, layers=6, scheme="unit") for place in ("post", "pre"))
        >>> round(predicted_amplification(post, tokens=1), 6)
        12.0
        >>> round(predicted_amplification(pre, tokens=1), 6)
        4.360268

    """
    tokens = positive_integer("tokens", tokens)
    if design.causal:
        raise ValueError("causal must be False for a prediction, got True")
    stream = _Changing(State(1.0, 1.0), State(0.0))
    for index in range(design.branches):
        branch = _branch(design, stream, tokens, ffn=design.ffn and index % 2 == 1)
        stream = stream.scaled(design.stream_scale).plus(branch) if design.skip else branch
        if design.place in ("post", "deepnorm"):
            stream = stream.norm()
    if not stream.x.square:
        raise ValueError("the output is 0: its change has nothing to be compared with")
    return stream.change.square / stream.x.square  # which a last norm leaves as it is


@dataclass(frozen=True)
class _Changing:
    """A signal at any two tokens, and how it changes with all weights that it has been through.

    The change has no correlation with the signal, so that norms do not take any of it away.
    """

    x: State
    change: State

    def weights(self, weight_variance: float) -> "_Changing":
        out = self.x.weights(weight_variance)
        return _Changing(out, self.change.weights(weight_variance).plus(out))

    def activation(self, activation: str | Activation) -> "_Changing":
        q, c, change = self.x.square, self.x.correlation, self.change
        alone, across = (chi(q, activation, 1.0, correlation=both) for both in (1.0, c))
        square = alone * change.square
        moved = State(square, square - across * change.overlap)
        return _Changing(self.x.activation(activation), moved)

    def norm(self) -> "_Changing":
        out = self.x.norm("layer")
        return _Changing(out, self.change.scaled((self.x.square - self.x.mean**2) ** -0.5))

    def scaled(self, by: float) -> "_Changing":
        return _Changing(self.x.scaled(by), self.change.scaled(by))

    def average(self, tokens: int) -> "_Changing":
        return _Changing(self.x.average(tokens), self.change.average(tokens))

    def plus(self, other: "_Changing") -> "_Changing":
        return _Changing(self.x.plus(other.x), self.change.plus(other.change))


def _branch(design: Design, stream: _Changing, tokens: int, *, ffn: bool) -> _Changing:
    """Return what is added to a stream."""
    x = stream.norm() if design.norms_input else stream
    width, hidden = design.width, design.ffn_units
    gain, ending = design.gain**2, design.ending**2
    if ffn:
        begin = width * design.std(width, hidden, below_activation=True) ** 2 * gain
        end = hidden * design.std(hidden, width) ** 2 * ending
        out = x.weights(begin).activation(design.activation).weights(end)
    else:
        each = width * design.std(width, width) ** 2
        out = x.weights(each * gain).average(tokens).weights(each * ending)
    out = out.norm() if design.place == "peri" else out
    return out.scaled(design.branch_scale * (1.0 if design.gate is None else design.gate))


# ---------------------------------------------------------------- Adam's first step


def first_step(
    design: Design,
    data: Split,
    *,
    learning_rate: float,
    tokens: int = 8,
    batch_size: int = 32,
    seeds: int | Sequence[int] = 4,
) -> Tensor:
    """Measure how far Adam's first step moves the stream, as a share of its size.

    Classifiers of sequences take one step, in which Adam moves nearly every parameter by the rate,
    up or down. What B branches add changes in the same direction in all of them: by B · s if each
    is multiplied by s. So with s = 1/B the change does not depend on depth. With s = 1/√B it grows
    like √B, though the stream is of the same size at every depth there too.

    Args:
        design: of the transformers.
        data: class labels, and inputs of tokens · features.
        learning_rate: of Adam.
        tokens: into which each input is divided.
        batch_size: examples of the step, on which the stream is also compared.
        seeds: the seeds to draw, or how many, counting from 0; batches have a stream of their own.

    Returns:
        (seeds, B + 1) the norm of the change over the norm, before the first of B branches and
        after each; over all tokens of the batch.

    Raises:
        TypeError: if a count is not a whole number, or the rate is not a number.
        ValueError: if a count is below 1, there is no seed, the rate is negative or not finite, or
            the inputs can not be divided into so many tokens.

    Source: Yang et al. (2023), arXiv 2310.02244; Bordelon et al. (2023), arXiv 2309.16620; Dey et
    al. (2025), arXiv 2505.01618.

    Example:
        >>> from companion.data import digits
        >>> design = Design("pre", layers=2, width=16, branch_scale=0.5)
        >>> found = first_step(design, digits(), learning_rate=1e-3, seeds=2)
        >>> tuple(found.shape), bool((found < 0.1).all())
        ((2, 5), True)

    """
    seeds, rate = random.seed_list(seeds), non_negative("learning_rate", learning_rate)
    models = _classifiers(design, data, tokens, seeds)
    skeleton, parameters = stack(models)
    size = positive_integer("batch_size", batch_size)
    inputs, targets = next(batches(data, size, random.generators(seeds, "batches")))
    before = _streams(skeleton, parameters, inputs)

    def loss(state: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(skeleton, state, (x,)), y)

    total = vmap(loss)(parameters, inputs, targets).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()))
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        parameter.grad = gradient
    adam(rate)(parameters.values()).step()
    change = _streams(skeleton, parameters, inputs) - before
    return change.flatten(2).norm(dim=-1) / before.flatten(2).norm(dim=-1)


def _classifiers(
    design: Design, data: Split, tokens: int, seeds: Sequence[int]
) -> list[Transformer]:
    width, count = data.train_inputs.shape[1], positive_integer("tokens", tokens)
    if width % count:
        raise ValueError(f"tokens must divide the {width} numbers of an input, got {tokens}")
    classes = int(data.train_targets.max()) + 1
    return networks(design, tokens=count, features=width // count, outputs=classes, seeds=seeds)


def _streams(skeleton: Transformer, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """Return the streams (S, B + 1, examples, tokens, width) of S networks."""
    found: list[Tensor] = []

    def keep(name: str, entering: Tensor, output: Tensor) -> Tensor:
        found.extend([entering, output] if name == "0" else [output])
        return output

    def run(state: dict[str, Tensor], x: Tensor) -> Tensor:
        found.clear()
        functional_call(skeleton, state, (x,))
        return torch.stack(found)

    with hooked(skeleton.sublayers.named_children(), keep), torch.no_grad():
        return vmap(run)(parameters, inputs)
