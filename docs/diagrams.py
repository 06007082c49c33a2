"""Draws one diagram a method: ``python docs/diagrams.py [DIR]`` writes DIR/NAME.svg (docs/images/methods).

Blue is semantic, orange depth, green normals, grey what tasks share, yellow a unit in which tasks meet. A
pale box computes, a solid one is a prediction, a white one an initial prediction, and a dotted outline is
what is not used.
"""

import math
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise, permutations, product
from pathlib import Path

WIDTH, HEIGHT = 760, 320
PAPER = "#fbfbf9"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

Point = tuple[float, float]
Look = dict[str, str | float]
"""Attributes of an element."""


@dataclass(frozen=True)
class Tone:
    """A colour: dark for lines and solid boxes, pale for the inside of the others."""

    dark: str
    pale: str


INK = Tone("#24292f", "#ffffff")
SHARED = Tone("#59636e", "#e6e9ed")
UNIT = Tone("#7a5b00", "#fdf0c0")
TONES = {
    "semantic": Tone("#0067a5", "#d5e8f6"),
    "depth": Tone("#bb4a00", "#fde3d2"),
    "normals": Tone("#007556", "#cfeee3"),
}
"""Okabe and Ito's blue, vermilion and green, darkened until white text on them has a contrast of 5 to 1."""

TASKS = tuple(TONES)
ROWS = dict(zip(TASKS, (82, 155, 228)))
PAIR = dict(zip(TASKS[:2], (100, 210)))
"""Where the rows of three and of two tasks lie; both are centred on 155."""
MIDDLE = 155


@dataclass(frozen=True)
class Box:
    """A place on the picture, by its centre and size; arrows start and end at its sides."""

    x: float
    y: float
    w: float
    h: float

    @property
    def left(self) -> Point:
        return self.x - self.w / 2, self.y

    @property
    def right(self) -> Point:
        return self.x + self.w / 2, self.y

    @property
    def top(self) -> Point:
        return self.x, self.y - self.h / 2

    @property
    def bottom(self) -> Point:
        return self.x, self.y + self.h / 2

    def rim(self, point: Point) -> Point:
        """Where the line from a point to the centre meets the circle inside this box."""
        centre = (self.x, self.y)
        return between(centre, point, self.w / 2 / math.dist(centre, point))


def between(start: Point, end: Point, share: float) -> Point:
    """The point at a share of the way from one to another."""
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def element(name: str, attributes: Look, text: str = "") -> str:
    """One element of XML, with its numbers rounded."""
    written = "".join(
        f' {key}="{value if isinstance(value, str) else f"{value:.4g}"}"' for key, value in attributes.items()
    )
    return f"<{name}{written}>{escape(text, quote=False)}</{name}>" if text else f"<{name}{written}/>"


def steps(*parts: str | Point) -> str:
    """The steps of an SVG path: commands and points."""
    return " ".join(part if isinstance(part, str) else f"{part[0]:.4g} {part[1]:.4g}" for part in parts)


