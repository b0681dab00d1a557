"""Time end-to-end Jacobians against bare matrix products, and against the usual ways to get them.

Run it as ``OMP_NUM_THREADS=1 python tests/benchmarks/jacobian.py``.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.func import jacrev, vmap

sys.path.insert(0, str(Path(__file__).parents[2]))

from companion import backprop, jacobian

WIDTH, DEPTH, EXAMPLES, REPEATS = 128, 50, 64, 7
# 50 matrices are multiplied in 49 products; each is (128 × 128) times (128 × 128) for each input.
PRODUCTS = DEPTH - 1


def seconds(function: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    stacked = backprop.random_mlp([WIDTH] * (DEPTH + 1), "tanh", weight_variance=1.2)
    (model,) = backprop.to_modules(stacked)
    weights = tuple(weight[0] for weight in stacked.weights)
    network = backprop.MLP(weights, None, stacked.activation)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES, WIDTH, generator=generator, dtype=torch.float64)
    tall = torch.randn(EXAMPLES * WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    out = torch.empty_like(tall)

    def bare() -> None:
        """Do as many multiplications in plain products of tall matrices."""
        for _ in range(PRODUCTS):
            torch.mm(tall, weights[0], out=out)

    def loop() -> torch.Tensor:
        """Go back once for each input and output."""
        rows = []
        for example in inputs:
            x = example.clone().requires_grad_()
            output = model(x)
            found = [torch.autograd.grad(y, x, retain_graph=True)[0] for y in output]
            rows.append(torch.stack(found))
        return torch.stack(rows)

    ways = {
        "end_to_end(MLP)": lambda: jacobian.end_to_end(network, inputs),
        "end_to_end(nn.Module)": lambda: jacobian.end_to_end(model, inputs),
        "vmap(jacrev)": lambda: vmap(jacrev(model))(inputs),
        "a backward pass for each row": loop,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    rates = []
    expected = ways["vmap(jacrev)"]().detach()
    for name, way in ways.items():
        if way is not loop:  # which takes half a minute: once is enough
            torch.testing.assert_close(way().detach(), expected, rtol=1e-8, atol=1e-10)
        for _ in range(1 if way is loop else REPEATS):
            before, taken, after = seconds(bare), seconds(way), seconds(bare)
            floor = (before + after) / 2
            rates.append(2 * PRODUCTS * EXAMPLES * WIDTH**3 / floor / 1e9)
            times[name].append(taken)
            ratios[name].append(taken / floor)
    sys.stdout.write(
        f"Jacobians of {EXAMPLES} inputs, {DEPTH} layers of width {WIDTH}, float64, one thread.\n"
        f"Counted: {PRODUCTS} products ({EXAMPLES * WIDTH}x{WIDTH})@({WIDTH}x{WIDTH}), "
        f"{PRODUCTS * EXAMPLES * WIDTH**3 / 1e9:.2f}e9 multiplications; bare products run at "
        f"{statistics.median(rates):.1f} GFLOP/s. Medians of up to {REPEATS}:\n"
    )
    for name in ways:
        sys.stdout.write(
            f"  {name:30} {statistics.median(times[name]):7.3f} s = "
            f"{statistics.median(ratios[name]):6.2f} x the bare products "
            f"({min(ratios[name]):.2f} to {max(ratios[name]):.2f})\n"
        )
