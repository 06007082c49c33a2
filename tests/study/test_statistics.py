"""Variances, tests, corrections and ranks: exact small cases, independent references, and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from plait.study.behrens_fisher import half_width, tail
from plait.study.ranks import cliques, critical_difference, friedman, front, mean_ranks
from plait.study.statistics import Values, holm, image_weights, interval, paired, parts


def crossed(
    seeds: float, images: float, both: float, *, arms: int = 2, repetitions: int = 1, seed: int = 0
) -> Values:
    """Scores of single images ``[repetitions, K, 3, 80]`` without a difference between arms.

    The three numbers are what seeds, images and their interaction add to the variance of an arm's mean.
    """
    random = np.random.default_rng(seed)
    parts_ = (
        (seeds * 3, (repetitions, arms, 3, 1)),
        (images * 80, (repetitions, arms, 1, 80)),
        (both * 240, (repetitions, arms, 3, 80)),
    )
    return sum((math.sqrt(size) * random.normal(size=shape) for size, shape in parts_), np.zeros(()))


def pooled(images: Values, weights: Values) -> tuple[Values, Values]:
    """Means over images ``[..., S]``, and over resampled images ``[..., S, R]``."""
    return images.mean(-1), images @ (weights.T / images.shape[-1])


def test_a_replicate_is_a_sample_of_the_images_and_a_seed_gives_the_same_ones() -> None:
    weights = image_weights(7, replicates=500, seed=3)
    np.testing.assert_allclose(weights.sum(1), 7)
    draws = weights * 6 / 7
    np.testing.assert_allclose(draws, draws.round())
    assert (weights >= 0).all()
    np.testing.assert_array_equal(weights, image_weights(7, replicates=500, seed=3))
    assert (weights != image_weights(7, replicates=500, seed=4)).any()


def test_the_variance_of_a_mean_over_replicates_is_unbiased() -> None:
    """Of four images the plain bootstrap's is a quarter too small."""
    values = np.array([1.0, 2.0, 4.0, 9.0])
    found = (image_weights(4, replicates=200_000) @ values / 4).var()
    assert found == pytest.approx(values.var(ddof=1) / 4, rel=0.01)
    plain = stats.bootstrap((values,), np.mean, n_resamples=50_000, method="basic", rng=0).standard_error
    assert plain**2 == pytest.approx(0.75 * found, rel=0.03)


def test_the_parts_are_those_of_the_analysis_of_variance() -> None:
    """Mean squares of a table of seeds and images without repetitions."""
    (table,) = crossed(1.0, 2.0, 0.5, repetitions=1)[:, 0]
    seeds, images = table.shape
    mean, of_seeds, of_images = table.mean(), table.mean(1), table.mean(0)
    rest = table - of_seeds[:, None] - of_images + mean
    interaction = (rest**2).sum() / (seeds - 1) / (images - 1)
    found = parts(*pooled(table, image_weights(images, replicates=40_000)))
    assert found.mean == pytest.approx(mean)
    assert found.seeds == pytest.approx(of_seeds.var(ddof=1) / seeds)
    assert found.images is not None
    assert found.images == pytest.approx((of_images.var(ddof=1) - interaction / seeds) / images, rel=0.05)


def test_interaction_counts_once_and_no_variance_is_negative() -> None:
    weights = image_weights(80, replicates=400)
    found = [parts(*pooled(table[0], weights)) for table in crossed(0, 0, 1.0, repetitions=300)]
    images = np.array([one.images for one in found])
    assert (images >= 0).all()
    assert np.mean([one.seeds for one in found]) == pytest.approx(1.0, rel=0.15)
    assert images.mean() < 0.2


def test_a_seed_that_is_not_there_is_as_if_it_never_was() -> None:
    values, replicates = pooled(crossed(1, 1, 1)[0, 0], image_weights(80, replicates=50))
    with_hole, without = replicates.copy(), replicates[[0, 2]]
    with_hole[1] = math.nan
    seen = np.array([True, False, True])
    found, expected = parts(values, with_hole, seen), parts(values[[0, 2]], without)
    for name in ("mean", "count", "seeds", "images"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name))


