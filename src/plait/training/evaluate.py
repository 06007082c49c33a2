"""Scores of a network on a split: pooled over the split, at the labels' own size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from plait.config import Evaluation
from plait.data.loader import evaluation_batches
from plait.data.sample import DataSet
from plait.data.transforms import undo
from plait.models.network import MultiTaskNetwork
from plait.models.predictions import Predictions
from plait.tasks.base import Task
from plait.training.distributed import rank, world_size
from plait.training.per_image import Collector, PerImage
from plait.training.precision import Precision, autocast
from plait.training.scores import Scores

if TYPE_CHECKING:
    from torchmetrics import Metric

Maps = dict[str, Tensor]
Blend = Callable[[Sequence[int]], Tensor]
"""Height and width of a window to the weight of each of its pixels where windows overlap, ``[H, W]``."""


def evenly(window: Sequence[int]) -> Tensor:
    """Every window counts alike."""
    return torch.ones(*window)


def evaluate(
    model: MultiTaskNetwork,
    dataset: DataSet,
    tasks: Sequence[Task] | None = None,
    *,
    evaluation: Evaluation | None = None,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores a network on a data set.

    Counts and sums are pooled over all pixels of the split, and over all processes, before anything is
    divided, so neither batch size nor number of processes changes a score. Each task is scored by the rules
    of ``evaluation.protocol``, with what the data set says of its measuring.

    Args:
        model: A network with ``tasks`` and ``normalisation``, in any mode; it is left as it was.
        dataset: What to score it on; loads the tasks' label fields.
        tasks: Which tasks to score; None scores every task that is not auxiliary.
        evaluation: Protocol, input size, and options such as flip testing.
        device: Where to compute; None takes the network's own.
        precision: ``fp32`` or ``bf16``.
        progress: Called with the images done so far and in all.

    Returns:
        The measures of each task. A task that no sample has a label for has NaN.
    """
    scores, _ = evaluate_images(
        model,
        dataset,
        tasks,
        evaluation=evaluation,
        device=device,
        precision=precision,
        progress=progress,
    )
    return scores


def evaluate_images(
    model: MultiTaskNetwork,
    dataset: DataSet,
    tasks: Sequence[Task] | None = None,
    *,
    evaluation: Evaluation | None = None,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Scores, PerImage]:
    """As :func:`evaluate`, and what each image adds to the scores: the same in every process."""
    evaluation = evaluation or Evaluation()
    scored = scored_tasks(tasks or model.tasks, evaluation.protocol, dataset)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    collector = Collector(scored, len(dataset), device)
    place = rank()
    done = 0
    for ids, decoded, labels in predictions(
        model, dataset, scored, evaluation=evaluation, device=device, precision=precision
    ):
        for name, label in labels.items():
            collector.update(name, place, decoded[name][None], label[None].to(device))
        place += world_size()
        done += len(ids) > 0
        if progress is not None:
            progress(min(done * world_size(), len(dataset)), len(dataset))
    values = {name: numbers(metric) for name, metric in collector.metrics.items()}
    scores = Scores.of(scored, values, split=dataset.split, images=len(dataset))
    return scores, collector.gathered(tuple(dataset.id(place) for place in range(len(dataset))))


def scored_tasks(tasks: Sequence[Task], protocol: str, dataset: DataSet) -> list[Task]:
    """The tasks that are reported, with the measures of a protocol on a data set."""
    measuring = getattr(dataset, "measuring", {})
    return [task.scored(protocol, measuring) for task in tasks if not task.auxiliary]


def predictions(
    model: MultiTaskNetwork,
    dataset: DataSet,
    tasks: Sequence[Task],
    *,
    evaluation: Evaluation,
    device: torch.device,
    precision: Precision = "fp32",
) -> Iterator[tuple[str, Maps, Mapping[str, Tensor]]]:
    """Id, decoded maps ``{task: [C, H, W]}`` and labels of each sample, at the labels' own size."""
    batches = evaluation_batches(
        dataset,
        tasks,
        size=evaluation.size,
        normalisation=model.normalisation,
        batch_size=evaluation.batch_size,
        rank=rank(),
        world_size=world_size(),
    )
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for batch in batches:
            with torch.inference_mode(), autocast(device, precision):
                maps = activated(model, batch.images.to(device, non_blocking=True), tasks, evaluation)
            for place, (sample, labels) in enumerate(zip(batch.ids, batch.labels, strict=True)):
                decoded = {
                    task.name: task.decide(undo(maps[task.name][place], batch.geometry[place])[None])[0]
                    for task in tasks
                }
                yield sample, decoded, labels
    finally:
        for module, training in was_training.items():
            module.training = training


