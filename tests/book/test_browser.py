"""The book as a reader's browser shows it: every page in headless Chromium.

`SCREENSHOTS=folder` (as in `make screenshots`) also keeps a picture of each page, width and mode.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from chapters import chapter_files, toc_files
from playwright.sync_api import Browser, BrowserContext, Page, Route
from playwright.sync_api import TimeoutError as PlaywrightTimeout

PAGES = [f"{path.stem}.html" for path in toc_files()]
PAGES += ["index.html", "search.html", "genindex.html", "404.html"]
CHAPTERS = [f"{path.stem}.html" for path in chapter_files()]
WIDTHS = (360, 768, 1440)
MODES = ("light", "dark")
JOINED = "_static/styles/book.css"
PART = 6000  # pixels of a page in one screenshot
LIGHT = 500_000  # bytes of a chapter page, compressed and without its figures
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
# Whatever sticks out of the page and stands in no box that scrolls by itself.
STICKING_OUT = """() => {
  const scrolls = e => e && (["auto", "scroll"].includes(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  return document.scrollingElement.scrollWidth <= innerWidth ? [] :
    [...document.querySelectorAll("body *")]
      .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e.parentElement))
      .map(e => e.outerHTML.slice(0, 120));
}"""
SHIFT = """() => new Promise(done => {
  let sum = 0;
  new PerformanceObserver(list => {
    for (const entry of list.getEntries()) sum += entry.value;
  }).observe({type: "layout-shift", buffered: true});
  setTimeout(() => done(sum), 300);
})"""
FOCUS = """() => {
  const e = document.activeElement, s = getComputedStyle(e), box = e.getBoundingClientRect();
  const marked = s.outlineStyle !== "none" && parseFloat(s.outlineWidth) > 0
    || s.boxShadow !== "none";
  return {text: e.textContent.trim(), body: e === document.body,
    visible: marked && box.width > 0 && box.bottom > 0 && box.top < innerHeight};
}"""

COMPLETE = """() => Promise.all([...document.images].map(image => {
  image.loading = "eager";
  return image.decode();
}))"""
STRETCHED = """() => [...document.querySelectorAll("article img")]
  .filter(i => i.naturalWidth && i.width && i.height
    && Math.abs(i.width / i.height / (i.naturalWidth / i.naturalHeight) - 1) > 0.02)
  .map(i => i.outerHTML.slice(0, 120))"""
# Every element with all of its computed styles, but for custom properties.
LOOKS = """() => [...document.querySelectorAll("body, body *")].map(e => {
  const style = getComputedStyle(e);
  return e.tagName + "." + e.className + ": "
    + [...style].map(name => name + " " + style.getPropertyValue(name)).join("; ");
})"""
SETTLED = f"() => {{const focus = ({FOCUS})(); return focus.body || focus.visible}}"


@pytest.fixture(scope="module", params=MODES)
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    opened = browser.new_context(color_scheme=request.param)
    yield opened
    opened.close()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    yield opened
    opened.close()


def watched(page: Page, address: str) -> list[str]:
    """What goes wrong on a page from now on: in its console, and in what it requests."""
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    page.on("response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    page.on(
        "request",
        lambda r: (
            None if r.url.startswith((address, "data:")) else wrong.append(f"foreign: {r.url}")
        ),
    )
    return wrong


def keep_screenshot(page: Page, name: str, width: int) -> None:
    """In parts, since Chromium leaves blank what is further down than about 16,000 pixels."""
    if folder := os.environ.get("SCREENSHOTS"):
        mode = page.evaluate("document.documentElement.dataset.theme")
        height = page.evaluate("document.documentElement.scrollHeight")
        for part, top in enumerate(range(0, height, PART), start=1):
            clip = {"x": 0, "y": top, "width": width, "height": min(PART, height - top)}
            path = Path(folder) / f"{Path(name).stem}-{width}-{mode}-{part}.png"
            page.screenshot(path=path, full_page=True, clip=clip)


def violations(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2, levels A and AA."""
    found = Axe().run(page, options={"runOnly": WCAG, "resultTypes": ["violations"]}).response
    assert found["passes"], "axe has checked nothing"
    return [
        f"{rule['id']}: {node['html'][:150]}: {node['failureSummary'][:300]}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_sound_accessible_and_fits(
    name: str, context: BrowserContext, address: str
) -> None:
    page = context.new_page()
    wrong = watched(page, address)
    page.goto(address + name)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)  # the theme waits for the end of a resize
        if width != 768:  # which has the small page's layout
            wrong += [f"{width} px, {violation}" for violation in violations(page)]
        wrong += [f"{width} px, sticks out: {tag}" for tag in page.evaluate(STICKING_OUT)]
        page.evaluate(COMPLETE)
        wrong += [f"{width} px, stretched: {tag}" for tag in page.evaluate(STRETCHED)]
        keep_screenshot(page, name, width)
    page.close()
    assert not wrong, "\n".join(wrong)


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
    shift = tab.evaluate(SHIFT)
    pictures = set(re.findall(r"_images/[\w.-]+", (site / name).read_text("utf-8")))
    figures = sum((site / picture).stat().st_size for picture in pictures)
    others = sizes[False]
    counted = f"{others} bytes, {len(urls)} requests, figures {figures}, shift {shift:.4f}"
    print(f"{name}: {counted}")  # noqa: T201
    assert 10_000 < others <= LIGHT
    assert shift < 0.01