def test_what_is_nan_stays_nan() -> None:
    values, replicates = pooled(crossed(1, 1, 1)[0, 0], image_weights(80, replicates=50))
    values[1], replicates[1] = math.nan, math.nan
    found = parts(values, replicates)
    assert math.isnan(found.mean)
    assert math.isnan(interval(found, 80))


def test_without_images_an_interval_is_student_s() -> None:
    values = np.array([1.0, 2.0, 4.0])
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert interval(parts(values), 0) == pytest.approx((high - low) / 2)


def test_with_one_seed_an_interval_is_over_images_only_and_without_them_there_is_none() -> None:
    scores = np.random.default_rng(0).normal(size=80)
    values, replicates = pooled(scores[None], image_weights(80, replicates=20_000))
    expected = stats.t.isf(0.025, 79) * stats.sem(scores)
    assert interval(parts(values, replicates), 80) == pytest.approx(expected, rel=0.02)
    assert math.isnan(interval(parts(values), 0))


def by_integration(distance: float, a: float, b: float, df: tuple[float, float]) -> float:
    """P(|a T + b U| >= d), one integral after the other."""

    def density(t: float) -> float:
        return float(stats.t.pdf(t, df[0]) * stats.t.sf((distance - a * t) / b, df[1]))

    cuts = [-np.inf, -10, 0, distance / a, np.inf]
    return 2 * sum(integrate.quad(density, *ends, limit=400)[0] for ends in itertools.pairwise(cuts))


@pytest.mark.parametrize("df", [(2.0, 79.0), (18.0, 79.0), (1.0, 4.0)])
@pytest.mark.parametrize("angle", [0.3, 0.785, 1.3])
@pytest.mark.parametrize("distance", [0.5, 2.0, 5.0, 10.0])
def test_the_tail_of_two_t_distributions_is_their_integral(
    df: tuple[float, float], angle: float, distance: float
) -> None:
    a, b = math.cos(angle), math.sin(angle)
    found = tail(np.array(distance), np.array(a), np.array(b), df).item()
    assert found == pytest.approx(by_integration(distance, a, b, df), rel=0.03)
    assert tail(np.array(distance), np.array(b), np.array(a), df[::-1]).item() == pytest.approx(found)


def test_of_one_part_alone_it_is_student_s() -> None:
    for a, b, df in ((1.0, 0.0, 2), (0.0, 1.0, 79)):
        found = tail(np.array([1.0, 4.0, 9.0]), np.array(a), np.array(b), (2.0, 79.0))
        np.testing.assert_allclose(found, 2 * stats.t.sf([1, 4, 9], df), rtol=1e-3)
        width = half_width(np.array(a), np.array(b), (2.0, 79.0))
        assert width == pytest.approx(stats.t.isf(0.025, df), rel=1e-3)


def test_an_interval_ends_where_the_test_is_at_five_percent() -> None:
    a, b = np.random.default_rng(0).random((2, 50))
    np.testing.assert_allclose(tail(half_width(a, b, (2.0, 79.0)), a, b, (2.0, 79.0)), 0.05, rtol=0.01)


REGIMES = {
    "seeds": (1, 0, 0),
    "images": (0, 1, 0),
    "interaction": (0, 0, 1),
    "seeds and images": (4, 1, 0),
    "seeds and interaction": (2, 0, 1),
    "all": (1, 1, 1),
}


@pytest.mark.parametrize("regime", REGIMES)
def test_without_a_difference_the_test_rejects_in_about_one_of_twenty(regime: str) -> None:
    weights = image_weights(80, replicates=150)
    seen = np.ones((2, 3), dtype=bool)
    tables = crossed(*REGIMES[regime], repetitions=800)
    p = np.array([paired(*pooled(table, weights), seen, 80).p[0] for table in tables])
    assert 0.02 <= (p < 0.05).mean() <= 0.08
    assert (p < 0.002).mean() <= 0.01, "nor does it in the tail, where corrected comparisons are decided"


