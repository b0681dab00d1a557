"""The gradient on its way back through time, in torch's recurrent layers.

The Jacobian ∂h_T/∂h_t is a product of T − t step Jacobians, which share their weights.
:func:`through_time` measures its norm for every t in one sweep from the end, :func:`direct_path`
the part of it that a gate alone carries, :func:`to_inputs` what reaches the input of each position.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from companion._lib import random
from companion._lib.arguments import floating, one_of
from companion._lib.norms import matrix_norm
from companion.lstms.cells import (
    GATES,
    STEPS,
    Cell,
    State,
    begun,
    cell,
    check_inputs,
    drive,
    layer_index,
    projected,
    run,
)

Part = Literal["h", "c", "state"]
MatrixNorm = Literal["spectral", "frobenius"]
PARTS: tuple[Part, ...] = get_args(Part)
MATRIX_NORMS: dict[MatrixNorm, int | str] = {"spectral": 2, "frobenius": "fro"}


def through_time(
    model: nn.Module | Cell,
    inputs: Tensor | PackedSequence,
    *,
    of: Part = "h",
    wrt: Part = "h",
    norm: MatrixNorm = "spectral",
    state: State | None = None,
    layer: int = -1,
    backward: bool = False,
) -> Tensor:
    """Return ‖∂h_T/∂h_t‖ for t = 0 to T: what is left of a gradient T − t steps back.

    All are found in one sweep from the end: an identity matrix is pulled back through one step
    after the other. Of several layers it is one that is looked at, with what it gets from below
    held as it is. Computed in float64, without dropout; a norm too small for float64 is 0, one too
    large inf or nan.

    Args:
        model: ``nn.RNN``, ``nn.LSTM``, ``nn.GRU``, one of torch's cells, or a :class:`Cell`.
        inputs: as the model takes them: (T, *networks or nothing, batch, inputs), or batch first if
            it is so made, without a batch, or packed.
        of: what is differentiated at the end: "h", "c" (of an LSTM) or "state", both together.
        wrt: with respect to what, at t. h_t and c_t count as independent: the derivative with
            respect to one holds the other.
        norm: "spectral", the largest singular value, or "frobenius".
        state: h_0 and c_0 of this layer and direction; zeros by default.
        layer: which of several: 0 is the lowest, −1 the highest.
        backward: of two directions, the one that reads from the end. Its last state is at t = 0.

    Returns:
        float64 tensor (T+1, *networks, batch), without the batch if the inputs have none. Entry t
        belongs to ∂h_T/∂h_t, so the last one is the norm of the identity (0 from one part of the
        state to the other); going backward it is ∂h_0/∂h_t, and the first. Of a packed sequence
        that is shorter than T, the entries behind its end are nan.

    Raises:
        TypeError: if the model is of another kind, or the inputs are not a floating-point tensor.
        ValueError: if an option is unknown, the inputs or the state do not fit, or the model has no
            such layer or direction.

    Example:
        >>> rnn = nn.RNN(3, 5)
        >>> with torch.no_grad():
        ...     _ = [p.zero_() for p in rnn.parameters()]
        ...     _ = rnn.weight_hh_l0.copy_(0.5 * torch.eye(5))
        >>> through_time(rnn, torch.zeros(3, 1, 3))[:, 0].tolist()
        [0.125, 0.25, 0.5, 1.0]

    """
    order = MATRIX_NORMS[one_of("norm", norm, MATRIX_NORMS)]

    def measure(found: Cell, inputs: Tensor, state: State | None) -> Tensor:
        for name, part in (("of", of), ("wrt", wrt)):
            one_of(name, part, PARTS if found.kind == "lstm" else ("h", "state"))
        slopes, end = _slopes(found, drive(found, inputs), begun(found, inputs, state))
        pulled = _identity(end, of)
        norms = [matrix_norm(_matrix(pulled, wrt), order)]
        for t in reversed(range(len(inputs))):
            pulled = _pull_back(found, [[s[t] for s in part] for part in slopes], pulled)
            norms.append(matrix_norm(_matrix(pulled, wrt), order))
        return torch.stack(norms[::-1])

    return _measured(measure, model, inputs, state, layer=layer, backward=backward)


def _parts(state: State) -> list[Tensor]:
    return [part for part in state if part is not None]


def _slopes(cell: Cell, driven: Tensor, state: State) -> tuple[list[tuple[Tensor, ...]], State]:
    """Return what a step does to each unit by itself, for all steps, and the state at the end.

    But for the product W_hh h a step is elementwise: what a unit becomes depends on its own rows of
    that product and on its own old state. So the gradient of a sum over units is that of each.

    Returns:
        For h' before its projection, and c' if there is one: its slopes with respect to W_hh h, to
        h and to c.

    """
    linear, states = [], [state]
    for x in driven:
        linear.append(states[-1].h @ cell.weight_hh.mT)
        states.append(projected(cell, STEPS[cell.kind](cell, x, linear[-1], states[-1])[0]))
    olds = [torch.stack(part) for part in zip(*map(_parts, states[:-1]))]
    with torch.enable_grad():
        leaves = [leaf.requires_grad_() for leaf in (torch.stack(linear), *olds)]
        new = _parts(STEPS[cell.kind](cell, driven, leaves[0], State(*leaves[1:]))[0])
        slopes = [
            torch.autograd.grad(part.sum(), leaves, retain_graph=True, materialize_grads=True)
            for part in new
        ]
        return slopes, states[-1]


def _identity(state: State, of: Part) -> list[Tensor]:
    """Return the rows of the last state's Jacobian with respect to itself, by parts."""
    sizes = [part.shape[-1] for part in _parts(state)]
    rows = torch.eye(sum(sizes), dtype=state.h.dtype)
    rows = rows if of == "state" else rows.split(sizes)["hc".index(of)]
    return [part.expand(*state.h.shape[:-1], *part.shape) for part in rows.split(sizes, dim=-1)]


