"""DWA: the paper's formula, epochs, absent tasks, and what is kept."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.balancing.on_losses import epochs, positive, random_losses, seen, shuffled, unknowing
from torch import Tensor
from torchjd import scalarization

from plait.balancing.dwa import DWA, dwa_weights
from plait.errors import ConfigurationError

NAN = math.nan
temperatures = st.sampled_from([0.3, 1.0, 2.0, 50.0])


def weights_of(balancer: DWA, places: tuple[int, ...] = (0, 1, 2), total: int = 3) -> Tensor:
    return balancer.weights(unknowing(places, total))


@given(positive, st.integers(0, 2**32), temperatures)
def test_weights_are_a_softmax_of_ratios(last: Tensor, seed: int, temperature: float) -> None:
    before = last * random_losses(len(last), seed, spread=1.0)
    weights = dwa_weights(last, before, temperature=temperature)
    powers = [math.exp(a / b / temperature) for a, b in zip(last.tolist(), before.tolist(), strict=True)]
    expected = [len(last) * power / sum(powers) for power in powers]
    assert weights.tolist() == pytest.approx(expected, rel=1e-12)
    assert float(weights.sum()) == pytest.approx(len(last), rel=1e-12)


@given(st.integers(2, 10), st.integers(0, 2**32), temperatures)
def test_weights_are_bounded_by_the_ratios(tasks: int, seed: int, temperature: float) -> None:
    """Two weights differ by a factor of ``exp(difference of ratios / temperature)``: all are near 1."""
    before = random_losses(tasks, seed)
    last = before * random_losses(tasks, seed + 1, spread=0.5)
    weights, ratios = dwa_weights(last, before, temperature=temperature), last / before
    spread = float((ratios.max() - ratios.min()) / temperature)
    assert float(weights.max() / weights.min()) == pytest.approx(math.exp(spread), rel=1e-9)
    assert math.exp(-spread) - 1e-9 <= float(weights.min()) <= 1 + 1e-9
    assert 1 - 1e-9 <= float(weights.max()) <= math.exp(spread) + 1e-9


@given(positive, st.sampled_from([1e-6, 1e6]), st.integers(0, 100))
def test_scale_and_order_do_not_matter(last: Tensor, factor: float, seed: int) -> None:
    before = last.flip(0)
    weights = dwa_weights(last, before)
    scale = torch.ones_like(last)
    scale[0] = factor
    torch.testing.assert_close(dwa_weights(scale * last, scale * before), weights)
    order = shuffled(len(last), seed)
    torch.testing.assert_close(dwa_weights(last[order], before[order]), weights[order])
    torch.testing.assert_close(dwa_weights(last.float(), last.float() * 2).double(), torch.ones_like(last))


def test_means_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"expected before\[1\] above 0, got 0.0"):
        dwa_weights(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"expected last\[0\] above 0, got nan"):
        dwa_weights(torch.tensor([NAN, 1.0]), torch.tensor([1.0, 1.0]))


def test_the_first_two_epochs_are_equal() -> None:
    balancer = DWA(temperature=1.0)
    means = [[4.0, 1.0, 2.0], [1.0, 1.0, 3.0], [2.0, 0.5, 3.0]]
    ones = torch.ones(3, dtype=torch.float64)
    assert torch.equal(weights_of(balancer), ones)
    epochs(balancer, means[0])
    assert torch.equal(weights_of(balancer), ones)
    for before, last in pairwise(means):
        epochs(balancer, last)
        expected = dwa_weights(torch.tensor(last), torch.tensor(before), temperature=1.0)
        torch.testing.assert_close(weights_of(balancer).float(), expected)


def test_an_independent_implementation_agrees() -> None:
    ours, theirs = DWA(), scalarization.DWA()
    for epoch in range(5):
        for step in range(3):
            losses = random_losses(4, 10 * epoch + step, spread=1.0).requires_grad_()
            (expected,) = torch.autograd.grad(theirs(losses), losses)
            torch.testing.assert_close(weights_of(ours, (0, 1, 2, 3), 4), expected)
            ours.observe(seen(losses.detach()))
        ours.end_epoch()
        theirs.step()


def test_absent_tasks() -> None:
    """Means are over the steps a task was in; without two of them it has 1; the present sum to P."""
    balancer = DWA()
    epochs(balancer, [4.0, 1.0, NAN], [2.0, 1.0, 5.0])
    expected = dwa_weights(torch.tensor([2.0, 1.0]), torch.tensor([4.0, 1.0])).double()
    torch.testing.assert_close(weights_of(balancer)[:2], expected, atol=1e-6, rtol=0)
    assert float(weights_of(balancer)[2]) == pytest.approx(1)
    for places in [(0, 1), (0, 2), (1,)]:
        weights = weights_of(balancer, places)
        assert float(weights.sum()) == pytest.approx(len(places))
        proportions = weights / weights_of(balancer)[list(places)]
        torch.testing.assert_close(proportions, proportions[:1].expand(len(places)))
    epochs(balancer, [2.0, NAN, 5.0])
    assert float(weights_of(balancer)[1]) == pytest.approx(1)
    balancer.end_epoch()
    assert float(weights_of(balancer)[1]) == pytest.approx(1)  # an epoch without a step is none


def test_a_task_that_is_rarely_there_has_the_mean_of_its_own_steps() -> None:
    balancer = DWA()
    for loss in (1.0, 3.0):
        balancer.observe(seen(torch.tensor([loss]), (0,), 2))
    balancer.observe(seen(torch.tensor([5.0, 7.0]), (0, 1), 2))
    balancer.end_epoch()
    assert balancer.last.tolist() == [3.0, 7.0]


def test_a_loss_of_zero_has_no_rate_and_a_negative_one_is_named() -> None:
    balancer = DWA(tasks=["depth", "edges"])
    epochs(balancer, [1.0, 0.0], [1.0, 0.0])
    assert weights_of(balancer, (0, 1), 2).tolist() == [1, 1]
    with pytest.raises(ConfigurationError, match=r"needs positive ones, got .'depth': 1.0, 'edges': -2.0"):
        epochs(balancer, [1.0, -2.0])


def test_training_goes_on_where_it_was() -> None:
    whole = DWA()
    epochs(whole, [4.0, 1.0, 2.0], [1.0, 1.0, 3.0])
    whole.observe(seen(torch.tensor([0.5, 0.4, 9.0])))
    resumed = DWA()
    resumed.load_state_dict(whole.state_dict())
    for balancer in (whole, resumed):
        balancer.observe(seen(torch.tensor([1.5, 0.2, 1.0])))
    assert torch.equal(weights_of(resumed), weights_of(whole))
    whole.end_epoch()
    resumed.end_epoch()
    assert torch.equal(weights_of(resumed), weights_of(whole))
    assert set(weights_of(whole).tolist()) != {1.0}


def test_the_update() -> None:
    balancer = DWA(reduction="mean")
    epochs(balancer, [4.0, 1.0, 2.0], [1.0, 1.0, 3.0])
    torch.testing.assert_close(balancer.direction(torch.ones(3, 2)), torch.ones(2))
    assert DWA().direction(torch.tensor([[3.0, 4.0]])).tolist() == [3.0, 4.0]
    with pytest.raises(ConfigurationError, match="temperature of DWA must be above 0, got 0"):
        DWA(temperature=0)
