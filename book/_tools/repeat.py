"""Repeat chapters with fresh draws, and keep which verdicts held: `make repeat TIMES=20`.

In a repetition every weight, batch, synthetic example and split is drawn anew, and the folded cell
behind each verdict says which clauses of its sentence still hold. What is kept of that, in
book/repetitions.yml, is for each claim the numbers of the repetitions, the commit, and the clauses
that failed. `CHAPTER=name` repeats one chapter, `FROM=21` begins with another number.

Each repetition is a process of its own, which joblib starts: on the cores there are, or where
DASK_SCHEDULER names the scheduler of a Dask cluster, there (its workers need this folder and this
interpreter at the same place). A finished repetition is kept at once in _build/repeat, so that an
interrupted run goes on where it was, and one that dies is tried again. A chapter that stops with an
error has failed in all the checks that it did not come to: that counts as well.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from chapters import BOOK, ROOT, Notebook, chapter_files, read
from reach import Reach, bare_text, is_prose
from stored import commit

TABLE = BOOK / "repetitions.yml"
KEPT = ROOT / "_build" / "repeat"
TRIES = 3
INSTALLS = 'find_spec("companion")'
SAID = re.compile(r"^(?P<claim>[A-Z]\d+): \d+ of (?P<of>\d+) clauses hold$")
Row = dict[str, Any]
"""What came of a repetition: its number, commit, and by claim the check's code and what failed."""


# ---------------------------------------------------------------- the checks of a chapter


class Check(NamedTuple):
    """The check of a verdict: its place among the cells, its code, and what must make it fail."""

    claim: str
    cell: int
    source: str
    opposites: list[str]
    code: str
    """A digest of the check and of the code before it but for other checks; one of the companion's
    code that these use."""


def checks(notebook: Notebook) -> dict[str, Check]:
    """Return a chapter's checks by claim, in its order."""
    found, before = {}, []
    code_cells = [
        (i, cell)
        for i, cell in enumerate(notebook["cells"])
        if cell["cell_type"] == "code" and INSTALLS not in cell["source"]
    ]
    for index, cell in code_cells:
        data = cell["metadata"].get("check")
        if data is None:
            before.append(cell["source"])
            continue
        own = digest([*before, cell["source"]])
        found[data["claim"]] = Check(
            data["claim"], index, cell["source"], data.get("opposites", []), own
        )
    return found


def digest(cells: list[str]) -> str:
    """Return two digests of what cells do: of their code, and of all that it uses."""
    own = [statement for cell in cells for statement in parsed(cell)]
    text = repr([bare_text(each) for each in own])
    used = companion().digest(companion().used_by(own))
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}-{used}"


@cache
def parsed(cell: str) -> list[ast.stmt]:
    """Return the statements of a cell; what it says to IPython counts as `pass`."""
    plain = re.sub(r"^(\s*)[%!].*$", r"\1pass", cell, flags=re.MULTILINE)
    return [each for each in ast.parse(plain).body if not is_prose(each)]


@cache
def companion() -> Reach:
    """Return the companion's code, read once."""
    return Reach()


def said(text: str) -> tuple[str, int, list[str]]:
    """Return the claim, the number of clauses, and those that failed, of what a check printed."""
    head, *rest = text.strip().splitlines() or [""]
    found = SAID.match(head)
    if found is None:
        raise ValueError(f"a check printed {text!r}, not how many clauses hold")
    return found["claim"], int(found["of"]), [line.removeprefix("  not: ") for line in rest]


# ---------------------------------------------------------------- one repetition


