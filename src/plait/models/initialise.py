"""Networks that start from trained ones: each task's column and head from the run that has the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from plait import config
from plait.errors import ConfigurationError
from plait.models.decoders.independent import Independent
from plait.models.network import MultiTaskNetwork
from plait.registry import nearest
from plait.tasks.base import Task

if TYPE_CHECKING:
    from plait.training.run import Run


def initialise_from(
    network: MultiTaskNetwork, tasks: Sequence[Task], runs: Path | str | Mapping[str, Path | str]
) -> None:
    """Copies trained weights into a network, in place.

    Each task's column, the backbone that computes its features, starts from the column of a run that was
    trained for this task. Where both networks have independent heads, so does the task's head. All
    else (units that exchange features, other decoders) keeps the weights it has.

    Args:
        network: The network; its encoder has a column for each task.
        tasks: Its tasks.
        runs: The folder of a finished run that has all of the tasks, or of one for each task.

    Raises:
        ConfigurationError: If a folder holds no finished run, a task has no run, or the run has not this
            task, or another kind, backbone or head of it; or if one of the encoders has no columns, or one
            column that is to start from several runs.
        CheckpointError: If a checkpoint is damaged, or its shapes do not fit.
    """
    from plait.training.checkpoint import restore
    from plait.training.run import load_run

    places = by_task(tasks, runs)
    columns = network.encoder.columns()
    if not columns:
        raise ConfigurationError(
            f"init_from starts each task's own backbone from a trained one, but encoder "
            f"{type(network.encoder).__name__} has none for each task: leave init_from out, or use shared, "
            f"separate, cross_stitch, nddr_cnn or sluice"
        )
    sources = {place: load_run(place) for place in dict.fromkeys(places.values())}
    for task in tasks:
        check_task(task, sources[places[task.name]])
    filled: dict[int, nn.Module] = {}
    for place, run in sources.items():
        trained = run.model()
        for task in tasks:
            if places[task.name] != place:
                continue
            source, target = trained.encoder.columns().get(task.name), columns[task.name]
            if source is None:
                raise ConfigurationError(
                    f"init_from: encoder {config.named(run.recipe.model.encoder)[0]!r} of {run.path} has no "
                    f"backbone for {task.name!r} alone: train it with encoder 'shared' or 'separate'"
                )
            if filled.setdefault(id(target), source) is not source:
                raise ConfigurationError(
                    f"init_from: {task.name!r} shares one backbone with tasks that start from another one: "
                    f"give one run whose encoder is 'shared', or use encoder 'separate'"
                )
            if architecture(source.name) != architecture(target.name):
                raise ConfigurationError(
                    f"init_from: the backbone of {run.path} is {source.name!r}, expected {target.name!r}: "
                    f"set model.backbone to the run's"
                )
            restore(target, source.state_dict(), f"the backbone of {task.name!r} of {run.path}")
            # A head that was trained behind rotated features is wrong without the rotation.
            if network.at_cut is not None or trained.at_cut is not None:
                continue
            if isinstance(network.decoder, Independent) and isinstance(trained.decoder, Independent):
                copy_head(task.name, network.decoder, trained.decoder, run)


def by_task(tasks: Sequence[Task], runs: Path | str | Mapping[str, Path | str]) -> dict[str, Path]:
    """The folder that each task starts from.

    Raises:
        ConfigurationError: If a task has none, or a folder is given for no task.
    """
    names = [task.name for task in tasks]
    if not isinstance(runs, Mapping):
        return dict.fromkeys(names, Path(runs))
    if unknown := [name for name in runs if name not in names]:
        raise ConfigurationError(
            f"init_from names a run for {unknown[0]!r}{nearest(unknown[0], names)}, expected one for each of "
            f"{', '.join(names)}"
        )
    if missing := [name for name in names if name not in runs]:
        raise ConfigurationError(
            f"init_from names no run for {missing[0]!r}: name one for each of {', '.join(names)}"
        )
    return {name: Path(runs[name]) for name in names}


def check_task(task: Task, run: Run) -> None:
    """Raises :class:`ConfigurationError` unless a finished run has the task, with kind and channels."""
    if not run.finished:
        raise ConfigurationError(
            f"init_from: the run in {run.path} is not finished: train it to its end first"
        )
    trained = {known.name: known for known in run.tasks}
    if task.name not in trained:
        raise ConfigurationError(
            f"init_from: the run in {run.path} has no task {task.name!r}; it has {', '.join(trained)}: give "
            f"one that was trained for it"
        )
    known = trained[task.name]
    if (known.kind, known.channels) != (task.kind, task.channels):
        raise ConfigurationError(
            f"init_from: {task.name!r} of the run in {run.path} has kind {known.kind} and "
            f"{known.channels} channels, expected {task.kind} with {task.channels}: give one of the same"
        )


def copy_head(task: str, target: Independent, source: Independent, run: Run) -> None:
    """Copies a task's head.

    Raises:
        ConfigurationError: If it is of another kind.
        CheckpointError: If its shapes do not fit.
    """
    from plait.training.checkpoint import restore

    if target.head != source.head:
        raise ConfigurationError(
            f"init_from: the head of {task!r} of {run.path} is {source.head!r}, expected {target.head!r}: "
            f"set the decoder's head to the run's"
        )
    trained = source.heads[task].state_dict()
    restore(target.heads[task], trained, f"the head of {task!r} of {run.path}")


def architecture(name: str) -> str:
    """The name of a timm network without that of its weights."""
    return name.partition(".")[0]
