"""FairGrad is alpha-fair: its equation for any alpha, closed forms, limits, and where it has no solution."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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

from plait.balancing import mgda_weights
from plait.balancing.dualproj import dualproj_weights
from plait.balancing.fairgrad import FairGrad, fairgrad_weights
from plait.balancing.nash_mtl import nash_mtl_weights
from plait.errors import ConfigurationError

alphas = st.floats(-2, 3).map(lambda exponent: 10**exponent)


def assert_fair(rows: Tensor, weights: Tensor, alpha: float) -> None:
    """``<g_i, d> = a_i^(-1/alpha)`` with all a > 0: nobody else has weights like that."""
    heard = rows.norm(dim=1) > 0
    rows, weights = rows[heard], weights[heard]
    assert (weights > 0).all()
    missing = rows @ (weights @ rows) - weights ** (-1 / alpha)
    # Relative to what rounds in the inner product; a weight of 1e-130 stands for any that is smaller.
    errors = missing / rows.norm(dim=1) / size_of(rows, weights)
    assert float(errors[weights > 1e-125].abs().max()) <= 1e-8
    assert (errors[weights <= 1e-125] >= -1e-8).all()


@settings(max_examples=300, deadline=None)
@given(agreeable, alphas)
def test_gains_are_fair(rows: Tensor, alpha: float) -> None:
    assert_fair(rows, fairgrad_weights(gramian(rows), alpha=alpha), alpha)


@pytest.mark.parametrize("alpha", [0.1, 2.0, 20.0])
@pytest.mark.parametrize("tasks", [12, 20])
@pytest.mark.parametrize("kind", ["plain", "scaled", "correlated", "zero row"])
def test_many_tasks(kind: str, tasks: int, alpha: float) -> None:
    rows = jacobian(kind, tasks, seed=tasks, size=40)
    assert_fair(rows, fairgrad_weights(gramian(rows), alpha=alpha), alpha)


@settings(max_examples=100, deadline=None)
@given(agreeable, alphas, st.floats(-2, 2))
def test_lengths_that_differ_by_a_hundred_million(rows: Tensor, alpha: float, exponent: float) -> None:
    rows = rows * torch.logspace(-exponent, exponent, len(rows), dtype=torch.float64)[:, None]
    assert_fair(rows, fairgrad_weights(gramian(rows), alpha=alpha), alpha)


@pytest.mark.parametrize("alpha", [1e-9, 1e-3, 1e-2, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_beyond_any_use_it_still_ends(kind: str, alpha: float) -> None:
    """More tasks than dimensions too, where only the bound at a = 1 makes weights unique."""
    for tasks in (3, 8, 20):
        for seed in range(5):
            assert fairgrad_weights(gramian(jacobian(kind, tasks, seed)), alpha=alpha).isfinite().all()


@settings(max_examples=60, deadline=None)
@given(agreeable)
def test_alpha_one_is_nash(rows: Tensor) -> None:
    torch.testing.assert_close(
        fairgrad_weights(gramian(rows), alpha=1.0), nash_mtl_weights(gramian(rows)), rtol=0, atol=0
    )


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
def test_torchjd_agrees_where_lengths_are_alike(alpha: float) -> None:
    for seed in range(10):
        products = gramian(jacobian("plain", 4, seed, size=50))
        expected = FairGradWeighting(alpha=alpha)(products)
        torch.testing.assert_close(fairgrad_weights(products, alpha=alpha), expected, rtol=1e-5, atol=0)


def test_torchjd_is_wrong_where_lengths_differ() -> None:
    """If one of these fails, the general solver has become better: say so in the docs."""
    rows = jacobian("scaled", 4, 21)
    weights = FairGradWeighting(alpha=2.0)(gramian(rows))
    gains = rows @ (weights @ rows)
    assert float((gains * weights.sqrt() - 1).abs().max()) > 0.1
    ours = fairgrad_weights(gramian(rows), alpha=2.0)
    torch.testing.assert_close(rows @ (ours @ rows), ours**-0.5)
    assert FairGradWeighting(alpha=0.0)(torch.eye(2)).tolist() == [0.5, 0.5]
    assert FairGradWeighting(alpha=0.1)(torch.eye(2)).tolist() == pytest.approx([1, 1])


@settings(max_examples=100, deadline=None)
@given(alphas, st.lists(st.floats(1e-4, 1e4), min_size=2, max_size=6))
def test_orthogonal_gradients_in_closed_form(alpha: float, lengths: list[float]) -> None:
    n = torch.tensor(lengths, dtype=torch.float64)
    weights = fairgrad_weights(n.square().diag(), alpha=alpha)
    torch.testing.assert_close(weights, n ** (-2 * alpha / (1 + alpha)), rtol=1e-9, atol=0)


@settings(max_examples=60, deadline=None)
@given(alphas, st.integers(2, 8), st.floats(1e-4, 1e4))
def test_equal_gradients(alpha: float, tasks: int, length: float) -> None:
    products = torch.full((tasks, tasks), length**2, dtype=torch.float64)
    expected = torch.full((tasks,), (tasks * length**2) ** (-alpha / (1 + alpha)), dtype=torch.float64)
    torch.testing.assert_close(fairgrad_weights(products, alpha=alpha), expected, rtol=1e-9, atol=0)


def test_no_fairness_is_the_plain_sum() -> None:
    rows = jacobian("opposite", 4, 0)
    torch.testing.assert_close(FairGrad(alpha=0).direction(rows), rows.sum(0))


@settings(max_examples=60, deadline=None)
@given(agreeable)
def test_little_fairness_is_the_projected_sum(rows: Tensor) -> None:
    """Which is the plain sum where nobody conflicts: only then is alpha = 0 the limit."""
    tasks = int((rows.norm(dim=1) > 0).sum())
    expected = tasks * dualproj_weights(gramian(rows)) @ rows
    size = float((tasks * dualproj_weights(gramian(rows))[:, None] * rows).norm(dim=1).max())
    direction = fairgrad_weights(gramian(rows), alpha=1e-3) @ rows
    assert float((direction - expected).norm()) <= 0.05 * size
    friendly = rows.abs()
    little = fairgrad_weights(gramian(friendly), alpha=1e-6)
    torch.testing.assert_close(little, (rows.norm(dim=1) > 0).double(), rtol=1e-4, atol=0)


def test_much_fairness_is_the_largest_least_gain() -> None:
    """The direction of the largest least gain: that of the shortest convex combination (MGDA)."""
    rows = jacobian("plain", 4, 3)
    shortest = mgda_weights(gramian(rows)) @ rows
    fair = fairgrad_weights(gramian(rows), alpha=1000.0) @ rows
    assert float(torch.cosine_similarity(fair, shortest, dim=0)) == pytest.approx(1, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(agreeable, alphas, st.sampled_from(FACTORS))
def test_how_the_direction_scales_with_the_gradients(rows: Tensor, alpha: float, factor: float) -> None:
    weights = fairgrad_weights(gramian(rows), alpha=alpha)
    scaled = fairgrad_weights(gramian(factor * rows), alpha=alpha)
    assert_direction(rows, weights, scaled * factor ** (2 * alpha / (1 + alpha)) @ rows)


@settings(max_examples=50, deadline=None)
@given(agreeable, alphas, st.integers(0, 100))
def test_neither_order_nor_rotation_matters(rows: Tensor, alpha: float, seed: int) -> None:
    def weigh(products: Tensor) -> Tensor:
        return fairgrad_weights(products, alpha=alpha)

    assert_order_does_not_matter(weigh, rows, seed)
    assert_rotations_do_not_matter(weigh, rows, seed)


@settings(max_examples=50, deadline=None)
@given(agreeable, st.sampled_from([0.1, 1.0, 2.0, 20.0]))
def test_float32_gradients_are_enough(rows: Tensor, alpha: float) -> None:
    exact = FairGrad(alpha=alpha).direction(rows.float().double())
    rounded = FairGrad(alpha=alpha).direction(rows.float())
    assert rounded.dtype == torch.float32
    scale = size_of(rows, fairgrad_weights(gramian(rows.float().double()), alpha=alpha))
    assert float((rounded - exact).norm()) <= 1e-4 * scale


@pytest.mark.parametrize("alpha", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("tasks", [2, 5])
def test_where_nothing_helps_everybody_there_is_no_step(tasks: int, alpha: float) -> None:
    rows = jacobian("opposite", tasks, 1)
    weights = fairgrad_weights(gramian(rows), alpha=alpha)
    assert (weights >= 0).all()
    assert float((weights * rows.norm(dim=1)).sum()) == pytest.approx(1)
    assert float((weights @ rows).norm()) <= 1e-7


@pytest.mark.parametrize("alpha", [0.0, 0.1, 2.0])
def test_idle_tasks_and_what_is_not_finite(alpha: float) -> None:
    def weigh(products: Tensor) -> Tensor:
        return fairgrad_weights(products, alpha=alpha)

    assert_zero_rows_are_left_out(weigh, jacobian("plain", 3, 1))
    assert_what_is_not_finite_stays_visible(weigh)


def test_the_options_reach_the_rule() -> None:
    rows = jacobian("scaled", 3, 2)
    weights = FairGrad(tasks=["a", "b", "c", "d"], alpha=3).weights(seen(rows, places=(0, 2, 3), total=4))
    torch.testing.assert_close(weights, fairgrad_weights(gramian(rows), alpha=3.0))


def test_options_are_checked() -> None:
    for alpha in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigurationError, match="alpha is a finite number that is not negative, got"):
            FairGrad(alpha=alpha)
