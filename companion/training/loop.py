"""A training loop that keeps a record of every layer.

Several networks of one architecture (one a seed, say) train side by side in one vectorised pass;
each sees its own batches and gets the numbers it would have got alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from companion._lib import random
from companion._lib.arguments import positive_integer
from companion._lib.probing import Loss, probed
from companion._lib.progress import bar
from companion._lib.side_by_side import Run, losses_of, running
from companion._lib.stacking import clipped, norms, stack, unstack
from companion.data import Split


class Stop(NamedTuple):
    """When and why a network stopped training before its budget was spent.

    Attributes:
        step: the step whose loss was not finite; its weights are those after ``step`` updates.
        loss: that loss, inf or nan.

    """

    step: int
    loss: float


class Snapshot(NamedTuple):
    """S networks at a recorded step, before its update: what :func:`train` shows ``observe``.

    Attributes:
        step: number of updates made.
        parameters: by name, (S, …) of all networks; detached copies, as the gradients are.
        loss: (S,) on the batch of this step.
        gradients: by name, (S, …) of that loss, before any clipping; 0 of what is frozen.
        inputs: (S, examples, …) of the batch.
        targets: (S, examples, …) of the batch.

    """

    step: int
    parameters: dict[str, Tensor]
    loss: Tensor
    gradients: dict[str, Tensor]
    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Record:
    """What happened in a run of S networks, at T recorded steps.

    A record is taken before the update of its step, so step 0 is the network at initialization.
    There is one every ``record_every`` steps, and one more at a step at which a network stopped;
    from there on the entries of that network stay as they are. Time comes first, as a record grows
    step by step; what is measured at initialization has its seeds first.

    Attributes:
        steps: (T,) the steps recorded.
        loss: (T, S) loss on the batch of that step.
        layers: names of the L linear and convolutional layers, in the order they are executed.
        delta_norms: (T, S, L) norm of δ, the gradient at the layer's output, over the batch.
        names: names of the P parameters.
        gradient_norms: (T, S, P) norm of each parameter's gradient.
        weight_norms: (T, S, P) norm of each parameter.
        displacement: (T, S, P) distance of each parameter from where it started.
        test_loss, test_accuracy: (T, S) on the test part, or None without one; no accuracy either
            if its targets are not class labels but floating-point numbers.
        stopped: for each network a :class:`Stop`, or None if it trained to the end.
        observed: what ``observe`` returned at each of the T steps; nothing without it.

    """

    steps: Tensor
    loss: Tensor
    layers: tuple[str, ...]
    delta_norms: Tensor
    names: tuple[str, ...]
    gradient_norms: Tensor
    weight_norms: Tensor
    displacement: Tensor
    test_loss: Tensor | None
    test_accuracy: Tensor | None
    stopped: tuple[Stop | None, ...]
    observed: tuple[Any, ...] = ()

    def parameters(self, suffix: str = "weight") -> list[int]:
        """Return the indices in ``names`` of the parameters whose last name is ``suffix``."""
        return [i for i, name in enumerate(self.names) if name.split(".")[-1] == suffix]


def train(
    models: nn.Module | Sequence[nn.Module],
    data: Split,
    *,
    optimizer: Callable[[Iterable], torch.optim.Optimizer],
    steps: int,
    loss: Loss = nn.functional.cross_entropy,
    batch_size: int | None = 128,
    max_norm: float | Sequence[float] | None = None,
    record_every: int = 1,
    seed: int | Sequence[int] = 0,
    observe: Callable[[Snapshot], Any] | None = None,
    progress: bool = True,
) -> Record:
    """Train networks of one architecture side by side, and record every layer as they go.

    The models are changed in place. A network whose loss is no longer finite stops there, with the
    weights that gave that loss, and the others go on.

    Args:
        models: one module or several of the same architecture, all of floating-point parameters.
            Buffers (running statistics) are not supported: batch norm is to be made with
            ``track_running_stats=False``, and takes the test part as one batch.
        data: what to train on and to test with; tested without gradients at each recorded step.
        optimizer: makes a torch optimizer from a list of parameters, as ``sgd(0.1)`` does. It must
            treat each entry by itself (SGD, momentum, RMSProp, Adam do), since one tensor holds a
            parameter of all the networks.
        steps: number of updates; the last record is of the networks after all of them.
        loss: of (outputs, targets), averaged over the batch.
        batch_size: examples a step, drawn with replacement; None for the whole training set.
        max_norm: what each network's whole gradient is clipped to by its norm, one number or one
            for each network (``math.inf`` does not clip); None for no clipping. The norms recorded
            are those before it.
        record_every: steps between records; the first, the last and every stop are recorded too.
        seed: network i draws its batches with seed ``seed + i``; or a seed for each network.
        observe: called with a :class:`Snapshot` at each recorded step, to look at what the record
            has not; the run does not see what is done to the tensors in it.
        progress: whether to show a bar.

    Returns:
        A :class:`Record`.

    Raises:
        ValueError: if there is no model, the models are not built alike, or one has buffers or no
            linear or convolutional layer; if a count is below 1; or if ``max_norm`` or ``seed`` is
            neither one number nor one for each network, or a bound is negative.
        TypeError: if a count is not a whole number.

    """
    models = [models] if isinstance(models, nn.Module) else list(models)
    skeleton, parameters = stack(models)
    start = {name: value.detach().clone() for name, value in parameters.items()}
    steps = positive_integer("steps", steps)
    record_every = positive_integer("record_every", record_every)
    bounds = _bounds(max_norm, len(models))
    drawn = batches(data, batch_size, _generators(seed, len(models)))
    update = optimizer(list(parameters.values()))
    stopped: list[Stop | None] = [None] * len(models)
    rows: list[dict[str, Tensor]] = []
    observed: list[Any] = []
    run = running(skeleton, shared=True)

    # Two examples: batch norm refuses one.
    with probed(skeleton, data.train_inputs[:2]) as probing:
        losses = probing.losses(skeleton, loss)
        for step in bar(range(steps + 1), "training", show=progress):
            batch = next(drawn)
            recording = step % record_every == 0 or step == steps
            probes = probing.zeros(batch[0]) if recording else {}
            found = _differentiate(losses, parameters, probes, *batch)
            if _note_stops(stopped, step, found.loss) and not recording:
                recording = True
                found = _differentiate(losses, parameters, probing.zeros(batch[0]), *batch)
            if recording:
                row = _measure(step, parameters, start, found)
                row |= _test(run, parameters, loss, data)
                rows.append(row if not rows else _hold(row, rows[-1], stopped, step))
                if observe is not None:
                    observed.append(observe(_snapshot(step, parameters, found, *batch)))
            going = torch.tensor([stop is None for stop in stopped])
            if step == steps or not going.any():
                break
            _update(update, parameters, _clipped(found.gradients, bounds), going)

    unstack(parameters, models)
    columns = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    return Record(
        layers=probing.names,
        names=tuple(parameters),
        test_loss=columns.pop("test_loss", None),
        test_accuracy=columns.pop("test_accuracy", None),
        stopped=tuple(stopped),
        observed=tuple(observed),
        **columns,
    )


def _generators(seed: int | Sequence[int], networks: int) -> list[torch.Generator]:
    """Return what each network draws its batches from."""
    seeds = [seed + i for i in range(networks)] if isinstance(seed, int) else seed
    if len(seeds) != networks:
        raise ValueError(f"seed needs one for each of {networks} models, got {len(seeds)}")
    return random.generators(seeds)


def batches(
    data: Split, batch_size: int | None, generators: Sequence[torch.Generator]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs (S, examples, …) and targets (S, examples, …) without end, drawn anew each time.

    Args:
        data: its training part is drawn from, with replacement.
        batch_size: examples for each network; None for the whole training set, in its order.
        generators: one for each of S networks.

    Raises:
        TypeError: if ``batch_size`` is neither a whole number nor None; when the first batch is
            drawn.
        ValueError: if it is below 1; likewise.

    """
    count = len(data.train_inputs)
    size = None if batch_size is None else positive_integer("batch_size", batch_size)
    index = torch.arange(count).expand(len(generators), count)
    while True:
        if size is not None:
            index = random.rows(generators, count, size)
        yield data.train_inputs[index], data.train_targets[index]


