"""companion.clipping against torch.nn.utils, closed forms, and gradients no clipping can mend."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from helpers import normal, reproducible
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from companion.clipping import (
    Clip,
    NonFiniteGradientError,
    clip_adaptive_,
    clip_group_norms_,
    clip_norm_,
    clip_value_,
    propose_threshold,
    summary,
)

EVERY = {
    "value": lambda found, **options: clip_value_(found, 1.0, **options),
    "norm": lambda found, **options: clip_norm_(found, 1.0, **options),
    "groups": lambda found, **options: clip_group_norms_([[p] for p in found], 1.0, **options),
    "adaptive": lambda found, **options: clip_adaptive_(found, **options),
}
every = pytest.mark.parametrize("clip", EVERY.values(), ids=EVERY)


def with_gradients(*gradients: Tensor) -> list[nn.Parameter]:
    parameters = [
        nn.Parameter(normal(*g.shape, seed=i).to(g.dtype)) for i, g in enumerate(gradients)
    ]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return parameters


def three(size: float = 1.0) -> list[nn.Parameter]:
    return with_gradients(*(size * normal(*s, seed=9) for s in ((3, 4), (5,), (2, 3, 2, 2))))


def flat(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.grad.flatten() for p in parameters])


def degrees(u: Tensor, v: Tensor) -> float:
    return math.degrees(math.acos(min(1.0, (u @ v / (u.norm() * v.norm())).item())))


@pytest.mark.breaks(
    "companion/clipping/clips.py",
    "(max_norm / (norm + 1e-6))",
    "(max_norm / norm)",
)
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("kind", [1.0, 2.0, 3.5, math.inf])
def test_clipping_by_norm_is_torchs(size: float, kind: float) -> None:
    ours, theirs = three(size), three(size)
    clip = clip_norm_(ours, 2.0, norm_type=kind)
    nn.utils.clip_grad_norm_(theirs, 2.0, kind)
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=1e-12, atol=0)
    assert clip.norm == pytest.approx(flat(three(size)).norm().item(), rel=1e-12)
    assert clip.factor == pytest.approx((flat(ours).norm() / flat(three(size)).norm()).item())
    assert clip.angle < 1e-6


@pytest.mark.parametrize("bound", [0.0, 0.3, 10.0])
def test_clipping_by_value_is_torchs(bound: float) -> None:
    ours, theirs, before = three(), three(), flat(three())
    clip = clip_value_(ours, bound)
    nn.utils.clip_grad_value_(theirs, bound)
    assert torch.equal(flat(ours), flat(theirs))
    if bound > 0:
        assert clip.angle == pytest.approx(degrees(before, flat(ours)), abs=1e-5)
    assert clip.clipped == (bound < 10)


@pytest.mark.breaks(
    "companion/clipping/clips.py",
    "apart, along = _norm(u - v for u, v in pairs), _norm(u + v for u, v in pairs)",
    "apart, along = max((_norm([u - v]), _norm([u + v])) for u, v in pairs)",
)
def test_the_angle_is_that_of_all_parameters_as_one_vector() -> None:
    # Each of the two tensors keeps its own direction; together they are turned.
    parameters = with_gradients(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.3]))
    clip = clip_group_norms_([[p] for p in parameters], 1.0)
    assert clip.angle == pytest.approx(math.degrees(math.atan(0.3) - math.atan(0.06)), abs=1e-5)
    assert clip.factor == pytest.approx(math.hypot(1, 0.3) / math.hypot(5, 0.3), rel=1e-5)


@pytest.mark.breaks(
    "companion/clipping/clips.py",
    "return math.degrees(2 * math.atan2(apart, along))",
    "return math.degrees(math.acos(max(-1.0, 1 - apart**2 / 2)))",
)
def test_small_angles_are_not_rounded_away() -> None:
    (w,) = with_gradients(torch.tensor([1.0, 1e-9], dtype=torch.float64))
    assert clip_value_(w, 0.5).angle == pytest.approx(math.degrees(1e-9), rel=1e-6)


@pytest.mark.breaks(
    "companion/clipping/clips.py",
    "    for group in listed:\n            _scale_(group, bound, kind)",
    "    _scale_(together, bound, kind)",
)
def test_groups_are_clipped_each_by_its_own_norm() -> None:
    parameters = three(10.0)
    optimizer = torch.optim.SGD([{"params": parameters[:2]}, {"params": parameters[2:]}], lr=0.1)
    before = [p.grad.clone() for p in parameters]
    clip_group_norms_(optimizer.param_groups, 1.0)
    first = math.hypot(before[0].norm(), before[1].norm())
    for index, norm in enumerate([first, first, before[2].norm().item()]):
        expected = before[index] / (norm + 1e-6)
        torch.testing.assert_close(parameters[index].grad, expected, rtol=1e-10, atol=0)


@pytest.mark.breaks("companion/clipping/clips.py", "or norm + 1e-6 <= max_norm:", "or False:")
def test_a_group_below_the_threshold_is_left_alone() -> None:
    small, large = with_gradients(torch.tensor([0.3]), torch.tensor([30.0]))
    clip_group_norms_([[small], [large]], 1.0)
    assert small.grad.item() == pytest.approx(0.3)
    assert large.grad.item() == pytest.approx(1.0, rel=1e-5)


def test_a_parameter_stands_in_one_group() -> None:
    parameters = three()
    with pytest.raises(ValueError, match="share a parameter"):
        clip_group_norms_([parameters, parameters[:1]], 1.0)


# A unit is a row, a filter, or a whole vector; written out entry by entry.
@pytest.mark.breaks(
    "companion/clipping/clips.py",
    "_unit_norms(parameter.detach()).clamp(min=eps)",
    "_unit_norms(parameter.detach())",
)
@pytest.mark.breaks(
    "companion/clipping/clips.py",
    "tuple(range(1, tensor.dim())) or None",
    "tuple(range(tensor.dim() - 1)) or None",
)
def test_adaptive_clipping_is_by_unit() -> None:
    parameters = three(0.1)
    with torch.no_grad():
        parameters[0][1] = 0.0  # below eps: such a row is taken to have norm 1e-3
    before = [p.grad.clone() for p in parameters]
    clip_adaptive_(parameters, 0.02)
    units = [
        *((parameters[0][i], before[0][i], parameters[0].grad[i]) for i in range(3)),
        (parameters[1], before[1], parameters[1].grad),
        *((parameters[2][i], before[2][i], parameters[2].grad[i]) for i in range(2)),
    ]
    clipped = 0
    for weight, old, new in units:
        largest = 0.02 * max(weight.norm().item(), 1e-3)
        factor = min(1.0, largest / old.norm().item())
        clipped += factor < 1
        torch.testing.assert_close(new, old * factor, rtol=1e-10, atol=0)
    assert clipped > 2


def test_adaptive_clipping_leaves_small_gradients_alone() -> None:
    parameters = three(1e-6)
    assert not clip_adaptive_(parameters).clipped
    assert torch.equal(flat(parameters), flat(three(1e-6)))


def test_a_unit_of_no_gradient_stays_so() -> None:
    (w,) = with_gradients(torch.zeros(2, 3))
    clip = clip_adaptive_(w)
    assert torch.equal(w.grad, torch.zeros(2, 3))
    assert clip == Clip(0.0, factor=1.0, angle=0.0, clipped=False, skipped=False)


# torch divides by a norm that overflowed to infinity, and leaves zeros.
@pytest.mark.breaks(
    "companion/_lib/norms.py",
    "vector_norm(wide(values).abs(), order)",
    "vector_norm(values.abs(), order)",
)
@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float32, 1e30), (torch.float16, 4e4), (torch.bfloat16, 1e30)]
)
def test_a_norm_its_type_cannot_hold_is_clipped_all_the_same(
    dtype: torch.dtype, size: float
) -> None:
    gradient = torch.full((100,), size, dtype=dtype)
    ours, theirs = with_gradients(gradient, gradient)
    nn.utils.clip_grad_norm_([theirs], 1.0)
    assert (theirs.grad == 0).all()
    clip = clip_norm_([ours], 1.0)
    assert ours.grad.double().norm().item() == pytest.approx(1, rel=1e-2)
    assert clip.norm == pytest.approx(10 * gradient[0].item(), rel=1e-6)


@pytest.mark.breaks("companion/_lib/norms.py", "values / largest", "values")
@pytest.mark.breaks(
    "companion/clipping/clips.py", "factor = max_norm / _norm(shares, kind)", "factor = 0.0"
)
@pytest.mark.parametrize("size", [1e200, 1.7e308])
@pytest.mark.parametrize("clip", [EVERY["norm"], EVERY["groups"]], ids=["norm", "groups"])
def test_a_norm_beyond_float64_keeps_the_direction(clip: Callable[..., Clip], size: float) -> None:
    """Zeros were left of it, in silence."""
    direction = torch.tensor([2.0, 1.0, -2.0], dtype=torch.float64) / 3
    (w,) = with_gradients(size * direction / direction.max())
    done = clip([w])
    torch.testing.assert_close(w.grad, direction)
    assert done.angle == pytest.approx(0, abs=1e-5)
    assert done.norm == pytest.approx(1.5 * size)  # inf for the larger


@pytest.mark.breaks(
    "companion/clipping/clips.py", "_unit_norms(shares).clamp(", "_unit_norms(gradient).clamp("
)
@pytest.mark.parametrize("size", [1e200, 1.7e308])
def test_a_units_norm_beyond_float64_keeps_its_direction(size: float) -> None:
    direction = torch.tensor([[2.0, 1.0, -2.0], [0.0, 0.3, 0.4]], dtype=torch.float64)
    (w,) = with_gradients(direction * torch.tensor([[size / 2], [1.0]], dtype=torch.float64))
    with torch.no_grad():
        w.fill_(1.0)
    clip_adaptive_(w)
    largest = 0.01 * 3**0.5
    torch.testing.assert_close(w.grad, direction * largest / torch.tensor([[3.0], [0.5]]))


def test_small_types_keep_what_a_small_factor_leaves() -> None:
    """In float16 the factor itself was 0."""
    for dtype, size, bound in ((torch.float16, 6e4, 1e-3), (torch.float32, 3e38, 1e-6)):
        (w,) = with_gradients(torch.full((100,), size, dtype=dtype))
        clip_norm_(w, bound)
        torch.testing.assert_close(w.grad.double().norm().item(), bound, rtol=2e-2, atol=0)
    (w,) = with_gradients(torch.full((1, 100), 6e4, dtype=torch.float16))
    with torch.no_grad():
        w.fill_(0.1)
    clip_adaptive_(w)
    assert w.grad.double().norm().item() == pytest.approx(0.01, rel=1e-2)


def test_factors_beyond_float64_and_bounds_near_its_end() -> None:
    (w,) = with_gradients(torch.full((5,), 1.7e308, dtype=torch.float64))
    assert clip_value_(w, 1.75e308).factor == 1
    (w,) = with_gradients(torch.full((2,), 1.4e308, dtype=torch.float64))
    assert clip_norm_(w, 1.4e308).factor == pytest.approx(0.5**0.5)
    assert w.grad[0].item() == pytest.approx(1.4e308 * 0.5**0.5)


def test_complex_gradients_are_clipped_as_torch_does() -> None:
    ours, theirs = (nn.Parameter(torch.zeros(2, dtype=torch.complex128)) for _ in range(2))
    for w in (ours, theirs):
        w.grad = torch.tensor([3 + 4j, 0], dtype=torch.complex128)
    clip = clip_norm_(ours, 1.0)
    nn.utils.clip_grad_norm_(theirs, 1.0)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert (clip.norm, round(clip.angle, 6)) == (5, 0)


def test_a_small_norm_does_not_vanish_in_its_squares() -> None:
    (w,) = with_gradients(torch.tensor([3e-200, 4e-200], dtype=torch.float64))
    assert clip_norm_(w, 1.0).norm == pytest.approx(5e-200)


@pytest.mark.breaks(
    "companion/clipping/clips.py",
    "not parameter.grad.isfinite().all()",
    "parameter.grad.isnan().any()",
)
@every
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_raises_and_changes_nothing(
    clip: Callable[..., Clip], bad: float
) -> None:
    parameters = three()
    parameters[1].grad[2] = bad
    before = flat(parameters)
    with pytest.raises(NonFiniteGradientError, match=r"1 of 3 parameters .*shape \(5,\)"):
        clip(parameters)
    torch.testing.assert_close(flat(parameters), before, equal_nan=True, rtol=0, atol=0)


@pytest.mark.breaks(
    "companion/clipping/clips.py",
    "            parameter.grad = None\n",
    "            parameter.grad.zero_()\n",
)
@every
def test_a_skipped_step_moves_nothing_not_even_momentum(clip: Callable[..., Clip]) -> None:
    parameters = three()
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    optimizer.step()
    held = [p.detach().clone() for p in parameters]
    state = copy.deepcopy(optimizer.state_dict()["state"])
    parameters[2].grad[0, 0, 0, 0] = math.nan
    done = clip(parameters, nonfinite="skip")
    optimizer.step()
    assert done.skipped
    assert not done.clipped
    assert not math.isfinite(done.norm)
    assert all(torch.equal(p, h) for p, h in zip(parameters, held, strict=True))
    torch.testing.assert_close(optimizer.state_dict()["state"], state, rtol=0, atol=0)


@every
def test_parameters_without_a_gradient_are_passed_over(clip: Callable[..., Clip]) -> None:
    parameters = three(10.0)
    parameters[1].grad = None
    clip(parameters)
    assert parameters[1].grad is None
    everything_without = three()
    for parameter in everything_without:
        parameter.grad = None
    assert clip(everything_without) == Clip(0.0, 1.0, 0.0, clipped=False, skipped=False)


def test_a_single_parameter_and_a_generator_will_do() -> None:
    model = nn.Linear(3, 2)
    model(torch.ones(4, 3)).square().sum().backward()
    assert clip_norm_(model.parameters(), 1e-3).clipped
    assert not clip_norm_(model.weight, 1.0).clipped


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8),
    st.floats(1e-6, 1e6),
    st.sampled_from(sorted(EVERY)),
)
@reproducible
def test_no_clip_lengthens_or_turns_a_gradient_around(
    entries: list[float], bound: float, name: str
) -> None:
    (w,) = with_gradients(torch.tensor(entries, dtype=torch.float64))
    before = w.grad.clone()
    clip = {"value": clip_value_, "norm": clip_norm_}.get(name, clip_norm_)(w, bound)
    assert clip.factor <= 1 + 1e-12
    assert 0 <= clip.angle <= 90 + 1e-9
    assert (w.grad * before >= 0).all()
    assert (w.grad.abs() <= before.abs() * (1 + 1e-12)).all()
    assert clip.clipped == (not torch.equal(w.grad, before))


def test_a_summary_counts() -> None:
    clips = [
        Clip(4.0, 0.25, 10.0, clipped=True, skipped=False),
        Clip(2.0, 0.5, 30.0, clipped=True, skipped=False),
        Clip(5.0, 0.2, 0.0, clipped=True, skipped=False),
        Clip(0.5, 1.0, 0.0, clipped=False, skipped=False),
        Clip(math.inf, 0.0, 0.0, clipped=False, skipped=True),
    ]
    assert summary(clips) == (5, 0.6, 0.2, 0.25, 30.0)
    assert summary(clips[3:4]) == (1, 0.0, 0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="got none"):
        summary([])


@given(
    st.lists(st.floats(0, 1e9) | st.just(math.inf), min_size=1, max_size=40),
    st.floats(0, 1),
)
@reproducible
def test_the_threshold_proposed_clips_at_most_the_share_asked(
    norms: list[float], share: float
) -> None:
    try:
        threshold = propose_threshold(norms, share=share)
    except ValueError:
        assert sum(map(math.isinf, norms)) > share * (len(norms) - 1) - 1
        return
    assert threshold in norms
    assert sum(norm > threshold for norm in norms) <= share * (len(norms) - 1) + 1e-6


@pytest.mark.breaks(
    "companion/clipping/clips.py", "(seen.numel() - 1) * (1 - share)", "(seen.numel() - 1) * share"
)
def test_the_threshold_is_a_quantile() -> None:
    norms = torch.arange(1.0, 102.0)
    assert propose_threshold(norms) == 91
    assert propose_threshold(norms, share=0.0) == 101
    assert propose_threshold(norms, share=1.0) == 1
    assert propose_threshold([1.0, 2.0, math.nan], share=0.5) == 2  # nan is larger than all


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clip_norm_(three(), -1.0), "max_norm must be finite and at least 0, got -1"),
        (lambda: clip_norm_(three(), math.nan), "max_norm must be finite"),
        (lambda: clip_norm_(three(), 1.0, norm_type=0.5), "norm_type .* got 0.5"),
        (lambda: clip_norm_(three(), 1.0, norm_type=math.nan), "norm_type .* got nan"),
        (lambda: clip_value_(three(), -1.0), "clip_value must be finite and at least 0"),
        (lambda: clip_adaptive_(three(), -0.1), "clip_factor must be finite and at least 0"),
        (lambda: clip_adaptive_(three(), eps=0.0), "eps must be positive"),
        (lambda: clip_norm_(three(), 1.0, nonfinite="pass"), r"one of \['raise', 'skip'\]"),
        (lambda: propose_threshold([]), "at least one"),
        (lambda: propose_threshold([-1.0]), "none negative"),
        (lambda: propose_threshold([1.0], share=1.5), "share must be between 0 and 1, got 1.5"),
        (lambda: propose_threshold([1.0, math.inf], share=0.1), "1 of 2 norms are not finite"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match="parameters must be tensors, got str"):
        clip_norm_(["weight"], 1.0)


def test_no_gradient_at_a_threshold_of_none_stays_none() -> None:
    (w,) = with_gradients(torch.zeros(3))
    assert clip_norm_(w, 0.0).factor == 1
    assert (w.grad == 0).all()
