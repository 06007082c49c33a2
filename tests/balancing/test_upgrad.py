"""UPGrad is the mean of exact projections on the dual cone, and never conflicts."""

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

from plait.balancing.upgrad import UPGrad, upgrad_weights
from plait.errors import ConfigurationError


def worst_conflict(rows: Tensor, weights: Tensor) -> float:
    """The most negative ``<u_i, d>``, relative to what errors are measured by."""
    heard = rows[rows.norm(dim=1) > 0]
    gains = heard @ (weights @ rows) / heard.norm(dim=1)
    return float(gains.min()) / size_of(rows, weights)


def by_scipy(rows: Tensor, preference: Tensor | None = None) -> Tensor:
    """The (preferred) mean of the projections, of the gradients themselves that are not zero."""
    heard = rows[rows.norm(dim=1) > 0]
    p = torch.ones(len(heard)) / len(heard) if preference is None else preference
    return sum(share * projected_on_the_dual_cone(row, rows) for share, row in zip(p, heard, strict=True))


@settings(max_examples=200, deadline=None)
@given(problems)
def test_it_is_the_mean_of_the_projections(rows: Tensor) -> None:
    weights = upgrad_weights(gramian(rows))
    assert_direction(rows, weights, by_scipy(rows))
    heard = rows.norm(dim=1) > 0
    assert (weights[heard] * heard.sum() >= 1 - 1e-12).all()


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(KINDS[:-1]), st.integers(2, 6), st.integers(0, 2**32))
def test_preferred_projections(kind: str, tasks: int, seed: int) -> None:
    rows = jacobian(kind, tasks, seed)
    preference = torch.rand(tasks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    preference[0] = 0
    weights = upgrad_weights(gramian(rows), preference=preference)
    assert_direction(rows, weights, by_scipy(rows, preference / preference.sum()))


@settings(max_examples=300, deadline=None)
@given(problems)
def test_no_task_is_in_conflict(rows: Tensor) -> None:
    assert worst_conflict(rows, upgrad_weights(gramian(rows))) >= -1e-8


@pytest.mark.parametrize("tasks", [12, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_many_tasks(kind: str, tasks: int) -> None:
    for seed in range(3):
        rows = jacobian(kind, tasks, seed, size=8)
        assert_direction(rows, upgrad_weights(gramian(rows)), by_scipy(rows))


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 8), st.integers(0, 2**32), st.floats(-2, 2))
def test_lengths_that_differ_by_a_hundred_million(kind: str, tasks: int, seed: int, exponent: float) -> None:
    rows = jacobian(kind, tasks, seed)
    rows = rows * torch.logspace(-exponent, exponent, tasks, dtype=torch.float64)[:, None]
    weights = upgrad_weights(gramian(rows))
    assert worst_conflict(rows, weights) >= -1e-8
    assert_direction(rows, weights, by_scipy(rows))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.floats(-3, 3))
def test_two_tasks_are_half_of_pcgrad(seed: int, exponent: float) -> None:
    rows = jacobian("plain", 2, seed, size=3)
    rows[0] *= 10**exponent
    conflict = min(float(rows[0] @ rows[1]), 0.0)
    expected = (1 - conflict / rows.square().sum(1)) / 2
    assert upgrad_weights(gramian(rows)).tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_where_nobody_conflicts_it_is_the_mean() -> None:
    rows = jacobian("plain", 4, 0).abs()
    torch.testing.assert_close(upgrad_weights(gramian(rows)), torch.full((4,), 0.25, dtype=torch.float64))
    wanted = torch.tensor([1.0, 0.0, 2.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(upgrad_weights(gramian(rows), preference=wanted), wanted / 8)


def test_equal_gradients_give_that_gradient() -> None:
    rows = jacobian("plain", 1, 0).repeat(4, 1)
    torch.testing.assert_close(UPGrad().direction(rows), rows[0])


def test_opposite_gradients_leave_nothing() -> None:
    rows = torch.tensor([[1.0, 2.0], [-3.0, -6.0]], dtype=torch.float64)
    assert UPGrad().direction(rows).abs().max() < 1e-7


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100))
def test_neither_order_nor_rotation_matters(rows: Tensor, seed: int) -> None:
    assert_order_does_not_matter(upgrad_weights, rows, seed)
    assert_rotations_do_not_matter(upgrad_weights, rows, seed)


@settings(max_examples=50, deadline=None)
@given(problems, st.sampled_from(FACTORS))
def test_the_direction_scales_with_the_gradients(rows: Tensor, factor: float) -> None:
    assert_scales_with_the_gradients(upgrad_weights, rows, factor)


@settings(max_examples=50, deadline=None)
@given(problems)
def test_float32_gradients_are_enough(rows: Tensor) -> None:
    exact = UPGrad().direction(rows.float().double())
    rounded = UPGrad().direction(rows.float())
    assert rounded.dtype == torch.float32
    scale = size_of(rows, upgrad_weights(gramian(rows.float().double())))
    assert float((rounded - exact).norm()) <= 1e-4 * scale


def test_idle_tasks_and_what_is_not_finite() -> None:
    assert_zero_rows_are_left_out(upgrad_weights, jacobian("conflicting", 3, 1))
    assert_what_is_not_finite_stays_visible(upgrad_weights)


def test_the_preference_is_that_of_the_tasks_present() -> None:
    rows = jacobian("conflicting", 3, 2)
    named = UPGrad(tasks=["a", "b", "c", "d"], preference={"a": 1, "b": 7, "c": 2, "d": 1})
    listed = UPGrad(preference=[1, 7, 2, 1])
    expected = upgrad_weights(gramian(rows), preference=torch.tensor([1.0, 2.0, 1.0]))
    for balancer in (named, listed):
        torch.testing.assert_close(balancer.weights(seen(rows, places=(0, 2, 3), total=4)), expected)
    torch.testing.assert_close(UPGrad().weights(seen(rows)), upgrad_weights(gramian(rows)))


def test_an_unusable_preference_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="finite, not negative, and positive for some task"):
        UPGrad(preference=[1.0, -1.0])
