"""Pictures of held-out images: what each network predicts, and where it is wrong."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from plait.data.sample import DataSet, Sample
from plait.training.evaluate import predictions, scored_tasks
from plait.training.scores import shown

if TYPE_CHECKING:
    from plait.config import Evaluation
    from plait.models.network import MultiTaskNetwork
    from plait.tasks.base import Task

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Prediction:
    """One network's map for one task on one image.

    Attributes:
        picture: ``uint8 [H, W, 3]``.
        error: Where it is wrong, ``uint8 [H, W, 3]``; None without a label.
        score: The headline measure on this image alone, as a table prints it; empty without a label.
    """

    picture: Pixels
    error: Pixels | None
    score: str


@dataclass(frozen=True)
class Row:
    """One held-out image with everything there is to see.

    Attributes:
        id: The sample's name.
        image: ``uint8 [H, W, 3]``.
        targets: ``{task: uint8 [H, W, 3]}``, without the tasks this image has no label for.
        predictions: ``{task: {arm: prediction}}``.
    """

    id: str
    image: Pixels
    targets: Mapping[str, Pixels]
    predictions: Mapping[str, Mapping[str, Prediction]]


class Part:
    """A few samples of a data set, as a data set."""

    def __init__(self, dataset: DataSet, places: Sequence[int]) -> None:
        self.dataset, self.places = dataset, list(places)
        self.split, self.fields, self.classes = dataset.split, dataset.fields, dataset.classes

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> Sample:
        return self.dataset[self.places[place]]

    def id(self, place: int) -> str:
        """The name of the sample at a place."""
        return self.dataset.id(self.places[place])


def spread(images: int, count: int) -> list[int]:
    """``count`` places evenly over ``images``, chosen without looking at any of them.

    >>> spread(10, 3), spread(2, 5)
    ([1, 5, 8], [0, 1])
    """
    count = min(count, images)
    return [int((place + 0.5) * images / count) for place in range(count)]


def rows(
    dataset: DataSet,
    places: Sequence[int],
    networks: Mapping[str, Sequence[MultiTaskNetwork]],
    *,
    evaluation: Evaluation,
) -> Iterator[Row]:
    """A row an image.

    Args:
        dataset: Where the images come from; it loads the label fields of all tasks.
        places: Which of its images.
        networks: ``{arm: its networks}``; together they predict the arm's tasks.
        evaluation: How they look at an image, as in :func:`plait.training.evaluate.evaluate`.
    """
    part = Part(dataset, places)
    found: dict[str, dict[str, dict[str, Prediction]]] = {part.id(place): {} for place in range(len(part))}
    targets: dict[str, dict[str, Pixels]] = {sample: {} for sample in found}
    for arm, members in networks.items():
        for model in members:
            tasks = scored_tasks(model.tasks, evaluation.protocol, dataset)
            device = next(model.parameters()).device
            for sample, decoded, labels in predictions(
                model, part, tasks, evaluation=evaluation, device=device
            ):
                for task in tasks:
                    label = plain(labels.get(task.name))
                    predicted = prediction(task, decoded[task.name].cpu(), label)
                    found[sample].setdefault(task.name, {})[arm] = predicted
                    if label is not None and task.name not in targets[sample]:
                        targets[sample][task.name] = task.picture(label)
    for place in range(len(part)):
        seen = part[place]
        image = seen.image.as_subclass(Tensor).permute(1, 2, 0).numpy()
        yield Row(seen.id, image, targets[seen.id], found[seen.id])


def prediction(task: Task, decoded: Tensor, label: Tensor | None) -> Prediction:
    """Picture, error and score of one decoded map ``[C, H, W]``."""
    with torch.no_grad():
        if label is None:
            return Prediction(task.picture(decoded), None, "")
        metric = task.metric()
        metric.update(decoded[None], label[None])
        value = float(metric.compute()[task.headline.name])
        score = "" if math.isnan(value) else f"{task.headline.title} {shown(value, task.headline)}"
        return Prediction(task.picture(decoded), task.error(decoded, label), score)


@overload
def plain(label: Tensor) -> Tensor: ...
@overload
def plain(label: None) -> None: ...
def plain(label: Tensor | None) -> Tensor | None:
    """A label as an ordinary tensor."""
    return None if label is None else label.as_subclass(Tensor)


def data_uri(pixels: Pixels, *, photo: bool = False) -> str:
    """A picture ``uint8 [H, W, 3]`` as a ``data:`` address: WebP, exact unless it is a photograph."""
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": 82} if photo else {"lossless": True}
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "WEBP", method=4, **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
