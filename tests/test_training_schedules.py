"""Optimizers with a rate for each network, and rates that follow a schedule, against torch's."""

import math
from collections.abc import Callable, Iterable

import pytest
import torch
from helpers import normal, reproducible
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import lr_scheduler

from companion import training
from companion.data import Split
from companion.training import adam, adam_with_warmup, rated, rmsprop, scheduled, sgd, train

STEPS = 6
Made = Callable[[Iterable], torch.optim.Optimizer]


def data() -> Split:
    x = normal(30, 4)
    return Split(x, torch.arange(30) % 3, x[:0], torch.arange(0))


def network(seed: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=10 * seed + index))
    return model


def trained(optimizer: Made, seeds: Iterable[int]) -> list[Tensor]:
    """The parameters of each network after training, as one vector."""
    models = [network(seed) for seed in seeds]
    train(models, data(), optimizer=optimizer, steps=STEPS, batch_size=None, progress=False)
    return [nn.utils.parameters_to_vector(model.parameters()).detach() for model in models]


def moves(make: Made, gradients: Tensor) -> list[float]:
    """How far one weight is moved by each update, for the gradients that it gets."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    update, found = make([weight]), []
    for gradient in gradients:
        before = weight.item()
        weight.grad = gradient.view(1)
        update.step()
        found.append(before - weight.item())
    return found


# ---------------------------------------------------------------- a rate for each network


@pytest.mark.breaks(
    "companion/training/optimizers.py", "torch.lerp(start, parameter, share)", "parameter"
)
@pytest.mark.breaks(
    "companion/training/optimizers.py",
    "share = shares.to(parameter.dtype).view(-1, *[1] * (parameter.dim() - 1))",
    "share = shares.to(parameter.dtype)[0]",
)
@pytest.mark.breaks(
    "companion/training/optimizers.py",
    "kind(parameters, lr=largest, **options)",
    "kind(parameters, lr=1.0, **options)",
)
@pytest.mark.breaks(
    "companion/training/optimizers.py",
    "[parameter.detach().clone() for parameter in parameters]",
    "[torch.zeros_like(parameter) for parameter in parameters]",
)
@pytest.mark.parametrize(
    "make",
    [
        lambda rate: adam(rate, betas=(0.7, 0.9), eps=0.1),
        lambda rate: rmsprop(rate, alpha=0.8, eps=0.1),
        lambda rate: rated(torch.optim.AdamW, rate, weight_decay=0.5),
        lambda rate: rated(torch.optim.SGD, rate, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda rate: scheduled(adam(rate), training.warmup(4)),
        lambda rate: scheduled(sgd(rate, momentum=0.9), training.step_decay(2, 0.3)),
    ],
    ids=["adam", "rmsprop", "adamw", "nesterov", "warmup", "decay"],
)
def test_each_network_may_have_its_own_learning_rate(make: Callable[..., Made]) -> None:
    rates = [0.03, 0.3, 0.0, 0.001]
    together = trained(make(rates), range(4))
    for seed, (rate, found) in enumerate(zip(rates, together, strict=True)):
        (alone,) = trained(make(rate), [seed])
        torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-13)
    # The largest rate is torch's own update, and of none nothing moves: to the last bit.
    start = nn.utils.parameters_to_vector(network(2).parameters())
    assert torch.equal(together[2], start)


def test_the_largest_rate_is_torchs_own_update_to_the_last_bit() -> None:
    weights = [nn.Parameter(normal(2, 3, seed=3)), nn.Parameter(normal(1, 3, seed=3)[:1])]
    with torch.no_grad():
        weights[1].copy_(weights[0][:1])
    updates = adam([0.3, 0.01])(weights[:1]), torch.optim.Adam(weights[1:], lr=0.3)
    for step in range(5):
        gradient = normal(2, 3, seed=20 + step)
        weights[0].grad, weights[1].grad = gradient, gradient[:1].clone()
        for update in updates:
            update.step()
    assert torch.equal(weights[0][:1], weights[1])
    stays = nn.Parameter(torch.ones(2, 1))
    update = adam([0.0, 0.0])([stays])
    stays.grad = torch.ones(2, 1)
    update.step()
    assert stays.flatten().tolist() == [1, 1]


@pytest.mark.breaks("companion/training/optimizers.py", "betas=betas, eps=eps", "betas=betas")
@pytest.mark.breaks("companion/training/optimizers.py", "betas=betas, eps=eps", "eps=eps")
@pytest.mark.breaks("companion/training/optimizers.py", "alpha=alpha, eps=eps", "alpha=alpha")
@pytest.mark.breaks("companion/training/optimizers.py", "alpha=alpha, eps=eps", "eps=eps")
def test_the_options_are_torchs_by_name() -> None:
    weight = [nn.Parameter(torch.zeros(1))]
    for made, kind, options in [
        (adam(0.2), torch.optim.Adam, {"lr": 0.2, "betas": (0.9, 0.999), "eps": 1e-8}),
        (adam(0.2, betas=(0.5, 0.6), eps=1e-3), torch.optim.Adam,
         {"betas": (0.5, 0.6), "eps": 1e-3, "weight_decay": 0}),
        (rmsprop(0.2), torch.optim.RMSprop,
         {"lr": 0.2, "alpha": 0.99, "eps": 1e-8, "momentum": 0, "centered": False}),
        (rmsprop(0.2, alpha=0.5, eps=1e-3), torch.optim.RMSprop, {"alpha": 0.5, "eps": 1e-3}),
    ]:  # fmt: skip
        optimizer = made(weight)
        assert type(optimizer) is kind
        assert options.items() <= optimizer.param_groups[0].items()


def test_torchs_own_schedulers_take_what_is_made() -> None:
    weight = nn.Parameter(torch.zeros(2, 1))
    update = scheduled(adam([0.1, 0.2]), lambda t: 1.0)([weight])
    other = lr_scheduler.StepLR(adam([0.1, 0.2])([weight]), 1, 0.5)
    weight.grad = torch.ones(2, 1)
    update.step()
    other.optimizer.step()
    other.step()
    assert other.get_last_lr() == [0.1]
    assert weight.flatten().tolist() == pytest.approx([-0.2, -0.4])


@pytest.mark.parametrize("make", [adam, rmsprop, lambda r: rated(torch.optim.AdamW, r)])
@pytest.mark.parametrize("rates", [[0.1], [0.1, -1.0], [0.1, math.nan], [0.1, 0.2, 0.3]])
def test_a_rate_for_each_network_or_one_for_all(
    make: Callable[..., Made], rates: list[float]
) -> None:
    with pytest.raises(ValueError, match=r"learning_rate must be .* each of 2 models, got \[0.1"):
        make(rates)([nn.Parameter(torch.zeros(2, 3))])
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        make(-1.0)([nn.Parameter(torch.zeros(2, 3))])


# ---------------------------------------------------------------- schedules


def factors(schedule: Callable[[int], float], count: int) -> list[float]:
    return [schedule(t) for t in range(count)]


def torchs(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], count: int) -> list:
    """The factors of torch's scheduler, which is stepped after each update."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def linear(steps: int) -> Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]:
    return lambda o: lr_scheduler.LinearLR(o, start_factor=1 / steps, total_iters=steps - 1)


