"""STCH: the gradient of a smooth maximum, its bounds and limits, and the form with a nadir."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.balancing.on_losses import epochs, gradient, positive, random_losses, seen, shuffled
from torch import Tensor
from torchjd import scalarization

from plait.balancing.log_sum import log_sum_weights
from plait.balancing.stch import STCH, stch_weights
from plait.errors import ConfigurationError

NAN = math.nan
smoothness = st.sampled_from([0.01, 0.1, 1.0, 30.0])


def smooth_maximum(losses: Tensor, mu: float, preference: Tensor, reference: Tensor) -> Tensor:
    return mu * (preference * (losses - reference) / mu).logsumexp(0)


@given(positive, smoothness, st.integers(0, 100))
def test_weights_are_the_gradient(losses: Tensor, mu: float, seed: int) -> None:
    preference, reference = random_losses(len(losses), seed), -random_losses(len(losses), seed + 1)
    weights = stch_weights(losses, mu=mu, preference=preference, reference=reference)
    expected = gradient(lambda x: smooth_maximum(x, mu, preference, reference), losses)
    torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-12)
    assert float((weights / preference).sum()) == pytest.approx(1, rel=1e-9)


@given(positive, smoothness, st.integers(0, 100))
def test_the_value_is_near_the_maximum(losses: Tensor, mu: float, seed: int) -> None:
    """``max <= STCH <= max + mu log T``, and so is the sum of weighted gaps below its value."""
    preference = random_losses(len(losses), seed, spread=1.0)
    value = float(smooth_maximum(losses, mu, preference, torch.zeros_like(losses)))
    largest = float((preference * losses).max())
    slack = 1e-9 * max(1.0, largest)
    assert largest - slack <= value <= largest + mu * math.log(len(losses)) + slack
    weighted = float(stch_weights(losses, mu=mu, preference=preference) @ losses)
    assert weighted <= largest + slack


@given(positive)
def test_limits(losses: Tensor) -> None:
    """A small mu leaves the largest gap alone; a large one gives the weighted sum."""
    count = len(losses)
    worst = torch.zeros_like(losses)
    worst[losses.argmax()] = 1 / count
    torch.testing.assert_close(stch_weights(losses, mu=1e-12), worst)
    torch.testing.assert_close(stch_weights(losses, mu=1e9), torch.full_like(losses, 1 / count**2))


@given(positive, smoothness)
def test_an_independent_implementation_agrees(losses: Tensor, mu: float) -> None:
    preference, reference = losses.flip(0) / losses.sum(), losses.flip(0) / 10
    for given_ in ({}, {"preference": preference, "reference": reference}):
        theirs = scalarization.STCH(mu, weights=given_.get("preference"), reference=given_.get("reference"))
        ours = stch_weights(losses, mu=mu, **given_)
        torch.testing.assert_close(ours, gradient(theirs, losses), rtol=1e-9, atol=1e-12)


@given(positive, st.integers(0, 100))
def test_order_and_precision_do_not_matter(losses: Tensor, seed: int) -> None:
    order = shuffled(len(losses), seed)
    weights = stch_weights(losses, mu=1.0)
    torch.testing.assert_close(stch_weights(losses[order], mu=1.0), weights[order])
    torch.testing.assert_close(stch_weights(losses.float(), mu=1.0).double(), weights, rtol=1e-3, atol=1e-6)


@given(positive, st.sampled_from([-1e3, 10.0]))
def test_a_common_shift_does_not_matter(losses: Tensor, shift: float) -> None:
    torch.testing.assert_close(
        stch_weights(losses + shift, mu=1.0), stch_weights(losses, mu=1.0), rtol=1e-6, atol=1e-12
    )


def test_exponents_that_would_overflow() -> None:
    losses = torch.tensor([1e6, 2e6, 2e6], dtype=torch.float64)
    torch.testing.assert_close(stch_weights(losses, mu=1e-3), torch.tensor([0, 1 / 6, 1 / 6]).double())


def test_the_paper_s_formula() -> None:
    rows, losses = torch.eye(3, dtype=torch.float64), random_losses(3, 7, spread=1.0)
    plain = STCH(warm_up_epochs=None, mu=0.5)
    torch.testing.assert_close(plain.direction(rows, losses), 3 * stch_weights(losses, mu=0.5))
    chosen = STCH(
        tasks=list("abc"),
        warm_up_epochs=None,
        mu=0.5,
        preference={"a": 2.0, "c": 6.0},
        reference={"c": 0.1},
    )
    preference, reference = torch.tensor([0.25, 0, 0.75]), torch.tensor([0, 0, 0.1])
    expected = 3 * stch_weights(losses, mu=0.5, preference=preference, reference=reference)
    torch.testing.assert_close(chosen.direction(rows, losses), expected)
    two = chosen.weights(seen(losses[1:], (1, 2), 3))
    expected = 2 * stch_weights(losses[1:], mu=0.5, preference=torch.eye(2)[1], reference=reference[1:])
    torch.testing.assert_close(two, expected)
    assert plain.direction(torch.tensor([[3.0, 4.0]]), torch.tensor([7.0])).tolist() == [3.0, 4.0]
    equal, level = torch.ones(3, 2), torch.full((3,), 0.4)
    torch.testing.assert_close(plain.direction(equal, level), torch.ones(2))


def authors_weights(losses: Tensor, nadir: Tensor, mu: float) -> Tensor:
    """The gradient of the objective in the authors' code for multi-task learning."""

    def objective(x: Tensor) -> Tensor:
        logs = (x / nadir).log()
        largest = logs.detach().max()
        return mu * ((logs - largest) / mu).exp().sum().log() * len(x)

    return gradient(objective, losses)


