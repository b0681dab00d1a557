"""What several adversaries of verdicts share, see tests/verdicts: networks and words."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from companion.activations import Activation
from companion.backprop import MLP, backward, forward, random_mlp
from companion.data import digits
from companion.training import Record, sgd, train

SEEDS = range(100, 106)  # of six networks, far from those that the chapters draw
Tell = Callable[..., None]  # the fixture `tried`
data = cache(digits)


class Step(NamedTuple):
    """Networks before an update: (networks,) each."""

    loss: Tensor
    gradient: Tensor
    gain: Tensor


def normal(*shape: int, square: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers of this mean square."""
    source = torch.Generator().manual_seed(100)
    return (torch.randn(*shape, generator=source, dtype=torch.float64) * square**0.5).to(dtype)


def drawn(activation: str | Activation, variance: float, depth: int, width: int = 24) -> MLP:
    """Six networks for the digits, with biases."""
    sizes = [64, *[width] * (depth - 1), 10]
    return random_mlp(sizes, activation, weight_variance=variance, bias=True, seeds=SEEDS)


def descend(network: MLP, *, rate: float, steps: int, batch: int = 64) -> Iterator[Step]:
    """Change networks in place by gradient descent on the digits, and tell of each step before."""
    sources = [torch.Generator().manual_seed(seed + 7) for seed in SEEDS]
    for _ in range(steps):
        rows = [torch.randint(len(data().train_inputs), (batch,), generator=s) for s in sources]
        x, y = data().train_inputs[torch.stack(rows)], data().train_targets[torch.stack(rows)]
        seen = forward(network, x)
        log = seen.output.log_softmax(-1)
        found = backward(network, seen, (log.exp() - functional.one_hot(y, 10)) / batch)
        loss = -log.gather(-1, y.unsqueeze(-1)).mean((1, 2))
        norms = torch.stack([each.norm(dim=(1, 2)) for each in found.weights])
        gain = seen.output.norm(dim=(1, 2)) / x.norm(dim=(1, 2))
        yield Step(loss, norms.norm(dim=0), gain)
        for weight, slope in zip(network.weights, found.weights, strict=True):
            weight -= rate * slope
        for bias, slope in zip(network.biases, found.biases, strict=True):
            bias -= rate * slope


def trained(network: MLP, **settings: float) -> Step:
    """Return losses, gradients and gains of all steps, (steps, networks) each."""
    return Step(*(torch.stack(column) for column in zip(*descend(network, **settings))))


def learn(
    models: Sequence[nn.Module],
    rate: float | Sequence[float],
    steps: int,
    batch: int = 64,
    every: int | None = None,
    **options: object,
) -> Record:
    """Train modules by gradient descent on the digits, recorded at the end or every so often."""
    return train(
        models,
        data(),
        optimizer=sgd(rate),
        steps=steps,
        batch_size=batch,
        record_every=every or steps,
        progress=False,
        **options,
    )


def accuracy(network: MLP) -> Tensor:
    """Return what share of the test digits each network names."""
    said = forward(network, data().test_inputs).output.argmax(-1)
    return (said == data().test_targets).double().mean(-1)


def spread(values: Tensor) -> str:
    """Name the smallest and the largest."""
    return f"{values.min().item():.2g} to {values.max().item():.2g}"


def numbers(values: Tensor, places: int = 2) -> str:
    """Name all of them."""
    return " ".join(f"{value:.{places}f}" for value in values.flatten().tolist())
