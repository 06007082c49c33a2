"""The tables of a study's report as data; Markdown, LaTeX and the page print the same ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from plait.study.results import ArmResult

BETTER, WORSE = "▲", "▼"
"""Shown to be better, or worse, than its single-task networks."""

NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell.

    Attributes:
        text: What stands in it, without its mark.
        bold: Whether the arm is better than every other by tests.
        mark: :data:`BETTER`, :data:`WORSE` or nothing.
        value: Its number in the column's unit, to sort by; None where there is none.
        interval: The 95 % interval in words, where the text does not hold it; empty where there is none.
    """

    text: str
    bold: bool = False
    mark: str = ""
    value: float | None = None
    interval: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """The head of a column.

    Attributes:
        title: Its name with unit and direction.
        group: What stands above it, for instance a task; empty for nothing.
        numeric: Whether it holds numbers.
    """

    title: str
    group: str = ""
    numeric: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        title: What it shows.
        columns: Heads, that of the first column (arms, as a rule) included.
        rows: As many cells a row as there are columns.
        names: The arm of each row; empty for rows that are of no single arm.
        notes: How to read it, a sentence each.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def by_arm(
    title: str,
    arms: Sequence[ArmResult],
    columns: Sequence[Column],
    cells: Sequence[Sequence[Cell]],
    notes: Sequence[str],
) -> Table:
    """A table with an arm a row, from its columns."""
    return Table(
        title=title,
        columns=(Column(title="arm", numeric=False), *columns),
        rows=tuple(
            (Cell(text=arm.name), *(column[place] for column in cells)) for place, arm in enumerate(arms)
        ),
        names=tuple(arm.name for arm in arms),
        notes=tuple(notes),
    )


def number(value: float) -> float | None:
    """A number to sort by; None for NaN."""
    return value if math.isfinite(value) else None
