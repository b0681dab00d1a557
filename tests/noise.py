"""Arithmetic that rounds as another machine's would: off by a unit in the last place, at random.

`Rounding(draw)` is a mode of torch under which every result that machines may round differently
comes out a unit in the last place off: products, sums, means, norms, decompositions, elementary
functions, normal draws; forward and backward, under autograd and under torch.func. `others(draw)`
does the same to what NumPy, SciPy and Python's `math` return to a chapter or to the companion, and
to what enters torch from NumPy.

What every machine agrees on is left as it is: + − × ÷ √ element by element, comparisons, copies,
casts, uniform draws; sums and products of integers (and of halves, quarters, ...); a sum that has a
single term; an integer that a function makes of integers. So what is exact by construction keeps
its digits. What cancels is off by a unit of its terms: a zero that comes about so is a zero to
rounding. What has 16 bits is off by a unit of float32, in which it is accumulated, before it is
rounded to 16. Nothing leaves the range of its function, and a machine agrees with itself: equal
results of an operator are off by the same units.

Out of reach, since nothing can stand between: operators and methods of NumPy's arrays and of
Python's numbers (`a @ b`, `a.sum()`, `x**0.3`), and what runs on other threads.

As a program, `python -P tests/noise.py -f CONNECTION`, this is a kernel with that arithmetic. The
environment variable ROUNDING is the number of the draw.
"""

import functools
import importlib
import importlib.util
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

POOL = 1 << 19  # units at hand; what needs more takes them again
SAMPLE = 16  # numbers of a result that decide which units it takes
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
# These are rounded once for real numbers only.
COMPLEX = frozenset("abs div mul reciprocal sgn sqrt square".split())
UPDATES = frozenset("add addcdiv addcmul lerp rsub sub".split())
SUMS = frozenset({"sum", "mean", "linalg_vector_norm"})
DRAWS = frozenset("normal randn randn_like normal_functional".split())
NORMS = frozenset(
    """
    native_batch_norm native_batch_norm_legit native_batch_norm_legit_functional
    batch_norm_with_update batch_norm_with_update_functional native_layer_norm
    native_batch_norm_backward batch_norm_backward native_layer_norm_backward
    """.split()
)
# What is at most 1 in size on every machine.
BOUNDED = frozenset("cos cosdg erf expit ndtr sigmoid sin sindg softmax tanh".split())
# Where the first factor of a product stands among the arguments.
PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "vdot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}


class Operator(NamedTuple):
    """What is looked up of an operator of torch."""

    name: str
    """Without namespace, overload, and the marks of being in place."""
    number: int
    """The name as a number."""
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
    number = zlib.crc32(name.encode())
    return Operator(name, number, is_view or name in EXACT, drawn, written)


def is_floating(value: object) -> bool:
    """Return whether this is a tensor with floating-point or complex numbers in it."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.numel() == 0:
        return False
    if value.device.type != "cpu":
        return False
    return value.is_floating_point() or value.is_complex()


def array(values: Tensor) -> np.ndarray:
    """Return a tensor's numbers as NumPy sees them, in place; on small ones it is much quicker."""
    if values._is_zerotensor():
        values = values.clone()
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
    if quantum is None or not is_floating(terms):
        return not (terms.is_floating_point() or terms.is_complex())
    values = array(terms)
    coarse = are_multiples(values, quantum)
    return coarse and bool(np.abs(values).sum() * torch.finfo(terms.dtype).eps < quantum)


def multiplies_exactly(a: Tensor, b: Tensor) -> bool:
    """Return whether the terms of a matrix product are so coarse that it is exact."""
    quantum = QUANTA.get(a.dtype)
    if quantum is None or not (is_floating(a) and is_floating(b)):
        return not (a.is_floating_point() or a.is_complex())
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
    if name == "linalg_vector_norm":
        order = args[1] if len(args) > 1 else kwargs.get("ord", 2)
        if abs(order) in (0, math.inf):
            return True
        return order in (1, 2) and sums_exactly(args[0] if order == 1 else args[0] * args[0])
    if name in SUMS:
        return sums_exactly(args[0])
    if name in PRODUCTS:
        return multiplies_exactly(*args[PRODUCTS[name] : PRODUCTS[name] + 2])
    return False


