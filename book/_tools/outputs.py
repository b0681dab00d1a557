"""Run chapters and store their outputs: `python book/_tools/outputs.py [NAME ...]`.

Whatever could differ between two runs of the same code is normalised, so that running this on
unchanged chapters changes no file.
"""

import base64
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

# Set before the kernels start, which inherit them: `make test` runs the chapters the same way.
os.environ.update(TQDM_DISABLE="1", OMP_NUM_THREADS="1", PYTHONHASHSEED="0")
os.environ.pop("MPLBACKEND", None)  # with another one than the notebook's, no figure is stored

import nbformat
from chapters import BOOK, chapter_files, refuse_repetition, slug
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager
from stamp import configured, stamp_notebook
from verdicts import write_verdicts

PICTURE = BOOK / "_static" / "course-picture.png"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
DROPPED_NOTEBOOK_KEYS = {"colab", "jupytext", "vscode", "widgets"}
DROPPED_CELL_KEYS = {"ExecuteTime", "collapsed", "colab", "execution", "id", "outputId", "vscode"}
ANSI = re.compile(r"\x1b\[[0-9;]*m")
# Pictures as the inline backend draws them, but for matplotlib's version, which they would name.
PICTURES = {"bbox_inches": "tight", "metadata": {"Software": None}}


class ChapterError(Exception):
    """A chapter could not be run, with the cell and the reason."""


class OwnKernel(AsyncKernelManager):
    """Starts this interpreter's own kernel, which is also the one that nbval starts."""

    def __init__(self, **options: object) -> None:
        super().__init__(**(options | {"kernel_spec_manager": NbvalKernelspecManager()}))


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Run every cell, in place; anything raised or written to stderr is a ChapterError."""
    client = NotebookClient(
        notebook,
        kernel_manager_class=OwnKernel,
        kernel_name=CURRENT_ENV_KERNEL_NAME,
        extra_arguments=[f"--InlineBackend.print_figure_kwargs={PICTURES}"],
        timeout=600,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    try:
        client.execute(stderr=subprocess.DEVNULL)
    except CellExecutionError as error:
        where = "a cell"
        for index, cell in enumerate(notebook.cells):
            if any(output.output_type == "error" for output in cell.get("outputs", [])):
                where = f"cell {index} ({cell.id})"
        raise ChapterError(f"{where} raised:\n{ANSI.sub('', str(error)).strip()}") from None
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                raise ChapterError(
                    f"cell {index} ({cell.id}) wrote to stderr:\n{cell.source}\n---\n{output.text}"
                )


def is_readable(cell_id: str) -> bool:
    """Return whether a cell id was written by a person: a slug, and not eight random hex digits."""
    return bool(re.fullmatch(r"[a-z][a-z0-9-]{2,}", cell_id)) and not re.fullmatch(
        r"[0-9a-f]{8}|[0-9a-f-]{36}", cell_id
    )


def name_cells(notebook: NotebookNode) -> None:
    """Give every cell a readable id: its own, else its name, else the heading's and a number."""
    taken: set[str] = set()
    unnamed: list[tuple[NotebookNode, str]] = []
    heading = "top"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found = re.search(r"^#{1,6}\s+(.+?)\s*$", cell.source, flags=re.MULTILINE)
            if found:
                heading = "-".join((slug(found[1]) or "part").split("-")[:6])[:48].strip("-")
                heading = heading if heading[0].isalpha() else f"part-{heading}"
        if is_readable(cell.get("id", "")) and cell.id not in taken:
            taken.add(cell.id)
        else:
            unnamed.append((cell, heading))
    for cell, near in unnamed:
        wanted = cell.metadata.get("name", "")
        if not is_readable(wanted) or wanted in taken:
            wanted = next(f"{near}-{n}" for n in range(1, 10_000) if f"{near}-{n}" not in taken)
        cell["id"] = wanted
        taken.add(wanted)


def normalise(notebook: NotebookNode) -> None:
    """Remove in place whatever two runs of the same code may differ in."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for key in DROPPED_NOTEBOOK_KEYS & set(notebook.metadata):
        del notebook.metadata[key]
    notebook.metadata["kernelspec"] = NotebookNode(KERNELSPEC)
    notebook.metadata["language_info"] = NotebookNode(LANGUAGE)
    name_cells(notebook)
    count = 0
    for cell in notebook.cells:
        for key in DROPPED_CELL_KEYS & set(cell.metadata):
            del cell.metadata[key]
        if cell.cell_type != "code":
            continue
        if cell.execution_count is not None:
            count += 1
            cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
            output.get("data", {}).pop(WIDGET_VIEW, None)
        cell.outputs = merged_streams(
            [output for output in cell.outputs if output.get("data", True)]
        )


def merged_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return the outputs with neighbouring pieces of one stream joined: how text is cut varies."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if (
            last is not None
            and output.output_type == last.output_type == "stream"
            and output.name == last.name
        ):
            last.text += output.text
        else:
            merged.append(output)
    return merged


def course_picture(notebook: NotebookNode) -> bytes | None:
    """Return the PNG of the cell that is marked `"course-picture": true`, if there is one."""
    for cell in notebook.cells:
        if cell.metadata.get("course-picture"):
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output.data["image/png"])
            raise ChapterError(f"cell {cell.id} is the course picture but shows no image")
    return None


def run_chapter(path: Path) -> bool:
    """Run one chapter and store its outputs; return whether the file changed."""
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    stamp_notebook(notebook, configured(), configured())
    execute(notebook, path.parent)
    normalise(notebook)
    after = nbformat.writes(notebook, version=4).rstrip("\n") + "\n"
    if after != before:
        path.write_text(after, encoding="utf-8")
    picture = course_picture(notebook)
    if picture is not None and (not PICTURE.is_file() or PICTURE.read_bytes() != picture):
        PICTURE.write_bytes(picture)
    return after != before


def main(names: list[str]) -> int:
    """Run the named chapters, or all of them, saying how each went; return the exit code."""
    if find_spec("companion") is None:
        print("the companion is not installed: use `make outputs`")
        return 2
    refuse_repetition()
    chapters = {path.stem: path for path in chapter_files()}
    chapters |= {name: BOOK / f"{name}.ipynb" for name in names if name not in chapters}
    unknown = [name for name in names if not chapters[name].is_file()]
    if unknown:
        print(f"no such chapter: {', '.join(unknown)}; there are: {', '.join(chapters)}")
        return 2
    chosen = names or list(chapters)
    failed = []
    for number, name in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {name} ...", end=" ", flush=True)
        start = time.perf_counter()
        try:
            changed = run_chapter(chapters[name])
        except ChapterError as error:
            print(f"failed\n{error}")
            failed.append(name)
            continue
        print(f"{time.perf_counter() - start:.0f} s, {'changed' if changed else 'unchanged'}")
    write_verdicts()
    if failed:
        print(f"not stored, for the reasons above: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
