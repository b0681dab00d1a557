"""A training loop that keeps a record of every layer.

Several networks of one architecture (one a seed, say) train side by side in one vectorised pass;
each sees its own batches and gets the numbers it would have got alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from companion._checks import positive_integer
from companion._progress import bar
from companion.data import Split

Loss = Callable[[Tensor, Tensor], Tensor]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Stop(NamedTuple):
    """When and why a network stopped training before its budget was spent.

    Attributes:
        step: the step whose loss was not finite; its weights are those after ``step`` updates.
        loss: that loss, inf or nan.

    """

    step: int
    loss: float


@dataclass(frozen=True)
class Record:
    """What happened in a run of S networks, at T recorded steps.

    A record is taken before the update of its step, so step 0 is the network at initialization.
    There is one every ``record_every`` steps, and one more at a step at which a network stopped;
    from there on the entries of that network stay as they are.

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

    def parameters(self, suffix: str = "weight") -> list[int]:
        """Return the indices in ``names`` of the parameters whose last name is ``suffix``."""
        return [i for i, name in enumerate(self.names) if name.split(".")[-1] == suffix]


class _RatedSGD(torch.optim.SGD):
    """Gradient descent with a learning rate for each network."""

    def __init__(self, parameters: Iterable, rates: Tensor, momentum: float) -> None:
        super().__init__(parameters, lr=1.0, momentum=momentum)
        self.rates = rates

    def step(self) -> None:
        """Make one update, in which network i has the rate ``rates[i]``."""
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                rates = self.rates.to(parameter.dtype).view(-1, *[1] * (parameter.dim() - 1))
                parameter.grad = parameter.grad * rates
        super().step()


def sgd(
    learning_rate: float | Sequence[float], momentum: float = 0.0
) -> Callable[[Iterable], torch.optim.Optimizer]:
    """Return what :func:`train` takes as an optimizer: plain gradient descent, or with momentum.

    Args:
        learning_rate: one number, or one for each network.
        momentum: as torch's.

    Raises:
        ValueError: if there is not one learning rate for each network; torch's own for its others.

    """
    if not isinstance(learning_rate, Sequence):
        return lambda parameters: torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)
    rates = torch.tensor(learning_rate, dtype=torch.float64)

    def optimizer(parameters: Iterable) -> torch.optim.Optimizer:
        parameters = list(parameters)
        if rates.shape != parameters[0].shape[:1] or not (rates >= 0).all():
            raise ValueError(
                f"learning_rate must be a number of at least 0 or one for each of "
                f"{len(parameters[0])} models, got {learning_rate!r}"
            )
        return _RatedSGD(parameters, rates, momentum)

    return optimizer


