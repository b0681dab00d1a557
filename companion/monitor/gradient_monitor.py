"""A monitor of any network in training: what to look at when it does not learn, nearly free.

On the steps that are not sampled nothing runs but a counter. On those that are, hooks look at each
layer as it is executed, and everything is read from the device once.
"""

import functools
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from companion._lib.arguments import positive_integer
from companion.monitor._ledger import read, reduce, wide
from companion.monitor._summary import Blocks, Sample, dense, known, summarize, times, underflow
from companion.monitor._watch import POSITIONS, Seen, Watch
from companion.monitor.log import Layer, Log, columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.distributed import ProcessGroup


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
    A compiled model runs uncompiled on the sampled steps (torch 2.6 or newer). Of a weight in which
    ``nn.MultiheadAttention`` packs queries, keys and values, the log has their gradients' norms as
    well: the gradient of the first two can vanish alone (Noci et al. 2022, arXiv 2206.03126).

    Norms are of everything. Means, variances and slopes of a layer whose output has more than 8192
    entries are of evenly spaced examples that hold at least 4096; whether a ReLU unit is dead is
    then looked up in the whole batch, and NaN at the one sample that did not yet look there. The
    underflow is counted in about 256 entries of each large gradient, and
    in up to 16 gradients of each shape; the model's input is described by a part, too.

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
        self._drained = 0  # how many of them are numbers already
        self._rows: list[_Row] = []
        self._row: _Row | None = None  # of the step that is being sampled
        self._inside = False  # of its `with` block
        self._group: ProcessGroup | None = None  # that trains the model together
        self._handles: list[RemovableHandle] = []
        self._before = Blocks([])  # the weights before the step, then what it added to them
        self._fits: list[tuple] = []  # what the blocks were made for
        self._parameters: list[nn.Parameter] = []
        self._parts: list[_Part] = []  # of them, whose gradients are looked at apart
        self._heralds: list[nn.Parameter] = []  # whose gradients tell of a backward pass
        self._begun = False  # whether a forward pass of the sampled step has
        self._queued = False  # whether the gradients will be read after this backward pass
        self._stance: AbstractContextManager | None = None  # that keeps models uncompiled
        self._scaler: torch.amp.GradScaler | None = None

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
        _refuse_compiled(self.model)
        self._inside = True
        _SCALES.listen(self)
        self._parameters = list(self.model.parameters())
        self._parts = _parts(self.model)
        self._group = _group(self.model)
        self._heralds = _heralds(self.model)
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
        _SCALES.forget(self)
        if self._inside and error is None:
            self._drain()
        self._inside = False

    def step(self, loss: Tensor | float) -> None:
        """Tell the monitor that a step is over, after the optimizer's.

        Args:
            loss: of the step, one number, before it was scaled; a tensor may be of any shape with
                one entry.

        Raises:
            RuntimeError: outside of the ``with`` block.
            ValueError: if the loss is a tensor of more or fewer than one number.
            TypeError: if the loss is no number at all.

        """
        if not self._inside:
            raise RuntimeError("step needs the `with` block of the monitor")
        self._losses.append(_one_number(loss))
        if self._row is not None:
            self._finish(self._row)
        self._arm()

    def _arm(self) -> None:
        """Listen if the step that now begins is to be sampled."""
        step = len(self._losses)
        if step % self.every:
            if self._row is not None:
                self._disarm()
            return
        self._row = _Row(step)
        self._begun = self._queued = False
        self._scaler = None
        compiling = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
        if self._stance is None and compiling:
            self._stance = _uncompiled()
            self._stance.__enter__()
        self._watch.attach(full=not self.gradients_only)
        self._watch.sample()
        if self.gradients_only and self._rows:
            self._watch.detach()  # the order of the layers is known
        if not self._handles:
            self._handles = [
                p.register_post_accumulate_grad_hook(self._arrived) for p in self._heralds
            ]

    def _disarm(self) -> None:
        self._row = None
        self._watch.detach()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._stance is not None:
            self._stance.__exit__(None, None, None)
            self._stance = None

    # ------------------------------------------------------------ during a sampled step

    def _begin(self) -> None:
        """Keep the weights as they are before the step, when its first forward pass begins."""
        if self._begun or self._row is None:
            return
        self._begun = True
        if self.gradients_only:
            return
        with torch.no_grad():
            fits = [(p.shape, p.dtype, p.device, p.requires_grad) for p in self._parameters]
            learning = [p for p in self._parameters if p.requires_grad]
            if fits != self._fits:
                self._before, self._fits = Blocks(learning), fits
            self._before.copy(learning)
            self._row.weights = self._before.norms()

    def _arrived(self, _parameter: Tensor) -> None:
        """Ask to be called when this backward pass is over, and the processes are reduced."""
        if not self._queued:
            self._queued = True
            engine = torch.autograd.Variable._execution_engine
            engine.queue_callback(lambda: engine.queue_callback(self._read_gradients))

    @torch.no_grad()
    def _read_gradients(self) -> None:
        self._queued = False
        row = self._row
        if row is None:
            return
        if self._scaler is not None:
            row.scale = self._scaler.get_scale()
        gradients = [p.grad for p in self._parameters]
        there = {i: gradient for i, gradient in enumerate(gradients) if gradient is not None}
        entries = [dense(gradient) for gradient in there.values()]
        parts = [
            (len(gradients) + k, gradient[part.rows])
            for k, part in enumerate(self._parts)
            if (gradient := there.get(part.at)) is not None
        ]
        whole = len(entries)
        entries += [rows for _, rows in parts]
        norms = read(list(torch._foreach_norm([wide(entry) for entry in entries])))
        row.non_finite = 0
        for k, norm in enumerate(norms):
            if not 1e-15 < norm < 1e15:  # squares may have been lost, or there is no number
                norms[k] = torch.linalg.vector_norm(entries[k], dtype=torch.float64).item()
                if k < whole and not math.isfinite(norms[k]):
                    row.non_finite += int((~entries[k].isfinite()).sum())
        norms = [norm / row.scale for norm in norms]
        row.total_norm = math.hypot(*norms[:whole])
        places = [*there, *(place for place, _ in parts)]
        row.put("gradient_norms", dict(zip(places, norms, strict=True)))
        if not self.gradients_only:
            row.underflow = underflow(_by_shape(entries[:whole]))

    @torch.no_grad()
    def _finish(self, row: "_Row") -> None:
        """Read everything that the sampled step has left, at once."""
        watch, parameters = self._watch, self._parameters
        watch.settle()
        if self._begun and not self.gradients_only:
            learning = [i for i, fit in enumerate(self._fits) if fit[-1]]
            frozen = [i for i, fit in enumerate(self._fits) if not fit[-1]]
            self._before.subtract([parameters[i] for i in learning])
            weights, updates = self._before.read(row.weights, self._before.norms())
            if frozen:
                weights += read(list(torch._foreach_norm([wide(parameters[i]) for i in frozen])))
            row.put("weight_norms", dict(zip(learning + frozen, weights, strict=True)))
            row.put("update_norms", dict(zip(learning, updates, strict=True)))
            row.weights = []
        if not self.gradients_only:
            if self._group is not None:
                reduce(watch.ledger, self._group)
            row.summary = summarize(watch.ledger, watch.order, row.scale)
            watch.prepare(row.summary.delta_squares, row.summary.silent)
        row.skipped = float(self._scaler is not None and row.non_finite > 0)
        self._rows.append(row)
        self._drain()

    def _drain(self) -> None:
        """Turn the losses that are still tensors into numbers, the mean over all processes."""
        self._losses[self._drained :] = self._pending(self._group)
        self._drained = len(self._losses)

    def _pending(self, group: "ProcessGroup | None" = None) -> list[float]:
        found = read([torch.as_tensor(loss) for loss in self._losses[self._drained :]])
        if group is not None and found:
            total = torch.tensor(found, dtype=torch.float64, device=self._parameters[0].device)
            torch.distributed.all_reduce(total, group=group)
            found = (total / torch.distributed.get_world_size(group)).tolist()
        return found

    # ------------------------------------------------------------ what comes of it

    @property
    def log(self) -> Log:
        """Everything measured so far, as a :class:`companion.monitor.Log`."""
        order, rows = self._watch.order, self._rows
        names = tuple(self._clean(name) for name, _ in self.model.named_parameters())
        names += tuple(f"{names[part.at]}[{part.name}]" for part in _parts(self.model))
        measured = {
            f: _table([row.summary.layers.get(f, {}) for row in rows], len(order))
            for f in columns("layer")
        }
        measured |= {
            f: _table([row.parameters.get(f, {}) for row in rows], len(names))
            for f in columns("parameter")
        }
        for column in columns("step"):
            measured[column] = _vector([row.value(column) for row in rows])
        durations = [times(layer) for layer in order]
        k = max([min(t, POSITIONS) for t in durations], default=0)
        time = torch.full((len(rows), len(order), k), math.nan, dtype=torch.float64)
        for t, row in enumerate(rows):
            for (i, position), value in row.summary.time.items():
                if position < k:
                    time[t, i, position] = value
        dtype = next(self.model.parameters()).dtype
        read_already = cast("list[float]", self._losses[: self._drained])
        return Log(
            layers=tuple(_layer(layer) for layer in order),
            parameters=names,
            every=self.every,
            loss=_vector([*read_already, *self._pending()]),
            steps=torch.tensor([row.step for row in rows], dtype=torch.int64),
            through_time=time,
            times=torch.tensor(durations, dtype=torch.int64),
            dtype=str(dtype).removeprefix("torch."),
            torch_version=torch.__version__,
            **measured,
        )

    def plot(self) -> "Figure":
        """Draw δ against depth at the first and last sample, the update ratios, and the loss.

        Raises:
            ValueError: if no step was sampled, or the gradients only.

        """
        from companion.monitor.picture import monitored

        return monitored(self.log)

    def to_json(self, path: str | Path) -> None:
        """Write the log so far, see :meth:`companion.monitor.Log.to_json`."""
        self.log.to_json(path)


