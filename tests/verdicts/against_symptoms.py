"""The verdicts of `symptoms` at settings that the chapter does not show, from their sentences."""

import math
from typing import NamedTuple

import pytest
import torch
from adversaries import SEEDS, Tell, accuracy, data, drawn, spread, trained
from torch import Tensor
from torch.nn import functional

from companion import activations
from companion.backprop import MLP, backward, classifiers, forward, random_mlp
from companion.training import adam, train

pytestmark = pytest.mark.files("book/symptoms.ipynb")


def answers(network: MLP) -> Tensor:
    """Return what networks say of the test images: probabilities, (networks, images, 10)."""
    return forward(network, data().test_inputs).output.softmax(-1)


def moved(before: MLP, after: MLP) -> Tensor:
    """Return how far each layer moved, per starting norm: (layers, networks)."""
    pairs = zip(before.weights, after.weights, strict=True)
    return torch.stack([(b - a).norm(dim=(1, 2)) / b.norm(dim=(1, 2)) for b, a in pairs])


@pytest.mark.claim("S2")
@pytest.mark.parametrize(
    ("depth", "rate", "steps", "batch"),
    [(10, 0.3, 150, 64), (14, 0.1, 150, 64), (10, 0.03, 300, 16)],
)
def test_top_layers_change_and_bottom_layers_hardly(
    depth: int, rate: float, steps: int, batch: int, tried: Tell
) -> None:
    network = drawn("sigmoid", 1.0, depth)
    before = network.map(torch.clone)
    loss = trained(network, rate=rate, steps=steps, batch=batch).loss
    far = moved(before, network)
    tried(
        f"the last moved by {spread(far[-1])}, the first four by {spread(far[:4])}",
        depth=depth,
        rate=rate,
        steps=steps,
        batch=batch,
    )
    assert (far[-1] > 0.03).all()
    assert (far[-1] < 0.4).all()
    assert (far[:4] < far[-1] / 1000).all()
    early, late = loss[steps // 5 : 2 * steps // 5].mean(0), loss[-steps // 5 :].mean(0)
    assert (early - late < 0.05).all()
    assert (late > 2.2).all()


@pytest.mark.claim("S2")
@pytest.mark.parametrize(("depth", "rate", "steps"), [(10, 0.3, 100), (14, 0.1, 300)])
def test_small_relu_layers_stand_still_together(
    depth: int, rate: float, steps: int, tried: Tell
) -> None:
    network = drawn("relu", 1 / 3, depth)
    before = network.map(torch.clone)
    loss = trained(network, rate=rate, steps=steps).loss
    far = moved(before, network)
    tried(f"they moved by {spread(far)}", depth=depth, rate=rate, steps=steps)
    assert (far < 0.02).all()
    assert (loss[:20].mean(0) - loss[-20:].mean(0) < 0.02).all()


@pytest.mark.claim("S2")
def test_adam_moves_the_bottom_although_the_gradient_vanished(tried: Tell) -> None:
    # Here the sentence failed, which did not say that it is about gradient descent.
    models = classifiers("sigmoid", 1.0, 10, width=24, seeds=SEEDS)
    record = train(
        models, data(), optimizer=adam(1e-3), steps=150, record_every=150, progress=False
    )
    far = (record.displacement[-1] / record.weight_norms[0])[:, record.parameters()]
    vanished = record.delta_norms[0, :, 0] / record.delta_norms[0, :, -1]
    tried(
        f"δ shrank to {spread(vanished)}, yet the first layer moved by {spread(far[:, 0])}, "
        f"the last by {spread(far[:, -1])}",
        optimizer="Adam",
        rate=1e-3,
    )
    assert (vanished < 1e-4).all()
    assert (far[:, :4].amin(1) > far[:, -1] / 3).all()


@pytest.mark.claim("S3")
@pytest.mark.parametrize(
    ("depth", "width", "rate", "steps", "decay"),
    [(14, 24, 0.3, 150, 0.0), (10, 96, 0.03, 150, 0.03), (10, 24, 0.1, 450, 0.01)],
)
def test_weights_whose_gradient_vanishes_stay_or_decay(
    depth: int, width: int, rate: float, steps: int, decay: float, tried: Tell
) -> None:
    models = classifiers("sigmoid", 1.0, depth, width=width, seeds=SEEDS)
    before = [model[0].weight.norm().item() for model in models]
    train(
        models,
        data(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate, weight_decay=decay),
        steps=steps,
        progress=False,
        record_every=steps,
    )
    kept = [model[0].weight.norm().item() / b for model, b in zip(models, before, strict=True)]
    alone = (1 - rate * decay) ** steps
    tried(
        f"the first layer keeps {min(kept):.4f} to {max(kept):.4f}, by decay alone {alone:.4f}",
        depth=depth,
        width=width,
        rate=rate,
        steps=steps,
        decay=decay,
    )
    assert all(abs(each / alone - 1) < 5e-4 for each in kept)


def jumps(loss: Tensor, factor: float = 1.5) -> Tensor:
    """Return at which share of the steps each network's loss grew by a factor."""
    return (loss[1:] > factor * loss[:-1]).double().mean(0)


def unrest(loss: Tensor) -> Tensor:
    """Return by how much each network's loss changes from step to step, after the first 30."""
    return loss[30:].diff(dim=0).std(0)


@pytest.mark.claim("S8")
@pytest.mark.parametrize(
    ("depth", "rate", "steps", "batch"),
    [(10, 0.1, 150, 16), (10, 0.3, 100, 64), (14, 0.1, 150, 64)],
)
def test_the_vanishing_network_is_the_calmest(
    depth: int, rate: float, steps: int, batch: int, tried: Tell
) -> None:
    loss = {
        name: trained(drawn(name, scale, depth), rate=rate, steps=steps, batch=batch).loss
        for name, scale in [("sigmoid", 1.0), ("tanh", 1.0), ("relu", 2.0)]
    }
    shaken = {name: unrest(each) for name, each in loss.items()}
    tried(
        ", ".join(
            f"{name} jumps at {spread(100 * jumps(each))} % of steps, moves {spread(shaken[name])}"
            for name, each in loss.items()
        ),
        depth=depth,
        rate=rate,
        steps=steps,
        batch=batch,
    )
    assert (loss["sigmoid"][-20:].mean(0) > 2.2).all()
    assert jumps(loss["sigmoid"]).max() == 0
    assert shaken["sigmoid"].max() < shaken["tanh"].min()
    assert 4 * shaken["sigmoid"].max() < shaken["relu"].median()
    assert jumps(loss["tanh"], 2.0).max() < 0.08


@pytest.mark.claim("S7")
@pytest.mark.parametrize(
    ("depth", "width", "rate", "steps"),
    [(10, 24, 3.0, 500), (14, 16, 1.0, 300), (10, 48, 0.3, 150)],
)
def test_deep_sigmoid_networks_do_not_leave_the_guess(
    depth: int, width: int, rate: float, steps: int, tried: Tell
) -> None:
    network = drawn("sigmoid", 2.0, depth, width)
    loss = trained(network, rate=rate, steps=steps, batch=32).loss[-50:].mean(0)
    right = accuracy(network)
    tried(
        f"loss {spread(loss)}, right {spread(right)}",
        depth=depth,
        width=width,
        rate=rate,
        steps=steps,
    )
    assert (loss > 2.25).all()
    assert (right < 0.2).all()


@pytest.mark.claim("S7")
@pytest.mark.parametrize(("rate", "steps", "width"), [(3.0, 700, 24), (1.0, 500, 32)])
def test_five_sigmoid_layers_only_take_longer(
    rate: float, steps: int, width: int, tried: Tell
) -> None:
    slow, fast = drawn("sigmoid", 2.0, 5, width), drawn("relu", 2.0, 5, width)
    loss = {
        "sigmoid": trained(slow, rate=rate, steps=steps, batch=32).loss,
        "relu": trained(fast, rate=0.1, steps=300, batch=32).loss,
    }
    begun = {name: (each < 1.0).double().argmax(0) for name, each in loss.items()}
    right = accuracy(slow), accuracy(fast)
    tried(
        f"sigmoid is below 1 after {spread(begun['sigmoid'])} steps, right {spread(right[0])}; "
        f"ReLU after {spread(begun['relu'])}, right {spread(right[1])}",
        depth=5,
        rate=rate,
        steps=steps,
        width=width,
    )
    assert begun["sigmoid"].min() > 2 * begun["relu"].max()
    assert right[0].median() > right[1].median() - 0.1


def grew_throughout(gain: Tensor) -> int:
    """Return in how many networks the gain grew at every step, until it was no number."""
    grew = [bool((g[g.isfinite()].diff() > 0).all()) for g in gain.T]
    return sum(grew)


@pytest.mark.claim("S6")
@pytest.mark.parametrize(
    ("activation", "variance", "depth", "rate"),
    [("relu", 4.0, 10, 0.3), ("relu", 4.0, 14, 0.1), ("elu", 4.0, 10, 0.1)],
)
def test_the_gain_feeds_itself(
    activation: str, variance: float, depth: int, rate: float, tried: Tell
) -> None:
    network = drawn(activation, variance, depth)
    grew = grew_throughout(trained(network, rate=rate, steps=5).gain)
    right = accuracy(network)
    tried(
        f"the gain of {grew} of 6 grew at every step, right {spread(right)}",
        activation=activation,
        variance=variance,
        depth=depth,
        rate=rate,
    )
    assert grew >= 4
    assert (right < 0.2).all()


@pytest.mark.claim("S6")
@pytest.mark.parametrize(("depth", "rate", "width"), [(10, 0.03, 24), (6, 0.1, 24), (10, 0.01, 48)])
def test_no_avalanche_where_the_rate_is_not_too_high(
    depth: int, rate: float, width: int, tried: Tell
) -> None:
    # The same weights explode, but here the sentence failed: the gain falls, and they learn.
    network = drawn("relu", 4.0, depth, width)
    steps = trained(network, rate=rate, steps=100)
    right = accuracy(network)
    fell = (steps.gain[5] < steps.gain[0]).sum().item()
    tried(
        f"the gain of {grew_throughout(steps.gain[:6])} of 6 grew at every step, that of {fell} "
        f"fell, right {spread(right)}",
        depth=depth,
        rate=rate,
        width=width,
    )
    assert grew_throughout(steps.gain[:6]) <= 2
    assert fell >= 4
    assert (right > 0.2).sum() >= 4


@pytest.mark.claim("S1")
@pytest.mark.parametrize(
    ("activation", "variance", "depth", "rate"),
    [("relu", 4.0, 10, 0.3), ("elu", 4.0, 10, 0.1), ("identity", 2.0, 10, 0.1)],
)
def test_weights_blow_up_faster_than_exponentially_and_a_small_rate_learns(
    activation: str, variance: float, depth: int, rate: float, tried: Tell
) -> None:
    start = drawn(activation, variance, depth)
    network = start.map(torch.clone)
    steps = trained(network, rate=rate, steps=9)
    over = (~steps.loss.isfinite()).any(0).sum().item()
    logs = [g[(g > 0) & g.isfinite()].log() for g in steps.gradient.T]
    faster = sum(bool((each.diff().diff() > 0).all()) for each in logs)
    calm = start.map(torch.clone)
    losses = trained(calm, rate=rate / 10, steps=100).loss
    first, last = losses[0], losses[-1]
    right = accuracy(calm)
    tried(
        f"{over} of 6 end in NaN, the gradient of {faster} grows faster than exponentially; at a "
        f"tenth of the rate the loss falls to {spread(last)}, right {spread(right)}",
        activation=activation,
        variance=variance,
        depth=depth,
        rate=rate,
    )
    assert over >= 4
    assert faster >= 4
    assert (last < first / 4).all()
    assert (right > 0.2).sum() >= 4


@pytest.mark.claim("S1")
@pytest.mark.parametrize(("variance", "rate", "depth"), [(9.0, 0.1, 10), (4.0, 0.3, 14)])
def test_an_exploding_tanh_network_shows_none_of_the_signs(
    variance: float, rate: float, depth: int, tried: Tell
) -> None:
    network = drawn("tanh", variance, depth)
    before = network.map(torch.clone)
    loss = trained(network, rate=rate, steps=100).loss
    grown = torch.stack([w.norm(dim=(1, 2)) for w in network.weights]) / torch.stack(
        [w.norm(dim=(1, 2)) for w in before.weights]
    )
    tried(
        f"its weights grew {spread(grown)} times, its loss rose by half at "
        f"{spread(100 * jumps(loss))} % of the steps, doubled at {spread(100 * jumps(loss, 2.0))}",
        variance=variance,
        rate=rate,
        depth=depth,
    )
    assert loss.isfinite().all()
    assert (grown < 1.5).all()
    assert (loss[-20:].mean(0) < 0.8 * loss[:5].mean(0)).all()
    assert jumps(loss, 2.0).max() < 0.1


@pytest.mark.claim("S1")
@pytest.mark.parametrize(("depth", "batch"), [(10, 16), (14, 64)])
def test_healthy_relu_networks_jump_too(depth: int, batch: int, tried: Tell) -> None:
    network = drawn("relu", 2.0, depth)
    loss = trained(network, rate=0.1, steps=150, batch=batch).loss
    share = jumps(loss)
    tried(
        f"healthy ReLU: the loss rose by half at {spread(100 * share)} % of the steps",
        depth=depth,
        batch=batch,
    )
    assert (loss[-20:].mean(0) < 0.8 * loss[:5].mean(0)).all()
    assert (share > 0).sum() >= 4
    assert (share < 0.12).all()  # "more than one step in ten" is a number of one setting


def layers_until_overflow(activation: str, variance: float, width: int, dtype: torch.dtype) -> int:
    """Return at which of 400 layers normal numbers are no longer finite, or 0."""
    source = torch.Generator().manual_seed(100)
    a = torch.randn(16, width, generator=source).to(dtype)
    for layer in range(1, 401):
        weight = torch.randn(width, width, generator=source) * math.sqrt(variance / width)
        z = a @ weight.to(dtype).mT
        if not z.isfinite().all():
            return layer
        a = activations.get(activation).function(z)
    return 0


@pytest.mark.claim("S5")
@pytest.mark.parametrize(
    ("activation", "variance", "width"),
    [("relu", 8.0, 64), ("identity", 2.0, 32), ("tanh", 16.0, 64)],
)
def test_steady_growth_ends_a_format(
    activation: str, variance: float, width: int, tried: Tell
) -> None:
    formats = [torch.float16, torch.bfloat16, torch.float32]
    half, brain, single = (
        layers_until_overflow(activation, variance, width, each) for each in formats
    )
    tried(
        f"float16 ends at layer {half}, bfloat16 at {brain}, float32 at {single}",
        activation=activation,
        variance=variance,
        width=width,
    )
    if activation == "tanh":
        assert half == brain == single == 0
        return
    growth = 0.5 * math.log2(variance / 2 if activation == "relu" else variance)
    assert abs(half - 15 / growth) < 6 / growth
    assert abs(single - 128 / growth) < 16 / growth
    assert abs(brain - single) < 5


@pytest.mark.claim("S5")
def test_the_gradient_of_tanh_does_overflow(tried: Tell) -> None:
    network = random_mlp([64] * 251, "tanh", weight_variance=16.0, seeds=SEEDS, dtype=torch.float32)
    seen = forward(network, torch.randn(4, 64, generator=torch.Generator().manual_seed(100)))
    deltas = backward(network, seen, torch.ones_like(seen.output)).deltas
    lost = [sum(not each[i].isfinite().all() for each in deltas) for i in range(len(SEEDS))]
    tried(f"δ is no number at {min(lost)} to {max(lost)} of 250 layers", format="float32")
    assert all(z.isfinite().all() for z in seen.z)
    assert min(lost) > 0


class Said(NamedTuple):
    """What networks say of the test images: (networks,) each."""

    alike: Tensor
    sure: Tensor
    right: Tensor


def said(network: MLP) -> Said:
    found = answers(network)
    named = functional.one_hot(found.argmax(-1), 10).double()
    right = named[..., range(len(data().test_targets)), data().test_targets].mean(-1)
    return Said(named.mean(1).amax(-1), found.amax(-1).median(-1).values, right)


@pytest.mark.claim("S9")
@pytest.mark.parametrize(
    ("activation", "width", "depth", "rate"),
    [("relu", 48, 10, 0.1), ("relu", 24, 14, 0.1), ("relu", 24, 10, 0.3), ("elu", 24, 14, 0.3)],
)
def test_exploded_networks_name_one_digit(
    activation: str, width: int, depth: int, rate: float, tried: Tell
) -> None:
    network = drawn(activation, 4.0, depth, width)
    before = said(network)
    trained(network, rate=rate, steps=1, batch=16)
    after = said(network)
    tried(
        f"{spread(after.alike)} of the answers are one digit, sure {spread(before.sure)} before, "
        f"{spread(after.sure)} after the update, right {spread(after.right)}",
        activation=activation,
        width=width,
        depth=depth,
        rate=rate,
    )
    assert (after.alike > 0.9).sum() >= 4
    assert (after.sure > 0.99).sum() >= 4
    assert (before.sure > 0.9).all()
    assert before.right.mean() < 0.15
    assert after.right.mean() < 0.15


@pytest.mark.claim("S9")
@pytest.mark.parametrize(
    ("activation", "variance", "rate"), [("relu", 4.0, 0.03), ("identity", 2.0, 0.1)]
)
def test_answers_that_do_scatter(
    activation: str, variance: float, rate: float, tried: Tell
) -> None:
    # Here the sentence failed: at a third of the rate they stop being sure, and linear networks,
    # which end in NaN as ReLU's do, are sure of many digits.
    network = drawn(activation, variance, 10)
    trained(network, rate=rate, steps=2)
    after = said(network)
    tried(
        f"{spread(after.alike)} of the answers are one digit, sure {spread(after.sure)}, "
        f"right {spread(after.right)}",
        activation=activation,
        variance=variance,
        rate=rate,
    )
    if activation == "relu":
        assert (after.sure < 0.99).sum() >= 4
    else:
        assert after.sure.min() > 0.99
        assert (after.alike < 0.8).all()