class _Found(NamedTuple):
    """Each network's loss on a batch, and its gradients; δ by layer where there were probes."""

    loss: Tensor
    gradients: dict[str, Tensor]
    deltas: dict[str, Tensor]


def _differentiate(
    losses: Callable[..., Tensor],
    parameters: dict[str, Tensor],
    probes: dict[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
) -> _Found:
    """Return each network's loss, and its gradients with respect to parameters and probes.

    No network's loss depends on another's parameters, so the gradient of their sum is the gradient
    of each; going back through autograd takes less than half of vmap(grad)'s time.
    """
    value = losses(parameters, probes, inputs, targets)
    learning = {name: value for name, value in parameters.items() if value.requires_grad}
    wanted = [*learning.values(), *probes.values()]
    found = iter(torch.autograd.grad(value.sum(), wanted, materialize_grads=True))
    gradients = {
        name: next(found) if name in learning else torch.zeros_like(parameter)
        for name, parameter in parameters.items()
    }
    return _Found(value.detach(), gradients, dict(zip(probes, found, strict=True)))


def _note_stops(stopped: list[Stop | None], step: int, loss: Tensor) -> bool:
    """Enter the networks whose loss is no longer finite, and return whether there is a new one."""
    new = ~loss.isfinite() & torch.tensor([stop is None for stop in stopped])
    for i in new.nonzero().flatten().tolist():
        stopped[i] = Stop(step, loss[i].item())
    return bool(new.any())


def _snapshot(
    step: int, parameters: dict[str, Tensor], found: _Found, inputs: Tensor, targets: Tensor
) -> Snapshot:
    """Copy what the run and its record go on with; with the batch they are done."""
    now = {name: value.detach().clone() for name, value in parameters.items()}
    gradients = {name: value.clone() for name, value in found.gradients.items()}
    return Snapshot(step, now, found.loss.clone(), gradients, inputs, targets)


def _measure(
    step: int, parameters: dict[str, Tensor], start: dict[str, Tensor], found: _Found
) -> dict[str, Tensor]:
    with torch.no_grad():
        return {
            "steps": torch.tensor(step),
            "loss": found.loss,
            "delta_norms": norms(found.deltas.values()),
            "gradient_norms": norms(found.gradients.values()),
            "weight_norms": norms(parameters.values()),
            "displacement": norms(parameters[name] - start[name] for name in parameters),
        }


def _test(run: Run, parameters: dict[str, Tensor], loss: Loss, data: Split) -> dict[str, Tensor]:
    if len(data.test_inputs) == 0:
        return {}
    with torch.no_grad():
        outputs = run(parameters, data.test_inputs)
        targets = data.test_targets.expand(len(outputs), *data.test_targets.shape)
        found = {"test_loss": losses_of(loss, outputs, targets)}
        if not targets.is_floating_point():
            right = outputs.argmax(-1) == targets
            found["test_accuracy"] = right.to(outputs.dtype).flatten(1).mean(1)
    return found


def _hold(
    row: dict[str, Tensor], previous: dict[str, Tensor], stopped: list[Stop | None], step: int
) -> dict[str, Tensor]:
    """Keep the entries of the networks that stopped before this step as they were."""
    for index, stop in enumerate(stopped):
        if stop is not None and stop.step < step:
            for key in row.keys() - {"steps"}:
                row[key] = row[key].index_copy(
                    0, torch.tensor([index]), previous[key][index : index + 1]
                )
    return row


def _bounds(max_norm: float | Sequence[float] | None, networks: int) -> Tensor | None:
    """Return the threshold of each network, or None where none is clipped."""
    if max_norm is None:
        return None
    bounds = torch.as_tensor(max_norm, dtype=torch.float64)
    if bounds.shape not in {(), (networks,)} or not (bounds >= 0).all():
        raise ValueError(
            f"max_norm must be a number of at least 0 or one for each of {networks} models, "
            f"got {max_norm!r}"
        )
    return None if bounds.isinf().all() else bounds.expand(networks)


def _clipped(gradients: dict[str, Tensor], bounds: Tensor | None) -> dict[str, Tensor]:
    """Scale the gradient of each network, all its parameters together, to its bound at most."""
    if bounds is None:
        return gradients
    shorter, _ = clipped(list(gradients.values()), bounds)
    return dict(zip(gradients, shorter, strict=True))


def _update(
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, Tensor],
    gradients: dict[str, Tensor],
    going: Tensor,
) -> None:
    held = None if going.all() else {k: p.detach().clone() for k, p in parameters.items()}
    for name, parameter in parameters.items():
        if parameter.requires_grad:  # what is frozen stays as it is
            parameter.grad = gradients[name].detach()
    optimizer.step()
    if held is not None:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter[~going] = held[name][~going]
