"""Charts show the analysis' own numbers, in shapes that are told apart, as JSON that can stand in a page."""

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from tests.study.reporting.made_up import MadeUpRun, analysis

from plait.study.analysis import COSTS, Analysis, Estimate, Ranks
from plait.study.charts import Curve
from plait.study.reporting.curve_figures import TABLE_STEPS, balancing, by_step, curves, learning
from plait.study.reporting.figure import Figure, minus, plain, styles
from plait.study.reporting.figures import bars, gain_against, gain_bars, gain_table, rank_figure
from plait.study.reporting.history import POINTS, read, thinned
from plait.study.results import ArmResult


@pytest.fixture(scope="module")
def study() -> Analysis:
    return analysis(6, 3, larger=["mti_net"])


def looks_of(study: Analysis) -> dict[str, Any]:
    return styles([arm.name for arm in study.results.arms])


def points(figure: Figure) -> dict[str, dict[str, Any]]:
    return {trace["meta"]["arm"]: trace for trace in figure.traces if "meta" in trace}


def with_lines(arm: ArmResult, lines: dict[int, list[dict[str, Any]]]) -> ArmResult:
    """The arm with other logs, by seed."""

    def logged(run: MadeUpRun, seed: int) -> MadeUpRun:
        return replace(run, lines=lines[seed])

    return replace(
        arm,
        seeds=tuple(replace(s, runs=tuple(logged(r, s.seed) for r in s.runs)) for s in arm.seeds),  # type: ignore[arg-type]
    )


# Specifications.


def test_thirty_lines_and_forty_two_points_look_different() -> None:
    looks = list(styles([str(place) for place in range(42)]).values())
    assert len({(look.colour, look.symbol) for look in looks}) == 42
    assert len({(look.colour, look.dash) for look in looks[:30]}) == 30
    assert all(a.colour != b.colour and a.symbol != b.symbol for a, b in itertools.pairwise(looks))


def test_a_specification_is_json_that_cannot_end_its_element() -> None:
    traces = [{"y": [1.23456789, math.nan, math.inf, 2]}, {"name": "</script><!--\u2028"}]
    figure = Figure(title="", alt="", traces=traces, layout={}, height=10)
    text = figure.spec()
    assert "<" not in text
    assert "\u2028" not in text
    found = json.loads(text)
    assert found["data"][0]["y"] == [1.23457, None, None, 2]
    assert found["data"][1]["name"] == "</script><!--\u2028"
    assert plain({"a": (1.0, "x")}) == {"a": [1.0, "x"]}


def test_hyphens_are_no_minus() -> None:
    assert minus("single-task -1.5 (-2 to -1)") == "single-task −1.5 (−2 to −1)"


# Relative gain.


@pytest.mark.parametrize("cost", COSTS)
def test_points_and_bars_are_the_estimates_and_the_line_is_the_front(study: Analysis, cost: str) -> None:
    figure = gain_against(study, cost, looks_of(study))
    assert figure is not None
    found = points(figure)
    assert set(found) == {arm.name for arm in study.results.arms}
    for arm, trace in found.items():
        estimate = study.estimates[arm]["gain", "mean"]
        assert trace["y"] == [estimate.mean]
        assert trace["y"][0] + trace["error_y"]["array"][0] == pytest.approx(estimate.high)
        assert trace["y"][0] - trace["error_y"]["arrayminus"][0] == pytest.approx(estimate.low)
    (front,) = [trace for trace in figure.traces if trace["mode"] == "lines"]
    assert front["x"] == [found[arm]["x"][0] for arm in study.fronts[cost]]
    assert front["x"] == sorted(front["x"])
    low, high = figure.layout["xaxis"]["range"]
    assert all(low < trace["x"][0] < high for trace in found.values())


def test_without_costs_there_is_no_chart_against_them(study: Analysis) -> None:
    arms = tuple(replace(arm, cost=None) for arm in study.results.arms)
    bare = replace(study, results=replace(study.results, arms=arms))
    assert all(gain_against(bare, cost, looks_of(study)) is None for cost in COSTS)


