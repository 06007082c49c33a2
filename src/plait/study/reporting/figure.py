"""One chart of the page, as a specification for plotly, and how arms look in all of them.

A colour is named as the style sheet names it (``--arm-0``) and looked up when ``study.js`` draws the chart,
so that it follows the page from light to dark. No arm is told by its colour alone: points differ in shape,
lines in dashes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait.study.reporting.layout import Table

Json = dict[str, Any]

COLOURS = 6
DASHES = ("", "7 3", "2 3", "9 3 2 3", "14 4")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down")
"""With the colours: 30 lines and 42 points that look different."""

SPOKEN = 8
"""Arms whose numbers a chart's description lists; the table has all."""
NAME = 24
"""Letters of an arm's name on an axis; it is whole in tables and where one points."""
NEGATIVE = re.compile(r"(?<![\w)])-(?=\d)")
WIDE = 20.0
"""From this ratio of the largest to the smallest on, positive values are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Style:
    """How one arm looks in every chart.

    Attributes:
        colour: Name of a colour of the style sheet.
        dash: Lengths of dashes and gaps in pixels; empty for an unbroken line.
        symbol: Of points, as plotly calls it.
    """

    colour: str
    dash: str
    symbol: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A look for each arm."""
    return {
        name: Style(f"--arm-{place % COLOURS}", DASHES[place % len(DASHES)], SYMBOLS[place % len(SYMBOLS)])
        for place, name in enumerate(names)
    }


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One chart.

    Attributes:
        title: What it shows.
        alt: The same with its main numbers, for a reader who does not see it.
        traces: As plotly takes them; ``meta.arm`` names the arm that a trace belongs to.
        layout: Likewise.
        height: In pixels.
        numbers: What is drawn, as a table; None where another table of the page has it.
    """

    title: str
    alt: str
    traces: Sequence[Json]
    layout: Json
    height: int
    numbers: Table | None = None

    def spec(self) -> str:
        """As JSON that may stand in a ``<script>`` element."""
        tree = {"data": plain(list(self.traces)), "layout": plain(self.layout), "height": self.height}
        text = json.dumps(tree, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def plain(tree: Any) -> Any:
    """Values that JSON has: numbers with six digits, null for what is not finite."""
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    if isinstance(tree, float):
        return float(f"{tree:.6g}") if math.isfinite(tree) else None
    return tree


def arms_axis(names: Sequence[str]) -> Json:
    """An upright axis of arms, the first at the top."""
    return {
        "type": "category", "categoryorder": "array", "categoryarray": list(names), "autorange": False,
        "range": [len(names) - 0.5, -0.5], "tickmode": "array", "tickvals": list(names),
        "ticktext": [escape(short(name)) for name in names], "showgrid": False, "automargin": True,
    }  # fmt: skip


def hover(name: str, value: str) -> str:
    """What is said of a point."""
    return f"<b>{escape(name)}</b><br>{value}"


def px(dash: str) -> str:
    """Dashes as plotly takes them.

    >>> px("7 3"), px("")
    ('7px,3px', 'solid')
    """
    return ",".join(f"{length}px" for length in dash.split()) or "solid"


def minus(text: str) -> str:
    """With a typographic minus before numbers, and hyphens elsewhere.

    >>> minus("single-task: -1.5 to -0.5, 2-way")
    'single-task: −1.5 to −0.5, 2-way'
    """
    return NEGATIVE.sub("−", text)


def short(name: str) -> str:
    """A name that fits an axis.

    >>> short("a" * 40)
    'aaaaaaaaaaaaaaaaaaaaaaa…'
    """
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def listed(spoken: Sequence[str]) -> str:
    """The first few of what is said, and how many more there are."""
    more = len(spoken) - SPOKEN
    said = "; ".join(spoken[:SPOKEN])
    return f"{said}; and {more} more in the table." if more > 0 else f"{said}."
