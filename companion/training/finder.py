"""The learning-rate range test: train a model of one's own at rates that rise, and put it back."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from companion._lib.arguments import finite, non_negative, positive_integer
from companion._lib.probing import Loss
from companion._lib.progress import bar
from companion._lib.restoring import put_back
from companion.training.schedules import scheduled


@dataclass(frozen=True)
class RangeTest:
    """The losses of T updates at rates that rise.

    Attributes:
        learning_rates: (T,) in float64.
        loss: (T,) in float64, on the batch of each update and before it: what update t does shows
            at t + 1. Only the last may be inf or nan, and its update was then not made.

    """

    learning_rates: Tensor
    loss: Tensor

    @property
    def broke_at(self) -> float | None:
        """The rate of the update that left a loss that is not finite, or None if none did."""
        return None if self.loss[-1].isfinite() else self.learning_rates[-2].item()

    def smoothed(self, *, beta: float = 0.98) -> Tensor:
        """Return (T,) means of the losses so far, weighted with β to the power of their age.

        After many updates they look back over β/(1 − β) of them on average, 49 at 0.98, so that
        what they show comes late. At 0 they are the losses themselves.

        Source: Howard & Gugger (2020), arXiv 2002.04688, whose fastai takes 0.98.

        Raises:
            TypeError: if ``beta`` is not a number.
            ValueError: if it is not from 0 to below 1.

        """
        if non_negative("beta", beta) >= 1:
            raise ValueError(f"beta must be at least 0 and below 1, got {beta}")
        mean, means = 0.0, []
        for t, loss in enumerate(self.loss.tolist(), 1):
            mean = beta * mean + (1 - beta) * loss
            means.append(mean / (1 - beta**t))
        return torch.tensor(means, dtype=torch.float64)

    def rate_at_lowest(self, *, beta: float = 0.98) -> float:
        """Return the rate at which the smoothed loss is lowest; fastai advises a tenth of it.

        Raises:
            TypeError, ValueError: as :meth:`smoothed`.

        """
        means = self.smoothed(beta=beta)[self.loss.isfinite()]
        return self.learning_rates[means.argmin()].item()


def range_test(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    optimizer: Callable[[Iterable], torch.optim.Optimizer],
    loss: Loss = nn.functional.cross_entropy,
    lowest: float = 1e-5,
    highest: float = 10.0,
    steps: int = 100,
    progress: bool = True,
) -> RangeTest:
    """Train a model at rates that rise by one factor from update to update, and put it back.

    It trains as ``model.train()`` leaves it, and ends early only at a loss that is not finite, not
    at four times the lowest, as fastai does. Afterwards, also after an error, its parameters,
    buffers, ``.grad``, ``requires_grad`` and modes are what they were, to the last bit, and so are
    torch's global generators, of the CPU and of the model's CUDA devices. What modules keep
    elsewhere, and generators that ``batches`` has of its own, are where the run left them.

    Args:
        model: any module that learns, on any devices.
        batches: inputs and targets, (examples, …) each: a DataLoader, a list; begun again when it
            ends. They are moved to the model's device, if it is on one only.
        optimizer: as for :func:`companion.training.train`, or torch's class. Its rate is replaced;
            if it has several, the largest is, and the others stay the share of it that they are.
        loss: of (outputs, targets).
        lowest: rate of the first update.
        highest: rate of the last update.
        steps: number of updates; a single one has the lowest rate.
        progress: whether to show a bar.

    Raises:
        TypeError: if ``model`` is no module, ``optimizer`` makes none, a batch is no pair, a rate
            is not a number or ``steps`` not a whole one.
        ValueError: if the rates do not rise from above 0, ``steps`` is below 1, ``batches`` has
            nothing (also when begun again), the first loss is not finite, the optimizer has no rate
            above 0 or sets it itself; torch's own where nothing learns.

    Source: Smith (2017), arXiv 1506.01186, section 3.3, with rates that rise by equal amounts; by a
    factor: Howard & Gugger (2020), arXiv 2002.04688.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> x = torch.full((4, 1), 3.0)  # the loss has a curvature of 18
        >>> found = range_test(
        ...     line, [(x, 0 * x)], optimizer=torch.optim.SGD, loss=nn.functional.mse_loss,
        ...     lowest=0.001, highest=1.0, steps=61, progress=False,
        ... )
        >>> round(found.rate_at_lowest(beta=0), 3)  # the first above 2/18
        0.112

    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    low, high = finite("lowest", lowest), finite("highest", highest)
    if not 0 < low < high:
        raise ValueError(f"lowest must be above 0 and below highest, got {lowest} and {highest}")
    shares = [t / max(1, steps - 1) for t in range(positive_integer("steps", steps))]
    rates = [low ** (1 - share) * high**share for share in shares]  # exact at both ends
    devices = {parameter.device for parameter in model.parameters()}
    device, losses = devices.pop() if len(devices) == 1 else None, []
    with put_back(model):
        model.train()
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        made = _with_rate_one(optimizer, learning)
        update = scheduled(lambda _: made, rates.__getitem__)(learning)
        for _, batch in zip(bar(rates, "range test", show=progress), _endless(batches)):
            model.zero_grad()
            x, y = (each.to(device) if isinstance(each, Tensor) else each for each in batch)
            value = loss(model(x), y)
            losses.append(value.item())
            if not math.isfinite(losses[-1]):
                break
            value.backward()
            update.step()
    if not math.isfinite(losses[0]):
        raise ValueError(f"the loss must be finite before the first update, got {losses[0]}")
    found = torch.tensor([rates[: len(losses)], losses], dtype=torch.float64)
    return RangeTest(*found)


def _with_rate_one(
    optimizer: Callable[[Iterable], torch.optim.Optimizer], parameters: list[nn.Parameter]
) -> torch.optim.Optimizer:
    """Make an optimizer, and divide the rates of its groups by the largest."""
    made = optimizer(parameters) if callable(optimizer) else None
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(
            "optimizer must make one of torch's from a list of parameters, as training.sgd(1.0) "
            f"and torch.optim.Adam do, got {getattr(optimizer, '__name__', type(optimizer))}"
        )
    largest = max(group["lr"] for group in made.param_groups)
    if largest <= 0:
        raise ValueError(f"optimizer must have a rate above 0, got {largest}")
    for group in made.param_groups:
        group["lr"] = float(group["lr"] / largest)
    return made


def _endless(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches, again and again."""
    count = before = 0
    while True:
        for batch in batches:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise TypeError(f"batches must give (inputs, targets), got {type(batch).__name__}")
            count += 1
            yield batch
        if count == before:
            raise ValueError(
                f"batches must give some each time that it is begun, as a list does, got {count} "
                "and then none"
            )
        before = count
