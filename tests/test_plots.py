"""What is drawn is what was given, and can be seen on light and on dark pages."""

import math
from collections.abc import Iterator
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
import torch
from helpers import normal
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgb

from companion import backprop, plots
from companion.data import Split
from companion.training import Record, sgd, train
from companion.training.picture import vital_signs


@pytest.fixture
def ax() -> Iterator[Axes]:
    with mpl.rc_context():
        plots.use_style()
        figure, axes = plt.subplots()
        yield axes
        plt.close(figure)


def band(collection: PolyCollection) -> dict[float, tuple[float, float]]:
    """The lowest and highest value of a band at each x."""
    corners = collection.get_paths()[0].vertices
    return {
        x: (min(ys), max(ys))
        for x in np.unique(corners[:, 0])
        for ys in [corners[corners[:, 0] == x, 1]]
    }


@pytest.mark.breaks("companion/plots.py", "[0.5, 0.1, 0.9]", "[0.5, 0.25, 0.75]")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_line_is_the_median_and_band_the_percentiles(ax: Axes, dtype: torch.dtype) -> None:
    # Of 0, 1, 4, …, 100 the median is 25, the 10th percentile 1 and the 90th 81; shuffled.
    seeds = torch.tensor([3, 10, 0, 7, 1, 9, 5, 2, 8, 4, 6], dtype=dtype) ** 2
    values = torch.stack([seeds, 2 * seeds, -seeds], dim=1).requires_grad_()
    x = [1.0, 10.0, 100.0]
    assert plots.line_with_band(ax, x, values, label="runs", color="red", linestyle=":") is ax
    (line,) = ax.lines
    assert line.get_xdata().tolist() == x
    assert line.get_ydata().tolist() == pytest.approx([25, 50, -25], rel=1e-6)
    assert (line.get_label(), line.get_color(), line.get_linestyle()) == ("runs", "red", ":")
    (drawn,) = ax.collections
    expected = {1.0: (1, 81), 10.0: (2, 162), 100.0: (-81, -1)}
    for position, (low, high) in band(drawn).items():
        assert (low, high) == pytest.approx(expected[position], rel=1e-5)
    assert to_hex(drawn.get_facecolor()[0]) == to_hex("red")
    assert 0 < drawn.get_alpha() < 0.5


def test_colours_go_round_the_palette(ax: Axes) -> None:
    for _ in range(3):
        plots.line_with_band(ax, range(4), normal(5, 4))
    assert [line.get_color() for line in ax.lines] == list(plots.PALETTE[:3])
    bands = [to_hex(b.get_facecolor()[0]).upper() for b in ax.collections]
    assert bands == list(plots.PALETTE[:3])


@pytest.mark.breaks(
    "companion/plots.py", "layer = range(1, rows.shape[-1] + 1)", "layer = range(rows.shape[-1])"
)
def test_gradient_flow_draws_layers_runs_and_theory(ax: Axes) -> None:
    flow, theory, one = normal(9, 12), torch.linspace(-3, 0, 12), normal(5, seed=1)
    assert plots.gradient_flow(ax, flow, label="seeds", theory=theory) is ax
    plots.gradient_flow(ax, one, label="one", color="black")
    many, dashed, single = ax.lines
    assert many.get_xdata().tolist() == list(range(1, 13))
    np.testing.assert_allclose(many.get_ydata(), flow.median(0).values, rtol=1e-12)
    drawn = list(band(ax.collections[0]).values())
    np.testing.assert_allclose(drawn, np.quantile(flow.numpy(), [0.1, 0.9], axis=0).T)
    assert dashed.get_xdata().tolist() == list(range(1, 13))
    assert dashed.get_ydata().tolist() == theory.tolist()
    assert dashed.get_linestyle() == "--"
    assert dashed.get_color() == "black"
    assert many.get_color() == plots.PALETTE[0]
    assert single.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert single.get_ydata().tolist() == one.tolist()
    assert [many.get_label(), single.get_label()] == ["seeds", "one"]
    assert len(ax.get_legend_handles_labels()[0]) == 2, "theory has no entry of its own"
    assert ax.get_xlabel().startswith("layer")
    assert ax.get_ylabel() == "log₁₀ ‖δ‖"
    ax.figure.draw_without_rendering()


def test_lines_are_told_apart_without_colour(ax: Axes) -> None:
    for _ in range(len(plots.MARKERS)):
        plots.gradient_flow(ax, normal(3, 4), theory=normal(4))
    plots.gradient_flow(ax, normal(4), marker="*")
    markers = [line.get_marker() for line in ax.lines[::2]]
    assert markers == [*plots.MARKERS, "*"]
    assert len(set(plots.MARKERS)) == len(plots.MARKERS) >= len(plots.PALETTE)


@pytest.mark.parametrize("layers", [1, 3, 9, 30, 100])
def test_markers_stay_apart(ax: Axes, layers: int) -> None:
    plots.gradient_flow(ax, normal(layers))
    shown = len(range(0, layers, ax.lines[0].get_markevery()))
    assert min(layers, 10) <= shown <= 19


def test_bad_input_is_named_and_draws_nothing(ax: Axes) -> None:
    with pytest.raises(ValueError, match=r"theory needs shape \(4,\), got \(5,\)"):
        plots.gradient_flow(ax, normal(3, 4), theory=normal(5))
    with pytest.raises(ValueError, match=r"log_norms needs shape .*, got \(2, 3, 4\)"):
        plots.gradient_flow(ax, normal(2, 3, 4))
    with pytest.raises(TypeError, match="log_norms must be a tensor, got list"):
        plots.gradient_flow(ax, [1.0])
    with pytest.raises(TypeError, match="theory must be a tensor, got list"):
        plots.gradient_flow(ax, normal(4), theory=[0.0] * 4)
    with pytest.raises(ValueError, match=r"values needs shape \(seeds, points\), got \(4,\)"):
        plots.line_with_band(ax, range(4), normal(4))
    with pytest.raises(
        TypeError, match=r"values must be a floating-point tensor, got torch\.int64"
    ):
        plots.line_with_band(ax, range(4), torch.zeros(2, 4, dtype=torch.int64))
    assert not ax.lines
    assert not ax.collections


