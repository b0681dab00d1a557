"""The package keeps what its `py.typed` promises."""

import subprocess
import sys

from chapters import ROOT


def test_the_companion_passes_the_type_checker() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
