"""One backbone for all tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor
from torch.nn import Parameter

from plait.models.backbones import Backbone
from plait.models.encoders.base import Encoder, MakeBackbone, Pyramids, task_names


class Shared(Encoder):
    """Hard parameter sharing: one backbone, whose pyramid is every task's.

    Args:
        make_backbone: Makes the backbone; called once.
        tasks: Names of the tasks in declared order.

    Source:
        Caruana, Multitask Learning, Machine Learning 1997; the multi-task baseline of Vandenhende et al.,
        Multi-Task Learning for Dense Prediction Tasks: A Survey, TPAMI 2021, section 2.2.
    """

    has_cut = True

    def __init__(self, *, make_backbone: MakeBackbone, tasks: Sequence[str]) -> None:
        super().__init__()
        self.backbone = make_backbone()
        self.tasks = task_names(tasks)
        self.channels = dict.fromkeys(self.tasks, self.backbone.channels)
        self.strides = dict.fromkeys(self.tasks, self.backbone.strides)
        self.groups = dict.fromkeys(self.tasks, "shared")
        self.normalisation = self.backbone.normalisation
        self.default_head = self.backbone.default_head

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        asked = self.asked(tasks)
        if not asked:
            return {}
        levels = self.backbone(images)
        return {task: list(levels) for task in asked}

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        return {self.tasks: list(self.parameters())}

    def columns(self) -> dict[str, Backbone]:
        return dict.fromkeys(self.tasks, self.backbone)
