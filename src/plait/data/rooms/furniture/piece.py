"""A piece of furniture before it is placed: parts, surfaces for small things, and what belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from plait.data.rooms.geometry import Floats, Mesh, Pose
from plait.data.rooms.textures import Material, Palette


class Part(NamedTuple):
    """One mesh of one material; ``smooth`` parts are shaded round."""

    mesh: Mesh
    material: Material
    smooth: bool = False

    def corners(self) -> tuple[Floats, Floats]:
        """Its lowest and highest coordinates in its piece's frame."""
        return self.mesh.vertices.min(0), self.mesh.vertices.max(0)


class Surface(NamedTuple):
    """A horizontal rectangle on which small things may stand, with the free height above it."""

    x: tuple[float, float]
    y: tuple[float, float]
    z: float
    headroom: float = 0.6


@dataclass
class Piece:
    """One object (one instance) of a class, in its own frame: back at y = 0, front to +y, floor at z = 0.

    Attributes:
        kind: Its class.
        archetype: Which design it is.
        parts: Its meshes. Their axis-aligned boxes in this frame are the space it fills.
        surfaces: Where clutter may stand.
        children: Objects of their own that come with it (a bed's pillows), with their poses in this frame.
        clearance: Metres to be kept free before it.
        opening: ``(x0, x1, z0, z1)``, the hole it needs in its wall.
    """

    kind: str
    archetype: str = ""
    parts: list[Part] = field(default_factory=list)
    surfaces: list[Surface] = field(default_factory=list)
    children: list[tuple[Piece, Pose]] = field(default_factory=list)
    clearance: float = 0.0
    opening: tuple[float, float, float, float] | None = None

    def add(self, material: Material, *meshes: Mesh, smooth: bool = False) -> None:
        """Adds meshes of one material."""
        self.parts.extend(Part(mesh, material, smooth) for mesh in meshes)

    def corners(self) -> list[tuple[Floats, Floats]]:
        """The boxes it fills, one a part."""
        return [part.corners() for part in self.parts]

    def extent(self) -> tuple[Floats, Floats]:
        """Its lowest and highest coordinates, children apart."""
        corners = self.corners()
        return np.min([low for low, _ in corners], 0), np.max([high for _, high in corners], 0)


Archetype = Callable[[Palette], Piece]
"""A design: makes one piece with the room's materials and the palette's random generator."""
