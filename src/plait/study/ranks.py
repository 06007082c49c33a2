"""Ranks of arms over tasks and data sets, and fronts of cost and gain."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from scipy import stats

from plait.study.behrens_fisher import LEVEL, Values


def mean_ranks(scores: Values) -> Values:
    """Mean ranks of arms over blocks, 1 being best, ties sharing theirs: ``[K]`` from ``[blocks, K]``.

    Args:
        scores: Larger is better.
    """
    ranks: Values = stats.rankdata(-scores, axis=1).mean(0)
    return ranks


def friedman(scores: Values) -> float:
    """P of all arms being equal, from scores ``[blocks, K]``; NaN for fewer than two blocks or three arms.

    Source:
        Friedman 1937, in the form with ties; Demsar, Statistical Comparisons of Classifiers over Multiple
        Data Sets, JMLR 2006.
    """
    blocks, arms = scores.shape
    if blocks < 2 or arms < 3:
        return float("nan")
    if (scores == scores[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*scores.T).pvalue)


@lru_cache(maxsize=64)
def critical_difference(arms: int, blocks: int) -> float:
    """By how much two mean ranks must differ to be told apart at 5 % (Nemenyi's test).

    Source:
        Demsar, JMLR 2006, section 3.2.2.
    """
    q = stats.studentized_range.ppf(1 - LEVEL, arms, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(arms * (arms + 1) / (6 * blocks)))


def cliques(ranks: Mapping[str, float], difference: float) -> tuple[tuple[str, ...], ...]:
    """The largest groups of arms whose ranks differ by less than ``difference``, in rank order; two or more.

    >>> cliques({"a": 1.0, "b": 1.5, "c": 2.2, "d": 4.0}, 1.0)
    (('a', 'b'), ('b', 'c'))
    """
    order = sorted(ranks, key=lambda arm: ranks[arm])
    found: list[tuple[str, ...]] = []
    reached = 0
    for place, arm in enumerate(order):
        end = place
        while end < len(order) and ranks[order[end]] - ranks[arm] < difference:
            end += 1
        if end > max(reached, place + 1):
            found.append(tuple(order[place:end]))
            reached = end
    return tuple(found)


def front(points: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """The arms that no other beats in both cost and gain, cheapest first.

    Args:
        points: Cost, of which less is better, and gain, of which more is. What is not finite takes no part.

    >>> front({"a": (1.0, 0.0), "b": (2.0, 3.0), "c": (2.5, 3.0), "d": (3.0, 4.0)})
    ('a', 'b', 'd')
    """
    known = {arm: point for arm, point in points.items() if np.isfinite(point).all()}

    def beaten(cost: float, gain: float) -> bool:
        return any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in known.values())

    best = [arm for arm, point in known.items() if not beaten(*point)]
    return tuple(sorted(best, key=lambda arm: known[arm]))
