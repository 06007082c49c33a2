"""MoCo: running means of the gradients, and weights that descend on the length of their combination."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.gradients import CHUNK, widest
from plait.balancing.simplex import heard, move_shares, project_on_simplex, shares
from plait.errors import ConfigurationError


def moco_step(weights: Tensor, gramian: Tensor, *, gamma: float, rho: float = 0.0) -> Tensor:
    """One projected step of the weights: ``Pi(lambda - gamma (Y Y^T + rho I) lambda)``.

    It goes towards the shortest convex combination of the means Y.

    Args:
        weights: lambda ``[T]``, on the simplex.
        gramian: Inner products ``Y Y^T`` of the running means ``[T, T]``. Their scale matters: it multiplies
            the step size.
        gamma: Step size.
        rho: Pulls towards equal weights.

    Returns:
        ``[T]``, on the simplex.

    Source:
        Fernando et al., Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent Approach,
        ICLR 2023, algorithm 1.
    """
    return project_on_simplex(weights - gamma * (gramian @ weights + rho * weights))


class MoCo(Balancer):
    """Follows a convex combination of tracked gradients, whose weights make one step of MGDA at a time.

    In step k: ``y_i <- y_i - beta_k (y_i - g_i)``, then :func:`moco_step` on lambda, then the update
    ``sum_i lambda_i y_i``, with ``beta_k = beta / k^beta_sigma`` and ``gamma_k = gamma / k^gamma_sigma``;
    k counts a task's steps in beta_k and all steps in gamma_k. The means start at zero, so the first update
    is beta times a combination of gradients. A step in which one task of several is present follows its mean.
    Weights start equal and have the sum 1: equal gradients g, tracked, give g.

    A task that is absent, or whose gradient is exactly zero, keeps its mean and its weight and is left out;
    the others share the weight 1 in the update.

    Its state is as large as the Jacobian: T times the parameters of the scope. At features there is no such
    state, because each batch has other ones: that scope is refused.

    Args:
        beta: Step size of the means.
        beta_sigma: How fast it falls.
        gamma: Step size of the weights; it multiplies squared gradient lengths, so look at their size.
        gamma_sigma: How fast it falls.
        rho: Pulls towards equal weights.
        normalise: Gradients are first scaled to the length of their loss, ``g_i L_i / |g_i|``, as in LibMTL,
            after code of the authors. The paper does not. A negative loss then makes the update NaN.
        common: See :class:`~plait.balancing.Common`. Heads that get ``"weighted"`` gradients get lambda.

    Source:
        Fernando et al., Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent Approach,
        ICLR 2023, algorithm 1.
    """

    needs = Needs(quantity="jacobian", direction=True)
    scopes = ("parameters",)
    natural = "mean"

    def __init__(
        self,
        *,
        beta: float = 0.5,
        beta_sigma: float = 0.5,
        gamma: float = 0.1,
        gamma_sigma: float = 0.5,
        rho: float = 0.0,
        normalise: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        if not 0 < beta <= 1:
            raise ConfigurationError(f"beta of MoCo is more than 0 and at most 1, got {beta}")
        for name, value in {
            "beta_sigma": beta_sigma,
            "gamma": gamma,
            "gamma_sigma": gamma_sigma,
            "rho": rho,
        }.items():
            if not value >= 0:
                raise ConfigurationError(f"{name} of MoCo must not be negative, got {value}")
        self.beta, self.beta_sigma = beta, beta_sigma
        self.gamma, self.gamma_sigma = gamma, gamma_sigma
        self.rho = rho
        self.normalise = normalise
        for name in ("tracked", "count", "task_weights", "steps"):
            self.declare_state(name)

    def combine(self, jacobian: Tensor, seen: Observation) -> Tensor:
        lengths = torch.linalg.vector_norm(jacobian, dim=1, dtype=widest(jacobian.device))
        loud = heard(lengths)
        if not loud:
            return torch.zeros_like(jacobian[0])
        rows = jacobian[loud]
        if self.normalise:
            if bool((self.losses_of(seen) < 0).any()):
                return torch.full_like(jacobian[0], torch.nan)  # and nothing is remembered of it
            rows = rows * (self.losses_of(seen) / lengths)[loud].to(rows)[:, None]
        at = [seen.places[i] for i in loud]

        tracked = self.state("tracked", seen.total, rows.shape[1], dtype=rows.dtype, like=rows)
        count = self.state("count", seen.total, like=lengths)
        count[at] += 1
        means = torch.lerp(tracked[at], rows, (self.beta / count[at] ** self.beta_sigma).to(rows)[:, None])
        tracked[at] = means

        weights = self._task_weights(seen)
        steps = self.state("steps", 1, like=lengths)
        steps += 1
        gamma = self.gamma / float(steps) ** self.gamma_sigma
        gramian = lengths.new_zeros(len(at), len(at))
        for columns in torch.split(means, CHUNK, dim=1):
            wide = columns.to(gramian)
            gramian += wide @ wide.T
        move_shares(weights, at, lambda part: moco_step(part, gramian, gamma=gamma, rho=self.rho))
        return shares(weights[at]).to(means) @ means

    def head_weights(self, seen: Observation) -> Tensor:
        return shares(self._task_weights(seen)[list(seen.places)])

    def _task_weights(self, seen: Observation) -> Tensor:
        return self.state("task_weights", seen.total, fill=1 / seen.total, like=seen.gramian)
