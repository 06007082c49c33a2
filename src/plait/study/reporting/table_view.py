"""A table of the report as the page's template takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plait.study.reporting.figure import minus
from plait.study.reporting.layout import BETTER, WORSE, Cell, Column, Table

View = dict[str, Any]

MARKS = {
    BETTER: "shown to be better than its single-task networks",
    WORSE: "shown to be worse than its single-task networks",
}


def shown_table(table: Table, roles: Mapping[str, str] | None = None) -> View:
    """A table with what the page's script sorts and filters by.

    Args:
        table: The table.
        roles: The role of each arm, in the study's order.
    """
    known = roles or {}
    places = {name: place for place, name in enumerate(known, 1)}
    rows: list[View] = []
    for number, cells in enumerate(table.rows):
        names = [table.names[number]] if table.names else [c.text for c in cells[:2] if c.text in known]
        alone = names[0] if len(names) == 1 else ""
        rows.append(
            {
                "arms": names,
                "role": known.get(alone, ""),
                "place": places.get(alone),
                "cells": [shown_cell(*pair) for pair in zip(cells, table.columns, strict=True)],
            }
        )
    return {
        "title": table.title,
        "notes": [minus(note) for note in table.notes],
        "columns": [{"title": unbroken(column.title), "numeric": column.numeric} for column in table.columns],
        "groups": list(groups(table.columns)),
        "rows": rows,
        "intervals": any(cell["interval"] for row in rows for cell in row["cells"]),
    }


def shown_cell(cell: Cell, column: Column) -> View:
    """A cell; its interval only where the text does not hold it."""
    return {
        "text": minus(cell.text) if column.numeric else cell.text,
        "value": None if cell.value is None else f"{cell.value:.8g}",
        "interval": "" if cell.interval in cell.text else minus(cell.interval),
        "bold": cell.bold,
        "mark": cell.mark,
        "meaning": MARKS.get(cell.mark, ""),
    }


def unbroken(title: str) -> str:
    """A head whose arrow stays with the word before it."""
    return title.replace(" ↑", "\N{NO-BREAK SPACE}↑").replace(" ↓", "\N{NO-BREAK SPACE}↓")


def groups(columns: Sequence[Column]) -> Iterator[tuple[str, int]]:
    """What stands above columns, with how many of them; nothing where no column has any."""
    if not any(column.group for column in columns):
        return
    found: list[tuple[str, int]] = []
    for column in columns:
        if found and found[-1][0] == column.group:
            found[-1] = (column.group, found[-1][1] + 1)
        else:
            found.append((column.group, 1))
    yield from found
