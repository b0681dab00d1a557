"""Arithmetic that rounds as another machine's would: off by a unit in the last place, at random.

`Rounding(draw)` is a mode of torch under which every result that machines may round differently
comes out a unit in the last place off: products, sums, means, norms, decompositions, elementary
functions, normal draws; forward and backward, under autograd and under torch.func. `others(draw)`
does the same to what NumPy, SciPy and Python's `math` return to a chapter or to the companion, and
to what enters torch from NumPy.

What every machine agrees on is left as it is: + − × ÷ √ element by element, comparisons, copies,
casts, uniform draws; sums and products of integers (and of halves, quarters, ...); a sum that has a
single term; an integer that a function makes of integers. So what is exact by construction keeps
its digits. A sum that cancels is off by a unit of its terms: a zero that comes about so is a zero
to rounding. What has 16 bits is off by a unit of float32, in which it is accumulated, before it is
rounded to 16.

As a program, `python -P tests/noise.py -f CONNECTION`, this is a kernel with that arithmetic. The
environment variable ROUNDING is the number of the draw.
"""

import functools
import importlib
import importlib.util
import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

POOL = 1 << 18  # units at hand; what needs more takes them again
HALVES = (torch.float16, torch.bfloat16)
# Numbers that are multiples of these are taken for exact, as long as their sums are small enough.
QUANTA = {torch.float32: 2.0**-8, torch.float64: 2.0**-20}

# What a result's unit is measured by, if not by itself, and where it is exact.
Terms = tuple[np.ndarray | None, np.ndarray | None]

# Operators that do not round, or round once and so in one way only.
EXACT = frozenset(
    """
    abs alias amax amin aminmax bernoulli block_diag cat ceil clamp clamp_max clamp_min clone
    complex conj_physical constant_pad_nd copy copysign cummax cummin diag_embed div dropout
    embedding empty empty_like empty_strided eye fill flip floor fmax fmin fmod frac full full_like
    gather hardtanh hardtanh_backward im2col index index_copy index_fill index_select kthvalue
    leaky_relu leaky_relu_backward lift lift_fresh masked_fill masked_scatter masked_select max
    max_pool2d_with_indices maximum median min minimum mode mul nan_to_num nanmedian native_dropout
    native_dropout_backward neg new_empty new_empty_strided new_full new_ones new_zeros nextafter
    nll_loss_backward ones ones_like put rand rand_like reciprocal reflection_pad1d
    reflection_pad2d relu remainder repeat resize resolve_conj roll round scalar_tensor scatter
    select_backward select_scatter set sgn sign slice_backward slice_scatter sort sqrt square stack
    take threshold threshold_backward to_copy topk tril triu trunc uniform unsafe_split unsafe_view
    where zero zeros zeros_like
    """.split()
)
UPDATES = frozenset("add addcdiv addcmul lerp rsub sub".split())
SUMS = frozenset({"sum", "mean", "linalg_vector_norm"})
# Where the first factor of a product stands among the arguments.
PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "vdot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}


class Operator(NamedTuple):
    """What is looked up of an operator of torch."""

    name: str
    """Without namespace, overload, and the marks of being in place."""
    agreed: bool
    """Whether it is exact whatever it is given, or gives another view of it."""
    drawn: bool
    written: tuple[tuple[int, str], ...]
    """Place and name of each argument that it writes to."""


def describe(func: Any) -> Operator:  # noqa: ANN401
    """Look an operator up."""
    schema = func._schema
    name = schema.name.rpartition("::")[2].removeprefix("_foreach_").strip("_")
    marks = [result.alias_info for result in schema.returns]
    is_view = any(mark is not None and not mark.is_write for mark in marks)
    places = enumerate(schema.arguments)
    written = tuple((i, a.name) for i, a in places if a.alias_info and a.alias_info.is_write)
    drawn = torch.Tag.nondeterministic_seeded in func.tags
    return Operator(name, is_view or name in EXACT, drawn, written)


