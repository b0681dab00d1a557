"""What a sandbox takes from a submission."""

import ctypes
import os
import platform

import pytest

from companion.teach.sandbox import Limits
from companion.teach.session import Session, Zygote
from teach import attacks


@pytest.mark.breaks("companion/teach/sandbox.py", "        _new_keyring()\n", "")
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
