"""What the tests in a browser share: pages, when they have come to rest, and what is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from chapters import chapter_files, toc_files
from playwright.sync_api import Browser, Page, Request
from playwright.sync_api import TimeoutError as WaitedInVain

CHAPTERS = [f"{path.stem}.html" for path in chapter_files()]
PAGES = [f"{path.stem}.html" for path in toc_files()]
PAGES += ["index.html", "search.html", "genindex.html", "404.html"]
HEIGHT = 900
PATIENCE = 300_000  # milliseconds; a page that is well takes one, on a machine with nothing else
MODES = ("dark", "light")
PHONE_WIDTHS = (320, 390)
RATIOS = (1, 2, 3)  # pixels of the screen to one of the page
PHONE = {
    "viewport": {"width": PHONE_WIDTHS[0], "height": HEIGHT},
    "has_touch": True,
    "is_mobile": True,
}
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

# Whether a page is as wide as asked and has come to rest: all is there, nothing moves, two frames
# are alike, and the theme, which waits a while after a change of size, lets the keyboard reach
# what scrolls and nothing else. To be waited for: a busy machine takes longer, and no more.
AT_REST = """width => {
  const root = document.documentElement, before = window.lastFrame;
  window.lastFrame = [scrollX, scrollY, innerWidth, root.scrollWidth, root.scrollHeight].join();
  const boxes = "pre, .cell_output > .output, .pst-scrollable-table-container";
  return root.clientWidth === width && window.lastFrame === before
    && document.readyState === "complete" && document.fonts.status === "loaded"
    && document.getAnimations().every(each => each.playState !== "running")
    && [...document.querySelectorAll(boxes)].every(box => (box.tabIndex === 0)
      === (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight));
}"""
# The same, in words, of a page that does not come to rest.
RESTLESS = """width => {
  const boxes = "pre, .cell_output > .output, .pst-scrollable-table-container";
  return JSON.stringify({asked: width, width: document.documentElement.clientWidth,
    state: document.readyState, fonts: document.fonts.status, frame: window.lastFrame,
    running: document.getAnimations().filter(each => each.playState === "running")
      .map(each => each.transitionProperty || each.animationName || each.id),
    unreachable: [...document.querySelectorAll(boxes)].filter(box => (box.tabIndex === 0)
      !== (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight))
      .map(box => [box.outerHTML.slice(0, 80), box.tabIndex, box.scrollWidth, box.clientWidth,
        box.scrollHeight, box.clientHeight])});
}"""
# What is seen beyond the left or right edge of the window and stands in no box that scrolls by
# itself: boxes, and text that leaves its box. Also text that a box cuts off, and a page that can
# be scrolled sideways for any other reason.
STICKING_OUT = """() => {
  const width = document.documentElement.clientWidth;
  const style = new Map([...document.querySelectorAll("body, body *")]
    .map(element => [element, getComputedStyle(element).overflowX]));
  const scrolls = new Map();
  for (const [element, x] of style) scrolls.set(element,
    ["auto", "scroll"].includes(x) || Boolean(scrolls.get(element.parentElement)));
  const visible = {visibilityProperty: true, opacityProperty: true};
  const seen = element => element.checkVisibility(visible);
  const out = box => box.width > 1 && box.height > 1 && (box.left < -1 || box.right > width + 1);
  const found = [...style.keys()].filter(element => !scrolls.get(element.parentElement)
    && seen(element) && (out(element.getBoundingClientRect())
    || ["hidden", "clip"].includes(style.get(element)) && element.clientWidth > 1
      && element.scrollWidth > element.clientWidth + 1));
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  while (texts.nextNode()) {
    const text = texts.currentNode, parent = text.parentElement;
    range.selectNodeContents(text);
    if (!scrolls.get(parent) && [...range.getClientRects()].some(out) && seen(parent))
      found.push(parent);
  }
  const wider = document.scrollingElement.scrollWidth - width;
  return found.map(element => element.outerHTML.slice(0, 120))
    .concat(wider > 0 ? [`the page, which scrolls sideways by ${wider} px`] : []);
}"""
# Whether all pictures are there, also those that would be fetched later; asked until they are.
COMPLETE = """() => [...document.images].map(image => {
  image.loading = "eager";
  return image.complete;
}).every(Boolean)"""
BROKEN = """() => [...document.images].filter(image => !image.naturalWidth)
  .map(image => image.outerHTML.slice(0, 120))"""
STRETCHED = """() => [...document.querySelectorAll("article img")]
  .filter(i => i.naturalWidth && i.width && i.height
    && Math.abs(i.width / i.height / (i.naturalWidth / i.naturalHeight) - 1) > 0.02)
  .map(i => i.outerHTML.slice(0, 120))"""
# Marks three elements of each look. Two elements look alike if they are of one style, and all that
# they stand in, up to the root, is alike: then their letters have one contrast.
MARK = """() => {
  const kinds = new Map(), ground = new Map(), looks = new Map();
  const kind = (...parts) => {
    const key = parts.join("|");
    return kinds.get(key) ?? kinds.set(key, kinds.size).get(key);
  };
  for (const element of document.querySelectorAll("*")) {
    element.removeAttribute("data-look");
    const s = getComputedStyle(element);
    ground.set(element, kind(ground.get(element.parentElement), s.backgroundColor,
      s.backgroundImage, s.opacity, s.filter, s.mixBlendMode, s.position));
    const seen = element.checkVisibility({visibilityProperty: true, opacityProperty: true});
    if (!seen || ![...element.childNodes].some(each => each.nodeType === 3 && each.data.trim()))
      continue;
    const look = kind(ground.get(element), s.color, s.fontSize, s.fontWeight, s.textShadow,
      element.matches(":disabled, [aria-disabled=true]"));
    looks.set(look, [...looks.get(look) || [], element]);
  }
  for (const all of looks.values())
    for (const at of [0, all.length >> 1, all.length - 1]) all[at].dataset.look = "";
}"""
AXE = """async ([tags, contrast]) => {
  axe.reset();
  axe.configure({rules: [{id: "color-contrast", selector: contrast}]});
  const found = await axe.run({runOnly: tags, resultTypes: ["violations"]});
  return {passed: found.passes.length, violations: found.violations.flatMap(rule =>
    rule.nodes.map(node => [rule.id, node.html.slice(0, 150),
      node.failureSummary.slice(0, 300)].join(": ")))};
}"""


@contextmanager
def opened(browser: Browser, **options: object) -> Iterator[Page]:
    """A page that shares nothing with others; it is 1440 px wide unless said otherwise."""
    window = {"viewport": {"width": 1440, "height": HEIGHT}}
    context = browser.new_context(**(window | options))
    try:
        context.set_default_timeout(PATIENCE)
        yield context.new_page()
    finally:
        context.close()


@contextmanager
def watched(page: Page, address: str) -> Iterator[list[str]]:
    """What goes wrong on a page meanwhile: in its console, and in what it requests."""
    wrong: list[str] = []

    def requested(request: Request) -> None:
        if not request.url.startswith((address, "data:")):
            wrong.append(f"foreign: {request.url}")

    listeners = {
        "console": lambda m: wrong.append(m.text) if m.type == "error" else None,
        "pageerror": lambda error: wrong.append(str(error)),
        "requestfailed": lambda request: wrong.append(f"failed: {request.url}"),
        "response": lambda r: wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None,
        "request": requested,
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    yield wrong
    for event, listener in listeners.items():
        page.remove_listener(event, listener)


def once_there(page: Page, script: str, arg: object = None) -> Any:  # noqa: ANN401
    """What a script returns as soon as that is something; to ask first is quicker than to wait."""
    return page.evaluate(script, arg) or page.wait_for_function(script, arg=arg).json_value()


def rest(page: Page) -> None:
    """Wait until a page has come to rest."""
    settle(page, page.viewport_size["width"])


def settle(page: Page, width: int) -> None:
    """Wait until a page of this width has come to rest; what is in the way of it is said."""
    try:
        page.wait_for_function(AT_REST, arg=width)
    except WaitedInVain as error:
        raise AssertionError(f"no rest: {page.evaluate(RESTLESS, width)}") from error


def resize(page: Page, width: int) -> None:
    """Give the page another width, and wait until it has come to rest."""
    page.set_viewport_size({"width": width, "height": HEIGHT})
    rest(page)


def screen(page: Page, width: int, ratio: int) -> None:
    """Give a phone's page another screen, and wait until it has come to rest."""
    metrics = {"width": width, "height": HEIGHT, "deviceScaleFactor": ratio, "mobile": True}
    devtools = page.context.new_cdp_session(page)
    devtools.send("Emulation.setDeviceMetricsOverride", metrics)
    settle(page, width)
    assert page.evaluate("devicePixelRatio") == ratio


def shade(page: Page, mode: str) -> None:
    """Let the reader's machine turn light or dark, and wait until the page has followed."""
    page.emulate_media(color_scheme=mode)
    page.wait_for_function("mode => document.documentElement.dataset.theme === mode", arg=mode)
    rest(page)


def misplaced(page: Page) -> list[str]:
    """What of a page is not there, sticks out, or is drawn in another shape than its own."""
    page.wait_for_function(COMPLETE)
    wrong = [f"broken: {tag}" for tag in page.evaluate(BROKEN)]
    wrong += [f"sticks out: {tag}" for tag in page.evaluate(STICKING_OUT)]
    return wrong + [f"stretched: {tag}" for tag in page.evaluate(STRETCHED)]


def violations(page: Page, *, contrast: str = "[data-look]") -> list[str]:
    """What axe finds against WCAG 2.2, levels A and AA; contrast where the selector says so.

    Nine tenths of axe's time are the contrast of every single word of code, so that looks at
    three places of each look that there is.
    """
    if page.evaluate("typeof axe === 'undefined'"):
        page.evaluate(Axe().axe_script)
    page.evaluate(MARK)
    found = page.evaluate(AXE, [WCAG, contrast])
    assert found["passed"], "axe has checked nothing"
    return found["violations"]