class _Scales:
    """Notices what a ``GradScaler`` scales while monitors listen; nothing hands it to them."""

    def __init__(self) -> None:
        self._listeners: list[GradientMonitor] = []
        self._original = torch.amp.GradScaler.scale

    def listen(self, monitor: GradientMonitor) -> None:
        """Tell a monitor from now on."""
        if not self._listeners:
            self._original = torch.amp.GradScaler.scale
            listeners, original = self._listeners, self._original

            @functools.wraps(original)
            def scale(scaler: torch.amp.GradScaler, outputs: Any) -> Any:  # noqa: ANN401
                for listener in listeners:
                    listener._scaler = scaler
                return original(scaler, outputs)

            torch.amp.GradScaler.scale = scale  # type: ignore[method-assign, assignment]  # a patch
        self._listeners.append(monitor)

    def forget(self, monitor: GradientMonitor) -> None:
        """Tell it no more."""
        if monitor in self._listeners:
            self._listeners.remove(monitor)
            if not self._listeners:
                torch.amp.GradScaler.scale = self._original  # type: ignore[method-assign]  # undone


_SCALES = _Scales()


def _group(model: nn.Module) -> "ProcessGroup | None":
    """Return the group of processes that train this model together, None if it is alone."""
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            return module.process_group
    return None


