"""Sliders: each picture is what draw gives for its values, in a notebook and in a page."""

import gzip
import io
import itertools
import json
import re
from collections.abc import Callable
from math import prod

import ipywidgets
import matplotlib.pyplot as plt
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from PIL import Image

from companion import explore as module
from companion.explore import LIMIT, VIEW, Explorer, Frame, explore

WHITE = (255, 255, 255)


def dot(ax: Axes, x: float, y: float = 0) -> str:
    """Draw a dot whose place says which values were drawn."""
    ax.plot([x], [y], "o", color="black", markersize=20)
    ax.set(xlim=(-1, 3), ylim=(-1, 3))
    return f"A dot at {x}, {y}."


def three_by_two() -> Explorer:
    return explore(dot, alt="One dot.", x=[0, 1, 2], y=[0, 2])


def stored(html: str) -> list[tuple[str, str]]:
    """The frames of a page: the one that it shows, then those in its script."""
    page = BeautifulSoup(html, "html.parser")
    first = page.find("img")["src"], page.find("figcaption").get_text()
    others = json.loads(page.find("script", type="application/json").string)
    return [first, *map(tuple, others)]


def decoded(frame: Frame) -> Image.Image:
    return Image.open(io.BytesIO(frame.image)).convert("RGB")


@pytest.mark.breaks(
    "companion/explore.py",
    "zip(grids, values, strict=True)",
    "zip(reversed(grids), values, strict=True)",
)
@pytest.mark.breaks("companion/explore.py", "for f in frames[1:]", "for f in frames")
def test_each_frame_is_what_draw_gives_for_its_values_the_last_slider_fastest() -> None:
    def paint(ax: Axes, red: int, green: int) -> str:
        ax.figure.set_facecolor((red / 255, green / 255, 1.0))
        return f"Red {red}, green {green}."

    explorer = explore(paint, alt="A colour.", red=[0, 70, 140], green=[10, 200])
    values = [(0, 10), (0, 200), (70, 10), (70, 200), (140, 10), (140, 200)]
    for frame, (red, green) in zip(explorer.frames, values, strict=True):
        assert frame.reading == f"Red {red}, green {green}."
        assert decoded(frame).getpixel((0, 0)) == (red, green, 255)
    assert stored(explorer.html()) == [(frame.address, frame.reading) for frame in explorer.frames]


def test_a_frame_keeps_its_colours_and_a_white_ground() -> None:
    def draw(ax: Axes, width: float) -> str:
        ax.axhline(0.5, color="#0072B2", linewidth=width)
        return "A line."

    for frame in explore(draw, alt="A line.", width=[20, 40]).frames:
        picture = decoded(frame)
        colours = {colour for _, colour in picture.getcolors()}
        assert picture.getpixel((0, 0)) == WHITE
        assert len(colours) <= module.COLOURS
        assert any(
            max(abs(a - b) for a, b in zip(c, (0, 0x72, 0xB2), strict=True)) <= 3 for c in colours
        )


@given(shape=st.lists(st.integers(2, 4), min_size=1, max_size=3))
def test_the_page_finds_a_frame_by_mixed_radix(shape: list[int]) -> None:
    """What the script computes from its sliders is the place of the frame, for every shape."""
    names = ["a", "b", "c"][: len(shape)]
    grids = {name: list(range(size)) for name, size in zip(names, shape, strict=True)}
    frames = [
        Frame(bytes([n]), str(values))
        for n, values in enumerate(itertools.product(*grids.values()))
    ]
    html = module._page("A picture.", {name: name for name in names}, grids, frames)
    sliders = BeautifulSoup(html, "html.parser").find_all("input")
    assert [int(slider["max"]) + 1 for slider in sliders] == shape
    pictures = stored(html)
    assert len(pictures) == prod(shape)
    for values in itertools.product(*map(range, shape)):
        at = 0
        for slider, value in zip(sliders, values, strict=True):
            at = at * (int(slider["max"]) + 1) + value
        assert pictures[at][1] == str(values)


