"""Tiny folders in the exact layouts of the archives of NYU Depth v2, and what can be wrong with one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from plait.data.nyud import build
from plait.data.nyud.camera import intrinsics
from plait.testing import PlaneScene, analytic_scene

Array = NDArray[Any]

TRAIN = ("0005", "0006", "0017", "0018", "0342", "1001")
TEST = ("0001", "0002", "0660")

UNLABELLED = "0018"
"""Nothing is known of its classes, depth and normals, and it has no edges."""
GREY = "0017"
WIDE = "0660"
"""Of another size and shape than the others."""

NORMAL = np.array([0.3, -0.4, -1.0]) / np.linalg.norm([0.3, -0.4, -1.0])
QUADRANTS = (1, 2, 40, 0)
"""The stored class of each quarter of the image: wall, floor, otherprop, unlabelled."""


def plane_depth(size: tuple[int, int], distance: float) -> Array:
    """Metres to a tilted plane, seen by the set's own camera."""
    fx, fy, cx, cy = intrinsics(size)
    x, y = analytic_scene(size).grid()
    ray = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)])
    return np.asarray(-distance / np.tensordot(NORMAL, ray, 1), np.float32)


def scene_of(sample: str) -> PlaneScene:
    return analytic_scene((40, 72) if sample == WIDE else (48, 64))


@dataclass(frozen=True)
class Maps:
    """What every archive stores of a sample, each in its own way; normals in plait's axes."""

    image: Array
    classes: Array
    depth: Array
    normals: Array
    edges: Array


