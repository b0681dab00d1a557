"""The companion of the course *Gradients at Depth*: vanishing and exploding gradients, measured.

A chapter's word is its package's word: what a chapter derives is computed by the module or package
of its name. Below those of the chapters stand the tools that several of them use.

* :mod:`companion.backprop` -- a network's forward and backward pass, written out by hand
* :mod:`companion.activations` -- activation functions, their slopes, and units that respond no more
* :mod:`companion.initialization` -- weights with a stated variance, and the named schemes
* :mod:`companion.normalization` -- batch, layer, RMS and group norm, and what cannot pass them;
  how fast gradients grow below them, and how smooth they make the loss
* :mod:`companion.residuals` -- stacks of blocks, what they do to signal and gradient, and its paths
* :mod:`companion.lstms` -- recurrent cells, the gradient through time, and tasks that need memory
* :mod:`companion.clipping` -- clipping by value, by norm, by group and adaptive; and cliffs
* :mod:`companion.monitor` -- what happens in your own network while it trains, nearly free
* :mod:`companion.diagnosis` -- from what a monitor saw to a named fault, and what to try
* :mod:`companion.training` -- a training loop that keeps a record of every layer
* :mod:`companion.precision` -- number formats, what of a gradient they lose, and loss scaling
* :mod:`companion.transformers` -- attention and its blocks: what each part does to a gradient

* :mod:`companion.meanfield` -- mean-field theory: what depth does to lengths and gradients
* :mod:`companion.propagation` -- an initialization's variances, predicted and measured
* :mod:`companion.products` -- products of many matrices, and the number that plays the part of α
* :mod:`companion.jacobian` -- end-to-end Jacobians, their singular values and Lyapunov spectra
* :mod:`companion.phase` -- where networks keep their gradient, and where they can be trained
* :mod:`companion.shattering` -- how soon gradients at two inputs have nothing in common
* :mod:`companion.deep_linear` -- deep linear networks, whose learning can be solved exactly
* :mod:`companion.data` -- real data that ships with a dependency, and draws that a seed decides
* :mod:`companion.checks` -- what the visible checks of an assignment call, and its own numbers
* :mod:`companion.tables` -- medians and counts as chapters print them, alike on every machine
* :mod:`companion.verdict` -- a verdict's sentence, asserted clause by clause on what was measured
* :mod:`companion.diagrams` -- mechanisms drawn as SVG: norms, blocks, unrolled networks, a cell
* :mod:`companion.plots` -- one house style, and the plot that every chapter reads
* :mod:`companion.explore` -- sliders that work in a notebook and in a page without a kernel

Importing the package is cheap: each module is loaded when it is first used.
"""

import importlib
from types import ModuleType

__version__ = "0.2.0"

__all__ = [
    "activations",
    "backprop",
    "checks",
    "clipping",
    "data",
    "deep_linear",
    "diagnosis",
    "diagrams",
    "explore",
    "initialization",
    "jacobian",
    "lstms",
    "meanfield",
    "monitor",
    "normalization",
    "phase",
    "plots",
    "precision",
    "products",
    "propagation",
    "residuals",
    "shattering",
    "tables",
    "training",
    "transformers",
    "verdict",
]


def __getattr__(name: str) -> ModuleType:
    """Load a module of the package when it is first asked for."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    """Name the modules, so that completion finds those not loaded yet."""
    return sorted([*globals(), *__all__])
