"""DualProj is the exact projection of the mean on the dual cone, and never conflicts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.problems import KINDS, jacobian, problems, projected_on_the_dual_cone
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

from plait.balancing.dualproj import DualProj, dualproj_weights
from plait.errors import ConfigurationError


def worst_conflict(rows: Tensor, weights: Tensor) -> float:
    """The most negative ``<u_i, d>``, relative to what errors are measured by."""
    heard = rows[rows.norm(dim=1) > 0]
    gains = heard @ (weights @ rows) / heard.norm(dim=1)
    return float(gains.min()) / size_of(rows, weights)


def by_scipy(rows: Tensor) -> Tensor:
    """The projection of the mean of the gradients that are not zero, on the gradients themselves."""
    return projected_on_the_dual_cone(rows[rows.norm(dim=1) > 0].mean(0), rows)


@settings(max_examples=200, deadline=None)
@given(problems)
def test_it_is_the_projection_of_the_mean(rows: Tensor) -> None:
    assert_direction(rows, dualproj_weights(gramian(rows)), by_scipy(rows))


@settings(max_examples=100, deadline=None)
@given(problems, st.integers(0, 2**32))
def test_optimality_conditions(rows: Tensor, seed: int) -> None:
    """``<d, d - g_0> = 0``, and only tasks in whose way g_0 was have more than their preference."""
    heard = (rows.norm(dim=1) > 0).double()
    preference = torch.rand(len(rows), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares = preference * heard / (preference * heard).sum()
    weights = dualproj_weights(gramian(rows), preference=preference)
    direction, size = weights @ rows, size_of(rows, weights)
    assert (weights >= shares * (1 - 1e-12)).all()
    assert abs(float(direction @ (direction - shares @ rows))) <= 1e-6 * size**2
    gains = (rows @ direction).abs() / rows.norm(dim=1).clamp(min=1e-300)
    assert ((gains <= 1e-6 * size) | (weights <= shares * (1 + 1e-9))).all()


@settings(max_examples=300, deadline=None)
@given(problems)
def test_no_task_is_in_conflict(rows: Tensor) -> None:
    assert worst_conflict(rows, dualproj_weights(gramian(rows))) >= -1e-8


@pytest.mark.parametrize("tasks", [12, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_many_tasks(kind: str, tasks: int) -> None:
    for seed in range(3):
        rows = jacobian(kind, tasks, seed, size=8)
        assert_direction(rows, dualproj_weights(gramian(rows)), by_scipy(rows))


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 8), st.integers(0, 2**32), st.floats(-2, 2))
def test_lengths_that_differ_by_a_hundred_million(kind: str, tasks: int, seed: int, exponent: float) -> None:
    rows = jacobian(kind, tasks, seed)
    rows = rows * torch.logspace(-exponent, exponent, tasks, dtype=torch.float64)[:, None]
    weights = dualproj_weights(gramian(rows))
    assert worst_conflict(rows, weights) >= -1e-8
    assert_direction(rows, weights, by_scipy(rows))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.floats(-3, 3))
def test_two_tasks_in_closed_form(seed: int, exponent: float) -> None:
    """The mean, without its component along the gradient that it conflicts with (never with both)."""
    rows = jacobian("plain", 2, seed, size=3)
    rows[0] *= 10**exponent
    mean = rows.mean(0)
    expected = 0.5 - (rows @ mean).clamp(max=0) / rows.square().sum(1)
    assert dualproj_weights(gramian(rows)).tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_where_nobody_conflicts_it_is_the_mean() -> None:
    rows = jacobian("plain", 4, 0).abs()
    torch.testing.assert_close(dualproj_weights(gramian(rows)), torch.full((4,), 0.25, dtype=torch.float64))
    wanted = torch.tensor([1.0, 0.0, 2.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(dualproj_weights(gramian(rows), preference=wanted), wanted / 8)


def test_equal_gradients_give_that_gradient() -> None:
    rows = jacobian("plain", 1, 0).repeat(4, 1)
    torch.testing.assert_close(DualProj().direction(rows), rows[0])


def test_opposite_gradients_leave_nothing() -> None:
    rows = torch.tensor([[1.0, 2.0], [-3.0, -6.0]], dtype=torch.float64)
    assert DualProj().direction(rows).abs().max() < 1e-7


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100))
def test_neither_order_nor_rotation_matters(rows: Tensor, seed: int) -> None:
    assert_order_does_not_matter(dualproj_weights, rows, seed)
    assert_rotations_do_not_matter(dualproj_weights, rows, seed)


@settings(max_examples=50, deadline=None)
@given(problems, st.sampled_from(FACTORS))
def test_the_direction_scales_with_the_gradients(rows: Tensor, factor: float) -> None:
    assert_scales_with_the_gradients(dualproj_weights, rows, factor)


@settings(max_examples=50, deadline=None)
@given(problems)
def test_float32_gradients_are_enough(rows: Tensor) -> None:
    exact = DualProj().direction(rows.float().double())
    rounded = DualProj().direction(rows.float())
    assert rounded.dtype == torch.float32
    scale = size_of(rows, dualproj_weights(gramian(rows.float().double())))
    assert float((rounded - exact).norm()) <= 1e-4 * scale


def test_idle_tasks_and_what_is_not_finite() -> None:
    assert_zero_rows_are_left_out(dualproj_weights, jacobian("conflicting", 3, 1))
    assert_what_is_not_finite_stays_visible(dualproj_weights)


def test_the_preference_is_that_of_the_tasks_present() -> None:
    rows = jacobian("conflicting", 3, 2)
    named = DualProj(tasks=["a", "b", "c", "d"], preference={"a": 1, "b": 7, "c": 2, "d": 1})
    listed = DualProj(preference=[1, 7, 2, 1])
    expected = dualproj_weights(gramian(rows), preference=torch.tensor([1.0, 2.0, 1.0]))
    for balancer in (named, listed):
        torch.testing.assert_close(balancer.weights(seen(rows, places=(0, 2, 3), total=4)), expected)
    torch.testing.assert_close(DualProj().weights(seen(rows)), dualproj_weights(gramian(rows)))


def test_an_unusable_preference_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="finite, not negative, and positive for some task"):
        DualProj(preference=[1.0, -1.0])
