"""Products of matrices against closed forms."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import reproducible, within
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from companion import products

GAMMA = 0.5772156649015329


def matrices(*rows: object) -> Tensor:
    """One seed's factors, written as nested lists."""
    return torch.tensor(rows, dtype=torch.float64).unsqueeze(0)


def test_gaussian_factors_have_the_variance_stated() -> None:
    factors = products.gaussian_factors(30, 5, weight_variance=2.5, seeds=7)
    assert factors.shape == (7, 5, 30, 30)
    assert factors.dtype == torch.float64
    # Four standard errors of the variance of N normal numbers.
    error = 4 * math.sqrt(2 / factors.numel())
    assert 30 * factors.var().item() / 2.5 == pytest.approx(1, abs=error)
    assert abs(factors.mean().item()) < 4 * math.sqrt(2.5 / 30 / factors.numel())


@pytest.mark.breaks(
    "companion/products.py",
    "random.generators(random.seed_list(seeds))",
    "[random.generator(0)] * len(random.seed_list(seeds))",
    case="gaussian_factors",
)
@pytest.mark.parametrize("draw", [products.gaussian_factors, products.rotations])
def test_draws_come_from_the_seed_alone(draw: Callable[..., Tensor]) -> None:
    state = torch.random.get_rng_state()
    first = draw(4, 2, seeds=3)
    assert torch.equal(first, draw(4, 2, seeds=[0, 1, 2]))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.flip(0)[:2], draw(4, 2, seeds=[2, 1]))
    assert first.flatten(2).unique(dim=0).shape[0] == 3
    assert not torch.equal(first[:, 0], first[:, 1])


@reproducible
@given(n=st.integers(1, 9), seeds=st.integers(1, 3), depth=st.integers(1, 3))
def test_rotations_are_orthogonal(n: int, seeds: int, depth: int) -> None:
    q = products.rotations(n, depth, seeds=seeds)
    assert q.shape == (seeds, depth, n, n)
    unit = torch.eye(n, dtype=torch.float64).expand_as(q)
    torch.testing.assert_close(q.mT @ q, unit, rtol=0, atol=1e-13)


@pytest.mark.breaks(
    "companion/products.py", "torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)", "1"
)
@pytest.mark.breaks(
    "companion/products.py",
    "torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)",
    "torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-1)",
)
def test_rotations_are_uniform() -> None:
    # Of a uniform Q every entry has mean 0 and variance 1/n, and the trace mean 0 and variance 1.
    # A QR factor without its signs put back has only negative entries in one place.
    q = products.rotations(4, 1, seeds=2000)[:, 0]
    assert within(q.diagonal(dim1=1, dim2=2).sum(1), 0)
    assert within(q.diagonal(dim1=1, dim2=2).sum(1).square(), 1)
    for entry in q.flatten(1).T:
        assert within(entry, 0)
        assert within(entry.square(), 1 / 4)
    # Mezzadri's definition: what is left of the Gaussian matrix is triangular, positive on the
    # diagonal. Signs put on rows instead of columns break it.
    rest = q.mT @ products.gaussian_factors(4, 1, seeds=2000)[:, 0]
    assert rest.tril(-1).abs().max() < 1e-13
    assert (rest.diagonal(dim1=1, dim2=2) > 0).all()


