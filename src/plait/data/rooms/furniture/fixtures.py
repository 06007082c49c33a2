"""What hangs on walls and ceilings: doors, windows, curtains, pictures, screens; and large lamps."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from plait.data.rooms.furniture.piece import Piece
from plait.data.rooms.furniture.things import _radiance
from plait.data.rooms.geometry import block, box, curtain, cushion, cylinder, lathe, rectangle, rod
from plait.data.rooms.textures import Palette, outdoors, painting

REVEAL = 0.13
"""How deep a window sits in its wall, in metres."""

# ------------------------------------------------------------------------------------- doors, windows


def _door(palette: Palette, archetype: str) -> tuple[Piece, float, float]:
    """A leaf in its frame, flush with the wall; returns the piece, the leaf's width and its front."""
    rng = palette.rng
    piece = Piece("door", archetype, clearance=0.75)
    width, height = rng.uniform(0.78, 0.9), rng.uniform(1.98, 2.08)
    leaf = palette.white if rng.random() < 0.45 else palette.wood()
    frame = palette.white if rng.random() < 0.7 else leaf
    front = 0.02
    piece.add(leaf, block((-width / 2, width / 2), (0, front), (0.005, height)))
    for s in (-1, 1):
        x = s * (width / 2 + 0.035)
        piece.add(frame, block((x - 0.035, x + 0.035), (0, 0.04), (0, height + 0.07)))
    piece.add(frame, block((-width / 2, width / 2), (0, 0.04), (height, height + 0.07)))
    side = float(rng.choice([-1, 1])) * (width / 2 - 0.07)
    piece.add(palette.metal(), box((side, front + 0.01, 1.02), (0.04, 0.02, 0.16)))
    piece.add(
        palette.metal(), box((side - math.copysign(0.04, side), front + 0.04, 1.04), (0.12, 0.02, 0.02))
    )
    return piece, width, front


def panel_door(palette: Palette) -> Piece:
    """A door with two or three raised panels."""
    piece, width, front = _door(palette, "panel door")
    leaf = piece.parts[0].material
    for low, high in ([(0.15, 0.9), (1.15, 1.85)], [(0.12, 0.6), (0.7, 1.2), (1.3, 1.86)])[
        int(palette.rng.integers(2))
    ]:
        x = width / 2 - 0.14
        piece.add(leaf, cushion((0, front, (low + high) / 2), (2 * x, 0.02, high - low), 0.009, 1))
    return piece


def flush_door(palette: Palette) -> Piece:
    """A plain door, perhaps with a groove."""
    piece, width, front = _door(palette, "flush door")
    if palette.rng.random() < 0.5:
        piece.add(
            palette.metal(), block((-width / 2 + 0.02, width / 2 - 0.02), (front, front + 0.002), (1.3, 1.32))
        )
    return piece


def glazed_door(palette: Palette) -> Piece:
    """A door with frosted panes."""
    piece, width, front = _door(palette, "glazed door")
    glass = palette.flat((0.5, 0.55, 0.56), roughness=0.15)
    for k in range(4):
        z = 0.62 + 0.33 * k
        for x in (-width / 8, width / 8):
            piece.add(glass, block((x - width / 9, x + width / 9), (front, front + 0.004), (z, z + 0.29)))
    return piece


def _window(palette: Palette, archetype: str, columns: int, rows: int) -> Piece:
    """Frame, bars, pane and sill in an opening; its frame is the room's floor level."""
    rng = palette.rng
    piece = Piece("window", archetype)
    width, height = (
        rng.uniform(0.55, 0.75) * columns if columns > 1 else rng.uniform(0.8, 1.2),
        rng.uniform(1.05, 1.45),
    )
    low = 0.25 if archetype == "tall window" else rng.uniform(0.8, 0.95)
    high = min(low + height + (0.55 if archetype == "tall window" else 0), 2.2)
    piece.opening = (-width / 2, width / 2, low, high)
    frame = palette.white if rng.random() < 0.75 else palette.black
    y, thick = (-REVEAL + 0.005, -REVEAL + 0.055), 0.05
    for x in np.linspace(-width / 2 + thick / 2, width / 2 - thick / 2, columns + 1):
        piece.add(frame, block((x - thick / 2, x + thick / 2), y, (low, high)))
    for z in np.linspace(low + thick / 2, high - thick / 2, rows + 1):
        piece.add(frame, block((-width / 2, width / 2), y, (z - thick / 2, z + thick / 2)))
    view = palette.picture(outdoors(rng), emission=float(rng.choice([2.5, 5.0, 8.0]) * rng.uniform(0.8, 1.3)))
    piece.add(view, rectangle(-width / 2, width / 2, low, high, -REVEAL + 0.02, fit=True))
    piece.add(frame, block((-width / 2, width / 2), (-REVEAL + 0.055, 0.0), (low, low + 0.015)))
    piece.add(frame, block((-width / 2 - 0.05, width / 2 + 0.05), (0.0, 0.07), (low - 0.02, low + 0.015)))
    return piece


