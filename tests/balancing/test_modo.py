"""MoDo: its projection is the nearest point, its step TorchJD's, and its limit the shortest combination."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.problems import jacobian, shortest_by_enumeration
from torch import Tensor
from torchjd.aggregation import MoDoWeighting

from plait.balancing.base import Observation
from plait.balancing.modo import MoDo, modo_step
from plait.balancing.simplex import move_shares, project_on_simplex, shares
from plait.errors import ConfigurationError


def seen(
    rows: Tensor, cross: Tensor | None = None, places: tuple[int, ...] | None = None, total: int = 0
) -> Observation:
    places = places or tuple(range(len(rows)))
    wide = rows.double()
    return Observation(places, total or len(places), gramian=wide @ wide.T, cross=cross)


def crossed(seed: int, tasks: int, noise: float = 0.5) -> Tensor:
    """``J1 J2^T`` of two noisy copies of one Jacobian."""
    first, second = (
        jacobian("plain", tasks, seed) + noise * jacobian("plain", tasks, seed + k) for k in (1, 2)
    )
    return first @ second.T


def nearest_by_enumeration(point: Tensor) -> Tensor:
    found = []
    for size in range(1, len(point) + 1):
        for support in combinations(range(len(point)), size):
            candidate = torch.zeros_like(point)
            chosen = point[list(support)]
            candidate[list(support)] = chosen - (chosen.sum() - 1) / size
            if float(candidate.min()) >= 0:
                found.append(candidate)
    return min(found, key=lambda candidate: float((candidate - point).norm()))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=6))
def test_the_projection_is_the_nearest_point(values: list[float]) -> None:
    point = torch.tensor(values, dtype=torch.float64)
    found = project_on_simplex(point)
    torch.testing.assert_close(found, nearest_by_enumeration(point), rtol=0, atol=1e-12)
    torch.testing.assert_close(project_on_simplex(found), found, rtol=0, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.integers(0, 2**31), st.sampled_from([1e-9, 1.0, 1e6, 1e12]))
def test_the_projection_meets_its_conditions(size: int, seed: int, scale: float) -> None:
    """``v - x`` is one number where x is positive, and no more elsewhere."""
    point = scale * torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = project_on_simplex(point)
    assert float(found.min()) >= 0
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)
    gap, tolerance = point - found, 1e-14 * max(scale, 1) * size
    assert float((gap[found > 0] - gap[found > 0].max()).abs().max()) <= tolerance
    assert float(gap.max() - gap[found > 0].max()) <= tolerance


def test_a_projection_of_what_is_not_finite_stays_visible() -> None:
    assert project_on_simplex(torch.tensor([1.0, torch.nan])).isnan().all()


def test_shares_and_their_moves() -> None:
    assert shares(torch.tensor([1.0, 3.0])).tolist() == [0.25, 0.75]
    assert shares(torch.zeros(4)).tolist() == [0.25] * 4
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    move_shares(weights, [0, 2], lambda part: part.flip(0))
    assert weights.tolist() == pytest.approx([0.2, 0.3, 0.5])
    move_shares(weights, [], lambda part: part / 0)
    assert weights.tolist() == pytest.approx([0.2, 0.3, 0.5])


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize(("gamma", "rho"), [(1e-3, 0.1), (0.1, 0.0), (0.5, 2.0)])
def test_torchjd_agrees(tasks: int, gamma: float, rho: float) -> None:
    ours, theirs = MoDo(gamma=gamma, rho=rho), MoDoWeighting(gamma, rho)
    for step in range(20):
        cross = crossed(10 * step, tasks)
        found = ours.weights(seen(jacobian("plain", tasks, step), cross))
        torch.testing.assert_close(found, theirs(cross), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", ["plain", "conflicting", "opposite", "duplicate"])
def test_exact_gradients_end_at_the_shortest_combination(kind: str) -> None:
    """With rho = 0 and one Jacobian for ever, its steps are projected gradient steps of MGDA's problem."""
    rows = jacobian(kind, 4, 3)
    rows /= torch.linalg.matrix_norm(rows, 2)
    rule = MoDo(gamma=1.0, rho=0)
    for _ in range(4000):
        direction = rule.direction(rows)
    assert float((direction - shortest_by_enumeration(rows)).norm()) < 1e-9


def test_rho_pulls_towards_equal_weights() -> None:
    weights = torch.tensor([0.9, 0.1], dtype=torch.float64)
    nearer = modo_step(weights, torch.zeros(2, 2, dtype=torch.float64), gamma=0.5, rho=0.1)
    assert nearer.tolist() == pytest.approx([0.88, 0.12])


