"""Every chapter on the versions that Colab has, through its own first cell: `make test-colab`.

A fresh environment gets Colab's packages and not the companion. Git is told to find the published
address in a temporary copy of this checkout, which alone has the release's tag: so what is tried
is the last commit, and a tree with changes is refused.
"""

import configparser
import re
import subprocess
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import nbformat
import outputs
import pytest
from chapters import BOOK, ROOT, assignment_files, chapter_files
from nbclient import NotebookClient
from nbformat import NotebookNode
from stamp import configured

# Colab's, but for torch, which is the one that the stored outputs were made with.
COLAB = {
    "ipykernel": "6.17.1",
    "ipython": "7.34.0",
    "ipywidgets": "7.7.1",
    "matplotlib": "3.10.0",
    "numpy": "2.1.3",
    "scikit-learn": "1.6.1",
    "torch": "2.13.0",
}
SLOWEST_INSTALL = 20  # seconds


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The address leads to a copy of this checkout that has the release's tag."""
    if changes := run("git", "-C", ROOT, "status", "--porcelain"):
        pytest.exit(f"commit or stash first, the last commit is what is tried:\n{changes}", 1)
    copy = tmp_path_factory.mktemp("published")
    run("git", "clone", "--quiet", "--bare", f"file://{ROOT}", copy)
    run("git", "-C", copy, "tag", "--force", configured().release, "HEAD")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_COUNT", "1")
        patch.setenv("GIT_CONFIG_KEY_0", f"url.file://{copy}.insteadOf")
        patch.setenv("GIT_CONFIG_VALUE_0", configured().url)
        yield


def constraints() -> str:
    """The lines of constraints.txt about packages whose version is not Colab's."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    not_ours = {*COLAB, "widgetsnbextension"}  # which goes with ipywidgets
    return "\n".join(line for line in lines if line.split("==")[0] not in not_ours)


@pytest.fixture(scope="module")
def python(published: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of an environment with Colab's packages, whose kernel is named colab."""
    folder = tmp_path_factory.mktemp("colab")
    (folder / "constraints.txt").write_text(constraints())
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    pins = [f"{name}=={version}" for name, version in COLAB.items()]
    run(python, "-m", "pip", "install", "--quiet", "-c", folder / "constraints.txt", "tqdm", *pins)
    run(python, "-m", "ipykernel", "install", "--prefix", folder, "--name", "colab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "share" / "jupyter"))
        patch.delenv("PYTHONPATH", raising=False)
        yield python


@pytest.fixture(scope="module")
def installs() -> list[float]:
    """How many seconds each chapter's first cell took."""
    return []


def packages(python: Path) -> set[str]:
    return set(run(python, "-m", "pip", "freeze", "--all").splitlines())


def execute(notebook: NotebookNode, folder: Path) -> float:
    """Run every cell, in place, and return how many seconds the first code cell took."""
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, kernel_name="colab", timeout=600, resources=resources)
    seconds = []
    with client.setup_kernel(stderr=subprocess.DEVNULL):
        for index, cell in enumerate(notebook.cells):
            start = time.perf_counter()
            client.execute_cell(cell, index)
            if cell.cell_type == "code":
                seconds.append(time.perf_counter() - start)
    return seconds[0]


def texts(notebook: NotebookNode) -> dict[str, list[tuple[str, str]]]:
    """What each cell but the first shows as text, as nbval compares it: without pictures' bytes."""
    rules = configparser.RawConfigParser()
    rules.read(BOOK / "_tools" / "sanitize.cfg")

    def clean(text: str) -> str:
        for rule in rules.sections():
            text = re.sub(rules[rule]["regex"], rules[rule]["replace"], text)
        return text

    return {
        cell.id: [
            (kind, clean(text))
            for output in outputs.merged_streams(cell.outputs)
            for kind, text in shown(output).items()
        ]
        for cell in [cell for cell in notebook.cells if cell.cell_type == "code"][1:]
    }


def shown(output: NotebookNode) -> dict[str, str]:
    """The text of an output by its kind."""
    if output.output_type == "stream":
        return {output.name: output.text}
    return {kind: text for kind, text in output.data.items() if kind.startswith("text/")}


@pytest.mark.parametrize("path", chapter_files(), ids=lambda path: path.stem)
def test_the_chapter_installs_the_companion_and_prints_what_is_stored(
    path: Path,
    python: Path,
    installs: list[float],
    tmp_path: Path,
) -> None:
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "gradients-at-depth")
    before = packages(python)
    notebook = nbformat.read(path, as_version=4)
    stored = texts(notebook)
    installs.append(execute(notebook, tmp_path))
    after = packages(python)
    assert not before - after, "what was there has moved"
    (added,) = after - before
    assert added.startswith(f"gradients-at-depth @ git+{configured().url}@")
    assert texts(notebook) == stored


@pytest.mark.parametrize("path", assignment_files(), ids=lambda path: path.stem)
def test_the_assignment_runs_from_end_to_end(path: Path, python: Path, tmp_path: Path) -> None:
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "gradients-at-depth")
    execute(nbformat.read(path, as_version=4), tmp_path)


def test_the_first_cell_is_quick(installs: list[float]) -> None:
    # It is the same cell every time, and what else the machine does can only slow it.
    assert min(installs, default=0) < SLOWEST_INSTALL
