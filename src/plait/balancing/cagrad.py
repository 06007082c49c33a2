"""CAGrad: near the mean gradient, the direction that helps the worst-off task most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, Unpack

import numpy as np
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.solvers import EPS, Array, cancelling, least_distance, preferred, unit_rows
from plait.errors import ConfigurationError

Rescale = Literal[0, 1, 2]


def cagrad_weights(
    gramian: Tensor, *, c: float = 0.5, rescale: Rescale = 0, preference: Tensor | None = None
) -> Tensor:
    """Weights of the d with the largest ``min_i <g_i, d>`` in a ball around the mean gradient, exactly.

    The ball is ``|d - g_0| <= c |g_0|``, with ``g_0 = sum_i p_i g_i``. The optimum lies on its surface,
    ``d = g_0 + c |g_0| g_w / |g_w|`` with w on the simplex, and tasks with ``w_i > 0`` gain the same, the
    least of all. A task may still get worse: the ball may hold no direction that helps every task. c = 0
    gives g_0, equal gradients g give (1 + c) g.

    Where a convex combination of the gradients is zero (as far as rounding lets one tell), no direction
    helps every task. If the ball holds directions that harm none, all of these are optimal with value
    zero, and d is the one nearest to g_0, as in DualProj. There d jumps: with the slightest direction that
    does help every task, it is on the surface. Otherwise the optimum is negative, and unique as ever.

    >>> import torch
    >>> cagrad_weights(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor([0.7500, 0.7500])

    Args:
        gramian: Inner products of the gradients, ``[T, T]``. Only ratios matter. A gradient that is exactly
            zero is left out, with weight 0, and p is that of the others.
        c: Radius of the ball relative to ``|g_0|``; not negative.
        rescale: 0 leaves the optimum as it is; 1 divides it by ``1 + c^2``, 2 by ``1 + c``.
        preference: p ``[T]``, not negative, scaled to sum 1; None for equal parts.

    Returns:
        Weights ``[T]``, none below its ``p_i`` (rescaled), of the type and device of ``gramian``. NaN if an
        inner product is not finite. Waits for the device.

    Source:
        Liu, Liu, Jin, Stone and Liu, Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS
        2021, eq. 3 and 4. Their code minimises over w with SLSQP to a tolerance, and has ``rescale=1``.
    """
    divisor = {0: 1.0, 1: 1 + c**2, 2: 1 + c}[rescale]
    return preferred(gramian, preference, partial(_conflict_averse, c=c)) / divisor


def _conflict_averse(gramian: Array, preference: Array, c: float) -> Array:
    lengths, cosines = unit_rows(gramian)
    rounding = 8 * len(lengths) * EPS
    shares = preference * lengths / lengths.max()
    square = shares @ cosines @ shares
    if c == 0 or square <= rounding * shares.sum() ** 2:
        return preference
    # In units of |g_0|, with h = d - g_0: the largest level for which some h with |h| <= c has
    # <u_i, h> >= level * asked_i - given_i for all i. The least |h| is convex and increases with the level.
    asked, given = lengths.min() / lengths, cosines @ shares / np.sqrt(square)
    level = float(((given + c) / asked).min())
    stationary = cancelling(cosines) is not None
    if stationary:
        level = min(level, 0.0)
    risen = False
    while True:
        multipliers, slack = least_distance(cosines, level * asked - given)
        length = float(np.sqrt(np.maximum(multipliers @ cosines @ multipliers, 0)))
        if not multipliers.any() or (stationary and level == 0 and length <= c * slack):
            step = multipliers / slack
            break
        # Newton's step towards |h| = c. Any multipliers give a bound on the level: this is that of these.
        bound = float((given @ multipliers + c * length) / (asked @ multipliers))
        if abs(length - c * slack) <= rounding * c * slack or (risen and bound >= level):
            step = c * multipliers / length
            break
        level, risen = bound, risen or bound >= level
    return np.asarray(preference + np.sqrt(square) * step * (lengths.max() / lengths))


class CAGrad(Balancer):
    """Conflict-averse gradient: the best for the worst-off task within a ball around the mean gradient.

    Equal gradients g give (1 + c) g; with ``rescale=2`` they give g.

    Args:
        c: Radius of the ball relative to the mean gradient, not negative; 0 is the mean gradient, from 1 on
            no task gets worse. The authors take 0.4 for dense prediction.
        rescale: 0 leaves the optimum as it is; 1 divides it by ``1 + c^2``, as the authors do; 2 by
            ``1 + c``.
        preference: How much each task counts in the mean, by name or in declared order, not negative;
            scaled to sum 1 over the tasks present. None: all alike.
        common: See :class:`~plait.balancing.Common`.

    Raises:
        ConfigurationError: If c is negative or not finite, or rescale is another number.

    Source:
        Liu, Liu, Jin, Stone and Liu, Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS
        2021, algorithm 1.
    """

    needs = Needs(quantity="gramian")
    natural = "mean"

    def __init__(
        self,
        *,
        c: float = 0.5,
        rescale: Rescale = 0,
        preference: Mapping[str, float] | Sequence[float] | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        if not 0 <= c < math.inf:
            raise ConfigurationError(f"c is a finite number that is not negative, got {c}")
        if rescale not in (0, 1, 2):
            raise ConfigurationError(f"rescale is 0, 1 or 2, got {rescale!r}")
        self.c = c
        self.rescale = rescale
        self.set_preference(preference)

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        preference = self.preference_of(seen)
        return cagrad_weights(seen.gramian, c=self.c, rescale=self.rescale, preference=preference)
