"""The queries, keys, values and ends of attention layers: their weights, and gradients apart.

Sources: Vaswani et al. (2017), arXiv 1706.03762; Noci et al. (2022), arXiv 2206.03126.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from companion._lib.norms import vector_norm, wide

Rows = tuple[nn.Parameter, slice]
#: Which rows of which parameters are W_Q, W_K, W_V and W_O; None where there is none.
Places = tuple[Rows | None, ...]

#: What the linear layers are called: of queries, keys and values apart; of all three in one, their
#: rows in that order; and of what comes after.
TRIPLES = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))
PACKED = ("qkv", "c_attn", "in_proj")
ENDS = ("end", "o_proj", "out_proj", "proj", "c_proj")

_KNOWN = (
    "nn.MultiheadAttention; modules with nn.Linear children "
    f"{' or '.join(', '.join(triple) for triple in TRIPLES)}; and modules with one nn.Linear "
    f"{' or '.join(PACKED)} of three times the width; each with one of {', '.join(ENDS)} or none"
)


class Projections(NamedTuple):
    """The four weights of one attention layer, as views: who writes into them changes the model.

    They carry no gradient themselves.

    Attributes:
        name: of the module, as ``named_modules()`` has it.
        query: (units of all queries, width of what asks); W_Q.
        key: (units of all keys, width of the memory); W_K. The memory is what is attended to.
        value: (units of all values, the same width); W_V.
        end: (width, units of all values); W_O, None if the module has none.

    """

    name: str
    query: Tensor | None
    key: Tensor | None
    value: Tensor | None
    end: Tensor | None


def find_projections(model: nn.Module) -> list[Projections]:
    """Say which weights of a model are W_Q, W_K, W_V and W_O, attention layer by attention layer.

    Of torch's own ``nn.MultiheadAttention``, also within its transformer layers, of this package's
    :class:`~companion.transformers.Attention`, and of modules whose linear layers have the usual
    names: query, key, value or q_proj, k_proj, v_proj; or a packed qkv, c_attn or in_proj, whose
    rows are taken to be those of the queries, keys and values, each a third.

    Args:
        model: any module.

    Returns:
        One for each attention layer, in the order of ``named_modules()``; a module that stands in
        several places comes once, under its first name.

    Raises:
        TypeError: if the model is not a module.
        ValueError: if a module looks like attention and is not recognized, or none does.

    Example:
        >>> layer = nn.TransformerDecoderLayer(6, nhead=2)
        >>> [(found.name, tuple(found.key.shape)) for found in find_projections(layer)]
        [('self_attn', (6, 6)), ('multihead_attn', (6, 6))]

    """
    return [
        Projections(name, *(place and place[0].detach()[place[1]] for place in places))
        for name, places in _layers(model)
    ]


def projection_flow(model: nn.Module, *, relative: bool = False) -> Tensor:
    """Return the norms of the gradients of W_Q, W_K, W_V and W_O that a backward pass has left.

    The gradient of a packed weight as a whole does not tell when that of its queries and keys has
    died: tokens that are all alike leave it to the values.

    Args:
        model: any module whose attention :func:`find_projections` recognizes, after ``backward()``.
        relative: whether each is divided by the norm of its weight; inf or nan where that is 0.

    Returns:
        (layers, 4) in float64: W_Q, W_K, W_V, W_O of each attention layer. It is nan where there
        is no gradient or no such weight. A weight that stands in several places has one gradient,
        the sum over them; it is given where it comes first, and the other places are nan.

    Raises:
        TypeError: if the model is not a module.
        ValueError: if a module looks like attention and is not recognized, or none does.

    Source: Noci et al. (2022), arXiv 2206.03126.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> attention = nn.MultiheadAttention(6, num_heads=2)
        >>> tokens = torch.ones(5, 6)  # all alike: what attends to what does not matter
        >>> attention(tokens, tokens, tokens)[0].sum().backward()
        >>> [norm > 1e-3 for norm in projection_flow(attention)[0].tolist()]
        [False, False, True, True]

    """
    seen: set[tuple[int, int | None]] = set()
    found = []
    for _, places in _layers(model):
        for place in places:
            norm = math.nan
            if place is not None and (id(place[0]), place[1].start) not in seen:
                seen.add((id(place[0]), place[1].start))
                norm = _norm(place, relative=relative)
            found.append(norm)
    return torch.tensor(found, dtype=torch.float64).reshape(-1, 4)


def _norm(place: Rows, *, relative: bool) -> float:
    parameter, rows = place
    if parameter.grad is None:
        return math.nan
    norm = vector_norm(wide(parameter.grad[rows]))
    return float(norm / vector_norm(wide(parameter.detach()[rows])) if relative else norm)


# ---------------------------------------------------------------- what is attention


def _layers(model: nn.Module) -> list[tuple[str, Places]]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    found, unknown = [], []
    for name, module in model.named_modules():
        places = _places(module)
        if places is not None:
            found.append((name, places))
        elif _looks_like_attention(module):
            unknown.append((name, module))
    for name, module in unknown:
        around = [n for n, _ in found if not name or n.startswith(f"{name}.")]
        within = [n for n, _ in found if not n or name.startswith(f"{n}.")]
        if not around and not within:
            raise ValueError(_refusal(f"model has {name or 'itself'!r}", module))
    if not found:
        raise ValueError(_refusal("model needs an attention layer, got", model))
    return found


def _refusal(what: str, module: nn.Module) -> str:
    children = [f"{name}: {_kind(child)}" for name, child in module.named_children()]
    own = [name for name, _ in module.named_parameters(recurse=False)]
    return (
        f"{what} {type(module).__name__}, with the children {', '.join(children) or 'none'} and "
        f"the parameters {', '.join(own) or 'none'}; recognized are {_KNOWN}"
    )


def _kind(child: nn.Module) -> str:
    size = f"({child.in_features}, {child.out_features})" if isinstance(child, nn.Linear) else ""
    return f"{type(child).__name__}{size}"


def _looks_like_attention(module: nn.Module) -> bool:
    """Whether it has the name of an attention layer, or most of its parts."""
    kind, children = type(module).__name__.lower(), dict(module.named_children())
    named = "attention" in kind or "attn" in kind
    if named and any(True for _ in module.parameters()):
        return True
    some = any(sum(name in children for name in triple) > 1 for triple in TRIPLES)
    return some or any(name in children for name in ("qkv", "c_attn"))


def _places(module: nn.Module) -> Places | None:
    """Return where the four weights of an attention layer are, None if it is not known as one."""
    if isinstance(module, nn.MultiheadAttention):
        return _of_torchs(module)
    starts = [_thirds(_weight(module, name), same_width=True) for name in PACKED]
    starts += [tuple(_rows(_weight(module, name)) for name in triple) for triple in TRIPLES]
    whole = [start for start in starts if start and None not in start]
    ends = [_rows(_weight(module, name)) for name in ENDS if _learns(module, name)]
    if len(whole) != 1 or len(ends) > 1:  # nothing, or more than one can tell apart
        return None
    if None in ends:  # there is one, and it is no plain nn.Linear
        return None
    return (*whole[0], ends[0] if ends else None)


def _learns(module: nn.Module, name: str) -> bool:
    child = getattr(module, name, None)
    return isinstance(child, nn.Module) and any(True for _ in child.parameters())


def _of_torchs(module: nn.MultiheadAttention) -> Places | None:
    end = _rows(_parameter(module.out_proj, "weight"))
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    start = _thirds(_parameter(module, "in_proj_weight"))
    start = start or tuple(_rows(_parameter(module, name)) for name in names)
    return None if None in (*start, end) else (*start, end)


def _parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """Return a parameter of this name; what a parametrization computes is none."""
    # Not getattr, which would compute it: a spectral norm takes a step each time it is asked.
    return dict(module.named_parameters(recurse=False, remove_duplicate=False)).get(name)


def _weight(module: nn.Module, name: str) -> nn.Parameter | None:
    child = getattr(module, name, None)
    return _parameter(child, "weight") if isinstance(child, nn.Linear) else None


def _rows(parameter: nn.Parameter | None) -> Rows | None:
    return None if parameter is None else (parameter, slice(None))


def _thirds(parameter: nn.Parameter | None, *, same_width: bool = False) -> Places:
    """Return the rows of queries, keys and values in a packed weight, () if it is none."""
    if parameter is None:
        return ()
    third = len(parameter) // 3
    if same_width and len(parameter) != 3 * parameter.shape[1]:
        return ()
    return tuple((parameter, slice(k * third, (k + 1) * third)) for k in range(3))
