"""Activation functions, each with its slope in closed form, and the units that no longer respond.

The slope φ′(z) is the factor by which a unit multiplies a gradient that passes through it on the
way back; it is taken at the pre-activation z, not at the activation φ(z). A unit whose slope is
zero on every input is dead; one whose slope is small on all of them is saturated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from companion._lib import quadrature
from companion._lib.arguments import finite, floating, non_negative, one_of


@dataclass(frozen=True)
class Activation:
    """One activation function, applied to each unit by itself.

    Attributes:
        name: the word by which :func:`get` finds it.
        function: φ, from a tensor to a tensor of the same shape.
        slope: φ′ at the *pre-activation*, from a tensor to a tensor of the same shape.
        module: makes torch's module of the same function.
        kinks: the pre-activations at which the slope jumps.
        largest_slope: the supremum of |φ′|, or None if it was not stated.
        slope_from_output: φ′ as a function of the activation φ(z), where that is cheaper; it keeps
            fewer digits where the function is flat. None where it is not known.

    """

    name: str
    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    module: Callable[[], nn.Module]
    kinks: tuple[float, ...] = ()
    largest_slope: float | None = None
    slope_from_output: Callable[[Tensor], Tensor] | None = None


# ---------------------------------------------------------------- slopes in closed form


def _sigmoid_slope(z: Tensor) -> Tensor:
    return torch.sigmoid(z) * torch.sigmoid(-z)  # 1 - σ(z) would lose its digits where σ is near 1


def _tanh_slope(z: Tensor) -> Tensor:
    return torch.cosh(z) ** -2  # 1 - tanh² would lose its digits, and all of them beyond |z| = 19


def _relu_slope(z: Tensor) -> Tensor:
    return (z > 0).to(z.dtype)  # at the kink 0, as torch has it


def _leaky_slope(z: Tensor, negative_slope: float) -> Tensor:
    return torch.ones_like(floating("z", z)).masked_fill_(z <= 0, negative_slope)


def _elu_slope(z: Tensor, alpha: float, scale: float = 1.0) -> Tensor:
    return torch.where(z > 0, scale, scale * alpha * torch.exp(z.clamp(max=0)))


def _normal_density(z: Tensor) -> Tensor:
    return torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _gelu_slope(z: Tensor) -> Tensor:
    # torch.special.ndtr keeps few digits of the lower tail; erfc keeps them all.
    return torch.special.erfc(-z / math.sqrt(2)) / 2 + z * _normal_density(z)


def _silu_slope(z: Tensor) -> Tensor:
    return torch.sigmoid(z) * (1 + z * torch.sigmoid(-z))


def _mish_slope(z: Tensor) -> Tensor:
    rise = functional.softplus(z)
    return torch.tanh(rise) + z * torch.sigmoid(z) * _tanh_slope(rise)


# ---------------------------------------------------------------- activations with a parameter


class _PReLU(nn.PReLU):
    """``nn.PReLU`` that takes inputs of another type than its slope's."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, as torch has it
        return functional.prelu(input, self.weight.to(input.dtype))


def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """Return the leaky ReLU, z where that is positive and ``negative_slope``·z elsewhere.

    Raises:
        TypeError: if ``negative_slope`` is not a number.
        ValueError: if it is not finite.

    Source: Maas, Hannun & Ng (2013).

    Example:
        >>> leaky_relu(0.25).slope(torch.tensor([-3.0, 3.0])).tolist()
        [0.25, 1.0]

    """
    a = finite("negative_slope", negative_slope)
    return Activation(
        f"leaky_relu({a:g})",
        partial(functional.leaky_relu, negative_slope=a),
        partial(_leaky_slope, negative_slope=a),
        partial(nn.LeakyReLU, a),
        kinks=(0.0,),
        largest_slope=max(1.0, abs(a)),
    )


def prelu(negative_slope: float = 0.25) -> Activation:
    """Return PReLU before it has learned anything; its module learns the negative slope.

    Raises:
        TypeError: if ``negative_slope`` is not a number.
        ValueError: if it is not finite.

    Source: He et al. (2015), arXiv 1502.01852.

    Example:
        >>> [parameter.item() for parameter in prelu(0.25).module().parameters()]
        [0.25]

    """
    leaky = leaky_relu(negative_slope)
    a = float(negative_slope)
    return replace(leaky, name=f"prelu({a:g})", module=partial(_PReLU, init=a, dtype=torch.float64))


def elu(alpha: float = 1.0) -> Activation:
    """Return ELU, z where that is positive and ``alpha``·(e^z − 1) elsewhere.

    Its slope jumps at 0 unless ``alpha`` is 1; the second derivative jumps also then.

    Raises:
        TypeError: if ``alpha`` is not a number.
        ValueError: if it is negative or not finite.

    Source: Clevert, Unterthiner & Hochreiter (2016), arXiv 1511.07289.

    Example:
        >>> elu(1.0).kinks, elu(0.5).kinks
        ((), (0.0,))

    """
    alpha = non_negative("alpha", alpha)
    return Activation(
        f"elu({alpha:g})",
        partial(functional.elu, alpha=alpha),
        partial(_elu_slope, alpha=alpha),
        partial(nn.ELU, alpha),
        kinks=() if alpha == 1 else (0.0,),
        largest_slope=max(1.0, alpha),
    )


