"""The monitor against autograd, step by step, and the model as it was before."""

import copy
import gc
import io
import math
import pickle
import weakref
from collections.abc import Callable

import matplotlib.pyplot as plt
import pytest
import torch
from helpers import normal
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as module_hooks

from companion.diagnosis import features
from companion.monitor import GradientMonitor, Log, gradient_monitor
from companion.monitor._summary import summarize
from companion.monitor._watch import ENTRIES_KEPT

BATCH = 12


def mlp(activation: Callable[[], nn.Module] = nn.Tanh, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(5, 7), activation(), nn.Linear(7, 4), activation(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).double()


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    return normal(BATCH, 5, seed=seed), torch.arange(BATCH) % 3


def train(
    model: nn.Module,
    steps: int = 1,
    *,
    batch: tuple[Tensor, Tensor] | None = None,
    lr: float = 0.5,
    **options: object,
) -> GradientMonitor:
    x, y = data() if batch is None else batch
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with GradientMonitor(model, **options) as monitor:
        for _ in range(steps):
            loss = functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    return monitor


def hooks_of(model: nn.Module) -> list:
    """Everything that torch may keep for a model, or for all of them."""
    found = [
        len(value)
        for part in model.modules()
        for name, value in sorted(vars(part).items())
        if "hooks" in name and hasattr(value, "__len__")
    ]
    found += [len(p._backward_hooks or ()) for p in model.parameters()]
    found += [len(p._post_accumulate_grad_hooks or ()) for p in model.parameters()]
    found += [
        len(value) for name, value in sorted(vars(module_hooks).items()) if name.endswith("_hooks")
    ]
    return found


def by_hand(model: nn.Sequential, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """z and δ of each linear layer."""
    z: list[Tensor] = []
    a = x
    for layer in model:
        a = layer(a)
        if isinstance(layer, nn.Linear):
            z.append(a)
    return z, list(torch.autograd.grad(functional.cross_entropy(a, y), z))


@pytest.mark.breaks(
    "companion/monitor/_watch.py",
    "_listen(tensor, partial(self._delta,",
    "_listen(args[0].requires_grad_(), partial(self._delta,",
)
@pytest.mark.breaks(
    "companion/monitor/_summary.py",
    'found.put("delta_norms", index, math.sqrt(total) / scale)',
    'found.put("delta_norms", index, total / scale)',
)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.ReLU, nn.GELU, nn.SiLU, nn.ELU])
def test_layers_are_those_of_autograd(activation: Callable[[], nn.Module]) -> None:
    model = mlp(activation)
    z, deltas = by_hand(model, *data())
    a = [model[1](z[0]), model[3](z[1])]
    slopes = [torch.autograd.grad(a[i].sum(), z[i], retain_graph=True)[0] for i in range(2)]
    log = train(model).log

    def same(found: Tensor, expected: list[Tensor]) -> None:
        torch.testing.assert_close(found, torch.stack(expected).detach(), rtol=1e-10, atol=1e-12)

    same(log.delta_norms[0], [delta.norm() for delta in deltas])
    same(log.output_mean[0], [value.mean() for value in z])
    same(log.output_variance[0], [value.var(correction=0) for value in z])
    same(log.activation_mean[0, :2], [value.mean() for value in a])
    same(log.activation_variance[0, :2], [value.var(correction=0) for value in a])
    same(log.slope_mean[0, :2], [slope.mean() for slope in slopes])
    same(log.slope_square[0, :2], [slope.square().mean() for slope in slopes])
    assert log.slope_mean[0, 2].isnan()
    assert [layer.units for layer in log.layers] == [7, 4, 3]


@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py",
    "self._before.subtract([parameters[i] for i in learning])\n",
    "self._before.copy([parameters[i] for i in learning])\n",
)
def test_parameters_are_those_of_the_step() -> None:
    model = mlp()
    before = [p.detach().clone() for p in model.parameters()]
    x, y = data()
    gradients = torch.autograd.grad(functional.cross_entropy(model(x), y), model.parameters())
    log = train(model, lr=0.5).log
    norms = torch.stack([g.norm() for g in gradients])
    torch.testing.assert_close(log.gradient_norms[0], norms)
    torch.testing.assert_close(
        log.weight_norms[0], torch.stack([w.norm() for w in before]).detach()
    )
    torch.testing.assert_close(log.update_norms[0], 0.5 * norms)
    torch.testing.assert_close(log.total_norm[0], norms.norm())
    assert log.parameters == tuple(name for name, _ in model.named_parameters())
    assert log.non_finite.tolist() == [0]
    assert log.scale.tolist() == [1]


