"""PASCAL_MT read as it is documented, and refused in one sentence where it is broken."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.layouts import pascal_context as layout
from tests.layouts.pascal_context import (
    FAULTS,
    GREY,
    NO_PARTS,
    NOBODY,
    TEST,
    TRAIN,
    UNLABELLED,
    WIDE,
    Thing,
    write_json,
    write_parts,
)

import plait.data
from plait.data.packed.dataset import Packed
from plait.data.packed.pack import pack
from plait.data.pascal_context.dataset import PascalContext
from plait.data.pascal_context.human_parts import CLASSES, GROUPS, has_person, part_map
from plait.data.pascal_context.people import images_with_people
from plait.errors import ConfigurationError, DataError
from plait.metrics.boundary.labels import label_boundaries, laplacian_boundaries

ALL = ("semantic", "parts", "saliency", "normals", "edges")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good archive, which no test changes."""
    return layout.write_survey(tmp_path_factory.mktemp("pascal"))


def read(root: Path, sample: str, label: str, **options: object) -> NDArray[np.generic]:
    """A label as NumPy has it."""
    split = "test" if sample in TEST else "trainval"
    dataset = PascalContext(split, [label], root, **options)  # type: ignore[arg-type]
    found: NDArray[np.generic] = (
        dataset[dataset.ids.index(sample)].targets[label].as_subclass(torch.Tensor).numpy()
    )
    return found


# --- labels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [TRAIN[0], TRAIN[1], UNLABELLED, WIDE])
def test_classes_are_those_of_the_file_whatever_its_palette(archive: Path, sample: str) -> None:
    np.testing.assert_array_equal(read(archive, sample, "semantic")[0], layout.semantic_of(sample))


def test_voc_2012_comes_before_pascal_context(tmp_path: Path) -> None:
    root = layout.write_survey(tmp_path)
    other = root / "semseg" / "pascal-context" / f"{TRAIN[1]}.png"
    layout.write_image(other, layout.Image.fromarray(np.full((48, 64), 9, np.uint8)))
    np.testing.assert_array_equal(read(root, TRAIN[1], "semantic")[0], layout.semantic_of(TRAIN[1]))


def test_parts_of_several_people_are_one_map_and_later_parts_are_on_top(archive: Path) -> None:
    rows, columns = np.mgrid[:48, :64]
    expected = np.zeros((48, 64), dtype=int)
    expected[(rows >= 10) & (rows < 30)] = 2
    expected[rows < 12] = 1
    expected[(rows >= 36) & (columns < 20)] = 6
    np.testing.assert_array_equal(read(archive, TRAIN[0], "parts")[0], expected)
    expected[(rows >= 20) & (columns > 50)] = 3
    np.testing.assert_array_equal(read(archive, TRAIN[1], "parts")[0], expected)


@pytest.mark.parametrize("sample", [NOBODY, NO_PARTS])
def test_without_a_part_of_a_person_no_pixel_is_known(archive: Path, sample: str) -> None:
    assert (read(archive, sample, "parts") == 255).all()


@pytest.mark.parametrize(
    ("number", "parts"),
    [
        (1, "hair head lear rear lebrow rebrow leye reye mouth nose"),
        (2, "torso neck"),
        (3, "luarm ruarm"),
        (4, "llarm rlarm lhand rhand"),
        (5, "luleg ruleg"),
        (6, "llleg rlleg lfoot rfoot"),
    ],
)
def test_each_part_of_pascal_part_has_its_class(number: int, parts: str, tmp_path: Path) -> None:
    assert set(parts.split()) == set(GROUPS[CLASSES[number]])
    for part in parts.split():
        mask = np.zeros((4, 5), dtype=np.uint8)
        mask[1, 2] = 1
        write_parts(tmp_path / "one.mat", [Thing("person", 15, mask, [(part, mask)])])
        np.testing.assert_array_equal(part_map(tmp_path / "one.mat"), number * mask)


