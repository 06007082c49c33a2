"""Every format has every number, bold means what the tests say, and no name breaks a table."""

import csv
import io
import math
import re
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.study.reporting.made_up import SINGLE, analysis, renamed, without_differences

from plait.study.analysis import Analysis
from plait.study.reporting import arm_tables, latex, score_tables, tables, tidy
from plait.study.reporting.layout import BETTER, WORSE, Cell, Column, Table
from plait.study.reporting.numbers import GAIN, decimals, quantity

NASTY = r"a_b%c&d#e{f}g~h^i\j|k<l>*m*`n$"


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def cell(table: Table, arm: str, column: str) -> Cell:
    place = [head.title for head in table.columns].index(column)
    return table.rows[table.names.index(arm)][place]


def test_the_headline_table_has_the_surveys_layout() -> None:
    made = score_tables.headline(analysis())
    assert [column.title for column in made.columns] == [
        "arm", "mIoU (%) ↑", "RMSE (m) ↓", "mean angle (°) ↓", "mean relative gain (%) ↑", "parameters (M)",
        "multiply-accumulates (G)",
    ]  # fmt: skip
    assert [column.group for column in made.columns[1:4]] == ["semantic", "depth", "normals"]
    assert made.names == (SINGLE, "mtl", "mti_net", "cross_stitch", "pad_net", "mgda")


def test_bold_and_marks_are_what_the_tests_say() -> None:
    study = analysis()
    made = score_tables.headline(study)
    for place, key in enumerate([("semantic", "miou"), ("depth", "rmse"), ("normals", "mean"), GAIN], 1):
        for name, row in zip(made.names, made.rows, strict=True):
            assert row[place].bold == (study.best.get(key) == name)
            pair = study.compared(key, name, SINGLE) if name != SINGLE else None
            winner = None if pair is None else pair.better
            assert row[place].mark == {None: "", name: BETTER, SINGLE: WORSE}[winner]
    assert any(cell.bold for row in made.rows for cell in row)


def test_without_a_shown_difference_nothing_is_bold_in_any_format() -> None:
    silent = without_differences(analysis())
    assert "**" not in tables.markdown([silent])
    assert r"\textbf" not in tables.latex(silent)
    assert {row["best"] for row in rows_of(tables.csv(silent))} == {"false"}
    table = tables.markdown([silent]).partition("## Scores")[2].partition("- ")[0]
    assert BETTER not in table
    assert WORSE not in table


def test_a_number_stands_with_its_spread_or_alone_with_one_seed() -> None:
    found = analysis().estimates["mti_net"][GAIN]
    three = cell(score_tables.headline(analysis()), "mti_net", "mean relative gain (%) ↑")
    assert three.text == f"{found.mean:+.1f} ± {found.spread:.1f}"
    assert three.value == found.mean
    alone = cell(score_tables.headline(analysis(seeds=1)), "mti_net", "mean relative gain (%) ↑")
    assert re.fullmatch(r"\+\d\.\d", alone.text)


def test_single_task_networks_gain_nothing_over_themselves() -> None:
    assert cell(score_tables.headline(analysis()), SINGLE, "mean relative gain (%) ↑").text == "0"


def test_the_long_tables_have_every_measure_with_its_interval() -> None:
    study = analysis()
    found = score_tables.measures(study)
    heads = [column.title for table in found for column in table.columns[1:]]
    assert len(heads) == sum(len(measures) for measures in study.results.measures.values()) + 4
    for table in found[:-1]:
        assert all(
            re.fullmatch(r"\S+ ± \S+ \(\S+ to \S+\)", one.text) for row in table.rows for one in row[1:]
        )


def test_numbers_have_the_digits_that_their_interval_justifies() -> None:
    assert [decimals(-h, h, 1) for h in (0.03, 0.16, 0.4, 1.9, 2.1, 30.0)] == [2, 2, 1, 1, 0, 0]
    assert decimals(math.nan, math.nan, 3) == 3


@given(st.floats(1e-3, 1e3), st.integers(0, 3))
def test_half_an_interval_is_never_printed_as_0_where_digits_allow(half: float, usual: int) -> None:
    digits = decimals(-half, half, usual)
    assert 0 <= digits <= usual + 1
    assert digits == usual + 1 or round(half, digits) > 0


def test_a_difference_of_shares_is_in_points() -> None:
    study = analysis()
    pair = study.compared(("semantic", "miou"), "mti_net", SINGLE)
    assert pair is not None
    said = quantity(study.results, ("semantic", "miou")).difference(pair)
    assert said.startswith(f"{100 * pair.difference:+.1f} points, 95 % interval ")


