"""Softmax attention by itself: its derivative in parts, its entropy, and how sharp it is.

Attention's output reads its input in two ways, and so its derivative has two parts: one through the
values, which are averaged, and one through the weights of that average. The second needs a softmax
that can still move: with logits of the wrong scale most of its derivatives are almost nothing, and
a few are not.

Sources: Vaswani et al. (2017), arXiv 1706.03762, section 3.2.1, for 1/√d; Zhai et al. (2023), arXiv
2303.06296, for the least entropy.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from companion._lib import random
from companion._lib.arguments import finite, floating, positive_integer


def attention_weights(
    q: Tensor, k: Tensor, *, scale: float | None = None, causal: bool = False
) -> Tensor:
    """Return the softmax over the keys of q kᵀ times the scale.

    Args:
        q: (…, queries, d).
        k: (…, keys, d).
        scale: of the logits; None for 1/√d.
        causal: whether query t sees only the keys up to t.

    Returns:
        (…, queries, keys), positive where a key is seen and 0 elsewhere; each row has sum 1.

    Raises:
        TypeError: if ``q`` or ``k`` is not a floating-point tensor, or the scale not a number.
        ValueError: if they have fewer than two dimensions or last ones of different sizes, or the
            scale is not finite.

    Source: Vaswani et al. (2017), arXiv 1706.03762, equation 1.

    Example:
        >>> q, k = torch.zeros(2, 4), torch.ones(2, 4)
        >>> attention_weights(q, k).tolist(), attention_weights(q, k, causal=True).tolist()
        ([[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.5, 0.5]])

    """
    if min(floating("q", q).dim(), floating("k", k).dim()) < 2 or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            "q and k must be (…, queries, d) and (…, keys, d) with the same d, "
            f"got {tuple(q.shape)} and {tuple(k.shape)}"
        )
    logits = q @ k.mT * _scale(scale, q.shape[-1])
    if causal:
        future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        logits = logits.masked_fill(future, -torch.inf)
    return logits.softmax(-1)


def _scale(scale: float | None, width: int) -> float:
    return width**-0.5 if scale is None else finite("scale", scale)


class JacobianParts(NamedTuple):
    """The derivative of attention's output with respect to its input, by what the input is used as.

    Entry [t, α, u, b] of each is of output α of token t with respect to input b of token u.

    Attributes:
        values: (…, T, m, T, n) through the values, the attention weights held.
        queries: (…, T, m, T, n) through the queries, keys and values held; 0 unless u = t.
        keys: (…, T, m, T, n) through the keys, queries and values held.

    """

    values: Tensor
    queries: Tensor
    keys: Tensor

    @property
    def weights(self) -> Tensor:
        """(…, T, m, T, n) through the attention weights, the values held: queries and keys."""
        return self.queries + self.keys

    @property
    def whole(self) -> Tensor:
        """(…, T, m, T, n) the derivative itself: the sum of all."""
        return self.values + self.weights


def jacobian_parts(
    x: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float | None = None,
    causal: bool = False,
) -> JacobianParts:
    """Return the derivative of one head's output y = A(x) x W_vᵀ in closed form, in its parts.

    With logits z = s q kᵀ, the weights A move by ∂A_tj = A_tj (∂z_tj − Σ_i A_ti ∂z_ti), and so the
    output by ∂y_t = Σ_j A_tj (v_j − y_t) ∂z_tj: only where values differ from their mean.

    Args:
        x: (…, T, n).
        query: W_q, (…, d, n), as the weight of an ``nn.Linear``; no dimensions before the last two,
            or such as broadcast with those of x.
        key: W_k, (…, d, n).
        value: W_v, (…, m, n).
        scale: s; None for 1/√d.
        causal: whether a token sees only itself and those before.

    Returns:
        A :class:`JacobianParts` of tensors (…, T, m, T, n).

    Raises:
        TypeError: if one of the four is not a floating-point tensor, or the scale not a number.
        ValueError: if shapes do not fit, or the scale is not finite.

    Example:
        >>> x, w = torch.tensor([[1.0], [1.0]]), torch.ones(1, 1)  # two tokens, alike
        >>> parts = jacobian_parts(x, w, w, w)
        >>> parts.values[0, 0, :, 0].tolist(), parts.weights[0, 0, :, 0].tolist()
        ([0.5, 0.5], [0.0, 0.0])

    """
    _require_fitting(x, query, key, value)
    s = _scale(scale, query.shape[-2])
    q, k, v = x @ query.mT, x @ key.mT, x @ value.mT
    a = attention_weights(q, k, scale=s, causal=causal)
    y = a @ v
    # ∂y_tα/∂z_tj, (…, T, m, T)
    of_logits = a.unsqueeze(-2) * (v.mT.unsqueeze(-3) - y.unsqueeze(-1))
    same_token = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    return JacobianParts(
        torch.einsum("...tu,...ab->...taub", a, value),
        torch.einsum("...taj,...jb,tu->...taub", of_logits, s * k @ query, same_token),
        torch.einsum("...tau,...tb->...taub", of_logits, s * q @ key),
    )


def _require_fitting(x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> None:
    given = {"x": x, "query": query, "key": key, "value": value}
    shapes = [tuple(floating(name, each).shape) for name, each in given.items()]
    if (
        min(len(shape) for shape in shapes) < 2
        or len({shape[-1] for shape in shapes}) > 1
        or query.shape[-2] != key.shape[-2]
    ):
        raise ValueError(
            "x, query, key and value must be (…, T, n), (…, d, n), (…, d, n) and (…, m, n), got "
            + ", ".join(map(str, shapes))
        )


def entropy(weights: Tensor) -> Tensor:
    """Return −Σ a log a over the last dimension, in nats: log T for T even weights, 0 for one.

    Args:
        weights: a, (…, T) not negative, with sum 1.

    Returns:
        (…); a weight of 0 counts nothing, for the gradient as well. nan where a weight is negative.

    Raises:
        TypeError: if ``weights`` is not a floating-point tensor.

    Example:
        >>> rows = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]])
        >>> [round(found, 4) for found in entropy(rows).tolist()]  # log 4, and nothing
        [1.3863, 0.0]

    """
    seen = torch.where(floating("weights", weights) == 0, torch.ones_like(weights), weights)
    return (weights * -seen.log()).sum(-1)


class LeastEntropy(NamedTuple):
    """The least entropy that logits of bounded norm can have, and such logits.

    Attributes:
        entropy: (…) in nats.
        logits: (…, tokens) of the norm, with mean 0, one large and the others alike.

    """

    entropy: Tensor
    logits: Tensor


def least_entropy(tokens: int, logit_norm: float | Sequence[float] | Tensor) -> LeastEntropy:
    """Return the least entropy of a softmax over T logits whose Euclidean norm is at most σ.

    It is log(1 + (T − 1)β) + σ√(T(T − 1)) β/(1 + (T − 1)β) with β = exp(−σ√(T/(T − 1))), which is
    what the other logits have, exponentiated, against the largest.

    Args:
        tokens: T, at least 2.
        logit_norm: σ, one number or several, (…).

    Returns:
        A :class:`LeastEntropy` of float64 tensors (…) and (…, tokens).

    Raises:
        TypeError: if ``tokens`` is not a whole number.
        ValueError: if it is below 2, or a norm is negative or not finite.

    Source: Zhai et al. (2023), arXiv 2303.06296, theorem 3.1.

    Example:
        >>> [round(found, 6) for found in least_entropy(16, [0.0, 2.0]).entropy.tolist()]
        [2.772589, 2.418708]

    """
    if positive_integer("tokens", tokens) < 2:
        raise ValueError("tokens must be at least 2, got 1: a softmax over it has entropy 0")
    norm = torch.as_tensor(logit_norm, dtype=torch.float64)
    if not (norm.isfinite() & (norm >= 0)).all():
        raise ValueError(f"logit_norm must be finite and at least 0, got {logit_norm!r}")
    others = tokens - 1
    beta = torch.exp(-norm * math.sqrt(tokens / others))
    least = (others * beta).log1p()
    least = least + norm * math.sqrt(tokens * others) * beta / (1 + others * beta)
    one = torch.full((tokens,), -1 / others, dtype=torch.float64)
    one[0] = 1.0
    return LeastEntropy(least, norm.unsqueeze(-1) * math.sqrt(others / tokens) * one)


class SoftmaxSlopes(NamedTuple):
    """How far the attention weights a of a query can be moved.

    With J_ij = ∂a_i/∂z_j = a_i (1[i = j] − a_j), by the logits z; and by the query.

    Attributes:
        jacobians: (seeds, queries) the Frobenius norm ‖J‖. Its square is T times the mean of
            ‖Jᵀg‖² over the directions of a gradient g of norm 1 with respect to a, for T keys.
        gradients: (seeds, queries) the norm of the gradient with respect to the query, for a
            gradient with respect to a that has norm 1 and a random direction.

    """

    jacobians: Tensor
    gradients: Tensor

    @property
    def medians(self) -> "SoftmaxSlopes":
        """(seeds,) of each: the median over the queries."""
        return SoftmaxSlopes(*(each.quantile(0.5, dim=-1) for each in self))

    @property
    def root_mean_squares(self) -> "SoftmaxSlopes":
        """(seeds,) of each: the root of the mean square over the queries."""
        return SoftmaxSlopes(*(each.square().mean(-1).sqrt() for each in self))


def softmax_slopes(
    width: int,
    *,
    scale: float | None = None,
    keys: int = 64,
    queries: int = 256,
    seeds: int | Sequence[int] = 8,
) -> SoftmaxSlopes:
    """Measure how far attention weights can be moved, for independent normal queries and keys.

    The logits of one query are normal with standard deviation s|q|, 1 for s = 1/√d and about √d for
    s = 1. Then the softmax is sharp: nearly always one weight is 1 to many digits, and rarely, for
    a share ∝ 1/(s√d) of the queries, the two largest logits lie so close together that both weights
    move. So the median of J falls exponentially with √d and its root mean square only like d^(−1/4)
    (:func:`predicted_slopes`); the gradient with respect to the query is about s√(d/T) times as
    large as J, so that its root mean square grows like d^(1/4).

    Args:
        width: d.
        scale: s of the logits; None for 1/√d.
        keys: T, shared by the queries of a seed.
        queries: for each seed.
        seeds: the seeds to draw, or how many, counting from 0.

    Returns:
        :class:`SoftmaxSlopes` of float64 tensors (seeds, queries), exact also where they are
        far below the rounding of a weight near 1.

    Raises:
        TypeError: if a count is not a whole number, or the scale not a number.
        ValueError: if a count is below 1, there is no seed, or the scale is not finite.

    Source: Vaswani et al. (2017), arXiv 1706.03762, section 3.2.1, who suspect gradients to be
        extremely small without 1/√d.

    Example:
        >>> found = [softmax_slopes(1024, scale=s, seeds=2) for s in (None, 1.0)]
        >>> even, sharp = (each.medians.jacobians for each in found)
        >>> bool((sharp < even / 50).all())
        True
        >>> even, sharp = (each.root_mean_squares.gradients for each in found)
        >>> bool((sharp > 10 * even).all())
        True

    """
    width, keys = positive_integer("width", width), positive_integer("keys", keys)
    queries, s = positive_integer("queries", queries), _scale(scale, width)
    generators = random.generators(random.seed_list(seeds), "inputs")
    k, q, upstream = (
        random.normal(generators, *shape)
        for shape in ((keys, width), (queries, width), (queries, keys))
    )
    upstream = upstream / upstream.norm(dim=-1, keepdim=True)
    a = attention_weights(q, k, scale=s)
    # J has rows of sum 0: what all of an upstream gradient have in common may be what is taken off
    # the largest weight's, and then nothing cancels.
    apart = upstream - upstream.gather(-1, a.argmax(-1, keepdim=True))
    of_logits = a * (apart - (a * apart).sum(-1, keepdim=True))
    gradients = s * (of_logits @ k).norm(dim=-1)
    return SoftmaxSlopes(_jacobian_norm(a), gradients)


def _jacobian_norm(a: Tensor) -> Tensor:
    """Return the Frobenius norm of J, with 1 − a of the largest as the sum of the others."""
    top, others = a.sort(-1, descending=True).values.split([1, a.shape[-1] - 1], dim=-1)
    own = torch.cat([top * others.sum(-1, keepdim=True), others * (1 - others)], dim=-1)
    squares = others.square()
    total = squares.sum(-1)
    between = total * (2 * top[..., 0].square() + total) - squares.square().sum(-1)
    return (own.square().sum(-1) + between).sqrt()


class PredictedSlopes(NamedTuple):
    """Root mean squares over queries of what :class:`SoftmaxSlopes` has.

    Attributes:
        jacobian: of the Frobenius norm of J.
        gradient: of the norm of the gradient with respect to the query.

    """

    jacobian: float
    gradient: float


def predicted_slopes(width: int, *, scale: float | None = None, keys: int = 64) -> PredictedSlopes:
    """Predict the root mean squares of :func:`softmax_slopes` for wide queries and keys.

    The logits are then T independent normal ones of standard deviation σ = s√d, and with powers of
    1/Σ eᶻ written as integrals over e^(−t Σ eᶻ) the mean of ‖J‖² is an integral over t of products
    of one-dimensional means. For σ ≫ 1 it is c/(3σ), with c = T (T − 1) ∫ φ² Φ^(T−2) the density at
    0 of the gap between the two largest of T normal numbers. Keys are independent of q in all
    directions but its own: the mean squared gradient is s²d/T times that of ‖J‖².

    Args:
        width: d.
        scale: s of the logits; None for 1/√d.
        keys: T.

    Returns:
        :class:`PredictedSlopes`, which are of finite widths but for a share of about 1/d.

    Raises:
        TypeError: if a count is not a whole number, or the scale not a number.
        ValueError: if a count is below 1, or the scale is not finite.

    Example:
        >>> [round(found, 3) for found in predicted_slopes(1024)]
        [0.185, 0.023]
        >>> [round(found, 3) for found in predicted_slopes(1024, scale=1.0)]
        [0.151, 0.605]

    """
    width, keys = positive_integer("width", width), positive_integer("keys", keys)
    std = abs(_scale(scale, width)) * math.sqrt(width)
    # Below .02 the weights are even to three digits and more.
    jacobian = math.sqrt(_mean_square(max(std, 0.02), keys))
    return PredictedSlopes(jacobian, jacobian * std / math.sqrt(keys))


def _mean_square(std: float, keys: int) -> float:
    """Return E[Σ a² − 2 Σ a³ + (Σ a²)²], which is E‖J‖², for normal logits z.

    With y = log t: Σ a² = ∫ dy Σ h₂(y + z) ∏ h₀(y + z) over the other z, h_k(v) = e^(kv − eᵛ), and
    the like for the others. Both the means over z and the integrals over y are sums at even
    distances, exact to many digits for functions as smooth as these.
    """
    dv, dy = min(0.05, std / 2), 0.05 * max(1.0, std / 4)
    v = torch.arange(-40.0, 5.0, dv, dtype=torch.float64)
    y = torch.arange(-40.0 - 9 * std, 5.0 + 9 * std, dy, dtype=torch.float64).unsqueeze(-1)
    at = (v - y) / std
    density = dv / (std * math.sqrt(2 * math.pi)) * torch.exp(-at.square() / 2)
    # E h₀ by parts: h₀ is the integral of h₁ from y + z on.
    others = (torch.special.ndtr(at) * torch.exp(v - v.exp())).sum(-1) * dv
    two, three, four = ((density * torch.exp(k * v - v.exp())).sum(-1) for k in (2, 3, 4))
    found = (two - three + four / 6) * others ** (keys - 1)
    found = found + (keys - 1) / 6 * two.square() * others ** max(keys - 2, 0)
    return max(keys * dy * found.sum().item(), 0.0)