def adam(learning_rate: float) -> Callable[[Iterable], torch.optim.Optimizer]:
    """Return what :func:`train` takes as an optimizer: Adam with torch's defaults."""
    return lambda parameters: torch.optim.Adam(parameters, lr=learning_rate)


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
        progress: whether to show a bar.

    Returns:
        A :class:`Record`.

    Raises:
        ValueError: if there is no model, the models are not built alike, or one has buffers or no
            linear or convolutional layer.

    """
    models = [models] if isinstance(models, nn.Module) else list(models)
    skeleton, parameters = _stack(models)
    start = {name: value.detach().clone() for name, value in parameters.items()}
    steps = positive_integer("steps", steps)
    record_every = positive_integer("record_every", record_every)
    bounds = None if max_norm is None else _bounds(max_norm, len(models))
    if isinstance(seed, int):
        seed = [seed + i for i in range(len(models))]
    if len(seed) != len(models):
        raise ValueError(f"seed needs one for each of {len(models)} models, got {len(seed)}")
    batches = _batches(data, batch_size, seed)
    update = optimizer(list(parameters.values()))
    stopped: list[Stop | None] = [None] * len(models)
    rows: list[dict[str, Tensor]] = []

    # Two examples: batch norm refuses one.
    with _probed(skeleton, data.train_inputs[:2]) as probed:
        losses = vmap(probed.loss(skeleton, loss))
        for step in bar(range(steps + 1), "training", show=progress):
            inputs, targets = next(batches)
            recording = step % record_every == 0 or step == steps
            probes = probed.zeros(inputs) if recording else {}
            value, gradients, deltas = _differentiate(losses, parameters, probes, inputs, targets)
            stopping = ~torch.isfinite(value) & torch.tensor([stop is None for stop in stopped])
            for i in stopping.nonzero().flatten().tolist():
                stopped[i] = Stop(step, value[i].item())
            going = torch.tensor([stop is None for stop in stopped])
            over = step == steps or not going.any()
            if stopping.any() and not recording:
                again = (losses, parameters, probed.zeros(inputs), inputs, targets)
                value, gradients, deltas = _differentiate(*again)
            if recording or stopping.any():
                row = _measure(parameters, start, gradients, deltas, value, probed.names)
                row |= _test(skeleton, parameters, loss, data)
                row["step"] = torch.tensor(step)
                rows.append(row if not rows else _hold(row, rows[-1], stopped, step))
            if over:
                break
            if bounds is not None:
                gradients = _clipped(gradients, bounds)
            _update(update, parameters, gradients, going)

    _unstack(parameters, models)
    columns = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    return Record(
        steps=columns["step"],
        loss=columns["loss"],
        layers=probed.names,
        delta_norms=columns["delta_norms"],
        names=tuple(parameters),
        gradient_norms=columns["gradient_norms"],
        weight_norms=columns["weight_norms"],
        displacement=columns["displacement"],
        test_loss=columns.get("test_loss"),
        test_accuracy=columns.get("test_accuracy"),
        stopped=tuple(stopped),
    )


def _stack(models: list[nn.Module]) -> tuple[nn.Module, dict[str, Tensor]]:
    if not models:
        raise ValueError("models needs at least one module, got none")
    kinds = [{n: (p.shape, p.dtype) for n, p in model.named_parameters()} for model in models]
    for index, (model, kind) in enumerate(zip(models, kinds, strict=True)):
        if kind != kinds[0] or repr(model) != repr(models[0]):  # the repr names the activations
            raise ValueError(f"models must all be built alike, but models[{index}] is not as [0]")
    if any(True for model in models for _ in model.buffers()):
        raise ValueError("models with buffers (running statistics) are not supported")
    parameters, _ = stack_module_state(models)
    return models[0], parameters


def _unstack(parameters: dict[str, Tensor], models: list[nn.Module]) -> None:
    with torch.no_grad():
        for index, model in enumerate(models):
            for name, parameter in model.named_parameters():
                parameter.copy_(parameters[name][index])


def _batches(
    data: Split, batch_size: int | None, seeds: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    count = len(data.train_inputs)
    size = None if batch_size is None else (positive_integer("batch_size", batch_size),)
    while True:
        rows = [
            torch.arange(count) if size is None else torch.randint(count, size, generator=g)
            for g in generators
        ]
        index = torch.stack(rows)
        yield data.train_inputs[index], data.train_targets[index]


@dataclass
class _Probes:
    """Zeros added to each layer's output, whose gradient is that layer's δ."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    values: dict[str, Tensor]

    def zeros(self, inputs: Tensor) -> dict[str, Tensor]:
        return {
            name: inputs.new_zeros(*inputs.shape[:2], *shape, requires_grad=True)
            for name, shape in zip(self.names, self.shapes, strict=True)
        }

    def loss(self, model: nn.Module, loss: Loss) -> Callable[..., Tensor]:
        def probed_loss(
            parameters: dict[str, Tensor], probes: dict[str, Tensor], x: Tensor, y: Tensor
        ) -> Tensor:
            self.values = probes
            try:
                return loss(functional_call(model, parameters, (x,)), y)
            finally:
                self.values = {}

        return probed_loss