@dataclass
class Picture:
    """Shapes on top of wires on top of grounds, with a title above and a caption of two lines below."""

    title: str
    caption: str
    description: str
    grounds: list[str] = field(default_factory=list)
    wires: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.label(24, 27, self.title, size=16, bold=True, anchor="start")
        lines = textwrap.wrap(self.caption, 96)
        self.label(24, 284 + 8.1 * (len(lines) - 1), "\n".join(lines), size=12.5, anchor="start")

    def label(
        self,
        x: float,
        y: float,
        text: str,
        *,
        tone: Tone = INK,
        size: float = 12,
        bold: bool = False,
        anchor: str = "middle",
        colour: str = "",
    ) -> None:
        """Lines of text, centred on a height."""
        look: Look = {"font-size": size, "text-anchor": anchor, "fill": colour or tone.dark}
        if bold:
            look["font-weight"] = 600
        lines = text.split("\n") if text else ()
        for number, line in enumerate(lines):
            height = y + 0.35 * size + 1.3 * size * (number - (len(lines) - 1) / 2)
            self.shapes.append(element("text", {"x": x, "y": height, **look}, line))

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        text: str = "",
        *,
        tone: Tone = SHARED,
        solid: bool = False,
        unused: bool = False,
        users: Sequence[str] = (),
    ) -> Box:
        """A box with text and a dot for each task that uses it."""
        made = Box(x, y, w, h)
        place = {"x": made.left[0], "y": made.top[1], "width": w, "height": h, "rx": min(6, w / 4, h / 4)}
        look: Look = {
            "fill": tone.dark if solid else INK.pale if unused else tone.pale,
            "stroke": tone.dark,
            "stroke-width": 1.25,
        }
        if unused:
            look["stroke-dasharray"] = "2 3"
        self.shapes.append(element("rect", {**place, **look}))
        colour = INK.pale if solid else ""
        self.label(x, y - (8 if users else 0), text, tone=tone, bold=solid, colour=colour)
        for number, user in enumerate(users):
            self.dot((x + 12 * (number - (len(users) - 1) / 2), y + (10 if text else 0)), TONES[user], r=4)
        return made

    def dot(self, at: Point, tone: Tone, *, r: float = 3) -> None:
        self.shapes.append(element("circle", {"cx": at[0], "cy": at[1], "r": r, "fill": tone.dark}))

    def node(self, x: float, y: float, sign: str, *, tone: Tone = UNIT, r: float = 11) -> Box:
        """A circle with a sign, at which features meet."""
        look: Look = {"fill": tone.pale, "stroke": tone.dark, "stroke-width": 1.25}
        self.shapes.append(element("circle", {"cx": x, "cy": y, "r": r, **look}))
        self.label(x, y, sign, tone=tone, size=14, bold=True)
        return Box(x, y, 2 * r, 2 * r)

    def diamond(self, at: Point, tone: Tone) -> None:
        """A gate on a wire."""
        x, y = at
        corners = steps("M", (x - 6, y), "L", (x, y - 6), (x + 6, y), (x, y + 6), "Z")
        look: Look = {"fill": UNIT.pale, "stroke": tone.dark, "stroke-width": 1.5}
        self.shapes.append(element("path", {"d": corners, **look}))

    def arrow(
        self,
        *points: Point,
        tone: Tone = SHARED,
        curved: bool = False,
        dashed: bool = False,
        faint: bool = False,
        head: bool = True,
    ) -> None:
        """A line through points, or a curve that leaves and arrives level, with a head at its end."""
        end, before = points[-1], points[-2]
        long = math.dist(before, end)
        ahead = (1.0, 0.0) if curved else ((end[0] - before[0]) / long, (end[1] - before[1]) / long)
        stop = (end[0] - 6 * ahead[0], end[1] - 6 * ahead[1]) if head else end
        middle = (points[0][0] + stop[0]) / 2
        inner = ((middle, points[0][1]), (middle, stop[1])) if curved else points[1:-1]
        line = steps("M", points[0], "C" if curved else "L", *inner, stop)
        look: Look = {"stroke-width": 1.6}
        if dashed:
            look["stroke-dasharray"] = "5 3"
        if faint:
            look = {"stroke-width": 1, "stroke-dasharray": "2 3", "stroke-opacity": 0.7}
        self.wires.append(element("path", {"d": line, "fill": "none", "stroke": tone.dark, **look}))
        if head:
            wings = [
                (end[0] - 8 * ahead[0] - side * ahead[1], end[1] - 8 * ahead[1] + side * ahead[0])
                for side in (4, -4)
            ]
            self.wires.append(element("path", {"d": steps("M", end, "L", *wings, "Z"), "fill": tone.dark}))

    def flow(self, start: Box, *ends: Box, tone: Tone = SHARED, dashed: bool = False) -> None:
        """Arrows from each box's right side to the next one's left."""
        for first, second in pairwise((start, *ends)):
            level = first.y == second.y
            self.arrow(first.right, second.left, tone=tone, curved=not level, dashed=dashed)

    def fall(self, start: Box, end: Box, *, tone: Tone = SHARED, dashed: bool = False) -> None:
        """An arrow down, or up, to a box below or above."""
        down = start.y < end.y
        first, last = (start.bottom, end.top) if down else (start.top, end.bottom)
        self.arrow(first, last, tone=tone, dashed=dashed)

    def repeat(self, box: Box, tone: Tone) -> None:
        """An arrow back from the right of a box's top to its left: it is run several times."""
        x, y = box.top
        self.arrow((x + 20, y), (x + 20, y - 14), (x - 20, y - 14), (x - 20, y), tone=tone)

    def ground(self, box: Box, *, tone: Tone = SHARED) -> None:
        """A pale area behind what belongs together."""
        place = {"x": box.left[0], "y": box.top[1], "width": box.w, "height": box.h, "rx": 8}
        self.grounds.append(element("rect", {**place, "fill": tone.pale, "fill-opacity": 0.6}))

    def svg(self) -> str:
        size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="100%"'
        edge = {"x": 0.5, "y": 0.5, "width": WIDTH - 1, "height": HEIGHT - 1, "rx": 12}
        lines = (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">',
            element("title", {"id": "title"}, self.title),
            element("desc", {"id": "desc"}, self.description),
            f'<g font-family="{FONT}" stroke-linejoin="round">',
            element("rect", {**edge, "fill": PAPER, "stroke": "#d0d7de"}),
            *self.grounds,
            *self.wires,
            *self.shapes,
            "</g>",
            "</svg>",
        )
        return "\n".join(lines) + "\n"


# Parts that several pictures have.


