"""SDMGrad: its limit solves its problem exactly, its steps are those of projected SGD with momentum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.problems import KINDS, jacobian, problems, shortest_by_enumeration
from torch import Tensor
from torchjd.aggregation import SDMGradWeighting

from plait.balancing.base import Observation
from plait.balancing.mgda import mgda_weights
from plait.balancing.sdmgrad import SDMGrad, sdmgrad_step, sdmgrad_weights
from plait.balancing.simplex import project_on_simplex
from plait.errors import ConfigurationError


def seen(
    rows: Tensor, cross: Tensor | None = None, places: tuple[int, ...] | None = None, total: int = 0
) -> Observation:
    places = places or tuple(range(len(rows)))
    wide = rows.double()
    return Observation(places, total or len(places), gramian=wide @ wide.T, cross=cross)


def crossed(seed: int, tasks: int, noise: float = 0.3) -> Tensor:
    """``J1 J2^T`` of two noisy copies of one Jacobian."""
    first, second = (
        jacobian("plain", tasks, seed) + noise * jacobian("plain", tasks, seed + k) for k in (1, 2)
    )
    return first @ second.T


def size_of(rows: Tensor, weights: Tensor) -> float:
    """What an error is measured by: the direction, or a hundredth of the largest weighted row if longer."""
    weighted = weights[:, None] * rows
    return max(float(weighted.sum(0).norm()), 1e-2 * float(weighted.norm(dim=1).max()), 1e-300)


def preferred(tasks: int, seed: int) -> Tensor:
    return torch.rand(tasks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01


@settings(max_examples=200, deadline=None)
@given(problems, st.sampled_from([0.0, 0.3, 5.0]), st.integers(0, 100))
def test_optimality_conditions(rows: Tensor, lam: float, seed: int) -> None:
    """With ``r_i = g_i + lam g_0`` and ``(1 + lam) d = J^T w + lam g_0``: MGDA's conditions on the r_i."""
    preference = preferred(len(rows), seed)
    weights = sdmgrad_weights(rows @ rows.T, lam=lam, preference=preference)
    rows, weights = rows[rows.norm(dim=1) > 0], weights[rows.norm(dim=1) > 0]
    shares = preference[: len(weights)] / preference[: len(weights)].sum()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    inner = weights * (1 + lam) - lam * shares
    assert float(inner.min()) >= -1e-12
    shifted, point = rows + lam * shares @ rows, (1 + lam) * weights @ rows
    slack = shifted @ point - point.square().sum()
    tolerance = 1e-6 * shifted.norm(dim=1).max() * size_of(rows, (1 + lam) * weights)
    assert float(slack.min()) >= -float(tolerance)
    assert float((inner * slack).abs().max()) <= float(tolerance)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 5), st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 5.0]))
def test_no_support_does_better(kind: str, tasks: int, seed: int, lam: float) -> None:
    rows = jacobian(kind, tasks, seed)
    weights = sdmgrad_weights(rows @ rows.T, lam=lam)
    loud = rows[rows.norm(dim=1) > 0]
    shortest = shortest_by_enumeration(loud + lam * loud.mean(0)) / (1 + lam)
    assert float((weights @ rows - shortest).norm()) <= 1e-6 * size_of(rows, weights)


def test_without_lam_it_is_mgda_and_with_much_of_it_the_mean() -> None:
    gramian = (rows := jacobian("conflicting", 4, 0)) @ rows.T
    torch.testing.assert_close(sdmgrad_weights(gramian, lam=0), mgda_weights(gramian))
    torch.testing.assert_close(
        sdmgrad_weights(gramian, lam=1e8), torch.full((4,), 0.25).double(), rtol=0, atol=1e-7
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.floats(-3, 3))
def test_two_tasks_in_closed_form(seed: int, exponent: float) -> None:
    rows = jacobian("plain", 2, seed, size=3)
    rows[0] *= 10**exponent
    g, h = rows + 0.3 * rows.mean(0)
    first = float(((h - g) @ h / (g - h).square().sum()).clamp(0, 1))
    expected = [(first + 0.15) / 1.3, (1 - first + 0.15) / 1.3]
    assert sdmgrad_weights(rows @ rows.T).tolist() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(("ratio", "stops"), [(3.0, True), (7.0, True), (8.0, False)])
