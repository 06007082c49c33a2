"""Properties that rules on the Gramian have in common, as assertions on their weights."""

from collections.abc import Callable

import torch
from torch import Tensor

from plait.balancing.base import Observation

Weigh = Callable[[Tensor], Tensor]
"""From a Gramian ``[T, T]`` to weights ``[T]``."""

FACTORS = [1e-100, 1e-30, 1e-8, 1e8, 1e100]


def gramian(rows: Tensor) -> Tensor:
    return rows @ rows.T


def size_of(rows: Tensor, weights: Tensor) -> float:
    """What an error is measured by: the direction, or a hundredth of the largest weighted row if longer."""
    weighted = weights[:, None] * rows
    return max(float(weighted.sum(0).norm()), 1e-2 * float(weighted.norm(dim=1).max()), 1e-300)


def permutation(tasks: int, seed: int) -> Tensor:
    return torch.randperm(tasks, generator=torch.Generator().manual_seed(seed))


def rotation(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def seen(rows: Tensor, places: tuple[int, ...] | None = None, total: int | None = None) -> Observation:
    """A step with these gradients, of all tasks or of those at ``places`` among ``total``."""
    places = tuple(range(len(rows))) if places is None else places
    total = len(rows) if total is None else total
    return Observation(places, total, torch.ones(len(rows), dtype=torch.float64), gramian(rows))


def assert_direction(rows: Tensor, weights: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    """The weighted sum of the rows is what is expected."""
    assert float((weights @ rows - expected).norm()) <= tolerance * size_of(rows, weights)


def assert_order_does_not_matter(weigh: Weigh, rows: Tensor, seed: int) -> None:
    order = permutation(len(rows), seed)
    weights = weigh(gramian(rows))
    assert_direction(rows, weights, weigh(gramian(rows[order])) @ rows[order])


def assert_scales_with_the_gradients(weigh: Weigh, rows: Tensor, factor: float) -> None:
    """Homogeneous of degree one, at any scale: nothing absolute decides."""
    weights = weigh(gramian(rows))
    assert_direction(rows, weights, weigh(gramian(factor * rows)) @ rows)


def assert_rotations_do_not_matter(weigh: Weigh, rows: Tensor, seed: int) -> None:
    weights = weigh(gramian(rows))
    turned = rows @ rotation(rows.shape[1], seed)
    assert_direction(rows, weights, weigh(gramian(turned)) @ rows)


def assert_zero_rows_are_left_out(weigh: Weigh, rows: Tensor) -> None:
    tasks = len(rows)
    with_zeros = torch.zeros(tasks + 2, rows.shape[1], dtype=rows.dtype)
    with_zeros[1 : tasks + 1] = rows
    weights = weigh(gramian(with_zeros))
    assert weights[[0, -1]].tolist() == [0, 0]
    torch.testing.assert_close(weights[1:-1], weigh(gramian(rows)))
    assert weigh(torch.zeros(tasks, tasks)).tolist() == [0] * tasks


def assert_what_is_not_finite_stays_visible(weigh: Weigh) -> None:
    for bad in (torch.nan, torch.inf):
        assert weigh(torch.tensor([[1.0, bad], [bad, 1.0]])).isnan().all()