@dataclass(slots=True)
class _Row:
    """What is known of one sampled step.

    Attributes:
        step: which one.
        weights: norms of the weights before it, by block; emptied once they are read.
        scale: the loss scale, 1 without; like the next four a column of the log.
        total_norm: of all gradients as one vector.
        skipped: 1 if the step was skipped for the loss scale, else 0.
        non_finite: how many entries of the gradients are not finite.
        underflow: share of them that float16 would flush to zero.
        parameters: by column of the log that has a number a parameter, and by its place.
        summary: of what the watch has seen.

    """

    step: int
    weights: list[Tensor] = field(default_factory=list)
    scale: float = 1.0
    total_norm: float = math.nan
    skipped: float = 0.0
    non_finite: float = math.nan
    underflow: float = math.nan
    parameters: dict[str, dict[int, float]] = field(default_factory=dict)
    summary: Sample = field(default_factory=Sample)

    def put(self, column: str, numbers: dict[int, float]) -> None:
        """Add a number for each of some parameters."""
        self.parameters[known(column, "parameter")] = numbers

    def value(self, column: str) -> float:
        """Return a number of the whole step."""
        return self.summary.values.get(column, getattr(self, column, math.nan))


class _Part(NamedTuple):
    """Some rows of a parameter: by its place among the model's, and what they are called."""

    at: int
    name: str
    rows: slice


