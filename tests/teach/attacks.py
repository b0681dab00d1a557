"""Submissions that attack the marking: each a cell, put into an otherwise honest notebook."""

import json
from typing import NamedTuple

from companion.teach import notebooks
from companion.teach.masters import Master

BLANK = {"leaky": "level = predicted = measured = ..."}  # the question that attacks are after


class Attack(NamedTuple):
    """A cell to put in front of the last question's, and what becomes of the mark.

    Attributes:
        code: the cell.
        loses: what it costs: ``nothing`` of what the honest answers beside it deserve, or
            ``everything``, because what it attacks is the line on which its own answers come.
            ``perhaps`` everything: what comes first, the cell's limit or the submission's.

    """

    code: str
    loses: str = "nothing"


LOOP = "while True:\n    pass"
DAEMON = """
import ctypes, os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b"left-behind", 0, 0, 0)
        while True:
            time.sleep(0.1)
    os._exit(0)
"""
READ = """
import gc, os, sys
loot = []
for folder, folders, names in os.walk("/"):
    folders[:] = set(folders) - {"proc", "lib", "lib64", "share", "include", "site-packages"}
    loot += [f"{folder}/{name}" for name in names
             if name in ("master.md", "answers.yml", "marks.csv", "pyproject.toml", "shadow")]
for name in os.listdir("/proc"):
    for part in ("environ", "cmdline", "maps"):
        try:
            text = open(f"/proc/{name}/{part}").read()
        except OSError:
            continue
        loot += [text for word in ("master", "assignments") if word in text]
loot += [repr(thing)[:80] for thing in gc.get_objects()
         if isinstance(thing, dict) and ("test_level" in thing or "test_measured" in thing)]
loot += [name for name in sys.modules if "marking" in name or "masters" in name]
if loot:
    raise SystemExit(loot)
"""
OVERWRITE = """
import builtins, torch
import companion.teach.plain, companion.teach.worker
from companion import checks
torch.allclose = torch.equal = lambda *_, **__: True
builtins.abs = lambda _: 0.0
checks.generator = lambda *_: torch.Generator().manual_seed(0)
worker = companion.teach.worker
honest = worker._answer
worker._answer = lambda request, space: {"points": 100, "passed": True, **honest(request, space)}
"""
LIAR = """
class Liar(float):
    def __float__(self): return self
    def __sub__(self, _): return Liar(0)
    def __abs__(self): return Liar(0)
    def __lt__(self, _): return True
    def __eq__(self, _): return True
    def __hash__(self): return 0
class LyingTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *_, **__): return True
level, predicted, measured = Liar(9), torch.ones(()).as_subclass(LyingTensor), [Liar(9), Liar(9)]
"""
PICKLE = """
import os
class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/teach-was-here; echo > teach-was-here",)
level, predicted, measured = Bomb(), [Bomb()], {"a": Bomb()}
"""
NETWORK = """
import socket
reached = []
for address in (("1.1.1.1", 53), ("127.0.0.1", 22), ("169.254.169.254", 80), ("::1", 80)):
    try:
        reached.append(socket.create_connection(address, timeout=1))
    except OSError:
        pass
assert not reached
"""
WRITE = """
import os, pathlib, companion
written = []
for place in ("/", "/usr/", "/etc/", "/root/", "/home/", "/var/tmp/", "/dev/", "/proc/sys/kernel/",
              os.path.dirname(companion.__file__) + "/", os.path.dirname(os.__file__) + "/", "../"):
    try:
        pathlib.Path(place + "teach-was-here").write_text("x")
        written.append(place)
    except OSError:
        pass
pathlib.Path("/tmp/teach-was-here").write_text("x")
os.symlink("/etc/passwd", "/tmp/link")
assert not written and not os.path.exists("/etc/passwd"), written
"""
FLOOD = """
import os, socket
for number in range(3, 64):
    try:
        if os.readlink(f"/proc/self/fd/{number}").startswith("socket"):
            for _ in range(200):
                os.write(number, b'{"value": 0.5}' * 65536)
    except OSError:
        pass
"""
FORGE = """
import os
for number in range(3, 64):
    try:
        if os.readlink(f"/proc/self/fd/{number}").startswith("socket"):
            os.write(number, b'{"errors": []}' + chr(10).encode() + b'{"value": 0.5}')
    except OSError:
        pass
"""
PRIVILEGE = """
import ctypes, os
libc, gained = ctypes.CDLL(None, use_errno=True), []
for name, call in {
    "setuid": lambda: libc.setuid(0),
    "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, b""),
    "unshare": lambda: libc.unshare(0x10000000), "chroot": lambda: libc.chroot(b"/tmp"),
    "umount": lambda: libc.umount2(b"/usr", 2), "sethostname": lambda: libc.sethostname(b"x", 1),
    "ptrace": lambda: libc.ptrace(16, 1, 0, 0), "kill": lambda: os.stat("/proc/1/root/etc/shadow"),
}.items():
    try:
        if call() in (0, None) or name in ("kill",):
            gained.append(name)
    except OSError:
        pass
assert not gained, gained
"""

