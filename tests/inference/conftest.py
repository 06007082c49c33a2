"""A run that was trained for two steps on tiny rooms, and pictures of its test split."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import plait
from plait.config import load_recipe
from plait.data.sample import DataSet
from plait.inference import Predictor
from plait.testing import write_tiny_rooms
from plait.training.run import Run, load_run

RECIPE = """
tasks:
  semseg: {kind: semantic, classes: 20}
  depth: {kind: depth, parametrisation: softplus}
  normals: {kind: normals}
  edges: {kind: edges}
  saliency: {kind: saliency}
model: {backbone: test_resnet, pretrained: false, decoder: {name: independent, head: linear}}
augmentation: {size: [32, 32]}
evaluation: {size: [32, 40], batch_size: 3}
training: {steps: 2, batch_size: 2, threads: 1, precision: fp32}
"""


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inference")
    rooms = write_tiny_rooms(folder / "rooms", images=(2, 1, 5), size=(32, 48))
    (folder / "recipe.yaml").write_text(RECIPE)
    plait.train(load_recipe(folder / "recipe.yaml", ["--data.root", str(rooms)]), folder / "run")
    return folder / "run"


@pytest.fixture
def run(run_folder: Path) -> Run:
    return load_run(run_folder)


@pytest.fixture
def rooms(run: Run) -> DataSet:
    """The test split, with its labels."""
    return run.dataset("test")


@pytest.fixture
def predictor(run_folder: Path) -> Predictor:
    made: Predictor = plait.load(run_folder)
    return made


@pytest.fixture
def photos(tmp_path: Path, rooms: DataSet) -> Path:
    """A folder of pictures, one of them in a folder of its own."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for place in range(len(rooms)):
        name = f"more/{place}.png" if place == 3 else f"{place}.png"
        Image.fromarray(pixels(rooms[place].image).numpy()).save(folder / name)
    return folder


def pixels(image: Tensor) -> Tensor:
    """``[H, W, 3]``."""
    return image.as_subclass(torch.Tensor).permute(1, 2, 0).contiguous()
