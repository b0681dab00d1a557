"""The house rules of the chapters: each takes a chapter and returns its complaints."""

import ast
import base64
import json
import re
import statistics
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup
from chapters import BOOK, Cell, Notebook, config, ledger, read, toc_files
from install_cell import install_cell
from markdown_it import MarkdownIt
from pybtex.database import parse_file
from stamp import COLAB_LINK_TEXT, configured
from verdicts import VERDICTS, callout

LONGEST_CELL = 20
MEDIAN_CELL = 8
IGNORED_OUTPUTS = 0  # cells tagged nbval-ignore-output, in the whole book
SHORTEST_ALT = 30
SHORTEST_CAPTION = 20
LONGEST_CHECK = 50
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PAPER_FREE = {"github.com", "colab.research.google.com", "pytorch.org", "docs.pytorch.org"}


class Chapter(NamedTuple):
    """A notebook and where it stands."""

    path: Path
    notebook: Notebook

    @property
    def cells(self) -> list[Cell]:
        return self.notebook["cells"]

    @property
    def code(self) -> list[tuple[int, Cell]]:
        return [(i, c) for i, c in enumerate(self.cells) if c["cell_type"] == "code"]

    @property
    def markdown(self) -> list[tuple[int, Cell]]:
        return [(i, c) for i, c in enumerate(self.cells) if c["cell_type"] == "markdown"]

    @property
    def course(self) -> dict[str, Any]:
        return self.notebook["metadata"].get("course", {})

    def at(self, index: int) -> str:
        cell = self.cells[index]
        return f"{self.path.name}, cell {index} ({cell.get('id', 'no id')})"


def chapter(path: Path) -> Chapter:
    return Chapter(path, read(path))


def outputs_text(cell: Cell) -> str:
    """Everything a cell shows as text."""
    parts = []
    for output in cell.get("outputs", []):
        parts.append(output.get("text", ""))
        parts += [
            html_text(value) if mime == "text/html" else value
            for mime, value in output.get("data", {}).items()
            if mime.startswith("text/") and isinstance(value, str)
        ]
    return "\n".join(parts)


def html_text(html: str) -> str:
    """What a page says, including what its sliders will say, and nothing of its pictures."""
    page = BeautifulSoup(re.sub(r'data:image/[^"]+', "", html), "html.parser")
    return " ".join(page.find_all(string=True))


def explorers(cell: Cell) -> Iterator[BeautifulSoup]:
    """The sliders that a cell shows."""
    for output in cell.get("outputs", []):
        html = output.get("data", {}).get("text/html", "")
        if isinstance(html, str) and html.startswith('<div class="explore">'):
            yield BeautifulSoup(html, "html.parser")


def has_image(cell: Cell) -> bool:
    return any(
        mime.startswith("image/")
        for output in cell.get("outputs", [])
        for mime in output.get("data", {})
    )


def tags(cell: Cell) -> list[str]:
    return cell["metadata"].get("tags", [])


# ---------------------------------------------------------------- what was run, and what it showed


def was_run(chapter: Chapter) -> list[str]:
    """Every code cell was run, in order, from a fresh kernel."""
    return [
        f"{chapter.at(i)}: execution count {cell.get('execution_count')}, expected {count}; "
        "run `make outputs`"
        for count, (i, cell) in enumerate(chapter.code, 1)
        if cell.get("execution_count") != count
    ]


def nbval_sees_all(chapter: Chapter) -> list[str]:
    """Nothing is hidden from nbval but outputs that have no digit."""
    wrong = []
    for i, cell in chapter.code:
        if re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)_", cell["source"]):
            wrong.append(f"{chapter.at(i)}: an nbval comment; use no such switch")
        for tag in tags(cell):
            if tag == "nbval-ignore-output":
                if re.search(r"\d", outputs_text(cell)):
                    wrong.append(f"{chapter.at(i)}: ignores an output that has numbers")
            elif tag.startswith("nbval-") or tag == "raises-exception":
                wrong.append(f"{chapter.at(i)}: the tag {tag} is not allowed")
    return wrong


