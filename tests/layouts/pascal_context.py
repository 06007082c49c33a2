"""Tiny folders in the exact layout of PASCAL_MT, and what can be wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from tests.layouts.faults import Fault, truncate

from plait.testing import PlaneScene, analytic_scene

Array = NDArray[Any]

TRAIN = ("2007_000032", "2008_000002", "2008_000003", "2008_000007", "2009_001240", "2010_005540")
TEST = ("2008_000004", "2008_000008", "2010_002356")

NOBODY = "2008_000007"
"""Its only object is a bottle."""
NO_PARTS = "2010_005540"
"""A person without a single annotated part."""
UNLABELLED = "2009_001240"
"""All pixels of its classes are unknown."""
GREY = "2008_000003"
WIDE = "2010_002356"
"""Of another size and shape than the others."""

CONTEXT_CLASSES = {"grass": 187, "person": 284, "sky": 360, "tvmonitor": 427, "unknown": 431, "wall": 440}
NYU_CLASSES = {"floor": 11, "person": 331, "unknown": 20, "wall": 21}
QUADRANTS = (440, 360, 284, 187)
"""The context class of each quarter of the image: wall, sky, person, grass."""


def scene_of(sample: str) -> PlaneScene:
    return analytic_scene((40, 72) if sample == WIDE else (48, 64))


def write_survey(root: Path) -> Path:
    """All five labels."""
    for sample in (*TRAIN, *TEST):
        write_sample(root, sample)
    write_lists(root)
    write_json(root / "db_info" / "context_classes.json", CONTEXT_CLASSES)
    write_json(root / "db_info" / "nyu_classes.json", NYU_CLASSES)
    return root


def write_reupload(root: Path) -> Path:
    """What some re-uploads hold: no distilled labels."""
    write_survey(root)
    for folder in ("normals_distill", "sal_distill"):
        for file in (root / folder).iterdir():
            file.unlink()
        (root / folder).rmdir()
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {"pascal_context/pascal_mt": write_survey}


def write_lists(root: Path) -> None:
    lists = root / "ImageSets" / "Context"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train.txt").write_text("".join(f"{name}\n" for name in TRAIN))
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in TEST))


def write_sample(root: Path, sample: str) -> None:
    scene = scene_of(sample)
    x, y = scene.grid()
    picture = (255 * scene.texture_at(x, y)).astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(picture)
    write_image(root / "JPEGImages" / f"{sample}.jpg", image.convert("L") if sample == GREY else image)
    write_semantic(root, sample)
    write_parts(root / "human_parts" / f"{sample}.mat", objects_of(sample))
    write_image(root / "sal_distill" / f"{sample}.png", Image.fromarray(levels_of(scene)))
    write_image(root / "normals_distill" / f"{sample}.png", Image.fromarray(normals_of(scene)))
    write_label_map(root / "pascal-context" / "trainval" / f"{sample}.mat", label_map_of(scene))


def write_semantic(root: Path, sample: str) -> None:
    """Half of the images have the labels of VOC 2012 with its unknown border, the others PASCAL-Context's."""
    ids = semantic_of(sample)
    folder = root / "semseg" / "pascal-context"
    image = Image.fromarray(ids)
    if sample.startswith("2008"):
        folder = root / "semseg" / "VOC12"
        image.putpalette([value for k in range(256) for value in (k, 255 - k, 7 * k % 256)])
    write_image(folder / f"{sample}.png", image)


def semantic_of(sample: str) -> Array:
    scene = scene_of(sample)
    ids = np.array([0, 15, 20, 5], dtype=np.uint8)[scene.class_at(*scene.grid())]
    ids[:2] = 255
    if sample == UNLABELLED:
        ids[:] = 255
    return ids


def label_map_of(scene: PlaneScene) -> Array:
    return np.array(QUADRANTS, dtype=np.uint16)[scene.class_at(*scene.grid())]


def levels_of(scene: PlaneScene) -> Array:
    """Columns of rising saliency: 0, 4, 8, ... with both sides of the threshold, 127 and 128."""
    height, width = scene.size
    row = np.linspace(0, 255, width).astype(np.uint8)
    row[:2] = (127, 128)
    return np.tile(row, (height, 1))


def normals_of(scene: PlaneScene) -> Array:
    """The plane's normal in 8 bits; the last row is the zero vector."""
    stored = np.tile(np.round((scene.normal + 1) * 127.5).astype(np.uint8), (*scene.size, 1))
    stored[-1] = (127, 127, 127)
    return stored


# --- annotations of parts ---------------------------------------------------------------------------------


@dataclass
class Thing:
    """An object of an annotation file."""

    name: str
    number: int
    mask: Array
    parts: Sequence[tuple[str, Array]] = field(default=())


def objects_of(sample: str) -> list[Thing]:
    height, width = scene_of(sample).size
    rows, columns = np.mgrid[:height, :width]
    everywhere = np.ones((height, width), dtype=np.uint8)
    bottle = Thing("bottle", 5, everywhere, [("cap", everywhere)])
    if sample == NOBODY:
        return [bottle]
    if sample == NO_PARTS:
        return [Thing("person", 15, everywhere)]
    person = Thing(
        "person",
        15,
        everywhere,
        [
            ("torso", ((rows >= 10) & (rows < 30)).astype(np.uint8)),
            ("head", (rows < 12).astype(np.uint8)),  # the later part has the overlap
            ("lfoot", ((rows >= 36) & (columns < 20)).astype(np.uint8)),
        ],
    )
    if sample == TRAIN[0]:
        return [person]
    small = Thing("person", 15, everywhere, [("ruarm", ((rows >= 20) & (columns > 50)).astype(np.uint8))])
    return [bottle, person, small]


