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

from companion import backprop, meanfield
from companion.activations import ACTIVATIONS, Activation

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
    mean = meanfield.gaussian_mean
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


@pytest.mark.breaks("companion/meanfield/steps.py", "square=found.mean_square", "square=found.mean")
@pytest.mark.breaks(
    "companion/meanfield/steps.py", "self.square + non_negative(", "self.square + 0 * non_negative("
)
@reproducible
@given(q=VARIANCE, weight=st.floats(0, 9), bias=st.floats(0, 9))
def test_relu_and_identity_have_closed_forms(q: float, weight: float, bias: float) -> None:
    close = {"rel": 1e-12, "abs": 1e-12}
    assert meanfield.length_map(q, "relu", weight, bias) == pytest.approx(
        weight * q / 2 + bias, **close
    )
    assert meanfield.length_map(q, "identity", weight, bias) == pytest.approx(
        weight * q + bias, **close
    )
    assert meanfield.chi(q, "identity", weight) == pytest.approx(weight, **close)
    if q > 0:
        assert meanfield.chi(q, "relu", weight) == pytest.approx(weight / 2, **close)


@reproducible
@given(variance=VARIANCE, mean=st.floats(-100, 100))
def test_gaussian_moments_about_another_mean(variance: float, mean: float) -> None:
    def found(function: Callable[[Tensor], Tensor]) -> float:
        return meanfield.gaussian_mean(function, variance, mean)

    assert found(lambda z: z) == pytest.approx(mean, rel=1e-12, abs=1e-11)
    assert found(torch.square) == pytest.approx(mean**2 + variance, rel=1e-12, abs=1e-11)
    expected = math.exp(-variance / 2) * math.cos(mean)
    assert found(torch.cos) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kinks", [(), (0.7,)])
def test_kinks_anywhere_are_found_or_told(kinks: tuple[float, ...]) -> None:
    for s in (0.3, 40.0, 1e4):
        above = math.erfc(0.7 / s / math.sqrt(2)) / 2
        density = s * math.exp(-((0.7 / s) ** 2) / 2) / math.sqrt(2 * math.pi)
        found = meanfield.gaussian_mean(lambda z: torch.relu(z - 0.7), s**2, kinks=kinks)
        assert found == pytest.approx(density - 0.7 * above, rel=1e-12)
        found = meanfield.gaussian_mean(lambda z: (z > 0.7).double(), s**2, kinks=kinks)
        assert found == pytest.approx(above, rel=1e-11)


@pytest.mark.breaks(
    "companion/_lib/quadrature.py",
    "bends = {0.0, *kinks, *steps, *(-step for step in steps)}",
    "bends = {*kinks}",
)
@pytest.mark.parametrize("variance", [1e-4, 1.0, 1e4, 1e8])
def test_a_layer_too_thin_for_fixed_nodes_is_found(variance: float) -> None:
    # Williams (1998): E erf² and the square of its slope, in closed form.
    found = meanfield.gaussian_mean(lambda z: torch.erf(30 * z) ** 2, variance)
    v = 900 * variance
    assert found == pytest.approx(2 / math.pi * math.asin(2 * v / (1 + 2 * v)), rel=1e-12)
    found = meanfield.gaussian_mean(lambda z: torch.exp(-2 * (30 * z) ** 2), variance)
    assert found == pytest.approx(1 / math.sqrt(1 + 4 * v), rel=1e-12)


@pytest.mark.breaks(
    "companion/meanfield/steps.py",
    "gaussian_moments(phi, q).slope_mean_square",
    "gaussian_moments(phi, q).slope_mean",
)
@BOTH
@pytest.mark.parametrize("q", [0.05, 0.7, 2.0])
def test_smooth_activations_against_another_quadrature(name: str, q: float) -> None:
    phi, slope = ACTIVATIONS[name].function, ACTIVATIONS[name].slope
    # Hermite's rule with 180 points resolves tanh's poles to 1e-9 at the largest of these q.
    expected = 1.3 * by_hermite(lambda z: phi(z) ** 2, q) + 0.2
    assert meanfield.length_map(q, name, 1.3, 0.2) == pytest.approx(expected, rel=1e-8)
    expected = 1.3 * by_hermite(lambda z: slope(z) ** 2, q)
    assert meanfield.chi(q, name, 1.3) == pytest.approx(expected, rel=1e-8)