@contextmanager
def _probed(model: nn.Module, example: Tensor) -> Iterator[_Probes]:
    """Hook the model's layers so that their outputs can be nudged, and unhook them after."""
    seen: dict[str, torch.Size] = {}
    probes = _Probes((), (), {})

    def hook_for(name: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            seen.setdefault(name, output.shape[1:])
            return output + probes.values[name] if probes.values else output

        return hook

    layers = [
        (name, module) for name, module in model.named_modules() if isinstance(module, LAYERS)
    ]
    handles = [module.register_forward_hook(hook_for(name)) for name, module in layers]
    try:
        with torch.no_grad():
            model(example)
        if not seen:
            raise ValueError("models need at least one linear or convolutional layer, got none")
        probes.names, probes.shapes = tuple(seen), tuple(seen.values())
        yield probes
    finally:
        for handle in handles:
            handle.remove()


def _differentiate(
    losses: Callable[..., Tensor],
    parameters: dict[str, Tensor],
    probes: dict[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
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
    return value.detach(), gradients, dict(zip(probes, found, strict=True))


def _norms(tensors: Iterable[Tensor]) -> Tensor:
    """Return the norm of each network's part of each tensor, as (S, len(tensors))."""
    return torch.stack([torch.linalg.vector_norm(t.flatten(1), dim=1) for t in tensors], dim=1)


def _measure(
    parameters: dict[str, Tensor],
    start: dict[str, Tensor],
    gradients: dict[str, Tensor],
    deltas: dict[str, Tensor],
    value: Tensor,
    layers: tuple[str, ...],
) -> dict[str, Tensor]:
    with torch.no_grad():
        return {
            "loss": value,
            "delta_norms": _norms(deltas[name] for name in layers),
            "gradient_norms": _norms(gradients[name] for name in parameters),
            "weight_norms": _norms(parameters.values()),
            "displacement": _norms(parameters[name] - start[name] for name in parameters),
        }


def _test(
    model: nn.Module, parameters: dict[str, Tensor], loss: Loss, data: Split
) -> dict[str, Tensor]:
    if len(data.test_inputs) == 0:
        return {}

    def score(state: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = functional_call(model, state, (data.test_inputs,))
        found = {"test_loss": loss(outputs, data.test_targets)}
        if not data.test_targets.is_floating_point():
            right = outputs.argmax(-1) == data.test_targets
            found["test_accuracy"] = right.to(outputs.dtype).mean()
        return found

    with torch.no_grad():
        return vmap(score)(parameters)


def _hold(
    row: dict[str, Tensor], previous: dict[str, Tensor], stopped: list[Stop | None], step: int
) -> dict[str, Tensor]:
    """Keep the entries of the networks that stopped before this step as they were."""
    for index, stop in enumerate(stopped):
        if stop is not None and stop.step < step:
            for key in row.keys() - {"step"}:
                row[key] = row[key].index_copy(
                    0, torch.tensor([index]), previous[key][index : index + 1]
                )
    return row


def _bounds(max_norm: float | Sequence[float], networks: int) -> Tensor:
    """Return the threshold of each network."""
    bounds = torch.as_tensor(max_norm, dtype=torch.float64)
    if bounds.shape not in {(), (networks,)} or not (bounds >= 0).all():
        raise ValueError(
            f"max_norm must be a number of at least 0 or one for each of {networks} models, "
            f"got {max_norm!r}"
        )
    return bounds.expand(networks)


def _clipped(gradients: dict[str, Tensor], bounds: Tensor) -> dict[str, Tensor]:
    """Scale the gradient of each network, all its parameters together, to its bound at most."""
    norms = _norms(gradients.values()).norm(dim=1)
    return {name: scaled(gradient, norms, bounds) for name, gradient in gradients.items()}


def scaled(gradient: Tensor, norms: Tensor, bounds: Tensor) -> Tensor:
    """Scale each network's part of a gradient by min(1, bound/norm), as torch's clip_grad_norm_.

    Where the bound is infinite it stays as it is, whatever its norm.

    Args:
        gradient: (S, …) of S networks.
        norms: (S,) of each network's whole gradient.
        bounds: (S,) the largest norm of each.

    """
    factors = torch.where(bounds.isinf(), 1.0, (bounds / (norms + 1e-6)).clamp(max=1.0))
    return gradient * factors.to(gradient.dtype).view(-1, *[1] * (gradient.dim() - 1))


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
