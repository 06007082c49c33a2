"""Matching, beside enumeration, dense assignment and what the geometry demands."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from plait.metrics.boundary.matching import (
    Candidates,
    augment,
    candidates,
    cheapest_matching,
    maximum_matching,
)


def every_row(pairs: Candidates) -> np.ndarray:
    return np.arange(len(pairs.starts) - 1)


def graph_of(predicted: np.ndarray, true: np.ndarray, max_distance: float) -> Candidates:
    height, width = predicted.shape
    return candidates(np.flatnonzero(predicted), np.flatnonzero(true), (height, width), max_distance)


def random_graph(seed: int, share: float, radius: float) -> tuple[Candidates, np.ndarray, np.ndarray]:
    """A graph of two random maps with a reach of so many pixels."""
    random = np.random.default_rng(seed)
    shape = random.integers(1, 13, 2)
    predicted, true = random.random((2, *shape)) < share
    return graph_of(predicted, true, radius / math.hypot(*shape)), predicted, true


def distances(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Between all pairs, ``[P, T]``."""
    first, second = np.argwhere(predicted), np.argwhere(true)
    return np.hypot(*(first[:, None] - second[None]).transpose(2, 0, 1))


def check(pairs: Candidates, partner: np.ndarray) -> int:
    """Raises unless it is a matching of candidates; its size."""
    matched = partner[partner >= 0]
    assert len(np.unique(matched)) == len(matched)
    for row, column in enumerate(partner):
        assert column == -1 or column in pairs.columns[pairs.starts[row] : pairs.starts[row + 1]]
    return len(matched)


def largest_by_enumeration(pairs: Candidates) -> int:
    """Tries every choice of every row."""

    @functools.cache
    def largest(row: int, taken: frozenset[int]) -> int:
        if row == len(pairs.starts) - 1:
            return 0
        best = largest(row + 1, taken)
        for column in pairs.columns[pairs.starts[row] : pairs.starts[row + 1]].tolist():
            if column not in taken:
                best = max(best, 1 + largest(row + 1, taken | {column}))
        return best

    return largest(0, frozenset())


def cost(pairs: Candidates, partner: np.ndarray) -> int:
    """What :func:`cheapest_matching` minimises."""
    total = 0
    for row, column in enumerate(partner):
        edges = slice(pairs.starts[row], pairs.starts[row + 1])
        found = pairs.weights[edges][pairs.columns[edges] == column]
        total += int(found[0]) if len(found) else pairs.unmatched
    return total


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), share=st.floats(0.1, 1), radius=st.floats(0.1, 6))
def test_candidates_are_the_pairs_in_reach_nearest_first(seed: int, share: float, radius: float) -> None:
    pairs, predicted, true = random_graph(seed, share, radius)
    apart = distances(predicted, true)
    for row, expected in enumerate(apart):
        edges = slice(pairs.starts[row], pairs.starts[row + 1])
        columns, weights = pairs.columns[edges], pairs.weights[edges]
        assert set(columns) == set(np.flatnonzero(expected <= radius))
        np.testing.assert_array_equal(weights, np.rint(100 * expected[columns]))
        assert (np.diff(weights) >= 0).all()


@pytest.mark.parametrize(("width", "near", "reached"), [(80, 0.0075, 0), (80, 0.011, 1)])
def test_the_reach_is_not_rounded(width: int, near: float, reached: int) -> None:
    pairs = candidates(np.array([5 * width + 5]), np.array([5 * width + 6]), (64, width), near)
    assert len(pairs.columns) == reached
    assert pairs.unmatched == math.ceil(1e4 * near * math.hypot(64, width))


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), radius=st.floats(0.5, 3))
def test_as_many_pixels_are_matched_as_enumeration_finds(seed: int, radius: float) -> None:
    random = np.random.default_rng(seed)
    predicted, true = (np.zeros((5, 5), dtype=bool) for _ in range(2))
    predicted.flat[random.choice(25, 7, replace=False)] = True
    true.flat[random.choice(25, 7, replace=False)] = True
    pairs = graph_of(predicted, true, radius / math.hypot(5, 5))
    partner = maximum_matching(pairs, every_row(pairs))
    assert check(pairs, partner) == largest_by_enumeration(pairs)
    interpreted = augment(pairs.starts, pairs.columns, pairs.true_pixels, every_row(pairs))
    np.testing.assert_array_equal(interpreted, partner)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), share=st.floats(0.1, 1), radius=st.floats(0.5, 6))
