"""The sums that a monitor keeps of one step: a few operations for many layers, read all at once.

:class:`companion.monitor.GradientMonitor` is what to use; this is the part of it that adds up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from companion import activations
from companion.activations import units

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

WAITING = 1 << 20
"""How many of these wait, at most, to be summed up together."""


NARROW = (torch.float16, torch.bfloat16)


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor detached, and in a type in which sums can be trusted."""
    tensor = tensor.detach() if tensor.requires_grad else tensor
    return tensor.float() if tensor.dtype in NARROW else tensor


@dataclass(frozen=True)
class Shape:
    """How an activation bends: what its slope is, and at most can be.

    Attributes:
        name: as :mod:`companion.activations` has it, or of the class.
        largest: the largest |φ′|.
        slope: of a = φ(z) where it is known from that alone, in place of it; None if ``call`` must
            be derived.
        call: φ; it may work in place.
        signed: whether the slope can be negative.

    """

    name: str
    largest: float
    slope: Callable[[Tensor], Tensor] | None
    call: Callable[[Tensor], Tensor]
    signed: bool


# In place: a fresh block costs more than what is computed in it.
def _tanh_slope(a: Tensor) -> Tensor:
    return torch.addcmul(a.new_ones(()), a, a, value=-1, out=a)


def _sigmoid_slope(a: Tensor) -> Tensor:
    return torch.addcmul(a, a, a, value=-1, out=a)


CHEAP = {
    "relu": (torch.relu_, Tensor.sign_),
    "tanh": (torch.tanh_, _tanh_slope),
    "sigmoid": (torch.sigmoid_, _sigmoid_slope),
}
"""Activations, and their slopes as functions of what they return; both in place."""