def ignored_outputs(chapters: Iterable[Chapter]) -> list[str]:
    """The cells whose outputs nbval ignores are counted."""
    found = [
        chapter.at(i)
        for chapter in chapters
        for i, cell in chapter.code
        if "nbval-ignore-output" in tags(cell)
    ]
    if len(found) == IGNORED_OUTPUTS:
        return []
    return [f"{len(found)} outputs are ignored, {IGNORED_OUTPUTS} are counted: {found}"]


def outputs_are_clean(chapter: Chapter) -> list[str]:
    """No errors, no stderr, no addresses, no widget views, no displayed artists."""
    wrong = []
    for i, cell in chapter.code:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                wrong.append(f"{chapter.at(i)}: its output is an error, {output.get('ename')}")
            if output.get("name") == "stderr":
                wrong.append(f"{chapter.at(i)}: it wrote to stderr")
            if WIDGET_VIEW in output.get("data", {}):
                wrong.append(f"{chapter.at(i)}: it stores a widget view; run `make outputs`")
        address = re.search(r"\b0x[0-9a-fA-F]{4,}", outputs_text(cell))
        if address:
            wrong.append(f"{chapter.at(i)}: its output has an address, {address[0]}")
        if cell["source"].rstrip().endswith(";"):
            wrong.append(
                f"{chapter.at(i)}: a final semicolon does not hide output from nbval; "
                "end with an assignment"
            )
    return wrong


def cells_are_short(chapter: Chapter) -> list[str]:
    """No code cell over 20 lines that are not blank; at most 8 in the median, without checks."""
    lengths = {
        i: sum(bool(line.strip()) for line in cell["source"].splitlines())
        for i, cell in chapter.code
        if "check" not in tags(cell)
    }
    wrong = [
        f"{chapter.at(i)}: {n} lines, at most {LONGEST_CELL}; move some to the companion"
        for i, n in lengths.items()
        if n > LONGEST_CELL
    ]
    median = statistics.median(lengths.values()) if lengths else 0
    if median > MEDIAN_CELL:
        wrong.append(f"{chapter.path.name}: the median code cell has {median} lines, not 8 or less")
    return wrong


def threads_are_left_alone(chapter: Chapter) -> list[str]:
    """The runner sets the number of threads, never a chapter."""
    return [
        f"{chapter.at(i)}: sets threads ({found[0]}); the runner does that"
        for i, cell in chapter.code
        if (found := re.search(r"set_num_(interop_)?threads|\b(OMP|MKL|OPENBLAS)_", cell["source"]))
    ]


def draws_can_be_repeated(chapter: Chapter) -> list[str]:
    """Generators are seeded by companion.data, so that one number draws the chapter anew."""
    own = r"torch\.manual_seed|torch\.Generator|default_rng|RandomState|np\.random|import random"
    return [
        f"{chapter.at(i)}: draws with {found[0]}; data.generator and data.manual_seed can be "
        "repeated with other draws"
        for i, cell in chapter.code
        if (found := re.search(own, cell["source"]))
    ]


# ---------------------------------------------------------------- figures


def figures_are_described(chapter: Chapter) -> list[str]:
    """Each image has alternative text, a caption and a name."""
    wrong, names = [], set()
    for i, cell in chapter.code:
        if not has_image(cell):
            continue
        mystnb = cell["metadata"].get("mystnb", {})
        alt = mystnb.get("image", {}).get("alt", "")
        figure = mystnb.get("figure", {})
        caption, name = figure.get("caption", ""), figure.get("name", "")
        if len(alt) < SHORTEST_ALT:
            wrong.append(f"{chapter.at(i)}: mystnb.image.alt has {len(alt)} characters, not 30")
        if len(caption) < SHORTEST_CAPTION:
            wrong.append(f"{chapter.at(i)}: mystnb.figure.caption is too short ({len(caption)})")
        if alt and alt == caption:
            wrong.append(f"{chapter.at(i)}: the alternative text repeats the caption")
        if not name or name in names:
            wrong.append(f"{chapter.at(i)}: mystnb.figure.name is missing or used twice: {name!r}")
        names.add(name)
        images = sum(
            any(mime.startswith("image/") for mime in output.get("data", {}))
            for output in cell["outputs"]
        )
        if images > 1:
            wrong.append(f"{chapter.at(i)}: {images} images share one description; one a cell")
    return wrong


