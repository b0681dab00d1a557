"""Initializers against torch's, on rectangular weights, where fan_in is not fan_out."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import reproducible
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from companion import initialization

SHAPES = [(30, 50), (50, 30), (8, 3, 5, 5), (1, 4, 2)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@reproducible
@given(shape=st.lists(st.integers(1, 6), min_size=2, max_size=5))
def test_fans_are_torchs(shape: list[int]) -> None:
    tensor = torch.empty(shape)
    assert initialization.fans(tensor) == nn.init._calculate_fan_in_and_fan_out(tensor)


@reproducible
@given(scale=st.floats(0, 1e3), fan_in=st.integers(1, 99), fan_out=st.integers(1, 99))
def test_variance_is_scale_over_the_fan_named(scale: float, fan_in: int, fan_out: int) -> None:
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    for mode, size in fan.items():
        found = initialization.variance(scale, mode, fan_in, fan_out)
        assert found == pytest.approx(scale / size, rel=1e-14)


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


@pytest.mark.parametrize("mode", initialization.MODES)
@pytest.mark.parametrize(("distribution", "kurtosis"), [("normal", 3.0), ("uniform", 1.8)])
def test_samples_have_the_variance_stated(mode: str, distribution: str, kurtosis: float) -> None:
    weight = initialization.variance_scaling_(
        torch.empty(200, 800, dtype=torch.float64),
        scale=1.7,
        mode=mode,
        distribution=distribution,
        generator=generator(),
    )
    expected = 1.7 / {"fan_in": 800, "fan_out": 200, "fan_avg": 500}[mode]
    # The standard error of a mean square of N draws is √((kurtosis - 1) / N) of it.
    error = math.sqrt((kurtosis - 1) / weight.numel())
    assert weight.square().mean().item() / expected == pytest.approx(1, abs=4 * error)
    assert abs(weight.mean().item()) < 4 * math.sqrt(expected / weight.numel())
    fourth = (weight**4).mean().item() / expected**2
    # Four standard errors of the fourth moment: √(E[x⁸] - E[x⁴]²) is √96 and √(9 - 1.8²).
    spread = math.sqrt(96) if distribution == "normal" else math.sqrt(9 - 1.8**2)
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
