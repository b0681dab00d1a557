"""Activations against torch, exact arithmetic and another quadrature; units against hand counts."""

import math
from collections.abc import Callable
from itertools import pairwise

import mpmath
import pytest
import torch
from helpers import normal, reproducible
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from torch import Tensor, nn

from companion import activations, backprop
from companion.activations import ACTIVATIONS, Activation

EVERY = pytest.mark.parametrize("name", ACTIVATIONS)
ALL = ("elu", "gelu", "identity", "leaky_relu", "mish", "prelu", "relu", "selu", "sigmoid")
ALL += ("silu", "softplus", "tanh")
MADE = (
    activations.leaky_relu(0.25),
    activations.leaky_relu(-1.5),
    activations.prelu(0.1),
    activations.elu(0.3),
    activations.elu(2.5),
    activations.elu(0.0),
    activations.shifted("relu", 0.4),
    activations.shifted("sigmoid", 0.5),
    activations.shifted(activations.leaky_relu(0.25), -1.5),
)
EACH = pytest.mark.parametrize("phi", [*ACTIVATIONS.values(), *MADE], ids=lambda phi: phi.name)


def test_the_names_are_the_keys() -> None:
    assert sorted(ACTIVATIONS) == sorted(ALL)
    assert all(key == activation.name for key, activation in ACTIVATIONS.items())
    assert activations.leaky_relu(0.25).name == "leaky_relu(0.25)"


