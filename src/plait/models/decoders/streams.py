"""What decoders that diffuse features have in common: a map, a stream a task, and the way to predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from plait.models.blocks import Bottleneck, MergedLevels
from plait.models.decoders.base import Decoder, make_heads, require_alike, require_all, resized
from plait.tasks.base import Task


class StreamDecoder(Decoder):
    """The pyramid as one map, two bottlenecks a task, an initial prediction; and the way to the final one.

    A subclass diffuses the streams' features between the two.

    Args:
        name: The decoder's, for messages.
        tasks: The tasks in declared order.
        channels: Channels of each level of each task's pyramid, the same for all tasks.
        strides: Strides of the levels, the same for all tasks.
        groups: The encoder's groups: one map is computed for each. None: each task is its own.
        width: Channels of each task's features.
        stride: The map has the size of the finest level with this stride or more.
        head: Head of the final predictions, on the reconstructed map.
        head_options: Keyword arguments of the head.
        gradient_checkpointing: Whether to compute the parts again in the backward pass.

    Raises:
        ConfigurationError: If tasks have pyramids of different shapes, or head or options are wrong.
    """

    interacts = True

    def __init__(
        self,
        name: str,
        *,
        tasks: Sequence[Task],
        channels: Mapping[str, Sequence[int]],
        strides: Mapping[str, Sequence[int]],
        groups: Mapping[str, str] | None,
        width: int,
        stride: int,
        head: str,
        head_options: Mapping[str, Any] | None,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        require_alike(channels, strides, name)
        self.name = name
        self.tasks = tuple(tasks)
        self.names = [task.name for task in tasks]
        self.main = [task.name for task in tasks if not task.auxiliary]
        self.gradient_checkpointing = gradient_checkpointing
        self.groups = {name: groups[name] if groups else name for name in self.names}
        first = self.names[0]
        self.maps = nn.ModuleDict(
            {
                group: MergedLevels(channels[first], strides[first], width, stride)
                for group in dict.fromkeys(self.groups.values())
            }
        )
        self.streams = nn.ModuleDict({name: _bottlenecks(width) for name in self.names})
        self.initial = nn.ModuleDict({task.name: nn.Conv2d(width, task.channels, 1) for task in tasks})
        self.reconstruct = nn.ModuleDict({name: _bottlenecks(width) for name in self.main})
        at = cast("MergedLevels", self.maps[self.groups[first]]).stride
        self.heads = make_heads(
            tasks,
            head,
            head_options,
            channels=dict.fromkeys(self.names, (width,)),
            strides=dict.fromkeys(self.names, (at,)),
        )

    def features(self, pyramids: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
        """Each task's features before the diffusion, ``[B, width, h, w]``."""
        require_all(self.tasks, pyramids, self.name)
        leaders = {group: task for task, group in self.groups.items()}
        maps = {group: self.run(self.maps[group], list(pyramids[task])) for group, task in leaders.items()}
        return {task: self.run(stream, maps[self.groups[task]]) for task, stream in self.streams.items()}

    def predicted(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every task's initial logits."""
        return {task: predict(features[task]) for task, predict in self.initial.items()}

    def finished(self, task: str, diffused: Tensor, size: Sequence[int]) -> Tensor:
        """A main task's final logits at ``size``, from its features after the diffusion."""
        return resized(self.heads[task]([self.run(self.reconstruct[task], diffused)]), size)


def _bottlenecks(width: int) -> nn.Sequential:
    return nn.Sequential(Bottleneck(width, width), Bottleneck(width, width))
