"""How sharply a loss bends, and so how long a step of gradient descent may be."""

import copy
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from companion._lib import random
from companion._lib.arguments import one_of, positive_integer
from companion._lib.norms import vector_norm
from companion._lib.probing import Loss
from companion._lib.stacking import stack
from companion.training.loop import Snapshot

Vector = dict[str, Tensor]
Largest = Literal["size", "value"]
LARGEST: tuple[Largest, ...] = get_args(Largest)


def curvature(
    models: nn.Module | Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Loss = nn.functional.cross_entropy,
    rounds: int = 20,
    largest: Largest = "size",
    seed: int = 0,
) -> Tensor:
    """Return the largest curvature λ of the loss of each network, in any direction of its weights.

    It is the eigenvalue of the Hessian that is largest in size, by power iteration, which comes
    near it from below; negative where the loss bends down most. Along its direction a step of
    gradient descent multiplies a small distance by 1 − ηλ: where η > 2/|λ| the distance grows.
    With ``largest="value"`` it is the largest with its sign, as :func:`sharpness` records it.

    Args:
        models: one module or several of the same architecture, as for
            :func:`companion.training.train`.
        inputs: (examples, ...), the same for all.
        targets: (examples, ...), what the loss takes.
        loss: of (outputs, targets).
        rounds: products with the Hessian.
        largest: ``"size"``, or ``"value"``.
        seed: of the directions that it starts from; network i has ``seed + i``.

    Returns:
        (S,) of the parameters' type.

    Raises:
        ValueError: if there is no model, or they are not built alike; ``rounds`` is below 1, or
            ``largest`` is another word.
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
    bent = _bent(skeleton, inputs, targets, loss)
    vector, found = _directions(parameters, seed), torch.empty(0)
    if one_of("largest", largest, LARGEST) == "value":
        start, count = _flat(vector), positive_integer("rounds", rounds)
        return _largest(lambda v: _flat(bent(parameters, _like(v, parameters))), start, count)[0]
    for _ in range(positive_integer("rounds", rounds)):
        vector = _of_length_one(vector)
        product = bent(parameters, vector)
        found, vector = vmap(_product)(vector, product), product
    return found


def sharpness(
    models: nn.Module | Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Loss = nn.functional.cross_entropy,
    rounds: int = 8,
    first_rounds: int = 30,
    seed: int = 0,
) -> Callable[[Snapshot], Tensor]:
    """Return what ``training.train`` takes as ``observe`` to record the sharpness at each record.

    The sharpness is the *largest* eigenvalue of the Hessian, with its sign: where the loss bends
    down more than up, :func:`curvature` gives the negative eigenvalue, and this the positive one.
    It is the largest on the space of a direction and its products with powers of the Hessian
    (Lanczos), which comes near it from below. Each record begins with the direction in which the
    last one ended, since that hardly turns from one to the next.

    Args:
        models: those that are to be trained, or others of their architecture and number.
        inputs: (examples, ...), the same for all networks and at all records.
        targets: (examples, ...), what the loss takes.
        loss: of (outputs, targets).
        rounds: products with the Hessian at each record but the first.
        first_rounds: products at the first record.
        seed: of the directions that it starts from; network i has ``seed + i``.

    Returns:
        A function of a :class:`~companion.training.Snapshot` that returns (S,) of the parameters'
        type; ``torch.stack(record.observed)`` is (T, S) then. It is for one run.

    Raises:
        ValueError: if there is no model, or they are not built alike; or a count is below 1.
        TypeError: if a count is not a whole number.

    Source: Cohen et al. (2021), arXiv 2103.00065; Lanczos (1950).

    Example:
        >>> from companion.data import Split
        >>> from companion.training import sgd, train
        >>> line = nn.Linear(1, 1, bias=False).double()
        >>> x = torch.full((4, 1), 3.0, dtype=torch.float64)
        >>> observe = sharpness(line, x, 0 * x, loss=nn.functional.mse_loss)
        >>> record = train(
        ...     line, Split(x, 0 * x, x[:0], x[:0]), optimizer=sgd(0.1), steps=2,
        ...     loss=nn.functional.mse_loss, observe=observe, progress=False,
        ... )
        >>> [round(one.item(), 6) for one in record.observed]
        [18.0, 18.0, 18.0]

    """
    models = [models] if isinstance(models, nn.Module) else list(models)
    skeleton, parameters = stack(models)
    # A copy: what train does to the models while it runs is no part of the loss that bends.
    bent = _bent(copy.deepcopy(skeleton), inputs, targets, loss)
    direction = _flat(_directions(parameters, seed))
    later, left = positive_integer("rounds", rounds), positive_integer("first_rounds", first_rounds)

    def observe(snapshot: Snapshot) -> Tensor:
        nonlocal direction, left
        state = snapshot.parameters
        found, direction = _largest(
            lambda flat: _flat(bent(state, _like(flat, state))), direction, left
        )
        left = later
        return found

    return observe


def _largest(
    product: Callable[[Tensor], Tensor], start: Tensor, rounds: int
) -> tuple[Tensor, Tensor]:
    """Return each matrix's largest eigenvalue (S,) on a Krylov space, and its vector (S, P).

    Where a product has left that space no new direction, a zero stands for it, with a value below
    the first.
    """
    basis: list[Tensor] = []
    images: list[Tensor] = []
    found = start
    for _ in range(rounds):
        basis.append(_new_direction(found, basis))
        found = product(basis[-1])
        images.append(found)
    space = torch.stack(basis, -1)
    small = space.mT @ torch.stack(images, -1)
    first = small[:, :1, 0]
    lower = (first - 1 - first.abs()) * (space.square().sum(1) == 0)
    small = (small + small.mT) / 2 + torch.diag_embed(lower)
    finite = small.isfinite().all((1, 2))  # of a network that has left the numbers it is not
    values, vectors = torch.linalg.eigh(small.where(finite[:, None, None], 0.0))
    return values[:, -1].where(finite, torch.nan), (space @ vectors[..., -1:]).squeeze(-1)


def _new_direction(vector: Tensor, basis: list[Tensor]) -> Tensor:
    """Return what of each vector (S, P) is at right angles to a basis, of length 1 or 0."""
    before = vector_norm(vector, dim=1, keepdim=True)
    for _ in range(2):  # once leaves rounding
        for each in basis:
            vector = vector - (vector * each).sum(1, keepdim=True) * each
    length = vector_norm(vector, dim=1, keepdim=True)
    is_new = length > torch.finfo(vector.dtype).eps ** 0.5 * before
    return torch.where(is_new, vector / length, 0.0)


def _flat(vector: Vector) -> Tensor:
    """Return each network's vector as one row."""
    return torch.cat([each.flatten(1) for each in vector.values()], dim=1)


