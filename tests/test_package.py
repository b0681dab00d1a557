"""The package as a whole: light to import, and clear about what it has."""

import importlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tqdm import tqdm

import companion
from companion._lib import arguments, progress

HEAVY = ("torch", "matplotlib", "sklearn", "ipywidgets", "numpy", "tqdm")


def loaded_after(statement: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*({HEAVY!r} & sys.modules.keys()))".replace(
        repr(HEAVY), repr(set(HEAVY))
    )
    root = Path(companion.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import companion") == set()


def test_modules_load_when_they_are_first_used() -> None:
    loaded = loaded_after(
        "import companion\ncompanion.backprop\ncompanion.training\ncompanion.plots\ncompanion.data"
    )
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "sklearn", "ipywidgets"}


@pytest.mark.parametrize("name", companion.__all__)
def test_every_module_named_is_there_and_documented(name: str) -> None:
    module = getattr(companion, name)
    assert module is importlib.import_module(f"companion.{name}")
    assert f":mod:`companion.{name}`" in companion.__doc__
    assert name in dir(companion)
    assert module.__doc__


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'optimizers'; it has .*'training'"):
        _ = companion.optimizers


def test_numbers_are_checked_for_kind_and_range() -> None:
    assert arguments.positive_integer("n", np.int64(3)) == 3
    assert arguments.non_negative("x", np.float32(0.5)) == 0.5
    for value in (True, 2.0, "2", None):
        with pytest.raises(TypeError, match="n must be a whole number"):
            arguments.positive_integer("n", value)
    for value in (0, -3):
        with pytest.raises(ValueError, match=f"n must be at least 1, got {value}"):
            arguments.positive_integer("n", value)
    for value in (math.inf, math.nan, -0.1):
        with pytest.raises(ValueError, match="x must be finite and at least 0"):
            arguments.non_negative("x", value)
    for value in (False, "1", 1j, torch.ones(1)):
        with pytest.raises(TypeError, match="x must be a number"):
            arguments.non_negative("x", value)


def test_the_progress_bar_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [1, 2, 3]
    assert progress.bar(items, "counting", show=False) is items
    assert list(progress.bar(items, "counting")) == items
    # A switch given in code would win over TQDM_DISABLE.
    given: dict[str, object] = {}
    monkeypatch.setattr(progress, "tqdm", lambda it, **options: given.update(options) or it)
    progress.bar(items, "counting")
    assert "disable" not in given
    assert tqdm.__module__ == "tqdm.std", "the plain bar, which stores nothing in a notebook"
