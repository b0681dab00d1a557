"""Collect the verdicts of all chapters into book/verdicts.md.

`python book/_tools/verdicts.py` writes the page; with `--check` it fails when the page is stale.
"""

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from chapters import BOOK, Notebook, chapter_files, ledger, read

VERDICTS = ("holds", "holds if", "refuted", "not decided")
CALLOUT = re.compile(
    r"^>\s*\*\*Verdict on (?P<claim>[A-Z]\d+): (?P<verdict>.+?)\*\*\s*(?P<text>.*)"
)

INTRODUCTION = """\
# The verdicts

What articles say about vanishing and exploding gradients, and what the measurements in this course
say about it. A claim **holds**, **holds if** a condition is met, is **refuted**, or is
**not decided** at this course's scale. Each verdict leads to the cell that measured it.
*Seeds* counts the random draws behind it; *exact* marks an identity or an example that has none.
"""


class Verdict(NamedTuple):
    """A verdict as a chapter gives it."""

    claim: str
    verdict: str
    cell: str
    seeds: int
    title: str
    """The bold text behind the claim's id, such as `holds if the width is large.`"""
    sentence: str
    """The first sentence after the bold text."""


def callout(source: str) -> tuple[str, str, str] | None:
    """Return claim, bold text and the text after it of a verdict cell, or None if it is not one."""
    quoted = [line for line in source.strip().splitlines() if line.startswith(">")]
    if not quoted:
        return None
    first = [quoted[0]]
    for line in quoted[1:]:
        if not line.lstrip("> ").strip():
            break
        first.append(line.lstrip("> "))
    found = CALLOUT.match(" ".join(part.strip() for part in first))
    return (found["claim"], found["verdict"], found["text"]) if found else None


def first_sentence(text: str) -> str:
    """Return the first sentence: to the first full stop before a capital or the end."""
    found = re.match(r"(.+?[.!?])(?=\s+[A-Z*`$“\"(]|\s*$)", text.strip())
    return found[1] if found else text.strip()


def verdicts(notebook: Notebook) -> list[Verdict]:
    """Return the verdicts that a chapter gives, in its order."""
    given = []
    for cell in notebook["cells"]:
        data: dict[str, Any] | None = cell["metadata"].get("verdict")
        if data is None:
            continue
        parts = callout(cell["source"]) or ("", "", "")
        given.append(
            Verdict(
                claim=data.get("claim", ""),
                verdict=data.get("verdict", ""),
                cell=data.get("cell", ""),
                seeds=data.get("seeds", -1),
                title=parts[1],
                sentence=first_sentence(parts[2]),
            )
        )
    return given


def page(book: Path = BOOK) -> str:
    """Return the text of verdicts.md."""
    claims = ledger(book)
    sections, judged = [], 0
    counts = dict.fromkeys(VERDICTS, 0)
    for path in chapter_files(book):
        notebook = read(path)
        given = verdicts(notebook)
        if not given:
            continue
        rows = []
        for item in given:
            judged += 1
            counts[item.verdict] = counts.get(item.verdict, 0) + 1
            claim = claims.get(item.claim, {}).get("claim", "")
            words = item.title if item.verdict == "holds if" else item.verdict
            shown = f"**{words.rstrip('.')}.** {item.sentence}".strip()
            seeds = "exact" if item.seeds == 0 else str(item.seeds)
            link = f"[{item.claim}]({path.name}#verdict-{item.claim.lower()})"
            measured = f"[measured]({path.name}#cell-{item.cell})"
            cells = [link, claim, shown, seeds, measured]
            rows.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
        head = "| id | the claim | the verdict | seeds | where |\n|---|---|---|---:|---|"
        sections.append(f"## {title(notebook)}\n\n{head}\n" + "\n".join(rows) + "\n")
    listed = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v]) or "none"
    count = f"Judged so far: {judged} of {len(claims)} claims ({listed}).\n"
    return "\n".join([INTRODUCTION, count, *sections])


def title(notebook: Notebook) -> str:
    """Return a chapter's title, its first heading."""
    for cell in notebook["cells"]:
        found = re.search(r"^#\s+(.+?)\s*$", cell["source"], flags=re.MULTILINE)
        if cell["cell_type"] == "markdown" and found:
            return found[1]
    return "Untitled"


def escape(text: str) -> str:
    """Return text that does not end its table cell early."""
    return re.sub(r"(?<!\\)\|", r"\\|", text.replace("\n", " "))


def write_verdicts(book: Path = BOOK) -> None:
    """Write verdicts.md if it has changed."""
    path, text = book / "verdicts.md", page(book)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def is_current(book: Path = BOOK) -> bool:
    """Return whether verdicts.md is what the chapters say."""
    path = book / "verdicts.md"
    return path.is_file() and path.read_text(encoding="utf-8") == page(book)


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        write_verdicts()
    elif not is_current():
        sys.exit("book/verdicts.md is not what the chapters say: run `make verdicts`")
