"""Gradient clipping: by value, by norm, by group and adaptive, and what each clip did.

Every function clips the gradients of some parameters in place, as torch.nn.utils does, and returns
a :class:`Clip` that says what happened: the norm before and after, and the angle by which the
gradient of *all* the parameters was turned. A gradient that is not finite never passes in silence:
it raises, or the step is skipped and the :class:`Clip` says so.

Sources: Pascanu, Mikolov & Bengio (2013), arXiv 1211.5063; Brock et al. (2021), arXiv 2102.06171,
for adaptive clipping.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from companion._lib.arguments import non_negative, one_of
from companion._lib.norms import total_norm, vector_norm, wide

Nonfinite = Literal["raise", "skip"]
NONFINITE: tuple[Nonfinite, ...] = get_args(Nonfinite)
Parameters = Iterable[Tensor] | Tensor
TINY = torch.finfo(torch.float64).tiny


class NonFiniteGradientError(RuntimeError):
    """A gradient has entries that are infinite or not a number, which no clipping can mend."""


class Clip(NamedTuple):
    """What one clip did to the gradient g of all the parameters, taken as one vector.

    Attributes:
        norm: ‖g‖ before, in float64: a gradient whose norm the gradient's own type cannot hold has
            a finite one here. inf or nan if g is not finite; inf also beyond float64 itself.
        factor: ‖g‖ after over ‖g‖ before; 1 for no gradient at all, 0 for a skipped step.
        angle: degrees between g before and after; 0 if the direction was kept, or if nothing is
            left of g.
        clipped: whether an entry of g was changed.
        skipped: whether g was not finite, and every gradient was therefore removed.

    """

    norm: float
    factor: float
    angle: float
    clipped: bool
    skipped: bool


class Summary(NamedTuple):
    """What clipping did in a run of several steps.

    Attributes:
        steps: how many clips there were.
        share_clipped: the share of them that changed the gradient; skipped ones are not counted.
        share_skipped: the share that were skipped.
        median_factor: the median factor of those that changed the gradient; 1 if none did.
        largest_angle: the largest angle in degrees; 0 if none changed the gradient.

    """

    steps: int
    share_clipped: float
    share_skipped: float
    median_factor: float
    largest_angle: float


def clip_value_(
    parameters: Parameters, clip_value: float, *, nonfinite: Nonfinite = "raise"
) -> Clip:
    """Clip every entry of the gradients to [−clip_value, clip_value], in place.

    Large entries lose their size relative to small ones, so the direction changes.

    Args:
        parameters: the parameters whose ``.grad`` is clipped; those without one are passed over.
        clip_value: the largest absolute value left.
        nonfinite: "raise", or "skip" to set every gradient to None, so that a torch optimizer
            leaves the parameters (and its own state) as they are.

    Raises:
        NonFiniteGradientError: if an entry is inf or nan, unless ``nonfinite`` is "skip".
        ValueError: if ``clip_value`` is negative or not finite, or ``nonfinite`` is another word.
        TypeError: if a parameter is not a tensor, or ``clip_value`` is not a number.

    Example:
        >>> w = nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([0.9, 100.0])
        >>> clip = clip_value_(w, 1.0)
        >>> [round(g, 4) for g in w.grad.tolist()], round(clip.angle, 2)
        ([0.9, 1.0], 41.47)

    """
    bound = non_negative("clip_value", clip_value)
    return _clip(parameters, nonfinite, lambda found: nn.utils.clip_grad_value_(found, bound))


def clip_norm_(
    parameters: Parameters,
    max_norm: float,
    *,
    norm_type: float = 2.0,
    nonfinite: Nonfinite = "raise",
) -> Clip:
    """Scale the gradients together so that their total norm is at most ``max_norm``, in place.

    g ← g · min(1, max_norm/(‖g‖ + 1e-6)): the direction stays. This is torch's
    ``clip_grad_norm_`` with the norm in float64. In the gradient's own type the squares of large
    entries overflow, torch divides by infinity, and of a finite gradient zeros are left.

    Args:
        parameters: as for :func:`clip_value_`; one norm is taken over all of them.
        max_norm: the largest norm left.
        norm_type: p of the p-norm, also ``math.inf``.
        nonfinite: as for :func:`clip_value_`.

    Raises:
        NonFiniteGradientError: if an entry is inf or nan, unless ``nonfinite`` is "skip".
        ValueError: if ``max_norm`` is negative or not finite, ``norm_type`` is below 1, or
            ``nonfinite`` is another word.
        TypeError: if a parameter is not a tensor, or ``max_norm`` is not a number.

    Source: Pascanu, Mikolov & Bengio (2013), arXiv 1211.5063.

    Example:
        >>> w = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        >>> w.grad = torch.tensor([0.9, 100.0], dtype=torch.float64)
        >>> clip = clip_norm_(w, 1.0)
        >>> [round(g, 8) for g in w.grad.tolist()], round(clip.angle, 6)
        ([0.00899964, 0.99995949], 0.0)

    """
    return clip_group_norms_(
        [_listed(parameters)], max_norm, norm_type=norm_type, nonfinite=nonfinite
    )


def clip_group_norms_(
    groups: Iterable[Parameters | Mapping[str, Any]],
    max_norm: float,
    *,
    norm_type: float = 2.0,
    nonfinite: Nonfinite = "raise",
) -> Clip:
    """Scale the gradients of each group so that the group's norm is at most ``max_norm``.

    Each group keeps its direction, the whole gradient does not: groups that were clipped have lost
    size relative to those that were not. With one group a tensor this is Keras's ``clipnorm``.

    Args:
        groups: lists of parameters, single ones, or an optimizer's ``param_groups``.
        max_norm: the largest norm left in each group.
        norm_type: as for :func:`clip_norm_`.
        nonfinite: as for :func:`clip_value_`; one entry of one group stops the whole step.

    Returns:
        A :class:`Clip` of all the groups together.

    Raises:
        NonFiniteGradientError: if an entry is inf or nan, unless ``nonfinite`` is "skip".
        ValueError: as for :func:`clip_norm_`, or if a parameter stands in two groups.
        TypeError: as for :func:`clip_norm_`.

    Example:
        >>> a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        >>> a.grad, b.grad = torch.tensor([0.9]), torch.tensor([100.0])
        >>> round(clip_group_norms_([[a], [b]], 1.0).angle, 2)
        41.47

    """
    listed = [_listed(g["params"] if isinstance(g, Mapping) else g) for g in groups]
    together = [parameter for group in listed for parameter in group]
    if len({id(parameter) for parameter in together}) < len(together):
        raise ValueError("groups must not share a parameter: it would be clipped twice")
    bound, kind = non_negative("max_norm", max_norm), _norm_type(norm_type)

    def clip(_found: list[Tensor]) -> None:
        for group in listed:
            _scale_(group, bound, kind)

    return _clip(together, nonfinite, clip)


def clip_adaptive_(
    parameters: Parameters,
    clip_factor: float = 0.01,
    *,
    eps: float = 1e-3,
    nonfinite: Nonfinite = "raise",
) -> Clip:
    """Clip the gradient of each unit to a share of the norm of the unit's weights (AGC).

    A unit is a row of a matrix or a filter of a convolution (what makes one output), or a whole
    vector such as a bias. Where ‖G‖ > clip_factor · max(‖W‖, eps), G is scaled down to that norm:
    a step of η then changes no unit by more than η · clip_factor of itself.

    Args:
        parameters: as for :func:`clip_value_`.
        clip_factor: the largest ratio ‖G‖/‖W‖ left.
        eps: the norm that weights are taken to have at least, so that those that start at zero can
            move at all.
        nonfinite: as for :func:`clip_value_`.

    Raises:
        NonFiniteGradientError: if an entry is inf or nan, unless ``nonfinite`` is "skip".
        ValueError: if ``clip_factor`` is negative or not finite, ``eps`` is not positive and
            finite, or ``nonfinite`` is another word.
        TypeError: if a parameter is not a tensor, or ``clip_factor`` or ``eps`` is not a number.

    Source: Brock et al. (2021), arXiv 2102.06171.

    Example:
        >>> w = nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
        >>> w.grad = torch.ones(2, 2) * 0.02
        >>> clip = clip_adaptive_(w)
        >>> [round(norm, 4) for norm in w.grad.norm(dim=1).tolist()]  # 0.01 of 5, of 0.5
        [0.0283, 0.005]

    """
    share = non_negative("clip_factor", clip_factor)
    if not non_negative("eps", eps) > 0:
        raise ValueError("eps must be positive, got 0: weights of zero could never move")

    def clip(found: list[Tensor]) -> None:
        for parameter in found:
            assert parameter.grad is not None  # those without are left out before
            largest = share * _unit_norms(parameter.detach()).clamp(min=eps)
            norms, gradient = _unit_norms(parameter.grad), wide(parameter.grad)
            shorter = gradient * (largest / norms)
            if norms.isinf().any():
                shares = gradient / _unit_largest(gradient).clamp(min=TINY)
                shorter = shares * (largest / _unit_norms(shares).clamp(min=TINY))
            parameter.grad.copy_(torch.where(norms > largest, shorter, gradient))

    return _clip(parameters, nonfinite, clip)


def summary(clips: Iterable[Clip]) -> Summary:
    """Return what a run's clips did together.

    Raises:
        ValueError: if there is none.

    Example:
        >>> summary([Clip(2.0, 0.5, 0.0, True, False), Clip(0.5, 1.0, 0.0, False, False)])
        Summary(steps=2, share_clipped=0.5, share_skipped=0.0, median_factor=0.5, largest_angle=0.0)

    """
    clips = list(clips)
    if not clips:
        raise ValueError("clips needs at least one Clip, got none")
    changed = [clip for clip in clips if clip.clipped]
    factors = torch.tensor([clip.factor for clip in changed] or [1.0], dtype=torch.float64)
    return Summary(
        steps=len(clips),
        share_clipped=len(changed) / len(clips),
        share_skipped=sum(clip.skipped for clip in clips) / len(clips),
        median_factor=factors.quantile(0.5).item(),
        largest_angle=max((clip.angle for clip in changed), default=0.0),
    )


def propose_threshold(norms: Tensor | Sequence[float], *, share: float = 0.1) -> float:
    """Return the ``max_norm`` that would have clipped ``share`` of the observed gradient norms.

    It is their (1 − share) quantile. A norm that was not finite counts as larger than all others.

    Args:
        norms: total norms of the gradient, one a step, before any clipping: numbers, or a tensor of
            shape (steps,).
        share: of the steps to be clipped, between 0 and 1: 0 proposes the largest norm seen.

    Raises:
        ValueError: if there are no norms, one is negative, ``share`` is out of range, or so many
            are not finite that no finite threshold clips only ``share`` of the steps.

    Example:
        >>> propose_threshold([1.0, 2.0, 3.0, 4.0, 1000.0], share=0.25)
        4.0

    """
    seen = torch.as_tensor(norms, dtype=torch.float64).flatten().nan_to_num(math.inf, math.inf)
    if seen.numel() == 0 or (seen < 0).any():
        raise ValueError("norms must be norms, at least one and none negative")
    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    # The rank from below of the largest norm that is not to be clipped; 1e-9 is for rounding.
    rank = math.ceil((seen.numel() - 1) * (1 - share) - 1e-9)
    threshold = seen.sort().values[rank].item()
    if not math.isfinite(threshold):
        count = int(seen.isinf().sum())
        raise ValueError(
            f"{count} of {seen.numel()} norms are not finite: no threshold clips only a share of "
            f"{share}. Skip those steps, or lower the learning rate, and observe again"
        )
    return threshold


# ---------------------------------------------------------------- what all of them do


def _listed(parameters: Parameters) -> list[Tensor]:
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for parameter in listed:
        if not isinstance(parameter, Tensor):
            raise TypeError(f"parameters must be tensors, got {type(parameter).__name__}")
    return listed


def _norm_type(value: float) -> float:
    if isinstance(value, bool) or not value >= 1:
        raise ValueError(f"norm_type must be a number of at least 1, or math.inf, got {value!r}")
    return float(value)


def _norm(tensors: Iterable[Tensor], kind: float = 2.0) -> float:
    return total_norm(tensors, kind).item()


def _scale_(parameters: list[Tensor], max_norm: float, kind: float) -> None:
    """Do what torch's clip_grad_norm_ does, with a norm in float64, which does not overflow."""
    gradients = _gradients(parameters)
    if not gradients:
        return
    norm = _norm(gradients, kind)
    if norm == 0 or norm + 1e-6 <= max_norm:
        return
    if math.isfinite(norm) and max_norm / norm > TINY:
        for gradient in gradients:
            gradient.copy_(wide(gradient) * (max_norm / (norm + 1e-6)))
        return
    largest = _largest(gradients)
    shares = [wide(gradient) / largest for gradient in gradients]
    factor = max_norm / _norm(shares, kind)
    for gradient, share in zip(gradients, shares, strict=True):
        gradient.copy_(share * factor)


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _unit_norms(tensor: Tensor) -> Tensor:
    dims = tuple(range(1, tensor.dim())) or None
    return vector_norm(wide(tensor).abs(), dim=dims, keepdim=True)


