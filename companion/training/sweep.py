"""Many learning rates and seeds in one run."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from companion._lib.arguments import finite
from companion._lib.probing import Loss
from companion._lib.stacking import stack
from companion.data import Split
from companion.training.loop import Record, train


class Sweep(NamedTuple):
    """What came of R learning rates with S networks each.

    Attributes:
        learning_rates: (R,) in float64, or (R, S) if each network had its own.
        loss: (R, S) on the whole training set after the last update; inf of a run that is not
            finite.
        finite: (R, S) whether every loss was finite, and this one is.
        steps: (R, S) in float64, updates made until the loss on a batch was at most the target;
            inf where it never was, or there is no target.

    """

    learning_rates: Tensor
    loss: Tensor
    finite: Tensor
    steps: Tensor


def rate_sweep(
    models: nn.Module | Sequence[nn.Module],
    data: Split,
    *,
    optimizer: Callable[[Sequence[float]], Callable[[Iterable], torch.optim.Optimizer]],
    learning_rates: Sequence[float] | Tensor,
    steps: int,
    target: float | None = None,
    loss: Loss = nn.functional.cross_entropy,
    batch_size: int | None = 128,
    max_norm: float | None = None,
    record_every: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> Sweep:
    """Train copies of each network with each learning rate, all of them in one vectorised run.

    Args:
        models: one module or S of the same architecture, as for :func:`companion.training.train`;
            they are left as they are.
        data: what to train on; its test part is not looked at.
        optimizer: from a list of rates, what ``train`` takes: ``training.adam`` is one, and
            ``lambda rates: training.scheduled(training.adam(rates), training.warmup(10))``.
        learning_rates: R of them; or a tensor (R, S), each network's own: rates that are measured
            in 2/λ of each, say.
        steps: number of updates.
        target: the loss on a batch at which a run has arrived; None not to ask.
        loss: of (outputs, targets), averaged over the batch.
        batch_size: as for ``train``.
        max_norm: what each network's gradient is clipped to by its norm; None for no clipping.
        record_every: steps between looks at whether the target is reached.
        seed: network i draws its batches with seed ``seed + i``, the same at each rate.
        progress: whether to show a bar.

    Returns:
        A :class:`Sweep`.

    Raises:
        ValueError: if there is no model or no rate, or what ``train`` or the optimizer refuses.
        TypeError: if ``target`` is not a number, or a count is not a whole one.

    Example:
        >>> from companion import backprop, data, training
        >>> found = rate_sweep(
        ...     backprop.classifiers("tanh", 1.0, 2, seeds=2), data.digits(),
        ...     optimizer=training.sgd, learning_rates=[0.001, 0.1], steps=50, progress=False,
        ... )
        >>> (found.loss < 1).tolist()
        [[False, False], [True, True]]

    """
    models = [models] if isinstance(models, nn.Module) else list(models)
    rates = torch.as_tensor(learning_rates, dtype=torch.float64)
    each = rates[:, None] if rates.dim() == 1 else rates
    if each.shape[1:] not in {(1,), (len(models),)} or len(each) == 0:
        raise ValueError(
            f"learning_rates needs at least one number, or shape (rates, {len(models)}) to give "
            f"each network its own, got shape {tuple(rates.shape)}"
        )
    each = each.expand(-1, len(models))
    bound = None if target is None else finite("target", target)
    runs = [copy.deepcopy(model) for _ in each for model in models]
    record = train(
        runs,
        data._replace(test_inputs=data.test_inputs[:0], test_targets=data.test_targets[:0]),
        optimizer=optimizer(each.flatten().tolist()),
        steps=steps,
        loss=loss,
        batch_size=batch_size,
        max_norm=max_norm,
        record_every=steps if bound is None else record_every,
        seed=[seed + i for _ in each for i in range(len(models))],
        progress=progress,
    )
    last = _whole_loss(runs, data, loss, chunk=len(models))
    good = last.isfinite() & torch.tensor([stop is None for stop in record.stopped])
    shape = each.shape
    return Sweep(
        rates,
        torch.where(good, last, math.inf).view(shape),
        good.view(shape),
        _arrival(record, bound).view(shape),
    )


def _whole_loss(models: Sequence[nn.Module], data: Split, loss: Loss, *, chunk: int) -> Tensor:
    """Return each network's loss on the training set, a few networks at a time."""
    skeleton, parameters = stack(models)

    def value(state: dict[str, Tensor]) -> Tensor:
        return loss(functional_call(skeleton, state, (data.train_inputs,)), data.train_targets)

    with torch.no_grad():
        return vmap(value, chunk_size=chunk)(parameters)


def _arrival(record: Record, target: float | None) -> Tensor:
    """Return the first step recorded at which each network's loss is at most the target."""
    if target is None:
        return torch.full_like(record.loss[0], math.inf, dtype=torch.float64)
    step = record.steps.to(torch.float64)[:, None]
    return torch.where(record.loss <= target, step, math.inf).amin(0)
