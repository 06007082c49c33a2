"""Where a picture is taken from: views of furniture at eye height, checked on a small label image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from plait.data.rooms.classes import CLASSES, SHELL
from plait.data.rooms.geometry import Floats
from plait.data.rooms.labels import Labels
from plait.data.rooms.layout import Room, Solid


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with square pixels and the principal point in the middle.

    Attributes:
        position: ``[3]`` metres in the room.
        rotation: ``[3, 3]``; its rows are the camera's right, down and forward directions in the room.
        field_of_view: Horizontal, in degrees.
    """

    position: Floats
    rotation: Floats
    field_of_view: float

    def focal(self, width: int) -> float:
        """Focal length in pixels at an image width."""
        return width / 2 / math.tan(math.radians(self.field_of_view) / 2)

    def rays(self, height: int, width: int) -> Floats:
        """Directions through the pixel centres in the camera's frame, z = 1: ``[height * width, 3]``."""
        focal = self.focal(width)
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        rays = np.stack([(x - width / 2) / focal, (y - height / 2) / focal, np.ones_like(x)], -1)
        return rays.reshape(-1, 3)


def look(position: Floats, target: Floats, field_of_view: float, roll: float = 0.0) -> Camera:
    """A camera that looks from one point to another; ``roll`` in radians."""
    forward = target - position
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = math.cos(roll), math.sin(roll)
    return Camera(position, np.stack([c * right + s * down, c * down - s * right, forward]), field_of_view)


INTEREST = {
    "bed": 4,
    "sofa": 3,
    "chair": 4,
    "table": 4,
    "television": 2,
    "cabinet": 2,
    "box": 2,
    "rug": 2,
    "plant": 1,
}
"""How often a view is aimed at a class that the room has, relative to the classes not named, which have 1."""


def _free(room: Room, position: Floats, radius: float = 0.18) -> bool:
    for solid in room.solids:
        low, high = solid.boxes.bounds()
        if ((low - radius < position) & (position < high + radius)).all(1).any():
            return False
    return True


def sample(room: Room, rng: np.random.Generator) -> Camera | None:
    """One random view of a random piece, its class drawn by `INTEREST`; None if no free place was found."""
    width, depth, _ = room.size
    by_class: dict[str, list[Solid]] = {}
    for solid in room.solids:
        if solid.mount != "ceiling":
            by_class.setdefault(solid.piece.kind, []).append(solid)
    kinds = sorted(by_class)
    interest = np.array([INTEREST.get(kind, 1) for kind in kinds], float)
    interest /= interest.sum()
    for _ in range(40):
        choices = by_class[kinds[int(rng.choice(len(kinds), p=interest))]]
        target_solid = choices[int(rng.integers(len(choices)))]
        low, high = target_solid.boxes.bounds()
        target = (low.min(0) + high.max(0)) / 2
        position = np.array(
            [rng.uniform(0.25, width - 0.25), rng.uniform(0.25, depth - 0.25), rng.uniform(1.15, 1.7)]
        )
        if math.dist(position[:2], target[:2]) < 1.6 or not _free(room, position):
            continue
        target = target + rng.normal(0, 0.25, 3)
        reach = math.dist(position[:2], target[:2])
        pitch = float(np.clip(math.atan2(target[2] - position[2], reach), -0.5, 0.0)) + rng.normal(0, 0.05)
        target[2] = position[2] + reach * math.tan(pitch)
        return look(position, target, float(rng.uniform(58, 72)), float(rng.normal(0, 0.015)))
    return None


def acceptable(labels: Labels) -> bool:
    """Whether a view is worth keeping: nothing too near, no class too dominant, enough furniture."""
    share = np.bincount(labels.semantic[labels.semantic < 255], minlength=len(CLASSES)) / labels.semantic.size
    furniture = 1 - sum(share[CLASSES.index(name)] for name in SHELL)
    nearest = float(np.nanpercentile(labels.depth, 1))
    return bool(
        np.isfinite(labels.depth).all()
        and nearest > 0.6
        and float(np.nanmedian(labels.depth)) > 1.3
        and int((share > 0.005).sum()) >= 7
        and share.max() < 0.55
        and furniture > 0.25
    )


def views(
    room: Room,
    rng: np.random.Generator,
    count: int,
    cast: Callable[[Camera, tuple[int, int]], Labels],
    *,
    tries: int = 40,
) -> list[Camera]:
    """Up to ``count`` acceptable views that differ by at least 2 m or 40 degrees."""
    found: list[Camera] = []
    for _ in range(tries * count):
        camera = sample(room, rng)
        if camera is None or any(_alike(camera, other) for other in found):
            continue
        if acceptable(cast(camera, (48, 64))):
            found.append(camera)
            if len(found) == count:
                break
    return found


def _alike(first: Camera, second: Camera) -> bool:
    turned = float(first.rotation[2] @ second.rotation[2]) < math.cos(math.radians(40))
    return not turned and math.dist(first.position, second.position) < 2.0
