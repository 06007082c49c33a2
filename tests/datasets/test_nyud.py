"""NYU Depth v2: every archive of it, read as it is stored."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.layouts import nyud
from torch import Tensor

import plait.data.nyud.axes as axes
from plait.data.encodings import Encoding, decode
from plait.data.nyud.classes import CLASSES_13, CLASSES_40
from plait.data.nyud.dataset import NYUD
from plait.errors import ConfigurationError, DataError

FIELDS = ("semantic", "depth", "normals", "edges")
ARCHIVES = ("survey", "astmt", "atrc")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        key.partition("/")[2]: write(tmp_path_factory.mktemp("set")) for key, write in nyud.WRITERS.items()
    }


def opened(root: Path, split: str = "trainval", variant: str = "auto", **options: object) -> NYUD:
    labels = [field for field in FIELDS if field != "edges" or "mtan" not in variant]
    return NYUD(split, labels, root, variant=variant, **options)  # type: ignore[arg-type]


def plain(label: Tensor) -> Tensor:
    return label.as_subclass(Tensor)


# --- which archive it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [*ARCHIVES, "mtan", "built"])
def test_an_archive_is_known_by_its_content(roots: dict[str, Path], variant: str) -> None:
    assert NYUD.open_layout(roots[variant]).name == variant


@pytest.mark.parametrize("variant", [*ARCHIVES, "mtan", "built"])
def test_no_archive_is_taken_for_another(roots: dict[str, Path], variant: str) -> None:
    assert [kind.name for kind in NYUD.layouts if kind.evidence(roots[variant])] == [variant]
    for other in {*ARCHIVES, "mtan", "built"} - {variant}:
        with pytest.raises(DataError, match="not a known layout"):
            NYUD("test", [], roots[variant], variant=other)


def test_a_folder_without_some_labels_is_still_known(tmp_path: Path) -> None:
    root = nyud.write_survey(tmp_path / "set")
    for folder in ("edge", "normals", "depth"):
        (root / folder).rename(tmp_path / folder)
    assert NYUD("test", ["semantic"], root).layout.name == "survey"
    with pytest.raises(DataError, match="3 of 3 samples of nyud test have no depth file"):
        NYUD("test", ["depth"], root)
    assert NYUD("test", FIELDS, root, missing="allow")[0].targets.keys() == {"semantic"}


def test_two_archives_in_one_folder_are_refused(tmp_path: Path, roots: dict[str, Path]) -> None:
    for variant in ("survey", "astmt"):
        shutil.copytree(roots[variant], tmp_path, dirs_exist_ok=True)
    with pytest.raises(DataError, match=r"more than one archive \(survey, astmt\)"):
        NYUD("test", ["depth"], tmp_path)
    assert NYUD("test", ["depth"], tmp_path, variant="survey").layout.name == "survey"


def test_the_folder_inside_and_the_unfinished_build_are_told(tmp_path: Path, roots: dict[str, Path]) -> None:
    nyud.write_survey(tmp_path / "above" / "NYUD_MT")
    with pytest.raises(DataError, match=r"did you mean .*above/NYUD_MT"):
        NYUD("test", ["depth"], tmp_path / "above")
    shutil.copytree(roots["built"], tmp_path / "built")
    (tmp_path / "built" / "manifest.json").unlink()
    with pytest.raises(DataError, match="building it was not finished, run the same"):
        NYUD("test", ["depth"], tmp_path / "built")


def test_endings_in_capitals_are_the_same_files(tmp_path: Path) -> None:
    root = nyud.write_survey(tmp_path)
    small = NYUD("test", ["depth", "semantic"], root)[0]
    for folder in ("images", "depth", "segmentation"):
        for path in list((root / folder).iterdir()):
            path.rename(path.with_suffix(path.suffix.upper()))
    large = NYUD("test", ["depth", "semantic"], root)[0]
    assert torch.equal(large.image, small.image)
    assert torch.equal(large.targets["semantic"], small.targets["semantic"])


def test_a_set_of_another_size_than_the_published_says_so(
    roots: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    NYUD("train", [], roots["survey"])
    assert "the train part of nyud has 795 images as published, and 6 here" in caplog.text


def test_a_list_may_begin_with_a_byte_order_mark_and_its_absence_is_named_once(tmp_path: Path) -> None:
    root = nyud.write_survey(tmp_path)
    path = root / "gt_sets" / "train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert NYUD("trainval", [], root).ids == list(nyud.TRAIN)
    path.unlink()
    with pytest.raises(DataError) as caught:
        NYUD("trainval", [], root)
    assert str(caught.value).count("train.txt") == 1


# --- what is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ARCHIVES)
def test_labels_are_those_that_were_stored(roots: dict[str, Path], variant: str) -> None:
    dataset = opened(roots[variant], variant=variant)
    tolerance = 3.0 if variant == "astmt" else 0.5  # degrees: normals there are a JPEG, or a PNG
    for place in range(len(dataset)):
        sample, maps = dataset[place], nyud.maps_of(dataset.id(place))
        targets = {field: plain(label).numpy() for field, label in sample.targets.items()}
        expected = np.where(maps.classes == 0, 255, maps.classes.astype(np.int64) - 1)
        np.testing.assert_array_equal(targets["semantic"][0], expected)
        np.testing.assert_array_equal(targets["depth"][0], np.where(maps.depth > 0, maps.depth, np.nan))
        np.testing.assert_array_equal(targets["edges"][0], maps.edges)
        normals = targets["normals"]
        unknown = ~maps.normals.any(-1)
        if variant == "astmt":  # JPEG smears what is beside the unknown pixels
            unknown[:8, :8] = True
            assert np.isnan(normals[:, 0, 0]).all()
            normals[:, :8, :8] = np.nan
        np.testing.assert_array_equal(np.isnan(normals[0]), unknown)
        if not unknown.all():
            cosine = np.tensordot(nyud.NORMAL, normals[:, ~unknown].astype(float), 1)
            assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < tolerance


def test_a_sample_of_which_nothing_is_known_is_unknown_everywhere(roots: dict[str, Path]) -> None:
    for variant in ARCHIVES:
        dataset = opened(roots[variant])
        targets = dataset[dataset.ids.index(nyud.UNLABELLED)].targets
        assert (plain(targets["semantic"]) == 255).all()
        assert plain(targets["depth"]).isnan().all()
        assert plain(targets["normals"]).isnan().all()
        assert not plain(targets["edges"]).any()


def test_a_grey_picture_has_three_channels_and_sizes_may_differ(roots: dict[str, Path]) -> None:
    dataset = opened(roots["survey"])
    grey = dataset[dataset.ids.index(nyud.GREY)].image
    assert torch.equal(grey[0], grey[1])
    test = opened(roots["survey"], "test")
    assert test[test.ids.index(nyud.WIDE)].image.shape == (3, 40, 72)


def test_mtan_is_read_in_order_with_13_classes(roots: dict[str, Path]) -> None:
    dataset = opened(roots["mtan"], variant="mtan")
    assert dataset.ids == [f"train-{number}" for number in range(12)], "numbers, not words: 2 before 10"
    assert dataset.fields.keys() == {"semantic", "depth", "normals"}
    assert dataset.classes == {"semantic": CLASSES_13}
    sample, maps = dataset[0], nyud.maps_of(nyud.TRAIN[0])
    np.testing.assert_array_equal(sample.image.permute(1, 2, 0), maps.image)
    expected = np.where(maps.classes == 0, 255, np.minimum(maps.classes, 13).astype(np.int64) - 1)
    np.testing.assert_array_equal(plain(sample.targets["semantic"])[0], expected)
    np.testing.assert_array_equal(
        plain(sample.targets["depth"])[0], np.where(maps.depth > 0, maps.depth, np.nan)
    )
    with pytest.raises(ConfigurationError, match=r"no label 'edges'.*has no edges"):
        NYUD("test", ["edges"], roots["mtan"])


@pytest.mark.parametrize("stored", [np.float32, np.uint8, bool, np.float64])
@pytest.mark.parametrize("highest", [1, 255])
def test_edges_may_be_stored_as_fractions_or_as_bytes(
    tmp_path: Path, stored: type[np.generic], highest: int
) -> None:
    root = nyud.write_survey(tmp_path)
    edges = nyud.maps_of("0001").edges * highest
    nyud.save(root / "edge" / "0001.npy", edges.astype(stored))
    given = NYUD("test", ["edges"], root)[0].targets["edges"]
    np.testing.assert_array_equal(plain(given)[0], nyud.maps_of("0001").edges)


def test_a_normal_stored_as_black_or_grey_is_unknown(tmp_path: Path) -> None:
    root = nyud.write_atrc(tmp_path)
    pixels = nyud.coded(nyud.maps_of("0001").normals)
    pixels[5, 5], pixels[6, 6], pixels[7, 7] = 0, 128, (128, 128, 0)
    nyud.save(root / "normals" / "0001.png", pixels)
    normals = plain(NYUD("test", ["normals"], root)[0].targets["normals"])
    assert normals[:, 5, 5].isnan().all()
    assert normals[:, 6, 6].isnan().all()
    torch.testing.assert_close(normals[:, 7, 7], torch.tensor([0.0, 0.0, -1.0]), atol=0.01, rtol=0)


# --- splits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [*ARCHIVES, "mtan", "built"])
def test_splits_share_nothing_and_neighbours_stay_together(roots: dict[str, Path], variant: str) -> None:
    parts = {split: NYUD(split, [], roots[variant]) for split in ("train", "val", "test", "trainval")}
    ids = {split: set(dataset.ids) for split, dataset in parts.items()}
    assert not ids["train"] & ids["val"]
    assert not ids["trainval"] & ids["test"]
    assert ids["train"] | ids["val"] == ids["trainval"]
    assert ids["val"]
    group = parts["train"].layout.group
    assert not {group(name) for name in ids["train"]} & {group(name) for name in ids["val"]}


def test_neighbours_are_ten_numbers_or_a_scene(roots: dict[str, Path]) -> None:
    group = NYUD.open_layout(roots["survey"]).group
    assert group("0010") == group("0019") != group("0020")
    assert group("img_5010") == group("img_5019")
    assert group("no number") == "no number"
    built = NYUD.open_layout(roots["built"]).group
    assert built("0002") == built("0003") == "office_0002"


# --- options ----------------------------------------------------------------------------------------------


def test_there_are_40_classes_or_13(roots: dict[str, Path]) -> None:
    assert len(set(CLASSES_40)) == 40
    assert len(set(CLASSES_13)) == 13
    assert NYUD("test", [], roots["survey"], classes=40).classes == {"semantic": CLASSES_40}
    for variant in ARCHIVES:
        with pytest.raises(ConfigurationError, match="40 classes, got 13"):
            NYUD("test", [], roots[variant], classes=13)
    with pytest.raises(ConfigurationError, match="13 classes, got 40"):
        NYUD("test", [], roots["mtan"], classes=40)


def test_axes_of_stored_normals_are_an_option(roots: dict[str, Path]) -> None:
    asked = NYUD("test", ["normals"], roots["survey"], normals_axes="+x-y-z")[0].targets["normals"]
    as_ours = NYUD("test", ["normals"], roots["survey"])[0].targets["normals"]
    torch.testing.assert_close(
        plain(asked), plain(as_ours) * torch.tensor([1.0, -1, -1])[:, None, None], equal_nan=True
    )
    with pytest.raises(ConfigurationError, match="axes"):
        NYUD("test", [], roots["survey"], normals_axes="xyz")
    with pytest.raises(ConfigurationError, match="was built with the axes"):
        NYUD("test", [], roots["built"], normals_axes="+x-y-z")


def test_edges_of_archives_are_outlined_and_built_ones_are_not(roots: dict[str, Path]) -> None:
    assert NYUD("test", [], roots["atrc"]).measuring == {"max_distance": 0.011, "outline": True}
    assert NYUD("test", [], roots["built"]).measuring == {"max_distance": 0.011}
    assert NYUD.measuring["outline"] is True, "one folder says nothing of the next"


# --- facts ------------------------------------------------------------------------------------------------


def test_a_check_says_which_way_normals_face(tmp_path: Path, roots: dict[str, Path]) -> None:
    assert "set normals_axes" not in NYUD("test", [], roots["survey"]).facts["normals"]
    root = nyud.write_survey(tmp_path / "other")
    for path in (root / "normals").iterdir():
        x, y, z = np.moveaxis(np.load(path), -1, 0)
        np.save(path, np.stack([-y, x, -z], -1))
    said = NYUD("test", [], root).facts["normals"]
    assert "'-y+x-z' fits better" in said
    assert said.endswith("set normals_axes to it")
    right = NYUD("test", ["normals"], root, normals_axes="-y+x-z")
    assert "set normals_axes" not in right.facts["normals"]
    torch.testing.assert_close(
        plain(right[0].targets["normals"])[:, -1, -1], torch.tensor(nyud.NORMAL, dtype=torch.float32)
    )


def test_without_depth_nothing_is_said_of_normals(tmp_path: Path) -> None:
    root = nyud.write_survey(tmp_path / "set")
    (root / "depth").rename(tmp_path / "depth")
    assert "not compared" in NYUD("test", ["normals"], root).facts["normals"]


@pytest.mark.parametrize("name", axes.CANDIDATES)
def test_axes_are_found_among_all_48(name: str) -> None:
    expected = np.random.default_rng(0).normal(size=(3, 50))
    expected /= np.linalg.norm(expected, axis=0)
    stored = axes._as_stored(expected, name)
    angles = axes.median_angles(stored, expected)
    assert len(angles) == 48
    assert min(angles, key=angles.__getitem__) == name
    assert angles[name] < 1e-3
    back = decode(stored.T[:, None], Encoding("normals", axes=name))
    np.testing.assert_allclose(plain(back)[:, :, 0], expected, atol=1e-6)


def test_facts_name_archive_licence_and_page(roots: dict[str, Path]) -> None:
    facts = NYUD("test", [], roots["astmt"]).facts
    assert facts["variant"].startswith("astmt: ")
    assert "segmentation/*.mat" in facts["recognised by"]
    assert facts["where from"] == NYUD.page


def test_a_set_travels_to_a_worker(roots: dict[str, Path]) -> None:
    for variant in nyud.WRITERS:
        dataset = opened(roots[variant.partition("/")[2]], variant=variant.partition("/")[2])
        copy = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(copy[0].image, dataset[0].image)


# --- what is wrong is one sentence that names the file ------------------------------------------------------


@pytest.mark.parametrize("how", nyud.BROKEN)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, how: str) -> None:
    broken = nyud.BROKEN[how]
    root = nyud.WRITERS[broken.key](tmp_path)
    broken.spoil(root)
    with pytest.raises(DataError, match=broken.expected) as caught:
        NYUD("test", [broken.field], root)[0]
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
