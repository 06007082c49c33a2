"""All geometry of a sample as one map from image to image: composed first, applied once.

Coordinates are in pixels, ``x`` right and ``y`` down, with pixel centres at half-integers. Everything
here is numpy, which uses one thread: it runs beside the network's step and in worker processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BAND = 16
"""Rows of a turned picture that are computed at a time."""


def _identity(size: int) -> Array:
    return np.eye(size)


class Memory:
    """One block that arrays are cut from, one after the other, each as it comes from ``np.empty``.

    The system hands out one large block in fewer and larger pages than many small ones: the maps of a view
    of 480x640 take 1 ms in place of 7 ms to be given their memory. The block lives as long as any of them.
    """

    def __init__(self, size: int) -> None:
        self.block = np.empty(size, dtype=np.uint8)
        self.used = 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array in the block; elsewhere, if the block has no room for it."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.used + size > len(self.block):
            return np.empty(shape, dtype)
        part: Array = self.block[self.used : self.used + size].view(dtype).reshape(shape)
        self.used += -(-size // 64) * 64  # every array starts at a cache line
        return part


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
        memory: Where results are put; None for memory of their own.
    """

    source: tuple[int, int]
    size: tuple[int, int]
    matrix: Array
    turn: Array = field(default_factory=lambda: _identity(2))
    zoom: float = 1.0
    memory: Memory | None = field(default=None, compare=False, repr=False)

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

    def into(self, memory: Memory | None) -> Warp:
        """The same warp, whose results are put into ``memory`` as long as it has room."""
        return replace(self, memory=memory)

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return np.empty(shape, dtype) if self.memory is None else self.memory.empty(shape, dtype)

    @cached_property
    def inverse(self) -> Array:
        """float64 ``[3, 3]``, result coordinates to source coordinates."""
        return np.linalg.inv(self.matrix)

    @cached_property
    def upright(self) -> bool:
        """Whether rows come from rows and columns from columns."""
        return bool(self.matrix[0, 1] == 0 and self.matrix[1, 0] == 0)

    @cached_property
    def _axes(self) -> tuple[Array, Array]:
        """Source ``y`` of every row and source ``x`` of every column (upright warps)."""
        inverse = self.inverse
        y = (np.arange(self.size[0]) + 0.5) * inverse[1, 1] + inverse[1, 2]
        x = (np.arange(self.size[1]) + 0.5) * inverse[0, 0] + inverse[0, 2]
        return y, x

    def _grid(self, rows: slice) -> tuple[Array, Array]:
        """Source ``y`` and ``x`` of every pixel of some rows of the result, each ``[n, w]`` (all warps)."""
        down = (np.arange(self.size[0])[rows] + 0.5)[:, None]
        across = (np.arange(self.size[1]) + 0.5)[None]
        inverse = self.inverse
        y = across * inverse[1, 0] + (down * inverse[1, 1] + inverse[1, 2])
        x = across * inverse[0, 0] + (down * inverse[0, 1] + inverse[0, 2])
        return y, x

    def _bands(self) -> Iterator[slice]:
        """The result's rows, a few at a time: what is computed of them then stays in the cache."""
        for first in range(0, self.size[0], BAND):
            yield slice(first, first + BAND)

    @cached_property
    def _nearest_axes(self) -> tuple[Array, Array, Array, Array]:
        rows, columns = (np.floor(axis).astype(np.intp) for axis in self._axes)
        outside_rows = np.flatnonzero((rows < 0) | (rows >= self.source[0]))
        outside_columns = np.flatnonzero((columns < 0) | (columns >= self.source[1]))
        rows.clip(0, self.source[0] - 1, out=rows)
        columns.clip(0, self.source[1] - 1, out=columns)
        return rows, columns, outside_rows, outside_columns

    @cached_property
    def _runs(self) -> tuple[Array | slice, Array | slice]:
        """The nearest rows and columns; as a slice where they are neighbours in either direction."""
        rows, columns, *_ = self._nearest_axes
        return _run(rows), _run(columns)

    @cached_property
    def _nearest_grid(self) -> tuple[Array, Array]:
        height, width = self.source
        index, beyond = np.empty(self.size, dtype=np.intp), np.empty(self.size, dtype=bool)
        for rows in self._bands():
            y, x = (np.floor(axis).astype(np.intp) for axis in self._grid(rows))
            beyond[rows] = (y < 0) | (y >= height) | (x < 0) | (x >= width)
            index[rows] = y.clip(0, height - 1) * width + x.clip(0, width - 1)
        return index, beyond

    def nearest(self, values: Array, outside: Any) -> Array:
        """Each result pixel takes the value of the source pixel that it falls in.

        Args:
            values: ``[..., H, W]`` of the source size.
            outside: What a pixel gets that falls in none.
        """
        if self.upright:
            _, _, outside_rows, outside_columns = self._nearest_axes
            taken = self._empty((*values.shape[:-2], *self.size), values.dtype)
            for plane, result in zip(
                values.reshape(-1, *self.source), taken.reshape(-1, *self.size), strict=True
            ):
                _take(plane, *self._runs, result)
            if len(outside_rows):
                taken[..., outside_rows, :] = outside
            if len(outside_columns):
                taken[..., outside_columns] = outside
            return taken
        index, beyond = self._nearest_grid
        taken = self._empty((*values.shape[:-2], *self.size), values.dtype)
        values.reshape(*values.shape[:-2], -1).take(index, axis=-1, out=taken, mode="clip")
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
        if self.upright:
            result = self._empty((len(values), *self.size), np.float32)
            down, across = self.axes()
            for plane, interpolated in zip(values, result, strict=True):
                _interpolate(plane, down, across, interpolated)
            _, _, rows, columns = self._nearest_axes
            result[:, rows, :] = fill[..., None]
            result[:, :, columns] = fill[..., None]
            return result
        shrink, turn = self.shrunk_first()
        if shrink is not None:
            return turn.into(self.memory)._bilinear_grid(shrink.bilinear(values, outside), fill)
        return self._bilinear_grid(values, fill)

    def axes(self) -> tuple[Axis, Axis]:
        """How the rows and the columns are interpolated (upright warps)."""
        y, x = self._axes
        down = Axis.at(y, abs(self.inverse[1, 1]), self.source[0])
        return down, Axis.at(x, abs(self.inverse[0, 0]), self.source[1])

    def shrunk_first(self) -> tuple[Warp | None, Warp]:
        """A turn that shrinks, as an upright shrinking, which skips no detail, and a turn of the result."""
        step = math.sqrt(abs(np.linalg.det(self.inverse[:2, :2])))
        if step <= 1:
            return None, self
        height, width = (math.ceil(extent / step) for extent in self.source)
        shrink = Warp.identity(self.source).resized((height, width))
        return shrink, Warp(shrink.size, self.size, self.matrix @ shrink.inverse)

    def _bilinear_grid(self, values: Array, fill: Array) -> Array:
        height, width = self.source
        flat = values.reshape(len(values), -1)
        result = self._empty((len(values), *self.size), np.float32)
        result.fill(0)
        for rows in self._bands():
            y, x = self._grid(rows)
            row, down = _neighbours(y, height)
            column, right = _neighbours(x, width)
            below = np.minimum(row + 1, height - 1) * width
            row = row * width
            beside = np.minimum(column + 1, width - 1)
            for index, weight in (
                (row + column, (1 - down) * (1 - right)),
                (row + beside, (1 - down) * right),
                (below + column, down * (1 - right)),
                (below + beside, down * right),
            ):
                result[:, rows] += flat.take(index, axis=1, mode="clip") * weight
        beyond = self._nearest_grid[1]
        if beyond.any():
            result[:, beyond] = fill
        return result


