"""Recurrent cells written out, and the gradient on its way back through time.

A recurrent network applies one cell at every step. Its state is h, and for an LSTM h and c; the
Jacobian ∂h_T/∂h_t is a product of T − t step Jacobians, which share their weights.
:func:`through_time` measures its norm for every t in one sweep from the end, :func:`direct_path`
the part of it that a gate alone carries. Shapes are torch's: (time, ..., batch, features).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from companion._lib.arguments import finite, floating, non_negative, one_of, positive_integer
from companion._lib.norms import matrix_norm

CellKind = Literal["rnn", "lstm", "gru"]
Nonlinearity = Literal["tanh", "relu"]
Part = Literal["h", "c", "state"]
MatrixNorm = Literal["spectral", "frobenius"]

GATES: dict[CellKind, int] = {"rnn": 1, "lstm": 4, "gru": 3}
NONLINEARITIES: dict[Nonlinearity, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
}
PARTS: tuple[Part, ...] = get_args(Part)
MATRIX_NORMS: dict[MatrixNorm, int | str] = {"spectral": 2, "frobenius": "fro"}
RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)


class State(NamedTuple):
    """What a cell hands to its next step: h, and for an LSTM also c.

    Attributes:
        h: (*networks, batch, hidden).
        c: likewise, of the same shape; None but for an LSTM.

    """

    h: Tensor
    c: Tensor | None = None


@dataclass(frozen=True)
class Cell:
    """The weights of one recurrent layer, in torch's layout, possibly of several networks.

    The rows of an LSTM are those of the gates i, f, g, o one below the other, those of a GRU r, z,
    n. A GRU's z is what it *keeps*: h' = (1−z)·n + z·h.

    Attributes:
        kind: "rnn", "lstm" or "gru".
        weight_ih: (*networks, gates·hidden, inputs).
        weight_hh: (*networks, gates·hidden, hidden).
        bias_ih, bias_hh: (*networks, gates·hidden), or None for no biases.
        nonlinearity: of an "rnn": "tanh" or "relu".

    Raises:
        ValueError: if a word is unknown, the weights do not fit each other, or only one bias is
            given.

    """

    kind: CellKind
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    nonlinearity: Nonlinearity = "tanh"

    def __post_init__(self) -> None:
        one_of("kind", self.kind, GATES)
        one_of("nonlinearity", self.nonlinearity, NONLINEARITIES)
        rows, hidden = self.weight_hh.shape[-2:]
        if rows != GATES[self.kind] * hidden:
            raise ValueError(
                f"weight_hh of a {self.kind!r} needs {GATES[self.kind]} rows a unit, "
                f"got shape {tuple(self.weight_hh.shape)}"
            )
        if self.weight_ih.shape[-2] != rows:
            raise ValueError(
                f"weight_ih needs {rows} rows as weight_hh has, "
                f"got shape {tuple(self.weight_ih.shape)}"
            )
        if (self.bias_ih is None) != (self.bias_hh is None):
            raise ValueError("bias_ih and bias_hh must both be given, or neither")

    @property
    def hidden(self) -> int:
        """Number of units."""
        return self.weight_hh.shape[-1]


def cell(model: nn.Module | Cell, *, dtype: torch.dtype = torch.float64) -> Cell:
    """Return the weights of torch's ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU`` as a :class:`Cell`.

    Args:
        model: the module, of one layer and one direction; or a :class:`Cell`, of which a copy is
            made.
        dtype: of the weights returned, which are detached from the model's.

    Raises:
        TypeError: if it is another module.
        ValueError: if it has several layers, two directions or a projection.

    Example:
        >>> found = cell(nn.LSTM(3, 5))
        >>> found.kind, tuple(found.weight_hh.shape)
        ('lstm', (20, 5))

    """
    if isinstance(model, Cell):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        tensors = {name: getattr(model, name) for name in names}
        changed: dict[str, Any] = {
            k: None if v is None else v.detach().to(dtype) for k, v in tensors.items()
        }
        return replace(model, **changed)
    if not isinstance(model, RECURRENT):
        raise TypeError(
            f"model must be nn.RNN, nn.LSTM, nn.GRU or a Cell, got {type(model).__name__}"
        )
    for name, plain in (("num_layers", 1), ("bidirectional", False), ("proj_size", 0)):
        if getattr(model, name) != plain:
            raise ValueError(
                f"model must have {name}={plain}, so that one cell makes one path through time, "
                f"got {getattr(model, name)}"
            )
    held = {name.removesuffix("_l0"): p.detach().to(dtype) for name, p in model.named_parameters()}
    kind = one_of("kind", type(model).__name__.lower(), GATES)
    return Cell(kind, **held, nonlinearity=getattr(model, "nonlinearity", "tanh"))


def stack(cells: list[Cell]) -> Cell:
    """Return several cells of one shape as one of several networks.

    Raises:
        ValueError: if there is no cell, or they differ in kind, shape or nonlinearity.

    Example:
        >>> tuple(stack([cell(nn.GRU(3, 5)) for _ in range(4)]).weight_ih.shape)
        (4, 15, 3)

    """
    if not cells:
        raise ValueError("cells needs at least one cell, got none")
    kinds = {(c.kind, c.nonlinearity, c.weight_ih.shape, c.bias_ih is None) for c in cells}
    if len(kinds) > 1:
        raise ValueError("cells must all be of one kind, shape and nonlinearity")
    together: dict[str, Any] = {
        name: torch.stack([getattr(c, name) for c in cells])
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        if getattr(cells[0], name) is not None
    }
    return replace(cells[0], **together)


# ---------------------------------------------------------------- forward


def drive(cell: Cell, inputs: Tensor) -> Tensor:
    """Return what does not depend on the state, W_ih x + b_ih + b_hh, of all steps at once.

    Of a GRU the candidate's part of b_hh is left out: its reset gate multiplies it.

    Args:
        cell: the weights.
        inputs: (T, *networks or nothing, batch, inputs).

    Returns:
        (T, *networks, batch, gates·hidden).

    """
    steps, batch = inputs.shape[0], inputs.shape[-2]
    # One product a network, whatever the number of steps.
    rows = inputs.movedim(0, -3).flatten(-3, -2) @ cell.weight_ih.mT
    if cell.bias_ih is not None:
        outside = cell.bias_hh
        assert outside is not None  # both are given, or neither
        if cell.kind == "gru":
            kept = outside[..., : -cell.hidden]
            outside = torch.cat([kept, torch.zeros_like(outside[..., -cell.hidden :])], dim=-1)
        rows = rows + (cell.bias_ih + outside).unsqueeze(-2)
    return rows.unflatten(-2, (steps, batch)).movedim(-3, 0)


def step(cell: Cell, driven: Tensor, state: State) -> tuple[State, Tensor | None]:
    """Return the state after one step, and the gate that kept the old one (f or z; None for RNN).

    Args:
        cell: the weights.
        driven: one step of :func:`drive`, (*networks, batch, gates·hidden).
        state: h, and for an LSTM c, each (*networks, batch, hidden).

    Returns:
        The new state, and the gate of shape (*networks, batch, hidden) or None.

    """
    return STEPS[cell.kind](cell, driven, state.h @ cell.weight_hh.mT, state)


def _rnn(cell: Cell, driven: Tensor, from_state: Tensor, _: State) -> tuple[State, None]:
    return State(NONLINEARITIES[cell.nonlinearity](driven + from_state)), None


def _lstm(_: Cell, driven: Tensor, from_state: Tensor, state: State) -> tuple[State, Tensor]:
    i, f, g, o = (driven + from_state).chunk(4, dim=-1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    assert state.c is not None  # an LSTM's state has both
    c = f * state.c + i * g
    return State(o * c.tanh(), c), f


def _gru(cell: Cell, driven: Tensor, from_state: Tensor, state: State) -> tuple[State, Tensor]:
    n = cell.hidden
    gates = (driven[..., : 2 * n] + from_state[..., : 2 * n]).sigmoid()
    r, z = gates.chunk(2, dim=-1)
    from_h = from_state[..., 2 * n :]
    if cell.bias_hh is not None:  # inside, as in torch
        from_h = from_h + cell.bias_hh[..., 2 * n :].unsqueeze(-2)
    candidate = (driven[..., 2 * n :] + r * from_h).tanh()
    return State((1 - z) * candidate + z * state.h), z


STEPS = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}


class Trajectory(NamedTuple):
    """A run of T steps.

    Attributes:
        h: (T+1, *networks, batch, hidden), from the state before the first step on.
        c: likewise, of the same shape, for an LSTM; otherwise None.
        keep: (T, *networks, batch, hidden) the gate that multiplies the old c or h: an LSTM's f, a
            GRU's z; None for an RNN.

    """

    h: Tensor
    c: Tensor | None
    keep: Tensor | None


def start(cell: Cell, inputs: Tensor) -> State:
    """Return the state of zeros that fits the cell and a batch of inputs.

    Args:
        cell: the weights.
        inputs: (T, *networks or nothing, batch, inputs), of which only the shape counts.

    """
    networks = torch.broadcast_shapes(inputs.shape[1:-2], cell.weight_hh.shape[:-2])
    h = inputs.new_zeros(*networks, inputs.shape[-2], cell.hidden)
    return State(h, h.clone() if cell.kind == "lstm" else None)


def run(cell: Cell, inputs: Tensor, state: State | None = None) -> Trajectory:
    """Run a cell over a sequence.

    Args:
        cell: the weights.
        inputs: (T, *networks or nothing, batch, inputs).
        state: to start from; zeros by default.

    Raises:
        ValueError: if the inputs or the state do not fit the cell, or the inputs are empty.
        TypeError: if the inputs are not a floating-point tensor.

    Example:
        >>> lstm = nn.LSTM(3, 5).double()
        >>> x = torch.ones(7, 2, 3, dtype=torch.float64)
        >>> bool(torch.allclose(run(cell(lstm), x).h[1:], lstm(x)[0]))
        True

    """
    _check_inputs(cell, inputs)
    state = _begun(cell, inputs, state)
    states = [state]
    kept: list[Tensor] = []
    for driven in drive(cell, inputs):
        state, keep = step(cell, driven, state)
        states.append(state)
        if keep is not None:
            kept.append(keep)
    cs = [s.c for s in states if s.c is not None]
    return Trajectory(
        torch.stack([s.h for s in states]),
        torch.stack(cs) if cs else None,
        torch.stack(kept) if kept else None,
    )


def _begun(cell: Cell, inputs: Tensor, state: State | None) -> State:
    """Return the state to start from, checked against what the cell needs."""
    zeros = start(cell, inputs)
    if state is None:
        return zeros
    for name, given, needed in zip(("h", "c"), state, zeros):
        found = None if given is None else tuple(given.shape)
        expected = None if needed is None else tuple(needed.shape)
        if found != expected:
            raise ValueError(f"state needs a {name} of shape {expected}, got {found}")
    moved: list[Any] = [None if part is None else part.to(inputs.dtype) for part in state]
    return State(*moved)


def _check_inputs(cell: Cell, inputs: Tensor) -> None:
    expected = cell.weight_ih.shape[-1]
    if floating("inputs", inputs).dim() < 3 or inputs.shape[-1] != expected:
        raise ValueError(
            f"inputs need shape (time, ..., batch, {expected}), got {tuple(inputs.shape)}"
        )
    if inputs.numel() == 0:
        raise ValueError(f"inputs are empty: they have shape {tuple(inputs.shape)}")


# ---------------------------------------------------------------- backward


def _sequence(model: nn.Module | Cell, inputs: Tensor) -> tuple[Cell, Tensor]:
    """Return the cell in float64, and the inputs likewise with time first."""
    found = cell(model)
    if getattr(model, "batch_first", False):
        inputs = inputs.transpose(0, 1)
    _check_inputs(found, inputs)
    return found, inputs.detach().to(torch.float64)


def through_time(
    model: nn.Module | Cell,
    inputs: Tensor,
    *,
    of: Part = "h",
    wrt: Part = "h",
    norm: MatrixNorm = "spectral",
    state: State | None = None,
) -> Tensor:
    """Return ‖∂h_T/∂h_t‖ for t = 0 to T: what is left of a gradient T − t steps back.

    All are found in one sweep from the end: an identity matrix is pulled back through one step
    after the other. Computed in float64; a norm too
    small for it is 0, one too large inf or nan.

    Args:
        model: ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU`` of one layer, or a :class:`Cell`.
        inputs: as the model takes them, with a batch: (T, *networks or nothing, batch, inputs).
        of: what is differentiated at the end: "h", "c" (of an LSTM) or "state", both together.
        wrt: with respect to what, at t. h_t and c_t count as independent: the derivative with
            respect to one holds the other.
        norm: "spectral", the largest singular value, or "frobenius".
        state: h_0 and c_0; zeros by default.

    Returns:
        float64 tensor (T+1, *networks, batch); entry t belongs to ∂h_T/∂h_t, so the last one is the
        norm of the identity (0 from one part of the state to the other).

    Raises:
        TypeError: if the model is of another kind, or the inputs are not a floating-point tensor.
        ValueError: if an option is unknown, the inputs or the state do not fit, or the model has
            several layers, two directions or a projection.

    Example:
        >>> rnn = nn.RNN(3, 5)
        >>> with torch.no_grad():
        ...     _ = [p.zero_() for p in rnn.parameters()]
        ...     _ = rnn.weight_hh_l0.copy_(0.5 * torch.eye(5))
        >>> through_time(rnn, torch.zeros(3, 1, 3))[:, 0].tolist()
        [0.125, 0.25, 0.5, 1.0]

    """
    found, inputs = _sequence(model, inputs)
    for name, part in (("of", of), ("wrt", wrt)):
        one_of(name, part, PARTS if found.kind == "lstm" else ("h", "state"))
    order = MATRIX_NORMS[one_of("norm", norm, MATRIX_NORMS)]
    state = _begun(found, inputs, state)
    slopes, state = _slopes(found, drive(found, inputs), state)
    pulled = _identity(state, of)
    norms = [matrix_norm(_matrix(pulled, wrt), order)]
    for t in reversed(range(len(inputs))):
        pulled = _pull_back(found, [[s[t] for s in part] for part in slopes], pulled)
        norms.append(matrix_norm(_matrix(pulled, wrt), order))
    return torch.stack(norms[::-1])


def _parts(state: State) -> list[Tensor]:
    return [part for part in state if part is not None]


def _slopes(cell: Cell, driven: Tensor, state: State) -> tuple[list[tuple[Tensor, ...]], State]:
    """Return what a step does to each unit by itself, for all steps, and the state at the end.

    But for the product W_hh h a step is elementwise: what a unit becomes depends on its own rows of
    that product and on its own old state. So the gradient of a sum over units is that of each.

    Returns:
        For h', and c' if there is one: its slopes with respect to W_hh h, to h and to c.

    """
    linear, states = [], [state]
    for x in driven:
        linear.append(states[-1].h @ cell.weight_hh.mT)
        states.append(STEPS[cell.kind](cell, x, linear[-1], states[-1])[0])
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
    parts, n = _parts(state), state.h.shape[-1]
    rows = torch.eye(n * len(parts), dtype=state.h.dtype)
    rows = rows if of == "state" else rows["hc".index(of) * n :][:n]
    return [part.expand(*state.h.shape[:-1], *part.shape) for part in rows.split(n, dim=-1)]


def _matrix(pulled: list[Tensor], wrt: Part) -> Tensor:
    """Return the columns of the Jacobian that belong to a part of the state."""
    return torch.cat(pulled, dim=-1) if wrt == "state" else pulled["hc".index(wrt)]


def _pull_back(cell: Cell, slopes: list[list[Tensor]], pulled: list[Tensor]) -> list[Tensor]:
    """Take (*networks, batch, rows, hidden) with respect to each part of the state one step back.

    ∂/∂(W_hh h) by the slopes, then through W_hh; and straight by the slopes to the old h and c.
    """

    def by(leaf: int, blocks: int = 1) -> Tensor:
        products = (
            torch.cat([rows] * blocks, dim=-1) * part[leaf].unsqueeze(-2)
            for part, rows in zip(slopes, pulled, strict=True)
        )
        return cast("Tensor", sum(products))  # there is one at least

    through = by(0, GATES[cell.kind]).flatten(-3, -2) @ cell.weight_hh
    straight = [by(1 + i) for i in range(len(pulled))]
    return [straight[0] + through.view_as(straight[0]), *straight[1:]]


def direct_path(model: nn.Module | Cell, inputs: Tensor, *, state: State | None = None) -> Tensor:
    """Return ∏ of the keeping gate over the steps from t+1 to T, for t = 0 to T, of each unit.

    It is ∂c_T/∂c_t of an LSTM, or ∂h_T/∂h_t of a GRU, with everything else held: the gates and the
    candidate are not differentiated. What :func:`through_time` finds has the rest as well.

    Args:
        model: ``nn.LSTM`` or ``nn.GRU`` of one layer, or a :class:`Cell`.
        inputs: as the model takes them, with a batch: (T, *networks or nothing, batch, inputs).
        state: h_0 and c_0; zeros by default.

    Returns:
        float64 tensor (T+1, *networks, batch, hidden); the last entry is 1.

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
    found, inputs = _sequence(model, inputs)
    if found.kind == "rnn":
        raise ValueError("model must be an LSTM or a GRU: an RNN has no gate that keeps its state")
    keep = run(found, inputs, state).keep
    assert keep is not None  # LSTMs and GRUs have it
    return torch.cat([keep, torch.ones_like(keep[:1])]).flip(0).cumprod(0).flip(0)


