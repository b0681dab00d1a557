"""The process that submissions are forked from, started once for all tests."""

from collections.abc import Iterator

import pytest

from companion.teach.sandbox import Limits, NoSandboxError
from companion.teach.session import Session, Zygote


@pytest.fixture(scope="session")
def any_zygote() -> Iterator[Zygote]:
    """One for code that is trusted: it makes sandboxes where they can be had."""
    with Zygote() as started:
        started.wait()
        try:
            with Session(started, [], Limits()):
                pass
        except NoSandboxError:
            started.safe = False
        yield started


@pytest.fixture(scope="session")
def zygote(any_zygote: Zygote) -> Zygote:
    """One that makes sandboxes; the test is skipped where none can be had."""
    if not any_zygote.safe:
        with Zygote() as another:
            another.wait()
            try:
                Session(another, [], Limits()).close()
            except NoSandboxError as error:
                pytest.skip(str(error))
    return any_zygote
