"""Gradients of a run that did not measure any while it trained, taken now from its checkpoint."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch

import plait.balancing
from plait import config
from plait.errors import ConfigurationError
from plait.study.cores import usable_cores
from plait.training import checkpoint
from plait.training.diagnosis import Measurement
from plait.training.fit import micro_batches, own_random_numbers
from plait.training.processes import join
from plait.training.run import RECIPE, Run
from plait.training.tuning import idle_threads, threads


def measure_now(
    run: Run, batches: int, *, progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """What the tasks' gradients say at a run's checkpoint, on the batches it would have trained on next.

    The network is in training mode, as in a step: batch statistics, dropout and augmentation included. Its
    weights are those that the run is scored with.

    Args:
        run: Trained, or on the way.
        batches: How many batches of the recipe's size, one measurement each.
        progress: Told of batches done and in all.

    Returns:
        Lines like those of a log that has measurements, without an update; ``step`` is the checkpoint's, the
        same in all.

    Raises:
        ConfigurationError: If there is no checkpoint yet, ``batches`` is not positive, or tasks share no
            parameter.
    """
    if batches < 1:
        raise ConfigurationError(f"expected at least 1 batch to measure gradients on, got {batches}")
    if checkpoint.find(run.checkpoint) is None:
        again = shlex.join(["plait", "train", str(run.path / RECIPE), "--out", str(run.path)])
        raise ConfigurationError(f"{run.path} has no checkpoint yet: train it first with `{again}`")
    training, device = run.recipe.training, join().device
    step = checkpoint.read(run.checkpoint, files=()).step
    name, options = config.named(run.recipe.balancer)
    taken = 1 + plait.balancing.create(name, tasks=run.tasks, **options).needs.extra_batches
    lines = []
    with own_random_numbers(training.seed, device), threads(idle_threads(usable_cores())):
        model = run.model(device).train()
        model.at_step(min(step, training.steps - 1), training.steps)
        dataset = run.dataset(run.recipe.data.train_split)
        stream = micro_batches(run, dataset, model.normalisation, step, taken)
        for number in range(batches):
            own, *_ = (list(islice(stream, training.accumulate)) for _ in range(taken))
            parts = [batch.to(device) for batch in own]
            torch.manual_seed(training.seed + number)
            found = Measurement.take(model, parts).numbers()
            lines.append({"step": step, "gradients": found})
            if progress is not None:
                progress(number + 1, batches)
    return lines
