"""Nash-MTL is the bargaining solution: its equation, a general solver, closed forms, where it has none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares
from tests.balancing.problems import KINDS, agreeable, jacobian
from tests.balancing.properties import (
    FACTORS,
    assert_direction,
    assert_order_does_not_matter,
    assert_rotations_do_not_matter,
    assert_what_is_not_finite_stays_visible,
    assert_zero_rows_are_left_out,
    gramian,
    seen,
    size_of,
)
from torch import Tensor
from torchjd.aggregation import FairGradWeighting

from plait.balancing.nash_mtl import NashMTL, nash_mtl_weights
from plait.errors import ConfigurationError


def assert_bargained(rows: Tensor, weights: Tensor) -> None:
    """Each weighted gradient gains one: ``<a_i g_i, d> = 1``, and nobody else has an ``a > 0`` like that."""
    weighted = weights[:, None] * rows
    heard = rows.norm(dim=1) > 0
    assert (weights[heard] > 0).all()
    gains = (weighted @ weighted.sum(0))[heard]
    # A gain is the rest of what cancels in the sum.
    assert ((gains - 1).abs() <= 1e-8 * weighted.norm(dim=1)[heard] * size_of(rows, weights)).all()


@settings(max_examples=300, deadline=None)
@given(agreeable)
def test_every_weighted_gradient_gains_one(rows: Tensor) -> None:
    weights = nash_mtl_weights(gramian(rows))
    assert_bargained(rows, weights)
    heard = int((rows.norm(dim=1) > 0).sum())
    assert float((weights @ rows).norm()) == pytest.approx(heard**0.5, rel=1e-6)


@pytest.mark.parametrize("tasks", [12, 20])
@pytest.mark.parametrize("kind", ["plain", "scaled", "correlated", "zero row"])
def test_many_tasks(kind: str, tasks: int) -> None:
    for seed in range(3):
        rows = jacobian(kind, tasks, seed, size=40)
        assert_bargained(rows, nash_mtl_weights(gramian(rows)))


@settings(max_examples=100, deadline=None)
@given(agreeable, st.floats(-2, 2))
def test_a_gradient_times_s_is_a_weight_divided_by_s(rows: Tensor, exponent: float) -> None:
    scales = torch.logspace(-exponent, exponent, len(rows), dtype=torch.float64)
    weights = nash_mtl_weights(gramian(rows))
    rescaled = nash_mtl_weights(gramian(scales[:, None] * rows))
    assert_direction(rows, weights, (rescaled * scales) @ rows)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["plain", "scaled", "correlated"]), st.integers(2, 8), st.integers(0, 2**32))
def test_a_general_solver_finds_the_same(kind: str, tasks: int, seed: int) -> None:
    """The equation in weights times lengths, from the answer for orthogonal rows."""
    rows = jacobian(kind, tasks, seed, size=40)
    lengths = rows.norm(dim=1)
    cosines = gramian(rows / lengths[:, None]).numpy()
    found = least_squares(
        lambda y: y * (cosines @ y) - 1,
        np.ones(tasks),
        bounds=(0, np.inf),
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    assert found.cost < 1e-20
    expected = torch.from_numpy(found.x) / lengths
    torch.testing.assert_close(nash_mtl_weights(gramian(rows)), expected, rtol=1e-8, atol=0)


def test_torchjd_solves_the_same_equation_where_lengths_are_alike() -> None:
    for seed in range(10):
        products = gramian(jacobian("plain", 4, seed, size=50))
        torch.testing.assert_close(
            nash_mtl_weights(products), FairGradWeighting(alpha=1.0)(products), rtol=1e-6, atol=0
        )


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.floats(-4, 4))
def test_two_tasks_in_closed_form(seed: int, exponent: float) -> None:
    rows = jacobian("plain", 2, seed, size=3)
    rows[0] *= 10**exponent
    lengths = rows.norm(dim=1)
    cosine = rows[0] @ rows[1] / lengths.prod()
    torch.testing.assert_close(nash_mtl_weights(gramian(rows)), 1 / (lengths * (1 + cosine).sqrt()))


def test_orthogonal_gradients_are_weighted_by_inverse_lengths() -> None:
    squares = torch.tensor([1.0, 4.0, 1e8], dtype=torch.float64)
    torch.testing.assert_close(nash_mtl_weights(squares.diag()), 1 / squares.sqrt())


def test_equal_gradients() -> None:
    rows = jacobian("plain", 1, 0).repeat(4, 1)
    torch.testing.assert_close(NashMTL().direction(rows), 2 * rows[0] / rows[0].norm())


@pytest.mark.parametrize("cosine", [-0.9, -0.999999, -1 + 1e-10])
def test_the_closer_gradients_come_to_cancelling_the_larger_the_weights(cosine: float) -> None:
    products = torch.tensor([[1.0, cosine], [cosine, 1.0]], dtype=torch.float64)
    expected = [(1 + cosine) ** -0.5] * 2
    assert nash_mtl_weights(products).tolist() == pytest.approx(expected, rel=1e-15 / (1 + cosine) + 1e-9)


@pytest.mark.parametrize("tasks", range(2, 9))
@pytest.mark.parametrize("kind", ["opposite", "deficient"])
def test_where_nothing_helps_everybody_there_is_no_step(kind: str, tasks: int) -> None:
    """Deficient: more rows than dimensions, so that some combination of positive parts cancels."""
    rows = jacobian(kind, tasks, 1)
    if kind == "deficient":
        rows = torch.cat([rows, -rows.sum(0, keepdim=True)])
    weights = nash_mtl_weights(gramian(rows))
    assert (weights >= 0).all()
    assert float((weights * rows.norm(dim=1)).sum()) == pytest.approx(1)
    assert float((weights @ rows).norm()) <= 1e-7


@settings(max_examples=50, deadline=None)
@given(agreeable, st.integers(0, 100))
def test_neither_order_nor_rotation_matters(rows: Tensor, seed: int) -> None:
    assert_order_does_not_matter(nash_mtl_weights, rows, seed)
    assert_rotations_do_not_matter(nash_mtl_weights, rows, seed)


@settings(max_examples=50, deadline=None)
@given(agreeable, st.sampled_from(FACTORS))
def test_the_direction_does_not_scale_with_the_gradients(rows: Tensor, factor: float) -> None:
    weights = nash_mtl_weights(gramian(rows))
    assert_direction(rows, weights, nash_mtl_weights(gramian(factor * rows)) * factor @ rows)


@settings(max_examples=50, deadline=None)
@given(agreeable)
def test_float32_gradients_are_enough(rows: Tensor) -> None:
    exact = NashMTL().direction(rows.float().double())
    rounded = NashMTL().direction(rows.float())
    assert rounded.dtype == torch.float32
    scale = size_of(rows, nash_mtl_weights(gramian(rows.float().double())))
    assert float((rounded - exact).norm()) <= 1e-4 * scale


def test_idle_tasks_and_what_is_not_finite() -> None:
    assert_zero_rows_are_left_out(nash_mtl_weights, jacobian("plain", 3, 1))
    assert_what_is_not_finite_stays_visible(nash_mtl_weights)


def test_absent_tasks_are_not_in_the_problem() -> None:
    rows = jacobian("scaled", 3, 2)
    weights = NashMTL(tasks=["a", "b", "c", "d"]).weights(seen(rows, places=(0, 2, 3), total=4))
    torch.testing.assert_close(weights, nash_mtl_weights(gramian(rows)))


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_largest_length_only_changes_the_length(kind: str) -> None:
    rows = jacobian(kind, 4, 0)
    whole = NashMTL().direction(rows)
    torch.testing.assert_close(NashMTL(max_norm=1).direction(rows), whole / 2)
    torch.testing.assert_close(NashMTL(max_norm=2.5).direction(rows), whole)


def test_no_step_is_short_enough() -> None:
    rows = torch.tensor([[1.0, 0.0], [-3.0, 0.0]], dtype=torch.float64)
    assert NashMTL(max_norm=1).direction(rows).tolist() == [0, 0]


def test_options_are_checked() -> None:
    for norm in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigurationError, match="max_norm is a positive number or null, got"):
            NashMTL(max_norm=norm)
