"""Hidden labels: how many of each, which, and that nothing but the seed and the names decides it."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.config import parse, replace
from plait.data.labels import Depth, Label, Mask, Normals, Semantic
from plait.data.partial import PartialLabels, labels_of
from plait.data.rooms.dataset import Rooms
from plait.data.sample import Geometry, Sample
from plait.data.sampling import make_sampler
from plait.errors import ConfigurationError, DataError
from plait.tasks import parse as parse_tasks
from plait.testing import write_tiny_rooms
from plait.training.run import make_dataset

ALL = ("semantic", "depth", "normals", "edges")


@dataclass
class Named:
    """A data set of names: sample ``i`` has the labels ``present_labels[i]``, each a single pixel."""

    present_labels: Sequence[frozenset[str]]
    ids: Sequence[str]
    split: str = "train"
    fields = {"semantic": Semantic, "depth": Depth, "normals": Normals, "edges": Mask}  # noqa: RUF012
    classes = {"semantic": ["wall", "floor"]}  # noqa: RUF012
    measuring: dict[str, float] = field(default_factory=lambda: {"max_distance": 0.01})

    def __len__(self) -> int:
        return len(self.ids)

    def id(self, place: int) -> str:
        return self.ids[place]

    def present(self, place: int) -> frozenset[str]:
        return self.present_labels[place]

    def __getitem__(self, place: int) -> Sample:
        targets: dict[str, Label] = {
            name: self.fields[name](self.fields[name].unknown_like(1, 1))
            for name in self.present_labels[place]
        }
        image = torch.full((3, 1, 1), place % 256, dtype=torch.uint8)
        return Sample(self.ids[place], image, targets, Geometry((1, 1)))


def full(samples: int, labels: Sequence[str] = ALL) -> Named:
    return Named([frozenset(labels)] * samples, [f"image {k}" for k in range(samples)])


def shown(dataset: PartialLabels) -> dict[str, frozenset[str]]:
    return {dataset.id(place): dataset.present(place) for place in range(len(dataset))}


def counts(dataset: PartialLabels) -> Counter[str]:
    return Counter(label for labels in shown(dataset).values() for label in labels)


ragged = st.lists(st.frozensets(st.sampled_from(ALL)), min_size=1, max_size=40).map(
    lambda present: Named(present, [f"image {k}" for k in range(len(present))])
)


@settings(max_examples=30)
@given(samples=st.integers(1, 60), labels=st.integers(1, 4), seed=st.integers(-3, 3))
def test_one_label_deals_the_labels_out_evenly(samples: int, labels: int, seed: int) -> None:
    dataset = PartialLabels(full(samples, ALL[:labels]), "one_label", seed=seed)
    assert all(len(found) == 1 for found in shown(dataset).values())
    dealt = [counts(dataset)[label] for label in ALL[:labels]]
    assert max(dealt) - min(dealt) <= 1


@given(data=ragged, seed=st.integers(0, 5))
def test_one_label_of_what_there_is(data: Named, seed: int) -> None:
    dataset = PartialLabels(data, "one_label", seed=seed)
    for place, had in enumerate(data.present_labels):
        assert dataset.present(place) <= had
        assert len(dataset.present(place)) == min(1, len(had))


@given(data=ragged, seed=st.integers(0, 5))
def test_random_keeps_one_to_all_but_one(data: Named, seed: int) -> None:
    dataset = PartialLabels(data, "random", seed=seed)
    for place, had in enumerate(data.present_labels):
        assert dataset.present(place) <= had
        assert min(1, len(had)) <= len(dataset.present(place)) <= max(len(had) - 1, min(1, len(had)))


def test_random_keeps_every_number_and_every_label_as_often() -> None:
    dataset = PartialLabels(full(3000), "random")
    sizes = Counter(len(found) for found in shown(dataset).values())
    assert all(abs(sizes[size] - 1000) < 120 for size in (1, 2, 3))
    assert all(abs(counts(dataset)[label] - 1500) < 120 for label in ALL)


@settings(max_examples=50)
@given(data=ragged, seed=st.integers(0, 5), low=st.floats(0, 1), high=st.floats(0, 1))
def test_fractions_are_exact_and_nested(data: Named, seed: int, low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    less, more = (PartialLabels(data, "fraction", part, seed) for part in (low, high))
    had = Counter(label for labels in data.present_labels for label in labels)
    for label in ALL:
        assert counts(less)[label] == round(low * had[label])
    for name, labels in shown(less).items():
        assert labels <= shown(more)[name]


def test_fractions_may_differ_by_label_and_a_label_not_named_is_whole() -> None:
    dataset = PartialLabels(full(40), "fraction", {"depth": 0.25, "edges": 0})
    assert counts(dataset) == {"semantic": 40, "normals": 40, "depth": 10}


def test_labels_are_hidden_independently_of_each_other() -> None:
    dataset = PartialLabels(full(2000), "fraction", 0.5)
    both = sum({"depth", "semantic"} <= labels for labels in shown(dataset).values())
    assert abs(both - 500) < 60


@pytest.mark.parametrize(
    "options", [{"keep": "one_label"}, {"keep": "random"}, {"keep": "fraction", "fraction": 0.4}]
)
def test_only_seed_and_names_decide(options: dict[str, Any]) -> None:
    data = full(50)
    first = shown(PartialLabels(data, **options))
    backwards = Named(data.present_labels, list(reversed(data.ids)))
    assert shown(PartialLabels(backwards, **options)) == first
    assert shown(PartialLabels(data, **options, seed=1)) != first


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"keep": "one_label"}, "d d e s n e"),
        ({"keep": "random"}, "des en es des d e"),
        ({"keep": "fraction", "fraction": 0.5}, "den en ns s d des"),
    ],
)
def test_the_choice_is_the_same_in_every_process_and_release(options: dict[str, Any], kept: str) -> None:
    """Stored answers (initials): Python's own hash differs from process to process."""
    found = shown(PartialLabels(full(6), **options)).values()
    assert " ".join("".join(sorted(label[0] for label in labels)) for labels in found) == kept


