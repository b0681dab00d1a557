"""Units that no longer respond: dead, saturated, and networks that are dead at birth.

A unit whose slope is zero on every input is dead; one whose slope is small on all of them is
saturated.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from companion._lib import random
from companion._lib.arguments import floating, positive_integer, share
from companion.activations.functions import Activation, Shifted, get

GRID = torch.arange(-128 * 64, 128 * 64 + 1, dtype=torch.float64) / 64


def saturation_bounds(
    activation: str | Activation, slope_share: float = 0.05
) -> tuple[float | None, float | None]:
    """Return the pre-activations beyond which the activation is saturated, below and above.

    Up to the first and from the second on, the slope stays below ``slope_share`` of the largest
    slope. A bound is None where the slope never stays that small, as above 0 for ReLU. A slope that
    only passes through zero, as GELU's does at -0.75, does not saturate there.

    Args:
        activation: its name, or an :class:`Activation`.
        slope_share: above 0 and at most 1: the share of the largest slope below which a slope
            counts as small.

    Raises:
        ValueError: if ``slope_share`` is not above 0 and at most 1, the largest slope is not
            stated, or the slope is nowhere as large as that share of it.
        TypeError: if ``slope_share`` is not a number.

    Example:
        >>> saturation_bounds("relu")
        (0.0, None)
        >>> [round(bound, 3) for bound in saturation_bounds("tanh")]
        [-2.178, 2.178]

    """
    phi = get(activation)
    if phi.largest_slope is None:
        raise ValueError(f"the activation {phi.name!r} does not state its largest_slope")
    limit = share("slope_share", slope_share) * phi.largest_slope

    def steep(z: Tensor) -> Tensor:
        return phi.slope(z).abs() >= limit

    found = steep(GRID).nonzero().flatten()
    if len(found) == 0:
        raise ValueError(
            f"the slope of {phi.name!r} stays below {slope_share} of its largest_slope"
        )
    bounds: list[float | None] = []
    for inner, step in ((int(found[0]), -1), (int(found[-1]), 1)):
        if not 0 < inner < len(GRID) - 1:
            bounds.append(None)
            continue
        flat, lively = GRID[inner + step], GRID[inner]
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
        ValueError: if ``z`` has fewer than two dimensions, no example, or a NaN.
        TypeError: if ``z`` is not a floating-point tensor.

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

    Raises:
        TypeError: if ``z`` is not a floating-point tensor, or a share is not a number.
        ValueError: if ``z`` has fewer than two dimensions, no example, or a NaN; if a share is not
            above 0 and at most 1; or where :func:`saturation_bounds` finds none.

    Example:
        >>> z = torch.tensor([[-3.0, -3.0], [4.0, 0.1]])
        >>> saturated(z, "tanh").tolist()
        [True, False]
        >>> saturated(z, "tanh", input_share=0.5).tolist()
        [True, True]

    """
    beyond = _beyond(_pre_activations(z), saturation_bounds(get(activation), slope_share))
    # A rounding error must not ask for one example more: 0.7 * 10 is 7.000000000000001.
    return beyond.sum(-2) >= share("input_share", input_share) * z.shape[-2] - 1e-9


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
        inputs: a batch, of any shape that the model takes, examples first.

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
        inputs: as there, of any shape that the model takes.
        slope_share: what is saturated, as in :func:`saturation_bounds`.
        input_share: on which share of the inputs (and positions) a unit must be so to count.

    Returns:
        As :func:`dead_units`.

    Raises:
        ValueError: as there, or if a share is not above 0 and at most 1.
        TypeError: as there, or if a share is not a number.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.Tanh())
        >>> saturated_units(model, torch.tensor([[-9.0, 1.0], [9.0, 9.0]]))["1"].mask.tolist()
        [True, False]

    """
    share("slope_share", slope_share)
    share("input_share", input_share)
    return _inspect(
        model, inputs, partial(saturated, slope_share=slope_share, input_share=input_share)
    )


ELEMENTWISE = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh),
    *(nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.SELU, nn.SiLU, nn.Sigmoid),
    *(nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold, Shifted),
)  # nn.ReLU6 is a Hardtanh
_FEATURES_LAST = (
    *(nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention),
    *(nn.RNNBase, nn.Bilinear),
)
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
    largest = slope(GRID).abs().max().item()
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
        if isinstance(module, ELEMENTWISE):
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

    Raises:
        TypeError: if ``width`` or ``depth`` is not a whole number.
        ValueError: if one of them is below 1.

    Source: Lu, Shin, Su & Karniadakis (2019), arXiv 1903.06733.

    Example:
        >>> round(born_dead_probability(3, 10), 4)
        0.7369

    """
    survive = math.log1p(-(0.5 ** positive_integer("width", width)))
    return -math.expm1(positive_integer("depth", depth) * survive)


def born_dead(
    width: int, depth: int, *, seeds: int | Sequence[int] = 10_000, examples: int = 1
) -> Tensor:
    """Draw ReLU networks without biases, and return after which layers they are dead.

    A network is dead from the layer on at which every unit is off on every example. Weights and
    inputs are normal; neither the weights' variance nor the inputs' matters here.

    Args:
        width: units in each layer, and number of inputs.
        depth: number of ReLU layers.
        seeds: the seeds to draw, or how many, counting from 0.
        examples: inputs that each network sees.

    Returns:
        Boolean tensor of shape (seeds, depth).

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a count is below 1, or there is no seed.

    Example:
        >>> share = born_dead(3, 10, seeds=20_000).double().mean(0)[-1].item()
        >>> abs(share - born_dead_probability(3, 10)) < 0.02
        True

    """
    generators = random.generators(random.seed_list(seeds))
    width = positive_integer("width", width)
    a = random.normal(generators, positive_integer("examples", examples), width)
    off = []
    for _ in range(positive_integer("depth", depth)):
        z = a @ random.normal(generators, width, width).mT / math.sqrt(width)
        off.append(dead(z, "relu").all(-1))
        a = torch.relu(z)
    return torch.stack(off, dim=-1)
