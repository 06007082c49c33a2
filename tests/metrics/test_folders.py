"""Maps on disk are scored as the same maps in memory, whatever wrote them."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from plait.errors import ConfigurationError, DataError
from plait.metrics import score_folders
from plait.metrics.folders import read_scoring
from plait.tasks import Task, parse

Array = np.ndarray[Any, Any]
DECLARED: dict[str, dict[str, Any]] = {
    "semseg": {"kind": "semantic", "classes": 5},
    "depth": {"kind": "depth"},
    "disparity": {"kind": "inverse_depth"},
    "normals": {"kind": "normals"},
    "edges": {"kind": "edges", "max_distance": 0.05},
    "saliency": {"kind": "saliency"},
}
IDS = ("a", "b", "c.1")


def only(*names: str, **options: Any) -> tuple[Task, ...]:
    return parse({name: {**DECLARED[name], **options} for name in names})


def random_maps(seed: int) -> dict[str, Array]:
    """Random maps ``[16, 20]`` in the units of memory, none unknown."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(16, 20, 3)).astype(np.float32)
    return {
        "semseg": random.integers(0, 5, (16, 20)).astype(np.uint8),
        "depth": (0.5 + 5 * random.random((16, 20))).astype(np.float32),
        "disparity": random.random((16, 20)).astype(np.float32),
        "normals": vectors / np.linalg.norm(vectors, axis=-1, keepdims=True),
        "edges": ((random.random((16, 20)) < 0.2) * 255).astype(np.uint8),
        "saliency": ((random.random((16, 20)) < 0.4) * 255).astype(np.uint8),
    }


def in_eight_bits(vectors: Array) -> Array:
    return ((vectors + 1) * 255 / 2).astype(np.uint8)


def write(path: Path, stored: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, stored)
    elif path.suffix == ".npz":
        np.savez(path, map=stored)
    elif path.suffix == ".mat":
        savemat(path, {"map": stored})
    else:
        Image.fromarray(stored).save(path)


