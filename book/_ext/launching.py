"""Launch buttons open the release, as the links in the chapters do, and not the newest commit.

The theme takes the branch that its edit links need. But a chapter's first cell installs the
release, so the chapter that is opened has to be of that release as well.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def pin(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Put the release in the place of the branch in a page's launch buttons."""
    branch = re.escape(app.config.html_theme_options["repository_branch"])
    place = re.compile(rf"(/blob/|/gh/[^/]+/[^/]+/){branch}(?=[/?])")
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            for button in group["buttons"]:
                button["url"] = place.sub(rf"\g<1>{app.config.release}", button["url"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, after the theme has made its buttons."""
    app.connect("html-page-context", pin, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
