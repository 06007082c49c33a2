"""Aligned-MTL: gradients whose principal components are made equally long."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

import numpy as np
import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation, Preference
from plait.balancing.solvers import Array, solved
from plait.balancing.unit_rows import unit_coordinates
from plait.errors import ConfigurationError

ScaleMode = Literal["min", "median", "rmse"]


def aligned_mtl_weights(
    gramian: Tensor, *, scale_mode: ScaleMode = "min", preference: Tensor | None = None
) -> Tensor:
    """Weights of the sum of the aligned gradients: the nearest Jacobian whose condition number is 1.

    With ``J = A S V^T`` (S holds the R singular values that are not zero) the aligned gradients are the
    rows of ``s A V^T``, and ``d = s V A^T p``, so the weights are ``s A S^-1 A^T p``. If J has full
    rank, the aligned gradients are orthogonal and of length s.

    A rule of the rank: singular values that are zero are left out, and s is the least of the others.
    Where a gradient becomes dependent on others, s jumps from zero to the next singular value, and d
    with it; a pair that is nearly dependent makes s, and so the step, very short. Dependent means a
    singular value of the gradients at unit length below 1e-6 of the largest. Opposite gradients are
    dependent: the component in which they differ is left, and with equal lengths and preference d is
    zero.

    >>> aligned_mtl_weights(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.5000, 1.0000])

    Args:
        gramian: Inner products of the gradients, ``[T, T]``. A gradient that is exactly zero is left
            out, with weight 0.
        scale_mode: What s is: the least singular value (``"min"``), the median (the lower of two), or
            the root of the mean square (``"rmse"``).
        preference: Ratios of p, ``[T]``, not negative; p is scaled to sum T over the gradients that are
            not zero. None for ones.

    Returns:
        Weights ``[T]`` of the type and device of ``gramian``; equal gradients have weight 1 (a sum).
        NaN if an inner product is not finite. Waits for the device.

    Source:
        Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR 2023, algorithm
            1.
    """
    ratios = torch.ones_like(gramian[0]) if preference is None else preference
    chosen = ratios.detach().cpu().double()[(gramian.diagonal() > 0).cpu()].numpy()
    return solved(gramian, lambda inner: _aligned_weights(inner, chosen, scale_mode))


def _aligned_weights(gramian: Array, preference: Array, scale_mode: ScaleMode) -> Array:
    lengths, units = unit_coordinates(gramian)
    # J without unused dimensions; relative to the longest row, as squares could overflow.
    left, singular, _ = np.linalg.svd(units * (lengths / lengths.max())[:, None], full_matrices=False)
    match scale_mode:
        case "min":
            scale = singular[-1]
        case "median":
            scale = singular[len(singular) // 2]
        case "rmse":
            scale = np.sqrt(np.mean(singular**2))
    total = preference.sum()
    shares = preference * (len(preference) / total) if total > 0 else preference
    return np.asarray(left @ (left.T @ shares * (scale / singular)))


class AlignedMTL(Balancer):
    """Independent component alignment: all principal components of the gradients get the same length.

    With ``scope="features"`` it is Aligned-MTL-UB. The losses may conflict with the update: what is
    promised is a condition number of 1, not that no loss increases. Equal gradients g of T tasks give T
    g. Undefined where the rank changes: see :func:`aligned_mtl_weights`.

    Args:
        scale_mode: The common length: ``"min"``, ``"median"`` or ``"rmse"`` of the singular values.
        preference: A number a task, by name or in declared order: how much each aligned gradient
            counts. Only ratios matter.
        common: See :class:`~plait.balancing.Common`. The official code scales heads only on demand,
            as here (``heads="weighted"``).

    Raises:
        ConfigurationError: For an unknown scale mode, or a preference that is none.

    Source:
        Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR 2023.
    """

    needs = Needs(quantity="gramian")
    natural = "sum"

    def __init__(
        self,
        *,
        scale_mode: ScaleMode = "min",
        preference: Preference | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        if scale_mode not in get_args(ScaleMode):
            raise ConfigurationError(f"scale_mode is min, median or rmse, got {scale_mode!r}")
        self.scale_mode: ScaleMode = scale_mode
        self.set_preference(preference)

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        return aligned_mtl_weights(
            seen.gramian, scale_mode=self.scale_mode, preference=self.preference_of(seen)
        )
