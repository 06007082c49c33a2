"""ConFIG: equal angles, closed forms, the pseudoinverse of the unit gradients, and where they depend."""

import math

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

from plait.balancing.config import ConFIG, config_weights
from plait.errors import ConfigurationError

INDEPENDENT = ("plain", "scaled", "conflicting", "correlated")


def from_the_jacobian(rows: Tensor) -> Tensor:
    """The authors' formula on the unit gradients themselves, ``pinv(U) 1``."""
    heard = rows[rows.norm(dim=1) > 0].numpy()
    units = heard / np.linalg.norm(heard, axis=1, keepdims=True)
    vector = np.linalg.pinv(units, rcond=1e-7) @ np.ones(len(heard))
    if np.linalg.norm(units @ vector) < 1e-6:
        return torch.zeros(rows.shape[1], dtype=torch.float64)
    vector /= np.linalg.norm(vector)
    return torch.from_numpy((heard @ vector).sum() * vector)


@settings(max_examples=300, deadline=None)
@given(problems)
def test_it_is_the_pseudoinverse_of_the_unit_gradients(rows: Tensor) -> None:
    assert_direction(rows, config_weights(gramian(rows)), from_the_jacobian(rows))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(INDEPENDENT), st.integers(2, 10), st.integers(0, 2**32))
def test_all_cosines_are_equal_and_positive(kind: str, tasks: int, seed: int) -> None:
    rows = jacobian(kind, tasks, seed)
    direction = config_weights(gramian(rows)) @ rows
    cosines = rows @ direction / rows.norm(dim=1) / direction.norm()
    assert float(cosines.min()) > 0
    # As far as weighted gradients that are far longer than their sum can say.
    torch.testing.assert_close(cosines, cosines.mean().expand(tasks), rtol=1e-6, atol=1e-9)
    assert float(direction.norm()) == pytest.approx(float((rows @ direction).sum() / direction.norm()))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.floats(-4, 4))
def test_two_tasks_are_bisected(seed: int, exponent: float) -> None:
    rows = jacobian("plain", 2, seed, size=3)
    rows[0] *= 10**exponent
    lengths = rows.norm(dim=1)
    units = rows / lengths[:, None]
    bisector = units.sum(0) / units.sum(0).norm()
    expected = (rows @ bisector).sum() * bisector
    assert_direction(rows, config_weights(gramian(rows)), expected, tolerance=1e-9)
    cosine = float(units[0] @ units[1])
    factors = lengths.sum() / (2 * lengths)
    torch.testing.assert_close(config_weights(gramian(rows)), factors, rtol=1e-9, atol=0)
    assert float((factors @ rows).norm()) == pytest.approx(float(lengths.sum()) * math.sqrt((1 + cosine) / 2))


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 2**32))
def test_the_direction_does_not_depend_on_lengths(rows: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    factors = 10 ** (torch.rand(len(rows), 1, generator=generator, dtype=torch.float64) * 4 - 2)
    first = config_weights(gramian(rows), length="max") @ rows
    other = config_weights(gramian(rows * factors), length="max") @ (rows * factors)
    if float(first.norm()) == 0:
        assert float(other.norm()) == 0
    else:
        torch.testing.assert_close(first / first.norm(), other / other.norm(), rtol=0, atol=1e-6)


def test_lengths() -> None:
    rows = torch.tensor([[2.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
    means = {"projections": 5.0, "min": 2.0, "max": 8.0, "mean": 5.0, "geometric": 4.0, "harmonic": 3.2}
    for name, mean in means.items():
        direction = ConFIG(length=name).direction(rows)  # type: ignore[arg-type]
        torch.testing.assert_close(direction, mean * torch.ones(2, dtype=torch.float64))
    equal = torch.ones(3, 2, dtype=torch.float64)
    for name in means:
        torch.testing.assert_close(ConFIG(length=name).direction(equal), 3 * equal[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_cosines_are_in_proportion_to_the_preference(kind: str) -> None:
    for seed in range(10):
        rows = jacobian(kind, 4, seed)
        rule = ConFIG(preference={"a": 1, "b": 2, "d": 1}, tasks="abcd")
        direction = rule.direction(rows)
        cosines = rows @ direction / rows.norm(dim=1)
        expected = torch.tensor([1.0, 2.0, 0.0, 1.0], dtype=torch.float64)
        scale = float(cosines.abs().max())
        torch.testing.assert_close(2 * cosines / scale, expected, rtol=0, atol=1e-5)
        assert ConFIG(preference=[5, 10, 0, 5]).direction(rows).allclose(direction, rtol=1e-9)
        absent = rule.weights(seen(rows[[0, 1, 3]], places=(0, 1, 3), total=4))
        other = ConFIG(preference=[1, 2, 1]).direction(rows[[0, 1, 3]])
        torch.testing.assert_close(absent @ rows[[0, 1, 3]], other)


@settings(max_examples=100, deadline=None)
@given(problems)
def test_the_sum_of_the_losses_never_increases(rows: Tensor) -> None:
    """Also where gradients depend on one another: d is the projection of the sum on a line."""
    weights = config_weights(gramian(rows))
    direction = weights @ rows
    slack = rows.sum(0) @ direction - direction.square().sum()
    assert abs(float(slack)) <= 1e-6 * size_of(rows, weights) * float(rows.norm(dim=1).sum())


def test_dependent_gradients_get_the_least_squares_compromise() -> None:
    """Three gradients in a plane whose unit vectors have no common angle: the third one is harmed."""
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -0.2]], dtype=torch.float64)
    direction = ConFIG().direction(rows)
    assert_direction(rows, config_weights(gramian(rows)), from_the_jacobian(rows), tolerance=1e-9)
    assert float(rows[2] @ direction) < 0
    same = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    cosines = same @ ConFIG().direction(same) / same.norm(dim=1)
    torch.testing.assert_close(cosines, cosines[:1].expand(3))


def test_the_direction_jumps_where_gradients_become_dependent() -> None:
    def unit(height: float) -> Tensor:
        rows = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.6, -0.8, height]], dtype=torch.float64)
        direction = ConFIG(length="mean").direction(rows)
        return direction / direction.norm()

    assert float(unit(1e-4)[2]) > 0.99
    assert float(unit(0.0)[2]) == 0


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_opposite_gradients_have_no_common_angle(scale: float) -> None:
    rows = scale * torch.tensor([[1.0, 2.0], [-3.0, -6.0]], dtype=torch.float64)
    assert config_weights(gramian(rows)).tolist() == [0, 0]
    around = scale * torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
    assert config_weights(gramian(around.double())).tolist() == [0, 0, 0]


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100), st.sampled_from(FACTORS))
def test_invariances(rows: Tensor, seed: int, factor: float) -> None:
    assert_order_does_not_matter(config_weights, rows, seed)
    assert_scales_with_the_gradients(config_weights, rows, factor)
    assert_rotations_do_not_matter(config_weights, rows, seed)


