"""UPGrad: each gradient is cleared of its conflicts with the others, then they are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.solvers import Array, onto_dual_cone, preferred, unit_rows


def upgrad_weights(gramian: Tensor, *, preference: Tensor | None = None) -> Tensor:
    """Weights of the mean of the gradients' projections on the dual cone (UPGrad), solved exactly.

    The dual cone holds the directions that conflict with no gradient: ``{d : <g_i, d> >= 0 for all i}``.
    With ``proj`` the nearest point of it, ``d = sum_i p_i proj(g_i)``, so d conflicts with none either.
    Where no two gradients conflict, it is their mean. For two that do, each loses its component along the
    other: half of PCGrad. It is unique; weights are unique if the gradients are independent. It is zero
    where only zero conflicts with none, as for two opposite gradients.

    >>> import torch
    >>> upgrad_weights(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.5000, 0.5000])

    Args:
        gramian: Inner products of the gradients, ``[T, T]``. Only ratios matter. A gradient that is exactly
            zero is left out, with weight 0, and p is that of the others.
        preference: p ``[T]``, not negative, scaled to sum 1; None for equal parts.

    Returns:
        Weights ``[T]``, none below its ``p_i``, of the type and device of ``gramian``. NaN if an inner
        product is not finite. Waits for the device.

    Source:
        Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024, section 3.1 and
        proposition 1. Their code (TorchJD) adds 1e-4 of the sum of squared lengths to the diagonal of G,
        which lets the result conflict where lengths differ by thirty or more.
    """
    return preferred(gramian, preference, _projected_one_by_one)


def _projected_one_by_one(gramian: Array, preference: Array) -> Array:
    lengths, cosines = unit_rows(gramian)
    projected = np.stack([onto_dual_cone(cosines, row) for row in np.eye(len(gramian))])
    return np.asarray((preference * lengths) @ projected / lengths)


class UPGrad(Balancer):
    """Unconflicting projections: the mean of the gradients after each was cleared of its conflicts.

    Args:
        preference: How much each task's projected gradient counts, by name or in declared order, not
            negative; scaled to sum 1 over the tasks present. None: all alike.
        common: See :class:`~plait.balancing.Common`.

    Source:
        Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024.
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
        return upgrad_weights(seen.gramian, preference=self.preference_of(seen))