def test_tanh_slope_identity() -> None:
    def moment(power: int) -> float:
        return meanfield.gaussian_mean(lambda z: torch.tanh(z) ** power, 0.8)

    assert meanfield.chi(0.8, "tanh", 1.0) == pytest.approx(
        1 - 2 * moment(2) + moment(4), rel=1e-13
    )


@pytest.mark.breaks("companion/meanfield/maps.py", ".log10() / 2", ".log10()")
@pytest.mark.breaks(
    "companion/meanfield/maps.py", "steps.flip(0).cumsum(0).flip(0)", "steps.cumsum(0)"
)
@pytest.mark.breaks(
    "companion/meanfield/maps.py",
    "inputs.weights(weight_variance, bias_variance)",
    "inputs.weights(weight_variance)",
)
@BOTH
def test_gradient_flow_step_by_step(name: str) -> None:
    weight, bias, mean_square = 1.4, 0.3, 2.5
    q1 = weight * mean_square + bias
    q2 = meanfield.length_map(q1, name, weight, bias)
    upper = math.log10(meanfield.chi(q2, name, weight)) / 2
    lower = math.log10(meanfield.chi(q1, name, weight)) / 2
    assert abs(upper - lower) > 0.01, "the two layers must differ for their order to be tested"
    flow = meanfield.gradient_flow(name, weight, bias, depth=3, input_mean_square=mean_square)
    assert flow.tolist() == pytest.approx([lower + upper, upper, 0.0], rel=1e-14)
    assert flow.dtype == torch.float64


def test_gradient_flow_of_one_layer_and_of_weights_that_are_zero() -> None:
    assert meanfield.gradient_flow("tanh", 1.0, depth=1).tolist() == [0.0]
    assert meanfield.gradient_flow("tanh", 0.0, depth=3).tolist() == [-math.inf, -math.inf, 0.0]


def test_a_wide_random_network_with_biases_does_as_predicted() -> None:
    weight, bias, mean_square, width, seeds = 1.8, 0.4, 0.5, 400, 12
    network = backprop.random_mlp(
        [width] * 5, "tanh", weight_variance=weight, seeds=seeds, bias=True
    )
    generator = torch.Generator().manual_seed(9)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for b in network.biases:
        b.copy_(math.sqrt(bias) * draw(*b.shape))
    cache = backprop.forward(network, math.sqrt(mean_square) * draw(seeds, 8, width))
    deltas = backprop.backward(network, cache, draw(seeds, 8, width)).deltas
    square = torch.stack([d.square().mean((1, 2)) for d in deltas], dim=1)
    predicted = meanfield.gradient_flow(
        "tanh", weight, bias, depth=4, input_mean_square=mean_square
    )
    q = weight * mean_square + bias
    for layer in range(4):
        # Four standard errors over the seeds.
        assert within(cache.z[layer].square().mean((1, 2)), q)
        if layer < 3:
            flow = (square[:, layer] / square[:, 3]).log10() / 2
            assert within(flow, predicted[layer].item())
        q = meanfield.length_map(q, "tanh", weight, bias)


