"""Every map comes back from its file as the file's kind promises, with plait and without."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plait.data.encodings import KINDS, Encoding, read_label
from plait.errors import ConfigurationError, DataError
from plait.inference.prediction import PredictedMap
from plait.inference.stored import HIGHEST, Stored
from plait.registry import TASKS
from plait.tasks import Task, parse

DECLARED: dict[str, dict[str, Any]] = {kind: {} for kind in TASKS} | {
    "semantic": {"classes": ["floor", "wall"]}
}
FORMATS = ("png", "npy")


@pytest.fixture(params=list(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    return made(request.param, **DECLARED[request.param])


def made(kind: str, **options: Any) -> Task:
    (task,) = parse({"mine": {"kind": kind, **options}})
    return task


def decoded(task: Task) -> torch.Tensor:
    logits = 3 * torch.randn(1, task.channels, 9, 7, generator=torch.Generator().manual_seed(0))
    values = task.decode(logits)[0]
    return values.abs() + 0.01 if task.kind in ("depth", "inverse_depth") else values


@pytest.mark.parametrize("form", FORMATS)
def test_a_map_comes_back(task: Task, form: Any, tmp_path: Path) -> None:
    stored, map_ = Stored(task, form), decoded(task)
    content = stored.encoded(PredictedMap(task, map_).values)
    path = tmp_path / f"map{stored.suffix}"
    path.write_bytes(content.content)
    found = stored.read(path)
    assert (found.dtype, found.shape) == (map_.dtype, map_.shape)
    if stored.step is None:
        assert torch.equal(found, map_)
    else:
        highest = stored.step * HIGHEST
        assert (found - map_.clamp(max=highest)).abs().max() <= 0.501 * stored.step + 1e-7
        assert content.beyond == int((map_ / stored.step > HIGHEST + 0.5).sum())
    assert content.unknown == 0


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_is_what_the_description_says(task: Task, form: Any) -> None:
    """Read with NumPy and Pillow alone, by what predictions.json holds."""
    stored, map_ = Stored(task, form), decoded(task)
    told = json.loads(json.dumps(stored.described()))
    stream = io.BytesIO(stored.encoded(PredictedMap(task, map_).values).content)
    numbers = np.load(stream) if told["files"].endswith(".npy") else np.asarray(Image.open(stream))
    values = numbers * told["scale"] if "scale" in told else numbers
    expected = PredictedMap(task, map_).values
    assert numbers.shape == expected.shape
    if "scale" in told:
        assert numbers.dtype == np.uint16
        expected = expected.clip(max=told["scale"] * HIGHEST)
    assert np.allclose(values, expected, rtol=1e-6, atol=0.51 * told.get("scale", 0))
    assert told["meaning"] == task.meaning


def test_labels_are_read_from_the_same_files(task: Task, tmp_path: Path) -> None:
    """What predict writes can be the labels of other software, and of plait."""
    stored, map_ = Stored(task), decoded(task)
    path = tmp_path / f"map{stored.suffix}"
    path.write_bytes(stored.encoded(PredictedMap(task, map_).values).content)
    kind = next(kind for kind, label_type in KINDS.items() if task.label_type is label_type)
    label = read_label(path, Encoding(kind, scale=stored.step))  # type: ignore[arg-type]
    atol = stored.step or 1e-6
    torch.testing.assert_close(
        torch.as_tensor(label), stored.read(path), rtol=0, atol=atol, check_dtype=False
    )


def test_class_ids_are_the_numbers_and_the_palette_their_colours() -> None:
    task = made("semantic", classes=["floor", "wall", "lamp"])
    ids = torch.tensor([[[0, 1, 2, 255]]])
    image = Image.open(io.BytesIO(Stored(task).encoded(PredictedMap(task, ids).values).content))
    assert image.mode == "P"
    assert np.asarray(image).tolist() == [[0, 1, 2, 255]]
    assert np.array_equal(np.asarray(image.convert("RGB")), task.picture(ids))
    colours = [entry["colour"] for entry in Stored(task).described()["classes"]]
    assert colours == ["#{:02x}{:02x}{:02x}".format(*pixel) for pixel in task.picture(ids)[0, :3].tolist()]


def test_all_255_classes_have_a_colour() -> None:
    task = made("semantic", classes=255)
    ids = torch.arange(255)[None, None]
    image = Image.open(io.BytesIO(Stored(task).encoded(PredictedMap(task, ids).values).content))
    assert np.asarray(image).tolist() == [list(range(255))]
    assert np.array_equal(np.asarray(image.convert("RGB")), task.picture(ids))


def test_depth_beyond_the_picture_is_the_nearest_and_counted(tmp_path: Path) -> None:
    stored = Stored(made("depth"))
    values = torch.tensor([[[-3.0, 0.0, 0.0004, 0.0006, 2.3456, 65.535, 65.6, 1e9, torch.nan, torch.inf]]])
    content = stored.encoded(PredictedMap(stored.task, values).values)
    (tmp_path / "map.png").write_bytes(content.content)
    numbers = np.asarray(Image.open(tmp_path / "map.png"))
    assert numbers.tolist() == [[1, 1, 1, 1, 2346, 65535, 65535, 65535, 0, 0]]
    assert (content.beyond, content.unknown) == (5, 0)
    assert stored.read(tmp_path / "map.png")[0, 0, -2:].isnan().all()


def test_what_is_no_number_is_counted_where_a_picture_cannot_say_it() -> None:
    stored = Stored(made("edges"))
    content = stored.encoded(np.array([[0.0, 1.0, np.nan, np.inf]], np.float32))
    assert np.asarray(Image.open(io.BytesIO(content.content))).tolist() == [[0, 65535, 0, 0]]
    assert (content.beyond, content.unknown) == (0, 2)


def test_a_png_says_what_its_numbers_are() -> None:
    content = Stored(made("depth")).encoded(np.ones((2, 2), np.float32)).content
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        said = image.info["Description"]
    assert said == "metres along the optical axis: picture of 16 bits; value = 0.001 m * number, 0 is unknown"


def test_a_file_of_another_task_is_refused(tmp_path: Path) -> None:
    depth, normals, semantic = (
        Stored(made(kind, **DECLARED[kind])) for kind in ("depth", "normals", "semantic")
    )
    (tmp_path / "a.png").write_bytes(depth.encoded(np.ones((2, 2), np.float32)).content)
    (tmp_path / "a.npy").write_bytes(Stored(depth.task, "npy").encoded(np.ones((2, 2), np.float32)).content)
    for stored, file in ((semantic, "a.png"), (normals, "a.npy"), (depth, "nowhere.png")):
        with pytest.raises(DataError, match=file):
            stored.read(tmp_path / file)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="png or npy, got 'exr'"):
        Stored(made("depth"), "exr")  # type: ignore[arg-type]
