"""Rooms on disk: what is stored is what is given, whatever way it is opened; damage is named."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from plait.data.files import sha256
from plait.data.rooms.dataset import FIELDS, Rooms
from plait.errors import ConfigurationError, DataError
from plait.testing import write_tiny_rooms


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_rooms(tmp_path_factory.mktemp("rooms"), images=(4, 2, 2), size=(24, 32))


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "rooms"))


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def rewrite(root: Path, change: Callable[[list[dict[str, Any]]], None], split: str = "train") -> None:
    """Changes the rows of a split and makes the manifest agree, as a wrong writer would."""
    path = root / f"{split}.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(type(table).from_pylist(rows), path)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["splits"][split]["sha256"] = sha256(path)
    (root / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("cache", ["decoded", "none"])
def test_labels_are_what_was_drawn(root: Path, tmp_path: Path, cache: Any) -> None:
    depth = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
    semantic = np.full((24, 32), 255, np.uint8)
    semantic[3:] = 19
    normals = np.zeros((24, 32, 3), np.uint8)
    normals[5:] = (255, 128, 0)

    def change(rows: list[dict[str, Any]]) -> None:
        rows[1].update(depth=png(depth), semantic=png(semantic), normals=png(normals))

    rewrite(root, change)
    sample = Rooms("train", list(FIELDS), root, cache, tmp_path / "cache")[1]
    metres = sample.targets["depth"].as_subclass(Tensor)
    assert metres[0, 0, 0].isnan()
    torch.testing.assert_close(metres[0].flatten()[1:], torch.arange(1, 24 * 32) / 1000)
    assert sample.targets["semantic"].as_subclass(Tensor).unique().tolist() == [19, 255]
    vectors = sample.targets["normals"].as_subclass(Tensor)
    assert vectors[:, :5].isnan().all()
    expected = torch.tensor([1.0, 128 / 127.5 - 1, -1.0])
    torch.testing.assert_close(vectors[:, 9, 9], expected / expected.norm())
    assert set(sample.targets["edges"].as_subclass(Tensor).unique().tolist()) <= {0.0, 1.0}


def test_a_cache_changes_nothing(root: Path, tmp_path: Path) -> None:
    cached = Rooms("train", list(FIELDS), root, cache_dir=tmp_path / "cache")
    decoding = Rooms("train", list(FIELDS), root, "none", tmp_path / "cache")
    for place in range(4):
        assert torch.equal(cached[place].image, decoding[place].image)
        for field in FIELDS:
            torch.testing.assert_close(
                cached[place].targets[field], decoding[place].targets[field], rtol=0, atol=0, equal_nan=True
            )
    assert cached.camera(0) == decoding.camera(0) == (0.6 * 32, 0.6 * 32, 16, 12)


def test_only_used_fields_are_cached(root: Path, tmp_path: Path) -> None:
    Rooms("val", ["depth"], root, cache_dir=tmp_path / "cache")
    found = {path.name for path in (tmp_path / "cache" / "decoded").rglob("*.npy")}
    assert found == {"image.npy", "depth.npy"}


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
@pytest.mark.parametrize("nested", [False, True])
def test_an_archive_is_as_good_as_a_folder(root: Path, tmp_path: Path, kind: str, nested: bool) -> None:
    packed = shutil.make_archive(
        str(tmp_path / "packed"), kind, root.parent if nested else root, "rooms" if nested else None
    )
    rooms = Rooms("test", ["depth"], packed, cache_dir=tmp_path / "cache")
    assert torch.equal(rooms[0].image, Rooms("test", [], root)[0].image)


def test_an_archive_that_climbs_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../manifest.json", "{}")
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("/tmp/manifest.json"))
    for name in ("evil.zip", "evil.tar"):
        with pytest.raises(DataError, match=name):
            Rooms("train", [], tmp_path / name, cache_dir=tmp_path / "cache")


def test_a_changed_file_is_refused(root: Path) -> None:
    Rooms("train", [], root, "none")
    content = bytearray((root / "train.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (root / "train.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.parquet.*SHA-256"):
        Rooms("train", [], root, "none")


@pytest.mark.parametrize(
    ("field", "content", "sentence"),
    [
        ("image", b"RIFF no webp", "damaged"),
        ("depth", png(np.ones((24, 32), np.uint8)), "mode I;16, found L"),
        ("depth", png(np.ones((24, 33), np.uint16)), "expected 24x32"),
        ("semantic", png(np.full((24, 32), 20, np.uint8)), "class id 20 found, expected 0..19"),
        ("normals", None, "is empty"),
    ],
)
@pytest.mark.parametrize("cache", ["decoded", "none"])
def test_a_bad_sample_is_named(
    root: Path, tmp_path: Path, field: str, content: bytes | None, sentence: str, cache: Any
) -> None:
    rewrite(root, lambda rows: rows[2].update({field: content}))
    with pytest.raises(DataError, match=rf"train\.parquet sample 000001_0 \[{field}\].*{sentence}"):
        Rooms("train", [field] if field != "image" else [], root, cache, tmp_path / "cache")[2]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(format=2), "format 1"),
        (lambda m: m.pop("splits"), "not a manifest"),
        (lambda m: m.update(size=[24]), "format 1"),
        (lambda m: m.update(size=[10**9, 10**9]), "format 1"),
        (lambda m: m["splits"]["train"].pop("sha256"), "lacks"),
        (lambda m: m["splits"]["train"].update(file="../train.parquet"), "outside its folder"),
        (lambda m: m["splits"]["train"].update(images=5), "promises 5 images, found 4"),
    ],
)
def test_a_wrong_manifest_is_named(root: Path, change: Callable[[Any], None], sentence: str) -> None:
    manifest = json.loads((root / "manifest.json").read_text())
    change(manifest)
    (root / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=sentence):
        Rooms("train", [], root, "none")


def test_a_file_that_is_no_table_is_named(root: Path) -> None:
    (root / "train.parquet").write_bytes(b"PAR1 no table PAR1")
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["splits"]["train"]["sha256"] = sha256(root / "train.parquet")
    (root / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"train\.parquet.*cannot be read"):
        Rooms("train", [], root, "none")


def test_cache_has_two_ways(root: Path) -> None:
    with pytest.raises(ConfigurationError, match="'decoded' or 'none'"):
        Rooms("train", [], root, "always")  # type: ignore[arg-type]
