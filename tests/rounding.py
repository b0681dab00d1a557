"""Every chapter with another machine's rounding: `make test-rounding DRAWS=1,2,3 CHAPTER=name`.

Each draw of the noise stands for another such machine. What a chapter prints under any of them
that is not what it has stored is a number that some reader will not see.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chapters import BOOK, chapter_files
from reruns import rerun, write_kernel

DRAWS = [int(draw) for draw in os.environ.get("DRAWS", "1").split(",")]
CHAPTERS = [path.stem for path in chapter_files()]
CHOSEN = os.environ.get("CHAPTER", "").split() or CHAPTERS


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A kernel for each draw, named after it."""
    folder = tmp_path_factory.mktemp("kernels")
    for draw in DRAWS:
        write_kernel(folder, f"rounding-{draw}", Path(sys.executable), draw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        yield


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(
    "chapter",
    [pytest.param(name, marks=pytest.mark.files(f"book/{name}.ipynb")) for name in CHOSEN],
)
def test_a_chapter_prints_what_is_stored(kernels: None, chapter: str, draw: int) -> None:
    assert chapter in CHAPTERS, f"no such chapter; there are: {', '.join(CHAPTERS)}"
    different = rerun(BOOK / f"{chapter}.ipynb", BOOK, f"rounding-{draw}").differences()
    assert not different, f"under draw {draw}:\n{different}"
