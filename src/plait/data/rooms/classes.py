"""The classes of ``rooms``; a pixel's class id is its class's place here."""

CLASSES = (
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
