"""Marking a whole class: in parallel, one row a submission, and again from where it was left."""

import csv
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, cast

from tqdm import tqdm

from companion.teach import marking, notebooks, submissions
from companion.teach.masters import Master
from companion.teach.sandbox import Limits
from companion.teach.session import Zygote
from companion.teach.submissions import Submission

REFERENCE_ID = "reference"


class ReferenceFailsError(Exception):
    """The reference solution does not get full marks, so nothing else may be marked."""


class Outcome(NamedTuple):
    """What a batch gave.

    Attributes:
        records: one for each submission, as the journal has them.
        resumed: how many of them were there already.
        seconds: that this run took.

    """

    records: list[dict[str, Any]]
    resumed: int
    seconds: float


def mark_all(
    master: Master,
    source: Path,
    table: Path,
    zygote: Zygote,
    *,
    jobs: int,
    limits: Limits,
    roster: list[dict[str, str]] | None = None,
) -> Outcome:
    """Mark what a folder or zip holds, and write a table with one row a submission.

    Beside the table a journal, with the ending ``.jsonl``, keeps every submission's marks as soon
    as they are known. Submissions that it has, unchanged, are not marked again.

    Args:
        master: whose tests to use.
        source: the folder or zip.
        table: the CSV to write.
        zygote: what forks the submissions.
        jobs: how many to mark at a time.
        limits: for each submission.
        roster: rows with ``student_id``, and ``lms_id`` where the LMS has one.

    Raises:
        ReferenceFailsError: if the reference solution does not get full marks.
        NoSandboxError: if no sandbox can be made and the zygote insists on one.
        CannotCollectError: if there is nothing to mark.

    """
    start = time.monotonic()
    found = submissions.collect(source)
    journal = Journal(table.with_suffix(".jsonl"), f"{master.digest} {list(limits)} {roster}")
    todo = [one for one in found if (journal.get(one) or {"failed": True})["failed"]]
    resumed = len(found) - len(todo)
    if todo:
        zygote.wait()
        check_reference(master, zygote, limits)
        for submission, record in _each(master, todo, zygote, jobs, limits, roster):
            journal.add(submission, record)
    # Each has one by now.
    records = cast("list[dict[str, Any]]", [journal.get(submission) for submission in found])
    _note_doubles(records)
    write_table(table, master, records)
    return Outcome(records, resumed, time.monotonic() - start)


def check_reference(master: Master, zygote: Zygote, limits: Limits) -> None:
    """Raise :class:`ReferenceFailsError` unless the reference solution gets full marks."""
    cells = notebooks.with_id(master.reference(), REFERENCE_ID)
    marks = marking.mark(master, cells, REFERENCE_ID, zygote, limits)
    lost = [
        f"{line.question}: {line.rubric} ({line.reason})" for line in marks.lines if line.reason
    ]
    if lost:
        errors = [error for error in marks.errors if error]
        raise ReferenceFailsError(
            f"the reference solution gets {marks.total:g} points, so nothing is marked. "
            f"Lost: {'; '.join(lost)}. Its cells raised: {errors}. It ended: {marks.end}"
        )


def _each(
    master: Master,
    todo: list[Submission],
    zygote: Zygote,
    jobs: int,
    limits: Limits,
    roster: list[dict[str, str]] | None,
) -> Iterator[tuple[Submission, dict[str, Any]]]:
    """Mark in parallel; yield each as it is done, and start no more after an interruption."""
    waiting = iter(todo)
    running: dict[Future[dict[str, Any]], Submission] = {}
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(todo), desc="marking") as bar:
        while True:
            while len(running) < jobs and (submission := next(waiting, None)) is not None:
                future = pool.submit(mark_one, master, submission, zygote, limits, roster)
                running[future] = submission
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                bar.update()
                yield running.pop(future), future.result()


