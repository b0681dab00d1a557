"""Every chapter on the versions that Colab has, through its own first cell: `make test-colab`.

A fresh environment gets Colab's packages and not the companion; where COLAB_PYTHON names an
interpreter, as in Colab's own image, it is taken as it is. Git is told to find the published
address in a temporary copy of this checkout, which alone has the release's tag: so what is tried
is the last commit, and a tree with changes is refused.
"""

import errno
import os
import shutil
import subprocess
import venv
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from chapters import ROOT, assignment_files, chapter_files
from colab_versions import PACKAGES, PYTHON, installed
from reruns import rerun, write_kernel
from stamp import configured

DRAW = int(os.environ.get("DRAW", "1"))  # of the rounding noise that lies over it; 0 is none
GIVEN = os.environ.get("COLAB_PYTHON")
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
    not_ours = {*PACKAGES, "widgetsnbextension"}  # which goes with ipywidgets
    return "\n".join(line for line in lines if line.split("==")[0] not in not_ours)


def fresh(folder: Path) -> Path:
    """Make an environment with Colab's packages, and return its interpreter."""
    (folder / "constraints.txt").write_text(constraints())
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    lend_torch(python)
    pins = [f"{name}=={version}" for name, version in installed().items()]
    run(python, "-m", "pip", "install", "--quiet", "-c", folder / "constraints.txt", "tqdm", *pins)
    return python


def lend_torch(to: Path) -> None:
    """Link the files of the torch that runs this into another environment, if that wants the same.

    It is half of what there is to install, and a link takes no time.
    """
    mine = distribution("torch")
    if mine.version.partition("+")[0] != installed()["torch"]:
        return
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(to, "-c", ask).strip())
    for file in mine.files or ():
        if ".." not in file.parts:  # a program beside the interpreter
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            link(file.locate(), site / file)


def link(source: Path, to: Path) -> None:
    """Make a file another one, or a copy of it where that is on another disk."""
    try:
        to.hardlink_to(source)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copy2(source, to)


@pytest.fixture(scope="module")
def python(published: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of an environment with Colab's packages, whose kernel is named colab."""
    folder = tmp_path_factory.mktemp("colab")
    python = Path(GIVEN) if GIVEN else fresh(folder)
    write_kernel(folder, "colab", python, draw=DRAW or None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        patch.delenv("PYTHONPATH", raising=False)
        yield python


@pytest.fixture(scope="module")
def installs() -> list[float]:
    """How many seconds each chapter's first cell took."""
    return []


def packages(python: Path) -> set[str]:
    return set(run(python, "-m", "pip", "freeze", "--all").splitlines())


def each(paths: list[Path]) -> list[object]:
    """Return notebooks as parameters that say what they are about."""
    return [
        pytest.param(path, id=path.stem, marks=pytest.mark.files(str(path.relative_to(ROOT))))
        for path in paths
    ]


@pytest.mark.parametrize("path", each(chapter_files()))
def test_the_chapter_installs_the_companion_and_prints_what_is_stored(
    path: Path,
    python: Path,
    installs: list[float],
    tmp_path: Path,
) -> None:
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "gradients-at-depth")
    before = packages(python)
    ran = rerun(path, tmp_path, "colab")
    installs.append(ran.seconds[0])
    after = packages(python)
    assert not before - after, "what was there has moved"
    (added,) = after - before
    assert added.startswith(f"gradients-at-depth @ git+{configured().url}@")
    # The first cell says nothing where the companion is there, as it was when outputs were stored.
    assert not ran.differences(skip=1)


@pytest.mark.parametrize("path", each(assignment_files()))
def test_the_assignment_runs_from_end_to_end(path: Path, python: Path, tmp_path: Path) -> None:
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "gradients-at-depth")
    rerun(path, tmp_path, "colab")


@pytest.mark.skipif(GIVEN is None, reason="these versions were installed a moment ago")
def test_colab_has_still_the_versions_written_down(python: Path) -> None:
    found = dict(line.split("==") for line in packages(python) if "==" in line)
    ask = "import platform, torch; print(platform.python_version(), torch.__version__)"
    number, torch = run(python, "-c", ask).split()
    known = found | {"torch": torch.partition("+")[0]}
    assert {name: known[name] for name in PACKAGES} == PACKAGES
    assert number == PYTHON


def test_the_first_cell_is_quick(installs: list[float]) -> None:
    # It is the same cell every time, and what else the machine does can only slow it.
    assert min(installs, default=0) < SLOWEST_INSTALL
