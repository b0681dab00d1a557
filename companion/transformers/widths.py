"""How far a few steps of Adam move each layer's output, in networks of several widths, and μP.

Adam moves every weight by about the same, and what a layer's weights do to its output adds up over
its inputs: in proportion to how many there are. The maximal update parametrization (μP) takes that
out of the rates. Against a network of the same kind of a chosen base width it has

- rates divided by how many times as many inputs a linear layer has: the same for layers of the
  inputs, which have as many at each width; smaller for hidden layers and the last one;
- the rates of biases, norms and embeddings as they are;
- first weights of variance 1/fan_in, but 1/fan_in² for the last layer;
- queries · keys divided by the width of a head, not by its root.

Source: Yang et al. (2022), arXiv 2203.03466.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from companion import training
from companion._lib import random
from companion._lib.arguments import non_negative, positive_integer
from companion._lib.probing import hooked
from companion._lib.stacking import stack
from companion.data import Split

Make = Callable[[int, Sequence[int]], Sequence[nn.Module]]

#: What has a gain, a bias or a row for each word: no sum over units.
UNIT_BY_UNIT = (nn.LayerNorm, nn.BatchNorm1d, nn.Embedding)

# ---------------------------------------------------------------- μP for a reader's own modules


def mup_rates(
    model: nn.Module,
    narrow: nn.Module,
    *,
    learning_rate: float,
    added: Collection[str] = (),
) -> dict[str, float]:
    """Return the learning rate that μP gives each parameter of a model, for Adam.

    Which dimensions grow with the width is seen by comparing shapes with those of ``narrow``. A
    linear layer's weight has the rate times narrow's in_features over its own; all else has the
    rate as it is. Recognized are the weights and biases of ``nn.Linear``, what ``nn.LayerNorm``,
    ``nn.BatchNorm1d`` and ``nn.Embedding`` learn, and parameters named in ``added``. Anything else
    is refused, since its shape does not say over what it sums.

    Args:
        model: to be trained.
        narrow: the same model at the base width, for which the learning rate is right. The two must
            differ in nothing but their width: two numbers of classes would be taken for widths.
        learning_rate: of the narrow model.
        added: last names of other parameters that are added to units, or multiply them, one by one,
            as ``"positions"`` does in this package's transformers, or ``"gate"``.

    Returns:
        By name, in the order of ``named_parameters``.

    Raises:
        TypeError: if ``learning_rate`` is not a number, or ``added`` is one word.
        ValueError: if it is negative or not finite; if the two models have not the same parameters
            by name, or a parameter is not recognized or stands in two places.

    Source: Yang et al. (2022), arXiv 2203.03466.

    Example:
        >>> def mlp(width):
        ...     layers = [nn.Linear(64, width), nn.Linear(width, width), nn.Linear(width, 10)]
        ...     return nn.Sequential(*layers)
        >>> rates = mup_rates(mlp(256), mlp(64), learning_rate=0.01)
        >>> [rates[f"{layer}.weight"] for layer in range(3)], rates["1.bias"]
        ([0.01, 0.0025, 0.0025], 0.01)

    """
    rate = non_negative("learning_rate", learning_rate)
    found = {name: rate for name, _ in model.named_parameters()}
    for name, layer, base in _linears(model, narrow, added):
        found[f"{name}.weight".removeprefix(".")] = rate * base.in_features / layer.in_features
    return found


def mup_groups(
    model: nn.Module,
    narrow: nn.Module,
    *,
    learning_rate: float,
    added: Collection[str] = (),
) -> list[dict]:
    """Return a model's parameters with the rates of μP, as ``torch.optim.Adam`` takes them.

    :func:`mup_start_` sets the first weights that belong to them. What divides an attention's
    logits stands in no parameter, and is the model's own affair.

    Args:
        model: as for :func:`mup_rates`.
        narrow: likewise.
        learning_rate: likewise.
        added: likewise.

    Returns:
        A dict with ``params`` and ``lr`` for each rate, the largest first.

    Raises:
        TypeError: as there.
        ValueError: as there.

    Example:
        >>> wide, narrow = (nn.Sequential(nn.Linear(8, n), nn.Linear(n, 1)) for n in (32, 16))
        >>> update = torch.optim.Adam(mup_groups(wide, narrow, learning_rate=0.01))
        >>> [(len(group["params"]), group["lr"]) for group in update.param_groups]
        [(3, 0.01), (1, 0.005)]

    """
    rates = mup_rates(model, narrow, learning_rate=learning_rate, added=added)
    parameters = dict(model.named_parameters())
    return [
        {"params": [parameters[name] for name, own in rates.items() if own == rate], "lr": rate}
        for rate in sorted(set(rates.values()), reverse=True)
    ]


def mup_start_(model: nn.Module, narrow: nn.Module, *, added: Collection[str] = ()) -> None:
    """Give a model that was drawn with variances in proportion to 1/fan_in the first weights of μP.

    The weights of the last linear layers, whose inputs grow with the width and whose outputs do
    not, are multiplied by the root of narrow's in_features over their own. All else stays.

    Args:
        model: as for :func:`mup_rates`; changed in place. The variances of its layers of the inputs
            must not depend on the width, as Glorot's do.
        narrow: likewise; stays as it is.
        added: likewise.

    Raises:
        TypeError: if ``added`` is one word.
        ValueError: as there.

    Example:
        >>> wide, narrow = (nn.Sequential(nn.Linear(8, n), nn.Linear(n, 1)) for n in (64, 16))
        >>> before = wide[1].weight.norm().item()
        >>> mup_start_(wide, narrow)
        >>> round(wide[1].weight.norm().item() / before, 6)
        0.5

    """
    with torch.no_grad():
        for _, layer, base in _linears(model, narrow, added):
            if layer.out_features == base.out_features:
                layer.weight.mul_(math.sqrt(base.in_features / layer.in_features))


def _linears(
    model: nn.Module, narrow: nn.Module, added: Collection[str]
) -> list[tuple[str, nn.Linear, nn.Linear]]:
    """Return each linear layer with that of the narrow model, once all else is recognized."""
    if isinstance(added, str):
        raise TypeError(f"added must be a collection of names, got {added!r}")
    theirs = dict(narrow.named_parameters(remove_duplicate=False))
    ours = dict(model.named_parameters(remove_duplicate=False))
    if list(theirs) != list(ours):
        odd = sorted(ours.keys() ^ theirs.keys()) or "another order"
        raise ValueError(f"narrow must have the parameters that model has, by name; got {odd}")
    if len(ours) > len(list(model.parameters())):
        raise ValueError("model must have each parameter in one place, got one that is shared")
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            base = narrow.get_submodule(name)
            if not isinstance(base, nn.Linear):
                raise ValueError(f"narrow must have a Linear {name!r}, got {type(base).__name__}")
            found.append((name, module, base))
        elif not isinstance(module, UNIT_BY_UNIT):
            own = [each for each, _ in module.named_parameters(recurse=False)]
            unknown = [f"{name}.{each}".removeprefix(".") for each in own if each not in added]
            if unknown:
                raise ValueError(
                    f"{unknown} of {type(module).__name__} is not recognized: μP is known for the "
                    f"parameters of Linear, LayerNorm, BatchNorm1d and Embedding, and those that "
                    f"added names"
                )
    return found


# ---------------------------------------------------------------- measured


class Coordinates(NamedTuple):
    """How far a few steps move what linear layers return.

    Attributes:
        layers: names of the L linear layers, in the order in which they run.
        changes: (seeds, widths, L) root mean square of the change, over examples and units.
        exponents: (seeds, L) slope of its logarithm over that of the width, by least squares: 0
            where the change does not depend on the width, 1 where it is in proportion.

    """

    layers: tuple[str, ...]
    changes: Tensor
    exponents: Tensor


def coordinate_check(
    make: Make,
    data: Split,
    *,
    widths: Sequence[int],
    learning_rate: float,
    base_width: int | None = None,
    added: Collection[str] = (),
    steps: int = 3,
    batch_size: int = 32,
    seeds: int | Sequence[int] = 4,
) -> Coordinates:
    """Measure how far a few steps of Adam move each linear layer's output, at several widths.

    Args:
        make: returns one model for each seed, called with a width and a list of seeds. Their loss
            is the cross entropy.
        data: to train on; the first examples, as many as a batch has, are those compared.
        widths: at least two of them.
        learning_rate: of Adam.
        base_width: None for the same rate for every parameter (the standard parametrization); or
            the width at which those of μP (:func:`mup_rates`, :func:`mup_start_`) are the same.
        added: as for :func:`mup_rates`.
        steps: of Adam.
        batch_size: examples a step.
        seeds: the seeds to draw, or how many, counting from 0.

    Returns:
        :class:`Coordinates`.

    Raises:
        TypeError: if a count is not a whole number, or the rate is not a number.
        ValueError: if a count is below 1, there are not two different widths, there is no seed, the
            rate is negative or not finite, or the models' parameters are not recognized.

    Source: Yang et al. (2022), arXiv 2203.03466.

    Example:
        >>> from companion import backprop
        >>> from companion.data import digits
        >>> def make(width, seeds):
        ...     return backprop.classifiers("relu", 2.0, 3, width=width, seeds=seeds)
        >>> options = {"widths": [32, 128], "learning_rate": 1e-4, "seeds": 2}
        >>> plain = coordinate_check(make, digits(), **options)
        >>> mup = coordinate_check(make, digits(), base_width=32, **options)
        >>> plain.layers, bool((plain.exponents[:, 1] > 0.5).all())
        (('0', '2', '4'), True)
        >>> bool((mup.exponents[:, 1] < 0.25).all())
        True

    """
    seeds, rate = random.seed_list(seeds), non_negative("learning_rate", learning_rate)
    sizes = [positive_integer("widths", width) for width in widths]
    if len(set(sizes)) < 2:
        raise ValueError(f"widths needs at least two that differ, got {list(widths)}")
    narrow = None if base_width is None else make(positive_integer("base_width", base_width), [0])
    data = Split(data.train_inputs, data.train_targets, *(each[:0] for each in data[2:]))
    examples = data.train_inputs[: positive_integer("batch_size", batch_size)]
    rows = []
    for width in sizes:
        models = list(make(width, seeds))
        rates = [rate] * len(list(models[0].parameters()))
        if narrow is not None:
            for model in models:
                mup_start_(model, narrow[0], added=added)
            known = mup_rates(models[0], narrow[0], learning_rate=rate, added=added)
            rates = list(known.values())
        before = _outputs(models, examples)
        training.train(
            models, data, optimizer=_rated_adam(rates), steps=steps, batch_size=batch_size,
            record_every=steps, seed=seeds, progress=False,
        )  # fmt: skip
        after = _outputs(models, examples)
        rows.append([(after[name] - before[name]).flatten(1) for name in before])
    changes = torch.stack(
        [torch.stack([each.square().mean(1).sqrt() for each in row], 1) for row in rows], 1
    )
    return Coordinates(tuple(before), changes, _slopes(sizes, changes))


def _rated_adam(rates: Sequence[float]) -> Callable[[Iterable], torch.optim.Optimizer]:
    """Return Adam with a rate for each parameter, in their order."""
    return lambda parameters: torch.optim.Adam(
        [{"params": [p], "lr": rate} for p, rate in zip(parameters, rates, strict=True)]
    )


def _outputs(models: Sequence[nn.Module], inputs: Tensor) -> dict[str, Tensor]:
    """Return what the linear layers return, (S, examples, …) by name, in the order they run."""
    skeleton, parameters = stack(models)
    found: dict[str, Tensor] = {}
    layers = [(n, m) for n, m in skeleton.named_modules() if isinstance(m, nn.Linear)]

    def keep(name: str, _entering: Tensor, output: Tensor) -> Tensor:
        found[name] = output
        return output

    def run(state: dict[str, Tensor]) -> dict[str, Tensor]:
        found.clear()
        functional_call(skeleton, state, (inputs,))
        return dict(found)

    with hooked(layers, keep), torch.no_grad():
        return vmap(run)(parameters)


def _slopes(widths: Sequence[int], changes: Tensor) -> Tensor:
    """Return the slope of log change over log width, by least squares over dimension 1."""
    x = torch.tensor(widths, dtype=changes.dtype).log()
    x = x - x.mean()
    return (x[:, None] * changes.log()).sum(1) / x.square().sum()
