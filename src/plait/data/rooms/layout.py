"""A furnished room from a seed: plan, openings, furniture, clutter. Nothing is placed into anything else.

Every solid fills the boxes of its parts (exact for boards and blocks, bounding boxes for round parts). A
piece is placed only where its boxes meet no other solid's, stay inside the room, and leave free what must
stay free: the swing of a door, the view of a window, the space before a wardrobe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from plait.data.rooms.furniture import (
    ARCHETYPES,
    CURTAINS,
    Part,
    Piece,
    Surface,
    fixtures,
    seating,
    storage,
    things,
)
from plait.data.rooms.furniture.fixtures import REVEAL
from plait.data.rooms.furniture.things import RUG_HEIGHT
from plait.data.rooms.geometry import Boxes, Pose, block, quad, rectangle
from plait.data.rooms.textures import Material, Palette

Mount = Literal["floor", "wall", "ceiling", "on"]


@dataclass(frozen=True, eq=False)
class Solid:
    """A piece in its place.

    Attributes:
        piece: What it is.
        pose: Where it stands.
        boxes: The space it fills, in the room's frame.
        instance: Its instance id, unique in the room and positive.
        group: The instance id of the piece it came with (a pillow's bed), else its own.
        mount: What holds it.
        wall: The wall it hangs on or sits in, else None.
        span: From where to where along that wall, in metres.
    """

    piece: Piece
    pose: Pose
    boxes: Boxes
    instance: int
    group: int
    mount: Mount
    wall: int | None = None
    span: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class ShellPart:
    """A part of the room itself: class, instance id, mesh and material in the room's frame."""

    kind: str
    instance: int
    part: Part
    pose: Pose = field(default_factory=lambda: Pose(0, 0))


class Room:
    """A room with its furniture, a function of ``seed`` alone.

    Args:
        seed: Anything that ``numpy.random.default_rng`` takes as seed.

    Attributes:
        size: Width (x), depth (y) and height (z) in metres.
        solids: Everything placed, in order of instance id.
        shell: Walls, floor and ceiling.
    """

    def __init__(self, seed: int | Sequence[int]) -> None:
        self.rng = np.random.default_rng(seed)
        self.palette = Palette(self.rng)
        rng = self.rng
        self.size = (float(rng.uniform(3.2, 5.2)), float(rng.uniform(3.2, 5.2)), float(rng.uniform(2.4, 2.8)))
        self.solids: list[Solid] = []
        self.shell: list[ShellPart] = []
        self._keep_out: list[Boxes] = []
        self._next = 7  # 1-4 walls, 5 floor, 6 ceiling
        self._openings()
        kinds = (self._bedroom, self._living_room, self._office, self._dining_room)
        kind = kinds[int(rng.choice(4, p=(0.34, 0.24, 0.22, 0.2)))]
        self._ceiling_lamp()
        kind()
        self._finish()
        self._build_shell()

    # ------------------------------------------------------------------------------------- placing

    def wall_pose(self, wall: int, along: float, out: float = 0.0, z: float = 0.0) -> Pose:
        """A pose facing the room on one of the walls 0..3, ``along`` metres from the wall's left end."""
        width, depth, _ = self.size
        origin = (
            Pose(0, 0, 0, 0),
            Pose(width, depth, 0, math.pi),
            Pose(0, depth, 0, -math.pi / 2),
            Pose(width, 0, 0, math.pi / 2),
        )[wall]
        return Pose(along, out, z).then(origin)

    def wall_length(self, wall: int) -> float:
        return self.size[0] if wall in (0, 1) else self.size[1]

    def _fits(
        self, boxes: Boxes, *, margin: float = 1e-4, heed: bool = True, ignore_rugs: bool = False
    ) -> bool:
        low, high = boxes.bounds()
        size = np.array(self.size)
        if (low.min(0) < -margin).any() or (high.max(0) > size + margin).any():
            return False
        others = [solid.boxes for solid in self.solids if not (ignore_rugs and solid.piece.kind == "rug")]
        if heed:
            others += self._keep_out
        return not self._hits(boxes, others)

    @staticmethod
    def _hits(boxes: Boxes, others: Sequence[Boxes]) -> bool:
        low, high = boxes.bounds()
        low, high = low.min(0), high.max(0)
        for other in others:
            other_low, other_high = other.bounds()
            near = (other_low < high).all(1) & (other_high > low).all(1)
            if near.any():
                close = Boxes(other.centre[near], other.half[near], other.yaw[near], other.z[near])
                if boxes.meet(close).any():
                    return True
        return False

    def _zone(self, pose: Pose, low: Sequence[float], high: Sequence[float]) -> Boxes:
        return Boxes.of([(np.asarray(low, float), np.asarray(high, float))], pose)

    def _put(
        self,
        piece: Piece,
        pose: Pose,
        mount: Mount,
        *,
        heed: bool = True,
        group: int | None = None,
        wall: int | None = None,
        along: float = 0.0,
    ) -> Solid | None:
        """Places a piece with its children, or returns None because it does not fit."""
        boxes = Boxes.of(piece.corners(), pose)
        if mount == "floor" and piece.kind != "rug":
            rugs = [solid.boxes for solid in self.solids if solid.piece.kind == "rug"]
            if self._hits(boxes, rugs):
                pose = pose._replace(z=pose.z + RUG_HEIGHT)
                boxes = Boxes.of(piece.corners(), pose)
        margin = REVEAL if piece.opening else 1e-4
        if not self._fits(boxes, margin=margin, heed=heed):
            return None
        low, high = piece.extent()
        free: Boxes | None = None
        if piece.clearance:
            top = min(max(high[2], 1.0), 1.9)
            free = self._zone(pose, (low[0], high[1], 0.02), (high[0], high[1] + piece.clearance, top))
            if self._hits(free, [solid.boxes for solid in self.solids if solid.piece.kind != "rug"]):
                return None
        span = (along + float(low[0]), along + float(high[0]))
        instance, self._next = self._next, self._next + 1
        solid = Solid(piece, pose, boxes, instance, group or instance, mount, wall, span)
        self.solids.append(solid)
        if free is not None:
            self._keep_out.append(free)
        for child, place in piece.children:
            self._put(child, place.then(pose), "on", heed=False, group=solid.group)
        return solid

    def _against_wall(
        self, piece: Piece, *, walls: Sequence[int] | None = None, tries: int = 40, near: float | None = None
    ) -> Solid | None:
        """Puts a piece with its back to a wall."""
        low, high = piece.extent()
        for _ in range(tries):
            wall = int(self.rng.choice(walls if walls is not None else (0, 1, 2, 3)))
            first, last = 0.03 - low[0], self.wall_length(wall) - 0.03 - high[0]
            gap = 0.02 + abs(self.rng.normal(0, 0.015))
            if last < first:
                continue
            along = float(self.rng.uniform(first, last))
            if self.rng.random() < 0.25 and near is None:  # into a corner
                along = float(self.rng.choice([first, last]))
            solid = self._put(
                piece, self.wall_pose(wall, along, gap - low[1]), "floor", wall=wall, along=along
            )
            if solid:
                return solid
        return None

    def _free_standing(
        self, piece: Piece, *, tries: int = 24, margin: float = 0.5, turn: bool = False
    ) -> Solid | None:
        """Puts a piece somewhere on the floor, nearly parallel to the walls."""
        low, high = piece.extent()
        middle = (low + high)[:2] / 2
        for _ in range(tries):
            yaw = float(self.rng.integers(4)) * math.pi / 2 + float(self.rng.normal(0, 0.1))
            if turn:
                yaw = float(self.rng.uniform(0, 2 * math.pi))
            x = float(self.rng.uniform(margin, self.size[0] - margin))
            y = float(self.rng.uniform(margin, self.size[1] - margin))
            pose = Pose(-middle[0], -middle[1]).then(Pose(x, y, 0, yaw))
            solid = self._put(piece, pose, "floor")
            if solid:
                return solid
        return None

    def _beside(self, piece: Piece, host: Solid, places: Sequence[Pose]) -> Solid | None:
        """Puts a piece at the first place of another's frame where it fits."""
        for place in places:
            solid = self._put(piece, place.then(host.pose._replace(z=0.0)), "floor", heed=False)
            if solid:
                return solid
        return None

    def _on_wall(self, piece: Piece, heights: tuple[float, float], *, tries: int = 14) -> Solid | None:
        """Hangs a piece on a wall, its origin between two heights."""
        low, high = piece.extent()
        for _ in range(tries):
            wall = int(self.rng.integers(4))
            length = self.wall_length(wall)
            if high[0] - low[0] > length - 0.3:
                continue
            along = float(self.rng.uniform(0.15 - low[0], length - 0.15 - high[0]))
            z = float(self.rng.uniform(*heights))
            z = min(z, self.size[2] - 0.12 - float(high[2]))
            solid = self._put(
                piece, self.wall_pose(wall, along, 0.0, z), "wall", wall=wall, along=along, heed=True
            )
            if solid:
                return solid
        return None

    def _on_surface(
        self, host: Solid, surface: Surface, piece: Piece, *, tries: int = 6, facing: bool = False
    ) -> Solid | None:
        """Puts a small piece on a surface of another."""
        low, high = piece.extent()
        if high[2] > surface.headroom:
            return None
        for _ in range(tries):
            yaw = float(self.rng.normal(0, 0.06 if facing else 0.5))
            c, s = abs(math.cos(yaw)), abs(math.sin(yaw))
            half = (high - low)[:2] / 2
            reach = np.array([c * half[0] + s * half[1], s * half[0] + c * half[1]]) + 0.005
            room = np.array([surface.x, surface.y])
            if (room[:, 1] - room[:, 0] < 2 * reach).any():
                continue
            spot = self.rng.uniform(room[:, 0] + reach, room[:, 1] - reach)
            if facing:
                spot[1] = room[1, 0] + reach[1]
            middle = (low + high)[:2] / 2
            pose = Pose(-middle[0], -middle[1]).then(Pose(float(spot[0]), float(spot[1]), surface.z, yaw))
            solid = self._put(piece, pose.then(host.pose), "on", heed=False)
            if solid:
                return solid
        return None

    # ---------------------------------------------------------------------------- doors and windows

    def _make(self, kind: str) -> Piece:
        designs = ARCHETYPES[kind]
        return designs[int(self.rng.integers(len(designs)))](self.palette)

    def _opening(self, piece: Piece, *, tries: int = 20) -> Solid | None:
        low, high = piece.extent()
        for _ in range(tries):
            wall = int(self.rng.integers(4))
            first, last = 0.3 - low[0], self.wall_length(wall) - 0.3 - high[0]
            if last < first:
                continue
            along = float(self.rng.uniform(first, last))
            taken = [solid.span for solid in self.solids if solid.wall == wall]
            if any(along + low[0] - 0.25 < span[1] and span[0] < along + high[0] + 0.25 for span in taken):
                continue
            solid = self._put(piece, self.wall_pose(wall, along), "wall", wall=wall, along=along)
            if solid:
                return solid
        return None

    def _openings(self) -> None:
        rng = self.rng
        for _ in range(1 + int(rng.random() < 0.3)):
            self._opening(self._make("door"))
        for _ in range(int(rng.integers(1, 4))):
            window = self._opening(self._make("window"))
            if window is None or window.piece.opening is None:
                continue
            if rng.random() < 0.75:
                curtain = CURTAINS[int(rng.integers(len(CURTAINS)))](self.palette, window.piece)
                self._put(curtain, window.pose, "wall", heed=False, wall=window.wall)
            x0, x1, low, high = window.piece.opening
            view = self._zone(window.pose, (x0, 0.0, max(low, 0.85)), (x1, 0.4, high))
            self._keep_out.append(view)

    def _ceiling_lamp(self) -> None:
        rng, (width, depth, height) = self.rng, self.size
        designs = (fixtures.ceiling_dome, fixtures.pendant, fixtures.globe_pendant)
        piece = designs[int(rng.integers(3))](self.palette)
        pose = Pose(width * rng.uniform(0.42, 0.58), depth * rng.uniform(0.42, 0.58), height)
        self._put(piece, pose, "ceiling")

    # ---------------------------------------------------------------------------------- kinds of room

    def _rug(self, chance: float) -> None:
        if self.rng.random() < chance:
            self._free_standing(self._make("rug"), margin=0.8)

    def _bedroom(self) -> None:
        rng, palette = self.rng, self.palette
        self._rug(0.55)
        bed = self._against_wall(self._make("bed"), tries=60)
        if bed:
            low, high = bed.piece.extent()
            for side in (-1, 1):
                if rng.random() < 0.75:
                    stand = storage.nightstand(palette)
                    reach = float(stand.extent()[1][0]) + 0.05
                    x = (float(high[0]) + reach) if side > 0 else (float(low[0]) - reach)
                    self._beside(stand, bed, [Pose(x, 0.01), Pose(x + side * 0.08, 0.03)])
        for design, chance in (
            (storage.wardrobe, 0.75),
            (storage.chest_of_drawers, 0.6),
            (storage.lowboard, 0.35),
            (seating.armchair, 0.4),
        ):
            if rng.random() < chance:
                self._against_wall(design(palette))
        if rng.random() < 0.45:
            self._desk_group()

    def _living_room(self) -> None:
        rng, palette = self.rng, self.palette
        self._rug(0.65)
        designs = (seating.block_sofa, seating.slim_sofa, seating.corner_sofa)
        sofa = self._against_wall(designs[int(rng.integers(3))](palette), tries=60)
        if sofa:
            table = storage.coffee_table(palette) if rng.random() < 0.65 else storage.round_table(palette)
            if table.extent()[1][2] < 0.6:
                front = float(sofa.piece.extent()[1][1])
                places = [Pose(float(rng.normal(0, 0.15)), front + gap) for gap in (0.35, 0.45, 0.6)]
                self._beside(table, sofa, places)
        opposite = {0: [1], 1: [0], 2: [3], 3: [2]}[sofa.wall] if sofa and sofa.wall is not None else None
        self._against_wall(storage.lowboard(palette), walls=opposite) or self._against_wall(
            storage.lowboard(palette)
        )
        for _ in range(int(rng.integers(0, 3))):
            self._against_wall(seating.armchair(palette))
        if rng.random() < 0.7:
            self._against_wall(
                self._make("bookshelf") if rng.random() < 0.5 else storage.tall_bookshelf(palette)
            )
        if rng.random() < 0.4:
            self._against_wall(storage.sideboard(palette))
        if rng.random() < 0.4:
            self._dining_group()
        elif rng.random() < 0.5:
            self._desk_group()

    def _office(self) -> None:
        rng, palette = self.rng, self.palette
        self._rug(0.4)
        for _ in range(int(rng.integers(1, 3))):
            self._desk_group()
        for _ in range(int(rng.integers(1, 3))):
            designs = (storage.tall_bookshelf, storage.cube_shelf, storage.ladder_shelf)
            self._against_wall(designs[int(rng.integers(3))](palette))
        for design, chance in (
            (storage.chest_of_drawers, 0.4),
            (storage.wardrobe, 0.25),
            (storage.sideboard, 0.45),
            (seating.slim_sofa, 0.45),
            (seating.armchair, 0.35),
        ):
            if rng.random() < chance:
                self._against_wall(design(palette))

    def _dining_room(self) -> None:
        rng, palette = self.rng, self.palette
        self._rug(0.4)
        self._dining_group()
        for design, chance in (
            (storage.sideboard, 0.8),
            (storage.tall_bookshelf, 0.4),
            (storage.cube_shelf, 0.3),
            (storage.lowboard, 0.4),
            (seating.block_sofa, 0.4),
            (seating.armchair, 0.3),
        ):
            if rng.random() < chance:
                self._against_wall(design(palette))

    def _desk_group(self) -> None:
        rng, palette = self.rng, self.palette
        designs = (storage.trestle_desk, storage.drawer_desk)
        desk = self._against_wall(designs[int(rng.integers(2))](palette))
        if desk is None:
            return
        if rng.random() < 0.8:
            self._on_surface(desk, desk.piece.surfaces[0], fixtures.monitor(palette), facing=True)
        if rng.random() < 0.6:
            self._on_surface(desk, desk.piece.surfaces[0], things.desk_lamp(palette), facing=True)
        chair = seating.office_chair(palette) if rng.random() < 0.6 else self._make("chair")
        reach, front = float(chair.extent()[1][1]), float(desk.piece.extent()[1][1])
        yaw = math.pi + float(rng.normal(0, 0.3))
        self._beside(
            chair,
            desk,
            [Pose(float(rng.normal(0, 0.12)), front + reach + gap, 0, yaw) for gap in (-0.12, 0.0, 0.1)],
        )

    def _dining_group(self) -> None:
        rng, palette = self.rng, self.palette
        piece = storage.four_leg_table(palette)
        if rng.random() < 0.35:
            while piece.extent()[1][2] < 0.7 or piece.archetype != "round table":
                piece = storage.round_table(palette)
        table = self._free_standing(piece, margin=1.0, tries=60)
        if table is None:
            return
        low, high = piece.extent()
        design = (seating.dining_chair, seating.dining_chair, seating.shell_chair, seating.stool)[
            int(rng.integers(4))
        ]
        columns = (-0.3, 0.3) if high[0] - low[0] > 1.2 else (0.0,)
        # the table's back edge is y = low[1]; chairs face it from both long sides, some also from the ends
        places = [
            (x, y, yaw) for x in columns for y, yaw in ((float(low[1]), 0.0), (float(high[1]), math.pi))
        ]
        middle = float(low[1] + high[1]) / 2
        places += [(float(low[0]), middle, -math.pi / 2), (float(high[0]), middle, math.pi / 2)]
        for number, (x, y, yaw) in enumerate(places):
            if rng.random() > (0.9 if number < 2 * len(columns) else 0.4):
                continue
            chair = design(palette)
            reach = float(chair.extent()[1][1])
            wobble = float(rng.normal(0, 0.1))
            options = []
            for tuck in (0.25, 0.12, 0.0, -0.06):
                out = reach - tuck + abs(float(rng.normal(0, 0.03)))
                # step back from the edge, against the direction in which the chair faces
                options.append(Pose(x + math.sin(yaw) * out, y - math.cos(yaw) * out, 0, yaw + wobble))
            self._beside(chair, table, options)

    # ------------------------------------------------------------------------------ the smaller things

    def _finish(self) -> None:
        rng, palette = self.rng, self.palette
        for solid in list(self.solids):
            if solid.piece.archetype == "lowboard" and rng.random() < 0.75:
                screen = fixtures.standing_television(palette)
                self._on_surface(solid, solid.piece.surfaces[-1], screen, facing=True)
        if rng.random() < 0.3:
            self._on_wall(fixtures.wall_television(palette), (1.15, 1.35))
        if rng.random() < 0.35:
            self._on_wall(storage.wall_shelf(palette), (1.25, 1.5))
        lamps = (fixtures.floor_lamp, fixtures.tripod_lamp, fixtures.arc_lamp)
        extras: list[tuple[float, Callable[[], Solid | None]]] = [
            (0.55, lambda: self._against_wall(lamps[int(rng.integers(3))](palette))),
            (0.6, lambda: self._against_wall(self._plant(float(rng.uniform(1.0, 1.7))))),
            (0.35, lambda: self._against_wall(self._plant(float(rng.uniform(0.9, 1.3))))),
            (0.45, self._box_stack),
            (0.3, self._box_stack),
            (0.5, lambda: self._against_wall(self._make("chair"))),
            (0.4, lambda: self._free_standing(storage.round_table(palette))),
            (0.4, lambda: self._free_standing(self._make("chair"), turn=True)),
            (0.3, lambda: self._free_standing(seating.floor_cushion(palette), turn=True)),
            (0.15, lambda: self._against_wall(storage.tall_bookshelf(palette))),
            (0.25, lambda: self._free_standing(seating.stool(palette), turn=True)),
            (0.15, lambda: self._free_standing(things.book_pile(palette), turn=True)),
        ]
        for chance, place in extras:
            if rng.random() < chance:
                place()
        for _ in range(int(rng.integers(1, 5))):
            designs = (fixtures.framed_picture, fixtures.framed_picture, fixtures.canvas, fixtures.poster)
            self._on_wall(designs[int(rng.integers(4))](palette), (1.4, 1.7))
        for solid in list(self.solids):
            if solid.mount in ("floor", "wall"):
                for surface in solid.piece.surfaces:
                    self._clutter(solid, surface)

    def _plant(self, scale: float) -> Piece:
        designs = (things.bushy_plant, things.snake_plant, things.small_tree)
        return designs[int(self.rng.integers(3))](self.palette, scale)

    def _box(self, size: float) -> Piece:
        designs = (
            things.cardboard_box,
            things.cardboard_box,
            things.open_carton,
            things.basket,
            things.storage_box,
        )
        return designs[int(self.rng.integers(5))](self.palette, size)

    def _box_stack(self) -> Solid | None:
        size = float(self.rng.uniform(0.34, 0.55))
        first = (
            self._against_wall(self._box(size))
            if self.rng.random() < 0.7
            else self._free_standing(self._box(size), turn=True)
        )
        if first and first.piece.archetype in ("cardboard box", "storage box"):
            low, high = first.piece.extent()
            lid = Surface((low[0], high[0]), (low[1], high[1]), float(high[2]))
            if self.rng.random() < 0.6:
                self._on_surface(first, lid, self._box(size * 0.7))
        return first

    def _clutter(self, host: Solid, surface: Surface) -> None:
        rng, palette = self.rng, self.palette
        area = (surface.x[1] - surface.x[0]) * (surface.y[1] - surface.y[0])
        count = int(rng.integers(0, 2 + min(3, int(area / 0.12))))
        if host.piece.archetype == "nightstand" and surface.headroom > 0.5 and rng.random() < 0.7:
            lamp = things.table_lamp(palette) if rng.random() < 0.7 else things.globe_lamp(palette)
            self._on_surface(host, surface, lamp)
        for _ in range(count):
            kind = rng.random()
            if kind < 0.3:
                piece = things.book_pile(palette)
            elif kind < 0.36:
                piece = things.open_book(palette)
            elif kind < 0.54:
                piece = self._plant(float(rng.uniform(0.3, 0.55)))
            elif kind < 0.7:
                piece = self._box(float(rng.uniform(0.16, 0.3)))
            elif kind < 0.84:
                piece = things.framed_photo(palette)
            else:
                piece = things.table_lamp(palette) if rng.random() < 0.5 else things.globe_lamp(palette)
            self._on_surface(host, surface, piece)

    # ------------------------------------------------------------------------------------ the shell

    def _build_shell(self) -> None:
        width, depth, height = self.size
        palette = self.palette
        floor, ceiling = palette.floor(), palette.flat((float(self.rng.uniform(0.72, 0.85)),) * 3)
        self._shell("floor", 5, Part(quad((0, 0, 0), (width, 0, 0), (0, depth, 0)), floor))
        self._shell("ceiling", 6, Part(quad((0, 0, height), (0, depth, 0), (width, 0, 0)), ceiling))
        paint = palette.wall()
        accent = palette.wall() if self.rng.random() < 0.3 else paint
        accented = int(self.rng.integers(4))
        skirting = palette.white if self.rng.random() < 0.7 else palette.wood()
        for wall in range(4):
            pose, material = self.wall_pose(wall, 0), accent if wall == accented else paint
            here = [solid for solid in self.solids if solid.wall == wall and solid.mount == "wall"]
            windows = sorted((solid for solid in here if solid.piece.opening), key=lambda solid: solid.span)
            x = 0.0
            length = self.wall_length(wall)
            for solid in windows:
                assert solid.piece.opening is not None
                x0, x1, low, high = solid.piece.opening
                centre = self._along(solid, wall)
                left, right = centre + x0, centre + x1
                self._wall_piece(wall, material, pose, (x, left), (0, height))
                self._wall_piece(wall, material, pose, (left, right), (0, low))
                self._wall_piece(wall, material, pose, (left, right), (high, height))
                self._reveal(wall, pose, (left, right), (low, high))
                x = right
            self._wall_piece(wall, material, pose, (x, length), (0, height))
            start = 0.0
            doors = sorted(solid.span for solid in here if solid.piece.kind == "door")
            for left, right in [*doors, (length, length)]:
                if left > start:
                    board = block((start, left), (0, 0.014), (0, 0.07))
                    self._shell("wall", 1 + wall, Part(board, skirting), pose)
                start = right

    def _along(self, solid: Solid, wall: int) -> float:
        """Where the origin of a solid lies along its wall."""
        low, _ = solid.piece.extent()
        return solid.span[0] - float(low[0])

    def _shell(self, kind: str, instance: int, part: Part, pose: Pose | None = None) -> None:
        self.shell.append(ShellPart(kind, instance, part, pose or Pose(0, 0)))

    def _wall_piece(
        self, wall: int, material: Material, pose: Pose, x: tuple[float, float], z: tuple[float, float]
    ) -> None:
        mesh = rectangle(x[0], x[1], z[0], z[1], 0.0)
        mesh = mesh._replace(uv=mesh.uv + np.array([z[0], x[0]]))  # the pattern runs on behind the openings
        self._shell("wall", 1 + wall, Part(mesh, material), pose)

    def _reveal(self, wall: int, pose: Pose, x: tuple[float, float], z: tuple[float, float]) -> None:
        """The four sides of a window's hole, and its back behind the frame."""
        depth = np.array([0, -REVEAL, 0])
        across, up = np.array([x[1] - x[0], 0, 0]), np.array([0, 0, z[1] - z[0]])
        corner = np.array([x[0], 0, z[0]])
        for mesh in (
            quad(corner, depth, up),
            quad(corner + across, up, depth),
            quad(corner, across, depth),
            quad(corner + up, depth, across),
            quad(corner + depth, across, up),
        ):
            self._shell("wall", 1 + wall, Part(mesh, self.palette.white), pose)
