"""GLS: the geometric mean of the losses."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation, Preference
from plait.balancing.log_sum import log_sum_weights


def gls_weights(losses: Tensor, preference: Tensor | None = None) -> Tensor:
    """The gradient of ``prod_i L_i^(p_i)``, the geometric mean: weights ``p_i GLS / L_i``.

    >>> gls_weights(torch.tensor([1.0, 4.0]))
    tensor([1.0000, 0.2500])

    Args:
        losses: L, ``[T]``, positive. The mean is taken of logarithms: no product over- or underflows.
        preference: p, ``[T]``, not negative, normalised to sum 1; None for 1 / T each.

    Returns:
        Weights ``[T]``. The weighted losses ``w_i L_i`` are ``p_i GLS``. A loss of exactly 0 would make the
        mean zero: it is left out with weight 0. If a loss is negative, all are NaN. Never waits for the
        device.

    Source:
        Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for
        Multi-Task Learning, CVPR Workshops 2019.
    """
    given = torch.ones_like(losses) if preference is None else preference.to(losses)
    shares = given.masked_fill(losses == 0, 0.0)
    # Nobody is left to share if all losses are 0.
    shares = (shares / shares.sum()).nan_to_num()
    logarithms = losses.masked_fill(losses == 0, 1.0).log()
    return (shares * logarithms).sum().exp() * log_sum_weights(losses, shares)


class GLS(Balancer):
    """Geometric loss strategy: the geometric mean of the losses, in place of their sum.

    Multiplying any loss by a positive constant scales the whole update, so the direction does not depend on
    the losses' scales. Equal losses are weighed 1 / T each. A loss of exactly 0 is left out of the step;
    a negative one makes the weights NaN.

    Args:
        preference: Exponents of the losses, by name or in declared order, normalised to sum 1 over the
            present tasks: a larger one focuses on its task.
        common: See :class:`~plait.balancing.Common`.

    Source:
        Chennupati et al., CVPR Workshops 2019. Their focused variant multiplies the losses of some tasks
        twice, which changes the unit of the objective; exponents of sum 1 do not.
    """

    needs = Needs(quantity="losses")
    natural = "mean"

    def __init__(self, *, preference: Preference | None = None, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        self.set_preference(preference)

    def weights(self, seen: Observation) -> Tensor:
        return gls_weights(self.losses_of(seen), self.preference_of(seen))
