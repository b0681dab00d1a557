"""The steps of wide random networks, each forward and back: weights, activation, norm, sum, mean.

:class:`State` is what the theory knows of a signal; each of its methods is one step, and a network
is one step after the other. What a step does to the gradient goes the other way, by
:attr:`State.back`.

Sources: Poole et al. (2016), arXiv 1606.05340; Schoenholz et al. (2017), arXiv 1611.01232; Yang &
Schoenholz (2017), arXiv 1712.08969, on sums; Yang et al. (2019), arXiv 1902.08129, on norms.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from torch import Tensor

from companion import activations
from companion._lib import quadrature
from companion._lib.arguments import non_negative, one_of, positive_integer
from companion.activations import Activation

NormKind = Literal["batch", "layer"]
NORM_KINDS: tuple[NormKind, ...] = get_args(NormKind)

# ---------------------------------------------------------------- means over normal numbers


def gaussian_mean(
    function: Callable[[Tensor], Tensor],
    variance: float,
    mean: float = 0.0,
    *,
    kinks: Iterable[float] = (),
) -> float:
    """Return E[f(z)] for z normal with this variance and mean.

    The quadrature refines itself until it is accurate to about 1e-13 of E|f(z)|, whatever the
    variance; f may grow as a power of z.

    Args:
        function: f, from a tensor to a tensor of the same shape.
        variance: of z.
        mean: of z.
        kinks: where f has kinks or jumps, other than at 0; stating them only saves time.

    Raises:
        ValueError: if the variance is negative, it or the mean is not finite, or f is not finite
            somewhere.
        TypeError: if the variance is not a number.

    Example:
        >>> import torch
        >>> round(gaussian_mean(torch.square, 4.0), 10)
        4.0

    """
    std = math.sqrt(non_negative("variance", variance))
    if not math.isfinite(mean):
        raise ValueError(f"mean must be finite, got {mean}")
    return float(quadrature.expectation(function, mean, std, kinks))


def chi(
    q: float,
    activation: str | Activation,
    weight_variance: float,
    *,
    correlation: float = 1.0,
) -> float:
    """Return χ, the factor on the squared gradient in one layer whose length is ``q``.

    With a correlation c below 1 it is σ_w² E[φ′(z₁)φ′(z₂)], the factor on the product of the
    gradients at two inputs. Both are slopes of maps: χ at c is the derivative of the correlation
    map there, if q is the length's fixed point.

    Args:
        q: variance of this layer's pre-activations.
        activation: its name, or an :class:`~companion.activations.Activation`.
        weight_variance: σ_w².
        correlation: c, of the pre-activations at two inputs.

    Raises:
        ValueError: if an argument is out of range; for c other than 0 and 1, if φ has kinks
            elsewhere than at 0.
        TypeError: if ``q`` or ``weight_variance`` is not a number.

    Example:
        >>> round(chi(1.0, "relu", weight_variance=2.0), 10)
        1.0
        >>> round(chi(1.0, "relu", weight_variance=2.0, correlation=0.0), 10)
        0.5

    """
    phi = activations.get(activation)
    weight_variance = non_negative("weight_variance", weight_variance)
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation must be from -1 to 1, got {correlation}")
    if correlation == 1:
        return weight_variance * activations.gaussian_moments(phi, q).slope_mean_square
    if correlation == 0:
        return weight_variance * activations.gaussian_moments(phi, q).slope_mean ** 2
    return weight_variance * _pair(lambda a, b: phi.slope(a) * phi.slope(b), phi, q, correlation)


def half_distance(correlation: float, q: float, activation: str | Activation) -> float:
    """Return ½ E[(φ(z₁) − φ(z₂))²], which keeps its digits where the correlation is near 1.

    Args:
        correlation: c, of the pre-activations z₁ and z₂ at two inputs, from -1 to 1.
        q: their variance, the same at both.
        activation: φ, its name, or an :class:`~companion.activations.Activation`.

    Raises:
        ValueError: if an argument is out of range; for a correlation other than 0 and 1, if φ has
            kinks elsewhere than at 0.
        TypeError: if ``q`` is not a number.

    """
    phi = activations.get(activation)
    function = phi.function
    if correlation == 1:
        return 0.0
    if correlation == 0:  # the variance, about the mean so that it keeps its digits too
        mean = activations.gaussian_moments(phi, q).mean
        return gaussian_mean(lambda z: (function(z) - mean) ** 2, q, kinks=phi.kinks)
    return _pair(lambda a, b: (function(a) - function(b)) ** 2, phi, q, correlation) / 2


def _pair(
    function: Callable[[Tensor, Tensor], Tensor], phi: Activation, q: float, correlation: float
) -> float:
    quadrature.kinks_at_0_only("means over two inputs", phi.name, phi.kinks)
    return quadrature.pair_expectation(function, math.sqrt(non_negative("q", q)), correlation)


# ---------------------------------------------------------------- the steps


@dataclass(frozen=True)
class Gradient:
    """What mean-field theory knows of the gradient g with respect to a signal at two inputs.

    Attributes:
        square: mean of g² over the units.
        overlap: mean over the units of g at one input times g at the other.

    """

    square: float
    overlap: float = 0.0

    def scaled(self, by: float) -> "Gradient":
        """Return both products times a factor."""
        return Gradient(by * self.square, by * self.overlap)

    def plus(self, other: "Gradient") -> "Gradient":
        """Return those of the sum of two gradients that are not correlated."""
        return Gradient(self.square + other.square, self.overlap + other.overlap)


def _as_it_comes(gradient: Gradient) -> Gradient:
    return gradient


@dataclass(frozen=True)
class State:
    """What mean-field theory knows of a wide signal x at two inputs, or two positions of one.

    Each method is a step of a network, with weights of its own in each :meth:`weights`, and returns
    the state after it. All inputs have the same mean square, and any two the same distance; a state
    whose distance is 0 is that of one input alone.

    Attributes:
        square: mean of x² over the units, and over the weights.
        distance: half the mean square of the difference of x at two inputs: ``square`` if they are
            not correlated. It is additive, no bias changes it, and it is the variance over a batch.
        mean: of x over the units.
        normal: whether the units are normal, as an activation needs them.
        back: from the gradient with respect to x to the one at the state where :meth:`start` was
            called last, or the first.

    Example:
        >>> x = State(1.0)  # which He's ReLU layers keep, forward and back
        >>> layer = x.activation("relu").weights(2.0)
        >>> round(layer.square, 9), round(layer.back(Gradient(1.0)).square, 9)
        (1.0, 1.0)
        >>> block = x.plus(layer)
        >>> round(block.square, 9), round(block.back(Gradient(1.0)).square, 9)
        (2.0, 2.0)

    """

    square: float
    distance: float = 0.0
    mean: float = 0.0
    normal: bool = True
    back: Callable[[Gradient], Gradient] = field(default=_as_it_comes, repr=False, compare=False)

    @property
    def overlap(self) -> float:
        """Mean over the units of x at one input times x at the other."""
        return self.square - self.distance

    @property
    def correlation(self) -> float:
        """The cosine of x at one input and x at the other; 1 if both are 0."""
        return max(-1.0, 1 - self.distance / self.square) if self.square else 1.0

    def start(self) -> "State":
        """Return the same state, as the one to which gradients are taken back from here on."""
        return replace(self, back=_as_it_comes)

    def scaled(self, by: float) -> "State":
        """Multiply x by a number."""
        return State(
            square=by**2 * self.square,
            distance=by**2 * self.distance,
            mean=by * self.mean,
            normal=self.normal,
            back=lambda g: self.back(g.scaled(by**2)),
        )

    def weights(
        self,
        weight_variance: float,
        bias_variance: float = 0.0,
        *,
        backward: float | None = None,
    ) -> "State":
        """Multiply by random weights of mean 0, and add random biases.

        Args:
            weight_variance: σ_w², which is fan_in times the variance of one weight.
            bias_variance: σ_b², the variance of one bias.
            backward: fan_out times the variance of one weight; None for fan_in of them.

        Raises:
            ValueError: if a variance is negative or not finite.
            TypeError: if a variance is not a number.

        """
        factor = non_negative("weight_variance", weight_variance)
        behind = factor if backward is None else non_negative("backward", backward)
        return State(
            square=factor * self.square + non_negative("bias_variance", bias_variance),
            distance=factor * self.distance,
            back=lambda g: self.back(g.scaled(behind)),
        )

    def activation(self, activation: str | Activation) -> "State":
        """Apply φ to each unit.

        Raises:
            ValueError: if the units are not normal, or their mean is not 0; if two inputs are
                neither alike nor uncorrelated, and φ has kinks elsewhere than at 0.

        """
        if not self.normal or self.mean:
            units = "have a mean" if self.normal else "are not normal"
            raise ValueError(f"an activation of units that {units}: no prediction")
        phi, q, c = activations.get(activation), self.square, self.correlation
        found = activations.gaussian_moments(phi, q)

        def back(g: Gradient) -> Gradient:
            # Two slopes at once take a quadrature in the plane: only where there is use for it.
            across = chi(q, phi, 1.0, correlation=c) * g.overlap if g.overlap else 0.0
            return self.back(Gradient(found.slope_mean_square * g.square, across))

        return State(
            square=found.mean_square,
            distance=half_distance(c, q, phi),
            mean=found.mean,
            normal=False,
            back=back,
        )

    def norm(self, kind: NormKind, examples: int | None = None) -> "State":
        """Take off the mean and divide by the standard deviation.

        Both count as constants on the way back. To 1 over the number of units or examples they are,
        where gradients have nothing to do with x, and in a batch with each other; or where each is
        that of its own example's output. In a batch the units are to be normal: after an activation
        they vary by different amounts, and more comes back (by a tenth after tanh). A small batch
        leaves no normal units behind: of 8 examples, the mean square of tanh is 6 % larger.

        Args:
            kind: "layer", over the units, or "batch", over inputs any two of which are at the
                state's distance.
            examples: in a batch; None for infinitely many.

        Raises:
            ValueError: if ``kind`` is another word, ``examples`` is below 1, or nothing is left to
                divide by.
            TypeError: if ``examples`` is not a whole number.

        """
        if one_of("kind", kind, NORM_KINDS) == "layer":
            variance = self.square - self.mean**2
        else:
            away = 0.0 if examples is None else 1 / positive_integer("examples", examples)
            variance = self.distance * (1 - away)
        if variance <= 0:
            raise ValueError("the input of a norm is constant: it has no prediction")
        return State(
            square=1.0,
            distance=self.distance / variance,
            normal=self.normal,
            back=lambda g: self.back(g.scaled(1 / variance)),
        )

    def plus(self, other: "State") -> "State":
        """Add another signal with the same start, of which one ends in weights of its own.

        Those make the two uncorrelated, forward and back.
        """
        return State(
            square=self.square + other.square,
            distance=self.distance + other.distance,
            mean=self.mean + other.mean,
            normal=self.normal and other.normal,
            back=lambda g: self.back(g).plus(other.back(g)),
        )

    def average(self, positions: int) -> "State":
        """Replace x at each of so many positions by the mean over all of them.

        Any two of the positions are at the state's distance; afterwards they are alike.

        Raises:
            TypeError: if ``positions`` is not a whole number.
            ValueError: if it is below 1, or so many cannot be that far apart from each other.

        """
        count = positive_integer("positions", positions)
        if self.square + (count - 1) * self.overlap < 0:
            raise ValueError(f"no {count} positions are as far apart as {self} has them")

        def shared(square: float, overlap: float) -> float:
            return (square + (count - 1) * overlap) / count

        def back(g: Gradient) -> Gradient:
            both = shared(g.square, g.overlap)
            return self.back(Gradient(both, both))

        square = shared(self.square, self.overlap)
        return replace(self, square=square, distance=0.0, back=back)
