r"""Mathematics as MathML, which browsers draw themselves: no script, and no jump when it appears.

math-core reads the TeX while the book is built; what it cannot read is a warning with its place.
It numbers environments such as `align` itself. A `\tag{1}` anywhere else becomes a number at the
right of its equation here.
"""

import html
import re
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

LOGGER = logging.getLogger(__name__)

TAG = re.compile(r"\s*\\tag\{([^{}]+)\}\s*")
NUMBERED = re.compile(r"\\begin\{(align|equation|gather)\}")
READER = LatexToMathML(fancy_error=False)


def mathml(tex: str, node: nodes.Node, *, display: bool) -> str:
    """Return `tex` as MathML; warn and return the TeX itself if it cannot be read."""
    try:
        return READER.convert_with_local_state(tex, displaystyle=display)
    except LatexError as error:
        LOGGER.warning("mathematics that cannot be read: %s\n%s", tex, error, location=node)
        return f"<code>{html.escape(tex)}</code>"


def visit_inline(writer: HTML5Translator, node: nodes.math) -> None:
    """Write mathematics within a line."""
    shown = mathml(node.astext(), node, display=False)
    writer.body.append(writer.starttag(node, "span", "", CLASS="math") + shown + "</span>")
    raise nodes.SkipNode


def visit_block(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Write an equation of its own line, with its number."""
    tex, number = node.astext(), node.get("number")
    if not NUMBERED.search(tex):
        found = TAG.search(tex)
        number = found[1] if found else number
        tex = TAG.sub("", tex)
    shown = mathml(tex, node, display=True)
    if number:
        shown += f'<span class="eqno">({number})</span>'
    writer.body.append(writer.starttag(node, "div", "", CLASS="math") + shown + "</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer, which `html_math_renderer` chooses."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