@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py",
    "step = len(self._losses)\n",
    "step = len(self._losses) + 1\n",
)
def test_the_loss_is_of_every_step_and_the_rest_of_every_nth() -> None:
    found, plain = mlp(), mlp()
    log = train(found, 7, every=3).log
    each = train(plain, 7).log
    torch.testing.assert_close(log.loss, each.loss)
    assert log.steps.tolist() == [0, 3, 6]
    for name in ("delta_norms", "gradient_norms", "update_norms", "output_variance"):
        torch.testing.assert_close(getattr(log, name), getattr(each, name)[::3])
    assert log.loss[0] > log.loss[-1]


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("gradients_only", [False, True])
def test_training_is_the_same_bit_for_bit(every: int, gradients_only: bool) -> None:
    def networks() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(5, 9), nn.BatchNorm1d(9), nn.ReLU(inplace=True), nn.Dropout(0.3),
            nn.Unflatten(1, (3, 3)), nn.LSTM(3, 4, batch_first=True), Last(), nn.Linear(4, 3),
        )  # fmt: skip

    x, y = normal(BATCH, 5).float(), torch.arange(BATCH) % 3
    weights = []
    for watched in (False, True):
        model = networks()
        torch.manual_seed(2)
        if watched:
            options = {"every": every, "gradients_only": gradients_only}
            train(model, 20, batch=(x, y), **options)
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            for _ in range(20):
                optimizer.zero_grad()
                functional.cross_entropy(model(x), y).backward()
                optimizer.step()
        weights.append(torch.cat([p.flatten() for p in model.state_dict().values()]))
    assert torch.equal(*weights)


class Last(nn.Module):
    def forward(self, output: tuple[Tensor, object]) -> Tensor:
        return output[0][:, -1]


def test_no_hook_is_left() -> None:
    model = mlp()
    before = hooks_of(model)
    scale = torch.amp.GradScaler.scale
    train(model, 3, every=2)
    assert hooks_of(model) == before
    assert torch.amp.GradScaler.scale is scale


@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py",
    "        self._disarm()\n        _SCALES",
    "        if error is None:\n            self._disarm()\n        _SCALES",
)
def test_no_hook_is_left_after_an_exception() -> None:
    model = mlp()
    before = hooks_of(model)
    scale = torch.amp.GradScaler.scale
    with pytest.raises(RuntimeError, match="shapes"), GradientMonitor(model) as monitor:
        model(normal(2, 6))
    assert hooks_of(model) == before
    assert torch.amp.GradScaler.scale is scale
    assert torch.overrides._get_current_function_mode_stack() == []
    with monitor:  # a cell that is run again
        functional.cross_entropy(model(data()[0]), data()[1]).backward()
        monitor.step(0.0)
    assert len(monitor.log.steps) == 1
    assert hooks_of(model) == before


def test_between_samples_there_are_no_hooks() -> None:
    model = mlp()
    before = hooks_of(model)
    with GradientMonitor(model, every=2) as monitor:
        assert hooks_of(model) != before
        monitor.step(1.0)
        assert hooks_of(model) == before
        monitor.step(1.0)
        assert hooks_of(model) != before