def test_csv_gives_every_number_back() -> None:
    study = analysis(larger=("mti_net",))
    rows = rows_of(tables.csv(study))
    keys = [("score", row["arm"], row["task"], row["measure"]) for row in rows if row["kind"] == "score"]
    assert len(keys) == len(set(keys)) == 7 * 15
    (found,) = (
        row for row in rows if (row["arm"], row["task"], row["measure"]) == ("mgda", "semantic", "miou")
    )
    expected = study.estimates["mgda"]["semantic", "miou"]
    assert float(found["mean"]) == 100 * expected.mean
    assert float(found["spread"]) == 100 * expected.spread
    assert float(found["low"]) == 100 * expected.low
    assert (found["unit"], found["better"], found["protocol"], found["seeds"]) == (
        "%",
        "higher",
        "plain",
        "3",
    )
    (macs,) = (row for row in rows if (row["arm"], row["measure"]) == ("mgda", "macs"))
    assert float(macs["mean"]) == 3e8
    assert macs["spread"] == macs["seeds"] == ""


def test_csv_of_comparisons_has_every_pair() -> None:
    study = analysis()
    rows = rows_of(tables.comparisons_csv(study))
    assert len(rows) == sum(len(pairs) for pairs in study.comparisons.values())
    assert all(row["better"] in ("", row["first"], row["second"]) for row in rows)


def test_parquet_has_the_rows_of_csv_and_a_row_a_seed() -> None:
    study = analysis(arms=3)
    table = pq.read_table(io.BytesIO(tables.parquet(study)))
    rows = table.to_pylist()
    whole = [row for row in rows if row["seed"] is None]
    lines = rows_of(tables.csv(study))
    assert len(whole) == len(lines)
    for row, line in zip(whole, lines, strict=True):
        assert line["mean"] == repr(row["mean"])
    seeds = [row["mean"] for row in rows if row["seed"] is not None and row["arm"] == "mtl"
             and (row["task"], row["measure"]) == ("mean", "relative_gain")]  # fmt: skip
    assert seeds == list(study.estimates["mtl"][GAIN].by_seed.values())


def test_numbers_that_are_none_are_empty_and_null() -> None:
    one = analysis(arms=2, seeds=1)
    assert {row["spread"] for row in rows_of(tables.csv(one))} == {""}
    assert set(pq.read_table(io.BytesIO(tables.parquet(one)))["spread"].to_pylist()) == {None}


def split_cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line)[1:-1]


