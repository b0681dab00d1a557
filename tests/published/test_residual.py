"""Published results on residual networks and transformers: P4, P17 to P21, P32."""

import math
from functools import cache

import pytest
import torch
from helpers import four_errors, within
from torch import Tensor

from companion import transformers
from companion.normalization import explosion
from companion.residuals import (
    Degradation,
    Design,
    Flow,
    block_growth,
    degradation,
    flow,
    predicted_flow,
)
from companion.residuals.paths import by_length, every_path, shares

SEEDS, WIDTH = 12, 200


@cache
def measured(design: Design, seeds: int = SEEDS, examples: int = 128) -> Flow:
    return flow(design, seeds=seeds, examples=examples)


def factors(values: Tensor) -> Tensor:
    """The factor a block, in the mean over blocks of its logarithm, one for each seed."""
    return ((values[:, -1] / values[:, 0]).log() / (values.shape[1] - 1)).exp()


# P4. A skip path does not bound the gradient from below.


def test_p4_the_paths_of_a_sum_can_cancel() -> None:
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    y = x
    for _ in range(20):
        y = y + (-0.9) * y
    y.backward()
    assert x.grad.item() == pytest.approx(1e-20, rel=1e-9)
    one = torch.ones(1, dtype=torch.float64)
    blocks = torch.full((16, 1, 1), -0.9, dtype=torch.float64)
    paths = every_path(blocks, one)
    # Past all the branches 1 is added, as is said; the others take it back.
    assert paths.gradients[paths.lengths == 0].item() == 1
    assert paths.gradients.sum().item() == pytest.approx(1e-16, abs=1e-12)
    assert paths.gradients.abs().sum().item() == pytest.approx(1.9**16)
    found = shares(by_length(blocks[:3], one)).tolist()
    assert found == pytest.approx([1e3, -2.7e3, 2.43e3, -729], rel=1e-9)


# P17. Growth of variance, and the ways to stop it.


@pytest.mark.parametrize(
    ("layers", "order", "factor"), [(1, "pre_activation", 2), (2, "weight_first", 3)]
)
def test_p17_he_branches_double_or_triple(layers: int, order: str, factor: int) -> None:
    design = Design("residual", 8, width=WIDTH, branch_layers=layers, order=order)
    found = measured(design)
    # A typical factor lies below the mean of all, by half the variance of its logarithm.
    growth = block_growth(
        Design("residual", 1, width=WIDTH, branch_layers=layers, order="weight_first")
    )
    below = growth.variance / growth.mean**2
    for sample in (factors(found.mean_squares), factors(found.squared_gradients.flip(-1))):
        assert abs(sample.mean().item() - factor) <= four_errors(sample) + below * factor
        assert four_errors(sample) < 0.2


@pytest.mark.breaks(
    "companion/residuals/blocks.py",
    "return self.depth ** -_SCALES[self.branch_scale]",
    "return self.depth ** (-_SCALES[self.branch_scale] / 2)",
)
@pytest.mark.parametrize("depth", [5, 20])
def test_p17_scales_that_keep_the_variance(depth: int) -> None:
    for scale, expected in (
        ("1/sqrt(depth)", (1 + 1 / depth) ** depth),
        ("1/depth", (1 + 1 / depth**2) ** depth),
    ):
        design = Design("residual", depth, width=WIDTH, branch_layers=1, branch_scale=scale)
        assert predicted_flow(design).mean_squares[-1].item() == pytest.approx(expected, rel=1e-9)
        found = measured(design)
        # The input's own mean square varies between seeds, and the widths are not infinite.
        growth = found.mean_squares[:, -1] / found.mean_squares[:, 0]
        assert abs(growth.mean().item() - expected) <= four_errors(growth) + 2 / WIDTH
        gradient = found.squared_gradients[:, 0]
        assert abs(gradient.mean().item() - expected) <= four_errors(gradient) + 2 / WIDTH


@pytest.mark.breaks(
    "companion/residuals/blocks.py",
    'if self.design.kind == "plain" else x + self.residual(x)',
    'if self.design.kind == "plain" else self.residual(x)',
)
@pytest.mark.parametrize("kind", ["rezero", "skipinit", "fixup"])
def test_p17_branches_of_zero_change_nothing(kind: str) -> None:
    found = measured(Design(kind, 20, width=30))
    assert ((found.squared_gradients - 1).abs() < 1e-12).all()
    assert ((found.mean_squares / found.mean_squares[:, :1] - 1).abs() < 1e-12).all()


def test_p17_a_norm_in_the_branch_makes_growth_linear() -> None:
    found = measured(Design("residual", 20, width=WIDTH, branch_layers=1, norm="layer"))
    sample = found.mean_squares[:, -1]
    assert abs(sample.mean().item() - 21) <= four_errors(sample) + 21 * 4 / WIDTH
    middle = found.mean_squares[:, 10]
    assert abs(middle.mean().item() - 11) <= four_errors(middle) + 11 * 4 / WIDTH
    assert four_errors(sample) < 2


# P18. He et al. (2016), arXiv 1512.03385, on digits.


@cache
def degraded() -> Degradation:
    return degradation(width=24, steps=50, seeds=3, batch_size=96, progress=False)


def test_p18_plain_stacks_degrade_and_residual_ones_do_not() -> None:
    plain, residual = degraded().loss
    # After 50 steps of nine other seeds: plain 0.45 to 0.56, 1.7 to 1.9 and 2.2 to 2.3; residual
    # 0.19 to 0.34, 0.17 to 0.27 and 0.29 to 0.51.
    assert plain[0].max() < 0.8 < 1.4 < plain[1].min()
    assert plain[1].median() < plain[2].median()
    assert plain[2].min() > 2.0
    assert residual.max() < 0.8


