"""The charts of a study's numbers: relative gain against cost, by task, and mean ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from plait.study.analysis import COSTS as COSTS_OF_FRONTS
from plait.study.comparison import show
from plait.study.reporting import score_tables
from plait.study.reporting.arm_tables import COSTS, CostColumn
from plait.study.reporting.figure import WIDE, Figure, Json, Style, arms_axis, hover, listed, minus, short
from plait.study.reporting.layout import Column, Table, by_arm
from plait.study.reporting.numbers import GAIN, quantity
from plait.study.reporting.reading import count, headlines, scored

if TYPE_CHECKING:
    from plait.study.analysis import Analysis, Estimate, Key
    from plait.study.results import ArmResult

COST: Mapping[str, CostColumn] = {cost.name: cost for cost in COSTS}


# Relative gain.


def gain_against(analysis: Analysis, cost: str, looks: Mapping[str, Style]) -> Figure | None:
    """Mean relative gain of each arm against a cost, with the front; None with fewer than two points.

    Args:
        analysis: The study.
        cost: One of :data:`plait.study.analysis.COSTS`.
        looks: Of all arms.
    """
    axis = COST[cost]
    points = [
        (arm, x, found)
        for arm in analysis.results.arms
        if (x := axis.value(arm)) is not None and (found := estimate_of(analysis, arm, GAIN)) is not None
    ]
    if len(points) < 2:
        return None
    by_name = {arm.name: (x, found.mean) for arm, x, found in points}
    front = [by_name[name] for name in analysis.fronts.get(cost, ()) if name in by_name]
    traces: list[Json] = []
    if len(front) > 1:
        traces.append({
            "type": "scatter", "mode": "lines", "name": "front", "hoverinfo": "skip",
            "x": [x for x, _ in front], "y": [y for _, y in front],
            "line": {"color": "--soft", "width": 1.5, "dash": "dot", "shape": "hv"},
        })  # fmt: skip
    for arm, x, found in points:
        look = looks[arm.name]
        traces.append({
            "type": "scatter", "mode": "markers", "name": escape(arm.name),
            "meta": {"arm": arm.name, "label": escape(short(arm.name))},
            "x": [x], "y": [found.mean],
            "text": [point_text(analysis, arm)], "hovertemplate": "%{text}<extra></extra>",
            "marker": {"color": look.colour, "symbol": look.symbol, "size": 11,
                       "line": {"color": "--card", "width": 1}},
            "error_y": bars(found, look.colour),
        })  # fmt: skip
    costs = [x for _, x, _ in points]
    spoken = [
        f"{arm.name} {value_of(analysis, GAIN, found)} at {show(x, axis.digits)}" for arm, x, found in points
    ]
    layout = {
        "xaxis": {"title": {"text": axis.head}, **axis_of_costs(costs)},
        "yaxis": {"title": {"text": "mean relative gain (%)"}, "zeroline": True, "zerolinecolor": "--soft"},
        "hovermode": "closest",
    }
    title = f"Mean relative gain against {axis.head}"
    alt = f"{title}. {listed(spoken)} {front_text(analysis, cost)}".rstrip()
    return Figure(title=title, alt=alt, traces=traces, layout=layout, height=430)


def gain_table(analysis: Analysis) -> Table:
    """The numbers of :func:`gain_against` for all costs that a front is drawn of."""
    arms = scored(analysis)
    costs = [COST[name] for name in COSTS_OF_FRONTS if COST[name].measured(arms)]
    cells = [
        score_tables.estimate_cells(analysis, arms, GAIN, intervals=True),
        *([cost.cell(arm) for arm in arms] for cost in costs),
    ]
    columns = [Column(title=quantity(analysis.results, GAIN).head), *(Column(title=c.head) for c in costs)]
    fronts = [front_text(analysis, cost.name) for cost in costs]
    notes = [f"{cost.head}: {said}" for cost, said in zip(costs, fronts, strict=True) if said]
    return by_arm("Mean relative gain and cost", arms, columns, cells, notes)


def axis_of_costs(costs: Sequence[float]) -> Json:
    """Logarithmic where costs are far apart, else from a little below the least."""
    low, high = min(costs), max(costs)
    if low > 0 and high > WIDE * low:
        return {"type": "log", "range": [math.log10(low / 1.3), math.log10(high * 1.3)]}
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return {"range": [low - room if low - room > 0 or low <= 0 else 0.0, high + room]}


def front_text(analysis: Analysis, cost: str) -> str:
    """Which arms are on the front."""
    names = ", ".join(analysis.fronts.get(cost, ()))
    return f"On the front, cheapest first: {names}." if names else ""


def point_text(analysis: Analysis, arm: ArmResult) -> str:
    """All numbers of an arm, a line each, as plotly's hover takes them."""
    lines = [f"<b>{escape(arm.name)}</b>"]
    for key in (*headlines(analysis.results), GAIN):
        found = estimate_of(analysis, arm, key)
        if found is not None:
            words = escape(quantity(analysis.results, key).words)
            lines.append(f"{words}: {value_of(analysis, key, found, ends=True)}")
    lines += [
        f"{axis.head}: {show(axis.value(arm), axis.digits)}"
        for axis in (COST[name] for name in COSTS_OF_FRONTS)
        if axis.value(arm) is not None
    ]
    return "<br>".join(lines)