def test_costs_far_apart_get_a_logarithmic_axis(study: Analysis) -> None:
    arms = [replace(a, cost=replace(a.cost, parameters=10**n)) for n, a in enumerate(study.results.arms, 3)]  # type: ignore[type-var]
    wide = replace(study, results=replace(study.results, arms=tuple(arms)))
    figure = gain_against(wide, "parameters", looks_of(study))
    assert figure is not None
    assert figure.layout["xaxis"]["type"] == "log"


def test_an_interval_that_is_not_there_has_no_bar() -> None:
    bare = Estimate(
        mean=1.0, spread=math.nan, low=math.nan, high=math.nan, by_seed={0: 1.0}, over_images=False,
        over_seeds=False,
    )  # fmt: skip
    assert bars(bare, "--ink") == {"visible": False}


def test_bars_by_task_leave_out_the_networks_that_gains_refer_to(study: Analysis) -> None:
    figures = list(gain_bars(study, looks_of(study)))
    assert [figure.title for figure in figures] == [*study.results.tasks, "Mean over tasks"]
    for figure, task in zip(figures, [*study.results.tasks, "mean"], strict=True):
        found = points(figure)
        assert set(found) == {arm.name for arm in study.results.arms} - {"single-task"}
        assert all(t["x"] == [study.estimates[a]["gain", task].mean] for a, t in found.items())


def test_every_drawn_gain_is_in_a_table(study: Analysis) -> None:
    table = gain_table(study)
    assert table.names == tuple(arm.name for arm in study.results.arms)
    assert [row[1].value for row in table.rows] == [
        study.estimates[name]["gain", "mean"].mean for name in table.names
    ]
    assert len(table.columns) == 2 + len(COSTS)


def test_names_and_tasks_cannot_be_mark_up_in_a_chart() -> None:
    found = analysis(3, 2, name="x")
    evil = "<b>a</b>&"
    arms = tuple(replace(a, name=evil) if a.name == "mtl" else a for a in found.results.arms)
    estimates = {evil if name == "mtl" else name: of for name, of in found.estimates.items()}
    odd = replace(found, results=replace(found.results, arms=arms), estimates=estimates, fronts={})
    figure = gain_against(odd, "macs", looks_of(odd))
    assert figure is not None
    trace = points(figure)[evil]
    assert trace["text"][0].startswith("<b>&lt;b&gt;a&lt;/b&gt;&amp;</b><br>")
    assert trace["meta"]["label"] == "&lt;b&gt;a&lt;/b&gt;&amp;"


# Ranks.


def test_a_bracket_for_each_group_that_is_not_told_apart_and_a_ruler(study: Analysis) -> None:
    ranks = Ranks(
        mean={"mtl": 1.0, "mti_net": 1.5, "mgda": 3.0}, blocks=4, critical_difference=1.7, p=0.01,
        cliques=(("mtl", "mti_net"), ("mti_net", "mgda")),
    )  # fmt: skip
    figure = rank_figure(replace(study, ranks=ranks), looks_of(study))
    assert figure is not None
    uprights = [s for s in figure.layout["shapes"] if s["x0"] == s["x1"] and s["y1"] - s["y0"] > 0.5]
    assert [(round(s["y0"] + 0.25), round(s["y1"] - 0.25)) for s in uprights] == [(0, 1), (1, 2)]
    assert uprights[0]["x0"] != uprights[1]["x0"]
    assert all(s["x0"] > 3.0 for s in uprights)
    (ruler,) = [s for s in figure.layout["shapes"] if s["x1"] - s["x0"] == pytest.approx(1.7)]
    assert ruler["y0"] == ruler["y1"] < 0
    assert "Not told apart: mtl, mti_net; mti_net, mgda." in figure.alt
    assert rank_figure(replace(study, ranks=None), looks_of(study)) is None


# Logs.