def to_inputs(
    model: Callable[[Tensor], Tensor | tuple], inputs: Tensor, *, norm: MatrixNorm = "spectral"
) -> Tensor:
    """Return ‖∂y_T/∂x_t‖, the last output's gradient at the input of every position.

    Args:
        model: takes (T, batch, inputs) and returns (T, batch, outputs), or a tuple that begins with
            it, as torch's recurrent modules do. Examples must not depend on each other.
        inputs: (T, batch, inputs).
        norm: "spectral" or "frobenius".

    Returns:
        Tensor (T, batch) of the inputs' type.

    Raises:
        TypeError: if the inputs are not a floating-point tensor.
        ValueError: if they have not three dimensions, or ``norm`` is another word.

    Example:
        >>> last = to_inputs(lambda x: x.cumsum(0), torch.ones(4, 1, 2))
        >>> [round(value, 6) for value in last[:, 0].tolist()]
        [1.0, 1.0, 1.0, 1.0]

    """
    order = MATRIX_NORMS[one_of("norm", norm, MATRIX_NORMS)]
    if floating("inputs", inputs).dim() != 3:
        raise ValueError(f"inputs need shape (time, batch, inputs), got {tuple(inputs.shape)}")
    with torch.enable_grad():
        x = inputs.detach().clone().requires_grad_()
        y = model(x)
        y = (y if isinstance(y, Tensor) else y[0])[-1]
        rows = torch.eye(y.shape[-1], dtype=y.dtype).unsqueeze(1).expand(-1, *y.shape)
        (found,) = torch.autograd.grad(y, x, rows, is_grads_batched=True)
    return matrix_norm(found.movedim(0, -2), order)