def image(p: Picture, y: float = MIDDLE) -> Box:
    """The input: a small landscape."""
    made = p.box(48, y, 48, 38, tone=INK)
    hills = steps("M", (28, y + 15), "L", (40, y - 3), (48, y + 7), (55, y - 1), (68, y + 15), "Z")
    p.shapes.append(element("path", {"d": hills, "fill": "#8c959f"}))
    p.shapes.append(element("circle", {"cx": 60, "cy": y - 9, "r": 4, "fill": "#d4a72c"}))
    p.label(48, y + 31, "image")
    return made


def pyramid(p: Picture, x: float, y: float, *, tone: Tone = SHARED, text: str = "pyramid") -> Box:
    """The feature maps of a network, the finest at the bottom."""
    for level, width in enumerate((14, 26, 40, 56)):
        p.box(x, y - 18 + 12 * level, width, 8, tone=tone)
    p.label(x, y + 36, text, tone=tone)
    return Box(x, y, 64, 48)


def prediction(p: Picture, task: str, y: float) -> Box:
    return p.box(696, y, 80, 30, task, tone=TONES[task], solid=True)


def head(p: Picture, task: str, y: float) -> Box:
    """A head and its prediction, at the right."""
    made = p.box(618, y, 44, 30, "head", tone=TONES[task])
    p.flow(made, prediction(p, task, y), tone=TONES[task])
    return made


def initial(p: Picture, task: str, x: float, y: float) -> Box:
    """A prediction on the way, which is supervised but not the result."""
    return p.box(x, y, 76, 20, "initial", tone=Tone(TONES[task].dark, INK.pale))


def dots(p: Picture, x: float, y: float, tone: Tone) -> None:
    """Stages left out, on a wire."""
    p.shapes.append(element("rect", {"x": x - 11, "y": y - 8, "width": 22, "height": 16, "fill": PAPER}))
    for place in (-6, 0, 6):
        p.dot((x + place, y), tone, r=1.8)


# Encoders.


def shared() -> Picture:
    p = Picture(
        "Shared",
        "One backbone for all tasks: every head reads the same features. The usual multi-task baseline, "
        "in which only the heads differ from task to task.",
        "An image passes four stages that three tasks share; a head for each of semantic, depth and "
        "normals reads the result.",
    )
    stages = [p.box(140 + 106 * k, MIDDLE, 82, 50, f"stage {k + 1}", users=TASKS) for k in range(4)]
    p.flow(image(p), *stages)
    for task, y in ROWS.items():
        p.flow(stages[-1], head(p, task, y), tone=TONES[task])
    return p


def separate() -> Picture:
    p = Picture(
        "Separate",
        "One whole backbone for each task, trained side by side. Nothing is shared and nothing is "
        "exchanged: the single-task baseline in one model.",
        "An image enters three networks; each has four stages, a head and one prediction of its own.",
    )
    start = image(p)
    for task, y in ROWS.items():
        stages = [p.box(152 + 114 * k, y, 80, 34, f"stage {k + 1}", tone=TONES[task]) for k in range(4)]
        p.flow(start, *stages, head(p, task, y), tone=TONES[task])
    return p


def cross_stitch() -> Picture:
    p = Picture(
        "Cross-stitch",
        "After each stage every task takes a learned weighted sum of all tasks' features, with weights "
        "for each channel: α for its own features (solid lines) and β for those of the others (dashed).",
        "Two networks of four stages. After each stage two sums mix the features of both: alpha times the "
        "own and beta times the other task's.",
    )
    at = dict.fromkeys(PAIR, image(p))
    for left in (96 + 124 * k for k in range(4)):
        name = f"stage {1 + (left - 96) // 124}"
        stages = {task: p.box(left + 27, y, 54, 34, name, tone=TONES[task]) for task, y in PAIR.items()}
        sums = {task: p.node(left + 97, y, "+") for task, y in PAIR.items()}
        for task, other in permutations(PAIR):
            p.flow(at[task], stages[task], sums[task], tone=TONES[task])
            sent = stages[task].right
            p.arrow(sent, sums[other].rim(sent), tone=TONES[task], dashed=True)
            p.label(left + 69, PAIR[task] + (-11 if task == "semantic" else 11), "α", tone=UNIT, size=14)
            p.label(left + (57 if task == "semantic" else 86), MIDDLE, "β", tone=UNIT, size=14)
        at = sums
    for task, y in PAIR.items():
        p.flow(at[task], head(p, task, y), tone=TONES[task])
    return p


