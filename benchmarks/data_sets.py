"""What a sample of each data set costs to read and to augment, decoded each time and from a pack, in one run.

    python benchmarks/data_sets.py [--samples N]

Every set at the size and in the layout of its archive, made of scikit-image's photographs and of smooth
random regions, since the archives cannot be shipped; rooms are the packaged ones. The augmentation is that of
the set's published recipe, or a random scale and crop. Processor time of one thread, the files in the
system's memory; decoding and packs take turns, and medians are told.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nyud_loader import augmented, milliseconds, reading
from nyud_loader import write as write_nyud
from PIL import Image
from scipy.io import savemat
from skimage import data
from skimage.transform import resize

import plait
from plait.data import Augmentation
from plait.data.inspection import fields_at
from plait.data.packed.pack import pack
from plait.training.memory import keep_freed_memory

ROUNDS = 5
Array = np.ndarray[Any, Any]


def photograph(number: int, size: tuple[int, int]) -> Array:
    """uint8 ``[H, W, 3]``."""
    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    return (255 * resize(pictures[number % 4], size, anti_aliasing=True)).astype(np.uint8)


def surface(number: int, size: tuple[int, int]) -> Array:
    """A smooth map, float ``[H, W]``, about -2 to 2."""
    return np.asarray(resize(np.random.default_rng(number).normal(size=(6, 8)), size, order=3))


def regions(number: int, size: tuple[int, int], count: int) -> Array:
    """Ids 0 to ``count - 1`` of smooth regions, uint8 ``[H, W]``."""
    smooth = surface(number, size)
    return np.digitize(smooth, np.quantile(smooth, np.linspace(0, 1, count + 1)[1:-1])).astype(np.uint8)


def save(pixels: Array, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def records(rows: list[dict[str, Any]]) -> Array:
    """An array of structures, as MATLAB has them: 1 x N."""
    made = np.zeros((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for place, row in enumerate(rows):
        for name, value in row.items():
            made[0, place][name] = value
    return made


def write_pascal(root: Path, samples: int) -> Path:
    """PASCAL_MT: images of 375x500, and a person in each."""
    size, names = (375, 500), [f"2008_{number:06}" for number in range(1, samples + 1)]
    for number, name in enumerate(names):
        parts = regions(number, size, 10)
        save(photograph(number, size), root / "JPEGImages" / f"{name}.jpg")
        save(regions(number, size, 12), root / "semseg" / "VOC12" / f"{name}.png")
        save(255 * (parts > 6).astype(np.uint8), root / "sal_distill" / f"{name}.png")
        vectors = np.stack([surface(number, size), surface(number + 99, size), np.full(size, -2.0)], -1)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        save(((vectors + 1) * 127.5).astype(np.uint8), root / "normals_distill" / f"{name}.png")
        for folder in ("pascal-context/trainval", "human_parts"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        savemat(
            root / "pascal-context" / "trainval" / f"{name}.mat",
            {"LabelMap": 7 * parts.astype(np.uint16) + 1},
            do_compression=True,
        )
        named = [("head", 1), ("torso", 2), ("luarm", 3), ("ruarm", 4), ("luleg", 5), ("ruleg", 6)]
        person = {
            "class": "person",
            "class_ind": 15,
            "mask": (parts > 0).astype(np.uint8),
            "parts": records(
                [{"part_name": part, "mask": (parts == k).astype(np.uint8)} for part, k in named]
            ),
        }
        anno = {"imname": name, "objects": records([person])}
        savemat(root / "human_parts" / f"{name}.mat", {"anno": anno}, do_compression=True)
    lists = root / "ImageSets" / "Context"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(names[:-1]))
    (lists / "val.txt").write_text(names[-1])
    return root


def write_cityscapes(root: Path, samples: int) -> Path:
    """The official tree: images of 1024x2048."""
    size = (1024, 2048)
    for number in range(samples):
        part, city = ("val", "ulm") if number + 1 == samples else ("train", "bonn")
        name = f"{city}_{number:06}_000019"
        save(photograph(number, size), root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png")
        ids = regions(number, size, 20) + 7
        save(ids.astype(np.uint8), root / "gtFine" / part / city / f"{name}_gtFine_labelIds.png")
        save(ids.astype(np.uint16), root / "gtFine" / part / city / f"{name}_gtFine_instanceIds.png")
        disparity = (256 * (40 + 10 * surface(number, size))).clip(2).astype(np.uint16)
        save(disparity, root / "disparity" / part / city / f"{name}_disparity.png")
        camera = {"extrinsic": {"baseline": 0.209313}, "intrinsic": {"fx": 2262.52}}
        place = root / "camera" / part / city / f"{name}_camera.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(camera))
    return root


def write_folder(root: Path, samples: int) -> Path:
    """Somebody's own JPEG and PNG files of 480x640."""
    size = (480, 640)
    for number in range(samples):
        where = root / {samples - 1: "test", samples - 2: "val"}.get(number, "train")
        name = f"{number:05}"
        save(photograph(number, size), where / "images" / f"{name}.jpg")
        save(regions(number, size, 12), where / "semantic" / f"{name}.png")
        metres = 2500 + 500 * surface(number, size)
        save(metres.clip(300).astype(np.uint16), where / "depth" / f"{name}.png")
        ids = regions(number, size, 12)
        save(255 * (np.roll(ids, 1, 1) != ids).astype(np.uint8), where / "edges" / f"{name}.png")
    (root / "plait.yaml").write_text(
        "fields: {semantic: {kind: semantic}, depth: {kind: depth, scale: 0.001}, edges: {kind: mask}}\n"
        f"classes: {{semantic: [{', '.join(f'c{k}' for k in range(12))}]}}\n"
    )
    return root


