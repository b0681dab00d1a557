"""The written cells against torch's, and the gradient through time against T backward passes."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import normal, reproducible, same
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from companion import lstms
from companion.lstms import Cell, State

T, BATCH, INPUTS, HIDDEN = 6, 3, 2, 4

MAKERS: dict[str, Callable[..., nn.Module]] = {
    "rnn": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}
KINDS = pytest.mark.parametrize("kind", MAKERS)
GATED = pytest.mark.parametrize("kind", ["lstm", "gru"])


def module(kind: str, seed: int = 0, **options: object) -> nn.Module:
    """A module whose weights and biases are all of order one, so that each of them matters."""
    made = MAKERS[kind](INPUTS, HIDDEN, **options).double()
    for i, parameter in enumerate(made.parameters()):
        with torch.no_grad():
            parameter.copy_(normal(*parameter.shape, seed=10 * seed + i) * 0.7)
    return made


def state_of(kind: str, seed: int = 90) -> State:
    h, c = normal(BATCH, HIDDEN, seed=seed), normal(BATCH, HIDDEN, seed=seed + 1)
    return State(h, c if kind == "lstm" else None)


def torchs(kind: str, state: State) -> object:
    """A state as torch's modules take it."""
    h = state.h.unsqueeze(0)
    return (h, state.c.unsqueeze(0)) if kind == "lstm" else h


# ---------------------------------------------------------------- cells


@pytest.mark.breaks(
    "companion/lstms/cells.py",
    "i, f, g, o = (driven + from_state)",
    "f, i, g, o = (driven + from_state)",
    case="lstm-True",
)
@pytest.mark.breaks(
    "companion/lstms/cells.py",
    "i, f, g, o = (driven + from_state)",
    "i, f, o, g = (driven + from_state)",
    case="lstm-True",
)
@pytest.mark.breaks(
    "companion/lstms/cells.py",
    "(1 - z) * candidate + z * state.h",
    "z * candidate + (1 - z) * state.h",
    case="gru-True",
)
@pytest.mark.breaks(
    "companion/lstms/cells.py", "+ r * from_h).tanh()", "+ from_h).tanh()", case="gru-True"
)
@pytest.mark.breaks(
    "companion/lstms/cells.py",
    "kept = outside[..., : -cell.hidden]",
    "kept = 0 * outside[..., : -cell.hidden]",
    case="gru-True",
)
@pytest.mark.parametrize("bias", [True, False])
@KINDS
def test_cells_are_torchs(kind: str, bias: bool) -> None:
    model, x, state = module(kind, bias=bias), normal(T, BATCH, INPUTS, seed=50), state_of(kind)
    found = lstms.run(lstms.cell(model), x, state)
    output, last = model(x, torchs(kind, state))
    same(found.h[1:], output)
    same(found.h[0], state.h)
    if kind == "lstm":
        same(found.c[-1], last[1][0])
        same(found.c[0], state.c)
    else:
        assert found.c is None
    same(lstms.run(lstms.cell(model), x).h[1:], model(x)[0])


@KINDS
def test_several_networks_are_each_by_itself(kind: str) -> None:
    models, x = [module(kind, seed) for seed in range(3)], normal(T, 3, BATCH, INPUTS, seed=50)
    together = lstms.stack([lstms.cell(model) for model in models])
    for inputs in (x, x[:, :1], x[:, 0]):
        found = lstms.run(together, inputs)
        assert found.h.shape == (T + 1, 3, BATCH, HIDDEN)
        for i, model in enumerate(models):
            own = inputs if inputs.dim() == 3 else inputs[:, i % inputs.shape[1]]
            same(found.h[1:, i], model(own)[0])
    flows = lstms.through_time(together, x)
    for i, model in enumerate(models):
        same(flows[:, i], lstms.through_time(model, x[:, i]))


def test_the_gate_that_keeps_is_what_torch_multiplies_the_old_state_by() -> None:
    # A candidate of 0: what is left of the old state is the gate's doing alone.
    for kind, block in (("lstm", 2), ("gru", 2)):
        model = module(kind)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter[block * HIDDEN : (block + 1) * HIDDEN] = 0
        x, state = normal(T, BATCH, INPUTS, seed=50), state_of(kind)
        found = lstms.run(lstms.cell(model), x, state)
        held = found.c if kind == "lstm" else found.h
        same(found.keep * held[:-1], held[1:])
    assert lstms.run(lstms.cell(module("rnn")), x).keep is None


