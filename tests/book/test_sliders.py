"""Every slider, moved in a real browser by key: what is seen and read must follow."""

import itertools
import re
from pathlib import Path

import pytest
from chapters import chapter_files
from matplotlib.axes import Axes
from playwright.sync_api import Browser, Page, Request

from companion.explore import LIMIT, explore

from .browsing import CHAPTERS, opened, resize
from .sliders import state, tour, walk

SMALLEST_TARGET = 24  # CSS pixels, WCAG 2.2 success criterion 2.5.8
# The places of whatever must lie within the page.
PLACES = """() => [...document.querySelectorAll(".explore, .explore img, .explore input")]
  .map(part => part.getBoundingClientRect()).map(box => [box.left, box.right])"""


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
    name: str, desk: Page, site: Path
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

    desk.goto((site / name).as_uri())
    with desk.expect_request(all_are_there):
        desk.locator(".explore input").first.focus()
    for width in (360, 1440):
        resize(desk, width)
        places = desk.evaluate(PLACES)
        assert len(places) >= 3
        assert all(left >= 0 and right <= width for left, right in places)
        for slider in desk.locator(".explore input").all():
            assert slider.bounding_box()["height"] >= SMALLEST_TARGET
    for box in desk.locator(".explore").all():
        assert box.locator("figcaption").get_attribute("aria-live") == "polite"
        walk(desk, box)


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
