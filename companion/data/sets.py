"""Real data that ships inside a dependency, split once and for all."""

from typing import NamedTuple

import torch
from torch import Tensor

from companion._lib import random
from companion._lib.arguments import positive_integer


class Split(NamedTuple):
    """Inputs and labels to train on, and others to test with.

    Attributes:
        train_inputs: (examples, features), floating point.
        train_targets: (examples,), class labels as int64.
        test_inputs: (examples, features), as ``train_inputs``.
        test_targets: (examples,), as ``train_targets``.

    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


def digits(
    *,
    test_size: int = 360,
    standardize: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Split:
    """Return scikit-learn's 1,797 handwritten digits: 8×8 pixels, ten classes.

    Args:
        test_size: how many of them to keep for testing; every class gets its share.
        standardize: shift and scale each pixel to mean 0 and variance 1 *over the training part*.
            The pixels that are blank throughout it stay 0. If False, pixels run from 0 to 16.
        seed: of the split.
        dtype: of the inputs.

    Raises:
        ValueError: if ``test_size`` leaves fewer than ten images on either side.
        TypeError: if ``test_size`` is not a whole number.

    Source: the test part of the UCI set of Alpaydin & Kaynak (1998), with scikit-learn.

    Example:
        >>> data = digits()
        >>> tuple(data.train_inputs.shape), tuple(data.test_inputs.shape)
        ((1437, 64), (360, 64))

    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    images, labels = load_digits(return_X_y=True)
    if not 10 <= positive_integer("test_size", test_size) <= len(images) - 10:
        raise ValueError(f"test_size must be from 10 to {len(images) - 10}, got {test_size}")
    state = random.mixed(seed) % 2**32  # scikit-learn takes no larger one
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=test_size, random_state=state, stratify=labels
    )
    if standardize:
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
    return Split(
        torch.as_tensor(train, dtype=dtype),
        torch.as_tensor(train_labels, dtype=torch.int64),
        torch.as_tensor(test, dtype=dtype),
        torch.as_tensor(test_labels, dtype=torch.int64),
    )
