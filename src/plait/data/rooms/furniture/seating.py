"""Chairs, sofas, beds and the pillows on them."""

from __future__ import annotations

import math

from plait.data.rooms.furniture.piece import Piece
from plait.data.rooms.geometry import Mesh, Pose, block, cushion, cylinder, pillow, rod
from plait.data.rooms.textures import Material, Palette


def _leaning(size: tuple[float, float, float], tilt: float, turn: float = 0.0) -> Mesh:
    """A pillow turned in its plane by ``turn``, then leaning back by ``tilt``; touches y = 0 and z = 0."""
    mesh = pillow(size).turned(turn, 1).turned(tilt, 0)
    low = mesh.vertices.min(0)
    return mesh.moved((0, -low[1], -low[2]))


def bed_pillow(palette: Palette) -> Piece:
    """A bed pillow, lying or propped up."""
    rng = palette.rng
    piece = Piece("pillow", "bed pillow")
    lean = float(rng.choice([1.5, 1.2, 0.5]))
    mesh = _leaning((rng.uniform(0.5, 0.6), 0.15, rng.uniform(0.36, 0.42)), lean)
    piece.add(palette.linen() if rng.random() < 0.6 else palette.cloth(), mesh, smooth=True)
    return piece


def scatter_cushion(palette: Palette) -> Piece:
    """A square cushion leaning back."""
    rng = palette.rng
    side = rng.uniform(0.36, 0.46)
    piece = Piece("pillow", "scatter cushion")
    mesh = _leaning((side, 0.13, side), rng.uniform(0.15, 0.4), rng.choice([0.0, 0.0, 0.08, math.pi / 4]))
    piece.add(_cushion_cloth(palette), mesh, smooth=True)
    return piece


def bolster(palette: Palette) -> Piece:
    """A round roll."""
    rng = palette.rng
    radius, length = rng.uniform(0.08, 0.11), rng.uniform(0.4, 0.55)
    piece = Piece("pillow", "bolster")
    mesh = rod((-length / 2, radius, radius), (length / 2, radius, radius), radius, 18)
    piece.add(_cushion_cloth(palette), mesh, smooth=True)
    return piece


def floor_cushion(palette: Palette) -> Piece:
    """A thick cushion to sit on, flat on the floor."""
    side = palette.rng.uniform(0.45, 0.6)
    piece = Piece("pillow", "floor cushion")
    mesh = pillow((side, side, 0.2))
    lift = -mesh.vertices[:, 2].min()
    piece.add(_cushion_cloth(palette), mesh.moved((0, side / 2, lift)), smooth=True)
    return piece


def _cushion_cloth(palette: Palette) -> Material:
    draw = palette.rng.random()
    if draw < 0.35:
        return palette.accent()
    return palette.new_cloth() if draw < 0.75 else palette.linen()


# --------------------------------------------------------------------------------------------- chairs


def _legs(width: float, depth: float, height: float, thick: float, inset: float = 0.0) -> list[Mesh]:
    """Four square legs under a seat or a top whose back edge is y = 0."""
    x, near, far = width / 2 - thick / 2 - inset, thick / 2 + inset, depth - thick / 2 - inset
    half = thick / 2
    return [
        block((sx * x - half, sx * x + half), (y - half, y + half), (0, height))
        for sx in (-1, 1)
        for y in (near, far)
    ]


def dining_chair(palette: Palette) -> Piece:
    """Four legs, a seat, and a back of slats or a panel."""
    rng = palette.rng
    piece = Piece("chair", "dining chair")
    frame, width, depth, top = palette.wood(), rng.uniform(0.4, 0.46), 0.44, rng.uniform(0.84, 0.98)
    piece.add(frame, *_legs(width, depth, 0.43, 0.036))
    seat = palette.cloth() if rng.random() < 0.55 else frame
    piece.add(seat, cushion((0, depth / 2, 0.45), (width, depth, 0.05), 0.02), smooth=True)
    x = width / 2 - 0.018
    piece.add(frame, *(block((s * x - 0.018, s * x + 0.018), (0, 0.036), (0.43, top)) for s in (-1, 1)))
    style = int(rng.integers(3))
    if style == 0:
        bars = [block((-x, x), (0.008, 0.028), (z, z + 0.06)) for z in (0.58, 0.7, top - 0.08)]
    elif style == 1:
        bars = [
            block((k - 0.012, k + 0.012), (0.008, 0.028), (0.47, top - 0.05))
            for k in (-0.1, -0.03, 0.04, 0.11)
        ]
        bars.append(block((-x, x), (0.004, 0.032), (top - 0.07, top)))
    else:
        bars = [block((-x, x), (0.006, 0.03), (top - 0.28, top - 0.02))]
    piece.add(frame, *bars)
    return piece


