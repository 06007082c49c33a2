"""What edges and saliency have in common: one probability a pixel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

from torch import Tensor

from plait.data.labels import Label
from plait.errors import ConfigurationError
from plait.tasks import constant, pictures
from plait.tasks.base import Legend, Scoring, Task, unchanged
from plait.tasks.loss import BalancedBCE, at_least_float32, weighted_sum


def mask_task(
    name: str,
    *,
    kind: str,
    meaning: str,
    label_type: type[Label],
    loss: str | Mapping[str, float],
    positive_weight: float | Literal["batch"],
    scoring: Mapping[str, Scoring],
    label: str,
    weight: float,
    auxiliary: bool,
    several_targets: bool = False,
) -> Task:
    """A task with one probability a pixel and the balanced sigmoid cross-entropy.

    Raises:
        ConfigurationError: If a term is unknown or ``positive_weight`` is not in [0, 1].
    """
    if positive_weight != "batch" and not (
        isinstance(positive_weight, int | float) and 0 <= positive_weight <= 1
    ):
        raise ConfigurationError(
            f"positive_weight of task {name!r} must be from 0 to 1, or 'batch'; got {positive_weight!r}"
        )
    plain = scoring["plain"]
    return Task(
        name=name,
        kind=kind,
        channels=1,
        label=label,
        label_type=label_type,
        loss=weighted_sum(loss, {"balanced_bce": partial(BalancedBCE, positive_weight)}),
        activate=probability,
        decide=unchanged,
        metric=plain.metric,
        measures=plain.measures,
        picture=partial(pictures.bar_picture, bar=pictures.PROBABILITY_BAR, low=0.0, high=1.0),
        error=partial(pictures.absolute_error, high=1.0),
        legend=Legend(bar=pictures.PROBABILITY_BAR, low="0", high="1"),
        error_legend=Legend(bar=pictures.ERROR_BAR, low="0", high="1"),
        constant=constant.base_rate,
        weight=weight,
        likelihood="classification",
        kpi=plain.kpi,
        auxiliary=auxiliary,
        scoring=scoring,
        several_targets=several_targets,
        meaning=meaning,
        step=1 / 65535,
        tell=percent,
    )


def percent(pixel: Tensor) -> str:
    """A probability ``[1]``.

    >>> import torch
    >>> percent(torch.tensor([0.257]))
    '26 %'
    """
    return f"{pixel.item():.0%}".replace("%", " %")


def probability(logits: Tensor) -> Tensor:
    """Probabilities ``[B, 1, H, W]``."""
    return at_least_float32(logits).sigmoid()
