"""Each layout of Cityscapes read as it is documented, and refused in one sentence where it is broken."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.layouts import cityscapes as layout
from tests.layouts import nyud
from tests.layouts.cityscapes import FAULTS, OFFICIAL, SIZE, UNLABELLED, WRITERS

import plait.data
from plait.data.cityscapes import Cityscapes
from plait.data.cityscapes.classes import LABEL_IDS, NAMES, PARTS, part_classes
from plait.data.labels import InverseDepth
from plait.data.nyud.dataset import NYUD
from plait.data.published import held_out
from plait.errors import ConfigurationError, DataError

KEYS = tuple(WRITERS)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Good archives by their key, which no test changes."""
    written: dict[str, Path] = {}

    def at(key: str) -> Path:
        if key not in written:
            written[key] = WRITERS[f"cityscapes/{key}"](tmp_path_factory.mktemp(key))
        return written[key]

    return at


def read(root: Path, sample: str, label: str, **options: object) -> NDArray[np.generic]:
    """A label of one channel, as NumPy has it."""
    for split in ("trainval", "test"):
        dataset = Cityscapes(split, [label], root, **options)  # type: ignore[arg-type]
        if sample in dataset.ids:
            target = dataset[dataset.ids.index(sample)].targets[label].as_subclass(torch.Tensor)
            found: NDArray[np.generic] = target[0].numpy()
            return found
    raise AssertionError(f"no sample {sample}")


# --- the owners' files -------------------------------------------------------------------------------------


def test_label_ids_become_the_19_classes_and_all_others_are_unknown(tmp_path: Path) -> None:
    root = layout.write_official(tmp_path)
    sample = OFFICIAL["train"][0]
    ids = np.zeros(SIZE, dtype=np.uint8)
    ids.flat[:35] = [*range(34), 255]
    file = root / layout.official_file("gtFine", "train", sample, "gtFine_labelIds.png")
    layout.pixels(ids)(file)
    given = read(root, sample, "semantic").ravel()[:35]
    official = {
        7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
        20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car",
        27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
    }  # fmt: skip
    assert {k: NAMES[19][given[k]] for k in range(34) if given[k] != 255} == official
    assert given[34] == 255
    assert len(LABEL_IDS) == len(NAMES[19]) == 19


def test_an_image_may_have_no_class_at_all(archive: Callable[[str], Path]) -> None:
    assert (read(archive("official"), UNLABELLED, "semantic") == 255).all()


def test_depth_and_inverse_depth_are_in_metres(archive: Callable[[str], Path]) -> None:
    sample = OFFICIAL["val"][0]
    depth = read(archive("official"), sample, "depth")
    inverse = read(archive("official"), sample, "inverse_depth")
    expected = layout.depth()
    np.testing.assert_allclose(depth[2:], expected[2:], rtol=1e-4)  # a disparity is stored in steps of 1/256
    np.testing.assert_allclose(inverse[2:], 1 / expected[2:], rtol=1e-4)
    assert np.isnan(depth[:2]).all()
    assert np.isnan(inverse[0]).all()
    assert (inverse[1] == 0).all(), "infinitely far is known, as an inverse depth"


def test_an_instance_is_unknown_where_no_single_object_is_labelled(archive: Callable[[str], Path]) -> None:
    stored = layout.instance_ids()
    given = read(archive("official"), OFFICIAL["train"][0], "instances")
    np.testing.assert_array_equal(given, np.where(stored == 26001, 26001, 255))


def test_with_one_city_there_is_something_to_train_on() -> None:
    ids = [f"ulm_{number:06}_000019" for number in range(40)]
    assert not held_out(ids, 0.1, lambda name: name.partition("_")[0])
    assert len(held_out([*ids, *(f"{name}b" for name in ids)], 0.1, lambda name: name[-1])) == 40


def test_val_has_cities_of_its_own(archive: Callable[[str], Path]) -> None:
    cities = {
        split: {name.split("_")[0] for name in Cityscapes(split, [], archive("official")).ids}
        for split in ("train", "val", "test")
    }
    assert cities["train"] | cities["val"] == {"aachen", "bochum", "ulm"}
    assert not cities["train"] & cities["val"]
    assert cities["test"] == {"frankfurt", "lindau"}


