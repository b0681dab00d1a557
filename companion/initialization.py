"""Weights drawn with a stated variance, and the named schemes on top of :mod:`torch.nn.init`.

Every named scheme but two is ``scale / fan`` for some scale and some fan: LeCun's is 1/fan_in,
Glorot's 1/fan_avg, He's 2/fan_in, and what :class:`torch.nn.Linear` draws by itself is
1/(3·fan_in). The two are orthogonal matrices, and GPT-2's fixed number. :data:`SCHEMES` lists them.

Chapter: https://YOUR_ACCOUNT.github.io/gradients-at-depth/initialization.html
"""

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from companion import activations
from companion._lib.arguments import floating, non_negative, one_of, positive_integer
from companion.activations import Activation

Mode = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["normal", "uniform", "truncated_normal"]
SchemeMode = Literal[Mode, "fan_max", "fixed"]
SchemeDistribution = Literal[Distribution, "orthogonal"]
MODES: tuple[Mode, ...] = get_args(Mode)
DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)
SCHEME_MODES: tuple[SchemeMode, ...] = get_args(SchemeMode)
SCHEME_DISTRIBUTIONS: tuple[SchemeDistribution, ...] = get_args(SchemeDistribution)

#: Variance of a unit normal that is cut at ±2, so that 23 % is lost where nobody corrects for it.
TRUNCATED_VARIANCE = 1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))


