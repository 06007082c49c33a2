"""Cabinets, bookshelves and tables."""

from __future__ import annotations

import math

from plait.data.rooms.furniture.piece import Piece, Surface
from plait.data.rooms.furniture.seating import _legs
from plait.data.rooms.furniture.things import book_row, leaning_books
from plait.data.rooms.geometry import Pose, block, box, cushion, cylinder, rod
from plait.data.rooms.textures import Material, Palette

# ------------------------------------------------------------------------------------------- cabinets


def _fronts(
    piece: Piece,
    palette: Palette,
    wood: Material,
    x: tuple[float, float],
    z: tuple[float, float],
    columns: int,
    rows: int,
    depth: float,
) -> None:
    """Doors (one row) or drawers on a carcass, with gaps and handles."""
    rng = palette.rng
    metal = palette.metal()
    width, height = (x[1] - x[0]) / columns, (z[1] - z[0]) / rows
    knobs = rng.random() < 0.4
    for i in range(columns):
        for j in range(rows):
            cx, cz = x[0] + width * (i + 0.5), z[0] + height * (j + 0.5)
            piece.add(wood, box((cx, depth + 0.009, cz), (width - 0.012, 0.018, height - 0.012)))
            if knobs:
                piece.add(metal, box((cx, depth + 0.03, cz), (0.03, 0.024, 0.03)))
            elif rows == 1:
                side = 1 if i % 2 == 0 else -1
                piece.add(metal, box((cx + side * width * 0.38, depth + 0.028, cz), (0.016, 0.02, 0.16)))
            else:
                piece.add(metal, box((cx, depth + 0.028, cz + height * 0.18), (width * 0.4, 0.02, 0.016)))


def sideboard(palette: Palette) -> Piece:
    """A low wide cabinet on legs, with doors, drawers or an open bay."""
    rng = palette.rng
    piece = Piece("cabinet", "sideboard", clearance=0.3)
    width, depth, foot, height = rng.uniform(1.1, 1.7), rng.uniform(0.38, 0.46), 0.14, rng.uniform(0.68, 0.85)
    wood = palette.wood()
    front = palette.white if rng.random() < 0.3 else wood
    piece.add(wood, block((-width / 2, width / 2), (0, depth), (foot, height)))
    piece.add(palette.metal() if rng.random() < 0.4 else wood, *_legs(width, depth, foot, 0.04, 0.05))
    columns, rows = round(width / 0.45), int(rng.choice([1, 1, 2, 3]))
    _fronts(
        piece,
        palette,
        front,
        (-width / 2 + 0.01, width / 2 - 0.01),
        (foot + 0.02, height - 0.03),
        columns,
        rows,
        depth,
    )
    piece.surfaces.append(Surface((-width / 2, width / 2), (0, depth), height))
    return piece


def wardrobe(palette: Palette) -> Piece:
    """A tall cabinet with doors."""
    rng = palette.rng
    piece = Piece("cabinet", "wardrobe", clearance=0.4)
    columns = int(rng.integers(2, 4))
    width, depth, height = columns * rng.uniform(0.42, 0.52), rng.uniform(0.5, 0.6), rng.uniform(1.85, 2.15)
    wood = palette.wood()
    piece.add(wood, block((-width / 2, width / 2), (0, depth), (0.0, height)))
    split = 0.4 if rng.random() < 0.35 else 0.06
    if split > 0.1:
        _fronts(piece, palette, wood, (-width / 2 + 0.01, width / 2 - 0.01), (0.07, split), 1, 1, depth)
    _fronts(
        piece,
        palette,
        wood,
        (-width / 2 + 0.01, width / 2 - 0.01),
        (split + 0.01, height - 0.03),
        columns,
        1,
        depth,
    )
    piece.surfaces.append(Surface((-width / 2, width / 2), (0, depth), height, 0.25))
    return piece


def chest_of_drawers(palette: Palette) -> Piece:
    """Drawers one above the other."""
    rng = palette.rng
    piece = Piece("cabinet", "chest of drawers", clearance=0.3)
    width, depth, height = rng.uniform(0.7, 1.0), rng.uniform(0.42, 0.5), rng.uniform(0.8, 1.2)
    wood = palette.wood()
    piece.add(wood, block((-width / 2, width / 2), (0, depth), (0.06, height - 0.025)))
    piece.add(
        wood, block((-width / 2 - 0.015, width / 2 + 0.015), (0, depth + 0.02), (height - 0.025, height))
    )
    piece.add(palette.black, block((-width / 2 + 0.03, width / 2 - 0.03), (0.03, depth - 0.04), (0, 0.06)))
    rows, columns = int(rng.integers(3, 6)), int(rng.integers(1, 3))
    _fronts(
        piece,
        palette,
        wood,
        (-width / 2 + 0.01, width / 2 - 0.01),
        (0.08, height - 0.04),
        columns,
        rows,
        depth,
    )
    piece.surfaces.append(Surface((-width / 2, width / 2), (0, depth), height))
    return piece


