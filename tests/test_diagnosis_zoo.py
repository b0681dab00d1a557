"""The zoo: what is called healthy learns, what is called ill does not, and advice is followed."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from companion import diagnosis
from companion.diagnosis import ADVICE, FAULTS, diagnose, zoo
from companion.diagnosis.zoo import (
    CRITICAL_VARIANCE,
    HEALTHY,
    Case,
    Recipe,
    build,
    cases,
    mend,
    run,
    task,
)

SEED = 3
CASES = {f"{case.name} {case.severity or ''}".strip(): case for case in cases()}


def test_the_zoo_is_large_enough() -> None:
    healthy = [case for case in cases() if case.fault == "healthy"]
    ill = [case for case in cases() if case.fault != "healthy"]
    assert len(healthy) >= 15
    assert len({case.name for case in ill}) >= 12
    assert {case.fault for case in ill} == set(FAULTS)
    assert len(CASES) == len(cases())
    assert sorted(case.severity for case in ill) == [1] * (len(ill) // 2) + [2] * (len(ill) // 2)
    for fault in FAULTS:
        assert len({case.name for case in ill if case.fault == fault}) >= 3, fault


@pytest.mark.parametrize(
    "name", ["mlp-relu", "mlp-label-noise", "mlp-tuned", "bag", "residual-post"]
)
def test_healthy_networks_reach_their_target_and_are_called_healthy(name: str) -> None:
    done = run(CASES[name], SEED)
    assert done.reached
    assert diagnose(done.log).fault == "healthy"


@pytest.mark.parametrize(
    "name",
    [
        "vanishing: mlp-tanh 2",
        "exploding: mlp-linear 1",
        "saturated: mlp-tanh 1",
        "dead units: mlp 1",
        "not finite: mlp 1",
        "underflow: mlp 2",
        "learning rate too high: mlp-adam 1",
        "learning rate too low: mlp 2",
        "unscaled inputs: mlp-waves 1",
        "unstable through time: rnn-short-memory 1",
    ],
)
def test_faults_miss_their_target_are_named_and_the_advice_mends_them(name: str) -> None:
    done = run(CASES[name], SEED)
    assert not done.reached
    assert diagnose(done.log).fault == done.case.fault
    for _ in range(3):
        target = done.case.target * done.case.recipe.units
        done = run(mend(done.case, diagnose(done.log, target).findings[0].advice), SEED)
        if done.reached:
            break
    assert done.reached


def test_a_run_repeats_itself_and_leaves_the_global_seed_alone() -> None:
    case = replace(CASES["mlp-dropout"], recipe=replace(HEALTHY["mlp-dropout"], steps=12))
    state = torch.random.get_rng_state()
    first, again, other = run(case, 1), run(case, 1), run(case, 2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first.log.loss, again.log.loss)
    assert not torch.equal(first.log.loss, other.log.loss)


@pytest.mark.parametrize("name", [n for n, r in HEALTHY.items() if r.network != "bag"])
def test_every_network_takes_its_task_and_gives_what_the_loss_takes(name: str) -> None:
    recipe = HEALTHY[name]
    found, model = task(recipe), build(recipe)
    loss = found.loss(model(found.inputs[:7]), found.targets[:7])
    assert loss.isfinite()
    assert loss.dtype == torch.float64


@pytest.mark.parametrize(("activation", "gain"), [("relu", 1.0), ("tanh", 0.5), ("selu", 3.0)])
def test_weights_have_the_variance_that_is_stated(activation: str, gain: float) -> None:
    model = build(Recipe(depth=2, width=200, activation=activation, gain=gain, bias=0.25))
    layers = [module for module in model if isinstance(module, nn.Linear)]
    critical = CRITICAL_VARIANCE.get(activation, 1.0)
    for layer, factor in zip(layers, (critical, critical, 1.0), strict=True):
        weight = layer.weight.detach()
        expected = gain**2 * factor / weight.shape[1]
        # The variance of n normal numbers has a relative error of (2/n)^½; four of them.
        assert weight.var().item() == pytest.approx(expected, rel=4 * (2 / weight.numel()) ** 0.5)
    assert [layer.bias[0].item() for layer in layers] == [0.25, 0.25, 0.0]


@pytest.mark.breaks(
    "companion/diagnosis/zoo.py",
    "for block in weight.data.split(recipe.width):",
    "for block in [weight.data]:",
)
def test_recurrent_matrices_are_multiples_of_orthogonal_ones() -> None:
    for network in ("rnn", "gru", "lstm"):
        recipe = Recipe(network=network, task="recall", depth=1, activation="tanh", recurrent=0.4)
        model = build(replace(recipe, bias=1.5))
        for block in model.cell.weight_hh_l0.detach().split(recipe.width):
            eye = torch.eye(recipe.width, dtype=torch.float64)
            torch.testing.assert_close(block @ block.T, 0.16 * eye, rtol=0, atol=1e-9)
        if network == "lstm":
            gates = model.cell.bias_ih_l0.detach().split(recipe.width)
            assert [gate[0].item() for gate in gates] == [0.0, 1.5, 0.0, 0.0]


def test_inputs_are_scaled_shifted_or_made_uneven() -> None:
    plain = task(Recipe(task="waves")).inputs
    large = task(Recipe(task="waves", inputs="large", by=50.0)).inputs
    offset = task(Recipe(task="waves", inputs="offset", by=50.0)).inputs
    uneven = task(Recipe(task="waves", inputs="uneven", by=1e3)).inputs
    torch.testing.assert_close(large, 50 * plain)
    torch.testing.assert_close(offset, 50 + plain)
    ratio = (uneven / plain)[0]
    assert ratio[0].item() == pytest.approx(1)
    assert ratio[-1].item() == pytest.approx(1e3)
    with pytest.raises(ValueError, match="inputs must be one of"):
        task(Recipe(inputs="upside down"))


@pytest.mark.breaks(
    "companion/diagnosis/zoo.py", "return gradient.half().to(gradient.dtype)", "return gradient"
)
@pytest.mark.breaks(
    "companion/diagnosis/zoo.py",
    "            parameter.grad /= recipe.loss_scale\n",
    "            pass\n",
)
def test_gradients_pass_through_float16_where_they_are_told_to() -> None:
    small = Recipe(depth=1, width=8, half=True, optimizer="sgd", units=1e-9, steps=6, every=1)
    lost = run(Case("", small), 0)
    assert lost.log.total_norm.tolist() == [0.0] * 6
    saved = run(Case("", replace(small, loss_scale=2.0**20)), 0)
    assert (saved.log.total_norm > 0).all()
    # What the optimizer sees is free of the scale.
    exact = run(Case("", replace(small, half=False, learning_rate=1e6)), 0)
    scaled = run(Case("", replace(small, loss_scale=2.0**20, learning_rate=1e6)), 0)
    torch.testing.assert_close(scaled.log.loss, exact.log.loss, rtol=1e-3, atol=0)


def test_one_broken_number_breaks_the_run_from_its_step_on() -> None:
    broken = Recipe(depth=1, broken_data=4, steps=8)
    loss = run(Case("", broken), 0).log.loss
    assert loss.isfinite().tolist() == [True] * 4 + [False] * 4
    assert run(Case("", replace(broken, skip_broken=True)), 0).log.loss.isfinite().all()


def test_frozen_layers_do_not_learn_and_warm_steps_are_not_watched() -> None:
    model = build(HEALTHY["mlp-frozen"])
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 6
    done = run(Case("", replace(HEALTHY["mlp-tuned"], warm=100, steps=10)), 0)
    assert len(done.log.loss) == 10
    assert done.log.loss[0] < 1 < math.log(10)


def test_clipping_bounds_the_step() -> None:
    recipe = Recipe(depth=1, optimizer="sgd", learning_rate=1.0, clip=1e-3, steps=3, every=1)
    log = run(Case("", recipe), 0).log
    assert log.update_norms.square().sum(1).sqrt().max().item() == pytest.approx(1e-3, rel=1e-3)


def test_every_piece_of_advice_can_be_followed() -> None:
    assert set(zoo.CURES) == set(ADVICE)
    case = Case("", Recipe(network="mlp", activation="sigmoid", gain=3.0, learning_rate=1.0))
    assert mend(case, ("draw weights", "change activation")).recipe == replace(
        case.recipe, gain=1.0, activation="relu"
    )
    assert mend(case, ("lower rate",)).recipe.learning_rate == pytest.approx(0.1)
    assert mend(case, ("raise rate",)).recipe.learning_rate == pytest.approx(10)
    assert mend(case, ("add skips",)).recipe.network == "residual"
    assert mend(case, ()) == case
    with pytest.raises(ValueError, match="advice must be one of"):
        mend(case, ("pray",))
    assert {key for rule in diagnosis.RULES for key in rule.advice(_any_log())} <= set(ADVICE)


def _any_log() -> object:
    return run(Case("", Recipe(depth=1, steps=2, every=1)), 0).log


@pytest.mark.parametrize("changes", [{"every": 1}, {"every": 10}, {"batch": 32}, {"batch": 128}])
@pytest.mark.parametrize(
    "name", ["mlp-gelu", "saturated: mlp-tanh 2", "learning rate too low: mlp 2"]
)
def test_how_a_run_is_watched_does_not_change_what_is_said_of_it(name: str, changes: dict) -> None:
    case = CASES[name]
    other = run(replace(case, recipe=replace(case.recipe, **changes)), SEED)
    assert diagnose(other.log).fault == case.fault
