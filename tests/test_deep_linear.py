"""Deep linear networks against autograd, their differential equation, and brute force."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import RECTANGULAR, SQUARE, mlp, normal, reproducible
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from companion import deep_linear, products
from companion._lib import random

MODE = {"s": st.floats(0.1, 5), "share": st.floats(1e-3, 0.9)}


@pytest.mark.breaks(
    "companion/deep_linear.py",
    "torch.exp(-2 * singular_value * time)",
    "torch.exp(-singular_value * time)",
)
@reproducible
@given(**MODE)
def test_modes_solve_their_equation(s: float, share: float) -> None:
    start = share * s
    time = torch.linspace(0, 5 / s, 20, dtype=torch.float64, requires_grad=True)
    a = deep_linear.mode_strength(time, s, start)
    (rate,) = torch.autograd.grad(a.sum(), time)
    # Saxe et al. (2013), equation 12: τ da/dt = 2a(s - a).
    torch.testing.assert_close(rate, 2 * a * (s - a), rtol=1e-9, atol=1e-12)
    assert a[0].item() == pytest.approx(start, rel=1e-12)
    late = torch.tensor([40 / s], dtype=torch.float64)
    assert deep_linear.mode_strength(late, s, start).item() == pytest.approx(s, rel=1e-12)


@reproducible
@given(**MODE)
def test_half_time_is_when_half_is_learned(s: float, share: float) -> None:
    time = torch.tensor(deep_linear.half_time(s, share * s), dtype=torch.float64)
    assert deep_linear.mode_strength(time, s, share * s).item() == pytest.approx(s / 2, rel=1e-12)


@pytest.mark.parametrize("start", [0.0, -0.1, 2.0, 3.0, math.nan])
def test_a_mode_starts_between_zero_and_its_end(start: float) -> None:
    with pytest.raises(ValueError, match=f"start must lie between 0 and 2.0, got {start}"):
        deep_linear.half_time(2.0, start)
    with pytest.raises(ValueError, match=f"start must lie between 0 and 2.0, got {start}"):
        deep_linear.mode_strength(torch.zeros(1), 2.0, start)


@pytest.mark.breaks(
    "companion/deep_linear.py",
    "gradients.append(delta @ under.mT)",
    "gradients.append(delta @ under)",
    case="networks0-sizes1",
)
@pytest.mark.breaks(
    "companion/deep_linear.py",
    "delta = weight.mT @ delta",
    "delta = weight @ delta",
    case="networks0-sizes1",
)
@pytest.mark.parametrize("sizes", [RECTANGULAR, SQUARE, (3, 2)])
@pytest.mark.parametrize("networks", [(), (2,)])
def test_gradients_are_autograds(sizes: tuple[int, ...], networks: tuple[int, ...]) -> None:
    weights = [w.clone().requires_grad_() for w in mlp(sizes, "identity", networks).weights]
    target = normal(sizes[-1], sizes[0], seed=7)
    whole = torch.eye(sizes[0], dtype=torch.float64)
    for weight in weights:
        whole = weight @ whole
    torch.testing.assert_close(deep_linear.chain(weights), whole)
    expected = torch.autograd.grad((target - whole).square().sum() / 2, weights)
    found = deep_linear.weight_gradients([w.detach() for w in weights], target)
    torch.testing.assert_close(found, list(expected), rtol=1e-11, atol=1e-12)


def test_learning_is_gradient_descent() -> None:
    weights = mlp(RECTANGULAR, "identity", (2,)).weights
    before = [weight.clone() for weight in weights]
    target = normal(2, 5, 4, seed=7)
    rate = torch.tensor([1e-3, 3e-3], dtype=torch.float64)
    found = deep_linear.learn(weights, target, learning_rate=rate.view(2, 1, 1), steps=3)
    assert all(map(torch.equal, weights, before))
    for network in range(2):
        alone = [w[network].clone().requires_grad_() for w in weights]
        optimizer = torch.optim.SGD(alone, lr=rate[network].item())
        for step in range(4):
            product = deep_linear.chain(alone)
            torch.testing.assert_close(found[step, network], product.detach())
            optimizer.zero_grad()
            ((target[network] - product).square().sum() / 2).backward()
            optimizer.step()
    assert found.shape == (4, 2, 5, 4)


@pytest.mark.breaks(
    "companion/deep_linear.py", "dtype=torch.float64) / depth", "dtype=torch.float64)"
)
@pytest.mark.parametrize("start", deep_linear.STARTS)
def test_steps_are_the_first_below_the_fraction(start: str) -> None:
    n, depth, rates, options = 6, 3, [0.3, 1.0, 50.0], {"steps": 120, "seeds": 2}
    found = deep_linear.steps_to_learn(
        start, depth, n=n, learning_rates=rates, fraction=0.3, **options
    )
    assert found.shape == (3, 2)
    draw = {"orthogonal": products.rotations, "gaussian": products.gaussian_factors}[start]
    factors = draw(n, depth, seeds=2)
    targets = random.normal(random.generators([0, 1], "inputs"), n, n) / math.sqrt(n)
    for row, rate in enumerate(rates):
        for seed in range(2):
            weights, target = list(factors[seed]), targets[seed]
            path = deep_linear.learn(weights, target, learning_rate=rate / depth, steps=120)
            loss = (path - target).square().sum((1, 2))
            below = [i for i, value in enumerate(loss.tolist()) if value <= 0.3 * loss[0].item()]
            assert found[row, seed].item() == (below[0] if below else math.inf)
    assert found[2].isinf().all(), "a rate this large diverges"
    assert found[:2].isfinite().any(), "and some of the others arrive"


def test_the_whole_loss_is_reached_at_once() -> None:
    found = deep_linear.steps_to_learn(
        "gaussian", 2, n=3, learning_rates=[0.1], fraction=1.0, steps=2
    )
    assert found.tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: deep_linear.steps_to_learn("identity", 2, learning_rates=[1.0]),
            "start must be one of .*'orthogonal', 'gaussian'.*got 'identity'",
        ),
        (
            lambda: deep_linear.steps_to_learn("gaussian", 0, learning_rates=[1.0]),
            "depth must be at least 1, got 0",
        ),
        (
            lambda: deep_linear.learn([normal(2, 2)], normal(2, 2), learning_rate=1, steps=0),
            "steps must be at least 1, got 0",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
