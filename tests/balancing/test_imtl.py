"""IMTL: equal projections (G), equal scaled losses (L), and where the first is undefined."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.problems import KINDS, jacobian, problems
from tests.balancing.properties import (
    FACTORS,
    assert_direction,
    assert_order_does_not_matter,
    assert_rotations_do_not_matter,
    assert_scales_with_the_gradients,
    assert_what_is_not_finite_stays_visible,
    assert_zero_rows_are_left_out,
    gramian,
    seen,
    size_of,
)
from torch import Tensor

from plait.balancing.base import Observation
from plait.balancing.imtl import IMTLG, IMTLL, imtl_g_weights, imtl_l_gradient, imtl_l_weights
from plait.errors import ConfigurationError

INDEPENDENT = ("plain", "scaled", "conflicting", "correlated")


def from_the_jacobian(rows: Tensor) -> Tensor:
    """``v / sum(x_i / n_i)`` with ``v = pinv(U) 1 = sum x_i u_i``, on the unit gradients themselves."""
    heard = rows[rows.norm(dim=1) > 0].numpy()
    lengths = np.linalg.norm(heard, axis=1)
    units = heard / lengths[:, None]
    inverse = np.linalg.pinv(units, rcond=1e-7)
    vector = inverse @ np.ones(len(heard))
    if np.linalg.norm(units @ vector) < 1e-6:
        return torch.zeros(rows.shape[1], dtype=torch.float64)
    return torch.from_numpy(vector / (inverse.T @ vector / lengths).sum())


def as_in_the_paper(rows: Tensor) -> Tensor:
    """``alpha_2..T = g_1 U^T (D U^T)^-1`` with D and U the differences to the first (unit) gradient."""
    units = rows / rows.norm(dim=1, keepdim=True)
    d, u = rows[0] - rows[1:], units[0] - units[1:]
    rest = rows[0] @ u.T @ torch.linalg.inv(d @ u.T)
    return torch.cat([1 - rest.sum(0, keepdim=True), rest])


@settings(max_examples=300, deadline=None)
@given(problems)
def test_it_is_the_pseudoinverse_of_the_unit_gradients(rows: Tensor) -> None:
    assert_direction(rows, imtl_g_weights(gramian(rows)), from_the_jacobian(rows))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(INDEPENDENT), st.integers(2, 10), st.integers(0, 2**32))
def test_projections_on_unit_gradients_are_equal(kind: str, tasks: int, seed: int) -> None:
    rows = jacobian(kind, tasks, seed)
    weights = imtl_g_weights(gramian(rows))
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12 * float(weights.abs().sum()))
    projections = rows @ (weights @ rows) / rows.norm(dim=1)
    assert float(projections.max() - projections.min()) <= 1e-6 * size_of(rows, weights)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["plain", "conflicting"]), st.integers(2, 6), st.integers(0, 2**32))
def test_the_paper_s_form_agrees(kind: str, tasks: int, seed: int) -> None:
    rows = jacobian(kind, tasks, seed)
    assert_direction(rows, imtl_g_weights(gramian(rows)), as_in_the_paper(rows) @ rows)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.floats(-4, 4))
def test_two_tasks_in_closed_form(seed: int, exponent: float) -> None:
    rows = jacobian("plain", 2, seed, size=3)
    rows[0] *= 10**exponent
    lengths = rows.norm(dim=1)
    expected = lengths.flip(0) / lengths.sum()
    torch.testing.assert_close(imtl_g_weights(gramian(rows)), expected, rtol=1e-9, atol=0)


def test_equal_directions_are_the_limit_of_different_ones() -> None:
    """TorchJD weighs ``pinv(G) n``: equal directions of different length jump there, and not here."""
    from torchjd import aggregation

    limit, equal = (torch.tensor([[1.0, x], [2.0, 0.0]], dtype=torch.float64) for x in (1e-4, 0.0))
    expected = torch.tensor([4 / 3, 0.0], dtype=torch.float64)
    torch.testing.assert_close(IMTLG().direction(limit), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(IMTLG().direction(equal), expected)
    torch.testing.assert_close(aggregation.IMTLG()(limit), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(aggregation.IMTLG()(equal), torch.tensor([5 / 3, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_torchjd_agrees_in_float64_on_independent_gradients(kind: str) -> None:
    from torchjd import aggregation

    for seed in range(20):
        rows = jacobian(kind, 2 + seed % 4, seed)
        assert_direction(rows, imtl_g_weights(gramian(rows)), aggregation.IMTLG()(rows))


def bent(length: float) -> Tensor:
    """Two orthogonal unit gradients, and a third of some length that almost lies between them."""
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.6, 0.1]], dtype=torch.float64)
    rows[2] *= length / rows[2].norm()
    return rows


def test_the_common_projection_may_be_negative() -> None:
    """Weights sum to 1, whatever becomes of their sign: every loss increases, as in the paper's form."""
    for length, sign in ((10.0, 1.0), (0.1, -1.0)):
        rows = bent(length)
        weights = imtl_g_weights(gramian(rows))
        assert_direction(rows, weights, as_in_the_paper(rows) @ rows)
        assert float(weights.sum()) == pytest.approx(1)
        assert (rows @ (weights @ rows)).sign().tolist() == [sign] * 3


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_weights_without_a_sum_are_zero(scale: float) -> None:
    """Between the two cases above, no weights with sum 1 have equal projections."""
    factors = torch.linalg.solve(gramian(bent(1.0)), torch.ones(3, dtype=torch.float64))
    vanishing = bent(float(-factors[2] / factors[:2].sum()))
    assert imtl_g_weights(gramian(scale * vanishing)).tolist() == [0, 0, 0]
    near = bent(1.0001 * float(-factors[2] / factors[:2].sum()))
    assert float(imtl_g_weights(gramian(scale * near)).abs().max()) > 1e3


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_opposite_gradients_have_no_common_projection(scale: float) -> None:
    rows = scale * torch.tensor([[1.0, 2.0], [-3.0, -6.0]], dtype=torch.float64)
    assert imtl_g_weights(gramian(rows)).tolist() == [0, 0]
    limit = torch.tensor([[1.0, 2.0], [-3.0, -5.9999]], dtype=torch.float64)
    assert float(IMTLG().direction(limit).norm()) < 1e-4


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100), st.sampled_from(FACTORS))
def test_invariances(rows: Tensor, seed: int, factor: float) -> None:
    assert_order_does_not_matter(imtl_g_weights, rows, seed)
    assert_scales_with_the_gradients(imtl_g_weights, rows, factor)
    assert_rotations_do_not_matter(imtl_g_weights, rows, seed)


