"""Variances predicted and measured, on rectangular layers, where the two directions differ."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers import RECTANGULAR, mlp, normal, reproducible, within
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from companion import backprop, data, initialization, meanfield, propagation
from companion.initialization import Scheme
from companion.propagation import Variances

SIZES = [30, 60, 20, 50, 40]
NORMAL = ("he_normal", "he_uniform", "he_normal_out", "glorot_normal", "lecun_uniform")
FIELDS = ("inputs", "outputs", "deltas", "weight_gradients")


@pytest.mark.breaks(
    "companion/propagation.py",
    "backward=out * square",
    "backward=into * square",
)
@pytest.mark.breaks(
    "companion/propagation.py",
    "entering.weights(into * square, bias,",
    "entering.weights(out * square, bias,",
)
@pytest.mark.parametrize("scheme", [*NORMAL, "orthogonal", "torch_default", "gpt2"])
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_prediction_is_exact_at_any_width_without_curvature(scheme: str, activation: str) -> None:
    options = {"bias_variance": 0.0, "input_mean_square": 0.6, "output_mean_square": 2.5}
    predicted = propagation.predicted_variance(SIZES, activation, scheme, **options)
    found = propagation.measured_variance(SIZES, activation, scheme, seeds=120, **options)
    for field in FIELDS:
        expected, measured = getattr(predicted, field), getattr(found, field)
        assert expected.shape == (4,)
        assert measured.shape == (120, 4)
        for layer in range(4):
            # Scaled to the order of one, for a tolerance that is relative.
            assert within(measured[:, layer] / expected[layer], 1), (field, layer)


@pytest.mark.breaks(
    "companion/propagation.py",
    "entering.weights(into * square, bias,",
    "entering.weights(into * square,",
)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_prediction_is_the_wide_limit_with_biases(activation: str) -> None:
    sizes, scheme = [200, 400, 300, 600], initialization.get("glorot_normal", gain=1.6)
    options = {"bias_variance": 0.3, "input_mean_square": 0.7}
    predicted = propagation.predicted_variance(sizes, activation, scheme, **options)
    found = propagation.measured_variance(sizes, activation, scheme, seeds=12, **options)
    for field in FIELDS:
        for layer in range(3):
            ratio = getattr(found, field)[:, layer] / getattr(predicted, field)[layer]
            assert within(ratio, 1), (field, layer)
            assert ratio.std().item() < 0.2, "sharp enough to see another fan"


def test_biases_that_the_scheme_draws() -> None:
    sizes = [200, 400, 100]
    predicted = propagation.predicted_variance(sizes, "identity", "torch_default")
    # One third of the input, and as much as one of the weights for the bias.
    first = 1 / 3 + 1 / 600
    assert predicted.outputs.tolist() == pytest.approx([first, first / 3 + 1 / 1200], rel=1e-12)
    network = propagation.random_network(sizes, "identity", "torch_default", seeds=40)
    for bias, fan_in in zip(network.biases, sizes, strict=False):
        assert within(bias.square().mean(1), 1 / (3 * fan_in))
        assert 0.95 * fan_in**-0.5 < bias.abs().max().item() <= fan_in**-0.5
    stated = propagation.random_network(
        sizes, "identity", "torch_default", bias_variance=4.0, seeds=40
    )
    assert within(stated.biases[0].square().mean(1), 4.0)
    assert stated.biases[0].abs().max().item() > 2 * math.sqrt(3), "normal, not uniform"


@pytest.mark.breaks(
    "companion/propagation.py",
    "for layer in layers[:0:-1]:",
    "for layer in layers[-2::-1]:",
)
@reproducible
@given(
    sizes=st.lists(st.integers(1, 500), min_size=2, max_size=6),
    scale=st.floats(0, 5),
    bias=st.floats(0, 2),
    activation=st.sampled_from(["tanh", "relu", "sigmoid"]),
)
def test_going_back_divides_by_no_other_fan(
    sizes: list[int], scale: float, bias: float, activation: str
) -> None:
    # With variance 1/fan_out of each weight δ keeps the factor E[φ′²] only.
    scheme = Scheme("out", scale, "fan_out", "normal")
    found = propagation.predicted_variance(sizes, activation, scheme, bias_variance=bias)
    for layer in range(len(sizes) - 2):
        q = found.outputs[layer].item()
        factor = meanfield.chi(q, activation, scale)
        assert found.deltas[layer].item() == pytest.approx(
            factor * found.deltas[layer + 1].item(), rel=1e-12
        )
        ahead = sizes[layer + 1] / sizes[layer + 2]
        expected = meanfield.length_map(q, activation, scale * ahead, bias)
        assert found.outputs[layer + 1].item() == pytest.approx(expected, rel=1e-12)
    assert found.inputs[0].item() == 1
    assert found.outputs[0].item() == pytest.approx(scale * sizes[0] / sizes[1] + bias, rel=1e-12)


def test_square_layers_do_as_the_mean_field_says() -> None:
    found = propagation.predicted_variance([100] * 6, "tanh", "he_normal", input_mean_square=0.4)
    flow = meanfield.gradient_flow("tanh", 2.0, depth=5, input_mean_square=0.4)
    torch.testing.assert_close(found.deltas.log10() / 2, flow)


def moments(inputs: list[Tensor], outputs: list[Tensor], deltas: list[Tensor]) -> list[list[float]]:
    return [[x.square().mean().item() for x in column] for column in (inputs, outputs, deltas)]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_network_is_measured_as_autograd_has_it(activation: str) -> None:
    network, inputs, output_delta = mlp(activation=activation), normal(6, 4), normal(6, 5, seed=9)
    found = propagation.network_variance(network, inputs, output_delta)
    weights = [w.clone().requires_grad_() for w in network.weights]
    a, z = [inputs], []
    for weight, bias in zip(weights, network.biases, strict=True):
        z.append(a[-1] @ weight.T + bias)
        a.append(network.activation.function(z[-1]))
    deltas = torch.autograd.grad(z[-1], z, output_delta, retain_graph=True)
    expected = moments(a[:-1], z, list(deltas))
    for field, column in zip(FIELDS, expected, strict=False):
        assert getattr(found, field).tolist() == pytest.approx(column, rel=1e-12)
    each = [
        torch.autograd.grad(z[-1][i], weights, output_delta[i], retain_graph=True) for i in range(6)
    ]
    squares = [
        sum(example[layer].square().mean().item() for example in each) / 6 for layer in range(3)
    ]
    assert found.weight_gradients.tolist() == pytest.approx(squares, rel=1e-12)


@pytest.mark.parametrize("networks", [(), (3,)])
def test_stacked_networks_and_modules_are_measured_alike(networks: tuple[int, ...]) -> None:
    network, inputs = mlp(networks=networks, activation="relu"), normal(6, 4)
    output_delta = normal(*networks, 6, 5, seed=2)
    together = propagation.network_variance(network, inputs, output_delta)
    assert together.deltas.shape == (*networks, 3)
    models = backprop.to_modules(network)
    for i, model in enumerate(models):
        model[1] = nn.ReLU(inplace=True)
        alone = propagation.network_variance(model, inputs, output_delta.reshape(-1, 6, 5)[i])
        assert alone.weight_gradients is None
        for field in FIELDS[:3]:
            expected = getattr(together, field).reshape(-1, 3)[i]
            torch.testing.assert_close(getattr(alone, field), expected, rtol=1e-12, atol=0)


def test_measuring_a_module_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(9, 2))
    with torch.no_grad():
        found = propagation.network_variance(model, torch.ones(5, 2, 4))
    assert found.deltas.shape == (2,)
    assert found.deltas[-1] == 1, "ones at the output"
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(RuntimeError):
        propagation.network_variance(model, torch.ones(5, 2, 7))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.breaks(
    "companion/propagation.py",
    "torch.stack([x.square().mean(-1) for x in column], dim=-1)",
    "torch.stack([x.var(-1) for x in column], dim=-1)",
)
def test_mean_squares_are_not_centred() -> None:
    weight = torch.ones(2, 1, dtype=torch.float64)
    network = backprop.MLP((weight,), None, backprop.activations.get("identity"))
    found = propagation.network_variance(network, torch.full((3, 1), 2.0, dtype=torch.float64))
    assert found.inputs.tolist() == [4.0]
    assert found.outputs.tolist() == [4.0]


def test_a_seed_gives_the_same_network_in_any_company() -> None:
    both = propagation.random_network(SIZES, "tanh", "orthogonal", seeds=[5, 2])
    alone = propagation.random_network(SIZES, "tanh", "orthogonal", seeds=[2])
    for one, other in zip(both.weights, alone.weights, strict=True):
        assert torch.equal(one[1], other[0])
    normal_ = propagation.random_network(SIZES, "tanh", "he_normal", seeds=[2])
    drawn = backprop.random_mlp(SIZES, "tanh", weight_variance=2.0, seeds=[2])
    assert all(torch.equal(a, b) for a, b in zip(normal_.weights, drawn.weights, strict=True))


@pytest.mark.breaks(
    "companion/propagation.py",
    "(mean_squares[..., -1] / mean_squares[..., 0]) ** (1 / steps)",
    "(mean_squares[..., -1] / mean_squares[..., 0]) ** (1 / (steps + 1))",
)
def test_factor_per_layer_is_the_geometric_mean() -> None:
    values = torch.tensor([[3.0, 99.0, 12.0], [2.0, 1.0, 2.0]], dtype=torch.float64)
    assert propagation.factor_per_layer(values).tolist() == pytest.approx([2.0, 1.0])


# ---------------------------------------------------------------- ln of the squared gradient


@pytest.mark.breaks(
    "companion/propagation.py",
    "mean = mean + math.log(2 * scheme.variance(width, out))",
    "mean = mean + math.log(2 * scheme.variance(out, width))",
)
@pytest.mark.breaks(
    "companion/propagation.py", "(deltas * widths).log10() / 2", "(deltas * widths).log10()"
)
@pytest.mark.breaks(
    "companion/propagation.py", "chance @ (variance + (mean - center) ** 2)", "chance @ variance"
)
@pytest.mark.parametrize(
    ("activation", "scheme"),
    [
        ("relu", "he_normal"),
        ("identity", "glorot_normal"),
        ("relu", "orthogonal"),
        ("identity", "orthogonal"),
    ],
)
def test_log_moments_are_exact_on_narrow_rectangular_layers(activation: str, scheme: str) -> None:
    sizes, seeds = [3, 6, 11, 8, 5], 3000
    exact = propagation.log_gradient_moments(sizes, activation, scheme)
    logs = propagation.log_gradients(sizes, activation, scheme, seeds=seeds) * 2 * math.log(10)
    assert (logs[:, -1] == 0).all()
    logs = logs[logs[:, 0].isfinite()]
    for layer in range(3):
        sample = logs[:, layer] - exact.mean[layer]
        if exact.variance[layer] == 0:  # an orthogonal matrix with as many rows as columns, or less
            assert sample.abs().max().item() < 1e-13
            continue
        assert within(sample, 0), layer
        assert within(sample**2, exact.variance[layer].item()), layer
    assert exact.mean[-1] == exact.variance[-1] == 0


def test_log_moments_of_a_linear_layer_are_those_of_a_chi_square() -> None:
    # χ²₂ is exponential: ln of a standard one has mean -γ and variance π²/6.
    scheme = Scheme("half", 0.5, "fixed", "normal")
    exact = propagation.log_gradient_moments([4, 2, 3], "identity", scheme)
    assert exact.mean[0].item() == pytest.approx(-0.5772156649015329, rel=1e-12)
    # torch's trigamma has nine digits.
    assert exact.variance[0].item() == pytest.approx(math.pi**2 / 6, rel=1e-8)


def test_log_moments_of_one_unit_with_relu_are_of_networks_that_live() -> None:
    exact = propagation.log_gradient_moments([4, 1, 3], "relu", Scheme("", 1, "fixed", "normal"))
    linear = propagation.log_gradient_moments(
        [4, 1, 3], "identity", Scheme("", 1, "fixed", "normal")
    )
    torch.testing.assert_close(exact.mean, linear.mean)
    torch.testing.assert_close(exact.variance, linear.variance)


def test_dead_networks_have_no_logarithm() -> None:
    logs = propagation.log_gradients([3, 2, 2, 2], "relu", "he_normal", seeds=400)
    # All of both units of a layer are off with probability ¼; two layers, of which one is enough.
    dead = logs[:, 0].isinf().double()
    assert within(dead, 1 - (3 / 4) ** 2)


@reproducible
@given(width=st.integers(100, 1000))
def test_log_variance_approaches_two_three_and_five_over_n(width: int) -> None:
    def step(activation: str, scheme: str) -> float:
        exact = propagation.log_gradient_moments([width] * 3, activation, scheme)
        return exact.variance[0].item() * width

    # The next order is 1/n of it, with coefficients below 25.
    assert step("identity", "lecun_normal") == pytest.approx(2, rel=25 / width)
    assert step("relu", "orthogonal") == pytest.approx(3, rel=25 / width)
    assert step("relu", "he_normal") == pytest.approx(5, rel=25 / width)
    assert step("identity", "orthogonal") == pytest.approx(0, abs=1e-10)


def test_seeds_in_several_batches_are_the_same_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = propagation.log_gradients([5] * 4, "relu", "he_normal", seeds=7)
    plain = propagation._batches
    monkeypatch.setattr(propagation, "_batches", lambda s, entries: plain(s, entries, limit=200))
    assert [len(b) for b in propagation._batches(list(range(7)), entries=75)] == [2, 2, 2, 1]
    assert torch.equal(propagation.log_gradients([5] * 4, "relu", "he_normal", seeds=7), whole)


# ---------------------------------------------------------------- in training


@pytest.mark.breaks(
    "companion/propagation.py",
    "(cache.output.softmax(-1) - wanted) / inputs.shape[-2]",
    "cache.output.softmax(-1) - wanted",
)
@pytest.mark.parametrize("batch_size", [16, None])
def test_an_activation_path_is_that_of_training_with_autograd(batch_size: int | None) -> None:
    split, sizes = data.digits(), [64, 12, 9, 10]
    network = propagation.random_network(sizes, "sigmoid", "torch_default", seeds=2)
    before = [w.clone() for w in (*network.weights, *network.biases)]
    path = propagation.activation_path(
        network, split, learning_rate=0.3, steps=5, record_every=3, batch_size=batch_size, seed=4
    )
    assert path.steps.tolist() == [0, 3, 5]
    after = (*network.weights, *network.biases)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    for i, model in enumerate(backprop.to_modules(network)):
        generator = torch.Generator().manual_seed(4 + i)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for step in range(6):
            if step in (0, 3, 5):
                with torch.no_grad():
                    hidden = [model[:2](split.test_inputs), model[:4](split.test_inputs)]
                found = path.means[path.steps.tolist().index(step), i]
                expected = torch.stack([h.mean() for h in hidden])
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
            rows = torch.arange(len(split.train_inputs))
            if batch_size:
                rows = torch.randint(len(rows), (batch_size,), generator=generator)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(
                model(split.train_inputs[rows]), split.train_targets[rows]
            )
            loss.backward()
            optimizer.step()


# ---------------------------------------------------------------- what is refused

predict, exact = propagation.predicted_variance, propagation.log_gradient_moments


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: predict([3], "relu", "he_normal"), ValueError, "sizes needs an input and at"),
        (lambda: predict([3, 0], "relu", "he_normal"), ValueError, "each of sizes must be at"),
        (
            lambda: predict([3, 2.5], "relu", "he_normal"),
            TypeError,
            "each of sizes must be a whole",
        ),
        (lambda: predict([3, 2], "relu", "he"), ValueError, "scheme must be one of"),
        (lambda: predict([3, 2], "swiss", "he_normal"), ValueError, "activation must be one of"),
        (
            lambda: predict([3, 2], "relu", "he_normal", bias_variance=-1.0),
            ValueError,
            "bias_variance must be finite and at least 0, got -1.0",
        ),
        (
            lambda: predict([3, 2], "relu", "he_normal", input_mean_square=math.nan),
            ValueError,
            "input_mean_square must be finite",
        ),
        (
            lambda: predict([3, 2], "relu", "he_normal", output_mean_square=-1.0),
            ValueError,
            "output_mean_square must be finite",
        ),
        (
            lambda: propagation.measured_variance([3, 2], "relu", "he_normal", examples=0),
            ValueError,
            "examples must be at least 1",
        ),
        (
            lambda: propagation.measured_variance([3, 2], "relu", "he_normal", seeds=[]),
            ValueError,
            "seeds needs a whole number",
        ),
        (
            lambda: propagation.network_variance(nn.ReLU(), torch.ones(2, 2)),
            ValueError,
            "at least one linear or convolutional layer",
        ),
        (
            lambda: propagation.network_variance(
                nn.Linear(2, 3), torch.ones(4, 2), torch.ones(4, 2)
            ),
            ValueError,
            r"output_delta needs the output's shape \(4, 3\), got \(4, 2\)",
        ),
        (
            lambda: propagation.factor_per_layer(torch.ones(4, 1)),
            ValueError,
            r"mean_squares needs shape \(..., 2 or more\), got \(4, 1\)",
        ),
        (lambda: exact([3, 2], "tanh", "he_normal"), ValueError, "activation must be one of"),
        (lambda: exact([3, 2], "relu", "he_uniform"), ValueError, "scheme must be normal or orth"),
        (lambda: exact([3, 2], "relu", "torch_default"), ValueError, "scheme must be normal or"),
        (
            lambda: propagation.activation_path(mlp(RECTANGULAR), data.digits(), learning_rate=1),
            ValueError,
            r"network needs weights of shape \(networks, out, in\), got \(7, 4\)",
        ),
        (
            lambda: propagation.activation_path(
                mlp(networks=(1,)), data.digits(), learning_rate=-1.0
            ),
            ValueError,
            "learning_rate must be finite and at least 0",
        ),
    ],
)
def test_bad_input_is_named(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_weights_of_zero_pass_nothing() -> None:
    nothing = replace(initialization.SCHEMES["he_normal"], scale=0.0)
    for found in (predict(SIZES, "relu", nothing), measured_zero(nothing)):
        assert (found.outputs == 0).all()
        assert (found.deltas[..., :-1] == 0).all()
        assert (found.deltas[..., -1] > 0).all()


def measured_zero(scheme: Scheme) -> Variances:
    return propagation.measured_variance(SIZES, "relu", scheme, seeds=2)
