"""What measures share: counting by thresholds, for probability maps, and gathering over processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors


def floats(**values: Tensor) -> dict[str, float]:
    """Scalars as a dictionary of Python floats."""
    return {name: value.item() for name, value in values.items()}


def stacked(*sums: Tensor) -> Tensor:
    """Scalars as a vector in float64."""
    return torch.stack([value.double() for value in sums])


def require_one_shape(prediction: Tensor, target: Tensor) -> None:
    """Raises ``ValueError`` if two maps differ in shape."""
    if prediction.shape != target.shape:
        raise ValueError(f"expected a prediction of shape {list(target.shape)}, got {list(prediction.shape)}")


def gather(values: Tensor, group: Any = None) -> list[Tensor]:
    """The values of every process, floats in float64.

    A process that saw no label has an empty list of values, which torchmetrics would send as float32.
    """
    return list(gather_all_tensors(values.double() if values.is_floating_point() else values, group))


def threshold_counts(
    passed: Tensor, positive: Tensor, known: Tensor, thresholds: int
) -> tuple[Tensor, Tensor]:
    """True positives and predicted positives at each threshold, for each image.

    Args:
        passed: How many of the ascending thresholds a pixel's prediction passes, int64 ``[B, N]``.
        positive: Whether the target is positive, bool ``[B, N]``.
        known: Which pixels count, bool ``[B, N]``.
        thresholds: Their number T.

    Returns:
        Two int64 maps ``[B, T]``.
    """
    images, bins = len(passed), thresholds + 1
    # One histogram over (image, target, thresholds passed); threshold t is passed by who passes more than t.
    cells = passed + bins * positive.long()
    cells = cells + 2 * bins * torch.arange(images, device=cells.device)[:, None]
    histogram = cells[known].bincount(minlength=images * 2 * bins).view(images, 2, bins)
    passing = histogram.flip(2).cumsum(2).flip(2)[:, :, 1:]
    return passing[:, 1], passing.sum(1)


def flat(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, whether the target is positive (from 0.5), and whether it is known: each ``[B, N]``."""
    require_one_shape(prediction, target)
    target = target.flatten(1)
    return prediction.flatten(1), target >= 0.5, target.isfinite()


def as_probability(prediction: Tensor) -> Tensor:
    """Probabilities in float32 at least; uint8 is divided by 255. What is not finite passes no threshold."""
    if prediction.dtype == torch.uint8:
        return prediction / 255
    probability = prediction if prediction.dtype == torch.float64 else prediction.float()
    return probability.where(probability.isfinite(), -torch.inf)


def eight_bit(prediction: Tensor) -> Tensor:
    """Probabilities times 255, truncated to uint8; uint8 stays as it is."""
    if prediction.dtype == torch.uint8:
        return prediction
    return (as_probability(prediction).clamp(0, 1) * 255).to(torch.uint8)


