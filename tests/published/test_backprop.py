"""Published results on backpropagation, P1 to P4: rates, a conservation law, exact learning."""

import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from helpers import four_errors, normal, within
from torch import Tensor

from companion import backprop, deep_linear, meanfield, products
from companion.backprop import MLP, Setting

# P1. Glorot & Bengio (2010), He et al. (2015); theory: Schoenholz et al. (2017), equation 7.

SETTINGS = (
    Setting("sigmoid", 1.0, "sigmoid, 1/n"),
    Setting("sigmoid", 2.0, "sigmoid, He"),
    Setting("tanh", 2.0, "tanh, He"),
    Setting("tanh", (5 / 3) ** 2, "tanh, gain 5/3"),
    Setting("relu", 1.0, "ReLU, Glorot"),
    Setting("relu", 2.0, "ReLU, He"),
    Setting("relu", 1 / 3, "ReLU, nn.Linear's default"),
    Setting("tanh", 1.0, "tanh, 1/n"),
)
EACH = pytest.mark.parametrize("index", range(len(SETTINGS)), ids=[s.label for s in SETTINGS])
SEEDS, DEPTH = 8, 30


@cache
def measured() -> Tensor:
    return backprop.gradient_flow(SETTINGS, width=300, depth=DEPTH, seeds=SEEDS)


def predicted(setting: Setting) -> Tensor:
    return meanfield.gradient_flow(setting.activation, setting.weight_variance, depth=DEPTH)


@pytest.mark.breaks(
    "companion/backprop.py",
    'std = math.sqrt(non_negative("weight_variance", setting.weight_variance))',
    'std = non_negative("weight_variance", setting.weight_variance)',
)
@EACH
def test_p1_slopes_are_those_of_the_theory(index: int) -> None:
    slopes = backprop.slope_per_layer(measured()[index])
    expected = backprop.slope_per_layer(predicted(SETTINGS[index])).item()
    # Finite width n adds an order of 1/n to ln ‖δ‖² a layer, less than 0.001 to the slope: within
    # the four standard errors.
    assert within(slopes, expected)
    # Sharp enough to see another scheme: the seeds agree to a percent of a factor of two.
    assert four_errors(slopes) < 0.005


@EACH
def test_p1_every_layer_is_where_the_theory_has_it(index: int) -> None:
    flow, theory = measured()[index], predicted(SETTINGS[index])
    # Eight seeds make a standard deviation uncertain, so each layer takes six of its errors.
    spread = 1.5 * 4 * flow.std(0) / math.sqrt(SEEDS)
    assert ((flow.mean(0) - theory).abs()[:-1] < spread[:-1]).all()


# The rates as published, to four digits: ½ log₁₀ χ at the fixed point of the length.
FIXED = [(0, -0.6270), (1, -0.4979), (2, 0.0218), (3, 0.0414), (5, 0.0)]


@pytest.mark.parametrize(("index", "rate"), FIXED)
def test_p1_rates_at_the_fixed_point(index: int, rate: float) -> None:
    setting = SETTINGS[index]
    q = meanfield.fixed_point(setting.activation, setting.weight_variance)
    factor = meanfield.chi(q, setting.activation, setting.weight_variance)
    assert math.log10(factor) / 2 == pytest.approx(rate, abs=5.1e-5)
    # A signal that starts at that length keeps it, and a finite stack then has that very rate.
    flow = backprop.gradient_flow(
        [setting],
        width=300,
        depth=DEPTH,
        seeds=SEEDS,
        input_mean_square=q / setting.weight_variance,
    )[0]
    slopes = backprop.slope_per_layer(flow)
    assert within(slopes, rate)


@pytest.mark.parametrize(("index", "rate"), [(4, -0.1505), (5, 0.0), (6, -0.3891)])
def test_p1_rates_of_relu_depend_on_no_length(index: int, rate: float) -> None:
    for q in (0.01, 1.0, 100.0):
        factor = meanfield.chi(q, "relu", SETTINGS[index].weight_variance)
        assert math.log10(factor) / 2 == pytest.approx(rate, abs=5.1e-5)


def test_p1_tanh_at_its_critical_variance_follows_a_power_law() -> None:
    slopes = backprop.slope_per_layer(measured()[-1])
    # The fixed point is q = 0, where χ = 1: a rate of 0, which the measured slope is far from.
    assert meanfield.chi(0.0, "tanh", 1.0) == pytest.approx(1, rel=1e-12)
    assert abs(slopes.mean().item()) > 5 * four_errors(slopes)
    # The length falls as 1/2l, so that χ = 1 - 2q + … is 1 - 1/l and δ falls as a power of depth.
    # Twice the depth then has half the slope, to the relative size of the first layers' transient;
    # an exponential would have the same slope at every depth.
    depths = (100, 200, 400, 800)
    flows = [meanfield.gradient_flow("tanh", 1.0, depth=depth) for depth in depths]
    slopes = [backprop.slope_per_layer(flow).item() for flow in flows]
    for slope, following in pairwise(slopes):
        assert following / slope == pytest.approx(1 / 2, rel=0.02)
    # |δ₁| itself falls as depth^-½: ½ Σ ln(1 - 1/l), to O(1/l).
    ends = [flow[0].item() for flow in flows]
    assert (ends[-1] - ends[-2]) / math.log10(2) == pytest.approx(-0.5, rel=0.01)


