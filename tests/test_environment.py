"""pyproject.toml, constraints.txt, environment.yml and the citation file say the same."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from chapters import ROOT, config
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
    colab = {
        "torch": "2.11.0",
        "numpy": "2.1.0",
        "matplotlib": "3.10.0",
        "scikit-learn": "1.6.1",
        "ipywidgets": "7.7.1",
    }
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.13")
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        version = colab.get(requirement.name)
        assert version is None or requirement.specifier.contains(version), text


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
