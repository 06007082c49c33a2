"""The small solvers: references, and what the precision of a Gramian allows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from tests.balancing.problems import (
    KINDS,
    jacobian,
    problems,
    projected_on_the_dual_cone,
    shortest_of_unit_rows,
    unit_rows,
)

from plait.balancing.solvers import (
    cancelling,
    fair_weights,
    least_distance,
    non_negative_minimum,
    onto_dual_cone,
    preferred,
)
from plait.errors import ConfigurationError

EASY = ("plain", "conflicting", "correlated")
seeds = st.integers(0, 2**32)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 20), seeds)
def test_non_negative_least_squares(kind: str, tasks: int, seed: int) -> None:
    """As scipy, which works on the rows themselves and not on their products."""
    units = unit_rows(jacobian(kind, tasks, seed)).numpy()
    target = np.random.default_rng(seed).standard_normal(units.shape[1])
    target /= np.linalg.norm(target)
    ours = non_negative_minimum(units @ units.T, units @ target)
    theirs, distance = nnls(units.T, target, maxiter=1000)
    assert (ours >= 0).all()
    assert np.linalg.norm(ours @ units - theirs @ units) <= 1e-7
    # From products of rows, a distance of zero is known to the root of the rounding at best.
    assert np.linalg.norm(ours @ units - target) == pytest.approx(distance, abs=1e-8)


@settings(max_examples=100, deadline=None)
@given(problems, seeds)
def test_projection_on_the_dual_cone(rows: torch.Tensor, seed: int) -> None:
    units = unit_rows(rows)
    point = np.random.default_rng(seed).standard_normal(len(units))
    lifted = onto_dual_cone((units @ units.T).numpy(), point)
    assert (lifted >= point).all()
    expected = projected_on_the_dual_cone(torch.from_numpy(point) @ units, rows)
    assert float((torch.from_numpy(lifted) @ units - expected).norm()) <= 1e-7 * np.abs(point).max()


def test_zero_is_its_own_projection() -> None:
    assert onto_dual_cone(np.eye(2), np.zeros(2)).tolist() == [0, 0]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(EASY), st.integers(2, 10), seeds)
def test_least_distance(kind: str, tasks: int, seed: int) -> None:
    """Feasible, and not longer than its own dual bound: ``h = U^T y`` has ``|h|^2 = <bounds, y>``."""
    units = unit_rows(jacobian(kind, tasks, seed)).numpy()
    bounds = units @ np.random.default_rng(seed).standard_normal(units.shape[1])
    multipliers, slack = least_distance(units @ units.T, bounds)
    shortest = multipliers @ units / slack
    assert (multipliers >= 0).all()
    assert (units @ shortest >= bounds - 1e-7).all()
    assert shortest @ shortest == pytest.approx(bounds @ multipliers / slack, rel=1e-7, abs=1e-12)


def test_a_distance_that_cannot_be_had_has_no_slack() -> None:
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    multipliers, slack = least_distance(opposite, np.array([1.0, 1.0]))
    assert slack == pytest.approx(0, abs=1e-12)
    assert multipliers[0] == pytest.approx(multipliers[1])


@settings(max_examples=100, deadline=None)
@given(problems)
def test_what_cancels_is_told_from_what_does_not(rows: torch.Tensor) -> None:
    units = unit_rows(rows)
    shares = cancelling((units @ units.T).numpy())
    distance = shortest_of_unit_rows(rows)
    assert not 1e-9 < distance < 1e-6, "no test of a clear case"
    assert (shares is not None) == (distance < 1e-7)
    if shares is not None:
        assert shares.sum() == pytest.approx(1)
        assert float((torch.from_numpy(shares) @ units).norm()) < 1e-7


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 3.0, 20.0, 1000.0])
@pytest.mark.parametrize("exponent", range(1, 7))
def test_fair_weights_up_to_gradients_that_all_but_cancel(alpha: float, exponent: int) -> None:
    """Two unit rows at a right angle but for the part that they share: all in closed form."""
    shared = 10.0**-exponent
    products = np.array([[1 + shared**2, shared**2 - 1], [shared**2 - 1, 1 + shared**2]])
    expected = (2 * shared**2) ** (-alpha / (1 + alpha))
    # The sum of a row of G is known to eps / shared^2 of itself.
    assert fair_weights(products, alpha) == pytest.approx(expected, rel=1e-12 + 1e-15 / shared**2)


def test_preferences() -> None:
    def handed_on(inner: np.ndarray, preference: np.ndarray) -> np.ndarray:
        return preference

    gramian = torch.diag(torch.tensor([1.0, 0.0, 4.0, 9.0]))
    assert preferred(gramian, None, handed_on).tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    assert preferred(gramian, torch.tensor([1.0, 5.0, 3.0, 0.0]), handed_on).tolist() == [0.25, 0, 0.75, 0]
    only_idle = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert preferred(gramian, only_idle, handed_on).tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])


@pytest.mark.parametrize("wrong", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_preferences_are_checked(wrong: list[float]) -> None:
    with pytest.raises(
        ConfigurationError, match="a preference is one number a task, not negative and not all zero"
    ):
        preferred(torch.eye(2), torch.tensor(wrong), lambda inner, preference: preference)
