"""Every public docstring says what goes in, what comes out and what is raised, with shapes.

A rule takes a public function, class or method of the companion, read from its syntax tree, and
returns its complaints; each is tried on one that keeps it and on ones that break it. What the
private modules and `companion.teach` have is their own affair.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

# Not the book's `stored.sources`: the copies in which mistakes are made have no book.
ROOT = Path(__file__).resolve().parent.parent

Function = ast.FunctionDef | ast.AsyncFunctionDef
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Examples?|Sources?):", re.MULTILINE)
ENTRY = re.compile(r"^ {4}\*{0,2}(\w[\w., ]*): ", re.MULTILINE)
AXIS = r"\s*[\w*….·×²½+−⌈⌉{}/-]+(?:\s[\w*….·×²½+−⌈⌉{}/-]+){0,3}\s*"
SHAPE = re.compile(rf"\((?:{AXIS},)+(?:{AXIS})?\)|\((?:\.\.\.|…)\)|\bscalars?\b|\bshape[sd]?\b")
NOTHING = ast.Module(body=[], type_ignores=[])
MADE_BY = ("__init__", "__new__", "__post_init__")


class Public(NamedTuple):
    """A function, method or class: its full name, its syntax tree, and what it is defined among."""

    name: str
    node: Function | ast.ClassDef
    package: "Package"

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def made_by(self) -> Function | None:
        """The function that is called by this name: itself, or a class's own ``__init__``."""
        if isinstance(self.node, Function):
            return self.node
        own = (each for each in self.node.body if isinstance(each, Function))
        return next((each for each in own if each.name == "__init__"), None)


class Package(NamedTuple):
    """All functions and classes by full name, and what the names in each module stand for."""

    defined: dict[str, Function | ast.ClassDef]
    imported: dict[str, dict[str, str]]

    def module(self, name: str) -> str:
        """The module in which a name is defined."""
        while name not in self.imported:
            name = name.rpartition(".")[0]
        return name

    def origin(self, name: str) -> str:
        """The name by which a function is defined, for one by which it is imported."""
        while name not in self.defined:
            module, _, last = name.rpartition(".")
            if last not in self.imported.get(module, {}):
                break
            name = self.imported[module][last]
        return name

    def public(self) -> Iterator[Public]:
        for name, node in self.defined.items():
            if is_public(name) and "teach" not in name.split("."):
                yield Public(name, node, self)


def read(texts: dict[str, str]) -> Package:
    """The package that modules make, given by name."""
    package = Package({}, {})
    for module, text in texts.items():
        tree = ast.parse(text)
        known = package.imported[module] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        for node in tree.body:
            if isinstance(node, Function | ast.ClassDef):
                known[node.name] = f"{module}.{node.name}"
                package.defined[known[node.name]] = node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, Function):
                    package.defined.setdefault(f"{module}.{node.name}.{inner.name}", inner)
    return package


def is_public(name: str) -> bool:
    return not any(part.startswith("_") for part in name.split("."))


# ---------------------------------------------------------------- what a docstring says


def section(docstring: str, *titles: str) -> str | None:
    """The text of a section by its title, or None where there is none."""
    parts = SECTION.split(docstring)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    return next((found[title] for title in titles if title in found), None)


def entries(text: str | None) -> dict[str, str]:
    """The entries of a section by name; those of several names stand under each of them."""
    parts = ENTRY.split(text or "")
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return {name: said for names, said in pairs for name in names.split(", ")}


# ---------------------------------------------------------------- what the code says


def arguments(function: Function) -> list[ast.arg]:
    """The parameters that a caller gives."""
    own = function.args
    named = [*own.posonlyargs, *own.args, *own.kwonlyargs]
    named += [each for each in (own.vararg, own.kwarg) if each]
    return [each for each in named if each.arg not in ("self", "cls")]


