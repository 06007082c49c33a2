"""From a declaration to tasks, and from predictions to one loss a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from plait.errors import ConfigurationError
from plait.models.predictions import Predictions
from plait.registry import check_complete, check_options, nearest, resolve
from plait.tasks.base import Task, check_name
from plait.tasks.loss import at_least_float32


def parse(declaration: Mapping[str, Mapping[str, Any]]) -> tuple[Task, ...]:
    """Tasks in their declared order, from ``{name: {"kind": ..., option: value}}``.

    Options are the keyword arguments of the kind's function, for instance
    :func:`plait.tasks.depth.depth`; a kind may also be an import path ``package.module:function`` of a
    function annotated ``-> Task``.

    Raises:
        ConfigurationError: If there is no task, all are auxiliary, a kind, an option or a value is wrong,
            or a name cannot name a task.

    >>> tasks = parse({"parts": {"kind": "semantic", "classes": 7}, "z": {"kind": "depth"}})
    >>> [task.channels for task in tasks]
    [7, 1]
    """
    if not isinstance(declaration, Mapping):
        raise ConfigurationError(
            f"expected tasks by name, as in {{'depth': {{'kind': 'depth'}}}}, got {declaration!r}"
        )
    tasks = tuple(_task(name, options) for name, options in declaration.items())
    if not tasks:
        raise ConfigurationError(
            "expected at least one task, got none; declare one, e.g. depth: {kind: depth}"
        )
    if all(task.auxiliary for task in tasks):
        raise ConfigurationError(
            f"every task is auxiliary ({', '.join(declaration)}), so nothing would be predicted; "
            f"make one of them a main task"
        )
    return tasks


def _task(name: str, given: Mapping[str, Any]) -> Task:
    check_name(name)  # before anything that the recipe names is called with it
    if not isinstance(given, Mapping) or not isinstance(given.get("kind"), str):
        raise ConfigurationError(f"task {name!r} needs a kind, as in {name}: {{kind: depth}}; got {given!r}")
    options = {option: value for option, value in given.items() if option != "kind"}
    if "name" in options:
        raise ConfigurationError(f"task {name!r} is named by its key; remove its option 'name'")
    check_options("task kind", given["kind"], options)
    check_complete("task kind", given["kind"], options)
    try:
        task = resolve("task kind", given["kind"])(name, **options)
    except TypeError as error:
        raise ConfigurationError(
            f"task {name!r} of kind {given['kind']!r} cannot be made: {error}"
        ) from error
    if not isinstance(task, Task):
        raise ConfigurationError(f"kind {given['kind']!r} must make a Task, got {type(task).__name__}")
    task.metric()  # a wrong option of the metric shows now, not at the first evaluation
    return task


def losses(
    tasks: Sequence[Task],
    predictions: Predictions,
    targets: Mapping[str, Tensor],
    counts: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """One loss a task: its final prediction's and every intermediate level's, summed with equal weight.

    Intermediate predictions are resized bilinearly to the size of their target; final ones have it. Tasks
    without an entry in ``targets`` are left out; one whose target holds no known pixel has loss zero with a
    zero gradient.

    Args:
        tasks: In declared order, which is also the order of the result.
        predictions: Of the network; an auxiliary task is only found among the intermediate ones.
        targets: ``{task: [B, C, H, W]}``.
        counts: ``{task: float64 [K]}`` of the whole (global) batch; this batch's own by default. See
            :class:`plait.tasks.base.Loss`.

    Returns:
        ``{task: scalar}`` in float32 at least, connected to the predictions.

    Raises:
        ConfigurationError: If a task with a target is unknown or not predicted anywhere, or its target does
            not have the shape that belongs to the predictions.
    """
    names = [task.name for task in tasks]
    for name in targets:
        if name not in names:
            raise ConfigurationError(
                f"there is no task {name!r}{nearest(name, names)} for the label of that name; "
                f"the tasks are {', '.join(names)}"
            )
    result = {}
    for task in tasks:
        if task.name not in targets:
            continue
        target = targets[task.name]
        levels = [
            level[task.name] for level in (predictions.final, *predictions.intermediate) if task.name in level
        ]
        if not levels:
            raise ConfigurationError(
                f"task {task.name!r} has labels but the network does not predict it at any level"
                + (
                    "; an auxiliary task needs a decoder with intermediate predictions"
                    if task.auxiliary
                    else ""
                )
            )
        # An auxiliary task has no final prediction, but the other tasks' are of the same images.
        final = next(iter(predictions.final.values()), levels[0])
        expected = [len(final), task.label_type.channels, *final.shape[-2:]]
        if list(target.shape) != expected:
            raise ConfigurationError(
                f"expected a label of shape {expected} for task {task.name!r}, to fit the prediction, "
                f"got {list(target.shape)}: crop or resize both alike"
            )
        known = task.loss.counts(target) if counts is None else counts[task.name]
        shares = [task.loss(resized(level, target.shape[-2:]), target, known) for level in levels]
        result[task.name] = sum(shares[1:], start=shares[0])
    return result


def resized(prediction: Tensor, size: Sequence[int]) -> Tensor:
    """A prediction ``[B, C, h, w]`` resized bilinearly to ``size``; unchanged if it has that size."""
    if prediction.shape[-2:] == tuple(size):
        return prediction
    return F.interpolate(at_least_float32(prediction), tuple(size), mode="bilinear", align_corners=False)
