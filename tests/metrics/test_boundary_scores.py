"""ODS, OIS and AP from counts, by hand and beside the scores of the reference's own counts."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from plait.metrics.boundary import PROTOCOLS, match_counts
from plait.metrics.boundary.scores import average_precision, best_of_image, ods, ois, precision_recall

STORED = Path(__file__).parent.parent / "data" / "edges"


def rows(*counts: tuple[int, int, int, int]) -> np.ndarray:
    """Matched true, true, matched predicted and predicted pixels of each threshold."""
    return np.array(counts, dtype=np.int64)


CURVE = rows((8, 10, 8, 16), (5, 10, 6, 8), (2, 10, 2, 2))
"""Precision 0.5, 0.75, 1 at recall 0.8, 0.5, 0.2: F 8/13, 0.6, 1/3."""


def test_ods_is_the_f_of_the_best_threshold() -> None:
    assert ods(CURVE, interpolate=False) == pytest.approx(8 / 13)


def test_ods_is_also_looked_for_between_thresholds() -> None:
    shares = np.linspace(0, 1, 100)
    between = [(0.75 * a + 0.5 * (1 - a), 0.5 * a + 0.8 * (1 - a)) for a in shares]
    expected = max(2 * p * r / (p + r) for p, r in between)
    assert expected > 8 / 13 + 0.01
    assert ods(CURVE, interpolate=True) == pytest.approx(expected, abs=1e-12)
    assert ods(CURVE[:1], interpolate=True) == pytest.approx(8 / 13)


def test_ois_is_the_f_of_summed_counts_not_a_mean_of_f() -> None:
    first, second = best_of_image(CURVE, interpolate=False), rows((1, 1, 1, 1), (1, 1, 1, 1))
    np.testing.assert_array_equal(first, CURVE[0])
    total = first + best_of_image(second, interpolate=False)
    assert ois(total, interpolate=False) == pytest.approx(2 * 9 / 17 * 9 / 11 / (9 / 17 + 9 / 11))


def test_of_equal_thresholds_an_image_takes_the_first() -> None:
    tied = rows((1, 4, 1, 4), (2, 4, 2, 4), (2, 4, 2, 4))
    tied[2, 0] = 2
    np.testing.assert_array_equal(best_of_image(tied, interpolate=False), tied[1])
    nothing = rows((0, 0, 0, 7), (0, 0, 0, 3))
    np.testing.assert_array_equal(best_of_image(nothing, interpolate=False), nothing[0])


def precision_at(recall: float) -> float:
    """Precision of the three-threshold curve, by straight lines; 0 outside the recalls observed."""
    if not 0.2 <= recall <= 0.8:
        return 0.0
    return 1 - 0.25 * (recall - 0.2) / 0.3


def test_average_precision_is_a_sum_over_a_hundred_and_one_recalls() -> None:
    expected = sum(precision_at(step / 100) for step in range(101)) / 100
    for interpolate in (False, True):
        assert average_precision(CURVE, interpolate=interpolate) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("matched", range(1, 101))
def test_a_recall_on_the_grid_counts_up_to_itself(matched: int) -> None:
    """57 of 100 and 57 times a hundredth are not the same floating-point number."""
    perfect = rows((matched, 100, matched, matched), (0, 100, 0, 0))
    assert average_precision(perfect, interpolate=False) == pytest.approx(min(1, (matched + 1) / 100))


def test_of_one_recall_the_lowest_threshold_counts() -> None:
    doubled = np.concatenate([CURVE[:1], CURVE[:1] + [0, 0, 0, 4], CURVE[1:]])
    assert average_precision(doubled, interpolate=False) == average_precision(CURVE, interpolate=False)
    assert average_precision(doubled[1:], interpolate=False) < average_precision(CURVE, interpolate=False)


def test_one_recall_has_no_area() -> None:
    assert average_precision(CURVE[:1], interpolate=False) == 0
    assert average_precision(np.repeat(CURVE[:1], 3, axis=0), interpolate=True) == 0


def test_what_is_zero_by_zero_follows_the_rules_of_each_evaluator() -> None:
    cases = rows((0, 0, 0, 5), (0, 5, 0, 0), (0, 0, 0, 0), (0, 5, 0, 5))
    precision, recall = precision_recall(cases, interpolate=False)
    assert list(zip(precision, recall, strict=True)) == [(0, 1), (1, 0), (0, 1), (0, 0)]
    precision, recall = precision_recall(cases, interpolate=True)
    assert not precision.any()
    assert not recall.any()
    for case, interpolate in itertools.product(cases, (False, True)):
        assert ods(case[None], interpolate=interpolate) == 0
        assert ois(case, interpolate=interpolate) == 0


def test_a_threshold_that_predicts_nothing_adds_a_point_at_no_recall_under_seism_s_rules() -> None:
    longer = np.concatenate([CURVE, rows((0, 10, 0, 0))])
    without = average_precision(CURVE, interpolate=False)
    assert average_precision(longer, interpolate=False) == pytest.approx(without + 0.2, abs=1e-12)
    assert average_precision(longer, interpolate=True) == pytest.approx(
        without + sum(0.05 * step for step in range(20)) / 100, abs=1e-12
    )


def test_scores_of_a_perfect_prediction_are_one() -> None:
    perfect = rows((9, 9, 9, 9), (9, 9, 9, 9), (3, 9, 3, 3), (0, 9, 0, 0))
    assert ods(perfect, interpolate=False) == ods(perfect, interpolate=True) == 1
    assert average_precision(perfect, interpolate=False) == 1


SETTINGS = {"bsds_d0075": 0.0075, "bsds_d011": 0.011, "nms_d0075": 0.0075, "nms_d011": 0.011}


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_scores_of_the_stored_set_are_near_those_of_the_reference_s_counts(
    setting: str, interpolate: bool
) -> None:
    """The reference draws links at random, so it matches a few pixels fewer, and its repeats differ.

    On three images that is up to 0.0015 of ODS and 0.0025 of AP; it shrinks with the size of the set.
    """
    ours, references = [], []
    for name in ("p01_small_clean", "p03_warp_mid", "p05_full_typical"):
        with np.load(STORED / f"{name}.npz") as stored:
            references.append(stored[f"{setting}__counts_reps"].astype(np.int64))
            protocol = PROTOCOLS["seism" if setting.startswith("nms") else "survey"]
            ours.append(
                match_counts(stored["pred_u8"], stored["gt"], protocol, max_distance=SETTINGS[setting])
            )

    def scores(images: list[np.ndarray]) -> list[float]:
        best = np.sum([best_of_image(counts, interpolate=interpolate) for counts in images], axis=0)
        total = np.sum(images, axis=0)
        return [
            ods(total, interpolate=interpolate),
            ois(best, interpolate=interpolate),
            average_precision(total, interpolate=interpolate),
        ]

    found = scores(ours)
    for repeat in range(len(references[0])):
        expected = scores([counts[repeat] for counts in references])
        assert 0 <= found[0] - expected[0] <= 0.0015
        assert abs(found[1] - expected[1]) <= 0.0015
        assert abs(found[2] - expected[2]) <= 0.0025
