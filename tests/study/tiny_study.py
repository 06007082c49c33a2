"""A study that takes seconds: tiny rooms, a tiny backbone, a few steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from plait.config import load_recipe, plain, replace
from plait.testing import write_tiny_rooms


def write_study(folder: Path, *, steps: int = 3, **keys: Any) -> Path:
    """Writes tiny rooms and a study of them, and returns its file.

    Args:
        folder: Where.
        steps: Updates of each run; it saves a checkpoint after each.
        keys: Of the study, in the place of the usual ones.
    """
    rooms = folder / "rooms"
    if not rooms.is_dir():
        write_tiny_rooms(rooms, images=(8, 4, 6))
    changes: Mapping[str, Any] = {
        "data.root": str(rooms),
        "model.backbone": "test_resnet",
        "model.pretrained": False,
        "augmentation.size": [32, 32],
        "evaluation.size": [32, 32],
        "training.steps": steps,
        "training.batch_size": 2,
        "training.checkpoint_every": 1,
        "training.log_every": 1,
    }
    tree = {
        "name": "tiny",
        "title": "A tiny study",
        "recipe": plain(replace(load_recipe("rooms/mtl"), changes)),
        "arms": {"MTL": None, "Cross-stitch": {"model.encoder": "cross_stitch"}},
        "seeds": [0, 1],
        **keys,
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return file
