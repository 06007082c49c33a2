"""Cityscapes shrunk and numbered: the packages of MTAN (``.npy``) and of auto-lambda (``.png``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from plait.data import files
from plait.data.cityscapes.classes import NAMES, PARTS, check_classes, part_classes, read_label_ids
from plait.data.cityscapes.official import COUNTS, FOLDERS, read_disparity
from plait.data.encodings import Encoding, read_label, read_numbers
from plait.data.labels import InverseDepth, Label, Semantic
from plait.data.published import Layout, Part, first_file
from plait.errors import DataError

Array = NDArray[Any]


class Numbered(Layout):
    """``{train,val}/FOLDER/NUMBER.ENDING``; a sample is called ``train-12`` or ``val-3``."""

    counts = COUNTS
    ending: ClassVar[str]
    """Of images."""

    def ids(self, part: Part) -> list[str]:
        folder = self.root / FOLDERS[part] / "image"
        names = [path.stem for path in folder.glob(f"[!.]*{self.ending}")]
        wrong = next((name for name in names if not (name.isascii() and name.isdigit())), None)
        if wrong is not None:
            raise DataError(f"{folder}: expected images called by a number, found {wrong}{self.ending}")
        if not names:
            raise DataError(f"{folder}: expected images as 0{self.ending}, 1{self.ending}, ..., found none")
        return [f"{FOLDERS[part]}-{name}" for name in sorted(names, key=lambda name: (int(name), name))]

    def file(self, sample: str, folder: str, ending: str) -> Path:
        """Where a file of a sample lies, if it is there."""
        part, _, number = sample.partition("-")
        return self.root / part / folder / f"{number}{ending}"

    def at(self, field: str, sample: str) -> Path:
        """A file that is there.

        Raises:
            DataError: If it is not.
        """
        path = self.path(field, sample)
        if path is None:
            raise DataError(f"{self.root}: has no {field} file of {sample}; is the folder complete?")
        return path


MTAN_FIELDS: Mapping[str, type[Label]] = {"semantic": Semantic, "inverse_depth": InverseDepth}


class MTAN(Numbered):
    """The package of MTAN's authors, of 256x128 or 512x256 pixels, which LibMTL reads too.

    ============= ===================================== ==================================================
    field         stored as                             given as
    ============= ===================================== ==================================================
    image         ``image``, [H, W, 3] in [0, 1]        uint8, rounded
    semantic      ``label_2``, ``label_7``,             :class:`Semantic`, of 2, 7 or 19 classes
                  ``label_19`` or ``label``, -1 unknown
    inverse_depth ``depth``, [H, W, 1], 0 unknown       :class:`InverseDepth`, in the authors' unit
    ============= ===================================== ==================================================

    The authors say that ``depth`` is the owners' disparity; its range, 0 to 0.4922, is that of the stored 16
    bits divided by 65535. Nothing tells which number is which image.
    """

    name = "mtan"
    about = "the package of MTAN's authors: {train,val}/{image,label,depth}/NUMBER.npy"
    ending = ".npy"

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        super().__init__(root, options)
        check_classes(self.name, options.get("classes"), tuple(NAMES))
        self.label_folder, self.number_of_classes, self.counted_by = self._classes(options.get("classes"))
        allow = options.get("missing") == "allow"
        self.fields = {field: kind for field, kind in MTAN_FIELDS.items() if allow or not self.hint(field)}
        self.classes = {"semantic": NAMES[self.number_of_classes]}

    def _classes(self, asked: int | None) -> tuple[str, int, str]:
        """The folder of the labels, how many classes they have, and what says so."""
        there = [count for count in (7, 19, 2) if (self.root / "train" / f"label_{count}").is_dir()]
        if asked is not None:
            return (f"label_{asked}" if asked in there else "label"), asked, "the option classes"
        if there:
            return f"label_{there[0]}", there[0], f"the folder label_{there[0]}"
        if not (self.root / "train" / "label").is_dir():
            return "label", 7, "the most usual choice"
        ids = self.ids("train")
        highest = -1
        for sample in ids[:: max(1, len(ids) // 16)]:
            path = first_file(self.file(sample, "label", ".npy"))
            if path is not None:
                label = _class_ids(path).as_subclass(torch.Tensor)
                known = label[Semantic.known(label)]
                highest = max(highest, int(known.max())) if len(known) else highest
        count = next((count for count in sorted(NAMES) if 0 <= highest < count), None)
        if count is None:
            raise DataError(
                f"{self.root / 'train' / 'label'}: cannot tell how many classes there are (the highest id "
                f"found is {highest}): set classes to one of {', '.join(map(str, NAMES))}"
            )
        return "label", count, f"class ids up to {highest} in some of the files"

    @classmethod
    def evidence(cls, root: Path) -> str:
        found = any((root / "train" / "image").glob("*.npy"))
        if (root / "train" / "normal").is_dir():
            return ""  # the package of NYUD by the same authors
        return "train/image/*.npy" if found else ""

    def path(self, field: str, sample: str) -> Path | None:
        return first_file(self.file(sample, self.folder(field), ".npy"))

    def folder(self, field: str) -> str:
        """The folder of a field's files."""
        return {"semantic": self.label_folder, "inverse_depth": "depth"}.get(field, "image")

    def image(self, sample: str) -> Array:
        path = self.at("image", sample)
        stored = files.read_array(path)
        if stored.ndim != 3 or stored.shape[-1] != 3 or not stored.size or stored.dtype.kind not in "uf":
            raise DataError(
                f"{path}: expected an image [H, W, 3] in [0, 1], found {stored.dtype} {stored.shape}"
            )
        if stored.dtype == np.uint8:
            return stored
        if not (stored.min() >= 0 and stored.max() <= 1):
            raise DataError(
                f"{path}: expected an image in [0, 1], found values from {stored.min()} to {stored.max()}"
            )
        return np.round(stored * 255).astype(np.uint8)

    def label(self, field: str, sample: str, part: Part) -> Label:
        path = self.at(field, sample)
        if field == "semantic":
            label = _class_ids(path)
            ids = label.as_subclass(torch.Tensor)
            highest = int(ids.where(Semantic.known(ids), -1).max())
            if highest >= self.number_of_classes:
                raise DataError(
                    f"{path}: class id {highest} found, expected {self.number_of_classes} classes (as "
                    f"{self.counted_by} says): set classes, or get the file again"
                )
            return label
        label = read_label(path, Encoding("inverse_depth", unknown=(0,)))
        values = label.as_subclass(torch.Tensor)
        if values.isinf().any() or (values < 0).any():
            raise DataError(f"{path}: expected inverse depth of 0 or more, found negative or infinite values")
        return label

    def hint(self, field: str) -> str:
        folder = self.folder(field)
        return "" if (self.root / "train" / folder).is_dir() else f"the folder train/{folder} is not there"

    def notes(self) -> Mapping[str, str]:
        return {
            **{f"no {field}": self.hint(field) for field in MTAN_FIELDS if self.hint(field)},
            "classes": f"{self.number_of_classes}, by {self.counted_by}",
            "unit of inverse_depth": "the authors'; as far as its range tells, (256 disparity + 1) / 65535",
        }


