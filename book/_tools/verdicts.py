"""Quote each claim in its verdict's box, and collect the boxes of all chapters in book/verdicts.md.

`python book/_tools/verdicts.py` writes both; with `--check` it fails where either is stale.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from chapters import BOOK, Notebook, chapter_files, joined, ledger, read, slug
from repeat import Row, checks, table

VERDICTS = ("holds", "holds if", "refuted", "not decided")
CALLOUT = re.compile(
    r"\*\*Verdict on \[?(?P<claim>[A-Z]\d+)(?:\]\([^)]*\))?: (?P<verdict>.+?)\*\*\s*(?P<text>.*)"
)
CLAIM = re.compile(r"“[^“”]*”")
"""How a claim stands in its box, behind the bold words."""

INTRODUCTION = """\
# The verdicts

What articles say about vanishing and exploding gradients, and what the measurements in this course
say about it. A claim **holds**, **holds if** a condition is met, is **refuted**, or is
**not decided** at this course's scale. Each box quotes the claim, and its id leads to the chapter.
Below the verdict stand what was varied and what was not, and how many random draws are behind it
(an identity or an example has none). Where a chapter has been repeated with every weight, batch,
synthetic example and split drawn anew, it says in how many repetitions all of the sentence held.
Numbers of equations are the chapter's.
"""


class Callout(NamedTuple):
    """A verdict's box: the claim's id, the bold words behind it, and the text below."""

    claim: str
    title: str
    text: list[str]
    """Its paragraphs, without the claim that is quoted."""


class Verdict(NamedTuple):
    """A verdict as a chapter gives it."""

    data: dict[str, Any]
    """What its metadata say: claim, verdict, cell, seeds, varied, kept."""
    said: Callout


def callout(source: str) -> Callout | None:
    """Return what a verdict's cell says, or None if it is not one."""
    quoted = [line for line in source.strip().splitlines() if line.startswith(">")]
    text = "\n".join(line.removeprefix(">").strip() for line in quoted)
    first, *rest = re.split(r"\n{2,}", text)
    found = CALLOUT.match(first.strip().replace("\n", " "))
    if not found:
        return None
    own = [] if CLAIM.fullmatch(found["text"].strip()) else [found["text"].strip()]
    return Callout(found["claim"], found["verdict"], own + rest)


def in_quotes(claim: str) -> str:
    """Return a claim as its box quotes it."""
    return "“" + re.sub(r'"([^"]*)"', r"‘\1’", claim) + "”"


def box(said: Callout, link: str, claim: str, *, below: str = "") -> str:
    """Return a verdict's cell: linked, with the claim quoted, and a line below if there is one."""
    first = f"**Verdict on [{said.claim}]({link}): {said.title}** {in_quotes(claim)}"
    paragraphs = [first, *said.text, *([below] if below else [])]
    return "\n".join(f"> {line}".rstrip() for line in "\n\n".join(paragraphs).splitlines())


def verdicts(notebook: Notebook) -> list[Verdict]:
    """Return the verdicts that a chapter gives, in its order."""
    given = []
    for cell in notebook["cells"]:
        data, said = cell["metadata"].get("verdict"), callout(cell["source"])
        if data is not None and said is not None:
            given.append(Verdict(data, said))
    return given