def casement_window(palette: Palette) -> Piece:
    """Two or three sashes side by side."""
    return _window(palette, "casement window", int(palette.rng.integers(2, 4)), 1)


def grid_window(palette: Palette) -> Piece:
    """Small panes."""
    return _window(palette, "grid window", int(palette.rng.integers(2, 4)), int(palette.rng.integers(2, 4)))


def picture_window(palette: Palette) -> Piece:
    """One large pane."""
    return _window(palette, "picture window", 1, 1)


def tall_window(palette: Palette) -> Piece:
    """Nearly down to the floor."""
    return _window(palette, "tall window", 2, 2)


def _over(window: Piece) -> tuple[float, float, float, float]:
    assert window.opening is not None
    return window.opening


def long_curtains(palette: Palette, window: Piece) -> Piece:
    """Two cloths down to the floor on a rod."""
    return _hanging(palette, window, "long curtains", 0.03, (-1, 1))


def short_curtains(palette: Palette, window: Piece) -> Piece:
    """Two cloths that end below the sill."""
    return _hanging(palette, window, "short curtains", _over(window)[2] - 0.12, (-1, 1))


def side_curtain(palette: Palette, window: Piece) -> Piece:
    """One wide cloth at one side."""
    return _hanging(palette, window, "side curtain", 0.03, (int(palette.rng.choice([-1, 1])),))


def _hanging(palette: Palette, window: Piece, archetype: str, bottom: float, sides: tuple[int, ...]) -> Piece:
    rng = palette.rng
    piece = Piece("curtain", archetype)
    x0, x1, _, high = _over(window)
    top, y = high + 0.12, 0.12
    cloth = palette.new_cloth() if rng.random() < 0.6 else palette.linen()
    wide = rng.uniform(0.22, 0.4) * (1.5 if len(sides) == 1 else 1)
    for side in sides:
        edge = x0 if side < 0 else x1
        span = (edge - 0.12, edge - 0.12 + wide) if side < 0 else (edge + 0.12 - wide, edge + 0.12)
        piece.add(cloth, curtain(span, (bottom, top), y, 0.06, wide * 12), smooth=True)
    piece.add(palette.metal(), rod((x0 - 0.2, y, top + 0.012), (x1 + 0.2, y, top + 0.012), 0.011))
    return piece


def roller_blind(palette: Palette, window: Piece) -> Piece:
    """A blind drawn part of the way down, in front of the wall."""
    piece = Piece("curtain", "roller blind")
    x0, x1, low, high = _over(window)
    drop = palette.rng.uniform(0.25, 0.6) * (high - low)
    cloth = palette.new_cloth() if palette.rng.random() < 0.5 else palette.linen()
    piece.add(cloth, block((x0 - 0.03, x1 + 0.03), (0.03, 0.034), (high - drop, high + 0.04)))
    piece.add(cloth, rod((x0 - 0.03, 0.035, high + 0.065), (x1 + 0.03, 0.035, high + 0.065), 0.027, 14))
    piece.add(palette.white, block((x0 - 0.03, x1 + 0.03), (0.026, 0.04), (high - drop - 0.025, high - drop)))
    return piece


# --------------------------------------------------------------------------- pictures and televisions


