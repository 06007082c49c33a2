"""Checking labels on the host, where a wrong one can still be named."""

from __future__ import annotations

import torch
from torch import Tensor

from plait.data.labels import Depth, InverseDepth, Mask, Normals, Semantic
from plait.errors import DataError
from plait.tasks.base import Task


def check_label(task: Task, target: Tensor, where: str) -> None:
    """Checks the channels and the range of a label's known pixels.

    Meant for the loader: it looks at values, so on a GPU it would wait for the device.

    Args:
        task: The task that the label supervises.
        target: The label ``[C, H, W]`` or a batch of them.
        where: What to name in the message: a file or a sample's id.

    Raises:
        DataError: If the channels are wrong, a class id is not one of the task's classes, a depth is not
            positive, an inverse depth is negative, a normal is not of unit length (to 1 %), or a mask leaves
            [0, 1].
    """
    if target.ndim < 3 or target.shape[-3] != task.label_type.channels:
        raise DataError(
            f"{where}: expected a {task.label} label with {task.label_type.channels} channel(s) "
            f"for task {task.name!r}, got shape {list(target.shape)}"
        )
    target = target.as_subclass(Tensor)
    known = torch.as_tensor(task.label_type.known(target)).as_subclass(Tensor)
    if issubclass(task.label_type, Semantic):
        if target.is_floating_point():
            raise DataError(f"{where}: expected integer class ids for task {task.name!r}, got {target.dtype}")
        values = target[known]
        low, high, expected = 0.0, task.channels - 1.0, f"class ids from 0 to {task.channels - 1} or 255"
    elif issubclass(task.label_type, Depth):
        values = target[known]
        low, high, expected = 1e-9, torch.inf, "depth in metres above 0, NaN where unknown"
    elif issubclass(task.label_type, InverseDepth):
        values = target[known]
        low, high, expected = 0.0, torch.inf, "inverse depth of 0 or more, NaN where unknown"
    elif issubclass(task.label_type, Normals):
        values = target.square().sum(-3, keepdim=True).sqrt()[known]  # vector_norm is 90 times slower here
        low, high, expected = 0.99, 1.01, "normals of length 1, NaN where unknown"
    elif issubclass(task.label_type, Mask):
        values = target[known]
        low, high, expected = 0.0, 1.0, "values from 0 to 1, NaN where unknown"
    else:
        return
    if not values.numel():
        return
    smallest, largest = (value.item() for value in values.aminmax())
    if smallest < low or largest > high:
        wrong = smallest if smallest < low else largest
        raise DataError(f"{where}: expected {expected} for task {task.name!r}, got {wrong:g}")
