"""Triangle meshes, and the oriented boxes that keep solids apart.

Lengths are metres, z points up, triangles are seen from both sides. A mesh is modelled in the frame of its
piece of furniture: back at ``y = 0``, front towards ``+y``, standing on ``z = 0``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Mesh(NamedTuple):
    """Triangles: vertices ``[N, 3]``, faces ``[M, 3]``, texture coordinates ``[N, 2]`` (metres or 0..1)."""

    vertices: Floats
    faces: Ints
    uv: Floats

    def moved(self, offset: ArrayLike) -> Mesh:
        """The mesh shifted by ``offset``."""
        return self._replace(vertices=self.vertices + np.asarray(offset, float))

    def turned(self, angle: float, axis: int) -> Mesh:
        """The mesh turned about a coordinate axis through the origin, by radians, right-handed."""
        return self._replace(vertices=self.vertices @ _rotation(angle, axis).T)


class Pose(NamedTuple):
    """Where a piece stands: position and rotation about z in radians."""

    x: float
    y: float
    z: float = 0.0
    yaw: float = 0.0

    def apply(self, points: Floats) -> Floats:
        """Points ``[N, 3]`` of the piece's frame in the frame the pose is given in."""
        moved: Floats = points @ _rotation(self.yaw, 2).T + np.array([self.x, self.y, self.z])
        return moved

    def then(self, outer: Pose) -> Pose:
        """This pose, given in the frame of ``outer``, seen from outside."""
        x, y, z = outer.apply(np.array([[self.x, self.y, self.z]]))[0]
        return Pose(float(x), float(y), float(z), self.yaw + outer.yaw)


def _rotation(angle: float, axis: int) -> Floats:
    c, s = math.cos(angle), math.sin(angle)
    rotation = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation[i, i] = rotation[j, j] = c
    rotation[i, j], rotation[j, i] = -s, s
    return rotation


# ---------------------------------------------------------------------------------------------- meshes


def join(meshes: Iterable[Mesh]) -> Mesh:
    """All meshes as one."""
    meshes = list(meshes)
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]),
        np.concatenate([mesh.uv for mesh in meshes]),
    )


def _grid_faces(rows: int, columns: int) -> Ints:
    """Two triangles for every cell of a grid of ``rows x columns`` vertices."""
    place = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = place[:-1, :-1], place[1:, :-1], place[1:, 1:], place[:-1, 1:]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def quad(origin: ArrayLike, u: ArrayLike, v: ArrayLike, *, fit: bool = False) -> Mesh:
    """A parallelogram; its texture coordinates are metres, or 0..1 with ``fit``."""
    origin, u, v = (np.asarray(vector, float) for vector in (origin, u, v))
    corners = np.stack([origin, origin + u, origin + u + v, origin + v])
    width, height = (1.0, 1.0) if fit else (float(np.linalg.norm(u)), float(np.linalg.norm(v)))
    uv = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]), uv)


def rectangle(x0: float, x1: float, z0: float, z1: float, y: float, *, fit: bool = False) -> Mesh:
    """An upright rectangle facing +y; with ``fit`` the texture's first row is its upper edge."""
    if fit:  # seen from +y, x runs to the left
        mesh = quad((x1, y, z1), (x0 - x1, 0, 0), (0, 0, z0 - z1), fit=True)
        return mesh._replace(faces=mesh.faces[:, ::-1])
    return quad((x0, y, z0), (0, 0, z1 - z0), (x1 - x0, 0, 0))


def box(centre: ArrayLike, size: ArrayLike) -> Mesh:
    """An axis-aligned box."""
    centre, half = np.asarray(centre, float), np.asarray(size, float) / 2
    sides = []
    for axis in range(3):
        iu, iv = ((1, 2), (0, 2), (0, 1))[axis]
        for sign in (-1, 1):
            u, v = np.zeros(3), np.zeros(3)
            u[iu], v[iv] = 2 * half[iu], 2 * half[iv]
            origin = centre - half
            origin[axis] = centre[axis] + sign * half[axis]
            if (sign > 0) == (axis == 1):
                origin, u = origin + u, -u
            sides.append(quad(origin, u, v))
    return join(sides)