def _matrix(pulled: list[Tensor], wrt: Part) -> Tensor:
    """Return the columns of the Jacobian that belong to a part of the state."""
    return torch.cat(pulled, dim=-1) if wrt == "state" else pulled["hc".index(wrt)]


def _pull_back(cell: Cell, slopes: list[list[Tensor]], pulled: list[Tensor]) -> list[Tensor]:
    """Take (*networks, batch, rows, hidden) with respect to each part of the state one step back.

    Back through the projection, if there is one; to W_hh h by the slopes, and through W_hh; and
    straight by the slopes to the old h and c.
    """
    if cell.weight_hr is not None:
        pulled = [_through(pulled[0], cell.weight_hr), *pulled[1:]]

    def by(leaf: int, blocks: int = 1) -> Tensor:
        products = (
            torch.cat([rows] * blocks, dim=-1) * part[leaf].unsqueeze(-2)
            for part, rows in zip(slopes, pulled, strict=True)
        )
        return cast("Tensor", sum(products))  # there is one at least

    old = _through(by(0, GATES[cell.kind]), cell.weight_hh)
    if cell.kind == "gru":  # the others keep nothing of h but by W_hh
        old = old + by(1)
    return [old, *(by(1 + i) for i in range(1, len(pulled)))]


def _through(rows: Tensor, matrix: Tensor) -> Tensor:
    """Multiply (*networks, batch, rows, n) by (*networks, n, m) from the right."""
    return (rows.flatten(-3, -2) @ matrix).unflatten(-2, rows.shape[-3:-1])


def direct_path(
    model: nn.Module | Cell,
    inputs: Tensor | PackedSequence,
    *,
    state: State | None = None,
    layer: int = -1,
    backward: bool = False,
) -> Tensor:
    """Return ∏ of the keeping gate over the steps from t+1 to T, for t = 0 to T, of each unit.

    It is ∂c_T/∂c_t of an LSTM, or ∂h_T/∂h_t of a GRU, with everything else held: the gates and the
    candidate are not differentiated. What :func:`through_time` finds has the rest as well.

    Args:
        model: ``nn.LSTM``, ``nn.GRU``, one of their cells, or a :class:`Cell`.
        inputs: (T, *networks or nothing, batch, inputs) or as for :func:`through_time`.
        state: likewise.
        layer: likewise.
        backward: likewise.

    Returns:
        float64 tensor (T+1, *networks, batch, hidden), otherwise as :func:`through_time`'s.

    Raises:
        ValueError: if the model is an RNN, which has no such gate; or as :func:`through_time` does.
        TypeError: if the model is of another kind, or the inputs are not a floating-point tensor.

    Source: Hochreiter & Schmidhuber (1997); the forget gate is by Gers et al. (2000).

    Example:
        >>> lstm = nn.LSTM(3, 5)
        >>> with torch.no_grad():
        ...     _ = [p.zero_() for p in lstm.parameters()]
        >>> direct_path(lstm, torch.zeros(3, 1, 3))[:, 0, 0].tolist()
        [0.125, 0.25, 0.5, 1.0]

    """

    def measure(found: Cell, inputs: Tensor, state: State | None) -> Tensor:
        keep = run(found, inputs, state).keep
        if keep is None:
            raise ValueError("model must be an LSTM or a GRU: an RNN has no gate that keeps h")
        return torch.cat([keep, torch.ones_like(keep[:1])]).flip(0).cumprod(0).flip(0)

    return _measured(measure, model, inputs, state, layer=layer, backward=backward)


def _reaches(output: Tensor, inputs: Tensor) -> Tensor:
    """Return which inputs an output depends on; what is not finite shows nothing."""
    # Not the sum, which a layer norm or a softmax keeps constant.
    (draw,) = random.normal([random.generator(0, "inputs")], *output.shape).to(output.dtype)
    (found,) = torch.autograd.grad((output * draw).sum(), inputs, retain_graph=True)
    return found.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) != 0


# ---------------------------------------------------------------- what torch's modules take