def maps_of(sample: str) -> Maps:
    """The labels of a sample; two pixels at the top left have no depth and no normal."""
    scene = scene_of(sample)
    x, y = scene.grid()
    classes = np.array(QUADRANTS, np.uint8)[scene.class_at(x, y)]
    depth = plane_depth(scene.size, 2.0)
    normals = np.broadcast_to(NORMAL.astype(np.float32), (*scene.size, 3)).copy()
    depth[0, :2], normals[0, :2] = 0, 0
    edges = np.zeros(scene.size, np.float32)
    edges[scene.size[0] // 2], edges[:, scene.size[1] // 2] = 1, 1
    if sample == UNLABELLED:
        classes, depth, normals, edges = (
            np.zeros_like(values) for values in (classes, depth, normals, edges)
        )
    image = np.round(255 * scene.texture_at(x, y)).astype(np.uint8).transpose(1, 2, 0)
    return Maps(image, classes, depth, normals, edges)


def coded(normals: Array) -> Array:
    """Normals as a picture: ``n = 2 v / 255 - 1``, so that a vector of length zero is grey."""
    return np.round((normals + 1) * 127.5).astype(np.uint8)


def save(path: Path, values: Array, **options: Any) -> None:
    """Writes an array in the format that the name asks for; ``member`` names the variable of a .mat file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".mat":
        savemat(path, {options["member"]: values})
    else:
        Image.fromarray(values).save(path, **options)


def write_lists(root: Path) -> None:
    (root / "gt_sets").mkdir(parents=True)
    for part, names in (("train", TRAIN), ("val", TEST)):
        (root / "gt_sets" / f"{part}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def write_survey(root: Path) -> Path:
    """NYUD_MT of the survey's code."""
    write_lists(root)
    for sample in (*TRAIN, *TEST):
        maps = maps_of(sample)
        image = maps.image.mean(-1).astype(np.uint8) if sample == GREY else maps.image
        save(root / "images" / f"{sample}.jpg", image, quality=95)
        save(root / "segmentation" / f"{sample}.png", maps.classes)
        save(root / "depth" / f"{sample}.npy", maps.depth)
        save(root / "normals" / f"{sample}.npy", maps.normals)
        save(root / "edge" / f"{sample}.npy", maps.edges)
    return root


def write_astmt(root: Path) -> Path:
    """The older NYUD_MT."""
    write_lists(root)
    for sample in (*TRAIN, *TEST):
        maps = maps_of(sample)
        save(root / "images" / f"{sample}.jpg", maps.image, quality=95)
        save(root / "segmentation" / f"{sample}.mat", maps.classes, member="segmentation")
        save(root / "depth" / f"{sample}.mat", maps.depth, member="depth")
        save(root / "normals" / f"{sample}.jpg", coded(maps.normals), quality=95, subsampling=0)
        save(root / "edge" / f"{sample}.png", (255 * maps.edges).astype(np.uint8))
    return root


def write_atrc(root: Path) -> Path:
    """NYUDv2 of ATRC and InvPT."""
    write_lists(root)
    for sample in (*TRAIN, *TEST):
        maps = maps_of(sample)
        save(root / "images" / f"{sample}.png", maps.image)
        save(root / "segmentation" / f"{sample}.png", maps.classes)
        save(root / "depth" / f"{sample}.npy", maps.depth)
        save(root / "normals" / f"{sample}.png", coded(maps.normals))
        save(root / "edge" / f"{sample}.png", (255 * maps.edges).astype(np.uint8))
    return root


def write_mtan(root: Path) -> Path:
    """The arrays of MTAN: numbered files, 13 classes, -1 unlabelled, float64."""
    for part, samples in (("train", (*TRAIN, *TRAIN)), ("val", TEST)):
        for number, sample in enumerate(samples):
            maps = maps_of(sample)
            save(root / part / "image" / f"{number}.npy", maps.image / 255.0)
            save(root / part / "label" / f"{number}.npy", np.minimum(maps.classes, 13).astype(float) - 1)
            save(root / part / "depth" / f"{number}.npy", maps.depth[..., None].astype(float))
            save(root / part / "normal" / f"{number}.npy", maps.normals.astype(float))
    return root


# --- the sources of the built variant -------------------------------------------------------------------

NUMBERS = {"train": (2, 3, 4, 7, 9, 10), "test": (1, 5, 8)}
"""From 1, as in splits.mat; picture 6 is in neither part."""
SCENES = ("kitchen_0001", *("office_0002",) * 2, *("bedroom_0003",) * 3, *("den_0004",) * 4)

LABELS_894 = (21, 894, 0, 5)
"""The label of each quarter of a picture; 0 is unlabelled."""


def map_class() -> Array:
    """A made-up map of the 894 classes to 40, in the real one's form: float64 [1, 894]."""
    mapped = (np.arange(894) % 39 + 1).astype(float)
    mapped[893] = 40
    return mapped[None]


def labels_13() -> Array:
    """A made-up map of 40 classes to 13, from 1."""
    return (np.arange(40) % 13 + 1).astype(np.uint8)[None]


def source_maps(number: int, size: tuple[int, int]) -> dict[str, Array]:
    """What the labelled file holds of a picture, with MATLAB's order of axes."""
    scene = analytic_scene(size)
    x, y = scene.grid()
    labels = np.array(LABELS_894, np.uint16)[scene.class_at(x, y)]
    instances = np.where(labels > 0, 1, 0).astype(np.uint8)
    instances[:, : size[1] // 4][labels[:, : size[1] // 4] > 0] = 2
    depth = plane_depth(size, 1.5 + 0.1 * number)
    raw = depth.copy()
    raw[: size[0] // 8, : size[1] // 8] = 0
    image = np.round(255 * scene.texture_at(x, y)).astype(np.uint8).transpose(1, 2, 0)
    return {"images": image, "labels": labels, "instances": instances, "depths": depth, "rawDepths": raw}


def write_sources(
    root: Path, size: tuple[int, int] = (48, 64), numbers: Mapping[str, tuple[int, ...]] = NUMBERS
) -> Path:
    """nyu_depth_v2_labeled.mat of version 7.3 with its text of 512 bytes, the split, and both maps."""
    root.mkdir(parents=True, exist_ok=True)
    pictures = [source_maps(number, size) for number in range(1, len(SCENES) + 1)]
    path = root / build.LABELLED
    with h5py.File(path, "w", userblock_size=512) as file:
        for name in pictures[0]:
            # HDF5 written by MATLAB has the axes in reverse: the pictures' number comes first.
            stored = np.stack([np.ascontiguousarray(maps[name].T) for maps in pictures])
            file.create_dataset(name, data=stored, compression="gzip")
        texts = file.create_group("#refs#")
        references = np.empty((1, len(SCENES)), h5py.ref_dtype)
        for place, scene in enumerate(SCENES):
            text = texts.create_dataset(f"{place}", data=np.array([list(scene.encode())], np.uint16).T)
            references[0, place] = text.ref
        file.create_dataset("scenes", data=references, dtype=h5py.ref_dtype)
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + b" " * 8 + b"\x00\x02IM")
    columns = {f"{part}Ndxs": np.array(numbers[part], float)[:, None] for part in ("train", "test")}
    savemat(root / build.SPLITS, columns)
    savemat(root / build.MAPPING_40, {"mapClass": map_class(), "className": np.array(["a"], object)})
    names = np.array(["bed", "books"], object)
    savemat(root / build.MAPPING_13, {"classMapping13": {"labels13": labels_13(), "class13": names}})
    return root


def write_built(root: Path) -> Path:
    """What the build makes of the sources."""
    build.build_nyud(write_sources(root / "sources"), root / "built", crop=False)
    return root / "built"


WRITERS: dict[str, Callable[[Path], Path]] = {
    "nyud/survey": write_survey,
    "nyud/astmt": write_astmt,
    "nyud/atrc": write_atrc,
    "nyud/mtan": write_mtan,
    "nyud/built": write_built,
}


# --- what can be wrong ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """A way to break a folder.

    Attributes:
        key: Which writer it starts from.
        spoil: Breaks the folder.
        expected: What the sentence must match: the file, and what is wrong.
        field: The field whose reading meets it.
    """

    key: str
    spoil: Callable[[Path], None]
    expected: str
    field: str = "semantic"


def _cut(file: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        content = (root / file).read_bytes()
        (root / file).write_bytes(content[: len(content) // 2])

    return spoil


def _put(file: str, make: Callable[[], Array], **options: Any) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        save(root / file, make(), **options)

    return spoil


def _pickled(root: Path) -> None:
    np.save(root / "depth" / "0001.npy", np.array([{"a": 1}], object), allow_pickle=True)


def _depth(value: float) -> Callable[[], Array]:
    def make() -> Array:
        depth = np.ones((48, 64), np.float32)
        depth[3, 4] = value
        return depth

    return make


def _listed(name: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        with (root / "gt_sets" / "val.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{name}\n")

    return spoil


def _named(file: str, words: str) -> str:
    return re.escape(file) + ".*" + words


BROKEN: dict[str, Broken] = {
    "a picture cut off": Broken("nyud/survey", _cut("images/0001.jpg"), _named("images/0001.jpg", "damaged")),
    "classes cut off": Broken(
        "nyud/survey", _cut("segmentation/0001.png"), _named("segmentation/0001.png", "damaged")
    ),
    "an array cut off": Broken(
        "nyud/survey", _cut("normals/0001.npy"), _named("normals/0001.npy", "damaged"), "normals"
    ),
    "a .mat cut off": Broken(
        "nyud/astmt", _cut("segmentation/0001.mat"), _named("segmentation/0001.mat", "damaged")
    ),
    "another size": Broken(
        "nyud/atrc",
        _put("segmentation/0001.png", lambda: np.ones((40, 64), np.uint8)),
        _named("segmentation/0001.png", "expected the image's size 48x64"),
    ),
    "a class too high": Broken(
        "nyud/survey",
        _put("segmentation/0001.png", lambda: np.full((48, 64), 41, np.uint8)),
        _named("segmentation/0001.png", "expected 40 classes, found the stored id 41"),
    ),
    "a class of 40 among 13": Broken(
        "nyud/mtan",
        _put("val/label/0.npy", lambda: np.full((48, 64), 13.0)),
        _named("val/label/0.npy", "expected 13 classes, found the stored id 13"),
    ),
    "a picture of no pixels": Broken(
        "nyud/mtan",
        _put("val/image/0.npy", lambda: np.zeros((0, 0, 3))),
        _named("val/image/0.npy", "expected a picture"),
    ),
    "pickled": Broken("nyud/survey", _pickled, _named("depth/0001.npy", "pickled"), "depth"),
    "another variable": Broken(
        "nyud/astmt",
        _put("segmentation/0001.mat", lambda: np.ones((48, 64), np.uint8), member="seg"),
        _named("segmentation/0001.mat", "no variable 'segmentation'; it has seg"),
    ),
    "infinite depth": Broken(
        "nyud/survey",
        _put("depth/0001.npy", _depth(np.inf)),
        _named("depth/0001.npy", "expected depth in metres.*found inf"),
        "depth",
    ),
    "negative depth": Broken(
        "nyud/atrc",
        _put("depth/0001.npy", _depth(-1)),
        _named("depth/0001.npy", "expected depth in metres.*found -1"),
        "depth",
    ),
    "depth in millimetres": Broken(
        "nyud/survey",
        _put("depth/0001.npy", _depth(2500)),
        _named("depth/0001.npy", "found 2500; is it damaged, or in another unit"),
        "depth",
    ),
    "normals of two channels": Broken(
        "nyud/survey",
        _put("normals/0001.npy", lambda: np.ones((48, 64, 2), np.float32)),
        _named("normals/0001.npy", r"expected \[H, W, 3\]"),
        "normals",
    ),
    "edges below zero": Broken(
        "nyud/survey",
        _put("edge/0001.npy", lambda: np.full((48, 64), -1.0, np.float32)),
        _named("edge/0001.npy", "expected edges from 0 to 1"),
        "edges",
    ),
    "a picture that is normalised": Broken(
        "nyud/mtan",
        _put("val/image/0.npy", lambda: np.full((48, 64, 3), 2.0)),
        _named("val/image/0.npy", r"expected numbers in \[0, 1\], found 2 to 2"),
    ),
    "a picture of NaN": Broken(
        "nyud/mtan",
        _put("val/image/0.npy", lambda: np.full((48, 64, 3), np.nan)),
        _named("val/image/0.npy", r"expected numbers in \[0, 1\]"),
    ),
    "a grey array as a picture": Broken(
        "nyud/mtan",
        _put("val/image/0.npy", lambda: np.ones((48, 64))),
        _named("val/image/0.npy", r"expected a picture \[H, W, 3\]"),
    ),
    "no pictures of a part": Broken(
        "nyud/mtan",
        lambda root: (root / "val").rename(root / "elsewhere") and None,
        _named("val/image", "found none"),
    ),
    "no list": Broken(
        "nyud/survey",
        lambda root: (root / "gt_sets" / "val.txt").unlink(),
        _named("gt_sets/val.txt", "expected a list of names"),
    ),
    "an empty list": Broken(
        "nyud/survey",
        lambda root: (root / "gt_sets" / "val.txt").write_text("") and None,
        _named("gt_sets/val.txt", "found an empty file"),
    ),
    "a name that climbs": Broken(
        "nyud/survey", _listed("../../secret"), _named("gt_sets/val.txt", "leads outside the folder")
    ),
    "an absolute name": Broken(
        "nyud/survey", _listed("/etc/passwd"), _named("gt_sets/val.txt", "leads outside the folder")
    ),
    "a name twice": Broken("nyud/survey", _listed("0001"), "names 0001 more than once"),
    "a label missing": Broken(
        "nyud/survey",
        lambda root: (root / "segmentation" / "0001.png").unlink(),
        "1 of 3 samples of nyud test have no semantic file .*0001",
    ),
    "a picture missing": Broken(
        "nyud/atrc",
        lambda root: (root / "images" / "0001.png").unlink(),
        "1 of 3 samples of nyud test have no image file .*0001",
    ),
    "a folder of another archive": Broken(
        "nyud/survey",
        lambda root: [path.rename(path.with_suffix(".mat")) for path in (root / "depth").iterdir()] and None,
        "not a known layout of nyud",
    ),
    "a damaged manifest": Broken("nyud/built", _cut("manifest.json"), "not a known layout of nyud"),
}
