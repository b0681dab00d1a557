"""Recurrent cells written out: their weights, their steps, and how they are drawn.

A recurrent network applies one cell at every step. Its state is h, and for an LSTM h and c.
Shapes are torch's: (time, ..., batch, features).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from companion._lib.arguments import finite, floating, non_negative, one_of, positive_integer

CellKind = Literal["rnn", "lstm", "gru"]
Nonlinearity = Literal["tanh", "relu"]

GATES: dict[CellKind, int] = {"rnn": 1, "lstm": 4, "gru": 3}
NONLINEARITIES: dict[Nonlinearity, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
}
RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)


class State(NamedTuple):
    """What a cell hands to its next step: h, and for an LSTM also c.

    Attributes:
        h: (*networks, batch, hidden); (*networks, batch, outputs) if it is projected.
        c: (*networks, batch, hidden); None but for an LSTM.

    """

    h: Tensor
    c: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "State":
        """Return h, and c if there is one, changed alike."""
        return State(change(self.h), None if self.c is None else change(self.c))


@dataclass(frozen=True)
class Cell:
    """The weights of one recurrent layer, in torch's layout, possibly of several networks.

    The rows of an LSTM are those of the gates i, f, g, o one below the other, those of a GRU r, z,
    n. A GRU's z is what it *keeps*: h' = (1−z)·n + z·h.

    Attributes:
        kind: "rnn", "lstm" or "gru".
        weight_ih: (*networks, gates·hidden, inputs).
        weight_hh: (*networks, gates·hidden, hidden), or as many columns as weight_hr has rows.
        bias_ih, bias_hh: (*networks, gates·hidden), or None for no biases.
        nonlinearity: of an "rnn": "tanh" or "relu".
        weight_hr: (*networks, outputs, hidden) of an LSTM that is projected: its h is this matrix
            times o·tanh(c). None where h is not.

    Raises:
        ValueError: if a word is unknown, the weights do not fit each other, only one bias is given,
            or something else than an LSTM is projected.

    """

    kind: CellKind
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    nonlinearity: Nonlinearity = "tanh"
    weight_hr: Tensor | None = None

    def __post_init__(self) -> None:
        one_of("kind", self.kind, GATES)
        one_of("nonlinearity", self.nonlinearity, NONLINEARITIES)
        rows, outputs = self.weight_hh.shape[-2:]
        expected, hidden = (outputs, outputs)
        if self.weight_hr is not None:
            expected, hidden = self.weight_hr.shape[-2:]
            if self.kind != "lstm" or expected != outputs:
                raise ValueError(
                    f"weight_hr must be of an LSTM and have {outputs} rows, as weight_hh has "
                    f"columns, got a {self.kind!r} and shape {tuple(self.weight_hr.shape)}"
                )
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
        return self.weight_hh.shape[-2] // GATES[self.kind]


def cell(
    model: nn.Module | Cell,
    *,
    layer: int = -1,
    backward: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Cell:
    """Return the weights of one layer of torch's recurrent modules as a :class:`Cell`.

    Args:
        model: ``nn.RNN``, ``nn.LSTM``, ``nn.GRU``, one of torch's cells such as ``nn.LSTMCell``, or
            a :class:`Cell`, of which a copy is made.
        layer: which of several: 0 is the lowest, −1 the highest.
        backward: of two directions, the one that reads from the end.
        dtype: of the weights returned, which are detached from the model's.

    Raises:
        TypeError: if it is another module.
        ValueError: if it has no such layer or direction.

    Example:
        >>> found = cell(nn.LSTM(3, 5))
        >>> found.kind, tuple(found.weight_hh.shape)
        ('lstm', (20, 5))

    """
    several = isinstance(model, RECURRENT)
    if not several:
        layer_index(model, layer)
    if backward and not getattr(model, "bidirectional", False):
        raise ValueError("backward needs a model of two directions, got one of one")
    if isinstance(model, Cell):
        tensors = {name: getattr(model, name) for name in WEIGHTS}
        changed: dict[str, Any] = {
            k: None if v is None else v.detach().to(dtype) for k, v in tensors.items()
        }
        return replace(model, **changed)
    if not isinstance(model, RECURRENT + CELLS):
        raise TypeError(
            "model must be nn.RNN, nn.LSTM, nn.GRU, a cell of these or a Cell, "
            f"got {type(model).__name__}"
        )
    suffix = f"_l{layer_index(model, layer)}" if several else ""
    suffix += "_reverse" if backward else ""
    parameters = dict(model.named_parameters())
    held = {
        name: parameters[name + suffix].detach().to(dtype)
        for name in WEIGHTS
        if name + suffix in parameters
    }
    kind = one_of("kind", type(model).__name__.lower().removesuffix("cell"), GATES)
    return Cell(kind, **held, nonlinearity=getattr(model, "nonlinearity", "tanh"))


def layer_index(model: nn.Module | Cell, layer: int) -> int:
    """Return the number of a layer counted from the lowest, 0; those of −1 and below from the top.

    Args:
        model: what has layers; one if it has no ``num_layers``.
        layer: from minus their number to one less than it.

    Raises:
        ValueError: if the model has no such layer.

    """
    count = getattr(model, "num_layers", 1)
    if not -count <= layer < count:
        raise ValueError(f"layer must be from {-count} to {count - 1}, got {layer}")
    return layer % count


def _weights(cell: Cell) -> list[Tensor | None]:
    return [getattr(cell, name) for name in WEIGHTS]


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
    kinds = {
        (c.kind, c.nonlinearity, *(None if w is None else w.shape for w in _weights(c)))
        for c in cells
    }
    if len(kinds) > 1:
        raise ValueError("cells must all be of one kind, shape and nonlinearity")
    together: dict[str, Any] = {
        name: torch.stack([getattr(c, name) for c in cells])
        for name in WEIGHTS
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
    new, keep = STEPS[cell.kind](cell, driven, state.h @ cell.weight_hh.mT, state)
    return projected(cell, new), keep


def projected(cell: Cell, state: State) -> State:
    """Return a state whose h has been multiplied by weight_hr, if the cell has one.

    Args:
        cell: the weights.
        state: h of (*networks, batch, hidden), which becomes (*networks, batch, outputs).

    """
    return state if cell.weight_hr is None else State(state.h @ cell.weight_hr.mT, state.c)


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
        h: (T+1, *networks, batch, hidden), from the state before the first step on; as many as
            weight_hr has rows if there is one.
        c: (T+1, *networks, batch, hidden) for an LSTM; otherwise None.
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
    h = inputs.new_zeros(*networks, inputs.shape[-2], cell.weight_hh.shape[-1])
    c = inputs.new_zeros(*networks, inputs.shape[-2], cell.hidden)
    return State(h, c if cell.kind == "lstm" else None)


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
    check_inputs(cell, inputs)
    state = begun(cell, inputs, state)
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


def begun(cell: Cell, inputs: Tensor, state: State | None) -> State:
    """Return the state to start from, zeros if it is None.

    Args:
        cell: the weights.
        inputs: (T, *networks or nothing, batch, inputs), of which only the shape and type count.
        state: h, and for an LSTM c, each (*networks, batch, hidden).

    Raises:
        ValueError: if it does not fit the cell and the inputs.

    """
    zeros = start(cell, inputs)
    if state is None:
        return zeros
    for name, given, needed in zip(("h", "c"), state, zeros):
        found = None if given is None else tuple(given.shape)
        expected = None if needed is None else tuple(needed.shape)
        if found != expected:
            raise ValueError(f"state needs a {name} of shape {expected}, got {found}")
    return State(*state).each(lambda part: part.to(inputs.dtype))


def check_inputs(cell: Cell, inputs: Tensor) -> None:
    """Check that a cell can take a sequence.

    Args:
        cell: the weights.
        inputs: what should be (T, *networks or nothing, batch, inputs).

    Raises:
        ValueError: if it cannot, or the sequence is empty.
        TypeError: if it is not a floating-point tensor.

    """
    expected = cell.weight_ih.shape[-1]
    if floating("inputs", inputs).dim() < 3 or inputs.shape[-1] != expected:
        raise ValueError(
            f"inputs need shape (time, ..., batch, {expected}), got {tuple(inputs.shape)}"
        )
    if inputs.numel() == 0:
        raise ValueError(f"inputs are empty: they have shape {tuple(inputs.shape)}")


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
