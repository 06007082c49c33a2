"""The best constant prediction from the training labels alone: the baseline of every table.

Each function takes labels ``[C, H, W]`` one after the other and returns the decoded pixel ``[C]``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from plait.errors import DataError
from plait.tasks.loss import known_depth, known_inverse_depth, without


def majority_class(labels: Iterable[Tensor], *, classes: int, ignore: tuple[int, ...] = ()) -> Tensor:
    """The class with most pixels, int64 ``[1]``; the lower id if two have equally many."""
    pixels = torch.zeros(classes, dtype=torch.int64)
    for label in labels:
        known = without(label[None], ignore).flatten().cpu()
        pixels += known[(known >= 0) & (known < classes)].bincount(minlength=classes)
    _require_some(int(pixels.sum()))
    return pixels.argmax()[None]


def mean_depth(labels: Iterable[Tensor]) -> Tensor:
    """The mean over known pixels in metres, float32 ``[1]``: no constant has a smaller RMSE."""
    return _mean((label, known_depth(label)) for label in labels)


def mean_inverse_depth(labels: Iterable[Tensor]) -> Tensor:
    """The mean over known pixels in the data's unit, float32 ``[1]``: no constant has a smaller RMSE."""
    return _mean((label, known_inverse_depth(label)) for label in labels)


def mean_normal(labels: Iterable[Tensor]) -> Tensor:
    """The mean direction over known pixels, unit, float32 ``[3]``: no constant has a larger mean cosine."""
    mean = _mean((label, label.isfinite().all(0, keepdim=True)) for label in labels)
    length = torch.linalg.vector_norm(mean)
    # Normals that cancel have no mean direction; facing the camera is as good as any.
    return mean / length if length > 1e-6 else torch.tensor([0.0, 0.0, -1.0])


def base_rate(labels: Iterable[Tensor]) -> Tensor:
    """The share of positive pixels among known ones, float32 ``[1]``."""
    return _mean((label, label.isfinite()) for label in labels)


def _mean(labels: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean of maps ``[C, H, W]`` over their known pixels ``[1, H, W]``: float32 ``[C]``."""
    total, pixels = torch.zeros(1, dtype=torch.float64), 0
    for label, known in labels:
        total = total + label.where(known, 0).sum((1, 2), dtype=torch.float64).cpu()
        pixels += int(known.sum())
    _require_some(pixels)
    return (total / pixels).float()


def _require_some(pixels: int) -> None:
    if not pixels:
        raise DataError("expected labels with at least one known pixel for the constant baseline, got none")
