"""The same held-out images for all arms: some evenly spread, and for each task the worst and the best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from plait.metrics.additive import additive
from plait.study.cores import usable_cores
from plait.study.qualitative import Part, Pixels, Row, data_uri, plain, rows, spread
from plait.study.report import whole_dataset
from plait.training.evaluate import predictions, scored_tasks
from plait.training.tuning import idle_threads, threads

if TYPE_CHECKING:
    from plait.data.sample import DataSet
    from plait.study.results import ArmResult, StudyResults
    from plait.tasks.base import Legend, Task
    from plait.training.run import Run

LOOKED_AT = 40
"""Images that are scored to find extreme ones where a run has no statistics."""
SIDE = 256
"""Pixels of a picture's longer side at most."""
BYTES = 4_000_000
"""Of all pictures of a study, about; where they are more, they are made smaller."""
SMALLEST = 64

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Why an image is shown.

    Attributes:
        place: In the test split.
        why: In words.
        tasks: Which tasks' maps are shown of it.
    """

    place: int
    why: str
    tasks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image with the maps of all arms.

    Attributes:
        row: Its pictures.
        why: Why it was chosen.
        tasks: Which tasks' maps are shown.
    """

    row: Row
    why: str
    tasks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What is shown of a study.

    Attributes:
        shown: The images.
        tasks: By name, for their legends.
        notes: How they were chosen, a sentence each.
    """

    shown: tuple[Shown, ...]
    tasks: Mapping[str, Task]
    notes: tuple[str, ...]


def draw(results: StudyResults, *, images: int = 4, device: torch.device | str = "cpu") -> Gallery:
    """Draws the first seed of every arm on the same images; one arm's networks are in memory at a time.

    Args:
        results: The study.
        images: How many images evenly spread over the test split; to them come, for each task, the image on
            which the arms do worst and the one on which they do best, by the mean over arms of the headline
            measure on that image alone.
        device: Where to compute.

    Raises:
        CheckpointError: If a run's checkpoint is not there.
    """
    arms = [arm for arm in results.arms if arm.seeds]
    if not arms:
        return Gallery(shown=(), tasks=results.tasks, notes=("No arm has finished.",))
    runs = [run for arm in arms for run in arm.seeds[0].runs]
    dataset = whole_dataset(runs, runs[0].recipe.data.test_split)
    with threads(idle_threads(min(usable_cores(), torch.get_num_threads()))):
        even = [
            Choice(place=place, why="evenly spread", tasks=tuple(results.tasks))
            for place in spread(len(dataset), images)
        ]
        extreme, among = extremes(results, arms, dataset, device)
        chosen = [*even, *extreme]
        places = list(dict.fromkeys(choice.place for choice in chosen))
        drawn = whole_rows(arms, dataset, places, device)
    shown = tuple(Shown(row=drawn[c.place], why=c.why, tasks=c.tasks) for c in chosen)
    return Gallery(shown=shown, tasks=results.tasks, notes=tuple(notes(len(even), len(dataset), among, arms)))


def notes(even: int, images: int, among: int, arms: Sequence[ArmResult]) -> Iterator[str]:
    """How images were chosen."""
    part = "" if among >= images else f" of {among} that were looked at"
    yield (
        f"{even} images spread evenly over the {images} of the test split, chosen by position and not by "
        f"result; and for each task the image{part} on which the arms' mean is worst and the one on which it "
        f"is best, by the headline measure on that image alone."
    )
    seeds = sorted({arm.seeds[0].seed for arm in arms})
    yield f"Predictions are of each arm's first seed ({', '.join(map(str, seeds))})."


def whole_rows(
    arms: Sequence[ArmResult], dataset: DataSet, places: Sequence[int], device: torch.device | str
) -> dict[int, Row]:
    """The images with the maps of all arms, by place."""
    found: dict[int, Row] = {}
    for arm in arms:
        networks = [run.model(device) for run in arm.seeds[0].runs]
        made = rows(dataset, places, {arm.name: networks}, evaluation=arm.recipe.evaluation)
        for place, row in zip(places, made, strict=True):
            found[place] = joined(found[place], row) if place in found else row
    return found


def joined(one: Row, other: Row) -> Row:
    """The same image with the maps of both."""
    tasks = dict.fromkeys([*one.predictions, *other.predictions])
    return dataclasses.replace(
        one,
        targets={**other.targets, **one.targets},
        predictions={
            task: {**one.predictions.get(task, {}), **other.predictions.get(task, {})} for task in tasks
        },
    )


# The worst and the best.


def extremes(
    results: StudyResults, arms: Sequence[ArmResult], dataset: DataSet, device: torch.device | str
) -> tuple[list[Choice], int]:
    """The worst and the best image of each task, and among how many they were looked for."""
    measuring = getattr(dataset, "measuring", {})
    tasks = [task.scored(results.protocol, measuring) for task in results.tasks.values()]
    values = {task.name: np.full((len(arms), len(dataset)), math.nan) for task in tasks}
    for place, arm in enumerate(arms):
        for run in arm.seeds[0].runs:
            mine = [task for task in tasks if task.name in run.scores]
            for task, row in from_statistics(run, mine, dataset).items():
                values[task][place] = row
    if not all(np.isfinite(found).any(1).all() for found in values.values()):
        values = {task.name: np.full((len(arms), len(dataset)), math.nan) for task in tasks}
        for place, arm in enumerate(arms):
            for run in arm.seeds[0].runs:
                for task, row in from_network(run, arm, tasks, dataset, device).items():
                    values[task][place] = row
    among = max((int(np.isfinite(found).all(0).sum()) for found in values.values()), default=0)
    return [choice for task in tasks for choice in worst_and_best(task, values[task.name])], among


def worst_and_best(task: Task, values: Values) -> Iterator[Choice]:
    """Two images by the mean over arms ``[A, N]``, of those on which all arms have a value."""
    known = np.isfinite(values).all(0)
    if not known.any():
        return
    mean = np.where(known, values.sum(0) / len(values), math.nan)
    lowest, highest = int(np.nanargmin(mean)), int(np.nanargmax(mean))
    worst, best = (lowest, highest) if task.headline.higher_is_better else (highest, lowest)
    for word, place in (("worst", worst), ("best", best)):
        yield Choice(place=place, why=f"{word} for {task.name}", tasks=(task.name,))


def from_statistics(run: Run, tasks: Sequence[Task], dataset: DataSet) -> dict[str, Values]:
    """The headline measure of each image ``[N]``, where the run has kept what single images add to it."""
    kept = run.per_image
    if kept is None:
        return {}
    at = {name: place for place, name in enumerate(kept.ids)}
    order = [at.get(dataset.id(place), -1) for place in range(len(dataset))]
    found = {}
    for task in tasks:
        metric = task.metric()
        if task.name in kept.statistics and additive(metric):
            single = metric.measures_of(kept.statistics[task.name])[task.headline.name].double().numpy()
            found[task.name] = np.append(single, math.nan)[order]
    return found


def from_network(
    run: Run, arm: ArmResult, tasks: Sequence[Task], dataset: DataSet, device: torch.device | str
) -> dict[str, Values]:
    """The same by looking at some images evenly spread over the split; NaN for the others."""
    model = run.model(device)
    places = spread(len(dataset), LOOKED_AT)
    evaluation = arm.recipe.evaluation
    names = {task.name for task in tasks}
    mine = [task for task in scored_tasks(model.tasks, evaluation.protocol, dataset) if task.name in names]
    found = {task.name: np.full(len(dataset), math.nan) for task in mine}
    part = Part(dataset, places)
    looked = predictions(model, part, mine, evaluation=evaluation, device=torch.device(device))
    for place, (_, decoded, labels) in zip(places, looked, strict=True):
        for task in mine:
            if task.name in labels:
                metric = task.metric()
                metric.update(decoded[task.name].cpu()[None], plain(labels[task.name])[None])
                found[task.name][place] = float(metric.compute()[task.headline.name])
    return found


# As the page takes it.


def shown(gallery: Gallery) -> list[dict[str, Any]]:
    """The images as the template takes them, small enough together."""
    side, kept = SIDE, list[dict[str, Any]]()
    while True:
        kept = [shown_image(each, gallery.tasks, side) for each in gallery.shown]
        size = sum(len(uri) for image in kept for uri in addresses(image))
        if size <= BYTES or side <= SMALLEST:
            return kept
        side = max(SMALLEST, int(0.95 * side * math.sqrt(BYTES / size)))


def addresses(image: Mapping[str, Any]) -> Iterator[str]:
    """The data in a shown image."""
    yield image["picture"]["image"]
    for task in image["tasks"]:
        for cell in task["cells"]:
            yield from (found["image"] for found in (cell["picture"], cell["error"]) if found)


def shown_image(each: Shown, tasks: Mapping[str, Task], side: int) -> dict[str, Any]:
    """One image."""
    row = each.row
    return {
        "id": row.id,
        "why": each.why,
        "picture": picture(row.image, None, side, f"The input image {row.id}"),
        "tasks": [
            {"name": name, "cells": list(cells(row, tasks[name], side))}
            for name in each.tasks
            if name in row.predictions
        ],
    }


def cells(row: Row, task: Task, side: int) -> Iterator[dict[str, Any]]:
    """The label, then each arm's map with its errors."""
    if task.name in row.targets:
        target = picture(row.targets[task.name], task.legend, side, f"The labelled {task.name} of {row.id}")
        yield {"arm": "", "title": "label", "score": "", "picture": target, "error": None}
    for arm, found in row.predictions[task.name].items():
        seen = picture(found.picture, task.legend, side, f"{task.name} of {row.id} as predicted by {arm}")
        error = None
        if found.error is not None:
            said = f"Errors of {arm} on {task.name} of {row.id}: {found.score}"
            error = picture(found.error, task.error_legend, side, said)
        yield {"arm": arm, "title": arm, "score": found.score, "picture": seen, "error": error}


def picture(pixels: Pixels, legend: Legend | None, side: int, alt: str) -> dict[str, Any]:
    """A picture of at most so many pixels a side; one of named colours keeps exactly those."""
    named = legend is not None and bool(legend.entries)
    height, width = pixels.shape[:2]
    if max(height, width) > side:
        scale = side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        how = Image.Resampling.NEAREST if named else Image.Resampling.BOX
        pixels = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, how))
    height, width = pixels.shape[:2]
    return {"image": data_uri(pixels, photo=not named), "alt": alt, "width": width, "height": height}
