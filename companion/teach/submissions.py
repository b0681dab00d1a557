"""What was handed in: notebooks from a folder or from an LMS's zip, and whose they are.

Nothing is unpacked to the disk, so no name in a zip can lead anywhere.
"""

import csv
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

LARGEST = 20 * 2**20  # bytes of one notebook
MOST_FILES = 5000
CANVAS = re.compile(r"^(?P<name>[^_]+)_(?:LATE_)?(?P<lms_id>\d+)_\d+_(?P<file>.+)$")
MOODLE = re.compile(r"^(?P<name>.+?)_(?P<lms_id>\d+)_assignsubmission_file_?(?P<file>.*)$")
NOT_HANDED_IN = ("__MACOSX", ".ipynb_checkpoints", ".DS_Store")


class CannotCollectError(Exception):
    """What is to be marked cannot be opened; the message says why."""


@dataclass(frozen=True)
class Submission:
    """One file that was handed in.

    Attributes:
        file: its name in the folder or the zip.
        content: its bytes.
        problem: why it cannot be marked, or nothing.

    """

    file: str
    content: bytes = b""
    problem: str = ""

    @property
    def sender(self) -> dict[str, str]:
        """The name and the id that Canvas or Moodle wrote into the file's name, if it did."""
        for part in reversed(PurePosixPath(self.file).parts):
            for form in (MOODLE, CANVAS):
                if found := form.match(part):
                    return {"name": found["name"], "lms_id": found["lms_id"]}
        return {"name": "", "lms_id": ""}

    def names(self, student_id: str) -> bool:
        """Return whether a student's id is in the file's name, as a word of its own."""
        word = rf"(?<![a-z0-9]){re.escape(student_id.lower())}(?![a-z0-9])"
        return bool(student_id) and re.search(word, self.file.lower()) is not None


def collect(source: Path) -> list[Submission]:
    """Return what a folder or a zip holds, in the order of the files' names.

    Raises:
        CannotCollectError: if it is neither, or holds too many files or none.

    """
    if source.is_dir():
        found = list(_from_folder(source))
    elif zipfile.is_zipfile(source):
        found = list(_from_zip(source))
    else:
        raise CannotCollectError(f"{source} is neither a folder nor a zip")
    if not found:
        raise CannotCollectError(f"there is no file to mark in {source}")
    return sorted(found, key=lambda submission: submission.file)


def _is_noise(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part in NOT_HANDED_IN or part.startswith("._") for part in parts)


def _from_folder(folder: Path) -> Iterator[Submission]:
    for count, path in enumerate(sorted(folder.rglob("*"))):
        name = path.relative_to(folder).as_posix()
        if count > MOST_FILES:
            raise CannotCollectError(f"{folder} holds more than {MOST_FILES} files")
        if path.is_symlink():
            yield Submission(name, problem="it is a link, not a file")
        elif path.is_dir() or _is_noise(name):
            continue
        elif not path.is_file():
            yield Submission(name, problem="it is not a file that can be read")
        elif path.stat().st_size > LARGEST:
            yield Submission(name, problem=f"it is larger than {LARGEST // 2**20} MB")
        else:
            yield _checked(name, path.read_bytes())


def _from_zip(path: Path) -> Iterator[Submission]:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) > MOST_FILES:
            raise CannotCollectError(f"{path} holds more than {MOST_FILES} files")
        seen: set[str] = set()
        for member in members:
            if _is_noise(member.filename):
                continue
            submission = _from_member(archive, member)
            while submission.file in seen:
                submission = Submission(f"{submission.file}~", b"", "another file has its name")
            seen.add(submission.file)
            yield submission


def _from_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Submission:
    name = member.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if stat.S_ISLNK(member.external_attr >> 16):
        return Submission(name, problem="it is a link, not a file")
    if ".." in parts or name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return Submission(name, problem="its name leads out of the zip")
    try:
        with archive.open(member) as file:
            content = file.read(LARGEST + 1)
    except Exception as error:
        return Submission(name, problem=f"it cannot be unpacked ({type(error).__name__})")
    if len(content) > LARGEST:
        return Submission(name, problem=f"it is larger than {LARGEST // 2**20} MB")
    return _checked(name, content)


def _checked(name: str, content: bytes) -> Submission:
    if not name.lower().endswith(".ipynb"):
        return Submission(name, problem="it is not a notebook: its name does not end in .ipynb")
    return Submission(name, content)


def read_roster(path: Path) -> list[dict[str, str]]:
    """Return the rows of a roster: a CSV with ``student_id`` and what else the LMS knows.

    Raises:
        CannotCollectError: if it has no such column.

    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [
            {key: (value or "").strip() for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
    if not rows or "student_id" not in rows[0]:
        raise CannotCollectError(f"{path} needs a column student_id and at least one student")
    return rows


def whose(
    submission: Submission, declared: str | None, roster: list[dict[str, str]] | None
) -> tuple[str, str]:
    """Return the student's id, and a note if it rests on the student's word alone.

    With a roster, the LMS's id in the file's name or the student's id in it decide; without one, or
    where neither is there, what the notebook declares does. The numbers that differ from student to
    student are compared with those of this id.
    """
    said = declared or ""
    if roster is None:
        return said, "" if submission.names(
            said
        ) else "no roster: the id is the notebook's own word"
    lms_id = submission.sender["lms_id"]
    for row in roster:
        by_lms = lms_id and row.get("lms_id") == lms_id
        if by_lms or submission.names(row["student_id"]):
            student = row["student_id"]
            agrees = said.lower() == student.lower()
            return student, "" if agrees else f"the notebook declares the id {said or 'nothing'!r}"
    if said.lower() in {row["student_id"].lower() for row in roster}:
        return said, "the file's name is nobody's in the roster: the id is the notebook's own word"
    return said, "neither the file's name nor the id is in the roster"
