"""How outputs change with weights, against forward mode and closed forms; first steps."""

import math

import pytest
import torch
from helpers import four_errors, normal, same
from torch import nn
from torch.func import functional_call, jvp

from companion._lib import random
from companion.data import Split, digits
from companion.transformers import (
    PLACES,
    Design,
    amplification,
    first_step,
    networks,
    predicted_amplification,
)


def harmonic(count: int) -> float:
    """1 + 1/2 + … + 1/count."""
    return sum(1 / n for n in range(1, count + 1))


# ---------------------------------------------------------------- all weights a little


@pytest.mark.breaks(
    "companion/transformers/changes.py", "size * random.normal(", "random.normal(", case="change0"
)
@pytest.mark.breaks(
    "companion/transformers/changes.py",
    "mean((1, 2), keepdim=True)",
    "mean((0, 1, 2), keepdim=True)",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py",
    "if value.dim() == 3}",
    "if value.dim() >= 2}",
    case="change0",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py", "/ out.square().mean((1, 2, 3))", "", case="change0"
)
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, of itself
@pytest.mark.parametrize("change", [{}, {"place": "post", "causal": True}, {"place": "deepnorm"}])
def test_the_change_is_forward_modes(change: dict) -> None:
    design = Design(**({"place": "peri", "layers": 2, "width": 6, "heads": 2} | change))
    found = amplification(design, tokens=3, sequences=2, seeds=[4, 7])
    for seed, each in zip((4, 7), found, strict=True):
        (model,) = networks(design, seeds=[seed])
        generator = torch.Generator().manual_seed(seed + 2**31)
        x = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
        weights = {n: p.detach() for n, p in model.named_parameters() if p.dim() == 2}
        changes = {
            n: torch.randn(w.shape, generator=generator, dtype=torch.float64)
            * (w.norm() / math.sqrt(w.numel()))
            for n, w in weights.items()
        }
        out, moved = jvp(lambda w: functional_call(model, w, (x,)), (weights,), (changes,))  # noqa: B023
        same(each, moved.square().mean() / out.square().mean())


@pytest.mark.breaks(
    "companion/transformers/changes.py",
    "self.change.weights(weight_variance).plus(out)",
    "out",
    case="post-unit",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py",
    "self.change.weights(weight_variance).plus(out)",
    "self.change.weights(weight_variance)",
    case="post-unit",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py",
    "self.change.scaled((self.x.square - self.x.mean**2) ** -0.5)",
    "self.change",
    case="pre-unit",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py",
    'if design.place == "peri" else out',
    "",
    case="post-glorot",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py",
    "stream.scaled(design.stream_scale)",
    "stream",
    case="deepnorm-unit",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py",
    "width * design.std(width, width) ** 2",
    "1.0",
    case="post-gpt2",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py",
    "hidden * design.std(hidden, width) ** 2 * ending",
    "hidden * design.std(hidden, width) ** 2 * gain",
    case="post-ending",
)
@pytest.mark.parametrize(
    ("design", "shares"),
    [
        pytest.param(Design("post", 5, scheme="unit"), 10 / 2, id="post-unit"),
        pytest.param(Design("pre", 5, scheme="unit"), harmonic(11) - 1, id="pre-unit"),
        pytest.param(Design("peri", 5), harmonic(11) - 1, id="peri-glorot"),
        # Of a branch a(x) of variance 1 and an FFN of 4 · ½ · (2/5)²:
        pytest.param(Design("post", 5), 5 * (1 / 2 + 0.32 / 1.32), id="post-glorot"),
        pytest.param(
            Design("deepnorm", 5, scheme="unit"), 10 / (1 + 40 * math.sqrt(10)), id="deepnorm-unit"
        ),
        pytest.param(Design("none", 5, scheme="unit"), 10 / 2, id="none-unit"),
        pytest.param(
            Design("post", 3, scheme="gpt2", ffn=False),
            3 * (64 * 4e-4) ** 2 / (1 + (64 * 4e-4) ** 2),
            id="post-gpt2",
        ),
        pytest.param(Design("pre", 5, scheme="unit", skip=False), 10, id="no-skip"),
        pytest.param(
            Design("post", 5, scheme="unit", residual_scale=0.5, branch_scale=0.5, gate=2.0),
            10 * 0.25 / 1.25,
            id="post-ending",
        ),
    ],
)
def test_of_one_token_it_is_twice_the_sum_of_the_shares(design: Design, shares: float) -> None:
    """Of branches that pass on what changes of their input as they pass on the input: ReLU's."""
    assert predicted_amplification(design, tokens=1) == pytest.approx(2 * shares, rel=1e-9)


