"""Every typical wrong answer gets its mark, and the reference full marks: `make test-marking`.

To mark one notebook takes seconds, and each is marked several times, for several students; so in
`.ci/run` this is a sample. `make test` marks the reference and the blank of each assignment once.
"""

from itertools import zip_longest

import pytest
from chapters import ROOT

from companion.teach import masters
from companion.teach.masters import Master
from companion.teach.session import Zygote

from .assigned import MASTERS, PATHS, check_reference, marked

IDS = ["anna.b", "200345"]
MARKING = "companion/teach/marking.py"


def about(place: int) -> pytest.MarkDecorator:
    """The files that the tests of an assignment are about."""
    folder = PATHS[place].parent.relative_to(ROOT).as_posix()
    return pytest.mark.files(f"{folder}/master.md", f"{folder}/answers.yml", MARKING)


def rounds(master: Master) -> list[dict[str, dict]]:
    """The wrong answers, one to each question at a time: questions do not depend on each other."""
    answers = masters.wrong_answers(master)
    columns = [[(name, wrong) for wrong in answers[name]] for name in master.questions]
    return [dict(filter(None, row)) for row in zip_longest(*columns)]


@pytest.mark.parametrize(
    ("master", "student_id"),
    [
        pytest.param(master, student_id, id=f"{master.chapter}-{student_id}", marks=about(place))
        for place, master in enumerate(MASTERS)
        for student_id in IDS
    ],
)
def test_the_reference_gets_full_marks(master: Master, student_id: str, any_zygote: Zygote) -> None:
    check_reference(marked(master, any_zygote, student_id))


@pytest.mark.parametrize(
    ("master", "index", "answers"),
    [
        pytest.param(master, index, answers, id=f"{master.chapter}-{index + 1}", marks=about(place))
        for place, master in enumerate(MASTERS)
        for index, answers in enumerate(rounds(master))
    ],
)
def test_a_wrong_answer_gets_its_mark(
    master: Master, index: int, answers: dict[str, dict], any_zygote: Zygote
) -> None:
    codes = {name: wrong["code"] for name, wrong in answers.items()}
    marks = marked(master, any_zygote, IDS[index % len(IDS)], codes)
    assert not [error for error in marks.errors if error]
    for name, question in master.questions.items():
        says, deserved = "the reference", question.most
        if name in answers:
            says, deserved = answers[name]["says"], answers[name]["marks"]
        lost = [line.rubric for line in marks.lines if line.question == name and line.reason]
        assert marks.of(name) == deserved, f"{name}: {says}; lost: {lost}"
