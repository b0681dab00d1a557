"""Activation functions, each with its slope in closed form, and the units that no longer respond.

The slope φ′(z) is the factor by which a unit multiplies a gradient that passes through it on the
way back; it is taken at the pre-activation z, not at the activation φ(z). A unit whose slope is
zero on every input is dead; one whose slope is small on all of them is saturated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from companion import _gaussian
from companion._checks import floating, non_negative, one_of, positive_integer


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


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def _share(name: str, value: object) -> float:
    if not 0 < _number(name, value) <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, got {value}")
    return float(value)


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

    Source: Maas, Hannun & Ng (2013).

    Example:
        >>> leaky_relu(0.25).slope(torch.tensor([-3.0, 3.0])).tolist()
        [0.25, 1.0]

    """
    a = _number("negative_slope", negative_slope)
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


class _Shifted(nn.Module):
    """Another activation less a constant."""

    def __init__(self, function: Callable[[Tensor], Tensor], by: float) -> None:
        super().__init__()
        self.function, self.by = function, by

    def extra_repr(self) -> str:
        return f"by={self.by:g}"

    def forward(self, z: Tensor) -> Tensor:
        return self.function(z) - self.by


def shifted(activation: str | Activation, by: float) -> Activation:
    """Return φ(z) − ``by``: the same slope everywhere, and another mean.

    Args:
        activation: φ, its name or an :class:`Activation` whose function has no parameters to learn.
        by: what to take off its outputs.

    Example:
        >>> centred = shifted("sigmoid", 0.5)
        >>> centred.function(torch.tensor(0.0)).item(), centred.slope(torch.tensor(0.0)).item()
        (0.0, 0.25)

    """
    phi, by = get(activation), _number("by", by)

    def function(z: Tensor) -> Tensor:
        return phi.function(z) - by

    return replace(
        phi,
        name=f"{phi.name} shifted by {-by:g}",
        function=function,
        module=partial(_Shifted, phi.function, by),
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


# ---------------------------------------------------------------- means over normal inputs


class GaussianMoments(NamedTuple):
    """Means over a normal pre-activation z: E[φ], E[φ²], E[φ′] and E[φ′²]."""

    mean: float
    mean_square: float
    slope_mean: float
    slope_mean_square: float


def gaussian_moments(
    activation: str | Activation, variance: float, mean: float = 0.0
) -> GaussianMoments:
    """Return E[φ(z)], E[φ(z)²], E[φ′(z)] and E[φ′(z)²] for z ~ N(mean, variance).

    Example:
        >>> [round(value, 6) for value in gaussian_moments("relu", 4.0)]
        [0.797885, 2.0, 0.5, 0.5]

    """
    phi = get(activation)

    def powers(z: Tensor) -> Tensor:
        value, slope = phi.function(z), phi.slope(z)
        return torch.stack([value, value**2, slope, slope**2])

    std = math.sqrt(non_negative("variance", variance))
    found = _gaussian.expectation(powers, _number("mean", mean), std, phi.kinks)
    return GaussianMoments(*found.tolist())


# ---------------------------------------------------------------- units that do not respond


_GRID = torch.arange(-128 * 64, 128 * 64 + 1, dtype=torch.float64) / 64


def saturation_bounds(
    activation: str | Activation, slope_share: float = 0.05
) -> tuple[float | None, float | None]:
    """Return the pre-activations beyond which the activation is saturated, below and above.

    Up to the first and from the second on, the slope stays below ``slope_share`` of the largest
    slope. A bound is None where the slope never stays that small, as above 0 for ReLU. A slope that
    only passes through zero, as GELU's does at -0.75, does not saturate there.

    Raises:
        ValueError: if ``slope_share`` is not between 0 and 1, or the largest slope is not known.

    Example:
        >>> saturation_bounds("relu")
        (0.0, None)
        >>> [round(bound, 3) for bound in saturation_bounds("tanh")]
        [-2.178, 2.178]

    """
    phi = get(activation)
    if phi.largest_slope is None:
        raise ValueError(f"the activation {phi.name!r} does not state its largest_slope")
    limit = _share("slope_share", slope_share) * phi.largest_slope

    def steep(z: Tensor) -> Tensor:
        return phi.slope(z).abs() >= limit

    found = steep(_GRID).nonzero().flatten()
    if len(found) == 0:
        raise ValueError(
            f"the slope of {phi.name!r} stays below {slope_share} of its largest_slope"
        )
    bounds: list[float | None] = []
    for inner, step in ((int(found[0]), -1), (int(found[-1]), 1)):
        if not 0 < inner < len(_GRID) - 1:
            bounds.append(None)
            continue
        flat, lively = _GRID[inner + step], _GRID[inner]
        for _ in range(60):
            middle = (flat + lively) / 2
            flat, lively = (flat, middle) if steep(middle) else (middle, lively)
        bounds.append(flat.item())
    return bounds[0], bounds[1]


def _pre_activations(z: Tensor) -> Tensor:
    if floating("z", z).dim() < 2:
        raise ValueError(f"z needs shape (..., examples, units), got {tuple(z.shape)}")
    if z.shape[-2] == 0:
        raise ValueError(f"z needs at least one example, got shape {tuple(z.shape)}")
    if z.isnan().any():
        raise ValueError("z has NaN, of which no unit can be said to be dead or alive")
    return z


def dead(z: Tensor, activation: str | Activation) -> Tensor:
    """Return which units are dead: their slope is zero on every example.

    Args:
        z: pre-activations of one layer, (*networks, examples, units).
        activation: its name, or an :class:`Activation`.

    Returns:
        Boolean tensor of shape (*networks, units).

    Raises:
        ValueError: if there is no example, or a NaN.

    Example:
        >>> dead(torch.tensor([[-1.0, -1.0], [-2.0, 3.0]]), "relu").tolist()
        [True, False]

    """
    return (get(activation).slope(_pre_activations(z)) == 0).all(-2)


def saturated(
    z: Tensor,
    activation: str | Activation,
    *,
    slope_share: float = 0.05,
    input_share: float = 1.0,
) -> Tensor:
    """Return which units are saturated on every example, or on a share of them.

    Args:
        z: pre-activations of one layer, (*networks, examples, units).
        activation: its name, or an :class:`Activation`.
        slope_share: what is saturated, as in :func:`saturation_bounds`.
        input_share: on which share of the examples, at least, a unit must be so to count.

    Returns:
        Boolean tensor of shape (*networks, units).

    Example:
        >>> z = torch.tensor([[-3.0, -3.0], [4.0, 0.1]])
        >>> saturated(z, "tanh").tolist()
        [True, False]
        >>> saturated(z, "tanh", input_share=0.5).tolist()
        [True, True]

    """
    beyond = _beyond(_pre_activations(z), saturation_bounds(get(activation), slope_share))
    # A rounding error must not ask for one example more: 0.7 * 10 is 7.000000000000001.
    return beyond.sum(-2) >= _share("input_share", input_share) * z.shape[-2] - 1e-9


def _beyond(z: Tensor, bounds: tuple[float | None, float | None]) -> Tensor:
    below, above = bounds
    beyond = torch.zeros_like(z, dtype=torch.bool)
    if below is not None:
        beyond |= z <= below
    if above is not None:
        beyond |= z >= above
    return beyond


@dataclass(frozen=True)
class Units:
    """Which units of a layer are dead, or saturated.

    Attributes:
        mask: boolean tensor of shape (units,).

    """

    mask: Tensor

    @property
    def count(self) -> int:
        """How many they are."""
        return int(self.mask.sum())

    @property
    def total(self) -> int:
        """How many units the layer has."""
        return self.mask.numel()

    @property
    def share(self) -> float:
        """Their share of the layer's units."""
        return self.count / max(self.total, 1)


def dead_units(model: nn.Module, inputs: Tensor) -> dict[str, Units]:
    """Return the units of each activation layer that are dead on a whole batch.

    A unit is a feature, or a channel over all its positions; it is dead if its slope is zero
    everywhere. A unit that is off on some of the inputs is not dead.

    The model runs once, in the mode it is in and without gradients; its parameters, its buffers and
    the random state are left as they are. Activations that are called as functions, such as
    ``torch.relu``, cannot be seen.

    Args:
        model: any module with activation modules such as ``nn.ReLU``, also in-place ones.
        inputs: a batch, with the examples first.

    Returns:
        For each activation module, in the order of execution, its name in the model and its units;
        the second time that the same module runs it is called ``name:2``.

    Raises:
        TypeError: if the model is not a module or the inputs are no tensor.
        ValueError: if no activation module ran, there is no example, or pre-activations are NaN.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.ReLU())
        >>> dead_units(model, torch.tensor([[-1.0, -1.0], [-2.0, 3.0]]))["1"].mask.tolist()
        [True, False]

    """
    return _inspect(model, inputs, dead)


def saturated_units(
    model: nn.Module, inputs: Tensor, *, slope_share: float = 0.05, input_share: float = 1.0
) -> dict[str, Units]:
    """Return the units of each activation layer that are saturated on a batch, or a share of it.

    Args:
        model: as in :func:`dead_units`.
        inputs: as there.
        slope_share: what is saturated, as in :func:`saturation_bounds`.
        input_share: on which share of the inputs (and positions) a unit must be so to count.

    Returns:
        As :func:`dead_units`.

    Raises:
        ValueError: as there, or if a share is not between 0 and 1.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.Tanh())
        >>> saturated_units(model, torch.tensor([[-9.0, 1.0], [9.0, 9.0]]))["1"].mask.tolist()
        [True, False]

    """
    _share("slope_share", slope_share)
    _share("input_share", input_share)
    return _inspect(
        model, inputs, partial(saturated, slope_share=slope_share, input_share=input_share)
    )


_ELEMENTWISE = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh),
    *(nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.SELU, nn.SiLU, nn.Sigmoid),
    *(nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold, _Shifted),
)  # nn.ReLU6 is a Hardtanh
_FEATURES_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention)
_FEATURES_LAST += (nn.RNNBase, nn.Bilinear)
_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


