"""The verdicts of `normalization` at settings that the chapter does not show."""

from collections.abc import Callable, Sequence

import pytest
import torch
from adversaries import SEEDS, Tell, learn, numbers
from torch import Tensor, nn

from companion import normalization
from companion.backprop import slope_per_layer
from companion.data import Split, digits, generator
from companion.normalization import explosion, landscape
from companion.training import sgd, train

pytestmark = pytest.mark.files("book/normalization.ipynb")


def named(models: Sequence[nn.Module], rate: float | Sequence[float], **options: int) -> Tensor:
    """Return what share of the test digits each network names after training."""
    return learn(models, rate, **options).test_accuracy[-1]


def through_a_norm(
    norm: Callable[..., Tensor], x: Tensor, momentum: float, eps: float
) -> list[Tensor]:
    """Return output, input gradient and running averages in training, then the output after it."""
    mean, var = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    weight, bias = (torch.linspace(a, a + 1, x.shape[1], dtype=x.dtype) for a in (0.5, -2.0))
    x = x.clone().requires_grad_()
    y = norm(x, mean, var, weight, bias, True, momentum, eps)
    (gradient,) = torch.autograd.grad(y.sin().square().sum(), x)
    after = norm(x.detach(), mean, var, weight, bias, False, momentum, eps)
    return [y.detach(), gradient, mean, var, after]


@pytest.mark.claim("N1")
@pytest.mark.parametrize(
    ("shape", "shift", "momentum", "eps", "digits_kept"),
    [
        ((3, 64), 0.0, 0.01, 1e-3, 13),
        ((8, 3, 5, 5), 0.0, 0.5, 1e-5, 13),
        ((32, 7), 1e6, 0.1, 1e-5, 8),  # so far off zero the difference loses digits, in torch too
    ],
)
def test_batch_norm_by_hand_is_torchs(
    shape: tuple[int, ...],
    shift: float,
    momentum: float,
    eps: float,
    digits_kept: int,
    tried: Tell,
) -> None:
    x = shift + torch.randn(shape, generator=generator(100), dtype=torch.float64)
    ours = through_a_norm(normalization.batch_norm, x, momentum, eps)
    theirs = through_a_norm(nn.functional.batch_norm, x, momentum, eps)
    off = max(
        ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True)
    )
    tried(f"differs by {off:.0e}", shape=shape, shift=shift, momentum=momentum, eps=eps)
    assert off < 10**-digits_kept
    if shift:
        assert off > 1e-13
    rest = [i for i in range(len(shape)) if i != 1]
    unbiased = (1 - momentum) + momentum * x.var(rest, unbiased=True)
    biased = (1 - momentum) + momentum * x.var(rest, unbiased=False)
    assert (theirs[3] - unbiased).abs().max() < 1e-2 * (theirs[3] - biased).abs().max()


def around(
    activation: str, variance: float, depth: int, rate: float, steps: int, batch: int
) -> list[Tensor]:
    """Return what networks name with batch norm before the activation and after it."""
    sizes = [64, *depth * [32], 10]
    options = {"weight_variance": variance, "seeds": SEEDS}
    return [
        named(
            landscape.networks(sizes, activation, after=after, **options),
            rate,
            steps=steps,
            batch=batch,
        )
        for after in (False, True)
    ]


@pytest.mark.claim("N2")
@pytest.mark.parametrize(
    ("activation", "variance", "depth", "rate", "steps", "batch"),
    [
        ("relu", 2.0, 8, 0.03, 60, 64),
        ("tanh", 1.0, 8, 0.3, 60, 64),
        ("sigmoid", 1.0, 5, 0.1, 60, 32),
        ("relu", 32.0, 12, 0.1, 60, 32),
    ],
)
def test_after_the_activation_it_works_as_well_as_before(
    activation: str,
    variance: float,
    depth: int,
    rate: float,
    steps: int,
    batch: int,
    tried: Tell,
) -> None:
    before, after = around(activation, variance, depth, rate, steps, batch)
    tried(
        f"before the activation {numbers(before)} are named, after it {numbers(after)}",
        activation=activation,
        variance=variance,
        depth=depth,
        rate=rate,
        batch=batch,
    )
    assert after.median() > before.median() - 0.05