def grids(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text, as cells."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(split_cells(line))
        elif found[-1]:
            found.append([])
    return [grid for grid in found if grid]


@pytest.mark.parametrize("name", ["mtl", NASTY, "_a_ [x](y)", "a\nb"])
def test_no_name_breaks_a_markdown_table(name: str) -> None:
    text = tables.markdown([renamed(analysis(published=True), {"mtl": name})])
    every = grids(text)
    assert len(every) > 10
    for grid in every:
        assert len({len(row) for row in grid}) == 1
    assert "<l>" not in text


def test_markdown_says_everything_once_under_its_heading() -> None:
    text = tables.markdown([analysis(published=True, unlike=("cross_stitch starts elsewhere.",))])
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads == [
        "In short", "The survey's questions", "What was compared", "Scores", "Every measure",
        "Which differences were shown", "What it costs", "Ranks", "What was alike", "What was not alike",
        "What papers report", "How it was made",
    ]  # fmt: skip
    assert "- cross_stitch starts elsewhere." in text
    assert "- Machine: a made-up machine" in text
    started = next(line for line in text.splitlines() if line.startswith("- Backbone and weights: "))
    assert started.count("tf_efficientnet_lite0") == 1
    assert "licence apache-2.0" in started


def test_several_studies_share_one_report() -> None:
    text = tables.markdown([analysis(arms=3, name="one"), analysis(arms=3, name="two", data="nyud")])
    assert text.startswith("# Studies compared\n")
    assert [text.count(f"\n## {name}\n") for name in ("one", "two", "In short")] == [1, 1, 1]


def test_published_numbers_stand_in_a_table_of_their_own() -> None:
    study = analysis(published=True)
    made = arm_tables.published(study)
    assert made is not None
    assert cell(made, "mtl", "mIoU (%) of semantic").text == "44.4"
    assert cell(made, "pad_net", "remarks").text.startswith("that paper took it from another")
    assert cell(made, "mtl", "operations (G)").text == "133"
    for other in (score_tables.headline(study), *score_tables.measures(study)):
        assert all("44.4" not in one.text for row in other.rows for one in row)
    assert arm_tables.published(analysis()) is None


def test_costs_stand_beside_their_ratio_to_single_task_networks() -> None:
    made = arm_tables.costs(analysis())
    assert made is not None
    assert cell(made, "mti_net", "multiply-accumulates (G)").text == "0.84 (1.40×)"
    assert cell(made, SINGLE, "multiply-accumulates (G)").text == "0.60"
    assert "energy (J)" not in [column.title for column in made.columns]


def test_without_costs_there_is_no_table_of_them() -> None:
    study = analysis(arms=3)
    arms = tuple(replace(arm, cost=None) for arm in study.results.arms)
    without = replace(study, results=replace(study.results, arms=arms))
    assert arm_tables.costs(without) is None
    assert "parameters (M)" not in tables.markdown([without])
    assert tables.latex(without).count(r"\begin{table}") == 1


def unescaped(text: str, character: str) -> int:
    return len(re.findall(rf"(?<!\\)(?:\\\\)*{re.escape(character)}", text))


def balanced(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def bodies(text: str) -> list[tuple[str, list[str]]]:
    """Layout and lines of each tabular."""
    found = re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    return [(layout, [line for line in body.splitlines() if line.endswith(r"\\")]) for layout, body in found]


@pytest.mark.parametrize("name", ["mtl", NASTY])
def test_latex_is_balanced_and_every_line_has_all_columns(name: str) -> None:
    study = renamed(analysis(), {"mtl": name})
    text = tables.latex(study)
    assert balanced(text)
    assert unescaped(text, "$") % 2 == 0
    assert unescaped(text, "#") == 0
    assert text.isascii()
    parts = bodies(text)
    assert len(parts) == 2
    for layout, lines in parts:
        for line in lines:
            spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert unescaped(line, "&") + 1 + sum(spans) - len(spans) == len(layout)
    for begun in ("table", "tabular"):
        assert text.count(rf"\begin{{{begun}}}") == text.count(rf"\end{{{begun}}}") == 2


def test_latex_escapes_every_character_that_it_would_read_otherwise() -> None:
    assert latex.escaped(r"_ % & # { } ~ ^ \ $") == (
        r"\_ \% \& \# \{ \} \textasciitilde{} \textasciicircum{} \textbackslash{} \$"
    )
    assert latex.escaped("-1.4 to +2, single-task, 1-2") == "$-$1.4 to +2, single-task, 1-2"


@given(st.text(alphabet="ab_%&#{}~^\\$|<> -1", max_size=20))
def test_whatever_is_escaped_has_balanced_braces_and_mathematics(text: str) -> None:
    made = latex.escaped(text).replace(r"\\", "")
    assert balanced(made)
    assert unescaped(made, "$") % 2 == 0
    assert all(unescaped(made, character) == 0 for character in "_%&#~^")


def test_latex_is_bold_only_where_an_arm_is_best() -> None:
    study: Analysis = analysis()
    text = tables.latex(study)
    assert text.count(r"\textbf{") == sum(key in study.best for key in (
        ("semantic", "miou"), ("depth", "rmse"), ("normals", "mean"), GAIN))  # fmt: skip


def test_the_caption_says_seeds_split_protocol_and_what_the_interval_is_over() -> None:
    caption = tables.latex(analysis()).partition(r"\label")[0]
    for said in (
        "3 seeds",
        "split test",
        "Protocol plain",
        r"95 \% intervals are over test images and seeds",
    ):
        assert said in caption
    assert r"images alone, not seeds" in tables.latex(analysis(seeds=1))


def test_a_table_of_any_cells_can_be_printed() -> None:
    made = Table(
        title="t", columns=(Column(title="a"),), rows=((Cell(text="1 ± 2", bold=True, mark=BETTER),),)
    )
    assert tables.grid(made).splitlines()[-1] == f"| **1** ± 2 {BETTER} |"
    assert latex.cell(made.rows[0][0]) == r"\textbf{1} $\pm$ 2$^{+}$"


def test_every_row_of_the_tidy_table_names_its_unit_and_direction() -> None:
    for row in tidy.rows(analysis(arms=3)):
        assert row.better in ("higher", "lower")
        assert row.unit in ("%", "m", "°", "s", "bytes", "J", "")


def test_a_caption_of_a_title_that_is_a_question_has_one_mark() -> None:
    made = analysis(arms=3)
    asked = replace(made, results=replace(made.results, study=replace(made.results.study, title="How?")))
    text = tables.latex(asked)
    assert r"\caption{How? Scores" in text
    assert "?." not in text


def test_networks_of_one_task_are_listed_without_a_balancer() -> None:
    made = arm_tables.arms(analysis())
    place = [column.title for column in made.columns].index("balancer")
    assert [row[place].text for row in made.rows if row[0].text == "single-task"] == ["–"]


def test_latencies_of_the_same_network_say_how_well_time_is_measured() -> None:
    made = analysis(names=["mtl", "mgda"])
    recipe = made.results.arm("mtl").recipe
    arms = []
    for arm in made.results.arms:
        assert arm.cost is not None
        if arm.role == "arm":
            seconds = 0.010 if arm.name == "mtl" else 0.012
            arm = replace(arm, recipe=recipe, cost=replace(arm.cost, latency=seconds))
        arms.append(arm)
    found = arm_tables.costs(replace(made, results=replace(made.results, arms=tuple(arms))))
    assert found is not None
    assert "up to 20 % apart" in found.notes[-1]
