"""What several test files share."""

import torch
from hypothesis import settings
from torch import Tensor

from companion import activations
from companion.backprop import MLP

reproducible = settings(derandomize=True, deadline=None, max_examples=40)

RECTANGULAR = (4, 7, 3, 5)
SQUARE = (5, 5, 5, 5)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def mlp(
    sizes: tuple[int, ...] = RECTANGULAR,
    activation: str = "tanh",
    networks: tuple[int, ...] = (),
    *,
    bias: bool = True,
) -> MLP:
    """An MLP whose weights and biases are all of order one, so that each of them matters."""
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    weights = tuple(normal(*networks, *shape, seed=i) for i, shape in enumerate(shapes))
    biases = tuple(normal(*networks, shape[0], seed=50 + i) for i, shape in enumerate(shapes))
    return MLP(weights, biases if bias else None, activations.get(activation))


def four_errors(sample: Tensor) -> float:
    """Four standard errors of the mean of a sample: what chance alone exceeds once in 16,000."""
    return 4 * sample.std().item() / len(sample) ** 0.5


def within(sample: Tensor, expected: float) -> bool:
    """Whether the mean of a sample is what is expected, to four of its standard errors."""
    return abs(sample.mean().item() - expected) <= four_errors(sample)


def same(found: Tensor, expected: Tensor, dtype: torch.dtype = torch.float64) -> None:
    """Equal but for the rounding of the type."""
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
