"""The words claim what the tests show, and nothing else."""

import re
from collections import Counter
from dataclasses import replace

import pytest
from tests.study.reporting.made_up import SINGLE, analysis, reordered, without_differences, worked_out

from plait.study.analysis import Analysis
from plait.study.reporting import reading, score_tables, words
from plait.study.reporting.numbers import GAIN, quantity

CLAIM = re.compile(r"(?:is|are|arm) shown to be (better|worse)")
STUDIES = [
    {},
    {"arms": 12, "seeds": 5, "larger": ("mti_net", "pad_net")},
    {"noise": 0.05},
    {"single": False, "arms": 4, "seeds": 4},
    {"names": ["mtl"], "noise": 0.001},
    {"seeds": 2},
]


def text(made: Analysis) -> str:
    return "\n".join(words.summary([made]))


def claimed(sentence: str, names: list[str]) -> set[str]:
    """The arms that a text names, longest names first so that none is found in another."""
    found = set()
    for name in sorted(names, key=len, reverse=True):
        if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", sentence):
            found.add(name)
            sentence = sentence.replace(name, "")
    return found


def about_gain(made: Analysis, word: str) -> list[str]:
    """The sentences on arms shown to be better, or worse, than their single-task networks overall."""
    return [
        said
        for said in words.sentences(made)
        if re.search(rf"shown to be {word} than (its|their) single-task", said) and "not shown" not in said
        and "No arm" not in said
    ]  # fmt: skip


@pytest.mark.parametrize("about", STUDIES[:3])
def test_the_arms_said_to_be_better_or_worse_are_those_that_the_test_says(about: dict) -> None:
    made = analysis(**about)
    arms = [arm.name for arm in made.results.arms if arm.role == "arm"]
    for word in ("better", "worse"):
        expected = set()
        for name in arms:
            pair = made.compared(GAIN, name, SINGLE)
            assert pair is not None
            winner = {"better": name, "worse": SINGLE}[word]
            expected |= {name} if pair.better == winner else set()
        said = about_gain(made, word)
        assert len(said) == bool(expected)
        assert claimed(said[0], arms) == expected if expected else not said


def test_the_numbers_said_of_the_only_better_arm_are_its_gain_its_interval_and_its_cost() -> None:
    made = analysis()
    (said,) = about_gain(made, "better")
    found = made.compared(GAIN, "mti_net", SINGLE)
    assert found is not None
    assert said.startswith("With 3 seeds, mti_net is the only arm shown to be better")
    assert f"{found.difference:+.1f} % (95 % interval {found.low:+.1f} to {found.high:+.1f})" in said
    assert "1.40 times their multiply-accumulates and 1.40 times their parameters" in said


@pytest.mark.parametrize("about", STUDIES)
def test_without_a_shown_difference_no_sentence_claims_one(about: dict) -> None:
    made = without_differences(analysis(**about))
    assert not CLAIM.search(text(made))
    assert "differ by the test" not in text(made)


@pytest.mark.parametrize("about", STUDIES)
def test_each_quantity_has_a_claim_if_and_only_if_a_difference_was_shown_in_it(about: dict) -> None:
    made = analysis(**about)
    single = about.get("single", True)
    for key in [*reading.headlines(made.results), *[GAIN] * single]:
        pairs = made.comparisons[key]
        held = [pair for pair in pairs if not single or key == GAIN or SINGLE in (pair.first, pair.second)]
        arms = {arm.name for arm in made.results.arms if arm.role != "larger single-task"}
        shown = any(pair.better and {pair.first, pair.second} <= arms for pair in held)
        name = "mean relative gain" if key == GAIN else quantity(made.results, key).words
        said = [said for said in words.sentences(made) if said.startswith("In ") and name in said]
        claims = [one for one in said if CLAIM.search(one) or "differ by the test" in one]
        assert bool(claims) == shown or (key == GAIN and len(pairs) == 1)


@pytest.mark.parametrize("about", STUDIES)
def test_the_order_of_arms_changes_nothing_but_the_order_of_words(about: dict) -> None:
    made = analysis(**about)
    assert Counter(loose(text(made))) == Counter(loose(text(reordered(made))))


def loose(said: str) -> list[str]:
    """Words without what depends on their place in a list."""
    return [word for word in re.sub(r"[,;:.](?=\s|$)|[()]", " ", said).split() if word != "and"]


def test_of_arms_not_told_apart_the_smallest_visible_difference_is_half_an_interval() -> None:
    made = analysis(names=["mtl"], noise=0.05)
    pair = made.compared(GAIN, "mtl", SINGLE)
    assert pair is not None
    assert pair.better is None
    half = (pair.high - pair.low) / 2
    assert (
        f"With 3 seeds and 80 images, differences in it below about {half:.0f} points cannot be seen."
        in text(made)
    )


def test_an_interval_that_leaves_out_0_without_a_shown_difference_is_explained() -> None:
    made = analysis()
    silent = without_differences(made)
    out = {
        name
        for name in ("mtl", "mti_net", "cross_stitch", "pad_net", "mgda")
        if (pair := made.compared(GAIN, name, SINGLE)) is not None and (pair.low > 0 or pair.high < 0)
    }
    (said,) = (said for said in words.sentences(silent) if re.search("leaves? out 0", said))
    assert claimed(said, ["mtl", "mti_net", "cross_stitch", "pad_net", "mgda"]) == out
    assert f"{len(made.comparisons[GAIN])} comparisons" in said


def test_what_costs_as_much_and_was_not_shown_to_be_better_is_told_so() -> None:
    said = text(analysis())
    assert (
        "cross_stitch (1.00 times) needs as many multiply-accumulates as single-task networks and was not"
        in said
    )
    assert "mtl (0.50 times;" in said
    assert "That does not show that it is as good" in said


