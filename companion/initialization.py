"""Weights drawn with a stated variance.

Every named scheme is ``scale / fan`` for some scale and some fan: LeCun's is 1/fan_in, Glorot's
1/fan_avg, He's 2/fan_in, and what :class:`torch.nn.Linear` draws by itself is 1/(3·fan_in).
"""

import math

import torch
from torch import Tensor

from companion._checks import floating, non_negative, one_of

MODES = ("fan_in", "fan_out", "fan_avg")
DISTRIBUTIONS = ("normal", "uniform")


def fans(tensor: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight laid out as torch lays it out.

    Args:
        tensor: a weight of shape (out, in) or, for a convolution, (out, in, *kernel).

    Raises:
        ValueError: if the tensor has fewer than two dimensions, or a fan of zero.

    Example:
        >>> fans(torch.empty(20, 50))
        (50, 20)
        >>> fans(torch.empty(8, 3, 5, 5))
        (75, 200)

    """
    if tensor.dim() < 2:
        raise ValueError(f"a weight has at least 2 dimensions (out, in), got {tuple(tensor.shape)}")
    field = math.prod(tensor.shape[2:])
    fan_in, fan_out = tensor.shape[1] * field, tensor.shape[0] * field
    if fan_in == 0 or fan_out == 0:
        raise ValueError(f"a weight needs fans of at least 1, got shape {tuple(tensor.shape)}")
    return fan_in, fan_out


def variance(scale: float, mode: str, fan_in: int, fan_out: int) -> float:
    """Return the weight variance ``scale / fan``, where ``mode`` says which fan.

    Example:
        >>> variance(2.0, "fan_in", fan_in=50, fan_out=20)
        0.04

    """
    scale = non_negative("scale", scale)
    mode = one_of("mode", mode, MODES)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    return scale / fan


def variance_scaling_(
    tensor: Tensor,
    *,
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "normal",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight, in place, with independent draws of mean 0 and variance ``scale / fan``.

    Args:
        tensor: floating-point weight of shape (out, in) or (out, in, *kernel).
        scale: numerator of the variance: 2 for He, 1 for Glorot and LeCun, 1/3 for
            ``nn.Linear``'s default.
        mode: ``"fan_in"``, ``"fan_out"`` or ``"fan_avg"``.
        distribution: ``"normal"``, or ``"uniform"`` on ±√(3·variance).
        generator: source of randomness; torch's global one if None.

    Returns:
        The same tensor.

    Raises:
        TypeError: if the tensor is not floating-point.
        ValueError: if an option is not one of those above, or a fan is zero.

    Source: Glorot & Bengio (2010), PMLR v9; He et al. (2015), arXiv 1502.01852.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> weight = torch.empty(1000, 500, dtype=torch.float64)
        >>> weight = variance_scaling_(weight, scale=2.0, generator=generator)
        >>> round(500 * weight.var().item(), 2)
        2.0

    """
    one_of("distribution", distribution, DISTRIBUTIONS)
    fan_in, fan_out = fans(floating("tensor", tensor))
    std = math.sqrt(variance(scale, mode, fan_in, fan_out))
    with torch.no_grad():
        if distribution == "normal":
            return tensor.normal_(0, std, generator=generator)
        bound = math.sqrt(3) * std
        return tensor.uniform_(-bound, bound, generator=generator)