@pytest.mark.breaks(
    "companion/activations/functions.py", "return torch.cosh(z) ** -2", "return 1 - z**2"
)
@pytest.mark.breaks(
    "companion/activations/functions.py",
    "return torch.sigmoid(z) * torch.sigmoid(-z)",
    "return z * (1 - z)",
)
@pytest.mark.breaks(
    "companion/activations/functions.py",
    "SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805",
    "SELU_ALPHA, SELU_SCALE = 1.6733, 1.0507",
)
@EACH
@reproducible
@given(numbers=st.lists(st.floats(-40, 40), min_size=1, max_size=6))
def test_slope_is_the_derivative_at_the_pre_activation(
    phi: Activation, numbers: list[float]
) -> None:
    fixed = [0.0, 0.5, -0.5, 1e3, -1e3]
    z = torch.tensor([*numbers, *fixed], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(phi.function(z).sum(), z)
    torch.testing.assert_close(phi.slope(z.detach()), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_slope_from_the_output_is_the_slope(name: str) -> None:
    phi, z = activations.get(name), torch.linspace(-5, 5, 101, dtype=torch.float64)
    assert phi.slope_from_output is not None
    from_output = phi.slope_from_output(phi.function(z))
    torch.testing.assert_close(from_output, phi.slope(z), rtol=0, atol=1e-15)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_function_is_the_module_and_keeps_shape_and_type(
    phi: Activation, dtype: torch.dtype
) -> None:
    z = torch.linspace(-3, 3, 12, dtype=dtype).reshape(3, 4)
    assert torch.equal(phi.function(z), phi.module()(z))
    slope = phi.slope(z)
    assert (slope.shape, slope.dtype) == (z.shape, dtype)
    torch.testing.assert_close(slope.double(), phi.slope(z.double()), rtol=1e-5, atol=1e-6)


@pytest.mark.breaks(
    "companion/activations/functions.py",
    "return phi.function(z) - by",
    "return phi.function(z - by)",
)
def test_shifting_takes_a_constant_off_and_nothing_else() -> None:
    centred = activations.shifted("sigmoid", 0.5)
    z = torch.linspace(-4, 4, 9, dtype=torch.float64)
    # σ(z) - 1/2 is tanh(z/2)/2.
    torch.testing.assert_close(centred.function(z), torch.tanh(z / 2) / 2)
    assert activations.gaussian_moments(centred, 3.0).mean == pytest.approx(0, abs=1e-12)
    assert centred.name != "sigmoid"
    assert "0.5" in repr(centred.module())
    assert repr(centred.module()) != repr(activations.shifted("sigmoid", 0.25).module())
    with pytest.raises(TypeError, match="by must be a number, got '1'"):
        activations.shifted("sigmoid", "1")


EXACT: dict[str, Callable] = {
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
    "tanh": mpmath.tanh,
    "elu": lambda z: z if z > 0 else mpmath.expm1(z),
    "gelu": lambda z: z * mpmath.ncdf(z),
    "silu": lambda z: z / (1 + mpmath.exp(-z)),
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "mish": lambda z: z * mpmath.tanh(mpmath.log1p(mpmath.exp(z))),
}


@pytest.mark.breaks(
    "companion/activations/functions.py",
    "return torch.sigmoid(z) * torch.sigmoid(-z)",
    "return torch.sigmoid(z) * (1 - torch.sigmoid(z))",
)
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("at", [-300.0, -30.0, -20.0, -6.0, -0.3, 0.1, 2.0, 12.0, 25.0, 300.0])
def test_slopes_have_all_their_digits(name: str, at: float) -> None:
    with mpmath.workdps(400):
        value = float(EXACT[name](mpmath.mpf(at)))
        slope = float(mpmath.diff(EXACT[name], mpmath.mpf(at)))
    z = torch.tensor(at, dtype=torch.float64)
    assert ACTIVATIONS[name].slope(z).item() == pytest.approx(slope, rel=1e-12, abs=1e-300)
    # Not every tail of torch's own functions keeps its relative accuracy.
    assert ACTIVATIONS[name].function(z).item() == pytest.approx(value, rel=1e-13, abs=1e-14)


@EACH
def test_the_largest_slope_is_the_supremum(phi: Activation) -> None:
    z = torch.arange(-500_000, 500_001, dtype=torch.float64) / 100_000
    slopes = phi.slope(torch.cat([z, torch.tensor([1e3, -1e3])])).abs()
    # A grid of 1e-5 misses a smooth maximum by about its square.
    assert slopes.max().item() == pytest.approx(phi.largest_slope, rel=1e-9)
    assert slopes.max().item() <= phi.largest_slope * (1 + 1e-15)


@EACH
def test_the_slope_jumps_at_the_kinks_and_nowhere_else(phi: Activation) -> None:
    z = torch.arange(-640, 641, dtype=torch.float64) / 64
    jump = (phi.slope(z + 1e-9) - phi.slope(z - 1e-9)).abs()
    assert z[jump > 1e-6].tolist() == list(phi.kinks)


def test_selu_has_its_constants_in_closed_form() -> None:
    # Klambauer et al. (2017): the α and λ that put the fixed point at mean 0 and variance 1.
    with mpmath.workdps(40):
        e, root, erfc = mpmath.e, mpmath.sqrt, mpmath.erfc
        one, two, pi = erfc(1 / root(2)), erfc(root(2)), mpmath.pi
        alpha = -root(2 / pi) / (one * root(e) - 1)
        inside = 2 * two * e**2 + pi * one**2 * e - 2 * (2 + pi) * one * root(e) + pi + 2
        scale = (1 - one * root(e)) * root(2 * pi) / root(inside)
    assert float(alpha) == pytest.approx(activations.SELU_ALPHA, rel=1e-15)
    assert float(scale) == pytest.approx(activations.SELU_SCALE, rel=1e-15)


@pytest.mark.breaks("companion/activations/functions.py", "(z > 0).to", "(z >= 0).to")
@pytest.mark.parametrize(
    ("name", "at", "value", "slope"),
    [
        ("identity", -2.0, -2.0, 1.0),
        ("relu", -2.0, 0.0, 0.0),
        ("relu", 0.0, 0.0, 0.0),  # torch's choice at the kink
        ("relu", 2.0, 2.0, 1.0),
        ("sigmoid", 0.0, 0.5, 0.25),
        ("sigmoid", math.log(3), 0.75, 0.1875),
        ("tanh", 0.0, 0.0, 1.0),
        ("tanh", math.log(2), 0.6, 0.64),
        ("leaky_relu", -2.0, -0.02, 0.01),
        ("leaky_relu", 0.0, 0.0, 0.01),
        ("prelu", -2.0, -0.5, 0.25),
        ("elu", -math.log(2), -0.5, 0.5),
        ("softplus", 0.0, math.log(2), 0.5),
        ("silu", 0.0, 0.0, 0.5),
        ("gelu", 0.0, 0.0, 0.5),
        ("mish", 0.0, 0.0, 0.6),
    ],
)
def test_closed_forms(name: str, at: float, value: float, slope: float) -> None:
    z = torch.tensor(at, dtype=torch.float64)
    assert ACTIVATIONS[name].function(z).item() == pytest.approx(value, rel=1e-14)
    assert ACTIVATIONS[name].slope(z).item() == pytest.approx(slope, rel=1e-14)


def test_get_takes_a_name_or_an_activation() -> None:
    assert activations.get("tanh") is ACTIVATIONS["tanh"]
    assert activations.get(ACTIVATIONS["relu"]) is ACTIVATIONS["relu"]


@pytest.mark.parametrize("name", ["Tanh", "", 3, None, ["tanh"]])
def test_unknown_names_are_refused_with_the_known_ones(name: object) -> None:
    with pytest.raises(ValueError, match=r"activation must be one of .*'relu', .*'tanh'\], got"):
        activations.get(name)


def test_prelu_learns_its_slope_in_a_network_of_any_type() -> None:
    for dtype in (torch.float32, torch.float64):
        network = backprop.random_mlp([3, 4, 2], "prelu", dtype=dtype)
        (model,) = backprop.to_modules(network)
        model(torch.ones(5, 3, dtype=dtype)).sum().backward()
        assert isinstance(model[1], nn.PReLU)
        assert model[1].weight.grad is not None


# ---------------------------------------------------------------- means over normal inputs

VARIANCE = st.floats(0, 1e12) | st.floats(0, 10) | st.just(1e-300)


@reproducible
@given(variance=VARIANCE, mean=st.floats(-1e3, 1e3), a=st.floats(-2, 2))
def test_moments_of_piecewise_linear_units(variance: float, mean: float, a: float) -> None:
    phi = activations.leaky_relu(a)
    found = activations.gaussian_moments(phi, variance, mean)
    s = math.sqrt(variance)
    if s == 0:
        z = torch.tensor(mean, dtype=torch.float64)
        assert found[:2] == (phi.function(z).item(), phi.function(z).item() ** 2)
        assert found[2:] == (phi.slope(z).item(), phi.slope(z).item() ** 2)
        return
    above, density = _normal(mean / s)
    first, second = mean * above + s * density, (mean**2 + variance) * above + mean * s * density
    close = {"rel": 1e-11, "abs": 1e-12 * (1 + s + abs(mean))}
    assert found.mean == pytest.approx(first + a * (mean - first), **close)
    close["abs"] **= 2
    square = second + a**2 * (mean**2 + variance - second)
    assert found.mean_square == pytest.approx(square, rel=1e-9, abs=close["abs"])
    assert found.slope_mean == pytest.approx(above + a * (1 - above), abs=1e-12)
    assert found.slope_mean_square == pytest.approx(above + a**2 * (1 - above), abs=1e-12)


def _normal(x: float) -> tuple[float, float]:
    return math.erfc(-x / math.sqrt(2)) / 2, math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


@EACH
@pytest.mark.parametrize(("variance", "mean"), [(0.5, -1.7), (1e4, 0.0), (1e6, 20.0)])
def test_moments_against_another_quadrature(phi: Activation, variance: float, mean: float) -> None:
    s = math.sqrt(variance)

    def by_quadpack(power: int, of: Callable[[Tensor], Tensor]) -> float:
        def integrand(z: float) -> float:
            value = of(torch.tensor(z, dtype=torch.float64)).item() ** power
            return value * _normal((z - mean) / s)[1] / s

        ends = [mean - 12 * s, *(p for p in (-30.0, -2.0, 0.0, 2.0, 30.0)), mean + 12 * s]
        ends = sorted({min(max(end, ends[0]), ends[-1]) for end in ends} | {mean})
        return sum(integrate.quad(integrand, *p, epsabs=0, epsrel=1e-10)[0] for p in pairwise(ends))

    found = activations.gaussian_moments(phi, variance, mean)
    assert found.mean_square == pytest.approx(by_quadpack(2, phi.function), rel=1e-9)
    assert found.slope_mean_square == pytest.approx(by_quadpack(2, phi.slope), rel=1e-9)
    size = math.sqrt(found.mean_square)
    assert found.mean == pytest.approx(by_quadpack(1, phi.function), rel=1e-9, abs=1e-9 * size)
    size = math.sqrt(found.slope_mean_square)
    assert found.slope_mean == pytest.approx(by_quadpack(1, phi.slope), rel=1e-9, abs=1e-9 * size)


@pytest.mark.parametrize("variance", [1e-8, 1.0, 1e4, 1e8, 1e14])
def test_moments_in_closed_form_at_any_variance(variance: float) -> None:
    gelu = activations.gaussian_moments("gelu", variance)
    assert gelu.mean == pytest.approx(variance / math.sqrt(2 * math.pi * (1 + variance)), rel=1e-11)
    assert gelu.slope_mean == pytest.approx(0.5, rel=1e-12)
    sigmoid = activations.gaussian_moments("sigmoid", variance)
    assert sigmoid.mean == pytest.approx(0.5, rel=1e-12)
    if variance > 1e6:  # ∫σ′² = 1/6 and ∫tanh′² = 4/3, in a density that is flat there
        flat = 1 / math.sqrt(2 * math.pi * variance)
        assert sigmoid.slope_mean_square == pytest.approx(flat / 6, rel=1e-6)
        tanh = activations.gaussian_moments("tanh", variance)
        assert tanh.slope_mean_square == pytest.approx(flat * 4 / 3, rel=1e-6)
        assert tanh.mean_square == pytest.approx(1 - 2 * flat, rel=1e-9)


# ---------------------------------------------------------------- saturation

HALF_WIDTH = math.acosh(1 / math.sqrt(0.05))


@pytest.mark.parametrize(
    ("phi", "expected"),
    [
        ("identity", (None, None)),
        ("relu", (0.0, None)),
        ("leaky_relu", (0.0, None)),
        (activations.leaky_relu(0.25), (None, None)),
        ("tanh", (-HALF_WIDTH, HALF_WIDTH)),
        ("sigmoid", (-2 * HALF_WIDTH, 2 * HALF_WIDTH)),
        ("elu", (math.log(0.05), None)),
        ("selu", (math.log(0.05), None)),
        ("softplus", (math.log(0.05 / 0.95), None)),
    ],
)
def test_saturation_in_closed_form(phi: str | Activation, expected: tuple) -> None:
    assert activations.saturation_bounds(phi) == tuple(
        None if bound is None else pytest.approx(bound, rel=1e-12) for bound in expected
    )


@EACH
@pytest.mark.parametrize("share", [1e-6, 0.02, 0.12, 0.3])
def test_beyond_its_bounds_the_slope_stays_small(phi: Activation, share: float) -> None:
    below, above = activations.saturation_bounds(phi, share)
    small = share * phi.largest_slope
    for bound, side in ((below, -1), (above, 1)):
        if bound is None:
            # As far out as one looks, the slope is not small.
            assert phi.slope(torch.tensor(100.0 * side, dtype=torch.float64)).abs() >= small
            continue
        away = torch.linspace(0, 60, 5000, dtype=torch.float64)
        assert (phi.slope(bound + side * away).abs() <= small * (1 + 1e-9)).all()
        inside = torch.tensor(bound - side * 1e-6, dtype=torch.float64)
        assert phi.slope(inside).abs() >= small


def test_a_slope_that_passes_through_zero_does_not_saturate_there() -> None:
    z = torch.tensor([[-0.7517916]], dtype=torch.float64)
    assert ACTIVATIONS["gelu"].slope(z).abs() < 1e-6
    assert not activations.saturated(z, "gelu")


Z = torch.tensor([[[-3.0, -3.0, 0.0, -1.0], [-4.0, 3.0, -0.1, 5.0]], [[-1.0, 1.0, 1.0, -9.0]] * 2])


@pytest.mark.breaks(
    "companion/activations/units.py",
    "_pre_activations(z)) == 0).all(-2)",
    "_pre_activations(z)) == 0).any(-2)",
)
def test_units_are_counted_over_the_examples() -> None:
    expected = [[True, False, True, False], [True, False, False, True]]
    assert activations.dead(Z, "relu").tolist() == expected
    # Half of the outputs of these units are zero and none is dead.
    assert not activations.dead(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), "relu").any()
    assert not activations.dead(Z, "leaky_relu").any()
    assert activations.saturated(Z, "tanh").tolist() == [
        [True, True, False, False],
        [False] * 3 + [True],
    ]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 0.9, 1.0])