def shell_chair(palette: Palette) -> Piece:
    """A moulded shell on thin splayed legs."""
    rng = palette.rng
    piece = Piece("chair", "shell chair")
    shell = palette.accent() if rng.random() < 0.5 else palette.white
    legs = palette.wood() if rng.random() < 0.6 else palette.metal()
    piece.add(shell, cushion((0, 0.25, 0.45), (0.46, 0.44, 0.035), 0.016, 4), smooth=True)
    back = cushion((0, 0, 0.19), (0.44, 0.035, 0.38), 0.016, 4).turned(0.14, 0)
    piece.add(shell, back.moved((0, 0.075, 0.44)), smooth=True)
    for sx in (-1, 1):
        for y0, y1 in ((0.12, 0.05), (0.38, 0.45)):
            piece.add(legs, rod((sx * 0.13, y0, 0.435), (sx * 0.2, y1, 0), 0.014, 8))
    return piece


def office_chair(palette: Palette) -> Piece:
    """A swivel chair: five feet, a column, padded seat, back and perhaps arms."""
    rng = palette.rng
    piece = Piece("chair", "office chair")
    cloth, plastic = (palette.cloth() if rng.random() < 0.6 else palette.black), palette.black
    centre = (0.0, 0.3)
    for k in range(5):
        angle = 2 * math.pi * k / 5 + 0.3
        foot = (centre[0] + 0.28 * math.cos(angle), centre[1] + 0.28 * math.sin(angle))
        piece.add(plastic, rod((*centre, 0.1), (*foot, 0.06), 0.02, 8))
        piece.add(plastic, cylinder((*foot, 0), 0.025, 0.05, 10))
    piece.add(palette.metal(), cylinder((*centre, 0.08), 0.03, 0.34))
    piece.add(cloth, cushion((0, 0.3, 0.46), (0.5, 0.48, 0.09), 0.04, 4), smooth=True)
    piece.add(cloth, cushion((0, 0.06, 0.8), (0.46, 0.08, rng.uniform(0.45, 0.55)), 0.035, 4), smooth=True)
    piece.add(plastic, block((-0.03, 0.03), (0.0, 0.03), (0.42, 0.75)))
    if rng.random() < 0.6:
        for s in (-1, 1):
            piece.add(plastic, block((s * 0.27 - 0.025, s * 0.27 + 0.025), (0.14, 0.42), (0.64, 0.67)))
            piece.add(plastic, block((s * 0.27 - 0.015, s * 0.27 + 0.015), (0.26, 0.31), (0.45, 0.64)))
    return piece


def stool(palette: Palette) -> Piece:
    """A round stool without a back."""
    rng = palette.rng
    height = float(rng.choice([0.45, 0.62]))
    piece = Piece("chair", "stool")
    wood = palette.wood()
    seat = palette.cloth() if rng.random() < 0.4 else wood
    piece.add(seat, cylinder((0, 0.2, height - 0.05), 0.17, 0.05, 24))
    for k in range(4):
        angle = math.pi / 4 + k * math.pi / 2
        c, s = math.cos(angle), math.sin(angle)
        piece.add(wood, rod((0.1 * c, 0.2 + 0.1 * s, height - 0.05), (0.18 * c, 0.2 + 0.18 * s, 0), 0.015, 8))
    return piece


# ---------------------------------------------------------------------------------------------- sofas


