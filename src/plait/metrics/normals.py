"""Angles between surface normals, pooled over all known pixels of a split."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from plait.metrics.counts import floats, gather, require_one_shape, stacked

BINS_A_DEGREE = 1000
FINE = 45
"""Up to how many degrees the bins of single images are a quarter of a degree wide; then they are a degree."""
WITHIN = (11.25, 22.5, 30.0)


class NormalsErrors(Metric):
    """Statistics of the angle between predicted and true normals over every known pixel of a split.

    Computes ``mean``, ``median`` and ``rmse`` in degrees and ``within_11_25``, ``within_22_5``,
    ``within_30``, the shares of pixels with a smaller angle than that many degrees. All are NaN if no pixel
    was known. A zero prediction is 90 degrees from everything; one that is not finite makes ``mean`` and
    ``rmse`` NaN, is within no bound, and ranks last in the median.

    The angle is 2 atan2(|p - g|, |p + g|) in float64, of vectors scaled to unit length; an arc cosine loses
    digits near 0 and 180 degrees.

    Args:
        exact_median: By default the median is read from a histogram of a thousandth of a degree, so it is
            within 0.0005 degrees, independent of batching and of the number of processes, and costs 1.4 MB.
            True keeps every angle instead (8 bytes a pixel) and is exact.

        eight_bit: Store the prediction in 8 bits first, as the survey writes it to a PNG: truncated, not
            rounded, which changes ``mean`` by a few thousandths of a degree. A prediction that is already
            uint8 is read as such a picture in any case.

    Source:
        Survey code (folder evaluator) for the pooling; its on-line meter reports the mean under the name
        rmse.
    """

    full_state_update = False
    higher_is_better = False
    pixels: Tensor
    total: Tensor
    squares: Tensor
    within: Tensor
    histogram: Tensor
    angles: list[Tensor]

    def __init__(self, *, exact_median: bool = False, eight_bit: bool = False) -> None:
        super().__init__(dist_sync_fn=gather)
        self.exact_median = exact_median
        self.additive = not exact_median
        self.eight_bit = eight_bit
        self.add_state("pixels", torch.tensor(0), "sum")
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), "sum")
        self.add_state("squares", torch.tensor(0.0, dtype=torch.float64), "sum")
        self.add_state("within", torch.zeros(len(WITHIN), dtype=torch.int64), "sum")
        if exact_median:
            self.add_state("angles", [], "cat")
        else:
            self.add_state("histogram", torch.zeros(180 * BINS_A_DEGREE, dtype=torch.int64), "sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch: vectors ``[B, 3, H, W]`` of any length, or uint8; the target NaN where unknown."""
        require_one_shape(prediction, target)
        known = target.isfinite().all(1)
        if prediction.dtype == torch.uint8:
            prediction = from_eight_bit(prediction)
        elif self.eight_bit:
            prediction = through_eight_bit(prediction)
        angles = angle(prediction.movedim(1, -1)[known], target.movedim(1, -1)[known])
        self.pixels += len(angles)
        self.total += angles.sum()
        self.squares += angles.square().sum()
        self.within += torch.stack([(angles < limit).sum() for limit in WITHIN])
        if self.exact_median:
            self.angles.append(angles)
        else:
            # A NaN prediction shows in the mean; here it needs some bin.
            bins = (angles.nan_to_num(180.0) * BINS_A_DEGREE).long().clamp(max=len(self.histogram) - 1)
            self.histogram += bins.bincount(minlength=len(self.histogram))

    def compute(self) -> dict[str, float]:
        means = self._means(stacked(*self._sums()))
        return floats(**{"mean": means["mean"], "median": self._median(), **means})

    def statistics(self) -> Tensor:
        """Pixels, sums of angles and squares, pixels within each bound, and a coarse histogram.

        Float64 ``[321]``. The bins are a quarter of a degree wide up to 45 degrees, then a degree.
        """
        fine, wide = self.histogram.tensor_split([FINE * BINS_A_DEGREE])
        coarse = [fine.view(-1, BINS_A_DEGREE // 4).sum(1), wide.view(-1, BINS_A_DEGREE).sum(1)]
        return torch.cat([stacked(*self._sums()), *coarse])

    def measures_of(self, statistics: Tensor) -> dict[str, Tensor]:
        """The measures for sums over images ``[..., 321]``.

        The median lies in the bin of the true one, so it is within a quarter of a degree of it (from 45
        degrees on a degree); it is interpolated as if angles were spread evenly over the bin. All others are
        as exact as :meth:`compute`'s.
        """
        sums, histogram = statistics.tensor_split([3 + len(WITHIN)], -1)
        means = self._means(sums)
        return {"mean": means["mean"], "median": median_of_bins(histogram), **means}

    def _sums(self) -> tuple[Tensor, ...]:
        return (self.pixels, self.total, self.squares, *self.within)

    def _means(self, sums: Tensor) -> dict[str, Tensor]:
        pixels, total, squares, *within = sums.unbind(-1)
        return {
            "mean": total / pixels,
            "rmse": (squares / pixels).sqrt(),
            "within_11_25": within[0] / pixels,
            "within_22_5": within[1] / pixels,
            "within_30": within[2] / pixels,
        }

    def _median(self) -> Tensor:
        """The middle angle, or the mean of the two middle ones."""
        if not self.pixels:
            return torch.tensor(torch.nan)
        middle = torch.stack([(self.pixels - 1) // 2, self.pixels // 2])
        if self.exact_median:
            gathered = self.angles if isinstance(self.angles, list) else [self.angles]
            return torch.cat(gathered).sort().values[middle].mean()
        bins = torch.searchsorted(self.histogram.cumsum(0), middle, right=True)
        return (bins.double() + 0.5).mean() / BINS_A_DEGREE


def median_of_bins(histogram: Tensor) -> Tensor:
    """The median angle of histograms as in :meth:`NormalsErrors.statistics`, in degrees.

    Args:
        histogram: Float64 ``[..., 315]``, zero or more.

    Returns:
        ``[...]``, NaN where a histogram is empty.
    """
    fine = torch.arange(4 * FINE, dtype=torch.float64, device=histogram.device) / 4
    edges = torch.cat([fine, torch.arange(FINE, 181, dtype=torch.float64, device=histogram.device)])
    below = histogram.cumsum(-1)
    half = below[..., -1:] / 2
    place = torch.searchsorted(below, half).clamp(max=histogram.shape[-1] - 1)
    inside = histogram.gather(-1, place)
    part = (half - below.gather(-1, place) + inside) / inside
    low = edges[place]
    return (low + part * (edges[place + 1] - low)).squeeze(-1)


def through_eight_bit(vectors: Tensor) -> Tensor:
    """Vectors ``[B, 3, H, W]`` as they come back from an 8-bit picture: (n + 1) 255 / 2, truncated.

    They are scaled to unit length before. What is not finite becomes NaN, which no picture could hold.
    """
    unit = torch.nn.functional.normalize(vectors.float(), dim=1)
    return from_eight_bit(((unit + 1) * 255 / 2).trunc())


def from_eight_bit(stored: Tensor) -> Tensor:
    """Vectors stored as 0 to 255: ``2 v / 255 - 1`` in float64, not quite of unit length."""
    return 2 * stored.double() / 255 - 1


def angle(first: Tensor, second: Tensor) -> Tensor:
    """Degrees between vectors ``[..., 3]`` of any length, in float64: ``[...]``."""
    first, second = (
        vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp(min=1e-12)
        for vectors in (first.double(), second.double())
    )
    half = torch.atan2(
        torch.linalg.vector_norm(first - second, dim=-1), torch.linalg.vector_norm(first + second, dim=-1)
    )
    return half * (360 / math.pi)
