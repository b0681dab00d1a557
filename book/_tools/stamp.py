"""Write the course's address and release everywhere they appear.

`make stamp REPOSITORY=https://github.com/you/name RELEASE=v1.0` sets both in `_config.yml`, the
one place where they are kept, and from there in the chapters and assignments, README.md,
CONTRIBUTING.md, CITATION.cff, pyproject.toml, the companion's `__version__`, and the links from its
modules to their chapters. Without the two it writes again what `_config.yml` says. Whatever else
the files hold stays as it is.

Links to Colab and Binder name the release's tag and not a branch: the notebook that opens is then
the one that was checked with the companion that its first cell installs, and stays so when the
branch moves on.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from chapters import ROOT, assignment_files, chapter_files, config, toc_files
from install_cell import stamp as stamp_install_cell

OWNER_AND_NAME = r"[\w.-]+/[\w.-]+"
COLAB_LINK_TEXT = "Open this chapter on Colab"


class StampError(Exception):
    """The address or the release cannot be used, or a file has no place for it."""


class Published(NamedTuple):
    """Where the course is published, and as which release."""

    url: str
    release: str

    @property
    def slug(self) -> str:
        """The account and the name."""
        return self.url.removeprefix("https://github.com/")

    @property
    def version(self) -> str:
        """The release without the letter in front."""
        return self.release.removeprefix("v")

    def colab(self, notebook: str) -> str:
        """Return the address that opens a notebook of the book on Colab."""
        root = "https://colab.research.google.com/github"
        return f"{root}/{self.slug}/blob/{self.release}/book/{notebook}"

    @property
    def site(self) -> str:
        """The address that GitHub Pages gives to the book."""
        owner, name = self.slug.split("/")
        return f"https://{owner}.github.io/{name}/"

    def settings(self) -> dict[str, Any]:
        """Return what `_config.yml` says of it."""
        return {"repository": {"url": self.url}, "sphinx": {"config": {"release": self.release}}}


def read(repository: str, release: str) -> Published:
    """Return the address, without `.git` and a final slash, and the release; or say what is wrong.

    Raises:
        StampError: if the address is not a repository's on GitHub, from which Colab opens
            notebooks, or if the release is not a tag such as v1.0.
    """
    url = repository.strip().rstrip("/").removesuffix(".git")
    if not re.fullmatch(rf"https://github\.com/{OWNER_AND_NAME}", url):
        raise StampError(f"REPOSITORY is {repository!r}; it must be https://github.com/you/name")
    if not re.fullmatch(r"v\d+(\.\d+)*((a|b|rc)\d+)?", release.strip()):
        raise StampError(f"RELEASE is {release!r}; it must be a tag such as v1.0")
    return Published(url, release.strip())


def configured(root: Path = ROOT) -> Published:
    """Return what `_config.yml` says."""
    settings = config(root)
    return read(settings["repository"]["url"], settings["sphinx"]["config"]["release"])


def put(text: str, before: str, value: str) -> str:
    """Return `text` with `value` for the word that follows the one place that `before` matches."""
    new, count = re.subn(rf"(?m)({before})[^\s\"]+", lambda found: found[1] + value, text)
    if count != 1:
        raise StampError(f"expected one place like {before!r}, found {count}")
    return new


def relink(text: str, old: Published, new: Published) -> str:
    """Return `text` with its links to the repository, to Colab and to Binder renewed."""
    text = re.sub(rf"{re.escape(old.url)}(?![\w-])", lambda _: new.url, text)
    colab = rf"https://colab\.research\.google\.com/github/{OWNER_AND_NAME}/blob/[^/\s)]+/book/"
    text = re.sub(colab, lambda _: new.colab(""), text)
    binder = r"(https://mybinder\.org/v2/gh)/[\w.-]+/[\w.-]+/[^?\s)]+"
    return re.sub(binder, lambda found: f"{found[1]}/{new.slug}/{new.release}", text)


def stamp_notebook(notebook: nbformat.NotebookNode, old: Published, new: Published) -> None:
    """Renew in place the install cell and the links of a chapter."""
    stamp_install_cell(notebook, new.settings())
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relink(cell.source, old, new)


def notebook_text(text: str, old: Published, new: Published) -> str:
    """Return a stored notebook with its install cell and links renewed."""
    notebook = nbformat.reads(text, as_version=4)
    stamp_notebook(notebook, old, new)
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


def config_text(text: str, new: Published) -> str:
    """Return `_config.yml` with the address and the release set."""
    text = put(text, r"^repository:\n(?:[ #].*\n)*?  url: *", new.url)
    return put(text, r"^    release: *", new.release)


def module_text(text: str, site: str) -> str:
    """Return a module of the companion with the link to its chapter, if it has one, renewed."""
    return re.sub(r"(?m)^Chapter: \S+/([\w-]+\.html)$", lambda m: f"Chapter: {site}{m[1]}", text)


def citation_text(text: str, new: Published) -> str:
    """Return CITATION.cff with the address and the version set."""
    return put(put(text, "^repository-code: *", new.url), "^version: *", new.version)


def stamped(new: Published, root: Path = ROOT) -> dict[Path, str]:
    """Return what each file that holds the address or the release reads once they are written."""
    old = configured(root)
    pages = [path for path in toc_files(root / "book") if path.suffix == ".md" and path.is_file()]
    edits: dict[Path, Callable[[str], str]] = {
        root / "_config.yml": lambda text: config_text(text, new),
        root / "CITATION.cff": lambda text: citation_text(text, new),
        root / "pyproject.toml": lambda text: put(text, '^version = "', new.version),
        root / "companion/__init__.py": lambda text: put(text, '^__version__ = "', new.version),
    }
    site = config(root)["html"]["baseurl"].rstrip("/")
    site = f"{site}/" if site else new.site
    modules = [path for path in (root / "companion").rglob("*.py") if path not in edits]
    edits |= dict.fromkeys(modules, lambda text: module_text(text, site))
    documents = [root / "README.md", root / "CONTRIBUTING.md", *pages]
    edits |= dict.fromkeys(documents, lambda text: relink(text, old, new))
    notebooks = [*chapter_files(root / "book"), *assignment_files(root / "book")]
    edits |= dict.fromkeys(notebooks, lambda text: notebook_text(text, old, new))
    texts = {}
    for path, edit in edits.items():
        try:
            texts[path] = edit(path.read_text(encoding="utf-8"))
        except StampError as error:
            raise StampError(f"{path.relative_to(root)}: {error}") from None
    return texts


def differing(new: Published, root: Path = ROOT) -> dict[Path, str]:
    """Return the files, with the text they ought to have, that say something else."""
    texts = stamped(new, root)
    return {path: text for path, text in texts.items() if path.read_text("utf-8") != text}


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write the address and release given, or those of `_config.yml`; return the exit code."""
    try:
        published = read(*arguments) if arguments else configured(root)
        changed = differing(published, root)
    except StampError as error:
        print(error)
        return 2
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
        print(f"changed: {path.relative_to(root)}")
    print(f"{published.url}, release {published.release}, stands in every file that names it.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
