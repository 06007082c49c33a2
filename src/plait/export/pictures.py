"""The real pictures that an exported model is compared and calibrated on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from plait.data.sample import DataSet
from plait.errors import DataError
from plait.export.formats import stacked
from plait.inference.pictures import Pixels, as_picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Shape:
    """What an exported model takes.

    Attributes:
        batch: Pictures at a time.
        size: Their height and width.
        dynamic: Whether all three are free; then they are merely where checks begin.
    """

    batch: int
    size: tuple[int, int]
    dynamic: bool

    def batches(self, pictures: Sequence[Pixels]) -> Iterator[Pixels]:
        """All pictures in batches uint8 ``[B, H, W, 3]`` that the model takes, stretched to their size.

        Where sizes are free, pictures come in turn at ``size``, on end, by two as larger panoramas, and
        smaller: what limits them when they are fitted into a size is each side once, and both.
        """
        height, width = self.size
        if not self.dynamic:
            for first in range(0, len(pictures), self.batch):
                taken = islice(cycle(pictures), first, first + self.batch)
                yield stacked([stretched(picture, self.size) for picture in taken])
            return
        sizes = cycle(
            [
                ((height, width), 1),
                ((width, height), 1),
                ((height + 1, 2 * width + 1), 2),
                ((max(2, 2 * height // 3), max(2, 3 * width // 4 - 1)), 1),
            ]
        )
        left = list(pictures)
        while left:
            size, count = next(sizes)
            taken_now, left = left[:count], left[count:]
            yield stacked([stretched(picture, size) for picture in taken_now])

    def example(self, pictures: Sequence[Pixels]) -> Pixels:
        """A batch to export by: two pictures of no special size where sizes are free."""
        if not self.dynamic:
            return next(self.batches(pictures))
        height, width = self.size
        size = (3 * height // 2 + 5, 7 * width // 4 + 3)
        return stacked([stretched(picture, size) for picture in islice(cycle(pictures), 2)])


def stretched(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """A picture uint8 ``[H, W, 3]`` at another size, its sides not keeping their ratio."""
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def real_pictures(folder: Path | None, count: int, *, split: str = "test") -> list[Pixels]:
    """Real pictures ``[H, W, 3]``, spread evenly over what is there.

    Args:
        folder: Where pictures lie; None for the rooms that come with plait.
        count: How many at most.
        split: Of the rooms.

    Raises:
        DataError: If the folder holds no picture, or one is damaged.
    """
    if folder is None:
        from plait.data.rooms.dataset import Rooms

        return pictures_of(Rooms(split, labels=()), count)
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise DataError(f"cannot read the pictures in {folder}: {error.strerror}") from error
    if not files:
        raise DataError(f"{folder} holds no pictures: expected files that end in {', '.join(SUFFIXES)}")
    return [as_picture(files[place]) for place in spread(len(files), count)]


def pictures_of(dataset: DataSet, count: int) -> list[Pixels]:
    """Pictures ``[H, W, 3]`` of a data set, at most so many, spread evenly over it."""
    images = (dataset[place].image.as_subclass(Tensor) for place in spread(len(dataset), count))
    return [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]


def spread(there: int, count: int) -> list[int]:
    """At most ``count`` places of so many, at equal distances.

    >>> spread(10, 4), spread(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    count = min(there, count)
    return [place * there // count for place in range(count)]