SUFFIXES = {
    "semseg": ".png",
    "depth": ".npy",
    "disparity": ".mat",
    "normals": ".npz",
    "edges": ".png",
    "saliency": ".png",
}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and targets of every task for three ids."""
    for side, seed in (("predictions", 0), ("targets", 100)):
        for number, name in enumerate(IDS):
            for task, stored in random_maps(seed + number).items():
                write(tmp_path / side / task / f"{name}{SUFFIXES[task]}", stored)
    return tmp_path / "predictions", tmp_path / "targets"


def as_tensor(task: str, stored: Array, *, target: bool) -> Tensor:
    maps = torch.from_numpy(stored)
    maps = maps.movedim(-1, 0) if maps.ndim == 3 else maps[None]
    if task == "semseg":
        return maps.long()
    return maps / 255 if target and maps.dtype == torch.uint8 else maps


def in_memory(task: Task, protocol: str = "plain") -> dict[str, float]:
    scored = task.scored(protocol)
    metric = scored.metric()
    for number in range(len(IDS)):
        prediction, target = (random_maps(seed + number)[task.name] for seed in (0, 100))
        metric.update(
            as_tensor(task.name, prediction, target=False)[None],
            as_tensor(task.name, target, target=True)[None],
        )
    computed = metric.compute()
    return {measure.name: computed[measure.name] for measure in scored.measures}


@pytest.mark.parametrize("protocol", ["plain", "survey", "invpt", "mtan"])
def test_maps_on_disk_score_as_in_memory(folders: tuple[Path, Path], protocol: str) -> None:
    tasks = only(*DECLARED)
    scores = score_folders(*folders, tasks, protocol=protocol)
    assert scores.images == 3
    for task in tasks:
        assert scores[task.name] == pytest.approx(in_memory(task, protocol), rel=1e-6), task.name
        assert [m.protocol for m in scores.measures[task.name]] == [
            m.protocol for m in task.scored(protocol).measures
        ]


def test_threads_change_no_bit(folders: tuple[Path, Path]) -> None:
    tasks = only(*DECLARED)
    alone, several = (score_folders(*folders, tasks, workers=workers) for workers in (1, 3))
    assert alone.by_task == several.by_task


def test_progress_ends_at_all_maps(folders: tuple[Path, Path]) -> None:
    told: list[tuple[int, int]] = []
    score_folders(*folders, only("depth", "semseg"), progress=lambda *done: told.append(done))
    assert told == [(number, 6) for number in range(1, 7)]


def test_one_task_needs_no_folder_of_its_own(folders: tuple[Path, Path]) -> None:
    expected = score_folders(*folders, only("depth"))
    direct = score_folders(folders[0] / "depth", folders[1] / "depth", only("depth"))
    assert direct.by_task == expected.by_task


def test_ids_may_hold_folders(tmp_path: Path) -> None:
    maps = random_maps(0)["depth"]
    for side in ("predictions", "targets"):
        for city in ("here", "there"):
            write(tmp_path / side / "depth" / city / "1.npy", maps)
    scores = score_folders(tmp_path / "predictions", tmp_path / "targets", only("depth"))
    assert (scores.images, scores["depth"]["rmse"]) == (2, 0.0)


# --- what numbers mean -----------------------------------------------------------------------------------


def one_pair(
    tmp_path: Path, task: str, prediction: Array, target: Array, **options: Any
) -> Mapping[str, float]:
    """Scores of one prediction and target; maps of whole numbers become .png, others .npy."""
    for side, stored in (("p", prediction), ("t", target)):
        write(tmp_path / side / f"x{'.npy' if stored.dtype.kind == 'f' else '.png'}", stored)
    return score_folders(tmp_path / "p", tmp_path / "t", only(task), **options)[task]


def test_zero_depth_is_unknown_in_a_target_and_a_number_in_a_prediction(tmp_path: Path) -> None:
    target, prediction = np.full((4, 4), 2.0, np.float32), np.full((4, 4), 1.0, np.float32)
    target[0], prediction[:2] = 0, 0
    found = one_pair(tmp_path, "depth", prediction, target)
    assert found["rmse"] == pytest.approx(math.sqrt((4 + 1 + 1) / 3))


def test_whole_numbers_of_depth_need_a_scale(tmp_path: Path) -> None:
    millimetres, metres = np.full((4, 4), 2000, np.uint16), np.full((4, 4), 2.5, np.float32)
    with pytest.raises(DataError, match=r"t/x\.png: holds whole numbers, so its unit of depth is not known"):
        one_pair(tmp_path, "depth", metres, millimetres)
    encodings = {"depth": {"scale": 0.001, "unknown": [0]}}
    found = one_pair(tmp_path, "depth", metres, millimetres, target_encodings=encodings)
    assert found["rmse"] == pytest.approx(0.5)


def test_8_bit_normals_are_pictures_on_either_side(tmp_path: Path) -> None:
    prediction, target = (random_maps(seed)["normals"] for seed in (0, 1))
    exact = one_pair(tmp_path / "floats", "normals", prediction, target)
    stored = in_eight_bits(target)
    stored[0], stored[1] = 0, 128  # black and grey show no surface
    mixed = one_pair(tmp_path / "mixed", "normals", in_eight_bits(prediction), stored)
    hidden = target.copy()
    hidden[:2] = np.nan
    assert mixed["mean"] == pytest.approx(
        one_pair(tmp_path / "h", "normals", prediction, hidden)["mean"], abs=0.05
    )
    assert mixed["mean"] != exact["mean"]


@pytest.mark.parametrize("stored", [np.asarray, in_eight_bits])
def test_axes_of_another_software_are_declared(tmp_path: Path, stored: Callable[[Array], Array]) -> None:
    vectors = random_maps(0)["normals"]
    turned = vectors[..., [1, 0, 2]] * np.array([1, -1, -1], np.float32)  # stored as y, -x, -z
    encodings = {"normals": {"axes": "+y-x-z"}}
    found = one_pair(tmp_path, "normals", stored(turned), vectors, prediction_encodings=encodings)
    assert found["mean"] < 0.6


def test_a_vector_without_length_is_a_prediction_ninety_degrees_off(tmp_path: Path) -> None:
    target = random_maps(0)["normals"]
    prediction = target.copy()
    prediction[:8] = 0
    assert one_pair(tmp_path, "normals", prediction, target)["mean"] == pytest.approx(45, abs=1e-3)


def test_an_8_bit_prediction_is_not_quantised_again(tmp_path: Path) -> None:
    """Each of the 256 values, on either side of each of the survey's thresholds."""
    prediction = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for limit in (102, 153, 204):
        target = ((prediction > limit) * 255).astype(np.uint8)
        found = one_pair(tmp_path / str(limit), "saliency", prediction, target, protocol="survey")
        assert found["miou"] == 1.0


