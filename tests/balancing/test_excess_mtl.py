"""ExcessMTL: the formulas of its paper, TorchJD as an independent reference, and what must not matter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.problems import jacobian
from torch import Tensor
from torchjd.aggregation import ExcessMTLWeighting

from plait.balancing.base import Observation
from plait.balancing.excess_mtl import ExcessMTL, excess_mtl_weights, excess_risks
from plait.errors import ConfigurationError


def seen(rows: Tensor, places: tuple[int, ...] | None = None, total: int = 0) -> Observation:
    places = places or tuple(range(len(rows)))
    return Observation(places, total or len(places), jacobian=rows)


def steps_of(seed: int, tasks: int, count: int = 12, kind: str = "plain") -> list[Tensor]:
    return [jacobian(kind, tasks, 100 * seed + step) for step in range(count)]


@pytest.mark.parametrize("eta", [1e-2, 1.0])
@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_weights_are_those_of_the_official_formula(tasks: int, eta: float) -> None:
    """Element by element, without its absolute 1e-7."""
    rule, squares = ExcessMTL(eta=eta), torch.zeros(tasks, 12, dtype=torch.float64)
    expected, reference = torch.ones(tasks, dtype=torch.float64), None
    for rows in steps_of(tasks, tasks):
        squares += rows**2
        excess = (rows**2 / squares.sqrt()).sum(1)
        if reference is None:
            reference = excess
        else:
            expected = expected * (eta * excess / reference).exp()
            expected = expected / expected.sum() * tasks
        torch.testing.assert_close(rule.weights(seen(rows)), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("warm_up", [1, 4])
def test_torchjd_agrees_up_to_its_epsilon(warm_up: int) -> None:
    """Its weights sum to 1. With no warm-up it moves them by the raw excess at once, so it is given one."""
    ours, theirs = ExcessMTL(eta=0.3, warm_up=warm_up), ExcessMTLWeighting(0.3, warm_up)
    for rows in steps_of(7, 4):
        torch.testing.assert_close(ours.weights(seen(rows)), 4 * theirs(rows), rtol=1e-5, atol=0)


def test_the_first_excess_is_the_sum_of_absolute_values() -> None:
    rows = jacobian("scaled", 3, 0)
    torch.testing.assert_close(excess_risks(rows, rows.abs()), rows.abs().sum(1))


def test_a_greater_excess_gains_weight() -> None:
    log_weights = torch.zeros(3, dtype=torch.float64)
    excess = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    weights = excess_mtl_weights(log_weights, excess, torch.ones(3), eta=0.5).exp()
    assert float(weights.sum()) == pytest.approx(3, rel=1e-12)
    torch.testing.assert_close((weights[1:] / weights[:-1]).log(), 0.5 * excess.diff())


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1000), st.sampled_from([1e-25, 1e-3, 1e12]))
def test_the_scale_of_a_task_does_not_matter(tasks: int, seed: int, factor: float) -> None:
    """Not even in float32 where its square would be zero."""
    one, other = ExcessMTL(eta=1.0), ExcessMTL(eta=1.0)
    scale = torch.ones(tasks, 1)
    scale[0] = factor
    for rows in steps_of(seed, tasks, 4):
        weights = one.weights(seen(rows.float()))
        torch.testing.assert_close(other.weights(seen(scale * rows.float())), weights, rtol=1e-4, atol=0)


def test_order_does_not_matter() -> None:
    order = torch.tensor([2, 0, 3, 1])
    one, other = ExcessMTL(eta=1.0), ExcessMTL(eta=1.0)
    for rows in steps_of(1, 4):
        torch.testing.assert_close(other.weights(seen(rows[order])), one.weights(seen(rows))[order])


def test_parameters_may_be_permuted_but_not_rotated() -> None:
    """Its curvature is element by element: the one rotation that may be is a permutation with signs."""
    rotation = torch.linalg.qr(jacobian("plain", 12, 0)).Q
    plain, permuted, rotated = ExcessMTL(eta=1.0), ExcessMTL(eta=1.0), ExcessMTL(eta=1.0)
    for rows in steps_of(3, 3):
        weights = plain.weights(seen(rows))
        torch.testing.assert_close(permuted.weights(seen(-rows.flip(1))), weights)
        other = rotated.weights(seen(rows @ rotation))
    assert float((other - weights).abs().max()) > 0.05


def test_float32_is_enough() -> None:
    exact, rounded = ExcessMTL(eta=1.0), ExcessMTL(eta=1.0)
    for rows in steps_of(4, 5, kind="scaled"):
        direction = exact.direction(rows.float().double())
        single = rounded.direction(rows.float())
        assert single.dtype == torch.float32
        assert float((single - direction).norm() / direction.norm()) < 1e-4


def test_equal_gradients_give_their_sum() -> None:
    rule = ExcessMTL(eta=1.0)
    for rows in steps_of(5, 1):
        torch.testing.assert_close(rule.direction(rows.expand(4, -1)), 4 * rows[0], rtol=1e-12, atol=0)


def test_one_task_is_plain_training() -> None:
    rule = ExcessMTL(eta=1.0)
    for rows in steps_of(5, 1):
        torch.testing.assert_close(rule.direction(rows), rows[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("how", ["absent", "zero row"])
def test_a_task_without_gradient_keeps_everything(how: str) -> None:
    """The others divide what they had between them as if they were alone."""
    rule = ExcessMTL(eta=1.0)
    history = steps_of(2, 3)
    for rows in history[:5]:
        rule.weights(seen(rows))
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    rows = history[5]
    rows[1] = 0
    used = rule.weights(seen(rows[[0, 2]], places=(0, 2), total=3) if how == "absent" else seen(rows))
    after = rule.state_dict()
    for name in ("roots", "log_weights", "reference", "count"):
        assert after[name][1].equal(before[name][1]), name
    pair = [0, 2]
    excess = excess_risks(rows[pair], after["roots"][pair])
    expected = excess_mtl_weights(before["log_weights"][pair], excess, before["reference"][pair], eta=1.0)
    assert after["log_weights"][pair].equal(expected)
    assert (used if how == "absent" else used[pair]).equal(expected.exp())
    assert float(after["log_weights"].exp().sum()) == pytest.approx(3, rel=1e-12)


def test_a_late_task_gets_its_own_reference() -> None:
    rule = ExcessMTL(eta=1.0)
    rows = jacobian("plain", 3, 0)
    rule.weights(seen(rows[[0, 2]], places=(0, 2), total=3))
    weights = rule.weights(seen(rows))
    assert rule.count.tolist() == [2, 1, 2]
    assert weights[1] == 1
    torch.testing.assert_close(rule.reference, rows.abs().sum(1))


def test_the_reference_is_the_mean_over_the_warm_up() -> None:
    rule, squares, measured = ExcessMTL(warm_up=3), torch.zeros(2, 12, dtype=torch.float64), []
    for rows in steps_of(6, 2, 3):
        squares += rows**2
        measured.append((rows**2 / squares.sqrt()).sum(1))
        assert rule.weights(seen(rows)).tolist() == [1, 1]
    torch.testing.assert_close(rule.reference, torch.stack(measured).mean(0))


def test_no_weight_is_lost_for_good() -> None:
    """After a thousand steps its weight is below the smallest float, and the task still comes back."""
    log_weights = torch.zeros(2, dtype=torch.float64)
    one, other = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    for _ in range(1000):
        log_weights = excess_mtl_weights(log_weights, one, torch.ones(2), eta=1.0)
    assert log_weights.exp()[0] == 0
    for _ in range(1000):
        log_weights = excess_mtl_weights(log_weights, other, torch.ones(2), eta=1.0)
    torch.testing.assert_close(log_weights.exp(), torch.ones(2, dtype=torch.float64))


def test_what_is_not_finite_stays_visible() -> None:
    rule = ExcessMTL()
    rule.weights(seen(torch.eye(2)))
    assert rule.weights(seen(torch.tensor([[torch.nan, 1.0], [1.0, 1.0]]))).isnan().all()


def test_a_restored_rule_goes_on_alike() -> None:
    history = steps_of(8, 3)
    rule, restored = ExcessMTL(warm_up=3), ExcessMTL(warm_up=3)
    for rows in history[:4]:
        rule.weights(seen(rows))
    restored.load_state_dict(rule.state_dict())
    for rows in history[4:]:
        assert rule.weights(seen(rows)).equal(restored.weights(seen(rows)))


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="step size eta of ExcessMTL must be positive, got 0"):
        ExcessMTL(eta=0)
    with pytest.raises(ConfigurationError, match="in 1 step or more, got 0"):
        ExcessMTL(warm_up=0)
    with pytest.raises(ConfigurationError, match="the scope of ExcessMTL is parameters or last_layer"):
        ExcessMTL(scope="features")
