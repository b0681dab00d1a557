"""Callouts and anchors from plain Markdown.

The chapters use no directives, so that they read as well on Colab as here. A block quote that
begins with bold text which this module knows becomes a callout with that text as its title:

    > **Predict.** Which layer moves first?
    > **Verdict on B5: holds if the layers are wide.** Over 200 seeds ...

A code cell with a `name` in its metadata, and every verdict, can be linked to:
`backprop.ipynb#cell-name` and `backprop.ipynb#verdict-b5`.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)

VERDICT = re.compile(
    r"Verdict on (?P<claim>[A-Z]\d+): (?P<verdict>holds if|holds|refuted|not decided)"
)
PLAIN = {"predict": "predict"}


def classes_of(title: str) -> tuple[list[str], str] | None:
    """Return a callout's CSS classes and its anchor ('' for none), or None if it stays a quote."""
    found = VERDICT.match(title)
    if found:
        kind = found["verdict"].replace(" ", "-")
        return ["callout", "verdict", kind], f"verdict-{found['claim'].lower()}"
    kind = PLAIN.get(title.rstrip(".:").strip().lower())
    return (["callout", kind], "") if kind else None


class Callouts(SphinxTransform):
    """Turn the quotes that begin with a known bold title into callouts, and set the anchors."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:  # noqa: ANN401  (Sphinx's own signature)
        """Change the document in place."""
        for quote in list(self.document.findall(nodes.block_quote)):
            self.callout(quote)
        for cell in self.document.findall(nodes.container):
            if cell.get("nb_element") == "cell_code":
                name = cell.get("cell_metadata", {}).get("name")
                if name:
                    self.anchor(cell, f"cell-{name}", str(name))

    def callout(self, quote: nodes.block_quote) -> None:
        """Replace one quote if it is a callout."""
        paragraph = quote[0] if quote.children else None
        if not isinstance(paragraph, nodes.paragraph) or not paragraph.children:
            return
        while isinstance(paragraph[0], nodes.Text) and not paragraph[0].strip():
            paragraph.pop(0)
        bold = paragraph[0]
        known = classes_of(bold.astext()) if isinstance(bold, nodes.strong) else None
        if known is None:
            return
        classes, anchor = known
        paragraph.remove(bold)
        if paragraph.children and isinstance(paragraph[0], nodes.Text):
            paragraph[0] = nodes.Text(paragraph[0].astext().lstrip())
        title = nodes.title("", "", *bold.children)
        rest = quote.children[1:] if not paragraph.astext().strip() else quote.children
        box = nodes.admonition("", title, *rest, classes=classes)
        box.source, box.line = quote.source, quote.line
        quote.replace_self(box)
        if anchor:
            self.anchor(box, anchor, title.astext())

    def anchor(self, node: nodes.Element, name: str, text: str) -> None:
        """Let `page#name` lead to the node."""
        if name in self.document.ids or name in self.slugs():
            LOGGER.warning("the anchor %r is used twice on this page", name, location=node)
            return
        node["ids"].append(name)
        self.document.ids[name] = node
        self.slugs()[name] = (node.line or 0, name, text)

    def slugs(self) -> dict[str, tuple[int, str, str]]:
        """Return the table in which MyST looks up the part of a link after `#`."""
        table = self.env.metadata[self.env.docname].setdefault("myst_slugs", {})
        self.document.myst_slugs = table
        return table


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transform with Sphinx."""
    app.add_transform(Callouts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
