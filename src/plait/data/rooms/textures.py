"""Surfaces: procedural textures (linear albedo), and the calm palette that the things of one room share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Texture = NDArray[np.float32]
"""Linear reflectance ``[height, width, 3]`` in [0, 1], periodic unless it is a picture."""


@dataclass(frozen=True, eq=False)
class Material:
    """What a surface looks like.

    Attributes:
        texture: Linear reflectance, or the picture that an emitting surface shows.
        repeat: Length of one repeat in units of the mesh's texture coordinates (metres, or 1 for a picture).
        density: Pixels of the atlas per unit of texture coordinate.
        roughness: In [0, 1].
        metallic: 0 or 1.
        emission: Radiance of a lamp, window or screen; 0 for everything else.
    """

    texture: Texture
    repeat: float = 1.0
    density: float = 90.0
    roughness: float = 0.9
    metallic: float = 0.0
    emission: float = 0.0

    @property
    def flat(self) -> bool:
        """Whether it is of one colour."""
        return self.texture.shape[:2] == (1, 1)


def colour(hue: float, saturation: float, value: float) -> Texture:
    """Hue, saturation and value, each in [0, 1], as RGB ``[3]``."""
    sector = int(hue * 6) % 6
    f = hue * 6 - int(hue * 6)
    p, q, t = value * (1 - saturation), value * (1 - f * saturation), value * (1 - (1 - f) * saturation)
    rgb = (
        (value, t, p),
        (q, value, p),
        (p, value, t),
        (p, q, value),
        (t, p, value),
        (value, p, q),
    )[sector]
    return np.array(rgb, np.float32)


def noise(
    rng: np.random.Generator, size: int = 128, power: float = 1.8, stretch: tuple[float, float] = (1, 1)
) -> Texture:
    """Periodic noise ``[size, size]`` in [0, 1] with amplitude 1 / frequency ** power.

    ``stretch`` multiplies the frequencies along x and y: a large value makes the noise smooth along it.
    """
    fx, fy = np.fft.fftfreq(size)[None, :] * stretch[0], np.fft.fftfreq(size)[:, None] * stretch[1]
    frequency = np.sqrt(fx**2 + fy**2)
    frequency[0, 0] = np.inf
    spectrum = rng.standard_normal((size, size)) + 1j * rng.standard_normal((size, size))
    field = np.fft.ifft2(spectrum * frequency**-power).real
    low, high = np.percentile(field, [1, 99])
    scaled: Texture = np.clip((field - low) / (high - low + 1e-9), 0, 1).astype(np.float32)
    return scaled


def mix(first: ArrayLike, second: ArrayLike, share: Texture) -> Texture:
    """Blends two colours or textures; ``share`` ``[height, width]`` is the second's part."""
    share = share[..., None]
    mixed: Texture = (np.asarray(first) * (1 - share) + np.asarray(second) * share).astype(np.float32)
    return mixed


def _shade(rgb: ArrayLike, factor: NDArray[np.floating]) -> Texture:
    shaded: Texture = (np.asarray(rgb) * factor[..., None]).astype(np.float32)
    return shaded


def wood(rng: np.random.Generator, tone: Texture, size: int = 128) -> Texture:
    """Boards with a soft grain along u."""
    grain = 0.5 + 0.5 * np.sin(14 * noise(rng, size, 1.9, (3.0, 0.5)))
    return mix(tone * 0.78, tone * 1.1, 0.3 * grain + 0.7 * noise(rng, size, 1.3, (6.0, 0.35)))