def mark_one(
    master: Master,
    submission: Submission,
    zygote: Zygote,
    limits: Limits,
    roster: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """Return a submission's record, whatever happens in it."""
    start = time.monotonic()
    record: dict[str, Any] = {
        "file": submission.file,
        **submission.sender,
        "student_id": "",
        "notes": [submission.problem] if submission.problem else [],
        "lines": [],
        "errors": [],
        "peak": 0,
        "failed": False,
    }
    if not submission.problem:
        try:
            cells = notebooks.code_cells(submission.content)
            _fill(record, master, submission, cells, zygote, limits, roster)
        except notebooks.NotANotebookError as error:
            record["notes"].append(str(error))
        except Exception as error:  # also of a sandbox, which the reference had
            record["failed"] = True
            record["notes"].append(
                f"marking failed, mark it again: {type(error).__name__}: {error}"
            )
    record["seconds"] = round(time.monotonic() - start, 2)
    return record


def _fill(
    record: dict[str, Any],
    master: Master,
    submission: Submission,
    cells: list[str],
    zygote: Zygote,
    limits: Limits,
    roster: list[dict[str, str]] | None,
) -> None:
    declared = notebooks.declared_id(cells)
    record["student_id"], note = submissions.whose(submission, declared, roster)
    if declared is not None and declared == notebooks.declared_id(master.reference()):
        record["notes"].append("student_id was left as it was given")
    marks = marking.mark(master, cells, record["student_id"], zygote, limits)
    if marks.end == "lost":
        raise RuntimeError("the process that watched it is gone")
    record["lines"] = [line._asdict() for line in marks.lines]
    record["errors"], record["peak"] = marks.errors, marks.peak
    stopped = {
        "time": f"stopped after {limits.seconds:g} s",
        "memory": f"stopped at {limits.megabytes} MB of memory",
        "ended": "it ended its own processes",
    }
    record["notes"] += [text for text in (note, stopped.get(marks.end, "")) if text]


def _note_doubles(records: list[dict[str, Any]]) -> None:
    """Say where several files have one student's id."""
    times = Counter(record["student_id"].lower() for record in records if record["student_id"])
    for record in records:
        if times[record["student_id"].lower()] > 1:
            note = f"{times[record['student_id'].lower()]} files have this id"
            record["notes"] = [*record["notes"], note]


class Journal:
    """What has been marked, kept line by line so that an interruption loses nothing.

    Args:
        path: of the file, which is made when the first record comes.
        basis: what the marks rest on besides the submissions; records of another basis are ignored.

    """

    def __init__(self, path: Path, basis: str) -> None:
        self.path = path
        self.basis = hashlib.sha256(basis.encode()).hexdigest()
        self._records: dict[str, dict[str, Any]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            return  # the line that was being written when it was interrupted
        if record.get("basis") == self.basis:
            self._records[record["key"]] = record

    @staticmethod
    def _key(submission: Submission) -> str:
        content = hashlib.sha256(submission.content).hexdigest()
        return f"{submission.file} {content} {submission.problem}"

    def get(self, submission: Submission) -> dict[str, Any] | None:
        """Return a submission's record, or None if it has none."""
        return self._records.get(self._key(submission))

    def add(self, submission: Submission, record: dict[str, Any]) -> None:
        """Keep a record, also if the machine stops in the next moment."""
        key = self._key(submission)
        record = {"key": key, "basis": self.basis, **record}
        ends_cleanly = not self.path.is_file() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if ends_cleanly else "\n") + json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._records[key] = record


def points(record: dict[str, Any], question: str | None = None) -> float:
    """Return a record's points for a question, or for all."""
    lines = record["lines"]
    return sum(line["points"] for line in lines if question in (None, line["question"]))


def write_table(table: Path, master: Master, records: list[dict[str, Any]]) -> None:
    """Write one row a submission: whose it is, its points, how it ran, and what to look at."""
    questions = list(master.questions)
    columns = ["file", "student_id", "name", "lms_id", "total", *questions]
    columns += ["seconds", "peak_mb", "cells_failed", "notes"]
    unfinished = table.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for record in records:
            kept = {key: safe_text(record[key]) for key in ("file", "student_id", "name", "lms_id")}
            row: dict[str, Any] = kept | {
                question: f"{points(record, question):g}" for question in questions
            }
            row |= {
                "total": f"{points(record):g}",
                "seconds": record["seconds"],
                "peak_mb": round(record["peak"] / 2**20),
                "cells_failed": sum(error is not None for error in record["errors"]),
                "notes": safe_text("; ".join(record["notes"])),
            }
            writer.writerow(row)
    unfinished.replace(table)


def safe_text(text: str) -> str:
    """Return text that a spreadsheet does not take for a formula."""
    text = " ".join(text.split())
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