def write_parts(path: Path, things: Sequence[Thing], variable: str = "anno") -> None:
    objects = records(
        [
            {
                "class": thing.name,
                "class_ind": thing.number,
                "mask": thing.mask,
                "parts": records([{"part_name": name, "mask": mask} for name, mask in thing.parts]),
            }
            for thing in things
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {variable: {"imname": path.stem, "objects": objects}}, do_compression=True)


def records(entries: Sequence[Mapping[str, Any]]) -> Array:
    """A MATLAB array of structures; an empty one is ``[]``, as in PASCAL-Part."""
    if not entries:
        return np.zeros((0, 0))
    array = np.empty((1, len(entries)), dtype=[(name, object) for name in entries[0]])
    for place, entry in enumerate(entries):
        array[0, place] = tuple(entry.values())
    return array


def write_label_map(path: Path, label_map: Array, variable: str = "LabelMap") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {variable: label_map}, do_compression=True)


def write_image(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# --- what can be wrong ------------------------------------------------------------------------------------


def _parts_fault(says: str, things: Sequence[Thing], variable: str = "anno") -> Fault:
    file = f"human_parts/{TRAIN[0]}.mat"
    return Fault(TRAIN[0], ("parts",), file, says, lambda root: write_parts(root / file, things, variable))


def _label_map_fault(
    says: str, label_map: Array, variable: str = "LabelMap", labels: tuple[str, ...] = ("edges",)
) -> Fault:
    file = f"pascal-context/trainval/{TRAIN[0]}.mat"
    return Fault(TRAIN[0], labels, file, says, lambda root: write_label_map(root / file, label_map, variable))


def _image_fault(file: str, label: str, says: str, pixels: Array) -> Fault:
    return Fault(
        Path(file).stem, (label,), file, says, lambda root: Image.fromarray(pixels).save(root / file)
    )


def _truncated(file: str, label: str) -> Fault:
    labels = () if label == "image" else (label,)
    return Fault(Path(file).stem, labels, file, "damaged", lambda root: truncate(root / file))


MASK = np.ones((48, 64), dtype=np.uint8)
PERSON = {"name": "person", "number": 15, "mask": MASK}
FAULTS: Mapping[str, Fault] = {
    "truncated image": _truncated(f"JPEGImages/{TRAIN[0]}.jpg", "image"),
    "truncated classes": _truncated(f"semseg/VOC12/{TRAIN[1]}.png", "semantic"),
    "truncated parts": _truncated(f"human_parts/{TRAIN[0]}.mat", "parts"),
    "truncated context": _truncated(f"pascal-context/trainval/{TRAIN[0]}.mat", "edges"),
    "truncated saliency": _truncated(f"sal_distill/{TRAIN[0]}.png", "saliency"),
    "truncated normals": _truncated(f"normals_distill/{TRAIN[0]}.png", "normals"),
    "class out of range": _image_fault(
        f"semseg/VOC12/{TRAIN[1]}.png", "semantic", "class id 33", np.full((48, 64), 33, np.uint8)
    ),
    "classes of another size": _image_fault(
        f"semseg/VOC12/{TRAIN[1]}.png", "semantic", "48x64", np.zeros((24, 32), np.uint8)
    ),
    "coloured saliency": _image_fault(
        f"sal_distill/{TRAIN[0]}.png", "saliency", "mode L", np.zeros((48, 64, 3), np.uint8)
    ),
    "normals of another size": _image_fault(
        f"normals_distill/{TRAIN[0]}.png", "normals", "48x64", np.zeros((24, 32, 3), np.uint8)
    ),
    "grey normals": _image_fault(
        f"normals_distill/{TRAIN[0]}.png", "normals", r"\[H, W, 3\]", np.zeros((48, 64), np.uint8)
    ),
    "context out of range": _label_map_fault("0 to 459", np.full((48, 64), 460, np.uint16)),
    "fractions of context classes": _label_map_fault("whole class ids", np.full((48, 64), 1.5)),
    "context of three dimensions": _label_map_fault(r"\[H, W\]", np.ones((4, 4, 3), np.uint8)),
    "context of another size": _label_map_fault("48x64", np.ones((24, 32), np.uint16)),
    "no LabelMap": _label_map_fault("'LabelMap'", np.ones((48, 64), np.uint16), variable="labels"),
    "normals without a LabelMap": _label_map_fault(
        "'LabelMap'", np.ones((48, 64), np.uint16), variable="labels", labels=("normals",)
    ),
    "no anno": _parts_fault("'anno'", [Thing(**PERSON)], variable="annotation"),
    "unknown part": _parts_fault("'lwing'", [Thing(**PERSON, parts=[("lwing", MASK)])]),
    "masks of two sizes": _parts_fault(
        "others are 48x64", [Thing(**PERSON, parts=[("head", MASK), ("torso", MASK[:20])])]
    ),
    "masks of another size": _parts_fault("24x32", [Thing(**PERSON, parts=[("head", MASK[:24, :32])])]),
    "a mask of text": _parts_fault("mask", [Thing(**PERSON, parts=[("head", np.array("mask"))])]),  # type: ignore[list-item]
    "a class number of text": _parts_fault("class_ind", [Thing("person", "fifteen", MASK)]),  # type: ignore[arg-type]
}
"""What one reads a sample of a broken folder to find."""
