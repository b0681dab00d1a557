"""Known ways to break the companion, each with the test that must notice: `make test-mutations`."""

from pathlib import Path

import pytest
from mutants import ROOT, Mutation, check, check_baseline

MUTATIONS: list[Mutation] = []


def test_the_tests_pass_unbroken(tmp_path: Path) -> None:
    check_baseline([mutation.test for mutation in MUTATIONS], ROOT, tmp_path)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}: {m.old} -> {m.new}")
def test_mutation_is_noticed(mutation: Mutation, tmp_path: Path) -> None:
    check(mutation, ROOT, tmp_path)