def is_floating(value: object) -> bool:
    """Return whether this is a tensor with floating-point or complex numbers in it."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.numel() == 0:
        return False
    return value.is_floating_point() or value.is_complex()


def array(values: Tensor) -> np.ndarray:
    """Return a tensor's numbers as NumPy sees them, in place; on small ones it is much quicker."""
    return (values.detach() if values.requires_grad else values).resolve_neg().numpy()


def are_multiples(values: np.ndarray, quantum: float) -> bool:
    """Return whether all are multiples of a number; most are found out by the first of them."""
    if values.size == 0 or values[(0,) * values.ndim] % quantum != 0:
        return False
    scaled = values / quantum
    return np.array_equal(scaled, np.rint(scaled))


def sums_exactly(terms: Tensor) -> bool:
    """Return whether the terms are so coarse that they sum up exactly, in whatever order."""
    quantum = QUANTA.get(terms.dtype)
    if quantum is None:
        return not is_floating(terms)
    values = array(terms)
    coarse = are_multiples(values, quantum)
    return coarse and bool(np.abs(values).sum() * torch.finfo(terms.dtype).eps < quantum)


def multiplies_exactly(a: Tensor, b: Tensor) -> bool:
    """Return whether the terms of a matrix product are so coarse that it is exact."""
    quantum = QUANTA.get(a.dtype)
    if quantum is None:
        return not is_floating(a)
    left, right = array(a), array(b)
    if not (are_multiples(left, quantum**0.5) and are_multiples(right, quantum**0.5)):
        return False
    largest = np.abs(left).max() * np.abs(right).max() * a.shape[-1]
    return bool(largest * torch.finfo(a.dtype).eps < quantum)


def is_exact(name: str, args: Any, kwargs: Any) -> bool:  # noqa: ANN401
    """Return whether every machine agrees on this result to the last digit."""
    if name in ("add", "sub", "rsub"):  # a + αb is rounded once or twice
        return kwargs.get("alpha", 1) in (1, -1)
    if name == "pow" and not isinstance(args[1], Tensor):
        return args[1] in (0, 0.5, 1, 2)
    if name == "index_put":
        return not (args[3:] and args[3])
    if not isinstance(args[0] if args else None, Tensor):
        return False
    if name in SUMS:
        of_largest = name == "linalg_vector_norm" and args[1:] and abs(args[1]) in (0, math.inf)
        return of_largest or sums_exactly(args[0])
    if name in PRODUCTS:
        return multiplies_exactly(*args[PRODUCTS[name] : PRODUCTS[name] + 2])
    return False


def product_terms(name: str, args: Any, out: np.ndarray) -> Terms:  # noqa: ANN401
    """Return the typical size of a sum of the terms, and which sums have no two of them.

    Most products need neither: no sum of theirs nearly cancels, and none has a single term.
    """
    a, b = (array(factor) for factor in args[PRODUCTS[name] : PRODUCTS[name] + 2])
    a, b = (a if a.ndim > 1 else a[None]), (b if b.ndim > 1 else b[:, None])  # (n, k), (k, m)
    sizes = np.abs(out)
    if sizes.min() > 1e-9 * sizes.max():
        row, column = a[(0,) * (a.ndim - 1)], b[(0,) * (b.ndim - 2)][:, 0]
        if np.count_nonzero(row) > 1 and np.count_nonzero(column) > 1:
            return None, None
    squares = np.square(a, dtype=np.float64) @ np.square(b, dtype=np.float64)
    size = np.sqrt(squares).astype(out.dtype).reshape(out.shape)
    return size, np.abs(sizes - size) <= 8 * np.finfo(out.dtype).eps * size


