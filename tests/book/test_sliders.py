"""Every slider, moved by keyboard in a real browser: the picture and what is read must follow."""

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chapters import ROOT
from matplotlib.axes import Axes

from companion.explore import explore

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

SMALLEST_TARGET = 24  # CSS pixels, WCAG 2.2 success criterion 2.5.8


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no browser tests: the playwright package is not installed"
    )
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no browser tests: neither chromium nor google-chrome is on the PATH")
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The pages of the built book that have sliders."""
    output = tmp_path_factory.mktemp("sliders")
    command = [sys.executable, str(ROOT / "book/_tools/build.py"), str(ROOT), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    html = sorted((output / "_build" / "html").glob("*.html"))
    return [page for page in html if 'class="explore"' in page.read_text("utf-8")]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A page with two sets of sliders of different shapes."""

    def draw(ax: Axes, a: int, b: int) -> str:
        ax.figure.set_facecolor((a / 4, b / 4, 0.5))
        return f"a is {a} & b is {b}."

    sets = [explore(draw, alt="A colour.", a=range(n), b=range(m)) for n, m in ((3, 2), (2, 4))]
    path = tmp_path / "two.html"
    html = "".join(each.html() for each in sets)
    path.write_text(f"<!doctype html><meta charset=utf-8>{html}", encoding="utf-8")
    return path


def opened(browser: "Browser", path: Path, **options: object) -> "Page":
    page = browser.new_context(**options).new_page()
    page.goto(path.as_uri())
    return page


def state(box: "Locator") -> tuple[str, str]:
    return box.locator("img").get_attribute("src"), box.locator("figcaption").text_content()


def frames(box: "Locator") -> list[tuple[str, str]]:
    """The frames of a box that stands at its first."""
    others = json.loads(box.locator("script[type]").text_content())
    return [state(box), *map(tuple, others)]


def walk(page: "Page", box: "Locator") -> None:
    """Move through every combination, by keyboard, and see the right frame at each."""
    sliders = box.locator("input").all()
    words = [json.loads(slider.get_attribute("data-words")) for slider in sliders]
    expected = frames(box)
    assert len(set(expected)) == len(expected)
    positions = itertools.product(*(range(len(each)) for each in words))
    for at, position in enumerate(positions):
        for slider, said, steps in zip(sliders, words, position, strict=True):
            slider.focus()
            page.keyboard.press("Home")
            for _ in range(steps):
                page.keyboard.press("ArrowRight")
            assert slider.get_attribute("aria-valuetext") == said[steps]
        assert state(box) == expected[at], position
        assert box.locator("output").all_text_contents() == [
            each[steps] for each, steps in zip(words, position, strict=True)
        ]
    for slider in sliders:
        slider.focus()
        page.keyboard.press("Home")
    sliders[-1].focus()
    page.keyboard.press("End")
    assert state(box) == expected[len(words[-1]) - 1]


def test_every_slider_of_the_book_moves_its_picture(browser: "Browser", pages: list[Path]) -> None:
    assert {page.stem for page in pages} >= {"symptoms", "backprop"}
    for path in pages:
        page = opened(browser, path)
        for box in page.locator(".explore").all():
            assert box.locator("figcaption").get_attribute("aria-live") == "polite"
            walk(page, box)


@pytest.mark.parametrize("width", [360, 1440])
def test_sliders_fit_and_can_be_hit(browser: "Browser", pages: list[Path], width: int) -> None:
    for path in pages:
        page = opened(browser, path, viewport={"width": width, "height": 800})
        for part in page.locator(".explore, .explore img, .explore input").all():
            place = part.bounding_box()
            assert place["x"] >= 0, path.stem
            assert place["x"] + place["width"] <= width, path.stem
        for slider in page.locator(".explore input").all():
            assert slider.bounding_box()["height"] >= SMALLEST_TARGET, path.stem


def test_each_slider_moves_only_its_own_picture(browser: "Browser", two: Path) -> None:
    page = opened(browser, two)
    first, second = page.locator(".explore").all()
    before = state(first)
    walk(page, second)
    assert state(first) == before
    walk(page, first)
    assert page.get_by_label("b", exact=True).count() == 2


def test_without_javascript_the_first_picture_stands(browser: "Browser", two: Path) -> None:
    page = opened(browser, two, java_script_enabled=False)
    for box in page.locator(".explore").all():
        assert box.locator("img").is_visible()
        assert box.locator("figcaption").text_content() == "a is 0 & b is 0."
        assert "need JavaScript" in box.locator(".explore-still").inner_text()
        assert not box.locator("input").first.is_visible()
