"""How fast submissions are marked.

Run it as ``OMP_NUM_THREADS=1 python tests/benchmarks/marking.py``. Prints submissions a minute and
the peak memory for 100 submissions with two jobs; then the seconds for 20 submissions, three times,
and their median, which must be 30 s or less.
"""

import re
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from teach.attacks import notebook  # noqa: E402

from companion.teach import batch, masters, notebooks  # noqa: E402
from companion.teach.sandbox import Limits  # noqa: E402
from companion.teach.session import Zygote  # noqa: E402

MOST_SECONDS = 30
MASTER = masters.read(ROOT / "book" / "assignments" / "backprop" / "master.md")


def say(line: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{line}\n")


def run(count: int, jobs: int = 2) -> tuple[float, float, int]:
    """Mark submissions; return seconds, MB of this and the zygote, and the largest one's bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        folder.mkdir()
        for number in range(count):
            cells = notebooks.with_id(MASTER.reference(), f"s{number}")
            (folder / f"s{number}.ipynb").write_bytes(notebook(cells))
        start = time.perf_counter()
        with Zygote() as zygote:
            outcome = batch.mark_all(
                MASTER, folder, Path(name) / "marks.csv", zygote, jobs=jobs, limits=Limits()
            )
            status = Path(f"/proc/{zygote.process.pid}/status").read_text()
            own = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
        seconds = time.perf_counter() - start
    assert {batch.points(record) for record in outcome.records} == {100}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    largest = max(record["peak"] for record in outcome.records)
    return seconds, (peak + own) / 2**20, largest


def main() -> int:
    """Print the figures; return 1 if 20 submissions take too long."""
    seconds, megabytes, largest = run(100)
    say(f"100 submissions, two jobs: {seconds:.0f} s, {6000 / seconds:.0f} a minute")
    say(f"peak memory: {megabytes:.0f} MB for marking, {largest / 2**20:.0f} MB for a submission")
    times = [run(20)[0] for _ in range(3)]
    median = statistics.median(times)
    each = ", ".join(f"{one:.1f}" for one in times)
    say(f"20 submissions, two jobs: {each} s, median {median:.1f} s (at most {MOST_SECONDS})")
    return int(median > MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