def run(*, tested: bool = True) -> Record:
    """Three networks' short training; the last weight is frozen, so that it does not move."""
    models = backprop.to_modules(backprop.random_mlp([4, 6, 5, 3], "tanh", seeds=3))
    for model in models:
        model[-1].requires_grad_(False)
    labels = torch.arange(20) % 3
    test = (normal(20, 4, seed=1), labels) if tested else (torch.empty(0, 4), labels[:0])
    data = Split(normal(20, 4), labels, *test)
    return train(models, data, optimizer=sgd(0.3), steps=6, batch_size=5, record_every=2)


def test_vital_signs_are_those_of_the_record() -> None:
    record, (figure, axes) = run(), plt.subplots(4, 1)
    assert vital_signs(axes, record, label="healthy", color="#112233") is axes
    moved = record.displacement[..., 0] / record.weight_norms[0, :, 0]
    shown = [
        [record.loss],
        [record.delta_norms[..., 0].log10(), record.delta_norms[..., -1].log10()],
        [moved.where(moved > 0, torch.nan).log10(), torch.full((4, 3), torch.nan)],
        [record.test_accuracy],
    ]
    for ax, columns in zip(axes, shown, strict=True):
        for line, values, style in zip(ax.lines, columns, ["-", "--"], strict=False):
            assert line.get_xdata().tolist() == [0, 2, 4, 6]
            np.testing.assert_allclose(line.get_ydata(), values.median(1).values, rtol=1e-9)
            assert (line.get_color(), line.get_linestyle()) == ("#112233", style)
        assert len(ax.lines) == len(ax.collections) == len(columns)
    assert {ax.get_yscale() for ax in axes} == {"linear"}
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["healthy"]
    plt.close(figure)


def test_vital_signs_need_four_axes_and_a_test_part(ax: Axes) -> None:
    with pytest.raises(ValueError, match="axes needs four Axes, got 1"):
        vital_signs([ax], run(), label="", color="red")
    with pytest.raises(ValueError, match="record needs a test accuracy"):
        vital_signs([ax] * 4, run(tested=False), label="", color="red")
    assert not ax.lines


def test_style_is_dark_on_white_in_the_palette() -> None:
    with mpl.rc_context():
        plots.use_style()
        assert to_hex(mpl.rcParams["figure.facecolor"]) == "#ffffff"
        assert mpl.rcParams["axes.prop_cycle"].by_key()["color"] == list(plots.PALETTE)


# How a colour is seen: on the page as it is, in dark mode, and with each kind of colour vision.


def turned_over(color: np.ndarray) -> np.ndarray:
    """CSS's invert(1) hue-rotate(180deg), from Filter Effects Module 1, section 8.5."""
    cos, sin = math.cos(math.pi), math.sin(math.pi)
    grey = np.array([[0.213, 0.715, 0.072]] * 3)
    along = np.array([[0.787, -0.715, -0.072], [-0.213, 0.285, -0.072], [-0.213, -0.715, 0.928]])
    across = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    return np.clip((grey + cos * along + sin * across) @ (1 - color), 0, 1)


def linear(color: np.ndarray) -> np.ndarray:
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """WCAG 2.2's contrast ratio."""
    darker, lighter = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def lab(light: np.ndarray) -> np.ndarray:
    """CIELAB of linear light."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = to_xyz @ np.clip(light, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira & Fernandes (2009), severity 1.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def test_the_colour_arithmetic_is_right() -> None:
    black, white, red = np.zeros(3), np.ones(3), np.array([1.0, 0, 0])
    assert contrast(black, white) == pytest.approx(21)
    assert contrast(np.full(3, 0x77 / 255), white) == pytest.approx(4.48, abs=0.005)
    np.testing.assert_allclose(turned_over(white), black, atol=1e-12)
    # A grey is inverted and no more; red stays a red, only lighter.
    np.testing.assert_allclose(turned_over(np.full(3, 0.2)), np.full(3, 0.8), atol=1e-12)
    assert turned_over(red)[0] > turned_over(red)[1:].max()
    np.testing.assert_allclose(lab(white), [100, 0, 0], atol=0.1)


@pytest.mark.breaks("companion/plots.py", '"#9977FF"', '"#56B4E9"')
@pytest.mark.parametrize("color", plots.PALETTE)
def test_lines_stand_out_on_light_and_dark_pages(color: str) -> None:
    seen = np.array(to_rgb(color))
    # WCAG 2.2, success criterion 1.4.11: 3:1 for what is not text.
    assert contrast(seen, np.ones(3)) >= 3
    assert contrast(turned_over(seen), np.array(to_rgb("#121212"))) >= 3
    assert contrast(turned_over(seen), np.zeros(3)) >= 3, "the figure's own ground, turned over"


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("dark", [False, True])
def test_colours_differ_in_any_colour_vision(vision: str, dark: bool) -> None:
    seen = [np.array(to_rgb(color)) for color in plots.PALETTE]
    found = [lab(VISION[vision] @ linear(turned_over(c) if dark else c)) for c in seen]
    # A difference of 10 in CIELAB is seen at a glance; 2.3 is the least that is noticed.
    closest = min(np.linalg.norm(one - other) for one, other in combinations(found, 2))
    assert closest > 10
