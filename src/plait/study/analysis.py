"""What a study's numbers say: means, spreads, intervals, tests, ranks; no words and no pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plait.study import ranks as ranking
from plait.study.behrens_fisher import LEVEL, Values
from plait.study.numbers import GAIN, Numbers, Resampler, numbers_of
from plait.study.numbers import Key as Key
from plait.study.statistics import holm, interval, paired, parts

if TYPE_CHECKING:
    from plait.study.results import StudyResults


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A quantity of one arm.

    Attributes:
        mean: Over seeds, each pooled over the whole test split. In the measure's own unit: shares in [0, 1],
            metres, degrees; relative gains in percent.
        spread: Standard deviation over seeds (n - 1); NaN for one seed.
        low: Lower end of the 95 % interval over test images and seeds; NaN where there is none.
        high: Upper end.
        by_seed: ``{seed: value}``.
        over_images: Whether images are part of the interval: not, where the metric has no statistics of
            single images.
        over_seeds: Whether seeds are: not, where there is one.
    """

    mean: float
    spread: float
    low: float
    high: float
    by_seed: Mapping[int, float]
    over_images: bool
    over_seeds: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two arms on the same seeds and images.

    Attributes:
        first: An arm.
        second: Another.
        difference: Mean of first minus second, over the seeds that both have; in the key's unit.
        low: Lower end of the 95 % interval of the difference, not corrected.
        high: Upper end.
        p: Of no difference, two-sided; NaN where it cannot be tested (one seed).
        adjusted: The same, corrected for all comparisons of its key (Holm).
        better: Name of the better arm if ``adjusted`` is below 0.05, else None.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    adjusted: float
    better: str | None


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Mean ranks of arms over tasks (and data sets), 1 being best.

    Attributes:
        mean: ``{arm: rank}``.
        blocks: How many rankings were averaged.
        critical_difference: Arms whose mean ranks differ by less are not told apart (Nemenyi, 5 %).
        p: Of all arms being equal (Friedman); NaN for fewer than two blocks or three arms.
        cliques: Groups of arms, in rank order, that are not told apart; only maximal ones, of two or more.
    """

    mean: Mapping[str, float]
    blocks: int
    critical_difference: float
    p: float
    cliques: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """One study, worked out.

    Attributes:
        results: What it was worked out from.
        estimates: ``{arm: {key: estimate}}``; a key that an arm has no number for is absent.
        comparisons: ``{key: every pair of arms once}``, for the headline measures and the relative gains.
        ranks: Of the arms that predict all tasks; None with fewer than two.
        best: ``{key: arm}`` where one arm is better than every other by ``comparisons``: what may be printed
            bold, and nothing else may.
        fronts: ``{cost: arms}``: for each cost name the arms that no other beats in both cost and mean
            relative gain, cheapest first.
    """

    results: StudyResults
    estimates: Mapping[str, Mapping[Key, Estimate]]
    comparisons: Mapping[Key, tuple[Comparison, ...]]
    ranks: Ranks | None
    best: Mapping[Key, str]
    fronts: Mapping[str, tuple[str, ...]]

    def compared(self, key: Key, first: str, second: str) -> Comparison | None:
        """Two arms held against each other, first minus second; None if they were not."""
        for found in self.comparisons.get(key, ()):
            if (found.first, found.second) == (first, second):
                return found
            if (found.first, found.second) == (second, first):
                return Comparison(
                    first=first,
                    second=second,
                    difference=-found.difference,
                    low=-found.high,
                    high=-found.low,
                    p=found.p,
                    adjusted=found.adjusted,
                    better=found.better,
                )
        return None


COSTS: tuple[str, ...] = ("macs", "parameters", "latency", "memory")
"""The costs of which a front is drawn, as :class:`plait.study.cost.Cost` names them."""


def analyse(results: StudyResults, *, replicates: int = 1000) -> Analysis:
    """Works a study out; ``docs/statistics.md`` says how.

    Args:
        results: What came of the study; arms without a finished seed have no estimates.
        replicates: How often the test split is resampled.

    Raises:
        DataError: If the runs were not scored on the same images by the same rules.
    """
    numbers = numbers_of(results, Resampler(results.tasks, replicates))
    estimates = {arm: {key: estimate(of) for key, of in keys.items()} for arm, keys in numbers.items()}
    higher = {(t.name, m.name): m.higher_is_better for t in results.tasks.values() for m in t.measures}
    keys: list[Key] = [(task.name, task.headline.name) for task in results.tasks.values()]
    keys += [*(("gain", task) for task in results.tasks), GAIN]
    comparisons = {}
    for key in keys:
        arms = {arm: found[key] for arm, found in numbers.items() if key in found}
        if len(arms) > 1:
            comparisons[key] = tuple(compare(arms, higher_is_better=higher.get(key, True)))
    return Analysis(
        results=results,
        estimates=estimates,
        comparisons=comparisons,
        ranks=ranks([(results, estimates)]),
        best={key: arm for key, pairs in comparisons.items() for arm in unbeaten(pairs)},
        fronts={cost: front(results, estimates, cost) for cost in COSTS},
    )


def estimate(of: Numbers) -> Estimate:
    """Mean, spread and interval of one quantity."""
    values, replicates = stacked(of, tuple(of.by_seed))
    found = parts(values, replicates)
    mean, half = found.mean.item(), interval(found, of.images).item()
    return Estimate(
        mean=mean,
        spread=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        low=mean - half,
        high=mean + half,
        by_seed=dict(of.by_seed),
        over_images=replicates is not None and of.images > 1,
        over_seeds=len(values) > 1,
    )


def compare(arms: Mapping[str, Numbers], *, higher_is_better: bool) -> Iterator[Comparison]:
    """Every pair of arms, corrected for their number."""
    seeds = tuple(sorted(set().union(*(of.by_seed for of in arms.values()))))
    matrices = [stacked(of, seeds) for of in arms.values()]
    drawn = [replicates for _, replicates in matrices if replicates is not None]
    seen = np.array([[seed in of.by_seed for seed in seeds] for of in arms.values()])
    found = paired(
        np.stack([values for values, _ in matrices]),
        np.stack(drawn) if len(drawn) == len(matrices) else None,
        seen,
        min(of.images for of in arms.values()),
    )
    names = list(arms)
    rows = (found.first, found.second, found.difference, found.half, found.p, holm(found.p))
    for one, other, difference, half, p, adjusted in zip(*(row.tolist() for row in rows), strict=True):
        ahead = names[one] if (difference > 0) == higher_is_better else names[other]
        yield Comparison(
            first=names[one],
            second=names[other],
            difference=difference,
            low=difference - half,
            high=difference + half,
            p=p,
            adjusted=adjusted,
            better=ahead if adjusted < LEVEL else None,
        )


def stacked(of: Numbers, seeds: Sequence[int]) -> tuple[Values, Values | None]:
    """Values ``[S]`` and replicates ``[S, R]`` of some seeds, NaN where there is none."""
    values = np.array([of.by_seed.get(seed, math.nan) for seed in seeds])
    if of.replicates is None:
        return values, None
    nothing = np.full_like(next(iter(of.replicates.values())), math.nan)
    return values, np.stack([of.replicates.get(seed, nothing) for seed in seeds])


def unbeaten(pairs: Sequence[Comparison]) -> Iterator[str]:
    """The arm that is better than every other, if there is one."""
    for arm in {name: None for pair in pairs for name in (pair.first, pair.second)}:
        if all(pair.better == arm for pair in pairs if arm in (pair.first, pair.second)):
            yield arm


def ranks(
    studies: Sequence[tuple[StudyResults, Mapping[str, Mapping[Key, Estimate]]]],
) -> Ranks | None:
    """Ranks by headline measures of the arms that have them for all tasks of all studies.

    Blocks are the tasks of each study; None with fewer than two such arms.
    """
    blocks: list[dict[str, float]] = []
    for results, estimates in studies:
        for task in results.tasks.values():
            key, sign = (task.name, task.headline.name), 1 if task.headline.higher_is_better else -1
            means = {arm: found[key].mean for arm, found in estimates.items() if key in found}
            blocks.append({arm: sign * mean for arm, mean in means.items() if math.isfinite(mean)})
    if not blocks:
        return None
    arms = [arm for arm in blocks[0] if all(arm in block for block in blocks)]
    if len(arms) < 2:
        return None
    scores = np.array([[block[arm] for arm in arms] for block in blocks])
    mean = dict(zip(arms, ranking.mean_ranks(scores).tolist(), strict=True))
    difference = ranking.critical_difference(len(arms), len(blocks))
    return Ranks(
        mean=mean,
        blocks=len(blocks),
        critical_difference=difference,
        p=ranking.friedman(scores),
        cliques=ranking.cliques(mean, difference),
    )


def ranks_over(analyses: Sequence[Analysis]) -> Ranks | None:
    """Ranks over several studies, of the arms that they have in common by name; None with fewer than two."""
    return ranks([(analysis.results, analysis.estimates) for analysis in analyses])


def front(
    results: StudyResults, estimates: Mapping[str, Mapping[Key, Estimate]], cost: str
) -> tuple[str, ...]:
    """The arms that no other beats in both a cost and the mean relative gain, cheapest first."""
    points = {}
    for arm in results.arms:
        price = getattr(arm.cost, cost, None)
        gained = estimates.get(arm.name, {}).get(GAIN)
        if price is not None and gained is not None:
            points[arm.name] = (float(price), gained.mean)
    return ranking.front(points)