def _sofa(palette: Palette, seats: int, archetype: str) -> Piece:
    """The shared body: base, back, arms, seat cushions, feet, scatter cushions."""
    rng = palette.rng
    piece = Piece("sofa", archetype, clearance=0.45)
    slim = archetype == "slim sofa"
    arm = 0.09 if slim else rng.uniform(0.14, 0.2)
    seat_width = rng.uniform(0.58, 0.68)
    width, depth = seats * seat_width + 2 * arm, rng.uniform(0.8, 0.95)
    foot = 0.16 if slim else 0.08
    cloth = palette.cloth()
    top, seat_top = rng.uniform(0.74, 0.86), 0.44
    wood = palette.wood()
    piece.add(cloth, cushion((0, depth / 2, foot + 0.1), (width, depth, 0.2), 0.04), smooth=True)
    piece.add(cloth, cushion((0, 0.11, (foot + top) / 2), (width, 0.22, top - foot), 0.07, 4), smooth=True)
    arm_top = 0.6 if slim else rng.uniform(0.55, 0.64)
    for s in (-1, 1):
        centre = (s * (width - arm) / 2, depth / 2, (foot + arm_top) / 2)
        if slim:
            x = s * (width - arm) / 2
            piece.add(
                wood, block((x - arm / 2, x + arm / 2), (0.02, depth - 0.02), (arm_top - 0.035, arm_top))
            )
            piece.add(
                wood, *(block((x - 0.02, x + 0.02), (y, y + 0.04), (0, arm_top)) for y in (0.06, depth - 0.1))
            )
        else:
            piece.add(cloth, cushion(centre, (arm, depth, arm_top - foot), 0.06, 4), smooth=True)
            for y in (0.07, depth - 0.07):
                piece.add(wood, cylinder((s * (width / 2 - 0.07), y, 0), 0.025, foot + 0.02))
    for k in range(seats):
        x = -width / 2 + arm + seat_width * (k + 0.5)
        middle = (x, depth / 2 + 0.1, foot + 0.2 + (seat_top - foot - 0.2) / 2)
        piece.add(
            cloth,
            cushion(middle, (seat_width - 0.012, depth - 0.2, seat_top - foot - 0.2), 0.05, 4),
            smooth=True,
        )
    wanted = int(rng.integers(0, seats + 1)) if seats > 1 else int(rng.random() < 0.5)
    for k in rng.permutation(seats)[:wanted]:
        x = -width / 2 + arm + seat_width * (int(k) + 0.5) + rng.normal(0, 0.03)
        piece.children.append((scatter_cushion(palette), Pose(float(x), 0.222, seat_top + 0.002)))
    return piece


def block_sofa(palette: Palette) -> Piece:
    """Two or three seats, padded arms."""
    return _sofa(palette, int(palette.rng.integers(2, 4)), "block sofa")


def slim_sofa(palette: Palette) -> Piece:
    """Two or three seats on a wooden frame with open arms."""
    return _sofa(palette, int(palette.rng.integers(2, 4)), "slim sofa")


def armchair(palette: Palette) -> Piece:
    """One padded seat."""
    return _sofa(palette, 1, "armchair")


def corner_sofa(palette: Palette) -> Piece:
    """A three-seat sofa with a long seat at one end."""
    piece = _sofa(palette, 3, "corner sofa")
    cloth = piece.parts[0].material
    _, high = piece.extent()
    side, length = float(palette.rng.choice([-1, 1])), 0.7
    x = side * (high[0] - 0.36)
    middle = (x, high[1] + length / 2, 0.2)
    piece.add(cloth, cushion(middle, (0.72, length, 0.22), 0.05), smooth=True)
    piece.add(cloth, cushion((x, middle[1], 0.37), (0.7, length, 0.14), 0.05), smooth=True)
    piece.add(palette.black, cylinder((x + side * 0.25, high[1] + length - 0.1, 0), 0.025, 0.1))
    return piece


# ----------------------------------------------------------------------------------------------- beds


def _mattress_and_covers(
    piece: Piece, palette: Palette, width: float, y0: float, length: float, base: float
) -> None:
    """Mattress, blanket and pillows on a frame whose top is ``base``."""
    rng = palette.rng
    top = base + 0.2
    piece.add(
        palette.linen(), cushion((0, y0 + length / 2, base + 0.1), (width, length, 0.2), 0.05), smooth=True
    )
    cover = float(rng.uniform(0.5, 0.72)) * length
    blanket = palette.new_cloth() if rng.random() < 0.6 else palette.linen()
    middle = (0, y0 + length - cover / 2 + 0.02, base + 0.125)
    piece.add(blanket, cushion(middle, (width + 0.06, cover, 0.25), 0.06, 4), smooth=True)
    if rng.random() < 0.5:  # a folded throw across the foot
        throw = (0, y0 + length - rng.uniform(0.25, 0.5), base + 0.135)
        piece.add(
            palette.cloth(),
            cushion(throw, (width + 0.075, rng.uniform(0.3, 0.5), 0.26), 0.05, 4),
            smooth=True,
        )
    columns = (-width / 4, width / 4) if width > 1.2 else (0.0,)
    for x in columns:
        if rng.random() < 0.92:
            first = bed_pillow(palette)
            piece.children.append((first, Pose(x, y0 + 0.03, top + 0.002)))
            if rng.random() < 0.35 and length - cover > 0.75:
                front = float(first.extent()[1][1]) + y0 + 0.04
                piece.children.append((scatter_cushion(palette), Pose(x, front, top + 0.002)))


