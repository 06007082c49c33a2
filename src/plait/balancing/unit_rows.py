"""Per-task gradients at unit length, as far as inner products tell: coordinates and rank."""

from __future__ import annotations

import numpy as np

from plait.balancing.solvers import Array

DEPENDENT = 1e-6
"""Singular values of the unit rows below this part of the largest count as zero.

Float32 gradients are not known better, and neither are inner products: a singular value s shows in them
as s^2, and 1e-12 is where rounding begins to blur it."""


def unit_coordinates(gramian: Array) -> tuple[Array, Array]:
    """The rows of J without dimensions that none of them uses: ``J = diag(n) F B``, ``B B^T = 1``.

    Lengths are kept apart, so that short rows are known as well as long ones.

    Args:
        gramian: ``J J^T``, ``[T, T]``, finite, and without a zero row.

    Returns:
        Lengths n ``[T]`` and coordinates F ``[T, R]`` of the unit rows, where R is the rank of J.
    """
    lengths = np.sqrt(np.diagonal(gramian))
    values, vectors = np.linalg.eigh(gramian / lengths / lengths[:, None])
    kept = values > DEPENDENT**2 * values[-1]
    return lengths, vectors[:, kept] * np.sqrt(values[kept])


def even_combination(units: Array, targets: Array) -> tuple[Array, Array]:
    """The shortest v with ``<v, u_i> = t_i`` for every unit row: ``v = U^+ t``.

    Where the rows depend on one another and no such v exists, the one with the least sum of squared
        errors.

    Args:
        units: Coordinates F of the unit rows, ``[T, R]``, of rank R.
        targets: t ``[T]``.

    Returns:
        Factors x ``[T]`` with ``v = sum_i x_i u_i`` (of all such factors the shortest), and the
        coordinates of v, ``[R]``. Both are zero if no vector does better than none, as with t = 1 and
        two opposite rows.
    """
    inverse = np.linalg.pinv(units)
    vector = inverse @ targets
    if np.linalg.norm(units @ vector) <= DEPENDENT * np.linalg.norm(targets):
        return np.zeros(len(targets)), np.zeros_like(vector)
    return inverse.T @ vector, vector
