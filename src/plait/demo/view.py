"""A prediction as the browser needs it: pictures, words, values, legends and a surface, as text."""

from __future__ import annotations

import base64
import io
import math
import re
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from plait.demo.mesh import FIELD_OF_VIEW, mesh
from plait.demo.words import words
from plait.inference import PredictedMap, Prediction
from plait.inference.pictures import Pixels
from plait.tasks.base import Task
from plait.tasks.pictures import GREY

LONGEST_MESH = 320
"""Most rows and columns of the surface's samples."""

NO_DEPTH = "This network predicts no depth in metres, so there is nothing to build a 3D view from."
UNKNOWN = 65535
"""The code of a value that is not finite."""


def view(prediction: Prediction) -> dict[str, Any]:
    """A prediction as JSON can hold it.

    ========= ====================================================================================
    ``size``  height and width of the picture and of all maps
    ``photo`` the picture, as a ``data:`` address
    ``tasks`` a list, see :func:`task_view`
    ``mesh``  the surface, see :func:`mesh_view`; or None
    ``why``   if there is no surface, why not
    ========= ====================================================================================
    """
    height, width = prediction.size
    depth = depth_of(prediction)
    return {
        "size": [height, width],
        "photo": as_address(prediction.image, "JPEG"),
        "tasks": [task_view(found) for found in prediction.values()],
        "mesh": None if depth is None else mesh_view(depth),
        "why": NO_DEPTH if depth is None else "",
    }


def task_view(of: PredictedMap) -> dict[str, Any]:
    """One map.

    ``name``, ``title``, ``meaning`` and ``legend``; its ``words`` (:func:`packed` places in a ``table``, one
    for ``stride`` rows and columns); and its colours: either a ``picture``, or ``values``, which the browser
    colours by the legend's bar as ``limits`` let the visitor choose.
    """
    told = words(of)
    chosen = limits(of.task)
    return {
        "name": of.task.name,
        "title": of.task.name.replace("_", " "),
        "meaning": f"one of {len(of.classes)} classes" if of.classes else of.meaning,
        "legend": legend(of),
        "words": {"table": told.table, "index": packed(told.index), "stride": told.stride},
        "limits": chosen,
        "values": None if chosen is None else coded(of.values),
        "picture": as_address(of.picture, "PNG") if chosen is None else None,
    }


def legend(of: PredictedMap) -> dict[str, Any]:
    """How to read a map's picture.

    ``entries``, each with ``text``, ``colour`` and of classes ``share``, the part of the pixels that is of
    it, the largest first, without those that do not occur; ``bar``, ``[[r, g, b], ...]`` from low to high or
    None; the texts at its ends, ``low`` and ``high``; and the colour of what is ``unknown``.
    """
    shown = of.legend
    entries: list[dict[str, Any]] = [
        {"text": text, "colour": list(colour), "share": None}
        for text, colour in shown.entries
        if colour != GREY or not of.decoded.isfinite().all()
    ]
    if of.classes:
        counts = np.bincount(of.values.reshape(-1), minlength=len(of.classes))
        entries = [
            {"text": text, "colour": list(colour), "share": count / of.values.size}
            for (text, colour), count in zip(shown.entries, counts.tolist(), strict=False)
            if count
        ]
        entries.sort(key=lambda entry: -entry["share"])
    bar = None if shown.bar is None else shown.bar.tolist()
    return {"entries": entries, "bar": bar, "low": shown.low, "high": shown.high, "unknown": list(GREY)}


def limits(task: Task) -> dict[str, Any] | None:
    """What can be chosen of a picture on a colour bar; None for other pictures.

    A share of 0 to 1 without a unit has a ``threshold`` below which nothing is shown; other numbers have a
    ``range`` that the bar is stretched over. ``texts`` are the task's own words for each step from ``low`` to
    ``high``.
    """
    ends = [_number(task.legend.low), _number(task.legend.high)]
    if task.legend.bar is None or task.channels != 1 or None in ends or ends[0] == ends[1]:
        return None
    low, high = (float(end) for end in ends if end is not None)
    step = 10.0 ** math.floor(math.log10((high - low) / 50))
    values = np.linspace(low, high, round((high - low) / step) + 1, dtype=np.float32)
    share = not task.unit and (low, high) == (0.0, 1.0)
    return {
        "kind": "threshold" if share else "range",
        "low": low,
        "high": high,
        "texts": [task.told(torch.from_numpy(value[None])) for value in values],
    }


def _number(text: str) -> float | None:
    """The number that a text at a bar's end begins with.

    >>> _number("8 m"), _number("0 (far)"), _number("far")
    (8.0, 0.0, None)
    """
    found = re.match(r"-?\d+(\.\d+)?", text)
    return float(found.group()) if found else None


def depth_of(prediction: Prediction) -> PredictedMap | None:
    """The first map of one number a pixel in metres, if there is one."""
    maps: Iterator[PredictedMap] = iter(prediction.values())
    return next((found for found in maps if found.unit == "m" and len(found.decoded) == 1), None)


def mesh_view(depth: PredictedMap) -> dict[str, Any]:
    """The surface of a depth map, of at most :data:`LONGEST_MESH` rows and columns.

    ``size`` and ``stride`` of its samples, their ``depth``, and ``faces``, each number less the one before.
    Where a sample lies beside the optical axis follows from the field of view, which the visitor chooses.
    """
    stride = math.ceil(max(depth.values.shape) / LONGEST_MESH)
    surface = mesh(depth.values, stride=stride)
    return {
        "task": depth.task.name.replace("_", " "),
        "size": list(surface.size),
        "stride": surface.stride,
        "field_of_view": FIELD_OF_VIEW,
        "depth": packed(np.nan_to_num(surface.vertices[:, 2])),
        "faces": packed(np.diff(surface.faces.reshape(-1), prepend=np.int32(0))),
    }


def coded(values: NDArray[np.float32]) -> dict[str, Any]:
    """Numbers in equal steps from the ``least`` to the ``most`` of them; :data:`UNKNOWN` if not finite."""
    known = np.isfinite(values)
    least, most = (float(end(values[known])) for end in (np.min, np.max)) if known.any() else (0.0, 0.0)
    scaled = (np.where(known, values, least) - least) / (most - least or 1) * (UNKNOWN - 1)
    codes = np.where(known, scaled.round(), UNKNOWN).astype(np.uint16)
    return {"least": least, "most": most, "codes": packed(codes)}


def packed(array: NDArray[Any]) -> dict[str, Any]:
    """An array as its ``type``, ``shape`` and little-endian bytes, deflated, in base64."""
    content = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes()
    return {
        "type": array.dtype.name,
        "shape": list(array.shape),
        "bytes": base64.b64encode(zlib.compress(content, 1)).decode("ascii"),
    }


def as_address(picture: Pixels, form: str) -> str:
    """A picture as a ``data:`` address, as JPEG or, without loss, as PNG."""
    stream = io.BytesIO()
    options: dict[str, Any] = {"JPEG": {"quality": 92}, "PNG": {"compress_level": 1}}[form]
    Image.fromarray(picture).save(stream, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
