"""The process that submissions are forked from, started once for all tests."""

from collections.abc import Iterator

import pytest

from companion.teach.sandbox import Limits, NoSandboxError
from companion.teach.session import Session, Zygote


@pytest.fixture(scope="session")
def why_no_sandbox() -> str:
    """Why no sandbox can be had here, or nothing."""
    with Zygote() as zygote:
        zygote.wait()
        try:
            with Session(zygote, [], Limits()):
                return ""
        except NoSandboxError as error:
            return str(error)


@pytest.fixture(scope="session")
def zygote(why_no_sandbox: str) -> Iterator[Zygote]:
    """One that makes sandboxes; the test is skipped where none can be had."""
    if why_no_sandbox:
        pytest.skip(why_no_sandbox)
    with Zygote() as started:
        started.wait()
        yield started


@pytest.fixture(scope="session")
def any_zygote(why_no_sandbox: str) -> Iterator[Zygote]:
    """One for code that is trusted: with sandboxes where they can be had."""
    with Zygote(safe=not why_no_sandbox) as started:
        started.wait()
        yield started
