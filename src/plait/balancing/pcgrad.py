"""PCGrad: each task's gradient gives up what conflicts with the others."""

from __future__ import annotations

from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.draws import Draws
from plait.balancing.solvers import Array, solved


def pcgrad_weights(gramian: Tensor, draws: Tensor) -> Tensor:
    """Weights of the sum of the projected gradients (PCGrad).

    Task i starts from ``p_i = g_i`` and visits the others in a random order. Where ``<p_i, g_j> < 0``,
    the component along g_j is taken out of p_i, where g_j is the gradient as it came. ``d = sum_i
    p_i``. Every weight is 1 or more; without a conflict all are 1. For two tasks ``w_i = 1 - min(0,
    <g_1, g_2>) / n_i^2``, which never conflicts. From three tasks on, d depends on the orders and may
    conflict: a later projection can undo an earlier one.

    >>> pcgrad_weights(torch.tensor([[4.0, -1.0], [-1.0, 1.0]]), torch.zeros(2, 2))
    tensor([1.2500, 2.0000])

    Args:
        gramian: Inner products of the gradients, ``[T, T]``. Only ratios matter. A gradient that is
            exactly zero is left out, with weight 0.
        draws: Numbers ``[T, T]``: task i visits the others in ascending order of row i.

    Returns:
        Weights ``[T]`` of the type and device of ``gramian``. NaN if an inner product is not finite.
        Waits for the device.

    Source:
        Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, algorithm 1.
    """
    orders = visiting_orders(draws, gramian.diagonal() > 0)
    return solved(gramian, lambda inner: _projected(inner, orders))


def visiting_orders(draws: Tensor, heard: Tensor) -> list[list[int]]:
    """For each task that is heard, the others that are, in ascending order of its draws.

    Args:
        draws: ``[T, T]``.
        heard: ``[T]``, bool.

    Returns:
        Indices among the tasks that are heard.
    """
    chosen = heard.cpu()
    orders = draws.cpu()[chosen][:, chosen].argsort(dim=1).tolist()
    return [[j for j in order if j != i] for i, order in enumerate(orders)]


def _projected(gramian: Array, orders: list[list[int]]) -> Array:
    coefficients = np.eye(len(gramian))
    for i, order in enumerate(orders):
        for j in order:
            product = coefficients[i] @ gramian[:, j]
            if product < 0:
                coefficients[i, j] -= product / gramian[j, j]
    return np.asarray(coefficients.sum(0))


class PCGrad(Balancer):
    """Projecting conflicting gradients: takes out components against other tasks, and sums the rest.

    Equal gradients g of T tasks give T g. With three tasks or more the update may still conflict.

    Args:
        seed: Of the orders in which tasks are visited. They are the same on every process.
        common: See :class:`~plait.balancing.Common`.

    Source:
        Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, algorithm 1.
    """

    needs = Needs(quantity="gramian")
    natural = "sum"

    def __init__(self, *, seed: int = 0, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        self.draws = Draws(seed)

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        # Drawn for all tasks, so that one that is absent does not change the others' orders.
        draws = torch.rand(seen.total, seen.total, generator=self.draws.next(), device="cpu")
        places = list(seen.places)
        return pcgrad_weights(seen.gramian, draws[places][:, places])