def product_terms(name: str, args: Any, out: np.ndarray) -> Terms:  # noqa: ANN401
    """Return the typical size of a sum of the terms, and which sums have no two of them."""
    factors = args[PRODUCTS[name] : PRODUCTS[name] + 2]
    if not all(is_floating(factor) for factor in factors):
        return None, None
    a, b = (array(factor) for factor in factors)
    a, b = (a if a.ndim > 1 else a[None]), (b if b.ndim > 1 else b[:, None])  # (n, k), (k, m)
    squares = np.square(a, dtype=np.float64) @ np.square(b, dtype=np.float64)
    size = np.sqrt(squares).astype(out.dtype).reshape(out.shape)
    left, right = np.count_nonzero(a, axis=-1), np.count_nonzero(b, axis=-2)
    fewest = min((each[each > 0].min() if each.any() else 0) for each in (left, right))
    most = max(left.max(), right.max())
    if fewest > 1 and (fewest == most == a.shape[-1] or left.min() + right.min() - a.shape[-1] > 1):
        return size, None  # any two rows have at least two terms in common, or none
    return size, (((a != 0).astype(np.float32) @ (b != 0)) <= 1).reshape(out.shape)


def sum_terms(name: str, args: Any, out: np.ndarray) -> Terms:  # noqa: ANN401
    """Return the typical size of a sum of the terms, and which sums have no two of them."""
    if not is_floating(args[0]):
        return None, None
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
    """Return which numbers are halves of integers, but for those too large for anything else."""
    doubled = values + values
    small = np.abs(values) * np.finfo(values.dtype).eps < 2**-6
    return small & (np.rint(doubled) == doubled)


def is_diagonal(matrices: np.ndarray) -> bool:
    """Return whether all numbers off the diagonals are 0."""
    diagonals = np.diagonal(matrices, axis1=-2, axis2=-1) if matrices.ndim > 1 else matrices
    return np.count_nonzero(matrices) == np.count_nonzero(diagonals)


def norm_terms(name: str, args: Any, out: Any) -> Tensor | None:  # noqa: ANN401
    """Return the size of what is subtracted when batches or layers are normalized, or going back.

    Going forward it is the mean, in units of the result; back, it is what arrives from above.
    """
    is_batch, back = "batch" in name, name.endswith("backward")
    values = args[0] if back else out[0]
    if back:
        mean, scale, weight = (args[5], args[6], args[2]) if is_batch else (*args[3:5], args[5])
    else:
        mean, scale, weight = out[1], out[2], args[1] if is_batch else args[2]
    if not isinstance(scale, Tensor) or scale.numel() == 0 or values is None:
        return None
    if is_batch:
        shape = (1, -1, *[1] * (values.ndim - 2))
        mean, scale = mean.reshape(shape), scale.reshape(shape)
        weight = weight if weight is None else weight.reshape(shape)
    size = (values if back else mean).abs() * scale
    return size if weight is None else size * weight.abs()


def landings(name: str, args: Any) -> Tensor | None:  # noqa: ANN401
    """Return how many terms come together at each place where numbers are added up by index."""
    if name in ("index_put", "index_put_impl"):
        ones = torch.ones_like(args[2])
        return torch.ops.aten.index_put(torch.zeros_like(args[0]), args[1], ones, True)
    if name in ("index_add", "scatter_add"):
        function = getattr(torch, name)
        return function(torch.zeros_like(args[0]), *args[1:3], torch.ones_like(args[3]))
    if name == "embedding_dense_backward":
        return torch.ops.aten.embedding_dense_backward(torch.ones_like(args[0]), *args[1:])
    return None


