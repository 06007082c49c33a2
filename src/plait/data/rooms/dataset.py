"""The rendered rooms, read: one parquet file a split and a manifest with checksums."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from plait.data import files
from plait.data.cache import VERSION, DecodedField
from plait.data.labels import UNKNOWN_CLASS, Depth, Label, Mask, Normals, Semantic
from plait.data.sample import Geometry, Sample
from plait.errors import ConfigurationError, DataError
from plait.registry import nearest

Array = NDArray[Any]

PACKAGED = Path(__file__).parent / "starter"
"""The starter set that comes with plait."""

FIELDS: Mapping[str, type[Label]] = {
    "semantic": Semantic,
    "instances": Semantic,
    "depth": Depth,
    "normals": Normals,
    "edges": Mask,
    "saliency": Mask,
}

# How each column is stored: Pillow modes that are acceptable, then what the cache holds.
STORED: Mapping[str, tuple[tuple[str, ...], type[np.generic], int]] = {
    "image": (("RGB",), np.uint8, 3),
    "semantic": (("L", "P"), np.uint8, 1),
    "instances": (("L", "I;16"), np.uint16, 1),
    "depth": (("I;16",), np.uint16, 1),
    "normals": (("RGB",), np.uint8, 3),
    "edges": (("L",), np.uint8, 1),
    "saliency": (("L",), np.uint8, 1),
}


class Rooms:
    """Rendered rooms with exact labels: what came with plait, or what ``plait data build`` made.

    A folder holds ``{split}.parquet`` and ``manifest.json``; each file is verified against the manifest's
    SHA-256 when it is opened (again only if its size, time or inode has changed). Columns:

    ========= ============================================== =============================================
    column    stored as                                      given as
    ========= ============================================== =============================================
    image     WebP, RGB                                      uint8 ``[3, H, W]``
    semantic  PNG u8, 255 unknown                            :class:`Semantic`, ids into ``classes``
    instances PNG u8 or u16, an id an object, 0 unknown      :class:`Semantic`, ids without class names
    depth     PNG u16, millimetres, 0 unknown                :class:`Depth`, metres
    normals   PNG RGB, n = v / 127.5 - 1, (0, 0, 0) unknown  :class:`Normals`, made unit length again
    edges     PNG u8, 0 or 255                               :class:`Mask`
    saliency  PNG u8, 0 or 255                               :class:`Mask`
    ========= ============================================== =============================================

    An object's id is one higher in memory than in the file from 255 on: 255 is what is unknown in memory.

    Args:
        split: ``train``, ``val`` or ``test``.
        labels: The label columns to load.
        root: A folder, or a ``.zip`` or ``.tar`` of one; the packaged starter set by default.
        cache: ``decoded`` keeps every used column decoded and memory-mapped in the cache folder;
            ``none`` decodes each time.
        cache_dir: Where to keep it; by default the user's cache folder (``$XDG_CACHE_HOME/plait``).

    Raises:
        ConfigurationError: If the split or a label does not exist; names the nearest.
        DataError: If a file is missing, damaged or not of this layout; names the file (and the sample).
    """

    fields: Mapping[str, type[Label]] = FIELDS
    splits: Sequence[str] = ("train", "val", "test")

    def __init__(
        self,
        split: str = "train",
        labels: Sequence[str] = ("semantic", "depth", "normals"),
        root: Path | str | None = None,
        cache: Literal["decoded", "none"] = "decoded",
        cache_dir: Path | str | None = None,
    ) -> None:
        if cache not in ("decoded", "none"):
            raise ConfigurationError(f"cache must be 'decoded' or 'none', got {cache!r}")
        for label in labels:
            if label not in FIELDS:
                raise ConfigurationError(
                    f"rooms has no label {label!r}{nearest(label, FIELDS)}; it has {', '.join(FIELDS)}"
                )
        self.split = split
        self.labels = tuple(dict.fromkeys(labels))
        self.cache = cache
        self.cache_dir = Path(cache_dir) if cache_dir is not None else files.cache_folder()
        self.root = locate(Path(root) if root is not None else PACKAGED, self.cache_dir)
        self.manifest = read_manifest(self.root)
        entry = split_entry(self.root, self.manifest, split)
        self.path = self.root / entry["file"]
        self.checksum = str(entry["sha256"])
        files.verify(self.path, self.checksum, self.cache_dir)
        self.size = (int(self.manifest["size"][0]), int(self.manifest["size"][1]))
        self.classes: Mapping[str, Sequence[str]] = {"semantic": tuple(self.manifest["classes"])}
        self.ids: list[str] = self._read(["id"]).column("id").to_pylist()
        if len(self.ids) != entry["images"]:
            raise DataError(
                f"{self.path}: the manifest promises {entry['images']} images, found {len(self.ids)}"
            )
        self._open()

    def _open(self) -> None:
        used = ("image", *self.labels)
        self._encoded: dict[str, Any] = {}
        self._decoded: dict[str, Array] = {}
        if self.cache == "decoded":
            folder = self.cache_dir / "decoded" / f"rooms-{self.checksum[:24]}-v{VERSION}"
            for field in used:
                _, dtype, channels = STORED[field]
                shape = (len(self), channels, *self.size)
                self._decoded[field] = DecodedField(folder, field, shape, dtype).open(self._decode_all(field))
        else:
            table = self._read(list(used))
            self._encoded = {field: table.column(field) for field in used}

    def _decode_all(self, field: str) -> Iterator[Array]:
        column = self._read([field]).column(field)
        for place in range(len(self)):
            yield self._decode(field, place, column[place].as_py())

    def _decode(self, field: str, place: int, content: bytes | None) -> Array:
        name = f"{self.path} sample {self.ids[place]} [{field}]"
        if content is None:
            raise DataError(f"{name}: is empty; the file is not a finished data set")
        modes, dtype, channels = STORED[field]
        if field == "image":
            pixels = files.read_rgb(content, name=name, size=self.size)
        else:
            pixels = files.read_map(content, modes=modes, name=name, size=self.size)
        if field == "semantic":
            highest = int(np.where(pixels == 255, 0, pixels).max())
            if highest >= len(self.classes["semantic"]):
                raise DataError(
                    f"{name}: class id {highest} found, expected 0..{len(self.classes['semantic']) - 1}, "
                    f"or 255 for unknown"
                )
        if channels == 3:
            return pixels.transpose(2, 0, 1).astype(dtype)
        return pixels[None].astype(dtype)

    def _read(self, columns: list[str]) -> Any:
        try:
            return pq.read_table(self.path, columns=columns)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DataError(f"{self.path}: columns {', '.join(columns)} cannot be read ({error})") from error

    def _stored(self, field: str, place: int) -> Array:
        if self._decoded:
            stored: Array = self._decoded[field][place]
            return stored
        return self._decode(field, place, self._encoded[field][place].as_py())

    def __len__(self) -> int:
        return len(self.ids)

    def id(self, place: int) -> str:
        """The name of the sample at a place."""
        return self.ids[place]

    def present(self, place: int) -> frozenset[str]:
        """The labels that a sample has: all that were asked for."""
        return frozenset(self.labels)

    def __getitem__(self, place: int) -> Sample:
        image = torch.from_numpy(np.array(self._stored("image", place)))
        targets = {label: CONVERT[label](self._stored(label, place)) for label in self.labels}
        return Sample(self.ids[place], image, targets, Geometry(self.size))

    def state(self) -> str:
        """Changes with the set's content: the checksum of the split's file."""
        return self.checksum

    @property
    def facts(self) -> Mapping[str, str]:
        """What a person wants to know about the set: ``{what: answer}``."""
        return {
            "folder": str(self.root),
            "licence": str(self.manifest.get("licence", "not stated")),
            "made by": str(self.manifest.get("command", "not stated")),
            "checksums": "each split's file is verified against the manifest's SHA-256",
            "size": f"{self.size[0]}x{self.size[1]} (height x width)",
            "classes": ", ".join(self.classes["semantic"]),
        }

    def camera(self, place: int) -> tuple[float, float, float, float]:
        """The camera's ``(fx, fy, cx, cy)`` in pixels of the original image."""
        row = self._read(["fx", "fy", "cx", "cy"]).slice(place, 1).to_pylist()[0]
        return (float(row["fx"]), float(row["fy"]), float(row["cx"]), float(row["cy"]))

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would travel to a worker as a copy of its content: the worker opens its own.
        return {key: value for key, value in self.__dict__.items() if key not in ("_decoded", "_encoded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _semantic(stored: Array) -> Label:
    return Semantic(torch.from_numpy(stored.astype(np.int64)))


def _instances(stored: Array) -> Label:
    ids = stored.astype(np.int64)
    ids += ids >= UNKNOWN_CLASS  # an object's id must not read as unknown
    ids[stored == 0] = UNKNOWN_CLASS
    return Semantic(torch.from_numpy(ids))


def _depth(stored: Array) -> Label:
    metres = stored.astype(np.float32)
    metres *= np.float32(1e-3)
    metres[stored == 0] = np.nan
    return Depth(torch.from_numpy(metres))


def _normals(stored: Array) -> Label:
    vectors = stored.astype(np.float32)
    vectors *= np.float32(1 / 127.5)
    vectors -= 1
    length = np.sqrt(np.einsum("chw,chw->hw", vectors, vectors))
    length[~stored.any(0)] = np.nan
    vectors /= length
    return Normals(torch.from_numpy(vectors))


def _mask(stored: Array) -> Label:
    probability = stored.astype(np.float32)
    probability *= np.float32(1 / 255)
    return Mask(torch.from_numpy(probability))


CONVERT = {
    "semantic": _semantic,
    "instances": _instances,
    "depth": _depth,
    "normals": _normals,
    "edges": _mask,
    "saliency": _mask,
}


def locate(root: Path, cache_dir: Path) -> Path:
    """The folder that holds ``manifest.json``: ``root`` itself, or inside the archive that it is.

    Raises:
        DataError: If there is none.
    """
    if root.is_file():
        root = files.unpack(root, cache_dir / "unpacked")
    for folder in (root, *sorted(child for child in root.glob("*") if child.is_dir())):
        if (folder / "manifest.json").is_file():
            return folder
    raise DataError(
        f"{root}: expected a folder (or archive) with manifest.json and {{split}}.parquet; "
        f"give root, or make one with: plait data build rooms --out DIR"
    )


def read_manifest(root: Path) -> dict[str, Any]:
    """``manifest.json`` of a folder: format, size, classes, licence, command and splits.

    Raises:
        DataError: If it is damaged, incomplete or of a newer format.
    """
    path = root / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        complete = (
            isinstance(manifest["splits"], dict)
            and len(manifest["size"]) == 2
            and all(isinstance(extent, int) and 0 < extent < 65536 for extent in manifest["size"])
            and all(isinstance(name, str) for name in manifest["classes"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a manifest ({type(error).__name__}: {error}); get the set again"
        ) from error
    if not complete or manifest.get("format") != 1:
        raise DataError(
            f"{path}: expected a manifest of format 1 with size, classes and splits, found format "
            f"{manifest.get('format')!r}; get the set again, or a newer plait"
        )
    return dict(manifest)


def split_entry(root: Path, manifest: Mapping[str, Any], split: str) -> dict[str, Any]:
    """What the manifest says about a split: ``file``, ``images``, ``bytes``, ``sha256``.

    Raises:
        ConfigurationError: If there is no such split.
        DataError: If the entry is incomplete or points outside its folder.
    """
    splits = manifest["splits"]
    if split not in splits:
        raise ConfigurationError(
            f"{root} has no split {split!r}{nearest(split, splits)}; it has {', '.join(splits)}"
        )
    entry = splits[split]
    if not isinstance(entry, dict) or not {"file", "images", "sha256"} <= set(entry):
        raise DataError(f"{root / 'manifest.json'}: split {split!r} lacks file, images or sha256")
    if Path(str(entry["file"])).name != entry["file"]:
        raise DataError(
            f"{root / 'manifest.json'}: split {split!r} points outside its folder: {entry['file']!r}"
        )
    return dict(entry)
