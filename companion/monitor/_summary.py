"""What one step has shown, from the sums that were kept of it, and norms of many tensors.

:class:`companion.monitor.GradientMonitor` is what to use; this is the part of it that concludes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import cast

import torch
from torch import Tensor, nn

from companion.monitor._ledger import Ledger, Sums, read, read_all, wide
from companion.monitor._watch import UNROLLED, Seen, positions
from companion.monitor.log import Of, columns

FLUSHED = 2.0**-25
"""What is at most this large becomes zero in float16 (arXiv 1710.03740)."""


ENTRIES_COUNTED = 256
"""Of how many entries of each gradient the underflow is counted; of all where there are fewer."""


TENSORS = 16
"""Of how many gradients of one shape the underflow is counted; evenly spaced if there are more."""


class Blocks:
    """Copies of many tensors, those of one shape in one block: few operations do for all."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        groups: dict[tuple, list[int]] = {}
        for i, tensor in enumerate(tensors):
            groups.setdefault((tensor.shape, tensor.dtype, tensor.device), []).append(i)
        self._groups = list(groups.values())
        self._order = [i for group in self._groups for i in group]
        self._blocks = [tensors[g[0]].new_empty(len(g), *tensors[g[0]].shape) for g in self._groups]
        self._copies = [copy for block in self._blocks for copy in block]

    def copy(self, tensors: Sequence[Tensor]) -> None:
        """Take the tensors' values."""
        for group, block in zip(self._groups, self._blocks, strict=True):
            torch.stack([tensors[i] for i in group], out=block)

    def subtract(self, tensors: Sequence[Tensor]) -> None:
        """Subtract the tensors from their copies."""
        torch._foreach_sub_(self._copies, [tensors[i] for i in self._order])

    def norms(self) -> list[Tensor]:
        """Return the norms, for each block."""
        return [
            torch.linalg.vector_norm(wide(block).reshape(len(block), -1), dim=1)
            for block in self._blocks
        ]

    def read(self, *norms: list[Tensor]) -> list[list[float]]:
        """Read norms of several times, each in the order of the tensors."""
        numbers = iter(read_all([part for of_blocks in norms for part in of_blocks]))
        found = [[0.0] * len(self._order) for _ in norms]
        for of_tensors in found:
            for i in self._order:
                of_tensors[i] = next(numbers)
        return found


@lru_cache(maxsize=1000)
def _index(*layers: int) -> Tensor:
    return torch.tensor(layers, dtype=torch.int64)


def dense(gradient: Tensor) -> Tensor:
    """Return the entries of a gradient that are stored."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


@cache
def _stride(size: int, last: int) -> int:
    stride = max(1, size // ENTRIES_COUNTED)
    while stride > 1 and math.gcd(stride, last) > 1:
        stride += 1
    return stride


def underflow(groups: list[list[Tensor]]) -> float:
    """Return which share of the nonzero entries float16 would flush to zero, by a sample of each.

    Small tensors are looked at whole. Of large ones the step between the entries has no factor in
    common with the rows' length, or the same columns would be looked at again and again.

    Args:
        groups: of gradients; those of a group have one shape.

    """
    counts = []
    for group in groups:
        size, every = group[0].numel(), -(-len(group) // TENSORS)
        if not size:
            continue
        stride = _stride(size, group[0].shape[-1] if group[0].dim() else 1)
        entries = (-(-size // stride),), (stride,)
        # One view of each, and not two: there are many tensors.
        values = wide(
            torch.cat([g.contiguous().as_strided(*entries) for g in group[::every]])
        ).abs_()
        nonzero = values.sign()
        kept = values.sub_(FLUSHED).sign_().clamp_(min=0)
        share = stride * len(group) / len(group[::every])
        counts += [kept.sum() * share, nonzero.sum() * share]
    numbers = read(counts)
    left, all_ = sum(numbers[::2]), sum(numbers[1::2])
    return 1 - left / all_ if all_ else math.nan


SATURATED = 0.05
"""A unit is saturated if its mean slope is below this share of the activation's largest."""