def test_a_share_of_the_examples_is_enough_if_asked_for(share: float) -> None:
    z = torch.full((10, 11), -5.0)
    for unit in range(11):
        z[:unit, unit] = 0.0  # saturated on 10 - unit examples
    assert activations.saturated(z, "tanh", input_share=share).sum() == 11 - round(10 * share)


def test_a_layer_without_units_has_none_dead() -> None:
    assert activations.dead(torch.zeros(3, 0), "relu").shape == (0,)
    assert activations.Units(torch.zeros(0, dtype=torch.bool)).share == 0


# ---------------------------------------------------------------- units of a module


class Reuse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(4, 6), nn.Linear(6, 3), nn.ReLU(inplace=True)
        self.unused = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.second(self.act(self.first(x))))


def test_units_of_a_module_are_those_of_its_pre_activations() -> None:
    torch.manual_seed(0)
    model, x = Reuse().double(), normal(5, 4)
    found = activations.dead_units(model, x)
    assert list(found) == ["act", "act:2"]
    z1 = model.first(x)
    z2 = model.second(torch.relu(z1))
    for z, units in zip((z1, z2), found.values(), strict=True):
        assert torch.equal(units.mask, (z <= 0).all(0))
        assert (units.total, units.count) == (z.shape[1], int((z <= 0).all(0).sum()))
    assert 0 < found["act:2"].share < 1, "some are dead and some are not"