def nightstand(palette: Palette) -> Piece:
    """A small bedside cabinet: drawers, or one drawer over an open bay."""
    rng = palette.rng
    piece = Piece("cabinet", "nightstand")
    width, depth, height, wood = (
        rng.uniform(0.4, 0.52),
        rng.uniform(0.36, 0.42),
        rng.uniform(0.45, 0.6),
        palette.wood(),
    )
    x = (-width / 2, width / 2)
    if rng.random() < 0.5:
        piece.add(wood, block(x, (0, depth), (0.05, height)))
        _fronts(piece, palette, wood, x, (0.07, height - 0.02), 1, 2, depth)
        piece.add(palette.black, block((x[0] + 0.02, x[1] - 0.02), (0.02, depth - 0.03), (0, 0.05)))
    else:
        piece.add(
            wood, block(x, (0, depth), (height - 0.2, height)), *_legs(width, depth, height - 0.2, 0.035)
        )
        piece.add(wood, block(x, (0, depth), (0.12, 0.14)))
        _fronts(piece, palette, wood, x, (height - 0.19, height - 0.02), 1, 1, depth)
        piece.surfaces.append(Surface((x[0] + 0.05, x[1] - 0.05), (0.05, depth - 0.05), 0.14, height - 0.36))
    piece.surfaces.append(Surface(x, (0, depth), height))
    return piece


def lowboard(palette: Palette) -> Piece:
    """A long low unit for a television, with doors and an open shelf."""
    rng = palette.rng
    piece = Piece("cabinet", "lowboard", clearance=0.4)
    width, depth, height, wood = (
        rng.uniform(1.2, 1.8),
        rng.uniform(0.38, 0.45),
        rng.uniform(0.4, 0.52),
        palette.wood(),
    )
    bay = rng.uniform(0.3, 0.4) * width
    foot = 0.08
    piece.add(palette.black, *_legs(width, depth, foot, 0.05, 0.04))
    right = (-width / 2 + bay, width / 2)
    piece.add(wood, block(right, (0, depth), (foot, height)))
    _fronts(
        piece, palette, wood, (right[0] + 0.01, right[1] - 0.01), (foot + 0.01, height - 0.03), 2, 1, depth
    )
    left = (-width / 2, right[0])
    piece.add(
        wood, block(left, (0, depth), (height - 0.025, height)), block(left, (0, depth), (foot, foot + 0.025))
    )
    piece.add(wood, block((left[0], left[0] + 0.025), (0, depth), (foot + 0.025, height - 0.025)))
    piece.add(wood, block(left, (0, 0.012), (foot + 0.025, height - 0.025)))
    piece.surfaces.append(
        Surface((left[0] + 0.03, left[1] - 0.01), (0.02, depth), foot + 0.025, height - foot - 0.06)
    )
    piece.surfaces.append(Surface((-width / 2, width / 2), (0, depth), height, 0.8))
    return piece


# ---------------------------------------------------------------------------------------- bookshelves


def _fill(
    piece: Piece, palette: Palette, x: tuple[float, float], y: float, z: float, room: float, chance: float
) -> None:
    """Books on one shelf, or a surface for other things."""
    rng = palette.rng
    if rng.random() >= chance or room < 0.2:
        piece.surfaces.append(Surface(x, (y, y + 0.24), z, room - 0.02))
        return
    length = (x[1] - x[0]) * rng.uniform(0.35, 1.0)
    make = leaning_books if rng.random() < 0.25 else book_row
    start = x[0] + 0.004 if rng.random() < 0.7 else x[1] - length - 0.004
    piece.children.append((make(palette, length, min(room - 0.02, 0.3)), Pose(start, y + 0.005, z + 0.0005)))
    if length < (x[1] - x[0]) * 0.6:
        free = (x[0] + length + 0.02, x[1]) if start < x[0] + 0.01 else (x[0], start - 0.02)
        piece.surfaces.append(Surface(free, (y, y + 0.24), z, room - 0.02))


