"""GLS: the gradient of the geometric mean, without over- or underflow."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.balancing.on_losses import gradient, positive, seen, shuffled
from torch import Tensor
from torchjd import scalarization

from plait.balancing.gls import GLS, gls_weights


def by_product(losses: Tensor) -> Tensor:
    return losses.prod() ** (1 / len(losses))


@given(positive)
def test_weights_are_the_gradient_of_the_root_of_the_product(losses: Tensor) -> None:
    torch.testing.assert_close(gls_weights(losses), gradient(by_product, losses))


@given(positive)
def test_an_independent_implementation_agrees(losses: Tensor) -> None:
    torch.testing.assert_close(gls_weights(losses), gradient(scalarization.GeometricMean(), losses))


@given(positive, st.integers(0, 100))
def test_preference_is_an_exponent(losses: Tensor, seed: int) -> None:
    given_ = torch.rand(len(losses), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares = given_ / given_.sum()
    expected = gradient(lambda x: (x**shares).prod(), losses)
    torch.testing.assert_close(gls_weights(losses, given_), expected)


def test_the_weights_that_are_right_and_those_that_are_reported_elsewhere() -> None:
    """LibMTL reports L_i / (T prod L), whose order is the opposite one."""
    losses = torch.tensor([2.0, 0.5, 0.1])
    weights = gls_weights(losses)
    torch.testing.assert_close(weights, torch.tensor([0.077, 0.309, 1.547]), atol=1e-3, rtol=0)
    reported = losses / (3 * losses.prod())
    torch.testing.assert_close(reported, torch.tensor([6.67, 1.67, 0.33]), atol=1e-2, rtol=0)


@given(positive, st.sampled_from([1e-6, 0.1, 1e6]))
def test_scaling_a_loss_scales_the_whole_update(losses: Tensor, factor: float) -> None:
    """Of the weighted losses all grow by the same ``factor^(1/T)``: the direction stays."""
    scaled = losses.clone()
    scaled[0] *= factor
    common = factor ** (1 / len(losses))
    torch.testing.assert_close(gls_weights(scaled) * scaled, common * gls_weights(losses) * losses)


@given(positive, st.integers(0, 100))
def test_order_does_not_matter(losses: Tensor, seed: int) -> None:
    order = shuffled(len(losses), seed)
    torch.testing.assert_close(gls_weights(losses[order]), gls_weights(losses)[order])


@given(positive)
def test_float32_is_enough(losses: Tensor) -> None:
    rounded = gls_weights(losses.float())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), gls_weights(losses), rtol=1e-5, atol=0)


def test_products_that_would_underflow() -> None:
    losses = torch.full((20,), 1e-30, dtype=torch.float64)
    assert losses.prod() == 0
    torch.testing.assert_close(gls_weights(losses), torch.full_like(losses, 1 / 20))


def test_losses_without_a_logarithm() -> None:
    losses = torch.tensor([0.5, 0.0, 8.0])
    weights = gls_weights(losses)
    assert weights[1] == 0
    torch.testing.assert_close(weights[[0, 2]], gls_weights(losses[[0, 2]]))
    assert gls_weights(torch.zeros(3)).tolist() == [0, 0, 0]
    assert gls_weights(torch.tensor([1.0, -1.0])).isnan().all()


def test_the_update() -> None:
    """Of one task it is plain training; of equal losses and gradients g it is g."""
    assert GLS().direction(torch.tensor([[3.0, 4.0]]), torch.tensor([7.0])).tolist() == [3.0, 4.0]
    equal, losses = torch.ones(4, 2), torch.full((4,), 0.3)
    torch.testing.assert_close(GLS().direction(equal, losses), torch.ones(2))
    torch.testing.assert_close(GLS(reduction="sum").direction(equal, losses), torch.full((2,), 4.0))


def test_absent_tasks_take_no_part() -> None:
    balancer = GLS(tasks=["a", "b", "c"], preference=[1.0, 5.0, 3.0])
    losses = torch.tensor([2.0, 3.0], dtype=torch.float64)
    expected = gls_weights(losses, torch.tensor([0.25, 0.75], dtype=torch.float64))
    torch.testing.assert_close(balancer.weights(seen(losses, (0, 2), 3)), expected)
