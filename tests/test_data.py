"""The digits: whole, split fairly, and standardized by the training part alone."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from companion import data
from companion._lib import random


def labelled(inputs: Tensor, targets: Tensor) -> list[tuple[float, ...]]:
    return [(*x, y) for x, y in zip(inputs.tolist(), targets.tolist(), strict=True)]


def test_every_digit_is_there_once_with_its_label() -> None:
    images, labels = load_digits(return_X_y=True)
    split = data.digits(standardize=False)
    found = labelled(*split[:2]) + labelled(*split[2:])
    assert sorted(found) == sorted(labelled(torch.tensor(images), torch.tensor(labels)))


@pytest.mark.breaks("companion/data/sets.py", ", stratify=labels", "")
@pytest.mark.parametrize("test_size", [360, 100])
def test_every_class_gets_its_share(test_size: int) -> None:
    split = data.digits(test_size=test_size)
    assert split.train_inputs.shape == (1797 - test_size, 64)
    assert split.test_inputs.shape == (test_size, 64)
    assert split.train_targets.dtype == split.test_targets.dtype == torch.int64
    tests, trains = split.test_targets.bincount(), split.train_targets.bincount()
    assert ((tests - (tests + trains) * test_size / 1797).abs() < 1).all()


@pytest.mark.breaks(
    "companion/data/sets.py", "StandardScaler().fit(train)", "StandardScaler().fit(images)"
)
def test_standardized_over_the_training_part() -> None:
    raw, found = data.digits(standardize=False), data.digits()
    mean, std = raw.train_inputs.mean(0), raw.train_inputs.std(0, correction=0)
    blank = std == 0
    assert blank.any()
    std[blank] = 1
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(found.train_inputs, (raw.train_inputs - mean) / std, **close)
    torch.testing.assert_close(found.test_inputs, (raw.test_inputs - mean) / std, **close)
    assert (found.train_inputs[:, blank] == 0).all()
    assert found.train_inputs.std(0, correction=0)[~blank].sub(1).abs().max() < 1e-12
    assert torch.equal(found.train_targets, raw.train_targets)
    assert (raw.train_inputs.min(), raw.train_inputs.max()) == (0, 16)


def test_split_comes_from_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = data.digits(), data.digits(), data.digits(seed=1)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.test_targets, other.test_targets)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_dtype_is_of_the_inputs() -> None:
    split = data.digits(dtype=torch.float32)
    assert split.train_inputs.dtype == split.test_inputs.dtype == torch.float32
    assert data.digits().train_inputs.dtype == torch.float64


@pytest.mark.parametrize("test_size", [9, 1788, 5000])
def test_a_split_needs_a_digit_of_each_class_on_either_side(test_size: int) -> None:
    with pytest.raises(ValueError, match=f"test_size must be from 10 to 1787, got {test_size}"):
        data.digits(test_size=test_size)


def test_a_share_is_not_a_size() -> None:
    with pytest.raises(TypeError, match=r"test_size must be a whole number.*got 0\.2"):
        data.digits(test_size=0.2)


@pytest.mark.breaks("companion/data/draws.py", 'generator(seed, "data")', "generator(seed)")
def test_normal_numbers_depend_on_nothing_but_the_seed() -> None:
    """They are not the weights of the network with that seed either."""
    torch.manual_seed(0)
    one = data.normal(3, 4, seed=7)
    torch.randn(5)
    assert torch.equal(data.normal(3, 4, seed=7), one)
    assert torch.equal(one, torch.randn(3, 4, generator=random.generator(7, "data")))
    assert not torch.equal(one, torch.randn(3, 4, generator=random.generator(7)))
    assert not torch.equal(data.normal(3, 4, seed=8), one)
    assert one.dtype == torch.get_default_dtype()