@pytest.mark.parametrize(
    # Points (σ_w², σ_b²) on either side of Schoenholz et al.'s (2017) edge of chaos; four digits.
    ("weight", "bias", "length", "factor"),
    [(1.3, 0.05, 0.3153, 0.8802), (3.3, 0.05, 1.6537, 1.2510)],
)
def test_fixed_points_of_tanh(weight: float, bias: float, length: float, factor: float) -> None:
    for start in (0.01, 1.0, 30.0):
        q = meanfield.fixed_point("tanh", weight, bias, start=start)
        assert q == pytest.approx(length, abs=5e-5)
        assert meanfield.length_map(q, "tanh", weight, bias) == pytest.approx(q, rel=1e-11)
    assert meanfield.chi(q, "tanh", weight) == pytest.approx(factor, abs=5e-5)


def test_fixed_points_of_relu() -> None:
    assert meanfield.fixed_point("relu", 1.0, 0.3) == pytest.approx(0.3 / (1 - 1 / 2), rel=1e-10)
    # Every length is one at He's variance.
    assert meanfield.fixed_point("relu", 2.0, start=7.0) == pytest.approx(7.0, rel=1e-11)


@pytest.mark.parametrize(("name", "weight"), [("relu", 2.5), ("identity", 1.5), ("tanh", 1.0)])
def test_no_fixed_point_is_said(name: str, weight: float) -> None:
    with pytest.raises(ValueError, match=f"no fixed point reached for weight_variance={weight}"):
        meanfield.fixed_point(name, weight)


def test_growth_by_equal_steps_is_seen_at_once() -> None:
    with pytest.raises(ValueError, match=r"no fixed point .* from 1 the length came to 11"):
        meanfield.fixed_point("relu", 2.0, 0.1)


# ---------------------------------------------------------------- two inputs

C = st.floats(-1, 1) | st.sampled_from([-1.0, 0.0, 1 - 1e-15, 1 - 1e-9, 1 - 1e-4, 1.0])


@pytest.mark.breaks(
    "companion/_lib/quadrature.py",
    "rays = [angle % (2 * math.pi) for angle in (0, math.pi, between, between + math.pi)]",
    "rays = [0.0, math.pi]",
)
@pytest.mark.breaks(
    "companion/meanfield/steps.py",
    "lambda a, b: phi.slope(a) * phi.slope(b)",
    "lambda a, b: phi.function(a) * phi.function(b)",
)
@reproducible
@given(c=C, q=st.floats(1e-6, 1e4), weight=st.floats(0.1, 9), bias=st.floats(0, 9))
def test_correlations_of_relu_have_closed_forms(
    c: float, q: float, weight: float, bias: float
) -> None:
    # Cho & Saul (2009), the arc-cosine kernels of order 0 and 1.
    angle = math.acos(c)
    product = q * (math.sin(angle) + c * (math.pi - angle)) / (2 * math.pi)
    expected = (weight * product + bias) / (weight * q / 2 + bias)
    # Rounding c moves the result by 1e-16/angle at most, and the angle near -1 by its root.
    found = meanfield.correlation_map(c, q, "relu", weight, bias)
    assert found == pytest.approx(expected, abs=1e-11)
    if c < 1:
        factor = meanfield.chi(q, "relu", weight, correlation=c)
        assert factor == pytest.approx(weight * (math.pi - angle) / (2 * math.pi), abs=1e-12)
    leaky = meanfield.chi(q, "leaky_relu", 1.0, correlation=c)
    same = (1 + 0.01**2) * (math.pi - angle) / (2 * math.pi) + 0.01 * angle / math.pi
    assert leaky == pytest.approx(same, abs=1e-12)
    assert meanfield.correlation_map(c, q, "identity", weight, bias) == pytest.approx(
        (weight * q * c + bias) / (weight * q + bias), abs=1e-12
    )


ERF = Activation(
    "erf", torch.erf, lambda z: 2 / math.sqrt(math.pi) * torch.exp(-(z**2)), torch.nn.Identity
)


