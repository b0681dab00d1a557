"""Every page of the book as a reader's browser shows it: in headless Chromium.

`SCREENSHOTS=folder` (as in `make screenshots`) also keeps a picture of each page, width and mode;
`FONTS` chooses the fonts (see conftest.py).
"""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page

from . import browsing
from .browsing import MODES, PAGES, misplaced, resize, shade, violations, watched

WIDTHS = (320, 360, 768, 1440)
LAYOUTS = (360, 1440)  # 320 and 768 have the small page's layout as well
PART = 6000  # pixels of a page in one screenshot


def keep_screenshot(page: Page, name: str, width: int) -> None:
    """In parts, since Chromium leaves blank what is further down than about 16,000 pixels."""
    if folder := os.environ.get("SCREENSHOTS"):
        mode = page.evaluate("document.documentElement.dataset.theme")
        height = page.evaluate("document.documentElement.scrollHeight")
        for part, top in enumerate(range(0, height, PART), start=1):
            clip = {"x": 0, "y": top, "width": width, "height": min(PART, height - top)}
            path = Path(folder) / f"{Path(name).stem}-{width}-{mode}-{part}.png"
            page.screenshot(path=path, full_page=True, clip=clip)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_sound_accessible_and_fits(name: str, desk: Page, address: str) -> None:
    desk.emulate_media(color_scheme=MODES[0])
    with watched(desk, address) as wrong:
        desk.goto(address + name)
        assert desk.evaluate("document.documentElement.dataset.theme") == MODES[0]
        for mode in MODES:
            shade(desk, mode)
            for width in WIDTHS:
                resize(desk, width)
                found = misplaced(desk)
                if width in LAYOUTS:
                    found += violations(desk)
                wrong += [f"{width} px, {mode}: {each}" for each in found]
                keep_screenshot(desk, name, width)
    assert not wrong, "\n".join(wrong)


def test_contrast_is_looked_at_wherever_it_may_differ(tab: Page, address: str) -> None:
    """Three places of each look find what all places find, also where one alone is at fault."""
    tab.goto(f"{address}symptoms.html")
    resize(tab, 360)
    assert violations(tab) == []
    tab.add_style_tag(
        content="""
        article .highlight .k { color: #aaa; }
        article p:nth-of-type(2) code, .eqno { color: #999 !important; }
        article > section > section:nth-of-type(3) { background: #777; }"""
    )
    tab.evaluate("document.querySelectorAll('article li')[1].style.color = '#ccc'")
    tab.evaluate("document.querySelectorAll('article .mi')[9].style.color = '#bbb'")

    def faults(found: list[str]) -> set[str]:
        return {each.partition("insufficient")[2].partition("\n")[0] for each in found}

    short, whole = violations(tab), violations(tab, contrast="*")
    assert 10 < len(short) < len(whole)
    assert faults(short) == faults(whole)
    assert len(faults(short)) > 5


@pytest.mark.parametrize(
    ("planted", "seen"),
    [
        ("<p style='margin-left: -3em; height: 1em'>left</p>", ["left"]),
        ("<div style='overflow: hidden'><p style='width: 110vw'>right</p></div>", ["right", "div"]),
        (
            "<p style='overflow: hidden; width: 5em; white-space: nowrap'>one that is long</p>",
            ["long"],
        ),
        (f"<p style='width: 5em'>{'w' * 999}</p>", ["www", "sideways"]),
        ("<div style='overflow: auto'><p style='width: 110vw'>it scrolls</p></div>", []),
        ("<p style='visibility: hidden; margin-left: -3em'>hidden</p>", []),
        ("<img src='data:image/png;base64,AA==' alt=''>", ["broken"]),
    ],
)
def test_what_sticks_out_is_seen(planted: str, seen: list[str], tab: Page) -> None:
    tab.set_content(f"<!doctype html><body style='margin: 0'>{planted}")
    found = misplaced(tab)
    assert bool(found) == bool(seen), found
    assert all(any(word in each for each in found) for word in seen), found


def test_a_page_that_does_not_come_to_rest_says_why(tab: Page) -> None:
    tab.set_default_timeout(300)
    tab.set_content(
        "<!doctype html><style>@keyframes turn { to { rotate: 1turn } }</style>"
        "<p style='animation: turn 1s infinite'>it turns</p>"
    )
    with pytest.raises(AssertionError, match=r'no rest: .*"running":\["turn"\]'):
        browsing.rest(tab)


def test_boxes_that_begin_to_scroll_later_are_reached(tab: Page, address: str) -> None:
    """The window keeps its size, as where fonts or a slow layout change the page after a while."""
    tab.goto(f"{address}symptoms.html")
    browsing.rest(tab)
    count = "document.querySelectorAll('pre[tabindex=\"0\"]').length"
    before = tab.evaluate(count)
    tab.evaluate("document.querySelector('.bd-article').style.width = '12rem'")
    browsing.rest(tab)
    assert tab.evaluate(count) > before
