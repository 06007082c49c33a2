"""How good an exported model is, by the measures of the run it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from plait.config import Protocol
from plait.data.sample import DataSet, Geometry, Sample
from plait.data.transforms import EvaluationResize
from plait.export.deployed import Output
from plait.export.formats import Exported, stacked
from plait.export.pictures import Shape
from plait.inference.pictures import Pixels
from plait.tasks.base import Task
from plait.training.evaluate import Maps, numbers, scored_tasks
from plait.training.per_image import Collector
from plait.training.scores import Scores


def score(
    model: Exported,
    outputs: Sequence[Output],
    shape: Shape,
    dataset: DataSet,
    tasks: Sequence[Task],
    *,
    protocol: Protocol = "plain",
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores an exported model on a data set, pooled over it and at the labels' size.

    A model for one size sees a picture of another size fitted into its own, the rest filled, and its decided
    maps are brought back by the nearest pixel.

    Args:
        model: What is scored.
        outputs: What it gives.
        shape: What it takes.
        dataset: What to score it on; loads the tasks' label fields.
        tasks: Those of the model.
        protocol: By whose rules.
        progress: Told of images done and in all.
    """
    scored = scored_tasks(tasks, protocol, dataset)
    collector = Collector(scored, len(dataset), torch.device("cpu"))
    for place in range(len(dataset)):
        sample = dataset[place]
        maps = predicted(model, outputs, shape, sample)
        for task in scored:
            if task.label in sample.targets:
                label = sample.targets[task.label].as_subclass(torch.Tensor)
                collector.update(task.name, place, maps[task.name], label[None])
        if progress is not None:
            progress(place + 1, len(dataset))
    values = {name: numbers(metric) for name, metric in collector.metrics.items()}
    return Scores.of(scored, values, split=dataset.split, images=len(dataset))


def predicted(model: Exported, outputs: Sequence[Output], shape: Shape, sample: Sample) -> Maps:
    """Decoded maps ``{task: [1, C, H, W]}`` of one picture, at its size."""
    pixels = np.ascontiguousarray(sample.image.as_subclass(torch.Tensor).permute(1, 2, 0).numpy())
    source = (pixels.shape[0], pixels.shape[1])
    if shape.dynamic or source == shape.size:
        found = model(stacked([pixels] * (1 if shape.dynamic else shape.batch)))
        return {
            output.task.name: output.taken_apart(torch.from_numpy(found[output.name][:1]))
            for output in outputs
            if not output.probabilities
        }
    fitted, rows, columns = _fitted(pixels, shape.size)
    found = model(stacked([fitted] * shape.batch))
    return {
        output.task.name: output.taken_apart(torch.from_numpy(found[output.name][:1]))[..., rows, :][
            ..., columns
        ]
        for output in outputs
        if not output.probabilities
    }


def _fitted(pixels: Pixels, size: tuple[int, int]) -> tuple[Pixels, torch.Tensor, torch.Tensor]:
    """A picture fitted into a size, and the row and the column there of each of its own."""
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    source = (pixels.shape[0], pixels.shape[1])
    moved = EvaluationResize(size)(Sample("", image, {}, Geometry(source)))
    levels = (moved.image * 255).round().clamp(0, 255).to(torch.uint8)
    across, down = float(moved.geometry.matrix[0, 0]), float(moved.geometry.matrix[1, 1])
    rows = ((torch.arange(source[0]) + 0.5) * down).long()
    columns = ((torch.arange(source[1]) + 0.5) * across).long()
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy()), rows, columns
