"""How alike tasks are: by what their networks see in images, and by which images they find hard.

Everything here is a pure function of arrays; :mod:`plait.study.branching.networks` takes them from runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.errors import ConfigurationError

Array = NDArray[np.float64]

FEWEST_IMAGES = 3
"""Images below which there is no rank correlation: two have one distance between them."""
COLUMNS = 2**16
"""Columns of which products are summed at a time, in float64."""


def standardised(rows: Tensor) -> Tensor:
    """Rows ``[K, N]`` with mean zero and length one; a row that is constant becomes zero.

    The product of two such rows is their Pearson correlation. The result is in the rows' own type.
    """
    centred = rows - rows.mean(1, keepdim=True, dtype=torch.float64).to(rows.dtype)
    length = torch.linalg.vector_norm(centred, dim=1, keepdim=True, dtype=torch.float64)
    return centred * torch.where(length > 0, 1 / length, 0.0).to(rows.dtype)


def products(one: Tensor, other: Tensor) -> Tensor:
    """Inner products of rows ``[K, N]`` and ``[L, N]``: float64 ``[K, L]``, summed in blocks of columns."""
    total = one.new_zeros(len(one), len(other), dtype=torch.float64)
    for left, right in zip(torch.split(one, COLUMNS, 1), torch.split(other, COLUMNS, 1), strict=True):
        total += left.double() @ right.double().T
    return total


def dissimilarity(features: Tensor) -> Tensor:
    """The representation dissimilarity matrix: 1 minus the Pearson correlation of each two images' features.

    Args:
        features: ``[K, ...]``, of K images.

    Returns:
        float64 ``[K, K]``, symmetric, in [0, 2], zero on the diagonal. An image whose features are constant
        correlates with no other.
    """
    rows = standardised(features.flatten(1))
    found = (1 - products(rows, rows)).clamp(0, 2)
    return found.fill_diagonal_(0)


def ranks(values: Array) -> Array:
    """The place of each value in its row in rising order, from 1; equal values share the mean of theirs.

    >>> ranks(np.array([[30.0, 10.0, 20.0, 10.0]])).tolist()
    [[4.0, 1.5, 3.0, 1.5]]

    Args:
        values: ``[T, P]``.
    """
    placed = np.empty_like(values)
    for row, numbers in zip(placed, values, strict=True):
        _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        row[:] = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return placed


def spearman(rows: Array, names: Sequence[str] | None = None) -> Array:
    """Spearman's rank correlation of each two rows ``[T, P]``: ``[T, T]``, symmetric, ones on the diagonal.

    Raises:
        ConfigurationError: If a row has one value throughout, for which there is no correlation.
    """
    placed = ranks(rows)
    placed -= placed.mean(1, keepdims=True)
    length = np.linalg.norm(placed, axis=1, keepdims=True)
    if (length == 0).any():
        which = named(names, int(np.argmin(length)))
        raise ConfigurationError(
            f"expected images that differ, but to the network of {which} every two "
            f"are equally dissimilar, so there is no rank correlation: look whether it has learned anything"
        )
    placed /= length
    found = np.clip(placed @ placed.T, -1, 1)
    found = (found + found.T) / 2
    np.fill_diagonal(found, 1)
    return found


def named(names: Sequence[str] | None, place: int) -> str:
    """A task's name for a message, or its place if none was given."""
    return f"task {place} (counted from 0)" if names is None else names[place]


def representation_affinity(
    dissimilarities: Sequence[Sequence[Any]] | Array, names: Sequence[str] | None = None
) -> Array:
    """How alike two tasks' networks order pairs of images by dissimilarity, at each location.

    Args:
        dissimilarities: ``[D, T, K, K]``: of D locations and T tasks, by :func:`dissimilarity`.
        names: Of the tasks, for messages.

    Returns:
        ``[D, T, T]`` in [-1, 1], symmetric, ones on the diagonal.

    Raises:
        ConfigurationError: If there are fewer than three images, or in one network all are equally alike.

    Source:
        Vandenhende et al., Branched Multi-Task Networks: Deciding What Layers To Share, BMVC 2020, section
        3.1: Spearman's correlation of the matrices' upper triangles, without the diagonal. Values are ranked
        (ties share their mean rank), where a public copy correlates the values themselves.
    """
    given = np.asarray(dissimilarities, dtype=np.float64)
    images = given.shape[-1]
    if images < FEWEST_IMAGES:
        raise ConfigurationError(
            f"representation affinity compares pairs of images and needs at least {FEWEST_IMAGES} of them, "
            f"got {images}: use more images"
        )
    upper = np.triu_indices(images, 1)
    return np.stack([spearman(location[:, upper[0], upper[1]], names) for location in given])


def error_affinity(margins: Array, names: Sequence[str] | None = None) -> Array:
    """How often two tasks find the same images hard, or the same ones easy.

    Args:
        margins: ``[N, T]``: the error of each task on each sample; ``nan`` where it has no label.
        names: Of the tasks, for messages.

    Returns:
        ``[T, T]`` in [0, 1], symmetric, ones on the diagonal: the mean over the samples that have both
        labels of ``e_i e_j + (1 - e_i)(1 - e_j)``, where a sample is hard (e = 1) if its error is at least
        the task's mean.

    Raises:
        ConfigurationError: If two tasks have no sample in common.

    Source:
        Lu et al., Fully-Adaptive Feature Sharing in Multi-Task Networks, CVPR 2017, section 3.3.
    """
    known = ~np.isnan(margins)
    errors = np.where(known, margins, 0)
    mean = errors.sum(0) / np.maximum(known.sum(0), 1)
    sign = np.where(known, np.where(errors >= mean, 1.0, -1.0), 0.0)
    both = known.T.astype(np.float64) @ known
    if (both == 0).any():
        one, other = (int(place) for place in np.argwhere(both == 0)[0])
        raise ConfigurationError(
            f"expected samples that are labelled for {named(names, one)} and for {named(names, other)}, "
            f"found none in common: use more images, or data that are labelled for both"
        )
    # The product of two signs is 1 where both agree and -1 where not.
    affinity: Array = (1 + sign.T @ sign / both) / 2
    return affinity
