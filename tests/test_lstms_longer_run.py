"""The longer race that the chapter on LSTMs shows is the one that is stored."""

from chapters import BOOK, read
from stored import STORED

from companion.lstms import tasks


def test_the_chapter_shows_the_longer_run_that_is_stored() -> None:
    stored = STORED["long-race"].table()
    heads = [line for line in stored.splitlines() if not line.startswith(" ")]
    expected = []
    for make, size, steps in tasks.LONGER:
        task = make(size)
        expected.append(f"{task.name}, {task.length} steps, {steps} updates")
    assert heads == expected
    assert any(stored in cell["source"] for cell in read(BOOK / "lstms.ipynb")["cells"])