# P2. Du, Hu & Lee (2018), whose layers are balanced because of it.


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_p2_weight_times_gradient_is_the_same_at_every_layer(activation: str) -> None:
    sizes = [20, 35, 10, 25, 30, 5]
    network = backprop.random_mlp(sizes, activation, weight_variance=2.0, seeds=6)
    cache = backprop.forward(network, normal(6, 8, 20))
    output_delta = normal(6, 8, 5, seed=1)
    found = backprop.backward(network, cache, output_delta)
    sums = [
        (weight * gradient).sum((-2, -1))
        for weight, gradient in zip(network.weights, found.weights, strict=True)
    ]
    # Euler's theorem: each is the output's own ⟨z_L, δ_L⟩.
    expected = (cache.output * output_delta).sum((-2, -1))
    assert (expected.abs() > 1e-3).all(), "none is zero, or the ratio would say nothing"
    for found_sum in sums:
        torch.testing.assert_close(found_sum, expected, rtol=1e-13, atol=1e-13)


def test_p2_needs_homogeneity_and_no_bias() -> None:
    def spread(network: MLP) -> float:
        cache = backprop.forward(network, normal(8, 20))
        gradients = backprop.backward(network, cache, normal(*cache.output.shape, seed=1)).weights
        sums = torch.stack([(w * g).sum() for w, g in zip(network.weights, gradients, strict=True)])
        return ((sums - sums[-1]).abs().max() / sums[-1].abs()).item()

    tanh = backprop.random_mlp([20, 35, 10, 5], "tanh", weight_variance=2.0)
    relu = backprop.random_mlp([20, 35, 10, 5], "relu", weight_variance=2.0, bias=True)
    assert spread(relu) < 1e-12
    assert spread(tanh) > 0.01
    for bias in relu.biases:
        bias += 1
    assert spread(relu) > 0.01


# P3. Saxe, McClelland & Ganguli (2013), equation 12 and section 3.


def test_p3_modes_learn_as_the_logistic_says() -> None:
    strengths, start, rate = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64), 1e-3, 1e-3
    left, right = products.rotations(3, 2, seeds=[4])[0]
    root = math.sqrt(start) * torch.eye(3, dtype=torch.float64)
    target = left @ torch.diag(strengths) @ right
    weights = [root @ right, left @ root]
    steps = 6000
    path = deep_linear.learn(weights, target, learning_rate=rate, steps=steps)
    modes = torch.diagonal(left.T @ path @ right.T, dim1=1, dim2=2)
    time = rate * torch.arange(steps + 1, dtype=torch.float64)
    for mode, s in zip(modes.T, strengths.tolist(), strict=True):
        exact = deep_linear.half_time(s, start)
        after = int((mode >= s / 2).nonzero()[0])
        share = (s / 2 - mode[after - 1]) / (mode[after] - mode[after - 1])
        found = time[after - 1] + share * rate
        # A step of gradient descent is one of Euler's: off by the order of rate · s = 0.3 % in
        # rate, of which a half-time sees about half.
        assert found.item() == pytest.approx(exact, rel=0.002)
        curve = deep_linear.mode_strength(time, s, start)
        # The steepest slope is s²/2, so that a half-time off by 0.2 % moves the curve by so much.
        assert (mode - curve).abs().max().item() < 0.002 * exact * s**2 / 2
    others = left.T @ path @ right.T - torch.diag_embed(modes)
    assert others.abs().max() < 1e-12, "modes do not mix"


RATES = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0]


@cache
def best(start: str, depth: int) -> Tensor:
    return deep_linear.steps_to_learn(start, depth, learning_rates=RATES, seeds=4).amin(0)


def test_p3_orthogonal_networks_learn_in_the_same_time_at_any_depth() -> None:
    # A step count independent of depth; a time proportional to it would be three times as long.
    difference = best("orthogonal", 48) - best("orthogonal", 16)
    assert within(difference, 0)
    assert four_errors(difference) < best("orthogonal", 16).mean().item()
    for depth in (4, 16, 48):
        assert best("orthogonal", depth).max().item() < 30  # of 250 steps


def test_p3_gaussian_networks_stop_learning_with_depth() -> None:
    assert best("gaussian", 4).max().item() < 100
    assert best("gaussian", 16).isinf().all()  # not within 250 steps, at any rate


# P4. Veit, Wilber & Belongie (2016) read a residual network as a sum over paths.


def test_p4_a_skip_path_does_not_bound_the_gradient_from_below() -> None:
    # y = x + (-0.9)x twenty times. Two units a layer hold x and -0.9x, the next adds them up.
    split = torch.tensor([[1.0], [-0.9]], dtype=torch.float64)
    add = torch.ones(1, 2, dtype=torch.float64)
    weights = (split, *[split @ add] * 19, add)
    network = MLP(weights, None, backprop.activations.get("identity"))
    cache = backprop.forward(network, torch.ones(1, 1, dtype=torch.float64))
    one = torch.ones_like(cache.output)
    gradient = backprop.backward(network, cache, one).inputs.item()
    assert gradient == pytest.approx(1e-20, rel=1e-13)
    paths = backprop.path_products(network, cache).flatten()
    assert len(paths) == 2**20
    assert paths[0].item() == 1, "the path of skips alone"
    assert paths.abs().sum().item() == pytest.approx(1.9**20, rel=1e-10)
    # C(20, k) of them are (-0.9)^k; summed, they cancel to float64's rounding.
    sizes = torch.log(paths.abs()) / math.log(0.9)
    counts = sizes.round().long().bincount().tolist()
    assert counts == [math.comb(20, k) for k in range(21)]
    # Rounding: eps, times twenty factors and twenty levels of the sum, times Σ|path|.
    assert abs(paths.sum().item()) < 40 * 2.3e-16 * 1.9**20