def test_a_cells_dtype_is_as_asked_and_it_is_apart_from_its_module() -> None:
    model = module("gru").float()
    found = lstms.cell(model, dtype=torch.float32)
    assert found.weight_hh.dtype == torch.float32
    assert not found.weight_hh.requires_grad
    assert lstms.cell(found).weight_hh.dtype == torch.float64


# ---------------------------------------------------------------- the gradient through time


def one_pass_each(model: nn.Module, x: Tensor, state: State, of: str, wrt: str) -> Tensor:
    """∂(h_T or c_T)/∂(h_t or c_t) by running torch's own module anew from each t, T times."""
    lstm = isinstance(model, nn.LSTM)
    kind = "lstm" if lstm else "gru"

    def last(parts: Tensor, rest: Tensor) -> Tensor:
        """The state at the end of one example, from h and c one after the other."""
        if len(rest) == 0:
            return parts
        split = parts.reshape(-1, 1, HIDDEN)
        begin = State(split[0], split[1] if lstm else None)
        _, end = model(rest.unsqueeze(1), torchs(kind, begin))
        return torch.cat([part.flatten() for part in (end if lstm else (end,))])

    places = {"h": slice(0, HIDDEN), "c": slice(HIDDEN, 2 * HIDDEN), "state": slice(None)}
    rows = []
    for t in range(len(x) + 1):
        begun = state
        if t:
            _, end = model(x[:t], torchs(kind, state))
            begun = State(*(part[0] for part in (end if lstm else (end,))))
        joined = torch.cat([part for part in begun if part is not None], dim=-1).detach()
        each = [
            torch.autograd.functional.jacobian(lambda s, b=b, t=t: last(s, x[t:, b]), joined[b])
            for b in range(BATCH)
        ]
        rows.append(torch.stack([j[places[of], places[wrt]] for j in each]))
    return torch.stack(rows)


@pytest.mark.breaks(
    "companion/lstms/jacobians.py", 'if cell.kind == "gru":', "if False:", case="gru-h-h"
)
@pytest.mark.breaks(
    "companion/lstms/jacobians.py",
    "*(by(1 + i) for i in range(1, len(pulled)))]",
    "*pulled[1:]]",
    case="lstm-c-c",
)
@pytest.mark.parametrize(
    ("kind", "of", "wrt"),
    [
        *[(kind, "h", "h") for kind in MAKERS],
        ("gru", "state", "state"),
        ("lstm", "c", "c"),
        ("lstm", "c", "h"),
        ("lstm", "h", "c"),
        ("lstm", "state", "state"),
        ("lstm", "h", "state"),
        ("lstm", "state", "c"),
    ],
)
def test_through_time_is_a_pass_for_each_t(kind: str, of: str, wrt: str) -> None:
    model, x, state = module(kind), normal(T, BATCH, INPUTS, seed=50), state_of(kind)
    jacobians = one_pass_each(model, x, state, of, wrt)
    for norm, order in (("spectral", 2), ("frobenius", "fro")):
        found = lstms.through_time(model, x, of=of, wrt=wrt, norm=norm, state=state)
        same(found, torch.linalg.matrix_norm(jacobians, order))
    zeros = State(*(None if part is None else torch.zeros_like(part) for part in state))
    same(
        lstms.through_time(model, x, of=of, wrt=wrt),
        lstms.through_time(model, x, of=of, wrt=wrt, state=zeros),
    )


@pytest.mark.breaks(
    "companion/lstms/jacobians.py", "return torch.stack(norms[::-1])", "return torch.stack(norms)"
)
def test_time_runs_forward_and_ends_with_the_identity() -> None:
    # The first half of the steps shrinks the gradient, the second does not touch it.
    weight = torch.ones(1, 1, dtype=torch.float64)
    cell = Cell("rnn", weight, weight)
    x = torch.cat([torch.full((3, 1, 1), 1.5), torch.zeros(0, 1, 1), torch.full((3, 1, 1), -9.0)])
    found = lstms.through_time(cell, x.double())[:, 0]
    h = lstms.run(cell, x.double()).h[:, 0, 0]
    slopes = 1 - h[1:] ** 2
    expected = [slopes[t:].prod().item() for t in range(7)]
    assert found.tolist() == pytest.approx(expected)
    assert found[-1].item() == 1


