"""Masters: one Markdown file an assignment, with questions, solutions, and the tests that mark it.

The format is that of Otter Assign, written as MyST Markdown; ``book/assignments/README.md`` says it
in one page. What is read here is what marking needs; Otter itself does the splitting.
"""

import ast
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jupytext
import yaml

FENCE = re.compile(r"^```otter\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
FULL = 100  # points of an assignment


class MasterError(Exception):
    """A master cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Test:
    """One hidden test: a function of answers by their names, which raises if they are wrong.

    Attributes:
        name: of the function.
        points: what passing it earns.
        rubric: what it asks for, in the words of its docstring; students see these.
        parameters: the names of the answers that it takes.
        function: the test itself.

    """

    name: str
    points: float
    rubric: str
    parameters: tuple[str, ...]
    function: Callable[..., None]


@dataclass
class Question:
    """A question with its tests."""

    name: str
    points: list[float]
    objective: str
    minutes: int
    tests: list[Test] = field(default_factory=list)

    @property
    def most(self) -> float:
        """The points of all its tests."""
        return sum(self.points)


@dataclass(frozen=True)
class Cell:
    """A cell of a master: its place is ``text``, ``given``, ``solution`` or ``test``."""

    source: str
    place: str
    question: str | None


@dataclass(frozen=True)
class Master:
    """An assignment as its author wrote it."""

    path: Path
    header: dict[str, Any]
    questions: dict[str, Question]
    cells: list[Cell]

    @property
    def chapter(self) -> str:
        """The chapter that it belongs to, which is the name of its folder."""
        return self.path.parent.name

    @property
    def minutes(self) -> int:
        """How long it takes."""
        return self.header["minutes"]

    @property
    def digest(self) -> str:
        """A fingerprint of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def with_given(self, cells: Sequence[str]) -> list[tuple[str, bool]]:
        """Return the cells with whether they are as they were given, and given checks emptied."""
        given = {cell.source for cell in self.cells if cell.place == "given"}
        return [
            ("" if source in given and "checks.report(" in source else source, source in given)
            for source in cells
        ]

    def reference(self, answers: dict[str, str] | None = None) -> list[str]:
        """Return the code of the solution, with other answers to the questions that are named."""
        answers = dict(answers or {})
        code, replaced = [], set()
        for cell in self.cells:
            if cell.place == "solution" and cell.question in answers:
                if cell.question not in replaced:
                    code.append(answers[cell.question])
                replaced.add(cell.question)
            elif cell.place in ("given", "solution"):
                code.append(cell.source)
        return code


def find(folder: Path) -> list[Path]:
    """Return the masters in a folder of assignments, in the order of their names."""
    return sorted(folder.glob("*/master.md"))


def read(path: Path) -> Master:
    """Read a master and compile its tests.

    Raises:
        MasterError: if its form is wrong; the message names the place.

    """
    text = path.read_text(encoding="utf-8")
    header = _header(path, text)
    questions: dict[str, Question] = {}
    cells: list[Cell] = []
    question, place = None, "given"
    for kind, source in pieces(text):
        if kind == "otter":
            question, place = _step(path, source, header, questions, question, place)
        elif kind == "markdown":
            cells.append(Cell(source, "text", question))
        elif place == "test" and question is not None:
            questions[question].tests.append(_test(path, questions[question], source))
        else:
            cells.append(Cell(source, place, question))
    _check(path, header, questions)
    return Master(path, header, questions, cells)


def _header(path: Path, text: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    header = (yaml.safe_load(found[1]) if found else {}).get("assignment")
    if not isinstance(header, dict) or not {"minutes", "questions"} <= header.keys():
        raise MasterError(f"{path}: the header needs `assignment:` with `minutes` and `questions`")
    return header


def pieces(text: str) -> list[tuple[str, str]]:
    """Split a master into code, Markdown, and Otter's own lines."""
    pieces = []
    for cell in jupytext.reads(text, fmt="md:myst").cells:
        if cell.cell_type == "code":
            pieces.append(("code", cell.source))
            continue
        for index, part in enumerate(FENCE.split(cell.source)):
            if part.strip():
                pieces.append(("otter" if index % 2 else "markdown", part.strip()))
    return pieces


def _step(
    path: Path,
    source: str,
    header: dict[str, Any],
    questions: dict[str, Question],
    question: str | None,
    place: str,
) -> tuple[str | None, str]:
    """Follow one of Otter's lines; return the question and the place that come after it."""
    line = source.splitlines()[0].strip()
    if line == "# BEGIN QUESTION":
        given = yaml.safe_load(source)
        name, points = given.get("name"), given.get("points")
        said = header["questions"].get(name)
        if not isinstance(points, list) or not isinstance(said, dict):
            raise MasterError(
                f"{path}: question {name!r} needs `points:` with a list, one number for each test, "
                "and an entry in the header with `objective` and `minutes`"
            )
        questions[name] = Question(name, points, said["objective"], said["minutes"])
        return name, "given"
    places = {"# BEGIN SOLUTION": "solution", "# BEGIN TESTS": "test"}
    if line in places:
        if question is None:
            raise MasterError(f"{path}: {line!r} stands outside a question")
        return question, places[line]
    if line in ("# END SOLUTION", "# END TESTS"):
        return question, "given"
    if line == "# END QUESTION":
        return None, "given"
    raise MasterError(f"{path}: {line!r} is none of the lines that a master has")


def _test(path: Path, question: Question, source: str) -> Test:
    """Compile a test cell."""
    where = f"{path}: test {len(question.tests) + 1} of question {question.name!r}"
    if not source.startswith("# HIDDEN\n"):
        raise MasterError(f"{where} must begin with the line `# HIDDEN`")
    if len(question.tests) == len(question.points):
        raise MasterError(f"{where} has no points: `points` lists {len(question.points)}")
    tree = ast.parse(source)
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        raise MasterError(f"{where} must be one function and nothing else")
    definition = tree.body[0]
    rubric = " ".join((ast.get_docstring(definition) or "").split())
    if not rubric:
        raise MasterError(f"{where} needs a docstring: what it asks for, in a student's words")
    namespace: dict[str, Any] = {}
    exec(compile(source, f"<{definition.name}>", "exec"), namespace)  # noqa: S102 - the author's own
    names = tuple(argument.arg for argument in definition.args.args)
    points = question.points[len(question.tests)]
    return Test(definition.name, points, rubric, names, namespace[definition.name])


def _check(path: Path, header: dict[str, Any], questions: dict[str, Question]) -> None:
    """Raise if the parts do not fit together."""
    if list(questions) != list(header["questions"]):
        raise MasterError(
            f"{path}: the header names the questions {list(header['questions'])}, "
            f"the file has {list(questions)}"
        )
    for question in questions.values():
        if len(question.tests) != len(question.points):
            raise MasterError(
                f"{path}: question {question.name!r} has {len(question.tests)} tests "
                f"and points for {len(question.points)}"
            )
    total = sum(question.most for question in questions.values())
    if total != FULL:
        raise MasterError(f"{path}: the questions have {total:g} points together, not {FULL}")


def wrong_answers(master: Master) -> dict[str, list[dict[str, Any]]]:
    """Return the typical wrong answers to each question, from `answers.yml` beside the master.

    Each has ``says`` (what is wrong with it), ``marks`` (what it deserves) and ``code``.
    """
    path = master.path.with_name("answers.yml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