@settings(max_examples=100, deadline=None)
@given(problems)
def test_float32_gradients_are_enough(rows: Tensor) -> None:
    exact, rounded = IMTLG().direction(rows.float().double()), IMTLG().direction(rows.float())
    assert rounded.dtype == torch.float32
    weights = imtl_g_weights(gramian(rows.float().double()))
    assert float((rounded - exact).norm()) <= 1e-4 * size_of(rows, weights)


def test_special_gradients() -> None:
    equal = torch.ones(4, 3, dtype=torch.float64)
    torch.testing.assert_close(imtl_g_weights(gramian(equal)), torch.full((4,), 0.25).double())
    torch.testing.assert_close(IMTLG().direction(equal), equal[0])
    torch.testing.assert_close(IMTLG(reduction="sum").direction(equal), 4 * equal[0])
    torch.testing.assert_close(IMTLG().direction(equal[:1]), equal[0])
    lengths = torch.tensor([1.0, 1e-4, 30.0], dtype=torch.float64)
    expected = (1 / lengths) / (1 / lengths).sum()
    torch.testing.assert_close(imtl_g_weights(lengths.square().diag()), expected)


def test_a_task_without_gradient_is_left_out() -> None:
    assert_zero_rows_are_left_out(imtl_g_weights, jacobian("plain", 3, 5))
    assert_what_is_not_finite_stays_visible(imtl_g_weights)
    rows = jacobian("plain", 3, 5)
    absent = IMTLG().weights(seen(rows, places=(0, 2, 3), total=4))
    torch.testing.assert_close(absent, imtl_g_weights(gramian(rows)))
    assert IMTLG.natural == "mean"


@pytest.mark.parametrize("kind", KINDS)
def test_many_tasks(kind: str) -> None:
    rows = jacobian(kind, 20, 0, size=30)
    assert_direction(rows, imtl_g_weights(gramian(rows)), from_the_jacobian(rows))


# IMTL-L


def losses_seen(losses: Tensor, places: tuple[int, ...], total: int) -> Observation:
    return Observation(places, total, losses.double())


