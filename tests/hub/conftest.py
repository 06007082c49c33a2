"""A tiny trained run to share, and a hub on the loopback."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.hub.fake_hub import TOKEN, FakeHub, serving

import plait
from plait.config import Recipe, parse
from plait.hub import HuggingFace
from plait.testing import write_tiny_rooms
from plait.training.run import Run


@dataclass(frozen=True)
class Trained:
    """A run, and the folder of its data, whose name must never be shared."""

    run: Run
    rooms: Path


def recipe_of(rooms: Path | str) -> Recipe:
    """What the tiny run is trained by."""
    return parse({
        "data": {"root": str(rooms)},
        "tasks": {
            "depth": {"kind": "depth"},
            "semseg": {"kind": "semantic", "classes": 20},
            "normals": {"kind": "normals"},
        },
        "model": {
            "backbone": "test_resnet", "pretrained": False,
            "decoder": {"name": "independent", "head": "linear"},
        },
        "augmentation": {"size": [32, 32]},
        "evaluation": {"size": [32, 40]},
        "training": {"steps": 2, "batch_size": 2, "threads": 1, "precision": "fp32", "channels_last": False},
    })  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A finished run; only read it."""
    folder = tmp_path_factory.mktemp("home-of-alice")
    rooms = write_tiny_rooms(folder / "rooms-of-alice", images=(2, 1, 2), size=(32, 48))
    return Trained(plait.train(recipe_of(rooms), folder / "runs" / "first", progress=False), rooms)


@pytest.fixture
def run(trained: Trained) -> Run:
    """The run alone."""
    return trained.run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub on the loopback, which the hub's client may ask."""
    import huggingface_hub.constants as constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    disable_progress_bars()
    with serving() as made:
        yield made
    enable_progress_bars()


@pytest.fixture
def backend(hub: FakeHub, tmp_path: Path) -> HuggingFace:
    """What asks it, with a token and a cache of its own."""
    return HuggingFace(hub.endpoint, TOKEN, tmp_path / "cache")
