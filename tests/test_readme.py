"""The README's promises that can be tried: its example runs, and its targets exist."""

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


def test_the_targets_named_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", README)) | set(
        re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE)
    )
    assert named, "the README names no target"
    assert named <= targets


def test_each_chapter_is_listed() -> None:
    chapters = {path.name for path in (ROOT / "book").glob("*.ipynb")}
    listed = set(re.findall(r"\(book/([a-z]+\.ipynb)\)", README))
    assert listed == chapters
