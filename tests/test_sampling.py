"""The sample is the commit's, has what was touched, and over some commits has everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sampling import Item, Plan, foundations, order, plan

TESTS = Path(__file__).resolve().parent
ABOUT = {f"about_{letter}": f"package/{letter}.py" for letter in "abcdefgh"}
CHECKS = """
import time

import pytest

ABOUT = {about}


@pytest.mark.parametrize("file", [pytest.param(f, marks=pytest.mark.files(f)) for f in ABOUT])
def test_a_file(file):
    time.sleep(0.1)


def test_always():
    pass
"""


def commit(root: Path, day: int, **modules: str) -> str:
    """Write modules of the package, and commit them on a day."""
    for name, text in modules.items():
        path = root / "package" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    date = f"2026-01-{day:02} 12:00:00 +0000"
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for command in (["add", "."], [*who, "commit", "--quiet", "--allow-empty", "-m", "x"]):
        subprocess.run(
            ["git", "-C", str(root), *command],
            env=os.environ | {"GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date},
            check=True,
        )
    return head(root)


def head(root: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A package of eight modules, of which b imports a, and c imports b; a slow check for each."""
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    modules = {letter: f"x = '{letter}'\n" for letter in "abcdefgh"}
    modules["b"] = "from package import a\n"
    modules["c"] = "def late():\n    from .b import a\n"
    (root / "checks.py").write_text(CHECKS.format(about=list(ABOUT.values())))
    (root / "pytest.ini").write_text("[pytest]\nmarkers = files: about these\n")
    commit(root, 1, __init__="", **modules)
    return root


def items(root: Path) -> list[Item]:
    return [Item(name, (file,), "checks.py") for name, file in ABOUT.items()]


def test_touched_is_what_changed_since_a_commit_more_than_a_day_older(root: Path) -> None:
    commit(root, 10, d="y = 1\n")
    old = commit(root, 11, e="y = 1\n")
    commit(root, 13, f="y = 1\n")
    commit(root, 13, g="y = 1\n")
    (root / "package" / "h.py").write_text("y = 1\n")
    (root / "package" / "new.py").write_text("")
    found = plan(root)
    changed = {f"package/{name}.py" for name in ("f", "g", "h", "new")}
    assert found.touched == changed
    assert found.seed == head(root)
    assert f"4 files were touched since {old[:9]} (more than a day older)" in found.said


def test_where_everything_is_new_the_first_commit_is_the_base(root: Path) -> None:
    commit(root, 2, d="y = 1\n")
    assert plan(root).touched == {"package/d.py"}
    assert "(the first)" in plan(root).said


def test_a_base_may_be_named(root: Path) -> None:
    base = commit(root, 10, d="y = 1\n")
    commit(root, 20, e="y = 1\n")
    commit(root, 30, f="y = 1\n")
    assert plan(root, base).touched == {"package/e.py", "package/f.py"}
    assert "(BASE)" in plan(root, base).said


def test_an_unknown_base_is_said_and_not_guessed(root: Path, tmp_path: Path) -> None:
    commit(root, 10, d="y = 1\n")
    found = plan(root, "0" * 40)
    assert not found.touched
    assert f"BASE is {'0' * 40}, which is no commit here" in found.said
    shallow = tmp_path / "shallow"
    subprocess.run(
        ["git", "clone", "--quiet", "--depth=1", root.as_uri(), str(shallow)], check=True
    )
    assert plan(shallow).seed == head(root)
    assert "this clone has no history" in plan(shallow).said
    assert "no commit decides it" in plan(tmp_path).said


def test_what_a_file_stands_on_is_followed_through_other_files(root: Path) -> None:
    assert foundations(root, "package/c.py") == {
        "package/__init__.py",
        "package/a.py",
        "package/b.py",
    }
    cells = [
        {"cell_type": "markdown", "source": "from package import d"},
        {"cell_type": "code", "source": ["%pip install package\n", "import package.h"]},
        {"cell_type": "code", "source": ["import math\n", "from package.e import x"]},
    ]
    (root / "chapter.ipynb").write_text(json.dumps({"cells": cells}))
    assert foundations(root, "chapter.ipynb") == {"package/__init__.py", "package/e.py"}


def test_the_commit_decides_the_order(root: Path) -> None:
    def names(seed: str) -> list[str]:
        return [item.name for item in order(items(root), Plan(seed, frozenset(), ""), root)[1]]

    assert names("one") == names("one")
    assert sorted(names("one")) == sorted(names("another")) == sorted(ABOUT)
    assert names("one") != names("another")


def test_over_some_commits_each_has_its_turn(root: Path) -> None:
    touched = frozenset({"package/a.py"})
    seen = set()
    for commits in range(20):
        always, others = order(items(root), Plan(str(commits), touched, ""), root)
        assert [item.name for item in always] == ["about_a"]
        # b and c stand on a: one of them comes first, the other third.
        assert {others[0].name, others[2].name} == {"about_b", "about_c"}
        seen |= {item.name for item in others[:2]}
    assert seen == set(ABOUT) - {"about_a"}


def run(root: Path, *arguments: str) -> str:
    """Run a sample of the checks."""
    command = [sys.executable, "-m", "pytest", "-p", "sampling", "-v", *arguments, "checks.py"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        command,
        cwd=root,
        env=environment
        | {"PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "BASE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "workers", [[], ["-p", "xdist", "-n", "2", "--dist", "load", "--maxschedchunk=1"]]
)
def test_no_budget_leaves_what_was_touched_and_counts_the_rest(
    root: Path, workers: list[str]
) -> None:
    commit(root, 10, d="y = 1\n", e="y = 1\n")
    said = run(root, "--sample", "0", *workers)
    assert "2 files were touched since" in said
    for letter in "abcdefgh":
        assert (f"test_a_file[package/{letter}.py]" in said) == (letter in "de")
    assert "3 passed" in said
    assert (
        "a file: 2 of 8 had their turn, 2 of them because of a touched file; 6 were left out"
        in said
    )
    assert "left out: package/a.py 1, package/b.py 1, package/c.py 1, package/f.py 1" in said
    assert "`make check-all` runs those too." in said


def test_with_time_enough_all_have_their_turn(root: Path) -> None:
    said = run(root, "--sample", "5")
    assert "9 passed" in said
    assert "8 of 8 had their turn" in said
    assert "make check-all" not in said


def test_the_budget_ends_the_sample(root: Path) -> None:
    said = run(root, "--sample", "0.005")  # three tenths of a second
    assert "passed" in said
    assert "`make check-all` runs those too." in said


def test_adversaries_of_verdicts_are_counted_as_one_kind(root: Path) -> None:
    two = "".join(
        f'''@pytest.mark.files("package/{letter}.py")
@pytest.mark.claim("{letter}1")
def test_of_{letter}():
    pass


'''
        for letter in "ab"
    )
    (root / "checks.py").write_text(f"import pytest\n\n\n{two}")
    (root / "pytest.ini").write_text("[pytest]\nmarkers =\n  files: about these\n  claim: of it\n")
    assert "adversaries of verdicts: 2 of 2 had their turn" in run(root, "--sample", "5")
