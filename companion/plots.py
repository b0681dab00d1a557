"""One house style, and the plot that every chapter reads: the gradient at each layer.

Functions draw data onto an Axes that they are given and return it. Figures are drawn dark on
white; the rendered book turns them over in dark mode.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from companion._lib.arguments import floating

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# After Okabe and Ito (2008), with violet and brown in place of their sky blue, orange and yellow,
# which are too light on white. Each keeps a contrast of 3:1 on white and, turned over, on black,
# and no two of them look alike in any colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#9977FF", "#774400", "#444444")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def use_style() -> None:
    """Set matplotlib's defaults to the house style; the first cell of a chapter calls it."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (6.0, 4.0),
            "figure.dpi": 120,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.bbox": None,
            "font.size": 13,
            "axes.titlesize": 13,
            "axes.titlelocation": "left",
            "axes.labelsize": 13,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": cycler(color=PALETTE),
            "grid.color": "#dddddd",
            "grid.linewidth": 0.8,
            "lines.linewidth": 2.0,
            "legend.frameon": False,
            "legend.fontsize": 11,
        }
    )


def _band(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the median over the first dimension, and the 10th and 90th percentile."""
    level = torch.tensor([0.5, 0.1, 0.9], dtype=values.dtype)
    middle, low, high = torch.quantile(values, level, dim=0)
    return middle, low, high


def line_with_band(
    ax: "Axes",
    x: Tensor | Sequence[float],
    values: Tensor,
    *,
    label: str | None = None,
    color: str | None = None,
    **line: Any,  # noqa: ANN401
) -> "Axes":
    """Draw the median over seeds as a line and the 10th to 90th percentile as a band.

    Args:
        ax: where to draw.
        x: (points,) positions.
        values: (seeds, points).
        label: for the legend.
        color: of line and band; the next of the palette if None.
        line: passed on to ``ax.plot``.

    Returns:
        The same Axes.

    Raises:
        ValueError: if ``values`` has not two dimensions.
        TypeError: if ``values`` is not a floating-point tensor.

    """
    values = floating("values", values).detach()
    if values.dim() != 2:
        raise ValueError(f"values needs shape (seeds, points), got {tuple(values.shape)}")
    middle, low, high = _band(values)
    (drawn,) = ax.plot(x, middle, label=label, color=color, **line)
    ax.fill_between(x, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
    return ax


def gradient_flow(
    ax: "Axes",
    log_norms: Tensor,
    *,
    label: str | None = None,
    theory: Tensor | None = None,
    color: str | None = None,
    marker: str | None = None,
) -> "Axes":
    """Draw the gradient-flow plot: log₁₀ of the norm of δ against layer.

    Read it from right to left, as the gradient travels: a line that falls towards layer 1 is a
    gradient that vanishes, one that rises is a gradient that explodes, a level one survives.

    Args:
        ax: where to draw.
        log_norms: (layers,) for one network or (seeds, layers): median and 10–90 % band.
        label: for the legend.
        theory: (layers,) prediction, drawn dashed in black over the line.
        color: the next of the palette if None.
        marker: on the line, to tell lines apart without colour; by turns if None.

    Returns:
        The same Axes.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if ``log_norms`` or ``theory`` is not a floating-point tensor.

    """
    log_norms = floating("log_norms", log_norms).detach()
    if log_norms.dim() not in (1, 2):
        raise ValueError(
            f"log_norms needs shape (layers,) or (seeds, layers), got {tuple(log_norms.shape)}"
        )
    if theory is not None and floating("theory", theory).shape != log_norms.shape[-1:]:
        raise ValueError(f"theory needs shape ({log_norms.shape[-1]},), got {tuple(theory.shape)}")
    rows = log_norms.unsqueeze(0) if log_norms.dim() == 1 else log_norms
    layer = range(1, rows.shape[-1] + 1)
    turn = len([line for line in ax.lines if line.get_marker() in MARKERS])
    marker = MARKERS[turn % len(MARKERS)] if marker is None else marker
    every = max(1, rows.shape[-1] // 10)
    line_with_band(
        ax, layer, rows, label=label, color=color, marker=marker, markersize=5, markevery=every
    )
    if theory is not None:
        ax.plot(layer, theory, "--", color="black", linewidth=1.2)
    ax.set(xlabel="layer (the gradient travels from right to left)", ylabel="log₁₀ ‖δ‖")
    ax.margins(x=0.02)
    return ax