def block(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> Mesh:
    """An axis-aligned box from its three intervals."""
    low, high = np.array([x[0], y[0], z[0]]), np.array([x[1], y[1], z[1]])
    return box((low + high) / 2, high - low)


def cushion(centre: ArrayLike, size: ArrayLike, radius: float = 0.05, segments: int = 3) -> Mesh:
    """A box with rounded edges of a radius (at most half the smallest side)."""
    centre, half = np.asarray(centre, float), np.asarray(size, float) / 2
    radius = min(radius, 0.98 * float(half.min()))
    steps = np.linspace(0, 1, segments + 1)
    sides = []
    for axis in range(3):
        iu, iv = ((1, 2), (0, 2), (0, 1))[axis]
        lines = [
            np.concatenate([-half[k] + radius * steps, half[k] - radius * (1 - steps)]) for k in (iu, iv)
        ]
        s, t = np.meshgrid(*lines, indexing="ij")
        for sign in (-1, 1):
            points = np.zeros((*s.shape, 3))
            points[..., iu], points[..., iv], points[..., axis] = s, t, sign * half[axis]
            inner = np.clip(points, -(half - radius), half - radius)
            away = points - inner
            away /= np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-9)
            faces = _grid_faces(*s.shape)
            if (sign > 0) == (axis == 1):
                faces = faces[:, ::-1]
            uv = np.stack([s, t], -1).reshape(-1, 2)
            sides.append(Mesh((inner + radius * away + centre).reshape(-1, 3), faces, uv))
    return join(sides)


def pillow(size: ArrayLike) -> Mesh:
    """A stuffed pillow, thin at its seams, centred on the origin; the smallest side is its thickness."""
    half = np.asarray(size, float) / 2
    mesh = cushion((0, 0, 0), size, float(half.min()) * 0.96, 5)
    thin = int(np.argmin(half))
    others = [axis for axis in range(3) if axis != thin]
    vertices = mesh.vertices.copy()
    rim = np.clip((np.abs(vertices[:, others]) / half[others]).max(1) ** 3, 0, 1)
    vertices[:, thin] *= 1 - 0.45 * rim
    return mesh._replace(vertices=vertices)


def lathe(profile: Sequence[tuple[float, float]], centre: ArrayLike = (0, 0, 0), sides: int = 20) -> Mesh:
    """A surface of revolution about z through ``centre``, from ``(radius, height)`` pairs."""
    radius, height = np.asarray(profile, float).T[:, :, None]
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    points = np.stack(
        [radius * np.cos(angle), radius * np.sin(angle), np.repeat(height, sides + 1, 1)], -1
    ) + np.asarray(centre, float)
    uv = np.stack([np.repeat(angle[None] * 0.15, len(radius), 0), np.repeat(height, sides + 1, 1)], -1)
    faces = _grid_faces(len(radius), sides + 1)[:, ::-1]  # facing outwards
    return Mesh(points.reshape(-1, 3), faces, uv.reshape(-1, 2))


def cylinder(
    centre: ArrayLike, radius: float, height: float, sides: int = 16, top: float | None = None
) -> Mesh:
    """A closed cylinder, or a truncated cone with ``top``, standing on ``centre``."""
    top = radius if top is None else top
    rim = 1e-4  # keeps the caps' normals apart from the side's
    profile = [(rim, 0), (radius, 0), (radius, rim), (top, height - rim), (top, height), (rim, height)]
    return lathe(profile, centre, sides)


