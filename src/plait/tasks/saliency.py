"""Saliency."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

from plait.data.labels import Mask
from plait.metrics.saliency import Saliency, SaliencyPooled, SaliencySurvey
from plait.tasks.base import Measure, Scoring, Task
from plait.tasks.masks import mask_task

BY_IMAGE = (
    Measure("miou", "mIoU (foreground)", "%", higher_is_better=True),
    Measure("max_f", "maxF", "%", higher_is_better=True),
)
POOLED = Measure("max_f_pooled", "maxF (pooled, β² 0.3)", "%", higher_is_better=True)
SECOND_SIGMOID = Measure(
    "max_f_pooled_second_sigmoid", "maxF (pooled, β² 0.3, second sigmoid)", "%", higher_is_better=True
)
SCORING: Mapping[str, Scoring] = {
    "plain": Scoring(Saliency, (*BY_IMAGE, POOLED), "miou"),
    "survey": Scoring(SaliencySurvey, tuple(measure.under("survey") for measure in BY_IMAGE), "miou"),
    # What InvPT publishes comes first. LibMTL has no saliency.
    "invpt": Scoring(
        partial(SaliencyPooled, second_sigmoid=True),
        (SECOND_SIGMOID.under("invpt"), POOLED.under("invpt")),
        "max_f_pooled_second_sigmoid",
    ),
}


def saliency(
    name: str,
    *,
    loss: str | dict[str, float] = "balanced_bce",
    positive_weight: float | Literal["batch"] = "batch",
    label: str = "saliency",
    weight: float = 1.0,
    auxiliary: bool = False,
) -> Task:
    """Probability of being salient; the headline measure is the foreground's IoU at the best threshold.

    Args:
        name: The task's name.
        loss: Terms with weights: ``balanced_bce``.
        positive_weight: Weight of salient pixels in [0, 1], the others having the rest, or ``"batch"`` (the
            survey's) for the batch's share of pixels that are not salient.
        label: The data set's field.
        weight: Fixed loss weight.
        auxiliary: Supervise it only at intermediate predictions.

    Raises:
        ConfigurationError: If a term is unknown or ``positive_weight`` is not in [0, 1].
    """
    return mask_task(
        name,
        kind="saliency",
        meaning="probability of standing out",
        label_type=Mask,
        loss=loss,
        positive_weight=positive_weight,
        scoring=SCORING,
        label=label,
        weight=weight,
        auxiliary=auxiliary,
    )
