"""Non-maximum suppression of edge strength across the edge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]

RADIUS = 4
"""Of the triangle filter behind the orientation, in pixels."""
BORDER = 5
"""Rows and columns at each side over which strength fades to zero."""
FAVOUR = np.float32(1.01)
"""A pixel stays unless a neighbour across the edge is stronger by more than this factor."""


def suppress(strength: Map) -> Map:
    """Edge strength where it is a maximum across the edge, zero elsewhere, faded at the border.

    The orientation comes from second derivatives of the smoothed strength; the strength itself is not
    smoothed. A pixel is compared with the two points one pixel away across the edge, interpolated linearly.
    On flat areas the comparison is decided by the last bits, so no two implementations agree on every
    pixel.

    Args:
        strength: float32 ``[H, W]``, zero or more.

    Returns:
        float32 ``[H, W]``.

    Source:
        Dollar and Zitnick, Fast Edge Detection Using Structured Forests, PAMI 2015, as seism applies it.
    """
    height, width = strength.shape
    orientation = across(strength)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    dy, dx = np.sin(orientation), np.cos(orientation)
    stronger = np.zeros(strength.shape, dtype=bool)
    for side in (np.float32(-1), np.float32(1)):
        beside = interpolated(strength, rows + side * dy, columns + side * dx)
        stronger |= FAVOUR * strength < beside
    return np.where(stronger, np.float32(0), strength) * fade(height)[:, None] * fade(width)


def across(strength: Map) -> Map:
    """The direction across the edge at each pixel, radians in [0, pi), columns first: float32 ``[H, W]``."""
    smooth = triangle(triangle(strength, 0), 1)
    gy, gx = slopes(smooth, 0), slopes(smooth, 1)
    gyy, gxx, gxy = slopes(gy, 0), slopes(gx, 1), slopes(gx, 0)
    orientation: Map = np.arctan(gyy * np.sign(-gxy) / (gxx + np.float32(1e-5)))
    return np.mod(orientation, np.float32(np.pi))


def triangle(values: Map, axis: int) -> Map:
    """Smoothed along an axis with the weights 1, 2, ..., RADIUS + 1, ..., 2, 1; mirrored at the border."""
    pad = [(0, 0), (0, 0)]
    pad[axis] = (RADIUS, RADIUS)
    padded = np.pad(values, pad, mode="symmetric")
    weights = np.float32(RADIUS + 1) - np.abs(np.arange(-RADIUS, RADIUS + 1, dtype=np.float32))
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis)
    smooth: Map = windows @ (weights / weights.sum())
    return smooth


def slopes(values: Map, axis: int) -> Map:
    """Central differences along an axis, one-sided at its ends; zero where it has one pixel."""
    if values.shape[axis] < 2:
        return np.zeros_like(values)
    slope: Map = np.gradient(values, axis=axis)
    return slope


def interpolated(values: Map, rows: Map, columns: Map) -> Map:
    """Values between pixels, bilinear, at places that are moved into the map first."""
    height, width = values.shape
    rows = np.clip(rows, 0, np.float32(max(height - 1.001, 0)))
    columns = np.clip(columns, 0, np.float32(max(width - 1.001, 0)))
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, along = rows - top.astype(np.float32), columns - left.astype(np.float32)
    above = values[top, left] * (1 - along) + values[top, right] * along
    below = values[bottom, left] * (1 - along) + values[bottom, right] * along
    between: Map = above * (1 - down) + below * down
    return between


def fade(size: int) -> Map:
    """Factors that fall to zero at both ends of an axis, float32 ``[size]``."""
    factors = np.ones(size, dtype=np.float32)
    border = min(BORDER, size // 2)
    ramp = np.arange(border, dtype=np.float32) / np.float32(max(border, 1))
    factors[:border] *= ramp
    factors[size - border :] *= ramp[::-1]
    return factors
