"""Synthetic data and generators that depend on nothing but a seed.

The chapters draw through these, so that one number repeats a whole chapter with fresh draws: see
:mod:`companion._lib.random`.
"""

import torch
from torch import Tensor

from companion._lib import random


def generator(seed: int) -> torch.Generator:
    """Return torch's generator with a seed, as ``torch.Generator().manual_seed(seed)`` does.

    Example:
        >>> torch.randint(10, (4,), generator=generator(0)).tolist()
        [4, 9, 3, 0]

    """
    return random.generator(seed)


def manual_seed(seed: int) -> None:
    """Seed torch's global generator, as ``torch.manual_seed`` does, for what takes no other.

    Example:
        >>> manual_seed(0)
        >>> torch.randint(10, (4,)).tolist()
        [4, 9, 3, 0]

    """
    torch.manual_seed(random.mixed(seed))


def normal(*shape: int, seed: int) -> Tensor:
    """Return standard normal numbers of torch's default type, drawn with a seed of their own.

    They depend on no network's weights, whatever its seed, since those come from another stream.

    Args:
        shape: sizes of the dimensions.
        seed: of the draw.

    Returns:
        Tensor of that shape.

    Example:
        >>> tuple(normal(2, 3, seed=1).shape)
        (2, 3)

    """
    return torch.randn(*shape, generator=random.generator(seed, "data"))
