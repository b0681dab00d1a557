"""The package as others get it: built into a wheel, installed, and loaded without the checkout."""

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from chapters import ROOT

import companion

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("pip", "hatchling")),
    reason="needs pip and hatchling, which build the wheel",
)
# What it is asked, far from the checkout: where it is, and whether each name of a facade is there.
PROGRAM = """
import importlib, json, sys
import companion
from companion import data
digits = data.digits()
wrong = []
for name in companion.__all__:
    module = importlib.import_module(f"companion.{name}")
    shown = getattr(module, "__all__", ())
    wrong += [f"{name}.{each}" for each in shown if not hasattr(module, each)]
print(json.dumps({
    "file": companion.__file__, "version": companion.__version__, "wrong": wrong,
    "digits": [list(digits.train_inputs.shape), float(digits.train_inputs.sum())],
    "normal": data.normal(3, seed=1).tolist(),
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that this checkout makes, with nothing fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "companion"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert names == {name for name in tracked if (ROOT / name).is_file()}
    assert {"companion/py.typed", "companion/teach/zygote.py"} <= names


def test_what_is_installed_from_it_works_alone(wheel: Path, tmp_path: Path) -> None:
    options = ["--no-deps", "--no-index", "--quiet", "--target", tmp_path / "site"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, wheel], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        env=environment | {"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["file"]).parent == tmp_path / "site" / "companion"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert found["version"] == project["version"]
    assert found["wrong"] == []
    digits = companion.data.digits()
    shape, total = found["digits"]
    assert (tuple(shape), total) == (digits.train_inputs.shape, float(digits.train_inputs.sum()))
    assert found["normal"] == companion.data.normal(3, seed=1).tolist()
