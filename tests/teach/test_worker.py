"""What is handed over without a fork runs no code of the submission's."""

import pytest
import torch

from companion.teach import worker


class Equal(type):
    """A class that says it is every other one, and remembers that it was asked."""

    asked = 0

    def __eq__(cls, other: object) -> bool:
        Equal.asked += 1
        return True

    def __hash__(cls) -> int:
        return hash(list)


class Pretender(metaclass=Equal):
    def __len__(self) -> int:
        raise AssertionError("it ran")

    __iter__ = __len__


class Longer(list):
    pass


@pytest.mark.breaks(
    "companion/teach/worker.py",
    "any(type(value) is kind for kind in kinds)",
    "type(value) in kinds",
)
@pytest.mark.parametrize("value", [Pretender(), [Pretender()], (1, Pretender())])
def test_a_class_that_says_it_is_another_is_not_believed_nor_asked(value: object) -> None:
    Equal.asked = 0
    assert not worker._is_plain(value)
    assert Equal.asked == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, True),
        (True, True),
        (None, True),
        ([1, 2.0, "3", None], True),
        (torch.ones(2), True),
        (lambda x: x, True),
        ([[1]], False),
        (Longer(), False),
        ([0] * worker.FEW, False),
        ({}, False),
        (torch.nn.Parameter(torch.ones(1)), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_is_of_a_plain_type_itself_needs_no_fork(value: object, expected: bool) -> None:
    assert worker._is_plain(value) is expected
