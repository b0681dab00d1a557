"""The sharpness that a run records against the eigenvalues of whole Hessians."""

import pytest
import torch
from helpers import normal
from torch import Tensor, nn
from torch.func import functional_call

from companion import backprop, training
from companion.data import Split
from companion.training import Snapshot

MSE = nn.functional.mse_loss


def whole(model: nn.Module, state: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    """All eigenvalues of the Hessian of the squared error, over all parameters as one vector."""
    sizes = [p.numel() for p in state.values()]

    def value(flat: Tensor) -> Tensor:
        parts = zip(state.items(), flat.split(sizes), strict=True)
        named = {name: part.view_as(p) for (name, p), part in parts}
        return MSE(functional_call(model, named, (inputs,)), targets)

    flat = torch.cat([p.flatten() for p in state.values()])
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(value, flat))


def snapshot(models: list[nn.Module], step: int = 0) -> Snapshot:
    parameters = {
        name: torch.stack([dict(model.named_parameters())[name].detach() for model in models])
        for name, _ in models[0].named_parameters()
    }
    nothing = torch.zeros(len(models), dtype=torch.float64)
    return Snapshot(step, parameters, nothing, {}, nothing, nothing)


@pytest.mark.breaks("companion/training/hessian.py", "left = later", "left = 1")
@pytest.mark.breaks(
    "companion/training/hessian.py",
    "lambda flat: _flat(bent(state, _like(flat, state))), direction, left",
    "lambda flat: _flat(bent(state, _like(flat[:1].expand_as(flat), state))), direction, left",
)
@pytest.mark.breaks(
    "companion/training/hessian.py", "(small + small.mT) / 2 +", "-(small + small.mT) / 2 +"
)
@pytest.mark.breaks(
    "companion/training/hessian.py",
    "basis.append(_new_direction(found, basis))",
    "basis.append(_new_direction(found, []))",
)
def test_a_run_records_the_largest_eigenvalue_at_each_record() -> None:
    models = backprop.classifiers("tanh", 2.0, 3, width=5, inputs=4, outputs=3, seeds=3)
    inputs, targets = normal(20, 4, seed=8), normal(20, 3, seed=9)
    fixed = inputs[:12], targets[:12]
    states: list[dict[str, Tensor]] = []
    own = training.sharpness(models, *fixed, loss=MSE, first_rounds=60)

    def observe(now: Snapshot) -> Tensor:
        states.append(now.parameters)
        return own(now)

    split = Split(inputs, targets, inputs[:0], targets[:0])
    options = {"optimizer": training.sgd(0.1), "steps": 30, "loss": MSE, "batch_size": 5}
    record = training.train(
        models, split, record_every=10, observe=observe, progress=False, **options
    )
    found = torch.stack(record.observed)
    assert found.shape == (4, 3)
    for state, row in zip(states, found, strict=True):
        for i, one in enumerate(row):
            mine = {name: value[i] for name, value in state.items()}
            largest = whole(models[0], mine, *fixed)[-1].item()
            # From below; eight products are enough where the direction hardly turns.
            assert largest * (1 - 1e-4) < one.item() < largest * (1 + 1e-9)


def saddle(size: float, down: float) -> tuple[nn.Module, Tensor, Tensor]:
    """Two numbers whose loss bends up by 2·size in one direction and down by 2·down in another."""
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.3, -0.2]]))
    return model, torch.eye(2, dtype=torch.float64), torch.tensor([size, -down])


def bending(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.flatten().square() * targets).sum()


def test_it_is_the_largest_with_its_sign_where_the_loss_bends_down_more() -> None:
    model, inputs, targets = saddle(1.0, 5.0)
    observe = training.sharpness(model, inputs, targets, loss=bending)
    for _ in range(3):  # also when it goes on from where it was
        assert observe(snapshot([model])).item() == pytest.approx(2, rel=1e-9)
    assert training.curvature(model, inputs, targets, loss=bending).item() == pytest.approx(-10)
    model, inputs, targets = saddle(-1.0, 5.0)  # downhill everywhere
    observe = training.sharpness(model, inputs, targets, loss=bending)
    for _ in range(3):
        assert observe(snapshot([model])).item() == pytest.approx(-2, rel=1e-9)


