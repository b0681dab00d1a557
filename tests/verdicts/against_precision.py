"""The verdicts of `precision` at settings that the chapter does not show, from their sentences."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from adversaries import SEEDS, Tell, data, spread
from torch import Tensor, nn

from companion.backprop import classifiers
from companion.data import Split
from companion.precision import (
    flushed,
    log_normal,
    lost,
    low_precision,
    rounded,
    rounding_weights,
    scaled,
    scaled_to,
    spacing,
    sums,
    unscaled,
)
from companion.training import Record, Snapshot, adam, sgd, train

pytestmark = pytest.mark.files("book/precision.ipynb")

MORE = range(100, 124)  # where six networks leave too much to luck
CHANCE = 2.25  # a test loss above it is that of a guess
VARIANCE = {"sigmoid": 1.0, "tanh": 1.0, "relu": 2.0}
cross_entropy = nn.functional.cross_entropy


def median(values: Tensor) -> float:
    """Return the middle of the losses, of which that of a network that stopped is inf."""
    return values.double().sort().values[[(len(values) - 1) // 2, len(values) // 2]].mean().item()


def at_chance(losses: Tensor) -> int:
    return int((losses > CHANCE).sum())


def networks(
    activation: str = "sigmoid",
    hidden: int = 3,
    width: int = 32,
    seeds: Sequence[int] = SEEDS,
    variance: float | None = None,
) -> list[nn.Module]:
    own = VARIANCE[activation] if variance is None else variance
    return list(classifiers(activation, own, hidden + 1, width=width, seeds=seeds))


def learned(
    models: list[nn.Module],
    optimizer: Callable = adam(0.01, eps=1e-300),  # noqa: B008
    number_format: str | None = None,
    *,
    back: str | None = None,
    factor: float = 1.0,
    scale: float = 1.0,
    steps: int = 150,
    batch: int = 64,
    how: str | None = None,
) -> Tensor:
    """Return the test losses at the end, (networks,), inf where a network stopped before.

    The loss has a factor, and a scale that the optimizer takes away again; with ``how`` it is the
    weights that are rounded.
    """
    seeds = [100 + i for i in range(len(models))]
    if number_format:
        models = [low_precision(m, number_format, backward=back, weights=not how) for m in models]
    if how:
        optimizer = rounding_weights(optimizer, number_format, how=how, seed=seeds)
    record = train(
        models,
        data(),
        optimizer=unscaled(optimizer, scale),
        loss=scaled(cross_entropy, factor * scale),
        steps=steps,
        batch_size=batch,
        seed=seeds,
        record_every=steps,
        progress=False,
    )
    return ended(record)


def ended(record: Record) -> Tensor:
    assert record.test_loss is not None
    stopped = torch.tensor([stop is not None for stop in record.stopped])
    return record.test_loss[-1].double().masked_fill(stopped, math.inf)


def gradients(models: list[nn.Module], factor: float, examples: int) -> list[list[Tensor]]:
    """Return the gradient of each network's loss at each of its parameters."""
    x, y = data().train_inputs[:examples], data().train_targets[:examples]
    loss = scaled(cross_entropy, factor)
    return [list(torch.autograd.grad(loss(m(x), y), list(m.parameters()))) for m in models]


