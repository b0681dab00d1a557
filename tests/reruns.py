"""Run a notebook in a kernel of choice, and compare what it prints with what is stored."""

import configparser
import json
import re
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
import outputs
from chapters import BOOK
from nbclient import NotebookClient
from nbformat import NotebookNode

NOISE = Path(__file__).with_name("noise.py")
Texts = dict[str, list[tuple[str, str]]]


def write_kernel(folder: Path, name: str, python: Path, draw: int | None = None) -> None:
    """Describe a kernel under `folder`, a part of JUPYTER_PATH: an interpreter's, noisy or not."""
    program = ["-m", "ipykernel_launcher"] if draw is None else ["-P", str(NOISE)]
    spec = {
        "argv": [str(python), *program, "-f", "{connection_file}"],
        "display_name": name,
        "language": "python",
        "env": {} if draw is None else {"ROUNDING": str(draw)},
    }
    kernel = folder / "kernels" / name
    kernel.mkdir(parents=True, exist_ok=True)
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")


def execute(notebook: NotebookNode, folder: Path, kernel: str) -> list[float]:
    """Run every cell, in place, and return how many seconds each code cell took."""
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, kernel_name=kernel, timeout=900, resources=resources)
    seconds = []
    with client.setup_kernel(stderr=subprocess.DEVNULL):
        for index, cell in enumerate(notebook.cells):
            start = time.perf_counter()
            client.execute_cell(cell, index)
            if cell.cell_type == "code":
                seconds.append(time.perf_counter() - start)
    return seconds


def texts(notebook: NotebookNode) -> Texts:
    """Return what each code cell shows as text, as nbval compares it: without pictures' bytes."""
    rules = configparser.RawConfigParser()
    rules.read(BOOK / "_tools" / "sanitize.cfg")

    def clean(text: str) -> str:
        for rule in rules.sections():
            text = re.sub(rules[rule]["regex"], rules[rule]["replace"], text)
        return text

    return {
        cell.id: [
            (kind, clean(text))
            for output in outputs.merged_streams(cell.outputs)
            for kind, text in shown(output).items()
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def shown(output: NotebookNode) -> dict[str, str]:
    """Return the text of an output by its kind."""
    if output.output_type == "stream":
        return {output.name: output.text}
    if output.output_type == "error":
        return {"error": f"{output.ename}: {output.evalue}"}
    return {kind: text for kind, text in output.data.items() if kind.startswith("text/")}


class Rerun(NamedTuple):
    """What a notebook had stored, what it printed now, and the seconds of each code cell."""

    stored: Texts
    found: Texts
    seconds: list[float]

    def differences(self, skip: int = 0) -> str:
        """Return each code cell that prints something else, in full, but for the first ones."""
        return "\n".join(
            f"code cell {number} ({cell}) prints something else\n{told('stored', text)}\n"
            f"{told('now', self.found[cell])}"
            for number, (cell, text) in enumerate(self.stored.items())
            if number >= skip and self.found[cell] != text
        )


def told(when: str, text: list[tuple[str, str]]) -> str:
    """Return lines with their margin."""
    lines = [(kind, line) for kind, each in text for line in each.splitlines()]
    return "\n".join(
        f"{when:>8} | {line}" if kind == "stdout" else f"{when:>8}, {kind} | {line}"
        for kind, line in lines
    )


def rerun(path: Path, folder: Path, kernel: str) -> Rerun:
    """Run a notebook in a folder, and return what it printed beside what it had stored."""
    notebook = nbformat.read(path, as_version=4)
    stored = texts(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []  # of a cell that is skipped as well
    seconds = execute(notebook, folder, kernel)
    return Rerun(stored, texts(notebook), seconds)
