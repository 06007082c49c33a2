"""Cityscapes as its owners give it: 2048x1024, sorted by city."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plait.data import files
from plait.data.cityscapes.classes import HIGHEST_LABEL_ID, NAMES, check_classes, read_label_ids
from plait.data.labels import UNKNOWN_CLASS, Depth, InverseDepth, Label, Semantic
from plait.data.published import Layout, Part, first_file
from plait.errors import DataError

Array = NDArray[Any]

FIELDS: Mapping[str, type[Label]] = {
    "semantic": Semantic,
    "instances": Semantic,
    "depth": Depth,
    "inverse_depth": InverseDepth,
}
COUNTS: Mapping[Part, int] = {"train": 2975, "test": 500}
FOLDERS: Mapping[Part, str] = {"train": "train", "test": "val"}
FILES: Mapping[str, tuple[str, str]] = {
    "image": ("leftImg8bit", "leftImg8bit.png"),
    "semantic": ("gtFine", "gtFine_labelIds.png"),
    "instances": ("gtFine", "gtFine_instanceIds.png"),
    "disparity": ("disparity", "disparity.png"),
    "camera": ("camera", "camera.json"),
}
"""Of each kind of file: the package's folder, and what ends its name."""

NEEDED: Mapping[str, Sequence[str]] = {
    "semantic": ("semantic",),
    "instances": ("instances",),
    "depth": ("disparity", "camera"),
    "inverse_depth": ("disparity", "camera"),
}
"""Of each label: the kinds of files that it is made from."""


class Official(Layout):
    """The packages of the owners' site, unpacked into one folder.

    Files are ``PACKAGE/{train,val}/CITY/CITY_SEQUENCE_FRAME_KIND``; the published test images have no public
    labels and are not used.

    ============= ==================================== ===================================================
    field         stored as                            given as
    ============= ==================================== ===================================================
    image         ``leftImg8bit``, PNG                 uint8
    semantic      ``gtFine``, ``labelIds.png``         :class:`Semantic`, the 19 evaluated classes
    instances     ``gtFine``, ``instanceIds.png``      :class:`Semantic`, label id * 1000 + number; unknown
                                                       where no single object is labelled
    depth         ``disparity``, 16 bit, with          :class:`Depth`, metres: baseline * fx / disparity
                  ``camera``, JSON
    inverse_depth the same                             :class:`InverseDepth`, 1 / metres
    ============= ==================================== ===================================================

    A disparity is stored as ``256 d + 1``, with 0 where it is not known. Where it is ``d = 0`` (infinitely
    far), the inverse depth is 0 and the depth unknown.
    """

    name = "official"
    about = "the owners' packages: leftImg8bit, gtFine, disparity and camera, with train and val, by city"
    counts = COUNTS

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        super().__init__(root, options)
        check_classes(self.name, options.get("classes"))
        allow = options.get("missing") == "allow"
        self.fields = {field: kind for field, kind in FIELDS.items() if allow or not self.hint(field)}
        self.classes = {"semantic": NAMES[19]}

    @classmethod
    def evidence(cls, root: Path) -> str:
        images = root / "leftImg8bit"
        found = [folder for folder in FOLDERS.values() if (images / folder).is_dir()]
        return f"the folder leftImg8bit with {' and '.join(found)}" if found else ""

    def ids(self, part: Part) -> list[str]:
        ending = f"_{FILES['image'][1]}"
        folder = self.root / FILES["image"][0] / FOLDERS[part]
        names = sorted(path.name.removesuffix(ending) for path in folder.glob(f"*/[!.]*{ending}"))
        if not names:
            raise DataError(f"{folder}: expected images as CITY/CITY_000000_000019{ending}, found none")
        return names

    def path(self, field: str, sample: str) -> Path | None:
        found = [self._file(kind, sample) for kind in NEEDED.get(field, ("image",))]
        return found[0] if all(found) else None

    def _file(self, kind: str, sample: str) -> Path | None:
        package, ending = FILES[kind]
        name = Path(self.group(sample)) / f"{sample}_{ending}"
        return first_file(*(self.root / package / folder / name for folder in FOLDERS.values()))

    def _at(self, kind: str, sample: str) -> Path:
        path = self._file(kind, sample)
        if path is None:
            raise DataError(f"{self.root}: has no {kind} file of {sample}; is the folder complete?")
        return path

    def image(self, sample: str) -> Array:
        return files.read_rgb(self._at("image", sample))

    def label(self, field: str, sample: str, part: Part) -> Label:
        if field == "semantic":
            return read_label_ids(self._at("semantic", sample))
        if field == "instances":
            return _instances(self._at("instances", sample))
        disparity = read_disparity(self._at("disparity", sample), 256)
        scale = _baseline_times_focal(self._at("camera", sample))
        if field == "inverse_depth":
            return InverseDepth(disparity / scale)
        return Depth((scale / disparity).masked_fill_(disparity == 0, torch.nan))

    def group(self, sample: str) -> str:
        """The city, so that ``val`` has cities of its own, as the test part has."""
        return sample.partition("_")[0]

    def hint(self, field: str) -> str:
        packages = [FILES[kind][0] for kind in NEEDED.get(field, ())]
        absent = [package for package in packages if not (self.root / package).is_dir()]
        return f"it is made from {' and '.join(packages)}; not there: {', '.join(absent)}" if absent else ""

    def notes(self) -> Mapping[str, str]:
        return {f"no {field}": self.hint(field) for field in FIELDS if self.hint(field)}


def read_disparity(path: Path, scale: float) -> torch.Tensor:
    """A disparity stored as ``scale * d + 1`` in 16 bits, float32 ``[1, H, W]``; NaN where 0 is stored.

    Raises:
        DataError: If it cannot be read; names the file.
    """
    stored = files.read_map(path, modes=("I;16", "I"))
    disparity = (stored.astype(np.float32) - 1) / np.float32(scale)
    disparity[stored == 0] = np.nan
    if (stored < 0).any():
        raise DataError(f"{path}: expected disparities of 0 or more, found {stored.min()}")
    return torch.from_numpy(disparity[None])


def _instances(path: Path) -> Label:
    stored = files.read_map(path, modes=("I;16", "I"))
    if stored.min() < 0 or stored.max() >= 1000 * (HIGHEST_LABEL_ID + 1):
        raise DataError(
            f"{path}: expected instance ids, label id * 1000 + number, found values from {stored.min()} to "
            f"{stored.max()}"
        )
    ids = stored.astype(np.int64)
    ids[stored < 1000] = UNKNOWN_CLASS
    return Semantic(torch.from_numpy(ids[None]))


def _baseline_times_focal(path: Path) -> float:
    """The distance of the two cameras in metres times the focal length in pixels."""
    try:
        camera = json.loads(path.read_text(encoding="utf-8"))
        product = float(camera["extrinsic"]["baseline"]) * float(camera["intrinsic"]["fx"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected JSON with the numbers extrinsic.baseline and intrinsic.fx "
            f"({type(error).__name__}: {error})"
        ) from error
    if not (math.isfinite(product) and product > 0):
        raise DataError(f"{path}: baseline * fx must be positive, found {product}")
    return product