@reproducible
@given(c=C, q=st.floats(1e-4, 1e5))
def test_correlations_of_a_smooth_unit_have_closed_forms(c: float, q: float) -> None:
    # Williams (1998); the slopes are a Gaussian integral.
    size = 2 * q / (1 + 2 * q)
    expected = math.asin(size * c) / math.asin(size)
    assert meanfield.correlation_map(c, q, ERF, 1.7) == pytest.approx(expected, abs=1e-11)
    root = math.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2)
    factor = meanfield.chi(q, ERF, 1.7, correlation=c)
    assert factor == pytest.approx(1.7 * 4 / math.pi / root, rel=1e-10)


@pytest.mark.parametrize("name", ["gelu", "mish", "selu", "sigmoid", "tanh"])
def test_chi_is_the_slope_of_the_correlation_map_at_a_fixed_length(name: str) -> None:
    weight, bias = 1.2, 0.4
    q = meanfield.fixed_point(name, weight, bias)
    for c in (-0.4, 0.0, 0.6):
        ends = [meanfield.correlation_map(c + h, q, name, weight, bias) for h in (1e-5, -1e-5)]
        slope = meanfield.chi(q, name, weight, correlation=c)
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)
    near = meanfield.correlation_map(1 - 1e-7, q, name, weight, bias)
    assert (1 - near) / 1e-7 == pytest.approx(meanfield.chi(q, name, weight), rel=1e-3)
    assert meanfield.correlation_map(1.0, q, name, weight, bias) == 1


def test_the_correlation_in_a_wide_random_network() -> None:
    weight, width, seeds = 2.5, 500, 16
    network = backprop.random_mlp([width] * 4, "tanh", weight_variance=weight, seeds=seeds)
    generator = torch.Generator().manual_seed(4)
    first = torch.linalg.qr(torch.randn(seeds, width, 2, generator=generator).double()).Q.mT
    mixed = torch.stack([first[:, 0], 0.6 * first[:, 0] + 0.8 * first[:, 1]], dim=1)
    cache = backprop.forward(network, mixed * math.sqrt(width))
    q, c = weight, 0.6
    for z in cache.z:
        product = (z[:, 0] * z[:, 1]).mean(-1)
        assert within(product, q * c)
        # The gradient's product: δ at both inputs from one random direction.
        slopes = ACTIVATIONS["tanh"].slope(z)
        factor = weight * (slopes[:, 0] * slopes[:, 1]).mean(-1)
        assert within(factor, meanfield.chi(q, "tanh", weight, correlation=c))
        c = meanfield.correlation_map(c, q, "tanh", weight)
        q = meanfield.length_map(q, "tanh", weight)


# ---------------------------------------------------------------- fixed points and depth scales

# P10. Poole et al. (2016), arXiv 1606.05340; Schoenholz et al. (2017), arXiv 1611.01232.


@pytest.mark.parametrize(("bias", "critical"), [(0.01, 1.4242), (0.05, 1.7610), (0.5, 2.8432)])
def test_p10_critical_variances_of_tanh(bias: float, critical: float) -> None:
    weight = meanfield.critical_weight_variance("tanh", bias)
    assert weight == pytest.approx(critical, abs=5.1e-5)
    q = meanfield.fixed_point("tanh", weight, bias)
    assert meanfield.chi(q, "tanh", weight) == pytest.approx(1, abs=1e-10)
    if bias == 0.05:
        assert q == pytest.approx(0.5700, abs=5e-5)
        assert meanfield.depth_scales("tanh", weight, bias)[1:] == (math.inf, math.inf)


