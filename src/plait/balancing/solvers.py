"""Small problems, solved exactly: no step sizes, no fixed number of iterations, no absolute tolerance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def solved(gramian: Tensor, solve: Callable[[Array], Array]) -> Tensor:
    """The weights of a rule that is a function of the Gramian, for the tasks that have a gradient at all.

    A row that is exactly zero has nothing to say about the direction: it is left out with weight 0, and the
    problem is that of the others. If all are zero, so are the weights.

    Args:
        gramian: Inner products of the gradients ``[T, T]``.
        solve: Maps the Gramian of the rows that are not zero, float64, to their weights.

    Returns:
        Weights ``[T]`` of the type and device of ``gramian``; NaN if an inner product is not finite, so that
        whoever guards the update sees it. Waits for the device.
    """
    inner = gramian.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(inner).all():
        return torch.full_like(gramian[0], torch.nan)
    heard = np.diagonal(inner) > 0
    weights = np.zeros(len(inner))
    if heard.any():
        weights[heard] = solve(inner[np.ix_(heard, heard)])
    return torch.from_numpy(weights).to(gramian)


def min_norm_weights(gramian: Array) -> Array:
    """The point of the simplex whose combination of rows has least norm: ``argmin_w w^T G w``.

    With ``x`` the minimiser of ``|J^T x|^2 + (1^T x - 1)^2`` over ``x >= 0``, the answer is
    ``x / sum(x)``: one non-negative least squares problem, solved by an active set. Rows are scaled to
    unit length first, so neither the scale of the whole nor that of a row matters. Of rows that depend on
    one another some optimal weights are returned; the combination itself is unique.

    Args:
        gramian: Inner products of the rows, symmetric positive semi-definite ``[T, T]``, finite, and
            without a zero row (with one, the optimum is zero).

    Returns:
        Weights ``[T]``, not negative, with sum 1.
    """
    lengths = np.sqrt(np.diagonal(gramian))
    cosines = gramian / np.outer(lengths, lengths)
    # The unknowns become y = x * lengths, so "sum of x" is y @ (1 / lengths), up to a common factor.
    shares = lengths.min() / lengths
    scaled = non_negative_minimum(cosines + np.outer(shares, shares), shares)
    weights = scaled * shares
    return np.asarray(weights / weights.sum())


def non_negative_minimum(matrix: Array, vector: Array) -> Array:
    """``argmin_{y >= 0} y^T M y / 2 - b^T y``, by the active set method of Lawson and Hanson.

    Args:
        matrix: M, symmetric positive semi-definite ``[T, T]``, with a diagonal of order one.
        vector: b, in the range of M, with entries of order one at most.

    Source:
        Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23.
    """
    size = len(vector)
    rounding = 8 * size * np.finfo(np.float64).eps
    point, value = np.zeros(size), 0.0
    refused = np.zeros(size, dtype=bool)
    while True:
        slope = vector - matrix @ point
        # What rounding alone can make of a slope that is zero.
        noise = rounding * (np.abs(vector) + np.abs(matrix) @ point)
        candidates = (point == 0) & ~refused & (slope > noise)
        if not candidates.any():
            return point
        enters = int(np.argmax(np.where(candidates, slope / np.sqrt(np.diagonal(matrix)), -np.inf)))
        found = _minimum_from(matrix, vector, point, enters)
        reached = float(found @ (matrix @ found) / 2 - vector @ found)
        if reached < value:
            point, value = found, reached
            refused[:] = False
        else:
            # The slope was rounding after all. As the value falls at every other turn, this ends.
            refused[enters] = True


def _minimum_from(matrix: Array, vector: Array, point: Array, enters: int) -> Array:
    """The minimum over the positive variables and one more, less those that would turn negative."""
    free = point > 0
    free[enters] = True
    target = _minimum_on(matrix, vector, free)
    while (target[free] <= 0).any():
        # Go as far towards the target as the first variable that would turn negative allows.
        blocking = free & (target <= 0)
        ratios = np.full(len(point), np.inf)
        ratios[blocking] = 0.0
        np.divide(point, point - target, out=ratios, where=blocking & (point > target))
        first = int(np.argmin(ratios))
        point = point + ratios[first] * (target - point)
        free[first] = False
        point[~free] = 0.0
        target = _minimum_on(matrix, vector, free)
    return target


def _minimum_on(matrix: Array, vector: Array, free: NDArray[np.bool_]) -> Array:
    """The unconstrained minimum over the free variables; the others are zero."""
    point = np.zeros(len(vector))
    if free.any():
        point[free] = np.linalg.lstsq(matrix[np.ix_(free, free)], vector[free], rcond=None)[0]
    return point
