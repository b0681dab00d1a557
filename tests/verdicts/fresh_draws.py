"""Each chapter once more with fresh draws, and each check fed the opposite: `make test-verdicts`.

The commit decides the numbers of the draws. A sentence that holds in nine repetitions of ten fails
in one of ten, so what fails is tried again: only three failures in a row speak against it.
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
    found = repeat.run(path, first, opposites=True)
    assert {claim: row["unnoticed"] for claim, row in found.items() if row["unnoticed"]} == {}
    lost = {claim: [row["failed"]] for claim, row in found.items() if row["failed"]}
    for number in range(first + 1, first + TRIES):
        if not lost:
            break
        again = repeat.run(path, number)
        lost = {
            claim: [*seen, again[claim]["failed"]]
            for claim, seen in lost.items()
            if again[claim]["failed"]
        }
    assert not lost, f"failed in repetitions {first} to {first + TRIES - 1}: {lost}"
