"""One page a student: what each question earned and why, and nothing of the tests."""

import csv
import json
import re
from html import escape
from pathlib import Path
from typing import Any

from companion.teach import batch
from companion.teach.masters import Master

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ max-width: 44rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif;
  color: CanvasText; background: Canvas; }}
table {{ width: 100%; border-collapse: collapse; margin: 0.5rem 0 1.5rem; }}
th, td {{ text-align: left; vertical-align: top; padding: 0.35rem 0.5rem;
  border-bottom: 1px solid GrayText; }}
td.points {{ white-space: nowrap; font-variant-numeric: tabular-nums; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p><strong>{total:g} of {most:g} points</strong> for {who}</p>
{body}
</main>
</body>
</html>
"""


def write_all(master: Master, marks: Path, out: Path) -> list[Path]:
    """Write the pages of all submissions that the marks have a row for; return where they are.

    Args:
        master: the assignment.
        marks: the table that ``mark`` wrote, beside its journal.
        out: the folder to write into.

    """
    out.mkdir(parents=True, exist_ok=True)
    with marks.open(encoding="utf-8", newline="") as file:
        listed = {row["file"] for row in csv.DictReader(file)}
    records: dict[str, dict[str, Any]] = {}
    for line in marks.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if batch.safe_text(record["file"]) in listed:
            records[record["file"]] = record  # the last one of a file counts
    pages = []
    for number, record in enumerate(records.values(), 1):
        pages.append(out / f"{number:03}-{_plain_name(record)}.html")
        pages[-1].write_text(page(master, record), encoding="utf-8")
    return pages


def _plain_name(record: dict[str, Any]) -> str:
    """Return a file name of letters, digits and hyphens, whatever the submission was called."""
    name = record["student_id"] or Path(record["file"]).stem
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "nobody"


def page(master: Master, record: dict[str, Any]) -> str:
    """Return a submission's page."""
    total = sum(line["points"] for line in record["lines"])
    most = sum(question.most for question in master.questions.values())
    parts = [_question(master, name, record) for name in master.questions]
    parts += _failed_cells(record)
    if record["notes"]:
        notes = "".join(f"<li>{escape(note)}</li>" for note in record["notes"])
        parts.append(f"<h2>Notes</h2>\n<ul>{notes}</ul>")
    return PAGE.format(
        title=f"Assignment: {escape(master.chapter)}",
        total=total,
        most=most,
        who=escape(record["student_id"] or record["file"]),
        body="\n".join(parts),
    )


def _question(master: Master, name: str, record: dict[str, Any]) -> str:
    """Return a question's table: what was asked for, what it earned, and what was amiss."""
    number = list(master.questions).index(name) + 1
    rows = []
    for line in [line for line in record["lines"] if line["question"] == name]:
        said = "✓ right" if not line["reason"] else f"✗ {escape(line['reason'])}"
        rows.append(
            f"<tr><td>{_code(line['rubric'])}</td><td>{said}</td>"
            f'<td class="points">{line["points"]:g} of {line["most"]:g}</td></tr>'
        )
    head = '<tr><th scope="col">Asked for</th><th scope="col">Found</th><th scope="col">Points</th>'
    return (
        f"<h2>Question {number}: {escape(name)}</h2>\n"
        f"<p>You show that you can {escape(master.questions[name].objective)}.</p>\n"
        f"<table><thead>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _code(text: str) -> str:
    """Return a line of a rubric with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _failed_cells(record: dict[str, Any]) -> list[str]:
    """Return what the notebook's own cells raised."""
    failed = [(i, error) for i, error in enumerate(record["errors"], 1) if error]
    if not failed:
        return []
    items = "".join(f"<li>Code cell {i}: <pre>{escape(error)}</pre></li>" for i, error in failed)
    return [f"<h2>Cells that failed</h2>\n<ul>{items}</ul>"]
