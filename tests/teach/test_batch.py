"""What is handed in, collected, marked again, exported and given back."""

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from companion.teach import __main__ as command
from companion.teach import batch, export, feedback, marking, masters, notebooks, submissions
from companion.teach.sandbox import Limits
from companion.teach.session import Zygote
from companion.teach.submissions import Submission
from teach.attacks import notebook

SMALL = """\
---
assignment:
  minutes: 90
  questions:
    double:
      minutes: 5
      objective: double a number
    own:
      minutes: 5
      objective: know your number
---

# Assignment

```{code-cell} ipython3
student_id = "s0"
```

```otter
# BEGIN QUESTION
name: double
points: [40, 30]
```

## Question 1

```otter
# BEGIN SOLUTION
```

```{code-cell} ipython3
def double(x):
    return 2 * x  # SOLUTION
```

```otter
# END SOLUTION
```

```otter
# BEGIN TESTS
```

```{code-cell} ipython3
# HIDDEN
def test_two(double):
    \"\"\"`double` of <two>.\"\"\"
    assert double(2) == 4
```

```{code-cell} ipython3
# HIDDEN
def test_half(double):
    \"\"\"And of a half.\"\"\"
    assert double(0.5) == 1
```

```otter
# END TESTS
```

```otter
# END QUESTION
```

```otter
# BEGIN QUESTION
name: own
points: [30]
```

## Question 2

```otter
# BEGIN SOLUTION
```

```{code-cell} ipython3
own = len(student_id)  # SOLUTION
```

```otter
# END SOLUTION
```

```otter
# BEGIN TESTS
```

```{code-cell} ipython3
# HIDDEN
def test_own(own, student_id):
    \"\"\"The length of your id.\"\"\"
    assert own == len(student_id)
```

```otter
# END TESTS
```

```otter
# END QUESTION
```
"""


@pytest.fixture
def small(tmp_path: Path) -> masters.Master:
    """A master that is marked in no time."""
    path = tmp_path / "backprop" / "master.md"
    path.parent.mkdir()
    path.write_text(SMALL, encoding="utf-8")
    return masters.read(path)


def cells(student_id: str, double: str = "2 * x", own: str = "len(student_id)") -> list[str]:
    return [f'student_id = "{student_id}"', f"def double(x):\n    return {double}", f"own = {own}"]


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def mark_all(
    small: masters.Master,
    source: Path,
    zygote: Zygote,
    roster: list[dict[str, str]] | None = None,
) -> batch.Outcome:
    table = small.path.parents[1] / "marks.csv"
    return batch.mark_all(small, source, table, zygote, jobs=2, limits=Limits(), roster=roster)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    (made / "right-s1.ipynb").write_bytes(notebook(cells("s1")))
    (made / "left-s0.ipynb").write_bytes(notebook(cells("s0")))
    (made / "half-s22.ipynb").write_bytes(notebook(cells("s22", double="4")))
    (made / "copied-s333.ipynb").write_bytes(notebook(cells("s1", own="2")))
    (made / "report.pdf").write_bytes(b"%PDF")
    return made


def test_there_is_one_row_a_submission(
    small: masters.Master, folder: Path, any_zygote: Zygote
) -> None:
    mark_all(small, folder, any_zygote)
    table = {row["file"]: row for row in rows(folder.parent / "marks.csv")}
    assert {file: (row["total"], row["double"], row["own"]) for file, row in table.items()} == {
        "right-s1.ipynb": ("100", "70", "30"),
        "left-s0.ipynb": ("100", "70", "30"),
        "half-s22.ipynb": ("70", "40", "30"),
        "copied-s333.ipynb": ("100", "70", "30"),
        "report.pdf": ("0", "0", "0"),
    }
    assert table["left-s0.ipynb"]["notes"] == "student_id was left as it was given"
    assert "own word" in table["copied-s333.ipynb"]["notes"]
    assert "2 files have this id" in table["right-s1.ipynb"]["notes"]
    assert "not a notebook" in table["report.pdf"]["notes"]


@pytest.mark.breaks(
    "companion/teach/marking.py",
    'student_id if name == "student_id" else session.answer(name)',
    "session.answer(name)",
)
def test_with_a_roster_a_borrowed_number_earns_nothing(
    small: masters.Master, folder: Path, any_zygote: Zygote
) -> None:
    roster = [{"student_id": name} for name in ("s1", "s22", "s333")]
    mark_all(small, folder, any_zygote, roster=roster)
    table = {row["student_id"]: row for row in rows(folder.parent / "marks.csv")}
    assert (table["s333"]["double"], table["s333"]["own"]) == ("70", "0")
    assert "declares the id 's1'" in table["s333"]["notes"]
    assert table["s1"]["total"] == "100"
    assert table["s1"]["notes"] == ""


