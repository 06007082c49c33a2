"""A training step of ``plait train``, data included, beside a plain eager loop of the same network.

    python benchmarks/train_step.py [--steps N] [--size H W] [--batch B] [--threads T] [--variants ...]

The plain loop is what one would write first: float32, NCHW, no compilation, an optimizer with its
defaults, and one batch that is already in memory, so that it pays nothing for data. The variants are
``plait train`` itself, with a loader, augmentation, logging and checks. Each block is a process of its
own, and blocks of all kinds take turns, so that a load that comes and goes meets them all; printed are
medians, and the ratio of the plain step to ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from plait.config import Recipe, dump, load_recipe, parse, replace
from plait.tasks.objective import losses as task_losses
from plait.testing import write_tiny_rooms
from plait.training.fit import micro_batches
from plait.training.run import Run, load_run, make_network

VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "channels-last": {"training.channels_last": True},
    "channels-last, compiled": {"training.channels_last": True, "training.compile": True},
    "bf16": {"training.channels_last": True, "training.precision": "bf16"},
    "bf16, compiled": {
        "training.channels_last": True,
        "training.precision": "bf16",
        "training.compile": True,
    },
    "auto": {"training.channels_last": "auto", "training.precision": "auto"},
}
WARM_UP = 3


def recipe_of(root: Path, arguments: argparse.Namespace) -> Recipe:
    return parse(
        {
            "data": {"name": "rooms", "root": str(root)},
            "tasks": {
                "semantic": {"kind": "semantic", "classes": 20},
                **{kind: {"kind": kind} for kind in ("depth", "normals", "edges", "saliency")},
            },
            "model": {
                "backbone": arguments.backbone,
                "pretrained": False,
                "decoder": {"name": "independent", "head": "deeplab"},
            },
            "augmentation": {"size": arguments.size},
            "training": {
                "steps": arguments.steps + WARM_UP,
                "batch_size": arguments.batch,
                "threads": arguments.threads,
                "precision": "fp32",
                "channels_last": False,
                "log_every": 1,
                "checkpoint_every": 10**9,
            },
        }
    )


def plain_seconds(recipe: Recipe) -> list[float]:
    """Wall time of each step of the plain loop after its warm-up."""
    run = Run(Path("unused"), recipe)
    model = make_network(recipe, run.tasks).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.optimizer.lr)
    batch = next(micro_batches(run, run.dataset("train"), model.normalisation, 0))
    times = []
    for _ in range(recipe.training.steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        losses = task_losses(run.tasks, model(batch.images), batch.targets)
        torch.autograd.backward(list(losses.values()))
        optimizer.step()
        times.append(time.perf_counter() - start)
    return times[WARM_UP:]


def in_a_process(*command: str) -> str:
    """What a command of this interpreter prints; stops the benchmark with its error if it fails."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def our_seconds(recipe: Recipe, folder: Path) -> tuple[list[float], dict[str, Any]]:
    """Wall time of each step of a run after its warm-up, its data included, and what the run chose."""
    written = folder.with_suffix(".yaml")
    written.write_text(dump(recipe), encoding="utf-8")
    in_a_process("-m", "plait", "train", str(written), "--out", str(folder))
    run = load_run(folder)
    marks = [row["seconds"] for row in run.log]
    return [after - before for before, after in pairwise(marks)][WARM_UP - 1 :], run.environment["choices"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a block")
    parser.add_argument("--blocks", type=int, default=2, help="blocks of each kind, alternating")
    parser.add_argument("--size", type=int, nargs=2, default=[192, 192], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["channels-last", "bf16"])
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.plain is not None:
        print(json.dumps(plain_seconds(load_recipe(arguments.plain))))
        return
    plain: list[float] = []
    ours: dict[str, list[float]] = {name: [] for name in arguments.variants}
    chosen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        height, width = arguments.size
        root = write_tiny_rooms(
            Path(folder) / "rooms", images=(16, 1, 1), size=(height, max(width, height * 4 // 3))
        )
        recipe = recipe_of(root, arguments)
        this, written = (__file__, "--threads", str(arguments.threads)), Path(folder) / "plain.yaml"
        written.write_text(dump(recipe), encoding="utf-8")
        for block in range(arguments.blocks):
            plain += json.loads(in_a_process(*this, "--plain", str(written)))
            for name in arguments.variants:
                place = Path(folder) / f"{name} {block}".replace(" ", "-")
                seconds, chosen[name] = our_seconds(replace(recipe, VARIANTS[name]), place)
                ours[name] += seconds
    base = statistics.median(plain)
    print(f"{arguments.backbone}, five DeepLab heads, {arguments.batch}x{height}x{width}, ", end="")
    print(f"{arguments.threads} threads, torch {torch.__version__}")
    print(f"{'plain loop':28s} {1e3 * base:9.1f} ms a step")
    for name, seconds in ours.items():
        step = statistics.median(seconds)
        print(f"{'plait, ' + name:28s} {1e3 * step:9.1f} ms a step   {base / step:5.2f} x   {chosen[name]}")


if __name__ == "__main__":
    main()
