"""CAGrad is the solution of its problem: optimality conditions, a general solver, closed forms, edges."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tests.balancing.problems import (
    KINDS,
    agreeable,
    jacobian,
    problems,
    projected_on_the_dual_cone,
    shortest_of_unit_rows,
)
from tests.balancing.properties import (
    FACTORS,
    assert_direction,
    assert_order_does_not_matter,
    assert_rotations_do_not_matter,
    assert_scales_with_the_gradients,
    assert_what_is_not_finite_stays_visible,
    assert_zero_rows_are_left_out,
    gramian,
    seen,
    size_of,
)
from torch import Tensor

from plait.balancing.cagrad import CAGrad, cagrad_weights
from plait.balancing.dualproj import dualproj_weights
from plait.errors import ConfigurationError

RADII = [0.0, 1e-16, 1e-8, 0.1, 0.4, 0.5, 0.9, 1.0, 3.0]


def assert_optimal(rows: Tensor, weights: Tensor, shares: Tensor, c: float) -> None:
    """On the surface of the ball, and weights above the preference only where the gain is least."""
    heard = rows.norm(dim=1) > 0
    rows, weights, shares = rows[heard], weights[heard], shares[heard] / shares[heard].sum()
    mean, direction, size = shares @ rows, weights @ rows, size_of(rows, weights)
    away, radius = direction - mean, c * mean.norm()
    assert (weights >= shares * (1 - 1e-12)).all()
    gains = rows @ direction
    slack = (gains - gains.min()) / rows.norm(dim=1) / size
    pushes = (weights - shares) * rows.norm(dim=1) / size
    assert float((slack * pushes).max()) <= 1e-6
    surface = abs(float(away.norm() - radius)) <= 1e-6 * size
    nearest = float((away - (projected_on_the_dual_cone(mean, rows) - mean)).norm()) <= 1e-6 * size
    assert surface or (nearest and away.norm() <= radius and shortest_of_unit_rows(rows) < 1e-6)


@settings(max_examples=300, deadline=None)
@given(problems, st.sampled_from(RADII), st.integers(0, 2**32))
def test_optimality_conditions(rows: Tensor, c: float, seed: int) -> None:
    preference = torch.rand(len(rows), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    equal = torch.ones(len(rows), dtype=torch.float64)
    assert_optimal(rows, cagrad_weights(gramian(rows), c=c), equal, c)
    assert_optimal(rows, cagrad_weights(gramian(rows), c=c, preference=preference), preference, c)


@pytest.mark.parametrize("tasks", [12, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_many_tasks(kind: str, tasks: int) -> None:
    for c in (0.4, 1.0):
        rows = jacobian(kind, tasks, seed=tasks, size=8)
        assert_optimal(rows, cagrad_weights(gramian(rows), c=c), torch.ones(tasks, dtype=torch.float64), c)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(KINDS[:4]), st.integers(2, 8), st.integers(0, 2**32), st.floats(-2, 2))
def test_lengths_that_differ_by_a_hundred_million(kind: str, tasks: int, seed: int, exponent: float) -> None:
    rows = jacobian(kind, tasks, seed)
    rows = rows * torch.logspace(-exponent, exponent, tasks, dtype=torch.float64)[:, None]
    assert_optimal(rows, cagrad_weights(gramian(rows)), torch.ones(tasks, dtype=torch.float64), 0.5)


def by_slsqp(rows: Tensor, c: float) -> Tensor:
    """The largest s with ``<g_i, d> >= s`` in the ball, over d itself."""
    jacobian = rows.numpy()
    mean = jacobian.mean(0)
    length = np.linalg.norm(mean)
    jacobian, mean = jacobian / length, mean / length
    gains = {
        "type": "ineq",
        "fun": lambda x: jacobian @ x[:-1] - x[-1],
        "jac": lambda x: np.c_[jacobian, -np.ones(len(jacobian))],
    }
    ball = {
        "type": "ineq",
        "fun": lambda x: c**2 - (x[:-1] - mean) @ (x[:-1] - mean),
        "jac": lambda x: np.r_[-2 * (x[:-1] - mean), 0.0],
    }
    towards = np.r_[np.zeros_like(mean), -1.0]
    found = minimize(
        lambda x: -x[-1],
        np.r_[mean, (jacobian @ mean).min()],
        jac=lambda x: towards,
        constraints=[gains, ball],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return torch.from_numpy(found.x[:-1] * length)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["plain", "conflicting"]),
    st.integers(2, 6),
    st.integers(0, 2**32),
    st.sampled_from([0.1, 0.4, 0.9]),
)
def test_a_general_solver_finds_the_same(kind: str, tasks: int, seed: int, c: float) -> None:
    rows = jacobian(kind, tasks, seed)
    assert_direction(rows, cagrad_weights(gramian(rows), c=c), by_slsqp(rows, c), tolerance=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.floats(-1, 1), st.sampled_from([0.1, 0.5, 0.9]))
def test_two_tasks_by_bisection(seed: int, exponent: float, c: float) -> None:
    """One unknown is left in the dual, ``<g_w, g_0> + c |g_0| |g_w|``, which is convex in it."""
    rows = jacobian("plain", 2, seed, size=3)
    rows[0] *= 10**exponent
    mean = rows.mean(0)

    def slope(share: float) -> float:
        combined = share * rows[0] + (1 - share) * rows[1]
        edge = rows[0] - rows[1]
        return float(edge @ mean + c * mean.norm() * (edge @ combined) / combined.norm())

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    combined = low * rows[0] + (1 - low) * rows[1]
    expected = mean + c * mean.norm() * combined / combined.norm()
    assert_direction(rows, cagrad_weights(gramian(rows), c=c), expected)


def test_two_gradients_of_one_length() -> None:
    """The mean points best already: it is only made longer."""
    rows = torch.tensor([[3.0, 0.0], [-1.0, math.sqrt(8)]], dtype=torch.float64)
    expected = torch.full((2,), 0.75, dtype=torch.float64)
    torch.testing.assert_close(cagrad_weights(gramian(rows)), expected)


def test_the_published_ways_to_rescale() -> None:
    products = gramian(jacobian("conflicting", 4, 0))
    plain = cagrad_weights(products, c=0.4)
    torch.testing.assert_close(cagrad_weights(products, c=0.4, rescale=1), plain / 1.16)
    torch.testing.assert_close(cagrad_weights(products, c=0.4, rescale=2), plain / 1.4)


def test_no_radius_gives_the_preferred_mean() -> None:
    rows = jacobian("conflicting", 3, 0)
    torch.testing.assert_close(CAGrad(c=0).direction(rows), rows.mean(0))
    torch.testing.assert_close(CAGrad(c=0, preference=[1, 1, 2]).direction(rows), rows[[0, 1, 2, 2]].mean(0))


def test_equal_gradients_are_only_made_longer() -> None:
    rows = jacobian("plain", 1, 0).repeat(3, 1)
    torch.testing.assert_close(CAGrad(c=0.5).direction(rows), 1.5 * rows[0])
    torch.testing.assert_close(CAGrad(c=0.5, rescale=2).direction(rows), rows[0])


@settings(max_examples=60, deadline=None)
@given(agreeable, st.sampled_from([1.0, 2.0]))
def test_from_a_radius_of_one_every_task_gains(rows: Tensor, c: float) -> None:
    weights = cagrad_weights(gramian(rows), c=c)
    gains = rows @ (weights @ rows)
    heard = rows.norm(dim=1) > 0
    assert (gains[heard] >= -1e-8 * rows.norm(dim=1)[heard] * size_of(rows, weights)).all()


def test_where_nothing_helps_everybody_it_is_the_nearest_that_harms_nobody() -> None:
    """An optimum of zero. A little away from it, the direction is elsewhere: it jumps."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(CAGrad().direction(rows), rows.mean(0))
    helped = rows + torch.tensor([[0.0, 1e-5], [0.0, 1e-5], [0.0, 0.0]])
    torch.testing.assert_close(CAGrad().direction(helped), 1.5 * helped.mean(0), rtol=1e-4, atol=1e-5)
    conflicting = torch.tensor([[2.0, 0.5], [-1.0, -0.25], [0.0, 1.0]], dtype=torch.float64)
    projected = dualproj_weights(gramian(conflicting)) @ conflicting
    torch.testing.assert_close(CAGrad(c=0.9).direction(conflicting), projected)


