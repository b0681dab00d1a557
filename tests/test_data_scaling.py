"""Scaling against scikit-learn and the moments that it promises; condition numbers."""

import math

import pytest
import torch
from helpers import normal, reproducible
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import Tensor

from companion import data
from companion.data import Split

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def split(rank: int | None = None, examples: int = 50) -> Split:
    """Five correlated features of scales from 0.001 to 1,000, and one that is constant."""
    mixed = normal(examples + 9, rank or 5, seed=3) @ normal(rank or 5, 5, seed=4)
    x = mixed * torch.tensor([1e-3, 1.0, 10.0, 1e3, 5.0]) + torch.tensor(
        [0.0, 3.0, -40.0, 1e3, 0.1]
    )
    x = torch.cat([x, torch.full((len(x), 1), 0.1)], dim=1)
    x[examples:, -1] += 7.0  # constant in training only
    y = torch.arange(len(x)) % 3
    return Split(x[:examples], y[:examples], x[examples:], y[examples:])


@pytest.mark.breaks("companion/data/scaling.py", "train.std(0, correction=0)", "train.std(0)")
@pytest.mark.breaks(
    "companion/data/scaling.py",
    "return lambda inputs: (inputs - mean) * factors",
    "return lambda inputs: (inputs - inputs.mean(0)) * factors",
)
@pytest.mark.breaks(
    "companion/data/scaling.py",
    "return lambda inputs: (inputs - low) * factors",
    "return lambda inputs: (inputs - inputs.amin(0)) * factors",
)
@pytest.mark.breaks(
    "companion/data/scaling.py",
    "torch.where(train.amax(0) > train.amin(0), factors, 0.0)",
    "factors",
)
@pytest.mark.parametrize(
    ("how", "scaler"), [("standardize", StandardScaler), ("range", MinMaxScaler)]
)
def test_features_are_scaled_as_scikit_learn_does_but_for_constant_ones(
    how: str, scaler: type
) -> None:
    raw = split()
    found, fitted = data.scaled(raw, how), scaler().fit(raw.train_inputs.numpy())
    for mine, before in (
        (found.train_inputs, raw.train_inputs),
        (found.test_inputs, raw.test_inputs),
    ):
        expected = torch.from_numpy(fitted.transform(before.numpy()))
        torch.testing.assert_close(mine[:, :-1], expected[:, :-1], **CLOSE)
        assert (mine[:, -1] == 0).all()
    assert torch.equal(found.train_targets, raw.train_targets)
    assert torch.equal(found.test_targets, raw.test_targets)


def test_digits_are_standardized_as_they_come() -> None:
    raw, expected = data.digits(standardize=False), data.digits()
    found = data.scaled(raw, "standardize")
    torch.testing.assert_close(found.train_inputs, expected.train_inputs, **CLOSE)
    varies = raw.train_inputs.std(0) > 0
    torch.testing.assert_close(
        found.test_inputs[:, varies], expected.test_inputs[:, varies], **CLOSE
    )


@pytest.mark.breaks(
    "companion/data/scaling.py",
    "across.mT @ (across * (len(train) ** 0.5",
    "(across * (len(train) ** 0.5",
)
@pytest.mark.breaks(
    "companion/data/scaling.py",
    "len(train) ** 0.5 / values[kept]",
    "(len(train) - 1) ** 0.5 / values[kept]",
)
@pytest.mark.breaks(
    "companion/data/scaling.py",
    "len(train) ** 0.5 / values[kept]",
    "len(train) / values[kept] ** 2",
)
@pytest.mark.breaks(
    "companion/data/scaling.py",
    "return lambda inputs: (inputs - mean) @ turned",
    "return lambda inputs: (inputs - inputs.mean(0)) @ turned",
)
def test_whitened_inputs_have_the_identity_for_a_covariance() -> None:
    raw = split()
    found = data.scaled(raw, "whiten")
    x = found.train_inputs[:, :-1]
    torch.testing.assert_close(x.mean(0), torch.zeros(5, dtype=torch.float64), **CLOSE)
    torch.testing.assert_close(x.mT @ x / len(x), torch.eye(5, dtype=torch.float64), **CLOSE)
    assert (found.train_inputs[:, -1] == 0).all()
    assert (found.test_inputs[:, -1] == 0).all()
    # Turned as little as possible: the root of the inverse covariance itself, which is symmetric.
    centred = raw.train_inputs[:, :-1] - raw.train_inputs[:, :-1].mean(0)
    values, vectors = torch.linalg.eigh(centred.mT @ centred / len(centred))
    root = vectors @ (vectors / values.sqrt()).mT
    for part in ("train_inputs", "test_inputs"):
        before = getattr(raw, part)[:, :-1] - raw.train_inputs[:, :-1].mean(0)
        torch.testing.assert_close(
            getattr(found, part)[:, :-1], before @ root, rtol=1e-5, atol=1e-5
        )  # the covariance has lost half of the digits


