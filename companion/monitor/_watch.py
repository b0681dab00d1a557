"""What a network does in one step: which layers run, what they return, and the gradient there.

:class:`companion.monitor.GradientMonitor` is what to use; this is the part of it that listens. It
listens through hooks that torch keeps for all modules together, so that the model itself carries
none, and attaches them for the steps that are sampled only.
"""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from companion import activations
from companion.activations import units
from companion.monitor._ledger import (
    Bend,
    Delta,
    DeltaInTime,
    Inputs,
    Kept,
    Ledger,
    bend_of,
    wide,
)

ENTRIES_KEPT = 4096
"""Of larger outputs, statistics are taken of evenly spaced examples that hold about as many."""


POSITIONS = 16
"""At how many positions in time δ is kept, at most."""

UNROLLED = 4
"""A layer that one forward pass calls this often is taken to be unrolled in time."""

_LAYERS = (
    *(nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.Bilinear),
    *(nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention),
)

_NAMES = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "prelu",
    nn.ELU: "elu",
    nn.SELU: "selu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Softplus: "softplus",
    nn.Mish: "mish",
}

_FUNCTIONS: dict[Callable, str] = {
    getattr(home, name): name.rstrip("_")
    for home in (torch, functional, Tensor)
    for name in (
        *("relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_", "leaky_relu", "leaky_relu_"),
        *("prelu", "elu", "elu_", "selu", "selu_", "gelu", "silu", "softplus", "mish", "celu"),
        *("hardtanh", "hardswish", "hardsigmoid", "relu6", "softsign", "sin"),
    )
    if hasattr(home, name)
}
_NORMS = {
    getattr(functional, name)
    for name in ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
    if hasattr(functional, name)
}


@dataclass(eq=False, slots=True)
class Seen:
    """A layer that may run, and what is found out about it when it does.

    Attributes:
        name: of the module, without the prefixes of wrappers.
        module: the layer itself.
        parameters: names of its own, the weight first.
        frozen: whether none of them requires a gradient.
        ran: whether it ever has; what follows up to ``other_dims`` is known from then on.
        index: its place in the order in which layers first ran.
        units: outputs at one position: features, or channels.
        unit_dim: the dimension of its output in which they lie, counted from the end.
        dims: how many dimensions its output has.
        other_dims: all of them but the units', counted from the start.
        calls: how often it runs in one forward pass of the model, by the last sample.
        calls_in_sample: how often it has run in this sample.
        calls_in_pass: how often it has run in this forward pass.
        activation: name of the one that is applied to its output, None as long as none was seen.
        activated: whether that has been seen since it ran last.
        normalized: whether its output was seen to go into a normalization.
        time: how many positions in time its input has; 1 for a cell, 0 for what has no time.
        in_float64: whether the next sample squares its δ in float64.
        in_whole: whether the next sample looks for its dead units in the whole batch.
        kept: the examples kept of its latest output, None before a sample has any.

    """

    name: str
    module: nn.Module
    parameters: tuple[str, ...]
    frozen: bool
    ran: bool = False
    index: int = 0
    units: int = 0
    unit_dim: int = -1
    dims: int = 0
    other_dims: list[int] = field(default_factory=list)
    calls: int = 1
    calls_in_sample: int = 0
    calls_in_pass: int = 0
    activation: str | None = None
    activated: bool = False
    normalized: bool = False
    time: int = 0
    in_float64: bool = True
    in_whole: bool = True
    kept: Kept | None = None

    @property
    def kind(self) -> str:
        """Name of its class."""
        return type(self.module).__name__.removeprefix("Parametrized")