def test_it_goes_on_where_it_was_interrupted(
    small: masters.Master, folder: Path, any_zygote: Zygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, seen = batch.mark_one, []

    def interrupt(master: masters.Master, submission: Submission, *more: object) -> dict[str, Any]:
        seen.append(submission.file)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return honest(master, submission, *more)

    monkeypatch.setattr(batch, "mark_one", interrupt)
    table = folder.parent / "marks.csv"
    with pytest.raises(KeyboardInterrupt):
        batch.mark_all(small, folder, table, any_zygote, jobs=1, limits=Limits())
    assert not table.exists()
    with table.with_suffix(".jsonl").open("a") as journal:
        journal.write('{"key": "cut o')
    monkeypatch.setattr(batch, "mark_one", honest)
    outcome = mark_all(small, folder, any_zygote)
    assert (len(outcome.records), outcome.resumed) == (5, 2)
    (folder / "right-s1.ipynb").write_bytes(notebook(cells("s1", double="0")))
    outcome = mark_all(small, folder, any_zygote)
    assert (len(outcome.records), outcome.resumed) == (5, 4)
    assert {row["file"]: row["total"] for row in rows(table)}["right-s1.ipynb"] == "30"
    small.path.write_text(SMALL.replace("== 1\n", "== 2\n").replace("2 * x", "4 if x > 1 else 2"))
    changed = masters.read(small.path)
    assert mark_all(changed, folder, any_zygote).resumed == 0


def test_what_could_not_be_marked_is_marked_the_next_time(
    small: masters.Master, folder: Path, any_zygote: Zygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = marking.mark

    def fail(master: masters.Master, code: list[str], student_id: str, *more: object) -> object:
        if student_id == "s22":
            raise OSError("the machine is out of order")
        return honest(master, code, student_id, *more)

    monkeypatch.setattr(marking, "mark", fail)
    mark_all(small, folder, any_zygote)
    (row,) = [row for row in rows(folder.parent / "marks.csv") if row["student_id"] == "s22"]
    assert "marking failed, mark it again: OSError: the machine is out of order" in row["notes"]
    monkeypatch.setattr(marking, "mark", honest)
    assert mark_all(small, folder, any_zygote).resumed == 4
    (row,) = [row for row in rows(folder.parent / "marks.csv") if row["student_id"] == "s22"]
    assert (row["total"], row["notes"]) == ("70", "")


def test_nothing_is_marked_unless_the_reference_gets_full_marks(
    small: masters.Master, folder: Path, any_zygote: Zygote
) -> None:
    small.path.write_text(SMALL.replace("== 4", "== 5"))
    with pytest.raises(batch.ReferenceFailsError, match=r"gets 60 points.*double.*<two>"):
        mark_all(masters.read(small.path), folder, any_zygote)
    assert not (folder.parent / "marks.csv").exists()


def test_duplicated_and_deleted_cells_and_magics_do_no_harm(
    small: masters.Master, any_zygote: Zygote
) -> None:
    twice = [cell for cell in cells("s1") for _ in range(2)]
    strange = ["%matplotlib inline", "!pip install torch", "%%bash\nrm -rf /", "double?", *twice]
    content = notebook([*strange, "1 / 0", "display(double)", "%%time\nown = 2"])
    code = notebooks.code_cells(content)
    marks = marking.mark(small, code, "s1", any_zygote, Limits())
    assert marks.total == 100
    assert [error for error in marks.errors if error] == ["ZeroDivisionError: division by zero"]
    deleted = marking.mark(small, code[:-3][-1:], "s1", any_zygote, Limits())
    assert deleted.of("double") == 0


@pytest.mark.breaks(
    "companion/teach/notebooks.py", "        if parses(source):\n            return source\n", ""
)
@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("x = 1", "x = 1"),
        ("%pip install x\nx = 1", "pass\nx = 1"),
        ("if True:\n    %pip install x", "if True:\n    pass"),
        ("files = !ls", "pass"),
        ("%%time\nx = 1", "x = 1"),
        ("%%bash\nls", ""),
        ("%%time\n%%capture\n%time x = 1", "pass"),
        (900 * "%%time\n" + "x = 1", ""),
        ("help?\nx = 1", "pass\nx = 1"),
        ("x = (5\n  % 3)", "x = (5\n  % 3)"),
        ('text = """\n%not magic\n"""', 'text = """\n%not magic\n"""'),
    ],
)
def test_only_what_jupyter_alone_understands_is_dropped(source: str, code: str) -> None:
    assert notebooks.without_magics(source) == code


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "source",
    ["(" + 300_000 * "\n", "(\n" + 300_000 * " " + "(", 900 * "%%time\n" + 20_000 * "(\n"],
    ids=["lines", "spaces", "magics"],
)
def test_a_cell_is_read_in_a_time_like_its_length(source: str) -> None:
    """Blank lines took a time like their square, while an honest neighbour's time ran out."""
    assert not notebooks.parses(notebooks.without_magics(source) or "(")


