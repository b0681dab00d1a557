"""Sliders that are alive everywhere: in a running notebook, and in a page without a kernel.

:func:`explore` takes a function that draws, and the values between which a reader may slide. In a
notebook the sliders draw anew. In a rendered page they choose among pictures drawn beforehand.
"""

import gzip
import inspect
import io
import itertools
import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import prod
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ipywidgets import VBox

LIMIT = 150_000  # bytes, compressed, that one set of sliders may add to a page
COLOURS = 32  # of a frame, enough for the lines and bands of the house style
VIEW = "application/vnd.jupyter.widget-view+json"

# Finds its boxes by their class, since not every notebook runs a script where it stands. A frame
# is found by its position on each slider, the last slider turning fastest. In the rendered book the
# pictures are files, which are fetched when a reader reaches for a slider.
SCRIPT = """
for (const box of document.querySelectorAll(".explore:not([data-alive])")) {
  box.dataset.alive = "";
  const picture = box.querySelector("img");
  const reading = box.querySelector("figcaption");
  const others = JSON.parse(box.querySelector("script[type]").textContent);
  const frames = [[picture.getAttribute("src"), reading.textContent], ...others];
  const fetchAll = () => frames.forEach(([address]) => { new Image().src = address; });
  for (const reach of ["pointerover", "focusin"]) {
    box.addEventListener(reach, fetchAll, {once: true});
  }
  const sliders = [...box.querySelectorAll("input")];
  box.addEventListener("input", () => {
    let at = 0;
    for (const slider of sliders) {
      const word = JSON.parse(slider.dataset.words)[slider.value];
      slider.setAttribute("aria-valuetext", word);
      slider.closest("div").querySelector("output").textContent = word;
      at = at * (Number(slider.max) + 1) + Number(slider.value);
    }
    [picture.src, reading.textContent] = frames[at];
  });
  box.querySelector(".explore-sliders").hidden = false;
  box.querySelector(".explore-still").remove();
}
"""


class Frame(NamedTuple):
    """A picture and what it shows.

    Attributes:
        image: a WebP file.
        reading: the sentence that says what the picture shows.

    """

    image: bytes
    reading: str

    @property
    def address(self) -> str:
        """The picture as a ``data:`` address."""
        return f"data:image/webp;base64,{b64encode(self.image).decode('ascii')}"


@dataclass(frozen=True)
class Explorer:
    """Sliders and their pictures; a notebook cell that ends in one shows it.

    Attributes:
        draw: what :func:`explore` was given.
        alt: what every picture is a picture of.
        labels: what a reader calls each slider, by the name of its grid.
        grids: the values of each slider.
        frames: one for each combination of values, the last slider turning fastest.

    """

    draw: Callable[..., str]
    alt: str
    labels: Mapping[str, str]
    grids: Mapping[str, Sequence[object]]
    frames: Sequence[Frame]

    def __repr__(self) -> str:
        sizes = (f"{self.labels[name]} ({len(grid)} values)" for name, grid in self.grids.items())
        return f"Sliders: {', '.join(sizes)}"

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, object]:
        """Offer the living sliders, the page, and a line of text; the front end takes one."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget().model_id}
        return {VIEW: view, "text/html": self.html(), "text/plain": repr(self)}

    def widget(self) -> "VBox":
        """Return ipywidgets sliders over a picture that is drawn anew whenever one moves."""
        import ipywidgets as widgets

        image = widgets.Image(value=self.frames[0].image, format="webp")
        image.layout.max_width = "100%"
        reading = widgets.HTML(value=escape(self.frames[0].reading))
        sliders = {
            name: widgets.SelectionSlider(
                options=[(_word(value), index) for index, value in enumerate(grid)],
                description=self.labels[name],
                continuous_update=False,
                style={"description_width": "initial"},
                layout={"width": "min(100%, 36em)"},
            )
            for name, grid in self.grids.items()
        }

        def show(change: object) -> None:
            frame = _frame(self.draw, {n: self.grids[n][s.value] for n, s in sliders.items()})
            image.value, reading.value = frame.image, escape(frame.reading)

        for slider in sliders.values():
            slider.observe(show, names="value")
        return widgets.VBox([*sliders.values(), image, reading])

    def html(self) -> str:
        """Return the page's part: range inputs, the first frame, the others, and a script.

        Without JavaScript, or where it is taken out, the first frame stays and the page says so.
        """
        return _page(self.alt, self.labels, self.grids, self.frames)


def explore(
    draw: Callable[..., str],
    *,
    alt: str,
    labels: Mapping[str, str] | None = None,
    **grids: Sequence[object],
) -> Explorer:
    """Let a reader slide between pictures; the first value of every grid is where it starts.

    Every picture is drawn once beforehand, for readers without a kernel. Give the axes fixed
    limits in ``draw``, or they will move instead of what is drawn.

    Args:
        draw: called as ``draw(ax, **values)`` with an empty Axes and one value of each grid; draws
            and returns a sentence that says what the picture shows, which is read aloud.
        alt: what every picture is a picture of, as their common alternative text.
        labels: what to call a slider, where the name of its grid will not do.
        grids: for each parameter of ``draw`` the values to slide between, in order.

    Raises:
        TypeError: if ``draw`` cannot be called so or returns no sentence, or a grid is no sequence.
        ValueError: if a grid has fewer than two values or two that read alike, a label belongs to
            no grid, ``alt`` is empty, or the pictures come to more than 150 KB compressed.

    Example:
        >>> def draw(ax, slope):
        ...     ax.plot([0, 1], [0, slope])
        ...     ax.set(ylim=(0, 3))
        ...     return f"The line rises to {slope}."
        >>> explorer = explore(draw, alt="A line through the origin.", slope=[1, 2, 3])
        >>> explorer
        Sliders: slope (3 values)
        >>> explorer.frames[1].reading
        'The line rises to 2.'

    """
    _check(draw, alt, labels or {}, grids)
    labels = {name: (labels or {}).get(name, name) for name in grids}
    frames = []
    for values in itertools.product(*grids.values()):
        frames.append(_frame(draw, dict(zip(grids, values, strict=True))))
        size = len(gzip.compress(_page(alt, labels, grids, frames).encode()))
        if size > LIMIT:
            raise ValueError(_too_large([len(grid) for grid in grids.values()], len(frames), size))
    return Explorer(draw, alt, labels, {n: tuple(grid) for n, grid in grids.items()}, tuple(frames))


def _check(
    draw: object, alt: str, labels: Mapping[str, str], grids: Mapping[str, Sequence[object]]
) -> None:
    """Raise unless these are arguments that :func:`explore` can use."""
    if not callable(draw):
        raise TypeError(f"draw must be a function, got {type(draw).__name__}")
    if not alt.strip():
        raise ValueError("alt must say what the pictures are pictures of, got an empty text")
    if not grids:
        raise ValueError("grids needs at least one parameter with its values, got none")
    for name, grid in grids.items():
        if not isinstance(grid, Sequence) or isinstance(grid, str | bytes):
            raise TypeError(f"{name} must be a sequence of values, got {type(grid).__name__}")
        if len(grid) < 2:
            raise ValueError(f"{name} needs at least 2 values to slide between, got {len(grid)}")
        if len(set(map(_word, grid))) < len(grid):
            raise ValueError(f"{name} has values that read alike: {list(map(_word, grid))}")
    if set(labels) - set(grids):
        raise ValueError(f"labels must be of {list(grids)}, got {list(labels)}")
    try:
        inspect.signature(draw).bind(None, **dict.fromkeys(grids))
    except TypeError as error:
        raise TypeError(f"draw must take an Axes and {', '.join(grids)}: {error}") from None


def _word(value: object) -> str:
    """Return how a value is shown and read aloud."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    return f"{value:g}" if number else str(value)


