"""MGDA is the solution of its problem: optimality conditions, brute force, closed forms, invariances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.problems import KINDS, jacobian, problems, shortest_by_enumeration
from tests.balancing.properties import gramian, size_of
from torch import Tensor

from plait.balancing import MGDA, mgda_weights
from plait.balancing.mgda import Normalisation
from plait.errors import ConfigurationError


@settings(max_examples=300, deadline=None)
@given(problems)
def test_optimality_conditions(rows: Tensor) -> None:
    """``<g_i, d> >= |d|^2`` for every task, with equality where the weight is positive."""
    weights = mgda_weights(gramian(rows))
    direction = weights @ rows
    assert (weights >= 0).all()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    heard = rows.norm(dim=1) > 0
    excess = rows @ direction - direction.square().sum()
    tolerance = 1e-6 * rows.norm(dim=1) * size_of(rows, weights)
    assert (excess[heard] >= -tolerance[heard]).all()
    assert (weights * excess.abs() <= weights * tolerance + 1e-300).all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 5), st.integers(0, 2**32))
def test_no_support_does_better(kind: str, tasks: int, seed: int) -> None:
    rows = jacobian(kind, tasks, seed)
    weights = mgda_weights(gramian(rows))
    shortest = shortest_by_enumeration(rows[rows.norm(dim=1) > 0])
    assert float((weights @ rows - shortest).norm()) <= 1e-6 * size_of(rows, weights)


@pytest.mark.parametrize("tasks", [12, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_many_tasks(kind: str, tasks: int) -> None:
    for seed in range(5):
        rows = jacobian(kind, tasks, seed, size=8)
        weights = mgda_weights(gramian(rows))
        direction = weights @ rows
        slack = (rows @ direction - direction.square().sum())[rows.norm(dim=1) > 0]
        assert float(slack.min()) >= -1e-6 * float(rows.norm(dim=1).max()) * size_of(rows, weights)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(-3, 3))
def test_two_tasks_in_closed_form(seed: int, exponent: float) -> None:
    rows = jacobian("plain", 2, seed, size=3)
    rows[0] *= 10**exponent
    g, h = rows
    expected = float(((h - g) @ h / (g - h).square().sum()).clamp(0, 1))
    assert mgda_weights(gramian(rows)).tolist() == pytest.approx([expected, 1 - expected], abs=1e-9)


def test_orthogonal_gradients_are_weighted_by_inverse_squares() -> None:
    squares = torch.tensor([1.0, 4.0, 1e8], dtype=torch.float64)
    expected = (1 / squares) / (1 / squares).sum()
    torch.testing.assert_close(mgda_weights(squares.diag()), expected, rtol=1e-12, atol=0)


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100))
def test_order_does_not_matter(rows: Tensor, seed: int) -> None:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    weights = mgda_weights(gramian(rows))
    reordered = mgda_weights(gramian(rows[order])) @ rows[order]
    assert float((weights @ rows - reordered).norm()) <= 1e-6 * size_of(rows, weights)


@settings(max_examples=50, deadline=None)
@given(problems, st.sampled_from([1e-100, 1e-30, 1e-8, 1e8, 1e100]))
def test_the_direction_scales_with_the_gradients(rows: Tensor, factor: float) -> None:
    """Homogeneous of degree one, at any scale: nothing absolute decides."""
    weights = mgda_weights(gramian(rows))
    scaled = mgda_weights(gramian(factor * rows)) @ rows
    assert float((weights @ rows - scaled).norm()) <= 1e-6 * size_of(rows, weights)


@settings(max_examples=30, deadline=None)
@given(problems, st.integers(0, 100))
def test_parameter_space_may_be_rotated(rows: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
    ours, rotated = MGDA().direction(rows), MGDA().direction(rows @ rotation)
    scale = size_of(rows, mgda_weights(gramian(rows)))
    assert float((ours @ rotation - rotated).norm()) <= 1e-6 * scale


@settings(max_examples=50, deadline=None)
@given(problems)
def test_float32_gradients_are_enough(rows: Tensor) -> None:
    exact = MGDA().direction(rows.float().double())
    rounded = MGDA().direction(rows.float())
    assert rounded.dtype == torch.float32
    scale = size_of(rows, mgda_weights(gramian(rows.float().double())))
    assert float((rounded - exact).norm()) <= 1e-4 * scale


def test_what_cancels_is_added_up_in_float64() -> None:
    """Ten float32 rows in three dimensions: weights of that type would leave 1e-7 of the largest."""
    for seed in range(10):
        rows = jacobian("plain", 10, seed, size=3).float()
        exact = mgda_weights(gramian(rows.double())) @ rows.double()
        assert float((MGDA().direction(rows) - exact).norm()) <= 1e-7 * float(exact.norm()) + 1e-14


@pytest.mark.parametrize("normalisation", ["loss", "loss+"])
def test_a_negative_loss_divides_nothing(normalisation: Normalisation) -> None:
    losses, rows = torch.tensor([-1.0, 1.0]), torch.eye(2)
    assert MGDA(normalisation=normalisation).direction(rows, losses).isnan().all()
    assert MGDA(normalisation="l2").direction(rows, losses).tolist() == [0.5, 0.5]


def test_equal_gradients_give_that_gradient() -> None:
    rows = torch.ones(4, 3, dtype=torch.float64)
    torch.testing.assert_close(MGDA().direction(rows), rows[0])


def test_opposite_gradients_cancel() -> None:
    """Pareto stationary: the only direction that harms nobody is none."""
    rows = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    torch.testing.assert_close(mgda_weights(gramian(rows)), torch.tensor([0.75, 0.25]))
    assert MGDA().direction(rows).abs().max() < 1e-6


def test_a_task_without_gradient_is_left_out() -> None:
    rows = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    weights = mgda_weights(gramian(rows))
    assert weights[1] == 0
    torch.testing.assert_close(weights[[0, 2]], mgda_weights(gramian(rows[[0, 2]])))
    assert mgda_weights(torch.zeros(4, 4)).tolist() == [0] * 4


def test_what_is_not_finite_stays_visible() -> None:
    assert mgda_weights(torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]])).isnan().all()


def test_normalisations_find_weights_for_the_gradients_as_they_are() -> None:
    rows, losses = jacobian("plain", 3, 1), torch.tensor([0.5, 2.0, 40.0], dtype=torch.float64)
    lengths = rows.norm(dim=1)
    for name, divisors in {"l2": lengths, "loss": losses, "loss+": lengths * losses}.items():
        weights = mgda_weights(gramian(rows / divisors[:, None]))
        torch.testing.assert_close(MGDA(normalisation=name).direction(rows, losses), weights @ rows)  # type: ignore[arg-type]


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="normalisation is none, l2, loss or"):
        MGDA(normalisation="l1")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"looks at the losses: pass direction"):
        MGDA(normalisation="loss").direction(torch.eye(2))
    with pytest.raises(
        ConfigurationError,
        match=r"scope of MGDA is parameters or .*, got 'layers'",
    ):
        MGDA(scope="layers")  # type: ignore[arg-type]
