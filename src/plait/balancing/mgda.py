"""MGDA: the shortest convex combination of the tasks' gradients."""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.solvers import min_norm_weights, solved
from plait.errors import ConfigurationError

Normalisation = Literal["none", "l2", "loss", "loss+"]


def mgda_weights(gramian: Tensor) -> Tensor:
    """Weights on the simplex whose combination of the gradients has least norm (MGDA), solved exactly.

    The combination d does not increase any loss: ``<g_i, d> >= |d|^2``, with equality where the weight is
    positive. It is unique; the weights are unique if the gradients are independent. It is zero if and only
    if the point is Pareto stationary (for instance where two gradients are opposite), and then so is the
    step. A row that is exactly zero would make it zero as well; such a task has nothing to say about the
    direction, so it is left out with weight 0 and the others go on.

    >>> mgda_weights(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.2000, 0.8000])

    Args:
        gramian: Inner products of the gradients, ``[T, T]``. Only ratios matter.

    Returns:
        Weights ``[T]``, not negative, with sum 1, of the type and device of ``gramian``. NaN if an inner
        product is not finite, so that whoever guards the update sees it. Waits for the device.

    Source:
        Désidéri, Multiple-gradient descent algorithm, 2012; Sener and Koltun, Multi-Task Learning as
        Multi-Objective Optimization, NeurIPS 2018, eq. 3. Their code walks towards the solution with at most
        250 Frank-Wolfe steps; this is the solution.
    """
    return solved(gramian, min_norm_weights)


class MGDA(Balancer):
    """Multiple-gradient descent: follows the shortest convex combination of the gradients.

    A convex combination: equal gradients g give g, not T g. At ``scope="features"`` it is MGDA-UB.

    Args:
        normalisation: Gradients are divided by their length (``"l2"``), by their loss (``"loss"``) or by
            both (``"loss+"``) to find the weights, which are then applied to the gradients as they are.
            That is the official code's meaning; after it the combination may increase a loss. Lengths and
            losses of zero leave the task out; a negative loss makes the weights NaN, if it divides.
        common: See :class:`~plait.balancing.Common`. The official code has ``heads="weighted"``.

    Source:
        Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018, algorithm 2 and
        section 3.3 (features).
    """

    needs = Needs(quantity="gramian")
    natural = "mean"

    def __init__(self, *, normalisation: Normalisation = "none", **common: Unpack[Common]) -> None:
        super().__init__(**common)
        if normalisation not in ("none", "l2", "loss", "loss+"):
            raise ConfigurationError(f"normalisation is none, l2, loss or loss+, got {normalisation!r}")
        self.normalisation = normalisation

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        divisors = self._divisors(seen, seen.gramian)
        heard = divisors != 0
        factors = torch.where(heard, 1 / divisors.where(heard, torch.ones_like(divisors)), 0.0)
        return mgda_weights(seen.gramian * factors[:, None] * factors)

    def _divisors(self, seen: Observation, gramian: Tensor) -> Tensor:
        lengths = gramian.diagonal().sqrt()
        if self.normalisation == "none":
            return torch.ones_like(lengths)
        if self.normalisation == "l2":
            return lengths
        losses = self.losses_of(seen).to(gramian)
        losses = losses.where(losses >= 0, torch.nan)
        return losses if self.normalisation == "loss" else losses * lengths