@pytest.mark.breaks(
    "companion/data/scaling.py",
    "kept = values > _resolution(values, max(train.shape))",
    "kept = values > 0",
)
@pytest.mark.parametrize("rank", [1, 3])
def test_directions_that_do_not_vary_are_dropped(rank: int) -> None:
    found = data.scaled(split(rank), "whiten")
    covariance = found.train_inputs.mT @ found.train_inputs / len(found.train_inputs)
    values = torch.linalg.eigvalsh(covariance)
    expected = torch.tensor([0.0] * (6 - rank) + [1.0] * rank, dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=1e-8, atol=1e-8)
    # Test inputs lie in the same directions, however far out.
    kept = torch.linalg.eigh(covariance)[1][:, -rank:]
    rest = found.test_inputs - found.test_inputs @ kept @ kept.mT
    assert rest.abs().max() < 1e-6 * found.test_inputs.abs().max()


def test_fewer_examples_than_features() -> None:
    raw = split(examples=4)
    found = data.scaled(raw, "whiten").train_inputs
    values = torch.linalg.eigvalsh(found.mT @ found / 4)
    assert values.tolist() == pytest.approx([0, 0, 0, 1, 1, 1], abs=1e-6)
    for how in ("standardize", "range", "whiten"):
        one = Split(raw.train_inputs[:1], raw.train_targets[:1], raw.test_inputs, raw.test_targets)
        assert (data.scaled(one, how).train_inputs == 0).all()


@pytest.mark.parametrize("how", data.scaling.SCALINGS)
def test_the_type_stays_and_no_test_part_is_needed(how: str) -> None:
    raw = split()
    small = Split(
        raw.train_inputs.float(),
        raw.train_targets,
        raw.test_inputs[:0].float(),
        raw.test_targets[:0],
    )
    found = data.scaled(small, how)
    assert found.train_inputs.dtype == torch.float32
    assert found.test_inputs.shape == (0, 6)
    assert found.train_inputs.isfinite().all()


# ---------------------------------------------------------------- condition numbers


@pytest.mark.breaks(
    "companion/data/scaling.py",
    "matrix.new_ones(len(matrix), 1)",
    "matrix.new_zeros(len(matrix), 1)",
)
@pytest.mark.breaks(
    "companion/data/scaling.py",
    "(resolved[0] / resolved[-1]).square()",
    "(resolved[0] / resolved[-1])",
)
@pytest.mark.breaks(
    "companion/data/scaling.py", "resolved[0] / resolved[-1]", "values[0] / values[-1]"
)
def test_it_is_that_of_the_hessian_of_a_linear_layer() -> None:
    x = normal(30, 3, seed=1) * torch.tensor([1.0, 3.0, 0.2]) + torch.tensor([2.0, 0.0, 0.5])
    x = torch.cat([x, x[:, :1] - x[:, 1:2]], dim=1)  # no input has the fifth direction
    weights = torch.zeros(5, dtype=torch.float64)

    def loss(w: Tensor) -> Tensor:
        return nn_mse(x @ w[:-1] + w[-1])

    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, weights))
    assert data.condition_number(x) == pytest.approx((values[-1] / values[1]).item(), rel=1e-9)


def nn_mse(outputs: Tensor) -> Tensor:
    return torch.nn.functional.mse_loss(outputs, torch.ones_like(outputs))


def test_gradient_descent_takes_as_many_times_longer() -> None:
    x = normal(40, 2, seed=1) * torch.tensor([1.0, 30.0])
    z = torch.cat([x, torch.ones(40, 1)], dim=1)
    hessian = z.mT @ z / 40
    values = torch.linalg.eigvalsh(hessian)
    # With the best rate the slowest direction keeps (κ − 1)/(κ + 1) of its distance a step.
    kappa, rate = data.condition_number(x), 2 / (values[0] + values[-1])
    kept = torch.linalg.eigvalsh(torch.eye(3) - rate * hessian).abs().max().item()
    assert kept == pytest.approx((kappa - 1) / (kappa + 1), rel=1e-9)


def test_whitening_makes_it_1_and_standardizing_lower() -> None:
    raw = split()
    numbers = {
        how: data.condition_number(data.scaled(raw, how).train_inputs)
        for how in data.scaling.SCALINGS
    }
    assert numbers["whiten"] == pytest.approx(1, rel=1e-8)
    assert 1 < numbers["standardize"] < numbers["range"] < data.condition_number(raw.train_inputs)
    assert data.condition_number(torch.zeros(3, 2)) == 1


# ---------------------------------------------------------------- what is refused


@reproducible
@given(st.sampled_from(["", "Standardize", "whitening", None, 1, ["range"]]))
def test_words_are_named(how: object) -> None:
    with pytest.raises(ValueError, match=r"how must be one of .*'whiten'.*, got"):
        data.scaled(split(), how)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([[1.0]], TypeError, "must be a tensor, got list"),
        (torch.ones(3, 2, dtype=torch.int64), TypeError, "must be a floating-point tensor"),
        (torch.ones(3), ValueError, r"must be \(examples, features\) .* got \(3,\)"),
        (torch.ones(0, 3), ValueError, r".* at least one of each, got \(0, 3\)"),
        (torch.ones(3, 0), ValueError, r".* at least one of each, got \(3, 0\)"),
        (torch.tensor([[1.0], [math.nan]]), ValueError, "must be finite, got inf or nan"),
    ],
)
def test_bad_inputs_are_named(inputs: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^inputs " + message):
        data.condition_number(inputs)
    for how in data.scaling.SCALINGS:
        with pytest.raises(error, match=r"^split\.train_inputs " + message):
            data.scaled(Split(inputs, torch.ones(3), inputs, torch.ones(3)), how)
