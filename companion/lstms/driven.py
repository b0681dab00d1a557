"""One matrix applied at every step: a recurrent network at its barest, with inputs and without.

h_t = φ(W h_{t−1} + u_t), and the gradient goes back by δ_{t−1} = Wᵀ diag φ′(z_t) δ_t. How fast it
grows or shrinks is neither ln of W's spectral radius nor of its norm: the states have a say through
φ′, and the inputs through the states.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from companion import activations, meanfield
from companion._lib import random
from companion._lib.arguments import floating, non_negative, positive_integer
from companion.activations import Activation


def _square(weights: Tensor) -> Tensor:
    if floating("weights", weights).dim() < 2 or weights.shape[-1] != weights.shape[-2]:
        raise ValueError(f"weights need shape (..., n, n), got {tuple(weights.shape)}")
    if not torch.isfinite(weights).all():
        raise ValueError("weights must be finite, got nan or inf among them")
    return weights.detach().to(torch.float64)


def spectral_radius(weights: Tensor) -> Tensor:
    """Return the size of the largest eigenvalue of each matrix: the growth of Wᵗ when t is large.

    Args:
        weights: (..., n, n).

    Returns:
        float64 tensor (...).

    Raises:
        TypeError: if the weights are not a floating-point tensor.
        ValueError: if the weights are not of shape (..., n, n), or not finite.

    Example:
        >>> round(spectral_radius(torch.tensor([[0.5, 9.0], [0.0, 0.4]])).item(), 6)
        0.5

    """
    return torch.linalg.eigvals(_square(weights)).abs().amax(-1)


def spectral_norm(weights: Tensor) -> Tensor:
    """Return the largest singular value of each matrix: the most that one step can stretch.

    Args:
        weights: (..., n, n).

    Returns:
        float64 tensor (...).

    Raises:
        TypeError: if the weights are not a floating-point tensor.
        ValueError: if the weights are not of shape (..., n, n), or not finite.

    Example:
        >>> round(spectral_norm(torch.tensor([[0.0, 9.0], [0.0, 0.0]])).item(), 6)
        9.0

    """
    return torch.linalg.matrix_norm(_square(weights), 2)


def non_normal(n: int, radius: float = 0.9, coupling: float = 1.0) -> Tensor:
    """Return a matrix with one number on its diagonal and another just above it.

    All eigenvalues are ``radius``, whatever the coupling, but each unit feeds the one before, so
    that what enters at the end is passed along and amplified up to n times before it decays.

    Args:
        n: number of units.
        radius: the number on the diagonal.
        coupling: the number above it.

    Returns:
        float64 tensor (n, n).

    Raises:
        TypeError: if ``n`` is not a whole number, or another argument is not a number.
        ValueError: if ``n`` is below 1, or another argument is negative or not finite.

    Source: Trefethen & Embree (2005), "Spectra and Pseudospectra".

    Example:
        >>> non_normal(3, 0.5, 2.0).tolist()
        [[0.5, 2.0, 0.0], [0.0, 0.5, 2.0], [0.0, 0.0, 0.5]]

    """
    n = positive_integer("n", n)
    diagonal = torch.full((n,), non_negative("radius", radius), dtype=torch.float64)
    above = torch.full((n - 1,), non_negative("coupling", coupling), dtype=torch.float64)
    return torch.diag(diagonal) + torch.diag(above, 1)


def power_norms(weights: Tensor, steps: int) -> Tensor:
    """Return log₁₀ of the spectral norm of Wᵗ for t = 0 to ``steps``, which never overflows.

    Args:
        weights: (..., n, n).
        steps: the largest power.

    Returns:
        float64 tensor (steps+1, ...); -inf from where the power is 0.

    Raises:
        TypeError: if the weights are not a floating-point tensor, or ``steps`` is not a whole
            number.
        ValueError: if the weights are not of shape (..., n, n), or not finite, or ``steps`` is
            below 1.

    Example:
        >>> [round(value, 6) for value in power_norms(0.1 * torch.eye(2), 3).tolist()]
        [0.0, -1.0, -2.0, -3.0]

    """
    w = _square(weights)
    power = torch.eye(w.shape[-1], dtype=w.dtype).expand_as(w)
    scale = torch.zeros(w.shape[:-2], dtype=w.dtype)
    found = [scale]
    for _ in range(positive_integer("steps", steps)):
        power = w @ power
        norm = torch.linalg.matrix_norm(power, 2)
        scale = scale + norm.log10()
        power = power / norm.where(norm > 0, 1.0)[..., None, None]
        found.append(scale)
    return torch.stack(found)


class Flow(NamedTuple):
    """The gradient on its way back through a driven network's last T steps.

    Attributes:
        log_norms: (seeds, T+1) log₁₀ of the gradient's norm at h_t over that at h_T, by t.
        mean_square: (seeds,) the mean of h² over units and these steps.

    """

    log_norms: Tensor
    mean_square: Tensor

    @property
    def exponent(self) -> Tensor:
        """The growth of ln‖δ‖ per step back, (seeds,): an estimate of the Lyapunov exponent."""
        growth = self.log_norms[:, 0] - self.log_norms[:, -1]
        return growth * math.log(10) / (self.log_norms.shape[1] - 1)


def gradient_flow(
    weights: Tensor,
    *,
    input_std: float = 0.0,
    steps: int = 200,
    washout: int = 100,
    activation: str | Activation = "tanh",
    seed: int = 0,
) -> Flow:
    """Run networks h_t = φ(W h_{t−1} + u_t), and take a random gradient back through the end.

    The inputs u_t are normal and independent for each unit and step, h_0 is standard normal. The
    same seed means the same draws, whatever their size, the weights and the other networks.

    Args:
        weights: (seeds, n, n), one matrix a network.
        input_std: standard deviation of the inputs.
        steps: T, through which the gradient goes back.
        washout: steps before those, in which the network forgets where it started.
        activation: its name, or an :class:`~companion.activations.Activation`.
        seed: of h_0, the inputs and the gradient's direction; network i has ``seed + i``.

    Raises:
        ValueError: if the weights are not (seeds, n, n) or not finite, ``steps`` is below 1 or
            ``washout`` below 0, ``input_std`` is negative or not finite, or the state overflows.
        TypeError: if the weights are not a floating-point tensor, a count is not a whole number, or
            ``input_std`` is not a number.

    Example:
        >>> rotation = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])
        >>> flow = gradient_flow(0.5 * rotation, activation="identity", steps=10)
        >>> round(flow.exponent.item(), 6), round(math.log(0.5), 6)
        (-0.693147, -0.693147)

    """
    w, phi = _square(weights), activations.get(activation)
    if w.dim() != 3:
        raise ValueError(f"weights need shape (seeds, n, n), got {tuple(weights.shape)}")
    steps, input_std = positive_integer("steps", steps), non_negative("input_std", input_std)
    warmup = 0 if washout == 0 else positive_integer("washout", washout)
    generators = random.generators(range(seed, seed + len(w)), "inputs")
    draw = partial(random.normal, generators, w.shape[1], 1)
    h, slopes, squares = draw(), [], []
    for t in range(warmup + steps):
        z = w @ h + input_std * draw()
        h = phi.function(z)
        if t >= warmup:
            slopes.append(phi.slope(z))
            squares.append(h.square().mean((1, 2)))
    if not torch.isfinite(h).all():
        raise ValueError(f"the state overflows: {phi.name!r} does not hold these weights")
    return Flow(_back(w, slopes, draw()), torch.stack(squares).mean(0))


def _back(weights: Tensor, slopes: list[Tensor], delta: Tensor) -> Tensor:
    """Return log₁₀ of the gradient's norm, (seeds, T+1), its length brought back to 1 each step."""
    logs = []
    for slope in reversed(slopes):
        length = torch.linalg.vector_norm(delta, dim=1, keepdim=True)
        delta = weights.mT @ (slope * delta / length.where(length > 0, 1.0))
        logs.append(torch.linalg.vector_norm(delta, dim=(1, 2)).log10())
    whole = torch.stack([torch.zeros_like(logs[0]), *logs], dim=-1).cumsum(-1)
    return whole.flip(-1)


