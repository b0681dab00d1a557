"""Three versions of a master: the student's, the instructor's, and Otter's zip for Gradescope."""

import logging
import re
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbformat import NotebookNode

from companion.teach import masters
from companion.teach.masters import Master, MasterError, Question

# One `grader.check` cell or one of Otter's own first cells would not work on Colab.
CONFIG = """\
# ASSIGNMENT CONFIG
init_cell: false
export_cell: false
check_all_cell: false
run_tests: false
tests:
  ok_format: false
generate:
  show_stdout: false
"""


class Built(NamedTuple):
    """Where the versions of an assignment are."""

    student: Path
    instructor: Path
    autograder: Path


def student_path(master: Path) -> Path:
    """Return where a master's student notebook is committed: beside it."""
    return master.with_name(f"{master.parent.name}-assignment.ipynb")


def build(path: Path, out: Path, book: Path | None = None) -> Built:
    """Build the three versions of a master into a folder.

    Args:
        path: the master.
        out: where to; it is made.
        book: the folder of the chapters, from which the first cell and the address are taken; the
            second folder above the master's if it is not given.

    Raises:
        MasterError: if the master's form is wrong.

    """
    master = masters.read(path)
    chapter = _chapter(master, book or path.resolve().parents[2])
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{master.chapter}-assignment.ipynb"
        nbformat.write(_for_otter(master, chapter), source)
        _run_otter(source, Path(folder) / "dist")
        out.mkdir(parents=True, exist_ok=True)
        built = Built(
            out / source.name,
            out / f"{master.chapter}-solutions.ipynb",
            out / f"{master.chapter}-autograder.zip",
        )
        for made, target in (("student", built.student), ("autograder", built.instructor)):
            notebook = nbformat.read(Path(folder) / "dist" / made / source.name, as_version=4)
            target.write_text(_normalised(notebook, chapter), encoding="utf-8")
        (archive,) = (Path(folder) / "dist" / "autograder").glob("*.zip")
        _copy_zip(archive, built.autograder)
    return built


def _copy_zip(source: Path, target: Path) -> None:
    """Copy a zip so that it is the same whenever it is made: in order, and without times."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in sorted(old.infolist(), key=lambda member: member.filename):
            plain = zipfile.ZipInfo(member.filename)
            plain.external_attr = 0o755 << 16
            new.writestr(plain, old.read(member), zipfile.ZIP_DEFLATED)


def _chapter(master: Master, book: Path) -> NotebookNode:
    path = book / f"{master.chapter}.ipynb"
    if not path.is_file():
        raise MasterError(f"{master.path}: there is no chapter {path}; name its folder with --book")
    return nbformat.read(path, as_version=4)


def _for_otter(master: Master, chapter: NotebookNode) -> NotebookNode:
    """Return the master as a notebook that Otter reads, with what every assignment has added."""
    new = nbformat.v4
    first = next(cell.source for cell in chapter.cells if cell.cell_type == "code")
    cells: list[NotebookNode] = []
    texts: list[NotebookNode] = []
    waiting = list(master.questions.values())
    for kind, source in masters.pieces(master.path.read_text(encoding="utf-8")):
        if kind == "otter":
            if source.startswith("# BEGIN SOLUTION"):
                texts[-1].source += f"\n\n{rubric(waiting.pop(0))}"
            elif source.startswith("# BEGIN QUESTION"):
                source = f"{source}\ncheck_cell: false"
            cells.append(new.new_raw_cell(source))
        elif kind == "code":
            cells.append(new.new_code_cell(source))
        else:
            cells.append(new.new_markdown_cell(source))
            texts.append(cells[-1])
    texts[0].source += _invitation(master, chapter)
    cells.insert(cells.index(texts[0]) + 1, new.new_code_cell(first))
    cells.insert(0, new.new_raw_cell(_config(first)))
    return new.new_notebook(cells=cells, metadata={"kernelspec": chapter.metadata.kernelspec})


def _config(install_cell: str) -> str:
    """Return Otter's settings, among them what to install on Gradescope."""
    found = re.search(r'%pip install --quiet "(.+)"', install_cell)
    if found is None:
        raise MasterError("the chapter's first code cell does not install the companion")
    return f"{CONFIG}requirements: ['{found[1]}']\n"


def rubric(question: Question) -> str:
    """Return a question's rubric as students read it."""
    lines = [
        f"*{question.most:g} points, about {question.minutes} minutes. "
        f"You show that you can {question.objective}.*\n"
    ]
    lines += [f"- {test.points:g} points: {test.rubric}" for test in question.tests]
    return "\n".join(lines)


def _invitation(master: Master, chapter: NotebookNode) -> str:
    """Return the line that opens the assignment on Colab, with the chapter's address."""
    text = next(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    found = re.search(r"\((https://colab\.research\.google\.com/\S+/)[\w-]+\.ipynb\)", text)
    if found is None:
        raise MasterError(f"the chapter {master.chapter} has no link to Colab in its first cell")
    here = f"{found[1]}assignments/{master.chapter}/{student_path(master.path).name}"
    return (
        f"\n\n*100 points, about {master.minutes} minutes.* "
        f"[Open this assignment on Colab]({here})."
    )


def _run_otter(source: Path, out: Path) -> None:
    """Let Otter Assign split a notebook."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from otter.assign import main as assign  # it takes seconds to load, and only this needs it

        logging.getLogger("otter").setLevel(logging.WARNING)
        assign(str(source), str(out), no_pdfs=True, no_run_tests=True)


def _normalised(notebook: NotebookNode, chapter: NotebookNode) -> str:
    """Return a notebook as text that is the same whenever it is built."""
    for index, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{index}"
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    metadata: dict[str, Any] = {
        key: chapter.metadata[key] for key in ("kernelspec", "language_info")
    }
    notebook.metadata = nbformat.from_dict(metadata)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"
