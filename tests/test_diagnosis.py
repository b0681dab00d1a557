"""The diagnosis on logs made to measure: each fault is named, and nothing else changes it."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from companion import diagnosis
from companion.diagnosis import (
    ADVICE,
    FAULTS,
    RULES,
    THRESHOLDS,
    diagnose,
    features,
    popular_rule,
)
from companion.diagnosis.__main__ import main
from companion.monitor import Layer, Log

L, T, STEPS = 6, 11, 101


def full(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


def made(activation: str = "tanh", *, learned: bool = True, steps: int = STEPS, **changes) -> Log:  # noqa: ANN003
    """A healthy network's log, but for what is changed."""
    names = tuple(str(i) for i in range(L))
    layers = tuple(
        Layer(n, "Linear", 8, 1, (f"{n}.weight", f"{n}.bias"), phi, normalized=False, frozen=False)
        for n, phi in zip(names, [activation] * (L - 1) + [None], strict=True)
    )
    parameters = tuple(p for layer in layers for p in layer.parameters)
    time = torch.arange(steps, dtype=torch.float64)
    noise = 1 + 0.1 * torch.sin(2.3 * time)
    fall = 0.1 + 0.9 * torch.exp(-time / 15)
    columns = {
        "loss": 2.0 * noise * (fall if learned else torch.ones(steps)),
        "steps": torch.arange(0, steps, 10),
        "delta_norms": full(0.1, T, L),
        "gradient_norms": full(0.2, T, 2 * L),
        "weight_norms": full(5.0, T, 2 * L),
        "update_norms": full(0.05, T, 2 * L),
        "output_mean": full(0.0, T, L),
        "output_variance": full(1.0, T, L),
        "activation_mean": full(0.0, T, L),
        "activation_variance": full(0.4, T, L),
        "saturated": full(0.0, T, L),
        "dead": full(0.0, T, L),
        "slope_mean": full(0.6, T, L),
        "slope_square": full(0.4, T, L),
        "total_norm": full(0.7, T),
        "non_finite": full(0.0, T),
        "underflow": full(0.0, T),
        "input_mean": full(0.0, T),
        "input_variance": full(1.0, T),
        "input_spread": full(2.0, T),
        "through_time": full(math.nan, T, L, 0),
        "times": torch.zeros(L, dtype=torch.int64),
        "scale": full(1.0, T),
        "skipped": full(0.0, T),
    }
    columns |= changes
    return Log(layers, parameters, 10, dtype="float64", torch_version="2", **columns)


def profile(slope: float) -> Tensor:
    """Norms that change by so many decades a layer from the last to the first."""
    return (0.1 * 10 ** (slope * torch.arange(L - 1, -1, -1.0).double())).expand(T, L)


def growing(steps: int = STEPS) -> Tensor:
    return 2.0 * 10 ** torch.linspace(0, 4, steps, dtype=torch.float64)


def broken(at: int) -> Tensor:
    loss = made().loss.clone()
    loss[at:] = math.nan
    return loss


def in_time(rise: float, learned: bool = False) -> Log:
    time = full(math.nan, T, L, 5)
    time[:, 0] = torch.linspace(-rise, 0, 5, dtype=torch.float64)
    times = torch.tensor([20, 0, 0, 0, 0, 0])
    return made(learned=learned, through_time=time, times=times)


CHANGES = {
    "vanishing": {"delta_norms": profile(-1.0)},
    "exploding": {"delta_norms": profile(0.8)},
    "saturated": {"slope_mean": full(0.03, T, L)},
    "dead units": {"dead": full(1.0, T, L)},
    "not finite": {"loss": broken(60)},
    "underflow": {"delta_norms": full(0.0, T, L), "total_norm": full(0.0, T)},
    "learning rate too high": {"loss": growing(), "update_norms": full(5.0, T, 2 * L)},
    "learning rate too low": {"loss": full(2.0, STEPS), "update_norms": full(1e-5, T, 2 * L)},
    "unscaled inputs": {"input_variance": full(1e5, T)},
}


def ill(*faults: str) -> Log:
    """A log in which all of these are wrong."""
    changes = {name: value for fault in faults for name, value in CHANGES[fault].items()}
    return made("relu" if "dead units" in faults else "tanh", learned=False, **changes)