@reproducible
@given(values=st.lists(st.floats(0, 10), min_size=1, max_size=6))
def test_singular_values_are_those_asked_for(values: list[float]) -> None:
    factors = products.factors_with_singular_values(values, 2, seeds=2)
    assert factors.shape == (2, 2, len(values), len(values))
    expected = torch.tensor(sorted(values, reverse=True), dtype=torch.float64).expand(2, 2, -1)
    # To float64's rounding: 0.1 has to stay 0.1.
    torch.testing.assert_close(torch.linalg.svdvals(factors), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.breaks(
    "companion/products.py",
    "(both[:, :depth] * spectrum) @ both[:, depth:]",
    "(both[:, :depth] * spectrum) @ both[:, :depth].mT",
)
def test_singular_directions_are_uniform_and_apart() -> None:
    factors = products.factors_with_singular_values([3.0, 1.0], 2, seeds=2000)
    # Left and right directions are independent of each other and of the other factors'.
    for entry in factors.flatten(1).T:
        assert within(entry, 0)
    # E tr W² is Σs²/n then; were they the same, U S Uᵀ, it would be Σs².
    assert within((factors[:, 0] * factors[:, 0].mT).sum((1, 2)), (3**2 + 1**2) / 2)
    assert within((factors[:, 0] * factors[:, 1]).sum((1, 2)), 0)


@pytest.mark.breaks(
    "companion/products.py", "factors[:, layer] @ vector", "factors[:, depth - 1 - layer] @ vector"
)
def test_log_growth_applies_factor_0_first() -> None:
    # After the first factor every direction is the first axis.
    factors = matrices([[3, 3], [0, 0]], [[2, 5], [0, 7]], [[0, 1], [4, 0]])
    steps = products.log_growth(factors, seed=3)[0].diff()
    assert steps.tolist() == pytest.approx([math.log10(2), math.log10(4)], rel=1e-13)
    assert products.log_growth(factors, seed=3)[0, 0] != products.log_growth(factors, seed=4)[0, 0]


@pytest.mark.breaks("companion/products.py", "torch.log10(length)", "torch.log(length)")
def test_log_growth_is_the_log_of_the_product() -> None:
    # A multiple of a rotation stretches every direction alike.
    scales = torch.tensor([[2.0, 0.5, 3.0], [1.0, 7.0, 0.1]], dtype=torch.float64)
    factors = products.rotations(5, 3, seeds=2) * scales[..., None, None]
    found = products.log_growth(factors)
    torch.testing.assert_close(found, scales.log10().cumsum(1), rtol=1e-12, atol=1e-12)


def test_log_growth_neither_overflows_nor_stops_at_zero() -> None:
    ten = 10 * torch.eye(2, dtype=torch.float64).expand(1, 2000, 2, 2)
    assert products.log_growth(ten)[0, -1].item() == pytest.approx(2000, rel=1e-12)
    dead = products.log_growth(matrices([[1, 0], [0, 1]], [[0, 0], [0, 0]], [[1, 0], [0, 1]]))
    assert dead[0].tolist() == pytest.approx([0, -math.inf, -math.inf], abs=1e-15)
    assert products.log_growth(ten.float()).dtype == torch.float32


@pytest.mark.parametrize(("n", "variance"), [(1, 1.0), (2, 1.0), (16, 1.0), (16, 1.7)])
def test_gaussian_products_grow_by_the_exact_exponent(n: int, variance: float) -> None:
    factors = products.gaussian_factors(n, 10, weight_variance=variance, seeds=2000)
    growth = products.log_growth(factors)[:, -1] * math.log(10) / 10
    assert within(growth, products.gaussian_lyapunov(n, variance))


@pytest.mark.breaks(
    "companion/products.py", "return 0.5 * (torch.special", "return 1.0 * (torch.special"
)
def test_gaussian_exponents_in_closed_form() -> None:
    # ψ(1/2) = -γ - 2 ln 2 and ψ(1) = -γ.
    assert products.gaussian_lyapunov(1) == pytest.approx(-(GAMMA + math.log(2)) / 2, rel=1e-13)
    assert products.gaussian_lyapunov(2) == pytest.approx(-GAMMA / 2, rel=1e-13)
    assert products.gaussian_lyapunov(2, 9.0) == pytest.approx(math.log(3) - GAMMA / 2, rel=1e-13)
    # ψ(x) = ln x - 1/2x - 1/12x² + …: wide layers neither shrink nor grow.
    assert products.gaussian_lyapunov(1000) == pytest.approx(-1 / 2000 - 1 / 6e6, rel=1e-6)


def test_candidates_of_a_matrix_that_is_not_normal() -> None:
    # Singular values 4 and 1, eigenvalues ±2; E ln‖Wu‖ in the plane is ln of the mean of the
    # singular values (Jensen's formula).
    found = products.candidates(matrices([[0, 4], [1, 0]]), directions=40_000)
    assert list(found) == [
        "largest",
        "spectral radius",
        "root mean square",
        "typical stretch",
        "median",
        "smallest",
    ]
    exact = {"largest": 4, "smallest": 1, "median": 2.5, "spectral radius": 2}
    for name, value in exact.items():
        assert found[name] == pytest.approx(value, rel=1e-12)
    assert found["root mean square"] == pytest.approx(math.sqrt(17 / 2), rel=1e-12)
    # ln‖Wu‖ lies between 0 and ln 4, so its deviation is below half of that: four standard errors.
    error = 4 * math.log(4) / 2 / math.sqrt(40_000)
    assert math.log(found["typical stretch"]) == pytest.approx(math.log(2.5), abs=error)


@pytest.mark.breaks("companion/products.py", "stretch.log().mean().exp()", "stretch.mean()")
def test_candidates_are_averaged_over_factors_and_seeds() -> None:
    one = products.rotations(3, 4, seeds=1)
    scaled = torch.stack([one[0, :2], 3 * one[0, 2:]])
    found = products.candidates(scaled)
    for name in ("largest", "median", "smallest", "spectral radius"):
        assert found[name] == pytest.approx(2, rel=1e-12)
    assert found["root mean square"] == pytest.approx(math.sqrt(5), rel=1e-12)
    assert found["typical stretch"] == pytest.approx(math.sqrt(3), rel=1e-12)


def test_typical_stretch_is_the_lyapunov_exponent_of_gaussians() -> None:
    factors = products.gaussian_factors(16, 1, seeds=1000)
    alone = [products.candidates(one[None], directions=50)["typical stretch"] for one in factors]
    assert within(torch.tensor(alone).log(), products.gaussian_lyapunov(16))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: products.gaussian_factors(0, 1), ValueError, "n must be at least 1, got 0"),
        (lambda: products.gaussian_lyapunov(3, 0.0), ValueError, "weight_variance must be above 0"),
        (
            lambda: products.candidates(torch.eye(2)[None, None], directions=2.5),
            TypeError,
            "directions must be a whole number",
        ),
        (lambda: products.gaussian_factors(2, 0), ValueError, "depth must be at least 1"),
        (lambda: products.gaussian_factors(2, 1, seeds=0), ValueError, "seeds must be at least 1"),
        (
            lambda: products.gaussian_factors(2, 1, weight_variance=-1),
            ValueError,
            "weight_variance must be finite",
        ),
        (lambda: products.rotations(2.0, 1), TypeError, "n must be a whole number"),
        (
            lambda: products.factors_with_singular_values([1.0, -1.0], 1),
            ValueError,
            "each of values must be finite and at least 0, got -1.0",
        ),
        (
            lambda: products.log_growth(torch.ones(2, 3, 4, 5)),
            ValueError,
            r"shape \(seeds, depth, n, n\), got \(2, 3, 4, 5\)",
        ),
        (lambda: products.log_growth(torch.ones(3, 4, 4)), ValueError, "seeds, depth, n, n"),
        (lambda: products.log_growth([1.0]), TypeError, "factors must be a tensor, got list"),
        (lambda: products.gaussian_lyapunov(0), ValueError, "n must be at least 1"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
