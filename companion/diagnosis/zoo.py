"""A zoo of training runs whose ailment is known: healthy networks, planted faults, and their cures.

A :class:`Recipe` says how a network is built and trained. A healthy :class:`Case` is one that
reaches the loss set beforehand for its task, whatever its gradients look like; a fault is a healthy
recipe with one thing changed, and counts only if that makes it miss the loss.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from companion._lib import random
from companion._lib.arguments import one_of
from companion.data import Split, digits

if TYPE_CHECKING:
    from companion.monitor.log import Log

#: Weight variance times fan-in that keeps a signal alive: He's for rectifiers, 1 for the others.
CRITICAL_VARIANCE = {"relu": 2.0, "leaky_relu": 2.0, "gelu": 2.0, "silu": 2.0, "softplus": 2.0}
ACTIVATION_MODULES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "selu": nn.SELU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}
InputKind = Literal["standard", "large", "offset", "uneven"]
INPUTS: tuple[InputKind, ...] = get_args(InputKind)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is built and trained; every fault is a change of some of these.

    Attributes:
        network: a key of :data:`NETWORKS`.
        task: a key of :data:`TASKS`.
        depth, width: hidden layers (or blocks) and units (or channels) of each.
        activation: a key of :data:`ACTIVATION_MODULES`.
        gain: factor on the standard deviation of every weight, over the critical one.
        recurrent: the recurrent matrix is this times an orthogonal one.
        bias: where hidden biases start; the forget gate's in an LSTM.
        norm: "batch", "layer" or "none"; "pre" and "post" say where a transformer has its own.
        skip: whether the blocks of a residual network have their skip connections.
        pool: whether convolutions are followed by max-pooling.
        dropout: share of units dropped.
        frozen: how many of the first layers do not learn.
        optimizer: a key of :data:`OPTIMIZERS`.
        learning_rate: of all steps.
        clip: bound on the whole gradient's norm.
        steps, batch, every: updates, examples of each (None: all), and steps between samples.
        warm: steps taken before the monitor looks.
        inputs: one of :data:`INPUTS`.
        by: the factor on large inputs, what is added to offset ones, the ratio of the largest scale
            to the smallest of uneven ones.
        label_noise: share of the labels that say nothing.
        broken_data: the step from which on an input is NaN, or None.
        skip_broken: leave out examples that are not finite.
        loss: "plain", or "naive" for log(softmax) in float16, whose logarithm may meet a 0.
        units: factor on the loss, as a change of its units makes.
        half: whether all gradients pass through float16.
        loss_scale: factor on the loss on its way back, which is taken off the gradients before the
            step.

    """

    network: str = "mlp"
    task: str = "digits"
    depth: int = 3
    width: int = 32
    activation: str = "relu"
    gain: float = 1.0
    recurrent: float = 1.0
    bias: float = 0.0
    norm: Literal["none", "batch", "layer", "pre", "post"] = "none"
    skip: bool = True
    pool: bool = False
    dropout: float = 0.0
    frozen: int = 0
    optimizer: str = "adam"
    learning_rate: float = 3e-3
    clip: float = math.inf
    steps: int = 100
    batch: int | None = 64
    every: int = 5
    warm: int = 0
    inputs: InputKind = "standard"
    by: float = 1.0
    label_noise: float = 0.0
    broken_data: int | None = None
    skip_broken: bool = False
    loss: Literal["plain", "naive"] = "plain"
    units: float = 1.0
    half: bool = False
    loss_scale: float = 1.0


