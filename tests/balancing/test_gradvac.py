"""GradVac: the vectors themselves, cosines that reach their targets, and targets that follow cosines."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.problems import jacobian, problems
from tests.balancing.properties import (
    FACTORS,
    assert_direction,
    assert_rotations_do_not_matter,
    assert_scales_with_the_gradients,
    assert_what_is_not_finite_stays_visible,
    assert_zero_rows_are_left_out,
    gramian,
    permutation,
    seen,
    size_of,
)
from torch import Tensor

from plait.balancing.gradvac import GradVac, gradvac_weights
from plait.balancing.pcgrad import PCGrad, pcgrad_weights
from plait.errors import ConfigurationError


def draws(tasks: int, seed: int = 0) -> Tensor:
    return torch.rand(tasks, tasks, generator=torch.Generator().manual_seed(seed))


def some_targets(tasks: int, seed: int = 0) -> Tensor:
    """Between -0.8 and 0.8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tasks, tasks, generator=generator, dtype=torch.float64) * 1.6 - 0.8


def by_vectors(rows: Tensor, targets: Tensor, draws: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The paper's algorithm 1 on vectors; a vector that has been projected to nothing is left alone."""
    turned, targets = rows.clone(), targets.clone()
    for i, order in enumerate(draws.argsort(dim=1).tolist()):
        for j in order:
            length, other = turned[i].norm(), rows[j].norm()
            if j == i or other == 0 or length <= 1e-6 * rows[i].norm():
                continue
            cosine = (turned[i] @ rows[j] / (length * other)).clamp(-1, 1)
            # sqrt(1 - cosine^2), without its rounding.
            sine = (turned[i] / length - cosine * rows[j] / other).norm()
            sine = sine if sine > 1e-6 else torch.zeros_like(sine)
            target = targets[i, j]
            root = (1 - target.square()).sqrt()
            if cosine < target:
                missing = length * (target * sine - cosine * root) / (other * root)
                turned[i] = turned[i] + missing * rows[j]
            targets[i, j] = (1 - beta) * target + beta * cosine
    return turned.sum(0), targets


@settings(max_examples=200, deadline=None)
@given(problems, st.integers(0, 100), st.sampled_from([0.0, 0.01, 0.5, 1.0]))
def test_it_is_the_algorithm_on_vectors(rows: Tensor, seed: int, beta: float) -> None:
    tasks = len(rows)
    targets, drawn = some_targets(tasks, seed), draws(tasks, seed)
    weights, moved = gradvac_weights(gramian(rows), targets, drawn, beta=beta)
    expected, expected_targets = by_vectors(rows, targets, drawn, beta)
    assert_direction(rows, weights, expected)
    torch.testing.assert_close(moved, expected_targets, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("target", [-0.5, 0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("cosine", [-0.9999, -0.6, 0.2])
def test_the_cosine_becomes_its_target(target: float, cosine: float) -> None:
    rows = torch.tensor([[cosine, (1 - cosine**2) ** 0.5], [1e4, 0.0]], dtype=torch.float64)
    # The second task is content with any cosine, so only the first is turned.
    targets = torch.tensor([[0.0, target], [-1.0, 0.0]], dtype=torch.float64)
    weights, moved = gradvac_weights(gramian(rows), targets, draws(2))
    turned = weights @ rows - rows[1]
    reached = float(turned @ rows[1] / turned.norm() / rows[1].norm())
    assert reached == pytest.approx(max(target, cosine), abs=1e-9)
    assert float(moved[0, 1]) == pytest.approx((target + cosine) / 2)


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100))
def test_targets_of_zero_are_pcgrad(rows: Tensor, seed: int) -> None:
    drawn = draws(len(rows), seed)
    weights, _ = gradvac_weights(gramian(rows), torch.zeros(len(rows), len(rows)), drawn)
    assert_direction(rows, weights, pcgrad_weights(gramian(rows), drawn) @ rows)
    torch.testing.assert_close(GradVac(seed=seed).direction(rows), PCGrad(seed=seed).direction(rows))


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100))
def test_targets_that_are_met_leave_the_plain_sum(rows: Tensor, seed: int) -> None:
    heard = rows.norm(dim=1) > 0
    low = torch.full((len(rows), len(rows)), -1.0, dtype=torch.float64)
    weights, moved = gradvac_weights(gramian(rows), low, draws(len(rows), seed), beta=1.0)
    assert (weights[heard] == 1).all()
    unit = torch.nn.functional.normalize(rows)
    expected = (unit @ unit.T)[heard][:, heard].fill_diagonal_(-1)
    torch.testing.assert_close(moved[heard][:, heard], expected, atol=1e-6, rtol=0)


def test_targets_are_running_means_of_cosines() -> None:
    """``c (1 - (1 - beta)^k)`` after k steps with the same cosine, which is never below that."""
    rule = GradVac(beta=0.1)
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    for step in range(1, 30):
        torch.testing.assert_close(rule.direction(rows), rows.sum(0))
        assert float(rule.targets[0, 1]) == pytest.approx(0.6 * (1 - 0.9**step))


def test_torchjd_agrees_over_steps() -> None:
    """With two tasks there is one order; its absolute epsilon is set to zero."""
    from torchjd.aggregation import GradVac as Theirs

    ours, theirs = GradVac(beta=0.3), Theirs(beta=0.3, eps=0.0)
    for seed in range(30):
        rows = jacobian("plain" if seed % 2 else "correlated", 2, seed)
        torch.testing.assert_close(ours.direction(rows), theirs(rows), rtol=1e-9, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100), st.sampled_from(FACTORS))
