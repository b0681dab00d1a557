"""The vectorised training loop against a plain torch loop, one network at a time."""

import math
from collections.abc import Callable, Iterable

import pytest
import torch
from helpers import normal
from torch import Tensor, nn

from companion import training
from companion._lib import stacking
from companion._lib.norms import vector_norm
from companion._lib.stacking import clipped
from companion.data import Split
from companion.training import Snapshot, Stop, adam, sgd, train

CROSS_ENTROPY = nn.functional.cross_entropy
STEPS = 7


def labels(count: int, seed: int) -> Tensor:
    return torch.randint(3, (count,), generator=torch.Generator().manual_seed(seed))


def data(*features: int) -> Split:
    features = features or (6,)
    return Split(normal(40, *features), labels(40, 1), normal(15, *features, seed=2), labels(15, 3))


def mlp(seed: int, size: float = 1.0) -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)
    ).double()
    fill(model, seed, size)
    return model


def convolutional(seed: int) -> nn.Sequential:
    layers = [nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3)]
    model = nn.Sequential(*layers).double()
    fill(model, seed)
    return model


def batch_normed(seed: int) -> nn.Sequential:
    norm = nn.BatchNorm1d(5, track_running_stats=False)
    model = nn.Sequential(nn.Linear(6, 5), norm, nn.Tanh(), nn.Linear(5, 3)).double()
    fill(model, seed)
    return model


def fill(model: nn.Module, seed: int, size: float = 1.0) -> None:
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(size * normal(*parameter.shape, seed=100 * seed + index))


def length(values: Tensor) -> Tensor:
    """The norm of numbers whose squares may overflow."""
    largest = values.abs().max()
    usable = bool(largest.isfinite() and largest > 0)
    return largest * (values / largest).norm() if usable else largest


