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
class Bend:
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


def bend_of(name: str, call: Callable[[Tensor], Tensor], like: Tensor) -> Bend:
    """Describe an activation by what it does on a grid."""
    if name in CHEAP:
        known = activations.get(name)
        return Bend(name, known.largest_slope or 1.0, CHEAP[name][1], CHEAP[name][0], signed=False)
    try:
        slope = _derivative(call, units.GRID.to(like.device, like.dtype))
    except RuntimeError:  # a slope for each channel
        return Bend(name, 1.0, None, call, signed=True)
    return Bend(name, slope.abs().max().item(), None, call, signed=bool((slope < 0).any()))


@dataclass(eq=False, slots=True)
class Kept:
    """Examples of what a layer returned, until they are summed up.

    Attributes:
        index: the layer's, see :class:`companion.monitor._watch.Seen`.
        values: the examples, of the shape of the output but for their number.
        bend: the activation that is applied, None if there is none.
        before: what goes into the activation, where that is not what the layer returned.
        whole: (units,) sums after the activation over the whole batch, where only some of its
            examples were kept and a unit may be dead.
        thinned: whether only some of the examples were kept.

    """

    index: int
    values: Tensor
    bend: Bend | None = None
    before: Tensor | None = None
    whole: Tensor | None = None
    thinned: bool = False


class Sums(NamedTuple):
    """What a block of tensors of one shape gave, one entry (or row) for each.

    Attributes:
        indices: of the layers.
        bend: the activation, None for a layer's output.
        entries: how many each of them has.
        exact: of each, whether dead units were looked for in the whole batch; empty for outputs.
        values: (2 or 3, tensors) their sum, sum of squares, and that of squared slopes.
        slopes: (tensors, units) sum of the slopes; None for a layer's output.
        sizes: (tensors, units) zero for the units that are dead; None for a layer's output.

    """

    indices: list[int]
    bend: Bend | None
    entries: int
    exact: list[bool]
    values: Tensor
    slopes: Tensor | None
    sizes: Tensor | None


@dataclass(eq=False, slots=True)
class Delta:
    """The gradient at what a layer returned.

    Attributes:
        index: of the layer.
        call: how often it had run before in the same forward pass.
        square: () squared norm of δ, with the loss scale in it.

    """

    index: int
    call: int
    square: Tensor


@dataclass(eq=False, slots=True)
class DeltaInTime:
    """The gradient at one position of a recurrent layer's input.

    Attributes:
        index: of the layer.
        position: which of the positions that are kept, from 0.
        norm: () of δ there, with the loss scale in it.

    """

    index: int
    position: int
    norm: Tensor


class Inputs(NamedTuple):
    """What goes into the model in one forward pass, by feature.

    Attributes:
        n: how many entries each feature has.
        sums: (features,) of the entries.
        squares: (features,) sums of their squares about their mean.

    """

    n: int
    sums: Tensor
    squares: Tensor


class Ledger:
    """What one sample shows, kept on its device until all is read at once.

    Attributes:
        passes: forward passes of the model.
        sums: of the layers' outputs and activations, once :meth:`flush` was called.
        deltas: in the order in which the backward passes reach them.
        times: the same through time, of recurrent layers.
        inputs: one for each forward pass.

    """

    def __init__(self) -> None:
        self.passes = 0
        self.sums: list[Sums] = []
        self.deltas: list[Delta] = []
        self.times: list[DeltaInTime] = []
        self.inputs: list[Inputs] = []
        self._kept: list[tuple[int, Kept]] = []  # with the dimension of the units
        self._entries = 0  # in all of them

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
            key: tuple = (unit_dim, kept.bend, values.shape, values.dtype, values.device)
            if kept.before is not None:
                key += (kept.before.shape, kept.before.dtype)
            blocks.setdefault(key, []).append(kept)
        for (unit_dim, bend, *_), block in blocks.items():
            indices = [kept.index for kept in block]
            values = _stack([kept.values for kept in block])
            self.sums.append(_sum_outputs(indices, values))
            if bend is not None:
                before = [kept.before for kept in block if kept.before is not None]
                if before:  # then of all of them
                    values = _stack(before)
                self.sums.append(_sum_activations(indices, values, bend, unit_dim, block))
        self._kept, self._entries = [], 0


def _moments(flat: Tensor) -> list[Tensor]:
    return [flat.sum(1), torch.linalg.vector_norm(flat, dim=1).square()]


def _sum_outputs(indices: list[int], values: Tensor) -> Sums:
    flat = values.flatten(1)
    return Sums(indices, None, flat.shape[1], [], torch.stack(_moments(flat)), None, None)


def _sum_activations(
    indices: list[int], z: Tensor, bend: Bend, unit_dim: int, block: list[Kept]
) -> Sums:
    # φ may work in place, and only a derivative asks for z again.
    a = bend.call(z) if bend.slope is not None else bend.call(z.clone())
    flat = a.flatten(1)
    values = _moments(flat)
    slope = _derivative(bend.call, z) if bend.slope is None else bend.slope(a)
    slopes = _sum_positions(slope, unit_dim)
    sizes = _sum_positions(slope.abs(), unit_dim) if bend.signed else slopes
    whole = {i: kept.whole for i, kept in enumerate(block) if kept.whole is not None}
    if whole:
        at = torch.tensor(list(whole), device=sizes.device)
        sizes = sizes.index_copy(0, at, torch.stack(list(whole.values())).to(sizes))
    # A ReLU's slopes are zeros and ones, which are their own squares.
    values.append(slopes.sum(1) if bend.name == "relu" else slope.flatten(1).square().sum(1))
    exact = [kept.whole is not None or not kept.thinned for kept in block]
    return Sums(indices, bend, flat.shape[1], exact, torch.stack(values), slopes, sizes)


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
    parts += [delta.square / world**2 for delta in ledger.deltas]
    parts += [delta.norm.double().square() / world**2 for delta in ledger.times]
    for n, sums, squares in ledger.inputs:
        parts += [torch.tensor(n), sums, squares + sums.square() / n]
    if not parts:
        return
    device = ledger.deltas[0].square.device if ledger.deltas else parts[0].device
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
    for delta in ledger.deltas:
        delta.square = next(found)
    for at_input in ledger.times:
        at_input.norm = next(found).sqrt()
    for i in range(len(ledger.inputs)):
        n, sums, squares = int(next(found)), next(found), next(found)
        ledger.inputs[i] = Inputs(n, sums, squares - sums.square() / n)