def whole(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def shares_lost(
    models: list[nn.Module], number_format: str, factor: float = 1.0, examples: int = 64
) -> Tensor:
    """Return how much of each network's gradient a pass in the format loses, and of each weight's.

    Shape (networks, 1 + layers).
    """
    exact = gradients(models, factor, examples)
    rough = gradients([low_precision(m, number_format) for m in models], factor, examples)
    rows = []
    for one, other in zip(exact, rough, strict=True):
        layers = [lost(g, h) for g, h in zip(one[::2], other[::2], strict=True)]
        rows.append(torch.stack([lost(whole(one), whole(other)), *layers]))
    return torch.stack(rows)


# ---------------------------------------------------------------- O3: float16 and a loss scale


# How low float64 comes in 150 steps is of the width and the rate: only with 32 units or more, and
# not at a third of the rate, is it below 0.5.
@pytest.mark.claim("O3")
@pytest.mark.parametrize(
    ("width", "rate", "batch"),
    [(16, 0.01, 64), (32, 0.003, 64), (48, 0.03, 128)],
)
def test_a_small_factor_and_what_a_scale_makes_of_it(
    width: int, rate: float, batch: int, tried: Tell
) -> None:
    exact, half, saved = (
        learned(
            networks(width=width),
            adam(rate, eps=1e-300),
            number_format,
            factor=2.0**-20,
            scale=scale,
            batch=batch,
        )
        for number_format, scale in ((None, 1.0), ("float16", 1.0), ("float16", 2.0**20))
    )
    tried(
        f"{median(exact):.2f} in float64, {at_chance(half)} at chance, {median(saved):.2f} scaled",
        width=width,
        rate=rate,
        batch=batch,
    )
    assert at_chance(half) == 6
    assert abs(median(saved) / median(exact) - 1) < 0.1
    assert (median(exact) < 0.5) == (width >= 32 and rate >= 0.01)


@pytest.mark.claim("O3")
def test_with_adams_own_epsilon_float64_does_not_come_far_either(tried: Tell) -> None:
    """A gradient of a factor of 2⁻²⁰ is below ε = 10⁻⁸, and a scale is taken away before that."""
    optimizer, factor = adam(0.01), 2.0**-20
    exact = learned(networks(), optimizer, factor=factor)
    saved = learned(networks(), optimizer, "float16", factor=factor, scale=2.0**20)
    tried(f"{median(exact):.2f} in float64, {median(saved):.2f} scaled", factor="2^-20", eps=1e-8)
    assert median(exact) > 1.5
    assert median(saved) > 1.5


@pytest.mark.claim("O3")
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_quarter_lost_already_costs_and_nearly_all_need_not_end_it(
    activation: str, tried: Tell
) -> None:
    """Gradient descent goes on with the largest entries."""
    exact = median(learned(networks(activation), sgd(0.1)))
    found, share = [], []
    for power in (17, 18, 20):
        optimizer, factor = sgd(0.1 * 2.0**power), 2.0**-power
        found.append(learned(networks(activation), optimizer, "float16", factor=factor))
        share.append(shares_lost(networks(activation), "float16", factor)[:, 0])
    tried(
        f"lost {', '.join(spread(s) for s in share)}, "
        f"{', '.join(f'{median(f):.2f}' for f in found)} for {exact:.2f}",
        activation=activation,
        factors="2^-17, 2^-18, 2^-20",
        optimizer="descent",
    )
    assert share[0].max() < 0.33
    assert share[1].min() > 0.45
    assert median(found[0]) > 1.3 * exact
    assert at_chance(found[1]) == 0
    assert median(found[1]) > 2 * exact
    assert at_chance(found[2]) == 6


@pytest.mark.claim("O3")
@pytest.mark.parametrize("rate", [0.003])
def test_nine_layers_stay_where_most_of_the_gradient_is_kept(rate: float, tried: Tell) -> None:
    """Of the first layer's gradient nearly all is lost, of the whole one less than a third."""
    share = shares_lost(networks(hidden=9), "float16")
    exact, half, saved = (
        learned(networks(hidden=9), adam(rate, eps=1e-300), number_format, scale=s)
        for number_format, s in ((None, 1.0), ("float16", 1.0), ("float16", 2.0**10))
    )
    tried(
        f"lost {spread(share[:, 0])} of the gradient, {spread(share[:, 1])} of the first layer's; "
        f"at chance {at_chance(half)}, with a scale {at_chance(saved)}, in float64 "
        f"{at_chance(exact)}; least {saved.min():.2f}",
        rate=rate,
    )
    assert share[:, 0].max() < 0.33
    assert share[:, 1].min() > 0.9
    assert at_chance(half) == 6
    assert max(at_chance(saved), at_chance(exact)) < 3
    assert saved.min() > 1.5


@pytest.mark.claim("O3")
def test_nine_wide_layers_stay_in_float64_too(tried: Tell) -> None:
    exact = learned(networks(hidden=9, width=96))
    saved = learned(networks(hidden=9, width=96), number_format="float16", scale=2.0**10)
    tried(f"at chance {at_chance(exact)}, scaled {at_chance(saved)}", hidden=9, width=96)
    assert at_chance(exact) > 3
    assert at_chance(saved) > 3


@pytest.mark.claim("O3")
def test_five_layers_are_the_same_at_another_width(tried: Tell) -> None:
    kinds = ((None, 1.0), ("float16", 1.0), ("float16", 2.0**10))
    found = [
        median(learned(networks(hidden=5, width=16), number_format=f, scale=s)) for f, s in kinds
    ]
    tried(f"{[round(each, 2) for each in found]}", hidden=5, width=16)
    assert max(found) < 1.2 * min(found)


@pytest.mark.claim("O3")
def test_too_large_a_scale_rescues_nothing(tried: Tell) -> None:
    shallow = learned(networks(), number_format="float16", factor=2.0**-20, scale=2.0**40)
    deep = learned(networks(hidden=10), number_format="float16", scale=2.0**16)
    stopped = [int(each.isinf().sum()) for each in (shallow, deep)]
    tried(f"{stopped} of 6 stop", hidden="3, 10", factor="2^-20, 1", scale="2^40, 2^16")
    assert stopped[0] == 6
    assert stopped[1] > 0


@pytest.mark.claim("O3")
def test_a_large_factor_stops_float16_where_nothing_is_flushed(tried: Tell) -> None:
    """And S = 2⁻²⁰ rescues it: what a scale is for is overflow as well."""
    factor = 2.0**20
    share = shares_lost(networks("relu"), "float32", factor)[:, 0]
    half = learned(networks("relu"), number_format="float16", factor=factor)
    saved = learned(networks("relu"), number_format="float16", factor=factor, scale=1 / factor)
    tried(
        f"{int(half.isinf().sum())} stop, {median(saved):.2f} scaled",
        activation="relu",
        factor="2^20",
    )
    assert share.max() == 0
    assert half.isinf().all()
    assert median(saved) < 0.5


# ---------------------------------------------------------------- H1: bfloat16


@pytest.mark.claim("H1")
@pytest.mark.parametrize(("width", "rate", "steps"), [(16, 0.03, 150), (32, 0.003, 300)])
def test_bfloat16_is_as_float64_at_other_settings(
    width: int, rate: float, steps: int, tried: Tell
) -> None:
    exact, brief = (
        learned(
            networks(width=width),
            adam(rate, eps=1e-300),
            number_format,
            factor=2.0**-20,
            steps=steps,
        )
        for number_format in (None, "bfloat16")
    )
    tried(f"{median(brief):.2f} for {median(exact):.2f}", width=width, rate=rate, steps=steps)
    assert abs(median(brief) / median(exact) - 1) < 0.1


@pytest.mark.claim("H1")
@pytest.mark.parametrize(("activation", "hidden"), [("relu", 11), ("sigmoid", 9)])
def test_a_scale_changes_nothing_in_deep_networks(
    activation: str, hidden: int, tried: Tell
) -> None:
    optimizer = adam(0.01 if activation == "sigmoid" else 0.003, eps=1e-300)
    plain, stretched = (
        learned(networks(activation, hidden), optimizer, "bfloat16", scale=scale)
        for scale in (1.0, 2.0**20)
    )
    tried(f"{median(plain):.3f}, {median(stretched):.3f}", activation=activation, hidden=hidden)
    torch.testing.assert_close(plain, stretched, rtol=0.05, atol=0)


@pytest.mark.claim("H1")
@pytest.mark.parametrize(
    ("activation", "power", "shares", "ratios"),
    [
        ("sigmoid", 120, (0.25, 0.5), (1.05, 1.4)),
        ("tanh", 126, (0.15, 0.35), (1.3, 3.0)),
    ],
)
def test_bfloat16_near_its_end(
    activation: str,
    power: int,
    shares: tuple[float, float],
    ratios: tuple[float, float],
    tried: Tell,
) -> None:
    """Half of the entries lie far above where they are flushed, and the loss is worse already."""
    factor = 2.0**-power
    share = shares_lost(networks(activation), "bfloat16", factor)[:, 0]
    ratio = median(learned(networks(activation), number_format="bfloat16", factor=factor)) / median(
        learned(networks(activation))
    )
    tried(f"lost {spread(share)}, {ratio:.2f} times the loss", net=activation, factor=f"2^-{power}")
    assert shares[0] < share.min() < share.max() < shares[1]
    assert ratios[0] < ratio < ratios[1]


@pytest.mark.claim("H1")
def test_in_large_batches_delta_is_flushed_where_the_gradient_is_not(tried: Tell) -> None:
    """One example's δ is a thousandth of the factor, and no sum of zeros is above 2⁻¹³⁴."""
    factor, models = 2.0**-124, networks("tanh")
    below = torch.stack(
        [flushed(whole(g), "bfloat16").to_zero for g in gradients(models, factor, 1000)]
    )
    options = {"factor": factor, "steps": 60, "batch": 1000}
    brief, exact = (
        learned(networks("tanh"), number_format=f, **options) for f in ("bfloat16", None)
    )
    tried(
        f"{spread(below)} of the gradient below 2^-134; at chance {at_chance(brief)}, in float64 "
        f"{at_chance(exact)}",
        activation="tanh",
        factor="2^-124",
        batch=1000,
    )
    assert below.max() < 0.15
    assert (at_chance(brief), at_chance(exact)) == (6, 0)


@pytest.mark.claim("H1")
def test_with_adams_own_epsilon_float32_stays_as_well(tried: Tell) -> None:
    found = learned(networks(), adam(0.01), "float32", factor=2.0**-128)
    tried(f"at chance {at_chance(found)} in float32", factor="2^-128", eps=1e-8)
    assert at_chance(found) == 6


@pytest.mark.claim("H1")
@pytest.mark.parametrize("eps", [1e-300, 1e-45, 1e-8])
def test_where_adam_itself_is_in_float32_none_learns(eps: float, tried: Tell) -> None:
    """The squares of such gradients are 0 there, and ε as well or above all of them."""
    own = data()
    parts = Split(
        own.train_inputs.float(), own.train_targets, own.test_inputs.float(), own.test_targets
    )
    record = train(
        [model.float() for model in networks()],
        parts,
        optimizer=adam(0.01, eps=eps),
        loss=scaled(cross_entropy, 2.0**-128),
        steps=150,
        batch_size=64,
        seed=[*SEEDS],
        record_every=150,
        progress=False,
    )
    found = ended(record)
    tried(
        f"at chance or stopped {at_chance(found)}, least {found.min():.3g}",
        factor="2^-128",
        eps=eps,
    )
    assert at_chance(found) == 6


def depth_of_loss(
    number_format: str, hidden: int, examples: int = 64, **options: float
) -> list[int]:
    """Return how many layers below the last hidden one most of the gradient is lost; 99 nowhere."""
    share = shares_lost(networks(hidden=hidden, **options), number_format, examples=examples)
    back = share[:, 1:-1].flip(1) > 0.5
    return [int(each.int().argmax()) if each.any() else 99 for each in back]


# The depth is that of variance 1/n: half of it makes it less, four times more.
@pytest.mark.claim("H1")
@pytest.mark.parametrize(
    ("options", "half", "brief"),
    [
        ({"width": 16}, (6, 11), (55, 65)),
        ({"width": 96}, (6, 11), (55, 65)),
        ({"examples": 500}, (6, 11), (55, 65)),
        ({"variance": 0.5}, (5, 8), (45, 53)),
        ({"variance": 4.0}, (12, 16), (99, 99)),
    ],
)
def test_how_deep_gradients_reach(
    options: dict, half: tuple[int, int], brief: tuple[int, int], tried: Tell
) -> None:
    found = {"float16": depth_of_loss("float16", 20, **options)}
    found["bfloat16"] = depth_of_loss("bfloat16", 80, **options)
    tried(f"{ {name: f'{min(d)} to {max(d)}' for name, d in found.items()} }", **options)
    for name, (least, most) in (("float16", half), ("bfloat16", brief)):
        assert least <= min(found[name]) <= max(found[name]) <= most


# ---------------------------------------------------------------- H2: eight bits


def eight_bits(
    models: Callable[[], list[nn.Module]], rate: float, scale: float = 1.0, **options: float
) -> tuple[Tensor, Tensor]:
    """Return test losses in float64 and in E4M3 with E5M2 back."""
    optimizer = adam(rate, eps=1e-300)
    exact = learned(models(), optimizer, **options)
    return exact, learned(models(), optimizer, "E4M3", back="E5M2", scale=scale, **options)


@pytest.mark.claim("H2")
@pytest.mark.parametrize(
    ("activation", "hidden", "width", "rate", "batch"),
    [
        ("relu", 8, 64, 0.003, 64),
        ("relu", 8, 32, 0.01, 64),
        ("relu", 8, 32, 0.003, 16),
        ("tanh", 12, 32, 0.003, 64),
    ],
)
def test_what_is_level_needs_no_scale(
    activation: str, hidden: int, width: int, rate: float, batch: int, tried: Tell
) -> None:
    exact, short = eight_bits(lambda: networks(activation, hidden, width), rate, batch=batch)
    tried(
        f"{median(short):.2f} for {median(exact):.2f}",
        activation=activation,
        hidden=hidden,
        width=width,
        rate=rate,
        batch=batch,
    )
    assert abs(median(short) / median(exact) - 1) < 0.3


@pytest.mark.claim("H2")
def test_a_low_gradient_that_spreads_little_needs_a_scale_of_the_loss(tried: Tell) -> None:
    """It is its place, not its spread, that decides whether any scale is needed."""
    optimizer, options = adam(0.003, eps=1e-300), {"back": "E5M2", "factor": 2.0**-12}
    plain = learned(networks("relu", 8), optimizer, "E4M3", **options)
    saved = learned(networks("relu", 8), optimizer, "E4M3", scale=2.0**12, **options)
    tried(f"at chance {at_chance(plain)}, scaled {at_chance(saved)}", net="8 relu", factor="2^-12")
    assert (at_chance(plain), at_chance(saved)) == (6, 0)


# Narrow ones come near float64 without a scale, which comes less far there.
@pytest.mark.claim("H2")
@pytest.mark.parametrize(("width", "near"), [(16, True), (96, False)])
def test_five_sigmoid_layers_of_other_widths(width: int, near: bool, tried: Tell) -> None:
    seeds = MORE if near else SEEDS
    exact, short = eight_bits(lambda: networks(hidden=5, width=width, seeds=seeds), 0.01)
    ratio = median(short) / median(exact)
    tried(f"{ratio:.2f} times float64's loss", hidden=5, width=width, seeds=len(seeds))
    assert (ratio < 1.3) == near


@pytest.mark.claim("H2")
@pytest.mark.parametrize("scale", [2.0**12])
def test_no_one_scale_serves_nine_sigmoid_layers_in_e4m3(scale: float, tried: Tell) -> None:
    found = learned(networks(hidden=9), number_format="E4M3", scale=scale)
    tried(f"at chance {at_chance(found)}", hidden=9, back="E4M3", scale=scale)
    assert at_chance(found) == 6


# A third is of variance 1/n and twelve layers; where weights are larger it is a tenth to a fifth.
@pytest.mark.claim("H2")
@pytest.mark.parametrize(
    ("hidden", "width", "variance", "number_format", "least", "most"),
    [
        (12, 16, 1.0, "E4M3", 0.33, 0.7),
        (12, 96, 1.0, "E4M3", 0.33, 0.7),
        (12, 32, 4.0, "E4M3", 0.05, 0.3),
        (12, 32, 1.0, "E5M2", 0.0, 0.03),
        (5, 32, 1.0, "E4M3", 0.0, 0.03),
        (20, 32, 1.0, "E4M3", 0.5, 0.8),
    ],
)
def test_one_scale_for_all_or_one_for_each(
    hidden: int,
    width: int,
    variance: float,
    number_format: str,
    least: float,
    most: float,
    tried: Tell,
) -> None:
    found = []
    for parts in gradients(networks(hidden=hidden, width=width, variance=variance), 1.0, 64):
        each = whole([scaled_to(part, number_format) for part in parts])
        together = whole(parts)
        found.append([lost(together, kept) for kept in (scaled_to(together, number_format), each)])
    one, own = torch.tensor(found).T
    tried(
        f"zero {spread(one)} with one scale, {spread(own)} with one for each",
        hidden=hidden,
        width=width,
        variance=variance,
        number_format=number_format,
    )
    assert least <= one.min() <= one.max() <= most
    assert own.max() < 0.01


# How much of a tensor is zero is of how many numbers it has, and "one in ten" of E4M3: in E5M2 it
# is hardly any, and so it is in E4M3 of 64 numbers.
@pytest.mark.claim("H2")
@pytest.mark.parametrize(
    ("number_format", "octaves", "count", "tensor", "block"),
    [
        ("E4M3", 4, 64, (0.0, 0.05), (0.0, 0.02)),
        ("E4M3", 4, 256, (0.01, 0.1), (0.0, 0.03)),
        ("E4M3", 4, 1024, (0.05, 0.13), (0.005, 0.03)),
        ("E4M3", 4, 2**16, (0.2, 0.6), (0.005, 0.02)),
        ("E4M3", 2, 2**16, (0.0, 0.001), (0.0, 0.001)),
        ("E4M3", 6, 2**16, (0.7, 1.0), (0.1, 0.3)),
        ("E5M2", 4, 2**16, (0.0, 0.001), (0.0, 0.001)),
    ],
)
def test_log_normal_numbers_of_other_counts_and_formats(
    number_format: str,
    octaves: float,
    count: int,
    tensor: tuple[float, float],
    block: tuple[float, float],
    tried: Tell,
) -> None:
    found = []
    for seed in range(100, 120):
        drawn = log_normal(count, log2_median=-20, octaves=octaves, seed=seed)
        kept = [scaled_to(drawn, number_format, block=size) for size in (None, 32)]
        found.append([lost(drawn, each) for each in kept])
    whole_tensor, blocks = (median(each) for each in torch.tensor(found).T)
    tried(
        f"zero {whole_tensor:.3f}, in blocks {blocks:.3f}",
        number_format=number_format,
        octaves=octaves,
        count=count,
    )
    assert tensor[0] <= whole_tensor <= tensor[1]
    assert block[0] <= blocks <= block[1]


# ---------------------------------------------------------------- H3: weights that are rounded


def moved(models: list[nn.Module], optimizer: Callable, number_format: str) -> Tensor:
    """Return which share of each network's rounded weights the first step changes."""
    rough = [low_precision(model, number_format, weights=False) for model in models]
    with torch.no_grad():
        for parameter in (p for model in rough for p in model.parameters()):
            parameter.copy_(rounded(parameter, number_format))
    before = [[p.detach().clone() for p in model.parameters()] for model in rough]
    rule = rounding_weights(optimizer, number_format)
    train(rough, data(), optimizer=rule, steps=1, batch_size=64, seed=[*SEEDS], progress=False)
    pairs = [
        whole([p.detach() != q for p, q in zip(model.parameters(), start, strict=True)][::2])
        for model, start in zip(rough, before, strict=True)
    ]
    return torch.stack([each.double().mean() for each in pairs])


def rounds(
    models: Callable[[], list[nn.Module]], optimizer: Callable, number_format: str, **options: int
) -> dict[str, Tensor]:
    """Return test losses in float64, to nearest and by chance."""
    return {
        "float64": learned(models(), optimizer, **options),
        "nearest": learned(models(), optimizer, number_format, how="nearest", **options),
        "chance": learned(models(), optimizer, number_format, how="stochastic", **options),
    }


def ratios(found: dict[str, Tensor]) -> dict[str, float]:
    exact = median(found["float64"])
    return {name: round(median(each) / exact, 3) for name, each in found.items()}


@pytest.mark.claim("H3")
@pytest.mark.parametrize(
    ("activation", "width", "optimizer", "steps", "number_format"),
    [
        ("relu", 32, sgd(0.003), 150, "bfloat16"),
        ("relu", 16, sgd(0.01), 300, "bfloat16"),
        ("tanh", 32, sgd(0.01), 150, "bfloat16"),
        ("relu", 32, adam(3e-4), 150, "bfloat16"),
        ("relu", 32, sgd(0.01), 150, "E4M3"),
    ],
)
def test_small_updates_are_lost_to_nearest_and_kept_by_chance(
    activation: str,
    width: int,
    optimizer: Callable,
    steps: int,
    number_format: str,
    tried: Tell,
) -> None:
    share = moved(networks(activation, width=width), optimizer, number_format)
    found = rounds(lambda: networks(activation, width=width), optimizer, number_format, steps=steps)
    tried(
        f"{spread(share)} moved; {ratios(found)}",
        activation=activation,
        width=width,
        steps=steps,
        number_format=number_format,
    )
    assert share.max() < 0.5
    assert (found["nearest"] > found["float64"]).all()
    assert abs(ratios(found)["chance"] - 1) < (0.02 if number_format == "bfloat16" else 0.05)


@pytest.mark.claim("H3")
@pytest.mark.parametrize(
    ("optimizer", "most", "nearest"),
    [(adam(1e-3), True, (1.15, 1.5)), (sgd(0.01, momentum=0.9), False, (1.0, 1.15))],
    ids=["adam", "momentum"],
)
def test_the_first_step_does_not_tell_with_other_optimizers(
    optimizer: Callable, most: bool, nearest: tuple[float, float], tried: Tell
) -> None:
    """Adam's first update is its longest, and momentum's its shortest."""
    share = moved(networks("relu"), optimizer, "bfloat16")
    found = rounds(lambda: networks("relu"), optimizer, "bfloat16")
    tried(f"{spread(share)} moved; {ratios(found)}", rate="0.001 Adam" if most else "0.01, 0.9")
    assert (share.min() > 0.8) if most else (share.max() < 0.3)
    assert nearest[0] < ratios(found)["nearest"] < nearest[1]
    assert abs(ratios(found)["chance"] - 1) < 0.05


@pytest.mark.claim("H3")
def test_late_updates_are_small_at_a_large_rate_too(tried: Tell) -> None:
    """And by then nothing is lost by it: to nearest the loss is that of float64 all the same."""
    seen: list[dict[str, Tensor]] = []

    def keep(snapshot: Snapshot) -> None:
        seen.append({k: v for k, v in snapshot.parameters.items() if k.endswith("weight")})

    models = networks("relu")
    train(models, data(), optimizer=sgd(0.1), steps=150, batch_size=64, seed=[*SEEDS], observe=keep,
          progress=False)  # fmt: skip
    small = [
        whole([(q[k] - p[k]).abs() < spacing(p[k], "bfloat16") / 2 for k in p]).double().mean()
        for p, q in pairwise(seen)
    ]
    exact = learned(networks("relu"), sgd(0.1))
    nearest = learned(networks("relu"), sgd(0.1), "bfloat16", how="nearest")
    ratio = median(nearest) / median(exact)
    tried(f"below half a gap {small[0]:.2f}, last {small[-1]:.2f}; {ratio:.2f} times", rate=0.1)
    assert small[0] < 0.4
    assert small[-1] > 0.5
    assert abs(ratio - 1) < 0.2


@pytest.mark.claim("H3")
def test_by_chance_is_no_better_where_gaps_are_wide_and_updates_below_half_of_them(
    tried: Tell,
) -> None:
    """What chance keeps of the updates it gives back as noise, at a rate of 0.3 in E4M3."""
    share = moved(networks("relu"), sgd(0.3), "E4M3")
    found = rounds(lambda: networks("relu", seeds=MORE), sgd(0.3), "E4M3")
    tried(f"{spread(share)} moved; {ratios(found)}", rate=0.3, number_format="E4M3", seeds=24)
    assert share.max() < 0.5
    assert ratios(found)["chance"] > 1.1
    assert ratios(found)["chance"] > ratios(found)["nearest"] - 0.05


# Above half a gap a sum to nearest grows too fast. Below a power of two the gap is half of it, so
# that what is lost upward from 1 is kept, and too much of it, downward.
@pytest.mark.claim("H3")
@pytest.mark.parametrize(
    ("term", "count", "number_format", "nearest"),
    [
        (0.001, 1000, "bfloat16", 1.0),
        (0.003, 300, "bfloat16", 1.0),
        (-0.003, 100, "bfloat16", 0.609375),
        (0.005, 100, "bfloat16", 1.78125),
        (0.0004, 1000, "float16", 1.0),
        (0.0006, 1000, "float16", 1.9765625),
        (0.03, 30, "E4M3", 1.0),
    ],
)
def test_sums_of_small_terms(
    term: float, count: int, number_format: str, nearest: float, tried: Tell
) -> None:
    terms = torch.full((400, count), term, dtype=torch.float64)
    found = sums.running_sum(terms[0], number_format, start=1.0)[-1].item()
    source = torch.Generator().manual_seed(100)
    drawn = sums.running_sum(terms, number_format, start=1.0, generator=source)[:, -1]
    error = (drawn.std() / 20).item()
    tried(f"{found:.4f}, by chance {drawn.mean():.4f} on average", term=term, count=count)
    assert found == pytest.approx(nearest, abs=1e-9)
    assert abs(drawn.mean().item() - 1 - term * count) < 4 * error
    assert error < 0.02
