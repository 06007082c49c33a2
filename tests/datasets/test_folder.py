"""One's own data: every form gives the same samples, an option does what it says, a fault is named."""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tests.layouts import folder as layouts
from tests.layouts.folder import CLASSES, FIELDS, png, put
from torch import Tensor

import plait.data
from plait.data.encodings import Encoding, decode
from plait.data.folder.dataset import Folder
from plait.data.folder.splits import by_share
from plait.data.labels import Depth, InverseDepth, Mask, Normals, Semantic
from plait.data.loader import train_batches
from plait.data.sample import Sample
from plait.data.transforms import Augmentation
from plait.errors import ConfigurationError, DataError, PlaitError
from plait.tasks import parse

LABELS = tuple(FIELDS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.folders(tmp_path_factory.mktemp("folder"))


def opened(root: Path, split: str = "train", **options: Any) -> Folder:
    told: dict[str, Any] = {"fields": FIELDS, "splits": {"val": 0.2, "test": 0.2}, "group": "/", **options}
    return Folder(split, tuple(told["fields"]), root, **told)


def everything(root: Path, **options: Any) -> dict[str, Sample]:
    """All samples by their number, whatever their ids are in this form."""
    found = {}
    for split in ("train", "val", "test"):
        dataset = Folder(split, LABELS, root, **options)
        found.update({dataset.id(place)[-5:]: dataset[place] for place in range(len(dataset))})
    return found


def one(tmp_path: Path, field: str, content: bytes, suffix: str, **options: Any) -> Tensor:
    """A label stored as said, read."""
    put(tmp_path / "images" / "a.png", png(np.zeros((4, 6, 3), np.uint8)))
    put(tmp_path / field / f"a{suffix}", content)
    dataset = Folder("train", [field], tmp_path, fields={field: options}, splits={})
    return dataset[0].targets[field].as_subclass(Tensor)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


# --- forms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", layouts.WRITERS)
def test_every_form_gives_the_same_samples(key: str, tmp_path: Path) -> None:
    root = layouts.WRITERS[key](tmp_path)
    samples = everything(root, **layouts.OPTIONS.get(key, lambda _: {})(root))
    assert sorted(samples) == sorted(layouts.NAMES)
    for name, sample in samples.items():
        stored = layouts.stored(name)
        assert set(sample.targets) == set(stored) - {"image"}
        picture = np.broadcast_to(np.atleast_3d(stored["image"]), (*stored["image"].shape[:2], 3))
        np.testing.assert_array_equal(sample.image.permute(1, 2, 0).numpy(), picture)
        np.testing.assert_array_equal(sample.targets["semantic"][0].numpy(), stored["semantic"])


def test_values_are_those_of_the_scene(root: Path) -> None:
    sample = everything(root, fields=FIELDS)["a/000"]
    plane = layouts.scene("a/000")
    depth = sample.targets["depth"].as_subclass(Tensor)[0].numpy()
    np.testing.assert_allclose(depth[:-3], plane.depth_at(*plane.grid())[:-3], atol=5e-4)
    assert np.isnan(depth[-3:]).all()
    normals = sample.targets["normals"].as_subclass(Tensor).numpy()
    assert np.isnan(normals[..., -2:]).all()
    np.testing.assert_allclose(normals[:, 5, 5], plane.normal, atol=0.01)
    assert set(np.unique(sample.targets["saliency"].numpy())) == {0.0, 1.0}


def test_the_recipe_s_options_go_before_the_description(tmp_path: Path) -> None:
    layouts.splits_above(tmp_path)
    put(tmp_path / "plait.yaml", (tmp_path / "plait.yaml").read_text() + "missing: refuse\n")
    with pytest.raises(DataError, match="have no"):
        Folder("train", LABELS, tmp_path)
    assert len(Folder("train", LABELS, tmp_path, missing="allow")) == len(layouts.TRAIN)


def test_a_description_is_checked_as_a_recipe_is(tmp_path: Path) -> None:
    layouts.describe(layouts.folders(tmp_path), imge="images")
    with pytest.raises(ConfigurationError, match="'image'"):
        Folder("train", LABELS, tmp_path)


def test_a_copy_in_another_process_reads_the_same(root: Path) -> None:
    dataset = opened(root)
    copy: Folder = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[0].image, dataset[0].image)
    assert copy.ids == dataset.ids


