"""Mean-field integrals against closed forms, another quadrature, and wide random networks."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import reproducible, within
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from companion import backprop, signal
from companion.activations import ACTIVATIONS

VARIANCE = st.floats(0, 50)
BOTH = pytest.mark.parametrize("name", ["tanh", "sigmoid"])


def by_hermite(function: Callable[[Tensor], Tensor], variance: float) -> float:
    """E[f(z)] by Gauss-Hermite quadrature, which is another rule than the companion's."""
    x, w = np.polynomial.hermite_e.hermegauss(180)
    values = function(math.sqrt(variance) * torch.from_numpy(x)).numpy()
    return float(w @ values / math.sqrt(2 * math.pi))


@reproducible
@given(variance=VARIANCE)
def test_gaussian_moments(variance: float) -> None:
    mean = signal.gaussian_mean
    close = {"rel": 1e-12, "abs": 1e-12}
    assert mean(torch.ones_like, variance) == pytest.approx(1, **close)
    assert mean(lambda z: z, variance) == pytest.approx(0, abs=1e-12)
    assert mean(lambda z: z**2, variance) == pytest.approx(variance, **close)
    assert mean(lambda z: z**4, variance) == pytest.approx(3 * variance**2, **close)
    assert mean(torch.cos, variance) == pytest.approx(math.exp(-variance / 2), abs=1e-12)
    # A kink, and a jump that is not symmetric.
    assert mean(torch.relu, variance) == pytest.approx(math.sqrt(variance / 2 / math.pi), **close)
    if math.sqrt(variance) > 0:
        step = mean(lambda z: (z > 0).double(), variance)
        assert step == pytest.approx(0.5, abs=1e-12)


@reproducible
@given(q=VARIANCE, weight=st.floats(0, 9), bias=st.floats(0, 9))
def test_relu_and_identity_have_closed_forms(q: float, weight: float, bias: float) -> None:
    close = {"rel": 1e-12, "abs": 1e-12}
    assert signal.length_map(q, "relu", weight, bias) == pytest.approx(
        weight * q / 2 + bias, **close
    )
    assert signal.length_map(q, "identity", weight, bias) == pytest.approx(
        weight * q + bias, **close
    )
    assert signal.chi(q, "identity", weight) == pytest.approx(weight, **close)
    if q > 0:
        assert signal.chi(q, "relu", weight) == pytest.approx(weight / 2, **close)


@BOTH
@pytest.mark.parametrize("q", [0.05, 0.7, 2.0])
def test_smooth_activations_against_another_quadrature(name: str, q: float) -> None:
    phi, slope = ACTIVATIONS[name].function, ACTIVATIONS[name].slope
    # Hermite's rule with 180 points resolves tanh's poles to 1e-9 at the largest of these q.
    expected = 1.3 * by_hermite(lambda z: phi(z) ** 2, q) + 0.2
    assert signal.length_map(q, name, 1.3, 0.2) == pytest.approx(expected, rel=1e-8)
    expected = 1.3 * by_hermite(lambda z: slope(z) ** 2, q)
    assert signal.chi(q, name, 1.3) == pytest.approx(expected, rel=1e-8)


def test_tanh_slope_identity() -> None:
    def moment(power: int) -> float:
        return signal.gaussian_mean(lambda z: torch.tanh(z) ** power, 0.8)

    assert signal.chi(0.8, "tanh", 1.0) == pytest.approx(1 - 2 * moment(2) + moment(4), rel=1e-13)


@BOTH
def test_gradient_flow_step_by_step(name: str) -> None:
    weight, bias, mean_square = 1.4, 0.3, 2.5
    q1 = weight * mean_square + bias
    q2 = signal.length_map(q1, name, weight, bias)
    upper = math.log10(signal.chi(q2, name, weight)) / 2
    lower = math.log10(signal.chi(q1, name, weight)) / 2
    assert abs(upper - lower) > 0.01, "the two layers must differ for their order to be tested"
    flow = signal.gradient_flow(name, weight, bias, depth=3, input_mean_square=mean_square)
    assert flow.tolist() == pytest.approx([lower + upper, upper, 0.0], rel=1e-14)
    assert flow.dtype == torch.float64


