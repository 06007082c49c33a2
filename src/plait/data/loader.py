"""From a data set to batches, the same ones for any number of workers and processes, and after a resume.

A training batch is a function of its step's number: :mod:`plait.data.sampling` draws its samples from the
seed and the step, a sample's augmentation is drawn from ``(seed, epoch, sample id)``, and the global batch of
a step is cut into equal parts, one a process. So there is no state to save beside the step.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from plait.data.device import DrawnBatch, View, require_device_kernels
from plait.data.labels import Label
from plait.data.sample import Batch, DataSet, Sample
from plait.data.sampling import Sampler, make_sampler
from plait.data.transforms import Augmentation, EvaluationResize, random_numbers, warp_label
from plait.data.warp import Warp
from plait.errors import ConfigurationError, DataError
from plait.tasks.base import Task

Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel, for images in [0, 1]."""

IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

T = TypeVar("T")


def train_batches(
    dataset: DataSet,
    tasks: Sequence[Task],
    augmentation: Augmentation,
    normalisation: Normalisation = IMAGENET,
    batch_size: int = 8,
    seed: int = 0,
    start_step: int = 0,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    *,
    sampling: str = "shuffled",
    parts: int = 1,
) -> Iterator[Batch]:
    """Augmented batches without end, from batch ``start_step`` on.

    Shuffled batches run on over the ends of epochs: batch ``k`` takes samples ``k * batch_size`` onwards of
    the epochs laid end to end, so each epoch gives every sample once.

    Args:
        dataset: Samples, whose labels the tasks name in their ``label``.
        tasks: What is trained.
        augmentation: The random views.
        normalisation: Mean and standard deviation of the backbone.
        batch_size: Samples of a global batch, over all processes.
        seed: Of order and augmentation.
        start_step: The number of the first batch to give.
        workers: Processes that prepare batches. 0 prepares the next batch in a thread beside the step,
            which is enough where a core prepares more samples than the network takes.
        rank: Which part of each global batch this process gets.
        world_size: How many such parts there are.
        sampling: Which samples make a batch: ``shuffled``, ``every_task`` or ``per_task``; see
            :mod:`plait.data.sampling`.
        parts: So many batches, one after the other, make up one step; what a sampling says of batches, it
            says of theirs together.

    Raises:
        ConfigurationError: If the batch cannot be split evenly, no sample is there, or the samples cannot be
            had in that way.
        DataError: While iterating, if a sample is unreadable or its labels out of range; names it.
    """
    drawn = _drawn_samples(
        dataset, tasks, augmentation, normalisation, batch_size, seed, rank, world_size, sampling, parts
    )
    return _prepared(_TrainingStream(drawn), range(start_step, 2**62), workers)


def drawn_batches(
    dataset: DataSet,
    tasks: Sequence[Task],
    augmentation: Augmentation,
    normalisation: Normalisation = IMAGENET,
    batch_size: int = 8,
    seed: int = 0,
    start_step: int = 0,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    *,
    sampling: str = "shuffled",
    parts: int = 1,
) -> Iterator[DrawnBatch]:
    """The batches of :func:`train_batches` before their views are made, which ``to(device)`` does there.

    Args and errors are those of :func:`train_batches`.

    Raises:
        ConfigurationError: Also if a label type cannot be warped on a device.
    """
    require_device_kernels(dataset, tasks)
    drawn = _drawn_samples(
        dataset, tasks, augmentation, normalisation, batch_size, seed, rank, world_size, sampling, parts
    )
    return _prepared(_DrawnStream(drawn), range(start_step, 2**62), workers)


def _drawn_samples(
    dataset: DataSet,
    tasks: Sequence[Task],
    augmentation: Augmentation,
    normalisation: Normalisation,
    batch_size: int,
    seed: int,
    rank: int,
    world_size: int,
    sampling: str,
    parts: int,
) -> _DrawnSamples:
    _check_shares(batch_size, rank, world_size)
    if len(dataset) == 0:
        raise ConfigurationError(f"the split {dataset.split!r} has no samples to train on")
    sampler = make_sampler(sampling, dataset, tasks, batch_size * parts, seed)
    source = _Source(dataset, tuple(tasks), normalisation)
    return _DrawnSamples(source, augmentation, sampler, seed, parts, rank, world_size)


