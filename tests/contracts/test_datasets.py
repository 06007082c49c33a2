"""What every data set promises, run over each of them on a tiny made-up folder in its real layout."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contracts.datasets import WRITERS, Written, write
from torch import Tensor

import plait.data
from plait import registry
from plait.data.inspection import default_tasks, fields_at
from plait.data.labels import Depth, InverseDepth, Mask, Normals, Semantic
from plait.data.loader import check_sample
from plait.data.sample import DataSet
from plait.errors import ConfigurationError, DataError

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module", params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(request.param, tmp_path_factory.mktemp(request.param.replace("/", "_")))


def test_every_data_set_is_run() -> None:
    assert {key.partition("/")[0] for key in WRITERS} == set(registry.DATASETS)


def fields_of(written: Written) -> tuple[str, ...]:
    return tuple(fields_at(written.name, written.root, written.options))


def opened(written: Written, split: str, labels: Sequence[str], **more: Any) -> DataSet:
    options = {**written.options, **more}
    return plait.data.create(written.name, split=split, labels=labels, root=written.root, **options)


@pytest.fixture(params=SPLITS)
def dataset(request: pytest.FixtureRequest, written: Written) -> DataSet:
    return opened(written, request.param, fields_of(written))


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
            assert label_type in (Semantic, Depth, InverseDepth, Normals, Mask)
        check_sample(sample, default_tasks(dataset))


def test_every_field_is_seen_somewhere(written: Written) -> None:
    sets = [opened(written, split, fields_of(written)) for split in SPLITS]
    seen = {field for dataset in sets for place in range(len(dataset)) for field in dataset[place].targets}
    assert seen == set(fields_of(written))


def test_what_is_present_is_known_without_loading(dataset: DataSet) -> None:
    for place in range(len(dataset)):
        assert dataset.present(place) == frozenset(dataset[place].targets)  # type: ignore[attr-defined]


def test_ids_are_unique_over_all_splits(written: Written) -> None:
    ids = []
    for split in SPLITS:
        dataset = opened(written, split, ())
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


def test_only_the_labels_asked_for_are_loaded(written: Written) -> None:
    for field in fields_of(written):
        dataset = opened(written, "train", [field])
        assert set(dataset[0].targets) <= {field}


def test_unknown_splits_labels_and_options_are_answered_with_the_nearest(written: Written) -> None:
    field = fields_of(written)[0]
    with pytest.raises(ConfigurationError, match="'train'"):
        opened(written, "trian", [field])
    with pytest.raises(ConfigurationError, match=field):
        opened(written, "train", [field[:-1]])
    with pytest.raises(ConfigurationError, match="'root'"):
        opened(written, "train", [field], rot=written.root)


def test_an_empty_folder_is_one_sentence(written: Written, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        opened(dataclasses.replace(written, root=tmp_path), "train", ())


def test_a_check_finds_nothing_wrong_but_that_a_tiny_set_is_not_the_published_one(written: Written) -> None:
    report = plait.data.check(written.name, written.root, options=written.options)
    problems = [problem for problem in report.problems if "the published archive has" not in problem]
    assert not problems
    for split in SPLITS:
        assert any(line.startswith(f"{split}: ") for line in report.lines)


def test_a_sheet_is_drawn(written: Written, tmp_path: Path) -> None:
    sheet = plait.data.show(
        written.name, written.root, samples=2, out=tmp_path / "new" / "sheet.png", options=written.options
    )
    assert sheet.read_bytes().startswith(b"\x89PNG")
