"""How a step on one task changes the losses of the others, measured while they train together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from plait.balancing.probe import untouched
from plait.data.sample import Batch
from plait.errors import ConfigurationError
from plait.models.network import MultiTaskNetwork
from plait.tasks.objective import losses as task_losses
from plait.training.distributed import reduce_sums
from plait.training.step import global_counts, kept_graphs, losses_again, present_tasks


def check_shares(model: MultiTaskNetwork) -> None:
    """Refuses a network in which no step on one task can change another.

    Raises:
        ConfigurationError: If no parameter of the encoder is shared.
    """
    if not any(len(tasks) > 1 for tasks in model.shared_parameters()):
        raise ConfigurationError(
            f"training.affinity_every measures what tasks do to each other through shared parameters, but "
            f"encoder {type(model.encoder).__name__} for {', '.join(model.encoder.tasks)} shares none: use "
            f"encoder 'shared' and at least two tasks"
        )


def task_affinity(
    model: MultiTaskNetwork, batches: Sequence[Batch], *, lr: float
) -> dict[str, dict[str, float | None]]:
    """The affinity of each task onto each: by which part of itself a loss falls after a step on one alone.

    For task i the shared parameters take one step of plain gradient descent on its loss; then every loss is
    evaluated again on the same batch, with the same random numbers. Afterwards parameters, gradients,
    running statistics and random numbers are what they were, to the bit: training goes on as if nothing had
    been measured. It costs two forward passes, and a backward and a
    forward pass for each task.

    Args:
        model: In training mode, on the device of the batches.
        batches: The micro-batches of this process; all processes must call it.
        lr: Learning rate of the step.

    Returns:
        ``{from: {onto: 1 - loss after / loss before}}``, positive where the step helps; None where a task
        has no label in the batch, or a loss is zero or not finite.

    Raises:
        ConfigurationError: If no parameter of the encoder is shared.

    Source:
        Fifty et al., Efficiently Identifying Task Groupings for Multi-Task Learning, NeurIPS 2021, section
        3.1. It is computed in float32 in any run, because a step's effect is smaller than what half
        precision resolves. Where we differ: the step is plain gradient descent for any optimizer.
    """
    check_shares(model)
    counts = global_counts(model.tasks, batches)
    present = present_tasks(model.tasks, batches)
    shared = {
        task.name: [
            parameter
            for users, listed in model.shared_parameters().items()
            if len(users) > 1 and task.name in users
            for parameter in listed
            if parameter.requires_grad
        ]
        for task in model.tasks
    }
    # Each pass leaves random numbers as they were, so all of them draw the same.
    before = losses_again(model, batches, counts, "fp32")
    after = {}
    for name, gradient in shared_gradients(model, batches, counts, present, shared).items():
        with stepped(shared[name], gradient, lr):
            after[name] = losses_again(model, batches, counts, "fp32")
    names = [task.name for task in model.tasks]
    return {
        giver: {
            taker: part_less(float(old), float(new)) if present[giver] and present[taker] else None
            for taker, old, new in zip(names, before, after.get(giver, before), strict=True)
        }
        for giver in names
    }


def part_less(before: float, after: float) -> float | None:
    """By which part of itself a loss has fallen; None if that is no number.

    >>> part_less(2.0, 1.5), part_less(0.0, 1.0)
    (0.25, None)
    """
    part = 1 - after / before if before else math.nan
    return part if math.isfinite(part) else None


def shared_gradients(
    model: MultiTaskNetwork,
    batches: Sequence[Batch],
    counts: Mapping[str, Tensor],
    present: Mapping[str, bool],
    shared: Mapping[str, Sequence[nn.Parameter]],
) -> dict[str, list[Tensor]]:
    """The gradient of each present task's loss over the global batch, at the parameters named for it."""
    totals: dict[str, list[Tensor]] = {}
    with untouched(model), kept_graphs():
        for batch in batches:
            losses = task_losses(model.tasks, model(batch.images), batch.targets, counts)
            for name in (task.name for task in model.tasks if present[task.name]):
                here = [torch.zeros_like(parameter) for parameter in shared[name]]
                if name in losses and here:
                    here = list(
                        torch.autograd.grad(
                            losses[name],
                            shared[name],
                            retain_graph=True,
                            allow_unused=True,
                            materialize_grads=True,
                        )
                    )
                totals[name] = [a + b for a, b in zip(totals[name], here)] if name in totals else here
    return {name: reduce_sums(gradient) for name, gradient in totals.items()}


@contextmanager
def stepped(parameters: Sequence[nn.Parameter], gradient: Sequence[Tensor], lr: float) -> Iterator[None]:
    """Parameters one step of gradient descent further inside the ``with``, and as they were after it."""
    with torch.no_grad():
        kept = [parameter.clone() for parameter in parameters]
        for parameter, direction in zip(parameters, gradient, strict=True):
            parameter.sub_(direction, alpha=lr)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(parameters, kept, strict=True):
                parameter.copy_(old)
