"""A comparison says the same in every format, and never more than its numbers."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from plait.errors import ConfigurationError
from plait.study.comparison import CONSTANT, Arm, Comparison, escape
from plait.study.cost import Cost
from plait.tasks.base import Measure

TASKS = {
    "semantic": (Measure("miou", "mIoU", "%", True), Measure("accuracy", "pixel accuracy", "%", True)),
    "depth": (Measure("rmse", "RMSE", "m", False),),
}


def arm(name: str, miou: float, rmse: float, **about: object) -> Arm:
    return Arm(
        name=name,
        scores={"semantic": {"miou": miou, "accuracy": 0.5}, "depth": {"rmse": rmse}},
        cost=Cost(parameters=2_000_000, flops=2 * 10**9, latency=0.01, memory=10**7),
        train_seconds=12.0,
        **about,  # type: ignore[arg-type]
    )


def comparison(*arms: Arm, **about: object) -> Comparison:
    constant = {"semantic": {"miou": 0.02, "accuracy": 0.4}, "depth": {"rmse": 1.0}}
    given_ = {"reference": "single-task", "constant": constant, **about}
    return Comparison(tasks=TASKS, arms=arms, **given_)  # type: ignore[arg-type]


def two() -> Comparison:
    return comparison(
        arm("single-task", 0.40, 0.50, networks=2), arm("multi-task", 0.44, 0.55), notes=("One seed.",)
    )


def test_the_gain_counts_better_as_positive_whatever_the_direction() -> None:
    gains = two().gains(two().arm("multi-task"))
    assert gains == pytest.approx({"semantic": 10.0, "depth": -10.0, "mean": 0.0}, abs=1e-9)


def test_the_reference_and_arms_of_another_recipe_have_no_gain() -> None:
    odd = comparison(arm("single-task", 0.4, 0.5), arm("other", 0.9, 0.1, comparable=False))
    assert odd.gains(odd.arm("single-task")) == odd.gains(odd.arm("other")) == {}


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_gives_no_gain_and_a_dash(lost: float) -> None:
    odd = comparison(arm("single-task", 0.4, 0.5), arm("multi-task", lost, 0.5))
    assert odd.gains(odd.arm("multi-task")) == {}
    if lost != lost:
        assert next(odd.lines()).texts == ("2.0", "40.0", "–")


def test_where_the_reference_scores_zero_there_is_no_gain_and_a_sentence_says_so() -> None:
    odd = comparison(arm("single-task", 0.0, 0.5), arm("multi-task", 0.4, 0.5))
    assert odd.gains(odd.arm("multi-task")) == {}
    assert "No relative gain: single-task scores 0 in mIoU of semantic." in odd.sentences()
    assert "relative gain" not in odd.markdown()
    other = comparison(arm("single-task", 0.4, 0.5), arm("multi-task", 0.0, 0.5))
    assert other.gains(other.arm("multi-task"))["semantic"] == -100


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_can_be_written(lost: float) -> None:
    odd = comparison(arm("single-task", 0.4, 0.5), arm("multi-task", 0.4, lost))
    rmse = next(line for line in json.loads(odd.to_json())["lines"] if line["section"] == "depth")
    assert rmse["values"] == [1.0, 0.5, None]


def test_every_format_has_every_column_and_line() -> None:
    made = two()
    assert made.columns == (CONSTANT, "single-task (2 networks)", "multi-task")
    lines = list(made.lines())
    cells = list(csv.reader(io.StringIO(made.csv())))
    assert cells[0][3:] == list(made.columns)
    assert len(cells) == 1 + len(lines)
    tree = json.loads(made.to_json())
    assert [line["measure"] for line in tree["lines"]] == [line.title for line in lines]
    markdown = made.markdown()
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(made.table())
    printed = console.export_text()
    for line in lines:
        assert line.title in markdown
        assert line.title in printed
    assert "One seed." in markdown
    assert "One seed." in printed


def test_costs_stand_beside_their_ratio_to_the_reference() -> None:
    made = comparison(arm("single-task", 0.4, 0.5), arm("multi-task", 0.4, 0.5))
    parameters = next(line for line in made.lines() if line.title.startswith("parameters"))
    assert parameters.texts == ("–", "2.00", "2.00 (1.00×)")


def test_csv_keeps_numbers_unrounded() -> None:
    made = comparison(arm("single-task", 1 / 3, 0.5), arm("multi-task", 0.4, 0.5))
    first = list(csv.reader(io.StringIO(made.csv())))[1]
    assert float(first[4]) == 100 * (1 / 3)


def test_the_words_name_what_is_better_and_what_is_worse_in_this_run() -> None:
    first = two().sentences()[0]
    assert "multi-task was better on semantic and worse on depth in this run" in first
    assert "significant" not in " ".join(two().sentences())


def test_an_arm_below_the_constant_is_told_so() -> None:
    made = comparison(arm("single-task", 0.4, 0.5), arm("multi-task", 0.4, 1.2))
    assert any("multi-task did not beat a constant prediction on depth" in text for text in made.sentences())


def test_names_must_be_different_and_the_reference_known() -> None:
    with pytest.raises(ConfigurationError, match="one name"):
        comparison(arm("single-task", 0.1, 0.1), arm("single-task", 0.1, 0.1))
    with pytest.raises(ConfigurationError, match="reference"):
        comparison(arm("multi-task", 0.1, 0.1))


@given(st.text())
def test_no_text_ends_a_markdown_cell(text: str) -> None:
    assert "|" not in escape(text).replace("\\\\", "").replace("\\|", "")
