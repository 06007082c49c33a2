"""Decoders that refine tasks with each other, and random pyramids for them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import plait
from plait import registry
from plait.models.decoders.base import Decoder
from plait.models.predictions import Predictions
from plait.tasks.base import Task

CHANNELS, STRIDES = (6, 8, 10, 12), (4, 8, 16, 32)
SHAPES = [
    (CHANNELS, STRIDES, (64, 64)),
    (CHANNELS, (4, 8, 8, 8), (33, 65)),
    ((8, 10), (8, 16), (49, 34)),
    ((8,), (8,), (64, 40)),
]
Pyramids = dict[str, list[Tensor]]


def make_tasks(*names: str, auxiliary: Sequence[str] = ()) -> tuple[Task, ...]:
    kinds: dict[str, dict[str, Any]] = {
        "semseg": {"kind": "semantic", "classes": 5},
        "depth": {"kind": "depth"},
        "normals": {"kind": "normals"},
        "edge": {"kind": "edges"},
    }
    return plait.tasks.parse({name: {**kinds[name], "auxiliary": name in auxiliary} for name in names})


def make_decoder(
    name: str,
    tasks: Sequence[Task],
    channels: Sequence[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
    groups: Mapping[str, str] | None = None,
    **options: Any,
) -> Decoder:
    """A decoder in evaluation mode with no parameter at a special start."""
    torch.manual_seed(0)
    decoder: Decoder = registry.build(
        "decoder",
        name,
        {"width": 8, **options},
        tasks=tasks,
        channels={task.name: channels for task in tasks},
        strides={task.name: strides for task in tasks},
        groups=groups,
    )
    for parameter in decoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return decoder.eval()


def make_pyramids(
    tasks: Sequence[Task],
    channels: Sequence[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
    size: Sequence[int] = (64, 64),
) -> Pyramids:
    generator = torch.Generator().manual_seed(1)
    return {
        task.name: [
            torch.randn(2, c, -(-size[0] // s), -(-size[1] // s), generator=generator)
            for c, s in zip(channels, strides, strict=True)
        ]
        for task in tasks
    }


def moved(pyramids: Pyramids, task: str, levels: Sequence[int] | None = None) -> Pyramids:
    """The pyramids with some levels of one task changed, all by default."""
    chosen = range(len(pyramids[task])) if levels is None else levels
    return {
        **pyramids,
        task: [level + 1.0 if place in chosen else level for place, level in enumerate(pyramids[task])],
    }


def changed(before: Predictions, after: Predictions) -> set[str]:
    """The tasks whose final predictions differ."""
    return {task for task in before.final if not torch.equal(before.final[task], after.final[task])}


def gradients(decoder: Decoder, pyramids: Pyramids) -> dict[str, Tensor | None]:
    """Of the squares of all predictions, by parameter."""
    made = decoder(pyramids, (32, 32))
    outputs = [logits for level in (made.final, *made.intermediate) for logits in level.values()]
    total = torch.stack([logits.square().mean() for logits in outputs]).sum()
    names, parameters = zip(*decoder.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(total, parameters, allow_unused=True), strict=True))
