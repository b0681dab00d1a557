"""Each mean-field step, forward and back, against closed forms and against wide random layers."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import four_errors, reproducible
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from companion.activations import Activation
from companion.meanfield import Gradient, State

C = st.floats(-1, 1) | st.sampled_from([-1.0, 0.0, 1 - 1e-9, 1.0])


def products(x: State | Gradient) -> tuple[float, float]:
    return x.square, x.overlap


def back(layer: State, square: float = 1.0, overlap: float = 1.0) -> tuple[float, float]:
    return products(layer.back(Gradient(square, overlap)))


# ---------------------------------------------------------------- in closed form


@pytest.mark.breaks(
    "companion/meanfield/steps.py", "phi, q, correlation) / 2", "phi, q, correlation)"
)
@pytest.mark.breaks("companion/meanfield/steps.py", "(function(z) - mean) ** 2", "function(z) ** 2")
@pytest.mark.breaks("companion/meanfield/steps.py", "slope_mean ** 2", "slope_mean")
@pytest.mark.breaks(
    "companion/meanfield/steps.py",
    "distance=factor * self.distance",
    "distance=factor * self.distance + bias_variance",
)
@reproducible
@given(c=C, q=st.floats(1e-3, 1e3), weight=st.floats(0.1, 9), bias=st.floats(0, 9))
def test_relu_and_weights_are_the_arc_cosine_kernels(
    c: float, q: float, weight: float, bias: float
) -> None:
    x = State(q, (1 - c) * q)
    angle, close = math.acos(x.correlation), {"rel": 1e-9, "abs": 1e-9}
    a = x.activation("relu")
    one = q * (math.sin(angle) + x.correlation * (math.pi - angle)) / (2 * math.pi)
    assert products(a) == pytest.approx((q / 2, one), **close)
    assert a.mean == pytest.approx(math.sqrt(q / (2 * math.pi)), **close)
    zero = (math.pi - angle) / (2 * math.pi)
    assert back(a, 3.0, 2.0) == pytest.approx((3 / 2, 2 * zero), **close)
    z = a.weights(weight, bias)
    assert products(z) == pytest.approx((weight * q / 2 + bias, weight * one + bias), **close)
    assert back(z, 3.0, 2.0) == pytest.approx((weight * 3 / 2, weight * 2 * zero), **close)
    assert (z.mean, z.normal, a.normal) == (0.0, True, False)


@reproducible
@given(c=C, q=st.floats(1e-3, 1e3))
def test_the_identity_changes_nothing(c: float, q: float) -> None:
    x = State(q, (1 - c) * q)
    a = x.activation("identity")
    assert products(a) == pytest.approx(products(x), rel=1e-11, abs=1e-11 * q)
    assert a.mean == pytest.approx(0, abs=1e-12 * q)
    assert back(a, 3.0, 2.0) == pytest.approx((3, 2), rel=1e-11)


def test_the_correlation_is_a_cosine() -> None:
    assert State(4.0, 1.0).overlap == 3
    assert State(4.0, 1.0).correlation == 0.75
    assert State(4.0).correlation == 1, "one input alone"
    assert State(4.0, 8.0 + 1e-14).correlation == -1, "and not beyond, by rounding"
    assert State(0.0).correlation == 1


@pytest.mark.breaks(
    "companion/meanfield/steps.py", "return replace(self, back=_as_it_comes)", "return self"
)
def test_a_start_forgets_the_way_and_nothing_else() -> None:
    x = State(2.0, 0.5).weights(3.0)
    assert x.start() == x
    assert back(x) == (3, 3)
    assert back(x.start()) == (1, 1)
    assert back(x.start().weights(5.0)) == (5, 5)


@pytest.mark.breaks(
    "companion/meanfield/steps.py", "distance=self.distance / variance", "distance=self.distance"
)
@pytest.mark.breaks("companion/meanfield/steps.py", "self.distance * (1 - away)", "self.distance")
def test_norms_in_closed_form() -> None:
    a = State(4.0, 4.0).activation("relu")  # of variance 2 - 2/π, over units and over a batch
    left = 2 - 2 / math.pi
    for kind in ("batch", "layer"):
        z = a.norm(kind)
        assert products(z) == pytest.approx((1, 0), abs=1e-12)
        assert z.mean == 0
        assert back(z) == pytest.approx((0.5 / left, 0.25 / left), rel=1e-12)
    # Numbers less their mean lean away from each other.
    few = a.norm("batch", 5)
    assert products(few) == pytest.approx((1, -1 / 4), rel=1e-12)
    assert back(few)[0] == pytest.approx(0.5 / left * 5 / 4, rel=1e-12)
    # What inputs share passes a layer norm and no batch norm.
    like = State(4.0, 1.0)
    assert products(like.norm("layer")) == (1, 0.75)
    assert products(like.norm("batch")) == (1, 0)


@pytest.mark.breaks(
    "companion/meanfield/steps.py", "self.normal and other.normal", "self.normal or other.normal"
)
def test_a_sum_is_normal_if_both_parts_are() -> None:
    x = State(1.0)
    a = x.activation("tanh")
    assert x.plus(a.weights(2.0)).normal
    assert not a.plus(a.weights(2.0)).normal
    assert not a.weights(2.0).plus(a).normal
    assert a.plus(a.weights(2.0)).mean == a.mean


def test_kinks_elsewhere_are_refused_only_where_two_inputs_meet_them() -> None:
    late = Activation(
        "late", lambda z: torch.relu(z - 1), lambda z: (z > 1).double(), torch.nn.Identity, (1.0,)
    )
    one, two = (State(q, d).activation(late) for q, d in ((1.0, 0.0), (1.0, 1.0)))
    upper = math.erfc(1 / math.sqrt(2)) / 2
    assert back(one) == pytest.approx((upper, upper), rel=1e-12)
    assert back(two) == pytest.approx((upper, upper**2), rel=1e-12)
    assert (one.distance, two.overlap) == pytest.approx((0, one.mean**2), rel=1e-12)
    with pytest.raises(ValueError, match="kinks at 0 only, and 'late'"):
        State(1.0, 0.5).activation(late)


# ---------------------------------------------------------------- against wide random layers

SEEDS, POSITIONS, WIDTH = 16, 4, 600


def draw(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def signal(
    square: float, distance: float, mean: float, shape: tuple[int, int, int], seed: int
) -> Tensor:
    """Normal numbers (seeds, positions, units) with a part that all positions share."""
    generator = torch.Generator().manual_seed(seed)
    shared = draw(shape[0], 1, shape[2], generator=generator)
    own = draw(*shape, generator=generator)
    return mean + math.sqrt(square - distance - mean**2) * shared + math.sqrt(distance) * own


def measured(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square and overlap of (seeds, positions, units), for each seed."""
    count, width = x.shape[1:]
    square = x.square().mean((1, 2))
    everything = x.sum(1).square().sum(-1) / width
    return square, (everything - count * square) / (count * (count - 1))


