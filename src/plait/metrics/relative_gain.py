"""Relative gain: how much better a multi-task network is than its single-task twins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait.errors import ConfigurationError

if TYPE_CHECKING:
    from plait.tasks.base import Measure


@dataclass(frozen=True)
class RelativeGain:
    """Gains over the single-task networks, as fractions: 0.02 is 2 % better in either direction.

    Attributes:
        per_task: One gain a task, from its headline measure.
        mean: Their plain mean, Delta_MTL.
    """

    per_task: Mapping[str, float]
    mean: float


def relative_gain(
    scores: Mapping[str, Mapping[str, float]],
    single_task_scores: Mapping[str, Mapping[str, float]],
    measures: Mapping[str, Measure] | None = None,
) -> RelativeGain:
    """Mean over tasks of the relative improvement of one measure each (Delta_MTL).

    Args:
        scores: ``{task: {measure: value}}`` of the multi-task network.
        single_task_scores: The same of the single-task networks, for the same tasks.
        measures: The measure that stands for each task; None for the headline measures that ``scores``
            brings with it, as the result of an evaluation does (:class:`plait.training.scores.Scores`).

    Raises:
        ConfigurationError: If the task sets differ or are empty, a measure is missing, a score is not
            finite, or a single-task score is zero; the text names the task.

    Source:
        Maninis et al., Attentive Single-Tasking of Multiple Tasks, CVPR 2019; the survey, section 4. One
        measure a task, all tasks equal.
    """
    if not scores or set(scores) != set(single_task_scores):
        raise ConfigurationError(
            f"a relative gain needs the same tasks on both sides, got {sorted(scores)} "
            f"and, single-task, {sorted(single_task_scores)}"
        )
    if measures is None:
        brought: Mapping[str, Sequence[Measure]] = getattr(scores, "measures", {})
        measures = {task: found[0] for task, found in brought.items()}
    gains = {}
    for task in scores:
        if task not in measures:
            raise ConfigurationError(
                f"no measure stands for task {task!r}; measures are given for {sorted(measures)}"
            )
        measure = measures[task]
        value = _score(scores, task, measure, "")
        reference = _score(single_task_scores, task, measure, "single-task ")
        if reference == 0:
            raise ConfigurationError(
                f"the single-task {measure.name} of task {task!r} is 0, so no gain relative to it exists; "
                f"train it longer or choose another measure"
            )
        gain = (value - reference) / reference
        gains[task] = gain if measure.higher_is_better else -gain
    return RelativeGain(gains, math.fsum(gains.values()) / len(gains))


def _score(scores: Mapping[str, Mapping[str, float]], task: str, measure: Measure, whose: str) -> float:
    if measure.name not in scores[task]:
        raise ConfigurationError(
            f"the {whose}scores of task {task!r} have no {measure.name!r}, only {sorted(scores[task])}"
        )
    value = scores[task][measure.name]
    if not math.isfinite(value):
        raise ConfigurationError(
            f"the {whose}{measure.name} of task {task!r} is {value}, so its gain is unknown"
        )
    return value