def test_an_annotation_may_hold_nothing_one_thing_or_many(tmp_path: Path) -> None:
    mask = np.ones((4, 5), dtype=np.uint8)
    bottle, person = Thing("bottle", 5, mask), Thing("person", 15, mask, [("head", mask)])
    for things, people, parts in [
        ([], False, False),
        ([bottle], False, False),
        ([Thing("person", 15, mask)], True, False),
        ([person], True, True),
        ([person, bottle], True, True),
        ([bottle, person, person], True, True),
    ]:
        write_parts(tmp_path / "some.mat", things)
        assert has_person(tmp_path / "some.mat") == people
        assert (part_map(tmp_path / "some.mat") is not None) == parts


def test_a_part_with_an_empty_mask_is_no_part(tmp_path: Path) -> None:
    empty = np.zeros((4, 5), dtype=np.uint8)
    write_parts(tmp_path / "empty.mat", [Thing("person", 15, empty, [("head", empty)])])
    assert part_map(tmp_path / "empty.mat") is None


def test_salient_is_what_is_above_half_of_255(archive: Path) -> None:
    levels = layout.levels_of(layout.scene_of(TRAIN[0]))
    assert {127, 128} <= set(levels.ravel())
    np.testing.assert_array_equal(read(archive, TRAIN[0], "saliency")[0], levels >= 128)


def test_normals_are_unit_vectors_where_nyud_has_the_class_too(archive: Path) -> None:
    normals = read(archive, TRAIN[0], "normals")
    scene = layout.scene_of(TRAIN[0])
    known = np.isin(layout.label_map_of(scene), (440, 284))  # wall and person, not sky and grass
    known[-1] = False  # stored as the zero vector
    np.testing.assert_array_equal(np.isfinite(normals).all(0), known)
    assert np.isnan(normals[:, ~known]).all()
    found = normals[:, known]
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(found, np.tile(scene.normal[:, None], found.shape[1]), atol=0.01)


def test_the_classes_of_normals_are_those_that_both_lists_name(tmp_path: Path) -> None:
    root = layout.write_survey(tmp_path)
    everything = np.array([0, 187, 284, 360, 427, 431, 440, 459], dtype=np.uint16)
    label_map = np.tile(np.repeat(everything, 8), (48, 1))
    layout.write_label_map(root / "pascal-context" / "trainval" / f"{TRAIN[0]}.mat", label_map)
    normals = read(root, TRAIN[0], "normals")
    assert set(label_map[np.isfinite(normals).all(0)]) == {284, 427, 440}  # person, tvmonitor, wall


@pytest.mark.parametrize("form", ["ids", "a list in a file", "a folder of both lists"])
def test_the_classes_of_normals_can_be_given(form: str, tmp_path: Path) -> None:
    root = layout.write_survey(tmp_path / "data")
    for name in ("context_classes.json", "nyu_classes.json"):
        (root / "db_info" / name).unlink()
    write_json(tmp_path / "ids.json", [360])
    write_json(tmp_path / "lists" / "context_classes.json", {"sky": 360, "tvmonitor": 427, "grass": 187})
    write_json(tmp_path / "lists" / "nyu_classes.json", {"sky": 7})
    choice = {"ids": [360], "a list in a file": "ids.json", "a folder of both lists": "lists"}[form]
    choice = str(tmp_path / choice) if isinstance(choice, str) else choice
    normals = read(root, TRAIN[0], "normals", normals_classes=choice)
    expected = layout.label_map_of(layout.scene_of(TRAIN[0])) == 360
    np.testing.assert_array_equal(np.isfinite(normals).all(0), expected)


def test_all_normals_need_no_context_classes(tmp_path: Path) -> None:
    root = layout.write_survey(tmp_path)
    for file in (root / "pascal-context" / "trainval").iterdir():
        file.unlink()
    normals = read(root, TRAIN[0], "normals", normals_classes="all")
    assert np.isfinite(normals[:, :-1]).all()
    assert np.isnan(normals[:, -1]).all()


