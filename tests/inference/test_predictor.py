"""A trained network as a function of pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import plait
from plait.config import Recipe
from plait.data.sample import DataSet, Geometry
from plait.data.transforms import EvaluationResize
from plait.errors import CheckpointError, ConfigurationError
from plait.inference import Predictor, Sizing, bands
from plait.inference import predictor as module
from plait.inference.sizing import LARGE, TILE, fading
from plait.models.predictions import Predictions
from plait.tasks import parse
from plait.training.evaluate import predictions
from plait.training.run import Run, load_run


def picture(height: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


class Fake(nn.Module):
    """A network that is a function of its input alone."""

    normalisation = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.tasks = parse({"semseg": {"kind": "semantic", "classes": 3}, "depth": {"kind": "depth"}})
        self.unused = nn.Parameter(torch.zeros(1))
        self.function = function

    def forward(self, images: Tensor) -> Predictions:
        return Predictions({"semseg": images * 3, "depth": self.function(images)})


def fake(function: Any, sizing: Sizing) -> Predictor:
    model: Any = Fake(function)
    return Predictor("fake", Recipe(), model, model.tasks, sizing)


# --- as its evaluation ----------------------------------------------------------------------------------


def test_maps_are_those_of_the_evaluation(run: Run, rooms: DataSet, predictor: Predictor) -> None:
    evaluation = run.recipe.evaluation
    expected = list(
        predictions(predictor.model, rooms, run.tasks, evaluation=evaluation, device=torch.device("cpu"))
    )
    images = [rooms[place].image for place in range(len(rooms))]
    made = [*predictor.batch(images[:3]), *predictor.batch(images[3:])]
    for one, (_, decoded, _) in zip(made, expected, strict=True):
        assert list(one) == [task.name for task in run.tasks]
        assert all(torch.equal(one[task].decoded, decoded[task]) for task in decoded)


def test_flip_and_scales_are_those_of_the_recipe(run: Run, rooms: DataSet) -> None:
    evaluation = replace(run.recipe.evaluation, flip=True, scales=[1.0, 1.5])
    recipe = replace(run.recipe, evaluation=evaluation)
    predictor = Predictor("run", recipe, run.model(), run.tasks, Sizing.of(recipe), flip=True)
    _, expected, _ = next(
        iter(
            predictions(predictor.model, rooms, run.tasks, evaluation=evaluation, device=torch.device("cpu"))
        )
    )
    made = predictor.batch([rooms[place].image for place in range(3)])[0]
    assert all(torch.equal(made[task].decoded, expected[task]) for task in expected)


def test_batches_and_their_order_do_not_matter(predictor: Predictor) -> None:
    images = [picture(30, 50, 1), picture(61, 33, 2), picture(32, 40, 3)]
    together = predictor.batch(images)
    turned = predictor.batch(images[::-1])[::-1]
    for image, one, other in zip(images, together, turned, strict=True):
        alone = predictor(image)
        for task, found in alone.items():
            expected = found.decoded.float()
            assert found.values.shape[:2] == image.shape[:2]
            for again in (one, other):
                torch.testing.assert_close(again[task].decoded.float(), expected, rtol=1e-4, atol=1e-5)


def test_some_of_the_tasks_are_the_same_maps(run_folder: Path, predictor: Predictor) -> None:
    some = plait.load(run_folder, tasks=["normals", "semseg"])
    whole, part = predictor(picture(40, 50)), some(picture(40, 50))
    assert list(part) == ["semseg", "normals"]
    assert all(torch.equal(part[task].decoded, whole[task].decoded) for task in part)


def test_a_predictor_says_what_it_does(predictor: Predictor) -> None:
    said = repr(predictor)
    assert "depth (m)" in said
    assert "fitted into 32x40" in said
    assert predictor.step == 2
    assert predictor.finished
    assert len(predictor.digest) == 64


# --- refusals -------------------------------------------------------------------------------------------


def test_other_tasks_than_it_was_trained_on_are_refused(run_folder: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"not trained on 'flow'; it predicts semseg, depth, normals"
    ):
        plait.load(run_folder, tasks=["flow"])
    with pytest.raises(ConfigurationError, match=r"did you mean 'depth'"):
        plait.load(run_folder, tasks=["depht"])
    with pytest.raises(ConfigurationError, match="at least one task"):
        plait.load(run_folder, tasks=[])


def test_a_folder_without_a_run_or_checkpoint_is_refused(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a run's folder"):
        plait.load(tmp_path)
    (tmp_path / "recipe.yaml").write_bytes((run_folder / "recipe.yaml").read_bytes())
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        plait.load(tmp_path)


def test_nothing_but_the_run_is_needed(run_folder: Path, tmp_path: Path, predictor: Predictor) -> None:
    """Neither its data nor pretrained weights: both are named in its recipe, and not there."""
    recipe = (run_folder / "recipe.yaml").read_text().replace("pretrained: false", "pretrained: true")
    root = str(load_run(run_folder).recipe.data.root)
    (tmp_path / "recipe.yaml").write_text(recipe.replace(root, "nowhere"))
    checkpoint = tmp_path / "checkpoints" / "last"
    checkpoint.mkdir(parents=True)
    for file in ("state.json", "model.safetensors"):
        (checkpoint / file).write_bytes((run_folder / "checkpoints" / "last" / file).read_bytes())
    image = picture(32, 40)
    made, expected = plait.load(tmp_path)(image), predictor(image)
    assert all(torch.equal(made[task].decoded, expected[task].decoded) for task in expected)


# --- sizes and tiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 40), (100, 30), (1, 7), (33, 47), (300, 20)])
def test_maps_have_the_size_of_their_picture(predictor: Predictor, size: tuple[int, int]) -> None:
    made = predictor(picture(*size))
    assert made.size == size
    assert {found.values.shape[:2] for found in made.values()} == {size}


@pytest.mark.parametrize("size", [(90, 1), (9, 1), (1, 90), (2, 300), (300, 2)])
def test_the_thinnest_pictures_have_their_numbers_too(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 200, np.uint8)
    found = fake(lambda images: images[:, :1], Sizing((32, 40)))(image)["depth"].values
    assert np.allclose(found, (200 / 255 - 0.5) / 0.25, atol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_tiles_of_a_pointwise_network_are_the_whole(overlap: float) -> None:
    image = picture(50, 71)
    whole = fake(lambda images: images[:, :1], Sizing())(image)
    tiles = fake(lambda images: images[:, :1], Sizing(None, (16, 24), overlap))(image)
    assert torch.equal(tiles["semseg"].decoded, whole["semseg"].decoded)
    torch.testing.assert_close(tiles["depth"].decoded, whole["depth"].decoded, rtol=0, atol=1e-6)


def test_blended_tiles_have_no_seam() -> None:
    """A network that sees every tile at another depth: the steps between pixels stay small."""
    image = np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], 32, 0).repeat(3, -1)
    per_tile = fake(
        lambda images: images[:, :1].mean((2, 3), True).expand_as(images[:, :1]), Sizing(None, (32, 32), 0.5)
    )
    found = per_tile(image)["depth"].values
    steps = np.abs(np.diff(found, axis=1))
    between_tiles = 16 / 96 / 0.25
    assert found.max() - found.min() > 3 * between_tiles
    assert steps.max() < between_tiles / 8


def test_weights_of_a_tile_fade_and_are_positive() -> None:
    weights = fading((16, 9))
    assert weights.shape == (16, 9)
    assert weights.min() > 0
    torch.testing.assert_close(weights, weights.flip(0, 1))
    assert weights[0].max() < 0.02
    assert fading((1, 1)).item() == 1


@pytest.mark.parametrize("size", [(31, 44), (160, 201), (90, 64), (17, 400)])
def test_maps_decided_in_columns_are_those_of_the_whole(predictor: Predictor, size: tuple[int, int]) -> None:
    (task,) = (task for task in predictor.tasks if task.name == "semseg")
    resize = EvaluationResize((32, 40))
    sample = predictor.fitted(picture(*size)).sample
    assert sample.geometry.size == Geometry(size).size
    seen = torch.rand(20, 32, 40, generator=torch.Generator().manual_seed(0)).softmax(0)
    assert resize.size == (32, 40)
    for seen_as in (seen, seen.contiguous().permute(1, 2, 0).contiguous().permute(2, 0, 1)):
        whole = bands.decided(task, seen_as, sample.geometry)
        for at_once in (1, 3000, 40_000):
            assert torch.equal(bands.decided(task, seen_as, sample.geometry, at_once=at_once), whole)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.3])
def test_tiles_decided_in_rows_are_those_of_the_whole(
    run_folder: Path, flip: bool, overlap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = plait.load(run_folder, sizing=Sizing(None, (32, 48), overlap), flip=flip)
    image = picture(101, 83)
    whole = predictor(image)
    monkeypatch.setattr(module, "LARGE", 1000)
    rows = predictor(image)
    assert all(torch.equal(rows[task].decoded, whole[task].decoded) for task in whole)


def test_large_pictures_at_their_own_size_come_in_tiles() -> None:
    assert Sizing().of_picture(2048, 2048).tile is None
    assert Sizing().of_picture(2048, LARGE // 2048 + 1).tile == TILE
    assert Sizing((64, 64)).of_picture(8000, 8000).tile is None
    assert Sizing(None, (10, 10)).of_picture(8000, 8000).tile == (10, 10)
    assert "those of more than 4,194,304 pixels in tiles of 1024x1024" in Sizing().told()


def test_many_large_pictures_are_not_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return images[:, :1]

    monkeypatch.setattr(module, "LARGE", 2000)
    fake(watched, Sizing()).batch([picture(20, 30)] * 7)
    assert [shape[0] for shape in seen] == [3, 3, 1]
    seen.clear()
    fake(watched, Sizing((20, 30))).batch([picture(20, 30)] * 7)
    assert [shape[0] for shape in seen] == [7]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"size": (0, 5)}, "size must be a height and a width"),
        ({"tile": (5,)}, "tile must be a height and a width"),
        ({"overlap": 1.0}, "overlap must be from 0 up to 1"),
        ({"scales": ()}, "one or more positive numbers"),
        ({"scales": (1.0, -2.0)}, "one or more positive numbers"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Sizing(**wrong)


def test_a_sizing_is_that_of_the_recipe(run: Run) -> None:
    evaluation = replace(run.recipe.evaluation, window=(24, 32), stride=(12, 24), scales=[0.5, 1.0])
    sizing = Sizing.of(replace(run.recipe, evaluation=evaluation))
    assert sizing == Sizing((32, 40), (24, 32), 0.5, (0.5, 1.0))
    assert sizing.evaluation().scales == [0.5, 1.0]
    assert sizing.told() == (
        "fitted into 32x40, in tiles of 24x32 that overlap by 50 %, averaged over the scales 0.5, 1"
    )


def test_one_task_can_be_named_alone(run_folder: Path) -> None:
    assert [task.name for task in plait.load(run_folder, tasks="depth").tasks] == ["depth"]
