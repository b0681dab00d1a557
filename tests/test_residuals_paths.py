"""Paths through a residual network: they sum to autograd's gradient, by a binomial law."""

import math
from itertools import combinations

import pytest
import torch
from helpers import four_errors, normal, reproducible, same, within
from hypothesis import given
from hypothesis import strategies as st
from torch.func import jacrev

from companion.residuals import ORDERS, Design, networks
from companion.residuals.paths import (
    branch_jacobians,
    by_length,
    every_path,
    predicted_shares,
    shares,
)

SETTINGS = [
    {"order": "weight_first"},
    {"norm": "layer", "activation": "gelu", "branch_layers": 1},
    {"norm": "batch", "activation": "tanh"},
    {"branch_scale": -0.7, "activation": "tanh", "order": "weight_first"},
]


@pytest.mark.breaks(
    "companion/residuals/paths.py",
    "for jacobian in reversed(jacobians):\n        found",
    "for jacobian in jacobians:\n        found",
)
@pytest.mark.breaks(
    "companion/residuals/paths.py",
    "for jacobian in reversed(_checked(jacobians, gradient)):",
    "for jacobian in _checked(jacobians, gradient.mT):",
)
@pytest.mark.breaks("companion/residuals/paths.py", "jacrev(block.residual)(x)", "jacrev(block)(x)")
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_paths_sum_to_autograds_jacobian(setting: dict) -> None:
    (model,) = networks(Design("residual", 12, width=3, **setting))
    x = normal(4 if setting.get("norm") == "batch" else 1, 3)
    size = x.numel()
    expected = jacrev(model)(x).detach().reshape(size, size)
    jacobians = branch_jacobians(model, x)
    paths = every_path(jacobians, torch.eye(size, dtype=torch.float64))
    assert paths.gradients.shape == (2**12, size, size)
    scale = expected.abs().max()
    assert (paths.gradients.sum(0) - expected).abs().max() < 1e-12 * scale
    lengths = by_length(jacobians, torch.eye(size, dtype=torch.float64))
    assert (lengths.sum(0) - expected).abs().max() < 1e-12 * scale
    for length in range(13):
        of_length = paths.gradients[paths.lengths == length]
        assert len(of_length) == math.comb(12, length)
        assert (of_length.sum(0) - lengths[length]).abs().max() < 1e-12 * scale


def test_fixups_and_rezeros_branches_count_with_their_multipliers() -> None:
    for kind in ("rezero", "fixup"):
        (model,) = networks(Design(kind, 3, width=4))
        with torch.no_grad():
            for index, parameter in enumerate(model.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=index))
        x = normal(1, 4, seed=50)
        found = by_length(branch_jacobians(model, x), torch.eye(4, dtype=torch.float64)).sum(0)
        same(found, jacrev(model)(x).detach().reshape(4, 4))


@given(st.integers(1, 5), st.integers(1, 4))
@reproducible
def test_each_path_is_the_product_of_the_branches_it_takes(blocks: int, size: int) -> None:
    jacobians, gradient = normal(blocks, size, size, seed=blocks), normal(2, size, seed=9)
    paths = every_path(jacobians, gradient)
    wanted = {}
    for length in range(blocks + 1):
        for taken in combinations(range(blocks), length):
            product = torch.eye(size, dtype=torch.float64)
            for block in taken:
                product = jacobians[block] @ product  # the first block acts first
            wanted[taken] = gradient @ product
    assert len(paths.gradients) == len(wanted) == 2**blocks
    for row, found in zip(paths.taken, paths.gradients, strict=True):
        same(found, wanted[tuple(row.nonzero().flatten().tolist())])


def test_scalar_blocks_follow_the_binomial_theorem() -> None:
    jacobians = torch.full((20, 1, 1), -0.9, dtype=torch.float64)
    found = by_length(jacobians, torch.ones(1, dtype=torch.float64)).flatten().tolist()
    expected = [math.comb(20, k) * (-0.9) ** k for k in range(21)]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.breaks("companion/residuals/paths.py", "/ (1 + factor)", "/ (1 + factor**2)")
