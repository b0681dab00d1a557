"""A visible check says what is wrong, and what a mistake is when it knows it."""

import math

import numpy as np
import pytest
import torch

from companion import checks

VARIANCE = "you returned a variance: this asks for a standard deviation"
NUMBERS = torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64)


def spread(answer: object) -> list[str]:
    mistakes = {VARIANCE: NUMBERS.var(), "unbiased, please": NUMBERS.std(correction=0)}
    return checks.function(
        "spread", answer, NUMBERS, expected=NUMBERS.std().item(), mistakes=mistakes
    )


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda x: x.std(), None),
        (lambda x: x.std().item(), None),
        (lambda x: x.numpy().std(ddof=1), None),
        (lambda x: x.to(torch.float32).std(), None),
        (lambda x: x.var(), VARIANCE),
        (lambda x: x.std(correction=0), "unbiased, please"),
        (lambda x: x.std() + 1, "what spread returns on the example is not what is asked for"),
        (lambda x: x - x.mean(), "what spread returns has shape (3,): this asks for a number"),
        (lambda x: None, "spread returns nothing yet: it must return its outcome"),
        (lambda x: ..., "spread returns nothing yet: it must return its outcome"),
        (lambda x: "3.6", "what spread returns is a str: this asks for a number"),
        (lambda x: True, "what spread returns is a bool: this asks for a number"),
        (lambda x: 1j, "what spread returns is a complex: this asks for a number"),
        (lambda x: x.sum() / 0, "what spread returns is not finite"),
        (lambda x: x.sub_(x.mean()).norm() / 2**0.5, "spread changed its argument"),
        (lambda x: 1 / 0, "spread raised ZeroDivisionError: division by zero"),
        (lambda: 1, "spread raised TypeError"),
        (3.6, "spread is a float: this asks for a function"),
        (..., "spread is a ellipsis: this asks for a function"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(answer: object, complaint: str | None) -> None:
    complaints = spread(answer)
    assert len(complaints) == (complaint is not None)
    assert complaint is None or complaints[0].startswith(complaint)


@pytest.mark.parametrize(
    ("answer", "shape", "complaint"),
    [
        (0.5, (), None),
        (np.float32(0.5), (), None),
        (torch.tensor(1), (), None),
        ([0.1, 0.2], (2,), None),
        (np.zeros((2, 3)), (2, 3), None),
        (torch.ones(2, requires_grad=True), (2,), None),
        (..., (), "x is not answered yet"),
        (None, (), "x is not answered yet"),
        ([0.1, 0.2], (), "x has shape (2,): this asks for a number"),
        (0.1, (2,), "x has shape (): this asks for a tensor of shape (2,)"),
        (math.nan, (), "x is not finite"),
        (1.5, (), "x has an entry outside 0 to 1"),
        (-0.1, (), "x has an entry outside 0 to 1"),
        ([[1], [1, 2]], (2,), "x is a list"),
        (object(), (), "x is a object"),
        (0.25, (), "that is the square"),
    ],
)
def test_what_is_wrong_with_a_value_is_said(
    answer: object, shape: tuple[int, ...], complaint: str | None
) -> None:
    complaints = checks.value(
        "x", answer, shape=shape, low=0, high=1, mistakes={"that is the square": 0.25}
    )
    assert len(complaints) == (complaint is not None)
    assert complaint is None or complaints[0].startswith(complaint)


@pytest.mark.breaks(
    "companion/checks.py", 'PASSED = "visible checks passed"', 'PASSED = "all tests passed"'
)
def test_a_report_never_says_that_all_is_right() -> None:
    assert repr(checks.report([], [])) == "visible checks passed"
    assert repr(checks.report(["one"], [], ["two"])) == "✗ one\n✗ two"


@pytest.mark.breaks("companion/checks.py", "student_id.strip().lower()", "student_id.strip()")
def test_a_students_numbers_are_their_own_and_stay_so() -> None:
    seeds = {checks.seed(f"s{number}", name) for number in range(500) for name in "ab"}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)
    # Another value would give every student other numbers than those that were handed out.
    assert checks.seed("s0000000", "slope") == 1060294797
    draws = [torch.rand(3, generator=checks.generator(name, "a")) for name in ("S1 ", "s1")]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], torch.rand(3, generator=checks.generator("s1", "b")))


@pytest.mark.parametrize(
    ("student_id", "error", "message"),
    [(123, TypeError, "must be text in quotes, got 123"), (" ", ValueError, "student_id is empty")],
)
def test_an_id_that_is_none_is_refused(
    student_id: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        checks.seed(student_id, "slope")
