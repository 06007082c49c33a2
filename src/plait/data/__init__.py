"""Where samples come from: data sets, transforms and loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from plait import registry
from plait.data.inspection import Report, check, show
from plait.data.labels import Depth, InverseDepth, Label, Mask, Normals, Semantic
from plait.data.loader import evaluation_batches, train_batches
from plait.data.partial import PartialLabels
from plait.data.sample import Batch, DataSet, Geometry, Sample
from plait.data.transforms import Augmentation, EvaluationResize, undo

__all__ = [
    "Augmentation",
    "Batch",
    "DataSet",
    "Depth",
    "EvaluationResize",
    "Geometry",
    "InverseDepth",
    "Label",
    "Mask",
    "Normals",
    "PartialLabels",
    "Report",
    "Sample",
    "Semantic",
    "check",
    "create",
    "evaluation_batches",
    "show",
    "train_batches",
    "undo",
]


def create(name: str, *, split: str, labels: Sequence[str], **options: Any) -> DataSet:
    """A data set by its short name (or ``module:Class``).

    Args:
        name: For instance ``"rooms"``.
        split: For instance ``"train"``.
        labels: The label fields to load.
        **options: Further arguments of the data set's constructor, for instance ``root``.

    Raises:
        ConfigurationError: If name, split, a label or an option does not exist; names the nearest.
        DataError: If its files are missing or damaged.
    """
    return cast("DataSet", registry.build("data set", name, options, split=split, labels=tuple(labels)))
