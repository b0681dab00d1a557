"""What runs a submission's cells and answers for it, inside the sandbox.

Nothing here is trusted: the code that it runs may change all of it. It only has to serve honest
code well, also honest code that hangs or crashes. So every cell runs in a fork of the process
before it: a cell that ends its process, or does not end, loses itself and nothing else.
"""

import contextlib
import json
import os
import select
import signal
import socket
import time
import types
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from companion.teach import plain

PLAIN = (bool, int, float, str, type(None), type(...), types.FunctionType, Tensor)
FEW = 1000
DONE, NO_MEMORY = b"1", b"0"
LONGEST_REQUEST = 64 * 2**20


def serve(connection: socket.socket, *, alone: bool) -> None:
    """Run the cells that the first request holds, then answer requests until there are no more.

    Args:
        connection: where requests come from, one JSON object a line, and answers go.
        alone: whether every process that can be seen is this submission's, so that all may be
            ended with one signal: true in a process namespace of its own, and only there.

    """
    requests = connection.makefile("rb")
    first = json.loads(requests.readline(LONGEST_REQUEST))
    namespace: dict[str, Any] = {"__name__": "__main__", "display": lambda *_, **__: None}
    errors: dict[int, str | None] = {}
    # The empty cell moves what follows out of reach of threads that the last cell started.
    waiting: list[tuple[int, str]] = []
    for number, (source, is_given) in enumerate([*first["cells"], ["", False]]):
        waiting.append((number, source))
        if not is_given:
            waiting = _run_or_skip(waiting, namespace, errors, first["cell_seconds"], alone=alone)
    _send(connection, {"errors": [errors.get(number) for number in range(len(first["cells"]))]})
    while line := requests.readline(LONGEST_REQUEST):
        request = json.loads(line)
        if "args" not in request and _is_plain(namespace.get(request["name"])):
            _send(connection, _answer(request, namespace))
        else:
            _answer_apart(connection, request, namespace, alone=alone)


def _run_or_skip(
    cells: list[tuple[int, str]],
    namespace: dict[str, Any],
    errors: dict[int, str | None],
    seconds: float,
    *,
    alone: bool,
) -> list[tuple[int, str]]:
    """Run a cell in a fork, and return there; or here, as if it had not been, if it went wrong.

    Args:
        cells: the cell, and before it the cells that everybody was given; they need no fork. Each
            comes with its number.
        namespace: what the cells share.
        errors: what each cell raised, by its number; added to.
        seconds: for the cell.
        alone: see :func:`serve`.

    Returns:
        The cells to run with the next one: none, or those that were given if this one went wrong.

    """
    number = cells[-1][0]
    done, tell = os.pipe()
    child = _fork(alone=alone)
    if child == 0:
        os.close(done)
        _in_this_process(lambda: errors.update(_execute_all(cells, namespace)))
        if (errors[number] or "").startswith("MemoryError"):
            os.write(tell, NO_MEMORY)  # what it holds would be missing to the cells after it
            os._exit(1)
        os.write(tell, DONE)
        os.close(tell)
        return []
    os.close(tell)
    went_wrong = _wait(done, seconds)
    if not went_wrong:
        os._exit(0)  # the next cells run in the child
    _end(child, alone=alone)
    errors[number] = went_wrong
    return cells[:-1]


def _fork(*, alone: bool) -> int:
    """Fork, into a group of its own; if there are too many processes, end those in the way."""
    for _ in range(100):
        try:
            child = os.fork()
        except BlockingIOError:
            if alone:
                _end_others()
            time.sleep(0.01)
            continue
        if child == 0:
            os.setpgid(0, 0)
        return child
    os._exit(1)


def _end_others() -> None:
    """End every process but this one; the first of the namespace cannot be ended from within."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(int(name), signal.SIGKILL)


def _in_this_process(action: Callable[[], None]) -> None:
    """Do something that may fork, and go on in this process only."""
    here = os.getpid()
    action()
    if os.getpid() != here:
        os._exit(0)


def _wait(done: int, seconds: float) -> str | None:
    """Wait until a child says that it is done; return what happened instead."""
    in_time = bool(select.select([done], [], [], seconds)[0])
    if not in_time:
        os.close(done)
        return f"it ran for more than {seconds:g} s"
    said = os.read(done, 1)
    os.close(done)
    return {DONE: None, NO_MEMORY: "it ran out of memory"}.get(said, "it ended its process")


def _end(child: int, *, alone: bool) -> None:
    """End a process with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        if alone:
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def _execute_all(cells: list[tuple[int, str]], namespace: dict[str, Any]) -> dict[int, str | None]:
    return {number: _execute(source, namespace) for number, source in cells}


def _execute(source: str, namespace: dict[str, Any]) -> str | None:
    """Run a cell as a notebook would; return what it raised."""
    try:
        exec(compile(source, "<cell>", "exec", dont_inherit=True), namespace)  # noqa: S102
    except BaseException as error:
        return _describe(error)
    return None


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except Exception:
        return type(error).__name__[:100]


def _answer_apart(
    connection: socket.socket, request: dict[str, Any], namespace: dict[str, Any], *, alone: bool
) -> None:
    """Answer in a fork, so that neither time nor changes made by one answer touch the next."""
    done, tell = os.pipe()
    child = _fork(alone=alone)
    if child == 0:
        os.close(done)
        _in_this_process(lambda: _send(connection, _answer(request, namespace)))
        os.write(tell, DONE)
        os._exit(0)
    os.close(tell)
    went_wrong = _wait(done, request["seconds"])
    _end(child, alone=alone)
    if went_wrong:
        _send(connection, {"error": went_wrong})


def _is_plain(value: object) -> bool:
    """Return whether handing a value over runs no code of the submission's, so needs no fork."""
    if _is_exactly(value, (list, tuple)):
        items = cast("list[object]", value)
        return len(items) < FEW and all(_is_exactly(item, PLAIN) for item in items)
    return _is_exactly(value, PLAIN)


def _is_exactly(value: object, kinds: tuple[type, ...]) -> bool:
    """Return whether a value is of one of these types itself, and ask nothing of its own type.

    ``type(value) in kinds`` would compare by ``==``, which a submission's metaclass may define.
    """
    return any(type(value) is kind for kind in kinds)


def _answer(request: dict[str, Any], namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the value of a name, or of a call of it, or what went wrong."""
    value: Any = namespace.get(request["name"])
    try:
        if "args" in request:
            arguments = [plain.decode(argument) for argument in request["args"]]
            named = {key: plain.decode(item) for key, item in request["named"].items()}
            value = value(*arguments, **named)
        elif callable(value):
            return {"function": True}
        return {"value": plain.encode(value)}
    except BaseException as error:
        return {"error": _describe(error)}


def _send(connection: socket.socket, answer: dict[str, Any]) -> None:
    connection.sendall(json.dumps(answer).encode() + b"\n")
