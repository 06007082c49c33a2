"""IMTL: impartial to tasks, in gradients (IMTL-G) or in losses (IMTL-L)."""

from __future__ import annotations

from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.gradients import accumulate
from plait.balancing.solvers import Array, solved
from plait.balancing.unit_rows import DEPENDENT, even_combination, unit_coordinates
from plait.errors import ConfigurationError


def imtl_g_weights(gramian: Tensor) -> Tensor:
    """Weights with sum 1 whose combination has the same projection on every unit gradient (IMTL-G).

    With unit gradients ``u_i = g_i / n_i``: ``<d, u_i>`` is the same for all i. So d is parallel to
    ConFIG's and its direction does not depend on the lengths. ``w_i = x_i / n_i`` up to their sum,
    where ``C x = 1`` and C holds the cosines. For two tasks ``w = (n_2, n_1) / (n_1 + n_2)``.

    With three tasks or more, weights may be negative, and nothing keeps their sum before it is scaled
    to 1 from being negative: then the common projection is negative, and the step increases every loss.
    The paper's form has it so. Where that sum is zero the rule is undefined: weights are zero.

    If gradients depend on one another, x is the shortest least squares solution, so equal gradients
    have weight 1 / T; projections are the same only where that is possible. Where it is zero, as for
    two opposite gradients, so are the weights. Dependent means a singular value of the unit gradients
    below 1e-6 of the largest; where gradients become dependent, d jumps.

    >>> imtl_g_weights(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.3333, 0.6667])

    Args:
        gramian: Inner products of the gradients, ``[T, T]``. Only ratios matter. A gradient that is
            exactly zero is left out, with weight 0.

    Returns:
        Weights ``[T]`` of the type and device of ``gramian``, with sum 1. NaN if an inner product is
        not finite. Waits for the device.

    Source:
        Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, section 3.1: the same weights
        where the gradients are independent; the paper's inverse does not exist for equal ones.
    """
    return solved(gramian, _impartial_weights)


def _impartial_weights(gramian: Array) -> Array:
    lengths, units = unit_coordinates(gramian)
    factors, _ = even_combination(units, np.ones(len(lengths)))
    # Relative to the shortest row: dividing by a length could overflow.
    weights = factors * (lengths.min() / lengths)
    total = weights.sum()
    # A sum this small is rounding.
    if abs(total) <= DEPENDENT**2 * np.abs(weights).sum():
        return np.zeros_like(weights)
    return np.asarray(weights / total)


class IMTLG(Balancer):
    """Impartial gradients (IMTL-G): the update has the same projection on every task's unit gradient.

    Weights sum to 1, so equal gradients g give g. They may be negative, and their common projection
    too: see :func:`imtl_g_weights`.

    Args:
        common: See :class:`~plait.balancing.Common`. The paper takes gradients at the last shared
            features (``scope="features"``).

    Source:
        Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, section 3.1. The paper's hybrid
        takes these weights for losses that :class:`IMTLL` has scaled: that changes the length of the
        update, not its direction. It is not offered.
    """

    needs = Needs(quantity="gramian")
    natural = "mean"

    def __init__(self, **common: Unpack[Common]) -> None:
        super().__init__(**common)

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        return imtl_g_weights(seen.gramian)


def imtl_l_weights(losses: Tensor, s: Tensor) -> Tensor:
    """Weights ``exp(s_i)`` of the objective ``sum_i exp(s_i) L_i - s_i`` (IMTL-L).

    Its minimum over s is at ``exp(s_i) = 1 / L_i``, where all weighted losses are 1, whatever their
    units.

    >>> imtl_l_weights(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0]))
    tensor([1., 0.])

    Args:
        losses: ``[T]``, positive. A loss of exactly zero has weight 0; a negative one, for which the
            objective has no minimum, has weight NaN.
        s: The logarithms ``[T]``.

    Returns:
        Weights ``[T]`` of the type of ``losses``.

    Source:
        Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, section 3.2, with base e.
    """
    weights = s.to(losses).exp().where(losses != 0, torch.zeros_like(losses))
    return weights.where(losses >= 0, torch.full_like(losses, torch.nan))


def imtl_l_gradient(losses: Tensor, s: Tensor) -> Tensor:
    """The objective's derivative by s, ``exp(s_i) L_i - 1``, ``[T]``; zero where a loss is exactly zero."""
    return (imtl_l_weights(losses, s) * losses - 1).where(losses != 0, torch.zeros_like(losses))


class IMTLL(Balancer):
    """Impartial losses (IMTL-L): learns factors that bring every weighted loss to 1.

    The factors are ``exp(s_i)``, and s is a parameter that the main optimizer steps, without weight
    decay. It is uncertainty weighting with another name: twice its half-weight form at -s. Losses must
    be positive (see :func:`imtl_l_weights`). In a step without a task, its s gets a gradient of zero;
    momentum may still move it.

    Args:
        common: See :class:`~plait.balancing.Balancer`; ``tasks`` is needed.

    Attributes:
        s: ``[T]``, zero at first: the plain sum.

    Raises:
        ConfigurationError: Without tasks.

    Source:
        Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, section 3.2.
    """

    needs = Needs(quantity="losses", parameters=True)
    natural = "sum"

    def __init__(self, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        if self.tasks is None:
            raise ConfigurationError("IMTLL learns one factor a task, got no tasks: pass tasks=[...]")
        self.s = nn.Parameter(torch.zeros(len(self.tasks)))

    def weights(self, seen: Observation) -> Tensor:
        losses, places = self.losses_of(seen), list(seen.places)
        s = self.s.detach()[places]
        gradient = torch.zeros_like(self.s)
        gradient[places] = imtl_l_gradient(losses, s).to(gradient)
        accumulate(self.s, gradient)
        return imtl_l_weights(losses, s)