@pytest.mark.parametrize("width", [360, 1440])
def test_a_chapter_looks_as_it_does_with_all_of_the_themes_styles(
    width: int, tab: Page, address: str, site: Path
) -> None:
    names = (site / JOINED).read_text("utf-8").splitlines()[1].split()[1:-1]
    whole = "".join(f'<link rel="stylesheet" href="_static/{name}">' for name in names)

    def unjoin(route: Route) -> None:
        response = route.fetch()
        body = re.sub(rf"<link [^>]*{JOINED}[^>]*>", whole, response.text())
        assert body.count(whole) == 1
        route.fulfill(response=response, body=body)

    tab.set_viewport_size({"width": width, "height": 900})
    tab.goto(address + CHAPTERS[0], wait_until="networkidle")  # from now on the font is at hand
    looks: list[list[str]] = []
    for change in (False, True):
        if change:
            tab.route("**/*.html", unjoin)
        tab.goto(address + CHAPTERS[0], wait_until="networkidle")
        tab.wait_for_timeout(500)  # what moves has come to rest
        looks.append(tab.evaluate(LOOKS))
    assert len(looks[0]) > 1000
    assert [pair for pair in zip(*looks, strict=True) if pair[0] != pair[1]][:3] == []


def test_the_search_finds_a_known_word(tab: Page, address: str) -> None:
    tab.goto(f"{address}search.html?q=backpropagation")
    tab.wait_for_selector("#search-results li a[href^='backprop.html']")


def test_search_opens_by_keyboard_and_leads_to_results(tab: Page, address: str) -> None:
    tab.goto(address + CHAPTERS[0], wait_until="networkidle")
    tab.keyboard.press("Control+k")
    tab.wait_for_selector("#pst-search-dialog[open] input:focus")
    tab.keyboard.type("gradient")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#search-results li a")


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_keyboard_skips_to_the_text_and_shows_where_it_is(
    name: str, tab: Page, address: str
) -> None:
    tab.goto(address + name)
    tab.keyboard.press("Tab")
    assert tab.evaluate(FOCUS)["text"] == "Skip to main content"
    unmarked = []
    for _ in range(30):
        try:  # the page scrolls smoothly to what has the focus
            tab.wait_for_function(SETTLED, timeout=2000)
        except PlaywrightTimeout:
            unmarked.append(tab.evaluate(FOCUS)["text"][:60])
        tab.keyboard.press("Tab")
    assert not unmarked, unmarked
    tab.goto(address + name)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.url.endswith("#main-content")


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_reads_without_scripts(name: str, browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + name)
    assert page.locator("article h1").is_visible()
    assert page.locator("article math").first.is_visible()
    assert page.locator(".bd-docs-nav a").first.is_visible()
    context.close()


@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_the_checklist_is_one_page_on_paper(paper: str, tab: Page, address: str) -> None:
    tab.goto(f"{address}checklist.html", wait_until="networkidle")
    margin = dict.fromkeys(("top", "right", "bottom", "left"), "1cm")
    assert len(re.findall(rb"/Type\s*/Page\b", tab.pdf(format=paper, margin=margin))) == 1


def test_an_unknown_address_shows_a_page_that_leads_on(tab: Page, address: str) -> None:
    response = tab.goto(f"{address}some/where/else.html")
    assert response is not None
    assert response.status == 404
    assert tab.locator("article h1").inner_text().startswith("No such page")
    tab.locator(".bd-docs-nav a").first.click()
    assert tab.locator("article h1").is_visible()
    assert tab.url.endswith("intro.html")
