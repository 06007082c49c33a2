"""A tiny trained run of five tasks, and its demo being served."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import plait
from plait.config import load_recipe
from plait.demo import Demo, serving
from plait.inference import Predictor
from plait.testing import write_tiny_rooms

RECIPE = """
tasks:
  semantic: {kind: semantic, classes: 20}
  depth: {kind: depth, parametrisation: exp}
  normals: {kind: normals}
  edges: {kind: edges}
  saliency: {kind: saliency}
model: {backbone: test_resnet, pretrained: false, decoder: {name: independent, head: linear}}
augmentation: {size: [32, 32]}
evaluation: {size: [32, 40]}
training: {steps: 2, batch_size: 2, threads: 1, precision: fp32}
"""


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder."""
    folder = tmp_path_factory.mktemp("five")
    rooms = write_tiny_rooms(folder / "rooms", images=(2, 1, 2), size=(32, 48))
    (folder / "recipe.yaml").write_text(RECIPE)
    plait.train(load_recipe(folder / "recipe.yaml", ["--data.root", str(rooms)]), folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def predictor(run: Path) -> Predictor:
    return plait.load(run, device="cpu")


@pytest.fixture(scope="module")
def served(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The run's demo, started in an empty folder, in which it leaves nothing."""
    here = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        with serving(predictor, port=0) as demo:
            yield demo
    assert list(here.iterdir()) == []
