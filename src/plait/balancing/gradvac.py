"""GradVac: each task's gradient is turned until it is as similar to the others as they usually are."""

from __future__ import annotations

import math
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.draws import Draws
from plait.balancing.pcgrad import visiting_orders
from plait.balancing.solvers import Array, solved
from plait.balancing.unit_rows import DEPENDENT
from plait.errors import ConfigurationError


def gradvac_weights(
    gramian: Tensor, targets: Tensor, draws: Tensor, *, beta: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Weights of the sum of the vaccinated gradients (GradVac), and the next targets.

    Task i starts from ``p_i = g_i`` and visits the others in a random order. With phi the cosine of p_i
    and g_j: where it is below its target ``phi*_ij``, as much of g_j is added to p_i as makes the
    cosine ``phi*_ij``,

        ``|p_i| (phi* sqrt(1 - phi^2) - phi sqrt(1 - phi*^2)) / (n_j sqrt(1 - phi*^2))``,

    and the target moves to ``(1 - beta) phi*_ij + beta phi``, met or not. ``d = sum_i p_i``. With
    targets of zero it is PCGrad.

    Undefined in three cases, which leave p_i alone. A p_i that was projected to nothing (opposite
    gradients) has no cosine: its remaining pairs keep their targets. A p_i parallel to g_j cannot be
    turned: opposite to it, it becomes zero. A target of 1 (gradients that have always been equal) would
    take an infinite multiple of g_j; targets close to it take very long ones. Lengths below 1e-6 of
    what they are compared with count as zero.

    >>> opposed = torch.tensor([[1.0, -0.6], [-0.6, 1.0]])
    >>> weights, targets = gradvac_weights(opposed, torch.full((2, 2), 0.6), torch.zeros(2, 2))
    >>> weights, targets[0, 1]
    (tensor([2.2000, 2.2000]), tensor(0.))

    Args:
        gramian: Inner products of the gradients, ``[T, T]``. Only ratios matter. A gradient that is
            exactly zero is left out, with weight 0, and its targets stay.
        targets: ``phi*``, ``[T, T]``, in [-1, 1]; the diagonal is not used.
        draws: Numbers ``[T, T]``: task i visits the others in ascending order of row i.
        beta: How far a target moves to the cosine that was found.

    Returns:
        Weights ``[T]`` of the type and device of ``gramian``, and new targets of the type and device of
        ``targets``. If an inner product is not finite, weights are NaN and targets stay. Waits for the
        device.

    Source:
        Wang et al., Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
        Multilingual Models, ICLR 2021, algorithm 1. Both cosine and length are of the running p_i.
    """
    heard = gramian.diagonal() > 0
    orders = visiting_orders(draws, heard)
    chosen = heard.nonzero().flatten().to(targets.device)
    wanted = targets.detach()[chosen][:, chosen].to("cpu", torch.float64).numpy()
    weights = solved(gramian, lambda inner: _vaccinated(inner, wanted, orders, beta))
    moved = targets.detach().clone()
    moved[chosen[:, None], chosen] = torch.from_numpy(wanted).to(moved)
    return weights, moved


def _vaccinated(gramian: Array, targets: Array, orders: list[list[int]], beta: float) -> Array:
    """The weights; ``targets`` are moved in place."""
    lengths = np.sqrt(np.diagonal(gramian))
    cosines = gramian / lengths / lengths[:, None]
    # Row i: p_i / n_i as a combination of unit gradients.
    coefficients = np.eye(len(gramian))
    for i, order in enumerate(orders):
        own = coefficients[i]
        for j in order:
            square, along = own @ cosines @ own, own @ cosines[:, j]
            if square <= DEPENDENT**2:
                break
            across = square - along**2
            across = math.sqrt(across) if across > DEPENDENT**2 * square else 0.0
            cosine = along / math.hypot(along, across)
            wanted = targets[i, j]
            missing = 1 - wanted**2
            if cosine < wanted and missing > DEPENDENT**2:
                own[j] += wanted / math.sqrt(missing) * across - along
            targets[i, j] = (1 - beta) * wanted + beta * cosine
    return np.asarray(lengths @ coefficients / lengths)


class GradVac(Balancer):
    """Gradient vaccine: raises the cosine of two tasks' gradients to its running mean.

    Targets start at zero, so the first step is like PCGrad's. Equal gradients g of T tasks give T g.
    The update may conflict. Undefined cases are named at :func:`gradvac_weights`.

    There is one target a pair of tasks, for the whole scope. The paper also has one for each layer,
    which is not offered.

    Args:
        beta: How far a target moves to the cosine that was found, in [0, 1]. Public code has 0.5; the
            paper's own experiments move it far more slowly.
        seed: Of the orders in which tasks are visited. They are the same on every process.
        common: See :class:`~plait.balancing.Common`.

    Attributes:
        targets: ``[T, T]`` by place. A pair with an absent task, or one without a gradient, keeps its
            own.

    Raises:
        ConfigurationError: For a beta outside [0, 1].

    Source:
        Wang et al., Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
        Multilingual Models, ICLR 2021, algorithm 1.
    """

    needs = Needs(quantity="gramian")
    natural = "sum"
    targets: Tensor

    def __init__(self, *, beta: float = 0.5, seed: int = 0, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        if not 0 <= beta <= 1:
            raise ConfigurationError(f"beta lies between 0 (targets stay) and 1 (no memory), got {beta}")
        self.beta = beta
        self.draws = Draws(seed)
        self.declare_state("targets")

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        targets = self.state("targets", seen.total, seen.total, like=seen.gramian)
        # Drawn for all tasks, so that one that is absent does not change the others' orders.
        draws = torch.rand(seen.total, seen.total, generator=self.draws.next(), device="cpu")
        places = torch.tensor(seen.places, device=targets.device)
        pairs = (places[:, None], places)
        weights, moved = gradvac_weights(
            seen.gramian, targets[pairs], draws[pairs[0].cpu(), pairs[1].cpu()], beta=self.beta
        )
        targets[pairs] = moved
        return weights
