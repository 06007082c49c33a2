"""The four questions are answered from tests, or it is said that they cannot be."""

from dataclasses import replace

import pytest
from tests.study.reporting.made_up import analysis, reordered, without_differences, worked_out

from plait.config import Recipe
from plait.study.analysis import Analysis
from plait.study.reporting import evidence, questions
from plait.study.reporting.evidence import Answer
from plait.study.reporting.questions import BALANCE, FOCUS, HOLDS, WHERE


def with_model(recipe: Recipe, **changes: object) -> Recipe:
    return replace(recipe, model=replace(recipe.model, **changes))


def answer(question: str, *made: Analysis) -> Answer:
    return next(one for one in questions.answers(made) if one.question == question)


def pairs(found: Answer) -> set[frozenset[str]]:
    return {frozenset((one.comparison.first, one.comparison.second)) for one in found.evidence}


def test_there_are_four_answers_in_the_surveys_order() -> None:
    assert [one.question for one in questions.answers([analysis()])] == [WHERE, FOCUS, BALANCE, HOLDS]


def test_where_to_share_compares_encoders_with_all_else_alike() -> None:
    found = answer(WHERE, analysis(arms=10))
    encoders = ("mtl", "cross_stitch", "mtan", "nddr_cnn")
    assert pairs(found) == {frozenset((a, b)) for a in encoders for b in encoders if a != b}
    assert "the encoders shared, cross_stitch, mtan and nddr_cnn were compared" in found.text


def test_encoders_of_one_name_with_other_options_are_told_apart_by_their_arms() -> None:
    results = analysis(names=["cross_stitch", "cross_stitch_2"]).results
    arms = tuple(
        replace(arm, recipe=with_model(arm.recipe, encoder={"name": "cross_stitch", "alpha": 0.8}))
        if arm.name == "cross_stitch_2"
        else arm
        for arm in results.arms
    )
    found = answer(WHERE, worked_out(replace(results, arms=arms)))
    assert "cross_stitch (cross_stitch) and cross_stitch_2 (cross_stitch) were compared" in found.text


def test_how_to_balance_compares_arms_that_differ_in_the_balancer_alone() -> None:
    found = answer(BALANCE, analysis(arms=8))
    assert pairs(found) == {frozenset((name, "mtl")) for name in ("mgda", "uncertainty")}
    assert "mgda and uncertainty were held against mtl" in found.text
    assert "mtl is shown to be better than mgda" in found.text


def test_an_arm_that_differs_in_more_than_the_balancer_says_nothing_of_balancers() -> None:
    results = analysis().results
    arms = tuple(
        replace(arm, differs={"optimizer.lr": ("0.1", "0.004")}) if arm.name == "mgda" else arm
        for arm in results.arms
    )
    found = answer(BALANCE, worked_out(replace(results, arms=arms)))
    assert found.text == (
        "This study cannot answer it: it has no two arms that differ in the balancer alone."
    )  # fmt: skip
    tuned = tuple(replace(arm, tuned={"": {"optimizer.lr": 0.1}}) for arm in arms)
    assert answer(BALANCE, worked_out(replace(results, arms=tuned))).answered


def test_without_equal_or_fixed_weights_balancers_are_held_against_each_other() -> None:
    found = answer(BALANCE, analysis(names=["mgda", "dwa", "uncertainty"]))
    assert len(pairs(found)) == 3


def test_encoder_against_decoder_takes_arms_of_about_the_same_cost() -> None:
    found = answer(FOCUS, analysis())
    assert pairs(found) == {
        frozenset(pair)
        for pair in (("cross_stitch", "pad_net"), ("cross_stitch", "single-task"), ("pad_net", "single-task"))
    }
    assert "1 pair needs about the same multiply-accumulates" in found.text
    assert "mti_net" not in found.text  # 1.4 times as costly


def test_larger_single_task_networks_stand_beside_the_arm_they_were_made_for() -> None:
    found = answer(FOCUS, analysis(larger=("mti_net",)))
    assert frozenset(("mti_net", "single-task (larger, mti_net)")) in pairs(found)


def test_where_no_arms_cost_the_same_the_nearest_are_named_and_not_compared() -> None:
    found = answer(FOCUS, analysis(names=["mtl", "mtan", "mti_net"], single=False))
    assert not found.answered
    assert not found.evidence
    assert "the nearest are mtan and mti_net, 1.56 times apart" in found.text