def framed_picture(palette: Palette) -> Piece:
    """A frame with a mount around the picture."""
    rng = palette.rng
    piece = Piece("picture", "framed picture")
    w, h = rng.uniform(0.35, 0.8), rng.uniform(0.35, 0.75)
    frame = [palette.black, palette.white, palette.wood()][int(rng.integers(3))]
    edge, mount = 0.025, rng.uniform(0.03, 0.08)
    piece.add(frame, block((-w / 2, w / 2), (0, 0.024), (-h / 2, h / 2)))
    piece.add(
        palette.flat((0.75, 0.74, 0.7)),
        rectangle(-w / 2 + edge, w / 2 - edge, -h / 2 + edge, h / 2 - edge, 0.025),
    )
    inner = edge + mount
    piece.add(
        palette.art(),
        rectangle(-w / 2 + inner, w / 2 - inner, -h / 2 + inner, h / 2 - inner, 0.0265, fit=True),
    )
    return piece


def canvas(palette: Palette) -> Piece:
    """A canvas without a frame; one, two or three in a row."""
    rng = palette.rng
    piece = Piece("picture", "canvas")
    count = int(rng.choice([1, 1, 2, 3]))
    w, h = rng.uniform(0.3, 0.5) * (2 if count == 1 else 1), rng.uniform(0.45, 0.7)
    for k in range(count):
        x = (k - (count - 1) / 2) * (w + 0.06)
        piece.add(palette.white, block((x - w / 2, x + w / 2), (0, 0.03), (-h / 2, h / 2)))
        piece.add(palette.art(), rectangle(x - w / 2, x + w / 2, -h / 2, h / 2, 0.031, fit=True))
    return piece


def poster(palette: Palette) -> Piece:
    """A large sheet of paper."""
    w = palette.rng.uniform(0.45, 0.65)
    piece = Piece("picture", "poster")
    piece.add(palette.art(), rectangle(-w / 2, w / 2, -w * 0.7, w * 0.7, 0.004, fit=True))
    return piece


def _screen(piece: Piece, palette: Palette, width: float, y: float, bottom: float) -> None:
    rng = palette.rng
    height = width * 0.57
    piece.add(palette.black, block((-width / 2, width / 2), (y, y + 0.035), (bottom, bottom + height)))
    if rng.random() < 0.4:
        glass = palette.picture(painting(rng, palette.hues), emission=float(rng.uniform(0.6, 1.1)))
    else:
        glass = palette.flat((0.015, 0.017, 0.02), roughness=0.12)
    edge = 0.014
    piece.add(
        glass,
        rectangle(
            -width / 2 + edge, width / 2 - edge, bottom + edge, bottom + height - edge, y + 0.036, fit=True
        ),
    )


def standing_television(palette: Palette) -> Piece:
    """A television on two feet."""
    piece = Piece("television", "standing television")
    width = palette.rng.uniform(0.75, 1.1)
    _screen(piece, palette, width, 0.12, 0.07)
    for s in (-1, 1):
        x = s * width * 0.33
        piece.add(palette.black, block((x - 0.02, x + 0.02), (0.02, 0.26), (0, 0.015)))
        piece.add(palette.black, block((x - 0.012, x + 0.012), (0.125, 0.15), (0.015, 0.07)))
    return piece


def wall_television(palette: Palette) -> Piece:
    """A television on the wall."""
    piece = Piece("television", "wall television")
    width = palette.rng.uniform(0.8, 1.15)
    _screen(piece, palette, width, 0.03, -width * 0.285)
    piece.add(palette.black, block((-0.15, 0.15), (0, 0.03), (-0.12, 0.12)))
    return piece


def monitor(palette: Palette) -> Piece:
    """A computer monitor on a stand."""
    piece = Piece("television", "monitor")
    width = palette.rng.uniform(0.46, 0.68)
    _screen(piece, palette, width, 0.1, 0.12)
    stand = palette.black if palette.rng.random() < 0.6 else palette.metal()
    piece.add(stand, block((-0.02, 0.02), (0.075, 0.1), (0.01, 0.28)))
    piece.add(stand, block((-0.12, 0.12), (0, 0.2), (0, 0.01)))
    return piece


# ---------------------------------------------------------------------------------------------- lamps


