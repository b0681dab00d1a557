"""Reading a notebook that somebody sent: whatever is in it, the outcome is code or a reason."""

import ast
import json
import re
from collections.abc import Sequence

MOST_CELLS = 500
LONGEST_CODE = 2 * 2**20  # characters, of all cells together
# Each part takes what it can and gives nothing back, so that a line is read once.
MAGIC = re.compile(
    r"^([ \t]*+)(?:[\w, .]++=[ \t]*+)?[%!?].*+$|^([ \t]*+)[\w.]++\?{1,2}[ \t]*+$", re.MULTILINE
)
MAGICS_IN_MAGICS = 4  # each is read once more
CODE_MAGICS = ("%%time", "%%timeit", "%%capture", "%%prun")


class NotANotebookError(Exception):
    """A file is no notebook that can be marked; the message says why."""


def code_cells(content: bytes) -> list[str]:
    r"""Return the code of a notebook, cell by cell, ready to run without Jupyter.

    Raises:
        NotANotebookError: if it is not a notebook.

    Example:
        >>> cell = {"cell_type": "code", "source": ["import torch\n", "%pip install x"]}
        >>> code_cells(json.dumps({"cells": [cell]}).encode())
        ['import torch\npass']

    """
    try:
        notebook = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise NotANotebookError("it is not a notebook: its content is not JSON") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise NotANotebookError("it is not a notebook of version 4: it has no list of cells")
    code = [_source(cell) for cell in cells if _is_code(cell)]
    if len(code) > MOST_CELLS or sum(map(len, code)) > LONGEST_CODE:
        raise NotANotebookError("it has more code than a notebook can hold that is to be marked")
    return [without_magics(source) for source in code]


def _is_code(cell: object) -> bool:
    return isinstance(cell, dict) and cell.get("cell_type") == "code"


def _source(cell: dict[str, object]) -> str:
    source = cell.get("source", "")
    if isinstance(source, list):
        return "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""


def without_magics(source: str) -> str:
    r"""Return a cell without what only Jupyter understands: lines with ``%``, ``!`` or ``?``.

    Example:
        >>> without_magics("if True:\n    !pip install torch\nx = 1")
        'if True:\n    pass\nx = 1'

    """
    for _ in range(MAGICS_IN_MAGICS):
        if parses(source):
            return source
        if not source.lstrip().startswith("%%"):
            return MAGIC.sub(lambda found: f"{found[1] or found[2] or ''}pass", source)
        first, _, source = source.lstrip().partition("\n")
        if first.split()[0] not in CODE_MAGICS:
            break
    return ""


def parses(source: str) -> bool:
    """Return whether a cell is Python."""
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def declared_id(cells: Sequence[str]) -> str | None:
    """Return the text that the notebook assigns to ``student_id``, the last one if there are more.

    Example:
        >>> declared_id(['student_id = "s123"', "x = 1"])
        's123'

    """
    found = None
    for source in cells:
        if "student_id" in source and parses(source):
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Assign) and _names_id(node):
                    value = node.value
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        found = value.value.strip()
    return found


def _names_id(node: ast.Assign) -> bool:
    return any(
        isinstance(target, ast.Name) and target.id == "student_id" for target in node.targets
    )


def with_id(cells: Sequence[str], student_id: str) -> list[str]:
    """Return the cells with another id declared in them."""
    line = re.compile(r"^student_id\s*=.*$", re.MULTILINE)
    return [line.sub(lambda _: f"student_id = {student_id!r}", source) for source in cells]
