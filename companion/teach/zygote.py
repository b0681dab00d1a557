"""The process that submissions are forked from: it has torch loaded, and nothing of the tests.

It is started as a program of its own, so that its memory never held a test or an expected value.
For each submission it forks a *watcher*, which forks the sandbox and ends it when it is told to,
when its time is over, or when its memory is.
"""

import contextlib
import gc
import json
import os
import re
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from companion.teach import sandbox, worker
from companion.teach.sandbox import Limits

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
LOOK_EVERY = 0.05  # seconds, at the memory


def serve(control: socket.socket) -> None:
    """Start a watcher for each request; each comes with the two sockets of a submission."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # watchers report on their own
    while True:
        message, sockets, _, _ = socket.recv_fds(control, 2**16, 2)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            request = json.loads(message)
            talk, watch = (socket.socket(fileno=number) for number in sockets)
            _watch(Limits(*request["limits"]), talk, watch, safe=request["safe"])
        for number in sockets:
            os.close(number)


def _watch(limits: Limits, talk: socket.socket, watch: socket.socket, *, safe: bool) -> None:
    """Fork the submission's first process and end it in time; never returns."""
    sandbox.die_with_parent()
    sandbox.adopt_orphans()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    own = _memory(os.getpid())
    try:
        if safe:
            sandbox.begin()
    except sandbox.NoSandboxError as error:
        _report(watch, "refused", 0, str(error))
    said, tell = os.pipe()
    try:
        first = os.fork()
    except OSError as error:
        _report(watch, "refused", 0, f"no process can be started: {error.strerror}")
    if first == 0:
        watch.close()
        os.close(said)
        _live(limits, talk, tell, safe=safe)
    talk.close()
    os.close(tell)
    with os.fdopen(said) as told:  # until it is shut in, and no longer: the submission has it not
        if message := told.read():
            _end_all()
            _report(watch, "refused", 0, message)
    reason, peak = _wait(limits, watch, own)
    _end_all()
    _report(watch, reason, peak)


def _live(limits: Limits, talk: socket.socket, tell: int, *, safe: bool) -> NoReturn:
    """Shut this process in, or tell the watcher why not; and serve from a child; never returns."""
    try:
        if safe:
            sandbox.close_in(limits, [talk.fileno(), tell])
    except sandbox.NoSandboxError as error:
        os.write(tell, str(error).encode())
        os._exit(1)
    os.close(tell)  # before anything of the submission runs
    if safe and os.fork():
        talk.close()
        sandbox.reap()
    try:
        worker.serve(talk, alone=safe)
    finally:
        os._exit(0)


def _wait(limits: Limits, watch: socket.socket, own: int) -> tuple[str, int]:
    """Wait until there is a reason to end the submission; return it, and the most memory seen."""
    deadline, peak, most = time.monotonic() + limits.seconds, 0, limits.megabytes * 2**20
    while True:
        told = select.select([watch], [], [], LOOK_EVERY)[0]
        family = _family(os.getpid())[1:]
        memory = sum(max(0, _memory(pid) - own) for pid in family)
        if memory > most:  # what is shared was counted more than once
            memory = sum(_proportional_memory(pid) for pid in family)
        peak = max(peak, memory)
        if told:
            return "stopped", peak
        if peak > most:
            return "memory", peak
        if time.monotonic() > deadline:
            return "time", peak
        if _childless():
            return "ended", peak


def _childless() -> bool:
    """Bury the children that have ended; return whether none is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _end_all() -> None:
    """End every descendant; those in a process namespace end with its first process."""
    while not _childless():
        for pid in _family(os.getpid())[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _family(pid: int) -> list[int]:
    """Return the process with all that descend from it."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        threads = f"/proc/{found[-1]}/task"
        try:
            lists = [Path(threads, name, "children").read_text() for name in os.listdir(threads)]
        except OSError:
            continue  # it has ended meanwhile
        waiting += [int(child) for children in lists for child in children.split()]
    return found


def _memory(pid: int) -> int:
    """Return how many bytes of memory are a process's own or its parent's, not of files."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * PAGE_SIZE


def _proportional_memory(pid: int) -> int:
    """Return a process's share of its memory, in bytes; it takes longer than :func:`_memory`."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    shares = re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB$", text, re.MULTILINE)
    return 1024 * sum(map(int, shares))


def _report(watch: socket.socket, reason: str, peak: int, message: str = "") -> NoReturn:
    """Tell how it ended, and end."""
    with contextlib.suppress(OSError):  # nobody may be left to be told
        watch.sendall(json.dumps({"reason": reason, "peak": peak, "message": message}).encode())
    os._exit(0)


def main() -> None:
    """Load what submissions need, say so, and serve on the socket whose number is given."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot  # noqa: F401
    import torch

    import companion

    for name in companion.__all__:
        getattr(companion, name)
    torch.set_num_threads(1)
    sandbox.new_keyring()
    os.environ |= {"HOME": sandbox.SCRATCH, "MPLCONFIGDIR": sandbox.SCRATCH}
    control = socket.socket(fileno=int(sys.argv[1]))
    control.send(b"ready")
    gc.collect()
    gc.freeze()  # else each fork copies what the collector touches
    serve(control)


if __name__ == "__main__":
    main()
