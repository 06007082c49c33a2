"""Counts of matched edge pixels in one image, at every threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plait.errors import ConfigurationError, DataError
from plait.metrics.boundary.labels import label_boundaries
from plait.metrics.boundary.matching import (
    Candidates,
    candidates,
    cheapest_matching,
    maximum_matching,
)
from plait.metrics.boundary.protocol import Protocol, ProtocolName, resolve, thresholds_passed
from plait.metrics.boundary.thinning import NestedMaps, thin


def match_counts(
    prediction: NDArray[np.generic],
    targets: NDArray[np.generic],
    protocol: ProtocolName | Protocol = "plain",
    *,
    max_distance: float = 0.0075,
    exact_objective: bool = False,
    outline: bool = False,
    nms: bool | None = None,
    thresholds: Sequence[float] | None = None,
) -> NDArray[np.int64]:
    """Counts of one image; the arguments are those of :class:`~plait.metrics.boundary.BoundaryF`.

    Args:
        prediction: Probabilities, or uint8, ``[H, W]``.
        targets: One map an annotator, ``[A, H, W]``: an edge from 0.5 on; unknown where any is not finite.
        protocol: Its name, or one of your own.
        max_distance: As a fraction of the diagonal.
        exact_objective: Match at the least cost instead of as many as possible.
        outline: See there.
        nms: See there.
        thresholds: See there.

    Returns:
        int64 ``[K, 4]``, a row a threshold: matched true pixels and true pixels, each summed over annotators;
        predicted pixels matched by any annotator, and predicted pixels.

    Raises:
        ConfigurationError: If an option cannot be.
        DataError: If the shapes do not fit, or the prediction is of whole numbers other than uint8.
    """
    rules = resolve(protocol, outline=outline, nms=nms, thresholds=thresholds)
    check_distance(max_distance)
    if prediction.ndim != 2 or targets.ndim != 3 or prediction.shape != targets.shape[1:]:
        raise DataError(
            f"expected a prediction [H, W] and targets [A, H, W] of the same size, "
            f"got {list(prediction.shape)} and {list(targets.shape)}"
        )
    if prediction.dtype != np.uint8 and prediction.dtype.kind != "f":
        raise DataError(
            f"expected a prediction of probabilities, in floating point or uint8, got {prediction.dtype}"
        )
    known = np.isfinite(targets).all(0)
    true = [true_pixels(target, known, rules) for target in targets]
    passed = thresholds_passed(prediction, rules)
    level_of = distinct_levels(passed, len(rules.thresholds))
    maps = NestedMaps(passed)
    pixels = maps.thinned if rules.thin_prediction else maps.whole
    predicted = {level: kept(pixels(level), known) for level in set(level_of)}
    rows_of, union = rows_in_union(predicted, known.size)
    counts: dict[int, NDArray[np.int64]] = {}
    graphs = [candidates(union, each, (passed.shape[0], passed.shape[1]), max_distance) for each in true]
    for level, rows in rows_of.items():
        matched = [partners(graph, rows, exact_objective, len(true)) >= 0 for graph in graphs]
        counts[level] = np.array(
            [
                sum(int(each.sum()) for each in matched),
                sum(len(pixels) for pixels in true),
                np.any(matched, axis=0).sum() if matched else 0,
                len(rows),
            ]
        )
    return np.stack([counts[level] for level in level_of])


def check_distance(max_distance: float) -> None:
    """Raises :class:`ConfigurationError` unless the distance is a fraction of the diagonal."""
    if not isinstance(max_distance, int | float) or not 0 < max_distance <= 1:
        raise ConfigurationError(
            f"max_distance is a fraction of the image's diagonal, larger than 0 and at most 1, "
            f"got {max_distance!r}"
        )


def true_pixels(target: NDArray[np.generic], known: NDArray[np.bool_], rules: Protocol) -> NDArray[np.int64]:
    """The edge pixels of one annotator's map ``[H, W]``, as places in the flattened image."""
    edges = np.nan_to_num(target) >= 0.5
    if rules.outline:
        edges = label_boundaries(edges)
    elif rules.thin_target:
        edges = thin(edges)
    return np.flatnonzero(edges & known)


def distinct_levels(passed: NDArray[np.int64], thresholds: int) -> list[int]:
    """For each threshold the lowest level whose binary map is the same."""
    present = np.bincount(passed.ravel(), minlength=thresholds + 1) > 0
    present[0] = True
    levels: list[int] = np.maximum.accumulate(np.where(present, np.arange(len(present)), 0)).tolist()
    return levels[:thresholds]


def kept(pixels: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The pixels that are known."""
    return pixels[known.ravel()[pixels]]


def rows_in_union(
    predicted: dict[int, NDArray[np.int64]], size: int
) -> tuple[dict[int, NDArray[np.int64]], NDArray[np.int64]]:
    """The pixels of all levels, and those of each level as places among them; all ascending."""
    anywhere = np.zeros(size, dtype=bool)
    for pixels in predicted.values():
        anywhere[pixels] = True
    union = np.flatnonzero(anywhere)
    row_of = np.cumsum(anywhere) - 1
    return {level: row_of[pixels] for level, pixels in predicted.items()}, union


def partners(
    graph: Candidates, rows: NDArray[np.int64], exact_objective: bool, annotators: int
) -> NDArray[np.int32]:
    """The true pixel of each row, or -1."""
    if exact_objective:
        # With several annotators it also matters which predicted pixels are matched.
        return cheapest_matching(graph, rows, only_number=annotators == 1)
    return maximum_matching(graph, rows)
