"""Stored outputs are the same whoever stores them, and verdicts.md follows from the chapters."""

import base64
import copy
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import outputs
import pytest
from chapters import ROOT
from install_cell import install_cell
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image


def notebook() -> NotebookNode:
    cells = [
        new_markdown_cell("# The first, best chapter", id="0a1b2c3d"),
        new_code_cell("1", id="abcdef12", execution_count=7, metadata={"name": "norm"}),
        new_code_cell("2", id="kept-id", execution_count=9, metadata={"execution": {"a": "b"}}),
        new_markdown_cell("words", id="ABC_x"),
    ]
    cells[1].outputs = [
        new_output("stream", name="stdout", text="a"),
        new_output("stream", name="stdout", text="b"),
        new_output("display_data", data={outputs.WIDGET_VIEW: {"model_id": "5"}}),
        new_output("execute_result", data={"text/plain": "1"}, execution_count=7),
    ]
    return new_notebook(cells=cells, metadata={"widgets": {}, "course": {"minutes": 5}})


def test_what_differs_between_runs_is_normalised() -> None:
    book = notebook()
    outputs.normalise(book)
    assert [cell.id for cell in book.cells] == [
        "the-first-best-chapter-1",
        "norm",
        "kept-id",
        "the-first-best-chapter-2",
    ]
    assert [cell.execution_count for cell in book.cells[1:3]] == [1, 2]
    text, result = book.cells[1].outputs
    assert text.text == "ab"
    assert result.execution_count == 1
    assert book.cells[2].metadata == {}
    assert set(book.metadata) == {"course", "kernelspec", "language_info"}
    assert "version" not in book.metadata.language_info
    nbformat.validate(book)


def test_normalising_again_changes_nothing() -> None:
    book = notebook()
    outputs.normalise(book)
    again = copy.deepcopy(book)
    outputs.normalise(again)
    assert again == book


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise KeyError('lost')", r"cell 0 \(bad\) raised:[\s\S]*KeyError: 'lost'"),
        ("import sys\nprint('careful', file=sys.stderr)", r"cell 0 \(bad\) wrote to stderr"),
    ],
)
def test_a_cell_that_raises_or_warns_is_named(source: str, message: str, tmp_path: Path) -> None:
    book = new_notebook(cells=[new_code_cell(source, id="bad")])
    with pytest.raises(outputs.ChapterError, match=message) as caught:
        outputs.execute(book, tmp_path)
    assert "\x1b" not in str(caught.value)


def test_a_backend_of_the_caller_loses_no_figure() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import os, outputs; print(os.environ.get('MPLBACKEND'))"],
        cwd=ROOT / "book/_tools",
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "None"


def test_two_runs_of_a_figure_store_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, picture = tmp_path / "chapter.ipynb", tmp_path / "picture.png"
    monkeypatch.setattr(outputs, "PICTURE", picture)
    draw = "import matplotlib.pyplot as plt\n\nprint(0.25)\n_ = plt.plot([1, 2], [3, 4])"
    cells = [
        new_code_cell(install_cell().replace("v0", "v99")),
        new_code_cell(draw, metadata={"course-picture": True}),
    ]
    nbformat.write(new_notebook(cells=cells), path)
    assert outputs.run_chapter(path)
    stored, drawn = path.read_bytes(), picture.read_bytes()
    with Image.open(io.BytesIO(drawn)) as read:
        assert set(read.info) == {"dpi"}, "neither a version nor a date"
    assert not outputs.run_chapter(path)
    assert (path.read_bytes(), picture.read_bytes()) == (stored, drawn)
    book = nbformat.read(path, as_version=4)
    assert book.cells[0].source == install_cell()
    assert not book.cells[0].outputs
    assert base64.b64decode(book.cells[1].outputs[-1].data["image/png"]) == drawn


# ---------------------------------------------------------------- the Makefile


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("exit 1", "Python 3.11 or newer is needed"),
        ('case "$2" in *venv*) exit 1;; esac', "apt install python3-venv"),
    ],
)
def test_a_missing_python_is_explained(answers: str, message: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{answers}\nexit 0\n")
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "book", f"PYTHON={python}"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert message in done.stderr


def test_the_install_cell_is_a_cell_that_ipython_reads() -> None:
    from IPython.core.inputtransformer2 import TransformerManager

    source = TransformerManager().transform_cell(install_cell())
    compile(source, "install cell", "exec")
    assert "run_line_magic('pip', 'install --quiet" in source
