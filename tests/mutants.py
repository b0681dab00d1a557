"""The machinery of tests/mutations.py: break a copy of the package, and see a test fail."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("companion", "tests", "pyproject.toml")
WHERE = """
from pathlib import Path

import {package}


def test_the_copy_is_what_is_imported() -> None:
    assert Path({package}.__file__).is_relative_to(Path(__file__).resolve().parents[1])
"""


class Mutation(NamedTuple):
    """One way to break the package, and the test that must notice."""

    file: str
    """From the root of the repository, `companion/backprop.py`."""
    old: str
    """A text that stands in the file exactly once."""
    new: str
    test: str
    """A pytest node id, `tests/test_backprop.py::test_delta`."""


def marks(function: ast.FunctionDef) -> Iterator[tuple[list[str], str | None]]:
    """The arguments of each mark `pytest.mark.breaks` of a test, and its case."""
    for mark in function.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.breaks":
            options = {each.arg: ast.literal_eval(each.value) for each in mark.keywords}
            yield [ast.literal_eval(each) for each in mark.args], options.get("case")


def mutations(root: Path) -> Iterator[Mutation]:
    """What the tests of a repository are marked with, in the order in which they stand."""
    for path in sorted((root / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                test = f"{path.relative_to(root).as_posix()}::{node.name}"
                for arguments, case in marks(node):
                    yield Mutation(*arguments, f"{test}[{case}]" if case else test)


def whereabouts(mutation: Mutation, root: Path) -> str:
    """The innermost function or class in which a mutation is made, as Python names it."""
    path = root / mutation.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    at = text[: text.find(mutation.old) + 1].count("\n") + 1
    inside: list[str] = []
    nodes = ast.parse(text).body
    while nodes:
        node = nodes.pop(0)
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        start = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        if start <= at <= node.end_lineno:
            inside.append(node.name)
            nodes = list(node.body)
    return ".".join(inside) or "module"


class MutationError(AssertionError):
    """A mutation that could not be made, or that its test did not notice."""


def copy(root: Path, to: Path) -> Path:
    """Copy what the tests need from the repository."""
    for name in COPIED:
        if (root / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "book", "benchmarks")
            shutil.copytree(root / name, to / name, ignore=ignore)
        elif (root / name).is_file():
            shutil.copy(root / name, to / name)
    return to


class Run(NamedTuple):
    """What a run of pytest gave."""

    returncode: int
    output: str


@cache
def _server() -> subprocess.Popen[str]:
    """Start tests/mutants_server.py, which keeps torch and pytest loaded, but not the package."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # one is needed, and all would be loaded
    return subprocess.Popen(
        [sys.executable, "-P", str(ROOT / "tests" / "mutants_server.py")],
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(copy: Path, tests: Sequence[str]) -> Run:
    """Run tests in a copy, in a process that has not loaded the package and takes it from there."""
    server, output = _server(), copy / "output.txt"
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "timeout", *tests]
    job = {"folder": str(copy), "output": str(output), "arguments": arguments}
    print(json.dumps(job), file=server.stdin, flush=True)
    answer = server.stdout.readline()
    if not answer:
        raise MutationError(f"tests/mutants_server.py ended with {server.wait()}")
    return Run(int(answer), output.read_text(encoding="utf-8"))


def check_baseline(tests: Sequence[str], root: Path, to: Path, package: str = "companion") -> None:
    """Require that the tests pass in an unbroken copy, and that they import that copy."""
    copy(root, to)
    (to / "tests" / "test_where_it_is.py").write_text(WHERE.format(package=package))
    done = run(to, [*dict.fromkeys(tests), "tests/test_where_it_is.py"])
    if done.returncode != 0:
        raise MutationError(f"the tests do not pass unbroken:\n{done.output}")


def broken(mutation: Mutation, root: Path) -> str:
    """The text of the file with the mutation in it; an error if it cannot be made there."""
    path = root / mutation.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = text.count(mutation.old)
    if found != 1:
        raise MutationError(
            f"{mutation.file} has {found} times, not once: {mutation.old!r} ({mutation.test})"
        )
    if mutation.old == mutation.new:
        raise MutationError(f"{mutation.file}: the mutation changes nothing ({mutation.test})")
    return text.replace(mutation.old, mutation.new)


def check(mutation: Mutation, root: Path, to: Path) -> None:
    """Require that the mutation can be made in a copy, and that its test then fails there."""
    copy(root, to)
    (to / mutation.file).write_text(broken(mutation, root), encoding="utf-8")
    done = run(to, [mutation.test])
    # 1 is "tests failed"; a test that is not found, or a module that does not import, is another.
    if done.returncode != 1 or not re.search(r"^\d+ failed", done.output, re.MULTILINE):
        raise MutationError(
            f"{mutation.test} did not fail (exit {done.returncode}) after, in {mutation.file},\n"
            f"- {mutation.old}\n+ {mutation.new}\n{done.output[-4000:]}"
        )
