"""Exact labels: one ray through the centre of every pixel, against the triangles themselves.

Depth, normals and reflectance are computed in double precision from the triangle that the ray meets first;
Embree only says which one that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plait.data.rooms.assembly import ATLAS, Assembly
from plait.data.rooms.classes import CLASS_ID, FIXED
from plait.errors import MissingExtraError

if TYPE_CHECKING:
    from plait.data.rooms.camera import Camera

RENDER_COMMAND = "pip install 'plait[render]'"


@dataclass(frozen=True, eq=False)
class Labels:
    """What every pixel shows; all maps are ``[H, W]`` or ``[H, W, 3]``.

    Attributes:
        semantic: uint8 class ids, 255 where the ray left the room.
        instance: uint16 instance ids, 0 where the ray left the room.
        depth: float32 metres along the optical axis, NaN where unknown.
        normals: float32 unit vectors, x right, y down, z forward, facing the camera; NaN where unknown.
        albedo: float32 linear reflectance (of lamps, windows and screens: the picture they show).
        group: int emitter group of the surface, 0 for none.
    """

    semantic: NDArray[np.uint8]
    instance: NDArray[np.uint16]
    depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    albedo: NDArray[np.float32]
    group: NDArray[np.int64]


class RayCaster:
    """Casts rays into one room.

    Args:
        assembly: The room's triangles.

    Raises:
        MissingExtraError: If embreex is not installed.
    """

    def __init__(self, assembly: Assembly) -> None:
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ImportError as error:
            raise MissingExtraError(
                f"Rendering rooms needs embreex, which is not installed; run {RENDER_COMMAND}."
            ) from error
        self.assembly = assembly
        self._scene: Any = EmbreeScene()
        triangles = assembly.vertices.reshape(-1, 3, 3).astype(np.float32)
        self._mesh: Any = TriangleMesh(self._scene, triangles)

    def labels(self, camera: Camera, size: tuple[int, int]) -> Labels:
        """The labels of a view at ``(height, width)``."""
        height, width = size
        scene = self.assembly
        rays = camera.rays(height, width)
        directions = rays @ camera.rotation
        origins = np.repeat(camera.position[None], len(rays), 0)
        face = np.asarray(
            self._scene.run(origins.astype(np.float32), directions.astype(np.float32), query="INTERSECT")
        ).astype(np.int64)
        seen = face >= 0
        face = np.where(seen, face, 0)
        a, b, c = np.moveaxis(scene.vertices.reshape(-1, 3, 3)[face], 1, 0)
        normal = np.cross(b - a, c - a)
        along = (normal * directions).sum(1)
        # rays have z = 1 in the camera's frame, so the ray parameter is the depth along the optical axis
        depth = (normal * (a - camera.position)).sum(1) / np.where(along == 0, np.nan, along)
        weights = _barycentric(camera.position + depth[:, None] * directions, a, b, c, normal)
        corners = face[:, None] * 3 + np.arange(3)
        shading = (scene.normals[corners] * weights[..., None]).sum(1)
        facing = np.where(along > 0, -1.0, 1.0)[:, None]
        normal, shading = normal * facing, shading * facing
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        shading /= np.maximum(np.linalg.norm(shading, axis=1, keepdims=True), 1e-12)
        # near a silhouette an interpolated normal may look away although its triangle faces us
        away = (shading * directions).sum(1) >= -1e-6
        shading[away] = normal[away]
        in_camera = shading @ camera.rotation.T
        uv = (scene.uv[corners] * weights[..., None]).sum(1)
        column, row = (np.clip((uv[:, k] * ATLAS).astype(int), 0, ATLAS - 1) for k in (0, 1))
        albedo = scene.albedo[row, column]
        return Labels(
            semantic=np.where(seen, scene.semantic[face], 255).astype(np.uint8).reshape(size),
            instance=np.where(seen, scene.instance[face], 0).astype(np.uint16).reshape(size),
            depth=np.where(seen, depth, np.nan).astype(np.float32).reshape(size),
            normals=np.where(seen[:, None], in_camera, np.nan).astype(np.float32).reshape(*size, 3),
            albedo=np.where(seen[:, None], albedo, 1).astype(np.float32).reshape(*size, 3),
            group=np.where(seen, scene.group[face], 0).reshape(size),
        )


def _barycentric(
    point: NDArray[np.float64],
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    c: NDArray[np.float64],
    normal: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Weights ``[N, 3]`` of a triangle's corners at a point of its plane, clipped to the triangle."""
    square = (normal * normal).sum(1)
    second = (np.cross(point - a, c - a) * normal).sum(1) / square
    third = (np.cross(b - a, point - a) * normal).sum(1) / square
    weights = np.nan_to_num(np.clip(np.stack([1 - second - third, second, third], 1), 0, 1), nan=1 / 3)
    total: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return total


