"""Activations against torch's own functions and derivatives."""

import math

import pytest
import torch
from helpers import reproducible
from hypothesis import given
from hypothesis import strategies as st

from companion import activations
from companion.activations import ACTIVATIONS

EVERY = pytest.mark.parametrize("name", ACTIVATIONS)
ALL = ("identity", "relu", "sigmoid", "tanh")


def test_the_names_are_the_keys() -> None:
    assert sorted(ACTIVATIONS) == sorted(ALL)
    assert all(key == activation.name for key, activation in ACTIVATIONS.items())


@EVERY
@reproducible
@given(numbers=st.lists(st.floats(-40, 40), min_size=1, max_size=6))
def test_slope_is_the_derivative_at_the_pre_activation(name: str, numbers: list[float]) -> None:
    z = torch.tensor([*numbers, 0.0, 0.5, -0.5], dtype=torch.float64, requires_grad=True)
    activation = activations.get(name)
    (expected,) = torch.autograd.grad(activation.function(z).sum(), z)
    torch.testing.assert_close(activation.slope(z.detach()), expected, rtol=1e-12, atol=1e-15)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_function_is_the_module_and_keeps_shape_and_type(name: str, dtype: torch.dtype) -> None:
    z = torch.linspace(-3, 3, 12, dtype=dtype).reshape(3, 4)
    activation = activations.get(name)
    assert torch.equal(activation.function(z), activation.module()(z))
    slope = activation.slope(z)
    assert (slope.shape, slope.dtype) == (z.shape, dtype)


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
    with pytest.raises(ValueError, match=r"activation must be one of .*'relu', 'sigmoid', 'tanh'"):
        activations.get(name)
