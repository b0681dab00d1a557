"""Stacks of equal layers: what lengths, correlations and gradients do, and where they settle.

A wide layer with weights of variance σ_w²/n and biases of variance σ_b² turns pre-activations of
variance q into pre-activations of variance σ_w² E[φ(√q g)²] + σ_b², with g standard normal, and on
the way back multiplies the squared gradient by χ = σ_w² E[φ′(√q g)²]. Two inputs whose
pre-activations have correlation c come out with another one, by the correlation map.

Each map is a layer of :class:`~companion.meanfield.State`'s steps.

Sources: Poole et al. (2016), arXiv 1606.05340; Schoenholz et al. (2017), arXiv 1611.01232.
Mean and variance apart, for networks that normalize themselves: Klambauer et al. (2017), arXiv
1706.02515.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from companion import activations
from companion._lib import quadrature, random
from companion._lib.arguments import non_negative, positive_integer
from companion.activations import Activation
from companion.meanfield.steps import Gradient, State, chi, gaussian_mean, half_distance

#: A factor this near to 1 has no depth scale that could be told from infinity.
CRITICAL_TOLERANCE = 1e-9


def length_map(
    q: float, activation: str | Activation, weight_variance: float, bias_variance: float = 0.0
) -> float:
    """Return the variance of the next layer's pre-activations, given this layer's variance ``q``.

    Args:
        q: variance of this layer's pre-activations.
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w², which is fan_in times the variance of one weight.
        bias_variance: σ_b², the variance of one bias.

    Raises:
        TypeError: if ``q`` or a variance is not a number.
        ValueError: if one of them is negative or not finite.

    Example:
        >>> round(length_map(1.0, "relu", weight_variance=2.0), 10)
        1.0

    """
    return State(q).activation(activation).weights(weight_variance, bias_variance).square


def correlation_map(
    correlation: float,
    q: float,
    activation: str | Activation,
    weight_variance: float,
    bias_variance: float = 0.0,
) -> float:
    """Return the correlation of the next layer's pre-activations at two inputs.

    Args:
        correlation: c, of this layer's pre-activations at the two inputs.
        q: their variance, the same at both.
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w².
        bias_variance: σ_b².

    Raises:
        ValueError: if an argument is out of range, or the next layer has length 0.
        TypeError: if ``q`` or a variance is not a number.

    Source: Poole et al. (2016), arXiv 1606.05340; for ReLU, Cho & Saul (2009) have it in closed
    form.

    Example:
        >>> round(correlation_map(0.0, 1.0, "relu", weight_variance=2.0), 6)  # 1 over π
        0.31831

    """
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation must be from -1 to 1, got {correlation}")
    layer = State(q, (1 - correlation) * q).activation(activation)
    following = layer.weights(weight_variance, bias_variance)
    if following.square == 0:
        raise ValueError("the next layer has length 0, and no correlation")
    return following.correlation


def gradient_flow(
    activation: str | Activation,
    weight_variance: float,
    bias_variance: float = 0.0,
    *,
    depth: int,
    input_mean_square: float = 1.0,
) -> Tensor:
    """Predict log₁₀ of the norm of δ at layers 1 to ``depth``, relative to the last one.

    The length of the signal is followed forward from the input, and the gradient back through the
    lengths it met, so the line holds at finite depth and not only at a fixed point.

    Args:
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w² of every layer.
        bias_variance: σ_b² of every layer.
        depth: number of layers, at least 1.
        input_mean_square: mean of the squared inputs.

    Returns:
        float64 tensor of shape (depth,), whose last entry is 0.

    Raises:
        TypeError: if ``depth`` is not a whole number, or a variance or ``input_mean_square`` is not
            a number.
        ValueError: if ``depth`` is below 1, or one of the others is negative or not finite.

    Source: Schoenholz et al. (2017), arXiv 1611.01232.

    Example:
        >>> flow = gradient_flow("relu", 1.0, depth=3)
        >>> [round(value, 4) for value in flow.tolist()]
        [-0.301, -0.1505, 0.0]

    """
    depth = positive_integer("depth", depth)
    inputs = State(non_negative("input_mean_square", input_mean_square))
    z = inputs.weights(weight_variance, bias_variance)
    factors = []
    for _ in range(depth - 1):
        z = z.start().activation(activation).weights(weight_variance, bias_variance)
        factors.append(z.back(Gradient(1.0)).square)
    steps = torch.tensor([*factors, 1.0], dtype=torch.float64).log10() / 2
    return steps.flip(0).cumsum(0).flip(0)


def fixed_point(
    activation: str | Activation,
    weight_variance: float,
    bias_variance: float = 0.0,
    *,
    start: float = 1.0,
    tolerance: float = 1e-12,
    max_iterations: int = 3000,
) -> float:
    """Return q*, the length that the length map leaves as it is.

    Args:
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w².
        bias_variance: σ_b².
        start: the length from which the map is iterated.
        tolerance: by how much the last step may still change the length, relative to it where it is
            above 1.
        max_iterations: steps of the map at most.

    Raises:
        ValueError: if the iteration from ``start`` settles nowhere: the length grows without bound,
            or approaches its limit more slowly than any exponential (as tanh does at σ_w² = 1).
            Also if ``start`` or a variance is negative or not finite.
        TypeError: if ``start`` or a variance is not a number.

    Example:
        >>> round(fixed_point("tanh", 1.3, 0.05), 4)
        0.3153

    """
    q, steps, even = non_negative("start", start), math.inf, 0
    for _ in range(max_iterations):
        following = length_map(q, activation, weight_variance, bias_variance)
        step = following - q
        if abs(step) <= tolerance * max(1.0, q):
            return following
        # ReLU at its critical variance, with biases, grows by the same amount at every layer.
        even = even + 1 if abs(step - steps) <= 1e-9 * abs(step) else 0
        q, steps = following, step
        if even == 100 or not following < 1e100:
            break
    raise ValueError(
        f"no fixed point reached for weight_variance={weight_variance} and "
        f"bias_variance={bias_variance}: from {start:g} the length came to {q:.3g}"
    )


def length_slope(q: float, activation: str | Activation, weight_variance: float) -> float:
    """Return the derivative of the length map at ``q``: below 1 at a fixed point that attracts.

    Args:
        q: variance of this layer's pre-activations.
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w².

    Raises:
        TypeError: if ``q`` or ``weight_variance`` is not a number.
        ValueError: if one of them is negative or not finite.

    Example:
        >>> round(length_slope(1.0, "relu", weight_variance=1.0), 10)
        0.5

    """
    phi = activations.get(activation)
    if q == 0:
        return chi(q, activation, weight_variance)
    # d/dq E[φ²] = E[φ φ′ z] / q, by the chain rule on z = √q g.
    mean = gaussian_mean(lambda z: phi.function(z) * phi.slope(z) * z, q, kinks=phi.kinks)
    return non_negative("weight_variance", weight_variance) * mean / q


def correlation_fixed_point(
    activation: str | Activation, weight_variance: float, bias_variance: float = 0.0
) -> float:
    """Return c*, the correlation to which that of any two different inputs tends with depth.

    It is 1 if χ₁ = χ at the fixed point of the length is at most 1: inputs become alike. Otherwise
    1 repels, and there is one other fixed point. (The map is a power series in c with coefficients
    that are not negative, so it is convex from 0 to 1 and meets the diagonal at most twice there.)

    Args:
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w².
        bias_variance: σ_b².

    Raises:
        ValueError: if the length has no fixed point; if a variance is negative or not finite; or if
            1 repels, and φ has kinks elsewhere than at 0.
        TypeError: if a variance is not a number.

    Source: Poole et al. (2016), arXiv 1606.05340.

    Example:
        >>> round(correlation_fixed_point("tanh", 3.3, 0.05), 4)
        0.2445

    """
    q = fixed_point(activation, weight_variance, bias_variance)
    return _correlation_fixed_point(q, activation, weight_variance, bias_variance)


def _correlation_fixed_point(
    q: float, activation: str | Activation, weight_variance: float, bias_variance: float
) -> float:
    if chi(q, activation, weight_variance) <= 1 + CRITICAL_TOLERANCE:
        return 1.0
    length = length_map(q, activation, weight_variance, bias_variance)

    def repulsion(c: float) -> float:
        """How much further from 1 the map takes c: it grows from c = 0 to χ₁ at 1."""
        return weight_variance * half_distance(c, q, activation) / (length * (1 - c)) - 1

    if repulsion(0.0) > -1e-12:  # the map leaves 0 where it is: an odd φ, and no biases
        return 0.0
    return _root(repulsion, 0.0, 1 - 1e-12)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a continuous function changes its sign between two points."""
    from scipy.optimize import brentq

    return brentq(function, low, high, xtol=1e-15, rtol=1e-14)