def sum_terms(name: str, args: Any, out: np.ndarray) -> Terms:  # noqa: ANN401
    """Return the typical size of a sum of the terms, and which sums have no two of them."""
    values = array(args[0])
    dims = args[2:3] if name == "linalg_vector_norm" else args[1:2]
    dims = dims[0] if dims and dims[0] not in (None, [], ()) else range(values.ndim)
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    alone = (np.count_nonzero(values, axis=dims) <= 1).reshape(out.shape)
    if name == "linalg_vector_norm":
        return None, alone  # squares do not cancel
    size = np.sqrt(np.square(values).sum(axis=dims)).reshape(out.shape)
    return (size * out.size / values.size if name == "mean" else size), alone


def are_whole(values: np.ndarray) -> np.ndarray:
    """Return which numbers are integers or halves of integers."""
    doubled = values + values
    return np.rint(doubled) == doubled


class Rounding(TorchDispatchMode):
    """Rounds as another machine would; each draw is another such machine."""

    def __init__(self, draw: int) -> None:
        super().__init__()
        self.random = random.Random(draw)
        signs = torch.randint(-1, 2, (POOL,), generator=torch.Generator().manual_seed(draw))
        units = [(signs.to(dtype) * torch.finfo(dtype).eps).numpy() for dtype in QUANTA]
        self.units = {each.dtype: each for each in units}
        self.factors = {each.dtype: each + 1 for each in units}
        self.known: dict[int, Operator] = {}  # by identity: to hash an operator takes longer

    def __enter__(self) -> "Rounding":
        """Begin; what overflows here has done so before."""
        self.handling = np.seterr(all="ignore")
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        """End."""
        super().__exit__(*raised)
        np.seterr(**self.handling)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # which costs more than the dispatch itself

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Run an operator, and nudge what machines may not agree on."""
        kwargs = kwargs or {}
        known = self.known.get(id(func))
        if known is None:
            known = self.known[id(func)] = describe(func)
        if known.agreed or is_exact(known.name, args, kwargs):
            return func(*args, **kwargs)
        if not known.drawn and has_halves(args):
            wide = self.run(func, known, *tree_map(widened, (args, kwargs)))[1]
            out = func(*args, **kwargs)
            for target, better in zip(results(known, args, kwargs, out), wide, strict=True):
                if target.dtype in HALVES:
                    target.copy_(better)
            return out
        return self.run(func, known, args, kwargs)[0]

    def run(
        self,
        func: Any,  # noqa: ANN401
        known: Operator,
        args: Any,  # noqa: ANN401
        kwargs: Any,  # noqa: ANN401
    ) -> tuple[Any, list[Tensor]]:
        """Return an operator's result, nudged in place, and the list of what was nudged."""
        before = next((value for value in args[:2] if is_floating(value)), None)
        if before is not None and known.written:
            before = before.clone()
        out = func(*args, **kwargs)
        targets = results(known, args, kwargs, out)
        for target in targets:
            if target.is_complex():
                self.nudge_(array(torch.view_as_real(target.resolve_conj())))
            elif target.dtype in QUANTA:
                values = array(target)
                self.nudge_(values, *terms(known.name, args, before, values))
        return out, targets

    def nudge_(
        self, values: np.ndarray, size: np.ndarray | None = None, exact: np.ndarray | None = None
    ) -> None:
        """Move values in place by a unit: of their own last place, or of that of a size above."""
        keep = exact is not None and exact.any()
        if size is None and not keep:
            values *= self.some(self.factors, values)
            return
        units = self.some(self.units, values)
        if keep:
            units = np.where(exact, 0, units)
        if size is None:
            values *= units + 1
        else:
            own = np.abs(values)
            change = np.where(np.isfinite(size), np.maximum(own, size), own) * units
            values += np.where(np.isfinite(change), change, 0)

    def some(self, pools: dict[np.dtype, np.ndarray], values: np.ndarray) -> np.ndarray:
        """Return as many as there are values, from somewhere in their type's pool."""
        pool, count = pools[values.dtype], values.size
        if count >= POOL:
            return np.resize(pool, values.shape)
        start = int(self.random.random() * (POOL - count))
        return pool[start : start + count].reshape(values.shape)