def test_the_model_can_be_copied_and_pickled_within_and_after() -> None:
    model = mlp()
    x, _ = data()
    with GradientMonitor(model):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        buffer = io.BytesIO()
        torch.save(model, buffer)
    copies += [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for other in copies:
        assert torch.equal(other(x), model(x))
        assert hooks_of(other) == hooks_of(model)


def test_a_monitor_is_entered_once() -> None:
    monitor = GradientMonitor(mlp())
    with monitor, pytest.raises(RuntimeError, match="watching already"):
        monitor.__enter__()
    with pytest.raises(RuntimeError, match="needs the `with` block"):
        monitor.step(1.0)


class Backwards(nn.Module):
    """Registers its layers in another order than it runs them, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.unused, self.first = nn.Linear(4, 3), nn.Linear(2, 2), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.relu(self.first(x)))


@pytest.mark.breaks(
    "companion/monitor/_watch.py",
    "True, len(self.order)\n        self.order.append(layer)",
    "True, len(self.order)\n        self.order.insert(0, layer)",
)
def test_layers_stand_in_the_order_they_are_executed() -> None:
    log = train(Backwards().double()).log
    assert [layer.name for layer in log.layers] == ["first", "last"]
    assert [layer.activation for layer in log.layers] == ["relu", None]
    assert log.layers[0].parameters == ("first.weight", "first.bias")
    unused = log.parameters.index("unused.weight")
    assert log.gradient_norms[0, unused].isnan()
    assert log.update_norms[0, unused] == 0


@pytest.mark.breaks(
    "companion/monitor/_summary.py",
    "silent, dead = (torch.stack([slopes, sizes]) == 0).double().mean(2)\n",
    "silent, dead = (slopes == 0).double().mean(1), 1 - mean.mean(1)\n",
)
def test_units_are_dead_not_entries() -> None:
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():  # the third unit never fires, the others half of the time
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0], [-1.0, -0.01]]))
    x = torch.tensor([[1.0, 1.0], [-1.0, 1.0]] * 6, dtype=torch.float64)
    log = train(model, batch=(x, data()[1])).log
    assert log.dead[0].tolist()[0] == 0.25
    assert log.saturated[0].tolist()[0] == 0.25
    assert log.slope_mean[0, 0] == pytest.approx(3 * 0.5 / 4)


def test_units_are_saturated_by_their_mean_slope() -> None:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Tanh(), nn.Linear(3, 3)).double()
    with torch.no_grad():  # always flat, on the first input alone, never
        model[0].weight.copy_(torch.tensor([[9.0, 9.0], [5.0, 0.0], [0.1, 0.1]]))
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 6, dtype=torch.float64)
    log = train(model, batch=(x, data()[1])).log
    assert log.saturated[0].tolist()[0] == pytest.approx(1 / 3)
    assert log.dead[0].tolist()[0] == 0


@pytest.mark.breaks(
    "companion/monitor/_watch.py", "if kept.thinned and bend.name ==", "if False and bend.name =="
)
@pytest.mark.breaks(
    "companion/monitor/_watch.py", "].in_whole = any_unit\n", "].in_whole = False\n"
)
@pytest.mark.parametrize("inplace", [False, True])
def test_of_a_large_batch_dead_units_are_looked_for_in_all_of_it(inplace: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(inplace), nn.Linear(64, 3))
    x = torch.rand(2048, 4)
    with torch.no_grad():  # unit 0 fires on one example alone, unit 1 on none
        model[0].weight[:2], model[0].bias[:2] = torch.tensor([[1.0, 0, 0, 0]]), -1.5
        x[1777, 0], model[0].bias[1] = 1.75, -1.8
    log = train(model, 3, batch=(x, torch.arange(2048) % 3), lr=0.0).log
    dead = (model[0](x) <= 0).all(0).double().mean()
    torch.testing.assert_close(log.dead[:, 0], dead.expand(3), check_dtype=False)


def test_statistics_of_a_large_batch_are_of_a_part_of_it() -> None:
    model = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 3)).double()
    x = normal(4096, 5)
    log = train(model, batch=(x, torch.arange(4096) % 3), lr=0.0).log
    z = model[0](x).detach()
    z = z[:: z.numel() // ENTRIES_KEPT]
    assert log.output_variance[0, 0].item() == pytest.approx(z.var(correction=0).item())
    slope = 1 - torch.tanh(z) ** 2
    assert log.slope_mean[0, 0].item() == pytest.approx(slope.mean().item())


class Sharing(nn.Module):
    """Runs one layer three times, in place, with functions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh_(self.layer(x))
        return self.head(x)


def test_a_shared_layer_is_measured_over_all_its_calls() -> None:
    model = Sharing().double()
    x, y = data()
    z, a = [], x
    for _ in range(3):
        z.append(model.layer(a))
        a = torch.tanh(z[-1])
    deltas = torch.autograd.grad(functional.cross_entropy(model.head(a), y), z)
    log = train(model).log
    assert log.layers[0].calls == 3
    torch.testing.assert_close(log.delta_norms[0, 0], torch.cat(deltas).norm())
    torch.testing.assert_close(log.output_mean[0, 0], torch.cat(z).mean().detach())
    slope = (1 - torch.tanh(torch.cat(z)) ** 2).mean().detach()
    torch.testing.assert_close(log.slope_mean[0, 0], slope)


class TwoGates(nn.Module):
    """Runs both layers before either activation."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value, self.head = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate(x), self.value(x)
        return self.head(torch.sigmoid(gate) * torch.relu(value))


@pytest.mark.breaks(
    "companion/monitor/_watch.py", "owner = origin[0] or self._last", "owner = self._last"
)
def test_an_activation_belongs_to_the_layer_it_is_applied_to() -> None:
    log = train(TwoGates().double()).log
    assert [layer.activation for layer in log.layers] == ["sigmoid", "relu", None]
    assert log.slope_mean[0, 0] < 0.25


@pytest.mark.breaks(
    "companion/monitor/_watch.py", "            kept.before = _thin(z)\n", "            pass\n"
)
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_an_activation_after_a_norm_has_the_slopes_of_what_the_norm_returns(norm: type) -> None:
    model = nn.Sequential(nn.Linear(5, 6), norm(6), nn.GELU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model[0].weight.mul_(50)
    x, y = data()
    z = model[1](model[0](x)).detach().requires_grad_()
    slope = torch.autograd.grad(functional.gelu(z).sum(), z)[0]
    log = train(model, batch=(x, y)).log
    assert [layer.normalized for layer in log.layers] == [True, False]
    assert log.layers[0].activation == "gelu"
    assert log.slope_mean[0, 0].item() == pytest.approx(slope.mean().item())
    assert log.output_variance[0, 0].item() == pytest.approx(model_variance(model, x), rel=0.7)


def model_variance(model: nn.Sequential, x: Tensor) -> float:
    return model[0](x).var().item()


def test_frozen_layers() -> None:
    model = mlp()
    for p in model[0].parameters():
        p.requires_grad_(False)
    log = train(model).log
    assert [layer.frozen for layer in log.layers] == [True, False, False]
    assert log.delta_norms[0].isnan().tolist() == [True, False, False]
    assert log.gradient_norms[0, :2].isnan().all()
    assert log.update_norms[0, :2].isnan().all()
    assert (log.weight_norms[0] > 0).all()


class Unrolled(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 4)
        self.states = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            self.states.append(h)
        return self.head(h)


def test_a_recurrent_cell_is_seen_through_time() -> None:
    model = Unrolled(nn.RNNCell(5, 4)).double()
    x, y = normal(BATCH, 20, 5), data()[1]
    loss = functional.cross_entropy(model(x), y)
    norms = torch.stack([g.norm() for g in torch.autograd.grad(loss, model.states)])
    log = train(model, batch=(x, y)).log
    assert log.times.tolist() == [20, 0]
    assert log.through_time.shape == (1, 2, 16)
    at = [round(k * 19 / 15) for k in range(16)]
    torch.testing.assert_close(log.through_time[0, 0], norms[at].log10())
    assert log.through_time[0, 1].isnan().all()
    assert log.layers[0].activation == "tanh"


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_recurrent_module_is_seen_at_its_inputs(kind: type, batch_first: bool) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = kind(5, 4, batch_first=batch_first), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            output, _ = self.rnn(x)
            return self.head(output[:, -1] if batch_first else output[-1])

    model = Network().double()
    x, y = normal(BATCH, 7, 5) if batch_first else normal(7, BATCH, 5), data()[1]
    seen = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(seen), y), seen)
    log = train(model, batch=(x, y)).log
    norms = gradient.movedim(1 if batch_first else 0, 0).flatten(1).norm(dim=1)
    torch.testing.assert_close(log.through_time[0, 0], norms.log10())
    assert log.times.tolist() == [7, 0]


def test_accumulated_passes_are_one_long_batch() -> None:
    x, y = data()
    whole = train(mlp(), batch=(x, y)).log
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with GradientMonitor(model) as monitor:
        for half in range(2):
            part = slice(half * BATCH // 2, (half + 1) * BATCH // 2)
            (functional.cross_entropy(model(x[part]), y[part]) / 2).backward()
        optimizer.step()
        monitor.step(whole.loss[0])
    log = monitor.log
    for name in ("delta_norms", "gradient_norms", "update_norms", "output_variance", "slope_mean"):
        torch.testing.assert_close(getattr(log, name), getattr(whole, name), equal_nan=True)
    assert log.layers[0].calls == 1


def test_clipping_does_not_hide_the_gradient() -> None:
    model = mlp()
    x, y = data()
    with GradientMonitor(model) as monitor:
        functional.cross_entropy(model(x), y).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        monitor.step(0.0)
    assert monitor.log.total_norm[0].item() == pytest.approx(norm.item())
    assert norm > 2e-3


def test_passes_without_gradients_are_not_looked_at() -> None:
    model = mlp()
    plain = train(copy.deepcopy(model)).log
    x, y = data()
    with GradientMonitor(model) as monitor:
        functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            model(100 * x)
        monitor.step(0.0)
    torch.testing.assert_close(monitor.log.output_variance, plain.output_variance)


@pytest.mark.breaks(
    "companion/monitor/_watch.py",
    "gradient.detach().double() if layer.in_float64 else wide(gradient)",
    "wide(gradient)",
)
@pytest.mark.breaks(
    "companion/monitor/_watch.py", "in_float64 = not 1e-30 < square < 1e30", "in_float64 = False"
)
@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py", "if not 1e-15 < norm < 1e15:", "if not norm < 1e15:"
)
@pytest.mark.parametrize("exponent", [-30, 25])
def test_gradients_whose_squares_float32_cannot_hold(exponent: int) -> None:
    model = mlp().float()
    x, y = data()
    with GradientMonitor(model, every=1) as monitor:
        for _ in range(2):
            model.zero_grad()
            (functional.cross_entropy(model(x.float()), y) * 10.0**exponent).backward()
            monitor.step(0.0)
    plain = train(mlp(), 1, batch=(x, y)).log
    for name in ("delta_norms", "gradient_norms"):
        found = getattr(monitor.log, name)[1] / 10.0**exponent
        torch.testing.assert_close(found, getattr(plain, name)[0], rtol=1e-4, atol=0)


def test_a_sample_can_be_read_again_and_leaves_the_layers_as_they_are() -> None:
    watch = train(mlp(nn.ReLU), every=2)._watch  # which listens no more
    layers = [repr(layer) for layer in watch.order]
    first = summarize(watch.ledger, watch.order, 1.0)
    assert repr(summarize(watch.ledger, watch.order, 1.0)) == repr(first)
    assert [repr(layer) for layer in watch.order] == layers
    assert list(first.delta_squares) == [2, 1, 0]
    assert set(first.silent) == {0, 1}


def test_what_is_not_finite_is_counted() -> None:
    model = mlp()
    x, y = data()
    x[0, 0] = math.nan
    log = train(model, batch=(x, y)).log
    assert log.non_finite[0] == sum(p.numel() for p in model.parameters())
    assert log.loss[0].isnan()
    assert log.total_norm[0].isnan()


def test_underflow_is_the_share_that_float16_flushes() -> None:
    weight = nn.Parameter(torch.zeros(8))
    model = nn.ParameterList([weight])
    gradient = torch.tensor([0.0, 0, 2.0**-25, -(2.0**-26), 2.0**-24, 1, 1, 1])
    flushed = ((gradient != 0) & (gradient.half() == 0)).sum() / (gradient != 0).sum()
    with GradientMonitor(model) as monitor:
        (weight @ gradient).backward()
        monitor.step(0.0)
    assert monitor.log.underflow[0].item() == pytest.approx(flushed.item())


def test_the_input_is_described() -> None:
    x, y = data()
    x = x * torch.tensor([1.0, 1, 100, 1, 1]) + 1e4
    x[:, 4] = 7
    log = train(mlp(), batch=(x, y)).log
    assert log.input_mean[0].item() == pytest.approx(x.mean().item())
    assert log.input_variance[0].item() == pytest.approx(x.var(correction=0).item())
    std = x[:, :4].std(0)
    assert log.input_spread[0].item() == pytest.approx((std.max() / std.min()).item())


def test_an_empty_batch_is_not_measured() -> None:
    model = mlp()
    with GradientMonitor(model) as monitor:
        model(normal(0, 5)).sum().backward()
        monitor.step(0.0)
    log = monitor.log
    assert log.output_mean.isnan().all()
    assert log.dead.isnan().all()
    assert log.delta_norms.tolist() == [[0, 0, 0]]


def test_records_do_not_hold_on_to_the_batch() -> None:
    model = mlp()
    kept = []
    model[0].register_forward_hook(lambda module, args, output: kept.append(weakref.ref(output)))
    monitor = train(model, 3)
    gc.collect()
    assert [reference() for reference in kept] == [None] * 3
    assert not monitor._watch.ledger._kept


class Attending(nn.Module):
    """Attention of torch: with packed weights, with separate ones, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.unused = nn.MultiheadAttention(4, 1)
        self.apart = nn.MultiheadAttention(6, 2, kdim=5, vdim=5, batch_first=True)
        self.begin, self.head = nn.Linear(1, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.begin(x.unsqueeze(-1))
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        given = x.unsqueeze(1)
        return self.head((tokens + self.apart(tokens, given, given)[0]).mean(1))


def attending() -> Attending:
    torch.manual_seed(3)
    return Attending().double()


ROWS = ["attention.in_proj_weight", "unused.in_proj_weight"]


@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py",
    "slice(k * width, (k + 1) * width)",
    "slice((2 - k) * width, (3 - k) * width)",
)
@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py",
    'for k, name in enumerate("qkv")',
    'for k, name in enumerate("kqv")',
)
@pytest.mark.parametrize("gradients_only", [False, True])
def test_queries_keys_and_values_that_are_packed_have_norms_of_their_own(
    gradients_only: bool,
) -> None:
    model, (x, y) = attending(), data()
    parts = [p.detach().requires_grad_() for p in model.attention.in_proj_weight.split(6)]
    packed = {"attention.in_proj_weight": torch.cat(parts)}
    loss = functional.cross_entropy(torch.func.functional_call(model, packed, (x,)), y)
    norms = torch.stack([g.norm() for g in torch.autograd.grad(loss, parts)])
    log = train(model, 2, gradients_only=gradients_only).log
    names = [name for name, _ in model.named_parameters()]
    assert list(log.parameters) == names + [f"{name}[{part}]" for name in ROWS for part in "qkv"]
    torch.testing.assert_close(log.gradient_norms[0, len(names) :][:3], norms)
    assert log.gradient_norms[:, -3:].isnan().all()  # it did not run
    whole = log.parameters.index("attention.in_proj_weight")
    torch.testing.assert_close(log.gradient_norms[0, whole], norms.norm())
    for column in (log.weight_norms, log.update_norms):
        assert column[:, len(names) :].isnan().all()
    assert repr(log).endswith(f"{len(names)} parameters)")


