"""Inputs on a common scale, and what their scale does to gradient descent."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from companion._lib.arguments import floating, one_of
from companion.data.sets import Split

Scaling = Literal["standardize", "range", "whiten"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)


def scaled(split: Split, how: Scaling) -> Split:
    """Return a split whose inputs are shifted and scaled by what its training inputs are like.

    A feature that is the same in all training inputs says nothing and becomes 0, in the test inputs
    too. In the same way ``"whiten"`` drops the directions in which the training inputs do not vary:
    of rank r they keep all their features, but lie in r dimensions, with variance 1 in each. What
    varies by less than float rounding of the largest direction counts as not varying. Directions
    that hardly vary are stretched most, and test inputs may lie far out in them.

    Args:
        split: inputs (examples, features).
        how: ``"standardize"`` each feature to mean 0 and variance 1; each to the ``"range"`` from
            0 to 1, which test inputs may leave; or ``"whiten"``, so that features have mean 0,
            variance 1 and no correlation, turned as little as possible (ZCA).

    Returns:
        A :class:`Split` with other inputs of the same shapes and type, and the same targets.

    Raises:
        ValueError: if ``how`` is another word, or the training inputs are not (examples, features)
            with one of each, or not finite.
        TypeError: if they are not a floating-point tensor.

    Source: LeCun et al. (1998), "Efficient BackProp", section 4.3.

    Example:
        >>> x = torch.tensor([[0.0, 7.0], [10.0, 7.0]], dtype=torch.float64)
        >>> labels = torch.tensor([0, 1])
        >>> scaled(Split(x, labels, x, labels), "standardize").train_inputs.tolist()
        [[-1.0, 0.0], [1.0, 0.0]]

    """
    train = _matrix("split.train_inputs", split.train_inputs)
    transform = {"standardize": _standardizing, "range": _to_range, "whiten": _whitening}[
        one_of("how", how, SCALINGS)
    ](train)
    return split._replace(train_inputs=transform(train), test_inputs=transform(split.test_inputs))


def condition_number(inputs: Tensor) -> float:
    """Return the condition number that gradient descent on a linear layer with bias meets.

    With squared error, the Hessian for each output is the second moment E[zzᵀ] of z = (x, 1), an
    input and the 1 that the bias multiplies: not the covariance, since a mean correlates with the
    bias. This is its largest eigenvalue over its smallest but for those that are 0, which belong
    to directions that no input has and in which nothing moves. The steps to a given precision grow
    in proportion to it. For ``scaled(..., "whiten")`` it is 1.

    Args:
        inputs: (examples, features).

    Raises:
        ValueError: if the inputs are not (examples, features) with one of each, or not finite.
        TypeError: if they are not a floating-point tensor.

    Source: LeCun, Kanter & Solla (1991), "Eigenvalues of covariance matrices".

    Example:
        >>> x = torch.tensor([[3.0], [-3.0]], dtype=torch.float64)
        >>> round(condition_number(x), 6)
        9.0

    """
    matrix = _matrix("inputs", inputs)
    values = torch.linalg.svdvals(torch.cat([matrix, matrix.new_ones(len(matrix), 1)], dim=1))
    resolved = values[values > _resolution(values, max(len(matrix), matrix.shape[1] + 1))]
    return (resolved[0] / resolved[-1]).square().item()


def _matrix(name: str, inputs: object) -> Tensor:
    """Return the inputs if they are finite numbers, a row for each example."""
    matrix = floating(name, inputs)
    if matrix.dim() != 2 or matrix.numel() == 0:
        raise ValueError(
            f"{name} must be (examples, features) with at least one of each, "
            f"got {tuple(matrix.shape)}"
        )
    if not matrix.isfinite().all():
        raise ValueError(f"{name} must be finite, got inf or nan among them")
    return matrix


def _varying(train: Tensor, factors: Tensor) -> Tensor:
    """Return the factors of the features that vary, and 0 for the others."""
    return torch.where(train.amax(0) > train.amin(0), factors, 0.0)


def _standardizing(train: Tensor) -> Callable[[Tensor], Tensor]:
    mean, factors = train.mean(0), _varying(train, 1 / train.std(0, correction=0))
    return lambda inputs: (inputs - mean) * factors


def _to_range(train: Tensor) -> Callable[[Tensor], Tensor]:
    low, factors = train.amin(0), _varying(train, 1 / (train.amax(0) - train.amin(0)))
    return lambda inputs: (inputs - low) * factors


def _whitening(train: Tensor) -> Callable[[Tensor], Tensor]:
    mean = train.mean(0)
    centred = (train - mean) * _varying(train, torch.ones_like(mean))
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    kept = values > _resolution(values, max(train.shape))
    across = directions[kept]
    turned = across.mT @ (across * (len(train) ** 0.5 / values[kept])[:, None])
    turned = _varying(train, _varying(train, turned).mT)
    return lambda inputs: (inputs - mean) @ turned


def _resolution(values: Tensor, size: int) -> float:
    """Return below what singular values are rounding, as ``torch.linalg.matrix_rank`` does."""
    return values.amax().item() * size * torch.finfo(values.dtype).eps
