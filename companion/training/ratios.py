"""How far an update moves a weight, as a share of how long the weight is."""

from collections.abc import Callable

import torch
from torch import Tensor

from companion._lib.norms import vector_norm
from companion.training.loop import Snapshot


def update_ratios() -> Callable[[Snapshot], Tensor]:
    """Return what ``training.train`` takes as ``observe`` to record updates relative to weights.

    What it returns at a record is how far each weight has moved since the record before, over its
    norm there: with ``record_every=1`` that is one update, whatever the optimizer. Only weights of
    two dimensions or more count, since biases that start at zero have no size to compare with.

    Returns:
        A function of a :class:`~companion.training.Snapshot` that returns (S, W) ratios of S
        networks' W weights, nan at the first record; ``torch.stack(record.observed)`` is (T, S, W)
        then. A weight of which nothing is left has the ratio inf, or nan if it stays so. It is for
        one run.

    Source: Karpathy (2015), CS231n, "Ratio of weights:updates".

    Example:
        >>> from companion import backprop, data, training
        >>> record = training.train(
        ...     backprop.classifiers("tanh", 1.0, 2, seeds=1), data.digits(), steps=2,
        ...     optimizer=training.sgd(0.01), observe=training.update_ratios(), progress=False,
        ... )
        >>> found = torch.stack(record.observed)
        >>> tuple(found.shape), bool((found[1:] < 0.01).all())
        ((3, 1, 2), True)

    """
    before: dict[str, Tensor] = {}

    def observe(snapshot: Snapshot) -> Tensor:
        weights = {name: each for name, each in snapshot.parameters.items() if each.dim() > 2}
        rows = [
            (vector_norm((now - last).flatten(1), dim=1) / vector_norm(last.flatten(1), dim=1))
            if (last := before.get(name)) is not None
            else torch.full_like(now.flatten(1)[:, 0], torch.nan)
            for name, now in weights.items()
        ]
        before.update(weights)
        return torch.stack(rows, 1)

    return observe
