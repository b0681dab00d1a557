"""The book on phones, on screens with fine pixels, on paper, and in other fonts."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from . import fonts
from .browsing import (
    MODES,
    PAGES,
    PHONE_WIDTHS,
    RATIOS,
    misplaced,
    opened,
    rest,
    screen,
    shade,
    watched,
)
from .conftest import Launch
from .sliders import touch

MATH = re.compile(r'<(span|div) class="math[^>]*>.*?</math>(?:<span[^>]*>[^<]*</span>)?</\1>', re.S)
# Puts formulas in the place of a page's text; those of a line of their own stand side by side.
SPECIMEN = """([inline, own]) => {
  document.querySelector("article section").innerHTML = `<p>${inline.join(" ")}</p>`
    + `<div style="display: flex; flex-wrap: wrap; gap: 0 2rem">${own.join("")}</div>`;
}"""
FORMULAS = """() => [...document.querySelectorAll("article .math")].map(formula => {
  const box = formula.querySelector("math").getBoundingClientRect();
  return [formula.textContent, box.left, box.top + scrollY, box.right, box.bottom + scrollY];
})"""
# What the theme does, and what undoes it wherever it is done.
CUTTING = ".bd-content span.math { display: inline-flex; overflow: hidden; }"
UNCUT = "article, article * { overflow: visible !important; }"
# The book's font of mathematics serves the next page if it comes late; here it is waited for.
FONT = """@font-face {
  font-family: "Course Math"; src: url("_static/math.woff2"); font-display: block;
}"""
SHEET = {"viewport": {"width": 800, "height": 900}}
INK = 60  # of 255: how much darker a drawn pixel is than the page
PAPERS = {"A4": (21.0, 29.7), "Letter": (21.59, 27.94)}  # cm


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone_and_its_sliders_move_by_touch(
    name: str, phone: Page, address: str
) -> None:
    with watched(phone, address) as wrong:
        phone.goto(address + name)
        for ratio in RATIOS:
            for width in PHONE_WIDTHS:
                screen(phone, width, ratio)
                wrong += [f"{width} px at {ratio}: {each}" for each in misplaced(phone)]
            for box in phone.locator(".explore").all():
                touch(phone, box)
    assert not wrong, "\n".join(wrong)


def show(page: Page, address: str, formulas: tuple[list[str], list[str]]) -> None:
    """Show formulas in a page of the book, in the font that they have there."""
    page.goto(f"{address}notation.html")
    page.add_style_tag(content=FONT)
    assert page.evaluate("async () => (await document.fonts.load('16px Course Math')).length")
    page.evaluate(SPECIMEN, formulas)
    rest(page)


def ink(page: Page) -> np.ndarray:
    """What is drawn on a page: for each pixel of the screen how far it is from white."""
    picture = page.screenshot(full_page=True, type="jpeg", quality=90)
    return 255 - np.asarray(Image.open(io.BytesIO(picture)).convert("L"), dtype=np.int16)


def cut_rows(page: Page) -> dict[str, int]:
    """How many rows of pixels each formula of a page lacks of what it would show uncut."""
    formulas, shown = page.evaluate(FORMULAS), ink(page)
    page.add_style_tag(content=UNCUT)
    rest(page)
    assert page.evaluate(FORMULAS) == formulas
    whole = ink(page)
    assert (whole > INK).sum() > 100 * len(formulas)
    lost = (whole > INK) & (shown < whole - INK)
    ratio = page.evaluate("devicePixelRatio")
    cut = {}
    for text, *box in formulas:
        left, top, right, bottom = (round(ratio * edge) for edge in box)
        rows = lost[top - 5 * ratio : bottom + 5 * ratio, left:right].any(axis=1).sum()
        if rows:
            cut[text] = int(rows)
    assert cut or not lost.any()
    return cut


@pytest.fixture(scope="module")
def mathematics(site: Path) -> tuple[list[str], list[str]]:
    """Every formula of the book once: those within a line, and those on a line of their own."""
    text = "".join(path.read_text("utf-8") for path in sorted(site.glob("*.html")))
    found = {formula[0]: formula[1] for formula in MATH.finditer(text)}
    assert len(MATH.findall(text)) == len(re.findall(r'class="math\b', text))
    inline, own = ([each for each in found if found[each] == tag] for tag in ("span", "div"))
    assert len(inline) > 100
    assert len(own) > 30
    return inline, own


@pytest.mark.parametrize("ratio", [2, 3])
def test_no_formula_is_cut_off(
    ratio: int, browser: Browser, address: str, mathematics: tuple[list[str], list[str]]
) -> None:
    with opened(browser, **SHEET, device_scale_factor=ratio) as page:
        show(page, address, mathematics)
        assert cut_rows(page) == {}


@pytest.mark.parametrize("ratio", [2, 3])
def test_a_formula_that_is_cut_off_is_seen(
    ratio: int, browser: Browser, address: str, mathematics: tuple[list[str], list[str]]
) -> None:
    with opened(browser, **SHEET, device_scale_factor=ratio) as page:
        show(page, address, (mathematics[0][:60], []))
        page.add_style_tag(content=CUTTING)
        rest(page)
        assert len(cut_rows(page)) > 10


def printed(page: Page, width: float, height: float) -> int:
    """On how many sheets of this size in cm a page is printed."""
    margin = dict.fromkeys(("top", "right", "bottom", "left"), "1cm")
    paper = page.pdf(width=f"{width}cm", height=f"{height}cm", margin=margin)
    return len(re.findall(rb"/Type\s*/Page\b", paper))


@pytest.mark.parametrize("paper", PAPERS)
def test_the_checklist_leaves_a_sixth_of_its_sheet_free(
    paper: str, tab: Page, address: str
) -> None:
    tab.goto(f"{address}checklist.html")
    rest(tab)
    width, height = PAPERS[paper]
    assert printed(tab, width, height * 5 / 6) == 1
    assert printed(tab, width, height / 2) > 1


@pytest.mark.parametrize("mode", MODES)
def test_a_chapter_prints(mode: str, tab: Page, address: str) -> None:
    with watched(tab, address) as wrong:
        tab.goto(f"{address}symptoms.html")
        shade(tab, mode)
        assert printed(tab, *PAPERS["A4"]) > 10
    assert not wrong


def drawn(page: Page, selector: str) -> list[set[str]]:
    """The fonts of this machine that each of the elements is drawn with."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("DOM.enable")
    devtools.send("CSS.enable")
    root = devtools.send("DOM.getDocument")["root"]["nodeId"]
    found = devtools.send("DOM.querySelectorAll", {"nodeId": root, "selector": selector})
    return [
        {font["familyName"] for font in platform_fonts(devtools, node) if not font["isCustomFont"]}
        for node in found["nodeIds"]
    ]


