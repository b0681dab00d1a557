"""Normalization by hand: batch, layer, RMS and group norm, and what cannot pass them.

All four subtract a mean over some dimensions and divide by the root of a variance over the same
ones; they differ in the dimensions. That step is :func:`standardize`, whose gradient is derived in
its backward pass, and the rest follows from it: which part of the gradient cannot pass, and why the
weights below keep their length. What it does to the gradients of a deep stack is in
:mod:`companion.normalization.explosion`, what it does to the loss along them in
:mod:`companion.normalization.landscape`.

Sources: Ioffe & Szegedy (2015), arXiv 1502.03167; Ba, Kiros & Hinton (2016), arXiv 1607.06450;
Zhang & Sennrich (2019), arXiv 1910.07467; Wu & He (2018), arXiv 1803.08494.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.autograd import Function

from companion._lib import random
from companion._lib.arguments import floating, non_negative, one_of, positive_integer
from companion._lib.probing import LAYERS

#: Those that explosion and landscape build.
Norm = Literal["none", "batch", "layer"]
NORMS: tuple[Norm, ...] = get_args(Norm)


def norm_module(norm: Norm, units: int) -> nn.BatchNorm1d | nn.LayerNorm:
    """Return torch's batch norm or layer norm in float64, as ``training.train`` takes them.

    Batch norm keeps no running statistics: it has the batch's own also in evaluation.

    Args:
        norm: ``"batch"`` or ``"layer"``.
        units: that it normalizes.

    Raises:
        ValueError: if the norm is neither.

    Example:
        >>> norm_module("batch", 3).running_mean is None
        True

    """
    if one_of("norm", norm, NORMS[1:]) == "batch":
        return nn.BatchNorm1d(units, track_running_stats=False, dtype=torch.float64)
    return nn.LayerNorm(units, dtype=torch.float64)


# ---------------------------------------------------------------- forward and backward


def _standardized(
    x: Tensor, dim: tuple[int, ...], eps: float, *, centre: bool
) -> tuple[Tensor, Tensor]:
    """Return x̂ and the root s by which it was divided."""
    deviation = x - x.mean(dim, keepdim=True) if centre else x
    root = (deviation.square().mean(dim, keepdim=True) + eps).sqrt()
    return deviation / root, root


class _Standardize(Function):
    """x̂ = (x − μ)/s with s = √(σ² + ε), μ and σ² the mean and variance of the N entries together.

    An entry of x reaches the loss in three ways. With g = ∂L/∂x̂:

    * straight: g/s;
    * through μ, which all N entries share: ∂L/∂μ = −Σg/s, and ∂μ/∂x = 1/N: together −mean(g)/s;
    * through σ²: ∂L/∂σ² = −Σ(g ⊙ x̂)/2s², and ∂σ²/∂x = 2(x − μ)/N: together −x̂ mean(g ⊙ x̂)/s.
      (σ² also depends on μ, but ∂σ²/∂μ = −2 mean(x − μ) = 0.)

    The sum is ∂L/∂x = (g − mean(g) − x̂ mean(g ⊙ x̂))/s: of g, what lies along 1 and along x̂ is
    taken out. Without centring there is no second way.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: tuple[int, ...], eps: float, centre: bool) -> Tensor:  # noqa: FBT001
        return _standardized(x, dim, eps, centre=centre)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ANN401
        x, *ctx.how = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        dim, eps, centre = ctx.how
        x_hat, root = _standardized(x, dim, eps, centre=centre)
        through_mean = g.mean(dim, keepdim=True) if centre else 0.0
        through_variance = x_hat * (g * x_hat).mean(dim, keepdim=True)
        return (g - through_mean - through_variance) / root, None, None, None