def weighted(x: Tensor, out: int = WIDTH, variance: float = 1.0, bias: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(77)
    weight = draw(len(x), out, x.shape[-1], generator=generator)
    shift = draw(len(x), 1, out, generator=generator)
    return x @ weight.mT * math.sqrt(variance / x.shape[-1]) + math.sqrt(bias) * shift


def over_units(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0)


Step = tuple[Callable[[State], State], Callable[[Tensor], Tensor]]
WIDE: dict[str, Step] = {
    "scaled": (lambda x: x.scaled(-0.6), lambda x: -0.6 * x),
    "weights": (
        lambda x: x.weights(1.7, 0.8, backward=1.7 * 900 / WIDTH),
        lambda x: weighted(x, 900, 1.7, 0.8),
    ),
    "layer norm": (lambda x: x.norm("layer"), over_units),
    "average": (
        lambda x: x.average(POSITIONS),
        lambda x: x.mean(1, keepdim=True).expand_as(x),
    ),
    "sum": (
        lambda x: x.plus(x.weights(1.7).scaled(0.8)),
        lambda x: x + 0.8 * weighted(x, variance=1.7),
    ),
    "relu": (lambda x: x.activation("relu"), torch.relu),
    "tanh": (lambda x: x.activation("tanh"), torch.tanh),
    "block": (
        lambda x: x.plus(x.norm("layer").activation("tanh").weights(2.0).average(POSITIONS)),
        lambda x: (
            x + weighted(torch.tanh(over_units(x)), variance=2.0).mean(1, keepdim=True).expand_as(x)
        ),
    ),
}


def agrees(sample: Tensor, expected: float, scale: float) -> bool:
    """To four standard errors and 2/n, with errors of less than a twelfth of the scale."""
    assert four_errors(sample) < scale / 12
    return abs(sample.mean().item() - expected) < four_errors(sample) + 2 * scale / WIDTH


@pytest.mark.breaks(
    "companion/meanfield/steps.py", "square=by**2 * self.square", "square=by * self.square",
    case="scaled",
)  # fmt: skip
@pytest.mark.breaks(
    "companion/meanfield/steps.py", "mean=by * self.mean", "mean=self.mean", case="scaled"
)
@pytest.mark.breaks(
    "companion/meanfield/steps.py", "self.back(g.scaled(behind))", "self.back(g.scaled(factor))",
    case="weights",
)  # fmt: skip
@pytest.mark.breaks(
    "companion/meanfield/steps.py", "self.square - self.mean**2", "self.square",
    case="layer norm",
)  # fmt: skip
@pytest.mark.breaks(
    "companion/meanfield/steps.py", "g.scaled(1 / variance)", "g.scaled(variance**-0.5)",
    case="layer norm",
)  # fmt: skip
@pytest.mark.breaks(
    "companion/meanfield/steps.py",
    "return (square + (count - 1) * overlap) / count",
    "return square + (count - 1) * overlap",
    case="average",
)
@pytest.mark.breaks(
    "companion/meanfield/steps.py", "square=square, distance=0.0", "square=square", case="average"
)
@pytest.mark.breaks(
    "companion/meanfield/steps.py", "self.back(Gradient(both, both))", "self.back(g)",
    case="average",
)  # fmt: skip
@pytest.mark.breaks(
    "companion/meanfield/steps.py", "self.back(g).plus(other.back(g))", "other.back(g)", case="sum"
)
@pytest.mark.breaks(
    "companion/meanfield/steps.py",
    "square=found.mean_square",
    "square=found.slope_mean_square",
    case="tanh",
)
@pytest.mark.breaks(
    "companion/meanfield/steps.py",
    "found.slope_mean_square * g.square",
    "found.mean_square * g.square",
    case="tanh",
)
@pytest.mark.breaks(
    "companion/meanfield/steps.py",
    "chi(q, phi, 1.0, correlation=c) * g.overlap",
    "chi(q, phi, 1.0) * g.overlap",
    case="tanh",
)
@pytest.mark.breaks(
    "companion/meanfield/steps.py",
    "chi(q, phi, 1.0, correlation=c) * g.overlap if",
    "chi(q, phi, 1.0, correlation=c) * g.square if",
    case="relu",
)
@pytest.mark.parametrize("name", WIDE)
def test_wide_layers_do_what_each_step_says(name: str) -> None:
    predict, run = WIDE[name]
    mean = 0.0 if name in ("relu", "tanh", "block") else 0.7
    start = State(1.9, 0.9, mean)
    x = signal(1.9, 0.9, mean, (SEEDS, POSITIONS, WIDTH), seed=1).requires_grad_()
    y, after = run(x), predict(start)
    for sample, expected in zip(measured(y.detach()), products(after), strict=True):
        assert agrees(sample, expected, after.square), "forward"
    assert agrees(y.detach().mean((1, 2)), after.mean, math.sqrt(after.square))
    gradients = signal(1.3, 0.5, 0.0, (SEEDS, POSITIONS, y.shape[-1]), seed=2)
    (found,) = torch.autograd.grad(y, x, gradients)
    before = after.back(Gradient(1.3, 0.8))
    for sample, expected in zip(measured(found), products(before), strict=True):
        assert agrees(sample, expected, before.square), "back"


@pytest.mark.parametrize(("overlap", "constant"), [(0.8, True), (0.0, False)])
def test_a_wide_batch_norm_does_what_its_step_says(overlap: float, constant: bool) -> None:
    """With its statistics constant, as in one example's own output, or gradients of their own."""
    many = 200
    x = signal(1.9, 0.9, 0.7, (SEEDS, many, 50), seed=1).requires_grad_()
    fixed = x.detach() if constant else x
    y = (x - fixed.mean(1, keepdim=True)) / fixed.std(1, keepdim=True, correction=0)
    after = State(1.9, 0.9, 0.7).norm("batch", many)
    for sample, expected in zip(measured(y.detach()), products(after), strict=True):
        assert sample.tolist() == pytest.approx([expected] * SEEDS, rel=1e-12), "forward"
    gradients = signal(1.3, 1.3 - overlap, 0.0, (SEEDS, many, 50), seed=2)
    (found,) = torch.autograd.grad(y, x, gradients)
    before = after.back(Gradient(1.3, overlap))
    for sample, expected in zip(measured(found), products(before), strict=True):
        assert four_errors(sample) < before.square / 5
        allowed = four_errors(sample) + 4 / many * before.square
        assert abs(sample.mean().item() - expected) < allowed, "back"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x.weights(-1.0), "weight_variance must be finite and at least 0, got -1.0"),
        (lambda x: x.weights(1.0, math.nan), "bias_variance must be finite and at least 0"),
        (lambda x: x.weights(1.0, backward=-2.0), "backward must be finite and at least 0"),
        (lambda x: x.activation("step"), "activation must be one of"),
        (lambda x: x.activation("relu").activation("relu"), "not normal: no prediction"),
        (lambda x: State(-1.0).activation("relu"), "variance must be finite and at least 0"),
        (lambda x: x.norm("rms"), r"kind must be one of \['batch', 'layer'\], got 'rms'"),
        (lambda x: x.norm("batch", 0), "examples must be at least 1, got 0"),
        (lambda x: x.norm("batch", 1), "the input of a norm is constant: it has no prediction"),
        (lambda x: State(2.0).norm("batch"), "constant: it has no prediction"),
        (lambda x: State(0.0).norm("layer"), "constant: it has no prediction"),
        (lambda x: x.average(0), "positions must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(call: Callable[[State], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(State(1.0, 0.5))


def test_what_the_theory_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="an activation of units that have a mean"):
        State(2.4, 0.8, mean=0.9).activation("relu")
    with pytest.raises(ValueError, match="an activation of units that are not normal"):
        State(1.0).activation("relu").activation("relu")
    with pytest.raises(ValueError, match="no 4 positions are as far apart as"):
        State(1.0, 2.0).average(4)
    assert State(1.0, 2.0).average(2).square == 0