def fields(node: ast.ClassDef) -> dict[str, ast.expr]:
    """The public fields of a dataclass, named tuple or typed dict, and their annotations."""
    marks = " ".join(map(ast.unparse, [*node.decorator_list, *node.bases]))
    if not re.search(r"\b(dataclass|NamedTuple|TypedDict)\b", marks):
        return {}
    annotated = (each for each in node.body if isinstance(each, ast.AnnAssign))
    named = ((ast.unparse(each.target), each.annotation) for each in annotated)
    return {name: kind for name, kind in named if not name.startswith("_")}


def of_tensors(annotation: ast.expr | None) -> bool:
    """Whether what is annotated is or holds tensors or arrays, and is no function of them."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return of_tensors(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Callable":
        return False
    if isinstance(annotation, ast.Name | ast.Attribute):
        return ast.unparse(annotation).split(".")[-1] in ("Tensor", "ndarray", "NDArray")
    inner = ast.iter_child_nodes(annotation) if annotation else ()
    return any(of_tensors(each) for each in inner if isinstance(each, ast.expr))


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What a function runs when it is called: all but the functions defined within it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.Lambda | ast.ClassDef):
            yield child
            yield from own_nodes(child)


def raised(name: str, package: Package, seen: frozenset[str] = frozenset()) -> set[str]:
    """The exceptions that a function raises, as far as its own lines show them.

    They are those of its `raise` statements; of the private functions that it calls, in its module
    or in `companion._lib` with its checks of arguments; and those that a public function says it
    raises, where it is called with a parameter of the caller, as it is, in the first place.
    """
    node = package.defined.get(name)
    if node is None or name in seen:
        return set()
    if isinstance(node, ast.ClassDef):
        return set().union(*(raised(f"{name}.{each}", package, seen) for each in MADE_BY))
    own, found = {each.arg for each in arguments(node)}, set()
    for each in own_nodes(node):
        if isinstance(each, ast.Raise) and isinstance(each.exc, ast.Call | ast.Name):
            called = each.exc.func if isinstance(each.exc, ast.Call) else each.exc
            found |= {ast.unparse(called)} if ast.unparse(called)[0].isupper() else set()
        if isinstance(each, ast.Call):
            callee = resolved(each.func, name, package)
            if is_public(callee):
                if each.args and ast.unparse(each.args[0]) in own and callee != name:
                    said = ast.get_docstring(package.defined.get(callee, NOTHING)) or ""
                    found |= set(entries(section(said, "Raises")))
            elif callee.startswith((package.module(name), "companion._lib")):
                found |= raised(callee, package, seen | {name})
    return found


def resolved(called: ast.expr, name: str, package: Package) -> str:
    """The full name of what is called within a function of that name."""
    first, _, rest = ast.unparse(called).partition(".")
    whole = name.rpartition(".")[0] if first in ("self", "cls") else ""
    whole = whole or package.imported[package.module(name)].get(first, first)
    return package.origin(f"{whole}.{rest}" if rest else whole)


# ---------------------------------------------------------------- the rules


def names_its_arguments(public: Public) -> list[str]:
    """Two parameters or more are explained under Args, and what is explained is a parameter."""
    if public.made_by is None:
        return []
    wanted = [each.arg for each in arguments(public.made_by)]
    text = section(public.docstring, "Args")
    if text is None:
        return [f"no Args for {', '.join(wanted)}"] if len(wanted) > 1 else []
    said = entries(text)
    missing = [f"Args has no {name}" for name in wanted if name not in said]
    return missing + [f"no parameter is called {name}" for name in said if name not in wanted]


def names_its_fields(public: Public) -> list[str]:
    """The fields of a dataclass or the like stand under Attributes, and no others."""
    if not isinstance(public.node, ast.ClassDef):
        return []
    wanted, said = fields(public.node), entries(section(public.docstring, "Attributes"))
    missing = [f"Attributes has no {name}" for name in wanted if name not in said]
    others = [name for name in said if wanted and name not in wanted]
    return missing + [f"no field is called {name}" for name in others]


def says_what_it_raises(public: Public) -> list[str]:
    """Each exception that :func:`raised` finds stands under Raises."""
    said = entries(section(public.docstring, "Raises"))
    found = sorted(raised(public.name, public.package))
    return [f"Raises has no {name}" for name in found if name not in said]


def says_shapes(public: Public) -> list[str]:
    """What is or holds tensors has a shape: in its entry, or in the text where there is none."""
    text = SECTION.split(public.docstring)[0]
    said = entries(section(public.docstring, "Args"))
    asked = {}
    if public.made_by:
        for each in arguments(public.made_by):
            if of_tensors(each.annotation):
                asked[each.arg] = said.get(each.arg, text)
    if isinstance(public.node, ast.ClassDef):
        said = entries(section(public.docstring, "Attributes"))
        kinds = fields(public.node).items()
        asked |= {name: said.get(name, "") for name, kind in kinds if of_tensors(kind)}
    elif of_tensors(public.node.returns):
        asked["what is returned"] = section(public.docstring, "Returns", "Yields") or text
    return [f"no shape of {name}" for name, words in asked.items() if not SHAPE.search(words)]


RULES = [names_its_arguments, names_its_fields, says_what_it_raises, says_shapes]


def package() -> Package:
    """The companion."""
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "companion").rglob("*.py")
    }
    return read({name: path.read_text(encoding="utf-8") for name, path in names.items()})


PUBLIC = list(package().public())


@pytest.mark.breaks(
    "companion/products.py",
    "        seed: of those directions, which are the same for all the factors.\n",
    "",
    case="names_its_arguments",
)
@pytest.mark.breaks(
    "companion/activations/functions.py",
    "        slope_mean: E[φ′(z)].\n",
    "",
    case="names_its_fields",
)
@pytest.mark.breaks(
    "companion/meanfield/steps.py",
    "            TypeError: if ``positions`` is not a whole number.\n",
    "",
    case="says_what_it_raises",
)
@pytest.mark.breaks(
    "companion/plots.py",
    "log_norms: (layers,) for one network or (seeds, layers): median",
    "log_norms: of one network or several: median",
    case="says_shapes",
)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_public_docstrings_keep(rule: Callable[[Public], list[str]]) -> None:
    wrong = [f"{each.name}: {said}" for each in PUBLIC for said in rule(each)]
    assert not wrong, "\n" + "\n".join(wrong)


# ---------------------------------------------------------------- the rules themselves

GOOD = '''
from collections.abc import Callable
from typing import NamedTuple
from torch import Tensor, nn
from companion import words
from companion._lib.arguments import floating, positive_integer

class Sums(NamedTuple):
    """Two sums.

    Attributes:
        rows, columns: (n,) over the columns and over the rows.
        count: of the rows.

    """

    rows: Tensor
    columns: Tensor
    count: int

class Adder(nn.Module):
    """Adds a number several times.

    Args:
        by: the number.
        times: how often.

    Raises:
        TypeError: if ``times`` is not a whole number.
        ValueError: if it is below 1.

    """

    def __init__(self, by: float, times: int = 1) -> None:
        self.by, self.times = by, positive_integer("times", times)

    def forward(self, x: Tensor) -> Tensor:
        """Return x and the number, of x's shape."""
        return x + self.by * self.times

    def _add(self, a, b):
        raise OSError