@pytest.mark.parametrize("keep", ["one_label", "random"])
def test_a_network_of_one_task_sees_the_labels_that_one_of_all_tasks_sees_of_it(keep: Any) -> None:
    data = full(40)
    every = shown(PartialLabels(data, keep, seed=3))
    for label in ALL:
        alone = PartialLabels(full(40, [label]), keep, seed=3, among=data)
        assert shown(alone) == {name: labels & {label} for name, labels in every.items()}
        assert 0 < counts(alone)[label] < 40
        assert counts(PartialLabels(full(40, [label]), keep, seed=3))[label] == 40, "without the others, all"


def test_among_goes_by_names_and_must_have_them_all() -> None:
    data, more = full(6, ["depth"]), full(9)
    first = shown(PartialLabels(data, among=more))
    assert first == {name: first[name] for name in data.ids}
    backwards = Named(more.present_labels, list(reversed(more.ids)))
    assert shown(PartialLabels(data, among=backwards)) == first
    with pytest.raises(DataError, match="sample image 3 of train is not there when"):
        PartialLabels(data, among=full(3))


def test_every_sample_is_asked_once_what_it_has() -> None:
    asked: Counter[int] = Counter()

    class Slow(Named):
        def present(self, place: int) -> frozenset[str]:
            asked[place] += 1
            return super().present(place)

    data = Slow([frozenset(ALL)] * 5, list("abcde"))
    hidden = PartialLabels(data, "fraction", 0.6)
    tasks = parse_tasks({"depth": {"kind": "depth"}, "normals": {"kind": "normals"}})
    for sampling in ("every_task", "per_task"):
        sampler = make_sampler(sampling, hidden, tasks, 4, 0)
        assert all(len(sampler(step)) == 4 for step in range(9))
    assert asked == dict.fromkeys(range(5), 1)


def test_a_hidden_label_is_absent_and_the_rest_is_as_it_was() -> None:
    data = full(8)
    dataset = PartialLabels(data, "random")
    for place in range(8):
        sample = dataset[place]
        assert set(sample.targets) == dataset.present(place) == labels_of(dataset, place)
        assert torch.equal(sample.image, data[place].image)
        assert sample.id == dataset.id(place) == data.id(place)
    assert len(dataset) == 8
    assert dataset.classes == data.classes
    assert dataset.split == "train"


def test_further_members_are_those_of_the_data_set() -> None:
    dataset = PartialLabels(full(3))
    assert dataset.measuring == {"max_distance": 0.01}
    assert not hasattr(dataset, "camera")
    again: PartialLabels = pickle.loads(pickle.dumps(dataset))
    assert shown(again) == shown(dataset)
    assert again.measuring == dataset.measuring


