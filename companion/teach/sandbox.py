"""A sandbox of Linux namespaces: no network, no files but libraries, no way to outlive it.

bubblewrap makes the same sandbox, but has to start a program in it, and a Python that imports torch
takes seconds to start. Here a process that has torch loaded is forked, and shuts itself in before
it runs anything: that takes hundredths of a second. What is shut in sees

* as files, read only, the Python that runs it with its libraries and the companion, and a scratch
  folder in memory, /tmp, which goes when it goes;
* no other process, no network (not even its own machine's), no shared memory of others;
* no privileges, and limits on memory, processes, open files and the size of files.
"""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, NoReturn

import companion

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MOUNT_SETATTR = 442
KEYCTL, JOIN_SESSION_KEYRING = {"x86_64": 250, "aarch64": 219}, 1
UNUSED = "/sys"  # a folder that every Linux has and no submission needs: the new root grows on it
SCRATCH = "/tmp"  # noqa: S108 - the sandbox's own
SCRATCH_MB = 32
FIRST_FREE_ID = 2_000_000  # user ids that no account has


class NoSandboxError(Exception):
    """This machine does not let a sandbox be made; the message says why and what to do."""


class Limits(NamedTuple):
    """What one submission may use.

    Attributes:
        seconds: from its first cell to its last answer.
        cell_seconds: for one cell.
        call_seconds: for one call of one of its functions.
        megabytes: of memory, in all its processes together.
        processes: at one time.

    """

    seconds: float = 300.0
    cell_seconds: float = 60.0
    call_seconds: float = 20.0
    megabytes: int = 2048
    processes: int = 48


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = [text.encode() for text in (source, target, kind)]
    _check(_libc().mount(*arguments, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def _read_only(target: str) -> None:
    """Make a mount, with all that is mounted in it, read-only."""
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    result = _libc().syscall(
        MOUNT_SETATTR,
        AT_FDCWD,
        target.encode(),
        AT_RECURSIVE,
        attributes,
        ctypes.sizeof(attributes),
    )
    _check(result, f"mount_setattr {target} (Linux 5.12 or newer is needed)")


def visible() -> list[Path]:
    """Return the folders that a submission may read: Python, its libraries, and the companion."""
    folders = [Path(name) for name in ("/usr", "/lib", "/lib64", "/bin")]
    folders += [Path(name) for name in (sys.base_prefix, sys.prefix, companion.__path__[0])]
    folders += [Path(name) for name in sys.path if Path(name).name == "site-packages"]
    kept: list[Path] = []
    for folder in folders:
        if folder.exists() and not any(folder.is_relative_to(other) for other in kept):
            kept.append(folder)
    return kept


def begin() -> None:
    """Give this process's next child namespaces for processes and, without root, for users.

    Raises:
        NoSandboxError: if the system does not allow it.

    """
    user, group = os.geteuid(), os.getegid()
    try:
        if platform.machine() not in PIVOT_ROOT:
            raise OSError(0, f"pivot_root's number is not known for {platform.machine()}")
        _check(_libc().unshare(CLONE_NEWPID | (CLONE_NEWUSER if user else 0)), "unshare")
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as error:
        raise NoSandboxError(f"no sandbox can be made here: {error}. {NO_SANDBOX}") from None


NO_SANDBOX = (
    "It needs Linux 5.12 or newer with user namespaces, or root with CAP_SYS_ADMIN. "
    "On Ubuntu 24.04: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0. "
    "In Docker: docker run --cap-add SYS_ADMIN --security-opt seccomp=unconfined "
    "--security-opt apparmor=unconfined."
)


def close_in(limits: Limits, keep: Iterable[int]) -> None:
    """Take files, privileges and means from this process, the first of its namespaces.

    Args:
        limits: what it may use.
        keep: descriptors to leave open.

    Raises:
        NoSandboxError: if the system does not allow it.

    """
    if os.getpid() != 1:
        raise NoSandboxError("no sandbox can be made here: the process is not alone")
    try:
        own = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET
        _check(_libc().unshare(own), "unshare")
        try:
            new_keyring()
        except OSError as error:  # of this user's keys: then the one of the process before it
            if error.errno != errno.EDQUOT:
                raise
        _new_root(visible())
        _close_files(keep)
        _limit(limits)
        _drop_privileges()
    except OSError as error:
        raise NoSandboxError(f"no sandbox can be made here: {error}. {NO_SANDBOX}") from None


def new_keyring() -> None:
    """Leave the session keyring for an empty one, unless the system has none to use.

    Raises:
        OSError: if there can be no other.

    """
    try:
        _check(
            _libc().syscall(KEYCTL[platform.machine()], JOIN_SESSION_KEYRING, None) < 0, "keyctl"
        )
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise


def _new_root(folders: list[Path]) -> None:
    """Replace the file system by one that has the folders, read-only, and room for scratch."""
    _mount("none", "/", "none", MS_REC | MS_PRIVATE)
    root = UNUSED
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for name in ("dev", "dev/shm", "tmp", "proc"):
        Path(f"{root}/{name}").mkdir()
    for name in ("null", "zero", "full", "random", "urandom"):
        Path(f"{root}/dev/{name}").touch()
        _mount(f"/dev/{name}", f"{root}/dev/{name}", "none", MS_BIND)
    careful = MS_NOSUID | MS_NODEV | MS_NOEXEC
    for name in ("tmp", "dev/shm"):
        most = f"size={SCRATCH_MB}m,nr_inodes=4096,mode=1777"
        _mount("tmpfs", f"{root}/{name}", "tmpfs", careful, most)
    _mount("proc", f"{root}/proc", "proc", careful)
    for folder in folders:  # last, because one of them may stand in /tmp
        _show(folder, root)
    os.chdir(root)
    _check(_libc().syscall(PIVOT_ROOT[platform.machine()], b".", b"."), "pivot_root")
    _check(_libc().umount2(b".", MNT_DETACH), "umount2")
    _mount("none", "/", "none", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(SCRATCH)


def _show(folder: Path, root: str) -> None:
    """Let a folder be seen under the new root where it stands in the old; links stay links."""
    target = Path(f"{root}{folder}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink() and folder.parent == Path("/"):
        target.symlink_to(os.readlink(folder))
        return
    target.mkdir(exist_ok=True)
    _mount(str(folder), str(target), "none", MS_BIND | MS_REC)
    _read_only(str(target))


def _close_files(keep: Iterable[int]) -> None:
    """Close every open file but those named; the standard ones lead nowhere."""
    nowhere = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    start = 3
    for kept in sorted(keep):
        os.closerange(start, kept)
        start = kept + 1
    os.closerange(start, 65536)


def _limit(limits: Limits) -> None:
    """Set the limits that the system keeps for each process."""
    megabyte = 2**20
    for what, most in (
        (resource.RLIMIT_DATA, limits.megabytes * megabyte * 3 // 4),  # what all have is watched
        (resource.RLIMIT_FSIZE, SCRATCH_MB * megabyte),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_NOFILE, 128),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, int(limits.seconds) + 1),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(what, (most, most))


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _drop_privileges() -> None:
    """Give up every privilege, for good; root becomes a user that nobody is."""
    libc = _libc()
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    if os.geteuid() == 0:
        nobody = FIRST_FREE_ID + os.stat("/proc/self/ns/pid").st_ino % 1_000_000
        os.setgroups([])
        os.setresgid(nobody, nobody, nobody)
        os.setresuid(nobody, nobody, nobody)
        libc.unshare(CLONE_NEWUSER)  # only so that the next line is about this sandbox alone
    with contextlib.suppress(OSError):  # whoever may not forbid them may not make them either
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    none = (ctypes.c_uint32 * 6)()
    header = _CapabilityHeader(0x20080522, 0)
    _check(libc.capset(ctypes.byref(header), none), "capset")
    die_with_parent()


def die_with_parent() -> None:
    """Let the system end this process when the one that forked it ends."""
    _check(_libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _check(_libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def reap() -> NoReturn:
    """Be the first process of a namespace: wait until no other is left, then end."""
    _check(_libc().prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")  # nor can it be traced
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which the system keeps from a first process
    while True:
        try:
            os.wait()
        except ChildProcessError:
            os._exit(0)
