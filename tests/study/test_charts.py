"""Charts are well-formed SVG whose ticks enclose the data."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.study.charts import TOP, heat_cell, learning_curves, log_axis, nice_ticks, pieces, smoothed

finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(finite, st.floats(0, 1e6))
def test_ticks_enclose_the_range_and_are_few(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    tolerance = 1e-6 * max(1.0, abs(low), span)
    assert ticks[0] <= low + tolerance
    assert ticks[-1] >= low + span - tolerance
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


@given(st.floats(1e-12, 1e9), st.floats(1, 1e12))
def test_a_logarithmic_axis_encloses_the_range_and_has_few_round_ticks(low: float, factor: float) -> None:
    start, end, ticks = log_axis(low, low * factor)
    assert start <= low * (1 + 1e-9)
    assert end >= low * factor * (1 - 1e-9)
    assert start < end
    assert 2 <= len(ticks) <= 6
    assert start <= ticks[0] < ticks[-1] <= end
    assert all(f"{tick:.0e}"[0] in "125" for tick in ticks)


def test_a_logarithmic_chart_has_a_gap_where_nothing_is_positive() -> None:
    curve = [(1.0, 0.1), (2.0, 0.0), (3.0, 10.0), (4.0, 100.0)]
    svg = learning_curves({"a": curve}, title="t", quantity="q", styles={"a": 0}, logarithmic=True)
    assert svg.count("<circle") == 1
    (points,) = re.findall(r'points="([^"]+)"', svg)
    heights = [float(point.split(",")[1]) for point in points.split()]
    first = float(re.findall(r'cy="([^"]+)"', svg)[0])
    assert first - heights[0] == pytest.approx(2 * (heights[0] - heights[1]), abs=0.2)


def test_an_axis_can_be_given() -> None:
    chart = {"a": [(1.0, 0.2), (2.0, 0.3)]}
    svg = learning_curves(chart, title="t", quantity="q", styles={"a": 0}, span=(-1, 1))
    assert re.findall(r'text-anchor="end">([-0-9.]+)</text>', svg) == ["-1", "-0.5", "0", "0.5", "1"]
    assert svg.count('class="grid zero"') == 1


def test_a_cell_without_a_number_has_no_colour() -> None:
    assert heat_cell(math.nan, "-") == {"text": "−", "percent": 0, "classes": "plus"}
    assert heat_cell(-2.0, "-2")["classes"] == "minus deep bright"


@given(st.lists(st.floats(0, 100), max_size=120))
def test_smoothing_keeps_steps_and_stays_within_the_values(values: list[float]) -> None:
    curve = list(enumerate(values))
    smooth = smoothed(curve)
    assert [step for step, _ in smooth] == [step for step, _ in curve]
    for _, value in smooth:
        assert min(values) - 1e-9 <= value <= max(values) + 1e-9


def test_a_gap_cuts_the_curve() -> None:
    assert pieces([(0, 1.0), (1, math.nan), (2, 3.0), (3, 4.0)]) == [[(0, 1.0)], [(2, 3.0), (3, 4.0)]]


@given(st.text(st.characters(exclude_categories=["C"]), max_size=8), st.lists(finite, max_size=40))
def test_a_chart_is_well_formed_whatever_the_names_and_values(name: str, values: list[float]) -> None:
    curves = {name: list(enumerate(values)), "other": [(0, math.nan)]}
    chart = learning_curves(
        curves, title=f"Loss of <{name}>", quantity="loss & more", styles={name: 0, "other": 7}
    )
    root = ElementTree.fromstring(chart)
    if values:
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"].startswith("Loss of <")
    else:
        assert root.tag == "p"


@pytest.mark.parametrize(("first", "inside"), [(1.3, True), (50.0, False)])
def test_only_a_far_outlier_is_drawn_at_the_edge(first: float, inside: bool) -> None:
    """A first value near the others has its own height; a wild one does not flatten the rest."""
    curve = [(0.0, first), *((float(k), 1 / k) for k in range(1, 40))]
    svg = learning_curves({"a": curve}, title="t", quantity="loss", styles={"a": 0})
    (points,) = re.findall(r'points="([^"]+)"', svg)
    start = float(points.split()[0].split(",")[1])
    ticks = [float(tick) for tick in re.findall(r'text-anchor="end">([0-9.]+)</text>', svg)]
    assert (max(ticks) >= first) == inside
    assert (start > TOP) == inside
