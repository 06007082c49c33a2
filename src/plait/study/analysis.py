"""What a study's numbers say: means, spreads, intervals, tests, ranks; no words and no pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plait.study.results import StudyResults

Key = tuple[str, str]
"""What is estimated or tested: ``(task, measure)``, ``("gain", task)`` or ``("gain", "mean")``."""


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