def critical_weight_variance(activation: str | Activation, bias_variance: float = 0.0) -> float:
    """Return the σ_w² at which χ is 1 at the length's fixed point: the edge of chaos.

    At χ = 1 the weights have variance 1/E[φ′²], so that the fixed points are the zeros of
    E[φ²]/E[φ′²] + σ_b² − q, one function of the length q. Only those that attract the length count:
    a network does not stay at the others. Lengths from 1e-8 to 1e8 are searched, and 0.

    Args:
        activation: its name, or an :class:`~companion.activations.Activation`.
        bias_variance: σ_b².

    Raises:
        ValueError: if ``bias_variance`` is negative or not finite; if there is no such σ_w², or
            more than one.
        TypeError: if ``bias_variance`` is not a number.

    Source: Poole et al. (2016), arXiv 1606.05340; Schoenholz et al. (2017), arXiv 1611.01232.

    Example:
        >>> round(critical_weight_variance("tanh", 0.05), 4)
        1.761
        >>> round(critical_weight_variance("relu"), 10)
        2.0

    """
    phi = activations.get(activation)
    bias_variance = non_negative("bias_variance", bias_variance)

    def excess(log_q: float) -> float:
        q = 10**log_q
        found = activations.gaussian_moments(phi, q)
        return (found.mean_square / found.slope_mean_square + bias_variance) / q - 1

    def weight_variance(q: float) -> float:
        return 1 / activations.gaussian_moments(phi, q).slope_mean_square

    grid = [(k / 4, excess(k / 4)) for k in range(-32, 33)]
    # What is smaller is rounding: φ² and φ′² in proportion, as all of ReLU's are, or q near 0.
    grid = [(log_q, value) for log_q, value in grid if abs(value) > 1e-12]
    if not grid:  # every length is a fixed point
        return weight_variance(1.0)
    roots = [10 ** _root(excess, a, b) for (a, fa), (b, fb) in pairwise(grid) if fa * fb < 0]
    found = [(weight_variance(q), q, length_slope(q, phi, weight_variance(q))) for q in roots]
    at_zero = torch.zeros((), dtype=torch.float64)
    if bias_variance == 0 and phi.function(at_zero) == 0:
        # Kinks have no slope at 0, but two next to it.
        critical = weight_variance(1e-30)
        found.append((critical, 0.0, length_map(1e-4, phi, critical) / 1e-4))
    attracting = [critical for critical, _, slope in found if slope < 1]
    if len(attracting) == 1:
        return attracting[0]
    listed = [
        f"{critical:.4g} (length {q:.3g}, which {'attracts' if slope < 1 else 'repels'})"
        for critical, q, slope in found
    ]
    raise ValueError(
        f"{phi.name!r} with bias_variance={bias_variance} has {len(attracting)} critical weight "
        f"variances at a length that attracts, not 1; found: {', '.join(listed) or 'none at all'}"
    )


