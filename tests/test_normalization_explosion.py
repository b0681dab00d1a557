"""The rate of explosion against drawing and known limits, and the flow against autograd."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import four_errors, normal, same, within
from torch import Tensor, nn
from torch.nn import functional

from companion import activations, backprop
from companion.activations import Activation
from companion.normalization import explosion, landscape, standardize


@pytest.mark.breaks(
    "companion/normalization/explosion.py", "straight - along, spread", "straight, spread"
)
@pytest.mark.parametrize("size", [4, 5, 17, 400, 10**6])
def test_the_rate_of_linear_networks(size: int) -> None:
    rate = explosion.explosion_rate("identity", batch_size=size)
    assert rate == pytest.approx((size - 2) / (size - 3), rel=1e-11)


STEEP = Activation(
    "steep", lambda z: torch.tanh(30 * z), lambda z: 30 * (1 - torch.tanh(30 * z) ** 2), nn.Tanh
)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "sigmoid", "selu", STEEP])
def test_large_batches_come_near_the_infinite_one(name: str | Activation) -> None:
    limit = explosion.explosion_rate(name)
    sizes = [10**3, 10**4, 10**5]
    excess = [explosion.explosion_rate(name, batch_size=b) / limit - 1 for b in sizes]
    # The correction is of order 1/B, so ten times the batch has a tenth of it.
    assert excess[0] > 0
    assert excess[1] / excess[0] == pytest.approx(0.1, rel=0.02)
    assert excess[2] / excess[1] == pytest.approx(0.1, rel=0.02)


def one_layer(phi: Activation, size: int, draws: int) -> tuple[Tensor, float]:
    """Yang's expectation by drawing: the squared gradient at z below φ(norm(z)), over that above.

    The gradient above is orthogonal to 1 over the batch, and the weights have the variance that
    gives the pre-activations variance one across the batch.
    """
    z = normal(draws, size)
    z.requires_grad_()
    a = phi.function(standardize(z, 1))
    g = normal(draws, size, seed=1)
    g = g - g.mean(1, keepdim=True)
    (delta,) = torch.autograd.grad(a, z, g)
    with torch.no_grad():
        across = a.var(1, correction=1).mean().item()
        return delta.square().sum(1) / across / (size - 1), across


@pytest.mark.breaks(
    "companion/normalization/explosion.py",
    "size**2 / ((size - 1) * (size - 3))",
    "size**2 / (size - 1) ** 2",
)
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "selu"])
@pytest.mark.parametrize("size", [9, 20])
def test_the_rate_in_a_finite_batch_is_what_drawing_gives(name: str, size: int) -> None:
    samples, _ = one_layer(activations.get(name), size, draws=100_000)
    assert within(samples, explosion.explosion_rate(name, batch_size=size))
    assert four_errors(samples) < 0.03


@pytest.mark.breaks(
    "companion/normalization/explosion.py", "psi.cos() ** (size - 4)", "psi.cos() ** (size - 3)"
)
def test_a_batch_of_four_is_on_an_ordinary_sphere() -> None:
    # Three dimensions: one coordinate is uniform, and the mean of x₁²x₂² is known from its powers.
    def moments(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x**2, x**4, x * y, (x * y) ** 2, torch.relu(x), torch.relu(x * y)])

    found = explosion._sphere_mean(moments, activations.get("relu"), 4)
    c, r = -1 / 3, math.sqrt(3)
    # E[max(uv, 0)] of two unit vectors' coordinates, whose angle is t: the density of both is
    # a function of the radius in the plane, over which the product has mean r²/2 cos(t − …).
    t = math.acos(c)
    positive = (math.sin(t) + (math.pi - t) * math.cos(t)) / (3 * math.pi)
    expected = [1, 9 / 5, c, 9 * (1 + 2 * c**2) / 15, r / 4, 3 * positive]
    assert found.tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.breaks(
    "companion/normalization/explosion.py",
    '(found.mean**2 if norm == "batch" else 0.0)',
    "(found.mean**2)",
)
def test_rates_at_the_edges() -> None:
    rate = explosion.explosion_rate
    assert rate("relu", batch_size=2) == 0
    assert rate("relu", batch_size=3) == math.inf
    assert rate("relu", norm="layer") == pytest.approx(1, rel=1e-12)
    assert rate("tanh", norm="layer", batch_size=5) == rate("tanh", norm="layer")
    assert rate("tanh", norm="layer") == pytest.approx(rate("tanh"), rel=1e-12), "tanh is odd"
    # A shift of φ is nothing to batch norm, and something to layer norm.
    raised = Activation(
        "raised", lambda z: torch.tanh(z) + 1, activations.get("tanh").slope, nn.Tanh
    )
    assert rate(raised) == pytest.approx(rate("tanh"), rel=1e-10)
    assert rate(raised, batch_size=6) == pytest.approx(rate("tanh", batch_size=6), rel=1e-10)
    assert rate(raised, norm="layer") < 0.6 * rate("tanh")


KIND = pytest.mark.parametrize(
    ("norm", "after"),
    [("none", False), ("batch", False), ("layer", False), ("batch", True), ("layer", True)],
)


@pytest.mark.breaks(
    "companion/normalization/explosion.py", '"batch": -2, "layer": -1}', '"batch": -1, "layer": -2}'
)
@pytest.mark.breaks(
    "companion/normalization/explosion.py",
    "return normalized(phi.function(z)) if after else phi.function(normalized(z))",
    "return phi.function(normalized(z))",
    case="layer-True",
)
@KIND
def test_flow_is_autograds(norm: str, after: bool) -> None:
    width, depth, size, seed = 6, 3, 5, 7
    found = explosion.gradient_flow(
        norm, "tanh", after=after, weight_variance=1.5, width=width, depth=depth, batch_size=size,
        seeds=[3, seed], eps=0.01,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def block(z: Tensor) -> Tensor:
        z = torch.tanh(z) if after else z
        if norm == "batch":
            z = functional.batch_norm(z, None, None, training=True, eps=0.01)
        if norm == "layer":
            z = functional.layer_norm(z, (width,), eps=0.01)
        return z if after else torch.tanh(z)

    g, a, layers = draw(size, width), block(draw(size, width)).requires_grad_(), []
    for _ in range(depth):
        layers.append(a @ draw(width, width).T * math.sqrt(1.5 / width))
        a = block(layers[-1])
    norms = torch.stack([d.norm() for d in torch.autograd.grad(a, layers, g)])
    same(found[1], (norms / norms[-1]).log10())
    assert found.shape == (2, depth)


@pytest.mark.parametrize(
    ("norm", "activation", "size"),
    [("batch", "relu", 10), ("batch", "tanh", 24), ("layer", "gelu", 4), ("batch", "gelu", 10)],
)
def test_flow_grows_at_the_rate_predicted(norm: str, activation: str, size: int) -> None:
    flow = explosion.gradient_flow(norm, activation, width=300, depth=8, batch_size=size, seeds=16)
    growth = 10 ** (2 * backprop.slope_per_layer(flow))
    rate = explosion.explosion_rate(activation, norm=norm, batch_size=size)
    # The mean of a logarithm is below the logarithm of the mean, by an order of 1/width.
    assert within(growth, rate)
    assert four_errors(growth) < 0.08


def test_no_variance_of_the_weights_changes_the_flow_below_a_norm() -> None:
    kind = {"width": 20, "depth": 4, "batch_size": 6, "seeds": 2}
    for norm in ("batch", "layer"):
        flows = [
            explosion.gradient_flow(norm, "tanh", weight_variance=v, **kind) for v in (0.3, 5.0)
        ]
        same(*flows)


def kinked() -> Activation:
    relu = activations.get("relu")
    return Activation("kinked", lambda z: torch.relu(z - 1), relu.slope, nn.ReLU, kinks=(1.0,))


def flat() -> Activation:
    return Activation("flat", torch.ones_like, torch.zeros_like, nn.Identity)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: explosion.explosion_rate("relu", batch_size=1),
            "batch_size must be at least 2, got 1",
        ),
        (
            lambda: explosion.explosion_rate("relu", batch_size=0),
            "batch_size must be at least 1, got 0",
        ),
        (
            lambda: explosion.explosion_rate("relu", norm="none"),
            r"norm must be one of \['batch', 'layer'",
        ),
        (lambda: explosion.explosion_rate("step"), "activation must be one of"),
        (lambda: explosion.explosion_rate(kinked(), batch_size=8), "kinks at 0 only, and 'kinked'"),
        (lambda: explosion.explosion_rate(flat()), "'flat' leaves nothing to normalize"),
        (
            lambda: explosion.explosion_rate(flat(), batch_size=6),
            "'flat' leaves nothing to normalize",
        ),
        (lambda: explosion.gradient_flow("group"), "norm must be one of"),
        (lambda: explosion.gradient_flow(width=0), "width must be at least 1, got 0"),
        (lambda: explosion.gradient_flow(depth=0), "depth must be at least 1, got 0"),
        (lambda: explosion.gradient_flow(batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: explosion.gradient_flow(weight_variance=-1.0), "weight_variance must be finite"),
        (lambda: explosion.gradient_flow(seeds=[]), "seeds needs a whole number"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------- taken apart


def network(*sizes: int, activation: str = "relu", **kind: object) -> nn.Sequential:
    model = landscape.networks(sizes, activation, **kind)[0]
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.add_(0.2 * normal(*parameter.shape, seed=i))
    return model


@pytest.mark.breaks(
    "companion/normalization/explosion.py",
    "stages += [deltas[i] * variance.sqrt(), deltas[i]]",
    "stages += [deltas[i] * variance, deltas[i]]",
)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_factors_are_those_of_the_backward_pass(activation: str) -> None:
    model = network(6, 9, 5, 8, 3, activation=activation)
    x, t = normal(12, 6, seed=30), torch.arange(12) % 3
    found = explosion.backward_factors(model, x, t)
    # By hand, from the formula of the norm's gradient.
    z, y = [], []
    a = x
    for linear, norm, phi in zip(model[:-1:3], model[1::3], model[2::3], strict=True):
        z.append(linear(a))
        y.append(norm(z[-1]))
        a = phi(y[-1])
    out = model[-1](a)
    deltas = torch.autograd.grad(functional.cross_entropy(out, t), z)
    slope = activations.get(activation).slope
    for i in range(2):
        below = deltas[i + 1] @ model[3 * i + 3].weight
        g = below * slope(y[i]) * model[3 * i + 1].weight
        s = (z[i].var(0, correction=0) + 1e-5).sqrt()
        x_hat = (z[i] - z[i].mean(0)) / s
        left = g - g.mean(0) - x_hat * (g * x_hat).mean(0)
        stages = [t.square().sum() for t in (deltas[i + 1], below, g, left, left / s)]
        same(stages[-1], deltas[i].square().sum())
        for factor, above, under in zip(found, stages, stages[1:]):
            same(factor[i].detach(), (under / above).detach())
    assert not any(factor.requires_grad for factor in found)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_factors_of_a_wide_random_network_are_those_of_the_theory() -> None:
    models = landscape.networks([40, *[300] * 5, 300], "relu", seeds=4)
    x, g = normal(64, 40, seed=50), normal(64, 300, seed=51)
    found = [
        explosion.backward_factors(m, x, g, loss=lambda out, g: (out * g).sum()) for m in models
    ]
    # Below the first step down there are inputs, not activations.
    values = torch.stack([torch.stack(each) for each in found])[..., 1:].mean((0, 2))
    # σ_w², E[φ′²], all but two of 64 directions, and 1/(σ_w² Var φ) with the mean of 1/χ².
    expected = torch.tensor([2, 0.5, 62 / 64, 64 / 61 / (1 - 1 / math.pi)]).double()
    torch.testing.assert_close(values, expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("kind", [{"norm": "none"}, {"norm": "layer"}, {"after": True}])
def test_factors_are_of_batch_norm_before_the_activation(kind: dict) -> None:
    with pytest.raises(ValueError, match="model must be linear layers with batch norm, got"):
        explosion.backward_factors(network(4, 5, 5, 2, **kind), normal(6, 4), torch.arange(6) % 2)
