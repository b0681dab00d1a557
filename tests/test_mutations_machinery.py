"""The machinery that breaks the package, tried on a package of one function."""

from pathlib import Path

import pytest
from mutants import (
    ROOT,
    Mutation,
    MutationError,
    broken,
    check,
    check_baseline,
    mutations,
    whereabouts,
)

TEST = "tests/test_sum.py::test_add"
GOOD = Mutation("companion/sums.py", "a + b", "a - b", TEST)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # Named like the real package, which is installed here: the copy must win over it.
    root = tmp_path / "root"
    (root / "companion").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    (root / "companion" / "__init__.py").write_text("")
    (root / "companion" / "sums.py").write_text("def add(a, b):\n    return a + b  # sum\n")
    (root / "tests" / "test_sum.py").write_text(
        "from companion.sums import add\n\n\n"
        "def test_add():\n    assert add(2, 3) == 5\n\n\n"
        "def test_type():\n    assert isinstance(add(2, 3), int)\n"
    )
    return root


MARKED = """
import pytest

BREAKS = pytest.mark.breaks  # which is no mark on a test


@pytest.mark.breaks("companion/sums.py", "a + b", "a - b")
@pytest.mark.breaks("companion/sums.py", "  # sum\\n", "\\n", case="3-5")
@pytest.mark.parametrize("b", [5])
@pytest.mark.parametrize("a", [3])
def test_add(a, b):
    pass
"""


@pytest.mark.parametrize("mutation", list(mutations(ROOT)), ids=lambda m: f"{m.test}: {m.old}")
def test_what_a_test_is_marked_with_can_be_broken(mutation: Mutation) -> None:
    assert broken(mutation, ROOT)


def test_marks_are_read_from_the_tests(root: Path) -> None:
    (root / "tests" / "test_more.py").write_text(MARKED)
    test = "tests/test_more.py::test_add"
    assert list(mutations(root)) == [
        Mutation("companion/sums.py", "a + b", "a - b", test),
        Mutation("companion/sums.py", "  # sum\n", "\n", f"{test}[3-5]"),
    ]


def test_a_mutation_is_named_by_the_function_it_is_made_in(root: Path) -> None:
    text = (
        "X = 1\n\n\nclass A:\n    y = 2\n\n    @property\n    def z(self):\n        return 3\n\n\n"
        "def f():\n    def g():\n        return 4\n\n    return 5\n"
    )
    (root / "companion" / "sums.py").write_text(text)
    places = {"1": "module", "2": "A", "property": "A.z", "3": "A.z", "4": "f.g", "5": "f"}
    for old, place in places.items():
        assert whereabouts(GOOD._replace(old=old), root) == place


def test_a_noticed_mutation_passes(root: Path, tmp_path: Path) -> None:
    check(GOOD, root, tmp_path / "copy")


def test_the_original_is_left_alone(root: Path, tmp_path: Path) -> None:
    check(GOOD, root, tmp_path / "copy")
    assert "a + b" in (root / "companion" / "sums.py").read_text()


def test_the_baseline_imports_the_copy(root: Path, tmp_path: Path) -> None:
    check_baseline([TEST, TEST], root, tmp_path / "copy")


def test_a_failing_baseline_is_noticed(root: Path, tmp_path: Path) -> None:
    (root / "companion" / "sums.py").write_text("def add(a, b):\n    return 0\n")
    with pytest.raises(MutationError, match="do not pass unbroken"):
        check_baseline([TEST], root, tmp_path / "copy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": "tests/test_sum.py::test_type"}, "did not fail"),
        ({"test": "tests/test_sum.py::test_gone"}, "exit 4"),
        ({"old": "a * b"}, "0 times"),
        ({"old": "a"}, "times, not once"),
        ({"new": "a + b"}, "changes nothing"),
        ({"new": "a +"}, "did not fail"),
        ({"old": "def add(a", "new": "def sub(a"}, "did not fail"),
        ({"new": "__import__('os')._exit(1)"}, "did not fail"),
    ],
    ids=[
        "unnoticed",
        "no such test",
        "gone",
        "not unique",
        "no change",
        "syntax",
        "import",
        "exit",
    ],
)
def test_what_is_no_proof_is_refused(
    root: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    with pytest.raises(MutationError, match=message):
        check(GOOD._replace(**change), root, tmp_path / "copy")
