"""Saliency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from torchmetrics import Metric

from plait.data.labels import Mask
from plait.errors import ConfigurationError
from plait.metrics.saliency import SaliencyPooled, SaliencySurvey
from plait.registry import nearest
from plait.tasks.base import Measure, Task
from plait.tasks.masks import mask_task

SURVEY_MEASURES = (
    Measure("max_f", "maxF (survey)", "%", higher_is_better=True),
    Measure("miou", "mIoU (survey)", "%", higher_is_better=True),
)
POOLED_MEASURES = (Measure("max_f", "maxF (pooled, β² 0.3)", "%", higher_is_better=True),)
PROTOCOLS: Mapping[str, tuple[Callable[[], Metric], tuple[Measure, ...]]] = {
    "survey": (SaliencySurvey, SURVEY_MEASURES),
    "pooled": (SaliencyPooled, POOLED_MEASURES),
    "pooled_second_sigmoid": (
        partial(SaliencyPooled, second_sigmoid=True),
        (Measure("max_f", "maxF (pooled, second sigmoid)", "%", higher_is_better=True),),
    ),
}


def saliency(
    name: str,
    *,
    loss: str | dict[str, float] = "balanced_bce",
    positive_weight: float | Literal["batch"] = "batch",
    protocol: Literal["survey", "pooled", "pooled_second_sigmoid"] = "survey",
    label: str = "saliency",
    weight: float = 1.0,
    auxiliary: bool = False,
) -> Task:
    """Probability of being salient; the headline measure is the largest F over thresholds.

    Args:
        name: The task's name.
        loss: Terms with weights: ``balanced_bce``.
        positive_weight: Weight of salient pixels in [0, 1], the others having the rest, or ``"batch"`` (the
            survey's) for the batch's share of pixels that are not salient.
        protocol: Whose measures: ``survey`` (:class:`plait.metrics.SaliencySurvey`), ``pooled`` or
            ``pooled_second_sigmoid`` (:class:`plait.metrics.SaliencyPooled`). They cannot be compared.
        label: The data set's field.
        weight: Fixed loss weight.
        auxiliary: Supervise it only at intermediate predictions.

    Raises:
        ConfigurationError: If a term or the protocol is unknown or ``positive_weight`` is not in [0, 1].
    """
    if protocol not in PROTOCOLS:
        raise ConfigurationError(
            f"task {name!r} has no protocol {protocol!r}{nearest(protocol, PROTOCOLS)}; "
            f"known are {', '.join(PROTOCOLS)}"
        )
    metric, measures = PROTOCOLS[protocol]
    return mask_task(
        name,
        kind="saliency",
        label_type=Mask,
        loss=loss,
        positive_weight=positive_weight,
        metric=metric,
        measures=measures,
        label=label,
        weight=weight,
        auxiliary=auxiliary,
    )
