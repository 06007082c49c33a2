"""A proposal says what lies in a folder, marks what it cannot know, and is a recipe that trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tests.layouts import folder as layouts
from tests.layouts.folder import png, put, tar

from plait.config import parse, replace
from plait.data.folder.propose import Proposal, propose
from plait.errors import DataError
from plait.training.fit import train

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 64, 3), np.uint8)
SIZE = PICTURE.shape[:2]


def written(root: Path, **folders: Any) -> Proposal:
    """What is proposed for six pictures and some folders of labels, each of one array."""
    for number in range(6):
        put(root / "images" / f"{number}.png", png(PICTURE))
        for folder, stored in folders.items():
            path = root / folder / f"{number}.png"
            if stored.dtype.kind == "f":
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path.with_suffix(".npy"), stored)
            else:
                put(path, png(stored))
    return propose(root)


def room(axes: str) -> np.ndarray:
    """Normals of a room seen from within, stored in the axes given: ``[H, W, 3]``."""
    height, width = SIZE
    ours = np.zeros((height, width, 3), np.float32)
    ours[..., 2] = -1  # the wall in front
    ours[:, :16], ours[:, -16:] = (1, 0, 0), (-1, 0, 0)  # what is left faces right
    ours[-10:], ours[:10] = (0, -1, 0), (0, 1, 0)  # the floor faces up, which is negative y
    signs = [-1 if sign == "-" else 1 for sign in axes[::2]]
    return np.stack([sign * ours[..., "xyz".index(axis)] for sign, axis in zip(signs, axes[1::2])], -1)


@pytest.mark.parametrize("key", layouts.WRITERS)
def test_every_form_is_recognised_and_its_recipe_is_one(key: str, tmp_path: Path) -> None:
    root = layouts.WRITERS[key](tmp_path)
    proposal = propose(root)
    recipe = parse(yaml.safe_load(proposal.yaml))
    assert set(recipe.tasks) == set(layouts.FIELDS)
    assert recipe.data.options == proposal.options
    assert "check: depth: taken for millimetres" in proposal.yaml
    said = "\n".join(proposal.lines)
    assert f"{len(layouts.NAMES)} pictures" in said
    assert "10 of 11 pictures have it" in said
    assert recipe.tasks["semantic"]["classes"] == len(layouts.CLASSES)
    assert recipe.data.options["fields"]["normals"]["axes"] == "+x+y+z"


def test_a_proposed_recipe_trains(tmp_path: Path) -> None:
    proposal = propose(layouts.folders(tmp_path / "data", "{split}/{field}/{name}.png"))
    recipe = replace(
        parse(yaml.safe_load(proposal.yaml)),
        {
            "model.backbone": "test_resnet",
            "model.pretrained": False,
            "training.steps": 2,
            "training.batch_size": 2,
            "training.threads": 1,
            "training.precision": "fp32",
            "training.channels_last": False,
            "evaluation.size": [32, 64],
        },
    )
    run = train(recipe, tmp_path / "run")
    assert set(run.scores) == set(layouts.FIELDS)


@pytest.mark.parametrize("axes", ["+x+y+z", "+x-y-z", "-x+y-z", "-x-y+z"])
@pytest.mark.parametrize("whole", [False, True])
def test_axes_of_a_room_s_normals_are_found(axes: str, whole: bool, tmp_path: Path) -> None:
    vectors = room(axes)
    stored = np.round((vectors + 1) * 127.5).astype(np.uint8) if whole else vectors
    proposal = written(tmp_path, normals=stored)
    found = proposal.options["fields"]["normals"]
    assert found["axes"] == axes
    assert found["encoding"] == ("rgb" if whole else "vectors")


def test_content_tells_what_a_name_does_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    proposal = written(
        tmp_path,
        a=rng.integers(500, 9000, SIZE).astype(np.uint16),
        b=np.round((room("+x+y+z") + 1) * 127.5).astype(np.uint8),
        c=rng.integers(0, 7, SIZE).astype(np.uint8),
        d=(255 * rng.integers(0, 2, SIZE)).astype(np.uint8),
    )
    kinds = {name: field["kind"] for name, field in proposal.options["fields"].items()}
    assert kinds == {"depth": "depth", "normals": "normals", "semantic": "semantic", "d": "mask"}
    assert proposal.options["fields"]["depth"]["scale"] == 0.001
    assert yaml.safe_load(proposal.yaml)["tasks"]["semantic"]["classes"] == 7
    assert sum("does not say" in line for line in proposal.lines) == 2


@pytest.mark.parametrize(
    ("folder", "stored", "options"),
    [
        ("depth", np.linspace(0.5, 9, 2560).reshape(SIZE).astype(np.float32), {}),
        ("depth_mm", np.linspace(500, 9000, 2560).reshape(SIZE).astype(np.float32), {"scale": 0.001}),
        ("disparity", np.full(SIZE, 5120, np.uint16), {"scale": 1 / 256, "unknown": []}),
        ("masks", np.eye(*SIZE).astype(np.uint8), {"scale": 1.0}),
        ("seg", np.array([[0, 38, 75, 113] * 16] * 40, np.uint8), {"ids": {0: 0, 38: 1, 75: 2, 113: 3}}),
        ("depth", np.where(np.eye(*SIZE) > 0, np.inf, 2).astype(np.float32), {"unknown": [0.0, np.inf]}),
    ],
)
def test_the_encoding_is_guessed_from_the_range(
    folder: str, stored: np.ndarray, options: dict[str, Any], tmp_path: Path
) -> None:
    proposal = written(tmp_path, **{folder: stored})
    (declared,) = proposal.options["fields"].values()
    assert {key: declared[key] for key in declared if key not in ("kind", "source")} == options
    assert parse(yaml.safe_load(proposal.yaml)).data.options == proposal.options


def test_what_cannot_be_used_is_said_and_left_out(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    for number in range(6):
        put(tmp_path / "other" / f"x{number}.png", png(np.zeros(SIZE, np.uint8)))
    proposal = written(tmp_path, labels=colours)
    assert proposal.options["fields"] == {}
    assert any("labels is left out: labels holds pictures in colour" in line for line in proposal.lines)
    assert any("other is left out: none of its 6 names is a picture's" in line for line in proposal.lines)


def test_a_broken_file_is_noted_and_the_others_tell(tmp_path: Path) -> None:
    written(tmp_path, depth=np.full(SIZE, 1500, np.uint16))
    broken = [sorted((tmp_path / folder).iterdir())[0] for folder in ("images", "depth")]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    proposal = propose(tmp_path)
    assert proposal.options["fields"]["depth"]["scale"] == 0.001
    for path in broken:
        assert any(line.startswith(f"note: {path}") and "damaged" in line for line in proposal.lines)


def test_normals_of_which_nothing_is_known_tell_no_axes(tmp_path: Path) -> None:
    proposal = written(tmp_path, normals=np.zeros((*SIZE, 3), np.uint8))
    assert any("nothing is known in the files" in line for line in proposal.lines)


def test_endings_of_names_become_patterns(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path / "rgb" / f"{number}_rgb.png", png(PICTURE))
        put(tmp_path / "depth" / f"{number}_depth.png", png(np.full(SIZE, 2000, np.uint16)))
    proposal = propose(tmp_path)
    assert proposal.options["image"] == "rgb/*_rgb"
    assert proposal.options["fields"]["depth"]["source"] == "depth/*_depth"
    assert any("4 of 4 pictures have it" in line for line in proposal.lines)


def test_folders_of_labels_below_one_folder_are_found(tmp_path: Path) -> None:
    proposal = written(tmp_path, **{"labels/depth": np.full(SIZE, 2000, np.uint16)})
    assert proposal.options["fields"]["depth"]["source"] == "labels/depth"


def test_without_a_test_split_val_is_reported_and_a_part_of_train_selects(tmp_path: Path) -> None:
    for split, count in (("train", 30), ("val", 3)):
        for number in range(count):
            put(tmp_path / split / "images" / f"{number}.png", png(PICTURE))
            put(tmp_path / split / "depth" / f"{number}.png", png(np.full(SIZE, 2000, np.uint16)))
    recipe = parse(yaml.safe_load(propose(tmp_path).yaml))
    assert (recipe.data.validation_split, recipe.data.test_split) == ("held_out", "val")
    assert recipe.data.options["splits"] == {"held_out": 0.1}


def test_pictures_that_exif_turns_are_noted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    for number in range(20):
        Image.fromarray(PICTURE).save(tmp_path / "images" / f"{number}.jpg", exif=exif)
    proposal = propose(tmp_path)
    assert proposal.options["orientation"] == "stored"
    assert any("turned by EXIF" in line for line in proposal.lines)


def test_a_manifest_or_a_shard_may_be_named_itself(tmp_path: Path) -> None:
    root = layouts.manifest_csv(tmp_path / "a")
    assert propose(root / "samples.csv").options["manifest"] == "samples.csv"
    shard = put(tmp_path / "s.tar", tar(layouts.members(layouts.TRAIN)))
    assert propose(shard).options["shards"] == "s.tar"


@pytest.mark.parametrize("held", [{}, {"depth/a.png": png(np.zeros(SIZE, np.uint16))}, {"notes.txt": b"x"}])
def test_a_folder_without_pictures_is_one_sentence(held: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in held.items():
        put(tmp_path / name, content)
    with pytest.raises(DataError, match=f"{tmp_path}: expected pictures"):
        propose(tmp_path)
    with pytest.raises(DataError, match="found nothing there"):
        propose(tmp_path / "elsewhere")


def test_a_folder_of_compressed_shards_is_refused_with_the_way_out(tmp_path: Path) -> None:
    put(tmp_path / "a.tar.gz", b"\x1f\x8b")
    with pytest.raises(DataError, match="unpack it"):
        propose(tmp_path)