@dataclass
class Sample:
    """What a sample has shown.

    Attributes:
        values: by column of the log that has one number a step.
        layers: by column of the log that has one a layer, and by the layer's index.
        time: log₁₀ of the norm of δ, by the layer's index and position in time.
        delta_squares: squared norm of δ by the layer's index, with the loss scale in it.
        silent: by the layer's index, whether a unit had no slope other than 0 in what was kept.

    """

    values: dict[str, float] = field(default_factory=dict)
    layers: dict[str, dict[int, float]] = field(default_factory=dict)
    time: dict[tuple[int, int], float] = field(default_factory=dict)
    delta_squares: dict[int, float] = field(default_factory=dict)
    silent: dict[int, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what a log has no column for."""
        for column in self.values:
            known(column, "step")

    def put(self, column: str, index: int, number: float) -> None:
        """Add a number of a layer."""
        self.layers.setdefault(known(column, "layer"), {})[index] = number


def known(column: str, of: Of) -> str:
    """Return the name of a column of the log, or raise if there is none of that name."""
    if column not in columns(of):
        raise KeyError(f"a log has no {column!r} of a {of}; it has {columns(of)}")
    return column


def summarize(ledger: Ledger, order: Sequence[Seen], scale: float) -> Sample:
    """Read a sample, and turn its sums into what the log holds, without the loss scale.

    Args:
        ledger: of the sample; what still waits in it is summed up.
        order: the layers, by index.
        scale: the loss scale.

    """
    ledger.flush()
    found = Sample(values=_inputs(ledger))
    _moments(ledger, found)
    squares = read([delta.square for delta in ledger.deltas])
    _deltas(ledger, squares, scale, found)
    _through_time(ledger, squares, order, scale, found)
    _units(ledger, found)
    return found


def _moments(ledger: Ledger, found: Sample) -> None:
    """Add mean and variance of outputs and activations, and the mean square of the slopes."""
    totals: dict[tuple[str, int], list[float]] = {}
    for block in ledger.sums:
        kind = "output" if block.bend is None else "activation"
        for index, *row in zip(block.indices, *block.values.tolist(), strict=True):
            before = totals.get((kind, index), (0.0,) * (1 + len(row)))
            totals[kind, index] = [
                p + q for p, q in zip(before, (block.entries, *row), strict=True)
            ]
    for (kind, index), (count, total, squares, *slopes) in totals.items():
        if count:
            mean = total / count
            variance = squares / count - mean * mean
            found.put(f"{kind}_mean", index, mean)
            found.put(f"{kind}_variance", index, _positive(variance))
            if slopes:
                found.put("slope_square", index, slopes[0] / count)


def _deltas(ledger: Ledger, squares: list[float], scale: float, found: Sample) -> None:
    """Add the norm of δ over all calls and passes."""
    totals = found.delta_squares
    for delta, square in zip(ledger.deltas, squares, strict=True):
        totals[delta.index] = totals.get(delta.index, 0.0) + square
    for index, total in totals.items():
        found.put("delta_norms", index, math.sqrt(total) / scale)


def _through_time(
    ledger: Ledger, squares: list[float], order: Sequence[Seen], scale: float, found: Sample
) -> None:
    """Add the norm of δ at positions in time: of a layer's input, or of calls if it is unrolled."""
    in_time: dict[tuple[int, int], float] = {}
    norms = read([delta.norm for delta in ledger.times])
    for delta, norm in zip(ledger.times, norms, strict=True):
        at = delta.index, delta.position
        in_time[at] = in_time.get(at, 0.0) + norm * norm
    of_call: dict[tuple[int, int], float] = {}
    for each, square in zip(ledger.deltas, squares, strict=True):
        at = each.index, each.call
        of_call[at] = of_call.get(at, 0.0) + square
    for index, layer in enumerate(order):
        # A torch module runs over time by itself, and listens at its input.
        if times(layer) and not isinstance(layer.module, nn.RNNBase):
            for k, call in enumerate(positions(layer.calls)):
                if (index, call) in of_call:
                    in_time[index, k] = of_call[index, call]
    found.time = {at: _log10(square) / 2 - math.log10(scale) for at, square in in_time.items()}


def _inputs(ledger: Ledger) -> dict[str, float]:
    """Put the features' moments of all passes together."""
    if not ledger.inputs:
        return {}
    size = len(ledger.inputs[0].sums)
    alike = [each for each in ledger.inputs if len(each.sums) == size]
    n = sum(each.n for each in alike)
    _, sums, squares = alike[0]
    if len(alike) > 1:
        sums = cast("Tensor", sum(each.sums for each in alike))
        about = (s + m * (t / m - sums / n).square() for m, t, s in alike)
        squares = cast("Tensor", sum(about))
    means, variances = sums / n, (squares / n).clamp(min=0)
    return {
        "input_mean": means.mean().item(),
        "input_variance": (variances.mean() + means.var(correction=0)).item(),
        "input_spread": _spread(variances),
    }


def _spread(variances: Tensor) -> float:
    """Return the largest over the smallest nonzero standard deviation."""
    nonzero = variances[variances > 0]
    if not len(nonzero):
        return math.nan
    least, most = nonzero.aminmax()
    return math.sqrt(most / least)


def _positive(variance: float) -> float:
    return variance if math.isnan(variance) else max(variance, 0.0)


def _log10(number: float) -> float:
    if math.isnan(number):
        return math.nan
    return math.log10(number) if number > 0 else -math.inf


def _units(ledger: Ledger, found: Sample) -> None:
    """Add the mean slope, and the shares of units that are saturated or dead."""
    groups: dict[tuple, list[Sums]] = {}
    for block in ledger.sums:
        if block.slopes is not None and block.entries:
            groups.setdefault((block.bend, block.slopes.shape[1]), []).append(block)
    for (bend, _), blocks in groups.items():
        indices, counts, slopes, sizes, exact = _by_layer(blocks)
        mean = slopes / counts.unsqueeze(1)
        saturated = (mean.abs() < SATURATED * bend.largest).double().mean(1)
        silent, dead = (torch.stack([slopes, sizes]) == 0).double().mean(2)
        # What is silent in some of the examples need not be dead.
        dead.masked_fill_((silent > 0) & ~exact, math.nan)
        found.silent.update(zip(indices, (silent > 0).tolist(), strict=True))
        of_layers = torch.stack([mean.mean(1), saturated, dead])
        of_layers.masked_fill_(mean.isnan().any(1), math.nan)
        for name, row in zip(("slope_mean", "saturated", "dead"), of_layers.tolist(), strict=True):
            for index, number in zip(indices, row, strict=True):
                found.put(name, index, number)


def _by_layer(blocks: list[Sums]) -> tuple[list[int], Tensor, Tensor, Tensor, Tensor]:
    """Put together what each layer gave at all its calls, before its units are judged.

    Returns:
        The layers' indices; (layers,) how many entries each unit has; (layers, units) the sums of
        their slopes, and what is zero for the dead; (layers,) whether that is of all entries.

    """
    rows = [index for block in blocks for index in block.indices]
    indices = list(dict.fromkeys(rows))
    place = {index: k for k, index in enumerate(indices)}
    owner = _index(*(place[row] for row in rows))
    slopes, sizes = (
        torch.cat([part.to("cpu", torch.float64) for part in parts])
        for parts in zip(*((block.slopes, block.sizes) for block in blocks), strict=True)
    )
    units = slopes.shape[1]
    of_rows = [block.entries / units for block in blocks for _ in block.indices]
    counts = torch.zeros(len(indices), dtype=torch.float64).index_add_(
        0, owner, torch.tensor(of_rows, dtype=torch.float64)
    )
    if len(indices) < len(rows):
        nothing = torch.zeros(len(indices), units, dtype=torch.float64)
        slopes = nothing.index_add(0, owner, slopes)
        sizes = nothing.index_add(0, owner, sizes)
    exact = torch.ones(len(indices), dtype=torch.bool)
    exact[owner[torch.tensor([not exact for b in blocks for exact in b.exact])]] = False
    return indices, counts, slopes, sizes, exact


def times(layer: Seen) -> int:
    """Return how many positions in time a layer has, 0 if it has none."""
    if isinstance(layer.module, nn.RNNBase):
        return layer.time
    return layer.calls if layer.time or layer.calls >= UNROLLED else 0
