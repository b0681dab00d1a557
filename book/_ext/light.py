"""Light pages: only the scripts, styles, icons and letters that the book uses.

Jupyter Book adds what a live notebook or MathJax would need, and the theme all of FontAwesome.
Here each page drops what it does not use, and when the book is built the fonts and the icons'
styles are cut down to what its pages show.
"""

import html
import re
import struct
import unicodedata
from pathlib import Path
from typing import Any

from fontTools import subset
from sphinx.application import Sphinx

BOOK = Path(__file__).resolve().parent.parent
MATH_FONT = BOOK / "_fonts" / "STIXTwoMath.woff2"
ICON_STYLES = "styles/pydata-sphinx-theme.css"
ICON_FONTS = "vendor/fontawesome/webfonts"

# What Jupyter Book puts on every page, and the mark of a page that needs it ("" for none does).
OPTIONAL = {
    "thebe": "",
    "mathjax": "",
    "togglebutton": "",
    "togglehint": "",
    "toggleopenonprint": "",
    "documentation_options.pagename": "",
    "sphinx-design": 'class="sd-',
    "design-tabs": 'class="sd-tab',
}
ICON_RULE = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}')
# MathML shows a single letter in italics, which are characters of their own.
ITALICS = [*range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C), 0x210E]


def is_needed(asset: object, body: str) -> bool:
    """Return whether a page with this body needs a script or style."""
    attributes = getattr(asset, "attributes", {})
    text = f"{getattr(asset, 'filename', asset)} {attributes.get('body', '')}".lower()
    return all(mark and mark in body for name, mark in OPTIONAL.items() if name in text)


def drop_unused(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Leave out of a page the scripts and styles that it does not need."""
    body = context.get("body", "")
    for kind in ("script_files", "css_files"):
        context[kind] = [asset for asset in context.get(kind, []) if is_needed(asset, body)]
    if page != "search":  # its own scripts call the others at once
        context["script_files"] = [deferred(script) for script in context["script_files"]]


def deferred(script: object) -> object:
    """Return a script that does not hold up the page; the original belongs to other pages too."""
    if not getattr(script, "filename", None):
        return script
    attributes = {"defer": "defer"} | script.attributes
    return type(script)(script.filename, priority=script.priority, **attributes)


def cut(source: Path, target: Path, characters: set[int]) -> None:
    """Write the part of a font that draws these characters, as WOFF2."""
    options = subset.Options(flavor="woff2", hinting=False, notdef_outline=True)
    font = subset.load_font(str(source), options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=characters)
    cutter.subset(font)
    subset.save_font(font, str(target), options)


def math_characters(pages: list[str]) -> set[int]:
    """Return the characters that the pages' mathematics shows."""
    text = "".join(part for page in pages for part in re.findall(r"<math.*?</math>", page, re.S))
    shown = {ord(character) for character in html.unescape(re.sub(r"<[^>]*>", "", text))}
    shown |= {ord("√") for page in pages if "<msqrt" in page or "<mroot" in page}
    upright = {chr(code) for code in shown}
    return shown | {c for c in ITALICS if unicodedata.normalize("NFKC", chr(c)) in upright}


def cut_icons(static: Path, pages: list[str]) -> None:
    """Keep of FontAwesome's styles and fonts the icons that the pages and the scripts name."""
    scripts = [
        path.read_text("utf-8")
        for path in (static / "scripts").glob("*.js")
        if path.name != "fontawesome.js"
    ]
    named = set(re.findall(r"\bfa-[\w-]+", "\n".join(pages + scripts)))
    codes: set[int] = set()

    def kept(rule: re.Match[str]) -> str:
        if not named & set(re.findall(r"fa-[\w-]+", rule[1])):
            return ""
        codes.add(int(rule[2], 16))
        return rule[0]

    styles = static / ICON_STYLES
    styles.write_text(ICON_RULE.sub(kept, styles.read_text("utf-8")), "utf-8")
    for font in (static / ICON_FONTS).glob("*.woff2"):
        cut(font, font, codes)


def sized(page: str, folder: Path) -> str:
    """Return a page whose figures say their size, so that nothing moves when they come late."""

    def image(tag: re.Match[str]) -> str:
        data = (folder / tag[2]).read_bytes()[:24]
        width, height = struct.unpack(">II", data[16:24])
        return f'{tag[1]}{tag[2]}" width="{width}" height="{height}" loading="lazy"'

    return re.sub(r'(<img [^>]*src=")(_images/[^"]+\.png)"(?![^>]*loading=)', image, page)


def join_styles(static: Path) -> None:
    """Put Sphinx's basic styles into the file that imports them, which saves a round trip."""
    styles = static / "styles" / "theme.css"
    basic = (static / "basic.css").read_text("utf-8").replace("url(", "url(../")
    text = styles.read_text("utf-8").replace('@import "../basic.css";', basic)
    styles.write_text(text, "utf-8")


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Cut fonts and icons once all pages are written."""
    if exception or app.builder.name != "html":
        return
    static = Path(app.outdir) / "_static"
    pages = []
    for path in sorted(Path(app.outdir).glob("*.html")):
        page = path.read_text("utf-8")
        pages.append(sized(page, path.parent))
        if pages[-1] != page:
            path.write_text(pages[-1], "utf-8")
    join_styles(static)
    cut_icons(static, pages)
    cut(MATH_FONT, static / "math.woff2", math_characters(pages))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, after every extension that adds scripts."""
    app.connect(
        "config-inited", lambda _, config: config.templates_path.append(str(BOOK / "_templates"))
    )
    app.add_js_file("course.js", loading_method="defer")
    app.connect("html-page-context", drop_unused, priority=900)
    app.connect("build-finished", finish)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
