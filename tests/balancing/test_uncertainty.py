"""Uncertainty weighting: likelihoods, the fixed point, who learns, and a negative objective."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.on_losses import positive, random_losses, seen, shuffled
from tests.balancing.tiny import tiny_tasks
from torch import Tensor, nn
from torchjd import scalarization

from plait.balancing.uncertainty import TERMS, Uncertainty, uncertainty_slopes, uncertainty_weights
from plait.errors import ConfigurationError

KINDS = ("gaussian", "laplace", "classification")


def kinds_of(count: int) -> list[str]:
    return [KINDS[place % 3] for place in range(count)]


def objective(losses: Tensor, s: Tensor, likelihoods: list[str]) -> Tensor:
    terms = {
        "gaussian": lambda loss, log_noise: (-log_noise).exp() * loss / 2 + log_noise / 2,
        "laplace": lambda loss, log_noise: (-log_noise).exp() * loss + log_noise,
        "classification": lambda loss, log_noise: (-log_noise).exp() * loss + log_noise / 2,
    }
    return torch.stack([terms[kind](x, y) for kind, x, y in zip(likelihoods, losses, s, strict=True)]).sum()


@given(positive, st.integers(0, 100))
def test_weights_and_slopes_are_the_gradient_of_the_objective(losses: Tensor, seed: int) -> None:
    generator, kinds = torch.Generator().manual_seed(seed), kinds_of(len(losses))
    s = torch.randn(len(losses), generator=generator, dtype=torch.float64).requires_grad_()
    leaf = losses.clone().requires_grad_()
    by_losses, by_s = torch.autograd.grad(objective(leaf, s, kinds), [leaf, s])
    torch.testing.assert_close(uncertainty_weights(s.detach(), kinds), by_losses)  # type: ignore[arg-type]
    torch.testing.assert_close(uncertainty_slopes(losses, s.detach(), kinds), by_s)  # type: ignore[arg-type]


def test_terms_are_negative_log_densities() -> None:
    """Up to a constant: of a Gaussian for half a squared error, of a Laplace density for an absolute one."""
    error, s = torch.tensor([0.3, -1.7, 2.5]), torch.tensor(0.4)
    gaussian = -torch.distributions.Normal(0.0, (s / 2).exp()).log_prob(error).mean()
    laplace = -torch.distributions.Laplace(0.0, s.exp()).log_prob(error).mean()
    ours = objective(error.square().mean()[None], s[None], ["gaussian"])
    torch.testing.assert_close(ours + math.log(2 * math.pi) / 2, gaussian)
    torch.testing.assert_close(
        objective(error.abs().mean()[None], s[None], ["laplace"]) + math.log(2), laplace
    )


def test_one_minus_cosine_is_the_exponent_of_the_von_mises_fisher_density() -> None:
    """log(kappa / (4 pi sinh kappa)) + kappa cos: in s = -log kappa the Laplace form, as kappa grows."""
    kappa, cosine = torch.tensor([20.0, 0.9], dtype=torch.float64)
    log_density = kappa.log() - math.log(4 * math.pi) - kappa.sinh().log() + kappa * cosine
    ours = objective((1 - cosine)[None], -kappa.log()[None], ["laplace"])
    torch.testing.assert_close(ours + math.log(2 * math.pi), -log_density, rtol=1e-12, atol=0)


@given(positive)
def test_at_the_fixed_point_the_scale_of_a_loss_does_not_matter(losses: Tensor) -> None:
    """s is log L, log L and log 2L; the weighted losses are 1/2, 1 and 1/2."""
    kinds = kinds_of(len(losses))
    factors = torch.tensor([{"classification": 2.0}.get(kind, 1.0) for kind in kinds], dtype=torch.float64)
    s = (factors * losses).log()
    expected = torch.tensor([TERMS[kind][1] for kind in kinds], dtype=torch.float64)  # type: ignore[index]
    torch.testing.assert_close(uncertainty_weights(s, kinds) * losses, expected)  # type: ignore[arg-type]
    assert float(uncertainty_slopes(losses, s, kinds).abs().max()) < 1e-12  # type: ignore[arg-type]


@settings(max_examples=5)
@given(st.integers(0, 100))
def test_the_run_s_optimizer_finds_the_fixed_point(seed: int) -> None:
    losses = random_losses(3, seed, spread=2.0)
    balancer = Uncertainty(tasks=list("abc"), likelihoods=dict(zip("abc", KINDS, strict=True)))  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        weights = balancer.weights(seen(losses))
        optimizer.step()
    expected = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(weights * losses, expected, rtol=1e-4, atol=0)


def test_gradients_of_s_add_up_and_are_its_own() -> None:
    balancer, losses = Uncertainty(tasks=list("abc")), torch.tensor([4.0, 0.5, 1.0])
    balancer.weights(seen(losses))
    assert [float(s.grad) for s in balancer.s] == [-1.5, 0.25, 0.0]  # type: ignore[arg-type]
    balancer.weights(seen(losses))
    assert [float(s.grad) for s in balancer.s] == [-3.0, 0.5, 0.0]  # type: ignore[arg-type]


def test_an_absent_task_does_not_move_even_with_momentum() -> None:
    balancer = Uncertainty(tasks=list("abc"))
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.1)
    for places in [(0, 1, 2), (0, 2), (0, 2)]:
        optimizer.zero_grad()
        before = balancer.s[1].item()
        weights = balancer.weights(seen(torch.full((len(places),), 5.0), places, 3))
        optimizer.step()
        assert len(weights) == len(places)
    assert balancer.s[1].grad is None
    assert balancer.s[1].item() == before != 0


def test_an_independent_implementation_agrees() -> None:
    """TorchJD has the Gaussian form for every task."""
    theirs, ours = scalarization.UW(3), Uncertainty(tasks=list("abc"))
    optimizers = [torch.optim.Adam(rule.parameters(), lr=0.1) for rule in (theirs, ours)]
    for number in range(20):
        losses = random_losses(3, number).float().requires_grad_()
        for optimizer in optimizers:
            optimizer.zero_grad()
        theirs(losses).backward()
        torch.testing.assert_close(ours.weights(seen(losses.detach())).float(), losses.grad)
        for optimizer in optimizers:
            optimizer.step()


def test_the_objective_may_be_negative_and_training_goes_on() -> None:
    """At the optimum of a Gaussian task it is (1 + log L) / 2."""
    losses = torch.tensor([1e-4], dtype=torch.float64)
    s = losses.log()
    assert float(objective(losses, s, ["gaussian"])) == pytest.approx((1 + math.log(1e-4)) / 2)
    assert float(objective(losses, s, ["gaussian"])) < 0


@given(positive, st.integers(0, 100))
def test_order_and_precision_do_not_matter(s: Tensor, seed: int) -> None:
    kinds, order = kinds_of(len(s)), shuffled(len(s), seed)
    reordered = [kinds[place] for place in order.tolist()]
    weights = uncertainty_weights(s.log(), kinds)  # type: ignore[arg-type]
    assert torch.equal(uncertainty_weights(s.log()[order], reordered), weights[order])  # type: ignore[arg-type]
    rounded = uncertainty_weights(s.log().float(), kinds)  # type: ignore[arg-type]
    torch.testing.assert_close(rounded.double(), weights, rtol=1e-5, atol=0)


def test_tasks_say_their_likelihood() -> None:
    assert Uncertainty(tasks=tiny_tasks()).likelihoods == ("classification", "laplace", "laplace")
    chosen = Uncertainty(
        tasks=[*tiny_tasks(), "edges", "parts"], likelihoods={"depth": "gaussian", "parts": "laplace"}
    )
    assert chosen.likelihoods == ("classification", "gaussian", "laplace", "gaussian", "laplace")


def test_it_starts_where_it_is_told_and_goes_on_where_it_was() -> None:
    balancer = Uncertainty(tasks=list("ab"), initial=-0.5)
    torch.testing.assert_close(
        balancer.weights(seen(torch.ones(2))).float(), torch.full((2,), math.exp(0.5) / 2)
    )
    nn.init.constant_(balancer.s[1], 1.0)
    resumed = Uncertainty(tasks=list("ab"))
    resumed.load_state_dict(balancer.state_dict())
    assert [s.item() for s in resumed.s] == [-0.5, 1.0]


def test_the_update() -> None:
    rows, losses = torch.eye(2, 3, dtype=torch.float64), torch.ones(2)
    balancer = Uncertainty(tasks=list("ab"), likelihoods={"b": "laplace"})
    assert balancer.direction(rows, losses).tolist() == [0.5, 1.0, 0.0]


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="learns one number a task: pass tasks="):
        Uncertainty()
    with pytest.raises(ConfigurationError, match="given for 'd'; the tasks are a, b"):
        Uncertainty(tasks=list("ab"), likelihoods={"d": "laplace"})
    with pytest.raises(ConfigurationError, match="one of gaussian, laplace, classification, got 'l1'"):
        Uncertainty(tasks=list("ab"), likelihoods={"a": "l1"})  # type: ignore[dict-item]
