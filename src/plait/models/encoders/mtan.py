"""MTAN: tasks select features of one shared backbone with attention masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from plait.errors import ConfigurationError
from plait.models.backbones import Backbone, Stage
from plait.models.blocks import Bottleneck
from plait.models.encoders.base import Encoder, MakeBackbone, Pyramids, probing, staged, task_names
from plait.models.recompute import recomputed


class MTAN(Encoder):
    """One backbone for all tasks; each task has a soft attention mask on the output of every stage.

    A task's mask is computed from the features before the last block of a stage and, after the first stage,
    from what the task selected in the stage before, refined by a bottleneck that all tasks share and
    pooled to the resolution of the stage. Its pyramid is what it selected. Tasks share features but do not
    exchange any, and what they share is not what the decoder is given, so there is no cut.

    Args:
        make_backbone: Makes the backbone; called once.
        tasks: Names of the tasks in declared order.

    Raises:
        ConfigurationError: If the backbone has no stages, or one of a single block.

    Source:
        Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, section 3, in the
        form for ResNets of Vandenhende et al., Multi-Task Learning for Dense Prediction Tasks: A Survey,
        TPAMI 2021. The paper's network is a SegNet with masks on every block of encoder and decoder.
    """

    has_cut = False

    def __init__(self, *, make_backbone: MakeBackbone, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = task_names(tasks)
        self.backbone = backbone = staged(make_backbone(), "mtan")
        for number, stage in enumerate(backbone.stages, 1):
            if len(stage) < 2:
                raise ConfigurationError(
                    f"encoder 'mtan' attends to what enters the last block of a stage, so it needs two "
                    f"blocks in each, but stage {number} of {backbone.name!r} has {len(stage)}: use a deeper "
                    f"backbone"
                )
        channels, strides = backbone.channels, backbone.strides
        seen = inner_channels(backbone)
        for place in range(
            1, len(seen)
        ):  # and what a task selected in the stage before, refined to this width
            seen[place] += channels[place]
        self.attention = nn.ModuleDict(
            {task: nn.ModuleList(map(mask, seen, channels)) for task in self.tasks}
        )
        self.refine = nn.ModuleList(
            refinement(channels[k], channels[k + 1], strides[k + 1] // strides[k])
            for k in range(len(channels) - 1)
        )
        self.channels = dict.fromkeys(self.tasks, channels)
        self.strides = dict.fromkeys(self.tasks, strides)
        self.groups = {task: task for task in self.tasks}
        self.normalisation = backbone.normalisation
        self.default_head = backbone.default_head

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        asked = self.asked(tasks)
        levels: Pyramids = {task: [] for task in asked}
        if not asked:
            return levels
        features = self.backbone.stem(self.backbone.pad(images))
        for place, stage in enumerate(self.backbone.stages):
            before, features = last_two(stage, features)
            for task in asked:
                seen = before
                if place:
                    seen = torch.cat([before, self.refine[place - 1](levels[task][-1])], 1)
                attention = cast("nn.ModuleList", self.attention[task])[place]
                levels[task].append(attention(seen) * features)
        return {task: self.backbone.crop(own, images.shape[-2:]) for task, own in levels.items()}

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        shared = [*self.backbone.parameters(), *self.refine.parameters()]
        if len(self.tasks) == 1:
            return {self.tasks: [*shared, *self.attention.parameters()]}
        return {self.tasks: shared} | {
            (task,): list(attention.parameters()) for task, attention in self.attention.items()
        }


def mask(inputs: int, outputs: int) -> nn.Sequential:
    """Features ``[B, inputs, h, w]`` to a mask ``[B, outputs, h, w]`` in (0, 1)."""
    middle = max(outputs // 4, 1)
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 1),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, outputs, 1),
        nn.BatchNorm2d(outputs),
        nn.Sigmoid(),
    )


def refinement(inputs: int, outputs: int, ratio: int) -> nn.Sequential:
    """What was selected in one stage to the channels and, ``ratio`` times coarser, the size of the next."""
    layers: list[nn.Module] = [Bottleneck(inputs, outputs)]
    if ratio > 1:
        layers.append(nn.MaxPool2d(ratio, ceil_mode=True))  # ceil: as odd sizes become in the backbone
    return nn.Sequential(*layers)


def last_two(stage: Stage, features: Tensor) -> tuple[Tensor, Tensor]:
    """What enters the last block of a stage, and what leaves it."""
    before = features
    for block in stage:
        before = features
        features = recomputed(block, features) if stage.recompute and stage.training else block(features)
    return before, features


def inner_channels(backbone: Backbone) -> list[int]:
    """Channels of what enters the last block of each stage, which may differ from the stage's own."""
    channels = []
    with probing(backbone) as images:
        features = backbone.stem(images)
        for stage in backbone.stages:
            before, features = last_two(stage, features)
            channels.append(int(before.shape[1]))
    return channels