@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py", "math.hypot(*norms[:whole])", "math.hypot(*norms)"
)
@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py",
    "underflow(_by_shape(entries[:whole]))",
    "underflow(_by_shape(entries))",
)
@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py",
    "if k < whole and not math.isfinite(norms[k]):",
    "if not math.isfinite(norms[k]):",
    case="inf",
)
@pytest.mark.parametrize("scale", [1.0, 3e-6, math.inf])
def test_norms_of_parts_change_nothing_else(
    scale: float, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    def watched() -> Log:
        model, (x, y) = attending(), data()
        with GradientMonitor(model) as monitor:
            for _ in range(2):
                loss = scale * functional.cross_entropy(model(x), y)
                loss.backward()
                monitor.step(loss)
        return monitor.log

    log = watched()
    log.to_json(tmp_path / "run.json")
    read = Log.from_json(tmp_path / "run.json")
    monkeypatch.setattr(gradient_monitor, "_parts", lambda model: [])
    without = watched()
    for name, expected in vars(without).items():
        assert repr(getattr(read, name)) == repr(getattr(log, name))
        found = getattr(log, name)
        if name in ("gradient_norms", "weight_norms", "update_norms"):
            found = found[:, : len(without.parameters)]
        if isinstance(found, Tensor):
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        elif name != "parameters":
            assert found == expected
    assert log.parameters[: len(without.parameters)] == without.parameters
    assert len(log.parameters) == len(without.parameters) + 6
    assert repr(features.extract(log)) == repr(features.extract(without))
    assert repr(log) == repr(without)


def test_packed_weights_that_are_shared_have_parts_once() -> None:
    model = attending()
    model.unused = nn.MultiheadAttention(6, 2, dtype=torch.float64)
    model.unused.in_proj_weight = model.attention.in_proj_weight
    log = train(model).log
    assert [name for name in log.parameters if name.endswith("]")] == [
        f"{ROWS[0]}[{part}]" for part in "qkv"
    ]


@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py",
    "for own, parameter in module.named_parameters(recurse=False)\n"
    '        if own == "in_proj_weight"\n',
    "for parameter in [module.in_proj_weight]\n        if id(parameter) in index\n",
)
def test_a_packed_weight_that_is_computed_is_not_asked_for() -> None:
    """A spectral norm takes a step each time that it is, which would change the training."""
    model = attending()
    nn.utils.parametrizations.spectral_norm(model.attention, "in_proj_weight")
    plain, (x, y) = copy.deepcopy(model), data()
    log = train(model, 3).log
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(plain(x), y).backward()
        optimizer.step()
    parts = [name for name in log.parameters if name.endswith("]")]
    assert parts == [f"{ROWS[1]}[{part}]" for part in "qkv"]
    for ours, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.breaks("companion/monitor/log.py", '(("[q]", "[k]", "[v]"))', '("]")')
