"""Light pages: each loads what it uses, when it is used.

Jupyter Book adds what a live notebook or MathJax would need; each page drops what it does not use.
When the book is built its styles become one file, and the pictures of its sliders files of their
own, which are fetched when a reader reaches for a slider.
"""

import hashlib
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

from PIL import Image
from sphinx.application import Sphinx
from styles import join_styles, one_style
from tags import edited, tags

BOOK = Path(__file__).resolve().parent.parent

# What Jupyter Book puts on every page, and how a class begins that needs it ("" for none does).
OPTIONAL = {
    "thebe": "",
    "mathjax": "",
    "togglebutton": "",
    "togglehint": "",
    "toggleopenonprint": "",
    "documentation_options.pagename": "",
    "sphinx-design": "sd-",
    "design-tabs": "sd-tab",
}
# What marks code and gives it no colour.
PLAIN = [{}, *({"class": kind} for kind in ("n", "nn", "p", "w"))]
FOLD = {"aria-label": "Toggle hidden content"}


def is_needed(asset: object, classes: set[str]) -> bool:
    """Return whether a page whose body has these classes needs a script or style."""
    attributes = getattr(asset, "attributes", {})
    text = f"{getattr(asset, 'filename', asset)} {attributes.get('body', '')}".lower()
    marks = [mark for name, mark in OPTIONAL.items() if name in text]
    return all(mark and any(each.startswith(mark) for each in classes) for mark in marks)


def drop_unused(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Leave out of a page the scripts and styles that it does not need."""
    classes = {word for tag in tags(context.get("body", "")) for word in tag.get("class").split()}
    for kind in ("script_files", "css_files"):
        context[kind] = [asset for asset in context.get(kind, []) if is_needed(asset, classes)]
    if page != "search":  # its own scripts call the others at once
        context["script_files"] = [deferred(script) for script in context["script_files"]]


def deferred(script: object) -> object:
    """Return a script that does not hold up the page; the original belongs to other pages too."""
    if not getattr(script, "filename", None):
        return script
    attributes = {"defer": "defer"} | script.attributes
    return type(script)(script.filename, priority=script.priority, **attributes)


def unpacked(page: str, folder: Path) -> str:
    """Return a page whose sliders' pictures are files; the page held them, as a notebook must."""

    def stored(address: re.Match[str]) -> str:
        data = b64decode(address[1])
        name = f"_images/slider-{hashlib.sha256(data).hexdigest()[:20]}.webp"
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        return name

    return re.sub(r"data:image/webp;base64,([\w+/]+=*)", stored, page)


def sized(page: str, folder: Path) -> str:
    """Return a page whose figures say their size, so that nothing moves when they come late."""
    edits = []
    for tag in tags(page):
        source = tag.get("src")
        figure = source.startswith("_images/") and source.endswith((".png", ".webp"))
        if tag.name == "img" and figure and not tag.get("loading"):
            with Image.open(folder / source) as picture:
                width, height = picture.size
            at = tag.start + len("<img")
            edits.append((at, at, f' width="{width}" height="{height}" loading="lazy"'))
    return edited(page, edits)


def plain(page: str) -> str:
    """Return a page whose code marks only what has a colour of its own: half of its elements.

    What opens a solution is read aloud by its own words.
    """
    edits = []
    in_code, around = False, []  # of the spans around a place in code, whether each is left out
    for tag in tags(page):
        if tag.name == "summary" and tag.attributes == FOLD:
            edits.append((tag.start, tag.end, "<summary>"))
        elif tag.name == "pre":
            in_code, around = tag.opens, []
        elif tag.name == "span" and in_code:
            if tag.opens:
                around.append(tag.attributes in PLAIN)
            if around[-1]:
                edits.append((tag.start, tag.end, ""))
            if not tag.opens:
                around.pop()
    return edited(page, edits)


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Make the pages light once all of them are written."""
    if exception or app.builder.name != "html":
        return
    site = Path(app.outdir)
    static = site / "_static"
    written = {path: path.read_text("utf-8") for path in sorted(site.glob("*.html"))}
    pages = list(written.values())
    styles = join_styles(static, pages)
    digest = hashlib.sha256(styles.encode()).hexdigest()[:10]
    for path, page in written.items():
        light = one_style(plain(sized(unpacked(page, site), site)), digest)
        if light != page:
            path.write_text(light, "utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, after every extension that adds scripts."""
    app.connect(
        "config-inited", lambda _, config: config.templates_path.append(str(BOOK / "_templates"))
    )
    app.add_js_file("course.js", loading_method="defer")
    app.connect("html-page-context", drop_unused, priority=900)
    app.connect("build-finished", finish, priority=900)  # the theme writes styles there as well
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
