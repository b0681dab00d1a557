"""Attention's derivative against autograd's, its entropy, and how sharp the softmax is."""

import math
from functools import partial

import pytest
import torch
from helpers import normal, reproducible, same
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.functional import jacobian

from companion._lib import random
from companion.transformers import (
    Attention,
    Design,
    SoftmaxSlopes,
    attention_weights,
    entropy,
    jacobian_parts,
    least_entropy,
    predicted_slopes,
    softmax_slopes,
)

# ---------------------------------------------------------------- weights


@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "return logits.softmax(-1)",
    "return logits.softmax(-2)",
    case="options0",
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "return width**-0.5 if scale is None",
    "return 1 / width if scale is None",
    case="options0",
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    'else finite("scale", scale)',
    'else finite("scale", scale) * width**-0.5',
    case="options1",
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "logits = logits.masked_fill(future, -torch.inf)\n    return logits.softmax(-1)",
    "return logits.softmax(-1).masked_fill(future, 0.0)\n    return logits.softmax(-1)",
    case="options2",
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "logits.masked_fill(future, -torch.inf)",
    "logits.masked_fill(future, 0.0)",
    case="options2",
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "dtype=torch.bool, device=q.device).triu(1)",
    "dtype=torch.bool, device=q.device).tril(-1)",
    case="options2",
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "dtype=torch.bool, device=q.device).triu(1)",
    "dtype=torch.bool, device=q.device).triu(2)",
    case="options2",
)
@pytest.mark.parametrize(
    "options", [{}, {"scale": -0.7}, {"causal": True}, {"causal": True, "scale": 2.0}]
)
def test_the_weights_are_torchs(options: dict) -> None:
    q, k = normal(2, 3, 5, 4), normal(2, 3, 6, 4, seed=1)
    found = attention_weights(q, k, **options)
    torchs = {"is_causal": options.get("causal", False), "scale": options.get("scale")}
    eye = torch.eye(6, dtype=torch.float64).expand(2, 3, 6, 6)
    same(found, torch.nn.functional.scaled_dot_product_attention(q, k, eye, **torchs))
    same(found.sum(-1), torch.ones(2, 3, 5, dtype=torch.float64))
    seen = torch.ones_like(found, dtype=torch.bool)
    assert (found > 0).equal(seen.tril() if options.get("causal") else seen)
    each = torch.func.vmap(partial(attention_weights, **options))(q, k[:, :1])
    same(each, attention_weights(q, k[:, :1].expand_as(k), **options))


@pytest.mark.parametrize("change", [{}, {"causal": True}, {"qk_norm": True, "logit_scale": 0.3}])
def test_they_are_those_of_the_blocks(change: dict) -> None:
    attention = Attention(Design("pre", 1, width=6, heads=2, **change), torch.Generator())
    x = normal(2, 5, 6)
    q, k = (
        norm(part(x).unflatten(-1, (2, 3)).transpose(-2, -3))
        for part, norm in (
            (attention.query, attention.query_norm),
            (attention.key, attention.key_norm),
        )
    )
    options = {"scale": change.get("logit_scale"), "causal": change.get("causal", False)}
    same(attention_weights(q, k, **options).detach(), attention.logits(x).softmax(-1).detach())


def test_weights_keep_the_type_of_their_logits() -> None:
    q = normal(3, 4).float()
    assert attention_weights(q, q).dtype == torch.float32


# ---------------------------------------------------------------- the derivative


def attention_of(q: Tensor, k: Tensor, v: Tensor, s: float, causal: bool) -> Tensor:
    """One head, query by query."""
    rows = []
    for t in range(len(q)):
        seen = t + 1 if causal else len(k)
        e = (s * k[:seen] @ q[t]).exp()
        rows.append(e @ v[:seen] / e.sum())
    return torch.stack(rows)