def platform_fonts(devtools: Any, node: int) -> list[dict[str, Any]]:  # noqa: ANN401
    return devtools.send("CSS.getPlatformFontsForNode", {"nodeId": node})["fonts"]


@pytest.mark.parametrize("family", fonts.FAMILIES)
def test_a_browser_can_have_the_fonts_of_one_family_alone(family: str, launch: Launch) -> None:
    asked = [(name, kind) for kind, names in fonts.ASKED.items() for name in names]
    asked += [(f"{other} Sans, sans-serif", "Sans") for other in fonts.FAMILIES]
    with opened(launch(family)) as page:
        page.set_content("".join(f'<p style="font-family: {name}">Word' for name, _ in asked))
        assert drawn(page, "p") == [{fonts.face(family, kind)} for _, kind in asked]


def test_the_book_is_drawn_in_the_fonts_that_were_chosen(tab: Page, address: str) -> None:
    family = fonts.chosen()
    if family is None:
        pytest.skip("FONTS is not set: the pages are drawn in whatever fonts this machine has")
    tab.goto(f"{address}symptoms.html")
    found = [fonts_of for fonts_of in drawn(tab, "h1, h2, p, pre, li, a, figcaption") if fonts_of]
    assert len(found) > 100
    strange = {name for names in found for name in names if not name.startswith(f"{family} ")}
    assert not strange