def test_a_history_is_the_mean_over_seeds_of_what_was_logged(study: Analysis) -> None:
    def lines(value: float) -> list[dict[str, Any]]:
        return [
            {"step": 1, "loss": {"depth": value}, "weight": {"depth": 1.0}, "conflicts": None},
            {"step": 2, "loss": {"depth": None}, "weight": {"depth": 1.0 + value}, "conflicts": value / 10},
            {"step": 2, "validation": {"depth": {"rmse": value}}},
            {"step": 2, "affinity": {"depth": {"depth": 0.5, "normals": -value}}},
            {"step": 2, "gradients": {"whole": {"cosine": {"depth": {"normals": value / 4}}}, "stages": {}}},
        ]

    arm = with_lines(study.results.arm("mtl"), {0: lines(1.0), 1: lines(2.0), 2: lines(3.0)})
    found = read(arm, study.results.tasks)
    assert found.loss["depth"][0] == (1.0, 2.0)
    assert math.isnan(found.loss["depth"][1][1])
    assert found.validation["depth"] == [(2.0, 2.0)]
    assert found.conflicts[-1] == (2.0, pytest.approx(0.2))
    assert found.affinity == {"depth": {"depth": 0.5, "normals": -2.0}}
    assert found.cosine == {"depth": {"normals": 0.5}, "normals": {"depth": 0.5}}
    assert found.balances
    assert found.gradients is not None
    assert found.gradients[0] is arm.seeds[0].runs[0]


def test_a_log_is_read_once(study: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    lines = [{"step": 1, "loss": {"depth": 1.0}}]
    monkeypatch.setattr(MadeUpRun, "log", property(lambda run: reads.append(run.path) or lines))
    arm = study.results.arm("single-task")
    read(arm, study.results.tasks)
    assert sorted(reads) == sorted(run.path for run in arm.runs)


def test_a_thinned_curve_keeps_its_mean_and_its_last_step() -> None:
    curve: Curve = [(float(step), float(step % 7)) for step in range(4 * POINTS)]
    thin = thinned(curve)
    assert len(thin) == POINTS
    assert thin[-1][0] == curve[-1][0]
    assert sum(v for _, v in thin) / POINTS == pytest.approx(sum(v for _, v in curve) / len(curve))
    assert thinned(curve[:POINTS]) == curve[:POINTS]


def test_a_table_of_curves_has_some_steps_with_the_last() -> None:
    curve = [(float(step), 1.0 / step) for step in range(1, 101)]
    table = by_step({"a": curve, "b": curve[50:]}, "Loss")
    assert len(table.rows) <= TABLE_STEPS
    assert table.rows[-1][0].text == "100"
    assert [cell.text for cell in table.rows[0][1:]] == [f"{1 / float(table.rows[0][0].text):.3g}", "–"]
    assert f"{len(table.rows)} of 100 points" in table.title


@pytest.mark.parametrize(
    ("values", "axis"),
    [
        ([1.0, 100.0], {"type": "log", "nticks": 6}),
        ([-1.0, 100.0], {}),
        ([0.0, *[1.0] * 100, 50.0], {"range": [0.0, 1.05]}),
        ([3.0, 4.0], {}),
    ],
)
def test_far_apart_values_and_towering_first_ones_get_a_fitting_axis(
    values: list[float], axis: dict[str, Any]
) -> None:
    from plait.study.reporting.curve_figures import axis_of_values

    assert axis_of_values(values) == axis


def test_weights_are_drawn_of_those_whose_weights_change(study: Analysis) -> None:
    def lines(step: int, moving: float) -> dict[str, Any]:
        return {"step": step, "loss": {"depth": 1.0}, "weight": {"depth": 1.0 + moving * step}}

    arms = {
        name: with_lines(study.results.arm(name), {seed: [lines(1, by), lines(2, by)] for seed in range(3)})
        for name, by in (("mtl", 0.0), ("mgda", 0.1))
    }
    histories = {name: read(arm, study.results.tasks) for name, arm in arms.items()}
    (figure,) = balancing(study, histories, looks_of(study))
    assert figure.title == "depth: weight"
    assert set(points(figure)) == {"mgda"}
    titles = [figure.title for figure in learning(study, histories, looks_of(study))]
    assert titles == ["depth: training loss"]


def test_a_curve_has_gaps_where_there_is_no_number(study: Analysis) -> None:
    figure = curves(
        {"mtl": [(1.0, 1.0), (2.0, math.nan), (3.0, 2.0)]}, looks_of(study), title="t", quantity="q", seeds=2
    )
    assert json.loads(figure.spec())["data"][0]["y"] == [1, None, 2]
    assert figure.alt == "t by step, mean over 2 seeds. mtl ends at 2."
