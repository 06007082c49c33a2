"""The classes of Cityscapes, and how its label ids become them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plait.data import files
from plait.data.labels import UNKNOWN_CLASS, Label, Semantic
from plait.errors import ConfigurationError, DataError

Array = NDArray[Any]

NAMES: Mapping[int, Sequence[str]] = {
    2: ("background", "foreground"),
    7: ("flat", "construction", "object", "nature", "sky", "human", "vehicle"),
    19: (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle",
        "bicycle",
    ),
}  # fmt: skip
"""The class names of each set of classes: the 19 that are evaluated, Cityscapes' 7 categories, and two."""

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id of each of the 19 classes; all other label ids are unknown."""

HIGHEST_LABEL_ID = 33

PARTS = (
    "background", "torso", "head", "arms", "legs", "windows", "wheels", "lights", "license plate", "chassis",
)  # fmt: skip
"""Parts of people (person, rider), then of vehicles (car, truck, bus)."""


def check_classes(layout: str, asked: int | None, there: Sequence[int] = (19,)) -> None:
    """Raises :class:`ConfigurationError` if an archive has no labels of as many classes as were asked for."""
    if asked is not None and asked not in there:
        raise ConfigurationError(
            f"cityscapes ({layout}) has {' or '.join(map(str, there))} semantic classes; got classes={asked}"
        )


def read_label_ids(path: Path) -> Label:
    """A picture of label ids as the 19 classes.

    Raises:
        DataError: If it cannot be read, or a label id is above 33; names the file.
    """
    stored = files.read_map(path, modes=("L", "P"))
    wrong = stored[(stored > HIGHEST_LABEL_ID) & (stored != UNKNOWN_CLASS)]
    if wrong.size:
        raise DataError(
            f"{path}: expected Cityscapes' label ids, 0..{HIGHEST_LABEL_ID}, found {wrong[0]}; is it "
            f"a file of labelIds, not of colours or instances?"
        )
    classes = np.full(256, UNKNOWN_CLASS, dtype=np.int64)
    classes[list(LABEL_IDS)] = np.arange(len(LABEL_IDS))
    return Semantic(torch.from_numpy(classes[stored][None]))


def part_classes(uids: Array, name: str) -> Array:
    """The ids of Cityscapes Panoptic Parts as the classes ``PARTS``, int64.

    An id has up to 7 digits: label id, then 3 digits of the instance and 2 of the part where there are any.
    Whatever is no named part of a person or vehicle is background, unlabelled pixels too.

    Args:
        uids: Whole numbers, of any shape.
        name: What to call the file in errors.

    Raises:
        DataError: If a number is no such id; names the file.

    Source:
        de Geus et al., Part-aware Panoptic Segmentation, CVPR 2021.
    """
    if uids.dtype.kind not in "iu":
        raise DataError(f"{name}: expected whole numbers of Panoptic Parts, found {uids.dtype}")
    uids = uids.astype(np.int64)
    has_part = uids > 99_999
    label = np.select([has_part, uids > 999], [uids // 100_000, uids // 1000], uids)
    wrong = uids[(label < 0) | (label > HIGHEST_LABEL_ID)]
    if wrong.size:
        raise DataError(f"{name}: {wrong[0]} is no id of Panoptic Parts (label id, instance, part)")
    part = np.where(has_part, uids % 100, 0)
    human = np.isin(label, (24, 25)) & (part >= 1) & (part <= 4)
    vehicle = np.isin(label, (26, 27, 28)) & (part >= 1) & (part <= 5)
    return np.select([human, vehicle], [part, part + 4], 0)
