"""The cell that begins every chapter: it installs the companion where it is missing.

The address and the release stand once, in `_config.yml`; `make stamp` and `make outputs` write
them into the chapters.
"""

from typing import Any

from chapters import Notebook, config

TEMPLATE = """\
# Installs the course's companion where it is missing, as on Colab.
import importlib.util

if importlib.util.find_spec("companion") is None:
    %pip install --quiet "gradients-at-depth @ git+{url}@{release}"
import companion

if companion.__version__ != "{version}":
    print(f"Made with companion {version}; here is {{companion.__version__}}: numbers may differ.")
"""


def install_cell(settings: dict[str, Any] | None = None) -> str:
    """Return the source of the install cell for the address and release in `_config.yml`."""
    settings = config() if settings is None else settings
    release = settings["sphinx"]["config"]["release"]
    return TEMPLATE.format(
        url=settings["repository"]["url"], release=release, version=release.removeprefix("v")
    ).rstrip("\n")


def is_install_cell(source: str) -> bool:
    """Return whether `source` is the install cell, of this or another release."""
    return source.startswith("# Installs the course's companion where it is missing")


def stamp(notebook: Notebook, settings: dict[str, Any] | None = None) -> bool:
    """Write the install cell into the notebook's first code cell if that is one; say if it was."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            if not is_install_cell(cell["source"]):
                return False
            cell["source"] = install_cell(settings)
            return True
    return False
