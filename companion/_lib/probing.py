"""Which layers a model runs, and the gradient at each: a zero is added to what it returns."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

Loss = Callable[[Tensor, Tensor], Tensor]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Probes:
    """Zeros added to each layer's output, whose gradient is that layer's δ."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    values: dict[str, Tensor]

    def zeros(self, inputs: Tensor) -> dict[str, Tensor]:
        return {
            name: inputs.new_zeros(*inputs.shape[:2], *shape, requires_grad=True)
            for name, shape in zip(self.names, self.shapes, strict=True)
        }

    def loss(self, model: nn.Module, loss: Loss) -> Callable[..., Tensor]:
        def probed_loss(
            parameters: dict[str, Tensor], probes: dict[str, Tensor], x: Tensor, y: Tensor
        ) -> Tensor:
            self.values = probes
            try:
                return loss(functional_call(model, parameters, (x,)), y)
            finally:
                self.values = {}

        return probed_loss


@contextmanager
def probed(model: nn.Module, example: Tensor) -> Iterator[Probes]:
    """Hook the model's layers so that their outputs can be nudged, and unhook them after."""
    seen: dict[str, torch.Size] = {}
    probes = Probes((), (), {})

    def hook_for(name: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            seen.setdefault(name, output.shape[1:])
            return output + probes.values[name] if probes.values else output

        return hook

    layers = [
        (name, module) for name, module in model.named_modules() if isinstance(module, LAYERS)
    ]
    handles = [module.register_forward_hook(hook_for(name)) for name, module in layers]
    try:
        with torch.no_grad():
            model(example)
        if not seen:
            raise ValueError("models need at least one linear or convolutional layer, got none")
        probes.names, probes.shapes = tuple(seen), tuple(seen.values())
        yield probes
    finally:
        for handle in handles:
            handle.remove()
