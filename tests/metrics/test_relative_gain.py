"""The relative gain: direction, mean, and what it refuses."""

import math
from typing import get_args

import pytest

from plait.errors import ConfigurationError
from plait.metrics import relative_gain
from plait.metrics.relative_gain import Variant
from plait.tasks import Measure
from plait.training.scores import Scores

MEASURES = {
    "semseg": Measure("miou", "mIoU", "%", higher_is_better=True),
    "depth": Measure("rmse", "RMSE", "m", higher_is_better=False),
}
SINGLE = {"semseg": {"miou": 0.4, "pixel_accuracy": 0.7}, "depth": {"rmse": 0.5}}


def test_better_is_positive_in_either_direction() -> None:
    gain = relative_gain({"semseg": {"miou": 0.42}, "depth": {"rmse": 0.45}}, SINGLE, MEASURES)
    assert gain.per_task == {"semseg": pytest.approx(0.05), "depth": pytest.approx(0.1)}
    assert gain.mean == pytest.approx(0.075)


def test_nothing_is_gained_over_oneself() -> None:
    assert relative_gain(SINGLE, SINGLE, MEASURES).mean == 0


SEVERAL = {
    "semseg": (MEASURES["semseg"], Measure("pixel_accuracy", "pixel accuracy", "%", higher_is_better=True)),
    "depth": (MEASURES["depth"],),
}


def test_libmtl_averages_the_measures_of_a_task_first() -> None:
    multi = {"semseg": {"miou": 0.44, "pixel_accuracy": 0.63}, "depth": {"rmse": 0.4}}
    gain = relative_gain(multi, SINGLE, SEVERAL, variant="libmtl")
    assert gain.per_task == {"semseg": pytest.approx((0.1 - 0.1) / 2), "depth": pytest.approx(0.2)}
    assert gain.mean == pytest.approx(0.1)
    assert gain.variant == "libmtl"
    one = relative_gain(multi, SINGLE, SEVERAL)
    assert one.per_task == {"semseg": pytest.approx(0.1), "depth": pytest.approx(0.2)}
    assert one.variant == "survey"


def test_both_variants_are_one_where_a_task_has_one_measure() -> None:
    multi = {"semseg": {"miou": 0.42}, "depth": {"rmse": 0.45}}
    one, other = (relative_gain(multi, SINGLE, MEASURES, variant=variant) for variant in get_args(Variant))
    assert (one.per_task, one.mean) == (other.per_task, other.mean)


def test_a_variant_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"survey, libmtl; got 'lib' .did you mean 'libmtl'"):
        relative_gain(SINGLE, SINGLE, MEASURES, variant="lib")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("multi", "single", "text"),
    [
        (
            {"semseg": {"miou": 0.4}},
            SINGLE,
            r"same tasks on both sides, got \['semseg'\] .* \['depth', 'semseg'\]",
        ),
        ({}, {}, "same tasks on both sides"),
        ({"semseg": {"miou": 0.4}, "depth": {}}, SINGLE, "scores of task 'depth' have no 'rmse'"),
        (SINGLE, {**SINGLE, "depth": {"rmse": 0.0}}, "single-task rmse of task 'depth' is 0"),
        (SINGLE, {**SINGLE, "depth": {"rmse": math.nan}}, "single-task rmse of task 'depth' is nan"),
        ({**SINGLE, "semseg": {"miou": math.nan}}, SINGLE, "the miou of task 'semseg' is nan"),
        ({"sal": {"f": 1.0}}, {"sal": {"f": 1.0}}, "no measure stands for task 'sal'"),
    ],
)
def test_what_has_no_gain_is_named(
    multi: dict[str, dict[str, float]], single: dict[str, dict[str, float]], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        relative_gain(multi, single, MEASURES)


def test_scores_bring_their_headline_measures() -> None:
    task_measures = {
        name: (measure, Measure("other", "other", "", True)) for name, measure in MEASURES.items()
    }
    multi = {"semseg": {"miou": 0.42, "other": 1.0}, "depth": {"rmse": 0.45, "other": 2.0}}
    assert relative_gain(Scores(multi, task_measures), SINGLE) == relative_gain(multi, SINGLE, MEASURES)
    with pytest.raises(ConfigurationError, match="single-task scores of task 'semseg' have no 'other'"):
        relative_gain(Scores(multi, task_measures), SINGLE, variant="libmtl")
    with pytest.raises(ConfigurationError, match="no measure stands for task 'semseg'"):
        relative_gain(multi, SINGLE)