def activated(
    model: Callable[[Tensor], Predictions],
    images: Tensor,
    tasks: Sequence[Task],
    evaluation: Evaluation,
    blend: Blend = evenly,
) -> Maps:
    """Activated maps ``[B, C, H, W]`` of images ``[B, 3, H, W]``, averaged over scales and flips.

    What is averaged are probabilities, metres and vectors, never logits.
    """
    size = images.shape[-2:]
    views: list[Maps] = []
    for scale in evaluation.scales:
        scaled = images if scale == 1 else resized(images, [max(1, round(side * scale)) for side in size])
        for mirrored in (False, True) if evaluation.flip else (False,):
            seen = slide(model, scaled.flip(-1) if mirrored else scaled, tasks, evaluation, blend)
            view = {}
            for task in tasks:
                value = seen[task.name]
                if mirrored:
                    value = task.flip(value.flip(-1))
                view[task.name] = value if scale == 1 else resized(value, size)
            views.append(view)
    return {task.name: mean([view[task.name] for view in views]) for task in tasks}


def slide(
    model: Callable[[Tensor], Predictions],
    images: Tensor,
    tasks: Sequence[Task],
    evaluation: Evaluation,
    blend: Blend = evenly,
) -> Maps:
    """Activated maps of images, whole or averaged over windows that cover them."""
    if evaluation.window is None:
        final = model(images).final
        return {task.name: task.activate(final[task.name].float()) for task in tasks}
    size = images.shape[-2:]
    window = [min(w, s) for w, s in zip(evaluation.window, size, strict=True)]
    stride = evaluation.stride or [max(1, 2 * w // 3) for w in window]
    sums: Maps = {}
    cover = images.new_zeros(1, 1, *size)
    weights = blend(window).to(images)
    for top in starts(size[0], window[0], stride[0]):
        for left in starts(size[1], window[1], stride[1]):
            here = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            final = model(images[here].contiguous()).final
            cover[here] += weights
            for task in tasks:
                value = task.activate(final[task.name].float())
                if task.name not in sums:
                    sums[task.name] = value.new_zeros(*value.shape[:2], *size)
                sums[task.name][here] += value * weights
    return {name: total / cover for name, total in sums.items()}


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin, so that they cover a length and the last one ends with it.

    >>> starts(10, 4, 3), starts(11, 4, 3), starts(4, 4, 3)
    ([0, 3, 6], [0, 3, 6, 7], [0])
    """
    places = list(range(0, length - window + 1, stride))
    return places if places[-1] == length - window else [*places, length - window]


def constant_scores(
    train: DataSet, test: DataSet, tasks: Sequence[Task], *, protocol: str = "plain"
) -> Scores:
    """Scores on ``test`` of the best prediction that is the same at every pixel, learned on ``train``.

    It is the least that a network must beat: the commonest class, the mean depth, the mean normal.
    """
    scored = scored_tasks(tasks, protocol, test)
    values = {}
    for task in scored:
        pixel = task.constant([s.targets[task.label] for s in samples(train) if task.label in s.targets])
        metric = task.metric()
        for sample in samples(test):
            label = sample.targets.get(task.label)
            if label is not None:
                plain = label.as_subclass(Tensor)
                metric.update(pixel[:, None, None].expand(-1, *plain.shape[-2:])[None], plain[None])
        values[task.name] = numbers(metric)
    return Scores.of(scored, values, split=test.split, images=len(test))


def samples(dataset: DataSet) -> Iterator[Any]:
    """Every sample, in order."""
    return (dataset[place] for place in range(len(dataset)))


def numbers(metric: Metric) -> dict[str, float]:
    """A metric's measures, over all processes."""
    return {name: float(value) for name, value in metric.compute().items()}


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps ``[B, C, h, w]`` at another size, bilinearly."""
    return F.interpolate(maps, size=list(size), mode="bilinear", align_corners=False, antialias=False)


def mean(maps: Sequence[Tensor]) -> Tensor:
    """The mean of maps of one shape; a single map is returned as it is."""
    return maps[0] if len(maps) == 1 else torch.stack(list(maps)).mean(0)