def test_opposite_gradients(ratio: float, stops: bool) -> None:
    """The optimum is zero until one is longer by more than ``1 + 2 / lam``: 7.67 for lam = 0.3."""
    rows = torch.tensor([[ratio, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    direction = SDMGrad().direction(rows)
    assert bool(direction.norm() < 1e-12 * ratio) is stops


def test_a_shifted_row_of_zero_is_the_optimum() -> None:
    """Where ``g_2 = -lam g_0``, all weight goes to it, and there is no step."""
    for lam in (0.1, 0.3, 1.0, 3.0):
        for scale in (1e-6, 1.0, 1e6):
            first = scale * jacobian("plain", 1, 0)[0]
            rows = torch.stack([first, -lam / (2 + lam) * first])
            weights = sdmgrad_weights(rows @ rows.T, lam=lam)
            assert float((weights @ rows).norm()) <= 1e-7 * float(first.norm())


@settings(max_examples=50, deadline=None)
@given(problems, st.sampled_from([1e-30, 1e-8, 1e8, 1e30]))
def test_the_direction_scales_with_the_gradients(rows: Tensor, factor: float) -> None:
    weights = sdmgrad_weights(rows @ rows.T)
    scaled = sdmgrad_weights(factor**2 * (rows @ rows.T))
    assert float(((weights - scaled) @ rows).norm()) <= 1e-6 * size_of(rows, weights)


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100))
def test_order_does_not_matter_and_parameters_may_be_rotated(rows: Tensor, seed: int) -> None:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(jacobian("plain", 12, seed)).Q
    direction, scale = SDMGrad().direction(rows), size_of(rows, sdmgrad_weights(rows @ rows.T))
    assert float((SDMGrad().direction(rows[order]) - direction).norm()) <= 1e-6 * scale
    assert float((SDMGrad().direction(rows @ rotation) - direction @ rotation).norm()) <= 1e-6 * scale


@settings(max_examples=50, deadline=None)
@given(problems)
def test_float32_gradients_are_enough(rows: Tensor) -> None:
    exact = SDMGrad().direction(rows.float().double())
    rounded = SDMGrad().direction(rows.float())
    assert rounded.dtype == torch.float32
    wide = rows.float().double()
    assert float((rounded - exact).norm()) <= 1e-4 * size_of(wide, sdmgrad_weights(wide @ wide.T))


def test_equal_gradients_give_that_gradient() -> None:
    rows = torch.ones(4, 3, dtype=torch.float64)
    torch.testing.assert_close(SDMGrad().direction(rows), rows[0])
    weights = SDMGrad().weights(seen(rows, rows @ rows.T))
    torch.testing.assert_close(weights @ rows, rows[0])


def test_orthogonal_gradients() -> None:
    """``r_i = g_i + lam g_0`` has its optimum where ``w_i + lam / T`` is proportional to ``1 / |g_i|^2``."""
    squares = torch.tensor([1.0, 2.0, 1.5], dtype=torch.float64)
    torch.testing.assert_close(sdmgrad_weights(squares.diag()), (1 / squares) / (1 / squares).sum())


def test_one_task_is_plain_training() -> None:
    rows = jacobian("plain", 1, 0)
    torch.testing.assert_close(SDMGrad().direction(rows), rows[0])
    assert SDMGrad().weights(seen(rows, rows @ rows.T)).tolist() == [1]


@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_torchjd_agrees(tasks: int) -> None:
    """Up to its absolute 1e-8, on batches whose cross products have a positive diagonal."""
    preference = preferred(tasks, 0) / preferred(tasks, 0).sum()
    ours = SDMGrad(preference=preference.tolist())
    theirs = SDMGradWeighting(pref_vector=preference)
    for step in range(10):
        cross = crossed(10 * step, tasks)
        assert float(cross.diagonal().min()) > 0
        found = ours.weights(seen(jacobian("plain", tasks, step), cross))
        torch.testing.assert_close(found, theirs(cross), rtol=1e-4, atol=1e-7)


def test_steps_are_those_of_sgd_with_momentum() -> None:
    cross, weights = crossed(0, 3), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    reference = weights.clone().requires_grad_()
    optimizer = torch.optim.SGD([reference], lr=0.7, momentum=0.4)
    scaled = cross / cross.diagonal().sqrt().mean() ** 2
    for _ in range(9):
        reference.grad = (scaled @ (reference + 0.3 / 3)).detach()
        optimizer.step()
        with torch.no_grad():
            reference.copy_(project_on_simplex(reference))
    found = sdmgrad_step(weights, cross, lr=0.7, momentum=0.4, steps=9)
    torch.testing.assert_close(found, reference.detach())


def test_many_small_steps_on_exact_products_end_at_the_limit() -> None:
    rows = jacobian("conflicting", 4, 1)
    rule = SDMGrad(lr=0.2, steps=3000)
    weights = rule.weights(seen(rows, rows @ rows.T))
    torch.testing.assert_close(weights @ rows, SDMGrad().direction(rows), rtol=0, atol=1e-9)


def test_the_scale_of_the_batches_does_not_matter() -> None:
    start = torch.full((3,), 1 / 3, dtype=torch.float64)
    cross = crossed(0, 3)
    for factor in (1e-30, 1e30):
        torch.testing.assert_close(sdmgrad_step(start, factor * cross), sdmgrad_step(start, cross))


def test_a_negative_diagonal_is_no_obstacle() -> None:
    """Independent batches may disagree about a task's own direction; official code divides by 1e-8 then."""
    cross = torch.tensor([[-1.0, 0.2], [0.1, -0.5]], dtype=torch.float64)
    weights = sdmgrad_step(torch.full((2,), 0.5, dtype=torch.float64), cross, lr=0.1, steps=1)
    assert float(weights.sum()) == pytest.approx(1)
    assert weights[0] > 0.5


def test_a_step_starts_where_the_last_one_ended() -> None:
    rule, cross = SDMGrad(lr=0.01, steps=1), crossed(0, 3)
    first = rule.weights(seen(jacobian("plain", 3, 0), cross))
    stored = rule.task_weights.clone()
    torch.testing.assert_close(first, (stored + 0.1) / 1.3)
    second = rule.weights(seen(jacobian("plain", 3, 1), cross))
    torch.testing.assert_close(second, (sdmgrad_step(stored, cross, lr=0.01, steps=1) + 0.1) / 1.3)


def test_the_limit_neither_uses_nor_moves_the_weights() -> None:
    rule, rows = SDMGrad(), jacobian("conflicting", 3, 0)
    before = rule.direction(rows)
    rule.weights(seen(rows, crossed(0, 3)))
    stored = rule.task_weights.clone()
    assert rule.direction(rows).equal(before)
    assert rule.task_weights.equal(stored)


def test_a_preference_turns_the_direction() -> None:
    rows = torch.eye(3, dtype=torch.float64)
    preferring = SDMGrad(tasks="abc", lam=100.0, preference={"b": 1.0}).direction(rows)
    torch.testing.assert_close(preferring, rows[1], rtol=0, atol=0.02)


@pytest.mark.parametrize("how", ["absent", "zero row"])
@pytest.mark.parametrize("preference", [None, [1.0, 5.0, 3.0]])
def test_a_task_without_gradient_keeps_its_weight(how: str, preference: list[float] | None) -> None:
    rule = SDMGrad(lr=0.05, preference=preference)
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
    towards = torch.tensor([0.25, 0.75] if preference else [0.5, 0.5], dtype=torch.float64)
    moved = sdmgrad_step(before[pair] / before[pair].sum(), inner, lr=0.05, preference=towards)
    torch.testing.assert_close(used if how == "absent" else used[pair], (moved + 0.3 * towards) / 1.3)
    assert how == "absent" or used[1] == 0
    assert rule.task_weights[1] == before[1]
    assert float(rule.task_weights.sum()) == pytest.approx(1, abs=1e-12)


def test_a_row_of_zero_is_left_out_of_the_limit() -> None:
    rows, preference = jacobian("plain", 3, 0), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    rows[1] = 0
    weights = sdmgrad_weights(rows @ rows.T, preference=preference)
    others = sdmgrad_weights(rows[[0, 2]] @ rows[[0, 2]].T, preference=preference[[0, 2]])
    assert weights[1] == 0
    torch.testing.assert_close(weights[[0, 2]], others)
    assert sdmgrad_weights(torch.zeros(3, 3)).tolist() == [0] * 3
    assert SDMGrad().direction(torch.zeros(3, 4)).tolist() == [0] * 4


def test_what_is_not_finite_stays_visible() -> None:
    assert sdmgrad_weights(torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]])).isnan().all()
    assert SDMGrad().weights(seen(torch.eye(2), torch.full((2, 2), torch.nan).double())).isnan().all()


def test_a_restored_rule_goes_on_alike() -> None:
    rule, restored = SDMGrad(lr=0.1), SDMGrad(lr=0.1)
    for step in range(4):
        rule.weights(seen(jacobian("plain", 3, step), crossed(step, 3)))
    restored.load_state_dict(rule.state_dict())
    for step in range(4, 8):
        observed = seen(jacobian("plain", 3, step), crossed(step, 3))
        assert rule.weights(observed).equal(restored.weights(observed))


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="lam of SDMGrad must not be negative, got -1"):
        SDMGrad(lam=-1)
    with pytest.raises(ConfigurationError, match="step size lr of SDMGrad must be positive, got 0"):
        SDMGrad(lr=0)
    with pytest.raises(ConfigurationError, match="momentum of SDMGrad is at least 0 and less than 1, got 1"):
        SDMGrad(momentum=1)
    with pytest.raises(ConfigurationError, match="1 step of its weights or more, got steps=0"):
        SDMGrad(steps=0)
