"""The built site and its sources hold no solution of an assignment, and no test of one."""

import zipfile
from pathlib import Path

import pytest
from chapters import BOOK, chapter_files, read

from companion.teach import masters
from companion.teach.masters import Master

MASTERS = [masters.read(path) for path in masters.find(BOOK / "assignments")]


def secrets(master: Master) -> set[str]:
    """Lines of an assignment's solutions that no chapter has, and the names of its tests."""
    chapters = "".join(cell["source"] for path in chapter_files() for cell in read(path)["cells"])
    lines = {
        line.strip()
        for cell in master.cells
        if cell.place == "solution"
        for line in cell.source.splitlines()
        if "SOLUTION" not in line
    }
    marked = {
        line.removesuffix("# SOLUTION").strip()
        for cell in master.cells
        for line in cell.source.splitlines()
        if line.endswith("# SOLUTION")
    }
    tests = {test.name for question in master.questions.values() for test in question.tests}
    telling = {line for line in lines | marked if len(line) > 25 and line not in chapters}
    return telling | {f"def {name}(" for name in tests}


@pytest.fixture(scope="module")
def files(site: Path) -> dict[Path, str]:
    """Every file of the site, and of what it was built from, as text."""
    paths = [path for path in site.parents[1].rglob("*") if path.is_file()]
    assert any(path.name == "searchindex.js" for path in paths)
    return {
        path: path.read_bytes().decode("utf-8", "replace").replace('\\"', '"') for path in paths
    }


@pytest.mark.parametrize("master", MASTERS, ids=[master.chapter for master in MASTERS])
def test_no_solution_is_on_the_site(master: Master, site: Path, files: dict[Path, str]) -> None:
    looked_for = secrets(master)
    assert len(looked_for) > 8
    for path, content in files.items():
        found = [line for line in looked_for if line in content]
        assert not found, f"{path.relative_to(site.parents[1])}: {found}"


def test_no_master_and_no_archive_is_on_the_site(files: dict[Path, str]) -> None:
    assert not [path for path in files if zipfile.is_zipfile(path)]
    assert not [path for path in files if "assignments" in path.parts or path.stem == "master"]
