"""Norms against torch and gradcheck, identities against norms without a path, noise of batches."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from helpers import normal, reproducible, same
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional

from companion import normalization
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


@pytest.mark.breaks(
    "companion/normalization/norms.py",
    "root = (deviation.square().mean(dim, keepdim=True) + eps).sqrt()",
    "root = (x.var(dim, keepdim=True) + eps).sqrt()",
)
@pytest.mark.breaks(
    "companion/normalization/norms.py",
    "    if training:\n        dims",
    "    if True:\n        dims",
    case="False-shape0-0-0",
)
@pytest.mark.breaks(
    "companion/normalization/norms.py", "dims = (0, *range(2, x.dim()))", "dims = (0,)"
)
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


@pytest.mark.breaks(
    "companion/normalization/norms.py",
    "x_hat = standardize(_wide(x), range(-len(shape), 0), eps=eps)\n",
    "x_hat = standardize(_wide(x), -1, eps=eps)\n",
)
@pytest.mark.breaks(
    "companion/normalization/norms.py",
    "range(-len(shape), 0), eps=eps, centre=False)",
    "range(-len(shape), 0), eps=eps)",
)
@pytest.mark.breaks(
    "companion/normalization/norms.py", "return g * weight, (g * x_hat)", "return g, (g * x_hat)"
)
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


@pytest.mark.breaks(
    "companion/normalization/norms.py",
    "standardize(grouped, range(2, grouped.dim()), eps=eps)",
    "standardize(grouped, (0, *range(2, grouped.dim())), eps=eps)",
)
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


@pytest.mark.breaks(
    "companion/normalization/norms.py",
    "(deviation.square().mean(dim, keepdim=True) + eps).sqrt()",
    "deviation.square().mean(dim, keepdim=True).sqrt() + eps",
)
@pytest.mark.breaks(
    "companion/normalization/norms.py",
    '(var + non_negative("eps", eps)).sqrt()',
    '(var.sqrt() + non_negative("eps", eps))',
)
def test_eps_stands_inside_the_root() -> None:
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    assert standardize(x, 0, eps=3.0).flatten().tolist() == [0.5, -0.5]
    var = torch.ones(1, dtype=torch.float64)
    found = batch_norm(x, torch.zeros_like(var), var, eps=3.0)
    assert found.flatten().tolist() == [0.5, -0.5]


@pytest.mark.breaks(
    "companion/normalization/norms.py", "x.var(dims, correction=1)", "x.var(dims, correction=0)"
)
@pytest.mark.breaks(
    "companion/normalization/norms.py",
    "running_mean.mul_(1 - momentum).add_(momentum *",
    "running_mean.mul_(momentum).add_((1 - momentum) *",
)
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


@pytest.mark.breaks(
    "companion/normalization/norms.py",
    '        share = non_negative("momentum", momentum)\n',
    '        share = 1 - non_negative("momentum", momentum)\n',
)
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


@pytest.mark.breaks(
    "companion/normalization/norms.py",
    "through_mean = g.mean(dim, keepdim=True) if centre else 0.0",
    "through_mean = 0.0",
    case="batch",
)
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


@pytest.mark.breaks(
    "companion/normalization/norms.py",
    "through_variance = x_hat * (g * x_hat).mean(dim, keepdim=True)",
    "through_variance = 0.0",
)
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


@pytest.mark.breaks(
    "companion/normalization/norms.py",
    'random.generator(seed, "inputs")',
    "random.generator(seed)",
)
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


# ---------------------------------------------------------------- noise of a batch


@pytest.mark.breaks(
    "companion/normalization/norms.py",
    "root.square().mean().item()",
    "(root.square().mean() * size / (size - 1)).item()",
)
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
        (lambda: normalization.batch_noise(1), ValueError, "at least 2, got 1"),
        (lambda: normalization.batch_noise(4, draws=1), ValueError, "draws must be at least 2"),
        (lambda: normalization.predicted_batch_noise(1), ValueError, "at least 2, got 1"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Callable[[], object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_norm_modules_are_torchs_and_keep_no_statistics() -> None:
    batch, layer = normalization.norm_module("batch", 5), normalization.norm_module("layer", 5)
    x = 3 * normal(8, 5) + 1
    for module, dim in ((batch, 0), (layer, 1)):
        same(module.eval()(x), normalization.standardize(x, dim, eps=1e-5))
        assert {p.dtype for p in module.parameters()} == {torch.float64}
        assert not list(module.buffers())
    with pytest.raises(ValueError, match="norm must be one of"):
        normalization.norm_module("none", 5)
