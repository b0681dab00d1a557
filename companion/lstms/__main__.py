"""Run the longer race of the chapter and store its table: ``python -m companion.lstms FILE``."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from companion.lstms.tasks import LONGER, Task, entries, race, score, sequential_digits


def parts() -> dict[str, Callable[..., str]]:
    """Return what gives each part of the table, by task and architecture.

    A part takes `progress`, whether to show a bar.

    Example:
        >>> len(parts()), list(parts())[-1]
        (15, 'sequential digits, GRU')

    """
    found: dict[str, Callable[..., str]] = {}
    runs: Iterable[tuple[Callable[..., Task], object, int]] = LONGER
    for make, size, steps in runs:
        task = make(size)
        for name in entries():
            found[f"{task.name}, {name}"] = partial(part, task, name, steps)
    return found


def part(task: Task, name: str, steps: int, *, progress: bool = True) -> str:
    """Race one architecture, and return what :func:`companion.lstms.tasks.longer_run` says of it.

    Args:
        task: what to learn.
        name: of one of :func:`companion.lstms.tasks.entries`; the first has the task's heading.
        steps: the budget.
        progress: whether to show a bar.

    Example:
        >>> from companion.lstms.tasks import adding
        >>> part(adding(2), "GRU", 1, progress=False)[:31]
        '  GRU            solved 0 of 6, '

    """
    entered = entries(task.length)
    run = race(task, {name: entered[name]}, steps=steps, progress=progress)[name]
    solved = sum(step is not None for step in run.solved_at)
    share = run.smoothed[-1].median().item() / task.baseline
    line = f"  {name:14} solved {solved} of {len(run.solved_at)}, loss {share:.2f}"
    if task.name == "sequential digits":
        right = score(run, sequential_digits("test")).accuracy
        assert right is not None  # digits are classes
        line += f", test accuracy {right.median().item():.2f}"
    first = name == next(iter(entered))
    heading = f"{task.name}, {task.length} steps, {steps} updates\n" if first else ""
    return f"{heading}{line}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Race the five architectures on all three tasks, and write down what came out."""
    parser = argparse.ArgumentParser(prog="python -m companion.lstms", description=main.__doc__)
    parser.add_argument("file", type=Path, help="where to write the table")
    file = parser.parse_args(arguments).file
    file.write_text("".join(each() for each in parts().values()), encoding="utf-8")


if __name__ == "__main__":
    main()
