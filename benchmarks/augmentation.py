"""Processor time of one training view at 480x640: the survey's augmentation of NYUD, on one thread.

    python benchmarks/augmentation.py [--views N] [--also] [--stages] [--device]

A made-up sample of 480x640 with an image, 40 classes, depth, normals and edges, in memory.
``Augmentation(size=(480, 640), scales=(1.0, 1.2, 1.5), crop=False, colour=0)`` mirrors half of the views.
Process time is counted, so a busy machine changes the result little; the mean is over the draws, after a few
that are not counted. ``--also`` adds other augmentations, ``--stages`` what the image and each label cost,
``--device`` what the host has left to do for a sample of a batch where views are made on the device.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from plait.data.inspection import default_tasks
from plait.data.labels import Depth, Mask, Normals, Semantic
from plait.data.loader import drawn_batches, train_batches
from plait.data.sample import Geometry, Sample
from plait.data.transforms import FILL, Augmentation, random_numbers, warp_label

SIZE = (480, 640)
SURVEY = Augmentation(size=SIZE, scales=(1.0, 1.2, 1.5), crop=False, colour=0)
OTHERS = {
    "with colour": Augmentation(size=SIZE, scales=(1.0, 1.2, 1.5), crop=False, colour=0.3),
    "random scale and crop": Augmentation(size=SIZE, scale=(1.0, 1.5), colour=0),
    "with smaller scales": Augmentation(size=SIZE, scale=(0.5, 2.0), colour=0),
    "with rotation": Augmentation(size=SIZE, scale=(1.0, 1.5), rotation=10, colour=0),
}


def made_up() -> Sample:
    """Noise of the right types: nothing here depends on the values."""
    random = np.random.default_rng(0)
    height, width = SIZE
    normals = random.standard_normal((3, height, width)).astype(np.float32)
    normals /= np.sqrt((normals**2).sum(0))
    targets = {
        "semantic": Semantic(torch.from_numpy(random.integers(0, 40, (1, height, width)))),
        "depth": Depth(torch.from_numpy(random.uniform(0.7, 10, (1, height, width)).astype(np.float32))),
        "normals": Normals(torch.from_numpy(normals)),
        "edges": Mask(torch.from_numpy((random.random((1, height, width)) < 0.05).astype(np.float32))),
    }
    image = torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8))
    return Sample("made up", image, targets, Geometry(SIZE))


def milliseconds(work: Callable[[int], object], views: int) -> float:
    """Mean process time of a call, in milliseconds."""
    for number in range(5):
        work(number)
    started = time.process_time()
    for number in range(views):
        work(number)
    return 1000 * (time.process_time() - started) / views


def stages(sample: Sample, views: int) -> dict[str, float]:
    """What the image and each label cost, each with a warp of its own: what they share counts for each."""

    def image(number: int) -> object:
        warp = SURVEY.warp(SIZE, random_numbers(0, number, sample.id))
        return warp.bilinear(sample.image.numpy(), 255 * np.asarray(FILL))

    def label(name: str) -> Callable[[int], object]:
        return lambda number: warp_label(
            sample.targets[name], SURVEY.warp(SIZE, random_numbers(0, number, sample.id))
        )

    work = {"image": image, **{name: label(name) for name in sample.targets}}
    return {name: milliseconds(function, views) for name, function in work.items()}


class InMemory:
    """The sample under many names."""

    split = "train"
    classes = {"semantic": [str(number) for number in range(40)]}  # noqa: RUF012

    def __init__(self) -> None:
        self.sample = made_up()
        self.fields = {name: type(label) for name, label in self.sample.targets.items()}

    def __len__(self) -> int:
        return 64

    def id(self, place: int) -> str:
        return str(place)

    def __getitem__(self, place: int) -> Sample:
        return replace(self.sample, id=str(place))


def batches(on_device: bool, many: int, size: int = 8) -> tuple[float, float]:
    """Milliseconds a sample: processor time of the host's loader, and wall time of the device."""
    data = InMemory()
    give = drawn_batches if on_device else train_batches
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stream = give(data, default_tasks(data), SURVEY, batch_size=size)  # type: ignore[arg-type]
    batch = [next(stream) for _ in range(8)][-1]  # each sample is checked once
    batch.to(device)
    started = time.process_time()
    for _ in range(many):
        next(stream)
    host = time.process_time() - started
    stream.close()
    started = time.perf_counter()
    for _ in range(many):
        batch.to(device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    made = time.perf_counter() - started
    return 1000 * host / many / size, 1000 * made / many / size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--views", type=int, default=200)
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--also", action="store_true")
    parser.add_argument("--device", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sample = made_up()
    for name, augmentation in {"survey": SURVEY, **(OTHERS if arguments.also else {})}.items():

        def view(number: int, augmentation: Augmentation = augmentation) -> object:
            return augmentation(sample, random_numbers(0, number, sample.id))

        print(f"{name:<24}{milliseconds(view, arguments.views):8.2f} ms a view")
    if arguments.stages:
        for name, cost in stages(sample, arguments.views).items():
            print(f"  {name:<22}{cost:8.2f} ms")
    if arguments.device:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the processor"
        for where in ("loader", "device"):
            host, made = batches(where == "device", many=max(4, arguments.views // 8))
            print(
                f"augment_on {where:<13}{host:8.2f} ms of the loader a sample of a batch of 8, "
                f"{made:.2f} ms to place and make it on {device}"
            )


if __name__ == "__main__":
    main()