def test_two_tasks_in_closed_form() -> None:
    """In the simplex there is one number: ``w_1 - gamma ((G w)_1 - (G w)_2) / 2``, kept in [0, 1]."""
    gramian = torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64)
    slope = (gramian @ weights)[0] - (gramian @ weights)[1]
    for gamma in (0.1, 10.0):
        first = float((0.4 - gamma * slope / 2).clamp(0, 1))
        assert float(modo_step(weights, gramian, gamma=gamma, rho=0)[0]) == pytest.approx(first)


def test_equal_gradients_give_that_gradient() -> None:
    rows = torch.ones(4, 3, dtype=torch.float64)
    rule = MoDo(gamma=0.1)
    for _ in range(3):
        torch.testing.assert_close(rule.direction(rows), rows[0])


def test_one_task_is_plain_training() -> None:
    rows = jacobian("plain", 1, 0)
    assert MoDo().direction(rows).equal(rows[0])


def test_order_does_not_matter() -> None:
    order = torch.tensor([2, 0, 3, 1])
    one, other = MoDo(gamma=0.1), MoDo(gamma=0.1)
    for step in range(10):
        rows, cross = jacobian("plain", 4, step), crossed(10 * step, 4)
        weights = one.weights(seen(rows, cross))
        reordered = other.weights(seen(rows[order], cross[order][:, order]))
        torch.testing.assert_close(reordered, weights[order], rtol=1e-12, atol=1e-14)


def test_parameter_space_may_be_rotated_and_float32_is_enough() -> None:
    rotation = torch.linalg.qr(jacobian("plain", 12, 0)).Q
    exact, rotated, rounded = MoDo(gamma=0.01), MoDo(gamma=0.01), MoDo(gamma=0.01)
    for step in range(10):
        rows = jacobian("plain", 3, step).float().double()
        direction = exact.direction(rows)
        torch.testing.assert_close(rotated.direction(rows @ rotation), direction @ rotation)
        single = rounded.direction(rows.float())
        assert single.dtype == torch.float32
        assert float((single - direction).norm() / direction.norm()) < 1e-5


@pytest.mark.parametrize("how", ["absent", "zero row"])
def test_a_task_without_gradient_keeps_its_weight(how: str) -> None:
    rule = MoDo(gamma=0.1)
    for step in range(3):
        rule.weights(seen(jacobian("plain", 3, step), crossed(step, 3)))
    before = rule.task_weights.clone()
    rows, cross, pair = jacobian("plain", 3, 9), crossed(9, 3), [0, 2]
    rows[1] = 0
    inner = cross[pair][:, pair]
    used = (
        rule.weights(seen(rows[pair], inner, places=(0, 2), total=3))
        if how == "absent"
        else rule.weights(seen(rows, cross))
    )
    expected = modo_step(before[pair] / before[pair].sum(), inner, gamma=0.1, rho=0.1)
    torch.testing.assert_close(used if how == "absent" else used[pair], expected)
    assert how == "absent" or used[1] == 0
    assert rule.task_weights[1] == before[1]
    assert float(rule.task_weights.sum()) == pytest.approx(1, abs=1e-12)


def test_a_task_without_gradient_in_the_extra_batches_takes_part_with_its_weight() -> None:
    rule, cross = MoDo(gamma=0.1), crossed(0, 3)
    cross[1], cross[:, 1] = 0, 0
    weights = rule.weights(seen(jacobian("plain", 3, 0), cross))
    assert weights[1] == pytest.approx(1 / 3)
    assert float(weights.sum()) == pytest.approx(1)
    assert weights[0] != pytest.approx(1 / 3, abs=1e-4)


def test_no_gradient_at_all_is_no_step() -> None:
    assert MoDo().direction(torch.zeros(3, 4)).tolist() == [0] * 4


def test_what_is_not_finite_stays_visible() -> None:
    assert MoDo().weights(seen(torch.eye(2), torch.full((2, 2), torch.nan).double())).isnan().all()


def test_a_restored_rule_goes_on_alike() -> None:
    rule, restored = MoDo(gamma=0.1), MoDo(gamma=0.1)
    for step in range(4):
        rule.weights(seen(jacobian("plain", 3, step), crossed(step, 3)))
    restored.load_state_dict(rule.state_dict())
    for step in range(4, 8):
        observed = seen(jacobian("plain", 3, step), crossed(step, 3))
        assert rule.weights(observed).equal(restored.weights(observed))


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="step size gamma of MoDo must be positive, got 0"):
        MoDo(gamma=0)
    with pytest.raises(ConfigurationError, match="rho of MoDo must not be negative, got -1"):
        MoDo(rho=-1)