def sliders_are_described(chapter: Chapter) -> list[str]:
    """Sliders can be linked to, their pictures described, and no two of these read alike."""
    wrong = []
    for i, cell in chapter.code:
        for page in explorers(cell):
            alt = page.find("img").get("alt", "")
            others = json.loads(page.find("script", type="application/json").string)
            readings = [page.find("figcaption").get_text(), *(reading for _, reading in others)]
            if not cell["metadata"].get("name"):
                wrong.append(f"{chapter.at(i)}: sliders need a cell with a name")
            if len(alt) < SHORTEST_ALT:
                wrong.append(f"{chapter.at(i)}: alt has {len(alt)} characters, not {SHORTEST_ALT}")
            if len(set(readings)) < len(readings):
                wrong.append(f"{chapter.at(i)}: two positions of the sliders read alike")
    return wrong


def figure_names_are_unique(chapters: Iterable[Chapter]) -> list[str]:
    """No two figures of the book share a name: they are labels of the whole book."""
    named: dict[str, list[str]] = {}
    for chapter in chapters:
        for i, cell in chapter.code:
            name = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
            if name:
                named.setdefault(name, []).append(chapter.at(i))
    return [
        f"{n} names {len(at)} figures: {', '.join(at)}" for n, at in named.items() if len(at) > 1
    ]


def figures_are_backed(chapter: Chapter) -> list[str]:
    """A figure's cell, or the code cell before or after it, prints or asserts something."""
    code, wrong = chapter.code, []

    def backs(cell: Cell) -> bool:
        printed = re.sub(r"<Figure [^>]*>", "", outputs_text(cell)).strip()
        return bool(printed) or bool(re.search(r"^\s*assert\b", cell["source"], re.MULTILINE))

    for position, (i, cell) in enumerate(code):
        near = [other for _, other in code[max(0, position - 1) : position + 2]]
        if has_image(cell) and not any(backs(other) for other in near):
            wrong.append(f"{chapter.at(i)}: no printed or asserted number stands by this figure")
    return wrong


