"""Build the book without a warning: `python book/_tools/build.py [ROOT] [OUTPUT]`.

Sphinx warns about a page when it reads it and remembers the page whatever came of it, so a second
run after a failure would pass. A failed build therefore forgets everything that it remembered, and
so does one whose configuration, extension or styles changed, which Sphinx does not notice.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def fingerprint(root: Path) -> str:
    """Return a digest of the files that shape every page."""
    shaping = [root / "_config.yml", root / "book/_toc.yml"]
    for folder in ("_ext", "_fonts", "_static", "_templates"):
        shaping += sorted(path for path in (root / "book" / folder).glob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in shaping:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def forget(output: Path) -> None:
    """Remove the built pages and what Sphinx remembers of them."""
    for folder in (".doctrees", "html"):
        shutil.rmtree(output / "_build" / folder, ignore_errors=True)


def first_page(root: Path, output: Path) -> None:
    """Put the introduction at the book's address, in place of a page that only leads to it."""
    toc = yaml.safe_load((root / "book" / "_toc.yml").read_text(encoding="utf-8"))
    site = output / "_build" / "html"
    shutil.copyfile(site / f"{toc['root']}.html", site / "index.html")


def build(root: Path = ROOT, output: Path | None = None) -> int:
    """Build `root`'s book into `output/_build/html` and return the exit code."""
    output = root if output is None else output
    stamp = output / "_build" / ".shape"
    shape = fingerprint(root)
    if not stamp.is_file() or stamp.read_text() != shape:
        forget(output)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    command += [
        str(root / "book"),
        "--config",
        str(root / "_config.yml"),
        "--path-output",
        str(output),
    ]
    command += ["-W", "--keep-going", "-n", "-q"]
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        forget(output)
        print(f"The book was not built: Sphinx's messages are above (exit {code}).")
        return code
    first_page(root, output)
    stamp.write_text(shape)
    return 0


if __name__ == "__main__":
    sys.exit(build(*(Path(argument).resolve() for argument in sys.argv[1:3])))
