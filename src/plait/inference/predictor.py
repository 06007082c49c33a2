"""A trained network as a function of pictures, as its evaluation computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from plait.config import Recipe
from plait.data.sample import Geometry, Sample
from plait.data.transforms import EvaluationResize, undo
from plait.inference.pictures import Picture, Pixels, as_picture
from plait.inference.prediction import PredictedMap, Prediction
from plait.inference.sizing import Sizing, fading
from plait.models.network import MultiTaskNetwork
from plait.tasks.base import Task
from plait.training.evaluate import activated


@dataclass(frozen=True)
class Predictor:
    """Pictures to maps, in the units of their tasks.

    Attributes:
        name: Where it came from, for sentences and file headers.
        recipe: What it was trained by.
        model: The network, in evaluation mode.
        tasks: What is predicted.
        sizing: How pictures are brought to the network.
        flip: Whether maps are averaged with those of the mirrored picture.
    """

    name: str
    recipe: Recipe = field(repr=False)
    model: MultiTaskNetwork = field(repr=False)
    tasks: tuple[Task, ...] = field(repr=False)
    sizing: Sizing = field(default_factory=Sizing)
    flip: bool = False

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
        pictures = [as_picture(image) for image in images]
        samples = [self._fitted(picture) for picture in pictures]
        together: dict[tuple[int, ...], list[int]] = {}
        for place, sample in enumerate(samples):
            together.setdefault(tuple(sample.image.shape), []).append(place)
        made: dict[int, Prediction] = {}
        for places in together.values():
            decoded = self._decoded([samples[place] for place in places])
            for place, maps in zip(places, decoded, strict=True):
                made[place] = Prediction(pictures[place], maps)
        return [made[place] for place in range(len(pictures))]

    def _fitted(self, picture: Pixels) -> Sample:
        image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
        sample = Sample("", image, {}, Geometry((picture.shape[0], picture.shape[1])))
        return EvaluationResize(self.sizing.size)(sample)

    def _normalised(self, samples: Sequence[Sample]) -> Tensor:
        mean, deviation = (np.asarray(part, dtype=np.float32) for part in self.model.normalisation)
        images = torch.stack([sample.image for sample in samples])
        images -= torch.from_numpy(mean)[:, None, None]
        images *= torch.from_numpy(1 / deviation)[:, None, None]
        return images.to(self.device)

    @torch.inference_mode()
    def _decoded(self, samples: Sequence[Sample]) -> list[dict[str, PredictedMap]]:
        evaluation = self.sizing.evaluation(flip=self.flip)
        maps = activated(self.model, self._normalised(samples), self.tasks, evaluation, fading)

        def decoded(task: Task, place: int) -> PredictedMap:
            whole = undo(maps[task.name][place], samples[place].geometry)
            return PredictedMap(task, task.decide(whole[None])[0].cpu())

        return [{task.name: decoded(task, place) for task in self.tasks} for place in range(len(samples))]