def floor_lamp(palette: Palette) -> Piece:
    """A pole with a fabric shade."""
    piece = Piece("lamp", "floor lamp")
    height, metal, y = palette.rng.uniform(1.4, 1.7), palette.metal(), 0.2
    piece.add(metal, cylinder((0, y, 0), 0.14, 0.02), cylinder((0, y, 0.02), 0.012, height - 0.02))
    shade = [(0.2, height - 0.14), (0.13 + 0.07 * palette.rng.integers(2), height + 0.14)]
    piece.add(palette.glow(_radiance(palette)), lathe(shade, (0, y, 0), 24), smooth=True)
    return piece


def tripod_lamp(palette: Palette) -> Piece:
    """Three wooden legs and a drum shade."""
    piece = Piece("lamp", "tripod lamp")
    height, wood, y = palette.rng.uniform(1.15, 1.4), palette.wood(), 0.3
    for k in range(3):
        angle = 2 * math.pi * k / 3 + 0.4
        c, s = math.cos(angle), math.sin(angle)
        piece.add(wood, rod((0.03 * c, y + 0.03 * s, height), (0.27 * c, y + 0.27 * s, 0), 0.013, 8))
    shade = [(0.19, height - 0.04), (0.19, height + 0.24)]
    piece.add(palette.glow(_radiance(palette)), lathe(shade, (0, y, 0), 24), smooth=True)
    return piece


def arc_lamp(palette: Palette) -> Piece:
    """A bent pole with a hanging hood."""
    piece = Piece("lamp", "arc lamp")
    metal, y = palette.metal(), 0.2
    piece.add(metal, cylinder((0, y, 0), 0.15, 0.03, 20))
    angle = np.linspace(0, 0.75 * math.pi, 9)
    bend = [(0.3 * (1 - math.cos(a)), y, 1.5 + 0.3 * math.sin(a)) for a in angle]
    points = [(0.0, y, 0.03), *bend]
    for start, end in pairwise(points):
        piece.add(metal, rod(start, end, 0.011, 8))
    x, z = bend[-1][0], bend[-1][2]
    piece.add(metal, lathe([(0.14, z - 0.16), (0.1, z - 0.05), (0.02, z)], (x, y, 0), 22), smooth=True)
    piece.add(palette.glow(_radiance(palette)), cylinder((x, y, z - 0.145), 0.08, 0.02, 18))
    return piece


def ceiling_dome(palette: Palette) -> Piece:
    """A flat glass dome; z = 0 is the ceiling."""
    piece = Piece("lamp", "ceiling dome")
    r = palette.rng.uniform(0.15, 0.24)
    profile = [(1e-4, -0.11), (r * 0.75, -0.09), (r, -0.03), (r, -0.001)]
    piece.add(palette.glow(float(palette.rng.uniform(4, 9))), lathe(profile, (0, 0, 0), 22), smooth=True)
    return piece


def pendant(palette: Palette) -> Piece:
    """A shade hanging from a cable; z = 0 is the ceiling."""
    piece = Piece("lamp", "pendant")
    drop, r = palette.rng.uniform(0.45, 0.7), palette.rng.uniform(0.17, 0.25)
    shade = palette.accent() if palette.rng.random() < 0.5 else palette.black
    piece.add(palette.black, rod((0, 0, -drop + 0.1), (0, 0, 0), 0.005, 6))
    profile = [(r, -drop - 0.1), (r * 0.85, -drop), (r * 0.3, -drop + 0.09), (0.01, -drop + 0.1)]
    piece.add(shade, lathe(profile, (0, 0, 0), 24), smooth=True)
    piece.add(
        palette.glow(float(palette.rng.uniform(6, 12))), cylinder((0, 0, -drop - 0.085), r * 0.7, 0.02, 20)
    )
    return piece


def globe_pendant(palette: Palette) -> Piece:
    """A glass ball hanging from a cable; z = 0 is the ceiling."""
    piece = Piece("lamp", "globe pendant")
    drop, r = palette.rng.uniform(0.35, 0.6), palette.rng.uniform(0.12, 0.18)
    piece.add(palette.black, rod((0, 0, -drop), (0, 0, 0), 0.005, 6))
    angle = np.linspace(-np.pi / 2 + 0.02, np.pi / 2 - 0.02, 10)
    ball = [(float(r * np.cos(a)), float(-drop - r + r * np.sin(a))) for a in angle]
    piece.add(palette.glow(float(palette.rng.uniform(4, 9))), lathe(ball, (0, 0, 0), 22), smooth=True)
    return piece
