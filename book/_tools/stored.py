"""Make what does not fit in a minute, and keep it: `make stored NAME=long-race`.

A stored result is a table of parts, each an indented line, some below a heading. The file says at
its head at which commit and by which command it was made, and has a digest of the code that made
it, which tests/test_stored.py compares with the code that there is. A run that was interrupted goes
on with the part that it was at. `AGAIN=1` is for a change of that code which should not have
changed anything: it makes the quick parts again, and where they agree, writes the new digest.
"""

import argparse
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from chapters import BOOK, ROOT, refuse_repetition
from reach import WHOLE, Reach


@dataclass(frozen=True)
class Stored:
    """A stored result.

    Attributes:
        file: where it is kept.
        module: whose `parts()` returns what makes each part, by name.
        quick: the parts that take seconds.
        room: by how much a decimal may differ on another machine; whole numbers may not.

    """

    file: Path
    module: str
    quick: tuple[str, ...]
    room: float

    def parts(self) -> dict[str, Callable[..., str]]:
        """Return what makes each part: a function that takes `progress`."""
        return import_module(self.module).parts()

    def table(self) -> str:
        """Return what is kept, without its head."""
        return re.sub(r"\A(#.*\n)*", "", self.file.read_text(encoding="utf-8"))

    def head(self) -> dict[str, str]:
        """Return what stands at its head, by word."""
        text = self.file.read_text(encoding="utf-8")
        return dict(re.findall(r"^# (\w+): (.*)$", text, re.MULTILINE))

    def write(self, head: dict[str, str], table: str) -> None:
        """Keep a table, with a head."""
        lines = "".join(f"# {word}: {said}\n" for word, said in head.items())
        self.file.write_text(lines + table, encoding="utf-8")


STORED = {
    "long-race": Stored(
        BOOK / "_static" / "long-race.txt",
        "companion.lstms.longer",
        quick=("adding, LSTM, chrono", "adding, GRU"),
        room=0.02,
    ),
}


# ---------------------------------------------------------------- the code that made it


def code(module: str, root: Path = ROOT) -> str:
    """Return a digest of a module's code and of all that it uses of the companion."""
    return Reach(root).digest([(module, WHOLE)])


# ---------------------------------------------------------------- made, and made again


def alike(one: str, other: str, room: float) -> bool:
    """Return whether two texts differ in nothing but decimals, and in those by at most `room`."""
    number = re.compile(r"-?\d+\.\d+")
    pairs = zip(number.findall(one), number.findall(other), strict=False)
    return number.sub("x", one) == number.sub("x", other) and all(
        abs(float(a) - float(b)) <= room + 1e-9 for a, b in pairs
    )


def kept(stored: Stored) -> dict[str, str]:
    """Return the line that is kept of each part."""
    lines = [line for line in stored.table().splitlines() if line.startswith("  ")]
    return dict(zip(stored.parts(), lines, strict=True))


def differing(stored: Stored, parts: Iterable[str]) -> list[str]:
    """Make some parts afresh, and return what came out where it is not what is kept."""
    before, made = kept(stored), stored.parts()
    found = []
    for part in parts:
        line = made[part](progress=False).splitlines()[-1]
        if not alike(before[part], line, stored.room):
            found.append(f"{part}: kept is {before[part].strip()!r}, made was {line.strip()!r}")
    return found


def commit(root: Path) -> str:
    """Return the commit that is checked out, with a word if files differ from it."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def make(name: str, stored: Stored, root: Path = ROOT) -> None:
    """Make every part that an interrupted run has not made, and keep the table."""
    digest, parts = code(stored.module, root), stored.parts()
    folder = root / "_build" / "stored" / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (part, run) in enumerate(parts.items(), start=1):
        file, start = folder / f"{number}.txt", time.monotonic()
        if not file.is_file():
            made = run(progress=True)
            file.write_text(made, encoding="utf-8")
        print(f"[{number}/{len(parts)}] {part}: {time.monotonic() - start:.0f} s", flush=True)
    table = "".join((folder / f"{n}.txt").read_text("utf-8") for n in range(1, len(parts) + 1))
    stored.write(
        {
            "command": f"make stored NAME={name}",
            "commit": commit(root),
            "code": digest,
            "torch": version("torch"),
        },
        table,
    )
    shutil.rmtree(folder)


def again(stored: Stored, root: Path = ROOT) -> list[str]:
    """Make the quick parts again; if they agree, say so at the head. Return what does not."""
    digest = code(stored.module, root)
    if wrong := differing(stored, stored.quick):
        return wrong
    said = f"{'; '.join(stored.quick)} at {commit(root)}, and agreed"
    stored.write(stored.head() | {"code": digest, "again": said}, stored.table())
    return []


def main(arguments: list[str] | None = None, known: dict[str, Stored] | None = None) -> int:
    """Make a stored result, or its quick parts again; return the exit code."""
    refuse_repetition()
    known = STORED if known is None else known
    parser = argparse.ArgumentParser(description="Make a stored result.")
    parser.add_argument("name", choices=known)
    parser.add_argument("--again", action="store_true", help="only its quick parts")
    given = parser.parse_args(arguments)
    if not given.again:
        make(given.name, known[given.name])
        return 0
    wrong = again(known[given.name])
    print("\n".join(wrong) or "the quick parts agree: the head is written anew")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
