"""What a run shows over time, drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch

from companion.plots import line_with_band
from companion.training.loop import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator


def vital_signs(
    axes: "Sequence[Axes]", record: "Record", *, label: str, color: str
) -> "Sequence[Axes]":
    """Draw what a run shows over time onto four Axes: loss, δ, displacement, test accuracy.

    Of δ and of the displacement the first layer is drawn solid and the last dashed; lines are
    medians over the networks, bands the 10th to 90th percentile.

    Args:
        axes: four, one above the other and sharing the step axis.
        record: what :func:`companion.training.train` returned, with a test part.
        label: of the run, for the legend of the first Axes.
        color: of the run.

    Returns:
        The same Axes.

    Raises:
        ValueError: if there are not four axes, or the record has no test accuracy.

    """
    if len(axes) != 4:
        raise ValueError(f"axes needs four Axes, got {len(axes)}")
    if record.test_accuracy is None:
        raise ValueError("record needs a test accuracy: train with a test part")
    weights = record.parameters("weight")
    moved = (record.displacement / record.weight_norms[0])[:, :, weights]
    moved = moved.where(moved > 0, torch.nan).log10()  # before the first step nothing has
    delta = record.delta_norms.log10()
    panels = [
        ("loss", record.loss, None),
        ("log₁₀ ‖δ‖", delta[..., 0], delta[..., -1]),
        ("log₁₀ of distance\nper starting norm", moved[..., 0], moved[..., -1]),
        ("test accuracy", record.test_accuracy, None),
    ]
    for ax, (title, first, last) in zip(axes, panels, strict=True):
        line_with_band(ax, record.steps, first.mT, label=label, color=color)
        if last is not None:
            line_with_band(ax, record.steps, last.mT, color=color, linestyle="--")
        ax.set_ylabel(title)
    axes[0].legend(loc="upper left", bbox_to_anchor=(0, 1.25), ncols=3)
    axes[-1].set(xlabel="step", ylim=(0, 1))
    locator = cast("MaxNLocator", axes[-1].xaxis.get_major_locator())
    locator.set_params(integer=True)
    return axes
