"""Norms against torch and gradcheck, identities against norms without a path, rates."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from helpers import four_errors, normal, reproducible, within
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional

from companion import activations, backprop, normalization
from companion.activations import Activation
from companion.data import Split, digits
from companion.normalization import (
    batch_norm,
    group_norm,
    input_residuals,
    layer_norm,
    rms_norm,
    standardize,
    weight_residuals,
)

Norm = Callable[..., Tensor]
AFFINE = pytest.mark.parametrize(("weighted", "biased"), [(0, 0), (1, 0), (0, 1), (1, 1)])
SHAPES = st.lists(st.integers(1, 4), min_size=0, max_size=3)
DTYPES = st.sampled_from([torch.float64, torch.float32])


def same(found: Tensor, expected: Tensor, dtype: torch.dtype = torch.float64) -> None:
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def compare(ours: Norm, torchs: Norm, tensors: Sequence[Tensor | None]) -> None:
    """Outputs and all gradients agree."""
    results = []
    for norm in (ours, torchs):
        leaves = [None if t is None else t.detach().clone().requires_grad_() for t in tensors]
        y = norm(*leaves)
        y.backward(normal(*y.shape, seed=9).to(y.dtype))
        results.append((y, [leaf.grad for leaf in leaves if leaf is not None]))
    (found, found_grads), (expected, expected_grads) = results
    assert found.dtype == expected.dtype
    same(found.detach(), expected.detach(), found.dtype)
    for one, other in zip(found_grads, expected_grads, strict=True):
        assert one.dtype == other.dtype
        same(one, other, found.dtype)


def parameters(
    shape: Sequence[int], weighted: int, biased: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor | None, Tensor | None]:
    weight, bias = normal(*shape, seed=1).to(dtype), normal(*shape, seed=2).to(dtype)
    return weight if weighted else None, bias if biased else None


# ---------------------------------------------------------------- against torch


@AFFINE
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (2, 3, 4, 5), (1, 3, 2), (2, 3), (5, 1)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_torchs(
    shape: tuple[int, ...], weighted: int, biased: int, training: bool
) -> None:
    # Neither centred nor of variance one, and not the statistics that are running.
    x = 3 * normal(*shape) + 2
    channels = shape[1]
    mean, var = normal(channels, seed=3), 0.5 + normal(channels, seed=4) ** 2
    running = [(mean.clone(), var.clone()) for _ in range(2)]

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return batch_norm(x, *running[0], weight, bias, training, momentum=0.3, eps=0.1)

    def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        kind = {"training": training, "momentum": 0.3, "eps": 0.1}
        return functional.batch_norm(x, *running[1], weight, bias, **kind)

    compare(ours, torchs, [x, *parameters((channels,), weighted, biased)])
    for found, expected, before in zip(*running, (mean, var), strict=True):
        same(found, expected)
        assert torch.equal(found, before) != training


@AFFINE
@pytest.mark.parametrize("trailing", [(3,), (2, 3), (4, 2, 3), (1,)])
def test_layer_and_rms_norm_are_torchs(
    trailing: tuple[int, ...], weighted: int, biased: int
) -> None:
    x = 3 * normal(5, 4, *trailing) + 2
    weight, bias = parameters(trailing, weighted, biased)

    def both(norm: Norm) -> Norm:
        return lambda x, *rest: norm(x, trailing, *rest, eps=0.1)

    compare(both(layer_norm), both(functional.layer_norm), [x, weight, bias])
    if not biased:
        compare(both(rms_norm), both(functional.rms_norm), [x, weight])


@AFFINE
@pytest.mark.parametrize("shape", [(3, 6), (2, 6, 3), (1, 6, 2, 4)])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_group_norm_is_torchs(
    shape: tuple[int, ...], groups: int, weighted: int, biased: int
) -> None:
    def both(norm: Norm) -> Norm:
        return lambda x, *rest: norm(x, groups, *rest, eps=0.1)

    x = 3 * normal(*shape) + 2
    tensors = [x, *parameters((6,), weighted, biased)]

    def torchs(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        # torch's own fails on a bias without a weight.
        weight = torch.ones(6).double() if weight is None else weight
        return functional.group_norm(x, groups, weight, bias, eps)

    compare(both(group_norm), both(torchs), tensors)


def test_groups_range_from_layer_norm_to_each_channel_by_itself() -> None:
    x = normal(3, 4, 5)
    same(group_norm(x, 1), layer_norm(x, (4, 5)))
    same(group_norm(x, 4), layer_norm(x, 5))


@reproducible
@given(shape=SHAPES, channels=st.integers(0, 4), examples=st.integers(0, 5), dtype=DTYPES,
       scale=st.sampled_from([1e-8, 1e-3, 1.0, 1e4]))  # fmt: skip
def test_any_shape_is_torchs_or_a_clear_error(
    shape: list[int], channels: int, examples: int, dtype: torch.dtype, scale: float
) -> None:
    x = (scale * normal(examples, channels, *shape)).to(dtype)
    if examples * math.prod(shape) < 2:
        with pytest.raises(ValueError, match="at least two values a channel"):
            batch_norm(x, training=True)
    elif channels:
        # torch has no batch norm of float32 that is this accurate: float64 is the oracle.
        expected = functional.batch_norm(x.double(), None, None, training=True).to(dtype)
        same(batch_norm(x, training=True), expected, dtype)
    same(layer_norm(x, x.shape[1:]), functional.layer_norm(x, x.shape[1:]), dtype)
    same(rms_norm(x, x.shape[1:]), functional.rms_norm(x, x.shape[1:]), dtype)
    assert layer_norm(x, x.shape[1:]).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    x = (normal(64, 6) + 30).to(dtype)
    weight, bias = parameters((6,), 1, 1, dtype)
    for norm, *rest in (
        (batch_norm, None, None, weight, bias, True, 0.1, 1e-5),
        (layer_norm, 6, weight, bias, 1e-5),
        (rms_norm, 6, weight, 1e-5),
        (group_norm, 2, weight, bias, 1e-5),
    ):
        found = norm(x, *rest)
        assert found.dtype == dtype
        # The last rounding only: half a spacing of the type, or the errors of float32.
        exact = norm(x.double(), *rest)
        error = torch.finfo(dtype).eps / 2 * exact.abs() + 2e-5
        assert ((found.double() - exact).abs() <= error).all()
        leaf = x.clone().requires_grad_()
        norm(leaf, *rest).sum().backward()
        assert leaf.grad.dtype == dtype
    # A wide weight does not widen the result, as in torch.
    assert layer_norm(x, 6, weight.float()).dtype == dtype


def test_the_default_eps_are_torchs() -> None:
    # So small that ε is most of the root.
    x = 1e-3 * normal(7, 4)
    same(batch_norm(x, training=True), functional.batch_norm(x, None, None, training=True))
    same(layer_norm(x, 4), functional.layer_norm(x, (4,)))
    same(group_norm(x, 2), functional.group_norm(x, 2))
    tiny = 1e-8 * x
    same(rms_norm(tiny, 4), functional.rms_norm(tiny, (4,)))
    same(rms_norm(x.float(), 4), functional.rms_norm(x.float(), (4,)), torch.float32)


def test_eps_stands_inside_the_root() -> None:
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    assert standardize(x, 0, eps=3.0).flatten().tolist() == [0.5, -0.5]
    var = torch.ones(1, dtype=torch.float64)
    found = batch_norm(x, torch.zeros_like(var), var, eps=3.0)
    assert found.flatten().tolist() == [0.5, -0.5]


def test_running_statistics_by_hand() -> None:
    x = torch.tensor([[1.0], [2.0], [6.0]], dtype=torch.float64)  # mean 3, sum of squares 14
    mean, var = torch.full((1,), 10.0).double(), torch.full((1,), 100.0).double()
    y = batch_norm(x, mean, var, training=True, momentum=0.25, eps=0.0)
    assert mean.item() == pytest.approx(0.75 * 10 + 0.25 * 3)
    assert var.item() == pytest.approx(0.75 * 100 + 0.25 * 7), "14/2, not 14/3"
    assert y[0].item() == pytest.approx(-2 / math.sqrt(14 / 3)), "14/3, not 14/2"
    assert not mean.requires_grad
    only = torch.zeros(1).double()
    batch_norm(x, only, None, training=True, momentum=1.0)
    assert only.item() == pytest.approx(3)


def test_a_lifetime_of_batches_is_torchs_module() -> None:
    module = nn.BatchNorm1d(3).double()
    mean, var = torch.zeros(3).double(), torch.ones(3).double()
    for seed in range(5):
        x = normal(6, 3, seed=seed) * (seed + 1)
        same(batch_norm(x, mean, var, training=True), module(x).detach())
    same(mean, module.running_mean)
    same(var, module.running_var)
    same(batch_norm(x, mean, var), module.eval()(x).detach())


def test_running_statistics_carry_no_gradient() -> None:
    x, (mean, var) = normal(4, 2).requires_grad_(), (torch.zeros(2).double() for _ in range(2))
    batch_norm(x, mean, var, training=True).sum().backward()
    assert not mean.requires_grad
    assert not var.requires_grad


# ---------------------------------------------------------------- gradients


CHECKED = {
    "batch": lambda x, w, b: batch_norm(x, None, None, w, b, True, eps=0.01),
    "layer": lambda x, w, b: layer_norm(x, (3, 2), w.expand(2, 3).T, b.expand(2, 3).T, eps=0.01),
    "rms": lambda x, w, b: rms_norm(x, (3, 2), (w + b).expand(2, 3).T, eps=0.01),
    "group": lambda x, w, b: group_norm(x, 3, w, b, eps=0.01),
    "evaluation": lambda x, w, b: batch_norm(x, normal(3), normal(3) ** 2, w, b),
    "standardize": lambda x, w, b: standardize(x, (0, -1)) * w.sum() + b.sum(),
}


@pytest.mark.parametrize("name", CHECKED)
def test_gradients_and_their_gradients_are_right(name: str) -> None:
    tensors = [
        t.requires_grad_() for t in (2 * normal(4, 3, 2), normal(3, seed=1), normal(3, seed=2))
    ]
    assert torch.autograd.gradcheck(CHECKED[name], tensors)
    assert torch.autograd.gradgradcheck(CHECKED[name], tensors)


def test_the_gradient_by_the_formula() -> None:
    x, g = normal(6, 2), normal(6, 2, seed=1)
    x_hat = (x - x.mean(0)) / x.std(0, correction=0)
    expected = (g - g.mean(0) - x_hat * (g * x_hat).mean(0)) / x.std(0, correction=0)
    leaf = x.clone().requires_grad_()
    standardize(leaf, 0).backward(g)
    same(leaf.grad, expected)


@pytest.mark.parametrize("name", ["batch", "layer", "rms", "group"])
def test_norms_can_be_stacked_by_vmap(name: str) -> None:
    x, weight, bias = normal(5, 4, 3, 2), normal(5, 3, seed=1), normal(3, seed=2)

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return CHECKED[name](x, weight, bias).tanh().square().sum()

    every = grad(loss, argnums=(0, 1, 2))
    found = vmap(every, (0, 0, None))(x, weight, bias)
    for i in range(5):
        for stacked, alone in zip(found, every(x[i], weight[i], bias), strict=True):
            same(stacked[i], alone)


def test_nothing_to_normalize() -> None:
    constant = torch.full((4, 2), 7.0).double()
    weight, bias = normal(2), normal(2, seed=1)
    same(batch_norm(constant, None, None, weight, bias, True), bias.expand(4, 2))
    assert standardize(constant, 0).isnan().all(), "0/0"
    same(layer_norm(normal(3, 1), 1, None, normal(1)), normal(1).expand(3, 1))
    spoilt = normal(4, 2)
    spoilt[1, 0] = math.nan
    y = batch_norm(spoilt, training=True)
    assert y[:, 0].isnan().all()
    assert y[:, 1].isfinite().all()
    assert batch_norm(normal(3, 0), training=True).shape == (3, 0)
    zeros = torch.zeros(2).double()
    same(batch_norm(normal(4, 2), None, None, zeros, bias, True), bias.expand(4, 2))


# ---------------------------------------------------------------- what cannot pass


def with_detached(which: str) -> Norm:
    def norm(x: Tensor) -> Tensor:
        mean, var = x.mean(0), x.var(0, correction=0)
        mean = mean.detach() if which == "mean" else mean
        return (x - mean) / (var.detach() if which == "variance" else var).sqrt()

    return norm


ORTHOGONAL = [
    (lambda x: batch_norm(x, None, None, normal(6), normal(6), True, eps=0.0), (7, 6), 0),
    (lambda x: functional.batch_norm(x, None, None, training=True, eps=1e-300), (7, 6), 0),
    (lambda x: batch_norm(x, training=True, eps=0.0), (2, 6, 3, 2), (0, 2, 3)),
    (lambda x: layer_norm(x, 6, normal(6), normal(6), eps=0.0), (7, 6), -1),
]


@pytest.mark.parametrize(("norm", "shape", "dim"), ORTHOGONAL)
def test_what_lies_along_1_and_the_input_does_not_pass(
    norm: Norm, shape: tuple[int, ...], dim: int | tuple[int, ...]
) -> None:
    x = 5 * normal(*shape) + 3
    found = input_residuals(norm, x, dim)
    assert found.ones.max() < 1e-14
    assert found.normalized.max() < 1e-14
    assert found.passed.min() > 0.05
    assert found.ones.shape == x.mean(dim).shape
    # With a scale: the numbers do not depend on the units of the input or of the gradient.
    again = input_residuals(lambda y: norm(y / 1e6), 1e6 * x, dim)
    torch.testing.assert_close(again.passed, found.passed)
    g = normal(*shape, seed=0)
    torch.testing.assert_close(
        input_residuals(norm, x, dim, output_gradient=1e-9 * g).passed,
        input_residuals(norm, x, dim, output_gradient=g).passed,
    )


def test_a_detached_mean_or_variance_shows() -> None:
    x = 5 * normal(16, 40) + 3
    mean = input_residuals(with_detached("mean"), x)
    variance = input_residuals(with_detached("variance"), x)
    neither = input_residuals(with_detached("neither"), x)
    assert mean.ones.median() > 0.1
    assert mean.normalized.max() < 1e-14, "the other correction is there"
    assert variance.normalized.median() > 0.1
    assert variance.ones.max() < 1e-14
    assert max(neither.ones.max(), neither.normalized.max()) < 1e-14


def test_residuals_have_the_size_stated() -> None:
    # Nothing is taken out: of a normal gradient at N entries 1/√N lies along any direction.
    found = input_residuals(lambda x: 2 * x, normal(25, 4000))
    for residual in (found.ones, found.normalized):
        # The root of the mean of squares: 4,000 of them make it good to 1/√8000, four times over.
        assert residual.square().mean().sqrt().item() == pytest.approx(2 * _spread_of(25), rel=0.1)
    assert found.passed.mean().item() == pytest.approx(2 * math.sqrt(24 / 25), rel=0.02)


def _spread_of(count: int) -> float:
    """Standard deviation of ⟨u, g⟩/‖g‖ · s for a unit vector u, with s² of mean (N−1)/N."""
    return math.sqrt((count - 1) / count / count)


def test_rms_norm_takes_out_the_input_and_leaves_the_mean() -> None:
    x = normal(5, 8) + 1
    found = input_residuals(lambda x: rms_norm(x, 8, eps=0.0), x, -1, centre=False)
    assert found.normalized.max() < 1e-14
    assert found.ones.median() > 0.01


def test_eps_lets_a_share_of_the_input_through() -> None:
    x = normal(16, 200)
    exact = input_residuals(with_detached("variance"), x).normalized
    found = input_residuals(lambda x: standardize(x, 0, eps=0.5), x).normalized
    var = x.var(0, correction=0)
    # ε/(σ²+ε) of what would pass, whose root is √(σ²+ε) instead of σ.
    expected = exact * 0.5 / (var + 0.5) * (var / (var + 0.5)).sqrt()
    torch.testing.assert_close(found, expected)


def test_a_batch_of_two_passes_nothing() -> None:
    x = normal(2, 30)
    assert (standardize(x, 0).abs() - 1).abs().max() < 1e-14
    assert input_residuals(lambda x: standardize(x, 0), x).passed.max() < 1e-13
    assert input_residuals(lambda x: standardize(x, 0), normal(3, 30)).passed.median() > 0.1


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def normed(norm: Callable[[int], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(1, 6, 3), norm(6), nn.Tanh(), Flat(), nn.Linear(36, 5), norm(5), nn.ReLU(),
        nn.Linear(5, 2),
    )  # fmt: skip
    return model.double()


def test_weights_below_a_batch_norm_keep_their_length_unit_by_unit() -> None:
    def batch(units: int) -> nn.Module:
        return nn.BatchNorm1d(units, eps=1e-300)

    model, inputs = normed(batch), normal(9, 1, 8)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found = weight_residuals(model, inputs)
    assert list(found) == ["0.weight", "0.bias", "4.weight", "4.bias", "7.weight", "7.bias"]
    for name, residual in found.items():
        below = not name.startswith("7")
        assert (residual.abs() < 1e-14).all() == below, name
    assert found["4.weight"].shape == (5,)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_weights_below_a_layer_norm_keep_their_length_together() -> None:
    for bias in (True, False):
        norm = nn.LayerNorm(6, eps=1e-300)
        model = nn.Sequential(nn.Linear(4, 6, bias=bias), norm, nn.Tanh(), nn.Linear(6, 2))
        found = weight_residuals(model.double(), normal(9, 4))
        assert found["0.weight"].abs().max() > 1e-3
        assert (abs(found["0.weight"].sum().item()) < 1e-14) == (not bias)
        if bias:
            assert found["0.bias"].abs().max() > 1e-3
            assert abs(found["0.bias"].sum().item()) < 1e-14
        assert abs(found["3.weight"].sum().item()) > 1e-3


def test_weight_residuals_are_cosines() -> None:
    model = nn.Linear(3, 2).double()
    x, g = normal(4, 3), normal(4, 2, seed=1)
    model(x).backward(g)
    weight, slope = model.weight.detach(), model.weight.grad
    found = weight_residuals(model, x, output_gradient=g)
    same(found["weight"], (weight * slope).sum(1) / (weight.norm() * slope.norm()))
    same(found["bias"], g.sum(0) / slope.norm())
    assert not any(value.requires_grad for value in found.values())
    frozen = model.requires_grad_(False)
    same(weight_residuals(frozen, x, output_gradient=g)["weight"], found["weight"])
    assert not model.weight.requires_grad


# ---------------------------------------------------------------- explosion


@pytest.mark.parametrize("size", [4, 5, 17, 400, 10**6])
def test_the_rate_of_linear_networks(size: int) -> None:
    rate = normalization.explosion_rate("identity", batch_size=size)
    assert rate == pytest.approx((size - 2) / (size - 3), rel=1e-11)


STEEP = Activation(
    "steep", lambda z: torch.tanh(30 * z), lambda z: 30 * (1 - torch.tanh(30 * z) ** 2), nn.Tanh
)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "sigmoid", "selu", STEEP])
def test_large_batches_come_near_the_infinite_one(name: str | Activation) -> None:
    limit = normalization.explosion_rate(name)
    sizes = [10**3, 10**4, 10**5]
    excess = [normalization.explosion_rate(name, batch_size=b) / limit - 1 for b in sizes]
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


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "selu"])
@pytest.mark.parametrize("size", [9, 20])
def test_the_rate_in_a_finite_batch_is_what_drawing_gives(name: str, size: int) -> None:
    samples, _ = one_layer(activations.get(name), size, draws=100_000)
    assert within(samples, normalization.explosion_rate(name, batch_size=size))
    assert four_errors(samples) < 0.03


def test_a_batch_of_four_is_on_an_ordinary_sphere() -> None:
    # Three dimensions: one coordinate is uniform, and the mean of x₁²x₂² is known from its powers.
    def moments(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x**2, x**4, x * y, (x * y) ** 2, torch.relu(x), torch.relu(x * y)])

    found = normalization._sphere_mean(moments, activations.get("relu"), 4)
    c, r = -1 / 3, math.sqrt(3)
    # E[max(uv, 0)] of two unit vectors' coordinates, whose angle is t: the density of both is
    # a function of the radius in the plane, over which the product has mean r²/2 cos(t − …).
    t = math.acos(c)
    positive = (math.sin(t) + (math.pi - t) * math.cos(t)) / (3 * math.pi)
    expected = [1, 9 / 5, c, 9 * (1 + 2 * c**2) / 15, r / 4, 3 * positive]
    assert found.tolist() == pytest.approx(expected, rel=1e-10)


def test_rates_at_the_edges() -> None:
    rate = normalization.explosion_rate
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


@KIND
def test_flow_is_autograds(norm: str, after: bool) -> None:
    width, depth, size, seed = 6, 3, 5, 7
    found = normalization.gradient_flow(
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
    flow = normalization.gradient_flow(
        norm, activation, width=300, depth=8, batch_size=size, seeds=16
    )
    growth = 10 ** (2 * backprop.slope_per_layer(flow))
    rate = normalization.explosion_rate(activation, norm=norm, batch_size=size)
    # The mean of a logarithm is below the logarithm of the mean, by an order of 1/width.
    assert within(growth, rate)
    assert four_errors(growth) < 0.08


def test_no_variance_of_the_weights_changes_the_flow_below_a_norm() -> None:
    kind = {"width": 20, "depth": 4, "batch_size": 6, "seeds": 2}
    for norm in ("batch", "layer"):
        flows = [
            normalization.gradient_flow(norm, "tanh", weight_variance=v, **kind) for v in (0.3, 5.0)
        ]
        same(*flows)


# ---------------------------------------------------------------- noise of a batch


@pytest.mark.parametrize("size", [2, 5, 64])
def test_batch_noise_is_as_predicted(size: int) -> None:
    draws = 20_000
    found = normalization.batch_noise(size, draws=draws)
    expected = normalization.predicted_batch_noise(size)
    assert tuple(expected) == (1 / math.sqrt(size), math.sqrt(2 / (size - 1)), (size - 1) / size)
    # A standard deviation is uncertain by √((κ−1)/4N) of itself, with κ = 3 + 12/(B−1) for s².
    kurtosis = 3 + 12 / (size - 1)
    assert found.mean_std == pytest.approx(expected.mean_std, rel=4 * math.sqrt(2 / 4 / draws))
    error = 4 * math.sqrt((kurtosis - 1) / 4 / draws)
    assert found.variance_std == pytest.approx(expected.variance_std, rel=error)
    error = 4 * expected.variance_std / math.sqrt(draws)
    assert found.biased_variance == pytest.approx(expected.biased_variance, rel=error)


# ---------------------------------------------------------------- smoothness


@KIND
def test_networks_are_the_plain_ones_with_a_norm(norm: str, after: bool) -> None:
    sizes = [5, 4, 3, 2]
    model = normalization.networks(sizes, "tanh", norm=norm, after=after, seeds=[8])[0]
    module = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}.get(norm)
    hidden = [nn.Linear, *([nn.Tanh, module] if after else [module, nn.Tanh])]
    expected = [kind for kind in [*hidden, *hidden, nn.Linear] if kind is not None]
    assert [type(layer) for layer in model] == expected
    plain = backprop.random_mlp(sizes, "tanh", scale=2.0, seeds=[8], bias=True).weights
    found = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    for one, other in zip(found, plain, strict=True):
        assert torch.equal(one, other[0])
    assert not list(model.buffers())
    assert model(normal(4, 5)).shape == (4, 2)


def quadratic(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.squeeze(-1) - targets).square().mean() / 2


def test_a_walk_on_a_quadratic_is_known_exactly() -> None:
    x, t, etas = normal(9, 4), normal(9, seed=1), [0.5, 0.1, 2.0]
    torch.manual_seed(3)
    models = [nn.Linear(4, 1, bias=False).double() for _ in range(3)]
    found = normalization.along_gradient(models, x, t, step_sizes=etas, loss=quadratic)
    assert found.step_sizes.tolist() == etas
    hessian = x.T @ x / 9
    for i, model in enumerate(models):
        w = model.weight[0].detach()
        g = x.T @ (x @ w - t) / 9
        bend = hessian @ g
        start = (x @ w - t).square().mean() / 2
        same(found.loss[i], start)
        same(found.gradient_norm[i], g.norm())
        along = torch.stack([start - e * g @ g + e**2 / 2 * g @ bend for e in etas])
        same(found.losses[i], along)
        same(found.gradient_changes[i], found.step_sizes * bend.norm())
        same(found.smoothness[i], bend.norm() / g.norm())
        same(found.loss_range[i], along.max() - along.min())
        same(found.gradient_range[i], 2.0 * bend.norm())
        assert model.weight.grad is None


def test_smoothness_is_the_largest_over_the_steps() -> None:
    # A quartic bends more the further one goes, to a point: the largest quotient is at one step.
    def quartic(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).pow(4).mean()

    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    found = normalization.along_gradient([model], one, zero, step_sizes=[0.01, 0.1], loss=quartic)
    quotients = [abs(4 * (2 - 32 * e) ** 3 - 32) / (32 * e) for e in (0.01, 0.1)]
    assert found.smoothness.item() == pytest.approx(max(quotients))
    assert found.gradient_range.item() == pytest.approx(
        max(q * 32 * e for q, e in zip(quotients, (0.01, 0.1)))
    )


def small() -> Split:
    data = digits()
    return data._replace(
        train_inputs=data.train_inputs[:200], train_targets=data.train_targets[:200]
    )


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_walks_in_training_are_those_of_torchs_sgd(norm: str) -> None:
    models = normalization.networks([64, 8, 10], "tanh", norm=norm, seeds=2)
    before = [p.clone() for model in models for p in model.parameters()]
    data, kind = small(), {"step_sizes": [0.1, 0.3]}
    found = normalization.landscapes(
        models, data, learning_rate=0.2, steps=5, measure_every=2, batch_size=30, seed=4, **kind
    )
    after = [p for model in models for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert found.losses.shape == (3, 2, 2)
    generator = torch.Generator().manual_seed(4)
    walks = [torch.optim.SGD(model.parameters(), lr=0.2) for model in models]
    for step in range(5):
        rows = torch.randint(200, (2, 30), generator=generator)
        for i, (model, walk) in enumerate(zip(models, walks, strict=True)):
            batch = data.train_inputs[rows[i]], data.train_targets[rows[i]]
            if step % 2 == 0:
                alone = normalization.along_gradient([model], *batch, **kind)
                for name in ("loss", "gradient_norm", "losses", "gradient_changes", "smoothness"):
                    same(getattr(found, name)[step // 2, i], getattr(alone, name)[0])
            walk.zero_grad()
            functional.cross_entropy(model(batch[0]), batch[1]).backward()
            walk.step()


# ---------------------------------------------------------------- bad input


X = normal(4, 3)
ROW = normal(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: batch_norm(X), ValueError, "running_mean is needed in evaluation mode, got None"),
        (lambda: batch_norm(X, ROW), ValueError, "running_var is needed in evaluation mode"),
        (lambda: batch_norm(ROW, training=True), ValueError, r"x needs shape .* got \(3,\)"),
        (lambda: batch_norm(X[:1], training=True), ValueError, "at least two values a channel"),
        (lambda: batch_norm(X, X, ROW), ValueError, r"running_mean must have shape \(3,\), got"),
        (lambda: batch_norm(X, training=True, weight=X[0, :2]), ValueError, "weight must have sha"),
        (lambda: batch_norm(X, training=True, bias=X), ValueError, "bias must have shape"),
        (lambda: batch_norm(X.long(), training=True), TypeError, "x must be a floating-point"),
        (lambda: batch_norm(X, training=True, eps=-1.0), ValueError, "eps must be finite and"),
        (lambda: batch_norm(X, ROW, ROW**2, eps=-1.0), ValueError, "eps must be finite and"),
        (lambda: batch_norm(X, training=True, momentum=None), TypeError, "momentum must be a num"),
        (lambda: batch_norm(X.tolist(), training=True), TypeError, "x must be a tensor, got list"),
        (lambda: layer_norm(X, 4), ValueError, r"normalized_shape must be how x's .* got 4"),
        (lambda: layer_norm(X, ()), ValueError, r"normalized_shape must be how x's"),
        (lambda: layer_norm(X.int(), 3), TypeError, "x must be a floating-point tensor"),
        (lambda: layer_norm(X, 3, X), ValueError, r"weight must have shape \(3,\)"),
        (lambda: rms_norm(X, (3, 3, 3)), ValueError, "normalized_shape must be how x's"),
        (lambda: rms_norm(X.int(), 3), TypeError, "x must be a floating-point tensor"),
        (lambda: group_norm(X, 2), ValueError, "num_groups must divide the 3 channels, got 2"),
        (lambda: group_norm(X, 0), ValueError, "num_groups must be at least 1, got 0"),
        (lambda: group_norm(ROW, 1), ValueError, "x needs shape"),
        (lambda: standardize(X, 2), ValueError, "dim must name dimensions of a tensor of 2, got 2"),
        (lambda: standardize(X, ()), ValueError, "dim must name dimensions"),
        (lambda: standardize(X > 0, 0), TypeError, "x must be a floating-point tensor"),
        (lambda: input_residuals(lambda x: x.sum(0), X), ValueError, "norm must keep the shape"),
        (lambda: input_residuals(lambda x: x, X, output_gradient=ROW), ValueError, "output_grad"),
        (lambda: input_residuals(lambda x: x, X.long()), TypeError, "x must be a floating-point"),
        (lambda: weight_residuals(nn.Tanh(), X), ValueError, "model needs at least one linear or"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Callable[[], object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def kinked() -> Activation:
    relu = activations.get("relu")
    return Activation("kinked", lambda z: torch.relu(z - 1), relu.slope, nn.ReLU, kinks=(1.0,))


def flat() -> Activation:
    return Activation("flat", torch.ones_like, torch.zeros_like, nn.Identity)


def walk(**kind: object) -> object:
    models = normalization.networks([3, 2, 2])
    return normalization.along_gradient(models, X, torch.tensor([0, 1, 1, 0]), **kind)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: n.explosion_rate("relu", batch_size=1), "batch_size must be at least 2, got 1"),
        (lambda n: n.explosion_rate("relu", batch_size=0), "batch_size must be at least 1, got 0"),
        (
            lambda n: n.explosion_rate("relu", norm="none"),
            r"norm must be one of \['batch', 'layer'",
        ),
        (lambda n: n.explosion_rate("step"), "activation must be one of"),
        (lambda n: n.explosion_rate(kinked(), batch_size=8), "kinks at 0 only, and 'kinked'"),
        (lambda n: n.explosion_rate(flat()), "'flat' leaves nothing to normalize"),
        (lambda n: n.explosion_rate(flat(), batch_size=6), "'flat' leaves nothing to normalize"),
        (lambda n: n.gradient_flow("group"), "norm must be one of"),
        (lambda n: n.gradient_flow(width=0), "width must be at least 1, got 0"),
        (lambda n: n.gradient_flow(depth=0), "depth must be at least 1, got 0"),
        (lambda n: n.gradient_flow(batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda n: n.gradient_flow(weight_variance=-1.0), "weight_variance must be finite"),
        (lambda n: n.gradient_flow(seeds=[]), "seeds needs a whole number"),
        (lambda n: n.batch_noise(1), "batch_size must be at least 2, got 1"),
        (lambda n: n.batch_noise(4, draws=1), "draws must be at least 2, got 1"),
        (lambda n: n.predicted_batch_noise(1), "batch_size must be at least 2, got 1"),
        (lambda n: n.networks([3, 2], norm="rms"), "norm must be one of"),
        (lambda _: walk(step_sizes=[]), "step_sizes needs at least one size above 0, got"),
        (lambda _: walk(step_sizes=[0.1, 0]), "step_sizes needs at least one size above 0"),
        (lambda _: walk(step_sizes=[-0.1]), "each of step_sizes must be finite and at least 0"),
        (lambda n: n.along_gradient([], X, ROW, step_sizes=[1.0]), "models needs at least one"),
    ],
)
def test_bad_experiments_are_named(call: Callable[..., object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(normalization)
