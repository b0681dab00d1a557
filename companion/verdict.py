"""A verdict's sentence, asserted clause by clause on what its chapter has measured.

The folded cell behind each verdict calls :func:`check`. A chapter that is run again with fresh
draws (``make repeat``) evaluates the same cells: what they say then is how well the sentence holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, repr=False)
class Checked:
    """What came of the clauses of one verdict.

    Attributes:
        claim: the id of the claim that was judged.
        clauses: whether each clause of the sentence is what was measured.

    """

    claim: str
    clauses: dict[str, bool]

    @property
    def failed(self) -> list[str]:
        """The clauses that are not what was measured."""
        return [clause for clause, holds in self.clauses.items() if not holds]

    def __repr__(self) -> str:
        """Return how many of how many clauses hold, and below it those that do not."""
        total = len(self.clauses)
        head = f"{self.claim}: {total - len(self.failed)} of {total} clauses hold"
        return "\n".join([head, *(f"  not: {clause}" for clause in self.failed)])


def check(claim: str, clauses: Mapping[str, object]) -> Checked:
    """Return which clauses of a verdict's sentence are what was measured.

    Args:
        claim: the id of the claim, such as ``"S2"``.
        clauses: by the words of each clause whether it holds: True or False, NumPy's, or those of a
            tensor with one entry. What a comparison with NaN gives, False, counts as not holding.

    Raises:
        ValueError: if there is no clause, or one has several answers.
        TypeError: if an answer is something else, as a measured number would be.

    Example:
        >>> check("B4", {"a number is its own α": 0.5**3 == 0.125, "and grows": 0.5**3 > 1})
        B4: 1 of 2 clauses hold
          not: and grows

    """
    if not clauses:
        raise ValueError(f"the check of {claim} needs at least one clause")
    return Checked(claim, {words: _answer(words, holds) for words, holds in clauses.items()})


def _answer(words: str, holds: object) -> bool:
    if isinstance(holds, Tensor) and holds.numel() != 1:
        raise ValueError(
            f"the clause {words!r} has {holds.numel()} answers; say .all() or .any() of them"
        )
    value = holds.item() if hasattr(holds, "item") else holds
    if not isinstance(value, bool):
        raise TypeError(f"the clause {words!r} must be True or False, got {holds!r}")
    return value
