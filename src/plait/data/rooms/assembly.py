"""A room as arrays: one mesh, one texture atlas, and up to four groups of light-emitting faces.

Every room has the same structure, so that the renderer compiles its kernels once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.data.rooms.classes import CLASS_ID
from plait.data.rooms.furniture import Part
from plait.data.rooms.geometry import Floats, Ints, Pose
from plait.data.rooms.layout import Room
from plait.data.rooms.textures import Material

ATLAS = 1536
"""Side of the texture atlas in pixels."""

EMITTERS = 4
"""Groups of emitting faces: 1 windows, 2 screens, 3 bright lamps, 4 dim lamps. Group 0 emits nothing."""


@dataclass(frozen=True, eq=False)
class Assembly:
    """The triangles of a room; corners are not shared, so that flat and smooth parts live in one mesh.

    Attributes:
        vertices: ``[3 F, 3]`` metres.
        normals: ``[3 F, 3]`` unit shading normals.
        uv: ``[3 F, 2]`` in [0, 1], into the atlas.
        semantic: ``[F]`` class ids.
        instance: ``[F]`` instance ids, positive.
        group: ``[F]`` emitter group, 0 for none.
        radiance: ``[5, 3]`` RGB radiance of each group.
        albedo: ``[ATLAS, ATLAS, 3]`` linear reflectance (of an emitting face: the picture it shows).
        surface: ``[ATLAS, ATLAS, 2]`` roughness and metallic.
        parents: ``{instance: instance of the piece it came with}``.
    """

    vertices: Floats
    normals: Floats
    uv: Floats
    semantic: NDArray[np.uint8]
    instance: Ints
    group: Ints
    radiance: Floats
    albedo: NDArray[np.float32]
    surface: NDArray[np.float32]
    parents: dict[int, int]

    @property
    def faces(self) -> Ints:
        """``[F, 3]``."""
        return np.arange(len(self.vertices)).reshape(-1, 3)


def assemble(room: Room) -> Assembly:
    """Puts all parts of a room into arrays."""
    placed: list[tuple[Part, Pose, int, int]] = [
        (shell.part, shell.pose, CLASS_ID[shell.kind], shell.instance) for shell in room.shell
    ]
    for solid in room.solids:
        kind = CLASS_ID[solid.piece.kind]
        placed += [(part, solid.pose, kind, solid.instance) for part in solid.piece.parts]
    parts = [part for part, *_ in placed]
    albedo, surface, coordinates = _atlas(parts)
    corners, normals, uv, sizes = [], [], [], []
    for (part, pose, _, _), coordinate in zip(placed, coordinates, strict=True):
        vertices, faces = pose.apply(part.mesh.vertices), part.mesh.faces
        triangles = vertices[faces]
        flat = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        solid_face = np.linalg.norm(flat, axis=1) > 1e-12  # a cone's tip has triangles without an area
        faces, triangles, flat = faces[solid_face], triangles[solid_face], flat[solid_face]
        normal = np.repeat(flat[:, None], 3, 1)
        if part.smooth:
            total = np.zeros_like(vertices)
            for corner in range(3):
                np.add.at(total, faces[:, corner], flat)
            normal = _join_seams(vertices, total)[faces]
        normals.append(normal.reshape(-1, 3))
        corners.append(triangles.reshape(-1, 3))
        uv.append(coordinate[faces].reshape(-1, 2))
        sizes.append(len(faces))
    group = np.array([_group(part.material, kind) for part, _, kind, _ in placed])
    radiance = np.zeros((EMITTERS + 1, 3))
    for number in range(1, EMITTERS + 1):
        lights = [part.material for part, chosen in zip(parts, group, strict=True) if chosen == number]
        if lights:
            tint = np.mean([light.texture.mean((0, 1)) for light in lights], 0)
            radiance[number] = tint * np.mean([light.emission for light in lights])
    normal = np.concatenate(normals)
    return Assembly(
        vertices=np.concatenate(corners),
        normals=normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12),
        uv=np.concatenate(uv),
        semantic=np.repeat([kind for *_, kind, _ in placed], sizes).astype(np.uint8),
        instance=np.repeat([instance for *_, instance in placed], sizes),
        group=np.repeat(group, sizes),
        radiance=radiance,
        albedo=albedo,
        surface=surface,
        parents={solid.instance: solid.group for solid in room.solids},
    )


def _join_seams(vertices: Floats, normals: Floats) -> Floats:
    """Sums the normals of vertices at the same place, so that a rounded box has no visible seams."""
    _, same = np.unique(np.round(vertices, 6), axis=0, return_inverse=True)
    same = same.reshape(-1)
    total = np.zeros((int(same.max()) + 1, 3))
    np.add.at(total, same, normals)
    joined: Floats = total[same]
    lost = np.linalg.norm(joined, axis=1) < 1e-9 * np.linalg.norm(normals, axis=1)
    joined[lost] = normals[lost]
    return joined


def _group(material: Material, kind: int) -> int:
    if material.emission <= 0:
        return 0
    if kind == CLASS_ID["window"]:
        return 1
    if kind == CLASS_ID["television"]:
        return 2
    return 3 if material.emission > 3.5 else 4


def _atlas(parts: list[Part]) -> tuple[NDArray[np.float32], NDArray[np.float32], list[Floats]]:
    """Bakes every part's piece of its texture into one picture, at a lower density if it would not fit."""
    density = 1.0
    while True:
        places, height = _shelves([_baked_size(part, density) for part in parts], parts)
        if height <= ATLAS:
            break
        density *= 0.85
    albedo = np.zeros((ATLAS, ATLAS, 3), np.float32)
    surface = np.zeros((ATLAS, ATLAS, 2), np.float32)
    coordinates = []
    for part, (x, y, w, h) in zip(parts, places, strict=True):
        material, uv = part.material, part.mesh.uv
        if material.flat:
            albedo[y : y + h, x : x + w] = material.texture[0, 0]
            coordinates.append(np.full_like(uv, 0.5) * (w, h) / ATLAS + np.array([x, y]) / ATLAS)
        else:
            low, high = uv.min(0), uv.max(0)
            span = np.maximum(high - low, 1e-9)
            # one texel of border on each side, so that the bilinear look-up never leaves the piece
            columns = low[0] + (np.arange(w) - 0.5) / (w - 2) * span[0]
            rows = low[1] + (np.arange(h) - 0.5) / (h - 2) * span[1]
            albedo[y : y + h, x : x + w] = _sample(material, columns, rows)
            coordinates.append((np.array([x + 1, y + 1]) + (uv - low) / span * (w - 2, h - 2)) / ATLAS)
        surface[y : y + h, x : x + w] = (material.roughness, material.metallic)
    return np.clip(albedo, 0, 1), surface, coordinates


