"""A trained network as a function of pictures, as its evaluation computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from plait.config import Recipe
from plait.data.sample import Geometry, Sample
from plait.data.transforms import EvaluationResize
from plait.inference.bands import decided, sliding
from plait.inference.pictures import Picture, Pixels, as_picture
from plait.inference.prediction import PredictedMap, Prediction
from plait.inference.sizing import LARGE, Sizing, fading
from plait.models.network import MultiTaskNetwork
from plait.models.predictions import Predictions
from plait.tasks.base import Task
from plait.training.evaluate import activated


@dataclass(frozen=True)
class Fitted:
    """A picture, ready for the network.

    Attributes:
        picture: As it was understood, ``uint8 [H, W, 3]``.
        sample: The same at the network's size, float32 in [0, 1].
        sizing: How it is shown.
    """

    picture: Pixels
    sample: Sample
    sizing: Sizing


@dataclass(frozen=True, eq=False)
class Predictor:
    """Pictures to maps, in the units of their tasks.

    Attributes:
        name: Where it came from, for sentences and file headers.
        recipe: What it was trained by.
        model: The network, in evaluation mode.
        tasks: What is predicted.
        sizing: How pictures are brought to the network.
        flip: Whether maps are averaged with those of the mirrored picture.
        digest: SHA-256 of its weights; empty if they come from no file.
        step: Updates they were trained for; None if that is not known.
        finished: Whether its training was finished.
    """

    name: str
    recipe: Recipe = field(repr=False)
    model: MultiTaskNetwork = field(repr=False)
    tasks: tuple[Task, ...] = field(repr=False)
    sizing: Sizing = field(default_factory=Sizing)
    flip: bool = False
    digest: str = field(default="", repr=False)
    step: int | None = field(default=None, repr=False)
    finished: bool = field(default=True, repr=False)

    def __repr__(self) -> str:
        tasks = ", ".join(f"{task.name} ({task.unit})" if task.unit else task.name for task in self.tasks)
        flip = ", averaged with the mirrored picture" if self.flip else ""
        return f"<{self.name}: {tasks}; pictures are {self.sizing.told()}{flip}; on {self.device}>"

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    def __call__(self, image: Picture) -> Prediction:
        """The maps of one picture; see :func:`plait.inference.as_picture` for what a picture is.

        Raises:
            DataError: If it is no picture.
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[Picture]) -> list[Prediction]:
        """The maps of several pictures, in their order; those that the network sees at one size together.

        How pictures are put together changes no map beyond the rounding of the processor's sums.

        Raises:
            DataError: If one is no picture.
        """
        made = dict(self.predictions([self.fitted(image) for image in images]))
        return [made[place] for place in range(len(made))]

    def fitted(self, image: Picture) -> Fitted:
        """A picture, read and brought to the network's size: the part that needs no network.

        Raises:
            DataError: If it is no picture.
        """
        picture = as_picture(image)
        size = (picture.shape[0], picture.shape[1])
        pixels = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
        sample = EvaluationResize(self.sizing.size)(Sample("", pixels, {}, Geometry(size)))
        return Fitted(picture, sample, self.sizing.of_picture(*size))

    def predictions(self, fitted: Sequence[Fitted]) -> Iterator[tuple[int, Prediction]]:
        """The maps of pictures, each with its place among them, group by group as the network sees them.

        They are brought back to the picture's size one by one, so whoever does not keep them needs no memory
        for all.
        """
        for places in self._groups(fitted):
            group = [fitted[place] for place in places]
            for place, (one, maps) in zip(places, self._decoded(group), strict=True):
                yield place, Prediction(one.picture, maps)

    def _groups(self, fitted: Sequence[Fitted]) -> Iterator[list[int]]:
        """Places of pictures that the network sees together: at one size and not too many large ones."""
        together: dict[tuple[int, ...], list[int]] = {}
        for place, one in enumerate(fitted):
            together.setdefault(tuple(one.sample.image.shape), []).append(place)
        for shape, places in together.items():
            many = len(places) if self.sizing.size is not None else max(1, LARGE // (shape[1] * shape[2]))
            yield from (places[start : start + many] for start in range(0, len(places), many))

    @property
    def _network(self) -> Callable[[Tensor], Predictions]:
        """The network; of some of its tasks alone, what the others need is not computed."""
        names = [task.name for task in self.tasks]
        every = [task.name for task in self.model.tasks if not task.auxiliary]
        return self.model if names == every else partial(self.model, tasks=names)

    def _normalised(self, samples: Sequence[Sample]) -> Tensor:
        mean, deviation = (np.asarray(part, dtype=np.float32) for part in self.model.normalisation)
        images = torch.stack([sample.image for sample in samples])
        images -= torch.from_numpy(mean)[:, None, None]
        images *= torch.from_numpy(1 / deviation)[:, None, None]
        return images.to(self.device)

    def _decoded(self, group: Sequence[Fitted]) -> Iterator[tuple[Fitted, dict[str, PredictedMap]]]:
        shown = group[0].sizing
        evaluation = shown.evaluation(flip=self.flip)
        height, width = group[0].picture.shape[:2]
        if shown.size is None and shown.tile and shown.scales == (1.0,) and height * width > LARGE:
            yield from ((one, self._in_rows(one)) for one in group)
            return
        with torch.no_grad():
            images = self._normalised([one.sample for one in group])
            maps = activated(self._network, images, self.tasks, evaluation, fading)
        for place, one in enumerate(group):
            yield one, self._brought_back({name: seen[place] for name, seen in maps.items()}, one)

    @torch.no_grad()
    def _brought_back(self, seen: Mapping[str, Tensor], one: Fitted) -> dict[str, PredictedMap]:
        """Activated maps ``[C, h, w]`` of one picture, at its size and decided."""
        geometry = one.sample.geometry
        return {
            task.name: PredictedMap(task, decided(task, seen[task.name], geometry)) for task in self.tasks
        }

    @torch.no_grad()
    def _in_rows(self, one: Fitted) -> dict[str, PredictedMap]:
        """The maps of a picture in tiles, decided row by row."""
        images = self._normalised([one.sample])
        made: dict[str, Tensor] = {}
        evaluation = one.sizing.evaluation(flip=self.flip)
        for rows, maps in sliding(self._network, images, self.tasks, evaluation, fading):
            for task in self.tasks:
                part = task.decide(maps[task.name])[0].cpu()
                if task.name not in made:
                    made[task.name] = part.new_empty(len(part), *images.shape[-2:])
                made[task.name][:, rows] = part
        return {task.name: PredictedMap(task, made[task.name]) for task in self.tasks}
