"""From a log to a named fault: the evidence for it, the layers it is in, and what to try.

A run is healthy if it learned, whatever its gradients look like. Otherwise each :class:`Rule` asks
for one to three of :mod:`companion.diagnosis.features`, slopes and changes rather than sizes, and
the rule that stands furthest upstream names the fault: inputs before saturation, saturation before
explosion, what was there at the first step before what came later.

On the command line, ``python -m companion.diagnosis run.json`` reports on a log that was saved.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol

from companion.diagnosis import features
from companion.monitor.log import Log

#: Fewer samples than these decide nothing, unless something is not finite.
ENOUGH = 3
WIDTH = 79


class Monitor(Protocol):
    """What has a log, as a :class:`companion.monitor.GradientMonitor` has."""

    @property
    def log(self) -> Log:
        """The log so far."""


# ---------------------------------------------------------------- what is found


@dataclass(frozen=True)
class Finding:
    """A fault that the log is evidence of.

    Attributes:
        fault: one of :data:`FAULTS`.
        layers: names of the layers in which it shows, in the order executed; empty if in none.
        evidence: the numbers it rests on.
        sentence: what they say.
        confidence: how likely this is what ails the run, from 0 to 1.
        advice: ids of what to try, keys of :data:`ADVICE`, all of it together.
        link: the chapter that explains it.

    """

    fault: str
    layers: tuple[str, ...]
    evidence: dict[str, float]
    sentence: str
    confidence: float
    advice: tuple[str, ...]
    link: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What :func:`diagnose` found.

    Attributes:
        healthy: whether nothing is wrong with the run.
        findings: the faults, the one furthest upstream first.
        confidence: how likely the verdict is right, from 0 to 1.
        summary: of the loss: where it began and ended.

    """

    healthy: bool
    findings: tuple[Finding, ...]
    confidence: float
    summary: str

    @property
    def fault(self) -> str:
        """Return the first finding's fault, "healthy", or "unclear" if it is neither."""
        if self.findings:
            return self.findings[0].fault
        return "healthy" if self.healthy else "unclear"

    def to_dict(self) -> dict:
        """Return it as plain lists, strings and numbers, NaN and infinities as None."""
        fields = {"fault": self.fault, **asdict(self)}
        return {key: _plain(value) for key, value in fields.items()}

    def __str__(self) -> str:
        lines = [f"{self.fault} (confidence {self.confidence:.0%})", *_wrapped(self.summary)]
        for finding in self.findings[:1]:
            lines += _wrapped(finding.sentence)
            if finding.layers:
                lines += _wrapped(f"Layers: {_listed(finding.layers)}.")
            lines += [line for key in finding.advice for line in _wrapped(ADVICE[key], "  → ")]
            lines += _wrapped(f"Why: {finding.link}")
        if len(self.findings) > 1:
            lines += ["also, and perhaps because of it:"]
        for finding in self.findings[1:]:
            lines += _wrapped(f"{finding.fault}: {finding.sentence}")
        return "\n".join(lines)


def _wrapped(text: str, bullet: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))


def _listed(names: Sequence[str]) -> str:
    if len(names) <= 4:
        return ", ".join(names)
    return f"{names[0]}, {names[1]} … {names[-1]} ({len(names)} of them)"


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# ---------------------------------------------------------------- the rules


class Condition(NamedTuple):
    """That a feature is above or below a threshold, looked up in :data:`THRESHOLDS`.

    Attributes:
        feature: its name in :data:`companion.diagnosis.features.FEATURES`.
        side: ">" for above, "<" for below.
        threshold: its key in :data:`THRESHOLDS`.

    """

    feature: str
    side: str
    threshold: str


class Rule(NamedTuple):
    """A fault, and what must all be so for it to be found.

    Attributes:
        fault: its name.
        conditions: one to three of them.
        where: which layers show it, from the log.
        says: what the evidence means, to be filled with the features' values.
        advice: from the log to keys of :data:`ADVICE`.

    """

    fault: str
    conditions: tuple[Condition, ...]
    where: Callable[[Log], list[int]]
    says: str
    advice: Callable[[Log], tuple[str, ...]]


