"""DualProj: the mean gradient, projected on the directions that conflict with no task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.solvers import Array, onto_dual_cone, preferred, unit_rows


def dualproj_weights(gramian: Tensor, *, preference: Tensor | None = None) -> Tensor:
    """Weights of the projection of the mean gradient on the dual cone (DualProj), solved exactly.

    That is the direction d nearest to ``g_0 = sum_i p_i g_i`` with ``<g_i, d> >= 0`` for all i. Where g_0
    conflicts with no gradient, it is g_0. For two tasks, otherwise, it is g_0 without its component along
    the one that it conflicts with. ``<d, d - g_0> = 0``. It is unique; weights are unique if the gradients
    are independent. It is zero where only zero conflicts with none, as for two opposite gradients.

    >>> import torch
    >>> dualproj_weights(torch.tensor([[1.0, -2.0], [-2.0, 9.0]]))
    tensor([1.0000, 0.5000])

    Args:
        gramian: Inner products of the gradients, ``[T, T]``. Only ratios matter. A gradient that is exactly
            zero is left out, with weight 0, and p is that of the others.
        preference: p ``[T]``, not negative, scaled to sum 1; None for equal parts.

    Returns:
        Weights ``[T]``, none below its ``p_i``, of the type and device of ``gramian``. NaN if an inner
        product is not finite. Waits for the device.

    Source:
        Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017, eq. 8 to 11,
        with the tasks in place of the memories; named in Quinton and Rey, Jacobian Descent for
        Multi-Objective Optimization, 2024. The former's code keeps every multiplier at 0.5 or more; here
        they may be zero.
    """
    return preferred(gramian, preference, _projected_mean)


def _projected_mean(gramian: Array, preference: Array) -> Array:
    lengths, cosines = unit_rows(gramian)
    # Dividing by a length could overflow, so lengths are relative.
    lengths = lengths / lengths.max()
    return np.asarray(onto_dual_cone(cosines, preference * lengths) / lengths)


class DualProj(Balancer):
    """The direction nearest to the mean gradient that conflicts with no task.

    Args:
        preference: How much each task counts in the mean, by name or in declared order, not negative;
            scaled to sum 1 over the tasks present. None: all alike.
        common: See :class:`~plait.balancing.Common`.

    Source:
        Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017; for several
        tasks: Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024.
    """

    needs = Needs(quantity="gramian")
    natural = "mean"

    def __init__(
        self, *, preference: Mapping[str, float] | Sequence[float] | None = None, **common: Unpack[Common]
    ) -> None:
        super().__init__(**common)
        self.set_preference(preference)

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        return dualproj_weights(seen.gramian, preference=self.preference_of(seen))