@pytest.mark.breaks(
    "companion/transformers/attention.py", "s * k @ query, same_token", "s * q @ key, same_token"
)
@pytest.mark.breaks(
    "companion/transformers/attention.py", "of_logits, s * q @ key)", "of_logits, s * k @ query)"
)
@pytest.mark.breaks(
    "companion/transformers/attention.py", "(v.mT.unsqueeze(-3) - y.unsqueeze(-1))",
    "v.mT.unsqueeze(-3)",
)  # fmt: skip
@pytest.mark.breaks(
    "companion/transformers/attention.py", "...tu,...ab->...taub", "...ut,...ab->...taub"
)
@pytest.mark.breaks(
    "companion/transformers/attention.py", "s * q @ key)", "q @ key)", case="0.9-False"
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "return self.queries + self.keys",
    "return self.queries - self.keys",
)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.9])
def test_the_parts_are_autograds(scale: float | None, causal: bool) -> None:
    tokens, n, d, m = 4, 3, 2, 5
    x, query, key = normal(tokens, n), normal(d, n, seed=1), normal(d, n, seed=2)
    value = normal(m, n, seed=3)
    s = d**-0.5 if scale is None else scale
    parts = jacobian_parts(x, query, key, value, scale=scale, causal=causal)

    def run(of_query: Tensor, of_key: Tensor, of_value: Tensor) -> Tensor:
        return attention_of(of_query @ query.T, of_key @ key.T, of_value @ value.T, s, causal)

    same(parts.queries, jacobian(lambda moved: run(moved, x, x), x))
    same(parts.keys, jacobian(lambda moved: run(x, moved, x), x))
    same(parts.values, jacobian(lambda moved: run(x, x, moved), x))
    same(parts.weights, jacobian(lambda moved: run(moved, moved, x), x))
    same(parts.whole, jacobian(lambda moved: run(moved, moved, moved), x))
    # To rounding: ten units in the last place of the largest entry.
    error = (parts.whole - jacobian(lambda moved: run(moved, moved, moved), x)).abs().max()
    assert error <= 10 * torch.finfo(torch.float64).eps * parts.whole.abs().max()


def test_the_parts_of_several_sequences_and_heads() -> None:
    x, query, key, value = (
        normal(*shape, seed=seed)
        for seed, shape in enumerate([(2, 1, 4, 3), (5, 2, 3), (5, 2, 3), (5, 6, 3)])
    )
    found = jacobian_parts(x, query, key, value, causal=True)
    alone = jacobian_parts(x[1, 0], query[3], key[3], value[3], causal=True)
    heads = torch.func.vmap(partial(jacobian_parts, x[1, 0], causal=True))
    for part, one, mapped in zip(found, alone, heads(query, key, value), strict=True):
        assert part.shape == (2, 5, 4, 6, 4, 3)
        same(part[1, 3], one)
        same(mapped[3], one)


def test_what_a_part_cannot_do() -> None:
    x, w = normal(5, 3), [normal(4, 3, seed=seed) for seed in (1, 2, 3)]
    parts = jacobian_parts(x, *w, causal=True)
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for part in parts:
        assert not part.permute(0, 2, 1, 3)[future].any()
    other = ~torch.eye(5, dtype=torch.bool)
    assert not parts.queries.permute(0, 2, 1, 3)[other].any()
    # Nothing moves through the weights where tokens are alike, or queries are 0 at all of them.
    alike = jacobian_parts(x[:1].expand(5, 3), *w).weights
    same(alike, torch.zeros_like(alike))
    even = jacobian_parts(x, torch.zeros(4, 3, dtype=torch.float64), *w[1:])
    assert not even.weights.any()
    same(even.values, jacobian(lambda moved: (moved @ w[2].T).mean(0).expand(5, 4), x))


# ---------------------------------------------------------------- entropy