def evaluation_batches(
    dataset: DataSet,
    tasks: Sequence[Task],
    size: tuple[int, int] | None = None,
    normalisation: Normalisation = IMAGENET,
    batch_size: int = 8,
    rank: int = 0,
    world_size: int = 1,
    *,
    keep_aspect: bool = True,
    workers: int = 0,
) -> Iterator[Batch]:
    """Every sample once over all processes, in order, with its labels at their own size.

    Args:
        dataset: Samples.
        tasks: What is evaluated.
        size: The network's input: pictures are fitted inside and padded with the mean colour (or
            stretched). None keeps their size; a picture of another size then begins a new batch, so that
            batching never changes a prediction.
        normalisation: Mean and standard deviation of the backbone.
        batch_size: Samples a batch of this process; the last may be smaller.
        rank: Process ``r`` gets samples ``r``, ``r + world_size``, ...
        world_size: How many processes there are; one may get a sample more than another, or none.
        keep_aspect: Pad rather than stretch.
        workers: As in :func:`train_batches`.

    Raises:
        DataError: While iterating, as :func:`train_batches`.
    """
    if batch_size < 1 or not 0 <= rank < world_size:
        raise ConfigurationError(f"batch_size {batch_size} or rank {rank} of {world_size} makes no sense")
    source = _Source(dataset, tuple(tasks), normalisation)
    resize = EvaluationResize(size, keep_aspect)
    places = range(rank, len(dataset), world_size)
    if size is None:
        return _groups_of_one_size(source, resize, places, batch_size, workers)
    groups = [places[start : start + batch_size] for start in range(0, len(places), batch_size)]
    return _prepared(_EvaluationStream(source, resize, groups), range(len(groups)), workers)


# --- batches --------------------------------------------------------------------------------------------


@dataclass
class _Source:
    """Reads and checks samples, and makes batches of them."""

    dataset: DataSet
    tasks: tuple[Task, ...]
    normalisation: Normalisation
    checked: set[int] = field(default_factory=set)

    def read(self, place: int) -> Sample:
        """A sample; its labels are checked the first time that this process reads it."""
        sample = self.dataset[place]
        if place not in self.checked:
            check_sample(sample, self.tasks)
            self.checked.add(place)
        return sample

    def batch(self, samples: Sequence[Sample], labels: Sequence[Mapping[str, Tensor]] = ()) -> Batch:
        mean, deviation = (np.asarray(part, dtype=np.float32) for part in self.normalisation)
        images = np.stack([sample.image.numpy() for sample in samples])
        images -= mean[:, None, None]
        images *= (1 / deviation)[:, None, None]
        fields = _stacked_labels(samples, {task.label: task.label_type for task in self.tasks})
        return Batch(
            images=torch.from_numpy(images),
            targets={task.name: fields[task.label] for task in self.tasks if task.label in fields},
            present={task.name: _counted(task, fields.get(task.label), len(samples)) for task in self.tasks},
            ids=[sample.id for sample in samples],
            geometry=[sample.geometry for sample in samples],
            labels=labels,
        )


def _stacked_labels(samples: Sequence[Sample], types: Mapping[str, type[Label]]) -> dict[str, Tensor]:
    """``{label: [B, C, H, W]}`` of the labels that a sample has."""
    stacked = {}
    for name, label_type in types.items():
        if any(name in sample.targets for sample in samples):
            maps = [
                sample.targets[name].as_subclass(Tensor)
                if name in sample.targets
                else label_type.unknown_like(sample.image.shape[-2], sample.image.shape[-1])
                for sample in samples
            ]
            stacked[name] = torch.stack(maps)
    return stacked


def _counted(task: Task, target: Tensor | None, samples: int) -> Tensor:
    """Whether each sample counts in the task's loss, bool ``[B]``: one of unknown pixels alone does not."""
    if target is None:
        return torch.zeros(samples, dtype=torch.bool)
    strip = target[:, :, _middle(target.shape[2])]
    return torch.tensor(
        [_counts(task, part) or _counts(task, one) for part, one in zip(strip, target, strict=True)]
    )


def _counts(task: Task, target: Tensor) -> bool:
    """Whether anything of a label ``[C, H, W]`` counts in the task's loss."""
    return bool(task.loss.counts(target[None]).any())


