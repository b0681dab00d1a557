"""What a whole network does to a small change of its input: end-to-end Jacobians and their spectra.

J = ∂z_L/∂a_0 = W_L D_{L-1} W_{L-1} … D_1 W_1, with D_l = diag φ′(z_l), one J for each input. Its
singular values say by how much the gradient is stretched in each direction on its way back. A deep
product spreads them so far apart that a computer resolves only some: :func:`singular_values` says
how many, and :func:`lyapunov` finds all their logarithms without ever forming the product.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from companion import activations, backprop, meanfield, products
from companion._lib import random
from companion._lib.arguments import floating, non_negative, one_of, positive_integer
from companion.backprop import MLP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Entries of a partial product worked on at a time: a megabyte of float64, which a core's own cache
# holds, so that scaling by the slopes costs little beside the multiplications.
TILE = 2**17
Weights = Literal["gaussian", "orthogonal"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
# In chaotic networks a single random change may by luck move J ten times less than rounding does.
CHANGES = 3


def end_to_end(
    model: nn.Module | MLP, inputs: Tensor, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return the Jacobian of the output with respect to the input, for each input.

    The model is left as it is: what is differentiated is a copy of it in ``dtype``. An
    :class:`~companion.backprop.MLP` takes a faster way, one matrix product a layer.

    Args:
        model: any module whose outputs are one tensor, or an MLP, possibly of several networks.
        inputs: (examples, ...) for a module; (*networks or nothing, examples, n_0) for an MLP.
        dtype: to compute in.

    Returns:
        Tensor of shape (examples, outputs, inputs), inputs and outputs flattened; for an MLP
        (*networks, examples, n_L, n_0).

    Raises:
        TypeError: if model, inputs or dtype is of another kind.
        ValueError: if the inputs are empty or not finite, or the output for one input depends on
            the other inputs, as with batch norm in training mode: J of one input is then not the
            whole derivative. Put the model in evaluation mode first.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
        >>> jacobians = end_to_end(model, torch.ones(7, 3))
        >>> tuple(jacobians.shape), jacobians.dtype
        ((7, 2, 3), torch.float64)

    """
    inputs = _checked(inputs, dtype)
    if isinstance(model, MLP):
        return _of_mlp(_cast(model, dtype), inputs)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module or an MLP, got {type(model).__name__}")
    return _of_module(copy.deepcopy(model).to(dtype), inputs)