class DepthScales(NamedTuple):
    """Over how many layers something decays, or grows, by a factor e; infinite if it does neither.

    Attributes:
        length: ξ_q = 1/|ln χ_q|, of the length's distance from its fixed point.
        correlation: ξ_c = 1/|ln χ(c*)|, of the correlation's distance from its fixed point c*.
        gradient: 1/|ln χ₁|, of the squared norm of the gradient.

    """

    length: float
    correlation: float
    gradient: float


def depth_scales(
    activation: str | Activation, weight_variance: float, bias_variance: float = 0.0
) -> DepthScales:
    """Return the depth scales of a network that has settled at its fixed points.

    Beyond about six times the correlation's, which is :func:`depth_scale`, a network is not
    trained, say Schoenholz et al.

    Args:
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w².
        bias_variance: σ_b².

    Raises:
        ValueError: if a variance is negative or not finite, or the length has no fixed point; or if
            1 repels, and φ has kinks elsewhere than at 0.
        TypeError: if a variance is not a number.

    Source: Schoenholz et al. (2017), arXiv 1611.01232.

    Example:
        >>> round(depth_scales("tanh", 1.3, 0.05).correlation, 2)
        7.83

    """
    q = fixed_point(activation, weight_variance, bias_variance)
    c = _correlation_fixed_point(q, activation, weight_variance, bias_variance)

    def scale(factor: float) -> float:
        if factor == 0:
            return 0.0
        return math.inf if abs(factor - 1) <= CRITICAL_TOLERANCE else 1 / abs(math.log(factor))

    return DepthScales(
        scale(length_slope(q, activation, weight_variance)),
        scale(chi(q, activation, weight_variance, correlation=c)),
        scale(chi(q, activation, weight_variance)),
    )


