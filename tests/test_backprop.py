"""The hand-written passes against autograd: several networks, rectangular layers, biases."""

import math
from collections.abc import Callable
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from helpers import RECTANGULAR, SQUARE, mlp, normal, reproducible, within
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import jacrev, vmap

from companion import activations, backprop, meanfield
from companion.backprop import MLP, Setting

EVERY = pytest.mark.parametrize("activation", activations.ACTIVATIONS)
EXAMPLES = 6


def by_autograd(network: MLP, inputs: Tensor, output_delta: Tensor) -> dict[str, list[Tensor]]:
    """z, and the gradients of Σ output_delta · output, by torch on torch's own layers."""
    weights = [weight.clone().requires_grad_() for weight in network.weights]
    biases = [bias.clone().requires_grad_() for bias in network.biases or ()]
    inputs = inputs.clone().requires_grad_()
    module = network.activation.module()
    linear = nn.functional.linear if weights[0].dim() == 2 else vmap(nn.functional.linear)
    z: list[Tensor] = []
    for layer, weight in enumerate(weights):
        a = inputs if layer == 0 else module(z[-1])
        z.append(linear(a, weight, *biases[layer : layer + 1]))
    total = (z[-1] * output_delta).sum()
    sizes = [len(z), len(weights), len(biases), 1]
    found = torch.autograd.grad(total, [*z, *weights, *biases, inputs])
    ends = list(accumulate(sizes, initial=0))
    names = ("deltas", "weights", "biases", "inputs")
    return {"z": z} | {
        name: list(found[start:end])
        for name, (start, end) in zip(names, pairwise(ends), strict=True)
    }


@pytest.mark.breaks(
    "companion/backprop.py",
    "(deltas[-1] @ weight) * network",
    "(deltas[-1] @ weight.mT) * network",
    case="False-networks0-sizes1-tanh",
)
@pytest.mark.breaks(
    "companion/backprop.py",
    "* network.activation.slope(z))",
    "* network.activation.slope(network.activation.function(z)))",
)
@pytest.mark.breaks(
    "companion/backprop.py",
    "cache.z[-2::-1], strict=True",
    "cache.z[:0:-1], strict=True",
    case="False-networks0-sizes1-tanh",
)
@pytest.mark.breaks(
    "companion/backprop.py",
    "z.append(a[-1] @ weight.mT + network.bias(layer))",
    "z.append(a[-1] @ weight.mT)",
)
@pytest.mark.breaks(
    "companion/backprop.py",
    "inputs=deltas[0] @ network.weights[0]",
    "inputs=deltas[0] @ network.weights[0] * network.activation.slope(cache.a[0])",
)
@EVERY
@pytest.mark.parametrize("sizes", [RECTANGULAR, SQUARE, (3, 2)])
@pytest.mark.parametrize("networks", [(), (3,)])
@pytest.mark.parametrize("bias", [True, False])
def test_both_passes_are_autograds(
    activation: str, sizes: tuple[int, ...], networks: tuple[int, ...], bias: bool
) -> None:
    network = mlp(sizes, activation, networks, bias=bias)
    inputs = normal(*networks, EXAMPLES, sizes[0], seed=90)
    output_delta = normal(*networks, EXAMPLES, sizes[-1], seed=91)
    expected = by_autograd(network, inputs, output_delta)
    cache = backprop.forward(network, inputs)
    found = backprop.backward(network, cache, output_delta)
    torch.testing.assert_close(cache.z, [z.detach() for z in expected["z"]], rtol=1e-12, atol=1e-13)
    assert cache.output is cache.z[-1]
    assert torch.equal(cache.a[0], inputs)
    for layer in range(1, len(sizes) - 1):
        torch.testing.assert_close(cache.a[layer], network.activation.function(cache.z[layer - 1]))
    for name in ("deltas", "weights", "biases"):
        if expected[name]:
            torch.testing.assert_close(getattr(found, name), expected[name], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found.inputs, expected["inputs"][0], rtol=1e-11, atol=1e-12)