def _checked(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be a floating-point dtype, got {dtype!r}")
    if floating("inputs", inputs).dim() < 2 or inputs.numel() == 0:
        raise ValueError(
            "inputs need at least one example of at least one feature, as (examples, features), "
            f"got {tuple(inputs.shape)}"
        )
    if not torch.isfinite(inputs).all():
        raise ValueError("inputs must be finite, got nan or inf among them")
    return inputs.detach().to(dtype)


def _cast(network: MLP, dtype: torch.dtype) -> MLP:
    return network.map(lambda part: part.detach().to(dtype))


def _of_module(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.enable_grad():
        inputs = inputs.clone().requires_grad_()
        output = model(inputs.clone())  # a leaf itself would not survive an in-place first layer
        if not isinstance(output, Tensor) or len(output) != len(inputs):
            shape = tuple(getattr(output, "shape", ()))
            raise ValueError(
                f"model must return a tensor with a row for each of the {len(inputs)} inputs, "
                f"got {type(output).__name__} of shape {shape}"
            )
        flat = output.reshape(len(inputs), -1)
        _require_apart(flat, inputs)
        basis = torch.eye(flat.shape[1], dtype=flat.dtype)
        rows = _pull_back(flat, inputs, basis.unsqueeze(1).expand(-1, len(inputs), -1))
    return rows.flatten(2).transpose(0, 1)


def _pull_back(output: Tensor, inputs: Tensor, cotangents: Tensor) -> Tensor:
    """Return the gradient at the inputs for each of the stacked gradients at the output."""
    if not output.requires_grad:  # nothing in the model depends on anything
        return cotangents.new_zeros(len(cotangents), *inputs.shape)
    (found,) = torch.autograd.grad(
        output, inputs, cotangents, retain_graph=True, is_grads_batched=True, allow_unused=True
    )
    return cotangents.new_zeros(len(cotangents), *inputs.shape) if found is None else found


def _require_apart(output: Tensor, inputs: Tensor) -> None:
    """Raise if a gradient at some examples' outputs reaches other examples' inputs.

    Any two examples differ in a bit of their number, so that splitting by each bit parts them all.
    """
    number = torch.arange(len(inputs))
    bits = range((len(inputs) - 1).bit_length())
    halves = [((number >> bit) & 1) == side for bit in bits for side in (0, 1)]
    if not halves:
        return
    masks = torch.stack(halves)
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    reached = _pull_back(output, inputs, masks.unsqueeze(-1) * random).flatten(2)
    crossed = (reached != 0) & ~reached.isnan() & ~masks.unsqueeze(-1)
    if crossed.any():
        raise ValueError(
            "model's output for one input depends on the other inputs (batch norm in training "
            "mode?), so that no input has a Jacobian of its own: call model.eval() first"
        )


def _of_mlp(network: MLP, inputs: Tensor) -> Tensor:
    cache = backprop.forward(network, inputs)
    sizes = _sizes(network)
    areas = [weight.shape[-1] * weight.shape[-2] for weight in network.weights]
    from_output = sizes[-1] * sum(areas[:-1]) <= sizes[0] * sum(areas[1:])
    factors, slopes = _ordered(network, cache, from_output=from_output)
    shape = (*cache.output.shape[:-1], factors[0].shape[-2], factors[-1].shape[-1])
    product = inputs.new_empty(shape)
    tile = max(1, TILE // (factors[0].shape[-2] * max(sizes)))
    for start in range(0, shape[-3], tile):
        part = slice(start, start + tile)
        product[..., part, :, :] = _chain(factors, [slope[..., part, :] for slope in slopes])
    return product if from_output else product.mT


def _sizes(network: MLP) -> list[int]:
    return [network.weights[0].shape[-1], *(weight.shape[-2] for weight in network.weights)]


def _ordered(
    network: MLP, cache: backprop.Cache, *, from_output: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the factors f and slopes d of J = f₀d₀f₁d₁…, or of Jᵀ if it begins at the input."""
    slopes = [network.activation.slope(z) for z in cache.z[:-1]]
    if from_output:
        return list(network.weights[::-1]), slopes[::-1]
    return [weight.mT for weight in network.weights], slopes


def _chain(factors: list[Tensor], slopes: list[Tensor]) -> Tensor:
    """Return f₀d₀f₁d₁… for each example, all examples in one matrix product a layer."""
    product = factors[0].unsqueeze(-3)
    for slope, factor in zip(slopes, factors[1:], strict=True):
        scaled = product * slope.unsqueeze(-2)
        # The rows of all examples one below the other: they share the factor.
        rows = scaled.flatten(-3, -2) @ factor
        product = rows.unflatten(-2, scaled.shape[-3:-1])
    return product


class Spectrum(NamedTuple):
    """Singular values of the Jacobian of each input, and how far to trust them.

    Attributes:
        values: (..., examples, k) in falling order, k the smaller of the two dimensions.
        error: (..., examples) what rounding may have done to any of them.
        resolved: (..., examples) how many of them stand above that, as int64: the resolvable rank.

    """

    values: Tensor
    error: Tensor
    resolved: Tensor


def singular_values(
    model: nn.Module | MLP, inputs: Tensor, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Spectrum:
    """Return the singular values of the Jacobian of each input, and how many are resolved.

    No singular value moves further than the norm of what is added to its matrix (Weyl). What
    rounding adds is measured: weights and inputs are changed at random in their last bit, three
    times over, and ``error`` is the largest norm (Frobenius) of what that changes in J. It is never
    taken below eps·max(m, n)·σ_max, the error of the decomposition itself. A network that amplifies
    small changes of its signal resolves less than its singular values alone would suggest.

    Args:
        model: as for :func:`end_to_end`, without randomness of its own (dropout).
        inputs: (examples, ...) for a module; (*networks or nothing, examples, n_0) for an MLP.
        dtype: to compute in. The spectrum is of the weights as ``dtype`` holds them.
        seed: of the last bits.

    Raises:
        TypeError: as :func:`end_to_end` does.
        ValueError: as there, or if a Jacobian overflows.

    Example:
        >>> weights = (torch.diag(torch.tensor([2.0, 1.0, 1e-20], dtype=torch.float64)),)
        >>> spectrum = singular_values(
        ...     MLP(weights, None, activations.get("tanh")), torch.ones(1, 3)
        ... )
        >>> spectrum.resolved.tolist(), [round(s, 6) for s in spectrum.values[0].tolist()]
        ([2], [2.0, 1.0, 0.0])

    """
    jacobians = end_to_end(model, inputs, dtype=dtype)
    if not torch.isfinite(jacobians).all():
        raise ValueError(f"model has a Jacobian that is not finite in {dtype}; see lyapunov()")
    values = torch.linalg.svdvals(jacobians)
    error = torch.finfo(dtype).eps * max(jacobians.shape[-2:]) * values[..., 0]
    generator = random.generator(seed)
    for _ in range(CHANGES):
        changed = end_to_end(
            _last_bits(model, dtype, generator), _changed(inputs.to(dtype), generator), dtype=dtype
        )
        error = torch.maximum(error, torch.linalg.matrix_norm(changed - jacobians))
    return Spectrum(values, error, (values > error.unsqueeze(-1)).sum(-1))


def _changed(value: Tensor, generator: torch.Generator) -> Tensor:
    sign = torch.randint(0, 2, value.shape, generator=generator) * 2 - 1
    return value + value * sign * torch.finfo(value.dtype).eps


def _last_bits(
    model: nn.Module | MLP, dtype: torch.dtype, generator: torch.Generator
) -> nn.Module | MLP:
    if isinstance(model, MLP):
        return _cast(model, dtype).map(lambda part: _changed(part, generator))
    model = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(_changed(parameter, generator))
    return model


def lyapunov(network: MLP, inputs: Tensor, *, seed: int = 0) -> Tensor:
    """Return the Lyapunov spectrum of each input: ln of each singular value, per layer.

    A frame of orthonormal vectors is carried through the network and orthonormalized after every
    layer (QR); the logarithms of R's diagonal are added up. Nothing underflows, at any depth. Their
    sum is that of the ln σ_k per layer exactly; each by itself comes to ln σ_k / L as L grows, with
    an error of order 1/L.

    Args:
        network: the MLP, possibly of several networks.
        inputs: (*networks or nothing, examples, n_0).
        seed: of the frame to start from.

    Returns:
        float64 tensor (*networks, examples, k), k the smaller of n_0 and n_L, in falling order but
        for chance; -inf for the directions that are lost altogether, as behind inactive ReLUs.

    Raises:
        TypeError: if the network is not an MLP.
        ValueError: if a layer is narrower than both ends, or the inputs are empty or not finite.

    Source: Benettin et al. (1980).

    Example:
        >>> halves = tuple(0.5 * torch.eye(3, dtype=torch.float64) for _ in range(5000))
        >>> network = MLP(halves, None, activations.get("identity"))
        >>> [round(value, 6) for value in lyapunov(network, torch.ones(1, 3))[0].exp().tolist()]
        [0.5, 0.5, 0.5]

    """
    if not isinstance(network, MLP):
        raise TypeError(f"network must be an MLP, got {type(network).__name__}")
    network = _cast(network, torch.float64)
    cache = backprop.forward(network, _checked(inputs, torch.float64))
    sizes = _sizes(network)
    from_output = sizes[-1] < sizes[0]
    k = min(sizes[0], sizes[-1])
    if min(sizes) < k:
        raise ValueError(f"network has a layer narrower than both its ends: sizes {sizes}")
    factors, slopes = _ordered(network, cache, from_output=from_output)
    # In a random frame the directions that a layer loses come last, where QR can tell them.
    (start,) = torch.linalg.qr(random.normal([random.generator(seed, "inputs")], k, k)).Q
    frame = factors[0].mT.unsqueeze(-3) @ start
    frame = frame.expand(*cache.output.shape[:-1], *frame.shape[-2:])
    frame, logs = _orthonormalized(frame)
    for slope, factor in zip(slopes, factors[1:], strict=True):
        frame, more = _orthonormalized(factor.mT.unsqueeze(-3) @ (slope.unsqueeze(-1) * frame))
        logs = logs + more
    return logs / len(factors)


def _orthonormalized(frame: Tensor) -> tuple[Tensor, Tensor]:
    """Return the frame made orthonormal and ln of its stretches; what is lost becomes zero."""
    q, r = torch.linalg.qr(frame)
    stretch = torch.diagonal(r, dim1=-2, dim2=-1).abs()
    size = torch.linalg.matrix_norm(frame).unsqueeze(-1)
    lost = stretch <= max(frame.shape[-2:]) * torch.finfo(frame.dtype).eps * size
    return q * ~lost.unsqueeze(-2), stretch.log().masked_fill(lost, -math.inf)


def gaussian_exponents(n: int, weight_variance: float = 1.0) -> Tensor:
    """Return the exact Lyapunov spectrum of a product of n×n Gaussian matrices, variance σ_w²/n.

    The k-th vector of the frame keeps a chi distributed part with n-k+1 degrees of freedom beside
    those before it, so λ_k = ½[ψ((n-k+1)/2) + ln(2σ_w²/n)].

    Args:
        n: rows and columns, and number of exponents.
        weight_variance: σ_w², n times the variance of an entry.

    Returns:
        float64 tensor (n,), in falling order.

    Raises:
        TypeError: if ``n`` is not a whole number, or ``weight_variance`` is no number.
        ValueError: if ``n`` is below 1, or ``weight_variance`` is not positive and
            finite.

    Source: Newman (1986).

    Example:
        >>> [round(value, 4) for value in gaussian_exponents(16)[:2].tolist()]
        [-0.0319, -0.0663]

    """
    n = positive_integer("n", n)
    weight_variance = non_negative("weight_variance", weight_variance)
    kept = range(n, 0, -1)
    values = [products.gaussian_lyapunov(m, weight_variance * m / n) for m in kept]
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Ensemble:
    """Random networks of square layers without biases.

    Attributes:
        activation: name of the activation.
        weights: ``"gaussian"``, or ``"orthogonal"``: uniform rotations times σ_w.
        weight_variance: σ_w², n times the variance of a weight.

    """

    activation: str
    weights: Weights
    weight_variance: float = 1.0


ENSEMBLES = tuple(
    Ensemble(activation, weights, variance)
    for activation, variance in (("identity", 1.0), ("tanh", 1.0), ("relu", 2.0))
    for weights in WEIGHTS
)


def spectra(
    ensembles: Sequence[Ensemble] = ENSEMBLES,
    *,
    width: int = 100,
    depth: int = 8,
    seeds: int | Sequence[int] = 10,
    input_mean_square: float = 1.0,
) -> Tensor:
    """Draw networks and return the singular values of ∂a_L/∂a_0 = D_L W_L … D_1 W_1.

    Here the last layer too has its activation, so that each of the L layers is alike. Each network
    has one normal input.

    Args:
        ensembles: what to draw; those with weights of one kind see the same draws, scaled.
        width: units in every layer, and number of inputs.
        depth: L, the number of layers.
        seeds: the seeds to draw, or how many, counting from 0.
        input_mean_square: of the inputs.

    Returns:
        float64 tensor (ensembles, seeds, width), in falling order.

    Raises:
        TypeError: if a count is not a whole number, or a scale or ``input_mean_square`` is not a
            number.
        ValueError: if there is no ensemble or no seed, a word of an ensemble is unknown, a count is
            below 1, or a scale or ``input_mean_square`` is negative or not finite.

    Source: Pennington, Schoenholz & Ganguli (2017), arXiv 1711.04735.

    Example:
        >>> values = spectra([Ensemble("identity", "orthogonal")], width=20, depth=100, seeds=2)
        >>> round(values.min().item(), 12), round(values.max().item(), 12)
        (1.0, 1.0)

    """
    if not ensembles:
        raise ValueError("ensembles needs at least one ensemble, got none")
    seeds = random.seed_list(seeds)
    draws = {
        "gaussian": products.gaussian_factors(width, depth, seeds=seeds),
        "orthogonal": products.rotations(width, depth, seeds=seeds),
    }
    inputs = random.normal(random.generators(seeds, "inputs"), 1, width)
    inputs = inputs * math.sqrt(non_negative("input_mean_square", input_mean_square))
    found = []
    for ensemble in ensembles:
        unit = draws[one_of("weights", ensemble.weights, WEIGHTS)]
        std = math.sqrt(non_negative("weight_variance", ensemble.weight_variance))
        weights = (unit * std).unbind(1)
        # An identity on top makes the last activation a hidden one.
        top = torch.eye(width, dtype=torch.float64).expand(len(seeds), -1, -1)
        network = MLP((*weights, top), None, activations.get(ensemble.activation))
        found.append(torch.linalg.svdvals(end_to_end(network, inputs)).squeeze(-2))
    return torch.stack(found)


def relative_variance(values: Tensor) -> Tensor:
    """Return the variance of the squared singular values over their squared mean.

    Args:
        values: (..., k) singular values.

    Returns:
        Tensor (...); 0 for an isometry, which stretches all directions alike.

    Raises:
        ValueError: if all the values in a row are 0.
        TypeError: if the values are not a floating-point tensor.

    Example:
        >>> round(relative_variance(torch.tensor([1.0, 3.0], dtype=torch.float64)).item(), 6)
        0.64

    """
    squares = floating("values", values).square()
    mean = squares.mean(-1)
    if (mean == 0).any():
        raise ValueError("values are all 0, which have no relative variance")
    return squares.var(-1, correction=0) / mean.square()


def predicted_relative_variance(
    ensemble: Ensemble, *, depth: int, input_mean_square: float = 1.0
) -> float:
    """Return what :func:`relative_variance` comes to in wide networks.

    Each layer adds 1 if its weights are Gaussian, 0 if they are orthogonal, and
    E[φ′⁴]/E[φ′²]² - 1 for its activation: 0 for the identity, 1 for ReLU.

    Args:
        ensemble: of the networks.
        depth: L, the number of layers.
        input_mean_square: of the inputs.

    Raises:
        TypeError: if ``depth`` is not a whole number, or ``input_mean_square`` is not a number.
        ValueError: if a word of the ensemble is unknown, ``depth`` is below 1, or
            ``input_mean_square`` is negative or not finite.

    Source: Pennington, Schoenholz & Ganguli (2017), arXiv 1711.04735.

    Example:
        >>> predicted_relative_variance(Ensemble("identity", "gaussian"), depth=8)
        8.0

    """
    slope = activations.get(ensemble.activation).slope
    gaussian = one_of("weights", ensemble.weights, WEIGHTS) == "gaussian"
    q = ensemble.weight_variance * non_negative("input_mean_square", input_mean_square)
    total = 0.0
    for _ in range(positive_integer("depth", depth)):
        second = meanfield.gaussian_mean(lambda z: slope(z) ** 2, q)
        fourth = meanfield.gaussian_mean(lambda z: slope(z) ** 4, q)
        total += gaussian + fourth / second**2 - 1
        q = meanfield.length_map(q, ensemble.activation, ensemble.weight_variance)
    return round(total, 12)


def histogram(
    ax: "Axes",
    values: Tensor,
    *,
    width: float = 0.1,
    label: str | None = None,
    color: str | None = None,
) -> "Axes":
    """Draw the share of singular values in each bin, on a logarithmic axis.

    All bins have one width, in the middle of one of them is 1, and so the bars of several calls can
    be compared. Values below 1e-12 of the largest are not drawn: those that ReLUs make 0 are
    rounding errors.

    Args:
        ax: where to draw.
        values: singular values of any shape, at least one of them positive.
        width: of a bin, in powers of ten.
        label: for the legend.
        color: the next of the cycle if None.

    Returns:
        The same Axes.

    Raises:
        ValueError: if no value is positive, or ``width`` is not positive.
        TypeError: if the values are not a floating-point tensor, or ``width`` is not a number.

    """
    flat = floating("values", values).detach().flatten()
    if not non_negative("width", width) > 0:
        raise ValueError("width must be positive, got 0")
    if not (flat > 0).any():
        raise ValueError("values need at least one positive singular value, got none")
    logs = flat[flat > 1e-12 * flat.max()].log10()
    first, last = (math.floor(end.item() / width + 0.5) for end in (logs.min(), logs.max()))
    ax.hist(
        logs.numpy(),
        bins=[(k - 0.5) * width for k in range(first, last + 2)],
        weights=torch.full_like(logs, 1 / len(flat)).numpy(),
        label=label,
        color=color,
    )
    ax.set(xlabel="log₁₀ singular value", ylabel="share")
    return ax