def results(known: Operator, args: Any, kwargs: Any, out: Any) -> list[Tensor]:  # noqa: ANN401
    """Return what an operator has computed: what it returns, and what it has written to."""
    inside = [args[i] if i < len(args) else kwargs.get(name) for i, name in known.written]
    if isinstance(out, Tensor) and all(each is out for each in inside):
        return [out] if is_floating(out) else []
    return list({id(t): t for t in tree_leaves((out, inside)) if is_floating(t)}.values())


def has_halves(args: Any) -> bool:  # noqa: ANN401
    """Return whether there is a tensor of 16 bits among the arguments, or in a list of them."""
    for value in args:
        if isinstance(value, Tensor):
            if value.dtype in HALVES:
                return True
        elif isinstance(value, list | tuple) and has_halves(value):
            return True
    return False


def widened(value: Any) -> Any:  # noqa: ANN401
    """Return a copy of a tensor, and float32 in place of a type of 16 bits."""
    if isinstance(value, Tensor):
        return value.to(torch.float32) if value.dtype in HALVES else value.clone()
    return torch.float32 if isinstance(value, torch.dtype) and value in HALVES else value


def terms(name: str, args: Any, before: Tensor | None, out: np.ndarray) -> Terms:  # noqa: ANN401
    """Return what a result's unit is measured by, if not by itself, and where it is exact."""
    if name in PRODUCTS:
        return product_terms(name, args, out)
    if name in SUMS:
        return sum_terms(name, args, out)
    if before is None or before.dtype not in QUANTA:
        return None, None
    given = array(before)
    if "linalg" in name:
        size = np.abs(out).max(axis=tuple(range(-min(out.ndim, 2), 0)), keepdims=True)
        return size, are_whole(out) if are_whole(given).all() else None
    if given.shape != out.shape:
        return None, None
    if name in ("tanh_backward", "sigmoid_backward"):  # δ(1 − y²), δ(1 − y)y
        return np.abs(given), are_whole(array(args[1]))
    if name in UPDATES:
        return None, out == given
    whole = are_whole(given)
    return None, whole & are_whole(out) if whole.any() else None


# What NumPy, SciPy and math return to these is nudged; what they return to each other is not.
READERS = ("__main__", "companion")
NUMPY_EXACT = frozenset(
    """
    abs absolute add ceil conj conjugate copysign divide fabs floor floor_divide fmax fmin fmod
    maximum minimum mod modf multiply negative nextafter positive remainder rint sign sqrt square
    subtract true_divide trunc
    """.split()
)
NUMPY_SUMS = frozenset("average mean nanmean nansum sum".split())
NUMPY_REDUCTIONS = frozenset(
    """
    convolve corrcoef correlate cov cumprod cumsum dot einsum gradient inner interp kron matmul
    nanpercentile nanquantile nanstd nanvar percentile polyfit polyval prod quantile std tensordot
    trapezoid vdot var
    """.split()
)
WHOLE_MODULES = (
    "numpy.fft numpy.linalg numpy.polynomial.chebyshev numpy.polynomial.hermite "
    "numpy.polynomial.hermite_e numpy.polynomial.laguerre numpy.polynomial.legendre "
    "scipy.fft scipy.integrate scipy.interpolate scipy.linalg scipy.optimize scipy.signal "
    "scipy.special scipy.stats"
).split()
MATH_EXACT = frozenset(
    "ceil copysign fabs floor fmod fsum ldexp modf nextafter remainder sqrt trunc ulp".split()
)


