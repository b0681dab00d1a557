"""The diagrams in a browser: every word in its place, whatever the font."""

import pytest
from playwright.sync_api import Page

from companion import diagrams

NAMES = [name for name in diagrams.__all__ if name != "Diagram"]
# The boxes of all words, and which of them leave the picture, each other or the box they are in.
FAULTS = """() => {
  const svg = document.querySelector("svg"), all = svg.getBoundingClientRect(), faults = [];
  const boxes = [...svg.querySelectorAll("text")].map(each => [each.textContent,
    each.getBoundingClientRect()]);
  const inside = (a, b, room) => a.left >= b.left + room && a.right <= b.right - room
    && a.top >= b.top && a.bottom <= b.bottom;
  const apart = (a, b) => a.right <= b.left || b.right <= a.left
    || a.bottom <= b.top + 2 || b.bottom <= a.top + 2;
  boxes.forEach(([text, box], at) => {
    if (!inside(box, all, 0)) faults.push(`${text} leaves the picture`);
    for (const [other, its] of boxes.slice(at + 1))
      if (!apart(box, its)) faults.push(`${text} lies over ${other}`);
    for (const frame of svg.querySelectorAll("rect[rx='5']")) {
      const its = frame.getBoundingClientRect();
      if (!apart(box, its) && !inside(box, its, 2)) faults.push(`${text} leaves its box`);
    }
  });
  return faults;
}"""


@pytest.mark.parametrize("name", NAMES)
def test_every_word_has_its_place(name: str, tab: Page) -> None:
    tab.set_content(getattr(diagrams, name)()._repr_svg_())
    assert tab.evaluate(FAULTS) == []


def test_a_word_out_of_place_is_seen(tab: Page) -> None:
    drawn = diagrams.Diagram("words", 80)
    drawn.box((60, 40), "a word that is too long")
    drawn.words((70, 44), "over it")
    drawn.words((350, 20), "half of it outside")
    tab.set_content(drawn._repr_svg_())
    assert set(tab.evaluate(FAULTS)) >= {
        "a word that is too long lies over over it",
        "a word that is too long leaves its box",
        "half of it outside leaves the picture",
    }