@pytest.mark.breaks("companion/training/hessian.py", "* (space.square().sum(1) == 0)", "* 0")
@pytest.mark.breaks(
    "companion/training/hessian.py", "torch.where(is_new, vector / length, 0.0)", "vector / length"
)
def test_more_products_than_there_are_directions() -> None:
    line = nn.Linear(1, 1, bias=False).double()
    x = torch.full((4, 1), 3.0, dtype=torch.float64)

    def upside_down(outputs: Tensor, targets: Tensor) -> Tensor:
        return -MSE(outputs, targets)

    for loss, expected in ((MSE, 18.0), (upside_down, -18.0)):
        observe = training.sharpness(line, x, 0 * x, loss=loss, first_rounds=9)
        found = [observe(snapshot([line])).item() for _ in range(3)]
        assert found == pytest.approx([expected] * 3)

    def plane(outputs: Tensor, _targets: Tensor) -> Tensor:
        return outputs.sum()

    observe = training.sharpness(line, x, 0 * x, loss=plane)
    assert [observe(snapshot([line])).item() for _ in range(2)] == [0, 0]


@pytest.mark.breaks(
    "companion/training/hessian.py",
    "nonlocal direction, left",
    "nonlocal left; direction = _flat(_directions(parameters, seed))",
)
def test_it_goes_on_from_where_it_was() -> None:
    models = backprop.classifiers("tanh", 2.0, 3, width=6, inputs=4, outputs=3, seeds=2)
    inputs, targets = normal(20, 4, seed=8), normal(20, 3, seed=9)
    exact = torch.stack([
        whole(m, {k: p.detach() for k, p in m.named_parameters()}, inputs, targets)[-1]
        for m in models
    ])  # fmt: skip
    observe = training.sharpness(models, inputs, targets, loss=MSE, rounds=3, first_rounds=3)
    errors = torch.stack([1 - observe(snapshot(models)) / exact for _ in range(12)])
    assert (errors > -1e-9).all()
    assert (errors[0] > 1e-2).all()
    assert (errors[-1] < 1e-6).all()


@pytest.mark.breaks(
    "companion/training/hessian.py", "small.where(finite[:, None, None], 0.0)", "small"
)
@pytest.mark.breaks(
    "companion/training/hessian.py", ".where(finite, torch.nan)", ".clamp(min=-1e9)"
)
def test_a_network_that_left_the_numbers_is_nan_and_the_others_go_on() -> None:
    models = backprop.classifiers("relu", 2.0, 2, width=4, inputs=3, outputs=2, seeds=3)
    inputs, targets = normal(9, 3), normal(9, 2, seed=1)
    observe = training.sharpness(models, inputs, targets, loss=MSE)
    before = observe(snapshot(models))
    with torch.no_grad():
        next(models[1].parameters()).fill_(float("inf"))
    after = observe(snapshot(models))
    assert after.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(after[::2], before[::2], rtol=1e-6, atol=0)


def test_float32_and_models_left_alone() -> None:
    models = [m.float() for m in backprop.classifiers("tanh", 1.0, 2, width=4, inputs=3, seeds=2)]
    inputs, labels = normal(9, 3).float(), torch.arange(9) % 10
    before = [p.detach().clone() for m in models for p in m.parameters()]
    found = training.sharpness(models, inputs, labels)(snapshot(models))
    assert found.dtype == torch.float32
    after = [p for m in models for p in m.parameters()]
    assert all(map(torch.equal, before, after))
    assert all(p.grad is None for p in after)
    models = [m.double() for m in models]
    exact = training.sharpness(models, inputs.double(), labels)(snapshot(models))
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)


def test_bad_arguments_are_named() -> None:
    model, x = nn.Linear(2, 1), torch.ones(3, 2)
    for models, options, error, message in [
        ([], {}, ValueError, "at least one module"),
        (model, {"rounds": 0}, ValueError, "rounds must be at least 1"),
        (model, {"first_rounds": 0}, ValueError, "first_rounds must be at least 1"),
        (model, {"rounds": 1.5}, TypeError, "rounds must be a whole number"),
    ]:
        with pytest.raises(error, match=message):
            training.sharpness(models, x, x[:, :1], **options)