Origin = tuple[Seen | None, bool]
"""The layer from which a tensor comes, and whether it is what that layer returned."""


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalization, torch's or somebody's own."""
    return "norm" in type(module).__name__.lower() and not list(module.children())


def find_layers(model: nn.Module, clean: Callable[[str], str]) -> dict[int, Seen]:
    """Return, by identity, the modules that may turn up as layers: those with weight matrices."""
    found: dict[int, Seen] = {}
    names = {id(p): clean(name) for name, p in model.named_parameters()}
    for name, module in reversed(list(model.named_modules())):
        own = any(p.dim() > 1 for p in module.parameters(recurse=False))
        inner = [sub for sub in module.modules() if sub is not module and id(sub) in found]
        if isinstance(module, _LAYERS) or (own and not inner and not is_norm(module)):
            below = {id(p) for sub in inner for p in sub.parameters()}
            if isinstance(module, nn.MultiheadAttention):
                below = set()  # it uses its projection's weights without calling it
            mine = [p for p in module.parameters() if id(p) not in below]
            mine.sort(key=lambda p: p.dim() < 2)
            listed = tuple(names[id(p)] for p in mine)
            frozen = not any(p.requires_grad for p in mine)
            found[id(module)] = Seen(clean(name), module, listed, frozen)
    return found


def _tensors(output: object) -> Iterator[Tensor]:
    """Yield the floating-point tensors in what a module returned."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))


class _Functions(TorchFunctionMode):
    """Sees activations and norms that are called as functions."""

    def __init__(self, watch: "Watch") -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        name, watch = _FUNCTIONS.get(func), self.watch
        if name is None or not args or not torch.is_grad_enabled():
            result = func(*args, **kwargs)
            if func in _NORMS and args:
                watch.at_norm(args[0], result)
            return result
        in_place = kwargs.get("inplace") or func.__name__.endswith("_")
        lost = in_place and name != "relu"  # what is left does not tell what went in
        if watch.inside is not None and not lost:
            return func(*args, **kwargs)  # its module's hook will see it
        z = args[0]
        origin = watch.origin(z)
        held = z.detach().clone() if lost else z
        result = func(*args, **kwargs)
        plain = {key: value for key, value in kwargs.items() if key != "inplace"}
        call = partial(_again, func, args[1:], plain)
        watch.at_function(name, call, origin, held, result, (func, str(args[1:]), str(plain)))
        return result


