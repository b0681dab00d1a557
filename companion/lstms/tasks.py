"""Three tasks that need memory, what is scored on them without any, and a race to learn them.

Several networks of one architecture, one a seed, are trained side by side in one batched pass; each
sees its own batches, the same whatever the architecture. :func:`race` with the defaults is what the
chapter runs: 30 networks, each 400 steps at most. Its stop rules stand before it: a group of seeds
stops when every one of them has solved the task, or its loss is no longer finite. What takes longer
than a chapter may is :mod:`companion.lstms.longer`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from companion import data, training
from companion._lib import random, stacking
from companion._lib.arguments import one_of, positive_integer
from companion._lib.progress import bar
from companion.lstms import cells
from companion.lstms.cells import Cell, State

SYMBOLS, MEMORIZED = 8, 10  # of the copy task
WINDOW = 25  # steps over which the loss is averaged before it is judged
SOLVED = 0.1  # of the baseline
PLAIN = {"num_layers": 1, "bidirectional": False, "proj_size": 0}
SplitPart = Literal["train", "test"]
SPLIT_PARTS: tuple[SplitPart, ...] = get_args(SplitPart)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A sequence task; it counts as solved when the loss is below a tenth of the baseline.

    Attributes:
        name: what it is called.
        length: T, how many steps a sequence has.
        features: numbers at each step.
        outputs: of the network.
        baseline: the loss of the best answer that remembers nothing of the sequence.
        every_step: whether the output is scored at every step, or only at the last one.
        draw: from (examples, generator) to inputs (T, examples, features) in float64 and targets:
            (examples,) or, if every step is scored, (T, examples); real or classes.

    """

    name: str
    length: int
    features: int
    outputs: int
    baseline: float
    every_step: bool
    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


