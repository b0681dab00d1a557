"""The hand-written loss scaler against torch's, step by step."""

import math

import pytest
import torch
from helpers import reproducible
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from companion.precision import LossScaler, ScaledStep

MAX_NORM = 0.5


def gradients(steps: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """The loss's gradients at two parameters; every fifth step or so one is not finite."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(steps):
        pair = [torch.randn(n, generator=generator, dtype=torch.float64) for n in (3, 2)]
        if torch.rand(1, generator=generator) < 0.2:
            which = int(torch.randint(2, (1,), generator=generator))
            pair[which][1] = (math.inf, -math.inf, math.nan)[
                int(torch.randint(3, (1,), generator=generator))
            ]
        found.append((pair[0], pair[1]))
    return found


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(n, dtype=torch.float64)) for n in (3, 2)]


def loss(weights: list[nn.Parameter], slopes: tuple[Tensor, Tensor]) -> Tensor:
    return sum(((w * g).sum() for w, g in zip(weights, slopes, strict=True)), torch.zeros(()))


@pytest.mark.breaks("companion/precision/scaling.py", "loss * self._scale", "loss * self._scale**2")
@pytest.mark.breaks(
    "companion/precision/scaling.py",
    "gradient.mul_(1 / self._scale)",
    "gradient.mul_(1 / self._scale**2)",
)
@pytest.mark.breaks("companion/precision/scaling.py", "gradient.mul_(1 / self._scale)", "gradient")
@pytest.mark.breaks("companion/precision/scaling.py", "if not done.skipped:", "if True:")
@pytest.mark.breaks(
    "companion/precision/scaling.py",
    "self._good_steps == self._interval",
    "self._good_steps > self._interval",
)
@pytest.mark.breaks(
    "companion/precision/scaling.py",
    "self._scale *= self._backoff\n            self._good_steps = 0",
    "self._scale *= self._backoff",
)
@pytest.mark.breaks(
    "companion/precision/scaling.py",
    "else self._scale\n            self._good_steps = 0",
    "else self._scale",
)
@pytest.mark.breaks(
    "companion/precision/scaling.py",
    "all(bool(gradient.isfinite().all())",
    "any(bool(gradient.isfinite().all())",
)
@pytest.mark.breaks(
    "companion/precision/scaling.py", "gradient.isfinite().all()", "~gradient.isinf().any()"
)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    ("interval", "growth", "backoff"), [(3, 2.0, 0.5), (1, 4.0, 0.25), (4, 2.0, 0.125)]
)
def test_it_does_what_torchs_does(interval: int, growth: float, backoff: float, clip: bool) -> None:
    how = {"init_scale": 64.0, "growth_factor": growth, "backoff_factor": backoff}
    ours = LossScaler(**how, growth_interval=interval)
    theirs = torch.amp.GradScaler("cpu", **how, growth_interval=interval)
    assert theirs.is_enabled()
    left, right = parameters(), parameters()
    # Momentum, so that a step too many is seen in the steps after it as well.
    sgd_left, sgd_right = (torch.optim.SGD(p, lr=0.1, momentum=0.9) for p in (left, right))
    scales, skipped = [], []
    for slopes in gradients(60, seed=interval):
        sgd_left.zero_grad()
        sgd_right.zero_grad()
        before = theirs.get_scale()
        assert ours.get_scale() == before
        ours.scale(loss(left, slopes)).backward()
        theirs.scale(loss(right, slopes)).backward()
        if clip:
            ours.unscale_(left)
            nn.utils.clip_grad_norm_(left, MAX_NORM)
            theirs.unscale_(sgd_right)
            nn.utils.clip_grad_norm_(right, MAX_NORM)
        done = ours.step(sgd_left)
        theirs.step(sgd_right)
        theirs.update()
        assert done.skipped == (theirs.get_scale() < before)
        for one, other in zip(left, right, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        scales.append(before)
        skipped.append(done.skipped)
    assert ours.log == tuple(ScaledStep(*each) for each in zip(range(60), scales, skipped))
    assert 5 < sum(skipped) < 30
    assert len(set(scales)) > 4


@pytest.mark.breaks(
    "companion/precision/scaling.py",
    "grown if grown <= torch.finfo(torch.float32).max else self._scale",
    "grown",
)
def test_the_scale_stays_a_float32_as_torchs_does() -> None:
    how = {"init_scale": 2.0**126, "growth_interval": 1}
    ours, theirs = LossScaler(**how), torch.amp.GradScaler("cpu", **how)
    (left,), (right,) = ([nn.Parameter(torch.ones(1, dtype=torch.float64))] for _ in "12")
    sgd_left, sgd_right = torch.optim.SGD([left], lr=0.1), torch.optim.SGD([right], lr=0.1)
    for _ in range(4):
        left.grad, right.grad = torch.ones_like(left), torch.ones_like(right)
        theirs.scale(torch.ones(()))
        ours.step(sgd_left)
        theirs.step(sgd_right)
        theirs.update()
        assert ours.get_scale() == theirs.get_scale()
    assert ours.get_scale() == 2.0**127


@pytest.mark.breaks("companion/precision/scaling.py", "if self._all_finite is None:", "if True:")
@pytest.mark.breaks(
    "companion/precision/scaling.py",
    "        self._all_finite = None\n        return done",
    "        return done",
)
def test_gradients_are_divided_once_a_step() -> None:
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
    sgd, scaler = torch.optim.SGD([weight], lr=1.0), LossScaler(init_scale=8.0)
    for _ in range(2):
        sgd.zero_grad()
        scaler.scale(weight.sum()).backward()
        assert scaler.unscale_([weight, nn.Parameter(torch.ones(1))])
        assert weight.grad.tolist() == [1, 1]
        with pytest.raises(RuntimeError, match="divided by the scale already"):
            scaler.unscale_([weight])
        scaler.step(sgd)
    assert weight.tolist() == [-1, -1]


def test_a_skipped_step_leaves_the_optimizers_state() -> None:
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    adam, scaler = torch.optim.Adam([weight]), LossScaler()
    weight.grad = torch.full_like(weight, math.inf)
    assert not scaler.unscale_([weight])
    assert scaler.step(adam) == (0, 2.0**16, True)
    assert not adam.state
    assert scaler.get_scale() == 2.0**15


def test_a_log_is_no_handle() -> None:
    scaler = LossScaler()
    assert scaler.log == ()
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    kept = scaler.log
    scaler.step(torch.optim.SGD([weight], lr=0.1))
    assert (len(kept), len(scaler.log)) == (0, 1)


@reproducible
@given(
    st.sampled_from(["init_scale", "growth_factor", "backoff_factor"]),
    st.one_of(
        st.floats(max_value=0), st.sampled_from([math.inf, math.nan, -math.inf, "1", None, True])
    ),
)
def test_bad_numbers_are_refused(name: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        LossScaler(**{name: value})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"growth_factor": 1.0}, ValueError),
        ({"backoff_factor": 1.0}, ValueError),
        ({"growth_interval": 0}, ValueError),
        ({"growth_interval": 1.5}, TypeError),
    ],
)
def test_limits_are_refused(options: dict[str, float], error: type[Exception]) -> None:
    (name,) = options
    with pytest.raises(error, match=name):
        LossScaler(**options)
