"""Initializers against torch's, on rectangular weights, where fan_in is not fan_out."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers import reproducible
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from companion import activations, initialization
from companion.initialization import SCHEMES, TRUNCATED_VARIANCE, Drawn, Scheme, initialize


def truncated(power: int) -> float:
    """E[x^power] of a unit normal cut at ±2, integrating by parts."""
    if power == 0:
        return 1.0
    edge = 2.0 ** (power - 1) * 2 * math.exp(-2) / math.sqrt(2 * math.pi)
    return (power - 1) * truncated(power - 2) - edge / math.erf(math.sqrt(2))


# E[x⁴] and E[x⁸] at variance 1.
STANDARDIZED = {
    "normal": (3.0, 105.0),
    "uniform": (1.8, 9.0),
    "truncated_normal": (truncated(4) / truncated(2) ** 2, truncated(8) / truncated(2) ** 4),
}
SHAPES = [(30, 50), (50, 30), (8, 3, 5, 5), (1, 4, 2)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.breaks(
    "companion/initialization.py",
    "fan_in, fan_out = tensor.shape[1] * field, tensor.shape[0] * field",
    "fan_in, fan_out = tensor.shape[0] * field, tensor.shape[1] * field",
)
@reproducible
@given(shape=st.lists(st.integers(1, 6), min_size=2, max_size=5))
def test_fans_are_torchs(shape: list[int]) -> None:
    tensor = torch.empty(shape)
    assert initialization.fans(tensor) == nn.init._calculate_fan_in_and_fan_out(tensor)


@pytest.mark.breaks("companion/initialization.py", "(into + out) / 2", "into + out")
@reproducible
@given(scale=st.floats(0, 1e3), fan_in=st.integers(1, 99), fan_out=st.integers(1, 99))
def test_variance_is_scale_over_the_fan_named(scale: float, fan_in: int, fan_out: int) -> None:
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    for mode, size in fan.items():
        found = initialization.variance(scale, mode, fan_in, fan_out)
        assert found == pytest.approx(scale / size, rel=1e-14)


@pytest.mark.breaks("companion/initialization.py", "bound = math.sqrt(3) * size", "bound = size")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        (lambda w, g: nn.init.xavier_normal_(w, generator=g), {"scale": 1.0, "mode": "fan_avg"}),
        (
            lambda w, g: nn.init.xavier_uniform_(w, generator=g),
            {"scale": 1.0, "mode": "fan_avg", "distribution": "uniform"},
        ),
        (
            lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g),
            {"scale": 2.0},
        ),
        (
            lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="linear", generator=g),
            {},
        ),
        (
            lambda w, g: nn.init.kaiming_uniform_(
                w, mode="fan_out", nonlinearity="relu", generator=g
            ),
            {"scale": 2.0, "mode": "fan_out", "distribution": "uniform"},
        ),
        (
            # How nn.Linear and the convolutions draw their weights by default.
            lambda w, g: nn.init.kaiming_uniform_(w, a=math.sqrt(5), generator=g),
            {"scale": 1 / 3, "distribution": "uniform"},
        ),
    ],
)
def test_named_schemes_are_torchs(
    shape: tuple[int, ...], scheme: Callable[[Tensor, torch.Generator], Tensor], options: dict
) -> None:
    expected = scheme(torch.empty(shape, dtype=torch.float64), generator())
    weight = torch.empty(shape, dtype=torch.float64)
    found = initialization.variance_scaling_(weight, **options, generator=generator())
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.breaks(
    "companion/initialization.py",
    "std = math.sqrt(variance(scale, mode, fan_in, fan_out))",
    "std = variance(scale, mode, fan_in, fan_out)",
)
@pytest.mark.breaks(
    "companion/initialization.py", "wide = size / math.sqrt(TRUNCATED_VARIANCE)", "wide = size"
)
@pytest.mark.parametrize("mode", initialization.MODES)
@pytest.mark.parametrize("distribution", initialization.DISTRIBUTIONS)
def test_samples_have_the_variance_stated(mode: str, distribution: str) -> None:
    weight = initialization.variance_scaling_(
        torch.empty(200, 800, dtype=torch.float64),
        scale=1.7,
        mode=mode,
        distribution=distribution,
        generator=generator(),
    )
    expected = 1.7 / {"fan_in": 800, "fan_out": 200, "fan_avg": 500}[mode]
    kurtosis, eighth = STANDARDIZED[distribution]
    # The standard error of a mean square of N draws is √((kurtosis - 1) / N) of it.
    error = math.sqrt((kurtosis - 1) / weight.numel())
    assert weight.square().mean().item() / expected == pytest.approx(1, abs=4 * error)
    assert abs(weight.mean().item()) < 4 * math.sqrt(expected / weight.numel())
    fourth = (weight**4).mean().item() / expected**2
    # Four standard errors of the fourth moment.
    spread = math.sqrt(eighth - kurtosis**2)
    assert fourth == pytest.approx(kurtosis, abs=4 * spread / math.sqrt(weight.numel()))


def test_a_uniform_weight_stays_inside_its_bound() -> None:
    weight = torch.empty(100, 300, dtype=torch.float64)
    initialization.variance_scaling_(weight, scale=2.0, distribution="uniform")
    bound = math.sqrt(3 * 2.0 / 300)
    # That all of N draws stay below (1 - x) of the bound has probability exp(-Nx).
    assert (1 - 20 / weight.numel()) * bound < weight.abs().max().item() <= bound


def test_fills_a_parameter_in_place_from_its_own_generator() -> None:
    parameter, before = nn.Parameter(torch.zeros(3, 4)), torch.random.get_rng_state()
    assert initialization.variance_scaling_(parameter, generator=generator()) is parameter
    assert parameter.is_leaf
    assert parameter.requires_grad
    assert (parameter != 0).all()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_scale_zero_gives_zeros() -> None:
    assert (initialization.variance_scaling_(torch.ones(2, 3), scale=0.0) == 0).all()


@pytest.mark.parametrize(
    ("shape", "options", "error", "message"),
    [
        ((3,), {}, ValueError, r"at least 2 dimensions \(out, in\), got \(3,\)"),
        ((0, 3), {}, ValueError, r"fans of at least 1, got shape \(0, 3\)"),
        ((3, 2, 0), {}, ValueError, "fans of at least 1"),
        ((3, 2), {"mode": "fan"}, ValueError, "mode must be one of .*'fan_avg'.*got 'fan'"),
        ((3, 2), {"distribution": "he"}, ValueError, "distribution must be one of .*got 'he'"),
        ((3, 2), {"scale": -1.0}, ValueError, "scale must be finite and at least 0, got -1.0"),
        ((3, 2), {"scale": math.nan}, ValueError, "scale must be finite"),
        ((3, 2), {"scale": "2"}, TypeError, "scale must be a number, got '2'"),
        ((3, 2), {"scale": True}, TypeError, "scale must be a number, got True"),
    ],
)
def test_bad_input_is_named(
    shape: tuple[int, ...], options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        initialization.variance_scaling_(torch.empty(shape), **options)


def test_only_floating_point_tensors_are_filled() -> None:
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.int64"):
        initialization.variance_scaling_(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="tensor must be a tensor, got list"):
        initialization.variance_scaling_([[1.0]])


def draw(scheme: str | Scheme, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    tensor = torch.empty(*shape, dtype=dtype)
    return initialization.get(scheme).fill_(tensor, generator=generator())


def test_the_cut_normal_keeps_what_is_known() -> None:
    # 1 - 2aφ(a)/(2Φ(a) - 1) at a = 2, to the digits that are in print.
    assert pytest.approx(0.7737, abs=5e-5) == TRUNCATED_VARIANCE
    assert pytest.approx(truncated(2), rel=1e-14) == TRUNCATED_VARIANCE


def test_a_cut_normal_is_corrected_and_stays_inside_its_cut() -> None:
    scheme = Scheme("cut", 1.0, "fan_in", "truncated_normal")
    weight = draw(scheme, 300, 400) * 20
    cut = 2 / math.sqrt(TRUNCATED_VARIANCE)
    # Density at the cut 0.0497 a unit of length: the last 1e-3 holds 12 of these 120,000 draws.
    assert cut * (1 - 1e-3) < weight.abs().max().item() <= cut * (1 + 1e-12)


@pytest.mark.breaks(
    "companion/initialization.py",
    "drawn = torch.zeros(tensor.shape, dtype=dtype,",
    "drawn = torch.zeros(tensor.shape, dtype=tensor.dtype,",
)
@pytest.mark.parametrize("distribution", initialization.DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_the_same_draw_rounded(distribution: str, dtype: torch.dtype) -> None:
    found, single = (
        initialization.variance_scaling_(
            torch.empty(40, 60, dtype=kind), distribution=distribution, generator=generator()
        )
        for kind in (dtype, torch.float32)
    )
    assert found.dtype == dtype
    assert torch.equal(found, single.to(dtype))


@pytest.mark.parametrize("distribution", initialization.DISTRIBUTIONS)
@pytest.mark.parametrize("scale", [0.0, 1e-300, 5e-324])
def test_tiny_scales_give_tiny_numbers(distribution: str, scale: float) -> None:
    for dtype in (torch.float32, torch.float64):
        weight = torch.ones(3, 4, dtype=dtype)
        initialization.variance_scaling_(weight, scale=scale, distribution=distribution)
        assert weight.abs().max().item() <= 8 * math.sqrt(scale)


@pytest.mark.parametrize("distribution", initialization.DISTRIBUTIONS)
def test_numbers_too_large_for_the_type_are_refused(distribution: str) -> None:
    weight = torch.ones(2, 3, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"deviation of 5.77e\+04 is too large for torch.float16"):
        initialization.variance_scaling_(weight, scale=1e10, distribution=distribution)
    assert (weight == 1).all()


# ---------------------------------------------------------------- the named schemes


@pytest.mark.breaks(
    "companion/initialization.py",
    'Scheme("he_normal",      2.0,     "fan_in", ',
    'Scheme("he_normal",      2.0,     "fan_out",',
)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("scheme", "torchs"),
    [
        ("lecun_normal", lambda w, g: nn.init.kaiming_normal_(w, 0, "fan_in", "linear", g)),
        ("lecun_uniform", lambda w, g: nn.init.kaiming_uniform_(w, 0, "fan_in", "linear", g)),
        ("glorot_normal", lambda w, g: nn.init.xavier_normal_(w, generator=g)),
        ("glorot_uniform", lambda w, g: nn.init.xavier_uniform_(w, generator=g)),
        ("he_normal", lambda w, g: nn.init.kaiming_normal_(w, 0, "fan_in", "relu", g)),
        ("he_uniform", lambda w, g: nn.init.kaiming_uniform_(w, 0, "fan_in", "relu", g)),
        ("he_normal_out", lambda w, g: nn.init.kaiming_normal_(w, 0, "fan_out", "relu", g)),
        ("he_uniform_out", lambda w, g: nn.init.kaiming_uniform_(w, 0, "fan_out", "relu", g)),
        ("orthogonal", lambda w, g: nn.init.orthogonal_(w, generator=g)),
        ("torch_default", lambda w, g: nn.init.kaiming_uniform_(w, math.sqrt(5), generator=g)),
        ("gpt2", lambda w, g: nn.init.normal_(w, 0, 0.02, g)),
    ],
)
def test_each_scheme_of_the_table_is_torchs(
    shape: tuple[int, ...], scheme: str, torchs: Callable[[Tensor, torch.Generator], Tensor]
) -> None:
    expected = torchs(torch.empty(shape, dtype=torch.float64), generator())
    torch.testing.assert_close(draw(scheme, *shape), expected, rtol=1e-13, atol=1e-14)


def test_every_scheme_is_tested_above() -> None:
    marks = test_each_scheme_of_the_table_is_torchs.pytestmark
    rows = next(mark.args[1] for mark in marks if mark.args[0] == ("scheme", "torchs"))
    assert {row[0] for row in rows} == set(SCHEMES)


def leaky(slope: float) -> activations.Activation:
    return activations.Activation(
        "leaky", lambda z: torch.where(z > 0, z, slope * z), torch.ones_like, nn.LeakyReLU
    )


@pytest.mark.breaks(
    "companion/initialization.py",
    "factor *= rectifier_scale(activation) / rectifier_scale(scheme.made_for)",
    "factor *= rectifier_scale(activation)",
)
@pytest.mark.breaks(
    "companion/initialization.py",
    "return 2 / ends.square().sum().item()",
    "return 2 / ends.abs().sum().item() ** 2",
)
@reproducible
@given(slope=st.floats(-2, 2))
def test_rectifiers_are_rescaled_by_torchs_gain(slope: float) -> None:
    gain = nn.init.calculate_gain("leaky_relu", slope)
    assert initialization.rectifier_scale(leaky(slope)) == pytest.approx(gain**2, rel=1e-12)
    for name in ("he_normal", "he_uniform_out", "orthogonal"):
        found = initialization.get(name, leaky(slope))
        assert found.scale == pytest.approx(gain**2, rel=1e-12)
        # Rescaling once more for the same activation changes nothing.
        assert initialization.get(found, leaky(slope)).scale == pytest.approx(found.scale)
    for name in ("glorot_normal", "lecun_normal", "torch_default", "gpt2"):
        assert initialization.get(name, leaky(slope)) == SCHEMES[name]


@pytest.mark.breaks(
    "companion/initialization.py",
    'factor = non_negative("gain", gain) ** 2',
    'factor = non_negative("gain", gain)',
)
def test_gain_multiplies_the_standard_deviation() -> None:
    for name in SCHEMES:
        doubled = draw(initialization.get(name, gain=2.0), 5, 8)
        torch.testing.assert_close(doubled, 2 * draw(name, 5, 8), rtol=1e-13, atol=1e-15)
    assert (draw(initialization.get("orthogonal", gain=0.0), 3, 4) == 0).all()


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
def test_entries_have_the_variance_that_a_scheme_says(shape: tuple[int, int]) -> None:
    for name, scheme in SCHEMES.items():
        weights = torch.stack(
            [scheme.fill_(torch.empty(shape).double(), generator=g) for g in [generator()] * 1500]
        )
        each = weights.square().mean((1, 2))
        expected = scheme.variance(fan_in=shape[1], fan_out=shape[0])
        # Four standard errors; an orthogonal matrix has exactly this mean square, to rounding.
        error = 4 * each.std().item() / math.sqrt(len(each)) + 1e-14
        assert abs(each.mean().item() - expected) < error, name


@pytest.mark.breaks(
    "companion/initialization.py",
    "size = self.scale if orthogonal else",
    "size = self.scale**2 if orthogonal else",
)
@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 2, 3)])
def test_orthogonal_means_rows_or_columns(shape: tuple[int, ...]) -> None:
    matrix = draw(initialization.get("orthogonal", gain=1.5), *shape).flatten(1)
    product = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    torch.testing.assert_close(product, 2.25 * torch.eye(len(product), dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: initialization.get("he"), "scheme must be one of .*'he_normal'.*got 'he'"),
        (lambda: initialization.get("he_normal", gain=-1.0), "gain must be finite and at least 0"),
        (lambda: initialization.get("he_normal", gain=math.nan), "gain must be finite"),
        (lambda: initialization.get("he_normal", "swiss"), "activation must be one of"),
        (
            lambda: initialization.get("he_normal", "tanh"),
            "must be a rectifier.*got 'tanh': leave it out, or set gain",
        ),
        (lambda: initialization.rectifier_scale("sigmoid"), "must be a rectifier"),
        (lambda: Scheme("x", 1.0, "fan", "normal"), "mode must be one of"),
        (lambda: Scheme("x", 1.0, "fan_in", "cauchy"), "distribution must be one of"),
        (lambda: Scheme("x", -1.0, "fan_in", "normal"), "scale must be finite"),
        (lambda: Scheme("x", 1.0, "fan_in", "orthogonal"), "'fan_max' is that of distribution"),
        (lambda: Scheme("x", 1.0, "fan_max", "normal"), "'fan_max' is that of distribution"),
        (lambda: draw("gpt2", 3), "at least 2 dimensions"),
        (lambda: draw("orthogonal", 0, 3), "fans of at least 1"),
    ],
)
def test_a_bad_scheme_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------- whole modules

FAN_IN, FAN_OUT = (Scheme(mode, 1.0, mode, "normal") for mode in ("fan_in", "fan_out"))


def fans_of(module: nn.Module, name: str) -> tuple[int, int]:
    """The fans that initialize() states, and which the stated deviations agree with."""
    found = initialize(module, FAN_IN)[name]
    assert found.std == pytest.approx(found.fans[0] ** -0.5, rel=1e-14)
    backward = initialize(module, FAN_OUT)[name]
    assert backward.std == pytest.approx(found.fans[1] ** -0.5, rel=1e-14)
    return found.fans


@pytest.mark.breaks(
    "companion/initialization.py", "return weight.chunk(module.groups)", "return (weight,)"
)
@pytest.mark.breaks(
    "companion/initialization.py",
    "tuple(group.transpose(0, 1) for group in weight.chunk(module.groups))",
    "tuple(group for group in weight.chunk(module.groups))",
)
@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Linear(6, 4), (6,)),
        (nn.Conv1d(6, 4, 3), (6, 9)),
        (nn.Conv2d(6, 4, 3, groups=2), (6, 9, 9)),
        (nn.Conv2d(4, 8, 1, groups=4), (4, 3, 3)),
        (nn.ConvTranspose1d(6, 4, 3), (6, 9)),
        (nn.ConvTranspose2d(6, 4, 3, groups=2), (6, 9, 9)),
        (nn.ConvTranspose3d(2, 8, (1, 2, 3), groups=2), (2, 7, 7, 7)),
    ],
)
def test_fans_count_the_inputs_of_an_output_and_the_outputs_of_an_input(
    layer: nn.Module, inputs: tuple[int, ...]
) -> None:
    # Of weights that are all one, an entry in the middle of the Jacobian's rows and columns.
    probe = copy.deepcopy(layer).double()
    for parameter in probe.parameters():
        nn.init.ones_(parameter)
    x = torch.zeros(1, *inputs, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(probe, x)
    jacobian = jacobian.reshape(-1, x.numel())
    fan_in, fan_out = jacobian.sum(1).max().item(), jacobian.sum(0).max().item()
    assert fans_of(layer, "weight") == (fan_in, fan_out)


@pytest.mark.breaks(
    "companion/initialization.py",
    "return weight.chunk(next(n for kind, n in GATES.items() if isinstance(module, kind)))",
    "return (weight,)",
)
@pytest.mark.breaks("companion/initialization.py", "return weight.chunk(3)", "return (weight,)")
@pytest.mark.parametrize(
    ("module", "name", "blocks", "fans"),
    [
        (nn.RNN(7, 5), "weight_ih_l0", 1, (7, 5)),
        (nn.LSTM(7, 5), "weight_ih_l0", 4, (7, 5)),
        (nn.LSTM(7, 5), "weight_hh_l0", 4, (5, 5)),
        (nn.LSTM(7, 5, 2, bidirectional=True), "weight_ih_l1_reverse", 4, (10, 5)),
        (nn.LSTM(7, 5, proj_size=3), "weight_hh_l0", 4, (3, 5)),
        (nn.LSTM(7, 5, proj_size=3), "weight_hr_l0", 1, (5, 3)),
        (nn.GRU(7, 5), "weight_ih_l0", 3, (7, 5)),
        (nn.RNNCell(7, 5), "weight_hh", 1, (5, 5)),
        (nn.LSTMCell(7, 5), "weight_ih", 4, (7, 5)),
        (nn.GRUCell(7, 5), "weight_hh", 3, (5, 5)),
        (nn.MultiheadAttention(6, 2), "in_proj_weight", 3, (6, 6)),
        (nn.MultiheadAttention(6, 2), "out_proj.weight", 1, (6, 6)),
        (nn.MultiheadAttention(6, 2, kdim=4, vdim=3), "k_proj_weight", 1, (4, 6)),
        (nn.Conv2d(6, 4, 3, groups=2), "weight", 2, (27, 18)),
        (nn.ConvTranspose2d(6, 4, 3, groups=2), "weight", 2, (27, 18)),
    ],
)
def test_packed_weights_are_drawn_block_by_block(
    module: nn.Module, name: str, blocks: int, fans: tuple[int, int]
) -> None:
    assert fans_of(module, name) == fans
    assert initialize(module, "orthogonal", gain=2.0)[name].blocks == blocks
    weight = dict(module.named_parameters())[name].detach()
    for block in weight.chunk(blocks):
        matrix = block.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else block
        matrix = matrix.flatten(1)
        values = torch.linalg.svdvals(matrix)
        torch.testing.assert_close(values, torch.full_like(values, 2.0))


def test_the_deviation_stated_is_that_of_the_weights() -> None:
    modules = [
        nn.LSTM(40, 80),
        nn.ConvTranspose2d(32, 8, 5, groups=4),
        nn.Conv2d(12, 24, 5, groups=2),
        nn.MultiheadAttention(64, 4),
        nn.Linear(300, 50),
    ]
    for scheme in ("glorot_uniform", "he_normal_out", "orthogonal", "gpt2"):
        for module in modules:
            drawn = initialize(module, scheme, generator=generator())
            for name, parameter in module.named_parameters():
                # The error of N draws' mean square is at most √(2/N), of its root half as much.
                error = 4 / math.sqrt(2 * parameter.numel())
                found = parameter.square().mean().sqrt().item()
                assert found == pytest.approx(drawn[name].std, rel=error, abs=0)


def test_biases_are_zero_or_as_the_scheme_says() -> None:
    model = nn.Sequential(nn.Linear(50, 400), nn.Conv1d(6, 400, 3, groups=2))
    assert initialize(model, "he_normal")["0.bias"] == Drawn("zeros", 0.0)
    assert all((layer.bias == 0).all() for layer in model)
    drawn = initialize(model, "torch_default", generator=generator())
    for layer, fan_in in zip(model, (50, 9), strict=True):
        for parameter in layer.parameters():
            # 400 draws come to a fiftieth of ±1/√fan_in with probability 1 - (1 - 1/50)^400.
            assert 0.98 * fan_in**-0.5 < parameter.abs().max().item() <= fan_in**-0.5
    assert drawn["1.bias"].std == pytest.approx(27**-0.5)


def test_the_default_is_what_torch_draws_itself() -> None:
    torch.manual_seed(3)
    expected = nn.Linear(20, 30, dtype=torch.float64)
    model = nn.Linear(20, 30, dtype=torch.float64)
    initialize(model, "torch_default", generator=generator())
    torch.testing.assert_close(model.weight, expected.weight, rtol=1e-13, atol=0)
    torch.testing.assert_close(model.bias, expected.bias, rtol=1e-13, atol=0)


@pytest.mark.breaks(
    "companion/initialization.py",
    "scheme.scale / max(1, len(ends))",
    "scheme.scale / max(1, len(ends) // 2)",
)
def test_gpt2_shrinks_what_ends_a_residual_branch() -> None:
    blocks = [nn.TransformerEncoderLayer(64, 4, 256) for _ in range(3)]
    model = nn.Sequential(nn.Embedding(50, 64, padding_idx=7), *blocks, nn.Linear(64, 50))
    drawn = initialize(model, "gpt2", residual=["out_proj", "linear2"], generator=generator())
    assert list(drawn) == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        if drawn[name].scheme != "gpt2":
            continue
        small = name.endswith(("out_proj.weight", "linear2.weight"))
        expected = 0.02 / math.sqrt(2 * 3) if small else 0.02
        assert drawn[name].std == pytest.approx(expected, rel=1e-14)
        values = parameter[torch.arange(len(parameter)) != 7] if name == "0.weight" else parameter
        error = 4 / math.sqrt(2 * values.numel())
        assert values.square().mean().sqrt().item() == pytest.approx(expected, rel=error)
    assert (model[0].weight[7] == 0).all()


def test_norms_and_what_is_named_keep_their_parameters() -> None:
    model = nn.Sequential(
        nn.Embedding(9, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.PReLU(), nn.BatchNorm1d(4)
    )
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    drawn = initialize(model, "he_normal", keep=["0", "2.bias"])
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"2.weight"}
    assert {name for name, row in drawn.items() if row == Drawn("kept", None)} == {
        *before
    } - changed


def test_keeping_a_layer_keeps_none_whose_name_begins_alike() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "ab": nn.Linear(2, 2)})
    drawn = initialize(model, "he_normal", keep=["a"])
    assert [row.scheme for row in drawn.values()] == ["kept", "kept", "he_normal", "zeros"]


@pytest.mark.breaks(
    "companion/initialization.py", "if id(parameter) in seen:", "if parameter is None:"
)
def test_a_shared_parameter_is_drawn_once() -> None:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = one.weight
    tied, single = nn.Sequential(one, two, one), nn.Linear(4, 4)
    drawn = initialize(tied, "he_normal", generator=generator())
    initialize(single, "he_normal", generator=generator())
    assert list(drawn) == ["0.weight", "0.bias", "1.bias"]
    assert torch.equal(one.weight, single.weight)


def test_parameters_stay_as_they_were_but_for_their_values() -> None:
    model = nn.Linear(3, 4).half()
    model.weight.requires_grad_(False)
    before, state = model.weight, torch.random.get_rng_state()
    initialize(model, "orthogonal", generator=generator())
    assert model.weight is before
    assert model.weight.is_leaf
    assert not model.weight.requires_grad
    assert model.bias.requires_grad
    assert model.weight.dtype == torch.float16
    assert torch.equal(torch.random.get_rng_state(), state)


class Own(nn.Module):
    """A layer with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))


