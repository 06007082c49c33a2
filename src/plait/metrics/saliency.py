"""Saliency: three ways to score it, whose numbers cannot be compared; each measure has its own name."""

from __future__ import annotations

import torch
from torch import Tensor

from plait.metrics.counts import ImageSums, PooledCounts, as_probability, eight_bit, flat, floats

TWENTIETHS = tuple(range(4, 19))
"""The survey's 15 thresholds 0.20, 0.25, ..., 0.90, in twentieths."""
POOLED = tuple(k / 20 for k in range(1, 20))
"""The 19 thresholds 0.05, 0.10, ..., 0.95 of the pooled measure."""


class SaliencySurvey(ImageSums):
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

    passed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sums(len(TWENTIETHS))
        # How many thresholds k / 20 an 8-bit value v passes: v / 255 > k / 20, without rounding.
        table = [sum(20 * v > 255 * k for k in TWENTIETHS) for v in range(256)]
        self.register_buffer("passed", torch.tensor(table), persistent=False)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds images: probabilities (or uint8) and targets of shape ``[B, 1, H, W]``, NaN where unknown."""
        values, positive, known = flat(eight_bit(prediction), target)
        self.sum_images(self.passed[values.long()], positive, known)

    def compute(self) -> dict[str, float]:
        return floats(**self.measures_of(self.statistics()))

    def measures_of(self, statistics: Tensor) -> dict[str, Tensor]:
        """The measures for sums over images, as :meth:`statistics` of one."""
        return self.best_of_means(statistics)


class SaliencyPooled(PooledCounts):
    """Saliency as ATRC and InvPT score it: 19 thresholds, counts pooled over the split, beta^2 = 0.3.

    Thresholds are 0.05, 0.10, ..., 0.95; a probability passes from the threshold on. ``max_f_pooled`` is the
    largest 1.3 P R / (0.3 P + R) over thresholds, in [0, 1]; 0 where precision or recall is undefined, NaN if
    no pixel was known. A target is positive from 0.5 and NaN where unknown. A probability that is not
    finite passes no threshold.

    Args:
        second_sigmoid: Also report ``max_f_pooled_second_sigmoid``, for which the probability passes through
            another sigmoid first, as in the published evaluators. All values then lie in [0.5, 0.731], where
            only the thresholds 0.55 to 0.70 separate anything.
    """

    def __init__(self, *, second_sigmoid: bool = False) -> None:
        super().__init__(POOLED, views=2 if second_sigmoid else 1)
        self.second_sigmoid = second_sigmoid

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds images: probabilities (or uint8) and targets of shape ``[B, 1, H, W]``."""
        probability = as_probability(prediction)
        again = (probability.sigmoid(),) if self.second_sigmoid else ()
        self.count(target, probability, *again)

    def compute(self) -> dict[str, float]:
        return floats(**self.measures_of(self.statistics()))

    def measures_of(self, statistics: Tensor) -> dict[str, Tensor]:
        """The measures for sums over images, as :meth:`statistics` of one."""
        found = {"max_f_pooled": self.best_f(statistics, beta_square=0.3)}
        if self.second_sigmoid:
            found["max_f_pooled_second_sigmoid"] = self.best_f(statistics, 1, beta_square=0.3)
        return found


class Saliency(PooledCounts, ImageSums):
    """Saliency without quantisation: ``miou`` and ``max_f`` over images, ``max_f_pooled`` over the split.

    They are those of :class:`SaliencySurvey` and :class:`SaliencyPooled`, on probabilities as they are:
    nothing is rounded to 8 bits, and a uint8 map counts as the fractions of 255 that it holds. A value
    equal to a threshold passes for ``max_f_pooled`` alone.
    """

    def __init__(self) -> None:
        super().__init__(POOLED)
        self.add_sums(len(TWENTIETHS))

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds images: probabilities (or uint8) and targets of shape ``[B, 1, H, W]``, NaN where unknown."""
        probability = as_probability(prediction)
        self.count(target, probability)
        values, positive, known = flat(probability.contiguous(), target)
        thresholds = values.new_tensor([k / 20 for k in TWENTIETHS])
        self.sum_images(torch.bucketize(values, thresholds), positive, known)

    def compute(self) -> dict[str, float]:
        return floats(**self.measures_of(self.statistics()))

    def statistics(self) -> Tensor:
        """Those of the counts over the split, then those of the sums over images, float64 ``[86]``."""
        return torch.cat([PooledCounts.statistics(self), ImageSums.statistics(self)])

    def measures_of(self, statistics: Tensor) -> dict[str, Tensor]:
        """The measures for sums over images ``[..., 86]``."""
        pooled, images = statistics.tensor_split([2 * len(POOLED) + 2], -1)
        return self.best_of_means(images) | {"max_f_pooled": self.best_f(pooled, beta_square=0.3)}