def _parts(model: nn.Module) -> list[_Part]:
    """Return the rows of queries, keys and values in the weights that torch's attention packs."""
    index = {id(parameter): i for i, parameter in enumerate(model.parameters())}
    # Not module.in_proj_weight, which may be computed: a spectral norm then takes a step.
    packed = {
        index[id(parameter)]: module.embed_dim
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
        for own, parameter in module.named_parameters(recurse=False)
        if own == "in_proj_weight"
    }
    return [
        _Part(i, name, slice(k * width, (k + 1) * width))
        for i, width in packed.items()
        for k, name in enumerate("qkv")
    ]


def _table(rows: list[dict[int, float]], width: int) -> Tensor:
    """Put rows below each other, by column; what was not measured is NaN."""
    numbers = [[row.get(i, math.nan) for i in range(width)] for row in rows]
    return torch.tensor(numbers, dtype=torch.float64).reshape(len(rows), width)


def _by_shape(tensors: list[Tensor]) -> list[list[Tensor]]:
    groups: dict[tuple, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.shape, tensor.dtype, tensor.device), []).append(tensor)
    return list(groups.values())


def _vector(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


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


def _one_number(loss: Tensor | float) -> Tensor | float:
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise ValueError(f"loss must be one number, got shape {tuple(loss.shape)}")
        return loss.detach().clone().reshape(())
    try:
        return float(loss)
    except (TypeError, ValueError) as error:
        raise TypeError(f"loss must be one number, got {type(loss).__name__}") from error


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


def _heralds(model: nn.Module) -> list[nn.Parameter]:
    """Return one parameter of each module that learns: enough to notice any backward pass."""
    first = (
        next((p for p in module.parameters(recurse=False) if p.requires_grad), None)
        for module in model.modules()
    )
    return list({id(p): p for p in first if p is not None}.values())


def _refuse_compiled(model: nn.Module) -> None:
    if hasattr(torch.compiler, "set_stance"):
        return
    if any(
        getattr(m, "_compiled_call_impl", None) or hasattr(m, "_orig_mod") for m in model.modules()
    ):
        raise ValueError(
            "model is compiled, and before torch 2.6 it cannot be run uncompiled for a step; "
            f"this is torch {torch.__version__}: monitor the model that was compiled, uncompiled"
        )


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Run compiled models as they were written: compiled ones would run past the hooks."""
    # torch warns that hooks for all modules see the wrapper as well, which is as it should be.
    message = r"Using `torch.compile\(module\)` when there are global hooks"
    warnings.filterwarnings("ignore", message=message)
    ours = warnings.filters[0]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        if ours in warnings.filters:
            warnings.filters.remove(ours)  # type: ignore[attr-defined]  # it is a list


def _refuse_shards(model: nn.Module) -> None:
    kinds = {type(part).__name__ for part in (*model.modules(), *model.parameters())}
    sharded = kinds & {"FullyShardedDataParallel", "FlatParameter", "DTensor"}
    if sharded or any(hasattr(p, "ds_id") or hasattr(p, "placements") for p in model.parameters()):
        raise ValueError(
            "model has sharded parameters, of which this process holds only a part; the norm of a "
            f"part would mislead (found {sorted(sharded) or 'ZeRO'}); monitor the model unsharded"
        )
