"""Edges."""

from __future__ import annotations

from typing import Literal

from plait.data.labels import Mask
from plait.metrics.edges import PixelF
from plait.tasks.base import Measure, Task
from plait.tasks.masks import mask_task

MEASURES = (Measure("pixel_f", "pixel-wise F", "%", higher_is_better=True),)


def edges(
    name: str,
    *,
    loss: str | dict[str, float] = "balanced_bce",
    positive_weight: float | Literal["batch"] = 0.95,
    label: str = "edges",
    weight: float = 1.0,
    auxiliary: bool = False,
) -> Task:
    """Probability of an edge; the headline measure is a pixel-wise F, not the boundary F of the literature.

    Args:
        name: The task's name.
        loss: Terms with weights: ``balanced_bce``.
        positive_weight: Weight of edge pixels in [0, 1], the others having the rest (0.95 in the survey), or
            ``"batch"`` for the batch's share of pixels without an edge.
        label: The data set's field.
        weight: Fixed loss weight.
        auxiliary: Supervise it only at intermediate predictions.

    Raises:
        ConfigurationError: If a term is unknown or ``positive_weight`` is not in [0, 1].
    """
    return mask_task(
        name,
        kind="edges",
        label_type=Mask,
        loss=loss,
        positive_weight=positive_weight,
        metric=PixelF,
        measures=MEASURES,
        label=label,
        weight=weight,
        auxiliary=auxiliary,
    )
