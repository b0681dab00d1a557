"""Transformer blocks against torch's, theory against measurement, and attention by itself."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers import four_errors, normal, same
from torch import nn

from companion import training
from companion.data import digits
from companion.training import adam_with_warmup
from companion.transformers import (
    PLACES,
    Attention,
    Design,
    distance_flow,
    flow,
    networks,
    predicted_flow,
    rank_collapse,
    token_spread,
)


def torchs(model: nn.Module, design: Design) -> nn.Sequential:
    """The same network of ``nn.TransformerEncoderLayer``, with the weights copied."""
    layers = []
    for index in range(design.layers):
        layer = nn.TransformerEncoderLayer(
            design.width, design.heads, design.ffn_units, dropout=0.0, activation="relu",
            batch_first=True, norm_first=design.place == "pre", dtype=torch.float64,
        )  # fmt: skip
        attention, ffn = model.sublayers[2 * index : 2 * index + 2]
        parts = [attention.branch.query, attention.branch.key, attention.branch.value]
        with torch.no_grad():
            layer.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
            layer.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        layer.self_attn.out_proj.load_state_dict(attention.branch.end.state_dict())
        layer.linear1.load_state_dict(ffn.branch.begin.state_dict())
        layer.linear2.load_state_dict(ffn.branch.end.state_dict())
        layer.norm1.load_state_dict(attention.norm.state_dict())
        layer.norm2.load_state_dict(ffn.norm.state_dict())
        layers.append(layer)
    return nn.Sequential(*layers, model.final)


@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "out = x + out if self.design.stream_scale == 1",
    "out = self.norm(x) + out if self.design.stream_scale == 1",
    case="1-pre",
)
@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "self.branch(self.norm(x) if self.design.norms_input else x)",
    "self.norm(self.branch(self.norm(x) if self.design.norms_input else x))",
    case="1-post",
)
@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "logits = q @ k.mT * self.scale",
    "logits = q @ k.mT / x.shape[-1] ** 0.5",
    case="2-pre",
)
@pytest.mark.parametrize("place", ["pre", "post"])
@pytest.mark.parametrize("heads", [1, 2])
def test_the_blocks_are_torchs(place: str, heads: int) -> None:
    design = Design(place, layers=2, width=6, heads=heads, hidden=10)
    (model,) = networks(design)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=index))
    x = normal(3, 5, 6, seed=99)
    theirs = torchs(model, design)
    same(model(x).detach(), theirs(x).detach())
    model(x).pow(3).sum().backward()
    theirs(x).pow(3).sum().backward()
    same(model.sublayers[1].branch.end.weight.grad, theirs[0].linear2.weight.grad)


def test_without_a_norm_branches_are_just_added() -> None:
    (model,) = networks(Design("none", layers=1, width=6))
    x = normal(2, 4, 6)
    a = x + model.sublayers[0].branch(x)
    same(model(x).detach(), (a + model.sublayers[1].branch(a)).detach())


def by_hand(x: torch.Tensor, attention: Attention, scale: float) -> torch.Tensor:
    """What one attention gives for one sequence, token by token and head by head."""
    q, k, v = (
        (x @ part.weight.T + part.bias).unflatten(-1, (attention.heads, -1))
        for part in (attention.query, attention.key, attention.value)
    )
    if isinstance(attention.query_norm, nn.LayerNorm):
        q, k = (
            (t - t.mean(-1, keepdim=True)) / (t.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
            for t in (q, k)
        )
    out = torch.zeros_like(x)
    for token in range(len(x)):
        seen = range(token + 1) if attention.causal else range(len(x))
        for head in range(attention.heads):
            scores = torch.stack([q[token, head] @ k[other, head] for other in seen])
            away = torch.tensor([float(abs(token - other)) for other in seen], dtype=x.dtype)
            e = torch.exp(scale * scores - attention.slope * away)
            gathered = sum(w * v[other, head] for w, other in zip(e / e.sum(), seen, strict=True))
            part = slice(head * len(gathered), (head + 1) * len(gathered))
            out[token] += attention.end.weight[:, part] @ gathered
    return out + attention.end.bias


@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "logits.masked_fill(ahead > 0, -torch.inf)",
    "logits.masked_fill(ahead > -1, -torch.inf)",
    case="causal",
)
@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "ahead = place - place[:, None]",
    "ahead = place[:, None] - place",
    case="causal",
)
@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "self.logits(x).softmax(-1)",
    "self.logits(x).softmax(-2)",
    case="plain",
)
@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "q = self.query_norm(self._by_heads(self.query(x)))",
    "q = self._by_heads(self.query(x))",
    case="qk_norm",
)
@pytest.mark.breaks(
    "companion/transformers/designs.py",
    "return self.head_width**-0.5 if self.logit_scale is None",
    "return 1 / self.head_width if self.logit_scale is None",
    case="plain",
)
@pytest.mark.breaks(
    "companion/transformers/designs.py",
    "else self.logit_scale",
    "else self.logit_scale * self.head_width**-0.5",
    case="logit_scale",
)
@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "self.slope * ahead.abs().to",
    "self.slope * ahead.to",
    case="slope",
)
@pytest.mark.parametrize(
    "change",
    [
        {}, {"causal": True}, {"qk_norm": True}, {"logit_scale": 1.0}, {"distance_slope": 0.3},
        {"heads": 1},
    ],
    ids=["plain", "causal", "qk_norm", "logit_scale", "slope", "one head"],
)  # fmt: skip
def test_attention_is_a_mean_with_softmax_weights(change: dict) -> None:
    design = Design("pre", 1, **({"width": 6, "heads": 2} | change))
    attention = Attention(design, torch.Generator().manual_seed(3))
    x = normal(5, 6)
    with torch.no_grad():
        for index, part in enumerate(("query", "key", "value", "end")):
            getattr(attention, part).bias.copy_(normal(6, seed=index))
        same(
            attention(x),
            by_hand(x, attention, change.get("logit_scale", (6 / design.heads) ** -0.5)),
        )
        same(attention(x.expand(2, 3, 5, 6))[1, 2], attention(x))


def test_the_future_has_no_gradient() -> None:
    (model,) = networks(Design("peri", 2, width=6, heads=2, causal=True, qk_norm=True))
    x = normal(1, 5, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[0, 2] @ normal(6, seed=1), x)
    assert gradient[0, :3].any(-1).all()
    assert not gradient[0, 3:].any()


@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "self.branch_norm(self.branch(",
    "(self.branch(",
    case="peri",
)
@pytest.mark.breaks(
    "companion/transformers/designs.py",
    "return (2 * self.layers) ** 0.25",
    "return (2 * self.layers) ** 0.5",
    case="deepnorm",
)
@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "else self.design.stream_scale * x + out",
    "else x + self.design.stream_scale * out",
    case="deepnorm",
)
@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "return out * self.design.branch_scale if",
    "return out if",
    case="branch_scale",
)
@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "out = out * self.gate if",
    "out = out if",
    case="gate",
)
@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "if self.design.skip:",
    "if True:",
    case="no skip",
)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"place": "peri"}, lambda x, f, n: x + n(f(n(x)))),
        ({"place": "deepnorm", "layers": 8}, lambda x, f, n: n(2 * x + f(x))),
        ({"branch_scale": -0.5}, lambda x, f, n: x - 0.5 * f(n(x))),
        ({"gate": 0.25}, lambda x, f, n: x + 0.25 * f(n(x))),
        ({"skip": False}, lambda x, f, n: f(n(x))),
        ({"skip": False, "place": "post"}, lambda x, f, n: n(f(x))),
    ],
    ids=["peri", "deepnorm", "branch_scale", "gate", "no skip", "post"],
)
def test_sums_and_norms(change: dict, expected: Callable) -> None:
    (model,) = networks(Design(**({"place": "pre", "layers": 1, "width": 6} | change)))
    norm = partial(nn.functional.layer_norm, normalized_shape=(6,))
    x = y = 3 * normal(2, 4, 6)
    for sublayer in model.sublayers:
        y = expected(y, sublayer.branch, norm)
    last = norm(y) if model.sublayers[0].design.norms_input else y
    same(model(x).detach(), last.detach())


def test_attention_alone_has_one_branch_a_layer() -> None:
    (model,) = networks(Design("pre", 3, width=6, ffn=False, residual_scale=None))
    assert [type(s.branch) for s in model.sublayers] == [Attention] * 3
    (whole,) = networks(Design("pre", 3, width=6, ffn=False))
    ends = (model.sublayers[0].branch.end.weight, whole.sublayers[0].branch.end.weight)
    same(ends[0].detach() * math.sqrt(3), ends[1].detach())


# ---------------------------------------------------------------- first weights


@pytest.mark.parametrize(
    ("scheme", "square", "begin", "end"),
    [
        ("glorot", 2 / 120, 2 / 100, 2 / 100),
        ("unit", 1 / 60, 2 / 60, 1 / 40),
        ("gpt2", 4e-4, 4e-4, 4e-4),
    ],
)
def test_first_weights(scheme: str, square: float, begin: float, end: float) -> None:
    design = Design(
        "pre",
        3,
        width=60,
        heads=1,
        hidden=40,
        scheme=scheme,
        attention_scale=0.5,
        residual_scale=None,
    )
    models = networks(design, seeds=4)
    expected = {
        "query": square / 4, "key": square, "value": square, "begin": begin, "end": end / 6,
    }  # fmt: skip
    for name, variance in expected.items():
        draws = [
            p.flatten()
            for model in models
            for full, p in model.named_parameters()
            if full.endswith(f"{name}.weight") and (name != "end" or p.shape[1] == 40)
        ]
        squares = torch.cat(draws).detach().square() / variance
        assert abs(squares.mean().item() - 1) < four_errors(squares) < 0.06
    ends = torch.cat([model.sublayers[0].branch.end.weight.flatten() for model in models])
    squares = 6 * ends.detach().square() / square
    assert abs(squares.mean().item() - 1) < four_errors(squares) < 0.1
    biases = [p for n, p in models[0].named_parameters() if "branch" in n and "bias" in n]
    assert len(biases) == 18
    assert not any(bias.any() for bias in biases)


@pytest.mark.breaks(
    "companion/transformers/designs.py",
    "return (8 * self.layers) ** -0.25",
    "return (8 * self.layers) ** -0.5",
)
@pytest.mark.breaks(
    "companion/transformers/blocks.py",
    "self.key = _linear(width, width, std, generator)",
    "self.key = _linear(width, width, std * design.gain, generator)",
)
def test_deepnorm_makes_values_and_ffns_smaller() -> None:
    small, plain = (networks(Design(place, 2, width=6))[0] for place in ("deepnorm", "post"))
    theirs = dict(plain.named_parameters())
    for name, parameter in small.named_parameters():
        less = any(part in name for part in ("value", "begin", "end"))
        same(parameter.detach(), theirs[name].detach() * (0.5 if less else 1.0))


def test_attention_of_scale_0_is_a_mean_over_tokens() -> None:
    attention = Attention(Design("pre", 1, width=6, attention_scale=0.0), torch.Generator())
    x = normal(2, 5, 6)
    expected = attention.end(attention.value(x.mean(-2, keepdim=True))).expand(2, 5, 6)
    same(attention(x).detach(), expected.detach())


def test_scales_do_not_change_the_other_draws() -> None:
    for change in ({"attention_scale": 0.0}, {"residual_scale": 0.0}):
        one, other = (
            networks(Design("pre", 2, width=6))[0],
            networks(Design("pre", 2, width=6, **change))[0],
        )
        changed = "query" if "attention_scale" in change else "end"
        for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
            assert (changed in name and "weight" in name) != torch.equal(p, q)


# ---------------------------------------------------------------- predicted against measured


def test_the_flow_is_autograds() -> None:
    design = Design("pre", layers=2, width=6)
    found = flow(design, tokens=3, sequences=2, seeds=[4])
    (model,) = networks(design, seeds=[4])
    generator = torch.Generator().manual_seed(4 + 2**31)
    x, g = torch.randn(2, 2, 3, 6, generator=generator, dtype=torch.float64)
    model(x).backward(g)
    for layer in range(2):
        gradient = model.sublayers[2 * layer + 1].branch.end.weight.grad.norm() / math.sqrt(6)
        same(found.ffn_gradients[0, layer], gradient)
    for index in range(5):
        same(found.mean_squares[0, index], x.square().mean())
        start = x.clone().requires_grad_()
        y = model.final(model.sublayers[index:](start))
        (gradient,) = torch.autograd.grad(y, start, g)
        same(found.gradients[0, index], gradient.square().mean().sqrt())
        x = model.sublayers[index](x).detach() if index < 4 else x


@pytest.mark.breaks("companion/transformers/flows.py", ".flip(1)\n", "\n")
def test_the_flow_over_distance_is_autograds() -> None:
    design = Design("pre", layers=2, width=6, causal=True)
    found = distance_flow(design, tokens=4, sequences=3, seeds=[4])
    (model,) = networks(design, seeds=[4])
    generator = torch.Generator().manual_seed(4 + 2**31)
    x, g = torch.randn(2, 3, 4, 6, generator=generator, dtype=torch.float64)
    x.requires_grad_()
    model(x)[:, -1].backward(g[:, -1])
    for distance in range(4):
        same(found[0, distance], x.grad[:, 3 - distance].square().mean().sqrt())


def test_a_slope_over_distance_is_a_chain() -> None:
    # Of uniform attention each token gets as much as any other; of a slope, e^-slope a token less.
    design = Design("none", 1, width=8, ffn=False, skip=False, attention_scale=0.0)
    even = distance_flow(design, tokens=5, seeds=2)
    same(even, even[:, :1].expand(2, 5))
    falling = distance_flow(replace(design, distance_slope=0.7), tokens=5, seeds=2)
    same(falling[:, 1:] / falling[:, :-1], torch.full((2, 4), math.exp(-0.7), dtype=torch.float64))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("change", [{}, {"branch_scale": 0.5, "gate": 1.5}, {"skip": False}])
def test_transformers_do_what_is_predicted(place: str, tokens: int, change: dict) -> None:
    if place == "deepnorm" and "skip" in change:
        pytest.skip("DeepNorm is about the skip")
    design = Design(
        place, 3, width=96, hidden=150, attention_scale=0.0, scheme="unit", residual_scale=0.8,
        **change,
    )  # fmt: skip
    found = flow(design, tokens=tokens, sequences=24 // tokens, seeds=16)
    expected = predicted_flow(design, tokens=tokens)
    # A finite width is some 2/n short in each branch.
    short = 2 * 6 / design.width
    pairs = [(found.mean_squares, expected.mean_squares)]
    pairs.append((found.gradients**2, expected.gradients**2))
    pairs.append((found.ffn_gradients**2, expected.ffn_gradients**2))
    for sample, wanted in pairs:
        error = 4 * sample.std(0) / 4 + short * wanted
        assert ((sample.mean(0) - wanted).abs() <= error).all()
    assert (found.ffn_gradients.std(0) < 0.3 * found.ffn_gradients.mean(0)).all()


@pytest.mark.breaks(
    "companion/meanfield/steps.py",
    "return (square + (count - 1) * overlap) / count",
    "return square / count",
)
@pytest.mark.parametrize("activation", ["relu", "gelu", "identity"])
def test_tokens_in_common_are_followed(activation: str) -> None:
    # After attention to all alike, tokens differ only by what the skip has kept.
    design = Design("none", 2, width=96, activation=activation, attention_scale=0.0, scheme="unit")
    found = flow(design, tokens=4, sequences=6, seeds=16)
    expected = predicted_flow(design, tokens=4)
    sample = found.mean_squares[:, -1]
    allowed = four_errors(sample) + 8 / 96 * expected.mean_squares[-1]
    assert (sample.mean() - expected.mean_squares[-1]).abs() <= allowed
    gradients = found.ffn_gradients[:, 0] ** 2
    allowed = four_errors(gradients) + 8 / 96 * expected.ffn_gradients[0] ** 2
    assert (gradients.mean() - expected.ffn_gradients[0] ** 2).abs() <= allowed


# ---------------------------------------------------------------- attention alone


def test_token_spread_is_a_share_of_the_norm() -> None:
    alike = torch.ones(3, 4)
    assert token_spread(alike).item() == 0
    x = normal(2, 5, 3) + 2
    mean = x.mean(1, keepdim=True)
    apart = ((x - mean) ** 2).sum((1, 2)) / (x**2).sum((1, 2))
    same(token_spread(x), apart.sqrt())


@pytest.mark.breaks(
    "companion/transformers/collapse.py",
    "(q @ k.mT / math.sqrt(width)).softmax(-1) @ v",
    "(q @ k.mT / math.sqrt(width)).softmax(-2) @ v",
)
def test_attention_alone_is_a_softmax_over_keys() -> None:
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = draw(1, 3, 4)
    weights = [math.sqrt(2 / 4) * draw(1, 4, 4)[0] for _ in range(3)]
    q, k, v = (x[0] @ w for w in weights)
    scores = torch.exp(q @ k.T / 2)
    out = scores @ v / scores.sum(1, keepdim=True)
    found = rank_collapse(skip=False, layers=1, tokens=3, width=4, weight_variance=2.0, seeds=[2])
    same(found[0], torch.stack([token_spread(x[0]), token_spread(out)]))
    added = rank_collapse(skip=True, layers=1, tokens=3, width=4, weight_variance=2.0, seeds=[2])
    same(added[0, 1], token_spread(x[0] + out))


# ---------------------------------------------------------------- training


@pytest.mark.breaks(
    "companion/training/optimizers.py",
    "min(1.0, self.taken / self.warmup)",
    "min(1.0, (self.taken - 1) / self.warmup)",
)
def test_warmup_rises_evenly_to_the_rate_and_stays() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    update, before, moved = adam_with_warmup(0.1, 4)([weight]), 0.0, []
    for _ in range(7):
        weight.grad = torch.ones(1, dtype=torch.float64)
        update.step()
        moved.append(before - weight.item())
        before = weight.item()
    # Of a gradient that stays as it is, Adam makes steps as large as its rate.
    assert moved == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1], rel=1e-6)


@pytest.mark.parametrize("place", ["pre", "post"])
def test_a_transformer_learns_digits_by_their_rows(place: str) -> None:
    models = networks(Design(place, 1, width=16), tokens=8, features=8, outputs=10, seeds=2)
    shuffled = normal(3, 64)
    rows = shuffled.reshape(3, 8, 8) @ models[0].embed.weight.T + models[0].embed.bias
    through = models[0].final(models[0].sublayers(rows + models[0].positions)).mean(1)
    same(models[0](shuffled).detach(), models[0].read(through).detach())
    record = training.train(
        models, digits(), optimizer=adam_with_warmup(0.01, 10), steps=60, record_every=60,
        progress=False,
    )  # fmt: skip
    assert (record.test_accuracy[-1] > 0.7).all()
    positions = record.names.index("positions")
    assert (record.displacement[-1, :, positions] > 0).all()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"place": "sandwich"}, ValueError, "place must be one of .*got 'sandwich'"),
        ({"scheme": "he"}, ValueError, "scheme must be one of"),
        ({"layers": 0}, ValueError, "layers must be at least 1, got 0"),
        ({"width": True}, TypeError, "width must be a whole number"),
        ({"heads": 3}, ValueError, "heads must divide the width 64, got 3"),
        ({"hidden": 0}, ValueError, "hidden must be at least 1, got 0"),
        ({"activation": "step"}, ValueError, "activation"),
        ({"attention_scale": -1}, ValueError, "attention_scale must be finite and at least 0"),
        ({"residual_scale": math.nan}, ValueError, "residual_scale must be finite"),
        ({"branch_scale": math.inf}, ValueError, "branch_scale must be finite"),
        ({"logit_scale": "1/d"}, TypeError, "logit_scale must be a number"),
        ({"distance_slope": -0.1}, ValueError, "distance_slope must be finite and at least 0"),
        ({"gate": math.nan}, ValueError, "gate must be finite"),
        ({"place": "deepnorm", "skip": False}, ValueError, "skip must be True for deepnorm"),
    ],
)
def test_bad_designs_are_refused(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Design(**({"place": "pre", "layers": 2} | change))


def test_other_bad_arguments_are_refused() -> None:
    design = Design("pre", 1, width=4)
    with pytest.raises(ValueError, match="come together or not at all, got 8, None"):
        networks(design, tokens=8)
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        networks(design, tokens=8, features=0, outputs=3)
    with pytest.raises(ValueError, match="tokens must be at least 1, got 0"):
        flow(design, tokens=0)
    with pytest.raises(ValueError, match="tokens must be at least 1, got 0"):
        distance_flow(design, tokens=0)
    with pytest.raises(ValueError, match="tokens must be at least 1, got 0"):
        predicted_flow(design, tokens=0)
    with pytest.raises(ValueError, match="causal must be False for a prediction"):
        predicted_flow(Design("pre", 1, causal=True))
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        rank_collapse(skip=True, layers=0)
    with pytest.raises(ValueError, match="warmup must be at least 1, got 0"):
        adam_with_warmup(0.1, 0)
    with pytest.raises(ValueError, match="learning_rate must be finite and at least 0"):
        adam_with_warmup(-0.1, 5)
