"""The loss along its gradient, and what a layer's step does to the next, with a norm and without.

From where a network stands, steps of several sizes are tried along its gradient: over them the loss
has a range, the gradient changes (the less, the better it predicts the next one), and its largest
change over the distance that made it is the effective β of the loss, its smoothness on that line.
A step of one size is a short one for one network and a long one for another; networks are compared
at steps of the same length relative to their weights, where that is asked for.
The other account of batch norm is that the inputs of a layer move less when the layers below learn:
:func:`covariate_shift` lets only those learn, and looks.

Source: Santurkar et al. (2018), arXiv 1805.11604.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Required, TypedDict, Unpack

import torch
from torch import Tensor, nn

from companion import backprop, training
from companion._lib.arguments import non_negative, one_of, positive_integer
from companion._lib.norms import vector_norm
from companion._lib.probing import Loss
from companion._lib.side_by_side import losses_of, running
from companion._lib.stacking import norms, stack, unstack
from companion.activations import Activation
from companion.data import Split
from companion.normalization.norms import NORMS, Norm, norm_module
from companion.training import Snapshot

Tensors = dict[str, Tensor]
Differentiate = Callable[..., tuple[Tensor, Tensors]]


def networks(
    sizes: Sequence[int],
    activation: str | Activation = "relu",
    *,
    norm: Norm = "batch",
    after: bool = False,
    weight_variance: float = 2.0,
    seeds: int | Sequence[int] = 1,
) -> list[nn.Sequential]:
    """Return multilayer perceptrons with a norm around each hidden activation, one for each seed.

    They are float64, with normal weights of variance σ_w²/fan_in and zero biases, which are
    the same for a seed whatever the norm. Batch norm keeps no running statistics: its networks have
    no buffers, and what is given to them is always normalized as a batch.

    Args:
        sizes: n_0, n_1, …, n_L: the number of inputs, then of units in each layer.
        activation: its name, or an :class:`~companion.activations.Activation`.
        norm: "none", "batch" or "layer".
        after: whether it comes after the activation instead of before.
        weight_variance: σ_w², of a weight times its fan-in.
        seeds: the seeds to draw, or how many, counting from 0.

    Raises:
        TypeError: if a size or the number of seeds is not a whole number, or the variance is not a
            number.
        ValueError: if ``norm`` is another word, there are fewer than two sizes or no seed, or a
            number is out of range.

    Example:
        >>> [type(layer).__name__ for layer in networks([3, 5, 2], "tanh")[0]]
        ['Linear', 'BatchNorm1d', 'Tanh', 'Linear']

    """
    one_of("norm", norm, NORMS)
    plain = backprop.random_mlp(
        sizes, activation, weight_variance=weight_variance, seeds=seeds, bias=True
    )
    made = []
    for model in backprop.to_modules(plain):
        layers: list[nn.Module] = []
        parts = list(model)
        for linear, phi in zip(parts[:-1:2], parts[1::2], strict=True):
            assert isinstance(linear, nn.Linear)  # it takes turns with phi
            own = [] if norm == "none" else [norm_module(norm, linear.out_features)]
            layers += [linear, phi, *own] if after else [linear, *own, phi]
        made.append(nn.Sequential(*layers, model[-1]))
    return made


@dataclass(frozen=True)
class Landscape:
    """The loss along its gradient, of S networks and at K step sizes η: at θ − η∇L(θ).

    Attributes:
        step_sizes: (K,) η, or the lengths of the steps relative to the weights, as they were given.
        distances: (S, K) ‖η∇L‖, the length of each step.
        loss: (S,) where the step starts.
        gradient_norm: (S,) ‖∇L‖ there.
        losses: (S, K) at the end of each step.
        gradient_changes: (S, K) ‖∇L(θ − η∇L) − ∇L(θ)‖.

    """

    step_sizes: Tensor
    distances: Tensor
    loss: Tensor
    gradient_norm: Tensor
    losses: Tensor
    gradient_changes: Tensor

    @property
    def loss_range(self) -> Tensor:
        """(S,) Largest less smallest loss at the ends of the steps."""
        return self.losses.amax(-1) - self.losses.amin(-1)

    @property
    def gradient_range(self) -> Tensor:
        """(S,) Largest change of the gradient along the steps."""
        return self.gradient_changes.amax(-1)

    @property
    def smoothness(self) -> Tensor:
        """(S,) Effective β: the largest change of the gradient over the distance that made it."""
        return (self.gradient_changes / self.distances).amax(-1)

    @property
    def relative_changes(self) -> Tensor:
        """(S, K) By what share of its length the gradient changed in each step."""
        return self.gradient_changes / self.gradient_norm[..., None]


def along_gradient(
    models: Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    step_sizes: Sequence[float],
    relative: bool = False,
    loss: Loss = nn.functional.cross_entropy,
) -> Landscape:
    """Walk from each network along its own gradient, by each step size, and look at the loss there.

    Args:
        models: networks of one architecture without running statistics; they are left as they are.
        inputs: (S, examples, …), a batch for each network, or one (examples, …) for all.
        targets: (S, examples, …) or (examples, …), likewise.
        step_sizes: η, all above 0.
        relative: whether they are lengths of the weights' steps over that of the weights, in place
            of η. Weights are parameters of two or more dimensions; the others move along.
        loss: of (outputs, targets), averaged over the batch.

    Returns:
        A :class:`Landscape`.

    Raises:
        ValueError: if there is no model, the models are not built alike or have buffers, or no step
            size or one not above 0 is given, or relative ones to models without weights.
        TypeError: if a step size is not a number.

    Source: Santurkar et al. (2018), arXiv 1805.11604.

    Example:
        >>> x = torch.eye(4, 6, dtype=torch.float64)
        >>> models = networks([6, 5, 3], seeds=2)
        >>> found = along_gradient(models, x, torch.arange(4) % 3, step_sizes=[0.1, 0.2])
        >>> tuple(found.losses.shape), tuple(found.smoothness.shape)
        ((2, 2), (2,))

    """
    differentiate, start = _differentiation(models, loss)
    sizes = _checked_steps(step_sizes)
    inputs, targets = (part.expand(len(models), *part.shape) for part in (inputs, targets))
    value, gradients = differentiate(start, inputs, targets)
    here = Snapshot(0, start, value, gradients, inputs, targets)
    walk = _walk(differentiate, sizes, here, relative=relative)
    return Landscape(torch.tensor(sizes, dtype=value.dtype), *walk)


def _checked_steps(step_sizes: Sequence[float]) -> list[float]:
    sizes = [non_negative("each of step_sizes", size) for size in step_sizes]
    if not sizes or min(sizes) == 0:
        raise ValueError(f"step_sizes needs at least one size above 0, got {list(step_sizes)}")
    return sizes


def _differentiation(models: Sequence[nn.Module], loss: Loss) -> tuple[Differentiate, Tensors]:
    """Return what takes stacked parameters and batches to losses and gradients, and the first.

    Gradients are those of all parameters, or ``of`` the one with a name.
    """
    skeleton, start = stack(list(models))
    run = running(skeleton)

    def differentiate(
        parameters: Tensors, inputs: Tensor, targets: Tensor, of: str | None = None
    ) -> tuple[Tensor, Tensors]:
        # No network's loss depends on another's parameters, so their sum has all the gradients.
        wanted = parameters if of is None else {of: parameters[of]}
        leaves = {name: p.detach().requires_grad_() for name, p in wanted.items()}
        value = losses_of(loss, run(parameters | leaves, inputs), targets)
        found = torch.autograd.grad(value.sum(), list(leaves.values()))
        return value.detach(), dict(zip(leaves, found, strict=True))

    return differentiate, {name: p.detach() for name, p in start.items()}


def _moved(parameters: Tensors, gradient: Tensors, sizes: Tensor) -> Tensors:
    """Return each network's parameters after a step of its own size, (S,)."""
    each = {name: sizes.view(-1, *[1] * (p.dim() - 1)) for name, p in parameters.items()}
    return {name: p - each[name] * gradient[name] for name, p in parameters.items()}


