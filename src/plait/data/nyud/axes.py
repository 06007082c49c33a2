"""Which way do stored normals face? They are held against the normals of the depth of the same pictures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.data.nyud.camera import intrinsics
from plait.data.published import Layout
from plait.data.surface_normals import surface_normals
from plait.errors import DataError

Floats = NDArray[np.floating[Any]]

CANDIDATES = tuple(
    "".join(itertools.chain(*zip(signs, axes, strict=True)))
    for axes in itertools.permutations("xyz")
    for signs in itertools.product("+-", repeat=3)
)


def median_angles(stored: Floats, expected: Floats) -> dict[str, float]:
    """For each way to name the stored channels, how far they lie from what is expected.

    Args:
        stored: Unit vectors ``[3, N]``, channels as stored.
        expected: Unit vectors ``[3, N]`` in our axes.

    Returns:
        ``{axes as in Encoding: median angle in degrees}``.
    """
    products = stored[:, None] * expected[None]  # stored channel, our axis
    return {
        axes: float(np.degrees(np.median(np.arccos(np.clip(_cosines(products, axes), -1, 1)))))
        for axes in CANDIDATES
    }


def _cosines(products: Floats, axes: str) -> Floats:
    total: Floats = np.zeros(products.shape[2:], products.dtype)
    for channel, (sign, axis) in enumerate(zip(axes[::2], axes[1::2], strict=True)):
        product = products[channel, "xyz".index(axis)]
        total = total + product if sign == "+" else total - product
    return total


def axes_note(layout: Layout, samples: Sequence[str], axes: str) -> str:
    """One sentence on whether a layout's normals, read with ``axes``, agree with its depth.

    Args:
        layout: Of fields ``depth`` and ``normals``.
        samples: The pictures to look at.
        axes: How the layout reads its normals.
    """
    stored, expected = [], []
    for sample in samples:
        if layout.path("depth", sample) is None or layout.path("normals", sample) is None:
            continue
        try:
            depth = layout.label("depth", sample, "train").numpy()[0]
            normals = layout.label("normals", sample, "train").numpy()
        except DataError:
            continue  # named where samples are checked
        if normals.shape[1:] != depth.shape:
            continue
        fitted = surface_normals(depth, intrinsics((depth.shape[0], depth.shape[1])))
        known = np.isfinite(fitted[0]) & np.isfinite(normals[0])
        stored.append(_as_stored(normals[:, known], axes))
        expected.append(fitted[:, known])
    if not sum(part.shape[1] for part in stored):
        return "not compared with depth: no picture with both was found"
    angles = median_angles(np.concatenate(stored, 1), np.concatenate(expected, 1))
    best = min(angles, key=lambda name: angles[name])
    said = f"read as {axes!r}, they lie {angles[axes]:.0f} degrees (median) from the normals of the depth"
    if angles[best] < 0.8 * angles[axes] and angles[axes] > 5:
        return f"{said}; {best!r} fits better ({angles[best]:.0f} degrees): set normals_axes to it"
    return said


def _as_stored(normals: Floats, axes: str) -> Floats:
    signs = [1 if sign == "+" else -1 for sign in axes[::2]]
    return np.stack([s * normals["xyz".index(axis)] for s, axis in zip(signs, axes[1::2], strict=True)])