def test_it_is_a_data_set_by_name(root: Path) -> None:
    dataset = plait.data.create("folder", split="train", labels=["depth"], root=root, fields=FIELDS)
    assert dataset.fields == {
        "semantic": Semantic, "depth": Depth, "normals": Normals, "edges": Mask, "saliency": Mask
    }  # fmt: skip
    assert Folder.fields_at(root, fields=FIELDS) == dataset.fields
    assert dataset.measuring == {"max_distance": 0.0075}  # type: ignore[attr-defined]


def test_hidden_files_and_foreign_endings_are_left_out(tmp_path: Path) -> None:
    layouts.folders(tmp_path)
    put(tmp_path / "images" / ".DS_Store", "x")
    put(tmp_path / "images" / "a" / "._000.png", "x")
    put(tmp_path / "images" / "a" / "notes.txt", "x")
    put(tmp_path / "depth" / ".cache" / "000.png", "x")
    assert len(everything(tmp_path, fields=FIELDS)) == len(layouts.NAMES)


def test_labels_may_have_other_endings_than_pictures(tmp_path: Path) -> None:
    put(tmp_path / "images" / "v1.2.PNG", png(np.zeros((4, 6, 3), np.uint8)))
    put(tmp_path / "depth" / "v1.2.npy", npy(np.full((4, 6), 2.5, np.float32)))
    dataset = Folder("train", ["depth"], tmp_path, fields={"depth": {}}, splits={})
    assert dataset.ids == ["v1.2"]
    assert dataset[0].targets["depth"].unique().tolist() == [2.5]


# --- splits ---------------------------------------------------------------------------------------------


def test_shares_depend_on_names_alone_so_that_adding_pictures_moves_none(tmp_path: Path) -> None:
    for number in range(60):
        put(tmp_path / "images" / f"{number:03d}.png", png(np.zeros((4, 4, 3), np.uint8)))
    options: dict[str, Any] = {"fields": {}, "splits": {"val": 0.2, "test": 0.3}}
    before = {split: set(Folder(split, (), tmp_path, **options).ids) for split in ("train", "val", "test")}
    for number in range(60, 90):
        put(tmp_path / "images" / f"{number:03d}.png", png(np.zeros((4, 4, 3), np.uint8)))
    for split, ids in before.items():
        assert ids < set(Folder(split, (), tmp_path, **options).ids)


def test_shares_are_kept_on_average() -> None:
    drawn = Counter(by_share(f"sample {n}", {"val": 0.1, "test": 0.25}) for n in range(20_000))
    for split, share in (("val", 0.1), ("test", 0.25), ("train", 0.65)):
        assert drawn[split] / 20_000 == pytest.approx(share, abs=0.01)


def test_a_group_stays_in_one_split(root: Path) -> None:
    groups = {split: {name[0] for name in opened(root, split).ids} for split in ("train", "val", "test")}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 6


def test_a_second_validation_part_is_cut_from_train_alone(tmp_path: Path) -> None:
    layouts.folders(tmp_path, "{split}/{field}/{name}.png")
    cut = {"held_out": 0.4}
    parts = {
        split: Folder(split, (), tmp_path, fields={}, splits=cut, group="/")
        for split in ("train", "val", "test", "held_out")
    }
    assert [name[-5:] for name in parts["test"].ids] == layouts.TEST
    assert sorted(name[-5:] for s in ("train", "held_out") for name in parts[s].ids) == layouts.TRAIN
    assert parts["train"].splits == ("train", "val", "test", "held_out")


def test_pictures_in_no_list_are_left_out_where_train_is_listed(tmp_path: Path) -> None:
    layouts.folders(tmp_path)
    put(tmp_path / "train.txt", "a/000\n")
    put(tmp_path / "rest.txt", "d/006.png\n")
    told: dict[str, Any] = {"fields": {}, "splits": {"train": "train.txt", "test": "rest.txt"}}
    dataset = Folder("train", (), tmp_path, **told)
    assert dataset.ids == ["a/000"]
    assert dataset.facts["in no split"] == "9 samples"


