"""The tree that keeps dissimilar tasks apart as far as a budget goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from plait.errors import ConfigurationError
from plait.study.branching.candidates import Candidate, sorted_candidates, tree_of
from plait.study.branching.partitions import Blocks, merged, partitions, singletons, spectral

Array = NDArray[np.float64]

EXHAUSTIVE = 6
"""The most tasks for which every tree is looked at."""


@dataclass(frozen=True)
class _Partial:
    """A tree from some location on.

    Attributes:
        chain: A partition a location, the earliest first.
        score: Of these locations.
        cost: Of the copies of their parts.
    """

    chain: tuple[Blocks, ...]
    score: float
    cost: float


def search(
    affinity: Array,
    *,
    tasks: Sequence[str],
    parts: Sequence[float],
    limit: float = math.inf,
    groups: int | None = None,
    beam: int | None = None,
) -> tuple[Candidate, ...]:
    """The trees within a budget, by how dissimilar the tasks are that they keep together.

    The score, which is to be low, is the sum over locations of the mean over groups of the largest
    dissimilarity inside: 1 minus the affinity of two tasks, none for a task alone. Up to six tasks every
    tree is looked at; of more, a beam search from the last location backwards looks at the groupings that
    spectral clustering proposes for each number of groups.

    Args:
        affinity: ``[D, T, T]``: of T tasks at D locations, one after each stage, the first stage first.
        tasks: Their names.
        parts: What the stem and each stage cost, ``D + 1`` numbers. The stem branches as stage 1 does, which
            follows it.
        limit: What all copies of all parts may cost together.
        groups: How many branches there must be in the last stage; None for any number.
        beam: How many beginnings a beam search keeps at a location; None decides by the number of tasks.

    Returns:
        Those considered, the best first; equal ones in a fixed order.

    Raises:
        ConfigurationError: If no tree fits, or there cannot be so many groups.

    Source:
        Vandenhende et al., Branched Multi-Task Networks: Deciding What Layers To Share, BMVC 2020, section
        3.2. Where we differ: in the last stage tasks may still share, for their heads are apart anyway.
    """
    locations, count = affinity.shape[:2]
    if groups is not None and not 1 <= groups <= count:
        raise ConfigurationError(f"{count} tasks can be in 1 to {count} groups, got {groups}")
    prices = [parts[0] + parts[1], *parts[2:]]
    if sum(prices) > limit:
        raise ConfigurationError(
            f"no tree fits the budget of {limit:,.0f}: one copy of every part, shared by all tasks, already "
            f"costs {sum(prices):,.0f}; give at least that"
        )
    if beam is None and count > EXHAUSTIVE:
        beam = 256
    scores, propose = _scorer(1 - affinity), _every if beam is None else _proposer(affinity)
    limit = min(limit, count * sum(prices) * (1 + 1e-9))  # what separate networks cost is no limit
    frontier = [_Partial((), 0.0, 0.0)]
    for place in reversed(range(locations)):
        grown = []
        for begun in frontier:
            below = begun.chain[0] if begun.chain else singletons(count)
            for blocks in propose(place, below):
                cost = begun.cost + len(blocks) * prices[place]
                wanted = place < locations - 1 or groups in (None, len(blocks))
                if wanted and cost + sum(prices[:place]) <= limit:
                    score = begun.score + scores(place, blocks)
                    grown.append(_Partial((blocks, *begun.chain), score, cost))
        if beam is not None:
            before = [_lowest(affinity[earlier], partial(scores, earlier)) for earlier in range(place)]
            hope = partial(_hope, before=before, prices=prices[:place], limit=limit)
            grown = sorted(grown, key=lambda p: (round(hope(p), 12), p.cost, p.chain))[:beam]
        frontier = grown
    if not frontier:
        raise ConfigurationError(
            f"no tree with {groups} branches in the last stage fits the budget of {limit:,.0f}, of which the "
            f"shared network needs {sum(prices):,.0f}: ask for fewer or give more"
        )
    return sorted_candidates([Candidate(tree_of(p.chain, tasks), p.score, p.cost) for p in frontier])


def _scorer(dissimilarity: Array) -> Callable[[int, Blocks], float]:
    """The mean over groups of the largest dissimilarity inside, at a location."""

    @cache
    def worst(place: int, block: tuple[int, ...]) -> float:
        return float(dissimilarity[place][np.ix_(block, block)].max()) if len(block) > 1 else 0.0

    @cache
    def score(place: int, blocks: Blocks) -> float:
        return sum(worst(place, block) for block in blocks) / len(blocks)

    return score


def _every(place: int, below: Blocks) -> Iterator[Blocks]:
    """Every partition that joins groups of the one below."""
    return (merged(below, of_blocks) for of_blocks in partitions(len(below)))


def _proposer(affinity: Array) -> Callable[[int, Blocks], Sequence[Blocks]]:
    """For each number of groups, how spectral clustering joins the groups of the partition below.

    Two groups are as alike as their least alike tasks, which is what the score will see of them.
    """

    @cache
    def propose(place: int, below: Blocks) -> Sequence[Blocks]:
        between = np.array([[affinity[place][np.ix_(a, b)].min() for b in below] for a in below])
        found = [merged(below, spectral(between, count)) for count in range(1, len(below))]
        return list(dict.fromkeys([*found, below]))

    return propose


def _hope(
    begun: _Partial, *, before: Sequence[Sequence[float]], prices: Sequence[float], limit: float
) -> float:
    """The score a beginning may end with, if each earlier location could have all that is left to spend."""
    spare = limit - begun.cost - sum(prices)
    score = begun.score
    for lowest, price in zip(before, prices, strict=True):
        more = math.inf if price == 0 else spare / price
        score += lowest[int(min(len(begun.chain[0]), 1 + more)) - 1]
    return score


def _lowest(affinity: Array, score: Callable[[Blocks], float]) -> list[float]:
    """The lowest score with at most 1, 2, ... groups at a location, as far as spectral clustering sees it."""
    found: list[float] = []
    for count in range(1, len(affinity) + 1):
        found.append(min([score(spectral(affinity, count)), *found[-1:]]))
    return found
