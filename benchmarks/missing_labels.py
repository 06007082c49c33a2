"""Every balancing strategy on folder data in which half of the labels are missing at random.

    python benchmarks/missing_labels.py [--steps N] [--only NAME ...]

The packaged rooms, written as a user's folder (PNG and ``.npy``), four tasks, each label kept for half of the
training images by seed. Told: the mean loss of each task over the first and the last tenth of the steps, on
the images that have its label. The table is written to ``docs/results/missing_labels.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

import plait
from plait.config import parse
from plait.data.inspection import default_declaration
from plait.training.fit import train
from plait.training.memory import keep_freed_memory

ROOT = Path(__file__).parents[1]
LABELS = ("semantic", "depth", "normals", "edges")
IMAGES = {"train": 120, "val": 8, "test": 16}


def write_folder(root: Path) -> Path:
    """The rooms as somebody's own folder of pictures and arrays, with a description beside them."""
    for split, count in IMAGES.items():
        rooms = plait.data.create("rooms", split=split, labels=LABELS)
        for place in range(count):
            sample = rooms[place]
            name = sample.id.replace("/", "_")
            for field in ("images", *LABELS):
                (root / split / field).mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(
                root / split / "images" / f"{name}.png"
            )
            maps = {field: label.as_subclass(torch.Tensor).numpy() for field, label in sample.targets.items()}
            Image.fromarray(maps["semantic"][0].astype(np.uint8)).save(
                root / split / "semantic" / f"{name}.png"
            )
            millimetres = np.nan_to_num(1000 * maps["depth"][0]).round().astype(np.uint16)
            Image.fromarray(millimetres).save(root / split / "depth" / f"{name}.png")
            np.save(root / split / "normals" / f"{name}.npy", maps["normals"].transpose(1, 2, 0))
            Image.fromarray((255 * maps["edges"][0]).astype(np.uint8)).save(
                root / split / "edges" / f"{name}.png"
            )
    description = {
        "fields": {
            "semantic": {"kind": "semantic"},
            "depth": {"kind": "depth", "scale": 0.001, "unknown": [0]},
            "normals": {"kind": "normals"},
            "edges": {"kind": "mask"},
        },
        "classes": {"semantic": list(rooms.classes["semantic"])},
    }
    (root / "plait.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    return root


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", nargs="+", default=plait.list_balancers(), metavar="NAME")
    arguments = parser.parse_args()
    keep_freed_memory()
    results: dict[str, dict[str, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = write_folder(Path(temporary) / "mine")
        folder = plait.data.create("folder", split="train", labels=LABELS, root=root)
        tasks = default_declaration(folder)
        for name in arguments.only:
            started = time.process_time()
            recipe = parse(
                {
                    "data": {
                        "name": "folder",
                        "root": str(root),
                        "partial": {"keep": "fraction", "fraction": 0.5, "seed": 0},
                    },
                    "tasks": tasks,
                    "model": {
                        "backbone": "resnet10t",
                        "pretrained": False,
                        "decoder": {"name": "independent", "head": "fpn"},
                    },
                    "balancer": name,
                    "optimizer": {"lr": 1e-3},
                    "schedule": {"name": "one_cycle"},
                    "augmentation": {"size": [64, 96], "crop": False, "scale": [1.0, 1.0]},
                    "training": {
                        "steps": arguments.steps,
                        "batch_size": 8,
                        "threads": 1,
                        "precision": "fp32",
                        "log_every": 1,
                        "channels_last": True,
                    },
                    "evaluation": {"size": [64, 96]},
                }
            )
            run = train(recipe, Path(temporary) / "runs" / name, progress=False)
            lines = [line for line in run.log if "loss" in line]
            tenth = max(1, len(lines) // 10)
            results[name] = {task: (mean(lines[:tenth], task), mean(lines[-tenth:], task)) for task in tasks}
            print(
                f"{name:14}",
                *(f"{task} {a:.3f} -> {b:.3f}" for task, (a, b) in results[name].items()),
                f"({time.process_time() - started:.0f} s)",
                flush=True,
            )
    write(results, arguments.steps)


def mean(lines: list[dict[str, dict[str, float]]], task: str) -> float:
    """The mean of a task's logged losses; a step none of whose images has the label has none."""
    found = [line["loss"][task] for line in lines if line["loss"].get(task) is not None]
    return math.fsum(found) / len(found)


def write(results: dict[str, dict[str, tuple[float, float]]], steps: int) -> None:
    tasks = list(next(iter(results.values())))
    falls = [b < a for row in results.values() for a, b in row.values()]
    finite = [math.isfinite(value) for row in results.values() for pair in row.values() for value in pair]
    page = [
        "# Half of the labels missing",
        "",
        f"Every strategy on a user's folder (the packaged rooms as PNG and `.npy`, "
        f"{IMAGES['train']} training images), four tasks, each label kept for half of them at random by "
        f"seed; ResNet-10-T from scratch, {steps} steps of 8 images at 64x96, one seed, CPU. A cell is the "
        f"mean loss over the first and over the last tenth of the steps, on the images that have the label. "
        f"It shows that every task learns under every strategy, not which strategy is better.",
        "",
        f"{sum(falls)} of {len(falls)} losses fell, {len(finite) - sum(finite)} values were not finite. "
        f"To run it again: `python benchmarks/missing_labels.py`.",
        "",
        "| strategy | " + " | ".join(tasks) + " |",
        "|---" + "|---:" * len(tasks) + "|",
    ]
    for name, row in results.items():
        cells = (f"{a:.3f} → {b:.3f}" for a, b in row.values())
        page.append(f"| `{name}` | " + " | ".join(cells) + " |")
    (ROOT / "docs" / "results" / "missing_labels.md").write_text("\n".join(page) + "\n")
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