def whole(numbers: nn.Linear) -> nn.Linear:
    numbers.weight = nn.Parameter(numbers.weight.long(), requires_grad=False)
    return numbers


@pytest.mark.parametrize(
    ("module", "options", "error", "message"),
    [
        (nn.Bilinear(2, 3, 4), {}, TypeError, r"'1.weight' of Bilinear cannot be drawn.*keep=\["),
        (Own(), {}, TypeError, "'1.weight' of Own cannot be drawn"),
        (
            nn.MultiheadAttention(4, 2, add_bias_kv=True),
            {},
            TypeError,
            "'1.bias_k' of MultiheadAttention cannot be drawn",
        ),
        (nn.utils.spectral_norm(nn.Linear(3, 3)), {}, TypeError, "'1.weight_orig' of Linear"),
        (
            nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)),
            {},
            ValueError,
            "is parametrized: initialize before that",
        ),
        (nn.LazyLinear(3), {}, ValueError, "'1.weight' has no shape yet: run a batch"),
        (nn.Embedding(3, 4), {}, ValueError, "'1.weight' is an embedding, which has no fan for"),
        (whole(nn.Linear(2, 2)), {}, TypeError, "1.weight must be a floating-point tensor"),
        (nn.GRU(2, 2), {"scheme": "torch_default"}, ValueError, "is of GRU.*reset_parameters"),
        (
            nn.ConvTranspose1d(2, 2, 1),
            {"scheme": "torch_default"},
            ValueError,
            "is of ConvTranspose1d.*reset_parameters",
        ),
        (nn.ReLU(), {"keep": ["head"]}, ValueError, "keep names 'head', but nothing in the model"),
        (nn.ReLU(), {"keep": "head"}, TypeError, "keep must be a list of names.*got 'head'"),
        (nn.ReLU(), {"residual": ["head"]}, ValueError, "residual names 'head', but no layer"),
        (nn.ReLU(), {"residual": "0"}, TypeError, "residual must be a list of names"),
        (nn.ReLU(), {"activation": "tanh"}, ValueError, "activation must be a rectifier"),
        (nn.ReLU(), {"scheme": "xavier"}, ValueError, "scheme must be one of"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:.*weight_norm", "ignore:.*spectral_norm")
def test_what_cannot_be_drawn_is_refused_before_anything_is(
    module: nn.Module, options: dict, error: type[Exception], message: str
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), module)
    before = model[0].weight.clone()
    with pytest.raises(error, match=message):
        initialize(model, **{"scheme": "he_normal"} | options)
    assert torch.equal(model[0].weight, before)


def test_only_modules_are_initialized() -> None:
    with pytest.raises(TypeError, match="model must be a module, got Tensor"):
        initialize(torch.ones(2, 2), "he_normal")


def test_a_scheme_of_ones_own() -> None:
    mine = replace(SCHEMES["he_normal"], name="mine", distribution="truncated_normal")
    assert initialize(nn.Linear(50, 2), mine)["weight"] == Drawn("mine", 0.2, (50, 2))


@pytest.mark.parametrize("fans", [(0, 3), (3, 0)])
def test_a_variance_needs_fans(fans: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        initialization.variance(1.0, "fan_avg", *fans)