def test_an_arm_that_interacts_in_both_is_on_neither_side() -> None:
    results = analysis(names=["cross_stitch", "pad_net"]).results
    arms = tuple(
        replace(arm, recipe=with_model(arm.recipe, encoder="cross_stitch")) if arm.name == "pad_net" else arm
        for arm in results.arms
    )
    found = answer(FOCUS, worked_out(replace(results, arms=arms)))
    assert found.text == (
        "This study cannot answer it: it has no arm that interacts in the decoder alone."
    )  # fmt: skip


def test_a_study_without_the_arms_says_that_it_cannot_answer() -> None:
    for found in questions.answers([analysis(names=["mtl"])]):
        assert found.text.startswith("This study cannot answer it: it has ")
        assert not found.answered
        assert not found.evidence


def test_one_seed_answers_nothing() -> None:
    found = questions.answers([analysis(seeds=1)])
    assert not any(one.answered for one in found)
    assert all("cannot answer it" in one.text for one in found)


@pytest.mark.parametrize("about", [{}, {"single": False}, {"arms": 12, "seeds": 5, "larger": ("mti_net",)}])
def test_without_shown_differences_no_answer_claims_one(about: dict) -> None:
    silent = without_differences(analysis(**about))
    for found in questions.answers([silent]):
        assert "shown to be" not in found.text
        assert "cannot be seen" in found.text or not found.answered


@pytest.mark.parametrize("about", [{}, {"single": False}, {"arms": 12, "seeds": 5}])
def test_the_order_of_arms_changes_no_answer(about: dict) -> None:
    made = analysis(**about)
    for one, other in zip(questions.answers([made]), questions.answers([reordered(made)]), strict=True):
        assert one.answered == other.answered
        assert pairs(one) == pairs(other)
        assert one.text.count("shown to be better") == other.text.count("shown to be better")


def test_what_an_answer_claims_is_what_its_comparisons_say() -> None:
    for found in questions.answers([analysis(arms=12, seeds=5)]):
        for one in found.evidence:
            pair = one.comparison
            for ahead, behind in ((pair.first, pair.second), (pair.second, pair.first)):
                claim = f"{ahead} is shown to be better than {behind} ("
                assert claim not in found.text or pair.better == ahead


def test_without_gains_the_headline_measures_are_compared() -> None:
    found = answer(BALANCE, analysis(single=False))
    assert {one.key for one in found.evidence} == {
        ("semantic", "miou"),
        ("depth", "rmse"),
        ("normals", "mean"),
    }
    assert "In RMSE of depth, mtl is shown to be better than mgda (-0.0" in found.text


def test_one_data_set_cannot_say_what_holds_across_them() -> None:
    assert answer(HOLDS, analysis()).text == "This study cannot answer it: it has one data set (rooms)."
    both = answer(HOLDS, analysis(name="a"), analysis(name="b"))
    assert both.text == "These studies cannot answer it: they have one data set (rooms)."


def test_across_data_sets_every_shared_comparison_is_in_one_group() -> None:
    made = [analysis(name="a"), analysis(name="b", data="nyud", effects={"cross_stitch": -0.03})]
    found = answer(HOLDS, *made)
    assert len(found.evidence) == 2 * 15
    assert "Of 15 comparisons that studies on rooms and nyud share" in found.text
    assert "1 shows opposite differences (cross_stitch over pad_net)" in found.text
    assert sum(int(part.split()[0]) for part in found.text.partition("share, ")[2].split("; ")) == 15


def test_studies_that_share_no_arms_say_nothing_together() -> None:
    made = [analysis(names=["mtl", "mgda"], single=False), analysis(names=["mtan"], data="nyud")]
    assert "no two arms that more than one of them compares" in answer(HOLDS, *made).text


def test_arms_of_one_name_that_are_built_otherwise_are_not_the_same() -> None:
    first, second = (
        analysis(names=["mtl", "mgda"], single=False),
        analysis(data="nyud", names=["mtl", "mgda"]),
    )
    arms = tuple(replace(arm, recipe=replace(arm.recipe, balancer="dwa")) for arm in second.results.arms)
    other = worked_out(replace(second.results, arms=arms))
    assert answer(HOLDS, first, analysis(data="nyud", names=["mtl", "mgda"], single=False)).answered
    assert not answer(HOLDS, first, other).answered


def test_the_table_behind_an_answer_has_a_row_a_comparison() -> None:
    found = answer(FOCUS, analysis())
    made = evidence.table(found)
    assert len(made.rows) == len(found.evidence)
    assert all(len(row) == len(made.columns) for row in made.rows)
    assert [column.title for column in made.columns][:2] == ["first", "second"]
