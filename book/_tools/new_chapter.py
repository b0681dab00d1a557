"""Lay the files of a new chapter: `make chapter NAME=precision TITLE="Precision: what 16 bits do"`.

`AFTER=clipping` says behind which chapter it stands; without it, it is the last. What is laid is
listed, and what is there already is left as it is. CHAPTERS.md says what to write into it; until
that is done, `make test` says what is missing.
"""

import argparse
import re
from pathlib import Path

import nbformat
from chapters import ROOT, chapter_files
from install_cell import install_cell
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from stamp import COLAB_LINK_TEXT, configured

SETUP = """import matplotlib.pyplot as plt
import torch

from companion import {name}, plots

plots.use_style()
torch.set_default_dtype(torch.float64)  # so that other CPUs print the same"""
TEXT = (
    (
        "question",
        "## The question\n\nTODO: a claim that people repeat, and what it would look like",
    ),
    ("predict", "> **Predict.** TODO: what will the plot show? Write it down before you go on."),
    ("measured", "## Measured\n\nTODO: the requirement in a few lines, then the same instrument."),
    ("able", "## What you can do now\n\nTODO: the objectives, in the words of the metadata."),
)
FOLDED = {
    "cellView": "form",
    "jupyter": {"source_hidden": True},
    "mystnb": {
        "code_prompt_hide": "Hide the solution",
        "code_prompt_show": "Show the solution",
    },
    "tags": ["solution", "hide-cell"],
}
MODULE = '''"""TODO: what this measures, in a line.

Chapter: {site}{name}.html
"""
'''
TEST = '''"""companion.{name} against TODO: closed forms, torch itself."""

from companion import {name}


def test_todo() -> None:
    raise AssertionError(f"what would a subtly wrong version of {{{name}.__name__}} be?")
'''
MASTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
assignment:
  minutes: 90
  questions: {{}}
---

# Assignment: {name}

This goes with the chapter [{title}](../../{name}.ipynb).

TODO: four to six questions of 100 points, as in `../backprop/master.md`.
"""
SECTION = """### [{title}]({name}.ipynb)

What many believe before it, and the cell that cures it:

- "TODO." TODO. See [the cell]({name}.ipynb#cell-todo).

"""


def notebook(name: str, title: str) -> NotebookNode:
    """Return the chapter's notebook: its metadata, its first cells, six exercises, its sources."""
    link = f"[{COLAB_LINK_TEXT}]({configured().colab(f'{name}.ipynb')})"
    head = f"# {title}\n\n*About 60 minutes. You need TODO.* {link}."
    cells = [
        new_markdown_cell(head, id="title"),
        new_code_cell(install_cell(), id="install"),
        new_code_cell(SETUP.format(name=name), id="setup", metadata={"name": "setup"}),
        *(new_markdown_cell(text, id=each) for each, text in TEXT),
    ]
    for number in range(1, 7):
        text = f"### Exercise {number}: TODO"
        text = f"## Exercises\n\n{text}" if number == 1 else text
        solution = f"# @title Solution to exercise {number}\n# TODO"
        named = {"name": f"solution-{number}", **FOLDED}
        cells.append(new_markdown_cell(text, id=f"exercise-{number}"))
        cells.append(new_code_cell(solution, id=f"solution-{number}", metadata=named))
    cells.append(new_markdown_cell("## Sources\n\nTODO", id="sources"))
    course = {"claims": [], "minutes": 60, "objectives": [], "question": "", "summary": ""}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"course": course, "kernelspec": kernel})


def inserted(text: str, pattern: str, new: str) -> str:
    """Return text with `new` behind the last place that a pattern matches."""
    found = list(re.finditer(pattern, text, re.MULTILINE))
    if not found:
        raise ValueError(f"no place like {pattern!r}")
    at = found[-1].end()
    return text[:at] + new + text[at:]


def entered(name: str, title: str, after: str, root: Path) -> dict[Path, str]:
    """Return the pages that list the chapters, with the new one behind another."""
    book, package = root / "book", root / "companion" / "__init__.py"
    contents = (book / "_toc.yml").read_text(encoding="utf-8")
    teaching = (book / "teaching.md").read_text(encoding="utf-8")
    listed = package.read_text(encoding="utf-8")
    where = teaching.index(f"]({after}.ipynb)\n\n*")  # its section, and no table
    end = re.compile(r"^##", re.MULTILINE).search(teaching, where)
    section = SECTION.format(name=name, title=title)
    entry = f"* :mod:`companion.{name}` -- TODO\n"
    pages = {
        book / "_toc.yml": inserted(
            contents, f"^      - file: {after}\n", f"      - file: {name}\n"
        ),
        book / "teaching.md": teaching[: end.start()] + section + teaching[end.start() :],
    }
    if f":mod:`companion.{name}`" not in listed:
        listed = inserted(listed, r"^\* :mod:`companion\.training`.*\n", entry)
        names = sorted({*re.findall(r'^    "(\w+)",$', listed, re.MULTILINE), name})
        written = "__all__ = [\n" + "".join(f'    "{each}",\n' for each in names) + "]"
        pages[package] = re.sub(r"__all__ = \[\n.*?\]", written, listed, flags=re.DOTALL)
    return pages


def lay(name: str, title: str, after: str | None = None, root: Path = ROOT) -> list[Path]:
    """Write the chapter's files and entries, and return what was written.

    Raises:
        ValueError: if the name is no module's or already a chapter's, or `after` is no chapter.

    """
    chapters = [path.stem for path in chapter_files(root / "book")]
    after = chapters[-1] if after is None else after
    if not re.fullmatch(r"[a-z][a-z_]*", name) or name in chapters:
        raise ValueError(f"NAME must be a new module's name in small letters, got {name!r}")
    if not title.strip():
        raise ValueError('TITLE is missing: make chapter NAME=precision TITLE="Precision: ..."')
    if after not in chapters:
        raise ValueError(f"AFTER must be one of {chapters}, got {after!r}")
    texts = {
        root / "book" / f"{name}.ipynb": nbformat.writes(notebook(name, title)) + "\n",
        root / "tests" / f"test_{name}.py": TEST.format(name=name),
        root / "book" / "assignments" / name / "master.md": MASTER.format(name=name, title=title),
        root / "book" / "assignments" / name / "answers.yml": "# Typical wrong answers: TODO\n",
    }
    if not (root / "companion" / name).is_dir():
        module = MODULE.format(name=name, site=configured().site)
        texts[root / "companion" / f"{name}.py"] = module
    texts = {path: text for path, text in texts.items() if not path.exists()}
    texts |= entered(name, title, after, root)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Lay a chapter's files and say which; return the exit code."""
    parser = argparse.ArgumentParser(description="Lay the files of a new chapter.")
    parser.add_argument("name")
    parser.add_argument("title")
    parser.add_argument("--after", help="the chapter before it")
    given = parser.parse_args(arguments)
    try:
        written = lay(given.name, given.title, given.after, root)
    except ValueError as error:
        print(error)
        return 2
    for path in written:
        print(path.relative_to(root))
    print("Now write them: book/_tools/CHAPTERS.md says what belongs where.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
