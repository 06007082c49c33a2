"""Cityscapes for several tasks, from any of three sets of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from plait.data.cityscapes.numbered import MTAN, PNG
from plait.data.cityscapes.official import FIELDS as OFFICIAL_FIELDS
from plait.data.cityscapes.official import Official
from plait.data.labels import Label, Semantic
from plait.data.published import Missing, PublishedDataSet

FIELDS: Mapping[str, type[Label]] = {**OFFICIAL_FIELDS, "parts": Semantic}


class Cityscapes(PublishedDataSet):
    """Cityscapes, 2975 images of streets for training and 500 for testing.

    Args:
        split: ``train``, ``val``, ``test`` or ``trainval``; ``test`` is what the owners call val, since the
            labels of their own test images are not public.
        labels: Of ``semantic``, ``instances``, ``depth``, ``inverse_depth`` and ``parts``; which there are
            depends on the variant.
        root: The folder.
        variant: ``official`` (the owners' files), ``mtan`` (the ``.npy`` package of MTAN and LibMTL), ``png``
            (auto-lambda's small pictures), or ``auto``. Their numbers are not comparable.
        validation: The share of the training part that is ``val``; whole cities with ``official``.
        missing: ``refuse`` or ``allow`` samples without the file of a label.
        classes: 2, 7 or 19 semantic classes where the ``mtan`` package holds several; by default what is
            there, and 7 if all are. The other variants have 19.

    Raises:
        ConfigurationError: If a split, label or option does not exist; names the nearest.
        DataError: If the folder is of no known layout, or files are missing or damaged.

    Source:
        Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016.
    """

    name = "cityscapes"
    layouts = (Official, MTAN, PNG)
    fields = FIELDS
    licence = "Cityscapes' own: research and other non-commercial use, after registration, no redistribution"
    page = "https://www.cityscapes-dataset.com"

    def __init__(
        self,
        split: str,
        labels: Sequence[str],
        root: Path | str | None = None,
        variant: str = "auto",
        validation: float = 0.1,
        missing: Missing = "refuse",
        classes: int | None = None,
    ) -> None:
        super().__init__(
            split,
            labels,
            root,
            variant=variant,
            validation=validation,
            missing=missing,
            options={"classes": classes, "missing": missing},
        )
