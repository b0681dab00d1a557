"""Fit the diagnosis on half of the zoo, and try it on the other half: `make calibration`.

The zoo's architectures are split in two, row by row, and so are the seeds. Thresholds and the
confidence are fitted on one half of the architectures at the first seeds; the figures are those of
the other half of the architectures at the other seeds. `--fit` prints the table that belongs into
companion/diagnosis/rules.py. A run that shows anything but what it should, or what is listed here,
is an error; `make calibration SAMPLE=2` looks for such in as many runs as two minutes have room
for.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from companion import diagnosis
from companion.diagnosis import RULES, THRESHOLDS, diagnose, features, margin, zoo

SEEDS = range(5)
FITTING = (0, 1)
ATTEMPTS = 3
#: What some seed of an architecture shows that it should not.
EXCEPTIONS = {"learning rate too low: gru": "not mended"}


class Seen(NamedTuple):
    """What one run of one case came to."""

    architecture: str
    label: str
    severity: int
    seed: int
    reached: bool
    features: dict[str, float]
    named: str
    confidence: float
    with_target: str
    popular: str
    mended: bool | None


def observe(case: zoo.Case, seed: int) -> Seen:
    """Run a case with a seed, and follow the advice where there is any."""
    torch.set_num_threads(1)
    run = zoo.run(case, seed)
    found = diagnose(run.log)
    return Seen(
        case.name,
        case.fault,
        case.severity,
        seed,
        run.reached,
        features.extract(run.log),
        found.fault,
        found.confidence,
        diagnose(run.log, case.target * case.recipe.units).fault,
        diagnosis.popular_rule(run.log),
        None if case.fault == "healthy" else mended(run, seed),
    )


def mended(run: zoo.Run, seed: int) -> bool:
    """Follow the first finding's advice until the target is reached, three times at most."""
    for _ in range(ATTEMPTS):
        found = diagnose(run.log, run.case.target * run.case.recipe.units)
        if not found.findings:
            return False
        run = zoo.run(zoo.mend(run.case, found.findings[0].advice), seed)
        if run.reached:
            return True
    return False


def complaint(one: Seen) -> str:
    """Return what a run shows that it should not, unless that is known, or nothing."""
    if one.reached != (one.label == "healthy"):
        found = "learned" if one.reached else "not learned"
    elif one.named != one.label:
        found = f"named {one.named}"
    else:
        found = "not mended" if one.mended is False else ""
    return "" if found == EXCEPTIONS.get(one.architecture) else found


@pytest.mark.files
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", zoo.cases(), ids=lambda case: f"{case.name} {case.severity}")
def test_a_run_is_named_and_mended(case: zoo.Case, seed: int) -> None:
    assert not complaint(observe(case, seed))


def halves(seen: list[Seen]) -> tuple[list[Seen], list[Seen]]:
    """Return the fitting half, and the half that shares neither architecture nor seed with it."""
    names = list(dict.fromkeys(one.architecture for one in seen))
    fitting = set(names[::2])
    return (
        [s for s in seen if s.architecture in fitting and s.seed in FITTING],
        [s for s in seen if s.architecture not in fitting and s.seed not in FITTING],
    )


def verdict(features: dict[str, float]) -> tuple[str, float]:
    """Return what the rules say of some features, and the margin of that."""
    margins = [margin(rule, features) for rule in RULES]
    for rule, distance in zip(RULES, margins, strict=True):
        if distance > 0:
            return rule.fault, distance
    return "healthy", -max(margins)


def errors(seen: list[Seen]) -> int:
    """Return how many runs the rules get wrong."""
    return sum(verdict(one.features)[0] != one.label for one in seen)


def fit(seen: list[Seen]) -> dict[str, tuple[float, float]]:
    """Move each threshold to where it errs least, and away from the ends of that range.

    A threshold within the middle half of the range stays, as does one that no run contradicts.
    """
    for key in list(THRESHOLDS):
        start, scale = THRESHOLDS[key]
        names = {c.feature for rule in RULES for c in rule.conditions if c.threshold == key}
        values = sorted(
            {s.features[n] for s in seen for n in names if math.isfinite(s.features[n])}
        )
        tried = [start, *((a + b) / 2 for a, b in pairwise(values))]
        wrong = {}
        for value in tried:
            THRESHOLDS[key] = (value, scale)
            wrong[value] = errors(seen)
        least = min(wrong.values())
        centre = (
            start
            if wrong[start] == least
            else min((v for v in tried if wrong[v] == least), key=lambda v: abs(v - start))
        )
        low = max(
            (v for v in values if v < centre and _worse(wrong, v, centre, least)), default=-math.inf
        )
        high = min(
            (v for v in values if v > centre and _worse(wrong, centre, v, least)), default=math.inf
        )
        if math.isfinite(low) and math.isfinite(high):
            room = (high - low) / 4
            centre = min(max(centre, low + room), high - room)
        THRESHOLDS[key] = (round(centre, 2), scale)
    return dict(THRESHOLDS)