def depth_scale(
    activation: str | Activation, weight_variance: float, bias_variance: float = 0.0
) -> float:
    """Return ξ, over how many layers two inputs become a factor e more alike, or less.

    It is the one of the :func:`depth_scales` that limits training.

    Args:
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w².
        bias_variance: σ_b².

    Raises:
        ValueError: as :func:`depth_scales`.
        TypeError: if a variance is not a number.

    Source: Schoenholz et al. (2017), arXiv 1611.01232.

    Example:
        >>> round(depth_scale("tanh", 1.3, 0.05), 2)
        7.83

    """
    return depth_scales(activation, weight_variance, bias_variance).correlation


class Moments(NamedTuple):
    """Mean and variance of activations: two numbers, or one of each for networks and layers.

    Attributes:
        mean: a number, or (seeds, depth) as :func:`measured_moments` returns it.
        variance: of the same shape; about the mean.

    """

    mean: float | Tensor
    variance: float | Tensor


def moment_map(
    mean: float,
    variance: float,
    activation: str | Activation,
    *,
    weight_sum: float = 0.0,
    weight_square_sum: float = 1.0,
) -> Moments:
    """Return mean and variance of a layer's activations, given those of the layer below.

    Args:
        mean: μ of the activations below.
        variance: ν of the activations below.
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_sum: ω, the sum of a unit's weights.
        weight_square_sum: τ, the sum of their squares: n·Var W for weights of mean 0.

    Raises:
        TypeError: if ``variance`` or ``weight_square_sum`` is not a number.
        ValueError: if one of them is negative or not finite, or the mean is not finite.

    Source: Klambauer et al. (2017), arXiv 1706.02515: a pre-activation is normal with mean μω and
    variance ντ.

    Example:
        >>> mean, variance = moment_map(0.0, 1.0, "selu")
        >>> abs(mean) < 1e-12, abs(variance - 1) < 1e-12
        (True, True)

    """
    spread = non_negative("variance", variance) * non_negative(
        "weight_square_sum", weight_square_sum
    )
    found = activations.gaussian_moments(activation, spread, mean * weight_sum)
    return Moments(found.mean, found.mean_square - found.mean**2)


