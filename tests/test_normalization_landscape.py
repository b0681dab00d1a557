"""Walks along the gradient against quadratics known exactly and torch's own descent."""

from collections.abc import Callable

import pytest
import torch
from helpers import normal, same
from torch import Tensor, nn
from torch.nn import functional

from companion import backprop
from companion._lib import random
from companion.data import Split, digits
from companion.normalization import landscape

KIND = pytest.mark.parametrize(
    ("norm", "after"),
    [("none", False), ("batch", False), ("layer", False), ("batch", True), ("layer", True)],
)


@pytest.mark.breaks(
    "companion/normalization/landscape.py",
    "layers += [linear, phi, *own] if after else [linear, *own, phi]",
    "layers += [linear, *own, phi]",
    case="batch-True",
)
@KIND
def test_networks_are_the_plain_ones_with_a_norm(norm: str, after: bool) -> None:
    sizes = [5, 4, 3, 2]
    model = landscape.networks(sizes, "tanh", norm=norm, after=after, seeds=[8])[0]
    module = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}.get(norm)
    hidden = [nn.Linear, *([nn.Tanh, module] if after else [module, nn.Tanh])]
    expected = [kind for kind in [*hidden, *hidden, nn.Linear] if kind is not None]
    assert [type(layer) for layer in model] == expected
    plain = backprop.random_mlp(sizes, "tanh", weight_variance=2.0, seeds=[8], bias=True).weights
    found = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    for one, other in zip(found, plain, strict=True):
        assert torch.equal(one, other[0])
    assert not list(model.buffers())
    assert model(normal(4, 5)).shape == (4, 2)


def quadratic(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.squeeze(-1) - targets).square().mean() / 2


@pytest.mark.breaks(
    "companion/normalization/landscape.py",
    "other[name] - here.gradients[name] for name",
    "other[name] for name",
)
@pytest.mark.breaks(
    "companion/normalization/landscape.py",
    "[size * unit * length for size in step_sizes]",
    "[size * unit for size in step_sizes]",
)
@pytest.mark.breaks(
    "companion/normalization/landscape.py",
    "p - each[name] * gradient[name] for name, p in",
    "p + each[name] * gradient[name] for name, p in",
)
def test_a_walk_on_a_quadratic_is_known_exactly() -> None:
    x, t, etas = normal(9, 4), normal(9, seed=1), [0.5, 0.1, 2.0]
    torch.manual_seed(3)
    models = [nn.Linear(4, 1, bias=False).double() for _ in range(3)]
    found = landscape.along_gradient(models, x, t, step_sizes=etas, loss=quadratic)
    assert found.step_sizes.tolist() == etas
    hessian = x.T @ x / 9
    for i, model in enumerate(models):
        w = model.weight[0].detach()
        g = x.T @ (x @ w - t) / 9
        bend = hessian @ g
        start = (x @ w - t).square().mean() / 2
        same(found.loss[i], start)
        same(found.gradient_norm[i], g.norm())
        along = torch.stack([start - e * g @ g + e**2 / 2 * g @ bend for e in etas])
        same(found.losses[i], along)
        same(found.gradient_changes[i], found.step_sizes * bend.norm())
        same(found.distances[i], found.step_sizes * g.norm())
        same(found.relative_changes[i], found.step_sizes * bend.norm() / g.norm())
        same(found.smoothness[i], bend.norm() / g.norm())
        same(found.loss_range[i], along.max() - along.min())
        same(found.gradient_range[i], 2.0 * bend.norm())
        assert model.weight.grad is None


@pytest.mark.breaks(
    "companion/normalization/landscape.py",
    "[name for name, p in parameters.items() if p.dim() > 2]",
    "list(parameters)",
)
@pytest.mark.breaks(
    "companion/normalization/landscape.py", "size * unit)\n        there", "size)\n        there"
)
def test_a_relative_step_moves_the_weights_by_that_share_of_their_length() -> None:
    models, x, t = landscape.networks([5, 4, 3], "tanh", seeds=3), normal(9, 5), torch.arange(9) % 3
    found = landscape.along_gradient(models, x, t, step_sizes=[0.01, 0.2], relative=True)
    assert found.step_sizes.tolist() == [0.01, 0.2]
    for i, model in enumerate(models):
        functional.cross_entropy(model(x), t).backward()
        weights = [p for p in model.parameters() if p.dim() == 2]
        assert len(weights) < len(list(model.parameters()))  # γ and β move along, uncounted
        long = torch.cat([p.detach().flatten() for p in weights]).norm()
        eta = long / torch.cat([p.grad.flatten() for p in weights]).norm()
        sizes = [share * eta.item() for share in (0.01, 0.2)]
        alone = landscape.along_gradient([model], x, t, step_sizes=sizes)
        for name in ("distances", "losses", "gradient_changes", "relative_changes", "smoothness"):
            same(getattr(found, name)[i], getattr(alone, name)[0])


