"""The tags of a page and where they stand: to change some of them, and nothing else of the page."""

from collections.abc import Iterable
from html.parser import HTMLParser
from itertools import accumulate
from typing import NamedTuple


class Tag(NamedTuple):
    """A tag of a page.

    Attributes:
        name: in small letters.
        start: where it begins.
        end: where what follows it begins.
        attributes: of a start tag, by name and unescaped; None for an end tag.

    """

    name: str
    start: int
    end: int
    attributes: dict[str, str] | None

    @property
    def opens(self) -> bool:
        """Whether it is a start tag."""
        return self.attributes is not None

    def get(self, attribute: str) -> str:
        """Return an attribute, "" if it has none of that name."""
        return (self.attributes or {}).get(attribute, "")


class _Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=False)
        self.tags: list[Tag] = []
        self._page = page
        self._lines = [0, *accumulate(len(line) + 1 for line in page.split("\n"))]
        self.feed(page)
        self.close()

    def _start(self) -> int:
        line, column = self.getpos()
        return self._lines[line - 1] + column

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        start, text = self._start(), self.get_starttag_text() or ""
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append(Tag(tag, start, start + len(text), attributes))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        start = self._start()
        self.tags.append(Tag(tag, start, self._page.index(">", start) + 1, None))


def tags(page: str) -> list[Tag]:
    """Return the tags of a page in order; what stands in scripts, styles and comments is none.

    Example:
        >>> [tuple(tag) for tag in tags("a<b id='>'>c</b>")]
        [('b', 1, 11, {'id': '>'}), ('b', 12, 16, None)]

    """
    return _Reader(page).tags


def edited(page: str, edits: Iterable[tuple[int, int, str]]) -> str:
    """Return a page that reads otherwise in some places, given in order, and is alike elsewhere.

    Args:
        page: the whole of it.
        edits: start and end of a place, and what shall stand there.

    Example:
        >>> edited("a<b>c</b>", [(1, 4, ""), (5, 9, "!")])
        'ac!'

    """
    parts, at = [], 0
    for start, end, text in edits:
        parts += [page[at:start], text]
        at = end
    return "".join([*parts, page[at:]])
