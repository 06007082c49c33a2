"""Small things: books, boxes, plants, rugs and table lamps."""

from __future__ import annotations

import math

import numpy as np

from plait.data.rooms.furniture.piece import Piece
from plait.data.rooms.geometry import block, box, cylinder, join, lathe, leaf, quad, rectangle, rod
from plait.data.rooms.textures import Material, Palette, Texture, colour

# ---------------------------------------------------------------------------------------------- books


def book_row(palette: Palette, length: float = 0.4, tallest: float = 0.3) -> Piece:
    """Books standing side by side from x = 0."""
    rng = palette.rng
    piece = Piece("books", "book row")
    x = 0.0
    while True:
        thickness = rng.uniform(0.018, 0.05)
        if x + thickness > length:
            break
        height, depth = rng.uniform(0.62, 0.97) * tallest, rng.uniform(0.14, 0.2)
        piece.add(palette.book(), block((x, x + thickness - 0.001), (0, depth), (0, height)))
        x += thickness
    if not piece.parts:
        piece.add(palette.book(), block((0, length * 0.9), (0, 0.15), (0, tallest * 0.8)))
    return piece


def leaning_books(palette: Palette, length: float = 0.3, tallest: float = 0.3) -> Piece:
    """A short row whose last book leans on the others."""
    lean, height = 0.3, tallest * 0.75
    needed = height * math.sin(lean) + 0.04
    if length < needed + 0.06:
        return book_row(palette, length, tallest)
    piece = book_row(palette, length - needed, tallest)
    piece.archetype = "leaning books"
    x = piece.extent()[1][0]
    book = block((0, 0.025), (0, 0.16), (0, height)).turned(-lean, 1)
    low = book.vertices.min(0)
    piece.add(palette.book(), book.moved((x - low[0] + 0.001, 0, -low[2])))
    return piece


def book_pile(palette: Palette) -> Piece:
    """Books lying one on the other."""
    rng = palette.rng
    piece = Piece("books", "book pile")
    z = 0.0
    width, depth = rng.uniform(0.17, 0.24), rng.uniform(0.22, 0.3)
    for _ in range(int(rng.integers(2, 6))):
        thickness = rng.uniform(0.018, 0.045)
        size = (width * rng.uniform(0.85, 1), depth * rng.uniform(0.85, 1), thickness - 0.001)
        centre = (rng.normal(0, 0.006), 0.15 + rng.normal(0, 0.006), z + thickness / 2)
        piece.add(palette.book(), box(centre, size))
        z += thickness
    return piece


def open_book(palette: Palette) -> Piece:
    """A book lying open."""
    piece = Piece("books", "open book")
    piece.add(palette.book(), block((-0.2, 0.2), (0, 0.26), (0, 0.006)))
    paper = palette.flat((0.72, 0.7, 0.62))
    for s in (-1, 1):
        page = block((0.0, 0.185), (0.01, 0.25), (0, 0.014)).turned(-0.06, 1)
        page = page._replace(vertices=page.vertices * np.array([s, 1, 1]))
        piece.add(paper, page.moved((0, 0, 0.006 - page.vertices[:, 2].min())))
    return piece


# ---------------------------------------------------------------------------------------------- boxes


def cardboard_box(palette: Palette, size: float = 0.4) -> Piece:
    """A closed cardboard box with tape."""
    rng = palette.rng
    piece = Piece("box", "cardboard box")
    w, d, h = size * rng.uniform(0.75, 1.15), size * rng.uniform(0.6, 0.9), size * rng.uniform(0.5, 0.85)
    piece.add(palette.board, block((-w / 2, w / 2), (0, d), (0, h)))
    tape = palette.flat(colour(0.1, 0.25, 0.62), roughness=0.3)
    piece.add(
        tape, block((-w / 2 - 0.001, w / 2 + 0.001), (d / 2 - 0.025, d / 2 + 0.025), (h - 0.08, h + 0.001))
    )
    return piece


def open_carton(palette: Palette, size: float = 0.4) -> Piece:
    """An open cardboard box with its flaps out."""
    rng = palette.rng
    piece = Piece("box", "open carton")
    w, d, h = size * rng.uniform(0.8, 1.1), size * rng.uniform(0.65, 0.9), size * rng.uniform(0.5, 0.75)
    wall = 0.006
    piece.add(
        palette.board,
        block((-w / 2, w / 2), (0, d), (0, wall)),
        block((-w / 2, -w / 2 + wall), (0, d), (wall, h)),
        block((w / 2 - wall, w / 2), (0, d), (wall, h)),
        block((-w / 2, w / 2), (0, wall), (wall, h)),
        block((-w / 2, w / 2), (d - wall, d), (wall, h)),
    )
    for s in (-1, 1):
        flap = block((0, 0.4 * w), (0.005, d - 0.005), (0, 0.004)).turned(rng.uniform(-0.1, 0.6), 1)
        flap = flap._replace(vertices=flap.vertices * np.array([s, 1, 1]))
        piece.add(palette.board, flap.moved((s * w / 2, 0, h)))
    return piece


