"""What a person sees of a prediction: words, pictures, files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plait.errors import ConfigurationError
from plait.inference import PredictedMap, Prediction, Predictor
from plait.inference.stored import Stored


@pytest.fixture
def prediction(predictor: Predictor) -> Prediction:
    return predictor(np.random.default_rng(0).integers(0, 256, (30, 45, 3), dtype=np.uint8))


def test_a_prediction_says_its_size_tasks_and_units(prediction: Prediction) -> None:
    assert repr(prediction).splitlines() == [
        "<Prediction of a picture of 30x45",
        "  semseg: class id, one of 20",
        "  depth [m]: metres along the optical axis",
        "  normals: where the surface faces: unit vector, x right, y down, z forward",
        "  edges: probability of an edge",
        "  saliency: probability of standing out>",
    ]


def test_maps_are_named_and_have_units(prediction: Prediction) -> None:
    assert list(prediction) == ["semseg", "depth", "normals", "edges", "saliency"]
    types = {name: (found.values.dtype.name, found.values.shape[2:]) for name, found in prediction.items()}
    assert types == {
        "semseg": ("uint8", ()),
        "depth": ("float32", ()),
        "normals": ("float32", (3,)),
        "edges": ("float32", ()),
        "saliency": ("float32", ()),
    }
    assert {name: found.unit for name, found in prediction.items() if found.unit} == {"depth": "m"}
    assert prediction["depth"].at(3, 4) == f"{prediction['depth'].values[3, 4]:.2f} m"
    assert prediction["semseg"].at(0, 0) in prediction["semseg"].classes
    with pytest.raises(KeyError, match="did you mean 'normals'"):
        prediction["normal"]


def test_pictures_have_the_picture_s_size(prediction: Prediction) -> None:
    for found in prediction.values():
        assert found.picture.shape == (30, 45, 3)
        assert found.picture.dtype == np.uint8


@pytest.mark.parametrize(("width", "columns", "expected"), [(90, 3, 3), (200, 1, 1), (64, 10, 6)])
def test_an_overview_holds_the_picture_and_every_map(
    prediction: Prediction, width: int, columns: int, expected: int
) -> None:
    sheet = prediction.overview(width=width, columns=columns)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == expected * (width + 14) + 14
    assert sheet.shape[0] > -(-6 // expected) * width * 30 / 45
    colours = {tuple(pixel) for pixel in sheet.reshape(-1, 3).tolist()}
    for found in prediction.values():  # nearest neighbours, so every colour of a map is on the sheet
        assert {tuple(pixel) for pixel in found.picture.reshape(-1, 3).tolist()} <= colours
    assert np.array_equal(sheet, prediction.overview(width=width, columns=columns))


def test_a_notebook_shows_the_overview(prediction: Prediction) -> None:
    assert prediction._repr_png_().startswith(b"\x89PNG")


def test_a_prediction_is_saved_as_the_command_writes_it(prediction: Prediction, tmp_path: Path) -> None:
    prediction.save(tmp_path, "city/frame")
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    tasks = ("semseg", "depth", "edges", "saliency")
    assert found == {
        *(f"{task}/city/frame.png" for task in tasks),
        "normals/city/frame.npy",
        *(f"pictures/{task}/city/frame.png" for task in (*tasks, "normals", "all-tasks")),
    }
    for name, map_ in prediction.items():
        stored = Stored(map_.task)
        values = stored.read(tmp_path / name / f"city/frame{stored.suffix}")
        assert np.allclose(values.float(), map_.decoded.float(), atol=stored.step or 0)
        drawn = np.asarray(Image.open(tmp_path / f"pictures/{name}/city/frame.png"))
        assert np.array_equal(drawn, map_.picture)


def test_a_prediction_can_be_saved_without_pictures(prediction: Prediction, tmp_path: Path) -> None:
    prediction.save(tmp_path, format="npy", pictures=False)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert found == sorted(f"{task}/picture.npy" for task in prediction)


@pytest.mark.parametrize("name", ["../out", "/out", "", "a/../../b", "."])
def test_a_name_never_leads_out_of_the_folder(prediction: Prediction, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="rename it"):
        prediction.save(tmp_path / "in", name)
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (1, 1)])
def test_an_overview_of_a_strip_stays_small(predictor: Predictor, size: tuple[int, int]) -> None:
    sheet = predictor(np.full((*size, 3), 128, np.uint8)).overview(width=80)
    assert max(sheet.shape) < 2500


def test_a_map_says_what_it_is(prediction: Prediction) -> None:
    assert repr(prediction["depth"]) == "<depth [m]: metres along the optical axis; 30x45>"


def test_predictions_and_maps_can_be_compared_and_maps_collected(prediction: Prediction) -> None:
    assert prediction == prediction
    assert len({prediction["depth"], prediction["depth"], prediction["edges"]}) == 2
    with pytest.raises(KeyError, match="no map of 0; there are semseg"):
        prediction[0]  # type: ignore[index]


def test_decoded_maps_can_teach_another_network(prediction: Prediction) -> None:
    weight = torch.ones((), requires_grad=True)
    (weight * prediction["depth"].decoded).sum().backward()
    assert weight.grad is not None


def test_saved_depth_that_16_bits_cannot_hold_is_told(
    prediction: Prediction, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = PredictedMap(prediction["depth"].task, torch.full((1, 30, 45), 80.0))
    prediction = Prediction(prediction.image, {"depth": far})
    prediction.save(tmp_path, format="npy")
    assert not caplog.messages
    prediction.save(tmp_path)
    assert "1,350 pixels of depth lie beyond" in caplog.messages[0]