class _ScaleAndShift(Function):
    """y = γ ⊙ x̂ + β, with γ and β shared by all entries along which they are broadcast.

    So ∂L/∂x̂ = g ⊙ γ, while γ and β collect from all who share them: ∂L/∂γ = Σ g ⊙ x̂, ∂L/∂β = Σ g.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x_hat: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return x_hat * weight + bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        x_hat, weight, bias = ctx.saved_tensors
        return g * weight, (g * x_hat).sum_to_size(weight.shape), g.sum_to_size(bias.shape)


def standardize(
    x: Tensor, dim: int | Sequence[int], *, eps: float = 0.0, centre: bool = True
) -> Tensor:
    """Return (x − μ)/√(σ² + ε), with mean and *biased* variance taken over the dimensions given.

    Args:
        x: floating-point tensor of any shape. Types of 16 bits are computed in float32, as torch
            does.
        dim: the dimension or dimensions over which to normalize.
        eps: ε, inside the root.
        centre: False to leave the mean where it is and divide by the root mean square.

    Returns:
        Tensor of ``x``'s shape and type; NaN where everything is equal and ε is 0.

    Raises:
        TypeError: if ``x`` is not a floating-point tensor.
        ValueError: if ε is negative, or ``dim`` names no dimension or one that ``x`` has not.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
        >>> standardize(x, 0).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]

    """
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if not dims or not all(-floating("x", x).dim() <= d < x.dim() for d in dims):
        raise ValueError(f"dim must name dimensions of a tensor of {x.dim()}, got {dim}")
    return _Standardize.apply(_wide(x), dims, non_negative("eps", eps), bool(centre)).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _affine(
    x_hat: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int], ahead: int = 0
) -> Tensor:
    """Return γx̂ + β for parameters of one shape, followed by ``ahead`` dimensions they share."""
    if weight is None and bias is None:
        return x_hat
    for name, value in (("weight", weight), ("bias", bias)):
        _of_shape(name, value, shape)
    weight = x_hat.new_ones(tuple(shape)) if weight is None else weight
    bias = x_hat.new_zeros(tuple(shape)) if bias is None else bias
    broadcast = (*shape, *[1] * ahead)
    return _ScaleAndShift.apply(x_hat, weight.reshape(broadcast), bias.reshape(broadcast))


def _of_shape(name: str, value: Tensor | None, shape: Sequence[int]) -> None:
    if value is not None and floating(name, value).shape != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}")


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001, FBT002 - as torch has it
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel over the batch, as ``torch.nn.functional.batch_norm`` does.

    In training the statistics are the batch's; in evaluation they are the running ones, constants
    through which no gradient flows.

    Args:
        x: (examples, channels, …), floating point.
        running_mean: (channels,), which training changes in place: 1 − ``momentum`` of it is kept.
        running_var: (channels,), likewise, of the *unbiased* variance, although the batch itself is
            divided by the root of the biased one.
        weight: γ, (channels,), or None for ones.
        bias: β, (channels,), or None for zeros.
        training: whether to use the statistics of the batch.
        momentum: the share of the *new* value in the running one.
        eps: ε, inside the root.

    Returns:
        Tensor of ``x``'s shape and type.

    Raises:
        ValueError: if a shape does not fit, training has fewer than two values a channel, or
            evaluation has no running statistics.
        TypeError: if a tensor is not of floating point.

    Source: Ioffe & Szegedy (2015), arXiv 1502.03167.

    Example:
        >>> x = torch.tensor([[1.0], [2.0], [6.0]])
        >>> mean, var = torch.zeros(1), torch.ones(1)
        >>> y = batch_norm(x, mean, var, training=True)
        >>> round(mean.item(), 6), round(var.item(), 6)
        (0.3, 1.6)

    """
    if floating("x", x).dim() < 2:
        raise ValueError(f"x needs shape (examples, channels, ...), got {tuple(x.shape)}")
    channels, ahead = x.shape[1], x.dim() - 2
    for name, value in (("running_mean", running_mean), ("running_var", running_var)):
        _of_shape(name, value, (channels,))
        if value is None and not training:
            raise ValueError(f"{name} is needed in evaluation mode, got None")
    if training:
        dims = (0, *range(2, x.dim()))
        count = math.prod(x.shape[d] for d in dims)
        if count < 2:
            raise ValueError(
                f"training needs at least two values a channel, got shape {tuple(x.shape)}"
            )
        share = non_negative("momentum", momentum)
        _keep_running(_wide(x.detach()), dims, running_mean, running_var, share)
        x_hat = standardize(_wide(x), dims, eps=eps)
    else:
        assert running_mean is not None  # as was checked, and running_var too
        assert running_var is not None
        mean, var = (s.reshape(channels, *[1] * ahead) for s in (running_mean, running_var))
        x_hat = (_wide(x) - mean) / (var + non_negative("eps", eps)).sqrt()
    return _affine(x_hat, weight, bias, (channels,), ahead).to(x.dtype)


