"""Time P1's full table (7 settings, 8 seeds, width 300, depth 30) against a loop with autograd.

Run it as ``OMP_NUM_THREADS=1 python tests/benchmarks/gradient_flow.py``.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from companion import backprop
from companion.backprop import Setting

WIDTH, DEPTH, SEEDS, EXAMPLES, REPEATS = 300, 30, 8, 16, 5
SETTINGS = (
    Setting("sigmoid", 1.0, "sigmoid, 1/n"),
    Setting("sigmoid", 2.0, "sigmoid, He"),
    Setting("tanh", 2.0, "tanh, He"),
    Setting("tanh", (5 / 3) ** 2, "tanh, gain 5/3"),
    Setting("relu", 1.0, "ReLU, Glorot"),
    Setting("relu", 2.0, "ReLU, He"),
    Setting("relu", 1 / 3, "ReLU, nn.Linear's default"),
)


def together() -> torch.Tensor:
    """Measure the table as the companion does: all seeds of a setting in one pass by hand."""
    return backprop.gradient_flow(
        SETTINGS, width=WIDTH, depth=DEPTH, seeds=SEEDS, examples=EXAMPLES
    )


def one_by_one() -> torch.Tensor:
    """Measure it with one ``nn.Sequential`` after the other, and autograd."""
    rows = []
    for setting in SETTINGS:
        for seed in range(SEEDS):
            network = backprop.random_mlp(
                [WIDTH] * (DEPTH + 1),
                setting.activation,
                weight_variance=setting.weight_variance,
                seeds=[seed],
            )
            (model,) = backprop.to_modules(network)
            generator = torch.Generator().manual_seed(seed + 2**31)
            draws = torch.randn(2, EXAMPLES, WIDTH, generator=generator, dtype=torch.float64)
            z, a = [], draws[0]
            for layer in model:
                a = layer(a)
                if isinstance(layer, torch.nn.Linear):
                    z.append(a)
            deltas = torch.autograd.grad(z[-1], z, draws[1])
            norms = torch.stack([delta.norm() for delta in deltas])
            rows.append(torch.log10(norms / norms[-1]))
    return torch.stack(rows).reshape(len(SETTINGS), SEEDS, DEPTH)


def seconds(function: Callable[[], torch.Tensor]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.testing.assert_close(together(), one_by_one(), rtol=1e-9, atol=1e-10)
    pairs = [(seconds(together), seconds(one_by_one)) for _ in range(REPEATS)]
    mine, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    sys.stdout.write(
        f"P1's table, {len(SETTINGS)} settings x {SEEDS} seeds, width {WIDTH}, depth {DEPTH}, "
        f"one thread, median of {REPEATS}:\n"
        f"  companion.backprop.gradient_flow  {mine:6.2f} s\n"
        f"  single networks with autograd     {other:6.2f} s\n"
        f"  ratio                             {ratio:6.2f}\n"
    )
