"""Convolution blocks that several encoders, decoders and heads are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch.nn.functional as F
from torch import SymInt, Tensor, nn

from plait.errors import ConfigurationError


def conv_norm_relu(
    inputs: int, outputs: int, kernel: int, *, dilation: int = 1, bias: bool = False
) -> nn.Sequential:
    """A convolution that keeps the size, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, without bias."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def to_size_of(target: Tensor, level: Tensor) -> Tensor:
    """``level`` resized bilinearly (corners not aligned) to the height and width of ``target``."""
    if level.shape[-2:] == target.shape[-2:]:
        return level
    return F.interpolate(level, size=target.shape[-2:], mode="bilinear", align_corners=False)


def cut(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The first rows and columns of maps ``[B, C, H, W]``: ``[B, C, *size]``."""
    height, width = cast("Sequence[int | SymInt]", size)
    if isinstance(height, int) and isinstance(width, int):
        return maps[..., :height, :width]
    # torch.export would note of a slice whether it is contiguous, and refuse other sizes of pictures.
    surplus: Any = (0, width - maps.shape[-1], 0, height - maps.shape[-2])
    return F.pad(maps, surplus)


class _Residual(nn.Module):
    """ReLU of a body plus a shortcut: the identity, or a 1x1 convolution with batch norm."""

    def __init__(self, inputs: int, outputs: int, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, inputs, h, w]`` to ``[B, outputs, h, w]``."""
        activated: Tensor = self.activation(self.body(features) + self.shortcut(features))
        return activated


class BasicBlock(_Residual):
    """Two 3x3 convolutions around a shortcut.

    Source:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016, figure 5, left.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        body = nn.Sequential(
            *conv_norm_relu(inputs, outputs, 3), conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        )
        super().__init__(inputs, outputs, body)


class Bottleneck(_Residual):
    """A 1x1, a 3x3 and a 1x1 convolution around a shortcut; a quarter of ``outputs`` inside.

    Source:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016, figure 5, right.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        middle = max(outputs // 4, 1)
        body = nn.Sequential(
            *conv_norm_relu(inputs, middle, 1),
            *conv_norm_relu(middle, middle, 3),
            nn.Conv2d(middle, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        super().__init__(inputs, outputs, body)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the mean of all channels.

    Source:
        Hu, Shen and Sun, Squeeze-and-Excitation Networks, CVPR 2018; both layers with biases.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.gate = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, C, h, w]`` to the same shape."""
        gates: Tensor = self.gate(features.mean((-2, -1)))
        return features * gates[..., None, None]


class FeaturePyramid(nn.Module):
    """A neck: every level gets ``width`` channels and what the coarser levels saw.

    1x1 laterals are summed from coarse to fine (bilinear upsampling), then a 3x3 convolution for each level.

    Source:
        Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017; there nearest upsampling.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        if width < 1:
            raise ConfigurationError(f"a feature pyramid's width must be 1 or more, got {width}")
        self.laterals = nn.ModuleList(nn.Conv2d(level, width, 1) for level in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Maps levels ``[B, C_s, h_s, w_s]``, finest first, to ``[B, width, h_s, w_s]``."""
        merged = [lateral(level) for lateral, level in zip(self.laterals, pyramid, strict=True)]
        for place in reversed(range(len(merged) - 1)):
            merged[place] = merged[place] + to_size_of(merged[place], merged[place + 1])
        return [smooth(level) for smooth, level in zip(self.smooth, merged, strict=True)]


class MergedLevels(nn.Module):
    """A neck that reads all levels and makes one map, at the stride of one of them.

    A 1x1 convolution of each level to ``width`` channels, resized bilinearly and summed (one 1x1 convolution
    of all levels, resized and concatenated, computes the same), then a 3x3 convolution with batch norm and
    ReLU.

    Args:
        channels: Channels of each level.
        strides: Stride of each level, finest first.
        width: Channels of the map.
        stride: The map has the size of the finest level with this stride or more; of the coarsest level if
            there is none.

    Attributes:
        stride: Of the map.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int, stride: int) -> None:
        super().__init__()
        self.place = next((p for p, level in enumerate(strides) if level >= stride), len(strides) - 1)
        self.stride = strides[self.place]
        self.laterals = nn.ModuleList(nn.Conv2d(level, width, 1) for level in channels)
        self.smooth = conv_norm_relu(width, width, 3)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Maps levels ``[B, C_s, h_s, w_s]``, finest first, to ``[B, width, h, w]``."""
        target = pyramid[self.place]
        first, *others = (
            to_size_of(target, lateral(level)) for lateral, level in zip(self.laterals, pyramid, strict=True)
        )
        merged: Tensor = self.smooth(sum(others, start=first))
        return merged