class Shifted(nn.Module):
    """Another activation less a constant.

    Args:
        function: φ, from a tensor to a tensor of the same shape.
        by: the constant that is taken off.

    """

    def __init__(self, function: Callable[[Tensor], Tensor], by: float) -> None:
        super().__init__()
        self.function, self.by = function, by

    def extra_repr(self) -> str:
        """Say by how much, by which models are told apart."""
        return f"by={self.by:g}"

    def forward(self, z: Tensor) -> Tensor:
        """Return φ(z) less the constant, for z of any shape."""
        return self.function(z) - self.by


def shifted(activation: str | Activation, by: float) -> Activation:
    """Return φ(z) − ``by``: the same slope everywhere, and another mean.

    Args:
        activation: φ, its name or an :class:`Activation` whose function has no parameters to learn.
        by: what to take off its outputs.

    Raises:
        TypeError: if ``by`` is not a number.
        ValueError: if ``by`` is not finite, or no activation has that name.

    Example:
        >>> centred = shifted("sigmoid", 0.5)
        >>> centred.function(torch.tensor(0.0)).item(), centred.slope(torch.tensor(0.0)).item()
        (0.0, 0.25)

    """
    phi, by = get(activation), finite("by", by)

    def function(z: Tensor) -> Tensor:
        return phi.function(z) - by

    return replace(
        phi,
        name=f"{phi.name} shifted by {-by:g}",
        function=function,
        module=partial(Shifted, phi.function, by),
    )


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
"""The constants that put the fixed point at mean 0 and variance 1: Klambauer et al. (2017)."""

SOFTPLUS_THRESHOLD = 40.0
"""Above it softplus(z) is z to float64's rounding; above torch's 20, only to 2e-9."""


_TABLE = (
    Activation("identity", lambda z: z, torch.ones_like, nn.Identity, largest_slope=1.0),
    Activation(
        "sigmoid",
        torch.sigmoid,
        _sigmoid_slope,
        nn.Sigmoid,
        largest_slope=0.25,
        slope_from_output=lambda a: a * (1 - a),
    ),
    Activation(
        "tanh",
        torch.tanh,
        _tanh_slope,
        nn.Tanh,
        largest_slope=1.0,
        slope_from_output=lambda a: 1 - a.square(),
    ),
    Activation("relu", torch.relu, _relu_slope, nn.ReLU, (0.0,), 1.0),
    replace(leaky_relu(), name="leaky_relu"),
    replace(prelu(), name="prelu"),
    replace(elu(), name="elu"),
    Activation(
        "selu",
        functional.selu,
        partial(_elu_slope, alpha=SELU_ALPHA, scale=SELU_SCALE),
        nn.SELU,
        (0.0,),
        SELU_ALPHA * SELU_SCALE,
    ),
    Activation(  # steepest at √2
        "gelu",
        functional.gelu,
        _gelu_slope,
        nn.GELU,
        largest_slope=(1 + math.erf(1)) / 2 + math.exp(-1) / math.sqrt(math.pi),
    ),
    # Steepest where z·tanh(z/2) = 2, which is at 2.3994.
    Activation("silu", functional.silu, _silu_slope, nn.SiLU, largest_slope=1.0998393201288670),
    Activation(
        "softplus",
        partial(functional.softplus, threshold=SOFTPLUS_THRESHOLD),
        torch.sigmoid,
        partial(nn.Softplus, threshold=SOFTPLUS_THRESHOLD),
        largest_slope=1.0,
    ),
    # Steepest at 1.4906.
    Activation("mish", functional.mish, _mish_slope, nn.Mish, largest_slope=1.0884981612517279),
)

ACTIVATIONS = {activation.name: activation for activation in _TABLE}


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


def positively_homogeneous(activation: str | Activation) -> bool:
    """Say whether φ(cz) = cφ(z) for all c > 0, as of ReLU: a scale passes through it unchanged.

    Raises:
        ValueError: if no activation has that name.

    Example:
        >>> positively_homogeneous("leaky_relu"), positively_homogeneous("tanh")
        (True, False)

    """
    phi = get(activation)
    z = torch.linspace(-4, 4, 65, dtype=torch.float64)
    with torch.no_grad():
        return torch.allclose(phi.function(3 * z), 3 * phi.function(z), rtol=1e-12, atol=1e-15)


# ---------------------------------------------------------------- means over normal inputs


class GaussianMoments(NamedTuple):
    """Means over a normal pre-activation z.

    Attributes:
        mean: E[φ(z)].
        mean_square: E[φ(z)²].
        slope_mean: E[φ′(z)].
        slope_mean_square: E[φ′(z)²].

    """

    mean: float
    mean_square: float
    slope_mean: float
    slope_mean_square: float


def gaussian_moments(
    activation: str | Activation, variance: float, mean: float = 0.0
) -> GaussianMoments:
    """Return E[φ(z)], E[φ(z)²], E[φ′(z)] and E[φ′(z)²] for z ~ N(mean, variance).

    Args:
        activation: φ, its name or an :class:`Activation`.
        variance: of z; at 0 the means are the values at ``mean``.
        mean: of z.

    Raises:
        TypeError: if ``variance`` or ``mean`` is not a number.
        ValueError: if one of them is not finite, the variance is negative, no activation has that
            name, or φ or φ′ is not finite somewhere.

    Example:
        >>> [round(value, 6) for value in gaussian_moments("relu", 4.0)]
        [0.797885, 2.0, 0.5, 0.5]

    """
    phi = get(activation)

    def powers(z: Tensor) -> Tensor:
        value, slope = phi.function(z), phi.slope(z)
        return torch.stack([value, value**2, slope, slope**2])

    std = math.sqrt(non_negative("variance", variance))
    found = quadrature.expectation(powers, finite("mean", mean), std, phi.kinks)
    return GaussianMoments(*found.tolist())