def nddr_cnn() -> Picture:
    p = Picture(
        "NDDR-CNN",
        "After the stem and after each stage the features of all tasks are concatenated. From them a 1×1 "
        "convolution for each task, with batch norm and ReLU, makes that task's next features.",
        "Two networks. After each part the features of both are concatenated, and a 1 by 1 convolution "
        "for each task reduces them to that task's features.",
    )
    at = dict.fromkeys(PAIR, image(p))
    for left, name in ((94, "stem"), (240, "stage 1"), (446, "stage 4")):
        joined = p.box(left + 75, MIDDLE, 24, 160, tone=UNIT)
        p.label(left + 75, MIDDLE + 94, "concat", tone=UNIT)
        for task, y in PAIR.items():
            p.box(left + 75, y + (19 if y < MIDDLE else -19), 12, 68, tone=TONES[task], solid=True)
            stage = p.box(left + 25, y, 50, 34, name, tone=TONES[task])
            convolution = p.box(left + 118, y, 36, 34, "1×1", tone=TONES[task])
            port = Box(joined.x, y, joined.w, 0)
            p.flow(at[task], stage, port, tone=TONES[task])
            p.flow(port, convolution, tone=UNIT)
            at[task] = convolution
    for task, y in PAIR.items():
        p.flow(at[task], head(p, task, y), tone=TONES[task])
        dots(p, 407, y, TONES[task])
    return p


def sluice() -> Picture:
    p = Picture(
        "Sluice network",
        "Each stage has two subspaces of channels, kept apart by a penalty. α mixes all subspaces of all "
        "tasks after each stage; β mixes all stages' outputs (dashed) before the head.",
        "Two networks of four stages, each stage split in two subspaces. A unit alpha mixes all four "
        "subspaces after each stage; skip connections lead every mixed output to a weighted sum beta "
        "before each head.",
    )
    mixes = {task: p.node(558, y, "β", r=13) for task, y in PAIR.items()}
    at = dict.fromkeys(PAIR, image(p))
    for left in (96 + 112 * k for k in range(4)):
        p.label(left + 21, MIDDLE, f"stage {1 + (left - 96) // 112}")
        unit = p.box(left + 72, MIDDLE, 26, 160, "α", tone=UNIT)
        for task, y in PAIR.items():
            above = y < MIDDLE
            p.flow(at[task], Box(left + 21, y, 42, 40), tone=TONES[task])
            for part in (-11, 11):
                half = p.box(left + 21, y + part, 42, 19, tone=TONES[task])
                p.arrow(half.right, (unit.left[0], y + part), tone=TONES[task])
            at[task] = Box(unit.x, y, unit.w, 0)
            tap, bus = unit.right[0] + 10, y + (-42 if above else 42)
            if left < 400:
                end = mixes[task].top if above else mixes[task].bottom
                p.dot((tap, y), TONES[task])
                p.arrow((tap, y), (tap, bus), (558, bus), end, tone=TONES[task], dashed=True)
    for task, y in PAIR.items():
        p.flow(at[task], mixes[task], head(p, task, y), tone=TONES[task])
    return p


def mtan() -> Picture:
    p = Picture(
        "MTAN",
        "One shared network (middle). Each task's attention reads the features before a stage's last "
        "block and the task's own so far; its mask, in [0, 1], multiplies (×) the stage's output.",
        "A shared network runs in the middle. For each stage and task an attention module makes a mask "
        "that is multiplied with the stage's output; the product, refined, joins the next stage's "
        "attention.",
    )
    rows = dict(zip(PAIR, (ROWS["semantic"], ROWS["normals"])))
    before, attended = image(p), dict[str, Box]()
    for left, name in ((88, "stage 1"), (258, "stage 2"), (454, "stage 4")):
        blocks = p.box(left + 31, MIDDLE, 62, 46, f"{name}:\nblocks")
        last = p.box(left + 92, MIDDLE, 40, 46, "last\nblock")
        p.flow(before, blocks, last)
        before = last
        for task, y in rows.items():
            tone = TONES[task]
            attention = p.box(left + 31, y, 62, 30, "attention", tone=tone)
            times = p.node(left + 92, y, "×")
            p.fall(blocks, attention)
            p.fall(last, times)
            p.flow(*([attended[task]] if task in attended else []), attention, times, tone=tone)
            attended[task] = times
            if left < 400:
                attended[task] = p.box(left + 138, y, 42, 30, "refine")
                p.flow(times, attended[task], tone=tone)
    for task, y in rows.items():
        p.flow(attended[task], head(p, task, y), tone=TONES[task])
        dots(p, 434, y, TONES[task])
    dots(p, 434, MIDDLE, SHARED)
    return p


def branched() -> Picture:
    p = Picture(
        "Branched",
        "Tasks share the first stages and branch off later, as a tree says. It is found from how alike "
        "the features of single-task networks are at each stage, within a budget.",
        "A tree: all three tasks share stages 1 and 2; at stage 3 semantic branches off from depth and "
        "normals, which part at stage 4. Each leaf has a head and a prediction.",
    )
    tree: tuple[dict[tuple[str, ...], float], ...] = (
        {TASKS: MIDDLE},
        {TASKS: MIDDLE},
        {TASKS[:1]: ROWS["semantic"], TASKS[1:]: (ROWS["depth"] + ROWS["normals"]) / 2},
        {(task,): y for task, y in ROWS.items()},
    )
    at = dict.fromkeys(TASKS, image(p))
    for k, level in enumerate(tree):
        for group, y in level.items():
            tone = TONES[group[0]] if len(group) == 1 else SHARED
            stage = p.box(140 + 110 * k, y, 78, 46, f"stage {k + 1}", tone=tone, users=group)
            p.flow(at[group[0]], stage, tone=tone)
            at |= dict.fromkeys(group, stage)
    for task, y in ROWS.items():
        p.flow(at[task], head(p, task, y), tone=TONES[task])
    return p


