"""companion.clipping.cliffs against autograd, closed forms, and descent written out."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from helpers import normal, same
from torch import Tensor, nn

from companion._lib import random
from companion.clipping import cliffs, clip_norm_


def gradient(points: Tensor, **options: float) -> Tensor:
    points = points.clone().requires_grad_()
    (found,) = torch.autograd.grad(cliffs.cliff(points, **options).sum(), points)
    return found


def test_the_cliff_is_a_unit_unrolled() -> None:
    w, b, h = 3.0, -1.2, 0.5
    for _ in range(7):
        h = w / (1 + math.exp(-h)) + b
    loss = (1 / (1 + math.exp(-h)) - 0.6) ** 2
    found = cliffs.cliff(torch.tensor([w, b], dtype=torch.float64), steps=7, target=0.6)
    assert found.item() == pytest.approx(loss, rel=1e-12)


@pytest.mark.breaks("companion/clipping/cliffs.py", "to_b + delta, output", "to_b, output")
@pytest.mark.breaks("companion/clipping/cliffs.py", "to_w + delta * output", "to_w + output")
@pytest.mark.breaks("companion/clipping/cliffs.py", "(delta * w, last)", "(delta, last)")
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_the_way_back_is_that_of_autograd_to_the_last_bit(steps: int) -> None:
    points = torch.tensor([5.0, -2.6]) + 0.5 * normal(40, 2)
    leaf = points.clone().requires_grad_()
    w, b = leaf.unbind(-1)
    h = torch.full_like(w, 0.5)
    for _ in range(steps):
        h = w * h.sigmoid() + b
    (expected,) = torch.autograd.grad(((h.sigmoid() - 0.7) ** 2).sum(), leaf)
    assert torch.equal(gradient(points, steps=steps), expected)


def test_the_cliff_is_differentiated_once() -> None:
    point = torch.tensor([5.0, -2.6]).requires_grad_()
    (once,) = torch.autograd.grad(cliffs.cliff(point), point, create_graph=True)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(once.sum(), point)


@pytest.mark.breaks(
    "companion/clipping/cliffs.py",
    'powers = torch.arange(positive_integer("steps", steps)',
    'powers = torch.arange(positive_integer("steps", steps) + 1',
)
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_the_edge_has_the_gradient_of_autograd(steps: int) -> None:
    w = torch.tensor([0.5, 1 / 0.235003712, 4.5, 5.5], dtype=torch.float64)
    found = gradient(cliffs.on_the_edge(w), steps=steps).norm(dim=-1)
    same(cliffs.edge_gradient(w, steps=steps), found)


def test_on_the_edge_the_unit_stays_and_beside_it_it_leaves() -> None:
    point = cliffs.on_the_edge(torch.tensor(5.0, dtype=torch.float64))
    up, down = torch.tensor([0.0, 1e-4]), torch.tensor([0.0, -1e-4])
    stays = (torch.tensor(0.5, dtype=torch.float64).sigmoid() - 0.7) ** 2
    assert cliffs.cliff(point, steps=20).item() == pytest.approx(stays.item(), rel=1e-9)
    above, below = cliffs.cliff(point + up).item(), cliffs.cliff(point + down).item()
    assert below > 10 * stays > stays > above


@pytest.mark.breaks(
    "companion/clipping/cliffs.py",
    "factor = torch.where(norm > bound, bound / norm, 1.0)",
    "factor = torch.ones_like(norm)",
)
@pytest.mark.parametrize("max_norm", [math.inf, 0.7])
def test_descent_is_torchs_sgd_with_a_clip(max_norm: float) -> None:
    start = normal(3, 2)
    path = cliffs.descend(cliffs.quartic, start, learning_rate=0.05, steps=6, max_norm=max_norm)
    assert path.shape == (7, 3, 2)
    for index in range(3):
        point = nn.Parameter(start[index].clone())
        optimizer = torch.optim.SGD([point], lr=0.05)
        for step in range(7):
            torch.testing.assert_close(path[step, index], point.detach(), rtol=1e-5, atol=1e-6)
            optimizer.zero_grad()
            cliffs.quartic(point).backward()
            if math.isfinite(max_norm):
                clip_norm_(point, max_norm)
            optimizer.step()


def test_each_path_may_have_a_rate_and_a_threshold_of_its_own() -> None:
    start = normal(2, 2)
    rates, norms = torch.tensor([0.1, 0.01]), torch.tensor([0.5, math.inf])
    together = cliffs.descend(cliffs.quartic, start, learning_rate=rates, steps=4, max_norm=norms)
    for index in range(2):
        alone = cliffs.descend(
            cliffs.quartic,
            start[index],
            learning_rate=rates[index],
            steps=4,
            max_norm=norms[index],
        )
        assert torch.equal(together[:, index], alone)


def test_a_path_that_leaves_the_numbers_goes_on_as_nan() -> None:
    start = torch.tensor([[100.0], [0.1]])
    path = cliffs.descend(cliffs.quartic, start, learning_rate=1.0, steps=10)
    assert path[-1, 0].isnan().all()
    assert path[-1, 1].isfinite().all()


# What is found is compared with the same descent, started again by hand.
@pytest.mark.breaks(
    "companion/clipping/cliffs.py",
    "arrived = (gradient.abs() <= tolerance).all(1)",
    "arrived = (gradient.abs() <= tolerance).any(1)",
)
@pytest.mark.parametrize("clip", [False, True])
def test_the_fastest_choice_does_what_is_said_of_it(clip: bool) -> None:
    steps, rate, norm = cliffs.fastest(4.0, clip=clip, starts=5, seed=3)
    assert math.isfinite(norm) == clip
    drawn = torch.rand(5, generator=random.generator(3, "data"), dtype=torch.float64)
    starts = torch.cat([2 + 2 * drawn[:4], torch.tensor([4.0])])[:, None].double()
    path = cliffs.descend(cliffs.quartic, starts, learning_rate=rate, steps=steps, max_norm=norm)
    slowest = (4 * path.abs() ** 3).amax((1, 2))
    assert slowest[-1] <= 0.01
    assert (slowest[:-1] > 0.01).all()


@pytest.mark.breaks(
    "companion/clipping/cliffs.py",
    "drawn = torch.rand(count, generator=source, dtype=torch.float64)",
    "drawn = torch.linspace(0, 1, 9, dtype=torch.float64)",
)
def test_the_best_clip_takes_steps_like_the_power_two_thirds() -> None:
    """From nine even starts it took forty steps from 80 and from 160."""
    steps = [cliffs.fastest(size, clip=True).steps for size in (20.0, 40.0, 80.0, 160.0)]
    powers = [math.log2(after / before) for before, after in pairwise(steps)]
    assert all(0.55 < power < 0.8 for power in powers), steps


def test_a_single_start_can_be_lucky() -> None:
    # x − η·4x³ is 0 at once for η = 1/(4x²): the reason for judging by the slowest of several.
    assert cliffs.fastest(4.0, clip=False, starts=1, learning_rates=[1 / 64]).steps == 1
    with pytest.raises(ValueError, match="none of the choices"):
        cliffs.fastest(4.0, clip=False, learning_rates=[1 / 64], limit=100)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cliffs.cliff(torch.ones(3)), r"shape \(\.\.\., 2\), got \(3,\)"),
        (lambda: cliffs.cliff(torch.ones(2), steps=0), "steps must be at least 1"),
        (lambda: cliffs.edge_gradient(torch.ones(2), steps=0), "steps must be at least 1"),
        (lambda: cliffs.fastest(0.0, clip=True), "must be positive, got 0.0"),
        (lambda: cliffs.fastest(1.0, clip=True, tolerance=0.0), "must be positive"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
