"""A sample that the commit decides: `pytest -p tests.sampling --sample MINUTES FILE`.

A test that is marked `files("companion/a.py", ...)` says which files it is about. Those about a
file that was touched all run, first and whatever they take. The others follow in an order drawn by
the commit, one that stands on a touched file (imports it, over however many others) beside one that
does not, until the minutes are over; so over a few commits every one has its turn. Tests without
the mark are no part of the sample and run last. What was left out is counted at the end.

Touched is what has changed since $BASE, a commit; without it, since the last commit that is more
than a day older than this one, or since the first.
"""

import ast
import hashlib
import json
import os
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterator
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest

DAY = 24 * 60 * 60
FOLDERS = ("", "tests", "book/_tools")  # where modules are imported from


class Plan(NamedTuple):
    """What decides the sample: the same for every process of a run."""

    seed: str
    touched: frozenset[str]
    said: str
    """Where these come from, in a line."""


class Item(NamedTuple):
    """A test of the sample: its name, the files that it is about, and the one that it stands in."""

    name: str
    about: tuple[str, ...]
    inside: str


# ---------------------------------------------------------------- what was touched


def git(root: Path, *arguments: str) -> str | None:
    """Return what git says in a folder, or None where it fails."""
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def plan(root: Path, base: str | None = None) -> Plan:
    """Return what decides the sample in a folder; nothing counts as touched since no known base."""
    head = git(root, "rev-parse", "HEAD")
    if head is None:
        return Plan("", frozenset(), "no commit decides it; which files were touched is not known")
    since, reason = start(root, base)
    if since is None:
        return Plan(head, frozenset(), f"{head[:9]} decides it; {reason}: no file is known touched")
    changed = git(root, "diff", "--name-only", "--no-renames", since)
    new = git(root, "ls-files", "--others", "--exclude-standard")
    touched = frozenset(f"{changed}\n{new}".split("\n")) - {""}
    return Plan(
        head,
        touched,
        f"{head[:9]} decides it; {len(touched)} files were touched since {since[:9]} ({reason})",
    )


def start(root: Path, base: str | None) -> tuple[str | None, str]:
    """Return the commit since which files count as touched, or None, and how it was found."""
    if base:
        found = git(root, "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}")
        return found, "BASE" if found else f"BASE is {base}, which is no commit here"
    if git(root, "rev-parse", "--is-shallow-repository") != "false":
        return None, "this clone has no history"
    newest = int(git(root, "log", "-1", "--format=%ct") or 0)
    if older := git(root, "rev-list", "-1", f"--before={newest - DAY - 1}", "HEAD"):
        return older, "more than a day older"
    return (git(root, "rev-list", "--max-parents=0", "HEAD") or "").split("\n")[-1], "the first"


# ---------------------------------------------------------------- what stands on what


@cache
def foundations(root: Path, file: str) -> frozenset[str]:
    """Return the files of the repository that a file imports, and those that they import."""
    found: set[str] = set()
    waiting = deque([file])
    while waiting:
        for each in imported(root, waiting.popleft()):
            if each not in found:
                found.add(each)
                waiting.append(each)
    return frozenset(found - {file})


@cache
def imported(root: Path, file: str) -> frozenset[str]:
    """Return the files of the repository that a file imports itself, anywhere in it."""
    path = root / file
    if path.suffix not in (".py", ".ipynb") or not path.is_file():
        return frozenset()
    nodes = chain.from_iterable(map(ast.walk, map(ast.parse, sources(path))))
    named = chain.from_iterable(names(node, file) for node in nodes)
    return frozenset(chain.from_iterable(located(root, name) for name in named))


def sources(path: Path) -> list[str]:
    """Return a module's text, or that of each code cell without what Jupyter alone understands."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [text]
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return ["".join(cell["source"]) for cell in cells if not magic("".join(cell["source"]))]


def magic(source: str) -> bool:
    """Return whether some line of a cell is for Jupyter, as the one that installs is."""
    return any(line.lstrip().startswith(("%", "!")) for line in source.splitlines())


def names(node: ast.AST, file: str) -> Iterator[str]:
    """Name the modules that a statement imports, and those that it may import."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = Path(file).parts[: -node.level] if node.level else ()
        module = ".".join([*above, *filter(None, [node.module])])
        yield module
        yield from (f"{module}.{alias.name}" for alias in node.names)


@cache
def located(root: Path, name: str) -> frozenset[str]:
    """Return the file of a module and those of the packages around it, if it is one of ours."""
    parts = name.split(".")
    tried = (
        "/".join(filter(None, [folder, *parts[:end]])) + ending
        for folder in FOLDERS
        for end in range(1, len(parts) + 1)
        for ending in (".py", "/__init__.py")
    )
    return frozenset(each for each in tried if (root / each).is_file())