@pytest.mark.parametrize(("package", "lost"), [("disparity", 2), ("camera", 2), ("gtFine", 2)])
def test_without_a_package_its_labels_are_not_there(package: str, lost: int, tmp_path: Path) -> None:
    root = layout.write_official(tmp_path)
    (root / package).rename(root / "elsewhere")
    left = set(Cityscapes.fields_at(root))
    assert len(left) == 4 - lost
    for label in {"semantic", "instances", "depth", "inverse_depth"} - left:
        with pytest.raises(ConfigurationError, match=f"not there: {package}"):
            Cityscapes("train", [label], root)
    dataset = Cityscapes("train", ["depth", "semantic"], root, missing="allow")
    assert dataset.present(0) == {"depth", "semantic"} & left
    assert any(package in fact for what, fact in dataset.facts.items() if what.startswith("no "))


def test_depth_needs_the_camera_of_its_image(tmp_path: Path) -> None:
    root = layout.write_official(tmp_path)
    sample = OFFICIAL["val"][1]
    (root / layout.official_file("camera", "val", sample, "camera.json")).unlink()
    with pytest.raises(DataError, match=f"1 of 3 samples of cityscapes test have no depth.*{sample}"):
        Cityscapes("test", ["depth"], root)
    dataset = Cityscapes("test", ["depth"], root, missing="allow")
    assert [dataset.present(place) for place in range(3)] == [{"depth"}, set(), {"depth"}]


# --- MTAN's package ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 5])
def test_arrays_give_classes_with_minus_one_unknown(number: int, archive: Callable[[str], Path]) -> None:
    stored = layout.mtan_labels(7, number)
    given = read(archive("mtan"), f"train-{number}", "semantic")
    np.testing.assert_array_equal(given, np.where(stored == -1, 255, stored))


def test_arrays_give_inverse_depth_as_the_authors_left_it(archive: Callable[[str], Path]) -> None:
    root = archive("mtan")
    assert set(Cityscapes.fields_at(root)) == {"semantic", "inverse_depth"}
    given = read(root, "val-2", "inverse_depth")
    assert np.isnan(given[0]).all()
    assert (given[1:] == layout.INVERSE_DEPTH).all()


