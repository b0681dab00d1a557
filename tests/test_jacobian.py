"""End-to-end Jacobians against torch's own, and their spectra where the answer is known."""

import copy
import math

import pytest
import torch
from helpers import RECTANGULAR, mlp, normal, reproducible, within
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import jacrev, vmap

from companion import activations, backprop, jacobian, products
from companion._lib import random
from companion.backprop import MLP
from companion.jacobian import Ensemble

WIDENING, NARROWING = (3, 5, 4, 7), (7, 4, 5, 3)
EVERY = pytest.mark.parametrize("activation", activations.ACTIVATIONS)


def by_torch(network: MLP, inputs: Tensor) -> Tensor:
    (model,) = backprop.to_modules(network)
    # One row of one input at a time: vmap cannot do PReLU.
    return torch.stack([torch.autograd.functional.jacobian(model, each) for each in inputs])


@pytest.mark.breaks(
    "companion/jacobian.py",
    "return product if from_output else product.mT",
    "return product if from_output else product",
)
@pytest.mark.breaks(
    "companion/jacobian.py",
    "slopes = [network.activation.slope(z) for z in cache.z[:-1]]",
    "slopes = [network.activation.function(z) for z in cache.z[:-1]]",
)
@pytest.mark.breaks(
    "companion/jacobian.py",
    "slopes = [network.activation.slope(z) for z in cache.z[:-1]]",
    "slopes = [network.activation.slope(a) for a in cache.a[1:]]",
)
@pytest.mark.breaks(
    "companion/jacobian.py",
    "return rows.flatten(2).transpose(0, 1)",
    "return rows.flatten(2).movedim(0, -1)",
)
@EVERY
@pytest.mark.parametrize("sizes", [RECTANGULAR, WIDENING, NARROWING, (4, 1, 4), (3, 2), (5, 5, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_both_ways_are_torchs(activation: str, sizes: tuple[int, ...], bias: bool) -> None:
    network, inputs = mlp(sizes, activation, bias=bias), normal(6, sizes[0], seed=90)
    expected = by_torch(network, inputs)
    assert expected.shape == (6, sizes[-1], sizes[0])
    found = jacobian.end_to_end(network, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    found = jacobian.end_to_end(backprop.to_modules(network)[0], inputs)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.breaks(
    "companion/jacobian.py",
    "return list(network.weights[::-1]), slopes[::-1]",
    "return list(network.weights[::-1]), slopes",
)
@pytest.mark.parametrize("sizes", [WIDENING, NARROWING])
@pytest.mark.parametrize("shared", [True, False])
def test_stacked_networks_are_the_single_ones(sizes: tuple[int, ...], shared: bool) -> None:
    network = mlp(sizes, "tanh", (2, 3))
    inputs = normal(*(() if shared else (2, 3)), 6, sizes[0], seed=90)
    found = jacobian.end_to_end(network, inputs)
    assert found.shape == (2, 3, 6, sizes[-1], sizes[0])
    rows = inputs.expand(2, 3, 6, -1)
    for i in range(2):
        for j in range(3):
            single = MLP(
                tuple(weight[i, j] for weight in network.weights),
                tuple(bias[i, j] for bias in network.biases),
                network.activation,
            )
            torch.testing.assert_close(found[i, j], by_torch(single, rows[i, j]))


@pytest.mark.parametrize("tile", [1, 100, 10**9])
def test_tiles_leave_nothing_out(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = mlp(), normal(7, 4, seed=90)
    monkeypatch.setattr(jacobian, "TILE", tile)
    torch.testing.assert_close(jacobian.end_to_end(network, inputs), by_torch(network, inputs))


@pytest.mark.breaks(
    "companion/jacobian.py",
    "sizes[-1] * sum(areas[:-1]) <= sizes[0] * sum(areas[1:])",
    "sizes[-1] * sum(areas[:-1]) >= sizes[0] * sum(areas[1:])",
)
@pytest.mark.parametrize("sizes", [WIDENING, NARROWING, (4, 9, 4), (5, 1, 4, 5)])
def test_the_way_with_fewer_multiplications_is_taken(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted as they are done: rows times columns times inner dimension of each product."""
    counts = {}
    taken = []
    original = jacobian._chain

    def counted(factors: list[Tensor], slopes: list[Tensor]) -> Tensor:
        taken.append(factors[0].shape[-2] * sum(f.shape[-1] * f.shape[-2] for f in factors[1:]))
        return original(factors, slopes)

    network, inputs = mlp(sizes), normal(2, sizes[0])
    cache = backprop.forward(network, inputs)
    for from_output in (True, False):
        factors, _ = jacobian._ordered(network, cache, from_output=from_output)
        counts[from_output] = factors[0].shape[-2] * sum(f.numel() for f in factors[1:])
    monkeypatch.setattr(jacobian, "_chain", counted)
    jacobian.end_to_end(network, inputs)
    assert taken == [min(counts.values())]


def test_images_and_outputs_of_any_shape_are_flattened() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 3, 2)).double()
    inputs = normal(4, 2, 3, 3)
    expected = vmap(jacrev(lambda x: model(x.clone()).flatten()))(inputs).flatten(2)
    torch.testing.assert_close(jacobian.end_to_end(model, inputs), expected)
    total = jacobian.end_to_end(nn.Sequential(model, nn.Flatten(), nn.Linear(12, 1)), inputs)
    assert total.shape == (4, 1, 18)


def test_the_model_and_its_inputs_are_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    before, inputs = copy.deepcopy(model.state_dict()), normal(5, 3).float()
    with torch.no_grad():
        spectrum = jacobian.singular_values(model, inputs)
    assert spectrum.values.dtype == torch.float64
    assert not inputs.requires_grad
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert jacobian.end_to_end(model, inputs, dtype=torch.float32).dtype == torch.float32


class Mixing(nn.Module):
    """Adds to each example half of the one ``shift`` places before it; the first ones stay."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        before = torch.cat([torch.zeros_like(x[: self.shift]), x[: -self.shift]])
        return x + before / 2


@pytest.mark.breaks(
    "companion/jacobian.py",
    "for bit in bits for side in (0, 1)]",
    "for bit in bits for side in (1,)]",
)
@pytest.mark.parametrize("shift", range(1, 6))
@pytest.mark.parametrize("sign", [1, -1])
def test_examples_that_depend_on_others_are_refused(shift: int, sign: int) -> None:
    model = Mixing(shift)
    if sign < 0:  # on those after it instead
        model.forward = lambda x: Mixing(shift).forward(x.flip(0)).flip(0)
    with pytest.raises(ValueError, match=r"depends on the other inputs .* call model.eval"):
        jacobian.end_to_end(model, normal(6, 3))


def test_batch_norm_is_refused_in_training_mode_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match="batch norm in training mode"):
        jacobian.end_to_end(model, normal(5, 3))
    assert model[1].num_batches_tracked == 0
    found = jacobian.end_to_end(model.eval(), normal(5, 3))
    expected = model[0].weight.double() / math.sqrt(1 + 1e-5)
    torch.testing.assert_close(found[4], expected.detach(), rtol=1e-7, atol=0)
    apart = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    assert jacobian.end_to_end(apart, normal(5, 3)).shape == (5, 4, 3)


def test_a_constant_model_has_a_jacobian_of_zero() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.level.expand(len(x), 2)

    model = Constant()
    assert torch.equal(jacobian.end_to_end(model, normal(5, 3)), torch.zeros(5, 2, 3).double())
    model.level.requires_grad_(False)
    assert not jacobian.end_to_end(model, normal(5, 3)).any()
    spectrum = jacobian.singular_values(model, normal(5, 3))
    assert spectrum.resolved.tolist() == [0] * 5


def test_bad_input_is_refused_with_its_name() -> None:
    network, inputs = mlp(), normal(2, 4)
    with pytest.raises(TypeError, match="model must be a module or an MLP, got str"):
        jacobian.end_to_end("tanh", inputs)
    with pytest.raises(TypeError, match=r"inputs must be a floating-point tensor, got torch.int64"):
        jacobian.end_to_end(network, torch.ones(2, 4, dtype=torch.int64))
    with pytest.raises(TypeError, match="inputs must be a tensor, got list"):
        jacobian.end_to_end(network, [[1.0] * 4])
    for shape in [(4,), (0, 4), (2, 0)]:
        with pytest.raises(ValueError, match=r"inputs need at least one example.*got"):
            jacobian.end_to_end(network, torch.ones(shape))
    with pytest.raises(ValueError, match=r"inputs need shape \(..., examples, 4\)"):
        jacobian.end_to_end(network, normal(2, 3))
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="inputs must be finite"):
            jacobian.lyapunov(network, torch.full((2, 4), value))
    for dtype in (torch.int32, "float64", torch.complex64):
        with pytest.raises(TypeError, match="dtype must be a floating-point dtype"):
            jacobian.end_to_end(network, inputs, dtype=dtype)
    with pytest.raises(ValueError, match="a row for each of the 2 inputs"):
        jacobian.end_to_end(nn.Flatten(0), inputs)
    with pytest.raises(TypeError, match="network must be an MLP, got Linear"):
        jacobian.lyapunov(nn.Linear(4, 4), inputs)
    with pytest.raises(ValueError, match=r"narrower than both its ends: sizes \[4, 2, 5\]"):
        jacobian.lyapunov(mlp((4, 2, 5)), inputs)
    huge = MLP((normal(4, 4) * 1e200,) * 3, None, activations.get("identity"))
    with pytest.raises(ValueError, match=r"not finite in torch.float64; see lyapunov"):
        jacobian.singular_values(huge, inputs)


# Singular values and how many of them are resolved.


def diagonal(values: list[float]) -> MLP:
    weight = torch.diag(torch.tensor(values, dtype=torch.float64))
    return MLP((weight,), None, activations.get("identity"))


@pytest.mark.breaks(
    "companion/jacobian.py",
    "error = torch.finfo(dtype).eps * max(",
    "error = torch.finfo(torch.float64).eps * max(",
)
@pytest.mark.breaks(
    "companion/jacobian.py", "(values > error.unsqueeze(-1)).sum(-1)", "(values > 0).sum(-1)"
)
def test_the_rank_is_counted_in_the_precision_computed_in() -> None:
    network, inputs = diagonal([1e3, 1.0, 1e-8, 1e-17]), torch.ones(2, 4)
    assert jacobian.singular_values(network, inputs).resolved.tolist() == [3, 3]
    single = jacobian.singular_values(network, inputs, dtype=torch.float32)
    assert single.resolved.tolist() == [2, 2]
    # The decomposition's own error: eps · the larger dimension · the largest value.
    expected = 1e3 * 4 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(single.error, torch.full((2,), expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_those_of_the_jacobian(dtype: torch.dtype) -> None:
    network, inputs = mlp((4, 9, 6), "sigmoid", (3,)), normal(3, 5, 4, seed=9)
    spectrum = jacobian.singular_values(network, inputs, dtype=dtype)
    jacobians = jacobian.end_to_end(network, inputs, dtype=dtype)
    assert torch.equal(spectrum.values, torch.linalg.svdvals(jacobians))
    assert spectrum.values.shape == (3, 5, 4)
    assert spectrum.error.shape == spectrum.resolved.shape == (3, 5)


# Depth 2 and 50 of a network that keeps its signal, and 30 of one that is chaotic (σ_w² = 4).
DEEP = [("identity", 1.0, 2), ("tanh", 1.5, 50), ("relu", 2.0, 50), ("tanh", 4.0, 30)]


@pytest.mark.breaks(
    "companion/jacobian.py", "* torch.finfo(value.dtype).eps", "* torch.finfo(torch.float64).eps"
)
@pytest.mark.parametrize(("activation", "variance", "depth"), DEEP)
def test_the_error_is_what_rounding_does(activation: str, variance: float, depth: int) -> None:
    """In float32 the truth is known: it is what float64 gives for the same weights."""
    network = backprop.random_mlp([40] * (depth + 1), activation, weight_variance=variance)
    network = MLP(tuple(weight[0].float() for weight in network.weights), None, network.activation)
    inputs = normal(8, 40, seed=7).float()
    spectrum = jacobian.singular_values(network, inputs, dtype=torch.float32)
    truth = jacobian.end_to_end(network, inputs)
    rounded = jacobian.end_to_end(network, inputs, dtype=torch.float32)
    actual = torch.linalg.matrix_norm(rounded - truth, ord=2)
    # Over a hundred chaotic inputs rounding did at most 2.5 times what the largest of three changes
    # did, and half of it in the median; where there is no chaos the floor lies above both.
    assert (actual < 8 * spectrum.error).all()
    exact = torch.linalg.svdvals(truth)
    floor = 40 * torch.finfo(torch.float32).eps * exact[:, 0]
    assert (spectrum.error < 60 * torch.maximum(actual, floor)).all()
    if variance == 4.0:  # chaos multiplies rounding far beyond the decomposition's own error
        assert (actual > 5 * floor).any()
    # What is called resolved is right, but for those next to the threshold.
    error = ((spectrum.values - exact) / exact).abs()
    clear = torch.arange(40) < spectrum.resolved.unsqueeze(-1) * 0.8
    assert error[clear].max() < 0.5


def test_float32_resolves_less_than_half_of_a_deep_gaussian_product() -> None:
    network = backprop.random_mlp([128] * 51, "identity")
    inputs = torch.ones(1, 128)
    single = jacobian.singular_values(network, inputs, dtype=torch.float32)
    double = jacobian.singular_values(network, inputs)
    assert single.resolved.item() < 64 < double.resolved.item()


# Lyapunov spectra.


@pytest.mark.breaks(
    "companion/jacobian.py",
    "stretch = torch.diagonal(r, dim1=-2, dim2=-1).abs()",
    "stretch = torch.diagonal(r, dim1=-2, dim2=-1).clamp_min(0)",
)
@pytest.mark.breaks(
    "companion/jacobian.py",
    "return logs / len(factors)",
    "return logs / len(slopes)",
    case="sizes0-tanh",
)
@EVERY
@pytest.mark.parametrize("sizes", [(4, 6, 5, 7), (7, 5, 6, 4), (4, 4, 4), (3, 5), (5, 3)])
def test_exponents_add_up_to_the_log_volume(activation: str, sizes: tuple[int, ...]) -> None:
    network, inputs = mlp(sizes, activation, (2,)), normal(2, 5, sizes[0], seed=90)
    found = jacobian.lyapunov(network, inputs)
    spectrum = jacobian.singular_values(network, inputs)
    k = min(sizes[0], sizes[-1])
    assert found.shape == spectrum.values.shape == (2, 5, k)
    rank = (found > -math.inf).sum(-1)
    assert torch.equal(rank, spectrum.resolved)
    volume = spectrum.values.log().sum(-1) / (len(sizes) - 1)
    full = rank == k
    assert activation == "relu" or full.all()
    torch.testing.assert_close(found.sum(-1)[full], volume[full], rtol=1e-9, atol=1e-9)


def test_exponents_of_a_long_product_are_each_those_of_the_svd() -> None:
    """Growth rates a factor of e apart, turned anew in each layer: each is its own within 1/L."""
    depth, rates = 150, torch.tensor([0.5, 0.0, -0.3], dtype=torch.float64)
    factors = products.factors_with_singular_values(rates.exp().tolist(), depth, seeds=4)
    network = MLP(tuple(factors.unbind(1)), None, activations.get("identity"))
    inputs = torch.ones(1, 3)
    found = jacobian.lyapunov(network, inputs)
    exact = jacobian.singular_values(network, inputs).values.log() / depth
    # The first frame is off by an angle whose logarithm is of order one, once for all layers.
    assert ((found - exact).abs() < 3 / depth).all()
    assert (found.diff(dim=-1) < 0).all()
    # With the same directions in every layer there is nothing to settle.
    same = diagonal(rates.exp().tolist()).weights * 2000
    found = jacobian.lyapunov(MLP(same, None, activations.get("identity")), inputs)[0]
    torch.testing.assert_close(found, rates, rtol=0, atol=3 / 2000)


@pytest.mark.breaks("companion/jacobian.py", "logs = logs + more", "logs = more")
def test_exponents_hold_where_the_product_underflows() -> None:
    network = backprop.random_mlp([6] * 2001, "sigmoid", seeds=2)
    inputs = normal(3, 6)
    assert not jacobian.end_to_end(network, inputs).any()
    found = jacobian.lyapunov(network, inputs)
    assert found.isfinite().all()
    # ln|det J| is the sum of its factors' own, of which W alone needs a decomposition.
    cache = backprop.forward(network, inputs)
    slopes = torch.stack([network.activation.slope(z) for z in cache.z[:-1]])
    weights = torch.linalg.slogdet(torch.stack(network.weights)).logabsdet
    expected = slopes.log().sum((0, -1)) + weights.sum(0).unsqueeze(-1)
    torch.testing.assert_close(found.sum(-1) * 2000, expected, rtol=1e-10, atol=0)


def test_lost_directions_are_minus_infinity() -> None:
    """The k-th unit is cut off behind the first layer: 1, 2, 3 of three stay."""
    eye = torch.eye(3, dtype=torch.float64)
    network = MLP((eye, eye, eye), None, activations.get("relu"))
    inputs = torch.tensor([[1.0, -1, -1], [-1, 1, 1], [1, 1, 1], [-1, -1, -1]])
    found = jacobian.lyapunov(network, inputs)
    assert (found > -math.inf).sum(-1).tolist() == [1, 2, 3, 0]
    assert found[2].abs().max() < 1e-12
    assert found[3].tolist() == [-math.inf] * 3


@pytest.mark.breaks(
    "companion/jacobian.py", "return q * ~lost.unsqueeze(-2), stretch", "return q, stretch"
)
def test_directions_lost_at_one_layer_stay_lost() -> None:
    """Where one of two units is off, a last layer that turns cannot bring the direction back."""
    turn = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    network = MLP((eye, turn, eye), None, activations.get("relu"))
    # The first layer keeps the unit that is on; turned, it is (1, 3) times it.
    found = jacobian.lyapunov(network, torch.tensor([[1.0, -1.0]]))[0]
    assert found[1] == -math.inf
    spectrum = jacobian.singular_values(network, torch.tensor([[1.0, -1.0]]))
    assert spectrum.values[0, 0].item() == pytest.approx(math.sqrt(10))
    assert spectrum.resolved.tolist() == [1]
    frame = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    kept, logs = jacobian._orthonormalized(frame)
    assert not kept[:, 1].any()
    assert logs.tolist() == [pytest.approx(math.log(2) / 2), -math.inf]


@pytest.mark.breaks("companion/jacobian.py", "kept = range(n, 0, -1)", "kept = range(1, n + 1)")
@pytest.mark.breaks(
    "companion/jacobian.py",
    "products.gaussian_lyapunov(m, weight_variance * m / n)",
    "products.gaussian_lyapunov(m, weight_variance)",
)
@pytest.mark.parametrize("variance", [1.0, 3.0])
@pytest.mark.parametrize("n", [1, 5, 16])
def test_gaussian_exponents(n: int, variance: float) -> None:
    exact = jacobian.gaussian_exponents(n, variance)
    assert exact.shape == (n,)
    assert exact[0].item() == products.gaussian_lyapunov(n, variance)
    # E ln|det W|, from the chi distribution of each row's part beside the others.
    factors = products.gaussian_factors(n, 1, weight_variance=variance, seeds=4000)[:, 0]
    assert within(torch.linalg.slogdet(factors).logabsdet, exact.sum().item())
    assert (exact.diff() < 0).all()


# Ensembles.


@pytest.mark.breaks("companion/jacobian.py", "MLP((*weights, top), None", "MLP((*weights,), None")
def test_spectra_are_of_the_jacobian_with_the_last_activation() -> None:
    """By hand on one layer: D W with D the slopes at W a."""
    ensembles = [Ensemble("tanh", "gaussian", 1.5), Ensemble("relu", "orthogonal", 2.0)]
    values = jacobian.spectra(ensembles, width=8, depth=1, seeds=3, input_mean_square=4.0)
    assert values.shape == (2, 3, 8)
    inputs = 2 * random.normal(random.generators(range(3), "inputs"), 8)
    weights = math.sqrt(1.5) * products.gaussian_factors(8, 1, seeds=3)[:, 0]
    slope = 1 - torch.tanh(weights @ inputs.unsqueeze(-1)) ** 2
    torch.testing.assert_close(values[0], torch.linalg.svdvals(slope * weights))
    # √2 times a projection: as many values of √2 as there are active units.
    assert ((values[1] - math.sqrt(2)).abs() < 1e-12).logical_or(values[1] < 1e-12).all()
    assert 0 < (values[1] > 1).double().mean() < 1


@pytest.mark.breaks("companion/jacobian.py", "squares.var(-1, correction=0)", "squares.var(-1)")
@pytest.mark.breaks(
    "companion/jacobian.py",
    'squares = floating("values", values).square()',
    'squares = floating("values", values)',
)
def test_spread_is_of_squares_and_relative() -> None:
    values = torch.tensor([[1.0, 3.0], [2.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(
        jacobian.relative_variance(values), torch.tensor([16 / 25, 0.0]).double()
    )
    torch.testing.assert_close(
        jacobian.relative_variance(7 * values), jacobian.relative_variance(values)
    )
    with pytest.raises(ValueError, match="values are all 0"):
        jacobian.relative_variance(torch.zeros(2, 3))


@pytest.mark.parametrize("depth", [1, 7])
def test_predicted_spread_in_closed_form(depth: int) -> None:
    for activation, more in (("identity", 0), ("relu", 1)):
        for weights, base in (("gaussian", 1), ("orthogonal", 0)):
            ensemble = Ensemble(activation, weights, 2.0)
            assert jacobian.predicted_relative_variance(ensemble, depth=depth) == depth * (
                base + more
            )


def test_ensembles_are_checked() -> None:
    with pytest.raises(ValueError, match="weights must be one of"):
        jacobian.spectra([Ensemble("tanh", "uniform")], width=3)
    with pytest.raises(ValueError, match="weights must be one of"):
        jacobian.predicted_relative_variance(Ensemble("tanh", "uniform"), depth=3)
    with pytest.raises(ValueError, match="ensembles needs at least one"):
        jacobian.spectra([])
    with pytest.raises(ValueError, match="activation must be one of"):
        jacobian.spectra([Ensemble("swish", "gaussian")], width=3)
    with pytest.raises(ValueError, match="weight_variance must be finite"):
        jacobian.spectra([Ensemble("tanh", "gaussian", -1.0)], width=3)


def test_histogram_shows_shares_of_all_values() -> None:
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    values = torch.tensor([[1.0, 10.0], [1e-17, 0.0]], dtype=torch.float64)
    assert jacobian.histogram(ax, values, width=0.25, label="two of four", color="k") is ax
    heights = [patch.get_height() for patch in ax.patches]
    assert heights == [0.25, 0, 0, 0, 0.25]
    assert [patch.get_x() for patch in ax.patches] == [-0.125, 0.125, 0.375, 0.625, 0.875]
    assert ax.get_legend_handles_labels()[1] == ["two of four"]
    ax.clear()
    jacobian.histogram(ax, torch.ones(10) + 1e-7 * normal(10).float())
    assert [patch.get_height() for patch in ax.patches] == [pytest.approx(1)]
    ax.clear()
    for spread in (0.2, 2.0):  # the bins of both have one width and the same edges
        jacobian.histogram(ax, 10 ** (spread * normal(50)))
    edges = [patch.get_x() / 0.1 + 0.5 for patch in ax.patches]
    assert edges == pytest.approx([round(edge) for edge in edges], abs=1e-9)
    assert sum(patch.get_height() for patch in ax.patches) == pytest.approx(2)
    with pytest.raises(ValueError, match="width must be positive"):
        jacobian.histogram(ax, values, width=0)
    with pytest.raises(ValueError, match="at least one positive"):
        jacobian.histogram(ax, torch.zeros(3))
    plt.close("all")


@reproducible
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    examples=st.integers(1, 5),
    scale=st.sampled_from([0.0, 1e-150, 1.0, 1e3]),
    activation=st.sampled_from(sorted(activations.ACTIVATIONS)),
)
def test_any_shape_and_scale(
    sizes: list[int], examples: int, scale: float, activation: str
) -> None:
    network = mlp(tuple(sizes), activation)
    network = MLP(
        tuple(scale * weight for weight in network.weights), network.biases, network.activation
    )
    inputs = normal(examples, sizes[0], seed=3)
    found = jacobian.end_to_end(network, inputs)
    expected = by_torch(network, inputs)
    size = max(expected.abs().max().item(), 1e-300)
    torch.testing.assert_close(found / size, expected / size, rtol=1e-9, atol=1e-9)
    if not scale:
        assert not jacobian.singular_values(network, inputs).resolved.any()