def picture_is_current(chapters: Iterable[Chapter], picture: Path) -> list[str]:
    """The picture that the README and the introduction show is what a chapter drew."""
    marked = [
        (chapter.at(i), output["data"]["image/png"])
        for chapter in chapters
        for i, cell in chapter.code
        if cell["metadata"].get("course-picture")
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    if len(marked) != 1:
        return [f"one cell draws the course picture; found {[where for where, _ in marked]}"]
    where, png = marked[0]
    if not picture.is_file() or picture.read_bytes() != base64.b64decode(png):
        return [f"{where}: {picture.name} is not this cell's picture; run `make outputs`"]
    return []


# ---------------------------------------------------------------- the install cell


def begins_with_install(chapter: Chapter) -> list[str]:
    """The first code cell installs the companion, as _config.yml says, and shows nothing."""
    if not chapter.code:
        return [f"{chapter.path.name}: no code cell"]
    i, cell = chapter.code[0]
    wrong = []
    if cell["source"] != install_cell(config()):
        wrong.append(f"{chapter.at(i)}: not the install cell of _config.yml; run `make stamp`")
    if cell.get("outputs"):
        wrong.append(f"{chapter.at(i)}: the install cell had something to do; use `make outputs`")
    return wrong


def opens_on_colab(chapter: Chapter) -> list[str]:
    """The first cell has a link that opens this chapter, of the release, on Colab."""
    link = f"[{COLAB_LINK_TEXT}]({configured().colab(chapter.path.name)})"
    return [] if link in chapter.cells[0]["source"] else [f"{chapter.at(0)}: it lacks {link}"]


# ---------------------------------------------------------------- prose


def prose(source: str) -> str:
    """Markdown without mathematics, code, comments, HTML tags, links and numbers of headings."""
    text = re.sub(r"^(```|~~~).*?^\1", " ", source, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", " ", text, flags=re.DOTALL)
    text = re.sub(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", " ", text, flags=re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$", " ", text, flags=re.DOTALL)
    text = re.sub(r"(?<![\\$])\$(?!\s)[^$]*?(?<![\\\s])\$(?!\d)", " ", text, flags=re.DOTALL)
    text = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", " ", text, flags=re.DOTALL)
    text = re.sub(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\([^)\s]*(?:\s+\"[^\"]*\")?\)", " ", text)
    text = re.sub(r"<https?://[^>]*>|https?://\S+", " ", text)
    text = re.sub(r"</?[a-zA-Z][^>]*>", " ", text)
    text = re.sub(r"\b(?:1[89]|20)\d0s\b", " ", text)
    return re.sub(r"^(#{1,6}\s+(?:[A-Z][a-z]+\s+)?)[\d.]+", r"\1", text, flags=re.MULTILINE)


def plain(text: str) -> str:
    """Text in which a minus is a hyphen, and thousands are not separated."""
    text = text.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-")
    text = re.sub(r"\s?×\s?10([⁻⁺]?[⁰¹²³⁴-⁹]+)", lambda found: "e" + superscript(found[1]), text)
    text = re.sub(r"(?<![\d])10(⁻[⁰¹²³⁴-⁹]+)", lambda found: "1e" + superscript(found[1]), text)
    text = re.sub(r"(?<=\d)[,\u2009\u202f\u00a0](?=\d{3}(?!\d))", "", text)
    return re.sub(r"e([+-]?)0+(?=\d)", r"e\1", text.replace("e+", "e"))


def superscript(text: str) -> str:
    return "".join(
        "-" if c == "⁻" else "" if c == "⁺" else unicodedata.normalize("NFKC", c) for c in text
    )


NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?![\d])")


def numbers(text: str) -> list[str]:
    """The numbers that must have been measured: with a point, an exponent or three digits."""
    return [
        number
        for number in NUMBER.findall(plain(text))
        if "." in number or "e" in number or len(number) >= 3
    ]


def shown(number: str, text: str) -> bool:
    """Whether a plain text shows this number, and not as a part of another one."""
    return bool(re.search(rf"(?<![\d.]){re.escape(number)}(?![\d]|\.\d|e-?\d)", text))


def numbers_are_shown(chapter: Chapter, bib: Path = BOOK / "references.bib") -> list[str]:
    """Every number in prose, captions and alternative text stands in a text output.

    Free are mathematics, code, links, and the years of the works in references.bib.
    """
    years = set().union(*bibliography(bib).values()) if bib.is_file() else set()
    output = plain("\n".join(outputs_text(cell) for _, cell in chapter.code))
    wrong = []
    for i, cell in enumerate(chapter.cells):
        texts = []
        if cell["cell_type"] == "markdown":
            texts = [prose(own_words(cell["source"]))]
        mystnb = cell["metadata"].get("mystnb", {})
        texts += [
            prose(mystnb.get("image", {}).get("alt", "")),
            prose(mystnb.get("figure", {}).get("caption", "")),
        ]
        for text in texts:
            wrong += [
                f"{chapter.at(i)}: {number} stands in no output of this chapter"
                for number in numbers(text)
                if number not in years and not shown(number, output)
            ]
    return wrong


def own_words(source: str) -> str:
    """What a cell says itself: of a verdict, all but the claim that it quotes."""
    said = callout(source)
    return "\n\n".join([said.title, *said.text]) if said else source


def is_plain_markdown(chapter: Chapter) -> list[str]:
    """No syntax that only this book's builder reads: the chapters open on Colab as well."""
    patterns = {
        "a role": r"\{[a-z:_-]+\}`",
        "a directive": r"^\s*(?:```|~~~|:::)+\s*\{",
        "a colon fence": r"^\s*:::",
        "a target": r"^\([\w-]+\)=\s*$",
    }
    return [
        f"{chapter.at(i)}: {what} of MyST, which Colab shows as it stands"
        for i, cell in chapter.markdown
        for what, pattern in patterns.items()
        if re.search(pattern, cell["source"], re.MULTILINE)
    ]


def equations_are_used(chapter: Chapter) -> list[str]:
    r"""The \tag{n} of a chapter count from 1, and the text refers to each as (n)."""
    found = [
        (i, int(n))
        for i, cell in chapter.markdown
        for n in re.findall(r"\\tag\{(\d+)\}", cell["source"])
    ]
    numbers_found = [n for _, n in found]
    wrong = []
    if numbers_found != list(range(1, len(found) + 1)):
        wrong.append(f"{chapter.path.name}: the equations are numbered {numbers_found}")
    text = " ".join(
        re.sub(r"\$\$.*?\$\$|\\begin\{(\w+\*?)\}.*?\\end\{\1\}", " ", c["source"], flags=re.DOTALL)
        for _, c in chapter.markdown
    )
    text += " ".join(
        cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption", "")
        for _, cell in chapter.code
    )
    wrong += [
        f"{chapter.at(i)}: equation ({n}) is referred to nowhere"
        for i, n in found
        if not re.search(rf"(?<![\w)]) ?\({n}\)", text)
    ]
    return wrong


# ---------------------------------------------------------------- exercises


def exercises_are_solved(chapter: Chapter) -> list[str]:
    """As many folded solutions as exercises; a solution in code is folded everywhere."""
    exercises = solutions = 0
    wrong = []
    for i, cell in enumerate(chapter.cells):
        if cell["cell_type"] == "markdown":
            exercises += len(re.findall(r"^### Exercise \d+", cell["source"], re.MULTILINE))
            solutions += len(re.findall(r"<details", cell["source"]))
        elif "solution" in tags(cell):
            solutions += 1
            meta = cell["metadata"]
            if "hide-cell" not in tags(cell):
                wrong.append(f"{chapter.at(i)}: a solution needs the tag hide-cell")
            if meta.get("jupyter", {}).get("source_hidden") is not True:
                wrong.append(f"{chapter.at(i)}: a solution needs jupyter.source_hidden")
            if meta.get("cellView") != "form":
                wrong.append(f"{chapter.at(i)}: a solution needs cellView: form")
            if not re.match(r"#\s?@title\b", cell["source"]):
                wrong.append(f"{chapter.at(i)}: a solution begins with #@title")
    if solutions < exercises:
        wrong.append(f"{chapter.path.name}: {exercises} exercises, {solutions} solutions")
    return wrong


# ---------------------------------------------------------------- claims


def says_what_it_teaches(chapter: Chapter) -> list[str]:
    """The objectives and the minutes in the metadata stand in the text."""
    text = " ".join(" ".join(cell["source"] for _, cell in chapter.markdown).split())
    course = chapter.course
    wrong = [
        f"{chapter.path.name}: the metadata has no {key}"
        for key in ("claims", "objectives", "minutes")
        if not course.get(key)
    ]
    wrong += [
        f"{chapter.path.name}: this objective is not in the text: {objective!r}"
        for objective in course.get("objectives", [])
        if " ".join(objective.split()) not in text
    ]
    if course.get("minutes") and f"{course['minutes']} minutes" not in text:
        wrong.append(f"{chapter.path.name}: the text does not say '{course['minutes']} minutes'")
    return wrong


def claims_are_judged(chapter: Chapter) -> list[str]:
    """Each claim that a chapter owns is in the ledger and judged once, and no other is judged."""
    known = ledger()
    owned = chapter.course.get("claims", [])
    judged: list[str] = []
    names = [cell["metadata"].get("name") for _, cell in chapter.code]
    wrong = [
        f"{chapter.path.name}: {claim} is not in the ledger"
        for claim in owned
        if claim not in known
    ]
    wrong += [
        f"{chapter.at(i)}: the cell name {n!r} is used twice"
        for (i, _), n in zip(chapter.code, names)
        if n and names.count(n) > 1
    ]
    for i, cell in chapter.markdown:
        data, said = cell["metadata"].get("verdict"), callout(cell["source"])
        if data is None:
            if "**Verdict on" in cell["source"]:
                wrong.append(f"{chapter.at(i)}: a verdict without metadata")
            continue
        if cell["source"].count("**Verdict on") != 1:
            wrong.append(f"{chapter.at(i)}: one verdict a cell")
        claim, verdict = data.get("claim", ""), data.get("verdict", "")
        judged.append(claim)
        if verdict not in VERDICTS:
            wrong.append(f"{chapter.at(i)}: the verdict is {verdict!r}, not one of {VERDICTS}")
        if said is None:
            wrong.append(f"{chapter.at(i)}: does not begin with '> **Verdict on {claim}: ...**'")
        elif said[0] != claim or not agrees(said[1], verdict):
            wrong.append(f"{chapter.at(i)}: says {said[:2]}, its metadata {claim}, {verdict}")
        if data.get("cell") not in names:
            wrong.append(f"{chapter.at(i)}: no code cell is named {data.get('cell')!r}")
        seeds = data.get("seeds")
        if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 0:
            wrong.append(f"{chapter.at(i)}: seeds is {seeds!r}, not a whole number")
    wrong += [
        f"{chapter.path.name}: {claim} is judged {judged.count(claim)} times"
        for claim in owned
        if judged.count(claim) != 1
    ]
    wrong += [
        f"{chapter.path.name}: {claim} is judged but not owned"
        for claim in judged
        if claim not in owned
    ]
    return wrong


def verdicts_are_checked(chapter: Chapter) -> list[str]:
    """Each verdict names its conditions; behind it stands, folded, a check all of which holds."""
    wrong = []
    for i, cell in chapter.markdown:
        data = cell["metadata"].get("verdict")
        if data is None:
            continue
        wrong += [
            f"{chapter.at(i)}: the metadata do not say what was {word}"
            for word in ("varied", "kept")
            if not str(data.get(word, "")).strip()
        ]
        below = chapter.cells[i + 1] if i + 1 < len(chapter.cells) else {"metadata": {}}
        if below["metadata"].get("check", {}).get("claim") != data.get("claim"):
            wrong.append(f"{chapter.at(i)}: the next cell is not the check of {data.get('claim')}")
        else:
            wrong += [f"{chapter.at(i + 1)}: {fault}" for fault in faults_of_check(below)]
    return wrong


#: Verdicts that nothing outside their chapter can try, and why.
WITHOUT_ADVERSARY = {
    "B9": "who found what, and when",
    "S4": "it is about rules of diagnosis, as the next two: they are tried together with those",
    "O5": "see S4",
    "G2": "see S4",
}


def adversaries(folder: Path) -> dict[str, list[str]]:
    """By chapter, the claims whose verdicts are tried at other settings, in tests/verdicts."""
    chapter = re.compile(r'pytest\.mark\.files\("book/(\w+)\.ipynb"\)')
    marked = re.compile(r'^@pytest\.mark\.claim\("(\w+)"\)$', re.MULTILINE)
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("against_*.py")):
        text = path.read_text(encoding="utf-8")
        about = chapter.search(text)
        assert about, f"{path.name} does not say which chapter it is about"
        found.setdefault(about[1], []).extend(marked.findall(text))
    return found


def faults_of_check(cell: Cell) -> list[str]:
    """What a check's cell lacks."""
    claim, meta = cell["metadata"]["check"]["claim"], cell["metadata"]
    said = re.fullmatch(r"(\w+): (\d+) of (\d+) clauses hold", outputs_text(cell).strip())
    words = [
        key.value
        for node in ast.walk(ast.parse(cell["source"]))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    ]
    needed = {
        f"its name is not check-{claim.lower()}": meta.get("name") == f"check-{claim.lower()}",
        "it needs the tags check and hide-input": {"check", "hide-input"} <= set(tags(cell)),
        "it needs jupyter.source_hidden": meta.get("jupyter", {}).get("source_hidden") is True,
        "it needs cellView: form": meta.get("cellView") == "form",
        "it begins with # @title": cell["source"].startswith("# @title "),
        f"it does not say that all clauses of {claim} hold": (
            said and said[1] == claim and said[2] == said[3]
        ),
        "two clauses have the same words": len(words) == len(set(words)),
        "no opposite is named that it must notice": meta["check"].get("opposites"),
        f"it has more than {LONGEST_CHECK} lines": cell["source"].count("\n") < LONGEST_CHECK,
    }
    return [fault for fault, kept in needed.items() if not kept]


def agrees(title: str, verdict: str) -> bool:
    """Whether the bold words are the verdict; `holds if` goes on with its condition."""
    if verdict == "holds if":
        return title.startswith("holds if ")
    return bool(re.fullmatch(rf"{re.escape(verdict)}\.?", title.strip()))


def claims_have_one_owner(chapters: Iterable[Chapter]) -> list[str]:
    """No two chapters own a claim."""
    owners: dict[str, list[str]] = {}
    for chapter in chapters:
        for claim in chapter.course.get("claims", []):
            owners.setdefault(claim, []).append(chapter.path.name)
    return [f"{c} is owned by {' and '.join(o)}" for c, o in owners.items() if len(o) > 1]


# ---------------------------------------------------------------- links and references


def links(source: str) -> Iterator[tuple[str, str]]:
    """The links of a Markdown text: address and text."""
    for token in MarkdownIt("commonmark").enable("table").parse(source):
        children = token.children or []
        for position, child in enumerate(children):
            if child.type == "link_open":
                text = ""
                for inner in children[position + 1 :]:
                    if inner.type == "link_close":
                        break
                    text += inner.content
                yield str(child.attrGet("href")), text
            elif child.type == "image":
                yield str(child.attrGet("src")), child.content


def page_sources(path: Path) -> list[tuple[str, str]]:
    """The Markdown of a page or notebook: where, and the text."""
    if path.suffix == ".md":
        return [(path.name, path.read_text(encoding="utf-8"))]
    page = chapter(path)
    texts = [(page.at(i), cell["source"]) for i, cell in page.markdown]
    for i, cell in page.code:
        caption = cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption")
        if caption:
            texts.append((page.at(i), caption))
    return texts


def anchors(path: Path) -> set[str]:
    """The anchors that a page offers: its headings, cells, figures and verdicts."""
    offered = set()
    for _, source in page_sources(path):
        tokens = MarkdownIt("commonmark").parse(source)
        for position, token in enumerate(tokens):
            if token.type == "heading_open":
                offered.add(heading_anchor(tokens[position + 1].content))
    if path.suffix == ".ipynb":
        page = chapter(path)
        for _, cell in page.code:
            if "name" in cell["metadata"]:
                offered.add(f"cell-{cell['metadata']['name']}")
            figure = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
            offered |= {figure} if figure else set()
    offered |= {
        f"verdict-{said.claim.lower()}"
        for _, source in page_sources(path)
        for quote in re.findall(r"(?:^>.*\n?)+", source, re.MULTILINE)
        if (said := callout(quote))
    }
    return offered


def heading_anchor(text: str) -> str:
    """A heading's anchor, as GitHub and MyST make it."""
    text = re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"[^\w\u4e00-\u9fff\- ]", "", text.strip().lower()).replace(" ", "-")