def _slope_of_module(module: nn.Module, dtype: torch.dtype, z: Tensor) -> Tensor:
    with torch.enable_grad():
        z = z.detach().to(dtype).requires_grad_()
        output = type(module).forward(module, z.clone())  # past its hooks; it may work in place
        return torch.autograd.grad(output.sum(), z)[0]


def _of_module(module: nn.Module, dtype: torch.dtype) -> Activation:
    """Describe a module of torch by what it does."""
    slope = partial(_slope_of_module, module, dtype)
    if isinstance(module, nn.PReLU) and module.weight.numel() > 1:
        return Activation("PReLU with a slope for each channel", module.forward, slope, nn.PReLU)
    largest = slope(_GRID).abs().max().item()
    return Activation(type(module).__name__, module.forward, slope, type(module), (), largest)


def _units_last(z: Tensor, *, features_last: bool) -> Tensor:
    """Bring the unit's dimension to the end, and all others into one."""
    if z.dim() < 2:
        raise ValueError(f"inputs need a first dimension of examples, got z of {tuple(z.shape)}")
    return (z if features_last else z.movedim(1, -1)).flatten(0, -2)


class _Inspection:
    """What the hooks of one run of a model find."""

    def __init__(self, measure: Callable[[Tensor, Activation], Tensor]) -> None:
        self.measure = measure
        self.found: dict[str, Units] = {}
        self.features_last = False

    def attach(self, name: str, module: nn.Module) -> RemovableHandle:
        """Hook one module, before it runs, so that work in place has not yet been done."""
        if isinstance(module, _ELEMENTWISE):
            return module.register_forward_pre_hook(partial(self.at_activation, name))
        return module.register_forward_pre_hook(self.at_layer)

    def at_layer(self, module: nn.Module, _args: tuple) -> None:
        """Remember where the features of what follows are."""
        if isinstance(module, (*_FEATURES_LAST, *_CHANNELS_FIRST)):
            self.features_last = isinstance(module, _FEATURES_LAST)

    def at_activation(self, name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Measure the units of one activation."""
        runs = 1 + sum(key.partition(":")[0] == name for key in self.found)
        many_slopes = isinstance(module, nn.PReLU) and module.weight.numel() > 1
        z = _units_last(args[0].detach(), features_last=self.features_last and not many_slopes)
        mask = self.measure(z, _of_module(module, z.dtype))
        self.found[name if runs == 1 else f"{name}:{runs}"] = Units(mask)


def _inspect(
    model: nn.Module, inputs: Tensor, measure: Callable[[Tensor, Activation], Tensor]
) -> dict[str, Units]:
    """Apply a measure to the pre-activations of each activation module that runs."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be an nn.Module, got {type(model).__name__}; "
            "for pre-activations by themselves there are dead and saturated"
        )
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a tensor, got {type(inputs).__name__}")
    inspection = _Inspection(measure)
    handles = [inspection.attach(name, module) for name, module in model.named_modules()]
    # Running statistics would move, and dropout draw, in training mode.
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=sorted(devices)):
            functional_call(model, buffers, (inputs,))
    finally:
        for handle in handles:
            handle.remove()
    if not inspection.found:
        raise ValueError(
            "the model ran no activation module, such as nn.ReLU; activations that it calls as "
            "functions, such as torch.relu, cannot be seen"
        )
    return inspection.found