def _keep_running(
    x: Tensor,
    dims: tuple[int, ...],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
) -> None:
    if running_mean is not None:
        running_mean.mul_(1 - momentum).add_(momentum * x.mean(dims))
    if running_var is not None:
        running_var.mul_(1 - momentum).add_(momentum * x.var(dims, correction=1))


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each example over its last dimensions, as ``torch.nn.functional.layer_norm`` does.

    Args:
        x: (…, *normalized_shape), floating point.
        normalized_shape: sizes of the dimensions over which to normalize.
        weight: γ, of that shape, or None for ones.
        bias: β, of that shape, or None for zeros.
        eps: ε, inside the root.

    Returns:
        Tensor of ``x``'s shape and type.

    Raises:
        ValueError: if a shape does not fit.
        TypeError: if a tensor is not of floating point.

    Source: Ba, Kiros & Hinton (2016), arXiv 1607.06450.

    Example:
        >>> [round(v, 3) for v in layer_norm(torch.tensor([[1.0, 2.0, 3.0]]), 3)[0].tolist()]
        [-1.225, 0.0, 1.225]

    """
    shape = _trailing(x, normalized_shape)
    x_hat = standardize(_wide(x), range(-len(shape), 0), eps=eps)
    return _affine(x_hat, weight, bias, shape).to(x.dtype)


def rms_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide each example by the root mean square of its last dimensions; no mean, no bias.

    Args:
        x: (…, *normalized_shape), floating point.
        normalized_shape: sizes of the dimensions over which to normalize.
        weight: γ, of that shape, or None for ones.
        eps: ε, inside the root; None for the spacing of ``x``'s type at 1, as in torch.

    Returns:
        Tensor of ``x``'s shape and type.

    Raises:
        ValueError: if a shape does not fit.
        TypeError: if a tensor is not of floating point.

    Source: Zhang & Sennrich (2019), arXiv 1910.07467.

    Example:
        >>> [round(v, 3) for v in rms_norm(torch.tensor([[1.0, 7.0]]), 2)[0].tolist()]
        [0.2, 1.4]

    """
    shape = _trailing(x, normalized_shape)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    x_hat = standardize(_wide(x), range(-len(shape), 0), eps=eps, centre=False)
    return _affine(x_hat, weight, None, shape).to(x.dtype)


