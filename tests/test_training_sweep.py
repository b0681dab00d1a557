"""A sweep of rates and seeds against the loop over them."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from helpers import normal
from torch import Tensor, nn

from companion import training
from companion.data import Split
from companion.training import rate_sweep

RATES = [0.02, 0.3, 1.5]
MSE = nn.functional.mse_loss


def data(count: int = 40) -> Split:
    x = normal(count, 6)
    return Split(x, torch.arange(count) % 3, normal(5, 6, seed=2), torch.arange(5) % 3)


def network(seed: int) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=10 * seed + index))
    return model


def loop(
    optimizer: Callable,
    rates: list[float],
    seeds: int,
    *,
    target: float,
    seed: int,
    **options: object,
) -> tuple[Tensor, Tensor]:
    """Final losses and steps to the target, one rate and seed after the other."""
    losses, steps = torch.empty(2, len(rates), seeds, dtype=torch.float64)
    for r, rate in enumerate(rates):
        for s in range(seeds):
            model = network(s)
            record = training.train(
                model, data(), optimizer=optimizer(rate), seed=seed + s, progress=False, **options
            )
            with torch.no_grad():
                outputs = model(data().train_inputs)
            losses[r, s] = nn.functional.cross_entropy(outputs, data().train_targets)
            reached = record.steps[(record.loss[:, 0] <= target)].tolist()
            steps[r, s] = min(reached, default=math.inf)
    return losses, steps


@pytest.mark.breaks(
    "companion/training/sweep.py",
    "each.flatten().tolist()",
    "each.mT.flatten().tolist()",
)
@pytest.mark.breaks(
    "companion/training/sweep.py",
    "[seed + i for _ in each for i in range(len(models))]",
    "[seed + i for i in range(len(runs))]",
)
@pytest.mark.breaks(
    "companion/training/sweep.py", "record.loss <= target", "record.loss < record.loss[0] * target"
)
@pytest.mark.breaks("companion/training/sweep.py", "math.inf).amin(0)", "math.inf)[-1]")
@pytest.mark.breaks(
    "companion/training/sweep.py",
    "last = _whole_loss(runs, data, loss, chunk=len(models))",
    "last = record.loss[-1]",
)
@pytest.mark.breaks(
    "companion/training/sweep.py",
    "record_every=steps if bound is None else record_every",
    "record_every=1",
)
@pytest.mark.parametrize(
    "optimizer",
    [
        partial(training.sgd, momentum=0.5),
        lambda rates: training.scheduled(training.adam(rates), training.warmup(5)),
    ],
    ids=["momentum", "adam, warmup"],
)
def test_a_sweep_is_the_loop(optimizer: Callable) -> None:
    options = {"steps": 20, "batch_size": 9, "target": 0.8, "seed": 4, "record_every": 2}
    models = [network(seed) for seed in range(2)]
    before = [p.detach().clone() for model in models for p in model.parameters()]
    found = rate_sweep(
        models, data(), optimizer=optimizer, learning_rates=RATES, progress=False, **options
    )
    losses, steps = loop(optimizer, RATES, 2, **options)
    torch.testing.assert_close(found.loss, losses, rtol=1e-9, atol=1e-11)
    assert torch.equal(found.steps, steps)
    assert len(steps.unique()) > 2
    assert found.finite.all()
    assert found.learning_rates.tolist() == RATES
    assert all(map(torch.equal, before, [p for model in models for p in model.parameters()]))


def test_each_network_may_have_rates_of_its_own() -> None:
    models, rates = [network(0), network(1)], torch.tensor([[0.02, 0.3], [0.3, 1.5]])
    options = {"optimizer": training.sgd, "steps": 5, "batch_size": 9, "progress": False}
    found = rate_sweep(models, data(), learning_rates=rates, **options)
    every = rate_sweep(models, data(), learning_rates=RATES, **options)
    expected = torch.stack([every.loss[[0, 1], [0, 1]], every.loss[[1, 2], [0, 1]]])
    torch.testing.assert_close(found.loss, expected, rtol=1e-6, atol=0)
    assert torch.equal(found.learning_rates, rates.double())


@pytest.mark.breaks("companion/training/sweep.py", "torch.where(good, last, math.inf)", "last")
@pytest.mark.breaks("companion/training/sweep.py", "stop is None for stop", "True for stop")
def test_what_leaves_the_numbers_is_not_finite_and_has_no_loss() -> None:
    split = Split(normal(10, 2), normal(10, 1, seed=1), normal(0, 2), normal(0, 1))
    models = [nn.Linear(2, 1).double() for _ in range(2)]

    def cut(outputs: Tensor, targets: Tensor) -> Tensor:
        """The squared error, which is no number for a large one on a batch."""
        loss = MSE(outputs, targets)
        return loss.where(loss < 30, torch.nan) if len(outputs) == 3 else loss

    found = rate_sweep(
        models, split, optimizer=training.sgd, learning_rates=[0.1, 10.0, 1e200],
        steps=20, loss=cut, batch_size=3, target=30.0, progress=False,
    )  # fmt: skip
    assert found.finite.tolist() == [[True, True], [False, False], [False, False]]
    assert found.loss[0].isfinite().all()
    assert (found.loss[1:] == math.inf).all()
    assert (found.steps == 0).all()


def test_a_run_whose_last_step_leaves_the_numbers_is_not_finite() -> None:
    split = Split(normal(10, 2), normal(10, 1, seed=1), normal(0, 2), normal(0, 1))
    found = rate_sweep(
        nn.Linear(2, 1).double(), split, optimizer=training.sgd, learning_rates=[1e-3, 1e200],
        steps=1, loss=MSE, batch_size=3, progress=False,
    )  # fmt: skip
    assert found.finite.tolist() == [[True], [False]]
    assert (found.steps == math.inf).all()
    assert found.steps.dtype == torch.float64


def test_gradients_are_clipped_as_train_does() -> None:
    model, other = network(0), network(0)
    found = rate_sweep(
        model, data(), optimizer=training.sgd, learning_rates=[0.5], steps=4, max_norm=0.01,
        batch_size=None, progress=False,
    )  # fmt: skip
    record = training.train(
        other, data(), optimizer=training.sgd(0.5), steps=4, max_norm=0.01, batch_size=None,
        progress=False,
    )  # fmt: skip
    assert found.loss.item() == pytest.approx(record.loss[-1].item(), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"models": []}, ValueError, "at least one module"),
        ({"learning_rates": []}, ValueError, r"at least one number, .* got shape \(0,\)"),
        ({"learning_rates": torch.ones(2, 3)}, ValueError, r"shape \(rates, 1\) .* \(2, 3\)"),
        ({"learning_rates": torch.ones(1, 1, 1)}, ValueError, r"got shape \(1, 1, 1\)"),
        ({"learning_rates": torch.tensor(0.1)}, ValueError, r"got shape \(\)"),
        ({"learning_rates": [0.1, -0.1]}, ValueError, "learning_rate must be"),
        ({"target": "low"}, TypeError, "target must be a number, got 'low'"),
        ({"target": math.nan}, ValueError, "target must be finite"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be a whole number"),
        ({"max_norm": -1}, ValueError, "max_norm must be"),
    ],
)
def test_bad_arguments_are_named(change: dict, error: type[Exception], message: str) -> None:
    good = {"models": network(0), "optimizer": training.sgd, "learning_rates": [0.1], "steps": 2}
    options = good | change
    with pytest.raises(error, match=message):
        rate_sweep(options.pop("models"), data(), progress=False, **options)
