"""Batches depend on their step alone: not on workers, processes, resuming or who asked before."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.data.labels import Depth, Label, Semantic
from plait.data.loader import ahead, drawn_batches, evaluation_batches, train_batches
from plait.data.rooms.dataset import Rooms
from plait.data.sample import Batch, Geometry, Sample
from plait.data.sampling import epoch_order
from plait.data.transforms import Augmentation, undo
from plait.errors import ConfigurationError, DataError
from plait.tasks import parse
from plait.testing import write_tiny_rooms

TASKS = parse({"semseg": {"kind": "semantic", "classes": 20}, "depth": {"kind": "depth"}})
VIEW = Augmentation((16, 20), scale=(1.0, 1.4))


@dataclass
class Pictures:
    """A data set in memory; sample ``i`` has depth unless ``i % 3 == 0``, classes unless ``i % 2 == 0``."""

    count: int = 7
    sizes: Sequence[tuple[int, int]] = ((24, 32),)
    broken: Mapping[int, Label] = field(default_factory=dict)
    split: str = "train"
    fields = {"semantic": Semantic, "depth": Depth}  # noqa: RUF012
    classes = {"semantic": [str(k) for k in range(20)]}  # noqa: RUF012

    def __len__(self) -> int:
        return self.count

    def id(self, place: int) -> str:
        return f"p{place}"

    def __getitem__(self, place: int) -> Sample:
        size = self.sizes[place % len(self.sizes)]
        random = torch.Generator().manual_seed(place)
        image = torch.randint(0, 255, (3, *size), generator=random, dtype=torch.uint8)
        targets: dict[str, Label] = {}
        if place % 3:
            targets["depth"] = Depth(torch.rand(1, *size, generator=random) + 1)
        if place % 2:
            targets["semantic"] = Semantic(torch.randint(0, 20, (1, *size), generator=random))
        if place in self.broken:
            broken = self.broken[place]
            targets["depth" if isinstance(broken, Depth) else "semantic"] = broken
        return Sample(self.id(place), image, targets, Geometry(size))


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    root = write_tiny_rooms(tmp_path_factory.mktemp("rooms"), images=(7, 2, 2), size=(24, 32))
    return Rooms("train", ["semantic", "depth"], root)


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    taken = list(itertools.islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return taken


def assert_same(first: Batch, second: Batch) -> None:
    assert list(first.ids) == list(second.ids)
    assert torch.equal(first.images, second.images)
    assert first.targets.keys() == second.targets.keys()
    for task in first.targets:
        torch.testing.assert_close(first.targets[task], second.targets[task], rtol=0, atol=0, equal_nan=True)
    for task in first.present:
        assert torch.equal(first.present[task], second.present[task])


def test_a_batch_is_what_it_says(rooms: Rooms) -> None:
    mean, deviation = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    (batch,) = take(train_batches(rooms, TASKS, VIEW, (mean, deviation), batch_size=3), 1)
    assert batch.images.shape == (3, 3, 16, 20)
    assert batch.images.dtype == torch.float32
    levels = batch.images * torch.tensor(deviation)[:, None, None] + torch.tensor(mean)[:, None, None]
    assert levels.min() >= -1e-6
    assert levels.max() <= 1 + 1e-6
    assert batch.targets["semseg"].shape == batch.targets["depth"].shape == (3, 1, 16, 20)
    assert type(batch.targets["depth"]) is Tensor
    assert all(present.tolist() == [True] * 3 for present in batch.present.values())
    assert len(batch.geometry) == 3


def test_present_is_what_the_loss_counts() -> None:
    """A label of which nothing is counted is as good as none."""
    tasks = parse(
        {
            "all": {"kind": "semantic", "classes": 20},
            "few": {"kind": "semantic", "classes": 20, "ignore": list(range(1, 20))},
            "none": {"kind": "semantic", "classes": 20, "ignore": list(range(20))},
            "depth": {"kind": "depth"},
        }
    )
    broken = {3: Semantic(torch.full((1, 24, 32), 7)), 5: Semantic(torch.zeros(1, 24, 32, dtype=torch.int64))}
    (batch,) = take(evaluation_batches(Pictures(broken=broken), tasks, batch_size=7), 1)  # type: ignore[arg-type]
    known = [False, True, False, True, False, True, False]
    assert batch.present["all"].tolist() == known
    assert batch.present["few"].tolist() == [*known[:3], False, *known[4:]]
    assert batch.present["none"].tolist() == [False] * 7
    assert batch.present["depth"].tolist() == [False, True, True, False, True, True, False]


@pytest.mark.parametrize("row", [0, 63, 64, 127])
def test_a_single_known_row_anywhere_is_present(row: int) -> None:
    """A strip across the middle is looked at first, and what is not in it is found as well."""

    @dataclass
    class Row(Pictures):
        def __getitem__(self, place: int) -> Sample:
            depth = torch.full((1, 128, 8), torch.nan)
            if place:
                depth[:, row] = 2
            image = torch.zeros(3, 128, 8, dtype=torch.uint8)
            return Sample(self.id(place), image, {"depth": Depth(depth)}, Geometry((128, 8)))

    (batch,) = take(evaluation_batches(Row(2), TASKS, batch_size=2), 1)
    assert batch.present["depth"].tolist() == [False, True]


@settings(deadline=None, max_examples=15)
@given(
    count=st.integers(1, 9),
    batch_size=st.sampled_from([1, 2, 4, 6]),
    start=st.integers(0, 12),
    seed=st.integers(0, 5),
)
def test_resuming_at_any_step_goes_on_with_the_same_batches(
    count: int, batch_size: int, start: int, seed: int
) -> None:
    data = Pictures(count)
    through = take(train_batches(data, TASKS, VIEW, batch_size=batch_size, seed=seed), start + 2)
    resumed = take(train_batches(data, TASKS, VIEW, batch_size=batch_size, seed=seed, start_step=start), 2)
    for first, second in zip(through[start:], resumed, strict=True):
        assert_same(first, second)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_global_batch(rooms: Rooms, world_size: int) -> None:
    whole = take(train_batches(rooms, TASKS, VIEW, batch_size=6, seed=3), 3)
    shares = [
        take(train_batches(rooms, TASKS, VIEW, batch_size=6, seed=3, rank=r, world_size=world_size), 3)
        for r in range(world_size)
    ]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[step].images for share in shares]), batch.images)
        assert [name for share in shares for name in share[step].ids] == list(batch.ids)


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    batches = take(train_batches(Pictures(7), TASKS, VIEW, batch_size=2, seed=1), 14)
    names = [name for batch in batches for name in batch.ids]
    epochs = [names[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == sorted(f"p{k}" for k in range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert sorted(epoch_order(50, 0, 3)) == list(range(50))
    assert list(epoch_order(50, 0, 3)) != list(epoch_order(50, 1, 3))
    assert list(epoch_order(7, 3, 2)) == [2, 5, 3, 1, 4, 6, 0], "stored results rest on this order"


def test_views_differ_between_epochs_and_seeds() -> None:
    one = Pictures(1)
    first, second = take(train_batches(one, TASKS, VIEW, batch_size=1), 2)
    assert not torch.equal(first.images, second.images)
    (other,) = take(train_batches(one, TASKS, VIEW, batch_size=1, seed=1), 1)
    assert not torch.equal(first.images, other.images)


def test_absent_labels_are_unknown_and_said_to_be_absent() -> None:
    for batch in take(train_batches(Pictures(6), TASKS, VIEW, batch_size=3), 4):
        for row, name in enumerate(batch.ids):
            place = int(name[1:])
            assert batch.present["depth"][row] == bool(place % 3)
            assert batch.present["semseg"][row] == bool(place % 2)
            if place % 3 == 0 and "depth" in batch.targets:
                assert batch.targets["depth"][row].isnan().all()
            if place % 2 == 0 and "semseg" in batch.targets:
                assert (batch.targets["semseg"][row] == 255).all()


def test_a_task_that_nobody_is_labelled_for_is_absent_from_the_batch() -> None:
    (batch,) = take(train_batches(Pictures(1), TASKS, VIEW, batch_size=2), 1)
    assert batch.targets == {}
    assert {name: present.tolist() for name, present in batch.present.items()} == {
        "semseg": [False, False],
        "depth": [False, False],
    }


@pytest.mark.parametrize("size", [None, (24, 32), (30, 30), (12, 50)])
@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_evaluation_sees_every_sample_once_with_its_own_labels(
    size: tuple[int, int] | None, world_size: int
) -> None:
    data = Pictures(7, sizes=((24, 32), (24, 32), (20, 36)))
    seen: dict[str, tuple[Mapping[str, Tensor], torch.Size]] = {}
    for rank in range(world_size):
        for batch in evaluation_batches(data, TASKS, size, batch_size=3, rank=rank, world_size=world_size):
            assert len(batch.ids) == len(batch.labels) == len(batch.images) == len(batch.geometry) <= 3
            for row, name in enumerate(batch.ids):
                assert name not in seen
                seen[name] = (batch.labels[row], undo(batch.images[row], batch.geometry[row]).shape)
                for task in batch.targets.values():
                    assert task.shape[-2:] == batch.images.shape[-2:]
    assert set(seen) == {f"p{k}" for k in range(7)}
    for place in range(7):
        sample = data[place]
        labels, back = seen[f"p{place}"]
        assert back == sample.image.shape
        assert len(labels) == len(sample.targets)
        for task in TASKS:
            if task.name in labels:
                assert torch.equal(labels[task.name], sample.targets[task.label].as_subclass(Tensor))


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (Semantic(torch.full((1, 24, 32), 20)), r"sample p1.*'semantic'.*20"),
        (Semantic(torch.full((1, 24, 32), -1)), r"sample p1.*'semantic'.*-1"),
        (Depth(torch.full((1, 24, 32), -1.0)), r"sample p1.*'depth'.*-1"),
        (Depth(torch.full((1, 24, 32), float("inf"))), r"sample p1.*'depth'.*infinity"),
        (Depth(torch.ones(1, 20, 32)), r"sample p1.*'depth'.*size"),
        (Depth(torch.ones(3, 24, 32)), r"sample p1.*depth.*channel"),
    ],
)
def test_labels_out_of_range_are_named(broken: Label, sentence: str) -> None:
    data = Pictures(3, broken={1: broken})
    with pytest.raises(DataError, match=sentence):
        list(evaluation_batches(data, TASKS, batch_size=1))
    with pytest.raises(DataError, match=sentence):
        take(train_batches(data, TASKS, VIEW, batch_size=1), 4)


@pytest.mark.parametrize(
    ("image", "found"),
    [(torch.rand(3, 24, 32), "float32"), (torch.zeros(1, 24, 32, dtype=torch.uint8), "1, 24, 32")],
)
def test_an_image_of_another_type_is_named(image: Tensor, found: str) -> None:
    """On the way to the device, too: a float image in [0, 1] would become black there."""

    class Odd(Pictures):
        def __getitem__(self, place: int) -> Sample:
            return replace(super().__getitem__(place), image=image)

    for give in (train_batches, drawn_batches):
        with pytest.raises(DataError, match=rf"sample p.: expected an image uint8 .*{found}"):
            next(give(Odd(2), TASKS, VIEW, batch_size=1))
    with pytest.raises(DataError, match="sample p0: expected an image uint8"):
        next(evaluation_batches(Odd(2), TASKS, batch_size=1))


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 3, "world_size": 2}, {"batch_size": 0}, {"rank": 2, "world_size": 2}, {"workers": -1}],
)
def test_impossible_shares_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        next(train_batches(Pictures(4), TASKS, VIEW, **options))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no samples"):
        train_batches(Pictures(0), TASKS, VIEW)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "plait batches"]


def test_the_thread_ends_with_the_iterator() -> None:
    batches = train_batches(Pictures(4), TASKS, VIEW, batch_size=2)
    next(batches)
    assert threads()
    del batches
    assert not threads()
    list(evaluation_batches(Pictures(4), TASKS))
    assert not threads()


def test_ahead_keeps_order_and_raises_in_place() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise DataError("the sixth is damaged")

    made = ahead(items())
    assert list(itertools.islice(made, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="sixth"):
        next(made)
    assert not threads()


def test_ahead_has_one_thread_of_torch_and_leaves_ours_alone() -> None:
    """A second team of threads would make libgomp put both to sleep between operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        made = ahead((torch.zeros(10**6).sin(), torch.get_num_threads())[1] for _ in range(3))
        assert next(made) == 1
        assert torch.get_num_threads() == 2
        assert list(made) == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_ahead_works_at_most_so_far_ahead() -> None:
    made: list[int] = []
    iterator = ahead((made.append(k) or k for k in range(100)), depth=2)
    assert next(iterator) == 0
    time.sleep(0.05)
    assert len(made) <= 5
    iterator.close()  # type: ignore[attr-defined]