def test_invariances(rows: Tensor, seed: int, factor: float) -> None:
    tasks = len(rows)
    targets, drawn = some_targets(tasks, seed), draws(tasks, seed)
    weigh = lambda inner: gradvac_weights(inner, targets, drawn)[0]  # noqa: E731
    assert_scales_with_the_gradients(weigh, rows, factor)
    assert_rotations_do_not_matter(weigh, rows, seed)
    order = permutation(tasks, seed)
    again, moved = gradvac_weights(gramian(rows[order]), targets[order][:, order], drawn[order][:, order])
    assert_direction(rows, weigh(gramian(rows)), again @ rows[order])
    _, unordered = gradvac_weights(gramian(rows), targets, drawn)
    torch.testing.assert_close(moved, unordered[order][:, order], rtol=0, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(problems)
def test_float32_gradients_are_enough(rows: Tensor) -> None:
    rules = GradVac(), GradVac()
    for _ in range(2):
        exact = rules[0].direction(rows.float().double())
        rounded = rules[1].direction(rows.float())
        assert rounded.dtype == torch.float32
        assert float((rounded - exact).norm()) <= 1e-4 * size_of(rows, torch.ones(len(rows)))


def test_special_gradients() -> None:
    equal = torch.ones(4, 3, dtype=torch.float64)
    torch.testing.assert_close(GradVac().direction(equal), 4 * equal[0])
    assert GradVac().direction(equal[:1]).equal(equal[0])
    lengths = torch.tensor([1.0, 1e-4, 30.0], dtype=torch.float64)
    assert GradVac().direction(lengths.diag()).equal(lengths)


def test_what_was_projected_to_nothing_has_no_cosine() -> None:
    """Opposite gradients cancel; the pairs that come after keep their targets."""
    rows = torch.tensor([[1.0, 0.0], [-3.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    in_order = torch.arange(3.0).expand(3, 3)
    targets = torch.full((3, 3), -0.2, dtype=torch.float64)
    weights, moved = gradvac_weights(gramian(rows[:2]), torch.zeros(2, 2), draws(2))
    assert float((weights @ rows[:2]).norm()) < 1e-12
    weights, moved = gradvac_weights(gramian(rows), targets, in_order)
    assert weights.isfinite().all()
    assert moved[0].tolist() == pytest.approx([-0.2, -0.6, -0.2])
    assert moved[1].tolist() == pytest.approx([-0.6, -0.2, -0.2])


def test_a_target_of_one_cannot_be_reached() -> None:
    """Gradients that were always equal have it; then the pair is left alone, and the target comes down."""
    rule = GradVac()
    equal = torch.ones(2, 3, dtype=torch.float64)
    for _ in range(60):
        torch.testing.assert_close(rule.direction(equal), 2 * equal[0])
    assert float(rule.targets[0, 1]) == pytest.approx(1, abs=1e-12)
    apart = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(rule.direction(apart), apart.sum(0))
    assert float(rule.targets[0, 1]) == pytest.approx(0.5)
    assert float(rule.direction(apart).norm()) > 1.1 * 2**0.5


def test_tasks_without_gradient_keep_their_targets() -> None:
    rows = jacobian("conflicting", 2, 5)
    assert_zero_rows_are_left_out(
        lambda inner: gradvac_weights(inner, torch.zeros(inner.shape), draws(len(inner)))[0], rows
    )
    assert_what_is_not_finite_stays_visible(
        lambda inner: gradvac_weights(inner, torch.zeros(2, 2), draws(2))[0]
    )
    targets = some_targets(3)
    zeroed = torch.stack([rows[0], torch.zeros(12), rows[1]])
    _, moved = gradvac_weights(gramian(zeroed), targets, draws(3))
    assert moved[1].equal(targets[1])
    assert moved[:, 1].equal(targets[:, 1])
    assert moved[0, 2] != targets[0, 2]
    bad = torch.full((3, 3), torch.nan)
    assert gradvac_weights(bad, targets, draws(3))[1].equal(targets)


def test_an_absent_task_changes_neither_targets_nor_orders() -> None:
    for seed in range(10):
        rows = jacobian("conflicting", 4, seed)
        absent, zeroed = GradVac(seed=seed), GradVac(seed=seed)
        filled = torch.cat([rows[:1], torch.zeros(1, 12), rows[1:]])
        for _ in range(3):
            weights = absent.weights(seen(rows, places=(0, 2, 3, 4), total=5))
            torch.testing.assert_close(weights, zeroed.weights(seen(filled))[[0, 2, 3, 4]])
        torch.testing.assert_close(absent.targets, zeroed.targets)
        assert absent.targets[1].abs().max() == 0
        assert absent.targets[0, 2:].abs().min() > 0


def test_a_restored_rule_goes_on_as_the_saved_one_would_have() -> None:
    rule, fresh = GradVac(seed=7), GradVac()
    before = torch.get_rng_state()
    for seed in range(3):
        rule.direction(jacobian("plain", 4, seed))
    fresh.load_state_dict(rule.state_dict())
    for seed in range(3, 6):
        rows = jacobian("plain", 4, seed)
        assert fresh.direction(rows).equal(rule.direction(rows))
    assert fresh.targets.equal(rule.targets)
    assert torch.get_rng_state().equal(before)


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match=r"beta lies between 0 .* and 1 .*, got 1.5"):
        GradVac(beta=1.5)
    assert GradVac.natural == "sum"
    rule = GradVac()
    rule.direction(torch.eye(2))
    with pytest.raises(ConfigurationError, match="targets"):
        rule.direction(torch.eye(3))