def candidates(
    p: Picture, rows: Sequence[float], used: Sequence[Mapping[int, Sequence[str]]]
) -> list[list[Box]]:
    """Copies of every stage with all possible edges dotted; a copy that nobody uses is hollow."""
    copies = [
        [
            p.box(
                152 + 120 * k, y, 62, 40, f"stage {k + 1}", users=users.get(row, ()), unused=row not in users
            )
            for row, y in enumerate(rows)
        ]
        for k, users in enumerate(used)
    ]
    for column, following in pairwise(copies):
        for first, second in product(column, following):
            p.arrow(first.right, second.left, faint=True, head=False)
    return copies


def learned_branching() -> Picture:
    p = Picture(
        "Learned branching",
        "A supergraph of stage copies. Each copy and head learns which copy before it feeds it (dotted: "
        "possible, solid: chosen). Then the chosen tree is kept; copies without users are dropped.",
        "Three copies of each of four stages with dotted edges between all neighbours; solid edges mark "
        "the chosen tree, in which semantic parts from depth and normals at stage 3. Other copies are "
        "hollow.",
    )
    used = ({1: TASKS}, {1: TASKS}, {0: TASKS[:1], 2: TASKS[1:]}, {0: TASKS[:1], 2: TASKS[1:]})
    copies = candidates(p, tuple(ROWS.values()), used)
    start = image(p)
    for copy in copies[0]:
        p.arrow(start.right, copy.left, faint=True, head=False)
    p.flow(start, copies[0][1], tone=INK)
    for (k, before), now in zip(enumerate(used), used[1:]):
        for row, group in now.items():
            source = next(number for number, users in before.items() if group[0] in users)
            p.arrow(copies[k][source].right, copies[k + 1][row].left, tone=INK)
    for task, row in zip(TASKS, (0, 2, 2)):
        made = head(p, task, ROWS[task])
        for copy in copies[-1]:
            p.arrow(copy.right, made.left, faint=True, head=False)
        p.arrow(copies[-1][row].right, made.left, tone=TONES[task])
    return p


def bmtas() -> Picture:
    p = Picture(
        "BMTAS",
        "Each stage has as many copies as tasks, and each task learns through which one it runs (coloured "
        "paths). The loss adds λ times the operations that the resulting tree is expected to cost.",
        "Three copies of each of four stages. Three coloured paths, one a task, run together through "
        "stage 1 and part later. Below each stage a bar counts the copies in use, which the loss charges "
        "for.",
    )
    rows = (68, 124, 180)
    paths = {"semantic": (1, 0, 0, 0), "depth": (1, 1, 1, 1), "normals": (1, 1, 1, 2)}
    used: list[dict[int, list[str]]] = [{} for _ in range(4)]
    for task, path in paths.items():
        for k, row in enumerate(path):
            used[k].setdefault(row, []).append(task)
    copies = candidates(p, rows, used)
    start = image(p, rows[1])
    for (number, (task, path)), y in zip(enumerate(paths.items()), rows):
        made, shift = head(p, task, y), 7 * (number - 1)
        stops = [copies[k][row] for k, row in enumerate(path)]
        for first, second in pairwise([start, *stops, made]):
            (x, y1), (x2, y2) = first.right, second.left
            p.arrow((x, y1 + shift), (x2, y2 + shift), tone=TONES[task])
    p.label(84, 233, "cost λ ×", tone=UNIT)
    for column, users in zip(copies, used):
        for number in range(len(users)):
            p.box(column[0].x + 22 * (number - (len(users) - 1) / 2), 233, 18, 18, tone=UNIT)
    for column, following in pairwise(copies):
        p.label((column[0].x + following[0].x) / 2, 233, "+", tone=UNIT, size=14)
    p.label(618, 233, "copies in use", tone=UNIT)
    return p