@pytest.mark.claim("N2")
@pytest.mark.parametrize(("depth", "rate", "steps"), [(5, 0.1, 60), (10, 0.3, 40)])
def test_after_large_tanh_layers_it_works_worse(
    depth: int, rate: float, steps: int, tried: Tell
) -> None:
    before, after = around("tanh", 16.0, depth, rate, steps, 64)
    tried(f"before {numbers(before)}, after {numbers(after)}", depth=depth, rate=rate, steps=steps)
    assert (before > after + 0.1).all()


@pytest.mark.claim("N2")
@pytest.mark.parametrize(
    ("activation", "variance", "alike"),
    [("relu", 2.0, True), ("relu", 32.0, True), ("tanh", 1.0, True), ("tanh", 25.0, False)],
)
def test_the_gradient_explodes_by_about_the_same_factor(
    activation: str, variance: float, alike: bool, tried: Tell
) -> None:
    before, after = (
        10
        ** (
            2
            * slope_per_layer(
                explosion.gradient_flow(
                    "batch",
                    activation,
                    after=after,
                    weight_variance=variance,
                    width=96,
                    depth=12,
                    batch_size=40,
                    seeds=SEEDS,
                )
            ).mean()
        )
        for after in (False, True)
    )
    tried(
        f"δ² by {before:.2f} a layer with the norm before, {after:.2f} after",
        activation=activation,
        variance=variance,
    )
    assert (abs(before / after - 1) < 0.1) == alike
    assert alike or after > 1.8 * before


@pytest.mark.claim("N3")
@pytest.mark.parametrize(
    ("activation", "variance", "depth", "width", "batch", "powers"),
    [
        ("sigmoid", 1.0, 30, 64, 32, 14.0),
        ("sigmoid", 4.0, 40, 64, 128, 10.0),
        ("tanh", 0.25, 30, 64, 32, 7.0),
    ],
)
def test_with_batch_norm_no_power_of_ten_is_lost(
    activation: str,
    variance: float,
    depth: int,
    width: int,
    batch: int,
    powers: float,
    tried: Tell,
) -> None:
    without, with_norm = (
        explosion.gradient_flow(
            norm,
            activation,
            weight_variance=variance,
            width=width,
            depth=depth,
            batch_size=batch,
            seeds=SEEDS,
        )[:, 0]
        for norm in ("none", "batch")
    )
    tried(
        f"powers of ten: without {numbers(without, 1)}, with {numbers(with_norm, 1)}",
        activation=activation,
        variance=variance,
        depth=depth,
        width=width,
    )
    assert (without < -powers).all()
    assert (with_norm > 0.0).all()


def without_a_norm(
    sizes: list[int], seeds: range, rate: float, steps: int, batch: int
) -> tuple[Tensor, Tensor]:
    """Return the powers of ten before training, and the share named at three rates."""
    plain = landscape.networks(sizes, norm="none", seeds=3 * [*seeds])
    rates = [factor * rate for factor in (1 / 3, 1, 3) for _ in seeds]
    found = learn(plain, rates, steps, batch)
    level = (found.delta_norms[0, :, 0] / found.delta_norms[0, :, -2]).log10().median()
    return level, found.test_accuracy[-1].view(3, -1).median(-1).values


