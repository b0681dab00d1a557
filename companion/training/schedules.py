"""Schedules: what a learning rate is multiplied by at each update, counted from 0."""

import math
from collections.abc import Callable, Iterable
from types import MethodType

import torch

from companion._lib.arguments import non_negative, positive_integer

Schedule = Callable[[int], float]


def warmup(steps: int) -> Schedule:
    """Return a schedule that rises in equal steps to 1, and stays there.

    Args:
        steps: number of updates it takes: of the first the factor is 1/steps, of the last of them
            (t = steps − 1) it is 1. With 1 there is no warmup.

    Returns:
        The factor as a function of t, the number of updates made before.

    Raises:
        TypeError: if ``steps`` is not a whole number.
        ValueError: if it is below 1.

    Source: Goyal et al. (2017), arXiv 1706.02677.

    Example:
        >>> schedule = warmup(4)
        >>> [schedule(t) for t in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]

    """
    count = positive_integer("steps", steps)
    return lambda t: min(1.0, (t + 1) / count)


def cosine(steps: int, *, warmup: int = 0) -> Schedule:
    """Return a schedule that falls from 1 to 0 along half a cosine, after a warmup if any.

    Args:
        steps: number of updates in all. The factor would be 0 at the one after them, and stays 0
            from there on; the last one still has a small one.
        warmup: number of updates at the beginning in which the factor rises as :func:`warmup`'s.
            The fall begins with the update after them, which still has 1.

    Returns:
        The factor as a function of t, the number of updates made before.

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if ``steps`` is below 1, ``warmup`` is negative, or it leaves no steps.

    Source: Loshchilov & Hutter (2017), arXiv 1608.03983, without their restarts.

    Example:
        >>> schedule = cosine(6, warmup=2)
        >>> [round(schedule(t), 4) for t in range(7)]
        [0.5, 1.0, 1.0, 0.8536, 0.5, 0.1464, 0.0]

    """
    total = positive_integer("steps", steps)
    rising = 0 if warmup == 0 else positive_integer("warmup", warmup)
    if rising >= total:
        raise ValueError(f"warmup must be below steps = {total}, got {warmup}")

    def factor(t: int) -> float:
        if t < rising:
            return (t + 1) / rising
        return (1 + math.cos(math.pi * min(1.0, (t - rising) / (total - rising)))) / 2

    return factor


def step_decay(every: int, factor: float) -> Schedule:
    """Return a schedule that is multiplied by a factor again and again.

    Args:
        every: number of updates between one decay and the next; the first that many have 1.
        factor: what it is multiplied by each time.

    Returns:
        The factor as a function of t, the number of updates made before.

    Raises:
        TypeError: if ``every`` is not a whole number, or ``factor`` is not a number.
        ValueError: if ``every`` is below 1, or ``factor`` is negative or not finite.

    Example:
        >>> schedule = step_decay(2, 0.5)
        >>> [schedule(t) for t in range(6)]
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]

    """
    count, share = positive_integer("every", every), non_negative("factor", factor)
    return lambda t: share ** (t // count)


def scheduled(
    optimizer: Callable[[Iterable], torch.optim.Optimizer], schedule: Schedule
) -> Callable[[Iterable], torch.optim.Optimizer]:
    """Return what ``training.train`` takes as an optimizer, with a rate that follows a schedule.

    Args:
        optimizer: what ``train`` takes as well, with one rate or one for each network; torch's own
            class with its options will do. It is not to set its rate itself.
        schedule: the factor of its rate at update t, counted from 0: :func:`warmup`,
            :func:`cosine`, :func:`step_decay`, or any function. Each optimizer that is made
            begins at 0.

    Returns:
        A function of a list of parameters.

    Raises:
        ValueError: when an update is made, if the schedule gave what is not a finite number of at
            least 0, or the optimizer set its rate itself, as ``adam_with_warmup`` does.
        TypeError: then, if the schedule gave no number.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> update = scheduled(lambda p: torch.optim.SGD(p, lr=0.1), warmup(4))([weight])
        >>> weight.grad = torch.ones(1)
        >>> update.step()
        >>> round(weight.item(), 6)
        0.975

    """

    def make(parameters: Iterable) -> torch.optim.Optimizer:
        made = optimizer(parameters)
        rates = [group["lr"] for group in made.param_groups]
        plain, taken = made.step, 0

        def step(self: torch.optim.Optimizer) -> None:  # train passes no closure
            nonlocal taken
            factor = non_negative("what the schedule gives", schedule(taken))
            taken += 1
            now = [rate * factor for rate in rates]
            for group, rate in zip(self.param_groups, now, strict=True):
                group["lr"] = rate
            plain()
            if [group["lr"] for group in self.param_groups] != now:
                raise ValueError("optimizer must leave its rate to the schedule, but it set it")

        made.step = MethodType(step, made)  # type: ignore[method-assign]
        return made

    return make