def test_facts_say_how_much_is_shown() -> None:
    facts = PartialLabels(full(10), "fraction", {"depth": 0.3}, seed=4).facts
    assert facts["labels shown"] == (
        "depth 3 of 10, edges 10 of 10, normals 10 of 10, semantic 10 of 10 (keep fraction, seed 4)"
    )


def test_a_data_set_that_cannot_say_is_one_sentence() -> None:
    class Silent:
        def __len__(self) -> int:
            return 1

        def id(self, place: int) -> str:
            return "one"

        split, fields, classes = "train", {"depth": Depth}, {}

    with pytest.raises(ConfigurationError, match=r"Silent cannot say .* present\(place\)"):
        PartialLabels(Silent())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"keep": "one_labl"}, "did you mean 'one_label'"),
        ({"keep": "fraction"}, "needs a fraction"),
        ({"keep": "random", "fraction": 0.5}, "only for keep 'fraction'"),
        ({"keep": "fraction", "fraction": 1.5}, r"in \[0, 1\], got 1.5"),
        ({"keep": "fraction", "fraction": float("nan")}, r"in \[0, 1\], got nan"),
        ({"keep": "fraction", "fraction": {"dept": 0.5}}, "did you mean 'depth'"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        PartialLabels(full(3), **options)


# --- in a recipe ----------------------------------------------------------------------------------------


def recipe(root: Path, **partial: Any) -> Any:
    tasks = {"semseg": {"kind": "semantic", "classes": 20}, "depth": {"kind": "depth"}}
    return parse({"data": {"root": str(root), "partial": partial}, "tasks": tasks})


def test_a_recipe_hides_labels_of_the_training_split_alone(tmp_path: Path) -> None:
    root = write_tiny_rooms(tmp_path, images=(6, 4, 4), size=(24, 32))
    wanted = recipe(root, keep="fraction", fraction={"depth": 0.5}, seed=2)
    tasks = tuple(parse_tasks(wanted.tasks))
    train = make_dataset(wanted, tasks, "train")
    assert counts(train) == {"semantic": 6, "depth": 3}  # type: ignore[arg-type]
    assert shown(train) == shown(  # type: ignore[arg-type]
        PartialLabels(Rooms("train", ["semantic", "depth"], root), "fraction", {"depth": 0.5}, 2)
    )
    for split in ("val", "test"):
        assert all(len(make_dataset(wanted, tasks, split)[place].targets) == 2 for place in range(4))


def test_single_task_recipes_see_what_the_multi_task_one_sees(tmp_path: Path) -> None:
    root = write_tiny_rooms(tmp_path, images=(8, 2, 2), size=(24, 32))
    both = recipe(root, keep="one_label", among=["semantic", "depth", "normals"])
    every = shown(make_dataset(both, tuple(parse_tasks(both.tasks)), "train"))  # type: ignore[arg-type]
    for name, label in (("semseg", "semantic"), ("depth", "depth")):
        one = replace(both, {"tasks": {name: both.tasks[name]}})
        alone = make_dataset(one, tuple(parse_tasks(one.tasks)), "train")
        assert shown(alone) == {name: labels & {label} for name, labels in every.items()}  # type: ignore[arg-type]
    dealt = Counter(label for labels in every.values() for label in labels)
    assert dealt["semantic"] + dealt["depth"] in (5, 6), "the rest is dealt to normals, which no task learns"
    missing = recipe(root, keep="random", among=["semantic"])
    with pytest.raises(ConfigurationError, match=r"among is \['semantic'\], without 'depth', the label of"):
        make_dataset(missing, tuple(parse_tasks(missing.tasks)), "train")


@pytest.mark.parametrize(
    ("partial", "sentence"),
    [
        ({"kepe": "random"}, r"unknown key 'data\.partial\.kepe' \(did you mean 'keep'\?\)"),
        ({"keep": "fraction", "fraction": 0.5, "among": ["depth"]}, r"data\.partial\.among must be left out"),
        ({"keep": "fraction"}, r"data\.partial\.fraction must be in \[0, 1\], got None"),
        ({"keep": "fraction", "fraction": 2}, r"data\.partial\.fraction must be in \[0, 1\], got 2"),
        ({"keep": "fraction", "fraction": {"depth": -1}}, r"data\.partial\.fraction\.depth must be"),
        ({"fraction": 0.5}, r"data\.partial\.fraction must be left out"),
        ({"keep": "some"}, r"data\.partial must be .*one_label or random or fraction"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_named(partial: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        recipe(Path("nowhere"), **partial)
