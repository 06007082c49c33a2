"""What a decoder is: one feature pyramid a task to predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn import functional as F

from plait import registry
from plait.errors import ConfigurationError
from plait.models.predictions import Predictions
from plait.models.recompute import recomputed
from plait.tasks.base import Task


class Decoder(nn.Module, ABC):
    """Feature pyramids to predictions; tasks may stay apart or exchange features here.

    It is built from keyword arguments that the program knows, followed by its own options: ``tasks``
    (:class:`~plait.tasks.base.Task` values in declared order, auxiliary ones included), the encoder's
    ``channels``, ``strides`` and ``groups`` by task, and the backbone family's ``default_head``.

    Attributes:
        interacts: Whether a task's prediction depends on other tasks' features: then it needs the pyramids
            of all tasks.
        task_axes: Of any module in it: a parameter laid out by task, to the axes that hold the tasks' equal
            blocks in declared order; what lets weights be read in another order of tasks.
        gradient_checkpointing: Whether :meth:`run` computes parts again in the backward pass.
    """

    gradient_checkpointing: bool = False
    interacts: ClassVar[bool] = False
    task_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    @abstractmethod
    def forward(self, pyramids: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> Predictions:
        """Maps pyramids by task to these tasks' predictions, the final ones at ``size`` ``(H, W)``."""

    def loss_penalties(self, predictions: Predictions, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars by name that depend on the losses, such as a discriminator of their gradients.

        They are added to the objective outside the balancer, like ``predictions.penalties``.
        """
        return {}

    def lr_multipliers(self) -> dict[Parameter, float]:
        """Parameters that learn at a multiple of the learning rate, at every step of any schedule."""
        return {}

    def at_step(self, step: int, steps: int) -> None:
        """Called before each update with how many were made and how many there will be."""

    def run(self, part: nn.Module, *given: Any) -> Any:
        """A part's output; in training it is computed again in the backward pass, if asked for."""
        return recomputed(part, *given) if self.gradient_checkpointing and self.training else part(*given)


def make_heads(
    tasks: Sequence[Task],
    head: str,
    options: Mapping[str, Any] | None,
    *,
    channels: Mapping[str, Sequence[int]],
    strides: Mapping[str, Sequence[int]],
) -> nn.ModuleDict:
    """A head for each task that is not auxiliary, by the head's name, on levels of these shapes by task."""
    return nn.ModuleDict(
        {
            task.name: registry.build(
                "head",
                head,
                options or {},
                channels=channels[task.name],
                strides=strides[task.name],
                outputs=task.channels,
            )
            for task in tasks
            if not task.auxiliary
        }
    )


def require_all(tasks: Sequence[Task], pyramids: Mapping[str, Sequence[Tensor]], decoder: str) -> None:
    """Raises :class:`ConfigurationError` if the pyramid of a task is missing, naming the decoder."""
    if missing := [task.name for task in tasks if task.name not in pyramids]:
        raise ConfigurationError(
            f"decoder {decoder!r} refines each task with the others' features, so it needs all pyramids; "
            f"{', '.join(missing)} is missing: encode all tasks"
        )


def require_alike(
    channels: Mapping[str, Sequence[int]], strides: Mapping[str, Sequence[int]], decoder: str
) -> None:
    """Raises :class:`ConfigurationError` unless all tasks' pyramids have the same channels and strides."""
    shapes = {task: (tuple(channels[task]), tuple(strides[task])) for task in channels}
    if len(set(shapes.values())) > 1:
        told = "; ".join(f"{task}: channels {c}, strides {s}" for task, (c, s) in shapes.items())
        raise ConfigurationError(
            f"decoder {decoder!r} needs pyramids of the same channels and strides for all tasks, got {told}: "
            f"use one backbone for all"
        )


def resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinearly resized ``[B, C, h, w]`` to ``[B, C, H, W]``, corners not aligned, as the survey does."""
    height, width = size
    return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
