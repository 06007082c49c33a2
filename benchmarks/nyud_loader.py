"""What a sample of NYUD costs to read and to augment: decoded each time, and from a pack, in one run.

    python benchmarks/nyud_loader.py [--samples N]

480x640 with image, semseg, depth, normals and edges, in the layout of the survey's archive (JPEG, PNG and
``.npy``), made of scikit-image's photographs since the archive cannot be shipped. Augmentation is the
survey's (flip, zoom by 1, 1.2 or 1.5 about the middle). Processor time of one thread, the files in the
system's memory; rounds take turns, and the median is told. One value of every page read is touched.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from skimage.transform import resize

import plait
from plait.data import Augmentation
from plait.data.packed.pack import pack
from plait.data.sample import DataSet
from plait.data.transforms import random_numbers
from plait.training.memory import keep_freed_memory

LABELS = ("semantic", "depth", "normals", "edges")
SIZE = (480, 640)
ROUNDS = 7


def write(root: Path, samples: int) -> Path:
    """A folder in the layout of the survey's NYUD_MT."""
    photographs = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    names = [f"{number:04}" for number in range(1, samples + 1)]
    for folder in ("images", "segmentation", "depth", "normals", "edge", "gt_sets"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(names):
        random = np.random.default_rng(number)
        photograph = resize(photographs[number % len(photographs)], SIZE, anti_aliasing=True)
        Image.fromarray((255 * photograph).astype(np.uint8)).save(root / "images" / f"{name}.jpg", quality=95)
        coarse = random.normal(size=(6, 8))
        surface = resize(coarse, SIZE, order=3)
        regions = np.digitize(surface, np.quantile(surface, np.linspace(0, 1, 13)[1:-1])) * 3 + 1
        Image.fromarray(regions.astype(np.uint8)).save(root / "segmentation" / f"{name}.png")
        depth = (2.5 + surface).clip(0.5).astype(np.float32)
        depth[:8] = 0
        np.save(root / "depth" / f"{name}.npy", depth)
        down, right = np.gradient(depth)
        normals = np.stack([-right, -down, -np.full(SIZE, 0.01)], -1)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        np.save(root / "normals" / f"{name}.npy", normals.astype(np.float32))
        edges = np.zeros(SIZE, np.float32)
        edges[:, 1:] = regions[:, 1:] != regions[:, :-1]
        np.save(root / "edge" / f"{name}.npy", edges)
    (root / "gt_sets" / "train.txt").write_text("\n".join(names[:-1]))
    (root / "gt_sets" / "val.txt").write_text(names[-1])
    return root


def reading(dataset: DataSet) -> None:
    """Every sample, a value of each of its pages touched."""
    for place in range(len(dataset)):
        sample = dataset[place]
        for maps in (sample.image, *sample.targets.values()):
            maps.as_subclass(torch.Tensor).flatten()[::1024].sum()  # one value of every page at least


def augmented(dataset: DataSet, augmentation: Augmentation, epoch: int) -> None:
    for place in range(len(dataset)):
        sample = dataset[place]
        augmentation(sample, random_numbers(0, epoch, sample.id))


def milliseconds(work: Callable[[], None], samples: int) -> float:
    started = time.process_time()
    work()
    return 1e3 * (time.process_time() - started) / samples


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=24)
    samples = parser.parse_args().samples
    torch.set_num_threads(1)
    keep_freed_memory()
    survey = Augmentation(size=SIZE, scale=(1.0, 1.0), scales=(1.0, 1.2, 1.5), crop=False, colour=0.0)
    with tempfile.TemporaryDirectory() as folder:
        root = write(Path(folder) / "nyud", samples + 1)
        pack("nyud", root, Path(folder) / "pack", labels=LABELS)
        sets = {
            "decoded each time": plait.data.create("nyud", split="trainval", labels=LABELS, root=root),
            "packed": plait.data.create(
                "packed", split="trainval", labels=LABELS, root=Path(folder) / "pack"
            ),
        }
        rows: dict[str, dict[str, list[float]]] = {name: {"read": [], "augmented": []} for name in sets}
        for turn in range(ROUNDS + 1):
            for name, dataset in sets.items():
                read = milliseconds(lambda d=dataset: reading(d), samples)  # type: ignore[misc]
                both = milliseconds(lambda d=dataset, t=turn: augmented(d, survey, t), samples)  # type: ignore[misc]
                if turn:  # the first warms up
                    rows[name]["read"].append(read)
                    rows[name]["augmented"].append(both)
    told = {
        name: {what: round(statistics.median(values), 2) for what, values in row.items()}
        for name, row in rows.items()
    }
    slow, fast = told["decoded each time"], told["packed"]
    told["ratio"] = {what: round(slow[what] / fast[what], 1) for what in slow}
    print(f"{'':20}{'read (ms)':>12}{'read and augmented (ms)':>26}")
    for name, row in told.items():
        print(f"{name:20}{row['read']:12.2f}{row['augmented']:26.2f}")
    about = {"machine": platform.processor() or platform.machine(), "samples": samples, "rounds": ROUNDS}
    place = Path(__file__).with_suffix(".json")
    place.write_text(json.dumps({**about, "milliseconds": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
