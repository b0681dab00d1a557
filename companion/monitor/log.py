"""The log of a monitored run: what was measured, at which step, at which layer.

A log is plain numbers. It can be saved, read back on another machine, and diagnosed there.
"""

import json
import math
from dataclasses import KW_ONLY, asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor

FORMAT = 1
"""The version of the JSON that :meth:`Log.to_json` writes and :meth:`Log.from_json` takes."""

Of = Literal["layer", "parameter", "step"]
PerLayer = Annotated[Tensor, "layer"]
PerParameter = Annotated[Tensor, "parameter"]
PerStep = Annotated[Tensor, "step"]


@dataclass(frozen=True)
class Layer:
    """A layer of the network: a module with a weight matrix that was executed.

    Attributes:
        name: of the module, without the prefixes of wrappers (``module.``, ``_orig_mod.``).
        kind: name of its class, as ``"Linear"`` or ``"LSTM"``.
        units: outputs at one position: features, or channels.
        calls: how often it ran in one forward pass of the model.
        parameters: names of its own parameters, the weight first.
        activation: what is applied to its output, as :mod:`companion.activations` calls it, or the
            name of the class; None if nothing was recognised.
        normalized: whether its output goes straight into a normalization.
        frozen: whether none of its parameters requires a gradient.

    """

    name: str
    kind: str
    units: int
    calls: int
    parameters: tuple[str, ...]
    activation: str | None
    _: KW_ONLY
    normalized: bool
    frozen: bool


@dataclass(frozen=True)
class Log:
    """What was measured in N steps of a run, at T of them, of L layers and P parameters.

    Tensors are float64 (``steps`` and ``times`` are int64) on the CPU, and NaN where a thing was
    not measured at that step. Gradients are those of the loss, before any clipping, with the loss
    scale of mixed precision divided out.

    Attributes:
        layers: in the order in which they are executed.
        parameters: names of all the model's parameters, without the prefixes of wrappers; after
            them, for each packed weight of ``nn.MultiheadAttention``, its rows for queries, keys
            and values, as ``"in_proj_weight[q]"``, ``[k]`` and ``[v]``, of which there are
            gradient norms only.
        every: how many steps lie between two samples.
        loss: (N,) of every step.
        steps: (T,) indices of the steps that were sampled; the first always is.
        delta_norms: (T, L) norm of δ, the gradient at the layer's output, over the batch.
        gradient_norms: (T, P) norm of each parameter's gradient.
        weight_norms: (T, P) norm of each parameter before the step.
        update_norms: (T, P) norm of what the step added to each parameter.
        output_mean: (T, L) mean of z, what the layer returns, over all its entries.
        output_variance: (T, L) biased variance of the same.
        activation_mean: (T, L) mean after the layer's activation.
        activation_variance: (T, L) biased variance after it.
        saturated: (T, L) share of *units* whose mean slope is below 5 % of the largest.
        dead: (T, L) share of units that no position of the batch gives a slope other than 0.
        slope_mean: (T, L) E[φ′] of the activation's slope.
        slope_square: (T, L) E[φ′²].
        total_norm: (T,) norm of all gradients as one vector.
        non_finite: (T,) how many entries of the gradients are not finite.
        underflow: (T,) share of the nonzero gradient entries that float16 would flush to zero at
            the loss scale in use.
        input_mean: (T,) mean of the model's first floating-point input.
        input_variance: (T,) biased variance of the same.
        input_spread: (T,) largest over smallest nonzero standard deviation of its features.
        through_time: (T, L, K) log₁₀ of the norm of δ at K positions in time, first to last.
        times: (L,) how many positions in time there are; 0 for layers without.
        scale: (T,) the loss scale, 1 without.
        skipped: (T,) 1 where the step was skipped because of it.
        dtype: of the model's parameters, as ``"float32"``.
        torch_version: with which the log was made.

    """

    layers: tuple[Layer, ...]
    parameters: tuple[str, ...]
    every: int
    loss: Tensor
    steps: Tensor
    delta_norms: PerLayer
    gradient_norms: PerParameter
    weight_norms: PerParameter
    update_norms: PerParameter
    output_mean: PerLayer
    output_variance: PerLayer
    activation_mean: PerLayer
    activation_variance: PerLayer
    saturated: PerLayer
    dead: PerLayer
    slope_mean: PerLayer
    slope_square: PerLayer
    total_norm: PerStep
    non_finite: PerStep
    underflow: PerStep
    input_mean: PerStep
    input_variance: PerStep
    input_spread: PerStep
    through_time: Tensor
    times: Tensor
    scale: PerStep
    skipped: PerStep
    dtype: str
    torch_version: str

    def __repr__(self) -> str:
        whole = sum(not name.endswith(("[q]", "[k]", "[v]")) for name in self.parameters)
        return (
            f"Log({len(self.loss)} steps, {len(self.steps)} sampled, {len(self.layers)} layers, "
            f"{whole} parameters)"
        )

    def to_json(self, path: str | Path) -> None:
        """Write the log as plain JSON: NaN as null, infinity as ``"inf"``.

        Args:
            path: of the file, which is overwritten.

        """
        Path(path).write_text(json.dumps(_to_plain(self), allow_nan=False), encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> "Log":
        """Read a log that :meth:`to_json` has written; it is equal to the last digit.

        Raises:
            ValueError: if the file is not JSON, of another format, or lacks a field.

        """
        try:
            plain = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"path needs a log in JSON, got {Path(path).name}: {error}") from error
        return _from_plain(plain)