#: Where a feature begins to speak for a fault, and how much more of it makes that sure.
#: Started from what theory and other networks suggest, then moved by ``tests/calibration.py --fit``
#: away from the runs of one half of the zoo's architectures and seeds.
THRESHOLDS: dict[str, tuple[float, float]] = {
    "not learned": (0.75, 0.3),
    "hardly learned": (0.45, 0.15),
    "no better": (0.3, 0.15),
    "large inputs": (1.3, 0.3),
    "offset inputs": (0.8, 0.3),
    "uneven inputs": (2.3, 0.3),
    "tiny inputs": (-2.0, 0.3),
    "flat": (0.19, 0.05),
    "still flat": (1.6, 0.3),
    "dead": (0.8, 0.05),
    "grows in time": (-2.0, 0.5),
    "fades in time": (3.0, 0.7),
    "moves": (-1.3, 0.2),
    "explodes": (-1.8, 0.4),
    "overflows": (6.0, 2.0),
    "vanishes": (1.8, 0.5),
    "flushed": (0.3, 0.1),
    "lost": (0.5, 0.1),
    "wild step": (0.5, 0.2),
    "large step": (-0.78, 0.2),
    "large steps": (-0.7, 0.2),
    "largest step": (-1.3, 0.3),
    "peak": (0.3, 0.1),
    "surge": (0.6, 0.15),
    "small travel": (-0.75, 0.2),
    "tiny travel": (-1.25, 0.2),
    "no travel": (-2.2, 0.2),
    "smooth": (0.15, 0.05),
    "rough": (0.3, 0.05),
    "sensitive": (1.1, 0.15),
    "broke": (0.5, 0.25),
}


def _nowhere(log: Log) -> list[int]:
    return []


def _below(log: Log, sample: int | None) -> list[int]:
    """Return the layers whose δ is below a hundredth of the largest."""
    return (features.delta_profile(log, sample) < -2).nonzero().flatten().tolist()


def _vanished(log: Log) -> list[int]:
    return _below(log, features.first(log))


def _exploded(log: Log) -> list[int]:
    """Return the layers whose δ is more than a hundred times the least."""
    profile = features.delta_profile(log, features.first(log))
    known = profile[~profile.isnan()]
    least = known.min() if len(known) else math.nan
    return (profile > least + 2).nonzero().flatten().tolist()


def _flat(log: Log, sample: int | None) -> list[int]:
    return (features.steepness_by_layer(log, sample) < 0.2).nonzero().flatten().tolist()


def _dead(log: Log, sample: int | None) -> list[int]:
    return (features.dead_by_layer(log, sample) > 0.5).nonzero().flatten().tolist()


def _in_time(log: Log) -> list[int]:
    return (log.times > 1).nonzero().flatten().tolist()


def _bottom(log: Log) -> list[int]:
    return [0] if log.layers else []


def _flushed(log: Log) -> list[int]:
    return (log.delta_norms[0] == 0).nonzero().flatten().tolist() if len(log.steps) else []


def _remake(log: Log) -> tuple[str, ...]:
    """Return what keeps a gradient alive: other weights, another activation, or norms and skips."""
    sigmoid = any(layer.activation == "sigmoid" for layer in log.layers)
    normed = sum(layer.normalized for layer in log.layers) > len(log.layers) / 3
    if normed:
        return ("add skips",)
    return ("change activation", "draw weights") if sigmoid else ("draw weights", "add norm")


def _fixed(*keys: str) -> Callable[[Log], tuple[str, ...]]:
    return lambda log: keys


def _c(feature: str, side: str, threshold: str) -> Condition:
    return Condition(feature, side, threshold)


_UNLEARNED = _c("net_fall", "<", "not learned")
_HARDLY = _c("net_fall", "<", "hardly learned")
_WORSE = _c("fall", "<", "no better")
_BROKE = _c("broke", ">", "broke")
_ROSE = _c("peak", ">", "peak")
_DEAD_LATER = _c("dead_at_end", ">", "dead")
_INPUTS = {
    _c("input_size", ">", "large inputs"): "The inputs are of size 10^{input_size:.1f}.",
    _c("input_offset", ">", "offset inputs"): (
        "The inputs' mean is 10^{input_offset:.1f} times their standard deviation."
    ),
    _c("input_spread", ">", "uneven inputs"): (
        "The widest feature spreads 10^{input_spread:.1f} times as far as the narrowest."
    ),
    _c("input_size", "<", "tiny inputs"): "The inputs are of size 10^{input_size:.1f}.",
}