@given(st.lists(st.floats(0, 5), min_size=1, max_size=8))
@reproducible
def test_predicted_shares_are_products_of_factors(factors: list[float]) -> None:
    found = predicted_shares(factors)
    whole = math.prod(1 + f for f in factors)
    for length in range(len(factors) + 1):
        some = sum(math.prod(each) for each in combinations(factors, length))
        assert found[length].item() == pytest.approx(some / whole, rel=1e-9, abs=1e-12)
    assert found.sum().item() == pytest.approx(1)


def test_equal_factors_give_the_binomial_law() -> None:
    found = predicted_shares([2.0] * 10).tolist()
    expected = [math.comb(10, k) * 2**k / 3**10 for k in range(11)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("layers", "order", "factor"), [(1, "pre_activation", 1.0), (2, "weight_first", 2.0)]
)
def test_lengths_carry_what_is_predicted(layers: int, order: str, factor: float) -> None:
    """On average over networks; a gradient of its own has shares that scatter around it."""
    blocks, width, rows = 4, 24, []
    design = Design("residual", blocks, width=width, branch_layers=layers, order=order)
    for index, model in enumerate(networks(design, seeds=150)):
        gradient = normal(width, seed=10_000 + index)
        lengths = by_length(branch_jacobians(model, normal(1, width, seed=index)), gradient)
        rows.append(lengths @ lengths.sum(0) / gradient.square().sum())
    found = torch.stack(rows)
    expected = predicted_shares([factor] * blocks) * (1 + factor) ** blocks
    for length in range(blocks + 1):
        assert within(found[:, length], expected[length].item())
    middle = found[:, round(blocks * factor / (1 + factor))]
    assert four_errors(middle) < 0.35 * middle.mean()


def test_shares_sum_to_one_and_tell_cancelling_from_adding() -> None:
    lengths = torch.tensor([[3.0, 0.0], [-1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    found = shares(lengths)
    assert found.tolist() == pytest.approx([6 / 8, 0.0, 2 / 8])
    assert shares(lengths[:, None]).tolist() == pytest.approx(found.tolist())
    assert shares(torch.tensor([[3.0], [-1.0]])).tolist() == pytest.approx([1.5, -0.5])


def test_what_does_not_fit_is_refused() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="at least one block, got none"):
        by_length([], one)
    with pytest.raises(ValueError, match=r"needs shape \(1, 1\), as gradient has \(1,\), got \(2"):
        by_length(torch.ones(3, 2, 2), one)
    with pytest.raises(ValueError, match=r"needs shape \(0, 0\)"):
        by_length(torch.ones(3, 1, 1), torch.ones(()))
    with pytest.raises(ValueError, match="20 blocks at most, got 21; by_length"):
        every_path(torch.ones(21, 1, 1), one)
    with pytest.raises(TypeError, match="gradient must be a floating-point tensor"):
        by_length(torch.ones(3, 1, 1), torch.ones(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="gradient of 0, which has no shares"):
        shares(torch.tensor([[1.0], [-1.0]]))
    with pytest.raises(ValueError, match="each of factors must be finite and at least 0, got -1"):
        predicted_shares([-1.0])
    others = [("plain", ORDERS[0]), ("highway", ORDERS[0]), ("residual", "post_activation")]
    for kind, order in others:
        (model,) = networks(Design(kind, 2, width=3, order=order))
        with pytest.raises(ValueError, match=f"nothing after the sum, got {kind}, {order}"):
            branch_jacobians(model, normal(1, 3))
    (model,) = networks(Design("residual", 2, width=3))
    with pytest.raises(ValueError, match=r"inputs needs shape \(examples, width\), got \(3,\)"):
        branch_jacobians(model, normal(3))
