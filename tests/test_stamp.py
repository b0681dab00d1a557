"""The address and the release stand once, and `make stamp` writes them everywhere else."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest
import stamp
import yaml
from chapters import ROOT, chapter_files
from stamp import Published

NEW = Published("https://github.com/some-body/depth.2", "v2.5rc1")
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "_build", "__pycache__", ".*_cache", ".hypothesis"
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(ROOT, tmp_path / "copy", ignore=NOT_COPIED)


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_file_says_what_the_configuration_says() -> None:
    differing = stamp.differing(stamp.configured())
    assert not differing, f"run `make stamp`: {[path.name for path in differing]}"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("CITATION.cff", "repository-code: https", "repository-code: http"),
        ("companion/__init__.py", '__version__ = "', '__version__ = "9'),
        ("pyproject.toml", 'version = "', 'version = "9'),
        ("README.md", "/blob/v", "/blob/v9"),
        ("README.md", "mybinder.org/v2/gh/", "mybinder.org/v2/gh/x"),
        ("companion/backprop.py", "github.io/", "github.io/x"),
        ("book/backprop.ipynb", "git+https", "git+http"),
        ("book/backprop.ipynb", "/blob/v", "/blob/v9"),
    ],
)
def test_a_file_that_differs_is_found(file: str, old: str, new: str, copy: Path) -> None:
    path = copy / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert list(stamp.differing(stamp.configured(copy), copy)) == [path]


def test_the_old_address_is_gone_and_the_rest_stays(copy: Path) -> None:
    old = stamp.configured()
    before = contents(copy)
    assert stamp.main([NEW.url, NEW.release], copy) == 0
    after = contents(copy)
    assert not [path for path, data in after.items() if old.slug.encode() in data]
    assert not [path for path, data in after.items() if f"blob/{old.release}".encode() in data]
    # Taking the new words back gives the old files, so nothing but them was touched.
    back = {path: data for path, data in after.items() if data != before[path]}
    for path, data in back.items():
        text = data.decode().replace(NEW.slug, old.slug).replace(NEW.site, old.site)
        text = text.replace(NEW.release, old.release)
        assert text.replace(NEW.version, old.version) == before[path].decode(), path.name
    assert {path.name for path in back} >= {"_config.yml", "README.md", "CITATION.cff"}
    assert {path.name for path in back} >= {path.name for path in chapter_files()}


def test_a_module_leads_to_its_chapter_at_the_books_address(copy: Path) -> None:
    config, module = copy / "_config.yml", copy / "companion" / "lstms" / "__init__.py"
    assert f"\nChapter: {stamp.configured().site}lstms.html\n" in module.read_text("utf-8")
    settings = config.read_text(encoding="utf-8")
    assert 'baseurl: ""' in settings
    config.write_text(settings.replace('baseurl: ""', 'baseurl: "https://deep.example/book/"'))
    assert stamp.main([], copy) == 0
    assert "\nChapter: https://deep.example/book/lstms.html\n" in module.read_text("utf-8")


def test_a_second_time_changes_nothing_and_the_way_back_is_open(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(copy)
    stamp.main([f"{NEW.url}.git/", NEW.release], copy)
    once = contents(copy)
    capsys.readouterr()
    stamp.main([NEW.url, NEW.release], copy)
    stamp.main([], copy)
    assert "changed" not in capsys.readouterr().out
    assert contents(copy) == once
    stamp.main([*stamp.configured()], copy)
    assert contents(copy) == before


def test_the_files_can_be_read_afterwards(copy: Path) -> None:
    stamp.main([*NEW], copy)
    assert stamp.configured(copy) == NEW
    project = tomllib.loads((copy / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((copy / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == str(citation["version"]) == NEW.version
    assert citation["repository-code"] == NEW.url


@pytest.mark.parametrize(
    ("repository", "release", "message"),
    [
        ("http://github.com/you/name", "v1.0", "REPOSITORY is 'http:"),
        ("github.com/you/name", "v1.0", "must be https://github.com/you/name"),
        ("https://github.com/you", "v1.0", "REPOSITORY"),
        ("https://elsewhere.org/you/name", "v1.0", "REPOSITORY"),
        ("https://github.com/you/na me", "v1.0", "REPOSITORY"),
        ("", "v1.0", "REPOSITORY is ''"),
        ("https://github.com/you/name", "", "RELEASE is ''"),
        ("https://github.com/you/name", "main", "a tag such as v1.0"),
        ("https://github.com/you/name", "v1/0", "a tag such as v1.0"),
    ],
)
def test_what_cannot_be_used_is_explained_and_changes_nothing(
    repository: str, release: str, message: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(copy)
    assert stamp.main([repository, release], copy) == 2
    assert message in capsys.readouterr().out
    assert contents(copy) == before


@pytest.mark.parametrize("end", ["", "/", ".git", ".git/"])
def test_ends_of_an_address_are_normalised(end: str) -> None:
    assert stamp.read(NEW.url + end, NEW.release) == NEW


def test_only_links_to_the_repository_are_renewed() -> None:
    old = Published("https://github.com/one/depth", "v1.0")
    text = "[a](https://github.com/one/depth-two) https://github.com/one/depth/issues"
    assert stamp.relink(text, old, NEW) == text.replace("one/depth/", f"{NEW.slug}/")


def test_a_file_without_a_place_for_it_is_named(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "CITATION.cff").write_text("version: 1\n", encoding="utf-8")
    assert stamp.main([*NEW], copy) == 2
    assert capsys.readouterr().out.startswith("CITATION.cff: expected one place")


def test_every_link_to_a_notebook_leads_to_one() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    opened = set(re.findall(r"\((https://colab\.research[^)]+)\)", readme))
    assert opened == {stamp.configured().colab(path.name) for path in chapter_files()}
    assert not re.search(r"\bYOUR_", re.sub(r"\([^)]*\)", "", readme))
