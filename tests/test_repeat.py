"""Chapters repeated with fresh draws: what is kept, what is run again, and what a cluster does."""

import json
import subprocess
from pathlib import Path

import nbformat
import pytest
import repeat
from chapters import read
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from repeat import Job, Row

SETUP = """
from companion.data import normal
from companion.verdict import check
drawn = normal(4, seed=0)
"""
USUAL = 'check("A2", {"small": abs(first) < 9, "usual": round(first, 4) == 0.7684})'


def check_cell(claim: str, source: str, *opposites: str) -> nbformat.NotebookNode:
    data = {"check": {"claim": claim, "opposites": list(opposites)}}
    return new_code_cell(source, metadata=data)


def cells() -> list[nbformat.NotebookNode]:
    """A chapter's cells, with a check of any four numbers and one of what seed 0 draws."""
    return [
        new_markdown_cell("# Draws"),
        new_code_cell('# installs\nfrom importlib.util import find_spec\nfind_spec("companion")'),
        new_code_cell(SETUP),
        check_cell("A1", 'check("A1", {"four": len(drawn) == 4})', "drawn = drawn[:3]"),
        new_code_cell("first = drawn[0].item()  # of four"),
        check_cell("A2", f"bound = 9\n{USUAL}", "first = 7.0", "first = 10 * first"),
        new_code_cell("raise SystemError('behind the last check')"),
    ]


def written(path: Path, cells: list[nbformat.NotebookNode]) -> Path:
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.fixture
def chapter(tmp_path: Path) -> Path:
    return written(tmp_path / "draws.ipynb", cells())


# ---------------------------------------------------------------- one repetition


def test_a_repetition_draws_anew_and_stops_behind_the_last_check(chapter: Path) -> None:
    stored, fresh = repeat.run(chapter, None), repeat.run(chapter, 7)
    assert [(row["of"], row["failed"]) for row in stored.values()] == [(1, []), (2, [])]
    assert [(row["of"], row["failed"]) for row in fresh.values()] == [(1, []), (2, ["usual"])]
    assert repeat.run(chapter, 7) == fresh
    assert {claim: row["code"] for claim, row in fresh.items()} == {
        claim: check.code for claim, check in repeat.checks(read(chapter)).items()
    }


def test_a_clause_that_no_opposite_fails_is_named(chapter: Path) -> None:
    found = repeat.run(chapter, None, opposites=True)
    assert found["A1"]["unnoticed"] == []
    assert found["A2"]["unnoticed"] == ["small"]
    assert found["A2"]["failed"] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("S2: 3 of 3 clauses hold", ("S2", 3, [])),
        ("S2: 1 of 3 clauses hold\n  not: one\n  not: two", ("S2", 3, ["one", "two"])),
    ],
)
def test_what_a_check_prints_is_read(text: str, expected: tuple[str, int, list[str]]) -> None:
    assert repeat.said(text) == expected


@pytest.mark.parametrize("text", ["", "True", "S2: all clauses hold"])
def test_a_check_that_prints_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not how many clauses hold"):
        repeat.said(text)


# ---------------------------------------------------------------- what makes a check another one


def codes(path: Path, changed: list[nbformat.NotebookNode]) -> dict[str, str]:
    return {
        claim: check.code for claim, check in repeat.checks(read(written(path, changed))).items()
    }


@pytest.mark.parametrize(
    ("cell", "old", "new", "other"),
    [
        (0, "Draws", "Other draws", set()),
        (1, "# installs", "# installs 0.3.0", set()),
        (4, "# of four", "# of them", set()),
        (6, "behind", "after", set()),
        (4, "drawn[0]", "drawn[1]", {"A2"}),
        (2, "seed=0", "seed=1", {"A1", "A2"}),
        (3, "== 4", "> 3", {"A1"}),
        (5, "< 9", "< 8", {"A2"}),
    ],
)
def test_a_check_is_another_one_when_its_code_or_that_before_it_is(
    cell: int, old: str, new: str, other: set[str], tmp_path: Path
) -> None:
    before, changed = codes(tmp_path / "one.ipynb", cells()), cells()
    assert old in changed[cell].source
    changed[cell].source = changed[cell].source.replace(old, new)
    after = codes(tmp_path / "two.ipynb", changed)
    assert {claim for claim in before if before[claim] != after[claim]} == other


# ---------------------------------------------------------------- many of them


def answers(number: int, chapter: Path, **failed: list[str]) -> Row:
    """What a repetition of the chapter would say."""
    known = repeat.checks(read(chapter))
    return {
        "number": number,
        "commit": f"c{number}",
        "claims": {
            claim: {"code": check.code, "of": 2, "failed": failed.get(claim, [])}
            for claim, check in known.items()
        },
    }


def keep(folder: Path, *found: Row) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in found)
    (folder / "draws.jsonl").write_text(lines, encoding="utf-8")