class PooledCounts(Metric):
    """State of the measures that pool counts over a split: hits and predicted positives at each threshold.

    Abstract: a measure adds ``update``, which calls :meth:`count`, and ``measures_of``, which calls
        :meth:`best_f`; ``compute`` gives its numbers.

    Args:
        thresholds: Ascending; a probability passes from the threshold on.
        views: How many probability maps of one target are counted apart.
    """

    full_state_update = False
    higher_is_better = True
    additive = True
    hits: Tensor
    predicted: Tensor
    actual: Tensor
    pixels: Tensor

    def __init__(self, thresholds: tuple[float, ...], views: int = 1) -> None:
        super().__init__()
        self.thresholds = thresholds
        for name in ("hits", "predicted"):
            self.add_state(name, torch.zeros(views, len(thresholds), dtype=torch.int64), "sum")
        self.add_state("actual", torch.tensor(0), "sum")
        self.add_state("pixels", torch.tensor(0), "sum")

    def count(self, target: Tensor, *probabilities: Tensor) -> None:
        """Adds images: targets ``[B, 1, H, W]``, NaN where unknown, and probabilities, one map a view."""
        for view, values in enumerate(probabilities):
            probability, positive, known = flat(values.contiguous(), target)
            passed = torch.bucketize(probability, probability.new_tensor(self.thresholds), right=True)
            hits, predicted = threshold_counts(passed, positive, known, len(self.thresholds))
            self.hits[view] += hits.sum(0)
            self.predicted[view] += predicted.sum(0)
        self.actual += (positive & known).sum()
        self.pixels += known.sum()

    def statistics(self) -> Tensor:
        """Hits and predicted positives of each view and threshold, positives and known pixels.

        Float64 ``[2 views thresholds + 2]``.
        """
        counts = (self.hits.flatten(), self.predicted.flatten(), self.actual[None], self.pixels[None])
        return torch.cat(counts).double()

    def best_f(self, statistics: Tensor, view: int = 0, *, beta_square: float) -> Tensor:
        """The largest F over thresholds, 0 where it is undefined; NaN if no pixel was known.

        Args:
            statistics: Sums over images ``[..., 2 views thresholds + 2]``.
            view: Which of the maps.
            beta_square: What F weighs recall with.

        Returns:
            ``[...]``.
        """
        parts = statistics[..., :-2].tensor_split(2 * len(self.hits), -1)
        hits, predicted = parts[view], parts[len(self.hits) + view]
        actual, pixels = statistics[..., -2], statistics[..., -1]
        precision, recall = hits / predicted, hits / actual[..., None]
        f_measure = (1 + beta_square) * precision * recall / (beta_square * precision + recall)
        best: Tensor = f_measure.nan_to_num(0.0).amax(-1)
        return best.where(pixels > 0, torch.nan)


class ImageSums(Metric):
    """State of the measures that average over images: sums of IoU, precision and recall at each threshold.

    Abstract: a measure calls :meth:`add_sums` once, and adds ``update`` and ``measures_of``, which calls
        :meth:`best_of_means`; ``compute`` gives its numbers.
    """

    full_state_update = False
    higher_is_better = True
    additive = True
    images: Tensor
    iou: Tensor
    precision: Tensor
    recall: Tensor

    def add_sums(self, thresholds: int) -> None:
        """Adds the states, for that many thresholds."""
        self.add_state("images", torch.tensor(0), "sum")
        for name in ("iou", "precision", "recall"):
            self.add_state(name, torch.zeros(thresholds, dtype=torch.float64), "sum")

    def sum_images(self, passed: Tensor, positive: Tensor, known: Tensor) -> None:
        """Adds the images that have a known pixel; arguments as in :func:`threshold_counts`."""
        counted = known.any(1)
        hits, predicted = threshold_counts(passed, positive, known, len(self.iou))
        hits, predicted = hits[counted].double(), predicted[counted].double()
        actual = (positive & known).sum(1)[counted, None].double()
        union = predicted + actual - hits
        self.images += counted.sum()
        self.iou += (hits / union).where(union > 0, 1).sum(0)
        self.precision += (hits / (predicted + 1e-12)).sum(0)
        self.recall += (hits / (actual + 1e-12)).sum(0)

    def statistics(self) -> Tensor:
        """Images, and the sums of IoU, precision and recall at each threshold.

        Float64 ``[1 + 3 thresholds]``.
        """
        return torch.cat([self.images[None].double(), self.iou, self.precision, self.recall])

    def best_of_means(self, statistics: Tensor) -> dict[str, Tensor]:
        """``miou``, the largest mean IoU, and ``max_f``, the largest F of mean precision and mean recall.

        Args:
            statistics: Sums over images ``[..., 1 + 3 thresholds]``.

        Returns:
            Two of ``[...]``.
        """
        images, *sums = statistics.tensor_split([1, *(1 + len(self.iou) * k for k in (1, 2))], -1)
        iou, precision, recall = (total / images for total in sums)
        f_measure = 2 * precision * recall / (precision + recall + 1e-12)
        return {"miou": iou.amax(-1), "max_f": f_measure.amax(-1)}
