"""Reading the book in a browser: what a page weighs, the keyboard, the search, without scripts."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route

from .browsing import CHAPTERS, once_there, resize, rest

JOINED = "_static/styles/book.css"
LIGHT = 500_000  # bytes of a chapter page, compressed and without its figures
# The browser hands out the shifts so far at once.
SHIFT = """() => {
  const shifts = new PerformanceObserver(() => {});
  shifts.observe({type: "layout-shift", buffered: true});
  return shifts.takeRecords().reduce((sum, each) => sum + each.value, 0);
}"""
# What has the focus, once what moves on that account has come to rest, as the skip link does.
FOCUS = """() => {
  if (document.getAnimations().some(each => each.playState === "running")) return null;
  const e = document.activeElement, s = getComputedStyle(e), box = e.getBoundingClientRect();
  const marked = s.outlineStyle !== "none" && parseFloat(s.outlineWidth) > 0
    || s.boxShadow !== "none";
  return {text: e.textContent.trim(), body: e === document.body,
    visible: marked && box.width > 0 && box.bottom > 0 && box.top < innerHeight};
}"""
# All computed styles of each element, but for custom properties: a digest of them, which is light
# to compare, or in words for the elements asked for.
LOOKS = """wanted => {
  const names = [...getComputedStyle(document.body)].filter(name => !name.startsWith("--"));
  return [...document.querySelectorAll("body, body *")].map((element, at) => {
    if (wanted && !wanted.includes(at)) return null;
    const style = getComputedStyle(element), name = `${element.tagName}.${element.className}`;
    const values = [name, ...names.map(each => style.getPropertyValue(each))];
    if (wanted) return values.map((value, at) => `${names[at - 1]}: ${value}`).join("; ");
    let digest = 0x811c9dc5;
    for (const value of values)
      for (let i = 0; i <= value.length; i++)
        digest = Math.imul(digest ^ (value.charCodeAt(i) || 0), 0x01000193);
    return digest;
  });
}"""


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_is_light_and_stands_still(
    name: str, tab: Page, address: str, site: Path
) -> None:
    sizes = Counter[bool]()
    devtools = tab.context.new_cdp_session(tab)
    devtools.send("Network.enable")
    urls: dict[str, str] = {}
    devtools.on(
        "Network.responseReceived", lambda e: urls.update({e["requestId"]: e["response"]["url"]})
    )
    devtools.on(
        "Network.loadingFinished",
        lambda e: sizes.update(
            {"_images/" in urls.get(e["requestId"], ""): int(e["encodedDataLength"])}
        ),
    )
    tab.set_viewport_size({"width": 360, "height": 900})
    tab.goto(address + name, wait_until="networkidle")
    rest(tab)
    shift = tab.evaluate(SHIFT)
    pictures = set(re.findall(r"_images/[\w.-]+", (site / name).read_text("utf-8")))
    figures = sum((site / picture).stat().st_size for picture in pictures)
    others = sizes[False]
    counted = f"{others} bytes, {len(urls)} requests, figures {figures}, shift {shift:.4f}"
    print(f"{name}: {counted}")  # noqa: T201
    assert 10_000 < others <= LIGHT
    assert shift < 0.01


def test_a_shift_is_seen(tab: Page) -> None:
    tab.set_content("<!doctype html><p>what moves</p>")
    rest(tab)
    assert tab.evaluate(SHIFT) == 0
    tab.evaluate("document.body.style.paddingTop = '300px'")
    tab.wait_for_function(f"() => ({SHIFT})() > 0.01")


def test_a_chapter_looks_as_it_does_with_all_of_the_themes_styles(
    tab: Page, address: str, site: Path
) -> None:
    names = (site / JOINED).read_text("utf-8").splitlines()[1].split()[1:-1]
    whole = "".join(f'<link rel="stylesheet" href="_static/{name}">' for name in names)

    def unjoin(route: Route) -> None:
        response = route.fetch()
        body = re.sub(rf"<link [^>]*{JOINED}[^>]*>", whole, response.text())
        assert body.count(whole) == 1
        route.fulfill(response=response, body=body)

    def looks(wanted: list[int] | None = None) -> Iterator[list]:
        tab.goto(address + CHAPTERS[0], wait_until="networkidle")
        for width in (360, 1440):
            resize(tab, width)
            yield tab.evaluate(LOOKS, wanted)

    next(looks())  # from now on the font is at hand
    joined = list(looks())
    tab.route("**/*.html", unjoin)
    apart = list(looks())
    assert all(len(each) > 1000 for each in joined)
    pairs = zip(itertools.chain(*joined), itertools.chain(*apart), strict=True)
    size = len(joined[0])
    differ = sorted({at % size for at, (a, b) in enumerate(pairs) if a != b})[:3]
    assert not differ, [[each[at] for each in looks(differ)] for at in differ]


def test_the_search_finds_a_known_word(tab: Page, address: str) -> None:
    tab.goto(f"{address}search.html?q=backpropagation")
    tab.wait_for_selector("#search-results li a[href^='backprop.html']")


def test_search_opens_by_keyboard_and_leads_to_results(tab: Page, address: str) -> None:
    tab.goto(address + CHAPTERS[0])  # once loaded, the theme listens to the keyboard
    tab.keyboard.press("Control+k")
    tab.wait_for_selector("#pst-search-dialog[open] input:focus")
    tab.keyboard.type("gradient")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#search-results li a")


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_keyboard_skips_to_the_text_and_shows_where_it_is(
    name: str, calm: Page, address: str
) -> None:
    calm.goto(address + name)
    rest(calm)
    calm.keyboard.press("Tab")
    assert once_there(calm, FOCUS)["text"] == "Skip to main content"
    unmarked = []
    for _ in range(30):
        focus = once_there(calm, FOCUS)
        if not focus["body"] and not focus["visible"]:
            unmarked.append(focus["text"][:60])
        calm.keyboard.press("Tab")
    assert not unmarked, unmarked
    calm.goto(address + name)
    calm.keyboard.press("Tab")
    calm.keyboard.press("Enter")
    calm.wait_for_url("**/*#main-content")


def test_the_verdicts_of_one_kind_can_be_read_alone(still: Page, address: str) -> None:
    """By keyboard, and without scripts."""
    still.goto(f"{address}/verdicts.html")
    kinds = {kind: still.locator(f".callout.verdict.{kind}") for kind in ("holds", "refuted")}
    count = {kind: boxes.count() for kind, boxes in kinds.items()}
    headings = still.locator("article section section > h2")
    all_of_them = headings.locator("visible=true").count()
    still.get_by_label("all (").focus()
    for _ in range(3):  # holds, holds if, refuted
        still.keyboard.press("ArrowRight")
    shown = still.locator(".callout.verdict").locator("visible=true")
    assert shown.count() == kinds["refuted"].locator("visible=true").count() == count["refuted"] > 0
    assert 0 < headings.locator("visible=true").count() < all_of_them
    assert still.get_by_label(f"refuted ({count['refuted']})").is_checked()
    still.get_by_label("holds (").check()
    assert shown.count() == kinds["holds"].locator("visible=true").count() == count["holds"] > 0


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_reads_without_scripts(name: str, still: Page, address: str) -> None:
    still.goto(address + name)
    assert still.locator("article h1").is_visible()
    assert still.locator("article math").first.is_visible()
    assert still.locator(".bd-docs-nav a").first.is_visible()


def test_an_unknown_address_shows_a_page_that_leads_on(tab: Page, address: str) -> None:
    response = tab.goto(f"{address}some/where/else.html")
    assert response is not None
    assert response.status == 404
    assert tab.locator("article h1").inner_text().startswith("No such page")
    tab.locator(".bd-docs-nav a").first.click()
    tab.wait_for_url("**/intro.html")
    assert tab.locator("article h1").is_visible()
