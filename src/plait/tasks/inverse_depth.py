"""Inverse depth, or disparity: what is larger the nearer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from torch import Tensor

from plait.data.labels import InverseDepth
from plait.errors import ConfigurationError
from plait.metrics.depth import AbsoluteErrors
from plait.tasks import constant, pictures
from plait.tasks.base import Legend, Measure, Scoring, Task, unchanged
from plait.tasks.depth import link_of
from plait.tasks.loss import InverseDepthL1, Term, weighted_sum

TERMS: Mapping[str, Callable[[], Term]] = {"l1": InverseDepthL1}
MEASURES = (
    Measure("abs_err", "absolute error", "", higher_is_better=False),
    Measure("rel_err", "relative error", "", higher_is_better=False),
    Measure("rmse", "RMSE", "", higher_is_better=False),
)
SCORING: Mapping[str, Scoring] = {
    "plain": Scoring(AbsoluteErrors, MEASURES),
    # Its code takes a target of 0 as unknown, not as infinitely far.
    "mtan": Scoring(
        partial(AbsoluteErrors, zero_is_known=False), tuple(measure.under("mtan") for measure in MEASURES[:2])
    ),
}


def inverse_depth(
    name: str,
    *,
    loss: str | dict[str, float] = "l1",
    parametrisation: Literal["linear", "softplus", "exp"] = "linear",
    near: float = 0.5,
    label: str = "inverse_depth",
    weight: float = 1.0,
    auxiliary: bool = False,
) -> Task:
    """Inverse depth in the data's unit, 0 at infinity; the headline measure is the mean absolute error.

    Args:
        name: The task's name.
        loss: Terms with weights: ``l1``, in the data's unit.
        parametrisation: How the network's output becomes inverse depth: ``linear`` as it is, ``softplus`` or
            ``exp`` for positive values.
        near: The near end of the pictures' bar, in the data's unit; the far end is 0.
        label: The data set's field.
        weight: Fixed loss weight.
        auxiliary: Supervise it only at intermediate predictions.

    Raises:
        ConfigurationError: If a term or the parametrisation is unknown, or ``near`` is not positive.
    """
    link = link_of(name, parametrisation)
    if not near > 0:
        raise ConfigurationError(f"the near end of task {name!r}'s pictures must be above 0, got {near}")
    return Task(
        name=name,
        kind="inverse_depth",
        channels=1,
        label=label,
        label_type=InverseDepth,
        loss=weighted_sum(loss, TERMS, link=link),
        activate=link,
        decide=unchanged,
        metric=SCORING["plain"].metric,
        measures=SCORING["plain"].measures,
        picture=partial(pictures.bar_picture, bar=pictures.ERROR_BAR, low=0.0, high=near),
        error=partial(pictures.absolute_error, high=near / 4),
        legend=Legend(bar=pictures.ERROR_BAR, low="0 (far)", high=f"{near:g} (near)"),
        error_legend=pictures.error_bar(f"{near / 4:g}"),
        constant=constant.mean_inverse_depth,
        weight=weight,
        likelihood="laplace",
        auxiliary=auxiliary,
        scoring=SCORING,
        meaning="inverse depth in the data's unit, 0 at infinity",
        step=near / 32768,
        tell=number,
    )


def number(pixel: Tensor) -> str:
    """Inverse depth ``[1]`` to three digits."""
    return f"{pixel.item():.3g}"
