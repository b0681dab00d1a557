"""Every slider, moved by keyboard in a real browser: the picture and what is read must follow."""

import itertools
import json
import re
from pathlib import Path

import pytest
from chapters import chapter_files
from matplotlib.axes import Axes
from playwright.sync_api import Browser, Locator, Page

from companion.explore import LIMIT, explore

LOADED = "picture => picture.complete && picture.naturalWidth > 0"
SMALLEST_TARGET = 24  # CSS pixels, WCAG 2.2 success criterion 2.5.8


@pytest.fixture(scope="module")
def chapters(site: Path) -> list[Path]:
    """The pages of the built book that have sliders."""
    return [page for page in site.glob("*.html") if 'class="explore"' in page.read_text("utf-8")]


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


def opened(browser: Browser, path: Path, **options: object) -> Page:
    page = browser.new_context(**options).new_page()
    page.goto(path.as_uri())
    return page


def state(box: Locator) -> tuple[str, str]:
    return box.locator("img").get_attribute("src"), box.locator("figcaption").text_content()


def frames(box: Locator) -> list[tuple[str, str]]:
    """The frames of a box that stands at its first."""
    others = json.loads(box.locator("script[type]").text_content())
    return [state(box), *map(tuple, others)]


def walk(page: Page, box: Locator) -> None:
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
        page.wait_for_function(LOADED, arg=box.locator("img").element_handle())
        assert box.locator("output").all_text_contents() == [
            each[steps] for each, steps in zip(words, position, strict=True)
        ]
    for slider in sliders:
        slider.focus()
        page.keyboard.press("Home")
    sliders[-1].focus()
    page.keyboard.press("End")
    assert state(box) == expected[len(words[-1]) - 1]


def test_every_slider_of_the_book_moves_its_picture(browser: Browser, chapters: list[Path]) -> None:
    assert {page.stem for page in chapters} == {path.stem for path in chapter_files()}
    for path in chapters:
        page = opened(browser, path)
        for box in page.locator(".explore").all():
            assert box.locator("figcaption").get_attribute("aria-live") == "polite"
            walk(page, box)


def test_the_pictures_are_files_that_a_page_fetches_when_they_are_wanted(
    browser: Browser, chapters: list[Path]
) -> None:
    for path in chapters:
        html = path.read_text("utf-8")
        pictures = set(re.findall(r"_images/slider-\w+\.webp", html))
        assert "data:image/webp" not in html
        assert len(pictures) >= 2, path.stem
        assert sum((path.parent / picture).stat().st_size for picture in pictures) <= LIMIT
        page = opened(browser, path)
        fetched: set[str] = set()
        page.on("request", lambda request, to=fetched: to.add(f"_images/{Path(request.url).name}"))
        page.locator(".explore input").first.focus()
        page.wait_for_timeout(200)
        assert len(fetched & pictures) >= len(pictures) - 1, path.stem  # the first one may be there


@pytest.mark.parametrize("width", [360, 1440])
def test_sliders_fit_and_can_be_hit(browser: Browser, chapters: list[Path], width: int) -> None:
    for path in chapters:
        page = opened(browser, path, viewport={"width": width, "height": 800})
        for part in page.locator(".explore, .explore img, .explore input").all():
            place = part.bounding_box()
            assert place["x"] >= 0, path.stem
            assert place["x"] + place["width"] <= width, path.stem
        for slider in page.locator(".explore input").all():
            assert slider.bounding_box()["height"] >= SMALLEST_TARGET, path.stem


def test_each_slider_moves_only_its_own_picture(browser: Browser, two: Path) -> None:
    page = opened(browser, two)
    first, second = page.locator(".explore").all()
    before = state(first)
    walk(page, second)
    assert state(first) == before
    walk(page, first)
    assert page.get_by_label("b", exact=True).count() == 2


def test_without_javascript_the_first_picture_stands(browser: Browser, two: Path) -> None:
    page = opened(browser, two, java_script_enabled=False)
    for box in page.locator(".explore").all():
        assert box.locator("img").is_visible()
        assert box.locator("figcaption").text_content() == "a is 0 & b is 0."
        assert "need JavaScript" in box.locator(".explore-still").inner_text()
        assert not box.locator("input").first.is_visible()
