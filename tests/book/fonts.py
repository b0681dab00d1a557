"""A browser that has the fonts of one family and no others, as another reader's machine may."""

import os
from pathlib import Path
from xml.sax.saxutils import escape

FAMILIES = {"DejaVu": "a wide one", "Liberation": "a narrow one, as wide as Arial"}
FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
# What a page may ask for, and the face of the family that it gets.
ASKED = {
    "Sans": ("sans-serif", "Arial", "Helvetica", "Helvetica Neue", "Segoe UI"),
    "Serif": ("serif", "Times New Roman", "Georgia"),
    "Sans Mono": ("monospace", "Consolas", "Courier New", "Menlo", "Monaco", "SFMono-Regular"),
}
CONFIGURATION = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
<dir>{fonts}</dir>
<cachedir>{cache}</cachedir>
{aliases}
</fontconfig>
"""
ALIAS = """<alias binding="strong"><family>{asked}</family>
<prefer><family>{face}</family></prefer></alias>"""


def chosen() -> str | None:
    """The family that the environment variable FONTS names; None is what the machine has."""
    name = os.environ.get("FONTS") or None
    if name not in {None, *FAMILIES}:
        raise ValueError(f"FONTS must be one of {', '.join(FAMILIES)}, got {name!r}")
    return name


def files(family: str) -> list[Path]:
    """The files of a family on this machine."""
    return [
        path
        for folder in FOLDERS
        for path in sorted(Path(folder).expanduser().rglob(f"{family}*.ttf"))
    ]


def environment(family: str, folder: Path) -> dict[str, str]:
    """The environment of a browser that has this family alone; `folder` is empty, and stays."""
    fonts = folder / "fonts"
    fonts.mkdir()
    for path in files(family):
        (fonts / path.name).symlink_to(path)
    faces = {kind: face(family, kind) for kind in ASKED}
    aliases = "\n".join(
        ALIAS.format(asked=escape(asked), face=faces[kind])
        for kind, names in ASKED.items()
        for asked in names
    )
    configuration = folder / "fonts.conf"
    text = CONFIGURATION.format(fonts=fonts, cache=folder / "cache", aliases=aliases)
    configuration.write_text(text, "utf-8")
    return {**os.environ, "FONTCONFIG_FILE": str(configuration)}


def face(family: str, kind: str) -> str:
    """What a family calls its face of a kind: DejaVu Sans Mono, but Liberation Mono."""
    return f"{family} {kind if family == 'DejaVu' else kind.replace('Sans Mono', 'Mono')}"
