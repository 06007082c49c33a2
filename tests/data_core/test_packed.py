"""A packed data set is the data set, bit by bit, and nothing less than a whole one is ever read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from tests.layouts import folder
from torch import Tensor

import plait.data
from plait.data.labels import Depth, InverseDepth, Label, Mask, Normals, Semantic
from plait.data.packed.dataset import MANIFEST, UNFINISHED, Packed
from plait.data.packed.forms import exact_form
from plait.data.packed.pack import _write_shard, pack
from plait.data.sample import Geometry, Sample
from plait.errors import ConfigurationError, DataError
from plait.testing import write_tiny_rooms

FIELDS: Mapping[str, type[Label]] = {
    "semantic": Semantic,
    "instances": Semantic,
    "depth": Depth,
    "far": InverseDepth,
    "normals": Normals,
    "edges": Mask,
}


class Odd:
    """Samples of several sizes, in which any label may be missing or unknown in part."""

    fields = FIELDS
    classes: Mapping[str, Sequence[str]] = {"semantic": ("a", "b", "c")}
    splits = ("train", "test")
    measuring: Mapping[str, float] = {"max_distance": 0.01}

    def __init__(
        self, split: str, labels: Sequence[str], root: Path | str | None = None, stop: int = 99
    ) -> None:
        if split not in self.splits:
            raise ConfigurationError(f"no split {split}")
        self.split, self.labels, self.stop = split, labels, stop

    def __len__(self) -> int:
        return 5 if self.split == "train" else 2

    def id(self, place: int) -> str:
        return f"{self.split}/{place}"

    def present(self, place: int) -> frozenset[str]:
        return frozenset(name for k, name in enumerate(self.labels) if (k + place) % 4)

    def __getitem__(self, place: int) -> Sample:
        if place >= self.stop:
            raise DataError(f"sample {place} cannot be read")
        size = (6 + place, 8)
        random = torch.Generator().manual_seed(place)
        metres = torch.rand(1, *size, generator=random) * 5 + 0.5
        made: dict[str, Tensor] = {
            "semantic": torch.randint(3, (1, *size), generator=random),
            "instances": torch.randint(2000, (1, *size), generator=random),
            "depth": metres if place % 2 else (metres * 1000).round() * torch.tensor(1e-3),
            "far": 1 / metres,
            "normals": torch.nn.functional.normalize(torch.randn(3, *size, generator=random), dim=0),
            "edges": torch.randint(2, (1, *size), generator=random).float(),
        }
        made["semantic"][:, 0] = 255
        for name in ("depth", "far", "normals"):
            made[name][:, 0] = torch.nan
        if place % 2:
            made["edges"][:, 0] = torch.nan
        image = torch.randint(256, (3, *size), generator=random, dtype=torch.uint8)
        targets = {name: FIELDS[name](made[name]) for name in self.labels if name in self.present(place)}
        return Sample(self.id(place), image, targets, Geometry(size))


ODD = f"{__name__}:Odd"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("plait.data.packed.pack.SHARD_BYTES", 4000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("plait.registry.load", _loading_this_module(plait.registry.load))


def _loading_this_module(load: Callable[[str], object]) -> Callable[[str], object]:
    return lambda path: Odd if path == ODD else load(path)


def same(one: Sample, other: Sample) -> None:
    assert one.id == other.id
    assert one.geometry.size == other.geometry.size
    assert torch.equal(one.image, other.image)
    assert one.targets.keys() == other.targets.keys()
    for name, label in one.targets.items():
        again = other.targets[name]
        assert type(again) is type(label)
        assert again.dtype == label.dtype
        torch.testing.assert_close(
            again.as_subclass(Tensor), label.as_subclass(Tensor), rtol=0, atol=0, equal_nan=True
        )


def test_what_is_packed_comes_back_bit_by_bit(tmp_path: Path) -> None:
    pack(ODD, None, tmp_path / "p")
    for split in Odd.splits:
        plain, again = Odd(split, tuple(FIELDS)), Packed(split, tuple(FIELDS), tmp_path / "p")
        assert len(plain) == len(again)
        for place in range(len(plain)):
            same(plain[place], again[place])
            assert again.present(place) == plain.present(place)
    assert again.classes == {"semantic": ["a", "b", "c"]}
    assert again.measuring == Odd.measuring
    assert len(list((tmp_path / "p").glob("shard-*"))) > 1


def test_rooms_come_back_bit_by_bit(tmp_path: Path) -> None:
    root = write_tiny_rooms(tmp_path / "rooms", images=(3, 2, 2), size=(24, 32))
    pack("rooms", root, tmp_path / "p", labels=["semantic", "depth", "normals", "edges"])
    for split in ("train", "val", "test"):
        labels = ["depth", "semantic", "edges", "normals"]
        plain = plait.data.create("rooms", split=split, labels=labels, root=root)
        again = plait.data.create("packed", split=split, labels=labels, root=tmp_path / "p")
        for place in range(len(plain)):
            same(plain[place], again[place])


@pytest.mark.parametrize(
    ("label", "kind", "form"),
    [
        (torch.tensor([0, 254, 255]), "semantic", "ids8"),
        (torch.tensor([0, 300, 255]), "semantic", "ids32"),
        (torch.arange(256).float() * torch.tensor(1 / 255), "mask", "levels"),
        (torch.tensor([0.0, 0.3, 1.0]), "mask", "plain"),
        (torch.tensor([0.0, torch.nan, 1.0]), "mask", "plain"),
        (torch.tensor([1, 4321, 65535]).float() * torch.tensor(1e-3), "depth", "millimetres"),
        (torch.tensor([0.001, torch.nan]), "depth", "millimetres"),
        (torch.tensor([0.5001231, torch.nan]), "depth", "plain"),
        (torch.tensor([80.0]), "depth", "plain"),
    ],
)
def test_the_smallest_exact_form_is_taken(label: Tensor, kind: str, form: str) -> None:
    assert exact_form(label, kind)[0] == form


def test_packing_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sample 4 cannot be read"):
        pack(ODD, None, tmp_path / "p", options={"stop": 4})
    kept = sorted((tmp_path / "p").glob("shard-*"))
    assert kept
    with pytest.raises(DataError, match="packing it was not finished: run the same command again"):
        Packed("train", (), tmp_path / "p")
    times = [path.stat().st_mtime_ns for path in kept]
    unfinished = json.loads((tmp_path / "p" / UNFINISHED).read_text())
    unfinished["about"]["options"] = {"stop": 99}
    (tmp_path / "p" / UNFINISHED).write_text(json.dumps(unfinished))
    pack(ODD, None, tmp_path / "p", options={"stop": 99})
    assert [path.stat().st_mtime_ns for path in kept] == times
    plain, again = Odd("train", tuple(FIELDS)), Packed("train", tuple(FIELDS), tmp_path / "p")
    for place in range(len(plain)):
        same(plain[place], again[place])


def test_the_beginning_of_another_pack_is_not_continued(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        pack(ODD, None, tmp_path / "p", options={"stop": 4})
    with pytest.raises(ConfigurationError, match=r"the beginning of a pack of something else \(options\)"):
        pack(ODD, None, tmp_path / "p", options={"stop": 98})


def test_a_pack_is_not_overwritten_by_another(tmp_path: Path) -> None:
    pack(ODD, None, tmp_path / "p", labels=["depth"])
    before = (tmp_path / "p" / MANIFEST).stat().st_mtime_ns
    pack(ODD, None, tmp_path / "p", labels=["depth"])
    assert (tmp_path / "p" / MANIFEST).stat().st_mtime_ns == before
    with pytest.raises(ConfigurationError, match="already holds a pack of something else"):
        pack(ODD, None, tmp_path / "p", labels=["normals"])


def test_two_that_pack_at_once_make_one_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    plainly = _write_shard

    def slowly(*what: Any) -> dict[str, Any]:
        time.sleep(0.02)
        entry = plainly(*what)
        written.append(entry["file"])
        return entry

    monkeypatch.setattr("plait.data.packed.pack._write_shard", slowly)
    with ThreadPoolExecutor(3) as pool:
        made = [pool.submit(pack, ODD, None, tmp_path / "p", labels=["depth"]) for _ in range(2)]
        other = pool.submit(pack, ODD, None, tmp_path / "p", labels=["normals"])
    refused = [one.exception() for one in (*made, other) if one.exception() is not None]
    assert all(isinstance(error, ConfigurationError) for error in refused)
    assert len(refused) in (1, 2)  # whichever came first is the pack
    assert len(written) == len(set(written))
    for split in Odd.splits:
        assert Packed(split, (), tmp_path / "p")[0].image.any()


def test_a_disk_that_is_full_is_one_sentence_and_packing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as broken:
        broken.setattr("safetensors.torch.save_file", full)
        with pytest.raises(DataError, match=r"shard-00000.safetensors cannot be written .*No space left"):
            pack(ODD, None, tmp_path / "p")
    assert not list((tmp_path / "p").glob("*.partial"))
    pack(ODD, None, tmp_path / "p")
    assert len(Packed("train", (), tmp_path / "p")) == 5


def test_options_may_have_numbers_as_keys_and_paths(tmp_path: Path) -> None:
    root = folder.folders(tmp_path / "mine")
    fields = {"semantic": {"ids": {0: 1, 1: 0, 2: 2, 3: 3}}}
    for _ in range(2):
        pack("folder", root, tmp_path / "p", options={"fields": fields, "group": "/"})
    assert Packed("train", ("semantic",), tmp_path / "p")[0].image.any()


@pytest.mark.parametrize("finished", [True, False])
def test_what_has_changed_since_is_not_taken_for_the_same(tmp_path: Path, finished: bool) -> None:
    root = folder.by_shares(tmp_path / "mine")
    out = pack("folder", root, tmp_path / "p")
    if not finished:
        manifest = json.loads((out / MANIFEST).read_text())
        (out / MANIFEST).unlink()
        begun = {"about": manifest, "shards": manifest.pop("shards")[:1]}
        for extra in ("plait", "facts"):
            del manifest[extra]
        (out / UNFINISHED).write_text(json.dumps(begun))
    description = (root / "plait.yaml").read_text()
    (root / "plait.yaml").write_text(description.replace("0.001", "0.01"))
    with pytest.raises(DataError, match=r"declared of them, have changed since it was (packed|begun)"):
        pack("folder", root, out)
    (root / "plait.yaml").write_text(description)
    assert pack("folder", root, out) == out
    os.utime(next((root / "images").rglob("*.*")), (1, 1))
    with pytest.raises(DataError, match="have changed since"):
        pack("folder", root, out)


def test_the_splits_that_lie_there_are_packed(tmp_path: Path) -> None:
    root = folder.splits_above(tmp_path / "mine")
    for place in root.iterdir():
        if place.name not in ("train", "val", "plait.yaml"):
            shutil.rmtree(place)
    pack("folder", root, tmp_path / "p", options={"splits": {"held_out": 0.5}})
    assert Packed("val", (), tmp_path / "p").splits == ("train", "val", "held_out")


def test_a_changed_shard_is_refused_by_name(tmp_path: Path) -> None:
    pack(ODD, None, tmp_path / "p")
    shard = tmp_path / "p" / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00000.safetensors: expected SHA-256"):
        Packed("train", ("depth",), tmp_path / "p")[0]
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00000.safetensors: no such file"):
        Packed("train", ("depth",), tmp_path / "p")[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "expected a pack of format 1, found 2"),
        ({"shards": [{"file": "../x", "ids": [], "forms": []}]}, "points outside its folder"),
        ({"fields": {"depth": "sound"}}, "unknown kind of label"),
        ({"shards": 3}, "damaged"),
        ({"again": 3}, "damaged"),
        ({"shards": [{"file": "x", "ids": [], "forms": []}]}, "damaged .*the entry of x"),
        (
            {
                "shards": [
                    {"file": "x", "ids": ["a"], "forms": [{"depth": "gold"}], "bytes": 1, "sha256": "0"}
                ]
            },
            "unknown forms of labels .*gold",
        ),
        ({"splits": {"train": ["who"]}}, "no shard holds sample who"),
    ],
)
def test_a_wrong_manifest_is_one_sentence(tmp_path: Path, change: dict[str, object], message: str) -> None:
    pack(ODD, None, tmp_path / "p")
    path = tmp_path / "p" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        Packed("train", (), tmp_path / "p")


def test_names_that_do_not_exist_are_answered_with_the_nearest(tmp_path: Path) -> None:
    pack(ODD, None, tmp_path / "p", labels=["depth", "normals"])
    with pytest.raises(ConfigurationError, match="did you mean 'train'"):
        Packed("trian", (), tmp_path / "p")
    with pytest.raises(ConfigurationError, match="did you mean 'depth'"):
        Packed("train", ("deph",), tmp_path / "p")
    with pytest.raises(ConfigurationError, match="did you mean 'normals'"):
        pack(ODD, None, tmp_path / "q", labels=["normal"])
    with pytest.raises(ConfigurationError, match="needs a root"):
        Packed("train", ())


def test_it_travels_to_a_worker_without_its_content(tmp_path: Path) -> None:
    pack(ODD, None, tmp_path / "p")
    here = Packed("train", tuple(FIELDS), tmp_path / "p")
    first = here[0]
    travelling = pickle.dumps(here)
    assert len(travelling) < 20_000
    same(pickle.loads(travelling)[0], first)


def test_a_sample_can_be_changed_without_changing_the_pack(tmp_path: Path) -> None:
    pack(ODD, None, tmp_path / "p")
    here = Packed("train", ("normals",), tmp_path / "p")
    place = next(k for k in range(5) if "normals" in here.present(k))
    before = here[place].targets["normals"].clone()
    here[place].targets["normals"].fill_(0)
    here[place].image.fill_(0)
    assert here[place].image.any()
    again = here[place].targets["normals"]
    torch.testing.assert_close(again, before, equal_nan=True, rtol=0, atol=0)
