"""Thinning a binary map to lines of one pixel."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from plait.metrics.boundary.compiled import compiled, numba


def thin(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The lines left of a binary map when thinning no longer changes it.

    A pass has two halves, each of which removes all its pixels at once; thinning ends when a whole pass
    removes none. Outside the map there is nothing.

    Args:
        mask: bool ``[H, W]``.

    Returns:
        bool ``[H, W]``, a subset of the mask; thinning it again changes nothing.

    Source:
        Guo and Hall, Parallel Thinning with Two-Subiteration Algorithms, CACM 1989, in the form of MATLAB's
        ``bwmorph(mask, 'thin', Inf)`` and of scikit-image's ``thin``, whose results are the same.
    """
    lines = np.zeros(mask.shape, dtype=bool)
    lines.flat[NestedMaps(mask.astype(np.int64)).thinned(0)] = True
    return lines


class NestedMaps:
    """Binary maps of one image, one a level: the pixels that pass more than ``level`` thresholds.

    Args:
        passed: How many ascending thresholds each pixel passes, integers ``[H, W]``.
    """

    def __init__(self, passed: NDArray[np.integer]) -> None:
        self.passed = passed
        height, width = passed.shape
        padded = np.zeros((height + 2, width + 2), dtype=np.int32)
        padded[1:-1, 1:-1] = passed
        # A pixel has no background neighbour at levels below the lowest of its neighbourhood.
        rows = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
        lowest = np.zeros_like(padded)
        lowest[1:-1, 1:-1] = np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
        self._padded, self._lowest = padded, lowest

    def whole(self, level: int) -> NDArray[np.int64]:
        """The pixels of one map, ascending, as places in the flattened image."""
        return np.flatnonzero(self.passed > level)

    def thinned(self, level: int) -> NDArray[np.int64]:
        """The pixels left of one map by thinning, ascending, as places in the flattened image."""
        if numba() is None:
            return np.flatnonzero(thin_by_table(self.passed > level))
        kernel = compiled(thin_by_queue)
        pixels: NDArray[np.int64] = kernel(self._padded, self._lowest, level, removable())
        return pixels


@cache
def removable() -> NDArray[np.bool_]:
    """Whether a pixel goes in the first and in the second half of a pass, bool ``[2, 256]``.

    Bit i of the index is the neighbour x(i + 1) of the paper's figure: x1 is to the right, the others follow
    against the clock.
    """
    x = [np.arange(256) >> i & 1 == 1 for i in range(8)]
    x1, x2, x3, x4, x5, x6, x7, x8 = x
    after = [*x, x1]
    crossings = sum(np.int64(~after[i] & (after[i + 1] | after[i + 2])) for i in (0, 2, 4, 6))
    first = sum(np.int64(after[i] | after[i + 1]) for i in (0, 2, 4, 6))
    second = sum(np.int64(after[i] | after[i + 1]) for i in (1, 3, 5, 7))
    neighbours = np.minimum(first, second)
    simple = (crossings == 1) & (neighbours >= 2) & (neighbours <= 3)
    table = np.stack([simple & ~((x2 | x3 | ~x8) & x1), simple & ~((x6 | x7 | ~x4) & x5)])
    table.flags.writeable = False
    return table


def thin_by_table(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """:func:`thin` with whole-image operations only."""
    table = removable()
    height, width = mask.shape
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # Rows and columns of x1 to x8 as slices of the padded map.
    around = [
        padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        for row, column in ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
    ]
    while True:
        removed = False
        for half in table:
            codes = sum(neighbour.astype(np.uint8) << bit for bit, neighbour in enumerate(around))
            gone = inside & half[codes]
            inside &= ~gone
            removed = removed or bool(gone.any())
        if not removed:
            return inside.copy()


def thin_by_queue(
    passed: NDArray[np.int32], lowest: NDArray[np.int32], level: int, table: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Kernel of :meth:`NestedMaps.thinned`: looks again only at pixels beside removed ones.

    Args:
        passed: Thresholds passed, ``[H + 2, W + 2]`` with a border of zeros.
        lowest: The minimum of each pixel's 3 x 3 neighbourhood, of the same shape.
        level: Which map.
        table: :func:`removable`.
    """
    height, width = passed.shape
    value, least = passed.ravel(), lowest.ravel()
    steps = np.array([1, 1 - width, -width, -width - 1, -1, width - 1, width, width + 1])
    alive = np.zeros(height * width, dtype=np.uint8)
    # The neighbours of a pixel as bits; 0, which no half removes, where there is no pixel.
    code = np.zeros(height * width, dtype=np.uint8)
    # What changed since the same half of the last pass must be looked at: in the latest half and the earlier.
    latest = np.empty(height * width, dtype=np.int32)
    earlier = np.empty(height * width, dtype=np.int32)
    gone = np.empty(height * width, dtype=np.int32)
    changed_in = np.zeros(height * width, dtype=np.int32)
    latest_size = earlier_size = 0
    for row in range(1, height - 1):
        for place in range(row * width + 1, row * width + width - 1):
            if value[place] > level:
                alive[place] = 1
                if least[place] > level:
                    code[place] = 255
                else:
                    bits = 0
                    for bit in range(8):
                        if value[place + steps[bit]] > level:
                            bits |= 1 << bit
                    code[place] = bits
                    latest[latest_size] = place
                    latest_size += 1
    turn = 0
    # At the start both halves have everything to look at, hence at least two turns.
    while latest_size + earlier_size > 0:
        half = turn % 2
        gone_size = 0
        for i in range(latest_size):
            if table[half, code[latest[i]]]:
                gone[gone_size] = latest[i]
                gone_size += 1
        for i in range(earlier_size):
            # What changed again since is among the latest.
            if changed_in[earlier[i]] < turn and table[half, code[earlier[i]]]:
                gone[gone_size] = earlier[i]
                gone_size += 1
        latest, earlier = earlier, latest
        latest_size, earlier_size = 0, latest_size
        turn += 1
        for i in range(gone_size):
            alive[gone[i]] = 0
            code[gone[i]] = 0
        for i in range(gone_size):
            for bit in range(8):
                beside = gone[i] + steps[bit]
                if code[beside] != 0:
                    code[beside] &= 255 ^ (1 << (bit + 4) % 8)
                    if changed_in[beside] != turn:
                        changed_in[beside] = turn
                        latest[latest_size] = beside
                        latest_size += 1
    size = 0
    for place in range(height * width):
        size += alive[place]
    pixels = np.empty(size, dtype=np.int64)
    size = 0
    for row in range(1, height - 1):
        for place in range(row * width + 1, row * width + width - 1):
            if alive[place] == 1:
                pixels[size] = (row - 1) * (width - 2) + place - row * width - 1
                size += 1
    return pixels