def _clip(
    parameters: Parameters, nonfinite: Nonfinite, clip: Callable[[list[Tensor]], object]
) -> Clip:
    """Clip, and compare the gradient with what it was; one that is not finite is not clipped."""
    one_of("nonfinite", nonfinite, NONFINITE)
    found = [parameter for parameter in _listed(parameters) if parameter.grad is not None]
    if not found:
        return Clip(0.0, factor=1.0, angle=0.0, clipped=False, skipped=False)
    bad = [
        i
        for i, parameter in enumerate(found)
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    norm = _norm(_gradients(found))
    if bad:
        if nonfinite == "raise":
            raise NonFiniteGradientError(_complaint(found, bad))
        for parameter in found:
            parameter.grad = None
        return Clip(norm, factor=0.0, angle=0.0, clipped=False, skipped=True)
    before = [gradient.clone() for gradient in _gradients(found)]
    clip(found)
    after = _gradients(found)
    left = _norm(after)
    return Clip(
        norm,
        factor=_ratio(before, norm, after, left),
        angle=_angle(before, norm, after, left),
        clipped=any(not torch.equal(old, new) for old, new in zip(before, after, strict=True)),
        skipped=False,
    )


def _angle(before: list[Tensor], norm: float, after: list[Tensor], left: float) -> float:
    """Return the degrees between two gradients, accurate also where a cosine rounds to 1."""
    if norm == 0 or left == 0:
        return 0.0
    pairs = list(zip(_unit(before, norm), _unit(after, left), strict=True))
    apart, along = _norm(u - v for u, v in pairs), _norm(u + v for u, v in pairs)
    return math.degrees(2 * math.atan2(apart, along))


def _ratio(before: list[Tensor], norm: float, after: list[Tensor], left: float) -> float:
    """Return the norm after over the norm before, also where these are beyond float64."""
    if norm == 0:
        return 1.0
    if math.isfinite(norm):
        return left / norm
    most = _largest(before)
    return _norm(wide(g) / most for g in after) / _norm(wide(g) / most for g in before)


def _unit(gradients: list[Tensor], norm: float) -> list[Tensor]:
    """Return them divided by their common norm, which may be beyond float64."""
    if math.isinf(norm):
        largest = _largest(gradients)
        gradients = [wide(gradient) / largest for gradient in gradients]
        norm = _norm(gradients)
    return [wide(gradient) / norm for gradient in gradients]


def _largest(gradients: list[Tensor]) -> float:
    """Return the size of the largest entry of all; 0 if there is none."""
    return max((wide(g).abs().max().item() for g in gradients if g.numel()), default=0.0)


def _unit_largest(tensor: Tensor) -> Tensor:
    dims = tuple(range(1, tensor.dim()))
    return tensor.abs().amax(dims, keepdim=True) if dims else tensor.abs().max()


def _complaint(found: list[Tensor], bad: list[int]) -> str:
    shapes = ", ".join(str(tuple(found[i].shape)) for i in bad[:3])
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return (
        f"the gradients of {len(bad)} of {len(found)} parameters have entries that are inf or nan "
        f"(of shape {shapes}{more}); clipping cannot mend that. Find where they arise (a loss that "
        "overflowed, a learning rate that is too high), or pass nonfinite='skip' to leave such "
        "steps out"
    )
