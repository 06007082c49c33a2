"""One-to-one matching of predicted edge pixels with true ones that lie near."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.metrics.boundary.compiled import compiled

UNMATCHED_COST = 100
"""Cost of an unmatched predicted pixel, in units of the largest distance allowed."""
STEPS_A_PIXEL = 100
"""Distances are rounded to this fraction of a pixel before they are added up."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Which true pixels each predicted pixel may be matched with, nearest first (compressed rows).

    Made once for an image, for every pixel that is predicted at some threshold; a threshold uses some of
    its rows.

    Attributes:
        starts: Where the row of each predicted pixel starts, int64 ``[P + 1]``.
        columns: The true pixels of all rows, int32 ``[N]``, in [0, T).
        weights: Their distances in hundredths of a pixel, rounded, int64 ``[N]``.
        true_pixels: Their number T.
        unmatched: The cost of an unmatched predicted pixel, in hundredths of a pixel.
    """

    starts: NDArray[np.int64]
    columns: NDArray[np.int32]
    weights: NDArray[np.int64]
    true_pixels: int
    unmatched: int


def candidates(
    predicted: NDArray[np.int64], true: NDArray[np.int64], shape: tuple[int, int], max_distance: float
) -> Candidates:
    """The pairs of pixels at most ``max_distance`` times the image's diagonal apart (Euclidean, not rounded).

    Args:
        predicted: Places in the flattened image, int64 ``[P]``, without repetition.
        true: The same, ``[T]``.
        shape: Height and width of the image.
        max_distance: A fraction of the diagonal.
    """
    height, width = shape
    radius = max_distance * math.hypot(height, width)
    reach = min(math.floor(radius), max(shape))
    # The predicted pixel at each place, -1 for none, with a margin so that no displacement leaves the map.
    at = np.full((height + 2 * reach, width + 2 * reach), -1, dtype=np.int32)
    at[reach : reach + height, reach : reach + width].flat[predicted] = np.arange(len(predicted))
    y, x = np.divmod(true, width)
    place = (y + reach) * at.shape[1] + x + reach
    rows, columns, weights = [], [], []
    for distance, dy, dx in displacements(radius, reach):
        row = at.ravel()[place + (dy * at.shape[1] + dx)]
        column = np.flatnonzero(row >= 0)
        rows.append(row[column])
        columns.append(column)
        weights.append(np.full(len(column), round(STEPS_A_PIXEL * distance)))
    row = np.concatenate(rows)
    # Stable, so that each row keeps the order of displacements.
    by_row = np.argsort(row, kind="stable")
    starts = np.zeros(len(predicted) + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=len(predicted)), out=starts[1:])
    return Candidates(
        starts,
        np.concatenate(columns)[by_row].astype(np.int32),
        np.concatenate(weights)[by_row],
        len(true),
        math.ceil(UNMATCHED_COST * STEPS_A_PIXEL * radius),
    )


def displacements(radius: float, reach: int) -> list[tuple[float, int, int]]:
    """Length, rows and columns of every displacement at most ``radius`` long, the shortest first."""
    span = range(-reach, reach + 1)
    lengths = ((math.sqrt(dy * dy + dx * dx), dy, dx) for dy in span for dx in span)
    return sorted(found for found in lengths if found[0] <= radius)


def maximum_matching(pairs: Candidates, rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """A matching of as many pixels as possible: the true pixel of each row, or -1.

    Pothen and Fan's algorithm: first every pixel takes its nearest free candidate, then augmenting paths
    are searched depth first, looking ahead for a free pixel at each step, until there is none.

    Args:
        pairs: The candidates of the image.
        rows: The predicted pixels at one threshold, int64 ``[M]``, without repetition.

    Returns:
        int32 ``[M]``. The number of matched pixels is the largest possible; which ones they are follows from
        the order of pixels and candidates alone.
    """
    kernel = compiled(augment)
    partner: NDArray[np.int32] = kernel(pairs.starts, pairs.columns, pairs.true_pixels, rows)
    return partner


def augment(
    starts: NDArray[np.int64], columns: NDArray[np.int32], true_pixels: int, rows: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Kernel of :func:`maximum_matching`."""
    partner = np.full(len(rows), -1, dtype=np.int32)
    owner = np.full(true_pixels, -1, dtype=np.int32)
    visited = np.zeros(true_pixels, dtype=np.int32)
    # Candidates before `ahead` are taken, and a taken pixel stays taken.
    ahead = np.empty(len(rows), dtype=np.int64)
    cursor = np.empty(len(rows), dtype=np.int64)
    path = np.empty(len(rows) + 1, dtype=np.int32)
    chosen = np.empty(len(rows) + 1, dtype=np.int32)
    free = np.empty(len(rows), dtype=np.int32)
    free_size = 0
    for i in range(len(rows)):
        edge, end = starts[rows[i]], starts[rows[i] + 1]
        while edge < end and owner[columns[edge]] >= 0:
            edge += 1
        ahead[i] = edge
        if edge < end:
            owner[columns[edge]] = i
            partner[i] = columns[edge]
        elif starts[rows[i]] < end:
            free[free_size] = i
            free_size += 1
    phase = 0
    progress = True
    while progress and free_size > 0:
        progress = False
        phase += 1
        left = 0
        for k in range(free_size):
            path[0] = free[k]
            cursor[free[k]] = starts[rows[free[k]]]
            depth = 0
            while depth >= 0:
                i = path[depth]
                end = starts[rows[i] + 1]
                while ahead[i] < end and owner[columns[ahead[i]]] >= 0:
                    ahead[i] += 1
                if ahead[i] < end:
                    chosen[depth] = columns[ahead[i]]
                    visited[chosen[depth]] = phase
                    break
                while cursor[i] < end and visited[columns[cursor[i]]] == phase:
                    cursor[i] += 1
                if cursor[i] == end:
                    depth -= 1
                    continue
                chosen[depth] = columns[cursor[i]]
                visited[chosen[depth]] = phase
                depth += 1
                path[depth] = owner[chosen[depth - 1]]
                cursor[path[depth]] = starts[rows[path[depth]]]
            if depth < 0:
                free[left] = free[k]
                left += 1
                continue
            progress = True
            for step in range(depth + 1):
                owner[chosen[step]] = path[step]
                partner[path[step]] = chosen[step]
        free_size = left
    return partner


