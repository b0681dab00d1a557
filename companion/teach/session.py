"""The side of a submission that is trusted: starts its sandbox, asks it, and ends it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import companion
from companion.teach import plain
from companion.teach.sandbox import Limits, NoSandboxError

LONGEST_ANSWER = 24 * 2**20
PATIENCE = 5.0  # seconds beyond a limit after which no answer is taken for no answer


class NoAnswerError(Exception):
    """The submission did not answer, or not with plain data."""


class Zygote:
    """The process that submissions are forked from; a context manager that ends it.

    Args:
        safe: whether each submission is shut into a sandbox.

    """

    def __init__(self, *, safe: bool = True) -> None:
        self.safe, self._ready = safe, False
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(companion.__path__[0]).parent)
        environment = {
            "PATH": os.defpath,
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": root,
            "OMP_NUM_THREADS": "1",
            "OMP_THREAD_LIMIT": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TQDM_DISABLE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if "MPLCONFIGDIR" in os.environ:
            environment["MPLCONFIGDIR"] = os.environ["MPLCONFIGDIR"]
        self.process = subprocess.Popen(  # noqa: S603 - this Python, this package
            [sys.executable, "-m", "companion.teach.zygote", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # an interruption at the terminal is not for submissions
        )
        theirs.close()

    def wait(self) -> None:
        """Wait until it has loaded what submissions need.

        Raises:
            RuntimeError: if it could not.

        """
        if not self._ready and self.control.recv(16) != b"ready":
            raise RuntimeError("the process that runs submissions could not be started; see above")
        self._ready = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.control.close()
        self.process.wait()


class Session:
    """One submission, running; a context manager that ends it with all that it started.

    Args:
        zygote: what to fork it from.
        cells: its code; with each cell, whether it is as everybody was given it, and so will end.
        limits: what it may use.

    Attributes:
        errors: for each cell what it raised, or None.
        end: how it ended: ``stopped`` as it should, or what it was stopped for.
        peak: bytes of memory, the most that was seen.

    Raises:
        NoSandboxError: if no sandbox can be made.

    """

    def __init__(self, zygote: Zygote, cells: Sequence[tuple[str, bool]], limits: Limits) -> None:
        self.limits, self.end, self.peak = limits, "", 0
        self.errors: list[str | None] = []
        self._deadline = time.monotonic() + limits.seconds + PATIENCE
        self._known: dict[str, Any] = {}
        self._late = b""
        with ExitStack() as theirs:
            pairs = [socket.socketpair(), socket.socketpair()]
            (self._talk, talk), (self._watch, watch) = pairs
            theirs.callback(talk.close)
            theirs.callback(watch.close)
            request = json.dumps({"limits": list(limits), "safe": zygote.safe}).encode()
            numbers = [talk.fileno(), watch.fileno()]
            socket.send_fds(zygote.control, [request], numbers)
        self._run(cells)

    def _run(self, cells: Sequence[tuple[str, bool]]) -> None:
        most = self.limits.seconds + PATIENCE
        try:
            request = {"cells": list(cells), "cell_seconds": self.limits.cell_seconds}
            answer = self._exchange(request, most)
        except NoAnswerError:
            self.close()
            if self.end == "refused":  # so the watcher says, which no submission can
                raise NoSandboxError(self._message) from None
            return
        errors = answer.get("errors")
        if isinstance(errors, list):
            self.errors = [None if error is None else str(error)[:500] for error in errors]

    def _exchange(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send a request, return the answer; after one that does not come there is none."""
        deadline = min(time.monotonic() + seconds, self._deadline)
        received = bytearray()
        try:
            self._talk.settimeout(max(0.01, deadline - time.monotonic()))
            self._talk.sendall(json.dumps(request).encode() + b"\n")
            while not received.endswith(b"\n"):
                self._talk.settimeout(max(0.01, deadline - time.monotonic()))
                part = self._talk.recv(2**20)
                received += part
                if not part or len(received) > LONGEST_ANSWER:
                    raise NoAnswerError("it broke off")
            answer = json.loads(received)
        except (OSError, ValueError, RecursionError):
            self._talk.close()
            raise NoAnswerError("it broke off") from None
        except NoAnswerError:
            self._talk.close()
            raise
        if not isinstance(answer, dict):
            raise NoAnswerError("what came back is not of the agreed form")
        return answer

    def answer(self, name: str) -> Any:  # noqa: ANN401 - whatever the submission has
        """Return what the submission has by a name: plain data, or a function that asks it.

        Raises:
            NoAnswerError: if it does not answer, or with something else.

        """
        if name not in self._known:
            self._known[name] = self._ask({"name": name})
        return self._known[name]

    def _function(self, name: str) -> Callable[..., Any]:
        def ask(*args: object, **named: object) -> Any:  # noqa: ANN401
            arguments = [plain.encode(argument) for argument in args]
            by_name = {key: plain.encode(value) for key, value in named.items()}
            return self._ask({"name": name, "args": arguments, "named": by_name})

        return ask

    def _ask(self, request: dict[str, Any]) -> Any:  # noqa: ANN401
        seconds = self.limits.call_seconds
        answer = self._exchange(request | {"seconds": seconds}, seconds + PATIENCE)
        if answer.get("function") is True:
            return self._function(request["name"])
        if "value" not in answer:
            raise NoAnswerError(str(answer.get("error", "no answer"))[:500])
        try:
            return plain.decode(answer["value"])
        except (plain.NotPlainError, RecursionError, TypeError, ValueError) as error:
            raise NoAnswerError(str(error)[:500]) from None

    def close(self) -> None:
        """End the submission; what it started ends with it."""
        if self._watch.fileno() < 0:
            return
        self._talk.close()
        try:
            self._watch.settimeout(60)
            self._watch.shutdown(socket.SHUT_WR)
            report = json.loads(self._watch.recv(2**16))
        except (OSError, ValueError):
            report = {"reason": "lost", "peak": 0, "message": ""}
        self._watch.close()
        self.end, self.peak, self._message = report["reason"], report["peak"], report["message"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