def _trailing(x: Tensor, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    shape: tuple[int, ...]
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or tuple(floating("x", x).shape[-len(shape) :]) != shape:
        raise ValueError(
            f"normalized_shape must be how x's shape {tuple(x.shape)} ends, got {normalized_shape}"
        )
    return shape


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each example over groups of channels, as ``torch.nn.functional.group_norm`` does.

    Args:
        x: (examples, channels, …), floating point.
        num_groups: how many groups of neighbouring channels; it must divide their number.
        weight: γ, (channels,), or None for ones.
        bias: β, (channels,), or None for zeros.
        eps: ε, inside the root.

    Returns:
        Tensor of ``x``'s shape and type.

    Raises:
        ValueError: if a shape does not fit, or the groups do not come out even.
        TypeError: if a tensor is not of floating point.

    Source: Wu & He (2018), arXiv 1803.08494.

    Example:
        >>> group_norm(torch.tensor([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0.0).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]

    """
    if floating("x", x).dim() < 2:
        raise ValueError(f"x needs shape (examples, channels, ...), got {tuple(x.shape)}")
    channels = x.shape[1]
    if channels % positive_integer("num_groups", num_groups):
        raise ValueError(f"num_groups must divide the {channels} channels, got {num_groups}")
    grouped = _wide(x).reshape(x.shape[0], num_groups, channels // num_groups, *x.shape[2:])
    x_hat = standardize(grouped, range(2, grouped.dim()), eps=eps).reshape(x.shape)
    return _affine(x_hat, weight, bias, (channels,), x.dim() - 2).to(x.dtype)


# ---------------------------------------------------------------- what cannot pass


class InputResiduals(NamedTuple):
    """What is left of identities that hold exactly, one number for each set normalized together.

    All are in units of ‖g‖/s, the gradient at the output over the standard deviation of the input,
    and of the input's shape without the dimensions over which it was normalized.

    Attributes:
        ones: |⟨1, ∂L/∂x⟩|/√N, of that shape, which subtracting the mean makes 0.
        normalized: |⟨x̂, ∂L/∂x⟩|/√N, of that shape, which dividing by the root makes 0.
        passed: ‖∂L/∂x‖, of that shape: what passes.

    """

    ones: Tensor
    normalized: Tensor
    passed: Tensor


def input_residuals(
    norm: Callable[[Tensor], Tensor],
    x: Tensor,
    dim: int | Sequence[int] = 0,
    *,
    centre: bool = True,
    output_gradient: Tensor | None = None,
    seed: int = 0,
) -> InputResiduals:
    """Measure how far a norm's input gradient is from orthogonal to 1 and to its input.

    A right norm leaves about 1e-16, one whose mean or variance is detached about 1/√N, for sets of
    N entries. An ε leaves ε/(σ² + ε) of that in ``normalized``. ``passed`` is 0 for a batch of two,
    but for ε: two numbers less their mean and divided by their root are ±1, whatever they were.

    Args:
        norm: a module or function from a tensor to one of its shape. A module is copied, so that
            its running statistics and ``.grad`` stay as they are.
        x: its input, of any shape that it takes.
        dim: the dimensions over which it normalizes: 0 for batch norm of (examples, channels).
        centre: False for a norm that does not subtract the mean, as RMS norm: x̂ is then along x,
            s is the root mean square, and ``ones`` has no reason to be 0.
        output_gradient: g, of ``x``'s shape; normal if None.
        seed: of that draw.

    Returns:
        :class:`InputResiduals`, of ``x``'s shape without ``dim``.

    Raises:
        ValueError: if ``output_gradient`` or the norm's output has not ``x``'s shape.
        TypeError: if ``x`` or ``output_gradient`` is not a floating-point tensor.

    Source: the gradient in Ioffe & Szegedy (2015), arXiv 1502.03167.

    Example:
        >>> x = torch.tensor([[1.0, 4.0], [2.0, 8.0], [6.0, 2.0]], dtype=torch.float64)
        >>> found = input_residuals(lambda x: standardize(x, 0), x)
        >>> bool(found.ones.max() < 1e-14), bool(found.normalized.max() < 1e-14)
        (True, True)

    """
    norm = copy.deepcopy(norm) if isinstance(norm, nn.Module) else norm
    leaf = floating("x", x).detach().clone().requires_grad_()
    y = norm(leaf)
    g = _output_gradient(output_gradient, y, seed)
    if y.shape != x.shape:
        raise ValueError(f"norm must keep the shape {tuple(x.shape)}, got {tuple(y.shape)}")
    (gradient,) = torch.autograd.grad(y, leaf, g)
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    deviation = x - x.mean(dims, keepdim=True) if centre else x
    s = deviation.square().mean(dims).sqrt()
    size = torch.linalg.vector_norm(g, dim=dims)
    root_count = math.sqrt(math.prod(x.shape[d] for d in dims))
    return InputResiduals(
        ones=gradient.sum(dims).abs() * s / (size * root_count),
        normalized=(gradient * deviation).sum(dims).abs() / (size * root_count),
        passed=torch.linalg.vector_norm(gradient, dim=dims) * s / size,
    )


def _output_gradient(given: Tensor | None, output: Tensor, seed: int) -> Tensor:
    if given is None:
        # Far from the seeds of inputs: a gradient equal to the input would not pass at all.
        generator = random.generator(seed, "inputs")
        return torch.randn(output.shape, generator=generator, dtype=output.dtype)
    _of_shape("output_gradient", given, output.shape)
    return given


def weight_residuals(
    model: nn.Module, inputs: Tensor, *, output_gradient: Tensor | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Measure which weights and biases the loss does not see, unit by unit.

    A batch norm above a layer undoes any scaling and shift of a unit. So nothing changes along the
    unit's own weights w, ⟨w, ∂L/∂w⟩ = 0, nor along its bias, ∂L/∂b = 0. Layer norm undoes only what
    is common to all units: there the *sums* over the units are 0, that of the weights only in a
    layer without biases, which would have to be scaled along. An ε lets a share of ε/(σ² + ε)
    through.

    Args:
        model: any module; its linear and convolutional layers are measured. It is copied, so that
            running statistics and ``.grad`` stay as they are.
        inputs: of any shape that it takes, examples first.
        output_gradient: gradient of the loss at the output, of the output's shape; normal if None.
        seed: of that draw.

    Returns:
        By name of the parameter, a tensor (units,): for weights ⟨w, ∂L/∂w⟩/(‖W‖ ‖∂L/∂W‖), for
        biases ∂L/∂b over the same layer's ‖∂L/∂W‖. NaN where that gradient is 0.

    Raises:
        ValueError: if there is no such layer, or ``output_gradient`` has not the output's shape.
        TypeError: if ``output_gradient`` is not a floating-point tensor.

    Source: Ioffe & Szegedy (2015), arXiv 1502.03167, on the scale of the weights.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, eps=1e-30)).double()
        >>> found = weight_residuals(model, torch.eye(4, dtype=torch.float64))
        >>> list(found), bool(max(value.abs().max() for value in found.values()) < 1e-14)
        (['0.weight', '0.bias'], True)

    """
    model = copy.deepcopy(model).requires_grad_()
    output = model(inputs)
    found: dict[str, Tensor] = {}
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, LAYERS)]
    if not layers:
        raise ValueError("model needs at least one linear or convolutional layer, got none")
    output.backward(_output_gradient(output_gradient, output, seed))
    for name, layer in layers:
        prefix, weight = f"{name}." if name else "", layer.weight.detach()
        gradient = torch.zeros_like(weight) if layer.weight.grad is None else layer.weight.grad
        size, units = torch.linalg.vector_norm(gradient), (weight * gradient).flatten(1).sum(1)
        found[f"{prefix}weight"] = units / (torch.linalg.vector_norm(weight) * size)
        if layer.bias is not None:
            slack = torch.zeros_like(layer.bias) if layer.bias.grad is None else layer.bias.grad
            found[f"{prefix}bias"] = slack / size
    return found


