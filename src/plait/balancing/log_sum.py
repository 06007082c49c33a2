"""The sum of log-losses: no task's scale matters."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation, Preference


def log_sum_weights(losses: Tensor, preference: Tensor | None = None) -> Tensor:
    """The gradient of ``sum_i p_i log L_i``: weights ``p_i / L_i``.

    >>> log_sum_weights(torch.tensor([0.5, 4.0]))
    tensor([2.0000, 0.2500])

    Args:
        losses: L, ``[T]``, positive.
        preference: p, ``[T]``, not negative, used as given; None for ones.

    Returns:
        Weights ``[T]``: the weighted losses ``w_i L_i`` are ``p_i``, whatever the losses are. A loss of
        exactly 0 has weight 0, a negative one NaN. Never waits for the device.

    Source:
        Called scale-invariant loss scalarisation in Navon et al., Multi-Task Learning as a Bargaining Game,
        ICML 2022 (a baseline).
    """
    inverse = torch.where(losses < 0, torch.nan, losses).reciprocal().masked_fill(losses == 0, 0.0)
    return inverse if preference is None else preference.to(losses) * inverse


class LogSum(Balancer):
    """The sum of the tasks' log-losses, in place of the sum of the losses.

    Multiplying any loss by a positive constant changes nothing. Weights grow without bound as a loss falls
    towards 0. A loss of exactly 0 is left out of the step; a negative one has no logarithm, and weight NaN.
    Where all losses are 1 it is the plain sum.

    Args:
        preference: How much each task's logarithm counts, by name or in declared order; scaled so that the
            present tasks' mean is 1.
        common: See :class:`~plait.balancing.Common`.
    """

    needs = Needs(quantity="losses")

    def __init__(self, *, preference: Preference | None = None, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        self.set_preference(preference)

    def weights(self, seen: Observation) -> Tensor:
        preference = self.preference_of(seen)
        scaled = None if preference is None else len(preference) * preference
        return log_sum_weights(self.losses_of(seen), scaled)
