"""A tree of stages over groups of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import Parameter

from plait.models.backbones import Backbone
from plait.models.encoders.base import Encoder, MakeBackbone, Pyramids, staged, task_names
from plait.models.encoders.trees import Group, Tree


class Branched(Encoder):
    """Tasks share the first parts of a backbone and branch off later, as a tree says.

    With one group it is ``shared``, with every task alone ``separate``. The tree is given, or found by
    ``plait branch``.

    Args:
        make_backbone: Makes a backbone; called once for each group of the last part.
        tasks: Names of the tasks in declared order.
        tree: A partition of the tasks for the stem and for each stage, such as
            ``["a b c", "a b c", "a | b c"]``; the last one holds for the remaining stages, and tasks that
            have branched off do not come together again.

    Attributes:
        tree: The tree, with a partition for every part.
        copies: The copy of each part that a task uses, by the name of the backbone that holds it.

    Raises:
        ConfigurationError: If the backbone has no stages, or ``tree`` is none of these tasks.

    Source:
        Vandenhende et al., Branched Multi-Task Networks: Deciding What Layers To Share, BMVC 2020. Where we
        differ: branches may also part at the stem, and a leaf may be a group of tasks, whose heads part.
    """

    def __init__(self, *, make_backbone: MakeBackbone, tasks: Sequence[str], tree: Sequence[str]) -> None:
        super().__init__()
        self.tasks = task_names(tasks)
        first = staged(make_backbone(), "branched")
        self.tree = Tree.parse(tree, tasks=self.tasks, parts=1 + len(first.stages))
        # The first name, in any order of tasks, so that weights can be read in another order.
        self.copies = {
            task: [min(self.tree.group(part, task)) for part in range(1 + len(first.stages))]
            for task in self.tasks
        }
        leaders = [min(group) for group in self.tree.partitions[-1]]
        backbones = {leader: make_backbone() if number else first for number, leader in enumerate(leaders)}
        for leader, backbone in backbones.items():
            for part, copy in enumerate(self.copies[leader]):
                if copy != leader:
                    backbone.drop(part)
        self.backbones = nn.ModuleDict(backbones)
        self.channels = dict.fromkeys(self.tasks, first.channels)
        self.strides = dict.fromkeys(self.tasks, first.strides)
        self.groups = {task: copies[-1] for task, copies in self.copies.items()}
        self.has_cut = any(len(group) > 1 for group in self.tree.partitions[-1])
        self.normalisation = first.normalisation
        self.default_head = first.default_head

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        asked = self.asked(tasks)
        if not asked:
            return {}
        whole = self._backbone(min(self.tasks))
        padded = whole.pad(images)
        made: dict[tuple[int, str], Tensor] = {}
        for task in asked:
            features = padded
            for part, copy in enumerate(self.copies[task]):
                if (part, copy) not in made:
                    made[part, copy] = self._backbone(copy).part(part)(features)
                features = made[part, copy]
        pyramids: Pyramids = {}
        cropped: dict[tuple[int, str], Tensor] = {}  # tasks that share a level are given the very same tensor
        for task in asked:
            keys = list(enumerate(self.copies[task]))[1:]
            levels = whole.crop([made[key] for key in keys], images.shape[-2:])
            pyramids[task] = [cropped.setdefault(key, level) for key, level in zip(keys, levels, strict=True)]
        return pyramids

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        users: dict[Group, list[Parameter]] = {}
        for part, partition in enumerate(self.tree.partitions):
            for group in partition:
                users.setdefault(group, []).extend(self._backbone(min(group)).part(part).parameters())
        return users

    def columns(self) -> dict[str, Backbone]:
        if any(len(set(copies)) > 1 for copies in self.copies.values()):
            return {}
        return {task: self._backbone(copies[0]) for task, copies in self.copies.items()}

    def _backbone(self, name: str) -> Backbone:
        return cast("Backbone", self.backbones[name])
