"""What a monitor saw, drawn."""

from typing import TYPE_CHECKING

import torch

from companion.monitor.log import Log
from companion.plots import MARKERS, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def monitored(log: "Log") -> "Figure":
    """Draw what a monitor saw: δ against depth, update ratios against depth, and the loss.

    Depth and time run to the right; the first sample is drawn in the first color of the palette and
    the last one in the second.

    Args:
        log: of a run, see :class:`companion.monitor.Log`.

    Returns:
        A new figure of three Axes, one above the other, narrow enough for a phone.

    Raises:
        ValueError: if no step was sampled, or there is no layer.

    """
    import matplotlib.pyplot as plt

    if len(log.steps) == 0 or not log.layers:
        raise ValueError(f"log needs a sampled step and a layer, got {log!r}")
    figure = plt.figure(figsize=(4.5, 8.0), layout="constrained")
    deltas, updates, losses = figure.subplots(3)
    weights = [log.parameters.index(x.parameters[0]) for x in log.layers if x.parameters]
    ratios = log.update_norms[:, weights] / log.weight_norms[:, weights]
    depth = range(1, len(log.layers) + 1)
    rows = dict.fromkeys([0, len(log.steps) - 1])
    for row, color, marker in zip(rows, PALETTE, MARKERS, strict=False):
        norms = log.delta_norms[row].log10()
        seen = norms.isfinite()
        label = f"step {int(log.steps[row])}"
        if seen.sum() > 1:
            x = torch.arange(len(norms), dtype=norms.dtype)[seen]
            x = x - x.mean()
            label += f": {-(norms[seen] @ x / (x @ x)).item():+.2f} a layer back"
        style = {"color": color, "marker": marker, "markersize": 5}
        deltas.plot(depth, norms, label=label, **style)
        updates.plot(range(1, len(weights) + 1), ratios[row].log10(), **style)
    losses.plot(log.loss, color=PALETTE[-1])
    deltas.set(title="gradient at each layer", xlabel="layer", ylabel="log₁₀ ‖δ‖")
    deltas.legend(loc="best")
    updates.set(title="one step's update", xlabel="layer", ylabel="log₁₀ of its share")
    losses.set(title="loss", xlabel="step")
    for ax in (deltas, updates, losses):
        ax.xaxis.get_major_locator().set_params(integer=True)
    return figure
