from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from plait.export.deployed import Deployed
from plait.export.formats import Exported
from plait.export.pictures import Shape, real_pictures, spread, stretched
from plait.export.score import score
from plait.inference import Predictor
from plait.inference.pictures import Pixels
from plait.training.run import load_run


class Eager(Exported):
    """A deployed network as if it were exported; notes what it is given."""

    suffix = ""
    facts: ClassVar[dict[str, Any]] = {}

    def __init__(self, deployed: Deployed) -> None:
        self.deployed = deployed
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, images: Pixels) -> dict[str, np.ndarray]:
        self.seen.append(images.shape)
        with torch.inference_mode():
            return {name: values.numpy() for name, values in self.deployed(torch.from_numpy(images)).items()}

    def content(self, description: str) -> bytes:
        raise NotImplementedError


def test_a_model_for_any_size_scores_as_its_run(predictor: Predictor) -> None:
    run = load_run(predictor.name)
    deployed = Deployed(predictor)
    model = Eager(deployed)
    found = score(model, deployed.outputs, Shape(1, (32, 40), True), run.dataset("test"), run.tasks)
    assert set(model.seen) == {(1, 32, 48, 3)}
    assert list(found) == list(run.scores)
    for task, measures in run.scores.items():
        assert dict(found[task]) == pytest.approx(dict(measures), rel=1e-3, abs=1e-4, nan_ok=True)


def test_a_model_for_one_size_is_given_that_size(predictor: Predictor) -> None:
    run = load_run(predictor.name)
    deployed = Deployed(predictor)
    model = Eager(deployed)
    found = score(model, deployed.outputs, Shape(2, (48, 48), False), run.dataset("test"), run.tasks)
    assert set(model.seen) == {(2, 48, 48, 3)}
    for task, measures in run.scores.items():
        headline = next(iter(measures))
        assert found[task][headline] == pytest.approx(measures[headline], rel=0.3, abs=0.1, nan_ok=True)


def test_real_pictures_are_spread_over_the_rooms() -> None:
    pictures = real_pictures(None, 3)
    assert [picture.shape for picture in pictures] == [(192, 256, 3)] * 3
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert spread(80, 4) == [0, 20, 40, 60]


def test_pictures_come_in_the_batches_that_a_model_takes() -> None:
    pictures = [np.full((10, 12, 3), level, np.uint8) for level in range(5)]
    static = list(Shape(2, (8, 8), False).batches(pictures))
    assert [batch.shape for batch in static] == [(2, 8, 8, 3)] * 3
    assert [int(one[0, 0, 0]) for batch in static for one in batch] == [0, 1, 2, 3, 4, 0]
    free = list(Shape(1, (8, 12), True).batches(pictures))
    assert [batch.shape[:3] for batch in free] == [(1, 8, 12), (1, 12, 8), (2, 9, 25), (1, 5, 8)]
    assert stretched(pictures[0], (10, 12)) is pictures[0]
