"""What every pixel of a map is in words, as a table of words and a place in it for each pixel.

The browser only looks words up, so it says exactly what :meth:`plait.inference.PredictedMap.at` says, for
every kind of task.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.inference import PredictedMap
from plait.tasks.base import Task

LONGEST = 320
"""Vectors are told one by one, so for no more than this many rows and columns."""


@dataclass(frozen=True)
class Words:
    """A map in words.

    Attributes:
        table: Each word that occurs, once.
        index: ``[ceil(H / stride), ceil(W / stride)]``, places in the table, of the smallest unsigned type.
        stride: One word is for so many rows and columns: that of the first pixel of each square.
    """

    table: tuple[str, ...]
    index: NDArray[Any]
    stride: int

    def at(self, row: int, column: int) -> str:
        """The word at a pixel of the map."""
        return self.table[int(self.index[row // self.stride, column // self.stride])]


def words(of: PredictedMap) -> Words:
    """Every pixel of a map in words, ``task.told``.

    Numbers are told as far as needed to know where their words change: between two numbers that are told
    alike, all are. Vectors are told one by one, on a grid of at most :data:`LONGEST` rows and columns.
    """
    channels, height, width = of.decoded.shape
    if channels == 1:
        told, index = _told_numbers(of.task, of.decoded[0])
        stride = 1
    else:
        stride = math.ceil(max(height, width) / LONGEST)
        grid = of.decoded[:, ::stride, ::stride]
        told = [of.task.told(pixel) for pixel in grid.flatten(1).T.contiguous().unbind()]
        index = np.arange(len(told)).reshape(grid.shape[1:])
    place = {word: number for number, word in enumerate(dict.fromkeys(told))}
    places = np.array([place[word] for word in told], dtype=np.min_scalar_type(len(place) - 1))
    return Words(tuple(place), places[index], stride)


def _told_numbers(task: Task, numbers: Tensor) -> tuple[list[str], NDArray[Any]]:
    """The words of the numbers that occur, ascending, and each pixel's place among them."""
    values, index = np.unique(numbers.numpy(), return_inverse=True)
    pixels = torch.from_numpy(values)[:, None]
    told = [""] * len(values)
    known = np.flatnonzero(np.isfinite(values)).tolist()
    for place in range(len(values)) if task.classes else sorted({*range(len(values))} - {*known}):
        told[place] = task.told(pixels[place])
    if known and not task.classes:
        _tell_ascending(task, pixels, told, known[0], known[-1])
    return told, index.reshape(numbers.shape)


def _tell_ascending(task: Task, pixels: Tensor, told: list[str], first: int, last: int) -> None:
    """Fills ``told`` from the first to the last of ascending finite numbers."""
    told[first], told[last] = task.told(pixels[first]), task.told(pixels[last])
    between = [(first, last)]
    while between:
        low, high = between.pop()
        if told[low] == told[high]:
            told[low : high + 1] = [told[low]] * (high + 1 - low)
        elif high - low > 1:
            middle = (low + high) // 2
            told[middle] = task.told(pixels[middle])
            between += [(low, middle), (middle, high)]