@pytest.mark.breaks(
    "companion/training/schedules.py", "min(1.0, (t + 1) / count)", "(t + 1) / count"
)
@pytest.mark.breaks(
    "companion/training/schedules.py", "min(1.0, (t + 1) / count)", "min(1.0, t / count)"
)
@pytest.mark.parametrize("steps", [2, 3, 10])
def test_warmup_is_torchs_linear_one(steps: int) -> None:
    expected = torchs(linear(steps), steps + 5)
    assert factors(training.warmup(steps), steps + 5) == pytest.approx(expected, rel=1e-12)
    assert factors(training.warmup(1), 3) == [1, 1, 1]


@pytest.mark.breaks(
    "companion/training/schedules.py", "(t - rising) / (total - rising)", "(t - rising) / total"
)
@pytest.mark.breaks(
    "companion/training/schedules.py",
    "(t - rising) / (total - rising)",
    "(t - rising) / (total - 1 - rising)",
)
@pytest.mark.breaks(
    "companion/training/schedules.py", "(t - rising) / (total - rising)", "t / total"
)
@pytest.mark.breaks(
    "companion/training/schedules.py", "return (t + 1) / rising", "return t / rising"
)
@pytest.mark.parametrize(("steps", "warmup"), [(10, 0), (1, 0), (12, 4), (9, 8), (5, 2)])
def test_cosine_is_torchs_after_its_warmup(steps: int, warmup: int) -> None:
    def make(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        falling = lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup)
        if warmup == 0:
            return falling
        rising = linear(warmup)(optimizer)
        return lr_scheduler.SequentialLR(optimizer, [rising, falling], milestones=[warmup])

    schedule = training.cosine(steps, warmup=warmup)
    expected = torchs(make, steps + 1)
    assert factors(schedule, steps + 1) == pytest.approx(expected, abs=1e-12)
    assert schedule(steps - 1) > 0
    assert schedule(steps) == schedule(steps + 7) == 0