@dataclass(frozen=True)
class Measured:
    """A data set to measure: how it is written, opened and augmented."""

    about: str
    write: Callable[[Path, int], Path] | None
    augmentation: Augmentation
    split: str = "trainval"
    options: Mapping[str, Any] = field(default_factory=dict)


SETS = {
    "nyud": Measured(
        "480x640, flip and zoom",
        write_nyud,
        Augmentation(size=(480, 640), scale=(1.0, 1.0), scales=(1.0, 1.2, 1.5), crop=False, colour=0.0),
    ),
    "pascal_context": Measured(
        "375x500 to 512x512, flip, scale, rotation",
        write_pascal,
        Augmentation(size=(512, 512), scale=(0.75, 1.25), crop=False, rotation=20, colour=0.0),
        options={"normals_classes": "all"},
    ),
    "cityscapes": Measured(
        "1024x2048, crop of 512x1024",
        write_cityscapes,
        Augmentation(size=(512, 1024), scale=(1.0, 1.5)),
    ),
    "folder": Measured(
        "480x640, crop of 384x512", write_folder, Augmentation(size=(384, 512)), split="train"
    ),
    "rooms": Measured(
        "192x256, crop", None, Augmentation(size=(192, 256)), split="test", options={"cache": "none"}
    ),
}


def measured(name: str, about: Measured, samples: int, folder: Path) -> dict[str, Any]:
    """Milliseconds a sample: read, and read and augmented, decoded each time and packed."""
    root = None if about.write is None else about.write(folder / name, samples + 1)
    labels = tuple(fields_at(name, root, about.options))
    pack(name, root, folder / f"{name} packed", options=about.options)
    options = dict(about.options) if root is None else {"root": root, **about.options}
    sets = {
        "decoded": plait.data.create(name, split=about.split, labels=labels, **options),
        "packed": plait.data.create(
            "packed", split=about.split, labels=labels, root=folder / f"{name} packed"
        ),
    }
    times: dict[str, list[float]] = {f"{what} {how}": [] for how in sets for what in ("read", "augmented")}
    for turn in range(ROUNDS + 1):
        for how, dataset in sets.items():
            read = milliseconds(lambda d=dataset: reading(d), len(dataset))  # type: ignore[misc]
            both = milliseconds(  # type: ignore[misc]
                lambda d=dataset, t=turn: augmented(d, about.augmentation, t), len(dataset)
            )
            if turn:  # the first warms up
                times[f"read {how}"].append(read)
                times[f"augmented {how}"].append(both)
    medians = {what: round(statistics.median(values), 2) for what, values in times.items()}
    return {"about": about.about, "labels": list(labels), **medians}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=8)
    samples = parser.parse_args().samples
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = {}
    for name, about in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measured(name, about, samples, Path(folder))
        print(name, json.dumps(rows[name]), flush=True)
    machine = platform.processor() or platform.machine()
    place = Path(__file__).with_suffix(".json")
    place.write_text(json.dumps({"machine": machine, "samples": samples, "sets": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
