"""A study worked out: against recomputed metrics, the relative gain itself, and by hand."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import plait.tasks
from plait.config import Recipe, load_recipe
from plait.errors import DataError
from plait.metrics import PROTOCOLS, relative_gain
from plait.study.analysis import Analysis, Estimate, analyse, ranks_over
from plait.study.cost import Cost
from plait.study.numbers import Resampler
from plait.study.plan import Study
from plait.study.results import ArmResult, Role, SeedResult, StudyResults
from plait.study.statistics import holm, image_weights
from plait.training.per_image import Collector, PerImage
from plait.training.run import Run
from plait.training.scores import Scores

IMAGES = 24
RECIPE = load_recipe("quickstart")
OPTIONS = {"semantic": {"kind": "semantic", "classes": 3}, "depth": {"kind": "depth"}}
TASKS = {task.name: task for task in plait.tasks.parse(OPTIONS)}


@dataclass(frozen=True)
class KeptRun(Run):
    """A finished run that has no folder."""

    given: Scores = field(kw_only=True)
    kept: PerImage | None = field(kw_only=True)

    @property
    def scores(self) -> Scores:
        return self.given

    @property
    def per_image(self) -> PerImage | None:
        return self.kept


def maps(task: str, place: int) -> Tensor:
    """The label of an image, ``[1, 1, 6, 7]``; images are unlike."""
    g = torch.Generator().manual_seed(place)
    if task == "depth":
        return 1 + (1 + place % 5) * torch.rand(1, 1, 6, 7, generator=g)
    return torch.randint(0, 3 if place % 3 else 2, (1, 1, 6, 7), generator=g)


def prediction(task: str, place: int, error: float, seed: int) -> Tensor:
    """A prediction that is wrong by ``error``, and by chance."""
    g = torch.Generator().manual_seed(10_000 * (seed + 1) + place)
    label = maps(task, place)
    noise = torch.rand(label.shape, generator=g)
    if task == "depth":
        return label * (1 + error * (0.5 + noise))
    return label.where(noise > error, (label + 1) % 3)


def run_of(
    error: float,
    seed: int,
    tasks: Sequence[str] = tuple(TASKS),
    *,
    kept: bool = True,
    protocol: str = "plain",
) -> Run:
    """A run whose error is ``error`` for all tasks; the seed decides where."""
    scored = [TASKS[task].scored(protocol) for task in tasks]
    collector = Collector(scored, IMAGES, torch.device("cpu"))
    for task, place in itertools.product(tasks, range(IMAGES)):
        collector.update(task, place, prediction(task, place, error, seed), maps(task, place))
    values = {name: metric.compute() for name, metric in collector.metrics.items()}
    images = collector.gathered(tuple(f"room {place}" for place in range(IMAGES)))
    scores = Scores.of(scored, values, split="test", images=IMAGES)
    return KeptRun(Path("runs") / f"{error}-{seed}", RECIPE, given=scores, kept=images if kept else None)


def arm(
    name: str,
    error: float | Mapping[int, float],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    role: Role = "arm",
    reference: str | None = "single-task",
    macs: float | None = None,
    offset: int = 0,
    **options: Any,
) -> ArmResult:
    """An arm; ``offset`` makes its seeds draw otherwise than those of other arms."""

    def of(seed: int) -> float:
        return error[seed] if isinstance(error, Mapping) else error

    if role == "arm":
        found = [SeedResult(seed=s, runs=(run_of(of(s), 100 * offset + s, **options),)) for s in seeds]
    else:
        found = [
            SeedResult(
                seed=s, runs=tuple(run_of(of(s), 100 * offset + s, [task], **options) for task in TASKS)
            )
            for s in seeds
        ]
    cost = None
    if macs is not None:
        cost = Cost(parameters=10, flops=round(2 * macs), latency=macs, memory=10)
    return ArmResult(
        name=name,
        role=role,
        recipe=RECIPE,
        axes={},
        seeds=tuple(found),
        cost=cost,
        reference=reference if role != "single-task" else None,
    )


def single(error: float = 0.2, **options: Any) -> ArmResult:
    return arm("single-task", error, role="single-task", offset=9, **options)


def study(*arms: ArmResult, protocol: str = "plain") -> StudyResults:
    return StudyResults(
        folder=Path("study"),
        study=Study(name="study", arms={"a": None}),
        tasks={name: task.scored(protocol) for name, task in TASKS.items()},
        arms=arms,
        protocol=protocol,
        variant=PROTOCOLS[protocol].variant,
    )


@pytest.fixture(scope="module")
def made() -> Analysis:
    return analyse(
        study(
            single(macs=3),
            arm("shared", 0.2, offset=1, macs=1),
            arm("better", 0.12, offset=2, macs=2),
            arm("worse", 0.4, offset=3, macs=4),
            arm("larger", 0.15, offset=4, role="larger single-task", macs=5),
        )
    )


def finite(found: Estimate) -> bool:
    return found.low < found.mean < found.high


def test_every_measure_and_gain_of_every_arm_is_estimated(made: Analysis) -> None:
    measures = {(task.name, measure.name) for task in TASKS.values() for measure in task.measures}
    gains = {("gain", "semantic"), ("gain", "depth"), ("gain", "mean")}
    assert set(made.estimates) == {"single-task", "shared", "better", "worse", "larger"}
    for found in made.estimates.values():
        assert set(found) == measures | gains
        for estimate in found.values():
            assert estimate.over_images
            assert estimate.over_seeds
            nothing_varies = len(set(estimate.by_seed.values())) == 1
            assert finite(estimate) or (nothing_varies and estimate.low == estimate.mean == estimate.high)


def test_an_estimate_is_the_mean_of_the_runs_own_scores(made: Analysis) -> None:
    for result in made.results.arms:
        for task, measure in (("semantic", "miou"), ("depth", "rmse")):
            scores = [seed.scores[task][measure] for seed in result.seeds]
            found = made.estimates[result.name][task, measure]
            assert found.mean == pytest.approx(np.mean(scores))
            assert found.spread == pytest.approx(np.std(scores, ddof=1))
            assert dict(found.by_seed) == dict(zip((0, 1, 2), scores, strict=True))


@pytest.mark.parametrize("protocol", ["plain", "mtan"])
def test_gains_are_the_relative_gain_of_each_seed(protocol: str) -> None:
    reference, ours = single(protocol=protocol), arm("ours", 0.15, offset=1, protocol=protocol)
    results = study(reference, ours, protocol=protocol)
    estimates = analyse(results, replicates=50).estimates["ours"]
    for theirs, mine in zip(reference.seeds, ours.seeds, strict=True):
        expected = relative_gain(mine.scores, theirs.scores, results.measures, variant=results.variant)
        for task, value in {**expected.per_task, "mean": expected.mean}.items():
            assert estimates["gain", task].by_seed[mine.seed] == pytest.approx(100 * value)
    assert results.variant == ("libmtl" if protocol == "mtan" else "survey")


def test_single_task_networks_gain_nothing_and_larger_ones_over_the_plain_ones(made: Analysis) -> None:
    nothing = made.estimates["single-task"]["gain", "mean"]
    assert (nothing.mean, nothing.low, nothing.high, nothing.spread) == (0, 0, 0, 0)
    assert made.estimates["larger"]["gain", "mean"].mean > 5


def test_resampled_scores_are_those_of_the_metric_on_the_images_drawn() -> None:
    resampler = Resampler(TASKS, replicates=6)
    found = resampler.scores(run_of(0.3, 0))
    draws = (image_weights(IMAGES, 6) * (IMAGES - 1) / IMAGES).round().astype(int)
    assert resampler.images == {"semantic": IMAGES, "depth": IMAGES}
    for number, (task, made_) in itertools.product(range(6), TASKS.items()):
        metric = made_.metric()
        for place, count in enumerate(draws[number]):
            for _ in range(count):
                metric.update(prediction(task, place, 0.3, 0), maps(task, place))
        for measure, value in metric.compute().items():
            assert found[task, measure][number] == pytest.approx(value)


def test_the_interval_of_one_seed_is_that_of_scipy_s_bootstrap() -> None:
    """All images have as many pixels, so that abs_rel is a mean over images."""
    found = analyse(study(arm("ours", 0.2, seeds=[0])), replicates=8000).estimates["ours"]["depth", "abs_rel"]
    assert (found.over_images, found.over_seeds) == (True, False)
    assert math.isnan(found.spread)
    of_images = [
        ((prediction("depth", n, 0.2, 0) - maps("depth", n)).abs() / maps("depth", n)).mean().item()
        for n in range(IMAGES)
    ]
    expected = stats.bootstrap((of_images,), np.mean, n_resamples=8000, rng=0).standard_error
    expected *= math.sqrt(IMAGES / (IMAGES - 1)) * stats.t.isf(0.025, IMAGES - 1)
    assert found.high - found.mean == pytest.approx(expected, rel=0.03)


def test_images_that_are_hard_for_both_do_not_blur_a_gain() -> None:
    """Errors that are the same part smaller on every image leave nothing to chance but the seeds."""
    results = study(single(0.2), replace(arm("half", 0.1, offset=9), name="half"))
    found = analyse(results, replicates=200)
    gained, rmse = found.estimates["half"]["gain", "depth"], found.estimates["half"]["depth", "rmse"]
    assert gained.mean == pytest.approx(50)
    assert gained.high - gained.low < 1e-3
    assert (rmse.high - rmse.low) / rmse.mean > 0.05


def test_without_statistics_of_images_there_are_seeds_only() -> None:
    results = study(
        single(kept=False), arm("ours", 0.15, kept=False), arm("alone", 0.15, seeds=[0], kept=False)
    )
    found = analyse(results)
    ours, alone = (found.estimates[name]["depth", "rmse"] for name in ("ours", "alone"))
    assert (ours.over_images, ours.over_seeds) == (False, True)
    values = list(ours.by_seed.values())
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (ours.low, ours.high) == (pytest.approx(low), pytest.approx(high))
    assert (alone.over_images, alone.over_seeds) == (False, False)
    assert math.isnan(alone.low)
    assert alone.mean > 0


def test_an_arm_that_kept_no_images_is_compared_by_seeds() -> None:
    found = analyse(study(arm("kept", 0.2, offset=1), arm("not", 0.2, offset=2, kept=False)), replicates=50)
    assert found.estimates["kept"]["depth", "rmse"].over_images
    assert not found.estimates["not"]["depth", "rmse"].over_images
    first, second = (
        list(found.estimates[name]["depth", "rmse"].by_seed.values()) for name in ("kept", "not")
    )
    expected = stats.ttest_rel(first, second).pvalue
    assert found.comparisons["depth", "rmse"][0].p == pytest.approx(expected, rel=1e-2)


def test_seeds_are_paired_by_number_and_missing_ones_left_out() -> None:
    results = study(single(seeds=[0, 1, 3]), arm("ours", 0.15, seeds=[3, 1, 2]))
    found = analyse(results, replicates=50)
    gained = found.estimates["ours"]["gain", "mean"]
    assert set(gained.by_seed) == {1, 3}
    expected = relative_gain(
        results.arm("ours").seeds[0].scores, results.arms[0].seeds[2].scores, results.measures
    )
    assert gained.by_seed[3] == pytest.approx(100 * expected.mean)
    (pair,) = found.comparisons["depth", "rmse"]
    one, other = (found.estimates[name]["depth", "rmse"].by_seed for name in ("single-task", "ours"))
    assert pair.difference == pytest.approx(np.mean([one[s] - other[s] for s in (1, 3)]))


def test_one_seed_in_common_cannot_be_tested() -> None:
    found = analyse(study(single(seeds=[0]), arm("ours", 0.15, seeds=[0])), replicates=50)
    for pairs in found.comparisons.values():
        for pair in pairs:
            assert math.isfinite(pair.difference)
            assert math.isnan(pair.p)
            assert math.isnan(pair.adjusted)
            assert pair.better is None
    assert found.best == {}


def test_what_has_not_finished_or_is_not_predicted_is_absent() -> None:
    results = study(
        single(),
        arm("nothing", 0.2, seeds=[]),
        arm("depth only", 0.1, tasks=["depth"]),
        arm("ours", 0.2, offset=1),
    )
    found = analyse(results, replicates=50)
    assert "nothing" not in found.estimates
    partial = found.estimates["depth only"]
    assert ("semantic", "miou") not in partial
    assert ("gain", "depth") in partial
    assert ("gain", "mean") not in partial
    compared = {name for pair in found.comparisons["gain", "mean"] for name in (pair.first, pair.second)}
    assert compared == {"single-task", "ours"}
    assert found.ranks is not None
    assert set(found.ranks.mean) == {"single-task", "ours"}


def test_a_study_without_finished_runs_says_nothing() -> None:
    found = analyse(study(arm("nothing", 0.2, seeds=[])))
    assert (found.estimates, found.comparisons, found.best, found.ranks) == ({}, {}, {}, None)
    assert all(arms == () for arms in found.fronts.values())


def test_a_score_that_is_nan_stays_so_and_decides_nothing() -> None:
    broken = run_of(0.2, 1)
    numbers = {task: dict(values) for task, values in broken.scores.items()}
    numbers["depth"]["rmse"] = math.nan
    broken = replace(broken, given=replace(broken.scores, by_task=numbers))
    ours = arm("ours", 0.1, offset=1)
    ours = replace(ours, seeds=(ours.seeds[0], SeedResult(seed=1, runs=(broken,)), ours.seeds[2]))
    found = analyse(study(single(), ours, arm("third", 0.3, offset=2)), replicates=50)
    for key in (("depth", "rmse"), ("gain", "depth"), ("gain", "mean")):
        assert math.isnan(found.estimates["ours"][key].mean)
        assert math.isnan(found.estimates["ours"][key].low)
        pair = found.compared(key, "single-task", "ours")
        assert pair is not None
        assert math.isnan(pair.p)
        assert key not in found.best
        other = found.compared(key, "single-task", "third")
        assert other is not None
        assert other.p < 0.05, "the others are compared all the same"
    assert finite(found.estimates["ours"]["semantic", "miou"])
    assert found.ranks is not None
    assert "ours" not in found.ranks.mean
    assert "ours" not in found.fronts["macs"]


def test_every_pair_is_compared_once_by_headline_measures_and_gains(made: Analysis) -> None:
    names = [result.name for result in made.results.arms]
    assert list(made.comparisons) == [
        ("semantic", "miou"), ("depth", "rmse"), ("gain", "semantic"), ("gain", "depth"), ("gain", "mean"),
    ]  # fmt: skip
    for key, pairs in made.comparisons.items():
        assert [(pair.first, pair.second) for pair in pairs] == list(itertools.combinations(names, 2))
        np.testing.assert_allclose([p.adjusted for p in pairs], holm(np.array([p.p for p in pairs])))
        for pair in pairs:
            one, other = (made.estimates[name][key].mean for name in (pair.first, pair.second))
            assert pair.difference == pytest.approx(one - other)
            assert pair.low <= pair.difference <= pair.high
            assert (pair.p < 0.05) == (pair.low > 0 or pair.high < 0)
            assert (pair.better is not None) == (pair.adjusted < 0.05)


def test_the_better_arm_is_the_one_with_more_or_where_less_is_better_with_less(made: Analysis) -> None:
    for key in made.comparisons:
        pair = made.compared(key, "worse", "better")
        assert pair is not None
        assert pair.better == "better"
        assert (pair.difference > 0) == (key == ("depth", "rmse"))


def test_only_what_is_better_than_all_others_is_best(made: Analysis) -> None:
    assert made.best["gain", "mean"] == "better"
    twin = analyse(
        study(
            single(), arm("better", 0.12, offset=2), arm("twin", 0.12, offset=5), arm("worse", 0.4, offset=3)
        ),
        replicates=200,
    )
    assert twin.best == {}
    pair = twin.compared(("gain", "mean"), "better", "twin")
    assert pair is not None
    assert pair.adjusted > 0.05


def test_an_arm_and_its_copy_are_equal() -> None:
    ours = arm("ours", 0.1, offset=1)
    found = analyse(study(single(), ours, replace(ours, name="copy")), replicates=50)
    pair = found.compared(("gain", "mean"), "ours", "copy")
    assert pair is not None
    assert (pair.difference, pair.p, pair.better) == (0, 1, None)


def test_ranks_are_over_tasks_and_studies(made: Analysis) -> None:
    assert made.ranks is not None
    assert made.ranks.blocks == 2
    assert made.ranks.mean["better"] == 1
    assert made.ranks.mean["worse"] == 5
    assert sum(made.ranks.mean.values()) == 15
    assert len(made.ranks.cliques[0]) == 5, "two tasks tell nothing apart"
    other = analyse(study(single(), arm("better", 0.3, offset=2), arm("new", 0.1)), replicates=50)
    both = ranks_over([made, other])
    assert both is not None
    assert both.blocks == 4
    assert dict(both.mean) == {"single-task": 1.5, "better": 1.5}
    assert both.critical_difference == pytest.approx(1.96 * math.sqrt(2 * 3 / (6 * 4)), rel=1e-3)
    assert math.isnan(both.p)
    assert ranks_over([made, analyse(study(arm("new", 0.1)), replicates=50)]) is None


def test_fronts_are_by_cost_and_mean_gain(made: Analysis) -> None:
    assert made.fronts["macs"] == ("shared", "better")
    assert made.fronts["latency"] == ("shared", "better")
    assert set(made.fronts) == {"macs", "parameters", "latency", "memory"}
    assert made.fronts["parameters"] == ("better",)


@pytest.mark.parametrize("change", ["images", "rules"])
def test_runs_that_were_not_scored_alike_are_refused(change: str) -> None:
    ours = arm("ours", 0.2, seeds=[0])
    run = ours.seeds[0].runs[0]
    images = run.per_image
    assert images is not None
    if change == "images":
        kept = PerImage(tuple(reversed(images.ids)), images.statistics)
    else:
        kept = PerImage(images.ids, {"depth": images.statistics["depth"][:, :-1]})
    other = replace(ours, name="other", seeds=(SeedResult(seed=0, runs=(replace(run, kept=kept),)),))
    with pytest.raises(DataError, match=r"runs/0\.2-0 .*run the study again") as caught:
        analyse(study(ours, other), replicates=20)
    assert "\n" not in str(caught.value)


def test_a_run_s_folder_is_read(tmp_path: Path) -> None:
    run = run_of(0.2, 0)
    assert run.per_image is not None
    run.per_image.save(tmp_path / "images.safetensors")
    run.scores.save(tmp_path / "scores.json")
    found, expected = (Resampler(TASKS, 20).scores(r) for r in (Run(tmp_path, Recipe(**vars(RECIPE))), run))
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values)