def _unit(parameters: Tensors, gradient: Tensors) -> Tensor:
    """Return each network's size of a step whose weights move by as much as they are long."""
    weights = [name for name, p in parameters.items() if p.dim() > 2]
    if not weights:
        raise ValueError("relative steps need weights, parameters of two or more dimensions: none")
    return _length(parameters[n] for n in weights) / _length(gradient[n] for n in weights)


def _walk(
    differentiate: Differentiate, step_sizes: list[float], here: Snapshot, *, relative: bool
) -> tuple[Tensor, ...]:
    """Return distances, loss, gradient_norm, losses and changes of a :class:`Landscape`."""
    unit = _unit(here.parameters, here.gradients) if relative else torch.ones_like(here.loss)
    losses, changes = [], []
    for size in step_sizes:
        moved = _moved(here.parameters, here.gradients, size * unit)
        there, other = differentiate(moved, here.inputs, here.targets)
        losses.append(there)
        changes.append(_length(other[name] - here.gradients[name] for name in other))
    length = _length(here.gradients.values())
    distances = torch.stack([size * unit * length for size in step_sizes], dim=-1)
    return distances, here.loss, length, torch.stack(losses, dim=-1), torch.stack(changes, dim=-1)


def _length(tensors: Iterable[Tensor]) -> Tensor:
    """Return each network's norm of all the tensors together."""
    return vector_norm(norms(tensors), dim=1)