def test_an_rnns_gradient_is_the_product_of_w_and_the_slopes() -> None:
    model, x = module("rnn"), normal(T, 1, INPUTS, seed=50)
    h = lstms.run(lstms.cell(model), x).h[:, 0]
    product, norms = torch.eye(HIDDEN).double(), [1.0]
    for t in range(T, 0, -1):
        product = product @ torch.diag(1 - h[t] ** 2) @ model.weight_hh_l0.detach()
        norms.append(torch.linalg.matrix_norm(product, 2).item())
    assert lstms.through_time(model, x)[:, 0].tolist() == pytest.approx(norms[::-1])


def test_the_model_and_its_gradients_are_left_alone() -> None:
    model, x = module("lstm").float(), normal(BATCH, T, INPUTS, seed=50).float()
    model.batch_first = True
    with torch.no_grad():
        found = lstms.through_time(model, x)
    assert found.shape == (T + 1, BATCH)
    assert found.dtype == torch.float64
    assert all(parameter.grad is None for parameter in model.parameters())
    model.batch_first = False
    same(found, lstms.through_time(model, x.transpose(0, 1)))


def test_norms_beyond_the_type_are_zero_or_not_finite() -> None:
    eye, x = torch.ones(1, 1).double(), torch.ones(100, 1, 1).double()
    for scale, at_50 in ((1e-5, 1e-250), (1e5, 1e250)):
        found = lstms.through_time(Cell("rnn", eye, scale * eye, nonlinearity="relu"), x)
        assert found[50].item() == pytest.approx(at_50)
        assert found[0].item() == 0.0 if scale < 1 else not math.isfinite(found[0].item())


# ---------------------------------------------------------------- the direct path


@pytest.mark.breaks(
    "companion/lstms/jacobians.py",
    "torch.cat([keep, torch.ones_like(keep[:1])])",
    "torch.cat([keep[1:], torch.ones_like(keep[:2])])",
    case="lstm",
)
@GATED
def test_the_direct_path_is_the_gradient_with_all_else_held(kind: str) -> None:
    model, x, state = module(kind), normal(T, 1, INPUTS, seed=50), state_of(kind)
    state = State(*(None if part is None else part[:1] for part in state))
    cell = lstms.cell(model)
    run = lstms.run(cell, x, state)
    held = run.c if kind == "lstm" else run.h
    found = lstms.direct_path(model, x, state=state)
    for t in range(T + 1):
        start = held[t].clone().requires_grad_()
        now = start
        for s in range(t, T):  # gates and candidate from the run, as constants
            new = held[s + 1] - run.keep[s] * held[s]
            now = run.keep[s] * now + new
        (gradient,) = torch.autograd.grad(now.sum(), start)
        same(found[t], gradient)
    same(found[-1], torch.ones_like(found[-1]))


def test_without_recurrent_weights_the_direct_path_is_all_there_is() -> None:
    model = module("lstm")
    with torch.no_grad():
        model.weight_hh_l0.zero_()
    x = normal(T, BATCH, INPUTS, seed=50)
    same(
        lstms.direct_path(model, x).amax(-1),
        lstms.through_time(model, x, of="c", wrt="c"),
    )


# ---------------------------------------------------------------- to the inputs


@KINDS
def test_gradients_at_the_inputs_are_autograds(kind: str) -> None:
    model, x = module(kind), normal(T, BATCH, INPUTS, seed=50)
    whole = torch.autograd.functional.jacobian(lambda v: model(v)[0][-1], x)
    each = torch.stack([whole[b, :, :, b] for b in range(BATCH)], dim=1)  # (hidden, B, T, inputs)
    for norm, order in (("spectral", 2), ("frobenius", "fro")):
        expected = torch.linalg.matrix_norm(each.permute(2, 1, 0, 3), order)
        same(lstms.to_inputs(model, x, norm=norm), expected)


