"""An attack gains nothing, costs no honest answer that it need not, and touches nobody else."""

import csv
import hashlib
import os
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from chapters import BOOK

import companion
from companion.teach import batch, marking, masters, notebooks
from companion.teach.sandbox import Limits
from companion.teach.session import Session, Zygote
from teach import attacks
from teach.attacks import notebook

MASTER = masters.read(BOOK / "assignments" / "backprop" / "master.md")
LIMITS = Limits(seconds=60, cell_seconds=8, call_seconds=4, megabytes=1024)
HONEST = 75  # what the questions are worth that the attackers answered
EVERY_SIXTH = 6


def state() -> dict[str, object]:
    """What an attack could leave behind: files in the usual places, changed code, processes."""
    package = Path(companion.__file__).parent
    code = {path: hashlib.sha256(path.read_bytes()).digest() for path in package.rglob("*.py")}
    names = [
        path
        for place in ("/", "/tmp", "/var/tmp", "/dev/shm", str(package.parent))
        for path in Path(place).glob("*teach-was-here*")
    ]
    comms = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            comms.append(path.read_text().strip())
        except OSError:
            continue
    return {"code": code, "names": names, "left": comms.count("left-behind")}


@pytest.fixture(scope="module")
def rows(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """One batch of all attacks, with honest submissions between them."""
    folder = tmp_path_factory.mktemp("attacked")
    for number, (name, attack) in enumerate(attacks.ATTACKS.items()):
        cells = attacks.cells(MASTER, attack, name)
        (folder / f"{name}.ipynb").write_bytes(notebook(cells))
        if number % EVERY_SIXTH == 0:
            honest = notebooks.with_id(MASTER.reference(), f"honest-{number}")
            (folder / f"honest-{number}.ipynb").write_bytes(notebook(honest))
    before, table = state(), folder.parent / "marks.csv"
    batch.mark_all(MASTER, folder, table, zygote, jobs=2, limits=LIMITS)
    time.sleep(0.2)
    assert state() == before, "something was left behind"
    with table.open(newline="") as file:
        return {row["file"].removesuffix(".ipynb"): row for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_an_attack_gains_nothing(name: str, rows: dict[str, dict[str, str]]) -> None:
    mark, loses = float(rows[name]["total"]), attacks.ATTACKS[name].loses
    assert mark in {"nothing": (HONEST,), "perhaps": (0, HONEST), "everything": (0,)}[loses]


def test_nobody_else_is_touched(rows: dict[str, dict[str, str]]) -> None:
    honest = {name: row["total"] for name, row in rows.items() if name.startswith("honest")}
    assert len(honest) > len(attacks.ATTACKS) // EVERY_SIXTH
    assert set(honest.values()) == {"100"}
    assert len(rows) == len(attacks.ATTACKS) + len(honest)


@pytest.mark.parametrize("name", attacks.CONTAINED)
def test_an_attack_gets_hold_of_nothing(name: str, zygote: Zygote) -> None:
    with Session(zygote, [(attacks.ATTACKS[name].code, False)], Limits()) as session:
        assert session.errors == [None]


def test_a_submission_cannot_say_that_no_sandbox_was_made(zygote: Zygote) -> None:
    """It stopped the batch, with its own words beside the advice to use --unsafe."""
    with Session(zygote, [(attacks.ATTACKS["forge-a-refusal"].code, False)], LIMITS) as session:
        session.close()
    assert session.end != "refused"


def test_memory_of_many_processes_is_one_memory(zygote: Zygote) -> None:
    code = attacks.ATTACKS["memory-bomb-of-many"].code
    with Session(zygote, [(code, False)], Limits(seconds=60, megabytes=1024)) as session:
        session.close()
    assert session.end == "memory"


def test_time_is_limited_as_a_whole(zygote: Zygote) -> None:
    start = time.monotonic()
    limits = Limits(seconds=2, cell_seconds=60)
    marks = marking.mark(MASTER, [attacks.LOOP] * 3, "s1", zygote, limits)
    assert (marks.total, marks.end) == (0, "time")
    assert time.monotonic() - start < 2 + 10


def test_what_is_asked_with_cannot_be_told(zygote: Zygote) -> None:
    code = "def deltas(*asked):\n    raise type(f'E{asked[0]}', (Exception,), {})(asked)"
    marks = marking.mark(MASTER, MASTER.reference({"recursion": code}), "s1", zygote, LIMITS)
    reasons = {line.reason for line in marks.lines if line.question == "recursion"}
    assert reasons == {"it raised an error, or gave no plain value"}


def test_plain_values_arrive_as_they_were(zygote: Zygote) -> None:
    code = (
        "import torch, numpy\nf = lambda *given, **named: [given, named]\n"
        "values = [1, 2.5, True, 'a', None, torch.arange(6.).reshape(2, 3).T, numpy.float32(0.5),"
        " {'k': [1]}, torch.ones(2, dtype=torch.bfloat16), torch.zeros(0, 3), 1j * torch.ones(1)]"
    )
    with Session(zygote, [(code, False)], LIMITS) as session:
        got = session.answer("values")
        echoed = session.answer("f")(torch.ones(2), 3, key="x")
    assert got[:4] == [1, 2.5, True, "a"]
    assert repr(got[4]) == "no answer"
    assert torch.equal(got[5], torch.arange(6.0).reshape(2, 3).T)
    assert got[6].item() == 0.5
    assert got[7] == {"k": [1]}
    assert got[8].dtype == torch.bfloat16
    assert (tuple(got[9].shape), got[10].dtype) == ((0, 3), torch.complex64)
    assert torch.equal(echoed[0][0], torch.ones(2))
    assert (echoed[0][1], echoed[1]) == (3, {"key": "x"})


def test_a_submission_does_not_see_another(zygote: Zygote) -> None:
    with Session(
        zygote, ["open('/tmp/mine', 'w').write('x')\nimport torch\ntorch.seen = 1"], LIMITS
    ):
        look = "import os, torch\nseen = os.path.exists('/tmp/mine') or hasattr(torch, 'seen')"
        with Session(zygote, [(look, False)], LIMITS) as session:
            assert session.answer("seen") is False


# ---------------------------------------------------------------- zips


def trick_zip(path: Path) -> None:
    """A zip with every trick, and honest notebooks before and after."""
    honest = notebook(MASTER.reference())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a-honest.ipynb", honest)
        link = zipfile.ZipInfo("link.ipynb")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        for name in ("../escaped.ipynb", "/absolute.ipynb", "C:\\drive.ipynb", "x/../../up.ipynb"):
            archive.writestr(name, honest)
        archive.writestr("bomb.ipynb", b" " * (64 * 2**20))
        archive.writestr("notes.pdf", b"%PDF")
        archive.writestr("__MACOSX/._a-honest.ipynb", b"\x00")
        archive.writestr("empty.ipynb", b"")
        archive.writestr("list.ipynb", b"[1]")
        archive.writestr("deep.ipynb", b"[" * 10**6)
        archive.writestr(
            "strange.ipynb", b'{"cells": [1, {"cell_type": "code"}, {"cell_type": []}]}'
        )
        archive.writestr("latin.ipynb", '{"cells": ["é"]}'.encode("latin-1"))
        archive.writestr("z-honest.ipynb", honest)


def test_tricks_in_a_zip_are_refused_and_the_rest_is_marked(zygote: Zygote, tmp_path: Path) -> None:
    trick_zip(tmp_path / "in.zip")
    before = sorted(tmp_path.parent.rglob("*"))
    records = batch.mark_all(
        MASTER, tmp_path / "in.zip", tmp_path / "marks.csv", zygote, jobs=2, limits=LIMITS
    ).records
    assert {path.name for path in {*tmp_path.parent.rglob("*")} - {*before}} == {
        "marks.csv",
        "marks.jsonl",
    }
    marks = {record["file"]: batch.points(record) for record in records}
    assert [name for name, mark in marks.items() if mark] == ["a-honest.ipynb", "z-honest.ipynb"]
    notes = {record["file"]: record["notes"][0] for record in records if record["notes"]}
    assert notes["link.ipynb"] == "it is a link, not a file"
    for name in ("../escaped.ipynb", "/absolute.ipynb", "x/../../up.ipynb"):
        assert notes[name] == "its name leads out of the zip"
    assert "larger than" in notes["bomb.ipynb"]
    assert "not a notebook" in notes["notes.pdf"]
    for name in ("empty.ipynb", "list.ipynb", "deep.ipynb", "latin.ipynb"):
        assert "not a notebook" in notes[name]
    assert len(records) == 14


def test_links_in_a_folder_are_refused(tmp_path: Path, any_zygote: Zygote) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "passwd.ipynb").symlink_to("/etc/passwd")
    (folder / "root").symlink_to("/")
    os.mkfifo(folder / "pipe.ipynb")
    records = batch.mark_all(
        MASTER, folder, tmp_path / "marks.csv", any_zygote, jobs=1, limits=LIMITS
    ).records
    assert [record["notes"][0] for record in records] == [
        "it is a link, not a file",
        "it is not a file that can be read",
        "it is a link, not a file",
    ]


# ---------------------------------------------------------------- no sandbox


def test_without_a_sandbox_it_refuses_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_bytes(notebook(["x = 1"]))
    refuse = (
        "import sys\nfrom companion.teach import sandbox, zygote\n"
        "def begin(): raise sandbox.NoSandboxError('no sandbox can be made here: refused')\n"
        "sandbox.begin = begin\nzygote.main()\n"
    )
    (tmp_path / "refusing.py").write_text(refuse)
    start = (
        "import sys\nfrom companion.teach import session, __main__ as command\n"
        "popen = session.subprocess.Popen\n"
        f"refusing = {str(tmp_path / 'refusing.py')!r}\n"
        "def start(call, **more): return popen([call[0], refusing, *call[3:]], **more)\n"
        "session.subprocess.Popen = start\n"
        "sys.exit(command.main(sys.argv[1:]))\n"
    )
    arguments = ["mark", str(tmp_path), "-a", str(MASTER.path), "-o", str(tmp_path / "marks.csv")]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", start, *arguments, *more]
        return subprocess.run(command, cwd=BOOK.parent, capture_output=True, text=True, check=False)

    refused = run()
    assert refused.returncode == 2
    assert "no sandbox can be made here: refused" in refused.stderr
    assert "--unsafe" in refused.stderr
    assert not (tmp_path / "marks.csv").exists()
    assert run("--unsafe").returncode == 0
