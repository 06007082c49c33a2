"""Tiny folders in the exact layouts of Cityscapes, and what can be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tests.layouts.faults import Fault, truncate

from plait.testing import PlaneScene, analytic_scene

Array = NDArray[Any]

SIZE = (32, 64)
SCENE: PlaneScene = analytic_scene(SIZE)

# --- the owners' files ------------------------------------------------------------------------------------

OFFICIAL = {
    "train": ("aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313",
              "bochum_000000_000600", "ulm_000000_000019", "ulm_000001_000019"),
    "val": ("frankfurt_000000_000294", "frankfurt_000000_000576", "lindau_000000_000019"),
}  # fmt: skip
UNLABELLED = "ulm_000000_000019"
"""Nothing in it has a class."""

BASELINE, FX = 0.209313, 2262.52
LABEL_IDS = (7, 11, 26, 24)
"""Road, building, car, person: a quarter of the image each; the first two rows have none (id 0)."""
INSTANCE_IDS = (7, 11, 26001, 24)
"""One car; the people are a group, which has no number."""


def write_official(root: Path) -> Path:
    for part, samples in OFFICIAL.items():
        for sample in samples:
            write_official_sample(root, part, sample)
    return root


def official_file(package: str, part: str, sample: str, ending: str) -> str:
    return f"{package}/{part}/{sample.split('_')[0]}/{sample}_{ending}"


def write_official_sample(root: Path, part: str, sample: str) -> None:
    def path(package: str, ending: str) -> Path:
        return made(root / official_file(package, part, sample, ending))

    labels = label_ids() if sample != UNLABELLED else np.zeros(SIZE, dtype=np.uint8)
    Image.fromarray(picture()).save(path("leftImg8bit", "leftImg8bit.png"))
    Image.fromarray(labels).save(path("gtFine", "gtFine_labelIds.png"))
    Image.fromarray(instance_ids()).save(path("gtFine", "gtFine_instanceIds.png"))
    Image.fromarray(stored_disparity(BASELINE * FX / depth())).save(path("disparity", "disparity.png"))
    camera = {"extrinsic": {"baseline": BASELINE, "pitch": 0.05}, "intrinsic": {"fx": FX, "fy": 2265.3}}
    path("camera", "camera.json").write_text(json.dumps(camera))


def picture() -> Array:
    return (255 * SCENE.texture_at(*SCENE.grid())).astype(np.uint8).transpose(1, 2, 0)


def depth() -> Array:
    """In metres, 10 and more: nearer than 2 m, a disparity is too large for the 16 bits."""
    return 6 * SCENE.depth_at(*SCENE.grid())


def quadrants(values: tuple[int, ...], dtype: type[np.generic] = np.uint8) -> Array:
    return np.array(values, dtype=dtype)[SCENE.class_at(*SCENE.grid())]


def label_ids() -> Array:
    ids = quadrants(LABEL_IDS)
    ids[:2] = 0
    return ids


def instance_ids() -> Array:
    ids = quadrants(INSTANCE_IDS, np.uint16)
    ids[:2] = 0
    return ids


def stored_disparity(disparity: Array, scale: int = 256) -> Array:
    """16 bits as the owners store it; unknown in the first row, infinitely far in the second."""
    stored = np.round(scale * disparity + 1).astype(np.uint16)
    stored[0], stored[1] = 0, 1
    return stored


# --- MTAN's package -----------------------------------------------------------------------------------------

MTAN = {"train": range(6), "val": range(3)}
INVERSE_DEPTH = 0.25
"""Of every known pixel; the first row is unknown."""


def write_mtan(root: Path) -> Path:
    """As LibMTL reads it: one folder of labels, here of 7 classes."""
    for part, numbers in MTAN.items():
        for number in numbers:
            write_mtan_sample(root, part, number, {"label": 7})
    return root


def write_mtan_all(root: Path) -> Path:
    """With labels of 2, 7 and 19 classes."""
    for part, numbers in MTAN.items():
        for number in numbers:
            write_mtan_sample(root, part, number, {"label_2": 2, "label_7": 7, "label_19": 19})
    return root


def write_mtan_sample(root: Path, part: str, number: int, labels: Mapping[str, int]) -> None:
    def save(folder: str, array: Array) -> None:
        np.save(made(root / part / folder / f"{number}.npy"), array)

    save("image", SCENE.texture_at(*SCENE.grid()).transpose(1, 2, 0).astype(np.float32))
    for folder, classes in labels.items():
        save(folder, mtan_labels(classes, number))
    inverse = np.full((*SIZE, 1), INVERSE_DEPTH, dtype=np.float32)
    inverse[0] = 0
    save("depth", inverse)


def mtan_labels(classes: int, number: int) -> Array:
    ids = quadrants((0, 1, classes - 1, classes // 2), np.int64).astype(np.float32)
    ids[:2] = -1
    if number == 5:
        ids[:] = -1
    return ids


# --- auto-lambda's pictures ---------------------------------------------------------------------------------

PNG = {"train": range(12), "val": range(3)}
UIDS = (7, 26001, 2600104, 2400203)
"""Road, a car with no part, its licence plate, an arm."""
PARTS = (0, 0, 8, 3)


def write_png(root: Path) -> Path:
    for part, numbers in PNG.items():
        for number in numbers:
            write_png_sample(root, part, number)
    return root


def write_png_sample(root: Path, part: str, number: int) -> None:
    def path(folder: str, ending: str = "png") -> Path:
        return made(root / part / folder / f"{number}.{ending}")

    Image.fromarray(picture()).save(path("image"))
    Image.fromarray(label_ids() if number != 1 else np.zeros(SIZE, dtype=np.uint8)).save(path("seg"))
    Image.fromarray(quadrants(UIDS, np.int32)).save(path("part_seg", "tif"))
    Image.fromarray(stored_disparity(20 / depth(), 1024)).save(path("depth"))


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "cityscapes/official": write_official,
    "cityscapes/mtan": write_mtan,
    "cityscapes/mtan_all": write_mtan_all,
    "cityscapes/png": write_png,
}

# --- what can be wrong --------------------------------------------------------------------------------------

FIRST = OFFICIAL["train"][0]


def _official(package: str, ending: str, label: str, says: str, break_it: Callable[[Path], None]) -> Fault:
    file = official_file(package, "train", FIRST, ending)
    labels = () if label == "image" else (label,)
    return Fault(FIRST, labels, file, says, lambda root: break_it(root / file))


def _numbered(file: str, label: str, says: str, break_it: Callable[[Path], None]) -> Fault:
    part, _, name = file.split("/")
    labels = () if label == "image" else (label,)
    return Fault(f"{part}-{name.split('.')[0]}", labels, file, says, lambda root: break_it(root / file))


def pixels(array: Array) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(array).save(path)


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content)

    return write


def numbers(array: Array) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, allow_pickle=True)


def constant(value: float, shape: tuple[int, ...] = (*SIZE, 1)) -> Array:
    return np.full(shape, value, dtype=np.float32)


GREY8, GREY16 = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint16)
FAULTS: Mapping[str, tuple[str, Fault]] = {
    "truncated image": (
        "cityscapes/official",
        _official("leftImg8bit", "leftImg8bit.png", "image", "damaged", truncate),
    ),
    "truncated classes": (
        "cityscapes/official",
        _official("gtFine", "gtFine_labelIds.png", "semantic", "damaged", truncate),
    ),
    "truncated disparity": (
        "cityscapes/official",
        _official("disparity", "disparity.png", "depth", "damaged", truncate),
    ),
    "label id out of range": (
        "cityscapes/official",
        _official("gtFine", "gtFine_labelIds.png", "semantic", "found 34", pixels(GREY8 + 34)),
    ),
    "colours for label ids": (
        "cityscapes/official",
        _official("gtFine", "gtFine_labelIds.png", "semantic", "RGB", pixels(picture())),
    ),
    "classes of another size": (
        "cityscapes/official",
        _official("gtFine", "gtFine_labelIds.png", "semantic", "32x64", pixels(GREY8[:8])),
    ),
    "instance id out of range": (
        "cityscapes/official",
        _official("gtFine", "gtFine_instanceIds.png", "instances", "34000", pixels(GREY16 + 34000)),
    ),
    "disparity of 8 bits": (
        "cityscapes/official",
        _official("disparity", "disparity.png", "inverse_depth", "I;16", pixels(GREY8)),
    ),
    "camera that is no JSON": (
        "cityscapes/official",
        _official("camera", "camera.json", "depth", "baseline", text("{")),
    ),
    "camera without focal length": (
        "cityscapes/official",
        _official(
            "camera", "camera.json", "depth", "'fx'", text('{"extrinsic":{"baseline":1},"intrinsic":{}}')
        ),
    ),
    "camera with no baseline": (
        "cityscapes/official",
        _official(
            "camera",
            "camera.json",
            "depth",
            "positive",
            text('{"extrinsic":{"baseline":0},"intrinsic":{"fx":9}}'),
        ),
    ),
    "truncated array": (
        "cityscapes/mtan",
        _numbered("train/depth/0.npy", "inverse_depth", "damaged", truncate),
    ),
    "pickled array": (
        "cityscapes/mtan",
        _numbered("train/label/1.npy", "semantic", "pickled", numbers(np.array([{}], dtype=object))),
    ),
    "more classes than the others": (
        "cityscapes/mtan_all",
        _numbered("train/label_7/1.npy", "semantic", "class id 12", numbers(constant(12))),
    ),
    "fractions of classes": (
        "cityscapes/mtan_all",
        _numbered("train/label_7/1.npy", "semantic", "whole class ids", numbers(constant(0.5))),
    ),
    "infinite inverse depth": (
        "cityscapes/mtan",
        _numbered("train/depth/0.npy", "inverse_depth", "infinite", numbers(constant(np.inf))),
    ),
    "negative inverse depth": (
        "cityscapes/mtan",
        _numbered("train/depth/0.npy", "inverse_depth", "negative", numbers(constant(-1))),
    ),
    "inverse depth of another size": (
        "cityscapes/mtan",
        _numbered("train/depth/0.npy", "inverse_depth", "32x64", numbers(constant(1, (8, 8, 1)))),
    ),
    "image of one channel": (
        "cityscapes/mtan",
        _numbered("train/image/0.npy", "image", r"\[H, W, 3\]", numbers(constant(0.5))),
    ),
    "image of no pixels": (
        "cityscapes/mtan",
        _numbered("train/image/0.npy", "image", r"\[H, W, 3\]", numbers(constant(0.5, (0, 0, 3)))),
    ),
    "image of 255 levels": (
        "cityscapes/mtan",
        _numbered("train/image/0.npy", "image", r"\[0, 1\]", numbers(constant(255, (*SIZE, 3)))),
    ),
    "image with NaN": (
        "cityscapes/mtan",
        _numbered("train/image/0.npy", "image", "nan", numbers(constant(np.nan, (*SIZE, 3)))),
    ),
    "no id of panoptic parts": (
        "cityscapes/png",
        _numbered("train/part_seg/0.tif", "parts", "9901001", pixels(np.full(SIZE, 9901001, np.int32))),
    ),
    "fractions of panoptic parts": (
        "cityscapes/png",
        _numbered("train/part_seg/0.tif", "parts", "whole numbers", pixels(constant(0.5, SIZE))),
    ),
    "truncated parts": ("cityscapes/png", _numbered("train/part_seg/0.tif", "parts", "damaged", truncate)),
}
"""The layout to write, and what one reads of it once it is broken."""