class Descent(TypedDict, total=False):
    """How copies of networks are trained by gradient descent, and when they are measured.

    That is before the first step and then every ``measure_every`` steps, on the batch of the step
    that follows. Where a network has stopped, as in :func:`companion.training.train`, it is NaN.

    Attributes:
        learning_rate: of the steps.
        steps: number of updates; 40 if it is not given.
        measure_every: steps between measurements; 10.
        batch_size: examples, drawn with replacement; 128.
        seed: network i draws its batches with seed ``seed + i``; 0.

    """

    learning_rate: Required[float]
    steps: int
    measure_every: int
    batch_size: int
    seed: int


def landscapes(
    models: Sequence[nn.Module],
    data: Split,
    *,
    step_sizes: Sequence[float],
    relative: bool = False,
    loss: Loss = nn.functional.cross_entropy,
    **descent: Unpack[Descent],
) -> Landscape:
    """Train copies of networks by gradient descent, and walk :func:`along_gradient` as they go.

    Args:
        models: networks of one architecture without running statistics; they are left as they are.
        data: what to train on.
        step_sizes: η of the walks, which are not taken.
        relative: whether they are lengths relative to the weights, as in :func:`along_gradient`.
        loss: of (outputs, targets), averaged over the batch.
        descent: ``learning_rate``, of the steps that are taken, and the rest of :class:`Descent`.

    Returns:
        A :class:`Landscape` whose tensors, but for the step sizes, have one more dimension in
        front: (T, S) and (T, S, K) for T measurements.

    Raises:
        ValueError: as :func:`along_gradient` does.
        TypeError: as there, or if the rate is not a number or a count is not a whole one.

    Source: Santurkar et al. (2018), arXiv 1805.11604.

    Example:
        >>> from companion.data import digits
        >>> models = networks([64, 10, 10], seeds=3)
        >>> found = landscapes(models, digits(), step_sizes=[0.1], learning_rate=0.1, steps=20)
        >>> tuple(found.losses.shape), bool((found.loss[-1] < found.loss[0]).all())
        ((3, 3, 1), True)

    """
    sizes = _checked_steps(step_sizes)
    differentiate, start = _differentiation(models, loss)

    def measure(here: Snapshot) -> tuple[Tensor, ...]:
        return _walk(differentiate, sizes, here, relative=relative)

    found = _followed(models, start, data, measure, loss, **descent)
    return Landscape(torch.tensor(sizes, dtype=found[0].dtype), *found)