def test_normals_without_a_list_of_classes_are_refused_and_the_rest_is_not(tmp_path: Path) -> None:
    root = layout.write_survey(tmp_path)
    (root / "db_info" / "nyu_classes.json").unlink()
    with pytest.raises(
        ConfigurationError, match=r"nyu_classes\.json of the reference's data/db_info"
    ) as refusal:
        PascalContext("train", ["normals"], root)
    assert "normals_classes" in str(refusal.value)
    assert set(PascalContext.fields_at(root)) == {"semantic", "parts", "saliency", "edges"}
    dataset = PascalContext("train", ["semantic"], root)
    assert "nyu_classes.json" in dataset.facts["no normals"]


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ("nowhere", "nowhere"),
        ([0], "found 0"),
        ([460], "found 460"),
        ([True], "found True"),
        ([], "no class"),
    ],
)
def test_a_wrong_choice_of_classes_is_refused(choice: object, says: str, archive: Path) -> None:
    with pytest.raises(ConfigurationError, match=says):
        PascalContext("train", ["normals"], archive, normals_classes=choice)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["{", "[]", "[1, 2]", "{}"])
def test_a_damaged_list_of_classes_is_named(content: str, tmp_path: Path) -> None:
    root = layout.write_survey(tmp_path)
    (root / "db_info" / "nyu_classes.json").write_text(content)
    with pytest.raises(DataError, match=r"nyu_classes\.json"):
        PascalContext("train", ["normals"], root)


def test_the_axes_of_normals_can_be_told(archive: Path) -> None:
    stored, turned = (read(archive, TRAIN[0], "normals", normals_axes=axes) for axes in ("+x+y+z", "+x-y-z"))
    np.testing.assert_allclose(turned, stored * np.array([1, -1, -1])[:, None, None])
    with pytest.raises(ConfigurationError, match="axes"):
        PascalContext("train", ["normals"], archive, normals_axes="xyz")


@pytest.mark.parametrize(
    ("split", "rule", "drawn"),
    [
        ("train", "auto", "training"),
        ("trainval", "auto", "training"),
        ("val", "auto", "evaluation"),
        ("test", "auto", "evaluation"),
        ("train", "evaluation", "evaluation"),
        ("test", "training", "training"),
    ],
)
def test_boundaries_follow_the_rule_of_their_split(split: str, rule: str, drawn: str, archive: Path) -> None:
    dataset = PascalContext(split, ["edges"], archive, edge_rule=rule)  # type: ignore[arg-type]
    label_map = layout.label_map_of(layout.scene_of(dataset.ids[0]))
    rules = {"training": laplacian_boundaries(label_map), "evaluation": label_boundaries(label_map)}
    assert (rules["training"] != rules["evaluation"]).any()
    np.testing.assert_array_equal(dataset[0].targets["edges"][0].numpy(), rules[drawn])


def test_a_pack_has_the_boundaries_of_each_split(archive: Path, tmp_path: Path) -> None:
    pack("pascal_context", archive, tmp_path / "p", labels=["edges"])
    differing = 0
    for split in ("train", "val", "test", "trainval"):
        plain, packed = PascalContext(split, ["edges"], archive), Packed(split, ["edges"], tmp_path / "p")
        assert packed.ids == plain.ids
        for place in range(len(plain)):
            assert packed[place].id == plain[place].id
            assert torch.equal(packed[place].targets["edges"], plain[place].targets["edges"])
        differing += len(packed.manifest["again"].get(split, ()))
    assert differing == len(PascalContext("val", [], archive)) > 0


def test_a_pack_without_edges_has_each_image_once(archive: Path, tmp_path: Path) -> None:
    pack("pascal_context", archive, tmp_path / "p", labels=["semantic"])
    assert Packed("trainval", ["semantic"], tmp_path / "p").manifest["again"] == {}