@pytest.mark.breaks("companion/training/schedules.py", "t // count", "(t + 1) // count")
@pytest.mark.breaks(
    "companion/training/schedules.py", "share ** (t // count)", "share ** (t / count)"
)
@pytest.mark.parametrize(("every", "factor"), [(1, 0.5), (3, 0.1), (4, 2.0)])
def test_step_decay_is_torchs(every: int, factor: float) -> None:
    expected = torchs(lambda o: lr_scheduler.StepLR(o, every, factor), 13)
    assert factors(training.step_decay(every, factor), 13) == pytest.approx(expected, rel=1e-12)


@pytest.mark.breaks(
    "companion/training/schedules.py", "plain, taken = made.step, 0", "plain, taken = made.step, 1"
)
@pytest.mark.breaks(
    "companion/training/schedules.py",
    "now = [rate * factor for rate in rates]",
    "now = [group['lr'] * factor for group in self.param_groups]",
)
def test_the_rate_of_update_t_is_what_the_schedule_says() -> None:
    gradients = normal(9, seed=4)
    own = scheduled(adam(0.1), training.warmup(4))
    assert moves(own, gradients) == moves(adam_with_warmup(0.1, 4), gradients)  # to the last bit
    # Each optimizer counts for itself, and each group has its own rate.
    assert moves(own, gradients) == moves(own, gradients)
    plain = scheduled(sgd(0.5), lambda t: t + 1.0)
    assert moves(plain, gradients) == pytest.approx(
        [0.5 * (t + 1) * g for t, g in enumerate(gradients.tolist())]
    )
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": weights[:1], "lr": 1.0}, {"params": weights[1:], "lr": 2.0}]
    update = scheduled(lambda p: torch.optim.SGD(p, lr=1.0), lambda t: 0.5)(groups)
    weights[0].grad, weights[1].grad = torch.ones(1), torch.ones(1)
    update.step()
    assert [weight.item() for weight in weights] == [-0.5, -1.0]


def test_schedules_multiply() -> None:
    gradients = torch.ones(5, dtype=torch.float64)
    product = lambda t: training.warmup(2)(t) * training.step_decay(2, 0.5)(t)  # noqa: E731
    assert moves(scheduled(sgd(1.0), product), gradients) == [0.5, 1, 0.5, 0.5, 0.25]


@pytest.mark.breaks(
    "companion/training/schedules.py",
    'if [group["lr"] for group in self.param_groups] != now:',
    "if False:",
)
def test_an_optimizer_that_sets_its_rate_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="must leave its rate to the schedule, but it set it"):
        moves(scheduled(adam_with_warmup(0.1, 4), training.cosine(9)), normal(9))


# ---------------------------------------------------------------- what is refused

not_counts = st.one_of(
    st.floats(), st.sampled_from(["", "3", None, True, ()]), st.integers(max_value=0)
)


@reproducible
@given(not_counts)
def test_numbers_of_updates_are_whole_and_positive(value: object) -> None:
    for name, make in [
        ("steps", training.warmup),
        ("steps", training.cosine),
        ("every", lambda each: training.step_decay(each, 0.5)),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
            make(value)


@pytest.mark.parametrize("warmup", [5, 9, -1, 1.5])
def test_a_warmup_leaves_steps(warmup: float) -> None:
    with pytest.raises((TypeError, ValueError), match="warmup must be"):
        training.cosine(5, warmup=warmup)


@pytest.mark.parametrize("factor", [-0.1, math.nan, math.inf, "a", None])
def test_factors_are_numbers(factor: object) -> None:
    with pytest.raises((TypeError, ValueError), match="factor must be"):
        training.step_decay(3, factor)
    with pytest.raises((TypeError, ValueError), match="what the schedule gives must be"):
        moves(scheduled(sgd(0.1), lambda t: factor), normal(2))
