"""Normalization by hand: batch, layer, RMS and group norm, and what they do to gradients.

All four subtract a mean over some dimensions and divide by the root of a variance over the same
ones; they differ in the dimensions. That step is :func:`standardize`, whose gradient is derived in
its backward pass, and everything else follows from it: which part of the gradient cannot pass, why
the weights below keep their length, and why a deep stack with batch norm *explodes* before it has
been trained.

Sources: Ioffe & Szegedy (2015), arXiv 1502.03167; Ba, Kiros & Hinton (2016), arXiv 1607.06450;
Zhang & Sennrich (2019), arXiv 1910.07467; Wu & He (2018), arXiv 1803.08494; Yang et al. (2019),
arXiv 1902.08129; Santurkar et al. (2018), arXiv 1805.11604.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call, vmap

from companion import _gaussian, activations, backprop, training
from companion._checks import floating, non_negative, one_of, positive_integer
from companion.activations import Activation
from companion.data import Split

NORMS = ("none", "batch", "layer")
Parameters = dict[str, Tensor]
Differentiate = Callable[[Parameters, Tensor, Tensor], tuple[Tensor, Parameters]]


# ---------------------------------------------------------------- forward and backward


def _standardized(
    x: Tensor, dim: tuple[int, ...], eps: float, centre: bool
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
    def forward(x: Tensor, dim: tuple[int, ...], eps: float, centre: bool) -> Tensor:
        return _standardized(x, dim, eps, centre)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ANN401
        x, *ctx.how = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        dim, eps, centre = ctx.how
        x_hat, root = _standardized(x, dim, eps, centre)
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
        x: floating-point tensor. Types of 16 bits are computed in float32, as torch does.
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
    training: bool = False,
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
    one = isinstance(normalized_shape, int)
    shape = (normalized_shape,) if one else tuple(normalized_shape)
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

    All are in units of ‖g‖/s, the gradient at the output over the standard deviation of the input.

    Attributes:
        ones: |⟨1, ∂L/∂x⟩|/√N, which subtracting the mean makes 0.
        normalized: |⟨x̂, ∂L/∂x⟩|/√N, which dividing by the root makes 0.
        passed: ‖∂L/∂x‖: what passes.

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
        x: its input.
        dim: the dimensions over which it normalizes: 0 for batch norm of (examples, channels).
        centre: False for a norm that does not subtract the mean, as RMS norm: x̂ is then along x,
            s is the root mean square, and ``ones`` has no reason to be 0.
        output_gradient: g, of ``x``'s shape; normal if None.
        seed: of that draw.

    Returns:
        :class:`InputResiduals`, of ``x``'s shape without ``dim``.

    Raises:
        ValueError: if ``output_gradient`` or the norm's output has not ``x``'s shape.

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
        generator = torch.Generator().manual_seed(seed + 2**31)
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
        inputs: what it takes, examples first.
        output_gradient: gradient of the loss at the output; normal if None.
        seed: of that draw.

    Returns:
        By name of the parameter, a tensor (units,): for weights ⟨w, ∂L/∂w⟩/(‖W‖ ‖∂L/∂W‖), for
        biases ∂L/∂b over the same layer's ‖∂L/∂W‖. NaN where that gradient is 0.

    Raises:
        ValueError: if there is no such layer with a gradient, or ``output_gradient`` does not fit.

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
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, training.LAYERS)]
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


# ---------------------------------------------------------------- explosion at initialization


def explosion_rate(
    activation: str | Activation, *, norm: str = "batch", batch_size: int | None = None
) -> float:
    """Return the factor on the mean squared gradient in one layer W φ(norm(z)), as width grows.

    In an infinite batch it is E[φ′²]/Var[φ], for a standard normal argument; weights of any
    variance give the same. That is a closed form where the two are. In a batch of B, with ε = 0,
    x = norm(z) of a unit is uniform on the sphere of radius √B orthogonal to 1, and the rate is

        B/((B−1)(B−3)) · E[tr(P D C D)] / (E[φ(x₁)²] − E[φ(x₁)φ(x₂)]),

    C = I − 11ᵀ/B, P = C − xxᵀ/B, D = diag φ′(x): B/(B−3) is the mean of 1/s², P D of the norm's and
    φ's derivative, C of the gradient from above. Means over two entries of x are by quadrature, to
    eleven digits, also for an activation thirty times as steep as tanh. For the identity the rate
    is (B−2)/(B−3). In a batch of 3 the mean is infinite and in one of 2 nothing passes. In the
    smallest others the mean is a heavy tail's, of which a network mostly shows less: for ReLU and
    B = 4 it is 3.08, of which 400 units show 2.8.

    Layer norm of infinitely many units has E[φ′²]/E[φ²], whatever the batch.

    Args:
        activation: its name, or an :class:`~companion.activations.Activation`.
        norm: "batch" or "layer".
        batch_size: B, 2 or more; None for infinitely many. Layer norm does not depend on it.

    Raises:
        ValueError: if an argument is out of range; for a finite batch, if φ has kinks other than
            at 0; or if φ is constant over the batch.

    Source: Yang et al. (2019), arXiv 1902.08129.

    Example:
        >>> round(explosion_rate("relu"), 6), round(math.pi / (math.pi - 1), 6)
        (1.466942, 1.466942)
        >>> round(explosion_rate("identity", batch_size=5), 9)
        1.5

    """
    phi = activations.get(activation)
    one_of("norm", norm, NORMS[1:])
    if batch_size is None or norm == "layer":
        found = activations.gaussian_moments(phi, 1.0)
        spread = found.mean_square - (found.mean**2 if norm == "batch" else 0.0)
        return _ratio(found.slope_mean_square, spread, found.mean_square, phi)
    size = positive_integer("batch_size", batch_size)
    if size < 4:
        if size == 1:
            raise ValueError("batch_size must be at least 2, got 1")
        return 0.0 if size == 2 else math.inf
    return _finite_rate(phi, size)


def _ratio(slopes: float, spread: float, mean_square: float, phi: Activation) -> float:
    if spread <= 1e-12 * mean_square:  # rounding
        raise ValueError(f"the activation {phi.name!r} leaves nothing to normalize")
    return slopes / spread


def _finite_rate(phi: Activation, size: int) -> float:
    def products(x: Tensor, y: Tensor) -> Tensor:
        f, d, e = phi.function(x), phi.slope(x), phi.slope(y)
        apart = f * (f - phi.function(y))
        return torch.stack([d**2, d * e, (x * d) ** 2, x * d * y * e, apart, f**2])

    square, other, own, cross, spread, whole = _sphere_mean(products, phi, size).tolist()
    # tr(C D C D) and xᵀ D C D x / B, each over B: their difference is tr(P D C D)/B.
    straight = (1 - 1 / size) ** 2 * square + (size - 1) / size**2 * other
    along = (own - cross) * (1 - 1 / size) / size
    return size**2 / ((size - 1) * (size - 3)) * _ratio(straight - along, spread, whole, phi)


def _sphere_mean(
    function: Callable[[Tensor, Tensor], Tensor], phi: Activation, size: int
) -> Tensor:
    """Return E[f(x₁, x₂)] for x uniform on the sphere of radius √B orthogonal to 1, B ≥ 4.

    The plane of the two coordinates meets the sphere in a disk. With its radius as sin ψ the
    density is cos^(B−4) ψ sin ψ: smooth, and narrow where B is large.
    """
    if any(kink != 0 for kink in phi.kinks):
        raise ValueError(
            f"means in a finite batch are accurate for kinks at 0 only, and {phi.name!r} has them "
            f"at {phi.kinks}"
        )
    between = math.acos(-1 / (size - 1))
    radius = math.sqrt(size - 1)
    angle, angle_weight = (t.flatten() for t in _gaussian._angles(between, 50.0))
    end = min(math.pi / 2, 10 / math.sqrt(size - 3))
    towards_0 = 0.5 ** torch.arange(4, 9, dtype=torch.float64)
    breaks = end * torch.cat([torch.linspace(0, 1, 13, dtype=torch.float64), towards_0]).unique()
    psi, psi_weight = (t.reshape(-1, 1) for t in _gaussian._spread(breaks, 16))
    weight = angle_weight * psi_weight * psi.sin() * psi.cos() ** (size - 4)
    r = radius * psi.sin()
    values = function(r * torch.sin(angle), r * torch.sin(angle - between))
    return (values * weight).sum((-2, -1)) / weight.sum()


def gradient_flow(
    norm: str = "batch",
    activation: str | Activation = "relu",
    *,
    after: bool = False,
    weight_variance: float = 2.0,
    width: int = 256,
    depth: int = 12,
    batch_size: int = 64,
    seeds: int | Sequence[int] = 8,
    eps: float = 0.0,
) -> Tensor:
    """Measure log₁₀ of the norm of δ at every layer of random networks with a norm and no biases.

    The layer is z_l = W_l a_{l−1} with a = φ(norm(z)), or norm(φ(z)) if the norm comes after; a_0
    is made from a normal z_0, and the gradient at a_L is normal, so that each layer is like the
    others. The same seed means the same draws whatever the norm.

    Args:
        norm: "none", "batch" (over the examples) or "layer" (over the units).
        activation: its name, or an :class:`~companion.activations.Activation`.
        after: whether to normalize after the activation.
        weight_variance: σ_w², fan_in times the variance of a weight; 2 for He.
        width: units in every layer.
        depth: number of layers.
        batch_size: examples, all in one batch.
        seeds: the seeds to draw, or how many, counting from 0.
        eps: ε, inside the root.

    Returns:
        float64 tensor of shape (seeds, depth), each row relative to its last layer, as
        :func:`companion.backprop.slope_per_layer` and :func:`companion.plots.gradient_flow` take
        it. The squared gradient grows by 10^(2 · slope) a layer.

    Source: Yang et al. (2019), arXiv 1902.08129.

    Example:
        >>> flow = gradient_flow("batch", width=300, depth=8, batch_size=32, seeds=4)
        >>> growth = 10 ** (2 * backprop.slope_per_layer(flow).mean().item())
        >>> abs(growth - explosion_rate("relu", batch_size=32)) < 0.05
        True

    """
    phi = activations.get(activation)
    over = {"none": None, "batch": -2, "layer": -1}[one_of("norm", norm, NORMS)]
    seeds = backprop._seed_list(seeds)
    width, depth = positive_integer("width", width), positive_integer("depth", depth)
    std = math.sqrt(non_negative("weight_variance", weight_variance) / width)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(*shape: int) -> Tensor:
        return torch.stack(
            [torch.randn(shape, generator=g, dtype=torch.float64) for g in generators]
        )

    def normalized(x: Tensor) -> Tensor:
        return x if over is None else standardize(x, over, eps=eps)

    def block(z: Tensor) -> Tensor:
        return normalized(phi.function(z)) if after else phi.function(normalized(z))

    shape = (positive_integer("batch_size", batch_size), width)
    output_gradient, a, layers = draw(*shape), block(draw(*shape)), []
    for _ in range(depth):
        z = a @ (std * draw(width, width)).mT
        layers.append(z if layers else z.requires_grad_())
        a = block(layers[-1])
    deltas = torch.autograd.grad(a, layers, output_gradient)
    norms = torch.stack([torch.linalg.vector_norm(d, dim=(-2, -1)) for d in deltas], dim=-1)
    return torch.log10(norms / norms[:, -1:])


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

    Example:
        >>> [round(value, 1) for value in batch_noise(4)], predicted_batch_noise(4).mean_std
        ([0.5, 0.8, 0.8], 0.5)

    """
    size, draws = _batch_of_two(batch_size), positive_integer("draws", draws)
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}")
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, draws, generator=generator, dtype=torch.float64)
    mean, var = x.new_zeros(draws), x.new_zeros(draws)
    x_hat = batch_norm(x, mean, var, training=True, momentum=1.0, eps=0.0)
    # What the batch was really divided by is read off its first two examples.
    root = (x[0] - x[1]) / (x_hat[0] - x_hat[1])
    return BatchNoise(mean.std().item(), var.std().item(), root.square().mean().item())


