"""Published results on training, P33 to P36: catapult, Adam's edge, edge of stability, ε."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from companion import backprop, data, training
from companion.data import Split
from companion.training import Record

# P33. Lewkowycz et al. (2020), arXiv 2003.02218: one datum, two linear layers.


def test_p33_a_rate_between_2_and_4_over_the_kernel_is_caught_by_a_catapult() -> None:
    products = [0.5, 1.5, 2.5, 3.5, 3.9, 4.1]
    found = training.catapult(products, width=300, steps=1000, seeds=8)
    arrived = (found.loss[-1] < 1e-9).sum(1)
    assert arrived.tolist() == [8, 8, 8, 8, 8, 0]
    end = (found.curvature * found.learning_rates)[-1]
    # Lazy: the kernel moves by the order of 1/n.
    assert end[0].tolist() == pytest.approx([0.5] * 8, abs=0.02)
    assert end[1].tolist() == pytest.approx([1.5] * 8, abs=0.1)
    # Past 2 the loss grows to the order of n, and the kernel comes down below 2/η.
    assert (found.loss[:, 2:5].amax(0) > 300 / 30).all()
    assert (end[2:5] < 2).all()
    assert end[2].median().item() == pytest.approx(1.28, abs=0.03)


# P34. Cohen et al. (2022), arXiv 2207.14484: Adam with what it divides by held.


@pytest.mark.breaks("companion/training/edges.py", '"adam": 1 - kept', '"adam": 1.0')
def test_p34_adam_s_edge_is_38() -> None:
    assert training.edge("adam") == pytest.approx(38)
    rates = [37.5, 37.9, 38.1, 38.5]
    found = training.descend_quadratic(
        partial(training.adam, eps=1.0),
        curvatures=[1.0, 2.0], learning_rates=[*rates, *(r / 2 for r in rates)],
        steps=1200, start=1e-100,
    )  # fmt: skip
    both = torch.stack([found.decays[:4, 0], found.decays[4:, 1]])
    assert both.tolist() == [[True, True, False, False]] * 2


# P35. Cohen et al. (2021), arXiv 2103.00065: 200 digits, full batch, tanh 64-32-32-10.


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """The squared distance from the label's unit vector, in the mean over examples."""
    return (outputs - targets).square().sum(-1).mean()


def sharpening(rate: float, steps: int) -> tuple[Record, Tensor]:
    digits = data.digits()
    inputs = digits.train_inputs[:200]
    targets = nn.functional.one_hot(digits.train_targets[:200], 10).to(inputs.dtype)
    models = backprop.classifiers("tanh", 1.0, 3, width=32, seeds=3)
    record = training.train(
        models,
        Split(inputs, targets, inputs[:0], targets[:0]),
        optimizer=training.sgd(rate),
        steps=steps,
        loss=squared,
        batch_size=None,
        record_every=50,
        observe=training.sharpness(models, inputs, targets, loss=squared, rounds=4),
        progress=False,
    )
    return record, torch.stack(record.observed)


def test_p35_training_stays_at_the_edge_of_stability() -> None:
    record, found = sharpening(0.2, 600)
    late = found[record.steps >= 400]
    # Each record is of a swing about 2/η = 10; measured 9.86 to 10.46 at one, and 10.04 to 10.10
    # in the mean over them.
    assert ((late - 10).abs() < 0.6).all()
    assert late.mean(0).tolist() == pytest.approx([10] * 3, abs=0.25)
    assert (record.loss[-1] < 0.1 * record.loss[0]).all()


# P36. Adam's ε on ten sigmoid layers and a linear one, with weights of variance 1/n.


def adam_on_sigmoids(eps: float, dtype: torch.dtype, seeds: int) -> Record:
    digits = data.digits()
    drawn = backprop.classifiers("sigmoid", 1.0, 11, width=128, seeds=seeds)
    models = [model.to(dtype) for model in drawn]
    inputs, labels = digits.train_inputs.to(dtype), digits.train_targets
    return training.train(
        models,
        Split(inputs, labels, inputs[:0], labels[:0]),
        optimizer=training.adam(0.001, eps=eps),
        steps=200,
        batch_size=128,
        record_every=200,
        progress=False,
    )


def test_p36_adam_moves_what_vanished_unless_its_eps_is_larger() -> None:
    held, moves = (adam_on_sigmoids(eps, torch.float64, 1) for eps in (1e-4, 1e-8))
    first, last = held.parameters()[0], held.parameters()[-1]
    sizes = torch.tensor([64 * 128, 128 * 10], dtype=torch.float64).sqrt()
    rms = held.gradient_norms[0][:, [first, last]] / sizes
    assert ((rms[:, 0] > 2e-9) & (rms[:, 0] < 2e-8)).all()  # measured 7e-9
    assert ((rms[:, 1] > 1e-2) & (rms[:, 1] < 5e-2)).all()  # measured 2e-2
    ways = [
        (record.displacement[-1] / record.weight_norms[0])[:, first] for record in (held, moves)
    ]
    assert (ways[0] < 0.005).all()
    assert (ways[1] > 0.3).all()
    # A uniform guess has a loss of ln 10 = 2.303.
    assert ((held.loss[-1] - math.log(10)).abs() < 0.03).all()
    assert (moves.loss[-1] < 2).all()


@pytest.mark.parametrize("eps", [1e-8, 1e-16])
def test_p36_float32_has_room_for_it(eps: float) -> None:
    found = adam_on_sigmoids(eps, torch.float32, 2)
    first = found.parameters()[0]
    assert (found.displacement[-1, :, first] > 0.3 * found.weight_norms[0, :, first]).all()
    assert (found.loss[-1] < 2).all()