def test_gradient_flow_of_one_layer_and_of_weights_that_are_zero() -> None:
    assert signal.gradient_flow("tanh", 1.0, depth=1).tolist() == [0.0]
    assert signal.gradient_flow("tanh", 0.0, depth=3).tolist() == [-math.inf, -math.inf, 0.0]


def test_a_wide_random_network_with_biases_does_as_predicted() -> None:
    weight, bias, mean_square, width, seeds = 1.8, 0.4, 0.5, 400, 12
    network = backprop.random_mlp([width] * 5, "tanh", scale=weight, seeds=seeds, bias=True)
    generator = torch.Generator().manual_seed(9)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for b in network.biases:
        b.copy_(math.sqrt(bias) * draw(*b.shape))
    cache = backprop.forward(network, math.sqrt(mean_square) * draw(seeds, 8, width))
    deltas = backprop.backward(network, cache, draw(seeds, 8, width)).deltas
    square = torch.stack([d.square().mean((1, 2)) for d in deltas], dim=1)
    predicted = signal.gradient_flow("tanh", weight, bias, depth=4, input_mean_square=mean_square)
    q = weight * mean_square + bias
    for layer in range(4):
        # Four standard errors over the seeds.
        assert within(cache.z[layer].square().mean((1, 2)), q)
        if layer < 3:
            flow = (square[:, layer] / square[:, 3]).log10() / 2
            assert within(flow, predicted[layer].item())
        q = signal.length_map(q, "tanh", weight, bias)


@pytest.mark.parametrize(
    # Points (σ_w², σ_b²) on either side of Schoenholz et al.'s (2017) edge of chaos; four digits.
    ("weight", "bias", "length", "factor"),
    [(1.3, 0.05, 0.3153, 0.8802), (3.3, 0.05, 1.6537, 1.2510)],
)
def test_fixed_points_of_tanh(weight: float, bias: float, length: float, factor: float) -> None:
    for start in (0.01, 1.0, 30.0):
        q = signal.fixed_point("tanh", weight, bias, start=start)
        assert q == pytest.approx(length, abs=5e-5)
        assert signal.length_map(q, "tanh", weight, bias) == pytest.approx(q, rel=1e-11)
    assert signal.chi(q, "tanh", weight) == pytest.approx(factor, abs=5e-5)


def test_fixed_points_of_relu() -> None:
    assert signal.fixed_point("relu", 1.0, 0.3) == pytest.approx(0.3 / (1 - 1 / 2), rel=1e-10)
    # Every length is one at He's variance.
    assert signal.fixed_point("relu", 2.0, start=7.0) == pytest.approx(7.0, rel=1e-11)


@pytest.mark.parametrize(("name", "weight"), [("relu", 2.5), ("identity", 1.5), ("tanh", 1.0)])
def test_no_fixed_point_is_said(name: str, weight: float) -> None:
    with pytest.raises(ValueError, match=f"no fixed point reached for weight_variance={weight}"):
        signal.fixed_point(name, weight)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: signal.gaussian_mean(torch.square, -1.0),
            "variance must be finite and at least 0",
        ),
        (lambda: signal.length_map(1.0, "relu", -1.0), "weight_variance must be finite and at"),
        (lambda: signal.length_map(1.0, "relu", 1.0, -1.0), "bias_variance must be finite and at"),
        (lambda: signal.chi(1.0, "relu", math.inf), "weight_variance must be finite"),
        (lambda: signal.chi(1.0, "step", 1.0), "activation must be one of"),
        (lambda: signal.gradient_flow("relu", 1.0, depth=0), "depth must be at least 1, got 0"),
        (
            lambda: signal.gradient_flow("relu", 1.0, depth=2, input_mean_square=-1.0),
            "input_mean_square must be finite and at least 0, got -1.0",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
