"""Edges, pixel by pixel."""

from __future__ import annotations

from torch import Tensor

from plait.metrics.counts import PooledCounts, as_probability, floats


class PixelF(PooledCounts):
    """Pixel-wise F of a probability map at the best threshold of the whole split, 0.01, 0.02, ..., 0.99.

    ``pixel_f`` is in [0, 1]; NaN if no pixel was known. A target is positive from 0.5 and NaN where unknown.
    A prediction that is not finite passes no threshold.

    It needs no matching and allows no displacement: a prediction one pixel beside the edge is wrong twice. It
    is not the boundary F of the literature, :class:`plait.metrics.BoundaryF`, and must not be put beside one.
    """

    def __init__(self) -> None:
        super().__init__(tuple(k / 100 for k in range(1, 100)))

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds images: probabilities (or uint8) and targets of shape ``[B, 1, H, W]``."""
        self.count(target, as_probability(prediction))

    def compute(self) -> dict[str, float]:
        return floats(**self.measures_of(self.statistics()))

    def measures_of(self, statistics: Tensor) -> dict[str, Tensor]:
        """The measure for sums over images, as :meth:`statistics` of one."""
        return {"pixel_f": self.best_f(statistics, beta_square=1.0)}
