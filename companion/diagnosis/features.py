"""What a log says in a few numbers: slopes against depth, change over time, and the loss's course.

None of them changes when the loss is multiplied by a constant, when the batch is of another size,
or when the run is sampled more often. Each is a function of a log; :func:`features` takes them all.
Logarithms are to base ten, "decades"; NaN stands for what the log cannot tell.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from companion import activations
from companion.monitor.log import Log

#: Activations that are flat on both sides, where a unit can be stuck.
FLAT = ("tanh", "sigmoid", "hardtanh", "hardsigmoid", "softsign")
#: Activations whose slope is exactly 0 on one side.
RECTIFIERS = ("relu", "relu6")
#: A δ this many decades below the largest is as good as none.
NONE = 30.0


# ---------------------------------------------------------------- small statistics


def robust_slope(values: Tensor) -> float:
    """Return the median slope between all pairs of values against their index (Theil and Sen).

    Args:
        values: (n,); those that are NaN are left out.

    Returns:
        NaN if fewer than two are left.

    Example:
        >>> robust_slope(torch.tensor([0.0, 1.0, 2.0, 30.0, 4.0]))
        1.0

    """
    # Not scipy.stats.theilslopes, which finds the same in twice the time: loading scipy.stats takes
    # longer than a diagnosis.
    index = torch.arange(len(values), dtype=torch.float64)
    keep = ~values.isnan()
    x, y = index[keep], values[keep].double()
    if len(y) < 2:
        return math.nan
    i, j = torch.triu_indices(len(y), len(y), 1)
    return ((y[j] - y[i]) / (x[j] - x[i])).quantile(0.5).item()


def settled(loss: Tensor) -> float:
    """Return where a run ended: the mean of the last tenth of its losses, of five at least.

    Args:
        loss: (steps,) in order.

    Returns:
        The mean; nan without a loss.

    Example:
        >>> settled(torch.cat([torch.full((50,), 9.0), torch.ones(10)]))
        1.0

    """
    tail = loss[-max(5, len(loss) // 10) :]
    return tail.double().mean().item() if len(tail) else math.nan


def _decades(value: float) -> float:
    """Return log₁₀, with an infinity for 0 and NaN for what is negative or not known."""
    if math.isnan(value) or value < 0:
        return math.nan
    return math.log10(value) if value > 0 else -math.inf


def _median(values: Tensor) -> float:
    values = values[~values.isnan()]
    return values.quantile(0.5).item() if len(values) else math.nan


def _largest(values: Tensor) -> float:
    values = values[~values.isnan()]
    return values.max().item() if len(values) else math.nan


# ---------------------------------------------------------------- which samples, which layers


def _good(log: Log) -> Tensor:
    """Return the indices of the samples whose gradients are finite."""
    total = log.total_norm.isfinite() & (log.non_finite.nan_to_num() == 0)
    return total.nonzero().flatten()


def first(log: Log) -> int | None:
    """Return the index of the first sample, or None if its gradients are not finite."""
    good = _good(log)
    return 0 if len(good) and good[0] == 0 else None


def last(log: Log) -> int | None:
    """Return the index of the last sample whose gradients are finite, if there is one."""
    good = _good(log)
    return int(good[-1]) if len(good) else None


def matrices(log: Log) -> list[int]:
    """Return the index in ``log.parameters`` of the weight of each layer that learns.

    Layers that share a weight give it once.
    """
    names = [layer.parameters[0] for layer in log.layers if layer.parameters and not layer.frozen]
    return [log.parameters.index(name) for name in dict.fromkeys(names) if name in log.parameters]


# ---------------------------------------------------------------- slopes against depth


def delta_profile(log: Log, sample: int | None) -> Tensor:
    """Return (L,) log₁₀ of each layer's δ over the largest, NaN where it was not measured.

    Args:
        log: of a run, as a monitor keeps it.
        sample: index of the sampled step; None where there is none.

    """
    if sample is None or not len(log.layers):
        return torch.full((len(log.layers),), math.nan, dtype=torch.float64)
    norms = log.delta_norms[sample].double()
    norms = torch.where(norms.isfinite(), norms, math.nan)
    top = _largest(norms)
    if not top > 0:
        return torch.full_like(norms, math.nan)
    return (norms / top).log10().clamp(min=-NONE)


def _across(profile: Tensor) -> float:
    """Return how many decades a profile rises from its first to its last layer, robustly."""
    return robust_slope(profile) * (len(profile) - 1)


def delta_rise(log: Log) -> float:
    """Return by how many decades δ rises from the first layer to the last, at the first sample.

    Positive: the gradient vanishes on its way back. Negative: it explodes.
    """
    return _across(delta_profile(log, first(log)))


def signal_rise(log: Log) -> float:
    """Return by how many decades the outputs' variance rises with depth, at the first sample."""
    if not len(log.steps):
        return math.nan
    variance = log.output_variance[0].double()
    variance = torch.where(variance.isfinite() & (variance > 0), variance, math.nan)
    return _across(variance.log10())


# ---------------------------------------------------------------- activations