def _thin(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor, or of some examples if it is large."""
    step = tensor.numel() // ENTRIES_KEPT
    tensor = tensor.detach()
    if step > 1 and tensor.dim() > 1:
        tensor = tensor[:: min(step, tensor.shape[0])]
    return tensor.clone()


def _listen(z: Tensor, listener: Callable[[Tensor], None]) -> None:
    """Call with the gradient at a tensor; what is done to it in place later is no matter."""
    node, k = z.grad_fn, z.output_nr
    if node is None:
        z.register_hook(listener)
        return

    def at_node(gradients: tuple[Tensor | None, ...]) -> None:  # at a quarter of the cost
        gradient = gradients[k]
        if gradient is not None:
            listener(gradient)

    node.register_prehook(at_node)


def _again(func: Callable, args: tuple, kwargs: dict, z: Tensor) -> Tensor:
    return func(z, *args, **kwargs)


class Watch:
    """Listens to the layers of one model during the steps that are sampled.

    Attributes:
        model: that is watched.
        layers: what may turn up as a layer, by the identity of its module.
        order: those that ran, in the order in which they first did; a layer's index is its place.
        ledger: of the sample that is being taken, or of the last.
        full: whether more is asked for than which layers run, and in what order.
        on_forward: called when a forward pass of the model, or of a part of it, begins.
        inside: the activation module that is running, while functions are looked at as well.

    """

    def __init__(self, model: nn.Module, clean: Callable[[str], str]) -> None:
        self.model = model
        self.layers = find_layers(model, clean)
        self.order: list[Seen] = []
        self.ledger = Ledger()
        self.full = True
        self.on_forward: Callable[[], None] = lambda: None
        self.inside: nn.Module | None = None
        self._handles: list[RemovableHandle] = []
        # By the identity of a tensor, which may be gone and its identity another's.
        self._origins: dict[int, tuple[weakref.ref, Seen, bool]] = {}
        self._last: Seen | None = None  # the layer that ran last
        self._bends: dict[object, Bend] = {}  # by whatever tells activations apart
        self._mode: _Functions | None = None
        self._surveyed = False  # whether a sample has shown how the network is built
        self._needs_mode = False  # whether it calls activations as functions
        self._noted = False  # whether `inside` was seen when it called its function
        self._handlers = self._dispatch()

    def _dispatch(self) -> dict[int, Callable[[nn.Module, tuple, Any], None]]:
        handlers: dict[int, Callable] = {}
        for module in self.model.modules():
            if id(module) in self.layers:
                handlers[id(module)] = partial(self._at_layer, self.layers[id(module)])
            elif isinstance(module, units.ELEMENTWISE):
                handlers[id(module)] = self._at_activation
            elif is_norm(module):
                handlers[id(module)] = self._at_norm_module
        return handlers

    # ------------------------------------------------------------ attaching

    def attach(self, *, full: bool) -> None:
        """Begin to listen."""
        self.full = full
        if not self._handles and (full or not self._surveyed):
            self._handles = [
                # torch's annotation says that it returns nothing, but it may return new arguments.
                hooks.register_module_forward_pre_hook(self._before),  # type: ignore[arg-type]
                hooks.register_module_forward_hook(self._after, always_call=True),
            ]

    def detach(self) -> None:
        """Stop listening, whatever was going on."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._leave()
        self._origins.clear()
        self._last = self.inside = None

    def sample(self) -> None:
        """Begin a new sample."""
        self.ledger = Ledger()
        self._origins.clear()
        self._last = None
        for layer in self.order:
            layer.calls_in_sample = layer.calls_in_pass = 0

    def settle(self) -> None:
        """Keep what the sample has shown of the network's build."""
        if self.order and not self._surveyed:
            self._surveyed = True
        for layer in self.order:
            if layer.calls_in_sample:
                layer.calls = max(1, round(layer.calls_in_sample / max(self.ledger.passes, 1)))

    def prepare(self, delta_squares: dict[int, float], silent: dict[int, bool]) -> None:
        """Decide what the next sample looks at more closely, by what the last one has shown.

        Args:
            delta_squares: by layer, the squared norm of δ, with the loss scale in it.
            silent: by layer, whether a unit had no slope other than 0 in what was looked at.

        """
        for index, square in delta_squares.items():
            # float32 loses the squares of entries beyond 1e±19.
            self.order[index].in_float64 = not 1e-30 < square < 1e30
        for index, any_unit in silent.items():
            # What is silent in some of the examples need not be dead.
            self.order[index].in_whole = any_unit

    # ------------------------------------------------------------ what torch calls

    def _before(self, module: nn.Module, args: tuple) -> tuple | None:
        if not torch.is_grad_enabled():
            return None
        if module is self.model:
            self._enter(args)
        if self._mode is not None and isinstance(module, units.ELEMENTWISE):
            self.inside, self._noted = module, False
        if isinstance(module, nn.RNNBase) and id(module) in self.layers and self.full:
            return self._listen_at_input(self.layers[id(module)], args)
        return None

    def _after(self, module: nn.Module, args: tuple, output: object) -> None:
        if module is self.inside:
            self.inside = None
        handler = self._handlers.get(id(module))
        if handler is not None and output is not None and torch.is_grad_enabled():
            handler(module, args, output)
        if module is self.model:
            self._leave()

    def _enter(self, args: tuple) -> None:
        self.on_forward()
        self.ledger.passes += 1
        for layer in self.order:
            layer.activated, layer.calls_in_pass = False, 0
        if self.full:
            inputs = next(_tensors(args), None)
            if inputs is not None:
                self._inputs(_thin(inputs))
        if self._mode is None and self.full and (self._needs_mode or not self._surveyed):
            self._mode = _Functions(self)
            self._mode.__enter__()

    def _leave(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None

    # ------------------------------------------------------------ layers

    def _at_layer(self, layer: Seen, module: nn.Module, args: tuple, output: object) -> None:
        z = output if isinstance(output, Tensor) else next(_tensors(output), None)
        if z is None or not z.is_floating_point():
            return
        if torch._C._current_graph_task_id() != -1 and layer.calls_in_sample:
            return  # computed again during the backward pass, to save memory
        if not layer.ran:
            self._first(layer, z)
        if self.ledger.passes == 0:  # the model's parts are called, not the model
            self.on_forward()
        call = layer.calls_in_pass
        layer.calls_in_sample, layer.calls_in_pass = layer.calls_in_sample + 1, call + 1
        layer.activated = False
        self._origins[id(z)] = (weakref.ref(z), layer, True)
        self._last = layer
        if not self.full:
            return
        many = z is not output and not isinstance(module, nn.MultiheadAttention)
        for tensor in _tensors(output) if many else (z,):
            if tensor.requires_grad:
                _listen(tensor, partial(self._delta, self.ledger, layer, call))
        values = _thin(z)
        layer.kept = Kept(layer.index, values, thinned=values.shape != z.shape)
        self.ledger.keep(layer.unit_dim, layer.kept)
        if isinstance(module, (nn.RNN, nn.RNNCell)):  # it applies its activation itself
            known = activations.get(module.nonlinearity)
            if known.name not in self._bends:
                bend = bend_of(known.name, known.function, z)
                self._bends[known.name] = replace(bend, call=torch.clone)
            layer.activated, layer.activation = True, known.name
            layer.kept.bend = self._bends[known.name]

    def _first(self, layer: Seen, z: Tensor) -> None:
        layer.ran, layer.index = True, len(self.order)
        self.order.append(layer)
        size = getattr(layer.module, "kernel_size", None)
        spatial = len(size) if isinstance(size, tuple) else 0
        conv = isinstance(layer.module, nn.modules.conv._ConvNd)
        layer.unit_dim = -1 - spatial if conv else -1
        layer.units, layer.dims = z.shape[layer.unit_dim], z.dim()
        layer.other_dims = [d for d in range(z.dim()) if d != z.dim() + layer.unit_dim]
        if isinstance(layer.module, nn.RNNCellBase):
            layer.time = 1

    def _delta(self, ledger: Ledger, layer: Seen, call: int, gradient: Tensor) -> None:
        # float64 holds every square of a float32, and takes longer.
        flat = gradient.detach().double() if layer.in_float64 else wide(gradient)
        flat = flat.reshape(-1)
        ledger.deltas.append(Delta(layer.index, call, torch.dot(flat, flat)))

    def _listen_at_input(self, layer: Seen, args: tuple) -> tuple | None:
        """Give a recurrent layer an input whose gradient can be seen; its values are the same."""
        if not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return None
        x = args[0]
        x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        dim = 1 if x.dim() == 3 and layer.module.batch_first else 0
        layer.time = x.shape[dim]
        at = positions(layer.time)
        x.register_hook(partial(self._delta_in_time, self.ledger, layer, dim, at))
        return (x, *args[1:])

    def _delta_in_time(
        self, ledger: Ledger, layer: Seen, dim: int, at: list[int], gradient: Tensor
    ) -> None:
        kept = gradient.detach().movedim(dim, 0)[at].double().flatten(1)
        for k, norm in enumerate(torch.linalg.vector_norm(kept, dim=1)):
            ledger.times.append(DeltaInTime(layer.index, k, norm))

    # ------------------------------------------------------------ activations and norms

    def origin(self, z: Tensor) -> Origin:
        """Return the layer whose output this tensor is, and whether it is so directly."""
        reference, layer, direct = self._origins.get(id(z), (None, None, False))
        return (layer, direct) if reference is not None and reference() is z else (None, False)

    def _owner(self, origin: Origin, a: Tensor) -> Seen | None:
        """Return the layer to which an activation belongs: its input's, or else the latest."""
        owner = origin[0] or self._last
        if owner is None or owner.activated or a.dim() != owner.dims:
            return None
        return owner if a.shape[owner.unit_dim] == owner.units else None

    def at_function(
        self,
        name: str,
        call: Callable[[Tensor], Tensor],
        origin: Origin,
        z: Tensor,
        a: Tensor,
        key: object,
    ) -> None:
        """Note an activation that was called as a function, within a module of torch or not."""
        owner = self._owner(origin, a)
        if owner is None:
            return
        self._noted = self._needs_mode = True
        name = name if self.inside is None else _module_name(self.inside)
        if key not in self._bends:
            self._bends[key] = bend_of(name, call, wide(z))
        self._record(owner, self._bends[key], z, a, direct=origin[1])

    def _at_activation(self, module: nn.Module, args: tuple, a: Tensor) -> None:
        if self._noted:  # as a function, before it went to work in place
            self._noted = False
            return
        z = args[0] if args else a
        origin = self.origin(z)
        owner = self._owner(origin, a)
        if owner is None or not self.full:
            return
        bend = self._bends.get(id(module))
        if bend is None:
            bend = self._bend_of(module, z)
        self._record(owner, bend, z, a, direct=origin[1])

    def _bend_of(self, module: nn.Module, z: Tensor) -> Bend:
        """Describe an activation module; modules built alike bend alike, unless they learn how."""
        learns = next(module.parameters(), None) is not None
        key = id(module) if learns else repr(module)
        if key not in self._bends:
            call = partial(type(module).forward, module)
            self._bends[key] = bend_of(_module_name(module), call, wide(z))
        self._bends[id(module)] = self._bends[key]
        return self._bends[key]

    def _record(
        self,
        owner: Seen,
        bend: Bend,
        z: Tensor,
        a: Tensor,
        *,
        direct: bool,
    ) -> None:
        owner.activated, owner.activation = True, bend.name
        kept = owner.kept
        if kept is None or a.numel() == 0:
            return
        kept.bend = bend
        if not direct:
            kept.before = _thin(z)
            kept.thinned = kept.before.shape != z.shape
        if kept.thinned and bend.name == "relu" and owner.in_whole:
            kept.whole = a.detach().sum(owner.other_dims)

    def _at_norm_module(self, _module: nn.Module, args: tuple, output: Tensor) -> None:
        if args and isinstance(output, Tensor):
            self.at_norm(args[0], output)

    def at_norm(self, x: Tensor, output: Tensor) -> None:
        """Note a normalization; what comes out of it still belongs to the layer below."""
        layer, _ = self.origin(x)
        if layer is not None:
            layer.normalized = True
            self._origins[id(output)] = (weakref.ref(output), layer, False)

    # ------------------------------------------------------------ the model's input

    def _inputs(self, x: Tensor) -> None:
        """Add the moments of each feature."""
        if x.numel() == 0:
            return
        x = x.reshape(-1, 1) if x.dim() < 2 else x
        dim = x.dim() - 1 if x.dim() < 4 else 1
        dims = [d for d in range(x.dim()) if d != dim]
        variances, means = torch.var_mean(x.double(), dims, correction=0)
        n = x.numel() // x.shape[dim]
        self.ledger.inputs.append(Inputs(n, n * means, n * variances))


def _module_name(module: nn.Module) -> str:
    for kind, name in _NAMES.items():
        if isinstance(module, kind):
            return name
    return type(module).__name__.strip("_").lower()


def positions(times: int) -> list[int]:
    """Return up to 16 evenly spaced positions in time, the first and the last among them."""
    count = min(times, POSITIONS)
    if count < 2:
        return [0] * count
    return [round(k * (times - 1) / (count - 1)) for k in range(count)]