def test_the_last_declared_id_counts_and_only_text() -> None:
    assert (
        notebooks.declared_id(['student_id = "a"', 'student_id = " b "', "x = student_id"]) == "b"
    )
    assert notebooks.declared_id(["student_id = f()", "student_id == 'a'", "not ( python"]) is None
    assert notebooks.with_id(['x = 1\nstudent_id = "s0"'], "é\\") == ["x = 1\nstudent_id = 'é\\\\'"]


@pytest.mark.parametrize(
    ("file", "name", "lms_id"),
    [
        ("doejane_12345_67890_backprop-assignment.ipynb", "doejane", "12345"),
        ("doejane_LATE_12345_67890_backprop-assignment-1.ipynb", "doejane", "12345"),
        ("Jane Doe_6789_assignsubmission_file_/a.ipynb", "Jane Doe", "6789"),
        ("Jane Doe_6789_assignsubmission_file_a.ipynb", "Jane Doe", "6789"),
        ("backprop.ipynb", "", ""),
    ],
)
def test_names_that_an_lms_mangled_are_read(file: str, name: str, lms_id: str) -> None:
    assert Submission(file).sender == {"name": name, "lms_id": lms_id}


@pytest.mark.breaks(
    "companion/teach/submissions.py", 'student = row["student_id"]', "student = said"
)
def test_whose_it_is_does_not_rest_on_the_notebook_alone() -> None:
    roster = [{"student_id": "s1", "lms_id": "77"}, {"student_id": "s2", "lms_id": "88"}]
    canvas = Submission("doe_77_1_a.ipynb")
    assert submissions.whose(canvas, "s1", roster) == ("s1", "")
    assert submissions.whose(canvas, "s2", roster) == ("s1", "the notebook declares the id 's2'")
    assert submissions.whose(Submission("a-S2.ipynb"), "s2", roster) == ("s2", "")
    assert "own word" in submissions.whose(Submission("a.ipynb"), "s2", roster)[1]
    assert "neither" in submissions.whose(Submission("a.ipynb"), "s3", roster)[1]
    assert submissions.whose(Submission("a-s2.ipynb"), "s2", None) == ("s2", "")


