"""Samples per CPU-second of the training loader on rooms at 192x256, from the cache and decoding each time.

    python benchmarks/loader.py [--root FOLDER] [--samples N]

Geometry (random scale, crop, flip), colour jitter without hue, and all labels; one thread, no network
step beside it. CPU seconds of this process are counted, so a busy machine changes the result little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch

from plait.data import Augmentation
from plait.data.inspection import default_tasks
from plait.data.loader import IMAGENET, _DrawnSamples, _Source, _TrainingStream
from plait.data.rooms.dataset import PACKAGED, Rooms
from plait.data.sampling import Shuffled
from plait.testing import write_tiny_rooms

LABELS = ("semantic", "depth", "normals", "edges", "saliency")
BATCH = 8


def stream(root: Path, cache: Literal["decoded", "none"], folder: Path, rotation: float) -> _TrainingStream:
    rooms = Rooms("train", LABELS, root, cache, folder)
    augmentation = Augmentation(size=(192, 256), rotation=rotation)
    source = _Source(rooms, default_tasks(rooms), IMAGENET)
    return _TrainingStream(_DrawnSamples(source, augmentation, Shuffled(len(rooms), BATCH, 0), 0))


def rates(make: _TrainingStream, samples: int) -> tuple[float, float]:
    """Samples per CPU-second in the first epoch, which checks every label, and in later ones."""
    epoch = -(-len(make.drawn.source.dataset) // BATCH)
    steps = max(1, samples // BATCH)
    started = time.process_time()
    for step in range(epoch):
        make(step)
    checked = time.process_time()
    for step in range(epoch, epoch + steps):
        make(step)
    return epoch * BATCH / (checked - started), steps * BATCH / (time.process_time() - checked)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, help="rooms at any size (default: the packaged set, or made-up ones)"
    )
    parser.add_argument("--samples", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root or PACKAGED
        if not (root / "manifest.json").exists():
            root = write_tiny_rooms(Path(folder) / "rooms", images=(64, 2, 2), size=(192, 256))
        print(f"{root}: {len(LABELS)} labels, 192x256, one thread")
        started = time.process_time()
        stream(root, "decoded", Path(folder), 0)
        print(f"{'building the cache':<28}{time.process_time() - started:8.1f} CPU-s, once")
        first, cached = rates(stream(root, "decoded", Path(folder), 0), arguments.samples)
        _, turned = rates(stream(root, "decoded", Path(folder), 10), arguments.samples)
        _, decoding = rates(stream(root, "none", Path(folder), 0), arguments.samples)
        print(f"{'from the cache':<28}{cached:8.0f} samples per CPU-s ({first:.0f} in the first epoch)")
        print(f"{'from the cache, rotated too':<28}{turned:8.0f} samples per CPU-s")
        print(f"{'decoding each time':<28}{decoding:8.0f} samples per CPU-s")
        print(f"{'the cache is faster by':<28}{cached / decoding:8.1f} times")


if __name__ == "__main__":
    main()
