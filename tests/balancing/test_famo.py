"""FAMO: its objective's gradient, its logits' gradient, and Adam, held against autograd and torch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.balancing.on_losses import gradient, positive, random_losses, seen, shuffled
from torch import Tensor
from torchjd import scalarization

from plait.balancing.famo import FAMO, famo_slope, famo_weights
from plait.errors import ConfigurationError


def logits(tasks: int, seed: int = 3) -> Tensor:
    return torch.randn(tasks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(balancer: FAMO, before: Tensor, after: Tensor, places: tuple[int, ...] | None = None) -> Tensor:
    """One step of training as the loop does it; ``after`` is ``[T]``."""
    observation = seen(before, places, len(after))
    weights = balancer.weights(observation)
    balancer.observe(observation)
    balancer.after_update(lambda: after)
    return weights


@given(positive, st.integers(0, 100))
def test_weights_are_the_gradient_of_the_objective(gaps: Tensor, seed: int) -> None:
    xi = logits(len(gaps), seed)
    z = xi.softmax(0)
    c = 1 / (z / gaps).sum()
    weights = famo_weights(gaps, xi)
    torch.testing.assert_close(weights, gradient(lambda x: c * (z * x.log()).sum(), gaps))
    assert float(weights.sum()) == pytest.approx(1, rel=1e-12)


@given(positive, st.integers(0, 100))
def test_the_slope_is_the_jacobian_of_the_softmax_times_what_was_gained(before: Tensor, seed: int) -> None:
    after, xi = random_losses(len(before), seed), logits(len(before), seed)
    delta = before.log() - after.log()
    expected = gradient(lambda x: (x.softmax(0) * delta).sum(), xi)
    slope = famo_slope(before, after, xi)
    torch.testing.assert_close(slope, expected)
    assert float(slope.sum()) == pytest.approx(0, abs=1e-9)


@given(st.integers(1, 8), st.integers(0, 100))
def test_equal_progress_leaves_the_logits(tasks: int, seed: int) -> None:
    before = random_losses(tasks, seed)
    assert float(famo_slope(before, 0.7 * before, logits(tasks, seed)).abs().max()) < 1e-12


def test_a_task_that_is_slower_than_the_others_gains() -> None:
    before, after = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 0.9, 0.5])
    slope = famo_slope(before, after, torch.zeros(3))
    assert slope[1] < 0 < slope[0]


@given(positive, st.sampled_from([1e-4, 1e4]), st.integers(0, 100))
def test_the_scale_of_a_loss_does_not_matter(before: Tensor, factor: float, seed: int) -> None:
    """Neither to what is learned nor to the proportions of the weighted losses."""
    scale = torch.ones_like(before)
    scale[0] = factor
    after, xi = random_losses(len(before), seed), logits(len(before), seed)
    slope = famo_slope(before, after, xi)
    torch.testing.assert_close(famo_slope(scale * before, scale * after, xi), slope, rtol=1e-7, atol=1e-9)
    weighted, scaled = famo_weights(before, xi) * before, famo_weights(scale * before, xi) * scale * before
    torch.testing.assert_close(weighted / weighted.sum(), scaled / scaled.sum())
    torch.testing.assert_close(weighted / weighted.sum(), xi.softmax(0))


@given(positive, st.integers(0, 100))
def test_order_and_precision_do_not_matter(before: Tensor, seed: int) -> None:
    after, xi = random_losses(len(before), seed), logits(len(before), seed)
    order = shuffled(len(before), seed)
    torch.testing.assert_close(famo_weights(before[order], xi[order]), famo_weights(before, xi)[order])
    slope = famo_slope(before, after, xi)
    torch.testing.assert_close(famo_slope(before[order], after[order], xi[order]), slope[order])
    torch.testing.assert_close(
        famo_weights(before.float(), xi.float()).double(), famo_weights(before, xi), rtol=1e-4, atol=1e-6
    )


def test_gaps_that_say_nothing() -> None:
    xi = logits(3)
    weights = famo_weights(torch.tensor([1.0, 0.0, 3.0]).double(), xi)
    assert weights[1] == 0
    torch.testing.assert_close(weights[[0, 2]], famo_weights(torch.tensor([1.0, 3.0]).double(), xi[[0, 2]]))
    assert famo_weights(torch.zeros(3), torch.zeros(3)).tolist() == [0, 0, 0]
    assert famo_weights(torch.tensor([1.0, -1.0]), torch.zeros(2)).isnan().all()
    before = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for bad in (0.0, -1.0, math.nan, math.inf):
        after = torch.tensor([0.5, bad, 2.9], dtype=torch.float64)
        expected = famo_slope(before[[0, 2]], after[[0, 2]], xi[[0, 2]])
        for slope in (famo_slope(before, after, xi), -famo_slope(after, before, xi)):
            assert slope[1] == 0
            torch.testing.assert_close(slope[[0, 2]], expected)
    assert famo_slope(torch.zeros(2), torch.zeros(2), torch.zeros(2)).tolist() == [0, 0]


def test_the_logits_are_those_of_torch_s_adam() -> None:
    ours, xi = FAMO(lr=0.1, gamma=0.01), torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([xi], lr=0.1, weight_decay=0.01)
    for number in range(30):
        before, after = random_losses(4, number), random_losses(4, number + 1000)
        expected = famo_weights(before, xi.detach())
        torch.testing.assert_close(step(ours, before, after), expected)
        optimizer.zero_grad()
        (xi.softmax(0) * (before.log() - after.log())).sum().backward()
        optimizer.step()
    torch.testing.assert_close(ours.xi, xi.detach())
    assert ours.xi.abs().max() > 0.1


def test_an_independent_implementation_agrees() -> None:
    """TorchJD adds 1e-8 to losses, which is below the tolerance here."""
    minimum = torch.tensor([0.05, 0.0, 0.1], dtype=torch.float64)
    theirs = scalarization.FAMO(3, min_losses=minimum, lr=0.025, weight_decay=1e-3).double()
    ours = FAMO(tasks=list("abc"), gamma=1e-3, minimum={"a": 0.05, "c": 0.1})
    for number in range(20):
        before, after = (random_losses(3, number + k, spread=1.0) for k in (0, 1000))
        expected = gradient(theirs, before)
        theirs.update(after)
        torch.testing.assert_close(step(ours, before, after), expected, rtol=1e-6, atol=0)


def test_absent_tasks_stay_as_they_are() -> None:
    """As if they had never been declared; the others too."""
    three, two = FAMO(), FAMO()
    for number in range(10):
        before, after = random_losses(2, number), random_losses(2, number + 100)
        wide = torch.tensor([after[0], 0.0, after[1]], dtype=torch.float64)
        torch.testing.assert_close(step(three, before, wide, (0, 2)), step(two, before, after))
    torch.testing.assert_close(three.xi[[0, 2]], two.xi)
    assert three.xi[1] == 0
    step(three, torch.tensor([3.0]), torch.tensor([0.0, 2.0, 0.0]), (1,))
    torch.testing.assert_close(three.xi[[0, 2]], two.xi)


def test_a_step_that_was_skipped_teaches_nothing() -> None:
    balancer = FAMO(gamma=0.0)
    losses = random_losses(3, 1)
    balancer.after_update(lambda: losses)  # no step yet
    step(balancer, losses, losses)
    assert balancer.xi.tolist() == [0, 0, 0]
    balancer.after_update(lambda: losses.flip(0))  # not twice of one step
    assert balancer.xi.tolist() == [0, 0, 0]
    torch.testing.assert_close(balancer.weights(seen(losses)), (1 / losses) / (1 / losses).sum())


def test_losses_that_overflow_after_the_update_leave_no_trace_in_the_logits() -> None:
    balancer = FAMO()
    step(balancer, random_losses(3, 1), torch.full((3,), math.nan))
    step(balancer, random_losses(3, 2), torch.full((3,), math.inf))
    assert balancer.xi.tolist() == [0, 0, 0]


def test_training_goes_on_where_it_was() -> None:
    whole, resumed = FAMO(), FAMO()
    for number in range(5):
        step(whole, random_losses(3, number), random_losses(3, number + 50))
    resumed.load_state_dict(whole.state_dict())
    for number in range(5, 10):
        before, after = random_losses(3, number), random_losses(3, number + 50)
        assert torch.equal(step(resumed, before, after), step(whole, before, after))
    assert torch.equal(resumed.xi, whole.xi)


def test_log_losses_fall_by_the_same_amount() -> None:
    """Two wells, one of them a hundred times deeper: the plain sum goes to that one alone."""
    wells = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    depths = torch.tensor([1.0, 100.0], dtype=torch.float64)

    def losses(x: Tensor) -> Tensor:
        return depths * ((x - wells).square().sum(1) + 0.1)

    def gains(balancer: FAMO | None) -> Tensor:
        x = torch.tensor([-1.0, -0.5], dtype=torch.float64)
        start = losses(x).log()
        for _ in range(500):
            before, slopes = losses(x), 2 * depths[:, None] * (x - wells)
            weights = torch.ones(2, dtype=torch.float64)
            if balancer is not None:
                weights = balancer.weights(seen(before))
                balancer.observe(seen(before))
            x = x - 2e-3 * weights @ slopes
            if balancer is not None:
                balancer.after_update(lambda x=x: losses(x))  # type: ignore[misc]
        return start - losses(x).log()

    even, plain = gains(FAMO(gamma=0.0)), gains(None)
    assert float(plain.diff().abs()) > 1.5
    assert float(even.diff().abs()) < 0.2


def test_the_update() -> None:
    assert FAMO().direction(torch.tensor([[3.0, 4.0]]), torch.tensor([7.0])).tolist() == [3.0, 4.0]
    equal, losses = torch.ones(3, 2), torch.tensor([0.1, 5.0, 2.0])
    torch.testing.assert_close(FAMO().direction(equal, losses), torch.ones(2))
    torch.testing.assert_close(FAMO(reduction="sum").direction(equal, losses), torch.full((2,), 3.0))


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match=r"above 0 and a gamma of 0 or more, got 0.0 and 0.01"):
        FAMO(lr=0.0)
    with pytest.raises(ConfigurationError, match=r"minimum is given for 'd'; the tasks are a, b"):
        FAMO(tasks=["a", "b"], minimum={"d": 0.0})
    with pytest.raises(ConfigurationError, match=r"not named: pass tasks="):
        FAMO(minimum={"d": 0.0})
    with pytest.raises(ConfigurationError, match=r"minimum of 'a' must be finite, got nan"):
        FAMO(tasks=["a"], minimum={"a": math.nan})
