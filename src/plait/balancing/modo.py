"""MoDo: weights that descend on the length of the combination, measured on two independent batches."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.simplex import heard, move_shares, project_on_simplex, shares
from plait.errors import ConfigurationError


def modo_step(weights: Tensor, cross: Tensor, *, gamma: float = 1e-3, rho: float = 0.1) -> Tensor:
    """One projected step of the weights: ``Pi(lambda - gamma (J1 J2^T lambda + rho lambda))``.

    Args:
        weights: lambda ``[T]``, on the simplex.
        cross: ``J1 J2^T`` of two independent batches ``[T, T]``: an unbiased estimate of the Gramian, unlike
            a batch's own. Its scale matters: it multiplies the step size.
        gamma: Step size.
        rho: Pulls towards equal weights.

    Returns:
        ``[T]``, on the simplex.

    Source:
        Chen et al., Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and
        Conflict-Avoidance, NeurIPS 2023 (MoDo).
    """
    return project_on_simplex(weights - gamma * (cross @ weights + rho * weights))


class MoDo(Balancer):
    """Multi-objective gradient with double sampling: one unbiased step of MGDA's weights at a time.

    Two extra batches move lambda, and the step's own batch is trained with it: the update is a convex
    combination, so equal gradients g give g. Weights start equal. :meth:`direction`, which has no extra
    batches, takes the own Gramian in place of ``J1 J2^T``.

    A task that is absent, or whose gradient is exactly zero, is left out of the step and the others share
    the weight 1; its own weight stays. So does that of a task without gradient in the extra batches, which
    then takes part in the step with the weight that it has.

    Args:
        gamma: Step size of the weights; it multiplies squared gradient lengths, so look at their size.
        rho: Pulls towards equal weights.
        common: See :class:`~plait.balancing.Common`.

    Source:
        Chen et al., Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and
        Conflict-Avoidance, NeurIPS 2023 (MoDo).
    """

    needs = Needs(quantity="gramian", extra_batches=2)
    scopes = ("parameters", "last_layer", "modules")  # features of different batches have no inner product
    natural = "mean"

    def __init__(self, *, gamma: float = 1e-3, rho: float = 0.1, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        if not gamma > 0:
            raise ConfigurationError(f"the step size gamma of MoDo must be positive, got {gamma}")
        if not rho >= 0:
            raise ConfigurationError(f"rho of MoDo must not be negative, got {rho}")
        self.gamma = gamma
        self.rho = rho
        self.declare_state("task_weights")

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        stored = self.state("task_weights", seen.total, fill=1 / seen.total, like=seen.gramian)
        loud = heard(seen.gramian.diagonal())
        cross = (seen.gramian if seen.cross is None else seen.cross)[loud][:, loud]
        moving = heard(cross.diagonal())
        at = [seen.places[i] for i in loud]
        inner = cross[moving][:, moving]
        move_shares(
            stored,
            [at[i] for i in moving],
            lambda part: modo_step(part, inner, gamma=self.gamma, rho=self.rho),
        )
        weights = torch.zeros_like(stored[: len(seen.places)])
        weights[loud] = shares(stored[at])
        return weights