def adashare() -> Picture:
    p = Picture(
        "AdaShare",
        "One backbone. A learned policy says which residual blocks each task runs and which it skips "
        "(hollow); a block has the same weights for all. Penalties favour few blocks, shared early on.",
        "Three rows, one a task, of eight residual blocks. Blocks in a column are the same weights. Each "
        "task executes some blocks and goes around the others.",
    )
    policy = {"semantic": "11101101", "depth": "11011010", "normals": "10110010"}
    start = image(p)
    for k in range(8):
        p.ground(Box(132 + 58 * k, MIDDLE, 44, 206))
        p.label(132 + 58 * k, 250, str(k + 1), tone=SHARED)
    p.label(84, 250, "block", tone=SHARED)
    for task, y in ROWS.items():
        tone, before = TONES[task], start
        for k, runs in enumerate(policy[task]):
            block = p.box(132 + 58 * k, y, 34, 28, tone=tone, unused=runs == "0")
            if runs == "0":
                x, after = block.left[0] - 4, block.right[0] + 4
                p.arrow(before.right, (x, y), (x, y - 22), (after, y - 22), (after, y), tone=tone, head=False)
                before = Box(block.x, y, 42, 28)
            else:
                p.flow(before, block, tone=tone)
                before = block
        p.flow(before, head(p, task, y), tone=tone)
    return p


def astmt() -> Picture:
    p = Picture(
        "ASTMT",
        "One shared network, run once for each task. In its pass a task's own squeeze-and-excitation, 1×1 "
        "adapters and norms modulate the stages and the decoder; those of others rest (dotted).",
        "A shared network of four stages and a decoder. Below each part three tags, one a task, modulate "
        "it; in the pass shown only the tags of semantic are active and only semantic is predicted.",
    )
    names = ("stem", *(f"stage {k + 1}" for k in range(4)), "decoder")
    parts = [p.box(126 + 88 * k, 100, 66, 44, name) for k, name in enumerate(names)]
    p.flow(image(p, 100), *parts)
    for line, task in enumerate(TASKS):
        tone, active = TONES[task], not line
        p.label(48, 180 + 27 * line, f"pass {line + 1}", tone=tone, bold=active)
        made = p.box(696, 60 + 40 * line, 80, 28, task, tone=tone, solid=active, unused=not active)
        p.flow(parts[-1], made, tone=tone, dashed=not active)
        for part in parts[1:]:
            modulation = p.box(part.x, 180 + 27 * line, 66, 21, task, tone=tone, unused=not active)
            if active:
                p.fall(modulation, part, tone=tone)
    p.label(614, 207, "modulation of each\npart: SE, adapters,\nbatch norm", anchor="start")
    return p


def tag() -> Picture:
    p = Picture(
        "TAG",
        "In one joint training: step on one task alone, and see how far that lowers every other task's "
        "loss. Averaged over training, these affinities say which tasks are to be trained together.",
        "Left: the loss of depth falls and that of normals rises after a step on semantic alone. Middle: "
        "a table of affinities. Right: semantic and depth form one group, normals another.",
    )
    now, then = (p.box(x, 84, 62, 34, text) for x, text in ((66, "weights"), (248, "weights′")))
    p.flow(now, then, tone=TONES["semantic"])
    p.label(154, 66, "a step on", tone=TONES["semantic"])
    p.label(157, 102, "semantic alone", tone=TONES["semantic"])
    floor = 222
    p.arrow((24, floor), (290, floor), head=False)
    for x, task, heights in ((66, "depth", (74, 52)), (248, "normals", (56, 68))):
        for side, high, solid in zip((-17, 17), heights, (False, True)):
            p.box(x + side, floor - high / 2, 26, high, tone=TONES[task], solid=solid)
        p.label(x, floor + 14, f"{task} loss", tone=TONES[task])
    p.label(157, 172, "pale: before\nsolid: after", tone=SHARED)
    p.label(157, 132, "affinity = 1 − after / before", tone=UNIT)
    cells = (("", "+", "−"), ("+", "", "−"), ("−", "−", ""))
    for line, (task, signs) in enumerate(zip(TASKS, cells)):
        y = 112 + 38 * line
        p.label(402, y, task, tone=TONES[task], anchor="end")
        p.dot((426 + 38 * line, 76), TONES[task], r=6)
        for column, sign in enumerate(signs):
            tone = UNIT if sign == "+" else SHARED
            cell = p.box(426 + 38 * column, y, 34, 34, tone=tone, unused=not sign)
            p.label(cell.x, y, sign, tone=tone, size=16, bold=True)
    p.label(464, 56, "affinity onto", tone=UNIT)
    p.label(464, 230, "mean over steps", tone=UNIT)
    for group, ys in ((TASKS[:2], (92, 132)), (TASKS[2:], (206,))):
        middle = sum(ys) / len(ys)
        trunk = p.box(600, middle, 64, 42, "network", users=group)
        p.ground(Box(650, middle, 180, 40 * len(ys) + 16))
        p.arrow((526, 150), trunk.left, tone=UNIT, curved=True)
        for task, y in zip(group, ys):
            p.flow(trunk, p.box(690, y, 78, 28, task, tone=TONES[task], solid=True), tone=TONES[task])
    return p


# Decoders.


