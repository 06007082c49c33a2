"""Edges."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from plait.data.labels import Mask
from plait.metrics.boundary import BoundaryF
from plait.tasks.base import Measure, Scoring, Task
from plait.tasks.masks import mask_task

MEASURES = (
    Measure("ods", "odsF", "%", higher_is_better=True),
    Measure("ois", "oisF", "%", higher_is_better=True),
    Measure("ap", "AP", "%", higher_is_better=True),
)


def edges(
    name: str,
    *,
    loss: str | dict[str, float] = "balanced_bce",
    positive_weight: float | Literal["batch"] = 0.95,
    max_distance: float | None = None,
    label: str = "edges",
    weight: float = 1.0,
    auxiliary: bool = False,
) -> Task:
    """Probability of an edge; the headline measure is the boundary F at the split's best threshold (ODS).

    Args:
        name: The task's name.
        loss: Terms with weights: ``balanced_bce``.
        positive_weight: Weight of edge pixels in [0, 1], the others having the rest (0.95 in the survey), or
            ``"batch"`` for the batch's share of pixels without an edge.
        max_distance: How far a predicted edge may be from a true one, as a share of the image's diagonal;
            None for what the data set says, or 0.0075. See :class:`plait.metrics.BoundaryF`.
        label: The data set's field.
        weight: Fixed loss weight.
        auxiliary: Supervise it only at intermediate predictions.

    Raises:
        ConfigurationError: If a term is unknown, ``positive_weight`` is not in [0, 1] or ``max_distance`` is
            no share.
    """
    return mask_task(
        name,
        kind="edges",
        meaning="probability of an edge",
        label_type=Mask,
        loss=loss,
        positive_weight=positive_weight,
        scoring=scorings(max_distance),
        label=label,
        weight=weight,
        auxiliary=auxiliary,
        several_targets=True,
    )


def scorings(max_distance: float | None) -> dict[str, Scoring]:
    """How each protocol scores edges; LibMTL has none. Outlines of strokes are for InvPT's tool alone."""
    given: dict[str, Any] = {} if max_distance is None else {"max_distance": max_distance}
    takes = ("max_distance",) if max_distance is None else ()

    def under(protocol: str, rules: Literal["plain", "survey", "seism"], *more: str) -> Scoring:
        measures = tuple(measure.under(protocol) for measure in MEASURES)
        return Scoring(partial(BoundaryF, protocol=rules, **given), measures, "ods", (*takes, *more))

    return {
        "plain": under("plain", "plain"),
        "survey": under("survey", "survey"),
        "invpt": under("invpt", "seism", "outline"),
    }