def test_p18_the_plain_gradient_explodes() -> None:
    plain, residual = degraded().gradient_ratio.log().mean(-1)
    # One factor of batch norm's for each layer between the first and the last; a batch of 96.
    rate = explosion.explosion_rate("relu", batch_size=96)
    for column, layers in enumerate((20, 50), start=1):
        expected = (layers - 2) / 2 * math.log(rate)
        assert plain[column].item() == pytest.approx(expected, abs=0.15 * expected)
    assert (residual < math.log(60)).all()


# P19. Xiong et al. (2020), arXiv 2002.04745.

DEPTHS = (2, 4, 8, 16)


def last_gradient_slope(place: str) -> Tensor:
    """Of log ‖gradient of the last FFN weight‖ against log L, one for each seed."""
    norms = [
        transformers.flow(transformers.Design(place, layers), seeds=8).ffn_gradients[:, -1]
        for layers in DEPTHS
    ]
    x = torch.tensor(DEPTHS, dtype=torch.float64).log()
    x = x - x.mean()
    return torch.stack(norms, dim=-1).log() @ x / x.square().sum()


@pytest.mark.parametrize(("place", "expected"), [("post", 0.0), ("pre", -0.5)])
def test_p19_the_last_ffn_gradient(place: str, expected: float) -> None:
    found = last_gradient_slope(place)
    layers = [transformers.Design(place, L) for L in DEPTHS]
    theory = [math.log(transformers.predicted_flow(d).ffn_gradients[-1]) for d in layers]
    slope = (theory[-1] - theory[0]) / math.log(8)
    # −½ is where it goes: the stream's variance is 1 + (…)L.
    assert slope == pytest.approx(expected, abs=0.03)
    assert abs(found.mean().item() - slope) <= four_errors(found) + 0.02
    assert four_errors(found) < 0.12


# P20. Radford et al. (2019), GPT-2.


@pytest.mark.breaks(
    "companion/transformers/designs.py",
    "scale = self.branches**-0.5 if",
    "scale = self.layers**-0.5 if",
)
@pytest.mark.parametrize("layers", [3, 12])
def test_p20_scaled_ends_keep_the_variance_at_two(layers: int) -> None:
    for scale, expected in ((1.0, 2 * layers + 1), (None, 2.0)):
        design = transformers.Design("pre", layers, width=128, scheme="unit", residual_scale=scale)
        predicted = transformers.predicted_flow(design, tokens=1).mean_squares[-1].item()
        assert predicted == pytest.approx(expected, rel=1e-9)
        sample = transformers.flow(design, tokens=1, sequences=32).mean_squares[:, -1]
        # Each branch's variance is some 1/n short, by the norm's mean.
        assert abs(sample.mean().item() - expected) <= four_errors(sample) + 2 / 128 * expected
        assert four_errors(sample) < 0.08 * expected


# P21. Dong et al. (2021), arXiv 2103.03404.


def test_p21_attention_alone_loses_all_but_one_direction() -> None:
    spread = transformers.rank_collapse(skip=False, layers=6).log10().median(0).values
    logs = spread[1:5]  # before rounding, at 1e-16
    assert spread[1] > -0.3
    assert spread[4] < -10
    # Doubly exponential: each layer multiplies the number of lost digits, by up to three.
    ratio = logs[1:] / logs[:-1]
    assert (ratio[1:] > 2).all()
    kept = transformers.rank_collapse(skip=True, layers=12).median(0).values
    assert kept[1] > 0.9
    assert kept[-1] > 0.1


# P32. Batch-norm branches, and the norm before or after the sum.


@pytest.mark.breaks(
    "companion/meanfield/steps.py",
    "variance = self.distance * (1 - away)",
    "variance = (self.square - self.mean**2) * (1 - away)",
)
def test_p32_batch_norm_branches() -> None:
    design = Design("residual", 20, width=WIDTH, branch_layers=1, norm="batch")
    product = math.prod(1 + 1 / (1 + k * (math.pi - 1) / math.pi) for k in range(20))
    assert product == pytest.approx(42.9, abs=0.05)
    assert predicted_flow(design).squared_gradients[0].item() == pytest.approx(product, rel=1e-9)
    sample = measured(design, examples=256).squared_gradients[:, 0]
    # In a batch of B the mean of 1/s² is B/(B−3) times 1/σ², half of which weighs in a block at
    # first and less later; the width adds as much again.
    allowed = four_errors(sample) + product * 20 * (1 / 256 + 1 / WIDTH) / 4
    assert abs(sample.mean().item() - product) <= allowed
    # Not the 21 of "grows like L".
    assert sample.min() > 30


def test_p32_first_over_last_layer_of_transformers() -> None:
    for place, low, high in (("post", 0.6, 1.6), ("pre", 3.0, 6.0)):
        found = transformers.flow(transformers.Design(place, 16), seeds=10).ffn_gradients
        ratio = found[:, 0] / found[:, -1]
        assert low < ratio.mean().item() - four_errors(ratio) / 4
        assert ratio.mean().item() + four_errors(ratio) / 4 < high
        expected = transformers.predicted_flow(transformers.Design(place, 16)).ffn_gradients
        wanted = (expected[0] / expected[-1]).item()
        assert abs(ratio.mean().item() - wanted) <= four_errors(ratio) + 0.15 * wanted


def test_p17_the_mean_factor_is_exact_whatever_the_width() -> None:
    for width in (6, 40):
        found = flow(
            Design("residual", 1, width=width, order="weight_first"), seeds=600, examples=1
        )
        assert within(found.mean_squares[:, 1] / found.mean_squares[:, 0], 3.0)
        assert within(found.squared_gradients[:, 0], 3.0)
