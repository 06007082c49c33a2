"""Draws one diagram a method: ``python docs/diagrams.py [DIR]`` writes DIR/NAME.svg (docs/images/methods).

Blue is semantic, orange depth, green normals, grey what tasks share, yellow a unit in which tasks meet. A pale
box computes, a solid one is a prediction, and a dotted outline is what is not used.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise, permutations, product
from pathlib import Path

WIDTH, HEIGHT = 760, 320
PAPER = "#fbfbf9"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

Point = tuple[float, float]


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


def tag(name: str, attributes: Mapping[str, str | float], text: str = "") -> str:
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
        self.label(24, 292, self.caption, size=13, anchor="start")

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
        look = {"font-size": size, "text-anchor": anchor, "fill": colour or tone.dark}
        lines = text.split("\n")
        for number, line in enumerate(lines):
            height = y + 0.35 * size + 1.3 * size * (number - (len(lines) - 1) / 2)
            weight = {"font-weight": 600} if bold else {}
            self.shapes.append(tag("text", {"x": x, "y": height, **look, **weight}, line))

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
        look = {
            "fill": tone.dark if solid else INK.pale if unused else tone.pale,
            "stroke": tone.dark,
            "stroke-width": 1.25,
        }
        self.shapes.append(tag("rect", place | look | ({"stroke-dasharray": "2 3"} if unused else {})))
        if text:
            colour = INK.pale if solid else ""
            self.label(x, y - (8 if users else 0), text, tone=tone, bold=solid, colour=colour)
        for number, user in enumerate(users):
            self.dot((x + 12 * (number - (len(users) - 1) / 2), y + (10 if text else 0)), TONES[user], r=4)
        return made

    def dot(self, at: Point, tone: Tone, *, r: float = 3) -> None:
        self.shapes.append(tag("circle", {"cx": at[0], "cy": at[1], "r": r, "fill": tone.dark}))

    def node(self, x: float, y: float, sign: str, *, tone: Tone = UNIT, r: float = 11) -> Box:
        """A circle with a sign, at which features meet."""
        look = {"fill": tone.pale, "stroke": tone.dark, "stroke-width": 1.25}
        self.shapes.append(tag("circle", {"cx": x, "cy": y, "r": r, **look}))
        self.label(x, y, sign, tone=tone, size=14, bold=True)
        return Box(x, y, 2 * r, 2 * r)

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
        bend = ("C", (middle, points[0][1]), (middle, stop[1]), stop)
        line = steps("M", points[0], *(bend if curved else ("L", *points[1:-1], stop)))
        look: dict[str, str | float] = {"stroke-width": 1.6}
        if dashed:
            look["stroke-dasharray"] = "5 3"
        if faint:
            look = {"stroke-width": 1, "stroke-dasharray": "2 3", "stroke-opacity": 0.7}
        self.wires.append(tag("path", {"d": line, "fill": "none", "stroke": tone.dark, **look}))
        if head:
            wings = [
                (end[0] - 8 * ahead[0] - side * ahead[1], end[1] - 8 * ahead[1] + side * ahead[0])
                for side in (4, -4)
            ]
            self.wires.append(tag("path", {"d": steps("M", end, "L", *wings, "Z"), "fill": tone.dark}))

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
        self.grounds.append(tag("rect", {**place, "fill": tone.pale, "fill-opacity": 0.6}))

    def svg(self) -> str:
        size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="100%"'
        edge = {"x": 0.5, "y": 0.5, "width": WIDTH - 1, "height": HEIGHT - 1, "rx": 12}
        lines = (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">',
            tag("title", {"id": "title"}, self.title),
            tag("desc", {"id": "desc"}, self.description),
            f'<g font-family="{FONT}" stroke-linejoin="round">',
            tag("rect", {**edge, "fill": PAPER, "stroke": "#d0d7de"}),
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
    p.shapes.append(tag("path", {"d": hills, "fill": "#8c959f"}))
    p.shapes.append(tag("circle", {"cx": 60, "cy": y - 9, "r": 4, "fill": "#d4a72c"}))
    p.label(48, y + 31, "image")
    return made


def pyramid(p: Picture, x: float, y: float, *, tone: Tone = SHARED, text: str = "pyramid") -> Box:
    """The feature maps of a network, the finest at the bottom."""
    for level, width in enumerate((14, 26, 40, 56)):
        p.box(x, y - 18 + 12 * level, width, 8, tone=tone)
    p.label(x, y + 36, text, tone=tone)
    return Box(x, y, 60, 48)


def prediction(p: Picture, task: str, y: float) -> Box:
    return p.box(696, y, 80, 30, task, tone=TONES[task], solid=True)


def head(p: Picture, task: str, y: float, text: str = "head") -> Box:
    """A head and its prediction, at the right."""
    made = p.box(618, y, 44, 30, text, tone=TONES[task])
    p.flow(made, prediction(p, task, y), tone=TONES[task])
    return made


def dots(p: Picture, x: float, y: float, tone: Tone) -> None:
    """Stages left out, on a wire."""
    p.shapes.append(tag("rect", {"x": x - 11, "y": y - 8, "width": 22, "height": 16, "fill": PAPER}))
    for place in (-6, 0, 6):
        p.dot((x + place, y), tone, r=1.8)


# Encoders.


def shared() -> Picture:
    p = Picture(
        "Shared",
        "One backbone for all tasks: every head reads the same features.\n"
        "The usual multi-task baseline, in which only the heads differ from task to task.",
        "An image passes four stages that three tasks share; a head for each of semantic, depth and normals "
        "reads the result.",
    )
    stages = [p.box(140 + 106 * k, MIDDLE, 82, 50, f"stage {k + 1}", users=TASKS) for k in range(4)]
    p.flow(image(p), *stages)
    for task, y in ROWS.items():
        p.flow(stages[-1], head(p, task, y), tone=TONES[task])
    return p


def separate() -> Picture:
    p = Picture(
        "Separate",
        "One whole backbone for each task, trained side by side.\n"
        "Nothing is shared and nothing is exchanged: the single-task baseline in one model.",
        "An image enters three networks; each has four stages, a head and one prediction of its own.",
    )
    start = image(p)
    for task, y in ROWS.items():
        stages = [p.box(158 + 106 * k, y, 74, 34, f"stage {k + 1}", tone=TONES[task]) for k in range(4)]
        p.flow(start, *stages, head(p, task, y), tone=TONES[task])
    return p


def cross_stitch() -> Picture:
    p = Picture(
        "Cross-stitch",
        "After each stage every task takes a learned weighted sum of all tasks' features, with weights for each\n"
        "channel: α for its own features (solid lines) and β for those of the others (dashed).",
        "Two networks of four stages. After each stage two sums mix the features of both: alpha times the own "
        "and beta times the other task's.",
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
        "After the stem and after each stage the features of all tasks are concatenated. From them a 1×1\n"
        "convolution for each task, with batch norm and ReLU, makes that task's next features.",
        "Two networks. After each part the features of both are concatenated, and a 1 by 1 convolution for each "
        "task reduces them to that task's features.",
    )
    at = dict.fromkeys(PAIR, image(p))
    for left, name in ((96, "stem"), (252, "stage 1"), (448, "stage 4")):
        joined = p.box(left + 73, MIDDLE, 24, 160, tone=UNIT)
        p.label(left + 73, MIDDLE + 94, "concat", tone=UNIT)
        for task, y in PAIR.items():
            p.box(left + 73, y + (19 if y < MIDDLE else -19), 12, 68, tone=TONES[task], solid=True)
            stage = p.box(left + 22, y, 50, 34, name, tone=TONES[task])
            convolution = p.box(left + 122, y, 38, 34, "1×1", tone=TONES[task])
            p.flow(at[task], stage, Box(joined.x, y, joined.w, 0), convolution, tone=TONES[task])
            at[task] = convolution
    for task, y in PAIR.items():
        p.flow(at[task], head(p, task, y), tone=TONES[task])
        dots(p, 415, y, TONES[task])
    return p


def sluice() -> Picture:
    p = Picture(
        "Sluice network",
        "Each stage has two subspaces of channels. After each stage α mixes all subspaces of all tasks; before\n"
        "the head β mixes all stages' outputs (dashed). A penalty keeps a task's two subspaces apart.",
        "Two networks of four stages, each stage split in two subspaces. A unit alpha mixes all four subspaces "
        "after each stage; skip connections lead every mixed output to a weighted sum beta before each head.",
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
        "One shared network (middle). Each task's attention reads the features before a stage's last block and\n"
        "its own attended features so far, and makes a mask in [0, 1] that multiplies (×) the stage's output.",
        "A shared network runs in the middle. For each stage and task an attention module makes a mask that is "
        "multiplied with the stage's output; the product, refined, joins the next stage's attention.",
    )
    rows = dict(zip(PAIR, (ROWS["semantic"], ROWS["normals"])))
    before, attended = image(p), dict[str, Box]()
    for left, name in ((90, "stage 1"), (256, "stage 2"), (446, "stage 4")):
        blocks = p.box(left + 32, MIDDLE, 64, 46, f"{name}:\nblocks")
        last = p.box(left + 90, MIDDLE, 38, 46, "last\nblock")
        p.flow(before, blocks, last)
        before = last
        for task, y in rows.items():
            tone = TONES[task]
            attention = p.box(left + 32, y, 64, 30, "attention", tone=tone)
            times = p.node(left + 90, y, "×")
            p.fall(blocks, attention)
            p.fall(last, times)
            p.flow(*([attended[task]] if task in attended else []), attention, times, tone=tone)
            attended[task] = times
            if left < 400:
                attended[task] = p.box(left + 136, y, 44, 30, "refine")
                p.flow(times, attended[task], tone=tone)
    for task, y in rows.items():
        p.flow(attended[task], head(p, task, y), tone=TONES[task])
        dots(p, 429, y, TONES[task])
    dots(p, 429, MIDDLE, SHARED)
    return p


def branched() -> Picture:
    p = Picture(
        "Branched",
        "Tasks share the first stages and branch off later, as a tree says. The tree is found from how alike\n"
        "single-task networks' features are at each stage, within a budget of parameters or operations.",
        "A tree: all three tasks share stages 1 and 2; at stage 3 semantic branches off from depth and normals, "
        "which part at stage 4. Each leaf has a head and a prediction.",
    )
    tree = (
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


def candidates(p: Picture, rows: Sequence[float], used: Sequence[Mapping[int, Sequence[str]]]) -> list[list[Box]]:
    """Copies of every stage with all possible edges dotted; a copy that nobody uses is hollow."""
    copies = [
        [
            p.box(152 + 120 * k, y, 62, 40, f"stage {k + 1}", users=users.get(row, ()), unused=row not in users)
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
        "A supergraph of stage copies. Each copy, and each head, learns which copy of the stage before feeds it\n"
        "(dotted: possible, solid: chosen). Then the chosen tree is kept and copies without a user are dropped.",
        "Three copies of each of four stages with dotted edges between all neighbours; solid edges mark the "
        "chosen tree, in which semantic parts from depth and normals at stage 3. Other copies are hollow.",
    )
    used = ({1: TASKS}, {1: TASKS}, {0: TASKS[:1], 2: TASKS[1:]}, {0: TASKS[:1], 2: TASKS[1:]})
    copies = candidates(p, tuple(ROWS.values()), used)
    start = image(p)
    for copy in copies[0]:
        p.arrow(start.right, copy.left, faint=True, head=False)
    p.flow(start, copies[0][1])
    for (k, before), now in zip(enumerate(used), used[1:]):
        for row, group in now.items():
            source = next(number for number, users in before.items() if group[0] in users)
            p.arrow(copies[k][source].right, copies[k + 1][row].left, tone=INK)
    for (number, task), row in zip(enumerate(TASKS), (0, 2, 2)):
        made = head(p, task, ROWS[task])
        for copy in copies[-1]:
            p.arrow(copy.right, made.left, faint=True, head=False)
        p.arrow(copies[-1][row].right, made.left, tone=TONES[task])
    return p


def bmtas() -> Picture:
    p = Picture(
        "BMTAS",
        "As many copies of every stage as tasks. At each stage each task learns which copy it runs through\n"
        "(coloured paths); the loss adds λ times the operations that the tree is expected to cost.",
        "Three copies of each of four stages. Three coloured paths, one a task, run together through stage 1 and "
        "part later. Below each stage a bar counts the copies in use, which the loss charges for.",
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
            p.arrow((x, y1 + shift), (x2, y2 + (0 if second is made else shift)), tone=TONES[task])
    p.label(84, 233, "cost λ ×", tone=UNIT)
    for column, users in zip(copies, used):
        for number in range(len(users)):
            p.box(column[0].x + 22 * (number - (len(users) - 1) / 2), 233, 18, 18, tone=UNIT)
    for first, second in pairwise(copies):
        p.label((first[0].x + second[0].x) / 2, 233, "+", tone=UNIT, size=14)
    p.label(618, 233, "copies in use", tone=UNIT)
    return p


def adashare() -> Picture:
    p = Picture(
        "AdaShare",
        "One backbone whose residual blocks each task runs or skips (hollow), as a learned policy says. Tasks that\n"
        "run a block use the same weights. Penalties favour few blocks, and shared blocks near the image.",
        "Three rows, one a task, of eight residual blocks. Blocks in a column are the same weights. Each task "
        "executes some blocks and goes around the others.",
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
        "One shared network that is run once for each task. In a task's pass its own squeeze-and-excitation,\n"
        "1×1 adapters and batch norm modulate every stage and the decoder; the others' are not used (dotted).",
        "A shared network of four stages and a decoder. Below each part three tags, one a task, modulate it; in "
        "the pass shown only the tags of semantic are active and only semantic is predicted.",
    )
    names = [f"stage {k + 1}" for k in range(4)] + ["decoder"]
    parts = [p.box(146 + 98 * k, 100, 72, 44, name) for k, name in enumerate(names)]
    p.flow(image(p, 100), *parts)
    for line, task in enumerate(TASKS):
        tone, active = TONES[task], not line
        p.label(48, 180 + 27 * line, f"pass {line + 1}", tone=tone, bold=active)
        made = p.box(696, 60 + 40 * line, 80, 28, task, tone=tone, solid=active, unused=not active)
        p.flow(parts[-1], made, tone=tone, dashed=not active)
        for part in parts:
            modulation = p.box(part.x, 180 + 27 * line, 72, 21, task, tone=tone, unused=not active)
            if active:
                p.fall(modulation, part, tone=tone)
    p.label(600, 207, "modulation of each\npart: SE, adapters,\nbatch norm", anchor="start")
    return p


def tag_groups() -> Picture:
    p = Picture(
        "TAG",
        "In one joint training: step on one task alone, and see how far that lowers every other task's loss.\n"
        "Averaged over training, these affinities say which tasks are to be trained together.",
        "Left: the loss of depth falls and that of normals rises after a step on semantic alone. Middle: a table "
        "of affinities. Right: semantic and depth form one group, normals another.",
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
        "Each task has a head of its own (DeepLab, HRNet, FPN or linear) that reads only this task's pyramid.\n"
        "Tasks do not interact in the decoder.",
        "Three pyramids, one a task, each pass a head and become a prediction; there are no lines between tasks.",
    )
    for task, y in zip(TASKS, (80, 152, 224)):
        levels = Box(64, y, 60, 48)
        for level, width in enumerate((14, 26, 40, 56)):
            p.box(64, y - 18 + 12 * level, width, 8, tone=TONES[task])
        p.label(104, y, "pyramid", tone=TONES[task], anchor="start")
        reader = p.box(370, y, 190, 38, f"{task} head", tone=TONES[task])
        p.arrow((160, y), reader.left, tone=TONES[task])
        p.flow(reader, prediction(p, task, y), tone=TONES[task])
        p.label((reader.right[0] + 656) / 2, y - 10, "upsample", tone=TONES[task])
        p.label(levels.x + 150, y - 10, "all levels", tone=TONES[task])
    return p
