"""Activation functions, each with its slope in closed form.

The slope φ′(z) is the factor by which a unit multiplies a gradient that passes through it on the
way back; it is taken at the pre-activation z, not at the activation φ(z).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from companion._checks import one_of


@dataclass(frozen=True)
class Activation:
    """One activation function, applied to each unit by itself.

    Attributes:
        name: the word by which :func:`get` finds it.
        function: φ, from a tensor to a tensor of the same shape.
        slope: φ′ at the *pre-activation*, from a tensor to a tensor of the same shape.
        module: torch's module of the same function.

    """

    name: str
    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    module: Callable[[], nn.Module]


def _sigmoid_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s)


def _relu_slope(z: Tensor) -> Tensor:
    return (z > 0).to(z.dtype)  # at the kink 0, as torch has it


ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation("identity", lambda z: z, torch.ones_like, nn.Identity),
        Activation("sigmoid", torch.sigmoid, _sigmoid_slope, nn.Sigmoid),
        Activation("tanh", torch.tanh, lambda z: 1 - torch.tanh(z) ** 2, nn.Tanh),
        Activation("relu", torch.relu, _relu_slope, nn.ReLU),
    )
}


def get(activation: str | Activation) -> Activation:
    """Return the activation of that name; an :class:`Activation` passes through.

    Raises:
        ValueError: if no activation has that name; the message lists those that do.

    Example:
        >>> get("sigmoid").slope(torch.tensor(0.0)).item()
        0.25

    """
    if isinstance(activation, Activation):
        return activation
    return ACTIVATIONS[one_of("activation", activation, sorted(ACTIVATIONS))]
