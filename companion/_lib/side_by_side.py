"""Networks of one architecture run as one: layers in a row by themselves, others through vmap.

Each parameter of all the networks is one tensor, (S, …). vmap turns the operators of a module one
by one into such of stacked tensors, which takes as long as what a small network computes with them.
Of linear layers, norms and activations in a row these operators are known. They are called here in
the same order, so that the numbers, and their gradients, are the same to the last bit.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.func import functional_call, vmap

Loss = Callable[[Tensor, Tensor], Tensor]
Run = Callable[[Mapping[str, Tensor], Tensor], Tensor]

#: What works entry by entry, so that it does not matter how many networks there are.
ENTRY_BY_ENTRY = (nn.Identity, nn.ReLU, nn.Sigmoid, nn.Tanh)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def running(model: nn.Module, *, shared: bool = False) -> Run:
    """Return what runs networks like this one, of stacked parameters.

    Args:
        model: whose layers are run; its own parameters do not count.
        shared: whether all networks have the same inputs.

    Returns:
        A function of parameters by name, (S, …) of S networks, and inputs, (S, examples, …) or,
        if they are shared, (examples, …). It returns the outputs (S, examples, …).

    """

    def one(parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(model, parameters, (inputs,))

    through_vmap = vmap(one, in_dims=(0, None if shared else 0))
    row, dimensions = plain_layers(model), 2 if shared else 3

    def run(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        if row is None or inputs.dim() != dimensions:
            return through_vmap(dict(parameters), inputs)
        count = len(next(iter(parameters.values())))
        return forward(row, parameters, inputs.expand(count, *inputs.shape[-2:]))

    return run


class Layer(NamedTuple):
    """One of the layers in a row.

    Attributes:
        module: what it does.
        name: its name in the row.
        weight: its parameter's name, whether it has one or not.
        bias: likewise.

    """

    module: nn.Module
    name: str
    weight: str
    bias: str


def plain_layers(model: nn.Module) -> list[Layer] | None:
    """Return the layers of a module that :func:`forward` can run, or None if it can not.

    They are known ones in a row, without hooks.
    """
    children = list(model.named_children())
    if type(model) is not nn.Sequential or len(children) != len(model):
        return None  # a layer that stands in two places is a child once
    if _hooked(model) or not all(_is_known(part) and not _hooked(part) for part in model):
        return None
    return [Layer(part, name, f"{name}.weight", f"{name}.bias") for name, part in children]


def _is_known(part: nn.Module) -> bool:
    if type(part) is nn.BatchNorm1d:
        return not part.track_running_stats
    if type(part) is nn.LayerNorm:
        return len(part.normalized_shape) == 1
    if type(part) is nn.ReLU:
        return not part.inplace
    return type(part) is nn.Linear or type(part) in ENTRY_BY_ENTRY


def _hooked(part: nn.Module) -> bool:
    return any(getattr(part, kind) for kind in HOOKS)


def forward(
    row: Iterable[Layer],
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    added: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Run networks on inputs (S, examples, features), and return their outputs.

    Args:
        row: their layers, as :func:`plain_layers` lists them.
        parameters: by name, (S, …) of S networks.
        inputs: a batch for each.
        added: what to add to the outputs of layers, by their names.

    """
    x = inputs
    for layer in row:
        part, weight, bias = layer.module, parameters.get(layer.weight), parameters.get(layer.bias)
        if isinstance(part, nn.Linear):
            assert weight is not None  # a linear layer has one
            x = _shifted(x @ weight.mT, bias)
        elif isinstance(part, nn.BatchNorm1d):
            x = _batch_normed(x, weight, bias, part.eps)
        elif isinstance(part, nn.LayerNorm):
            x_hat = nn.functional.layer_norm(x, part.normalized_shape, eps=part.eps)
            x = _shifted(_scaled(x_hat, weight), bias)
        else:
            x = part(x)
        if added and layer.name in added:
            x = x + added[layer.name]
    return x


def _scaled(x: Tensor, weight: Tensor | None) -> Tensor:
    return x if weight is None else x * weight.unsqueeze(1)


def _shifted(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias.unsqueeze(1)


def _batch_normed(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalize the units of all networks over the examples, as so many units of one network.

    Examples come last while γ and β are applied, as vmap has it: the gradient is then laid out as
    there, which decides in which order the backward pass adds.
    """
    networks, examples, units = x.shape
    together = x.transpose(0, 1).reshape(examples, networks * units)
    x_hat = nn.functional.batch_norm(together, None, None, training=True, eps=eps)
    y = x_hat.mT.unflatten(0, (networks, units))
    y = y if weight is None else y * weight.unsqueeze(-1)
    return (y if bias is None else y + bias.unsqueeze(-1)).mT


def losses_of(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss (S,) of each of S networks.

    Args:
        loss: of the outputs and targets of one network.
        outputs: (S, examples, …).
        targets: (S, examples, …).

    """
    labels = targets.dim() == 2 and not targets.is_floating_point()
    if loss is not nn.functional.cross_entropy or outputs.dim() != 3 or not labels:
        return vmap(loss)(outputs, targets)
    each = loss(outputs.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    return each.sum(1) / (targets != -100).sum(1)  # torch's label of what does not count