def test_simpler_tests_find_what_is_not_there() -> None:
    """Resampled images without seeds; and a t distribution of Satterthwaite's degrees of freedom, far out."""
    tables = crossed(8, 1, 0.0, repetitions=3000)
    found = parts(*pooled(tables[:, 0] - tables[:, 1], image_weights(80, replicates=60)))
    assert found.images is not None
    distance, variance = np.abs(found.mean), found.seeds + found.images
    alone = 2 * stats.t.sf(distance / np.sqrt(found.images), 79)
    welch = 2 * stats.t.sf(
        distance / np.sqrt(variance), variance**2 / (found.seeds**2 / 2 + found.images**2 / 79)
    )
    ours = tail(distance, np.sqrt(found.seeds), np.sqrt(found.images), (2.0, 79.0))
    assert (alone < 0.05).mean() > 0.3
    assert (welch < 0.002).mean() > 5 * 0.002
    assert (ours < 0.002).mean() < 1.5 * 0.002


@pytest.mark.parametrize("regime", ["seeds", "seeds and images", "seeds and interaction"])
def test_among_six_equal_arms_hardly_ever_one_is_called_better(regime: str) -> None:
    weights = image_weights(80, replicates=150)
    seen = np.ones((6, 3), dtype=bool)
    tables = crossed(*REGIMES[regime], arms=6, repetitions=300)
    alarms = [np.nanmin(holm(paired(*pooled(t, weights), seen, 80).p)) < 0.05 for t in tables]
    assert np.mean(alarms) <= 0.08


def test_an_unstable_arm_is_seldom_called_better() -> None:
    """Its seeds vary five times as much as those of nine others: its own variance counts, not the average."""
    random, seen = np.random.default_rng(0), np.ones((10, 3), dtype=bool)
    alarms = []
    for _ in range(300):
        values = random.normal(size=(10, 3))
        values[3] *= 5
        alarms.append(np.nanmin(holm(paired(values, None, seen, 0).p)) < 0.05)
    assert np.mean(alarms) <= 0.12


def test_a_large_difference_is_found_with_three_seeds_among_ten_arms() -> None:
    random, seen = np.random.default_rng(0), np.ones((10, 3), dtype=bool)
    found = []
    for _ in range(100):
        values = random.normal(size=(10, 3))
        values[0] += 8
        pairs = paired(values, None, seen, 0)
        found.append((holm(pairs.p)[pairs.first == 0] < 0.05).all())
    assert np.mean(found) > 0.9


def test_two_arms_without_images_are_student_s_paired_test() -> None:
    one, other = np.random.default_rng(1).normal(size=(2, 4)) + [[0.5], [0.0]]
    found = paired(np.stack([one, other]), None, np.ones((2, 4), dtype=bool), 0)
    expected = stats.ttest_rel(one, other)
    low, high = expected.confidence_interval(0.95)
    assert found.p[0] == pytest.approx(expected.pvalue, rel=1e-3)
    assert found.difference[0] == pytest.approx((one - other).mean())
    assert found.half[0] == pytest.approx((high - low) / 2, rel=1e-3)


def test_the_average_over_pairs_is_the_error_of_a_block_design() -> None:
    """Of arms that vary alike the seeds' variance is the residual mean square, seeds being blocks."""
    values = np.random.default_rng(2).normal(size=(5, 4))
    rest = values - values.mean(1, keepdims=True)
    rest -= rest.mean(0)
    df = 4 * 3
    error = math.sqrt(2 * (rest**2).sum() / df / 4)
    found = paired(values, None, np.ones((5, 4), dtype=bool), 0)
    own = np.array([stats.sem(values[i] - values[j]) for i, j in itertools.combinations(range(5), 2)])
    expected = 2 * stats.t.sf(np.abs(found.difference) / np.maximum(own, error), df)
    np.testing.assert_allclose(found.p, expected, rtol=1e-3)
    assert (own < error).any()
    assert (own > error).any()