@pytest.mark.breaks(
    "companion/meanfield/maps.py",
    "    if repulsion(0.0) > -1e-12:",
    "    if True:\n        return 1.0\n    if repulsion(0.0) > -1e-12:",
)
@pytest.mark.breaks(
    "companion/meanfield/maps.py",
    "scale(chi(q, activation, weight_variance, correlation=c)),",
    "scale(chi(q, activation, weight_variance)),",
)
def test_p10_depth_scales_of_tanh() -> None:
    ordered = meanfield.depth_scales("tanh", 1.3, 0.05)
    assert ordered.correlation == pytest.approx(7.83, abs=5e-3)
    assert ordered.gradient == ordered.correlation, "c* is 1 there"
    six = [6 * meanfield.depth_scale("tanh", w, 0.05) for w in (1.0, 1.3, 2.5, 4.0)]
    assert six == pytest.approx([22, 47, 71, 42], abs=0.5)
    chaotic = meanfield.depth_scales("tanh", 3.3, 0.05)
    assert chaotic.gradient == pytest.approx(1 / math.log(1.2510), rel=5e-4)
    # The correlation's distance from c* falls by χ(c*) a layer, the length's by its own factor.
    q, c = meanfield.fixed_point("tanh", 3.3, 0.05), 0.2445
    assert meanfield.correlation_fixed_point("tanh", 3.3, 0.05) == pytest.approx(c, abs=5e-5)
    for start in (-0.9, 0.99):
        path = [start]
        for _ in range(110):
            path.append(meanfield.correlation_map(path[-1], q, "tanh", 3.3, 0.05))
        assert path[-1] == pytest.approx(c, abs=1e-3)
        ratio = (path[-2] - path[-3]) / (path[-3] - path[-4])
        assert ratio == pytest.approx(math.exp(-1 / chaotic.correlation), rel=0.01)
    lengths = [1.01 * q]
    for _ in range(4):
        lengths.append(meanfield.length_map(lengths[-1], "tanh", 3.3, 0.05))
    ratio = (lengths[-1] - q) / (lengths[-2] - q)
    assert ratio == pytest.approx(math.exp(-1 / chaotic.length), rel=0.01)


@pytest.mark.parametrize(
    ("name", "weight", "bias", "expected"),
    [
        ("tanh", 1.3, 0.05, 1.0),
        ("tanh", 0.5, 0.0, 1.0),
        ("relu", 2.0, 0.0, 1.0),
        ("relu", 1.5, 0.3, 1.0),
        ("identity", 0.5, 0.3, 1.0),
        ("tanh", 3.0, 0.0, 0.0),
    ],
)
def test_correlation_fixed_points(name: str, weight: float, bias: float, expected: float) -> None:
    assert meanfield.correlation_fixed_point(name, weight, bias) == expected


@pytest.mark.parametrize(
    ("name", "weight", "bias"),
    [("tanh", 3.3, 0.05), ("tanh", 1.77, 0.05), ("sigmoid", 300.0, 0.5), ("elu", 1.8, 0.5)],
)
def test_the_correlation_fixed_point_stays_and_attracts(
    name: str, weight: float, bias: float
) -> None:
    q = meanfield.fixed_point(name, weight, bias)
    c = meanfield.correlation_fixed_point(name, weight, bias)
    assert 0 < c < 1
    assert meanfield.correlation_map(c, q, name, weight, bias) == pytest.approx(c, abs=1e-11)
    assert meanfield.chi(q, name, weight, correlation=c) < 1 < meanfield.chi(q, name, weight)


@pytest.mark.parametrize("name", ["tanh", "gelu", "selu", "relu", "softplus"])
@pytest.mark.parametrize("q", [0.01, 1.3, 200.0])
def test_length_slope_is_the_derivative(name: str, q: float) -> None:
    ends = [meanfield.length_map(q * (1 + h), name, 1.4, 0.1) for h in (1e-5, -1e-5)]
    slope = meanfield.length_slope(q, name, 1.4)
    assert slope == pytest.approx((ends[0] - ends[1]) / (2e-5 * q), rel=1e-7)
    assert meanfield.length_slope(0.0, "tanh", 1.4) == pytest.approx(1.4, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "bias", "critical"),
    [
        ("identity", 0.0, 1.0),
        ("relu", 0.0, 2.0),
        ("prelu", 0.0, 2 / (1 + 0.25**2)),
        ("tanh", 0.0, 1.0),
        ("elu", 0.0, 1.0),
    ],
)
def test_critical_variances_in_closed_form(name: str, bias: float, critical: float) -> None:
    assert meanfield.critical_weight_variance(name, bias) == pytest.approx(critical, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "bias"), [("sigmoid", 0.0), ("sigmoid", 0.3), ("gelu", 1.0), ("selu", 0.2)]
)
def test_at_the_critical_variance_chi_is_one(name: str, bias: float) -> None:
    weight = meanfield.critical_weight_variance(name, bias)
    q = meanfield.fixed_point(name, weight, bias)
    assert meanfield.chi(q, name, weight) == pytest.approx(1, abs=1e-8)


