"""Diagrams of mechanisms, drawn as SVG: which numbers a norm takes together, blocks, and cells.

Each function returns a :class:`Diagram`, which a notebook shows as a picture. They are 360 wide, so
that a phone shows them in their own size, dark on white like the figures: the rendered book turns
them over in dark mode. They use lines and words, never colour alone.
"""

from dataclasses import dataclass, field
from html import escape

from companion._lib.arguments import one_of

__all__ = ["Diagram", "blocks", "lstm_cell", "norms", "unrolled"]

WIDTH = 360
INK, TONE, PALE = "#222222", "#0072B2", "#CFE3F1"
Point = tuple[float, float]


@dataclass(repr=False)
class Diagram:
    """A picture made of boxes, arrows and words.

    Attributes:
        title: what is to be seen, in a sentence: what a screen reader says.
        height: in the units of its width, which is 360.

    """

    title: str
    height: int
    _parts: list[str] = field(default_factory=list)

    def box(
        self,
        at: Point,
        text: str = "",
        *,
        size: Point = (62, 28),
        fill: str = "white",
        round: float = 5,  # noqa: A002
        stroke: str = INK,
    ) -> None:
        """Draw a box around a point, with a word in it.

        Args:
            at: its middle, from the left and from the top.
            text: what stands in it.
            size: its width and height.
            fill: its colour, and
            stroke: that of its edge.
            round: the radius of its corners.

        """
        (x, y), (width, height) = at, size
        self._parts.append(
            f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" '
            f'height="{height:g}" rx="{round:g}" fill="{fill}" stroke="{stroke}" '
            'stroke-width="1.5"/>'
        )
        if text:
            self.words(at, text)

    def operation(self, at: Point, sign: str) -> None:
        """Draw a circle with a sign in it.

        Args:
            at: its middle.
            sign: such as ``"+"``.

        """
        x, y = at
        self._parts.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="11" fill="white" stroke="{INK}" stroke-width="1.5"/>'
        )
        self.words(at, sign, size=17)

    def words(self, at: Point, text: str, *, size: float = 14, bold: bool = False) -> None:
        """Write words, their middle at a point.

        Args:
            at: that point.
            text: the words; what follows an underscore stands lower.
            size: of the letters.
            bold: whether they are heavier.

        """
        x, y = at
        base, *below = text.split("_")
        weight = ' font-weight="600"' if bold else ""
        lower = "".join(
            f'<tspan dy="{0.25 * size:g}" font-size="{0.75 * size:g}">{escape(each)}</tspan>'
            for each in below
        )
        self._parts.append(
            f'<text x="{x:g}" y="{y + 0.35 * size:g}" font-size="{size:g}" '
            f'text-anchor="middle" fill="{INK}"{weight}>{escape(base)}{lower}</text>'
        )

    def arrow(self, *points: Point, dashed: bool = False, head: bool = True) -> None:
        """Draw a line through points.

        Args:
            points: where it begins, turns and ends.
            dashed: whether it is a dashed one, in another colour.
            head: whether it has a head at its end.

        """
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        color, marker = (TONE, "back") if dashed else (INK, "on")
        more = ' stroke-dasharray="5 3"' * dashed + f' marker-end="url(#{marker})"' * head
        self._parts.append(
            f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.6"{more}/>'
        )

    def _repr_svg_(self) -> str:
        heads = "".join(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{color}"/></marker>'
            for name, color in (("on", INK), ("back", TONE))
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height}" '
            f'viewBox="0 0 {WIDTH} {self.height}" role="img" '
            'font-family="system-ui, Helvetica, Arial, sans-serif">'
            f"<title>{escape(self.title)}</title><defs>{heads}</defs>"
            f'<rect width="{WIDTH}" height="{self.height}" fill="white"/>'
            + "".join(self._parts)
            + "</svg>"
        )

    def __repr__(self) -> str:
        """Return what is to be seen, where no picture can be shown."""
        return self.title


# ---------------------------------------------------------------- norms


def norms() -> Diagram:
    """Return which numbers each norm takes together, in a batch of four examples of six units.

    Example:
        >>> norms()
        Three grids of examples by units; what one norm takes together is shaded: ...

    """
    drawn = Diagram(
        "Three grids of examples by units; what one norm takes together is shaded: one unit over "
        "all examples for batch norm, one example's units for layer norm, half of them for group "
        "norm of two groups.",
        166,
    )
    side = 15
    shaded = {
        "batch norm": lambda row, column: column == 2,
        "layer norm": lambda row, column: row == 1,
        "group norm": lambda row, column: row == 1 and column < 3,
    }
    for number, (name, together) in enumerate(shaded.items()):
        left = 20 + 115 * number
        drawn.words((left + 3 * side, 14), name, bold=True)
        for row in range(4):
            for column in range(6):
                middle = (left + (column + 0.5) * side, 34 + (row + 0.5) * side)
                fill = TONE if together(row, column) else "white"
                drawn.box(middle, size=(side, side), round=0, fill=fill)
    drawn.words((WIDTH / 2, 112), "rows: examples, columns: units", size=13)
    drawn.words((WIDTH / 2, 132), "shaded: what one norm takes together", size=13)
    drawn.words((WIDTH / 2, 152), "RMS norm: as layer norm, but keeps the mean", size=13)
    return drawn


# ---------------------------------------------------------------- blocks