#: From the furthest upstream down.
RULES: tuple[Rule, ...] = (
    Rule(
        "not finite",
        (_BROKE, _c("peak", "<", "surge"), _c("first_update", "<", "wild step")),
        _nowhere,
        "A loss or gradient was not finite, all of a sudden: the loss had not grown before.",
        _fixed("check data", "safe loss"),
    ),
    *(
        Rule("unscaled inputs", (condition, _UNLEARNED), _bottom, says, _fixed("scale inputs"))
        for condition, says in _INPUTS.items()
    ),
    Rule(
        "saturated",
        (_c("steepness", "<", "flat"), _c("net_fall", "<", "still flat")),
        lambda log: _flat(log, features.first(log)),
        "From the first step on the activations' mean slope is down to {steepness:.3f} of the "
        "largest.",
        _fixed("draw weights", "zero biases"),
    ),
    Rule(
        "dead units",
        (_c("dead", ">", "dead"), _HARDLY),
        lambda log: _dead(log, features.first(log)),
        "From the first step on up to {dead:.0%} of a layer's units have no slope for any example.",
        _fixed("draw weights", "zero biases"),
    ),
    Rule(
        "unstable through time",
        (_c("time_rise", "<", "grows in time"), _UNLEARNED),
        _in_time,
        "On its way back through time the gradient grows, by {time_rise:+.1f} decades.",
        _fixed("orthogonal", "clip"),
    ),
    Rule(
        "exploding",
        (_c("delta_rise", "<", "explodes"), _HARDLY),
        _exploded,
        "At the first step δ changes by {delta_rise:+.1f} decades from the first layer to the "
        "last: it explodes on its way back.",
        _remake,
    ),
    Rule(
        "exploding",
        (_c("signal_rise", ">", "overflows"), _BROKE),
        _exploded,
        "At the first step the outputs' variance grows by {signal_rise:.1f} decades with depth, "
        "until it is not finite.",
        _remake,
    ),
    Rule(
        "underflow",
        (_c("flushed", ">", "flushed"), _HARDLY),
        _flushed,
        "δ is exactly zero in {flushed:.0%} of the layers, and no unit there is dead: it was "
        "rounded away.",
        _fixed("scale loss"),
    ),
    Rule(
        "vanishing",
        (_c("delta_rise", ">", "vanishes"), _HARDLY),
        _vanished,
        "At the first step δ fades by {delta_rise:.1f} decades from the last layer to the first.",
        _remake,
    ),
    Rule(
        "underflow",
        (_c("flushed_at_end", ">", "flushed"), _HARDLY),
        _nowhere,
        "In the end δ is exactly zero in {flushed_at_end:.0%} of the layers, and no unit there is "
        "dead: it was rounded away.",
        _fixed("scale loss"),
    ),
    Rule(
        "underflow",
        (_c("unmoved", ">", "flushed"), _c("underflow", ">", "lost"), _HARDLY),
        _nowhere,
        "{unmoved:.0%} of the weights have a gradient and do not move; float16 flushes "
        "{underflow:.0%} of its entries.",
        _fixed("scale loss"),
    ),
    Rule(
        "learning rate too high",
        (_c("first_update", ">", "large step"), _ROSE, _HARDLY),
        _nowhere,
        "All was well at the first step, but it changed the weights by 10^{first_update:.1f} of "
        "their size, and the loss rose by {peak:.1f} decades.",
        _fixed("lower rate"),
    ),
    Rule(
        "unstable through time",
        (_c("time_rise", ">", "fades in time"), _WORSE, _c("travel", ">", "moves")),
        _in_time,
        "On its way back through time the gradient fades by {time_rise:.1f} decades: what came "
        "early is not learned.",
        _fixed("orthogonal", "clip"),
    ),
    Rule(
        "learning rate too high",
        (_c("typical_update", ">", "large steps"), _WORSE),
        _nowhere,
        "All was well at the first step, but steps go on changing the weights by "
        "10^{typical_update:.1f} of their size.",
        _fixed("lower rate"),
    ),
    Rule(
        "learning rate too high",
        (_ROSE, _c("largest_update", ">", "largest step"), _WORSE),
        _nowhere,
        "All was well at the first step; later steps changed weights by up to "
        "10^{largest_update:.1f} of their size, and the loss rose by {peak:.1f} decades.",
        _fixed("lower rate"),
    ),
    Rule(
        "not finite",
        (_BROKE,),
        _nowhere,
        "A loss or gradient was not finite.",
        _fixed("check data", "safe loss"),
    ),
    Rule(
        "dead units",
        (_DEAD_LATER, _HARDLY),
        lambda log: _dead(log, features.last(log)),
        "In the end up to {dead_at_end:.0%} of a layer's units have no slope for any example.",
        _fixed("lower rate"),
    ),
    Rule(
        "saturated",
        (_c("steepness_at_end", "<", "flat"), _HARDLY),
        lambda log: _flat(log, features.last(log)),
        "In the end the activations' mean slope is down to {steepness_at_end:.3f} of the largest.",
        _fixed("lower rate"),
    ),
    Rule(
        "underflow",
        (_c("underflow", ">", "lost"), _WORSE),
        _nowhere,
        "float16 flushes {underflow:.0%} of the gradient's entries to zero.",
        _fixed("scale loss"),
    ),
    *(
        Rule(
            "learning rate too low",
            (_c("travel", "<", travel), *others),
            _nowhere,
            "Gradients are sound, but in the whole run no weight matrix can have moved by more "
            "than 10^{travel:.1f} of its size.",
            _fixed("raise rate"),
        )
        # A run that is done does not move much either, but its loss, near zero, is rough and
        # sensitive; the less it moved, the less the roughness counts.
        for travel, others in (
            ("small travel", (_WORSE, _c("roughness", "<", "smooth"))),
            ("tiny travel", (_c("roughness", "<", "rough"), _c("sensitivity", "<", "sensitive"))),
            ("no travel", (_HARDLY, _c("sensitivity", "<", "sensitive"))),
        )
    ),
)

