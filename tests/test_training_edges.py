"""Edges of stability and descents against the update's matrix; the catapult against autograd."""

import math
from functools import partial

import pytest
import torch
from helpers import reproducible
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from companion import training
from companion._lib import random
from companion.training import edges

TINY = 1e-100  # so that an ε of 1 is all that is divided by

OPTIMIZERS = {
    "gradient_descent": lambda _: (training.sgd, 1.0),
    "momentum": lambda beta: (partial(training.sgd, momentum=beta), 1.0),
    "nesterov": lambda beta: (
        lambda rates: training.rated(torch.optim.SGD, rates, momentum=beta, nesterov=beta > 0),
        1.0,
    ),
    "adam": lambda beta: (partial(training.adam, betas=(beta, 0.999), eps=1.0), TINY),
    "rmsprop": lambda _: (partial(training.rmsprop, eps=1.0), TINY),
}


def update_matrix(rule: str, product: float, beta: float) -> Tensor:
    """What one update does to the distance and to what is kept, of torch's documentation."""
    kept = 0.0 if rule in ("gradient_descent", "rmsprop") else beta
    share = 1 - kept if rule == "adam" else 1.0
    keeps = torch.tensor([[kept * 1.0, share * product]], dtype=torch.float64)  # of (buffer, x)
    along = kept * keeps if rule == "nesterov" else keeps
    extra = product if rule == "nesterov" else 0.0
    moves = torch.tensor([[0.0, 1 - extra]], dtype=torch.float64) - along
    return torch.cat([keeps, moves])


def radius(rule: str, product: float, beta: float) -> float:
    return torch.linalg.eigvals(update_matrix(rule, product, beta)).abs().max().item()


@pytest.mark.breaks("companion/training/edges.py", "1 + 2 * kept", "1 + kept")
@pytest.mark.breaks("companion/training/edges.py", '"adam": 1 - kept', '"adam": 1.0')
@pytest.mark.breaks(
    "companion/training/edges.py", "2 * (1 + kept) / damping", "2 * (1 - kept) / damping"
)
@pytest.mark.breaks("companion/training/edges.py", '"rmsprop": 0.0', '"rmsprop": beta')
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("rule", edges.RULES)
def test_the_edge_is_where_the_matrix_s_radius_is_1(rule: str, beta: float) -> None:
    edge = training.edge(rule, momentum=beta)
    assert radius(rule, edge, beta) == pytest.approx(1, abs=1e-7)
    assert radius(rule, edge * 0.999, beta) < 1 - 1e-6
    assert radius(rule, edge * 1.001, beta) > 1 + 1e-6
    below = [radius(rule, edge * share / 20, beta) for share in range(1, 20)]
    assert max(below) < 1  # and nowhere below is there another edge


@pytest.mark.breaks("companion/training/edges.py", "x.grad = h * path[-1]", "x.grad = h * path[0]")
@pytest.mark.breaks(
    "companion/training/edges.py", "optimizer(rates)([x])", "optimizer(rates[:1] * len(rates))([x])"
)
@pytest.mark.parametrize("rule", edges.RULES)
def test_a_descent_is_the_matrix_again_and_again(rule: str) -> None:
    beta = 0.6
    make, start = OPTIMIZERS[rule](beta)
    steps = 120 if start == TINY else 400  # before the divisor grows with the path
    edge = training.edge(rule, momentum=beta)
    curvatures, shares = [0.5, 1.0, 2.0], [0.3, 0.97, 1.03]
    rates = [edge * share / bend for share, bend in zip(shares, curvatures, strict=True)]
    found = training.descend_quadratic(
        make, curvatures=curvatures, learning_rates=rates, steps=steps, start=start
    )
    assert found.distances.shape == (steps + 1, 3, 3)
    assert (found.distances[0] == start).all()
    for i, rate in enumerate(rates):
        for j, bend in enumerate(curvatures):
            grows = radius(rule, rate * bend, beta)
            assert found.decays[i, j].item() == (grows < 1)
            path = found.distances[:, i, j]
            if rule != "adam" and path.isfinite().all():  # its first updates are corrected
                state, expected = torch.tensor([0.0, start], dtype=torch.float64), []
                for _ in range(steps + 1):
                    expected.append(state[1].item())
                    state = update_matrix(rule, rate * bend, beta) @ state
                expected = torch.tensor(expected, dtype=torch.float64)
                size = path.abs().max().item()
                usable = 30 if start == TINY or grows > 1 else steps + 1
                torch.testing.assert_close(
                    path[:usable] / size, expected[:usable] / size, rtol=1e-9, atol=1e-9
                )


@pytest.mark.breaks(
    "companion/training/edges.py", "second.amax(0) < first.amax(0)", "second[-1] < first[0]"
)
def test_adam_s_edge_is_38_with_its_own_update_and_what_it_divides_by_held() -> None:
    found = training.descend_quadratic(
        partial(training.adam, eps=1.0),
        curvatures=[1.0], learning_rates=[37.5, 38.5], steps=300, start=TINY,
    )  # fmt: skip
    # Adam's first steps are long, by its correction: the one that decays is still farther out.
    assert (found.distances[-1].abs() > TINY).all()
    assert found.decays.flatten().tolist() == [True, False]
    growth = (found.distances[-1, 1, 0] / found.distances[-51, 1, 0]).abs() ** (1 / 50)
    assert growth.item() == pytest.approx(radius("adam", 38.5, 0.9), rel=1e-3)


