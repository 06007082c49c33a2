"""The sum of log-losses: its gradient, and that scales do not matter."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.balancing.on_losses import gradient, positive, seen, shuffled
from torch import Tensor

from plait.balancing.log_sum import LogSum, log_sum_weights
from plait.errors import ConfigurationError


@given(positive, st.integers(0, 100))
def test_weights_are_the_gradient(losses: Tensor, seed: int) -> None:
    preference = torch.rand(len(losses), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(log_sum_weights(losses), gradient(lambda x: x.log().sum(), losses))
    expected = gradient(lambda x: (preference * x.log()).sum(), losses)
    torch.testing.assert_close(log_sum_weights(losses, preference), expected)


@given(positive, st.sampled_from([1e-30, 1e-3, 1e3, 1e30]))
def test_the_scale_of_a_loss_does_not_matter(losses: Tensor, factor: float) -> None:
    """Its gradient is ``factor`` times as long, its weight that much smaller."""
    scaled = losses.clone()
    scaled[0] *= factor
    torch.testing.assert_close(log_sum_weights(scaled) * scaled, log_sum_weights(losses) * losses)


@given(positive, st.integers(0, 100))
def test_order_does_not_matter(losses: Tensor, seed: int) -> None:
    order = shuffled(len(losses), seed)
    assert torch.equal(log_sum_weights(losses[order]), log_sum_weights(losses)[order])


@given(positive)
def test_float32_is_enough(losses: Tensor) -> None:
    rounded = log_sum_weights(losses.float())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), log_sum_weights(losses), rtol=1e-6, atol=0)


def test_losses_without_a_logarithm() -> None:
    weights = log_sum_weights(torch.tensor([0.0, 2.0, -1.0]))
    assert weights[:2].tolist() == [0.0, 0.5]
    assert weights[2].isnan()
    assert log_sum_weights(torch.zeros(2)).tolist() == [0, 0]
    assert log_sum_weights(torch.tensor([0.0]), torch.tensor([0.0])).tolist() == [0]


def test_the_update() -> None:
    rows, losses = torch.eye(3, dtype=torch.float64), torch.tensor([0.5, 2.0, 4.0])
    assert LogSum().direction(rows, losses).tolist() == [2.0, 0.5, 0.25]
    assert LogSum(reduction="mean").direction(rows[:2], losses[:2]).tolist() == [1.0, 0.25, 0.0]
    equal = torch.ones(3, 2)
    assert LogSum().direction(equal, torch.ones(3)).tolist() == [3.0, 3.0]


def test_preference_is_scaled_to_mean_one_over_the_present() -> None:
    balancer = LogSum(tasks=["a", "b", "c"], preference={"a": 3.0, "b": 1.0, "c": 4.0})
    losses = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert balancer.weights(seen(losses, (0, 1), 3)).tolist() == [1.5, 0.25]
    same = LogSum(preference=[2.0, 2.0])
    assert torch.equal(same.weights(seen(losses)), LogSum().weights(seen(losses)))
    with pytest.raises(ConfigurationError, match=r"given for 'd'.*the tasks are a, b"):
        LogSum(tasks=["a", "b"], preference={"d": 1.0})