@pytest.mark.breaks(
    "companion/meanfield/maps.py",
    "for critical, _, slope in found if slope < 1]",
    "for critical, _, slope in found]",
)
@pytest.mark.parametrize(
    ("name", "bias", "found"),
    [
        ("relu", 0.1, "none at all"),
        ("softplus", 0.0, "none at all"),
        ("gelu", 0.0, r"4 \(length 0, which repels\)"),
        ("silu", 0.05, r"2\.\d+ \(length 0\.\d+, which repels\)"),
    ],
)
def test_where_nothing_is_critical_it_says_what_was_found(
    name: str, bias: float, found: str
) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' with bias_variance={bias} has 0 .* {found}"):
        meanfield.critical_weight_variance(name, bias)


# ---------------------------------------------------------------- mean and variance apart


@pytest.mark.breaks("companion/meanfield/maps.py", "found[1] - 2 * first * found[0]", "found[1]")
@pytest.mark.parametrize("name", ["selu", "relu", "tanh", "gelu"])
@pytest.mark.parametrize(("total", "square"), [(0.0, 1.0), (0.3, 1.4)])
def test_the_moment_jacobian_is_the_derivative(name: str, total: float, square: float) -> None:
    at = torch.tensor([0.4, 0.9], dtype=torch.float64)
    options = {"weight_sum": total, "weight_square_sum": square}
    found = meanfield.moment_jacobian(*at.tolist(), name, **options)
    for column in range(2):
        step = torch.zeros_like(at)
        step[column] = 1e-5
        ends = [meanfield.moment_map(*(at + h * step).tolist(), name, **options) for h in (1, -1)]
        slope = (torch.tensor(ends[0]) - torch.tensor(ends[1])).double() / 2e-5
        expected = [(a - b) / 2e-5 for a, b in zip(*ends, strict=True)]
        assert found[:, column].tolist() == pytest.approx(expected, abs=1e-8), slope


@pytest.mark.breaks(
    "companion/meanfield/maps.py", "found.mean_square - found.mean**2)", "found.mean_square)"
)
def test_the_variance_is_about_the_mean() -> None:
    mean, variance = meanfield.moment_map(0.0, 4.0, "relu")
    assert mean == pytest.approx(2 / math.sqrt(2 * math.pi), rel=1e-12)
    assert variance == pytest.approx(2 - mean**2, rel=1e-12)
    mean, variance = meanfield.moment_map(
        3.0, 4.0, "identity", weight_sum=2.0, weight_square_sum=0.5
    )
    assert (mean, variance) == pytest.approx((6.0, 2.0), rel=1e-12)


