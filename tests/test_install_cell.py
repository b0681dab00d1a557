"""The cell that begins every chapter installs the companion, and does not move what is there."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from chapters import ROOT, config
from install_cell import install_cell
from IPython.core.interactiveshell import InteractiveShell

import companion

# Runs the cell as a notebook would, where nothing but the companion is missing.
PROGRAM = """
import importlib.util, sys
from IPython.core.interactiveshell import InteractiveShell
assert importlib.util.find_spec("companion") is None
InteractiveShell.instance().run_cell(sys.argv[1]).raise_error()
import companion
print(companion.__file__)
"""


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs a git checkout"
)
def test_the_cell_installs_the_release_and_nothing_else(tmp_path: Path) -> None:
    # Git is told to find the published address in a copy of this checkout that has the tag.
    published = tmp_path / "published"
    run("git", "clone", "--quiet", "--bare", f"file://{ROOT}", published)
    release = config()["sphinx"]["config"]["release"]
    run("git", "--git-dir", published, "tag", "--force", release, "HEAD")

    # The fresh environment sees this one's packages, but not the checkout that is installed here.
    venv.create(tmp_path / "fresh")
    packages = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "fresh")})
    (Path(packages) / "outer.pth").write_text(sysconfig.get_path("purelib"))
    before = set(os.listdir(packages))

    where = run(
        tmp_path / "fresh" / "bin" / Path(sys.executable).name,
        "-I",
        "-c",
        PROGRAM,
        install_cell(),
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0=f"url.file://{published}.insteadOf",
        GIT_CONFIG_VALUE_0=config()["repository"]["url"],
        GIT_CONFIG_NOSYSTEM="1",
        HOME=str(tmp_path),
        PIP_NO_BUILD_ISOLATION="false",  # which is how pip spells "without isolation"
        PIP_NO_INDEX="1",  # so whatever it wanted to move, it could not
    )
    installed = set(os.listdir(packages)) - before
    assert str(tmp_path) in where.splitlines()[-1]
    assert {name.split("-")[0] for name in installed} == {"companion", "gradients_at_depth"}


@pytest.mark.parametrize(("installed", "said"), [(None, ""), ("9.9", "here is 9.9")])
def test_where_it_is_installed_only_another_version_is_spoken_of(
    installed: str | None,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(companion, "__version__", installed or companion.__version__)
    InteractiveShell().run_cell(install_cell()).raise_error()
    printed = capsys.readouterr().out
    assert said in printed
    assert printed.count("\n") == bool(said)


def test_the_cell_is_short() -> None:
    lines = install_cell().splitlines()
    assert len(lines) <= 12
    assert all(len(line) <= 100 for line in lines if "%pip" not in line)
