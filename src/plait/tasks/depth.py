"""Metric depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from plait.data.labels import Depth
from plait.errors import ConfigurationError
from plait.metrics.depth import AbsoluteErrors, DepthErrors
from plait.registry import nearest
from plait.tasks import constant, pictures
from plait.tasks.base import Legend, Measure, Scoring, Task, unchanged
from plait.tasks.loss import (
    BerHu,
    DepthL1,
    DepthLogL1,
    DepthSobel,
    ScaleInvariantLog,
    Term,
    at_least_float32,
    weighted_sum,
)

TERMS: Mapping[str, Callable[[], Term]] = {
    "l1": DepthL1,
    "log_l1": DepthLogL1,
    "silog": ScaleInvariantLog,
    "berhu": BerHu,
    "sobel": DepthSobel,
}
ROOTS = (
    Measure("rmse", "RMSE", "m", higher_is_better=False),
    Measure("log_rmse", "log-RMSE", "", higher_is_better=False),
)
RELATIVE = (
    Measure("abs_rel", "absRel", "", higher_is_better=False),
    Measure("sq_rel", "sqRel", "m", higher_is_better=False),
)
WITHIN = (
    Measure("delta1", "δ < 1.25", "%", higher_is_better=True),
    Measure("delta2", "δ < 1.25²", "%", higher_is_better=True),
    Measure("delta3", "δ < 1.25³", "%", higher_is_better=True),
)
ABSOLUTE = (
    Measure("abs_err", "absolute error", "m", higher_is_better=False, protocol="mtan"),
    Measure("rel_err", "relative error", "", higher_is_better=False, protocol="mtan"),
)
SCORING: Mapping[str, Scoring] = {
    "plain": Scoring(DepthErrors, (*ROOTS, *RELATIVE, *WITHIN), "delta1"),
    # The shares are in neither code; what becomes of predictions that are not positive does not change them.
    "survey": Scoring(
        partial(DepthErrors, protocol="survey"), (*(m.under("survey") for m in ROOTS), *WITHIN), "delta1"
    ),
    "invpt": Scoring(
        partial(DepthErrors, protocol="invpt"),
        (*(m.under("invpt") for m in (*ROOTS, *RELATIVE)), *WITHIN),
        "delta1",
    ),
    "mtan": Scoring(partial(AbsoluteErrors, zero_is_known=False), ABSOLUTE),
}


def linear(logits: Tensor) -> Tensor:
    """Metres as they come, negative ones included."""
    return at_least_float32(logits)


def softplus(logits: Tensor) -> Tensor:
    """Positive metres, linear where large."""
    return F.softplus(at_least_float32(logits))


def exp(logits: Tensor) -> Tensor:
    """Positive metres, the network predicting their logarithm; at most e^10, about 22 km."""
    return at_least_float32(logits).clamp(max=10).exp()


PARAMETRISATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": linear,
    "softplus": softplus,
    "exp": exp,
}


def depth(
    name: str,
    *,
    loss: str | dict[str, float] = "l1",
    parametrisation: Literal["linear", "softplus", "exp"] = "linear",
    far: float = 8.0,
    label: str = "depth",
    weight: float = 1.0,
    auxiliary: bool = False,
) -> Task:
    """Metres along the optical axis; the headline measure is the RMSE over all pixels of the split.

    Args:
        name: The task's name.
        loss: Terms with weights: ``l1`` (metres), ``log_l1``, ``silog``, ``berhu``, ``sobel``.
            The likelihood is ``"gaussian"`` for ``silog`` alone, a squared error, else ``"laplace"``.
        parametrisation: How the network's output becomes metres: ``linear`` as it is (the survey's),
            ``softplus`` or ``exp`` for positive depth. The terms compare metres in each case.
        far: The far end of the pictures' bar, in metres; the near end is 0. Predictions are stored as 16-bit
            pictures in millimetres, or if ``far`` is above 60 m in 256ths of a metre.
        label: The data set's field.
        weight: Fixed loss weight.
        auxiliary: Supervise it only at intermediate predictions.

    Raises:
        ConfigurationError: If a term or the parametrisation is unknown, or ``far`` is not positive.
    """
    link = link_of(name, parametrisation)
    if not far > 0:
        raise ConfigurationError(f"the far end of task {name!r}'s pictures must be above 0 m, got {far}")
    terms = weighted_sum(loss, TERMS, link=link)
    squared = all(isinstance(term, ScaleInvariantLog) for _, term in terms.terms)
    return Task(
        name=name,
        kind="depth",
        channels=1,
        label=label,
        label_type=Depth,
        loss=terms,
        activate=link,
        decide=unchanged,
        metric=SCORING["plain"].metric,
        measures=SCORING["plain"].measures,
        picture=partial(pictures.bar_picture, bar=pictures.DEPTH_BAR, low=0.0, high=far),
        error=partial(pictures.absolute_error, high=far / 4),
        legend=Legend(bar=pictures.DEPTH_BAR, low="0 m", high=f"{far:g} m"),
        error_legend=pictures.error_bar(f"{far / 4:g} m"),
        constant=constant.mean_depth,
        weight=weight,
        likelihood="gaussian" if squared else "laplace",
        kpi="delta1",
        auxiliary=auxiliary,
        scoring=SCORING,
        unit="m",
        meaning="metres along the optical axis",
        step=0.001 if far <= 60 else 1 / 256,
        zero_is_unknown=True,
        tell=metres,
    )


def metres(pixel: Tensor) -> str:
    """Depth ``[1]`` to the centimetre.

    >>> import torch
    >>> metres(torch.tensor([2.314]))
    '2.31 m'
    """
    return f"{pixel.item():.2f} m"


def link_of(task: str, parametrisation: str) -> Callable[[Tensor], Tensor]:
    """How a network's output becomes depth, or inverse depth.

    Raises:
        ConfigurationError: If there is no such parametrisation; names the task.
    """
    if parametrisation not in PARAMETRISATIONS:
        raise ConfigurationError(
            f"task {task!r} has no parametrisation {parametrisation!r}"
            f"{nearest(parametrisation, PARAMETRISATIONS)}; known are {', '.join(PARAMETRISATIONS)}"
        )
    return PARAMETRISATIONS[parametrisation]
