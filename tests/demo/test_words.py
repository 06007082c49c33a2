"""The words that travel to the browser are those of the tasks, pixel by pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import plait.tasks
from plait.demo import words
from plait.inference import PredictedMap, Prediction, Predictor
from plait.tasks.base import Task

KINDS = {
    "semantic": {"kind": "semantic", "classes": ["wall", "floor", "sofa"]},
    "depth": {"kind": "depth"},
    "inverse_depth": {"kind": "inverse_depth"},
    "normals": {"kind": "normals"},
    "edges": {"kind": "edges"},
    "saliency": {"kind": "saliency"},
}


def task_of(kind: str) -> Task:
    return plait.tasks.parse({"it": KINDS[kind]})[0]


def some_map(kind: str, height: int = 23, width: int = 31) -> Tensor:
    """Random decoded values, some of them extreme or unknown."""
    made = torch.Generator().manual_seed(0)
    if kind == "semantic":
        ids = torch.randint(0, 3, (1, height, width), generator=made)
        ids[0, 0, 0] = 255
        return ids
    if kind == "normals":
        vectors = torch.randn((3, height, width), generator=made)
        vectors[2] = -vectors[2].abs()
        vectors /= vectors.norm(dim=0)
        vectors[:, 1, 1] = torch.nan
        return vectors
    values = 9 * torch.rand((1, height, width), generator=made) ** 4 - 0.2
    values[0, 0, :5] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.125, 2.125])
    return values / 9 if kind in ("edges", "saliency") else values


@pytest.mark.parametrize("kind", KINDS)
def test_every_pixel_is_told_as_its_task_tells_it(kind: str) -> None:
    found = PredictedMap(task_of(kind), some_map(kind))
    told = words(found)
    assert told.stride == 1
    assert len(set(told.table)) == len(told.table)
    for row in range(23):
        for column in range(31):
            assert told.at(row, column) == found.at(row, column)


def test_numbers_without_words_of_their_own_are_told_with_their_unit() -> None:
    found = PredictedMap(replace(task_of("depth"), tell=None, unit="kg"), some_map("depth"))
    assert words(found).at(5, 7) == found.at(5, 7)
    assert words(found).at(5, 7).endswith(" kg")


def test_of_a_large_map_few_numbers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    task, asked = task_of("depth"), []
    assert task.tell is not None
    original = task.tell

    def counted(pixel: Tensor) -> str:
        asked.append(pixel.item())
        return original(pixel)

    values = torch.linspace(0, 8, 480 * 640).reshape(1, 480, 640)
    told = words(PredictedMap(replace(task, tell=counted), values))
    assert len(told.table) == 801
    assert len(asked) < 20_000
    assert told.at(240, 0) == original(values[:, 240, 0])


def test_large_maps_of_vectors_are_told_on_a_grid() -> None:
    found = PredictedMap(task_of("normals"), some_map("normals", 330, 500))
    told = words(found)
    assert (told.stride, told.index.shape) == (2, (165, 250))
    for row, column in ((0, 0), (7, 8), (329, 499)):
        assert told.at(row, column) == found.at(row - row % 2, column - column % 2)


def test_a_map_of_one_value_has_one_word() -> None:
    told = words(PredictedMap(task_of("edges"), torch.full((1, 4, 5), 0.25)))
    assert told.table == ("25 %",)
    assert told.index.dtype == np.uint8


def test_a_networks_maps_are_told_as_its_prediction_tells_them(predictor: Predictor) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    made: Prediction = predictor(picture)
    for found in made.values():
        told = words(found)
        assert all(
            told.at(row, column) == found.at(row, column) for row in (0, 20, 39) for column in (0, 33, 59)
        )