def test_the_page_has_labelled_sliders_with_words_and_no_ids() -> None:
    explorer = explore(
        dot, alt='A "dot" & more.', labels={"x": "across <x>"}, x=[0.5, 1e-6], y=[0, 2]
    )
    page = BeautifulSoup(explorer.html(), "html.parser")
    assert not page.find_all(id=True)
    assert not page.find_all(src=re.compile("^http"))
    across, up = page.find_all("label")
    assert across.get_text(strip=True) == "across <x>"
    assert up.get_text(strip=True) == "y"
    slider = across.find("input")
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == (
        "range",
        "0",
        "1",
        "0",
    )
    assert json.loads(slider["data-words"]) == ["0.5", "1e-06"]
    assert slider["aria-valuetext"] == "0.5"
    assert [value.get_text() for value in page.find_all("output")] == ["0.5", "0"]


def test_without_a_script_the_first_frame_stands_with_its_words() -> None:
    explorer = three_by_two()
    page = BeautifulSoup(explorer.html(), "html.parser")
    (image,) = page.find_all("img")
    assert (image["src"], image["alt"]) == (explorer.frames[0].address, "One dot.")
    assert page.find("figcaption").get_text() == "A dot at 0, 0."
    assert page.find("figcaption")["aria-live"] == "polite"
    assert page.select_one(".explore-sliders").has_attr("hidden")
    assert "need JavaScript" in page.select_one(".explore-still").get_text()
    assert "x: 0; y: 0." in page.select_one(".explore-still").get_text()


def test_what_is_read_cannot_end_the_script() -> None:
    def draw(ax: Axes, x: int) -> str:
        return f"</script><b>{x}</b>"

    explorer = explore(draw, alt="Nothing.", x=[1, 2])
    assert explorer.html().count("</script>") == 2
    assert [reading for _, reading in stored(explorer.html())] == [
        "</script><b>1</b>",
        "</script><b>2</b>",
    ]


def test_two_calls_give_the_same_bytes_and_what_nbval_compares_has_no_picture() -> None:
    first, second = three_by_two(), three_by_two()
    assert first.html() == second.html()
    sanitized = re.sub(r'data:image/[^"]+', "DATA-IMAGE", first.html())
    assert len(sanitized) < 4000
    assert "A dot at 2, 2." in sanitized
    assert repr(first) == "Sliders: x (3 values), y (2 values)"


def test_no_figure_is_left_open() -> None:
    before = plt.get_fignums()
    explorer = three_by_two()
    explorer.widget().children[0].value = 1
    assert plt.get_fignums() == before


def test_the_bundle_has_the_view_the_page_and_a_line() -> None:
    explorer = three_by_two()
    bundle = explorer._repr_mimebundle_(include=None, exclude=None)
    assert set(bundle) == {VIEW, "text/html", "text/plain"}
    assert bundle["text/html"] == explorer.html()
    assert bundle["text/plain"] == repr(explorer)
    assert set(bundle[VIEW]) == {"version_major", "version_minor", "model_id"}


@pytest.mark.breaks(
    "companion/explore.py",
    "image.value, reading.value = frame.image, escape(frame.reading)",
    "reading.value = escape(frame.reading)",
)
def test_moving_a_widget_draws_anew() -> None:
    drawn: list[tuple[int, int]] = []

    def draw(ax: Axes, x: int, y: int) -> str:
        drawn.append((x, y))
        return dot(ax, x, y)

    explorer = explore(draw, alt="One dot.", labels={"y": "up"}, x=[0, 1, 2], y=[0, 2])
    across, up, image, reading = explorer.widget().children
    assert [across.description, up.description] == ["x", "up"]
    assert isinstance(image, ipywidgets.Image)
    assert (image.value, reading.value) == (explorer.frames[0].image, "A dot at 0, 0.")
    drawn.clear()
    across.value = 2
    assert (image.value, reading.value) == (explorer.frames[4].image, "A dot at 2, 0.")
    up.value = 1
    assert (image.value, reading.value) == (explorer.frames[5].image, "A dot at 2, 2.")
    assert drawn == [(2, 0), (2, 2)]


