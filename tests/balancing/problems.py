"""Jacobians that are hard on balancing rules, and exact answers by brute force."""

from collections.abc import Iterator
from itertools import chain, combinations

import numpy as np
import torch
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch import Tensor

KINDS = ("plain", "scaled", "conflicting", "correlated", "deficient", "duplicate", "opposite", "zero row")


def jacobian(kind: str, tasks: int, seed: int, size: int = 12) -> Tensor:
    """``[tasks, size]`` in float64."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, size, generator=generator, dtype=torch.float64)
    match kind:
        case "scaled":
            rows *= 10 ** (torch.rand(tasks, 1, generator=generator, dtype=torch.float64) * 4 - 2)
            rows[0] *= 1e2 / rows[0].norm()
            rows[-1] *= 1e-2 / rows[-1].norm()
        case "conflicting":
            rows[0] -= 2 * rows[1:].sum(0)
        case "correlated":
            rows = rows[:1] + 1e-3 * rows
        case "deficient":
            rank = max(1, tasks // 2)
            mixing = torch.randn(tasks, rank, generator=generator, dtype=torch.float64)
            rows = mixing @ rows[:rank]
        case "duplicate":
            rows[-1] = rows[0]
        case "opposite":
            rows[-1] = -3 * rows[0]
        case "zero row":
            rows[-1] = 0
    return rows


problems = st.builds(jacobian, st.sampled_from(KINDS), st.integers(2, 10), st.integers(0, 2**32))


agreeable = problems.filter(lambda rows: shortest_of_unit_rows(rows) > 1e-4)
"""Problems with a direction that helps every task, and not just barely."""


def unit_rows(rows: Tensor) -> Tensor:
    """The rows that are not zero, at unit length."""
    heard = rows[rows.norm(dim=1) > 0]
    return heard / heard.norm(dim=1, keepdim=True)


def shortest_of_unit_rows(rows: Tensor) -> float:
    """The least norm of a convex combination of the unit rows, zero where no direction helps every task."""
    units = unit_rows(rows).numpy()
    # The distance of (0, 1) from the cone of the rows (u_i, 1).
    _, distance = nnls(np.c_[units, np.ones(len(units))].T, np.r_[np.zeros(units.shape[1]), 1.0])
    return float(distance / np.sqrt(max(1 - distance**2, 1e-300)))


def projected_on_the_dual_cone(point: Tensor, rows: Tensor) -> Tensor:
    """The nearest d with ``<g_i, d> >= 0`` for all i: by Moreau, what the cone of the rows does not reach."""
    units = unit_rows(rows).numpy()
    multipliers, _ = nnls(units.T, -point.numpy(), maxiter=1000)
    return point + torch.from_numpy(multipliers @ units)


def shortest_by_enumeration(rows: Tensor) -> Tensor:
    """The min-norm point of the convex hull of the rows, over all possible supports."""
    best = rows[0]
    for support in _subsets(len(rows)):
        chosen = rows[list(support)]
        # The affine hull's point of least norm is the hull's if its coordinates are not negative.
        edges = (chosen[1:] - chosen[0]).T.numpy()
        steps = np.linalg.lstsq(edges, -chosen[0].numpy(), rcond=None)[0] if edges.size else np.zeros(0)
        if (steps >= -1e-12).all() and steps.sum() <= 1 + 1e-12:
            point = chosen[0] + torch.from_numpy(edges @ steps) if len(steps) else chosen[0]
            best = min(best, point, key=lambda candidate: float(candidate.norm()))
    return best


def _subsets(size: int) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(range(size), count) for count in range(1, size + 1))