# ---------------------------------------------------------------- initialization


def default_(model: nn.Module, *, generator: torch.Generator | None = None) -> nn.Module:
    """Draw all parameters as torch does, uniform between ±1/√hidden, from a generator.

    Args:
        model: ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU``, changed in place.
        generator: source of randomness; torch's global one if None.

    Returns:
        The same model.

    Raises:
        TypeError: if the model is not ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU``.

    Example:
        >>> gru = default_(nn.GRU(3, 16), generator=torch.Generator().manual_seed(0))
        >>> bool(gru.weight_hh_l0.abs().max() <= 0.25)
        True

    """
    bound = 1 / math.sqrt(_recurrent(model).hidden_size)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return model


def _recurrent(model: nn.Module, kinds: tuple[type[nn.RNNBase], ...] = RECURRENT) -> nn.RNNBase:
    if not isinstance(model, kinds):
        names = " or ".join(f"nn.{kind.__name__}" for kind in kinds)
        raise TypeError(f"model must be {names}, got {type(model).__name__}")
    return model


def orthogonal_(
    model: nn.Module, gain: float = 1.0, *, generator: torch.Generator | None = None
) -> nn.Module:
    """Make the recurrent weights of every gate ``gain`` times a random orthogonal matrix.

    Args:
        model: ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU``, changed in place.
        gain: all singular values of each gate's matrix.
        generator: source of randomness; torch's global one if None.

    Returns:
        The same model.

    Raises:
        TypeError: if the gain is not a number, or the model is not ``nn.RNN``, ``nn.LSTM`` or
            ``nn.GRU``.
        ValueError: if the gain is negative or not finite.

    Source: Saxe et al. (2014), arXiv 1312.6120.

    Example:
        >>> w = orthogonal_(nn.LSTM(3, 5), 0.5).weight_hh_l0[5:10].detach()
        >>> bool(torch.allclose(w @ w.T, 0.25 * torch.eye(5), atol=1e-6))
        True

    """
    gain = non_negative("gain", gain)
    model = _recurrent(model)
    for name, parameter in model.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.split(model.hidden_size):
                nn.init.orthogonal_(gate, gain, generator=generator)
    return model


