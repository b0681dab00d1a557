"""A monitor of any network in training: what to look at when it does not learn, nearly free.

On the steps that are not sampled nothing runs but a counter. On those that are, hooks look at each
layer as it is executed, and everything is read from the device once.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from companion._checks import positive_integer
from companion.log import Layer, Log
from companion.watching import POSITIONS, UNROLLED, Seen, Watch, positions, read, spread, wide

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # noqa: F401

SATURATED = 0.05
"""A unit is saturated if its mean slope is below this share of the activation's largest."""

FLUSHED = 2.0**-25
"""What is at most this large becomes zero in float16 (arXiv 1710.03740)."""

ENTRIES = 512
"""Of how many entries of each gradient the underflow is counted; of all where there are fewer."""

_PER_LAYER = (
    *("delta_norms", "output_mean", "output_variance", "activation_mean", "activation_variance"),
    *("saturated", "dead", "slope_mean", "slope_square"),
)
_PER_PARAMETER = ("gradient_norms", "weight_norms", "update_norms")
_PER_STEP = (
    *("total_norm", "non_finite", "underflow", "input_mean", "input_variance", "input_spread"),
    *("scale", "skipped"),
)


class GradientMonitor:
    """Watches a network while it trains, and keeps a log of every layer.

    It is a context manager; tell it of every step, after the optimizer's::

        with GradientMonitor(model, every=10) as monitor:
            for x, y in loader:
                loss = loss_fn(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                monitor.step(loss)

    A gradient is what the last backward pass of a step leaves in ``.grad``: accumulated over the
    passes before it, reduced over processes, before any clipping, and with the loss scale of a
    ``GradScaler`` divided out. δ of several passes is combined as one long batch would be;
    activation statistics are means over all of them. Passes without gradients are not looked at.
    A compiled model runs uncompiled on the sampled steps.

    Args:
        model: any module; if it is wrapped for data parallelism, the wrapper.
        every: how many steps lie between two samples; the first step always is one.
        gradients_only: measure the parameters' gradients alone, which is cheaper still.

    Raises:
        TypeError: if the model is not a module.
        ValueError: if it has no parameters, or if they are sharded.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with GradientMonitor(model) as monitor:
        ...     for _ in range(3):
        ...         loss = model(torch.ones(5, 4)).square().mean()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        ...         monitor.step(loss)
        >>> monitor.log
        Log(3 steps, 3 sampled, 2 layers, 4 parameters)
        >>> [layer.activation for layer in monitor.log.layers]
        ['tanh', None]

    """

    def __init__(self, model: nn.Module, *, every: int = 1, gradients_only: bool = False) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        if next(model.parameters(), None) is None:
            raise ValueError(f"model needs parameters, but {type(model).__name__} has none")
        self.model = model
        self.every = positive_integer("every", every)
        self.gradients_only = bool(gradients_only)
        self._clean = _cleaner(model)
        self._watch = Watch(model, self._clean)
        self._watch.on_forward = self._begin
        self._losses: list[Tensor | float] = []
        self._drained = 0
        self._rows: list[_Row] = []
        self._row = _Row(-1)
        self._inside = False
        self._handles: list[RemovableHandle] = []
        self._before: list[Tensor] = []
        self._begun = self._queued = False
        self._stance: AbstractContextManager | None = None

    def __repr__(self) -> str:
        return (
            f"GradientMonitor({type(self.model).__name__}, every={self.every}, "
            f"{len(self._losses)} steps, {len(self._rows)} sampled)"
        )

    # ------------------------------------------------------------ in and out

    def __enter__(self) -> "GradientMonitor":
        if self._inside:
            raise RuntimeError("this monitor is watching already; leave its `with` block first")
        _refuse_shards(self.model)
        self._inside = True
        try:
            self._arm()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._disarm()
        self._inside = False

    def step(self, loss: Tensor | float) -> None:
        """Tell the monitor that a step is over, after the optimizer's.

        Args:
            loss: of the step, one number; before it was scaled.

        Raises:
            RuntimeError: outside of the ``with`` block.
            ValueError: if the loss is not one number.

        """
        if not self._inside:
            raise RuntimeError("step needs the `with` block of the monitor")
        self._losses.append(_one_number(loss))
        if self._row.step >= 0:
            self._finish()
        self._arm()

    def _arm(self) -> None:
        """Listen if the step that now begins is to be sampled."""
        step = len(self._losses)
        if step % self.every:
            if self._row.step >= 0:
                self._disarm()
            return
        self._row = _Row(step)
        self._begun = self._queued = False
        self._watch.attach(full=not self.gradients_only)
        self._watch.sample()
        if not self._handles:
            self._handles = [
                p.register_post_accumulate_grad_hook(self._arrived)
                for p in self.model.parameters()
                if p.requires_grad
            ]

    def _disarm(self) -> None:
        self._row = _Row(-1)
        self._watch.detach()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    # ------------------------------------------------------------ during a sampled step

    @property
    def _parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    def _begin(self) -> None:
        """Keep the weights as they are before the step, when its first forward pass begins."""
        if self._begun:
            return
        self._begun = True
        parameters = self._parameters
        if self.gradients_only:
            return
        with torch.no_grad():
            self._row.weights = _norms([p.detach() for p in parameters])
            learning = [p.detach() for p in parameters if p.requires_grad]
            if not _fit(self._before, learning):
                self._before = [torch.empty_like(p) for p in learning]
            torch._foreach_copy_(self._before, learning)

    def _arrived(self, _parameter: Tensor) -> None:
        """Ask to be called when this backward pass is over, and the processes are reduced."""
        if not self._queued:
            self._queued = True
            engine = torch.autograd.Variable._execution_engine
            engine.queue_callback(lambda: engine.queue_callback(self._read_gradients))

    @torch.no_grad()
    def _read_gradients(self) -> None:
        self._queued = False
        if self._row.step < 0:
            return
        row, parameters = self._row, self._parameters
        found = [(i, _dense(p.grad)) for i, p in enumerate(parameters) if p.grad is not None]
        gradients = [gradient for _, gradient in found]
        numbers = read(_norms(gradients))
        row.non_finite = 0
        row.gradients = [math.nan] * len(parameters)
        for (i, gradient), number in zip(found, numbers, strict=True):
            if not 1e-15 < number < 1e15:  # squares may have been lost, or there is no number
                number = torch.linalg.vector_norm(gradient, dtype=torch.float64).item()
                if not math.isfinite(number):
                    row.non_finite += int((~gradient.isfinite()).sum())
            row.gradients[i] = number
        if not self.gradients_only:
            row.underflow = _underflow(gradients)

    @torch.no_grad()
    def _finish(self) -> None:
        """Read everything that the sampled step has left, at once."""
        row, watch = self._row, self._watch
        watch.settle()
        parameters = self._parameters
        if self._begun and not self.gradients_only:
            learning = [i for i, p in enumerate(parameters) if p.requires_grad]
            moved = [
                torch.dist(wide(parameters[i]), wide(before))
                for i, before in zip(learning, self._before, strict=True)
            ]
            numbers = iter(read([*row.weights, *moved]))
            row.parameters["weight_norms"] = [next(numbers) for _ in parameters]
            updates = [math.nan] * len(parameters)
            for i in learning:
                updates[i] = next(numbers)
            row.parameters["update_norms"] = updates
        row.layers, row.values, row.time = _summary(watch)
        self._rows.append(row)
        self._drain()

    def _drain(self) -> None:
        """Turn the losses that are still tensors into numbers."""
        late = range(self._drained, len(self._losses))
        tensors = [torch.as_tensor(self._losses[i]) for i in late]
        for i, number in zip(late, read(tensors), strict=True):
            self._losses[i] = number
        self._drained = len(self._losses)

    # ------------------------------------------------------------ what comes of it

    @property
    def log(self) -> Log:
        """Everything measured so far, as a :class:`companion.log.Log`."""
        self._drain()
        order, rows = self._watch.order, self._rows
        names = tuple(self._clean(name) for name, _ in self.model.named_parameters())
        columns = {
            field: _table(
                [[row.layers.get((field, i), math.nan) for i in range(len(order))] for row in rows],
                len(order),
            )
            for field in _PER_LAYER
        }
        columns["gradient_norms"] = _table(
            [row.scaled() or [math.nan] * len(names) for row in rows], len(names)
        )
        for field in ("weight_norms", "update_norms"):
            columns[field] = _table(
                [row.parameters.get(field, [math.nan] * len(names)) for row in rows], len(names)
            )
        for field in _PER_STEP:
            columns[field] = _vector([row.value(field) for row in rows])
        times = [_times(layer) for layer in order]
        k = max([min(t, POSITIONS) for t in times], default=0)
        time = torch.full((len(rows), len(order), k), math.nan, dtype=torch.float64)
        for t, row in enumerate(rows):
            for (i, position), value in row.time.items():
                if position < k:
                    time[t, i, position] = value
        dtype = next(self.model.parameters()).dtype
        return Log(
            layers=tuple(_layer(layer) for layer in order),
            parameters=names,
            every=self.every,
            loss=_vector(self._losses),
            steps=torch.tensor([row.step for row in rows], dtype=torch.int64),
            through_time=time,
            times=torch.tensor(times, dtype=torch.int64),
            dtype=str(dtype).removeprefix("torch."),
            torch_version=torch.__version__,
            **columns,
        )

    def to_json(self, path: str | Path) -> None:
        """Write the log so far, see :meth:`companion.log.Log.to_json`."""
        self.log.to_json(path)