@pytest.mark.parametrize("mu", [0.2, 1.0, 5.0])
def test_the_form_with_a_nadir_is_the_authors_code(mu: float) -> None:
    balancer = STCH(mu=mu, warm_up_epochs=2, reduction="sum")
    rows = torch.eye(4, dtype=torch.float64)
    nadir = random_losses(4, 9)
    for mean in (random_losses(4, 1), random_losses(4, 2), nadir):
        losses = random_losses(4, 30)
        torch.testing.assert_close(balancer.direction(rows, losses), log_sum_weights(losses))
        epochs(balancer, mean.tolist())
    for seed in range(3):
        losses = random_losses(4, seed)
        torch.testing.assert_close(balancer.direction(rows, losses), authors_weights(losses, nadir, mu))
        epochs(balancer, losses.tolist())


def test_with_mu_one_it_is_the_logarithm_of_a_sum_of_ratios() -> None:
    balancer, nadir, losses = STCH(warm_up_epochs=0), random_losses(3, 1), random_losses(3, 2)
    epochs(balancer, nadir.tolist())
    expected = gradient(lambda x: (x / nadir).sum().log(), losses)
    torch.testing.assert_close(balancer.weights(seen(losses)), expected)


def test_the_scale_of_a_loss_does_not_matter() -> None:
    scale = torch.tensor([1e-4, 1.0, 1e5], dtype=torch.float64)
    plain, scaled = STCH(warm_up_epochs=1, mu=0.3), STCH(warm_up_epochs=1, mu=0.3)
    for seed in range(4):
        losses = random_losses(3, seed)
        ours = plain.weights(seen(losses)) * losses
        torch.testing.assert_close(scaled.weights(seen(scale * losses)) * scale * losses, ours)
        assert float(ours.sum()) == pytest.approx(1, rel=1e-9)
        epochs(plain, losses.tolist())
        epochs(scaled, (scale * losses).tolist())


def test_preference_with_a_nadir() -> None:
    balancer = STCH(warm_up_epochs=0, mu=0.5, preference=[3.0, 1.0])
    nadir, losses = random_losses(2, 1), random_losses(2, 2)
    preference = torch.tensor([1.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(balancer.weights(seen(losses)), preference / losses / 2)
    epochs(balancer, nadir.tolist())
    expected = gradient(lambda x: 0.5 * (preference * (x / nadir).log() / 0.5).logsumexp(0), losses)
    torch.testing.assert_close(balancer.weights(seen(losses)), expected)


def test_absent_tasks() -> None:
    """Without a nadir a task keeps its log-loss; its nadir is the mean of the first epoch it is in."""
    balancer = STCH(warm_up_epochs=0)
    epochs(balancer, [2.0, NAN, 4.0])
    losses = torch.tensor([1.0, 8.0, 6.0], dtype=torch.float64)
    weighted = balancer.weights(seen(losses)) * losses
    torch.testing.assert_close(weighted, torch.tensor([1 / 6, 1 / 3, 1 / 2]).double(), rtol=1e-6, atol=0)
    balancer.observe(seen(losses))
    balancer.end_epoch()
    assert balancer.nadir.tolist() == [2.0, 8.0, 4.0]
    two = balancer.weights(seen(losses[[0, 2]], (0, 2), 3)) * losses[[0, 2]]
    torch.testing.assert_close(two, torch.tensor([0.25, 0.75], dtype=torch.float64))


def test_losses_without_a_logarithm() -> None:
    balancer = STCH(warm_up_epochs=0)
    assert balancer.weights(seen(torch.tensor([0.0, 2.0]))).tolist() == [0, 0.25]
    epochs(balancer, [1.0, 1.0])
    assert balancer.weights(seen(torch.tensor([0.0, 2.0]))).tolist() == [0, 0.25]
    assert balancer.weights(seen(torch.tensor([0.0, 0.0]))).tolist() == [0, 0]
    assert balancer.weights(seen(torch.tensor([-1.0, 2.0]))).isnan().all()
    unwanted = STCH(warm_up_epochs=0, preference=[0.0, 1.0])
    epochs(unwanted, [1.0, 1.0])
    assert unwanted.weights(seen(torch.tensor([0.0, 2.0]))).tolist() == [0, 0.5]


def test_training_goes_on_where_it_was() -> None:
    whole = STCH(warm_up_epochs=1)
    epochs(whole, [1.0, 2.0])
    whole.observe(seen(torch.tensor([3.0, 1.0])))
    resumed = STCH(warm_up_epochs=1)
    resumed.load_state_dict(whole.state_dict())
    for balancer in (whole, resumed):
        epochs(balancer, [5.0, 0.2])
    losses = torch.tensor([1.0, 2.0])
    assert torch.equal(resumed.weights(seen(losses)), whole.weights(seen(losses)))
    assert torch.equal(resumed.nadir, whole.nadir)
    assert whole.nadir.tolist() == pytest.approx([13 / 3, 1.4 / 3])


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="mu of STCH must be above 0, got 0"):
        STCH(mu=0)
    with pytest.raises(ConfigurationError, match="warm_up_epochs is 0 or more, or null, got -1"):
        STCH(warm_up_epochs=-1)
    with pytest.raises(ConfigurationError, match="belongs to the paper's formula: pass warm_up_epochs=None"):
        STCH(tasks=["a"], reference={"a": 0.1})
    with pytest.raises(ConfigurationError, match="reference is given for 'd'; the tasks are a, b"):
        STCH(tasks=["a", "b"], warm_up_epochs=None, reference={"d": 0.1})
    with pytest.raises(ConfigurationError, match="reference of 'a' must be finite, got inf"):
        STCH(tasks=["a"], warm_up_epochs=None, reference={"a": math.inf})
