"""Trees grown from the output downwards: tasks that find the same images hard stay together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plait.models.encoders.trees import Tree
from plait.study.branching.candidates import tree_of
from plait.study.branching.partitions import Blocks, merged, singletons, spectral

Array = NDArray[np.float64]


def branch_affinity(affinity: Array, branches: Blocks) -> Array:
    """How alike branches are, from how alike their tasks are.

    Args:
        affinity: Of tasks, ``[T, T]``, by :func:`~plait.study.branching.affinity.error_affinity`.
        branches: B groups of tasks.

    Returns:
        ``[B, B]``, symmetric: the mean over the tasks of one branch of the least affinity to a task of the
        other, averaged over both directions; 1 on the diagonal, as a branch is like itself.

    Source:
        Lu et al., Fully-Adaptive Feature Sharing in Multi-Task Networks, CVPR 2017, section 3.3.
    """
    one_way = np.array([[affinity[np.ix_(k, l)].min(1).mean() for l in branches] for k in branches])  # noqa: E741
    between: Array = (one_way + one_way.T) / 2
    np.fill_diagonal(between, 1)
    return between


def separation(between: Array, groups: Blocks) -> float:
    """1 minus the mean over groups of the mean over their branches of the least affinity inside the group."""
    inside = [between[np.ix_(group, group)].min(1).mean() for group in groups]
    return 1 - float(np.mean(inside))


def fafs(
    affinity: Array, *, tasks: Sequence[str], strides: Sequence[int], alpha: float, unit: float = 1.0
) -> Tree:
    """Groups tasks layer by layer, from the last stage down, until they are one group or at the first stage.

    At a layer that d branches come out of, clustering proposes 1, 2, ... groups of them. Chosen is what
    makes ``(d - 1) unit 2^p + alpha separation`` least, p being how often the resolution halves after the
    layer; of equals, the fewer groups.

    Args:
        affinity: Of tasks, ``[T, T]``.
        tasks: Their names.
        strides: Of the stages, the first one's first.
        alpha: What keeping unlike tasks together costs.
        unit: What one more branch costs at the last stage (L0 of the paper).

    Source:
        Lu et al., Fully-Adaptive Feature Sharing in Multi-Task Networks, CVPR 2017, section 3.2. Where we
        differ: the affinities are measured once, on trained networks, where the paper trains the network
        again after each layer; and this finds the tree alone: the thin network that the paper starts from
        (filters chosen by simultaneous orthogonal matching pursuit) and the copying of filters are not
        implemented, as the tree is trained anew.
    """
    branches = singletons(len(tasks))
    chain: list[Blocks] = []
    for stride in reversed(strides):
        between = branch_affinity(affinity, branches)
        halvings = math.log2(strides[-1] / stride)
        proposals = [spectral(between, count) for count in range(1, len(branches))]
        proposals.append(singletons(len(branches)))
        costs = [(len(p) - 1) * unit * 2**halvings + alpha * separation(between, p) for p in proposals]
        chosen = proposals[int(np.argmin(np.round(costs, 12)))]
        branches = merged(branches, chosen)
        chain.insert(0, branches)
    return tree_of(chain, tasks)


def tree_separation(affinity: Array, tree: Tree, tasks: Sequence[str]) -> float:
    """The sum over stages of the :func:`separation` of the tasks themselves, by which trees are compared."""
    place = {task: number for number, task in enumerate(tasks)}
    alone = branch_affinity(affinity, singletons(len(tasks)))
    return sum(
        separation(alone, tuple(tuple(place[task] for task in group) for group in partition))
        for partition in tree.partitions[1:]
    )
