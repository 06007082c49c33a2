"""PAD-Net: predict all tasks, let their features inform each other, predict again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from plait import registry
from plait.errors import ConfigurationError
from plait.models.blocks import Bottleneck, MergedLevels, conv_norm_relu, to_size_of
from plait.models.decoders.base import Decoder, make_heads, require_alike, require_all, resized
from plait.models.decoders.distillation import distillation_module
from plait.models.heads import Head
from plait.models.predictions import Predictions
from plait.tasks.base import Task


class PADNet(Decoder):
    """Every task is predicted once, refined by messages from the others, and predicted again.

    The pyramid becomes one map. For each task two bottlenecks turn it into features of ``width`` channels,
    from which a 1x1 convolution makes the initial prediction. Distillation adds to a task's features what
    the other tasks send, and a head makes the final prediction of the result. Auxiliary tasks are predicted
    initially and send, but do not receive and are not predicted again. A task that is alone receives nothing:
    its features go to the final head as they are.

    Args:
        tasks: The tasks in declared order.
        channels: Channels of each level of each task's pyramid, the same for all tasks.
        strides: Strides of the levels, the same for all tasks.
        groups: The encoder's groups: one map is computed for each. None: each task is its own.
        default_head: The backbone family's head; decides what ``features`` is if that is None.
        width: Channels of each task's features.
        distillation: ``attention`` (gated messages), ``message`` (without gates) or ``concatenation``; see
            :mod:`plait.models.decoders.distillation`.
        features: How the pyramid becomes one map: ``concat`` (all levels resized to the finest, concatenated
            and mixed by a 1x1 convolution), ``fpn`` (all projected to ``width`` channels, resized to the
            finest and summed) or ``last`` (the last level as it is). None: ``concat`` on HRNet, else ``fpn``.
        head: Head of the final predictions; None for the published one, :class:`BottleneckHead`.
        head_options: Keyword arguments of the head.
        gradient_checkpointing: Whether to compute bottlenecks, gated messages and heads again in the
            backward pass: less memory for more time.

    Raises:
        ConfigurationError: If tasks have pyramids of different shapes, or an option is wrong.

    Source:
        Xu et al., PAD-Net: Multi-Tasks Guided Prediction-and-Distillation Network for Simultaneous Depth
        Estimation and Scene Parsing, CVPR 2018; as configured on HRNet in Vandenhende et al., Multi-Task
        Learning for Dense Prediction Tasks: A Survey, TPAMI 2021. There is no published configuration on
        a ResNet (concatenating 3840 channels at stride 4 is out of reach); ``fpn`` is our choice.
    """

    interacts = True

    def __init__(
        self,
        *,
        tasks: Sequence[Task],
        channels: Mapping[str, Sequence[int]],
        strides: Mapping[str, Sequence[int]],
        groups: Mapping[str, str] | None = None,
        default_head: str = "fpn",
        width: int = 256,
        distillation: Literal["attention", "concatenation", "message"] = "attention",
        features: Literal["concat", "fpn", "last"] | None = None,
        head: str | None = None,
        head_options: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_alike(channels, strides, "pad_net")
        if width < 1:
            raise ConfigurationError(f"the width of decoder 'pad_net' must be 1 or more, got {width}")
        self.tasks = tuple(tasks)
        self.gradient_checkpointing = gradient_checkpointing
        names = [task.name for task in tasks]
        main = [task.name for task in tasks if not task.auxiliary]
        self.groups = {name: groups[name] if groups else name for name in names}
        source = ("concat" if default_head == "hrnet" else "fpn") if features is None else features
        levels, steps = channels[names[0]], strides[names[0]]
        known: Mapping[str, tuple[Callable[[], nn.Module], int, int]] = {
            "concat": (lambda: ConcatenatedLevels(levels), sum(levels), steps[0]),
            "fpn": (lambda: MergedLevels(levels, steps, width, steps[0]), width, steps[0]),
            "last": (LastLevel, levels[-1], steps[-1]),
        }
        if source not in known:
            raise ConfigurationError(
                f"unknown features {source!r} of decoder 'pad_net'{registry.nearest(source, known)}; "
                f"known are {', '.join(known)}"
            )
        make_map, inputs, stride = known[source]
        self.maps = nn.ModuleDict({group: make_map() for group in dict.fromkeys(self.groups.values())})
        self.refine = nn.ModuleDict(
            {name: nn.Sequential(Bottleneck(inputs, width), Bottleneck(width, width)) for name in names}
        )
        self.initial = nn.ModuleDict({task.name: nn.Conv2d(width, task.channels, 1) for task in tasks})
        self.distillation = distillation_module(
            distillation, names, main, width, gradient_checkpointing=gradient_checkpointing
        )
        self.heads = make_heads(
            tasks,
            f"{BottleneckHead.__module__}:{BottleneckHead.__name__}" if head is None else head,
            head_options,
            channels=dict.fromkeys(names, (width,)),
            strides=dict.fromkeys(names, (stride,)),
        )

    def forward(self, pyramids: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> Predictions:
        require_all(self.tasks, pyramids, "pad_net")
        leaders = {group: task for task, group in self.groups.items()}
        maps = {group: self.run(self.maps[group], list(pyramids[task])) for group, task in leaders.items()}
        features = {task: self.run(refine, maps[self.groups[task]]) for task, refine in self.refine.items()}
        initial = {task: predict(features[task]) for task, predict in self.initial.items()}
        refined = self.distillation(features)
        final = {task: resized(self.run(head, [refined[task]]), size) for task, head in self.heads.items()}
        return Predictions(final, [initial])


class ConcatenatedLevels(nn.Module):
    """All levels resized to the finest, concatenated and mixed by a 1x1 convolution.

    Source:
        Sun et al., High-Resolution Representations for Labeling Pixels and Regions, 2019, figure 2.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.fuse = conv_norm_relu(sum(channels), sum(channels), 1, bias=True)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Maps levels ``[B, C_s, h_s, w_s]``, finest first, to the finest size with all channels."""
        fused: Tensor = self.fuse(torch.cat([to_size_of(pyramid[0], level) for level in pyramid], 1))
        return fused


class LastLevel(nn.Module):
    """The last level as it is."""

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Maps levels ``[B, C_s, h_s, w_s]``, finest first, to the last."""
        return pyramid[-1]


class BottleneckHead(Head):
    """PAD-Net's head: two bottlenecks and the logits, from the finest level.

    Args:
        channels: Channels of each level; the first is used.
        strides: Stride of each level.
        outputs: Channels of the logits.

    Source:
        The published networks of Vandenhende et al., TPAMI 2021.
    """

    def __init__(self, *, channels: Sequence[int], strides: Sequence[int], outputs: int) -> None:
        super().__init__()
        width = channels[0]
        self.refine = nn.Sequential(Bottleneck(width, width), Bottleneck(width, width))
        self.last_layer = nn.Conv2d(width, outputs, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.last_layer(self.refine(pyramid[0]))
        return logits
