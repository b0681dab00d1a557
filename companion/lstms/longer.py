"""The longer race: more steps of time, more updates and three tasks, a part at a time.

It takes minutes, so ``make stored NAME=long-race`` runs it and keeps its table, which the chapter
shows. In float64, so that another machine comes to the same table.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from companion.lstms.tasks import Task, adding, copying, entries, race, score, sequential_digits

Budgets = Sequence[tuple[Callable[[], Task], int]]
BUDGETS: Budgets = (
    (partial(adding, 50), 500),
    (partial(copying, 10), 1000),
    (sequential_digits, 500),
)


def parts(budgets: Budgets = BUDGETS) -> dict[str, Callable[..., str]]:
    """Return what runs each part of the race, by task and architecture.

    Args:
        budgets: what makes a task, and the updates for it.

    Returns:
        Functions that take ``progress``, whether to show a bar, and return lines of a table: how
        many of six networks solved the task, the median over them of the mean loss of the last 25
        steps over the baseline, and for digits the median accuracy on the test images. The first
        part of a task begins with a heading.

    Example:
        >>> print(parts([(partial(adding, 4), 2)])["adding, GRU"](progress=False).split(",")[0])
          GRU            solved 0 of 6

    """
    made = [(make(), steps) for make, steps in budgets]
    return {
        f"{task.name}, {name}": partial(_part, task, name, steps)
        for task, steps in made
        for name in entries()
    }


def _part(task: Task, name: str, steps: int, *, progress: bool = True) -> str:
    entered = entries(task.length)
    options = {"steps": steps, "dtype": torch.float64, "progress": progress}
    run = race(task, {name: entered[name]}, **options)[name]
    solved = sum(step is not None for step in run.solved_at)
    share = run.smoothed[-1].median().item() / task.baseline
    line = f"  {name:14} solved {solved} of {len(run.solved_at)}, loss {share:.2f}"
    if task.name == "sequential digits":
        right = score(run, sequential_digits("test")).accuracy
        assert right is not None  # digits are classes
        line += f", test accuracy {right.median().item():.2f}"
    heading = f"{task.name}, {task.length} steps, {steps} updates\n"
    return (heading if name == next(iter(entered)) else "") + f"{line}\n"
