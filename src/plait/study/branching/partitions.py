"""Ways to put things into groups: all of them, or those that spectral clustering proposes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Blocks = tuple[tuple[int, ...], ...]
"""Places in groups: each ascending, the groups in the order of their first places."""


@cache
def partitions(count: int) -> tuple[Blocks, ...]:
    """All partitions of ``range(count)``, of which there are Bell's number.

    >>> partitions(2), [len(partitions(count)) for count in range(1, 7)]
    ((((0, 1),), ((0,), (1,))), [1, 2, 5, 15, 52, 203])
    """
    return tuple(_grown([], 0, count))


def _grown(groups: list[list[int]], place: int, count: int) -> Iterator[Blocks]:
    if place == count:
        yield tuple(tuple(group) for group in groups)
        return
    for group in groups:
        group.append(place)
        yield from _grown(groups, place + 1, count)
        group.pop()
    groups.append([place])
    yield from _grown(groups, place + 1, count)
    groups.pop()


def singletons(count: int) -> Blocks:
    """Every place alone.

    >>> singletons(3)
    ((0,), (1,), (2,))
    """
    return tuple((place,) for place in range(count))


def merged(below: Blocks, of_blocks: Blocks) -> Blocks:
    """A coarser partition: the union of the groups that a partition of the groups puts together.

    >>> merged(((0, 3), (1,), (2,)), ((0, 2), (1,)))
    ((0, 2, 3), (1,))
    """
    unions = (tuple(sorted(place for block in group for place in below[block])) for group in of_blocks)
    return tuple(sorted(unions))


def spectral(affinity: Array, groups: int) -> Blocks:
    """Clusters things by the leading eigenvectors of their normalised affinity; always the same result.

    Args:
        affinity: ``[T, T]``, symmetric; what is negative counts as zero.
        groups: How many are asked for. There are fewer only if things are exactly alike.

    Source:
        Ng, Jordan and Weiss, On Spectral Clustering: Analysis and an Algorithm, NeurIPS 2001, with the
        self-affinities kept. In place of random starts, k-means begins once with each thing: the next
        centre is always the thing farthest from all so far, and the tightest result counts.
    """
    weights = np.clip(affinity, 0, None).astype(np.float64)
    np.fill_diagonal(weights, np.maximum(weights.diagonal(), 1e-12))
    scale = 1 / np.sqrt(weights.sum(1))
    _, vectors = np.linalg.eigh(weights * scale[:, None] * scale[None])
    rows = vectors[:, -groups:]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    found = [_k_means(rows, groups, first) for first in range(len(rows))]
    return min(found, key=lambda pair: (round(pair[0], 9), pair[1]))[1]


def _k_means(points: Array, groups: int, first: int) -> tuple[float, Blocks]:
    """The within-group sum of squares and the groups, from centres that start with one point."""
    chosen = [first]
    while len(chosen) < groups:
        # Rounded, so that the last bit of an eigenvector does not decide between equals.
        chosen.append(int(np.argmax(np.round(_squares(points, points[chosen]).min(1), 9))))
    centres = points[chosen]
    owner = np.full(len(points), -1)
    while True:
        closest = np.round(_squares(points, centres), 9).argmin(1)
        if (closest == owner).all():
            break
        owner = closest
        centres = np.stack(
            [points[owner == g].mean(0) if (owner == g).any() else centres[g] for g in range(groups)]
        )
    return float(_squares(points, centres)[np.arange(len(points)), owner].sum()), _blocks(owner.tolist())


def _squares(points: Array, centres: Array) -> Array:
    squares: Array = ((points[:, None] - centres[None]) ** 2).sum(-1)
    return squares


def _blocks(owner: Sequence[int]) -> Blocks:
    groups: dict[int, list[int]] = {}
    for place, group in enumerate(owner):
        groups.setdefault(group, []).append(place)
    return tuple(tuple(group) for group in groups.values())