@settings(max_examples=100, deadline=None)
@given(problems)
def test_float32_gradients_are_enough(rows: Tensor) -> None:
    exact, rounded = ConFIG().direction(rows.float().double()), ConFIG().direction(rows.float())
    assert rounded.dtype == torch.float32
    weights = config_weights(gramian(rows.float().double()))
    assert float((rounded - exact).norm()) <= 1e-4 * size_of(rows, weights)


@pytest.mark.parametrize("kind", ["plain", "scaled", "conflicting", "correlated", "zero row"])
def test_torchjd_agrees_in_float64(kind: str) -> None:
    from torchjd.aggregation import ConFIG as Theirs

    for seed in range(20):
        rows = jacobian(kind, 2 + seed % 5, seed)
        assert_direction(rows, config_weights(gramian(rows)), Theirs()(rows))


def test_special_gradients() -> None:
    one = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(ConFIG().direction(one), one[0])
    lengths = torch.tensor([1.0, 1e-4, 30.0], dtype=torch.float64)
    expected = lengths.sum() / 3 * torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(ConFIG().direction(lengths.diag()), expected)


def test_a_task_without_gradient_is_left_out() -> None:
    assert_zero_rows_are_left_out(config_weights, jacobian("plain", 3, 5))
    assert_what_is_not_finite_stays_visible(config_weights)
    rows = jacobian("plain", 3, 5)
    absent = ConFIG().weights(seen(rows, places=(0, 2, 3), total=4))
    torch.testing.assert_close(absent, config_weights(gramian(rows)))


@pytest.mark.parametrize("kind", KINDS)
def test_many_tasks(kind: str) -> None:
    rows = jacobian(kind, 20, 0, size=30)
    assert_direction(rows, config_weights(gramian(rows)), from_the_jacobian(rows))


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match=r"length is one of projections, .*, got 'longest'"):
        ConFIG(length="longest")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="preference is finite, not negative"):
        ConFIG(preference=[1, -1])
    assert ConFIG.natural == "sum"
