"""Saliency: two protocols whose numbers cannot be compared, each under its own name."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from plait.metrics.counts import PooledCounts, as_probability, eight_bit, flat, floats, threshold_counts


class SaliencySurvey(Metric):
    """Saliency as the survey and ASTMT score it: 15 thresholds, averages over images, beta^2 = 1.

    At each of the thresholds 0.20, 0.25, ..., 0.90 and for each image: intersection over union of the
    foreground (1 if target and prediction are both empty), precision and recall (0 if empty). Each is
    averaged over images; ``miou`` is the largest mean IoU over thresholds, ``max_f`` the largest F of mean
    precision and mean recall. Both in [0, 1], NaN without images. A target is positive from 0.5. Unknown
    pixels are left out, and so are images without a known pixel (the reference knows no unknown pixel).

    Probabilities are truncated to 8 bits first, as the reference writes them to disk, and compared in
    integers: a value equal to a threshold does not pass. The reference's evaluators disagree with each
    other there, in the fourth decimal. A probability that is not finite passes no threshold.
    """

    full_state_update = False
    higher_is_better = True
    images: Tensor
    iou: Tensor
    precision: Tensor
    recall: Tensor
    passed: Tensor

    def __init__(self) -> None:
        super().__init__()
        # How many thresholds k / 20 an 8-bit value v passes: v / 255 > k / 20, without rounding.
        twentieths = range(4, 19)
        table = [sum(20 * v > 255 * k for k in twentieths) for v in range(256)]
        self.register_buffer("passed", torch.tensor(table), persistent=False)
        self.add_state("images", torch.tensor(0), "sum")
        for name in ("iou", "precision", "recall"):
            self.add_state(name, torch.zeros(len(twentieths), dtype=torch.float64), "sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds images: probabilities (or uint8) and targets of shape ``[B, 1, H, W]``, NaN where unknown."""
        passed, positive, known = flat(eight_bit(prediction), target)
        counted = known.any(1)
        hits, predicted = threshold_counts(self.passed[passed.long()], positive, known, len(self.iou))
        hits, predicted = hits[counted].double(), predicted[counted].double()
        actual = (positive & known).sum(1)[counted, None].double()
        union = predicted + actual - hits
        self.images += counted.sum()
        self.iou += (hits / union).where(union > 0, 1).sum(0)
        self.precision += (hits / (predicted + 1e-12)).sum(0)
        self.recall += (hits / (actual + 1e-12)).sum(0)

    def compute(self) -> dict[str, float]:
        precision, recall = self.precision / self.images, self.recall / self.images
        f_measure = 2 * precision * recall / (precision + recall + 1e-12)
        return floats(max_f=f_measure.max(), miou=(self.iou / self.images).max())


class SaliencyPooled(PooledCounts):
    """Saliency as ATRC and InvPT score it: 19 thresholds, counts pooled over the split, beta^2 = 0.3.

    Thresholds are 0.05, 0.10, ..., 0.95; a probability passes from the threshold on. ``max_f`` is the largest
    1.3 P R / (0.3 P + R) over thresholds, in [0, 1]; 0 where precision or recall is undefined, NaN if no
    pixel was known. A target is positive from 0.5 and NaN where unknown. A probability that is not finite
    passes no threshold.

    Args:
        second_sigmoid: Pass the probability through another sigmoid first, as the published evaluators do.
            All scores then lie in [0.5, 0.731], where only the thresholds 0.55 to 0.70 separate anything.
    """

    def __init__(self, *, second_sigmoid: bool = False) -> None:
        super().__init__(tuple(k / 20 for k in range(1, 20)))
        self.second_sigmoid = second_sigmoid

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds images: probabilities (or uint8) and targets of shape ``[B, 1, H, W]``."""
        probability = as_probability(prediction)
        self.count(probability.sigmoid() if self.second_sigmoid else probability, target)

    def compute(self) -> dict[str, float]:
        return floats(max_f=self.best_f(beta_square=0.3))
