"""NYU Depth v2 in any of the archives that multi-task papers use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from plait.data.labels import Label
from plait.data.nyud.layouts import ASTMT, ATRC, FIELDS, MTAN, OURS, Built, Survey
from plait.data.published import Layout, Missing, PublishedDataSet


class NYUD(PublishedDataSet):
    """NYU Depth v2: 795 pictures to train on and 654 to test.

    ======== ============================================== ==================== =======================
    variant  archive                                        classes              size
    ======== ============================================== ==================== =======================
    survey   NYUD_MT of the survey's code                   40                   480x640
    astmt    the older NYUD_MT of ASTMT's code              40                   480x640
    atrc     NYUDv2 of ATRC, InvPT and TaskPrompter         40                   425x560
    mtan     the arrays of MTAN and LibMTL, without edges   13                   288x384
    built    what ``plait data build nyud`` makes           40, 13               427x561 or 480x640
    ======== ============================================== ==================== =======================

    Labels: ``semantic`` (255 unlabelled), ``depth`` in metres, ``normals``, ``edges``. Neighbouring pictures
    stay together where ``val`` is cut from training: those of one scene where scenes are known (``built``),
    else ten successive numbers.

    Args:
        split: ``train``, ``val``, ``test`` (the 654) or ``trainval`` (the 795).
        labels: The label fields to load.
        root: The archive's folder.
        variant: Which archive it is; ``auto`` looks at the files.
        validation: The share of the 795 that is ``val``.
        missing: Whether to ``refuse`` a folder in which files of labels are missing, or to ``allow`` it.
        classes: 40 or 13; None takes the archive's own (40 of a built one, which may have both).
        normals_axes: What the channels of stored normals are, as in :class:`plait.data.encodings.Encoding`.
            The archives do not say; ``plait data check nyud ROOT`` holds them against the depth.

    Raises:
        ConfigurationError: If an option does not exist, or not for this archive.
        DataError: If the folder is of no known layout, or files are missing.
    """

    name = "nyud"
    layouts: ClassVar[Sequence[type[Layout]]] = (Built, Survey, ASTMT, ATRC, MTAN)
    fields: Mapping[str, type[Label]] = FIELDS
    licence = "the set's own terms: see its page, and cite Silberman et al., ECCV 2012"
    page = "https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html"
    measuring: Mapping[str, Any] = {"max_distance": 0.011, "outline": True}
    """How edges are scored: the share of the diagonal within which pixels match, and that it is the outline
    of the marked pixels that counts, which the protocols that know of it do."""

    def __init__(
        self,
        split: str,
        labels: Sequence[str],
        root: Path | str | None = None,
        variant: str = "auto",
        validation: float = 0.1,
        missing: Missing = "refuse",
        classes: Literal[40, 13] | None = None,
        normals_axes: str = OURS,
    ) -> None:
        options = {"classes": classes, "normals_axes": normals_axes}
        super().__init__(
            split, labels, root, variant=variant, validation=validation, missing=missing, options=options
        )
        if self.layout.name == Built.name:
            self.measuring = {"max_distance": 0.011}  # its edges are one pixel wide