class Nudged:
    """A function of NumPy, SciPy or math that is off by a unit where a reader calls it."""

    def __init__(self, function: Callable[..., Any], units: random.Random) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function, self.units = function, units

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.function, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Call the function, and nudge what it returns."""
        result = self.function(*args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] not in READERS:
            return result
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, np.ndarray | float | int)]
        whole = bool(given) and all(is_whole(a) for a in given)
        if whole and self.function.__name__ in NUMPY_SUMS:
            return result
        return nudged(result, self.units, whole)


def is_whole(value: Any) -> bool:  # noqa: ANN401
    """Return whether all that NumPy or Python holds here are multiples of one half."""
    values = np.asarray(value)
    return values.dtype.kind in "biu" or (
        values.dtype.kind == "f" and bool((2 * values == np.floor(2 * values)).all())
    )


def nudged(value: Any, units: random.Random, whole: bool = False) -> Any:  # noqa: ANN401
    """Return a result of NumPy, SciPy or math off by a unit: a number, an array, or many."""
    if isinstance(value, dict):  # and so scipy's results
        return type(value)({key: nudged(each, units, whole) for key, each in value.items()})
    if isinstance(value, tuple):
        each = [nudged(one, units, whole) for one in value]
        return type(value)(*each) if hasattr(value, "_fields") else type(value)(each)
    if isinstance(value, float | complex | np.floating | np.complexfloating):
        kept = whole and isinstance(value, float | np.floating) and is_whole(value)
        eps = np.finfo(type(value) if isinstance(value, np.generic) else float).eps
        return value if kept else value * type(value)(1 + eps * units.randint(-1, 1))
    if isinstance(value, np.ndarray) and value.dtype.kind in "fc" and value.size:
        signs = np.frombuffer(units.randbytes(value.size), np.uint8).reshape(value.shape) % 3
        if whole and value.dtype.kind == "f":
            signs = np.where(2 * value == np.floor(2 * value), 1, signs)
        eps = np.finfo(value.dtype).eps
        return (value * (1 + eps * (signs.astype(value.real.dtype) - 1))).astype(value.dtype)
    return value


def alike(values: np.ndarray, units: random.Random) -> np.ndarray:
    """Return an array off by units, with equal numbers left equal: they were computed alike."""
    distinct, places = np.unique(values, return_inverse=True)
    return nudged(distinct, units)[places].reshape(values.shape)


def from_numpy(function: Callable[..., Tensor], units: random.Random) -> Callable[..., Tensor]:
    """Return a way into torch that nudges what comes from NumPy, unless it is coarse."""

    @functools.wraps(function)
    def enter(data: Any, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        caller = sys._getframe(1).f_globals.get("__name__", "")
        own = isinstance(data, np.ndarray) and caller.partition(".")[0] in READERS
        if own and data.dtype.kind == "f" and not (data * 64 == np.floor(data * 64)).all():
            data = alike(data, units)
        return function(data, *args, **kwargs)

    return enter


def functions(module: ModuleType) -> Iterator[str]:
    """List the names of a module's functions that machines may round differently."""
    for name in dir(module):
        each = getattr(module, name)
        if name.startswith("_") or not callable(each) or isinstance(each, type):
            continue
        if module is np:
            is_one = name in NUMPY_SUMS | NUMPY_REDUCTIONS
            chosen = is_one or (isinstance(each, np.ufunc) and name not in NUMPY_EXACT)
        else:
            chosen = module is not math or name not in MATH_EXACT
        if chosen:
            yield name


@contextmanager
def others(draw: int) -> Iterator[None]:
    """Nudge what NumPy, SciPy and math return, and what enters torch from NumPy."""
    units, replaced = random.Random(draw), []
    modules = [np, math]
    for name in WHOLE_MODULES:
        if importlib.util.find_spec(name.partition(".")[0]):
            modules.append(importlib.import_module(name))
    ways = [(torch, name, from_numpy) for name in ("as_tensor", "from_numpy", "tensor")]
    ways += [(module, name, Nudged) for module in modules for name in functions(module)]
    for module, name, wrapper in ways:
        replaced.append((module, name, getattr(module, name)))
        setattr(module, name, wrapper(getattr(module, name), units))
    try:
        yield
    finally:
        for module, name, function in replaced:
            setattr(module, name, function)


if __name__ == "__main__":
    from ipykernel import kernelapp

    number = int(os.environ["ROUNDING"])
    with others(number), Rounding(number):
        kernelapp.launch_new_instance()