PLANTED = {fault: partial(ill, fault) for fault in CHANGES}
PLANTED["unstable through time"] = partial(in_time, 8.0)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(fault: str) -> None:
    found = diagnose(PLANTED[fault]())
    assert found.fault == fault
    assert not found.healthy
    assert 0.5 < found.confidence <= 1
    assert found.findings[0].advice
    assert all(math.isfinite(value) for value in found.findings[0].evidence.values()) or (
        fault in ("not finite", "exploding")
    )


def test_a_network_that_learns_is_healthy_and_every_fault_was_tried() -> None:
    assert diagnose(made()).fault == "healthy"
    assert diagnose(made()).findings == ()
    assert set(PLANTED) == set(FAULTS)


@pytest.mark.parametrize("fault", ["vanishing", "exploding", "unstable through time"])
def test_whatever_the_gradients_look_like_who_learned_is_healthy(fault: str) -> None:
    log = replace(PLANTED[fault](), loss=made().loss)
    assert diagnose(log).fault == "healthy"


def test_growing_through_time_is_named_too() -> None:
    assert diagnose(in_time(-8.0)).fault == "unstable through time"
    assert "grows" in diagnose(in_time(-8.0)).findings[0].sentence
    assert "fades" in diagnose(in_time(8.0)).findings[0].sentence
    assert diagnose(in_time(-8.0, learned=True)).healthy


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("unscaled inputs", "saturated"),
        ("unscaled inputs", "dead units"),
        ("saturated", "exploding"),
        ("saturated", "vanishing"),
        ("dead units", "vanishing"),
    ],
)
def test_what_is_upstream_comes_first(first: str, then: str) -> None:
    found = [finding.fault for finding in diagnose(ill(first, then)).findings]
    assert found[0] == first
    assert then in found


@pytest.mark.breaks(
    "companion/diagnosis/rules.py",
    "if findings and rule.fault in BY_EXCLUSION:",
    "if findings and rule.fault in ():",
)
@pytest.mark.parametrize("first", ["unscaled inputs", "exploding", "vanishing"])
def test_a_rate_is_blamed_only_where_nothing_is_upstream(first: str) -> None:
    found = [finding.fault for finding in diagnose(ill(first, "learning rate too high")).findings]
    assert found[0] == first
    assert not set(found) & set(diagnosis.BY_EXCLUSION)


def test_exploding_comes_before_what_it_ends_in() -> None:
    log = made(delta_norms=profile(1.0), loss=torch.cat([growing(20), full(math.nan, 81)]))
    assert diagnose(log).fault == "exploding"
    assert "not finite" in [finding.fault for finding in diagnose(log).findings]


def test_a_rate_that_breaks_the_run_is_not_a_broken_input() -> None:
    log = made(loss=torch.cat([growing(20), full(math.nan, 81)]), update_norms=full(5.0, T, 2 * L))
    assert diagnose(log).fault == "learning rate too high"
    assert diagnose(made(loss=broken(1))).fault == "not finite"
    assert diagnose(made(loss=broken(0))).fault == "not finite"


def test_without_a_target_a_loss_that_hardly_fell_leaves_half_a_doubt() -> None:
    level = made(loss=torch.full((STEPS,), 2.0, dtype=torch.float64))
    found = diagnose(level)
    assert (found.fault, found.confidence) == ("healthy", 0.5)
    assert "target_loss" in found.summary
    assert diagnose(level, target_loss=2.5).confidence == 1.0
    assert diagnose(made()).confidence > 0.8


@pytest.mark.breaks(
    "companion/diagnosis/rules.py", "margin(rule, found | known) for", "margin(rule, found) for"
)
def test_with_a_target_healthy_means_that_it_was_reached() -> None:
    odd = PLANTED["vanishing"]()
    assert diagnose(odd, target_loss=3.0).healthy
    assert diagnose(odd, target_loss=1.0).fault == "vanishing"
    # Learned by half, yet the target is missed: known to be ill, so the slopes speak.
    halfway = replace(odd, loss=made().loss)
    assert diagnose(halfway).fault == "healthy"
    assert diagnose(halfway, target_loss=0.01).fault == "vanishing"
    assert diagnose(made(), target_loss=0.01).fault == "unclear"
    assert not diagnose(made(), target_loss=0.01).healthy


