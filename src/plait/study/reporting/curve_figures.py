"""The charts of what runs logged: losses, validations, weights and gradients over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from plait.study.charts import OUTLIER, Curve, smoothed
from plait.study.comparison import with_unit
from plait.study.reporting.figure import WIDE, Figure, Json, Style, listed, px
from plait.study.reporting.layout import Cell, Column, Table, number

if TYPE_CHECKING:
    from plait.study.analysis import Analysis
    from plait.study.reporting.history import History

TABLE_STEPS = 16
"""Rows of a table of curves at most."""


def curves(
    by_arm: Mapping[str, Curve], looks: Mapping[str, Style], *, title: str, quantity: str, seeds: int
) -> Figure:
    """Curves of arms over steps.

    Args:
        by_arm: At least one with a finite value.
        looks: Of all arms.
        title: What they are.
        quantity: The label of the upright axis.
        seeds: How many they are a mean of.
    """
    smooth = {name: smoothed(curve) for name, curve in by_arm.items()}
    values = [value for curve in smooth.values() for _, value in curve if math.isfinite(value)]
    traces: list[Json] = [
        {
            "type": "scatter", "mode": "lines+markers", "name": escape(name), "meta": {"arm": name},
            "x": [step for step, _ in curve], "y": [value for _, value in curve],
            "hovertemplate": f"<b>{in_template(name)}</b><br>step %{{x}}: %{{y:.4~g}}<extra></extra>",
            "line": {"color": looks[name].colour, "width": 2, "dash": px(looks[name].dash)},
            "marker": {"color": looks[name].colour, "symbol": looks[name].symbol, "size": 7,
                       "maxdisplayed": 5},
        }
        for name, curve in smooth.items()
    ]  # fmt: skip
    ends = [f"{name} ends at {significant(last(curve))}" for name, curve in smooth.items()]
    mean = f", mean over {seeds} seeds" if seeds > 1 else ""
    return Figure(
        title=title,
        alt=f"{title} by step{mean}. {listed(ends)}",
        traces=traces,
        layout={
            "xaxis": {"title": {"text": "step"}, "rangemode": "tozero", "zeroline": False},
            "yaxis": {"title": {"text": quantity}, "zeroline": False, **axis_of_values(values)},
            "hovermode": "closest",
        },
        height=290,
        numbers=by_step(by_arm, f"{title} by step{mean}"),
    )


def axis_of_values(values: Sequence[float]) -> Json:
    """Logarithmic where values are positive and far apart; else without a few first ones that tower above."""
    low, high = min(values), max(values)
    if low > 0 and high > WIDE * low:
        return {"type": "log", "dtick": 1} if high > 1000 * low else {"type": "log", "nticks": 6}
    most = sorted(values)[int(0.98 * (len(values) - 1))]
    if high > OUTLIER * most > 0:
        return {"range": [min(low, 0.0), 1.05 * most]}
    return {}


def by_step(by_arm: Mapping[str, Curve], caption: str) -> Table:
    """Curves as a table: a row a step, some of them where they are many, a column an arm."""
    steps = sorted({step for curve in by_arm.values() for step, _ in curve})
    every = -(-len(steps) // TABLE_STEPS)
    kept = steps[::-1][::every][::-1]
    known = [dict(curve) for curve in by_arm.values()]

    def at(step: float) -> list[float]:
        return [curve.get(step, math.nan) for curve in known]

    some = f" ({len(kept)} of {len(steps)} points)" if every > 1 else ""
    rows = tuple((Cell(text=f"{step:g}", value=step), *map(curve_cell, at(step))) for step in kept)
    columns = (Column(title="step"), *(Column(title=name) for name in by_arm))
    return Table(title=f"{caption}{some}", columns=columns, rows=rows)


def curve_cell(value: float) -> Cell:
    """A value of a curve."""
    return Cell(text=significant(value), value=number(value))


def learning(
    analysis: Analysis, histories: Mapping[str, History], looks: Mapping[str, Style]
) -> list[Figure]:
    """Training loss and validation of each task."""
    results, found = analysis.results, []
    for name, task in results.tasks.items():
        losses = {arm: h.loss[name] for arm, h in histories.items() if name in h.loss}
        if losses:
            found.append(curves(losses, looks, title=f"{name}: training loss", quantity="loss",
                                seeds=seeds_of(analysis)))  # fmt: skip
        factor = 100.0 if task.headline.unit == "%" else 1.0
        held = {
            arm: [(step, factor * value) for step, value in h.validation[name]]
            for arm, h in histories.items()
            if name in h.validation
        }
        if held:
            title = f"{name}: {task.headline.title} on validation"
            found.append(curves(held, looks, title=title, quantity=with_unit(task.headline),
                                seeds=seeds_of(analysis)))  # fmt: skip
    return found


def balancing(
    analysis: Analysis, histories: Mapping[str, History], looks: Mapping[str, Style]
) -> list[Figure]:
    """Weights that changed, lengths of gradients and conflicts: what of it was logged."""
    found = []
    seeds = seeds_of(analysis)
    several = {arm.name for arm in analysis.results.arms if arm.networks == 1}
    for quantity, title, label in (
        ("weight", "weight", "weight"),
        ("gradient_norm", "length of the gradient", "length"),
    ):
        for task in dict.fromkeys(name for h in histories.values() for name in getattr(h, quantity)):
            by_arm = {
                arm: getattr(h, quantity)[task]
                for arm, h in histories.items()
                if arm in several and task in getattr(h, quantity) and (quantity != "weight" or h.balances)
            }
            if by_arm:
                found.append(curves(by_arm, looks, title=f"{task}: {title}", quantity=label, seeds=seeds))
    conflicts = {arm: h.conflicts for arm, h in histories.items() if h.conflicts}
    if conflicts:
        title = "Conflicting pairs of tasks"
        found.append(curves(conflicts, looks, title=title, quantity="share of pairs", seeds=seeds))
    return found


def seeds_of(analysis: Analysis) -> int:
    """How many seeds most arms have."""
    return max((len(arm.seeds) for arm in analysis.results.arms), default=0)


def in_template(name: str) -> str:
    """A name that plotly's hover takes letter by letter."""
    return escape(name).replace("%", "&#37;")


def last(curve: Curve) -> float:
    """The last value that is one."""
    return next((value for _, value in reversed(curve) if math.isfinite(value)), math.nan)


def significant(value: float) -> str:
    """A number with three significant digits; a dash where there is none."""
    return f"{value:.3g}".replace("-", "−") if math.isfinite(value) else "–"
