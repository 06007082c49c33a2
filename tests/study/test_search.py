"""A search for settings: the same for every arm, and the same after an interruption."""

import logging
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from plait.errors import ConfigurationError, MissingExtraError
from plait.study.plan import Tuning
from plait.study.search import Trial, best, suggest, value
from plait.tasks.base import Measure

LR = "optimizer.lr"
START = {LR: 5e-4, "balancer": "equal"}


def tuning(**changes: Any) -> Tuning:
    search = {
        LR: {"low": 1e-5, "high": 1e-1, "log": True},
        "balancer": ["equal", {"name": "mgda", "scope": "features"}, "dwa"],
    }
    return Tuning(**{"trials": 12, "search": search, **changes})


def quadratic(settings: Mapping[str, Any]) -> float:
    """Best at 1e-2, where START is not."""
    return -((math.log10(settings[LR]) + 2) ** 2)


def searched(
    tuning: Tuning,
    name: str = "arm",
    good: Callable[[Mapping[str, Any]], float | None] = quadratic,
    earlier: list[Trial] | None = None,
    start: Mapping[str, Any] = START,
) -> list[Trial]:
    """All trials of a search, or the rest of one."""
    trials = list(earlier or [])
    while len(trials) < tuning.trials:
        settings = suggest(tuning, name, trials, start)
        trials.append((settings, good(settings)))
    return trials


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("stop", [1, 5, 11])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(sampler: str, stop: int) -> None:
    whole = searched(tuning(sampler=sampler))
    assert searched(tuning(sampler=sampler), earlier=whole[:stop]) == whole


def test_every_arm_has_as_many_trials_and_others_of_its_own() -> None:
    plan = tuning()
    found = {
        name: searched(plan, name, good)
        for name, good in {"one": quadratic, "other": quadratic, "fails": lambda _: None}.items()
    }
    assert {len(trials) for trials in found.values()} == {plan.trials}
    assert found["one"][0] == found["other"][0]
    assert found["one"][1:] != found["other"][1:]


def test_the_first_trial_has_the_recipes_own_settings_and_no_others() -> None:
    assert suggest(tuning(), "arm", [], START) == START
    assert suggest(tuning(), "arm", [], {LR: 0.5}) == {LR: 0.5}


def test_another_seed_searches_elsewhere() -> None:
    assert searched(tuning(seed=1))[1:] != searched(tuning())[1:]


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_better_settings_than_the_recipes(seed: int) -> None:
    trials = searched(tuning(trials=20, seed=seed))
    assert quadratic(best(trials)) > -0.25 > quadratic(START)


def test_what_was_good_is_looked_at_more_closely() -> None:
    def mean_distance(sampler: str) -> float:
        plans = [tuning(trials=30, seed=seed, sampler=sampler) for seed in range(3)]
        last = [settings for plan in plans for settings, _ in searched(plan)[15:]]
        return sum(abs(math.log10(settings[LR]) + 2) for settings in last) / len(last)

    assert mean_distance("tpe") < 0.7 * mean_distance("random")


def test_failed_trials_are_not_chosen_and_their_places_are_kept() -> None:
    plan = tuning()
    trials = searched(plan, good=lambda s: None if s[LR] > 1e-2 else math.nan if s[LR] > 1e-3 else s[LR])
    failed = [settings for settings, found in trials if found is None or math.isnan(found)]
    assert len(trials) == plan.trials
    assert failed
    assert best(trials) not in failed
    assert best(trials)[LR] == max(s[LR] for s, _ in trials if s[LR] <= 1e-3)


def test_of_equally_good_trials_the_earliest_is_chosen() -> None:
    assert best([({"a": 0}, None), ({"a": 1}, -2.0), ({"a": 2}, -1.0), ({"a": 3}, -1.0)]) == {"a": 2}


def test_a_search_in_which_everything_failed_says_so() -> None:
    with pytest.raises(ConfigurationError, match="none of 2 trials"):
        best([({"a": 1}, None), ({"a": 2}, math.nan)])


def test_every_value_of_a_list_is_tried_before_one_is_tried_again() -> None:
    plan = tuning(trials=4, search={"model.encoder": ["shared", "separate", {"name": "mtan"}, None]})
    tried = [s["model.encoder"] for s, _ in searched(plan, good=lambda _: 1.0, start={"model.encoder": None})]
    assert tried[0] is None
    assert all(value in tried for value in plan.search["model.encoder"])


@pytest.mark.parametrize(
    ("ends", "start", "kind"),
    [((4, 16), 8, int), ((0, 1), 0.01, float), ((4.0, 16.0), None, float), ((4, 16), None, int)],
)
def test_a_range_of_whole_numbers_gives_whole_numbers(
    ends: tuple[float, float], start: float | None, kind: type
) -> None:
    plan = tuning(search={"key": {"low": ends[0], "high": ends[1]}})
    trials = searched(plan, good=lambda _: 1.0, start={"key": start})
    assert all(type(settings["key"]) is kind for settings, _ in trials[1:])
    assert all(ends[0] <= settings["key"] <= ends[1] for settings, _ in trials[1:])


def test_settings_outside_the_search_teach_nothing_but_can_be_the_best() -> None:
    trials = searched(tuning(), good=lambda s: s[LR], start={LR: 7.0, "balancer": "gls"})
    assert best(trials) == {LR: 7.0, "balancer": "gls"}
    assert all(settings[LR] <= 1e-1 for settings, _ in trials[1:])


def test_true_is_no_number() -> None:
    plan = tuning(search={"key": [1, 2, False]})
    tried = [s["key"] for s, _ in searched(plan, good=lambda _: 1.0, start={"key": True})][1:4]
    assert sorted(map(str, tried)) == ["1", "2", "False"]


MEASURES = {
    "semantic": (Measure("miou", "mIoU", "%", True), Measure("accuracy", "accuracy", "%", True)),
    "depth": (Measure("rmse", "RMSE", "m", False),),
}


def scores(miou: float, rmse: float) -> dict[str, dict[str, float]]:
    return {"semantic": {"miou": miou, "accuracy": 0.1}, "depth": {"rmse": rmse}}


def test_a_trials_value_is_its_mean_gain_on_the_first() -> None:
    assert value(scores(0.5, 1.0), scores(0.6, 0.9), MEASURES) == pytest.approx((0.2 + 0.1) / 2)
    assert value(scores(0.5, 1.0), scores(0.5, 1.0), MEASURES) == 0
    assert value(scores(0.0, 1.0), scores(0.3, 1.0), MEASURES) == pytest.approx(0.15)


def test_a_task_without_a_number_at_first_does_not_count_and_one_that_loses_it_fails_the_trial() -> None:
    assert value(scores(0.5, math.nan), scores(0.6, 1.0), MEASURES) == pytest.approx(0.2)
    assert math.isnan(value(scores(0.5, 1.0), scores(0.6, math.nan), MEASURES))
    assert math.isnan(value(scores(0.5, 1.0), {"semantic": {"miou": 0.6}}, MEASURES))
    assert math.isnan(value({}, scores(0.6, 1.0), MEASURES))


def test_it_is_silent_and_leaves_optunas_messages_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO)
    searched(tuning(trials=4))
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == logging.INFO


def test_without_optuna_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'plait\[tune\]'"):
        suggest(tuning(), "arm", [(START, 1.0)], START)