@pytest.mark.claim("N3")
@pytest.mark.parametrize(
    ("depth", "width", "rate", "steps", "batch", "left"),
    [
        (16, 24, 0.03, 100, 64, (0.6, 0.95)),  # at a third of the rate most is there after 10 steps
        (12, 48, 0.3, 60, 32, (0.0, 0.6)),
    ],
)
def test_relu_layers_explode_and_then_recover(
    depth: int,
    width: int,
    rate: float,
    steps: int,
    batch: int,
    left: tuple[float, float],
    tried: Tell,
) -> None:
    sizes, seeds = [64, *depth * [width], 10], SEEDS[:3]
    run = train(
        landscape.networks(sizes, seeds=seeds),
        digits(),
        optimizer=sgd(rate),
        steps=steps,
        batch_size=batch,
        record_every=10,
        progress=False,
    )
    powers = run.delta_norms.log10()
    lost = (powers[..., 0] - powers[..., -2]).median(-1).values
    upper = powers[-1, :, depth // 2] - powers[-1, :, -2]
    level, theirs = without_a_norm(sizes, seeds, rate, steps, batch)
    ours = run.test_accuracy[-1]
    tried(
        f"{lost[0]:.1f} powers of ten before training, {lost[1]:.1f} after 10 steps and"
        f" {lost[-1]:.1f} at the end (upper half {numbers(upper)}); plain {level:.1f};"
        f" {numbers(ours)} named, plain {numbers(theirs)}",
        depth=depth,
        width=width,
        rate=rate,
        steps=steps,
        batch=batch,
    )
    assert abs(lost[0] / ((depth - 1) * 0.083) - 1) < 0.3
    assert abs(level) < 0.5 * lost[0]
    assert left[0] < lost[1] / lost[0] < left[1]
    assert upper.median() > 0.0
    assert (ours.median() > theirs).all()


def trained_at(
    norm: str, activation: str, depth: int, width: int, variances: Sequence[float], rates: Tensor
) -> Tensor:
    """Return (variances, rates) whether three networks of three then name half of the digits."""
    seeds = SEEDS[:3]
    models = []
    for variance in variances:
        made = landscape.networks(
            [64, *depth * [width], 10],
            activation,
            norm=norm,
            weight_variance=variance,
            seeds=len(rates) * [*seeds],
        )
        for model in made:
            model[-1].weight.data.mul_((2.0 / variance) ** 0.5)  # only hidden weights differ
        models += made
    each = rates.repeat_interleave(len(seeds)).repeat(len(variances))
    found = named(models, each.tolist(), steps=40)
    return (found.view(len(variances), len(rates), -1) > 0.5).all(-1)


@pytest.mark.claim("N4")
@pytest.mark.parametrize(("activation", "depth", "width"), [("relu", 9, 24), ("tanh", 6, 32)])
def test_it_allows_higher_rates(activation: str, depth: int, width: int, tried: Tell) -> None:
    rates = torch.tensor([0.03, 0.3, 1.0, 3.0])
    without, with_norm = (
        rates[trained_at(norm, activation, depth, width, [2.0], rates)[0]]
        for norm in ("none", "batch")
    )
    tried(
        f"all train at {numbers(with_norm)} with batch norm, at {numbers(without)} without",
        activation=activation,
        depth=depth,
        width=width,
    )
    assert with_norm.max() >= 1.0
    assert not len(without) or with_norm.max() > without.max()


@pytest.mark.claim("N4")
@pytest.mark.parametrize(("activation", "depth", "width"), [("relu", 5, 24), ("tanh", 6, 32)])
def test_it_makes_the_initialization_matter_less(
    activation: str, depth: int, width: int, tried: Tell
) -> None:
    variances, rates = torch.tensor([0.05, 8.0, 80.0]), torch.tensor([0.1, 0.6, 3.0])
    without, with_norm = (
        trained_at(norm, activation, depth, width, variances.tolist(), rates)
        for norm in ("none", "batch")
    )
    tried(
        f"at one of three rates all train from variances {numbers(variances[with_norm.any(1)])}"
        f" with batch norm, {numbers(variances[without.any(1)])} without",
        activation=activation,
        depth=depth,
        width=width,
        rates=rates.tolist(),
    )
    assert with_norm.any(1).all()
    assert without.any(1).sum() < len(variances)
    first = with_norm.float().argmax(1)
    assert first[-1] > first[0]


@pytest.mark.claim("N4")
@pytest.mark.parametrize(("rate", "steps", "depth"), [(0.5, 60, 5), (1.0, 40, 4)])
def test_how_well_it_trains_depends_on_the_initialization(
    rate: float, steps: int, depth: int, tried: Tell
) -> None:
    sizes = [64, *depth * [32], 10]
    usual, large = (
        named(landscape.networks(sizes, weight_variance=variance, seeds=SEEDS), rate, steps=steps)
        for variance in (2.0, 300.0)
    )
    held = landscape.networks(sizes, seeds=SEEDS)
    for model in held:
        for layer in [*model][:-1]:
            if isinstance(layer, nn.Linear):
                layer.weight.requires_grad_(False)
    fixed = named(held, rate, steps=steps)
    tried(
        f"{numbers(usual)} named from variance 2, {numbers(large)} from 300,"
        f" {numbers(fixed)} with hidden weights held",
        rate=rate,
        steps=steps,
        depth=depth,
    )
    assert (usual > 0.8).sum() >= 5
    assert (large > 0.8).sum() <= 1
    assert fixed.median() > 0.5


@pytest.mark.claim("N5")
@pytest.mark.parametrize(
    ("depth", "width", "rate", "layer", "batch"), [(6, 48, 0.03, 4, 64), (13, 24, 0.3, 7, 200)]
)
def test_means_move_less_and_the_gradient_changes_less_after_long_updates_only(
    depth: int, width: int, rate: float, layer: int, batch: int, tried: Tell
) -> None:
    ratios = {}
    for share in (None, 0.002, 0.04):
        without, with_norm = (
            landscape.covariate_shift(
                landscape.networks([64, *(depth - 1) * [width], 10], norm=norm, seeds=SEEDS),
                digits(),
                layer=layer,
                share=share,
                learning_rate=rate,
                steps=20,
                measure_every=5,
                batch_size=batch,
            )
            for norm in ("none", "batch")
        )
        ratios[share] = [
            (one.nanmean(0).median() / other.nanmean(0).median()).item()
            for one, other in zip(with_norm[:2], without[:2], strict=True)
        ]
    tried(
        "with batch norm over without: means "
        + ", ".join(f"{means:.2f}" for means, _ in ratios.values())
        + "; gradient "
        + ", ".join(f"{gradient:.2f}" for _, gradient in ratios.values())
        + " (the rate's update, one of 0.2 %, one of 4 %)",
        depth=depth,
        width=width,
        rate=rate,
        layer=layer,
        batch=batch,
    )
    assert all(means < 1 for means, _ in ratios.values())
    assert min(ratios[None][1], ratios[0.002][1]) > 0.9
    assert ratios[0.04][1] < 0.9


@pytest.mark.claim("N5")
@pytest.mark.parametrize(
    ("activation", "variance", "depth", "width", "rate", "raw", "gains"),
    [
        ("relu", 2.0, 3, 32, 0.03, False, (None, True)),
        ("relu", 2.0, 3, 128, 0.3, False, (None, True)),
        ("relu", 2.0, 8, 32, 0.3, False, (False, True)),
        ("relu", 2.0, 12, 48, 0.03, False, (False, True)),
        ("relu", 2.0, 16, 32, 0.03, False, (False, True)),
        ("tanh", 1.0, 3, 32, 0.03, False, (False, False)),
        ("tanh", 1.0, 3, 32, 0.3, True, (True, True)),
        ("tanh", 2.0, 3, 32, 0.03, True, (True, True)),
    ],
)
def test_how_far_the_gradient_can_be_trusted(
    activation: str,
    variance: float,
    depth: int,
    width: int,
    rate: float,
    raw: bool,
    gains: tuple[bool | None, bool],
    tried: Tell,
) -> None:
    without, with_norm = (
        landscape.landscapes(
            landscape.networks(
                [64, *depth * [width], 10],
                activation,
                norm=norm,
                weight_variance=variance,
                seeds=SEEDS,
            ),
            raw_pixels() if raw else digits(),
            step_sizes=[0.002, 0.04],
            relative=True,
            learning_rate=rate,
            steps=20,
            measure_every=5,
            batch_size=96,
        )
        .relative_changes.log()
        .nanmean(0)
        for norm in ("none", "batch")
    )
    ratios = (without - with_norm).median(0).values.exp().tolist()
    tried(
        "change of the gradient, without over with, after a step of 0.2 and of 4 %: "
        + ", ".join(f"{ratio:.2f}" for ratio in ratios),
        activation=activation,
        variance=variance,
        depth=depth,
        width=width,
        rate=rate,
        raw=raw,
    )
    for ratio, gain in zip(ratios, gains, strict=True):
        if gain is not None:
            assert ratio > 1.15 if gain else ratio < 1.3


@pytest.mark.claim("N5")
@pytest.mark.parametrize(
    ("depth", "layer", "share", "means_more", "gradient_more"),
    [  # not in the middle: each broke a sentence that did not say which layer
        (16, 2, None, True, True),
        (16, 2, 0.03, False, True),
        (8, 8, 0.003, False, False),
        (16, 16, 0.003, False, False),
    ],
)
def test_the_layer_in_the_middle_is_not_every_layer(
    depth: int, layer: int, share: float | None, means_more: bool, gradient_more: bool, tried: Tell
) -> None:
    without, with_norm = (
        landscape.covariate_shift(
            landscape.networks([64, *(depth - 1) * [48], 10], norm=norm, seeds=SEEDS),
            digits(),
            layer=layer,
            share=share,
            learning_rate=0.1,
            steps=20,
            measure_every=5,
            batch_size=128,
        )
        for norm in ("none", "batch")
    )
    means, gradient = (
        (one.nanmean(0).median() / other.nanmean(0).median()).item()
        for one, other in zip(with_norm[:2], without[:2], strict=True)
    )
    tried(
        f"with batch norm over without: means {means:.2f}, gradient {gradient:.2f}",
        depth=depth,
        layer=layer,
        share=share,
    )
    assert means > 1 if means_more else means < 1
    assert gradient > 1 if gradient_more else gradient < 0.9


@pytest.mark.claim("N5")
@pytest.mark.parametrize(
    ("width", "rate", "lower"),
    [(64, 0.3, True), (32, 0.03, False)],  # at a third of the rate it is no lower
)
def test_roughness_is_lower_at_the_rate_and_above_it(
    width: int, rate: float, lower: bool, tried: Tell
) -> None:
    without, with_norm = (
        landscape.landscapes(
            landscape.networks([64, *3 * [width], 10], norm=norm, seeds=SEEDS),
            digits(),
            step_sizes=[0.02, 0.1, 0.3],
            learning_rate=rate,
            steps=20,
            measure_every=5,
            batch_size=64,
        )
        .smoothness.nanmean(0)
        .median()
        for norm in ("none", "batch")
    )
    tried(
        f"roughness {without:.2f} without batch norm, {with_norm:.2f} with it",
        width=width,
        rate=rate,
    )
    assert with_norm < without if lower else with_norm > 0.9 * without


def raw_pixels() -> Split:
    data = digits(standardize=False)
    return data._replace(train_inputs=data.train_inputs / 16)


def on_the_linear_part(models: Sequence[nn.Sequential]) -> Tensor:
    """Return what share of what enters the top sigmoids lies between −1 and 1."""
    with torch.no_grad():
        return torch.stack(
            [(model[:-2](digits().test_inputs).abs() < 1).double().mean() for model in models]
        )


@pytest.mark.claim("N6")
@pytest.mark.parametrize(
    ("depth", "width", "variance", "rate", "steps"),
    [
        (5, 48, 16.0, 0.15, 100),
        (8, 32, 16.0, 1.0, 50),
        (5, 24, 2.0, 0.5, 100),
        (4, 48, 2.0, 0.5, 200),
    ],
)
def test_it_holds_sigmoids_on_their_linear_part(
    depth: int, width: int, variance: float, rate: float, steps: int, tried: Tell
) -> None:
    shares, learned = {}, {}
    for norm in ("none", "batch"):
        models = landscape.networks(
            [64, *depth * [width], 10],
            "sigmoid",
            norm=norm,
            weight_variance=variance,
            seeds=SEEDS,
        )
        before = on_the_linear_part(models)
        learned[norm] = named(models, rate, steps=steps)
        shares[norm] = before, on_the_linear_part(models)
    tried(
        "; ".join(
            f"{norm}: {numbers(shares[norm][0])}, after training {numbers(shares[norm][1])},"
            f" named {numbers(learned[norm])}"
            for norm in shares
        ),
        depth=depth,
        width=width,
        variance=variance,
        rate=rate,
        steps=steps,
    )
    before, after = shares["batch"]
    assert (abs(before - 0.68) < 0.07).all()
    assert (after < before).all()
    # At a third of the rate it is not many that training takes off the linear part.
    assert (before - after).median() > 0.1 or rate < 0.2
    if variance > 10:
        assert abs(shares["none"][0].median() - 1 / 3) < 0.12
    else:
        assert (shares["none"][0] > before).all()
        # With four layers and twice the steps they begin to learn, and most stay there.
        assert (learned["none"].median() < 0.2) == (depth > 4)
        assert (shares["none"][1] > after).all()


def norms_on_batches(batch: int, depth: int, rate: float, steps: int) -> dict[str, Tensor]:
    return {
        norm: named(
            landscape.networks([64, *depth * [32], 10], norm=norm, seeds=SEEDS),
            rate,
            steps=steps,
            batch=batch,
        )
        for norm in ("batch", "layer")
    }


@pytest.mark.claim("N7")
@pytest.mark.parametrize(
    ("depth", "rate", "steps"),
    [(4, 0.05, 90), (3, 0.3, 50)],
)
def test_batch_norm_fails_at_small_batches(
    depth: int, rate: float, steps: int, tried: Tell
) -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        norms_on_batches(1, depth, rate, 1)
    alone = named(
        landscape.networks([64, *depth * [32], 10], norm="layer", seeds=SEEDS),
        rate,
        steps=steps,
        batch=1,
    )
    found = {batch: norms_on_batches(batch, depth, rate, steps) for batch in (2, 4, 8, 40)}
    tried(
        f"layer norm on one: {numbers(alone)}; "
        + "; ".join(
            f"on {batch}: batch norm {numbers(each['batch'])}, layer norm {numbers(each['layer'])}"
            for batch, each in found.items()
        ),
        depth=depth,
        rate=rate,
        steps=steps,
    )
    assert (found[2]["batch"] < 0.4).all()
    behind = found[4]["layer"].median() - found[4]["batch"].median()
    # At three times the rate three layers are not clearly behind on batches of four.
    assert behind > 0.05 if rate < 0.2 else behind < 0.2
    for batch, level in ((8, 0.12), (40, 0.07)):
        difference = found[batch]["batch"].median() - found[batch]["layer"].median()
        assert abs(difference) < level
    assert alone.median() > 0.15


@pytest.mark.claim("N7")
@pytest.mark.parametrize(("depth", "rate", "size"), [(4, 0.1, 8), (3, 0.3, 4)])
def test_in_small_batches_of_the_test_digits_it_names_fewer(
    depth: int, rate: float, size: int, tried: Tell
) -> None:
    models = landscape.networks([64, *depth * [32], 10], seeds=SEEDS)
    whole = named(models, rate, steps=50, batch=60)
    parts = digits().test_inputs.split(size)
    with torch.no_grad():
        answers = torch.stack([torch.cat([model(p) for p in parts]).argmax(-1) for model in models])
    small = (answers == digits().test_targets).double().mean(-1)
    tried(
        f"{numbers(whole)} named as one batch, {numbers(small)} in batches",
        depth=depth,
        rate=rate,
        size=size,
    )
    assert (small < whole).all()


def padded(norm: str, length: int, value: float) -> float:
    """Return how large the norm's output is over 20 real steps followed by so many of padding."""
    x = torch.randn(8, 20, 16, generator=generator(100), dtype=torch.float64)
    filled = torch.cat([x, torch.full((8, length, 16), value).double()], dim=1)
    normalized = normalization.norm_module(norm, 16)(filled.view(-1, 16)).view_as(filled)
    return normalized[:, :20].square().mean().sqrt().item()


@pytest.mark.claim("N8")
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_layer_norm_does_not_see_padding(value: float, tried: Tell) -> None:
    lengths = (0, 10, 40, 160)
    batch, layer = ([padded(norm, n, value) for n in lengths] for norm in ("batch", "layer"))
    tried(
        f"the real steps' output is {numbers(torch.tensor(batch))} in batch norm,"
        f" {numbers(torch.tensor(layer))} in layer norm",
        padding=lengths,
        value=value,
    )
    assert max(layer) - min(layer) < 1e-12
    assert batch == sorted(batch)
    assert batch[-1] > 1.5 * batch[0]


class Reader(nn.Module):
    """A tanh network that reads its input in parts, with layer norm before the tanh or without."""

    def __init__(self, norm: str, parts: int, units: int, variance: float, seed: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(64 // parts, units).double()
        self.recurrent = nn.Linear(units, units, bias=False).double()
        self.outputs = nn.Linear(units, 10).double()
        self.norm = normalization.norm_module("layer", units) if norm == "layer" else nn.Identity()
        draw = generator(seed)
        for layer, scale in ((self.inputs, 1.0), (self.recurrent, variance), (self.outputs, 1.0)):
            nn.init.normal_(layer.weight, 0.0, (scale / layer.in_features) ** 0.5, generator=draw)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        size = self.inputs.in_features
        h = x.new_zeros(*x.shape[:-1], self.outputs.in_features)
        for part in x.unflatten(-1, (-1, size)).unbind(-2):
            h = self.norm(self.inputs(part) + self.recurrent(h)).tanh()
        return self.outputs(h)


@pytest.mark.claim("N8")
@pytest.mark.parametrize(
    ("variance", "parts", "units", "rate", "steps"),
    [(16.0, 16, 48, 0.2, 60), (16.0, 32, 32, 0.5, 40), (1.0, 8, 32, 0.2, 60)],
)
def test_layer_norm_helps_recurrent_weights_that_are_too_large(
    variance: float, parts: int, units: int, rate: float, steps: int, tried: Tell
) -> None:
    without, with_norm = (
        named([Reader(norm, parts, units, variance, seed) for seed in SEEDS], rate, steps=steps)
        for norm in ("none", "layer")
    )
    tried(
        f"{numbers(without)} named without, {numbers(with_norm)} with layer norm",
        variance=variance,
        parts=parts,
        units=units,
        rate=rate,
        steps=steps,
    )
    if variance > 1:
        assert with_norm.median() > 1.6 * without.median()
    else:
        assert with_norm.median() < without.median() + 0.05


@pytest.mark.claim("N8")
@pytest.mark.parametrize("units", [24, 96])
def test_fifty_steps_back_the_gradient_vanished_with_layer_norm_as_without(
    units: int, tried: Tell
) -> None:
    left = {"none": [], "layer": []}
    for norm, found in left.items():
        for seed in SEEDS:
            model, x = Reader(norm, 64, units, 1.0, seed), digits().test_inputs[:16]
            first = x[:, :14].clone().requires_grad_()
            last = x[:, -1:].clone().requires_grad_()
            y = model(torch.cat([first, x[:, 14:-1], last], -1)).square().sum()
            early, late = torch.autograd.grad(y, [first, last])
            found.append((early[:, -1].norm() / late.norm()).log10())
    none, layer = torch.tensor(left["none"]), torch.tensor(left["layer"])
    tried(f"powers of ten: {numbers(none, 1)} without, {numbers(layer, 1)} with", units=units)
    assert (none < -1).all()
    assert (layer < -1).all()


@pytest.mark.claim("N9")
@pytest.mark.parametrize(("depth", "width", "rate", "steps"), [(5, 24, 0.1, 100), (4, 48, 1.0, 60)])
def test_where_the_scales_start_they_stay_apart(
    depth: int, width: int, rate: float, steps: int, tried: Tell
) -> None:
    end, share = [], []
    for start in (0.1, 1.0, 10.0, None):
        models = landscape.networks([64, *depth * [width], 10], "tanh", seeds=SEEDS)
        norms = [[each for each in m if isinstance(each, nn.BatchNorm1d)] for m in models]
        for norm in [norm for each in norms for norm in each]:
            norm.weight.data.fill_(1.0 if start is None else start)
            if start is None:
                norm.weight.requires_grad_(False)
                norm.bias.requires_grad_(False)
        share.append(named(models, rate, steps=steps).median().item())
        lower = [norm.weight.mean() for each in norms for norm in each[: depth // 2]]
        end.append(torch.stack(lower).mean().item())
    tried(
        f"mean γ of the lower layers {numbers(torch.tensor(end[:3]))}; named"
        f" {numbers(torch.tensor(share))}, the last without γ and β",
        depth=depth,
        width=width,
        rate=rate,
        steps=steps,
    )
    assert end[0] < 0.5
    assert abs(end[1] - 1) < 0.3
    assert abs(end[2] - 10) < 2
    assert share[2] < share[1]
    assert share[3] > max(share[:3]) - 0.03


@pytest.mark.claim("N9")
@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_a_common_scale_changes_nothing_before_another_norm(scale: float, tried: Tell) -> None:
    models = [landscape.networks([64, 48, 24, 10], seeds=[100])[0] for _ in range(2)]
    for model in models:
        model[1].bias.data.copy_(torch.linspace(-1, 1, 48))
    for parameter in models[1][1].parameters():
        parameter.data.mul_(scale)
    x = digits().test_inputs
    outputs = [model(x).detach() for model in models]
    off = ((outputs[1] - outputs[0]).norm() / outputs[0].norm()).item()
    tried(f"the outputs differ by {off:.0e}", scale=scale)
    assert 0 < off < 1e-2  # not quite nothing: ε is not scaled along


@pytest.mark.claim("N10")
@pytest.mark.parametrize(
    ("widths", "batch", "short", "steps"), [((200, 80), 32, 10, 100), ((120, 40), 128, 8, 120)]
)
def test_it_helps_a_classifier_at_a_short_budget(
    widths: tuple[int, int], batch: int, short: int, steps: int, tried: Tell
) -> None:
    rates, seeds = (0.03, 0.1, 0.3, 1.0), SEEDS[:3]
    errors = {}
    for norm in ("none", "batch"):
        for budget in (short, steps):
            models = landscape.networks([64, *widths, 10], norm=norm, seeds=4 * [*seeds])
            each = [rate for rate in rates for _ in seeds]
            found = named(models, each, steps=budget, batch=batch)
            errors[norm, budget] = (100 * (1 - found.view(4, -1).median(-1).values)).min().item()
    high = {
        norm: named(
            landscape.networks([64, *widths, 10], norm=norm, seeds=seeds),
            3.0,
            steps=30,
            batch=batch,
        )
        for norm in ("none", "batch")
    }
    tried(
        "; ".join(f"{norm} at {budget}: {e:.1f} in 100" for (norm, budget), e in errors.items())
        + f"; at a rate of 3 {numbers(high['none'])} without, {numbers(high['batch'])} with",
        widths=widths,
        batch=batch,
    )
    assert errors["batch", short] < errors["none", short]
    assert abs(errors["batch", steps] - errors["none", steps]) < 3
    assert max(errors["batch", steps], errors["none", steps]) < 8
    assert (high["none"] < 0.3).all()
    assert (high["batch"] > 0.5).all()
