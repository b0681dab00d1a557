"""The built book: no warning, no broken link, nothing without a title or alternative text."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from chapters import ROOT, chapter_files, config, toc_files
from fontTools.ttLib import TTFont
from verdicts import is_current

GENERATED = {"genindex", "search"}
PREFIX = urlsplit(config()["repository"]["url"]).path.rpartition("/")[2]


def test_every_page_in_the_contents_is_built(pages: dict[str, BeautifulSoup]) -> None:
    assert {f"{path.stem}.html" for path in toc_files()} <= set(pages)


def test_every_page_has_a_title_and_a_language(pages: dict[str, BeautifulSoup]) -> None:
    for name, page in pages.items():
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
                path = unquote(parts.path).removeprefix(f"/{PREFIX}/")  # on the 404 page
                target = (site / name).parent / path if path else site / name
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


def test_every_page_has_a_description_and_a_preview(
    site: Path, pages: dict[str, BeautifulSoup]
) -> None:
    described: dict[str, str] = {}
    for path in toc_files():
        page = pages[f"{path.stem}.html"]
        text = page.select_one("meta[name=description]")["content"]
        assert 50 <= len(text) <= 160, (path.stem, text)
        assert not text.startswith("About "), (path.stem, text)  # how long it takes, not what it is
        described[text] = path.stem
        shared = {tag["property"]: tag["content"] for tag in page.select("meta[property^='og:']")}
        assert shared["og:title"] == page.article.h1.find(string=True).strip()
        assert shared["og:description"] == text
        assert urlsplit(shared["og:url"]).path == f"/{PREFIX}/{path.stem}.html"
        picture = urlsplit(shared["og:image"]).path.removeprefix(f"/{PREFIX}/")
        assert (site / picture).is_file()
    assert len(described) == len(toc_files()), described


def test_the_sitemap_lists_the_pages_of_the_contents(site: Path) -> None:
    text = (site / "sitemap.xml").read_text("utf-8")
    listed = {address.rpartition("/")[2] for address in re.findall(r"<loc>(.*?)</loc>", text)}
    assert listed == {f"{path.stem}.html" for path in toc_files()}


def test_an_address_is_canonical_only_where_it_is_configured(
    pages: dict[str, BeautifulSoup],
) -> None:
    configured = bool(config()["html"]["baseurl"])
    for path in toc_files():
        assert bool(pages[f"{path.stem}.html"].select("link[rel=canonical]")) == configured


def test_chapters_have_what_a_reader_may_want_of_them(pages: dict[str, BeautifulSoup]) -> None:
    release = config()["sphinx"]["config"]["release"]
    for path in chapter_files():
        page = pages[f"{path.stem}.html"]
        wanted = {
            "Binder": f"a[href*='mybinder.org'][href*='/{release}?']",
            "Colab": f".dropdown-menu a[href*='colab'][href$='/blob/{release}/book/{path.name}']",
            "download": f"a[href$='_sources/{path.name}']",
            "edit": f"a[href*='/edit/'][href$='book/{path.name}']",
            "report": "a[href*='/issues/new']",
            "on-page contents": ".page-toc a",
            "neighbours": ".prev-next-area a",
        }
        assert not [name for name, found in wanted.items() if not page.select(found)], path.stem


def test_mathematics_is_drawn_without_a_script(pages: dict[str, BeautifulSoup]) -> None:
    for name, page in pages.items():
        for formula in page.select(".math"):
            assert formula.find("math"), (name, formula)
    assert pages["backprop.html"].select_one("div.math .eqno").get_text() == "(1)"


def test_every_character_of_the_mathematics_has_a_glyph(
    site: Path, pages: dict[str, BeautifulSoup]
) -> None:
    glyphs = TTFont(site / "_static" / "math.woff2").getBestCmap()
    text = "".join(formula.get_text() for page in pages.values() for formula in page("math"))
    text += "".join("√" for page in pages.values() for _ in page(["msqrt", "mroot"]))
    invisible = {"\ufe00", "\u2061", "\u2062", "\u2063", "\n"}
    missing = {character for character in text if ord(character) not in glyphs} - invisible
    assert not {hex(ord(character)) for character in missing}


def test_every_icon_has_a_glyph(site: Path, pages: dict[str, BeautifulSoup]) -> None:
    styles = (site / "_static/styles/book.css").read_text("utf-8")
    sizes = {"fa-solid", "fa-brands", "fa-regular", "fa-lg"}
    named = {
        icon
        for page in pages.values()
        for tag in page.select("[class*='fa-']")
        for icon in tag["class"]
        if icon.startswith("fa-")
    } - sizes
    assert len(named) > 5
    assert not {icon for icon in named if f".{icon}:before" not in styles}
    fonts = list((site / "_static/vendor/fontawesome/webfonts").glob("*.woff2"))
    assert fonts
    assert sum(font.stat().st_size for font in fonts) < 10_000


def test_the_verdicts_are_what_the_chapters_say() -> None:
    assert is_current(), "run `make verdicts`"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A book of one page with this book's configuration."""
    root = tmp_path / "tiny"
    for part in ("_ext", "_fonts", "_tools", "_static", "_templates"):
        ignore = shutil.ignore_patterns("__pycache__", "*.png")
        shutil.copytree(ROOT / "book" / part, root / "book" / part, ignore=ignore)
    shutil.copy(ROOT / "_config.yml", root)
    (root / "book" / "references.bib").write_text("")
    toc = {"format": "jb-book", "root": "intro", "chapters": [{"file": "other"}]}
    (root / "book" / "_toc.yml").write_text(yaml.safe_dump(toc))
    (root / "book" / "other.md").write_text("# Another page\n")
    (root / "book" / "intro.md").write_text("# A book\n\n[nowhere](gone.md)\n")
    return root


def test_a_verdict_quotes_its_claim_and_leads_to_the_page_of_all(
    pages: dict[str, BeautifulSoup],
) -> None:
    collected = pages["verdicts.html"]
    for path in chapter_files():
        for box in pages[f"{path.stem}.html"].select(".callout.verdict"):
            same = collected.select_one(f"#{box['id']}")
            quotes = [each.select("p")[1].get_text() for each in (box, same)]
            links = [each.select_one(".admonition-title a")["href"] for each in (box, same)]
            assert quotes[0] == quotes[1]
            assert re.fullmatch("“.+”", quotes[0])
            assert links == [f"{page}.html#{box['id']}" for page in ("verdicts", path.stem)]


def test_a_build_that_failed_fails_again_until_it_is_mended(
    tiny: Path, build: Callable[[Path, Path], CompletedProcess[str]]
) -> None:
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