def test_costs_that_were_not_measured_are_not_spoken_of() -> None:
    made = analysis()
    arms = tuple(replace(arm, cost=None) for arm in made.results.arms)
    assert "times" not in text(replace(made, results=replace(made.results, arms=arms)))


def test_larger_single_task_networks_are_spoken_of() -> None:
    said = text(analysis(arms=12, seeds=5, larger=("mti_net",)))
    assert (
        "mti_net is shown to be better than the larger single-task networks made for it, for 1.00 times"
        in said
    )
    silent = text(without_differences(analysis(arms=12, seeds=5, larger=("mti_net",))))
    assert "mti_net was not told apart from the larger single-task networks made as costly." in silent


def test_one_seed_is_said_to_show_nothing() -> None:
    said = text(analysis(seeds=1))
    assert "nothing can be said about chance" in said
    assert not CLAIM.search(said)
    assert "not shown to be" not in said
    assert "mti_net +3.9 %" in said


def test_failed_and_missing_runs_are_named() -> None:
    results = analysis().results
    arms = [
        replace(arm, seeds=arm.seeds[:2], failed={2: "OutOfMemory: no room.\nTraceback"})
        if arm.name == "mgda"
        else replace(arm, seeds=(), missing=(0, 1, 2))
        if arm.name == "pad_net"
        else arm
        for arm in results.arms
    ]
    said = text(worked_out(replace(results, arms=tuple(arms))))
    assert "mgda failed with seed 2 (OutOfMemory: no room); it is reported from 2 seeds." in said
    assert "pad_net has not finished seeds 0, 1 and 2; it is not reported." in said
    assert "2 to 3 seeds" in said
    assert "Traceback" not in said


def test_before_any_arm_has_finished_nothing_is_said_of_results() -> None:
    results = analysis(arms=3).results
    none = tuple(replace(arm, seeds=(), missing=(0, 1, 2)) for arm in results.arms)
    said = words.summary([worked_out(replace(results, arms=none))])
    assert said[0] == "No arm has finished: nothing can be said yet."
    assert said[1:] == [
        "single-task, mtl and mti_net have not finished seeds 0, 1 and 2; they are not reported."
    ]


def test_arms_that_failed_alike_share_a_sentence() -> None:
    results = analysis().results
    wrong = {"mgda": "no room", "mtl": "no room", "pad_net": "another"}
    arms = [
        replace(arm, seeds=arm.seeds[:2], failed={2: wrong[arm.name]}) if arm.name in wrong else arm
        for arm in results.arms
    ]
    said = [one for one in words.summary([worked_out(replace(results, arms=tuple(arms)))]) if "failed" in one]
    assert len(said) == 2
    (both,) = (one for one in said if "no room" in one)
    assert claimed(both, list(wrong)) == {"mgda", "mtl"}
    assert both.endswith("failed with seed 2 (no room); they are reported from 2 seeds.")


def test_many_arms_not_told_apart_share_one_sentence_on_what_they_cost() -> None:
    made = without_differences(analysis(arms=12, seeds=5))
    said = [one for one in words.sentences(made) if "does not show that they are as good" in one]
    assert len(said) == 1
    assert said[0].count("times") == 1
    pairs = [made.compared(GAIN, arm.name, SINGLE) for arm in made.results.arms if arm.role == "arm"]
    name = re.search(r"\((\S+)\)\.$", said[0])
    assert name is not None
    lowest = made.compared(GAIN, name[1], SINGLE)
    assert lowest is not None
    assert lowest.low >= min(pair.low for pair in pairs if pair is not None)


def test_a_study_whose_title_is_a_question_keeps_its_mark_alone() -> None:
    made = analysis(arms=3)
    asked = replace(made, results=replace(made.results, study=replace(made.results.study, title="How?")))
    assert all(one.startswith("How? ") for one in words.summary([asked, asked]))


def test_an_arm_that_lacks_a_task_has_no_gain_and_is_told_so() -> None:
    made = analysis(arms=4)
    estimates = {
        name: {key: found for key, found in keys.items() if name != "mtl" or key[0] != "gain"}
        for name, keys in made.estimates.items()
    }
    comparisons = {
        key: tuple(pair for pair in pairs if key[0] != "gain" or "mtl" not in (pair.first, pair.second))
        for key, pairs in made.comparisons.items()
    }
    said = text(replace(made, estimates=estimates, comparisons=comparisons))
    assert "In mean relative gain, mtl could not be tested against single-task networks." in said


def test_several_studies_are_told_apart_by_their_titles() -> None:
    said = words.summary([analysis(arms=3, name="first"), analysis(arms=3, name="second")])
    assert {text.partition(":")[0] for text in said} == {"first", "second"}


def test_what_was_compared_is_said_in_one_line() -> None:
    assert words.compared(analysis()) == (
        "5 arms and single-task networks on rooms (semantic, depth and normals), each trained with 3 seeds, "
        "scored on 80 images of split test by the protocol plain"
    )


def test_only_comparisons_that_were_tested_are_counted_as_corrected_for() -> None:
    results = analysis().results
    arms = [replace(a, seeds=a.seeds[:1], missing=(1, 2)) if a.name == "mgda" else a for a in results.arms]
    made = worked_out(replace(results, arms=tuple(arms)))
    tested = sum(reading.tested(pair) for pair in made.comparisons[GAIN])
    assert tested < len(made.comparisons[GAIN])
    (note,) = score_tables.comparisons(made, GAIN).notes
    assert f"Adjusted: for {tested} comparisons" in note
