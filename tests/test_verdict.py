"""Clauses of a verdict's sentence, and how many of them hold."""

import math

import numpy as np
import pytest
import torch

from companion.verdict import check


@pytest.mark.breaks("companion/verdict.py", "if not holds]", "if holds]")
@pytest.mark.breaks("companion/verdict.py", "{total - len(self.failed)} of", "{total} of")
def test_it_says_how_many_clauses_hold_and_which_do_not() -> None:
    checked = check("S2", {"top": True, "bottom": False, "loss": True})
    assert repr(checked) == "S2: 2 of 3 clauses hold\n  not: bottom"
    assert checked.failed == ["bottom"]
    assert repr(check("S2", {"top": True})) == "S2: 1 of 1 clauses hold"


@pytest.mark.parametrize("true", [True, np.bool_(True), torch.tensor(True), torch.tensor([True])])
def test_an_answer_may_be_pythons_numpys_or_a_tensors(true: object) -> None:
    assert not check("S2", {"it": true}).failed


def test_what_is_nan_does_not_hold() -> None:
    assert check("S2", {"below": math.nan < 1, "above": torch.tensor(math.nan) > 1}).failed == [
        "below",
        "above",
    ]


@pytest.mark.breaks("companion/verdict.py", "holds.numel() != 1", "holds.numel() == 0")
@pytest.mark.breaks("companion/verdict.py", "if not isinstance(value, bool)", "if value is None")
@pytest.mark.breaks("companion/verdict.py", "if not clauses:", "if False:")
def test_what_is_no_answer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs at least one clause"):
        check("S2", {})
    with pytest.raises(ValueError, match=r"'it' has 2 answers; say \.all\(\)"):
        check("S2", {"it": torch.tensor([True, False])})
    for number in (0.3, 1, torch.tensor(0.3), np.float64(1), None, "yes"):
        with pytest.raises(TypeError, match=r"'it' must be True or False"):
            check("S2", {"it": number})