FAULTS = tuple(dict.fromkeys(rule.fault for rule in RULES))

#: Faults that are found only where nothing further upstream explains the run.
BY_EXCLUSION = ("learning rate too high", "learning rate too low")

#: What to try, by its id.
ADVICE = {
    "scale inputs": "Standardise the inputs: mean 0 and variance 1 for each feature.",
    "draw weights": "Draw the weights with the variance that keeps the signal: 2/fan_in before a "
    "rectifier, 1/fan_in before tanh.",
    "zero biases": "Let the biases start at zero.",
    "add norm": "If that does not help, add normalization or skip connections.",
    "add skips": "Add skip connections: norms alone let the gradient grow with depth.",
    "change activation": "Exchange the sigmoid for tanh or a rectifier.",
    "orthogonal": "Draw the recurrent matrix orthogonal, or take an LSTM or GRU.",
    "clip": "Clip the gradient by its norm.",
    "scale loss": "Multiply the loss before backward, and divide the gradients after it (a "
    "GradScaler does both), or take bfloat16.",
    "lower rate": "Divide the learning rate by 10, and once more if need be.",
    "raise rate": "Multiply the learning rate by 10, and once more if need be.",
    "check data": "Look for inputs or targets that are not finite in the first bad batch.",
    "safe loss": "Compute the loss from logits, in float32: no logarithm of a rounded 0.",
}
LINKS = {
    "unscaled inputs": "initialization.html",
    "saturated": "activations.html",
    "dead units": "activations.html",
    "unstable through time": "lstms.html",
    "exploding": "initialization.html",
    "vanishing": "initialization.html",
    "underflow": "precision.html",
}

# ---------------------------------------------------------------- the diagnosis

#: Confidence is the logistic of the first plus the second times the margin; fitted likewise.
CONFIDENCE = (1.17, 1.07)


def margin(rule: Rule, found: dict[str, float]) -> float:
    """Return how far a rule is from firing, in the scales of its thresholds; it fires above 0.

    It is that of the condition that is least fulfilled, and -inf if a feature is not known.

    Args:
        rule: the rule.
        found: the features by name, nan for one that is not known.

    """
    margins = []
    for feature, side, key in rule.conditions:
        threshold, scale = THRESHOLDS[key]
        value = found[feature]
        distance = (value - threshold if side == ">" else threshold - value) / scale
        margins.append(-math.inf if math.isnan(distance) else distance)
    return min(margins)


def confidence(distance: float) -> float:
    """Return the probability that a verdict with this margin is right.

    Example:
        >>> confidence(3.0) > confidence(0.1)
        True

    """
    offset, slope = CONFIDENCE
    return 1 / (1 + math.exp(-(offset + slope * max(0.0, min(distance, 5.0)))))


