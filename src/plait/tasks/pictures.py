"""Pictures of maps for people: ``uint8 [H, W, 3]``, unknown pixels grey."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from plait.data.labels import UNKNOWN_CLASS
from plait.metrics.normals import angle
from plait.tasks.base import Legend

GREY = (128, 128, 128)
WRONG = (214, 48, 39)
RIGHT = (235, 235, 235)

# Stops of equal distance: dark is far or wrong-free, bright is near or wrong. Lightness rises steadily.
# fmt: off
_INFERNO = (
    (0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66),
    (245, 125, 21), (250, 193, 39), (252, 255, 164),
)
# fmt: on
_GREYS = ((20, 20, 20), (255, 255, 255))
# The first classes get hand-picked hues; none is near the grey of unknown pixels.
# fmt: off
_FIRST = (
    (31, 119, 180), (255, 187, 120), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (255, 237, 111), (23, 190, 207), (227, 119, 194), (140, 86, 75), (152, 223, 138),
    (255, 127, 14), (174, 199, 232), (0, 90, 60), (255, 152, 150), (90, 20, 120),
    (188, 189, 34), (0, 0, 128), (128, 0, 0), (197, 176, 213), (64, 224, 160),
)
# fmt: on


def ramp(stops: Sequence[Sequence[int]], steps: int = 256) -> np.ndarray:
    """A colour bar, ``uint8 [steps, 3]``, linear between stops of equal distance."""
    at = np.linspace(0, len(stops) - 1, steps)
    channels = np.asarray(stops, dtype=float).T
    return np.stack([np.interp(at, np.arange(len(stops)), c) for c in channels], 1).round().astype(np.uint8)


def palette(classes: int) -> np.ndarray:
    """A colour a class, ``uint8 [classes, 3]``; the same class always has the same colour.

    >>> palette(2).tolist()
    [[31, 119, 180], [255, 187, 120]]
    """
    # Steps of the golden angle spread the hues of any number of further classes.
    further = [
        colorsys.hsv_to_rgb(k * 0.618034 % 1, (0.9, 0.5, 0.75)[k % 3], (0.95, 0.85, 0.5)[k % 3])
        for k in range(max(classes - len(_FIRST), 0))
    ]
    return np.array([*_FIRST, *(np.array(further) * 255).round().astype(int).tolist()], np.uint8)[:classes]


def class_legend(names: Sequence[str]) -> Legend:
    """One colour a class name."""
    colours = [(int(r), int(g), int(b)) for r, g, b in palette(len(names))]
    return Legend(entries=(*zip(names, colours, strict=True), ("unknown", GREY)))


def class_picture(ids: Tensor, classes: int) -> np.ndarray:
    """Class ids ``[1, H, W]`` in their palette; ids outside the classes are grey."""
    table = np.full((256, 3), GREY, np.uint8)
    table[:classes] = palette(classes)
    inside = (ids >= 0) & (ids < classes)
    picture: np.ndarray = table[ids.where(inside, UNKNOWN_CLASS)[0].cpu().numpy()]
    return picture


def class_error(ids: Tensor, label: Tensor) -> np.ndarray:
    """Wrong pixels red, right ones light, unknown ones grey; ids and label ``[1, H, W]``."""
    picture = np.array([WRONG, RIGHT], np.uint8)[(ids == label)[0].long().cpu().numpy()]
    return _grey(picture, (label == UNKNOWN_CLASS)[0])


CLASS_ERROR_LEGEND = Legend(entries=(("right", RIGHT), ("wrong", WRONG), ("unknown", GREY)))


DEPTH_BAR = ramp(_INFERNO[::-1])
ERROR_BAR = ramp(_INFERNO)
PROBABILITY_BAR = ramp(_GREYS)


def bar_picture(values: Tensor, bar: np.ndarray, low: float, high: float) -> np.ndarray:
    """A map ``[1, H, W]`` on a colour bar from ``low`` to ``high``, clipped; not-finite pixels grey."""
    scaled = ((values[0].float() - low) / (high - low)).clamp(0, 1).nan_to_num(0.0) * (len(bar) - 1)
    return _grey(bar[scaled.round().long().cpu().numpy()], ~values[0].isfinite())


def error_bar(high: str) -> Legend:
    """How to read a map of errors from zero to ``high``, which names its unit."""
    return Legend(bar=ERROR_BAR, low="0", high=f"{high} or more")


def absolute_error(values: Tensor, label: Tensor, high: float) -> np.ndarray:
    """The absolute difference of two maps ``[1, H, W]``, black to yellow from 0 to ``high``."""
    return bar_picture((values - label).abs(), ERROR_BAR, 0.0, high)


def normals_picture(vectors: Tensor) -> np.ndarray:
    """Normals ``[3, H, W]`` as colours: red to the right, green up, blue towards the viewer."""
    towards = vectors.float() * vectors.new_tensor([1.0, -1.0, -1.0]).float()[:, None, None]
    colours = ((towards.nan_to_num(0.0) + 1) / 2 * 255).round().clamp(0, 255)
    return _grey(colours.permute(1, 2, 0).to(torch.uint8).cpu().numpy(), ~vectors.isfinite().all(0))


NORMALS_LEGEND = Legend(
    entries=(
        ("faces us", (128, 128, 255)),
        ("faces right", (255, 128, 128)),
        ("faces left", (0, 128, 128)),
        ("faces up", (128, 255, 128)),
        ("faces down", (128, 0, 128)),
        ("unknown", GREY),
    )
)


def normals_error(vectors: Tensor, label: Tensor, high: float = 60.0) -> np.ndarray:
    """The angle between two maps of normals ``[3, H, W]``, black to yellow from 0 to ``high`` degrees."""
    return bar_picture(angle(vectors.movedim(0, -1), label.movedim(0, -1))[None], ERROR_BAR, 0.0, high)


def _grey(picture: np.ndarray, where: Tensor) -> np.ndarray:
    picture = picture.copy()
    picture[where.cpu().numpy()] = GREY
    return picture