def estimate_of(analysis: Analysis, arm: ArmResult, key: Key) -> Estimate | None:
    """An arm's estimate; None if it has no number."""
    found = analysis.estimates.get(arm.name, {}).get(key)
    return found if found is not None and math.isfinite(found.mean) else None


def value_of(analysis: Analysis, key: Key, found: Estimate, *, ends: bool = False) -> str:
    """An estimate in words: with its interval, or alone."""
    of = quantity(analysis.results, key)
    return minus(of.estimate(found) if ends else of.value(found))


def bars(found: Estimate, colour: str) -> Json:
    """Error bars of an interval; none where there is no interval."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return {"visible": False}
    return {
        "type": "data", "symmetric": False, "array": [max(found.high - found.mean, 0.0)],
        "arrayminus": [max(found.mean - found.low, 0.0)], "color": colour, "thickness": 1.4, "width": 4,
    }  # fmt: skip


def gain_bars(analysis: Analysis, looks: Mapping[str, Style]) -> Iterator[Figure]:
    """The relative gain of each arm on each task, then their mean: bars with intervals."""
    results = analysis.results
    for task in (*results.tasks, "mean"):
        key: Key = ("gain", task)
        found = {
            arm.name: estimate
            for arm in results.arms
            if arm.role != "single-task" and (estimate := estimate_of(analysis, arm, key)) is not None
        }
        if not found:
            continue
        title = "Mean over tasks" if task == "mean" else task
        traces = [
            {
                "type": "bar", "orientation": "h", "name": escape(name), "y": [name], "x": [estimate.mean],
                "meta": {"arm": name}, "width": 0.68,
                "marker": {"color": looks[name].colour, "opacity": 0.85},
                "error_x": bars(estimate, "--ink"),
                "text": [hover(name, value_of(analysis, key, estimate, ends=True))],
                "textposition": "none", "hovertemplate": "%{text}<extra></extra>",
            }
            for name, estimate in found.items()
        ]  # fmt: skip
        spoken = [f"{name} {value_of(analysis, key, e)}" for name, e in found.items()]
        yield Figure(
            title=title,
            alt=f"Relative gain, {title.lower() if task == 'mean' else title}. {listed(spoken)}",
            traces=traces,
            layout={
                "xaxis": {"title": {"text": "relative gain (%)"}, "zeroline": True, "zerolinecolor": "--ink"},
                "yaxis": arms_axis(list(found)),
                "hovermode": "closest",
                "barmode": "overlay",
            },
            height=70 + 27 * len(found),
        )


# Ranks.


def rank_figure(analysis: Analysis, looks: Mapping[str, Style]) -> Figure | None:
    """Mean ranks, with the critical difference and brackets around arms that are not told apart."""
    ranks = analysis.ranks
    if ranks is None:
        return None
    names = sorted(ranks.mean, key=lambda name: ranks.mean[name])
    critical, most = ranks.critical_difference, max(ranks.mean.values())
    known = math.isfinite(critical)
    right = max(most, 1 + critical if known else 1.0) + 0.35
    traces: list[Json] = [
        {
            "type": "scatter", "mode": "markers", "name": escape(name), "x": [ranks.mean[name]], "y": [name],
            "meta": {"arm": name}, "cliponaxis": False,
            "marker": {"color": looks[name].colour, "symbol": looks[name].symbol, "size": 11},
            "text": [hover(name, f"mean rank {ranks.mean[name]:.2f}")],
            "hovertemplate": "%{text}<extra></extra>",
        }
        for name in names
    ]  # fmt: skip
    spans = [(names.index(group[0]), names.index(group[-1])) for group in ranks.cliques]
    lanes = clique_lanes(spans)
    width = 0.04 * (right - 0.65)
    shapes = [
        line
        for (first, last), lane in zip(spans, lanes, strict=True)
        for line in bracket(right + (lane + 0.5) * width, first - 0.25, last + 0.25, 0.45 * width)
    ]
    if known:
        shapes += ruler(1.0, 1 + critical)
    step = 1 + most // 12
    spoken = [f"{name} {ranks.mean[name]:.2f}" for name in names]
    groups = "; ".join(", ".join(group) for group in ranks.cliques)
    said = f"Not told apart: {groups}." if groups else "No arms are within the critical difference."
    distance = f"Critical difference {critical:.2f}. " if known else ""
    return Figure(
        title="Mean ranks",
        alt=(
            f"Mean ranks over {count(ranks.blocks, 'ranking')}, best first. {listed(spoken)} {distance}{said}"
        ),
        traces=traces,
        layout={
            "xaxis": {
                "title": {"text": "mean rank (1 is best)"},
                "range": [0.65, right + width * (max(lanes, default=-1) + 1.4)],
                "tickvals": [rank for rank in range(1, math.ceil(most) + 1) if (rank - 1) % step == 0],
                "zeroline": False,
            },
            "yaxis": arms_axis(names) | {"range": [len(names) - 0.5, -2.0], "showgrid": True},
            "shapes": shapes,
            "annotations": [ruler_text(critical)] if known else [],
            "hovermode": "closest",
        },
        height=110 + 25 * len(names),
        numbers=score_tables.ranks(analysis),
    )


def bracket(at: float, top: float, bottom: float, arm: float) -> list[Json]:
    """A bracket that opens to the left, around rows of a chart."""
    return [
        stroke(at, top, at, bottom, "--ink"),
        stroke(at - arm, top, at, top, "--ink"),
        stroke(at - arm, bottom, at, bottom, "--ink"),
    ]


def ruler(start: float, end: float) -> list[Json]:
    """A length above the rows of a chart."""
    return [
        stroke(start, -0.95, end, -0.95, "--soft"),
        stroke(start, -1.12, start, -0.78, "--soft"),
        stroke(end, -1.12, end, -0.78, "--soft"),
    ]


def ruler_text(critical: float) -> Json:
    """What stands above the ruler."""
    return {
        "x": 1.0, "y": -1.05, "text": f"critical difference {critical:.2f}", "showarrow": False,
        "xanchor": "left", "yanchor": "bottom", "font": {"color": "--soft"},
    }  # fmt: skip


def stroke(x0: float, y0: float, x1: float, y1: float, colour: str) -> Json:
    """A line."""
    return {
        "type": "line", "x0": x0, "x1": x1, "y0": y0, "y1": y1, "line": {"color": colour, "width": 2.5},
    }  # fmt: skip


def clique_lanes(spans: Sequence[tuple[int, int]]) -> list[int]:
    """A lane for each bracket, so that brackets that meet stand beside each other.

    >>> clique_lanes([(0, 2), (1, 4), (3, 5)])
    [0, 1, 0]
    """
    ends: list[int] = []
    found = []
    for first, last in spans:
        free = next((lane for lane, end in enumerate(ends) if end < first), len(ends))
        ends[free : free + 1] = [last]
        found.append(free)
    return found
