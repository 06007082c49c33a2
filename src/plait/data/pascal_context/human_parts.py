"""Parts of people, from the annotation files of PASCAL-Part.

Each ``.mat`` file holds a structure ``anno`` with ``objects``; an object has ``class_ind`` (15 is a person)
and ``parts``, each with ``part_name`` and a ``mask`` of the image's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.data.matfiles import read_mat
from plait.errors import DataError

Array = NDArray[Any]

PERSON = 15
"""The class id of a person among the 20 classes of PASCAL VOC."""

CLASSES = ("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg")

GROUPS: Mapping[str, Sequence[str]] = {
    "head": ("head", "hair", "lear", "rear", "lebrow", "rebrow", "leye", "reye", "mouth", "nose"),
    "torso": ("torso", "neck"),
    "upper arm": ("luarm", "ruarm"),
    "lower arm": ("llarm", "rlarm", "lhand", "rhand"),
    "upper leg": ("luleg", "ruleg"),
    "lower leg": ("llleg", "rlleg", "lfoot", "rfoot"),
}
"""The 24 names that PASCAL-Part gives the parts of a person, by class."""

CLASS_OF_PART: Mapping[str, int] = {
    part: CLASSES.index(group) for group, parts in GROUPS.items() for part in parts
}


def has_person(path: Path) -> bool:
    """Whether an annotation file holds a person, with parts or without.

    Raises:
        DataError: If the file cannot be read; names it.
    """
    return any(_is_person(an_object, path) for an_object in _objects(path))


def part_map(path: Path) -> Array | None:
    """The parts of all people in an annotation file; where parts overlap, the later one in the file.

    Args:
        path: The file.

    Returns:
        Class ids, int64 ``[H, W]``, 0 for what is no part of a person; None if no pixel is.

    Raises:
        DataError: If the file cannot be read, has a part of an unknown name, or masks of several sizes;
            names it.
    """
    classes: Array | None = None
    for an_object in _objects(path):
        if not _is_person(an_object, path):
            continue
        for part in _records(_field(an_object, "parts", path), "parts", path):
            name = str(_field(part, "part_name", path))
            if name not in CLASS_OF_PART:
                raise DataError(
                    f"{path}: a person has a part {name!r}, expected one of {', '.join(CLASS_OF_PART)}"
                )
            mask = np.asarray(_field(part, "mask", path))
            if mask.ndim != 2 or mask.dtype.kind not in "biuf":
                raise DataError(
                    f"{path}: expected a mask [H, W] for the part {name!r}, found the shape {mask.shape}"
                )
            if classes is None:
                classes = np.zeros(mask.shape, dtype=np.int64)
            if mask.shape != classes.shape:
                raise DataError(
                    f"{path}: the mask of the part {name!r} is {mask.shape[0]}x{mask.shape[1]} (height x "
                    f"width), others are {classes.shape[0]}x{classes.shape[1]}; the file is damaged"
                )
            classes[mask > 0] = CLASS_OF_PART[name]
    return classes if classes is not None and classes.any() else None


def _objects(path: Path) -> list[Any]:
    annotation = _records(read_mat(path, "anno"), "anno", path)
    if len(annotation) != 1:
        raise DataError(f"{path}: expected one structure 'anno', found {len(annotation)}")
    return _records(_field(annotation[0], "objects", path), "objects", path)


def _is_person(an_object: Any, path: Path) -> bool:
    number = _field(an_object, "class_ind", path)
    if not isinstance(number, int | float | np.number):
        raise DataError(f"{path}: expected a class number in 'class_ind', found {type(number).__name__}")
    return int(number) == PERSON


def _records(value: Any, name: str, path: Path) -> list[Any]:
    """The structures in a variable, which SciPy gives as an array of any rank; none if it is empty."""
    array = np.atleast_1d(np.asarray(value)).ravel()
    if array.size and array.dtype.names is None:
        raise DataError(f"{path}: expected structures in {name!r}, as PASCAL-Part has them")
    return list(array)


def _field(record: Any, name: str, path: Path) -> Any:
    if name not in record.dtype.names:
        raise DataError(
            f"{path}: a structure lacks {name!r} (it has {', '.join(record.dtype.names)}); "
            f"is it a file of PASCAL-Part?"
        )
    return record[name]