def _middle(height: int) -> slice:
    """A strip of rows; in most labels something counts there, and the rest need not be looked at."""
    return slice(height * 7 // 16, height * 9 // 16) if height >= 64 else slice(0, height)


def check_sample(sample: Sample, tasks: Sequence[Task]) -> None:
    """Raises :class:`DataError` if image or label is not of its type, size or range; names the sample."""
    from plait.tasks.check import check_label  # tasks import the label types of this package

    size = tuple(sample.image.shape[-2:])
    if sample.image.dtype != torch.uint8 or sample.image.shape[:-2] != (3,):
        found = f"{str(sample.image.dtype).removeprefix('torch.')} {list(sample.image.shape)}"
        raise DataError(f"sample {sample.id}: expected an image uint8 [3, H, W], found {found}")
    for task in tasks:
        if task.label not in sample.targets:
            continue
        target = sample.targets[task.label].as_subclass(Tensor)
        where = f"sample {sample.id}, label {task.label!r}"
        if tuple(target.shape[-2:]) != size:
            raise DataError(
                f"{where}: expected the image's size {size}, found {tuple(target.shape[-2:])}; image and "
                f"labels of a sample must have one size"
            )
        if target.is_floating_point() and target.isinf().any():
            raise DataError(f"{where}: expected finite values, or NaN where unknown, found infinity")
        check_label(task, target, where)


# --- streams: a number to a batch -----------------------------------------------------------------------


@dataclass
class _DrawnSamples:
    """A batch's number to this process's samples of it, each with the random numbers of its view."""

    source: _Source
    augmentation: Augmentation
    sampler: Sampler
    seed: int
    parts: int = 1
    rank: int = 0
    world_size: int = 1

    def __call__(self, number: int) -> Iterator[tuple[Sample, np.random.Generator]]:
        step, part = divmod(number, self.parts)
        draws = self.sampler(step)
        share = len(draws) // (self.parts * self.world_size)
        first = (part * self.world_size + self.rank) * share
        for draw in draws[first : first + share]:
            sample = self.source.read(draw.place)
            yield sample, random_numbers(self.seed, draw.epoch, sample.id, draw.repeat)


@dataclass
class _TrainingStream:
    drawn: _DrawnSamples

    def __call__(self, number: int) -> Batch:
        views = [self.drawn.augmentation(sample, random) for sample, random in self.drawn(number)]
        return self.drawn.source.batch(views)


@dataclass
class _DrawnStream:
    drawn: _DrawnSamples

    def __call__(self, number: int) -> DrawnBatch:
        samples, views = [], []
        for sample, random in self.drawn(number):
            samples.append(sample)
            size = (sample.image.shape[-2], sample.image.shape[-1])
            warp = self.drawn.augmentation.warp(size, random)
            views.append(View(warp, *self.drawn.augmentation.colours(random)))
        source = self.drawn.source
        present = {
            task.name: torch.tensor(
                [
                    task.label in sample.targets
                    and _counts_after(task, sample.targets[task.label], view.warp)
                    for sample, view in zip(samples, views, strict=True)
                ]
            )
            for task in source.tasks
        }
        return DrawnBatch.of(samples, views, source.tasks, source.normalisation, present)


def _counts_after(task: Task, label: Label, warp: Warp) -> bool:
    """Whether anything of a label counts in the task's loss after a warp."""
    height, width = warp.size
    middle = _middle(height)
    strip = warp.windowed(middle.start, 0, (middle.stop - middle.start, width))
    return any(_counts(task, warp_label(label, part).as_subclass(Tensor)) for part in (strip, warp))


@dataclass
class _EvaluationStream:
    source: _Source
    resize: EvaluationResize
    groups: Sequence[Sequence[int]]

    def __call__(self, number: int) -> Batch:
        read = [self.source.read(place) for place in self.groups[number]]
        return self.source.batch([self.resize(sample) for sample in read], self.labels(read))

    def labels(self, samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
        return [
            {
                task.name: sample.targets[task.label].as_subclass(Tensor)
                for task in self.source.tasks
                if task.label in sample.targets
            }
            for sample in samples
        ]


def _groups_of_one_size(
    source: _Source, resize: EvaluationResize, places: Sequence[int], batch_size: int, workers: int
) -> Iterator[Batch]:
    """Batches of neighbours that have one size; sizes are only known once a sample is read."""
    single = _EvaluationStream(source, resize, [[place] for place in places])
    waiting: list[Batch] = []
    for one in _prepared(single, range(len(places)), workers):
        if waiting and (len(waiting) == batch_size or one.images.shape != waiting[0].images.shape):
            yield _joined(waiting, source.tasks)
            waiting = []
        waiting.append(one)
    if waiting:
        yield _joined(waiting, source.tasks)


def _joined(batches: Sequence[Batch], tasks: Sequence[Task]) -> Batch:
    height, width = batches[0].images.shape[-2:]
    targets = {}
    for task in tasks:
        if any(task.name in batch.targets for batch in batches):
            unknown = task.label_type.unknown_like(height, width)[None]
            targets[task.name] = torch.cat([batch.targets.get(task.name, unknown) for batch in batches])
    return Batch(
        images=torch.cat([batch.images for batch in batches]),
        targets=targets,
        present={task.name: torch.cat([batch.present[task.name] for batch in batches]) for task in tasks},
        ids=[name for batch in batches for name in batch.ids],
        geometry=[geometry for batch in batches for geometry in batch.geometry],
        labels=[labels for batch in batches for labels in batch.labels],
    )


def _check_shares(batch_size: int, rank: int, world_size: int) -> None:
    if batch_size < 1 or world_size < 1 or batch_size % world_size:
        raise ConfigurationError(
            f"a global batch of {batch_size} cannot be split evenly over {world_size} processes; "
            f"choose a multiple of {world_size}"
        )
    if not 0 <= rank < world_size:
        raise ConfigurationError(f"rank must be in 0..{world_size - 1}, got {rank}")


# --- preparing batches ahead ----------------------------------------------------------------------------


def _prepared(make: Callable[[int], T], numbers: range, workers: int) -> Iterator[T]:
    """``make(number)`` for each number, prepared by worker processes or by one thread."""
    if workers < 0:
        raise ConfigurationError(f"workers must be 0 (a thread) or more processes, got {workers}")
    return _from_workers(make, numbers, workers) if workers else ahead(make(number) for number in numbers)


def ahead(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The same items, up to ``depth`` of them made in advance by a thread.

    An error while making an item is raised where that item would have come. Closing (or dropping) the
    iterator stops the thread.
    """
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(ok: bool, item: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put((ok, item), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        torch.set_num_threads(1)  # with a second team of threads, that of the step would sleep, not spin
        torch.get_num_threads()  # settles it: a thread's first operation takes over the number set last
        begun.set()
        try:
            for item in items:
                if not put(True, item):
                    return
            put(False, StopIteration())
        except BaseException as error:  # noqa: BLE001  whatever it is, it is raised by the consumer
            put(False, error)

    threads, begun = torch.get_num_threads(), threading.Event()
    thread = threading.Thread(target=work, name="plait batches", daemon=True)
    thread.start()
    begun.wait()
    torch.set_num_threads(threads)  # torch has one number for this thread, and one for those to come
    try:
        while True:
            ok, item = ready.get()
            if ok:
                yield item
            elif isinstance(item, StopIteration):
                return
            else:
                raise item
    finally:
        stopped.set()
        if thread is not threading.current_thread():  # which may collect a dropped iterator as garbage
            thread.join()


def _from_workers(make: Callable[[int], T], numbers: range, workers: int) -> Iterator[T]:
    # Never forked: this process has threads (of torch, and the user's own), and locks do not survive that.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(make,),
    )
    pending: deque[Future[T]] = deque()
    try:
        for number in numbers:
            pending.append(pool.submit(_work, number))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process that prepares batches died, often for lack of memory; use fewer workers, or "
            "workers: 0"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_making: list[Callable[[int], Any]] = []
"""In a worker process: what it makes, received once at its start. Empty everywhere else."""


def _start_worker(make: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that owns the workers ends them
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _making[:] = [make]


def _leave_with_parent() -> None:
    """Ends this worker when the process that started it is gone, even if it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(number: int) -> Any:
    return _making[0](number)
