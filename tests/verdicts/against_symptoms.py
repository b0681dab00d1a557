"""The verdicts of `symptoms` at settings that the chapter does not show, from their sentences."""

from collections.abc import Callable

import pytest
import torch

from companion.backprop import classifiers
from companion.data import digits
from companion.training import train

pytestmark = pytest.mark.files("book/symptoms.ipynb")
SEEDS = range(100, 106)
Tell = Callable[..., None]


@pytest.mark.claim("S3")
@pytest.mark.parametrize(
    ("depth", "width", "rate", "steps", "decay"),
    [(14, 24, 0.3, 150, 0.0), (10, 96, 0.03, 150, 0.03), (10, 24, 0.1, 450, 0.01)],
)
def test_weights_whose_gradient_vanishes_stay_or_decay(
    depth: int, width: int, rate: float, steps: int, decay: float, tried: Tell
) -> None:
    models = classifiers("sigmoid", 1.0, depth, width=width, seeds=SEEDS)
    before = [model[0].weight.norm().item() for model in models]
    train(
        models,
        digits(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate, weight_decay=decay),
        steps=steps,
        progress=False,
        record_every=steps,
    )
    kept = [model[0].weight.norm().item() / b for model, b in zip(models, before, strict=True)]
    alone = (1 - rate * decay) ** steps
    tried(
        f"the first layer keeps {min(kept):.4f} to {max(kept):.4f}, by decay alone {alone:.4f}",
        depth=depth,
        width=width,
        rate=rate,
        steps=steps,
        decay=decay,
    )
    assert all(abs(each / alone - 1) < 5e-4 for each in kept)