@pytest.mark.breaks(
    "companion/backprop.py", "weights=[delta.mT @ a for", "weights=[delta.mT @ a / len(a) for"
)
@pytest.mark.breaks(
    "companion/backprop.py", "biases=[delta.sum(-2) for", "biases=[delta.mean(-2) for"
)
def test_gradients_are_summed_over_the_examples() -> None:
    network, inputs = mlp(), normal(EXAMPLES, 4, seed=90)
    output_delta = normal(EXAMPLES, 5, seed=91)
    whole = backprop.backward(network, backprop.forward(network, inputs), output_delta)
    parts = [
        backprop.backward(network, backprop.forward(network, x), delta)
        for x, delta in zip(inputs.split(1), output_delta.split(1), strict=True)
    ]
    for layer in range(3):
        for name in ("weights", "biases"):
            total = sum(getattr(part, name)[layer] for part in parts)
            torch.testing.assert_close(getattr(whole, name)[layer], total)
        each = torch.cat([part.deltas[layer] for part in parts])
        torch.testing.assert_close(whole.deltas[layer], each)


@pytest.mark.breaks(
    "companion/backprop.py", "linear.weight.copy_(weight[index])", "linear.weight.copy_(weight[0])"
)
@EVERY
def test_networks_side_by_side_are_the_networks_alone(activation: str) -> None:
    network = mlp(networks=(3,), activation=activation)
    inputs, output_delta = normal(EXAMPLES, 4, seed=90), normal(3, EXAMPLES, 5, seed=91)
    cache = backprop.forward(network, inputs)  # one set of inputs for all
    found = backprop.backward(network, cache, output_delta)
    for index, model in enumerate(backprop.to_modules(network)):
        torch.testing.assert_close(cache.output[index], model(inputs).detach())
        (model(inputs) * output_delta[index]).sum().backward()
        for layer, linear in enumerate(model[::2]):
            torch.testing.assert_close(found.weights[layer][index], linear.weight.grad)
            torch.testing.assert_close(found.biases[layer][index], linear.bias.grad)


