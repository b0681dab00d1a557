"""Networks whose numbers are rounded on the way forward and on the way back.

Products are taken in the type of the parameters (float64, say) and their results rounded: the usual
accumulation in a wider type. The parameters stay as they are, the *master weights* of which each
step sees a rounded copy, unless the optimizer rounds them too.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd import Function

from companion._lib import random
from companion._lib.arguments import finite, one_of
from companion._lib.probing import Loss
from companion.precision import formats
from companion.precision.formats import Format, FormatName
from companion.precision.rounding import stochastically_rounded

How = Literal["nearest", "stochastic"]
HOW: tuple[How, ...] = get_args(How)
Optimizer = Callable[[Iterable], torch.optim.Optimizer]


class _Rounded(Function):
    """Values rounded forward, gradients rounded backward, as if rounding had the slope 1."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple, values: Tensor, *formats: Format | None) -> tuple:  # noqa: ANN401
        # Each number is rounded by itself, so that nothing is to be done for each network.
        return _Rounded.apply(values, *formats), in_dims[0]

    @staticmethod
    def forward(values: Tensor, there: Format | None, back: Format | None) -> Tensor:
        return values.view_as(values) if there is None else formats.rounded(values, there)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ANN401
        ctx.back = inputs[2]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return g if ctx.back is None else formats.rounded(g, ctx.back), None, None


class _Linear(Function):
    """A linear layer with all its tensors rounded, in one operation: much quicker than in eight.

    Of x (..., n), weight (m, n) and bias (m); of S networks (S, ..., n), (S, m, n) and (S, m).
    """

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple[tuple, tuple]:  # noqa: ANN401
        tensors = [
            each.expand(info.batch_size, *each.shape) if dim is None else each.movedim(dim, 0)
            for each, dim in zip(inputs[:3], in_dims[:3], strict=True)
        ]
        return _Linear.apply(*tensors, *inputs[3:]), (0, 0, 0)

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        there: Format,
        back: Format,
        weights: bool,  # noqa: FBT001
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = formats.rounded(x, there)
        own = [formats.rounded(p, there) if weights else p.clone() for p in (weight, bias)]
        product = _rows(x, weight) @ own[0].mT + own[1][..., None, :]
        out = formats.rounded(product, there)
        return out.reshape(*x.shape[:-1], out.shape[-1]), x, own[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:  # noqa: ANN401
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])
        ctx.back = inputs[4]

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_others: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        delta = _rows(formats.rounded(g, ctx.back), weight)
        to_x = formats.rounded(delta @ weight, ctx.back).view_as(x)
        to_weight = formats.rounded(delta.mT @ _rows(x, weight), ctx.back)
        to_bias = formats.rounded(delta.sum(-2), ctx.back)
        return to_x, to_weight, to_bias, None, None, None


def _rows(values: Tensor, weight: Tensor) -> Tensor:
    """Return (..., n) as rows (examples, n), or (S, ..., n) as those of each of S networks."""
    return values.flatten(weight.dim() - 2, -2)


