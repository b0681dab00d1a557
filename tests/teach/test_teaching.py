"""The page for instructors says of each chapter what the chapter says."""

import re

import house
import pytest
from chapters import BOOK, chapter_files, read

from companion.teach.__main__ import parser

PAGE = BOOK / "teaching.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", chapter_files(), ids=lambda path: path.stem)
def test_each_chapter_has_its_time_objectives_and_misconceptions(path: object) -> None:
    course = read(path)["metadata"]["course"]
    sections = [part for part in TEXT.split("\n### ") if f"]({path.name})" in part.split("\n")[0]]
    assert len(sections) == 1, "one section with the chapter's title as a link"
    assert f"*{course['minutes']} minutes.*" in sections[0]
    assert all(f"- {objective}" in sections[0] for objective in course["objectives"])
    assert sections[0].count(f"({path.name}#cell-") >= 2


def test_its_links_lead_somewhere() -> None:
    assert house.links_lead_somewhere(PAGE) == []
    assert house.references_are_known(PAGE) == []


def test_its_commands_are_understood() -> None:
    commands = re.findall(r"^python -m companion\.teach (.*?)(?: +#.*)?$", TEXT, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', command)]
        assert parser().parse_args(words).run
