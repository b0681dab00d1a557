"""Shattered gradients against autograd and against closed forms."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import four_errors, within

from companion import shattering
from companion.shattering import _mean_cosine


@pytest.mark.breaks(
    "companion/shattering.py",
    "(unit.sum(-2).square().sum(-1) - count) / (count * (count - 1))",
    "unit.sum(-2).square().sum(-1) / count**2",
)
def test_the_cosine_is_the_mean_over_pairs() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]], dtype=torch.float64)
    assert _mean_cosine(vectors).item() == pytest.approx((0 + 2 * math.sqrt(0.5)) / 3)


@pytest.mark.breaks(
    "companion/shattering.py",
    "factors.append(phi.slope(z[:, :compared]) / scale)",
    "factors.append(phi.slope(z[:, :compared]))",
)
@pytest.mark.breaks(
    "companion/shattering.py",
    "factors.append(phi.slope(z[:, :compared]) / scale)",
    "factors.append(phi.slope(x[:, :compared]) / scale)",
)
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_gradients_are_autograds(batch_norm: bool, residual: bool) -> None:
    width, examples, seed = 7, 5, 3
    found = shattering.gradient_correlation(
        [3], activation="tanh", batch_norm=batch_norm, residual=residual, width=width,
        examples=examples, compared=4, seeds=[seed],
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = torch.linalg.qr(draw(1, width, width)).Q[0, :examples] * math.sqrt(width)
    assert torch.allclose(inputs @ inputs.T, width * torch.eye(examples, dtype=torch.float64))
    inputs.requires_grad_()
    x = inputs
    for _ in range(3):
        z = x
        if batch_norm:
            z = (x - x.mean(0).detach()) / x.std(0, correction=0).detach()
        x = (x if residual else 0) + torch.tanh(z) @ (
            draw(1, width, width)[0] * (2 / width) ** 0.5
        ).T
    (gradient,) = torch.autograd.grad(
        x @ draw(1, 1, width)[0, 0], inputs, torch.ones(examples).double()
    )
    expected = _mean_cosine(gradient[:4]).item()
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_a_batch_statistic_as_a_constant_is_a_matter_of_one_over_the_examples() -> None:
    """Example i's output by example i's input, through the statistics, is the same but for 1/B."""
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def normalize(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(0)) / x.std(0, correction=0)

    exact = torch.func.jacrev(normalize)(x)
    own = torch.stack([exact[i, :, i].diagonal() for i in range(64)])
    constant = (1 / x.std(0, correction=0)).expand_as(own)
    ratio = own / constant
    assert torch.allclose(ratio, 1 - (1 + normalize(x) ** 2) / 64, atol=1e-12)


def test_linear_networks_do_not_shatter() -> None:
    found = shattering.gradient_correlation([1, 5], activation="identity", seeds=2, width=70)
    assert torch.allclose(found, torch.ones_like(found))
    predicted = shattering.predicted_correlation(4, activation="identity", weight_variance=1.0)
    assert predicted.tolist() == pytest.approx([1.0] * 4, rel=1e-12)


@pytest.mark.parametrize(("batch_norm", "residual"), [(False, False), (True, True)])
def test_another_activation_follows_its_own_mean_field(batch_norm: bool, residual: bool) -> None:
    kind = {"activation": "tanh", "batch_norm": batch_norm, "residual": residual}
    found = shattering.gradient_correlation([1, 3, 6], weight_variance=3.0, width=200, **kind)
    expected = shattering.predicted_correlation(6, weight_variance=3.0, examples=64, **kind)
    for column, depth in zip(found.unbind(-1), (1, 3, 6), strict=True):
        assert within(column, expected[depth - 1].item())
        assert four_errors(column) < 0.06


def test_depths_share_their_first_layers_and_can_come_in_any_order() -> None:
    many = shattering.gradient_correlation([5, 2], seeds=3, width=64)
    assert many.shape == (3, 2)
    assert (many[:, 0] < many[:, 1]).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: f([]), ValueError, "depths needs at least one depth, got none"),
        (lambda f: f([0]), ValueError, "each of depths must be at least 1, got 0"),
        (lambda f: f([2.5]), TypeError, "each of depths must be a whole number"),
        (lambda f: f([2], examples=300), ValueError, "compared, examples and width .* 8, 300 and"),
        (lambda f: f([2], compared=1), ValueError, "compared, examples and width must be"),
        (lambda f: f([2], seeds=0), ValueError, "seeds must be at least 1, got 0"),
        (lambda f: f([2], weight_variance=-1.0), ValueError, "weight_variance must be finite"),
        (lambda f: f([2], activation="step"), ValueError, "activation must be one of"),
        (lambda _: shattering.predicted_correlation(0), ValueError, "depth must be at least 1"),
        (lambda _: shattering.predicted_correlation(1, examples=1), ValueError, "examples must be"),
    ],
)
def test_bad_input_is_named(call: Callable[..., object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call(shattering.gradient_correlation)


def test_without_weights_only_a_residual_network_has_a_correlation() -> None:
    with pytest.raises(ValueError, match="weight_variance must be above 0, got 0"):
        shattering.predicted_correlation(2, weight_variance=0.0)
    found = shattering.predicted_correlation(2, weight_variance=0.0, residual=True)
    assert found.tolist() == [1.0, 1.0]
