"""Published results on phase diagrams, P10: mean field against networks, and trainable depth."""

import math

import pytest
import torch
from helpers import four_errors, within

from companion import backprop, initialization, meanfield, phase, propagation
from companion.backprop import MLP

# P10. Poole et al. (2016), arXiv 1606.05340; Schoenholz et al. (2017), arXiv 1611.01232.

BIAS, WIDTH, DEPTH, SEEDS = 0.05, 400, 30, 20


@pytest.mark.parametrize(
    ("variance", "q", "factor"), [(1.3, 0.3153, 0.8802), (3.3, 1.6537, 1.2510)]
)
def test_p10_simulated_length(variance: float, q: float, factor: float) -> None:
    assert meanfield.fixed_point("tanh", variance, BIAS) == pytest.approx(q, abs=5.1e-5)
    network = backprop.random_mlp(
        [WIDTH] * (DEPTH + 1), "tanh", weight_variance=variance, seeds=SEEDS, bias=True
    )
    generator = torch.Generator().manual_seed(5)
    biases = tuple(
        math.sqrt(BIAS) * torch.randn(bias.shape, generator=generator, dtype=bias.dtype)
        for bias in network.biases
    )
    network = MLP(network.weights, biases, network.activation)
    inputs = torch.randn(SEEDS, 4, WIDTH, generator=generator, dtype=torch.float64)
    z = backprop.forward(network, inputs).z[10:]
    lengths = torch.stack([layer.square().mean((-2, -1)) for layer in z]).mean(0)
    # A layer's own chance returns to the next ones, so that the mean has a bias of order 1/n.
    assert abs(lengths.mean().item() - q) < four_errors(lengths) + 4 * q / WIDTH
    assert four_errors(lengths) < 0.05 * q


@pytest.mark.parametrize(("variance", "factor"), [(1.3, 0.8802), (3.3, 1.2510)])
def test_p10_simulated_gradient_factor(variance: float, factor: float) -> None:
    q = meanfield.fixed_point("tanh", variance, BIAS)
    assert meanfield.chi(q, "tanh", variance) == pytest.approx(factor, abs=5.1e-5)
    # From the fixed point on, all layers are alike; the slope is taken between two of them.
    ratio = squared_gradients(variance, 26, (q - BIAS) / variance, width=300, seeds=32)
    rates = (ratio[:, 1] / ratio[:, 21]).log() / 20
    # Fluctuations of each layer lower the mean of ln ‖δ‖² by an order of 1/n.
    assert abs(rates.mean().item() - math.log(factor)) < four_errors(rates) + 1 / 300
    # Sharp enough to see σ_w for σ_w², or the fixed point without biases.
    assert four_errors(rates) < 0.02


def squared_gradients(
    variance: float, depth: int, mean_square: float, *, width: int, seeds: int
) -> torch.Tensor:
    """The mean square of δ at each layer of tanh networks, (seeds, depth)."""
    scheme = initialization.Scheme("", variance, "fan_in", "normal")
    return propagation.measured_variance(
        [width] * (depth + 1),
        "tanh",
        scheme,
        bias_variance=BIAS,
        input_mean_square=mean_square,
        examples=4,
        seeds=seeds,
    ).deltas


def test_p10_deeper_networks_train_near_the_edge_of_chaos() -> None:
    """Half-accuracy depths 26, 64, > 80, 62, 37 for σ_w² 1, 1.3, 1.76, 2.5, 4, with more steps."""
    diagram = phase.trainability(
        "tanh", [1.0, 1.76, 4.0], [8, 16, 24, 32, 40], steps=100, seeds=2, progress=False
    )
    ordered, edge, chaotic = phase.depth_reached(diagram).nan_to_num(posinf=45.0).mean(-1)
    assert edge > 1.3 * ordered
    assert edge > 1.3 * chaotic
    # Six depth scales is the published rule: ξ is finite on the ordered side, here -1/ln χ.
    q = meanfield.fixed_point("tanh", 1.0, BIAS)
    six = -6 / math.log(meanfield.chi(q, "tanh", 1.0))
    assert six / 2 < ordered < 2 * six
    assert meanfield.chi(meanfield.fixed_point("tanh", 1.76, BIAS), "tanh", 1.76) > 0.99


def test_p10_shallow_networks_train_everywhere() -> None:
    diagram = phase.trainability("tanh", [1.0, 1.76, 4.0], [4], steps=100, seeds=2, progress=False)
    assert (diagram.values > 0.6).all()


def test_p10_the_rate_does_not_depend_on_the_input() -> None:
    """The rate is the network's: at any starting length the deep layers have the same."""
    rates = []
    for mean_square in (0.1, 4.0):
        found = squared_gradients(3.3, 40, mean_square, width=200, seeds=16)
        rates.append((found[:, 19] / found[:, 39]).log() / 20)
    assert within(rates[0] - rates[1], 0.0)
    # The first layers do tell the two apart.
    assert not within(found[:, 0].log() - found[:, 4].log() - 4 * rates[1], 0.0)