# Whether there are such kernels, and how to switch them; torch.backends.mkldnn.flags warns.
FUSED = {
    "oneDNN": (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
    "attention": (
        torch.backends.mha.get_fastpath_enabled,
        torch.backends.mha.set_fastpath_enabled,
    ),
}


class Rounding(TorchDispatchMode):
    """Rounds as another machine would; each draw is another such machine."""

    def __init__(self, draw: int) -> None:
        super().__init__()
        self.draw = draw
        signs = torch.randint(-1, 2, (POOL,), generator=torch.Generator().manual_seed(draw))
        units = [(signs.to(dtype) * torch.finfo(dtype).eps).numpy() for dtype in QUANTA]
        self.units = {each.dtype: each for each in units}
        self.factors = {each.dtype: each + 1 for each in units}
        self.known: dict[int, Operator] = {}  # by identity: to hash an operator takes longer

    def __enter__(self) -> "Rounding":
        """Begin. Kernels that do many steps at once would hide them, and are done without."""
        self.stack = ExitStack()
        for was, switch in FUSED.values():
            self.stack.callback(switch, was())
            switch(False)
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        """End."""
        super().__exit__(*raised)
        self.stack.close()

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
        if known.agreed and not (known.name in COMPLEX and any_complex(args)):
            return func(*args, **kwargs)
        with np.errstate(all="ignore"):  # what overflows here has done so before
            if known.drawn or not has_halves(args):
                if is_exact(known.name, args, kwargs):
                    return func(*args, **kwargs)
                return self.run(func, known, args, kwargs)[0]
            return self.run_wide(func, known, args, kwargs)

    def run_wide(
        self,
        func: Any,  # noqa: ANN401
        known: Operator,
        args: Any,  # noqa: ANN401
        kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Nudge what has 16 bits as it was in 32, where that is how it was computed."""
        wide, options = tree_map(widened, (args, kwargs))
        if is_exact(known.name, wide, options):
            return func(*args, **kwargs)
        _, nudged, plain = self.run(func, known, wide, options, keep=True)
        out = func(*args, **kwargs)
        for target, better, before in zip(
            results(known, args, kwargs, out), nudged, plain, strict=True
        ):
            if target.dtype in HALVES:
                alike = before.to(target.dtype) == target
                target.copy_(torch.where(alike, better.to(target.dtype), target))
        return out

    def run(
        self,
        func: Any,  # noqa: ANN401
        known: Operator,
        args: Any,  # noqa: ANN401
        kwargs: Any,  # noqa: ANN401
        *,
        keep: bool = False,
    ) -> tuple[Any, list[Tensor], list[Tensor]]:
        """Return an operator's result, nudged in place, what was nudged, and what it had been."""
        before = next((value for value in args[:2] if is_floating(value)), None)
        if before is not None and known.written:
            before = before.clone()
        counted = landings(known.name, args)
        out = func(*args, **kwargs)
        targets = results(known, args, kwargs, out)
        plain = [target.clone() for target in targets] if keep else []
        size = norm_terms(known.name, args, out) if known.name in NORMS else None
        if known.name == "native_batch_norm" and args[5]:  # its schema does not say so
            targets += [running for running in args[3:5] if is_floating(running)]
        for target in targets:
            if target.is_complex():
                self.nudge_(known, array(torch.view_as_real(target.resolve_conj())))
            elif target.dtype in QUANTA:
                values = array(target)
                if counted is not None:
                    found = None, array(counted) <= 1
                elif size is not None and target.shape == args[0].shape:
                    found = array(size), None
                else:
                    found = terms(known.name, args, before, values)
                self.nudge_(known, values, *found)
        return out, targets, plain

    def nudge_(
        self,
        known: Operator,
        values: np.ndarray,
        size: np.ndarray | float | None = None,
        exact: np.ndarray | None = None,
    ) -> None:
        """Move values in place by a unit: of their own last place, or of that of a size above."""
        keep = exact is not None and exact.any()
        if size is None and not keep and known.name not in BOUNDED:
            values *= self.some(self.factors, known, values)
            return
        units = self.some(self.units, known, values)
        if keep:
            units = np.where(exact, 0, units)
        own = np.abs(values)
        if known.name in BOUNDED:
            units = np.where(own >= 1, -np.abs(units), units)
        if size is None:
            values *= units + 1
            return
        change = np.where(np.isfinite(size), np.maximum(own, size), own) * units
        if known.name in SLOPES:
            change = np.clip(change, -own, own)
        values += np.where(np.isfinite(change), change, 0)

    def some(
        self, pools: dict[np.dtype, np.ndarray], known: Operator, values: np.ndarray
    ) -> np.ndarray:
        """Return as many as there are values, from a place in the pool that these decide."""
        pool, count = pools[values.dtype], values.size
        flat = values.reshape(-1) if values.flags.c_contiguous else values.flat
        seen = np.asarray(flat[:: 1 + count // SAMPLE])
        start = zlib.crc32(seen.tobytes(), known.number + self.draw) % (POOL // 2)
        if count > POOL // 2:
            return np.resize(np.roll(pool, -start), values.shape)
        return pool[start : start + count].reshape(values.shape)


def any_complex(args: Any) -> bool:  # noqa: ANN401
    """Return whether there is a complex tensor among the arguments."""
    return any(isinstance(value, Tensor) and value.is_complex() for value in args)


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
    if name in DRAWS:
        return np.abs(out).mean(), None
    if name == "linspace":
        return np.abs(out).max(), are_whole(out)
    if before is None or before.dtype not in QUANTA:
        return None, are_whole(out) if before is None else None
    given = array(before)
    if "linalg" in name:
        size = np.abs(out).max(axis=tuple(range(-min(out.ndim, 2), 0)), keepdims=True)
        return size, are_whole(out) if is_diagonal(given) else None
    if given.shape != out.shape:
        return None, are_whole(out) if are_whole(given).all() else None
    if name in SLOPES:
        return np.abs(given), are_whole(array(args[1]))
    if name in UPDATES:
        return np.abs(given), out == given
    if name == "log_softmax_backward_data":
        return np.abs(given), None
    if name == "softmax_backward_data":
        return np.abs(given * array(args[1])), None
    if name == "log_softmax":
        return np.where(out == 0, 0, 1).astype(out.dtype), None
    if name == "cumsum":
        return np.sqrt(np.square(given).cumsum(args[1])), out == given
    return None, (out == given) | (are_whole(given) & are_whole(out))


# δ(1 − y²) and δ(1 − y)y: on no machine below 0.
SLOPES = frozenset({"tanh_backward", "sigmoid_backward"})

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

    def __init__(self, function: Callable[..., Any], draw: int) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function, self.draw = function, draw
        self.name = getattr(function, "__name__", "")
        self.bounded = self.name in BOUNDED
        self.of_all = "linalg" in str(getattr(function, "__module__", ""))

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
        if whole and self.name in NUMPY_SUMS:
            return result
        return self.nudged(result, whole, self.size(args))

    def size(self, args: Any) -> float:  # noqa: ANN401
        """Return what the unit of a whole sum is measured by, in which terms may cancel."""
        terms = args[0] if args else None
        if self.name not in NUMPY_SUMS or not isinstance(terms, np.ndarray):
            return 0.0
        total = (
            float(np.sqrt(np.square(terms, dtype=float).sum())) if terms.dtype.kind == "f" else 0
        )
        return total if self.name.endswith("sum") else total / max(terms.size, 1)

    def nudged(self, value: Any, whole: bool, size: float) -> Any:  # noqa: ANN401
        """Return a result off by a unit: a number, an array, or many."""
        if isinstance(value, dict):  # and so scipy's results
            return type(value)({key: self.nudged(each, whole, size) for key, each in value.items()})
        if isinstance(value, tuple):
            each = [self.nudged(one, whole, size) for one in value]
            return type(value)(*each) if hasattr(value, "_fields") else type(value)(each)
        if isinstance(value, float | complex | np.floating | np.complexfloating):
            kept = whole and isinstance(value, float | np.floating) and is_whole(value)
            of = type(value) if isinstance(value, np.generic) else None
            moved = self.moved(np.asarray(value, of), size)
            return value if kept else moved[()] if of else moved.item()
        if isinstance(value, np.ndarray) and value.dtype.kind in "fc" and value.size:
            moved = self.moved(value, np.abs(value).max() if self.of_all else size)
            kept = whole and value.dtype.kind == "f"
            return np.where(are_whole(value), value, moved) if kept else moved
        return value

    def moved(self, values: np.ndarray, size: float) -> np.ndarray:
        """Return values off by a unit of their own, or of that of a size above."""
        units = np.finfo(values.dtype).eps * signs(values, self.draw).astype(values.real.dtype)
        own = np.abs(values)
        if self.bounded:
            units = np.where(own >= 1, -np.abs(units), units)
        if not size:
            return (values * (1 + units)).astype(values.dtype)
        return (values + np.maximum(own, size) * units).astype(values.dtype)


def is_whole(value: Any) -> bool:  # noqa: ANN401
    """Return whether all that NumPy or Python holds here are multiples of one half."""
    if isinstance(value, int):
        return True
    values = np.asarray(value)
    if values.dtype.kind != "f":
        return values.dtype.kind in "biu"
    first = values[(0,) * values.ndim] if values.size else 0.0  # most are found out by it
    return bool(2 * first == np.rint(2 * first)) and bool(are_whole(values).all())


def signs(values: np.ndarray, draw: int) -> np.ndarray:
    """Return −1, 0 or 1 for each number, the same for equal ones: a machine agrees with itself."""
    bits = np.array(values.real, dtype=np.float64, ndmin=1).view(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift)) ^ np.uint64(draw)) * np.uint64(factor)
    return ((bits >> np.uint64(33)) % np.uint64(3)).reshape(values.shape).astype(np.int8) - 1


def from_numpy(function: Callable[..., Tensor], draw: int) -> Callable[..., Tensor]:
    """Return a way into torch that nudges what comes from NumPy, unless it is coarse."""

    @functools.wraps(function)
    def enter(data: Any, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        caller = sys._getframe(1).f_globals.get("__name__", "")
        own = isinstance(data, np.ndarray) and caller.partition(".")[0] in READERS
        if own and data.dtype.kind == "f" and not (data * 64 == np.floor(data * 64)).all():
            data = data * (1 + np.finfo(data.dtype).eps * signs(data, draw).astype(data.dtype))
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
    replaced = []
    modules = [np, math]
    for name in WHOLE_MODULES:
        if importlib.util.find_spec(name.partition(".")[0]):
            modules.append(importlib.import_module(name))
    ways = [(torch, name, from_numpy) for name in ("as_tensor", "from_numpy", "tensor")]
    ways += [(module, name, Nudged) for module in modules for name in functions(module)]
    for module, name, wrapper in ways:
        replaced.append((module, name, getattr(module, name)))
        setattr(module, name, wrapper(getattr(module, name), draw))
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
