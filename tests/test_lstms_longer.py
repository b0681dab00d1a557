"""The longer race, part by part; tests/test_stored.py holds the table that is stored."""

from functools import partial

import pytest

from companion.lstms import longer, tasks


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
