"""A run that was trained for two steps on tiny rooms, and what it exports to."""

from collections.abc import Callable
from pathlib import Path

import pytest

import plait
from plait.config import load_recipe
from plait.export import Export, export
from plait.export.formats import Format
from plait.inference import Predictor
from plait.testing import write_tiny_rooms

RECIPE = """
tasks:
  semseg: {kind: semantic, classes: 20}
  depth: {kind: depth, parametrisation: softplus}
  normals: {kind: normals}
  edges: {kind: edges}
model: {backbone: test_resnet, pretrained: false, decoder: {name: independent, head: linear}}
augmentation: {size: [32, 32]}
evaluation: {size: [32, 40], batch_size: 3}
training: {steps: 2, batch_size: 2, threads: 1, precision: fp32}
"""


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    rooms = write_tiny_rooms(folder / "rooms", images=(2, 1, 5), size=(32, 48))
    (folder / "recipe.yaml").write_text(RECIPE)
    plait.train(load_recipe(folder / "recipe.yaml", ["--data.root", str(rooms)]), folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def predictor(run_folder: Path) -> Predictor:
    made: Predictor = plait.load(run_folder, device="cpu")
    return made


@pytest.fixture(scope="session")
def exported(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Format, bool], Export]:
    """Exports the run once to each format, for one size and for any; both with probabilities."""
    known: dict[tuple[Format, bool], Export] = {}

    def made(to: Format, dynamic: bool) -> Export:
        if (to, dynamic) not in known:
            out = tmp_path_factory.mktemp("models") / "tiny"
            known[to, dynamic] = export(run_folder, to, out=out, dynamic=dynamic, probabilities=True)
        return known[to, dynamic]

    return made