def cheapest_matching(pairs: Candidates, rows: NDArray[np.int64], *, only_number: bool) -> NDArray[np.int32]:
    """The matching of least cost: the true pixel of each row, or -1.

    The cost is the sum of the distances of matched pixels (hundredths of a pixel, rounded) plus
    ``pairs.unmatched`` for each predicted pixel that stays unmatched: the objective of the BSDS evaluator,
    solved exactly. It matches fewer pixels than :func:`maximum_matching` only where one more match would
    lengthen the others by more than ``pairs.unmatched`` together, as when a line of hundreds of
    pixels is slid along itself.

    Args:
        pairs: The candidates of the image.
        rows: The predicted pixels at one threshold, int64 ``[M]``, without repetition.
        only_number: Only how many pixels are matched matters, not which: connected parts in which the
            cheapest matching must be a largest one are then left as :func:`maximum_matching` has them.

    Returns:
        int32 ``[M]``.
    """
    partner = maximum_matching(pairs, rows)
    chosen, columns, weights = edges_of(pairs, rows)
    solve = np.ones(len(rows), dtype=bool)
    if only_number and len(weights):
        part = connected_parts(chosen, columns, len(rows), pairs.true_pixels)
        matched = np.bincount(part[partner >= 0], minlength=len(rows) + pairs.true_pixels)
        # The last match of a part costs at most what all its matches cost, since costs are convex.
        solve = matched[part] * weights.max() >= pairs.unmatched
    solve[np.setdiff1d(np.arange(len(rows)), chosen)] = False
    if solve.any():
        partner[solve] = assigned(chosen, columns, weights, solve, pairs)
    return partner


def edges_of(
    pairs: Candidates, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """The candidate pairs of some rows: place in ``rows``, true pixel and weight, each ``[E]``."""
    degrees = pairs.starts[rows + 1] - pairs.starts[rows]
    before = np.cumsum(degrees) - degrees
    edges = np.arange(degrees.sum()) + np.repeat(pairs.starts[rows] - before, degrees)
    return np.repeat(np.arange(len(rows)), degrees), pairs.columns[edges], pairs.weights[edges]


def connected_parts(
    row: NDArray[np.int64], column: NDArray[np.int32], rows: int, columns: int
) -> NDArray[np.int32]:
    """The connected part of each row, int32 ``[rows]``."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = rows + columns
    graph = coo_array((np.ones(len(row), dtype=np.int8), (row, column + rows)), shape=(size, size))
    parts: NDArray[np.int32] = connected_components(graph, directed=False)[1][:rows]
    return parts


def assigned(
    row: NDArray[np.int64],
    column: NDArray[np.int32],
    weight: NDArray[np.int64],
    solve: NDArray[np.bool_],
    pairs: Candidates,
) -> NDArray[np.int64]:
    """The true pixel of each row to solve, -1 for none, at the least cost.

    Every row has a column of its own that stands for no match. All costs are one higher than they are,
    because a cost of zero would be no entry of a sparse matrix.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    kept = solve[row]
    place = np.cumsum(solve) - 1
    count = int(solve.sum())
    own = np.arange(count)
    costs = coo_array(
        (
            np.concatenate([weight[kept], np.full(count, pairs.unmatched)]) + 1.0,
            (
                np.concatenate([place[row[kept]], own]),
                np.concatenate([column[kept], pairs.true_pixels + own]),
            ),
        ),
        shape=(count, pairs.true_pixels + count),
    )
    partner: NDArray[np.int64] = min_weight_full_bipartite_matching(costs.tocsr())[1]
    return np.where(partner < pairs.true_pixels, partner, -1)
