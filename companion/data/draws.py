"""Synthetic data that depend on nothing but a seed."""

import torch
from torch import Tensor


def normal(*shape: int, seed: int) -> Tensor:
    """Return standard normal numbers of torch's default type, drawn with a seed of their own.

    Example:
        >>> tuple(normal(2, 3, seed=1).shape)
        (2, 3)

    """
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