def basket(palette: Palette, size: float = 0.4) -> Piece:
    """A round basket."""
    rng = palette.rng
    piece = Piece("box", "basket")
    r, h = size * rng.uniform(0.38, 0.5), size * rng.uniform(0.6, 0.9)
    weave = Material(np.repeat(palette.board.texture, 8, 0).repeat(8, 1) * _weave(), repeat=0.06, density=300)
    profile = [(1e-4, 0), (r * 0.85, 0), (r, h), (r * 0.93, h), (r * 0.8, 0.03), (1e-4, 0.03)]
    piece.add(weave, lathe(profile, (0, r, 0), 24), smooth=True)
    return piece


def _weave() -> Texture:
    y, x = np.mgrid[:8, :8]
    weave: Texture = (0.7 + 0.3 * ((x // 4 + y // 4) % 2))[..., None].astype(np.float32)
    return weave


def storage_box(palette: Palette, size: float = 0.4) -> Piece:
    """A lidded box of a plain colour with a label."""
    rng = palette.rng
    piece = Piece("box", "storage box")
    w, d, h = size * rng.uniform(0.7, 1.0), size * rng.uniform(0.6, 0.85), size * rng.uniform(0.45, 0.7)
    tone = palette.accent() if rng.random() < 0.6 else palette.white
    piece.add(tone, block((-w / 2, w / 2), (0.006, d - 0.006), (0, h)))
    piece.add(tone, block((-w / 2 - 0.008, w / 2 + 0.008), (0, d), (h * 0.78, h + 0.006)))
    piece.add(
        palette.flat((0.7, 0.7, 0.66)), block((-w / 6, w / 6), (d - 0.006, d - 0.003), (h * 0.3, h * 0.55))
    )
    return piece


# --------------------------------------------------------------------------------------------- plants


def _pot(piece: Piece, palette: Palette, scale: float) -> float:
    """A pot about the z axis shifted so that its back touches y = 0; returns the height of the soil."""
    rng = palette.rng
    height, radius = 0.26 * scale, 0.13 * scale
    material = palette.accent() if rng.random() < 0.5 else palette.white
    if rng.random() < 0.5:
        profile = [
            (1e-4, 0),
            (0.09 * scale, 0),
            (radius, height),
            (radius * 0.88, height),
            (radius * 0.8, height * 0.85),
        ]
    else:
        profile = [
            (1e-4, 0),
            (radius * 0.9, 0),
            (radius, height * 0.2),
            (radius, height),
            (radius * 0.88, height),
        ]
        profile.append((radius * 0.86, height * 0.85))
    piece.add(material, lathe(profile, (0, radius, 0), 22), smooth=True)
    soil = palette.flat((0.05, 0.035, 0.025))
    piece.add(soil, cylinder((0, radius, height * 0.8), radius * 0.86, 0.02 * scale, 20))
    return height * 0.86


def bushy_plant(palette: Palette, scale: float = 1.0) -> Piece:
    """Many bending leaves from one point."""
    rng = palette.rng
    piece = Piece("plant", "bushy plant")
    base = np.array([0, 0.13 * scale, _pot(piece, palette, scale)])
    leaves = []
    for _ in range(int(rng.integers(18, 34))):
        around, up = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.4)
        direction = (math.cos(around) * math.cos(up), math.sin(around) * math.cos(up), math.sin(up) + 0.15)
        leaves.append(
            leaf(base, direction, rng.uniform(0.25, 0.55) * scale, rng.uniform(0.02, 0.045) * scale)
        )
    piece.add(palette.foliage(), join(leaves), smooth=True)
    return piece


def snake_plant(palette: Palette, scale: float = 1.0) -> Piece:
    """Stiff upright blades."""
    rng = palette.rng
    piece = Piece("plant", "snake plant")
    soil = _pot(piece, palette, scale)
    leaves = []
    for _ in range(int(rng.integers(9, 16))):
        around, out = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.06) * scale
        base = (out * math.cos(around), 0.13 * scale + out * math.sin(around), soil)
        direction = (0.2 * math.cos(around), 0.2 * math.sin(around), 1.0)
        leaves.append(
            leaf(base, direction, rng.uniform(0.35, 0.7) * scale, rng.uniform(0.025, 0.04) * scale, 0.02)
        )
    piece.add(palette.foliage(), join(leaves), smooth=True)
    return piece


def small_tree(palette: Palette, scale: float = 1.0) -> Piece:
    """A thin trunk with a crown of broad leaves."""
    rng = palette.rng
    piece = Piece("plant", "small tree")
    soil, y = _pot(piece, palette, scale), 0.13 * scale
    crown = soil + rng.uniform(0.5, 0.75) * scale
    piece.add(
        palette.flat((0.12, 0.08, 0.05)),
        rod((0, y, soil), (0.02 * scale, y, crown + 0.15 * scale), 0.014 * scale, 8),
    )
    leaves = []
    for _ in range(int(rng.integers(26, 42))):
        around, up, z = (
            rng.uniform(0, 2 * np.pi),
            rng.uniform(-0.2, 1.2),
            crown + rng.uniform(-0.1, 0.18) * scale,
        )
        direction = (math.cos(around) * math.cos(up), math.sin(around) * math.cos(up), math.sin(up))
        leaves.append(
            leaf(
                (0.01 * scale, y, z),
                direction,
                rng.uniform(0.18, 0.36) * scale,
                rng.uniform(0.035, 0.06) * scale,
                0.3,
            )
        )
    piece.add(palette.foliage(), join(leaves), smooth=True)
    return piece


# ----------------------------------------------------------------------------------------------- rugs


def rectangular_rug(palette: Palette) -> Piece:
    """A patterned rectangle."""
    rng = palette.rng
    return _flat_rug(palette, "rectangular rug", rng.uniform(1.7, 2.5), rng.uniform(1.3, 1.8))


def runner(palette: Palette) -> Piece:
    """A long narrow rug."""
    return _flat_rug(palette, "runner", palette.rng.uniform(1.6, 2.4), palette.rng.uniform(0.6, 0.8))


RUG_HEIGHT = 0.008


def _flat_rug(palette: Palette, archetype: str, width: float, depth: float) -> Piece:
    piece = Piece("rug", archetype)
    picture = palette.rug()
    top = quad((-width / 2, 0, RUG_HEIGHT), (width, 0, 0), (0, depth, 0), fit=True)
    side = palette.flat(picture.texture.mean((0, 1)))
    piece.add(side, block((-width / 2, width / 2), (0, depth), (0, RUG_HEIGHT - 0.001)))
    piece.add(picture, top)
    return piece


def round_rug(palette: Palette) -> Piece:
    """A patterned disc."""
    radius = palette.rng.uniform(0.75, 1.1)
    piece = Piece("rug", "round rug")
    mesh = lathe([(radius, 0), (radius, RUG_HEIGHT), (1e-4, RUG_HEIGHT)], (0, radius, 0), 48)
    uv = mesh.vertices[:, :2] / (2 * radius) + np.array([0.5, 0.0])
    piece.add(palette.rug(), mesh._replace(uv=uv))
    return piece


# ---------------------------------------------------------------------------------------- table lamps


def _radiance(palette: Palette) -> float:
    return float(palette.rng.choice([0.0, 1.2, 3.0], p=[0.4, 0.25, 0.35]))


def table_lamp(palette: Palette) -> Piece:
    """A turned base and a conical shade."""
    piece = Piece("lamp", "table lamp")
    base = palette.accent() if palette.rng.random() < 0.6 else palette.white
    y = 0.14
    profile = [(0.08, 0), (0.08, 0.02), (0.03, 0.05), (0.06, 0.12), (0.015, 0.2), (0.012, 0.28)]
    piece.add(base, lathe(profile, (0, y, 0), 18), smooth=True)
    piece.add(
        palette.glow(_radiance(palette)), lathe([(0.14, 0.24), (0.085, 0.42)], (0, y, 0), 22), smooth=True
    )
    return piece


def globe_lamp(palette: Palette) -> Piece:
    """A glass ball on a small foot."""
    piece = Piece("lamp", "globe lamp")
    r = palette.rng.uniform(0.09, 0.13)
    piece.add(palette.metal(), cylinder((0, r, 0), r * 0.6, 0.03))
    angle = np.linspace(-np.pi / 2 + 0.02, np.pi / 2 - 0.02, 10)
    ball = [(float(r * np.cos(a)), float(0.03 + r + r * np.sin(a))) for a in angle]
    piece.add(palette.glow(_radiance(palette)), lathe(ball, (0, r, 0), 22), smooth=True)
    return piece


def desk_lamp(palette: Palette) -> Piece:
    """A jointed arm with a metal hood."""
    piece = Piece("lamp", "desk lamp")
    metal = palette.metal() if palette.rng.random() < 0.5 else palette.accent()
    y = 0.08
    piece.add(metal, cylinder((0, y, 0), 0.08, 0.02, 20))
    piece.add(
        metal,
        rod((0, y, 0.02), (-0.05, y, 0.25), 0.008, 8),
        rod((-0.05, y, 0.25), (0.14, y + 0.04, 0.4), 0.008, 8),
    )
    piece.add(metal, lathe([(0.065, 0.34), (0.025, 0.42)], (0.15, y + 0.045, 0), 18), smooth=True)
    piece.add(palette.glow(_radiance(palette)), cylinder((0.15, y + 0.045, 0.345), 0.045, 0.01, 16))
    return piece


def framed_photo(palette: Palette) -> Piece:
    """A small picture that stands on a surface."""
    piece = Piece("picture", "framed photo")
    w, h = palette.rng.uniform(0.12, 0.2), palette.rng.uniform(0.15, 0.22)
    piece.add(
        palette.wood() if palette.rng.random() < 0.5 else palette.black,
        block((-w / 2, w / 2), (0, 0.02), (0, h)),
    )
    piece.add(palette.art(), rectangle(-w / 2 + 0.015, w / 2 - 0.015, 0.015, h - 0.015, 0.0205, fit=True))
    return piece