def _measured(
    measure: Callable[[Cell, Tensor, State | None], Tensor],
    model: nn.Module | Cell,
    inputs: Tensor | PackedSequence,
    state: State | None,
    *,
    layer: int,
    backward: bool,
) -> Tensor:
    """Measure (T+1, *networks, batch, ...) of a cell along time, however the inputs are given."""
    state = state and State(*state).each(torch.Tensor.detach)
    if isinstance(inputs, PackedSequence):
        each = partial(_measured, measure, model, layer=layer, backward=backward)
        batch = model.weight_hh.dim() - 1 if isinstance(model, Cell) else 1
        first = getattr(model, "batch_first", False)
        return _of_lengths(each, inputs, state, first=first, batch=batch)
    alone = floating("inputs", inputs).dim() == 2
    if alone:
        inputs = inputs.unsqueeze(1)
        state = state and state.each(lambda part: part.unsqueeze(-2))
    elif getattr(model, "batch_first", False):
        inputs = inputs.transpose(0, 1)
    inputs, layer = inputs.detach().to(torch.float64), layer_index(model, layer)
    both = (False, True) if getattr(model, "bidirectional", False) else (False,)
    for below in range(layer):
        inputs = torch.cat([_outputs(model, inputs, below, backward=b) for b in both], dim=-1)
    found = cell(model, layer=layer, backward=backward)
    check_inputs(found, inputs)
    along = measure(found, _turned(inputs, backward=backward), state)
    along = _turned(along, backward=backward)
    return along.squeeze(found.weight_hh.dim() - 1) if alone else along


def _outputs(model: nn.Module | Cell, inputs: Tensor, layer: int, *, backward: bool) -> Tensor:
    """Return what one layer hands on in one direction, in the order of the inputs."""
    found = cell(model, layer=layer, backward=backward)
    h = run(found, _turned(inputs, backward=backward)).h[1:]
    return _turned(h, backward=backward)


def _turned(values: Tensor, *, backward: bool) -> Tensor:
    return values.flip(0) if backward else values


def _of_lengths(
    measure: Callable[[Tensor, State | None], Tensor],
    packed: PackedSequence,
    state: State | None,
    *,
    first: bool,
    batch: int,
) -> Tensor:
    """Measure sequences of each length by themselves; behind a sequence's end stands nan."""
    inputs, lengths = pad_packed_sequence(packed, batch_first=first)
    if state and state.h.shape[-2] != len(lengths):
        raise ValueError(f"state needs {len(lengths)} rows, got {state.h.shape[-2]}")
    together: Tensor | None = None
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().flatten()
        own = inputs[rows, :length] if first else inputs[:length, rows]
        pick = partial(torch.index_select, dim=-2, index=rows)
        found = measure(own, state and state.each(pick))
        found = found.movedim(batch, 1)
        if together is None:
            size = (int(lengths.max()) + 1, len(lengths), *found.shape[2:])
            together = found.new_full(size, torch.nan)
        together[: length + 1, rows] = found
    assert together is not None  # a packed sequence has one at least
    return together.movedim(1, batch)


def to_inputs(
    model: Callable[[Tensor], Tensor | tuple], inputs: Tensor, *, norm: MatrixNorm = "spectral"
) -> Tensor:
    """Return ‖∂y_T/∂x_t‖, the last output's gradient at the input of every position.

    Args:
        model: takes (T, batch, inputs) and returns (T, batch, outputs), or a tuple that begins with
            it, as torch's recurrent modules do; likewise with the batch first if it has a
            ``batch_first`` that is true. Examples must not depend on each other.
        inputs: (T, batch, inputs), or (batch, T, inputs) if the model takes them so.
        norm: "spectral" or "frobenius".

    Returns:
        Tensor (T, batch) of the inputs' type.

    Raises:
        TypeError: if the inputs are not a floating-point tensor.
        ValueError: if they have not three dimensions, one of several examples depends on another
            (as it seems to where the batch comes first unsaid), or ``norm`` is another word.

    Example:
        >>> last = to_inputs(lambda x: x.cumsum(0), torch.ones(4, 1, 2))
        >>> [round(value, 6) for value in last[:, 0].tolist()]
        [1.0, 1.0, 1.0, 1.0]

    """
    order = MATRIX_NORMS[one_of("norm", norm, MATRIX_NORMS)]
    if floating("inputs", inputs).dim() != 3:
        raise ValueError(f"inputs need shape (time, batch, inputs), got {tuple(inputs.shape)}")
    axis = 1 if getattr(model, "batch_first", False) else 0
    with torch.enable_grad():
        x = inputs.detach().clone().requires_grad_()
        y = model(x)
        y = (y if isinstance(y, Tensor) else y[0]).select(axis, -1)
        if len(y) > 1 and _reaches(y[-1], x).narrow(1 - axis, 0, len(y) - 1).any():
            raise ValueError(
                "the output of one example depends on another: is the model made with the batch "
                "first? Then give it an attribute batch_first, or turn its inputs and outputs"
            )
        rows = torch.eye(y.shape[-1], dtype=y.dtype).unsqueeze(1).expand(-1, *y.shape)
        (found,) = torch.autograd.grad(y, x, rows, is_grads_batched=True)
    return matrix_norm(found.movedim(0, -2).movedim(axis, 0), order)
