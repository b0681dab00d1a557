"""The curvature against the eigenvalues of whole Hessians."""

import pytest
import torch
from helpers import normal
from torch import Tensor, nn
from torch.func import functional_call

from companion import backprop, training


def whole(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """All eigenvalues of the Hessian, over all parameters as one vector."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in named.values()]

    def value(flat: Tensor) -> Tensor:
        parts = zip(named.items(), flat.split(sizes), strict=True)
        state = {name: part.view_as(p) for (name, p), part in parts}
        return nn.functional.cross_entropy(functional_call(model, state, (inputs,)), targets)

    flat = torch.cat([p.flatten() for p in named.values()])
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(value, flat))


@pytest.mark.breaks(
    "companion/training/hessian.py",
    "found, vector = vmap(_product)(vector, product)",
    "found, vector = vmap(_product)(product, product)",
)
@pytest.mark.breaks("companion/training/hessian.py", "b[name]).sum() for", "b[name]).mean() for")
@pytest.mark.breaks(
    "companion/training/hessian.py", "return grad(slope)(state)", "return grad(value)(state)"
)
def test_it_is_the_largest_eigenvalue_of_each_network_s_hessian() -> None:
    models = backprop.classifiers("tanh", 2.0, 3, width=5, inputs=4, outputs=3, seeds=3)
    inputs, targets = normal(20, 4, seed=8), torch.arange(20) % 3
    found = training.curvature(models, inputs, targets, rounds=300)
    for model, one in zip(models, found, strict=True):
        values = whole(model, inputs, targets)
        assert one.item() == pytest.approx(values[values.abs().argmax()].item(), rel=1e-4)
    few = training.curvature(models, inputs, targets)
    assert ((few <= found * (1 + 1e-9)) & (few > 0.7 * found)).all()
    alone = training.curvature(models[1], inputs, targets, seed=1, rounds=300)
    torch.testing.assert_close(alone, found[1:2])


@pytest.mark.breaks(
    "companion/training/hessian.py", '"largest", largest, LARGEST) == "value"', '"a", "a", "a")'
)
def test_the_largest_with_its_sign_where_the_loss_bends_down_more() -> None:
    models = backprop.classifiers("tanh", 2.0, 3, width=5, inputs=4, outputs=3, seeds=3)
    inputs, targets = normal(20, 4, seed=8), torch.arange(20) % 3

    def upside_down(outputs: Tensor, labels: Tensor) -> Tensor:
        return -nn.functional.cross_entropy(outputs, labels)

    options = {"loss": upside_down, "rounds": 40}
    size = training.curvature(models, inputs, targets, **options)
    value = training.curvature(models, inputs, targets, largest="value", **options)
    for i, model in enumerate(models):
        values = -whole(model, inputs, targets)
        assert size[i].item() == pytest.approx(values.min().item(), rel=1e-2)
        assert value[i].item() == pytest.approx(values.max().item(), rel=1e-6)
    assert (size < 0).all()
    assert (value > 0).all()


def test_a_step_of_more_than_two_over_it_overshoots() -> None:
    inputs, targets = normal(30, 4, seed=8), normal(30, 2, seed=9)
    model, loss = nn.Linear(4, 2).double(), nn.functional.mse_loss
    bound = 2 / training.curvature(model, inputs, targets, loss=loss, rounds=200).item()
    for share, grows in ((0.98, False), (1.02, True)):
        tried = nn.Linear(4, 2).double()
        tried.load_state_dict(model.state_dict())
        losses = []
        for _ in range(2000):
            value = loss(tried(inputs), targets)
            losses.append(value.item())
            gradients = torch.autograd.grad(value, list(tried.parameters()))
            with torch.no_grad():
                for p, g in zip(tried.parameters(), gradients, strict=True):
                    p -= share * bound * g
        assert (losses[-1] > losses[0]) == grows


def test_the_models_are_left_alone_and_bad_input_is_named() -> None:
    model = nn.Linear(3, 2).double()
    before = model.weight.detach().clone()
    training.curvature(model, normal(5, 3), torch.arange(5) % 2, rounds=1)
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None
    with pytest.raises(ValueError, match="at least one module"):
        training.curvature([], normal(5, 3), torch.arange(5) % 2)
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        training.curvature(model, normal(5, 3), torch.arange(5) % 2, rounds=0)