def fans(tensor: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight laid out as torch lays it out.

    In a transposed or grouped convolution these are the fans of one of :func:`initialize`'s blocks,
    not of the whole weight.

    Args:
        tensor: a weight of shape (out, in) or, for a convolution, (out, in, *kernel).

    Raises:
        ValueError: if the tensor has fewer than two dimensions, or a fan of zero.

    Example:
        >>> fans(torch.empty(20, 50))
        (50, 20)
        >>> fans(torch.empty(8, 3, 5, 5))
        (75, 200)

    """
    if tensor.dim() < 2:
        raise ValueError(f"a weight has at least 2 dimensions (out, in), got {tuple(tensor.shape)}")
    field = math.prod(tensor.shape[2:])
    fan_in, fan_out = tensor.shape[1] * field, tensor.shape[0] * field
    if fan_in == 0 or fan_out == 0:
        raise ValueError(f"a weight needs fans of at least 1, got shape {tuple(tensor.shape)}")
    return fan_in, fan_out


def variance(scale: float, mode: Mode, fan_in: int, fan_out: int) -> float:
    """Return the weight variance ``scale / fan``, where ``mode`` says which fan.

    Args:
        scale: numerator of the variance.
        mode: ``"fan_in"``, ``"fan_out"`` or ``"fan_avg"``, the mean of the two.
        fan_in: number of inputs that a unit sums over.
        fan_out: number of units that an input feeds.

    Raises:
        TypeError: if ``scale`` is not a number, or a fan not a whole one.
        ValueError: if ``scale`` is negative or not finite, a fan is below 1, or ``mode`` is another
            word.

    Example:
        >>> variance(2.0, "fan_in", fan_in=50, fan_out=20)
        0.04

    """
    scale = non_negative("scale", scale)
    mode = one_of("mode", mode, MODES)
    into, out = positive_integer("fan_in", fan_in), positive_integer("fan_out", fan_out)
    return scale / {"fan_in": into, "fan_out": out, "fan_avg": (into + out) / 2}[mode]


def variance_scaling_(
    tensor: Tensor,
    *,
    scale: float = 1.0,
    mode: Mode = "fan_in",
    distribution: Distribution = "normal",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight, in place, with independent draws of mean 0 and variance ``scale / fan``.

    Args:
        tensor: floating-point weight of shape (out, in) or (out, in, *kernel). Half precision is
            drawn in float32 and rounded.
        scale: numerator of the variance: 2 for He, 1 for Glorot and LeCun, 1/3 for
            ``nn.Linear``'s default.
        mode: ``"fan_in"``, ``"fan_out"`` or ``"fan_avg"``.
        distribution: ``"normal"``, ``"uniform"`` on ±√(3·variance), or ``"truncated_normal"``, cut
            at twice the standard deviation *before* the cut, which is made so much larger that the
            variance *after* it is the one stated.
        generator: source of randomness; torch's global one if None.

    Returns:
        The tensor itself, of shape (out, in) or (out, in, *kernel).

    Raises:
        TypeError: if the tensor is not floating-point, or ``scale`` is not a number.
        ValueError: if an option is not one of those above, a fan is zero, or the numbers are too
            large for the tensor's type.

    Source: Glorot & Bengio (2010), PMLR v9; He et al. (2015), arXiv 1502.01852.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> weight = torch.empty(1000, 500, dtype=torch.float64)
        >>> weight = variance_scaling_(weight, scale=2.0, generator=generator)
        >>> round(500 * weight.var().item(), 2)
        2.0

    """
    one_of("distribution", distribution, DISTRIBUTIONS)
    fan_in, fan_out = fans(floating("tensor", tensor))
    std = math.sqrt(variance(scale, mode, fan_in, fan_out))
    return fill_(tensor, distribution, std, generator)


def fill_(
    tensor: Tensor, distribution: SchemeDistribution, size: float, generator: torch.Generator | None
) -> Tensor:
    """Fill a tensor, in place, with numbers of standard deviation ``size``, or orthogonally.

    Args:
        tensor: floating-point tensor of any shape; of two dimensions or more to be orthogonal.
        distribution: as in :class:`Scheme`.
        size: the standard deviation, or the gain of an orthogonal matrix; 0 fills with zeros.
        generator: source of randomness; torch's global one if None.

    Returns:
        The tensor itself, of unchanged shape.

    Raises:
        ValueError: if ``size`` is too large for the tensor's type.
        TypeError: if the tensor is not floating-point.

    """
    # Eight standard deviations are further than anything drawn.
    if not 8 * size <= torch.finfo(tensor.dtype).max:
        raise ValueError(f"a standard deviation of {size:.3g} is too large for {tensor.dtype}")
    # A tensor of its own: half precision is too coarse to draw in, QR has none, and what is filled
    # may be a view whose rows are not side by side.
    dtype = torch.float32 if tensor.itemsize < 4 else tensor.dtype
    with torch.no_grad():
        drawn = torch.zeros(tensor.shape, dtype=dtype, device=tensor.device)
        if size == 0:
            pass
        elif distribution == "normal":
            drawn.normal_(0, size, generator=generator)
        elif distribution == "uniform":
            bound = math.sqrt(3) * size
            drawn.uniform_(-bound, bound, generator=generator)
        elif distribution == "truncated_normal":
            wide = size / math.sqrt(TRUNCATED_VARIANCE)
            nn.init.trunc_normal_(drawn, 0, wide, -2 * wide, 2 * wide, generator=generator)
        else:
            nn.init.orthogonal_(drawn, size, generator=generator)
        return tensor.copy_(drawn)


# ---------------------------------------------------------------- the named schemes


@dataclass(frozen=True)
class Scheme:
    """How a weight is drawn: the variance of its entries, and their distribution.

    Attributes:
        name: the word by which :func:`get` finds it.
        scale: numerator of the variance.
        mode: what divides it: ``"fan_in"``, ``"fan_out"``, ``"fan_avg"``; ``"fan_max"``, the larger
            one, as an orthogonal matrix has it; or ``"fixed"`` for no fan at all.
        distribution: ``"normal"``, ``"uniform"``, ``"truncated_normal"`` or ``"orthogonal"``.
        made_for: the activation that ``scale`` is for, in a scheme that is rescaled for others.
        bias: whether biases are drawn as the weights are; they are zero otherwise.

    Raises:
        TypeError: if ``scale`` is not a number.
        ValueError: if ``scale`` is negative or not finite, or a word is unknown or does not go with
            the other.

    """

    name: str
    scale: float
    mode: SchemeMode
    distribution: SchemeDistribution
    made_for: str | Activation | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        """Check that the words are known and go together."""
        non_negative("scale", self.scale)
        one_of("mode", self.mode, SCHEME_MODES)
        one_of("distribution", self.distribution, SCHEME_DISTRIBUTIONS)
        if (self.distribution == "orthogonal") != (self.mode == "fan_max"):
            raise ValueError("mode 'fan_max' is that of distribution 'orthogonal', and of no other")

    def variance(self, fan_in: int, fan_out: int) -> float:
        """Return the variance of the entries of a weight (of a dense one, if it is orthogonal).

        Args:
            fan_in: number of inputs that a unit sums over.
            fan_out: number of units that an input feeds.

        Example:
            >>> get("glorot_normal").variance(fan_in=50, fan_out=30)
            0.025
            >>> get("orthogonal").variance(fan_in=50, fan_out=30)
            0.02

        """
        if self.mode == "fixed":
            return self.scale
        if self.mode == "fan_max":
            return self.scale / max(fan_in, fan_out)
        return variance(self.scale, self.mode, fan_in, fan_out)

    def fill_(self, tensor: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Fill a weight in place with this scheme's draws, and return it.

        Args:
            tensor: the weight, of shape (out, in) or (out, in, *kernel).
            generator: source of randomness; torch's global one if None.

        Returns:
            The tensor itself, of unchanged shape.

        Raises:
            TypeError: if the tensor is not floating-point.
            ValueError: if a fan is missing or zero, or the numbers are too large for the tensor's
                type.

        Example:
            >>> weight = get("orthogonal").fill_(torch.empty(2, 3, dtype=torch.float64))
            >>> bool(torch.allclose(weight @ weight.T, torch.eye(2, dtype=torch.float64)))
            True

        """
        fan_in, fan_out = fans(floating("tensor", tensor))
        # The singular values of an orthogonal matrix are the root of the scale itself.
        orthogonal = self.distribution == "orthogonal"
        size = self.scale if orthogonal else self.variance(fan_in, fan_out)
        return fill_(tensor, self.distribution, math.sqrt(size), generator)


# fmt: off
SCHEMES = {scheme.name: scheme for scheme in (
    #      name              scale    mode       distribution  made_for
    Scheme("lecun_normal",   1.0,     "fan_in",  "normal"),
    Scheme("lecun_uniform",  1.0,     "fan_in",  "uniform"),
    Scheme("glorot_normal",  1.0,     "fan_avg", "normal"),
    Scheme("glorot_uniform", 1.0,     "fan_avg", "uniform"),
    Scheme("he_normal",      2.0,     "fan_in",  "normal",     "relu"),
    Scheme("he_uniform",     2.0,     "fan_in",  "uniform",    "relu"),
    Scheme("he_normal_out",  2.0,     "fan_out", "normal",     "relu"),
    Scheme("he_uniform_out", 2.0,     "fan_out", "uniform",    "relu"),
    Scheme("orthogonal",     1.0,     "fan_max", "orthogonal", "identity"),
    Scheme("torch_default",  1 / 3,   "fan_in",  "uniform",    bias=True),
    Scheme("gpt2",           0.02**2, "fixed",   "normal"),
)}
# fmt: on


def get(
    scheme: str | Scheme, activation: str | Activation | None = None, *, gain: float = 1.0
) -> Scheme:
    """Return the scheme of that name, rescaled for an activation or by a factor of one's own.

    Args:
        scheme: its name in :data:`SCHEMES`, or a :class:`Scheme`.
        activation: which activation follows. He's schemes (made for ReLU) and orthogonal matrices
            (made for the identity) are rescaled to its :func:`rectifier_scale`; the others do not
            depend on it.
        gain: multiplies the standard deviation, in any scheme. Before tanh the field often takes
            ``torch.nn.init.calculate_gain("tanh")``, 5/3, with which gradients grow from layer to
            layer; mean-field theory has 1 at zero bias. torch's 3/4 for SELU lets the signal die,
            where LeCun's scheme with gain 1 keeps it.

    Raises:
        ValueError: if there is no such scheme, the activation has no :func:`rectifier_scale`, or
            the gain is negative or not finite.
        TypeError: if the gain is not a number.

    Sources: LeCun et al. (1998), "Efficient BackProp"; Glorot & Bengio (2010), PMLR v9; He et al.
    (2015), arXiv 1502.01852; Saxe, McClelland & Ganguli (2013), arXiv 1312.6120; Radford et al.
    (2019), "Language Models are Unsupervised Multitask Learners".

    Example:
        >>> get("he_normal").scale, get("he_normal", "identity").scale
        (2.0, 1.0)

    """
    if not isinstance(scheme, Scheme):
        scheme = SCHEMES[one_of("scheme", scheme, SCHEMES)]
    factor = non_negative("gain", gain) ** 2
    if activation is not None and scheme.made_for is not None:
        factor *= rectifier_scale(activation) / rectifier_scale(scheme.made_for)
        scheme = replace(scheme, made_for=activation)
    return replace(scheme, scale=scheme.scale * factor)


def rectifier_scale(activation: str | Activation) -> float:
    """Return the scale that keeps all lengths before a rectifier: 2/(1 + a²) at leaky slope a.

    It is the square of ``torch.nn.init.calculate_gain`` for ReLU, leaky ReLU and the identity.

    Raises:
        ValueError: if the activation is not positively homogeneous, φ(cz) = cφ(z) for c > 0. No
            scale keeps every length then.

    Source: He et al. (2015), arXiv 1502.01852.

    Example:
        >>> rectifier_scale("relu"), rectifier_scale("identity")
        (2.0, 1.0)

    """
    activation = activations.get(activation)
    with torch.no_grad():
        ends = activation.function(torch.tensor([1.0, -1.0], dtype=torch.float64))
    if not activations.positively_homogeneous(activation) or not ends.any():
        raise ValueError(
            "activation must be a rectifier, with φ(cz) = cφ(z), for its scale to be known, got "
            f"{activation.name!r}: leave it out, or set gain"
        )
    return 2 / ends.square().sum().item()


# ---------------------------------------------------------------- whole modules

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
GATES = {nn.RNN: 1, nn.RNNCell: 1, nn.GRU: 3, nn.GRUCell: 3, nn.LSTM: 4, nn.LSTMCell: 4}
KEPT = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU),
)
WEIGHT = re.compile(r"weight|(in|q|k|v)_proj_weight|weight_(ih|hh|hr)(_l\d+(_reverse)?)?")
BIAS = re.compile(r"bias|in_proj_bias|bias_(ih|hh)(_l\d+(_reverse)?)?")
TREATED = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED, *GATES, nn.MultiheadAttention, nn.Embedding)


class Drawn(NamedTuple):
    """What :func:`initialize` did to one parameter.

    Attributes:
        scheme: the scheme's name, ``"zeros"`` or ``"kept"``.
        std: standard deviation of the distribution drawn from; None if kept.
        fans: (fan_in, fan_out) of each block; None where they do not matter.
        blocks: how many weights the parameter packs: gates, groups, or queries, keys and values.

    """

    scheme: str
    std: float | None
    fans: tuple[int, int] | None = None
    blocks: int = 1


def initialize(
    model: nn.Module,
    scheme: str | Scheme,
    activation: str | Activation | None = None,
    *,
    gain: float = 1.0,
    residual: Collection[str] = (),
    keep: Collection[str] = (),
    generator: torch.Generator | None = None,
) -> dict[str, Drawn]:
    """Draw every weight of a model in place, and say what was drawn.

    Linear layers, convolutions, recurrent layers and multi-head attention are drawn block by block:
    each gate, each group of channels, and queries, keys and values have fans of their own and are
    each orthogonal. A transposed convolution's layout (in, out, ...) is put right; its stride is
    left out of account, as in torch. Biases become zero, unless the scheme draws them.
    Normalization layers and PReLU keep their parameters. An embedding has no fan; only GPT-2's
    scheme draws it. A parameter that several layers share is drawn once.

    Args:
        model: the model.
        scheme: a name in :data:`SCHEMES`, or a :class:`Scheme`.
        activation: which one follows the weights; see :func:`get`.
        gain: multiplies all standard deviations; see :func:`get`.
        residual: last parts of the names of the layers that end a residual branch, such as
            ``("out_proj", "linear2")`` in ``nn.TransformerEncoderLayer``. With R of them in the
            model they are drawn 1/√R as large, as GPT-2's are: that is 1/√(2N) in N blocks of two
            branches each.
        keep: names of submodules or parameters to leave as they are.
        generator: source of randomness; torch's global one if None.

    Returns:
        A :class:`Drawn` for each name in ``model.named_parameters()``.

    Raises:
        TypeError: if a module has parameters of which it is not known how to draw them.
        ValueError: if a module is parametrized or still lazy, if the scheme does not apply to it,
            or if a name in ``residual`` or ``keep`` is not found. Nothing has been drawn then.

    Example:
        >>> model = nn.Sequential(nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 10))
        >>> drawn = initialize(model, "he_normal", generator=torch.Generator().manual_seed(0))
        >>> drawn["0.weight"].fans, drawn["0.weight"].std, drawn["0.bias"].scheme
        ((50, 20), 0.2, 'zeros')

    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, got {type(model).__name__}")
    scheme = get(scheme, activation, gain=gain)
    parts = list(_parts(model, scheme, _names("keep", keep)))
    weights = [part for part in parts if part.blocks]
    ends = {
        part.layer for part in weights for last in _names("residual", residual) if part.ends(last)
    }
    for last in residual:
        if not any(part.ends(last) for part in weights):
            raise ValueError(f"residual names {last!r}, but no layer drawn here has such a name")
    branches = replace(scheme, scale=scheme.scale / max(1, len(ends)))
    return {
        part.name: _draw_(part, branches if part.layer in ends else scheme, generator)
        for part in parts
    }


class _Part(NamedTuple):
    """A parameter of a layer, and the layer's weights, unpacked: views of shape (out, in, ...)."""

    layer: str
    name: str
    kind: str
    parameter: Tensor
    blocks: tuple[Tensor, ...] = ()
    zero_row: int | None = None

    def ends(self, last: str) -> bool:
        return self.kind == "weight" and f".{self.layer}".endswith(f".{last}")


def _names(argument: str, names: Collection[str]) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{argument} must be a list of names, such as ['head'], got {names!r}")
    return list(names)


def _parts(model: nn.Module, scheme: Scheme, keep: list[str]) -> Iterator[_Part]:
    """List the parameters, each once, in the order of ``model.named_parameters()``."""
    there = {name for name, _ in (*model.named_modules(), *model.named_parameters())}
    for name in keep:
        if name not in there:
            raise ValueError(f"keep names {name!r}, but nothing in the model has that name")
    seen: set[int] = set()
    for layer, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{layer}.{own}" if layer else own
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if isinstance(module, KEPT) or any(f"{name}.".startswith(f"{k}.") for k in keep):
                yield _Part(layer, name, "kept", parameter)
            else:
                _check(module, own, name, scheme)
                blocks = _blocks(module)
                kind = "weight" if own in blocks else "bias"
                weights = blocks.get(own if own in blocks else "weight", ())
                if weights:
                    fans(weights[0])
                zero_row = getattr(module, "padding_idx", None)
                values = floating(name, parameter).detach()
                yield _Part(layer, name, kind, values, weights, zero_row)


def _check(module: nn.Module, own: str, name: str, scheme: Scheme) -> None:
    """Raise if a module's parameter cannot be drawn."""
    leave = f"leave it as it is with keep=[{name!r}]"
    if ".parametrizations." in f".{name}":
        raise ValueError(f"{name!r} is parametrized: initialize before that, or {leave}")
    if any(is_lazy(parameter) for parameter in module.parameters(recurse=False)):
        raise ValueError(f"{name!r} has no shape yet: run a batch through the model first")
    if not (isinstance(module, TREATED) and (WEIGHT.fullmatch(own) or BIAS.fullmatch(own))):
        raise TypeError(
            f"{name!r} of {type(module).__name__} cannot be drawn, only weights and biases of "
            f"{[kind.__name__ for kind in TREATED]}: {leave}"
        )
    if isinstance(module, nn.Embedding) and scheme.mode != "fixed":
        raise ValueError(
            f"{name!r} is an embedding, which has no fan for {scheme.name!r} to divide by: {leave}"
        )
    if scheme.bias and not isinstance(module, (nn.Linear, *CONVOLUTIONS)):
        raise ValueError(
            f"{scheme.name!r} is of linear and convolutional layers, but {name!r} is of "
            f"{type(module).__name__}: {leave}, and call reset_parameters()"
        )


def _blocks(module: nn.Module) -> dict[str, tuple[Tensor, ...]]:
    """Return a module's own weights, each unpacked into views of shape (out, in, ...)."""
    own = module.named_parameters(recurse=False)
    weights = {name: weight.detach() for name, weight in own if WEIGHT.fullmatch(name)}
    return {name: _unpack(module, name, weight) for name, weight in weights.items()}


def _unpack(module: nn.Module, name: str, weight: Tensor) -> tuple[Tensor, ...]:
    if isinstance(module, TRANSPOSED):  # (in, out / groups, ...)
        return tuple(group.transpose(0, 1) for group in weight.chunk(module.groups))
    if isinstance(module, CONVOLUTIONS):
        return weight.chunk(module.groups)
    if name == "in_proj_weight":
        return weight.chunk(3)
    if name.startswith(("weight_ih", "weight_hh")):
        return weight.chunk(next(n for kind, n in GATES.items() if isinstance(module, kind)))
    return (weight,)


def _draw_(part: _Part, scheme: Scheme, generator: torch.Generator | None) -> Drawn:
    if part.kind == "kept":
        return Drawn("kept", None)
    if part.kind == "bias" and not scheme.bias:
        part.parameter.zero_()
        return Drawn("zeros", 0.0)
    std = math.sqrt(_entry_variance(scheme, part.blocks[0]))
    if part.kind == "bias":
        fill_(part.parameter, scheme.distribution, std, generator)
        return Drawn(scheme.name, std)
    for block in part.blocks:
        scheme.fill_(block, generator=generator)
    if part.zero_row is not None:
        part.parameter[part.zero_row] = 0
    used = None if scheme.mode == "fixed" else fans(part.blocks[0])
    return Drawn(scheme.name, std, used, len(part.blocks))


def _entry_variance(scheme: Scheme, weight: Tensor) -> float:
    fan_in, fan_out = fans(weight)
    if scheme.mode == "fan_max":  # orthogonal is the matrix (out, in × field)
        fan_out = len(weight)
    return scheme.variance(fan_in, fan_out)
