"""README, introduction and teaching page say of each chapter what its metadata says."""

import json
import re
import shutil
from pathlib import Path

import entries
import pytest
from chapters import ROOT, chapter_files, ledger, read

FILES = ("README.md", "_config.yml", "book/_toc.yml", "book/intro.md", "book/teaching.md")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the entries are made of and written to."""
    for name in (*FILES, *(f"book/{path.name}" for path in (ROOT / "book").glob("*.ipynb"))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def change(root: Path, **course: object) -> None:
    """Change what the metadata of a chapter says."""
    path = root / "book" / "residuals.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"]["course"] |= course
    path.write_text(json.dumps(notebook), encoding="utf-8")


def test_the_pages_say_what_the_chapters_say() -> None:
    assert not entries.differing(), "run `make entries`"


@pytest.mark.parametrize(
    ("course", "pages"),
    [
        ({"question": "Why add?"}, ["README.md"]),
        ({"summary": "what adding does."}, ["intro.md"]),
        ({"minutes": 85}, ["intro.md", "teaching.md"]),
        ({"objectives": ["add", "replace"]}, ["teaching.md"]),
    ],
)
def test_what_changes_in_a_chapter_is_written_where_it_stands(
    course: dict, pages: list[str], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(copy, **course)
    assert [path.name for path in entries.differing(copy)] == pages
    before = {path: path.read_text(encoding="utf-8") for path in entries.pages(copy)}
    assert entries.main(["--check"], copy) == 1
    assert capsys.readouterr().out.count("run `make entries`") == len(pages)
    assert entries.main([], copy) == 0
    assert not entries.differing(copy)
    change(copy, **entries.read(ROOT / "book" / "residuals.ipynb")["metadata"]["course"])
    entries.main([], copy)
    assert {path: path.read_text(encoding="utf-8") for path in before} == before | {
        path: (ROOT / path.relative_to(copy)).read_text(encoding="utf-8") for path in before
    }, "and nothing else was touched"


@pytest.mark.parametrize("path", chapter_files(), ids=lambda path: path.stem)
def test_a_chapter_owns_the_claims_that_the_ledger_gives_it(path: Path) -> None:
    given = [claim for claim, entry in ledger().items() if entry["chapter"] == path.stem]
    assert read(path)["metadata"]["course"]["claims"] == given


def test_no_claim_stands_twice_in_the_ledger() -> None:
    keys = re.findall(r"^(\w+):", (ROOT / "book" / "claims.yml").read_text("utf-8"), re.MULTILINE)
    assert len(keys) == len(set(keys)) == len(ledger())


def test_the_page_for_instructors_has_the_order_of_the_book() -> None:
    text = (ROOT / "book" / "teaching.md").read_text(encoding="utf-8")
    order = [path.name for path in chapter_files()]
    assert re.findall(r"^### \[[^\]]*\]\(([\w.]+)\)$", text, re.MULTILINE) == order
    syllabus, course = (
        list(dict.fromkeys(re.findall(r"\]\(([\w.]+\.ipynb)\)", table)))
        for table in re.findall(r"(?:^\|.*\n)+", text.partition("\n### ")[0], re.MULTILINE)
    )
    assert syllabus == course == order


def test_a_missing_place_or_word_is_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(copy, question="")
    assert entries.main([], copy) == 2
    assert capsys.readouterr().out == "residuals.ipynb: the metadata has no question\n"
    change(copy, question="Why?")
    page = copy / "book" / "teaching.md"
    page.write_text(page.read_text("utf-8").replace("](residuals.ipynb)\n", "](gone.ipynb)\n"))
    assert entries.main([], copy) == 2
    assert "teaching.md has 0 sections for residuals.ipynb" in capsys.readouterr().out
    (copy / "book" / "intro.md").write_text("# Nothing\n")
    assert entries.main([], copy) == 2
    assert "'## The chapters" in capsys.readouterr().out
