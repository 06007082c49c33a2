"""What travels to the browser is the prediction."""

import base64
import io
import json
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import plait
import plait.tasks
from plait.demo import mesh, view
from plait.demo.view import NO_DEPTH, UNKNOWN, limits
from plait.inference import PredictedMap, Prediction, Predictor


def unpacked(given: dict[str, Any]) -> NDArray[Any]:
    content = zlib.decompress(base64.b64decode(given["bytes"]))
    return np.frombuffer(content, given["type"]).reshape(given["shape"])


def picture_of(address: str) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


@pytest.fixture(scope="module")
def made(predictor: Predictor) -> Prediction:
    return predictor(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def shown(made: Prediction) -> dict[str, Any]:
    given: dict[str, Any] = json.loads(json.dumps(view(made)))
    return given


def test_all_tasks_come_in_their_order(shown: dict[str, Any], made: Prediction) -> None:
    assert [task["name"] for task in shown["tasks"]] == list(made)
    assert shown["size"] == [50, 70]
    assert picture_of(shown["photo"]).shape == (50, 70, 3)


def test_pictures_are_those_of_the_task_and_values_are_near(shown: dict[str, Any], made: Prediction) -> None:
    kinds = set()
    for task in shown["tasks"]:
        found = made[task["name"]]
        kinds.add((task["picture"] is None, task["values"] is None))
        if task["values"] is None:
            np.testing.assert_array_equal(picture_of(task["picture"]), found.picture)
        else:
            codes, least, most = (
                unpacked(task["values"]["codes"]),
                task["values"]["least"],
                task["values"]["most"],
            )
            np.testing.assert_allclose(
                least + codes * (most - least) / (UNKNOWN - 1),
                found.values,
                atol=(most - least) / (UNKNOWN - 1),
            )
    assert kinds == {(True, False), (False, True)}


def test_words_come_as_a_table_and_places_in_it(shown: dict[str, Any], made: Prediction) -> None:
    for task in shown["tasks"]:
        index, table = unpacked(task["words"]["index"]), task["words"]["table"]
        assert table[index[20, 30]] == made[task["name"]].at(20, 30)


def test_legends_name_the_classes_that_occur_with_their_shares(
    shown: dict[str, Any], made: Prediction
) -> None:
    entries = next(task["legend"]["entries"] for task in shown["tasks"] if made[task["name"]].classes)
    values = made["semantic"].values
    assert {entry["text"] for entry in entries} == {made["semantic"].classes[k] for k in np.unique(values)}
    assert sum(entry["share"] for entry in entries) == pytest.approx(1)
    assert entries == sorted(entries, key=lambda entry: -entry["share"])


def test_unknown_is_in_a_legend_only_if_it_occurs() -> None:
    task = plait.tasks.parse({"normals": {"kind": "normals"}})[0]
    known = torch.tensor([0.0, 0.0, -1.0])[:, None, None].expand(3, 4, 5).clone()
    unknown = known.clone()
    unknown[:, 0, 0] = torch.nan
    image = np.zeros((4, 5, 3), np.uint8)
    for decoded, expected in ((known, False), (unknown, True)):
        made = Prediction(image, {"normals": PredictedMap(task, decoded)})
        texts = [entry["text"] for entry in view(made)["tasks"][0]["legend"]["entries"]]
        assert ("unknown" in texts) == expected


def test_what_can_be_chosen_follows_from_the_legend_and_the_unit() -> None:
    given = {
        "depth": {"kind": "depth", "far": 4.0},
        "far": {"kind": "depth", "far": 80.0},
        "edges": {"kind": "edges"},
        "inverse": {"kind": "inverse_depth", "near": 0.5},
        "normals": {"kind": "normals"},
        "parts": {"kind": "semantic", "classes": 3},
    }
    found = {task.name: limits(task) for task in plait.tasks.parse(given)}
    assert found["normals"] is found["parts"] is None
    depth, far, edges, inverse = (found[name] for name in ("depth", "far", "edges", "inverse"))
    assert depth is not None
    assert far is not None
    assert edges is not None
    assert inverse is not None
    assert (depth["kind"], depth["low"], depth["high"]) == ("range", 0.0, 4.0)
    assert (depth["texts"][0], depth["texts"][-1], len(depth["texts"])) == ("0.00 m", "4.00 m", 401)
    assert (far["texts"][1], len(far["texts"])) == ("1.00 m", 81)
    assert (edges["kind"], edges["texts"][30], len(edges["texts"])) == ("threshold", "30 %", 101)
    assert (inverse["kind"], inverse["texts"][-1]) == ("range", "0.5")


def test_a_map_in_which_nothing_is_known_can_be_shown() -> None:
    task = plait.tasks.parse({"depth": {"kind": "depth"}})[0]
    made = Prediction(
        np.zeros((4, 5, 3), np.uint8), {"depth": PredictedMap(task, torch.full((1, 4, 5), torch.nan))}
    )
    given = json.loads(json.dumps(view(made), allow_nan=False))
    assert set(unpacked(given["tasks"][0]["values"]["codes"]).reshape(-1).tolist()) == {UNKNOWN}
    assert given["tasks"][0]["words"]["table"] == ["unknown"]
    assert given["mesh"]["faces"]["shape"] == [0]


def test_the_surface_is_that_of_the_depth_in_metres(shown: dict[str, Any], made: Prediction) -> None:
    expected = mesh(made["depth"].values)
    np.testing.assert_array_equal(np.cumsum(unpacked(shown["mesh"]["faces"])).reshape(-1, 3), expected.faces)
    np.testing.assert_array_equal(unpacked(shown["mesh"]["depth"]), expected.vertices[:, 2])
    assert tuple(shown["mesh"]["size"]) == expected.size == (50, 70)


def test_without_depth_in_metres_the_page_says_why_there_is_no_surface(run: Any) -> None:
    predictor = plait.load(run, tasks=["semantic", "edges"], device="cpu")
    shown = view(predictor(np.zeros((20, 30, 3), np.uint8)))
    assert (shown["mesh"], shown["why"]) == (None, NO_DEPTH)
