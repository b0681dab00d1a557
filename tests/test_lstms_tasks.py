"""The tasks by hand, and the batched training against torch's own modules one at a time."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers import four_errors, reproducible, same
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from companion import training
from companion._lib import random
from companion.data import digits
from companion.lstms import tasks
from companion.lstms.tasks import Entry, Task

SMALL = {"hidden": 5, "batch_size": 4, "seeds": 3, "dtype": torch.float64, "progress": False}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- the tasks


@pytest.mark.breaks(
    "companion/lstms/tasks.py", "torch.randint(half, length, (1", "torch.randint(0, length, (1"
)
@given(length=st.integers(2, 12), seed=st.integers(0, 5))
@reproducible
def test_adding_marks_one_step_of_each_half(length: int, seed: int) -> None:
    x, y = tasks.adding(length).draw(40, generator(seed))
    assert x.shape == (length, 40, 2)
    assert x.dtype == y.dtype == torch.float64
    numbers, marks = x.unbind(-1)
    half = length // 2
    assert ((marks == 0) | (marks == 1)).all()
    assert (marks[:half].sum(0) == 1).all()
    assert (marks[half:].sum(0) == 1).all()
    same(y, torch.stack([numbers[:, i][marks[:, i] == 1].sum() for i in range(40)]))


def test_every_step_of_a_half_is_marked_alike_and_the_baseline_is_the_variance() -> None:
    x, y = tasks.adding(5).draw(40_000, generator())
    counts = x[..., 1].mean(1)
    for expected, found in zip([1 / 2] * 2 + [1 / 3] * 3, counts, strict=True):
        error = 4 * math.sqrt(expected * (1 - expected) / 40_000)
        assert abs(found.item() - expected) < error
    squares = (y - 1).square()
    assert abs(squares.mean().item() - tasks.adding().baseline) < four_errors(squares)


@given(delay=st.integers(1, 9), seed=st.integers(0, 5))
@reproducible
def test_copying_shows_waits_signals_and_asks(delay: int, seed: int) -> None:
    task = tasks.copying(delay)
    x, y = task.draw(7, generator(seed))
    shown = x.argmax(-1)
    assert x.shape == (task.length, 7, task.features) == (delay + 20, 7, 10)
    assert (x.sum(-1) == 1).all()
    assert (shown[:10] < 8).all()
    assert (shown == 9).sum(0).tolist() == [1] * 7
    assert (shown[10 + delay - 1] == 9).all()
    assert (y[: delay + 10] == 8).all()
    assert torch.equal(y[delay + 10 :], shown[:10])


@pytest.mark.breaks(
    "companion/lstms/tasks.py",
    "baseline = MEMORIZED * math.log(SYMBOLS) / length",
    "baseline = math.log(SYMBOLS)",
)
def test_copying_without_memory_scores_the_baseline() -> None:
    task = tasks.copying(7)
    _, y = task.draw(50, generator())
    logits = torch.full((27, 50, 9), -1e9)
    logits[:17, :, 8] = 0
    logits[17:, :, :8] = 0
    found = functional.cross_entropy(logits.flatten(0, 1), y.flatten()).item()
    assert found == pytest.approx(task.baseline) == 10 * math.log(8) / 27


def test_symbols_are_all_as_likely() -> None:
    x, _ = tasks.copying(1).draw(4000, generator())
    counts = x[:10].argmax(-1).flatten().bincount(minlength=8) / 40_000
    assert counts.tolist() == pytest.approx([1 / 8] * 8, abs=4 * math.sqrt(7 / 64 / 40_000))


def test_digits_are_shown_pixel_by_pixel() -> None:
    split = digits()
    for part, images, labels in (
        ("train", split.train_inputs, split.train_targets),
        ("test", split.test_inputs, split.test_targets),
    ):
        task = tasks.sequential_digits(part)
        x, y = task.draw(5, generator())
        assert task.length == 64
        for i in range(5):
            match = (images == x[:, i, 0]).all(1)
            assert labels[match].tolist() == [y[i].item()]
    assert task.baseline == math.log(10)


@pytest.mark.parametrize("task", [tasks.adding(6), tasks.copying(2)])
def test_batches_come_from_the_generator(task: Task) -> None:
    first, again, other = (task.draw(4, generator(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ---------------------------------------------------------------- the networks


class Alone(nn.Module):
    """One of the networks as torch would have it."""

    def __init__(self, layer: nn.Module, made: tasks.Networks, index: int) -> None:
        super().__init__()
        self.layer = layer.double()
        self.head = nn.Linear(layer.hidden_size, made.weight.shape[1]).double()
        with torch.no_grad():
            for name, parameter in self.layer.named_parameters():
                parameter.copy_(getattr(made.cell, name.removesuffix("_l0"))[index])
            self.head.weight.copy_(made.weight[index])
            self.head.bias.copy_(made.bias[index])

    def forward(self, x: Tensor, every_step: bool) -> Tensor:
        h = self.layer(x)[0]
        return self.head(h if every_step else h[-1])


def one_loss(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        return functional.mse_loss(outputs[..., 0], targets)
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


TASKS = {
    "adding": lambda: tasks.adding(6),
    "copying": lambda: tasks.copying(2),
    "digits": tasks.sequential_digits,
}
ENTRIES = {**tasks.entries(6), "IRNN": tasks.irnn(0.05, 1.0)}


@pytest.mark.breaks(
    "companion/lstms/tasks.py",
    "h = torch.stack(hs) if every_step else state.h",
    "h = torch.stack(hs[::-1]) if every_step else state.h",
    case="copying-GRU",
)
@pytest.mark.breaks(
    "companion/_lib/stacking.py",
    "vector_norm(norms(gradients), dim=1)",
    "norms(gradients).amax(1)",
    case="copying-GRU",
)
@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("which", ["adding", "copying"])
def test_side_by_side_is_as_alone_with_torchs_modules(which: str, name: str) -> None:
    task, entry, steps = TASKS[which](), replace(ENTRIES[name], max_norm=0.3), 4
    made = tasks.networks(entry, task, hidden=5, seeds=3, dtype=torch.float64)
    found = tasks.train(task, entry, steps=steps, data_seed=70, **SMALL)
    assert found.loss.shape == (steps, 3)
    for index in range(3):
        alone = Alone(entry.make(task.features, 5), made, index)
        update, draws = entry.optimizer(list(alone.parameters())), generator(70 + index)
        for step in range(steps):
            x, y = task.draw(4, draws)
            loss = one_loss(task, alone(x, task.every_step), y)
            same(found.loss[step, index], loss)
            update.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(alone.parameters(), 0.3)
            same(found.gradient_norm[step, index], norm)
            update.step()
        same(found.networks.cell.weight_hh[index], alone.layer.weight_hh_l0.detach())
        same(found.networks.bias[index], alone.head.bias.detach())


def test_a_seed_makes_a_network_whoever_runs_beside_it() -> None:
    entry, task = tasks.entries()["LSTM, chrono"], tasks.adding(6)
    many, few = (tasks.networks(entry, task, hidden=4, seeds=n) for n in (3, 1))
    for one, other in zip(many.parameters, few.parameters, strict=True):
        assert torch.equal(one[:1], other)
        assert not torch.equal(one[1], one[2])
    assert many.weight.dtype == torch.float32


def test_the_entries_differ_only_in_cell_and_biases() -> None:
    made = {
        name: tasks.networks(entry, tasks.adding(30), hidden=64, seeds=1)
        for name, entry in tasks.entries(30).items()
    }
    bias = {name: (n.cell.bias_ih + n.cell.bias_hh)[0].split(64) for name, n in made.items()}
    assert [n.cell.kind for n in made.values()] == ["rnn", "lstm", "lstm", "lstm", "gru"]
    assert (bias["LSTM, b_f = 1"][1] == 1).all()
    keep = bias["LSTM, chrono"][1].exp()
    assert 20 < keep.max() <= 29.001
    assert torch.equal(bias["LSTM, chrono"][0], -bias["LSTM, chrono"][1])
    assert bias["LSTM"][1].abs().max() <= 0.25
    lstms = [n.cell.weight_hh for n in made.values() if n.cell.kind == "lstm"]
    assert torch.equal(lstms[0], lstms[1])
    assert torch.equal(lstms[0], lstms[2])
    optimizers = {entry.optimizer for entry in tasks.entries().values()}
    assert len(optimizers) == 1


# ---------------------------------------------------------------- when it stops


def scripted(losses: list[list[float]]) -> tasks.Run:
    task = tasks.adding(4)
    loss = torch.tensor(losses, dtype=torch.float64).T
    return tasks.Run(None, task, loss, loss)


@pytest.mark.breaks(
    "companion/lstms/tasks.py",
    "below.int().argmax(0) + min(WINDOW, len(self.loss))",
    "below.int().argmax(0)",
)
def test_solved_and_diverged_are_counted_from_one() -> None:
    low, high = 0.016, 0.02  # a tenth of 1/6 is between
    run = scripted(
        [
            [high] * 10 + [low - 1e-9] * 30,
            [high] * 40,
            [low] * 40,
            [high] * 30 + [math.nan] * 10,
            [0.0] * 30 + [math.inf] * 10,
        ]
    )
    assert run.smoothed.shape == (16, 5)
    assert run.smoothed[1, 0].item() == pytest.approx((9 * high + 16 * low) / 25)
    share = (high - 1 / 60) / (high - low)  # of the window that must be low
    assert run.solved_at == [10 + math.ceil(share * 25), None, 25, None, 25]
    assert run.diverged_at == [None, None, None, 31, 31]


def test_training_stops_when_all_have_solved_or_diverged() -> None:
    easy = tasks.adding(2)
    run = tasks.train(easy, tasks.entries()["GRU"], steps=3000, hidden=8, seeds=3, progress=False)
    solved = run.solved_at
    assert None not in solved
    assert len(run.loss) == max(solved) < 3000
    assert (tasks.score(run).loss < 0.1 * easy.baseline).all()
    wild = Entry(nn.RNN, optimizer=training.sgd(1e30), max_norm=math.inf)
    run = tasks.train(easy, wild, steps=50, progress=False)
    assert None not in run.diverged_at
    assert len(run.loss) == max(run.diverged_at) < 50


def test_one_that_diverges_leaves_the_others_alone() -> None:
    task = tasks.adding(6)

    def first_is_wild(model: nn.Module, g: torch.Generator) -> None:
        if g.initial_seed() == 0:
            nn.init.constant_(model.weight_hh_l0, math.inf)

    calm = ENTRIES["RNN"]
    found = tasks.train(task, replace(calm, initialize=first_is_wild), steps=30, **SMALL)
    expected = tasks.train(task, calm, steps=30, **SMALL)
    assert found.diverged_at == [1, None, None]
    same(found.loss[:, 1:], expected.loss[:, 1:])


@pytest.mark.parametrize("which", TASKS)
def test_scores_are_those_of_each_network(which: str) -> None:
    task, entry = TASKS[which](), ENTRIES["GRU"]
    run = tasks.train(task, entry, steps=2, **SMALL)
    found = tasks.score(run, examples=20, seed=9)
    x, y = task.draw(20, random.generator(9, "inputs"))
    for index in range(3):
        alone = Alone(entry.make(task.features, 5), run.networks, index)
        with torch.no_grad():
            outputs = alone(x, task.every_step)
        same(found.loss[index], one_loss(task, outputs, y))
        if which != "adding":
            right = (outputs.argmax(-1) == y).double().mean()
            same(found.accuracy[index], right)
    assert which != "adding" or found.accuracy is None
    assert not any(parameter.requires_grad for parameter in run.networks.parameters)


def test_a_race_gives_all_the_same_batches() -> None:
    entry = ENTRIES["LSTM"]
    found = tasks.race(tasks.adding(5), {"a": entry, "b": entry}, steps=3, **SMALL)
    assert torch.equal(found["a"].loss, found["b"].loss)
    default = tasks.race(hidden=2, steps=1, seeds=1, batch_size=1, progress=False)
    assert list(default) == list(tasks.entries())
    assert {run.task.length for run in default.values()} == {30}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tasks.adding(1), ValueError, "length must be at least 2, got 1"),
        (lambda: tasks.adding(2.5), TypeError, "length must be a whole number"),
        (lambda: tasks.copying(0), ValueError, "delay must be at least 1"),
        (lambda: tasks.sequential_digits("all"), ValueError, "part must be one of"),
        (
            lambda: tasks.train(tasks.adding(4), tasks.irnn(max_norm=0.0)),
            ValueError,
            "max_norm must be above 0, got 0",
        ),
        (
            lambda: tasks.train(tasks.adding(4), ENTRIES["GRU"], steps=0),
            ValueError,
            "steps must be at least 1",
        ),
        (
            lambda: tasks.train(tasks.adding(4), ENTRIES["GRU"], seeds=0),
            ValueError,
            "seeds must be at least 1",
        ),
        (
            lambda: tasks.train(tasks.adding(4), ENTRIES["GRU"], batch_size=0),
            ValueError,
            "batch_size must be at least 1",
        ),
        (
            lambda: tasks.networks(Entry(nn.Linear), tasks.adding(4)),
            TypeError,
            "got Linear",
        ),
        (
            lambda: tasks.networks(Entry(lambda i, h: nn.GRU(i, h, 2)), tasks.adding(4)),
            ValueError,
            "num_layers=1",
        ),
    ],
)
def test_bad_input_is_named(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
