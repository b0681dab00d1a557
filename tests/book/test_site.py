"""The built book: no warning, no broken link, nothing without a title or alternative text."""

import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from chapters import ROOT, toc_files
from verdicts import is_current

GENERATED = {"genindex", "search"}


def build(root: Path, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "book/_tools/build.py"), str(root), str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book, built afresh; a worker runs this file alone, so it is built once."""
    output = tmp_path_factory.mktemp("site")
    done = build(ROOT, output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return output / "_build" / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, BeautifulSoup]:
    return {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts
    }


def test_every_page_in_the_contents_is_built(pages: dict[str, BeautifulSoup]) -> None:
    assert {f"{path.stem}.html" for path in toc_files()} <= set(pages)


def test_every_page_has_a_title_and_a_language(pages: dict[str, BeautifulSoup]) -> None:
    for name, page in pages.items():
        if page.find("meta", attrs={"http-equiv": "Refresh"}):
            continue  # index.html, which leads to the introduction
        assert page.title is not None, name
        assert page.title.get_text(strip=True), name
        if Path(name).stem not in GENERATED:
            assert len(page.select("article h1")) == 1, name
            assert page.html["lang"] == "en", name


def test_every_image_has_alternative_text(pages: dict[str, BeautifulSoup]) -> None:
    bare = [
        f"{name}: {image.get('src')}"
        for name, page in pages.items()
        for image in page.find_all("img")
        if not (image.get("alt") or "").strip() or image["alt"].startswith("_images")
    ]
    assert not bare, bare


def test_every_internal_link_and_anchor_resolves(
    site: Path, pages: dict[str, BeautifulSoup]
) -> None:
    anchors = {name: {tag["id"] for tag in page.find_all(id=True)} for name, page in pages.items()}
    broken = []
    for name, page in pages.items():
        for tag, key in (("a", "href"), ("img", "src"), ("link", "href"), ("script", "src")):
            for element in page.find_all(tag):
                parts = urlsplit(element.get(key) or "")
                if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                    continue
                target = (site / name).parent / unquote(parts.path) if parts.path else site / name
                at = target.resolve().relative_to(site.resolve()).as_posix()
                fragment = unquote(parts.fragment)
                if not target.is_file() or (
                    fragment and at in anchors and fragment not in anchors[at]
                ):
                    broken.append(f"{name}: {element.get(key)}")
    assert not broken, broken


def test_ids_are_unique(pages: dict[str, BeautifulSoup]) -> None:
    for name, page in pages.items():
        ids = [tag["id"] for tag in page.select("article [id]")]
        assert len(ids) == len(set(ids)), name


def test_there_is_one_search_bar_and_chapters_open_on_colab(
    pages: dict[str, BeautifulSoup],
) -> None:
    chapters = [path.stem for path in toc_files() if path.suffix == ".ipynb"]
    for stem in chapters:
        page = pages[f"{stem}.html"]
        assert len(page.select("form.bd-search")) == 1, stem
        assert page.select_one(f"a[href*='colab'][href$='book/{stem}.ipynb']"), stem


def test_the_verdicts_are_what_the_chapters_say() -> None:
    assert is_current(), "run `make verdicts`"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A book of one page with this book's configuration."""
    root = tmp_path / "tiny"
    for part in ("_ext", "_tools", "_static"):
        ignore = shutil.ignore_patterns("__pycache__", "*.png")
        shutil.copytree(ROOT / "book" / part, root / "book" / part, ignore=ignore)
    shutil.copy(ROOT / "_config.yml", root)
    (root / "book" / "references.bib").write_text("")
    toc = {"format": "jb-book", "root": "intro"}
    (root / "book" / "_toc.yml").write_text(yaml.safe_dump(toc))
    (root / "book" / "intro.md").write_text("# A book\n\n[nowhere](gone.md)\n")
    return root


def test_a_build_that_failed_fails_again_until_it_is_mended(tiny: Path) -> None:
    for _ in range(2):
        done = build(tiny, tiny)
        assert done.returncode != 0, done.stdout + done.stderr
        assert "gone.md" in done.stderr
    (tiny / "book" / "intro.md").write_text(
        "# A book\n\n> **Predict.** So?\n\n> A quote.\n\n"
        "> **Verdict on B5: holds if so.** It *is*.\n"
    )
    done = build(tiny, tiny)
    assert done.returncode == 0, done.stdout + done.stderr
    html = (tiny / "_build" / "html" / "intro.html").read_text("utf-8")
    page = BeautifulSoup(html, "html.parser")
    titles = [title.get_text() for title in page.select(".callout > .admonition-title")]
    assert titles == ["Predict.", "Verdict on B5: holds if so."]
    assert page.select_one(".callout.verdict.holds-if#verdict-b5 em")
    assert [quote.get_text(strip=True) for quote in page.find_all("blockquote")] == ["A quote."]
