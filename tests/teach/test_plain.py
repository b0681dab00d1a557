"""Only plain data passes, and it arrives as what it was."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.teach import plain

VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def there_and_back(value: object) -> Any:  # noqa: ANN401 - whatever it is
    return plain.decode(json.loads(json.dumps(plain.encode(value))))


@given(VALUES)
def test_plain_values_return(value: object) -> None:
    returned = there_and_back(value)
    assert returned == value
    assert type(returned) is type(value)


@pytest.mark.parametrize("dtype", plain.DTYPES.values(), ids=plain.DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 3)])
def test_tensors_return_bit_by_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape).mul(5).to(dtype)
    returned = there_and_back(tensor)
    assert (returned.dtype, returned.shape) == (dtype, tensor.shape)
    assert torch.equal(returned, tensor)


def test_views_gradients_and_arrays_return() -> None:
    tensor = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    assert torch.equal(there_and_back(tensor), tensor.detach())
    array = np.arange(6)[::-2]
    assert isinstance(there_and_back(array), np.ndarray)
    assert there_and_back(array).tolist() == [5, 3, 1]
    assert math.isnan(there_and_back(math.nan))


class Liar(float):
    """A number that says it is any other."""

    def __float__(self) -> float:
        return 1.0

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = float.__hash__


@pytest.mark.breaks(
    "companion/teach/plain.py", "return float.__float__(value)", "return float(value)"
)
def test_a_lying_number_becomes_a_number() -> None:
    returned = there_and_back(Liar(9.0))
    assert type(returned) is float
    assert repr(returned) == "9.0"


NOT_PLAIN = {
    "object": object(),
    "set": {1},
    "bytes": b"x",
    "function": print,
    "large": 2**63,
    "huge": 10**5000,
    "tensor": torch.zeros(2**22 + 1),
    "text": "x" * 10**6,
    "list": [0] * 10**6,
    "texts": np.array(["a"]),
    "objects": np.array([object()], dtype=object),
    "sparse": torch.eye(2).to_sparse(),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plain_or_too_large_is_refused(name: str) -> None:
    with pytest.raises(plain.NotPlainError):
        plain.encode(NOT_PLAIN[name])


def test_depth_has_a_limit() -> None:
    value: list = []
    value.append(value)
    with pytest.raises(plain.NotPlainError, match="too large"):
        plain.encode(value)


@pytest.mark.breaks(
    "companion/teach/plain.py", "len(raw) != math.prod(shape) * dtype.itemsize or ", ""
)
@pytest.mark.parametrize(
    "data",
    [
        *(None, [], {}, "x", 2**63, {"list": 3}, {"text": 3}, {"dict": 3}, {"pickle": "gASVAAAA"}),
        *({"array": content, "dtype": "uint8", "shape": [1]} for content in ("§", 1, None)),
        *(
            {"array": "AAAA", "dtype": dtype, "shape": shape, "tensor": True}
            for dtype, shape in [
                ("float64", [1]),
                ("object", [1]),
                ("uint8", [3.0]),
                ("uint8", [-3]),
                ("uint8", [2**40]),
                ("uint8", [4]),
                ("uint8", 3),
                ("uint8", [1] * 100),
                (None, None),
            ]
        ),
    ],
)
def test_data_of_another_form_are_refused(data: object) -> None:
    with pytest.raises(plain.NotPlainError):
        plain.decode(data)
