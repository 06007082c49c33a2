"""FairGrad: the update that shares out the tasks' gains alpha-fairly."""

from __future__ import annotations

import math
from functools import partial
from typing import Unpack

import numpy as np
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.solvers import Array, cancelling, fair_weights, solved, unit_rows
from plait.errors import ConfigurationError


def fairgrad_weights(gramian: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Weights a > 0 with ``G a = a^(-1/alpha)`` (FairGrad), solved exactly.

    The direction ``d = J^T a`` is that of the largest ``sum_i <g_i, d>^(1 - alpha) / (1 - alpha)`` (for
    alpha = 1 the sum of logarithms) among those of its length. So every task gains, ``<g_i, d> > 0``, and
    the larger alpha is, the more alike they gain. alpha = 1 is Nash-MTL; towards infinity the least gain
    is the largest possible. alpha = 0 is the plain sum, a = 1, whatever the gradients. Where no two
    gradients conflict, alpha towards 0 leads there; where some do, to T times DualProj, because every
    task must gain at any alpha above 0. Tested for alpha from 0.01 to 1000.

    Undefined where a convex combination of the gradients is zero (as far as rounding lets one tell), as for
    opposite ones: then no direction helps every task. There, for alpha > 0, weights are those of the
    shortest convex combination of the unit gradients, ``a_i = w_i / n_i``: the direction is zero. As
    gradients come close to that, weights grow beyond all bounds.

    >>> import torch
    >>> fairgrad_weights(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.5000, 1.0000])

    Args:
        gramian: Inner products of the gradients, ``[T, T]``. A gradient that is exactly zero is left out,
            with weight 0.
        alpha: Not negative. Gradients s times as long give a direction
            ``s^((1 - alpha) / (1 + alpha))`` times as long.

    Returns:
        Weights ``[T]`` of the type and device of ``gramian``. NaN if an inner product is not finite. Waits
        for the device.

    Source:
        Ban and Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024, eq. 4 to 6. Their code calls a
        general least squares solver, which is off by up to 84% where lengths differ by ten thousand.
    """
    return solved(gramian, partial(_fair, alpha=alpha))


def _fair(gramian: Array, alpha: float) -> Array:
    if alpha == 0:
        return np.ones(len(gramian))
    lengths, cosines = unit_rows(gramian)
    shares = cancelling(cosines)
    return fair_weights(gramian, alpha) if shares is None else shares / lengths


class FairGrad(Balancer):
    """Alpha-fair gains: every task gains, the more alike the larger alpha is.

    The direction is not proportional to the gradients (see :func:`fairgrad_weights`): with alpha = 1 it is
    ``sqrt(T)`` long whatever they are, with a larger alpha the longer the shorter they are.

    Args:
        alpha: Fairness, not negative; the authors take 2 in their experiments.
        common: See :class:`~plait.balancing.Common`. The authors' code has ``heads="weighted"``.

    Raises:
        ConfigurationError: If alpha is negative or not finite.

    Source:
        Ban and Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024, algorithm 1.
    """

    needs = Needs(quantity="gramian")

    def __init__(self, *, alpha: float = 1.0, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        if not 0 <= alpha < math.inf:
            raise ConfigurationError(f"alpha is a finite number that is not negative, got {alpha}")
        self.alpha = alpha

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        return fairgrad_weights(seen.gramian, alpha=self.alpha)
