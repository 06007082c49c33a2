"""ConFIG: the direction that has the same angle to every task's gradient."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

import numpy as np
import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation, Preference
from plait.balancing.solvers import Array, solved
from plait.balancing.unit_rows import even_combination, unit_coordinates
from plait.errors import ConfigurationError

Length = Literal["projections", "min", "max", "mean", "geometric", "harmonic"]


def config_weights(
    gramian: Tensor, *, length: Length = "projections", preference: Tensor | None = None
) -> Tensor:
    """Weights of the direction whose cosine with every gradient is the same and positive (ConFIG).

    With unit gradients ``u_i = g_i / n_i`` as rows of U: ``v = U^+ 1``, and ``d = l v / |v|``. The
    direction does not depend on the lengths of the gradients, only l does: it is ``sum_i <g_i, v> /
    |v|``, or the same sum with all lengths n_i replaced by their least, largest or a mean one.

    If gradients depend on one another, there may be no such direction. Then v is the least squares
    solution of ``U v = 1``: angles differ, losses may increase, and with ``"projections"`` even l may
    be negative (d is always the projection of the plain sum on v, so it never increases the sum). Where
    that solution is zero, as for two opposite gradients, the weights are zero. Dependent means a
    singular value of U below 1e-6 of the largest; where gradients become dependent, d jumps.

    >>> config_weights(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.7500, 1.5000])

    Args:
        gramian: Inner products of the gradients, ``[T, T]``. A gradient that is exactly zero is left
            out, with weight 0.
        length: Which lengths are summed.
        preference: Cosines in proportion to these numbers ``[T]``, not negative; None for equal ones.

    Returns:
        Weights ``[T]`` of the type and device of ``gramian``; equal gradients have weight 1 (a sum).
        NaN if an inner product is not finite. Waits for the device.

    Source:
        Liu, Chu and Thuerey, ConFIG: Towards Conflict-free Training of Physics Informed Neural
        Networks, ICLR 2025, eq. 2. Lengths other than the paper's are those of the authors' code
        (``Track...``).
    """
    targets = torch.ones_like(gramian[0]) if preference is None else preference
    chosen = targets.detach().cpu().double()[(gramian.diagonal() > 0).cpu()].numpy()
    return solved(gramian, lambda inner: _even_weights(inner, chosen, length))


def _even_weights(gramian: Array, targets: Array, length: Length) -> Array:
    lengths, units = unit_coordinates(gramian)
    factors, vector = even_combination(units, targets)
    norm = np.linalg.norm(vector)
    if norm == 0:
        return factors
    cosines = units @ vector / norm
    return np.asarray(factors / lengths * (_taken(lengths, length) @ cosines / norm))


def _taken(lengths: Array, length: Length) -> Array:
    match length:
        case "projections":
            return lengths
        case "min":
            one = lengths.min()
        case "max":
            one = lengths.max()
        case "mean":
            one = lengths.mean()
        case "geometric":
            one = np.exp(np.log(lengths).mean())
        case "harmonic":
            one = 1 / (1 / lengths).mean()
    return np.full_like(lengths, one)


class ConFIG(Balancer):
    """Conflict-free inverse gradients: the same cosine with every task's gradient.

    No loss increases as long as the gradients are independent; what happens otherwise is said at
    :func:`config_weights`. Equal gradients g of T tasks give T g.

    Args:
        length: How long the update is: ``"projections"`` (of the gradients as they are), or as if all
            gradients had the ``"min"``, ``"max"``, ``"mean"``, ``"geometric"`` or ``"harmonic"`` mean
            length.
        preference: A number a task, by name or in declared order: cosines are in proportion to them.
        common: See :class:`~plait.balancing.Common`.

    Raises:
        ConfigurationError: For an unknown length, or a preference that is none.

    Source:
        Liu, Chu and Thuerey, ConFIG: Towards Conflict-free Training of Physics Informed Neural
        Networks, ICLR 2025. The variant with momentum (M-ConFIG) is another optimizer and not offered.
    """

    needs = Needs(quantity="gramian")
    natural = "sum"

    def __init__(
        self,
        *,
        length: Length = "projections",
        preference: Preference | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        if length not in get_args(Length):
            raise ConfigurationError(f"length is one of {', '.join(get_args(Length))}, got {length!r}")
        self.length: Length = length
        self.set_preference(preference)

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        return config_weights(seen.gramian, length=self.length, preference=self.preference_of(seen))
