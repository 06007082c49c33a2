"""A picture through a network: eager torch, `torch.compile`, and ONNX Runtime in floats and in 8 bits.

    python benchmarks/export.py [--turns N] [--threads T] [--sizes HxW ...]

The network of the recipe `rooms_five` (tf_efficientnet_lite0, five FPN heads), untrained but for the norms'
statistics: time does not depend on what the weights say. All four do the same work, from a uint8 picture to
maps in units, with pictures of the network's size. They take turns in one process on as many threads; numbers
are medians of all turns, after a warm-up. Wall time and, where one thread computes, processor time, which
other work on the machine disturbs less. Written to `benchmarks/export.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import plait.tasks
from plait.commands.base import size
from plait.config import load_recipe
from plait.export.deployed import Deployed
from plait.export.formats import OnnxModel, quiet, traced, translated
from plait.export.int8 import in_8_bits
from plait.export.pictures import Shape, real_pictures
from plait.inference import Predictor, Sizing
from plait.recipes import recipe_path
from plait.training.run import make_network

DATA = Path(__file__).with_suffix(".json")
EAGER = "eager"


def predictor(sides: tuple[int, int]) -> Predictor:
    """The network, its norms' statistics those of rooms."""
    torch.manual_seed(0)
    recipe = load_recipe(recipe_path("rooms_five"), ["--model.pretrained", "false"])
    tasks = plait.tasks.parse(recipe.tasks)
    model = make_network(recipe, tasks, pretrained=False)
    rooms = torch.from_numpy(np.stack(real_pictures(None, 8))).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        for _ in range(20):
            model.train()(rooms)
    return Predictor("five", recipe, model.eval(), tasks, Sizing(sides))


def variants(sides: tuple[int, int]) -> dict[str, Callable[[np.ndarray], Any]]:
    """What is timed, by name: pictures uint8 ``[1, H, W, 3]`` to maps."""
    shape, pictures = Shape(1, sides, dynamic=False), real_pictures(None, 16)
    deployed = Deployed(predictor(sides))
    model = translated(traced(deployed, shape.example(pictures), dynamic=False), deployed, "onnx")
    assert isinstance(model, OnnxModel)
    with quiet():
        reduced = OnnxModel(in_8_bits(model.proto, shape.batches(pictures)), model.outputs)
    compiled = torch.compile(deployed, dynamic=False)

    def eager(images: np.ndarray) -> Any:
        with torch.inference_mode():
            return deployed(torch.from_numpy(images))

    def fast(images: np.ndarray) -> Any:
        with torch.inference_mode():
            return compiled(torch.from_numpy(images))

    return {EAGER: eager, "torch.compile": fast, "ONNX Runtime": model, "ONNX Runtime, int8": reduced}


def measured(sides: tuple[int, int], turns: int) -> dict[str, dict[str, float]]:
    """Median milliseconds a picture of each, and how many times as fast as eager it is."""
    timed = variants(sides)
    images = next(Shape(1, sides, dynamic=False).batches(real_pictures(None, 1)))
    wall: dict[str, list[float]] = {name: [] for name in timed}
    work: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(turns + 3):
        for name, call in timed.items():
            call(images)  # its weights are in the cache again
            started, before = time.perf_counter(), time.process_time()
            call(images)
            if turn >= 3:
                work[name].append(time.process_time() - before)
                wall[name].append(time.perf_counter() - started)
    found = {}
    for name in timed:
        seconds, processor = statistics.median(wall[name]), statistics.median(work[name])
        found[name] = {
            "ms": round(1e3 * seconds, 1),
            "processor ms": round(1e3 * processor, 1),
            "times as fast as eager": round(statistics.median(wall[EAGER]) / seconds, 2),
            "times as fast as eager, processor": round(statistics.median(work[EAGER]) / processor, 2),
        }
    return found


def processor_name() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "a processor")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=30, help="timed calls of each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", type=size, nargs="+", default=[(192, 256), (480, 640)], metavar="HxW")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = {}
    for sides in arguments.sizes:
        name = f"{sides[0]}x{sides[1]}"
        sizes[name] = measured(sides, arguments.turns)
        for variant, numbers in sizes[name].items():
            print(name, variant, numbers, flush=True)
    about = {
        "processor": processor_name(),
        "threads": arguments.threads,
        "turns": arguments.turns,
        "versions": {package: version(package) for package in ("torch", "onnxruntime")},
        "sizes": sizes,
    }
    DATA.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
