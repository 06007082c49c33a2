"""All geometry of a sample as one map from image to image: composed first, applied once.

Coordinates are in pixels, ``x`` right and ``y`` down, with pixel centres at half-integers. Everything
here is numpy, which uses one thread: it runs beside the network's step and in worker processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _identity(size: int) -> Array:
    return np.eye(size)


@dataclass(frozen=True)
class Warp:
    """Where the pixels of an image come from.

    Attributes:
        source: Height and width of the image it applies to.
        size: Height and width of its result.
        matrix: float64 ``[3, 3]``, source coordinates ``(x, y, 1)`` to result coordinates.
        turn: float64 ``[2, 2]``, orthogonal: what it does to directions in the image plane.
        zoom: How much closer the camera seems to be; depth is divided by it. Changing the number of
            pixels of a picture is no zoom.
    """

    source: tuple[int, int]
    size: tuple[int, int]
    matrix: Array
    turn: Array = field(default_factory=lambda: _identity(2))
    zoom: float = 1.0

    @classmethod
    def identity(cls, size: tuple[int, int]) -> Warp:
        """Changes nothing."""
        return cls(size, size, _identity(3))

    def _then(
        self, matrix: Array, size: tuple[int, int] | None = None, turn: Array | None = None, zoom: float = 1.0
    ) -> Warp:
        return Warp(
            self.source,
            self.size if size is None else size,
            matrix @ self.matrix,
            self.turn if turn is None else turn @ self.turn,
            self.zoom * zoom,
        )

    def mirrored(self, *, horizontally: bool = True) -> Warp:
        """Left and right (or top and bottom) change places."""
        height, width = self.size
        if horizontally:
            return self._then(np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]]), turn=np.diag([-1.0, 1]))
        return self._then(np.array([[1.0, 0, 0], [0, -1, height], [0, 0, 1]]), turn=np.diag([1.0, -1]))

    def windowed(self, top: float, left: float, size: tuple[int, int]) -> Warp:
        """The window of ``size`` whose corner is at ``(top, left)``; it may reach outside."""
        return self._then(np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]]), size=size)

    def resized(self, size: tuple[int, int]) -> Warp:
        """The same picture with another number of pixels."""
        vertical, horizontal = size[0] / self.size[0], size[1] / self.size[1]
        return self._then(np.diag([horizontal, vertical, 1.0]), size=size)

    def scaled(self, factor: float) -> Warp:
        """The picture taken from closer: magnified about its middle on a canvas as much larger."""
        size = (max(1, round(self.size[0] * factor)), max(1, round(self.size[1] * factor)))
        # About the middle of the canvas, which is rounded to whole pixels.
        offset = [(size[1] - factor * self.size[1]) / 2, (size[0] - factor * self.size[0]) / 2]
        return self._then(
            np.array([[factor, 0, offset[0]], [0, factor, offset[1]], [0, 0, 1]]), size=size, zoom=factor
        )

    def rotated(self, degrees: float, centre: tuple[float, float] | None = None) -> Warp:
        """Turned counter-clockwise, as seen, about ``(x, y)`` or the middle; the canvas stays."""
        x, y = centre if centre is not None else (self.size[1] / 2, self.size[0] / 2)
        angle = math.radians(degrees)
        cosine, sine = math.cos(angle), math.sin(angle)
        turn = np.array([[cosine, sine], [-sine, cosine]])
        matrix = _identity(3)
        matrix[:2, :2] = turn
        matrix[:2, 2] = np.array([x, y]) - turn @ [x, y]
        return self._then(matrix, turn=turn)

    # --- applying it ------------------------------------------------------------------------------------

    @cached_property
    def _inverse(self) -> Array:
        return np.linalg.inv(self.matrix)

    @cached_property
    def _upright(self) -> bool:
        """Whether rows come from rows and columns from columns."""
        return bool(self.matrix[0, 1] == 0 and self.matrix[1, 0] == 0)

    @cached_property
    def _axes(self) -> tuple[Array, Array]:
        """Source ``y`` of every row and source ``x`` of every column (upright warps)."""
        inverse = self._inverse
        y = (np.arange(self.size[0]) + 0.5) * inverse[1, 1] + inverse[1, 2]
        x = (np.arange(self.size[1]) + 0.5) * inverse[0, 0] + inverse[0, 2]
        return y, x

    @cached_property
    def _grid(self) -> tuple[Array, Array]:
        """Source ``y`` and ``x`` of every result pixel, each ``[h, w]`` (all warps)."""
        rows = (np.arange(self.size[0]) + 0.5)[:, None]
        columns = (np.arange(self.size[1]) + 0.5)[None]
        inverse = self._inverse
        y = columns * inverse[1, 0] + (rows * inverse[1, 1] + inverse[1, 2])
        x = columns * inverse[0, 0] + (rows * inverse[0, 1] + inverse[0, 2])
        return y, x

    @cached_property
    def _nearest_axes(self) -> tuple[Array, Array, Array, Array]:
        rows, columns = (np.floor(axis).astype(np.intp) for axis in self._axes)
        outside_rows = np.flatnonzero((rows < 0) | (rows >= self.source[0]))
        outside_columns = np.flatnonzero((columns < 0) | (columns >= self.source[1]))
        rows.clip(0, self.source[0] - 1, out=rows)
        columns.clip(0, self.source[1] - 1, out=columns)
        return rows, columns, outside_rows, outside_columns

    @cached_property
    def _nearest_grid(self) -> tuple[Array, Array]:
        y, x = (np.floor(axis).astype(np.intp) for axis in self._grid)
        height, width = self.source
        outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
        return y.clip(0, height - 1) * width + x.clip(0, width - 1), outside

    def nearest(self, values: Array, outside: Any) -> Array:
        """Each result pixel takes the value of the source pixel that it falls in.

        Args:
            values: ``[..., H, W]`` of the source size.
            outside: What a pixel gets that falls in none.
        """
        if self._upright:
            rows, columns, outside_rows, outside_columns = self._nearest_axes
            taken: Array = values.take(rows, axis=-2).take(columns, axis=-1)
            if len(outside_rows):
                taken[..., outside_rows, :] = outside
            if len(outside_columns):
                taken[..., outside_columns] = outside
            return taken
        index, beyond = self._nearest_grid
        taken = values.reshape(*values.shape[:-2], -1).take(index, axis=-1)
        if beyond.any():
            taken[..., beyond] = outside
        return taken

    def bilinear(self, values: Array, outside: Array) -> Array:
        """Each result pixel interpolates its source; where the picture shrinks, it is smoothed as well.

        Args:
            values: ``[C, H, W]`` of the source size, any real type.
            outside: float ``[C]``, what a pixel gets that falls outside.

        Returns:
            float32 ``[C, h, w]``.
        """
        fill = np.asarray(outside, dtype=np.float32)[:, None]
        if self._upright:
            result = values
            steps = (abs(self._inverse[1, 1]), abs(self._inverse[0, 0]))
            for axis, places, step in zip((1, 2), self._axes, steps, strict=True):
                result = _interpolate(result, axis, places, step)
            _, _, rows, columns = self._nearest_axes
            result[:, rows, :] = fill[..., None]
            result[:, :, columns] = fill[..., None]
            return result
        step = math.sqrt(abs(np.linalg.det(self._inverse[:2, :2])))
        if step > 1:
            # Shrunk upright first, so that no detail is skipped, then turned at its own scale.
            height, width = (math.ceil(extent / step) for extent in self.source)
            shrink = Warp.identity(self.source).resized((height, width))
            turn = Warp(shrink.size, self.size, self.matrix @ shrink._inverse)
            return turn._bilinear_grid(shrink.bilinear(values, outside), fill)
        return self._bilinear_grid(values, fill)

    def _bilinear_grid(self, values: Array, fill: Array) -> Array:
        height, width = self.source
        flat = values.reshape(len(values), -1)
        y, x = self._grid
        row, down = _neighbours(y, height)
        column, right = _neighbours(x, width)
        below = np.minimum(row + 1, height - 1) * width
        row = row * width
        beside = np.minimum(column + 1, width - 1)
        result: Array = np.zeros((len(values), *self.size), dtype=np.float32)
        for index, weight in (
            (row + column, (1 - down) * (1 - right)),
            (row + beside, (1 - down) * right),
            (below + column, down * (1 - right)),
            (below + beside, down * right),
        ):
            result += flat.take(index, axis=1) * weight
        beyond = self._nearest_grid[1]
        if beyond.any():
            result[:, beyond] = fill
        return result


def _neighbours(places: Array, extent: int) -> tuple[Array, Array]:
    """The pixel centre before each coordinate, and how far beyond it the coordinate lies, in [0, 1)."""
    shifted = (places - 0.5).clip(0, extent - 1)
    low = shifted.astype(np.intp)
    return low, (shifted - low).astype(np.float32)


def _interpolate(values: Array, axis: int, places: Array, step: float) -> Array:
    """Interpolates ``[C, H, W]`` along an axis with triangles of half width ``max(step, 1)`` pixels.

    Triangles are cut at the border and weights made to sum to one again, as Pillow and torch do.
    """
    extent = values.shape[axis]
    if step <= 1:
        low, share = _neighbours(places, extent)
        result: Array = values.take(low, axis=axis).astype(np.float32, copy=False)
        if share.any():
            beyond = values.take(np.minimum(low + 1, extent - 1), axis=axis).astype(np.float32, copy=False)
            beyond -= result
            beyond *= share[:, None] if axis == 1 else share
            result += beyond
        return result
    first = np.floor(places - step).astype(np.intp)
    taps = first + np.arange(math.ceil(2 * step) + 2)[:, None]
    weights = (1 - abs(taps + 0.5 - places) / step).clip(0)
    weights[(taps < 0) | (taps >= extent)] = 0
    # A result pixel far outside has no tap at all; it is filled afterwards.
    weights = (weights / weights.sum(0).clip(1e-9)).astype(np.float32)
    taps = taps.clip(0, extent - 1)
    shape = list(values.shape)
    shape[axis] = len(places)
    result = np.zeros(shape, dtype=np.float32)
    for tap, weight in zip(taps, weights, strict=True):
        result += values.take(tap, axis=axis) * (weight[:, None] if axis == 1 else weight)
    return result
