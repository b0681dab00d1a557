"""Time a sweep of learning rates and seeds against the loop over them, with the same numbers.

Run it as ``OMP_NUM_THREADS=1 python tests/benchmarks/rate_sweep.py``.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from companion import backprop, data, training

RATES = tuple(10 ** (-4 + k / 3) for k in range(10))
SEEDS, DEPTH, WIDTH, STEPS, BATCH, TARGET, REPEATS = 4, 4, 32, 60, 32, 1.0, 3
DIGITS = data.digits()


def models() -> list[nn.Sequential]:
    """Draw the networks of all seeds."""
    return backprop.classifiers("relu", 2.0, DEPTH, width=WIDTH, seeds=SEEDS)


def together() -> torch.Tensor:
    """Sweep as the companion does."""
    return training.rate_sweep(
        models(),
        DIGITS,
        optimizer=training.adam,
        learning_rates=RATES,
        steps=STEPS,
        batch_size=BATCH,
        target=TARGET,
        progress=False,
    ).loss


def one_by_one() -> torch.Tensor:
    """Call the companion's ``train`` for each rate and seed."""
    untested = DIGITS._replace(
        test_inputs=DIGITS.test_inputs[:0], test_targets=DIGITS.test_targets[:0]
    )
    rows = []
    for rate in RATES:
        for seed, model in enumerate(models()):
            training.train(
                model,
                untested,
                optimizer=training.adam(rate),
                steps=STEPS,
                batch_size=BATCH,
                seed=seed,
                progress=False,
            )
            rows.append(whole_loss(model))
    return torch.stack(rows).view(len(RATES), SEEDS)


def plainly() -> torch.Tensor:
    """Train each network as a tutorial does, without any record but its loss."""
    rows = []
    for rate in RATES:
        for seed, model in enumerate(models()):
            optimizer = torch.optim.Adam(model.parameters(), lr=rate)
            generator = data.generator(seed)
            for _ in range(STEPS):
                batch = torch.randint(len(DIGITS.train_inputs), (BATCH,), generator=generator)
                outputs = model(DIGITS.train_inputs[batch])
                optimizer.zero_grad()
                nn.functional.cross_entropy(outputs, DIGITS.train_targets[batch]).backward()
                optimizer.step()
            rows.append(whole_loss(model))
    return torch.stack(rows).view(len(RATES), SEEDS)


def whole_loss(model: nn.Module) -> torch.Tensor:
    """Return the loss on the whole training set."""
    with torch.no_grad():
        return nn.functional.cross_entropy(model(DIGITS.train_inputs), DIGITS.train_targets)


def seconds(function: Callable[[], torch.Tensor]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    expected = together()
    for other in (one_by_one, plainly):
        # Large rates are chaotic: a step makes the last bit larger.
        torch.testing.assert_close(other()[:7], expected[:7], rtol=1e-6, atol=1e-8)
    sys.stdout.write(
        f"{len(RATES)} rates x {SEEDS} seeds, {DEPTH} layers of {WIDTH}, {STEPS} steps of Adam, "
        f"one thread, median of {REPEATS} paired runs:\n"
    )
    for name, slow in (("training.train one by one", one_by_one), ("a plain loop", plainly)):
        pairs = [(seconds(together), seconds(slow)) for _ in range(REPEATS)]
        mine, other_time = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        sys.stdout.write(
            f"  rate_sweep {mine:6.2f} s   {name:26} {other_time:6.2f} s   ratio {ratio:6.2f}\n"
        )