@pytest.mark.breaks(
    "companion/transformers/attention.py", "-seen.log()).sum(-1)", "-seen.log2()).sum(-1)"
)
@pytest.mark.breaks(
    "companion/transformers/attention.py", "-seen.log()).sum(-1)", "-weights.log()).sum(-1)"
)
def test_entropy_in_nats() -> None:
    even = torch.full((3, 7), 1 / 7, dtype=torch.float64)
    same(entropy(even), torch.full((3,), math.log(7), dtype=torch.float64))
    one = torch.eye(4, dtype=torch.float64)
    assert entropy(one).tolist() == [0.0] * 4
    weights = attention_weights(normal(2, 5, 3), normal(2, 5, 3, seed=1), causal=True)
    same(entropy(weights), torch.special.entr(weights).sum(-1))
    same(entropy(weights[:, 2]), torch.distributions.Categorical(weights[:, 2, :3]).entropy())
    assert entropy(torch.tensor([1.5, -0.5])).isnan()


def test_entropy_has_a_gradient_where_weights_are_0() -> None:
    q, k = normal(4, 3).requires_grad_(), normal(4, 3, seed=1)
    (found,) = torch.autograd.grad(entropy(attention_weights(q, k, causal=True)).sum(), q)
    z = q @ k.T / 3**0.5
    by_hand = sum(torch.special.entr(z[t, : t + 1].softmax(-1)).sum() for t in range(4))
    (expected,) = torch.autograd.grad(by_hand, q)
    same(found, expected)


@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "torch.exp(-norm * math.sqrt(tokens / others))",
    "torch.exp(-norm * math.sqrt(tokens))",
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "least + norm * math.sqrt(tokens * others)",
    "least + norm * math.sqrt(tokens / others)",
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "math.sqrt(others / tokens) * one",
    "math.sqrt(tokens / others) * one",
)
@given(st.integers(2, 300), st.floats(0, 50))
@reproducible
def test_the_least_entropy_is_that_of_its_logits(tokens: int, norm: float) -> None:
    least, logits = least_entropy(tokens, norm)
    same(entropy(logits.softmax(-1)), least)
    same(logits.norm(), torch.tensor(norm, dtype=torch.float64))
    same(logits.sum(), torch.tensor(0.0, dtype=torch.float64))
    drawn = normal(500, tokens, seed=tokens)
    others = norm * drawn / drawn.norm(dim=-1, keepdim=True)
    assert (entropy(others.softmax(-1)) >= least - 1e-12).all()


def test_least_entropies_of_several_norms() -> None:
    norms = torch.tensor([[0.0, 1.0, 5.0], [40.0, 700.0, 1e4]])
    least, logits = least_entropy(9, norms)
    assert (least.shape, logits.shape) == ((2, 3), (2, 3, 9))
    same(least[0, 0], torch.tensor(math.log(9), dtype=torch.float64))
    assert (least.flatten().diff() <= 0).all()
    assert least[1].isfinite().all()
    same(least_entropy(9, [1.0, 5.0]).logits, logits[0, 1:])


# ---------------------------------------------------------------- slopes


def by_autograd(width: int, scale: float, keys: int, queries: int, seed: int) -> SoftmaxSlopes:
    """What is measured for one seed, from the same draws, one query at a time."""
    generator = torch.Generator().manual_seed(random.mixed(seed, "inputs"))
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    k, q, upstream = draw(keys, width), draw(queries, width), draw(queries, keys)
    rows = []
    for one, u in zip(q, upstream, strict=True):
        J = jacobian(partial(torch.softmax, dim=0), scale * k @ one)

        def weights(moved: Tensor) -> Tensor:
            return torch.softmax(scale * k @ moved, dim=0)

        gradient = jacobian(weights, one).T @ (u / u.norm())
        rows.append(torch.stack([J.norm(), gradient.norm()]))
    return SoftmaxSlopes(*torch.stack(rows, dim=1))


