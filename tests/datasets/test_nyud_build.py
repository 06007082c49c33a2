"""NYU Depth v2 built from its first sources."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from tests.layouts import nyud

from plait.data import files
from plait.data.nyud import build, camera
from plait.data.nyud.build import build_nyud, object_edges
from plait.data.nyud.dataset import NYUD
from plait.errors import ConfigurationError, DataError

Array = NDArray[Any]
FIELDS = ("semantic", "depth", "normals", "edges")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nyud.write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def built(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nyud(sources, tmp_path_factory.mktemp("built"), crop=False).parent


def labels_of(root: Path, number: int, **options: Any) -> dict[str, Array]:
    dataset = NYUD("trainval" if number in nyud.NUMBERS["train"] else "test", FIELDS, root, **options)
    sample = dataset[dataset.ids.index(f"{number:04d}")]
    return {"image": sample.image.numpy(), **{name: label.numpy() for name, label in sample.targets.items()}}


# --- what comes out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 9])
def test_pictures_labels_and_depth_are_those_of_the_file(built: Path, number: int) -> None:
    given, stored = labels_of(built, number), nyud.source_maps(number, (48, 64))
    np.testing.assert_array_equal(given["image"], stored["images"].transpose(2, 0, 1))
    np.testing.assert_array_equal(given["depth"][0], stored["depths"])
    to_40 = nyud.map_class().ravel()
    expected = [255 if label == 0 else to_40[label - 1] - 1 for label in nyud.LABELS_894]
    assert expected[1] == 39, "the last class is in it"
    quarters = np.array(nyud.LABELS_894)
    for label, chosen in zip(quarters, expected, strict=True):
        assert (given["semantic"][0][stored["labels"] == label] == chosen).all()


def test_thirteen_classes_are_those_of_the_forty(built: Path) -> None:
    forty = labels_of(built, 2, classes=40)["semantic"][0]
    thirteen = labels_of(built, 2, classes=13)["semantic"][0]
    expected = np.full(256, 255)
    expected[:40] = nyud.labels_13().ravel().astype(int) - 1
    np.testing.assert_array_equal(thirteen, expected[forty])
    assert NYUD("test", [], built).classes["semantic"][0] == "wall", "forty by default"


def test_normals_are_those_of_the_depth(built: Path) -> None:
    normals = labels_of(built, 3)["normals"].astype(float)
    cosine = np.tensordot(nyud.NORMAL, normals, 1)
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 0.1, "half precision is enough"
    assert normals.shape == (3, 48, 64)


def test_the_parts_are_those_of_the_split(built: Path) -> None:
    for split, part in (("trainval", "train"), ("test", "test")):
        assert NYUD(split, [], built).ids == [f"{number:04d}" for number in nyud.NUMBERS[part]]
    assert not (built / "images" / "0006.png").exists(), "it is in neither part"


def test_raw_depth_is_unknown_where_the_sensor_saw_nothing_and_so_are_normals(
    sources: Path, tmp_path: Path
) -> None:
    build_nyud(sources, tmp_path, depth="raw", crop=False)
    given, raw = labels_of(tmp_path, 2), nyud.source_maps(2, (48, 64))["rawDepths"]
    np.testing.assert_array_equal(np.isnan(given["depth"][0]), raw == 0)
    assert np.isnan(given["normals"][:, raw == 0]).all()
    assert np.isfinite(given["normals"][:, raw > 0]).mean() > 0.95
    assert json.loads((tmp_path / "manifest.json").read_text())["options"]["depth"] == "raw"


def test_the_white_border_is_cut_off_and_the_camera_moves_with_it(tmp_path: Path) -> None:
    sources = nyud.write_sources(tmp_path / "sources", camera.SIZE, {"train": (2,), "test": (1,)})
    manifest = json.loads(build_nyud(sources, tmp_path / "built").read_text())
    given, stored = labels_of(tmp_path / "built", 1), nyud.source_maps(1, camera.SIZE)
    assert manifest["size"] == [427, 561]
    np.testing.assert_array_equal(given["depth"][0], stored["depths"][44:471, 40:601])
    np.testing.assert_array_equal(given["image"], stored["images"][44:471, 40:601].transpose(2, 0, 1))
    cosine = np.tensordot(nyud.NORMAL, given["normals"].astype(float), 1)
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 0.1, "normals would tilt with a wrong centre"
    # The same point of the scene, by the toolbox's formula, which counts pixels from 1 in the whole picture.
    row, column, metres = 100, 200, given["depth"][0, 100, 200]
    toolbox = (column + 41 - camera.PRINCIPAL_POINT[0]) * metres / camera.FOCAL[0]
    ours = (column + 0.5 - manifest["camera"]["cx"]) * metres / manifest["camera"]["fx"]
    assert ours == pytest.approx(toolbox)
    toolbox = (row + 45 - camera.PRINCIPAL_POINT[1]) * metres / camera.FOCAL[1]
    ours = (row + 0.5 - manifest["camera"]["cy"]) * metres / manifest["camera"]["fy"]
    assert ours == pytest.approx(toolbox)


def test_the_manifest_says_what_it_was_made_of(sources: Path, built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["sources"].keys() == {path.name for path in sources.iterdir()}
    assert manifest["options"] == {"depth": "inpainted", "crop": False}
    assert manifest["counts"] == {"train": 6, "test": 3}
    assert manifest["classes"] == [40, 13]
    assert manifest["scenes"]["0001"] == "kitchen_0001"
    assert manifest["rules"] == build.RULES


# --- edges ------------------------------------------------------------------------------------------------


def test_edges_run_between_objects_of_one_class_too() -> None:
    labels, instances = np.full((9, 12), 7), np.ones((9, 12), np.uint8)
    assert not object_edges(labels, instances).any()
    assert not object_edges(labels).any()
    instances[:, 6:] = 2
    edges = object_edges(labels, instances)
    assert edges.any(axis=1).all()
    assert (edges.sum(axis=1) == 1).all(), "one pixel wide"
    assert not object_edges(labels).any(), "without instances, a class is one object"


def test_instances_of_different_classes_are_different_objects() -> None:
    labels = np.full((9, 12), 7)
    labels[:, 6:] = 8
    assert object_edges(labels, np.ones((9, 12), np.uint8)).any()


@pytest.mark.parametrize("gap", [1, 2, 4, 6])
def test_a_narrow_unlabelled_gap_is_one_edge_in_its_middle(gap: int) -> None:
    labels = np.full((20, 30), 7)
    labels[:, 15:] = 8
    labels[:, 15 - gap // 2 : 15 - gap // 2 + gap] = 0
    edges = object_edges(labels)
    assert (edges[2:-2].sum(axis=1) == 1).all()
    assert abs(edges[10].argmax() - 14) <= 1


def test_a_wide_unlabelled_region_has_an_outline() -> None:
    labels = np.full((40, 60), 7)
    labels[10:30, 20:40] = 0
    columns = np.flatnonzero(object_edges(labels)[20])
    assert list(columns) == [19, 39], "where it begins and ends, by the rule of label_boundaries"


def test_a_picture_without_labels_has_no_edges() -> None:
    assert not object_edges(np.zeros((8, 8), np.uint16)).any()


# --- going on ---------------------------------------------------------------------------------------------


def test_an_interrupted_build_goes_on_and_ends_the_same(
    sources: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = build.build_picture

    def stopping(job: Any, number: int) -> None:
        if len(made) == 4:
            raise KeyboardInterrupt
        real(job, number)
        made.append(number)

    monkeypatch.setattr(build, "build_picture", stopping)
    with pytest.raises(KeyboardInterrupt):
        build_nyud(sources, tmp_path, crop=False)
    with pytest.raises(DataError, match="not a known layout"):
        NYUD("test", [], tmp_path)
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(build, "build_picture", lambda job, number: (made.append(number), real(job, number)))
    build_nyud(sources, tmp_path, crop=False, progress=lambda *counts: seen.append(counts))
    assert sorted(made) == sorted(nyud.NUMBERS["train"] + nyud.NUMBERS["test"]), "each was made once"
    assert seen == [(number, 9) for number in range(5, 10)]
    names = {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    for name in names:
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes(), name


def test_other_options_or_sources_do_not_mix_in_one_folder(sources: Path, tmp_path: Path) -> None:
    build_nyud(sources, tmp_path / "built", crop=False)
    with pytest.raises(DataError, match="begun with other options or sources"):
        build_nyud(sources, tmp_path / "built", crop=False, depth="raw")
    other = shutil.copytree(sources, tmp_path / "sources")
    (other / build.MAPPING_13).unlink()
    with pytest.raises(DataError, match="begun with other options or sources"):
        build_nyud(other, tmp_path / "built", crop=False)


@pytest.mark.slow
def test_several_processes_make_the_same(sources: Path, built: Path, tmp_path: Path) -> None:
    build_nyud(sources, tmp_path, crop=False, processes=2)
    for path in built.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(built)).read_bytes() == path.read_bytes()


# --- sources that are not what they should be ---------------------------------------------------------------


@pytest.mark.parametrize("name", [build.LABELLED, build.SPLITS, build.MAPPING_40])
def test_a_source_that_is_absent_is_named_with_its_origin(sources: Path, tmp_path: Path, name: str) -> None:
    other = shutil.copytree(sources, tmp_path / "sources")
    (other / name).unlink()
    with pytest.raises(DataError, match=f"{name}: no such file; building NYUD needs the ") as caught:
        build_nyud(other, tmp_path / "built", crop=False)
    assert not (tmp_path / "built").exists()
    assert "\n" not in str(caught.value)


def test_without_the_map_to_13_only_40_are_built(sources: Path, tmp_path: Path) -> None:
    other = shutil.copytree(sources, tmp_path / "sources")
    (other / build.MAPPING_13).unlink()
    build_nyud(other, tmp_path / "built", crop=False)
    assert NYUD("test", [], tmp_path / "built", classes=40).classes["semantic"][1] == "floor"
    with pytest.raises(ConfigurationError, match=r"built with 40 classes, got 13; put class13Mapping\.mat"):
        NYUD("test", [], tmp_path / "built", classes=13)


def mat(name: str, **variables: Any) -> Callable[[Path], None]:
    return lambda folder: savemat(folder / name, variables)


def without(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        with h5py.File(folder / build.LABELLED, "r+") as file:
            del file[name]

    return spoil


def replaced(name: str, values: Array) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        with h5py.File(folder / build.LABELLED, "r+") as file:
            del file[name]
            file.create_dataset(name, data=values)

    return spoil


def cut(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return spoil


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "half a labelled file": (cut(build.LABELLED), r"labeled\.mat: not an HDF5 file"),
    "half a split": (cut(build.SPLITS), r"splits\.mat: not a MATLAB file, or damaged"),
    "no labels": (without("labels"), r"labeled\.mat: has no variable 'labels'"),
    "no depth": (without("depths"), r"labeled\.mat: has no variable 'depths'"),
    "labels of another size": (
        replaced("labels", np.zeros((10, 64, 40), np.uint16)),
        r"labeled\.mat: expected 'labels' of the pictures' shape \(10, 64, 48\), found \(10, 64, 40\)",
    ),
    "pictures in MATLAB's order": (
        replaced("images", np.zeros((48, 64, 3, 10), np.uint8)),
        r"labeled\.mat: expected 'images' as uint8 \[pictures, 3, width, height\]",
    ),
    "a label too high": (
        replaced("labels", np.full((10, 64, 48), 895, np.uint16)),
        r"labeled\.mat: expected labels from 0 to 894, found 895 in picture 1$",
    ),
    "labels of fractions": (
        replaced("labels", np.zeros((10, 64, 48))),
        r"labeled\.mat: expected whole numbers in 'labels', found float64",
    ),
    "labels below 0": (
        replaced("labels", np.full((10, 64, 48), -1, np.int16)),
        r"labeled\.mat: expected labels from 0 to 894, found -1 in picture 1$",
    ),
    "a map of 40 classes only": (
        mat(build.MAPPING_40, mapClass=np.arange(1.0, 41)),
        r"classMapping40\.mat: expected in 'mapClass' a class from 1 to 40 for each of 894, found 40",
    ),
    "a map to 41": (
        mat(build.MAPPING_40, mapClass=np.full(894, 41.0)),
        r"classMapping40\.mat: .* found 894 from 41 to 41",
    ),
    "a map of fractions": (
        mat(build.MAPPING_40, mapClass=np.full(894, 0.5)),
        r"classMapping40\.mat: expected whole numbers in 'mapClass'",
    ),
    "another variable": (
        mat(build.MAPPING_40, classMap=np.ones(894)),
        r"classMapping40\.mat: has no variable 'mapClass'",
    ),
    "a plain map to 13": (
        mat(build.MAPPING_13, classMapping13=np.ones(40)),
        r"class13Mapping\.mat: expected the structure 'classMapping13' with 'labels13'",
    ),
    "a map to 14": (
        mat(build.MAPPING_13, classMapping13={"labels13": np.full(40, 14)}),
        r"class13Mapping\.mat: .* found 40 from 14 to 14",
    ),
    "a picture in both parts": (
        mat(build.SPLITS, trainNdxs=np.array([[1.0], [2]]), testNdxs=np.array([[2.0], [3]])),
        r"splits\.mat: picture 2 is in both parts",
    ),
    "a picture that is not there": (
        mat(build.SPLITS, trainNdxs=np.array([[1.0]]), testNdxs=np.array([[11.0]])),
        r"splits\.mat: expected in 'testNdxs' different numbers of pictures from 1 to 10, found 1 from 11",
    ),
    "an empty part": (
        mat(build.SPLITS, trainNdxs=np.array([[1.0]]), testNdxs=np.zeros((0, 1))),
        r"splits\.mat: expected whole numbers in 'testNdxs'",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_source_is_one_sentence(sources: Path, tmp_path: Path, how: str) -> None:
    spoil, expected = SPOILT[how]
    other = shutil.copytree(sources, tmp_path / "sources")
    spoil(other)
    with pytest.raises(DataError, match=expected) as caught:
        build_nyud(other, tmp_path / "built", crop=False)
    assert str(other) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "built" / "manifest.json").exists()


def test_scenes_that_lead_nowhere_are_left_out(sources: Path, tmp_path: Path) -> None:
    other = shutil.copytree(sources, tmp_path / "sources")
    with h5py.File(other / build.LABELLED, "r+") as file:
        file["scenes"][0, 3] = h5py.Reference()
    build_nyud(other, tmp_path / "built", crop=False)
    assert json.loads((tmp_path / "built" / "manifest.json").read_text())["scenes"] == {}


def test_a_full_disk_is_one_sentence_and_building_goes_on(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        if path.parent.name == "edges":
            raise OSError(errno.ENOSPC, "No space left on device")
        plainly(path, content)

    plainly = files.write_atomically
    with monkeypatch.context() as broken:
        broken.setattr(files, "write_atomically", full)
        with pytest.raises(DataError, match=r"the disk of .*edges is full; make room and start again"):
            build_nyud(sources, tmp_path, crop=False)
    build_nyud(sources, tmp_path, crop=False)
    assert len(NYUD("test", [], tmp_path)) == len(nyud.NUMBERS["test"])


def test_a_border_is_only_known_of_the_real_size(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pictures are 48x64, and the white border is known for 480x640"):
        build_nyud(sources, tmp_path)


def test_arguments_out_of_range_are_refused(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'inpainted' or 'raw', got 'filled'"):
        build_nyud(sources, tmp_path, depth="filled")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="processes must be at least 1"):
        build_nyud(sources, tmp_path, processes=0)


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"set": "rooms"}', '{"set": "nyud", "format": 2}'])
def test_a_manifest_of_something_else_is_no_built_set(built: Path, tmp_path: Path, content: str) -> None:
    root = shutil.copytree(built, tmp_path / "set")
    (root / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="not a known layout of nyud"):
        NYUD("test", [], root)


def test_pictures_are_plain_files_that_anything_reads(built: Path) -> None:
    for folder, mode in (("images", "RGB"), ("semantic40", "L"), ("semantic13", "L"), ("edges", "L")):
        with Image.open(built / folder / "0001.png") as picture:
            assert (picture.mode, picture.size) == (mode, (64, 48))
    assert np.load(built / "depth" / "0001.npy").dtype == np.float32
    assert np.load(built / "normals" / "0001.npy").shape == (48, 64, 3)