def test_what_was_interrupted_goes_on_where_it_was(chapter: Path, tmp_path: Path) -> None:
    old = answers(3, chapter)
    old["claims"]["A1"]["code"] = "before it was changed"
    keep(tmp_path, answers(1, chapter), old)
    with (tmp_path / "draws.jsonl").open("a") as file:
        file.write('{"number": 4, "cla')  # cut off
    assert repeat.missing(chapter, [1, 2, 3, 4], {}, tmp_path) == [
        Job(str(chapter), number) for number in (2, 3, 4)
    ]


def test_one_that_dies_is_tried_again_and_the_others_are_kept(
    chapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def work(job: Job) -> tuple[Job, Row | None, str]:
        tried.append(job.number)
        dies = (job.number == 2 and tried.count(2) == 1) or job.number == 3
        return job, None if dies else answers(job.number, chapter), "killed" if dies else ""

    monkeypatch.setattr(repeat, "work", work)
    jobs = repeat.missing(chapter, [1, 2, 3], {}, tmp_path / "kept")
    failed = repeat.repeat(jobs, tmp_path / "kept")
    assert failed == {Job(str(chapter), 3): "killed"}
    assert sorted(tried) == [1, 2, 2, 3, 3, 3]
    assert sorted(row["number"] for row in repeat.rows("draws", tmp_path / "kept")) == [1, 2]


def test_a_row_behind_one_that_was_cut_off_is_kept(chapter: Path, tmp_path: Path) -> None:
    (tmp_path / "draws.jsonl").write_text('{"number": 4, "cla', encoding="utf-8")
    repeat.keep(tmp_path / "draws.jsonl", answers(1, chapter))
    repeat.keep(tmp_path / "draws.jsonl", answers(2, chapter))
    assert [row["number"] for row in repeat.rows("draws", tmp_path)] == [1, 2]


def test_what_the_table_has_is_not_run_again(chapter: Path, tmp_path: Path) -> None:
    keep(tmp_path, answers(1, chapter), answers(2, chapter))
    found = repeat.merged({}, chapter, tmp_path)
    assert repeat.missing(chapter, [1, 2, 3], found, tmp_path / "gone") == [Job(str(chapter), 3)]
    found["A1"]["code"] = "old"
    assert len(repeat.missing(chapter, [1, 2, 3], found, tmp_path / "gone")) == 3


def test_a_chapter_that_stops_has_failed_in_what_it_did_not_come_to(tmp_path: Path) -> None:
    stopping = cells()
    stopping[4].source = "first = drawn[7]"
    found = repeat.run(written(tmp_path / "stops.ipynb", stopping), 1, opposites=True)
    assert found["A1"]["failed"] == []
    (why,) = found["A2"]["failed"]
    assert why.startswith("the chapter stopped at cell 4: IndexError")


@pytest.mark.parametrize("printed", ["", "a warning\n", '{"number": 1'])
def test_a_process_that_prints_no_row_says_so(
    printed: str, chapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], 0, stdout=printed, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    _, row, reason = repeat.work(Job(str(chapter), 1))
    assert row is None
    assert "it printed" in reason


def test_a_process_that_ends_badly_says_why(tmp_path: Path) -> None:
    job, row, reason = repeat.work(Job(str(tmp_path / "none.ipynb"), 1))
    assert (job.number, row) == (1, None)
    assert "none.ipynb" in reason


# ---------------------------------------------------------------- the table


def test_the_table_grows_while_a_check_stays_as_it_is(chapter: Path, tmp_path: Path) -> None:
    keep(tmp_path, answers(1, chapter), answers(2, chapter, A2=["usual"]))
    first = repeat.merged({"B1": {"code": "kept"}}, chapter, tmp_path)
    assert first["B1"] == {"code": "kept"}
    assert first["A1"] | {"code": ""} == {
        "code": "",
        "commit": "c2",
        "numbers": [1, 2],
        "failed": {},
    }
    assert first["A2"]["failed"] == {2: ["usual"]}
    repeat.write(first, tmp_path / "table.yml")
    assert repeat.table(tmp_path / "table.yml") == first
    # Another clone, which has the table but not what it was made from.
    keep(tmp_path, answers(3, chapter, A2=["small", "usual"]))
    second = repeat.merged(repeat.table(tmp_path / "table.yml"), chapter, tmp_path)
    assert second["A2"]["numbers"] == [1, 2, 3]
    assert second["A2"]["failed"] == {2: ["usual"], 3: ["small", "usual"]}


def test_a_reworded_check_begins_anew(chapter: Path, tmp_path: Path) -> None:
    keep(tmp_path, answers(1, chapter, A2=["usual"]))
    before = repeat.merged({}, chapter, tmp_path)
    changed = cells()
    changed[5].source = changed[5].source.replace("usual", "as ever")
    written(chapter, changed)
    assert repeat.merged(before, chapter, tmp_path)["A2"] == before["A2"]  # until it was repeated
    keep(tmp_path, answers(1, chapter, A2=["usual"]), answers(21, chapter))
    after = repeat.merged(before, chapter, tmp_path)
    assert (after["A2"]["numbers"], after["A2"]["failed"]) == ([1, 21], {1: ["usual"]})


@pytest.fixture
def elsewhere(chapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Row]:
    """The table of a chapter, below which the companion has changed since."""
    keep(tmp_path, answers(1, chapter, A2=["usual"]), answers(2, chapter, A2=["usual"]))
    found = repeat.merged({}, chapter, tmp_path)
    for row in found.values():
        row["code"] = row["code"].partition("-")[0] + "-other"
    return found


def test_what_a_repetition_confirms_is_carried_over(
    chapter: Path, elsewhere: dict[str, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def work(job: Job) -> tuple[Job, Row, str]:
        ran.append(job.number)
        return job, answers(job.number, chapter, A1=["four"], A2=["usual"]), ""

    monkeypatch.setattr(repeat, "work", work)
    elsewhere["A1"]["numbers"] = [1]  # the only one that both have
    assert repeat.outdated(chapter, elsewhere) == ["A1", "A2"]
    assert repeat.again(chapter, elsewhere) == ["draws, A1, repetition 1: failed [], now ['four']"]
    assert ran == [1]
    assert repeat.outdated(chapter, elsewhere) == ["A1"]
    assert elsewhere["A2"]["failed"] == {1: ["usual"], 2: ["usual"]}


def test_a_check_that_is_another_one_is_not_carried_over(
    chapter: Path, elsewhere: dict[str, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeat, "work", lambda _: pytest.fail("nothing is to be confirmed"))
    for row in elsewhere.values():
        row["code"] = "other-" + row["code"].partition("-")[2]
    assert repeat.again(chapter, elsewhere) == []
    assert all(row["code"].startswith("other-") for row in elsewhere.values())


def test_without_a_row_nothing_is_carried_over(
    chapter: Path, elsewhere: dict[str, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeat, "work", lambda job: (job, None, "killed"))
    (line,) = repeat.again(chapter, elsewhere)
    assert "killed" in line
    assert repeat.outdated(chapter, elsewhere) == ["A1", "A2"]


def test_without_a_common_number_each_is_confirmed_by_one_of_its_own(
    chapter: Path, elsewhere: dict[str, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def work(job: Job) -> tuple[Job, Row, str]:
        ran.append(job.number)
        # What it says of a claim that has not this number is passed over.
        row = answers(job.number, chapter, A1=[] if job.number == 7 else ["four"])
        return job, row, ""

    monkeypatch.setattr(repeat, "work", work)
    elsewhere["A1"] |= {"numbers": [7], "failed": {}}
    elsewhere["A2"] |= {"numbers": [1], "failed": {}}
    assert repeat.again(chapter, elsewhere) == []
    assert sorted(ran) == [1, 7]
    assert repeat.outdated(chapter, elsewhere) == []


# ---------------------------------------------------------------- here and on a cluster


@pytest.fixture
def book(chapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book of this chapter alone, in place of the course's."""
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: draws\n")
    for name in ("table", "write"):
        monkeypatch.setattr(repeat, name, bound(getattr(repeat, name), tmp_path / "table.yml"))
    for name in ("missing", "merged", "repeat"):
        monkeypatch.setattr(repeat, name, bound(getattr(repeat, name), tmp_path / "kept"))
    monkeypatch.setattr(repeat, "chapter_files", lambda: [chapter])
    return tmp_path


def bound(function: object, last: Path) -> object:
    """Return a function whose last argument, a path, is given."""
    return lambda *arguments: function(*arguments, last)  # type: ignore[operator]


def test_the_command_repeats_and_keeps(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert repeat.main(["--times", "2"]) == 0
    found = repeat.table()
    assert found["A1"]["numbers"] == [1, 2]
    assert found["A2"]["failed"] == {1: ["usual"], 2: ["usual"]}
    assert repeat.main(["--times", "1", "--first", "2", "draws"]) == 0
    assert repeat.table() == found
    assert capsys.readouterr().out.splitlines()[:4] == [
        "draws, A1: held in 2 of 2",
        "draws, A2: held in 0 of 2",
        "  1, not: usual",
        "  2, not: usual",
    ]


def test_what_was_not_repeated_as_it_is_now_is_said(chapter: Path) -> None:
    row = {"code": "old", "commit": "c1", "numbers": [1], "failed": {}}
    assert repeat.told(chapter, {"A1": row}) == [
        "draws, A1: not repeated as it is now",
        "draws, A2: not repeated as it is now",
    ]


def test_a_cluster_makes_the_same_table(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra cluster")
    assert repeat.main(["--times", "2"]) == 0
    here = repeat.table()
    for made in ("table.yml", "kept/draws.jsonl"):
        (book / made).unlink()
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER", cluster.scheduler_address)
        assert repeat.main(["--times", "2"]) == 0
    assert repeat.table() == here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "no such chapter: nosuch; there are: symptoms"),
        (["--times", "0"], "TIMES is at least 1"),
        (["--first", "-1"], "FROM at least 0"),
    ],
)
def test_what_it_cannot_do_is_said(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        repeat.main(arguments)
    assert message in capsys.readouterr().err