#: Fields of a recipe, by name.
Changes = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A recipe with its label.

    Attributes:
        name: of the architecture, and of the fault and its severity if it has one.
        recipe: how it is trained.
        fault: what is wrong with it, or "healthy".
        severity: 0 if healthy, else 1 or 2.
        target: the loss that counts as having learned the task.

    """

    name: str
    recipe: Recipe
    _: KW_ONLY
    fault: str = "healthy"
    severity: int = 0
    target: float = math.nan


# ---------------------------------------------------------------- tasks


class Task(NamedTuple):
    """Inputs and targets of one kind, the loss between outputs and targets, and when it is learned.

    Attributes:
        inputs: (examples, ...), floating point or tokens.
        targets: (examples,) classes or (examples, outputs) numbers.
        outputs: of the network.
        loss: of (outputs, targets), averaged over the batch.
        target: a run that ends below it has learned.

    """

    inputs: Tensor
    targets: Tensor
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    target: float


@cache
def _digits() -> Split:
    return digits()


def _images(recipe: Recipe) -> Task:
    split = _digits()
    x, y = split.train_inputs, split.train_targets
    if recipe.network == "conv":
        x = x.reshape(-1, 1, 8, 8)
    elif recipe.network in ("transformer", "rnn", "gru", "lstm"):
        x = x.reshape(-1, 8, 8)
    return Task(x, y, outputs=10, loss=functional.cross_entropy, target=0.8)


def _rare(recipe: Recipe) -> Task:
    x, y, *_ = _images(recipe)
    return Task(x, (y == 3).long(), outputs=2, loss=functional.cross_entropy, target=0.15)


def _waves(recipe: Recipe) -> Task:
    g = random.generator(1)
    x = torch.randn(1024, 8, generator=g, dtype=torch.float64)
    y = torch.stack([torch.sin(x[:, 0] + x[:, 1]), x[:, 2].tanh() * 1.3 + 0.2 * x[:, 3]], dim=1)
    return Task(x, (y - y.mean(0)) / y.std(0), outputs=2, loss=functional.mse_loss, target=0.35)


def _copy(recipe: Recipe) -> Task:
    x = digits().train_inputs
    return Task(x, x, outputs=x.shape[1], loss=functional.mse_loss, target=0.55)


def _bags(recipe: Recipe) -> Task:
    g = random.generator(2)
    tokens = torch.randint(50, (1024, 12), generator=g)
    score = torch.randn(50, 3, generator=g, dtype=torch.float64)
    return Task(
        tokens,
        score[tokens].sum(1).argmax(1),
        outputs=3,
        loss=functional.cross_entropy,
        target=0.45,
    )


def _rows(recipe: Recipe) -> Task:
    """Return sequences of tokens that bear numbers: the mean over them of a product."""
    g = random.generator(3)
    x = torch.randn(1024, 6, 4, generator=g, dtype=torch.float64)
    y = (x[..., 0].tanh() * 2 + x[..., 1] * 0.5).mean(1, keepdim=True)
    return Task(x, y / y.std(), outputs=1, loss=functional.mse_loss, target=0.25)


def _recall(recipe: Recipe) -> Task:
    """Return sequences whose first step says which of two classes they are of; noise follows."""
    g = random.generator(4)
    x = torch.randn(1024, 16, 3, generator=g, dtype=torch.float64) * 0.3
    y = torch.randint(2, (1024,), generator=g)
    x[:, 0, 0] = 2.0 * y - 1
    return Task(x, y, outputs=2, loss=functional.cross_entropy, target=0.3)


def _short(recipe: Recipe) -> Task:
    x, y, *_ = _recall(recipe)
    return Task(x[:, :6].clone(), y, outputs=2, loss=functional.cross_entropy, target=0.3)


def _adding(recipe: Recipe) -> Task:
    from companion.lstms import tasks

    steps = 40 if recipe.task == "adding-long" else 16
    x, y = tasks.adding(steps).draw(1024, random.generator(5))
    return Task(
        x.transpose(0, 1).contiguous(),
        y.unsqueeze(1),
        outputs=1,
        loss=functional.mse_loss,
        target=0.08,
    )


TASKS = {
    "digits": _images,
    "rare": _rare,
    "waves": _waves,
    "copy": _copy,
    "bags": _bags,
    "rows": _rows,
    "recall": _recall,
    "short": _short,
    "adding": _adding,
    "adding-long": _adding,
}


def task(recipe: Recipe) -> Task:
    """Return what a recipe is trained on, with its inputs and labels as the recipe has them.

    Raises:
        ValueError: if ``task`` or ``inputs`` of the recipe is an unknown word.

    """
    found = TASKS[one_of("task", recipe.task, TASKS)](recipe)
    x, y = found.inputs, found.targets
    one_of("inputs", recipe.inputs, INPUTS)
    if recipe.inputs == "large":
        x = x * recipe.by
    elif recipe.inputs == "offset":
        x = x + recipe.by
    elif recipe.inputs == "uneven":
        # Channels of images, features of the rest; from 1 up to `by`.
        features = x.shape[-1]
        x = x * torch.logspace(0, math.log10(recipe.by), features, dtype=x.dtype)
    if recipe.label_noise:
        g = random.generator(6)
        wrong = torch.rand(len(y), generator=g) < recipe.label_noise
        y = torch.where(wrong, torch.randint(found.outputs, y.shape, generator=g), y)
        # Guessing costs ln C where the label is noise, and a little is lost in not knowing where.
        floor = recipe.label_noise * math.log(found.outputs) + 0.55
        found = found._replace(target=max(found.target, floor))
    return found._replace(inputs=x, targets=y)


# ---------------------------------------------------------------- networks


def _norm(recipe: Recipe, *, images: bool = False) -> list[nn.Module]:
    if recipe.norm == "batch":
        return [nn.BatchNorm2d(recipe.width) if images else nn.BatchNorm1d(recipe.width)]
    if recipe.norm == "layer":
        return [nn.GroupNorm(1, recipe.width) if images else nn.LayerNorm(recipe.width)]
    return []


def _activation(recipe: Recipe) -> nn.Module:
    return ACTIVATION_MODULES[one_of("activation", recipe.activation, ACTIVATION_MODULES)]()


def _mlp(recipe: Recipe, sample: Tensor, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    wide = sample.shape[-1]
    for _ in range(recipe.depth):
        layers += [nn.Linear(wide, recipe.width), *_norm(recipe), _activation(recipe)]
        layers += [nn.Dropout(recipe.dropout)] if recipe.dropout else []
        wide = recipe.width
    return nn.Sequential(*layers, nn.Linear(wide, outputs))


def _conv(recipe: Recipe, sample: Tensor, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels, side = sample.shape[1], sample.shape[-1]
    for _ in range(recipe.depth):
        layers += [nn.Conv2d(channels, recipe.width, 3, padding=1)]
        layers += [*_norm(recipe, images=True), _activation(recipe)]
        channels = recipe.width
        if recipe.pool and side > 2:
            layers, side = [*layers, nn.MaxPool2d(2)], side // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side**2, outputs))


class Block(nn.Module):
    """Two layers on a branch: x + branch(x) with the norm first, or an activation after the sum.

    Raises:
        ValueError: if ``activation`` of the recipe is an unknown word.

    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        width = recipe.width
        first, last = nn.Linear(width, width), nn.Linear(width, width)
        norm, act = _norm(recipe), _activation(recipe)
        if recipe.network == "residual":
            self.branch = nn.Sequential(*norm, first, act, last)
            self.after: nn.Module = nn.Identity()
        else:
            self.branch = nn.Sequential(first, *norm, act, last, *_norm(recipe))
            self.after = _activation(recipe)
        self.skip = recipe.skip

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, width) from (batch, width)."""
        return self.after(x + self.branch(x) if self.skip else self.branch(x))


def _residual(recipe: Recipe, sample: Tensor, outputs: int) -> nn.Module:
    blocks = [Block(recipe) for _ in range(recipe.depth)]
    return nn.Sequential(
        nn.Linear(sample.shape[-1], recipe.width), *blocks, nn.Linear(recipe.width, outputs)
    )


class Transformer(nn.Module):
    """torch's encoder on (batch, tokens, features), and the mean of its tokens read out.

    Args:
        recipe: its width, depth, activation, dropout and place of the norm.
        features: numbers of each token.
        outputs: numbers that are read out.

    Raises:
        ValueError: if ``activation`` of the recipe is an unknown word.

    """

    def __init__(self, recipe: Recipe, features: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(features, recipe.width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                recipe.width,
                nhead=2,
                dim_feedforward=2 * recipe.width,
                dropout=recipe.dropout,
                activation=_activation(recipe),
                batch_first=True,
                norm_first=recipe.norm == "pre",
            )
            for _ in range(recipe.depth)
        )
        self.read = nn.Linear(recipe.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, outputs)."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.read(x.mean(1))


class Recurrent(nn.Module):
    """A recurrent network on (batch, time, features), read out at its last step.

    Args:
        recipe: its network, width, depth and, of an RNN, activation.
        features: numbers at each step.
        outputs: numbers that are read out.

    """

    def __init__(self, recipe: Recipe, features: int, outputs: int) -> None:
        super().__init__()
        kind = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[recipe.network]
        options = {"nonlinearity": recipe.activation} if recipe.network == "rnn" else {}
        self.cell = kind(features, recipe.width, recipe.depth, batch_first=True, **options)
        self.read = nn.Linear(recipe.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, outputs)."""
        return self.read(self.cell(x)[0][:, -1])


