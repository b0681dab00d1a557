"""`make` asks torch's own index of CPU builds once, briefly, and does without it."""

import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from chapters import ROOT

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or sys.platform != "linux", reason="needs make and Linux"
)
PIP = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/arguments"
echo "Collecting torch"
echo "  Downloading torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl (190.2 MB)"
"""


class Index(http.server.ThreadingHTTPServer):
    """An index of packages that counts what it is asked, and may never answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []
        self.silent = False
        self.over = threading.Event()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.silent:
            self.server.over.wait()
            return
        self.send_response(200 if self.path == "/whl/cpu/torch/" else 404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def index() -> Iterator[Index]:
    with Index() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with an environment whose Python only writes down what it is told to do."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP)
    python.chmod(0o755)
    (tmp_path / ".venv" / ".created").touch()
    return tmp_path


def install(root: Path, *options: str, **environment: str) -> tuple[str, str]:
    """Return what `make` says while it installs, and what it tells pip."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "TORCH_INDEX"))}
    done = subprocess.run(
        ["make", ".venv/.test", f"PYTHON={sys.executable}", *options],
        cwd=root,
        env=inherited | {"no_proxy": "*"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    arguments = root / ".venv" / "bin" / "arguments"
    return done.stdout + done.stderr, arguments.read_text() if arguments.is_file() else ""


def test_an_index_that_answers_is_taken_and_asked_once(root: Path, index: Index) -> None:
    url = f"http://127.0.0.1:{index.server_port}/whl/cpu"
    said, told = install(root, f"CPU_INDEX={url}")
    assert f"torch comes as a CPU build from {url}." in said
    assert "  Downloading torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl (190.2 MB)" in said
    assert "Collecting" not in said
    assert f"--constraint constraints.txt --extra-index-url {url} --editable" in told
    (root / ".venv" / ".test").unlink()
    said, told = install(root, f"CPU_INDEX={url}")
    assert "torch comes" not in said
    assert told.count(f"--extra-index-url {url}") == 2
    assert index.asked == ["/whl/cpu/torch/"]


@pytest.mark.parametrize("why", ["refuses", "has none", "is silent"])
def test_an_index_that_does_not_answer_is_done_without(root: Path, index: Index, why: str) -> None:
    url = f"http://127.0.0.1:{index.server_port}/whl/cpu"
    if why == "refuses":
        index.server_close()
    elif why == "has none":
        url = url.replace("cpu", "none")
    else:
        index.silent = True
    said, told = install(root, f"CPU_INDEX={url}", "PATIENCE=1")
    assert f"{url} does not answer: torch comes from the usual index." in said
    assert "--editable" in told
    assert "index" not in told


@pytest.mark.parametrize("chosen", ["", "http://127.0.0.1:9/simple"])
@pytest.mark.parametrize("how", ["option", "environment"])
def test_who_names_an_index_or_none_is_not_asked(
    root: Path, index: Index, chosen: str, how: str
) -> None:
    options = [f"CPU_INDEX=http://127.0.0.1:{index.server_port}/whl/cpu"]
    if how == "option":
        _, told = install(root, *options, f"TORCH_INDEX={chosen}")
    else:
        _, told = install(root, *options, TORCH_INDEX=chosen)
    assert not index.asked
    assert ("--extra-index-url" in told) == bool(chosen)
    assert chosen in told


def test_elsewhere_than_on_linux_nothing_is_asked(root: Path, index: Index) -> None:
    uname = root / "uname"
    uname.write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)
    url = f"http://127.0.0.1:{index.server_port}/whl/cpu"
    said, told = install(root, f"CPU_INDEX={url}", PATH=f"{root}:{os.environ['PATH']}")
    assert "which has CPU builds for Darwin" in said
    assert not index.asked
    assert "index" not in told


def test_an_installation_that_fails_is_not_taken_for_done(root: Path) -> None:
    python = root / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(subprocess.CalledProcessError):
        install(root, "TORCH_INDEX=")
    assert not (root / ".venv" / ".test").exists()
