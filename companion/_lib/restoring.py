"""A model that is put back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Put back what a run changes of a model, to the last bit, also when the body raises.

    That is its parameters and buffers with their values, ``.grad`` (which the body is to replace
    and not to write into), ``requires_grad``, the modes of its modules, and torch's global
    generators, of the CPU and of the model's CUDA devices.
    """
    # With those that are None, which named_buffers leaves out.
    modules = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    parameters = [(each, each.grad, each.requires_grad) for each in model.parameters()]
    tensors = [*model.parameters(), *model.buffers()]
    values = [(each, each.detach().clone()) for each in tensors if not _is_expanded(each)]
    devices = {each.device.index for each in tensors if each.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        for module, training, buffers in modules:
            module.training = training
            for name, buffer in buffers.items():
                setattr(module, name, buffer)
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
        for parameter, gradient, learns in parameters:
            parameter.requires_grad_(learns).grad = gradient


def _is_expanded(tensor: Tensor) -> bool:
    """Whether several entries are one number in memory: such a tensor cannot be written to."""
    if tensor.layout != torch.strided:
        return False
    return any(n > 1 and step == 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True))