def test_a_parameter_may_be_called_as_if_it_were_a_part() -> None:
    model = nn.Sequential(nn.Linear(5, 3)).double()
    model[0].scales = nn.ParameterDict({"of[0]": torch.ones(3, dtype=torch.float64)})
    assert repr(train(model).log).endswith("3 parameters)")


@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py",
    "if not 1e-15 < norm < 1e15:",
    "if k < whole and not 1e-15 < norm < 1e15:",
)
def test_a_part_whose_squares_float32_cannot_hold() -> None:
    model, (x, y) = attending(), data()
    plain = train(copy.deepcopy(model)).log.gradient_norms[0]
    with GradientMonitor(model.float()) as monitor:
        (functional.cross_entropy(model(x.float()), y) * 1e-30).backward()
        monitor.step(0.0)
    found = monitor.log.gradient_norms[0] * 1e30
    names = monitor.log.parameters
    for part in "qkv":
        at = names.index(f"{ROWS[0]}[{part}]")
        assert found[at].item() == pytest.approx(plain[at].item(), rel=1e-3)


def test_gradients_only() -> None:
    log, whole = train(mlp(), 3, gradients_only=True).log, train(mlp(), 3).log
    torch.testing.assert_close(log.gradient_norms, whole.gradient_norms)
    torch.testing.assert_close(log.total_norm, whole.total_norm)
    assert [layer.name for layer in log.layers] == ["0", "2", "4"]
    assert log.delta_norms.isnan().all()


