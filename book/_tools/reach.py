"""What code uses: the definitions of the companion that it reaches by name, and their digest.

What was measured once stays measured as long as the code that made it is the same. A digest of
whole files would change with every function that is added to one, so it is made of definitions:
those that some code names, those that these name, and so on. A module that is handed on as a whole
is reached as a whole; what runs when a module is loaded, or hands a definition to a decorator of
the companion, counts with anything reached in it. Comments and docstrings do not count.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from chapters import ROOT

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
WHOLE = "*"
Place = tuple[str, str]
"""A module of the companion and a name in it, or `WHOLE`."""


def sources(root: Path = ROOT) -> dict[str, Path]:
    """Return the files of the companion by the name of their module."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((root / "companion").rglob("*.py"))
    }


def imported(tree: ast.AST, known: Iterable[str]) -> set[str]:
    """Return the modules of the companion that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(names & set(known) or {node.module})
    return {name for name in found if name.split(".")[0] == "companion"}


def bare(node: object) -> object:
    """Return a syntax tree as tuples, without the strings that are only there to be read."""
    if isinstance(node, list):
        return tuple(bare(each) for each in node if not is_prose(each))
    if not isinstance(node, ast.AST):
        return repr(node)
    # What is empty is left out, since later versions of Python know more fields.
    fields = [(name, bare(value)) for name, value in ast.iter_fields(node) if value is not None]
    return type(node).__name__, tuple((name, value) for name, value in fields if value != ())


def is_prose(node: object) -> bool:
    """Return whether a statement is a docstring, or a string below a constant."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


# ---------------------------------------------------------------- one file


class File(NamedTuple):
    """What a file binds.

    Attributes:
        statements: the outermost ones by each name that they bind.
        aliases: what each imported name stands for, wherever it is imported: a module and, but for
            a module itself, a name in it.
        effects: statements that do something when the file is run.

    """

    statements: dict[str, list[ast.stmt]]
    aliases: dict[str, tuple[str, str | None]]
    effects: list[ast.stmt]


def read(tree: ast.Module, known: Iterable[str]) -> File:
    """Return what a file binds."""
    found = File({}, aliases(tree.body, known), [])
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom) or is_prose(statement):
            continue
        if isinstance(statement, Definition):
            found.statements.setdefault(statement.name, []).append(statement)
            decorators = {name for each in statement.decorator_list for name, *_ in chains(each)}
            if decorators & (found.aliases.keys() | found.statements.keys()):
                found.effects.append(statement)
            continue
        for name in bound(statement):
            found.statements.setdefault(name, []).append(statement)
        if not (isinstance(statement, ast.Assign | ast.AnnAssign) and only_binds(statement)):
            found.effects.append(statement)
    return found


def aliases(
    statements: Iterable[ast.stmt], known: Iterable[str]
) -> dict[str, tuple[str, str | None]]:
    """Return what the names stand for that some statements import, wherever in them."""
    nodes = (node for statement in statements for node in importing(statement))
    return {name: place for node in nodes for name, place in imports(node, set(known))}


@cache
def importing(statement: ast.stmt) -> tuple[ast.stmt, ...]:
    """Return the imports in a statement."""
    return tuple(n for n in ast.walk(statement) if isinstance(n, ast.Import | ast.ImportFrom))


def imports(node: ast.stmt, known: set[str]) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Yield the names that an import of the companion binds, and what they stand for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == "companion":
                name = alias.asname or "companion"
                yield name, (alias.name if alias.asname else "companion", None)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "companion":
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            stands_for = (full, None) if full in known else (str(node.module), alias.name)
            yield alias.asname or alias.name, stands_for


def bound(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds, wherever in it."""
    nodes = list(ast.walk(statement))
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return stored | {n.name for n in nodes if isinstance(n, Definition)}


def only_binds(statement: ast.Assign | ast.AnnAssign) -> bool:
    """Return whether an assignment binds names only, and changes no entry or attribute."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    nodes = [node for target in targets for node in ast.walk(target)]
    return not any(isinstance(node, ast.Attribute | ast.Subscript) for node in nodes)


def chains(node: ast.AST) -> Iterator[list[str]]:
    """Yield what some code names, with the attributes behind it: of `a.b(c)` that is a.b and c."""
    if isinstance(node, ast.Attribute | ast.Name):
        behind: list[str] = []
        while isinstance(node, ast.Attribute):
            behind.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            yield [node.id, *behind]
            return
    for child in ast.iter_child_nodes(node):
        yield from chains(child)


@cache
def named(statement: ast.stmt) -> tuple[list[str], ...]:
    """Return the chains of a statement."""
    return tuple(chains(statement))


@cache
def bare_text(statement: ast.stmt) -> str:
    """Return a statement as a text that says what it does."""
    return repr(bare(statement))


# ---------------------------------------------------------------- all that is reached


class Reach:
    """The companion's code as far as it is reached.

    Args:
        root: of the repository.

    """

    def __init__(self, root: Path = ROOT) -> None:
        trees = {name: ast.parse(path.read_text("utf-8")) for name, path in sources(root).items()}
        self.files = {name: read(tree, trees) for name, tree in trees.items()}

    def used_by(self, statements: list[ast.stmt]) -> list[Place]:
        """Return what some code outside the companion names of it."""
        file = File({}, aliases(statements, self.files), [])
        found = (self.places(file, chain) for each in statements for chain in named(each))
        return [place for places in found for place in places]

    def places(self, file: File, chain: list[str]) -> list[Place]:
        """Return what a name in a file, with the attributes behind it, is in the companion."""
        if chain[0] not in file.aliases:
            return []
        module, name = file.aliases[chain[0]]
        behind = chain[1:] if name is None else [name, *chain[1:]]
        while behind and f"{module}.{behind[0]}" in self.files:
            module, behind = f"{module}.{behind[0]}", behind[1:]
        if module not in self.files:
            return []
        if not behind:
            return [(module, WHOLE)]
        other = self.files[module]
        if behind[0] in other.statements or behind[0] not in other.aliases:
            return [(module, behind[0])]
        return self.places(other, behind)  # a name that is only passed on there

    def statements(self, start: Iterable[Place]) -> dict[str, list[ast.stmt]]:
        """Return by module the statements that are reached from some places, those included."""
        found: dict[str, list[ast.stmt]] = {}
        waiting, seen = list(start), set()
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            module, name = place
            file = self.files[module]
            reached = [*file.statements.get(name, []), *file.effects]
            if name == WHOLE:
                waiting += [(module, each) for each in file.statements]
                waiting += [place for each in file.aliases for place in self.places(file, [each])]
            held = found.setdefault(module, [])
            for statement in reached:
                if statement in held:
                    continue
                held.append(statement)
                for chain in named(statement):
                    waiting += self.places(file, chain)
                    if chain[0] in file.statements:
                        waiting.append((module, chain[0]))
        return found

    def digest(self, start: Iterable[Place]) -> str:
        """Return a digest of all that is reached from some places."""
        found = self.statements(start)
        code = [(name, sorted(map(bare_text, found[name]))) for name in sorted(found)]
        return hashlib.sha256(repr(code).encode()).hexdigest()[:16]
