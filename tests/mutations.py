"""Each wrong version of the companion that a test is marked with: `make test-mutations`.

A mark `@pytest.mark.breaks(file, old, new)` on a test says that the test must fail when in that
file the one place that reads `old` reads `new`; `case="..."` names the one of the test's parameters
that must, as pytest names it.
"""

from collections import defaultdict
from pathlib import Path

import pytest
from mutants import ROOT, Mutation, check, check_baseline, mutations, whereabouts

MUTATIONS = list(mutations(ROOT))
TESTS = defaultdict(list)
for one in MUTATIONS:
    TESTS[one.test.partition("::")[0]].append(one.test)


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=pytest.mark.files(file)) for file in sorted(TESTS)]
)
def test_the_tests_pass_unbroken(file: str, tmp_path: Path) -> None:
    check_baseline(TESTS[file], ROOT, tmp_path)


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(
            m,
            id=f"{m.file}, {whereabouts(m, ROOT)}: {m.old} -> {m.new}",
            marks=pytest.mark.files(m.file, m.test.partition("::")[0]),
        )
        for m in MUTATIONS
    ],
)
def test_mutation_is_noticed(mutation: Mutation, tmp_path: Path) -> None:
    check(mutation, ROOT, tmp_path)