def rod(start: ArrayLike, end: ArrayLike, radius: float, sides: int = 10) -> Mesh:
    """A round bar between two points."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = end - start
    length = float(np.linalg.norm(along))
    along /= length
    side = np.cross(along, [0, 0, 1.0] if abs(along[2]) < 0.9 else [1.0, 0, 0])
    side /= np.linalg.norm(side)
    frame = np.stack([side, np.cross(along, side), along])
    mesh = cylinder((0, 0, 0), radius, length, sides)
    return mesh._replace(vertices=mesh.vertices @ frame + start)


def curtain(x: tuple[float, float], z: tuple[float, float], y: float, depth: float, folds: float) -> Mesh:
    """A hanging cloth with sine folds about the plane ``y``, ``depth`` deep in all."""
    across = np.linspace(*x, 61)
    wave = y + depth / 2 * np.sin(np.linspace(0, 2 * np.pi * folds, 61))
    points = np.stack([np.stack([across, wave, np.full(61, height)], -1) for height in z])
    uv = np.stack([np.stack([across * 1.6, np.full(61, height)], -1) for height in z])
    return Mesh(points.reshape(-1, 3), _grid_faces(2, 61), uv.reshape(-1, 2))


def leaf(base: ArrayLike, direction: ArrayLike, length: float, width: float, droop: float = 0.45) -> Mesh:
    """A bending leaf that grows from ``base``."""
    along = np.asarray(direction, float)
    along = along / np.linalg.norm(along)
    side = np.cross(along, [0, 0, 1.0] if abs(along[2]) < 0.99 else [1.0, 0, 0])
    side /= np.linalg.norm(side)
    t = np.linspace(0, 1, 6)[:, None]
    spine = np.asarray(base, float) + along * length * t - np.array([0, 0, 1.0]) * (droop * length * t**2)
    half = side * (width * np.sin(np.pi * (0.9 * t + 0.08)))
    points = np.stack([spine - half, spine + half], 1).reshape(-1, 3)
    uv = np.stack([np.tile([0.0, 0.2], 6), np.repeat(t[:, 0] * 0.2, 2)], -1)
    return Mesh(points, _grid_faces(6, 2), uv)


# ----------------------------------------------------------------------------------------------- boxes


@dataclass(frozen=True, eq=False)
class Boxes:
    """Upright boxes: centre ``[N, 2]``, half sides ``[N, 2]``, yaw ``[N]``, z from-to ``[N, 2]``."""

    centre: Floats
    half: Floats
    yaw: Floats
    z: Floats

    def __len__(self) -> int:
        """How many boxes there are."""
        return int(self.yaw.shape[0])

    @classmethod
    def of(cls, corners: Sequence[tuple[Floats, Floats]], pose: Pose) -> Boxes:
        """Boxes given by their ``(low, high)`` corners in a piece's frame, placed by its pose."""
        low = np.array([low for low, _ in corners]).reshape(-1, 3)
        high = np.array([high for _, high in corners]).reshape(-1, 3)
        centre = pose.apply((low + high) / 2)
        return cls(
            centre[:, :2],
            (high - low)[:, :2] / 2,
            np.full(len(low), pose.yaw),
            np.stack([low[:, 2], high[:, 2]], 1) + pose.z,
        )

    @classmethod
    def concatenate(cls, groups: Iterable[Boxes]) -> Boxes:
        """All boxes of several groups."""
        groups = list(groups)
        if not groups:
            return cls(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros((0, 2)))
        fields = ("centre", "half", "yaw", "z")
        return cls(*(np.concatenate([getattr(group, name) for group in groups]) for name in fields))

    def bounds(self) -> tuple[Floats, Floats]:
        """The lowest and highest coordinates of each box, ``[N, 3]`` each."""
        c, s = np.abs(np.cos(self.yaw)), np.abs(np.sin(self.yaw))
        reach = np.stack(
            [c * self.half[:, 0] + s * self.half[:, 1], s * self.half[:, 0] + c * self.half[:, 1]], 1
        )
        low = np.concatenate([self.centre - reach, self.z[:, :1]], 1)
        high = np.concatenate([self.centre + reach, self.z[:, 1:]], 1)
        return low, high

    def axes(self) -> Floats:
        """The unit vectors of each box's sides in the plane, ``[N, 2, 2]``."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], 1)

    def meet(self, other: Boxes, tolerance: float = 1e-4) -> NDArray[np.bool_]:
        """Which boxes of the two groups interpenetrate by more than ``tolerance``: ``[N, M]``.

        Exact for upright boxes: separating axes in the plane, intervals in z.
        """
        if not len(self) or not len(other):
            return np.zeros((len(self), len(other)), bool)
        apart = np.minimum(self.z[:, None, 1], other.z[None, :, 1]) - np.maximum(
            self.z[:, None, 0], other.z[None, :, 0]
        )
        meeting: NDArray[np.bool_] = apart > tolerance
        if not meeting.any():
            return meeting
        between = other.centre[None] - self.centre[:, None]  # [N, M, 2]
        first, second = self.axes(), other.axes()
        # how far each box reaches along each of the four candidate axes
        for k in range(2):
            gap = np.abs(np.einsum("nmd,nd->nm", between, first[:, k])) - self.half[:, None, k]
            reach = (np.abs(np.einsum("mjd,nd->nmj", second, first[:, k])) * other.half[None]).sum(-1)
            meeting &= reach - gap > tolerance
            gap = np.abs(np.einsum("nmd,md->nm", between, second[:, k])) - other.half[None, :, k]
            reach = (np.abs(np.einsum("njd,md->nmj", first, second[:, k])) * self.half[:, None]).sum(-1)
            meeting &= reach - gap > tolerance
        return meeting
