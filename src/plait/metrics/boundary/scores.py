"""From counts of matched pixels to ODS, OIS and AP.

Counts have a last axis of four: matched true pixels, true pixels, matched predicted pixels, predicted
pixels. True pixels are summed over annotators; a predicted pixel is matched if any annotator has it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Values = NDArray[np.float64]
Sums = Counts | Values
"""Counts of several images; in floating point where images are weighted."""


def precision_recall(counts: Sums, *, interpolate: bool) -> tuple[Values, Values]:
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
    precision = matched / np.where(predicted > 0, predicted, 1)
    recall = matched_true / np.where(true > 0, true, 1)
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


def ods(counts: Sums, *, interpolate: bool) -> Values:
    """F at the best threshold of the whole set ("optimal data-set scale"), in [0, 1]: ``[...]``.

    Args:
        counts: Sums over images at each threshold, ``[..., K, 4]``.
        interpolate: Precision and recall are also interpolated between neighbouring thresholds, at 100
            points.
    """
    precision, recall = precision_recall(counts, interpolate=interpolate)
    if interpolate and counts.shape[-2] > 1:
        along = np.linspace(0, 1, 100)[:, None]
        precision = precision[..., None, 1:] * along + precision[..., None, :-1] * (1 - along)
        recall = recall[..., None, 1:] * along + recall[..., None, :-1] * (1 - along)
    best: Values = f_measure(precision, recall).reshape(*counts.shape[:-2], -1).max(-1)
    return best


def ois(counts: Sums, *, interpolate: bool) -> Values:
    """F of the sum of :func:`best_of_image` over images ("optimal image scale"), in [0, 1]: ``[...]``.

    Args:
        counts: That sum, ``[..., 4]``; not a mean of F over images.
        interpolate: See :func:`precision_recall`.
    """
    return f_measure(*precision_recall(counts, interpolate=interpolate))


def average_precision(counts: Sums, *, interpolate: bool) -> Values:
    """Precision interpolated at the recalls 0, 0.01, ..., 1, zero outside those observed; their sum / 100.

    Of thresholds with one recall the lowest counts. With fewer than two recalls it is 0. A hundred and one
    values divided by 100 can exceed 1 by a hundredth, in which case it is 1.

    Args:
        counts: Sums over images at each threshold, ``[..., K, 4]``.
        interpolate: See :func:`precision_recall`.

    Returns:
        ``[...]``.

    Source:
        seism and pdollar's edge toolbox under current MATLAB, whose ``unique`` keeps the first.
    """
    precision, recall = precision_recall(counts, interpolate=interpolate)
    order = recall.argsort(-1, kind="stable")
    recall, precision = (np.take_along_axis(values, order, -1) for values in (recall, precision))
    repeated = np.diff(recall, axis=-1, prepend=-1) == 0
    first = np.maximum.accumulate(np.where(repeated, 0, np.arange(recall.shape[-1])), -1)
    precision = np.take_along_axis(precision, first, -1)
    grid = np.arange(101) / 100  # each as a share of counts is rounded: 0.57 is 57 / 100
    area = interpolated(grid, recall, precision).sum(-1) / 100
    return np.where(recall[..., 0] < recall[..., -1], np.minimum(area, 1.0), 0.0)


def interpolated(grid: Values, x: Values, y: Values) -> Values:
    """Straight lines through points, and zero outside them: ``[..., G]``.

    Args:
        grid: Where to look, ``[G]``.
        x: Ascending, ``[..., K]``; of equal ones the values must be equal.
        y: The values, ``[..., K]``.
    """
    everywhere = np.broadcast_to(grid, (*x.shape[:-1], len(grid)))
    after = torch.searchsorted(torch.from_numpy(x), torch.tensor(everywhere), right=True).numpy()
    left, right = np.maximum(after - 1, 0), np.minimum(after, x.shape[-1] - 1)
    x0, x1 = np.take_along_axis(x, left, -1), np.take_along_axis(x, right, -1)
    y0, y1 = np.take_along_axis(y, left, -1), np.take_along_axis(y, right, -1)
    slope = (y1 - y0) / np.where(x1 > x0, x1 - x0, 1.0)
    outside = (grid < x[..., :1]) | (grid > x[..., -1:])
    return np.where(outside, 0.0, slope * (grid - x0) + y0)