class _Row:
    """What is known of one sampled step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.scale = 1.0
        self.weights: list[Tensor] = []
        self.gradients: list[float] = []
        self.non_finite = math.nan
        self.underflow = math.nan
        self.parameters: dict[str, list[float]] = {}
        self.layers: dict[tuple, float] = {}
        self.values: dict[str, float] = {}
        self.time: dict[tuple[int, int], float] = {}

    def scaled(self) -> list[float]:
        """Return the gradients' norms without the loss scale."""
        return [norm / self.scale for norm in self.gradients]

    def value(self, field: str) -> float:
        """Return a number of the whole step."""
        if field == "total_norm":
            present = [norm for norm in self.scaled() if not math.isnan(norm)]
            broken = self.non_finite > 0 and any(math.isnan(norm) for norm in self.gradients)
            return math.nan if broken or not self.gradients else math.hypot(*present)
        if field == "skipped":
            return 0.0
        return self.values.get(field, getattr(self, field, math.nan))


def _table(rows: list[list[float]], width: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), width)


def _vector(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _times(layer: Seen) -> int:
    if isinstance(layer.module, nn.RNNBase):
        return layer.time
    return layer.calls if layer.time or layer.calls >= UNROLLED else 0


def _layer(layer: Seen) -> Layer:
    return Layer(
        name=layer.name,
        kind=layer.kind,
        units=layer.units,
        calls=layer.calls,
        parameters=layer.parameters,
        activation=layer.activation,
        normalized=layer.normalized,
        frozen=layer.frozen,
    )


def _summary(
    watch: Watch,
) -> tuple[dict[tuple, float], dict[str, float], dict[tuple[int, int], float]]:
    """Turn a sample's sums into what the log holds, of layers, of the step, and through time."""
    ledger = watch.ledger
    totals = ledger.read()
    layers: dict[tuple, float] = {}
    values: dict[str, float] = {}
    time: dict[tuple[int, int], float] = {}
    squares: dict[int, float] = {}
    by_call: dict[tuple[int, int], float] = {}
    for key, number in totals.items():
        if key[0] == "δ":
            squares[key[1]] = squares.get(key[1], 0.0) + number
            by_call[key[1:]] = number
        elif key[0] == "time":
            time[key[1:]] = _log10(number) / 2
    for i, square in squares.items():
        layers["delta_norms", i] = math.sqrt(square)
        watch.order[i].wild = not 1e-15 < layers["delta_norms", i] < 1e15
    for layer in watch.order:
        if _times(layer) and not isinstance(layer.module, nn.RNNBase):
            for k, call in enumerate(positions(layer.calls)):
                if (layer.index, call) in by_call:
                    time[layer.index, k] = _log10(by_call[layer.index, call]) / 2
        for short, field in (("z", "output"), ("a", "activation")):
            mean, variance = _mean_variance(totals, short, layer.index)
            layers[f"{field}_mean", layer.index] = mean
            layers[f"{field}_variance", layer.index] = variance
    _unit_shares(watch, totals, layers)
    if ("nx",) in totals:
        sums, within = (ledger.units[key,].cpu() for key in ("x", "xv"))
        n, size = totals["nx",], len(sums)
        values["input_mean"] = sums.sum().item() / (n * size)
        means = sums / n
        # Within features and between them, so that a large offset costs no digits.
        values["input_variance"] = (within.mean() / n + means.var(correction=0)).item()
        values["input_spread"] = spread(within / n)
    return layers, values, time


def _log10(number: float) -> float:
    if math.isnan(number):
        return math.nan
    return math.log10(number) if number > 0 else -math.inf


def _mean_variance(totals: dict[tuple, float], short: str, index: int) -> tuple[float, float]:
    n = totals.get(("n" + short, index), 0.0)
    if n == 0:
        return math.nan, math.nan
    mean = totals[short, index] / n
    variance = totals[short + "²", index] / n - mean * mean
    return mean, max(variance, 0.0) if variance == variance else variance


def _unit_shares(watch: Watch, totals: dict[tuple, float], layers: dict[tuple, float]) -> None:
    """Add the slopes' moments, and the shares of units that are saturated or dead."""
    ledger = watch.ledger
    at = [i for i in range(len(watch.order)) if ("slope", i) in ledger.units]
    if not at:
        return
    sizes = [ledger.units["slope", i].numel() for i in at]
    slopes = torch.cat([ledger.units["slope", i] for i in at]).double().cpu()
    sizes_of = (
        torch.cat([ledger.units.get(("|slope|", i), ledger.units["slope", i]) for i in at])
        .double()
        .cpu()
    )
    examples = [totals["na", i] / size if size else 0.0 for i, size in zip(at, sizes, strict=True)]
    limits = [SATURATED * totals["largest", i] * n for i, n in zip(at, examples, strict=True)]
    repeats = torch.tensor(sizes)
    limit = torch.tensor(limits, dtype=torch.float64).repeat_interleave(repeats)
    facts = torch.stack([slopes, (slopes.abs() < limit).double(), (sizes_of == 0).double()])
    owner = torch.arange(len(at)).repeat_interleave(repeats)
    sums = torch.zeros(3, len(at), dtype=torch.float64).index_add_(1, owner, facts).tolist()
    for k, (i, size, n) in enumerate(zip(at, sizes, examples, strict=True)):
        if not size or not n:
            continue
        layers["slope_mean", i] = sums[0][k] / (size * n)
        square = totals.get(("slope²", i), sums[0][k])
        layers["slope_square", i] = square / (size * n)
        bad = math.isnan(sums[0][k])
        layers["saturated", i] = math.nan if bad else sums[1][k] / size
        layers["dead", i] = math.nan if bad else sums[2][k] / size


def _one_number(loss: Tensor | float) -> Tensor | float:
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise ValueError(f"loss must be one number, got shape {tuple(loss.shape)}")
        return loss.detach().clone().reshape(())
    try:
        return float(loss)
    except (TypeError, ValueError) as error:
        raise TypeError(f"loss must be one number, got {type(loss).__name__}") from error


def _fit(kept: list[Tensor], tensors: list[Tensor]) -> bool:
    """Whether buffers can take these tensors."""
    return len(kept) == len(tensors) and all(
        a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        for a, b in zip(kept, tensors, strict=True)
    )


def _dense(gradient: Tensor) -> Tensor:
    """Return the entries of a gradient that are stored."""
    gradient = gradient.detach()
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm([wide(tensor) for tensor in tensors])) if tensors else []


