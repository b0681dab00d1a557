"""Diagrams are well-formed pictures that say in words what they show."""

from xml.etree import ElementTree as ET

import pytest

from companion import diagrams
from companion.diagrams import Diagram

NAMES = [name for name in diagrams.__all__ if name != "Diagram"]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_an_svg_with_its_title_and_size(name: str) -> None:
    drawn = getattr(diagrams, name)()
    root = ET.fromstring(drawn._repr_svg_())
    assert root.find(f"{SVG}title").text == drawn.title == repr(drawn)
    assert (root.get("width"), root.get("height")) == ("360", str(drawn.height))
    assert root.get("viewBox") == f"0 0 360 {drawn.height}"


def shaded() -> list[int]:
    """How many of the 24 cells are shaded in each of the three grids of `norms`."""
    cells = ET.fromstring(diagrams.norms()._repr_svg_()).findall(f"{SVG}rect")[1:]
    assert len(cells) == 3 * 24
    tones = [cell.get("fill") == diagrams.TONE for cell in cells]
    return [sum(tones[at : at + 24]) for at in (0, 24, 48)]


@pytest.mark.breaks("companion/diagrams.py", "column == 2", "row == 2")
@pytest.mark.breaks("companion/diagrams.py", "and column < 3", "and column < 4")
def test_each_norm_shades_what_it_takes_together() -> None:
    assert shaded() == [4, 6, 3]


@pytest.mark.breaks("companion/diagrams.py", "escape(base)", "base")
def test_words_are_escaped_and_may_have_a_lower_part() -> None:
    drawn = Diagram("a < b", 40)
    drawn.words((10, 10), "x < y_t")
    root = ET.fromstring(drawn._repr_svg_())
    (text,) = root.findall(f"{SVG}text")
    assert (text.text, text[0].text) == ("x < y", "t")


@pytest.mark.breaks("companion/diagrams.py", '(TONE, "back") if dashed', '(INK, "on") if dashed')
@pytest.mark.breaks("companion/diagrams.py", "* head\n", "* (not head)\n")
def test_an_arrow_goes_through_its_points_and_a_dashed_one_is_told_apart() -> None:
    drawn = Diagram("arrows", 40)
    drawn.arrow((1, 2), (3, 4.5), (6, 7))
    drawn.arrow((1, 2), (3, 4), dashed=True, head=False)
    one, other = ET.fromstring(drawn._repr_svg_()).findall(f"{SVG}path")
    assert (one.get("d"), one.get("marker-end")) == ("M1 2L3 4.5L6 7", "url(#on)")
    assert (other.get("stroke-dasharray"), other.get("marker-end")) == ("5 3", None)
    assert one.get("stroke") != other.get("stroke")


@pytest.mark.breaks("companion/diagrams.py", "names or BLOCKS", "BLOCKS")
@pytest.mark.breaks("companion/diagrams.py", "(x + 38, y)", "(x + 38, 190)")
def test_blocks_are_those_named_and_the_way_around_ends_at_the_sum() -> None:
    root = ET.fromstring(diagrams.blocks("residual", "pre-norm")._repr_svg_())
    assert [each.text for each in root.findall(f"{SVG}text") if each.get("font-weight")] == [
        "residual",
        "pre-norm",
    ]
    sums = [each.get("cy") for each in root.findall(f"{SVG}circle")]
    around = [each.get("d") for each in root.findall(f"{SVG}path") if each.get("d").count("L") == 3]
    assert sums == ["136", "82"]
    assert [way.split("L")[-1].split()[1] for way in around] == sums
    assert all(way.split("L")[-2].split()[1] == y for way, y in zip(around, sums, strict=True))
    assert len(diagrams.BLOCKS) == 4 == diagrams.blocks()._repr_svg_().count("font-weight")


def test_a_block_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="plain"):
        diagrams.blocks("dense")
