"""Published results on attention, P30 and P40: 1/√d and the softmax's slopes, least entropy."""

import math

import pytest
import torch
from helpers import four_errors, normal, within

from companion.transformers import entropy, least_entropy, predicted_slopes, softmax_slopes

# P30. Vaswani et al. (2017), arXiv 1706.03762, section 3.2.1, on 1/√d.
SEEDS = 24


def median_gap(keys: int) -> float:
    """The median gap between the two largest of so many normal numbers."""
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    low, high = 0.0, 9.0
    for _ in range(50):
        gap = (low + high) / 2
        wider = keys * torch.trapezoid(density * torch.special.ndtr(x - gap) ** (keys - 1), x)
        low, high = (gap, high) if wider > 0.5 else (low, gap)
    return low


def test_p30_without_1_over_sqrt_d_slopes_are_heavy_tailed_and_not_small() -> None:
    scaled, sharp = (softmax_slopes(1024, scale=s, seeds=SEEDS) for s in (None, 1.0))
    # ".032" and "< 1e-5" are of 64 keys and ‖J‖²; the norm itself is .18 and some 2e-4.
    squares = scaled.medians.jacobians.square()
    assert four_errors(squares) < 0.0005
    assert squares.mean().item() == pytest.approx(0.032, abs=0.0005 + four_errors(squares))
    assert (sharp.medians.jacobians.square() < 1e-5).all()
    # One query in two has two largest logits that lie further apart than the median gap.
    gap = torch.tensor(math.sqrt(1024) * median_gap(64), dtype=torch.float64)
    p = (gap.sigmoid() * (-gap).sigmoid()).item()
    below = (sharp.jacobians < 2 * p).double().mean(-1)
    assert within(below, 0.5)
    assert four_errors(below) < 0.05
    assert (2 * p) ** 2 < 1e-5
    # "25 times".
    ratios = sharp.root_mean_squares.gradients / scaled.root_mean_squares.gradients
    assert within(ratios, 25)
    assert four_errors(ratios) < 3
    assert (sharp.medians.gradients < scaled.medians.gradients / 5).all()
    assert (sharp.root_mean_squares.gradients > 15 * scaled.root_mean_squares.gradients).all()


def test_p30_the_rms_gradient_grows_like_the_fourth_root_of_the_width() -> None:
    widths = [16, 64, 256, 1024, 2**14, 2**16]
    ratios = []
    for width in widths:
        sharp, scaled = (predicted_slopes(width, scale=s) for s in (1.0, None))
        ratios.append(sharp.gradient / scaled.gradient)
    assert ratios[:4] == pytest.approx([6.9, 11.7, 17.9, 26.2], abs=0.1)
    assert ratios[5] / ratios[4] == pytest.approx(4**0.25, rel=0.01)


# P40. Zhai et al. (2023), arXiv 2303.06296, theorem 3.1.


@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "torch.exp(-norm * math.sqrt(tokens / others))",
    "torch.exp(-norm * math.sqrt(tokens))",
    case="16-2-2.418708",
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "-seen.log()).sum(-1)",
    "-seen.log2()).sum(-1)",
    case="16-2-2.418708",
)
@pytest.mark.parametrize(
    ("tokens", "norm", "least"), [(16, 2, 2.418708), (64, 4, 2.878547), (256, 8, 0.703447)]
)
def test_p40_no_logits_of_that_norm_have_less_entropy(
    tokens: int, norm: float, least: float
) -> None:
    bound, logits = least_entropy(tokens, norm)
    assert bound.item() == pytest.approx(least, abs=5e-7)
    assert entropy(logits.softmax(-1)).item() == pytest.approx(least, abs=5e-7)
    # From 32 random starts, down the entropy on the sphere.
    z = normal(32, tokens).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.1)
    for _ in range(400):
        found = entropy((norm * z / z.norm(dim=-1, keepdim=True)).softmax(-1))
        assert (found > bound - 1e-12).all()
        (z.grad,) = torch.autograd.grad(found.sum(), z)
        optimizer.step()
    assert found.min().item() == pytest.approx(least, abs=1e-5)
