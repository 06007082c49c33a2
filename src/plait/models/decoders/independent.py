"""One head for each task, without interaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from plait.errors import ConfigurationError
from plait.models.decoders.base import Decoder, make_heads, resized
from plait.models.predictions import Predictions
from plait.tasks.base import Task


class Independent(Decoder):
    """One head for each task; tasks do not interact.

    Args:
        tasks: The tasks in declared order, none of them auxiliary.
        channels: Channels of each level of each task's pyramid.
        strides: Strides of each level of each task's pyramid.
        groups: The encoder's groups; heads are never shared, so they are not used.
        default_head: The head that is built if ``head`` is None: the backbone family's.
        head: ``deeplab``, ``hrnet``, ``fpn``, ``linear``, or your own as ``package.module:Class``.
        head_options: Keyword arguments of the head.

    Raises:
        ConfigurationError: If a task is auxiliary (there is no intermediate prediction to supervise), or
            the head or one of its options is unknown.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[Task],
        channels: Mapping[str, Sequence[int]],
        strides: Mapping[str, Sequence[int]],
        groups: Mapping[str, str] | None = None,
        default_head: str = "fpn",
        head: str | None = None,
        head_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if auxiliary := [task.name for task in tasks if task.auxiliary]:
            raise ConfigurationError(
                f"decoder 'independent' predicts nothing on the way, so it cannot supervise the auxiliary "
                f"{'task' if len(auxiliary) == 1 else 'tasks'} {', '.join(auxiliary)}: leave out what is "
                f"auxiliary, or predict it with auxiliary: false"
            )
        self.head = default_head if head is None else head
        self.heads = make_heads(tasks, self.head, head_options, channels=channels, strides=strides)

    def forward(self, pyramids: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> Predictions:
        return Predictions(
            {
                task: resized(head(pyramids[task]), size)
                for task, head in self.heads.items()
                if task in pyramids
            }
        )
