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

    Raises:
        ConfigurationError: If the backbone has no stages, or ``tree`` is none of these tasks.

    Source:
        Vandenhende et al., Branched Multi-Task Networks: Deciding What Layers To Share, BMVC 2020.
    """

    def __init__(self, *, make_backbone: MakeBackbone, tasks: Sequence[str], tree: Sequence[str]) -> None:
        super().__init__()
        self.tasks = task_names(tasks)
        first = staged(make_backbone(), "branched")
        self.tree = Tree.parse(tree, tasks=self.tasks, parts=1 + len(first.stages))
        leaders = [min(group) for group in self.tree.partitions[-1]]
        backbones = {leader: make_backbone() if number else first for number, leader in enumerate(leaders)}
        for part, partition in enumerate(self.tree.partitions):
            for leader in set(leaders) - {min(group) for group in partition}:
                backbones[leader].drop(part)
        self.backbones = nn.ModuleDict(backbones)
        self.channels = dict.fromkeys(self.tasks, first.channels)
        self.strides = dict.fromkeys(self.tasks, first.strides)
        self.groups = {task: min(group) for group in self.tree.partitions[-1] for task in group}
        self.has_cut = any(len(group) > 1 for group in self.tree.partitions[-1])
        self.normalisation = first.normalisation
        self.default_head = first.default_head

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        asked = self.asked(tasks)
        if not asked:
            return {}
        backbone = cast("Backbone", self.backbones[min(self.tasks)])
        features = dict.fromkeys(asked, backbone.pad(images))
        levels: dict[str, list[Tensor]] = {task: [] for task in asked}
        for part, partition in enumerate(self.tree.partitions):
            for group in partition:
                if users := [task for task in group if task in features]:
                    made = self._part(group, part)(features[users[0]])
                    features.update(dict.fromkeys(users, made))
                    for task in users if part else ():
                        levels[task].append(made)
        whole: dict[int, Tensor] = {}  # tasks that share a level are given the very same tensor
        return {
            task: [
                whole.setdefault(id(level), cropped)
                for level, cropped in zip(levels[task], backbone.crop(levels[task], images.shape[-2:]))
            ]
            for task in asked
        }

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        users: dict[Group, list[Parameter]] = {}
        for part, partition in enumerate(self.tree.partitions):
            for group in partition:
                users.setdefault(group, []).extend(self._part(group, part).parameters())
        return users

    def _part(self, group: Group, part: int) -> nn.Module:
        """The copy of a part that a group uses: that of its first task by name, in any order of tasks."""
        backbone = cast("Backbone", self.backbones[min(group)])
        return backbone.stages[part - 1] if part else backbone.stem
