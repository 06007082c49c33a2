"""Aligned-MTL: a condition number of one, the SVD of the Jacobian itself, and where the rank changes."""

from typing import Any

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

from plait.balancing.aligned_mtl import AlignedMTL, ScaleMode, aligned_mtl_weights
from plait.errors import ConfigurationError

INDEPENDENT = ("plain", "scaled", "conflicting", "correlated")
MODES: list[ScaleMode] = ["min", "median", "rmse"]


def from_the_jacobian(rows: Tensor, mode: str = "min") -> Tensor:
    """Algorithm 1 of the paper by the SVD of J, its rank taken at unit length."""
    heard = rows[rows.norm(dim=1) > 0].numpy()
    units = heard / np.linalg.norm(heard, axis=1, keepdims=True)
    singular = np.linalg.svd(units, compute_uv=False)
    rank = int((singular > 1e-7 * singular[0]).sum())
    left, values, right = (
        part[..., :rank] if number < 2 else part[:rank]
        for number, part in enumerate(np.linalg.svd(heard, full_matrices=False))
    )
    scale = {
        "min": values.min(),
        "median": float(torch.from_numpy(values).median()),
        "rmse": np.sqrt((values**2).mean()),
    }[mode]
    return torch.from_numpy(scale * right.T @ (left.T @ np.ones(len(heard))))


@settings(max_examples=300, deadline=None)
@given(problems, st.sampled_from(MODES))
def test_it_is_the_svd_of_the_jacobian(rows: Tensor, mode: ScaleMode) -> None:
    weights = aligned_mtl_weights(gramian(rows), scale_mode=mode)
    assert_direction(rows, weights, from_the_jacobian(rows, mode))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(INDEPENDENT), st.integers(2, 10), st.integers(0, 2**32))
def test_aligned_gradients_are_orthogonal_and_equally_long(kind: str, tasks: int, seed: int) -> None:
    """One preferred task gives its aligned gradient; together they have a condition number of one."""
    rows = jacobian(kind, tasks, seed)
    preferences = torch.eye(tasks, dtype=torch.float64)
    weights = torch.stack([aligned_mtl_weights(gramian(rows), preference=p) for p in preferences])
    aligned = weights @ rows / tasks
    least = torch.linalg.svdvals(rows)[-1]
    torch.testing.assert_close(aligned @ aligned.T / least**2, preferences, rtol=0, atol=1e-6)
    # The nearest such Jacobian: the polar factor.
    assert (torch.linalg.eigvalsh(aligned @ rows.T + rows @ aligned.T) > 0).all()


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.999, 0.999), st.integers(0, 100))
def test_two_tasks_in_closed_form(cosine: float, seed: int) -> None:
    """Unit gradients: equal weights, ``sqrt((1 - |c|) / (1 + c))``, so 1 where they conflict."""
    rows = torch.tensor([[1.0, 0.0], [cosine, (1 - cosine**2) ** 0.5]], dtype=torch.float64)
    expected = torch.full((2,), ((1 - abs(cosine)) / (1 + cosine)) ** 0.5, dtype=torch.float64)
    torch.testing.assert_close(aligned_mtl_weights(gramian(rows)), expected, rtol=1e-9, atol=0)


def test_equal_gradients_give_their_sum_and_nearly_equal_ones_almost_nothing() -> None:
    """The rank decides: a pair that is nearly dependent has a second component, which is very short."""
    equal = torch.ones(2, 3, dtype=torch.float64)
    torch.testing.assert_close(AlignedMTL().direction(equal), 2 * equal[0])
    nearly = equal + 1e-3 * torch.eye(2, 3)
    assert float(AlignedMTL().direction(nearly).norm()) < 2e-3
    rounding = equal + 1e-8 * torch.eye(2, 3)
    torch.testing.assert_close(AlignedMTL().direction(rounding), 2 * equal[0])


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_opposite_gradients_are_dependent(scale: float) -> None:
    rows = scale * torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    assert float(AlignedMTL().direction(rows).norm()) < 1e-12 * scale
    longer = rows * torch.tensor([[1.0], [3.0]])
    difference = AlignedMTL().direction(longer)
    torch.testing.assert_close(difference / scale, torch.tensor([-2.0, -4.0], dtype=torch.float64))


