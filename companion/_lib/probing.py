"""Which layers a model runs, and the gradient at each: a zero is added to what it returns."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from companion._lib.side_by_side import Layer, Loss, forward, losses_of, plain_layers

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


Modules = Iterable[tuple[str, nn.Module]]


def layers_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the linear and convolutional layers of a model by name, in the order of definition."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LAYERS)]


@contextmanager
def hooked(modules: Modules, hook: Callable[[str, Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Let each module return what ``hook`` makes of its name, its input and its output.

    What is returned is a tensor of its own where something is added to the output, so that its
    gradient is δ also where the next module works in place.
    """

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        return lambda _module, args, output: hook(name, args[0], output)

    handles = [module.register_forward_hook(hook_for(name)) for name, module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Probes:
    """Zeros added to what each module returns, whose gradient is δ there.

    Attributes:
        shapes: of one example, by the names of the modules in the order in which they run.
        values: the zeros that are being added, by name.
        outputs: what the modules have returned since, with the zeros added.
        row: the layers of a model that can run without vmap, or None.

    """

    shapes: dict[str, torch.Size] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    row: list[Layer] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The modules' names, in the order in which they run."""
        return tuple(self.shapes)

    def zeros(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return zeros for a batch (S, examples, …) of S networks."""
        return {
            name: inputs.new_zeros(*inputs.shape[:2], *shape, requires_grad=True)
            for name, shape in self.shapes.items()
        }

    @contextmanager
    def added(self, zeros: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Add zeros to what the modules return, which is kept in the dict that is given."""
        self.values, self.outputs = zeros, {}
        try:
            yield self.outputs
        finally:
            self.values, self.outputs = {}, {}

    def loss(self, model: nn.Module, loss: Loss) -> Callable[..., Tensor]:
        """Return the loss as a function of parameters, zeros, inputs and targets."""

        def probed_loss(
            parameters: dict[str, Tensor], probes: dict[str, Tensor], x: Tensor, y: Tensor
        ) -> Tensor:
            with self.added(probes):
                return loss(functional_call(model, parameters, (x,)), y)

        return probed_loss

    def losses(self, model: nn.Module, loss: Loss) -> Callable[..., Tensor]:
        """Return the losses (S,) of S stacked networks as a function of the same."""
        through_vmap = vmap(self.loss(model, loss))

        def each(
            parameters: dict[str, Tensor], probes: dict[str, Tensor], x: Tensor, y: Tensor
        ) -> Tensor:
            if self.row is None or x.dim() != 3:
                return through_vmap(parameters, probes, x, y)
            return losses_of(loss, forward(self.row, parameters, x, probes), y)

        return each


@contextmanager
def probed(model: nn.Module, example: Tensor, modules: Modules | None = None) -> Iterator[Probes]:
    """Hook the model's layers, or other modules of it, so that zeros can be added to their outputs.

    Args:
        model: run once on the example, to see which modules run and what they return.
        example: a batch of inputs of one network.
        modules: by name; the linear and convolutional layers if None.

    """
    probes = Probes(row=plain_layers(model) if modules is None else None)

    def hook(name: str, _entering: Tensor, output: Tensor) -> Tensor:
        probes.shapes.setdefault(name, output.shape[1:])
        if not probes.values:
            return output
        probes.outputs[name] = output + probes.values[name]
        return probes.outputs[name]

    with hooked(layers_of(model) if modules is None else modules, hook):
        with torch.no_grad():
            model(example)
        if not probes.shapes:
            raise ValueError("models need at least one linear or convolutional layer, got none")
        yield probes
