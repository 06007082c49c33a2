"""The camera of NYU Depth v2, as its toolbox states it, and the part of the picture that it says is valid."""

from __future__ import annotations

SIZE = (480, 640)
"""Height and width of the pictures in ``nyu_depth_v2_labeled.mat``."""

FOCAL = (518.85790117450188, 519.46961112127485)
"""fx and fy of the colour camera, in pixels."""

PRINCIPAL_POINT = (325.58244941119034, 253.73616633400465)
"""cx and cy, with the toolbox's pixel coordinates: the centre of the first pixel is at (1, 1)."""

VALID = (slice(44, 471), slice(40, 601))
"""Rows and columns inside the white border (45..471 and 41..601 counted from 1), 427x561."""

CROPS = {SIZE: (0, 0), (427, 561): (44, 40), (425, 560): (45, 40)}
"""First row and column of the known cuts of a picture: none, the toolbox's, and Gupta's (rows 46..470)."""


def intrinsics(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """``(fx, fy, cx, cy)`` in pixels of a picture, the centre of its first pixel at (0.5, 0.5).

    A picture of a size that is no known cut is taken to be the whole one, scaled.

    >>> [round(number, 2) for number in intrinsics((480, 640))]
    [518.86, 519.47, 325.08, 253.24]
    >>> [round(number, 2) for number in intrinsics((427, 561))]
    [518.86, 519.47, 285.08, 209.24]
    """
    (fx, fy), (cx, cy) = FOCAL, (PRINCIPAL_POINT[0] - 0.5, PRINCIPAL_POINT[1] - 0.5)
    if size in CROPS:
        top, left = CROPS[size]
        return (fx, fy, cx - left, cy - top)
    y, x = size[0] / SIZE[0], size[1] / SIZE[1]
    return (fx * x, fy * y, cx * x, cy * y)
