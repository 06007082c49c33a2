"""A run's folder, a bundle or a network of a hub, opened to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from plait.errors import CheckpointError
from plait.inference.prediction import chosen
from plait.inference.predictor import Predictor
from plait.inference.sizing import Sizing
from plait.training import checkpoint
from plait.training.run import Run, load_run, make_network

HUB = "hf:"


def open_run(source: Path | str, *, own_parts: bool = False) -> Run:
    """A run by its folder, or by ``hf:org/name`` (or ``hf:org/name@revision``) from the Hugging Face hub.

    Args:
        source: Which one.
        own_parts: Whether code that a shared network names by its import path may be run, where it is
            installed; it never comes with the network.

    Raises:
        ConfigurationError: If there is no run, or it names code without leave to run it.
        DataError: If the hub does not give it, or it is no network of plait.
    """
    if isinstance(source, str) and source.startswith(HUB):
        from plait.hub import fetch

        return load_run(fetch(source), own_parts=own_parts)
    return load_run(source, own_parts=own_parts)


def load(
    source: Path | str,
    *,
    tasks: Sequence[str] | str | None = None,
    sizing: Sizing | None = None,
    flip: bool | None = None,
    device: torch.device | str | None = None,
    own_parts: bool = False,
) -> Predictor:
    """A trained network as a function of pictures: ``plait.load("runs/shared")("photo.jpg")``.

    Nothing but the folder is needed: no data set, no weights from elsewhere. None of its code is run.

    Args:
        source: A run's folder, a folder that ``plait push`` made, or ``hf:org/name``.
        tasks: Which of its tasks to predict, or the name of one; None predicts all that are not auxiliary.
        sizing: How pictures are brought to the network; None as the run's evaluation does.
        flip: Average with the mirrored picture; None as the run's evaluation does.
        device: Where to compute; None takes an accelerator if there is one.
        own_parts: Whether code that a shared network names by its import path may be run; see
            :func:`open_run`.

    Raises:
        ConfigurationError: If there is no run, it was trained on other tasks than those asked for, or it
            names code without leave to run it.
        CheckpointError: If it has no checkpoint yet, or a damaged one.
        DataError: If the hub does not give it.
    """
    run = open_run(source, own_parts=own_parts)
    name = str(source)
    if checkpoint.find(run.checkpoint) is None:
        raise CheckpointError(f"{name} has no checkpoint yet: train it first, as `plait train` does")
    known = {task.name: task for task in run.tasks if not task.auxiliary}
    wanted = (tasks,) if isinstance(tasks, str) else tasks
    asked = chosen(known, None if wanted is None else tuple(wanted), name)
    found = checkpoint.read(run.checkpoint, run.tasks, files=("model",))  # once: training may replace it
    network = make_network(run.recipe, run.tasks, pretrained=False)
    checkpoint.restore(network, found.tensors["model"], str(found.place / "model.safetensors"))
    return Predictor(
        name=name,
        recipe=run.recipe,
        model=network.to(device if device is not None else best_device()).eval(),
        tasks=asked,
        sizing=sizing or Sizing.of(run.recipe),
        flip=run.recipe.evaluation.flip if flip is None else flip,
        digest=str(found.state["sha256"].get("model", "")),
        step=found.step,
        finished=run.finished,
    )


def best_device() -> torch.device:
    """The accelerator if there is one, else the processor."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")
