"""From counts of matched pixels to ODS, OIS and AP.

Counts have a last axis of four: matched true pixels, true pixels, matched predicted pixels, predicted
pixels. True pixels are summed over annotators; a predicted pixel is matched if any annotator has it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Values = NDArray[np.float64]


def precision_recall(counts: Counts, *, interpolate: bool) -> tuple[Values, Values]:
    """Precision and recall, each in [0, 1].

    Where nothing is matched they are 0, with two exceptions under seism's rules (not with ``interpolate``,
    pdollar's): without true pixels recall is 1; otherwise without predicted pixels precision is 1.

    Args:
        counts: ``[..., 4]``.
        interpolate: Which rules; see :class:`~plait.metrics.boundary.protocol.Protocol`.

    Returns:
        Two maps ``[...]``.
    """
    matched_true, true, matched, predicted = np.moveaxis(counts, -1, 0)
    precision = matched / np.maximum(predicted, 1)
    recall = matched_true / np.maximum(true, 1)
    if interpolate:
        return precision, recall
    precision = np.where((predicted == 0) & (true > 0), 1.0, precision)
    return precision, np.where(true == 0, 1.0, recall)


def f_measure(precision: Values, recall: Values) -> Values:
    """The harmonic mean of precision and recall, 0 where both are."""
    total = precision + recall
    return 2 * precision * recall / np.where(total > 0, total, 1)


def best_of_image(counts: Counts, *, interpolate: bool) -> Counts:
    """The counts ``[4]`` of one image at its first threshold with the highest F, from ``[K, 4]``."""
    best: Counts = counts[f_measure(*precision_recall(counts, interpolate=interpolate)).argmax()]
    return best


def ods(counts: Counts, *, interpolate: bool) -> float:
    """F at the best threshold of the whole set ("optimal data-set scale"), in [0, 1].

    Args:
        counts: Sums over images at each threshold, ``[K, 4]``.
        interpolate: Precision and recall are also interpolated between neighbouring thresholds, at 100
            points.
    """
    precision, recall = precision_recall(counts, interpolate=interpolate)
    if interpolate and len(counts) > 1:
        along = np.linspace(0, 1, 100)[:, None]
        precision = precision[1:] * along + precision[:-1] * (1 - along)
        recall = recall[1:] * along + recall[:-1] * (1 - along)
    return float(f_measure(precision, recall).max())


def ois(counts: Counts, *, interpolate: bool) -> float:
    """F of the sum of :func:`best_of_image` over images ("optimal image scale"), in [0, 1].

    Args:
        counts: That sum, ``[4]``; not a mean of F over images.
        interpolate: See :func:`precision_recall`.
    """
    return float(f_measure(*precision_recall(counts, interpolate=interpolate)))


def average_precision(counts: Counts, *, interpolate: bool) -> float:
    """Precision interpolated at the recalls 0, 0.01, ..., 1, zero outside those observed; sum / 100.

    Of thresholds with one recall the lowest counts. With fewer than two recalls it is 0. A hundred and one
    values divided by 100 can exceed 1 by a hundredth, in which case it is 1.

    Args:
        counts: Sums over images at each threshold, ``[K, 4]``.
        interpolate: See :func:`precision_recall`.

    Source:
        seism and pdollar's edge toolbox under current MATLAB, whose ``unique`` keeps the first.
    """
    precision, recall = precision_recall(counts, interpolate=interpolate)
    recall, first = np.unique(recall, return_index=True)
    if len(recall) < 2:
        return 0.0
    grid = np.arange(101) / 100  # each as a share of counts is rounded: 0.57 is 57 / 100
    return min(1.0, float(np.interp(grid, recall, precision[first], left=0, right=0).sum() / 100))
