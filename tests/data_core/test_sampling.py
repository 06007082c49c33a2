"""Which samples make a step's batch: what each sampling promises, and that (seed, step) alone decide it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import plait.data
from plait.config import Recipe, parse, replace
from plait.data.labels import Depth, Label, Mask, Semantic
from plait.data.loader import train_batches
from plait.data.sample import Batch, Geometry, Sample
from plait.data.sampling import Draw, EveryTask, PerTask, Sampler, Shuffled, epoch_order, make_sampler
from plait.data.transforms import Augmentation
from plait.errors import ConfigurationError
from plait.tasks import parse as parse_tasks
from plait.testing import write_tiny_rooms
from plait.training.fit import train

LABELS = ("semantic", "depth", "edges")
SAMPLINGS = ("shuffled", "every_task", "per_task")
TASKS = parse_tasks(
    {
        "semseg": {"kind": "semantic", "classes": 4},
        "depth": {"kind": "depth"},
        "edges": {"kind": "edges"},
    }
)
VIEW = Augmentation((8, 8), scale=(1.0, 1.4))
Present = Sequence[frozenset[str]]

ragged = st.lists(st.frozensets(st.sampled_from(LABELS)), min_size=1, max_size=30)


@dataclass
class Pictures:
    """Noise, with the labels that ``labels`` says."""

    labels: Present
    split: str = "train"
    fields = {"semantic": Semantic, "depth": Depth, "edges": Mask}  # noqa: RUF012
    classes = {"semantic": [str(k) for k in range(4)]}  # noqa: RUF012

    def __len__(self) -> int:
        return len(self.labels)

    def id(self, place: int) -> str:
        return f"p{place}"

    def present(self, place: int) -> frozenset[str]:
        return self.labels[place]

    def __getitem__(self, place: int) -> Sample:
        size = (12, 14)
        random = torch.Generator().manual_seed(place)
        image = torch.randint(0, 255, (3, *size), generator=random, dtype=torch.uint8)
        made: dict[str, Label] = {
            "semantic": Semantic(torch.randint(0, 4, (1, *size), generator=random)),
            "depth": Depth(torch.rand(1, *size, generator=random) + 1),
            "edges": Mask((torch.rand(1, *size, generator=random) < 0.2).float()),
        }
        targets = {name: label for name, label in made.items() if name in self.labels[place]}
        return Sample(self.id(place), image, targets, Geometry(size))


def covered(batch: Sequence[Draw], present: Present) -> frozenset[str]:
    return frozenset().union(*(present[draw.place] for draw in batch))


def epochs(sampler: EveryTask, many: int) -> list[list[Sequence[Draw]]]:
    steps = [sampler(step) for step in range(many * sampler.steps)]
    return [steps[start : start + sampler.steps] for start in range(0, len(steps), sampler.steps)]


def possible(present: Present, batch_size: int) -> bool:
    """Whether each sample is in some batch that has every label, by looking at all of them."""
    wanted = frozenset().union(*present)
    kinds = set(present)
    return all(
        any(
            wanted <= kind.union(*others)
            for others in itertools.combinations_with_replacement(kinds, batch_size - 1)
        )
        for kind in kinds
    )


# --- what is promised -----------------------------------------------------------------------------------


def test_shuffled_lays_permutations_end_to_end() -> None:
    sampler = Shuffled(7, 3, seed=2)
    drawn = [draw for step in range(7) for draw in sampler(step)]
    expected = [
        Draw(int(place), epoch) for epoch in range(3) for place in epoch_order(7, seed=2, epoch=epoch)
    ]
    assert drawn == expected


@settings(max_examples=150)
@given(present=ragged, batch_size=st.integers(1, 6), seed=st.integers(-2, 2))
def test_every_task_has_each_label_in_each_batch_and_each_sample_in_each_epoch(
    present: Present, batch_size: int, seed: int
) -> None:
    assume(possible(present, batch_size))
    wanted = frozenset().union(*present)
    sampler = EveryTask(present, sorted(wanted), batch_size, seed)
    for number, epoch in enumerate(epochs(sampler, 2)):
        drawn = [draw for batch in epoch for draw in batch]
        assert all(len(batch) == batch_size for batch in epoch)
        assert all(covered(batch, present) == wanted for batch in epoch)
        assert {draw.place for draw in drawn} == set(range(len(present)))
        assert {draw.epoch for draw in drawn} == {number}
        assert len(set(drawn)) == len(drawn), "the same view twice"


@settings(max_examples=150)
@given(present=ragged, batch_size=st.integers(1, 4))
def test_every_task_is_refused_only_where_it_is_impossible(present: Present, batch_size: int) -> None:
    wanted = sorted(frozenset().union(*present))
    if possible(present, batch_size):
        EveryTask(present, wanted, batch_size, seed=0)
    else:
        with pytest.raises(ConfigurationError, match=r"batch_size to be at least (\d)") as caught:
            EveryTask(present, wanted, batch_size, seed=0)
        least = int(str(caught.value).partition("at least ")[2][0])
        assert possible(present, least)
        assert not possible(present, least - 1)


@given(samples=st.integers(1, 40), batch_size=st.integers(1, 9))
def test_every_task_is_shuffling_where_nothing_is_missing(samples: int, batch_size: int) -> None:
    """As many steps as the samples fill, and repeats only in the last slots."""
    sampler = EveryTask([frozenset(LABELS)] * samples, LABELS, batch_size, seed=0)
    assert sampler.steps == math.ceil(samples / batch_size)
    (epoch,) = epochs(sampler, 1)
    seen = Counter(draw.place for batch in epoch for draw in batch)
    assert max(seen.values()) - min(seen.values()) <= 1


def test_the_samples_of_a_rare_task_repeat_evenly_and_the_others_hardly() -> None:
    present = [frozenset({"semantic"})] * 90 + [frozenset({"semantic", "depth"})] * 3
    sampler = EveryTask(present, LABELS[:2], batch_size=4, seed=0)
    assert sampler.steps == 30  # 90 samples in three slots of each batch
    for epoch in epochs(sampler, 3):
        seen = Counter(draw.place for batch in epoch for draw in batch)
        assert [seen[place] for place in (90, 91, 92)] == [10, 10, 10]
        assert all(seen[place] == 1 for place in range(90))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    present = [frozenset({LABELS[place % 3]}) for place in range(30)]
    sampler, other = EveryTask(present, LABELS, 5, seed=0), EveryTask(present, LABELS, 5, seed=1)
    first, second = ([[draw.place for draw in batch] for batch in epoch] for epoch in epochs(sampler, 2))
    assert first != second
    assert first != [[draw.place for draw in batch] for batch in epochs(other, 1)[0]]


@given(
    present=ragged.filter(lambda present: frozenset().union(*present) == set(LABELS)),
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 3),
)
def test_per_task_runs_through_each_task_s_own_samples(present: Present, batch_size: int, seed: int) -> None:
    sampler = PerTask(present, LABELS, batch_size, seed)
    slots = [draw for step in range(40) for draw in sampler(step)]
    assert len(set(slots)) == len(slots), "the same view twice"
    for turn, label in enumerate(LABELS):
        own = [place for place, labels in enumerate(present) if label in labels]
        stream = [draw.place for draw in slots[turn :: len(LABELS)]]
        for start in range(0, len(stream) - len(own) + 1, len(own)):
            assert sorted(stream[start : start + len(own)]) == own


def test_per_task_deals_every_batch_evenly() -> None:
    present = [frozenset({"semantic"})] * 50 + [frozenset({"depth"})] * 5 + [frozenset({"edges"})]
    sampler = PerTask(present, LABELS, 6, seed=0)
    for step in range(30):
        drawn = Counter(label for draw in sampler(step) for label in present[draw.place])
        assert drawn == {"semantic": 2, "depth": 2, "edges": 2}


@pytest.mark.parametrize(("name", "sampler"), [("per_task", PerTask), ("every_task", EveryTask)])
def test_a_label_that_nobody_has_is_named(name: str, sampler: type[PerTask | EveryTask]) -> None:
    with pytest.raises(
        ConfigurationError, match=f"{name} needs .* none of the 4 training samples has 'edges'"
    ):
        sampler([frozenset({"semantic", "depth"})] * 4, LABELS, 3, seed=0)


def test_many_labels_in_a_batch_that_hardly_holds_them() -> None:
    """Twelve labels in sets of one to three: too many to try all combinations."""
    labels = [f"label {k}" for k in range(12)]
    some = [frozenset(two) for two in itertools.combinations(labels, 3)] + [frozenset({k}) for k in labels]
    sampler = EveryTask(some, labels, batch_size=5, seed=0)
    (epoch,) = epochs(sampler, 1)
    assert all(covered(batch, some) == set(labels) for batch in epoch)
    assert {draw.place for batch in epoch for draw in batch} == set(range(len(some)))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@settings(max_examples=20)
@given(steps=st.lists(st.integers(0, 60), min_size=1, max_size=8), seed=st.integers(0, 3))
def test_a_step_s_samples_do_not_depend_on_what_was_asked_before(
    sampling: str, steps: list[int], seed: int
) -> None:
    data = Pictures([frozenset({LABELS[place % 3], "depth"}) for place in range(11)])

    def fresh() -> Sampler:
        return make_sampler(sampling, data, TASKS, 4, seed)

    one = fresh()
    assert [one(step) for step in steps] == [fresh()(step) for step in steps]


def test_unknown_names_and_silent_data_sets_are_one_sentence() -> None:
    data = Pictures([frozenset(LABELS)])
    with pytest.raises(ConfigurationError, match="did you mean 'every_task'"):
        make_sampler("every_tsk", data, TASKS, 2, 0)
    silent = Pictures([frozenset(LABELS)])
    silent.present = None  # type: ignore[assignment,method-assign]
    make_sampler("shuffled", silent, TASKS, 2, 0)
    for sampling in ("every_task", "per_task"):
        with pytest.raises(ConfigurationError, match="Pictures cannot say which labels"):
            make_sampler(sampling, silent, TASKS, 2, 0)


# --- in batches -----------------------------------------------------------------------------------------


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    taken = list(itertools.islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return taken


SPARSE = Pictures([frozenset({LABELS[0] if place % 6 else LABELS[1 + place % 2]}) for place in range(18)])
assert frozenset().union(*SPARSE.labels) == {"semantic", "depth"}


def sparse(sampling: str, count: int, **options: Any) -> list[Batch]:
    options = {"batch_size": 4, "sampling": sampling, **options}
    return take(train_batches(SPARSE, TASKS[:2], VIEW, **options), count)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_parts_and_processes_share_the_step_s_batch(sampling: str) -> None:
    whole = sparse(sampling, 6)
    parts = sparse(sampling, 12, batch_size=2, parts=2)
    ranks = [sparse(sampling, 6, rank=rank, world_size=2) for rank in (0, 1)]
    both = [sparse(sampling, 12, batch_size=2, parts=2, rank=rank, world_size=2) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        for pieces in (
            parts[2 * step : 2 * step + 2],
            [ranks[0][step], ranks[1][step]],
            [both[rank][2 * step + part] for part in (0, 1) for rank in (0, 1)],
        ):
            assert [name for piece in pieces for name in piece.ids] == list(batch.ids)
            assert torch.equal(torch.cat([piece.images for piece in pieces]), batch.images)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_resuming_goes_on_with_the_same_batches(sampling: str) -> None:
    through = sparse(sampling, 9)
    for start in (1, 4, 7):
        for expected, found in zip(through[start:], sparse(sampling, 2, start_step=start), strict=False):
            assert list(found.ids) == list(expected.ids)
            assert torch.equal(found.images, expected.images)


def test_every_step_has_every_task_though_its_parts_may_not() -> None:
    parts = sparse("every_task", 40, batch_size=1, parts=4)
    for start in range(0, 40, 4):
        for task in ("semseg", "depth"):
            assert any(part.present[task].any() for part in parts[start : start + 4])
    assert not all(part.present["depth"].any() for part in parts)
    assert not all(batch.present["depth"].any() for batch in sparse("shuffled", 40))


@pytest.mark.parametrize("sampling", ["every_task", "per_task"])
def test_a_sample_that_comes_again_in_an_epoch_is_seen_differently(sampling: str) -> None:
    data = Pictures([frozenset({"semantic"})] * 6 + [frozenset({"semantic", "depth"})])
    batches = take(train_batches(data, TASKS[:2], VIEW, batch_size=2, sampling=sampling), 6)
    views = [
        image
        for batch in batches
        for name, image in zip(batch.ids, batch.images, strict=True)
        if name == "p6"
    ]
    assert len(views) >= 6
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(views, 2))


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["every_task", "per_task"])
def test_workers_change_nothing(sampling: str) -> None:
    expected = sparse(sampling, 4, start_step=3)
    for first, second in zip(expected, sparse(sampling, 4, start_step=3, workers=2), strict=True):
        assert list(first.ids) == list(second.ids)
        assert torch.equal(first.images, second.images)


# --- in training ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_labelled(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = write_tiny_rooms(tmp_path_factory.mktemp("rooms"), images=(8, 2, 2), size=(32, 48))
    return parse(
        {
            "data": {"root": str(root), "partial": {"keep": "fraction", "fraction": 0.5}},
            "tasks": {
                "semantic": {"kind": "semantic", "classes": 20},
                "depth": {"kind": "depth"},
                "normals": {"kind": "normals"},
                "edges": {"kind": "edges"},
            },
            "model": {
                "backbone": "test_resnet",
                "pretrained": False,
                "decoder": {"name": "independent", "head": "linear"},
            },
            "augmentation": {"size": [32, 32]},
            "training": {"steps": 12, "batch_size": 4, "log_every": 1, "threads": 1, "precision": "fp32"},
        }
    )


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_half_of_the_labels_train_every_task(half_labelled: Recipe, tmp_path: Path, sampling: str) -> None:
    recipe = replace(half_labelled, {"data.sampling": sampling, "training.accumulate": 2})
    run = train(recipe, tmp_path / "run", progress=False)
    lines = [line for line in run.log if "loss" in line]
    assert len(lines) == 12
    for task in recipe.tasks:
        losses = [line["loss"][task] for line in lines]
        known = [loss for loss in losses if loss is not None]  # None: nothing was labelled for it
        assert known
        assert all(math.isfinite(loss) and loss > 0 for loss in known)
        if sampling != "shuffled":
            assert len(known) == 12, "each step sees each task"


def test_a_run_opens_each_split_once(
    half_labelled: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing a folder of a hundred thousand samples takes a while."""
    opened: Counter[str] = Counter()
    original = plait.data.create

    def create(*arguments: Any, **options: Any) -> Any:
        opened[options["split"]] += 1
        return original(*arguments, **options)

    monkeypatch.setattr(plait.data, "create", create)
    changes = {"training.steps": 4, "training.validate_every": 1}
    train(replace(half_labelled, changes), tmp_path / "run", progress=False)
    assert opened == {"train": 1, "val": 1, "test": 1}
