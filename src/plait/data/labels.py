"""The labels' types: tensors that know how they are warped and which of their values is unknown.

============ ======= ======== ==================================================== =======
type         dtype   channels values                                               unknown
============ ======= ======== ==================================================== =======
Semantic     int64   1        class ids                                            255
Depth        float32 1        metres along the optical axis                        NaN
InverseDepth float32 1        1 / metres, or a unit proportional to it (disparity) NaN
Normals      float32 3        unit vectors: x right, y down, z forward, facing us  NaN
Mask         float32 1        probability in [0, 1] (edges, saliency)              NaN
============ ======= ======== ==================================================== =======
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.tv_tensors import TVTensor

UNKNOWN_CLASS = 255


class Label(TVTensor):
    """A label map ``[C, H, W]`` of one of the types below."""

    channels: int = 1

    def __new__(cls, data: Any, **kwargs: Any) -> Label:
        made: Label = cls._to_tensor(data, **kwargs).as_subclass(cls)
        return made

    @classmethod
    def unknown_like(cls, height: int, width: int) -> Tensor:
        """A map ``[C, H, W]`` on which nothing is known."""
        return torch.full((cls.channels, height, width), float("nan"))

    @classmethod
    def known(cls, target: Tensor) -> Tensor:
        """Where ``[..., C, H, W]`` is known: bool ``[..., 1, H, W]``."""
        return target.isfinite().all(-3, keepdim=True)


class Semantic(Label):
    """Class ids, int64 ``[1, H, W]``, 255 unknown."""

    @classmethod
    def unknown_like(cls, height: int, width: int) -> Tensor:
        return torch.full((1, height, width), UNKNOWN_CLASS, dtype=torch.int64)

    @classmethod
    def known(cls, target: Tensor) -> Tensor:
        return target != UNKNOWN_CLASS


class Depth(Label):
    """Metres along the optical axis, float32 ``[1, H, W]``, NaN unknown."""


class InverseDepth(Label):
    """What is larger the nearer, float32 ``[1, H, W]``, 0 at infinity, NaN unknown.

    In 1 / metres, or in a unit proportional to it: disparity is inverse depth times focal length and
    baseline.
    """


class Normals(Label):
    """Unit vectors in the camera frame, float32 ``[3, H, W]``, NaN unknown."""

    channels = 3


class Mask(Label):
    """Probability in [0, 1], float32 ``[1, H, W]``, NaN unknown: edges and saliency."""
