"""Driven networks against autograd, matrices whose powers are known, and integrals by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import four_errors, normal, reproducible, same
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from companion import lstms, products
from companion._lib import random
from companion.activations import Activation
from companion.lstms import Cell, driven


@given(n=st.integers(1, 6), radius=st.sampled_from([0.0, 0.3, 0.9]), k=st.sampled_from([0.0, 2.0]))
@reproducible
def test_the_radius_is_what_was_asked_and_the_norm_is_not(n: int, radius: float, k: float) -> None:
    matrix = driven.non_normal(n, radius, k)
    # Triangular: the eigenvalues are on the diagonal. Of defective ones half the digits are lost.
    assert driven.spectral_radius(matrix).item() == pytest.approx(radius, abs=0.02)
    expected = math.sqrt(torch.linalg.eigvalsh(matrix.T @ matrix)[-1].clamp(min=0).item())
    assert driven.spectral_norm(matrix).item() == pytest.approx(expected, abs=1e-7)
    assert torch.equal(matrix.diagonal(), torch.full((n,), radius, dtype=torch.float64))
    assert torch.equal(matrix.diagonal(1), torch.full((n - 1,), k, dtype=torch.float64))


def test_numbers_of_a_batch_of_matrices() -> None:
    rotations = products.rotations(5, 3)[0]
    assert driven.spectral_radius(2 * rotations).tolist() == pytest.approx([2.0] * 3)
    assert driven.spectral_norm(2 * rotations.float()).tolist() == pytest.approx([2.0] * 3)
    assert driven.spectral_radius(rotations[0] - 3 * torch.eye(5)).item() > 2, "complex and < 0 too"


@pytest.mark.breaks(
    "companion/lstms/driven.py",
    "power = power / norm.where(norm > 0, 1.0)[..., None, None]",
    "power = power * 1.0",
)
def test_powers_are_matrix_powers() -> None:
    w = normal(2, 4, 4)
    found = driven.power_norms(w, 5)
    for t in range(6):
        power = torch.linalg.matrix_power(w, t)
        same(found[t], torch.linalg.matrix_norm(power, 2).log10())
    # (1 + 2N)^t = Σ binom(t, j) 2^j N^j, and N² is 0 in two dimensions.
    jordan = driven.power_norms(driven.non_normal(2, 1.0, 2.0), 1000)[-1].item()
    assert jordan == pytest.approx(math.log10(2000), abs=1e-6)


def test_powers_neither_overflow_nor_mind_becoming_zero() -> None:
    found = driven.power_norms(torch.eye(2).double() * 1e100, 50)
    assert found[-1].item() == pytest.approx(5000)
    nilpotent = driven.power_norms(driven.non_normal(3, 0.0, 7.0), 5)
    assert nilpotent[2].item() == pytest.approx(math.log10(49))
    assert nilpotent[3:].tolist() == [-math.inf] * 3


@pytest.mark.breaks(
    "companion/lstms/driven.py", "(self.log_norms.shape[1] - 1)", "self.log_norms.shape[1]"
)
def test_the_flow_is_through_times_with_a_random_direction() -> None:
    # In one dimension the direction does not matter: all is in the slopes.
    w = torch.tensor([[[1.7]], [[-0.8]]], dtype=torch.float64)
    found = driven.gradient_flow(w, input_std=0.4, steps=9, washout=2, seed=5)
    generators = random.generators([5, 6], "inputs")
    draws = [random.normal(generators, 1, 1) for _ in range(12)]
    inputs = 0.4 * torch.stack(draws[1:12])
    cell = Cell("rnn", torch.ones(2, 1, 1, dtype=torch.float64), w)
    run = lstms.run(cell, inputs, lstms.State(draws[0]))
    norms = lstms.through_time(cell, inputs[2:], state=lstms.State(run.h[2]))
    same(found.log_norms, norms[:, :, 0].T.log10())
    same(found.mean_square, run.h[3:].square().mean((0, 2, 3)))
    same(found.exponent, norms[0, :, 0].log() / 9)


@pytest.mark.breaks(
    "companion/lstms/driven.py", "delta = weights.mT @ (slope", "delta = weights @ (slope"
)
def test_the_flow_goes_back_by_the_transpose() -> None:
    w = normal(1, 4, 4)
    found = driven.gradient_flow(w, steps=3, washout=0, seed=5).log_norms[0]
    generators = random.generators([5], "inputs")
    draws = [random.normal(generators, 4, 1) for _ in range(5)]
    h = [draws[0].requires_grad_()]
    for _ in range(3):
        h.append(torch.tanh(w @ h[-1]))
    gradients = torch.autograd.grad(h[-1], h, draws[-1])
    norms = torch.stack([gradient.norm() for gradient in gradients])
    same(found, (norms / norms[-1]).log10())


@pytest.mark.parametrize("input_std", [0.0, 0.5, 2.0])
def test_wide_networks_grow_as_mean_field_theory_says(input_std: float) -> None:
    n = 400
    w = products.gaussian_factors(n, 1, weight_variance=1.5**2, seeds=16)[:, 0]
    found = driven.gradient_flow(w, input_std=input_std, steps=150, seed=77).exponent
    expected = driven.mean_field_exponent(1.5, input_std)
    # n units are below the limit by an order of 1/n: over n from 100 to 800 by 1.3/n to 4/n.
    assert expected - 4.5 / n - four_errors(found) < found.mean().item()
    assert found.mean().item() < expected + four_errors(found)


@pytest.mark.breaks(
    "companion/lstms/driven.py",
    'non_negative("input_std", input_std) ** 2)',
    'non_negative("input_std", input_std))',
)
@pytest.mark.breaks(
    "companion/lstms/driven.py", "return 0.5 * math.log(growth)", "return math.log(growth)"
)
def test_the_exponent_is_the_integral() -> None:
    # φ = erf has E[φ(z)²] = (2/π) asin(2q/(1+2q)) and E[φ′(z)²] = (4/π)/√(1+4q).
    erf = Activation(
        "erf", torch.erf, lambda z: 2 / math.sqrt(math.pi) * torch.exp(-(z**2)), nn.Identity
    )
    for gain, std in ((1.5, 0.5), (0.7, 0.2), (2.0, 0.0)):
        q = 1.0
        for _ in range(2000):
            q = gain**2 * 2 / math.pi * math.asin(2 * q / (1 + 2 * q)) + std**2
        expected = 0.5 * math.log(gain**2 * 4 / math.pi / math.sqrt(1 + 4 * q))
        found = driven.mean_field_exponent(gain, std, activation=erf)
        assert found == pytest.approx(expected, abs=1e-6)


def test_exponents_at_the_edges() -> None:
    assert driven.mean_field_exponent(0.5) == pytest.approx(math.log(0.5), abs=1e-6)
    assert driven.mean_field_exponent(0.0, 1.0) == -math.inf
    assert driven.mean_field_exponent(0.9, 1.0, activation="identity") == pytest.approx(
        math.log(0.9)
    )
    assert driven.gradient_flow(torch.zeros(1, 3, 3), steps=4).exponent.item() == -math.inf


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: driven.spectral_radius(torch.ones(2, 3)), ValueError, r"\(..., n, n\)"),
        (lambda: driven.spectral_norm(torch.eye(2) * math.nan), ValueError, "must be finite"),
        (lambda: driven.spectral_norm(torch.eye(2).long()), TypeError, "floating-point"),
        (lambda: driven.non_normal(0), ValueError, "n must be at least 1"),
        (lambda: driven.non_normal(3, -0.9), ValueError, "radius must be finite"),
        (lambda: driven.power_norms(torch.eye(2), 0), ValueError, "steps must be at least 1"),
        (lambda: driven.gradient_flow(torch.eye(2)), ValueError, r"\(seeds, n, n\)"),
        (
            lambda: driven.gradient_flow(9 * torch.eye(2)[None], activation="relu", steps=500),
            ValueError,
            "the state overflows",
        ),
        (
            lambda: driven.gradient_flow(torch.eye(2)[None], washout=-1),
            ValueError,
            "washout must be at least 1",
        ),
        (
            lambda: driven.gradient_flow(torch.eye(2)[None], input_std=-1.0),
            ValueError,
            "input_std must be finite",
        ),
        (lambda: driven.mean_field_exponent(-1.0), ValueError, "gain must be finite"),
        (
            lambda: driven.mean_field_exponent(2.0, activation="relu"),
            ValueError,
            "no fixed point",
        ),
    ],
)
def test_bad_input_is_named(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
