"""Boundaries of label maps, for evaluation and for training.

The two rules are those of the literature and differ: evaluation marks one side of a boundary, training
marks both sides and thins them to one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plait.metrics.boundary.thinning import thin


def label_boundaries(labels: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Where one region of a label map meets another, one pixel wide: the evaluation rule.

    A pixel is marked if it differs from its right, lower or lower-right neighbour; then the marks are
    thinned. So the boundary lies half a pixel up and to the left of the true one. Regions are 4-connected,
    which changes nothing: two pixels of one label that only meet diagonally are marked through the neighbour
    they share.

    Args:
        labels: ``[H, W]``, any integers or bool.

    Returns:
        bool ``[H, W]``.

    Source:
        seism (Pont-Tuset and Marques, 2016), whose rule the survey's PASCAL-Context figures follow.
    """
    boundary = np.zeros(labels.shape, dtype=bool)
    boundary[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    boundary[:-1] |= labels[:-1] != labels[1:]
    boundary[:-1, :-1] |= labels[:-1, :-1] != labels[1:, 1:]
    return thin(boundary)


def laplacian_boundaries(labels: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Where the Laplacian of a label map is not zero, thinned: the rule of training labels.

    The Laplacian is that of the four neighbours, mirrored at the border without repeating it. A pixel
    is missed where the differences of its neighbours' ids happen to cancel.

    Args:
        labels: ``[H, W]``, any integers or bool.

    Returns:
        bool ``[H, W]``.

    Source:
        The PASCAL-Context loader of ASTMT and of the survey.
    """
    around = np.pad(labels.astype(np.int64), 1, mode="reflect")
    neighbours = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
    return thin(neighbours != 4 * around[1:-1, 1:-1])
