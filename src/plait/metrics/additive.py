"""Metrics whose numbers follow from sums over images, so that images can be weighted afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeGuard, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from torchmetrics import Metric


@runtime_checkable
class Additive(Protocol):
    """What a metric offers beside ``update`` and ``compute`` if its numbers follow from sums over images.

    Its states are sums, too (``dist_reduce_fx="sum"``): images are counted one by one and merged.

    Attributes:
        additive: Whether it does with the options it has.
    """

    additive: bool

    def statistics(self) -> Tensor:
        """Sums over everything seen so far, float64 ``[S]``; zeros if that is nothing."""
        ...

    def measures_of(self, statistics: Tensor) -> dict[str, Tensor]:
        """What ``compute`` gives for such sums.

        Args:
            statistics: Float64 ``[..., S]``: :meth:`statistics` of images, each times a weight of zero or
                more, added up.

        Returns:
            ``{measure: [...]}``, NaN where it is undefined.
        """
        ...


def additive(metric: Metric) -> TypeGuard[Additive]:
    """Whether a metric has statistics that add up over images."""
    return isinstance(metric, Additive) and metric.additive