def test_module_and_stacked_networks_agree() -> None:
    network = backprop.random_mlp([4, 5, 6, 3], "relu", seeds=3)
    x = normal(3, 4)
    cache = backprop.forward(network, x)
    stacked = [activations.dead(z, network.activation) for z in cache.z[:-1]]
    for seed, model in enumerate(backprop.to_modules(network)):
        found = activations.dead_units(model, x)
        for layer, units in zip(stacked, found.values(), strict=True):
            assert torch.equal(layer[seed], units.mask)


CONV = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2), nn.Sigmoid())


@pytest.mark.breaks(
    "companion/activations/units.py",
    "z.movedim(1, -1)).flatten(0, -2)",
    "z.flatten(1)).flatten(0, -2)",
)
def test_a_channel_is_one_unit() -> None:
    with torch.no_grad():
        CONV[0].weight.copy_(torch.tensor([1.0, -1.0, 1.0]).reshape(3, 1, 1, 1))
        CONV[0].bias.copy_(torch.tensor([0.0, 0.0, -9.0]))
    x = torch.ones(2, 1, 2, 2)
    found = activations.dead_units(CONV, x)
    assert found["1"].mask.tolist() == [False, True, True]
    x[1, 0, 1, 1] = -1.0  # one position of one example
    assert activations.dead_units(CONV, x)["1"].mask.tolist() == [False, False, True]
    assert found["4"].total == 2


