"""DB-MTL: logarithms of the losses, and gradients of equal length."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.gradients import widest
from plait.errors import ConfigurationError


def log_loss_factors(losses: Tensor) -> Tensor:
    """What turns gradients of losses into those of their logarithms: ``1 / L``; 0 at 0, NaN below."""
    return torch.where(losses == 0, 0.0, torch.where(losses < 0, torch.nan, 1 / losses))


def db_mtl_direction(tracked: Tensor) -> Tensor:
    """The sum of the rows, each stretched to the length of the longest; zero rows stay out.

    >>> db_mtl_direction(torch.tensor([[3.0, 0.0], [0.0, 0.1]]))
    tensor([3., 3.])

    Args:
        tracked: Running means of the gradients of the log losses ``[T, D]``.

    Returns:
        ``[D]``, no longer than T times the longest row.

    Source:
        Lin et al., Dual-Balancing for Multi-Task Learning, 2023, algorithm 1.
    """
    lengths = torch.linalg.vector_norm(tracked, dim=1, dtype=widest(tracked.device))
    return _stretches(lengths).to(tracked) @ tracked


def db_mtl_weights(gramian: Tensor, losses: Tensor) -> Tensor:
    """:func:`db_mtl_direction` without running means, as weights of the losses' own gradients.

    Args:
        gramian: Inner products of the gradients ``[T, T]``.
        losses: ``[T]``, positive; a task with a loss of 0 has weight 0, a negative loss makes all NaN.

    Returns:
        ``max_j(|g_j| / L_j) / |g_i|``, ``[T]``; 0 for a zero row.
    """
    factors = log_loss_factors(losses)
    return factors * _stretches(factors * gramian.diagonal().sqrt())


def _stretches(lengths: Tensor) -> Tensor:
    """The longest length over each; 0 for a zero."""
    return torch.where(lengths == 0, 0.0, lengths.max() / lengths)


class DBMTL(Balancer):
    """Balances the scale of losses by their logarithm and that of gradients by their length.

    The running mean of a task's gradient of log L is ``ghat <- g/L + beta_k (ghat - g/L)`` with
    ``beta_k = beta / k^sigma`` in the task's k-th step. It starts at zero, so with the defaults the first
    steps are short (by ``1 - beta^k`` for constant gradients), as in the paper. A sum: with ``beta`` 0,
    equal gradients g of log losses give T g. Losses enter by their logarithm, so their scale does not matter
    at all; a step in which one task of several is present trains that one on log L.

    A task that is absent, whose loss is 0 or whose gradient is exactly zero keeps its mean and is left out.
    A negative loss makes the update NaN.

    Its state is as large as the Jacobian: T times the parameters of the scope. At features there is no such
    state, because each batch has other ones: that scope is refused, unless ``beta`` is 0 and nothing is kept.

    Args:
        beta: How much of the running mean is kept; 0 for none.
        sigma: How fast that falls.
        common: See :class:`~plait.balancing.Common`. By default heads get the gradients of the log losses
            (``heads="weighted"``), as in the paper.

    Source:
        Lin et al., Dual-Balancing for Multi-Task Learning, 2023, algorithm 1.
    """

    needs = Needs(quantity="jacobian", direction=True)
    scopes = ("parameters",)
    default_heads = "weighted"

    def __init__(self, *, beta: float = 0.9, sigma: float = 0.0, **common: Unpack[Common]) -> None:
        if not 0 <= beta < 1:
            raise ConfigurationError(f"beta of DBMTL is at least 0 and less than 1, got {beta}")
        if not sigma >= 0:
            raise ConfigurationError(f"sigma of DBMTL must not be negative, got {sigma}")
        if beta == 0:
            self.scopes = ("parameters", "features")  # type: ignore[misc, assignment]
        super().__init__(**common)
        self.beta = beta
        self.sigma = sigma
        self.declare_state("tracked")
        self.declare_state("count")

    def head_weights(self, seen: Observation) -> Tensor:
        return log_loss_factors(self.losses_of(seen))

    def combine(self, jacobian: Tensor, seen: Observation) -> Tensor:
        losses = self.losses_of(seen)
        if self.beta == 0:
            assert seen.gramian is not None
            return db_mtl_weights(seen.gramian, losses).to(jacobian) @ jacobian
        if bool((losses < 0).any()):
            return torch.full_like(jacobian[0], torch.nan)  # and nothing is remembered of it
        at = list(seen.places)
        tracked = self.state("tracked", seen.total, jacobian.shape[1], dtype=jacobian.dtype, like=jacobian)
        count = self.state("count", seen.total, like=jacobian)
        rows = log_loss_factors(losses).to(jacobian)[:, None] * jacobian
        loud = (rows != 0).any(dim=1)
        count[at] += loud
        kept = self.beta / count[at].clamp(min=1) ** self.sigma
        means = torch.where(loud[:, None], torch.lerp(rows, tracked[at], kept.to(rows)[:, None]), tracked[at])
        tracked[at] = means
        return db_mtl_direction(torch.where(loud[:, None], means, 0.0))
