"""Where the book's files are, and how its configuration and notebooks are read."""

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

BOOK = Path(__file__).resolve().parent.parent
ROOT = BOOK.parent

Notebook = dict[str, Any]
Cell = dict[str, Any]


def refuse_repetition() -> None:
    """Exit where every seed stands for another one: what is stored is drawn without that."""
    if os.environ.get("COURSE_REPETITION"):
        raise SystemExit("COURSE_REPETITION is set; unset it to make what is stored")


def config(root: Path = ROOT) -> dict[str, Any]:
    """Return what `_config.yml` says."""
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))


def toc_files(book: Path = BOOK) -> list[Path]:
    """Return the book's pages in reading order, as `_toc.yml` lists them."""

    def walk(node: object) -> list[str]:
        if isinstance(node, list):
            return [name for item in node for name in walk(item)]
        if not isinstance(node, dict):
            return []
        own = [node[key] for key in ("root", "file") if key in node]
        return own + [name for value in node.values() for name in walk(value)]

    toc = yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))
    pages = []
    for name in walk(toc):
        found = [book / f"{name}{end}" for end in (".ipynb", ".md", "")]
        pages.append(next((path for path in found if path.is_file()), found[0]))
    return pages


def chapter_files(book: Path = BOOK) -> list[Path]:
    """Return the chapters, which are the notebooks among the book's pages, in reading order."""
    return [path for path in toc_files(book) if path.suffix == ".ipynb" and path.is_file()]


def assignment_files(book: Path = BOOK) -> list[Path]:
    """Return the assignments' notebooks as students get them."""
    return sorted(book.glob("assignments/*/*-assignment.ipynb"))


def read(path: Path) -> Notebook:
    """Return a notebook with every cell's source and every text output joined to one string."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = joined(cell["source"])
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = joined(output["text"])
            for mime, value in output.get("data", {}).items():
                if isinstance(value, list):
                    output["data"][mime] = joined(value)
    return notebook


def joined(text: str | list[str]) -> str:
    """Return notebook text, which is stored as a string or as a list of lines, as a string."""
    return text if isinstance(text, str) else "".join(text)


def slug(text: str) -> str:
    """Return `text` as words of lower-case ASCII letters and digits joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def ledger(book: Path = BOOK) -> dict[str, dict[str, str]]:
    """Return the claims of the field: id to its `chapter` and `claim`."""
    return yaml.safe_load((book / "claims.yml").read_text(encoding="utf-8"))
