"""Surface normals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from plait.data.labels import Normals
from plait.metrics.normals import NormalsErrors
from plait.tasks import constant, pictures
from plait.tasks.base import Measure, Scoring, Task
from plait.tasks.loss import NormalsCosine, NormalsL1, Term, at_least_float32, unit, weighted_sum

TERMS: Mapping[str, Callable[[], Term]] = {"l1": NormalsL1, "cosine": NormalsCosine}
MEASURES = (
    Measure("mean", "mean angle", "°", higher_is_better=False),
    Measure("median", "median angle", "°", higher_is_better=False),
    Measure("rmse", "RMS angle", "°", higher_is_better=False),
    Measure("within_11_25", "within 11.25°", "%", higher_is_better=True),
    Measure("within_22_5", "within 22.5°", "%", higher_is_better=True),
    Measure("within_30", "within 30°", "%", higher_is_better=True),
)


def normals(
    name: str,
    *,
    loss: str | dict[str, float] = "l1",
    exact_median: bool = False,
    label: str = "normals",
    weight: float = 1.0,
    auxiliary: bool = False,
) -> Task:
    """Unit vectors in the camera frame; the headline measure is the mean angle over all pixels.

    Args:
        name: The task's name.
        loss: Terms with weights: ``l1`` on the normalised prediction, ``cosine``. Their likelihood is
            ``"laplace"``: for ``l1`` by definition, and 1 - cosine is the exponent of the von Mises-Fisher
            distribution on the sphere, which has the same form exp(-s) L + s as its concentration exp(-s)
            grows.
        exact_median: See :class:`plait.metrics.NormalsErrors`.
        label: The data set's field.
        weight: Fixed loss weight.
        auxiliary: Supervise it only at intermediate predictions.

    Raises:
        ConfigurationError: If a term is unknown.
    """
    scoring = scorings(partial(NormalsErrors, exact_median=exact_median))
    return Task(
        name=name,
        kind="normals",
        channels=3,
        label=label,
        label_type=Normals,
        loss=weighted_sum(loss, TERMS),
        activate=direction,
        decide=direction,
        metric=scoring["plain"].metric,
        measures=scoring["plain"].measures,
        picture=pictures.normals_picture,
        error=pictures.normals_error,
        legend=pictures.NORMALS_LEGEND,
        error_legend=pictures.error_bar("60°"),
        constant=constant.mean_normal,
        flip=mirror,
        weight=weight,
        likelihood="laplace",
        kpi="within_11_25",
        auxiliary=auxiliary,
        scoring=scoring,
        meaning="where the surface faces: unit vector, x right, y down, z forward",
        tell=angles,
    )


def angles(pixel: Tensor) -> str:
    """A normal ``[3]`` as its angle to the line of sight of the image's middle, and where it leans.

    >>> import torch
    >>> angles(torch.tensor([0.6, 0.0, -0.8])), angles(torch.tensor([0.0, 0.0, -1.0]))
    ('37° right', '0°, faces us')
    """
    x, y, z = pixel.tolist()
    degrees = math.degrees(math.acos(max(-1.0, min(1.0, -z))))
    if degrees < 1:
        return "0°, faces us"
    leans = (("up" if y < 0 else "down", y), ("left" if x < 0 else "right", x))
    words = [word for word, part in leans if abs(part) > 0.38 * math.hypot(x, y)]
    return f"{degrees:.0f}° {' and '.join(words)}"


def scorings(metric: Callable[..., NormalsErrors]) -> dict[str, Scoring]:
    """How each protocol scores: the survey from 8 bits, InvPT by the mean alone, LibMTL without RMS."""
    libmtl = (measure for measure in MEASURES if measure.name != "rmse")
    return {
        "plain": Scoring(metric, MEASURES, "within_11_25"),
        "survey": Scoring(
            partial(metric, eight_bit=True), tuple(m.under("survey") for m in MEASURES), "within_11_25"
        ),
        "invpt": Scoring(metric, (MEASURES[0].under("invpt"),)),
        "mtan": Scoring(metric, tuple(measure.under("mtan") for measure in libmtl), "within_11_25"),
    }


def direction(vectors: Tensor) -> Tensor:
    """Vectors ``[B, 3, H, W]`` of unit length; normalised again after averaging."""
    return unit(at_least_float32(vectors))


def mirror(vectors: Tensor) -> Tensor:
    """Normals ``[B, 3, H, W]`` seen in a mirror: x changes its sign."""
    return vectors * vectors.new_tensor([-1.0, 1.0, 1.0])[:, None, None]
