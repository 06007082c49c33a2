"""Weights on the simplex: not negative, with sum 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def project_on_simplex(point: Tensor) -> Tensor:
    """The nearest point of the simplex, exactly: ``max(v - tau, 0)`` with the tau that makes the sum 1.

    >>> project_on_simplex(torch.tensor([0.5, 1.5, -3.0]))
    tensor([0., 1., 0.])

    Args:
        point: ``[T]``.

    Returns:
        ``[T]``, not negative, with sum 1; NaN if an entry is not finite.

    Source:
        Held, Wolfe and Crowder, Validation of subgradient optimization, 1974: after sorting, tau is known
        from the largest entries alone.
    """
    centred = point - point.max()
    largest = centred.sort(descending=True).values
    counts = torch.arange(1, len(point) + 1, device=point.device, dtype=point.dtype)
    thresholds = (largest.cumsum(0) - 1) / counts
    # Entries that stay positive are a head of the sorted ones, and the thresholds grow along that head.
    positive = largest > thresholds
    tau = thresholds.where(positive, -torch.inf).max()
    return (centred - tau).clamp(min=0)


def shares(weights: Tensor) -> Tensor:
    """Weights ``[P]`` scaled to sum 1; equal ones if all are zero."""
    total = weights.sum()
    return torch.where(total == 0, torch.full_like(weights, 1 / max(len(weights), 1)), weights / total)


def move_shares(weights: Tensor, places: Sequence[int], step: Callable[[Tensor], Tensor]) -> None:
    """Moves a part of the weights on its own simplex, in place; what the part weighs together is kept.

    So tasks that are absent keep their weights, and all weights keep their sum.

    Args:
        weights: ``[T]``.
        places: The P entries that move; with none, nothing happens.
        step: Maps their shares ``[P]``, with sum 1, to new ones.
    """
    if places:
        at = list(places)
        part = weights[at]
        weights[at] = part.sum() * step(shares(part))


def heard(squares: Tensor) -> list[int]:
    """Where a squared gradient length is not exactly zero; NaN counts as heard. Waits for the device."""
    return [index for index, square in enumerate(squares.tolist()) if square != 0]
