"""Intersection over union and pixel accuracy from one confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from plait.data.labels import UNKNOWN_CLASS
from plait.errors import ConfigurationError, DataError
from plait.metrics.counts import floats

AbsentClasses = Literal["skip", "zero", "present"]
EmptyRule = bool | Literal["single_value"]


class MeanIoU(Metric):
    """Mean intersection over union and pixel accuracy, in [0, 1], over all known pixels of a split.

    The intersection over union of class c is TP / (TP + FP + FN), counted over the whole split. Computes
    ``{"miou", "pixel_accuracy"}``; each is NaN if no pixel was known. A prediction outside the classes is a
    miss and no class's false positive; so is one whose largest logit or probability is not finite.

    Args:
        classes: Number of classes.
        absent: What a class without pixels does to the mean. ``"skip"``: a class in neither target nor
            prediction is left out, one that is only predicted counts 0. ``"zero"``: every class of the list
            stays in the mean, a class in neither counts 0 (the survey's, ASTMT's and InvPT's evaluators).
            ``"present"``: only classes that occur in the target are averaged. The three agree where every
            class occurs, as in the full validation splits of the public data sets.
        skip_empty: Whether images whose target shows no class but 0 are left out: the human parts rule, where
            such an image holds no annotated person. ``"single_value"``: as the survey's and ASTMT's folder
            evaluators decide it, an image is left out if its target is 0 everywhere or 255 everywhere; one
            that holds 0 and 255 but no part counts as background.
        ignore: Class ids of the target that count as unknown, beside 255.

    Source:
        Vandenhende et al., Multi-Task Learning for Dense Prediction Tasks: A Survey, TPAMI 2021, and its
        code.
    """

    full_state_update = False
    higher_is_better = True
    additive = True
    confusion: Tensor

    def __init__(
        self,
        classes: int,
        *,
        absent: AbsentClasses = "skip",
        skip_empty: EmptyRule = False,
        ignore: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if skip_empty not in (True, False, "single_value"):
            raise ConfigurationError(f"skip_empty is true, false or 'single_value'; got {skip_empty!r}")
        if absent not in get_args(AbsentClasses):
            raise ConfigurationError(
                f"absent must be one of {', '.join(get_args(AbsentClasses))}; got {absent!r}"
            )
        self.classes = classes
        self.absent = absent
        self.skip_empty = skip_empty
        self.ignore = tuple(ignore)
        # Rows are targets; the last column collects predictions outside the classes.
        self.add_state("confusion", torch.zeros(classes, classes + 1, dtype=torch.int64), "sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Counts a batch.

        Args:
            prediction: Logits or probabilities ``[B, K, H, W]``, or integer class ids ``[B, 1, H, W]`` or
                ``[B, H, W]``.
            target: Integer class ids ``[B, 1, H, W]`` or ``[B, H, W]``, 255 where unknown.

        Raises:
            DataError: If a known target is not one of the classes.
        """
        target = _ids(target).long()
        ids = _ids(likeliest(prediction) if prediction.is_floating_point() else prediction).long()
        if ids.shape != target.shape:
            raise ValueError(
                f"expected predictions of the targets' shape {list(target.shape)}, got {list(ids.shape)}"
            )
        known = target != UNKNOWN_CLASS
        if self.skip_empty == "single_value":  # one of 255 alone has nothing known in any case
            known &= (target != 0).flatten(1).any(1)[:, None, None]
        for number in self.ignore:
            known &= target != number
        if self.skip_empty is True:
            known &= (known & (target != 0)).flatten(1).any(1)[:, None, None]
        target, ids = target[known], ids[known]
        if len(target) and not (int(target.min()) >= 0 and int(target.max()) < self.classes):
            raise DataError(
                f"expected class ids from 0 to {self.classes - 1} or {UNKNOWN_CLASS} for unknown, "
                f"got ids from {int(target.min())} to {int(target.max())}"
            )
        ids = ids.where((ids >= 0) & (ids < self.classes), self.classes)
        pairs = (self.classes + 1) * target + ids
        self.confusion += pairs.bincount(minlength=self.confusion.numel()).view_as(self.confusion)

    def per_class(self) -> Tensor:
        """Intersection over union of each class: float64 ``[classes]``, NaN where the union is empty."""
        hits, actual, predicted = self.statistics().chunk(3)
        return hits / (actual + predicted - hits)

    def statistics(self) -> Tensor:
        """Hits, true pixels and predicted pixels of each class: float64 ``[3 classes]``."""
        confusion = self.confusion.double()
        return torch.cat([confusion.diagonal(), confusion.sum(1), confusion.sum(0)[:-1]])

    def measures_of(self, statistics: Tensor) -> dict[str, Tensor]:
        """The measures for sums over images ``[..., 3 classes]``."""
        hits, actual, predicted = statistics.chunk(3, -1)
        union, seen = actual + predicted - hits, actual.sum(-1)
        averaged = actual > 0 if self.absent == "present" else union > 0
        iou = (hits / union).where(averaged, 0.0)
        count = torch.full_like(seen, self.classes) if self.absent == "zero" else averaged.sum(-1)
        miou = (iou.sum(-1) / count).where(seen > 0, torch.nan)
        return {"miou": miou, "pixel_accuracy": hits.sum(-1) / seen}

    def compute(self) -> dict[str, float]:
        iou, pixels = self.per_class(), self.confusion.sum(1)
        if self.absent == "zero":
            iou = iou.nan_to_num(0.0)
        averaged = pixels > 0 if self.absent == "present" else ~iou.isnan()
        seen = pixels.sum()
        accuracy = self.confusion.diagonal().sum().double() / seen
        miou = iou[averaged].mean().where(seen > 0, torch.nan)
        return floats(miou=miou, pixel_accuracy=accuracy)


def likeliest(scores: Tensor) -> Tensor:
    """The class of the largest logit or probability ``[B, K, H, W]``, 255 if that is not finite.

    Returns:
        Class ids, int64 ``[B, 1, H, W]``.
    """
    return scores.argmax(1, keepdim=True).where(scores.amax(1, keepdim=True).isfinite(), UNKNOWN_CLASS)


def _ids(maps: Tensor) -> Tensor:
    """Class ids ``[B, H, W]`` from ``[B, 1, H, W]`` or ``[B, H, W]``; the batch axis always stays."""
    return maps.squeeze(1) if maps.ndim == 4 else maps
