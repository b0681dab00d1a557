"""Published results on clipping, P25 to P27 and P56: angles, the quartic, the cliff, spikes."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from companion import backprop, clipping, data
from companion.clipping import NonFiniteGradientError, cliffs

# P25. The two-entry gradient that textbooks clip.


def gradient_of(*entries: float) -> list[nn.Parameter]:
    """Parameters of one entry each, in float64, with these gradients."""
    parameters = [nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in entries]
    for parameter, entry in zip(parameters, entries, strict=True):
        parameter.grad = torch.tensor([entry], dtype=torch.float64)
    return parameters


TURNED = math.degrees(math.atan2(100, 0.9) - math.atan2(1, 0.9))


def test_p25_by_value_turns_and_by_norm_keeps() -> None:
    assert round(TURNED, 2) == 41.47
    parameters = gradient_of(0.9, 100.0)
    assert clipping.clip_value_(parameters, 1.0).angle == pytest.approx(TURNED, abs=1e-9)
    assert [p.grad.item() for p in parameters] == [0.9, 1.0]
    parameters = gradient_of(0.9, 100.0)
    assert clipping.clip_norm_(parameters, 1.0).angle == pytest.approx(0, abs=1e-9)
    assert [round(p.grad.item(), 8) for p in parameters] == [0.00899964, 0.99995949]
    # In print 0.00899964 and 0.99995950: without torch's 1e-6 beside the norm.
    exact = [g / math.hypot(0.9, 100) for g in (0.9, 100)]
    assert [round(g, 8) for g in exact] == [0.00899964, 0.9999595]


def test_p25_by_norm_of_each_group_turns_again() -> None:
    parameters = gradient_of(0.9, 100.0)
    found = clipping.clip_group_norms_([[p] for p in parameters], 1.0)
    assert found.angle == pytest.approx(TURNED, abs=1e-4)


def test_p25_torch_makes_nan_of_infinity_and_ours_refuses() -> None:
    parameters = gradient_of(math.inf, 1.0)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    assert math.isnan(parameters[0].grad.item())
    assert parameters[1].grad.item() == 0
    with pytest.raises(NonFiniteGradientError):
        clipping.clip_norm_(gradient_of(math.inf, 1.0), 1.0)


# P26. Zhang et al. (2020), arXiv 1905.11881: x⁴, judged by the slowest of nine starts.


def test_p26_clipping_speeds_descent_on_the_quartic() -> None:
    sizes = (2.5, 5.0, 10.0)
    plain = [cliffs.fastest(size, clip=False) for size in sizes]
    clipped = [cliffs.fastest(size, clip=True).steps for size in sizes]
    end = (0.01 / 4) ** (1 / 3)  # where the gradient 4x³ is the tolerance
    for size, (steps, rate, _) in zip(sizes, plain, strict=True):
        # No larger rate shrinks the outermost start, and each step adds 8η to 1/x² or more.
        assert rate < 1 / (2 * size**2)
        assert steps <= 1 + 1 / (8 * rate * end**2)
        # A rate near the largest is the best, so that the steps grow as size².
        assert rate > 0.8 / (2 * size**2)
        assert steps > 0.9 / (8 * rate * end**2)
    # A clip leaves an exponent of 2/3, to the whole steps that are counted.
    for near, far in pairwise(clipped):
        assert (far - 1) / (near + 1) < 2 ** (2 / 3) < (far + 1) / (near - 1)
    assert 100 * clipped[-1] < plain[-1].steps


# P27. Pascanu, Mikolov & Bengio (2013), arXiv 1211.5063.


def test_p27_the_cliff_is_10000_times_as_steep_as_its_surroundings() -> None:
    w, b = torch.linspace(3, 7, 201), torch.linspace(-3.5, -1.5, 201)
    points = torch.cartesian_prod(w, b).double().requires_grad_()
    (found,) = torch.autograd.grad(cliffs.cliff(points).sum(), points)
    middle = found.norm(dim=1).median().item()
    steepest = cliffs.edge_gradient(torch.tensor(6.0, dtype=torch.float64)).item()
    assert steepest / middle > 1e4


def test_p27_one_unclipped_step_leaves_the_valley_and_a_clipped_one_does_not() -> None:
    w = torch.tensor(5.0, dtype=torch.float64)
    start = cliffs.on_the_edge(w)
    jumps = [
        cliffs.descend(cliffs.cliff, start, learning_rate=0.1, steps=1, max_norm=bound)
        for bound in (math.inf, 1.0)
    ]
    lengths = [(path[1] - path[0]).norm().item() for path in jumps]
    assert lengths[0] == pytest.approx(0.1 * cliffs.edge_gradient(w).item(), rel=1e-9)
    assert lengths[0] > 35
    assert lengths[1] == pytest.approx(0.1, rel=1e-9)


# P56. Kumar et al. (2025), arXiv 2504.02507: a threshold that follows the norms, in its simplest
# form. The depth is ours; at 6 and 8 layers 0.5 clips 81 % and 93 % of the steps.


def spoiled(bound: Callable[[list[float]], float], seed: int) -> tuple[float, float]:
    """Final loss and share of steps clipped, where every 60th batch has four inputs × 100."""
    digits = data.digits()
    (model,) = backprop.classifiers("relu", 2.0, depth=4, seeds=[seed])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    source, norms, clipped = torch.Generator().manual_seed(seed), [], 0
    for step in range(1, 241):
        batch = torch.randint(len(digits.train_inputs), (64,), generator=source)
        inputs = digits.train_inputs[batch]
        inputs[:4] *= 100 if step % 60 == 0 else 1
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), digits.train_targets[batch]).backward()
        clip = clipping.clip_norm_(model.parameters(), bound(norms), nonfinite="skip")
        norms.append(min(clip.norm, bound(norms)))
        clipped += clip.clipped
        optimizer.step()
    loss = nn.functional.cross_entropy(model(digits.train_inputs), digits.train_targets)
    return loss.item(), clipped / 240


def two_and_a_half_deviations(norms: list[float]) -> float:
    """Above the running mean of the norms, from the 25th on."""
    if len(norms) < 25:
        return 1e9
    first = torch.tensor(norms[:25], dtype=torch.float64)
    mean, variance = first.mean().item(), first.var().item()
    for norm in norms[25:]:
        variance = 0.97 * variance + 0.03 * (norm - mean) ** 2
        mean = 0.97 * mean + 0.03 * norm
    return mean + 2.5 * math.sqrt(variance)


def test_p56_a_threshold_that_follows_saves_the_run_and_clips_few_steps() -> None:
    found = {
        name: torch.tensor([spoiled(bound, seed) for seed in range(2)])
        for name, bound in {
            "none": lambda norms: 1e9,
            "fixed": lambda norms: 0.5,
            "follows": two_and_a_half_deviations,
        }.items()
    }
    assert (found["none"][:, 0] > 2).any()  # at a guess, ln 10, or not finite
    assert found["fixed"][:, 1].min() > 0.4
    assert found["follows"][:, 1].max() < 0.1
    assert max(found["fixed"][:, 0].max(), found["follows"][:, 0].max()) < 0.3