def parquet(rng: np.random.Generator, tone: Texture, size: int = 256) -> Texture:
    """A floor of staggered planks."""
    board, out = wood(rng, tone, size), np.empty((size, size, 3), np.float32)
    strips = int(rng.integers(6, 10))
    for strip in range(strips):
        a, b = size * strip // strips, size * (strip + 1) // strips
        joint = int(rng.integers(size))
        plank = np.roll(board, int(rng.integers(size)), 0)[:, a:b]
        light = np.full(size, rng.uniform(0.9, 1.06))
        light[: size // 2] = rng.uniform(0.9, 1.06)
        out[:, a:b] = plank * np.roll(light, joint)[:, None, None]
        out[:, a : a + 2] *= 0.72
        out[[joint, (joint + size // 2) % size], a:b] *= 0.72
    return out


def herringbone(rng: np.random.Generator, tone: Texture, size: int = 256) -> Texture:
    """A floor of short boards laid in zigzag."""
    y, x = np.mgrid[:size, :size]
    cell = size // 8
    column = x // cell
    along = y + np.where(column % 2 == 0, x % cell, cell - x % cell)
    row = (along // (cell // 2)) % 16
    light = rng.uniform(0.86, 1.08, (16, 8))[row, column]
    seam = np.where((along % (cell // 2) < 1) | (x % cell < 1), 0.75, 1.0)
    return _shade(tone, light * seam * (0.9 + 0.15 * noise(rng, size, 1.2)))


def tiles(rng: np.random.Generator, tone: Texture, size: int = 256) -> Texture:
    """Square tiles with grout, of one colour or chequered."""
    count = 4
    y, x = np.mgrid[:size, :size] * count // size
    other = tone * (rng.uniform(0.72, 0.9) if rng.random() < 0.35 else 0.97)
    out = mix(tone, other, ((x + y) % 2).astype(np.float32))
    out = _shade(out, 0.93 + 0.1 * noise(rng, size))
    grout = np.arange(size) % (size // count) < 3
    out[grout] = out[:, grout] = tone * 0.62
    return out


def fabric(rng: np.random.Generator, tone: Texture, size: int = 128, pattern: bool = True) -> Texture:
    """Woven cloth, sometimes with quiet stripes or checks of a neighbouring tone."""
    y, x = np.mgrid[:size, :size] * (2 * np.pi / size)
    weave = 0.5 + 0.25 * np.sin(32 * x) + 0.25 * np.sin(32 * y)
    light = 0.87 + 0.1 * weave + 0.1 * noise(rng, size, 1.0)
    out = _shade(tone, light)
    if pattern and rng.random() < 0.3:
        bands = int(rng.integers(2, 7))
        share = (np.sin(bands * x) > rng.uniform(0, 0.7)).astype(np.float32)
        if rng.random() < 0.35:
            share = np.maximum(share, 0.6 * (np.sin(bands * y) > 0.5).astype(np.float32))
        second = np.clip(tone * rng.uniform(0.55, 0.8) if rng.random() < 0.6 else 0.5 + tone * 0.5, 0, 0.9)
        out = mix(out, _shade(second, light), 0.75 * share)
    return out


def plaster(rng: np.random.Generator, tone: Texture, size: int = 128) -> Texture:
    """A painted wall; sometimes wallpaper with faint stripes."""
    out = _shade(tone, 0.96 + 0.06 * noise(rng, size, 1.2))
    if rng.random() < 0.2:
        stripe = (np.sin(np.arange(size) * (2 * np.pi * int(rng.integers(4, 9)) / size)) > 0) * 1.0
        # the v axis of a wall runs along it
        out *= (1 - rng.uniform(0.04, 0.1) * stripe)[:, None, None].astype(np.float32)
    return out


def bricks(rng: np.random.Generator, tone: Texture, size: int = 128) -> Texture:
    """Bricks; rows run along v, as walls are mapped."""
    v, u = np.mgrid[:size, :size]
    row = u * 8 // size
    along = (v + (row % 2) * (size // 8)) % size
    mortar = (u % (size // 8) < 2) | (along % (size // 4) < 2)
    light = rng.uniform(0.8, 1.08, (8, 4))[row, along * 4 // size] * (0.86 + 0.2 * noise(rng, size, 0.8))
    return np.where(mortar[..., None], 0.55, _shade(tone, light)).astype(np.float32)


def carpet(rng: np.random.Generator, tone: Texture, second: Texture, size: int = 192) -> Texture:
    """A rug's picture: plain with a border, concentric, stripes or diamonds."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    square, circle = np.maximum(abs(x), abs(y)), np.hypot(x, y)
    kind = int(rng.integers(5))
    share = [
        (abs(square - 0.42) < 0.025) * 1.0,
        (np.sin(circle * rng.uniform(18, 40)) > 0.2) * 1.0,
        (np.sin(y * rng.uniform(20, 50)) > rng.uniform(0, 0.6)) * 1.0,
        (np.sin(26 * (x + y)) * np.sin(26 * (x - y)) > 0) * 1.0,
        (abs(square - 0.38) < 0.05) * 1.0 + (square < 0.28) * 0.4 * noise(rng, size, 1.0),
    ][kind]
    return _shade(mix(tone, second, 0.8 * share.astype(np.float32)), 0.84 + 0.2 * noise(rng, size, 0.4))


def painting(rng: np.random.Generator, hues: Sequence[float], size: int = 128) -> Texture:
    """A picture for a frame or a screen: landscape, shapes, clouds of colour, or a still life."""
    kind = int(rng.integers(4))
    first = colour(hues[0], rng.uniform(0.15, 0.45), rng.uniform(0.5, 0.85))
    second = colour(hues[1 % len(hues)], rng.uniform(0.15, 0.55), rng.uniform(0.15, 0.5))
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    if kind == 0:
        out = mix(colour(0.58, 0.3, 0.85), colour(0.1, 0.2, 0.9), y.astype(np.float32))
        for ridge in range(3):
            line = 0.35 + 0.16 * ridge + 0.25 * (noise(rng, size, 1.9)[0] - 0.5)
            hill = colour(0.25 + 0.12 * rng.random(), 0.35, 0.45 - 0.12 * ridge)
            out = mix(out, hill, (y > line[None]).astype(np.float32))
    elif kind == 1:
        out = np.broadcast_to(np.float32(0.5) + first * np.float32(0.5), (size, size, 3)).copy()
        for _ in range(int(rng.integers(3, 8))):
            (cx, cy), radius = rng.uniform(0.15, 0.85, 2), rng.uniform(0.06, 0.28)
            shape = np.hypot(x - cx, y - cy) if rng.random() < 0.5 else np.maximum(abs(x - cx), abs(y - cy))
            tone = colour(hues[int(rng.integers(len(hues)))], rng.uniform(0.1, 0.6), rng.uniform(0.15, 0.8))
            out[shape < radius] = tone
    elif kind == 2:
        out = mix(first, second, noise(rng, size, 1.9))
    else:
        out = mix(
            second * 0.8, first, np.clip(1.4 - 2 * np.hypot(x - 0.5, y - 0.45), 0, 1).astype(np.float32)
        )
        out[y > 0.68] *= 0.55
        for _ in range(4):
            cx, radius = rng.uniform(0.25, 0.75), rng.uniform(0.06, 0.13)
            tone = colour(hues[int(rng.integers(len(hues)))], 0.5, rng.uniform(0.3, 0.7))
            ball = np.hypot(x - cx, y - (0.7 - radius)) / radius
            out = np.where((ball < 1)[..., None], tone * (1.15 - 0.6 * ball[..., None]), out)
    return np.clip(out, 0.02, 0.95).astype(np.float32)


def outdoors(rng: np.random.Generator, size: int = 128) -> Texture:
    """What a window shows: sky, clouds, and trees or houses."""
    y = np.linspace(0, 1, size, dtype=np.float32)[:, None].repeat(size, 1)
    hour = rng.random()
    zenith, horizon = (colour(0.58, 0.42, 0.8), colour(0.56, 0.1, 0.95)) if hour < 0.7 else (
        colour(0.6, 0.25, 0.7), colour(0.08, 0.3, 0.95)
    )  # fmt: skip
    sky = mix(zenith, horizon, y)
    sky = mix(sky, (0.95, 0.95, 0.95), np.clip(noise(rng, size, 1.7) * 1.6 - 0.8, 0, 1))
    if rng.random() < 0.4:
        edges = np.sort(rng.integers(0, size, 6))
        roofs = rng.uniform(0.35, 0.75, 7)[np.searchsorted(edges, np.arange(size))]
        tone = colour(rng.uniform(0.02, 0.12), rng.uniform(0.1, 0.35), rng.uniform(0.25, 0.5))
        panes = np.sin(np.arange(size) * 0.4)[:, None] * np.sin(np.arange(size) * 0.4)[None] > 0.35
        houses = _shade(tone, np.where(panes, 0.6, 1.0))
        sky = mix(sky, houses, (y > roofs[None]).astype(np.float32))
    line = 0.6 + 0.25 * noise(rng, size, 1.7)[3]
    trees = _shade(colour(0.27, 0.42, 0.32), 0.5 + 0.8 * noise(rng, size, 0.9))
    return np.clip(mix(sky, trees, (y > line[None]).astype(np.float32)), 0.02, 1)


# --------------------------------------------------------------------------------------------- palette

_WALLS = (
    (0.10, 0.05, 0.80), (0.10, 0.12, 0.74), (0.08, 0.16, 0.66), (0.58, 0.08, 0.72), (0.58, 0.18, 0.58),
    (0.33, 0.10, 0.62), (0.28, 0.16, 0.50), (0.02, 0.12, 0.68), (0.12, 0.22, 0.70), (0.0, 0.0, 0.60),
    (0.55, 0.22, 0.42), (0.0, 0.0, 0.82),
)  # fmt: skip
_WOODS = (
    (0.085, 0.42, 0.52), (0.075, 0.50, 0.36), (0.060, 0.55, 0.20), (0.095, 0.30, 0.62), (0.050, 0.58, 0.27),
    (0.080, 0.18, 0.42), (0.070, 0.45, 0.12),
)  # fmt: skip
_CLOTHS = (
    (0.0, 0.0, 0.30), (0.0, 0.0, 0.55), (0.10, 0.18, 0.60), (0.08, 0.30, 0.40), (0.60, 0.30, 0.26),
    (0.57, 0.25, 0.45), (0.35, 0.22, 0.34), (0.22, 0.25, 0.40), (0.03, 0.38, 0.40), (0.95, 0.22, 0.45),
    (0.12, 0.45, 0.52), (0.62, 0.12, 0.14), (0.50, 0.25, 0.32),
)  # fmt: skip


class Palette:
    """The materials of one room: a few woods, cloths and paints that go together.

    Everything is drawn from the generator given, so that a room depends on its seed only.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.hues = [float(rng.uniform(0, 1)), float(rng.uniform(0.02, 0.14)), float(rng.uniform(0.5, 0.65))]
        self._woods = [self.new_wood() for _ in range(2)]
        self._cloths = [self.new_cloth() for _ in range(3)]
        self._metal = self.flat((rng.uniform(0.25, 0.6),) * 3, roughness=rng.uniform(0.2, 0.4), metallic=1.0)
        self._books = [self.accent() for _ in range(7)]
        self.white = self.flat((rng.uniform(0.68, 0.8),) * 3, roughness=0.45)
        self.black = self.flat((0.03, 0.03, 0.03), roughness=0.35)
        self.board = self.flat(colour(0.075, rng.uniform(0.35, 0.45), rng.uniform(0.38, 0.5)))

    def _pick(self, tones: Sequence[tuple[float, float, float]], spread: float = 0.08) -> Texture:
        hue, saturation, value = tones[int(self.rng.integers(len(tones)))]
        return colour(
            (hue + self.rng.normal(0, 0.01)) % 1,
            float(np.clip(saturation * self.rng.uniform(0.8, 1.2), 0, 1)),
            float(np.clip(value * (1 + self.rng.uniform(-spread, spread)), 0.03, 0.88)),
        )

    def flat(
        self, rgb: ArrayLike, *, roughness: float = 0.6, metallic: float = 0.0, emission: float = 0.0
    ) -> Material:
        """A surface of one colour."""
        texture = np.clip(np.asarray(rgb, np.float32).reshape(1, 1, 3), 0.01, 1.0)
        return Material(texture, roughness=roughness, metallic=metallic, emission=emission)

    def picture(self, texture: Texture, *, roughness: float = 0.7, emission: float = 0.0) -> Material:
        """A texture stretched once over a surface."""
        return Material(texture, 1.0, float(texture.shape[0]), roughness, 0.0, emission)

    def new_wood(self) -> Material:
        return Material(
            wood(self.rng, self._pick(_WOODS)), repeat=0.8, roughness=float(self.rng.uniform(0.35, 0.6))
        )

    def new_cloth(self) -> Material:
        return Material(fabric(self.rng, self._pick(_CLOTHS)), repeat=0.5)

    def wood(self) -> Material:
        """Wood of the room, or white paint now and then."""
        return self.white if self.rng.random() < 0.18 else self._woods[int(self.rng.integers(2))]

    def cloth(self) -> Material:
        """Upholstery of the room."""
        return self._cloths[int(self.rng.integers(3))]

    def linen(self) -> Material:
        """Bed linen: light, plain."""
        tone = colour(self.hues[1], float(self.rng.uniform(0, 0.12)), float(self.rng.uniform(0.6, 0.78)))
        return Material(fabric(self.rng, tone, pattern=False), repeat=0.5)

    def metal(self) -> Material:
        return self._metal if self.rng.random() < 0.6 else self.black

    def accent(self) -> Material:
        """A stronger colour for a small thing."""
        hue = self.hues[int(self.rng.integers(3))] + self.rng.normal(0, 0.05)
        return self.flat(
            colour(hue % 1, float(self.rng.uniform(0.1, 0.55)), float(self.rng.uniform(0.12, 0.7))),
            roughness=0.5,
        )

    def book(self) -> Material:
        return self._books[int(self.rng.integers(7))]

    def glow(self, radiance: float) -> Material:
        """A lamp shade, warm white; switched off at radiance 0."""
        return self.flat(colour(0.09, float(self.rng.uniform(0.08, 0.3)), 0.9), emission=radiance)

    def wall(self) -> Material:
        if self.rng.random() < 0.05:
            return Material(bricks(self.rng, colour(0.03, 0.42, 0.42)), repeat=1.0)
        return Material(plaster(self.rng, self._pick(_WALLS)), repeat=1.6, density=60.0)

    def floor(self) -> Material:
        rng = self.rng
        kind = int(rng.integers(5))
        roughness = float(rng.uniform(0.35, 0.65))
        if kind <= 1:
            return Material(
                parquet(rng, self._pick(_WOODS[:6])), repeat=1.4, density=110, roughness=roughness
            )
        if kind == 2:
            return Material(
                herringbone(rng, self._pick(_WOODS[:5])), repeat=1.2, density=110, roughness=roughness
            )
        if kind == 3:
            tone = colour(0.09, float(rng.uniform(0, 0.15)), float(rng.uniform(0.4, 0.7)))
            return Material(tiles(rng, tone), repeat=1.8, density=90, roughness=roughness)
        return Material(fabric(rng, self._pick(_CLOTHS), pattern=False), repeat=0.8, density=90)

    def rug(self) -> Material:
        return self.picture(carpet(self.rng, self._pick(_CLOTHS), self._pick(_CLOTHS)), roughness=0.95)

    def art(self) -> Material:
        return self.picture(painting(self.rng, self.hues), roughness=float(self.rng.choice([0.3, 0.9])))

    def foliage(self) -> Material:
        tone = colour(float(self.rng.uniform(0.24, 0.36)), float(self.rng.uniform(0.4, 0.6)), 0.24)
        return Material(mix(tone * 0.6, tone * 1.3, noise(self.rng, 32)), repeat=0.3, roughness=0.5)