class Shared(nn.Module):
    """One layer, used ``depth`` times.

    Args:
        recipe: its width, depth and activation.
        features: numbers of each example.
        outputs: numbers that are read out.

    Raises:
        ValueError: if ``activation`` of the recipe is an unknown word.

    """

    def __init__(self, recipe: Recipe, features: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, recipe.width)
        self.again = nn.Linear(recipe.width, recipe.width)
        self.act = _activation(recipe)
        self.depth = recipe.depth
        self.last = nn.Linear(recipe.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, outputs)."""
        x = self.act(self.first(x))
        for _ in range(self.depth):
            x = self.act(self.again(x))
        return self.last(x)


def _autoencoder(recipe: Recipe, sample: Tensor, outputs: int) -> nn.Module:
    down = _mlp(replace(recipe, depth=1), sample, recipe.width // 2)
    return nn.Sequential(
        down,
        _activation(recipe),
        _mlp(replace(recipe, depth=1), sample.new_empty(1, recipe.width // 2), outputs),
    )


def _bag(recipe: Recipe, sample: Tensor, outputs: int) -> nn.Module:
    tail = _mlp(recipe, torch.empty(1, recipe.width), outputs)
    return nn.Sequential(nn.EmbeddingBag(50, recipe.width), tail)


def _module(kind: Callable[[Recipe, int, int], nn.Module]) -> Callable[..., nn.Module]:
    return lambda recipe, sample, outputs: kind(recipe, sample.shape[-1], outputs)


NETWORKS: dict[str, Callable[[Recipe, Tensor, int], nn.Module]] = {
    "mlp": _mlp,
    "conv": _conv,
    "residual": _residual,
    "residual-post": _residual,
    "transformer": _module(Transformer),
    "rnn": _module(Recurrent),
    "gru": _module(Recurrent),
    "lstm": _module(Recurrent),
    "shared": _module(Shared),
    "autoencoder": _autoencoder,
    "bag": _bag,
}


def build(recipe: Recipe, seed: int = 0) -> nn.Module:
    """Return the recipe's network in float64, its weights drawn with the seed.

    Weights are normal with a variance of gain² times the critical one over the fan-in; recurrent
    matrices are orthogonal, and torch's own draw serves embeddings and norms.

    Args:
        recipe: what to build.
        seed: of the weights.

    Raises:
        ValueError: if ``network``, ``task``, ``inputs`` or ``activation`` of the recipe is an
            unknown word.

    Example:
        >>> model = build(Recipe(depth=2))
        >>> [tuple(p.shape) for p in model.parameters() if p.dim() == 2]
        [(32, 64), (32, 32), (10, 32)]

    """
    found = task(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random.mixed(seed))
        network = NETWORKS[one_of("network", recipe.network, NETWORKS)]
        model = network(recipe, found.inputs[:1], found.outputs).double()
        _draw_(model, recipe)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for layer in layers[: recipe.frozen]:
        layer.requires_grad_(requires_grad=False)
    return model


def _draw_(model: nn.Module, recipe: Recipe) -> None:
    std = recipe.gain * math.sqrt(CRITICAL_VARIANCE.get(recipe.activation, 1.0))
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for layer in layers:
        # The read-out's linear, so that outputs are of the order of what comes in.
        scale = recipe.gain if layer is layers[-1] else std
        nn.init.normal_(layer.weight, std=scale / math.sqrt(layer.weight[0].numel()))
        assert layer.bias is not None  # no network here goes without
        nn.init.constant_(layer.bias, 0.0 if layer is layers[-1] else recipe.bias)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            nn.init.normal_(module.in_proj_weight, std=recipe.gain / math.sqrt(recipe.width))
        if isinstance(module, nn.RNNBase):
            _draw_recurrent_(module, recipe)


def _draw_recurrent_(module: nn.RNNBase, recipe: Recipe) -> None:
    for name, weight in module.named_parameters():
        if name.startswith("weight_hh"):
            for block in weight.data.split(recipe.width):
                nn.init.orthogonal_(block, recipe.recurrent)
        elif name.startswith("weight_ih"):
            nn.init.normal_(weight, std=recipe.gain / math.sqrt(weight.shape[1]))
        else:
            nn.init.zeros_(weight)
            if name.startswith("bias_ih") and isinstance(module, nn.LSTM):
                weight.data[recipe.width : 2 * recipe.width] = recipe.bias


# ---------------------------------------------------------------- training


class _ThroughHalf(torch.autograd.Function):
    """The identity, whose gradient is rounded to float16 on its way back."""

    @staticmethod
    def forward(_context: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_context: object, gradient: Tensor) -> Tensor:
        return gradient.half().to(gradient.dtype)


def _round_gradients(model: nn.Module) -> None:
    """Let every gradient of a layer's output pass through float16, as autocast lets it."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda _m, _a, out: _ThroughHalf.apply(out))


