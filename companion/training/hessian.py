"""How sharply a loss bends, and so how long a step of gradient descent may be."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from companion._lib import random
from companion._lib.arguments import positive_integer
from companion._lib.probing import Loss
from companion._lib.stacking import stack

Vector = dict[str, Tensor]


def curvature(
    models: nn.Module | Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Loss = nn.functional.cross_entropy,
    rounds: int = 20,
    seed: int = 0,
) -> Tensor:
    """Return the largest curvature λ of the loss of each network, in any direction of its weights.

    It is the eigenvalue of the Hessian that is largest in size, by power iteration, which comes
    near it from below; negative where the loss bends down most. Along its direction a step of
    gradient descent multiplies a small distance by 1 − ηλ: where η > 2/|λ| the distance grows.

    Args:
        models: one module or several of the same architecture, as for
            :func:`companion.training.train`.
        inputs: (examples, ...), the same for all.
        targets: (examples, ...), what the loss takes.
        loss: of (outputs, targets).
        rounds: products with the Hessian.
        seed: of the directions that it starts from; network i has ``seed + i``.

    Returns:
        (S,) of the parameters' type.

    Raises:
        ValueError: if there is no model, or they are not built alike; or ``rounds`` is below 1.
        TypeError: if ``rounds`` is not a whole number.

    Example:
        >>> line = nn.Linear(1, 1, bias=False).double()
        >>> x = torch.full((4, 1), 3.0, dtype=torch.float64)
        >>> round(curvature(line, x, torch.zeros_like(x), loss=nn.functional.mse_loss).item(), 6)
        18.0

    """
    models = [models] if isinstance(models, nn.Module) else list(models)
    skeleton, parameters = stack(models)
    parameters = {name: value.detach() for name, value in parameters.items()}
    generators = random.generators(range(seed, seed + len(models)), "inputs")

    def value(state: Vector) -> Tensor:
        return loss(functional_call(skeleton, state, (inputs,)), targets)

    def bent(state: Vector, direction: Vector) -> Vector:
        def slope(here: Vector) -> Tensor:
            return _product(grad(value)(here), direction)

        return grad(slope)(state)

    vector = {
        name: random.normal(generators, *each.shape[1:]).to(each.dtype)
        for name, each in parameters.items()
    }
    found = torch.empty(0)
    for _ in range(positive_integer("rounds", rounds)):
        length = vmap(_product)(vector, vector).sqrt()
        length = length.clamp(min=torch.finfo(length.dtype).tiny)  # of a loss that is a plane
        vector = {name: vmap(torch.div)(each, length) for name, each in vector.items()}
        product = vmap(bent)(parameters, vector)
        found, vector = vmap(_product)(vector, product), product
    return found


def _product(a: Vector, b: Vector) -> Tensor:
    """Return the inner product of two vectors."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()