class _Stretched(Function):
    """The identity, whose gradient is multiplied by a number."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, by: float) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ANN401
        ctx.by = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return g * ctx.by, None


def passed(
    values: Tensor,
    number_format: FormatName | Format | None,
    *,
    backward: FormatName | Format | None = None,
) -> Tensor:
    """Round values on the way forward, and their gradient on its way back (straight through).

    Args:
        values: (...) in float32 or float64.
        number_format: of the values; None leaves them as they are.
        backward: of the gradient; None leaves it as it is.

    Returns:
        (...) of the values' type.

    Raises:
        TypeError: if ``values`` is not a tensor in float32 or float64.
        ValueError: if no format has that name.

    Example:
        >>> x = torch.tensor([1.001], requires_grad=True)
        >>> y = passed(x, "bfloat16", backward="float16")
        >>> (gradient,) = torch.autograd.grad(y.sum() * 1e-9, x)
        >>> y.item(), gradient.item()
        (1.0, 0.0)

    """
    formats.wide(values)
    there = None if number_format is None else formats.get(number_format)
    back = None if backward is None else formats.get(backward)
    return _Rounded.apply(values, there, back)


class RoundedLinear(nn.Linear):
    """A linear layer whose every tensor is rounded, but for the parameters that it keeps.

    Forward the input, the weight, the bias and the output; backward δ, which is the gradient at the
    output, and those at the weight, the bias and the input.

    Args:
        layer: of which it takes the parameters themselves.
        forward: the format of the tensors on the way forward.
        backward: that of the gradients.
        weights: whether weight and bias are rounded; their gradients are.

    """

    def __init__(
        self, layer: nn.Linear, forward: Format, backward: Format, *, weights: bool
    ) -> None:
        bias = layer.bias is not None
        # On "meta" nothing is drawn, from torch's own generator, for parameters that are replaced.
        super().__init__(layer.in_features, layer.out_features, bias=bias, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.there, self.back, self.weights = forward, backward, weights

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, as torch has it
        """Return the output (..., out_features) of an input (..., in_features).

        Raises:
            TypeError: if the input is not in float32 or float64.

        """
        one = input.dim() == 1
        bias = self.weight.new_zeros(self.out_features) if self.bias is None else self.bias
        ways = self.there, self.back, self.weights
        out, *_ = _Linear.apply(input[None] if one else input, self.weight, bias, *ways)
        return out[0] if one else out

    def extra_repr(self) -> str:
        """Name the formats, so that only layers of the same are taken for alike."""
        formats = f"forward={self.there.name}, backward={self.back.name}, weights={self.weights}"
        return f"{super().extra_repr()}, {formats}"


def low_precision(
    model: nn.Module,
    number_format: FormatName | Format,
    *,
    backward: FormatName | Format | None = None,
    weights: bool = True,
) -> nn.Module:
    """Return a copy of a model in which every linear layer's tensors are rounded.

    Args:
        model: its linear layers become :class:`RoundedLinear`, all else stays as it is.
        number_format: of inputs, weights, biases and outputs on the way forward.
        backward: of δ and of the gradients at weights, biases and inputs; the same if None.
        weights: False leaves weights and biases as they are on the way forward, for those that an
            optimizer rounds itself.

    Returns:
        A model with copies of the parameters, unrounded, under the same names.

    Raises:
        ValueError: if no format has that name, or the model has no linear layer.

    Source: Micikevicius et al. (2018), arXiv 1710.03740, for master weights.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 1.001)
        >>> rough = low_precision(nn.Sequential(layer), "bfloat16")
        >>> rough(torch.ones(1)).item(), round(rough[0].weight.item(), 6)
        (1.0, 1.001)

    """
    there = formats.get(number_format)
    back = there if backward is None else formats.get(backward)
    found = copy.deepcopy(model)
    if isinstance(found, nn.Linear):
        return RoundedLinear(found, there, back, weights=weights)
    layers = [(name, m) for name, m in found.named_modules() if isinstance(m, nn.Linear)]
    if not layers:
        raise ValueError("model must have at least one linear layer, got none")
    for name, layer in layers:
        parent, _, own = name.rpartition(".")
        setattr(
            found.get_submodule(parent), own, RoundedLinear(layer, there, back, weights=weights)
        )
    return found


def rounding_weights(
    optimizer: Optimizer,
    number_format: FormatName | Format,
    *,
    how: How = "nearest",
    seed: int | Sequence[int] = 0,
) -> Optimizer:
    """Return an optimizer after whose every step the parameters are rounded: no master weights.

    What else it keeps (momentum, Adam's moments) is not rounded, nor is what it starts from.

    Args:
        optimizer: as :func:`companion.training.train` takes it.
        number_format: of the parameters that have a gradient.
        how: "nearest", where an update of less than half a gap is lost, or "stochastic".
        seed: of the draws: network i has ``seed + i``; or a seed for each network, which are the
            entries of the first dimension of each parameter.

    Returns:
        An optimizer as it is taken there.

    Raises:
        ValueError: if no format has that name or ``how`` is another word; when it is made, if there
            is not one seed for each network.

    Source: Gupta et al. (2015), arXiv 1502.02551; Zamirai et al. (2020), arXiv 2010.06192.

    Example:
        >>> from companion.training import sgd
        >>> weight = nn.Parameter(torch.ones(1))
        >>> update = rounding_weights(sgd(1e-3), "bfloat16")([weight])
        >>> weight.grad = torch.ones(1)
        >>> update.step()
        >>> weight.item()
        1.0

    """
    kind, how = formats.get(number_format), one_of("how", how, HOW)

    def made(parameters: Iterable) -> torch.optim.Optimizer:
        parameters = list(parameters)
        inner, drawn = optimizer(parameters), _generators(seed, parameters)

        def round_them(_optimizer: torch.optim.Optimizer, _args: tuple, _options: dict) -> None:
            with torch.no_grad():
                for p in parameters:
                    if p.grad is None:
                        continue
                    nearest = how == "nearest"
                    p.copy_(
                        formats.rounded(p, kind)
                        if nearest
                        else stochastically_rounded(p, kind, generator=drawn)
                    )

        inner.register_step_post_hook(round_them)
        return inner

    return made


def _generators(seed: int | Sequence[int], parameters: list[Tensor]) -> list[torch.Generator]:
    """Return a generator for each network, which are the entries of the first dimension."""
    networks = len(parameters[0])
    seeds = seed if isinstance(seed, Sequence) else [seed + i for i in range(networks)]
    if len(seeds) != networks:
        raise ValueError(
            f"seed must be a whole number or one for each of {networks} models, got {seed!r}"
        )
    return random.generators(seeds, "inputs")


def scaled(loss: Loss, scale: float) -> Loss:
    """Return a loss of the same value whose gradient is ``scale`` times as long.

    Backward it is a loss multiplied by the scale; its value stays, so that records can be compared.

    Args:
        loss: of (outputs, targets).
        scale: S.

    Raises:
        TypeError: if ``scale`` is not a number.
        ValueError: if it is not positive and finite.

    Source: Micikevicius et al. (2018), arXiv 1710.03740.

    Example:
        >>> x = torch.ones(1, requires_grad=True)
        >>> loss = scaled(nn.functional.mse_loss, 1024.0)(x, torch.zeros(1))
        >>> loss.backward()
        >>> loss.item(), x.grad.item()
        (1.0, 2048.0)

    """
    by = _positive(scale)
    return lambda outputs, targets: _Stretched.apply(loss(outputs, targets), by)


def unscaled(optimizer: Optimizer, scale: float) -> Optimizer:
    """Return an optimizer that divides every gradient by a scale before it takes its step.

    A bound such as ``max_norm`` of :func:`companion.training.train` applies before that, to
    gradients that are ``scale`` times as long.

    Args:
        optimizer: as :func:`companion.training.train` takes it.
        scale: S, as for :func:`scaled`.

    Returns:
        An optimizer as it is taken there.

    Raises:
        TypeError: if ``scale`` is not a number.
        ValueError: if it is not positive and finite.

    Example:
        >>> from companion.training import sgd
        >>> weight = nn.Parameter(torch.ones(1))
        >>> update = unscaled(sgd(0.5), 1024.0)([weight])
        >>> weight.grad = torch.full((1,), 1024.0)
        >>> update.step()
        >>> weight.item()
        0.5

    """
    by = _positive(scale)

    def made(parameters: Iterable) -> torch.optim.Optimizer:
        parameters = list(parameters)
        inner = optimizer(parameters)

        def unscale(_optimizer: torch.optim.Optimizer, _args: tuple, _options: dict) -> None:
            for p in parameters:
                if p.grad is not None:
                    p.grad = p.grad / by

        inner.register_step_pre_hook(unscale)
        return inner

    return made


def _positive(scale: float) -> float:
    if finite("scale", scale) <= 0:
        raise ValueError(f"scale must be positive, got {scale}")
    return float(scale)