@pytest.mark.breaks(
    "companion/backprop.py",
    "slope = network.activation.slope(cache.z[layer - 1])",
    "slope = network.activation.slope(cache.z[layer])",
    case="sizes1-tanh",
)
@EVERY
@pytest.mark.parametrize("sizes", [RECTANGULAR, SQUARE])
def test_layer_jacobians_are_torchs_and_carry_the_delta(
    activation: str, sizes: tuple[int, ...]
) -> None:
    network = mlp(sizes, activation, networks=(2,))
    inputs = normal(2, EXAMPLES, sizes[0], seed=90)
    cache = backprop.forward(network, inputs)
    deltas = backprop.backward(network, cache, normal(2, EXAMPLES, sizes[-1], seed=91)).deltas
    for layer in range(1, len(sizes) - 1):
        found = backprop.layer_jacobian(network, cache, layer)
        assert found.shape == (2, EXAMPLES, sizes[layer + 1], sizes[layer])

        def above(z: Tensor, weight: Tensor) -> Tensor:
            return weight @ network.activation.function(z)

        each = vmap(vmap(jacrev(above), in_dims=(0, None)))
        expected = each(cache.z[layer - 1], network.weights[layer])
        torch.testing.assert_close(found, expected)
        carried = (found.mT @ deltas[layer].unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(carried, deltas[layer - 1])


@EVERY
@pytest.mark.parametrize("networks", [(), (2,)])
def test_paths_are_products_of_weights_and_slopes(
    activation: str, networks: tuple[int, ...]
) -> None:
    network = mlp((2, 4, 3, 2), activation, networks)
    inputs = normal(*networks, EXAMPLES, 2, seed=90)
    cache = backprop.forward(network, inputs)
    paths = backprop.path_products(network, cache)
    assert paths.shape == (*networks, EXAMPLES, 2, 4, 3, 2)
    w1, w2, w3 = (weight.reshape(-1, *weight.shape[-2:])[-1] for weight in network.weights)
    last = paths.reshape(-1, EXAMPLES, 2, 4, 3, 2)[-1]
    slopes = [network.activation.slope(z.reshape(-1, EXAMPLES, z.shape[-1])[-1]) for z in cache.z]
    one = w3[1, 2] * slopes[1][4, 2] * w2[2, 3] * slopes[0][4, 3] * w1[3, 0]
    torch.testing.assert_close(last[4, 0, 3, 2, 1], one)
    for output in range(2):
        delta = torch.zeros_like(cache.output)
        delta[..., output] = 1
        gradient = backprop.backward(network, cache, delta).inputs
        torch.testing.assert_close(paths.sum((-3, -2))[..., output], gradient)


def test_paths_of_one_layer_are_its_weights() -> None:
    network = mlp((3, 2))
    paths = backprop.path_products(network, backprop.forward(network, normal(4, 3)))
    assert torch.equal(paths, network.weights[0].T.expand(4, 3, 2))


def test_too_many_paths_are_refused() -> None:
    network = backprop.random_mlp([10] * 8, "relu")
    cache = backprop.forward(network, normal(1, 10))
    with pytest.raises(ValueError, match="100,000,000 paths are too many to list"):
        backprop.path_products(network, cache)


@pytest.mark.breaks(
    "companion/backprop.py",
    "difference = function(point + shift) - function(point - shift)",
    "difference = 2 * (function(point + shift) - function(point))",
)
@reproducible
@given(
    numbers=st.lists(st.floats(-3, 3), min_size=1, max_size=6),
    step=st.floats(1e-3, 0.5),
)
def test_differences_are_central(numbers: list[float], step: float) -> None:
    # Of x³ the central difference is 3x² + h² exactly, the one-sided ones 3x² ± 3xh + h².
    point = torch.tensor(numbers, dtype=torch.float64)
    found = backprop.finite_difference(lambda x: (x**3).sum(), point, step=step)
    # Rounding: eps of the sum's size (6 · 3.5³) over the step.
    torch.testing.assert_close(found, 3 * point**2 + step**2, rtol=0, atol=1e-10)


@pytest.mark.parametrize("point", [normal(3, 4), normal(4, 3).T, normal(2, 3, 2), normal()])
def test_differences_keep_shape_and_default_to_a_small_step(point: Tensor) -> None:
    before, factor = point.clone(), 1 + torch.arange(point.numel()).reshape(point.shape)
    found = backprop.finite_difference(lambda x: (factor * x.exp()).sum(), point)
    # The rounding error is eps · Σ factor · e^x / step, about 5e-8 for these.
    torch.testing.assert_close(found, factor * point.exp(), rtol=0, atol=1e-7)
    assert torch.equal(point, before)


@pytest.mark.breaks(
    "companion/backprop.py",
    "difference = function(point + shift) - function(point - shift)",
    "difference = 2 * (function(point + 1e5 * shift) - function(point)) / 1e5",
)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_differences_agree_with_the_backward_pass(layer: int) -> None:
    network, inputs, targets = mlp(), normal(EXAMPLES, 4, seed=90), normal(EXAMPLES, 5, seed=91)

    def loss(weight: Tensor) -> Tensor:
        weights = list(network.weights)
        weights[layer] = weight
        changed = MLP(tuple(weights), network.biases, network.activation)
        return (backprop.forward(changed, inputs).output - targets).square().sum() / 2

    cache = backprop.forward(network, inputs)
    found = backprop.backward(network, cache, cache.output - targets).weights[layer]
    expected = backprop.finite_difference(loss, network.weights[layer])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_differences_need_double_precision() -> None:
    with pytest.raises(TypeError, match=r"point must be float64 .*, got torch\.float32"):
        backprop.finite_difference(torch.sum, torch.zeros(2))


@pytest.mark.breaks(
    "companion/backprop.py", "one, scale=scale, mode=mode,", 'one, scale=scale, mode="fan_in",'
)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
def test_random_weights_have_the_variance_asked_for(mode: str) -> None:
    network = backprop.random_mlp([300, 100, 400], "relu", weight_variance=1.5, mode=mode, seeds=4)
    for weight, (n_in, n_out) in zip(network.weights, [(300, 100), (100, 400)], strict=True):
        fan = {"fan_in": n_in, "fan_out": n_out, "fan_avg": (n_in + n_out) / 2}[mode]
        # Four standard errors of the variance of N normal numbers.
        error = 4 * math.sqrt(2 / weight.numel())
        assert weight.var().item() * fan / 1.5 == pytest.approx(1, abs=error)


def test_a_seed_gives_the_same_network_in_any_company() -> None:
    together = backprop.random_mlp(RECTANGULAR, "tanh", seeds=[5, 2])
    alone = backprop.random_mlp(RECTANGULAR, "tanh", seeds=[2])
    for both, one in zip(together.weights, alone.weights, strict=True):
        assert torch.equal(both[1], one[0])
        assert not torch.equal(both[0], both[1])
    counted = backprop.random_mlp(RECTANGULAR, "tanh", seeds=3)
    listed = backprop.random_mlp(RECTANGULAR, "tanh", seeds=range(3))
    assert all(map(torch.equal, counted.weights, listed.weights))


def test_random_networks_have_the_options_asked_for() -> None:
    state = torch.random.get_rng_state()
    network = backprop.random_mlp(
        RECTANGULAR, "relu", distribution="uniform", bias=True, seeds=2, dtype=torch.float32
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert network.activation is activations.get("relu")
    shapes = [(2, 7, 4), (2, 3, 7), (2, 5, 3)]
    for weight, bias, shape in zip(network.weights, network.biases, shapes, strict=True):
        assert (tuple(weight.shape), weight.dtype) == (shape, torch.float32)
        assert weight.abs().max().item() <= math.sqrt(3 / shape[-1])
        assert torch.equal(bias, torch.zeros(shape[:-1]))
    assert backprop.random_mlp([2, 3], "relu").biases is None


def test_modules_are_copies_in_order() -> None:
    network = mlp(networks=(2, 3), activation="relu")
    models = backprop.to_modules(network)
    inputs = normal(EXAMPLES, 4, seed=90)
    outputs = torch.stack([model(inputs) for model in models]).detach()
    torch.testing.assert_close(
        outputs.reshape(2, 3, EXAMPLES, 5), backprop.forward(network, inputs).output
    )
    assert [type(layer) for layer in models[0]] == [nn.Linear, nn.ReLU] * 2 + [nn.Linear]
    before = network.weights[0].clone()
    with torch.no_grad():
        models[0][0].weight.zero_()
    assert torch.equal(network.weights[0], before)
    assert backprop.to_modules(mlp(bias=False))[0][0].bias is None


TANH = activations.get("tanh")
ONES = torch.ones


@pytest.mark.parametrize(
    ("weights", "biases", "activation", "error", "message"),
    [
        ((), None, TANH, ValueError, "at least one weight"),
        ((ONES(3),), None, TANH, ValueError, r"weights\[0\] needs shape .*, got \(3,\)"),
        ((ONES(3, 2), ONES(2, 4)), None, TANH, ValueError, r"weights\[1\] takes 4 .* gives 3"),
        ((ONES(2, 3, 2), ONES(4, 2, 3)), None, TANH, ValueError, r"networks \(4,\), but .* \(2,\)"),
        ((ONES(3, 2),), (ONES(3), ONES(3)), TANH, ValueError, "1 weights, but 2 biases"),
        ((ONES(3, 2),), (ONES(2),), TANH, ValueError, r"biases\[0\] needs shape \(3,\), got \(2,"),
        ((ONES(3, 2).int(),), None, TANH, TypeError, r"weights\[0\] must be a floating-point"),
        ((ONES(3, 2),), (ONES(3).int(),), TANH, TypeError, r"biases\[0\] must be a floating-point"),
        ((ONES(3, 2),), None, "tanh", TypeError, "activation must be an Activation.*got 'tanh'"),
    ],
)
def test_networks_that_do_not_fit_are_refused(
    weights: tuple, biases: tuple | None, activation: object, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        MLP(weights, biases, activation)


RELU = [Setting("relu", 2.0, "He")]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: backprop.random_mlp([3], "relu"), ValueError, "sizes needs an input and at least"),
        (lambda: backprop.random_mlp([3, 0], "relu"), ValueError, "each of sizes must be at least"),
        (lambda: backprop.random_mlp([3, 2.0], "relu"), TypeError, "each of sizes must be a whole"),
        (lambda: backprop.random_mlp([3, 2], "step"), ValueError, "activation must be one of"),
        (lambda: backprop.random_mlp([3, 2], "relu", seeds=0), ValueError, "seeds must be at"),
        (lambda: backprop.random_mlp([3, 2], "relu", seeds=2.5), TypeError, "seeds must be a"),
        (lambda: backprop.random_mlp([3, 2], "relu", seeds=[]), ValueError, "seeds needs a whole"),
        (lambda: backprop.forward(mlp(), ONES(5, 3)), ValueError, r"examples, 4\), got \(5, 3\)"),
        (lambda: backprop.forward(mlp(), ONES(4)), ValueError, r"examples, 4\), got \(4,\)"),
        (lambda: backprop.forward(mlp(), ONES(5, 4).int()), TypeError, "inputs must be a float"),
        (
            lambda: backprop.backward(mlp(), backprop.forward(mlp(), normal(2, 4)), normal(1, 5)),
            ValueError,
            r"output_delta needs the output's shape \(2, 5\), got \(1, 5\)",
        ),
        (lambda: backprop.gradient_flow([]), ValueError, "settings needs at least one"),
        (lambda: backprop.gradient_flow(RELU, width=0), ValueError, "width must be at least 1"),
        (lambda: backprop.gradient_flow(RELU, depth=0), ValueError, "depth must be at least 1"),
        (lambda: backprop.gradient_flow(RELU, examples=0), ValueError, "examples must be at least"),
        (
            lambda: backprop.gradient_flow(RELU, width=2, depth=1, input_mean_square=-1.0),
            ValueError,
            "input_mean_square must be finite and at least 0",
        ),
        (
            lambda: backprop.gradient_flow([Setting("relu", -1.0, "")], width=2, depth=2),
            ValueError,
            "weight_variance must be finite and at least 0",
        ),
        (
            lambda: backprop.random_mlp([2, 2], "relu", weight_variance=-1.0),
            ValueError,
            "weight_variance must be finite and at least 0",
        ),
        (lambda: backprop.slope_per_layer(ONES(3, 1)), ValueError, r"2 or more\), got \(3, 1\)"),
        (lambda: backprop.slope_per_layer(ONES(3).int()), TypeError, "log_norms must be a float"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("layer", [0, 3, -1])
def test_layers_without_one_above_have_no_jacobian(layer: int) -> None:
    cache = backprop.forward(mlp(), normal(2, 4))
    with pytest.raises(ValueError, match=f"from 1 to 2 in a network of 3, got {layer}"):
        backprop.layer_jacobian(mlp(), cache, layer)


def test_gradient_flow_of_relu_is_shifted_by_the_variance() -> None:
    # ReLU is homogeneous: a variance s multiplies δ_l by s^((L-l)/2), whatever the draw.
    settings = [Setting("relu", variance, "") for variance in (1.0, 2.0, 0.5)]
    flow = backprop.gradient_flow(settings, width=20, depth=6, seeds=3)
    assert flow.shape == (3, 3, 6)
    assert (flow[:, :, -1] == 0).all()
    shift = torch.arange(5, -1, -1, dtype=torch.float64) * math.log10(2) / 2
    torch.testing.assert_close(flow[1] - flow[0], shift.expand(3, 6))
    torch.testing.assert_close(flow[2] - flow[0], -shift.expand(3, 6))


def test_gradient_flow_does_not_depend_on_the_company() -> None:
    tanh = Setting("tanh", 2.0, "")
    options = {"width": 15, "depth": 4, "examples": 3}
    flow = backprop.gradient_flow([*RELU, tanh], seeds=3, **options)
    alone = backprop.gradient_flow([tanh], seeds=[2], **options)
    torch.testing.assert_close(alone[0, 0], flow[1, 2])
    assert not torch.allclose(flow[0, 0], flow[0, 1])


@pytest.mark.breaks("companion/backprop.py", "inputs = inputs * math.sqrt(", "inputs = inputs * (")
@pytest.mark.parametrize("mean_square", [0.1, 4.0])
def test_gradient_flow_follows_the_theory_at_every_layer(mean_square: float) -> None:
    setting = Setting("tanh", 2.0, "")
    flow = backprop.gradient_flow(
        [setting], width=300, depth=6, seeds=12, input_mean_square=mean_square
    )[0]
    theory = meanfield.gradient_flow("tanh", 2.0, depth=6, input_mean_square=mean_square)
    for layer in range(5):
        assert within(flow[:, layer], theory[layer].item())  # four standard errors over seeds


@pytest.mark.breaks(
    "companion/backprop.py", "return -(log_norms @ layer)", "return (log_norms @ layer)"
)
@reproducible
@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_slope_is_the_least_squares_line_per_layer_back(values: list[float]) -> None:
    rows = torch.tensor([values, [2 * v + 1 for v in values]], dtype=torch.float64)
    expected = [-np.polyfit(np.arange(len(values)), row, 1)[0] for row in rows.numpy()]
    assert backprop.slope_per_layer(rows).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-10)
    assert backprop.slope_per_layer(rows[0]).item() == pytest.approx(
        expected[0], rel=1e-9, abs=1e-10
    )


@pytest.mark.breaks(
    "companion/backprop.py",
    "return (gradient - differences).abs().max().item() / size",
    "return (gradient - differences).abs().max().item()",
)
def test_the_check_measures_the_largest_error_relative_to_the_gradient() -> None:
    point = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    right = 3 * point**2

    def cube(x: torch.Tensor) -> torch.Tensor:
        return (x**3).sum()

    assert backprop.gradient_check(cube, point, right) < 1e-8
    off = right + torch.tensor([0.0, 0.0, -6.0], dtype=torch.float64)
    assert backprop.gradient_check(cube, point, off) == pytest.approx(0.5, rel=1e-6)
    with pytest.raises(ValueError, match=r"point's shape \(3,\), got \(2,\)"):
        backprop.gradient_check(cube, point, right[:2])
    with pytest.raises(ValueError, match="does not change"):
        backprop.gradient_check(lambda x: (0 * x).sum(), point, right)


@pytest.mark.breaks(
    "companion/backprop.py",
    "tuple(function(bias) for bias in self.biases)\n        return MLP",
    "self.biases\n        return MLP",
)
def test_map_takes_each_weight_and_then_each_bias() -> None:
    network = backprop.random_mlp([3, 4, 2], "tanh", bias=True, seeds=2)
    seen: list[Tensor] = []
    mapped = network.map(lambda part: seen.append(part) or part + 1)
    parts = [*network.weights, *network.biases]
    assert [id(part) for part in seen] == [id(part) for part in parts]
    assert all(
        torch.equal(a, b + 1) for a, b in zip((*mapped.weights, *mapped.biases), parts, strict=True)
    )
    bare = backprop.random_mlp([3, 4, 2], "relu")
    assert bare.map(torch.neg).biases is None
    assert bare.map(torch.neg).activation is bare.activation


@pytest.mark.breaks("companion/backprop.py", "- 1)\n    sizes = [inputs", ")\n    sizes = [inputs")
def test_classifiers_are_random_networks_of_equal_layers() -> None:
    models = backprop.classifiers("tanh", 3.0, 4, width=7, inputs=5, outputs=2, seeds=[3, 4])
    options = {"weight_variance": 3.0, "bias": True, "seeds": [3, 4]}
    drawn = backprop.to_modules(backprop.random_mlp([5, 7, 7, 7, 2], "tanh", **options))
    assert [str(model) for model in models] == [str(model) for model in drawn]
    for one, other in zip(models, drawn, strict=True):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    linear = backprop.classifiers("relu", 2.0, 1, seeds=1)[0]
    assert [tuple(p.shape) for p in linear.parameters()] == [(10, 64), (10,)]
    with pytest.raises(ValueError, match="depth must be at least 1"):
        backprop.classifiers("relu", 2.0, 0)


@pytest.mark.breaks("companion/backprop.py", "biases[at : at + count]", "biases[:count]")
@pytest.mark.parametrize("bias", [True, False])
def test_modules_come_back_as_the_networks_they_were(bias: bool) -> None:
    network = backprop.random_mlp([4, 5, 3], "tanh", weight_variance=1.0, bias=bias, seeds=3)
    models = backprop.to_modules(network.map(lambda part: part + 0.1))
    found = backprop.of_modules(models, "tanh")
    expected = network.map(lambda part: part + 0.1)
    for mine, theirs in zip(found.weights, expected.weights, strict=True):
        assert torch.equal(mine, theirs)
    assert (found.biases is None) == (not bias)
    for mine, theirs in zip(found.biases or (), expected.biases or (), strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        models[0][0].weight.zero_()
    assert torch.equal(found.weights[0], expected.weights[0])


def test_no_modules_are_no_networks() -> None:
    with pytest.raises(ValueError, match="at least one network, got none"):
        backprop.of_modules([], "tanh")


@pytest.mark.parametrize(
    "models",
    [
        [nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))],
        [nn.Sequential(nn.Linear(3, 3), nn.Tanh())],
        [nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))],
        [nn.Sequential(nn.Linear(3, n), nn.Tanh(), nn.Linear(n, 3)) for n in (3, 4)],
        [nn.Sequential(nn.Linear(3, 3, bias=b)) for b in (True, False)],
    ],
    ids=["another", "last", "norm", "sizes", "biases"],
)
def test_other_modules_are_no_such_networks(models: list[nn.Sequential]) -> None:
    with pytest.raises(ValueError, match=r"models\[[01]\] is not of linear layers with Tanh"):
        backprop.of_modules(models, "tanh")
