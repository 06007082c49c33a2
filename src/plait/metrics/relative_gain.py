"""Relative gain: how much better a multi-task network is than its single-task twins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from plait.errors import ConfigurationError
from plait.registry import nearest

if TYPE_CHECKING:
    from plait.tasks.base import Measure

Variant = Literal["survey", "libmtl"]


@dataclass(frozen=True)
class RelativeGain:
    """Gains over the single-task networks, as fractions: 0.02 is 2 % better in either direction.

    Attributes:
        per_task: One gain a task, from its headline measure or as the mean over all its measures.
        mean: Their plain mean, Delta_MTL.
        variant: Which of the two.
    """

    per_task: Mapping[str, float]
    mean: float
    variant: Variant = "survey"


def relative_gain(
    scores: Mapping[str, Mapping[str, float]],
    single_task_scores: Mapping[str, Mapping[str, float]],
    measures: Mapping[str, Measure | Sequence[Measure]] | None = None,
    *,
    variant: Variant = "survey",
) -> RelativeGain:
    """Mean over tasks of the relative improvement over single-task networks (Delta_MTL).

    Each measure's improvement is ``(score - single) / single``, its sign turned where lower is better: the
    measure itself says which.

    Args:
        scores: ``{task: {measure: value}}`` of the multi-task network.
        single_task_scores: The same of the single-task networks, for the same tasks.
        measures: The measure, or measures with the headline measure first, that stand for each task; None
            for those that ``scores`` brings with it, as the result of an evaluation does
            (:class:`plait.training.scores.Scores`).
        variant: ``"survey"``: one measure a task, the headline measure. ``"libmtl"``: first the mean over
            all measures of a task, then the mean over tasks.

    Raises:
        ConfigurationError: If the task sets differ or are empty, a measure is missing, a score is not
            finite, or a single-task score is zero; the text names the task.

    Source:
        Maninis et al., Attentive Single-Tasking of Multiple Tasks, CVPR 2019, and the survey, section 4, for
        one measure a task. LibMTL (Lin and Zhang, JMLR 2023) for the mean over a task's measures.
        auto-lambda's code divides by the number of its fixed single-task numbers instead of by the number of
        tasks: the two differ when it trains fewer tasks. InvPT's code has no such function.
    """
    if variant not in get_args(Variant):
        raise ConfigurationError(
            f"a relative gain's variant is one of {', '.join(get_args(Variant))}; "
            f"got {variant!r}{nearest(str(variant), get_args(Variant))}"
        )
    if not scores or set(scores) != set(single_task_scores):
        raise ConfigurationError(
            f"a relative gain needs the same tasks on both sides, got {sorted(scores)} "
            f"and, single-task, {sorted(single_task_scores)}"
        )
    if measures is None:
        measures = getattr(scores, "measures", {})
    gains = {}
    for task in scores:
        given = measures.get(task, ())
        found = list(given) if isinstance(given, Sequence) else [given]
        if not found:
            raise ConfigurationError(
                f"no measure stands for task {task!r}; measures are given for {sorted(measures)}"
            )
        chosen = found[:1] if variant == "survey" else found
        improvements = [_improvement(task, measure, scores, single_task_scores) for measure in chosen]
        gains[task] = math.fsum(improvements) / len(improvements)
    return RelativeGain(gains, math.fsum(gains.values()) / len(gains), variant)


def _improvement(
    task: str,
    measure: Measure,
    scores: Mapping[str, Mapping[str, float]],
    single_task_scores: Mapping[str, Mapping[str, float]],
) -> float:
    value = _score(scores, task, measure, "")
    reference = _score(single_task_scores, task, measure, "single-task ")
    if reference == 0:
        raise ConfigurationError(
            f"the single-task {measure.name} of task {task!r} is 0, so no gain relative to it exists; "
            f"train it longer or choose another measure"
        )
    gain = (value - reference) / reference
    return gain if measure.higher_is_better else -gain


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
