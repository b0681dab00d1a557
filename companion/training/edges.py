"""How long a step may be: edges of stability in closed form, and descents that find them.

On the quadratic h·x²/2 each rule is linear in what it keeps, so that a product ηh of rate and
curvature decides alone whether the distance from the minimum decays. Two layers are enough for a
loss whose curvature gives way when the product is too large: the catapult.

Sources: Cohen et al. (2021, 2022), arXiv 2103.00065 and 2207.14484; Lewkowycz et al. (2020), arXiv
2003.02218.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from companion._lib import random
from companion._lib.arguments import finite, non_negative, one_of, positive_integer

Rule = Literal["gradient_descent", "momentum", "nesterov", "adam", "rmsprop"]
RULES: tuple[Rule, ...] = get_args(Rule)


def edge(rule: Rule, *, momentum: float = 0.9) -> float:
    """Return the largest product of rate and curvature at which a rule descends a quadratic.

    Those of Adam and RMSProp hold while what they divide by stays as it is, and the curvature is
    then that in its units: h divided by √v + ε.

    Args:
        rule: ``"gradient_descent"``; ``"momentum"`` or ``"nesterov"``, in torch's convention, in
            which the rate multiplies the sum of all gradients, each weighted with β to the power
            of its age; ``"adam"``, whose momentum is an average with weights 1 − β; or
            ``"rmsprop"``.
        momentum: β, or Adam's β₁; of no effect on gradient descent and RMSProp.

    Returns:
        2; 2(1 + β); 2(1 + β)/(1 + 2β); 2(1 + β)/(1 − β); 2.

    Raises:
        ValueError: if ``rule`` is another word, or ``momentum`` is not from 0 to below 1.
        TypeError: if ``momentum`` is not a number.

    Source: Cohen et al. (2021), arXiv 2103.00065, and (2022), arXiv 2207.14484, for Adam.

    Example:
        >>> round(edge("momentum"), 6), round(edge("adam"), 6)
        (3.8, 38.0)

    """
    beta = non_negative("momentum", momentum)
    if beta >= 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum}")
    kept = {"gradient_descent": 0.0, "rmsprop": 0.0}.get(one_of("rule", rule, RULES), beta)
    damping = {"nesterov": 1 + 2 * kept, "adam": 1 - kept}.get(rule, 1.0)
    return 2 * (1 + kept) / damping


class Descent(NamedTuple):
    """Descents of quadratics with T steps, C curvatures and R rates.

    Attributes:
        distances: (T + 1, R, C) from the minimum, with sign, the start first.
        decays: (R, C) whether none in the second half is as far out as the farthest of the first.

    """

    distances: Tensor
    decays: Tensor


def descend_quadratic(
    optimizer: Callable[[Sequence[float]], Callable[[Iterable], torch.optim.Optimizer]],
    *,
    curvatures: Sequence[float],
    learning_rates: Sequence[float],
    steps: int,
    start: float = 1.0,
) -> Descent:
    """Descend h·x²/2 with torch's own update rule, from one start at every curvature and rate.

    What Adam or RMSProp divide by is held where it is by an ε of 1 and a start of 1e-100, say: it
    is then ε, and the gradient so far below that its square is nothing beside it. It stays so as
    long as the path does: one that grows out of there is held up by a divisor that grows with it.

    Args:
        optimizer: from a list of rates, what :func:`companion.training.train` takes, as
            ``training.sgd`` and ``training.adam`` do.
        curvatures: C of them, each h.
        learning_rates: R of them, each η.
        steps: number of updates. Close to an edge it takes many to tell the two sides apart.
        start: x at first.

    Returns:
        A :class:`Descent`; a path that has left the numbers goes on as nan.

    Raises:
        TypeError: if ``steps`` is not a whole number, or ``start`` or a curvature is not a number.
        ValueError: if ``steps`` is below 1, ``start`` is 0, one of them is not finite, or there is
            no curvature or rate; the optimizer's own for its rates.

    Example:
        >>> from companion import training
        >>> descend_quadratic(
        ...     training.sgd, curvatures=[1.0, 4.0], learning_rates=[0.4, 0.6], steps=20
        ... ).decays.tolist()
        [[True, True], [True, False]]

    """
    rates = [float(rate) for rate in learning_rates]
    bends = [finite("each of curvatures", each) for each in curvatures]
    if not rates or not bends or finite("start", start) == 0:
        raise ValueError(
            "it takes at least one rate, at least one curvature and a start other than 0, "
            f"got {rates}, {bends} and {start}"
        )
    h = torch.tensor(bends, dtype=torch.float64)
    # A row for each rate, as one tensor holds a parameter of all networks in training.train.
    x = torch.full((len(rates), len(h)), start, dtype=torch.float64, requires_grad=True)
    update, path = optimizer(rates)([x]), [x.detach().clone()]
    for _ in range(positive_integer("steps", steps)):
        x.grad = h * path[-1]
        update.step()
        path.append(x.detach().clone())
    distances = torch.stack(path)
    first, second = distances.abs().tensor_split([math.ceil(len(path) / 2)])
    return Descent(distances, second.amax(0) < first.amax(0))


class Catapult(NamedTuple):
    """Runs of R rates and S seeds over T steps.

    Attributes:
        loss: (T + 1, R, S) f²/2, at the start and after each step.
        curvature: (T + 1, R, S) λ, the kernel's eigenvalue: the curvature of the loss where f is 0.
        learning_rates: (R, S) η of each run.

    """

    loss: Tensor
    curvature: Tensor
    learning_rates: Tensor


def catapult(
    products: Sequence[float], *, width: int = 100, steps: int = 200, seeds: int | Sequence[int] = 8
) -> Catapult:
    """Descend (v·u)²/2n: a linear network with one hidden layer, one datum x = 1 and target 0.

    Its tangent kernel is the number λ = (‖u‖² + ‖v‖²)/n, and each step multiplies the output f by
    1 − ηλ + η²f²/n and adds ηf²(ηλ − 4)/n to λ. Where ηλ is below 2 the output decays and λ hardly
    moves; between 2 and 4 the output grows until λ has come down below 2/η; above 4 both grow.

    Args:
        products: R products ηλ of rate and kernel at the start, each at least 0; every network
            gets the rate that makes its own.
        width: n, hidden units.
        steps: number of updates.
        seeds: the seeds to draw, or how many, counting from 0; u and v are standard normal.

    Returns:
        A :class:`Catapult`, float64; a run that has left the numbers goes on as inf and nan.

    Raises:
        TypeError: if a count is not a whole number, or a product is not a number.
        ValueError: if a count is below 1, a product is negative or not finite, or there is none.

    Source: Lewkowycz et al. (2020), arXiv 2003.02218.

    Example:
        >>> found = catapult([1.0, 3.0, 5.0], steps=100, seeds=1)
        >>> (found.loss[-1, :, 0] < 1e-6).tolist()
        [True, True, False]

    """
    sizes = [non_negative("each of products", each) for each in products]
    if not sizes:
        raise ValueError("products needs at least one number, got none")
    n = positive_integer("width", width)
    drawn = random.normal(random.generators(random.seed_list(seeds)), 2, n)
    rates = torch.tensor(sizes, dtype=torch.float64)[:, None] / (drawn.square().sum((1, 2)) / n)
    u, v = drawn.expand(len(rates), -1, -1, -1).unbind(2)
    losses, kernels = [], []
    for step in range(positive_integer("steps", steps) + 1):
        f = (u * v).sum(-1) / math.sqrt(n)
        losses.append(f.square() / 2)
        kernels.append((u.square() + v.square()).sum(-1) / n)
        if step < steps:
            pull = (rates * f / math.sqrt(n))[..., None]
            u, v = u - pull * v, v - pull * u
    return Catapult(torch.stack(losses), torch.stack(kernels), rates)