def plain(
    model: nn.Module,
    data: Split,
    optimizer: Callable[[Iterable], torch.optim.Optimizer],
    *,
    steps: int = STEPS,
    loss: Callable[[Tensor, Tensor], Tensor] = CROSS_ENTROPY,
    batch_size: int | None = 9,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Train one model as any tutorial does, and note what a record should hold at each step."""
    generator = torch.Generator().manual_seed(seed)
    update = optimizer(model.parameters())
    start = [p.detach().clone() for p in model.parameters()]
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        output.requires_grad_() if output.is_leaf else output.retain_grad()
        outputs.append(output)
        return output.clone()  # so that an in-place activation does not touch it

    handles = [
        module.register_forward_hook(keep)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    rows: list[dict[str, list[Tensor] | Tensor]] = []
    for step in range(steps + 1):
        index = torch.arange(len(data.train_inputs))
        if batch_size is not None:
            index = torch.randint(len(index), (batch_size,), generator=generator)
        outputs.clear()
        value = loss(model(data.train_inputs[index]), data.train_targets[index])
        update.zero_grad()
        value.backward()
        row = {
            "loss": [value.detach()],
            "delta_norms": [length(output.grad) for output in outputs],
            "gradient_norms": [length(p.grad) for p in model.parameters()],
            "weight_norms": [length(p.detach()) for p in model.parameters()],
            "displacement": [
                length(p.detach() - s) for p, s in zip(model.parameters(), start, strict=True)
            ],
        }
        with torch.no_grad():
            tested = model(data.test_inputs)
            row["test_loss"] = [loss(tested, data.test_targets)]
            right = (tested.argmax(1) == data.test_targets).double()
            row["test_accuracy"] = [right.mean()]
        rows.append({key: torch.stack(values) for key, values in row.items()})
        if not value.isfinite() or step == steps:
            break
        update.step()
    for handle in handles:
        handle.remove()
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def assert_same_run(record: training.Record, network: int, expected: dict[str, Tensor]) -> None:
    for key, values in expected.items():
        found = getattr(record, key)[:, network]
        assert len(found) == len(values)
        # Batched and single matrix products round differently: 1e-15 a step, grown over a few.
        torch.testing.assert_close(found, values.reshape(found.shape), rtol=1e-10, atol=1e-12)


def assert_same_weights(models: list[nn.Module], others: list[nn.Module]) -> None:
    for one, other in zip(models, others, strict=True):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.mark.breaks(
    "companion/training/loop.py",
    "[seed + i for i in range(networks)]",
    "[seed for i in range(networks)]",
)
@pytest.mark.breaks(
    "companion/training/loop.py",
    "norms(parameters[name] - start[name] for name in parameters)",
    "norms(start[name] for name in parameters)",
)
@pytest.mark.breaks(
    "companion/training/loop.py", "for step in bar(range(steps + 1)", "for step in bar(range(steps)"
)
@pytest.mark.parametrize(
    "optimizer", [sgd(0.1), sgd(0.05, momentum=0.9), adam(0.01)], ids=["sgd", "momentum", "adam"]
)
@pytest.mark.parametrize("batch_size", [9, None])
def test_networks_train_as_each_would_alone(
    optimizer: Callable[[Iterable], torch.optim.Optimizer], batch_size: int | None
) -> None:
    models, others = ([mlp(seed) for seed in range(3)] for _ in range(2))
    record = train(models, data(), optimizer=optimizer, steps=STEPS, batch_size=batch_size, seed=5)
    for index, other in enumerate(others):
        expected = plain(other, data(), optimizer, batch_size=batch_size, seed=5 + index)
        assert_same_run(record, index, expected)
    assert_same_weights(models, others)
    assert record.steps.tolist() == list(range(STEPS + 1))
    assert record.layers == ("0", "2", "4")
    assert record.names == ("0.weight", "0.bias", "2.weight", "4.weight", "4.bias")
    assert record.parameters() == [0, 2, 3]
    assert record.parameters("bias") == [1, 4]
    assert record.stopped == (None, None, None)
    assert record.delta_norms.shape == (STEPS + 1, 3, 3)
    assert record.gradient_norms.shape == (STEPS + 1, 3, 5)
    assert (record.displacement[0] == 0).all()
    assert (record.displacement[1:] > 0).all()


@pytest.mark.breaks(
    "companion/training/loop.py",
    "_update(update, parameters, _clipped(found.gradients, bounds), going)",
    "_update(update, parameters, found.gradients, going)",
)
@pytest.mark.breaks(
    "companion/_lib/stacking.py",
    "vector_norm(norms(gradients), dim=1)",
    "vector_norm(norms(gradients)).expand(3)",
)
def test_each_network_is_clipped_by_its_own_norm() -> None:
    models, others = ([mlp(seed) for seed in range(3)] for _ in range(2))
    options = {"optimizer": sgd(0.1), "steps": 4, "batch_size": None, "record_every": 4}
    before = (
        train([mlp(seed) for seed in range(3)], data(), **options).gradient_norms[0].norm(dim=1)
    )
    bound = before.median().item()  # one network is clipped at the first step, one is not
    record = train(models, data(), max_norm=bound, **options)
    assert torch.equal(record.gradient_norms[0].norm(dim=1), before)
    for other in others:
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            CROSS_ENTROPY(other(data().train_inputs), data().train_targets).backward()
            nn.utils.clip_grad_norm_(other.parameters(), bound)
            optimizer.step()
    assert_same_weights(models, others)


def test_each_network_may_have_its_own_threshold_and_seed() -> None:
    bounds, seeds, options = [0.5, math.inf, 0.01], [7, 3, 3], {"optimizer": sgd(0.1), "steps": 4}
    models, others = ([mlp(seed) for seed in range(3)] for _ in range(2))
    train(models, data(), max_norm=bounds, seed=seeds, batch_size=9, **options)
    for other, bound, seed in zip(others, bounds, seeds, strict=True):
        clip = {} if math.isinf(bound) else {"max_norm": bound}
        train(other, data(), seed=seed, batch_size=9, **clip, **options)
    assert_same_weights(models, others)


@pytest.mark.breaks(
    "companion/training/optimizers.py",
    "self.rates.to(parameter.dtype).view(-1, *[1] * (parameter.dim() - 1))",
    "self.rates.to(parameter.dtype)[0]",
)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_each_network_may_have_its_own_learning_rate(momentum: float) -> None:
    rates, options = [0.3, 0.0, 0.01], {"steps": 4, "batch_size": 9}
    models, others = ([mlp(seed) for seed in range(3)] for _ in range(2))
    train(models, data(), optimizer=sgd(rates, momentum), **options)
    for seed, (other, rate) in enumerate(zip(others, rates, strict=True)):
        train(other, data(), optimizer=sgd(rate, momentum), seed=seed, **options)
    assert_same_weights(models, others)


@pytest.mark.parametrize("rates", [[0.1], [0.1, -1.0], [0.1, math.nan]])
def test_a_learning_rate_for_each_network_or_one_for_all(rates: list[float]) -> None:
    with pytest.raises(ValueError, match=r"learning_rate must be .* each of 2 models, got \[0.1"):
        train([mlp(0), mlp(1)], data(), optimizer=sgd(rates), steps=1)


@pytest.mark.breaks(
    "companion/_lib/stacking.py",
    "torch.where(bounds.isinf(), 1.0, (bounds / (whole + 1e-6)).clamp(max=1.0))",
    "(bounds / (whole + 1e-6)).clamp(max=1.0)",
)
@pytest.mark.breaks(
    "companion/_lib/stacking.py", "vector_norm(norms(gradients), dim=1)", "norms(gradients).amax(1)"
)
def test_a_gradient_is_scaled_to_its_bound_or_left_alone() -> None:
    gradients = [torch.tensor([[3.0], [0.3], [3.0], [math.inf], [0.0]])]
    gradients += [torch.tensor([4.0, 0.4, 4.0, 1.0, 0.0]).view(5, 1, 1)]
    bounds = torch.tensor([1.0, 1.0, math.inf, math.inf, 1.0])
    found, norms = clipped(gradients, bounds)
    torch.testing.assert_close(norms, torch.tensor([5.0, 0.5, 5.0, math.inf, 0.0]))
    factors = torch.tensor([1 / (5 + 1e-6), 1.0, 1.0, 1.0, 1.0])
    for before, after in zip(gradients, found, strict=True):
        expected = (before.flatten() * factors).view_as(before)
        torch.testing.assert_close(after, expected)


@pytest.mark.breaks(
    "companion/_lib/stacking.py", "(~are_safe(found).all(0))", "(~are_safe(found).any(0))"
)
def test_a_norm_is_that_of_each_part_also_beyond_the_type() -> None:
    tensors = [
        normal(3, 2, 4, seed=1),
        normal(3, 5, seed=2),
        torch.zeros(3, 2, dtype=torch.float64),
    ]
    tensors[1][1] *= 1e200
    tensors[2][0] = 1e-200
    found = stacking.norms(tensors)
    for column, tensor in enumerate(tensors):
        for row in range(3):
            torch.testing.assert_close(
                found[row, column], vector_norm(tensor[row]), rtol=1e-14, atol=0
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_norm": -1.0}, "max_norm must be a number of at least 0 .* got -1.0"),
        ({"max_norm": [1.0, math.nan]}, "max_norm"),
        ({"max_norm": [1.0]}, r"one for each of 2 models, got \[1.0\]"),
        ({"seed": [1, 2, 3]}, "one for each of 2 models, got 3"),
    ],
)
def test_a_threshold_or_seed_for_each_network_or_one_for_all(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train([mlp(0), mlp(1)], data(), optimizer=sgd(0.1), steps=1, **options)


def test_optimizers_are_torchs_with_the_options_named() -> None:
    parameter = [nn.Parameter(torch.zeros(1))]
    for made, kind, options in [
        (sgd(0.3), torch.optim.SGD, {"lr": 0.3, "momentum": 0.0}),
        (sgd(0.3, momentum=0.8), torch.optim.SGD, {"lr": 0.3, "momentum": 0.8}),
        (adam(0.2), torch.optim.Adam, {"lr": 0.2, "betas": (0.9, 0.999)}),
    ]:
        optimizer = made(parameter)
        assert type(optimizer) is kind
        assert options.items() <= optimizer.param_groups[0].items()


def test_one_model_needs_no_list() -> None:
    model, other = mlp(0), mlp(0)
    record = train(model, data(), optimizer=sgd(0.1), steps=STEPS, batch_size=9)
    assert_same_run(record, 0, plain(other, data(), sgd(0.1)))
    assert_same_weights([model], [other])


def test_convolutions_and_in_place_activations() -> None:
    models, others = ([convolutional(seed) for seed in range(2)] for _ in range(2))
    images = data(1, 4, 4)
    record = train(models, images, optimizer=sgd(0.02), steps=STEPS, batch_size=9)
    for index, other in enumerate(others):
        assert_same_run(record, index, plain(other, images, sgd(0.02), seed=index))
    assert_same_weights(models, others)
    assert record.layers == ("0", "3")


@pytest.mark.breaks("companion/training/loop.py", "data.train_inputs[:2]", "data.train_inputs[:1]")
def test_batch_norm_without_running_statistics() -> None:
    models, others = ([batch_normed(seed) for seed in range(2)] for _ in range(2))
    record = train(models, data(), optimizer=sgd(0.1), steps=STEPS, batch_size=9)
    for index, other in enumerate(others):
        assert_same_run(record, index, plain(other, data(), sgd(0.1), seed=index))
    assert_same_weights(models, others)
    assert record.layers == ("0", "3")


@pytest.mark.parametrize("batch_size", [9, None])
def test_a_single_example_is_enough_but_for_batch_norm(batch_size: int | None) -> None:
    whole = data()
    single = whole._replace(
        train_inputs=whole.train_inputs[:1], train_targets=whole.train_targets[:1]
    )
    model, other = mlp(0), mlp(0)
    record = train(model, single, optimizer=sgd(0.1), steps=STEPS, batch_size=batch_size)
    assert_same_run(record, 0, plain(other, single, sgd(0.1), batch_size=batch_size))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        train(batch_normed(0), single, optimizer=sgd(0.1), steps=STEPS, batch_size=batch_size)


def test_steps_between_records() -> None:
    every = train(mlp(0), data(), optimizer=sgd(0.1), steps=10)
    record = train(mlp(0), data(), optimizer=sgd(0.1), steps=10, record_every=4)
    assert record.steps.tolist() == [0, 4, 8, 10]
    assert torch.equal(record.loss, every.loss[[0, 4, 8, 10]])
    assert torch.equal(record.displacement, every.displacement[[0, 4, 8, 10]])
    assert torch.equal(record.test_loss, every.test_loss[[0, 4, 8, 10]])


def quartic(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss under which small networks learn and large ones blow up."""
    return (outputs**4).mean() + 0 * targets.sum()


@pytest.mark.breaks("companion/training/loop.py", "parameter[~going] = held[name][~going]", "pass")
@pytest.mark.breaks(
    "companion/training/loop.py",
    "rows.append(row if not rows else _hold(row, rows[-1], stopped, step))",
    "rows.append(row)",
)
@pytest.mark.breaks(
    "companion/training/loop.py",
    "if _note_stops(stopped, step, found.loss) and not recording:\n"
    "                recording = True\n",
    "if _note_stops(stopped, step, found.loss) and not recording:\n",
)
@pytest.mark.parametrize("optimizer", [sgd(1e-3), sgd(1e-3, momentum=0.5)], ids=["sgd", "momentum"])
def test_a_network_that_blows_up_stops_alone(
    optimizer: Callable[[Iterable], torch.optim.Optimizer],
) -> None:
    sizes, steps = [0.3, 3.0, 0.2], 20
    models, others = ([mlp(i, size) for i, size in enumerate(sizes)] for _ in range(2))
    options = {"loss": quartic, "batch_size": 9, "steps": steps}
    expected = [plain(m, data(), optimizer, seed=i, **options) for i, m in enumerate(others)]
    stop = len(expected[1]["loss"]) - 1
    assert 1 < stop < steps - 1, "it must stop midway for the test to say anything"
    record = train(models, data(), optimizer=optimizer, **options)
    assert record.stopped[::2] == (None, None)
    assert record.stopped[1].step == stop
    assert not math.isfinite(record.stopped[1].loss)
    assert_same_weights(models, others)
    assert all(p.isfinite().all() for p in models[1].parameters())
    for network in (0, 2):
        assert_same_run(record, network, expected[network])
    for key, values in expected[1].items():
        found = getattr(record, key)[:, 1]
        trained = values.reshape(found[: stop + 1].shape)
        torch.testing.assert_close(found[: stop + 1], trained, equal_nan=True)
        for row in found[stop + 1 :]:
            assert torch.equal(row.nan_to_num(), found[stop].nan_to_num())
    sparse = train(
        [mlp(i, size) for i, size in enumerate(sizes)],
        data(),
        optimizer=optimizer,
        record_every=steps,
        **options,
    )
    assert sparse.steps.tolist() == [0, stop, steps]
    assert sparse.stopped[1].step == stop
    assert torch.equal(sparse.weight_norms, record.weight_norms[[0, stop, steps]])


def test_a_run_ends_when_every_network_has_stopped() -> None:
    models = [mlp(1, 3.0), mlp(1, 1e90)]
    record = train(models, data(), optimizer=sgd(1e-3), steps=50, loss=quartic)
    later = record.stopped[0].step
    assert 0 < later < 50
    assert record.stopped[1].step == 0
    assert record.steps.tolist() == list(range(later + 1))
    assert not math.isfinite(record.loss[-1, 0].item())


def test_a_loss_that_is_not_a_number_is_said() -> None:
    model = mlp(0)
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    record = train(model, data(), optimizer=sgd(0.1), steps=5)
    assert isinstance(record.stopped[0], Stop)
    assert record.stopped[0].step == 0
    assert math.isnan(record.stopped[0].loss)
    assert record.steps.tolist() == [0]


def test_without_a_test_part_nothing_is_tested() -> None:
    split = data()
    untested = Split(split.train_inputs, split.train_targets, torch.empty(0, 6), torch.empty(0))
    record = train(mlp(0), untested, optimizer=sgd(0.1), steps=2)
    assert record.test_loss is None
    assert record.test_accuracy is None


def test_numbers_as_targets_have_a_loss_and_no_accuracy() -> None:
    split = data()
    numbers = Split(split.train_inputs, normal(40, 3, seed=7), split.test_inputs, normal(15, 3))
    model = mlp(0)
    expected = nn.functional.mse_loss(model(numbers.test_inputs), numbers.test_targets).item()
    record = train(model, numbers, optimizer=sgd(0.1), steps=2, loss=nn.functional.mse_loss)
    assert record.test_loss[0].item() == pytest.approx(expected, rel=1e-12)
    assert record.test_accuracy is None


@pytest.mark.breaks(
    "companion/training/loop.py", "observed.append(observe(", "observed.insert(0, observe("
)
@pytest.mark.breaks(
    "companion/training/loop.py",
    "_snapshot(step, parameters, found, *batch)",
    "_snapshot(step, start, found, *batch)",
)
@pytest.mark.breaks(
    "companion/training/loop.py",
    "_snapshot(step, parameters, found, *batch)",
    "_snapshot(step, parameters, found._replace(gradients=_clipped(found.gradients, bounds)), "
    "*batch)",
)
def test_an_observer_sees_each_recorded_step_before_its_update() -> None:
    models, options = [mlp(0), mlp(1)], {"steps": 10, "record_every": 4, "batch_size": 9}
    others = [mlp(0), mlp(1)]
    seen: list[Snapshot] = []

    def observe(now: Snapshot) -> int:
        seen.append(now)
        return now.step**2

    record = train(
        models, data(), optimizer=sgd(0.1), max_norm=0.2, seed=5, observe=observe, **options
    )
    assert [now.step for now in seen] == record.steps.tolist() == [0, 4, 8, 10]
    assert record.observed == (0, 16, 64, 100)
    assert train(mlp(0), data(), optimizer=sgd(0.1), **options).observed == ()
    for i, other in enumerate(others):
        generator, update = torch.Generator().manual_seed(5 + i), sgd(0.1)(other.parameters())
        looks = iter(seen)
        for step in range(11):
            rows = torch.randint(40, (9,), generator=generator)
            x, y = data().train_inputs[rows], data().train_targets[rows]
            update.zero_grad()
            value = CROSS_ENTROPY(other(x), y)
            value.backward()
            if step in (0, 4, 8, 10):
                now = next(looks)
                assert torch.equal(now.inputs[i], x)
                assert torch.equal(now.targets[i], y)
                torch.testing.assert_close(now.loss[i], value.detach())
                assert list(now.parameters) == list(now.gradients) == list(record.names)
                for name, parameter in other.named_parameters():
                    torch.testing.assert_close(now.parameters[name][i], parameter.detach())
                    torch.testing.assert_close(now.gradients[name][i], parameter.grad)
            nn.utils.clip_grad_norm_(other.parameters(), 0.2)
            update.step()


@pytest.mark.breaks(
    "companion/training/loop.py",
    "name: value.detach().clone() for name, value in parameters.items()}\n    grad",
    "name: value.detach() for name, value in parameters.items()}\n    grad",
)
@pytest.mark.breaks(
    "companion/training/loop.py",
    "name: value.clone() for name, value in found",
    "name: value for name, value in found",
)
@pytest.mark.breaks(
    "companion/training/loop.py", "now, found.loss.clone(), gradients", "now, found.loss, gradients"
)
def test_an_observer_cannot_change_the_run() -> None:
    def spoil(now: Snapshot) -> None:
        for tensor in (*now.parameters.values(), *now.gradients.values(), now.loss, now.inputs):
            assert not tensor.requires_grad
            tensor.fill_(math.nan)
        now.targets.zero_()
        now.parameters.clear()
        now.gradients.clear()

    models, others, split = [mlp(0), mlp(1)], [mlp(0), mlp(1)], data()
    options = {"optimizer": sgd(0.1, momentum=0.9), "steps": 5, "record_every": 2}
    for batch_size in (9, None):
        spoilt = train(models, split, observe=spoil, batch_size=batch_size, **options)
        record = train(others, split, batch_size=batch_size, **options)
        for name in ("loss", "delta_norms", "gradient_norms", "weight_norms", "test_loss"):
            assert torch.equal(getattr(spoilt, name), getattr(record, name)), name
        for one, other in zip(models, others, strict=True):
            assert all(map(torch.equal, one.parameters(), other.parameters()))
    assert all(map(torch.equal, split, data()))


def test_an_observer_sees_a_stop_and_what_has_stopped_as_it_was() -> None:
    steps, options = 20, {"loss": quartic, "batch_size": 9, "record_every": 20}
    models = [mlp(0, 0.3), mlp(1, 3.0)]
    record = train(
        models,
        data(),
        optimizer=sgd(1e-3),
        steps=steps,
        observe=lambda now: (now.step, now.parameters["0.weight"], now.loss),
        **options,
    )
    stop = record.stopped[1].step
    assert [step for step, _, _ in record.observed] == [0, stop, steps]
    (_, first, _), (_, then, value), (_, last, _) = record.observed
    assert not value[1].isfinite()
    assert torch.equal(last[1], then[1])
    assert torch.equal(last[1], models[1][0].weight)
    assert not torch.equal(first[1], then[1])


class Backwards(nn.Module):
    """Layers defined in another order than the one they run in, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.unused, self.first = nn.Linear(4, 3), nn.Linear(2, 2), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def test_layers_are_named_in_the_order_they_run() -> None:
    model = Backwards().double()
    fill(model, 0)
    unused = model.unused.weight.detach().clone()
    record = train(model, data(), optimizer=sgd(0.1), steps=2, batch_size=None)
    assert record.layers == ("first", "last")
    assert record.names[:2] == ("last.weight", "last.bias")
    # The unused layer has a gradient of zero.
    assert (record.gradient_norms[:, 0] > 0).tolist() == [
        [True, True, False, False, True, True]
    ] * 3
    assert torch.equal(model.unused.weight, unused)


def test_what_is_frozen_stays() -> None:
    model, other = mlp(0), mlp(0)
    for one in (model, other):
        one[0].requires_grad_(False)
    record = train(model, data(), optimizer=sgd(0.1, momentum=0.9), steps=STEPS, batch_size=9)
    assert torch.equal(model[0].weight, other[0].weight)
    assert (record.displacement[:, 0, :2] == 0).all()
    assert (record.displacement[-1, 0, 2:] > 0).all()
    assert (record.delta_norms > 0).all(), "the gradient still reaches the frozen layer"


def test_nothing_but_the_weights_changes() -> None:
    models, split, state = [mlp(0), mlp(1)], data(), torch.random.get_rng_state()
    before = [values.clone() for values in split]
    parameters = [list(model.parameters()) for model in models]
    train(models, split, optimizer=sgd(0.1), steps=3)
    assert all(map(torch.equal, split, before))
    assert torch.equal(torch.random.get_rng_state(), state)
    for model, own in zip(models, parameters, strict=True):
        assert all(p is q for p, q in zip(model.parameters(), own, strict=True))
        assert all(p.requires_grad and p.grad is None for p in own)
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.breaks(
    "companion/_lib/probing.py", "for handle in handles:", "for handle in handles[:0]:"
)
@pytest.mark.parametrize("fails_at", [0, 2])
def test_hooks_are_removed_when_the_loss_raises(fails_at: int) -> None:
    model, calls = mlp(0), iter(range(99))
    before = model[0].weight.detach().clone()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if next(calls) == fails_at:
            raise RuntimeError("as it does")
        return CROSS_ENTROPY(outputs, targets)

    with pytest.raises(RuntimeError, match="as it does"):
        train(model, data(), optimizer=sgd(0.1), steps=3, loss=loss)
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model[0].weight, before)


def test_hooks_are_removed_when_the_model_raises() -> None:
    model = mlp(0)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(model, data(5), optimizer=sgd(0.1), steps=3)
    assert not any(module._forward_hooks for module in model.modules())


def other(**changes: object) -> nn.Sequential:
    """A network of two layers; each change makes another architecture of it."""
    options = {"width": 5, "middle": nn.Tanh(), "bias": True, "dtype": torch.float64} | changes
    width, dtype = options["width"], options["dtype"]
    return nn.Sequential(
        nn.Linear(6, width, dtype=dtype),
        options["middle"],
        nn.Linear(width, 3, bias=options["bias"], dtype=dtype),
    )


@pytest.mark.breaks("companion/_lib/stacking.py", " or repr(model) != repr(models[0])", "")
@pytest.mark.parametrize(
    "changes", [{"width": 4}, {"middle": nn.ReLU()}, {"bias": False}, {"dtype": torch.float32}]
)
def test_models_of_different_architectures_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=r"built alike, but models\[1\] is not as \[0\]"):
        train([other(), other(**changes)], data(), optimizer=sgd(0.1), steps=1)


@pytest.mark.parametrize(
    ("models", "options", "error", "message"),
    [
        ([], {}, ValueError, "at least one module, got none"),
        ([other(middle=nn.BatchNorm1d(5))], {}, ValueError, "with buffers .* are not supported"),
        ([nn.PReLU(6, dtype=torch.float64)], {}, ValueError, "at least one linear or convolution"),
        (other(), {"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        (other(), {"steps": 1.5}, TypeError, "steps must be a whole number"),
        (other(), {"record_every": 0}, ValueError, "record_every must be at least 1"),
        (other(), {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ],
)
def test_bad_input_is_named(
    models: object, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(models, data(), optimizer=sgd(0.1), **{"steps": 1} | options)