def test_without_a_list_of_train_the_rest_is_train(tmp_path: Path) -> None:
    layouts.folders(tmp_path)
    put(tmp_path / "test.txt", "a/000\n")
    dataset = Folder("train", (), tmp_path, fields={}, splits={"test": "test.txt"})
    assert len(dataset) == len(layouts.NAMES) - 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("../../etc/passwd", "leads outside"),
        ("/etc/passwd", "leads outside"),
        ("a/0000", r"line 2.*'a/000'"),
        ("a/001", "already in"),
    ],
)
def test_a_line_of_a_list_that_is_no_picture_is_named(line: str, said: str, tmp_path: Path) -> None:
    layouts.folders(tmp_path)
    put(tmp_path / "splits" / "train.txt", f"a/001\n{line}\n")
    with pytest.raises(DataError, match=said) as caught:
        Folder("train", (), tmp_path, fields={})
    assert "train.txt line 2" in str(caught.value)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"val": 0.5, "test": 0.5}, "leave nothing for train"),
        ({"train": 0.5}, "shares are cut from"),
        ({"val": 0.0}, "between 0 and 1"),
        ({"val": "missing.txt"}, "missing.txt"),
    ],
)
def test_splits_that_cannot_be_are_refused(splits: dict[str, Any], said: str, root: Path) -> None:
    with pytest.raises(PlaitError, match=said):
        Folder("train", (), root, fields={}, splits=splits)


def test_an_empty_split_says_how_many_samples_there_are(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png", png(np.zeros((4, 4, 3), np.uint8)))
    with pytest.raises(DataError, match=r"val is empty: there is 1 sample, of which it is to be 0\.1"):
        Folder("val", (), tmp_path, fields={})


def test_a_split_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    layouts.folders(tmp_path, "{split}/{field}/{name}.png")
    with pytest.raises(ConfigurationError, match="did you mean 'test'"):
        Folder("tset", (), tmp_path, fields={})


# --- labels ---------------------------------------------------------------------------------------------


def test_a_depth_in_whole_numbers_needs_its_unit(tmp_path: Path) -> None:
    metres = np.full((4, 6), 2500, np.uint16)
    with pytest.raises(DataError, match=r"depth/a.png.*whole numbers up to 2500.*scale"):
        one(tmp_path, "depth", png(metres), ".png")
    assert one(tmp_path, "depth", png(metres), ".png", scale=0.001).unique().tolist() == [2.5]


def test_zero_is_unknown_depth_unless_something_else_is(tmp_path: Path) -> None:
    stored = np.array([[0.0, -1.0, 2.0, 2.0, 2.0, 2.0]] * 4, np.float32)
    assert one(tmp_path, "depth", npy(stored), ".npy")[0, 0, 0].isnan()
    assert one(tmp_path, "depth", npy(stored), ".npy", unknown=-1)[0, 0, 1].isnan()
    assert one(tmp_path, "depth", npy(stored), ".npy", unknown=-1)[0, 0, 0] == 0


def test_infinite_depth_may_be_declared_unknown(tmp_path: Path) -> None:
    stored = np.full((4, 6), np.inf, np.float32)
    assert one(tmp_path, "depth", npy(stored), ".npy", unknown=[np.inf]).isnan().all()


def test_disparity_keeps_zero_which_is_infinitely_far(tmp_path: Path) -> None:
    stored = np.array([[0, 256, 512, 512, 512, 512]] * 4, np.uint16)
    put(tmp_path / "images" / "a.png", png(np.zeros((4, 6, 3), np.uint8)))
    read = one(tmp_path, "disparity", png(stored), ".png", scale=1 / 256)
    assert read[0, 0, :3].tolist() == [0, 1, 2]
    assert Folder.fields_at(tmp_path, fields={"disparity": {}}) == {"disparity": InverseDepth}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_normals_in_whole_numbers_are_taken_for_colours(dtype: type, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 6, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    highest = np.iinfo(dtype).max
    stored = np.round((vectors + 1) / 2 * highest).astype(dtype)
    stored[0, 0] = 0
    read = one(tmp_path, "normals", npy(stored), ".npy").permute(1, 2, 0).numpy()
    assert np.isnan(read[0, 0]).all()
    np.testing.assert_allclose(read[1:], vectors[1:], atol=2.5 / highest)


def test_normals_in_fractions_are_taken_for_vectors_in_either_order_of_axes(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    first = one(tmp_path, "normals", npy(vectors), ".npy")
    again = one(tmp_path, "normals", npy(vectors.transpose(2, 0, 1)), ".npy")
    assert torch.equal(first, again)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(4, 6))


def test_axes_of_normals_are_turned_to_ours(tmp_path: Path) -> None:
    vectors = np.zeros((4, 6, 3), np.float32)
    vectors[..., 2] = 1  # towards the camera, where z points to it
    read = one(tmp_path, "normals", npy(vectors), ".npy", axes="+x-y-z")
    assert read[:, 0, 0].tolist() == [0, 0, -1]


def test_stored_numbers_are_mapped_to_ids(tmp_path: Path) -> None:
    stored = np.array([[0, 38, 75, 113, 113, 113]] * 4, np.uint8)
    read = one(tmp_path, "semantic", png(stored), ".png", ids={38: 0, 75: 1})
    assert read[0, 0].tolist() == [255, 0, 1, 255, 255, 255]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".npy", ".npz", ".mat"])
