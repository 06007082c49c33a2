"""RLW: what it draws from, and that it draws the same again."""

from typing import get_args

import pytest
import torch
from scipy import stats
from tests.balancing.on_losses import unknowing
from torch import Tensor

from plait.balancing.rlw import RLW, Distribution, rlw_weights
from plait.errors import ConfigurationError

DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)


def drawn(distribution: Distribution, tasks: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.stack(
        [rlw_weights(tasks, distribution=distribution, generator=generator) for _ in range(count)]
    )


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("tasks", [1, 2, 5, 20])
def test_weights_are_on_the_simplex_and_equal_on_average(distribution: Distribution, tasks: int) -> None:
    weights = drawn(distribution, tasks, 1500)
    assert weights.dtype == torch.float64
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(1500, dtype=torch.float64))
    error = weights.std(0) / 1500**0.5
    assert ((weights.mean(0) - 1 / tasks).abs() <= 4.5 * error + 1e-12).all()


def test_of_one_task_it_is_plain_training() -> None:
    assert all(rlw_weights(1, distribution=distribution).tolist() == [1.0] for distribution in DISTRIBUTIONS)


def test_softmax_of_normal_numbers() -> None:
    """The log-ratio of two weights is the difference of two standard normal numbers."""
    ratios = drawn("normal", 2, 2000).log().diff(dim=1)[:, 0]
    assert stats.kstest(ratios.numpy(), stats.norm(scale=2**0.5).cdf).pvalue > 0.01


def test_softmax_of_uniform_numbers() -> None:
    """The log-ratio is triangular on [-1, 1]."""
    ratios = drawn("uniform", 2, 2000).log().diff(dim=1)[:, 0]
    assert stats.kstest(ratios.numpy(), stats.triang(0.5, loc=-1, scale=2).cdf).pvalue > 0.01


def test_dirichlet_is_uniform_on_the_simplex() -> None:
    """One coordinate of the Dirichlet distribution with all parameters 1 is Beta(1, T - 1)."""
    weights = drawn("dirichlet", 4, 2000)[:, 2]
    assert stats.kstest(weights.numpy(), stats.beta(1, 3).cdf).pvalue > 0.01


def test_bernoulli_takes_every_subset_but_the_empty_one() -> None:
    weights = drawn("bernoulli", 3, 3500)
    subsets, counts = torch.unique(weights > 0, dim=0, return_counts=True)
    assert len(subsets) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 0.01
    chosen = weights > 0
    expected = chosen / chosen.sum(1, keepdim=True)
    torch.testing.assert_close(weights, expected.double())


def test_constrained_bernoulli_takes_one_task() -> None:
    weights = drawn("constrained_bernoulli", 4, 2000)
    assert set(weights.flatten().tolist()) == {0.0, 1.0}
    assert stats.chisquare(weights.sum(0).numpy()).pvalue > 0.01


def test_draws_are_a_function_of_the_seed_and_the_step() -> None:
    first, second, other = RLW(seed=3), RLW(seed=3), RLW(seed=4)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for _ in range(3):
        weights = first.weights(unknowing((0, 1, 2), 3))
        assert torch.equal(weights, second.weights(unknowing((0, 1, 2), 3)))
        assert not torch.equal(weights, other.weights(unknowing((0, 1, 2), 3)))
    assert torch.equal(torch.get_rng_state(), state)
    resumed = RLW()
    resumed.load_state_dict(first.state_dict())
    for _ in range(3):
        expected = first.weights(unknowing((0, 2), 3))
        assert torch.equal(resumed.weights(unknowing((0, 2), 3)), expected)
    of_a_run = first.weights(unknowing((0, 1, 2), 3))
    first.reseed(7)
    second.reseed(7)
    weights = first.weights(unknowing((0, 1, 2), 3))
    assert torch.equal(weights, second.weights(unknowing((0, 1, 2), 3)))
    assert not torch.equal(weights, of_a_run)


def test_the_update() -> None:
    equal = torch.ones(3, 2, dtype=torch.float64)
    torch.testing.assert_close(RLW().direction(equal), equal[0])
    torch.testing.assert_close(RLW(reduction="sum").direction(equal), 3 * equal[0])


def test_distributions_are_known() -> None:
    with pytest.raises(ConfigurationError, match=r"one of normal, uniform, dirichlet, .* got 'gauss'"):
        RLW(distribution="gauss")  # type: ignore[arg-type]