def tall_bookshelf(palette: Palette) -> Piece:
    """Boards between two sides, with a back."""
    rng = palette.rng
    piece = Piece("bookshelf", "tall bookshelf", clearance=0.3)
    width, depth, height, wood = rng.uniform(0.7, 1.2), 0.3, rng.uniform(1.4, 2.1), palette.wood()
    count = int(height / 0.36)
    for s in (-1, 1):
        piece.add(wood, block((s * width / 2 - 0.013, s * width / 2 + 0.013), (0, depth), (0, height)))
    inner = (-width / 2 + 0.014, width / 2 - 0.014)
    piece.add(wood, block(inner, (0, 0.012), (0.05, height)))
    step = (height - 0.075) / count
    for k in range(count + 1):
        z = 0.05 + k * step
        piece.add(wood, block(inner, (0.012, depth), (z, z + 0.024)))
        if k < count:
            _fill(piece, palette, inner, 0.02, z + 0.024, step - 0.024, 0.85)
    piece.surfaces.append(Surface((-width / 2, width / 2), (0, depth), height, 0.3))
    return piece


def cube_shelf(palette: Palette) -> Piece:
    """A grid of square bays, open at the back."""
    rng = palette.rng
    piece = Piece("bookshelf", "cube shelf", clearance=0.3)
    cell, board, depth = rng.uniform(0.33, 0.38), 0.025, 0.32
    columns, rows = int(rng.integers(2, 5)), int(rng.integers(2, 5))
    wood = palette.wood()
    width, height = columns * cell + board, rows * cell + board
    for i in range(columns + 1):
        x = -width / 2 + i * cell
        piece.add(wood, block((x, x + board), (0, depth), (0, height)))
    for j in range(rows + 1):
        for i in range(columns):
            x = -width / 2 + i * cell + board
            piece.add(wood, block((x, x + cell - board), (0, depth), (j * cell, j * cell + board)))
            if j < rows:
                _fill(
                    piece,
                    palette,
                    (x + 0.002, x + cell - board - 0.002),
                    0.03,
                    j * cell + board,
                    cell - board,
                    0.6,
                )
    piece.surfaces.append(Surface((-width / 2, width / 2), (0, depth), height, 0.4))
    return piece


def ladder_shelf(palette: Palette) -> Piece:
    """Boards on a thin metal frame, without sides or back."""
    rng = palette.rng
    piece = Piece("bookshelf", "ladder shelf", clearance=0.3)
    width, depth, height = rng.uniform(0.7, 1.1), 0.32, rng.uniform(1.3, 1.9)
    wood, metal = palette.wood(), palette.metal()
    for s in (-1, 1):
        for y in (0.0, depth - 0.025):
            x = s * (width / 2 - 0.013)
            piece.add(metal, block((x - 0.013, x + 0.013), (y, y + 0.025), (0, height)))
    count = int(height / 0.38)
    step = (height - 0.12) / count
    for k in range(count + 1):
        z = 0.1 + k * step
        piece.add(wood, block((-width / 2, width / 2), (0, depth), (z, z + 0.022)))
        if k < count:
            inner = (-width / 2 + 0.03, width / 2 - 0.03)
            _fill(piece, palette, inner, 0.03, z + 0.022, step - 0.022, 0.7)
    return piece


def wall_shelf(palette: Palette) -> Piece:
    """One or two boards on the wall (its frame starts at the lowest board)."""
    rng = palette.rng
    piece = Piece("bookshelf", "wall shelf")
    width, depth, wood = rng.uniform(0.7, 1.2), 0.24, palette.wood()
    for k in range(int(rng.integers(1, 3))):
        z = 0.36 * k
        piece.add(wood, block((-width / 2, width / 2), (0, depth), (z, z + 0.028)))
        _fill(piece, palette, (-width / 2 + 0.02, width / 2 - 0.02), 0.005, z + 0.028, 0.32, 0.85)
    return piece


# --------------------------------------------------------------------------------------------- tables


def _top_surface(width: float, depth: float, height: float) -> Surface:
    return Surface((-width / 2, width / 2), (0, depth), height)