def independent() -> Picture:
    p = Picture(
        "Independent",
        "Each task has a head of its own (DeepLab, HRNet, FPN or linear) that reads only this task's "
        "pyramid. Tasks do not interact in the decoder.",
        "Three pyramids, one a task, each pass a head and become a prediction; there are no lines between "
        "tasks.",
    )
    for task, y in zip(TASKS, (80, 152, 224)):
        tone, reader = TONES[task], p.box(380, y, 150, 38, f"{task} head", tone=TONES[task])
        p.flow(pyramid(p, 60, y, tone=tone, text=""), reader, prediction(p, task, y), tone=tone)
        p.label(198, y - 11, "all levels of its pyramid", tone=tone)
        p.label(556, y - 11, "resized to the image", tone=tone)
    return p


def pad_net() -> Picture:
    p = Picture(
        "PAD-Net",
        "Every task makes an initial map, which is trained too. Each main task then adds gated messages "
        "from all others to its features; auxiliary tasks (here normals) only send.",
        "Features of three tasks, each with an initial prediction. Semantic and depth receive gated "
        "messages from the two other tasks, add them to their own features and make the final "
        "predictions; normals only sends.",
    )
    rows = dict(zip(TASKS, (72, 143, 214)))
    start, main = pyramid(p, 58, rows["depth"]), TASKS[:2]
    features, sums = {}, {}
    for task, y in rows.items():
        tone = TONES[task]
        features[task] = p.box(164, y, 76, 28, f"{task} F", tone=tone)
        p.flow(start, features[task], tone=tone)
        p.fall(features[task], initial(p, task, 164, y + 33), tone=tone)
        if task in main:
            sums[task] = p.node(440, y, "+")
            p.flow(features[task], sums[task], head(p, task, y), tone=tone)
            p.label(518, y - 12, "refined", tone=tone)
    for task, other in product(TASKS, main):
        if task != other:
            sent = features[task].right
            p.arrow(sent, sums[other].rim(sent), tone=TONES[task])
            p.diamond(between(sent, sums[other].rim(sent), 0.3), TONES[task])
    p.diamond((470, 206), SHARED)
    p.label(484, 214, "a message for each ordered pair:\nconv(F) × sigmoid(conv′(F))", anchor="start")
    return p


def mti_net() -> Picture:
    p = Picture(
        "MTI-Net",
        "Tasks interact at every scale: initial maps, then gated messages as in PAD-Net. A feature "
        "propagation module (FPM) hands all tasks' features on from each scale to the next finer one.",
        "Four scales from coarse to fine. At each, features and initial maps of two tasks, then messages "
        "between them; feature propagation leads from each scale to the next finer one. All scales are "
        "concatenated for the heads.",
    )
    for y, text in ((66, "backbone"), (113, "features,\ninitial maps"), (168, "messages")):
        p.label(24, y, text, anchor="start")
    joined = p.box(340, 226, 460, 32, "resize to the finest scale and concatenate, for each task")
    before: Box | None = None
    for k, scale in enumerate(("1/32", "1/16", "1/8", "1/4")):
        x = 150 + 126 * k
        level = p.box(x, 74, 18 + 18 * k, 9)
        p.label(x, 58, scale, tone=SHARED)
        pair = Box(x, 113, 72, 34)
        for side, task in zip((-18, 18), PAIR):
            p.box(x + side, 113, 32, 34, tone=TONES[task])
        p.box(x, 168, 72, 28, "messages", tone=UNIT)
        p.fall(level, pair)
        for side, task in zip((-18, 18), PAIR):
            p.arrow((x + side, 130), (x + side, 154), tone=TONES[task])
            p.arrow((x + side, 182), (x + side, 210), tone=TONES[task])
        if before:
            p.flow(before, p.box(x - 63, 113, 32, 24, "FPM", tone=UNIT), pair, tone=UNIT)
        before = pair
    for task, y in zip(PAIR, (204, 248)):
        p.flow(joined, head(p, task, y), tone=TONES[task])
    p.label(600, 113, "initial maps are\ntrained too", anchor="start")
    return p


def spread(
    p: Picture, name: str, own: str, others: str, mark: Callable[[Box, Tone], None], rule: str
) -> None:
    """Two tasks, each with a relation between places; both relations together spread each task's features."""
    start = pyramid(p, 58, MIDDLE)
    relations, sums = {}, {}
    for task, y in PAIR.items():
        tone, out = TONES[task], -1 if y < MIDDLE else 1
        features = p.box(158, y, 74, 32, "features F", tone=tone)
        relations[task], sums[task] = Box(284, y, 48, 44), p.node(404, y, "+")
        mark(relations[task], tone)
        p.label(284, y + 34 * out, name, tone=tone)
        diffusion = p.box(510, y, 96, 42, rule, tone=tone)
        p.repeat(diffusion, tone)
        p.flow(start, features, relations[task], sums[task], diffusion, head(p, task, y), tone=tone)
        p.fall(features, initial(p, task, 158, y - 36 * out), tone=tone)
        bypass = ((158, y + 16 * out), (158, y + 49 * out), (476, y + 49 * out), (476, y + 21 * out))
        p.arrow(*bypass, tone=tone)
        p.label(352, y + 11 * out, own, tone=UNIT, size=14)
    for task, other in permutations(PAIR):
        sent = relations[task].right
        p.arrow(sent, sums[other].rim(sent), tone=TONES[task], dashed=True)
        p.label(334 if task == "semantic" else 378, MIDDLE, others, tone=UNIT, size=14)