def test_opposite_gradients() -> None:
    """Within a small ball nothing but harm for one is possible, and the least of it is wanted."""
    rows = torch.tensor([[1.0, 0.0], [-3.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(CAGrad(c=0.5).direction(rows), torch.tensor([-0.5, 0.0], dtype=torch.float64))
    assert CAGrad(c=1.5).direction(rows).abs().max() < 1e-12
    cancelled = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(cagrad_weights(gramian(cancelled)), torch.full((2,), 0.5, dtype=torch.float64))


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100))
def test_neither_order_nor_rotation_matters(rows: Tensor, seed: int) -> None:
    assert_order_does_not_matter(cagrad_weights, rows, seed)
    assert_rotations_do_not_matter(cagrad_weights, rows, seed)


@settings(max_examples=50, deadline=None)
@given(problems, st.sampled_from(FACTORS))
def test_the_direction_scales_with_the_gradients(rows: Tensor, factor: float) -> None:
    assert_scales_with_the_gradients(cagrad_weights, rows, factor)


@settings(max_examples=50, deadline=None)
@given(problems)
def test_float32_gradients_are_enough(rows: Tensor) -> None:
    exact = CAGrad().direction(rows.float().double())
    rounded = CAGrad().direction(rows.float())
    assert rounded.dtype == torch.float32
    scale = size_of(rows, cagrad_weights(gramian(rows.float().double())))
    assert float((rounded - exact).norm()) <= 1e-4 * scale


def test_idle_tasks_and_what_is_not_finite() -> None:
    assert_zero_rows_are_left_out(cagrad_weights, jacobian("conflicting", 3, 1))
    assert_what_is_not_finite_stays_visible(cagrad_weights)


def test_the_options_reach_the_rule() -> None:
    rows = jacobian("conflicting", 3, 2)
    preference = torch.tensor([1.0, 2.0, 1.0])
    expected = cagrad_weights(gramian(rows), c=0.3, rescale=1, preference=preference)
    balancer = CAGrad(
        tasks=["a", "b", "c", "d"], c=0.3, rescale=1, preference={"a": 1, "b": 7, "c": 2, "d": 1}
    )
    torch.testing.assert_close(balancer.weights(seen(rows, places=(0, 2, 3), total=4)), expected)


def test_options_are_checked() -> None:
    for c in (-0.1, math.inf, math.nan):
        with pytest.raises(ConfigurationError, match="c is a finite number that is not negative, got"):
            CAGrad(c=c)
    with pytest.raises(ConfigurationError, match="rescale is 0, 1 or 2, got 3"):
        CAGrad(rescale=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="finite, not negative, and positive for some task"):
        CAGrad(preference=[0.0, 0.0])
