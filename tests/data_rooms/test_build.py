"""Building: splits, refusals, resuming; and the packaged set is what its manifest says."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from plait.data.rooms import build, render
from plait.data.rooms.build import SPLITS, Settings, build_rooms, encode_labels, furnished, split_counts
from plait.data.rooms.classes import CLASSES
from plait.errors import ConfigurationError, DataError, MissingExtraError

STARTER = Path(build.__file__).parent / "starter"


@given(st.integers(1, 5000))
def test_default_splits_use_every_image_once(images: int) -> None:
    counts = split_counts(images)
    assert sum(counts.values()) == images
    assert min(counts.values()) >= 0


def test_the_starter_set_has_the_default_splits() -> None:
    assert split_counts(480) == {"train": 360, "val": 40, "test": 80}


@pytest.mark.parametrize(
    "splits", [{"train": 5, "val": 4}, {"train": 0.5}, {"training": 1.0}, {"train": 1.5, "val": -0.5}]
)
def test_wrong_splits_are_refused(splits: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        split_counts(10, splits)


@pytest.mark.parametrize(
    "wrong", [{"images": 0}, {"size": (8, 64)}, {"quality": "best"}, {"seed": -1}, {"processes": 0}]
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, int]
) -> None:
    with pytest.raises(ConfigurationError):
        build_rooms(tmp_path / "rooms", **{"images": 2, **wrong})
    assert not (tmp_path / "rooms").exists()


def test_a_missing_renderer_is_answered_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'plait\[render\]'"):
        build_rooms(tmp_path / "rooms", images=2)


# ------------------------------------------------------------------------------------ the packaged set


def rows(split: str, columns: list[str]) -> list[dict[str, bytes]]:
    found: list[dict[str, bytes]] = pq.read_table(STARTER / f"{split}.parquet", columns=columns).to_pylist()
    return found


def test_the_starter_set_is_complete_small_and_licensed() -> None:
    manifest = json.loads((STARTER / "manifest.json").read_text())
    assert manifest["classes"] == list(CLASSES)
    for split, entry in manifest["splits"].items():
        content = (STARTER / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        assert len(rows(split, ["id"])) == entry["images"]
    assert sum(path.stat().st_size for path in STARTER.iterdir()) <= 19e6
    assert (STARTER / "LICENSE.txt").read_text().startswith("MIT License")


def test_splits_share_no_room() -> None:
    rooms = [{row["room"] for row in rows(split, ["room"])} for split in SPLITS]
    assert not rooms[0] & rooms[1] | rooms[0] & rooms[2] | rooms[1] & rooms[2]
    ids = [row["id"] for split in SPLITS for row in rows(split, ["id"])]
    assert len(set(ids)) == len(ids)


def test_every_class_is_in_at_least_three_percent_of_the_images() -> None:
    seen: Counter[int] = Counter()
    images = 0
    for split in SPLITS:
        for row in rows(split, ["semantic"]):
            semantic = np.array(Image.open(io.BytesIO(row["semantic"])))
            share = np.bincount(semantic.ravel(), minlength=256) / semantic.size
            seen.update(np.flatnonzero(share > 0.001).tolist())
            images += 1
    assert images == 480
    assert sorted(seen) == list(range(len(CLASSES)))
    assert min(seen.values()) >= 0.03 * images


def test_the_generator_gives_the_labels_of_the_starter_set() -> None:
    """Same seed, same labels: room 200 is built again."""
    pytest.importorskip("embreex")
    manifest = json.loads((STARTER / "manifest.json").read_text())
    if np.__version__.split(".")[:2] != manifest["renderer"]["numpy"].split(".")[:2]:
        pytest.skip("numpy keeps its random streams within a minor version only")
    stored = pq.read_table(STARTER / "test.parquet").slice(0, 2).to_pylist()
    _, caster, cameras = furnished(manifest["seed"], 200, 2)
    for row, camera in zip(stored, cameras, strict=True):
        assert row["room"] == 200
        assert camera.focal(256) == pytest.approx(row["fx"])
        again = encode_labels(caster.labels(camera, (192, 256)), caster.assembly.parents)
        for name, content in again.items():
            one, other = (np.array(Image.open(io.BytesIO(png))).astype(int) for png in (content, row[name]))
            # another processor may round a ray to the other side of an edge
            assert (np.abs(one - other) <= 1).mean() > 0.999, name


# ----------------------------------------------------------------------------------------- rendering


@pytest.mark.slow
def test_building_is_deterministic_resumes_and_refuses_other_settings(tmp_path: Path) -> None:
    pytest.importorskip("mitsuba")
    seen: list[tuple[int, int]] = []
    options = {"size": (48, 64), "quality": "draft", "seed": 5, "splits": {"train": 3, "val": 1, "test": 0}}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    manifest = json.loads(
        build_rooms(whole, images=4, processes=2, progress=lambda *at: seen.append(at), **options).read_text()
    )
    assert seen[0] == (0, 4)
    assert seen[-1] == (4, 4)
    assert manifest["splits"]["train"] | {"sha256": "", "bytes": 0} == {
        "file": "train.parquet", "images": 3, "rooms": 2, "bytes": 0, "sha256": "",
    }  # fmt: skip
    build_rooms(cut, images=4, processes=1, **options)
    assert (cut / "train.parquet").read_bytes() == (whole / "train.parquet").read_bytes()
    kept = (cut / "parts" / "room-000000.parquet").stat().st_mtime_ns
    (cut / "parts" / "room-000001.parquet").unlink()
    (cut / "manifest.json").unlink()
    build_rooms(cut, images=4, processes=1, **options)
    assert (cut / "parts" / "room-000000.parquet").stat().st_mtime_ns == kept
    assert (cut / "train.parquet").read_bytes() == (whole / "train.parquet").read_bytes()
    with pytest.raises(DataError, match="other settings"):
        build_rooms(cut, images=4, **{**options, "seed": 6})


@pytest.mark.slow
def test_the_scalar_fallback_renders_the_same_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mitsuba")
    monkeypatch.setattr(render, "fastest_variant", lambda: "scalar_rgb")
    options = {
        "size": (48, 64),
        "quality": "draft",
        "splits": {"train": 1},
        "views_per_room": 1,
        "albedo": True,
    }
    build_rooms(tmp_path, images=1, processes=1, **options)
    row = pq.read_table(tmp_path / "train.parquet").to_pylist()[0]
    picture = np.array(Image.open(io.BytesIO(row["image"]))).astype(float)
    albedo = np.array(Image.open(io.BytesIO(row["albedo"]))).astype(float)
    assert picture.shape == albedo.shape == (48, 64, 3)
    assert 60 < picture.mean() < 200
    assert np.corrcoef(picture.ravel(), albedo.ravel())[0, 1] > 0.4


def test_settings_name_everything_that_decides_a_room() -> None:
    assert {"size", "quality", "seed", "views", "albedo", "variant", "denoised", "content"} == set(
        Settings.__dataclass_fields__
    )
