"""The range test against a loop by hand and a closed form, and the model that it puts back."""

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from helpers import normal, reproducible
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from companion import training
from companion.training import RangeTest, range_test

Batches = list[tuple[Tensor, Tensor]]


class Everything(nn.Module):
    """A bit of all that a reader's model may have."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.drop, self.frozen = nn.Dropout(0.3), nn.Linear(5, 5)
        self.tied, self.last = nn.Linear(5, 5), nn.Linear(5, 3)
        self.tied.weight = self.frozen.weight  # a parameter of two modules
        self.frozen.bias.requires_grad_(requires_grad=False)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("late", None)
        self.register_buffer("graph", torch.eye(5).to_sparse())
        self.register_buffer("strange", torch.tensor([math.nan, -0.0]), persistent=False)
        self.to(dtype)
        self.register_buffer("mask", torch.ones(1, dtype=dtype).expand(5))  # one number
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters()):
                parameter.copy_(0.5 * normal(*parameter.shape, seed=index))
            self.last.bias[0] = -0.0

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1  # another tensor each time
        self.late = self.seen
        self.strange.zero_()
        self.graph.mul_(1.125)
        x = self.drop(torch.relu(self.norm(self.first(x)))) * self.mask
        x = (self.graph @ x.mT).mT
        return self.last(torch.tanh(self.tied(torch.relu(self.frozen(x)))))


def used(dtype: torch.dtype = torch.float64) -> Everything:
    """Such a model in the midst of its life: with gradients, running statistics, a part in eval."""
    model = Everything(dtype)
    model(normal(6, 4).to(dtype)).square().sum().backward()
    model.first.bias.grad = None
    model.eval()
    model.last.train()
    model.frozen.weight.grad[0, 0] = math.nan
    return model


def data(count: int = 3, dtype: torch.dtype = torch.float64) -> Batches:
    return [(normal(6, 4, seed=i).to(dtype), torch.arange(6) % 3) for i in range(count)]


def bits(tensor: Tensor | None) -> object:
    """What tells two tensors apart to the last bit, 0 from −0 and one nan from another."""
    if tensor is None:
        return None
    return tensor.dtype, tensor.shape, tensor.detach().to_dense().numpy().tobytes()


def state(model: nn.Module) -> list[object]:
    """All that is to be put back, with the tensors themselves by their addresses."""
    found: list[object] = [bits(torch.get_rng_state())]
    for module in model.modules():
        found.append(module.training)
        for name, each in [*module._parameters.items(), *module._buffers.items()]:
            learns = None if each is None else each.requires_grad
            found += [name, id(each), learns, bits(each)]
            if isinstance(each, nn.Parameter):
                found += [id(each.grad), bits(each.grad)]
    return found


def by_hand(
    model: nn.Module, batches: Batches, make: Callable, rates: list[float], **options: float
) -> list[float]:
    """The losses of a loop as one writes it, of a copy."""
    model = copy.deepcopy(model).train()
    learning = [each for each in model.parameters() if each.requires_grad]
    optimizer, losses = make(learning, lr=123.0, **options), []
    for t, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, y = batches[t % len(batches)]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# ---------------------------------------------------------------- rates and losses


@pytest.mark.breaks("companion/training/finder.py", "t / max(1, steps - 1)", "t / steps")
@pytest.mark.breaks("companion/training/finder.py", "t / max(1, steps - 1)", "(t + 1) / steps")
@pytest.mark.breaks(
    "companion/training/finder.py",
    "low ** (1 - share) * high**share for",
    "low + share * (high - low) for",
)
@pytest.mark.parametrize("ends", [(1e-5, 10.0), (1e-3, 0.7), (1 / 3, 1e3 / 7)])
@pytest.mark.parametrize("steps", [2, 3, 50])
def test_rates_rise_by_one_factor_from_the_lowest_to_the_highest(
    ends: tuple[float, float], steps: int
) -> None:
    line, x = nn.Linear(1, 1, bias=False).double(), torch.zeros(1, 1, dtype=torch.float64)
    found = range_test(
        line, [(x, x)], optimizer=training.sgd(1.0), loss=nn.functional.mse_loss,
        lowest=ends[0], highest=ends[1], steps=steps, progress=False,
    )  # fmt: skip
    rates = found.learning_rates
    assert rates.dtype == found.loss.dtype == torch.float64
    assert rates.shape == found.loss.shape == (steps,)
    assert (rates[0].item(), rates[-1].item()) == ends  # to the last bit
    factor = (ends[1] / ends[0]) ** (1 / (steps - 1))
    assert (rates[1:] / rates[:-1]).tolist() == pytest.approx([factor] * (steps - 1), rel=1e-12)
    assert found.broke_at is None


def test_a_single_update_has_the_lowest_rate() -> None:
    found = range_test(used(), data(), optimizer=training.sgd(1.0), steps=1, progress=False)
    assert found.learning_rates.tolist() == [1e-5]


@pytest.mark.breaks("companion/training/finder.py", "model.train()\n", "pass\n", case="sgd-dtype0")
@pytest.mark.breaks("companion/training/finder.py", "model.zero_grad()", "pass", case="sgd-dtype0")
@pytest.mark.breaks(
    "companion/training/finder.py",
    "            losses.append(value.item())\n",
    "            losses.append(loss(model(x), y).item())\n",
    case="sgd-dtype0",
)
@pytest.mark.breaks(
    "companion/training/finder.py",
    "rates.__getitem__)",
    "lambda t: rates[max(t - 1, 0)])",
    case="sgd-dtype0",
)
@pytest.mark.breaks(
    "companion/training/finder.py",
    "rates.__getitem__)",
    "lambda t: rates[min(t + 1, 29)])",
    case="sgd-dtype0",
)
@pytest.mark.breaks(
    "companion/training/finder.py",
    'float(group["lr"] / largest)',
    'float(group["lr"])',
    case="adam-dtype0",
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        (torch.optim.Adam, {}),
        (torch.optim.AdamW, {"weight_decay": 0.5}),
    ],
    ids=["sgd", "momentum", "adam", "adamw"],
)
def test_it_is_a_loop_by_hand_to_the_last_bit(
    make: Callable, options: dict[str, float], dtype: torch.dtype
) -> None:
    model, batches = used(dtype), data(dtype=dtype)
    generator = torch.get_rng_state()
    found = range_test(
        model, batches, optimizer=lambda p: make(p, lr=0.37, **options),
        lowest=1e-3, highest=1.0, steps=30, progress=False,
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), generator)  # so that dropout draws the same
    expected = by_hand(model, batches, make, found.learning_rates.tolist(), **options)
    assert found.loss.tolist() == expected
    assert len(set(expected)) > 5  # bfloat16 has few numbers


def quadratic(curvature: float, **options: object) -> RangeTest:
    """The test on h·w²/2, from w = 1."""
    line = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(line.weight)
    x = torch.full((2, 1), math.sqrt(curvature / 2), dtype=torch.float64)
    settings = {"lowest": 1e-3, "highest": 10.0, "steps": 81} | options
    loss = nn.functional.mse_loss
    optimizer = training.sgd(0.1)
    return range_test(
        line, [(x, 0 * x)], optimizer=optimizer, loss=loss, progress=False, **settings
    )


@pytest.mark.breaks(
    "companion/training/finder.py",
    "            losses.append(value.item())\n            if not math.isfinite(losses[-1]):\n"
    "                break\n            value.backward()\n            update.step()\n",
    "            value.backward()\n            update.step()\n"
    "            losses.append(loss(model(x), y).item())\n",
)
@reproducible
@given(st.floats(0.3, 100))
def test_the_loss_of_a_quadratic_is_the_closed_form_and_rises_past_its_edge(h: float) -> None:
    found = quadratic(h)
    rates = found.learning_rates
    assume((1 - rates * h).abs().min() > 1e-6)  # at 1/h nothing but rounding is left of the loss
    factors = (1 - rates * h).square()
    expected = torch.cat([torch.ones(1), factors[:-1].cumprod(0)]) * h / 2
    torch.testing.assert_close(found.loss, expected, rtol=1e-7, atol=0)
    edge = training.edge("gradient_descent") / h
    away = (rates / edge - 1).abs() > 1e-9
    grows = found.loss[1:] > found.loss[:-1]
    assert torch.equal(grows[away[:-1]], (rates > edge)[:-1][away[:-1]])
    assert found.rate_at_lowest(beta=0) == rates[rates > edge][0].item()


@pytest.mark.breaks("companion/training/finder.py", 'float(group["lr"] / largest)', "1.0")
@pytest.mark.breaks(
    "companion/training/finder.py", 'largest = max(group["lr"]', 'largest = min(group["lr"]'
)
def test_groups_keep_the_ratios_of_their_rates() -> None:
    model, batches = used(), data()

    def groups(model: Everything) -> list[dict]:
        rest = [each for name, each in model.named_parameters() if "last" not in name]
        return [{"params": rest, "lr": 0.02}, {"params": model.last.parameters(), "lr": 0.08}]

    found = range_test(
        model, batches, optimizer=lambda _: torch.optim.SGD(groups(model)), lowest=0.01,
        highest=0.5, steps=9, progress=False,
    )  # fmt: skip
    other, losses = copy.deepcopy(model).train(), []
    optimizer = torch.optim.SGD(groups(other))
    for rate, (x, y) in zip(found.learning_rates.tolist(), 3 * batches, strict=True):
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = 0.25 * rate, rate
        optimizer.zero_grad()
        losses.append(nn.functional.cross_entropy(other(x), y))
        losses[-1].backward()
        optimizer.step()
    assert found.loss.tolist() == [each.item() for each in losses]


# ---------------------------------------------------------------- where the loss leaves the numbers


@pytest.mark.breaks(
    "companion/training/finder.py", "if not math.isfinite(losses[-1]):", "if False:"
)
@pytest.mark.breaks(
    "companion/training/finder.py",
    "self.learning_rates[-2].item()",
    "self.learning_rates[-1].item()",
)
@pytest.mark.breaks("companion/training/finder.py", "[self.loss.isfinite()]", "")
@pytest.mark.parametrize("bad", [math.inf, math.nan, -math.inf])
def test_it_ends_at_a_loss_that_is_not_finite(bad: float) -> None:
    model, calls = used(), []
    before = state(model)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(nn.functional.cross_entropy(outputs, targets))
        return calls[-1] if len(calls) < 8 else calls[-1] * bad

    found = range_test(
        model, data(), optimizer=torch.optim.Adam, loss=loss, lowest=1e-4, steps=20,
        progress=False,
    )  # fmt: skip
    assert len(calls) == len(found.loss) == len(found.learning_rates) == 8
    assert found.loss[:-1].tolist() == [each.item() for each in calls[:-1]]
    assert str(found.loss[-1].item()) == str(bad)
    assert found.broke_at == found.learning_rates[6].item()
    assert found.learning_rates[7] == pytest.approx(1e-4 * 1e5 ** (7 / 19))
    lowest = found.loss[:-1].argmin()
    assert found.rate_at_lowest(beta=0) == found.learning_rates[lowest].item()
    assert found.smoothed()[:-1].isfinite().all()
    assert not found.smoothed()[-1].isfinite()
    assert state(model) == before


def test_a_descent_that_goes_past_the_edge_leaves_the_numbers() -> None:
    found = quadratic(1e4, highest=1e6, steps=91)
    assert found.loss[-1] == math.inf
    assert found.loss[:-1].isfinite().all()
    assert len(found.loss) < 91
    past = found.learning_rates.tolist().index(found.broke_at)
    assert past == len(found.loss) - 2
    assert found.rate_at_lowest() < found.broke_at


@pytest.mark.breaks("companion/training/finder.py", "if not math.isfinite(losses[0]):", "if False:")
def test_a_loss_that_is_not_finite_before_any_update_is_no_test() -> None:
    model = used()
    before = state(model)
    with pytest.raises(ValueError, match="finite before the first update, got nan"):
        range_test(
            model, [(math.nan * x, y) for x, y in data()], optimizer=torch.optim.SGD,
            progress=False,
        )  # fmt: skip
    assert state(model) == before


# ---------------------------------------------------------------- the model is put back


@pytest.mark.breaks("companion/_lib/restoring.py", "tensor.copy_(value)", "pass", case="nothing")
@pytest.mark.breaks(
    "companion/_lib/restoring.py",
    "[*model.parameters(), *model.buffers()]",
    "[*model.parameters()]",
    case="nothing",
)
@pytest.mark.breaks(
    "companion/_lib/restoring.py",
    "tensor.copy_(value)",
    "tensor.add_(value - tensor)",
    case="nothing",
)
@pytest.mark.breaks(
    "companion/_lib/restoring.py", "module.training = training", "pass", case="nothing"
)
@pytest.mark.breaks(
    "companion/_lib/restoring.py", "module.training = training", "model.eval()", case="nothing"
)
@pytest.mark.breaks(
    "companion/_lib/restoring.py", "setattr(module, name, buffer)", "pass", case="nothing"
)
@pytest.mark.breaks(
    "companion/_lib/restoring.py",
    "dict(module._buffers)",
    "dict(module.named_buffers(recurse=False))",
    case="nothing",
)
@pytest.mark.breaks(
    "companion/_lib/restoring.py",
    "requires_grad_(learns).grad = gradient",
    "requires_grad_(learns)",
    case="nothing",
)
@pytest.mark.breaks(
    "companion/_lib/restoring.py",
    "requires_grad_(learns).grad = gradient",
    "grad = gradient",
    case="it unfreezes",
)
@pytest.mark.breaks(
    "companion/_lib/restoring.py",
    "torch.random.fork_rng(devices=sorted(devices))",
    "torch.enable_grad()",
    case="nothing",
)
@pytest.mark.breaks(
    "companion/_lib/restoring.py", "if tensor.layout != torch.strided:", "if False:", case="nothing"
)
@pytest.mark.breaks("companion/_lib/restoring.py", "n > 1 and step == 0", "False", case="nothing")
@pytest.mark.breaks(
    "companion/_lib/restoring.py", "n > 1 and step == 0", "step == 0", case="a flat one"
)
@pytest.mark.parametrize(
    "what",
    ["nothing", "the loss", "the model", "the optimizer", "a batch", "it unfreezes", "a flat one"],
)
def test_the_model_is_put_back_to_the_last_bit(what: str) -> None:
    model, calls = used(), []
    if what == "a flat one":  # of one entry, whose step in memory does not matter
        model.strange = torch.full((1, 1), -0.5).as_strided((1, 1), (0, 0))
    before = state(model)

    def fails(*_: object) -> None:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt("stop")

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if what == "it unfreezes":
            model.requires_grad_(requires_grad=True)
        if what == "the loss":
            fails()
        return nn.functional.cross_entropy(outputs, targets)

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made = torch.optim.SGD(parameters, lr=1.0)
        if what == "the optimizer":
            made.register_step_post_hook(fails)
        return made

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in 4 * data():
            if what == "a batch":
                fails()
            yield x, y

    handle = model.tied.register_forward_hook(fails) if what == "the model" else None
    settings = {"optimizer": optimizer, "loss": loss, "lowest": 0.1, "steps": 12}
    if what in ("nothing", "it unfreezes", "a flat one"):
        range_test(model, batches(), progress=False, **settings)
    else:
        with pytest.raises(KeyboardInterrupt, match="stop"):
            range_test(model, batches(), progress=False, **settings)
        assert len(calls) == 7
    if handle is not None:
        handle.remove()
    assert state(model) == before


def test_the_state_that_is_compared_sees_a_bit() -> None:
    model = used()
    before = state(model)
    with torch.no_grad():
        model.last.bias[0] = 0.0  # it was −0
    assert state(model) != before


@pytest.mark.breaks("companion/training/finder.py", "if parameter.requires_grad]", "]")
def test_the_optimizer_gets_what_learns_and_each_once() -> None:
    model, got = used(), []
    learning = [each for each in model.parameters() if each.requires_grad]

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        got.extend(parameters)
        return torch.optim.Adam(parameters)

    range_test(model, data(), optimizer=optimizer, steps=2, progress=False)
    assert [id(each) for each in got] == [id(each) for each in learning]


# ---------------------------------------------------------------- batches


@pytest.mark.breaks(
    "companion/training/finder.py",
    'zip(bar(rates, "range test", show=progress), _endless(batches))',
    "list(zip(_endless(batches), rates))",
)
def test_batches_are_taken_in_turn_and_no_more_than_are_needed() -> None:
    given, seen = [], []

    class Loader:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for batch in data(4):
                given.append(batch)
                yield batch

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        assert outputs.requires_grad
        seen.append(targets)
        return nn.functional.cross_entropy(outputs, targets)

    range_test(used(), Loader(), optimizer=torch.optim.SGD, loss=loss, steps=10, progress=False)
    assert len(given) == 10
    assert [id(y) for y in seen] == [id(y) for _, y in given]


def test_a_loader_that_shuffles_draws_as_if_nothing_had_been() -> None:
    inputs, targets = normal(24, 4), torch.arange(24) % 3
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=6, shuffle=True)
    model = used()
    state = torch.get_rng_state()
    first = [range_test(model, loader, optimizer=torch.optim.Adam, steps=9, progress=False)
             for _ in range(2)]  # fmt: skip
    assert torch.equal(first[0].loss, first[1].loss)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.breaks(
    "companion/training/finder.py",
    "        if count == before:\n",
    "        if count == 0:\n",
    case="4",
)
@pytest.mark.timeout(20)
@pytest.mark.parametrize("count", [0, 4])
def test_batches_that_cannot_be_begun_again(count: int) -> None:
    model = used()
    before = state(model)
    with pytest.raises(ValueError, match=rf"batches must give some each .* got {count} and then"):
        range_test(model, iter(data(count)), optimizer=torch.optim.SGD, steps=5, progress=False)
    assert state(model) == before
    if count:  # as long as they last
        range_test(model, iter(data(count)), optimizer=torch.optim.SGD, steps=4, progress=False)


@pytest.mark.breaks(
    "companion/training/finder.py", "each.to(device) if isinstance(each, Tensor) else each", "each"
)
@pytest.mark.breaks(
    "companion/training/finder.py", "if len(devices) == 1 else None", "if devices else None"
)
def test_batches_are_moved_to_the_one_device_of_the_model() -> None:
    seen = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append((outputs.device.type, targets.device.type))
        return torch.ones((), requires_grad=True)

    class Second(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.here, self.there = nn.Linear(4, 3), nn.Linear(3, 3, device="meta")

        def forward(self, x: Tensor) -> Tensor:
            assert x.device.type == "cpu"
            return self.there(self.here(x).to("meta"))

    for model in (nn.Linear(4, 3, device="meta"), Second()):
        range_test(
            model, [(normal(6, 4).float(), torch.arange(6))], optimizer=torch.optim.SGD, loss=loss,
            steps=2, progress=False,
        )  # fmt: skip
    assert seen == [("meta", "meta")] * 2 + [("meta", "cpu")] * 2


def test_inputs_may_be_what_the_model_takes() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3).double()

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.layer(inputs["a"] + inputs["b"])

    batches = [({"a": x, "b": x}, y) for x, y in data()]
    found = range_test(Sum(), batches, optimizer=torch.optim.SGD, steps=5, progress=False)
    assert len(found.loss) == 5


# ---------------------------------------------------------------- smoothing


@pytest.mark.breaks(
    "companion/training/finder.py",
    "beta * mean + (1 - beta) * loss",
    "(1 - beta) * mean + beta * loss",
)
@pytest.mark.breaks("companion/training/finder.py", "mean / (1 - beta**t)", "mean")
@pytest.mark.breaks(
    "companion/training/finder.py", "(self.loss.tolist(), 1)", "(self.loss.tolist(), 2)"
)
@reproducible
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(0, 0.999))
def test_the_smoothed_loss_is_a_mean_with_weights(losses: list[float], beta: float) -> None:
    found = RangeTest(torch.arange(1.0, len(losses) + 1), torch.tensor(losses, dtype=torch.float64))
    expected = []
    for t in range(1, len(losses) + 1):
        weights = [beta ** (t - 1 - s) for s in range(t)]
        total = math.fsum(w * each for w, each in zip(weights, losses[:t], strict=True))
        expected.append(total / math.fsum(weights))
    smoothed = found.smoothed(beta=beta)
    assert smoothed.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found.smoothed(beta=0).tolist() == losses
    assert found.rate_at_lowest(beta=beta) == smoothed.argmin() + 1


@pytest.mark.breaks(
    "companion/training/finder.py",
    "def smoothed(self, *, beta: float = 0.98)",
    "def smoothed(self, *, beta: float = 0.9)",
)
@pytest.mark.breaks(
    "companion/training/finder.py",
    "def rate_at_lowest(self, *, beta: float = 0.98)",
    "def rate_at_lowest(self, *, beta: float = 0.0)",
)
def test_it_is_smoothed_as_fastai_does_by_default() -> None:
    found = quadratic(3.0)
    assert torch.equal(found.smoothed(), found.smoothed(beta=0.98))
    assert found.rate_at_lowest() == found.rate_at_lowest(beta=0.98)
    assert found.rate_at_lowest() != found.rate_at_lowest(beta=0)


@pytest.mark.breaks(
    "companion/training/finder.py", 'if non_negative("beta", beta) >= 1:', "if False:"
)
@pytest.mark.parametrize("beta", [-0.1, 1, 1.5, math.nan, math.inf, "a", None, True])
def test_beta_is_from_0_to_below_1(beta: object) -> None:
    found = quadratic(3.0)
    for method in (found.smoothed, found.rate_at_lowest):
        with pytest.raises((TypeError, ValueError), match="beta must be"):
            method(beta=beta)


# ---------------------------------------------------------------- what is refused


def refused(error: type[Exception], match: str, **options: object) -> None:
    """It is refused, and nothing is changed."""
    model = used()
    before = state(model)
    settings = {"model": model, "batches": data(), "optimizer": training.sgd(1.0)} | options
    with pytest.raises(error, match=match):
        range_test(**settings, progress=False)
    assert state(model) == before


@pytest.mark.breaks(
    "companion/training/finder.py", "if not 0 < low < high:", "if not 0 <= low < high:"
)
@pytest.mark.breaks(
    "companion/training/finder.py", "if not 0 < low < high:", "if not 0 < low <= high:"
)
@reproducible
@given(st.floats(max_value=0), st.floats(1e-9, 1e9), st.floats(0, 1))
def test_rates_rise_from_above_0(below: float, rate: float, share: float) -> None:
    refused((TypeError, ValueError), "lowest must be", lowest=below)
    refused(ValueError, "lowest must be above 0", lowest=0.0)
    refused(ValueError, "below highest, got", lowest=rate, highest=rate)
    refused(ValueError, "below highest, got", lowest=rate, highest=rate * share)


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None, True])
def test_rates_are_numbers(value: object) -> None:
    refused((TypeError, ValueError), "lowest must be", lowest=value)
    refused((TypeError, ValueError), "highest must be", highest=value)


@reproducible
@given(st.one_of(st.floats(), st.sampled_from(["", None, True, ()]), st.integers(max_value=0)))
def test_steps_are_counted(value: object) -> None:
    refused((TypeError, ValueError), "^steps must be", steps=value)


@pytest.mark.parametrize("model", [[nn.Linear(4, 3)], None, nn.Linear])
def test_the_model_is_a_module(model: object) -> None:
    refused(TypeError, "model must be an nn.Module, got (list|NoneType|type)$", model=model)


@pytest.mark.parametrize("batch", [normal(2, 4), {"x": 1, "y": 2}, (1, 2, 3), [1], 3, "ab"])
def test_a_batch_is_a_pair(batch: object) -> None:
    refused(TypeError, r"batches must give \(inputs, targets\), got", batches=[batch])


def test_one_batch_is_no_list_of_them() -> None:
    refused(TypeError, "batches must give .* got Tensor", batches=data()[0])


@pytest.mark.breaks("companion/training/finder.py", "if largest <= 0:", "if largest < 0:")
@pytest.mark.breaks(
    "companion/training/finder.py",
    "optimizer(parameters) if callable(optimizer) else None",
    "optimizer",
)
def test_the_optimizer_is_made_here() -> None:
    given = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    refused(TypeError, "optimizer must make .* got .*SGD", optimizer=given)
    refused(TypeError, "optimizer must make .* got sgd", optimizer=training.sgd)
    refused(TypeError, "optimizer must make .* got .*float", optimizer=0.1)
    refused(ValueError, "must have a rate above 0, got 0.0", optimizer=training.sgd(0.0))
    own = training.adam_with_warmup(0.1, 5)
    refused(ValueError, "must leave its rate to the schedule", optimizer=own)


def test_torch_says_that_nothing_learns() -> None:
    model = nn.Linear(4, 3).double().requires_grad_(requires_grad=False)
    refused(ValueError, "empty parameter list", model=model)
