"""What each image of a split adds to the scores, so that images can be weighted afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor

from plait.errors import CheckpointError, DataError
from plait.metrics.additive import Additive, additive
from plait.training.checkpoint import prefixed, read_tensors, under, write_atomically
from plait.training.distributed import reduce_sums

if TYPE_CHECKING:
    from torchmetrics import Metric

    from plait.tasks.base import Task

IDS, STATISTICS = "ids", "statistics"

LARGE = 20 * 2**20
"""Bytes of statistics from which a file holds them in float32.

Counts up to 2^24 pixels stay exact, sums keep seven digits.
"""


@dataclass(frozen=True)
class PerImage:
    """Additive statistics of each image of a split.

    Attributes:
        ids: The images, in the data set's order.
        statistics: ``{task: [N, S]}`` in float64, as :meth:`plait.metrics.additive.Additive.statistics` gives
            them for one image; zeros where an image has no label of the task. A task is absent if its metric
            has no such statistics.
    """

    ids: tuple[str, ...]
    statistics: Mapping[str, Tensor]

    def save(self, path: Path | str) -> None:
        """Writes a safetensors file, whole or not at all; large ones in float32."""
        size = sum(8 * values.numel() for values in self.statistics.values())
        kind = torch.float32 if size > LARGE else torch.float64
        tensors = {task: values.to(kind).contiguous() for task, values in self.statistics.items()}
        names = torch.tensor(list(json.dumps(self.ids).encode()), dtype=torch.uint8)
        content = safetensors.torch.save({IDS: names, **prefixed(STATISTICS, tensors)})
        write_atomically(Path(path), content)

    @classmethod
    def load(cls, path: Path | str) -> PerImage:
        """Reads what :meth:`save` wrote.

        Raises:
            DataError: If the file is not that.
        """
        try:
            tensors = read_tensors(Path(path))
            ids = tuple(str(name) for name in json.loads(bytes(tensors[IDS].tolist())))
        except (CheckpointError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path} does not hold the statistics of single images: {error}") from None
        statistics = {task: values.double() for task, values in sorted(under(STATISTICS, tensors).items())}
        for task, values in statistics.items():
            if values.ndim != 2 or len(values) != len(ids):
                raise DataError(
                    f"{path} does not hold the statistics of single images: expected a row of {task} "
                    f"for each of {len(ids)} images, got {list(values.shape)}"
                )
        return cls(ids, statistics)


class Collector:
    """Counts images one by one, so that a metric's statistics of each are known; nothing is counted twice.

    Of several processes each counts its share of the images.

    Args:
        tasks: What is scored.
        images: How many images all processes count together.
        device: Where to count.
    """

    def __init__(self, tasks: Sequence[Task], images: int, device: torch.device) -> None:
        self.metrics: dict[str, Metric] = {task.name: task.metric().to(device) for task in tasks}
        self.single: dict[str, Metric] = {}
        self.rows: dict[str, Tensor] = {}
        for task in tasks:
            metric = self.metrics[task.name]
            if additive(metric):
                self.single[task.name] = task.metric().to(device)
                self.rows[task.name] = metric.statistics().new_zeros(images, len(metric.statistics()))

    def update(self, name: str, place: int, prediction: Tensor, target: Tensor) -> None:
        """Adds one image to the metric of a task.

        Args:
            name: The task.
            place: The image's place in the data set.
            prediction: Decoded map ``[1, C, H, W]``.
            target: Label ``[1, C, H, W]``, on the same device.
        """
        metric, single = self.metrics[name], self.single.get(name)
        if single is None:
            metric.update(prediction, target)
            return
        single.reset()
        single.update(prediction, target)
        assert isinstance(single, Additive)
        self.rows[name][place] = single.statistics()
        merge(metric, single)

    def gathered(self, ids: tuple[str, ...]) -> PerImage:
        """The statistics of all images, from all processes; every process must call it."""
        rows = [rows.cpu() for rows in self.rows.values()]
        sums = reduce_sums(rows)  # each row is of one process, and zero in the others
        return PerImage(ids, dict(zip(self.rows, sums, strict=True)))


def merge(metric: Metric, part: Metric) -> None:
    """Adds to a metric what another one of its kind has seen."""
    metric.merge_state(part)
    # As torchmetrics does around update: what was computed before no longer holds.
    metric._computed = None
    metric._update_count += part._update_count
