"""A tree of stages whose edges are learned."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import Parameter

from plait.models.encoders.base import MakeBackbone
from plait.models.encoders.supergraph import (
    Choices,
    Supergraph,
    mixed,
    require_not_negative,
    require_schedule,
    search_progress,
)


def branching_temperature(progress: float, first: float, last: float) -> float:
    """The temperature when a part of the search is over: its inverse square grows evenly.

    It is the published ``E / 20 / sqrt(e + 1)`` at epoch e of E, with both ends free.

    >>> branching_temperature(0.0, 10.0, 0.5), branching_temperature(1.0, 10.0, 0.5)
    (10.0, 0.5)
    """
    if progress >= 1:
        return last
    return float(((1 - progress) / first**2 + progress / last**2) ** -0.5)


class LearnedBranching(Supergraph):
    """Learning to branch: each node of a layer draws the node of the layer before that it continues.

    A layer is a part of the backbone, the stem or a stage, and has a node for each task, with weights of its
    own. In training each node draws one parent and each task one node of the last layer; the draw is hard,
    and its gradient that of a Gumbel-softmax whose temperature falls. What reads an image in the end is a
    tree: a node has one parent, so tasks that meet in a node share all before it. Search, then train the
    tree of :meth:`tree` with encoder ``branched``.

    Args:
        make_backbone: Makes a backbone; called once a task.
        tasks: Names of the tasks in declared order.
        warmup: The part of training at the start in which edges are drawn but logits do not learn.
        temperature: Of the draws at the start.
        final_temperature: The same at the end.
        lr_multiplier: Learning rate of the logits over that of the network.

    Raises:
        ConfigurationError: If the backbone has no stages, or an option is out of range.

    Source:
        Guo, Lee and Ulbricht, Learning to Branch for Multi-Task Learning, ICML 2020, section 3; temperature
        and the warm-up's length as in LibMTL at 200 epochs. Where we differ: a task reads a pyramid, so it
        takes a level from each node of its path, and tasks draw their last node too; LibMTL sums all parents
        during the warm-up, where we draw one.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        tasks: Sequence[str],
        warmup: float = 0.01,
        temperature: float = 10.0,
        final_temperature: float = 0.7,
        lr_multiplier: float = 1.0,
    ) -> None:
        require_schedule(warmup, temperature, final_temperature)
        require_not_negative(lr_multiplier=lr_multiplier)
        super().__init__(
            name="learned_branching", make_backbone=make_backbone, tasks=tasks, temperature=temperature
        )
        # Of the k-th part: for each node of the next part, and in the end for each task, who it continues.
        self.logits = self.make_logits(1 + len(self.backbone(self.nodes[0]).stages))
        self.warmup = warmup
        self.temperatures = (temperature, final_temperature)
        self.lr_multiplier = lr_multiplier

    def at_step(self, step: int, steps: int) -> None:
        progress = search_progress(step, steps, self.warmup)
        self.warming = progress is None
        self.temperature.fill_(branching_temperature(progress or 0.0, *self.temperatures))

    def lr_multipliers(self) -> dict[Parameter, float]:
        return dict.fromkeys(self.logits.parameters(), self.lr_multiplier)

    def choices(self) -> Choices:
        """The nodes on each task's path."""
        *parents, last = self.preferred()
        paths: Choices = {}
        for task in self.tasks:
            path = [last[task]]
            for parent in reversed(parents):
                path.append(parent[path[-1]])
            paths[task] = tuple(reversed(path))
        return paths

    def search(self, images: Tensor, asked: Sequence[str]) -> dict[str, list[Tensor]]:
        *edges, last = self.drawn(hard=True)
        features, layers = [self.part(node, 0)(images) for node in self.nodes], []
        for part, edge in enumerate(edges, start=1):
            features = [self.part(node, part)(mixed(edge[node], features)) for node in self.nodes]
            layers.append(features)
        levels: dict[str, list[Tensor]] = {}
        for task in asked:
            path = last[task]
            levels[task] = [mixed(path, layers[-1])]
            for layer, edge in zip(reversed(layers[:-1]), reversed(edges[1:]), strict=True):
                # The node of the layer before on this path: the parent of the one that was drawn.
                path = mixed(path, [edge[node] for node in self.nodes])
                levels[task].insert(0, mixed(path, layer))
        return levels

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        *inner, last = self._places()
        users = {self.tasks: [*self.backbones.parameters(), *(p for place in inner for p in place.values())]}
        for task in self.tasks:
            users.setdefault((task,), []).append(last[task])
        return users