def test_without_its_divisor_held_adam_neither_decays_nor_leaves() -> None:
    found = training.descend_quadratic(
        training.adam, curvatures=[1.0, 100.0], learning_rates=[0.1], steps=300
    )
    assert torch.allclose(found.distances[..., 0], found.distances[..., 1], atol=1e-6)


def test_a_path_that_left_the_numbers_does_not_decay() -> None:
    found = training.descend_quadratic(
        training.sgd, curvatures=[1.0], learning_rates=[1.0, 1e3], steps=300
    )
    assert found.decays.flatten().tolist() == [True, False]
    assert not found.distances[-1, 1, 0].isfinite()


# ---------------------------------------------------------------- the catapult


@pytest.mark.breaks(
    "companion/training/edges.py",
    "u - pull * v, v - pull * u",
    "u - pull * v, v - pull * (u - pull * v)",
)
@pytest.mark.breaks("companion/training/edges.py", "rates * f / math.sqrt(n)", "rates * f")
@pytest.mark.breaks(
    "companion/training/edges.py",
    "drawn.square().sum((1, 2)) / n",
    "drawn[:1].square().sum((1, 2)) / n",
)
def test_each_catapult_is_gradient_descent_by_autograd() -> None:
    products, width, steps = [0.7, 2.6, 4.1], 12, 6
    found = training.catapult(products, width=width, steps=steps, seeds=[3, 5])
    drawn = random.normal(random.generators([3, 5]), 2, width)
    assert found.loss.shape == found.curvature.shape == (steps + 1, 3, 2)
    for i, product in enumerate(products):
        for j in range(2):
            weights = drawn[j].clone().requires_grad_()
            for step in range(steps + 1):
                f = (weights[0] @ weights[1]) / math.sqrt(width)
                loss = f**2 / 2
                (slope,) = torch.autograd.grad(f, weights, retain_graph=True)
                (gradient,) = torch.autograd.grad(loss, weights)
                kernel = slope.square().sum().item()  # of one datum the kernel is a number
                if step == 0:
                    rate = product / kernel
                    assert found.learning_rates[i, j].item() == pytest.approx(rate, rel=1e-12)
                assert found.loss[step, i, j].item() == pytest.approx(loss.item(), rel=1e-8)
                assert found.curvature[step, i, j].item() == pytest.approx(kernel, rel=1e-9)
                weights = (weights - rate * gradient).detach().requires_grad_()


def test_its_docstring_s_equations_hold() -> None:
    n, found = 50, training.catapult([1.0, 3.0, 3.9], width=50, steps=30, seeds=4)
    f_squared, rates = 2 * found.loss, found.learning_rates
    kernel, product = found.curvature, found.curvature * found.learning_rates
    ratio = (1 - product + rates**2 * f_squared / n).square()
    torch.testing.assert_close(f_squared[1:], (f_squared * ratio)[:-1], rtol=1e-9, atol=1e-12)
    change = rates * f_squared * (product - 4) / n
    torch.testing.assert_close(kernel.diff(dim=0), change[:-1], rtol=1e-8, atol=1e-12)


def test_a_seed_more_leaves_the_others() -> None:
    two, three = (training.catapult([1.0], width=5, steps=3, seeds=count) for count in (2, 3))
    assert torch.equal(two.loss, three.loss[..., :2])


# ---------------------------------------------------------------- what is refused


@reproducible
@given(st.one_of(st.floats(max_value=-1e-9), st.floats(min_value=1), st.just(math.nan)))
def test_momentum_is_from_0_to_below_1(beta: float) -> None:
    with pytest.raises(ValueError, match="momentum must be"):
        training.edge("momentum", momentum=beta)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"rule must be one of .* got 'sgd'"):
        training.edge("sgd")
    with pytest.raises(TypeError, match="momentum must be a number"):
        training.edge("adam", momentum="0.9")
    good = {"curvatures": [1.0], "learning_rates": [0.1], "steps": 3}
    for change, error, message in [
        ({"curvatures": []}, ValueError, "at least one curvature"),
        ({"learning_rates": []}, ValueError, "at least one rate"),
        ({"learning_rates": [-0.1]}, ValueError, "learning_rate must be"),
        ({"curvatures": [math.nan]}, ValueError, "each of curvatures must be finite"),
        ({"start": 0.0}, ValueError, "a start other than 0"),
        ({"start": "a"}, TypeError, "start must be a number"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
    ]:
        with pytest.raises(error, match=message):
            training.descend_quadratic(training.sgd, **(good | change))
    for change, error, message in [
        ({"products": []}, ValueError, "products needs at least one"),
        ({"products": [-1.0]}, ValueError, "each of products must be finite and at least 0"),
        ({"width": 0}, ValueError, "width must be at least 1"),
        ({"steps": 1.5}, TypeError, "steps must be a whole number"),
        ({"seeds": 0}, ValueError, "seeds must be at least 1"),
    ]:
        with pytest.raises(error, match=message):
            training.catapult(**({"products": [1.0], "width": 3, "steps": 2} | change))