def _like(flat: Tensor, parameters: Vector) -> Vector:
    """Return rows as what has the parameters' shapes."""
    parts = flat.split([each[0].numel() for each in parameters.values()], dim=1)
    return {name: part.view_as(each) for (name, each), part in zip(parameters.items(), parts)}


def _bent(
    skeleton: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss
) -> Callable[[Vector, Vector], Vector]:
    """Return the product of each network's Hessian with its vector, of parameters and vectors."""

    def value(state: Vector) -> Tensor:
        return loss(functional_call(skeleton, state, (inputs,)), targets)

    def bent(state: Vector, direction: Vector) -> Vector:
        def slope(here: Vector) -> Tensor:
            return _product(grad(value)(here), direction)

        return grad(slope)(state)

    return vmap(bent)


def _directions(parameters: Vector, seed: int) -> Vector:
    """Draw a direction for each network."""
    networks = len(next(iter(parameters.values())))
    generators = random.generators(range(seed, seed + networks), "inputs")
    return {
        name: random.normal(generators, *each.shape[1:]).to(each.dtype)
        for name, each in parameters.items()
    }


def _of_length_one(vector: Vector) -> Vector:
    """Return each network's vector, scaled to length 1."""
    length = vmap(_product)(vector, vector).sqrt()
    length = length.clamp(min=torch.finfo(length.dtype).tiny)  # of a loss that is a plane
    return {name: vmap(torch.div)(each, length) for name, each in vector.items()}


def _product(a: Vector, b: Vector) -> Tensor:
    """Return the inner product of two vectors."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()
