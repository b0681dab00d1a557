"""Networks in a row of known layers, run without vmap: the same numbers to the last bit."""

from collections.abc import Callable

import pytest
import torch
from helpers import normal
from torch import Tensor, nn
from torch.func import functional_call, vmap

from companion._lib import side_by_side
from companion._lib.probing import probed
from companion._lib.side_by_side import losses_of, plain_layers, running
from companion._lib.stacking import stack

CROSS_ENTROPY = nn.functional.cross_entropy


def batch_norm(*, affine: bool = True, eps: float = 1e-5) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(5, eps, affine=affine, track_running_stats=False)


PLAIN = {
    "without bias": lambda: [nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.ReLU()],
    "batch norm": lambda: [nn.Linear(6, 5), batch_norm(eps=0.1), nn.Tanh(), nn.Linear(5, 3)],
    "batch norm after": lambda: [nn.Linear(6, 5), nn.Sigmoid(), batch_norm(), nn.Linear(5, 3)],
    "no γ": lambda: [nn.Linear(6, 5), batch_norm(affine=False), nn.Sigmoid(), nn.Linear(5, 3)],
    "layer norm": lambda: [nn.Linear(6, 5), nn.LayerNorm(5, 0.1), nn.Identity(), nn.Linear(5, 3)],
    "no β": lambda: [nn.Linear(6, 5), nn.LayerNorm(5, bias=False), nn.Tanh(), nn.Linear(5, 3)],
}


def stacked(
    layers: Callable[[], list[nn.Module]], networks: int = 3
) -> tuple[nn.Sequential, dict[str, Tensor]]:
    models = [nn.Sequential(*layers()).double() for _ in range(networks)]
    with torch.no_grad():
        for seed, model in enumerate(models):
            for index, parameter in enumerate(model.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=100 * seed + index))
    return stack(models)