def test_the_gradient_is_that_of_the_objective() -> None:
    losses = torch.tensor([0.3, 4.0, 200.0], dtype=torch.float64)
    s = torch.tensor([0.1, -2.0, 1.0], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad((s.exp() * losses - s).sum(), s)
    torch.testing.assert_close(imtl_l_gradient(losses, s.detach()), expected)
    torch.testing.assert_close(imtl_l_weights(losses, s.detach()), s.detach().exp())


def test_torchjd_has_the_same_objective() -> None:
    from torchjd import scalarization

    theirs, ours = scalarization.IMTLL(shape=3), IMTLL(tasks="abc")
    losses = torch.tensor([0.3, 4.0, 200.0], requires_grad=True)
    theirs(losses).backward()
    weights = ours.weights(losses_seen(losses.detach(), (0, 1, 2), 3))
    assert losses.grad is not None
    torch.testing.assert_close(weights.float(), losses.grad)
    (parameter,) = theirs.parameters()
    torch.testing.assert_close(ours.s.grad, parameter.grad)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_weighted_losses_go_to_one_in_any_unit(unit: float) -> None:
    rule = IMTLL(tasks="ab")
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.05, betas=(0.9, 0.9))
    losses = unit * torch.tensor([0.5, 8.0])
    for _ in range(400):
        optimizer.zero_grad()
        weights = rule.weights(losses_seen(losses, (0, 1), 2))
        optimizer.step()
    torch.testing.assert_close(weights.float() * losses, torch.ones(2), rtol=1e-2, atol=0)


def test_it_starts_as_the_plain_sum() -> None:
    rows, losses = jacobian("plain", 2, 0), torch.tensor([0.5, 8.0])
    torch.testing.assert_close(IMTLL(tasks="ab").direction(rows, losses), rows.sum(0))


def test_it_is_twice_uncertainty_weighting_at_minus_s() -> None:
    losses = torch.tensor([0.5, 8.0], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    log_variance = -s
    uncertainty = (torch.exp(-log_variance) * losses / 2 + log_variance / 2).sum()
    by_loss, by_s = torch.autograd.grad(2 * uncertainty, [losses, s])
    torch.testing.assert_close(imtl_l_weights(losses, s), by_loss)
    torch.testing.assert_close(imtl_l_gradient(losses, s), by_s)


def test_a_gradient_is_added_to_what_is_there_and_absent_tasks_have_none() -> None:
    rule = IMTLL(tasks="abc")
    rule.s.grad = torch.ones(3)
    rule.weights(losses_seen(torch.tensor([3.0, 5.0]), (0, 2), 3))
    assert rule.s.grad.tolist() == [3.0, 1.0, 5.0]
    assert rule.weights(losses_seen(torch.tensor([3.0]), (1,), 3)).tolist() == [1.0]


def test_losses_that_are_not_positive() -> None:
    losses, s = torch.tensor([0.0, 2.0, -1.0]), torch.zeros(3)
    weights, gradient = imtl_l_weights(losses, s), imtl_l_gradient(losses, s)
    assert weights[:2].tolist() == [0, 1]
    assert gradient[:2].tolist() == [0, 1]
    assert weights[2].isnan()
    assert imtl_l_weights(torch.tensor([torch.nan]), s[:1]).isnan().all()


def test_factors_are_saved() -> None:
    rule, fresh = IMTLL(tasks="ab"), IMTLL(tasks="ab")
    with torch.no_grad():
        rule.s.copy_(torch.tensor([1.0, -2.0]))
    fresh.load_state_dict(rule.state_dict())
    assert fresh.s.equal(rule.s)


def test_it_trains_in_a_plain_loop() -> None:
    """The main optimizer steps the factors along with the network."""
    torch.manual_seed(0)
    trunk, heads = torch.nn.Linear(4, 8), torch.nn.ModuleDict({t: torch.nn.Linear(8, 1) for t in "ab"})
    rule = IMTLL(tasks="ab")
    parameters = [*trunk.parameters(), *heads.parameters(), *rule.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    inputs = torch.randn(16, 4)
    for _ in range(3):
        optimizer.zero_grad()
        z = trunk(inputs)
        losses = {"a": heads["a"](z).square().mean(), "b": (heads["b"](z) - 100).square().mean()}
        scales = rule.s.detach().clone()
        expected = torch.autograd.grad(
            sum(scale.exp() * loss for scale, loss in zip(scales, losses.values(), strict=True)),
            trunk.weight,
            retain_graph=True,
        )[0]
        report = rule.backward(losses, parameters=trunk.parameters())
        torch.testing.assert_close(trunk.weight.grad, expected)
        torch.testing.assert_close(report.weights.float(), scales.exp())
        optimizer.step()
    assert float(rule.s[1].detach()) < float(rule.s[0].detach())


def test_it_needs_tasks_and_losses() -> None:
    with pytest.raises(
        ConfigurationError, match=r"IMTLL learns one factor a task, got no tasks: pass tasks="
    ):
        IMTLL()
    with pytest.raises(ConfigurationError, match="pass direction"):
        IMTLL(tasks="ab").direction(torch.eye(2))
    assert IMTLL.needs.parameters
    assert IMTLL(tasks="ab").heads == "weighted"
