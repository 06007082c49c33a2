"""Heads: a feature pyramid to the logits of one task, at the stride of the head's own choosing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.errors import ConfigurationError
from plait.models.blocks import conv_norm_relu, to_size_of


class Head(nn.Module, ABC):
    """A feature pyramid to logits.

    Built as ``Head(channels=..., strides=..., outputs=..., **options)``.

    Attributes:
        last_layer: The layer that gives the logits; a method that sets output biases or looks at gradients of
            the last layer asks for it here.
    """

    last_layer: nn.Conv2d

    @abstractmethod
    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Maps levels ``[B, C_s, h_s, w_s]``, finest first, to logits ``[B, outputs, h, w]``."""


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one map seen at several scales, and as a whole.

    A 1x1 branch, a dilated 3x3 branch for each rate and an image pooling branch, all of ``width``
    channels, are concatenated and projected by a 1x1 convolution with dropout.

    Raises:
        ConfigurationError: If a batch of one image comes while the pooling branch normalises over the batch.

    Source:
        Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, section 3.3.
    """

    def __init__(self, channels: int, width: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        _require_positive(width=width, rates=min(rates, default=1))
        if not 0 <= dropout <= 1:
            raise ConfigurationError(f"a head's dropout must be from 0 to 1, got {dropout}")
        self.branches = nn.ModuleList(
            [
                conv_norm_relu(channels, width, 1),
                *(conv_norm_relu(channels, width, 3, dilation=rate) for rate in rates),
            ]
        )
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm_relu(channels, width, 1))
        self.project = nn.Sequential(conv_norm_relu(width * (len(rates) + 2), width, 1), nn.Dropout(dropout))

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, C, h, w]`` to ``[B, width, h, w]``."""
        if features.shape[0] < 2 and any(
            type(part) is nn.BatchNorm2d and part.training for part in self.pooling.modules()
        ):
            raise ConfigurationError(
                "head 'deeplab' normalises one pooled value an image over the batch: expected at least 2 "
                "images at a time in training, got 1; raise training.batch_size (each of training.accumulate "
                "parts and each process gets its share of it), or use another head, for instance fpn"
            )
        whole = self.pooling(features).expand(-1, -1, *features.shape[-2:])
        projected: Tensor = self.project(torch.cat([*(b(features) for b in self.branches), whole], 1))
        return projected


class DeepLabHead(Head):
    """DeepLab V3: ASPP on the last level only, a 3x3 convolution, and the logits.

    Args:
        channels: Channels of each level; the last is used.
        strides: Stride of each level.
        outputs: Channels of the logits.
        width: Channels inside.
        rates: Dilation of the 3x3 branches; the survey's 12, 24, 36 are for output stride 8.
        dropout: Probability of dropping a value after the ASPP, in training.

    Training needs at least two images a batch, because the pooling branch normalises over the batch.

    Source:
        Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017; as configured in
        Vandenhende et al., Multi-Task Learning for Dense Prediction Tasks: A Survey, TPAMI 2021.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        outputs: int,
        width: int = 256,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.aspp = ASPP(channels[-1], width, rates, dropout)
        self.conv = conv_norm_relu(width, width, 3)
        self.last_layer = nn.Conv2d(width, outputs, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.last_layer(self.conv(self.aspp(pyramid[-1])))
        return logits


class HRNetHead(Head):
    """HRNetV2's head: all levels resized to the finest and concatenated, a 1x1 convolution, and the logits.

    Args:
        channels: Channels of each level.
        strides: Stride of each level.
        outputs: Channels of the logits.

    Source:
        Sun et al., High-Resolution Representations for Labeling Pixels and Regions, 2019, figure 2.
    """

    def __init__(self, *, channels: Sequence[int], strides: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.fuse = conv_norm_relu(sum(channels), sum(channels), 1, bias=True)
        self.last_layer = nn.Conv2d(sum(channels), outputs, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        finest, *coarser = pyramid
        logits: Tensor = self.last_layer(
            self.fuse(torch.cat([finest, *(to_size_of(finest, level) for level in coarser)], 1))
        )
        return logits


class FPNHead(Head):
    """Feature pyramid: 1x1 laterals summed from coarse to fine, a 3x3 convolution, and the logits.

    Light enough that each task can have its own.

    Args:
        channels: Channels of each level.
        strides: Stride of each level.
        outputs: Channels of the logits.
        width: Channels inside.

    Source:
        Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017; here with bilinear upsampling,
        and predictions from the finest level only.
    """

    def __init__(
        self, *, channels: Sequence[int], strides: Sequence[int], outputs: int, width: int = 64
    ) -> None:
        super().__init__()
        _require_positive(width=width)
        self.laterals = nn.ModuleList(nn.Conv2d(level, width, 1) for level in channels)
        self.conv = conv_norm_relu(width, width, 3)
        self.last_layer = nn.Conv2d(width, outputs, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        *finer, merged = (lateral(level) for lateral, level in zip(self.laterals, pyramid, strict=True))
        for level in reversed(finer):
            merged = level + to_size_of(level, merged)
        logits: Tensor = self.last_layer(self.conv(merged))
        return logits


class LinearHead(Head):
    """A linear probe: one 1x1 convolution of all levels, resized to the finest and concatenated.

    A 1x1 convolution and bilinear resizing commute, so each level is convolved at its own size with its
    part of the weight, and the results are resized and added.

    Args:
        channels: Channels of each level.
        strides: Stride of each level.
        outputs: Channels of the logits.
    """

    def __init__(self, *, channels: Sequence[int], strides: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.channels = list(channels)
        self.last_layer = nn.Conv2d(sum(channels), outputs, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        finest, *coarser = pyramid
        first, *others = torch.split(self.last_layer.weight, self.channels, dim=1)
        logits = F.conv2d(finest, first, self.last_layer.bias)
        for level, weight in zip(coarser, others, strict=True):
            logits = logits + to_size_of(logits, F.conv2d(level, weight))
        return logits


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ConfigurationError(f"a head's {name} must be 1 or more, got {size}")
