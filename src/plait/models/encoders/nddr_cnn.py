"""NDDR-CNN: after each part, every task reduces all tasks' concatenated features to its own width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from plait.errors import ConfigurationError
from plait.models.blocks import to_size_of
from plait.models.encoders.base import MakeBackbone, Pyramids, probing
from plait.models.encoders.columns import Columns, own_and_other


class NDDRCNN(Columns):
    """One backbone a task; after the stem and each stage, a unit a task fuses the features of all.

    The features of all tasks are concatenated, and each task reduces them to its own width with a 1x1
    convolution, batch norm and ReLU (neural discriminative dimensionality reduction). A backbone whose stages
    do not end in a ReLU (EfficientNet, ConvNeXt, Swin) loses its negative features in the unit's. With
    one task there is nothing to reduce, and no unit.

    Args:
        make_backbone: Makes a backbone; called once a task, in declared order.
        tasks: Names of the tasks in declared order.
        alpha: The convolution of a task starts with this times the identity for its own features.
        beta: And with this times the identity for each other task's; None takes ``(1 - alpha) / (T - 1)``.
        shortcut: Whether the last level is made of the units' outputs after all stages, resized to the
            last one's size, concatenated, and projected by a 1x1 convolution (without bias; it starts as the
            identity on the last one).
        lr_multiplier: Units and shortcuts learn at this multiple of the learning rate, at every step.

    Raises:
        ConfigurationError: If the backbone has no stages, or a number is out of range.

    Source:
        Gao et al., NDDR-CNN: Layerwise Feature Fusing in Multi-Task CNNs by Neural Discriminative
        Dimensionality Reduction, CVPR 2019, sections 3.2 and 3.3. The survey's published code has no
        shortcut, and asks for 100 times the learning rate, which its schedule takes back; here
        ``lr_multiplier`` holds.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        tasks: Sequence[str],
        alpha: float = 0.9,
        beta: float | None = None,
        shortcut: bool = False,
        lr_multiplier: float = 1.0,
    ) -> None:
        if not 0 <= lr_multiplier < math.inf:
            raise ConfigurationError(
                f"lr_multiplier of nddr_cnn must be zero or more and finite, got {lr_multiplier}: leave it "
                f"at 1"
            )
        super().__init__(make_backbone=make_backbone, tasks=tasks, name="nddr_cnn")
        self.lr_multiplier = lr_multiplier
        levels = self.channels[self.tasks[0]]
        own, other = own_and_other(alpha, beta, len(self.tasks))
        self.units = nn.ModuleList(
            nn.ModuleDict({task: Unit(self.tasks, task, channels, own, other) for task in self.tasks})
            for channels in (self._stem_channels(), *levels)
            if len(self.tasks) > 1
        )
        self.shortcuts = nn.ModuleDict({task: Shortcut(levels) for task in self.tasks if shortcut})

    def exchange(self, part: int, features: dict[str, Tensor], receivers: Iterable[str]) -> dict[str, Tensor]:
        if len(self.tasks) == 1:
            return features
        everything = torch.cat(list(features.values()), 1)
        units = cast("nn.ModuleDict", self.units[part])
        return {receiver: units[receiver](everything) for receiver in receivers}

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        levels = self.levels(images, self.asked(tasks))
        for task, shortcut in self.shortcuts.items():
            if task in levels:
                levels[task][-1] = shortcut(levels[task])
        return self.cropped(levels, images)

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        if len(self.tasks) == 1:
            return {self.tasks: list(self.parameters())}
        *earlier, last = self.units
        everybody = [p for module in (self.backbones, *earlier) for p in module.parameters()]
        own: dict[tuple[str, ...], list[Parameter]] = {(task,): [] for task in self.tasks}
        for ends in (cast("nn.ModuleDict", last), self.shortcuts):
            for task, end in ends.items():
                own[(task,)].extend(end.parameters())
        return {self.tasks: everybody} | own

    def lr_multipliers(self) -> dict[Parameter, float]:
        own = [*self.units.parameters(), *self.shortcuts.parameters()]
        return dict.fromkeys(own, self.lr_multiplier)

    def _stem_channels(self) -> int:
        column = self.columns()[self.tasks[0]]
        with probing(column) as images:
            return int(column.stem(images).shape[1])


class Unit(nn.Module):
    """One task's reduction of all tasks' features to its own width.

    Args:
        tasks: Names of the tasks, in the order in which their features are concatenated.
        receiver: The task whose unit it is.
        channels: Of each task's features.
        own: First weight of the receiver's features, times the identity.
        other: First weight of each other task's.
    """

    task_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {"reduce.weight": (1,)}

    def __init__(self, tasks: Sequence[str], receiver: str, channels: int, own: float, other: float) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(len(tasks) * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, momentum=0.05)
        self.activation = nn.ReLU(inplace=True)
        blocks = [(own if task == receiver else other) * torch.eye(channels) for task in tasks]
        with torch.no_grad():
            self.reduce.weight.copy_(torch.cat(blocks, 1)[..., None, None])

    def forward(self, features: Tensor) -> Tensor:
        """Maps all tasks' features ``[B, T * C, h, w]`` to the receiver's ``[B, C, h, w]``."""
        reduced: Tensor = self.activation(self.norm(self.reduce(features)))
        return reduced


class Shortcut(nn.Module):
    """All levels of a pyramid seen in the last one.

    Args:
        channels: Of each level.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        last = channels[-1]
        self.project = nn.Conv2d(sum(channels), last, 1, bias=False)
        with torch.no_grad():  # so that it starts as the network without it
            self.project.weight.zero_()
            self.project.weight[:, -last:, 0, 0] = torch.eye(last)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Maps levels ``[B, C_s, h_s, w_s]`` to one of the last one's shape."""
        projected: Tensor = self.project(torch.cat([to_size_of(levels[-1], level) for level in levels], 1))
        return projected
