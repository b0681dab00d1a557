"""The marks as a learning management system takes them."""

import csv
from collections.abc import Mapping
from pathlib import Path

# What the columns of an LMS hold, in the words of the table that `mark` writes.
PRESETS = {
    "canvas": {"Student": "name", "ID": "lms_id", "SIS User ID": "student_id", "{title}": "total"},
    "moodle": {"ID number": "student_id", "Full name": "name", "{title}": "total"},
}


class CannotExportError(Exception):
    """The marks cannot be exported as asked; the message says why."""


def export(marks: Path, preset: str, out: Path, extra: Mapping[str, str], title: str) -> int:
    """Write a table for an LMS, with the best of each student's submissions.

    Args:
        marks: the table that ``mark`` wrote.
        preset: ``canvas``, ``moodle``, or ``plain`` for no columns but the extra ones, or if there
            are none for those of the marks.
        out: where to write.
        extra: names of further columns, and from which of the marks' columns each comes.
        title: what the LMS calls the assignment.

    Returns:
        How many students there are.

    Raises:
        CannotExportError: if a column of the marks is not there, or a submission is nobody's.

    """
    with marks.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    known = list(rows[0]) if rows else []
    columns = {name.format(title=title): field for name, field in PRESETS.get(preset, {}).items()}
    columns |= extra
    columns = columns or {field: field for field in known}
    if missing := [field for field in columns.values() if field not in known]:
        raise CannotExportError(f"{marks} has no column {', '.join(missing)}; it has {known}")
    best = _best(rows, "lms_id" if preset == "canvas" else "student_id")
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in best:
            writer.writerow([row[field] for field in columns.values()])
    return len(best)


def _best(rows: list[dict[str, str]], key: str) -> list[dict[str, str]]:
    """Return one row a student, the best of several."""
    best: dict[str, dict[str, str]] = {}
    for row in rows:
        student = row[key] or row["student_id"]
        if not student:
            raise CannotExportError(
                f"the submission {row['file']} is nobody's: write its student_id into the marks, "
                "or delete its row"
            )
        if student not in best or float(row["total"]) > float(best[student]["total"]):
            best[student] = row
    return list(best.values())