def predicted_batch_noise(batch_size: int) -> BatchNoise:
    """Return 1/√B, √(2/(B−1)) and (B−1)/B, which :func:`batch_noise` measures.

    Example:
        >>> [round(value, 6) for value in predicted_batch_noise(9)]
        [0.333333, 0.5, 0.888889]

    """
    size = _batch_of_two(batch_size)
    return BatchNoise(1 / math.sqrt(size), math.sqrt(2 / (size - 1)), (size - 1) / size)


def _batch_of_two(batch_size: int) -> int:
    if positive_integer("batch_size", batch_size) < 2:
        raise ValueError(f"batch_size must be at least 2, got {batch_size}")
    return int(batch_size)


# ---------------------------------------------------------------- smoothness along the gradient


def networks(
    sizes: Sequence[int],
    activation: str | Activation = "relu",
    *,
    norm: str = "batch",
    after: bool = False,
    scale: float = 2.0,
    seeds: int | Sequence[int] = 1,
) -> list[nn.Sequential]:
    """Return multilayer perceptrons with a norm around each hidden activation, one for each seed.

    They are float64, with normal weights of variance ``scale``/fan_in and zero biases, which are
    the same for a seed whatever the norm. Batch norm keeps no running statistics: its networks have
    no buffers, and what is given to them is always normalized as a batch.

    Args:
        sizes: n_0, n_1, …, n_L: the number of inputs, then of units in each layer.
        activation: its name, or an :class:`~companion.activations.Activation`.
        norm: "none", "batch" or "layer".
        after: whether it comes after the activation instead of before.
        scale: numerator of the weight variance.
        seeds: the seeds to draw, or how many, counting from 0.

    Example:
        >>> [type(layer).__name__ for layer in networks([3, 5, 2], "tanh")[0]]
        ['Linear', 'BatchNorm1d', 'Tanh', 'Linear']

    """
    one_of("norm", norm, NORMS)
    plain = backprop.random_mlp(sizes, activation, scale=scale, seeds=seeds, bias=True)
    made = []
    for model in backprop.to_modules(plain):
        layers: list[nn.Module] = []
        for linear, phi in zip(model[:-1:2], model[1::2], strict=True):
            units = _norm_module(norm, linear.out_features)
            layers += [linear, phi, *units] if after else [linear, *units, phi]
        made.append(nn.Sequential(*layers, model[-1]))
    return made


