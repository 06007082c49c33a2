"""Maps of large pictures a part at a time: the same numbers, without the memory of the whole.

Before it is decided, a map has a number for every class; at 64 million pixels and 40 classes that is 10 GB.
Both functions give bit by bit what evaluation computes at once, for a task whose decision looks at one pixel
at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from plait.config import Evaluation
from plait.data.sample import Geometry
from plait.data.transforms import undo
from plait.models.predictions import Predictions
from plait.tasks.base import Task
from plait.training.evaluate import Blend, Maps, mean, starts

AT_ONCE = 2**25
"""Numbers of a map that are brought to a picture's size at a time (128 MiB)."""


def decided(task: Task, seen: Tensor, geometry: Geometry, *, at_once: int = AT_ONCE) -> Tensor:
    """An activated map, brought back to its picture's size and decided.

    Rows and columns are interpolated one after the other, so a band of columns needs no other column.

    Args:
        task: Whose map it is.
        seen: ``[C, h, w]`` on the network's input, from whose top left corner the picture begins.
        geometry: How that input came from the picture.
        at_once: A map of more numbers is brought back in bands of columns of about so many.

    Returns:
        The decoded map ``[C, H, W]`` on the CPU.
    """
    height, width = geometry.size
    bands = min(-(-len(seen) * height * width // at_once), width // 2)
    if bands <= 1:
        return task.decide(undo(seen, geometry)[None])[0].cpu()
    matrix, still = geometry.matrix, torch.eye(3, dtype=torch.float64)
    rows = round(float(matrix[1, 1]) * height)
    across, down = still.clone(), still.clone()
    across[0], down[1] = matrix[0], matrix[1]
    wide = undo(seen.cpu(), Geometry((rows, width), across))
    made = None
    edges = [width * place // bands for place in range(bands + 1)]  # each of two columns or more
    for left, right in pairwise(edges):
        band = undo(wide[..., left:right].contiguous(), Geometry((height, right - left), down))
        part = task.decide(band[None])[0]
        if made is None:
            made = part.new_empty(len(part), height, width)
        made[..., left:right] = part
    assert made is not None
    return made


def sliding(
    model: Callable[[Tensor], Predictions],
    images: Tensor,
    tasks: Sequence[Task],
    evaluation: Evaluation,
    blend: Blend,
) -> Iterator[tuple[slice, Maps]]:
    """Activated maps of pictures in tiles, from top to bottom: rows as soon as no further tile covers them.

    Args:
        model: Normalised pictures to predictions.
        images: ``[B, 3, H, W]``, normalised.
        tasks: What is predicted.
        evaluation: Its window and stride, which must be given, and its flip; at one scale.
        blend: Weight of each pixel of a tile.

    Yields:
        Rows, and ``{task: [B, C, rows, W]}``; every row once.
    """
    views = [_rows(model, images, tasks, evaluation, blend)]
    if evaluation.flip:
        views.append(_rows(model, images.flip(-1), tasks, evaluation, blend))
    for parts in zip(*views, strict=True):
        rows, plain = parts[0]
        found = {}
        for task in tasks:
            mirrored = [task.flip(other[task.name].flip(-1)) for _, other in parts[1:]]
            found[task.name] = mean([plain[task.name], *mirrored])
        yield rows, found


def _rows(
    model: Callable[[Tensor], Predictions],
    images: Tensor,
    tasks: Sequence[Task],
    evaluation: Evaluation,
    blend: Blend,
) -> Iterator[tuple[slice, Maps]]:
    """One view, its tiles weighed and added in the order of :func:`plait.training.evaluate.slide`."""
    assert evaluation.window is not None
    assert evaluation.stride is not None
    height, width = images.shape[-2:]
    window = min(evaluation.window[0], height), min(evaluation.window[1], width)
    weights = blend(window).to(images)
    tops = starts(height, window[0], evaluation.stride[0])
    lefts = starts(width, window[1], evaluation.stride[1])
    sums: Maps = {}
    cover = images.new_zeros(1, 1, window[0], width)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for left in lefts:
            across = slice(left, left + window[1])
            tile = images[..., top : top + window[0], across].contiguous()
            final = model(tile).final
            cover[..., across] += weights
            for task in tasks:
                value = task.activate(final[task.name].float())
                if task.name not in sums:
                    sums[task.name] = value.new_zeros(*value.shape[:2], window[0], width)
                sums[task.name][..., across] += value * weights
        done = following - top
        yield (
            slice(top, following),
            {name: total[..., :done, :] / cover[..., :done, :] for name, total in sums.items()},
        )
        for total in (cover, *sums.values()):
            total[..., : window[0] - done, :] = total[..., done:, :].clone()
            total[..., window[0] - done :, :] = 0
