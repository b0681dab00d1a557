"""Time phase diagrams against a loop over single small networks with autograd.

Run it as ``OMP_NUM_THREADS=1 python tests/benchmarks/phase.py``.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from companion import backprop, data, phase

WIDTH = 64
VARIANCES, DEPTHS, SEEDS = (1.0, 1.3, 1.76, 2.5, 4.0), (5, 10, 20, 40), 2
STEPS, RATE, BATCH, BIAS, REPEATS = 60, 0.02, 16, 0.05, 3


def model(sizes: list[int], variance: float, seed: int, biases: list[torch.Tensor]):  # noqa: ANN201
    """Build one network as a reader would have it."""
    network = backprop.random_mlp(sizes, "tanh", weight_variance=variance, seeds=[seed], bias=True)
    for bias, drawn in zip(network.biases, biases, strict=True):
        bias.copy_(BIAS**0.5 * drawn)
    return backprop.to_modules(network)[0]


def trained_together(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Measure the diagram of trainability as the companion does."""
    return phase.trainability(
        "tanh",
        VARIANCES,
        DEPTHS,
        bias_variance=BIAS,
        seeds=SEEDS,
        steps=STEPS,
        learning_rate=RATE,
        batch_size=BATCH,
        dtype=dtype,
        progress=False,
    ).values


def trained_one_by_one(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Measure it with one ``nn.Sequential`` for each variance, depth and seed, and torch's SGD."""
    digits = data.digits()
    values = torch.empty(len(VARIANCES), len(DEPTHS), SEEDS, dtype=torch.float64)
    for v, variance in enumerate(VARIANCES):
        for d, depth in enumerate(DEPTHS):
            for seed in range(SEEDS):
                sizes = [64, *[WIDTH] * (depth - 1), 10]
                generator = torch.Generator().manual_seed(seed + 2**31)
                biases = [
                    torch.randn(n, generator=generator, dtype=torch.float64) for n in sizes[1:]
                ]
                network = model(sizes, variance, seed, biases).to(dtype)
                optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
                generator = torch.Generator().manual_seed(seed + 3 * 2**30)
                for _ in range(STEPS):
                    rows = torch.randint(len(digits.train_inputs), (BATCH,), generator=generator)
                    outputs = network(digits.train_inputs[rows].to(dtype))
                    optimizer.zero_grad()
                    torch.nn.functional.cross_entropy(
                        outputs, digits.train_targets[rows]
                    ).backward()
                    optimizer.step()
                with torch.no_grad():
                    right = network(digits.test_inputs.to(dtype)).argmax(-1) == digits.test_targets
                values[v, d, seed] = right.double().mean()
    return values


def seconds(function: Callable[[], torch.Tensor]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = len(VARIANCES) * len(DEPTHS) * SEEDS
    sys.stdout.write(
        f"Phase diagrams, {len(VARIANCES)} variances x {len(DEPTHS)} depths up to {max(DEPTHS)} x "
        f"{SEEDS} seeds = {count} networks of width {WIDTH}, one thread, median of {REPEATS}:\n"
    )
    single = (partial(trained_together, torch.float32), partial(trained_one_by_one, torch.float32))
    for name, mine, other in (
        (f"trainability, {STEPS} steps, float64", trained_together, trained_one_by_one),
        (f"trainability, {STEPS} steps, float32", *single),
    ):
        if "float32" not in name:
            # Deeper ones and larger variances are chaotic: 20 steps make the last bit visible.
            close = {"rtol": 1e-9, "atol": 1e-9}
            torch.testing.assert_close(mine()[:4, :3], other()[:4, :3], **close)
        pairs = [(seconds(mine), seconds(other)) for _ in range(REPEATS)]
        fast, slow = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        sys.stdout.write(
            f"  {name:32} together {fast:7.3f} s   one by one {slow:7.3f} s   ratio {ratio:6.2f}\n"
        )