def _norm_module(norm: str, units: int) -> list[nn.Module]:
    if norm == "batch":
        return [nn.BatchNorm1d(units, track_running_stats=False, dtype=torch.float64)]
    return [nn.LayerNorm(units, dtype=torch.float64)] if norm == "layer" else []


@dataclass(frozen=True)
class Landscape:
    """The loss along its gradient, of S networks and at K step sizes η: at θ − η∇L(θ).

    Attributes:
        step_sizes: (K,) η.
        loss: (S,) where the step starts.
        gradient_norm: (S,) ‖∇L‖ there.
        losses: (S, K) at the end of each step.
        gradient_changes: (S, K) ‖∇L(θ − η∇L) − ∇L(θ)‖.

    """

    step_sizes: Tensor
    loss: Tensor
    gradient_norm: Tensor
    losses: Tensor
    gradient_changes: Tensor

    @property
    def loss_range(self) -> Tensor:
        """(S,) Largest less smallest loss at the ends of the steps."""
        return self.losses.amax(-1) - self.losses.amin(-1)

    @property
    def gradient_range(self) -> Tensor:
        """(S,) Largest change of the gradient along the steps."""
        return self.gradient_changes.amax(-1)

    @property
    def smoothness(self) -> Tensor:
        """(S,) Effective β: the largest change of the gradient over the distance that made it."""
        return (self.gradient_changes / (self.step_sizes * self.gradient_norm[..., None])).amax(-1)


