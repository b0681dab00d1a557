"""The book, built once for all workers, and a browser.

`FONTS=DejaVu` (wide) or `FONTS=Liberation` (narrow) lets the browser have these fonts and no
others; without it, it has what the machine has. Where they are not installed, or there is no
browser, the tests that need them are skipped and say so.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from bs4 import BeautifulSoup
from chapters import ROOT
from playwright.sync_api import Browser, Page, sync_playwright
from serve import server

from . import fonts
from .browsing import PHONE, opened

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
Build = Callable[[Path, Path], subprocess.CompletedProcess[str]]
Launch = Callable[[str | None], Browser]


@pytest.fixture(scope="session")
def build() -> Build:
    """What `make book` runs, for any book and output."""

    def run(root: Path, output: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(root / "book/_tools/build.py"), str(root), str(output)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def shared(folder: Path) -> Path:
    """The temporary folder that all workers of this run share."""
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, build: Build) -> Path:
    """The book, built afresh without a warning, by the first worker that wants it."""
    output = shared(tmp_path_factory.getbasetemp()) / "site"
    output.mkdir(exist_ok=True)
    outcome = output / "outcome.json"
    with (output / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcome.exists():
            done = build(ROOT, output)
            outcome.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    code, said, warned = json.loads(outcome.read_text())
    assert code == 0, said + warned
    assert "WARNING" not in warned, warned
    return output / "_build" / "html"


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[str, BeautifulSoup]:
    """Every page of the site, by its file name."""
    return {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts
    }


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """The address of the site, served compressed on this machine."""
    with server(site) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Start a Chromium without a window, with a family's fonts alone or with the machine's."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip(f"no browser tests: none of {', '.join(CHROMIUM)} is on the PATH")
    started: dict[str | None, Browser] = {}
    with sync_playwright() as playwright:

        def start(family: str | None) -> Browser:
            if family and not fonts.files(family):
                pytest.skip(f"the fonts {family} are not installed")
            if family not in started:
                folder = tmp_path_factory.mktemp("fonts")
                env = fonts.environment(family, folder) if family else None
                started[family] = playwright.chromium.launch(
                    executable_path=found, args=OPTIONS, env=env
                )
            return started[family]

        yield start
        for running in started.values():
            running.close()


@pytest.fixture(scope="session")
def browser(launch: Launch) -> Browser:
    """The browser of all tests, with the fonts that the environment names."""
    return launch(fonts.chosen())


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A page of its own, of a reader who comes for the first time."""
    with opened(browser) as page:
        yield page


# The pages of a reader who has come before, for all tests of a file: to open one costs more than to
# go from one chapter to the next.


@pytest.fixture(scope="module")
def desk(browser: Browser) -> Iterator[Page]:
    """A page on a large screen."""
    with opened(browser) as page:
        yield page


@pytest.fixture(scope="module")
def phone(browser: Browser) -> Iterator[Page]:
    """A page on a phone."""
    with opened(browser, **PHONE) as page:
        yield page


@pytest.fixture(scope="module")
def calm(browser: Browser) -> Iterator[Page]:
    """A page of a reader who wants no motion, which goes to what has the focus at once."""
    with opened(browser, reduced_motion="reduce") as page:
        yield page


@pytest.fixture(scope="module")
def still(browser: Browser) -> Iterator[Page]:
    """A page of a reader who allows no scripts."""
    with opened(browser, java_script_enabled=False) as page:
        yield page