def steepness(log: Log) -> float:
    """Return the least over layers of E[φ′] over the largest slope, at the first sample.

    Only of activations that are flat on both sides, :data:`FLAT`.
    """
    values = steepness_by_layer(log, first(log))
    return -_largest(-values)


def steepness_at_end(log: Log) -> float:
    """Return the same at the last sample whose gradients are finite."""
    return -_largest(-steepness_by_layer(log, last(log)))


def steepness_by_layer(log: Log, sample: int | None) -> Tensor:
    """Return (L,) E[φ′] over the largest slope; NaN for other activations, and through time.

    Args:
        log: of a run, as a monitor keeps it.
        sample: index of the sampled step; None where there is none.

    """
    found = torch.full((len(log.layers),), math.nan, dtype=torch.float64)
    for index, layer in enumerate(log.layers):
        if sample is not None and layer.activation in FLAT and log.times[index] < 2:
            found[index] = log.slope_mean[sample, index] / _largest_slope(layer.activation)
    return found


def _largest_slope(name: str) -> float:
    known = activations.ACTIVATIONS.get(name)
    return (known.largest_slope if known else None) or 1.0


def dead(log: Log) -> float:
    """Return the largest share of dead units in any rectified layer, at the first sample."""
    return _largest(dead_by_layer(log, first(log)))


def dead_at_end(log: Log) -> float:
    """Return the same at the last sample whose gradients are finite."""
    return _largest(dead_by_layer(log, last(log)))


def dead_by_layer(log: Log, sample: int | None) -> Tensor:
    """Return (L,) the share of units that have no slope at all; NaN but for rectifiers.

    Args:
        log: of a run, as a monitor keeps it.
        sample: index of the sampled step; None where there is none.

    """
    found = torch.full((len(log.layers),), math.nan, dtype=torch.float64)
    for index, layer in enumerate(log.layers):
        if sample is not None and layer.activation in RECTIFIERS:
            found[index] = log.dead[sample, index]
    return found


# ---------------------------------------------------------------- steps


def update_ratios(log: Log) -> Tensor:
    """Return (T, M) ‖Δw‖/‖w‖ of each weight matrix that learns; NaN where it was not measured."""
    index = matrices(log)
    ratio = log.update_norms[:, index] / log.weight_norms[:, index]
    ratio = ratio.double().masked_fill(log.weight_norms[:, index] == 0, math.nan)
    return torch.where(log.skipped.bool()[:, None], math.nan, ratio)


def first_update(log: Log) -> float:
    """Return log₁₀ of the median update ratio of the matrices at the first sample."""
    ratios = update_ratios(log)
    return _decades(_median(ratios[0])) if len(ratios) else math.nan


def typical_update(log: Log) -> float:
    """Return log₁₀ of the median update ratio of the matrices, over the whole run."""
    return _decades(_median(update_ratios(log).flatten()))


def largest_update(log: Log) -> float:
    """Return log₁₀ of the largest median update ratio of any sample."""
    each = [_median(row) for row in update_ratios(log)]
    return _decades(_largest(torch.tensor(each))) if each else math.nan


def travel(log: Log) -> float:
    """Return log₁₀ of how far the matrix that moves most goes: its median ratio times the steps.

    That is as far as it would get if it always moved in one direction, in units of its own norm.
    """
    ratios = update_ratios(log)
    if not ratios.numel():
        return math.nan
    each = torch.tensor([_median(column) for column in ratios.T], dtype=torch.float64)
    return _decades(_largest(each) * len(log.loss))


def sensitivity(log: Log) -> float:
    """Return log₁₀ of ‖∂L/∂w‖·‖w‖/L of the last weight matrix that learns, its median over time.

    Where little of the loss is left, a small relative change of the weights changes much of it: a
    network that has learned is sensitive, one that has not begun is not.
    """
    index = matrices(log)
    if not index or not len(log.steps):
        return math.nan
    size = log.gradient_norms[:, index[-1]] * log.weight_norms[:, index[-1]]
    return _decades(_median(size / log.loss[log.steps]))


# ---------------------------------------------------------------- time


def time_profile(log: Log, sample: int | None) -> Tensor:
    """Return (L, K) log₁₀ of δ at K positions in time, over the last; NaN without time.

    Args:
        log: of a run, as a monitor keeps it.
        sample: index of the sampled step; None where there is none.

    """
    if sample is None or not log.through_time.numel():
        return torch.full((0, 0), math.nan, dtype=torch.float64)
    profile = log.through_time[sample].double()
    profile = torch.where(profile == -math.inf, -NONE * 10, profile)
    return torch.where(profile.isfinite(), profile, math.nan)


def time_rise(log: Log) -> float:
    """Return by how many decades δ rises from the first step in time to the last, at first.

    Positive: the gradient vanishes on its way back through time. Of several recurrent layers, the
    one with the steepest. A transformer's tokens or a convolution have no time.
    """
    return _time_rise(log, first(log))


def time_rise_at_end(log: Log) -> float:
    """Return the same at the last sample whose gradients are finite."""
    return _time_rise(log, last(log))