REFUSE = """
import os
for number in range(3, 64):
    try:
        if os.readlink(f"/proc/self/fd/{number}").startswith(("socket", "pipe")):
            os.write(number, b'{"refused": "run me with --unsafe"}' + chr(10).encode())
    except OSError:
        pass
os._exit(1)
"""
KEYRING = """
import ctypes, platform
libc, x86 = ctypes.CDLL(None, use_errno=True), platform.machine() == "x86_64"
name = b"teach-was-here"
found = libc.syscall(250 if x86 else 219, 10, -3, b"user", name, 0)  # KEYCTL_SEARCH, the session's
libc.syscall(248 if x86 else 217, b"user", name, b"x", 1, -3)  # for the next one to find
assert found < 0, found
"""

ATTACKS = {
    "infinite-loop": Attack(LOOP),
    "loop-in-c": Attack("sum(range(10**13))"),
    "loop-in-answer": Attack(f"def level(*_):\n    {LOOP.replace(chr(10), chr(10) + '    ')}"),
    "fork-bomb": Attack("import os\nwhile True:\n    os.fork()"),
    "fork-bomb-catching": Attack(
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    ),
    "fork-and-go-on": Attack("import os\nos.fork()\nos.fork()"),
    "thread-bomb": Attack(
        "import threading, time\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=(99,)).start()"
    ),
    "memory-bomb": Attack("hoard = []\nwhile True:\n    hoard.append(bytearray(10**7))"),
    "memory-bomb-of-tensors": Attack("hoard = torch.ones(10**11)"),
    "memory-bomb-of-many": Attack(
        "import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n"
        "        hoard = bytearray(b'x') * (2 * 10**8)\n        time.sleep(99)\ntime.sleep(99)",
        "perhaps",
    ),
    "exit": Attack("import os\nos._exit(0)"),
    "sys-exit": Attack("import sys\nsys.exit(0)"),
    "crash": Attack("import ctypes\nctypes.string_at(0)"),
    "exit-in-thread": Attack(
        "import os, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), os._exit(0))).start()"
    ),
    "exit-in-answer": Attack("def level(*_):\n    import os\n    os._exit(0)"),
    "kill-all": Attack("import os\nos.kill(-1, 9)"),
    "kill-first": Attack("import os\nos.kill(1, 9)\nos.kill(1, 2)"),
    "stop-parent": Attack("import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)"),
    "daemon": Attack(DAEMON),
    "read-tests": Attack(READ),
    "overwrite-grader": Attack(OVERWRITE),
    "lying-float": Attack(LIAR),
    "pickle": Attack(PICKLE),
    "network": Attack(NETWORK),
    "write-outside": Attack(WRITE),
    "fill-disk": Attack("open('/tmp/big', 'wb').write(bytes(10**9))"),
    "fill-inodes": Attack("for n in range(10**6):\n    open(f'/tmp/{n}', 'w').close()"),
    "huge-output": Attack("for _ in range(2000):\n    print('x' * 10**6)"),
    "huge-answer": Attack(
        "level = torch.zeros(10**8)\npredicted = 'x' * 10**8\nmeasured = [[0]] * 10**6"
    ),
    "deep-answer": Attack(
        "level = []\nfor _ in range(10**5):\n    level = [level]\nmeasured = level"
    ),
    "cyclic-answer": Attack("measured = []\nmeasured.append(measured)\nlevel = measured"),
    "huge-number": Attack("level = predicted = 10**10**6"),
    "not-a-number": Attack("level = predicted = float('nan')\nmeasured = [float('inf')] * 2"),
    "flood": Attack(FLOOD, "everything"),
    "forge": Attack(FORGE, "everything"),
    "forge-a-refusal": Attack(REFUSE, "everything"),
    "keyring": Attack(KEYRING),
    "blank-lines": Attack("(" + 50_000 * chr(10)),
    "magics-in-magics": Attack(900 * ("%%time" + chr(10)) + "(" + 10_000 * chr(10)),
    "close-files": Attack("import os\nos.closerange(0, 1000)"),
    "privilege": Attack(PRIVILEGE),
    "recursion": Attack("def f():\n    f()\nf()"),
    "error-that-raises": Attack(
        "class Bad(Exception):\n    def __str__(self):\n        raise SystemExit\nraise Bad"
    ),
    "no-python": Attack("this is no python ("),
}


# These end with a statement that raises if they got hold of anything.
CONTAINED = ["read-tests", "network", "write-outside", "privilege", "keyring"]


def cells(master: Master, attack: Attack, student_id: str) -> list[str]:
    """An honest notebook without the last question's answer, with an attack in front of that."""
    honest = notebooks.with_id(master.reference(BLANK), student_id)
    honest = [cell for cell in honest if not cell.startswith("checks.report(")]
    where = honest.index(BLANK["leaky"])
    return [*honest[: where + 1], attack.code, *honest[where + 1 :]]


def notebook(cells: list[str]) -> bytes:
    """A notebook file with these code cells."""
    made = [{"cell_type": "code", "source": source.splitlines(keepends=True)} for source in cells]
    return json.dumps({"cells": made, "nbformat": 4, "nbformat_minor": 4}).encode()