def _batches(found: Task, recipe: Recipe, seed: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    generator = random.generator(seed)
    count = len(found.inputs)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        rows: Tensor | slice = slice(None)
        if recipe.batch is not None:
            rows = torch.randint(count, (recipe.batch,), generator=generator)
        x, y = found.inputs[rows], found.targets[rows]
        if recipe.broken_data is not None and step >= recipe.broken_data:
            x = x.clone()
            x[0].view(-1)[0] = math.nan
        return x, y

    return draw


def _finite(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    keep = x.flatten(1).isfinite().all(1)
    return x[keep], y[keep]


def _loss(recipe: Recipe, found: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    if recipe.loss == "naive":
        # In float16 a probability below 2^-25 is 0, and its logarithm is not finite.
        likely = outputs.softmax(-1).half().to(outputs.dtype)
        return -likely.log().gather(1, targets[:, None]).mean()
    return found.loss(outputs, targets)


class Run(NamedTuple):
    """What became of a case.

    Attributes:
        case: the case.
        log: what the monitor saw.
        model: as it was after the last step.
        reached: whether the settled loss is at most the case's target.

    """

    case: Case
    log: "Log"
    model: nn.Module
    reached: bool


def run(case: Case, seed: int = 0) -> Run:
    """Train a case under the monitor.

    Not by ``training.train``: the monitor hooks one module as a reader trains it, and the cases
    have running statistics, dropout and float16, which networks side by side cannot have.

    Args:
        case: as :func:`cases` gives them.
        seed: of the weights, the batches, and dropout.

    Raises:
        ValueError: if ``network``, ``task``, ``inputs`` or ``activation`` of the recipe is an
            unknown word.

    """
    from companion.diagnosis.features import settled
    from companion.monitor.gradient_monitor import GradientMonitor

    recipe, found = case.recipe, task(case.recipe)
    model = build(recipe, seed)
    if recipe.half:
        _round_gradients(model)
    draw = _batches(found, recipe, seed)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS[recipe.optimizer](learning, lr=recipe.learning_rate)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random.mixed(seed))
        for step in range(recipe.warm):
            _step(recipe, found, model, optimizer, draw(step))
        with GradientMonitor(model, every=recipe.every) as monitor:
            for step in range(recipe.steps):
                batch = draw(step)
                if recipe.skip_broken:
                    batch = _finite(*batch)
                monitor.step(_step(recipe, found, model, optimizer, batch))
    end = settled(monitor.log.loss) / recipe.units
    return Run(case, monitor.log, model, bool(end <= case.target))


def _step(
    recipe: Recipe,
    found: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
) -> Tensor:
    loss = recipe.units * _loss(recipe, found, model(batch[0]), batch[1])
    optimizer.zero_grad()
    (loss * recipe.loss_scale).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            if recipe.half:
                parameter.grad = parameter.grad.half().to(parameter.dtype)
            parameter.grad /= recipe.loss_scale
    if recipe.clip < math.inf:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip * recipe.units)
    optimizer.step()
    return loss.detach()


# ---------------------------------------------------------------- the cases

_SLOW: Changes = {"optimizer": "momentum", "learning_rate": 0.05}
#: Networks that learn their task, each in its own way.
HEALTHY = {
    "mlp-relu": Recipe(),
    "mlp-relu-deep": Recipe(depth=8, learning_rate=2e-3),
    "mlp-tanh-deep": Recipe(depth=10, activation="tanh", **_SLOW),
    "mlp-selu": Recipe(depth=6, activation="selu", **_SLOW),
    "mlp-gelu": Recipe(depth=4, activation="gelu", optimizer="adamw"),
    "mlp-leaky-waves": Recipe(task="waves", depth=4, activation="leaky_relu", steps=150),
    "mlp-softplus": Recipe(depth=2, activation="softplus", steps=150),
    "mlp-sigmoid": Recipe(depth=1, activation="sigmoid", learning_rate=1e-2),
    "mlp-batch-norm": Recipe(depth=6, norm="batch", optimizer="sgd", learning_rate=0.1),
    "mlp-layer-norm": Recipe(depth=6, norm="layer", activation="tanh"),
    "mlp-dropout": Recipe(depth=2, width=64, dropout=0.3, steps=150),
    "mlp-frozen": Recipe(depth=4, width=48, frozen=2, steps=150),
    "mlp-noisy": Recipe(batch=6, depth=2, learning_rate=2e-3, steps=300, every=10),
    "mlp-label-noise": Recipe(label_noise=0.35, depth=2, steps=200),
    "mlp-rare": Recipe(task="rare", depth=3),
    "mlp-full-batch": Recipe(task="waves", batch=None, depth=2, width=16, **_SLOW),
    "mlp-tuned": Recipe(warm=250, learning_rate=1e-3, batch=128, steps=80),
    "mlp-quiet-units": Recipe(depth=2, width=64, bias=-0.7, steps=150),
    "logistic": Recipe(depth=0, learning_rate=2e-2),
    "linear-rmsprop": Recipe(
        depth=3, activation="identity", optimizer="rmsprop", learning_rate=1e-3
    ),
    "shared": Recipe(network="shared", depth=4, activation="tanh"),
    "autoencoder": Recipe(network="autoencoder", task="copy", width=48, learning_rate=1e-2),
    "bag": Recipe(network="bag", task="bags", depth=1, learning_rate=1e-2, steps=150),
    "conv": Recipe(network="conv", width=8, depth=3, batch=32),
    "conv-pool": Recipe(network="conv", width=12, batch=32, depth=3, pool=True, learning_rate=1e-2),
    "conv-batch-norm": Recipe(
        network="conv", width=6, depth=4, norm="batch", batch=32, steps=80, **_SLOW
    ),
    "residual": Recipe(network="residual", norm="layer", depth=6, learning_rate=2e-3),
    "residual-post": Recipe(
        network="residual-post", norm="batch", depth=8, optimizer="momentum", learning_rate=0.02
    ),
    "transformer-pre": Recipe(
        network="transformer", norm="pre", depth=2, width=16, steps=130, learning_rate=1e-2
    ),
    "transformer-post": Recipe(
        network="transformer", norm="post", depth=2, width=16, steps=130, learning_rate=1e-2
    ),
    "transformer-rows": Recipe(
        network="transformer",
        task="rows",
        norm="pre",
        depth=2,
        width=16,
        batch=32,
        activation="gelu",
    ),
    "rnn": Recipe(network="rnn", task="short", depth=1, activation="tanh"),
    "gru-adding": Recipe(
        network="gru", task="adding", depth=1, learning_rate=2e-2, batch=32, steps=150, every=10
    ),
    "lstm": Recipe(
        network="lstm", task="recall", depth=1, bias=1.0, learning_rate=1e-2, batch=32, steps=80
    ),
    # Odd, and they learn: a gradient that explodes, and one that fades through time.
    "residual-deep": Recipe(
        network="residual-post",
        norm="batch",
        depth=25,
        every=10,
        optimizer="momentum",
        learning_rate=0.02,
    ),
    "gru-long": Recipe(
        network="gru",
        task="adding-long",
        depth=1,
        learning_rate=2e-2,
        batch=32,
        clip=1.0,
        steps=300,
        every=20,
    ),
}

_DEEP = Recipe(depth=12, learning_rate=2e-3)
_RNN = Recipe(network="rnn", task="recall", depth=1, activation="tanh", batch=32)
_GRU = Recipe(network="gru", task="recall", depth=1, learning_rate=1e-2, batch=32, steps=80)
_CONV = Recipe(network="conv", width=8, depth=3, batch=32)
_PRE = HEALTHY["transformer-pre"]
_HALF: Changes = {"half": True, "optimizer": "sgd"}
_SGD: Changes = {"optimizer": "sgd", "learning_rate": 0.1}
_RESIDUAL = Recipe(network="residual", depth=14)
_PLAIN = Recipe(network="residual", depth=10, skip=False)
_LINEAR = Recipe(task="waves", depth=12, activation="identity", optimizer="adam")
_SELU = Recipe(activation="selu", depth=12, optimizer="momentum", learning_rate=0.01)


def _rate(*rates: float) -> tuple[Changes, ...]:
    return tuple({"learning_rate": rate} for rate in rates)


def _gain(*gains: float) -> tuple[Changes, ...]:
    return tuple({"gain": gain} for gain in gains)


def _small_units(rate: float) -> tuple[Changes, ...]:
    """Gradient descent does not notice the units of a loss if its rate is in their inverse."""
    return tuple({"units": units, "learning_rate": rate / units} for units in (1e-6, 1e-7))


def _inputs(*kinds: tuple[str, float]) -> tuple[Changes, ...]:
    return tuple({"inputs": kind, "by": by} for kind, by in kinds)


#: Faults: what they are called, the architecture, and two severities of what makes them.
PLANTED: tuple[tuple[str, str, Recipe, *tuple[Changes, ...]], ...] = (
    (
        "vanishing",
        "mlp-sigmoid",
        Recipe(activation="sigmoid", **_SLOW),
        {"depth": 6},
        {"depth": 8},
    ),
    ("vanishing", "mlp-tanh", replace(_DEEP, activation="tanh"), *_gain(0.4, 0.2)),
    ("vanishing", "mlp-relu", _DEEP, *_gain(0.3, 0.2)),
    ("vanishing", "conv", replace(_CONV, depth=8, width=6), *_gain(0.15, 0.1)),
    ("vanishing", "residual-without-skips", _PLAIN, *_gain(0.3, 0.2)),
    ("exploding", "mlp-relu", replace(_DEEP, depth=10), *_gain(3.0, 6.0)),
    ("exploding", "mlp-linear", _LINEAR, *_gain(2.0, 4.0)),
    ("exploding", "mlp-selu", _SELU, *_gain(2.5, 5.0)),
    ("exploding", "conv", replace(_CONV, depth=8, width=6), *_gain(3.0, 6.0)),
    ("exploding", "residual-without-norm", _RESIDUAL, *_gain(1.5, 2.5)),
    ("saturated", "mlp-tanh", Recipe(depth=4, activation="tanh"), *_gain(20.0, 60.0)),
    (
        "saturated",
        "mlp-sigmoid",
        Recipe(activation="sigmoid", depth=2, learning_rate=2e-2),
        {"bias": 12.0},
        {"bias": -25.0},
    ),
    ("saturated", "conv", replace(_CONV, activation="tanh"), *_gain(20.0, 60.0)),
    ("dead units", "mlp", Recipe(**_SGD), {"bias": -6.0}, {"bias": -20.0}),
    ("dead units", "mlp-deep", Recipe(depth=5, width=48), {"bias": -8.0}, {"bias": -20.0}),
    ("dead units", "conv", replace(_CONV), {"bias": -6.0}, {"bias": -20.0}),
    ("not finite", "mlp", Recipe(), {"broken_data": 40}, {"broken_data": 0}),
    ("not finite", "conv", _CONV, {"broken_data": 60}, {"broken_data": 7}),
    ("not finite", "transformer", _PRE, {"broken_data": 20}, {"broken_data": 3}),
    ("not finite", "mlp-naive", Recipe(loss="naive", depth=2), *_gain(1.0, 1.6)),
    ("underflow", "mlp", Recipe(**_HALF), *_small_units(0.1)),
    ("underflow", "conv", replace(_CONV, **_HALF), *_small_units(0.05)),
    (
        "underflow",
        "transformer",
        replace(_PRE, half=True, optimizer="momentum", steps=150),
        *_small_units(0.02),
    ),
    ("learning rate too high", "mlp", Recipe(optimizer="sgd"), *_rate(8.0, 50.0)),
    ("learning rate too high", "mlp-adam", Recipe(activation="tanh"), *_rate(1.0, 4.0)),
    ("learning rate too high", "conv", _CONV, *_rate(0.3, 1.0)),
    ("learning rate too high", "transformer", _PRE, *_rate(0.3, 3.0)),
    ("learning rate too high", "rnn", HEALTHY["rnn"], *_rate(3.0, 10.0)),
    ("learning rate too low", "mlp", Recipe(depth=4), *_rate(3e-5, 1.5e-5)),
    ("learning rate too low", "conv", replace(_CONV, **_SLOW), *_rate(3e-4, 1e-4)),
    ("learning rate too low", "transformer", HEALTHY["transformer-post"], *_rate(5e-5, 5e-6)),
    ("learning rate too low", "gru", _GRU, *_rate(1e-4, 1e-5)),
    (
        "unscaled inputs",
        "mlp-waves",
        Recipe(task="waves", activation="tanh", **_SLOW),
        *_inputs(("uneven", 1e3), ("offset", 100.0)),
    ),
    ("unscaled inputs", "mlp-relu", Recipe(**_SGD), *_inputs(("large", 100.0), ("offset", 100.0))),
    (
        "unscaled inputs",
        "conv",
        replace(_CONV, **_SLOW),
        *_inputs(("large", 300.0), ("offset", 300.0)),
    ),
    ("unscaled inputs", "gru", _GRU, *_inputs(("offset", 50.0), ("large", 1000.0))),
    ("unstable through time", "rnn", _RNN, {"recurrent": 4.0}, {"recurrent": 8.0}),
    ("unstable through time", "rnn-short-memory", _RNN, {"recurrent": 0.4}, {"recurrent": 0.2}),
    (
        "unstable through time",
        "rnn-relu",
        replace(_RNN, activation="relu", task="adding", learning_rate=5e-3, steps=150),
        {"recurrent": 3.0},
        {"recurrent": 4.0},
    ),
)


def cases() -> tuple[Case, ...]:
    """Return all cases: the healthy ones and then the faults at both severities.

    Example:
        >>> len(cases()), sorted({case.fault for case in cases()})[:3]
        (114, ['dead units', 'exploding', 'healthy'])

    """
    healthy = [Case(name, recipe, target=task(recipe).target) for name, recipe in HEALTHY.items()]
    return (*healthy, *(case for row in PLANTED for case in _planted(*row)))


def _planted(fault: str, name: str, base: Recipe, *changes: Changes) -> list[Case]:
    found = []
    for severity, change in enumerate(changes, 1):
        recipe = replace(base, **change)
        found.append(
            Case(
                f"{fault}: {name}",
                recipe,
                fault=fault,
                severity=severity,
                target=task(recipe).target,
            )
        )
    return found


# ---------------------------------------------------------------- following the advice


def _skips(recipe: Recipe) -> Recipe:
    return replace(recipe, network="residual", norm="layer", skip=True)


def _normed(recipe: Recipe) -> Recipe:
    can = recipe.norm == "none" and recipe.network in ("mlp", "conv", "residual")
    return replace(recipe, norm="layer", skip=True) if can else recipe


#: What each piece of advice means for a recipe, by its key in companion.diagnosis.ADVICE.
CURES: dict[str, Callable[[Recipe], Recipe]] = {
    "scale inputs": lambda r: replace(r, inputs="standard", by=1.0),
    "draw weights": lambda r: replace(r, gain=1.0),
    "zero biases": lambda r: replace(r, bias=0.0),
    "add norm": _normed,
    "add skips": _skips,
    "change activation": lambda r: replace(r, activation="relu"),
    "orthogonal": lambda r: replace(r, recurrent=1.0),
    "clip": lambda r: replace(r, clip=1.0),
    "scale loss": lambda r: replace(r, loss_scale=2.0**16 * r.loss_scale),
    "lower rate": lambda r: replace(r, learning_rate=r.learning_rate / 10),
    "raise rate": lambda r: replace(r, learning_rate=r.learning_rate * 10),
    "check data": lambda r: replace(r, skip_broken=True),
    "safe loss": lambda r: replace(r, loss="plain"),
}


def mend(case: Case, advice: Iterable[str]) -> Case:
    """Return the case with the advice followed, all of it.

    Args:
        case: a case that did not reach its target.
        advice: keys of :data:`companion.diagnosis.ADVICE`, as a finding has them.

    Raises:
        ValueError: if a piece of advice has no cure.

    Example:
        >>> case = Case("mlp", Recipe(gain=20.0, activation="tanh"), target=0.8)
        >>> mend(case, ("draw weights",)).recipe.gain
        1.0

    """
    recipe = case.recipe
    for key in advice:
        recipe = CURES[one_of("advice", key, CURES)](recipe)
    return replace(case, recipe=recipe)
