"""What one step has shown, from the sums that were kept of it, and norms of many tensors.

:class:`companion.monitor.GradientMonitor` is what to use; this is the part of it that concludes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from companion.ledger import Ledger, Sums, alike, read, read_all, wide
from companion.watching import UNROLLED, Seen, Watch, positions, spread

FLUSHED = 2.0**-25
"""What is at most this large becomes zero in float16 (arXiv 1710.03740)."""


ENTRIES = 512
"""Of how many entries of each gradient the underflow is counted; of all where there are fewer."""


SMALL = 2048
"""Tensors of fewer entries are put together by shape before their norms are taken."""


class Norms:
    """The norms of many tensors, in a few operations, and not read before they are asked for."""

    def __init__(self, tensors: list[Tensor]) -> None:
        groups: dict[object, list[int]] = {}
        for i, tensor in enumerate(tensors):
            small = tensor.numel() < SMALL
            key = (tensor.shape, tensor.dtype, tensor.device) if small else "large"
            groups.setdefault(key, []).append(i)
        self._order = [i for group in groups.values() for i in group]
        self._parts: list[Tensor] = []
        for key, group in groups.items():
            members = [tensors[i] for i in group]
            if key == "large" or not members[0].numel():
                members = [wide(tensor) for tensor in members]
                norms = torch._foreach_norm(members)
                self._parts += [torch.stack(norms)] if alike(norms) else norms
            else:
                rows = wide(
                    torch.stack(members).flatten(1)
                    if members[0].dim()
                    else torch.stack(members).unsqueeze(1)
                )
                self._parts.append(torch.linalg.vector_norm(rows, dim=1))

    def numbers(self) -> list[float]:
        """Return the norms, in the order of the tensors."""
        if not self._order:
            return []
        norms = [0.0] * len(self._order)
        for i, number in zip(self._order, read_all(self._parts), strict=True):
            norms[i] = number
        return norms


def dense(gradient: Tensor) -> Tensor:
    """Return the entries of a gradient that are stored."""
    gradient = gradient.detach()
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def underflow(gradients: list[Tensor]) -> float:
    """Return which share of the nonzero entries float16 would flush to zero, by a sample of each.

    Small tensors are looked at whole. Of large ones the step between the entries has no factor in
    common with the rows' length, or the same columns would be looked at again and again.
    """
    sampled: dict[tuple, list[Tensor]] = {}
    for gradient in gradients:
        size, stride = gradient.numel(), max(1, gradient.numel() // ENTRIES)
        while stride > 1 and math.gcd(stride, gradient.shape[-1]) > 1:
            stride += 1
        # One view instead of two: there are many tensors.
        flat = gradient.contiguous().as_strided((-(-size // stride),), (stride,))
        key = (size, stride, gradient.dtype, gradient.device)
        sampled.setdefault(key, []).append(flat)
    counts = []
    for (size, stride, *_), members in sampled.items():
        if size:
            values = wide(torch.cat(members)).abs_()
            nonzero = values.sign()
            kept = values.sub_(FLUSHED).sign_().clamp_(min=0)
            counts += [kept.sum() * stride, nonzero.sum() * stride]
    numbers = read(counts)
    kept, nonzero = sum(numbers[::2]), sum(numbers[1::2])
    return 1 - kept / nonzero if nonzero else math.nan


SATURATED = 0.05
"""A unit is saturated if its mean slope is below this share of the activation's largest."""


@dataclass
class Summary:
    """What a sample has shown: of each layer by (field, layer), of the step, and through time."""

    layers: dict[tuple[str, int], float]
    values: dict[str, float]
    time: dict[tuple[int, int], float]


def summarize(watch: Watch, scale: float) -> Summary:
    """Read a sample, and turn its sums into what the log holds, without the loss scale."""
    ledger = watch.ledger
    ledger.flush()
    found = Summary({}, _inputs(ledger), {})
    vectors = [block.values.flatten() for block in ledger.sums]
    squares = [square for _, _, square in ledger.deltas]
    numbers = iter(read_all([*vectors, *([torch.stack(squares)] if alike(squares) else squares)]))
    totals: dict[tuple[str, int], list[float]] = {}
    for block in ledger.sums:
        kind = "output" if block.shape is None else "activation"
        rows = [[next(numbers) for _ in block.layers] for _ in block.values]
        for layer, *row in zip(block.layers, *rows, strict=True):
            total = totals.setdefault((kind, layer), [0.0] * (len(row) + 1))
            for k, number in enumerate((block.count, *row)):
                total[k] += number
    for (kind, layer), total in totals.items():
        mean, variance = _mean_variance(*total[:3])
        found.layers[f"{kind}_mean", layer] = mean
        found.layers[f"{kind}_variance", layer] = variance
        if kind == "activation" and total[0]:
            found.layers["slope_square", layer] = total[3] / total[0]
    _deltas(watch, list(numbers), scale, found)
    _units(watch, found)
    return found