def _run(places: Array) -> Array | slice:
    """Places as a slice, if each is one more than the one before it, or each is one less."""
    first, last = int(places[0]), int(places[-1])
    for step in (1, -1):
        if last - first == step * (len(places) - 1) and (np.diff(places) == step).all():
            stop = last + step
            return slice(first, stop if stop >= 0 else None, step)
    return places


def _take(plane: Array, rows: Array | slice, columns: Array | slice, out: Array) -> None:
    """Puts ``plane[rows][:, columns]`` into ``out``."""
    if isinstance(rows, slice):
        if isinstance(columns, slice):
            out[...] = plane[rows, columns]
        else:
            plane[rows].take(columns, axis=1, out=out, mode="clip")
        return
    # Columns first, of the rows in use alone: then a row is copied whole, as often as it is wanted.
    first, last = int(rows.min()), int(rows.max()) + 1
    used = np.empty((last - first, out.shape[1]), dtype=plane.dtype)
    _take(plane, slice(first, last), columns, used)
    used.take(rows - first, axis=0, out=out, mode="clip")


@dataclass(frozen=True)
class Axis:
    """How the pixels of a result's row (or column) come from those of the source.

    Triangles of half width ``max(step, 1)`` source pixels around each place, cut at the border; the weights
    are made to sum to one again, as Pillow and torch do.

    Attributes:
        taps: Source pixels, ``[K, n]``, all of them inside.
        weights: What each of them counts, float32 ``[K, n]``, summing to 1 over K; to 0 far outside.
        step: Source pixels from one result pixel to the next, above 0.
    """

    taps: Array
    weights: Array
    step: float

    @classmethod
    def at(cls, places: Array, step: float, extent: int) -> Axis:
        """For source coordinates ``[n]`` and a source of so many pixels."""
        if step <= 1:
            low, share = _neighbours(places, extent)
            taps = np.stack([low, np.minimum(low + 1, extent - 1)])
            return cls(taps, np.stack([1 - share, share]), step)
        first = np.floor(places - step).astype(np.intp)
        taps = first + np.arange(math.ceil(2 * step) + 2)[:, None]
        weights = (1 - abs(taps + 0.5 - places) / step).clip(0)
        weights[(taps < 0) | (taps >= extent)] = 0
        # A result pixel far outside has no tap at all; it is filled afterwards.
        weights = (weights / weights.sum(0).clip(1e-9)).astype(np.float32)
        return cls(taps.clip(0, extent - 1), weights, step)

    def moved(self, by: int) -> Axis:
        """For a source of which the first ``by`` pixels are cut away."""
        return Axis(self.taps - by, self.weights, self.step)