def along_gradient(
    models: Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    step_sizes: Sequence[float],
    loss: training.Loss = nn.functional.cross_entropy,
) -> Landscape:
    """Walk from each network along its own gradient, by each step size, and look at the loss there.

    Args:
        models: networks of one architecture without running statistics; they are left as they are.
        inputs: (S, examples, …), a batch for each network, or one (examples, …) for all.
        targets: (S, examples, …) or (examples, …), likewise.
        step_sizes: η, all above 0.
        loss: of (outputs, targets), averaged over the batch.

    Returns:
        A :class:`Landscape`.

    Raises:
        ValueError: if the models are not built alike, or no step size or one not above 0 is given.

    Source: Santurkar et al. (2018), arXiv 1805.11604.

    Example:
        >>> x = torch.eye(4, 6, dtype=torch.float64)
        >>> models = networks([6, 5, 3], seeds=2)
        >>> found = along_gradient(models, x, torch.arange(4) % 3, step_sizes=[0.1, 0.2])
        >>> tuple(found.losses.shape), tuple(found.smoothness.shape)
        ((2, 2), (2,))

    """
    differentiate, start = _differentiation(models, loss)
    count = len(models)
    batch = [part.expand(count, *part.shape) for part in (inputs, targets)]
    return _walk(differentiate, start, _checked_steps(step_sizes), *batch)


def _checked_steps(step_sizes: Sequence[float]) -> list[float]:
    sizes = [non_negative("each of step_sizes", size) for size in step_sizes]
    if not sizes or min(sizes) == 0:
        raise ValueError(f"step_sizes needs at least one size above 0, got {list(step_sizes)}")
    return sizes


