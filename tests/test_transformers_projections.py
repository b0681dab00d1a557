"""Which weights are queries, keys, values and ends, and their gradients against autograd's."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import normal, reproducible, same
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from companion.transformers import Design, find_projections, networks, projection_flow

WIDTH, TOKENS, HEADS = 6, 5, 2


def attend(
    asking: Tensor, keys: Tensor, values: Tensor, weights: list[Tensor], heads: int = HEADS
) -> Tensor:
    """Attention from four separate matrices (out, in), for (tokens, features)."""
    q, k, v = (
        (x @ w.T).unflatten(-1, (heads, -1)).transpose(0, 1)
        for x, w in zip((asking, keys, values), weights[:3], strict=True)
    )
    gathered = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
    return gathered.transpose(0, 1).flatten(1) @ weights[3].T


def four(sizes: tuple[int, int, int] = (WIDTH, WIDTH, WIDTH)) -> list[Tensor]:
    """W_Q, W_K, W_V, W_O, each of another size, so that none can pass for another."""
    shapes = [(WIDTH, size) for size in (*sizes, WIDTH)]
    return [
        (0.2 + 0.1 * i) * normal(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)
    ]


def gradients(loss: Tensor, weights: list[Tensor]) -> Tensor:
    return torch.stack([g.norm() for g in torch.autograd.grad(loss, weights)])


class Named(nn.Module):
    """Attention of a width from linear layers that have the names given, without biases."""

    def __init__(self, names: tuple[str, ...], end: str | None, width: int = WIDTH) -> None:
        super().__init__()
        self.names, self.last = names, end
        for name in names:
            out = 3 * width if len(names) == 1 else width
            setattr(self, name, nn.Linear(width, out, bias=False, dtype=torch.float64))
        if end is not None:
            setattr(self, end, nn.Linear(width, width, bias=False, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        outs = [getattr(self, name)(x) for name in self.names]
        q, k, v = outs[0].chunk(3, -1) if len(outs) == 1 else outs
        q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(0, 1) for each in (q, k, v))
        gathered = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
        gathered = gathered.transpose(0, 1).flatten(1)
        return gathered if self.last is None else getattr(self, self.last)(gathered)

    def take(self, weights: list[Tensor]) -> None:
        """Copy four matrices."""
        with torch.no_grad():
            if len(self.names) == 1:
                getattr(self, self.names[0]).weight.copy_(torch.cat(weights[:3]))
            else:
                for name, weight in zip(self.names, weights, strict=False):
                    getattr(self, name).weight.copy_(weight)
            if self.last is not None:
                getattr(self, self.last).weight.copy_(weights[3])


# ---------------------------------------------------------------- torch's own


@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "slice(k * third, (k + 1) * third)",
    "slice(0, third)",
    case="packed",
)
@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "for k in range(3))",
    "for k in (1, 0, 2))",
    case="packed",
)
@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "return None if None in (*start, end) else (*start, end)",
    "return None if None in (*start, end) else (*start[:2], end, start[2])",
    case="packed",
)
@pytest.mark.breaks(
    "companion/transformers/projections.py",
    'names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")',
    'names = ("k_proj_weight", "q_proj_weight", "v_proj_weight")',
    case="apart",
)
@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "vector_norm(wide(parameter.grad[rows]))",
    "vector_norm(wide(parameter.grad))",
)
@pytest.mark.parametrize("sizes", [(WIDTH, WIDTH, WIDTH), (WIDTH, 4, 7)], ids=["packed", "apart"])
def test_the_norms_are_those_of_separate_matrices(sizes: tuple[int, int, int]) -> None:
    attention = nn.MultiheadAttention(
        WIDTH, HEADS, bias=False, kdim=sizes[1], vdim=sizes[2], dtype=torch.float64
    )
    weights = four(sizes)
    asking, keys, values = (normal(TOKENS, size, seed=9 + i) for i, size in enumerate(sizes))
    (found,) = find_projections(attention)
    assert found.name == ""
    with torch.no_grad():
        for view, weight in zip(found[1:], weights, strict=True):
            view.copy_(weight)
    out = attention(asking, keys, values)[0]
    expected = attend(asking, keys, values, weights)
    same(out.detach(), expected.detach())
    functional = normal(TOKENS, WIDTH, seed=20)
    (out * functional).sum().backward()
    norms = gradients((expected * functional).sum(), weights)
    assert len(norms.log10().round(decimals=2).unique()) == 4
    same(projection_flow(attention)[0], norms)
    sizes_of_weights = torch.stack([weight.detach().norm() for weight in weights])
    same(projection_flow(attention, relative=True)[0], norms / sizes_of_weights)


@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "place[0].detach()[place[1]]",
    "place[0].detach()[place[1]].clone()",
)
def test_what_is_written_into_a_view_is_written_into_the_model() -> None:
    attention = nn.MultiheadAttention(WIDTH, HEADS, dtype=torch.float64)
    (found,) = find_projections(attention)
    packed = attention.in_proj_weight
    for k, view in enumerate(found[1:4]):
        assert view.data_ptr() == packed[k * WIDTH :].data_ptr()
        assert not view.requires_grad
        view.fill_(k)
    assert torch.equal(packed.detach()[::WIDTH, 0], torch.arange(3, dtype=torch.float64))
    found.end.zero_()
    assert not attention(*[normal(TOKENS, WIDTH)] * 3)[0].any()


def test_torchs_transformer_layers_are_looked_into() -> None:
    options = {"dim_feedforward": 8, "dropout": 0.0, "batch_first": True, "dtype": torch.float64}
    model = nn.Transformer(WIDTH, HEADS, num_encoder_layers=2, num_decoder_layers=1, **options)
    found = find_projections(model)
    names = [
        "encoder.layers.0.self_attn", "encoder.layers.1.self_attn",
        "decoder.layers.0.self_attn", "decoder.layers.0.multihead_attn",
    ]  # fmt: skip
    assert [each.name for each in found] == names
    for name, each in zip(names, found, strict=True):
        module = model.get_submodule(name)
        assert torch.equal(torch.cat(each[1:4]), module.in_proj_weight)
        assert each.end.data_ptr() == module.out_proj.weight.data_ptr()
    model(normal(1, 4, WIDTH), normal(1, 3, WIDTH, seed=1)).pow(3).sum().backward()
    flow = projection_flow(model)
    assert flow.shape == (4, 4)
    assert flow.dtype == torch.float64
    for row, name in zip(flow, names, strict=True):
        module = model.get_submodule(name)
        blocks = module.in_proj_weight.grad.split(WIDTH)
        same(row, torch.stack([g.norm() for g in (*blocks, module.out_proj.weight.grad)]))


# ---------------------------------------------------------------- others


@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "return (*whole[0], ends[0] if ends else None)",
    "return (*whole[0][:2], ends[0] if ends else None, whole[0][2])",
    case="names0-end",
)
@pytest.mark.breaks(
    "companion/transformers/projections.py",
    '("query", "key", "value")',
    '("key", "query", "value")',
    case="names0-end",
)
@pytest.mark.breaks(
    "companion/transformers/projections.py",
    '("q_proj", "k_proj", "v_proj")',
    '("k_proj", "q_proj", "v_proj")',
    case="names1-o_proj",
)
@pytest.mark.parametrize(
    ("names", "end"),
    [
        (("query", "key", "value"), "end"),
        (("q_proj", "k_proj", "v_proj"), "o_proj"),
        (("q_proj", "k_proj", "v_proj"), "out_proj"),
        (("qkv",), "proj"),
        (("c_attn",), "c_proj"),
        (("in_proj",), "out_proj"),
    ],
)
def test_linear_layers_of_the_usual_names(names: tuple[str, ...], end: str) -> None:
    model, weights, x = Named(names, end), four(), normal(TOKENS, WIDTH, seed=9)
    model.take(weights)
    out = model(x)
    expected = attend(x, x, x, weights)
    same(out.detach(), expected.detach())
    out.pow(3).sum().backward()
    same(projection_flow(model)[0], gradients(expected.pow(3).sum(), weights))
    (found,) = find_projections(model)
    for view, weight in zip(found[1:], weights, strict=True):
        assert torch.equal(view, weight)


def test_this_packages_own() -> None:
    (model,) = networks(Design("pre", layers=3, width=WIDTH, heads=HEADS))
    model(normal(2, TOKENS, WIDTH)).pow(3).sum().backward()
    found = find_projections(model)
    assert [each.name for each in found] == [f"sublayers.{i}.branch" for i in (0, 2, 4)]
    for row, each in zip(projection_flow(model), found, strict=True):
        branch = model.get_submodule(each.name)
        parts = [branch.query, branch.key, branch.value, branch.end]
        assert [view.data_ptr() for view in each[1:]] == [p.weight.data_ptr() for p in parts]
        same(row, torch.stack([part.weight.grad.norm() for part in parts]))


def test_without_a_last_matrix_there_is_none() -> None:
    model = Named(("query", "key", "value"), None)
    (found,) = find_projections(model)
    assert found.end is None
    model(normal(TOKENS, WIDTH)).sum().backward()
    assert projection_flow(model)[0].isnan().tolist() == [False, False, False, True]


def test_keys_and_values_may_be_narrower() -> None:
    model = Named(("q_proj", "k_proj", "v_proj"), "o_proj")
    model.k_proj, model.v_proj = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)
    (found,) = find_projections(model)
    assert [len(view) for view in found[1:]] == [WIDTH, 3, 3, WIDTH]


def test_a_module_around_attention_need_not_be_attention() -> None:
    class SelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.read = Named(("query", "key", "value"), None), nn.Linear(6, 6)

    model = nn.ModuleDict({"block": SelfAttention(), "value": nn.Linear(6, 1)})
    assert [found.name for found in find_projections(model)] == ["block.inner"]


# ---------------------------------------------------------------- where there is no gradient


@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "if parameter.grad is None:\n        return math.nan",
    "if parameter.grad is None:\n        return 0.0",
)
def test_nan_is_where_there_is_no_gradient() -> None:
    model = Named(("query", "key", "value"), "end")
    assert projection_flow(model).isnan().all()
    model.key.weight.requires_grad_(False)
    model(normal(TOKENS, WIDTH)).sum().backward()
    assert projection_flow(model)[0].isnan().tolist() == [False, True, False, False]


@pytest.mark.breaks(
    "companion/transformers/projections.py", "and (id(place[0]), place[1].start) not in seen", ""
)
def test_the_gradient_of_tied_weights_is_given_once() -> None:
    first, second, third = (Named(("q_proj", "k_proj", "v_proj"), "o_proj") for _ in range(3))
    second.v_proj = first.v_proj  # a module in two places, under two names
    third.o_proj.weight = first.o_proj.weight  # and a weight
    first.k_proj = first.q_proj  # within one
    model = nn.Sequential(first, second, third, first)
    model(normal(TOKENS, WIDTH)).pow(3).sum().backward()
    found = projection_flow(model)
    assert found.isnan().nonzero().tolist() == [[0, 1], [1, 2], [2, 3]]
    total = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    same(found.nan_to_num().norm(), total)
    views = find_projections(model)
    assert views[1].value.data_ptr() == views[0].value.data_ptr()
    assert views[2].end.data_ptr() == views[0].end.data_ptr()


def test_tied_packed_weights_are_given_once() -> None:
    layers = [nn.MultiheadAttention(WIDTH, HEADS) for _ in range(2)]
    layers[1].in_proj_weight = layers[0].in_proj_weight
    model = nn.ModuleList(layers)
    for layer in layers:
        layer(*[torch.ones(TOKENS, WIDTH)] * 3)[0].sum().backward()
    assert projection_flow(model).isnan().tolist() == [[False] * 4, [True] * 3 + [False]]


@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "norm = vector_norm(wide(parameter.grad[rows]))",
    "norm = torch.linalg.vector_norm(parameter.grad[rows])",
)
@pytest.mark.parametrize("exponent", [-200, 200])
def test_gradients_whose_squares_leave_the_type(exponent: int) -> None:
    model = Named(("query", "key", "value"), "end")
    found = []
    for scale in (1.0, 10.0**exponent):
        model.zero_grad()
        (scale * model(normal(TOKENS, WIDTH)).pow(3).sum()).backward()
        found.append(projection_flow(model) / scale)
    torch.testing.assert_close(*found, rtol=1e-10, atol=0)


# ---------------------------------------------------------------- what is not recognized


def two_of_three() -> nn.Module:
    return nn.ModuleDict({"query": nn.Linear(6, 6), "key": nn.Linear(6, 6)})


def two_ends() -> nn.Module:
    model = Named(("query", "key", "value"), "end")
    model.proj = nn.Linear(6, 6)
    return model


def two_kinds() -> nn.Module:
    model = Named(("query", "key", "value"), "end")
    model.qkv = nn.Linear(6, 18)
    return model


def parametrized() -> nn.Module:
    model = Named(("query", "key", "value"), "end")
    parametrizations.orthogonal(model.key)
    return model


def wrapped_end() -> nn.Module:
    model = Named(("query", "key", "value"), "end")
    model.end = nn.Sequential(model.end, nn.Dropout())
    return model


class TalkingAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Linear(6, 18)


@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "if same_width and len(parameter) != 3 * parameter.shape[1]:",
    "if False:",
    case="packed",
)
@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "if len(whole) != 1 or len(ends) > 1:",
    "if not whole:",
    case="two ends",
)
@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "    if None in ends:",
    "    if False:",
    case="wrapped end",
)
@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "if not around and not within:",
    "if False:",
    case="two of three",
)
@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(two_of_three, "query: Linear.6, 6., key: Linear", id="two of three"),
        pytest.param(two_ends, "end: Linear.6, 6., proj: Linear", id="two ends"),
        pytest.param(two_kinds, "qkv: Linear.6, 18.", id="two kinds"),
        pytest.param(wrapped_end, "value: Linear.6, 6., end: Sequential", id="wrapped end"),
        pytest.param(parametrized, "key: ParametrizedLinear", id="parametrized"),
        pytest.param(TalkingAttention, "all: Linear.6, 18.", id="named so"),
        pytest.param(
            lambda: nn.ModuleDict({"qkv": nn.Linear(6, 10)}), "qkv: Linear.6, 10.", id="packed"
        ),
        pytest.param(
            lambda: nn.ModuleDict({"c_attn": nn.Conv1d(6, 18, 1)}), "c_attn: Conv1d", id="conv"
        ),
    ],
)
def test_what_is_not_recognized_is_said(make: Callable[[], nn.Module], says: str) -> None:
    model = nn.ModuleDict({"fine": Named(("query", "key", "value"), "end"), "odd": make()})
    for function in (find_projections, projection_flow):
        with pytest.raises(ValueError, match=f"model has 'odd'.*{says}.*recognized are nn.Multi"):
            function(model)


@pytest.mark.breaks(
    "companion/transformers/projections.py",
    "dict(module.named_parameters(recurse=False, remove_duplicate=False)).get(name)",
    "getattr(module, name, None)",
)
def test_asking_does_not_run_what_computes_a_weight() -> None:
    attention = nn.MultiheadAttention(WIDTH, HEADS)
    parametrizations.spectral_norm(attention, "in_proj_weight")
    before = attention.parametrizations.in_proj_weight[0]._u.clone()
    with pytest.raises(ValueError, match=r"MultiheadAttention.*recognized are"):
        find_projections(attention)
    assert torch.equal(attention.parametrizations.in_proj_weight[0]._u, before)


def test_an_end_without_weights_is_none() -> None:
    model = Named(("query", "key", "value"), None)
    model.proj = nn.Identity()
    (found,) = find_projections(model)
    assert found.end is None


def test_a_model_needs_attention() -> None:
    with pytest.raises(ValueError, match=r"needs an attention.*Linear.*weight, bias; rec"):
        find_projections(nn.Linear(3, 9))
    with pytest.raises(TypeError, match=r"must be an nn\.Module, got list"):
        projection_flow([])


@reproducible
@given(st.integers(1, 9), st.integers(1, 30))
def test_packed_weights_are_of_three_times_the_width(width: int, out: int) -> None:
    model = nn.ModuleDict({"qkv": nn.Linear(width, out)})
    if out == 3 * width:
        (found,) = find_projections(model)
        assert [tuple(view.shape) for view in found[1:4]] == [(width, width)] * 3
    else:
        with pytest.raises(ValueError, match="recognized are"):
            find_projections(model)