@pytest.mark.parametrize(
    ("layers", "shape", "units"),
    [
        ([nn.Linear(4, 6), nn.ReLU()], (2, 5, 4), 6),
        ([nn.LayerNorm(4), nn.ReLU()], (2, 5, 4), 4),
        ([nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.ReLU()], (2, 4, 5), 6),
        ([nn.GroupNorm(2, 4), nn.ReLU()], (2, 4, 5), 4),
        ([nn.Conv1d(4, 6, 1), nn.PReLU(6)], (2, 4, 5), 6),
        ([nn.Linear(4, 6), nn.PReLU(5)], (2, 5, 4), 5),  # torch's channels, whatever came before
        ([nn.ReLU6()], (2, 4, 5), 4),
    ],
)
def test_units_are_found_where_the_layer_before_has_them(
    layers: list[nn.Module], shape: tuple[int, ...], units: int
) -> None:
    (found,) = activations.dead_units(nn.Sequential(*layers), torch.ones(shape)).values()
    assert found.total == units


@pytest.mark.breaks(
    "companion/activations/units.py",
    "buffers = {name: buffer.clone() for",
    "buffers = {name: buffer for",
)
@pytest.mark.parametrize("mode", [True, False])
def test_looking_changes_nothing(mode: bool) -> None:
    layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Dropout(), nn.Tanh()]
    model = nn.Sequential(*layers).train(mode)
    x = torch.ones(5, 4) * torch.arange(5.0)[:, None]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random, inputs = torch.get_rng_state(), x.clone()
    activations.dead_units(model, x)
    activations.saturated_units(model, x)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, inputs)
    assert model.training is mode
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_hooks_are_removed_when_the_model_raises() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(7, 2))
    with pytest.raises(RuntimeError):
        activations.dead_units(model, torch.ones(3, 4))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_modules_outside_the_table_are_read_by_what_they_do() -> None:
    z = torch.tensor([[-2.0, 0.5, 7.0, -2.0], [-3.0, 0.1, 8.0, 8.0]])
    assert activations.dead_units(nn.ReLU6(), z)[""].mask.tolist() == [True, False, True, True]
    bounded = activations.saturated_units(nn.Hardtanh(-0.2, 0.2, inplace=True), z)
    assert bounded[""].mask.tolist() == [True, False, True, True]
    for phi in (*ACTIVATIONS.values(), *MADE):
        z = torch.linspace(-9, 9, 721, dtype=torch.float64).reshape(1, -1)
        if isinstance(phi.module(), nn.Identity):
            continue
        found = activations.saturated_units(phi.module(), z)[""].mask
        assert torch.equal(found, activations.saturated(z, phi)), phi.name


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


