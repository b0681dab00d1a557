"""Marking one submission: its code inside the sandbox, the tests outside, plain data between."""

import builtins
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from companion.teach.masters import Master, Test
from companion.teach.plain import Missing
from companion.teach.sandbox import Limits
from companion.teach.session import NoAnswerError, Session, Zygote

KNOWN_REASON = re.compile(r"it ran for more than [\d.]{1,9} s|it ended its process|it broke off")


class Line(NamedTuple):
    """What one test gave.

    Attributes:
        question: the question's name.
        rubric: what was asked for.
        points: earned.
        most: to be earned.
        reason: why not all of them, in words that give no expected value away.

    """

    question: str
    rubric: str
    points: float
    most: float
    reason: str


@dataclass(frozen=True)
class Marks:
    """What a submission gets, and how it ran."""

    lines: list[Line]
    errors: list[str | None]
    end: str
    peak: int

    def of(self, question: str) -> float:
        """Return the points for a question."""
        return sum(line.points for line in self.lines if line.question == question)

    @property
    def total(self) -> float:
        """The points for all questions."""
        return sum(line.points for line in self.lines)


def mark(
    master: Master, cells: Sequence[str], student_id: str, zygote: Zygote, limits: Limits
) -> Marks:
    """Run a submission and put every test's questions to it.

    Args:
        master: whose tests to use.
        cells: the submission's code.
        student_id: whose it is, as known from outside: its numbers are compared with this id's.
        zygote: what forks the submission.
        limits: what it may use.

    """
    lines = []
    with Session(zygote, master.with_given(cells), limits) as session:
        for question in master.questions.values():
            for test in question.tests:
                reason = _run(test, session, student_id)
                points = 0.0 if reason else test.points
                lines.append(Line(question.name, test.rubric, points, test.points, reason))
    return Marks(lines, session.errors, session.end, session.peak)


def _run(test: Test, session: Session, student_id: str) -> str:
    """Run a test; return why it failed, or nothing if it passed."""
    try:
        arguments: dict[str, Any] = {
            name: student_id if name == "student_id" else session.answer(name)
            for name in test.parameters
        }
        if any(isinstance(value, Missing) for value in arguments.values()):
            return "not answered"
        test.function(**arguments)
    except NoAnswerError as error:
        return _without_its_words(str(error))
    except AssertionError:
        return "not what is asked for"  # its message may hold the value that was expected
    except Exception as error:
        return f"the answer is of another kind than asked for ({type(error).__name__})"
    return ""


def _without_its_words(error: str) -> str:
    """Return what kept a submission from answering, without what it could tell of the test.

    An error's text, and even its name, may have been made from what the test asked with.
    """
    if KNOWN_REASON.fullmatch(error):
        return error
    kind = error.partition(":")[0]
    is_known = isinstance(getattr(builtins, kind, None), type)
    return f"it raised {kind}" if is_known else "it raised an error, or gave no plain value"