# --- worker processes -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_change_nothing(rooms: Rooms) -> None:
    expected = take(train_batches(rooms, TASKS, VIEW, batch_size=4, start_step=2), 4)
    for workers in (1, 2):
        found = take(train_batches(rooms, TASKS, VIEW, batch_size=4, start_step=2, workers=workers), 4)
        for first, second in zip(expected, found, strict=True):
            assert_same(first, second)
    whole = list(evaluation_batches(rooms, TASKS, batch_size=3))
    for first, second in zip(whole, evaluation_batches(rooms, TASKS, batch_size=3, workers=2), strict=True):
        assert_same(first, second)


PROGRAM = """
import multiprocessing, os, sys
from plait.data.loader import train_batches
from plait.data.rooms.dataset import Rooms
from plait.data.transforms import Augmentation
from plait.tasks import parse

if __name__ == "__main__":
    rooms = Rooms("train", ["depth"], sys.argv[1])
    batches = train_batches(rooms, parse({"depth": {"kind": "depth"}}), Augmentation((16, 16)), workers=2)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    sys.stdin.readline()
    for _ in range(100):
        next(batches)
"""


def started(tmp_path: Path, root: Path) -> tuple[subprocess.Popen[str], list[int]]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(program), str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes in /proc")
def test_a_dead_worker_is_one_sentence(rooms: Rooms, tmp_path: Path) -> None:
    process, workers = started(tmp_path, rooms.root)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate("\n", timeout=60)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("plait.errors.DataError: a worker process")
    assert not any(alive(pid) for pid in workers)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes in /proc")
def test_workers_end_with_a_killed_parent(rooms: Rooms, tmp_path: Path) -> None:
    process, workers = started(tmp_path, rooms.root)
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < end, "a worker outlived the process that started it"
        time.sleep(0.05)


def test_a_dropped_iterator_may_be_collected_by_its_own_thread() -> None:
    """The garbage collector runs in any thread, also in the one that prepares the items."""
    dropped, collected = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        dropped.wait(10)
        gc.collect()
        collected.set()
        yield 1

    gc.disable()  # so that it is the thread that collects
    try:
        cycle: list[object] = [ahead(items())]
        cycle.append(cycle)
        assert next(cycle[0]) == 0  # type: ignore[call-overload]
        del cycle
        dropped.set()
        assert collected.wait(10)
    finally:
        gc.enable()