def test_an_unknown_rule_is_answered_with_the_nearest(archive: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'training'"):
        PascalContext("train", ["edges"], archive, edge_rule="train")  # type: ignore[arg-type]


def test_a_grey_picture_has_three_equal_channels(archive: Path) -> None:
    dataset = PascalContext("trainval", [], archive)
    image = dataset[dataset.ids.index(GREY)].image
    assert image.shape == (3, 48, 64)
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


# --- splits ----------------------------------------------------------------------------------------------


def test_test_is_what_the_archive_calls_val(archive: Path) -> None:
    assert PascalContext("test", [], archive).ids == list(TEST)
    assert PascalContext("trainval", [], archive).ids == list(TRAIN)
    cut = [PascalContext(split, [], archive, validation=0.5).ids for split in ("train", "val")]
    assert sorted(cut[0] + cut[1]) == sorted(TRAIN)
    assert len(cut[1]) == 3


def test_the_data_set_survives_pickling(archive: Path) -> None:
    dataset = PascalContext("test", ALL, archive, people_only=True, progress=lambda done, total: None)
    copy = pickle.loads(pickle.dumps(dataset))
    for label, target in dataset[0].targets.items():
        torch.testing.assert_close(
            copy[0].targets[label].as_subclass(torch.Tensor), target.as_subclass(torch.Tensor), equal_nan=True
        )


# --- people ----------------------------------------------------------------------------------------------


def test_only_images_with_people_are_kept_and_the_index_is_built_once(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told: list[tuple[int, int]] = []

    def people() -> list[str]:
        return PascalContext(
            "trainval", ["parts"], archive, people_only=True, progress=lambda *step: told.append(step)
        ).ids

    assert people() == [name for name in TRAIN if name != NOBODY]
    assert told == [(number + 1, len(TRAIN)) for number in range(len(TRAIN))]
    told.clear()
    assert people() == [name for name in TRAIN if name != NOBODY]
    assert told == []


def test_a_changed_annotation_is_read_again(tmp_path: Path) -> None:
    mask, path = np.ones((4, 5), dtype=np.uint8), tmp_path / "one.mat"
    write_parts(path, [Thing("bottle", 5, mask)])
    assert images_with_people({"one": path}, tmp_path / "cache") == frozenset()
    write_parts(path, [Thing("bottle", 5, mask), Thing("person", 15, mask)])
    assert images_with_people({"one": path}, tmp_path / "cache") == {"one"}


@pytest.mark.parametrize("content", ["", "{}", "[1]", '["someone else"]'])
def test_a_damaged_index_is_built_again(content: str, tmp_path: Path) -> None:
    mask, path = np.ones((4, 5), dtype=np.uint8), tmp_path / "one.mat"
    write_parts(path, [Thing("person", 15, mask)])
    images_with_people({"one": path}, tmp_path / "cache")
    for note in (tmp_path / "cache" / "pascal_context").iterdir():
        note.write_text(content)
    assert images_with_people({"one": path}, tmp_path / "cache") == {"one"}


def test_the_index_need_not_be_written(tmp_path: Path) -> None:
    mask, path = np.ones((4, 5), dtype=np.uint8), tmp_path / "one.mat"
    write_parts(path, [Thing("person", 15, mask)])
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert images_with_people({"one": path}, tmp_path / "cache") == {"one"}


def test_the_index_of_the_reference_is_used_if_it_is_of_these_images(tmp_path: Path) -> None:
    root = layout.write_survey(tmp_path)
    index = {name: [5, 15] if name == TRAIN[0] else [5] for name in TRAIN}
    write_json(root / "ImageSets" / "Parts" / "train.txt", index)
    assert PascalContext("trainval", ["parts"], root, people_only=True).ids == [TRAIN[0]]
    write_json(root / "ImageSets" / "Parts" / "train.txt", {TRAIN[0]: [15]})
    people = PascalContext("trainval", ["parts"], root, people_only=True).ids
    assert people == [name for name in TRAIN if name != NOBODY]


# --- what is not there ------------------------------------------------------------------------------------


def test_a_re_upload_without_distilled_labels_is_named(tmp_path: Path) -> None:
    root = layout.write_reupload(tmp_path)
    assert set(PascalContext.fields_at(root)) == {"semantic", "parts", "edges"}
    for label in ("normals", "saliency"):
        with pytest.raises(ConfigurationError, match=f"{label[:3]}.*not there, as in some re-uploads"):
            PascalContext("train", [label], root)
    dataset = PascalContext("train", ALL, root, missing="allow")
    assert dataset.present(0) == {"semantic", "parts", "edges"}
    assert set(dataset[0].targets) == {"semantic", "parts", "edges"}
    assert "sal_distill" in dataset.facts["no saliency"]


def test_a_missing_label_is_refused_or_left_out(tmp_path: Path) -> None:
    root = layout.write_survey(tmp_path)
    (root / "sal_distill" / f"{TEST[1]}.png").unlink()
    with pytest.raises(DataError, match=f"1 of 3 samples of pascal_context test have no saliency.*{TEST[1]}"):
        PascalContext("test", ALL, root)
    dataset = PascalContext("test", ALL, root, missing="allow")
    assert [set(ALL) - dataset.present(place) for place in range(3)] == [set(), {"saliency"}, set()]
    assert "saliency" not in dataset[1].targets


def test_normals_are_missing_where_the_context_classes_are(tmp_path: Path) -> None:
    root = layout.write_survey(tmp_path)
    (root / "pascal-context" / "trainval" / f"{TEST[1]}.mat").unlink()
    dataset = PascalContext("test", ["normals"], root, missing="allow")
    assert [dataset.present(place) for place in range(3)] == [{"normals"}, set(), {"normals"}]


def test_who_shows_a_person_needs_the_annotations(tmp_path: Path) -> None:
    root = layout.write_survey(tmp_path)
    (root / "human_parts" / f"{TEST[0]}.mat").unlink()
    with pytest.raises(DataError, match="1 of 3 images have no parts file"):
        PascalContext("test", [], root, people_only=True)
    assert PascalContext("test", [], root, people_only=True, missing="allow").ids == list(TEST[1:])


def test_the_check_names_what_a_small_copy_lacks(archive: Path) -> None:
    report = plait.data.check("pascal_context", archive)
    assert any("the published archive has 4998 images, this one lists 6" in line for line in report.problems)
    assert any("the published archive has 5105 images, this one lists 3" in line for line in report.problems)
    assert len(report.problems) == 2


# --- what is broken ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_file_is_one_sentence_that_names_it(name: str, tmp_path: Path) -> None:
    fault, root = FAULTS[name], layout.write_survey(tmp_path)
    fault.break_it(root)
    dataset = PascalContext("trainval", fault.labels, root)
    with pytest.raises(DataError, match=fault.says) as refusal:
        dataset[dataset.ids.index(fault.sample)]
    assert str(root / fault.file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("../../secret\n", "leads outside"),
        ("/etc/passwd\n", "leads outside"),
        ("2008_000002\n2008_000002\n", "more than once"),
        ("kitchen\n", "expected names such as"),
        ("", "names no image"),
        (None, "cannot be read"),
    ],
)
def test_a_broken_list_is_one_sentence_that_names_it(content: str | None, says: str, tmp_path: Path) -> None:
    root = layout.write_survey(tmp_path)
    path = root / "ImageSets" / "Context" / "train.txt"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=says) as refusal:
        PascalContext("train", ["semantic"], root)
    assert str(root) in str(refusal.value)


def test_another_folder_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "VOC2012" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(DataError, match=r"not a known layout of pascal_context.*ImageSets/Context"):
        PascalContext("train", ["semantic"], tmp_path / "VOC2012")


def test_options_are_checked_by_name_and_type(archive: Path) -> None:
    for option, value, says in [("edge_rul", "auto", "edge_rule"), ("people_only", "no", "true or false")]:
        with pytest.raises(ConfigurationError, match=re.escape(says)):
            plait.data.create(
                "pascal_context", split="train", labels=["edges"], root=archive, **{option: value}
            )


def test_the_index_is_plain_json(tmp_path: Path) -> None:
    mask, path = np.ones((4, 5), dtype=np.uint8), tmp_path / "one.mat"
    write_parts(path, [Thing("person", 15, mask)])
    images_with_people({"one": path}, tmp_path / "cache")
    (note,) = (tmp_path / "cache" / "pascal_context").iterdir()
    assert json.loads(note.read_text()) == ["one"]