def compared(model: nn.Module, parameters: dict[str, Tensor], run: Callable[..., Tensor]) -> None:
    """What is run gives what vmap gives, and so do the gradients of it."""
    inputs, tops = normal(3, 64, 6, seed=7), None
    found = []
    for each in (run, vmap(lambda own, x: functional_call(model, own, (x,)))):
        outputs = each(parameters, inputs)
        tops = normal(*outputs.shape, seed=8) if tops is None else tops
        found.append([outputs, *torch.autograd.grad(outputs, list(parameters.values()), tops)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.breaks("companion/_lib/side_by_side.py", "type(part) in ENTRY_BY_ENTRY", "False")
@pytest.mark.breaks("companion/_lib/side_by_side.py", "not part.track_running_stats", "False")
@pytest.mark.breaks(
    "companion/_lib/side_by_side.py", "y = x_hat.mT.unflatten(0", "y = x_hat.unflatten(1"
)
@pytest.mark.breaks("companion/_lib/side_by_side.py", "training=True, eps=eps", "training=True")
@pytest.mark.breaks(
    "companion/_lib/side_by_side.py", "part.normalized_shape, eps=part.eps", "part.normalized_shape"
)
@pytest.mark.parametrize("name", PLAIN)
def test_it_runs_as_vmap_does_to_the_last_bit(name: str) -> None:
    model, parameters = stacked(PLAIN[name])
    row = plain_layers(model)
    assert row is not None
    compared(model, parameters, lambda own, x: side_by_side.forward(row, own, x))
    compared(model, parameters, running(model))


@pytest.mark.parametrize("name", PLAIN)
def test_inputs_may_be_the_same_for_all(name: str) -> None:
    model, parameters = stacked(PLAIN[name])
    inputs = normal(64, 6)
    each = running(model)(parameters, inputs.expand(3, 64, 6))
    assert torch.equal(running(model, shared=True)(parameters, inputs), each)
    through_vmap = vmap(lambda own, x: functional_call(model, own, (x,)), in_dims=(0, None))
    assert torch.equal(through_vmap(parameters, inputs), each)


class Own(nn.Sequential):
    """A row of layers that may run otherwise."""


class Doubled(nn.Linear):
    """A linear layer that does something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def hooked() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 5))
    model[0].register_forward_hook(lambda _module, _args, output: 2 * output)
    return model


def twice() -> nn.Sequential:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer)


@pytest.mark.breaks("companion/_lib/side_by_side.py", "type(model) is not nn.Sequential or ", "")
@pytest.mark.breaks("companion/_lib/side_by_side.py", " or len(children) != len(model)", "")
@pytest.mark.breaks("companion/_lib/side_by_side.py", " and not _hooked(part)", "")
@pytest.mark.breaks(
    "companion/_lib/side_by_side.py", "type(part) is nn.Linear", "isinstance(part, nn.Linear)"
)
@pytest.mark.breaks("companion/_lib/side_by_side.py", "return not part.inplace", "return True")
@pytest.mark.breaks(
    "companion/_lib/side_by_side.py", "return len(part.normalized_shape) == 1", "return True"
)
@pytest.mark.parametrize(
    "model",
    [
        Own(nn.Linear(6, 5)),
        nn.Linear(6, 5),
        nn.Sequential(Doubled(6, 5)),
        nn.Sequential(nn.Linear(6, 5), nn.Dropout()),
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)),
        nn.Sequential(nn.Unflatten(-1, (2, 3)), nn.LayerNorm((2, 3))),
        nn.Sequential(nn.Linear(6, 5), nn.LayerNorm((2, 5))),
        hooked(),
        twice(),
    ],
    ids=str,
)
def test_what_it_does_not_know_goes_through_vmap(model: nn.Module) -> None:
    assert plain_layers(model) is None


@pytest.mark.breaks(
    "companion/_lib/side_by_side.py", "row is None or inputs.dim() != dimensions", "row is None"
)
def test_inputs_with_more_dimensions_go_through_vmap() -> None:
    model, parameters = stacked(PLAIN["without bias"])
    inputs = normal(3, 4, 2, 6)
    expected = vmap(lambda own, x: functional_call(model, own, (x,)))(parameters, inputs)
    assert torch.equal(running(model)(parameters, inputs), expected)


@pytest.mark.breaks("companion/_lib/side_by_side.py", "None if shared else 0", "0")
def test_and_so_do_such_inputs_that_are_the_same_for_all() -> None:
    model, parameters = stacked(PLAIN["without bias"])
    inputs = normal(4, 2, 6)
    expected = running(model)(parameters, inputs.expand(3, 4, 2, 6))
    assert torch.equal(running(model, shared=True)(parameters, inputs), expected)


@pytest.mark.breaks("companion/_lib/side_by_side.py", "x = x + added[layer.name]", "pass")
def test_what_is_added_to_outputs_is_where_hooks_add_it() -> None:
    model, parameters = stacked(PLAIN["batch norm"])
    inputs, labels = normal(3, 9, 6), torch.arange(27).view(3, 9) % 3
    found = []
    for plain in (True, False):
        with probed(model, inputs[0]) as probing:
            assert probing.row is not None
            probing.row = probing.row if plain else None
            zeros = probing.zeros(inputs)
            losses = probing.losses(model, CROSS_ENTROPY)(parameters, zeros, inputs, labels)
            found.append(torch.autograd.grad(losses.sum(), list(zeros.values())))
    for ours, theirs in zip(*found, strict=True):
        assert ours.abs().max() > 0
        assert torch.equal(ours, theirs)


@pytest.mark.breaks(
    "companion/_lib/side_by_side.py", "(targets != -100).sum(1)", "targets.shape[1]"
)
@pytest.mark.breaks(
    "companion/_lib/side_by_side.py", "loss is not nn.functional.cross_entropy or ", ""
)
@pytest.mark.parametrize("ignored", [0, 4, 9])
@pytest.mark.parametrize(
    "loss", [CROSS_ENTROPY, lambda x, y: CROSS_ENTROPY(x, y, reduction="sum")], ids=["mean", "sum"]
)
def test_losses_are_those_of_each_network(
    loss: Callable[[Tensor, Tensor], Tensor], ignored: int
) -> None:
    outputs, labels = normal(3, 9, 4).requires_grad_(), torch.arange(27).view(3, 9) % 4
    labels[1, :ignored] = -100
    expected = torch.stack([loss(x, y) for x, y in zip(outputs, labels, strict=True)])
    found = losses_of(loss, outputs, labels)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0, equal_nan=True)
    assert torch.equal(found.nan_to_num(), vmap(loss)(outputs, labels).nan_to_num())


def test_other_targets_have_losses_too() -> None:
    outputs, shares = normal(3, 9, 4), normal(3, 9, 4, seed=1).softmax(-1)
    expected = [CROSS_ENTROPY(x, y) for x, y in zip(outputs, shares, strict=True)]
    torch.testing.assert_close(losses_of(CROSS_ENTROPY, outputs, shares), torch.stack(expected))
