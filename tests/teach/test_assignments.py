"""Every assignment: the reference and the blank get their marks, the student's notebook is fit."""

from pathlib import Path

import nbformat
import pytest
from chapters import chapter_files
from install_cell import install_cell
from stamp import configured

from companion.teach import build, marking, masters, notebooks
from companion.teach.masters import Master
from companion.teach.sandbox import Limits
from companion.teach.session import Zygote

from .assigned import MASTERS, check_reference, marked


def each_master() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("master", MASTERS, ids=[master.chapter for master in MASTERS])


@each_master()
def test_the_reference_gets_full_marks(master: Master, any_zygote: Zygote) -> None:
    check_reference(marked(master, any_zygote, "s1234567"))


@each_master()
def test_the_blank_gets_next_to_nothing(master: Master, any_zygote: Zygote) -> None:
    cells = notebooks.code_cells(build.student_path(master.path).read_bytes())
    marks = marking.mark(master, cells, "s0000000", any_zygote, Limits())
    assert not [error for error in marks.errors if error], "an empty notebook runs from end to end"
    for name, question in master.questions.items():
        assert marks.of(name) <= question.most / 10


@each_master()
def test_there_is_enough_of_everything(master: Master) -> None:
    answers = masters.wrong_answers(master)
    assert 4 <= len(master.questions) <= 6
    assert list(answers) == list(master.questions)
    for name, wrong in answers.items():
        assert len(wrong) >= 3, name
        assert all(one["marks"] < master.questions[name].most for one in wrong), name
        assert len({one["code"] for one in wrong}) == len(wrong), name
    assert sum(question.minutes for question in master.questions.values()) <= master.minutes
    assert master.chapter in [path.stem for path in chapter_files()]


@each_master()
def test_no_answer_is_asked_for_twice(master: Master) -> None:
    asked = [
        {name for test in question.tests for name in test.parameters} - {"student_id"}
        for question in master.questions.values()
    ]
    assert sum(map(len, asked)) == len(set().union(*asked))


@each_master()
def test_the_student_notebook_is_the_one_that_is_built(master: Master, tmp_path: Path) -> None:
    first = build.build(master.path, tmp_path / "first")
    again = build.build(master.path, tmp_path / "again")
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    committed = build.student_path(master.path)
    assert committed.read_bytes() == first.student.read_bytes(), "run `make assignments`"


@each_master()
def test_the_student_notebook_is_fit_for_students(master: Master) -> None:
    path = build.student_path(master.path)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source == install_cell()
    assert not any(cell.outputs or cell.execution_count for cell in code)
    text = "\n".join(cell.source for cell in notebook.cells)
    address = configured().colab(f"assignments/{master.chapter}/{path.name}")
    assert f"({address})" in text
    assert "otter" not in text
    assert text.count("checks.report(") == len(master.questions)
    assert text.count("You show that you can") == len(master.questions)
    for name, question in master.questions.items():
        assert all(f"points: {test.rubric}" in text for test in question.tests), name
        assert not any(f"def {test.name}(" in text for test in question.tests), name


@each_master()
def test_no_line_of_a_solution_is_in_the_student_notebook(master: Master) -> None:
    student = build.student_path(master.path).read_text(encoding="utf-8")
    for line in solution_lines(master):
        assert line not in student, line


def solution_lines(master: Master) -> list[str]:
    """The lines that make up the solutions, without those too short to tell anything."""
    found, inside = [], False
    for cell in master.cells:
        if cell.place != "solution":
            continue
        for line in cell.source.splitlines():
            if line.strip().startswith("# BEGIN SOLUTION"):
                inside = True
            elif line.strip().startswith("# END SOLUTION"):
                inside = False
            elif inside or line.endswith("# SOLUTION"):
                found.append(line.strip().removesuffix("# SOLUTION").strip())
    return [line for line in found if len(line) > 15]