def test_a_folder_and_its_zip_are_the_same_submissions(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in sorted(folder.iterdir(), reverse=True):
            archive.write(path, path.name)
    assert submissions.collect(tmp_path / "in.zip") == submissions.collect(folder)
    with pytest.raises(submissions.CannotCollectError, match="neither a folder nor a zip"):
        submissions.collect(folder / "report.pdf")


@pytest.mark.breaks(
    "companion/teach/export.py",
    'float(row["total"]) > float(best',
    'float(row["total"]) < float(best',
)
def test_exports_have_the_columns_of_each_lms(
    small: masters.Master, tmp_path: Path, any_zygote: Zygote
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out.csv"
    folder.mkdir()
    for name, double in (("doe_77_1_a", "0"), ("doe_77_2_b", "2 * x"), ("=roe_88_3_a", "4")):
        (folder / f"{name}.ipynb").write_bytes(notebook(cells(f"s{name[-5]}", double=double)))
    mark_all(small, folder, any_zygote)
    marks = tmp_path / "marks.csv"
    assert export.export(marks, "canvas", out, {}, "Homework 1 (12)") == 2
    assert rows(out) == [
        {"Student": "'=roe", "ID": "88", "SIS User ID": "s8", "Homework 1 (12)": "70"},
        {"Student": "doe", "ID": "77", "SIS User ID": "s7", "Homework 1 (12)": "100"},
    ]
    export.export(marks, "moodle", out, {"Q1": "double"}, "Homework")
    assert list(rows(out)[0]) == ["ID number", "Full name", "Homework", "Q1"]
    export.export(marks, "plain", out, {}, "")
    assert list(rows(out)[0]) == list(rows(marks)[0])
    with pytest.raises(export.CannotExportError, match="no column grade; it has"):
        export.export(marks, "plain", out, {"Grade": "grade"}, "")


@pytest.mark.breaks(
    "companion/teach/feedback.py", "<pre>{escape(error)}</pre>", "<pre>{error}</pre>"
)
def test_feedback_says_what_was_asked_and_nothing_of_the_tests(
    small: masters.Master, folder: Path, any_zygote: Zygote
) -> None:
    evil = cells("</title><script>alert(1)</script>", double="1 / 0")
    (folder / "..evil <b>.ipynb").write_bytes(notebook([*evil, "raise ValueError('<i>')"]))
    mark_all(small, folder, any_zygote)
    pages = feedback.write_all(small, folder.parent / "marks.csv", folder.parent / "pages")
    assert len(pages) == 6
    text = {path.name: path.read_text(encoding="utf-8") for path in pages}
    assert all("assert" not in page and "test_" not in page for page in text.values())
    (half,) = [page for name, page in text.items() if name.endswith("s22.html")]
    page = BeautifulSoup(half, "html.parser")
    assert page.html["lang"] == "en"
    assert page.find("meta", {"name": "color-scheme"})["content"] == "light dark"
    assert len(page.find_all("h1")) == 1
    assert all(head["scope"] == "col" for head in page.find_all("th"))
    assert "70 of 100 points" in page.get_text()
    assert "double of <two>." in page.get_text()
    assert "not what is asked for" in page.get_text()
    bad = next(page for page in text.values() if "ZeroDivisionError" in page)
    assert "<script" not in bad
    assert "ValueError: &lt;i&gt;" in bad


def test_the_commands_say_what_is_wrong(
    small: masters.Master, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["mark", str(tmp_path), "-a", "nowhere"]) == 2
    assert "neither a master nor one of the chapters ['" in capsys.readouterr().err
    roster = tmp_path / "roster.csv"
    roster.write_text("name\nJane\n")
    arguments = ["mark", str(tmp_path), "-a", str(small.path), "--roster", str(roster)]
    assert command.main(arguments) == 2
    assert "needs a column student_id" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("points: [40, 30]", "points: [40]", "test 2 of question 'double' has no points"),
        ("points: [30]", "points: [30, 1]", "'own' has 1 tests and points for 2"),
        ("points: [30]", "points: [20]", "90 points together, not 100"),
        ("points: [30]", "points: 30", "needs `points:` with a list"),
        ("# HIDDEN\ndef test_two", "def test_two", "must begin with the line `# HIDDEN`"),
        ('    """And of a half."""\n', "", "needs a docstring"),
        ("    own:\n", "    ours:\n", "question 'own' needs"),
        (
            "# END QUESTION\n```\n\n```otter\n# BEGIN QUESTION\nname: own",
            "# ENDE",
            "none of the lines",
        ),
        ("  minutes: 90\n  questions", "  questions", "the header needs"),
    ],
)
def test_a_master_of_the_wrong_form_is_explained(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in SMALL
    path = tmp_path / "master.md"
    path.write_text(SMALL.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(masters.MasterError, match=message.replace("[", r"\[").replace("(", r"\(")):
        masters.read(path)


@pytest.mark.breaks(
    "companion/teach/batch.py", 'if record.get("basis") == self.basis:', "if record:"
)
@pytest.mark.breaks(
    "companion/teach/batch.py",
    ' else "\\n") + json.dumps(record)',
    ' else "") + json.dumps(record)',
)
def test_a_broken_journal_line_is_marked_again(tmp_path: Path) -> None:
    journal = batch.Journal(tmp_path / "j.jsonl", "basis")
    journal.add(Submission("a.ipynb", b"1"), {"file": "a.ipynb"})
    with journal.path.open("a") as file:
        file.write('{"half')
    again = batch.Journal(journal.path, "basis")
    again.add(Submission("b.ipynb", b"2"), {"file": "b.ipynb"})
    last = batch.Journal(journal.path, "basis")
    assert last.get(Submission("a.ipynb", b"1"))["file"] == "a.ipynb"
    assert last.get(Submission("b.ipynb", b"2"))["file"] == "b.ipynb"
    assert last.get(Submission("a.ipynb", b"other")) is None
    assert batch.Journal(journal.path, "other").get(Submission("a.ipynb", b"1")) is None
    assert json.loads(journal.path.read_text().splitlines()[0])["file"] == "a.ipynb"