def _followed(
    models: Sequence[nn.Module],
    start: Tensors,
    data: Split,
    measure: Callable[[Snapshot], tuple[Tensor, ...]],
    loss: Loss,
    *,
    learning_rate: float,
    steps: int = 40,
    measure_every: int = 10,
    batch_size: int = 128,
    seed: int = 0,
) -> list[Tensor]:
    """Train networks, and return each of what is measured of S of them, stacked as (T, S, …).

    They get their parameters at the start back, which takes less than a copy of their modules.
    """
    rate = non_negative("learning_rate", learning_rate)
    every = positive_integer("measure_every", measure_every)
    steps = positive_integer("steps", steps)
    record = training.train(
        models,
        data._replace(test_inputs=data.test_inputs[:0]),  # there is nothing to test
        optimizer=training.sgd([rate] * len(models)),  # rounds η∇L before it subtracts, as _moved
        steps=max(steps // every * every, 1),  # what comes behind the last measurement is not seen
        loss=loss,
        batch_size=batch_size,
        record_every=every,
        seed=seed,
        observe=measure,
        progress=False,
    )
    unstack(start, models)
    columns = [x.new_full((steps // every + 1, *x.shape), torch.nan) for x in record.observed[0]]
    for step, values in zip(record.steps.tolist(), record.observed, strict=True):
        alive = [stop is None or step <= stop.step for stop in record.stopped]
        if step % every == 0:  # and neither a stop between two of them nor the end
            for column, value in zip(columns, values, strict=True):
                column[step // every, alive] = value[alive]
    return columns


# ---------------------------------------------------------------- what the layers below do


class CovariateShift(NamedTuple):
    """What one update of the layers below does to a layer, of S networks at T steps.

    Attributes:
        inputs: (T, S) by how much of its standard deviation over the batch an input of the layer
            moves its mean; averaged over the inputs that vary over the batch.
        gradient: (T, S) ‖G′ − G‖/‖G‖: how far the gradient of the layer's own weights is, once the
            layers below are updated, from what it was before.
        length: (T, S) of the update of the weights below, over the length of these weights.

    """

    inputs: Tensor
    gradient: Tensor
    length: Tensor


def covariate_shift(
    models: Sequence[nn.Sequential],
    data: Split,
    *,
    layer: int,
    share: float | None = None,
    loss: Loss = nn.functional.cross_entropy,
    **descent: Unpack[Descent],
) -> CovariateShift:
    """Train copies of networks, and measure what one update below a layer changes for that layer.

    Only the layers below take their step, and the batch stays the same, so that nothing else can
    have made the difference. Batches are those of :func:`landscapes` with the same seed.

    Args:
        models: networks as :func:`networks` makes them; they are left as they are.
        data: what to train on.
        layer: which of the linear layers to look at, counted from 1; the first has none below.
        share: how long the update is that is looked at, over the length of the weights that it
            moves; if it is not given, it is the one that the learning rate makes.
        loss: of (outputs, targets), averaged over the batch.
        descent: ``learning_rate`` and the rest of :class:`Descent`.

    Raises:
        ValueError: if the models are not built alike or have buffers, there is no such layer
            with one below, or the share is negative.
        TypeError: if ``layer`` or a count is not a whole number, or rate or share not a number.

    Source: Ioffe & Szegedy (2015), arXiv 1502.03167, for the inputs; Santurkar et al. (2018),
    arXiv 1805.11604, for the gradient.

    Example:
        >>> from companion.data import digits
        >>> options = {"layer": 2, "learning_rate": 0.1, "steps": 10}
        >>> found = covariate_shift(networks([64, 10, 10], seeds=3), digits(), **options)
        >>> tuple(found.inputs.shape), bool((found.gradient > 0).all())
        ((2, 3), True)

    """
    differentiate, start = _differentiation(models, loss)
    linear = [i for i, part in enumerate(models[0]) if isinstance(part, nn.Linear)]
    if not 2 <= positive_integer("layer", layer) <= len(linear):
        raise ValueError(f"layer must be from 2 to {len(linear)}, got {layer}")
    place = linear[layer - 1]
    enter, name = running(models[0][:place]), f"{place}.weight"
    below = [n for n in start if int(n.split(".")[0]) < place]

    def entering(parameters: Tensors, inputs: Tensor) -> Tensor:
        return enter({n: parameters[n] for n in below}, inputs)

    relative = None if share is None else non_negative("share", share)

    def measure(now: Snapshot) -> CovariateShift:
        here, slope = ({n: every[n] for n in below} for every in (now.parameters, now.gradients))
        unit = _unit(here, slope)
        rate = torch.full_like(unit, descent["learning_rate"])
        size = rate if relative is None else relative * unit
        mixed = now.parameters | _moved(here, slope, size)
        gradient = now.gradients[name]
        change = differentiate(mixed, now.inputs, now.targets, name)[1][name] - gradient
        before, after = entering(now.parameters, now.inputs), entering(mixed, now.inputs)
        spread = before.std(1)
        shift = (after.mean(1) - before.mean(1)).abs() / spread
        return CovariateShift(
            inputs=shift.where(spread > 0, torch.nan).nanmean(-1),
            gradient=_length([change]) / _length([gradient]),
            length=size / unit,
        )

    return CovariateShift(*_followed(models, start, data, measure, loss, **descent))
