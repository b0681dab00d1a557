"""Dynamic loss scaling, written out: as large a scale as the gradients allow, found while training.

The loss is multiplied by a scale S, so that gradients pass backward as numbers that the format
holds, and the parameters' gradients are divided by S before anything is done with them. Where S is
too large they are inf or nan: that step is skipped and S halved. After many steps without one S is
doubled.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from companion._lib.arguments import finite, positive_integer


class ScaledStep(NamedTuple):
    """What became of one step.

    Attributes:
        step: its number, counting from 0.
        scale: S, by which its loss was multiplied.
        skipped: whether a gradient was inf or nan, and the parameters were left as they were.

    """

    step: int
    scale: float
    skipped: bool


class LossScaler:
    """A scale for the loss that grows until a gradient overflows, and falls back.

    A step is ``scaler.scale(loss).backward()``, then ``scaler.step(optimizer)``. What is to see the
    true gradients in between, such as a clip, comes after ``scaler.unscale_(parameters)``. These
    are the words of ``torch.amp.GradScaler``, whose ``update()`` is part of ``step`` here.

    Args:
        init_scale: S at the first step.
        growth_factor: what S is multiplied by after ``growth_interval`` steps in a row that were
            not skipped; it does not grow beyond float32.
        backoff_factor: what it is multiplied by after a skipped step.
        growth_interval: number of steps.

    Raises:
        TypeError: if the interval is not a whole number, or another is not a number.
        ValueError: if the interval is below 1, ``init_scale`` not positive, ``growth_factor`` not
            above 1, ``backoff_factor`` not between 0 and 1, or one not finite.

    Source: Micikevicius et al. (2018), arXiv 1710.03740, section 3.2.

    Example:
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> sgd, scaler = torch.optim.SGD([w], lr=0.5), LossScaler(init_scale=4.0)
        >>> scaler.scale(w.sum()).backward()
        >>> w.grad.item(), scaler.step(sgd), w.item()
        (4.0, ScaledStep(step=0, scale=4.0, skipped=False), 0.5)
        >>> w.grad.fill_(torch.inf).isfinite().item(), scaler.step(sgd).skipped, w.item()
        (False, True, 0.5)
        >>> scaler.get_scale()
        2.0

    """

    def __init__(
        self,
        *,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        self._scale = finite("init_scale", init_scale)
        self._growth = finite("growth_factor", growth_factor)
        self._backoff = finite("backoff_factor", backoff_factor)
        self._interval = positive_integer("growth_interval", growth_interval)
        if not (self._scale > 0 and self._growth > 1 and 0 < self._backoff < 1):
            raise ValueError(
                "init_scale must be positive, growth_factor above 1 and backoff_factor between 0 "
                f"and 1, got {init_scale}, {growth_factor} and {backoff_factor}"
            )
        self._good_steps = 0
        self._all_finite: bool | None = None  # None: the gradients are still scaled
        self._log: list[ScaledStep] = []

    @property
    def log(self) -> tuple[ScaledStep, ...]:
        """Every step so far."""
        return tuple(self._log)

    def get_scale(self) -> float:
        """Return S as the next loss will be multiplied by it."""
        return self._scale

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss, a scalar, times S."""
        return loss * self._scale

    def unscale_(self, parameters: Iterable[Tensor]) -> bool:
        """Divide the gradients of all the parameters by S, in place, and look for inf and nan.

        Args:
            parameters: (...) each; those without a gradient are passed over.

        Returns:
            Whether all are finite, before and so after; otherwise the step will be skipped.

        Raises:
            RuntimeError: if that has been done since the last step.

        """
        if self._all_finite is not None:
            raise RuntimeError("the gradients of this step have been divided by the scale already")
        gradients = [each.grad for each in parameters if each.grad is not None]
        self._all_finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
        for gradient in gradients:
            gradient.mul_(1 / self._scale)
        return self._all_finite

    def step(self, optimizer: torch.optim.Optimizer) -> ScaledStep:
        """Update the parameters unless a gradient is inf or nan, then the scale.

        Args:
            optimizer: of which the gradients are divided by S first, unless
                :meth:`unscale_` has done it.

        Returns:
            What was done; it is the last entry of ``log`` too.

        """
        if self._all_finite is None:
            self.unscale_(p for group in optimizer.param_groups for p in group["params"])
        done = ScaledStep(len(self._log), self._scale, skipped=not self._all_finite)
        if not done.skipped:
            optimizer.step()
        self._adapt(skipped=done.skipped)
        self._log.append(done)
        self._all_finite = None
        return done

    def _adapt(self, *, skipped: bool) -> None:
        if skipped:
            self._scale *= self._backoff
            self._good_steps = 0
            return
        self._good_steps += 1
        if self._good_steps == self._interval:
            grown = self._scale * self._growth
            self._scale = grown if grown <= torch.finfo(torch.float32).max else self._scale
            self._good_steps = 0
