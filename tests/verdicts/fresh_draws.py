"""Each chapter once more with fresh draws, and each check fed the opposite: `make test-verdicts`.

The commit decides the numbers of the draws. A sentence that holds in nine repetitions of ten fails
in one of ten, and what is its opposite in most draws need not be so in each. So what fails is tried
again: only three failures in a row speak against a sentence, or against its check.
"""

import subprocess

import pytest
import repeat
from chapters import BOOK, ROOT, chapter_files

TRIES = 3


def first_number() -> int:
    """The first repetition's number, far from those that the sentences were tried on."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return 1000 + TRIES * (int(done.stdout.strip() or "0", 16) % 10**6)


def faulty(row: repeat.Row) -> list[str]:
    """Return what speaks against a verdict: clauses that failed, or that no opposite made fail."""
    unnoticed = [f"held under every opposite: {clause}" for clause in row["unnoticed"]]
    return row["failed"] + unnoticed


@pytest.mark.parametrize(
    "chapter",
    [
        pytest.param(path.stem, marks=pytest.mark.files(f"book/{path.name}"))
        for path in chapter_files()
    ],
)
def test_its_verdicts_hold_with_fresh_draws_and_its_checks_notice_the_opposite(
    chapter: str,
) -> None:
    path, first = BOOK / f"{chapter}.ipynb", first_number()
    faults: dict[str, list[str]] = {}
    for number in range(first, first + TRIES):
        found = repeat.run(path, number, opposites=True)
        now = {claim: wrong for claim, row in found.items() if (wrong := faulty(row))}
        faults = now if number == first else {claim: now[claim] for claim in faults if claim in now}
        if not faults:
            break
    assert not faults, f"in repetitions {first} to {first + TRIES - 1}, the last said: {faults}"