# ---------------------------------------------------------------- networks that are born dead


def born_dead_probability(width: int, depth: int) -> float:
    """Return the probability that a ReLU network without biases is dead at an input at birth.

    A layer of N units is all off with probability 2⁻ᴺ, if weights are symmetric about zero; the
    network passes something on if no layer is: 1 − (1 − 2⁻ᴺ)ᴸ.

    Args:
        width: N, the number of units in each layer.
        depth: L, the number of ReLU layers.

    Source: Lu, Shin, Su & Karniadakis (2019), arXiv 1903.06733.

    Example:
        >>> round(born_dead_probability(3, 10), 4)
        0.7369

    """
    survive = math.log1p(-(0.5 ** positive_integer("width", width)))
    return -math.expm1(positive_integer("depth", depth) * survive)


def born_dead(
    width: int, depth: int, *, networks: int = 10_000, examples: int = 1, seed: int = 0
) -> Tensor:
    """Draw ReLU networks without biases, and return after which layers they are dead.

    A network is dead from the layer on at which every unit is off on every example. Weights and
    inputs are normal; neither the weights' variance nor the inputs' matters here.

    Args:
        width: units in each layer, and number of inputs.
        depth: number of ReLU layers.
        networks: how many to draw.
        examples: inputs that each network sees.
        seed: of the draws.

    Returns:
        Boolean tensor of shape (networks, depth).

    Example:
        >>> share = born_dead(3, 10, networks=20_000).double().mean(0)[-1].item()
        >>> abs(share - born_dead_probability(3, 10)) < 0.02
        True

    """
    generator = torch.Generator().manual_seed(seed)
    networks, width = positive_integer("networks", networks), positive_integer("width", width)

    def draw(rows: int) -> Tensor:
        return torch.randn(networks, rows, width, generator=generator, dtype=torch.float64)

    a = draw(positive_integer("examples", examples))
    off = []
    for _ in range(positive_integer("depth", depth)):
        z = a @ draw(width).mT / math.sqrt(width)
        off.append(dead(z, "relu").all(-1))
        a = torch.relu(z)
    return torch.stack(off, dim=-1)