BLOCKS = {
    "plain": (["layers"], "a plain one"),
    "residual": (
        ["layers", "+"],
        "a residual one, where the input goes around the layers and is added to what they return",
    ),
    "post-norm": (
        ["layers", "+", "norm"],
        "post-norm, with a norm behind the sum, on every way up",
    ),
    "pre-norm": (
        ["norm", "layers", "+"],
        "pre-norm, with the norm on the branch, so that the way around it is free",
    ),
}


def blocks(*names: str) -> Diagram:
    """Return blocks side by side, input below and output above.

    Args:
        names: which of plain, residual, post-norm and pre-norm; all of them if none is named.

    Raises:
        ValueError: if a block is none of these.

    Example:
        >>> blocks("plain", "residual")
        Blocks from input below to output above: a plain one; a residual one, ...

    """
    for name in names:
        one_of("names", name, tuple(BLOCKS))
    chosen = {name: BLOCKS[name] for name in names or BLOCKS}
    told = "; ".join(words for _, words in chosen.values())
    drawn = Diagram(f"Blocks from input below to output above: {told}.", 252)
    left = WIDTH / 2 - 45 * len(chosen) - 3
    for number, (name, (steps, _)) in enumerate(chosen.items()):
        _block(drawn, left + 45 + 90 * number, name, steps)
    return drawn


def _block(drawn: Diagram, x: float, name: str, steps: list[str]) -> None:
    drawn.words((x, 14), name, bold=True)
    drawn.words((x, 240), "x")
    start, y = 230.0, 190.0
    for step in steps:
        half = 11 if step == "+" else 14
        drawn.arrow((x, start), (x, y + half + 1))
        if step == "+":
            drawn.operation((x, y), "+")
            drawn.arrow((x, 222), (x + 38, 222), (x + 38, y), (x + 12, y))
        else:
            fill = PALE if step == "norm" else "white"
            drawn.box((x, y), step, size=(56, 28), fill=fill)
        start, y = y - half, y - 54
    drawn.arrow((x, start), (x, 26))


# ---------------------------------------------------------------- recurrent networks


def unrolled() -> Diagram:
    """Return a recurrent network over three steps, with the way of the gradient.

    Example:
        >>> unrolled()
        A recurrent network drawn once for each of three steps: ...

    """
    drawn = Diagram(
        "A recurrent network drawn once for each of three steps: the state goes from step to step "
        "through the same weights W, each step has an input of its own, and from the loss behind "
        "the last one the gradient comes back through W as many times as there are steps.",
        190,
    )
    for number in range(3):
        x = 92 + 88 * number
        drawn.box((x, 80), f"h_{number + 1}", size=(44, 32))
        drawn.arrow((x, 142), (x, 98))
        drawn.words((x, 154), f"x_{number + 1}")
        drawn.arrow((28 if number == 0 else x - 65, 80), (x - 24, 80))
        drawn.words((x - 46, 69), "W")
        drawn.arrow((x - 24, 92), (28 if number == 0 else x - 63, 92), dashed=True)
    drawn.arrow((291, 80), (318, 80))
    drawn.arrow((318, 92), (293, 92), dashed=True)
    drawn.words((14, 86), "h_0")
    drawn.words((338, 86), "loss")
    drawn.words((WIDTH / 2, 22), "each step has the same weights", size=13)
    drawn.words((WIDTH / 2, 180), "dashed: the gradient, through W each step", size=13)
    return drawn


def lstm_cell() -> Diagram:
    """Return an LSTM cell: the memory on its straight way, and the gates that touch it.

    Example:
        >>> lstm_cell()
        An LSTM cell: the memory c goes straight through, ...

    """
    drawn = Diagram(
        "An LSTM cell: the memory c goes straight through, multiplied by the forget gate f, then "
        "added to what the input gate i lets in of the candidate g; the output gate o decides how "
        "much of its tanh the state h shows. All four are layers of their own on x and h.",
        268,
    )
    line, gates = 48, 178
    drawn.words((16, line), "c_t−1")
    drawn.arrow((36, line), (83, line))
    drawn.operation((95, line), "×")
    drawn.arrow((106, line), (174, line))
    drawn.operation((186, line), "+")
    drawn.arrow((197, line), (326, line))
    drawn.words((342, line), "c_t")
    drawn.operation((186, 112), "×")
    drawn.arrow((186, 101), (186, line + 12))
    for x, name in ((95, "f"), (150, "i"), (222, "g"), (290, "o")):
        drawn.box((x, gates), name, size=(40, 28), fill=PALE if name == "g" else "white")
        drawn.arrow((x, 226), (x, gates + 15))
    drawn.arrow((95, gates - 14), (95, line + 12))
    drawn.arrow((150, gates - 14), (150, 112), (174, 112))
    drawn.arrow((222, gates - 14), (222, 112), (198, 112))
    drawn.operation((290, 112), "×")
    drawn.arrow((290, gates - 14), (290, 124))
    drawn.arrow((254, line), (254, 112), (278, 112))
    drawn.box((254, 80), "tanh", size=(42, 24))
    drawn.arrow((301, 112), (328, 112))
    drawn.words((342, 112), "h_t")
    drawn.arrow((36, 226), (290, 226), head=False)
    drawn.words((16, 218), "h_t−1")
    drawn.words((16, 240), "x_t")
    drawn.words((WIDTH / 2, 256), "f, i, o: sigmoid gates; g: tanh candidate", size=13)
    return drawn
