"""Affinities and trees as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from plait.models.encoders.trees import Tree, part_names
from plait.study import pages
from plait.study.charts import heat_cell

COLUMN, ROW, BOX, HEIGHT, TOP, LABELS = 112, 46, 76, 28, 30, 170


@dataclass(frozen=True)
class HeatMap:
    """Numbers between tasks, to be drawn as a table of coloured cells.

    Attributes:
        title: What they are.
        tasks: Names of rows and columns.
        values: ``[T, T]``.
        weakest: The magnitude from which there is colour.
        strongest: The magnitude that has the full colour; None for the largest beside the diagonal.
        digits: Decimals shown.
    """

    title: str
    tasks: tuple[str, ...]
    values: NDArray[np.float64]
    weakest: float = 0.0
    strongest: float | None = 1.0
    digits: int = 2

    def rows(self) -> list[dict[str, Any]]:
        """As the template takes it: numbers as text, how strong the colour is in percent, and its sign."""
        beside = np.abs(self.values[~np.eye(len(self.tasks), dtype=bool)])
        strongest = self.strongest or float(beside.max(initial=0.0)) or 1.0
        return [
            {
                "name": name,
                "cells": [
                    heat_cell(value, f"{value:.{self.digits}f}", weakest=self.weakest, strongest=strongest)
                    for value in row
                ],
            }
            for name, row in zip(self.tasks, self.values.tolist(), strict=True)
        ]


def tree_svg(tree: Tree) -> str:
    """A tree from left to right: a column a part, a box a copy of it, the tasks' heads at the right."""
    order = sorted(
        (task for group in tree.partitions[0] for task in group),
        key=lambda task: [next(n for n, g in enumerate(p) if task in g) for p in tree.partitions],
    )
    row = {task: place for place, task in enumerate(order)}
    parts = len(tree.partitions)

    def y(group: Sequence[str]) -> float:
        return TOP + ROW * (sum(row[task] for task in group) / len(group) + 0.5)

    def line(part: int, start: float, end: float) -> str:
        left, right = COLUMN * part + BOX, COLUMN * (part + 1)
        middle = (left + right) / 2
        curve = f"M{left} {start:g}C{middle:g} {start:g} {middle:g} {end:g} {right} {end:g}"
        return f'<path class="branch" d="{curve}"/>'

    drawn = [
        f'<text class="part" x="{COLUMN * part + BOX / 2:g}" y="16" text-anchor="middle">'
        f"{part_names(part, part)}</text>"
        for part in range(parts)
    ]
    for part, partition in enumerate(tree.partitions):
        for group in partition:
            if part:
                drawn.append(line(part - 1, y(tree.group(part - 1, group[0])), y(group)))
            if part == parts - 1:
                drawn += [line(part, y(group), y([task])) for task in group]
            text = "1 task" if len(group) == 1 else f"{len(group)} tasks"
            left, middle = COLUMN * part, y(group)
            drawn.append(
                f'<g class="copy"><title>{part_names(part, part)} of {escape(", ".join(group))}</title>'
                f'<rect x="{left}" y="{middle - HEIGHT / 2:g}" width="{BOX}" height="{HEIGHT}" rx="6"/>'
                f'<text x="{left + BOX / 2:g}" y="{middle + 4:g}" text-anchor="middle">{text}</text></g>'
            )
    drawn += [
        f'<text class="task" x="{COLUMN * parts + 6}" y="{y([task]) + 4.5:g}">{escape(task)}</text>'
        for task in order
    ]
    width, height = COLUMN * parts + LABELS, TOP + ROW * len(order)
    heard = escape("; ".join(line.strip("├└│─ ") for line in tree.lines()))
    return (
        f'<svg viewBox="-1 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{heard}">{"".join(drawn)}</svg>'
    )


def short(tree: Tree) -> list[str]:
    """A tree in a line for each run of parts that are shared alike.

    >>> short(Tree.parse(["a b c", "a b c", "a | b c"], tasks=["a", "b", "c"], parts=4))
    ['stem to stage 1: a b c', 'stages 2 to 3: a | b c']
    """
    lines, text = [], tree.text()
    first = 0
    for part in range(1, len(text) + 1):
        if part == len(text) or text[part] != text[first]:
            lines.append(f"{part_names(first, part - 1)}: {text[first]}")
            first = part
    return lines


def render(
    *,
    title: str,
    subtitle: str,
    notes: Sequence[str],
    maps: Sequence[HeatMap],
    maps_note: str,
    tree: Tree | None = None,
    heads: Sequence[str] = (),
    rows: Sequence[Mapping[str, Any]] = (),
    caption: str = "",
    recipe: str = "",
) -> str:
    """The page.

    Args:
        title: Its heading.
        subtitle: What it is about.
        notes: What must be known with the numbers.
        maps: Affinities.
        maps_note: How to read them.
        tree: The chosen tree, if one was looked for.
        heads: Of the table of trees.
        rows: Of it: ``{"tree": lines, "cells": texts}``, the chosen one first.
        caption: How to read it.
        recipe: The recipe that was written.
    """
    return pages.render(
        "branching/page.html.j2",
        title=title,
        subtitle=subtitle,
        notes=notes,
        maps=[{"title": m.title, "tasks": m.tasks, "rows": m.rows()} for m in maps],
        maps_note=maps_note,
        tree=Markup(tree_svg(tree)) if tree is not None else None,  # its texts are escaped where it is drawn
        heads=heads,
        rows=rows,
        caption=caption,
        recipe=recipe,
    )