NAN = torch.tensor([[1.0, math.nan]])
TWO = nn.Sequential(nn.PReLU(2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: activations.dead(NAN, "relu"), ValueError, "z has NaN"),
        (
            lambda: activations.dead(torch.ones(3), "relu"),
            ValueError,
            r"examples, units\), got \(3",
        ),
        (lambda: activations.dead(torch.ones(0, 3), "relu"), ValueError, "at least one example"),
        (lambda: activations.dead(torch.ones(2, 3).int(), "relu"), TypeError, "z must be a float"),
        (
            lambda: activations.leaky_relu(math.nan),
            ValueError,
            "negative_slope must be finite, got",
        ),
        (lambda: activations.leaky_relu("0.1"), TypeError, "negative_slope must be a number, got"),
        (lambda: activations.elu(-1), ValueError, "alpha must be finite and at least 0, got -1"),
        (lambda: ACTIVATIONS["prelu"].slope(torch.ones(2).int()), TypeError, "z must be a float"),
        (lambda: activations.saturation_bounds("tanh", 0), ValueError, "slope_share must be above"),
        (lambda: activations.saturated(Z, "tanh", input_share=1.5), ValueError, "input_share must"),
        (lambda: activations.gaussian_moments("tanh", -1), ValueError, "variance must be finite"),
        (lambda: activations.gaussian_moments("tanh", 1, math.inf), ValueError, "mean must be fin"),
        (lambda: activations.dead_units(Functional(), Z[0]), ValueError, "no activation module"),
        (lambda: activations.dead_units(TANH_NETWORK, Z[0]), TypeError, "an nn.Module, got MLP"),
        (lambda: activations.dead_units(nn.ReLU(), [1.0]), TypeError, "inputs must be a tensor"),
        (lambda: activations.dead_units(nn.ReLU(), torch.ones(3)), ValueError, "first dimension"),
        (lambda: activations.dead_units(nn.ReLU(), NAN), ValueError, "z has NaN"),
        (lambda: activations.saturated_units(TWO, NAN * 0 + 1), ValueError, "z has NaN"),
        (lambda: activations.saturated_units(TWO, torch.ones(1, 2)), ValueError, "each channel"),
        (lambda: activations.born_dead_probability(0, 3), ValueError, "width must be at least 1"),
        (lambda: activations.born_dead(3, 2, seeds=0), ValueError, "seeds must be at least"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


TANH_NETWORK = backprop.random_mlp([4, 2], "tanh")


def test_an_activation_must_state_its_largest_slope_to_saturate() -> None:
    phi = Activation("mine", torch.tanh, torch.ones_like, nn.Tanh)
    with pytest.raises(ValueError, match="'mine' does not state its largest_slope"):
        activations.saturation_bounds(phi)


# ---------------------------------------------------------------- born dead


def test_a_dead_network_stays_dead_and_more_inputs_make_it_rarer() -> None:
    dead = activations.born_dead(2, 12, seeds=3000)
    assert dead.shape == (3000, 12)
    assert (dead[:, 1:] >= dead[:, :-1]).all()
    more = activations.born_dead(2, 12, seeds=3000, examples=5).double().mean(0)
    assert (more < dead.double().mean(0)).all()


@reproducible
@given(width=st.integers(1, 200), depth=st.integers(1, 200))
def test_the_probability_is_that_of_a_layer_all_off(width: int, depth: int) -> None:
    with mpmath.workdps(80):
        exact = 1 - (1 - mpmath.mpf(2) ** -width) ** depth
    assert activations.born_dead_probability(width, depth) == pytest.approx(float(exact), rel=1e-12)
