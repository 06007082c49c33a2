"""Auto-Lambda: weights learned by looking one step ahead on a second batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor

from plait.balancing.adam import Adam
from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.gradients import widest
from plait.balancing.simplex import heard
from plait.errors import ConfigurationError
from plait.registry import nearest

if TYPE_CHECKING:
    from plait.balancing.probe import Probe


def auto_lambda_gradient(probe: Probe, weights: Tensor, outer: Tensor) -> Tensor | None:
    """Gradient of the losses after one virtual step, with respect to the weights of that step.

    The virtual step of SGD on batch 0 is ``theta' = theta - lr (mu b + sum_i w_i g_i + wd theta)``, with the
    momentum buffer b; v is the gradient of the outer loss ``sum_i outer_i L_i`` on batch 1 at theta'. The
    gradient ``-<g_i(theta), lr v>`` is taken as a central difference on batch 0, of length 0.01 each way:
    ``-(L_i(theta + eps lr v) - L_i(theta - eps lr v)) / (2 eps)`` with ``eps = 0.01 / |lr v|``. Learning rate
    and weight decay may differ between parameters. Parameters are copied back at the end, bit for bit, also
    after an exception.

    Args:
        probe: Evaluates losses and gradients of the batches.
        weights: ``[T]``.
        outer: Which losses are to fall after the step, ``[T]``.

    Returns:
        ``[T]``, float64, zero for tasks that are absent in batch 0; None if the outer loss is flat (lr v is
        zero), which says nothing about the weights. Waits for the device.

    Source:
        Liu et al., Auto-Lambda: Disentangling Dynamic Task Relationships, TMLR 2022, section 3.
    """
    parameters = probe.parameters
    saved = [parameter.detach().clone() for parameter in parameters]
    step = probe.gradients(0, weights)
    for gradient, buffer, start, decay in zip(step, probe.momentum, saved, probe.weight_decay, strict=True):
        gradient += decay * start
        if buffer is not None:
            gradient += probe.momentum_factor * buffer
    try:
        _place(parameters, [s - lr * g for s, lr, g in zip(saved, probe.lr, step, strict=True)])
        ahead = [lr * v for lr, v in zip(probe.lr, probe.gradients(1, outer), strict=True)]
        wide = widest(saved[0].device)
        length = math.sqrt(sum(float(v.to(wide).square().sum()) for v in ahead))
        if length == 0:
            return None
        eps = 0.01 / length
        _place(parameters, [s + eps * v for s, v in zip(saved, ahead, strict=True)])
        forth = probe.losses(0)
        _place(parameters, [s - eps * v for s, v in zip(saved, ahead, strict=True)])
        back = probe.losses(0)
    finally:
        _place(parameters, saved)
    return -(forth - back) / (2 * eps)


@torch.no_grad()
def _place(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


class AutoLambda(Balancer):
    """Learns weights such that a step with them lowers the primary tasks' losses on another batch.

    Before each step the weights move by one step of Adam along :func:`auto_lambda_gradient`; then the step is
    taken with them. They start at 0.1, so a step begins ten times shorter than that of a plain sum, and are
    not bounded: a task that harms the primary ones may get a negative weight (see ``non_negative``).

    The virtual step is SGD's; with another optimizer it is only a model of the real one. A task that is
    absent in the step's batch (or whose loss does not change at all along the outer gradient) keeps its
    weight and its moments; one that is absent in the second batch takes no part in the outer loss. If no
    primary task is there, their gradient is zero, or something is not finite, no weight moves.

    Args:
        primary: Names of the tasks that count in the end; None for all. The others only help.
        initial: Weight of every task at the start.
        weight_lr: Adam's learning rate of the weights.
        non_negative: Whether a weight that falls below zero is set to zero. Not in the paper.
        common: See :class:`~plait.balancing.Common`.

    Source:
        Liu et al., Auto-Lambda: Disentangling Dynamic Task Relationships, TMLR 2022, section 3. The second
        batch is another one of the training set, as in the authors' code.
    """

    task_weights: Tensor
    needs = Needs(quantity="nothing", look_ahead=True, extra_batches=1)

    def __init__(
        self,
        *,
        primary: Sequence[str] | None = None,
        initial: float = 0.1,
        weight_lr: float = 1e-4,
        non_negative: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        if not weight_lr > 0:
            raise ConfigurationError(
                f"the learning rate of AutoLambda's weights must be positive, got weight_lr={weight_lr}"
            )
        if primary is not None:
            if self.tasks is None:
                raise ConfigurationError(
                    "primary tasks are given by name: make the balancer for tasks=[...] too"
                )
            for name in primary:
                if name not in self.tasks:
                    raise ConfigurationError(
                        f"the primary task {name!r} is not known{nearest(name, self.tasks)}; "
                        f"the tasks are {', '.join(self.tasks)}"
                    )
            if not primary:
                raise ConfigurationError(
                    "AutoLambda needs a primary task: name one, or pass primary=None for all"
                )
        self.primary = None if primary is None else tuple(primary)
        self.initial = initial
        self.non_negative = non_negative
        self.adam = Adam(lr=weight_lr)
        self.declare_state("task_weights")

    def weights(self, seen: Observation) -> Tensor:
        if self.task_weights.numel() == 0:
            return torch.full((len(seen.places),), self.initial, dtype=torch.float64)
        return self.task_weights[list(seen.places)]

    def before_update(self, probe: Probe) -> None:
        at = probe.parameters[0]
        weights = self.state("task_weights", len(probe.tasks), fill=self.initial, like=at)
        outer = weights.new_tensor([float(self.primary is None or t in self.primary) for t in probe.tasks])
        gradient = auto_lambda_gradient(probe, weights, outer)
        if gradient is None or not bool(gradient.isfinite().all()):
            return
        places = heard(gradient)
        moved = self.adam.step(weights, gradient[places], places)
        weights.copy_(moved.clamp(min=0) if self.non_negative else moved)