def quote_claims(path: Path, claims: dict[str, dict[str, str]], *, store: bool = True) -> bool:
    """Quote the claims in a chapter's verdicts; return whether anything was to be changed.

    Raises:
        ValueError: if a verdict's cell has something beside its box.

    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    changed = False
    for cell in notebook["cells"]:
        source = joined(cell["source"])
        said = callout(source) if "verdict" in cell["metadata"] else None
        if said is None or said.claim not in claims:
            continue
        link = f"verdicts.md#verdict-{said.claim.lower()}"
        wanted = box(said, link, claims[said.claim]["claim"])
        outside = [line for line in source.strip().splitlines() if not line.startswith(">")]
        if any(line.strip() for line in outside):
            raise ValueError(f"{path.name}: beside the verdict on {said.claim} stands {outside}")
        if wanted != source:
            cell["source"], changed = wanted.splitlines(keepends=True), True
    if changed and store:
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")
    return changed


# ---------------------------------------------------------------- the page


def page(book: Path = BOOK) -> str:
    """Return the text of verdicts.md."""
    claims, repeated = ledger(book), table(book / "repetitions.yml")
    sections = []
    counts = dict.fromkeys(VERDICTS, 0)
    for path in chapter_files(book):
        notebook = read(path)
        boxes, codes = [], {claim: check.code for claim, check in checks(notebook).items()}
        for item in verdicts(notebook):
            claim = item.said.claim
            counts[item.data["verdict"]] += 1
            below = small_print(item, path.name, repeated.get(claim), codes.get(claim))
            link = f"{path.name}#verdict-{claim.lower()}"
            quoted = claims.get(claim, {}).get("claim", "")
            boxes.append(box(item.said, link, quoted, below=below))
        if boxes:
            sections.append(f"## {title(notebook)}\n\n" + "\n\n%\n\n".join(boxes) + "\n")
    judged = f"Judged so far: {sum(counts.values())} of {len(claims)} claims.\n"
    return "\n".join([INTRODUCTION, judged, choice(counts), *sections])


def choice(counts: dict[str, int]) -> str:
    """Return the buttons that choose a kind of verdict: course.css hides the others."""
    kinds = {"all": sum(counts.values())} | {kind: n for kind, n in counts.items() if n}
    buttons = [
        f'<label><input type="radio" name="kind" value="{slug(kind)}"'
        f"{' checked' * (kind == 'all')}> {kind} ({n})</label>"
        for kind, n in kinds.items()
    ]
    rows = ["<legend>Show</legend>", *buttons]
    return "\n".join(
        ['<form autocomplete="off"><fieldset class="kinds">', *rows, "</fieldset></form>\n"]
    )


def small_print(item: Verdict, page: str, repeated: Row | None, code: str | None) -> str:
    """Return the line below a verdict: its conditions, its draws, and what repetitions said."""
    data = item.data
    parts = [f"{word.capitalize()}: {data[word]}." for word in ("varied", "kept") if data.get(word)]
    seeds = f"Random draws: {data['seeds']}" if data["seeds"] else "No random draws"
    parts.append(f"{seeds}, [shown here]({page}#cell-{data['cell']}).")
    if repeated and data["seeds"]:
        total, lost = len(repeated["numbers"]), len(repeated["failed"])
        before = "" if repeated["code"] == code else ", before the chapter's last change"
        parts.append(f"Held in {total - lost} of {total} repetitions{before}.")
    return f"<small>{' '.join(parts)}</small>"


def title(notebook: Notebook) -> str:
    """Return a chapter's title, its first heading."""
    for cell in notebook["cells"]:
        found = re.search(r"^#\s+(.+?)\s*$", cell["source"], flags=re.MULTILINE)
        if cell["cell_type"] == "markdown" and found:
            return found[1]
    return "Untitled"


def write_verdicts(book: Path = BOOK) -> None:
    """Quote the claims, and write verdicts.md if it has changed."""
    for path in chapter_files(book):
        quote_claims(path, ledger(book))
    path, text = book / "verdicts.md", page(book)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def is_current(book: Path = BOOK) -> bool:
    """Return whether verdicts.md and the quoted claims are what chapters and ledger say."""
    path, claims = book / "verdicts.md", ledger(book)
    return (
        path.is_file()
        and path.read_text(encoding="utf-8") == page(book)
        and not any(quote_claims(each, claims, store=False) for each in chapter_files(book))
    )


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        write_verdicts()
    elif not is_current():
        sys.exit("the verdicts are not what chapters and claims say: run `make verdicts`")
