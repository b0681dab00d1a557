"""What a sandbox takes from a submission."""

import ctypes
import errno
import os
import platform
from pathlib import Path

import pytest

from companion.teach import sandbox, session
from companion.teach.sandbox import Limits
from companion.teach.session import Session, Zygote
from teach import attacks


@pytest.mark.breaks(
    "companion/teach/sandbox.py", "            new_keyring()\n", "            pass\n"
)
def test_a_submission_has_none_of_the_keys_of_whoever_marks() -> None:
    libc, x86 = ctypes.CDLL(None, use_errno=True), platform.machine() == "x86_64"
    key = libc.syscall(248 if x86 else 217, b"user", b"teach-was-here", b"secret", 6, -3)
    if key < 0:
        pytest.skip(f"the system has no keyrings to use: {os.strerror(ctypes.get_errno())}")
    code = attacks.ATTACKS["keyring"].code
    try:
        with Zygote() as zygote:  # with the keyring that this process has now, as after a login
            zygote.wait()
            for _ in range(2):  # the second looks for what the first has left
                with Session(zygote, [(code, False)], Limits()) as session:
                    assert session.errors == [None]
    finally:
        libc.syscall(250 if x86 else 219, 9, key, -3)  # KEYCTL_UNLINK


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EDQUOT])
def test_a_system_without_keyrings_needs_no_new_one(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, "keyctl")

    monkeypatch.setattr(sandbox, "_check", refused)
    if number == errno.EDQUOT:  # the system has keyrings, and this user no room for one more
        with pytest.raises(OSError, match="keyctl"):
            sandbox.new_keyring()
    else:
        sandbox.new_keyring()


FAILING = """
import sys
from companion.teach import sandbox, zygote
def drop(): raise OSError(1, "Operation not permitted")
sandbox._drop_privileges = drop
zygote.main()
"""


def test_a_sandbox_that_fails_at_its_last_step_is_said_to_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe on which to say so was closed by then."""
    (tmp_path / "failing.py").write_text(FAILING)
    popen = session.subprocess.Popen

    def start(call: list[str], **more: object) -> object:
        return popen([call[0], str(tmp_path / "failing.py"), *call[3:]], **more)

    monkeypatch.setattr(session.subprocess, "Popen", start)
    with Zygote() as zygote:
        zygote.wait()
        with pytest.raises(sandbox.NoSandboxError, match="Operation not permitted"):
            Session(zygote, [], Limits())