def test_a_target_of_zeros_and_ones_needs_a_scale(tmp_path: Path) -> None:
    prediction, target = np.full((4, 4), 200, np.uint8), np.eye(4, dtype=np.uint8)
    with pytest.raises(DataError, match="whole numbers up to 1, where 1 would mean 1/255: declare the scale"):
        one_pair(tmp_path, "saliency", prediction, target)
    found = one_pair(tmp_path, "saliency", target * 255, target, target_encodings={"saliency": {"scale": 1}})
    assert found["miou"] == 1.0


def test_ones_are_full_in_a_target_that_also_has_255(tmp_path: Path) -> None:
    """0, 1 and 255 are how the published data sets mark the foreground and the unknown."""
    prediction, target = np.full((4, 4), 200, np.uint8), np.eye(4, dtype=np.uint8)
    target[0, 1:] = 255
    with pytest.raises(DataError, match="1 if 1 is full, and 255 as unknown"):
        one_pair(tmp_path, "saliency", prediction, target)
    prediction[target == 0] = 0
    encodings = {"saliency": {"scale": 1, "unknown": [255]}}
    assert one_pair(tmp_path, "saliency", prediction, target, target_encodings=encodings)["miou"] == 1.0


@pytest.mark.parametrize("task", ["edges", "saliency"])
def test_predictions_of_zeros_and_ones_need_a_scale(tmp_path: Path, task: str) -> None:
    target = random_maps(0)[task]
    prediction = (target > 0).astype(np.uint8)
    with pytest.raises(DataError, match=r"p/x\.png: no prediction of task '\w+' goes beyond 1.*the scale"):
        one_pair(tmp_path, task, prediction, target)
    found = one_pair(tmp_path, task, prediction, target, prediction_encodings={task: {"scale": 1}})
    assert found[{"edges": "ods", "saliency": "miou"}[task]] == 1.0


def test_one_faint_prediction_among_others_needs_no_scale(folders: tuple[Path, Path]) -> None:
    write(folders[0] / "saliency" / "a.png", np.eye(16, 20, dtype=np.uint8))
    assert score_folders(*folders, only("saliency")).images == 3


@pytest.mark.parametrize("task", ["edges", "saliency"])
@pytest.mark.parametrize(
    ("factor", "offset", "kind"), [(255, 0, np.float32), (8, -4, np.float64), (65535, 0, np.uint16)]
)
def test_what_are_no_probabilities_is_refused(
    tmp_path: Path, task: str, factor: float, offset: float, kind: type
) -> None:
    """Fractions of 255 as floats, logits, and pictures of 16 bits."""
    prediction = (np.linspace(0, 1, 320).reshape(16, 20) * factor + offset).astype(kind)
    with pytest.raises(DataError, match=r"p/x\.\w+: expected probabilities from 0 to 1 .*declare the scale"):
        one_pair(tmp_path, task, prediction, random_maps(0)[task])


def test_a_declared_scale_makes_probabilities_of_16_bits(tmp_path: Path) -> None:
    prediction, target = random_maps(1)["saliency"], random_maps(0)["saliency"]
    expected = one_pair(tmp_path / "8", "saliency", prediction, target)
    wide = prediction.astype(np.uint16) * 257
    encodings = {"saliency": {"scale": 1 / 65535}}
    found = one_pair(tmp_path / "16", "saliency", wide, target, prediction_encodings=encodings)
    assert found == pytest.approx(expected)


def test_a_probability_may_leave_its_range_by_rounding(tmp_path: Path) -> None:
    prediction = np.full((16, 20), 1 + 1e-6, np.float32)
    assert one_pair(tmp_path, "saliency", prediction, np.full((16, 20), 255, np.uint8))["miou"] == 1.0


def test_a_prediction_of_255_is_no_class_and_a_miss(tmp_path: Path) -> None:
    target = np.zeros((2, 2), np.uint8)
    target[0, 0] = 255
    prediction = np.array([[0, 0], [255, 0]], np.uint8)
    assert one_pair(tmp_path, "semseg", prediction, target)["pixel_accuracy"] == pytest.approx(2 / 3)


# --- several annotators ----------------------------------------------------------------------------------