def pap_net() -> Picture:
    p = Picture(
        "PAP-Net",
        "Affinities M say which places are alike for a task. A mix of all tasks' affinities, with learned "
        "weights a that sum to 1, then spreads each task's features over the image, step by step.",
        "For each of two tasks: features with an initial map, an affinity matrix, a weighted sum of both "
        "tasks' matrices, and a diffusion of the features by that sum that is repeated before the final "
        "head.",
    )

    def matrix(at: Box, tone: Tone) -> None:
        for line, column in product(range(5), repeat=2):
            share = 1 if line == column else 0.72 - 0.14 * abs(line - column) + 0.08 * ((line * column) % 3)
            place = {"x": at.x - 22 + 9 * column, "y": at.y - 22 + 9 * line, "width": 8, "height": 8}
            p.shapes.append(element("rect", {**place, "fill": tone.dark, "fill-opacity": share}))

    spread(p, "affinity M", "a", "a", matrix, "h ← β ΣaM h\n+ (1 − β) F")
    return p


def psd() -> Picture:
    p = Picture(
        "PSD",
        "A structure S is what a place has in common with its neighbours. Structures pass between tasks "
        "as far as they match (m); within a task, features then spread along the sum, again and again.",
        "For each of two tasks: features with an initial map, small star-shaped structures of each place "
        "and its neighbours, a sum with the matching structures of the other task, and a repeated "
        "diffusion of the features along it before the final head.",
    )

    def star(at: Box, tone: Tone) -> None:
        p.box(at.x, at.y, 44, 44, tone=Tone(tone.dark, INK.pale))
        for dx, dy in product((-14, 0, 14), repeat=2):
            width = 1 + (3 * dx + dy + 56) / 14 % 3
            line = {"d": steps("M", (at.x, at.y), "L", (at.x + dx, at.y + dy)), "stroke": tone.dark}
            p.shapes.append(element("path", {**line, "stroke-width": width}))
            p.dot((at.x + dx, at.y + dy), tone, r=3 if dx or dy else 4.5)

    spread(p, "structure S", "", "m", star, "h ← β ΣS h\n+ (1 − β) F")
    return p


def jtrl() -> Picture:
    p = Picture(
        "JTRL",
        "Tasks take turns, coarse to fine. A task-attentional module (TAM) fuses both tasks' last states; "
        "the next state also reads its column's pyramid level (grey) and the task's earlier states.",
        "Four columns, one a scale, from coarse to fine. States alternate between depth and semantic in a "
        "zigzag; a module between the rows fuses the last state of each task into the next state.",
    )
    rows = {"depth": 226, "semantic": 110}
    turns: list[Box] = []
    for k, scale in enumerate(("1/32", "1/16", "1/8", "1/4")):
        left = 34 + 136 * k
        p.ground(Box(left + 63, 151, 126, 212))
        p.box(left + 82, 60, 20 + 18 * k, 9)
        p.label(left + 24, 60, scale, tone=SHARED)
        for task, y in rows.items():
            x = left + (30 if task == "depth" else 98)
            state = p.box(x, y, 38, 22 + 4 * k, f"{task[0].upper()}{k + 1}", tone=TONES[task])
            if len(turns) == 1:
                p.arrow((turns[0].x + 8, turns[0].top[1]), (x - 8, state.bottom[1]), tone=TONES["depth"])
            if len(turns) > 1:
                fused = p.box(x, 172, 34, 20, "TAM", tone=UNIT)
                for other in turns[-2:]:
                    tone = TONES["depth" if other.y == rows["depth"] else "semantic"]
                    start = other.bottom if other.y < fused.y else other.top
                    p.arrow((start[0] + 8, start[1]), fused.left, tone=tone)
                p.fall(fused, state, tone=UNIT)
                p.flow(turns[-2], state, tone=TONES[task])
            turns.append(state)
    for task, last in zip(rows, turns[-2:]):
        p.flow(last, head(p, task, rows[task]), tone=TONES[task])
    return p


PICTURES: tuple[Callable[[], Picture], ...] = (
    *(shared, separate, cross_stitch, nddr_cnn, sluice, mtan),
    *(branched, learned_branching, bmtas, adashare, astmt, tag),
    *(independent, pad_net, mti_net, pap_net, jtrl, psd),
)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for draw in PICTURES:
        (folder / f"{draw.__name__}.svg").write_text(draw().svg(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    here = Path(__file__).parent / "images" / "methods"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else here)
