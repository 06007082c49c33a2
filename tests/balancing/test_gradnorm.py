"""GradNorm: its closed form is the gradient that the paper differentiates, and its steps are the paper's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.problems import jacobian
from torch import Tensor

from plait.balancing.adam import Adam
from plait.balancing.base import Observation
from plait.balancing.gradnorm import GradNorm, gradnorm_gradient
from plait.errors import ConfigurationError


def seen(rows: Tensor, losses: Tensor, places: tuple[int, ...] | None = None, total: int = 0) -> Observation:
    places = places or tuple(range(len(rows)))
    wide = rows.double()
    return Observation(places, total or len(places), losses=losses.double(), gramian=wide @ wide.T)


def positive(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1


def objective(weights: Tensor, norms: Tensor, losses: Tensor, initial: Tensor, alpha: float) -> Tensor:
    """L_grad as the paper writes it, to be differentiated by autograd."""
    lengths = weights * norms
    rates = losses / initial
    target = (lengths.mean() * (rates / rates.mean()) ** alpha).detach()
    return (lengths - target).abs().sum()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**31), st.sampled_from([0.0, 0.12, 1.5, 2.0]))
def test_the_closed_form_is_the_derivative(tasks: int, seed: int, alpha: float) -> None:
    norms, losses, initial, weights = positive(seed, 4, tasks)
    weights.requires_grad_()
    objective(weights, norms, losses, initial, alpha).backward()
    found = gradnorm_gradient(norms, losses, initial, weights.detach(), alpha=alpha)
    torch.testing.assert_close(found, weights.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("tasks", [2, 3, 7])
@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_steps_are_those_of_the_paper(tasks: int, alpha: float) -> None:
    """Autograd and ``torch.optim.Adam`` on L_grad, then weights with sum T, which the *next* step uses."""
    rule, reference = GradNorm(alpha=alpha), torch.ones(tasks, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([reference], lr=0.025)
    initial = None
    for step in range(30):
        rows, losses = jacobian("scaled", tasks, step), positive(step, tasks)
        initial = losses if initial is None else initial
        torch.testing.assert_close(rule.weights(seen(rows, losses)), reference.detach(), rtol=1e-9, atol=0)
        adam.zero_grad()
        objective(reference, rows.norm(dim=1), losses, initial, alpha).backward()
        adam.step()
        with torch.no_grad():
            reference.mul_(tasks / reference.sum())


def test_constant_gradients_end_at_equal_lengths() -> None:
    rule, rows = GradNorm(alpha=0, lr=1e-2), torch.diag(torch.tensor([1.0, 3.0, 0.5]))
    for _ in range(1500):
        weights = rule.weights(seen(rows, torch.ones(3)))
    lengths = weights * rows.norm(dim=1)
    assert float(lengths.max() / lengths.min()) < 1.06


def test_a_slow_task_gains_weight() -> None:
    rule, rows = GradNorm(), torch.eye(2)
    rule.weights(seen(rows, torch.tensor([1.0, 10.0])))
    for _ in range(20):
        weights = rule.weights(seen(rows, torch.tensor([0.9, 1.0])))
    assert weights[0] > 1.2 > 0.8 > weights[1]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**31), st.sampled_from([0.025, 3.0]))
def test_weights_stay_positive_with_sum_t(tasks: int, seed: int, lr: float) -> None:
    """Also with a learning rate at which Adam alone would step below zero."""
    rule = GradNorm(lr=lr)
    for step in range(20):
        weights = rule.weights(seen(jacobian("scaled", tasks, seed + step), positive(seed + step, tasks)))
        assert float(weights.min()) > 0
        assert float(weights.sum()) == pytest.approx(tasks, rel=1e-12)


def test_equal_tasks_keep_equal_weights() -> None:
    """Lengths are on their targets, so nothing moves: equal gradients g give T g."""
    rule, rows = GradNorm(), torch.ones(4, 3, dtype=torch.float64)
    for losses in (8.0, 4.0, 2.0):
        torch.testing.assert_close(
            rule.direction(rows, torch.full((4,), losses)), 4 * rows[0], rtol=1e-12, atol=0
        )


def test_one_task_is_plain_training() -> None:
    rule = GradNorm()
    for step in range(5):
        rows = jacobian("plain", 1, step)
        assert rule.direction(rows, positive(step, 1)).equal(rows[0])


def test_order_does_not_matter() -> None:
    order = torch.tensor([2, 0, 3, 1])
    one, other = GradNorm(), GradNorm()
    for step in range(10):
        rows, losses = jacobian("scaled", 4, step), positive(step, 4)
        weights = one.weights(seen(rows, losses))
        reordered = other.weights(seen(rows[order], losses[order]))
        torch.testing.assert_close(weights[order], reordered, rtol=1e-12, atol=0)


@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_a_common_scale_does_not_matter(factor: float) -> None:
    """The direction is homogeneous of degree one: Adam's steps do not see the scale (but for its eps)."""
    one, other = GradNorm(), GradNorm()
    for step in range(10):
        rows, losses = jacobian("scaled", 3, step), positive(step, 3)
        direction = one.direction(rows, losses)
        scaled = other.direction(factor * rows, factor * losses)
        torch.testing.assert_close(scaled / factor, direction, rtol=1e-2, atol=0)