def _time_rise(log: Log, sample: int | None) -> float:
    rises = [0.0 if len(row) < 2 else _across(row) for row in time_profile(log, sample)]
    rises = [rise for rise in rises if not math.isnan(rise)]
    return max(rises, key=abs) if rises else math.nan


# ---------------------------------------------------------------- inputs


def input_size(log: Log) -> float:
    """Return log₁₀ of the root mean square of the inputs."""
    return 0.5 * _decades(_first(log.input_mean) ** 2 + _first(log.input_variance))


def input_offset(log: Log) -> float:
    """Return log₁₀ of the inputs' mean over their standard deviation, in size."""
    variance = _first(log.input_variance)
    return _decades(abs(_first(log.input_mean)) / math.sqrt(variance)) if variance > 0 else math.nan


def input_spread(log: Log) -> float:
    """Return log₁₀ of the largest over the smallest standard deviation of the features."""
    return _decades(_median(log.input_spread))


def _first(values: Tensor) -> float:
    values = values[values.isfinite()]
    return values[0].item() if len(values) else math.nan


# ---------------------------------------------------------------- precision


def underflow(log: Log) -> float:
    """Return the share of gradient entries that float16 flushes to zero, at the first sample."""
    return _first(log.underflow)


def flushed(log: Log) -> float:
    """Return the share of layers whose δ is exactly zero though no dead layer stands above them.

    At the first sample; 1 if no gradient is other than zero. Products of slopes get small, but
    only rounding makes them zero.
    """
    return _flushed(log, first(log))


def flushed_at_end(log: Log) -> float:
    """Return the same at the last sample whose gradients are finite."""
    return _flushed(log, last(log))


def _flushed(log: Log, sample: int | None) -> float:
    if sample is None or not len(log.layers):
        return math.nan
    if log.total_norm[sample] == 0:
        return 1.0
    reached = log.delta_norms[sample][~log.delta_norms[sample].isnan()]
    stopped = _largest(torch.cat([log.dead[sample], log.saturated[sample]])) == 1.0
    if not len(reached) or stopped:
        return 0.0
    return (reached == 0).double().mean().item()


def unmoved(log: Log) -> float:
    """Return the share of matrices that stay where they are though they have a gradient."""
    if first(log) is None:
        return math.nan
    index = [i for i in matrices(log) if log.gradient_norms[0, i] > 0]
    still = [log.update_norms[0, i] == 0 for i in index]
    return float(sum(still) / len(still)) if still and not log.skipped[0] else 0.0


# ---------------------------------------------------------------- the loss


def began(log: Log) -> float:
    """Return where the loss began: its first, which no update has touched."""
    return log.loss[0].item() if len(log.loss) else math.nan


def fall(log: Log) -> float:
    """Return by how many decades the loss fell from its first to where it settled.

    Minus infinity if the end is not finite, NaN if only the start is not.
    """
    start, end = began(log), settled(log.loss)
    if not math.isfinite(end):
        return -math.inf
    return _decades(start) - _decades(end) if start > 0 else math.nan


def net_fall(log: Log) -> float:
    """Return the loss's fall less what it owes to outputs that began too large.

    Outputs that begin a thousand times too large make a loss that falls by decades as they shrink,
    and nothing is learned by that. Their variance counts from 10 on, since networks that learn
    begin with as much.
    """
    variance = log.output_variance[0, -1].item() if log.output_variance.numel() else math.nan
    if math.isinf(variance):
        return -math.inf
    return fall(log) - max(0.0, _decades(variance) - 1) if variance > 0 else fall(log)


def peak(log: Log) -> float:
    """Return by how many decades the loss rose above its first before it ended or broke."""
    start = began(log)
    finite = log.loss[log.loss.isfinite()]
    if not (math.isfinite(start) and start > 0 and len(finite)):
        return math.nan
    return _decades(finite.max().item()) - _decades(start)


def roughness(log: Log) -> float:
    """Return the spread of the last half of the losses about their trend, over their mean."""
    tail = log.loss[len(log.loss) // 2 :].double()
    if len(tail) < 5 or not tail.isfinite().all() or tail.mean() <= 0:
        return math.nan
    steps = tail.diff() / math.sqrt(2)
    return 1.4826 * _median(steps.abs()) / tail.mean().item()


def broke(log: Log) -> float:
    """Return 1 if a loss or a sampled gradient was not finite (where no step was skipped)."""
    bad = (log.non_finite.nan_to_num() > 0) & ~log.skipped.bool()
    return float(bad.any() or not log.loss.isfinite().all())


FEATURES: dict[str, Callable[[Log], float]] = {
    function.__name__: function
    for function in (
        *(delta_rise, signal_rise, steepness, steepness_at_end, dead, dead_at_end),
        *(first_update, typical_update, largest_update, travel, sensitivity),
        *(time_rise, time_rise_at_end),
        *(input_size, input_offset, input_spread, underflow, flushed),
        *(flushed_at_end, unmoved),
        *(fall, net_fall, peak, roughness, broke),
    )
}


def extract(log: Log) -> dict[str, float]:
    """Return every feature of a log by its name."""
    return {name: function(log) for name, function in FEATURES.items()}