def test_annotators_may_be_folders_or_layers(tmp_path: Path) -> None:
    prediction = random_maps(0)["edges"]
    layers = np.stack([random_maps(seed)["edges"] for seed in (1, 2)])
    write(tmp_path / "p" / "edges" / "x.png", prediction)
    for annotator, layer in enumerate(layers):
        write(tmp_path / "folders" / "edges" / f"person {annotator}" / "x.png", layer)
    write(tmp_path / "layers" / "edges" / "x.npz", (layers > 0).astype(np.float32))
    write(tmp_path / "alone" / "edges" / "x.png", layers[0])
    by_folder, by_layer, alone = (
        score_folders(tmp_path / "p", tmp_path / side, only("edges"))["edges"]
        for side in ("folders", "layers", "alone")
    )
    assert by_folder == by_layer
    assert by_folder != alone
    (task,) = only("edges")
    metric = task.metric()
    metric.update(torch.from_numpy(prediction)[None, None], torch.from_numpy(layers)[None] / 255)
    assert by_folder == metric.compute()


def test_folders_in_ids_are_no_annotators(tmp_path: Path) -> None:
    maps = [random_maps(seed)["edges"] for seed in range(4)]
    for side, (first, second) in (("p", maps[:2]), ("t", maps[2:])):
        write(tmp_path / side / "here" / "1.png", first)
        write(tmp_path / side / "there" / "2.png", second)
        write(tmp_path / f"{side} flat" / "1.png", first)
        write(tmp_path / f"{side} flat" / "2.png", second)
    nested, flat = (
        score_folders(tmp_path / f"p{end}", tmp_path / f"t{end}", only("edges")) for end in ("", " flat")
    )
    assert nested.images == 2
    assert nested.by_task == flat.by_task
    for person in ("A", "B"):
        write(tmp_path / "people" / person / "here" / "1.png", maps[2])
        write(tmp_path / "people" / person / "there" / "2.png", maps[3])
    assert score_folders(tmp_path / "p", tmp_path / "people", only("edges"))["edges"] == pytest.approx(
        nested["edges"]
    )


# --- what does not fit -----------------------------------------------------------------------------------


def test_a_missing_prediction_is_named_and_counted(folders: tuple[Path, Path]) -> None:
    for name in ("a", "b"):
        (folders[0] / "depth" / f"{name}.npy").unlink()
    with pytest.raises(DataError, match=r"prediction of task 'depth' for 'a', found none; 2 of 3 targets"):
        score_folders(*folders, only("depth"))
    scores = score_folders(*folders, only("depth"), missing="skip")
    assert scores.images == 1


def test_a_target_on_which_nothing_counts_needs_no_prediction(folders: tuple[Path, Path]) -> None:
    for task, stored in (("depth", np.zeros((4, 4), np.float32)), ("semseg", np.full((4, 4), 255, np.uint8))):
        before = score_folders(*folders, only(task))
        write(folders[1] / task / f"unlabelled{SUFFIXES[task]}", stored)
        assert score_folders(*folders, only(task)) == before