def _neighbours(places: Array, extent: int) -> tuple[Array, Array]:
    """The pixel centre before each coordinate, and how far beyond it the coordinate lies, in [0, 1)."""
    shifted = (places - 0.5).clip(0, extent - 1)
    low = shifted.astype(np.intp)
    return low, (shifted - low).astype(np.float32)


def _interpolate(plane: Array, down: Axis, across: Axis, out: Array) -> None:
    """Interpolates a plane ``[H, W]`` into float32 ``out``; a plane at a time stays in the cache."""
    top, bottom = int(down.taps.min()), int(down.taps.max()) + 1
    left, right = int(across.taps.min()), int(across.taps.max()) + 1
    used = plane[top:bottom, left:right].astype(np.float32)
    rows = np.empty((len(out), right - left), dtype=np.float32)
    _weigh(used, down.moved(top), 0, rows)
    _weigh(rows, across.moved(left), 1, out)


def _weigh(values: Array, along: Axis, axis: int, out: Array) -> None:
    """Weighs the taps of one axis of float32 ``values`` into ``out``."""
    weights = along.weights[..., None] if axis == 0 else along.weights
    values.take(along.taps[0], axis=axis, out=out, mode="clip")
    if along.step <= 1:
        if along.weights[1].any():
            beyond = values.take(along.taps[1], axis=axis)
            beyond -= out
            beyond *= weights[1]
            out += beyond
        return
    out *= weights[0]
    for tap, weight in zip(along.taps[1:], weights[1:], strict=True):
        out += values.take(tap, axis=axis) * weight