def panel_bed(palette: Palette) -> Piece:
    """A wooden frame with a closed headboard."""
    rng = palette.rng
    piece = Piece("bed", "panel bed", clearance=0.3)
    width, length, wood = float(rng.choice([0.95, 1.4, 1.6])), 2.0, palette.wood()
    head = rng.uniform(0.85, 1.1)
    piece.add(wood, block((-width / 2 - 0.03, width / 2 + 0.03), (0, 0.05), (0, head)))
    piece.add(wood, block((-width / 2 - 0.03, width / 2 + 0.03), (0.05, length + 0.08), (0.15, 0.3)))
    piece.add(
        wood,
        *(
            block((s * width / 2 - 0.035, s * width / 2 + 0.03), (length, length + 0.07), (0, 0.15))
            for s in (-1, 1)
        ),
    )
    if rng.random() < 0.4:
        piece.add(
            wood, block((-width / 2 - 0.03, width / 2 + 0.03), (length + 0.08, length + 0.12), (0.08, 0.55))
        )
    _mattress_and_covers(piece, palette, width, 0.06, length, 0.3)
    return piece


def slatted_bed(palette: Palette) -> Piece:
    """A metal or wooden frame with upright bars at head and foot."""
    rng = palette.rng
    piece = Piece("bed", "slatted bed", clearance=0.3)
    width, length = float(rng.choice([0.95, 1.4])), 2.0
    bar = palette.metal() if rng.random() < 0.6 else palette.wood()
    for y, height in ((0.025, rng.uniform(0.95, 1.15)), (length + 0.09, rng.uniform(0.55, 0.75))):
        for x in (-width / 2, width / 2):
            piece.add(bar, rod((x, y, 0), (x, y, height), 0.022))
        piece.add(bar, rod((-width / 2, y, height - 0.02), (width / 2, y, height - 0.02), 0.018))
        count = int(width / 0.14)
        for k in range(1, count):
            x = -width / 2 + width * k / count
            piece.add(bar, rod((x, y, 0.3), (x, y, height - 0.02), 0.01, 8))
    piece.add(bar, block((-width / 2, width / 2), (0.03, length + 0.08), (0.26, 0.32)))
    _mattress_and_covers(piece, palette, width, 0.06, length, 0.32)
    return piece


def upholstered_bed(palette: Palette) -> Piece:
    """A padded box bed with a thick headboard."""
    rng = palette.rng
    piece = Piece("bed", "upholstered bed", clearance=0.3)
    width, length, cloth = float(rng.choice([1.4, 1.6, 1.8])), 2.0, palette.cloth()
    count = 4
    for k in range(count):  # tufted panels
        x = -width / 2 + width * (k + 0.5) / count
        piece.add(cloth, cushion((x, 0.06, 0.58), (width / count, 0.12, 1.1), 0.05, 4), smooth=True)
    piece.add(
        cloth, cushion((0, length / 2 + 0.13, 0.19), (width + 0.06, length + 0.04, 0.26), 0.04), smooth=True
    )
    piece.add(palette.black, block((-width / 2 + 0.1, width / 2 - 0.1), (0.2, length), (0, 0.08)))
    _mattress_and_covers(piece, palette, width, 0.13, length - 0.02, 0.31)
    return piece


def platform_bed(palette: Palette) -> Piece:
    """A low platform wider than its mattress, without a headboard."""
    rng = palette.rng
    piece = Piece("bed", "platform bed", clearance=0.3)
    width, length, wood = float(rng.choice([1.4, 1.6])), 2.0, palette.wood()
    piece.add(wood, block((-width / 2 - 0.15, width / 2 + 0.15), (0, length + 0.16), (0.12, 0.22)))
    piece.add(palette.black, block((-width / 2 + 0.1, width / 2 - 0.1), (0.2, length - 0.1), (0, 0.12)))
    _mattress_and_covers(piece, palette, width, 0.04, length, 0.22)
    return piece