@pytest.mark.breaks("companion/meanfield/maps.py", "a.var((1, 2), correction=0)", "a.var((1, 2))")
def test_measured_moments_are_those_of_each_network() -> None:
    found = meanfield.measured_moments("relu", weight_variance=2.0, depth=3, width=400, seeds=30)
    assert found.mean.shape == found.variance.shape == (30, 3)
    for layer in range(3):
        # The length keeps its expectation, 1, at He's variance; half of it passes ReLU.
        assert within(found.variance[:, layer] + found.mean[:, layer] ** 2, 1.0)
    assert within(found.mean[:, 0], 1 / math.sqrt(math.pi))
    tiny = meanfield.measured_moments("identity", depth=1, width=1, seeds=4, examples=2)
    again = meanfield.measured_moments("identity", depth=1, width=1, seeds=4, examples=2)
    assert torch.equal(tiny.variance, again.variance)
    loud = meanfield.measured_moments(
        "identity", depth=1, width=1, seeds=4, examples=2, input_variance=9.0
    )
    assert torch.allclose(loud.variance, 9 * tiny.variance)
    sign = Activation("sign", torch.sign, torch.zeros_like, torch.nn.Identity)
    few = meanfield.measured_moments(sign, depth=2, width=3, seeds=4, examples=2)
    # All squares are 1: the variance is the biased one, or this would be more.
    assert torch.allclose(few.variance + few.mean**2, torch.ones(4, 2, dtype=torch.float64))


SHIFTED = Activation(
    "shifted", lambda z: torch.relu(z - 1), lambda z: (z > 1).double(), torch.nn.Identity, (1.0,)
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: meanfield.gaussian_mean(torch.square, -1.0),
            "variance must be finite and at least 0",
        ),
        (lambda: meanfield.length_map(1.0, "relu", -1.0), "weight_variance must be finite and at"),
        (
            lambda: meanfield.length_map(1.0, "relu", 1.0, -1.0),
            "bias_variance must be finite and at",
        ),
        (lambda: meanfield.chi(1.0, "relu", math.inf), "weight_variance must be finite"),
        (lambda: meanfield.chi(1.0, "step", 1.0), "activation must be one of"),
        (lambda: meanfield.chi(math.nan, "tanh", 1.0), "variance must be finite and at least 0"),
        (
            lambda: meanfield.chi(1.0, "tanh", 1.0, correlation=math.nan),
            "correlation must be from -1",
        ),
        (
            lambda: meanfield.chi(1.0, SHIFTED, 1.0, correlation=0.5),
            "kinks at 0 only, and 'shifted'",
        ),
        (
            lambda: meanfield.correlation_map(1.5, 1.0, "tanh", 1.0),
            "correlation must be from -1 to 1",
        ),
        (lambda: meanfield.correlation_map(0.5, 0.0, "tanh", 1.0), "the next layer has length 0"),
        (
            lambda: meanfield.correlation_map(0.5, -1.0, "tanh", 1.0),
            "variance must be finite and at",
        ),
        (lambda: meanfield.fixed_point("tanh", math.nan), "weight_variance must be finite"),
        (lambda: meanfield.fixed_point("tanh", 1.0, -1.0), "bias_variance must be finite"),
        (
            lambda: meanfield.fixed_point("tanh", 1.0, start=-1.0),
            "start must be finite and at least",
        ),
        (lambda: meanfield.depth_scales("relu", 2.5), "no fixed point reached"),
        (
            lambda: meanfield.critical_weight_variance("tanh", math.nan),
            "bias_variance must be finite",
        ),
        (lambda: meanfield.moment_map(0.0, -1.0, "selu"), "variance must be finite and at least 0"),
        (lambda: meanfield.moment_map(math.nan, 1.0, "selu"), "mean must be finite, got nan"),
        (lambda: meanfield.moment_jacobian(0.0, 0.0, "selu"), "must be above 0 for a Jacobian"),
        (lambda: meanfield.measured_moments("selu", depth=0), "depth must be at least 1, got 0"),
        (lambda: meanfield.gaussian_mean(lambda z: 1 / (z - z), 1.0), "no finite value or mean"),
        (lambda: meanfield.gaussian_mean(torch.square, 1.0, math.inf), "mean must be finite"),
        (lambda: meanfield.gradient_flow("relu", 1.0, depth=0), "depth must be at least 1, got 0"),
        (
            lambda: meanfield.gradient_flow("relu", 1.0, depth=2, input_mean_square=-1.0),
            "input_mean_square must be finite and at least 0, got -1.0",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
