"""Semantic segmentation, and everything that is one class a pixel (human parts)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from plait.data.labels import UNKNOWN_CLASS, Semantic
from plait.errors import ConfigurationError
from plait.metrics.segmentation import AbsentClasses, EmptyRule, MeanIoU, likeliest
from plait.registry import nearest
from plait.tasks import constant, pictures
from plait.tasks.base import Measure, Scoring, Task
from plait.tasks.loss import CrossEntropy, at_least_float32, weighted_sum

MIOU = Measure("miou", "mIoU", "%", higher_is_better=True)
MEASURES = (MIOU, Measure("pixel_accuracy", "pixel accuracy", "%", higher_is_better=True))


def semantic(
    name: str,
    *,
    classes: int | list[str],
    loss: str | dict[str, float] = "cross_entropy",
    class_weights: list[float] | dict[str, float] | None = None,
    ignore: list[int | str] | None = None,
    skip_empty: bool = False,
    absent: AbsentClasses = "skip",
    label: str = "semantic",
    weight: float = 1.0,
    auxiliary: bool = False,
) -> Task:
    """One class a pixel; the headline measure is the mean intersection over union.

    Args:
        name: The task's name.
        classes: Their number, or their names in the order of their ids.
        loss: Terms with weights; ``cross_entropy``.
        class_weights: One a class, in order, or ``{class name: weight}`` with 1 for the others.
        ignore: Classes, by name or id, whose pixels count as unknown in loss and measures.
        skip_empty: Human parts: an image without a part (only class 0) is unknown as a whole.
        absent: What a class without pixels does to the mean of the plain protocol; see
            :class:`plait.metrics.MeanIoU`. Named protocols decide it themselves.
        label: The data set's field.
        weight: Fixed loss weight.
        auxiliary: Supervise it only at intermediate predictions.

    Raises:
        ConfigurationError: If there are fewer than 2 or more than 255 classes, a class is named twice or is
            unknown, or a weight is negative or not finite.
    """
    names = [f"class {number}" for number in range(classes)] if isinstance(classes, int) else list(classes)
    if not 2 <= len(names) <= UNKNOWN_CLASS:
        raise ConfigurationError(f"task {name!r} needs 2 to {UNKNOWN_CLASS} classes, got {len(names)}")
    if len(set(names)) < len(names):
        twice = next(text for text in names if names.count(text) > 1)
        raise ConfigurationError(f"task {name!r} names class {twice!r} more than once: rename one")
    ignored = tuple(_id(name, names, chosen) for chosen in ignore or ())
    weights = _weights(name, names, class_weights)
    cross_entropy = partial(CrossEntropy, weights, ignored, skip_empty)
    scoring = scorings(partial(MeanIoU, len(names), ignore=ignored), absent=absent, skip_empty=skip_empty)
    return Task(
        name=name,
        kind="semantic",
        channels=len(names),
        label=label,
        label_type=Semantic,
        loss=weighted_sum(loss, {"cross_entropy": cross_entropy}),
        activate=activate,
        decide=decide,
        metric=scoring["plain"].metric,
        measures=scoring["plain"].measures,
        picture=partial(pictures.class_picture, classes=len(names)),
        error=pictures.class_error,
        legend=pictures.class_legend(names),
        error_legend=pictures.CLASS_ERROR_LEGEND,
        constant=partial(constant.majority_class, classes=len(names), ignore=ignored),
        weight=weight,
        likelihood="classification",
        kpi="miou",
        auxiliary=auxiliary,
        scoring=scoring,
        meaning="class id",
        classes=tuple(names),
        tell=partial(class_name, names=tuple(names)),
    )


def class_name(pixel: Tensor, *, names: Sequence[str]) -> str:
    """The class of a pixel ``[1]``, by name."""
    number = int(pixel)
    return names[number] if number < len(names) else "unknown"


def scorings(
    metric: Callable[..., MeanIoU], *, absent: AbsentClasses, skip_empty: bool
) -> dict[str, Scoring]:
    """How each protocol scores class maps.

    The survey's folder evaluator leaves out images by a rule of its own. LibMTL's mean is NaN as soon as a
    class is absent; where it is a number, ``skip`` gives it.
    """
    survey: EmptyRule = "single_value" if skip_empty else False
    return {
        "plain": Scoring(partial(metric, absent=absent, skip_empty=skip_empty), MEASURES, "miou"),
        "survey": Scoring(partial(metric, absent="zero", skip_empty=survey), (MIOU.under("survey"),), "miou"),
        "invpt": Scoring(
            partial(metric, absent="zero", skip_empty=skip_empty), (MIOU.under("invpt"),), "miou"
        ),
        "mtan": Scoring(
            partial(metric, absent="skip", skip_empty=skip_empty),
            tuple(measure.under("mtan") for measure in MEASURES),
            "miou",
        ),
    }


def activate(logits: Tensor) -> Tensor:
    """Class probabilities ``[B, K, H, W]``."""
    return at_least_float32(logits).softmax(1)


def decide(probabilities: Tensor) -> Tensor:
    """The likeliest class, int64 ``[B, 1, H, W]``; 255 where the probabilities are not finite."""
    return likeliest(probabilities)


def _id(task: str, names: Sequence[str], chosen: int | str) -> int:
    if isinstance(chosen, str):
        if chosen not in names:
            raise ConfigurationError(
                f"task {task!r} has no class {chosen!r}{nearest(chosen, names)}; it has {', '.join(names)}"
            )
        return names.index(chosen)
    if not 0 <= chosen < len(names):
        raise ConfigurationError(f"task {task!r} has classes 0 to {len(names) - 1}, got {chosen}")
    return chosen


def _weights(
    task: str, names: Sequence[str], given: Sequence[float] | Mapping[str, float] | None
) -> tuple[float, ...] | None:
    if given is None:
        return None
    if isinstance(given, Mapping):
        chosen = {_id(task, names, text): float(value) for text, value in given.items()}
        weights = tuple(chosen.get(number, 1.0) for number in range(len(names)))
    else:
        weights = tuple(float(value) for value in given)
    if len(weights) != len(names):
        raise ConfigurationError(f"task {task!r} has {len(names)} classes, got {len(weights)} class weights")
    for text, value in zip(names, weights, strict=True):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigurationError(
                f"the weight of class {text!r} of task {task!r} must be 0 or more, got {value}"
            )
    return weights
