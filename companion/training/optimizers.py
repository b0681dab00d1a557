"""What :func:`companion.training.train` takes as an optimizer.

Each is made from a list of parameters, of which one tensor holds a parameter of all the networks.
"""

from collections.abc import Callable, Iterable, Sequence
from types import MethodType
from typing import Any

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


def _rates(learning_rate: Sequence[float], parameters: Sequence[Tensor]) -> Tensor:
    """Return the rate of each network, once it is known that there is one for each."""
    rates = torch.tensor(learning_rate, dtype=torch.float64)
    if rates.shape != parameters[0].shape[:1] or not (rates >= 0).all():
        raise ValueError(
            f"learning_rate must be a number of at least 0 or one for each of "
            f"{len(parameters[0])} models, got {learning_rate!r}"
        )
    return rates


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

    def optimizer(parameters: Iterable) -> torch.optim.Optimizer:
        parameters = list(parameters)
        return _RatedSGD(parameters, _rates(learning_rate, parameters), momentum)

    return optimizer


def rated(
    kind: Callable[..., torch.optim.Optimizer],
    learning_rate: float | Sequence[float],
    **options: Any,  # noqa: ANN401  (they are torch's)
) -> Callable[[Iterable], torch.optim.Optimizer]:
    """Return what ``training.train`` takes as an optimizer: any of torch's, with a rate a network.

    Where networks have rates of their own, the update is made with the largest of them, and each
    network goes its share of the way. That is the same but for rounding wherever the update is
    proportional to the rate: for SGD, Adam, AdamW, RMSprop and Adagrad, not for Rprop or LBFGS.

    Args:
        kind: torch's class, or what makes one from a list of parameters and ``lr``.
        learning_rate: one number, or one for each network.
        options: of the optimizer, by torch's names.

    Returns:
        A function of a list of parameters.

    Raises:
        ValueError: when it is called, if there is not one learning rate for each network or one is
            negative; torch's own for its others.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2, 1))  # of two networks
        >>> update = rated(torch.optim.RMSprop, [0.1, 0.02], alpha=0.0)([weight])
        >>> weight.grad = torch.full((2, 1), 5.0)
        >>> update.step()
        >>> [round(value, 6) for value in weight.flatten().tolist()]
        [-0.1, -0.02]

    """
    if not isinstance(learning_rate, Sequence):
        return lambda parameters: kind(parameters, lr=learning_rate, **options)

    def optimizer(parameters: Iterable) -> torch.optim.Optimizer:
        parameters = list(parameters)
        rates = _rates(learning_rate, parameters)
        largest = rates.max().item()
        shares = rates / largest if largest > 0 else rates
        return _sharing(kind(parameters, lr=largest, **options), parameters, shares)

    return optimizer


def _sharing(
    made: torch.optim.Optimizer, parameters: Sequence[Tensor], shares: Tensor
) -> torch.optim.Optimizer:
    """Let network i go ``shares[i]`` of the way of each update."""
    plain = made.step

    def step(self: torch.optim.Optimizer) -> None:  # train passes no closure
        before = [parameter.detach().clone() for parameter in parameters]
        plain()
        with torch.no_grad():
            for parameter, start in zip(parameters, before, strict=True):
                share = shares.to(parameter.dtype).view(-1, *[1] * (parameter.dim() - 1))
                # lerp is exact at both ends: a share of 1 is torch's own update to the last bit.
                parameter.copy_(torch.lerp(start, parameter, share))

    # As torch's schedulers do. A hook would not: it runs twice where a subclass calls its parent.
    made.step = MethodType(step, made)  # type: ignore[method-assign]
    return made


def adam(
    learning_rate: float | Sequence[float],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Callable[[Iterable], torch.optim.Optimizer]:
    """Return what :func:`train` takes as an optimizer: Adam.

    Args:
        learning_rate: one number, or one for each network.
        betas: what the running means of the gradient and of its square keep at each update.
        eps: ε, added to the root of the mean square, in units of the gradient. Where the gradient
            is smaller than that, the update is its share of the rate.

    Raises:
        ValueError: when it is called, if there is not one learning rate for each network; torch's
            own for its others.

    Source: Kingma & Ba (2015), arXiv 1412.6980.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2, 1))  # of two networks
        >>> update = adam([0.1, 0.02])([weight])
        >>> weight.grad = torch.tensor([[5.0], [1e-8]])
        >>> update.step()
        >>> [round(value, 6) for value in weight.flatten().tolist()]
        [-0.1, -0.01]

    """
    return rated(torch.optim.Adam, learning_rate, betas=betas, eps=eps)


def rmsprop(
    learning_rate: float | Sequence[float], *, alpha: float = 0.99, eps: float = 1e-8
) -> Callable[[Iterable], torch.optim.Optimizer]:
    """Return what :func:`train` takes as an optimizer: RMSProp.

    Args:
        learning_rate: one number, or one for each network.
        alpha: what the running mean of the squared gradient keeps at each update. It begins at 0
            and is not corrected for that, so that the first update is 1/√(1 − α) rates long.
        eps: ε, as for :func:`adam`.

    Raises:
        ValueError: when it is called, if there is not one learning rate for each network; torch's
            own for its others.

    Source: Tieleman & Hinton (2012), lecture 6.5 of "Neural Networks for Machine Learning".

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> update = rmsprop(0.01)([weight])
        >>> weight.grad = torch.ones(1)
        >>> update.step()
        >>> round(weight.item(), 6)
        -0.1

    """
    return rated(torch.optim.RMSprop, learning_rate, alpha=alpha, eps=eps)


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
