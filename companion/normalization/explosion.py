"""The explosion of gradients below a norm: its rate in closed form, and in random networks.

A deep stack with batch norm *explodes* before it has been trained: a wide layer multiplies the mean
squared gradient by a factor that depends on the activation and the size of the batch, but not on
the variance of the weights. :func:`explosion_rate` computes it, :func:`gradient_flow` measures it,
and :func:`backward_factors` takes it apart, also in a network that has been trained.

Source: Yang et al. (2019), arXiv 1902.08129.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from companion import activations
from companion._lib import quadrature, random
from companion._lib.arguments import non_negative, one_of, positive_integer
from companion.activations import Activation
from companion.meanfield.steps import NORM_KINDS, NormKind
from companion.normalization.norms import NORMS, Norm, standardize


def explosion_rate(
    activation: str | Activation, *, norm: NormKind = "batch", batch_size: int | None = None
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
        TypeError: if ``batch_size`` is not a whole number.

    Source: Yang et al. (2019), arXiv 1902.08129.

    Example:
        >>> round(explosion_rate("relu"), 6), round(math.pi / (math.pi - 1), 6)
        (1.466942, 1.466942)
        >>> round(explosion_rate("identity", batch_size=5), 9)
        1.5

    """
    phi = activations.get(activation)
    one_of("norm", norm, NORM_KINDS)
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
    quadrature.kinks_at_0_only("means in a finite batch", phi.name, phi.kinks)
    between = math.acos(-1 / (size - 1))
    radius = math.sqrt(size - 1)
    angle, angle_weight = (t.flatten() for t in quadrature.angles(between, 50.0))
    end = min(math.pi / 2, 10 / math.sqrt(size - 3))
    towards_0 = 0.5 ** torch.arange(4, 9, dtype=torch.float64)
    breaks = end * torch.cat([torch.linspace(0, 1, 13, dtype=torch.float64), towards_0]).unique()
    psi, psi_weight = (t.reshape(-1, 1) for t in quadrature.panels(breaks, 16))
    weight = angle_weight * psi_weight * psi.sin() * psi.cos() ** (size - 4)
    r = radius * psi.sin()
    values = function(r * torch.sin(angle), r * torch.sin(angle - between))
    return (values * weight).sum((-2, -1)) / weight.sum()


def gradient_flow(
    norm: Norm = "batch",
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

    Raises:
        TypeError: if a count is not a whole number, or ``weight_variance`` or ε is not a number.
        ValueError: if ``norm`` is another word, a count is below 1, there is no seed, or
            ``weight_variance`` or ε is negative or not finite.

    Source: Yang et al. (2019), arXiv 1902.08129.

    Example:
        >>> from companion import backprop
        >>> flow = gradient_flow("batch", width=300, depth=8, batch_size=32, seeds=4)
        >>> growth = 10 ** (2 * backprop.slope_per_layer(flow).mean().item())
        >>> abs(growth - explosion_rate("relu", batch_size=32)) < 0.05
        True

    """
    phi = activations.get(activation)
    over = {"none": None, "batch": -2, "layer": -1}[one_of("norm", norm, NORMS)]
    seeds = random.seed_list(seeds)
    width, depth = positive_integer("width", width), positive_integer("depth", depth)
    std = math.sqrt(non_negative("weight_variance", weight_variance) / width)
    draw = partial(random.normal, random.generators(seeds))

    def normalized(x: Tensor) -> Tensor:
        return x if over is None else standardize(x, over, eps=eps)

    def block(z: Tensor) -> Tensor:
        return normalized(phi.function(z)) if after else phi.function(normalized(z))

    shape = (positive_integer("batch_size", batch_size), width)
    output_gradient, a = draw(*shape), block(draw(*shape))
    layers: list[Tensor] = []
    for _ in range(depth):
        z = a @ (std * draw(width, width)).mT
        layers.append(z if layers else z.requires_grad_())
        a = block(layers[-1])
    deltas = torch.autograd.grad(a, layers, output_gradient)
    norms = torch.stack([torch.linalg.vector_norm(d, dim=(-2, -1)) for d in deltas], dim=-1)
    return torch.log10(norms / norms[:, -1:])


class Factors(NamedTuple):
    """By what the squared norm of δ is multiplied from a hidden layer to the one below.

    Each is of shape (L − 2,) in a network of L layers, with an entry for each of the hidden layers
    but the last, the first of them first. The product of the four is the ratio of ‖δ‖², exactly.

    Attributes:
        weights: (L − 2,) by the weights, ‖Wᵀδ‖²/‖δ‖².
        slopes: (L − 2,) by the slope of the activation, and by γ.
        projection: (L − 2,) by what the norm takes out: the share that is left.
        root: (L − 2,) by the norm's division by s: a mean of 1/s².

    """

    weights: Tensor
    slopes: Tensor
    projection: Tensor
    root: Tensor


def backward_factors(
    model: nn.Sequential,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
) -> Factors:
    """Take apart what one network with batch norm does to δ from layer to layer.

    Args:
        model: linear layers, each but the last with a batch norm and an activation behind it, as
            :func:`companion.normalization.landscape.networks` makes them; it is left as it is.
        inputs: (examples, n_0), a batch.
        targets: (examples, …).
        loss: of (outputs, targets).

    Returns:
        :class:`Factors`, for L − 2 steps in a network of L layers.

    Raises:
        ValueError: if the model is built otherwise.

    Source: Yang et al. (2019), arXiv 1902.08129, on random networks.

    Example:
        >>> from companion.normalization.landscape import networks
        >>> x = torch.randn(16, 9, generator=torch.Generator().manual_seed(0)).double()
        >>> found = backward_factors(networks([9, 8, 8, 8, 3])[0], x, torch.arange(16) % 3)
        >>> tuple(found.root.shape), bool((found.projection < 1).all())
        ((2,), True)

    """
    kinds = [type(part) for part in model]
    wanted = all(kind is nn.Linear for kind in kinds[::3]) and len(kinds) % 3 == 1
    if not wanted or any(kind is not nn.BatchNorm1d for kind in kinds[1::3]):
        raise ValueError(f"model must be linear layers with batch norm, got {model}")
    values = [inputs]
    for part in model:
        values.append(part(values[-1]))
    z, y = values[1::3], values[2::3]
    gradients = torch.autograd.grad(loss(values[-1], targets), [*z, *y])
    deltas, below = gradients[: len(z)], gradients[len(z) :]
    rows = []
    for i in range(len(y) - 1):
        delta, linear, norm = deltas[i + 1], model[3 * i + 3], model[3 * i + 1]
        assert isinstance(linear, nn.Linear)  # as was checked, and norm too
        assert isinstance(norm, nn.BatchNorm1d)
        variance = z[i].var(0, correction=0) + norm.eps
        stages = [delta, delta @ linear.weight, below[i] * norm.weight]
        stages += [deltas[i] * variance.sqrt(), deltas[i]]
        squares = torch.stack([stage.detach().square().sum() for stage in stages])
        rows.append(squares[1:] / squares[:-1])
    return Factors(*torch.stack(rows).unbind(-1))