def moment_jacobian(
    mean: float,
    variance: float,
    activation: str | Activation,
    *,
    weight_sum: float = 0.0,
    weight_square_sum: float = 1.0,
) -> Tensor:
    """Return the Jacobian of :func:`moment_map`: rows mean and variance out, columns in.

    A fixed point attracts if the eigenvalues are below 1 in size.

    Args:
        mean: μ of the activations below.
        variance: ν of the activations below.
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_sum: ω, the sum of a unit's weights.
        weight_square_sum: τ, the sum of their squares.

    Returns:
        float64 tensor of shape (2, 2).

    Raises:
        ValueError: if one of them is negative or not finite, or the pre-activations have no
            variance.
        TypeError: if ``variance`` or ``weight_square_sum`` is not a number.

    Example:
        >>> [[round(x, 4) for x in row] for row in moment_jacobian(0.0, 1.0, "selu").tolist()]
        [[0.0, 0.0888], [0.0, 0.7826]]

    """
    phi = activations.get(activation)
    m = mean * weight_sum
    v = non_negative("variance", variance) * non_negative("weight_square_sum", weight_square_sum)
    if v == 0:
        raise ValueError("variance and weight_square_sum must be above 0 for a Jacobian")

    def derivatives(z: Tensor) -> Tensor:
        """Of E[φ] and E[φ²] with respect to m and v: by the chain rule on z = m + √v g."""
        slope, square = phi.slope(z), 2 * phi.function(z) * phi.slope(z)
        by_v = (z - m) / (2 * v)
        return torch.stack([slope, slope * by_v, square, square * by_v])

    found = quadrature.expectation(derivatives, m, math.sqrt(v), phi.kinks).reshape(2, 2)
    first = activations.gaussian_moments(phi, v, m).mean
    rows = torch.stack([found[0], found[1] - 2 * first * found[0]])
    return rows * torch.tensor([weight_sum, weight_square_sum], dtype=torch.float64)


def measured_moments(
    activation: str | Activation,
    *,
    weight_variance: float = 1.0,
    depth: int = 50,
    width: int = 256,
    seeds: int | Sequence[int] = 8,
    examples: int = 32,
    input_variance: float = 1.0,
) -> Moments:
    """Measure mean and variance of the activations of random networks without biases.

    Inputs and weights are normal. Each moment is taken over all units and examples of a network.

    Args:
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w²: 1 for LeCun, 2 for He.
        depth: number of layers.
        width: units in every layer, and number of inputs.
        seeds: the seeds to draw, or how many, counting from 0.
        examples: inputs for each network.
        input_variance: of the inputs.

    Returns:
        Two float64 tensors of shape (seeds, depth).

    Raises:
        TypeError: if a count is not a whole number, or a variance is not a number.
        ValueError: if a count is below 1, a variance is negative or not finite, or there is no
            seed.

    Example:
        >>> found = measured_moments("selu", depth=20, width=200)
        >>> abs(found.variance[:, -1].mean().item() - 1) < 0.1
        True

    """
    phi = activations.get(activation)
    depth, width = positive_integer("depth", depth), positive_integer("width", width)
    generators = random.generators(random.seed_list(seeds))

    def draw(rows: int, variance: float) -> Tensor:
        return random.normal(generators, rows, width) * math.sqrt(variance)

    each = non_negative("weight_variance", weight_variance) / width
    a = draw(positive_integer("examples", examples), non_negative("input_variance", input_variance))
    layers = []
    for _ in range(depth):
        a = phi.function(a @ draw(width, each).mT)
        layers.append(torch.stack([a.mean((1, 2)), a.var((1, 2), correction=0)]))
    mean, variance = torch.stack(layers, dim=-1)
    return Moments(mean, variance)