def noisy(ax: Axes, x: int) -> str:
    """Draw what compresses badly."""
    ax.plot([(7**n * (x + 3)) % 101 for n in range(60)], linewidth=0.5)
    return f"Noise {x}."


@pytest.mark.breaks("companion/explore.py", "if size > LIMIT:", "if size > 1.5 * LIMIT:")
def test_a_grid_is_stored_up_to_the_limit_and_refused_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert LIMIT == 150_000
    monkeypatch.setattr(module, "LIMIT", 60_000)
    with pytest.raises(ValueError, match=r"40 = 40 pictures of about [\d.]+ KB, \d+ KB") as refused:
        explore(noisy, alt="Noise.", x=range(40))
    said = re.search(r"about ([\d.]+) KB, (\d+) KB .* so (\d+) such .* fit", str(refused.value))
    each, all_of_them, fits = map(float, said.groups())
    assert all_of_them == pytest.approx(40 * each, rel=0.02)
    explorer = explore(noisy, alt="Noise.", x=range(int(fits)))
    size = len(gzip.compress(explorer.html().encode()))
    assert 60_000 - 1.2 * 1000 * each < size <= 60_000
    with pytest.raises(ValueError, match="would fit"):
        explore(noisy, alt="Noise.", x=range(int(fits) + 1))


def test_a_huge_grid_is_refused_without_drawing_all_of_it() -> None:
    drawn = []

    def draw(ax: Axes, x: int, y: int) -> str:
        drawn.append(x)
        return noisy(ax, y)

    with pytest.raises(ValueError, match="100 × 100 = 10000 pictures"):
        explore(draw, alt="Noise.", x=range(100), y=range(100))
    assert len(drawn) < 40


@pytest.mark.parametrize(
    ("draw", "arguments", "error", "message"),
    [
        (dot, {}, ValueError, "grids needs at least one parameter"),
        (dot, {"x": []}, ValueError, "x needs at least 2 values to slide between, got 0"),
        (dot, {"x": [1]}, ValueError, "x needs at least 2 values to slide between, got 1"),
        (dot, {"x": 3}, TypeError, "x must be a sequence of values, got int"),
        (dot, {"x": "12"}, TypeError, "x must be a sequence of values, got str"),
        (dot, {"x": {1, 2}}, TypeError, "x must be a sequence of values, got set"),
        (dot, {"x": [1, 1.0]}, ValueError, r"x has values that read alike: \['1', '1'\]"),
        (dot, {"y": [1, 2]}, TypeError, "draw must take an Axes and y: missing .*'x'"),
        (dot, {"x": [1, 2], "z": [1, 2]}, TypeError, "draw must take an Axes and x, z: .*'z'"),
        ("dot", {"x": [1, 2]}, TypeError, "draw must be a function, got str"),
        (lambda ax, x: None, {"x": [1, 2]}, TypeError, "must return a sentence .*got None"),
        (lambda ax, x: " ", {"x": [1, 2]}, TypeError, "must return a sentence .*got ' '"),
        (dot, {"x": [1, 2], "alt": " "}, ValueError, "alt must say what"),
        (dot, {"x": [1, 2], "labels": {"a": "b"}}, ValueError, r"labels must be of \['x'\]"),
    ],
)
def test_what_cannot_be_explored_is_refused(
    draw: Callable[..., str], arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        explore(draw, **({"alt": "A dot."} | arguments))


@pytest.mark.parametrize(
    ("value", "word"),
    [(2, "2"), (0.1 + 0.2, "0.3"), (1e-7, "1e-07"), ("tanh", "tanh"), (True, "True")],
)
def test_values_are_shown_as_words(value: object, word: str) -> None:
    assert module._word(value) == word