def test_too_few_samples_are_not_enough() -> None:
    def cut(log: Log, samples: int) -> Log:
        kept = {
            name: value[:samples]
            for name, value in vars(log).items()
            if isinstance(value, Tensor) and name not in ("loss", "times")
        }
        return replace(log, loss=log.loss[: 10 * samples], **kept)

    assert diagnose(cut(PLANTED["vanishing"](), 2)).fault == "unclear"
    assert diagnose(cut(PLANTED["vanishing"](), 3)).fault == "vanishing"
    assert diagnose(cut(replace(made(), loss=broken(5)), 1)).fault == "not finite"
    assert diagnose(cut(made(), 0)).fault == "unclear"


# ---------------------------------------------------------------- what must not matter


@pytest.mark.parametrize("fault", [*FAULTS, "healthy"])
@pytest.mark.parametrize("exponent", [-6, 3])
def test_the_units_of_the_loss_do_not_matter(fault: str, exponent: int) -> None:
    log = PLANTED[fault]() if fault != "healthy" else made()
    c = 10.0**exponent
    other = replace(
        log,
        loss=c * log.loss,
        delta_norms=c * log.delta_norms,
        gradient_norms=c * log.gradient_norms,
        total_norm=c * log.total_norm,
        through_time=log.through_time + exponent,
    )
    assert diagnose(other).fault == fault
    same = features.extract(log)
    for name, value in features.extract(other).items():
        assert value == pytest.approx(same[name], rel=1e-6, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("fault", [*FAULTS, "healthy"])
@pytest.mark.parametrize("times", [2, 5])
def test_sampling_more_seldom_does_not_matter(fault: str, times: int) -> None:
    log = PLANTED[fault]() if fault != "healthy" else made()
    kept = {
        name: value[::times]
        for name, value in vars(log).items()
        if isinstance(value, Tensor) and name not in ("loss", "times")
    }
    assert diagnose(replace(log, every=10 * times, **kept)).fault == fault


# ---------------------------------------------------------------- features, one by one


@pytest.mark.breaks(
    "companion/diagnosis/features.py",
    "(x[j] - x[i])).quantile(0.5).item()",
    "(x[j] - x[i])).mean().item()",
)
def test_a_slope_is_the_median_of_all_pairs() -> None:
    line = torch.arange(7, dtype=torch.float64) * -0.3 + 2
    assert features.robust_slope(line) == pytest.approx(-0.3)
    line[5] = 1e6
    assert features.robust_slope(line) == pytest.approx(-0.3)
    line[2] = math.nan
    assert features.robust_slope(line) == pytest.approx(-0.3)
    assert math.isnan(features.robust_slope(line[:1]))


@pytest.mark.breaks(
    "companion/diagnosis/features.py",
    "robust_slope(profile) * (len(profile) - 1)",
    "robust_slope(profile) * len(profile)",
)
def test_the_rise_of_delta_is_over_all_layers_at_the_first_sample() -> None:
    norms = profile(-0.5).clone()
    norms[1:] = 0.1
    log = made(delta_norms=norms)
    assert features.delta_rise(log) == pytest.approx(0.5 * (L - 1))
    assert features.delta_rise(made(delta_norms=profile(0.5))) == pytest.approx(-0.5 * (L - 1))
    lost = norms.clone()
    lost[0, 0] = 0.0  # a zero is one layer's, not the slope
    assert features.delta_rise(made(delta_norms=lost)) == pytest.approx(2.5, abs=0.5)


@pytest.mark.breaks(
    "companion/diagnosis/features.py",
    "names = [layer.parameters[0] for",
    "names = [layer.parameters[-1] for",
)
def test_update_ratios_are_those_of_matrices_that_learn() -> None:
    updates, weights = full(0.05, T, 2 * L), full(5.0, T, 2 * L)
    updates[:, 1::2], weights[:, 1::2] = 1.0, 0.0  # biases that start at zero
    log = made(update_norms=updates, weight_norms=weights)
    assert features.update_ratios(log).shape == (T, L)
    assert features.first_update(log) == pytest.approx(-2)
    assert features.travel(log) == pytest.approx(math.log10(0.01 * STEPS))
    frozen = replace(log, layers=(replace(log.layers[0], frozen=True), *log.layers[1:]))
    assert features.update_ratios(frozen).shape == (T, L - 1)
    late = updates.clone()
    late[3] *= 100
    assert features.largest_update(replace(log, update_norms=late)) == pytest.approx(0)
    assert features.typical_update(replace(log, update_norms=late)) == pytest.approx(-2)


def test_sensitivity_is_of_the_last_matrix_relative_to_the_loss() -> None:
    gradients, weights = full(0.2, T, 2 * L), full(5.0, T, 2 * L)
    gradients[:, -2], weights[:, -2] = 4.0, 10.0
    log = made(gradient_norms=gradients, weight_norms=weights, loss=full(0.04, STEPS))
    assert features.sensitivity(log) == pytest.approx(3)
    # It stands still where little is left to learn: nothing is wrong with that.
    rough = 0.04 * (1 + 0.9 * torch.sin(2.3 * torch.arange(STEPS).double()))
    still = {"learned": False, "update_norms": full(1e-5, T, 2 * L), "loss": rough}
    assert diagnose(made(**still, gradient_norms=gradients, weight_norms=weights)).healthy
    calm = diagnose(made(**still, gradient_norms=gradients / 100, weight_norms=weights))
    assert calm.fault == "learning rate too low"


@pytest.mark.breaks("companion/diagnosis/features.py", "len(loss) // 10)", "len(loss) // 2)")
@pytest.mark.breaks(
    "companion/diagnosis/features.py", "_decades(variance) - 1)", "_decades(variance))"
)
def test_the_loss_is_read_from_its_first_to_its_settled_end() -> None:
    loss = torch.cat([full(100.0, 1), full(300.0, 50), full(1.0, 50)])
    log = made(loss=loss)
    assert features.fall(log) == pytest.approx(2)
    assert features.peak(log) == pytest.approx(math.log10(3))
    assert features.fall(made(loss=broken(90))) == -math.inf
    assert features.settled(torch.cat([full(9.0, 90), full(1.0, 10)])) == 1
    assert math.isnan(features.settled(torch.empty(0)))
    wide = log.output_variance.clone()
    wide[0, -1] = 1e4
    assert features.net_fall(log) == pytest.approx(2)
    assert features.net_fall(replace(log, output_variance=wide)) == pytest.approx(-1)


@pytest.mark.breaks("companion/diagnosis/features.py", "tail.diff() / math.sqrt(2)", "tail.diff()")
def test_roughness_is_that_about_the_trend() -> None:
    trend = torch.linspace(3, 1, 2000, dtype=torch.float64)
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert features.roughness(made(loss=trend)) < 0.01
    # Noise of a tenth; a median of 1,000 has a spread of a twentieth or so of that.
    rough = features.roughness(made(loss=full(1.0, 2000) + 0.1 * noise))
    assert rough == pytest.approx(0.1, abs=0.02)


@pytest.mark.breaks(
    "companion/diagnosis/features.py", "if not len(reached) or stopped:", "if not len(reached):"
)
def test_a_zero_is_flushed_where_no_unit_is_dead() -> None:
    norms = full(0.1, T, L)
    norms[:, :3] = 0
    assert features.flushed(made("relu", delta_norms=norms)) == pytest.approx(0.5)
    assert features.flushed(made("relu", delta_norms=norms, dead=full(1.0, T, L))) == 0
    assert features.flushed(made(total_norm=full(0.0, T))) == 1
    assert features.flushed(made()) == 0


@pytest.mark.breaks(
    "companion/diagnosis/features.py",
    "log.slope_mean[sample, index] / _largest_slope(layer.activation)",
    "log.slope_mean[sample, index]",
)
def test_steepness_is_of_flat_activations_relative_to_their_largest_slope() -> None:
    slopes = full(0.125, T, L)
    assert features.steepness(made("sigmoid", slope_mean=slopes)) == pytest.approx(0.5)
    assert features.steepness(made("tanh", slope_mean=slopes)) == pytest.approx(0.125)
    assert math.isnan(features.steepness(made("relu", slope_mean=slopes)))
    assert math.isnan(features.dead(made("tanh")))


def test_inputs_are_judged_by_size_offset_and_spread() -> None:
    log = made(input_mean=full(30.0, T), input_variance=full(9.0, T), input_spread=full(100.0, T))
    assert features.input_offset(log) == pytest.approx(1)
    assert features.input_size(log) == pytest.approx(math.log10(909**0.5))
    assert features.input_spread(log) == pytest.approx(2)


@pytest.mark.breaks(
    "companion/diagnosis/features.py",
    "(log.non_finite.nan_to_num() > 0) & ~log.skipped.bool()",
    "log.non_finite.nan_to_num() > 0",
)
def test_steps_that_were_skipped_break_nothing() -> None:
    bad = full(0.0, T)
    bad[3] = 7
    assert features.broke(made(non_finite=bad)) == 1
    assert features.broke(made(non_finite=bad, skipped=(bad > 0).double())) == 0


# ---------------------------------------------------------------- report, table, command


def test_the_report_fits_a_terminal_and_the_dictionary_is_json() -> None:
    for make in (*PLANTED.values(), made):
        found = diagnose(make())
        assert max(map(len, str(found).splitlines())) <= 80
        assert str(found).startswith(found.fault)
        back = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert back["fault"] == found.fault
        for finding in found.findings:
            assert set(finding.advice) <= set(ADVICE)
            assert "{" not in finding.sentence
            assert finding.link.endswith(".html")


def test_layers_are_those_where_it_shows() -> None:
    assert diagnose(PLANTED["vanishing"]()).findings[0].layers == ("0", "1", "2")
    assert diagnose(PLANTED["saturated"]()).findings[0].layers == ("0", "1", "2", "3", "4")
    assert diagnose(PLANTED["unstable through time"]()).findings[0].layers == ("0",)


def test_each_threshold_is_used_and_each_rule_is_short() -> None:
    used = {condition.threshold for rule in RULES for condition in rule.conditions}
    assert used == set(THRESHOLDS)
    assert all(1 <= len(rule.conditions) <= 3 for rule in RULES)
    assert all(c.feature in features.FEATURES for rule in RULES for c in rule.conditions)
    assert all(scale > 0 for _, scale in THRESHOLDS.values())


@pytest.mark.breaks("companion/diagnosis/rules.py", "return min(margins)", "return max(margins)")
def test_margins_are_in_scales_of_the_weakest_condition() -> None:
    (rule,) = [r for r in RULES if r.fault == "vanishing"]
    threshold, scale = THRESHOLDS["vanishes"]
    found = {"delta_rise": threshold + 2 * scale, "net_fall": -math.inf}
    assert diagnosis.margin(rule, found) == pytest.approx(2)
    assert diagnosis.margin(rule, {**found, "net_fall": math.nan}) == -math.inf
    assert diagnosis.margin(rule, {**found, "net_fall": 1e9}) < 0


def test_the_popular_rule_reads_gradient_norms_alone() -> None:
    assert popular_rule(made()) == "healthy"
    norms = full(0.2, T, 2 * L)
    norms[:, :4] = 1e-6
    assert popular_rule(made(gradient_norms=norms)) == "vanishing"
    total = full(0.7, T)
    total[4] = 70
    assert popular_rule(made(total_norm=total)) == "exploding"
    # δ vanishes and the weights' gradients do not: it sees nothing.
    assert popular_rule(PLANTED["vanishing"]()) == "healthy"


def test_the_command_reads_a_saved_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, path = PLANTED["saturated"](), tmp_path / "run.json"
    log.to_json(path)
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == f"{diagnose(log)}\n"
    assert main([str(path), "5"]) == 0
    assert capsys.readouterr().out.startswith("healthy")
    assert main([str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
    for wrong in ([], [str(path), "soon"]):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)
        assert "usage" in capsys.readouterr().err


def test_what_is_not_a_log_is_refused() -> None:
    with pytest.raises(TypeError, match="monitor must be a monitor or its log, got int"):
        diagnose(3)
    with pytest.raises(TypeError, match="target_loss must be a number or None, got 'low'"):
        diagnose(made(), target_loss="low")