def bare(address: str) -> str:
    """An address in the form in which two that lead to one paper are the same."""
    parts = urlsplit(address)
    host = parts.netloc.lower().removeprefix("www.").replace("dx.doi.org", "doi.org")
    path = unquote(parts.path).rstrip("/")
    if host == "arxiv.org":
        found = re.search(r"/(?:abs|pdf|html)/(.+?)(?:v\d+)?(?:\.pdf)?$", path)
        return f"arxiv:{found[1]}" if found else host + path
    if host == "doi.org":
        return f"doi:{path.lstrip('/').lower()}"
    return f"{host}{path}{'?' + parts.query if parts.query else ''}"


def bibliography(path: Path) -> dict[str, set[str]]:
    """Every address by which a reference can be reached, and the years of the references there."""
    reached: dict[str, set[str]] = {}
    for entry in parse_file(str(path)).entries.values():
        fields = {key.lower(): value.strip("{}") for key, value in entry.fields.items()}
        keys = {bare(fields["url"])} if "url" in fields else set()
        if "doi" in fields:
            keys.add(bare(f"https://doi.org/{fields['doi']}"))
        if "eprint" in fields:
            keys.add(bare(f"https://arxiv.org/abs/{fields['eprint']}"))
        for key in keys:
            reached.setdefault(key, set()).add(fields.get("year", ""))
    return reached


