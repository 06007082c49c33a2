"""Pictures of held-out images."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import plait.data
import plait.tasks
from plait.config import Evaluation
from plait.models.predictions import Predictions
from plait.study.qualitative import Part, data_uri, prediction, rows, spread
from plait.testing import write_tiny_rooms


@given(st.integers(1, 500), st.integers(1, 20))
def test_pictures_are_spread_over_the_split(images: int, count: int) -> None:
    places = spread(images, count)
    assert len(set(places)) == min(images, count)
    assert all(0 <= place < images for place in places)
    assert places == sorted(places)


def test_labels_survive_the_data_address_exactly() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    head, _, body = data_uri(pixels).partition(",")
    assert head == "data:image/webp;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))), pixels)


class Constant(nn.Module):
    """Predicts zeros for its tasks."""

    def __init__(self, declaration: dict[str, dict[str, object]]) -> None:
        super().__init__()
        self.tasks = plait.tasks.parse(declaration)
        self.normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Predictions:
        return Predictions(
            {t.name: images.new_zeros(len(images), t.channels, *images.shape[-2:]) for t in self.tasks}
        )


def test_every_arm_has_every_task_and_the_target_is_the_label_s(tmp_path: Path) -> None:
    declared: dict[str, dict[str, object]] = {
        "semantic": {"kind": "semantic", "classes": 20},
        "depth": {"kind": "depth"},
    }
    dataset = plait.data.create(
        "rooms", split="test", labels=("semantic", "depth"), root=write_tiny_rooms(tmp_path / "rooms")
    )
    networks = {
        "multi-task": [Constant(declared)],
        "single-task": [Constant({name: options}) for name, options in declared.items()],
    }
    made = list(rows(dataset, [0, 2], networks, evaluation=Evaluation()))  # type: ignore[arg-type]
    assert [row.id for row in made] == [dataset.id(0), dataset.id(2)]
    task = networks["multi-task"][0].tasks[0]
    for place, row in zip((0, 2), made, strict=True):
        sample = dataset[place]
        assert row.image.shape == (48, 64, 3)
        assert np.array_equal(
            row.targets["semantic"], task.picture(sample.targets["semantic"].as_subclass(Tensor))
        )
        assert set(row.predictions) == set(declared)
        for arms in row.predictions.values():
            assert set(arms) == set(networks)
            first, second = arms.values()
            assert np.array_equal(first.picture, second.picture)
            assert first.score == second.score != ""
    assert len(Part(dataset, [1])) == 1


@pytest.mark.parametrize("kind", ["depth", "normals", "edges"])
def test_an_image_without_a_label_has_a_picture_and_no_error(kind: str) -> None:
    task = plait.tasks.parse({"it": {"kind": kind}})[0]
    found = prediction(task, task.decode(torch.ones(1, task.channels, 4, 5))[0], None)
    assert found.picture.shape == (4, 5, 3)
    assert found.error is None
    assert found.score == ""
