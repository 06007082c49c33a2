"""How far numbers of few seeds and many images can be trusted: pure functions of arrays.

A score of an arm varies with the seed of its training, with the images of the test split, and with how a
seed happens to do on an image. Seeds are few and their variance is estimated from repetitions; images are
many, and theirs from resampling them (the bootstrap).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from plait.study.behrens_fisher import LEVEL, Values, half_width, tail

Flags = NDArray[np.bool_]

ROUNDING = 1e-12
"""A difference or standard error smaller than this part of the scores is rounding, and taken as zero."""


def image_weights(images: int, replicates: int = 1000, seed: int = 0) -> Values:
    """How often each image counts in each replicate of a split: float64 ``[R, N]``, rows sum to N.

    A replicate draws N - 1 of N images with replacement and scales them to N, so that the variance of a mean
    over replicates is the unbiased one.

    Args:
        images: N, two or more.
        replicates: R.
        seed: Of the draws; one seed means one set of replicates for all arms, which makes them paired.

    Source:
        Efron, Bootstrap Methods, Annals of Statistics 1979; Rao and Wu, Resampling Inference with Complex
        Survey Data, JASA 1988, for the rescaling.
    """
    draws = np.random.default_rng(seed).multinomial(images - 1, np.full(images, 1 / images), size=replicates)
    weights: Values = draws * np.float64(images / (images - 1))
    return weights


@dataclass(frozen=True)
class Parts:
    """A mean over seeds and what it varies by; each of one shape.

    Attributes:
        mean: Over seeds.
        count: How many seeds.
        seeds: Variance of the mean that shows between seeds, of which the interaction of seeds and images is
            a part; NaN for fewer than two seeds.
        images: Variance that images add to it, zero or more; None where images cannot be resampled.
    """

    mean: Values
    count: Values
    seeds: Values
    images: Values | None


def parts(values: Values, replicates: Values | None = None, seen: Flags | None = None) -> Parts:
    """Splits the variance of a mean over seeds into a part of the seeds and a part of the images.

    With effects a of seeds, b of images and c of their interaction, the variance of the mean over S seeds
    and N images is var(a) / S + var(b) / N + var(c) / SN. The sample variance between seeds holds the first
    and the last; the bootstrap variance of the mean over seeds the second and the last. The last is
    estimated from how seeds vary apart over replicates, and taken from the images' part, where it would
    count twice. What is left is zero if that makes it negative.

    Args:
        values: A score a seed, ``[..., S]``.
        replicates: The scores on resampled images, the same for all seeds, ``[..., S, R]``; None without.
        seen: Which seeds there are, ``[..., S]``; None for all.
    """
    seen = np.ones(values.shape, dtype=bool) if seen is None else seen
    count = seen.sum(-1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = seen / count[..., None]
        mean = np.where(count > 0, np.where(seen, values, 0.0).sum(-1) / count, np.nan)
        apart = np.where(seen, values - mean[..., None], 0.0)
        seeds = np.where(count > 1, (apart**2).sum(-1) / (count - 1) / count, np.nan)
        if replicates is None:
            return Parts(mean, count, seeds, None)
        shared = np.where(seen[..., None], replicates * weights[..., None], 0.0).sum(-2)
        own = np.where(seen[..., None], replicates - shared[..., None, :], 0.0).var(-1, ddof=1).sum(-1)
        interaction = np.where(count > 1, own / (count - 1) / count, 0.0)
        images = np.maximum(shared.var(-1, ddof=1) - interaction, 0.0)
    return Parts(mean, count, seeds, np.where(count > 0, images, np.nan))


def interval(found: Parts, images: int) -> Values:
    """Half of the 95 % interval around a mean over seeds; NaN where nothing can be said.

    Args:
        found: The mean's parts, all of one number of seeds.
        images: How many images have a label.
    """
    count = int(found.count.max(initial=0))
    by_images = None if found.images is None or images < 2 else np.sqrt(found.images)
    width = np.full(found.mean.shape, np.nan)
    if count >= 2 and by_images is not None:
        return half_width(np.sqrt(found.seeds), by_images, (count - 1.0, images - 1.0))
    if count >= 2:
        width = np.sqrt(found.seeds) * stats.t.isf(LEVEL / 2, count - 1)
    elif by_images is not None:
        width = by_images * stats.t.isf(LEVEL / 2, images - 1)
    return width


# --- arms held against each other -----------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Every pair of arms once, first minus second; each array is ``[pairs]``.

    Attributes:
        first: Places of arms.
        second: Later places.
        difference: Mean over the seeds that both have; NaN without one.
        half: Half of the 95 % interval; NaN with fewer than two common seeds.
        p: Of no difference, two-sided; NaN where it cannot be tested.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    difference: Values
    half: Values
    p: Values


def paired(values: Values, replicates: Values | None, seen: Flags, images: int) -> Pairs:
    """Tests all pairs of arms on the same seeds and images.

    The seeds' part of a difference is estimated from few seeds. So it is also averaged over all pairs, which
    gives it more degrees of freedom, and the larger of the two counts: of arms that vary alike nearly
    always that average, of an arm that varies more its own.

    Where the standard error is zero (or rounding), no difference has a p of 1, and any other none: NaN.

    Args:
        values: A score an arm and seed, ``[K, S]``.
        replicates: The scores on resampled images, ``[K, S, R]``; None where there are none.
        seen: Which seeds an arm has, ``[K, S]``.
        images: How many images have a label.
    """
    arms = len(values)
    first, second = np.triu_indices(arms, 1)
    rows = []
    for place in range(arms - 1):
        after = slice(place + 1, None)
        apart = None if replicates is None else replicates[place] - replicates[after]
        rows.append(parts(values[place] - values[after], apart, seen[place] & seen[after]))
    mean, count, seeds = (
        np.concatenate([getattr(row, name) for row in rows]) for name in ("mean", "count", "seeds")
    )
    shared = None
    if replicates is not None and images >= 2:
        shared = np.concatenate([row.images for row in rows if row.images is not None])
    single = seeds * count
    usable = np.isfinite(single)
    free = np.where(usable, count - 1, 0.0)
    if not usable.any():
        nothing = np.full(mean.shape, np.nan)
        return Pairs(first, second, mean, nothing, nothing)
    involved = len(np.unique(np.concatenate([first[usable], second[usable]])))
    df = 2 * free.sum() / involved
    pooled = (free * np.where(usable, single, 0.0)).sum() / free.sum()
    own = np.sqrt(np.maximum(single, pooled) / np.where(usable, count, np.nan))
    other = np.zeros_like(own) if shared is None else np.sqrt(shared)
    both = (float(df), float(max(images - 1, 1)))
    largest = np.where(seen, np.abs(values), 0.0).max(-1)
    scale = ROUNDING * np.maximum(largest[first], largest[second])
    with np.errstate(invalid="ignore", divide="ignore"):
        p = tail(np.abs(mean), own, other, both)
        p = np.where(np.hypot(own, other) > scale, p, np.where(np.abs(mean) <= scale, 1.0, np.nan))
    p = np.where(np.isfinite(own) & np.isfinite(other), p, np.nan)
    return Pairs(first, second, mean, half_width(own, other, both), p)


def holm(p: Values) -> Values:
    """p-values corrected for being several: the chance of any false alarm stays below the level.

    Args:
        p: ``[m]``; NaN was not tested, does not count, and stays NaN.

    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])

    Source:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics
        1979.
    """
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = (len(order) - np.arange(len(order))) * p[order]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