@cache
def columns(of: Of) -> tuple[str, ...]:
    """Return the fields of a log that have a number for each layer, parameter or step.

    Example:
        >>> columns("parameter")
        ('gradient_norms', 'weight_norms', 'update_norms')

    """
    return tuple(each.name for each in fields(Log) if of in get_args(each.type)[1:])


_WHOLE = ("steps", "times")
_TENSORS = tuple(each.name for each in fields(Log) if Tensor in (each.type, *get_args(each.type)))


def _numbers_to_plain(values: Any) -> Any:  # noqa: ANN401, as deep as the tensor
    if isinstance(values, list):
        return [_numbers_to_plain(value) for value in values]
    if math.isnan(values):
        return None
    if math.isinf(values):
        return "inf" if values > 0 else "-inf"
    return values


def _numbers_from_plain(values: Any) -> Any:  # noqa: ANN401
    if isinstance(values, list):
        return [_numbers_from_plain(value) for value in values]
    return math.nan if values is None else float(values)


def _to_plain(log: Log) -> dict[str, Any]:
    plain: dict[str, Any] = {"format": FORMAT}
    for each in fields(log):
        value = getattr(log, each.name)
        if each.name in _TENSORS:
            # The shape is needed where a dimension is empty.
            numbers = _numbers_to_plain(value.flatten().tolist())
            value = {"shape": list(value.shape), "values": numbers}
        elif each.name == "layers":
            value = [asdict(layer) for layer in value]
        plain[each.name] = value
    return plain


def _from_plain(plain: object) -> Log:
    found = plain.get("format") if isinstance(plain, dict) else None
    if not isinstance(plain, dict) or found != FORMAT:
        raise ValueError(f"a log needs format {FORMAT}, got {found!r}")
    missing = [each.name for each in fields(Log) if each.name not in plain]
    if missing:
        raise ValueError(f"a log needs the fields {missing}, got only {sorted(plain)}")
    values = {each.name: plain[each.name] for each in fields(Log)}
    try:
        for name in _TENSORS:
            dtype = torch.int64 if name in _WHOLE else torch.float64
            numbers = _numbers_from_plain(values[name]["values"])
            values[name] = torch.tensor(numbers, dtype=dtype).reshape(values[name]["shape"])
        values["layers"] = tuple(_layer(layer) for layer in values["layers"])
        values["parameters"] = tuple(values["parameters"])
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"a log has a field that cannot be read: {error}") from error
    return Log(**values)


def _layer(plain: dict[str, Any]) -> Layer:
    return Layer(**(plain | {"parameters": tuple(plain["parameters"])}))
