"""pyproject.toml, constraints.txt, environment.yml and the citation file say the same."""

import platform
import re
import subprocess
import sys
import tomllib
import warnings

import pytest
import yaml
from chapters import ROOT, config
from colab_versions import PACKAGES, PYTHON, installed, said
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [("", text) for text in PROJECT["dependencies"]]
DECLARED += [(extra, text) for extra, texts in EXTRAS.items() for text in texts]


def constraints() -> dict[str, Version]:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if text:
            name, version = text.split("==")
            assert canonicalize_name(name) not in pins, f"{name} is pinned twice"
            pins[canonicalize_name(name)] = Version(version)
    return pins


@pytest.mark.parametrize(("extra", "text"), DECLARED)
def test_every_dependency_is_pinned_within_its_bounds(extra: str, text: str) -> None:
    requirement = Requirement(text)
    pin = constraints().get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} ({extra or 'the package'}) has no pin"
    assert requirement.specifier.contains(pin), f"{requirement.name}: {pin} breaks {text}"


@pytest.mark.parametrize(("extra", "text"), DECLARED)
def test_bounds_are_lower_bounds(extra: str, text: str) -> None:
    requirement = Requirement(text)
    upper = [s for s in requirement.specifier if s.operator in ("<", "<=", "==", "~=")]
    assert requirement.name == "jupyter-book" or not upper, f"{extra}: {text} has an upper bound"


def test_the_versions_that_matter_are_the_stated_ones() -> None:
    pins = constraints()
    assert str(pins["torch"]) == "2.13.0"
    assert str(pins["sphinx-book-theme"]) == "1.2.0"
    assert not [name for name in pins if name.startswith(("nvidia", "triton"))]


def test_the_package_installs_beside_what_colab_has() -> None:
    assert SpecifierSet(PROJECT["requires-python"]).contains(PYTHON)
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        version = PACKAGES.get(requirement.name)
        assert version is None or requirement.specifier.contains(version), text


def test_what_is_not_colabs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH", raising=False)
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.7")
    pinned, torch = str(constraints()["torch"]), PACKAGES["torch"]
    python = f"Python, which is 3.11.7 here and {PYTHON} on Colab"
    assert pinned != torch
    assert said() == (
        f"Colab's versions but for {python}; torch, which is {pinned} here and {torch} on Colab."
    )
    assert installed() == PACKAGES | {"torch": pinned}
    monkeypatch.setenv("TORCH", "colab")
    monkeypatch.setattr(platform, "python_version", lambda: f"{PYTHON}1")
    assert said() == "Colab's versions."
    assert installed() == PACKAGES


@pytest.mark.parametrize("module", ["matplotlib._mathtext", "matplotlib", "ipykernel.zmqshell"])
def test_what_other_packages_call_of_each_other_stops_nothing(module: str) -> None:
    warnings.warn_explicit("'oneOf' deprecated", DeprecationWarning, "there.py", 1, module)


@pytest.mark.parametrize("module", ["companion.plots", "test_plots", "torch", "matplotlibs"])
def test_what_we_call_that_is_deprecated_is_an_error(module: str) -> None:
    with pytest.raises(DeprecationWarning):
        warnings.warn_explicit("'oneOf' deprecated", DeprecationWarning, "here.py", 1, module)


def test_the_book_needs_neither_torch_nor_the_companion() -> None:
    names = {canonicalize_name(Requirement(text).name) for text in EXTRAS["book"]}
    assert not names & {"torch", canonicalize_name(PROJECT["name"])}


def test_conda_installs_the_same_through_pip() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert {re.split(r"[=<>]", item)[0] for item in conda} == {"python", "pip"}
    (python,) = [item for item in conda if item.startswith("python")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python.split('=')[-1]}.0")
    options = " ".join(pip)
    assert "--constraint constraints.txt" in options
    (extras,) = re.findall(r"--editable \.\[([\w,]+)\]", options)
    assert set(extras.split(",")) == {"book", "test", "teach"}
    assert len(pip) == 2


def test_the_citation_and_the_release_are_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert config()["sphinx"]["config"]["release"] == f"v{PROJECT['version']}"


def test_the_address_stands_only_where_it_is_stamped() -> None:
    address = config()["repository"]["url"].removeprefix("https://")
    own = [ROOT / "pyproject.toml", ROOT / "environment.yml"]
    own += [ROOT / "Makefile", *(ROOT / "book" / "_tools").glob("*.py")]
    assert not [path.name for path in own if address in path.read_text(encoding="utf-8")]


def test_the_checkout_is_what_is_tested() -> None:
    import companion

    assert companion.__file__ is not None
    assert companion.__file__.startswith(str(ROOT))


def test_importing_the_companion_is_light() -> None:
    heavy = ("matplotlib", "sklearn", "ipywidgets")
    program = f"import companion, sys; sys.exit(' '.join(set(sys.modules) & set({heavy})) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"import companion also imports {done.stderr}"
