"""The classes of the rendered rooms, in the order of their ids."""

from __future__ import annotations

CLASSES: tuple[str, ...] = (
    "wall",
    "floor",
    "ceiling",
    "cabinet",
    "bed",
    "chair",
    "sofa",
    "table",
    "door",
    "window",
    "bookshelf",
    "picture",
    "curtain",
    "lamp",
    "television",
    "pillow",
    "rug",
    "books",
    "box",
    "plant",
)
"""Class names; a class's id is its place. The pixel value 255 means unknown."""

CLASS_ID: dict[str, int] = {name: place for place, name in enumerate(CLASSES)}

SHELL: frozenset[str] = frozenset({"wall", "floor", "ceiling"})
"""The room itself."""

FIXED: frozenset[str] = frozenset({"wall", "floor", "ceiling", "door", "window", "curtain", "picture", "rug"})
"""What cannot be the salient object of a view."""
