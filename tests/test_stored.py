"""What is stored was made by the code that there is, and is what that code still makes."""

import random
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import outputs
import pytest
import stored
from chapters import BOOK, ROOT, read

from companion.lstms import longer


@pytest.mark.parametrize("name", stored.STORED)
def test_the_code_that_made_it_is_the_code_that_there_is(name: str) -> None:
    one = stored.STORED[name]
    head = one.head()
    assert {"command", "commit", "code"} <= head.keys()
    advice = f"run `make stored NAME={name}`, or with AGAIN=1 if its numbers cannot have changed"
    assert head["code"] == stored.code(one.module), advice


@pytest.mark.parametrize("name", stored.STORED)
def test_a_part_that_is_made_again_is_what_is_kept(name: str) -> None:
    one = stored.STORED[name]
    part = random.Random(stored.commit(ROOT)).choice(one.quick)
    assert not stored.differing(one, [part])


# ---------------------------------------------------------------- made


class Fake(stored.Stored):
    """A result of two parts that counts how often each is made."""

    def parts(self) -> dict[str, Callable[..., str]]:
        return {name: partial(self.part, name) for name in ("x", "y")}

    def part(self, name: str, *, progress: bool) -> str:
        made.append((name, progress))
        if name == broken:
            raise KeyboardInterrupt
        return f"above\n  x loss {loss:.2f}\n" if name == "x" else "  y solved 2 of 6\n"


def written(root: Path, result: int) -> None:
    """A companion of one module, which says what it results in."""
    (root / "companion").mkdir(exist_ok=True)
    (root / "companion" / "a.py").write_text(f"def f():\n    return {result}\n", encoding="utf-8")


made: list[tuple[str, bool]] = []
broken, loss = "", 0.50


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    written(tmp_path, 2)
    for command in ("init", "add .", "-c user.name=a -c user.email=b commit -m c"):
        subprocess.run(["git", "-C", tmp_path, *command.split()], check=True, capture_output=True)
    monkeypatch.setattr(f"{__name__}.made", [])
    monkeypatch.setattr(f"{__name__}.broken", "y")
    return Fake(tmp_path / "kept.txt", "companion.a", quick=("x",), room=0.02)


def test_what_is_interrupted_goes_on_where_it_was(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        stored.make("one", fake, tmp_path)
    monkeypatch.setattr(f"{__name__}.broken", "")
    stored.make("one", fake, tmp_path)
    assert made == [("x", True), ("y", True), ("y", True)]
    assert fake.table() == "above\n  x loss 0.50\n  y solved 2 of 6\n"
    head = fake.head()
    assert head["command"] == "make stored NAME=one"
    assert head["code"] == stored.code("companion.a", tmp_path)
    assert head["commit"] == stored.commit(tmp_path).removesuffix("-dirty")
    stored.make("one", fake, tmp_path)
    assert len(made) == 5, "what is whole begins anew"


def test_the_head_is_written_anew_only_if_the_quick_parts_agree(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.broken", "")
    stored.make("one", fake, tmp_path)
    before, table = fake.head(), fake.table()
    written(tmp_path, 3)
    monkeypatch.setattr(f"{__name__}.loss", 0.53)
    assert stored.again(fake, tmp_path) == ["x: kept is 'x loss 0.50', made was 'x loss 0.53'"]
    assert fake.head() == before
    monkeypatch.setattr(f"{__name__}.loss", 0.52)
    assert stored.again(fake, tmp_path) == []
    assert fake.table() == table
    assert fake.head().pop("again").startswith("x at ")
    assert fake.head()["code"] == stored.code("companion.a", tmp_path) != before["code"]
    assert fake.head()["commit"] == before["commit"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a 0.10, b 2", "a 0.12, b 2", True),
        ("a 0.10, b 2", "a 0.13, b 2", False),
        ("a 0.10, b 2", "a 0.10, b 3", False),
        ("a 0.10", "b 0.10", False),
        ("a 0.10", "a 0.10, 0.10", False),
    ],
)
def test_decimals_have_room_and_nothing_else(one: str, other: str, same: bool) -> None:
    assert stored.alike(one, other, 0.02) == same


@pytest.mark.parametrize("make", [stored.main, outputs.main])
def test_nothing_is_stored_in_a_repetition(
    make: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COURSE_REPETITION", "1")
    with pytest.raises(SystemExit, match="COURSE_REPETITION is set"):
        make([])


def test_the_chapter_shows_the_table_that_is_stored() -> None:
    kept = stored.STORED["long-race"].table()
    heads = [line for line in kept.splitlines() if not line.startswith(" ")]
    budgets = [(make(), steps) for make, steps in longer.BUDGETS]
    assert heads == [
        f"{task.name}, {task.length} steps, {steps} updates" for task, steps in budgets
    ]
    assert any(kept in cell["source"] for cell in read(BOOK / "lstms.ipynb")["cells"])
