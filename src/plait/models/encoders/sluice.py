"""Sluice networks: tasks mix halves of their features after each stage, and their stages at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from plait.errors import ConfigurationError
from plait.models.backbones import Backbone
from plait.models.blocks import to_size_of
from plait.models.encoders.base import MakeBackbone, Pyramids
from plait.models.encoders.columns import Columns, own_and_other


class Sluice(Columns):
    """One backbone a task, each stage's channels in two subspaces; what is shared is learned.

    After each stage every subspace of every task becomes a weighted sum of all subspaces of all tasks
    (``alpha``, 2T x 2T). The last level of a task's pyramid is a weighted sum over its stages (``beta``), the
    earlier ones resized to the last one's size and projected to its channels. A penalty keeps the
    weights that produce the two subspaces of a stage orthogonal, so that one can hold what is shared and
    the other what is private.

    Args:
        make_backbone: Makes a backbone; called once a task, in declared order.
        tasks: Names of the tasks in declared order.
        alpha: First weight of a subspace in its own sum; the other ``2T - 1`` share the rest evenly.
        beta: First weight of the last stage; the earlier ones share the rest evenly.
        orthogonality: Weight of the penalty: the sum over tasks and stages of ``||W1 W2^T||_F^2``, where
            ``W1`` and ``W2`` are the rows of the largest full convolution or linear layer to the
            stage's channels in its last block, that make the first and the second half of them.

    Raises:
        ConfigurationError: If the backbone has no stages, a stage an odd number of channels or no layer that
            makes its channels, or if a number is out of range.

    Source:
        Ruder et al., Latent Multi-task Architecture Learning, AAAI 2019 (first as Sluice networks, 2017),
        section 3. There recurrent networks for sequence tagging, and the sum over layers needs no
        projection; resizing and projecting the stages of an image network is our own choice, and so are
        the weights that the penalty looks at. There is no published code for images.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        tasks: Sequence[str],
        alpha: float = 0.9,
        beta: float = 0.9,
        orthogonality: float = 1e-4,
    ) -> None:
        if not 0 <= orthogonality < math.inf:
            raise ConfigurationError(
                f"orthogonality of sluice must be zero or more and finite, got {orthogonality}: 0 leaves the "
                f"penalty out"
            )
        super().__init__(make_backbone=make_backbone, tasks=tasks, name="sluice")
        self.orthogonality = orthogonality
        columns, levels = self.columns(), self.channels[self.tasks[0]]
        for number, channels in enumerate(levels, 1):
            if channels % 2:
                raise ConfigurationError(
                    f"encoder 'sluice' splits channels into halves, but stage {number} of "
                    f"{columns[self.tasks[0]].name!r} has {channels}: use a backbone with even numbers"
                )
        for column in columns.values():
            for number in range(1, len(levels) + 1):
                last_layer(column, number)
        self.units = nn.ModuleList(Unit(self.tasks, alpha) for _ in levels)
        self.skips = nn.ModuleDict({task: Skips(levels, beta) for task in self.tasks})

    def exchange(self, part: int, features: dict[str, Tensor], receivers: Iterable[str]) -> dict[str, Tensor]:
        if part == 0:
            return features
        mixed: dict[str, Tensor] = self.units[part - 1](features, receivers)
        return mixed

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        levels = self.levels(images, self.asked(tasks))
        for task, own in levels.items():
            own[-1] = self.skips[task](own)
        return self.cropped(levels, images)

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        shared = [*self.backbones.parameters(), *self.units.parameters()]
        if len(self.tasks) == 1:
            return {self.tasks: [*shared, *self.skips.parameters()]}
        own = {(task,): list(skips.parameters()) for task, skips in self.skips.items()}
        return {self.tasks: shared} | own

    def penalties(self) -> dict[str, Tensor]:
        if self.orthogonality == 0:
            return {}
        products = []
        device = next(self.parameters()).device.type
        with torch.autocast(device, enabled=False):  # in full precision, whatever the features are in
            for column in self.columns().values():
                for number in range(1, len(column.stages) + 1):
                    one, other = last_layer(column, number).weight.flatten(1).chunk(2)
                    products.append((one @ other.T).square().sum())
        return {"orthogonality": self.orthogonality * torch.stack(products).sum()}


class Unit(nn.Module):
    """The mix of all tasks' subspaces, the halves of their channels.

    ``alpha`` has a row for each subspace that is made and a column for each that it is made of: the two of
    the first task, the two of the second, and so on.
    """

    task_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {"alpha": (0, 1)}

    def __init__(self, tasks: Sequence[str], alpha: float) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        subspaces = 2 * len(tasks)
        own, other = own_and_other(alpha, None, subspaces)
        self.alpha = Parameter(torch.full((subspaces, subspaces), other).fill_diagonal_(own))

    def forward(self, features: Mapping[str, Tensor], receivers: Iterable[str]) -> dict[str, Tensor]:
        """Maps every task's ``[B, C, h, w]`` to each receiver's, of the same shape."""
        halves = [half for task in self.tasks for half in features[task].chunk(2, 1)]
        rows = self.alpha.to(halves[0].dtype).unbind()
        made = {}
        for receiver in receivers:
            place = 2 * self.tasks.index(receiver)
            made[receiver] = torch.cat([weighted(row, halves) for row in rows[place : place + 2]], 1)
        return made


class Skips(nn.Module):
    """The last level of a pyramid as a weighted sum of all levels.

    Args:
        channels: Of each level.
        beta: First weight of the last level; the earlier ones share the rest evenly.
    """

    def __init__(self, channels: Sequence[int], beta: float) -> None:
        super().__init__()
        *earlier, last = channels
        own, other = own_and_other(beta, None, len(channels))
        self.beta = Parameter(torch.tensor([*[other] * len(earlier), own]))
        self.project = nn.ModuleList(nn.Conv2d(level, last, 1, bias=False) for level in earlier)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Maps levels ``[B, C_s, h_s, w_s]`` to one of the last one's shape."""
        *earlier, last = levels
        # A 1x1 convolution after resizing is the same as before it, and has fewer pixels to work on.
        projected = [
            project(to_size_of(last, level)) for project, level in zip(self.project, earlier, strict=True)
        ]
        return weighted(self.beta.to(last.dtype), [*projected, last])


def weighted(weights: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """The sum of maps of one shape, each times its entry of ``weights`` ``[N]``."""
    first, *others = weights.unbind()
    total = maps[0] * first
    for weight, each in zip(others, maps[1:], strict=True):  # in place: one map is made, not one a term
        total.addcmul_(each, weight)
    return total


def last_layer(column: Backbone, number: int) -> nn.Conv2d | nn.Linear:
    """The layer that makes a stage's channels.

    Of the full convolutions and linear layers to that many channels in the stage's last block it is the one
    with the most weights (not a gate or a depthwise convolution), and of these the last.

    Raises:
        ConfigurationError: If there is none, naming the stage and the backbone.
    """
    channels = column.channels[number - 1]
    found = [
        layer
        for layer in column.stages[number - 1][-1].modules()
        if (isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1))
        and len(layer.weight) == channels
    ]
    if not found:
        raise ConfigurationError(
            f"encoder 'sluice' penalises the weights that make the {channels} channels of stage {number}, "
            f"but the last block of that stage of {column.name!r} has none with as many outputs: use another"
        )
    return max(reversed(found), key=lambda layer: layer.weight.numel())
