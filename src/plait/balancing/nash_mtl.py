"""Nash-MTL: the update on which tasks agree when they bargain."""

from __future__ import annotations

import math
from typing import Unpack

from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.fairgrad import fairgrad_weights
from plait.errors import ConfigurationError


def nash_mtl_weights(gramian: Tensor) -> Tensor:
    """Weights a > 0 with ``G a = 1 / a`` (Nash-MTL), solved exactly.

    The direction ``d = J^T a`` is the Nash bargaining solution: of all directions of its length, that with
    the largest product of gains ``<g_i, d>``. Every task gains, each weighted gradient the same:
    ``<a_i g_i, d> = 1``. So ``|d| = sqrt(T)``, and multiplying a gradient divides its weight and leaves d
    as it is. For two tasks ``a_i = 1 / (n_i sqrt(1 + cos))``.

    Undefined where a convex combination of the gradients is zero (as far as rounding lets one tell), as for
    opposite ones: then no direction helps every task. There weights are those of the shortest convex
    combination of the unit gradients, ``a_i = w_i / n_i``: the direction is zero. As gradients come close
    to that, weights grow beyond all bounds.

    >>> import torch
    >>> nash_mtl_weights(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.5000, 1.0000])

    Args:
        gramian: Inner products of the gradients, ``[T, T]``. A gradient that is exactly zero is left out,
            with weight 0.

    Returns:
        Weights ``[T]`` of the type and device of ``gramian``. NaN if an inner product is not finite. Waits
        for the device.

    Source:
        Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022, claim 3.1. Their code takes at most
        20 steps of a convex-concave procedure from the weights of the step before, and keeps those if its
        solver fails; this is the solution, whatever came before.
    """
    return fairgrad_weights(gramian, alpha=1.0)


class NashMTL(Balancer):
    """Bargaining: the direction with the largest product of the tasks' gains.

    Its length is ``sqrt(T)`` whatever the gradients: the learning rate alone says how long a step is.
    Weights of 1e-4 or of 1e3 are normal; they are about one over the lengths of the gradients.

    Args:
        max_norm: A longer direction is shortened to this length. As every direction is ``sqrt(T)`` long,
            that only divides the learning rate by ``sqrt(T) / max_norm``, in every step, so the default None
            leaves the solution as it is. The authors' code has 1. It applies to the tasks' weights, so
            with ``heads="weighted"`` to heads as well, which the authors' code leaves as they are.
        common: See :class:`~plait.balancing.Common`. The authors' code has ``heads="weighted"``, with the
            weights a.

    Raises:
        ConfigurationError: If ``max_norm`` is not positive.

    Source:
        Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022, algorithm 1.
    """

    needs = Needs(quantity="gramian")

    def __init__(self, *, max_norm: float | None = None, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        if max_norm is not None and not 0 < max_norm < math.inf:
            raise ConfigurationError(f"max_norm is a positive number or null, got {max_norm}")
        self.max_norm = max_norm

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        weights = nash_mtl_weights(seen.gramian)
        if self.max_norm is None:
            return weights
        length = (weights @ seen.gramian @ weights).sqrt()
        return weights * (self.max_norm / length).clamp(max=1.0)