def _deltas(watch: Watch, squares: list[float], scale: float, found: Summary) -> None:
    by_call: dict[tuple[int, int], float] = {}
    of_layer: dict[int, float] = {}
    for (layer, call, _), square in zip(watch.ledger.deltas, squares, strict=True):
        by_call[layer, call] = by_call.get((layer, call), 0.0) + square
        of_layer[layer] = of_layer.get(layer, 0.0) + square
    for layer, square in of_layer.items():
        found.layers["delta_norms", layer] = math.sqrt(square) / scale
        watch.order[layer].wild = not 1e-30 < square < 1e30
    in_time: dict[tuple[int, int], float] = {}
    norms = read([norm for _, _, norm in watch.ledger.times])
    for (layer, k, _), norm in zip(watch.ledger.times, norms, strict=True):
        in_time[layer, k] = in_time.get((layer, k), 0.0) + norm * norm
    for layer in watch.order:
        if times(layer) and not isinstance(layer.module, nn.RNNBase):
            for k, call in enumerate(positions(layer.calls)):
                if (layer.index, call) in by_call:
                    in_time[layer.index, k] = by_call[layer.index, call]
    found.time = {key: _log10(square) / 2 - math.log10(scale) for key, square in in_time.items()}


def _inputs(ledger: Ledger) -> dict[str, float]:
    """Put the features' moments of all passes together."""
    if not ledger.inputs:
        return {}
    size = len(ledger.inputs[0][1])
    alike = [entry for entry in ledger.inputs if len(entry[1]) == size]
    n = sum(entry[0] for entry in alike)
    means = sum(entry[1] for entry in alike) / n
    between = sum(m * (sums / m - means).square() for m, sums, _ in alike)
    variances = ((sum(entry[2] for entry in alike) + between) / n).clamp(min=0)
    return {
        "input_mean": means.mean().item(),
        "input_variance": (variances.mean() + means.var(correction=0)).item(),
        "input_spread": spread(variances),
    }


def _log10(number: float) -> float:
    if math.isnan(number):
        return math.nan
    return math.log10(number) if number > 0 else -math.inf


def _mean_variance(count: float, total: float, squares: float) -> tuple[float, float]:
    if count == 0:
        return math.nan, math.nan
    mean = total / count
    variance = squares / count - mean * mean
    return mean, variance if math.isnan(variance) else max(variance, 0.0)


def _units(watch: Watch, found: Summary) -> None:
    """Add the mean slope, and the shares of units that are saturated or dead."""
    groups: dict[tuple, list[Sums]] = {}
    for block in watch.ledger.sums:
        if block.slopes is not None and block.count:
            groups.setdefault((block.shape, block.slopes.shape[1]), []).append(block)
    for (shape, units), blocks in groups.items():
        rows = [layer for block in blocks for layer in block.layers]
        layers = list(dict.fromkeys(rows))
        place = {layer: k for k, layer in enumerate(layers)}
        owner = torch.tensor([place[row] for row in rows])
        counts = [block.count / units for block in blocks for _ in block.layers]
        # A layer that ran several times is put together before its units are judged.
        slopes, sizes = (
            torch.zeros(len(layers), units, dtype=torch.float64).index_add_(
                0, owner, torch.cat([part.to("cpu", torch.float64) for part in parts])
            )
            for parts in zip(*((block.slopes, block.sizes) for block in blocks), strict=True)
        )
        positions_ = torch.zeros(len(layers), dtype=torch.float64).index_add_(
            0, owner, torch.tensor(counts, dtype=torch.float64)
        )
        mean = slopes / positions_.unsqueeze(1)
        saturated = (mean.abs() < SATURATED * shape.largest).double().mean(1)
        dead = (sizes == 0).double().mean(1)
        # What is silent in some of the examples need not be dead; it will be looked at in all.
        silent = (slopes == 0).any(1)
        exact = torch.ones(len(layers), dtype=torch.bool)
        exact[owner[torch.tensor([not b.exact for b in blocks for _ in b.layers])]] = False
        dead.masked_fill_(silent & ~exact, math.nan)
        for layer, rare in zip(layers, silent.tolist(), strict=True):
            watch.order[layer].rare = rare
        broken = mean.isnan().any(1)
        for field, values in (
            ("slope_mean", mean.mean(1)),
            ("saturated", saturated),
            ("dead", dead),
        ):
            numbers = values.masked_fill(broken, math.nan).tolist()
            for layer, number in zip(layers, numbers, strict=True):
                found.layers[field, layer] = number


def times(layer: Seen) -> int:
    """Return how many positions in time a layer has, 0 if it has none."""
    if isinstance(layer.module, nn.RNNBase):
        return layer.time
    return layer.calls if layer.time or layer.calls >= UNROLLED else 0