def add(word: str, x: Tensor, *more: float, bias: Tensor | None = None) -> dict[str, Tensor]:
    """Add up the rows.

    Args:
        word: what to call them.
        x: (examples, n) to be added.
        more: numbers to be added as well, or
            nothing, in which case: none.
        bias: a scalar.

    Returns:
        By the word, a tensor (n,).

    Raises:
        KeyError: if there is no such word.
        TypeError: if ``x`` is not a floating-point tensor.
        ValueError: if it has not two dimensions.

    """
    words.get(word)

    def later() -> None:
        raise IndexError

    return {word: _checked(x).sum(0) + sum(more) + bias}

def _checked(x):
    if floating("x", x).dim() != 2:
        raise ValueError("x")
    return x if words.get("x") else _checked(x)

def length(x: "Tensor", by: Callable[[Tensor], str]) -> int:
    """Return how long a tensor is, raising nothing.

    Args:
        x: (n,) to be measured.
        by: what it is measured with.

    """
    return words.get(by(x))

def _hidden(a, b):
    raise OSError
'''

OTHERS = {
    "companion.words": "from companion.words.table import get",
    "companion.words.table": """
def get(word):
    '''Return a word.

    Raises:
        KeyError: if there is none.

    '''
    raise KeyError(word)
""",
    "companion._lib.arguments": """
def floating(name, value):
    raise TypeError(name)

def positive_integer(name, value):
    if value < 1:
        raise ValueError(name)
    raise TypeError(name)
""",
}


def complaints(text: str) -> list[str]:
    public = read({"companion.sums": text} | OTHERS).public()
    ours = [each for each in public if each.name.startswith("companion.sums.")]
    return [f"{each.name[15:]}: {said}" for each in ours for rule in RULES for said in rule(each)]


def test_a_module_that_says_everything_is_not_complained_of() -> None:
    assert complaints(GOOD) == []


def test_rules_see_what_is_public_and_nothing_else() -> None:
    seen = [each.name[15:] for each in read({"companion.sums": GOOD}).public()]
    assert seen == ["Sums", "Adder", "Adder.forward", "add", "length"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("        word: what to call them.\n", "", ["add: Args has no word"]),
        ("more: numbers", "most: numbers", ["Args has no more", "no parameter is called most"]),
        ("in which case: none.", "none.\n        y: what?", ["add: no parameter is called y"]),
        ("        by: the number.\n        times: how often.\n", "", ["has no by", "has no times"]),
        ("Args:\n        by", "Arguments:\n        by", ["Adder: no Args for by, times"]),
        ("        count: of", "        counts: of", ["has no count", "no field is called counts"]),
        ("rows, columns: (n,)", "rows: (n,)", ["has no columns", "no shape of columns"]),
        ("TypeError: if ``times``", "OSError: if ``times``", ["Adder: Raises has no TypeError"]),
        ("        ValueError: if it is below 1.\n", "", ["Adder: Raises has no ValueError"]),
        ("KeyError: if there", "Error: if there", ["add: Raises has no KeyError"]),
        ("TypeError: if ``x``", "OSError: if ``x``", ["add: Raises has no TypeError"]),
        (
            "        ValueError: if it has not two dimensions.\n",
            "",
            ["add: Raises has no ValueError"],
        ),
        ("(n,) over", "over", ["Sums: no shape of rows", "Sums: no shape of columns"]),
        ("(examples, n) to", "examples to", ["add: no shape of x"]),
        ("bias: a scalar.", "bias: a number.", ["add: no shape of bias"]),
        ("a tensor (n,).", "a tensor.", ["add: no shape of what is returned"]),
        (", of x's shape", "", ["Adder.forward: no shape of x", "no shape of what is returned"]),
        ("(n,) to be", "to be", ["length: no shape of x"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rules_notice(old: str, new: str, said: list[str]) -> None:
    assert GOOD.count(old) == 1
    found = complaints(GOOD.replace(old, new))
    assert len(found) == len(said)
    assert all(part in whole for part, whole in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("words", "is_shape"),
    [
        ("(S, L)", True),
        ("of weights, (*networks, n_l, n_{l-1})", True),
        ("(steps + 1,)", True),
        ("(...)", True),
        ("a scalar", True),
        ("of ``x``'s shape", True),
        ("(L)", False),
        ("(2 or more)", False),
        ("as there (that is, of the layer below the one that is meant)", False),
        ("misshapen", False),
    ],
)
def test_what_counts_as_a_shape(words: str, *, is_shape: bool) -> None:
    assert bool(SHAPE.search(words)) is is_shape
