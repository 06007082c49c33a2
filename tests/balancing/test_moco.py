"""MoCo: the loop of its paper, the shortest combination as its limit, and what must not matter."""

import pytest
import torch
from tests.balancing.problems import jacobian, shortest_by_enumeration
from torch import Tensor
from torchjd.aggregation._utils.simplex import project_onto_simplex

from plait.balancing.base import Observation
from plait.balancing.moco import MoCo, moco_step
from plait.errors import ConfigurationError


def seen(rows: Tensor, places: tuple[int, ...], total: int) -> Observation:
    wide = rows.double()
    return Observation(places, total, losses=torch.ones(len(rows)), gramian=wide @ wide.T, jacobian=rows)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("tasks", [2, 5])
def test_steps_are_those_of_the_paper(tasks: int, normalise: bool) -> None:
    """One loop over steps, with another projection."""
    rule = MoCo(beta=0.7, beta_sigma=0.3, gamma=0.05, gamma_sigma=0.2, rho=0.1, normalise=normalise)
    tracked, weights = torch.zeros(tasks, 12, dtype=torch.float64), torch.full((tasks,), 1 / tasks).double()
    for step in range(1, 15):
        rows, losses = jacobian("plain", tasks, step), torch.arange(1.0, tasks + 1) / step
        scaled = rows / rows.norm(dim=1, keepdim=True) * losses[:, None] if normalise else rows
        tracked = tracked - 0.7 / step**0.3 * (tracked - scaled)
        slope = (tracked @ tracked.T + 0.1 * torch.eye(tasks)) @ weights
        weights = project_onto_simplex(weights - 0.05 / step**0.2 * slope)
        torch.testing.assert_close(rule.direction(rows, losses), weights @ tracked)
        torch.testing.assert_close(rule.task_weights, weights)


@pytest.mark.parametrize("kind", ["plain", "conflicting", "opposite", "duplicate"])
def test_constant_gradients_end_at_the_shortest_combination(kind: str) -> None:
    rows = jacobian(kind, 4, 3)
    rows /= torch.linalg.matrix_norm(rows, 2)
    rule = MoCo(gamma=1.0, gamma_sigma=0, beta_sigma=0)
    for _ in range(4000):
        direction = rule.direction(rows)
    assert float((direction - shortest_by_enumeration(rows)).norm()) < 1e-9


def test_means_forget_noise() -> None:
    """What it is for: after many noisy steps the means are far nearer to the gradients than a sample is."""
    rows, generator = jacobian("plain", 3, 0), torch.Generator().manual_seed(0)
    rule = MoCo()
    for _ in range(2000):
        rule.direction(rows + torch.randn(rows.shape, generator=generator, dtype=torch.float64))
    assert float((rule.tracked - rows).square().mean()) < 0.02


def test_the_step_is_projected_and_depends_on_the_scale() -> None:
    gramian = torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64)
    assert moco_step(weights, gramian, gamma=0.1).tolist() == pytest.approx([0.37, 0.63])
    assert moco_step(weights, 1e4 * gramian, gamma=0.1).tolist() == [0, 1]


def test_equal_gradients_give_that_gradient_once_tracked() -> None:
    rows = jacobian("plain", 1, 0).expand(4, -1)
    rule = MoCo(beta_sigma=0)
    for step in range(1, 6):
        torch.testing.assert_close(rule.direction(rows), (1 - 0.5**step) * rows[0])


def test_one_task_is_plain_training_and_one_of_two_follows_its_mean() -> None:
    rule, alone = MoCo(beta_sigma=0), MoCo()
    for step in range(1, 4):
        rows = jacobian("plain", 1, 0)
        assert alone.direction(rows).equal(rows[0])
        torch.testing.assert_close(rule.combine(rows, seen(rows, (1,), 2)), (1 - 0.5**step) * rows[0])


