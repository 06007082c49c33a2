"""A folder of which half of the labels are missing at random: every task learns, under every balancer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import plait
from plait.config import parse
from plait.data.inspection import default_declaration
from plait.testing import write_tiny_rooms
from plait.training.fit import train

LABELS = ("semantic", "depth", "normals", "edges")


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny rooms as pictures and arrays; half of the files of each label are not there."""
    rooms, root = tmp_path_factory.mktemp("rooms"), tmp_path_factory.mktemp("mine")
    write_tiny_rooms(rooms, images=(24, 4, 4), size=(32, 48))
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        dataset = plait.data.create("rooms", split=split, labels=LABELS, root=rooms, cache="none")
        kept = {label: set(random.permutation(len(dataset))[: len(dataset) // 2]) for label in LABELS}
        for field in ("images", *LABELS):
            (root / split / field).mkdir(parents=True)
        for place in range(len(dataset)):
            sample = dataset[place]
            picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
            picture.save(root / split / "images" / f"{place}.png")
            maps = {name: label.as_subclass(torch.Tensor).numpy() for name, label in sample.targets.items()}
            stored = {
                "semantic": maps["semantic"][0].astype(np.uint8),
                "depth": np.nan_to_num(1000 * maps["depth"][0]).round().astype(np.uint16),
                "normals": maps["normals"].transpose(1, 2, 0),
                "edges": (255 * maps["edges"][0]).astype(np.uint8),
            }
            for label, values in stored.items():
                if split == "train" and place not in kept[label]:
                    continue
                if label == "normals":
                    np.save(root / split / label / f"{place}.npy", values)
                else:
                    Image.fromarray(values).save(root / split / label / f"{place}.png")
    description = {
        "fields": {
            "semantic": {"kind": "semantic"},
            "depth": {"kind": "depth", "scale": 0.001},
            "normals": {"kind": "normals"},
            "edges": {"kind": "mask"},
        },
        "classes": {"semantic": list(dataset.classes["semantic"])},
    }
    (root / "plait.yaml").write_text(yaml.safe_dump(description))
    return root


def losses(mine: Path, out: Path, balancer: str, steps: int) -> dict[str, list[float]]:
    """The logged losses of each task, step by step, where the step's batch had its label."""
    folder = plait.data.create("folder", split="train", labels=LABELS, root=mine)
    recipe = parse(
        {
            "data": {"name": "folder", "root": str(mine)},
            "tasks": default_declaration(folder),
            "model": {
                "backbone": "test_resnet",
                "pretrained": False,
                "decoder": {"name": "independent", "head": "linear"},
            },
            "balancer": balancer,
            "optimizer": {"lr": 0.003},
            "schedule": {"name": "constant"},
            "augmentation": {"size": [32, 32], "crop": False, "scale": [1.0, 1.0], "colour": 0.0},
            "training": {
                "steps": steps,
                "batch_size": 3,
                "threads": 1,
                "precision": "fp32",
                "log_every": 1,
                "checkpoint_every": steps,
            },
            "evaluation": {"size": [32, 48]},
        }
    )
    run = train(recipe, out, progress=False)
    found: dict[str, list[float]] = {task: [] for task in recipe.tasks}
    for line in run.log:
        for task, value in line.get("loss", {}).items():
            if value is not None:
                found[task].append(value)
    assert all(math.isfinite(number) for scores in run.scores.values() for number in scores.values())
    return found


@pytest.mark.parametrize("balancer", ["equal", "gradnorm", "mgda"])
def test_a_few_steps_are_finite(balancer: str, mine: Path, tmp_path: Path) -> None:
    for values in losses(mine, tmp_path, balancer, steps=6).values():
        assert values
        assert all(map(math.isfinite, values))


@pytest.mark.slow
@pytest.mark.parametrize("balancer", plait.list_balancers())
def test_every_task_learns_under_every_balancer(balancer: str, mine: Path, tmp_path: Path) -> None:
    for task, values in losses(mine, tmp_path, balancer, steps=60).items():
        assert all(map(math.isfinite, values)), task
        assert np.mean(values[-12:]) < np.mean(values[:6]), (task, values)
