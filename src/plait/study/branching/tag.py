"""Groups of tasks whose steps help each other: a network a group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.errors import ConfigurationError
from plait.study.branching.candidates import Candidate, tree_of
from plait.study.branching.partitions import Blocks

Array = NDArray[np.float64]

MOST_TASKS = 18


def mean_affinity(log: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Array:
    """The affinities of a run's log, averaged over the steps that measured them.

    Args:
        log: Lines of ``log.jsonl``; those with ``affinity: {from: {onto: value}}`` count.
        tasks: Names of the tasks.

    Returns:
        ``[T, T]``: entry ``[i, j]`` says by which part of itself the loss of task j falls after a step on
        task i alone.

    Raises:
        ConfigurationError: If a pair was never measured.
    """
    lines = [line["affinity"] for line in log if "affinity" in line]
    if not lines:
        raise ConfigurationError(
            "the log has no affinities of tasks: train them together with --training.affinity_every 10, for "
            "instance"
        )
    mean = np.full((len(tasks), len(tasks)), math.nan)
    for i, giver in enumerate(tasks):
        for j, taker in enumerate(tasks):
            found = [line[giver][taker] for line in lines if line.get(giver, {}).get(taker) is not None]
            if not found:
                raise ConfigurationError(
                    f"the log has no affinity of {giver} onto {taker} at any of the {len(lines)} steps "
                    f"that measured: measure more often, with a lower training.affinity_every"
                )
            mean[i, j] = np.mean(found)
    return mean


def group_score(affinity: Array, groups: Blocks) -> float:
    """The mean over tasks of the mean affinity onto each from the others of its group; 0 for one alone."""
    total = 0.0
    for group in groups:
        if len(group) > 1:
            inside = affinity[np.ix_(group, group)]
            total += float((inside.sum() - inside.trace()) / (len(group) - 1))
    return total / len(affinity)


def best_groups(affinity: Array) -> list[Blocks]:
    """The partition into 1, 2, ... T groups with the highest :func:`group_score`, each.

    The best k groups of some tasks are a group that holds the first of them, and the best k - 1 groups of
    the rest: solved for every subset of the tasks, the smaller ones first.

    Args:
        affinity: ``[T, T]``, of row onto column.

    Raises:
        ConfigurationError: If there are more than 18 tasks, which have too many subsets.

    Source:
        Fifty et al., Efficiently Identifying Task Groupings for Multi-Task Learning, NeurIPS 2021, section
        3.2. Where we differ: each task is in one group, where theirs may be in several (and is then taken
        from one of them); and their branch and bound is replaced by an exact recursion over subsets.
    """
    tasks = len(affinity)
    if tasks > MOST_TASKS:
        raise ConfigurationError(
            f"the best groups can be found for up to {MOST_TASKS} tasks, got {tasks}: leave some out"
        )
    members = (np.arange(2**tasks)[:, None] >> np.arange(tasks) & 1).astype(np.float64)
    between = affinity - np.diag(affinity.diagonal())
    scores = ((members @ between) * members).sum(1) / np.maximum(members.sum(1) - 1, 1)
    best = np.full((tasks + 1, 2**tasks), -math.inf)
    best[0, 0] = 0.0
    group = np.zeros((tasks + 1, 2**tasks), dtype=np.int64)
    for subset in range(1, 2**tasks):
        first = subset & -subset
        others = [1 << place for place in range(tasks) if (subset ^ first) >> place & 1]
        groups = np.array([first])
        for bit in others:
            groups = np.concatenate([groups, groups | bit])
        found = scores[groups] + best[:-1, subset ^ groups]
        chosen = np.round(found, 12).argmax(1)
        best[1:, subset] = found[np.arange(tasks), chosen]
        group[1:, subset] = groups[chosen]
    return [_read(group, count, tasks) for count in range(1, tasks + 1)]


def _read(group: NDArray[np.int64], count: int, tasks: int) -> Blocks:
    """The groups that were chosen for all tasks."""
    blocks, left = [], 2**tasks - 1
    for number in range(count, 0, -1):
        chosen = int(group[number, left])
        blocks.append(tuple(place for place in range(tasks) if chosen >> place & 1))
        left ^= chosen
    return tuple(blocks)


def groupings(
    affinity: Array, *, tasks: Sequence[str], parts: Sequence[float], limit: float = math.inf
) -> list[Candidate]:
    """For each number of groups that fits a budget, the best grouping, as a tree that parts at the stem.

    Args:
        affinity: ``[T, T]``, of row onto column.
        tasks: Their names.
        parts: What each part of the backbone costs.
        limit: What all copies of all parts may cost together.

    Raises:
        ConfigurationError: If not even one group fits.
    """
    shared = sum(parts)
    if shared > limit:
        raise ConfigurationError(
            f"no grouping fits the budget of {limit:,.0f}: one network for all tasks already costs "
            f"{shared:,.0f}; give at least that"
        )
    found = []
    for count, groups in enumerate(best_groups(affinity), start=1):
        if count * shared <= limit:
            tree = tree_of([groups] * (len(parts) - 1), tasks)
            found.append(Candidate(tree, group_score(affinity, groups), count * shared))
    return found