def four_leg_table(palette: Palette, low: bool = False) -> Piece:
    """A rectangular top on four legs; a low one is a coffee table with a shelf."""
    rng = palette.rng
    piece = Piece("table", "coffee table" if low else "four-leg table")
    if low:
        width, depth, height = rng.uniform(0.8, 1.2), rng.uniform(0.5, 0.65), rng.uniform(0.36, 0.46)
    else:
        width, depth, height = rng.uniform(1.1, 1.7), rng.uniform(0.75, 0.9), rng.uniform(0.72, 0.77)
    wood = palette.wood()
    legs = wood if rng.random() < 0.65 else palette.metal()
    piece.add(wood, cushion((0, depth / 2, height - 0.018), (width, depth, 0.036), 0.006, 1))
    piece.add(legs, *_legs(width, depth, height - 0.036, 0.05, float(rng.choice([0.0, 0.06]))))
    if low and rng.random() < 0.6:
        piece.add(wood, block((-width / 2 + 0.05, width / 2 - 0.05), (0.05, depth - 0.05), (0.12, 0.14)))
        piece.surfaces.append(
            Surface((-width / 2 + 0.1, width / 2 - 0.1), (0.1, depth - 0.1), 0.14, height - 0.2)
        )
    piece.surfaces.append(_top_surface(width, depth, height))
    return piece


def coffee_table(palette: Palette) -> Piece:
    """A low rectangular table."""
    return four_leg_table(palette, low=True)


def round_table(palette: Palette) -> Piece:
    """A round top on a pedestal or three legs; low, high, or a small side table."""
    rng = palette.rng
    piece = Piece("table", "round table")
    radius, height = [(0.5, 0.74), (0.4, 0.42), (0.22, 0.52)][int(rng.integers(3))]
    radius *= rng.uniform(0.95, 1.1)
    wood = palette.wood()
    legs = wood if rng.random() < 0.5 else palette.metal()
    piece.add(wood, cylinder((0, radius, height - 0.03), radius, 0.03, 36))
    if rng.random() < 0.5:
        piece.add(legs, cylinder((0, radius, 0.025), 0.035, height - 0.055))
        piece.add(legs, cylinder((0, radius, 0), radius * 0.55, 0.025, 28, radius * 0.5))
    else:
        for k in range(3):
            angle = 2 * math.pi * k / 3 + 0.5
            c, s = math.cos(angle), math.sin(angle)
            ends = [
                (r * radius * c, radius + r * radius * s, z) for r, z in ((0.55, height - 0.03), (0.8, 0))
            ]
            piece.add(legs, rod(ends[0], ends[1], 0.02, 8))
    inner = radius * 0.7
    piece.surfaces.append(Surface((-inner, inner), (radius - inner, radius + inner), height))
    return piece


def trestle_desk(palette: Palette) -> Piece:
    """A desk top on two trestles."""
    rng = palette.rng
    piece = Piece("table", "trestle desk", clearance=0.6)
    width, depth, height = rng.uniform(1.2, 1.6), rng.uniform(0.6, 0.7), 0.74
    wood = palette.wood()
    legs = palette.metal() if rng.random() < 0.5 else wood
    piece.add(wood, block((-width / 2, width / 2), (0, depth), (height - 0.03, height)))
    for s in (-1, 1):
        x = s * (width / 2 - 0.18)
        for dx in (-0.12, 0.12):
            for y in (0.06, depth - 0.06):
                piece.add(legs, rod((x, y, height - 0.03), (x + dx, y, 0), 0.016, 8))
        piece.add(legs, block((x - 0.02, x + 0.02), (0.05, depth - 0.05), (height - 0.06, height - 0.03)))
    piece.surfaces.append(_top_surface(width, depth, height))
    return piece


def drawer_desk(palette: Palette) -> Piece:
    """A desk with a block of drawers at one side."""
    rng = palette.rng
    piece = Piece("table", "drawer desk", clearance=0.6)
    width, depth, height, wood = rng.uniform(1.15, 1.5), rng.uniform(0.55, 0.68), 0.75, palette.wood()
    side = float(rng.choice([-1, 1]))
    piece.add(wood, block((-width / 2, width / 2), (0, depth), (height - 0.03, height)))
    inner = sorted((side * width / 2, side * (width / 2 - 0.4)))
    drawers = (inner[0], inner[1])
    piece.add(wood, block(drawers, (0, depth - 0.03), (0.04, height - 0.03)))
    _fronts(piece, palette, wood, drawers, (0.06, height - 0.05), 1, 3, depth - 0.03)
    x = -side * (width / 2 - 0.02)
    piece.add(wood, block((x - 0.02, x + 0.02), (0, depth), (0, height - 0.03)))
    piece.add(wood, block((-width / 2 + 0.04, width / 2 - 0.04), (0, 0.02), (height - 0.35, height - 0.03)))
    piece.surfaces.append(_top_surface(width, depth, height))
    return piece
