"""What the README and its neighbours promise and can be tried: examples run, targets exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("learning rate too low (confidence")
    assert (tmp_path / "run.json").is_file()


DOCUMENTS = ["README.md", "CONTRIBUTING.md", "book/_tools/CHAPTERS.md"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_targets_named_are_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = {*re.findall(r"`make ([a-z-]+)", text), *re.findall(r"(?m)^make ([a-z-]+)", text)}
    assert named, f"{name} names no target"
    assert named <= targets


@pytest.mark.parametrize("name", [*DOCUMENTS, "CHANGELOG.md", "book/assignments/README.md"])
def test_the_files_linked_are_there(name: str) -> None:
    document = ROOT / name
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))
    assert not [link for link in linked if not (document.parent / link).exists()]


def test_each_chapter_is_listed() -> None:
    chapters = {path.name for path in (ROOT / "book").glob("*.ipynb")}
    listed = set(re.findall(r"\(book/([a-z]+\.ipynb)\)", README))
    assert listed == chapters
