"""Charts are well-formed SVG whose ticks enclose the data."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.study.charts import TOP, learning_curves, nice_ticks, pieces, smoothed

finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(finite, st.floats(0, 1e6))
def test_ticks_enclose_the_range_and_are_few(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    tolerance = 1e-6 * max(1.0, abs(low), span)
    assert ticks[0] <= low + tolerance
    assert ticks[-1] >= low + span - tolerance
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


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