def _sample(material: Material, columns: Floats, rows: Floats) -> NDArray[np.float32]:
    """The texture at a grid of texture coordinates, nearest texel, repeated; a picture is clamped."""
    height, width = material.texture.shape[:2]
    if material.repeat == 1.0 and material.density == height:  # a picture, stretched once
        i = np.clip((rows * height).astype(int), 0, height - 1)
        j = np.clip((columns * width).astype(int), 0, width - 1)
    else:
        i = np.floor(rows / material.repeat * height).astype(int) % height
        j = np.floor(columns / material.repeat * width).astype(int) % width
    picked: NDArray[np.float32] = material.texture[i][:, j]
    return picked


def _baked_size(part: Part, density: float) -> tuple[int, int]:
    """Columns and rows of the atlas for a part, border included."""
    if part.material.flat:
        return 4, 4
    span = np.ptp(part.mesh.uv, axis=0)
    wanted = np.ceil(span * part.material.density * density).astype(int)
    width, height = (int(np.clip(value, 4, 700)) + 2 for value in wanted)
    return width, height


def _shelves(sizes: list[tuple[int, int]], parts: list[Part]) -> tuple[list[tuple[int, int, int, int]], int]:
    """Packs rectangles on shelves, tallest first; parts of one flat material share a place."""
    order = sorted(range(len(sizes)), key=lambda k: (-sizes[k][1], -sizes[k][0], k))
    places: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)] * len(sizes)
    shared: dict[int, tuple[int, int, int, int]] = {}
    x = y = shelf = 0
    for k in order:
        width, height = sizes[k]
        material = parts[k].material
        if material.flat and id(material) in shared:
            places[k] = shared[id(material)]
            continue
        if x + width > ATLAS:
            x, y, shelf = 0, y + shelf, 0
        places[k] = (x, y, width, height)
        if material.flat:
            shared[id(material)] = places[k]
        x, shelf = x + width, max(shelf, height)
    return places, y + shelf