def _derivative(call: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        a = call(z.clone())  # it may work in place
        return torch.autograd.grad(a, z, torch.ones_like(a))[0]


def shape_of(name: str, call: Callable[[Tensor], Tensor], like: Tensor) -> Shape:
    """Describe an activation by what it does on a grid."""
    if name in CHEAP:
        known = activations.get(name)
        return Shape(name, known.largest_slope or 1.0, CHEAP[name][1], CHEAP[name][0], signed=False)
    try:
        slope = _derivative(call, units.GRID.to(like.device, like.dtype))
    except RuntimeError:  # a slope for each channel
        return Shape(name, 1.0, None, call, signed=True)
    return Shape(name, slope.abs().max().item(), None, call, signed=bool((slope < 0).any()))


@dataclass(eq=False, slots=True)
class Kept:
    """Examples of what a layer returned, until they are summed up.

    Attributes:
        layer: the layer's index.
        values: the examples.
        shape: the activation that is applied, None if there is none.
        before: what goes into the activation, where that is not what the layer returned.
        whole: sums after the activation over the whole batch by unit, where only some of its
            examples were kept.
        thinned: whether only some of the examples were kept.

    """

    layer: int
    values: Tensor
    shape: Shape | None = None
    before: Tensor | None = None
    whole: Tensor | None = None
    thinned: bool = False


class Sums(NamedTuple):
    """What a block of tensors of one shape gave, one entry (or row) for each.

    Attributes:
        layers: the layers' indices.
        shape: the activation, None for a layer's output.
        entries: how many each of them has.
        exact: of each, whether dead units were looked for in the whole batch.
        values: their sum, sum of squares, and that of squared slopes, (2 or 3, tensors).
        slopes: sum of the slopes by unit, (tensors, units); None for a layer's output.
        sizes: what is zero for the units that are dead.

    """

    layers: list[int]
    shape: Shape | None
    entries: int
    exact: list[bool]
    values: Tensor
    slopes: Tensor | None
    sizes: Tensor | None


class Ledger:
    """What one sample shows, kept on its device until all is read at once.

    Attributes:
        passes: forward passes of the model.
        sums: of the layers' outputs and activations.
        deltas: layer, call, and the squared norm of δ there.
        times: layer, position in time, and the norm of δ there.
        inputs: of the features of the model's inputs: how many examples, sums, sums of squares
            about their mean.

    """

    def __init__(self) -> None:
        self.passes = 0
        self.sums: list[Sums] = []
        self.deltas: list[tuple[int, int, Tensor]] = []
        self.times: list[tuple[int, int, Tensor]] = []
        self.inputs: list[tuple[int, Tensor, Tensor]] = []
        self._kept: list[tuple[int, Kept]] = []
        self._entries = 0

    def keep(self, unit_dim: int, kept: Kept) -> None:
        """Take examples into account; tensors of one shape wait for each other."""
        if self._entries > WAITING:
            self.flush()
        self._kept.append((unit_dim, kept))
        self._entries += kept.values.numel()

    def flush(self) -> None:
        """Sum up what waits: a few operations for all tensors of one shape."""
        blocks: dict[tuple, list[Kept]] = {}
        for unit_dim, kept in self._kept:
            values = kept.values
            key: tuple = (unit_dim, kept.shape, values.shape, values.dtype, values.device)
            if kept.before is not None:
                key += (kept.before.shape, kept.before.dtype)
            blocks.setdefault(key, []).append(kept)
        for (unit_dim, shape, *_), block in blocks.items():
            layers = [kept.layer for kept in block]
            values = _stack([kept.values for kept in block])
            self.sums.append(_sum_outputs(layers, values))
            if shape is not None:
                before = [kept.before for kept in block if kept.before is not None]
                if before:  # then of all of them
                    values = _stack(before)
                self.sums.append(_sum_activations(layers, values, shape, unit_dim, block))
        self._kept, self._entries = [], 0


def _moments(flat: Tensor) -> list[Tensor]:
    return [flat.sum(1), torch.linalg.vector_norm(flat, dim=1).square()]


def _sum_outputs(layers: list[int], values: Tensor) -> Sums:
    flat = values.flatten(1)
    return Sums(layers, None, flat.shape[1], [], torch.stack(_moments(flat)), None, None)


def _sum_activations(
    layers: list[int], z: Tensor, shape: Shape, unit_dim: int, block: list[Kept]
) -> Sums:
    # It may work in place, and there is no second use for z then.
    a = shape.call(z) if shape.slope is not None else shape.call(z.clone())
    flat = a.flatten(1)
    values = _moments(flat)
    slope = _derivative(shape.call, z) if shape.slope is None else shape.slope(a)
    slopes = _sum_positions(slope, unit_dim)
    sizes = _sum_positions(slope.abs(), unit_dim) if shape.signed else slopes
    whole = {i: kept.whole for i, kept in enumerate(block) if kept.whole is not None}
    if whole:
        at = torch.tensor(list(whole), device=sizes.device)
        sizes = sizes.index_copy(0, at, torch.stack(list(whole.values())).to(sizes))
    # Of zeros and ones the squares are known.
    values.append(slopes.sum(1) if shape.name == "relu" else slope.flatten(1).square().sum(1))
    exact = [kept.whole is not None or not kept.thinned for kept in block]
    return Sums(layers, shape, flat.shape[1], exact, torch.stack(values), slopes, sizes)


def _sum_positions(block: Tensor, unit_dim: int) -> Tensor:
    """Sum over all dimensions but the first and the units'."""
    kept = block.dim() + unit_dim
    others = [d for d in range(1, block.dim()) if d != kept]
    return block.sum(others) if others else block


def _stack(tensors: list[Tensor]) -> Tensor:
    return wide(torch.stack(tensors))


def read(values: list[Tensor]) -> list[float]:
    """Return 0-d tensors as numbers, in one transfer where they are on one device."""
    if not values:
        return []
    try:
        return torch.stack(values).tolist()
    except RuntimeError:  # they are on several devices
        return torch.stack([value.to("cpu", torch.float64) for value in values]).tolist()


def read_all(vectors: list[Tensor]) -> list[float]:
    """Return the entries of vectors as numbers, one after another."""
    if not vectors:
        return []
    try:
        return torch.cat(vectors).tolist()
    except RuntimeError:  # they are on several devices
        return torch.cat([vector.to("cpu", torch.float64) for vector in vectors]).tolist()


def reduce(ledger: Ledger, group: "ProcessGroup") -> None:
    """Add up a sample over the processes of a group, as if one of them had seen the whole batch.

    The loss of the whole batch is the mean of theirs, so each one's δ is too large by their number.
    """
    ledger.flush()
    world = torch.distributed.get_world_size(group)
    parts: list[Tensor] = []
    for block in ledger.sums:
        parts += [block.values, torch.tensor(block.entries)]
        parts += [part for part in (block.slopes, block.sizes) if part is not None]
    parts += [square / world**2 for _, _, square in ledger.deltas]
    parts += [norm.double().square() / world**2 for _, _, norm in ledger.times]
    for n, sums, squares in ledger.inputs:
        parts += [torch.tensor(n), sums, squares + sums.square() / n]
    if not parts:
        return
    device = ledger.deltas[0][2].device if ledger.deltas else parts[0].device
    flat = torch.cat([part.to(device, torch.float64).reshape(-1) for part in parts])
    torch.distributed.all_reduce(flat, group=group)
    reduced = [
        r.view(p.shape) for p, r in zip(parts, flat.split([p.numel() for p in parts]), strict=True)
    ]
    found = iter(reduced)
    for i, block in enumerate(ledger.sums):
        values, entries = next(found), int(next(found))
        slopes, sizes = (None, None) if block.slopes is None else (next(found), next(found))
        ledger.sums[i] = block._replace(values=values, entries=entries, slopes=slopes, sizes=sizes)
    ledger.deltas = [(layer, call, next(found)) for layer, call, _ in ledger.deltas]
    ledger.times = [(layer, k, next(found).sqrt()) for layer, k, _ in ledger.times]
    for i in range(len(ledger.inputs)):
        n, sums, squares = int(next(found)), next(found), next(found)
        ledger.inputs[i] = n, sums, squares - sums.square() / n