def references_are_known(path: Path, bib: Path = BOOK / "references.bib") -> list[str]:
    """Each paper that a page links to is in references.bib, of the year that the link says."""
    known = bibliography(bib)
    own = urlsplit(config()["repository"]["url"])
    wrong = []
    for where, source in page_sources(path):
        for address, text in links(source):
            parts = urlsplit(address)
            host = parts.netloc.lower().removeprefix("www.")
            if parts.scheme not in ("http", "https") or host in PAPER_FREE | {own.netloc}:
                continue
            years = known.get(bare(address))
            if years is None:
                wrong.append(f"{where}: {address} has no entry in references.bib")
                continue
            wrong += [
                f"{where}: '{text}' says {year}, references.bib {', '.join(sorted(years))}"
                for year in re.findall(r"\b(?:18|19|20)\d\d\b", text)
                if year not in years
            ]
    return wrong


def links_lead_somewhere(path: Path) -> list[str]:
    """Each link to another page, file or heading of the book leads to one that is there."""
    wrong = []
    for where, source in page_sources(path):
        for address, _ in links(source):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if not target.is_file():
                wrong.append(f"{where}: {address} leads to no file")
            elif (
                parts.fragment
                and target.suffix in (".md", ".ipynb")
                and unquote(parts.fragment) not in anchors(target)
            ):
                wrong.append(f"{where}: {address} leads to no heading or cell of {target.name}")
    return wrong


def pages() -> list[Path]:
    """The book's pages that are there, in reading order."""
    return [path for path in toc_files() if path.is_file()]


CHAPTER_RULES = [
    was_run,
    nbval_sees_all,
    outputs_are_clean,
    cells_are_short,
    threads_are_left_alone,
    draws_can_be_repeated,
    figures_are_described,
    sliders_are_described,
    figures_are_backed,
    begins_with_install,
    opens_on_colab,
    numbers_are_shown,
    is_plain_markdown,
    equations_are_used,
    exercises_are_solved,
    says_what_it_teaches,
    claims_are_judged,
    verdicts_are_checked,
]


def dumps(notebook: Notebook) -> str:
    """A notebook as it is stored."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
