"""What every data set promises, run over each of them on a tiny made-up folder in its real layout."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import plait.data
from plait import registry
from plait.data.inspection import default_tasks
from plait.data.labels import Depth, Mask, Normals, Semantic
from plait.data.loader import check_sample
from plait.data.sample import DataSet
from plait.errors import ConfigurationError, DataError
from plait.testing import write_tiny_rooms

WRITERS: dict[str, Callable[[Path], Path]] = {
    "rooms": lambda root: write_tiny_rooms(root, images=(5, 3, 3), size=(24, 32)),
}
"""A new data set adds the function here that writes it, tiny, into a folder."""

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module", params=registry.DATASETS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    name: str = request.param
    return name, WRITERS[name](tmp_path_factory.mktemp(name))


def fields_of(name: str) -> tuple[str, ...]:
    fields: tuple[str, ...] = tuple(registry.resolve("data set", name).fields)  # type: ignore[attr-defined]
    return fields


@pytest.fixture(params=SPLITS)
def dataset(request: pytest.FixtureRequest, written: tuple[str, Path]) -> DataSet:
    name, root = written
    return plait.data.create(name, split=request.param, labels=fields_of(name), root=root)


def test_samples_are_of_their_types(dataset: DataSet) -> None:
    assert len(dataset) > 0
    for place in range(len(dataset)):
        sample = dataset[place]
        assert sample.id == dataset.id(place)
        assert sample.image.dtype == torch.uint8
        assert sample.image.shape[0] == 3
        assert sample.geometry.size == tuple(sample.image.shape[-2:])
        assert torch.equal(sample.geometry.matrix, torch.eye(3, dtype=torch.float64))
        for field, label in sample.targets.items():
            label_type = dataset.fields[field]
            assert type(label) is label_type
            assert label.shape == (label_type.channels, *sample.geometry.size)
            assert label.dtype == (torch.int64 if label_type is Semantic else torch.float32)
            assert label_type in (Semantic, Depth, Normals, Mask)
        check_sample(sample, default_tasks(dataset))


def test_ids_are_unique_over_all_splits(written: tuple[str, Path]) -> None:
    name, root = written
    ids = []
    for split in SPLITS:
        dataset = plait.data.create(name, split=split, labels=(), root=root)
        ids += [dataset.id(place) for place in range(len(dataset))]
    assert len(set(ids)) == len(ids)


def test_reading_again_gives_the_same(dataset: DataSet) -> None:
    first, again = dataset[0], dataset[0]
    copy: DataSet = pickle.loads(pickle.dumps(dataset))
    for other in (again, copy[0]):
        assert torch.equal(first.image, other.image)
        for field, label in first.targets.items():
            torch.testing.assert_close(
                label.as_subclass(Tensor),
                other.targets[field].as_subclass(Tensor),
                rtol=0,
                atol=0,
                equal_nan=True,
            )


def test_a_sample_may_be_changed_without_changing_the_data(dataset: DataSet) -> None:
    first = dataset[0]
    kept = first.image.clone()
    first.image.zero_()
    for label in first.targets.values():
        label.as_subclass(Tensor).zero_()
    assert torch.equal(dataset[0].image, kept)


def test_only_the_labels_asked_for_are_loaded(written: tuple[str, Path]) -> None:
    name, root = written
    for field in fields_of(name):
        dataset = plait.data.create(name, split="train", labels=[field], root=root)
        assert set(dataset[0].targets) <= {field}


def test_unknown_splits_labels_and_options_are_answered_with_the_nearest(written: tuple[str, Path]) -> None:
    name, root = written
    field = fields_of(name)[0]
    with pytest.raises(ConfigurationError, match="'train'"):
        plait.data.create(name, split="trian", labels=[field], root=root)
    with pytest.raises(ConfigurationError, match=field):
        plait.data.create(name, split="train", labels=[field[:-1]], root=root)
    with pytest.raises(ConfigurationError, match="'root'"):
        plait.data.create(name, split="train", labels=[field], rot=root)


def test_an_empty_folder_is_one_sentence(written: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        plait.data.create(written[0], split="train", labels=(), root=tmp_path)


def test_a_check_finds_nothing_wrong(written: tuple[str, Path]) -> None:
    name, root = written
    report = plait.data.check(name, root)
    assert report.good, report.problems
    for split in SPLITS:
        assert any(line.startswith(f"{split}: ") for line in report.lines)


def test_a_sheet_is_drawn(written: tuple[str, Path], tmp_path: Path) -> None:
    name, root = written
    sheet = plait.data.show(name, root, samples=2, out=tmp_path / "new" / "sheet.png")
    assert sheet.read_bytes().startswith(b"\x89PNG")
