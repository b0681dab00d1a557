"""What an assignment's visible checks call, and the numbers that differ from student to student.

A check compares an answer with what everybody may know: its kind, its shape, the outcome on an
example small enough to work out by hand. It names the usual mistake where it recognises one. That
the visible checks pass does not say that the answer is right.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

PASSED = "visible checks passed"


def seed(student_id: str, question: str) -> int:
    """Return a seed that is this student's own for this question, from 0 to 2³¹ - 1.

    Args:
        student_id: text; capitals and blanks around it make no difference.
        question: its name in the notebook.

    Raises:
        TypeError: if ``student_id`` is not text.
        ValueError: if it is empty.

    Example:
        >>> seed("s123", "slope") == seed(" S123 ", "slope") != seed("s124", "slope")
        True

    """
    if not isinstance(student_id, str):
        raise TypeError(f"student_id must be text in quotes, got {student_id!r}")
    if not student_id.strip():
        raise ValueError("student_id is empty: write your own between the quotes")
    text = f"{student_id.strip().lower()}/{question}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def generator(student_id: str, question: str) -> torch.Generator:
    """Return a generator of random numbers that are this student's own for this question.

    Args:
        student_id: as for :func:`seed`.
        question: likewise.

    Raises:
        TypeError: as :func:`seed`.
        ValueError: as :func:`seed`.

    """
    return torch.Generator().manual_seed(seed(student_id, question))


class Report:
    """What the visible checks of a question say: the cell shows it.

    Args:
        complaints: those of each check.

    Example:
        >>> report(value("depth", 3, low=1), value("slope", ..., low=-1))
        ✗ slope is not answered yet: put your answer where the dots are

    """

    def __init__(self, *complaints: Sequence[str]) -> None:
        self.complaints = [text for group in complaints for text in group]

    def __repr__(self) -> str:
        return "\n".join(f"✗ {text}" for text in self.complaints) or PASSED


report = Report


def value(
    name: str,
    answer: object,
    *,
    shape: tuple[int, ...] = (),
    low: float = -math.inf,
    high: float = math.inf,
    mistakes: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return what is wrong with an answer that is a number, or an array of a given shape.

    Args:
        name: what the notebook calls it.
        answer: the answer.
        shape: that it should have; () is a number.
        low: the least that an entry can sensibly be.
        high: the most.
        mistakes: what to say if the answer is a value that a known mistake gives.

    Example:
        >>> value("share", 1.5, low=0, high=1)
        ['share has an entry outside 0 to 1']

    """
    if answer is ... or answer is None:
        return [f"{name} is not answered yet: put your answer where the dots are"]
    tensor = _tensor(answer)
    if tensor is None:
        return [f"{name} is a {type(answer).__name__}: this asks for {_kind(shape)}"]
    if tuple(tensor.shape) != shape:
        return [f"{name} has shape {tuple(tensor.shape)}: this asks for {_kind(shape)}"]
    if not tensor.isfinite().all():
        return [f"{name} is not finite"]
    for text, wrong in (mistakes or {}).items():
        if _close(tensor, wrong):
            return [text]
    if tensor.numel() and (tensor.min() < low or tensor.max() > high):
        return [f"{name} has an entry outside {low:g} to {high:g}"]
    return []


def function(
    name: str,
    answer: object,
    *arguments: Any,  # noqa: ANN401 - whatever the function takes
    expected: Any,  # noqa: ANN401 - a number or an array
    mistakes: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return what is wrong with a function, judged by what it returns on one example.

    Args:
        name: what the notebook calls it.
        answer: the function.
        arguments: the example.
        expected: what it should return.
        mistakes: what to say if it returns a value that a known mistake gives.

    Example:
        >>> numbers = torch.tensor([1.0, 3.0])
        >>> function("spread", lambda x: x.var(), numbers, expected=2**0.5,
        ...          mistakes={"you returned a variance: this asks for a standard deviation": 2.0})
        ['you returned a variance: this asks for a standard deviation']

    """
    if not callable(answer):
        return [f"{name} is a {type(answer).__name__}: this asks for a function"]
    copies = [item.clone() if isinstance(item, Tensor) else item for item in arguments]
    try:
        got = answer(*copies)
    except Exception as error:
        return [f"{name} raised {type(error).__name__}: {error}"]
    if got is None or got is ...:
        return [f"{name} returns nothing yet: it must return its outcome"]
    for item, copy in zip(arguments, copies):
        if isinstance(item, Tensor) and not torch.equal(item, copy):
            return [f"{name} changed its argument: work on a new tensor instead"]
    wanted = torch.as_tensor(expected)
    what = f"what {name} returns"
    complaints = value(what, got, shape=tuple(wanted.shape), mistakes=mistakes)
    if not complaints and not _close(_tensor(got), wanted):
        return [f"{what} on the example is not what is asked for"]
    return complaints


def _tensor(answer: object) -> Tensor | None:
    """Return a number or an array as float64, or None if it is neither."""
    if isinstance(answer, bool | str):
        return None
    try:
        tensor = torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if tensor.is_complex() else tensor.detach().to(torch.float64)


def _kind(shape: tuple[int, ...]) -> str:
    return f"a tensor of shape {shape}" if shape else "a number"


def _close(tensor: Tensor | None, other: Any) -> bool:  # noqa: ANN401
    wanted = torch.as_tensor(other, dtype=torch.float64)
    if tensor is None or tensor.shape != wanted.shape:
        return False
    return torch.allclose(tensor, wanted, rtol=1e-4, atol=1e-8)
