"""The masters of all assignments, and the marking of a notebook."""

from chapters import BOOK

from companion.teach import marking, masters, notebooks
from companion.teach.masters import Master
from companion.teach.sandbox import Limits
from companion.teach.session import Zygote

PATHS = masters.find(BOOK / "assignments")
MASTERS = [masters.read(path) for path in PATHS]


def marked(
    master: Master, zygote: Zygote, student_id: str, answers: dict[str, str] | None = None
) -> marking.Marks:
    cells = notebooks.with_id(master.reference(answers), student_id)
    return marking.mark(master, cells, student_id, zygote, Limits())


def check_reference(marks: marking.Marks) -> None:
    assert not [error for error in marks.errors if error]
    assert not [line for line in marks.lines if line.reason]
    assert marks.total == masters.FULL
