"""A recipe that trains in seconds, on rooms made of boxes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plait.config import Recipe, parse, plain, replace
from plait.testing import write_tiny_rooms

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_rooms(tmp_path_factory.mktemp("rooms"), images=(6, 3, 3), size=(32, 48))


@pytest.fixture
def make_recipe(rooms: Path) -> MakeRecipe:
    """A tiny recipe with dotted keys changed: ``make_recipe(**{"training.ema": 0.9})``."""
    tree = {
        "data": {"root": str(rooms)},
        "tasks": {"semantic": {"kind": "semantic", "classes": 20}, "depth": {"kind": "depth"}},
        "model": {
            "backbone": "test_resnet",
            "pretrained": False,
            "decoder": {"name": "independent", "head": "linear"},
        },
        "augmentation": {"size": [32, 32]},
        "training": {"steps": 6, "batch_size": 4, "checkpoint_every": 2, "log_every": 1, "threads": 1},
    }

    def make(**changes: Any) -> Recipe:
        return replace(parse(tree), changes)

    assert plain(parse(tree))["training"]["steps"] == 6
    return make