def mean_field_exponent(
    gain: float, input_std: float = 0.0, *, activation: str | Activation = "tanh"
) -> float:
    """Return the growth of ln‖δ‖ per step that mean-field theory gives a wide driven network.

    It is ½ ln(g² E[φ′(z)²]) for z normal with the variance q that stays, q = g² E[φ(z)²] + σ². Here
    the weights are normal with variance g²/n, so that their spectral radius is near g.

    Args:
        gain: g.
        input_std: σ, of inputs that are normal and new at every step.
        activation: its name, or an :class:`~companion.activations.Activation`.

    Raises:
        ValueError: if one of them is negative or not finite, or the variance has no fixed point.
        TypeError: if the gain or ``input_std`` is not a number.

    Source: Molgedey, Schuchhardt & Schuster (1992); the map is that of Poole et al. (2016), arXiv
        1606.05340, with the inputs in the place of the biases.

    Example:
        >>> round(mean_field_exponent(1.5), 3), round(mean_field_exponent(0.5), 3)
        (0.065, -0.693)

    """
    variance = non_negative("gain", gain) ** 2
    q = meanfield.fixed_point(activation, variance, non_negative("input_std", input_std) ** 2)
    growth = meanfield.chi(q, activation, variance)
    return 0.5 * math.log(growth) if growth > 0 else -math.inf
