"""What one step has shown, from the sums that were kept of it, and norms of many tensors.

:class:`companion.monitor.GradientMonitor` is what to use; this is the part of it that concludes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import cast

import torch
from torch import Tensor, nn

from companion.monitor._ledger import Ledger, Sums, read, read_all, wide
from companion.monitor._watch import UNROLLED, Seen, Watch, positions, spread
from companion.monitor.log import Of, columns

FLUSHED = 2.0**-25
"""What is at most this large becomes zero in float16 (arXiv 1710.03740)."""


ENTRIES = 256
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
    stride = max(1, size // ENTRIES)
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
class Summary:
    """What a sample has shown: of the layers by field, of the step, and through time."""

    layers: dict[str, dict[int, float]]
    values: dict[str, float]
    time: dict[tuple[int, int], float]

    def __post_init__(self) -> None:
        """Refuse what a log has no column for."""
        for field in self.values:
            known(field, "step")

    def put(self, field: str, layer: int, number: float) -> None:
        """Add a number of a layer."""
        self.layers.setdefault(known(field, "layer"), {})[layer] = number


def known(field: str, of: Of) -> str:
    """Return the name of a column of the log, or raise if there is none of that name."""
    if field not in columns(of):
        raise KeyError(f"a log has no {field!r} of a {of}; it has {columns(of)}")
    return field


def summarize(watch: Watch, scale: float) -> Summary:
    """Read a sample, and turn its sums into what the log holds, without the loss scale."""
    ledger = watch.ledger
    ledger.flush()
    found = Summary({}, _inputs(ledger), {})
    totals: dict[tuple[str, int], list[float]] = {}
    for block in ledger.sums:
        kind = "output" if block.shape is None else "activation"
        for layer, *row in zip(block.layers, *block.values.tolist(), strict=True):
            before = totals.get((kind, layer), (0.0,) * (1 + len(row)))
            totals[kind, layer] = [
                p + q for p, q in zip(before, (block.entries, *row), strict=True)
            ]
    for (kind, layer), (count, total, squares, *slopes) in totals.items():
        if count:
            mean = total / count
            variance = squares / count - mean * mean
            found.put(f"{kind}_mean", layer, mean)
            found.put(f"{kind}_variance", layer, _positive(variance))
            if slopes:
                found.put("slope_square", layer, slopes[0] / count)
    _deltas(watch, scale, found)
    _units(watch, found)
    return found


def _deltas(watch: Watch, scale: float, found: Summary) -> None:
    squares = read([square for _, _, square in watch.ledger.deltas])
    totals: dict[int, float] = {}
    for (layer, _, _), square in zip(watch.ledger.deltas, squares, strict=True):
        totals[layer] = totals.get(layer, 0.0) + square
    for layer, total in totals.items():
        found.put("delta_norms", layer, math.sqrt(total) / scale)
        watch.order[layer].wild = not 1e-30 < total < 1e30
    in_time: dict[tuple[int, int], float] = {}
    in_inputs = read([norm for _, _, norm in watch.ledger.times])
    for (layer, k, _), norm in zip(watch.ledger.times, in_inputs, strict=True):
        in_time[layer, k] = in_time.get((layer, k), 0.0) + norm * norm
    for seen in watch.order:
        if (
            (seen.time or seen.calls > 1)
            and times(seen)
            and not isinstance(seen.module, nn.RNNBase)
        ):
            of_call: dict[int, float | None] = dict.fromkeys(range(seen.calls))
            for (i, call, _), square in zip(watch.ledger.deltas, squares, strict=True):
                if i == seen.index and call in of_call:
                    of_call[call] = (of_call[call] or 0.0) + square
            for k, call in enumerate(positions(seen.calls)):
                whole = of_call.get(call)
                if whole is not None:
                    in_time[seen.index, k] = whole
    found.time = {key: _log10(square) / 2 - math.log10(scale) for key, square in in_time.items()}


def _inputs(ledger: Ledger) -> dict[str, float]:
    """Put the features' moments of all passes together."""
    if not ledger.inputs:
        return {}
    size = len(ledger.inputs[0][1])
    alike = [entry for entry in ledger.inputs if len(entry[1]) == size]
    n = sum(entry[0] for entry in alike)
    sums, squares = alike[0][1:]
    if len(alike) > 1:
        sums = cast("Tensor", sum(entry[1] for entry in alike))
        about = (s + m * (t / m - sums / n).square() for m, t, s in alike)
        squares = cast("Tensor", sum(about))
    means, variances = sums / n, (squares / n).clamp(min=0)
    return {
        "input_mean": means.mean().item(),
        "input_variance": (variances.mean() + means.var(correction=0)).item(),
        "input_spread": spread(variances),
    }


def _positive(variance: float) -> float:
    return variance if math.isnan(variance) else max(variance, 0.0)


def _log10(number: float) -> float:
    if math.isnan(number):
        return math.nan
    return math.log10(number) if number > 0 else -math.inf


def _units(watch: Watch, found: Summary) -> None:
    """Add the mean slope, and the shares of units that are saturated or dead."""
    groups: dict[tuple, list[Sums]] = {}
    for block in watch.ledger.sums:
        if block.slopes is not None and block.entries:
            groups.setdefault((block.shape, block.slopes.shape[1]), []).append(block)
    for (shape, units), blocks in groups.items():
        rows = [layer for block in blocks for layer in block.layers]
        layers = list(dict.fromkeys(rows))
        place = {layer: k for k, layer in enumerate(layers)}
        owner = _index(*(place[row] for row in rows))
        counts = [block.entries / units for block in blocks for _ in block.layers]
        slopes, sizes = (
            torch.cat([part.to("cpu", torch.float64) for part in parts])
            for parts in zip(*((block.slopes, block.sizes) for block in blocks), strict=True)
        )
        if len(layers) < len(rows):  # what ran several times is put together before it is judged
            nothing = torch.zeros(len(layers), units, dtype=torch.float64)
            slopes = nothing.index_add(0, owner, slopes)
            sizes = nothing.index_add(0, owner, sizes)
        positions_ = torch.zeros(len(layers), dtype=torch.float64).index_add_(
            0, owner, torch.tensor(counts, dtype=torch.float64)
        )
        mean = slopes / positions_.unsqueeze(1)
        saturated = (mean.abs() < SATURATED * shape.largest).double().mean(1)
        silent, dead = (torch.stack([slopes, sizes]) == 0).double().mean(2)
        # What is silent in some of the examples need not be dead; it will be looked at in all.
        silent = silent > 0
        exact = torch.ones(len(layers), dtype=torch.bool)
        exact[owner[torch.tensor([not exact for b in blocks for exact in b.exact])]] = False
        dead.masked_fill_(silent & ~exact, math.nan)
        for layer, rare in zip(layers, silent.tolist(), strict=True):
            watch.order[layer].rare = rare
        of_layers = torch.stack([mean.mean(1), saturated, dead])
        of_layers.masked_fill_(mean.isnan().any(1), math.nan)
        for name, row in zip(("slope_mean", "saturated", "dead"), of_layers.tolist(), strict=True):
            for layer, number in zip(layers, row, strict=True):
                found.put(name, layer, number)


def times(layer: Seen) -> int:
    """Return how many positions in time a layer has, 0 if it has none."""
    if isinstance(layer.module, nn.RNNBase):
        return layer.time
    return layer.calls if layer.time or layer.calls >= UNROLLED else 0
