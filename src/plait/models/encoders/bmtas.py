"""A tree of stages that is searched together with what it costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from plait.models.encoders.base import MakeBackbone
from plait.models.encoders.supergraph import (
    Choices,
    Supergraph,
    counted_if,
    mixed,
    part_costs,
    require_not_negative,
    require_schedule,
    search_progress,
)


def expected_copies(chances: Tensor) -> Tensor:
    """How many copies of each part the tree has on average if every task draws its copies independently.

    A task's copy of a part is the sequence of its choices up to there, and is used unless no task draws it.

    Args:
        chances: Of each task's choice at each part, ``[parts, tasks, K]``.

    Returns:
        ``[parts]``, each between 1 and the number of tasks. On the way are ``tasks * K ** parts`` numbers.

    >>> import torch
    >>> expected_copies(torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [1.0, 0.0]]]))
    tensor([1.5000, 1.5000])
    """
    reached, counts = chances.new_ones(chances.shape[1], 1), []
    for part in chances.unbind():
        reached = (reached[:, :, None] * part[:, None, :]).flatten(1)
        counts.append((1 - (1 - reached).prod(0)).sum())
    return torch.stack(counts)


class BMTAS(Supergraph):
    """Branched multi-task architecture search: each task draws at each stage which copy of it to go through.

    There is one stem, and a copy of every stage for each task. In training a task's features at a stage are
    the copies' outputs weighted by a Gumbel-softmax draw whose temperature falls; a penalty, the expected
    cost of the drawn tree, makes tasks share. Two tasks share a part if they choose the same copies of it
    and of all parts before: after a different choice their features differ. Search, then train the tree of
    :meth:`tree` with encoder ``branched``.

    A task may come to any copy with any features, so with T tasks and S stages a training step runs
    ``T + (S - 1) T^2`` stages (the first stage reads the same stem for all). In the warm-up and in
    evaluation each task runs one copy a stage.

    Args:
        make_backbone: Makes a backbone; called once a task.
        tasks: Names of the tasks in declared order.
        resource_weight: Of the penalty: the expected multiply-accumulates of the encoder, over those of a
            backbone for each task.
        warmup: The part of training at the start in which each task goes through its own copies.
        temperature: Of the draws after the warm-up.
        final_temperature: The same at the end; in between it falls evenly.
        hard: Whether a draw is one copy (straight through) instead of a mixture.
        lr_multiplier: Learning rate of the logits over that of the network.

    Raises:
        ConfigurationError: If the backbone has no stages, or an option is out of range.

    Source:
        Bruggemann, Kanakis, Georgoulis and Van Gool, Automated Search for Resource-Efficient Branched
        Multi-Task Networks, BMVC 2020, section 3. Where we differ: copies are of stages instead of single
        blocks; logits and weights learn in the same steps instead of in turn on two parts of the data, and
        all tasks in one step; the cost is exact by summing over sequences of choices, and divided by that of
        separate networks; running statistics of a copy count only batches of tasks that prefer it, where the
        published code resets them.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        tasks: Sequence[str],
        resource_weight: float = 0.05,
        warmup: float = 0.05,
        temperature: float = 5.0,
        final_temperature: float = 0.1,
        hard: bool = False,
        lr_multiplier: float = 10.0,
    ) -> None:
        require_schedule(warmup, temperature, final_temperature)
        require_not_negative(resource_weight=resource_weight, lr_multiplier=lr_multiplier)
        super().__init__(name="bmtas", make_backbone=make_backbone, tasks=tasks, temperature=temperature)
        self.costs = part_costs(self.backbone(self.nodes[0]))
        for node in self.nodes[1:]:
            self.backbone(node).drop(0)
        self.logits = self.make_logits(len(self.costs) - 1)
        self.resource_weight = resource_weight
        self.warmup = warmup
        self.temperatures = (temperature, final_temperature)
        self.hard = hard
        self.lr_multiplier = lr_multiplier

    def at_step(self, step: int, steps: int) -> None:
        progress = search_progress(step, steps, self.warmup)
        self.warming = progress is None
        first, last = self.temperatures
        self.temperature.fill_(first + (progress or 0.0) * (last - first))

    def lr_multipliers(self) -> dict[Parameter, float]:
        return dict.fromkeys(self.logits.parameters(), self.lr_multiplier)

    def penalties(self) -> dict[str, Tensor]:
        """The expected cost of the drawn tree, weighted; what does not depend on the logits included."""
        copies = expected_copies(self.all_logits().softmax(-1))
        stem, *stages = self.costs
        expected = stem + (copies * copies.new_tensor(stages)).sum()
        return {"resources": self.resource_weight * expected / (len(self.tasks) * sum(self.costs))}

    def choices(self) -> Choices:
        """The copies that each task prefers; the stem is everybody's."""
        preferred = self.preferred()
        return {task: (self.nodes[0], *(place[task] for place in preferred)) for task in self.tasks}

    def search(self, images: Tensor, asked: Sequence[str]) -> dict[str, list[Tensor]]:
        if self.warming:
            own = {task: (self.nodes[0], *[task] * (len(self.costs) - 1)) for task in asked}
            return self.discrete(images, asked, own)
        first, *others = self.drawn(hard=self.hard)
        tried = self._tried(1, self.part(self.nodes[0], 0)(images), list(first.values()))
        levels = {task: [mixed(first[task], tried)] for task in asked}
        for part, draws in enumerate(others, start=2):
            for task in asked:
                tried = self._tried(part, levels[task][-1], [draws[task]])
                levels[task].append(mixed(draws[task], tried))
        return levels

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        users = {self.tasks: list(self.backbones.parameters())}
        for task in self.tasks:
            users.setdefault((task,), []).extend(place[task] for place in self._places())
        return users

    def _tried(self, part: int, features: Tensor, draws: Sequence[Tensor]) -> list[Tensor]:
        """Every copy of a part on features, which are of the tasks that drew this."""
        preferred, made = torch.stack([draw.detach().argmax() for draw in draws]), []
        for number, node in enumerate(self.nodes):
            copy = self.part(node, part)
            with counted_if(copy, (preferred == number).any()):
                made.append(copy(features))
        return made
