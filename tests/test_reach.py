"""What code reaches in the companion, by name: what makes its digest another one, and what not."""

import ast
from pathlib import Path

import pytest
import reach

FILES = {
    "companion/__init__.py": '"""The package."""\n__all__ = ["a", "house", "low"]\n',
    "companion/low.py": "Y = f'{2}'  # why\nZ = None\n\ndef unused():\n    return Z\n",
    "companion/a.py": "from companion import low\n"
    'X = 1\n"""What it is."""\n'
    "class Kind:\n    size = X\n"
    'def f():\n    "Doc."\n    return Kind, low.Y\n'
    "def g():\n    from companion.house.inner import late\n    return late()\n"
    "def other():\n    return 3\n",
    "companion/house/__init__.py": "from companion.house.inner import early as entrance\n"
    "from companion.house.inner import late\n__all__ = ['entrance', 'late']\n",
    "companion/house/inner.py": "import companion.low\n"
    "from companion.house.register import register\nKNOWN = {}\n"
    "def early():\n    return KNOWN\n"
    "def late():\n    return companion.low.Z\n"
    "@register\ndef entered():\n    return 4\n",
    "companion/house/register.py": "def register(f):\n    return f\nif True:\n    register(len)\n"
    "@register\ndef own():\n    return 6\nHELD = {}\nHELD['x'] = 7\nregister.mark: int = 8\n",
}


def digest(root: Path, code: str, changed: dict[str, str] | None = None) -> str:
    """The digest of what some code uses of a package, some files of which read otherwise."""
    for name, text in (FILES | (changed or {})).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    found = reach.Reach(root)
    return found.digest(found.used_by(ast.parse(code).body))


F = "from companion import a\nprint(a.f())"
ENTRANCE = "from companion.house import entrance\nentrance()"
WHOLE = "from companion import house\ngetattr(house, 'late')()"
LATE = "from companion import a\na.g()"


@pytest.mark.parametrize(
    ("code", "file", "old", "new", "same"),
    [
        # what is only there to be read, and what is not used
        (F, "companion/a.py", '"Doc."\n', '"""Another."""\n', True),
        (F, "companion/a.py", '"""What it is."""\n', "# a comment\n\n", True),
        (F, "companion/low.py", "  # why", "", True),
        (F, "companion/low.py", "Z = None", "Z = ''", True),
        (F, "companion/a.py", "return 3", "return 4", True),
        (F, "companion/house/inner.py", "return 4", "return 5", True),
        (F, "companion/__init__.py", '"low"', '"low", "new"', True),
        ("a = 2\nprint(a.f())", "companion/a.py", "X = 1", "X = 2", True),
        ("import companion\ncompanion.a.f()", "companion/a.py", "return 3", "return 4", True),
        # what is used: by a name, by what that names, through a class, another module, a facade
        (F, "companion/a.py", "X = 1", "X = 2", False),
        (F, "companion/a.py", "X = 1", "X = 1.0", False),
        (F, "companion/low.py", "f'{2}'", "f'{3}'", False),
        ("import companion\ncompanion.a.f()", "companion/a.py", "X = 1", "X = 2", False),
        ("import companion.a as b\nb.f()", "companion/a.py", "X = 1", "X = 2", False),
        (ENTRANCE, "companion/house/inner.py", "KNOWN = {}", "KNOWN = {1: 2}", False),
        (ENTRANCE, "companion/house/__init__.py", "import early as", "import late as", False),
        (LATE, "companion/low.py", "Z = None", "Z = ''", False),
        # what runs when the module is loaded: under a decorator, below an `if`
        (ENTRANCE, "companion/house/inner.py", "return 4", "return 5", False),
        (ENTRANCE, "companion/house/register.py", "register(len)", "register(abs)", False),
        (ENTRANCE, "companion/house/register.py", "return 6", "return 7", False),
        (ENTRANCE, "companion/house/register.py", "['x'] = 7", "['x'] = 8", False),
        (ENTRANCE, "companion/house/register.py", "mark: int = 8", "mark: int = 9", False),
        # a module that is handed on is used as a whole, with what it passes on
        (WHOLE, "companion/low.py", "Z = None", "Z = ''", False),
        (WHOLE, "companion/house/inner.py", "KNOWN = {}", "KNOWN = {1: 2}", False),
        ("from companion import a\nf(a)", "companion/a.py", "return 3", "return 4", False),
    ],
)
def test_the_digest_is_of_what_is_used(
    code: str, file: str, old: str, new: str, same: bool, tmp_path: Path
) -> None:
    before = digest(tmp_path, code)
    assert FILES[file].count(old) == 1
    after = digest(tmp_path, code, {file: FILES[file].replace(old, new)})
    assert (after == before) == same


def test_it_is_the_same_in_whatever_order_things_stand(tmp_path: Path) -> None:
    before = digest(tmp_path, F)
    first, rest = FILES["companion/a.py"].split("def g()")
    moved = first.replace("class Kind", "def g()" + rest + "class Kind")
    assert moved != FILES["companion/a.py"]
    assert digest(tmp_path, F, {"companion/a.py": moved}) == before


def test_each_use_of_a_chain_is_found() -> None:
    (statement,) = ast.parse("a.b(c.d.e, [f for g in h().i])[j.k]").body
    found = sorted(map(".".join, reach.named(statement)))
    assert found == ["a.b", "c.d.e", "f", "g", "h", "j.k"]


def test_the_companion_is_reached_where_a_chapter_uses_it() -> None:
    found = reach.Reach()
    code = "from companion import training\ntraining.train([], None, optimizer=training.sgd(0.1))"
    statements = found.statements(found.used_by(ast.parse(code).body))
    names = {m: {getattr(s, "name", "") for s in held} for m, held in statements.items()}
    assert {"train", "Record", "_update"} <= names["companion.training.loop"]
    assert "sgd" in names["companion.training.optimizers"]
    assert "adam_with_warmup" not in names["companion.training.optimizers"]
    assert "companion.training.hessian" not in names
