"""`make chapter` lays files that are entered everywhere, and that say what is missing."""

import json
import shutil
from pathlib import Path

import entries
import house
import new_chapter
import pytest
from chapters import ROOT, chapter_files, toc_files

FILES = (
    *("_config.yml", "README.md", "book/_toc.yml", "book/intro.md", "book/teaching.md"),
    *("companion/__init__.py", "tests/test_layout.py"),
)
TITLE = "Sharpness: how long a step may be"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The parts of this repository that list the chapters, and the chapters."""
    for name in (*FILES, *(f"book/{path.name}" for path in chapter_files())):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_a_chapter_is_laid_and_entered(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new_chapter.main(["sharpness", TITLE, "--after", "clipping"], root) == 0
    said = capsys.readouterr().out
    stems = [path.stem for path in toc_files(root / "book")]
    assert stems[stems.index("clipping") + 1] == "sharpness"
    for name in (
        *("book/sharpness.ipynb", "companion/sharpness.py", "tests/test_sharpness.py"),
        *("book/assignments/sharpness/master.md", "book/assignments/sharpness/answers.yml"),
    ):
        assert name in said
        assert (root / name).is_file()
    module = (root / "companion" / "sharpness.py").read_text(encoding="utf-8")
    assert module.endswith('gradients-at-depth/sharpness.html\n"""\n')
    package = (root / "companion" / "__init__.py").read_text(encoding="utf-8")
    compile(package, "__init__.py", "exec")
    assert "* :mod:`companion.sharpness` -- TODO\n" in package
    names = package.partition("__all__ = [")[2].partition("]")[0].split(",")
    assert names[:-1] == sorted(names[:-1])
    assert '\n    "sharpness"' in names


def test_it_keeps_the_rules_but_for_what_is_to_be_written(root: Path) -> None:
    new_chapter.lay("sharpness", TITLE, "clipping", root)
    chapter = house.chapter(root / "book" / "sharpness.ipynb")
    broken = {rule.__name__ for rule in house.CHAPTER_RULES if rule(chapter)}
    assert broken <= {"was_run", "says_what_it_teaches", "claims_are_judged"}, broken


def test_its_entries_are_written_as_soon_as_it_says_what_it_is(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_chapter.lay("sharpness", TITLE, "clipping", root)
    assert entries.main([], root) == 2
    assert "sharpness.ipynb: the metadata has no question" in capsys.readouterr().out
    path = root / "book" / "sharpness.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    words = {"question": "What?", "summary": "What it holds.", "objectives": ["round"]}
    notebook["metadata"]["course"] |= words
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert entries.main([], root) == 0
    teaching = (root / "book" / "teaching.md").read_text(encoding="utf-8")
    section = teaching.partition(f"### [{TITLE}](sharpness.ipynb)\n")[2].partition("\n### ")[0]
    assert section.startswith("\n*60 minutes.* After it students can\n\n- round\n\nWhat many")
    assert teaching.index("](clipping.ipynb)\n\n*") < teaching.index("](sharpness.ipynb)\n\n*")
    assert "9. [Sharpness](sharpness.ipynb): What it holds. 60 minutes.\n10. [Training]" in (
        root / "book" / "intro.md"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clipping", TITLE], "NAME must be a new module's name"),
        (["Sharpness", TITLE], "NAME must be a new module's name"),
        (["", TITLE], "NAME must be a new module's name"),
        (["sharpness", " "], "TITLE is missing"),
        (["sharpness", TITLE, "--after", "intro"], "AFTER must be one of ['symptoms'"),
    ],
)
def test_what_cannot_be_laid_is_explained_and_changes_nothing(
    arguments: list[str], message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert new_chapter.main(arguments, root) == 2
    assert message in capsys.readouterr().out
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_what_is_there_is_left_as_it_is(root: Path) -> None:
    (root / "companion" / "sharpness").mkdir()
    own = root / "tests" / "test_sharpness.py"
    own.write_text("# mine\n", encoding="utf-8")
    written = new_chapter.lay("sharpness", TITLE, root=root)
    assert own.read_text(encoding="utf-8") == "# mine\n"
    assert not {own, root / "companion" / "sharpness.py"} & set(written)
