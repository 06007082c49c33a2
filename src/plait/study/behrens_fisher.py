"""A mean with two variances, each estimated: the Behrens-Fisher problem.

Welch's and Satterthwaite's approximation takes one t distribution for both. Where one variance has few
degrees of freedom its tails are too short, and p-values that are corrected for many comparisons lie there.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Values = NDArray[np.float64]

LEVEL = 0.05
"""What is called significant, and what intervals leave out."""


def tail(distance: Values, first: Values, second: Values, df: tuple[float, float]) -> Values:
    """P(|a T + b U| >= d) for independent T and U of Student's t distributions: the Behrens-Fisher problem.

    Args:
        distance: d, zero or more.
        first: a, the standard error by the first estimate, zero or more; not both zero.
        second: b, likewise.
        df: The degrees of freedom of T and of U.

    Returns:
        Of the arguments' shape, within a twentieth of itself. NaN where an argument is.

    Source:
        Behrens 1929; Fisher, The Fiducial Argument in Statistical Inference, Annals of Eugenics 1935.
    """
    distance, first, second = np.broadcast_arrays(distance, first, second)
    result = np.full(distance.shape, np.nan)
    known = np.isfinite(distance) & np.isfinite(first) & np.isfinite(second)
    # The smaller part is integrated over, so that the integrand is smooth.
    for swapped in (False, True):
        here = known & ((first < second) if swapped else (first >= second))
        large, small = (second, first) if swapped else (first, second)
        df_large, df_small = df[::-1] if swapped else df
        nodes, weights = nodes_of(df_small)
        inside = (distance[here, None] - small[here, None] * nodes) / large[here, None]
        grid, logarithms = beyond(df_large)
        result[here] = 2 * (np.exp(np.interp(np.arcsinh(inside), grid, logarithms)) @ weights)
    return result


@lru_cache(maxsize=64)
def beyond(df: float) -> tuple[Values, Values]:
    """A table of log P(T > sinh x) for Student's t distribution: places x, and the logarithms."""
    grid = np.linspace(-18, 18, 8001)
    return grid, np.log(np.maximum(special.stdtr(df, -np.sinh(grid)), 1e-300))


@lru_cache(maxsize=64)
def nodes_of(df: float, count: int = 161) -> tuple[Values, Values]:
    """Places and weights for a mean over Student's t distribution, far into its tails."""
    end = np.arcsinh(stats.t.isf(1e-9, max(df, 1.0)))
    along = np.linspace(-end, end, count)
    places = np.sinh(along)
    weights = stats.t.pdf(places, df) * np.cosh(along)
    return places, weights / weights.sum()


@lru_cache(maxsize=64)
def quantiles(df: tuple[float, float], level: float = LEVEL) -> tuple[Values, Values]:
    """For a standard error of 1 the distance d at which :func:`tail` is ``level``.

    Returns:
        Angles from 0 (all of it is the first part's) to pi / 2, and a distance for each.
    """
    angles = np.linspace(0, np.pi / 2, 65)
    low, high = np.zeros_like(angles), np.full_like(angles, 2 * stats.t.isf(level / 4, min(df)))
    for _ in range(40):
        middle = (low + high) / 2
        rare = tail(middle, np.cos(angles), np.sin(angles), df) < level
        low, high = np.where(rare, low, middle), np.where(rare, middle, high)
    return angles, high


def half_width(first: Values, second: Values, df: tuple[float, float]) -> Values:
    """Half of the 95 % interval around a mean with such standard errors, as in :func:`tail`."""
    angles, distances = quantiles(df)
    width: Values = np.hypot(first, second) * np.interp(np.arctan2(second, first), angles, distances)
    return width
