"""The two lists of classes that NYU Depth v2 is scored with; a class's id is its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CLASSES_40 = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture",
    "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes",
    "ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard",
    "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture",
    "otherprop",
)  # fmt: skip
"""Gupta, Arbelaez and Malik, CVPR 2013; in ``classMapping40.mat`` and the archives a class is one higher."""

CLASSES_13 = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table",
    "television", "wall", "window",
)  # fmt: skip
"""Couprie et al., ICLR 2013; in ``class13Mapping.mat`` a class is one higher."""

CLASSES: Mapping[int, Sequence[str]] = {40: CLASSES_40, 13: CLASSES_13}