# ---------------------------------------------------------------- noise of a batch


class BatchNoise(NamedTuple):
    """How the statistics of batches of standard normal numbers vary.

    Attributes:
        mean_std: standard deviation of the batch's mean.
        variance_std: standard deviation of its unbiased variance, which ``running_var`` keeps.
        biased_variance: mean of its biased variance, by whose root the batch is divided.

    """

    mean_std: float
    variance_std: float
    biased_variance: float


def batch_noise(batch_size: int, *, draws: int = 10_000, seed: int = 0) -> BatchNoise:
    """Measure the noise of batch statistics, as :func:`batch_norm` itself takes them.

    Args:
        batch_size: examples, at least 2.
        draws: batches.
        seed: of the draws.

    Raises:
        ValueError: if there are fewer than two examples, or fewer than two draws.
        TypeError: if ``batch_size`` or ``draws`` is not a whole number.

    Example:
        >>> [round(value, 1) for value in batch_noise(4)], predicted_batch_noise(4).mean_std
        ([0.5, 0.8, 0.8], 0.5)

    """
    size, draws = _batch_of_two(batch_size), positive_integer("draws", draws)
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}")
    generator = random.generator(seed)
    x = torch.randn(size, draws, generator=generator, dtype=torch.float64)
    mean, var = x.new_zeros(draws), x.new_zeros(draws)
    x_hat = batch_norm(x, mean, var, training=True, momentum=1.0, eps=0.0)
    # What the batch was really divided by is read off its first two examples.
    root = (x[0] - x[1]) / (x_hat[0] - x_hat[1])
    return BatchNoise(
        mean_std=mean.std().item(),
        variance_std=var.std().item(),
        biased_variance=root.square().mean().item(),
    )


def predicted_batch_noise(batch_size: int) -> BatchNoise:
    """Return 1/√B, √(2/(B−1)) and (B−1)/B, which :func:`batch_noise` measures.

    Args:
        batch_size: B, at least 2.

    Raises:
        TypeError: if ``batch_size`` is not a whole number.
        ValueError: if it is below 2.

    Example:
        >>> [round(value, 6) for value in predicted_batch_noise(9)]
        [0.333333, 0.5, 0.888889]

    """
    size = _batch_of_two(batch_size)
    return BatchNoise(
        mean_std=1 / math.sqrt(size),
        variance_std=math.sqrt(2 / (size - 1)),
        biased_variance=(size - 1) / size,
    )


def _batch_of_two(batch_size: int) -> int:
    if positive_integer("batch_size", batch_size) < 2:
        raise ValueError(f"batch_size must be at least 2, got {batch_size}")
    return int(batch_size)
