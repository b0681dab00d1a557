"""What search engines and previews read: description, Open Graph, sitemap; and the 404 page.

The book's address is `html: baseurl` in `_config.yml`; where that is empty it is the address that
GitHub Pages gives to the repository, and then no page claims it as its canonical one.
"""

import html
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

LONGEST = 160
PICTURE = "_static/course-picture.png"
HIDDEN = {"404", "genindex", "search"}


def address(config: Config) -> str:
    """Return the book's address with a slash at its end."""
    if config.html_baseurl:
        return config.html_baseurl.rstrip("/") + "/"
    parts = urlsplit(config.html_theme_options["repository_url"])
    owner, name = parts.path.strip("/").split("/")
    return f"https://{owner}.github.io/{name}/"


def description(doctree: nodes.document | None, default: str) -> str:
    """Return a page's first paragraph of prose, cut at a word to what a search result shows.

    The line in italics below a chapter's title, on what it takes to read it, is not meant.
    """
    for paragraph in doctree.findall(nodes.paragraph) if doctree else ():
        text = " ".join(paragraph.astext().split())
        if isinstance(paragraph.next_node(), nodes.emphasis):
            continue
        if isinstance(paragraph.parent, nodes.section) and len(text) > LONGEST // 2:
            return text if len(text) <= LONGEST else text[: LONGEST - 1].rsplit(" ", 1)[0] + "…"
    return default


def describe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Add the meta tags of a page."""
    base, book = address(app.config), app.config.html_short_title
    text = description(doctree, app.config.sharing_description)
    tags = {
        "og:type": "website" if page == app.config.root_doc else "article",
        "og:site_name": book,
        "og:title": nodes.unescape(context.get("title", book)),
        "og:description": text,
        "og:url": f"{base}{page}.html",
        "og:image": base + PICTURE,
        "og:image:alt": app.config.sharing_picture,
    }
    lines = [f'<meta name="description" content="{html.escape(text)}">']
    lines += [f'<meta property="{k}" content="{html.escape(v)}">' for k, v in tags.items()]
    lines.append('<meta name="twitter:card" content="summary_large_image">')
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def sitemap(app: Sphinx, exception: Exception | None) -> None:
    """Write sitemap.xml."""
    if exception or app.builder.name != "html":
        return
    base = address(app.config)
    pages = sorted(app.env.found_docs - HIDDEN)
    urls = "".join(f"<url><loc>{html.escape(f'{base}{page}.html')}</loc></url>\n" for page in pages)
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n'
    )
    (Path(app.outdir) / "sitemap.xml").write_text(text, encoding="utf-8")


def place_404(app: Sphinx, config: Config) -> None:
    """Let the 404 page, which is shown at any address, link to the book by its full path."""
    config.notfound_urls_prefix = urlsplit(address(config)).path


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_config_value("sharing_description", "", "html")
    app.add_config_value("sharing_picture", "", "html")
    app.setup_extension("notfound.extension")
    app.connect("config-inited", place_404)
    app.connect("html-page-context", describe, priority=900)
    app.connect("build-finished", sitemap)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
