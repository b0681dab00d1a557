"""Means of functions of one or two normal variables, by quadrature that finds its own nodes.

Gauss-Legendre panels are laid where the normal density has its bulk, and graded towards 0, where
activations have their bends, kinks and jumps: at a large variance all of an activation's structure
is a thin layer there, which nodes spread over the density alone would step across.
"""

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import cast

import numpy as np
import torch
from torch import Tensor

END = 12.0  # standard deviations: 1e-33 of the mass is beyond
TOLERANCE = 1e-14  # of the integral of |f|, for each panel
HALVINGS = 50
PANELS = 2000  # a function that needs more at once is noise, which halving does not cure


@cache
def _legendre(points: int) -> tuple[Tensor, Tensor]:
    node, weight = np.polynomial.legendre.leggauss(points)
    return torch.from_numpy(node), torch.from_numpy(weight)


@cache
def _whole_and_halves(points: int = 20) -> tuple[Tensor, Tensor]:
    """Return the nodes of a panel and of its two halves, and the weights of both as two columns."""
    node, weight = _legendre(points)
    nothing = torch.zeros_like(weight)
    nodes = torch.cat([node, (node - 1) / 2, (node + 1) / 2])
    whole = torch.cat([weight, nothing, nothing])
    halves = torch.cat([nothing, weight / 2, weight / 2])
    return nodes, torch.stack([whole, halves], dim=1)


def panels(breaks: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights on each panel between breaks, as (panels, points)."""
    node, weight = _legendre(points)
    half = breaks.diff().unsqueeze(-1) / 2
    return breaks[:-1].unsqueeze(-1) + half * (node + 1), half * weight


def _breaks(mean: float, std: float, kinks: Iterable[float]) -> Tensor:
    """Return where panels begin and end, in standard deviations from the mean."""
    reach = abs(mean) + END * std
    steps = [2.0**k for k in range(-1, math.ceil(math.log2(max(reach, 1.0))))]
    bends = {0.0, *kinks, *steps, *(-step for step in steps)}
    inside = [x for bend in bends if abs(x := (bend - mean) / std) < END]
    return torch.tensor(sorted({*inside, *range(-12, 13, 2)}), dtype=torch.float64)


def expectation(
    function: Callable[[Tensor], Tensor], mean: float, std: float, kinks: Iterable[float] = ()
) -> Tensor:
    """Return E[f(z)] for z ~ N(mean, std²), in float64.

    Args:
        function: f, from a tensor of shape S to one of shape (*k, *S): k functions at once.
        mean: of z.
        std: of z; at 0 the result is f(mean).
        kinks: where f is not smooth; elsewhere it costs time, not accuracy.

    Raises:
        ValueError: if f is not finite somewhere.

    """
    if std == 0:
        return function(torch.tensor(mean, dtype=torch.float64))
    node, weights = _whole_and_halves()
    breaks = _breaks(mean, std, kinks)
    start, end = breaks[:-1, None], breaks[1:, None]
    total: Tensor | float = 0.0
    scale = None
    for halving in range(HALVINGS):
        half = (end - start) / 2
        x = start + half * (node + 1)
        z = mean + std * x
        value = function(z).to(torch.float64) * (half * torch.exp(-(x**2) / 2))
        found = value @ weights  # (*k, panels, 2)
        if scale is None:
            scale = (value.abs() @ weights).sum(-2)[..., 1:]
            if not scale.isfinite().all():
                bad = ~value.isfinite()
                at = z.expand_as(value)[bad][0].item() if bad.any() else math.inf
                raise ValueError(f"the function has no finite value or mean: see z = {at:g}")
        # Numbers near the smallest there are have no relative precision to wait for.
        rough = (found[..., 0] - found[..., 1]).abs() > TOLERANCE * scale + 1e-300
        go_on = halving < HALVINGS - 1 and len(start) < PANELS
        rough = rough.reshape(-1, len(start)).any(0) & go_on
        total = total + found[..., ~rough, 1].sum(-1)
        if not rough.any():
            break
        start, middle, end = start[rough], (start + end)[rough] / 2, end[rough]
        start, end = torch.cat([start, middle]), torch.cat([middle, end])
    return cast("Tensor", total) / math.sqrt(2 * math.pi)  # it is one since the first step


def angles(between: float, std: float) -> tuple[Tensor, Tensor]:
    """Return nodes and weights on the circle, graded towards the rays on which z₁ or z₂ is 0."""
    rays = [angle % (2 * math.pi) for angle in (0, math.pi, between, between + math.pi)]
    rays = sorted(set(rays))
    starts = []
    for ray, following in zip(rays, [*rays[1:], rays[0] + 2 * math.pi], strict=True):
        half = (following - ray) / 2
        levels = max(0, math.ceil(math.log2(max(1.0, 8 * std * half))))
        steps = half * 0.5 ** torch.arange(levels, -1, -1, dtype=torch.float64)
        starts += [torch.tensor([ray], dtype=torch.float64), ray + steps]
        starts += [(following - steps[:-1]).flip(0)]
    breaks = torch.cat(starts)
    return panels(torch.cat([breaks, breaks[:1] + 2 * math.pi]), 16)


def _radii(std: float) -> tuple[Tensor, Tensor]:
    """Return nodes from 0 to 10 and weights that include r·exp(-r²/2)/2π."""
    levels = max(1, math.ceil(math.log2(max(1.0, 10 * std))))
    steps = 10 * 0.5 ** torch.arange(levels, -1, -1, dtype=torch.float64)
    density = torch.arange(0, 10.1, 2, dtype=torch.float64)
    breaks = torch.cat([steps, density]).unique()
    r, weight = panels(breaks, 16)
    return r, weight * r * torch.exp(-(r**2) / 2) / (2 * math.pi)


def pair_expectation(
    function: Callable[[Tensor, Tensor], Tensor], std: float, correlation: float
) -> float:
    """Return E[f(z₁, z₂)] for normal z₁ and z₂ of mean 0, standard deviation std, and correlation.

    In polar coordinates the lines z₁ = 0 and z₂ = 0 are rays at fixed angles, however close to each
    other, so that kinks and jumps *at 0* lie between panels also when the correlation is near 1.
    """
    between = math.acos(correlation)
    angle, angle_weight = (t.flatten() for t in angles(between, std))
    r, r_weight = (t.reshape(-1, 1) for t in _radii(std))
    # z₁ and z₂ as distances from their rays, of which sin is exact where it is small.
    value = function(std * r * torch.sin(angle), std * r * torch.sin(angle - between))
    return float((value * angle_weight * r_weight).sum())


def kinks_at_0_only(what: str, name: str, kinks: Iterable[float]) -> None:
    """Raise if a function bends elsewhere than on the rays between the panels of :func:`angles`."""
    if any(kink != 0 for kink in kinks):
        raise ValueError(
            f"{what} are accurate for kinks at 0 only, and {name!r} has them at {kinks}"
        )