def identity_(
    model: nn.RNN,
    scale: float = 1.0,
    *,
    input_std: float = 0.001,
    generator: torch.Generator | None = None,
) -> nn.RNN:
    """Make an RNN's recurrent weights ``scale`` times the identity, and its biases 0.

    With ReLU and scale 1 it is the IRNN: what is not negative is remembered for ever.

    Args:
        model: the RNN, changed in place.
        scale: of the identity.
        input_std: standard deviation of the input weights.
        generator: of the input weights; torch's global one if None.

    Returns:
        The same model.

    Raises:
        TypeError: if the model is not ``nn.RNN``, or a factor is not a number.
        ValueError: if a factor is negative or not finite.

    Source: Le, Jaitly & Hinton (2015), arXiv 1504.00941.

    Example:
        >>> identity_(nn.RNN(3, 2, nonlinearity="relu")).weight_hh_l0.tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    """
    scale, input_std = non_negative("scale", scale), non_negative("input_std", input_std)
    for name, parameter in _recurrent(model, (nn.RNN,)).named_parameters():
        with torch.no_grad():
            if name.startswith("weight_hh"):
                nn.init.eye_(parameter).mul_(scale)
            elif name.startswith("bias"):
                nn.init.zeros_(parameter)
            elif name.startswith("weight_ih_l0"):
                nn.init.normal_(parameter, std=input_std, generator=generator)
    return model