def test_positions_keep_their_order() -> None:
    weights = torch.tensor([1.0, 2.0, 4.0]).reshape(3, 1, 1)
    found = lstms.to_inputs(lambda x: (x * weights).cumsum(0), torch.ones(3, 2, 1))
    assert found.tolist() == [[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]


# ---------------------------------------------------------------- initialization


def gate(parameter: Tensor, block: int, hidden: int) -> Tensor:
    return parameter.detach()[block * hidden : (block + 1) * hidden]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.breaks(
    "companion/lstms/cells.py", "parameter[units] = value", "parameter[units] = value / 2"
)
@pytest.mark.breaks(
    "companion/lstms/cells.py", "parameter[units] = 0.0", "parameter[units] = value"
)
@pytest.mark.breaks("companion/lstms/cells.py", "parameter[units] = 0.0", "pass")
@given(hidden=st.integers(1, 6), value=st.sampled_from([-3.0, 0.0, 1, 2.5]))
@reproducible
def test_the_forget_bias_is_the_sum_of_both_biases(hidden: int, value: float) -> None:
    for make in (nn.LSTM, nn.GRU):
        model = make(2, hidden)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        assert lstms.forget_bias_(model, value) is model
        total = model.bias_ih_l0 + model.bias_hh_l0
        assert gate(total, 1, hidden).tolist() == [value] * hidden
        for name, p in model.named_parameters():
            for block in range(len(p) // hidden):
                if not (name.startswith("bias") and block == 1):
                    assert torch.equal(gate(p, block, hidden), gate(before[name], block, hidden))


def test_a_forget_bias_does_what_it_says_to_torchs_own_lstm() -> None:
    model = lstms.forget_bias_(nn.LSTM(1, 1), 1.0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("weight"):
                p.zero_()
            else:
                p[0] = -100.0  # nothing enters
    c = torch.ones(1, 1, 1)
    _, (_, after) = model(torch.zeros(2, 1, 1), (c, c))
    assert after.item() == pytest.approx((1 / (1 + math.exp(-1))) ** 2, rel=1e-6)


@pytest.mark.breaks(
    "companion/lstms/cells.py", "_set_gate(model, 0, -bias)", "_set_gate(model, 0, bias)"
)
@pytest.mark.breaks("companion/lstms/cells.py", "max(1.0, length - 1.0)", "length + 1.0")
@pytest.mark.parametrize("length", [2, 3, 100, 10_000])
def test_chrono_memories_are_spread_up_to_the_length(length: int) -> None:
    hidden = 4000
    model = lstms.chrono_(nn.LSTM(1, hidden).double(), length, generator=generator())
    total = model.bias_ih_l0 + model.bias_hh_l0
    keep = gate(total, 1, hidden).exp()
    assert (keep >= 1 - 1e-9).all()
    assert (keep <= length - 1 + 1e-6).all()
    # Uniform: mean and variance to four standard errors (the kurtosis of a uniform is 1.8).
    spread = (length - 2) / math.sqrt(12)
    assert abs(keep.mean().item() - length / 2) <= 4 * spread / math.sqrt(hidden) + 1e-9
    error = 4 * spread**2 * math.sqrt(0.8 / hidden)
    assert abs(keep.var().item() - spread**2) <= error + 1e-9
    assert torch.equal(gate(total, 0, hidden), -gate(total, 1, hidden))
    assert gate(model.bias_hh_l0, 2, hidden).abs().max() > 0, "the others are torch's"


def test_chrono_of_a_gru_sets_the_gate_that_keeps() -> None:
    model = lstms.chrono_(nn.GRU(1, 50), 40, generator=generator())
    total = model.bias_ih_l0 + model.bias_hh_l0
    assert gate(total, 1, 50).min() >= 0
    assert gate(total, 0, 50).abs().max() <= 2 / math.sqrt(50)


@pytest.mark.breaks("companion/lstms/cells.py", "parameter.split(model.hidden_size)", "[parameter]")
@given(hidden=st.integers(1, 7), gain=st.sampled_from([0.0, 0.5, 1.0, 3]))
@reproducible
def test_orthogonal_is_so_in_every_gate(hidden: int, gain: float) -> None:
    for make in MAKERS.values():
        model = lstms.orthogonal_(make(2, hidden).double(), gain, generator=generator())
        gates = [w.detach() for w in model.weight_hh_l0.split(hidden)]
        for w in gates:
            same(w @ w.T, gain**2 * torch.eye(hidden).double())
        assert gain == 0 or hidden == 1 or all(not torch.equal(gates[0], w) for w in gates[1:])


def test_the_irnn_remembers_and_hands_its_gradient_back_whole() -> None:
    make = MAKERS["relu"]
    model = lstms.identity_(make(2, 400), input_std=0.01, generator=generator())
    assert torch.equal(model.weight_hh_l0.detach(), torch.eye(400))
    assert model.bias_ih_l0.abs().max() == model.bias_hh_l0.abs().max() == 0
    assert model.weight_ih_l0.std().item() == pytest.approx(0.01, rel=4 / math.sqrt(2 * 800))
    small = lstms.identity_(make(1, 3), 0.5)
    assert torch.equal(small.weight_hh_l0.detach(), 0.5 * torch.eye(3))
    with torch.no_grad():
        small.weight_ih_l0.fill_(1.0)
        small.weight_hh_l0.copy_(torch.eye(3))
    found = lstms.through_time(small, torch.ones(9, 1, 1))
    assert found.flatten().tolist() == [1.0] * 10


def test_the_default_draw_is_torchs() -> None:
    model = lstms.default_(nn.GRU(50, 100), generator=generator())
    for parameter in model.parameters():
        assert parameter.abs().max() <= 0.1
        count = parameter.numel()
        expected = 0.1 / math.sqrt(3)
        assert parameter.std().item() == pytest.approx(expected, rel=4 * math.sqrt(0.2 / count))
    torch.manual_seed(0)
    own = nn.GRU(50, 100).weight_ih_l0
    torch.manual_seed(0)
    drawn = lstms.default_(nn.GRU(50, 100)).weight_ih_l0
    assert own.std().item() == pytest.approx(drawn.std().item(), rel=0.05)


@pytest.mark.parametrize("draw", ["default_", "orthogonal_", "chrono_", "identity_"])
def test_draws_come_from_the_generator_alone(draw: str) -> None:
    arguments = {"chrono_": (9,)}.get(draw, ())
    kind = "rnn" if draw == "identity_" else "lstm"
    made = []
    for seed in (3, 3, 4):
        model = getattr(lstms, draw)(module(kind), *arguments, generator=generator(seed))
        made.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


# ---------------------------------------------------------------- what torch's modules take


def of_all(module: nn.Module, kind: str, layer: int, *, backward: bool, x: Tensor) -> Tensor:
    """∂h_T/∂h_t of one layer for all t, one derivative of torch's module after the other."""
    outputs, projection = module.hidden_size, module.proj_size
    options = {"proj_size": projection} if projection else {}
    if layer:
        two = {"bidirectional": module.bidirectional}
        lower = MAKERS[kind](INPUTS, outputs, layer, **two, **options).double()
        named = module.state_dict()
        lower.load_state_dict({name: named[name] for name in lower.state_dict()})
        x = lower(x)[0].detach()
    suffix = f"_l{layer}" + ("_reverse" if backward else "")
    alone = MAKERS[kind](x.shape[-1], outputs, **options).double()
    named = module.state_dict()
    alone.load_state_dict({k: named[k.removesuffix("_l0") + suffix] for k in alone.state_dict()})
    x = x.flip(0) if backward else x
    zero = x.new_zeros(1, x.shape[1], projection or outputs)
    state = (zero, x.new_zeros(1, x.shape[1], outputs)) if kind == "lstm" else zero
    norms = []
    for t in range(len(x) + 1):

        def end(h: Tensor, state: object = state, t: int = t) -> Tensor:
            begun = (h, state[1]) if kind == "lstm" else h
            last = alone(x[t:], begun)[1] if t < len(x) else begun
            return last[0] if kind == "lstm" else last

        found = torch.autograd.functional.jacobian(end, state[0] if kind == "lstm" else state)
        each = [found[0, b, :, 0, b] for b in range(x.shape[1])]
        norms.append(torch.linalg.matrix_norm(torch.stack(each), 2))
        if t < len(x):
            state = alone(x[t : t + 1], state)[1]
    along = torch.stack(norms)
    return along.flip(0) if backward else along


@pytest.mark.breaks(
    "companion/lstms/jacobians.py",
    "for b in both], dim=-1)",
    "for b in both[:1] * len(both)], dim=-1)",
    case="True-True-gru",
)
@pytest.mark.breaks(
    "companion/lstms/jacobians.py",
    "along = _turned(along, backward=backward)",
    "pass",
    case="True-True-gru",
)
@pytest.mark.parametrize("kind", [*MAKERS, "projected"])
@pytest.mark.parametrize(
    ("bidirectional", "backward"), [(False, False), (True, False), (True, True)]
)
def test_through_time_takes_layers_directions_and_projections(
    kind: str, *, bidirectional: bool, backward: bool
) -> None:
    options = {"proj_size": 3} if kind == "projected" else {}
    kind = "lstm" if kind == "projected" else kind
    made = module(kind, num_layers=3, bidirectional=bidirectional, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(0.6)
    x = normal(T, BATCH, INPUTS, seed=5)
    for layer in (0, 1, 2):
        found = lstms.through_time(made, x, layer=layer, backward=backward)
        same(found, of_all(made, kind, layer, backward=backward, x=x))
    assert torch.equal(lstms.through_time(made, x, backward=backward), found)


@KINDS
def test_torchs_cells_are_taken_as_well(kind: str) -> None:
    made = module(kind)
    alone = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}.get(kind, nn.RNNCell)
    options = {"nonlinearity": "relu"} if kind == "relu" else {}
    step = alone(INPUTS, HIDDEN, **options).double()
    step.load_state_dict({k.removesuffix("_l0"): v for k, v in made.state_dict().items()})
    x = normal(T, BATCH, INPUTS, seed=5)
    same(lstms.through_time(step, x), lstms.through_time(made, x))


@pytest.mark.breaks(
    "companion/lstms/jacobians.py", "elif getattr(", "elif not getattr(", case="gru"
)
@pytest.mark.breaks(
    "companion/lstms/jacobians.py",
    "index=rows)",
    "index=torch.arange(len(rows)))",
    case="gru",
)
@KINDS
def test_inputs_may_come_without_a_batch_batch_first_or_packed(kind: str) -> None:
    made, first = (module(kind, seed=3, batch_first=b) for b in (False, True))
    x, state = normal(T, BATCH, INPUTS, seed=5), state_of(kind)
    whole = lstms.through_time(made, x, state=state)
    assert torch.equal(lstms.through_time(first, x.transpose(0, 1), state=state), whole)
    for b in range(BATCH):
        own = State(*(None if part is None else part[b] for part in state))
        for model in (made, first):
            same(lstms.through_time(model, x[:, b], state=own), whole[:, b])
    lengths = torch.tensor([2, T, 2])
    for model, whole_x in ((made, x), (first, x.transpose(0, 1))):
        packed = nn.utils.rnn.pack_padded_sequence(
            whole_x, lengths, batch_first=model is first, enforce_sorted=False
        )
        found = lstms.through_time(model, packed, state=state)
        same(found[:, 1], whole[:, 1])
        for b in (0, 2):
            own = State(*(None if part is None else part[b] for part in state))
            same(found[:3, b], lstms.through_time(model, x[:2, b], state=own))
            assert found[3:, b].isnan().all()


def test_the_direct_path_takes_what_through_time_takes() -> None:
    made = module("lstm", num_layers=2, bidirectional=True, proj_size=3)
    x = normal(T, BATCH, INPUTS, seed=5)
    along = lstms.direct_path(made, x, layer=1, backward=True)
    assert along.shape == (T + 1, BATCH, HIDDEN)
    assert (along[0] == 1).all()
    assert (along[1:] < along[:-1]).all()


@pytest.mark.breaks(
    "companion/lstms/jacobians.py", "movedim(0, -2).movedim(axis, 0)", "movedim(0, -2)", case="gru"
)
@GATED
def test_gradients_at_the_inputs_with_the_batch_first(kind: str) -> None:
    """They came out as zeros, at plausible places."""
    made, first = (module(kind, seed=3, batch_first=b) for b in (False, True))
    x = normal(T, BATCH, INPUTS, seed=5)
    same(lstms.to_inputs(first, x.transpose(0, 1)), lstms.to_inputs(made, x))


# ---------------------------------------------------------------- bad input


X = torch.zeros(T, BATCH, INPUTS)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lstms.cell(nn.LSTM(2, 3, 2), layer=2), ValueError, "from -2 to 1, got 2"),
        (lambda: lstms.cell(nn.LSTM(2, 3, 2), layer=-3), ValueError, "from -2 to 1, got -3"),
        (lambda: lstms.cell(nn.GRU(2, 3), backward=True), ValueError, "two directions, got one"),
        (lambda: lstms.cell(nn.Linear(2, 3)), TypeError, "got Linear"),
        (
            lambda: Cell("gru", X[0], torch.ones(12, 2), weight_hr=torch.ones(2, 4)),
            ValueError,
            "weight_hr must be of an LSTM and have 2 rows.*got a 'gru'",
        ),
        (
            lambda: Cell("lstm", torch.ones(16, 2), torch.ones(16, 3), weight_hr=torch.ones(2, 4)),
            ValueError,
            "have 3 rows",
        ),
        (lambda: Cell("elman", X, X), ValueError, "kind must be one of"),
        (lambda: Cell("rnn", X[0], X[0, :2], nonlinearity="gelu"), ValueError, "nonlinearity must"),
        (lambda: Cell("lstm", torch.ones(4, 2), torch.ones(4, 4)), ValueError, "4 rows a unit"),
        (lambda: Cell("rnn", torch.ones(3, 2), torch.ones(4, 4)), ValueError, "needs 4 rows"),
        (lambda: lstms.stack([]), ValueError, "at least one cell"),
        (
            lambda: lstms.stack([lstms.cell(module(k)) for k in ("rnn", "relu")]),
            ValueError,
            "must all be of one kind",
        ),
        (lambda: lstms.through_time(module("rnn"), X[..., :1]), ValueError, r"batch, 2\)"),
        (lambda: lstms.through_time(module("rnn"), X[0, 0]), ValueError, "inputs need shape"),
        (lambda: lstms.through_time(module("rnn"), X, layer=1), ValueError, "from -1 to 0, got 1"),
        (lambda: lstms.through_time(module("rnn"), X[:0]), ValueError, "inputs are empty"),
        (lambda: lstms.through_time(module("rnn"), X.long()), TypeError, "floating-point"),
        (lambda: lstms.through_time(module("gru"), X, of="c"), ValueError, "of must be one"),
        (lambda: lstms.through_time(module("gru"), X, wrt="c"), ValueError, "wrt must be one"),
        (lambda: lstms.through_time(module("lstm"), X, norm="max"), ValueError, "norm must"),
        (lambda: lstms.direct_path(module("rnn"), X), ValueError, "an RNN has no gate"),
        (
            lambda: lstms.through_time(module("lstm"), X, state=state_of("gru")),
            ValueError,
            r"a c of shape \(3, 4\), got None",
        ),
        (
            lambda: lstms.through_time(module("rnn"), X, state=State(X[0])),
            ValueError,
            r"a h of shape \(3, 4\), got \(3, 2\)",
        ),
        (
            lambda: Cell("rnn", torch.ones(3, 2), torch.ones(3, 3), torch.ones(3)),
            ValueError,
            "both be given, or neither",
        ),
        (lambda: lstms.to_inputs(module("rnn"), X[0]), ValueError, "inputs need shape"),
        (lambda: lstms.to_inputs(module("rnn"), X, norm="l1"), ValueError, "norm must be"),
        (
            lambda: lstms.to_inputs(lambda x: module("gru", batch_first=True)(x), normal(T, 3, 2)),
            ValueError,
            "is the model made with the batch first",
        ),
        (lambda: lstms.forget_bias_(nn.RNN(2, 3)), TypeError, "nn.LSTM or nn.GRU, got RNN"),
        (lambda: lstms.forget_bias_(module("lstm"), math.nan), ValueError, "value must be finite"),
        (lambda: lstms.forget_bias_(module("lstm"), "1"), TypeError, "value must be a number"),
        (lambda: lstms.forget_bias_(nn.LSTM(2, 3, bias=False)), ValueError, "no biases"),
        (lambda: lstms.chrono_(module("lstm"), 1), ValueError, "at least 2, got 1"),
        (lambda: lstms.chrono_(module("lstm"), 9.5), TypeError, "length must be a whole"),
        (lambda: lstms.identity_(nn.GRU(2, 3)), TypeError, "must be nn.RNN, got GRU"),
        (lambda: lstms.orthogonal_(nn.Linear(2, 3)), TypeError, "got Linear"),
        (lambda: lstms.orthogonal_(module("rnn"), -1.0), ValueError, "gain must be finite"),
    ],
)
def test_bad_input_is_named(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
