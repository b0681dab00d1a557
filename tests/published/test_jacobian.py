"""Published results on Jacobians, P11: dynamical isometry and the Lyapunov spectrum of products."""

import math
from functools import cache

import pytest
import torch
from helpers import four_errors, within
from torch import Tensor

from companion import backprop, jacobian
from companion.jacobian import Ensemble

# P11. Pennington, Schoenholz & Ganguli (2017), arXiv 1711.04735; Newman (1986).

DEPTH, WIDTH, SEEDS = 8, 128, 40


@cache
def measured() -> Tensor:
    return jacobian.spectra(width=WIDTH, depth=DEPTH, seeds=SEEDS)


def test_p11_orthogonal_linear_networks_are_isometries() -> None:
    values = jacobian.spectra([Ensemble("identity", "orthogonal")], depth=100, seeds=4)
    assert (values - 1).abs().max() < 1e-13
    # Scaled, each layer stretches by that scale: a product of a hundred.
    values = jacobian.spectra([Ensemble("identity", "orthogonal", 0.81)], depth=100, seeds=1)
    torch.testing.assert_close(values / 0.9**100, torch.ones_like(values), rtol=1e-12, atol=0)


def second_moment(n: int, depth: int) -> float:
    """E of the mean of s⁴, exactly, for a product of n×n Gaussian matrices of variance 1/n.

    With A symmetric and W Gaussian of variance 1/n, Wick's theorem gives E tr (WᵀAW)² and
    E (tr WᵀAW)² as combinations of tr A² and (tr A)²; here u is tr A²/n and v is (tr A)²/n².
    """
    u = v = 1.0
    for _ in range(depth):
        u, v = v + (1 + 1 / n) * u, v + 2 * u / n**2
    return u


def test_p11_gaussian_linear_spread_is_the_depth() -> None:
    squares = measured()[0].square()
    fourth = squares.square().mean(-1)
    assert within(fourth, second_moment(WIDTH, DEPTH))
    assert within(squares.mean(-1), 1.0)
    # In wide networks s⁴ has mean L+1 beside s² with mean 1: a variance of L.
    assert second_moment(10**9, DEPTH) - 1 == pytest.approx(DEPTH, abs=1e-6)
    # That is 7 to 9 standard errors away from one layer more or less.
    assert abs(fourth.mean().item() - 1 - DEPTH) < 1 + four_errors(fourth)


@pytest.mark.breaks("companion/jacobian.py", "fourth / second**2 - 1", "fourth / second - 1")
@pytest.mark.parametrize("index", range(len(jacobian.ENSEMBLES)), ids=str)
def test_p11_spreads_of_all_ensembles(index: int) -> None:
    ensemble = jacobian.ENSEMBLES[index]
    spreads = jacobian.relative_variance(measured()[index])
    expected = jacobian.predicted_relative_variance(ensemble, depth=DEPTH)
    if expected == 0:
        assert spreads.max() < 1e-24
        return
    # Width n moves the spread by an order of L²/n of itself: the mean of s² fluctuates with it.
    finite = expected * DEPTH / WIDTH
    assert abs(spreads.mean().item() - expected) < four_errors(spreads) + finite
    # Sharp enough to tell a missing or an extra layer, by which D_L is left out for one.
    layer = expected / DEPTH
    assert four_errors(spreads) + finite < 2 * layer


def test_p11_relu_adds_one_a_layer_with_either_weights() -> None:
    gaussian, orthogonal = (Ensemble("relu", name, 2.0) for name in jacobian.WEIGHTS)
    assert jacobian.predicted_relative_variance(gaussian, depth=DEPTH) == 2 * DEPTH
    assert jacobian.predicted_relative_variance(orthogonal, depth=DEPTH) == DEPTH


@pytest.mark.parametrize(("n", "variance"), [(16, 1.0), (5, 2.0)])
def test_p11_newmans_spectrum(n: int, variance: float) -> None:
    network = backprop.random_mlp([n] * 201, "identity", weight_variance=variance, seeds=24)
    found = jacobian.lyapunov(network, torch.ones(1, n))[:, 0]
    exact = jacobian.gaussian_exponents(n, variance)
    for k in range(n):
        assert within(found[:, k], exact[k].item())
    # Sharp enough to tell n-k+1 from n-k, and n from n/2.
    assert four_errors(found[:, 0]) < (exact[0] - exact[1]).item()
    assert exact[0].item() == pytest.approx(
        0.5 * (torch.special.digamma(torch.tensor(n / 2)).item() + math.log(2 * variance / n)),
        abs=1e-6,
    )


def test_p11_newmans_top_exponent_as_published() -> None:
    assert jacobian.gaussian_exponents(16)[0].item() == pytest.approx(-0.0319, abs=5.1e-5)