def _set_gate(model: nn.RNNBase, gate: int, value: Tensor | float) -> None:
    """Make the *sum* of torch's two biases of a gate a value: all of it in b_ih, 0 in b_hh."""
    if not model.bias:
        raise ValueError("model has no biases: it was made with bias=False")
    units = slice(gate * model.hidden_size, (gate + 1) * model.hidden_size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("bias_ih"):
                parameter[units] = value
            elif name.startswith("bias_hh"):
                parameter[units] = 0.0


GATED = (nn.LSTM, nn.GRU)  # the gate that keeps has the second block of rows in both


def forget_bias_(model: nn.Module, value: float = 1.0) -> nn.Module:
    """Make the bias of the gate that keeps (an LSTM's f, a GRU's z) this value, in sum.

    torch adds *two* biases, b_ih and b_hh, so that setting each would give twice the value, and
    setting one leaves the other's draw. The other gates stay as they are.

    Args:
        model: ``nn.LSTM`` or ``nn.GRU`` with biases, changed in place.
        value: of b_ih + b_hh.

    Returns:
        The same model.

    Raises:
        TypeError: if the model is neither an LSTM nor a GRU, or the value is not a number.
        ValueError: if the value is not finite, or the model has no biases.

    Source: Gers et al. (2000); Jozefowicz et al. (2015).

    Example:
        >>> lstm = forget_bias_(nn.LSTM(3, 2), 1.0)
        >>> (lstm.bias_ih_l0 + lstm.bias_hh_l0)[2:4].tolist()
        [1.0, 1.0]

    """
    _set_gate(_recurrent(model, GATED), 1, finite("value", value))
    return model


def chrono_(
    model: nn.Module, length: int, *, generator: torch.Generator | None = None
) -> nn.Module:
    """Draw the keeping gates' biases so that memories last from 1 to ``length`` steps.

    b_f = ln u with u uniform between 1 and length − 1, and for an LSTM b_i = −b_f: a gate σ(ln u)
    is u/(u+1), which forgets in about u steps. Both are sums of torch's two biases.

    Args:
        model: ``nn.LSTM`` or ``nn.GRU`` with biases, changed in place; of a GRU it is the bias of
            z, which keeps.
        length: the longest time over which to remember, at least 2.
        generator: of u; torch's global one if None.

    Returns:
        The same model.

    Raises:
        TypeError: if the model is neither an LSTM nor a GRU, or the length is not a whole number.
        ValueError: if the length is below 2, or the model has no biases.

    Source: Tallec & Ollivier (2018), arXiv 1804.11188.

    Example:
        >>> lstm = chrono_(nn.LSTM(3, 200), 100, generator=torch.Generator().manual_seed(0))
        >>> bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach()
        >>> bool(bias[200:400].exp().max() <= 99), bool((bias[:200] == -bias[200:400]).all())
        (True, True)

    """
    if positive_integer("length", length) < 2:
        raise ValueError(f"length must be at least 2, got {length}")
    model = _recurrent(model, GATED)
    weight = cast("Tensor", model.weight_hh_l0)
    u = torch.empty(model.hidden_size, dtype=weight.dtype)
    bias = u.uniform_(1, max(1.0, length - 1.0), generator=generator).log()
    _set_gate(model, 1, bias)
    if isinstance(model, nn.LSTM):
        _set_gate(model, 0, -bias)
    return model
