"""A depth map as a surface in space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.errors import ConfigurationError

FIELD_OF_VIEW = 60.0
"""Across the longer side, in degrees: a guess, for a picture does not say with which lens it was taken."""

JUMP = 0.04
"""From one sample to the next, depth may grow by this part of itself; more is a gap between two objects."""


@dataclass(frozen=True)
class Mesh:
    """Triangles in the camera's frame: x right, y down, z forward, in metres.

    Attributes:
        vertices: float32 ``[N, 3]``, one a sample of the depth map, row by row; NaN where depth is unknown.
        places: float32 ``[N, 2]``, where each lies in the picture: (0, 0) is its upper left corner, (1, 1)
            its lower right one.
        faces: int32 ``[M, 3]``, places in ``vertices``; counter-clockwise as the camera sees them.
        size: Rows and columns of the samples; their product is N.
        stride: How many pixels lie between two samples.
    """

    vertices: NDArray[np.float32]
    places: NDArray[np.float32]
    faces: NDArray[np.int32]
    size: tuple[int, int]
    stride: int


def mesh(
    depth: NDArray[Any], *, field_of_view: float = FIELD_OF_VIEW, stride: int = 1, jump: float = JUMP
) -> Mesh:
    """The surface that a pinhole camera sees, without the parts that it does not see.

    Neighbouring samples are joined by triangles, except where depth jumps: there one object hides another.

    Args:
        depth: Metres along the optical axis, ``[H, W]``; what is not finite or not above 0 is unknown.
        field_of_view: Of the longer side, in degrees, above 0 and below 180, about the middle.
        stride: Use each so many-th row and column.
        jump: The depths of a triangle may differ by this part of the smallest.

    Raises:
        ConfigurationError: If an argument is out of its range.
    """
    if depth.ndim != 2 or not 0 < field_of_view < 180 or stride < 1 or not jump > 0:
        raise ConfigurationError(
            f"expected depth [H, W], a field of view above 0 and below 180 degrees, a stride of 1 or more "
            f"and a jump above 0; got depth of {depth.shape}, {field_of_view}, {stride} and {jump}"
        )
    height, width = depth.shape
    along = depth[::stride, ::stride].astype(np.float32)
    along = np.where(np.isfinite(along) & (along > 0), along, np.nan)
    rows, columns = along.shape
    x, y = (np.arange(0, side, stride, dtype=np.float32) + 0.5 for side in (width, height))
    focal = max(height, width) / 2 / math.tan(math.radians(field_of_view) / 2)
    across, down = np.meshgrid((x - width / 2) / focal, (y - height / 2) / focal)
    vertices = np.stack([across * along, down * along, along], -1).reshape(-1, 3)
    places = np.stack(np.meshgrid(x / width, y / height), -1).reshape(-1, 2)
    return Mesh(
        vertices.astype(np.float32), places.astype(np.float32), _faces(along, jump), (rows, columns), stride
    )


def _faces(along: NDArray[np.float32], jump: float) -> NDArray[np.int32]:
    number = np.arange(along.size, dtype=np.int32).reshape(along.shape)
    left, right = number[:, :-1], number[:, 1:]
    first = np.stack([left[:-1], left[1:], right[:-1]], -1)
    second = np.stack([right[:-1], left[1:], right[1:]], -1)
    faces = np.stack([first, second], -2).reshape(-1, 3)
    depths = along.reshape(-1)[faces]
    near, far = depths.min(1), depths.max(1)  # NaN if one is unknown, and then no comparison holds
    chosen: NDArray[np.int32] = faces[far <= near * (1 + jump)]
    return chosen
