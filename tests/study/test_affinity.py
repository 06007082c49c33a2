"""Affinity of tasks: against scipy and numpy, and what must not change it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from plait.errors import ConfigurationError
from plait.study.branching import affinity as module
from plait.study.branching.affinity import (
    dissimilarity,
    error_affinity,
    products,
    ranks,
    representation_affinity,
    spearman,
    standardised,
)


def random_features(images: int = 7, numbers: int = 40, seed: int = 0) -> Tensor:
    return torch.randn(images, numbers, generator=torch.Generator().manual_seed(seed)) + 3


def random_matrices(locations: int = 2, tasks: int = 4, images: int = 8) -> np.ndarray[Any, Any]:
    found = [
        [dissimilarity(random_features(images, seed=10 * place + task)) for task in range(tasks)]
        for place in range(locations)
    ]
    return np.array([[matrix.numpy() for matrix in row] for row in found])


def test_dissimilarity_is_one_minus_numpy_s_correlation() -> None:
    features = random_features().reshape(7, 4, 2, 5)
    expected = 1 - np.corrcoef(features.flatten(1).double().numpy())
    np.testing.assert_allclose(dissimilarity(features).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(dissimilarity(features.double()).numpy(), expected, atol=1e-12)


def test_features_far_from_zero_are_still_told_apart() -> None:
    features = random_features(numbers=1000) + 1000
    expected = 1 - np.corrcoef(features.double().numpy())
    np.testing.assert_allclose(dissimilarity(features).numpy(), expected, atol=1e-4)


def test_blocks_of_columns_and_of_rows_give_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = standardised(random_features(6, 100))
    whole = products(rows, rows)
    monkeypatch.setattr(module, "COLUMNS", 7)
    torch.testing.assert_close(products(rows, rows), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(products(rows[:2], rows[3:]), whole[:2, 3:], rtol=0, atol=1e-12)


def test_an_image_with_constant_features_is_like_no_other() -> None:
    features = random_features()
    features[2] = 5.0
    found = dissimilarity(features)
    assert found[2].tolist() == [1, 1, 0, 1, 1, 1, 1]
    assert found.isfinite().all()


@given(st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=4))
def test_ranks_are_scipy_s(rows: list[list[int]]) -> None:
    values = np.array(rows, dtype=float)
    np.testing.assert_array_equal(ranks(values), stats.rankdata(values, axis=1))


@pytest.mark.parametrize("digits", [6, 1])
def test_spearman_is_scipy_s_with_and_without_ties(digits: int) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 30)).round(digits)
    found = spearman(rows)
    np.testing.assert_allclose(found, stats.spearmanr(rows, axis=1).statistic, atol=1e-12)
    assert (found == found.T).all()
    assert (found.diagonal() == 1).all()


def test_representation_affinity_is_spearman_of_the_upper_triangles() -> None:
    matrices = random_matrices()
    found = representation_affinity(matrices)
    assert found.shape == (2, 4, 4)
    upper = np.triu_indices(8, 1)
    for place in range(2):
        for one in range(4):
            for other in range(4):
                expected = stats.spearmanr(matrices[place, one][upper], matrices[place, other][upper])
                assert found[place, one, other] == pytest.approx(expected.statistic, abs=1e-12)


def test_representation_affinity_is_symmetric_with_ones_and_within_bounds() -> None:
    found = representation_affinity(random_matrices())
    assert (found == found.transpose(0, 2, 1)).all()
    assert (found.diagonal(axis1=1, axis2=2) == 1).all()
    assert (np.abs(found) <= 1).all()


def of_features(features: Sequence[Tensor]) -> np.ndarray[Any, Any]:
    return representation_affinity(np.array([[dissimilarity(each).numpy() for each in features]]))


@given(st.floats(1e-2, 1e2), st.floats(-5, 5))
def test_scale_and_offset_of_features_do_not_matter(scale: float, offset: float) -> None:
    one, other = random_features().double(), random_features(seed=1).double()
    np.testing.assert_allclose(of_features([scale * one + offset, other]), of_features([one, other]))


def test_networks_that_see_the_same_are_alike_and_the_order_of_tasks_is_kept() -> None:
    one, other = random_features(), random_features(seed=1)
    found = of_features([one, other, one[:, torch.randperm(40)]])[0]
    assert found[0, 2] == pytest.approx(1)
    assert found[0, 1] == pytest.approx(found[2, 1])
    turned = of_features([other, one])[0]
    assert turned[0, 1] == found[0, 1]


def test_too_few_images_and_networks_that_see_no_difference_are_answered_in_a_sentence() -> None:
    with pytest.raises(ConfigurationError, match="at least 3 of them, got 2"):
        representation_affinity(random_matrices(images=2))
    with pytest.raises(ConfigurationError, match=r"network of task 1 .* every two are equally dissim"):
        of_features([random_features(), torch.ones(7, 3)])


def test_error_affinity_is_how_often_two_tasks_agree() -> None:
    margins = np.array([[0.0, 1.0, 5.0], [1.0, 0.0, 5.0], [4.0, 5.0, 5.0], [5.0, 4.0, 9.0]])
    # Hard: images 2 and 3 of the first two tasks, image 3 of the last.
    expected = [[1, 1, 0.75], [1, 1, 0.75], [0.75, 0.75, 1]]
    np.testing.assert_allclose(error_affinity(margins), expected)


def test_error_affinity_is_the_papers_formula_over_the_images_that_both_know() -> None:
    generator = np.random.default_rng(0)
    margins = generator.exponential(size=(40, 3))
    margins[generator.random((40, 3)) < 0.3] = np.nan
    found = error_affinity(margins)
    hard = np.where(np.isnan(margins), np.nan, margins >= np.nanmean(margins, axis=0))
    for one in range(3):
        for other in range(3):
            agree = hard[:, one] * hard[:, other] + (1 - hard[:, one]) * (1 - hard[:, other])
            assert found[one, other] == pytest.approx(np.nanmean(agree))


def test_a_sample_as_hard_as_the_mean_is_hard() -> None:
    assert error_affinity(np.array([[1.0, 0.0], [1.0, 2.0]])).tolist() == [[1, 0.5], [0.5, 1]]


def test_tasks_without_a_common_image_are_refused() -> None:
    margins = np.array([[1.0, np.nan], [np.nan, 1.0]])
    with pytest.raises(ConfigurationError, match="labelled for a and for b, found none in common"):
        error_affinity(margins, ["a", "b"])
