"""MTI-Net: tasks interact at every scale of the pyramid, and each scale helps the next finer one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from plait import registry
from plait.errors import ConfigurationError
from plait.models.blocks import BasicBlock, FeaturePyramid, SqueezeExcite, to_size_of
from plait.models.decoders.base import Decoder, make_heads, require_alike, require_all, resized
from plait.models.decoders.distillation import distillation_module
from plait.models.heads import DeepLabHead
from plait.models.predictions import Predictions
from plait.tasks.base import Task


class MTINet(Decoder):
    """Tasks are predicted and inform each other at every scale, from coarse to fine.

    At the coarsest level two residual blocks make each task's features, from which a 1x1 convolution makes
    an initial prediction. A propagation module mixes the tasks' features and hands them to the next finer
    level, where they are concatenated with the backbone's, and so on. Then the features of each scale are
    distilled as in PAD-Net, and a head makes each final prediction of all scales. Auxiliary tasks are
    predicted and propagated at every scale and send messages, but do not receive and have no final
    prediction. A task that is alone receives no messages.

    Args:
        tasks: The tasks in declared order.
        channels: Channels of each level of each task's pyramid, the same for all tasks.
        strides: Strides of the levels, the same for all tasks; neighbours may be equal.
        groups: The encoder's groups: one neck is built for each. None: each task is its own.
        default_head: The backbone family's head; decides what ``neck`` is if that is None.
        neck: ``fpn`` (every level gets ``width`` channels first, see
            :class:`~plait.models.blocks.FeaturePyramid`) or ``none`` (the levels as they are). None: ``fpn``
            on ResNet, else ``none``.
        width: Channels of the neck.
        distillation: ``attention`` (gated messages), ``message`` (without gates) or ``concatenation``; see
            :mod:`plait.models.decoders.distillation`.
        reference: Whether propagation normalises over the published code's groups of channels instead of
            over tasks; see :class:`FeaturePropagation`.
        head: Head of the final predictions, one that reads all levels.
        head_options: Keyword arguments of the head.
        gradient_checkpointing: Whether to compute residual blocks, propagation, gated messages and heads
            again in the backward pass: less memory for more time.

    Raises:
        ConfigurationError: If tasks have pyramids of different shapes, or an option is wrong.

    Source:
        Vandenhende, Georgoulis and Van Gool, MTI-Net: Multi-Scale Task Interaction Networks for Multi-Task
        Learning, ECCV 2020. Differs from the published code in ``reference``, which is False by default. The
        neck on a ResNet is in the paper but not in that code, so its details are ours.
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
        neck: Literal["fpn", "none"] | None = None,
        width: int = 256,
        distillation: Literal["attention", "concatenation", "message"] = "attention",
        reference: bool = False,
        head: str = "hrnet",
        head_options: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_alike(channels, strides, "mti_net")
        self.tasks = tuple(tasks)
        self.gradient_checkpointing = gradient_checkpointing
        names = [task.name for task in tasks]
        main = [task.name for task in tasks if not task.auxiliary]
        self.groups = {name: groups[name] if groups else name for name in names}
        if width < 1:
            raise ConfigurationError(f"the width of decoder 'mti_net' must be 1 or more, got {width}")
        chosen = ("fpn" if default_head == "deeplab" else "none") if neck is None else neck
        if chosen not in ("fpn", "none"):
            raise ConfigurationError(f"neck of decoder 'mti_net' must be 'fpn' or 'none', got {chosen!r}")
        levels = list(channels[names[0]])
        if len(levels) > 1 and _reads_last_level_only(head):
            raise ConfigurationError(
                f"decoder 'mti_net' refines all levels of the pyramid, but head {head!r} reads the last one "
                f"only: use hrnet, fpn or linear"
            )
        self.necks = nn.ModuleDict()
        if chosen == "fpn":
            for group in dict.fromkeys(self.groups.values()):
                self.necks[group] = FeaturePyramid(levels, width)
            levels = [width] * len(levels)
        self.scales = nn.ModuleList(
            nn.ModuleDict({name: TaskFeatures(own + coarser, own) for name in names})
            for own, coarser in zip(levels, [*levels[1:], 0], strict=True)
        )
        self.initial = nn.ModuleList(
            nn.ModuleDict({task.name: nn.Conv2d(own, task.channels, 1) for task in tasks}) for own in levels
        )
        self.propagations = nn.ModuleList(
            FeaturePropagation(names, own, reference=reference) for own in levels[1:]
        )
        self.distillations = nn.ModuleList(
            distillation_module(distillation, names, main, own, gradient_checkpointing=gradient_checkpointing)
            for own in levels
        )
        self.heads = make_heads(
            tasks, head, head_options, channels=dict.fromkeys(names, levels), strides=strides
        )

    def forward(self, pyramids: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> Predictions:
        require_all(self.tasks, pyramids, "mti_net")
        necked = self._necked(pyramids)
        initial: list[dict[str, Tensor]] = []
        refined: list[dict[str, Tensor]] = []
        handed: dict[str, Tensor] = {}
        for scale in reversed(range(len(self.scales))):
            features = {
                task: self.run(block, necked[task][scale], *([handed[task]] if handed else []))
                for task, block in _parts(self.scales[scale])
            }
            initial.insert(0, {task: made(features[task]) for task, made in _parts(self.initial[scale])})
            refined.insert(0, self.distillations[scale](features))
            if scale > 0:
                handed = self.run(self.propagations[scale - 1], features)
        final = {
            task: resized(self.run(head, [level[task] for level in refined]), size)
            for task, head in self.heads.items()
        }
        return Predictions(final, initial)

    def _necked(self, pyramids: Mapping[str, Sequence[Tensor]]) -> Mapping[str, Sequence[Tensor]]:
        if not self.necks:
            return pyramids
        leaders = {group: task for task, group in self.groups.items()}
        made = {group: self.necks[group](pyramids[task]) for group, task in leaders.items()}
        return {task: made[group] for task, group in self.groups.items()}


class TaskFeatures(nn.Module):
    """One task's features at one scale: two residual blocks on the backbone's level and what came before.

    Args:
        inputs: Channels of the level and of the features handed from the coarser scale, if any, together.
        outputs: Channels of the features.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(BasicBlock(inputs, outputs), BasicBlock(outputs, outputs))

    def forward(self, level: Tensor, *handed: Tensor) -> Tensor:
        """Maps ``[B, C_s, h, w]`` and coarser ``[B, C', h', w']`` to ``[B, outputs, h, w]``."""
        together = torch.cat([level, *(to_size_of(level, coarser) for coarser in handed)], 1)
        features: Tensor = self.blocks(together)
        return features


class FeaturePropagation(nn.Module):
    """Mixes the tasks' features of one scale into what each hands to the next finer one.

    From the features F of all N tasks, concatenated, two residual blocks and a 1x1 convolution compute a mask
    of N C channels, a softmax over the tasks for each channel. The masked features, reduced to C channels by
    a residual block, are what the tasks share; each adds it to its own after a squeeze-and-excitation. With
    one task the mask would be 1, so there is none.

    Args:
        tasks: N names in declared order.
        channels: C, of every task's features.
        reference: The published code concatenates by task but normalises over groups of N consecutive
            channels, which are mostly of one task: the mask then does not weigh tasks against each other, and
            the network depends on the order of tasks. True computes that, for the published numbers.

    Source:
        Vandenhende et al., MTI-Net, ECCV 2020, feature propagation module.
    """

    def __init__(self, tasks: Sequence[str], channels: int, *, reference: bool = False) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.reference = reference
        together = len(tasks) * channels
        hidden = max(together // 4, 1)
        self.mask = nn.Sequential(
            BasicBlock(together, hidden), BasicBlock(hidden, hidden), nn.Conv2d(hidden, together, 1)
        )
        self.share = BasicBlock(together, channels)
        self.adapt = nn.ModuleDict({task: SqueezeExcite(channels) for task in tasks})
        self.task_axes = {
            "mask.0.body.0.weight": (1,),
            "mask.0.shortcut.0.weight": (1,),
            "mask.2.weight": (0,),
            "mask.2.bias": (0,),
            "share.body.0.weight": (1,),
            "share.shortcut.0.weight": (1,),
        }
        if len(tasks) == 1:
            self.mask = nn.Sequential()
            self.task_axes = {}

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Maps each task's features ``[B, C, h, w]`` to what it hands on, of the same shape."""
        together = torch.cat([features[task] for task in self.tasks], 1)
        if len(self.tasks) > 1:
            together = together * self._normalised(self.mask(together))
        shared = self.share(together)
        return {task: features[task] + adapt(shared) for task, adapt in self.adapt.items()}

    def _normalised(self, mask: Tensor) -> Tensor:
        batch, channels, *size = mask.shape
        tasks = len(self.tasks)
        if self.reference:
            return mask.view(batch, channels // tasks, tasks, *size).softmax(2).reshape(mask.shape)
        return mask.view(batch, tasks, channels // tasks, *size).softmax(1).reshape(mask.shape)


def _parts(modules: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(cast("nn.ModuleDict", modules).items())


def _reads_last_level_only(head: str) -> bool:
    made = registry.resolve("head", head)
    return isinstance(made, type) and issubclass(made, DeepLabHead)
