"""A network of a few hundred parameters that has everything a balancer may meet.

Pyramids whose levels feed one another, two groups of tasks, parameters used by some tasks only, heads of
each task's own and one that all tasks share, penalties, and layer norms instead of batch norms.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import plait
from plait.data.sample import Batch, Geometry
from plait.models.decoders.base import Decoder
from plait.models.encoders.base import Encoder, Pyramids
from plait.models.network import MultiTaskNetwork
from plait.models.predictions import Predictions
from plait.tasks.base import Task

TASKS = ("semseg", "depth", "normals")


def tiny_tasks(names: Sequence[str] = TASKS) -> tuple[Task, ...]:
    kinds: dict[str, dict[str, Any]] = {
        "semseg": {"kind": "semantic", "classes": 4},
        "depth": {"kind": "depth"},
        "normals": {"kind": "normals"},
    }
    return plait.tasks.parse({name: kinds[name] for name in names})


class TinyEncoder(Encoder):
    """A stem, and a branch a group: the first two tasks are one, the rest another."""

    def __init__(self, tasks: Sequence[str], *, has_cut: bool = True) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.has_cut = has_cut
        self.groups = {task: "first" if place < 2 else "second" for place, task in enumerate(self.tasks)}
        self.channels = dict.fromkeys(self.tasks, (4, 4))
        self.strides = dict.fromkeys(self.tasks, (1, 2))
        self.normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.default_head = "linear"
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(1, 4), nn.GELU())
        self.branches = nn.ModuleDict({group: nn.Conv2d(4, 4, 3, padding=1) for group in self._members()})

    def _members(self) -> dict[str, tuple[str, ...]]:
        groups = dict.fromkeys(self.groups.values())
        return {group: tuple(t for t in self.tasks if self.groups[t] == group) for group in groups}

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        fine = self.stem(images)
        levels = {}
        for group, branch in self.branches.items():
            coarse = torch.tanh(branch(F.avg_pool2d(fine, 2)))
            levels[group] = [fine, coarse]
        return {task: list(levels[self.groups[task]]) for task in self.asked(tasks)}

    def shared_parameters(self) -> dict[tuple[str, ...], list[nn.Parameter]]:
        members = self._members()
        named = {members[group]: list(branch.parameters()) for group, branch in self.branches.items()}
        stem = list(self.stem.parameters())
        return {**named, self.tasks: named.get(self.tasks, []) + stem}


class TinyDecoder(Decoder):
    """A head a task on both levels, one common scale, and, if asked, a message from every other task."""

    def __init__(self, tasks: Sequence[Task], *, interacting: bool = False, penalty: bool = False) -> None:
        super().__init__()
        self.interacts = interacting  # type: ignore[misc]
        self.penalty = penalty
        self.heads = nn.ModuleDict({task.name: nn.Conv2d(8, task.channels, 1) for task in tasks})
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pyramids: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> Predictions:
        joined = {
            task: torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], 1)
            for task, (fine, coarse) in pyramids.items()
        }
        if self.interacts:
            everybody = torch.stack(list(joined.values())).sum(0).sin()
            joined = {task: own + everybody for task, own in joined.items()}
        final = {task: self.heads[task](self.scale * features) for task, features in joined.items()}
        penalties = {}
        if self.penalty:
            penalties = {"features": torch.stack([f.square().mean() for f in joined.values()]).sum()}
        return Predictions(final, penalties=penalties)


def tiny_network(
    names: Sequence[str] = TASKS, *, has_cut: bool = True, dtype: torch.dtype = torch.float64, **decoder: bool
) -> MultiTaskNetwork:
    torch.manual_seed(0)
    tasks = tiny_tasks(names)
    return MultiTaskNetwork(TinyEncoder(names, has_cut=has_cut), TinyDecoder(tasks, **decoder), tasks).to(
        dtype
    )


def tiny_batch(
    images: int = 4,
    *,
    names: Sequence[str] = TASKS,
    absent: Mapping[str, Sequence[int]] | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 1,
) -> Batch:
    """Images of 4 x 6 pixels, one in five unknown; ``absent`` names the images without a label of a task."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype)

    pixels = rand(images, 3, 4, 6) * 2 - 1
    targets = {
        "semseg": torch.randint(0, 4, (images, 1, 4, 6), generator=generator),
        "depth": rand(images, 1, 4, 6) * 4 + 1,
        "normals": F.normalize(rand(images, 3, 4, 6) * 2 - 1, dim=1),
    }
    for task, target in targets.items():
        unknown = (rand(images, 1, 4, 6) < 0.2).expand_as(target).clone()
        unknown[list((absent or {}).get(task, []))] = True
        target[unknown] = 255 if task == "semseg" else float("nan")
    everything = Batch(
        images=pixels,
        targets={name: targets[name] for name in names},
        present={},
        ids=[f"image {place}" for place in range(images)],
        geometry=[Geometry((4, 6))] * images,
    )
    return part(everything, range(images))


def part(batch: Batch, places: Sequence[int]) -> Batch:
    """The samples at ``places``; a task that none of them is labelled for has no target."""
    chosen = list(places)
    present, targets = {}, {}
    for name, whole in batch.targets.items():
        target = whole[chosen]
        known = target != 255 if name == "semseg" else target.isfinite()
        present[name] = known.flatten(1).any(1)
        if present[name].any():
            targets[name] = target
    return Batch(
        images=batch.images[chosen],
        targets=targets,
        present=present,
        ids=[batch.ids[place] for place in chosen],
        geometry=[batch.geometry[place] for place in chosen],
    )
