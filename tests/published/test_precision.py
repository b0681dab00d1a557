"""Published results on number formats, P28, P38, P39: what is flushed, chance, a scale a block."""

import math

import pytest
import torch
from helpers import four_errors, within

from companion import backprop, precision
from companion.data import digits
from companion.precision import (
    FORMATS,
    flushed,
    log_normal,
    log_normal_flushed,
    lost,
    scaled_to,
    sums,
)

# P28. Micikevicius et al. (2018), arXiv 1710.03740.


def test_p28_where_float16_begins_and_ends() -> None:
    values = torch.tensor([2.0**-25, 2.0**-25 * (1 + 1e-9), 65519.0, 65520.0], dtype=torch.float64)
    for sign in (1, -1):
        found = precision.rounded(sign * values, "float16").tolist()
        assert found == [0, sign * 2.0**-24, sign * 65504, sign * math.inf]


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_p28_flushed_shares_follow_the_normal_distribution_function(name: str) -> None:
    gradients, scales = {"log2_median": -27.0, "octaves": 5.0}, [1.0, 2.0**3, 2.0**10, 2.0**20]
    count = 200_000
    found = flushed(log_normal(count, **gradients, seed=0), name, scale=scales)
    expected = log_normal_flushed(name, **gradients, scale=scales)
    for share, p in zip(found, expected, strict=True):
        assert ((share - p).abs() <= 4 * (p * (1 - p) / count).sqrt() + 4 / count).all()
    if name == "float16":
        assert found.to_zero.tolist() == pytest.approx([0.655, 0.421, 0.055, 0], abs=0.005)
    else:
        assert found.to_zero.max() == 0


def test_p28_ten_sigmoid_layers_and_a_read_out() -> None:
    data = digits()
    shares = []
    for model in backprop.classifiers("sigmoid", 1.0, 11, seeds=6):
        outputs = model(data.train_inputs[:128])
        loss = torch.nn.functional.cross_entropy(outputs, data.train_targets[:128])
        weights = [model[0].weight, model[2].weight]
        first, second = torch.autograd.grad(loss, weights)
        scaled = flushed(first, "float16", scale=[1.0, 1024.0]).to_zero
        shares.append(torch.stack([*scaled, flushed(second, "float16").to_zero]))
    first, rescued, second = torch.stack(shares).mean(0).tolist()
    # "100 %, 70 %, 1.4 %": of width 32 with 128 images it is 93, 69 and .6.
    assert 0.85 < first <= 1
    assert 0.5 < second < 0.9
    assert rescued < 0.03


# P38. Gupta et al. (2015), arXiv 1502.02551.


def test_p38_a_thousand_thousandths_added_to_one() -> None:
    terms = torch.full((2000, 1000), 1e-3, dtype=torch.float64)
    nearest = sums.running_sum(terms[:1], "bfloat16", start=1.0)
    assert (nearest == 1).all()
    assert (sums.running_sum(torch.full((1000,), 2.0**-8), "bfloat16", start=1.0) == 1).all()
    generator = torch.Generator().manual_seed(0)
    found = sums.running_sum(terms, "bfloat16", start=1.0, generator=generator)[:, -1]
    assert within(found, 2.0)
    assert four_errors(found) < 0.01
    # A step is one of 2⁻⁷ with the chance 1e-3·2⁷ = q: the variance is 1000 q (1 − q) 2⁻¹⁴, and a
    # little more for the sums that come above 2, where the gap is twice as wide.
    q = 1e-3 * 2**7
    assert found.std().item() == pytest.approx(math.sqrt(1000 * q * (1 - q)) / 2**7, rel=0.07)
    assert found.std().item() == pytest.approx(0.085, abs=0.005)


# P39. Micikevicius et al. (2022), arXiv 2209.05433; Rouhani et al. (2023), arXiv 2310.10537.


def test_p39_a_scale_a_tensor_and_a_scale_a_block() -> None:
    gradients, count, seeds = {"log2_median": -20.0, "octaves": 4.0}, 2**15, 6
    drawn = [log_normal(count // 32, 32, **gradients, seed=seed) for seed in range(seeds)]
    for name, unscaled, block in (
        ("float16", 0.1056, 0),
        ("E5M2", 0.7734, 0),
        ("E4M3", 0.9938, 0.0131),
    ):
        plain = torch.stack([flushed(each, name).to_zero for each in drawn])
        assert within(plain, log_normal_flushed(name, **gradients).to_zero.item())
        assert plain.mean().item() == pytest.approx(unscaled, abs=0.004)
        blocks = torch.stack([lost(each, scaled_to(each, name, 32)) for each in drawn])
        assert blocks.mean().item() == pytest.approx(block, abs=0.002)
        whole = torch.stack([lost(each, scaled_to(each, name)) for each in drawn])
        assert (plain > whole).all()
        assert (whole >= blocks).all()
        # One scale for a tensor is decided by its largest number, and so by how many there are.
        for each, share in zip(drawn, whole, strict=True):
            scale = 2.0 ** math.floor(math.log2(FORMATS[name].largest / each.max().item()))
            p = log_normal_flushed(name, **gradients, scale=scale).to_zero
            assert abs(share - p) <= 4 * (p * (1 - p) / count).sqrt() + 4 / count
    assert 0.2 < whole.mean() < 0.6  # of E4M3