def test_parameter_space_may_be_rotated_and_float32_is_enough() -> None:
    rotation = torch.linalg.qr(jacobian("plain", 12, 0)).Q
    exact, rotated, rounded = GradNorm(), GradNorm(), GradNorm()
    for step in range(10):
        rows, losses = jacobian("scaled", 3, step).float().double(), positive(step, 3)
        direction = exact.direction(rows, losses)
        torch.testing.assert_close(rotated.direction(rows @ rotation, losses), direction @ rotation)
        single = rounded.direction(rows.float(), losses)
        assert single.dtype == torch.float32
        assert float((single - direction).norm() / direction.norm()) < 1e-5


@pytest.mark.parametrize("how", ["absent", "zero row"])
def test_a_task_without_gradient_keeps_everything(how: str) -> None:
    """The others move as if they were alone, but for the sum that they share: it stays what it was."""
    rule = GradNorm()
    for step in range(3):
        rule.weights(seen(jacobian("plain", 3, step), positive(step, 3)))
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    rows, losses = jacobian("plain", 3, 9), positive(9, 3)
    rows[1] = 0
    if how == "absent":
        used = rule.weights(seen(rows[[0, 2]], losses[[0, 2]], places=(0, 2), total=3))
        assert used.equal(before["task_weights"][[0, 2]])
    else:
        assert rule.weights(seen(rows, losses)).equal(before["task_weights"])
    after = rule.state_dict()
    for name in ("task_weights", "initial", "adam.first", "adam.second", "adam.count"):
        assert after[name][1] == before[name][1], name
    assert (after["task_weights"] != before["task_weights"]).tolist() == [True, False, True]
    assert float(after["task_weights"].sum()) == pytest.approx(3, rel=1e-12)


def test_a_task_that_comes_late_starts_there() -> None:
    rule = GradNorm()
    rule.weights(seen(torch.eye(2), torch.tensor([2.0, 3.0]), places=(0, 2), total=3))
    rule.weights(seen(torch.eye(3), torch.tensor([1.0, 7.0, 0.0])))
    assert rule.initial.tolist() == [2.0, 7.0, 3.0]
    assert rule.adam.count.tolist() == [2, 1, 2]


def test_a_loss_of_zero_is_no_reference() -> None:
    rule = GradNorm()
    rule.weights(seen(torch.diag(torch.tensor([1.0, 0.0])), torch.tensor([2.0, 0.0])))
    rule.weights(seen(torch.eye(2), torch.tensor([1.0, 5.0])))
    assert rule.initial.tolist() == [2.0, 5.0]


def test_a_task_whose_loss_was_always_zero_holds_nobody_up() -> None:
    rule, other = GradNorm(), GradNorm()
    for losses in ([1.0, 0.0, 1.0], [0.5, 0.0, 1.0], [0.5, 0.0, 0.9]):
        rule.weights(seen(torch.eye(3), torch.tensor(losses)))
        other.weights(seen(torch.eye(2), torch.tensor(losses)[[0, 2]], places=(0, 2), total=3))
    assert rule.task_weights.equal(other.task_weights)
    assert rule.task_weights[0] < rule.task_weights[1] == 1 < rule.task_weights[2]


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_a_negative_loss_is_visible_and_not_remembered(alpha: float) -> None:
    rule = GradNorm(alpha=alpha)
    rule.weights(seen(torch.diag(torch.tensor([1.0, 2.0])), torch.ones(2)))
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    assert rule.weights(seen(torch.eye(2), torch.tensor([-0.5, 1.0]))).isnan().all()
    assert all(value.equal(before[name]) for name, value in rule.state_dict().items())


def test_what_is_not_finite_stays_visible() -> None:
    rule = GradNorm()
    rule.weights(seen(torch.eye(2), torch.ones(2)))
    rule.weights(seen(torch.diag(torch.tensor([1.0, torch.nan])), torch.ones(2)))
    assert rule.task_weights.isnan().all()


def test_a_restored_rule_goes_on_alike() -> None:
    rule = GradNorm()
    for step in range(4):
        rule.weights(seen(jacobian("plain", 3, step), positive(step, 3)))
    restored = GradNorm()
    restored.load_state_dict(rule.state_dict())
    for step in range(4, 8):
        observed = seen(jacobian("plain", 3, step), positive(step, 3))
        assert rule.weights(observed).equal(restored.weights(observed))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.1]))
def test_adam_is_one_of_torch_for_each_task(seed: int, weight_decay: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours, values = Adam(lr=0.02, weight_decay=weight_decay), torch.ones(3, dtype=torch.float64)
    theirs = [torch.ones((), dtype=torch.float64, requires_grad=True) for _ in range(3)]
    optimizers = [torch.optim.Adam([value], lr=0.02, weight_decay=weight_decay) for value in theirs]
    for _ in range(15):
        places = torch.nonzero(torch.rand(3, generator=generator) < 0.7).flatten().tolist()
        gradient = torch.randn(len(places), generator=generator, dtype=torch.float64)
        values = ours.step(values, gradient, places)
        for place, slope in zip(places, gradient, strict=True):
            theirs[place].grad = slope
            optimizers[place].step()
        torch.testing.assert_close(values, torch.stack(theirs).detach(), rtol=1e-12, atol=1e-14)


def test_options_are_checked() -> None:
    assert GradNorm().scope == "last_layer"
    assert GradNorm().heads == "weighted"
    with pytest.raises(ConfigurationError, match="alpha of GradNorm must not be negative, got -1"):
        GradNorm(alpha=-1)
    with pytest.raises(ConfigurationError, match="weights must be positive, got 0"):
        GradNorm(lr=0)
    with pytest.raises(ConfigurationError, match=r"looks at the losses: pass direction\(J, losses\)"):
        GradNorm().direction(torch.eye(2))
