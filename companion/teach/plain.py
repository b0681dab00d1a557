"""Values as plain data, and back: all that passes between a submission and the tests.

Numbers, text, lists, dictionaries and arrays become JSON. Nothing is pickled, so nothing that a
submission sends can run outside its sandbox; and whatever kind of number it sends, what arrives is
Python's own.
"""

import base64
import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

MOST_BYTES = 16 * 2**20  # of one array
MOST_ITEMS = 100_000  # in lists and dictionaries, together
DEEPEST = 12
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
        *(torch.complex128, torch.complex64),
    )
}


class NotPlainError(Exception):
    """A value that cannot be handed over, or data that no value could have become."""


class Missing:
    """What stands for an answer that was not given: a name that is unknown, None or dots."""

    def __repr__(self) -> str:
        return "no answer"


def encode(value: object) -> Any:  # noqa: ANN401 - JSON
    """Return a value as JSON-ready data.

    Raises:
        NotPlainError: if it is, or holds, something that is not a number, text, list, tuple,
            dictionary with text for keys, array, tensor or None, or if it is too large.

    Example:
        >>> encode((1.5, "a", None))
        {'list': [1.5, {'text': 'a'}, {'none': True}]}

    """
    return _encode(value, [MOST_ITEMS], 0)


def _encode(value: object, left: list[int], depth: int) -> Any:  # noqa: ANN401
    left[0] -= 1
    if left[0] < 0 or depth > DEEPEST:
        raise NotPlainError("the value is too large to hand over")
    if value is None or value is ...:
        return {"none": True}
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _whole(int.__index__(value))
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return {"text": _short(str.__str__(value))}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return _encode_array(value)
    if isinstance(value, list | tuple):
        return {"list": [_encode(item, left, depth + 1) for item in value]}
    if isinstance(value, dict):
        pairs = [[_short(str(key)), _encode(item, left, depth + 1)] for key, item in value.items()]
        return {"dict": pairs}
    raise NotPlainError(f"a {type(value).__name__} is not a number, text, list or array")


def _whole(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise NotPlainError("a whole number is too large to hand over")
    return value


def _short(text: str) -> str:
    if len(text) > MOST_ITEMS:
        raise NotPlainError("a text is too long to hand over")
    return text


def _encode_array(value: Tensor | np.ndarray | np.generic) -> dict[str, Any]:
    is_tensor = isinstance(value, Tensor)
    try:
        array = cast("Tensor", value) if is_tensor else torch.from_numpy(np.array(value))
    except TypeError:
        raise NotPlainError(f"an array of {value.dtype} cannot be handed over") from None
    if array.layout != torch.strided:
        raise NotPlainError(f"an array in the layout {array.layout} cannot be handed over")
    array = array.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if str(array.dtype).removeprefix("torch.") not in DTYPES:
        raise NotPlainError(f"an array of {array.dtype} cannot be handed over")
    if array.numel() * array.element_size() > MOST_BYTES:
        raise NotPlainError("an array is too large to hand over")
    raw = array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b""
    return {
        "array": base64.b64encode(raw).decode("ascii"),
        "dtype": str(array.dtype).removeprefix("torch."),
        "shape": list(array.shape),
        "tensor": is_tensor,
    }


def decode(data: object) -> Any:  # noqa: ANN401
    """Return the value that :func:`encode` made the data of; tuples come back as lists.

    Raises:
        NotPlainError: if the data are of another form.

    Example:
        >>> decode(encode([1, torch.ones(2), "a"]))
        [1, tensor([1., 1.]), 'a']

    """
    if isinstance(data, bool | int | float):
        return data if isinstance(data, bool | float) else _whole(data)
    if not isinstance(data, dict) or not data:
        raise NotPlainError("what came back is not of the agreed form")
    if "array" in data:
        return _decode_array(data)
    kind, content = next(iter(data.items()))
    if kind == "none":
        return Missing()
    if kind == "text" and isinstance(content, str):
        return content
    if kind == "list" and isinstance(content, list):
        return [decode(item) for item in content]
    if kind == "dict" and isinstance(content, list):
        return {str(key): decode(item) for key, item in content}
    raise NotPlainError("what came back is not of the agreed form")


def _decode_array(data: dict[str, Any]) -> Tensor | np.ndarray:
    dtype, shape = DTYPES.get(str(data.get("dtype"))), data.get("shape")
    if dtype is None or not isinstance(shape, list) or len(shape) > DEEPEST:
        raise NotPlainError("what came back as an array is none")
    if not all(type(size) is int and 0 <= size <= MOST_BYTES for size in shape):
        raise NotPlainError("what came back as an array has no sizes")
    try:
        raw = base64.b64decode(data["array"], validate=True)
    except (ValueError, TypeError):
        raise NotPlainError("what came back as an array has no content") from None
    if len(raw) != math.prod(shape) * dtype.itemsize or len(raw) > MOST_BYTES:
        raise NotPlainError("what came back as an array has another size than it says")
    flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    array = flat.reshape(shape)
    return array if data.get("tensor") is True else array.numpy()