def _differentiation(
    models: Sequence[nn.Module], loss: training.Loss
) -> tuple[Differentiate, Parameters]:
    """Return what takes stacked parameters and batches to losses and gradients, and the first."""
    skeleton, start = training._stack(list(models))

    def one(parameters: Parameters, inputs: Tensor, targets: Tensor) -> Tensor:
        return loss(functional_call(skeleton, parameters, (inputs,)), targets)

    def differentiate(
        parameters: Parameters, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Parameters]:
        # No network's loss depends on another's parameters, so their sum has all the gradients.
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        value = vmap(one)(leaves, inputs, targets)
        found = torch.autograd.grad(value.sum(), list(leaves.values()))
        return value.detach(), dict(zip(leaves, found, strict=True))

    return differentiate, {name: p.detach() for name, p in start.items()}


def _moved(parameters: Parameters, gradient: Parameters, size: float) -> Parameters:
    return {name: p - size * gradient[name] for name, p in parameters.items()}


def _walk(
    differentiate: Differentiate,
    start: Parameters,
    step_sizes: list[float],
    inputs: Tensor,
    targets: Tensor,
) -> Landscape:
    value, gradient = differentiate(start, inputs, targets)
    losses, changes = [], []
    for size in step_sizes:
        there, other = differentiate(_moved(start, gradient, size), inputs, targets)
        losses.append(there)
        changes.append(_length(other[name] - gradient[name] for name in gradient))
    return Landscape(
        step_sizes=torch.tensor(step_sizes, dtype=value.dtype),
        loss=value,
        gradient_norm=_length(gradient.values()),
        losses=torch.stack(losses, dim=-1),
        gradient_changes=torch.stack(changes, dim=-1),
    )


def _length(tensors: Iterable[Tensor]) -> Tensor:
    """Return each network's norm of all the tensors together."""
    return torch.linalg.vector_norm(training._norms(tensors), dim=1)


def landscapes(
    models: Sequence[nn.Module],
    data: Split,
    *,
    step_sizes: Sequence[float],
    learning_rate: float,
    steps: int = 40,
    measure_every: int = 10,
    batch_size: int = 128,
    loss: training.Loss = nn.functional.cross_entropy,
    seed: int = 0,
) -> Landscape:
    """Train copies of networks by gradient descent, and walk :func:`along_gradient` as they go.

    It is measured before the first step and then every ``measure_every`` steps, on the batch of the
    step that follows.

    Args:
        models: networks of one architecture without running statistics; they are left as they are.
        data: what to train on.
        step_sizes: η of the walks, which are not taken.
        learning_rate: of the steps that are.
        steps: number of updates.
        measure_every: steps between measurements.
        batch_size: examples, drawn with replacement and for each network anew.
        loss: of (outputs, targets), averaged over the batch.
        seed: of the batches.

    Returns:
        A :class:`Landscape` whose tensors, but for the step sizes, have one more dimension in
        front: (T, S) and (T, S, K) for T measurements.

    Raises:
        ValueError: as :func:`along_gradient` does.

    Source: Santurkar et al. (2018), arXiv 1805.11604.

    Example:
        >>> from companion.data import digits
        >>> models = networks([64, 10, 10], seeds=3)
        >>> found = landscapes(models, digits(), step_sizes=[0.1], learning_rate=0.1, steps=20)
        >>> tuple(found.losses.shape), bool((found.loss[-1] < found.loss[0]).all())
        ((3, 3, 1), True)

    """
    sizes, rate = _checked_steps(step_sizes), non_negative("learning_rate", learning_rate)
    every = positive_integer("measure_every", measure_every)
    differentiate, parameters = _differentiation(models, loss)
    generator = torch.Generator().manual_seed(seed)
    shape = (len(models), positive_integer("batch_size", batch_size))
    found = []
    for step in range(positive_integer("steps", steps) + 1):
        rows = torch.randint(len(data.train_inputs), shape, generator=generator)
        batch = data.train_inputs[rows], data.train_targets[rows]
        if step % every == 0:
            found.append(_walk(differentiate, parameters, sizes, *batch))
        parameters = _moved(parameters, differentiate(parameters, *batch)[1], rate)
    columns = ("loss", "gradient_norm", "losses", "gradient_changes")
    stacked = {name: torch.stack([getattr(each, name) for each in found]) for name in columns}
    return Landscape(found[0].step_sizes, **stacked)