def test_relative_steps_need_weights() -> None:
    scale = nn.LayerNorm(3).double()
    with pytest.raises(ValueError, match="relative steps need weights"):
        landscape.along_gradient(
            [scale], X, normal(4, 3), step_sizes=[0.1], relative=True, loss=functional.mse_loss
        )


def test_smoothness_is_the_largest_over_the_steps() -> None:
    # A quartic bends more the further one goes, to a point: the largest quotient is at one step.
    def quartic(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).pow(4).mean()

    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    found = landscape.along_gradient([model], one, zero, step_sizes=[0.01, 0.1], loss=quartic)
    quotients = [abs(4 * (2 - 32 * e) ** 3 - 32) / (32 * e) for e in (0.01, 0.1)]
    assert found.smoothness.item() == pytest.approx(max(quotients))
    assert found.gradient_range.item() == pytest.approx(
        max(q * 32 * e for q, e in zip(quotients, (0.01, 0.1)))
    )


def small() -> Split:
    data = digits()
    return data._replace(
        train_inputs=data.train_inputs[:200], train_targets=data.train_targets[:200]
    )


@pytest.mark.breaks(
    "companion/normalization/landscape.py", "record_every=every,", "record_every=every + 1,"
)
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_walks_in_training_are_those_of_torchs_sgd(norm: str) -> None:
    models = landscape.networks([64, 8, 10], "tanh", norm=norm, seeds=2)
    before = [p.clone() for model in models for p in model.parameters()]
    data, kind = small(), {"step_sizes": [0.1, 0.3]}
    found = landscape.landscapes(
        models, data, learning_rate=0.2, steps=5, measure_every=2, batch_size=30, seed=4, **kind
    )
    after = [p for model in models for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert found.losses.shape == (3, 2, 2)
    generators = random.generators([4, 5])
    walks = [torch.optim.SGD(model.parameters(), lr=0.2) for model in models]
    for step in range(5):
        rows = random.rows(generators, 200, 30)
        for i, (model, walk) in enumerate(zip(models, walks, strict=True)):
            batch = data.train_inputs[rows[i]], data.train_targets[rows[i]]
            if step % 2 == 0:
                alone = landscape.along_gradient([model], *batch, **kind)
                for name in ("loss", "gradient_norm", "losses", "gradient_changes", "smoothness"):
                    same(getattr(found, name)[step // 2, i], getattr(alone, name)[0])
            walk.zero_grad()
            functional.cross_entropy(model(batch[0]), batch[1]).backward()
            walk.step()


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs.sum(-1), targets.double())


@pytest.mark.breaks(
    "companion/normalization/landscape.py",
    "alive = [stop is None or step <= stop.step for stop in record.stopped]",
    "alive = [True for stop in record.stopped]",
)
@pytest.mark.parametrize("together", [True, False])
def test_a_network_that_has_stopped_is_nan_from_then_on(together: bool) -> None:
    models = landscape.networks([64, 8, 10], "identity", norm="none", seeds=2)
    with torch.no_grad():
        models[1][0].weight.mul_(1e100)  # its loss is finite, and overflows after one step
        models[0][0].weight.mul_(1e100 if together else 1e-3)
    options = {"learning_rate": 1e-4, "steps": 5, "measure_every": 2, "loss": squared}
    found = landscape.landscapes(models, small(), step_sizes=[1e-9], **options)
    assert found.loss.shape == (3, 2)
    assert found.losses.shape == (3, 2, 1)
    assert found.loss[0].isfinite().all()
    for values in (found.loss, found.gradient_norm, found.losses[..., 0]):
        assert values[1:, 1].isnan().all()
        assert values[1:, 0].isnan().all() == together
    shift = landscape.covariate_shift(models, small(), layer=2, **options)
    assert shift.gradient[1:, 1].isnan().all()


X = normal(4, 3)


def walk(**kind: object) -> object:
    models = landscape.networks([3, 2, 2])
    return landscape.along_gradient(models, X, torch.tensor([0, 1, 1, 0]), **kind)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: landscape.networks([3, 2], norm="rms"), "norm must be one of"),
        (lambda: walk(step_sizes=[]), "step_sizes needs at least one size above 0, got"),
        (lambda: walk(step_sizes=[0.1, 0]), "step_sizes needs at least one size above 0"),
        (lambda: walk(step_sizes=[-0.1]), "each of step_sizes must be finite and at least 0"),
        (
            lambda: landscape.along_gradient([], X, normal(3), step_sizes=[1.0]),
            "models needs at least one",
        ),
        (
            lambda: landscape.covariate_shift(
                landscape.networks([64, 4, 10]), small(), layer=2, share=-1, learning_rate=0.1
            ),
            "share must be finite and at least 0",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------- what the layers below do


@pytest.mark.breaks(
    "companion/normalization/landscape.py",
    "now.parameters | _moved(here, slope, size)",
    "_moved(now.parameters, now.gradients, size)",
    case="none-3-None",
)
@pytest.mark.breaks(
    "companion/normalization/landscape.py",
    "else relative * unit",
    "else relative * _unit(now.parameters, now.gradients)",
    case="none-3-0.02",
)
@pytest.mark.parametrize("share", [None, 0.02])
@pytest.mark.parametrize(("norm", "layer"), [("none", 3), ("batch", 3), ("batch", 2)])
def test_the_covariate_shift_is_what_updating_the_layers_below_does(
    norm: str, layer: int, share: float | None
) -> None:
    models = landscape.networks([64, 8, 7, 10], "tanh", norm=norm, seeds=2)
    data, rate = small(), 0.7
    kind = {"layer": layer, "learning_rate": rate, "steps": 3, "measure_every": 3, "share": share}
    found = landscape.covariate_shift(models, data, batch_size=30, seed=4, **kind)
    assert found.inputs.shape == found.gradient.shape == (2, 2)
    generators = random.generators([4, 5])
    for step in range(4):
        rows = random.rows(generators, 200, 30)
        for i, model in enumerate(models):
            x, y = data.train_inputs[rows[i]], data.train_targets[rows[i]]
            place = [j for j, part in enumerate(model) if isinstance(part, nn.Linear)][layer - 1]
            model.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            before = model[place].weight.grad.clone()
            entering = model[:place](x).detach()
            below = [p.detach().clone() for p in model[:place].parameters()]
            weights = [p for p in model[:place].parameters() if p.dim() == 2]
            long = torch.cat([p.detach().flatten() for p in weights]).norm()
            slope = torch.cat([p.grad.flatten() for p in weights]).norm()
            size = rate if share is None else share * long / slope
            torch.optim.SGD(model[:place].parameters(), lr=float(size)).step()
            if step % 3 == 0:
                same(found.length[step // 3, i], size * slope / long)
                moved = model[:place](x).detach().mean(0) - entering.mean(0)
                same(found.inputs[step // 3, i], (moved.abs() / entering.std(0)).mean())
                weight = model[place].weight
                again = torch.autograd.grad(functional.cross_entropy(model(x), y), weight)[0]
                same(found.gradient[step // 3, i], (again - before).norm() / before.norm())
            with torch.no_grad():
                for p, old in zip(model[:place].parameters(), below, strict=True):
                    p.copy_(old)
            torch.optim.SGD(model.parameters(), lr=rate).step()


@pytest.mark.breaks(
    "companion/normalization/landscape.py",
    "shift.where(spread > 0, torch.nan).nanmean(-1)",
    "shift.nan_to_num().mean(-1)",
)
def test_an_input_that_does_not_vary_is_left_out_of_the_shift() -> None:
    model = landscape.networks([64, 4, 10], "relu", norm="none")[0]
    alive = landscape.covariate_shift([model], small(), layer=2, learning_rate=0.1, steps=1)
    with torch.no_grad():
        for parameter in (model[0].weight, model[0].bias, model[2].weight):
            # A fifth unit that is off.
            rows = parameter.shape[0] if parameter is not model[2].weight else None
            pad = torch.full_like(parameter[:1] if rows else parameter[:, :1], -1.0)
            parameter.set_(torch.cat([parameter, pad], 0 if rows else 1))
        model[0].weight[-1] = 0.0
    found = landscape.covariate_shift([model], small(), layer=2, learning_rate=0.1, steps=1)
    same(found.inputs, alive.inputs)


@pytest.mark.parametrize("layer", [1, 4])
def test_a_layer_without_one_below_is_refused(layer: int) -> None:
    models = landscape.networks([64, 4, 4, 10])
    with pytest.raises(ValueError, match=f"layer must be from 2 to 3, got {layer}"):
        landscape.covariate_shift(models, small(), layer=layer, learning_rate=0.1)