def _worse(wrong: dict[float, int], low: float, high: float, least: int) -> bool:
    return any(count > least for value, count in wrong.items() if low <= value <= high)


def fit_confidence(seen: list[Seen]) -> tuple[float, float]:
    """Return the logistic of being right against the margin; a tie is as often wrong as right."""
    from sklearn.linear_model import LogisticRegression

    pairs = [
        (min(max(m, 0.0), 5.0), name == s.label) for s in seen for name, m in [verdict(s.features)]
    ]
    pairs += [(0.0, True), (0.0, False), (0.0, False), (1.0, True), (1.0, False), (5.0, False)]
    model = LogisticRegression(C=10.0).fit([[m] for m, _ in pairs], [right for _, right in pairs])
    return round(float(model.intercept_[0]), 2), round(float(model.coef_[0, 0]), 2)


def share(hits: Iterable[bool]) -> str:
    """Return how many of these are true."""
    hits = list(hits)
    return f"{sum(hits)} of {len(hits)} ({sum(hits) / len(hits):.1%})"


def report(title: str, seen: list[Seen]) -> str:
    """Return the figures of some runs, and each run that was named wrong."""
    healthy = [s for s in seen if s.label == "healthy"]
    faults = [s for s in seen if s.label != "healthy"]
    astray = [s for s in seen if s.reached != (s.label == "healthy")]
    brier = sum((s.confidence - (s.named == s.label)) ** 2 for s in seen) / len(seen)
    lines = [
        f"== {title}: {len(seen)} runs",
        f"  runs that reached their target and should not, or the reverse: {len(astray)}",
        f"  healthy: {len({s.architecture for s in healthy})} architectures, {len(healthy)} runs, "
        f"{sum(s.named != 'healthy' for s in healthy)} false alarms",
        f"  faults: {len({s.architecture for s in faults})} kinds × architectures, {len(faults)} "
        f"runs, of them named right: {share(s.named == s.label for s in faults)}; "
        f"{share(s.with_target == s.label for s in faults)} with the target known",
        f"  mended by following the advice: {share(bool(s.mended) for s in faults)}",
        f"  Brier score of the confidences: {brier:.4f}",
        f"  the popular rule: {share(s.popular == s.label for s in seen)} right; "
        f"diagnose: {share(s.named == s.label for s in seen)}",
    ]
    lines += [
        f"  planted, yet learned: {s.architecture} {s.severity} seed {s.seed}" for s in astray
    ]
    lines += [
        f"  wrong: {s.architecture} {s.severity} seed {s.seed} -> {s.named}"
        for s in seen
        if s.named != s.label
    ]
    lines += [
        f"  not mended: {s.architecture} {s.severity} seed {s.seed}" for s in faults if not s.mended
    ]
    return "\n".join(lines) + "\n"


def confusion(seen: list[Seen]) -> str:
    """Return how often each label was given each name."""
    count = Counter((s.label, s.named) for s in seen)
    rows = [f"  {label} -> {named}: {n}" for (label, named), n in sorted(count.items())]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        runs = [(case, seed) for seed in SEEDS for case in zoo.cases()]
        everything = list(pool.map(observe, *zip(*runs, strict=True)))
    fitted, held_out = halves(everything)
    sys.stdout.write(report("held out", held_out) + confusion(held_out))
    sys.stdout.write(report("fitted on", fitted) + report("everything", everything))
    if "--fit" in sys.argv:
        before = errors(fitted)
        table = fit(fitted)
        sys.stdout.write(f"errors on the fitting half: {before} before, {errors(fitted)} after\n")
        for key, (threshold, scale) in table.items():
            sys.stdout.write(f'    "{key}": ({threshold:g}, {scale:g}),\n')
        sys.stdout.write(f"CONFIDENCE = {fit_confidence(fitted)}\n")
    complaints = [
        f"{one.architecture} {one.severity} seed {one.seed}: {found}"
        for one in everything
        if (found := complaint(one))
    ]
    sys.exit("\n".join(["not as it should be, and not known:", *complaints]) if complaints else 0)