def test_an_image_without_parts_needs_no_prediction_where_such_are_left_out(
    folders: tuple[Path, Path],
) -> None:
    write(folders[1] / "semseg" / "nobody.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="for 'nobody', found none"):
        score_folders(*folders, only("semseg"))
    assert score_folders(*folders, only("semseg", skip_empty=True)).images == 3


def test_nothing_in_common_is_refused(folders: tuple[Path, Path]) -> None:
    for path in (folders[0] / "depth").iterdir():
        path.rename(path.with_name(f"pred_{path.name}"))
    with pytest.raises(DataError, match=r"no prediction of task 'depth' has the name of a target .* 'a'"):
        score_folders(*folders, only("depth"), missing="skip")


@pytest.mark.parametrize("task", ["semseg", "depth", "normals", "saliency"])
def test_another_size_is_refused_or_resized(tmp_path: Path, task: str) -> None:
    target = random_maps(0)[task]
    small = target[::2, ::2]
    with pytest.raises(
        DataError, match=r"p/x\.\w+: expected .* 16x20 \(height x width\), found 8x10.*resize"
    ):
        one_pair(tmp_path, task, small, target)
    found = one_pair(tmp_path, task, small, target, resize=True)
    large = small.repeat(2, 0).repeat(2, 1)
    if task == "semseg":
        assert found == one_pair(tmp_path / "large", task, large, target)
    else:
        assert all(math.isfinite(value) for value in found.values())


def test_a_constant_stays_constant_when_it_is_resized(tmp_path: Path) -> None:
    small, large = (np.full(size, 2.0, np.float32) for size in ((3, 5), (16, 20)))
    assert one_pair(tmp_path, "depth", small, large, resize=True)["rmse"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"protocol": "surve"}, "did you mean 'survey'"),
        ({"missing": "allow"}, "missing is 'refuse' or 'skip', got 'allow'"),
        ({"workers": 0}, "workers must be 1 or more"),
        (
            {"target_encodings": {"dept": {}}},
            r"encoding of targets is given for 'dept' \(did you mean 'depth'",
        ),
        ({"prediction_encodings": {"depth": {"scal": 1}}}, "task 'depth' has no option 'scal'.*'scale'"),
        (
            {"measuring": {"max_distance": 0.01}},
            "measuring has 'max_distance', which no task takes; .* nothing",
        ),
        ({"prediction_encodings": {"depth": {"scale": "mm"}}}, "'scale' of the encoding .*must be a number"),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    folders: tuple[Path, Path], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        score_folders(*folders, only("depth"), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("measuring", "text"),
    [
        ({"max_distanc": 0.01}, "'max_distanc', which no task takes .did you mean 'max_distance'"),
        ({"max_distance": "far"}, "max_distance is a fraction .* got 'far'"),
    ],
)
def test_what_the_data_says_must_mean_something(
    folders: tuple[Path, Path], measuring: dict[str, Any], text: str
) -> None:
    tasks = parse({"edges": {"kind": "edges"}})
    with pytest.raises(ConfigurationError, match=text):
        score_folders(*folders, tasks, measuring=measuring)
    for protocol in ("plain", "invpt"):  # of which only the second takes it
        score_folders(*folders, tasks, measuring={"outline": True}, protocol=protocol)


def test_folders_that_are_not_there_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: expected a folder of predictions, found none"):
        score_folders(tmp_path / "nowhere", folders[1], only("depth"))
    tasks = parse({"depth": DECLARED["depth"], "z": DECLARED["depth"]})
    with pytest.raises(DataError, match="z: expected a folder with the predictions of task 'z'"):
        score_folders(*folders, tasks)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected targets of task 'depth', found no map there"):
        score_folders(folders[0], tmp_path / "empty", only("depth"))


def test_two_files_of_one_id_are_refused(folders: tuple[Path, Path]) -> None:
    write(folders[0] / "depth" / "a.mat", random_maps(0)["depth"])
    with pytest.raises(DataError, match=r"a\.npy: a\.mat has the same id"):
        score_folders(*folders, only("depth"))


def test_a_label_out_of_range_is_named(folders: tuple[Path, Path]) -> None:
    write(folders[1] / "semseg" / "b.png", np.full((16, 20), 7, np.uint8))
    with pytest.raises(DataError, match=r"targets/semseg/b\.png: expected class ids from 0 to 4 or 255"):
        score_folders(*folders, only("semseg"))


# --- from a file and a command line ----------------------------------------------------------------------


def test_a_file_and_words_give_the_arguments(folders: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "scoring.yaml"
    file.write_text(
        "tasks: {depth: {kind: depth}, edges: {kind: edges}}\n"
        "targets: {depth: {unknown: [0, 9]}}\npredictions: {}\n"
        "measuring: {max_distance: 0.05}\nmissing: skip\n"
    )
    words = ["semseg={kind: semantic, classes: 5}", "depth=depth"]
    arguments = read_scoring(file, words)
    assert [task.name for task in arguments["tasks"]] == ["depth", "edges", "semseg"]
    expected = score_folders(*folders, only("depth", "edges", "semseg"), missing="skip")
    assert score_folders(*folders, **arguments).by_task == expected.by_task


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("taks: {}", [], r"unknown key 'taks' .did you mean 'tasks'"),
        ("tasks: [depth]", [], "tasks must hold 'key: value' lines"),
        ("targets: {depth: 3}", ["depth=depth"], "targets must hold 'key: value' lines"),
        ("{}", [], "expected at least one task to score, got none"),
        ("{}", ["depth"], "NAME=KIND, for instance depth=depth, got 'depth'"),
        ("{}", ["depth=dept"], "did you mean 'depth'"),
        ("{}", ["depth={"], "is not a YAML value"),
    ],
)
def test_a_file_or_word_that_says_nothing_is_refused(
    tmp_path: Path, text: str, words: list[str], message: str
) -> None:
    (tmp_path / "scoring.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_scoring(tmp_path / "scoring.yaml", words)
    assert "\n" not in str(caught.value)
