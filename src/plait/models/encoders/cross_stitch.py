"""Cross-stitch networks: tasks mix their features channel by channel after each stage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from plait.errors import ConfigurationError
from plait.models.encoders.base import MakeBackbone, Pyramids
from plait.models.encoders.columns import Columns, own_and_other


class CrossStitch(Columns):
    """One backbone a task; after each stage every task goes on with a learned mix of all tasks' features.

    ``out_i = sum_j a_ij * x_j``, with a vector of one number a channel for each ordered pair of tasks, and no
    constraint on them. With one task there is nobody to mix with, and no unit.

    Args:
        make_backbone: Makes a backbone; called once a task, in declared order.
        tasks: Names of the tasks in declared order.
        alpha: First weight of a task's own features.
        beta: First weight of each other task's; None takes ``(1 - alpha) / (T - 1)``, so that they sum to 1.
        unit: ``channel`` for one weight a channel, ``scalar`` for one for all channels.
        lr_multiplier: The units learn at this multiple of the learning rate, at every step.

    Raises:
        ConfigurationError: If the backbone has no stages, ``unit`` is unknown, or a number is out of range.

    Source:
        Misra et al., Cross-stitch Networks for Multi-task Learning, CVPR 2016, section 3.2, as adapted by
        Vandenhende et al., Multi-Task Learning for Dense Prediction Tasks: A Survey, TPAMI 2021. The paper
        has units after the pooling and fully connected layers of AlexNet. The published code of the survey
        asks for 100 times the learning rate and its schedule takes it back; here ``lr_multiplier`` holds.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        tasks: Sequence[str],
        alpha: float = 0.9,
        beta: float | None = None,
        unit: Literal["channel", "scalar"] = "channel",
        lr_multiplier: float = 1.0,
    ) -> None:
        if unit not in ("channel", "scalar"):
            raise ConfigurationError(f"unit of cross_stitch must be 'channel' or 'scalar', got {unit!r}")
        if not 0 <= lr_multiplier < math.inf:
            raise ConfigurationError(
                f"lr_multiplier of cross_stitch must be zero or more and finite, got {lr_multiplier}: leave "
                f"it at 1"
            )
        super().__init__(make_backbone=make_backbone, tasks=tasks, name="cross_stitch")
        self.lr_multiplier = lr_multiplier
        own, other = own_and_other(alpha, beta, len(self.tasks))
        self.units = nn.ModuleList(
            Unit(self.tasks, channels if unit == "channel" else 1, own, other)
            for channels in self.channels[self.tasks[0]]
            if len(self.tasks) > 1
        )

    def exchange(self, part: int, features: dict[str, Tensor], receivers: Iterable[str]) -> dict[str, Tensor]:
        if part == 0 or len(self.tasks) == 1:
            return features
        unit = self.units[part - 1]
        return {receiver: unit(features, receiver) for receiver in receivers}

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        return self.cropped(self.levels(images, self.asked(tasks)), images)

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        if len(self.tasks) == 1:
            return {self.tasks: list(self.parameters())}
        *earlier, last = self.units
        everybody = [p for module in (self.backbones, *earlier) for p in module.parameters()]
        own = {(task,): cast("Unit", last).received_by(task) for task in self.tasks}
        return {self.tasks: everybody} | own

    def lr_multipliers(self) -> dict[Parameter, float]:
        return dict.fromkeys(self.units.parameters(), self.lr_multiplier)


class Unit(nn.Module):
    """The mix of all tasks' features that each task receives.

    Args:
        tasks: Names of the tasks.
        channels: Numbers in each weight: the channels of the features, or 1.
        own: First weight of a task's own features.
        other: First weight of each other task's.
    """

    def __init__(self, tasks: Sequence[str], channels: int, own: float, other: float) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.weights = nn.ParameterDict(
            {
                f"{sender} to {receiver}": torch.full((channels,), own if sender == receiver else other)
                for receiver in tasks
                for sender in tasks
            }
        )

    def forward(self, features: Mapping[str, Tensor], receiver: str) -> Tensor:
        """Maps every task's ``[B, C, h, w]`` to what the receiver goes on with, of the same shape."""
        first, *others = self.tasks
        mixed = features[first] * self._weight(first, receiver, features)
        for sender in others:  # in place: one map a receiver is made, however many tasks there are
            mixed.addcmul_(features[sender], self._weight(sender, receiver, features))
        return mixed

    def received_by(self, receiver: str) -> list[Parameter]:
        """The weights that only this task's mix uses."""
        return [self.weights[f"{sender} to {receiver}"] for sender in self.tasks]

    def _weight(self, sender: str, receiver: str, features: Mapping[str, Tensor]) -> Tensor:
        weight: Tensor = self.weights[f"{sender} to {receiver}"]
        return weight.to(features[sender].dtype)[:, None, None]  # half precision stays half precision
