"""What a decoder is: one feature pyramid a task to predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from plait.models.predictions import Predictions


class Decoder(nn.Module, ABC):
    """Feature pyramids to predictions; tasks may stay apart or exchange features here.

    It is built from keyword arguments that the program knows, followed by its own options: ``tasks``
    (:class:`~plait.tasks.base.Task` values in declared order, auxiliary ones included), the encoder's
    ``channels``, ``strides`` and ``groups`` by task, and the backbone family's ``default_head``.
    """

    @abstractmethod
    def forward(self, pyramids: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> Predictions:
        """Maps pyramids by task to these tasks' predictions, the final ones at ``size`` ``(H, W)``."""


def resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinearly resized ``[B, C, h, w]`` to ``[B, C, H, W]``, corners not aligned, as the survey does."""
    height, width = (int(side) for side in size)
    return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