def _class_ids(path: Path) -> Label:
    return read_label(path, Encoding("semantic", unknown=(-1,)))


PNG_FIELDS: Mapping[str, type[Label]] = {
    "semantic": Semantic,
    "parts": Semantic,
    "inverse_depth": InverseDepth,
}
PNG_FOLDERS: Mapping[str, str] = {"semantic": "seg", "parts": "part_seg", "inverse_depth": "depth"}
NEIGHBOURS = 10


class PNG(Numbered):
    """What auto-lambda's script makes of the owners' files: 512x256 pixels, labels by nearest neighbour.

    ============= ============================== =========================================================
    field         stored as                      given as
    ============= ============================== =========================================================
    image         ``image``, PNG                 uint8
    semantic      ``seg``, PNG, label ids        :class:`Semantic`, the 19 evaluated classes
    parts         ``part_seg``, TIFF, ids of     :class:`Semantic`, 10 classes of parts of people and
                  Panoptic Parts                 vehicles; all else is background
    inverse_depth ``depth``, PNG, 16 bit         :class:`InverseDepth`, disparity in pixels of the small
                                                 image: (v - 1) / 1024, unknown where v is 0
    ============= ============================== =========================================================
    """

    name = "png"
    about = "auto-lambda's 512x256: {train,val}/{image,seg,depth}/NUMBER.png and part_seg/NUMBER.tif"
    ending = ".png"

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        super().__init__(root, options)
        check_classes(self.name, options.get("classes"))
        allow = options.get("missing") == "allow"
        self.fields = {field: kind for field, kind in PNG_FIELDS.items() if allow or not self.hint(field)}
        self.classes = {"semantic": NAMES[19], "parts": PARTS}

    @classmethod
    def evidence(cls, root: Path) -> str:
        found = any((root / "train" / "image").glob("*.png"))
        labelled = any((root / "train" / folder).is_dir() for folder in ("seg", "depth"))
        return "train/image/*.png, with seg or depth" if found and labelled else ""

    def path(self, field: str, sample: str) -> Path | None:
        if field == "parts":
            # The published script writes the parts of the training images beside their folder.
            part, _, number = sample.partition("-")
            beside = self.root / part / f"part_seg{number}.tif"
            return first_file(self.file(sample, "part_seg", ".tif"), beside)
        return first_file(self.file(sample, PNG_FOLDERS.get(field, "image"), ".png"))

    def image(self, sample: str) -> Array:
        return files.read_rgb(self.at("image", sample))

    def label(self, field: str, sample: str, part: Part) -> Label:
        path = self.at(field, sample)
        if field == "semantic":
            return read_label_ids(path)
        if field == "parts":
            return Semantic(torch.from_numpy(part_classes(read_numbers(path), str(path))[None]))
        return InverseDepth(read_disparity(path, 256 * 4))

    def group(self, sample: str) -> str:
        """Neighbouring numbers, which are of one city and mostly of one drive."""
        part, _, number = sample.partition("-")
        return f"{part}-{int(number) // NEIGHBOURS}"

    def hint(self, field: str) -> str:
        folder = PNG_FOLDERS.get(field, "image")
        there = (self.root / "train" / folder).is_dir() or (self.root / "val" / folder).is_dir()
        return "" if there else f"the folder {folder} is not there"

    def notes(self) -> Mapping[str, str]:
        absent = {f"no {field}": self.hint(field) for field in PNG_FIELDS if self.hint(field)}
        return {"unit of inverse_depth": "disparity in pixels of the image of 512x256", **absent}
