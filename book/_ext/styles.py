"""One file of styles: only the rules, icons and letters that the book's pages use.

The theme's styles hold all of Bootstrap and FontAwesome, of which the book uses a part, and a
reader's first sight of a page waits for them.
"""

import html
import io
import logging
import re
import unicodedata
from pathlib import Path

import tinycss2
from fontTools import subset
from tags import Tag, edited, tags
from tinycss2.ast import Node

MATH_FONT = Path(__file__).resolve().parent.parent / "_fonts" / "STIXTwoMath.woff2"
ICON_FONTS = "vendor/fontawesome/webfonts"
ICONS = re.compile("[\ue000-\uf8ff]")  # FontAwesome's places in Unicode
# MathML shows a single letter in italics, which are characters of their own.
ITALICS = [*range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C), 0x210E]
JOINED = "styles/book.css"
STYLE = re.compile(r"(?P<static>.*_static/)(?P<name>[^?]+\.css)(\?.*)?")


def join_styles(static: Path, pages: list[str]) -> str:
    """Write what the pages use of their styles into one file, cut the fonts to it, and return it.

    It begins by naming what went into it, for a later build in which no page is written anew.
    """
    joined = static / JOINED
    names = list(dict.fromkeys(link["name"] for page in pages for _, link in style_links(page)))
    if not names:
        names = joined.read_text("utf-8").splitlines()[1].split()[1:-1]
    basic = relocated((static / "basic.css").read_text("utf-8"))
    styles = []
    for name in names:
        text = (static / name).read_text("utf-8").replace('@import "../basic.css";', basic)
        styles.append(text if "/" in name else relocated(text))
    rules = parsed("\n".join(styles).replace('@charset "UTF-8";', ""))
    kept = used(rules, vocabulary(static, pages))
    text = f'@charset "UTF-8";\n/* {" ".join(names)} */\n{kept}'
    joined.write_text(text, "utf-8")
    (static / "math.woff2").write_bytes(cut(MATH_FONT, math_characters(pages)))
    for font in (static / ICON_FONTS).glob("*.woff2"):
        font.write_bytes(cut(font, {ord(icon) for icon in ICONS.findall(text)}))
    return text


def relocated(styles: str) -> str:
    """Return styles that stood in `_static` for a file in `_static/styles`, as the theme's are."""
    return re.sub(r'url\((["\']?)(?=\w[\w.-]*["\']?\))', r"url(\1../", styles)


def style_links(page: str) -> list[tuple[Tag, re.Match[str]]]:
    """Return the links to the book's own styles, but for those of the one file."""
    links = [(tag, STYLE.fullmatch(tag.get("href"))) for tag in tags(page)]
    return [
        (tag, link) for tag, link in links if tag.name == "link" and link and link["name"] != JOINED
    ]


def one_style(page: str, digest: str) -> str:
    """Return a page that fetches the one file of styles in place of many."""
    edits = []
    for tag, link in style_links(page):
        one = f'<link href="{link["static"]}{JOINED}?v={digest}" rel="stylesheet">\n'
        line_end = page.startswith("\n", tag.end)
        edits.append((tag.start, tag.end + line_end, "" if edits else one))
    return edited(page, edits)


def vocabulary(static: Path, pages: list[str]) -> set[str]:
    """Return every word that may be a class or an id: those of the pages and of their scripts."""
    scripts = [
        path.read_text("utf-8")
        for path in [*static.glob("*.js"), *(static / "scripts").glob("*.js")]
        if path.name != "fontawesome.js"
    ]
    return set(re.findall(r"[\w-]+", "\n".join(pages + scripts)))


def is_used(selector: str, words: set[str]) -> bool:
    """Return whether a selector may match: every class and id that it needs is one of the words.

    What stands in brackets, as in `:not(.dark)`, is not needed; `bs-` begins names that a script
    puts together.
    """
    while (outer := re.sub(r"\([^()]*\)|\[[^\]]*\]", "", selector)) != selector:
        selector = outer
    named = re.findall(r"[.#]([A-Za-z][\w-]*)", selector)
    return all(name in words or name.startswith("bs-") for name in named)


def used(rules: list[Node], words: set[str]) -> str:
    """Return of a style sheet the rules that may apply to a page made of these words."""
    kept = []
    for rule in rules:
        if rule.type == "qualified-rule":
            selectors = re.split(r",(?![^()\[\]]*[)\]])", tinycss2.serialize(rule.prelude))
            matching = [each.strip() for each in selectors if is_used(each, words)]
            if matching:
                kept.append(f"{','.join(matching)}{{{tinycss2.serialize(rule.content).strip()}}}")
        elif rule.type == "at-rule" and rule.lower_at_keyword in {"media", "supports"}:
            if inner := used(parsed(rule.content), words):
                kept.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inner}}}")
        else:
            kept.append(rule.serialize())
    return "\n".join(kept)


def parsed(styles: str | list[Node]) -> list[Node]:
    """Return the rules of a style sheet; what cannot be read of it raises."""
    rules = tinycss2.parse_rule_list(styles, skip_comments=True, skip_whitespace=True)
    if wrong := [rule for rule in rules if rule.type == "error"]:
        raise ValueError(f"a style sheet cannot be read: {wrong[0].message}")
    return rules


def math_characters(pages: list[str]) -> set[int]:
    """Return the characters that the pages' mathematics shows."""
    shown: set[int] = set()
    for page in pages:
        inside, at = False, 0
        for tag in tags(page):
            if inside:
                shown.update(map(ord, html.unescape(page[at : tag.start])))
            if tag.name == "math":
                inside = tag.opens
            if tag.name in ("msqrt", "mroot"):
                shown.add(ord("√"))
            at = tag.end
    upright = {chr(code) for code in shown}
    return shown | {c for c in ITALICS if unicodedata.normalize("NFKC", chr(c)) in upright}


def cut(source: Path, characters: set[int]) -> bytes:
    """Return the part of a font that draws these characters, as WOFF2."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it would tell of every table
    options = subset.Options(flavor="woff2", hinting=False, notdef_outline=True)
    font, file = subset.load_font(str(source), options), io.BytesIO()
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=characters)
    cutter.subset(font)
    subset.save_font(font, file, options)
    return file.getvalue()