def diagnose(monitor: Monitor | Log, target_loss: float | None = None) -> Diagnosis:
    """Name what ails a run, from what its monitor saw.

    Args:
        monitor: a monitor, or its log.
        target_loss: the loss at which the run counts as having learned. Without it, that is judged
            from how far the loss fell, and from what is still wrong at the end.

    Returns:
        A :class:`Diagnosis`; "unclear" for a run of fewer than three samples that shows nothing
        wrong, or one that misses its target without a sign of why. Without a target, a run that
        shows no fault and whose loss hardly fell is called healthy with a confidence of one half.

    Raises:
        TypeError: if ``monitor`` is neither a monitor nor a log, or the target is not a number.

    """
    log = monitor if isinstance(monitor, Log) else getattr(monitor, "log", None)
    if not isinstance(log, Log):
        raise TypeError(f"monitor must be a monitor or its log, got {type(monitor).__name__}")
    if target_loss is not None and not isinstance(target_loss, int | float):
        raise TypeError(f"target_loss must be a number or None, got {target_loss!r}")
    found = features.extract(log)
    reached = target_loss is not None and features.settled(log.loss) <= target_loss
    # Where it is known that the target was missed, the loss's fall says nothing more.
    known = {} if target_loss is None else {"fall": -math.inf, "net_fall": -math.inf}
    margins = [margin(rule, found | known) for rule in RULES]
    fired = [] if reached else _fired(log, found, margins)
    nearest = max(margins, default=-math.inf)
    few = len(log.steps) < ENOUGH
    if few and not reached and found["broke"] == 0:
        return _nothing(log, "Too few samples to tell", healthy=False, confidence=0.5)
    if fired:
        sure, summary = fired[0].confidence, _summary(log, "It did not learn")
        return Diagnosis(healthy=False, findings=tuple(fired), confidence=sure, summary=summary)
    if target_loss is not None and not reached:
        verdict = f"It missed {target_loss:.3g}, why is unclear"
        return _nothing(log, verdict, healthy=False, confidence=0.5)
    if reached:
        return _nothing(log, f"It reached {target_loss:.3g}", healthy=True, confidence=1.0)
    if not found["fall"] > THRESHOLDS["no better"][0]:
        # At its floor, or not begun: without a target nobody can tell.
        verdict = "No fault shows, but it fell little: say how low is low enough (target_loss)"
        return _nothing(log, verdict, healthy=True, confidence=0.5)
    return _nothing(log, "No fault shows", healthy=True, confidence=confidence(-nearest))


def _nothing(log: Log, verdict: str, *, healthy: bool, confidence: float) -> Diagnosis:
    """Return a diagnosis that finds no fault, and says so in a verdict."""
    summary = _summary(log, verdict)
    return Diagnosis(healthy=healthy, findings=(), confidence=confidence, summary=summary)


def _fired(log: Log, found: dict[str, float], margins: list[float]) -> list[Finding]:
    """Return the rules that fire, the first of each fault."""
    findings: dict[str, Finding] = {}
    for rule, distance in zip(RULES, margins, strict=True):
        if findings and rule.fault in BY_EXCLUSION:
            continue
        if distance > 0 and rule.fault not in findings:
            findings[rule.fault] = _finding(rule, log, found, distance)
    # That a rate is too low is left when nothing else explains why weights do not move.
    return [
        f for f in findings.values() if f.fault != "learning rate too low" or len(findings) == 1
    ]


def _finding(rule: Rule, log: Log, found: dict[str, float], distance: float) -> Finding:
    return Finding(
        fault=rule.fault,
        layers=tuple(log.layers[i].name for i in rule.where(log)),
        evidence={condition.feature: found[condition.feature] for condition in rule.conditions},
        sentence=rule.says.format(**found),
        confidence=confidence(distance),
        advice=rule.advice(log),
        link=LINKS.get(rule.fault, "diagnosis.html"),
    )


def _summary(log: Log, verdict: str) -> str:
    start, end = features.began(log), features.settled(log.loss)
    return f"{verdict}. In {len(log.loss)} steps the loss went from {start:.3g} to {end:.3g}."


def popular_rule(log: Log) -> str:
    """Return what popular articles read from weight-gradient norms alone.

    Norms near zero in the early layers beside active later ones: "vanishing". Spikes: "exploding".
    Otherwise "healthy". Near zero is taken as below a thousandth of the later layers', a spike as
    more than ten times the median over time, or not finite.
    """
    norms = log.gradient_norms[:, features.matrices(log)]
    total = log.total_norm
    if not norms.isfinite().all() or (total > 10 * total.quantile(0.5)).any():
        return "exploding"
    third = max(1, norms.shape[1] // 3)
    typical = norms.quantile(0.5, dim=0)
    if typical[:third].mean() < 1e-3 * typical[-third:].mean():
        return "vanishing"
    return "healthy"
