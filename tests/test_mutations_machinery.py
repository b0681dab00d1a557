"""The machinery that breaks the package, tried on a package of one function."""

from pathlib import Path

import pytest
from mutants import Mutation, MutationError, check, check_baseline

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