def test_a_log_can_be_asked_for_at_any_time(tmp_path: object) -> None:
    model = mlp()
    monitor = GradientMonitor(model, every=2)
    assert monitor.log.delta_norms.shape == (0, 0)
    with monitor:
        monitor.step(torch.tensor(3.0))
        monitor.step(2.0)
        assert monitor.log.loss.tolist() == [3, 2]
    monitor.to_json(tmp_path / "run.json")
    assert Log.from_json(tmp_path / "run.json").loss.tolist() == [3, 2]
    assert repr(monitor) == "GradientMonitor(Sequential, every=2, 2 steps, 1 sampled)"


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ("model", {}, TypeError, "must be an nn.Module, got str"),
        (nn.ReLU(), {}, ValueError, "needs parameters, but ReLU has none"),
        (nn.Linear(1, 1), {"every": 0}, ValueError, "every must be at least 1"),
        (nn.Linear(1, 1), {"every": 1.5}, TypeError, "every must be a whole number"),
    ],
)
def test_what_cannot_be_monitored(
    arguments: object, options: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        GradientMonitor(arguments, **options)


def test_a_loss_is_one_number() -> None:
    with GradientMonitor(mlp()) as monitor:
        with pytest.raises(ValueError, match=r"one number, got shape \(2,\)"):
            monitor.step(torch.zeros(2))
        with pytest.raises(TypeError, match="one number, got str"):
            monitor.step("low")


def test_the_plot_shows_depth_and_loss() -> None:
    figure = train(mlp(), 3).plot()
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    assert titles == ["gradient at each layer", "one step's update", "loss"]
    assert len(figure.axes[0].lines) == 2
    plt.close(figure)
    with pytest.raises(ValueError, match="needs a sampled step"):
        GradientMonitor(mlp()).plot()
