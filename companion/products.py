"""Products of many matrices, and the number of a matrix that plays the part of α in αⁿ.

A gradient on its way back is a vector multiplied by one matrix a layer. How its length changes is
decided by the stretch of a *random direction*, averaged in the logarithm: exp E ln‖Wu‖ with u
uniform on the sphere. The chapter *Backpropagation* finds it among its rivals.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from companion._lib import random
from companion._lib.arguments import floating, non_negative, positive_integer


def gaussian_factors(
    n: int, depth: int, *, weight_variance: float = 1.0, seeds: int | Sequence[int] = 1
) -> Tensor:
    """Draw ``depth`` independent n×n matrices with normal entries of variance σ_w²/n.

    Args:
        n: rows and columns.
        depth: matrices for each seed.
        weight_variance: σ_w², n times the variance of an entry.
        seeds: the seeds to draw, or how many, counting from 0.

    Returns:
        float64 tensor of shape (seeds, depth, n, n).

    Raises:
        TypeError: if a count is not a whole number, or the variance is not a number.
        ValueError: if a count is below 1, there is no seed, or the variance is negative or not
            finite.

    Example:
        >>> factors = gaussian_factors(50, 4, weight_variance=2.0, seeds=3)
        >>> tuple(factors.shape), round(50 * factors.var().item(), 1)
        ((3, 4, 50, 50), 2.0)

    """
    depth, n = positive_integer("depth", depth), positive_integer("n", n)
    generators = random.generators(random.seed_list(seeds))
    std = math.sqrt(non_negative("weight_variance", weight_variance) / n)
    return random.normal(generators, depth, n, n) * std


def rotations(n: int, depth: int, *, seeds: int | Sequence[int] = 1) -> Tensor:
    """Draw ``depth`` independent n×n orthogonal matrices, uniformly (Haar).

    Args:
        n: rows and columns.
        depth: matrices for each seed.
        seeds: the seeds to draw, or how many, counting from 0.

    Returns:
        float64 tensor of shape (seeds, depth, n, n).

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a count is below 1, or there is no seed.

    Source: Mezzadri (2007), "A Correct and Efficient Algorithm": the QR factor with the signs of
    R's diagonal put back.

    Example:
        >>> q = rotations(5, 1)[0, 0]
        >>> bool(torch.allclose(q @ q.T, torch.eye(5, dtype=torch.float64)))
        True

    """
    q, r = torch.linalg.qr(gaussian_factors(n, depth, seeds=seeds))
    return q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)


def factors_with_singular_values(
    values: Sequence[float], depth: int, *, seeds: int | Sequence[int] = 1
) -> Tensor:
    """Draw ``depth`` independent matrices with these singular values and uniform directions.

    Args:
        values: the n singular values.
        depth: matrices for each seed.
        seeds: the seeds to draw, or how many, counting from 0.

    Returns:
        float64 tensor of shape (seeds, depth, n, n) with n = len(values).

    Raises:
        TypeError: if a value is not a number, or a count is not a whole one.
        ValueError: if a value is negative or not finite, there is none, a count is below 1, or
            there is no seed.

    Example:
        >>> factors = factors_with_singular_values([3.0, 1.0, 0.5], depth=2)
        >>> [round(s, 6) for s in torch.linalg.svdvals(factors[0, 0]).tolist()]
        [3.0, 1.0, 0.5]

    """
    spectrum = torch.tensor(
        [non_negative("each of values", value) for value in values], dtype=torch.float64
    )
    both = rotations(len(spectrum), 2 * depth, seeds=seeds)
    return (both[:, :depth] * spectrum) @ both[:, depth:]


def log_growth(factors: Tensor, *, seed: int = 0) -> Tensor:
    """Return log₁₀ of the length of a random unit vector after each factor.

    The vector is brought back to length 1 after every factor and the logarithms are added up, so
    that nothing overflows however long the product.

    Args:
        factors: tensor of shape (seeds, depth, n, n); factor 0 is applied first.
        seed: the direction of product i is drawn with seed ``seed + i``, beside the factors' own.

    Returns:
        Tensor of shape (seeds, depth); -inf from where a factor has made the vector 0.

    Raises:
        ValueError: if the factors are not square or lack a dimension.
        TypeError: if the factors are not a floating-point tensor.

    Example:
        >>> tenths = 0.1 * torch.eye(3, dtype=torch.float64).expand(1, 4, 3, 3)
        >>> [round(value, 6) for value in log_growth(tenths)[0].tolist()]
        [-1.0, -2.0, -3.0, -4.0]

    """
    if floating("factors", factors).dim() != 4 or factors.shape[-1] != factors.shape[-2]:
        raise ValueError(f"factors need shape (seeds, depth, n, n), got {tuple(factors.shape)}")
    seeds, depth, n, _ = factors.shape
    generators = random.generators(range(seed, seed + seeds), "inputs")
    vector = random.normal(generators, n, 1).to(factors.dtype)
    vector = vector / torch.linalg.vector_norm(vector, dim=1, keepdim=True)
    logs = []
    for layer in range(depth):
        vector = factors[:, layer] @ vector
        length = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        vector = vector / length.clamp_min(torch.finfo(length.dtype).tiny)
        logs.append(torch.log10(length).flatten())
    return torch.stack(logs, dim=-1).cumsum(-1)


def candidates(factors: Tensor, *, directions: int = 2000, seed: int = 1) -> dict[str, float]:
    """Return the numbers of a matrix that might play the part of α, averaged over the factors.

    Args:
        factors: tensor of shape (seeds, depth, n, n).
        directions: random directions for the mean log stretch, for each factor.
        seed: of those directions, which are the same for all the factors.

    Returns:
        ``largest``, ``median`` and ``smallest`` singular value, ``spectral radius``,
        ``root mean square`` of the singular values, which is ‖W‖_F/√n, and ``typical stretch``,
        which is exp E ln‖Wu‖ over random unit vectors u.

    Raises:
        TypeError: if ``directions`` is not a whole number.
        ValueError: if it is below 1.

    Example:
        >>> factors = factors_with_singular_values([2.0, 1.0], depth=3)
        >>> found = candidates(factors)
        >>> round(found["largest"], 6), round(found["root mean square"] ** 2, 6)
        (2.0, 2.5)

    """
    singular = torch.linalg.svdvals(factors)
    n, count = factors.shape[-1], positive_integer("directions", directions)
    (u,) = random.normal([random.generator(seed, "inputs")], n, count).to(factors.dtype)
    u = u / torch.linalg.vector_norm(u, dim=0)
    stretch = torch.linalg.vector_norm(factors @ u, dim=-2)
    return {
        "largest": singular[..., 0].mean().item(),
        "spectral radius": torch.linalg.eigvals(factors).abs().amax(-1).mean().item(),
        "root mean square": singular.square().mean().sqrt().item(),
        "typical stretch": stretch.log().mean().exp().item(),
        "median": singular.quantile(0.5, dim=-1).mean().item(),
        "smallest": singular[..., -1].mean().item(),
    }


def gaussian_lyapunov(n: int, weight_variance: float = 1.0) -> float:
    """Return the exact growth of ln‖·‖ per factor in a product of n×n Gaussian matrices.

    The stretch of any direction is chi distributed, so E ln‖Wu‖ = ½[ψ(n/2) + ln(2σ_w²/n)].

    Args:
        n: rows and columns.
        weight_variance: σ_w², n times the variance of an entry, above 0.

    Raises:
        TypeError: if ``n`` is not a whole number, or ``weight_variance`` is no number.
        ValueError: if ``n`` is below 1, or ``weight_variance`` is not above 0 and finite.

    Source: Newman (1986), whose whole spectrum replaces n/2 by (n-k+1)/2 for the k-th exponent.

    Example:
        >>> round(gaussian_lyapunov(16), 4)
        -0.0319

    """
    half = torch.tensor(positive_integer("n", n) / 2, dtype=torch.float64)
    if not non_negative("weight_variance", weight_variance):
        raise ValueError("weight_variance must be above 0, got 0: nothing is left to grow")
    return 0.5 * (torch.special.digamma(half).item() + math.log(weight_variance / half.item()))
