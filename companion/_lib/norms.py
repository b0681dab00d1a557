"""Norms that do not leave their type: taken of shares of the largest entry, and scaled back."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Dims = int | tuple[int, ...] | None


def vector_norm(
    values: Tensor, order: float = 2.0, dim: Dims = None, *, keepdim: bool = False
) -> Tensor:
    """Return the p-norm, also where powers of the entries are beyond the type or below it.

    Args:
        values: floating-point numbers.
        order: p, at least 1, or ``math.inf``.
        dim: over what; everything if it is None.
        keepdim: whether these dimensions stay, of size 1.

    Returns:
        What ``torch.linalg.vector_norm`` returns where no power overflows or vanishes. It is inf
        where the norm itself is beyond the type, inf or nan where an entry is.

    """
    dims = tuple(range(values.dim())) if dim is None else dim
    if values.numel() == 0:
        return torch.linalg.vector_norm(values, order, dims, keepdim=keepdim)
    plain = torch.linalg.vector_norm(values, order, dims, keepdim=keepdim)
    if are_safe(plain).all():
        return plain
    found = _of_shares(
        values, dims, lambda v: torch.linalg.vector_norm(v, order, dims, keepdim=True)
    )
    return found if keepdim else found.sum(dims)  # of one entry each


def wide(values: Tensor) -> Tensor:
    """Return the numbers in float64, or complex128."""
    return values.to(torch.complex128 if values.is_complex() else torch.float64)


def total_norm(tensors: Iterable[Tensor], order: float = 2.0) -> Tensor:
    """Return the norm of all entries of at least one tensor together, in float64."""
    each = [vector_norm(wide(values).abs(), order) for values in tensors]
    return vector_norm(torch.stack(each), order)


def matrix_norm(matrices: Tensor, order: int | str) -> Tensor:
    """Return torch's norm of each matrix (..., n, m) as (...), as :func:`vector_norm` does."""
    dims = (-2, -1)
    found = _of_shares(
        matrices, dims, lambda m: torch.linalg.matrix_norm(m, order, dims, keepdim=True)
    )
    return found[..., 0, 0]


def are_safe(norms: Tensor) -> Tensor:
    """Return behind which norms no power of an entry can have left the type."""
    return (norms > torch.finfo(norms.dtype).tiny ** 0.25) & norms.isfinite()


def _of_shares(
    values: Tensor, dims: int | tuple[int, ...], norm: Callable[[Tensor], Tensor]
) -> Tensor:
    largest = values.abs().amax(dims, keepdim=True)
    usable = largest.isfinite() & (largest > 0)
    return torch.where(usable, largest * norm((values / largest).where(usable, 0.0)), largest)