def test_order_does_not_matter_and_parameters_may_be_rotated() -> None:
    order, rotation = torch.tensor([2, 0, 3, 1]), torch.linalg.qr(jacobian("plain", 12, 0)).Q
    plain, reordered, rotated = MoCo(), MoCo(), MoCo()
    for step in range(10):
        rows = jacobian("plain", 4, step)
        direction = plain.direction(rows)
        torch.testing.assert_close(reordered.direction(rows[order]), direction)
        torch.testing.assert_close(rotated.direction(rows @ rotation), direction @ rotation)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_scaled_gradients_with_a_scaled_step_size(factor: float) -> None:
    """Homogeneous of degree one only if gamma and rho follow: gamma multiplies squared lengths."""
    one, other = MoCo(gamma=0.01, rho=0.1), MoCo(gamma=0.01 / factor**2, rho=0.1 * factor**2)
    for step in range(10):
        rows = jacobian("plain", 3, step)
        torch.testing.assert_close(other.direction(factor * rows), factor * one.direction(rows))


def test_float32_is_enough() -> None:
    exact, rounded = MoCo(gamma=1e-3), MoCo(gamma=1e-3)
    for step in range(10):
        rows = jacobian("scaled", 5, step).float()
        direction, single = exact.direction(rows.double()), rounded.direction(rows)
        assert single.dtype == torch.float32
        assert float((single - direction).norm() / direction.norm()) < 1e-4


@pytest.mark.parametrize("how", ["absent", "zero row"])
def test_a_task_without_gradient_keeps_everything(how: str) -> None:
    rule = MoCo(gamma=0.01)
    for step in range(3):
        rule.direction(jacobian("plain", 3, step))
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    rows, pair = jacobian("plain", 3, 9), [0, 2]
    rows[1] = 0
    if how == "absent":
        direction = rule.combine(rows[pair], seen(rows[pair], (0, 2), 3))
    else:
        direction = rule.direction(rows)
    assert rule.tracked[1].equal(before["tracked"][1])
    assert rule.count.tolist() == [4, 3, 4]
    assert rule.task_weights[1] == before["task_weights"][1]
    assert float(rule.task_weights.sum()) == pytest.approx(1, abs=1e-12)
    means = before["tracked"][pair] - 0.5 / 2 * (before["tracked"][pair] - rows[pair])
    shares = before["task_weights"][pair] / before["task_weights"][pair].sum()
    moved = moco_step(shares, means @ means.T, gamma=0.01 / 2)
    torch.testing.assert_close(direction, moved @ means)


def test_no_gradient_at_all_is_no_step() -> None:
    rule = MoCo()
    assert rule.direction(torch.zeros(3, 4)).tolist() == [0] * 4
    assert rule.head_weights(seen(torch.zeros(3, 4), (0, 1, 2), 3)).tolist() == pytest.approx([1 / 3] * 3)


def test_heads_may_get_the_weights() -> None:
    rule = MoCo(heads="weighted", gamma=0.01)
    rows = jacobian("plain", 3, 0)
    rule.direction(rows)
    weights = rule.head_weights(seen(rows, (0, 1, 2), 3))
    assert weights.equal(rule.task_weights)
    torch.testing.assert_close(rule.head_weights(seen(rows[1:], (1, 2), 3)), weights[1:] / weights[1:].sum())


def test_what_is_not_finite_stays_visible() -> None:
    assert MoCo().direction(torch.tensor([[torch.nan, 1.0], [1.0, 1.0]])).isnan().all()


def test_a_negative_loss_has_no_length() -> None:
    rule, losses = MoCo(normalise=True), torch.tensor([1.0, -1.0])
    assert rule.direction(torch.eye(2), losses).isnan().all()
    assert rule.direction(torch.eye(2), losses.abs()).tolist() == [0.25, 0.25]


def test_a_restored_rule_goes_on_alike() -> None:
    rule, restored = MoCo(), MoCo()
    for step in range(4):
        rule.direction(jacobian("plain", 3, step))
    restored.load_state_dict(rule.state_dict())
    for step in range(4, 8):
        rows = jacobian("plain", 3, step)
        assert rule.direction(rows).equal(restored.direction(rows))


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="beta of MoCo is more than 0 and at most 1, got 0"):
        MoCo(beta=0)
    with pytest.raises(ConfigurationError, match="gamma_sigma of MoCo must not be negative, got -1"):
        MoCo(gamma_sigma=-1)
    with pytest.raises(ConfigurationError, match="the scope of MoCo is parameters, got 'features'"):
        MoCo(scope="features")
    with pytest.raises(ConfigurationError, match=r"MoCo looks at the losses: pass direction\(J, losses\)"):
        MoCo(normalise=True).direction(torch.eye(2))
