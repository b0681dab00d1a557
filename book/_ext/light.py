"""Light pages: each loads what it uses, when it is used.

Jupyter Book adds what a live notebook or MathJax would need; each page drops what it does not use.
When the book is built its styles become one file, and the pictures of its sliders files of their
own, which are fetched when a reader reaches for a slider.
"""

import hashlib
import io
import re
import struct
from base64 import b64decode
from pathlib import Path
from typing import Any

from PIL import Image
from sphinx.application import Sphinx
from styles import join_styles, one_style

BOOK = Path(__file__).resolve().parent.parent

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


def sized(page: str, folder: Path) -> str:
    """Return a page whose figures say their size, so that nothing moves when they come late."""

    def image(tag: re.Match[str]) -> str:
        data = (folder / tag[2]).read_bytes()[:24]
        width, height = struct.unpack(">II", data[16:24])
        return f'{tag[1]}{tag[2]}" width="{width}" height="{height}" loading="lazy"'

    return re.sub(r'(<img [^>]*src=")(_images/[^"]+\.png)"(?![^>]*loading=)', image, page)


def unpacked(page: str, folder: Path) -> str:
    """Return a page whose sliders' pictures are files; the page held them, as a notebook must."""

    def stored(address: re.Match[str]) -> str:
        data = b64decode(address[2])
        name = f"_images/slider-{hashlib.sha256(data).hexdigest()[:20]}.webp"
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        if not address[1]:
            return name
        width, height = Image.open(io.BytesIO(data)).size
        return f'{address[1]}{name}" width="{width}" height="{height}" loading="lazy'

    return re.sub(r'(<img src=")?data:image/webp;base64,([\w+/]+=*)', stored, page)


def plain(page: str) -> str:
    """Return a page whose code marks only what has a colour of its own: half of its elements.

    What opens a solution is read aloud by its own words.
    """

    def unmarked(code: re.Match[str]) -> str:
        return re.sub(r'<span class="(?:n|nn|p|w)">([^<]*)</span>|<span></span>', r"\1", code[0])

    page = page.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    return re.sub(r"<pre>.*?</pre>", unmarked, page, flags=re.S)


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
        light = one_style(plain(unpacked(sized(page, site), site)), digest)
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
