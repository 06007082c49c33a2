"""What encoders of one backbone a task, whose tasks exchange features between stages, have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn

from plait.errors import ConfigurationError
from plait.models.backbones import Backbone
from plait.models.encoders.base import Encoder, MakeBackbone, Pyramids, staged, task_names


class Columns(Encoder):
    """One backbone a task, run side by side; after each part of them the tasks exchange features.

    A subclass says what is exchanged. Tasks meet in every part, so there is no cut: each task's pyramid
    depends on all columns.

    Args:
        make_backbone: Makes a backbone; called once a task, in declared order.
        tasks: Names of the tasks in declared order.
        name: The encoder's, for the message.

    Raises:
        ConfigurationError: If the backbone has no stages.
    """

    has_cut = False

    def __init__(self, *, make_backbone: MakeBackbone, tasks: Sequence[str], name: str) -> None:
        super().__init__()
        self.tasks = task_names(tasks)
        first = staged(make_backbone(), name)
        self.backbones = nn.ModuleDict(
            {task: make_backbone() if place else first for place, task in enumerate(self.tasks)}
        )
        self.channels = dict.fromkeys(self.tasks, first.channels)
        self.strides = dict.fromkeys(self.tasks, first.strides)
        self.groups = {task: task for task in self.tasks}
        self.normalisation = first.normalisation
        self.default_head = first.default_head

    @abstractmethod
    def exchange(self, part: int, features: dict[str, Tensor], receivers: Iterable[str]) -> dict[str, Tensor]:
        """What each receiver goes on with, given all tasks' ``[B, C, h, w]`` after a part of their columns.

        Args:
            part: 0 is the stem, ``k`` the k-th stage.
            features: Of every task, in declared order.
            receivers: Who goes on: all tasks, or after the last part those that were asked for.
        """

    def columns(self) -> dict[str, Backbone]:
        return {task: cast("Backbone", self.backbones[task]) for task in self.tasks}

    def levels(self, images: Tensor, asked: Sequence[str]) -> Pyramids:
        """The levels of padded images for the asked tasks: what they exchanged after each stage."""
        columns = self.columns()
        first = columns[self.tasks[0]]
        padded, last = first.pad(images), len(first.stages)
        levels: Pyramids = {task: [] for task in asked}
        if not asked:
            return levels
        features = {task: column.stem(padded) for task, column in columns.items()}
        features = self.exchange(0, features, self.tasks)
        for part in range(1, last + 1):
            features = {task: column.stages[part - 1](features[task]) for task, column in columns.items()}
            features = self.exchange(part, features, self.tasks if part < last else asked)
            for task in asked:
                levels[task].append(features[task])
        return levels

    def cropped(self, levels: Pyramids, images: Tensor) -> Pyramids:
        """The levels without what the padding of these images added."""
        columns = self.columns()
        return {task: columns[task].crop(own, images.shape[-2:]) for task, own in levels.items()}


def own_and_other(alpha: float, beta: float | None, sources: int) -> tuple[float, float]:
    """The first weights of a mix of several sources: its own, and that of each other one.

    Without ``beta`` they sum to 1; of a single source the weight is 1.

    Raises:
        ConfigurationError: If one is not finite.

    >>> own_and_other(0.5, None, 3), own_and_other(0.8, 0.3, 2), own_and_other(0.9, None, 1)
    ((0.5, 0.25), (0.8, 0.3), (1.0, 0.0))
    """
    if not (math.isfinite(alpha) and math.isfinite(beta or 0.0)):
        raise ConfigurationError(
            f"the first weights of a mix must be finite, got {alpha}{'' if beta is None else f' and {beta}'}"
        )
    if sources == 1:
        return 1.0, 0.0
    return alpha, (1 - alpha) / (sources - 1) if beta is None else beta
