"""Learning curves as inline SVG: text stays text, colours follow the page, nothing is fetched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 34

OUTLIER = 3.0
"""How many times higher than nearly all values the highest must be to be drawn at the edge instead."""

DEEP = {"plus": 76, "minus": 84}
"""Percent of a colour above which white text is easier to read on it than black, on a light page."""
BRIGHT = {"plus": 55, "minus": 57}
"""Percent above which black text is easier to read than white, on a dark page."""

Curve = Sequence[tuple[float, float]]
"""``(step, value)`` in rising order of steps; a value that is not finite is a gap."""


def learning_curves(
    curves: Mapping[str, Curve],
    *,
    title: str,
    quantity: str,
    styles: Mapping[str, int],
    span: tuple[float, float] | None = None,
    logarithmic: bool = False,
) -> str:
    """One chart of smoothed curves over training steps.

    Args:
        curves: A curve an arm.
        title: What the chart shows, for a reader who does not see it.
        quantity: The label of the upright axis.
        styles: The arm's place among all arms of the page: its colour and dashes (CSS class ``arm-N``).
        span: From where to where the upright axis goes; None for where the values are.
        logarithmic: Whether it is logarithmic; what is not positive is then a gap.

    Returns:
        An ``<svg>`` element.
    """
    if logarithmic:
        curves = {
            name: [(step, value if value > 0 else math.nan) for step, value in curve]
            for name, curve in curves.items()
        }
    smooth = {name: smoothed(curve) for name, curve in curves.items()}
    steps = [step for curve in smooth.values() for step, _ in curve]
    values = [value for curve in smooth.values() for _, value in curve if math.isfinite(value)]
    if not values:
        return f'<p class="empty">No curve for {escape(title)}: nothing was logged.</p>'
    last = max(steps) or 1.0
    low, high, most = min(values), max(values), float(np.quantile(values, 0.98))
    if not logarithmic and high > OUTLIER * most > 0:  # the first steps would flatten all worth seeing
        high = most
    if span is not None:
        low, high = span
    if logarithmic:
        low, high, ticks = log_axis(low, high)
    else:
        ticks = nice_ticks(min(low, high), max(low, high))
        low, high = ticks[0], ticks[-1]

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y(value: float) -> float:
        inside = min(max(value, low), high)
        part = math.log(inside / low, high / low) if logarithmic else (inside - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part

    ends = [f"{name} ends at {curve[-1][1]:.3g}" for name, curve in smooth.items() if curve]
    heard = escape(f"{title}: {'; '.join(ends)}")
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{heard}">']
    for tick in ticks:
        grid = "grid zero" if tick == 0 and low < 0 else "grid"
        parts.append(
            f'<line class="{grid}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for step in step_ticks(last):
        below = HEIGHT - BOTTOM + 14
        parts += [f'<text x="{x(step):.1f}" y="{below}" text-anchor="middle">{step:g}</text>']
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">step</text>')
    parts.append(
        f'<text transform="rotate(-90)" x="{-(TOP + HEIGHT - BOTTOM) / 2}" y="10" text-anchor="middle">'
        f"{escape(quantity)}</text>"
    )
    for name, curve in smooth.items():
        for piece in pieces(curve):
            style = f"curve arm-{styles[name] % 6}"
            points = [f"{x(step):.1f},{y(value):.1f}" for step, value in piece]
            if len(piece) == 1:  # a line of one point would not show
                across, down = points[0].split(",")
                parts.append(f'<circle class="{style}" cx="{across}" cy="{down}" r="2"/>')
            else:
                parts.append(f'<polyline class="{style}" points="{" ".join(points)}"/>')
    parts.append("</svg>")
    return "".join(parts)


def heat_cell(
    value: float, text: str, *, weakest: float = 0.0, strongest: float = 1.0
) -> dict[str, str | int]:
    """A cell of a table of colours, as templates take it: its text, how strong the colour is, and its sign.

    Args:
        value: What decides the colour; a value that is not finite has none.
        text: What stands in the cell.
        weakest: The magnitude from which there is colour.
        strongest: The magnitude that has the full colour.
    """
    part = (abs(value) - weakest) / (strongest - weakest) if math.isfinite(value) else 0.0
    percent = round(100 * min(max(part, 0.0), 1.0))
    sign = "minus" if value < 0 else "plus"
    classes = [sign, *["deep"] * (percent > DEEP[sign]), *["bright"] * (percent > BRIGHT[sign])]
    return {"text": text.replace("-", "−"), "percent": percent, "classes": " ".join(classes)}


def smoothed(curve: Curve, parts: int = 25) -> list[tuple[float, float]]:
    """The mean over a centred window of one ``parts``-th of the curve; gaps stay gaps.

    >>> smoothed([(1, 2.0), (2, 4.0)])
    [(1, 2.0), (2, 4.0)]
    """
    half = len(curve) // parts // 2 if len(curve) >= parts else 0
    result = []
    for place, (step, value) in enumerate(curve):
        near = [v for _, v in curve[max(0, place - half) : place + half + 1] if math.isfinite(v)]
        result.append((step, sum(near) / len(near) if near and math.isfinite(value) else math.nan))
    return result


def pieces(curve: Curve) -> list[list[tuple[float, float]]]:
    """The curve cut at its gaps."""
    found: list[list[tuple[float, float]]] = [[]]
    for step, value in curve:
        if math.isfinite(value):
            found[-1].append((step, value))
        elif found[-1]:
            found.append([])
    return [piece for piece in found if piece]


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round numbers that enclose the range.

    >>> nice_ticks(0.13, 0.98)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    span = max(high - low, abs(high) * 1e-3, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / count))
    unit = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power * count >= span * 0.999)
    first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    return [round(unit * k, 12) for k in range(first, max(last, first + 1) + 1)]


def log_axis(low: float, high: float, count: int = 6) -> tuple[float, float, list[float]]:
    """Ends of a logarithmic axis for a range of positive numbers, and at most ``count`` ticks on it.

    >>> log_axis(0.03, 0.6)
    (0.02, 1.0, [0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    >>> log_axis(2e-4, 30)
    (0.0002, 50.0, [0.001, 0.01, 0.1, 1.0, 10.0])
    """
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    round_ = [(float(f"{m}e{power}"), m) for power in powers for m in (1, 2, 5)]
    start = max(tick for tick, _ in round_ if tick <= low)
    end = min(tick for tick, _ in round_ if tick >= high and tick > start)
    inside = [(tick, m) for tick, m in round_ if start <= tick <= end]
    tens = [tick for tick, m in inside if m == 1]
    choices = ([tick for tick, _ in inside], [tick for tick, m in inside if m != 2], tens)
    few = [ticks for ticks in choices if len(ticks) <= count]
    return start, end, few[0] if few else tens[:: math.ceil(len(tens) / count)]


def step_ticks(last: float) -> list[float]:
    """A few round steps from 0 to the last one."""
    ticks = [tick for tick in nice_ticks(0.0, last) if tick <= last and tick == int(tick)]
    return ticks if len(ticks) > 1 else [0.0, last]