# ---------------------------------------------------------------- the order


def drawn(seed: str, name: str) -> str:
    """Return what a commit sorts a test by."""
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def order(items: list[Item], plan: Plan, root: Path) -> tuple[list[Item], list[Item]]:
    """Return the items that always run, and the others in the order in which they have a turn."""
    shuffled = sorted(items, key=lambda item: drawn(plan.seed, item.name))
    always = [item for item in shuffled if plan.touched.intersection(item.about)]
    near, far = [], []
    for item in shuffled:
        below = {item.inside}.union(*(foundations(root, f) for f in (*item.about, item.inside)))
        if not plan.touched.intersection(item.about):
            (near if plan.touched & below else far).append(item)
    pairs = chain.from_iterable(zip_longest(near, far))
    return always, [item for item in pairs if item is not None]


# ---------------------------------------------------------------- pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the budget."""
    parser.addoption("--sample", type=float, metavar="MINUTES", help="run a sample, this long")


def pytest_configure(config: pytest.Config) -> None:
    """Sample if a budget is given; a worker takes over what the first process has found."""
    if config.option.sample is None:
        return
    if hasattr(config, "workerinput"):
        seed, touched, said, began = config.workerinput["sample"]
        found = Plan(seed, frozenset(touched), said)
    else:
        found, began = plan(config.rootpath, os.environ.get("BASE")), time.time()
    config.pluginmanager.register(Sampler(config, found, began), "sampler")


class Sampler:
    """Puts the tests in order, leaves out those whose turn comes too late, and counts them."""

    def __init__(self, config: pytest.Config, plan: Plan, began: float) -> None:
        self.config, self.plan, self.began = config, plan, began
        self.deadline = began + 60 * config.option.sample
        self.waiting: set[str] = set()
        self.all: Counter[str] = Counter()
        self.always: Counter[str] = Counter()
        self.left_out: Counter[tuple[str, str]] = Counter()

    def pytest_report_header(self) -> str:
        return f"sample of {self.config.option.sample:g} minutes: {self.plan.said}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node) -> None:  # noqa: ANN001
        seed, touched, said = self.plan
        node.workerinput["sample"] = (seed, sorted(touched), said, self.began)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        root = self.config.rootpath
        marked = {item.nodeid: item for item in items if item.get_closest_marker("files")}
        known = [Item(name, about(item), inside(item, root)) for name, item in marked.items()]
        always, others = order(known, self.plan, root)
        self.waiting = {item.name for item in others}
        self.all.update(map(kind, marked.values()))
        self.always.update(kind(marked[item.name]) for item in always)
        rest = [item for item in items if item.nodeid not in marked]
        items[:] = [*(marked[item.name] for item in (*always, *others)), *rest]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if item.nodeid not in self.waiting or time.time() < self.deadline:
            return None
        first = next(iter(about(item)), inside(item, self.config.rootpath))
        self.left_out[kind(item), first] += 1
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        if hasattr(self.config, "workeroutput"):
            left_out = [[*key, count] for key, count in self.left_out.items()]
            self.config.workeroutput["sample"] = [dict(self.all), dict(self.always), left_out]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node) -> None:  # noqa: ANN001
        if "sample" in (output := getattr(node, "workeroutput", {})):  # not if it has crashed
            every, always, left_out = output["sample"]
            self.all, self.always = Counter(every), Counter(always)
            self.left_out.update({(kind, file): count for kind, file, count in left_out})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("sample")
        terminalreporter.line(self.plan.said)
        for name, count in self.all.items():
            files = {file: n for (of, file), n in sorted(self.left_out.items()) if of == name}
            terminalreporter.line(
                f"{name}: {count - sum(files.values())} of {count} had their turn, "
                f"{self.always[name]} of them because of a touched file; "
                f"{sum(files.values())} were left out"
            )
            if files:
                listed = ", ".join(f"{file} {n}" for file, n in files.items())
                terminalreporter.line(f"    left out: {listed}")
        if self.left_out:
            terminalreporter.line("`make check-all` runs those too.")


def kind(item: pytest.Item) -> str:
    """Return the words of a test's name, or one kind for all that try a verdict."""
    if item.get_closest_marker("claim"):
        return "adversaries of verdicts"
    return getattr(item, "originalname", item.name).removeprefix("test_").replace("_", " ")


def about(item: pytest.Item) -> tuple[str, ...]:
    """Return the files that a marked test says it is about."""
    return tuple(chain.from_iterable(mark.args for mark in item.iter_markers("files")))


def inside(item: pytest.Item, root: Path) -> str:
    """Return the file that a test stands in."""
    return item.path.relative_to(root).as_posix()