def edges(instance: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Instance boundaries, one pixel wide: ``[H, W]``.

    A pixel is an edge where its instance id differs from that of its right or its lower neighbour. The four
    walls, the floor and the ceiling are instances, so the creases of the room are edges too; edges inside one
    object are not.
    """
    edge = np.zeros(instance.shape, bool)
    edge[:, :-1] |= instance[:, :-1] != instance[:, 1:]
    edge[:-1] |= instance[:-1] != instance[1:]
    return edge


def saliency(labels: Labels, parents: dict[int, int]) -> NDArray[np.bool_]:
    """The objects that stand out in a view, ``[H, W]``; a function of the labels alone.

    Candidates are the movable objects, each with what came with it (a bed with its pillows, a shelf with its
    books), that cover 0.4 % to 45 % of the image. An object's score is the product of

    * size: the square root of its share of the image, taken to be at most 12 %;
    * centrality: the mean over its pixels of ``exp(-4 r^2)``, r being the distance to the image's centre with
      half the image's diagonal as unit;
    * distinctness: 0.15 plus the distance between its mean colour and the mean colour of the rest of its
      bounding box enlarged by a quarter on each side, both square roots of the reflectance;
    * 0.6 if it is cut off by the image's border.

    Salient are the object of the highest score and every other that reaches 70 % of it, three at most.
    """
    height, width = labels.instance.shape
    fixed = np.isin(labels.semantic, [CLASS_ID[name] for name in FIXED]) | (labels.semantic == 255)
    lookup = np.arange(int(labels.instance.max()) + 1)
    for child, parent in parents.items():
        if child < len(lookup):
            lookup[child] = parent
    objects = np.where(fixed, 0, lookup[labels.instance])
    y, x = np.mgrid[:height, :width] + 0.5
    radius = ((x - width / 2) ** 2 + (y - height / 2) ** 2) / ((width / 2) ** 2 + (height / 2) ** 2)
    central, shade = np.exp(-4 * radius), np.sqrt(labels.albedo)
    scores: dict[int, float] = {}
    for number in np.unique(objects[objects > 0]):
        mask = objects == number
        share = float(mask.mean())
        if not 0.004 <= share <= 0.45:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        dy, dx = (rows[-1] - rows[0]) // 4 + 1, (columns[-1] - columns[0]) // 4 + 1
        window = np.s_[
            max(rows[0] - dy, 0) : rows[-1] + dy + 1, max(columns[0] - dx, 0) : columns[-1] + dx + 1
        ]
        rest = ~mask[window]
        around = shade[window][rest].mean(0) if rest.any() else np.zeros(3)
        distinct = 0.15 + float(np.linalg.norm(shade[mask].mean(0) - around))
        cut = rows[0] == 0 or columns[0] == 0 or rows[-1] == height - 1 or columns[-1] == width - 1
        scores[int(number)] = (
            min(share, 0.12) ** 0.5 * float(central[mask].mean()) * distinct * (0.6 if cut else 1)
        )
    if not scores:
        return np.zeros((height, width), bool)
    ranked = sorted(scores, key=lambda number: (-scores[number], number))
    chosen = [number for number in ranked[:3] if scores[number] >= 0.7 * scores[ranked[0]]]
    return np.isin(objects, chosen)