@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "gradients = s * (of_logits @ k)",
    "gradients = (of_logits @ k)",
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "upstream = upstream / upstream.norm(dim=-1, keepdim=True)",
    "upstream = upstream",
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "own.square().sum(-1) + between",
    "own.square().sum(-1)",
)
@pytest.mark.parametrize("scale", [None, 0.6])
def test_slopes_are_autograds(scale: float | None) -> None:
    found = softmax_slopes(9, scale=scale, keys=5, queries=6, seeds=[3, 8])
    for index, seed in enumerate([3, 8]):
        expected = by_autograd(9, 1 / 3 if scale is None else scale, 5, 6, seed)
        for ours, theirs in zip(found, expected, strict=True):
            same(ours[index], theirs)


@pytest.mark.breaks(
    "companion/transformers/attention.py", "top * others.sum(-1, keepdim=True)", "top * (1 - top)"
)
@pytest.mark.breaks(
    "companion/transformers/attention.py",
    "apart = upstream - upstream.gather(-1, a.argmax(-1, keepdim=True))",
    "apart = upstream",
)
def test_what_is_far_below_rounding_is_exact() -> None:
    # Two keys: J is p (1 − p) [[1, −1], [−1, 1]], with p (1 − p) = σ(g) σ(−g) at a gap g.
    found = softmax_slopes(64, scale=5.0, keys=2, queries=200, seeds=[0])
    generators = random.generators([0], "inputs")
    k, q, upstream = (
        random.normal(generators, *shape)[0] for shape in ((2, 64), (200, 64), (200, 2))
    )
    gap = 5 * q @ (k[0] - k[1])
    p = gap.sigmoid() * (-gap).sigmoid()
    assert p.min() < 1e-30
    relative = partial(torch.testing.assert_close, rtol=1e-9, atol=0.0)
    relative(found.jacobians[0], 2 * p)
    turned = (upstream[:, 0] - upstream[:, 1]).abs() / upstream.norm(dim=-1)
    relative(found.gradients[0], 5 * p * turned * (k[0] - k[1]).norm())


def test_medians_and_root_mean_squares() -> None:
    found = SoftmaxSlopes(*(normal(3, 7, seed=seed) for seed in range(2)))
    for each, median, size in zip(found, found.medians, found.root_mean_squares, strict=True):
        assert torch.equal(median, each.median(-1).values)
        same(size, each.norm(dim=-1) / math.sqrt(7))


@pytest.mark.breaks(
    "companion/transformers/attention.py", "(two - three + four / 6)", "(two - three)"
)
@pytest.mark.breaks(
    "companion/transformers/attention.py", "/ 6 * two.square()", "/ 3 * two.square()"
)
@pytest.mark.parametrize("scale", [0.01, 0.05, 1.0, 30.0])
def test_predicted_slopes_of_two_keys(scale: float) -> None:
    # ‖J‖ = 2 p (1 − p), of which the logits' gap has the standard deviation √2 s√d.
    std = math.sqrt(2) * scale * 3
    gap = torch.linspace(-60.0, 60.0, 2_000_001, dtype=torch.float64)
    gap = gap if std > 10 else gap * std / 5
    square = (2 * gap.sigmoid() * (-gap).sigmoid()).square()
    density = torch.exp(-(gap / std).square() / 2) / (std * math.sqrt(2 * math.pi))
    expected = math.sqrt(torch.trapezoid(square * density, gap).item())
    found = predicted_slopes(9, scale=scale, keys=2)
    assert found.jacobian == pytest.approx(expected, rel=1e-7)
    assert found.gradient == pytest.approx(expected * scale * 3 / math.sqrt(2), rel=1e-7)


