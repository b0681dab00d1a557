"""The longer race, whose stored table the chapter on LSTMs shows."""

from functools import partial

import pytest
from chapters import BOOK, read
from stored import STORED

from companion.lstms import longer, tasks


def test_the_chapter_shows_the_table_that_is_stored() -> None:
    kept = STORED["long-race"].table()
    heads = [line for line in kept.splitlines() if not line.startswith(" ")]
    budgets = [(make(), steps) for make, steps in longer.BUDGETS]
    assert heads == [
        f"{task.name}, {task.length} steps, {steps} updates" for task, steps in budgets
    ]
    assert any(kept in cell["source"] for cell in read(BOOK / "lstms.ipynb")["cells"])


@pytest.mark.breaks("companion/lstms/longer.py", "(heading if name ==", "(heading if name !=")
def test_a_part_says_who_solved_what() -> None:
    made = longer.parts([(partial(tasks.adding, 2), 1), (tasks.sequential_digits, 1)])
    lines = "".join(run(progress=False) for run in made.values()).splitlines()
    assert lines[0] == "adding, 2 steps, 1 updates"
    assert lines[6] == "sequential digits, 64 steps, 1 updates"
    assert lines[1].startswith("  RNN            solved 0 of 6, loss ")
    assert [line.count("test accuracy") for line in lines] == [0] * 7 + [1] * 5


def test_a_part_trains_with_its_budget_and_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def race(task: tasks.Task, entered: dict[str, tasks.Entry], **options: object) -> None:
        asked.append((task.name, list(entered), options))
        raise KeyboardInterrupt

    monkeypatch.setattr(longer, "race", race)
    with pytest.raises(KeyboardInterrupt):
        longer.parts()["copying, GRU"](progress=False)
    options = {"steps": 1000, "dtype": longer.torch.float64, "progress": False}
    assert asked == [("copying", ["GRU"], options)]