@pytest.mark.breaks(
    "companion/transformers/changes.py", "across * change.overlap", "alone * change.overlap"
)
def test_of_two_tokens_without_norms_it_is_found_by_hand() -> None:
    """Pairs are the mean square at a token, and the mean product of two of them."""
    # A mean of (1, 0) adds (½, ½) to the stream; the change is that twice, of values and ends.
    x, change = (1.5, 0.5), (1.0, 1.0)
    # Twice the stream goes into ReLU: of (3, 1), with the correlation c, which changes by (5, 3).
    c = 1 / 3
    below = (math.pi - math.acos(c)) / (2 * math.pi)  # both slopes are 1
    product = 3 * (math.sqrt(1 - c**2) / (2 * math.pi) + c * below)
    x = (x[0] + 1.5, x[1] + product)
    change = (change[0] + 2.5 + 1.5, change[1] + 3 * below + product)
    # Another mean, of the stream and of what changes in values; then ends.
    mean, moved = sum(x) / 2, (sum(change) + sum(x)) / 2
    square, change_square = x[0] + mean, change[0] + moved + mean
    # And an FFN, which passes on what it gets, and adds twice its size.
    expected = (2 * change_square + 2 * square) / (2 * square)
    found = predicted_amplification(Design("none", 2, scheme="unit"), tokens=2)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.breaks(
    "companion/transformers/changes.py",
    ".weights(each * gain).average(tokens)",
    ".weights(each * gain)",
    case="6-change0-post",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py",
    "self.change.average(tokens)",
    "self.change",
    case="6-change0-post",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py",
    "square = alone * change.square",
    "square = change.square",
    case="6-change1-post",
)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", [{}, {"activation": "gelu"}, {"branch_scale": 0.5}])
@pytest.mark.parametrize("tokens", [1, 6])
def test_transformers_change_as_is_predicted(place: str, tokens: int, change: dict) -> None:
    design = Design(
        place, 3, width=96, hidden=150, attention_scale=0.0, scheme="unit", residual_scale=0.8,
        **change,
    )  # fmt: skip
    found = amplification(design, tokens=tokens, sequences=24 // tokens, seeds=16)
    expected = predicted_amplification(design, tokens=tokens)
    # Four standard errors, and some 2/n a branch that a finite width is off.
    error = four_errors(found) + 2 * 6 / design.width * expected
    assert abs(found.mean() - expected) <= error < 0.5 * expected


@pytest.mark.parametrize("place", [place for place in PLACES if place != "none"])
def test_queries_and_keys_add_less_than_half(place: str) -> None:
    """Norms keep the logits' variance at 1, so that each adds no more than values do.

    That makes at most 4 + 2 matrices a layer where 2 + 2 are predicted.
    """
    design = Design(place, 3, width=96, hidden=150, scheme="unit")
    ratio = amplification(design, seeds=8) / predicted_amplification(design)
    assert 1 - four_errors(ratio) < ratio.mean() < 1.5 + four_errors(ratio)
    assert four_errors(ratio) < 0.3


# ---------------------------------------------------------------- Adam's first step


@pytest.mark.breaks(
    "companion/transformers/changes.py",
    "_streams(skeleton, parameters, inputs) - before",
    "_streams(skeleton, parameters, inputs)",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py",
    "/ before.flatten(2).norm(dim=-1)",
    "/ before.flatten(2).norm(dim=-1) ** 2",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py",
    'random.generators(seeds, "batches")',
    "random.generators(seeds)",
)
@pytest.mark.breaks(
    "companion/transformers/changes.py", "[entering, output] if", "[output, output] if"
)
@pytest.mark.parametrize("place", ["pre", "post"])
def test_the_first_step_is_that_of_torchs_adam(place: str) -> None:
    data, design = digits(), Design(place, 2, width=6, branch_scale=0.7)
    found = first_step(design, data, learning_rate=0.003, tokens=4, batch_size=5, seeds=[3, 8])
    assert found.shape == (2, 5)
    for seed, each in zip((3, 8), found, strict=True):
        (model,) = networks(design, tokens=4, features=16, outputs=10, seeds=[seed])
        rows = random.rows([torch.Generator().manual_seed(seed + 3 * 2**30)], 1437, 5)[0]
        x, y = data.train_inputs[rows], data.train_targets[rows]

        def streams(model: nn.Module = model, x: torch.Tensor = x) -> list[torch.Tensor]:
            parts = range(len(model.sublayers) + 1)
            return [model.sublayers[:n](model.stream(x)).detach() for n in parts]

        before = streams()
        update = torch.optim.Adam(model.parameters(), lr=0.003)
        nn.functional.cross_entropy(model(x), y).backward()
        update.step()
        moved = [(a - b).norm() / b.norm() for a, b in zip(streams(), before, strict=True)]
        same(each, torch.stack(moved))


def test_without_a_rate_nothing_moves_and_a_small_one_moves_in_proportion() -> None:
    design, data = Design("pre", 1, width=6), digits()
    still, small, twice = (
        first_step(design, data, learning_rate=rate, batch_size=4, seeds=2)
        for rate in (0.0, 1e-6, 2e-6)
    )
    assert not still.any()
    torch.testing.assert_close(twice, 2 * small, rtol=1e-3, atol=0)


# ---------------------------------------------------------------- what is refused


def test_bad_arguments_are_refused() -> None:
    design, data = Design("pre", 1, width=4), digits()
    with pytest.raises(ValueError, match="tokens must be at least 1, got 0"):
        amplification(design, tokens=0)
    with pytest.raises(TypeError, match="sequences must be a whole number"):
        amplification(design, sequences=1.5)
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        amplification(design, seeds=0)
    with pytest.raises(ValueError, match="causal must be False"):
        predicted_amplification(Design("pre", 1, causal=True))
    with pytest.raises(ValueError, match="the output is 0"):
        predicted_amplification(Design("none", 1, skip=False, residual_scale=0.0))
    with pytest.raises(ValueError, match="tokens must divide the 64 numbers of an input, got 7"):
        first_step(design, data, learning_rate=0.1, tokens=7)
    with pytest.raises(ValueError, match="learning_rate must be finite and at least 0, got -1"):
        first_step(design, data, learning_rate=-1)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        first_step(design, data, learning_rate=0.1, batch_size=0)
    flat = Split(normal(4, 6), torch.arange(4), normal(0, 6), torch.arange(0))
    assert first_step(design, flat, learning_rate=0.1, tokens=3, seeds=1).shape == (1, 3)