def _too_large(shape: Sequence[int], drawn: int, size: int) -> str:
    """Return what to say when ``drawn`` of the pictures are already more than may be stored."""
    return (
        f"the grids make {' × '.join(map(str, shape))} = {prod(shape)} pictures of about "
        f"{size / drawn / 1000:.1f} KB, {prod(shape) * size / drawn / 1000:.0f} KB compressed; "
        f"at most {LIMIT / 1000:.0f} KB are stored, so {drawn - 1} such pictures would fit: "
        "give fewer values, or draw less"
    )


def _frame(draw: Callable[..., str], values: Mapping[str, object]) -> Frame:
    """Draw one picture; the figure is its own and never one of pyplot's, so none is left open."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure, file = Figure(), io.BytesIO()
    reading = draw(figure.subplots(), **values)
    if not isinstance(reading, str) or not reading.strip():
        raise TypeError(f"draw must return a sentence about its picture, got {reading!r}")
    canvas = FigureCanvasAgg(figure)  # savefig would draw twice
    canvas.draw()
    picture = Image.frombytes("RGBA", canvas.get_width_height(), canvas.buffer_rgba())
    picture = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.convert("RGB").save(file, "WEBP", lossless=True)
    return Frame(file.getvalue(), reading)


def _page(
    alt: str,
    labels: Mapping[str, str],
    grids: Mapping[str, Sequence[object]],
    frames: Sequence[Frame],
) -> str:
    """Return sliders and frames as HTML. It has no ids, so any number of them share a page."""
    sliders = "\n".join(_slider(labels[name], grid) for name, grid in grids.items())
    still = "; ".join(f"{labels[name]}: {_word(grid[0])}" for name, grid in grids.items())
    others = json.dumps([(f.address, f.reading) for f in frames[1:]], ensure_ascii=False)
    others = others.replace("<", r"\u003c")  # what is read cannot end the script
    return f"""<div class="explore">
<div class="explore-sliders" hidden>
{sliders}
</div>
<figure>
<img src="{frames[0].address}" alt="{escape(alt)}">
<figcaption aria-live="polite">{escape(frames[0].reading)}</figcaption>
</figure>
<p class="explore-still">The sliders need JavaScript. Here they stand still: {escape(still)}.</p>
<script type="application/json">{others}</script>
<script>{SCRIPT}</script>
</div>"""


def _slider(label: str, grid: Sequence[object]) -> str:
    """Return one labelled range input, which announces the words of its values."""
    words = list(map(_word, grid))
    return (
        f'<div><label>{escape(label)} <input type="range" min="0" max="{len(grid) - 1}" value="0" '
        f'autocomplete="off" aria-valuetext="{escape(words[0])}" '
        f'data-words="{escape(json.dumps(words, ensure_ascii=False))}"></label> '
        f'<output aria-live="off">{escape(words[0])}</output></div>'
    )
