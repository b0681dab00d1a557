"""What Colab has, in one place; as a program, what of that tests/colab.py does not have.

The numbers are those of github.com/googlecolab/backend-info on 2026-08-19.
"""

import os
import platform
import re
import sys
from pathlib import Path

PYTHON = "3.13.15"
PACKAGES = {
    "ipykernel": "6.17.1",
    "ipython": "7.34.0",
    "ipywidgets": "7.7.1",
    "matplotlib": "3.10.0",
    "numpy": "2.1.3",
    "scikit-learn": "1.6.1",
    "torch": "2.11.0",
}
PINS = Path(__file__).resolve().parent.parent / "constraints.txt"


def installed() -> dict[str, str]:
    """Return the versions to install: Colab's, and the pinned torch unless TORCH is "colab"."""
    if os.environ.get("TORCH") == "colab":
        return PACKAGES
    (pinned,) = re.findall(r"^torch==(\S+)$", PINS.read_text(encoding="utf-8"), re.MULTILINE)
    return PACKAGES | {"torch": pinned}


def said() -> str:
    """Return in a line what is not Colab's."""
    python, torch = platform.python_version(), installed()["torch"]
    others = []
    if python.split(".")[:2] != PYTHON.split(".")[:2]:
        others.append(f"Python, which is {python} here and {PYTHON} on Colab")
    if torch != PACKAGES["torch"]:
        others.append(f"torch, which is {torch} here and {PACKAGES['torch']} on Colab")
    return f"Colab's versions but for {'; '.join(others)}." if others else "Colab's versions."


if __name__ == "__main__":
    sys.stdout.write(f"{said()}\n")
