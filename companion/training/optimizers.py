"""What :func:`companion.training.train` takes as an optimizer.

Each is made from a list of parameters, of which one tensor holds a parameter of all the networks.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from companion._lib.arguments import non_negative, positive_integer


class _RatedSGD(torch.optim.SGD):
    """Gradient descent with a learning rate for each network."""

    def __init__(self, parameters: Iterable, rates: Tensor, momentum: float) -> None:
        super().__init__(parameters, lr=1.0, momentum=momentum)
        self.rates = rates

    def step(self) -> None:  # type: ignore[override]  # train passes no closure
        """Make one update, in which network i has the rate ``rates[i]``."""
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                rates = self.rates.to(parameter.dtype).view(-1, *[1] * (parameter.dim() - 1))
                parameter.grad = parameter.grad * rates
        super().step()


def sgd(
    learning_rate: float | Sequence[float], momentum: float = 0.0
) -> Callable[[Iterable], torch.optim.Optimizer]:
    """Return what :func:`train` takes as an optimizer: plain gradient descent, or with momentum.

    Args:
        learning_rate: one number, or one for each network.
        momentum: as torch's.

    Raises:
        ValueError: if there is not one learning rate for each network; torch's own for its others.

    """
    if not isinstance(learning_rate, Sequence):
        return lambda parameters: torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)
    rates = torch.tensor(learning_rate, dtype=torch.float64)

    def optimizer(parameters: Iterable) -> torch.optim.Optimizer:
        parameters = list(parameters)
        if rates.shape != parameters[0].shape[:1] or not (rates >= 0).all():
            raise ValueError(
                f"learning_rate must be a number of at least 0 or one for each of "
                f"{len(parameters[0])} models, got {learning_rate!r}"
            )
        return _RatedSGD(parameters, rates, momentum)

    return optimizer


def adam(learning_rate: float) -> Callable[[Iterable], torch.optim.Optimizer]:
    """Return what :func:`train` takes as an optimizer: Adam with torch's defaults."""
    return lambda parameters: torch.optim.Adam(parameters, lr=learning_rate)


class _Warmup(torch.optim.Adam):
    """Adam whose learning rate rises in equal steps."""

    def __init__(self, parameters: Iterable, learning_rate: float, warmup: int) -> None:
        super().__init__(parameters, lr=learning_rate)
        self.peak, self.warmup, self.taken = learning_rate, warmup, 0

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # as above
        self.taken += 1
        for group in self.param_groups:
            group["lr"] = self.peak * min(1.0, self.taken / self.warmup)
        super().step(closure)


def adam_with_warmup(
    learning_rate: float, warmup: int
) -> Callable[[Iterable], torch.optim.Optimizer]:
    """Return Adam as ``training.train`` takes it, whose learning rate rises over the first steps.

    Args:
        learning_rate: η, reached at step ``warmup`` and kept; step t before it has η·t/warmup.
        warmup: number of steps; 1 for none.

    Raises:
        TypeError: if ``learning_rate`` is not a number, or ``warmup`` not a whole one.
        ValueError: if ``learning_rate`` is negative or not finite, or ``warmup`` is below 1.

    Source: Vaswani et al. (2017), arXiv 1706.03762, who let it fall again afterwards.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> update = adam_with_warmup(0.1, warmup=4)([weight])
        >>> weight.grad = torch.ones(1)
        >>> update.step()
        >>> round(weight.item(), 6)
        0.975

    """
    rate, warmup = non_negative("learning_rate", learning_rate), positive_integer("warmup", warmup)
    return lambda parameters: _Warmup(parameters, rate, warmup)
