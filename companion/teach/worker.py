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
from typing import Any

from companion.teach import plain

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
    errors: list[str | None] = []
    # The empty cell moves what follows out of reach of threads that the last cell started.
    for source in [*first["cells"], ""]:
        _run_or_skip(source, namespace, errors, first["cell_seconds"], alone=alone)
    _send(connection, {"errors": errors[:-1]})
    while line := requests.readline(LONGEST_REQUEST):
        _answer_apart(connection, json.loads(line), namespace, alone=alone)


def _run_or_skip(
    source: str,
    namespace: dict[str, Any],
    errors: list[str | None],
    seconds: float,
    *,
    alone: bool,
) -> None:
    """Run a cell in a fork, and return there; or here, as if it had not been, if it went wrong."""
    done, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(done)
        errors.append(_execute(source, namespace))
        os.write(tell, b"1")
        os.close(tell)
        return
    os.close(tell)
    in_time = bool(select.select([done], [], [], seconds)[0])
    if in_time and os.read(done, 1):
        os._exit(0)
    os.close(done)
    _end(child, alone=alone)
    errors.append("it ended its process" if in_time else f"it ran for more than {seconds:g} s")


def _end(child: int, *, alone: bool) -> None:
    """End a process with all that it started."""
    try:
        if alone:
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


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
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(done)
        _send(connection, _answer(request, namespace))
        os.write(tell, b"1")
        os._exit(0)
    os.close(tell)
    in_time = bool(select.select([done], [], [], request["seconds"])[0])
    finished = in_time and bool(os.read(done, 1))
    os.close(done)
    _end(child, alone=alone)
    if not finished:
        reason = "ended its process" if in_time else f"ran for more than {request['seconds']:g} s"
        _send(connection, {"error": f"{request['name']} {reason}"})


def _answer(request: dict[str, Any], namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the value of a name, or of a call of it, or what went wrong."""
    value = namespace.get(request["name"])
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
