"""What trained runs say about images of their validation split: features and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.data.loader import evaluation_batches
from plait.data.sample import Batch, DataSet
from plait.errors import ConfigurationError
from plait.models.encoders.base import staged
from plait.models.network import MultiTaskNetwork
from plait.study.branching.affinity import products, standardised
from plait.study.qualitative import Part, spread
from plait.study.report import seen_size
from plait.tasks.base import Task
from plait.training.processes import join
from plait.training.run import Run

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]

ALIKE = (
    "model.backbone",
    "model.backbone_options",
    "data.name",
    "data.root",
    "data.options",
    "data.validation_split",
    "evaluation.size",
)
"""What must be the same in all runs, so that their features are of the same images at the same places."""


@dataclass(frozen=True)
class Subject:
    """A task, and the run whose network is asked about it."""

    task: Task
    run: Run


def subjects(runs: Sequence[Run]) -> tuple[Subject, ...]:
    """The tasks of trained runs, in the order of the runs and of each one's tasks.

    Raises:
        ConfigurationError: If a run is not finished, two know the same task, or they differ in backbone or
            data.
    """
    found: dict[str, Subject] = {}
    for run in runs:
        if not run.finished:
            raise ConfigurationError(
                f"{run.path} is not finished: "
                f"`plait train {run.path / 'recipe.yaml'} --out {run.path}` goes on with it"
            )
        for key in ALIKE:
            part, name = key.split(".")
            ours, theirs = (getattr(getattr(one.recipe, part), name) for one in (run, runs[0]))
            if ours != theirs:
                raise ConfigurationError(
                    f"{run.path} and {runs[0].path} cannot be compared: their {key} are {ours!r} and "
                    f"{theirs!r}; train them alike"
                )
        for task in run.tasks:
            if task.name in found:
                raise ConfigurationError(
                    f"{run.path} and {found[task.name].run.path} both know task {task.name!r}: "
                    f"give one run for each task"
                )
            found[task.name] = Subject(task, run)
    return tuple(found.values())


@torch.no_grad()
def dissimilarities(
    asked: Sequence[Subject], *, images: int = 100, memory: int = 2**29, progress: Progress | None = None
) -> Array:
    """How dissimilar images look to each task's network after each stage, two by two.

    The images are spread evenly over the validation split. Features of as many images as ``memory`` holds
    are kept at a time; those of the others are computed again for each such block.

    Args:
        asked: The tasks, each with a backbone of its own in its run.
        images: How many images; all if there are fewer.
        memory: Bytes of features that are kept at a time, at least those of two images.
        progress: Told of images done, over all tasks, and in all.

    Returns:
        ``[D, T, K, K]``, by :func:`~plait.study.branching.affinity.dissimilarity`.

    Raises:
        ConfigurationError: If a task has no backbone of its own, it has no stages, or images differ in size.
    """
    done, total = 0, 0

    def told(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    found: list[list[Tensor]] = []
    for _, group in groupby(asked, key=lambda subject: subject.run.path):
        own = list(group)
        run = own[0].run
        model = own_columns(run, [subject.task for subject in own])
        dataset = run.dataset(run.recipe.data.validation_split)
        places = spread(len(dataset), images)
        block = max(1, memory // (2 * feature_bytes(model, own[0].task.name, seen_size(run, dataset))))
        starts = range(0, len(places), block)
        if total == 0:
            total = len(asked) * sum(len(places) - start for start in starts)
        for subject in own:
            matrices: list[Tensor] = []
            for start in starts:
                held = features(model, subject, Part(dataset, places[start : start + block]), told)
                if not matrices:
                    matrices = [torch.zeros(len(places), len(places), dtype=torch.float64) for _ in held]
                for other in starts[start // block :]:
                    here = held
                    if other != start:
                        here = features(model, subject, Part(dataset, places[other : other + block]), told)
                    for matrix, one, two in zip(matrices, held, here, strict=True):
                        if one.shape[1] != two.shape[1]:
                            raise ConfigurationError(sizes_differ(run))
                        correlation = products(one, two).cpu()
                        matrix[start : start + len(one), other : other + len(two)] = correlation
                        matrix[other : other + len(two), start : start + len(one)] = correlation.T
            found.append([(1 - matrix).clamp(0, 2).fill_diagonal_(0) for matrix in matrices])
    return np.stack([np.stack([matrix.numpy() for matrix in task]) for task in found], axis=1)


def own_columns(run: Run, tasks: Sequence[Task]) -> MultiTaskNetwork:
    """A run's network, each of whose tasks has a backbone of its own.

    Raises:
        ConfigurationError: If that is not so, or the backbone has no stages.
    """
    model = run.model(join().device)
    columns = model.encoder.columns()
    if len({id(columns.get(task.name)) for task in tasks}) < len(tasks) or not columns:
        raise ConfigurationError(
            f"{run.path} has no backbone for each of its tasks ({', '.join(task.name for task in tasks)}), "
            f"so their features cannot be compared: give a single-task run for each, or one with encoder "
            f"'separate'"
        )
    staged(columns[tasks[0].name], "branched")
    return model


def feature_bytes(model: MultiTaskNetwork, task: str, size: tuple[int, int]) -> int:
    """Bytes of one image's features in all levels, in float32."""
    encoder = model.encoder
    return sum(
        4 * channels * -(-size[0] // stride) * -(-size[1] // stride)
        for channels, stride in zip(encoder.channels[task], encoder.strides[task], strict=True)
    )


def features(
    model: MultiTaskNetwork, subject: Subject, dataset: Part, told: Callable[[int], None]
) -> list[Tensor]:
    """The levels of images, flattened and standardised: ``[K, N]`` float32 each."""
    levels: list[list[Tensor]] = []
    for batch in batches(model, dataset, (), subject.run):
        pyramid = model.encoder(batch.images, [subject.task.name])[subject.task.name]
        rows = [standardised(level.float().flatten(1)) for level in pyramid]
        levels = [[*kept, row] for kept, row in zip(levels or [[]] * len(rows), rows, strict=True)]
        if levels[0][0].shape[1] != rows[0].shape[1]:
            raise ConfigurationError(sizes_differ(subject.run))
        told(len(batch.ids))
    return [torch.cat(rows) for rows in levels]


def sizes_differ(run: Run) -> str:
    """A sentence about images that cannot be compared place by place."""
    return (
        f"images of split {run.recipe.data.validation_split!r} differ in size, so their features cannot be "
        f"compared: train the runs with evaluation.size"
    )


def batches(model: MultiTaskNetwork, dataset: DataSet, tasks: Sequence[Task], run: Run) -> Iterator[Batch]:
    """Samples as the run evaluates them, where its network is."""
    device = next(model.parameters()).device
    own = run.recipe.evaluation
    for batch in evaluation_batches(dataset, tasks, own.size, model.normalisation, own.batch_size):
        yield batch.to(device)


@torch.no_grad()
def margins(asked: Sequence[Subject], *, images: int = 100, progress: Progress | None = None) -> Array:
    """The error of each task's network on each image: its loss over the known pixels of that image alone.

    Args:
        asked: The tasks.
        images: How many images, spread evenly over the validation split; all if there are fewer.
        progress: Told of images done, over all runs, and in all.

    Returns:
        ``[N, T]``, ``nan`` where an image has no label of a task.

    Raises:
        ConfigurationError: If a task is auxiliary, and so has no prediction of its own.
    """
    if hidden := [subject.task.name for subject in asked if subject.task.auxiliary]:
        raise ConfigurationError(
            f"task {hidden[0]!r} is auxiliary and has no final prediction whose error could be taken: "
            f"give a run in which it is a main task"
        )
    groups = [list(group) for _, group in groupby(asked, key=lambda subject: subject.run.path)]
    columns: list[list[float]] = []
    for number, own in enumerate(groups):
        run, tasks = own[0].run, [subject.task for subject in own]
        model = run.model(join().device)
        dataset = run.dataset(run.recipe.data.validation_split)
        chosen = Part(dataset, spread(len(dataset), images))
        errors: dict[str, list[float]] = {task.name: [] for task in tasks}
        for batch in batches(model, chosen, tasks, run):
            final = model(batch.images, [task.name for task in tasks]).final
            for task in tasks:
                for place in range(len(batch.ids)):
                    error = float("nan")
                    if batch.present[task.name][place]:
                        one = slice(place, place + 1)
                        error = float(task.loss(final[task.name][one], batch.targets[task.name][one]))
                    errors[task.name].append(error)
            if progress is not None:
                progress(number * len(chosen) + len(errors[tasks[0].name]), len(groups) * len(chosen))
        columns += [errors[task.name] for task in tasks]
    return np.array(columns).T