def run(path: Path, number: int | None, *, opposites: bool = False) -> dict[str, Row]:
    """Run a chapter up to its last check and return what each said, by claim.

    With `opposites` each check is also fed what its metadata say would make the sentence false:
    under "unnoticed" then stand the clauses that held all the same.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from outputs import CURRENT_ENV_KERNEL_NAME, OwnKernel

    notebook = nbformat.read(path, as_version=4)
    at = {each.cell: each for each in checks(notebook).values()}
    fresh = {} if number is None else {"COURSE_REPETITION": str(number)}
    quiet = {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    client = NotebookClient(
        notebook,
        kernel_manager_class=OwnKernel,
        kernel_name=CURRENT_ENV_KERNEL_NAME,
        timeout=1800,
        resources={"metadata": {"path": str(path.parent)}},
    )
    rows: dict[str, Row] = {}
    with client.setup_kernel(env=os.environ | quiet | fresh, stderr=subprocess.DEVNULL):
        for index, cell in enumerate(notebook.cells[: max(at, default=-1) + 1]):
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as error:
                stopped = f"the chapter stopped at cell {index}: {error.ename}: {error.evalue}"
                lost = {"of": 0, "failed": [stopped], "unnoticed": []}
                return rows | {
                    check.claim: {"code": check.code, **lost}
                    for place, check in at.items()
                    if place >= index
                }
            if index not in at:
                continue
            check = at[index]
            claim, of, failed = said(shown(cell))
            rows[claim] = {"code": check.code, "of": of, "failed": failed}
            if opposites:
                rows[claim]["unnoticed"] = unnoticed(client, notebook, check)
    return rows


def shown(cell: Any) -> str:  # noqa: ANN401  (nbformat's cells are untyped)
    """Return what a check's cell shows as text."""
    texts = [output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(text for text in texts if text)


#: Runs the check on other values, and leaves the chapter's own names as they are.
OPPOSITE = """
def _opposite():
    import ast
    names = dict(globals())
    exec({opposite!r}, names)
    *before, last = ast.parse({check!r}).body
    exec(compile(ast.Module(before, []), "check", "exec"), names)
    checked = eval(compile(ast.Expression(last.value), "check", "eval"), names)
    return sorted(set(checked.clauses) - set(checked.failed))
_opposite()
"""


def unnoticed(client: Any, notebook: Any, check: Check) -> list[str]:  # noqa: ANN401
    """Return the clauses that hold under every one of the check's opposites."""
    import nbformat

    holding: list[set[str]] = []
    for opposite in check.opposites:
        cell = nbformat.v4.new_code_cell(OPPOSITE.format(opposite=opposite, check=check.source))
        notebook.cells.append(cell)
        client.execute_cell(cell, len(notebook.cells) - 1)
        notebook.cells.pop()
        holding.append(set(ast.literal_eval(shown(cell))))
    return sorted(set.intersection(*holding)) if holding else ["none was tried"]


# ---------------------------------------------------------------- many of them


class Job(NamedTuple):
    """A chapter's file, and the number of a repetition."""

    path: str
    number: int


def missing(
    path: Path, numbers: list[int], found: dict[str, Row], folder: Path = KEPT
) -> list[Job]:
    """Return what has still to run: the numbers of which not every present check is known."""
    codes = {each.claim: each.code for each in checks(read(path)).values()}
    done = {
        row["number"]
        for row in rows(path.stem, folder)
        if set(codes.values()) <= {claim["code"] for claim in row["claims"].values()}
    }
    in_table = [
        set(row["numbers"]) if row.get("code") == own else set()
        for claim, own in codes.items()
        for row in [found.get(claim, {})]
    ]
    done |= set.intersection(*in_table) if in_table else set()
    return [Job(str(path), number) for number in numbers if codes and number not in done]


def rows(chapter: str, folder: Path = KEPT) -> list[Row]:
    """Return what is kept of a chapter's repetitions, without a line that was cut off."""
    file, found = folder / f"{chapter}.jsonl", []
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
    return found


def work(job: Job) -> tuple[Job, Row | None, str]:
    """Run a repetition in a process of its own; return what came of it, or None and the reason."""
    command = [sys.executable, str(ROOT / "book/_tools/repeat.py"), "--one", *map(str, job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return job, None, done.stderr.strip()[-2000:] or f"it ended with {done.returncode}"
    try:
        return job, json.loads(done.stdout.splitlines()[-1]), ""
    except (IndexError, json.JSONDecodeError) as error:
        return job, None, f"it printed {done.stdout[-200:]!r}: {error}"


def results(jobs: list[Job]) -> Iterator[tuple[Job, Row | None, str]]:
    """Work on all of them at once, and yield each as it is done."""
    if address := os.environ.get("DASK_SCHEDULER"):
        yield from on_cluster(jobs, address)
        return
    from joblib import Parallel, delayed

    # A thread for each core only waits for its process.
    parallel = Parallel(os.cpu_count(), backend="threading", return_as="generator_unordered")
    yield from parallel(delayed(work)(job) for job in jobs)


def on_cluster(jobs: list[Job], address: str) -> Iterator[tuple[Job, Row | None, str]]:
    """The same on a Dask cluster; joblib's own backend hangs when a job's workers keep dying."""
    from distributed import Client, as_completed

    with Client(address) as client:
        futures = {client.submit(work, job, pure=False): job for job in jobs}
        for future in as_completed(futures):
            if future.status == "finished":
                yield future.result()
            else:
                yield futures[future], None, f"{future.status}: {future.exception()}"


def repeat(jobs: list[Job], folder: Path = KEPT) -> dict[Job, str]:
    """Run repetitions, keeping each as soon as it is done; return those that failed, and why."""
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    failed: dict[Job, str] = {}
    left = jobs
    for _ in range(TRIES):
        failed = {}
        with tqdm(total=len(left), desc="repetitions", unit="run") as bar:
            for job, row, reason in results(left) if left else ():
                bar.set_postfix_str(f"{Path(job.path).stem} {job.number}")
                bar.update()
                if row is None:
                    failed[job] = reason
                    continue
                keep(folder / f"{Path(job.path).stem}.jsonl", row)
        left = list(failed)
        if not left:
            break
    return failed


def keep(path: Path, row: Row) -> None:
    """Add a row, on a line of its own also where the last one was cut off."""
    cut = path.is_file() and path.stat().st_size and path.read_bytes()[-1:] != b"\n"
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * bool(cut) + json.dumps(row) + "\n")


# ---------------------------------------------------------------- the table


def table(path: Path = TABLE) -> dict[str, Row]:
    """Return what is kept of the repetitions of each claim."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def merged(before: dict[str, Row], path: Path, folder: Path = KEPT) -> dict[str, Row]:
    """Return the table with what a chapter's repetitions say of its checks as they are now."""
    after = dict(before)
    for claim, check in checks(read(path)).items():
        old = before.get(claim, {})
        same = old.get("code") == check.code
        failed: dict[int, list[str]] = dict(old.get("failed", {})) if same else {}
        numbers = set(old.get("numbers", [])) if same else set()
        commits = old.get("commit") if same else None
        for row in rows(path.stem, folder):
            said_of = row["claims"].get(claim, {})
            if said_of.get("code") != check.code:
                continue
            numbers.add(row["number"])
            commits = row["commit"]
            failed.pop(row["number"], None)
            if said_of["failed"]:
                failed[row["number"]] = said_of["failed"]
        if numbers:
            after[claim] = {
                "code": check.code,
                "commit": commits,
                "numbers": sorted(numbers),
                "failed": dict(sorted(failed.items())),
            }
    return after


def write(found: dict[str, Row], path: Path = TABLE) -> None:
    """Keep the table."""
    head = "# Which clauses failed in which repetition, by claim: made by `make repeat`.\n"
    text = yaml.safe_dump(
        found, allow_unicode=True, sort_keys=False, width=100, default_flow_style=None
    )
    new = path.with_suffix(".new")
    new.write_text(head + text, encoding="utf-8")
    new.replace(path)


def told(path: Path, found: dict[str, Row]) -> list[str]:
    """Return in how many repetitions each verdict of a chapter held, and what failed in others."""
    lines = []
    for claim, check in checks(read(path)).items():
        row = found.get(claim)
        if row is None or row["code"] != check.code:
            lines.append(f"{path.stem}, {claim}: not repeated as it is now")
            continue
        total, failed = len(row["numbers"]), row["failed"]
        lines.append(f"{path.stem}, {claim}: held in {total - len(failed)} of {total}")
        lines += [f"  {number}, not: {'; '.join(clauses)}" for number, clauses in failed.items()]
    return lines


def outdated(path: Path, found: dict[str, Row]) -> list[str]:
    """Return the claims whose chapter is what was repeated, but not the companion below it."""
    codes = {claim: check.code for claim, check in checks(read(path)).items()}
    return [
        claim
        for claim, row in found.items()
        if claim in codes
        and row["code"] != codes[claim]
        and row["code"].partition("-")[0] == codes[claim].partition("-")[0]
    ]


def again(path: Path, found: dict[str, Row]) -> list[str]:
    """Run repetitions again, and carry over what they confirm; return what came out otherwise.

    It is one repetition for all claims where there is one that all of them have.
    """
    claims, told = outdated(path, found), []
    while claims:
        number, shared = _most_shared(claims, found)
        claims = [claim for claim in claims if claim not in shared]
        _, row, reason = work(Job(str(path), number))
        if row is None:
            told.append(f"{path.stem}, repetition {number}: {reason}")
            continue
        for claim in shared:
            before, now = found[claim]["failed"].get(number, []), row["claims"][claim]["failed"]
            if before == now:
                found[claim]["code"] = row["claims"][claim]["code"]
            else:
                told.append(
                    f"{path.stem}, {claim}, repetition {number}: failed {before}, now {now}"
                )
    return told


def _most_shared(claims: list[str], found: dict[str, Row]) -> tuple[int, list[str]]:
    """Return the number of a repetition that as many claims have as any, and these claims."""
    every = {number for claim in claims for number in found[claim]["numbers"]}
    sharing = {n: [claim for claim in claims if n in found[claim]["numbers"]] for n in every}
    most = max(len(shared) for shared in sharing.values())
    at = commit(ROOT)  # each commit confirms another one
    number = min(
        (n for n, shared in sharing.items() if len(shared) == most),
        key=lambda n: hashlib.sha256(f"{at} {n}".encode()).digest(),
    )
    return number, sharing[number]


# ---------------------------------------------------------------- the command


def one(path: Path, number: int) -> Row:
    """Return what a repetition of a chapter says."""
    return {"number": number, "commit": commit(ROOT), "claims": run(path, number)}


def main(arguments: list[str] | None = None) -> int:
    """Repeat chapters; return the exit code."""
    known = {path.stem: path for path in chapter_files()}
    parser = argparse.ArgumentParser(description="Repeat chapters with fresh draws.")
    parser.add_argument("--times", type=int, default=20, help="how many repetitions (20)")
    parser.add_argument("--first", type=int, default=1, help="the first one's number (1)")
    parser.add_argument("--again", action="store_true", help="confirm what the table has")
    parser.add_argument("--one", nargs=2, metavar=("FILE", "NUMBER"), help=argparse.SUPPRESS)
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help=", ".join(known))
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(one(Path(given.one[0]), int(given.one[1]))))
        return 0
    if unknown := set(given.chapters) - set(known):
        parser.error(f"no such chapter: {', '.join(unknown)}; there are: {', '.join(known)}")
    if given.times < 1 or given.first < 0:
        parser.error("TIMES is at least 1, and FROM at least 0")
    numbers = list(range(given.first, given.first + given.times))
    chosen = [known[name] for name in dict.fromkeys(given.chapters or known)]
    if given.again:
        found = table()
        wrong = [line for path in chosen for line in again(path, found)]
        write(found)
        print(*wrong, *(line for path in chosen for line in told(path, found)), sep="\n")
        return 1 if wrong else 0
    jobs = [job for path in chosen for job in missing(path, numbers, table())]
    # Number by number, so that what an interruption leaves is about all chapters.
    failed = repeat(sorted(jobs, key=lambda job: job.number))
    found = table()
    for path in chosen:
        found = merged(found, path)
    write(found)
    for path in chosen:
        print(*told(path, found), sep="\n")
    for job, reason in failed.items():
        print(f"{Path(job.path).stem}, repetition {job.number}, tried {TRIES} times:\n{reason}")
    left = [job for path in chosen for job in missing(path, numbers, found)]
    if left and not failed:
        print("edited meanwhile, so that not all numbers are of the chapter as it is: run it again")
    return 1 if failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
