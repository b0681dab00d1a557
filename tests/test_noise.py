"""The rounding noise is there where machines differ, and nowhere else."""

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import noise
import numpy as np
import pytest
import reruns
import scipy.linalg
import scipy.special
import torch
from helpers import normal
from nbformat.v4 import new_code_cell, new_notebook
from reruns import rerun, write_kernel
from torch import Tensor

A, B = normal(40, 30, seed=1), normal(30, 40, seed=2)
SQUARE = A[:30]
DIFFERENT = {
    "product": lambda: A @ B,
    "batch of products": lambda: torch.stack([A, A]) @ torch.stack([B, B]),
    "product with an offset": lambda: torch.nn.functional.linear(A, B.mT, A[:, 0]),
    "with a vector": lambda: A @ B[:, 0],
    "inner product": lambda: A[0] @ B[:, 0],
    "einsum": lambda: torch.einsum("ij,jk,ik->i", A, B, A @ B),
    "out": lambda: torch.mm(A, B, out=torch.empty(40, 40, dtype=torch.float64)),
    "sum": lambda: A.sum(0),
    "mean": lambda: A.mean(),
    "variance": lambda: A.var(0),
    "norm": lambda: A.norm(dim=1),
    "softmax": lambda: A.softmax(-1),
    "exp": lambda: A.exp(),
    "in place": lambda: A.clone().tanh_(),
    "in place, with a factor": lambda: A.clone().add_(B.mT, alpha=0.1),
    "power": lambda: A.abs().pow(0.3),
    "cumulative sum": lambda: A.cumsum(0),
    "convolution": lambda: torch.nn.functional.conv1d(
        A[None], B.mT[:, :, None].repeat(1, 2, 1)[:, :40]
    ),
    "singular values": lambda: torch.linalg.svdvals(A),
    "QR": lambda: torch.linalg.qr(A).R,
    "eigenvalues": lambda: torch.linalg.eigvals(SQUARE),
    "symmetric eigenvalues": lambda: torch.linalg.eigvalsh(SQUARE + SQUARE.mT),
    "solution": lambda: torch.linalg.solve(SQUARE, B),
    "determinant": lambda: torch.linalg.slogdet(SQUARE).logabsdet,
    "normal draws": lambda: normal(100, seed=3),
    "gradient": lambda: gradient(lambda w: (A @ w).tanh().square().sum(), B),
    "gradient of torch.func": lambda: torch.func.grad(lambda w: (A @ w).tanh().sum())(B),
    "Jacobian": lambda: torch.func.jacrev(lambda x: (SQUARE @ x).tanh())(B[:, 0]),
    "vmap": lambda: torch.func.vmap(lambda x: (SQUARE @ x).sigmoid())(A),
    "forward mode": lambda: torch.func.jvp(lambda x: x @ B, (A,), (A,))[1],
    "Hessian": lambda: torch.func.hessian(lambda x: (SQUARE @ x).tanh().sum())(B[:, 0]),
    "large singular values": lambda: 1e-20 * torch.linalg.svdvals(1e20 * A),
    "large sums": lambda: 1e-20 * (1e20 * A).cumsum(0),
    "exp of an integer": lambda: 1e-17 * torch.full((3,), 40.0, dtype=torch.float64).exp(),
    "norm of order 3": lambda: torch.linalg.vector_norm(WHOLE, 3),
    "complex absolute values": lambda: torch.complex(A, B.mT).abs(),
    "running mean": lambda: running_mean(),
    "normal draws near 0": lambda: normal(10_000, seed=4).abs().amin(),
    "an optimizer": lambda: optimized(torch.optim.Adam),
    "momentum": lambda: optimized(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
}
EPS = torch.finfo(torch.float64).eps
IDENTITY = torch.eye(30, dtype=torch.float64)
WHOLE = torch.arange(-6.0, 6.0, dtype=torch.float64)
SAME = {
    "+": lambda: A + B.mT,
    "- × ÷": lambda: (A - B.mT) * A / B.mT,
    "root": lambda: A.abs().sqrt(),
    "cast": lambda: A.to(torch.float32).to(torch.bfloat16),
    "views and copies": lambda: torch.cat([A.mT, B]).flip(0)[::2].clone(),
    "order": lambda: A.sort(0).values.relu().clamp(max=1).maximum(B.mT),
    "middle": lambda: A.median(0).values + A.amax(0),
    "sum of counts": lambda: (A > 0).double().sum(0),
    "share": lambda: (A > 0).double().mean(),
    "sum of quarters": lambda: (4 * A).round().div(4).sum(),
    "product of integers": lambda: (4 * A).round() @ (4 * B).round(),
    "identity": lambda: SQUARE @ IDENTITY,
    "one of each": lambda: torch.nn.functional.one_hot(torch.arange(30) % 7).double().mT @ B * 0.0,
    "a diagonal": lambda: torch.diag(B[:, 0]) @ SQUARE,
    "no term in common": lambda: torch.cat([A, 0 * A], 1) @ torch.cat([0 * B, B]),
    "sum of one term": lambda: (SQUARE * IDENTITY).sum(1) + A[:30, :1].sum(1),
    "functions of 0": lambda: torch.stack([f(0 * A) for f in (torch.exp, torch.tanh, torch.cos)]),
    "functions of integers": lambda: torch.stack([2.0 ** WHOLE.abs(), WHOLE.erf().round()]),
    "half": lambda: (0 * A).sigmoid(),
    "integers made": lambda: torch.stack([torch.arange(7.0), torch.linspace(0, 6, 7)]),
    "ends of a line": lambda: torch.linspace(-0.7, 0.7, 5, dtype=torch.float64)[::4].abs() * 0 + 1,
    "product of all": lambda: A[0, :9].abs().ceil().add(1).prod(),
    "trace": lambda: (4 * SQUARE).round().trace(),
    "ELU of what is positive": lambda: torch.nn.functional.elu(A.abs()),
    "gradient of rows": lambda: gradient(lambda w: (w[[0, 2]] * A[:2]).sum(), A),
    "gradient of an embedding": lambda: gradient(lambda w: w[torch.arange(3)].mul(A[:3]).sum(), A),
    "16 bits, halfway": lambda: torch.ones(8, 257, dtype=torch.bfloat16).sum(1),
    "itself": lambda: (A @ B) - (A @ B) + normal(40, 40, seed=3) - normal(40, 40, seed=3),
    "a step along nothing": lambda: A.clone().add_(torch.zeros_like(A), alpha=0.1),
    "slope at rest": lambda: gradient(lambda x: x.tanh().sum(), 0 * A),
    "uniform draws": lambda: torch.rand(9, generator=torch.Generator().manual_seed(0)),
    "a gradient of one term": lambda: gradient(lambda x: (x * B.mT).sum(), A),
    "infinite": lambda: torch.full((3,), 1e308, dtype=torch.float64).mul(10).exp(),
}


def running_mean() -> Tensor:
    norm = torch.nn.BatchNorm1d(30, dtype=torch.float64)
    norm(A)
    return norm.running_mean


def gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.clone().requires_grad_()
    function(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


def optimized(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> Tensor:
    leaf = B.clone().requires_grad_()
    optimizer = make([leaf])
    for _ in range(3):
        optimizer.zero_grad()
        (A * 1.0).mul(leaf.mT).square().mul(0.5).amax().backward()
        optimizer.step()
    return leaf.detach()


def under(draw: int, function: Callable[[], Tensor]) -> Tensor:
    with noise.Rounding(draw):
        return function()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # forward mode uses it
@pytest.mark.parametrize("name", DIFFERENT)
def test_what_machines_round_differently_differs_in_the_last_places(name: str) -> None:
    function = DIFFERENT[name]
    first, again = under(1, function), under(1, function)
    assert torch.equal(first, again)
    # A single number is left alone by one draw in three.
    others = [under(draw, function) for draw in (2, 3, 4, 5)]
    assert any(not torch.equal(first, other) for other in others)
    assert any(not torch.equal(function(), other) for other in others)
    for other in others:
        torch.testing.assert_close(first, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SAME)
def test_what_machines_agree_on_is_left_as_it_is(name: str) -> None:
    function = SAME[name]
    for draw in (1, 2, 3):
        torch.testing.assert_close(under(draw, function), function(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_nudge_is_a_unit_and_goes_either_way(dtype: torch.dtype) -> None:
    values = A.abs().to(dtype)
    moved = ((under(1, values.exp) / values.exp()).double() - 1) / torch.finfo(dtype).eps
    assert moved.abs().max() <= 1.5  # a product, rounded in its turn
    for share in (moved < -0.4, moved.abs() <= 0.4, moved > 0.4):
        assert 0.28 < share.double().mean() < 0.39


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_are_accumulated_in_32(dtype: torch.dtype) -> None:
    a, b = normal(1000, 99, seed=1).to(dtype), normal(99, 1000, seed=2).to(dtype)
    plain, noisy = (a.float() @ b.float()).to(dtype), under(1, lambda: a @ b)
    moved = plain != noisy
    # A unit of float32 moves only what lies that near to the middle between two numbers.
    assert 0 < moved.double().mean() < 0.02
    assert ((plain - noisy).abs() <= torch.finfo(dtype).eps * plain.abs() + 1e-5).all()


def test_a_sum_that_cancels_is_off_by_a_unit_of_its_terms() -> None:
    pairs = torch.cat([A, -A]).flatten()
    assert 0 < max(abs(under(draw, pairs.sum).item()) for draw in range(1, 5)) < 1e-12
    orthogonal = torch.tensor([[0.3, -0.3]], dtype=torch.float64) @ A[:2, :1].expand(2, 20)
    assert orthogonal.eq(0).logical_not().sum() == 20
    flat = torch.full((2, 20), 0.7, dtype=torch.float64)
    across = torch.tensor([[0.3, -0.3]], dtype=torch.float64)
    assert (across @ flat == 0).all()
    cancelled = under(1, lambda: across @ flat)
    assert 0 < cancelled.abs().max() < 1e-15


CANCELLING = {
    "of one product": lambda: torch.linalg.qr(A)[0][:, :1].mT @ torch.linalg.qr(A)[0][:, 11:12],
    "gradient of a loss near 0": lambda: gradient(
        lambda w: torch.nn.functional.cross_entropy(w, torch.arange(30)), 20 * IDENTITY
    ).diagonal(),
    "loss near 0": lambda: torch.nn.functional.cross_entropy(20 * IDENTITY, torch.arange(30)),
    "batch norm": lambda: torch.nn.functional.batch_norm(A + 1e6, None, None, training=True),
    "layer norm": lambda: torch.nn.functional.layer_norm(A + 1e6, (30,)),
    "sum with a factor": lambda: (0.3 * (A + 2)).add(A + 2, alpha=-0.3),
    "running sum": lambda: torch.cat([A, -A]).cumsum(0)[-1],
    "points of a line": lambda: torch.linspace(-0.7, 0.9, 321, dtype=torch.float64)[140:141],
}


@pytest.mark.parametrize("name", CANCELLING)
def test_what_cancels_within_an_operator_is_off_by_a_unit_of_its_terms(name: str) -> None:
    function = CANCELLING[name]
    plain = function()
    moved = max((under(draw, function) - plain).abs().max().item() for draw in range(1, 5))
    own = plain.abs().max().item() * EPS
    assert moved > 10 * own
    assert moved < 1e-8


def test_nothing_leaves_the_range_of_its_function() -> None:
    large = torch.linspace(15.3, 40.3, 99, dtype=torch.float64)
    for function in (torch.tanh, torch.sigmoid, lambda x: torch.softmax(torch.diag(x), -1)):
        results = [under(draw, lambda f=function: f(large)) for draw in range(1, 5)]
        assert max(each.max() for each in results) == 1
    for function in (torch.tanh, torch.sigmoid):
        slopes = under(1, lambda f=function: gradient(lambda x: f(x).sum(), large))
        assert torch.equal(slopes, slopes.abs())
    ones = torch.ones_like(large)
    under(1, lambda: torch.nn.functional.binary_cross_entropy(large.sigmoid(), ones))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.log_softmax(-1),
        lambda x: x.logsumexp(-1),
        lambda x: x.abs().pow(2.3),
        lambda x: torch.nn.functional.batch_norm(x, None, None, training=True),
    ],
)
def test_16_bits_differ_as_seldom_as_units_of_32_make_them(function: Callable) -> None:
    values = normal(300, 99, seed=1).to(torch.bfloat16)
    moved = under(1, lambda: function(values)) != function(values)
    assert moved.double().mean() < 0.02


def test_a_recurrent_network_is_off_at_each_step() -> None:
    network = torch.nn.LSTM(3, 20)
    with torch.no_grad():
        network.weight_hh_l0.mul_(20)
        outputs, (last, _) = network(normal(80, 1, 3, seed=1).float())
        noisy, (end, _) = under(1, lambda: network(normal(80, 1, 3, seed=1).float()))
    assert torch.equal(noisy[-1], end[0])
    assert torch.equal(outputs[-1], last[0])
    assert (noisy[1] - outputs[1]).abs().max() < 1e-6
    assert (noisy[-1] - outputs[-1]).abs().max() > 1e-5


def test_what_the_noise_cannot_reach_runs_and_warnings_stay() -> None:
    with noise.Rounding(1), pytest.warns(RuntimeWarning, match="divide by zero"):
        np.log(np.zeros(1))
    sparse = (SQUARE * (SQUARE > 1)).to_sparse()
    under(1, lambda: sparse @ A[:30] + sparse.sum())
    assert under(1, lambda: torch.randn(3, device="meta")).device.type == "meta"
    with np.errstate(all="raise"):
        assert under(1, lambda: torch.full((3,), -730.3, dtype=torch.float64).exp()).max() < 1e-300


def test_a_small_sum_beside_large_ones_is_off_by_a_unit_of_its_own_terms() -> None:
    scales = torch.logspace(0, -60, 30, dtype=torch.float64)
    small = under(1, lambda: torch.outer(scales, A[:30, 0]) @ B.abs())
    plain = torch.outer(scales, A[:30, 0]) @ B.abs()
    torch.testing.assert_close(small, plain, rtol=1e-12, atol=0)
    assert (small != plain).any(1).sum() > 25


def test_small_singular_values_are_off_by_a_unit_of_the_largest() -> None:
    rank_one = A[:, :1] @ B[:1]
    with_noise = under(1, lambda: torch.linalg.svdvals(rank_one))
    assert with_noise[0] > 10
    assert with_noise[5:].std() > 1e-16


def test_what_is_not_finite_stays_so() -> None:
    values = torch.tensor([math.inf, -math.inf, math.nan, 1e308], dtype=torch.float64)
    large = torch.full((8, 8), 1e300, dtype=torch.float64)
    assert under(1, lambda: large @ large).isinf().all()  # and nothing warns
    assert under(1, lambda: (large * 1e9).sum()).isinf()
    for function in (torch.exp, torch.tanh, lambda x: torch.outer(x, A[0])):
        torch.testing.assert_close(
            under(1, lambda f=function: f(values).isfinite()), function(values).isfinite()
        )


@pytest.mark.parametrize("draw", range(4))
def test_a_sum_whose_squares_overflow_is_off_by_a_unit(draw: int) -> None:
    large = 1e200 * A.abs()
    for plain in (lambda: large.mean(), lambda: (large @ (1e-190 * B.abs())).sum(), large.norm):
        assert torch.allclose(under(draw, plain), plain(), rtol=1e-15, atol=0)


def test_the_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(under(1, lambda: (A @ B, torch.rand(3))[1]), expected)


@pytest.fixture(scope="module")
def called() -> Iterator[Callable[[str, str], list[np.ndarray]]]:
    """What an expression gives, under six draws, where a module of some name evaluates it."""

    def evaluate(code: str, name: str) -> list[np.ndarray]:
        space = {"__name__": name, "np": np, "math": math, "torch": torch, "scipy": scipy}
        found = []
        for draw in range(1, 7):
            with noise.others(draw):
                found.append(np.asarray(eval(code, space)).copy())
                np.testing.assert_array_equal(eval(code, space), found[-1])
        return found

    yield evaluate
    assert isinstance(np.exp, np.ufunc)
    assert not hasattr(math.exp, "function")


CALLS = [
    "np.exp(np.array([0.3, 0.7]))",
    "np.array([0.1, 0.2, 0.7]).dtype.type(1) * np.mean(np.array([0.1, 0.2, 0.7]))",
    "np.linalg.svd(np.array([[0.3, 0.4], [0.1, 0.7]]))[1]",
    "np.linalg.eigh(np.array([[0.3, 0.4], [0.4, 0.7]])).eigenvalues",
    "np.polynomial.legendre.leggauss(7)[0]",
    "scipy.special.erf(0.3)",
    "scipy.linalg.expm(np.array([[0.3, 0.4], [0.1, 0.7]]))",
    "math.exp(0.3)",
    "torch.from_numpy(np.array([0.1, 0.7]))",
]


@pytest.mark.parametrize("code", CALLS)
def test_numpy_scipy_and_math_are_nudged_for_readers(
    code: str, called: Callable[[str, str], list[np.ndarray]]
) -> None:
    outside = called(code, "somebody.else")
    assert all(np.array_equal(each, outside[0]) for each in outside)
    for name in ("__main__", "companion.meanfield"):
        inside = called(code, name)
        assert not all(np.array_equal(each, outside[0]) for each in inside)
        assert all(np.allclose(each, outside[0], rtol=1e-14, atol=1e-15) for each in inside)


def test_equal_numbers_enter_torch_as_equal_numbers(
    called: Callable[[str, str], list[np.ndarray]],
) -> None:
    for each in called("torch.as_tensor(np.array([[0.1, 0.7], [0.7, 0.1]]))", "__main__"):
        assert each[0, 0] == each[1, 1]
        assert each[0, 1] == each[1, 0]


def test_a_sum_of_numpys_that_cancels_and_small_eigenvalues_are_off_by_a_unit_of_the_largest(
    called: Callable[[str, str], list[np.ndarray]],
) -> None:
    for code in (
        "np.sum(np.array([0.1, 0.2, -0.3]))",
        "np.linalg.eigvalsh(np.full((3, 3), 0.1))[:2]",
        "scipy.linalg.svdvals(np.full((3, 3), 0.1))[1:]",
    ):
        found = np.array(called(code, "__main__"))
        assert 1e-18 < np.ptp(found, axis=0).max() < 1e-15, code


@pytest.mark.parametrize("code", ["math.tanh(20.3)", "np.sin(np.full(9, 1.5707963267948966))"])
def test_what_numpy_and_math_return_stays_within_one(
    code: str, called: Callable[[str, str], list[np.ndarray]]
) -> None:
    assert np.max(np.abs(called(code, "__main__"))) == 1
    assert np.min(np.abs(called(code, "__main__"))) < 1


@pytest.mark.parametrize(
    "code",
    [
        "np.mean(np.array([1.0, 0.0, 1.0]))",
        "np.sum(np.array([0.5, 2.5, 1.0]))",
        "np.sqrt(np.array([0.3, 0.7]))",
        "np.exp(np.zeros(2))",
        "np.arange(3.0)",
        "math.log2(8)",
        "math.sqrt(0.3)",
        "math.cos(0)",
        "torch.from_numpy(np.array([0.25, 16.0]))",
        "torch.as_tensor(np.arange(3))",
    ],
)
def test_what_is_exact_in_numpy_and_math_stays_exact(
    code: str, called: Callable[[str, str], list[np.ndarray]]
) -> None:
    outside = called(code, "somebody.else")
    assert all(np.array_equal(each, outside[0]) for each in called(code, "__main__"))


SIXTEENTH = {
    "forward": "x.exp().tolist()",
    "backward": "torch.autograd.grad(w.exp().square().sum(), w)[0].tolist()",
    "float32": "(x.float().reshape(50, -1) @ x.float().reshape(-1, 50)).tolist()",
    "bfloat16": "(h[:2000].view(-1, 2) @ h[:2000].view(2, -1)).flatten().tolist()[::7]",
    "func": "torch.func.grad(lambda v: v.tanh().sum())(x).tolist()",
    "numpy": "np.exp(np.array([0.3, 0.7, 0.9, 1.1, 1.3])).tolist()",
    "lapack": "torch.linalg.svdvals(x.reshape(50, -1)).tolist()",
    "numpy_lapack": "np.linalg.svd(x.numpy().reshape(50, -1))[1].tolist()",
    "scipy": "scipy.special.erf(np.array([0.3, 0.7, 0.9, 1.1, 1.3])).tolist()",
    "math": "[math.exp(k / 7) for k in range(9)]",
}


def test_a_cell_that_prints_the_sixteenth_digit_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (
        "import math, numpy as np, scipy.special, torch\n"
        "x = torch.linspace(0.1, 1.7, 9900, dtype=torch.float64)\n"
        "w, h = x.clone().requires_grad_(), x.bfloat16()"
    )
    cells = [new_code_cell(first, id="first")]
    cells += [new_code_cell(f"print({code})", id=name) for name, code in SIXTEENTH.items()]
    cells += [new_code_cell(f"print(f'{{x.exp().mean():.{n}f}}')", id=f"n{n}") for n in (3, 9)]
    cells += [new_code_cell("print((x > 1).double().mean().item(), (x - x).sum().item())", id="is")]
    path = tmp_path / "chapter.ipynb"
    write_kernel(tmp_path, "plain", Path(sys.executable))
    write_kernel(tmp_path, "noisy", Path(sys.executable), draw=1)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    nbformat.write(new_notebook(cells=cells), path)
    notebook = nbformat.read(path, as_version=4)
    reruns.execute(notebook, tmp_path, "plain")
    nbformat.write(notebook, path)
    ran = rerun(path, tmp_path, "noisy")
    changed = {cell for cell, text in ran.stored.items() if ran.found[cell] != text}
    assert changed == set(SIXTEENTH)
    assert f"stored | {ran.stored['forward'][0][1].strip()}" in ran.differences()
    assert "code cell 1 (forward)" in ran.differences()
    assert "(forward)" not in ran.differences(skip=2)