def test_a_mask_is_read_from_every_format(suffix: str, tmp_path: Path) -> None:
    stored = np.array([[0, 255, 255, 0, 0, 255]] * 4, np.uint8)
    stream = io.BytesIO()
    if suffix == ".npz":
        np.savez(stream, mask=stored)
    elif suffix == ".npy":
        np.save(stream, stored)
    elif suffix == ".mat":
        from scipy.io import savemat

        savemat(stream, {"mask": stored})
    elif suffix == ".webp":
        Image.fromarray(np.repeat(stored[..., None], 3, -1)).save(stream, "WEBP", lossless=True)
        with pytest.raises(DataError, match=r"expected \[H, W\]"):  # WebP always has colours
            one(tmp_path, "saliency", stream.getvalue(), suffix)
        return
    else:
        Image.fromarray(stored).save(stream, "PNG" if suffix == ".png" else "TIFF")
    read = one(tmp_path, "saliency", stream.getvalue(), suffix)
    np.testing.assert_array_equal(read[0].numpy(), stored / 255)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_class_ids_that_were_compressed_with_loss_are_refused(kind: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(stream, kind)
    with pytest.raises(DataError, match="which changes them"):
        one(tmp_path, "semantic", stream.getvalue(), ".jpg" if kind == "JPEG" else ".webp")


@pytest.mark.parametrize("turn", range(2, 9))
def test_a_picture_that_exif_turns_is_refused_until_it_is_said_how(turn: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(turn).integers(0, 255, (5, 7, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path, exif=exif)
    options: dict[str, Any] = {"fields": {}, "splits": {}}
    with pytest.raises(DataError, match=rf"a.png.*EXIF orientation is {turn}"):
        Folder("train", (), tmp_path, **options)[0]
    stored = Folder("train", (), tmp_path, orientation="stored", **options)[0]
    np.testing.assert_array_equal(stored.image.permute(1, 2, 0).numpy(), pixels)
    upright = Folder("train", (), tmp_path, orientation="upright", **options)[0]
    with Image.open(path) as image:
        shown = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(upright.image.permute(1, 2, 0).numpy(), shown)
    assert upright.geometry.size == shown.shape[:2]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"heights": {}}, "needs a kind"),
        ({"depth": {"scael": 0.001}}, "'scale'"),
        ({"depth": {"scale": "0.001"}}, "must be a number"),
        ({"depth": {"kind": "deep"}}, "one of semantic, depth"),
        ({"depth": {"axes": "+x+y+z"}}, "belong to normals"),
        ({"normals": {"encoding": "rbg"}}, "auto, rgb, vectors"),
        ({"normals": {"encoding": "rgb", "scale": 2.0}}, "give either"),
        ({"normals": {"axes": "+x+y"}}, "axes say"),
        ({"image": {}}, "cannot name"),
        ({"depth": {"source": "../depth"}}, "leads outside"),
        ({"depth": {"source": "*/a"}}, "one \\* in its last part"),
    ],
)
def test_a_field_that_cannot_be_is_refused(fields: dict[str, Any], said: str, root: Path) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Folder("train", (), root, fields=fields)


def test_classes_of_no_field_and_words_that_are_no_option_are_refused(root: Path) -> None:
    with pytest.raises(ConfigurationError, match="'semantic'"):
        opened(root, classes={"semantics": CLASSES})
    with pytest.raises(ConfigurationError, match="missing must be allow or refuse"):
        opened(root, missing="ignore")
    with pytest.raises(ConfigurationError, match="did you mean 'stored'"):
        opened(root, orientation="store")
    with pytest.raises(ConfigurationError, match="either a manifest or shards"):
        opened(root, manifest="a.csv", shards="a.tar")


