"""Networks of one architecture as one: each parameter of all of them in one tensor."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import stack_module_state

from companion._lib.norms import are_safe, vector_norm

Model = TypeVar("Model", bound=nn.Module)


def stack(models: Sequence[Model]) -> tuple[Model, dict[str, Tensor]]:
    if not models:
        raise ValueError("models needs at least one module, got none")
    kinds = [{n: (p.shape, p.dtype) for n, p in model.named_parameters()} for model in models]
    for index, (model, kind) in enumerate(zip(models, kinds, strict=True)):
        if kind != kinds[0] or repr(model) != repr(models[0]):  # the repr names the activations
            raise ValueError(f"models must all be built alike, but models[{index}] is not as [0]")
    if any(True for model in models for _ in model.buffers()):
        raise ValueError("models with buffers (running statistics) are not supported")
    parameters, _ = stack_module_state(models)
    return models[0], parameters


def unstack(parameters: dict[str, Tensor], models: Sequence[nn.Module]) -> None:
    with torch.no_grad():
        for index, model in enumerate(models):
            for name, parameter in model.named_parameters():
                parameter.copy_(parameters[name][index])


def of_part(parameters: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the parameters whose names begin with a part's, by their names within that part."""
    return {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}


def norms(tensors: Iterable[Tensor]) -> Tensor:
    """Return the norm of each network's part of each tensor, as (S, len(tensors))."""
    each = [t.flatten(1) for t in tensors]
    found = torch.stack([torch.linalg.vector_norm(t, dim=1) for t in each], dim=1)
    for column in (~are_safe(found).all(0)).nonzero().flatten().tolist():
        found[:, column] = vector_norm(each[column], dim=1)
    return found


def clipped(gradients: Sequence[Tensor], bounds: Tensor) -> tuple[list[Tensor], Tensor]:
    """Scale each network's gradient by min(1, bound/norm), as torch's clip_grad_norm_.

    Where the bound is infinite it stays as it is, whatever its norm.

    Args:
        gradients: (S, …) of S networks, all their parameters.
        bounds: (S,) the largest norm of each network's whole gradient.

    Returns:
        The scaled gradients, and (S,) the norms before.

    """
    whole = vector_norm(norms(gradients), dim=1)
    factors = torch.where(bounds.isinf(), 1.0, (bounds / (whole + 1e-6)).clamp(max=1.0))
    shorter = [g * factors.to(g.dtype).view(-1, *[1] * (g.dim() - 1)) for g in gradients]
    return shorter, whole
