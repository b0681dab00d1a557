"""Write what other pages say of each chapter: `make entries`, or `--check` to see if it is done.

A chapter's metadata is the one place where its question, its summary, its minutes and its
objectives stand. From there they go into the README's table, the introduction's list and the
chapter's section of the page for instructors; the title is the chapter's own.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chapters import ROOT, chapter_files, read
from stamp import configured
from verdicts import title


class EntryError(Exception):
    """A page has no place for a chapter, or a chapter's metadata lacks something."""


@dataclass(frozen=True)
class Entry:
    """What other pages say of a chapter."""

    file: str
    title: str
    course: dict[str, Any]

    @property
    def name(self) -> str:
        """The title's first words."""
        return self.title.partition(":")[0]

    def says(self, key: str) -> Any:  # noqa: ANN401
        """Return what the chapter's metadata says."""
        if not self.course.get(key):
            raise EntryError(f"{self.file}: the metadata has no {key}")
        return self.course[key]


def entries(root: Path = ROOT) -> list[Entry]:
    """Return the chapters' entries in reading order."""
    found = []
    for path in chapter_files(root / "book"):
        notebook = read(path)
        found.append(Entry(path.name, title(notebook), notebook["metadata"].get("course", {})))
    return found


def between(text: str, first: str, last: str, lines: list[str]) -> str:
    """Return text with other lines between the one that begins with `first` and the next `last`."""
    head, begin, rest = text.partition(first)
    _, end, tail = rest.partition(last)
    if not (begin and end):
        raise EntryError(f"expected {first!r} and, somewhere below, {last!r}")
    return head + begin + "\n".join(lines) + end + tail


def readme(text: str, chapters: list[Entry], root: Path) -> str:
    """Return the README with its table of chapters."""
    published = configured(root)
    rows = [
        f"| [{each.name}](book/{each.file}) | {each.says('question')} | "
        f"[open]({published.colab(each.file)}) |"
        for each in chapters
    ]
    return between(text, "| chapter | the question | on Colab |\n|---|---|---|\n", "\n\n", rows)


def introduction(text: str, chapters: list[Entry]) -> str:
    """Return the introduction with its list of chapters."""
    rows = []
    for number, each in enumerate(chapters, start=1):
        minutes = f"{each.says('minutes')} minutes."
        rows.append(f"{number}. [{each.name}]({each.file}): {each.says('summary')} {minutes}")
    return between(text, "## The chapters\n\n", "\n\n", rows)


def teaching(text: str, chapters: list[Entry]) -> str:
    """Return the page for instructors with each chapter's time and objectives."""
    for each in chapters:
        head = rf"### \[[^\]]*\]\({re.escape(each.file)}\)"
        section = rf"{head}(?=\n).*?(?=\n\nWhat many believe before it)"
        objectives = "\n".join(f"- {objective}" for objective in each.says("objectives"))
        new = (
            f"### [{each.title}]({each.file})\n\n"
            f"*{each.says('minutes')} minutes.* After it students can\n\n{objectives}"
        )
        text, count = re.subn(section, lambda _, new=new: new, text, flags=re.DOTALL)
        if count != 1:
            raise EntryError(f"teaching.md has {count} sections for {each.file}, not one")
    return text


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Return what each page reads once the chapters' entries are written."""
    chapters = entries(root)
    files = [root / "README.md", root / "book" / "intro.md", root / "book" / "teaching.md"]
    texts = [path.read_text(encoding="utf-8") for path in files]
    written = [
        readme(texts[0], chapters, root),
        introduction(texts[1], chapters),
        teaching(texts[2], chapters),
    ]
    return dict(zip(files, written, strict=True))


def differing(root: Path = ROOT) -> dict[Path, str]:
    """Return the pages that say something else, with what they ought to."""
    return {p: text for p, text in pages(root).items() if p.read_text("utf-8") != text}


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write the pages, or say which are not what the chapters say; return the exit code."""
    try:
        changed = differing(root)
    except EntryError as error:
        print(error)
        return 2
    for path, text in changed.items():
        if "--check" in arguments:
            print(f"{path.relative_to(root)} is not what the chapters say: run `make entries`")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"changed: {path.relative_to(root)}")
    return 1 if changed and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
