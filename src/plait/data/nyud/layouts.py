"""The archives of NYU Depth v2, each read as it is stored."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from plait.data import files
from plait.data.encodings import Encoding, decode, read_numbers
from plait.data.labels import UNKNOWN_CLASS, Depth, Label, Mask, Normals, Semantic
from plait.data.nyud.axes import axes_note
from plait.data.nyud.classes import CLASSES
from plait.data.published import Layout, Part, first_file, read_list
from plait.errors import ConfigurationError, DataError

Array = NDArray[Any]

FIELDS: Mapping[str, type[Label]] = {"semantic": Semantic, "depth": Depth, "normals": Normals, "edges": Mask}
COUNTS: Mapping[Part, int] = {"train": 795, "test": 654}

OURS = "+x+y+z"
"""The axes of normals in memory."""

NEIGHBOURS = 10
"""Pictures are frames of videos in order; as many in a row are kept together where scenes are not known."""

FARTHEST = 100.0
"""Metres; depth beyond it is a mistake of units: the set's own ends at 10."""


class Archive(Layout):
    """A folder a field, a file a sample, and lists of the samples."""

    counts = COUNTS

    folders: ClassVar[Mapping[str, tuple[str, str]]]
    """``{field or "image": (folder, ending)}``."""

    encodings: ClassVar[Mapping[str, Encoding]]

    lists: ClassVar[Mapping[Part, str]] = {"train": "gt_sets/train.txt", "test": "gt_sets/val.txt"}

    own_classes: ClassVar[int] = 40

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        super().__init__(root, options)
        self.chosen = self.choose_classes(options.get("classes"))
        self.axes = str(options.get("normals_axes", OURS))
        self.normals = replace(self.encodings["normals"], axes=self.axes)  # checks the axes
        self.fields = {field: FIELDS[field] for field in FIELDS if field in self.folders}
        self.classes = {"semantic": CLASSES[self.chosen]}

    def choose_classes(self, asked: int | None) -> int:
        """How many classes it is read with.

        Raises:
            ConfigurationError: If the archive has no such list of classes.
        """
        if asked not in (None, self.own_classes):
            raise ConfigurationError(
                f"classes: nyud ({self.name}) has {self.own_classes} classes, got {asked!r}; both lists, 40 "
                f"and 13, are in what `plait data build nyud` makes"
            )
        return self.own_classes

    @classmethod
    def evidence(cls, root: Path) -> str:
        found = []
        for folder, ending in cls.folders.values():
            if not _names(root / folder):
                continue
            if not any(name.lower().endswith(ending) for name in _names(root / folder)):
                return ""  # it holds something else: another archive's
            found.append(f"{folder}/*{ending}")
        image = "{}/*{}".format(*cls.folders["image"])
        return ", ".join(found) if image in found and len(found) > 1 else ""

    def ids(self, part: Part) -> list[str]:
        path = self.root / self.lists[part]
        names = read_list(path)
        if not names:
            raise DataError(f"{path}: expected a list of names, one a line, found an empty file")
        return names

    def file(self, field: str, sample: str) -> Path:
        """Where a field of a sample lies, if it does, but for an ending in capitals."""
        folder, ending = self.folders[field]
        return self.root / folder / f"{sample}{ending}"

    def path(self, field: str, sample: str) -> Path | None:
        usual = self.file(field, sample)
        return first_file(usual, usual.with_suffix(usual.suffix.upper()))

    def at(self, field: str, sample: str) -> Path:
        """Where a field of a sample lies; the usual place if it is not there, so that an error names it."""
        return self.path(field, sample) or self.file(field, sample)

    def image(self, sample: str) -> Array:
        return files.read_rgb(self.at("image", sample))

    def label(self, field: str, sample: str, part: Part) -> Label:
        path = self.at(field, sample)
        encoding = self.normals if field == "normals" else self.encodings[field]
        stored = read_numbers(path, encoding.member)
        if field == "semantic":
            return _semantic(stored, encoding, self.chosen, path)
        if field == "depth":
            return _depth(stored, encoding, path)
        if field == "normals":
            return _normals(stored, encoding, path)
        return _edges(stored, encoding, path)

    def group(self, sample: str) -> str:
        return _block(sample)

    def notes(self) -> Mapping[str, str]:
        try:
            ids = self.ids("train")
        except DataError:
            return {}  # named where samples are listed
        return {"normals": axes_note(self, [ids[0], ids[len(ids) // 2], ids[-1]], self.axes)}


class Survey(Archive):
    """NYUD_MT as the survey's code reads it."""

    name = "survey"
    about = "NYUD_MT of the survey's code (images .jpg, segmentation .png; depth, normals and edge .npy)"
    folders: ClassVar[Mapping[str, tuple[str, str]]] = {
        "image": ("images", ".jpg"),
        "semantic": ("segmentation", ".png"),
        "depth": ("depth", ".npy"),
        "normals": ("normals", ".npy"),
        "edges": ("edge", ".npy"),
    }
    encodings: ClassVar[Mapping[str, Encoding]] = {
        "semantic": Encoding("semantic", offset=-1, unknown=(0,)),
        "depth": Encoding("depth", unknown=(0,)),
        "normals": Encoding("normals"),
        "edges": Encoding("mask"),
    }


class ASTMT(Archive):
    """The older NYUD_MT, of ASTMT's code."""

    name = "astmt"
    about = "the older NYUD_MT of ASTMT (images and normals .jpg, segmentation and depth .mat, edge .png)"
    folders: ClassVar[Mapping[str, tuple[str, str]]] = {
        "image": ("images", ".jpg"),
        "semantic": ("segmentation", ".mat"),
        "depth": ("depth", ".mat"),
        "normals": ("normals", ".jpg"),
        "edges": ("edge", ".png"),
    }
    encodings: ClassVar[Mapping[str, Encoding]] = {
        "semantic": Encoding("semantic", offset=-1, unknown=(0,), member="segmentation"),
        "depth": Encoding("depth", unknown=(0,), member="depth"),
        "normals": Encoding("normals", scale=2 / 255, offset=-1),
        "edges": Encoding("mask"),
    }


class ATRC(Archive):
    """NYUDv2 of ATRC, InvPT and TaskPrompter."""

    name = "atrc"
    about = "NYUDv2 of ATRC and InvPT (images, segmentation, normals and edge .png, depth .npy)"
    folders: ClassVar[Mapping[str, tuple[str, str]]] = {
        "image": ("images", ".png"),
        "semantic": ("segmentation", ".png"),
        "depth": ("depth", ".npy"),
        "normals": ("normals", ".png"),
        "edges": ("edge", ".png"),
    }
    encodings: ClassVar[Mapping[str, Encoding]] = {
        "semantic": Encoding("semantic", offset=-1, unknown=(0,)),
        "depth": Encoding("depth", unknown=(0,)),
        "normals": Encoding("normals", scale=2 / 255, offset=-1),
        "edges": Encoding("mask"),
    }


class MTAN(Archive):
    """The arrays of MTAN, LibMTL and auto-lambda: numbered files, 288x384, 13 classes, no edges."""

    name = "mtan"
    about = (
        "the arrays of MTAN and LibMTL ({train,val}/{image,label,depth,normal}/*.npy, 288x384, 13 classes)"
    )
    own_classes = 13
    folders: ClassVar[Mapping[str, tuple[str, str]]] = {
        "image": ("image", ".npy"),
        "semantic": ("label", ".npy"),
        "depth": ("depth", ".npy"),
        "normals": ("normal", ".npy"),
    }
    encodings: ClassVar[Mapping[str, Encoding]] = {
        "semantic": Encoding("semantic", unknown=(-1,)),
        "depth": Encoding("depth", unknown=(0,)),
        "normals": Encoding("normals"),
    }
    parts: ClassVar[Mapping[Part, str]] = {"train": "train", "test": "val"}

    @classmethod
    def evidence(cls, root: Path) -> str:
        if any((root / "train" / name).is_dir() for name in ("label_7", "label_19")):
            return ""  # the package of Cityscapes by the same authors
        return f"train/ and val/: {found}" if (found := super().evidence(root / "train")) else ""

    def hint(self, field: str) -> str:
        return "this archive has no edges" if field == "edges" else ""

    def ids(self, part: Part) -> list[str]:
        folder = self.root / self.parts[part] / "image"
        numbers = sorted(int(name[:-4]) for name in _names(folder) if re.fullmatch(r"\d+\.npy", name))
        if not numbers:
            raise DataError(f"{folder}: expected images 0.npy, 1.npy, ..., found none; complete the folder")
        return [f"{self.parts[part]}-{number}" for number in numbers]

    def file(self, field: str, sample: str) -> Path:
        folder, ending = self.folders[field]
        part, _, number = sample.partition("-")
        return self.root / part / folder / f"{number}{ending}"

    def image(self, sample: str) -> Array:
        path = self.at("image", sample)
        stored = files.read_array(path)
        if stored.ndim != 3 or stored.shape[-1] != 3 or not stored.size or stored.dtype.kind not in "fu":
            raise DataError(
                f"{path}: expected a picture [H, W, 3] of numbers in [0, 1], found the shape {stored.shape} "
                f"of {stored.dtype}"
            )
        if stored.dtype == np.uint8:
            return stored
        if not (stored.min() >= 0 and stored.max() <= 1):
            raise DataError(
                f"{path}: expected numbers in [0, 1], found {stored.min():g} to {stored.max():g}; "
                f"is it normalised already?"
            )
        return np.round(255 * stored).astype(np.uint8)


class Built(Archive):
    """What :func:`plait.data.nyud.build.build_nyud` makes."""

    name = "built"
    about = "made by `plait data build nyud` (manifest.json, images/, semantic40/, depth/, normals/, edges/)"
    lists: ClassVar[Mapping[Part, str]] = {"train": "train.txt", "test": "test.txt"}
    folders: ClassVar[Mapping[str, tuple[str, str]]] = {
        "image": ("images", ".png"),
        "semantic": ("semantic40", ".png"),
        "depth": ("depth", ".npy"),
        "normals": ("normals", ".npy"),
        "edges": ("edges", ".png"),
    }
    encodings: ClassVar[Mapping[str, Encoding]] = {
        "semantic": Encoding("semantic"),
        "depth": Encoding("depth", unknown=(0,)),
        "normals": Encoding("normals"),
        "edges": Encoding("mask"),
    }

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        self.manifest = read_manifest(root)
        super().__init__(root, options)
        if self.axes != OURS:
            raise ConfigurationError(
                f"normals_axes: {root} was built with the axes {OURS!r}, got {self.axes!r}; leave it out"
            )

    def choose_classes(self, asked: int | None) -> int:
        has = self.manifest["classes"]
        if asked is not None and asked not in has:
            hint = "; put class13Mapping.mat beside the sources and build again" if asked == 13 else ""
            raise ConfigurationError(
                f"classes: {self.root} was built with {' and '.join(map(str, has))} classes, "
                f"got {asked!r}{hint}"
            )
        return asked or 40

    @classmethod
    def evidence(cls, root: Path) -> str:
        try:
            made = read_manifest(root)
        except DataError:
            return ""
        return f"manifest.json: NYUD built by plait, rules {made['rules']}"

    @classmethod
    def nearly(cls, root: Path) -> str:
        if not (root / "settings.json").is_file() or (root / "manifest.json").exists():
            return ""
        return "building it was not finished, run the same `plait data build nyud` again"

    def file(self, field: str, sample: str) -> Path:
        if field == "semantic":
            return self.root / f"semantic{self.chosen}" / f"{sample}.png"
        return super().file(field, sample)

    def group(self, sample: str) -> str:
        return str(self.manifest["scenes"].get(sample, _block(sample)))

    def notes(self) -> Mapping[str, str]:
        options = self.manifest["options"]
        border = "cut off" if options["crop"] else "kept"
        return {
            "depth": f"{options['depth']}, in metres",
            "white border": border,
            "lists of classes": " and ".join(map(str, self.manifest["classes"])),
            "normals": "fitted to the depth",
        }


def read_manifest(root: Path) -> dict[str, Any]:
    """``manifest.json`` of a built folder.

    Raises:
        DataError: If there is none, or not one of this format.
    """
    path = root / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        good = (
            manifest["set"] == "nyud"
            and manifest["format"] == 1
            and set(manifest["classes"]) <= set(CLASSES)
            and isinstance(manifest["scenes"], dict)
            and {"depth", "crop"} <= set(manifest["options"])
            and "rules" in manifest
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not the manifest of a built NYUD ({type(error).__name__}: {error})"
        ) from error
    if not good:
        raise DataError(
            f"{path}: not the manifest of a NYUD that this version of plait reads; build it again"
        )
    return dict(manifest)


# --- from numbers to labels -----------------------------------------------------------------------------


def _semantic(stored: Array, encoding: Encoding, classes: int, path: Path) -> Label:
    label = decode(stored, encoding, name=str(path))
    ids = label.numpy()
    highest = int(np.where(ids == UNKNOWN_CLASS, 0, ids).max(initial=0))
    if highest >= classes:
        raise DataError(
            f"{path}: expected {classes} classes, found the stored id {highest - int(encoding.offset)}; "
            f"is it of another list of classes?"
        )
    return label


def _depth(stored: Array, encoding: Encoding, path: Path) -> Label:
    label = decode(stored, encoding, name=str(path))
    metres = label.numpy()
    wrong = np.isinf(metres) | (metres < 0) | (metres > FARTHEST)
    if wrong.any():
        raise DataError(
            f"{path}: expected depth in metres, 0 where unknown, found {metres[wrong][0]:g}; "
            f"is it damaged, or in another unit?"
        )
    return label


def _normals(stored: Array, encoding: Encoding, path: Path) -> Label:
    label = decode(stored, encoding, name=str(path))
    if stored.dtype == np.uint8:  # no unit vector is stored as nearly grey, or as black
        coded = stored.astype(np.float32) * np.float32(2 / 255) - 1
        length = np.sqrt((coded**2).sum(-1))
        label.numpy()[:, (length < 0.5) | (length > 1.5)] = np.nan
    return label


def _edges(stored: Array, encoding: Encoding, path: Path) -> Label:
    highest = float(np.max(stored, initial=0))
    lowest = float(np.min(stored, initial=0))
    if not (lowest >= 0 and highest <= 255):
        raise DataError(f"{path}: expected edges from 0 to 1, or to 255, found {lowest:g} to {highest:g}")
    scale = 1 / 255 if highest > 1 else 1.0
    return decode(stored, replace(encoding, scale=scale), name=str(path))


def _names(folder: Path) -> Sequence[str]:
    try:
        return [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return []


def _block(sample: str) -> str:
    """``NEIGHBOURS`` successive numbers are one block; a name without a number is its own."""
    number = re.search(r"^(.*?)(\d+)$", sample)
    return f"{number[1]}{int(number[2]) // NEIGHBOURS}" if number else sample
