"""One backbone for each task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import Parameter

from plait.models.backbones import Backbone
from plait.models.encoders.base import Encoder, MakeBackbone, Pyramids, task_names


class Separate(Encoder):
    """No sharing: each task has a backbone of its own, trained jointly in one model.

    With one task it is a single-task network, and with several it computes what as many single-task
    networks would. Nothing is shared, so there is no cut.

    Args:
        make_backbone: Makes a backbone; called once a task, in declared order.
        tasks: Names of the tasks in declared order.
    """

    has_cut = False

    def __init__(self, *, make_backbone: MakeBackbone, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = task_names(tasks)
        backbones = {task: make_backbone() for task in self.tasks}
        self.backbones = nn.ModuleDict(backbones)
        first = backbones[self.tasks[0]]
        self.channels = {task: backbone.channels for task, backbone in backbones.items()}
        self.strides = {task: backbone.strides for task, backbone in backbones.items()}
        self.groups = {task: task for task in self.tasks}
        self.normalisation = first.normalisation
        self.default_head = first.default_head

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        return {task: self.backbones[task](images) for task in self.asked(tasks)}

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        return {(task,): list(self.backbones[task].parameters()) for task in self.tasks}

    def columns(self) -> dict[str, Backbone]:
        return {task: cast("Backbone", self.backbones[task]) for task in self.tasks}