def _underflow(gradients: list[Tensor]) -> float:
    """Return which share of the nonzero entries float16 would flush to zero."""
    sampled = []
    for gradient in gradients:
        flat = wide(gradient).reshape(-1)
        stride = max(1, gradient.numel() // ENTRIES)
        while stride > 1 and math.gcd(stride, gradient.shape[-1]) > 1:
            stride += 1  # or the same columns would be looked at again and again
        sampled.append((flat[::stride], stride))
    if not sampled:
        return math.nan
    values = torch.cat([values for values, _ in sampled]).abs()
    weights = torch.tensor([float(stride) for _, stride in sampled], device=values.device)
    weights = weights.repeat_interleave(
        torch.tensor([len(v) for v, _ in sampled], device=values.device)
    ).to(values.dtype)
    nonzero = values.sign()
    kept = (values - FLUSHED).sign().clamp(min=0)
    total, above = torch.dot(nonzero, weights), torch.dot(kept, weights)
    total, above = read([total, above])
    return (total - above) / total if total > 0 else math.nan


def _cleaner(model: nn.Module) -> Callable[[str], str]:
    """Return what takes the prefixes of wrappers out of a name."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    wrapped = sorted(
        (
            f"{name}." if name else ""
            for name, m in model.named_modules()
            if isinstance(m, wrappers)
        ),
        key=len,
        reverse=True,
    )

    def clean(name: str) -> str:
        name += "."
        for prefix in wrapped:
            if name.startswith(f"{prefix}module."):
                name = prefix + name[len(prefix) + len("module.") :]
        return ".".join(part for part in name.split(".")[:-1] if part != "_orig_mod")

    return clean


def _refuse_shards(model: nn.Module) -> None:
    kinds = {type(part).__name__ for part in (*model.modules(), *model.parameters())}
    sharded = kinds & {"FullyShardedDataParallel", "FlatParameter", "DTensor"}
    if sharded or any(hasattr(p, "ds_id") or hasattr(p, "placements") for p in model.parameters()):
        raise ValueError(
            "model has sharded parameters, of which this process holds only a part; the norm of a "
            f"part would mislead (found {sorted(sharded) or 'ZeRO'}); monitor the model unsharded"
        )
