"""The companion as a house: no circle, nothing upwards, nobody borrows another's private name."""

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest
import stamp
from chapters import ROOT, chapter_files
from reach import imported, sources

import companion

PACKAGE = ROOT / "companion"
SOURCES = sources()
WITHOUT_CODE = {"symptoms"}  # it draws from what the others have


def room(module: str) -> str:
    """The module or package right below the companion that a module is, or is in."""
    return module.split(".")[1] if "." in module else ""


def borrowed(source: str, module: str) -> list[str]:
    """The private names of other modules that a module of the companion uses."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("companion"):
            own_package = node.module == module.rpartition(".")[0]
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                aliases[alias.asname or alias.name] = full
                is_module = full in SOURCES and (own_package or full == "companion._lib")
                if alias.name.startswith("_") and not is_module:
                    found.append(full)
            private = [part for part in node.module.split(".")[2:] if part.startswith("_")]
            if private and room(node.module) != room(module):
                found.append(node.module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            is_private = node.attr.startswith("_") and not node.attr.startswith("__")
            if is_private and aliases.get(node.value.id) in SOURCES:
                found.append(f"{aliases[node.value.id]}.{node.attr}")
    return found


def circle(uses: dict[str, set[str]]) -> list[str]:
    """A circle among what uses what, or nothing."""
    try:
        TopologicalSorter(uses).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def trees() -> dict[str, set[str]]:
    return {
        name: imported(ast.parse(path.read_text(encoding="utf-8")), SOURCES)
        for name, path in SOURCES.items()
    }


def test_no_module_uses_another_ones_private_name() -> None:
    found = {name: borrowed(path.read_text("utf-8"), name) for name, path in SOURCES.items()}
    assert not {name: names for name, names in found.items() if names}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from companion.backprop import _x", ["companion.backprop._x"]),
        ("from companion import backprop\nbackprop._x()", ["companion.backprop._x"]),
        ("from companion import backprop as b\nb._x", ["companion.backprop._x"]),
        ("def f():\n    from companion.monitor import _watch", ["companion.monitor._watch"]),
        ("from companion.monitor._watch import Watch", ["companion.monitor._watch"]),
        ("from companion._lib.random import seed_list", []),
        ("from companion import backprop\nbackprop.__doc__, backprop.forward", []),
        ("import torch\ntorch._C, self._x", []),
    ],
)
def test_a_borrowed_name_is_seen(source: str, found: list[str]) -> None:
    assert borrowed(source, "companion.phase") == found


def test_the_machine_of_the_monitor_is_its_own() -> None:
    assert not borrowed("from companion.monitor._watch import Watch", "companion.monitor.log")


def test_there_is_no_circle_among_modules_or_rooms() -> None:
    uses = trees()
    assert not circle({name: each - {name} for name, each in uses.items()})
    rooms: dict[str, set[str]] = {}
    for name, each in uses.items():
        rooms.setdefault(room(name), set()).update(room(other) for other in each)
    assert not circle({name: each - {name, ""} for name, each in rooms.items() if name})


def test_a_circle_is_seen() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_the_library_stands_on_nothing_above_it() -> None:
    for name, each in trees().items():
        if room(name) == "_lib":
            assert {room(other) for other in each} <= {"_lib"}, name


def test_what_draws_knows_no_subject() -> None:
    assert {room(each) for each in trees()["companion.plots"]} == {"_lib"}


def test_every_room_is_named() -> None:
    rooms = {room(name) for name in SOURCES} - {"", "_lib", "teach"}
    assert sorted(rooms) == sorted(companion.__all__)


@pytest.mark.parametrize("chapter", [path.stem for path in chapter_files()])
def test_a_chapter_finds_its_code_under_its_own_name(chapter: str) -> None:
    assert (chapter in companion.__all__) != (chapter in WITHOUT_CODE)
    if chapter in companion.__all__:
        link = f"\nChapter: {stamp.configured().site}{chapter}.html\n"
        assert link in getattr(companion, chapter).__doc__


@pytest.mark.parametrize(
    "package", sorted(path.parent.name for path in PACKAGE.glob("[a-z]*/__init__.py"))
)
def test_a_package_shows_what_it_says(package: str) -> None:
    if package == "teach":
        pytest.skip("it is a command")
    module = getattr(companion, package)
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    assert not [name for name in module.__all__ if name.startswith("_")]
    known = {path.stem for path in Path(module.__file__).parent.glob("[a-z]*.py")}
    taken = {each.rpartition(".")[2] for each in trees()[module.__name__]}
    assert taken <= known, "a facade shows what is in its package"


def test_every_docstring_that_names_a_module_names_one_there_is() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES.values())
    named = chain.from_iterable(
        part.split("`")[:1] for part in text.replace("~", "").split(":mod:`companion.")[1:]
    )
    assert not [name for name in named if f"companion.{name}" not in SOURCES]