def test_the_cheapest_matching_costs_what_dense_assignment_costs(
    seed: int, share: float, radius: float
) -> None:
    pairs, predicted, true = random_graph(seed, share, radius)
    apart = distances(predicted, true)
    # A column a predicted pixel stands for no match; out of reach costs more than that ever could.
    dense = np.full((len(apart), len(apart) + apart.shape[1]), float(pairs.unmatched))
    dense[:, : apart.shape[1]] = np.where(apart <= radius, np.rint(100 * apart), 1e9)
    expected = dense[linear_sum_assignment(dense)].sum()
    partner = cheapest_matching(pairs, every_row(pairs), only_number=False)
    check(pairs, partner)
    assert cost(pairs, partner) == expected


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), share=st.floats(0.1, 0.9), radius=st.floats(0.5, 5))
def test_mirrored_and_transposed_maps_have_as_many_matches(seed: int, share: float, radius: float) -> None:
    pairs, predicted, true = random_graph(seed, share, radius)
    reach = radius / math.hypot(*predicted.shape)
    expected = (maximum_matching(pairs, every_row(pairs)) >= 0).sum()
    for turned in (np.fliplr, np.flipud, np.transpose):
        other = graph_of(turned(predicted), turned(true), reach)
        assert (maximum_matching(other, every_row(other)) >= 0).sum() == expected
    swapped = graph_of(true, predicted, reach)
    assert (maximum_matching(swapped, every_row(swapped)) >= 0).sum() == expected


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), radius=st.floats(0.5, 5))
def test_some_rows_of_a_graph_are_matched_as_in_a_graph_of_their_own(seed: int, radius: float) -> None:
    pairs, predicted, true = random_graph(seed, 0.5, radius)
    pixels = np.flatnonzero(predicted)
    rows = np.flatnonzero(np.random.default_rng(seed).random(len(pixels)) < 0.5)
    alone = candidates(
        pixels[rows], np.flatnonzero(true), predicted.shape, radius / math.hypot(*predicted.shape)
    )
    np.testing.assert_array_equal(maximum_matching(pairs, rows), maximum_matching(alone, every_row(alone)))
    for only_number in (False, True):
        np.testing.assert_array_equal(
            cheapest_matching(pairs, rows, only_number=only_number),
            cheapest_matching(alone, every_row(alone), only_number=only_number),
        )


def slid_line(length: int, slide: int) -> Candidates:
    """A straight line of so many pixels in a map of 100x400, slid along itself."""
    predicted, true = (np.zeros((100, 400), dtype=bool) for _ in range(2))
    true[50, :length] = True
    predicted[50, slide : length + slide] = True
    return graph_of(predicted, true, 0.0075)


def test_a_long_line_slid_along_itself_costs_less_with_its_ends_unmatched() -> None:
    pairs = slid_line(397, 3)
    assert check(pairs, maximum_matching(pairs, every_row(pairs))) == 397
    for only_number in (False, True):
        partner = cheapest_matching(pairs, every_row(pairs), only_number=only_number)
        assert check(pairs, partner) == 394
        assert cost(pairs, partner) == 3 * pairs.unmatched


def test_a_line_too_short_to_gain_from_it_keeps_every_match() -> None:
    pairs = slid_line(100, 3)
    for only_number in (False, True):
        partner = cheapest_matching(pairs, every_row(pairs), only_number=only_number)
        assert check(pairs, partner) == 100


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.6))
def test_leaving_out_parts_that_cannot_differ_changes_no_number(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    predicted, true = random.random((2, 20, 40)) < share
    pairs = graph_of(predicted, true, 1.5 / math.hypot(20, 40))
    numbers = [
        check(pairs, cheapest_matching(pairs, every_row(pairs), only_number=choice))
        for choice in (False, True)
    ]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize(("predicted", "true"), [(0, 0), (3, 0), (0, 3)])
def test_nothing_is_matched_with_nothing(predicted: int, true: int) -> None:
    pairs = candidates(np.arange(predicted), np.arange(true), (4, 4), 0.5)
    rows = every_row(pairs)
    assert (maximum_matching(pairs, rows) == np.full(predicted, -1)).all()
    for only_number in (False, True):
        assert (cheapest_matching(pairs, rows, only_number=only_number) == np.full(predicted, -1)).all()
