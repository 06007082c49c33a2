"""Several sets as one: whose labels a sample has, what its name is, and what cannot be joined."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import plait.data
from plait.data.inspection import fields_at
from plait.data.joined import Joined
from plait.data.labels import Depth, InverseDepth, Semantic
from plait.data.loader import train_batches
from plait.data.partial import PartialLabels
from plait.data.rooms.dataset import Rooms
from plait.data.sample import Geometry, Sample
from plait.data.transforms import Augmentation
from plait.errors import ConfigurationError, DataError
from plait.tasks import parse
from plait.testing import write_tiny_rooms


class Other:
    """A set of another size whose depth means something else, and whose classes have other names."""

    fields = {"depth": InverseDepth, "semantic": Semantic}  # noqa: RUF012
    classes = {"semantic": ("sky", "road")}  # noqa: RUF012
    measuring = {"max_distance": 0.0075}  # noqa: RUF012

    def __init__(self, split: str = "train", labels: Any = (), *, far: float = 0.01) -> None:
        self.split, self.labels, self.measuring = split, labels, {"max_distance": far}

    def __len__(self) -> int:
        return 2

    def id(self, place: int) -> str:
        return f"s{place}"

    def present(self, place: int) -> frozenset[str]:
        return frozenset(self.labels[:place])

    def __getitem__(self, place: int) -> Sample:
        size = (20, 30)
        made = {
            "depth": InverseDepth(torch.ones(1, *size)),
            "semantic": Semantic(torch.ones(1, *size).long()),
        }
        targets = {label: made[label] for label in self.labels[:place]}
        return Sample(self.id(place), torch.zeros(3, *size, dtype=torch.uint8), targets, Geometry(size))


OTHER = f"{__name__}:Other"


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    for name, seed, size in (("first", 0, (24, 32)), ("second", 1, (32, 40))):
        write_tiny_rooms(root / name, images=(3, 2, 2), size=size, seed=seed)
    return root


def joined(roots: Path, labels: tuple[str, ...] = ("semantic", "depth", "normals"), **options: Any) -> Joined:
    sets = {
        "near": {"name": "rooms", "root": "first", "labels": ["depth", "semantic"]},
        "far": {"name": "rooms", "root": "second", "labels": ["normals", "semantic"]},
    }
    return Joined("train", labels, roots, **{"sets": sets, **options})


def test_samples_follow_each_other_with_the_labels_of_their_own_set(roots: Path) -> None:
    data = joined(roots)
    near = Rooms("train", ["semantic", "depth"], roots / "first")
    far = Rooms("train", ["semantic", "normals"], roots / "second")
    assert len(data) == 6
    for place in range(6):
        called, own = ("near", near) if place < 3 else ("far", far)
        sample, expected = data[place], own[place % 3]
        assert sample.id == data.id(place) == f"{called}/{expected.id}"
        assert torch.equal(sample.image, expected.image)
        assert sample.geometry.size == expected.geometry.size
        assert set(sample.targets) == data.present(place) == set(own.labels)
        for label in own.labels:
            torch.testing.assert_close(sample.targets[label], expected.targets[label], equal_nan=True)


def test_only_the_labels_asked_for_are_loaded(roots: Path) -> None:
    data = joined(roots, ("depth",))
    assert [set(data[place].targets) for place in (0, 5)] == [{"depth"}, set()]
    assert [data.present(place) for place in (0, 5)] == [{"depth"}, set()]


def test_fields_and_classes_are_the_union_of_what_is_taken(roots: Path) -> None:
    data = joined(roots)
    assert set(data.fields) == {"depth", "semantic", "normals"}
    assert data.fields["depth"] is Depth
    assert len(data.classes["semantic"]) == 20
    sets = {"first": {"name": "rooms", "root": "first", "labels": ["depth"]}}
    assert joined(roots, ("depth",), sets=sets).classes == {}
    assert set(fields_at("joined", roots, {"sets": sets})) == {"depth"}


def test_a_list_of_sets_is_called_by_their_names(roots: Path) -> None:
    data = plait.data.create(
        "joined",
        split="test",
        labels=["depth"],
        sets=[
            {"name": "rooms", "root": str(roots / "first"), "cache": "none"},
            {"name": OTHER, "labels": []},
        ],
    )
    assert [data.id(place).rpartition("/")[0] for place in range(len(data))] == ["rooms"] * 2 + [OTHER] * 2


def test_a_set_s_key_is_its_name_where_it_has_none(roots: Path) -> None:
    data = joined(roots, ("depth",), sets={"rooms": {"root": "first"}})
    assert data.id(0).startswith("rooms/")


def test_places_outside_are_an_index_error(roots: Path) -> None:
    data = joined(roots)
    for place in (-1, 6):
        with pytest.raises(IndexError, match=f"no sample {place} among 6"):
            data[place]
    assert len(list(data)) == 6  # type: ignore[call-overload]


def test_a_copy_for_a_worker_is_the_same(roots: Path) -> None:
    data = joined(roots)
    again: Joined = pickle.loads(pickle.dumps(data))
    assert torch.equal(again[4].image, data[4].image)


def test_sets_of_several_sizes_make_batches_of_one(roots: Path) -> None:
    tasks = parse({"depth": {"kind": "depth"}, "normals": {"kind": "normals"}})
    view = Augmentation((16, 16), crop=False)
    batch = next(train_batches(joined(roots, ("depth", "normals")), tasks, view, batch_size=6))
    assert batch.images.shape == (6, 3, 16, 16)
    for task, called in (("depth", "near"), ("normals", "far")):
        assert batch.present[task].tolist() == [name.startswith(called) for name in batch.ids]


def test_labels_of_a_joined_set_can_be_hidden(roots: Path) -> None:
    data = PartialLabels(joined(roots), "one_label")
    assert all(len(data[place].targets) == 1 for place in range(6))


def test_facts_tell_the_sets_apart(roots: Path) -> None:
    facts = joined(roots).facts
    assert facts["near: train samples"] == facts["far: train samples"] == "3"
    assert facts["far: folder"] == str(roots / "second")


def test_measures_are_told_what_all_sets_say(roots: Path) -> None:
    other = {"name": OTHER, "labels": []}
    alone = {"rooms": {"root": "first"}, "one": other, "two": other}
    assert joined(roots, sets=alone).measuring == {"max_distance": 0.01}
    differ = {"one": other, "two": {**other, "far": 0.02}}
    with pytest.raises(
        ConfigurationError, match=r"'max_distance' is 0.01 in .* one and 0.02 in two: .*measuring"
    ):
        joined(roots, (), sets=differ).measuring  # noqa: B018
    said = {"max_distance": 0.0075}
    assert joined(roots, (), sets=differ, measuring=said).measuring == said


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        ([], "one set at least"),
        ([{"root": "first"}], "needs a name"),
        ([{"name": "rooms"}, {"name": "rooms"}], "two of the joined sets are called 'rooms'"),
        ([{"name": "room"}], "did you mean 'rooms'"),
        ([{"name": "rooms", "rot": "first"}], "did you mean 'root'"),
        ([{"name": "rooms", "root": "first", "labels": ["dept"]}], "did you mean 'depth'"),
        ([{"name": "rooms", "root": "first", "labels": ["normals"]}], "gives a label 'depth'"),
        (
            [{"name": "rooms", "root": "first"}, {"name": OTHER, "labels": ["depth"]}],
            "'depth' is Depth in the joined set rooms and InverseDepth in .*Other: name the labels to take",
        ),
        (
            [{"name": "rooms", "root": "first"}, {"name": OTHER, "labels": ["semantic"]}],
            r"'semantic' is 20 classes \(wall, .*\) in .* and 2 classes \(sky, road, ...\) in .*labels",
        ),
    ],
)
def test_what_cannot_be_joined_is_one_sentence(roots: Path, sets: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        joined(roots, ("depth",), sets=sets)
    assert "\n" not in str(caught.value)


def test_a_set_that_is_not_there_is_named(roots: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        joined(tmp_path)
    with pytest.raises(ConfigurationError, match="did you mean 'train'"):
        Joined("trian", ["depth"], roots, sets=[{"name": "rooms", "root": "first"}])
