"""PCGrad: projections of the vectors themselves, closed forms, and where order matters."""

from itertools import permutations, product

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

from plait.balancing.pcgrad import PCGrad, pcgrad_weights


def draws(tasks: int, seed: int = 0) -> Tensor:
    return torch.rand(tasks, tasks, generator=torch.Generator().manual_seed(seed))


def by_projections(rows: Tensor, orders: list[list[int]]) -> Tensor:
    """Algorithm 1 of the paper, on vectors."""
    projected = rows.clone()
    for i, order in enumerate(orders):
        for j in order:
            product = projected[i] @ rows[j]
            if j != i and product < 0:
                projected[i] -= product / rows[j].square().sum() * rows[j]
    return projected.sum(0)


@settings(max_examples=200, deadline=None)
@given(problems, st.integers(0, 100))
def test_it_is_the_projection_of_the_vectors(rows: Tensor, seed: int) -> None:
    drawn = draws(len(rows), seed)
    weights = pcgrad_weights(gramian(rows), drawn)
    assert_direction(rows, weights, by_projections(rows, drawn.argsort(dim=1).tolist()))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.floats(-4, 4))
def test_two_tasks_in_closed_form(seed: int, exponent: float) -> None:
    rows = jacobian("conflicting", 2, seed, size=3)
    rows[0] *= 10**exponent
    inner = gramian(rows)
    expected = 1 - inner[0, 1].clamp(max=0) / inner.diagonal()
    weights = pcgrad_weights(inner, draws(2))
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0)
    slack = rows @ (weights @ rows) / rows.norm(dim=1)
    assert float(slack.min()) >= -1e-12 * size_of(rows, weights)


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100))
def test_weights_are_one_or_more_and_exactly_one_without_a_conflict(rows: Tensor, seed: int) -> None:
    heard = rows.norm(dim=1) > 0
    assert (pcgrad_weights(gramian(rows), draws(len(rows), seed))[heard] >= 1).all()
    assert (pcgrad_weights(gramian(rows.abs()), draws(len(rows), seed))[heard] == 1).all()


def test_the_order_decides_from_three_tasks_on_and_all_are_equally_likely() -> None:
    rows = jacobian("conflicting", 3, 1)
    orders = [[[j for j in order if j != i] for order in permutations(range(3))] for i in range(3)]
    outcomes = torch.stack([by_projections(rows, list(choice)) for choice in product(*orders)])
    distinct = outcomes.unique(dim=0)
    counts = torch.zeros(len(distinct))
    for seed in range(400):
        distances = (distinct - PCGrad(seed=seed).direction(rows)).norm(dim=1)
        assert float(distances.min()) < 1e-12
        counts[distances.argmin()] += 1
    likely = torch.tensor([(outcomes == one).all(1).sum() for one in distinct]) / len(outcomes)
    assert len(distinct) > 1
    assert float((counts / 400 - likely).abs().max()) < 0.08


def test_three_tasks_may_conflict() -> None:
    """What the paper does not promise: a projection can undo an earlier one."""
    problems_of_three = [jacobian("conflicting", 3, seed) for seed in range(20)]
    slacks = [float((rows @ PCGrad().direction(rows)).min()) for rows in problems_of_three]
    assert min(slacks) < -0.1
    assert max(slacks) > 0.1


def test_torchjd_draws_one_of_our_outcomes() -> None:
    from torchjd.aggregation import PCGrad as Theirs

    rows = jacobian("conflicting", 3, 4)
    ours = {tuple(round(x, 9) for x in PCGrad(seed=s).direction(rows).tolist()) for s in range(100)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = {tuple(round(x, 9) for x in Theirs()(rows).tolist()) for _ in range(100)}
    assert theirs == ours


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100), st.sampled_from(FACTORS))
def test_invariances(rows: Tensor, seed: int, factor: float) -> None:
    drawn = draws(len(rows), seed)
    weigh = lambda inner: pcgrad_weights(inner, drawn)  # noqa: E731
    assert_scales_with_the_gradients(weigh, rows, factor)
    assert_rotations_do_not_matter(weigh, rows, seed)
    order = permutation(len(rows), seed)
    reordered = pcgrad_weights(gramian(rows[order]), drawn[order][:, order])
    assert_direction(rows, weigh(gramian(rows)), reordered @ rows[order])


@settings(max_examples=50, deadline=None)
@given(problems)
def test_float32_gradients_are_enough(rows: Tensor) -> None:
    exact, rounded = PCGrad().direction(rows.float().double()), PCGrad().direction(rows.float())
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).norm()) <= 1e-4 * size_of(rows, torch.ones(len(rows)))


def test_special_gradients() -> None:
    equal = torch.ones(4, 3, dtype=torch.float64)
    torch.testing.assert_close(PCGrad().direction(equal), 4 * equal[0])
    assert PCGrad().direction(equal[:1]).equal(equal[0])
    lengths = torch.tensor([1.0, 1e-4, 30.0], dtype=torch.float64)
    assert PCGrad().direction(lengths.diag()).equal(lengths)
    opposite = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    assert PCGrad().direction(opposite).abs().max() < 1e-6


def test_a_task_without_gradient_is_left_out() -> None:
    rows = jacobian("conflicting", 2, 5)
    assert_zero_rows_are_left_out(lambda inner: pcgrad_weights(inner, draws(len(inner))), rows)
    assert_what_is_not_finite_stays_visible(lambda inner: pcgrad_weights(inner, draws(2)))


def test_an_absent_task_does_not_change_the_others_order() -> None:
    for seed in range(10):
        rows = jacobian("conflicting", 4, seed)
        zeroed = torch.cat([rows[:1], torch.zeros(1, 12), rows[1:]])
        present = PCGrad(seed=seed).weights(seen(rows, places=(0, 2, 3, 4), total=5))
        torch.testing.assert_close(present, PCGrad(seed=seed).weights(seen(zeroed))[[0, 2, 3, 4]])


def test_a_restored_rule_goes_on_as_the_saved_one_would_have() -> None:
    rows, rule, fresh = jacobian("conflicting", 5, 2), PCGrad(seed=7), PCGrad()
    before = torch.get_rng_state()
    first = [rule.direction(rows) for _ in range(3)]
    fresh.load_state_dict(rule.state_dict())
    for _ in range(3):
        assert fresh.direction(rows).equal(rule.direction(rows))
    again = PCGrad(seed=7)
    assert all(again.direction(rows).equal(old) for old in first)
    assert not first[0].allclose(first[1]) or not first[1].allclose(first[2])
    assert torch.get_rng_state().equal(before)


def test_a_mean_is_a_sum_divided_by_its_tasks() -> None:
    rows = torch.cat([jacobian("conflicting", 3, 2), torch.zeros(1, 12)])
    torch.testing.assert_close(PCGrad(reduction="mean").direction(rows), PCGrad().direction(rows) / 3)
    assert PCGrad.natural == "sum"
    assert PCGrad().heads == "own"


@pytest.mark.parametrize("tasks", [12, 20])
def test_many_tasks(tasks: int) -> None:
    rows = jacobian("conflicting", tasks, 0)
    drawn = draws(tasks)
    expected = by_projections(rows, drawn.argsort(dim=1).tolist())
    assert_direction(rows, pcgrad_weights(gramian(rows), drawn), expected)