def test_pairs_use_the_seeds_that_both_have() -> None:
    values = np.array([[1.0, 2.0, 3.0], [1.5, 2.7, math.nan], [math.nan, math.nan, 5.0]])
    found = paired(values, None, np.isfinite(values), 0)
    assert list(zip(found.first, found.second, strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert found.difference[0] == pytest.approx(-0.6)
    assert found.p[0] == pytest.approx(stats.ttest_rel([1, 2], [1.5, 2.7]).pvalue, rel=1e-3)
    assert found.difference[1] == pytest.approx(-2.0)
    assert math.isnan(found.p[1]), "one common seed cannot be tested"
    assert math.isnan(found.half[1])
    assert math.isnan(found.difference[2])
    assert math.isnan(found.p[2])


def test_without_variance_equal_arms_have_a_p_of_one_and_others_none() -> None:
    values = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.2, 0.3, 0.4]])
    found = paired(values, None, np.ones((3, 3), dtype=bool), 0)
    assert found.p[0] == 1
    assert np.isnan(found.p[1:]).all()
    np.testing.assert_allclose(found.half, 0, atol=1e-12)
    assert found.difference[1] == pytest.approx(-0.1)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(
        holm(np.array([0.01, 0.04, math.nan, 0.03, 0.005])), [0.03, 0.06, math.nan, 0.06, 0.02]
    )
    np.testing.assert_allclose(holm(np.array([0.4, 0.6])), [0.8, 0.8])
    np.testing.assert_allclose(holm(np.array([0.7, 0.6])), [1.0, 1.0])
    assert np.isnan(holm(np.array([math.nan]))).all()


@pytest.mark.parametrize(("arms", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_has_the_published_quantiles(arms: int, q: float) -> None:
    """Demsar, JMLR 2006, table 5."""
    expected = q * math.sqrt(arms * (arms + 1) / (6 * 14))
    assert critical_difference(arms, 14) == pytest.approx(expected, rel=3e-4)


def test_ranks_share_ties_and_one_is_best() -> None:
    scores = np.array([[0.9, 0.5, 0.5, 0.1], [3.0, 4.0, 2.0, 1.0]])
    np.testing.assert_allclose(mean_ranks(scores), [1.5, 1.75, 2.75, 4.0])


def test_friedman_is_scipy_s_where_it_is_defined() -> None:
    scores = np.random.default_rng(0).random((6, 4))
    assert friedman(scores) == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert math.isnan(friedman(scores[:1]))
    assert math.isnan(friedman(scores[:, :2]))
    assert friedman(np.ones((3, 4))) == 1


@settings(max_examples=100)
@given(st.lists(st.integers(2, 12), min_size=1, max_size=7), st.sampled_from([0.5, 1.0, 2.5, 20.0]))
def test_cliques_are_all_groups_that_are_not_told_apart_and_cannot_grow(
    halves: list[int], difference: float
) -> None:
    ranks = {f"arm {place}": half / 2 for place, half in enumerate(halves)}
    found = cliques(ranks, difference)
    order = sorted(ranks, key=lambda arm: ranks[arm])

    def alike(group: tuple[str, ...]) -> bool:
        return all(abs(ranks[a] - ranks[b]) < difference for a, b in itertools.combinations(group, 2))

    runs = [tuple(order[i:j]) for i in range(len(order)) for j in range(i + 2, len(order) + 1)]
    groups = [run for run in runs if alike(run)]
    largest = [group for group in groups if not any(set(group) < set(other) for other in groups)]
    assert list(found) == largest


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), max_size=8))
def test_a_front_is_what_nothing_beats(places: list[tuple[int, int]]) -> None:
    points = {f"arm {n}": (float(cost), float(gain)) for n, (cost, gain) in enumerate(places)}
    found = front({**points, "unknown": (1.0, math.nan)})
    assert "unknown" not in found
    for arm, (cost, gain) in points.items():
        beaten = any(c <= cost and g >= gain and (c < cost or g > gain) for c, g in points.values())
        assert (arm in found) == (not beaten)
    costs = [points[arm][0] for arm in found]
    assert costs == sorted(costs)
