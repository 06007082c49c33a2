"""How a picture of any size is brought to the network, and its maps back to the picture's size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plait.config import Evaluation, Recipe
from plait.errors import ConfigurationError

LARGE = 2**22
"""Pixels beyond which a picture that keeps its own size is shown in tiles, asked for or not."""

TILE = (1024, 1024)
"""Height and width of those tiles."""


@dataclass(frozen=True)
class Sizing:
    """How a picture of any size is brought to the network.

    It is resized, or kept as it is; the network then sees it whole, or in overlapping tiles whose maps are
    blended. Depth is metric only as far as the camera is like those of the training pictures: a picture
    that is shown in tiles looks to the network as if taken from closer by.

    Attributes:
        size: Height and width that a picture is fitted into, its sides keeping their ratio; the rest is
            filled with the mean colour and cut away from the maps. None keeps its own size.
        tile: Height and width of the tiles; None shows the (resized) picture whole, unless it keeps its own
            size and that is more than :data:`LARGE` pixels: then it is shown in tiles of :data:`TILE`.
        overlap: What part of a tile its neighbour covers too, from 0 up to (but without) 1.
        scales: Maps are averaged over the picture at these scales.
    """

    size: tuple[int, int] | None = None
    tile: tuple[int, int] | None = None
    overlap: float = 0.25
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name, sides in (("size", self.size), ("tile", self.tile)):
            if sides is not None and (len(sides) != 2 or min(sides) < 1):
                raise ConfigurationError(f"{name} must be a height and a width of 1 or more, got {sides}")
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ConfigurationError(f"scales must be one or more positive numbers, got {self.scales}")
        if not 0 <= self.overlap < 1:
            raise ConfigurationError(f"overlap must be from 0 up to 1, without 1; got {self.overlap}")

    @classmethod
    def of(cls, recipe: Recipe) -> Sizing:
        """As the recipe's evaluation shows pictures to the network."""
        evaluation = recipe.evaluation
        overlap = 1 / 3
        if evaluation.window is not None and evaluation.stride is not None:
            shares = [step / side for step, side in zip(evaluation.stride, evaluation.window, strict=True)]
            overlap = 1 - min(shares)
        return cls(_pair(evaluation.size), _pair(evaluation.window), overlap, tuple(evaluation.scales))

    def of_picture(self, height: int, width: int) -> Sizing:
        """As a picture of this size is shown: one that is too large to be seen whole gets its tiles."""
        alone = self.size is None and self.tile is None and height * width > LARGE
        return replace(self, tile=TILE) if alone else self

    @property
    def stride(self) -> tuple[int, int] | None:
        """From one tile to the next, down and across."""
        if self.tile is None:
            return None
        down, across = (max(1, round(side * (1 - self.overlap))) for side in self.tile)
        return down, across

    def evaluation(self, *, flip: bool = False) -> Evaluation:
        """The same as options of an evaluation."""
        return Evaluation(
            size=self.size, window=self.tile, stride=self.stride, flip=flip, scales=list(self.scales)
        )

    def told(self) -> str:
        """In words.

        >>> Sizing((192, 256)).told(), Sizing(None, (512, 512)).told()
        ('fitted into 192x256', 'at their own size, in tiles of 512x512 that overlap by 25 %')
        """
        told = "at their own size" if self.size is None else f"fitted into {self.size[0]}x{self.size[1]}"
        tile, which = (
            (TILE, f"those of more than {LARGE:,} pixels ") if self.tile is None else (self.tile, "")
        )
        if self.tile is not None or self.size is None:
            told += f", {which}in tiles of {tile[0]}x{tile[1]} that overlap by {self.overlap:.0%}"
        if self.scales != (1.0,):
            told += f", averaged over the scales {', '.join(f'{scale:g}' for scale in self.scales)}"
        return told.replace("%", " %")


def fading(window: Sequence[int]) -> Tensor:
    """Weights of a tile's pixels ``[H, W]`` that fade towards its sides, so that no seam is seen.

    A squared sine along each axis; positive everywhere, so that a single tile is taken as it is.

    >>> fading((1, 2)).round(decimals=3).tolist()
    [[0.5, 0.5]]
    """
    rows, columns = (torch.sin(math.pi * (torch.arange(side) + 0.5) / side).square() for side in window)
    return rows[:, None] * columns


def _pair(sides: Sequence[int] | None) -> tuple[int, int] | None:
    return None if sides is None else (int(sides[0]), int(sides[1]))
