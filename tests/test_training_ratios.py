"""Updates relative to weights, against two copies of the weights."""

import math

import pytest
import torch
from torch import nn

from companion import backprop, data, training
from companion.data import Split


@pytest.mark.breaks("companion/training/ratios.py", "each.dim() > 2", "each.dim() > 1")
@pytest.mark.breaks("companion/training/ratios.py", "vector_norm(last", "vector_norm(now")
@pytest.mark.breaks(
    "companion/training/ratios.py", "before.update(weights)", "before or before.update(weights)"
)
@pytest.mark.parametrize("rule", [training.sgd(0.3, momentum=0.9), training.adam(0.05)])
def test_a_ratio_is_that_of_one_update(rule: object) -> None:
    digits, models = data.digits(), backprop.classifiers("tanh", 1.0, 3, seeds=2)
    states = []

    def keep(snapshot: training.Snapshot) -> torch.Tensor:
        states.append(snapshot.parameters)
        return observe(snapshot)

    observe = training.update_ratios()
    record = training.train(
        models, digits, optimizer=rule, steps=4, batch_size=9, observe=keep, progress=False
    )
    found = torch.stack(record.observed)
    assert found.shape == (5, 2, 3)
    assert found[0].isnan().all()
    names = [name for name in states[0] if name.endswith("weight")]
    for t in range(1, 5):
        for s in range(2):
            for w, name in enumerate(names):
                last, now = states[t - 1][name][s], states[t][name][s]
                expected = ((now - last).norm() / last.norm()).item()
                assert found[t, s, w].item() == pytest.approx(expected, rel=1e-12)


def test_for_gradient_descent_it_is_the_rate_times_the_gradient_over_the_weight() -> None:
    digits, models = data.digits(), backprop.classifiers("relu", 2.0, 3, seeds=2)
    record = training.train(
        models, digits, optimizer=training.sgd(0.1), steps=3, observe=training.update_ratios(),
        progress=False,
    )  # fmt: skip
    w = record.parameters()
    expected = 0.1 * record.gradient_norms[:-1, :, w] / record.weight_norms[:-1, :, w]
    torch.testing.assert_close(torch.stack(record.observed[1:]), expected, rtol=1e-9, atol=0)


def test_a_weight_of_which_nothing_is_left() -> None:
    line = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(line.weight)
    x = torch.ones(2, 1, dtype=torch.float64)
    record = training.train(
        line, Split(x, x, x[:0], x[:0]), optimizer=training.sgd(0.1), steps=1, batch_size=None,
        loss=nn.functional.mse_loss, observe=training.update_ratios(), progress=False,
    )  # fmt: skip
    assert record.observed[1].item() == math.inf