# --- what is missing or broken --------------------------------------------------------------------------


def test_absent_labels_are_known_without_loading_and_may_be_refused(root: Path) -> None:
    dataset = opened(root, "test")
    for place in range(len(dataset)):
        assert dataset.present(place) == set(dataset[place].targets)
    assert "depth" not in dataset.present(dataset.ids.index("a/001"))
    with pytest.raises(DataError, match=r"1 of \d+ samples of test have no depth \(a/001\)"):
        opened(root, "test", missing="refuse")


@pytest.mark.parametrize("key", layouts.BROKEN)
def test_a_broken_file_is_named_in_one_sentence(key: str, tmp_path: Path) -> None:
    path = layouts.BROKEN[key](layouts.folders(tmp_path))
    dataset = opened(tmp_path, "test", classes={"semantic": CLASSES})
    with pytest.raises(DataError) as caught:
        dataset[dataset.ids.index("a/000")]
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_files_of_one_sample_are_refused(tmp_path: Path) -> None:
    layouts.folders(tmp_path)
    put(tmp_path / "depth" / "a" / "000.npy", npy(np.ones((4, 4))))
    with pytest.raises(DataError, match=r"000.npy.*000.png|000.png.*000.npy"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image": "pictures"}, r"pictures: expected a folder of pictures.*holds depth, edges, images"),
        ({"fields": {"depth": {"source": "dept"}}}, "dept: expected a folder of labels of the field depth"),
        ({"fields": {"depth": {"source": "depth/*_d"}}}, r"\*_d ending in"),
    ],
)
def test_a_folder_that_is_not_there_is_said_with_what_is(
    options: dict[str, Any], said: str, root: Path
) -> None:
    with pytest.raises(DataError, match=said):
        opened(root, **options)


def test_labels_that_belong_to_no_picture_at_all_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a_rgb.png", png(np.zeros((4, 4, 3), np.uint8)))
    put(tmp_path / "depth" / "a_depth.png", png(np.ones((4, 4), np.uint16)))
    with pytest.raises(DataError, match=r"depth: none of its 1 depth files has the name of a picture"):
        Folder("train", ["depth"], tmp_path, fields={"depth": {"scale": 1.0}}, splits={})
    told = {"depth": {"scale": 1.0, "source": "depth/*_depth"}}
    found = Folder("train", ["depth"], tmp_path, image="images/*_rgb", fields=told, splits={})
    assert found.present(0) == {"depth"}


@pytest.mark.parametrize("make", [lambda path: None, lambda path: put(path, "x"), lambda path: path.mkdir()])
def test_a_place_without_data_is_one_sentence(make: Callable[[Path], None], tmp_path: Path) -> None:
    place = tmp_path / "data"
    make(place)
    with pytest.raises(DataError, match=str(place)):
        Folder("train", (), place, fields={})


def test_without_fields_the_description_is_asked_for(root: Path) -> None:
    with pytest.raises(DataError, match=r"plait.yaml.*plait data check folder"):
        Folder("train", (), root)
    with pytest.raises(ConfigurationError, match="needs a root"):
        Folder("train", (), fields={})


# --- training -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_batches_are_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    dataset = Folder("train", LABELS, layouts.shards(tmp_path))
    tasks = parse({"semantic": {"kind": "semantic", "classes": 4}, "depth": {"kind": "depth"}})

    def batches(workers: int) -> list[Any]:
        stream = train_batches(dataset, tasks, Augmentation(size=(32, 32)), batch_size=2, workers=workers)
        return [next(stream) for _ in range(2)]

    for here, there in zip(batches(0), batches(1), strict=True):
        assert here.ids == there.ids
        assert torch.equal(here.images, there.images)


def test_shorthand_is_the_encoding_it_stands_for() -> None:
    from plait.data.folder.fields import parse_fields

    stored = np.random.default_rng(0).integers(0, 255, (3, 4, 3), np.uint8)
    field = parse_fields({"normals": {"encoding": "rgb", "unknown": []}})["normals"]
    meant = Encoding("normals", scale=2 / 255, offset=-1)
    ours = decode(stored, field.settled(stored, "a")).as_subclass(Tensor)
    assert torch.equal(ours, decode(stored, meant).as_subclass(Tensor))