def adding(length: int = 30) -> Task:
    """Return the adding problem: the sum of the two marked numbers of a sequence.

    Each step shows a number, uniform between 0 and 1, and a mark, which is 1 at one step of the
    first half and at one of the second. To answer 1 always, the mean of the sum, has a mean squared
    error of 1/6, its variance.

    Args:
        length: T, at least 2.

    Raises:
        TypeError: if ``length`` is not a whole number.
        ValueError: if it is below 2.

    Source: Hochreiter & Schmidhuber (1997); Le, Jaitly & Hinton (2015), arXiv 1504.00941.

    Example:
        >>> x, y = adding(10).draw(3, torch.Generator().manual_seed(0))
        >>> tuple(x.shape), x[..., 1].sum(0).tolist()
        ((10, 3, 2), [2.0, 2.0, 2.0])
        >>> bool(torch.allclose((x[..., 0] * x[..., 1]).sum(0), y))
        True

    """
    if positive_integer("length", length) < 2:
        raise ValueError(f"length must be at least 2, got {length}")
    half = length // 2

    def draw(examples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        numbers = torch.rand(length, examples, generator=generator, dtype=torch.float64)
        first = torch.randint(half, (1, examples), generator=generator)
        second = torch.randint(half, length, (1, examples), generator=generator)
        marks = torch.zeros_like(numbers).scatter_(0, torch.cat([first, second]), 1.0)
        return torch.stack([numbers, marks], dim=-1), (numbers * marks).sum(0)

    return Task(
        name="adding",
        length=length,
        features=2,
        outputs=1,
        baseline=1 / 6,
        every_step=False,
        draw=draw,
    )


def copying(delay: int = 30) -> Task:
    """Return the copy task: ten symbols, a wait, a signal; then the ten symbols are to be said.

    A step shows one of eight symbols, a blank (8) or the signal (9), one-hot. The answer is blank
    until after the signal, which comes ``delay`` steps after the last symbol. To say blanks, and
    then any of the symbols at random, has a cross-entropy of 10 ln 8/(delay + 20) a step.

    Args:
        delay: steps from the last symbol to the signal, at least 1.

    Raises:
        TypeError: if ``delay`` is not a whole number.
        ValueError: if it is below 1.

    Source: Hochreiter & Schmidhuber (1997); as in Arjovsky, Shah & Bengio (2016), arXiv 1511.06464.

    Example:
        >>> x, y = copying(3).draw(1, torch.Generator().manual_seed(0))
        >>> x.argmax(-1)[:, 0].tolist()[10:]
        [8, 8, 9, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8]
        >>> y[:13, 0].tolist() == [8] * 13, bool((y[13:] == x.argmax(-1)[:10]).all())
        (True, True)

    """
    length = positive_integer("delay", delay) + 2 * MEMORIZED

    def draw(examples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        symbols = torch.randint(SYMBOLS, (MEMORIZED, examples), generator=generator)
        shown = torch.full((length, examples), SYMBOLS)
        shown[:MEMORIZED] = symbols
        shown[MEMORIZED + delay - 1] = SYMBOLS + 1
        answer = torch.full((length, examples), SYMBOLS)
        answer[-MEMORIZED:] = symbols
        return functional.one_hot(shown, SYMBOLS + 2).double(), answer

    baseline = MEMORIZED * math.log(SYMBOLS) / length
    return Task(
        name="copying",
        length=length,
        features=SYMBOLS + 2,
        outputs=SYMBOLS + 1,
        baseline=baseline,
        every_step=True,
        draw=draw,
    )


def sequential_digits(part: SplitPart = "train") -> Task:
    """Return handwritten digits shown pixel by pixel, row by row: 64 steps, then which digit it is.

    The images are scikit-learn's 8×8 digits, drawn with replacement. To answer each of the ten with
    probability 0.1 has a cross-entropy of ln 10, and is right in a tenth of the cases.

    Args:
        part: "train" or "test": which of the images.

    Raises:
        ValueError: if ``part`` is another word.

    Source: Le, Jaitly & Hinton (2015), arXiv 1504.00941, who show the 784 pixels of MNIST.

    Example:
        >>> x, y = sequential_digits().draw(5, torch.Generator().manual_seed(0))
        >>> tuple(x.shape), tuple(y.shape)
        ((64, 5, 1), (5,))

    """
    one_of("part", part, SPLIT_PARTS)
    split = data.digits()
    images = split.train_inputs if part == "train" else split.test_inputs
    labels = split.train_targets if part == "train" else split.test_targets

    def draw(examples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(images), (examples,), generator=generator)
        return images[rows].T.unsqueeze(-1).double(), labels[rows]

    return Task(
        name="sequential digits",
        length=images.shape[1],
        features=1,
        outputs=10,
        baseline=math.log(10),
        every_step=False,
        draw=draw,
    )


ADAM = training.adam(0.02)  # of all that run a race


@dataclass(frozen=True)
class Entry:
    """What runs a race.

    Attributes:
        make: from (features, hidden) to ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU`` of one layer.
        initialize: changes that module in place, given a generator, after torch's default draw.
        optimizer: as for :func:`companion.training.train`.
        max_norm: at what norm each network's whole gradient is clipped; inf for never.

    """

    make: Callable[[int, int], nn.Module]
    initialize: Callable[[Any, torch.Generator], object] | None = None  # of what `make` returns
    optimizer: Callable[[Iterable], torch.optim.Optimizer] = ADAM
    max_norm: float = 1.0


def entries(length: int = 30) -> dict[str, Entry]:
    """Return five architectures for a race: they differ in nothing but the cell and its biases.

    Args:
        length: the time over which the chrono initialization is to remember.

    Example:
        >>> list(entries())
        ['RNN', 'LSTM', 'LSTM, b_f = 1', 'LSTM, chrono', 'GRU']

    """

    def forget(model: nn.Module, _: torch.Generator) -> nn.Module:
        return cells.forget_bias_(model, 1.0)

    def chrono(model: nn.Module, generator: torch.Generator) -> nn.Module:
        return cells.chrono_(model, length, generator=generator)

    return {
        "RNN": Entry(nn.RNN),
        "LSTM": Entry(nn.LSTM),
        "LSTM, b_f = 1": Entry(nn.LSTM, forget),
        "LSTM, chrono": Entry(nn.LSTM, chrono),
        "GRU": Entry(nn.GRU),
    }


def irnn(learning_rate: float = 0.01, max_norm: float = math.inf) -> Entry:
    """Return an RNN of ReLUs that starts at the identity, trained by plain gradient descent.

    Args:
        learning_rate: of gradient descent.
        max_norm: at what norm each network's whole gradient is clipped; inf for never.

    Raises:
        ValueError: if the learning rate is negative; when training begins.

    Source: Le, Jaitly & Hinton (2015), arXiv 1504.00941.

    Example:
        >>> irnn(max_norm=1.0).max_norm
        1.0

    """

    def identity(model: nn.RNN, generator: torch.Generator) -> nn.RNN:
        return cells.identity_(model, generator=generator)

    def make(features: int, hidden: int) -> nn.RNN:
        return nn.RNN(features, hidden, nonlinearity="relu")

    return Entry(make, identity, training.sgd(learning_rate), max_norm)


@dataclass(frozen=True)
class Networks:
    """S recurrent layers of one kind, one a seed, each with a linear layer on top.

    Attributes:
        cell: the S recurrent layers.
        weight: (S, outputs, hidden) of the linear layers.
        bias: (S, outputs) of the linear layers.

    """

    cell: Cell
    weight: Tensor
    bias: Tensor

    def __call__(self, inputs: Tensor, *, every_step: bool = False) -> Tensor:
        """Return outputs of shape (S, batch, outputs), or (T, S, batch, outputs) of every step."""
        cell, hs = self.cell, []
        state: State = cells.start(cell, inputs)
        for driven in cells.drive(cell, inputs):
            state, _ = cells.step(cell, driven, state)
            if every_step:
                hs.append(state.h)
        h = torch.stack(hs) if every_step else state.h
        return h @ self.weight.mT + self.bias.unsqueeze(-2)

    @property
    def parameters(self) -> list[Tensor]:
        """All of them, each of shape (S, …)."""
        c = self.cell
        own = (c.weight_ih, c.weight_hh, c.bias_ih, c.bias_hh, self.weight, self.bias)
        return [parameter for parameter in own if parameter is not None]


def networks(
    entry: Entry,
    task: Task,
    *,
    hidden: int = 32,
    seeds: int | Sequence[int] = 6,
    dtype: torch.dtype = torch.float32,
) -> Networks:
    """Draw networks for a task, one a seed, all of whose numbers come from that seed.

    Args:
        entry: what to build.
        task: for whose features and outputs.
        hidden: units.
        seeds: the seeds to draw, or how many, counting from 0.
        dtype: of the parameters, which are drawn in float64.

    Raises:
        TypeError: if ``hidden`` or the number of seeds is not a whole number.
        ValueError: if one of them is below 1, or there is no seed.

    Example:
        >>> made = networks(entries()["GRU"], adding(), hidden=7, seeds=3)
        >>> [tuple(p.shape) for p in made.parameters][:2]
        [(3, 21, 2), (3, 21, 7)]

    """
    hidden = positive_integer("hidden", hidden)
    made, heads = [], []
    for generator in random.generators(random.seed_list(seeds)):
        layer = entry.make(task.features, hidden).double()
        cells.default_(layer, generator=generator)
        if entry.initialize is not None:
            entry.initialize(layer, generator)
        head = torch.empty(task.outputs, hidden + 1, dtype=torch.float64)
        heads.append(head.uniform_(-(hidden**-0.5), hidden**-0.5, generator=generator))
        if any(getattr(layer, name, plain) != plain for name, plain in PLAIN.items()):
            raise ValueError(
                "an entry must make a layer with num_layers=1, of one direction and without a "
                f"projection, got {layer}"
            )
        made.append(cells.cell(layer, dtype=dtype))
    head = torch.stack(heads).to(dtype)
    return Networks(cells.stack(made), head[..., :-1].clone(), head[..., -1].clone())


@dataclass(frozen=True)
class Run:
    """How networks of one kind learned a task.

    Attributes:
        networks: as they were when they stopped.
        task: what they learned.
        loss: (steps done, S) loss on the new batch of each step, before its update.
        gradient_norm: (steps done, S) norm of that step's whole gradient, before it is clipped.

    """

    networks: Networks
    task: Task
    loss: Tensor
    gradient_norm: Tensor

    @property
    def smoothed(self) -> Tensor:
        """The mean loss of the last 25 steps, (steps done − 24, S); row 0 is of steps 1 to 25."""
        return self.loss.unfold(0, min(WINDOW, len(self.loss)), 1).mean(-1)

    @property
    def solved_at(self) -> list[int | None]:
        """After how many steps the smoothed loss was below a tenth of the baseline, or None."""
        below = self.smoothed < SOLVED * self.task.baseline
        first = below.int().argmax(0) + min(WINDOW, len(self.loss))
        return [int(step) if any_ else None for step, any_ in zip(first, below.any(0), strict=True)]

    @property
    def diverged_at(self) -> list[int | None]:
        """At which step, counted from 1, the loss was no longer finite, or None."""
        bad = ~torch.isfinite(self.loss)
        first = bad.int().argmax(0) + 1
        return [int(step) if any_ else None for step, any_ in zip(first, bad.any(0), strict=True)]


def train(
    task: Task,
    entry: Entry,
    *,
    hidden: int = 32,
    batch_size: int = 20,
    steps: int = 400,
    seeds: int | Sequence[int] = 6,
    data_seed: int = 1000,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> Run:
    """Train networks of one kind on a task, all seeds side by side.

    They stop early when each has solved the task or its loss is not finite. No number of one
    network depends on another's.

    Args:
        task: what to learn.
        entry: what is to learn it.
        hidden: units.
        batch_size: examples a step for each network, drawn anew.
        steps: the budget.
        seeds: the seeds to draw, or how many, counting from 0.
        data_seed: the network of seed s draws its batches with seed ``data_seed + s``.
        dtype: to compute in. Weights and batches are drawn in float64.
        progress: whether to show a bar.

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a count is below 1, there is no seed, or the entry's ``max_norm`` is not
            above 0.

    Example:
        >>> found = train(adding(4), entries()["GRU"], hidden=4, seeds=2, steps=30, progress=False)
        >>> tuple(found.loss.shape), tuple(found.smoothed.shape)
        ((30, 2), (6, 2))

    """
    seeds = random.seed_list(seeds)
    made = networks(entry, task, hidden=hidden, seeds=seeds, dtype=dtype)
    batch_size = positive_integer("batch_size", batch_size)
    if not entry.max_norm > 0:
        raise ValueError(f"max_norm must be above 0, got {entry.max_norm}")
    parameters = [parameter.requires_grad_() for parameter in made.parameters]
    optimizer = entry.optimizer(parameters)
    # Not training.train: it draws from a data set, here all is drawn anew, and the group stops once
    # it has solved the task. Mapped over networks, as there, an RNN takes 1.3 times as long.
    generators = random.generators([data_seed + seed for seed in seeds])
    bound = torch.as_tensor(entry.max_norm, dtype=dtype)
    losses, norms = [], []
    done = torch.zeros(len(seeds), dtype=torch.bool)
    for _ in bar(range(positive_integer("steps", steps)), task.name, show=progress):
        loss = _loss(made, task, *_batch(task, batch_size, generators, dtype))
        gradients = torch.autograd.grad(loss.sum(), parameters)
        shorter, norm = stacking.clipped(gradients, bound)
        norms.append(norm)
        for parameter, gradient in zip(parameters, shorter, strict=True):
            parameter.grad = gradient
        optimizer.step()
        losses.append(loss.detach())
        done |= ~torch.isfinite(losses[-1])
        if len(losses) >= WINDOW:
            done |= torch.stack(losses[-WINDOW:]).mean(0) < SOLVED * task.baseline
        if done.all():
            break
    for parameter in parameters:
        parameter.requires_grad, parameter.grad = False, None
    return Run(made, task, torch.stack(losses), torch.stack(norms))


def _batch(
    task: Task, size: int, generators: list[torch.Generator], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return inputs (T, S, size, features) and targets (S, size) or (T, S, size)."""
    drawn = [task.draw(size, generator) for generator in generators]
    targets = torch.stack([y for _, y in drawn], dim=1 if task.every_step else 0)
    real = targets.is_floating_point()
    return torch.stack([x for x, _ in drawn], dim=1).to(dtype), targets.to(
        dtype
    ) if real else targets


def _loss(networks: Networks, task: Task, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return each network's mean loss: squared error of real targets, cross-entropy of classes."""
    outputs = networks(inputs, every_step=task.every_step)
    if targets.is_floating_point():
        each = (outputs.squeeze(-1) - targets).square()
    else:
        rows = outputs.flatten(0, -2), targets.flatten()
        each = functional.cross_entropy(*rows, reduction="none").reshape(targets.shape)
    return each.mean((0, -1)) if task.every_step else each.mean(-1)


def race(
    task: Task | None = None,
    entered: Mapping[str, Entry] | None = None,
    **options: Any,  # noqa: ANN401
) -> dict[str, Run]:
    """Train several kinds of networks on one task, with the same batches and the same budget.

    Args:
        task: the adding problem of 30 steps by default.
        entered: by name; :func:`entries` for the task's length by default.
        options: of :func:`train`.

    Returns:
        A :class:`Run` for each name.

    Raises:
        TypeError: as :func:`train`.
        ValueError: as :func:`train`.

    Example:
        >>> found = race(adding(4), hidden=4, seeds=2, steps=25, progress=False)
        >>> {name: len(run.loss) for name, run in found.items()}["GRU"]
        25

    """
    task = adding() if task is None else task
    entered = entries(task.length) if entered is None else entered
    return {name: train(task, entry, **options) for name, entry in entered.items()}


class Score(NamedTuple):
    """How S trained networks do on fresh examples.

    Attributes:
        loss: (S,) mean loss, as the task has it.
        accuracy: (S,) share of right answers; None for a task of numbers.

    """

    loss: Tensor
    accuracy: Tensor | None


def score(run: Run, task: Task | None = None, *, examples: int = 500, seed: int = 1) -> Score:
    """Return how trained networks do on fresh examples, of their task or another like it.

    All networks see the same examples.

    Args:
        run: what :func:`train` returned.
        task: on what to test them, such as longer sequences; their own by default.
        examples: how many.
        seed: of the draw.

    Raises:
        TypeError: if ``examples`` is not a whole number.
        ValueError: if it is below 1.

    Example:
        >>> run = train(adding(4), entries()["RNN"], hidden=4, seeds=2, steps=1, progress=False)
        >>> tuple(score(run, adding(8)).loss.shape)
        (2,)

    """
    task = run.task if task is None else task
    networks = run.networks
    generator = random.generator(seed, "inputs")
    x, y = task.draw(positive_integer("examples", examples), generator)
    count, dtype = len(networks.weight), networks.weight.dtype
    inputs = x.to(dtype).unsqueeze(1).expand(-1, count, -1, -1)
    targets = y.unsqueeze(-2).expand(*y.shape[:-1], count, -1)
    if targets.is_floating_point():
        return Score(_loss(networks, task, inputs, targets.to(dtype)), None)
    right = networks(inputs, every_step=task.every_step).argmax(-1) == targets
    share = right.double().mean((0, -1) if task.every_step else -1)
    return Score(_loss(networks, task, inputs, targets), share)
