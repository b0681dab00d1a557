"""The companion of the course *Gradients at Depth*: vanishing and exploding gradients, measured.

Each module is one subject, and the chapter of the same name derives what it computes:

* :mod:`companion.activations` -- activation functions and their slopes in closed form
* :mod:`companion.initialization` -- weights with a stated variance, and the named schemes
* :mod:`companion.signal` -- mean-field theory: what depth does to lengths and gradients
* :mod:`companion.shattering` -- how soon gradients at two inputs have nothing in common
* :mod:`companion.backprop` -- a network's forward and backward pass, written out by hand
* :mod:`companion.propagation` -- an initialization's variances, predicted and measured
* :mod:`companion.products` -- products of many matrices, and the number that plays the part of α
* :mod:`companion.jacobian` -- end-to-end Jacobians, their singular values and Lyapunov spectra
* :mod:`companion.phase` -- where networks keep their gradient, and where they can be trained
* :mod:`companion.deep_linear` -- deep linear networks, whose learning can be solved exactly
* :mod:`companion.normalization` -- batch, layer, RMS and group norm, and what cannot pass them
* :mod:`companion.explosion` -- how fast gradients grow below a norm, in closed form and measured
* :mod:`companion.landscape` -- the loss along its gradient: how smooth, and how far to be trusted
* :mod:`companion.residual` -- stacks of blocks: plain, residual in its variants, and highway
* :mod:`companion.stream` -- what those blocks do to signal and gradient, predicted and measured
* :mod:`companion.paths` -- the 2ⁿ paths of the gradient through a residual network
* :mod:`companion.transformer` -- blocks with the norm before or after the sum, attention alone
* :mod:`companion.recurrence` -- recurrent cells, and the gradient on its way back through time
* :mod:`companion.driven` -- one matrix at every step, with inputs and without
* :mod:`companion.sequences` -- tasks that need memory, and a race to learn them
* :mod:`companion.clipping` -- clipping by value, by norm, by group and adaptive, and what it did
* :mod:`companion.cliffs` -- two losses whose gradients have no bound, and descent on them
* :mod:`companion.monitor` -- what happens in your own network while it trains, nearly free
* :mod:`companion.summary` -- what a step has shown, from those sums
* :mod:`companion.ledger` -- the sums that it keeps of one step
* :mod:`companion.watching` -- how it sees which layers run, what they return, and the gradient
* :mod:`companion.log` -- what a monitor wrote down, to be saved and read back
* :mod:`companion.evidence` -- what that log says in a few numbers
* :mod:`companion.diagnosis` -- from those numbers to a named fault, and what to try
* :mod:`companion.zoo` -- healthy networks and planted faults, to try a diagnosis on
* :mod:`companion.checks` -- what the visible checks of an assignment call, and its own numbers
* :mod:`companion.data` -- real data that ships with a dependency
* :mod:`companion.training` -- a training loop that keeps a record of every layer
* :mod:`companion.tally` -- counts that chaos decides, in words that survive it
* :mod:`companion.plots` -- one house style, and the plot that every chapter reads
* :mod:`companion.explore` -- sliders that work in a notebook and in a page without a kernel

Importing the package is cheap: each module is loaded when it is first used.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

__all__ = [
    "activations",
    "backprop",
    "checks",
    "cliffs",
    "clipping",
    "data",
    "deep_linear",
    "diagnosis",
    "driven",
    "evidence",
    "explore",
    "explosion",
    "initialization",
    "jacobian",
    "landscape",
    "ledger",
    "log",
    "monitor",
    "normalization",
    "paths",
    "phase",
    "plots",
    "products",
    "propagation",
    "recurrence",
    "residual",
    "sequences",
    "shattering",
    "signal",
    "stream",
    "summary",
    "tally",
    "training",
    "transformer",
    "watching",
    "zoo",
]


def __getattr__(name: str) -> ModuleType:
    """Load a module of the package when it is first asked for."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    """Name the modules, so that completion finds those not loaded yet."""
    return sorted([*globals(), *__all__])