def test_predicted_slopes_at_the_ends() -> None:
    even = math.sqrt(1 / 8 - 1 / 64)  # J = 1/T − 1/T²
    assert predicted_slopes(16, scale=0.0, keys=8).jacobian == pytest.approx(even, rel=1e-3)
    assert predicted_slopes(16, scale=0.0, keys=8).gradient == 0
    assert predicted_slopes(16, keys=1).jacobian < 1e-6
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    density = torch.exp(-x.square()) / (2 * math.pi)
    for keys in (16, 64):
        powers = torch.special.ndtr(x) ** (keys - 2)
        c = keys * (keys - 1) * torch.trapezoid(density * powers, x).item()
        sharp = predicted_slopes(400, scale=50.0, keys=keys)  # the logits' deviation is 1000
        assert sharp.jacobian == pytest.approx(math.sqrt(c / 3000), rel=0.01)
        assert sharp.gradient == pytest.approx(sharp.jacobian * 1000 / math.sqrt(keys))


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("keys", [16, 64])
@pytest.mark.parametrize("width", [16, 64, 256])
def test_slopes_are_what_is_predicted(width: int, keys: int, scaled: bool) -> None:
    options = {"scale": None if scaled else 1.0, "keys": keys}
    found = softmax_slopes(width, **options, seeds=24)
    expected = predicted_slopes(width, **options)
    for sample, wanted in zip(found, expected, strict=True):
        squares = sample.square().mean(-1)
        # |q|² has a relative variance of 2/d, and one of the d directions of the keys is q's.
        allowed = 4 * squares.std() / 24**0.5 + wanted**2 * 2 / width
        assert (squares.mean() - wanted**2).abs() <= allowed < 0.35 * wanted**2


# ---------------------------------------------------------------- what is refused


def test_bad_tensors_are_refused() -> None:
    x, w = normal(4, 3), normal(2, 3)
    with pytest.raises(TypeError, match="q must be a floating-point tensor, got"):
        attention_weights(torch.ones(2, 3).long(), x)
    with pytest.raises(TypeError, match="k must be a tensor, got list"):
        attention_weights(x, [1.0])
    with pytest.raises(ValueError, match=r"with the same d, got \(4, 3\) and \(4, 2\)"):
        attention_weights(x, x[:, :2])
    with pytest.raises(ValueError, match=r"got \(3,\) and \(4, 3\)"):
        attention_weights(x[0], x)
    with pytest.raises(TypeError, match="value must be a tensor, got float"):
        jacobian_parts(x, w, w, 1.0)
    for bad in ((x[0], w, w, w), (x, w[:1], w, w), (x, w, w, w[:, :2]), (x, w, w[0], w)):
        with pytest.raises(ValueError, match=r"must be \(…, T, n\), .*, got \("):
            jacobian_parts(*bad)
    with pytest.raises(TypeError, match="weights must be a floating-point tensor"):
        entropy(torch.ones(3, dtype=torch.int64))


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_bad_scales_are_refused(scale: float) -> None:
    x, w = normal(4, 3), normal(2, 3)
    for run in (
        partial(attention_weights, x, x),
        partial(jacobian_parts, x, w, w, w),
        partial(softmax_slopes, 4),
        partial(predicted_slopes, 4),
    ):
        with pytest.raises(ValueError, match="scale must be finite"):
            run(scale=scale)
        with pytest.raises(TypeError, match="scale must be a number, got '1/d'"):
            run(scale="1/d")


@given(st.sampled_from(["width", "keys", "queries", "seeds"]), st.integers(-3, 0))
@reproducible
def test_bad_counts_are_refused(name: str, count: int) -> None:
    options = {"width": 4, "keys": 3, "queries": 2, "seeds": 1} | {name: count}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {count}"):
        softmax_slopes(**options)
    if name in ("width", "keys"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got {count}"):
            predicted_slopes(**({"width": 4} | {name: count}))


def test_bad_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens must be at least 2, got 1"):
        least_entropy(1, 1.0)
    with pytest.raises(TypeError, match="tokens must be a whole number"):
        least_entropy(2.5, 1.0)
    for norm in (-1.0, math.nan, [1.0, math.inf]):
        with pytest.raises(ValueError, match="logit_norm must be finite and at least 0, got"):
            least_entropy(4, norm)
    with pytest.raises(ValueError, match="seeds"):
        softmax_slopes(4, seeds=[])
