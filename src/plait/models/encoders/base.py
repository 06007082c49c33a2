"""What an encoder is: images to one feature pyramid a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from plait.errors import ConfigurationError
from plait.models.backbones import Backbone, Normalisation

Pyramids = dict[str, list[Tensor]]
"""``{task: [B, C_s, ceil(H/s), ceil(W/s)] for each stride s}``, finest first."""


class Encoder(nn.Module, ABC):
    """Images to one feature pyramid for each task; tasks may share features or exchange them inside.

    It is built from the tasks' names in declared order, auxiliary ones included, and from a function that
    makes a backbone, called once for each backbone it needs.

    Attributes:
        tasks: The names, in declared order.
        channels: Channels of each level of each task's pyramid.
        strides: Strides of each level of each task's pyramid.
        groups: The group of each task; tasks of one group are given the very same tensors.
        has_cut: Whether tasks meet in shared features that the decoder can be given as detached leaves, so
            that gradients can be taken there.
        normalisation: ``(mean, std)`` of RGB in [0, 1] that images are expected to be normalised with.
        default_head: The backbone family's usual head.
        searches: Whether it draws a structure at random in training, which is another in evaluation.
        task_axes: Of any module in it: a parameter laid out by task, to the axes that hold the tasks' equal
            blocks in declared order; what lets weights be read in another order of tasks.
    """

    searches: ClassVar[bool] = False
    task_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    tasks: tuple[str, ...]
    channels: dict[str, tuple[int, ...]]
    strides: dict[str, tuple[int, ...]]
    groups: dict[str, str]
    has_cut: bool
    normalisation: Normalisation
    default_head: str

    @abstractmethod
    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        """Maps images ``[B, 3, H, W]`` to a pyramid for each task, or for each of ``tasks`` only.

        What nobody asked for is not computed. The result is in declared order.

        Raises:
            ConfigurationError: If a task is unknown.
        """

    @abstractmethod
    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        """Every parameter of the encoder, once, under the tasks (in declared order) that use it."""

    def penalties(self) -> dict[str, Tensor]:
        """Scalars by name, functions of the parameters alone, added to the objective outside the balancer.

        Only an encoder without a cut may have any.
        """
        return {}

    def lr_multipliers(self) -> dict[Parameter, float]:
        """Parameters that learn at a multiple of the learning rate, at every step of any schedule."""
        return {}

    def at_step(self, step: int, steps: int) -> None:
        """Called before each update with how many were made and how many there will be.

        What changes over training (a temperature, a warm-up) is a function of these two, so that a resumed
        run computes what an uninterrupted one does.
        """

    def settle(self) -> None:
        """Takes now the decisions that evaluation takes by learned numbers, and keeps them until it trains.

        So that nothing has to be read from tensors while the network is exported.
        """

    def columns(self) -> dict[str, Backbone]:
        """The backbone that computes each task's features, if every task has one (or all have the same)."""
        return {}

    def asked(self, tasks: Iterable[str] | None) -> tuple[str, ...]:
        """The asked tasks in declared order; all for None.

        Raises:
            ConfigurationError: If one is unknown.
        """
        if tasks is None:
            return self.tasks
        wanted = set(tasks)
        if unknown := sorted(wanted - set(self.tasks)):
            raise ConfigurationError(
                f"the encoder has no task {unknown[0]!r}; it has {', '.join(self.tasks)}"
            )
        return tuple(task for task in self.tasks if task in wanted)


MakeBackbone = Callable[[], Backbone]


def task_names(tasks: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        ConfigurationError: If there is none, or one occurs twice.
    """
    names = tuple(tasks)
    if not names:
        raise ConfigurationError("an encoder needs at least one task, got none: declare a task")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"task names must differ, got {', '.join(names)}: rename one")
    return names


def staged(backbone: Backbone, encoder: str) -> Backbone:
    """The backbone, if features can be exchanged between its stages.

    Raises:
        ConfigurationError: If it has no stages, naming the encoder.
    """
    if len(backbone.stages) == 0:
        raise ConfigurationError(
            f"encoder {encoder!r} acts between the stages of a backbone, but {backbone.name!r} has none that "
            f"map one tensor to one: use a ResNet, EfficientNet, ConvNeXt or Swin, or encoder 'shared' or "
            f"'separate'"
        )
    return backbone


@contextmanager
def probing(backbone: Backbone) -> Iterator[Tensor]:
    """A blank padded image of 64x64, and the backbone in a mode in which running it leaves no trace."""
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        yield backbone.pad(next(backbone.parameters()).new_zeros(1, 3, 64, 64))
    backbone.train(training)