def test_an_image_of_fractions_is_rounded_to_256_levels(archive: Callable[[str], Path]) -> None:
    image = Cityscapes("test", [], archive("mtan"))[0].image
    texture = layout.SCENE.texture_at(*layout.SCENE.grid())
    assert image.dtype == torch.uint8
    np.testing.assert_allclose(image.numpy() / 255, texture, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("classes", [2, 7, 19])
def test_one_folder_of_labels_tells_how_many_classes_it_has(classes: int, tmp_path: Path) -> None:
    for number in range(6):
        layout.write_mtan_sample(tmp_path, "train", number, {"label": classes})
    dataset = Cityscapes("train", ["semantic"], tmp_path)
    assert dataset.classes["semantic"] == NAMES[classes]
    assert dataset.facts["classes"].startswith(f"{classes}, by class ids up to {classes - 1}")


@pytest.mark.parametrize(("asked", "found"), [(None, 7), (2, 2), (7, 7), (19, 19)])
def test_of_several_sets_of_classes_one_is_chosen(
    asked: int | None, found: int, archive: Callable[[str], Path]
) -> None:
    root = archive("mtan_all")
    assert Cityscapes("train", ["semantic"], root, classes=asked).classes["semantic"] == NAMES[found]
    stored = layout.mtan_labels(found, 0)
    given = read(root, "train-0", "semantic", classes=asked)
    np.testing.assert_array_equal(given, np.where(stored == -1, 255, stored))


def test_labels_that_tell_nothing_need_the_number_of_classes(tmp_path: Path) -> None:
    layout.write_mtan_sample(tmp_path, "train", 5, {"label": 7})  # all unknown
    with pytest.raises(DataError, match="set classes to one of 2, 7, 19"):
        Cityscapes("trainval", ["semantic"], tmp_path)
    assert len(Cityscapes("trainval", ["semantic"], tmp_path, classes=7)) == 1


def test_the_number_of_classes_must_be_one_that_there_is(archive: Callable[[str], Path]) -> None:
    for key, classes, says in [("mtan", 5, "2 or 7 or 19"), ("official", 7, "19 semantic"), ("png", 2, "19")]:
        with pytest.raises(ConfigurationError, match=says):
            Cityscapes("train", ["semantic"], archive(key), classes=classes)


# --- auto-lambda's pictures --------------------------------------------------------------------------------


def test_parts_are_ten_classes_of_people_and_vehicles(archive: Callable[[str], Path]) -> None:
    given = read(archive("png"), "train-0", "parts")
    np.testing.assert_array_equal(given, layout.quadrants(layout.PARTS))


@pytest.mark.parametrize("instance", [0, 1, 999])
def test_a_part_has_its_class_whatever_its_object(instance: int) -> None:
    def classes(labels: tuple[int, ...], parts: range) -> list[list[str]]:
        uids = np.array([[label * 100_000 + instance * 100 + part for part in parts] for label in labels])
        return [[PARTS[k] for k in row] for row in part_classes(uids, "a test")]

    people = ["background", "torso", "head", "arms", "legs", "background"]
    vehicles = ["background", "windows", "wheels", "lights", "license plate", "chassis", "background"]
    assert classes((24, 25), range(6)) == [people] * 2
    assert classes((26, 27, 28), range(7)) == [vehicles] * 3
    assert classes((33,), range(6)) == [["background"] * 6]


def test_what_has_no_part_is_background() -> None:
    uids = np.array([0, 7, 24, 26, 24001, 26999, 33012])
    assert (part_classes(uids, "a test") == 0).all()


def test_pictures_give_disparity_in_their_own_pixels(archive: Callable[[str], Path]) -> None:
    given = read(archive("png"), "val-1", "inverse_depth")
    np.testing.assert_allclose(given[2:], 20 / layout.depth()[2:], atol=0.5 / 1024 + 1e-5)
    assert np.isnan(given[0]).all()
    assert (given[1] == 0).all()


def test_parts_that_the_published_script_wrote_beside_their_folder_are_found(tmp_path: Path) -> None:
    root = layout.write_png(tmp_path)
    for file in (root / "train" / "part_seg").iterdir():
        file.rename(root / "train" / f"part_seg{file.name}")
    np.testing.assert_array_equal(read(root, "train-3", "parts"), layout.quadrants(layout.PARTS))
    np.testing.assert_array_equal(read(root, "val-0", "parts"), layout.quadrants(layout.PARTS))


def test_neighbouring_numbers_stay_together(archive: Callable[[str], Path]) -> None:
    blocks = {
        split: {int(name.split("-")[1]) // 10 for name in Cityscapes(split, [], archive("png")).ids}
        for split in ("train", "val")
    }
    assert not blocks["train"] & blocks["val"]
    assert blocks["train"] | blocks["val"] == {0, 1}


# --- all of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_layouts_are_told_apart_by_their_files(key: str, archive: Callable[[str], Path]) -> None:
    name = key.split("/")[1]
    assert Cityscapes.open_layout(archive(name)).name == name.removesuffix("_all")
    other = "png" if name == "official" else "official"
    with pytest.raises(DataError, match=f"not a known layout.*{other}"):
        Cityscapes("train", [], archive(name), variant=other)


def test_the_arrays_of_nyud_are_not_taken_for_those_of_cityscapes(
    tmp_path: Path, archive: Callable[[str], Path]
) -> None:
    with pytest.raises(DataError, match="not a known layout of cityscapes"):
        Cityscapes("train", [], nyud.write_mtan(tmp_path))
    with pytest.raises(DataError, match="not a known layout of nyud"):
        NYUD("train", [], archive("mtan_all"))


@pytest.mark.parametrize("name", ["official", "mtan", "png"])
def test_hidden_files_are_no_images(name: str, tmp_path: Path) -> None:
    root = WRITERS[f"cityscapes/{name}"](tmp_path)
    ids = Cityscapes("trainval", [], root).ids
    image = Cityscapes.open_layout(root).path("image", ids[0])
    assert image is not None
    (image.parent / f"._{image.name}").write_bytes(b"left by another system")
    assert Cityscapes("trainval", [], root).ids == ids


@pytest.mark.parametrize("key", KEYS)
def test_the_check_finds_only_that_the_copy_is_small(key: str, archive: Callable[[str], Path]) -> None:
    report = plait.data.check("cityscapes", archive(key.split("/")[1]))
    assert len(report.problems) == 2
    assert all(re.search("published archive has (2975|500) images", line) for line in report.problems)


@pytest.mark.parametrize("key", KEYS)
def test_the_data_set_survives_pickling(key: str, archive: Callable[[str], Path]) -> None:
    root = archive(key.split("/")[1])
    dataset = Cityscapes("test", list(Cityscapes.fields_at(root)), root)
    copy = pickle.loads(pickle.dumps(dataset))
    for label, target in dataset[0].targets.items():
        torch.testing.assert_close(
            copy[0].targets[label].as_subclass(torch.Tensor), target.as_subclass(torch.Tensor), equal_nan=True
        )


def test_numbers_are_in_their_order_and_ids_unique_over_the_parts(archive: Callable[[str], Path]) -> None:
    assert Cityscapes("trainval", [], archive("png")).ids == [f"train-{k}" for k in range(12)]
    assert Cityscapes("test", [], archive("png")).ids == [f"val-{k}" for k in range(3)]


def test_inverse_depth_is_known_where_the_camera_sees_infinitely_far(archive: Callable[[str], Path]) -> None:
    dataset = Cityscapes("test", ["inverse_depth"], archive("official"))
    target = dataset[0].targets["inverse_depth"]
    assert type(target) is InverseDepth
    known = InverseDepth.known(target.as_subclass(torch.Tensor))
    assert known[0, 1].all()
    assert not known[0, 0].any()


# --- what is broken ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_file_is_one_sentence_that_names_it(name: str, tmp_path: Path) -> None:
    key, fault = FAULTS[name]
    root = WRITERS[key](tmp_path)
    fault.break_it(root)

    def read_it() -> None:  # opening the set may read an array too, to count the classes
        dataset = Cityscapes("trainval", fault.labels, root)
        dataset[dataset.ids.index(fault.sample)]

    with pytest.raises(DataError, match=fault.says) as refusal:
        read_it()
    assert str(root / fault.file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("key", "ending"), [("mtan", ".npy"), ("png", ".png")])
def test_an_image_that_is_not_called_by_a_number_is_refused(key: str, ending: str, tmp_path: Path) -> None:
    root = WRITERS[f"cityscapes/{key}"](tmp_path)
    (root / "train" / "image" / f"copy of 3{ending}").write_bytes(b"")
    with pytest.raises(DataError, match="called by a number, found copy of 3"):
        Cityscapes("train", [], root)


@pytest.mark.parametrize("key", ["official", "mtan", "png"])
def test_a_part_without_images_is_refused(key: str, tmp_path: Path) -> None:
    root = WRITERS[f"cityscapes/{key}"](tmp_path)
    folder = root / "leftImg8bit" / "val" if key == "official" else root / "val" / "image"
    folder.rename(root / "elsewhere")
    with pytest.raises(DataError, match=r"expected images as .*found none") as refusal:
        Cityscapes("test", [], root)
    assert str(folder) in str(refusal.value)


def test_a_missing_label_is_refused_or_left_out(tmp_path: Path) -> None:
    root = layout.write_png(tmp_path)
    (root / "val" / "seg" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 samples of cityscapes test have no semantic file .val-1"):
        Cityscapes("test", ["semantic", "parts"], root)
    dataset = Cityscapes("test", ["semantic", "parts"], root, missing="allow")
    assert dataset.present(1) == set(dataset[1].targets) == {"parts"}


def test_another_folder_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit_trainvaltest").mkdir()
    with pytest.raises(DataError, match=r"holds leftImg8bit_trainvaltest.*expected one of: official"):
        Cityscapes("train", ["semantic"], tmp_path)
