"""Every slider, moved in a real browser by key and by touch: what is seen and read must follow."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from chapters import chapter_files
from matplotlib.axes import Axes
from playwright.sync_api import Browser, Locator, Page, Request

from companion.explore import LIMIT, explore

from .browsing import CHAPTERS, PHONE, PHONE_WIDTHS, RATIOS, opened, resize, screen

SMALLEST_TARGET = 24  # CSS pixels, WCAG 2.2 success criterion 2.5.8
# All that a set of sliders shows, once its picture is there.
SHOWN = """async box => {
  const picture = box.querySelector("img");
  await picture.decode();
  return {frame: [picture.getAttribute("src"), box.querySelector("figcaption").textContent],
    read: [...box.querySelectorAll("input")].map(each => each.getAttribute("aria-valuetext")),
    written: [...box.querySelectorAll("output")].map(each => each.textContent)};
}"""
# The places of whatever must lie within the page.
PLACES = """() => [...document.querySelectorAll(".explore, .explore img, .explore input")]
  .map(part => part.getBoundingClientRect()).map(box => [box.left, box.right])"""
# Whether a finger that comes down on the middle of a slider meets it.
REACHED = """slider => {
  slider.scrollIntoView({block: "center", behavior: "instant"});
  const box = slider.getBoundingClientRect();
  const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
  return slider === document.elementFromPoint(x, y);
}"""


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


def state(box: Locator) -> tuple[str, str]:
    return box.locator("img").get_attribute("src"), box.locator("figcaption").text_content()


def frames(box: Locator) -> list[tuple[str, str]]:
    """The frames of a box that stands at its first."""
    others = json.loads(box.locator("script[type]").text_content())
    return [state(box), *map(tuple, others)]


def all_words(box: Locator) -> list[list[str]]:
    """What each slider of a box says at each of its positions."""
    return [json.loads(each.get_attribute("data-words")) for each in box.locator("input").all()]


def tour(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every combination of positions, each one step of one slider from the one before."""
    if not sizes:
        yield ()
        return
    for at, rest in enumerate(tour(sizes[1:])):
        steps = range(sizes[0]) if at % 2 == 0 else reversed(range(sizes[0]))
        yield from ((step, *rest) for step in steps)


def number(position: Sequence[int], sizes: Sequence[int]) -> int:
    """Which frame belongs to a position; the last slider turns fastest."""
    at = 0
    for step, size in zip(position, sizes, strict=True):
        at = at * size + step
    return at


def see(box: Locator, words: list[list[str]], position: Sequence[int], frame: object) -> None:
    """See that a box shows a frame and says its position."""
    shown = box.evaluate(SHOWN)
    said = [each[step] for each, step in zip(words, position, strict=True)]
    assert tuple(shown["frame"]) == frame, position
    assert shown["read"] == shown["written"] == said


def walk(page: Page, box: Locator) -> None:
    """Move through every combination, one key a step, and see the right frame at each."""
    sliders, words, expected = box.locator("input").all(), all_words(box), frames(box)
    sizes = [len(each) for each in words]
    assert len(set(expected)) == len(expected)
    before = (0,) * len(sizes)
    seen = set()
    for position in tour(sizes):
        for slider, was, now in zip(sliders, before, position, strict=True):
            if was != now:
                slider.focus()
                page.keyboard.press("ArrowRight" if now > was else "ArrowLeft")
        see(box, words, position, expected[number(position, sizes)])
        seen.add(number(position, sizes))
        before = position
    assert seen == set(range(len(expected)))
    for slider in sliders:
        slider.focus()
        page.keyboard.press("Home")
    see(box, words, (0,) * len(sizes), expected[0])
    page.keyboard.press("End")
    see(box, words, (*(0,) * len(sizes[1:]), sizes[-1] - 1), expected[sizes[-1] - 1])


def touch(page: Page, box: Locator) -> None:
    """Tap each slider at its right end, then at its left, and see the frame that belongs there."""
    words = all_words(box)
    sizes = [len(each) for each in words]
    sliders = box.locator("input").all()
    expected = frames(box)
    at = [0] * len(sizes)
    for right in (True, False):
        for which, slider in enumerate(sliders):
            assert slider.evaluate(REACHED)
            place = slider.bounding_box()
            across = place["width"] - 2 if right else 2
            page.touchscreen.tap(place["x"] + across, place["y"] + place["height"] / 2)
            at[which] = sizes[which] - 1 if right else 0
            see(box, words, at, expected[number(at, sizes)])


def test_a_tour_goes_through_every_combination_step_by_step() -> None:
    stops = list(tour((3, 2, 4)))
    assert len(set(stops)) == len(stops) == 24
    for before, after in itertools.pairwise(stops):
        assert sum(abs(a - b) for a, b in zip(before, after, strict=True)) == 1


def test_every_chapter_has_sliders(site: Path) -> None:
    having = {page.stem for page in site.glob("*.html") if 'class="explore"' in page.read_text()}
    assert having == {path.stem for path in chapter_files()}


@pytest.mark.parametrize("name", CHAPTERS)
def test_sliders_fetch_their_pictures_fit_and_move_by_key(
    name: str, browser: Browser, site: Path
) -> None:
    html = (site / name).read_text("utf-8")
    pictures = set(re.findall(r"_images/slider-\w+\.webp", html))
    assert "data:image/webp" not in html
    assert len(pictures) >= 2
    assert sum((site / picture).stat().st_size for picture in pictures) <= LIMIT
    fetched: set[str] = set()

    def all_are_there(request: Request) -> bool:
        fetched.add(f"_images/{Path(request.url).name}")
        return len(fetched & pictures) >= len(pictures) - 1  # the first one may have been

    with opened(browser) as page:
        page.goto((site / name).as_uri())
        with page.expect_request(all_are_there):
            page.locator(".explore input").first.focus()
        for width in (360, 1440):
            resize(page, width)
            places = page.evaluate(PLACES)
            assert len(places) >= 3
            assert all(left >= 0 and right <= width for left, right in places)
            for slider in page.locator(".explore input").all():
                assert slider.bounding_box()["height"] >= SMALLEST_TARGET
        for box in page.locator(".explore").all():
            assert box.locator("figcaption").get_attribute("aria-live") == "polite"
            walk(page, box)


@pytest.mark.parametrize("name", CHAPTERS)
def test_sliders_move_by_touch(name: str, browser: Browser, site: Path) -> None:
    with opened(browser, **PHONE) as page:
        page.goto((site / name).as_uri())
        for ratio in RATIOS:
            screen(page, PHONE_WIDTHS[0], ratio)
            for box in page.locator(".explore").all():
                touch(page, box)


def test_each_slider_moves_only_its_own_picture(browser: Browser, two: Path) -> None:
    with opened(browser) as page:
        page.goto(two.as_uri())
        first, second = page.locator(".explore").all()
        before = state(first)
        walk(page, second)
        assert state(first) == before
        walk(page, first)
        assert page.get_by_label("b", exact=True).count() == 2


def test_without_javascript_the_first_picture_stands(browser: Browser, two: Path) -> None:
    with opened(browser, java_script_enabled=False) as page:
        page.goto(two.as_uri())
        for box in page.locator(".explore").all():
            assert box.locator("img").is_visible()
            assert box.locator("figcaption").text_content() == "a is 0 & b is 0."
            assert "need JavaScript" in box.locator(".explore-still").inner_text()
            assert not box.locator("input").first.is_visible()
