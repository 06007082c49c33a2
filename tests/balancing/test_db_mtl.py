"""DB-MTL: the loop of its paper, closed forms without running means, and what must not matter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.problems import jacobian, problems
from torch import Tensor

from plait.balancing.base import Observation
from plait.balancing.db_mtl import DBMTL, db_mtl_direction, db_mtl_weights
from plait.errors import ConfigurationError


def seen(losses: Tensor, rows: Tensor, places: tuple[int, ...] | None = None, total: int = 0) -> Observation:
    places = places or tuple(range(len(rows)))
    wide = rows.double()
    return Observation(
        places, total or len(places), losses=losses.double(), gramian=wide @ wide.T, jacobian=rows
    )


def losses_of(seed: int, tasks: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 10 ** (torch.rand(tasks, generator=generator, dtype=torch.float64) * 4 - 2)


@pytest.mark.parametrize(("beta", "sigma"), [(0.9, 0.0), (0.5, 0.5), (0.9, 1.0)])
@pytest.mark.parametrize("tasks", [2, 6])
def test_steps_are_those_of_the_official_loop(tasks: int, beta: float, sigma: float) -> None:
    """Autograd through the logarithm of linear losses, one loop over tasks, none of its 1e-8."""
    rule, tracked = DBMTL(beta=beta, sigma=sigma), [torch.zeros(12, dtype=torch.float64)] * tasks
    for step in range(1, 12):
        rows, losses = jacobian("scaled", tasks, step), losses_of(step, tasks)
        for place in range(tasks):
            at = torch.zeros(12, dtype=torch.float64, requires_grad=True)
            (losses[place] + rows[place] @ at).log().backward()
            tracked[place] = at.grad + (beta / step**sigma) * (tracked[place] - at.grad)
        longest = max(row.norm() for row in tracked)
        expected = sum(longest / row.norm() * row for row in tracked)
        torch.testing.assert_close(rule.direction(rows, losses), expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(problems, st.integers(0, 1000))
def test_without_running_means_it_is_a_function_of_the_gramian(rows: Tensor, seed: int) -> None:
    losses = losses_of(seed, len(rows))
    weights = db_mtl_weights(rows @ rows.T, losses)
    direction = DBMTL(beta=0).direction(rows, losses)
    torch.testing.assert_close(direction, weights @ rows)
    lengths = rows.norm(dim=1) / losses
    reached = weights * rows.norm(dim=1)
    torch.testing.assert_close(reached, lengths.max() * (lengths > 0), rtol=1e-9, atol=0)
    torch.testing.assert_close(direction, db_mtl_direction(rows / losses[:, None]))


@settings(max_examples=60, deadline=None)
@given(problems)
def test_no_longer_than_t_times_the_longest_row(rows: Tensor) -> None:
    assert db_mtl_direction(rows).norm() <= len(rows) * rows.norm(dim=1).max() * (1 + 1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize("factor", [1e-6, 1e5])
def test_the_scale_of_a_loss_does_not_matter(beta: float, factor: float) -> None:
    one, other = DBMTL(beta=beta), DBMTL(beta=beta)
    scale = torch.tensor([1.0, factor, 1.0], dtype=torch.float64)
    for step in range(5):
        rows, losses = jacobian("plain", 3, step), losses_of(step, 3)
        scaled = other.direction(scale[:, None] * rows, scale * losses)
        torch.testing.assert_close(scaled, one.direction(rows, losses), rtol=1e-10, atol=0)


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_the_direction_scales_with_the_gradients(factor: float) -> None:
    """Homogeneous of degree one in gradients at given losses, in float32 too."""
    one, other = DBMTL(), DBMTL()
    for step in range(5):
        rows, losses = jacobian("plain", 3, step).float(), losses_of(step, 3)
        scaled = other.direction(factor * rows, losses)
        torch.testing.assert_close(scaled / factor, one.direction(rows, losses), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_order_does_not_matter_and_parameters_may_be_rotated(beta: float) -> None:
    order, rotation = torch.tensor([2, 0, 3, 1]), torch.linalg.qr(jacobian("plain", 12, 0)).Q
    plain, reordered, rotated = DBMTL(beta=beta), DBMTL(beta=beta), DBMTL(beta=beta)
    for step in range(5):
        rows, losses = jacobian("scaled", 4, step), losses_of(step, 4)
        direction = plain.direction(rows, losses)
        torch.testing.assert_close(reordered.direction(rows[order], losses[order]), direction)
        torch.testing.assert_close(rotated.direction(rows @ rotation, losses), direction @ rotation)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_float32_is_enough(beta: float) -> None:
    exact, rounded = DBMTL(beta=beta), DBMTL(beta=beta)
    for step in range(8):
        rows, losses = jacobian("scaled", 5, step).float(), losses_of(step, 5).float()
        direction = exact.direction(rows.double(), losses.double())
        single = rounded.direction(rows, losses)
        assert single.dtype == torch.float32
        assert float((single - direction).norm() / direction.norm()) < 1e-4


def test_equal_gradients_of_log_losses_give_their_sum() -> None:
    losses = losses_of(0, 4)
    rows = losses[:, None] * jacobian("plain", 1, 0)
    torch.testing.assert_close(DBMTL(beta=0).direction(rows, losses), 4 * rows[0] / losses[0])


def test_orthogonal_gradients_get_one_length() -> None:
    rows = torch.diag(torch.tensor([1.0, 5.0, 1e-4], dtype=torch.float64))
    assert DBMTL(beta=0).direction(rows, torch.ones(3)).tolist() == pytest.approx([5, 5, 5])


def test_two_tasks_in_closed_form() -> None:
    rows, losses = jacobian("plain", 2, 3), torch.tensor([0.5, 4.0], dtype=torch.float64)
    g, h = rows / losses[:, None]
    expected = g.norm().maximum(h.norm()) * (g / g.norm() + h / h.norm())
    torch.testing.assert_close(DBMTL(beta=0).direction(rows, losses), expected)


def test_one_task_of_two_is_trained_on_its_logarithm() -> None:
    """The running mean starts at zero, so constant gradients are reached as ``1 - beta^k``."""
    rows = jacobian("plain", 1, 0)
    alone = seen(torch.tensor([4.0]), rows, places=(1,), total=2)
    torch.testing.assert_close(DBMTL(beta=0).combine(rows, alone), rows[0] / 4)
    rule = DBMTL(beta=0.9)
    for step in range(1, 6):
        torch.testing.assert_close(rule.combine(rows, alone), (1 - 0.9**step) * rows[0] / 4)


def test_one_task_is_plain_training() -> None:
    rows = jacobian("plain", 1, 0)
    assert DBMTL().direction(rows, torch.tensor([4.0])).equal(rows[0])


@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize("how", ["absent", "zero row", "zero loss"])
def test_a_task_with_nothing_to_say_keeps_everything(how: str, beta: float) -> None:
    """The others are combined as if they were alone."""
    rule, pair = DBMTL(beta=beta), DBMTL(beta=beta)
    for step in range(3):
        rows, losses = jacobian("plain", 3, step), losses_of(step, 3)
        rule.direction(rows, losses)
        pair.direction(rows[[0, 2]], losses[[0, 2]])
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    rows, losses = jacobian("plain", 3, 9), losses_of(9, 3)
    expected = pair.direction(rows[[0, 2]], losses[[0, 2]])
    if how == "absent":
        direction = rule.combine(rows[[0, 2]], seen(losses[[0, 2]], rows[[0, 2]], places=(0, 2), total=3))
    else:
        (rows if how == "zero row" else losses)[1] = 0
        direction = rule.direction(rows, losses)
    torch.testing.assert_close(direction, expected)
    if beta:
        assert rule.tracked[1].equal(before["tracked"][1])
        assert rule.count.tolist() == [4, 3, 4]


def test_nothing_to_say_at_all_is_no_step() -> None:
    for beta in (0.0, 0.9):
        assert DBMTL(beta=beta).direction(torch.zeros(3, 4), torch.ones(3)).tolist() == [0] * 4


def test_a_negative_loss_stays_visible() -> None:
    losses = torch.tensor([1.0, -1.0])
    for beta in (0.0, 0.9):
        assert DBMTL(beta=beta).direction(torch.eye(2), losses).isnan().all()


def test_heads_get_the_gradients_of_the_log_losses() -> None:
    assert DBMTL().heads == "weighted"
    losses = torch.tensor([0.5, 0.0, 4.0, -1.0])
    weights = DBMTL().head_weights(seen(losses, torch.eye(4)))
    torch.testing.assert_close(weights, torch.tensor([2.0, 0.0, 0.25, torch.nan]).double(), equal_nan=True)


def test_a_restored_rule_goes_on_alike() -> None:
    rule, restored = DBMTL(sigma=0.5), DBMTL(sigma=0.5)
    for step in range(4):
        rule.direction(jacobian("plain", 3, step), losses_of(step, 3))
    restored.load_state_dict(rule.state_dict())
    for step in range(4, 8):
        rows, losses = jacobian("plain", 3, step), losses_of(step, 3)
        assert rule.direction(rows, losses).equal(restored.direction(rows, losses))


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="beta of DBMTL is at least 0 and less than 1, got 1"):
        DBMTL(beta=1)
    with pytest.raises(ConfigurationError, match="sigma of DBMTL must not be negative, got -1"):
        DBMTL(sigma=-1)
    with pytest.raises(ConfigurationError, match="the scope of DBMTL is parameters, got 'features'"):
        DBMTL(scope="features")
    assert DBMTL(beta=0, scope="features").scope == "features"
    with pytest.raises(ConfigurationError, match=r"DBMTL looks at the losses: pass direction\(J, losses\)"):
        DBMTL().direction(torch.eye(2))
