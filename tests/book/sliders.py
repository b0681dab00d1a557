"""Moving the sliders of a page by key and by touch, and seeing what they show."""

import json
from collections.abc import Iterator, Sequence

from playwright.sync_api import Locator, Page

from .browsing import once_there

# All that a set of sliders shows; nothing until its picture is there. To be asked again until then:
# the promise of `decode()` has no time limit, and is never kept for a picture out of sight.
SHOWN = """box => {
  const picture = box.querySelector("img");
  return picture.complete && picture.naturalWidth > 0 && {
    frame: [picture.getAttribute("src"), box.querySelector("figcaption").textContent],
    read: [...box.querySelectorAll("input")].map(each => each.getAttribute("aria-valuetext")),
    written: [...box.querySelectorAll("output")].map(each => each.textContent)};
}"""
# Whether a finger that comes down on the middle of a slider meets it.
REACHED = """slider => {
  slider.scrollIntoView({block: "center", behavior: "instant"});
  const box = slider.getBoundingClientRect();
  const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
  return slider === document.elementFromPoint(x, y);
}"""


def state(box: Locator) -> tuple[str, str]:
    return box.locator("img").get_attribute("src"), box.locator("figcaption").text_content()


def frames(box: Locator) -> list[tuple[str, str]]:
    """The frames of a box that stands at its first."""
    others = json.loads(box.locator("script[type]").text_content())
    return [state(box), *map(tuple, others)]


def all_words(box: Locator) -> list[list[str]]:
    """What each slider of a box says at each of its positions."""
    return [json.loads(each.get_attribute("data-words")) for each in box.locator("input").all()]


def tour(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every combination of positions, each one step of one slider from the one before."""
    if not sizes:
        yield ()
        return
    for at, rest in enumerate(tour(sizes[1:])):
        steps = range(sizes[0]) if at % 2 == 0 else reversed(range(sizes[0]))
        yield from ((step, *rest) for step in steps)


def number(position: Sequence[int], sizes: Sequence[int]) -> int:
    """Which frame belongs to a position; the last slider turns fastest."""
    at = 0
    for step, size in zip(position, sizes, strict=True):
        at = at * size + step
    return at


def shown(box: Locator) -> dict[str, list]:
    """All that a box on the screen shows, as soon as its picture is there."""
    return once_there(box.page, SHOWN, box.element_handle())


def see(box: Locator, words: list[list[str]], position: Sequence[int], frame: object) -> None:
    """See that a box shows a frame and says its position."""
    now = shown(box)
    said = [each[step] for each, step in zip(words, position, strict=True)]
    assert tuple(now["frame"]) == frame, position
    assert now["read"] == now["written"] == said


def walk(page: Page, box: Locator) -> None:
    """Move through every combination, one key a step, and see the right frame at each."""
    box.evaluate("box => box.scrollIntoView({block: 'center', behavior: 'instant'})")
    sliders, words, expected = box.locator("input").all(), all_words(box), frames(box)
    sizes = [len(each) for each in words]
    assert len(set(expected)) == len(expected)
    before = (0,) * len(sizes)
    seen = set()
    for position in tour(sizes):
        for slider, was, now in zip(sliders, before, position, strict=True):
            if was != now:
                slider.focus()
                page.keyboard.press("ArrowRight" if now > was else "ArrowLeft")
        see(box, words, position, expected[number(position, sizes)])
        seen.add(number(position, sizes))
        before = position
    assert seen == set(range(len(expected)))
    for slider in sliders:
        slider.focus()
        page.keyboard.press("Home")
    see(box, words, (0,) * len(sizes), expected[0])
    page.keyboard.press("End")
    see(box, words, (*(0,) * len(sizes[1:]), sizes[-1] - 1), expected[sizes[-1] - 1])


def touch(page: Page, box: Locator) -> None:
    """Tap each slider at its right end, then at its left, and see the frame that belongs there."""
    words = all_words(box)
    sizes = [len(each) for each in words]
    sliders = box.locator("input").all()
    expected = frames(box)
    at = [0] * len(sizes)
    for right in (True, False):
        for which, slider in enumerate(sliders):
            assert slider.evaluate(REACHED)
            place = slider.bounding_box()
            across = place["width"] - 2 if right else 2
            page.touchscreen.tap(place["x"] + across, place["y"] + place["height"] / 2)
            at[which] = sizes[which] - 1 if right else 0
            see(box, words, at, expected[number(at, sizes)])
