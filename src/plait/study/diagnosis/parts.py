"""What a page of a diagnosis consists of: charts over steps, and tables by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from plait.study.charts import Curve, heat_cell, learning_curves, smoothed
from plait.study.diagnosis.findings import text

ROWS = 40
"""Steps in a table at most; the log has all."""
WIDE = 20.0
"""From this ratio of the largest to the smallest on, positive values are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Chart:
    """Curves over steps.

    Attributes:
        title: What they are.
        quantity: The label of the upright axis.
        curves: By name.
        styles: The colour of each; None for a curve that is alone.
        span: Of the upright axis; None for that of the values and zero.
        wide: Whether the axis is logarithmic if the values are positive and far apart.
    """

    title: str
    quantity: str
    curves: Mapping[str, Curve]
    styles: Mapping[str, int] | None = None
    span: tuple[float, float] | None = None
    wide: bool = False

    def svg(self) -> Markup:
        """The drawing; its texts are escaped where it is drawn."""
        values = [value for curve in self.curves.values() for _, value in curve if math.isfinite(value)]
        far = self.wide and min(values) > 0 and max(values) > WIDE * min(values)
        quantity = f"{self.quantity} (logarithmic)" if far else self.quantity
        return Markup(
            learning_curves(
                self.curves,
                title=f"{self.title} by step",
                quantity=quantity,
                styles=self.styles or dict.fromkeys(self.curves, 0),
                span=None if far else self.span or reach(self.curves),
                logarithmic=far,
            )
        )


@dataclass(frozen=True)
class Map:
    """A table of numbers by stage or by step; coloured, or plain.

    Attributes:
        title: What they are, and how to read the colours.
        corner: What the rows are.
        heads: Groups of columns: a title and the names under it.
        rows: The name of a row, and its values.
        strongest: The magnitude with the full colour; ``"row"`` for the largest of each row, None for plain.
        bad: Whether the colour is that of what is negative, for numbers that have no sign.
        show: A value in words.
    """

    title: str
    corner: str
    heads: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[tuple[str, Sequence[float]]]
    strongest: float | str | None = None
    bad: bool = False
    show: Callable[[float], str] = text

    def shown(self) -> dict[str, Any]:
        """As the template takes it."""
        return {
            "title": self.title,
            "corner": self.corner,
            "groups": self.heads if any(title for title, _ in self.heads) else [],
            "names": [name for _, names in self.heads for name in names],
            "look": "plain" if self.strongest is None else "heat unsigned" if self.bad else "heat",
            "rows": [{"name": name, "cells": self._cells(values)} for name, values in self.rows],
        }

    def _cells(self, values: Sequence[float]) -> list[dict[str, Any]]:
        if self.strongest is None:
            return [{"text": self.show(value)} for value in values]
        known = [abs(value) for value in values if math.isfinite(value)]
        strongest = max(known, default=0.0) if self.strongest == "row" else float(self.strongest)
        cells = []
        for value in values:
            shown = self.show(value)
            seen = value if any(digit in shown for digit in "123456789") else 0.0  # -0.001 is shown as 0.00
            cells.append(heat_cell(-seen if self.bad else seen, shown, strongest=strongest or 1.0))
        return cells


@dataclass(frozen=True)
class Section:
    """A part of the page: charts over time, and tables by stage.

    Attributes:
        name: Its id.
        title: Its heading.
        note: How to read it.
        key: The names whose colours its charts use, in the order of the colours.
        charts: May be empty, as the rest.
        maps: Tables to be seen at once.
        tables: Tables to be opened, beside those of the charts' values.
    """

    name: str
    title: str
    note: str
    key: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    maps: Sequence[Map] = ()
    tables: Sequence[Map] = ()

    def shown(self) -> dict[str, Any]:
        """As the template takes it."""
        return {
            "name": self.name,
            "title": self.title,
            "note": self.note,
            "key": self.key if self.charts else (),
            "charts": [
                {"title": chart.title, "svg": chart.svg(), "alone": chart.styles is None}
                for chart in self.charts
            ],
            "maps": [map_.shown() for map_ in self.maps],
            "tables": [map_.shown() for map_ in (*self._by_step(), *self.tables)],
        }

    def _by_step(self) -> list[Map]:
        """The charts' values, a row a step: a table of all charts that have the same steps."""
        alike: dict[tuple[float, ...], list[Chart]] = {}
        for chart in self.charts:
            steps = sorted({step for curve in chart.curves.values() for step, _ in curve})
            alike.setdefault(tuple(steps), []).append(chart)
        return [by_step(steps, charts) for steps, charts in alike.items()]


def by_step(steps: Sequence[float], charts: Sequence[Chart]) -> Map:
    """The values of charts at all steps, or at some at even distances, the last one among them."""
    every = -(-len(steps) // ROWS)
    kept = steps[::-1][::every][::-1]
    some = f": {len(kept)} of {len(steps)} steps, log.jsonl has them all" if every > 1 else ""
    columns = [dict(curve) for chart in charts for curve in chart.curves.values()]
    return Map(
        title=f"By step{some}",
        corner="step",
        heads=[(chart.title, list(chart.curves)) for chart in charts],
        rows=[(f"{step:g}", [column.get(step, math.nan) for column in columns]) for step in kept],
        show=significant,
    )


def significant(value: float) -> str:
    """A number with three significant digits; a dash where there is none.

    >>> significant(-0.12345), significant(1234567.0)
    ('−0.123', '1.23e+06')
    """
    return f"{value:.3g}".replace("-", "−") if math.isfinite(value) else "–"


def colours(names: Sequence[str]) -> dict[str, int]:
    """A colour for each name, the same wherever it is drawn."""
    return {name: place for place, name in enumerate(names)}


def reach(*groups: Mapping[str, Curve]) -> tuple[float, float]:
    """From the lowest to the highest value of smoothed curves, and zero."""
    values = [v for curves in groups for curve in curves.values() for _, v in smoothed(curve)]
    values = [0.0, *(value for value in values if math.isfinite(value))]
    return min(values), max(values)


def drawn(charts: Sequence[Chart]) -> list[Chart]:
    """The charts that have anything to show."""
    return [
        chart
        for chart in charts
        if any(math.isfinite(value) for curve in chart.curves.values() for _, value in curve)
    ]