def test_the_update_may_conflict() -> None:
    slacks = [
        float((rows @ AlignedMTL().direction(rows)).min())
        for rows in (jacobian("conflicting", 4, seed, size=5) for seed in range(20))
    ]
    assert min(slacks) < 0


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100), st.sampled_from(FACTORS), st.sampled_from(MODES))
def test_invariances(rows: Tensor, seed: int, factor: float, mode: ScaleMode) -> None:
    weigh = lambda inner: aligned_mtl_weights(inner, scale_mode=mode)  # noqa: E731
    assert_order_does_not_matter(weigh, rows, seed)
    assert_scales_with_the_gradients(weigh, rows, factor)
    assert_rotations_do_not_matter(weigh, rows, seed)


@settings(max_examples=100, deadline=None)
@given(problems)
def test_float32_gradients_are_enough(rows: Tensor) -> None:
    exact, rounded = AlignedMTL().direction(rows.float().double()), AlignedMTL().direction(rows.float())
    assert rounded.dtype == torch.float32
    weights = aligned_mtl_weights(gramian(rows.float().double()))
    assert float((rounded - exact).norm()) <= 1e-4 * size_of(rows, weights)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["plain", "scaled", "conflicting", "correlated", "duplicate", "deficient"])
def test_torchjd_agrees_in_float64(kind: str, mode: ScaleMode) -> None:
    """Theirs is a mean, ours a sum."""
    from torchjd.aggregation import AlignedMTL as Theirs

    for seed in range(10):
        rows = jacobian(kind, 2 + seed % 4, seed)
        weights = aligned_mtl_weights(gramian(rows), scale_mode=mode)
        assert_direction(rows, weights, len(rows) * Theirs(scale_mode=mode)(rows))


def test_torchjd_loses_short_gradients_in_float32() -> None:
    """It takes the Gramian in the gradients' precision: 1e4 between lengths is 1e8 there."""
    from torchjd.aggregation import AlignedMTL as Theirs

    rows = jacobian("scaled", 3, 0)
    exact = from_the_jacobian(rows)
    ours, theirs = AlignedMTL().direction(rows.float()), 3 * Theirs()(rows.float())
    assert float((ours - exact).norm()) < 1e-4 * float(exact.norm())
    assert float((theirs - exact).norm()) > float(exact.norm())


def test_only_ratios_of_a_preference_matter() -> None:
    rows = jacobian("plain", 3, 1)
    plain = AlignedMTL().direction(rows)
    torch.testing.assert_close(AlignedMTL(preference=[7, 7, 7]).direction(rows), plain)
    options: dict[str, Any] = {"tasks": "abc", "preference": {"a": 1, "c": 3}}
    expected = aligned_mtl_weights(gramian(rows), preference=torch.tensor([0.75, 0.0, 2.25]))
    torch.testing.assert_close(AlignedMTL(**options).direction(rows), expected @ rows)
    equal = torch.ones(3, 2, dtype=torch.float64)
    torch.testing.assert_close(AlignedMTL(**options).direction(equal), 3 * equal[0])
    silent = torch.stack([rows[0], torch.zeros(12), rows[2]])
    left = AlignedMTL(preference=[1, 3]).direction(rows[[0, 2]])
    torch.testing.assert_close(AlignedMTL(preference=[1, 5, 3]).direction(silent), left)
    absent = AlignedMTL(preference=[1, 5, 3]).weights(seen(rows[[0, 2]], places=(0, 2), total=3))
    torch.testing.assert_close(absent @ rows[[0, 2]], left)


def test_special_gradients() -> None:
    one = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(AlignedMTL().direction(one), one[0])
    lengths = torch.tensor([1.0, 1e-4, 30.0], dtype=torch.float64)
    expected = 1e-4 * torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(AlignedMTL().direction(lengths.diag()), expected)
    torch.testing.assert_close(AlignedMTL(scale_mode="median").direction(lengths.diag()), 1e4 * expected)


def test_a_task_without_gradient_is_left_out() -> None:
    assert_zero_rows_are_left_out(aligned_mtl_weights, jacobian("plain", 3, 5))
    assert_what_is_not_finite_stays_visible(aligned_mtl_weights)
    assert AlignedMTL.natural == "sum"


@pytest.mark.parametrize("kind", KINDS)
def test_many_tasks(kind: str) -> None:
    rows = jacobian(kind, 20, 0, size=30)
    assert_direction(rows, aligned_mtl_weights(gramian(rows)), from_the_jacobian(rows))


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="scale_mode is min, median or rmse, got 'max'"):
        AlignedMTL(scale_mode="max")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="preference is given for 2 tasks, but there are 3"):
        AlignedMTL(preference=[1, 2]).direction(torch.eye(3))
    with pytest.raises(ConfigurationError, match="preference is given for 2 tasks, but there are 3"):
        AlignedMTL(preference=[1, 2], tasks=["a", "b", "c"])
