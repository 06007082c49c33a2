"""SDMGrad: the shortest convex combination, held near the mean gradient, from independent batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.simplex import heard, move_shares, project_on_simplex, shares
from plait.balancing.solvers import min_norm_weights, solved
from plait.errors import ConfigurationError


def sdmgrad_weights(gramian: Tensor, *, lam: float = 0.3, preference: Tensor | None = None) -> Tensor:
    """Weights of SDMGrad's direction where gradients are exact: its deterministic limit, solved exactly.

    With g_0 the preferred combination (the mean of the gradients), w is the point of the simplex where
    ``|J^T w + lam g_0|`` is least, and the direction is ``d = (J^T w + lam g_0) / (1 + lam)``. That is MGDA
    on the rows ``g_i + lam g_0``, so ``<g_i + lam g_0, d> >= (1 + lam) |d|^2``; a task may still get worse.
    It is unique; where it is zero (for T = 2: opposite gradients whose lengths differ by no more than a
    factor of ``1 + 2 / lam``), so is the step. Rows that are exactly zero are left out, also of g_0.

    >>> sdmgrad_weights(torch.eye(2))
    tensor([0.5000, 0.5000])

    Args:
        gramian: Inner products of the gradients ``[T, T]``. Only ratios matter.
        lam: How strongly the direction is held near g_0; 0 is MGDA.
        preference: Weights of g_0 ``[T]``, scaled to sum 1; None for the mean.

    Returns:
        Weights ``(w + lam p) / (1 + lam)``, ``[T]``, not negative, with sum 1, of the type and device of
        ``gramian``; NaN if an inner product is not finite. Waits for the device.

    Source:
        Xiao, Ban and Ji, Direction-oriented Multi-objective Learning: Simple and Provable Stochastic
        Algorithms, NeurIPS 2023.
    """
    inner = gramian.double()
    loud = inner.diagonal() != 0
    towards = _preferred(preference, loud.double())
    products = inner @ towards
    square = towards @ products
    shifted = inner + lam * (products[:, None] + products) + lam**2 * square
    # A row g_i + lam g_0 that is zero but for rounding is the optimum: it must not look like an idle task.
    rounding = torch.finfo(torch.float64).eps * (inner.diagonal() + lam**2 * square)
    shifted.diagonal().copy_(torch.maximum(shifted.diagonal(), rounding))
    weights = solved(shifted * loud * loud[:, None], min_norm_weights)
    return ((weights + lam * towards) / (1 + lam) * loud).to(gramian)


def sdmgrad_step(
    weights: Tensor,
    cross: Tensor,
    *,
    lam: float = 0.3,
    preference: Tensor | None = None,
    lr: float = 10.0,
    momentum: float = 0.5,
    steps: int = 20,
) -> Tensor:
    """The weights w after some projected stochastic gradient steps on ``|J^T w + lam g_0|^2 / 2``.

    Args:
        weights: w to start from ``[T]``, on the simplex.
        cross: ``J1 J2^T`` of two independent batches ``[T, T]``, with a diagonal that is not all zero;
            neither symmetric nor semi-definite. It is divided by the square of the mean root of its
            diagonal. That may be negative in a noisy batch, so its absolute value is taken.
        lam: How strongly the direction is held near g_0.
        preference: Weights of g_0 ``[T]``, scaled to sum 1; None for the mean.
        lr: Step size.
        momentum: Of the steps; it starts anew in each call.
        steps: How many.

    Returns:
        ``[T]``, on the simplex.

    Source:
        Xiao, Ban and Ji, Direction-oriented Multi-objective Learning: Simple and Provable Stochastic
        Algorithms, NeurIPS 2023, algorithm 1.
    """
    towards = _preferred(preference, torch.ones_like(weights))
    scaled = cross / cross.diagonal().abs().sqrt().mean() ** 2
    velocity = torch.zeros_like(weights)
    for _ in range(steps):
        velocity = momentum * velocity + scaled @ (weights + lam * towards)
        weights = project_on_simplex(weights - lr * velocity)
    return weights


class SDMGrad(Balancer):
    """Stochastic direction-oriented multi-objective gradient descent.

    Two extra batches move w by :func:`sdmgrad_step`, from where it was; the step's own batch is trained with
    ``(J3^T w + lam g_0) / (1 + lam)``. A convex combination, so equal gradients g give g.
    :meth:`direction`, which has no extra batches, gives the exact deterministic limit
    (:func:`sdmgrad_weights`), and neither uses nor moves w.

    A task that is absent, or whose gradient is exactly zero, is left out of the step and the others share
    the weight 1; its own weight stays. So does that of a task without gradient in the extra batches, which
    then takes part in the step with the weight that it has.

    Args:
        lam: How strongly the direction is held near g_0. 0.3 in the authors' experiments, 0.6 in their class.
        lr: Step size of w.
        momentum: Of the steps of w.
        steps: How many steps w makes in one of the network's.
        preference: Weights of g_0, ``{task: weight}`` or one a task; None for the mean.
        common: See :class:`~plait.balancing.Common`.

    Source:
        Xiao, Ban and Ji, Direction-oriented Multi-objective Learning: Simple and Provable Stochastic
        Algorithms, NeurIPS 2023, algorithm 1.
    """

    needs = Needs(quantity="gramian", extra_batches=2)
    scopes = ("parameters", "last_layer", "modules")  # features of different batches have no inner product
    natural = "mean"

    def __init__(
        self,
        *,
        lam: float = 0.3,
        lr: float = 10.0,
        momentum: float = 0.5,
        steps: int = 20,
        preference: Mapping[str, float] | Sequence[float] | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        if not lam >= 0:
            raise ConfigurationError(f"lam of SDMGrad must not be negative, got {lam}")
        if not lr > 0:
            raise ConfigurationError(f"the step size lr of SDMGrad must be positive, got {lr}")
        if not 0 <= momentum < 1:
            raise ConfigurationError(f"momentum of SDMGrad is at least 0 and less than 1, got {momentum}")
        if steps < 1:
            raise ConfigurationError(f"SDMGrad makes 1 step of its weights or more, got steps={steps}")
        self.lam, self.lr, self.momentum, self.steps = lam, lr, momentum, steps
        self.set_preference(preference)
        self.declare_state("task_weights")

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        preference = self.preference_of(seen)
        if seen.cross is None:
            return sdmgrad_weights(seen.gramian, lam=self.lam, preference=preference)
        stored = self.state("task_weights", seen.total, fill=1 / seen.total, like=seen.gramian)
        towards = _preferred(preference, torch.ones_like(seen.gramian[0]))
        loud = heard(seen.gramian.diagonal())
        moving = [i for i in heard(seen.cross.diagonal()) if i in loud]
        cross = seen.cross[moving][:, moving]

        def step(part: Tensor) -> Tensor:
            return sdmgrad_step(
                part,
                cross,
                lam=self.lam,
                preference=towards[moving],
                lr=self.lr,
                momentum=self.momentum,
                steps=self.steps,
            )

        move_shares(stored, [seen.places[i] for i in moving], step)
        weights = torch.zeros_like(towards)
        weights[loud] = (
            shares(stored[[seen.places[i] for i in loud]]) + self.lam * shares(towards[loud])
        ) / (1 + self.lam)
        return weights


def _preferred(preference: Tensor | None, among: Tensor) -> Tensor:
    """The weights ``[T]`` of g_0, with sum 1, where ``among`` is 1; equal ones for None."""
    return shares(among if preference is None else preference.to(among) * among)
