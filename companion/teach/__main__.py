"""The commands: build, mark, export, feedback."""

import argparse
import os
import sys
from pathlib import Path

from companion.teach import batch, build, export, feedback, masters, submissions
from companion.teach.sandbox import Limits, NoSandboxError
from companion.teach.session import Zygote

ROOT = Path(__file__).resolve().parents[2]
ASSIGNMENTS = ROOT / "book" / "assignments"


def master_path(name: str) -> Path:
    """Return the master that a name means: a file, a folder with one, or a chapter."""
    for path in (Path(name), Path(name) / "master.md", ASSIGNMENTS / name / "master.md"):
        if path.is_file():
            return path
    known = [path.parent.name for path in masters.find(ASSIGNMENTS)]
    raise masters.MasterError(f"{name!r} is neither a master nor one of the chapters {known}")


def build_command(options: argparse.Namespace) -> str:
    """Build the versions of one assignment or of all."""
    paths = [master_path(options.master)] if options.master else masters.find(ASSIGNMENTS)
    said = []
    for path in paths:
        built = build.build(path, options.out / path.resolve().parent.name, options.book)
        if options.commit:
            build.student_path(path).write_bytes(built.student.read_bytes())
        said += [str(made) for made in built]
    return "\n".join(said)


def mark_command(options: argparse.Namespace) -> str:
    """Mark a folder or zip."""
    limits = Limits(
        seconds=options.seconds,
        cell_seconds=options.cell_seconds,
        call_seconds=options.call_seconds,
        megabytes=options.memory,
    )
    if sys.platform != "linux":
        raise NoSandboxError(f"marking needs Linux, this is {sys.platform}: use a container")
    master = masters.read(master_path(options.master))
    roster = submissions.read_roster(options.roster) if options.roster else None
    with Zygote(safe=not options.unsafe) as zygote:
        outcome = batch.mark_all(
            master,
            options.folder,
            options.out,
            zygote,
            jobs=options.jobs,
            limits=limits,
            roster=roster,
        )
    noted = sum(bool(record["notes"]) for record in outcome.records)
    return (
        f"{len(outcome.records)} submissions in {options.out}, {outcome.resumed} of them marked "
        f"before, in {outcome.seconds:.0f} s. Look at the notes of {noted}."
    )


def export_command(options: argparse.Namespace) -> str:
    """Write the table that an LMS takes."""
    columns = dict(pair.split("=", 1) for pair in options.column)
    rows = export.export(options.marks, options.to, options.out, columns, options.title)
    return f"{rows} students in {options.out}"


def feedback_command(options: argparse.Namespace) -> str:
    """Write a page for each student."""
    master = masters.read(master_path(options.master))
    pages = feedback.write_all(master, options.marks, options.out)
    return f"{len(pages)} pages in {options.out}"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m companion.teach", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("build", help="the student's, instructor's and Gradescope versions")
    one.add_argument("master", nargs="?", help="a master or a chapter; all of them if left out")
    one.add_argument("-o", "--out", type=Path, default=Path("_build/assignments"), help="where to")
    one.add_argument("--book", type=Path, help="the folder of the chapters, for a master elsewhere")
    one.add_argument(
        "--commit", action="store_true", help="also write the student notebook beside its master"
    )
    one.set_defaults(run=build_command)

    one = commands.add_parser("mark", help="mark what was handed in")
    one.add_argument("folder", type=Path, help="a folder of notebooks, or the zip of an LMS")
    one.add_argument("-a", "--assignment", dest="master", required=True, help="a master or chapter")
    one.add_argument("-o", "--out", type=Path, default=Path("marks.csv"), help="the table to write")
    one.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="at a time")
    one.add_argument(
        "--roster", type=Path, help="a CSV with student_id, and lms_id if there is one"
    )
    usual = Limits()
    one.add_argument("--seconds", type=float, default=usual.seconds, help="for a submission")
    one.add_argument("--cell-seconds", type=float, default=usual.cell_seconds, help="for a cell")
    one.add_argument("--call-seconds", type=float, default=usual.call_seconds, help="for a call")
    one.add_argument("--memory", type=int, default=usual.megabytes, help="MB for a submission")
    one.add_argument(
        "--unsafe", action="store_true", help="without a sandbox: only for code that you trust"
    )
    one.set_defaults(run=mark_command)

    one = commands.add_parser("export", help="the marks as an LMS takes them")
    one.add_argument("marks", type=Path, help="the table that `mark` wrote")
    one.add_argument("-t", "--to", choices=[*export.PRESETS, "plain"], default="plain")
    one.add_argument(
        "-o", "--out", type=Path, default=Path("export.csv"), help="the table to write"
    )
    one.add_argument("--title", default="Assignment", help="what the LMS calls the assignment")
    one.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME=FIELD",
        help="one more column, from a column of the marks; repeat it for more",
    )
    one.set_defaults(run=export_command)

    one = commands.add_parser("feedback", help="one page a student")
    one.add_argument("marks", type=Path, help="the table that `mark` wrote")
    one.add_argument("-a", "--assignment", dest="master", required=True, help="a master or chapter")
    one.add_argument("-o", "--out", type=Path, default=Path("feedback"), help="the folder to write")
    one.set_defaults(run=feedback_command)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    options = parser().parse_args(arguments)
    known = (
        masters.MasterError,
        batch.ReferenceFailsError,
        NoSandboxError,
        submissions.CannotCollectError,
        export.CannotExportError,
    )
    try:
        print(options.run(options))  # noqa: T201 - a command
    except known as error:
        hint = (
            " Or, for code that you trust: --unsafe." if isinstance(error, NoSandboxError) else ""
        )
        print(f"{error}{hint}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)  # noqa: T201
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
